"""Starts a command for each rank, passes its output and signals on, and decides when and how the whole thing ends."""
import os
import select
import selectors
import signal
import sys
import time

FORWARDED = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT, signal.SIGWINCH)
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
TIMED_OUT = 124
KILL_AFTER_S = 1.0  # from SIGTERM to SIGKILL
LINE_MAX = 1 << 16
WAITING_MAX = 1 << 20  # of output that its reader does not take; then the ranks wait


def exit_code(status):
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def outcome(code):
    return f"was ended by {signal.Signals(code - 128).name}" if 128 < code < 128 + signal.NSIG else f"ended with {code}"


class Rank:
    def __init__(self, rank, pid):
        self.rank, self.pid = rank, pid
        self.code = self.ended_s = self.cpu_s = None
        self.was_told = None  # "TERM" or "KILL" once we ended it


class Output:
    """Our stdout or stderr. What its reader does not take yet waits here, so that a slow one stops neither signals nor the clock."""

    def __init__(self, fd, selected):
        self.fd, self.selected, self.waiting = fd, selected, bytearray()
        try:
            selected[0].register(fd, selectors.EVENT_WRITE, self)
            selected[0].unregister(fd)
            self.may_block = True
        except OSError:  # a file, or closed
            self.may_block = False

    def write(self, data):
        if not self.may_block:
            write_all(self.fd, data)
        elif data:
            if not self.waiting:
                for selector in self.selected:
                    selector.register(self.fd, selectors.EVENT_WRITE, self)
            self.waiting += data

    def flush(self):
        """Once the selector says so: a pipe then takes this much without blocking."""
        del self.waiting[:os.write(self.fd, self.waiting[:select.PIPE_BUF])]
        if not self.waiting:
            for selector in self.selected:
                selector.unregister(self.fd)


class Stream:
    """One pipe of a rank, written on line by line with the rank in front."""

    def __init__(self, fd, rank, output):
        self.fd, self.prefix, self.output, self.rest = fd, f"[{rank}] ".encode(), output, b""

    def pump(self):
        """False at the end."""
        try:
            data = os.read(self.fd, 1 << 16)
        except BlockingIOError:
            return True
        self.rest += data
        *lines, self.rest = self.rest.split(b"\n")
        if len(self.rest) > LINE_MAX or not data and self.rest:
            lines.append(self.rest)
            self.rest = b""
        self.output.write(b"".join(self.prefix + line + b"\n" for line in lines))
        return bool(data)


def terminal_signals(is_interactive):
    """Those that a terminal sends to the command and to us, and that are not ours to pass on."""
    return (signal.SIGINT, signal.SIGQUIT, signal.SIGWINCH) if is_interactive and os.isatty(0) else ()


def execute(command):
    """Does not come back, but with an exit code as a shell gives it."""
    try:
        os.execvp(command[0], command)
    except OSError as e:
        write_all(2, f"emulate: cannot run {command[0]}: {e.strerror}\n".encode())
        return 126 if os.path.exists(command[0]) else 127


def write_all(fd, data):
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view):]


class Run:
    """One command on every rank of a cluster; or, interactively, once: on options.only, or for a driver beside the ranks. That one has our
    stdin, stdout and stderr, and hears the terminal itself."""

    def __init__(self, cluster, command, options):
        self.cluster, self.command, self.options = cluster, command, options
        self.is_interactive = options.driver or options.only is not None
        self.ranks = {}
        self.selector = selectors.DefaultSelector()
        self.without_ranks = selectors.DefaultSelector()  # for as long as too much output waits
        self.outputs = {fd: Output(fd, (self.selector, self.without_ranks)) for fd in (1, 2)}
        self.signals = []  # that came and were not looked at yet
        self.events = []  # (time, what to do), earliest first
        self.first_failure = None
        self.ended_by = None  # exit code when we end the run ourselves
        self.notes = []

    def note(self, text):
        self.notes.append(text)
        if not self.options.quiet:
            self.outputs[2].write(f"emulate: {text}\n".encode())

    # starting

    def _child(self, rank, out, err):
        for s in range(1, signal.NSIG):
            if s not in (signal.SIGKILL, signal.SIGSTOP) and s not in range(32, 34):
                signal.signal(s, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        if out is not None:
            os.setsid()
            null = os.open("/dev/null", os.O_RDONLY)
            os.dup2(null, 0)
            os.dup2(out, 1)
            os.dup2(err, 2)
        if rank is not None:
            self.cluster.enter_rank(rank)
        os.environ.update(self.cluster.common if rank is None else self.cluster.environment[rank])
        os._exit(execute(self.command))

    def _fork(self, rank, out=None, err=None):
        pid = os.fork()
        if pid == 0:
            try:
                self._child(rank, out, err)
            except BaseException as e:  # never back into the caller's code
                write_all(2, f"emulate: rank {rank}: {e}\n".encode())
            finally:
                os._exit(125)
        return Rank(rank, pid)

    def _start(self):
        for rank in range(self.cluster.n_ranks):
            if self.options.log is not None:
                log = os.open(os.path.join(self.options.log, f"rank-{rank}.log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
                self.ranks[rank] = self._fork(rank, log, log)
                os.close(log)
                continue
            pipes = [os.pipe() for _ in range(2)]
            self.ranks[rank] = self._fork(rank, pipes[0][1], pipes[1][1])
            for to, (read, write) in enumerate(pipes, 1):
                os.close(write)
                os.set_blocking(read, False)
                self.selector.register(read, selectors.EVENT_READ, Stream(read, rank, self.outputs[to]))

    # running

    def _catch(self):
        wake, self.waker = os.pipe()
        for fd in (wake, self.waker):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(self.waker, warn_on_full_buffer=False)
        for s in FORWARDED + ENDING + (signal.SIGCHLD,):
            signal.signal(s, lambda number, _: self.signals.append(number) if number != signal.SIGCHLD else None)
        for s in terminal_signals(self.is_interactive):
            signal.signal(s, signal.SIG_IGN)
        for selector in (self.selector, self.without_ranks):
            selector.register(wake, selectors.EVENT_READ, None)

    def _send(self, number, ranks=None):
        for r in ranks if ranks is not None else self.ranks.values():
            if r.code is None:
                try:
                    os.killpg(r.pid, number)
                except ProcessLookupError:  # not a group yet: just forked
                    try:
                        os.kill(r.pid, number)
                    except ProcessLookupError:
                        pass

    def _at(self, delay_s, action):
        self.events.append((time.monotonic() + delay_s, action))
        self.events.sort(key=lambda e: e[0])

    def _end(self):
        """Asks those that still run to end, and makes them after a while."""
        def make():
            for r in self.ranks.values():
                if r.code is None:
                    r.was_told = "KILL"
            self._send(signal.SIGKILL)
        for r in self.ranks.values():
            if r.code is None:
                r.was_told = r.was_told or "TERM"
        self._send(signal.SIGTERM)
        self._send(signal.SIGCONT)
        self._at(KILL_AFTER_S, make)

    def _time_out(self):
        if self._is_running():
            late = [str(r.rank) for r in self.ranks.values() if r.code is None and r.rank is not None]
            who = f"rank{'s' * (len(late) > 1)} {', '.join(late)}" if late else "the command"
            self.note(f"timeout after {self.options.timeout:g} s: {who} still running")
            if self.ended_by is None and (self.first_failure is None or self.options.keep_going):
                self.ended_by = TIMED_OUT
            self._end()

    def _after_failure(self):
        if self._is_running():
            self._end()

    def _reap(self):
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            r = next((r for r in self.ranks.values() if r.pid == pid), None)
            if r is None:
                continue  # a grandchild whose parent is gone
            r.code, r.ended_s, r.cpu_s = exit_code(status), time.monotonic() - self.started, usage.ru_utime + usage.ru_stime
            if r.code != 0 and self.first_failure is None and r.was_told is None:
                self.first_failure = r
                if not self.is_interactive:
                    self.note(f"rank {r.rank} {outcome(r.code)} after {r.ended_s:.3f} s")
                if not self.options.keep_going:
                    self._at(self.options.grace, self._after_failure)

    def _handle_signals(self):
        while self.signals:
            number = self.signals.pop(0)
            if number in ENDING:
                self.ended_by = 128 + number if self.ended_by is None else self.ended_by
                self._send(number)
                self._at(self.options.grace, self._after_failure)
            else:
                self._send(number)

    def run(self):
        """The exit code."""
        self.started = time.monotonic()
        self._catch()
        if self.is_interactive:
            self.ranks[self.options.only] = self._fork(self.options.only)
        else:
            self._start()
        if self.options.timeout is not None:
            self._at(self.options.timeout, self._time_out)
        for rank, number, delay_s in self.options.inject:
            self._at(delay_s, lambda rank=rank, number=number: self._send(number, [self.ranks[rank]]))
        try:
            while self._is_running():
                wait = max(0, self.events[0][0] - time.monotonic()) if self.events else None
                self._pump(wait)
                while self.events and self.events[0][0] <= time.monotonic():
                    self.events.pop(0)[1]()
                self._handle_signals()
                self._reap()
            self._finish_output()
        except BrokenPipeError:
            return 128 + signal.SIGPIPE
        if self.ended_by is not None:
            return self.ended_by
        return self.first_failure.code if self.first_failure else 0

    def _is_running(self):
        return any(r.code is None for r in self.ranks.values())

    def _pump(self, wait):
        """Moves what can be moved; says whether that was any output."""
        is_full = any(len(o.waiting) > WAITING_MAX for o in self.outputs.values())
        moved = False
        for key, _ in (self.without_ranks if is_full else self.selector).select(wait):
            if key.data is None:
                try:
                    os.read(key.fd, 4096)
                except BlockingIOError:
                    pass
            elif isinstance(key.data, Output):
                if not moved:  # both may be one pipe, which then has room for one of them
                    key.data.flush()
                    moved = True
            elif not key.data.pump():
                self.selector.unregister(key.fd)
                os.close(key.fd)
                moved = True
            else:
                moved = True
        return moved

    def _finish_output(self):
        """What the ranks wrote and nobody read yet. A process that one left behind may hold a pipe open: that is not waited for. Nor, when we
        were told to end, is a reader that does not read."""
        until = time.monotonic() + KILL_AFTER_S
        while True:
            while self._pump(0):
                pass
            self._handle_signals()
            if not any(o.waiting for o in self.outputs.values()) or self.ended_by is not None and time.monotonic() > until:
                return
            self._pump(0.05)

    def report(self, code):
        return {"exit": code, "notes": self.notes,
                "ranks": [{"rank": r.rank, "exit": r.code, "ended_s": round(r.ended_s, 6), "cpu_s": round(r.cpu_s, 6), "told": r.was_told}
                          for r in self.ranks.values() if r.code is not None]}


def complain(text):
    print(f"emulate: {text}", file=sys.stderr, flush=True)
