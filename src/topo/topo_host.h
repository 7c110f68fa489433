/* A host as its files describe it: PCI devices in a tree, GPUs, NICs and the links between GPUs. The NCCL and hwloc
 * readers fill it; topo_host_write says what moeplan makes of it. */
#ifndef TOPO_HOST_H
#define TOPO_HOST_H

#include "topo_reader.h"

enum { TOPO_HOST_MAX_GPUS = 1024, TOPO_HOST_MAX_NICS = 1024, TOPO_HOST_MAX_CPUS = 1024 };

/* A NUMA node, with its PCI root. */
struct topo_cpu {
    uint32_t host;        /* 0, or which host of a file that holds several */
    uint64_t bytes_per_s; /* to the other CPUs of the host; 0 = not known */
};
struct topo_pci {
    uint32_t parent, cpu; /* parent: index of a bridge, or MP_NONE */
    uint32_t depth;       /* bridges above */
    uint64_t bytes_per_s; /* of its link towards the parent; 0 = not known */
};
/* A GPU that is known by its PCI device: a built-in one, or one of them with other memory. */
struct topo_device {
    uint16_t vendor, device;
    const char *preset, *name;
    const char *changes; /* of the preset, as keys of a flow mapping; NULL = none */
};
struct topo_host_gpu {
    uint32_t pci;
    uint64_t order; /* the order that moeplan numbers GPUs in */
    uint32_t dev;   /* number on its host */
    uint32_t sm;    /* 0 = not known */
    uint64_t nvswitch_bytes_per_s;
    const struct topo_device *device; /* NULL = not known */
    const char *model;                /* what the file calls it: text, or NULL */
};
struct topo_host_nic {
    uint32_t pci, cpu;    /* pci MP_NONE: hangs from the CPU */
    uint64_t bytes_per_s; /* 0 = not in the file */
    uint64_t latency_ns;  /* 0 = not in the file */
};
struct topo_host {
    struct mp_arena *arena;
    struct topo_cpu *cpus;
    struct topo_pci *pci;
    struct topo_host_gpu *gpus;
    struct topo_host_nic *nics;
    uint32_t n_cpus, n_pci, n_gpus, n_nics, n_hosts;
    uint64_t *link; /* [gpu a][gpu b] bytes/s of direct links; NULL = none. After topo_host_sort */
    bool has_links; /* of any kind, to NVSwitches too */
    char notes[1600];
    uint32_t n_notes; /* bytes used */
};

/* Appends to the list, which grows by doubling; zeros where nothing is given. NULL = out of memory. */
struct topo_cpu *topo_host_add_cpu(struct topo_host *h);
struct topo_pci *topo_host_add_pci(struct topo_host *h, uint32_t parent, uint32_t cpu, uint64_t bytes_per_s);
struct topo_host_gpu *topo_host_add_gpu(struct topo_host *h);
struct topo_host_nic *topo_host_add_nic(struct topo_host *h);
/* GPUs by their order; equal ones keep theirs. */
void topo_host_sort(struct topo_host *h);
enum mp_status topo_host_link(struct topo_host *h, uint32_t a, uint32_t b, uint64_t bytes_per_s,
                              struct mp_error *err) MP_MUST_CHECK;
/* A sentence for `source:`; ". " is put between them. */
void topo_host_note(struct topo_host *h, const char *fmt, ...) MP_PRINTF(2, 3);
/* NULL = not one that moeplan knows by its number. */
const struct topo_device *topo_device_find(uint16_t vendor, uint16_t device);
/* What an NVLink lane carries between GPUs of this compute capability (NCCL's src/graph/topo.h), bytes/s. */
uint64_t topo_nvlink_lane(uint32_t sm);
/* Writes in->n_hosts of it. Refuses, without a line, what the model cannot hold or the file does not say. */
enum mp_status topo_host_write(struct topo_host *h, const struct topo_source *in, struct mp_out *yaml,
                               struct mp_error *err) MP_MUST_CHECK;

/* NICs of a GPU (topo_host_nics.c). */
struct topo_nic_set {
    uint32_t n, *nics; /* ascending */
    uint64_t bytes_per_s;
    uint32_t n_users, first_user; /* GPUs with the same set */
    bool is_split;                /* overlaps other sets: bytes_per_s is this GPU's share */
};
/* sets[gpu]. NICs without a rate have `bytes_per_s` (not 0). n = 0 where a GPU reaches none. */
enum mp_status topo_host_nics(struct topo_nic_set **sets, const struct topo_host *h, uint64_t bytes_per_s,
                              struct mp_error *err) MP_MUST_CHECK;

#endif
