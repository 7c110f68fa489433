/* The nodes of a cluster as a cluster of one end each. */
#include "node_level.h"
#include <moeplan/base.h>
#include <string.h>

/* Sum of the different ports of one level of the GPUs [from, to); *is_as_below: they are those of the level below. */
static uint64_t port_sum(const struct mp_topology *t, uint32_t from, uint32_t to, uint32_t level, bool is_in,
                         bool *is_as_below) {
    uint64_t sum = 0;
    *is_as_below = level > 1;
    for (uint32_t g = from; g < to; g++) {
        const uint32_t *ports = is_in ? t->gpus[g].in_port : t->gpus[g].out_port;
        bool is_known = false;
        for (uint32_t x = from; x < g && !is_known; x++)
            is_known = (is_in ? t->gpus[x].in_port : t->gpus[x].out_port)[level] == ports[level];
        if (!is_known && mp_add_overflow(sum, t->resources[ports[level]].bytes_per_s, &sum))
            sum = UINT64_MAX;
        *is_as_below = *is_as_below && ports[level] == ports[level - 1];
    }
    return sum;
}

static uint64_t uplink_or(const struct mp_topology *t, uint32_t v, bool is_in, uint64_t rate) {
    const uint32_t *uplink = is_in ? t->levels[0].uplink_in : t->levels[0].uplink_out;
    uint64_t limit = uplink == NULL ? UINT64_MAX : t->resources[uplink[v]].bytes_per_s;
    return rate < limit ? rate : limit;
}

/* Uplinks of a level that stays. */
static uint32_t *copy_uplinks(const struct mp_topology *t, uint32_t level, bool is_in, struct mp_resource *resources,
                              uint32_t *n_resources, const uint32_t *node_of, struct mp_arena *arena) {
    const struct mp_level *v = &t->levels[level];
    const uint32_t *uplink = is_in ? v->uplink_in : v->uplink_out;
    uint32_t *out = mp_arena_alloc(arena, v->n_groups, sizeof *out);
    for (uint32_t k = 0; k < v->n_groups && out != NULL; k++) {
        out[k] = *n_resources;
        resources[*n_resources] = t->resources[uplink[k]];
        resources[*n_resources].level = level - 1;
        resources[(*n_resources)++].first_gpu = node_of[t->resources[uplink[k]].first_gpu];
    }
    return out;
}

enum mp_status mp_node_level(struct mp_topology **out, const struct mp_topology *t, struct mp_arena *arena,
                             struct mp_error *err) {
    const uint32_t n = mp_topology_n_nodes(t), n_levels = t->n_levels - 1;
    struct mp_topology *o = mp_arena_alloc(arena, 1, sizeof *o);
    struct mp_gpu *gpus = mp_arena_alloc(arena, n, sizeof *gpus);
    struct mp_level *levels = mp_arena_alloc(arena, n_levels, sizeof *levels);
    uint32_t *first = mp_arena_alloc(arena, (size_t)n + 1, sizeof *first);
    uint32_t *node_of = mp_arena_alloc(arena, t->n_gpus, sizeof *node_of);
    struct mp_resource *resources = mp_arena_alloc(arena, (size_t)2 * n * n_levels + t->n_resources, sizeof *resources);
    *out = NULL;
    if (o == NULL || gpus == NULL || levels == NULL || first == NULL || node_of == NULL || resources == NULL)
        return mp_nomem(err, "ordering transfers between nodes");
    uint32_t n_resources = 0;
    for (uint32_t g = 0; g < t->n_gpus; g++) {
        node_of[g] = mp_topology_node(t, g);
        first[node_of[g] + 1] = g + 1;
    }
    for (uint32_t v = 0; v < n; v++) {
        gpus[v] = t->gpus[first[v]];
        for (uint32_t l = 0; l < n_levels; l++) {
            gpus[v].group[l] = t->gpus[first[v]].group[l + 1];
            for (int side = 0; side < 2; side++) {
                uint32_t *ports = side ? gpus[v].in_port : gpus[v].out_port;
                bool is_as_below;
                uint64_t rate = port_sum(t, first[v], first[v + 1], l + 1, side == 1, &is_as_below);
                ports[l] = is_as_below ? ports[l - 1] : n_resources;
                if (!is_as_below)
                    resources[n_resources++] = (struct mp_resource){.bytes_per_s = uplink_or(t, v, side == 1, rate),
                                                                    .level = l,
                                                                    .is_in = side == 1,
                                                                    .first_gpu = v};
            }
        }
    }
    for (uint32_t l = 0; l < n_levels; l++) {
        levels[l] = t->levels[l + 1];
        levels[l].pair_bytes_per_s = 0; /* of pairs of GPUs */
        if (levels[l].uplink_out == NULL)
            continue;
        levels[l].uplink_out = copy_uplinks(t, l + 1, false, resources, &n_resources, node_of, arena);
        levels[l].uplink_in = copy_uplinks(t, l + 1, true, resources, &n_resources, node_of, arena);
        if (levels[l].uplink_out == NULL || levels[l].uplink_in == NULL)
            return mp_nomem(err, "ordering transfers between nodes");
    }
    *o = *t;
    o->n_gpus = n;
    o->n_levels = n_levels;
    o->n_resources = n_resources;
    o->gpus = gpus;
    o->levels = levels;
    o->resources = resources;
    o->arena = NULL;
    *out = o;
    return MP_OK;
}
