/* A GPU cluster: nested levels (innermost first: NVLink domain, then node or rack, then cluster), one out and one in
 * port per GPU and level it uses, GPU types. Immutable after load; may be shared between threads. */
#ifndef MOEPLAN_TOPOLOGY_H
#define MOEPLAN_TOPOLOGY_H

#include <moeplan/alloc.h>
#include <moeplan/io.h>
#include <moeplan/limits.h>
#include <moeplan/status.h>

MP_API_BEGIN

/* Compute coefficients of one (GPU type, model): time of a GPU in a layer = max(a + b*G, c + beta*N), G = activated
 * experts, N = token rows after tile padding. Picoseconds, so that per-token costs keep their digits as integers. */
struct mp_compute_coefficients {
    const char *model; /* which model they were measured for */
    uint64_t a_ps, b_ps, c_ps, beta_ps;
};

struct mp_gpu_type {
    const char *name, *source; /* source: where the figures come from */
    uint64_t memory_bytes;
    uint64_t hbm_bytes_per_s;         /* data-sheet peak */
    uint64_t flops_16bit, flops_8bit; /* dense, per second; flops_8bit 0 = no such unit, 16-bit is used */
    uint32_t hbm_efficiency_ppm, flops_efficiency_ppm; /* what kernels reach of the peak; 1,000,000 = all */
    uint64_t kernel_ns;                                /* fixed cost of a grouped GEMM: the a and c of the roofline */
    uint32_t tile_tokens;                              /* each expert's tokens are padded to a multiple of this */
    uint32_t n_coefficients;                           /* measured overrides, if any */
    const struct mp_compute_coefficients *coefficients;
};

struct mp_gpu {
    uint32_t type;                 /* index into types */
    uint32_t speed_ppm;            /* compute speed inside its type; 1,000,000 = nominal */
    uint32_t group[MP_MAX_LEVELS]; /* which group of each level it belongs to; group[0] is its node (NVLink domain) */
    uint32_t out_port[MP_MAX_LEVELS],
        in_port[MP_MAX_LEVELS]; /* resource ids; several GPUs with the same id share a NIC */
};

/* One directed capacity: an out or in port of a GPU, a shared NIC, or a group's uplink. */
struct mp_resource {
    uint64_t bytes_per_s; /* > 0 */
    uint32_t level;
    bool is_in, is_uplink;
    uint32_t first_gpu; /* lowest GPU that uses it; for names in messages */
};

struct mp_level {
    const char *name; /* "nvlink", "ib", ... */
    uint32_t n_groups;
    uint64_t latency_ns;       /* alpha of one message at this level */
    uint64_t pair_bytes_per_s; /* > 0: a mesh; no single pair exceeds this (MI300X: 64 GB/s); 0 = switched */
    /* Uplink of each group of this level into the next: resource ids [n_groups], or NULL when it never limits. */
    const uint32_t *uplink_out, *uplink_in;
    /* Incast: goodput factor of an in port of this level when k flows arrive at once: incast_ppm[min(k, n_incast) - 1];
     * n_incast 0 = always 1. Non-increasing, first entry 1,000,000. */
    uint32_t n_incast;
    const uint32_t *incast_ppm;
};

struct mp_topology {
    const char *name, *source; /* source: where its figures come from, a line of text; "" = not said */
    uint32_t n_gpus, n_types, n_levels, n_resources;
    const struct mp_gpu *gpus;           /* [n_gpus] */
    const struct mp_gpu_type *types;     /* [n_types] */
    const struct mp_level *levels;       /* [n_levels]; the last has one group that holds every GPU */
    const struct mp_resource *resources; /* [n_resources] */
    uint64_t launch_ns;                  /* one collective launch (single shot) */
    uint64_t stage_launch_ns;            /* each stage of a staged order */
    char sha256[65]; /* of the file's bytes, of the short string, or, imported, of what mp_topology_write writes */
    struct mp_arena *arena;
};

/* What a transfer src -> dst uses. */
struct mp_path {
    uint32_t n; /* resources; 0 when src == dst */
    uint32_t resource[2 + 2 * MP_MAX_LEVELS];
    uint32_t level; /* level of the transfer: 0 = inside a node */
    uint64_t latency_ns;
    uint64_t cap_bytes_per_s; /* rate cap of the pair; 0 = none */
};

/* Numbering, besides what stands above: groups of every level are numbered by their first GPU and hold consecutive
 * GPUs; groups are nested (what shares a group shares all outer ones); a port is shared only inside one node, its in
 * side by the same GPUs as its out side; the port of a level may be that of the level below; of a level all groups have
 * uplinks or none, the last level has none. */

/* `spec` is a file (YAML, topologies/FORMAT.md), a preset's name, or a short string: "4x8:h100" (4 nodes of 8),
 * "8:a100" (one node), "2x4:a100+2x4:l40s"; or "[N x]FILE[:GPU]" with a file of another program, known by its content
 * (mp_topology_reader lists them): "dgx.xml", "4xdgx.xml:h100" (4 hosts of that file, whose GPUs are h100). A file is
 * tried first when `spec` names one that exists. */
enum mp_status mp_topology_load(struct mp_topology **out, const char *spec, const struct mp_limits *limits,
                                struct mp_error *err) MP_MUST_CHECK;
/* The same of bytes: "n_hosts x in:gpu" (gpu NULL = none); a moeplan topology too, with n_hosts 1 and no gpu. */
enum mp_status mp_topology_import(struct mp_topology **out, const struct mp_in *in, uint32_t n_hosts, const char *gpu,
                                  const struct mp_limits *limits, struct mp_error *err) MP_MUST_CHECK;
/* The file in `spec`, there or missing, without N and GPU; false when spec is a preset, a short string or nothing. */
bool mp_topology_file(const char *spec, char *path, size_t size);
/* Which program's topology this is by its content; NULL = none, or moeplan's own. */
const char *mp_topology_detect(const struct mp_in *in);
/* moeplan's own YAML only. */
enum mp_status mp_topology_parse(struct mp_topology **out, const struct mp_in *in, const struct mp_limits *limits,
                                 struct mp_error *err) MP_MUST_CHECK;
void mp_topology_free(struct mp_topology *t); /* NULL is fine */
/* The structural checker: every invariant of the comments above. MP_EBUG with the broken one named. Called after every
 * load, and by tests after every change. */
enum mp_status mp_topology_check(const struct mp_topology *t, struct mp_error *err) MP_MUST_CHECK;
/* The canonical YAML of a topology; reading it back gives an equal one. */
void mp_topology_write(const struct mp_topology *t, struct mp_out *o);
/* In the form `format` (mp_topology_writer lists them; "yaml" is mp_topology_write). MP_EUSAGE: no such form.
 * MP_EINPUT: it cannot carry this topology, and the message says what. `lost` (size > 0 bytes): what it does not carry
 * of it, sentences with a newline behind each, "" = nothing. */
enum mp_status mp_topology_write_as(const struct mp_topology *t, const char *format, struct mp_out *o, char *lost,
                                    size_t size, struct mp_error *err) MP_MUST_CHECK;

void mp_topology_path(const struct mp_topology *t, uint32_t src, uint32_t dst, struct mp_path *out);
static inline uint32_t mp_topology_n_nodes(const struct mp_topology *t) { return t->levels[0].n_groups; }
static inline uint32_t mp_topology_node(const struct mp_topology *t, uint32_t gpu) { return t->gpus[gpu].group[0]; }

/* Built-in GPU types (h100, ...): fills *name and *summary of preset i; false past the last. */
bool mp_gpu_preset(uint32_t i, const char **name, const char **summary);

/* Readers and writers of topologies of other programs: entry i; false past the last; reference may become NULL. */
bool mp_topology_reader(uint32_t i, const char **name, const char **summary, const char **reference);
bool mp_topology_writer(uint32_t i, const char **name, const char **summary, const char **reference);

/* How fast the links of built-in GPU i are that programs only name (topologies/link-classes.yaml), as a sentence cut at
 * `size`; false past the last. */
bool mp_topology_links(uint32_t i, const char **gpu, char *text, size_t size);

/* Built-in topologies (nvl72, ...), likewise. */
bool mp_topology_preset(uint32_t i, const char **name, const char **summary);

MP_API_END

#endif
