/* One layer's placement while it is being built: room, distinct replicas, and the exchange that makes every
 * feasible set fit. */
#include "grid.h"
#include <stdlib.h>
#include <string.h>

enum mp_status mp_grid_new(struct mp_grid **out, const struct mp_problem *in, const struct mp_draft *draft,
                           struct mp_arena *arena, struct mp_error *err) {
    const struct mp_plan *p = draft->plan;
    struct mp_grid *g = mp_arena_alloc(arena, 1, sizeof *g);
    if (g == NULL)
        return mp_nomem(err, "placing experts");
    g->n_gpus = p->n_gpus;
    g->n_experts = p->n_experts;
    g->n_words = (p->n_experts + 63) / 64;
    g->is_distinct = in->needs_distinct;
    g->first_slot = p->gpu_first_slot;
    g->n_used = mp_arena_alloc(arena, p->n_gpus, sizeof *g->n_used);
    g->holds = mp_arena_alloc(arena, (size_t)p->n_gpus * g->n_words, sizeof *g->holds);
    if (g->n_used == NULL || g->holds == NULL)
        return mp_nomem(err, "placing experts");
    *out = g;
    return MP_OK;
}

void mp_grid_begin(struct mp_grid *g, struct mp_plan *plan, uint32_t layer) {
    g->slots = plan->layers[layer].slot_expert;
    memset(g->slots, 0xff, plan->n_slots * sizeof *g->slots);
    memset(g->n_used, 0, g->n_gpus * sizeof *g->n_used);
    memset(g->holds, 0, (size_t)g->n_gpus * g->n_words * sizeof *g->holds);
}

bool mp_grid_has(const struct mp_grid *g, uint32_t gpu, uint32_t expert) {
    return (g->holds[(size_t)gpu * g->n_words + expert / 64] >> (expert % 64) & 1) != 0;
}

static bool has_room(const struct mp_grid *g, uint32_t gpu) {
    return g->n_used[gpu] < g->first_slot[gpu + 1] - g->first_slot[gpu];
}

bool mp_grid_can(const struct mp_grid *g, uint32_t gpu, uint32_t expert) {
    return has_room(g, gpu) && !(g->is_distinct && mp_grid_has(g, gpu, expert));
}

void mp_grid_put(struct mp_grid *g, uint32_t gpu, uint32_t expert) {
    g->slots[g->first_slot[gpu] + g->n_used[gpu]++] = (uint16_t)expert;
    g->holds[(size_t)gpu * g->n_words + expert / 64] |= UINT64_C(1) << (expert % 64);
}

/* Every GPU with room has the expert. Another GPU is full without it, so it holds more distinct experts than one
 * with room, and one of them can move there. */
static bool make_way(struct mp_grid *g, uint32_t expert) {
    for (uint32_t roomy = 0; roomy < g->n_gpus; roomy++) {
        if (!has_room(g, roomy))
            continue;
        for (uint32_t full = 0; full < g->n_gpus; full++) {
            if (full == roomy || mp_grid_has(g, full, expert))
                continue;
            for (uint32_t s = g->first_slot[full]; s < g->first_slot[full] + g->n_used[full]; s++) {
                uint32_t moved = g->slots[s];
                if (mp_grid_has(g, roomy, moved))
                    continue;
                g->holds[(size_t)full * g->n_words + moved / 64] &= ~(UINT64_C(1) << (moved % 64));
                mp_grid_put(g, roomy, moved);
                g->n_used[full]--;
                memmove(g->slots + s, g->slots + s + 1, (g->first_slot[full] + g->n_used[full] - s) * sizeof *g->slots);
                mp_grid_put(g, full, expert);
                return true;
            }
        }
    }
    return false;
}

bool mp_grid_put_from(struct mp_grid *g, uint32_t gpu, uint32_t expert) {
    for (uint32_t i = 0; i < g->n_gpus; i++) {
        uint32_t at = (gpu + i) % g->n_gpus;
        if (mp_grid_can(g, at, expert)) {
            mp_grid_put(g, at, expert);
            return true;
        }
    }
    return make_way(g, expert);
}

void mp_grid_quota(const struct mp_grid *g, uint32_t n, uint32_t *quota) {
    uint32_t rest = n, n_open = g->n_gpus;
    for (uint32_t gpu = 0; gpu < g->n_gpus; gpu++)
        quota[gpu] = 0;
    while (rest > 0 && n_open > 0) {
        uint32_t each = rest / n_open, more = each == 0 ? rest : 0; /* a round; the last gives one to the first */
        n_open = 0;
        for (uint32_t gpu = 0; gpu < g->n_gpus; gpu++) {
            uint32_t room = g->first_slot[gpu + 1] - g->first_slot[gpu] - quota[gpu];
            uint32_t want = each > 0 ? each : more > 0, take = room < want ? room : want;
            more -= each == 0 ? take : 0;
            quota[gpu] += take;
            rest -= take;
            n_open += room > take;
        }
    }
}

static int by_expert(const void *a, const void *b) {
    uint16_t x = *(const uint16_t *)a, y = *(const uint16_t *)b;
    return (x > y) - (x < y);
}

void mp_grid_sort(struct mp_grid *g) {
    for (uint32_t gpu = 0; gpu < g->n_gpus; gpu++)
        qsort(g->slots + g->first_slot[gpu], g->n_used[gpu], sizeof *g->slots, by_expert);
}
