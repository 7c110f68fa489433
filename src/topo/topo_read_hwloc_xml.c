/* hwloc XML of versions 2 and 3 (lstopo FILE.xml): GPUs, NICs and bridges of one host, and the NVLinkBandwidth (or
 * XGMIBandwidth) matrix between them. */
#include "topo_host.h"
#include <inttypes.h>
#include <moeplan/base.h>
#include <moeplan/xml.h>
#include <stdio.h>
#include <string.h>

enum { MAX_OBJECTS = 2048 };

/* What a distance matrix may speak of. */
struct object {
    uint64_t gp;
    uint32_t pci; /* the device it is, or belongs to */
    bool is_switch, is_os_device;
};
struct gpu_names {
    uint64_t cuda, nvml, rsmi, busid; /* UINT64_MAX: has none */
};
struct reader {
    struct topo_host h;
    const struct mp_xml_doc *d;
    struct mp_error *err;
    struct object objects[MAX_OBJECTS];
    uint32_t n_objects, n_pci_devices, n_plain_nics;
    struct gpu_names names[TOPO_HOST_MAX_GPUS];
    bool has_fabric;
};

static bool detect(const char *text, size_t size) {
    const size_t n = size < 65536 ? size : 65536;
    return memmem(text, n, "<topology", 9) != NULL && memmem(text, n, "<object type=", 13) != NULL;
}

static bool is_type(const struct mp_xml *e, const char *type) {
    const char *t = mp_xml_get(e, "type");
    return strcmp(e->name, "object") == 0 && t != NULL && strcmp(t, type) == 0;
}

static bool is_io(const struct mp_xml *e) {
    return is_type(e, "Bridge") || is_type(e, "PCIDev") || is_type(e, "OSDev");
}

/* n hexadecimal digits. */
static bool parse_hex(const char *s, uint32_t n, uint32_t *out) {
    *out = 0;
    for (uint32_t i = 0; i < n; i++) {
        const char c = s[i];
        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f')))
            return false;
        *out = *out << 4 | (uint32_t)(c <= '9' ? c - '0' : c - 'a' + 10);
    }
    return true;
}

/* "0000:34:00.0" */
static bool parse_busid(const char *s, uint64_t *out) {
    uint32_t domain, bus, device;
    const char *colon = strchr(s, ':');
    const size_t n = colon != NULL ? (size_t)(colon - s) : 0;
    if (n < 4 || n > 8 || strlen(s) != n + 8 || !parse_hex(s, (uint32_t)n, &domain) || !parse_hex(s + n + 1, 2, &bus) ||
        s[n + 3] != ':' || !parse_hex(s + n + 4, 2, &device) || s[n + 6] != '.' || s[n + 7] < '0' || s[n + 7] > '7')
        return false;
    *out = (uint64_t)domain << 16 | bus << 8 | device << 3 | (uint32_t)(s[n + 7] - '0');
    return true;
}

/* "0302 [10de:1db8] [10de:131d] a1 00" */
static enum mp_status read_type(struct reader *r, const struct mp_xml *e, uint32_t *class, uint32_t *vendor,
                                uint32_t *device) {
    const struct mp_xml_attribute *a;
    char quoted[200];
    enum mp_status status = mp_xml_need(
        r->d, e, "pci_type", "write its class and numbers, pci_type=\"0302 [10de:2330] [10de:16c1] a1\"", &a, r->err);
    if (status != MP_OK)
        return status;
    const char *s = a->value;
    if (strlen(s) >= 16 && parse_hex(s, 4, class) && memcmp(s + 4, " [", 2) == 0 && parse_hex(s + 6, 4, vendor) &&
        s[10] == ':' && parse_hex(s + 11, 4, device) && s[15] == ']')
        return MP_OK;
    return mp_xml_fail_at(r->d, a, r->err,
                          "\"%s\" does not start with a class and numbers (write \"0302 [10de:2330]\")",
                          mp_quote(s, strlen(s), quoted, sizeof quoted));
}

/* GB/s, as decimals; 0 or nothing = not known. */
static enum mp_status read_speed(struct reader *r, const struct mp_xml *e, uint64_t *out) {
    const struct mp_xml_attribute *a = mp_xml_attribute(e, "pci_link_speed");
    double v = 0;
    char quoted[200];
    if (a != NULL && (!mp_parse_double(a->value, strlen(a->value), &v) || !(v >= 0 && v <= 10000)))
        return mp_xml_fail_at(r->d, a, r->err, "\"%s\" is not a rate in GB/s (write 31.5, or 0 where it is not known)",
                              mp_quote(a->value, strlen(a->value), quoted, sizeof quoted));
    *out = (uint64_t)(v * 1e6 + 0.5) * 1000; /* whole kB/s: what the decimals say */
    return MP_OK;
}

static enum mp_status remember(struct reader *r, const struct mp_xml *e, uint32_t pci, bool is_switch,
                               bool is_os_device) {
    const char *gp = mp_xml_get(e, "gp_index");
    uint64_t v;
    if (gp == NULL || !mp_parse_u64(gp, strlen(gp), &v))
        return MP_OK; /* no matrix speaks of it */
    if (r->n_objects == MAX_OBJECTS)
        return mp_fail_at(r->err, MP_ELIMIT, r->d->path, e->line, e->column, "more than %d devices", MAX_OBJECTS);
    r->objects[r->n_objects++] = (struct object){v, pci, is_switch, is_os_device};
    return MP_OK;
}

/* The number behind "cuda" in "cuda3"; UINT64_MAX when the name is another. */
static uint64_t number_of(const char *name, const char *kind) {
    const size_t n = strlen(kind);
    uint64_t v;
    return strncmp(name, kind, n) == 0 && mp_parse_u64(name + n, strlen(name + n), &v) && v < 65536 ? v : UINT64_MAX;
}

static bool is_fabric(const struct mp_xml *os) {
    const char *type = mp_xml_get(os, "osdev_type"), *version = NULL;
    while (os->parent != NULL)
        os = os->parent;
    version = mp_xml_get(os, "version");
    /* One of a list in version 2, bits in version 3. */
    uint64_t v;
    if (type == NULL || version == NULL || !mp_parse_u64(type, strlen(type), &v))
        return false;
    return version[0] == '2' ? v == 3 : (v & 32) != 0;
}

static enum mp_status add_device(struct reader *r, const struct mp_xml *e, uint32_t index, uint32_t cpu,
                                 uint64_t busid) {
    enum mp_status status;
    uint32_t class = 0, vendor = 0, device = 0;
    const char *model = NULL;
    struct gpu_names names = {UINT64_MAX, UINT64_MAX, UINT64_MAX, busid};
    bool computes = false, has_fabric = false;
    const char *subtype = mp_xml_get(e, "subtype");
    const bool is_switch = subtype != NULL && strcmp(subtype, "NVSwitch") == 0;
    MP_TRY(read_type(r, e, &class, &vendor, &device));
    MP_TRY(remember(r, e, index, is_switch, false));
    r->n_pci_devices++;
    for (const struct mp_xml *os = e->first; os != NULL; os = os->next) {
        const char *name = is_type(os, "OSDev") ? mp_xml_get(os, "name") : NULL;
        if (name == NULL)
            continue;
        MP_TRY(remember(r, os, index, false, true));
        names.cuda = number_of(name, "cuda") != UINT64_MAX ? number_of(name, "cuda") : names.cuda;
        names.nvml = number_of(name, "nvml") != UINT64_MAX ? number_of(name, "nvml") : names.nvml;
        names.rsmi = number_of(name, "rsmi") != UINT64_MAX ? number_of(name, "rsmi") : names.rsmi;
        computes = computes || strncmp(name, "opencl", 6) == 0 || strncmp(name, "ze", 2) == 0;
        has_fabric = has_fabric || is_fabric(os);
        for (const struct mp_xml *info = os->first; info != NULL && model == NULL; info = info->next) {
            const char *key = strcmp(info->name, "info") == 0 ? mp_xml_get(info, "name") : NULL;
            model = key != NULL && strcmp(key, "GPUModel") == 0 ? mp_xml_get(info, "value") : NULL;
        }
    }
    computes = computes || names.cuda != UINT64_MAX || names.nvml != UINT64_MAX || names.rsmi != UINT64_MAX;
    if (class == 0x0302 || class >> 8 == 0x12 || (class >> 8 == 0x03 && computes)) {
        if (r->h.n_gpus == TOPO_HOST_MAX_GPUS)
            return mp_fail_at(r->err, MP_ELIMIT, r->d->path, e->line, e->column, "more than %d GPUs",
                              TOPO_HOST_MAX_GPUS);
        struct topo_host_gpu *g = topo_host_add_gpu(&r->h);
        if (g == NULL)
            return mp_nomem(r->err, "reading a topology");
        *g = (struct topo_host_gpu){.pci = index, .device = topo_device_find((uint16_t)vendor, (uint16_t)device)};
        g->model = model != NULL ? model : mp_arena_printf(r->h.arena, "PCI device %04x:%04x", vendor, device);
        if (g->model == NULL)
            return mp_nomem(r->err, "reading a topology");
        r->names[r->h.n_gpus - 1] = names;
    } else if (class >> 8 == 0x02) {
        if (r->h.n_nics == TOPO_HOST_MAX_NICS)
            return mp_fail_at(r->err, MP_ELIMIT, r->d->path, e->line, e->column, "more than %d NICs",
                              TOPO_HOST_MAX_NICS);
        if (r->has_fabric && !has_fabric) { /* a network of its own, for managing */
            r->n_plain_nics++;
            return MP_OK;
        }
        if (has_fabric && !r->has_fabric) {
            r->n_plain_nics += r->h.n_nics;
            r->h.n_nics = 0;
            r->has_fabric = true;
        }
        /* The list grows when its length is a power of two: it is emptied at most once, so that may repeat. */
        struct topo_host_nic *n = topo_host_add_nic(&r->h);
        if (n == NULL)
            return mp_nomem(r->err, "reading a topology");
        *n = (struct topo_host_nic){.pci = index, .cpu = cpu};
    }
out:
    return status;
}

/* Bridges and devices below `e`, an I/O object; host bridges are no links. */
static enum mp_status add_io(struct reader *r, const struct mp_xml *e, uint32_t parent, uint32_t cpu) {
    enum mp_status status = MP_OK;
    const struct mp_xml_attribute *busid = mp_xml_attribute(e, "pci_busid");
    uint32_t index = parent;
    char quoted[200];
    if (busid != NULL) {
        uint64_t link = 0, id;
        if (!parse_busid(busid->value, &id))
            return mp_xml_fail_at(r->d, busid, r->err, "\"%s\" is not a PCI address (write it as 0000:1b:00.0)",
                                  mp_quote(busid->value, strlen(busid->value), quoted, sizeof quoted));
        MP_TRY(read_speed(r, e, &link));
        if (topo_host_add_pci(&r->h, parent, cpu, link) == NULL)
            return mp_nomem(r->err, "reading a topology");
        index = r->h.n_pci - 1;
        if (is_type(e, "PCIDev"))
            MP_TRY(add_device(r, e, index, cpu, id));
    } else if (is_type(e, "PCIDev")) {
        return mp_xml_fail(r->d, e, r->err, "a PCIDev has no pci_busid (write pci_busid=\"0000:1b:00.0\")");
    }
    for (const struct mp_xml *c = e->first; c != NULL; c = c->next)
        if (is_type(c, "Bridge") || is_type(c, "PCIDev"))
            MP_TRY(add_io(r, c, index, cpu));
out:
    return status;
}

/* What hangs from one object of the processor is one "CPU". */
static enum mp_status add_objects(struct reader *r, const struct mp_xml *e) {
    enum mp_status status = MP_OK;
    uint32_t cpu = MP_NONE;
    for (const struct mp_xml *c = e->first; c != NULL; c = c->next) {
        if (strcmp(c->name, "object") != 0)
            continue;
        if (mp_xml_get(c, "type") == NULL)
            return mp_xml_fail(r->d, c, r->err, "has no type (write for instance type=\"Package\")");
        if (!is_io(c)) {
            MP_TRY(add_objects(r, c));
            continue;
        }
        if (cpu == MP_NONE) {
            struct topo_cpu *added = r->h.n_cpus < TOPO_HOST_MAX_CPUS ? topo_host_add_cpu(&r->h) : NULL;
            if (added == NULL)
                return r->h.n_cpus < TOPO_HOST_MAX_CPUS
                           ? mp_nomem(r->err, "reading a topology")
                           : mp_fail_at(r->err, MP_ELIMIT, r->d->path, c->line, c->column,
                                        "more than %d objects with devices", TOPO_HOST_MAX_CPUS);
            cpu = r->h.n_cpus - 1;
        }
        MP_TRY(add_io(r, c, MP_NONE, cpu));
    }
out:
    return status;
}

/* CUDA's numbers, else NVML's, else ROCm's, where all GPUs have them and none twice; else by bus id. */
static const char *number_gpus(struct reader *r) {
    static const char *const kinds[] = {"CUDA's number", "NVML's number", "ROCm's number", "bus id"};
    for (uint32_t k = 0;; k++) {
        bool is_whole = true;
        for (uint32_t g = 0; g < r->h.n_gpus; g++) {
            const struct gpu_names *n = &r->names[g];
            r->h.gpus[g].order = k == 0 ? n->cuda : k == 1 ? n->nvml : k == 2 ? n->rsmi : n->busid;
            is_whole = is_whole && r->h.gpus[g].order != UINT64_MAX;
            for (uint32_t o = 0; o < g && is_whole; o++)
                is_whole = r->h.gpus[o].order != r->h.gpus[g].order;
        }
        if (k == 3 || is_whole) {
            topo_host_sort(&r->h);
            for (uint32_t g = 0; g < r->h.n_gpus; g++)
                r->h.gpus[g].dev = g;
            return kinds[k];
        }
    }
}

/* ---- the matrix ---- */

struct words {
    const struct mp_xml *e; /* of this name, and its next siblings */
    const char *name, *at;
};

/* The next blank-separated word of all elements of that name; false at the end. */
static bool next_word(struct words *w, const char **word, size_t *n) {
    for (;;) {
        for (; w->at == NULL && w->e != NULL; w->e = w->e->next)
            if (strcmp(w->e->name, w->name) == 0) {
                w->at = w->e->text;
                break;
            }
        if (w->e == NULL)
            return false;
        w->at += strspn(w->at, " \t\r\n");
        *n = strcspn(w->at, " \t\r\n");
        *word = w->at;
        w->at += *n;
        if (*n > 0)
            return true;
        w->at = NULL;
        w->e = w->e->next;
    }
}

enum { NOT_A_GPU = 0x7fffffff, A_SWITCH = 0x7ffffffe };

/* The GPU (sorted) of an index: "OSDev:802", "PCIDev:449", or a bare number. */
static bool place_of(const struct reader *r, const char *word, size_t n, bool is_os_device, uint32_t *out) {
    const char *colon = memchr(word, ':', n);
    uint64_t gp;
    bool is_device = colon == NULL;
    if (colon != NULL) {
        const size_t k = (size_t)(colon - word);
        is_os_device = k == 5 && memcmp(word, "OSDev", 5) == 0;
        is_device = is_os_device || (k == 6 && memcmp(word, "PCIDev", 6) == 0);
        n -= k + 1;
        word = colon + 1;
    }
    if (!mp_parse_u64(word, n, &gp))
        return false;
    *out = NOT_A_GPU;
    for (uint32_t i = 0; i < r->n_objects && is_device; i++) {
        const struct object *o = &r->objects[i];
        if (o->gp != gp || o->is_os_device != is_os_device)
            continue;
        *out = o->is_switch ? A_SWITCH : NOT_A_GPU;
        for (uint32_t g = 0; g < r->h.n_gpus; g++)
            *out = r->h.gpus[g].pci == o->pci ? g : *out;
    }
    return true;
}

static enum mp_status add_matrix(struct reader *r, const struct mp_xml *e) {
    enum mp_status status;
    const struct mp_xml_attribute *a;
    uint64_t n;
    uint32_t *who = NULL;
    const char *word, *type = mp_xml_get(e, "type");
    size_t length;
    struct words indexes = {e->first, "indexes", NULL}, values = {e->first, "u64values", NULL};
    bool to_cpu = false;
    char quoted[200];
    MP_TRY(mp_xml_need(r->d, e, "nbobjs", "write how many objects the matrix has", &a, r->err));
    MP_TRY(mp_xml_u64(r->d, a, 1, 1024, &n, r->err));
    who = mp_calloc(n, sizeof *who);
    if (who == NULL)
        return mp_nomem(r->err, "reading a topology");
    for (uint64_t i = 0; i < n; i++) {
        if (!next_word(&indexes, &word, &length)) {
            status = mp_xml_fail(r->d, e, r->err, "lists %" PRIu64 " of %" PRIu64 " indexes (write them all)", i, n);
            goto out;
        }
        if (!place_of(r, word, length, type != NULL && strcmp(type, "OSDev") == 0, &who[i])) {
            status = mp_xml_fail(r->d, indexes.e, r->err,
                                 "\"%s\" is not an index (write the object's gp_index, or OSDev:gp_index)",
                                 mp_quote(word, length, quoted, sizeof quoted));
            goto out;
        }
    }
    for (uint64_t i = 0; i < n; i++)
        for (uint64_t k = 0; k < n; k++) {
            uint64_t mega;
            if (!next_word(&values, &word, &length)) {
                status = mp_xml_fail(r->d, e, r->err, "has %" PRIu64 " of %" PRIu64 " values (write them all)",
                                     i * n + k, n * n);
                goto out;
            }
            if (!mp_parse_u64(word, length, &mega) || mega > 100000000) {
                status = mp_xml_fail(r->d, values.e, r->err,
                                     "\"%s\" is not a whole number of MB/s in [0, 100000000] (write one)",
                                     mp_quote(word, length, quoted, sizeof quoted));
                goto out;
            }
            if (i == k || mega == 0 || who[i] >= A_SWITCH)
                continue;
            if (who[k] == A_SWITCH) {
                r->h.gpus[who[i]].nvswitch_bytes_per_s += mega * 1000000;
                r->h.has_links = true;
            } else if (who[k] == NOT_A_GPU)
                to_cpu = true;
            else if (who[k] != who[i])
                MP_TRY(topo_host_link(&r->h, who[i], who[k], mega * 1000000, r->err));
        }
    for (uint32_t g = 1; g < r->h.n_gpus; g++)
        if ((r->h.gpus[g].nvswitch_bytes_per_s > 0) != (r->h.gpus[0].nvswitch_bytes_per_s > 0)) {
            status = mp_xml_fail(r->d, e, r->err,
                                 "GPU %u has no link to an NVSwitch, and others have (repair its links, and write the "
                                 "file again)",
                                 r->h.gpus[g].nvswitch_bytes_per_s > 0 ? 0 : g);
            goto out;
        }
    if (to_cpu)
        topo_host_note(&r->h, "Links from GPUs to CPUs are not in the model");
out:
    mp_free(who);
    return status;
}

/* ---- all ---- */

static enum mp_status read_topology(struct reader *r) {
    enum mp_status status;
    const struct mp_xml *root = r->d->root;
    const struct mp_xml_attribute *version;
    char quoted[200];
    if (strcmp(root->name, "topology") != 0)
        return mp_xml_fail(r->d, root, r->err,
                           "is not the root of an hwloc topology (write <topology version=\"2.0\">)");
    MP_TRY(mp_xml_need(r->d, root, "version", "that is hwloc 1: write the file with lstopo of hwloc 2 or 3", &version,
                       r->err));
    if ((version->value[0] != '2' && version->value[0] != '3') || version->value[1] != '.')
        return mp_xml_fail_at(r->d, version, r->err, "\"%s\" is not a version that is read (write 2.0 or 3.0)",
                              mp_quote(version->value, strlen(version->value), quoted, sizeof quoted));
    r->h.n_hosts = 1;
    MP_TRY(add_objects(r, root));
    if (r->h.n_gpus == 0)
        return mp_xml_fail(r->d, root, r->err,
                           r->n_pci_devices == 0
                               ? "lists no PCI devices, so no GPUs (write the file on the host with lstopo --whole-io, "
                                 "of an hwloc with PCI support; GPUs that are no PCI devices are not listed)"
                               : "has PCI devices, but no GPU among them (class 0302, or with a cuda, nvml, rsmi or "
                                 "opencl device)");
    const char *by = number_gpus(r);
    topo_host_note(&r->h, "hwloc XML: %u GPU%s by %s, %u NIC%s", r->h.n_gpus, r->h.n_gpus == 1 ? "" : "s", by,
                   r->h.n_nics, r->h.n_nics == 1 ? "" : "s");
    if (r->n_plain_nics > 0)
        topo_host_note(&r->h, "%u NICs without RDMA are left out", r->n_plain_nics);
    for (const struct mp_xml *e = root->first; e != NULL; e = e->next) {
        const char *name = mp_xml_get(e, "name");
        if ((strcmp(e->name, "distances2") == 0 || strcmp(e->name, "distances2hetero") == 0) && name != NULL &&
            (strcmp(name, "NVLinkBandwidth") == 0 || strcmp(name, "XGMIBandwidth") == 0)) {
            MP_TRY(add_matrix(r, e));
            topo_host_note(&r->h, "Links between GPUs: %s of the file", name);
        }
    }
    topo_host_note(&r->h, "PCIe rates as hwloc gives them, without what protocols take");
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
    MP_TRY(read_topology(r));
    MP_TRY(topo_host_write(&r->h, in, yaml, err));
out:
    mp_arena_free(r->h.arena);
    mp_xml_free(d);
    mp_free(r);
    return status;
}

const struct topo_reader topo_reader_hwloc_xml = {
    "hwloc-xml", "hwloc XML, versions 2 and 3 (lstopo FILE.xml): GPUs, NICs, bridges, NVLink of a host",
    "https://hwloc.readthedocs.io/en/stable/xml.html", detect, read};
