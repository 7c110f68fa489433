/* What the drawings of topologies share: which parts are alike, so that one of them stands for all. */
#ifndef TOPOLOGY_SHAPE_H
#define TOPOLOGY_SHAPE_H

#include <moeplan/report.h>

struct shape {
    const struct mp_topology *t;
    uint32_t *first[MP_MAX_LEVELS]; /* [n_groups + 1] first GPU of each group of the level, n_gpus at the end */
};
enum mp_status shape_new(struct shape *s, const struct mp_topology *t, struct mp_error *err) MP_MUST_CHECK;
void shape_free(struct shape *s);

/* How many GPUs send through the same port of `level`. */
uint32_t shape_sharers(const struct mp_topology *t, uint32_t gpu, uint32_t level);
/* Has the GPU a port of its own for this level (and not that of the level below)? */
bool shape_has_port(const struct mp_topology *t, uint32_t gpu, uint32_t level);
/* Same type, speed, and ports by rate and by how many share them. */
bool shape_gpus_alike(const struct mp_topology *t, uint32_t a, uint32_t b);
/* Two groups of one level that differ only in the numbers of their GPUs. */
bool shape_groups_alike(const struct shape *s, uint32_t level, uint32_t a, uint32_t b);
/* Groups of the level below in group g of `level` (> 0): from *begin to before *end. */
void shape_children(const struct shape *s, uint32_t level, uint32_t g, uint32_t *begin, uint32_t *end);
/* "380.0 GB/s", or "380.0 GB/s out, 190.0 GB/s in". buf of at least 80. */
const char *shape_rate(const struct mp_topology *t, uint32_t out, uint32_t in, char *buf);

#endif
