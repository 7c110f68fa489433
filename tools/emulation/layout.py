"""What an emulated cluster consists of, as text: devices, addresses, rates, and the ip and tc lines that make them.

Nothing here touches the kernel. A topology comes as the "topology" object of `moeplan inspect TOPOLOGY --json`: levels, resources
(one directed capacity each) and GPUs with the resources and groups they use. Rank r is GPU r.

Bridges, all in one namespace (the switch):
  node<n>    the scale-up domain of node n; only ports that serve level 0 alone are on it
  g<l>-<g>   what leaves group g of level l, in front of the group's uplink; where a level has no uplinks its hub is that of the level above
  spine      the last level
A rank's ports are veth pairs l<level> (rank) - r<rank>l<level> (switch), shaped on both ends: out by the rank, in by the switch. A port that
several ranks share has one ifb device for each direction, so<resource> and si<resource>, through which the switch sends their packets.
"""
import math

# Of every full packet of 1514 bytes on the wire TCP carries 1448 (MTU 1500, timestamps on); the shaper counts all 1514.
WIRE, PAYLOAD = 1514, 1448
RANKS_MAX = 250
FIRST_NET = 64  # level l is 10.(64 + l).0.0/16
# What a connection may have on its way (its receiver's window), the largest packet that TCP hands over at once, and what a queue of one peer holds.
# Queues never fill: a lossless fabric drops nothing.
FLIGHT_S, LUMP_S = 0.016, 0.001
FLIGHT_MIN, LUMP_MIN_PACKETS, LUMP_MAX_PACKETS = 32_768, 2, 44
HANDED_OVER_MIN, HANDED_OVER_S = 16_384, 0.003  # what a connection may have in its own machine's queue
# Packets of fewer bytes go first. As few as acknowledgements and control messages have: the tail of a message that overtakes its body is taken for a
# loss of the body by the sender, which then sends some of it again (and is not slowed down: its congestion window is far off).
SMALL_BYTES = 128
SMALL_LIMIT, BULK_LIMIT_MIN, BULK_LIMIT_FLIGHTS = 4_000_000, 4_000_000, 32
CONGESTION_WINDOW, RETRANSMIT_AFTER = 10_000, "2s"  # packets: more than any window
TURNS = 32  # peers (by the low bits of their addresses) that a port serves in turn
SOURCE_BYTE, DESTINATION_BYTE = 15, 19  # of an IPv4 header: the last ones of the addresses


class LayoutError(Exception):
    pass


def automatic_scale(topology):
    """The smallest 1, 2 or 5 x 10^k for which two cores keep up: no port above 1 Gbit/s, no level above 4 Gbit/s for all its ports."""
    rates, sums = [], {}
    for resource in topology["resources"]:
        bits = resource["bytes_per_s"] * 8
        if not resource["is_uplink"]:
            rates.append(bits)
            if resource["direction"] == "out":
                sums[resource["level"]] = sums.get(resource["level"], 0) + bits
    need = max([1.0] + [r / 1e9 for r in rates] + [s / 4e9 for s in sums.values()])
    decade = 10 ** max(0, math.floor(math.log10(need)))
    return next(k * decade for k in (1, 2, 5, 10, 20) if k * decade >= need * (1 - 1e-9))


class Shaper:
    """One direction of a port or an uplink: the rate that payload gets, and what the wire gets for it."""

    def __init__(self, bytes_per_s, scale):
        self.payload = max(1, bytes_per_s // scale)  # bytes/s
        self.wire = -(-self.payload * 8 * WIRE // PAYLOAD)  # bit/s

    @property
    def flight(self):
        """Bytes that one connection may have on its way."""
        return max(FLIGHT_MIN, int(self.payload * FLIGHT_S))

    @property
    def lump_packets(self):
        """Full packets that TCP may hand over as one: few enough for ports to alternate between peers."""
        return max(LUMP_MIN_PACKETS, min(LUMP_MAX_PACKETS, int(self.payload * LUMP_S) // PAYLOAD))

    def lines(self, device, pairs=(), turns=()):
        """A root qdisc: small packets (acknowledgements, control, ARP) first; the rest in queues that have their turns, one for each of `turns` (what
        a filter looks for), or, with rates of their own, one for each (address, Shaper) of `pairs`; what none of these matches in one more."""
        rate = f"{self.wire}bit"
        # What a port lets pass at once beyond its rate is a credit that the topology knows nothing of: three packets, and above 150 Mbit/s as much
        # as passes in a quarter of a millisecond, or the timer costs throughput.
        burst = f"burst {max(4600, self.wire // 32000)} cburst {max(4600, self.wire // 32000)} quantum {self.lump_packets * WIRE}"
        limit = max(BULK_LIMIT_MIN, BULK_LIMIT_FLIGHTS * self.flight)
        small = min(20_000_000, max(8, self.wire // 4))
        rest = min(1_000_000, max(8, self.wire // 8))
        yield f"qdisc add dev {device} root handle 1: htb default 20"
        yield f"class add dev {device} parent 1: classid 1:1 htb rate {rate} ceil {rate} {burst}"
        yield f"class add dev {device} parent 1:1 classid 1:10 htb rate {small}bit ceil {rate} {burst} prio 0"
        yield f"class add dev {device} parent 1:1 classid 1:20 htb rate {rest}bit ceil {rate} {burst} prio 1"
        yield f"qdisc add dev {device} parent 1:10 handle 10: bfifo limit {SMALL_LIMIT}"
        yield f"qdisc add dev {device} parent 1:20 handle 20: bfifo limit {limit}"
        yield f"filter add dev {device} parent 1: protocol ip prio 1 u32 match u16 0x0000 {0xffff - SMALL_BYTES + 1:#06x} at 2 flowid 1:10"
        yield f"filter add dev {device} parent 1: protocol arp prio 2 u32 match u32 0 0 flowid 1:10"
        for k, (address, shaper) in enumerate(pairs):
            minor = f"{0x100 + k:x}"
            ceil = min(shaper.wire, self.wire)
            yield f"class add dev {device} parent 1:1 classid 1:{minor} htb rate {min(rest, ceil)}bit ceil {ceil}bit {burst} prio 1"
            yield f"qdisc add dev {device} parent 1:{minor} handle {minor}: bfifo limit {limit}"
            yield f"filter add dev {device} parent 1: protocol ip prio 3 u32 match ip dst {address}/32 flowid 1:{minor}"
        for k, match in enumerate(turns):
            minor = f"{0x40 + k:x}"
            yield f"class add dev {device} parent 1:1 classid 1:{minor} htb rate {max(8, rest // TURNS)}bit ceil {rate} {burst} prio 1"
            yield f"qdisc add dev {device} parent 1:{minor} handle {minor}: bfifo limit {limit}"
            yield f"filter add dev {device} parent 1: protocol ip prio 4 u32 {match} flowid 1:{minor}"


class Port:
    """One interface of one rank. It serves the levels first..last (several where a level uses the port of the level below)."""

    def __init__(self, rank, first, out_port, in_port):
        self.rank, self.first, self.last = rank, first, first
        self.out_port, self.in_port = out_port, in_port
        self.name = f"l{first}"
        self.switch_name = f"r{rank}l{first}"
        self.address = f"10.{FIRST_NET + first}.{rank // 250}.{rank % 250 + 1}"
        self.bridge = None


class Layout:
    def __init__(self, topology, scale):
        self.scale = scale
        self.levels = topology["levels"]
        self.resources = topology["resources"]
        self.gpus = topology["gpus"]
        self.n_ranks = len(self.gpus)
        if self.n_ranks > RANKS_MAX:
            raise LayoutError(f"{self.n_ranks} GPUs are more ranks than one machine emulates (at most {RANKS_MAX})")
        self.top = len(self.levels) - 1
        self.shapers = [Shaper(r["bytes_per_s"], scale) for r in self.resources]
        self.bridges = []
        self.ports = [self._ports_of(rank) for rank in range(self.n_ranks)]
        self._place()

    def node(self, rank):
        return self.gpus[rank]["group"][0]

    def _needs(self, rank, level):
        """Whether the rank has anyone to talk to at this level: its group there is larger than the one inside."""
        group = self.gpus[rank]["group"]
        return any(g["group"][level] == group[level] and (g is not self.gpus[rank] if level == 0 else g["group"][level - 1] != group[level - 1])
                   for g in self.gpus)

    def _ports_of(self, rank):
        ports, gpu = [], self.gpus[rank]
        for level in range(self.top + 1):
            if not self._needs(rank, level):
                continue
            pair = gpu["out_port"][level], gpu["in_port"][level]
            if ports and (ports[-1].out_port, ports[-1].in_port) == pair:
                ports[-1].last = level
            else:
                ports.append(Port(rank, level, *pair))
        return ports

    def port(self, rank, level):
        """The port that serves the level, or None."""
        return next((p for p in self.ports[rank] if p.first <= level <= p.last and self._needs(rank, level)), None)

    def _hub(self, level, group):
        """The bridge of what leaves group `group` of `level`: its own where the level has uplinks, else the one further out."""
        while level < self.top and not self.levels[level]["uplink_out"]:
            level, group = level + 1, self._outer(level, group)
        return "spine" if level >= self.top else f"g{level}-{group}"

    def _outer(self, level, group):
        return next(g["group"][level + 1] for g in self.gpus if g["group"][level] == group)

    def _place(self):
        """Gives every port its bridge. Where a port of level 0 also serves level 1, the node's scale-up bridge is its hub."""
        joined = {self.node(p.rank) for ports in self.ports for p in ports if p.first == 0 and p.last > 0}
        for ports in self.ports:
            for p in ports:
                node = self.node(p.rank)
                if p.first == 0 and node not in joined:
                    p.bridge = f"node{node}" if self.top > 0 else "spine"
                else:
                    p.bridge = self._hub(0, node)
        self.uplinks = []  # (level, group, inner bridge, outer bridge)
        for level in range(self.top):
            if self.levels[level]["uplink_out"]:
                for group in range(self.levels[level]["groups"]):
                    self.uplinks.append((level, group, f"g{level}-{group}", self._hub(level + 1, self._outer(level, group))))
        wanted = [p.bridge for ports in self.ports for p in ports] + [b for u in self.uplinks for b in u[2:]]
        self.bridges = sorted(set(wanted))
        users = {}
        for ports in self.ports:
            for p in ports:
                for resource in (p.out_port, p.in_port):
                    users.setdefault(resource, set()).add(p.rank)
        self.shared = {r for r, ranks in users.items() if len(ranks) > 1}

    # What is said of it

    def hosts(self):
        """The file that MOEPLAN_HOSTS names."""
        lines = []
        for rank in range(self.n_ranks):
            ports = [self.port(rank, level) for level in range(self.top + 1)]
            lines.append(" ".join([str(rank), str(self.node(rank))] + [p.address if p else "-" for p in ports]))
        return "\n".join(lines) + "\n"

    def address(self, rank):
        """The address of a rank that the others reach, all of them: that of the outermost level."""
        return self.ports[rank][-1].address if self.ports[rank] else "127.0.0.1"

    def environment(self, rank):
        node = self.node(rank)
        mates = [r for r in range(self.n_ranks) if self.node(r) == node]
        return {"MOEPLAN_RANK": str(rank), "MOEPLAN_NRANKS": str(self.n_ranks), "MOEPLAN_NODE": str(node), "RANK": str(rank),
                "WORLD_SIZE": str(self.n_ranks), "LOCAL_RANK": str(mates.index(rank)), "LOCAL_WORLD_SIZE": str(len(mates)),
                "MASTER_ADDR": self.address(0), "MASTER_PORT": "29500"}

    def not_emulated(self):
        if any(v["incast_ppm"] for v in self.levels):
            yield "incast factors: TCP's own behaviour takes their place"

    def describe(self):
        yield f"{self.n_ranks} ranks in {self.levels[0]['groups']} node{'s' * (self.levels[0]['groups'] != 1)}, rates divided by {self.scale}"
        yield "payload Mbit/s = rate of the topology / scale; on the wire x 1514/1448"
        for ports in self.ports:
            for p in ports:
                names = "+".join(self.levels[k]["name"] for k in range(p.first, p.last + 1))
                mark = " shared" if p.out_port in self.shared else ""
                out, into = self.shapers[p.out_port], self.shapers[p.in_port]
                yield (f"rank {p.rank} {names}: {p.address} on {p.bridge}, out {out.payload * 8e-6:.3f} ({out.wire * 1e-6:.3f} on the wire), "
                       f"in {into.payload * 8e-6:.3f} ({into.wire * 1e-6:.3f}){mark}")
        for level, group, inner, outer in self.uplinks:
            out, into = (self.shapers[self.levels[level][k][group]] for k in ("uplink_out", "uplink_in"))
            yield f"uplink {inner} - {outer}: out {out.payload * 8e-6:.3f}, in {into.payload * 8e-6:.3f}"
        for level in self.levels:
            if level["pair_bytes_per_s"]:
                yield f"pairs at {level['name']}: at most {Shaper(level['pair_bytes_per_s'], self.scale).payload * 8e-6:.3f}"
        for text in self.not_emulated():
            yield f"not emulated: {text}"

    # What is done about it

    def links(self, netns_of):
        """Lines of `ip -batch` in the switch's namespace; netns_of(rank) is what ip takes as the name of the rank's namespace."""
        for bridge in self.bridges:
            yield f"link add name {bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0"
            yield f"link set dev {bridge} up"
        for ports in self.ports:
            for p in ports:
                yield f"link add name {p.switch_name} type veth peer name {p.name} netns {netns_of(p.rank)}"
                yield f"link set dev {p.switch_name} master {p.bridge} up"
        for level, group, inner, outer in self.uplinks:
            yield f"link add name u{level}-{group} type veth peer name d{level}-{group}"
            yield f"link set dev u{level}-{group} master {inner} up"
            yield f"link set dev d{level}-{group} master {outer} up"
        for resource in sorted(self.shared):
            name = self._shared_name(resource)
            yield f"link add name {name} type ifb"
            yield f"link set dev {name} up"

    def _shared_name(self, resource):
        return f"s{'i' if self.resources[resource]['direction'] == 'in' else 'o'}{resource}"

    def switch_shaping(self):
        """Lines of `tc -batch` in the switch's namespace."""
        senders, receivers = self._turns(SOURCE_BYTE), self._turns(DESTINATION_BYTE)
        for resource in sorted(self.shared):
            is_in = self.resources[resource]["direction"] == "in"
            yield from self.shapers[resource].lines(self._shared_name(resource), turns=senders if is_in else receivers)
        redirect = "protocol all prio 1 u32 match u32 0 0 action mirred egress redirect dev"
        for ports in self.ports:
            for p in ports:
                if p.out_port in self.shared or p.in_port in self.shared:
                    yield f"qdisc add dev {p.switch_name} clsact"
                if p.out_port in self.shared:
                    yield f"filter add dev {p.switch_name} ingress {redirect} {self._shared_name(p.out_port)}"
                if p.in_port in self.shared:
                    yield f"filter add dev {p.switch_name} egress {redirect} {self._shared_name(p.in_port)}"
                else:
                    yield from self.shapers[p.in_port].lines(p.switch_name, turns=senders)
        for level, group, _, _ in self.uplinks:
            yield from self.shapers[self.levels[level]["uplink_out"][group]].lines(f"u{level}-{group}", turns=self._turns_of_pairs())
            yield from self.shapers[self.levels[level]["uplink_in"][group]].lines(f"d{level}-{group}", turns=self._turns_of_pairs())

    def _turns(self, byte):
        return [f"match u8 {k} {TURNS - 1:#x} at {byte}" for k in sorted({(rank % 250 + 1) % TURNS for rank in range(self.n_ranks)})]

    @staticmethod
    def _turns_of_pairs():
        """For what many senders and receivers share: by low bits of both ends."""
        return [f"match u8 {k % 8} 0x7 at {SOURCE_BYTE} match u8 {k // 8} {TURNS // 8 - 1:#x} at {DESTINATION_BYTE}" for k in range(TURNS)]

    def rank_settings(self, rank):
        """{sysctl: value} of the rank's namespace."""
        fastest = max((self.shapers[p.out_port].payload for p in self.ports[rank]), default=0)
        return {"net/ipv4/tcp_limit_output_bytes": str(max(HANDED_OVER_MIN, int(fastest * HANDED_OVER_S)))}

    def rank_links(self, rank, congestion):
        """Lines of `ip -batch` in the rank's namespace. The route says how connections over the port begin: with a window that the receiver keeps and
        no other (a congestion window that no connection grows into, as nothing is lost), and no retransmission for as long as a queue may last."""
        yield "link set dev lo up"
        for p in self.ports[rank]:
            yield f"addr add {p.address}/16 dev {p.name} noprefixroute"
            yield f"link set dev {p.name} gso_max_segs {self.shapers[p.out_port].lump_packets}"
            yield f"link set dev {p.name} up"
            yield (f"route add 10.{FIRST_NET + p.first}.0.0/16 dev {p.name} proto kernel scope link src {p.address} window {self.shapers[p.in_port].flight} "
                   f"initcwnd {CONGESTION_WINDOW} initrwnd {CONGESTION_WINDOW} rto_min {RETRANSMIT_AFTER}" + (f" congctl {congestion}" if congestion else ""))

    def rank_shaping(self, rank):
        """Lines of `tc -batch` in the rank's namespace."""
        for p in self.ports[rank]:
            pairs = list(self._pairs(p))
            yield from self.shapers[p.out_port].lines(p.name, pairs, () if pairs else self._turns(DESTINATION_BYTE))

    def _pairs(self, p):
        """(address, Shaper) of each peer that a mesh keeps below a rate."""
        for peer in range(self.n_ranks):
            level = self._level_between(p.rank, peer)
            if level is not None and p.first <= level <= p.last and self.levels[level]["pair_bytes_per_s"]:
                yield self.port(peer, level).address, Shaper(self.levels[level]["pair_bytes_per_s"], self.scale)

    def _level_between(self, a, b):
        if a == b:
            return None
        return next(k for k in range(self.top + 1) if self.gpus[a]["group"][k] == self.gpus[b]["group"][k])
