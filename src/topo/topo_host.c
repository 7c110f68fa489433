/* A host as files describe it: the lists, and what is known of devices. */
#include "topo_host.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Room for one more of `n`, in an arena: lists double when n is a power of two. */
static void *grow(struct topo_host *h, void *list, uint32_t n, size_t size) {
    if (n > 0 && (n & (n - 1)) != 0)
        return list;
    void *more = mp_arena_alloc(h->arena, n > 0 ? 2 * (size_t)n : 1, size);
    if (more != NULL && n > 0)
        memcpy(more, list, n * size);
    return more;
}

struct topo_cpu *topo_host_add_cpu(struct topo_host *h) {
    struct topo_cpu *list = grow(h, h->cpus, h->n_cpus, sizeof *list);
    if (list == NULL)
        return NULL;
    h->cpus = list;
    return &list[h->n_cpus++];
}

struct topo_pci *topo_host_add_pci(struct topo_host *h, uint32_t parent, uint32_t cpu, uint64_t bytes_per_s) {
    struct topo_pci *list = grow(h, h->pci, h->n_pci, sizeof *list);
    if (list == NULL)
        return NULL;
    h->pci = list;
    list[h->n_pci] = (struct topo_pci){parent, cpu, parent != MP_NONE ? list[parent].depth + 1 : 0, bytes_per_s};
    return &list[h->n_pci++];
}

struct topo_host_gpu *topo_host_add_gpu(struct topo_host *h) {
    struct topo_host_gpu *list = grow(h, h->gpus, h->n_gpus, sizeof *list);
    if (list == NULL)
        return NULL;
    h->gpus = list;
    return &list[h->n_gpus++];
}

struct topo_host_nic *topo_host_add_nic(struct topo_host *h) {
    struct topo_host_nic *list = grow(h, h->nics, h->n_nics, sizeof *list);
    if (list == NULL)
        return NULL;
    h->nics = list;
    return &list[h->n_nics++];
}

static int by_order(const void *a, const void *b) {
    const struct topo_host_gpu *x = a, *y = b;
    if (x->order != y->order)
        return x->order < y->order ? -1 : 1;
    return x->pci < y->pci ? -1 : x->pci > y->pci; /* no two have one PCI device */
}

void topo_host_sort(struct topo_host *h) {
    if (h->n_gpus > 1)
        qsort(h->gpus, h->n_gpus, sizeof *h->gpus, by_order);
}

enum mp_status topo_host_link(struct topo_host *h, uint32_t a, uint32_t b, uint64_t bytes_per_s, struct mp_error *err) {
    if (h->link == NULL)
        h->link = mp_arena_alloc(h->arena, (size_t)h->n_gpus * h->n_gpus, sizeof *h->link);
    if (h->link == NULL)
        return mp_nomem(err, "reading a topology");
    h->link[(size_t)a * h->n_gpus + b] += bytes_per_s;
    h->has_links = true;
    return MP_OK;
}

void topo_host_note(struct topo_host *h, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    if (h->n_notes + 2 < sizeof h->notes) {
        h->n_notes += (uint32_t)snprintf(h->notes + h->n_notes, 3, "%s", h->n_notes > 0 ? ". " : "");
        const int n = vsnprintf(h->notes + h->n_notes, sizeof h->notes - h->n_notes, fmt, args);
        h->n_notes = n < 0 || (size_t)n >= sizeof h->notes - h->n_notes ? (uint32_t)sizeof h->notes - 1
                                                                        : h->n_notes + (uint32_t)n;
    }
    va_end(args);
}

const struct topo_device *topo_device_find(uint16_t vendor, uint16_t device) {
    static const struct topo_device known[] = {
        {0x10de, 0x1db1, "v100", "v100-16gb", "memory: 16 GiB"},
        {0x10de, 0x1db5, "v100", "v100", NULL},
        {0x10de, 0x1db8, "v100", "v100", NULL},
        {0x10de, 0x1db4, "v100-pcie", "v100-pcie", NULL},
        {0x10de, 0x1db6, "v100-pcie", "v100-pcie-32gb", "memory: 32 GiB"},
        {0x10de, 0x20b0, "a100", "a100-40gb", "memory: 40 GiB, hbm: 1.555 TB/s"},
        {0x10de, 0x20b2, "a100", "a100", NULL},
        {0x10de, 0x26b9, "l40s", "l40s", NULL},
        {0x10de, 0x2330, "h100", "h100", NULL},
        {0x10de, 0x2324, "h800", "h800", NULL},
        {0x10de, 0x2335, "h200", "h200", NULL},
        {0x10de, 0x2901, "b200", "b200", NULL},
        {0x1002, 0x74a1, "mi300x", "mi300x", NULL},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].vendor == vendor && known[i].device == device)
            return &known[i];
    return NULL;
}

uint64_t topo_nvlink_lane(uint32_t sm) {
    const uint64_t mega = 1000000;
    return sm >= 107   ? 31200 * mega
           : sm >= 100 ? 40100 * mega
           : sm >= 90  ? 20600 * mega
           : sm == 86  ? 12000 * mega
           : sm >= 70  ? 20000 * mega
                       : 18000 * mega;
}
