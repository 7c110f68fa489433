/* What Slurm's topology files say: switches (or blocks) and the nodes below them. */
#ifndef TOPO_SLURM_H
#define TOPO_SLURM_H

#include "topo_reader.h"

/* Names of a hostlist, at most `max`: "tux[0-3,12],login1". */
struct slurm_names {
    uint32_t n;
    char (*name)[MP_MAX_NAME + 1];
};
/* Expands n bytes of text that stand at line:column of `path` (each byte one column). Refuses more than `max` names
 * before any is made. Names live in `arena`. */
enum mp_status slurm_expand(struct slurm_names *out, const char *text, size_t n, uint32_t max, struct mp_arena *arena,
                            const char *path, uint64_t line, uint64_t column, struct mp_error *err) MP_MUST_CHECK;

struct slurm_place {
    const char *text; /* of a value; NULL = not given */
    size_t length;
    uint64_t line, column;
};

/* A switch or block as the file has it. */
struct slurm_record {
    struct slurm_place name, nodes, switches;
};

enum { SLURM_MAX_RECORDS = MP_MAX_GPUS, SLURM_MAX_HEIGHT = MP_MAX_LEVELS - 1 };

struct slurm_file {
    const struct topo_source *in;
    struct mp_arena *arena;
    uint32_t n_records, n_room;
    struct slurm_record *records;
    bool has_switches, has_blocks, has_link_speed;
};

bool slurm_detect(const char *text, size_t size);
/* topology.conf, or topology.yaml. */
enum mp_status slurm_parse(struct slurm_file *f, struct mp_error *err) MP_MUST_CHECK;

/* The nodes in depth-first order; switch_of[height - 1][node] numbers the switch of each height (1 = leaf) over each
 * node, from 0 in this order. */
struct slurm_tree {
    uint32_t n_nodes, height;
    uint32_t *switch_of[SLURM_MAX_HEIGHT]; /* [n_nodes] each */
};
/* Refuses, at the line: nodes in two leaves, cycles, switches that are missing, empty, in two others or in none. */
enum mp_status slurm_build(struct slurm_tree *t, const struct slurm_file *f, uint32_t max_nodes,
                           struct mp_error *err) MP_MUST_CHECK;

#endif
