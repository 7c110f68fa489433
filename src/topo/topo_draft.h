/* What several readers of other programs' topologies share: a topology as plain arrays, written as YAML text at the
 * end; and nested levels found in a matrix of distances. */
#ifndef TOPO_DRAFT_H
#define TOPO_DRAFT_H

#include "topo_reader.h"

struct topo_draft_level {
    const char *name;
    uint64_t latency_ns, pair_bytes_per_s; /* pair 0 = a switch */
    uint64_t *uplink;                      /* of each group of one host, bytes/s; NULL = none */
};

/* Ports are in bytes per second; at a level above 0 out = 0 means the port of the level below. GPUs of one host with
 * the same shared > 0 have one port together. */
struct topo_draft_gpu {
    uint32_t group[MP_MAX_LEVELS]; /* counted from 0 in a host */
    uint64_t out[MP_MAX_LEVELS], in[MP_MAX_LEVELS];
    uint32_t shared[MP_MAX_LEVELS];
};

/* One host (or the whole cluster, when the file describes that); n_hosts of them make the topology. */
struct topo_draft {
    const struct topo_source *in;
    struct mp_arena *arena;
    const char *gpu_name; /* built in */
    struct mp_gpu_type gpu_type;
    struct topo_ports ports; /* both from topo_draft_gpus on */
    uint32_t n_levels, n_gpus;
    bool has_network; /* the last level joins the hosts: each is one group of the level below */
    struct topo_draft_level levels[MP_MAX_LEVELS];
    struct topo_draft_gpu *gpus; /* [n_gpus] */
    size_t n_said;
    char said[TOPO_SOURCE_MAX + 1]; /* for `source:` */
};

/* Everything lives in an arena that topo_draft_free frees. Refuses a GPU that is not built in (why as
 * topo_source_gpu). */
enum mp_status topo_draft_new(struct topo_draft **out, const struct topo_source *in, const char *why,
                              struct mp_error *err) MP_MUST_CHECK;
void topo_draft_free(struct topo_draft *d); /* NULL is fine */
/* Makes the GPUs, and reads what their type is. Refuses more than MP_MAX_GPUS in all hosts, at `line` of the file. */
enum mp_status topo_draft_gpus(struct topo_draft *d, uint32_t n_gpus, uint64_t line,
                               struct mp_error *err) MP_MUST_CHECK;
/* The same port for all GPUs at a level. */
void topo_draft_port(struct topo_draft *d, uint32_t level, uint64_t bytes_per_s);
/* With several hosts: one more level, "nic", that joins them; each GPU gets one NIC of its preset. False when there is
 * no level left. */
bool topo_draft_network(struct topo_draft *d);
/* To be called when the last level's shared ports are set: a port can be shared inside a group of level 0 only. One
 * that all GPUs of the host share becomes the host's uplink; of others each GPU gets an equal part, which is said. */
enum mp_status topo_draft_share(struct topo_draft *d, struct mp_error *err) MP_MUST_CHECK;
/* Adds to `source:`, a blank in front. */
void topo_draft_say(struct topo_draft *d, const char *fmt, ...) MP_PRINTF(2, 3);
void topo_draft_write(const struct topo_draft *d, struct mp_out *yaml);

/* ---- levels in a matrix ---- */

/* Groups of each level: group[level * n + gpu], numbered by their first GPU; the last level has one group. */
struct topo_nest {
    uint32_t n, n_levels;
    uint32_t *group;
};

enum topo_nest_outcome { TOPO_NEST_OK, TOPO_NEST_BROKEN, TOPO_NEST_SCATTERED };

/* distance[i * n + j], symmetric, 0 to n_levels - 1; GPUs at distance <= l are to be one group of level l. BROKEN: for
 * some l they are not: at[0] to at[1] and at[1] to at[2] are nearer than at[0] to at[2]. SCATTERED: a group is not a
 * run of GPUs: at[0] and at[2] belong to it and at[1] between them does not. nest->group has n_levels * n entries. */
enum topo_nest_outcome topo_nest_find(struct topo_nest *nest, const uint8_t *distance, uint32_t at[3]);
/* Are the groups runs of GPUs? Fills `at` as SCATTERED does when not. */
bool topo_nest_runs(const struct topo_nest *nest, uint32_t at[3]);
/* An order of the GPUs in which all groups are runs, as "0 2 1 3", cut at size with "..."; returns buf. */
const char *topo_nest_order(const struct topo_nest *nest, char *buf, size_t size);

/* ---- text ---- */

/* Line and column of byte `at`. */
void topo_position(const char *text, size_t at, uint64_t *line, uint64_t *column);
/* Bytes per second or nanoseconds in one of the units of topologies/FORMAT.md ("GB/s", "us"; also "GBps", "Gbps");
 * 0 = not a unit. */
double topo_rate_unit(const char *s, size_t n);
double topo_time_unit(const char *s, size_t n);

#endif
