"""Builds a Layout out of Linux namespaces. Everything lives in namespaces that only this process tree holds: it needs no privilege where user
namespaces are allowed, changes no setting outside, and is gone with the last process, however that ends."""
import ctypes
import json
import os
import shutil
import subprocess

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_REC, MS_PRIVATE, MS_BIND, MS_NOSUID, MS_NODEV, MS_NOEXEC = 0x4000, 0x40000, 0x1000, 2, 4, 8
PR_SET_PDEATHSIG = 1
libc = ctypes.CDLL(None, use_errno=True)

# In memory of our own mount namespace. Ranks get a /dev/shm of their own with it, so what they leave there is gone too.
STATE = "/dev/shm/moeplan"
# Of each rank's namespace. The congestion control is no sysctl: it stands on the route, and a socket may set its own (TCP_CONGESTION). The receive
# buffer is more than the route's window needs, and does not grow: growing, it would take the window along.
SYSCTLS = {"net/ipv4/tcp_slow_start_after_idle": "0", "net/ipv4/tcp_no_metrics_save": "1", "net/ipv4/tcp_moderate_rcvbuf": "0",
           "net/ipv4/tcp_rmem": "4096 8388608 8388608", "net/ipv4/tcp_early_retrans": "0"}
CONGESTION = "cubic"
# Where the kernel has them: no IPv6 chatter, no second address answered for, no packet filter on bridges.
SYSCTLS_IF_THERE = {"net/ipv6/conf/all/disable_ipv6": "1", "net/ipv6/conf/default/disable_ipv6": "1", "net/ipv4/conf/all/arp_ignore": "1",
                    "net/ipv4/conf/all/arp_announce": "2", "net/bridge/bridge-nf-call-iptables": "0",
                    "net/bridge/bridge-nf-call-arptables": "0"}


class Refused(Exception):
    """The kernel forbids a step."""

    def __init__(self, step, reason):
        super().__init__(f"{step}: {reason}")


class Missing(Exception):
    """A program is not installed: nothing that the kernel forbids, and nothing to skip tests for."""

    def __init__(self, name, package):
        super().__init__(f"the program {name} is not installed (apt-get install {package}, or tools/check, which does it)")


def call(step, function, *arguments):
    if function(*arguments) != 0:
        raise Refused(step, os.strerror(ctypes.get_errno()))


def unshare(flags, step):
    call(step, libc.unshare, flags)


def enter(fd, kind=CLONE_NEWNET):
    call("enter a namespace", libc.setns, fd, kind)


def mount(source, target, kind, flags, step, data=None):
    call(step, libc.mount, source and source.encode(), target.encode(), kind and kind.encode(), flags, data and data.encode())


def die_with_parent(signal):
    call("die with the parent", libc.prctl, PR_SET_PDEATHSIG, int(signal), 0, 0, 0)


def sethostname(name):
    libc.sethostname(name.encode(), len(name))


def _ranges(name):
    """The ids that this user namespace has, each mapped to itself."""
    with open(f"/proc/self/{name}", encoding="ascii") as f:
        return "".join(f"{first} {first} {count}\n" for first, _, count in (line.split() for line in f))


def enter_user_and_pid():
    """Into a user namespace of our own, where we are root; the next child starts a process namespace. Root keeps all ids, so that it can
    read what it could read before; anybody else becomes root, with its own id behind it. Root goes without where it is not allowed."""
    uid, gid = os.geteuid(), os.getegid()
    maps = {name: _ranges(name) for name in ("uid_map", "gid_map")} if uid == 0 else {}
    ready, go = os.pipe()
    writer = 0
    if maps:  # only a process outside may map more than one id
        writer = os.fork()
        if writer == 0:
            os.close(go)
            os.read(ready, 1)
            try:
                for name, text in maps.items():
                    with open(f"/proc/{os.getppid()}/{name}", "w", encoding="ascii") as f:
                        f.write(text)
            except OSError:
                pass
            os._exit(0)
    os.close(ready)
    try:
        unshare(CLONE_NEWUSER, "create a user namespace")
        in_user = True
    except Refused:
        in_user = False
        if uid != 0:
            raise
    finally:
        os.close(go)
        if writer:
            os.waitpid(writer, 0)
    if in_user:
        with open("/proc/self/uid_map", encoding="ascii") as f:
            is_mapped = f.read() != ""
        if not is_mapped:
            try:
                for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
                    with open("/proc/self/" + name, "w", encoding="ascii") as f:
                        f.write(text)
            except OSError as e:
                raise Refused(f"map this user into the user namespace ({name})", e.strerror) from e
    unshare(CLONE_NEWPID, "create a process namespace")


def private_mounts():
    """First thing as process 1: our own mounts, and a /proc that shows our processes (where that is refused, the old one still serves)."""
    unshare(CLONE_NEWNS, "create a mount namespace")
    mount("none", "/", None, MS_REC | MS_PRIVATE, "keep mounts to ourselves")
    try:
        mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mount /proc")
    except Refused:
        pass


def program(name):
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if path is None:
        raise Missing(name, "iproute2")
    return path


def _sysctl(key, value, is_needed):
    try:
        with open("/proc/sys/" + key, "w", encoding="ascii") as f:
            f.write(value)
    except OSError as e:
        if is_needed:
            raise Refused(f"set {key.replace('/', '.')} in a network namespace", e.strerror) from e


def _new_network(settings):
    unshare(CLONE_NEWNET, "create a network namespace")
    for key, value in {**SYSCTLS, **settings}.items():
        _sysctl(key, value, True)
    for key, value in SYSCTLS_IF_THERE.items():
        _sysctl(key, value, False)
    return os.open("/proc/self/ns/net", os.O_RDONLY)


def _congestion():
    """The congestion control of connections whose programs ask for none; None where this kernel has it not, and the machine's own stays."""
    with open("/proc/sys/net/ipv4/tcp_available_congestion_control", encoding="ascii") as f:
        return CONGESTION if CONGESTION in f.read().split() else None


class Batch:
    """`ip -batch` or `tc -batch` on lines, in a namespace, in the background."""

    def __init__(self, name, lines, netns):
        self.name, self.lines = name, list(lines)
        self.process = None
        if self.lines:
            text = "\n".join(self.lines) + "\n"
            source = os.memfd_create("batch")
            os.write(source, text.encode())
            os.lseek(source, 0, os.SEEK_SET)
            enter(netns)  # the child inherits it
            self.process = subprocess.Popen([program(name), "-batch", "-"], stdin=source, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            os.close(source)

    def wait(self):
        if self.process is None:
            return
        errors = self.process.communicate()[1].decode(errors="replace").strip()
        if self.process.returncode == 0:
            return
        reason, where = errors, ""
        for line in errors.splitlines():
            if line.startswith("Command failed -:"):
                number = line.split(":")[1].split()[0]
                where = self.lines[int(number) - 1]
            elif not where:
                reason = line
        raise Refused(f"{self.name} {where}".rstrip(), reason.removeprefix("Error: ") or f"exit {self.process.returncode}")


def build(layout, extra_files):
    """Makes the cluster and describes it in STATE. Leaves us in the switch's network namespace; returns nothing: attach() reads STATE."""
    unshare(CLONE_NEWIPC, "create an IPC namespace")
    unshare(CLONE_NEWUTS, "create a host name")
    shm = os.path.dirname(STATE)
    mount("tmpfs", shm, "tmpfs", MS_NOSUID | MS_NODEV, f"mount memory on {shm}", "mode=1777")
    os.mkdir(STATE)
    switch = _new_network({})
    ranks = [_new_network(layout.rank_settings(r)) for r in range(layout.n_ranks)]
    for name, fd in [("switch", switch)] + [(f"rank{r}", fd) for r, fd in enumerate(ranks)]:
        path = os.path.join(STATE, name)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o444))
        mount(f"/proc/self/fd/{fd}", path, None, MS_BIND, "name a network namespace")
    Batch("ip", layout.links(lambda r: os.path.join(STATE, f"rank{r}")), switch).wait()
    batches = [Batch("tc", layout.switch_shaping(), switch)]
    congestion = _congestion()
    batches += [Batch("ip", layout.rank_links(r, congestion), ranks[r]) for r in range(layout.n_ranks)]
    for batch in batches:
        batch.wait()
    for batch in [Batch("tc", layout.rank_shaping(r), ranks[r]) for r in range(layout.n_ranks)]:
        batch.wait()
    enter(switch)
    files = {"hosts": layout.hosts(), "cluster.json": json.dumps({"environment": [layout.environment(r) for r in range(layout.n_ranks)]}),
             "etc-hosts": "127.0.0.1 localhost\n" + "".join(f"{layout.address(r)} rank{r}\n" for r in range(layout.n_ranks))}
    files.update(extra_files)
    for name, text in files.items():
        with open(os.path.join(STATE, name), "w", encoding="utf-8") as f:
            f.write(text)
    if os.path.exists("/etc/hosts"):
        mount(os.path.join(STATE, "etc-hosts"), "/etc/hosts", None, MS_BIND, "give the ranks names")
    for fd in [switch] + ranks:
        os.close(fd)


class Cluster:
    """What a run needs to know of a built cluster."""

    def __init__(self):
        with open(os.path.join(STATE, "cluster.json"), encoding="utf-8") as f:
            self.environment = json.load(f)["environment"]
        self.n_ranks = len(self.environment)
        common = {"MOEPLAN_HOSTS": os.path.join(STATE, "hosts"), "MOEPLAN_CLUSTER": STATE,
                  "MOEPLAN_RSH": os.path.join(os.path.dirname(os.path.abspath(__file__)), "rsh")}
        if os.path.exists(os.path.join(STATE, "topology.yaml")):
            common["MOEPLAN_TOPOLOGY"] = os.path.join(STATE, "topology.yaml")
        for environment in self.environment:
            environment.update(common)
        self.common = common

    def enter_rank(self, rank):
        """The calling process becomes one of the rank's host: its network, its name."""
        fd = os.open(os.path.join(STATE, f"rank{rank}"), os.O_RDONLY)
        enter(fd)
        os.close(fd)
        unshare(CLONE_NEWUTS, "create a host name")
        sethostname(f"rank{rank}")
