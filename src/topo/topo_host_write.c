/* What moeplan makes of a host: nested levels.
 *
 * Level 0   the GPUs of one NVLink switch domain; else runs of GPUs that all have links to each other; without links,
 *           the GPUs behind one PCIe switch.
 * host      when level 0 is less than the host: PCIe, one port for the GPUs of a level-0 group behind one bridge.
 * cpu       when there is no network and the CPUs' link is known: its groups are the GPUs of a CPU.
 * net       with several hosts: the NICs that NCCL would use (topo_host_nics.c).
 *
 * What does not fit is left out and named in `source:`. */
#include "topo_host.h"
#include <inttypes.h>
#include <moeplan/base.h>
#include <stdio.h>
#include <string.h>

/* x16 of the third generation, NCCL's PCI_BW: what NCCL takes where it is not known too. */
#define PCIE_OTHERWISE UINT64_C(12000000000)
#define PCIE_LATENCY_NS UINT64_C(10000)
#define NVLINK_LATENCY_NS UINT64_C(936)

struct port {
    uint64_t bytes_per_s;
    uint32_t shared; /* first GPU of those that share it, or MP_NONE */
};
struct shape {
    struct topo_host *h;
    const struct topo_source *in;
    struct topo_ports usual; /* of the built-in GPU */
    const char *level_name;
    uint32_t *group, n_groups; /* level 0: group[gpu] */
    uint64_t latency_ns, pair_bytes_per_s;
    bool has_host, has_cpu, has_net;
    uint32_t n_gpu_cpus; /* CPUs that have GPUs */
    struct port *port, *host, *net;
    uint64_t uplink_bytes_per_s; /* of a host: a NIC that all its GPUs share */
    uint64_t *cpu_uplink;        /* [cpu] */
    uint64_t net_latency_ns;
};

static uint64_t link_of(const struct topo_host *h, uint32_t a, uint32_t b) {
    return h->link != NULL ? h->link[(size_t)a * h->n_gpus + b] : 0;
}

static bool are_linked(const struct topo_host *h, uint32_t a, uint32_t b) {
    return (h->gpus[a].nvswitch_bytes_per_s > 0 && h->gpus[b].nvswitch_bytes_per_s > 0) ||
           (link_of(h, a, b) > 0 && link_of(h, b, a) > 0);
}

static uint32_t host_of(const struct topo_host *h, uint32_t gpu) { return h->cpus[h->pci[h->gpus[gpu].pci].cpu].host; }

static uint32_t top_of(const struct topo_host *h, uint32_t pci) {
    while (h->pci[pci].parent != MP_NONE)
        pci = h->pci[pci].parent;
    return pci;
}

/* The narrowest link from a device to the CPU. */
static uint64_t pcie_of(const struct topo_host *h, uint32_t pci) {
    uint64_t least = UINT64_MAX;
    for (; pci != MP_NONE; pci = h->pci[pci].parent)
        if (h->pci[pci].bytes_per_s > 0 && h->pci[pci].bytes_per_s < least)
            least = h->pci[pci].bytes_per_s;
    return least != UINT64_MAX ? least : PCIE_OTHERWISE;
}

/* The deepest bridge above all GPUs of a group, or MP_NONE. */
static uint32_t common_bridge(const struct shape *s, uint32_t first) {
    const struct topo_host *h = s->h;
    uint32_t top = h->pci[h->gpus[first].pci].parent;
    for (uint32_t g = first; g < h->n_gpus && s->group[g] == s->group[first]; g++)
        for (bool is_above = false; top != MP_NONE && !is_above;) {
            for (uint32_t p = h->gpus[g].pci; p != MP_NONE && !is_above; p = h->pci[p].parent)
                is_above = p == top;
            if (!is_above)
                top = h->pci[top].parent;
        }
    return top;
}

/* ---- level 0 ---- */

static void count_lost_links(struct shape *s) {
    const struct topo_host *h = s->h;
    uint64_t n_lost = 0;
    uint32_t a = 0, b = 0;
    for (uint32_t x = 0; x < h->n_gpus; x++)
        for (uint32_t y = 0; y < x; y++)
            if (link_of(h, x, y) > 0 && s->group[x] != s->group[y]) {
                if (n_lost++ == 0) {
                    a = y;
                    b = x;
                }
            }
    if (n_lost > 0)
        topo_host_note(s->h,
                       "%" PRIu64
                       " pair%s of linked GPUs in different groups (GPU %u and %u the first) are taken to go "
                       "over PCIe: levels are nested",
                       n_lost, n_lost == 1 ? "" : "s", a, b);
}

/* Rates inside the groups, and the least that a pair has. */
static void rate_links(struct shape *s) {
    const struct topo_host *h = s->h;
    uint64_t least = UINT64_MAX, most = 0;
    uint32_t largest = 0;
    for (uint32_t g = 0; g < h->n_gpus; g++) {
        uint64_t sum = h->gpus[g].nvswitch_bytes_per_s;
        uint32_t n = 0;
        for (uint32_t k = 0; k < h->n_gpus; k++) {
            if (s->group[k] != s->group[g])
                continue;
            n++;
            sum += link_of(h, g, k);
            if (k != g && h->gpus[g].nvswitch_bytes_per_s == 0) {
                least = link_of(h, g, k) < least ? link_of(h, g, k) : least;
                most = link_of(h, g, k) > most ? link_of(h, g, k) : most;
            }
        }
        largest = n > largest ? n : largest;
        s->port[g].bytes_per_s = sum > 0 ? sum : pcie_of(h, h->gpus[g].pci);
    }
    if (most == 0 || largest <= 2)
        return;
    s->pair_bytes_per_s = least;
    if (least != most)
        topo_host_note(s->h, "Pairs have %.1f to %.1f GB/s of direct links; the level's pair is the least",
                       (double)least / 1e9, (double)most / 1e9);
}

static void group_by_links(struct shape *s) {
    const struct topo_host *h = s->h;
    uint32_t first = 0;
    s->level_name = strcmp(s->usual.level, "pcie") != 0 ? s->usual.level : "nvlink";
    s->latency_ns = strcmp(s->usual.level, "pcie") != 0 ? s->usual.scale_up_latency_ns : NVLINK_LATENCY_NS;
    for (uint32_t g = 0; g < h->n_gpus; g++) {
        bool fits = true;
        for (uint32_t k = first; k < g && fits; k++)
            fits = are_linked(h, k, g);
        if (!fits) {
            s->n_groups++;
            first = g;
        }
        s->group[g] = s->n_groups;
    }
    s->n_groups++;
    rate_links(s);
    count_lost_links(s);
    topo_host_note(s->h, "Latency of links: %" PRIu64 " ns, assumed", s->latency_ns);
}

/* The file says nothing of links, and the GPU usually has them. */
static void group_as_usual(struct shape *s) {
    s->level_name = s->usual.level;
    s->latency_ns = s->usual.scale_up_latency_ns;
    s->pair_bytes_per_s = s->usual.pair_bytes_per_s;
    s->n_groups = 1;
    for (uint32_t g = 0; g < s->h->n_gpus; g++)
        s->port[g].bytes_per_s = s->usual.scale_up_bytes_per_s;
    topo_host_note(s->h, "The file has no links between GPUs: %.1f GB/s of %s for each as built in",
                   (double)s->usual.scale_up_bytes_per_s / 1e9, s->usual.level);
}

/* No links: PCIe switches, when each has GPUs that are neighbours in number. */
static void group_by_bridges(struct shape *s) {
    const struct topo_host *h = s->h;
    bool is_run = true;
    s->level_name = "pcie";
    s->latency_ns = strcmp(s->usual.level, "pcie") == 0 ? s->usual.scale_up_latency_ns : PCIE_LATENCY_NS;
    for (uint32_t g = 0; g < h->n_gpus; g++) {
        const uint32_t top = top_of(h, h->gpus[g].pci);
        if (g > 0 && top != top_of(h, h->gpus[g - 1].pci)) {
            s->n_groups++;
            for (uint32_t k = 0; k < g; k++)
                is_run = is_run && top_of(h, h->gpus[k].pci) != top;
        }
        s->group[g] = s->n_groups;
        s->port[g].bytes_per_s =
            h->pci[h->gpus[g].pci].bytes_per_s > 0 ? h->pci[h->gpus[g].pci].bytes_per_s : PCIE_OTHERWISE;
    }
    s->n_groups++;
    topo_host_note(s->h, "No links between GPUs, so they use PCIe; latency %" PRIu64 " ns, assumed", s->latency_ns);
    if (is_run && s->n_groups < h->n_gpus)
        return;
    if (!is_run)
        topo_host_note(s->h, "GPUs of one PCIe switch are not neighbours in number: switches are left out");
    s->n_groups = 1;
    for (uint32_t g = 0; g < h->n_gpus; g++) {
        s->group[g] = 0;
        s->port[g].bytes_per_s = pcie_of(h, h->gpus[g].pci);
    }
}

/* ---- the levels above ---- */

static void set_host_ports(struct shape *s) {
    const struct topo_host *h = s->h;
    for (uint32_t g = 0; g < h->n_gpus; g++) {
        if (g > 0 && s->group[g] == s->group[g - 1] && s->host[g - 1].shared != MP_NONE) {
            s->host[g] = s->host[g - 1];
            continue;
        }
        const bool is_first = g == 0 || s->group[g] != s->group[g - 1];
        const bool is_alone = g + 1 == h->n_gpus || s->group[g + 1] != s->group[g];
        const uint32_t bridge = is_first && !is_alone ? common_bridge(s, g) : MP_NONE;
        s->host[g] = bridge != MP_NONE ? (struct port){pcie_of(h, bridge), g}
                                       : (struct port){pcie_of(h, h->gpus[g].pci), MP_NONE};
    }
    topo_host_note(s->h, "Between groups: PCIe, latency %" PRIu64 " ns, assumed", PCIE_LATENCY_NS);
}

/* CPUs as groups: their GPUs are neighbours, groups of level 0 lie inside, and the links between CPUs are known. */
static bool cpus_nest(struct shape *s) {
    const struct topo_host *h = s->h;
    s->n_gpu_cpus = 1;
    for (uint32_t g = 0; g < h->n_gpus; g++) {
        const uint32_t cpu = h->pci[h->gpus[g].pci].cpu;
        if (h->cpus[cpu].bytes_per_s == 0)
            return false;
        if (g == 0 || cpu == h->pci[h->gpus[g - 1].pci].cpu)
            continue;
        s->n_gpu_cpus++;
        if (s->group[g] == s->group[g - 1])
            return false;
        for (uint32_t k = 0; k < g; k++)
            if (h->pci[h->gpus[k].pci].cpu == cpu)
                return false;
    }
    return s->n_gpu_cpus > 1;
}

/* Groups of level 0 are the CPUs: no level between it and the host. */
static bool cpus_are_groups(const struct shape *s) { return s->has_cpu && s->n_groups == s->n_gpu_cpus; }
static bool has_cpu_level(const struct shape *s) { return s->has_cpu && !cpus_are_groups(s); }

static bool has_several_cpus(const struct topo_host *h) {
    for (uint32_t g = 1; g < h->n_gpus; g++)
        if (h->pci[h->gpus[g].pci].cpu != h->pci[h->gpus[0].pci].cpu)
            return true;
    return false;
}

static enum mp_status set_net(struct shape *s, struct mp_error *err) {
    struct topo_host *h = s->h;
    struct topo_nic_set *sets;
    bool is_known = true, is_split = false;
    uint32_t n_most = 0, n_users = 1;
    for (uint32_t i = 0; i < h->n_nics; i++)
        is_known = is_known && h->nics[i].bytes_per_s > 0;
    if ((h->n_nics == 0 || !is_known) && s->in->gpu == NULL)
        return mp_fail_at(err, MP_EINPUT, s->in->path, 0, 0,
                          "the file %s, which %u hosts are joined by (write the built-in GPU behind a colon, %s:%s, "
                          "to take that GPU's usual NIC)",
                          h->n_nics == 0 ? "has no NICs" : "does not say how fast its NICs are", s->in->n_hosts,
                          s->in->path, h->gpus[0].device->preset);
    s->net_latency_ns = s->usual.nic_latency_ns;
    if (h->n_nics == 0) {
        for (uint32_t g = 0; g < h->n_gpus; g++)
            s->net[g] = (struct port){s->usual.nic_bytes_per_s, MP_NONE};
        topo_host_note(h, "The file has no NICs: one for each GPU at the built-in %.2f GB/s",
                       (double)s->usual.nic_bytes_per_s / 1e9);
        return MP_OK;
    }
    enum mp_status status = topo_host_nics(&sets, h, s->usual.nic_bytes_per_s, err);
    if (status != MP_OK)
        return status;
    uint64_t latency_ns = 0;
    for (uint32_t g = 0; g < h->n_gpus; g++) {
        if (sets[g].n == 0)
            return mp_fail_at(err, MP_EINPUT, s->in->path, 0, 0,
                              "GPU %u reaches no NIC, and %u hosts are joined by theirs (add a NIC to its host)", g,
                              s->in->n_hosts);
        n_most = sets[g].n > n_most ? sets[g].n : n_most;
        n_users = !sets[g].is_split && sets[g].n_users > n_users ? sets[g].n_users : n_users;
        is_split = is_split || sets[g].is_split;
        for (uint32_t i = 0; i < sets[g].n; i++)
            latency_ns =
                h->nics[sets[g].nics[i]].latency_ns > latency_ns ? h->nics[sets[g].nics[i]].latency_ns : latency_ns;
    }
    if (latency_ns > 0)
        s->net_latency_ns = latency_ns;
    const bool all_share = s->has_host && sets[0].n_users == h->n_gpus && !sets[0].is_split;
    bool is_cut = false;
    for (uint32_t g = 0; g < h->n_gpus; g++) {
        const struct topo_nic_set *set = &sets[g];
        s->net[g] = (struct port){set->bytes_per_s, MP_NONE};
        if (set->is_split || set->n_users == 1)
            continue;
        if (all_share) { /* the host's uplink limits them together */
            s->uplink_bytes_per_s = set->bytes_per_s;
            continue;
        }
        bool is_inside = true;
        for (uint32_t k = 0; k < h->n_gpus && is_inside; k++)
            is_inside = !(sets[k].first_user == set->first_user && !sets[k].is_split) || s->group[k] == s->group[g];
        if (is_inside)
            s->net[g].shared = set->first_user;
        else {
            s->net[g].bytes_per_s = set->bytes_per_s / set->n_users;
            is_cut = true;
        }
    }
    if (is_split || is_cut)
        topo_host_note(h, "NICs that GPUs share in part, or over groups, are divided evenly among them");
    if (!is_known)
        topo_host_note(h,
                       "The file does not say how fast its NICs are: %.2f GB/s as built in, at most what PCIe allows",
                       (double)s->usual.nic_bytes_per_s / 1e9);
    topo_host_note(h,
                   "NICs: NCCL's choice, nearest by PCIe, %s%u NIC%s for a GPU%s, each at most as fast as its PCIe; "
                   "latency %" PRIu64 " ns, %s",
                   n_most > 1 ? "up to " : "", n_most, n_most == 1 ? "" : "s", n_users > 1 ? ", some shared" : "",
                   s->net_latency_ns, latency_ns > 0 ? "from the file" : "assumed");
    return MP_OK;
}

/* ---- text ---- */

static void put_port(struct mp_out *o, const char *level, struct port p) {
    if (p.shared == MP_NONE)
        mp_out_printf(o, "%s: %" PRIu64 " B/s", level, p.bytes_per_s);
    else
        mp_out_printf(o, "%s: {rate: %" PRIu64 " B/s, shared: n%u}", level, p.bytes_per_s, p.shared);
}

/* The device knows its memory too. */
static const char *type_of(const struct shape *s, uint32_t gpu) {
    const struct topo_device *d = s->h->gpus[gpu].device;
    return d != NULL ? d->name : s->in->gpu;
}

static void put_gpus(const struct shape *s, struct mp_out *o, uint32_t first, uint32_t end, const char *indent) {
    for (uint32_t g = first; g < end; g++) {
        mp_out_printf(o, "%s- {type: %s, ports: {", indent, type_of(s, g));
        put_port(o, s->level_name, s->port[g]);
        if (s->has_host) {
            mp_out_puts(o, ", ");
            put_port(o, has_cpu_level(s) ? "cpu" : "host", s->host[g]);
        }
        if (s->has_net) {
            mp_out_puts(o, ", ");
            put_port(o, "net", s->net[g]);
        }
        mp_out_puts(o, "}}\n");
    }
}

/* Groups of level 0 among GPUs [first, end). */
static void put_groups(const struct shape *s, struct mp_out *o, uint32_t first, uint32_t end, const char *indent,
                       const char *inner, const uint64_t *uplinks) {
    for (uint32_t g = first, next; g < end; g = next) {
        for (next = g + 1; next < end && s->group[next] == s->group[g];)
            next++;
        mp_out_printf(o, "%s- ", indent);
        if (uplinks != NULL)
            mp_out_printf(o, "uplink: %" PRIu64 " B/s\n%s  ", uplinks[s->h->pci[s->h->gpus[g].pci].cpu], indent);
        mp_out_puts(o, "gpus:\n");
        put_gpus(s, o, g, next, inner);
    }
}

static void put_types(const struct shape *s, struct mp_out *o) {
    const struct topo_host *h = s->h;
    bool is_first = true;
    for (uint32_t g = 0; g < h->n_gpus; g++) {
        const struct topo_device *d = h->gpus[g].device;
        bool is_new = d != NULL && d->changes != NULL;
        for (uint32_t k = 0; k < g && is_new; k++)
            is_new = h->gpus[k].device != d;
        if (!is_new)
            continue;
        mp_out_printf(o,
                      "%s  %s: {preset: %s, %s, source: \"moeplan preset %s with the data sheet's memory of PCI "
                      "device %04x:%04x\"}\n",
                      is_first ? "gpu_types:\n" : "", d->name, d->preset, d->changes, d->preset, d->vendor, d->device);
        is_first = false;
    }
}

static void put_level(struct mp_out *o, const char *name, uint64_t latency_ns, uint64_t pair_bytes_per_s) {
    mp_out_printf(o, "  - {name: %s, latency: %" PRIu64 " ns", name, latency_ns);
    if (pair_bytes_per_s > 0)
        mp_out_printf(o, ", pair: %" PRIu64 " B/s", pair_bytes_per_s);
    mp_out_puts(o, "}\n");
}

static void put_yaml(struct shape *s, struct mp_out *o) {
    struct topo_host *h = s->h;
    topo_host_note(h, "Launch of a collective: %" PRIu64 " ns, as built in", s->usual.launch_ns);
    topo_put_head(o, s->in, h->notes, s->usual.launch_ns, s->usual.stage_launch_ns);
    put_types(s, o);
    mp_out_puts(o, "levels:\n");
    put_level(o, s->level_name, s->latency_ns, s->pair_bytes_per_s);
    if (has_cpu_level(s))
        put_level(o, "cpu", PCIE_LATENCY_NS, 0);
    if (s->has_host)
        put_level(o, "host", PCIE_LATENCY_NS, 0);
    if (s->has_net)
        put_level(o, "net", s->net_latency_ns, 0);
    if (!s->has_host && !s->has_net) {
        mp_out_puts(o, "gpus:\n");
        put_gpus(s, o, 0, h->n_gpus, "  ");
        return;
    }
    mp_out_puts(o, "groups:\n");
    if (!s->has_host) {
        mp_out_printf(o, "  - repeat: %u\n    gpus:\n", s->in->n_hosts);
        put_gpus(s, o, 0, h->n_gpus, "      ");
    } else if (s->has_net) {
        mp_out_printf(o, "  - repeat: %u\n", s->in->n_hosts);
        if (s->uplink_bytes_per_s > 0)
            mp_out_printf(o, "    uplink: %" PRIu64 " B/s\n", s->uplink_bytes_per_s);
        mp_out_puts(o, "    groups:\n");
        put_groups(s, o, 0, h->n_gpus, "      ", "          ", NULL);
    } else if (has_cpu_level(s)) {
        for (uint32_t g = 0, next; g < h->n_gpus; g = next) {
            const uint32_t cpu = h->pci[h->gpus[g].pci].cpu;
            for (next = g + 1; next < h->n_gpus && h->pci[h->gpus[next].pci].cpu == cpu;)
                next++;
            mp_out_printf(o, "  - uplink: %" PRIu64 " B/s\n    groups:\n", s->cpu_uplink[cpu]);
            put_groups(s, o, g, next, "      ", "          ", NULL);
        }
    } else
        put_groups(s, o, 0, h->n_gpus, "  ", "      ", cpus_are_groups(s) ? s->cpu_uplink : NULL);
}

/* ---- all ---- */

/* GPU g is known as another than the one behind the colon. The advice is what works. */
static enum mp_status not_of_type(const struct topo_host *h, const struct topo_source *in, uint32_t g,
                                  struct mp_error *err) {
    const struct topo_device *is = h->gpus[g].device;
    uint32_t unknown = MP_NONE;
    bool is_mixed = false;
    char advice[200];
    for (uint32_t k = 0; k < h->n_gpus; k++) {
        if (h->gpus[k].device == NULL)
            unknown = unknown == MP_NONE ? k : unknown;
        else
            is_mixed = is_mixed || strcmp(h->gpus[k].device->preset, is->preset) != 0;
    }
    if (is_mixed && unknown != MP_NONE)
        snprintf(advice, sizeof advice,
                 "the file has several kinds of GPU: give GPU %u the vendor and device of a known one, and write "
                 "nothing behind the name",
                 unknown);
    else if (is_mixed)
        snprintf(advice, sizeof advice, "the file has several kinds of GPU: write nothing behind the name");
    else
        snprintf(advice, sizeof advice, "write %s:%s", unknown == MP_NONE ? "nothing behind the name, or " : "",
                 is->preset);
    return mp_fail_at(err, MP_EINPUT, in->path, 0, 0, "GPU %u is PCI device %04x:%04x, %s, and not %s (%s)", g,
                      is->vendor, is->device, is->name, in->gpu, advice);
}

static enum mp_status check_types(struct topo_host *h, const struct topo_source *in, struct topo_ports *usual,
                                  struct mp_error *err) {
    static const struct {
        const char *preset;
        uint32_t sm;
    } known[] = {{"v100", 70}, {"v100-pcie", 70}, {"a100", 80}, {"l40s", 89},
                 {"h100", 90}, {"h200", 90},      {"h800", 90}, {"b200", 100}};
    struct mp_gpu_type type;
    char why[64] = "which GPUs these are";
    if (in->gpu != NULL) {
        enum mp_status status = topo_source_gpu(in, why, h->arena, &type, usual, err);
        for (uint32_t g = 0; g < h->n_gpus && status == MP_OK; g++)
            if (h->gpus[g].device != NULL && strcmp(h->gpus[g].device->preset, in->gpu) != 0)
                return not_of_type(h, in, g, err);
        for (size_t i = 0; i < sizeof known / sizeof *known && status == MP_OK; i++)
            for (uint32_t g = 0; g < h->n_gpus && strcmp(known[i].preset, in->gpu) == 0; g++)
                if (h->gpus[g].sm != 0 && h->gpus[g].sm != known[i].sm)
                    return mp_fail_at(err, MP_EINPUT, in->path, 0, 0,
                                      "GPU %u has compute capability %u, and %s has %u (write the GPU it is behind the "
                                      "colon)",
                                      g, h->gpus[g].sm, in->gpu, known[i].sm);
        return status;
    }
    for (uint32_t g = 0; g < h->n_gpus; g++)
        if (h->gpus[g].device == NULL) {
            char quoted[200];
            const char *model = h->gpus[g].model;
            if (model != NULL)
                return mp_fail_at(err, MP_EINPUT, in->path, 0, 0,
                                  "GPU %u is \"%s\", which no built-in GPU is known as (write the built-in one to take "
                                  "behind a colon, for instance %s:h100; \"moeplan list presets\" shows them)",
                                  g, mp_quote(model, strlen(model), quoted, sizeof quoted), in->path);
            if (h->gpus[g].sm != 0)
                snprintf(why, sizeof why, "which GPUs of compute capability %u these are", h->gpus[g].sm);
            return topo_source_gpu(in, why, h->arena, &type, usual, err);
        }
    topo_host_note(h, "GPUs by their PCI device numbers");
    return topo_gpu_preset(h->gpus[0].device->preset, h->arena, &type, usual, err);
}

enum mp_status topo_host_write(struct topo_host *h, const struct topo_source *in, struct mp_out *yaml,
                               struct mp_error *err) {
    struct shape s = {.h = h, .in = in};
    enum mp_status status = check_types(h, in, &s.usual, err);
    if (status != MP_OK)
        return status;
    if ((uint64_t)h->n_gpus * in->n_hosts > MP_MAX_GPUS)
        return mp_fail_at(err, MP_ELIMIT, in->path, 0, 0, "%u times %u GPUs are more than %u (write a smaller number)",
                          in->n_hosts, h->n_gpus, MP_MAX_GPUS);
    s.group = mp_arena_alloc(h->arena, h->n_gpus, sizeof *s.group);
    s.port = mp_arena_alloc(h->arena, h->n_gpus, sizeof *s.port);
    s.host = mp_arena_alloc(h->arena, h->n_gpus, sizeof *s.host);
    s.net = mp_arena_alloc(h->arena, h->n_gpus, sizeof *s.net);
    s.cpu_uplink = mp_arena_alloc(h->arena, h->n_cpus, sizeof *s.cpu_uplink);
    if (s.group == NULL || s.port == NULL || s.host == NULL || s.net == NULL || s.cpu_uplink == NULL)
        return mp_nomem(err, "reading a topology");
    for (uint32_t g = 0; g < h->n_gpus; g++)
        s.port[g].shared = MP_NONE;
    if (h->has_links)
        group_by_links(&s);
    else if (strcmp(s.usual.level, "pcie") != 0)
        group_as_usual(&s);
    else
        group_by_bridges(&s);
    for (uint32_t g = 1; g < h->n_gpus && s.n_groups > 1; g++)
        if (host_of(h, g) != host_of(h, 0))
            return mp_fail_at(err, MP_EINPUT, in->path, 0, 0,
                              "holds several hosts that no NVLink switch joins (dump one host, and write for instance "
                              "%ux before the name)",
                              h->n_hosts);
    s.has_host = s.n_groups > 1;
    s.has_net = in->n_hosts > 1;
    s.has_cpu = s.has_host && !s.has_net && cpus_nest(&s);
    if (s.has_host)
        set_host_ports(&s);
    if (s.has_cpu)
        for (uint32_t c = 0; c < h->n_cpus; c++)
            s.cpu_uplink[c] = h->cpus[c].bytes_per_s;
    else if (s.has_host && has_several_cpus(h))
        topo_host_note(h, "The link between CPUs never limits");
    if (s.has_net)
        status = set_net(&s, err);
    if (status == MP_OK)
        put_yaml(&s, yaml);
    return status;
}
