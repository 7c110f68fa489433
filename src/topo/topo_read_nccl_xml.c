/* NCCL topology files (NCCL_TOPO_FILE, NCCL_TOPO_DUMP_FILE): one host, or the hosts of one NVLink domain. Also the
 * partial ones that vendors ship: PCI devices without <gpu> and <net>, which NCCL completes on the machine. */
#include "topo_host.h"
#include <inttypes.h>
#include <moeplan/base.h>
#include <moeplan/xml.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct gpu_xml { /* beside each GPU, in the order of the file */
    const struct mp_xml *pci, *gpu;
    uint64_t busid;
    uint32_t host;
};
struct reader {
    struct topo_host h;
    const struct mp_xml_doc *d;
    struct mp_error *err;
    uint64_t *hashes;    /* [host] of <cpu host_hash> */
    struct gpu_xml *xml; /* [gpu], with the same numbers as h.gpus before sorting */
    uint64_t *busids;    /* [pci] */
    uint32_t *pci_hosts; /* [pci] */
    const struct mp_xml **pci_xml;
    uint32_t room_pci, room_gpus;
    bool has_gpu_elements, has_c2c;
    uint32_t n_without_rank, n_without_dev, n_without_net;
};

static bool detect(const char *text, size_t size) {
    const size_t n = size < 65536 ? size : 65536;
    const char *root = memmem(text, n, "<system", 7);
    return root != NULL && (memmem(text, n, "<cpu", 4) != NULL || memmem(text, n, "<system version=", 16) != NULL);
}

static enum mp_status unknown_child(const struct reader *r, const struct mp_xml *e) {
    const char *in = e->parent->name;
    if (strcmp(e->name, "net") == 0 && strcmp(in, "nic") != 0)
        return mp_xml_fail(r->d, e, r->err,
                           "a net stands inside a nic, and that in the pci of its card (write <pci ...><nic><net "
                           ".../></nic></pci>)");
    if (strcmp(e->name, "gpu") == 0)
        return mp_xml_fail(r->d, e, r->err,
                           "a gpu stands inside the pci of its card (write <pci ...><gpu .../></pci>)");
    if (strcmp(e->name, "xgmi") == 0)
        return mp_xml_fail(r->d, e, r->err,
                           "stands in files of RCCL, which are not read (give what lstopo writes: its XGMIBandwidth)");
    if (strcmp(e->name, "nvlink") == 0 || strcmp(e->name, "c2c") == 0)
        return mp_xml_fail(r->d, e, r->err, "stands inside a gpu (move it there)");
    return mp_xml_fail(r->d, e, r->err, "no such element inside %.40s (%s)", in,
                       strcmp(in, "system") == 0 ? "write cpu"
                       : strcmp(in, "cpu") == 0  ? "write pci or nic"
                       : strcmp(in, "pci") == 0  ? "write pci, gpu or nic"
                       : strcmp(in, "gpu") == 0  ? "write nvlink or c2c"
                       : strcmp(in, "nic") == 0  ? "write net"
                                                 : "nothing stands there");
}

static enum mp_status no_children(const struct reader *r, const struct mp_xml *e) {
    return e->first != NULL ? unknown_child(r, e->first) : MP_OK;
}

/* "0000:1b:00.0": domain, bus, device, function. */
static bool parse_busid(const char *s, uint64_t *out) {
    static const struct {
        uint32_t most;
        char end;
    } parts[] = {{8, ':'}, {4, ':'}, {2, '.'}, {1, '\0'}};
    *out = 0;
    for (size_t i = 0; i < 4; i++) {
        uint64_t v = 0;
        uint32_t n = 0;
        for (; n <= parts[i].most; n++, s++) {
            const char c = *s;
            if (c >= '0' && c <= '9')
                v = v << 4 | (uint64_t)(c - '0');
            else if ((c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'))
                v = v << 4 | (uint64_t)((c | 0x20) - 'a' + 10);
            else
                break;
        }
        if (n == 0 || n > parts[i].most || *s != parts[i].end)
            return false;
        s += *s != '\0';
        *out = *out << (i == 1 ? 16 : i == 2 ? 8 : i == 3 ? 4 : 0) | v;
    }
    return true;
}

static bool parse_hex(const char *s, uint64_t most, uint64_t *out) {
    *out = 0;
    if (s[0] != '0' || (s[1] != 'x' && s[1] != 'X') || s[2] == '\0')
        return false;
    for (s += 2; *s != '\0'; s++) {
        const char c = *s;
        if (!((c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')) || *out > most >> 4)
            return false;
        *out = *out << 4 | (uint64_t)(c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
    }
    return *out <= most;
}

/* ---- PCI ---- */

/* "16.0 GT/s PCIe": NCCL's 100 Mbit/s a lane are 60 for 8 GT/s; times lanes, over 80, in GB/s. */
static enum mp_status read_link(struct reader *r, const struct mp_xml *e, uint64_t *out) {
    static const struct {
        const char *speed;
        uint64_t per_lane;
    } known[] = {{"2.5", 15},   {"5", 30},   {"5.0", 30},   {"8", 60},   {"8.0", 60},  {"16", 120},
                 {"16.0", 120}, {"32", 240}, {"32.0", 240}, {"64", 480}, {"64.0", 480}};
    const struct mp_xml_attribute *speed = mp_xml_attribute(e, "link_speed"),
                                  *width = mp_xml_attribute(e, "link_width");
    uint64_t lanes = 16, per_lane = 0;
    char quoted[200];
    *out = 0;
    if (width != NULL && (!mp_parse_u64(width->value, strlen(width->value), &lanes) || lanes > 32))
        return mp_xml_fail_at(r->d, width, r->err,
                              "\"%s\" is not a number of lanes in [0, 32] (write 16, or 0 where it is not known)",
                              mp_quote(width->value, strlen(width->value), quoted, sizeof quoted));
    if (speed == NULL || speed->value[0] == '\0' || strncmp(speed->value, "Unknown", 7) == 0)
        return MP_OK;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        const size_t n = strlen(known[i].speed);
        if (strncmp(speed->value, known[i].speed, n) == 0 && strncmp(speed->value + n, " GT/s", 5) == 0 &&
            (speed->value[n + 5] == '\0' || strcmp(speed->value + n + 5, " PCIe") == 0))
            per_lane = known[i].per_lane;
    }
    if (per_lane == 0)
        return mp_xml_fail_at(r->d, speed, r->err,
                              "\"%s\" is not the speed of a PCIe lane (write 2.5, 5, 8, 16, 32 or 64 GT/s)",
                              mp_quote(speed->value, strlen(speed->value), quoted, sizeof quoted));
    *out = (lanes > 0 ? lanes : 16) * per_lane * 12500000;
    return MP_OK;
}

static enum mp_status remember_pci(struct reader *r, const struct mp_xml *e, uint64_t busid, uint32_t host) {
    const uint32_t i = r->h.n_pci - 1;
    if (i >= r->room_pci) {
        const uint32_t room = r->room_pci > 0 ? 2 * r->room_pci : 64;
        uint64_t *busids = mp_realloc(r->busids, room, sizeof *busids);
        r->busids = busids != NULL ? busids : r->busids;
        uint32_t *hosts = mp_realloc(r->pci_hosts, room, sizeof *hosts);
        r->pci_hosts = hosts != NULL ? hosts : r->pci_hosts;
        const struct mp_xml **xml = mp_realloc(r->pci_xml, room, sizeof *xml);
        r->pci_xml = xml != NULL ? xml : r->pci_xml;
        if (busids == NULL || hosts == NULL || xml == NULL)
            return mp_nomem(r->err, "reading a topology");
        r->room_pci = room;
    }
    r->busids[i] = busid;
    r->pci_hosts[i] = host;
    r->pci_xml[i] = e;
    return MP_OK;
}

static enum mp_status add_gpu(struct reader *r, const struct mp_xml *pci, const struct mp_xml *gpu, uint32_t index,
                              uint32_t host) {
    enum mp_status status = MP_OK;
    const struct mp_xml_attribute *a;
    uint64_t rank = 0, dev = 0, sm = 0, vendor = 0, device = 0;
    if (gpu != NULL) {
        const struct mp_xml_attribute *inside = mp_xml_attribute(gpu, "nvlink");
        if (inside != NULL)
            return mp_xml_fail_at(r->d, inside, r->err,
                                  "is an element, not an attribute (write <nvlink target=\"BUSID\" count=\"12\" "
                                  "tclass=\"0x068000\"/> inside the gpu)");
        MP_TRY(mp_xml_need(r->d, gpu, "dev", "write dev=\"0\" for the host's first", &a, r->err));
        MP_TRY(mp_xml_u64(r->d, a, 0, 65535, &dev, r->err));
        MP_TRY(mp_xml_need(r->d, gpu, "sm", "write its compute capability, sm=\"90\" for Hopper", &a, r->err));
        MP_TRY(mp_xml_u64(r->d, a, 10, 999, &sm, r->err));
        MP_TRY(mp_xml_need(r->d, gpu, "rank",
                           "NCCL passes over GPUs without one: write rank=\"0\" for the first, and so on", &a, r->err));
        MP_TRY(mp_xml_u64(r->d, a, 0, INT32_MAX, &rank, r->err));
        for (uint32_t g = 0; g < r->h.n_gpus; g++)
            if (r->h.gpus[g].order == rank)
                return mp_xml_fail_at(r->d, a, r->err, "\"%s\" is the rank of the GPU of line %u too (renumber one)",
                                      a->value, r->xml[g].gpu->line);
    }
    if (r->h.n_gpus == TOPO_HOST_MAX_GPUS)
        return mp_fail_at(r->err, MP_ELIMIT, r->d->path, pci->line, pci->column, "more than %d GPUs",
                          TOPO_HOST_MAX_GPUS);
    if (r->h.n_gpus == r->room_gpus) {
        const uint32_t room = r->room_gpus > 0 ? 2 * r->room_gpus : 16;
        struct gpu_xml *xml = mp_realloc(r->xml, room, sizeof *xml);
        if (xml == NULL)
            return mp_nomem(r->err, "reading a topology");
        r->xml = xml;
        r->room_gpus = room;
    }
    struct topo_host_gpu *g = topo_host_add_gpu(&r->h);
    if (g == NULL)
        return mp_nomem(r->err, "reading a topology");
    const char *v = mp_xml_get(pci, "vendor"), *w = mp_xml_get(pci, "device");
    if (v != NULL && w != NULL && parse_hex(v, 0xffff, &vendor) && parse_hex(w, 0xffff, &device))
        g->device = topo_device_find((uint16_t)vendor, (uint16_t)device);
    if (g->device == NULL && vendor != 0 && vendor != 0xffff && w != NULL) {
        g->model = mp_arena_printf(r->h.arena, "PCI device %04x:%04x", (unsigned)vendor, (unsigned)device);
        if (g->model == NULL)
            return mp_nomem(r->err, "reading a topology");
    }
    g->pci = index;
    g->order = gpu != NULL ? rank : r->busids[index];
    g->dev = (uint32_t)dev;
    g->sm = (uint32_t)sm;
    r->xml[r->h.n_gpus - 1] = (struct gpu_xml){pci, gpu, r->busids[index], host};
out:
    return status;
}

/* "2.5" as nanoseconds, of microseconds. */
static bool parse_latency(const char *s, uint64_t *ns) {
    double us;
    if (!mp_parse_double(s, strlen(s), &us) || !(us >= 0 && us <= 1e6))
        return false;
    *ns = (uint64_t)(us * 1000 + 0.5);
    return true;
}

static enum mp_status add_nets(struct reader *r, const struct mp_xml *nic, uint32_t pci, uint32_t cpu) {
    enum mp_status status = MP_OK;
    const struct mp_xml_attribute *a;
    if (nic->first == NULL && nic->n_attributes > 0)
        return mp_xml_fail(r->d, nic, r->err, "has no net (write <nic><net dev=\"0\" speed=\"400000\"/></nic>)");
    for (const struct mp_xml *e = nic->first; e != NULL; e = e->next) {
        uint64_t speed, dev, latency_ns = 0;
        if (strcmp(e->name, "net") != 0)
            return unknown_child(r, e);
        MP_TRY(no_children(r, e));
        if ((a = mp_xml_attribute(e, "dev")) == NULL) { /* a port that NCCL has made part of a fused NIC */
            r->n_without_dev++;
            continue;
        }
        MP_TRY(mp_xml_u64(r->d, a, 0, INT32_MAX, &dev, r->err));
        MP_TRY(mp_xml_need(r->d, e, "speed", "write the port's Mbit/s, speed=\"400000\"", &a, r->err));
        if (!mp_parse_u64(a->value, strlen(a->value), &speed) || speed == 0 || speed > 10000000) {
            char quoted[200];
            return mp_xml_fail_at(r->d, a, r->err,
                                  "\"%s\" is not a whole number of Mbit/s in [1, 10000000] (write the port's, 400000 "
                                  "for 400 Gbit/s)",
                                  mp_quote(a->value, strlen(a->value), quoted, sizeof quoted));
        }
        if ((a = mp_xml_attribute(e, "latency")) != NULL && !parse_latency(a->value, &latency_ns)) {
            char quoted[200];
            return mp_xml_fail_at(r->d, a, r->err,
                                  "\"%s\" is not a time in microseconds (write 2.5, or 0 where it is not known)",
                                  mp_quote(a->value, strlen(a->value), quoted, sizeof quoted));
        }
        if (r->h.n_nics == TOPO_HOST_MAX_NICS)
            return mp_fail_at(r->err, MP_ELIMIT, r->d->path, e->line, e->column, "more than %d NICs",
                              TOPO_HOST_MAX_NICS);
        struct topo_host_nic *n = topo_host_add_nic(&r->h);
        if (n == NULL)
            return mp_nomem(r->err, "reading a topology");
        *n = (struct topo_host_nic){pci, cpu, speed * 125000, latency_ns};
    }
out:
    return status;
}

static enum mp_status check_gpu(struct reader *r, const struct mp_xml *gpu) {
    enum mp_status status = MP_OK;
    for (const struct mp_xml *e = gpu->first; e != NULL; e = e->next) {
        if (strcmp(e->name, "nvlink") != 0 && strcmp(e->name, "c2c") != 0)
            return unknown_child(r, e);
        MP_TRY(no_children(r, e));
        r->has_c2c = r->has_c2c || strcmp(e->name, "c2c") == 0;
    }
out:
    return status;
}

enum kind { KIND_BRIDGE, KIND_GPU, KIND_NIC, KIND_OTHER };

/* What a PCI device is: by its element, else by its class. */
static enum mp_status kind_of(struct reader *r, const struct mp_xml *e, enum kind *out) {
    const struct mp_xml_attribute *a = mp_xml_attribute(e, "class");
    uint64_t class;
    *out = KIND_BRIDGE;
    bool has_device = false;
    for (const struct mp_xml *c = e->first; c != NULL; c = c->next) {
        has_device = has_device || strcmp(c->name, "pci") == 0;
        if (strcmp(c->name, "gpu") == 0 || strcmp(c->name, "nic") == 0)
            *out = strcmp(c->name, "gpu") == 0 ? KIND_GPU : KIND_NIC;
    }
    if (a == NULL)
        return *out != KIND_BRIDGE || has_device
                   ? MP_OK
                   : mp_xml_fail(r->d, e, r->err,
                                 "has no class, so that GPUs and NICs cannot be told apart (write class=\"0x030200\" "
                                 "for a GPU, class=\"0x020000\" for a NIC)");
    const size_t n = strlen(a->value);
    if ((n != 6 && n != 8) || !parse_hex(a->value, 0xffffff, &class)) {
        char quoted[200];
        return mp_xml_fail_at(r->d, a, r->err,
                              "\"%s\" is not a PCI class (write 0x030200 for a GPU, 0x020000 or 0x020700 for a NIC, "
                              "0x060400 for a bridge)",
                              mp_quote(a->value, n, quoted, sizeof quoted));
    }
    const uint64_t base = n == 6 ? class >> 8 : class >> 16;
    if (*out == KIND_BRIDGE)
        *out = base == 0x03 || base == 0x12 ? KIND_GPU
               : base == 0x02               ? KIND_NIC
               : base == 0x06               ? KIND_BRIDGE
                                            : KIND_OTHER;
    return MP_OK;
}

static enum mp_status add_pci(struct reader *r, const struct mp_xml *e, uint32_t parent, uint32_t cpu) {
    enum mp_status status;
    const struct mp_xml_attribute *a;
    const uint32_t host = r->h.cpus[cpu].host;
    uint64_t busid, link;
    enum kind kind;
    MP_TRY(mp_xml_need(r->d, e, "busid", "write busid=\"0000:1b:00.0\"", &a, r->err));
    if (!parse_busid(a->value, &busid)) {
        char quoted[200];
        return mp_xml_fail_at(r->d, a, r->err, "\"%s\" is not a PCI address (write it as 0000:1b:00.0)",
                              mp_quote(a->value, strlen(a->value), quoted, sizeof quoted));
    }
    MP_TRY(kind_of(r, e, &kind));
    MP_TRY(read_link(r, e, &link));
    if (topo_host_add_pci(&r->h, parent, cpu, link) == NULL)
        return mp_nomem(r->err, "reading a topology");
    const uint32_t index = r->h.n_pci - 1;
    MP_TRY(remember_pci(r, e, busid, host));
    const struct mp_xml *gpu = NULL;
    bool has_net = false;
    for (const struct mp_xml *c = e->first; c != NULL; c = c->next)
        if (strcmp(c->name, "gpu") == 0) {
            if (gpu != NULL)
                return mp_xml_fail(r->d, c, r->err,
                                   "the pci has a gpu in line %u, and several ranks on one GPU are not in the model "
                                   "(remove one)",
                                   gpu->line);
            gpu = c;
            MP_TRY(check_gpu(r, c));
        } else if (strcmp(c->name, "nic") == 0) {
            has_net = has_net || c->first != NULL;
            MP_TRY(add_nets(r, c, index, cpu));
        } else if (strcmp(c->name, "pci") != 0 && strcmp(c->name, "pcilink") != 0)
            return unknown_child(r, c);
    if (gpu != NULL || (kind == KIND_GPU && !r->has_gpu_elements))
        MP_TRY(add_gpu(r, e, gpu, index, host));
    else
        r->n_without_rank += kind == KIND_GPU;
    r->n_without_net += kind == KIND_NIC && !has_net && r->has_gpu_elements;
    if (kind == KIND_NIC && !has_net && !r->has_gpu_elements) {
        struct topo_host_nic *n = r->h.n_nics < TOPO_HOST_MAX_NICS ? topo_host_add_nic(&r->h) : NULL;
        if (n == NULL)
            return r->h.n_nics < TOPO_HOST_MAX_NICS ? mp_nomem(r->err, "reading a topology")
                                                    : mp_fail_at(r->err, MP_ELIMIT, r->d->path, e->line, e->column,
                                                                 "more than %d NICs", TOPO_HOST_MAX_NICS);
        *n = (struct topo_host_nic){.pci = index, .cpu = cpu};
    }
    for (const struct mp_xml *c = e->first; c != NULL; c = c->next)
        if (strcmp(c->name, "pci") == 0)
            MP_TRY(add_pci(r, c, index, cpu));
out:
    return status;
}

/* ---- CPUs ---- */

/* What NCCL takes for the link between CPUs (its src/graph/topo.h). */
static uint64_t cpu_link(const struct mp_xml *e) {
    const char *arch = mp_xml_get(e, "arch"), *vendor = mp_xml_get(e, "vendor"), *f = mp_xml_get(e, "familyid"),
               *m = mp_xml_get(e, "modelid");
    uint64_t family = 0, model = 0;
    const uint64_t giga = 1000000000;
    if (arch == NULL)
        return 0;
    if (strcmp(arch, "ppc64") == 0)
        return 32 * giga;
    if (strcmp(arch, "arm64") == 0)
        return 6 * giga;
    if (strcmp(arch, "x86_64") != 0 || vendor == NULL || f == NULL || m == NULL ||
        !mp_parse_u64(f, strlen(f), &family) || !mp_parse_u64(m, strlen(m), &model))
        return 0;
    if (strcmp(vendor, "AuthenticAMD") == 0)
        return (family >= 26 ? 32 : family >= 25 ? 24 : 16) * giga;
    if (strcmp(vendor, "GenuineIntel") == 0 && family == 6)
        return (model >= 207 ? 40 : model >= 143 ? 22 : model >= 85 ? 10 : 6) * giga;
    return 0;
}

static enum mp_status read_host(struct reader *r, const struct mp_xml *cpu, uint32_t *host) {
    const struct mp_xml_attribute *a = mp_xml_attribute(cpu, "host_hash");
    uint64_t hash = 0;
    char quoted[200];
    if (a != NULL && !parse_hex(a->value, UINT64_MAX, &hash))
        return mp_xml_fail_at(r->d, a, r->err, "\"%s\" is not a hash in hexadecimal (write 0x1, another for each host)",
                              mp_quote(a->value, strlen(a->value), quoted, sizeof quoted));
    for (*host = 0; *host < r->h.n_hosts; ++*host)
        if (r->hashes[*host] == hash)
            return MP_OK;
    uint64_t *hashes = mp_realloc(r->hashes, (size_t)r->h.n_hosts + 1, sizeof *hashes);
    if (hashes == NULL)
        return mp_nomem(r->err, "reading a topology");
    r->hashes = hashes;
    r->hashes[r->h.n_hosts++] = hash;
    return MP_OK;
}

static enum mp_status add_cpu(struct reader *r, const struct mp_xml *e) {
    enum mp_status status;
    uint32_t host = 0;
    if (r->h.n_cpus == TOPO_HOST_MAX_CPUS)
        return mp_fail_at(r->err, MP_ELIMIT, r->d->path, e->line, e->column, "more than %d CPUs", TOPO_HOST_MAX_CPUS);
    MP_TRY(read_host(r, e, &host));
    struct topo_cpu *c = topo_host_add_cpu(&r->h);
    if (c == NULL)
        return mp_nomem(r->err, "reading a topology");
    *c = (struct topo_cpu){host, cpu_link(e)};
    const uint32_t cpu = r->h.n_cpus - 1;
    for (const struct mp_xml *p = e->first; p != NULL; p = p->next)
        if (strcmp(p->name, "pci") == 0)
            MP_TRY(add_pci(r, p, MP_NONE, cpu));
        else if (strcmp(p->name, "nic") == 0) /* several cards as one, which have no common bridge */
            MP_TRY(add_nets(r, p, MP_NONE, cpu));
        else
            return unknown_child(r, p);
out:
    return status;
}

/* ---- NVLink ---- */

struct place {
    uint64_t busid;
    uint32_t host, pci;
};

static int by_busid(const void *a, const void *b) {
    const struct place *x = a, *y = b;
    if (x->host != y->host)
        return x->host < y->host ? -1 : 1;
    if (x->busid != y->busid)
        return x->busid < y->busid ? -1 : 1;
    return x->pci < y->pci ? -1 : x->pci > y->pci;
}

static enum mp_status check_busids(struct reader *r) {
    struct place *all = mp_calloc(r->h.n_pci, sizeof *all);
    enum mp_status status = MP_OK;
    if (all == NULL)
        return mp_nomem(r->err, "reading a topology");
    for (uint32_t i = 0; i < r->h.n_pci; i++)
        all[i] = (struct place){r->busids[i], r->pci_hosts[i], i};
    qsort(all, r->h.n_pci, sizeof *all, by_busid);
    for (uint32_t i = 1; i < r->h.n_pci && status == MP_OK; i++)
        if (all[i].busid == all[i - 1].busid && all[i].host == all[i - 1].host)
            status = mp_xml_fail_at(r->d, mp_xml_attribute(r->pci_xml[all[i].pci], "busid"), r->err,
                                    "\"%s\" is the address of the pci of line %u too (write another)",
                                    mp_xml_get(r->pci_xml[all[i].pci], "busid"), r->pci_xml[all[i - 1].pci]->line);
    mp_free(all);
    return status;
}

/* number[i]: what GPU i of the file is called. */
static enum mp_status add_link(struct reader *r, const uint32_t *number, uint32_t gpu, const struct mp_xml *e) {
    enum mp_status status;
    const struct mp_xml_attribute *target, *a, *tclass = mp_xml_attribute(e, "tclass");
    const uint64_t lane = topo_nvlink_lane(r->h.gpus[number[gpu]].sm);
    uint64_t count, class = 0, busid;
    char quoted[200];
    MP_TRY(mp_xml_need(r->d, e, "target", "write the bus id of the GPU or NVSwitch it leads to", &target, r->err));
    MP_TRY(mp_xml_need(r->d, e, "count", "write how many lanes go there", &a, r->err));
    MP_TRY(mp_xml_u64(r->d, a, 1, 1000, &count, r->err));
    if (tclass != NULL && !parse_hex(tclass->value, 0xffffff, &class))
        return mp_xml_fail_at(r->d, tclass, r->err, "\"%s\" is not a PCI class (write 0x068000 for an NVSwitch)",
                              mp_quote(tclass->value, strlen(tclass->value), quoted, sizeof quoted));
    if (class == 0x068000) {
        r->h.gpus[number[gpu]].nvswitch_bytes_per_s += count * lane;
        r->h.has_links = true;
        return MP_OK;
    }
    if (class == 0x068001)
        return MP_OK; /* to the CPU */
    const bool is_busid = parse_busid(target->value, &busid);
    for (uint32_t k = 0; k < r->h.n_gpus && is_busid; k++)
        if (r->xml[k].busid == busid && r->xml[k].host == r->xml[gpu].host && k != gpu)
            return topo_host_link(&r->h, number[gpu], number[k], count * lane, r->err);
    return mp_xml_fail_at(r->d, target, r->err,
                          "\"%s\" is no other GPU of this host (write the bus id of one, or tclass=\"0x068000\" for an "
                          "NVSwitch)",
                          mp_quote(target->value, strlen(target->value), quoted, sizeof quoted));
out:
    return status;
}

static enum mp_status add_links(struct reader *r) {
    enum mp_status status = MP_OK;
    const uint32_t n = r->h.n_gpus;
    uint32_t *number = mp_calloc(n, sizeof *number);
    if (number == NULL)
        return mp_nomem(r->err, "reading a topology");
    for (uint32_t i = 0; i < n; i++)
        r->h.gpus[i].nvswitch_bytes_per_s = i; /* where it was */
    topo_host_sort(&r->h);
    for (uint32_t i = 0; i < n; i++) {
        number[r->h.gpus[i].nvswitch_bytes_per_s] = i;
        r->h.gpus[i].nvswitch_bytes_per_s = 0;
    }
    for (uint32_t g = 0; g < n; g++)
        for (const struct mp_xml *e = r->xml[g].gpu != NULL ? r->xml[g].gpu->first : NULL; e != NULL; e = e->next)
            if (strcmp(e->name, "nvlink") == 0)
                MP_TRY(add_link(r, number, g, e));
    bool has_switch = false;
    for (uint32_t i = 0; i < n; i++)
        has_switch = has_switch || r->h.gpus[i].nvswitch_bytes_per_s > 0;
    for (uint32_t i = 0; i < n && has_switch; i++)
        if (r->h.gpus[number[i]].nvswitch_bytes_per_s == 0) {
            status =
                mp_xml_fail(r->d, r->xml[i].gpu, r->err,
                            "has no nvlink to an NVSwitch, and others have: NCCL would use PCIe for it (repair its "
                            "links, or write the nvlink that is missing)");
            goto out;
        }
    for (uint32_t a = 0; a < n && r->h.link != NULL; a++)
        for (uint32_t b = 0; b < a; b++)
            if (r->h.link[(size_t)number[a] * n + number[b]] != r->h.link[(size_t)number[b] * n + number[a]]) {
                status = mp_xml_fail(r->d, r->xml[a].gpu, r->err,
                                     "has other NVLink lanes to the GPU of line %u than that one to it (write the same "
                                     "count in both)",
                                     r->xml[b].gpu->line);
                goto out;
            }
    /* A file without <gpu> names no device numbers: as nvidia-smi counts, by bus id. */
    for (uint32_t i = 0; i < n && !r->has_gpu_elements; i++)
        r->h.gpus[i].dev = i;
out:
    mp_free(number);
    return status;
}

/* ---- all ---- */

static bool has_gpu(const struct mp_xml *e) {
    /* Every element once, without recursion. */
    for (const struct mp_xml *at = e; at != NULL;) {
        if (strcmp(at->name, "gpu") == 0)
            return true;
        if (at->first != NULL) {
            at = at->first;
            continue;
        }
        while (at != NULL && at != e && at->next == NULL)
            at = at->parent;
        at = at == e ? NULL : at != NULL ? at->next : NULL;
    }
    return false;
}

static enum mp_status read_system(struct reader *r) {
    enum mp_status status;
    const struct mp_xml *root = r->d->root;
    const struct mp_xml_attribute *version;
    char quoted[200];
    if (strcmp(root->name, "system") != 0)
        return mp_xml_fail(r->d, root, r->err, "is not the root of an NCCL topology (write <system version=\"1\">)");
    MP_TRY(mp_xml_need(r->d, root, "version", "write version=\"1\"", &version, r->err));
    if (strcmp(version->value, "1") != 0)
        return mp_xml_fail_at(
            r->d, version, r->err,
            "\"%s\" is not a version that NCCL reads (write 1; 2 is RCCL's, whose files are not read)",
            mp_quote(version->value, strlen(version->value), quoted, sizeof quoted));
    r->has_gpu_elements = has_gpu(root);
    for (const struct mp_xml *e = root->first; e != NULL; e = e->next) {
        if (strcmp(e->name, "cpu") != 0)
            return unknown_child(r, e);
        MP_TRY(add_cpu(r, e));
    }
    if (r->h.n_gpus == 0)
        return mp_xml_fail(r->d, root, r->err,
                           "has no GPUs (write a pci with class=\"0x030200\" for each, or dump the file where there "
                           "are GPUs: NCCL_TOPO_DUMP_FILE)");
    MP_TRY(check_busids(r));
    topo_host_note(&r->h, "NCCL topology XML: %u GPU%s, %u NIC port%s%s", r->h.n_gpus, r->h.n_gpus == 1 ? "" : "s",
                   r->h.n_nics, r->h.n_nics == 1 ? "" : "s",
                   r->has_gpu_elements ? ", GPUs by rank" : "; partial, GPUs by bus id");
    if (r->h.n_hosts > 1)
        topo_host_note(&r->h, "%u hosts in one file", r->h.n_hosts);
    MP_TRY(add_links(r));
    if (r->h.has_links)
        topo_host_note(&r->h, "NVLink: %.1f GB/s a lane, NCCL's figure",
                       (double)topo_nvlink_lane(r->h.gpus[0].sm) / 1e9);
    if (r->n_without_rank > 0)
        topo_host_note(&r->h, "%u devices of class 0x03 without <gpu> are left out, as NCCL does", r->n_without_rank);
    if (r->n_without_net > 0)
        topo_host_note(&r->h, "%u NICs without <net> are left out, as NCCL does", r->n_without_net);
    if (r->n_without_dev > 0)
        topo_host_note(&r->h, "%u nets without dev are left out, as NCCL does", r->n_without_dev);
    if (r->has_c2c)
        topo_host_note(&r->h, "c2c links, to the CPU, are not in the model");
out:
    return status;
}

static enum mp_status read(const struct topo_source *in, struct mp_out *yaml, struct mp_error *err) {
    enum mp_status status;
    struct mp_xml_doc *d = NULL;
    struct reader *r = mp_calloc(1, sizeof *r);
    if (r == NULL)
        return mp_nomem(err, "reading a topology");
    r->err = err;
    r->h.arena = mp_arena_new();
    if (r->h.arena == NULL) {
        status = mp_nomem(err, "reading a topology");
        goto out;
    }
    MP_TRY(mp_xml_parse_text(&d, in->path, in->text, in->size, err));
    r->d = d;
    MP_TRY(read_system(r));
    MP_TRY(topo_host_write(&r->h, in, yaml, err));
out:
    mp_free(r->hashes);
    mp_free(r->xml);
    mp_free(r->busids);
    mp_free(r->pci_hosts);
    mp_free(r->pci_xml);
    mp_arena_free(r->h.arena);
    mp_xml_free(d);
    mp_free(r);
    return status;
}

const struct topo_reader topo_reader_nccl_xml = {
    "nccl-xml", "NCCL topology XML: a host, or an NVLink domain (NCCL_TOPO_DUMP_FILE, NCCL_TOPO_FILE)",
    "https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/env.html#nccl-topo-dump-file", detect, read};
