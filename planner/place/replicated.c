/* A placement of one layer whose replicas come and go, on the evaluator of one layer: shifts of replicas become moves
 * of items. */
#include "joint.h"
#include <string.h>

enum mp_status mp_replicated_new(struct mp_replicated *out, const struct mp_layer_cost_spec *spec, const uint8_t *most,
                                 const uint32_t *first_slot, struct mp_arena *arena, enum mp_outcome *outcome,
                                 struct mp_error *err) {
    struct mp_layer_cost_spec s = *spec;
    *out = (struct mp_replicated){.n_experts = spec->problem->workload->trace->n_experts,
                                  .n_gpus = spec->problem->topology->n_gpus,
                                  .most = most,
                                  .rule = spec->rule,
                                  .first_slot = first_slot};
    out->first_item = mp_arena_alloc(arena, (size_t)out->n_experts + 1, sizeof *out->first_item);
    out->set = mp_arena_alloc(arena, out->n_experts, sizeof *out->set);
    out->n_used = mp_arena_alloc(arena, out->n_gpus, sizeof *out->n_used);
    out->bank = mp_arena_alloc(arena, out->n_experts, sizeof *out->bank);
    out->node = mp_arena_alloc(arena, out->n_gpus, sizeof *out->node);
    out->on_node = mp_arena_alloc(arena, (size_t)out->n_gpus + 1, sizeof *out->on_node);
    out->counted = mp_arena_alloc(arena, (size_t)out->n_gpus + 1, sizeof *out->counted);
    out->replica = mp_arena_alloc(arena, out->n_gpus, sizeof *out->replica);
    if (out->first_item == NULL || out->set == NULL || out->n_used == NULL || out->bank == NULL || out->node == NULL ||
        out->on_node == NULL || out->counted == NULL || out->replica == NULL)
        return mp_nomem(err, "replicas of a layer");
    for (uint32_t e = 0; e < out->n_experts; e++)
        out->first_item[e + 1] = out->first_item[e] + mp_layer_items(spec->rule, most[e]);
    for (uint32_t g = 0; g < out->n_gpus; g++)
        out->node[g] = mp_topology_node(spec->problem->topology, g);
    out->n_items = out->first_item[out->n_experts];
    out->gpu = mp_arena_alloc(arena, out->n_items, sizeof *out->gpu);
    if (out->gpu == NULL)
        return mp_nomem(err, "replicas of a layer");
    s.copies = NULL;
    s.most = most;
    s.n_copies = out->n_items;
    return mp_layer_cost_new(&out->cost, &s, outcome, err);
}

/* The rule nearest (include/moeplan/plan.h): which replica of a set serves each source. */
static void fill_bank(struct mp_replicated *x, uint32_t e, const struct mp_replica_set *set, uint32_t bank) {
    uint32_t used_all = 0;
    memset(x->on_node, 0, (x->n_gpus + 1) * sizeof *x->on_node);
    memset(x->counted, 0, (x->n_gpus + 1) * sizeof *x->counted);
    for (uint32_t r = 0; r < set->n; r++)
        x->on_node[x->node[set->gpu[r]]]++;
    for (uint32_t src = 0; src < x->n_gpus; src++) {
        const uint32_t v = x->node[src], n_node = x->on_node[v], n = n_node > 0 ? n_node : set->n;
        uint32_t own = MP_NONE, before = 0; /* replicas on nodes below this one; GPUs of a node are consecutive */
        for (uint32_t r = 0; r < set->n; r++) {
            own = set->gpu[r] == src ? r : own;
            before += x->node[set->gpu[r]] < v;
        }
        if (own != MP_NONE) {
            x->replica[src] = (uint8_t)own;
            continue;
        }
        const uint32_t number = n == set->n ? used_all++ : x->counted[v]++;
        x->replica[src] = (uint8_t)((n_node > 0 ? before : 0) + (number + e) % n);
    }
    const uint32_t base = x->first_item[e];
    mp_layer_cost_fill(x->cost, e, base, base + 1 + bank * x->most[e], set->n, x->replica);
}

/* Where replica r of n of an expert stands among the items. */
static uint32_t item_at(const struct mp_replicated *x, uint32_t e, uint32_t n, uint32_t r, uint32_t bank) {
    if (x->rule != MP_ROUTE_NEAREST)
        return mp_replica_item(x->first_item[e], n, r);
    return n < 2 ? x->first_item[e] : x->first_item[e] + 1 + bank * x->most[e] + r;
}

void mp_replicated_set(struct mp_replicated *x, const struct mp_replica_set *set) {
    if (set != x->set)
        memcpy(x->set, set, x->n_experts * sizeof *set);
    memset(x->gpu, 0xff, x->n_items * sizeof *x->gpu); /* MP_ITEM_OFF */
    memset(x->n_used, 0, x->n_gpus * sizeof *x->n_used);
    x->n_extra = 0;
    for (uint32_t e = 0; e < x->n_experts; e++) {
        const struct mp_replica_set *s = &x->set[e];
        for (uint32_t r = 0; r < s->n; r++) {
            x->gpu[item_at(x, e, s->n, r, 0)] = s->gpu[r];
            x->n_used[s->gpu[r]]++;
        }
        x->n_extra += s->n - 1u;
        x->bank[e] = 0;
        if (x->rule == MP_ROUTE_NEAREST && s->n > 1) {
            fill_bank(x, e, s, 0);
            mp_layer_cost_fill_now(x->cost);
        }
    }
    mp_layer_cost_set(x->cost, x->gpu);
}

bool mp_replicated_read(struct mp_replicated *x, const uint16_t *slots) {
    for (uint32_t e = 0; e < x->n_experts; e++)
        x->set[e].n = 0;
    for (uint32_t g = 0; g < x->n_gpus; g++)
        for (uint32_t s = x->first_slot[g]; s < x->first_slot[g + 1]; s++) {
            if (slots[s] == MP_NO_EXPERT)
                continue;
            struct mp_replica_set *set = &x->set[slots[s]];
            if (set->n == x->most[slots[s]] || (set->n > 0 && set->gpu[set->n - 1] == g))
                return false;
            set->gpu[set->n++] = (uint16_t)g;
        }
    for (uint32_t e = 0; e < x->n_experts; e++)
        if (x->set[e].n == 0)
            return false;
    mp_replicated_set(x, x->set);
    return true;
}

void mp_replicated_write(const struct mp_replicated *x, uint16_t *slots, uint32_t n_slots) {
    memset(slots, 0xff, n_slots * sizeof *slots);
    memset(x->n_used, 0, x->n_gpus * sizeof *x->n_used);
    for (uint32_t e = 0; e < x->n_experts; e++)
        for (uint32_t r = 0; r < x->set[e].n; r++) {
            uint32_t g = x->set[e].gpu[r];
            slots[x->first_slot[g] + x->n_used[g]++] = (uint16_t)e;
        }
}

/* The set with the shift; false where it cannot be. */
static bool shifted(const struct mp_replicated *x, const struct mp_shift *shift, struct mp_replica_set *out) {
    const struct mp_replica_set *s = &x->set[shift->expert];
    uint32_t n = 0, at;
    uint16_t gpu[MP_REPLICAS_MAX + 1];
    for (uint32_t r = 0; r < s->n; r++) {
        if (s->gpu[r] == shift->to)
            return false;
        if (s->gpu[r] != shift->from)
            gpu[n++] = s->gpu[r];
    }
    if (shift->from != MP_ITEM_OFF && n == s->n)
        return false; /* it is not there */
    if (shift->to != MP_ITEM_OFF) {
        for (at = n++; at > 0 && gpu[at - 1] > shift->to; at--)
            gpu[at] = gpu[at - 1];
        gpu[at] = shift->to;
    }
    if (n == 0 || n > x->most[shift->expert])
        return false;
    out->n = (uint8_t)n;
    memcpy(out->gpu, gpu, n * sizeof *gpu);
    return true;
}

struct moves {
    uint32_t n, n_touched;
    struct mp_item_move move[2 * MP_LAYER_MOVES_MAX];
    uint16_t touched[MP_LAYER_MOVES_MAX];
};
static bool touch(struct moves *m, uint16_t gpu) {
    for (uint32_t i = 0; i < m->n_touched; i++)
        if (m->touched[i] == gpu)
            return true;
    if (m->n_touched == MP_LAYER_MOVES_MAX)
        return false;
    m->touched[m->n_touched++] = gpu;
    return true;
}
static bool move(struct moves *m, uint32_t item, uint16_t from, uint16_t to) {
    if (from == to)
        return true;
    if (m->n == 2 * MP_LAYER_MOVES_MAX || (from != MP_ITEM_OFF && !touch(m, from)) ||
        (to != MP_ITEM_OFF && !touch(m, to)))
        return false;
    m->move[m->n++] = (struct mp_item_move){(uint16_t)item, to};
    return true;
}

uint64_t mp_replicated_try(struct mp_replicated *x, const struct mp_shift *shifts, uint32_t n, bool is_race) {
    struct moves m = {.n = 0};
    struct mp_replica_set new[MP_SHIFTS_MAX];
    const bool is_nearest = x->rule == MP_ROUTE_NEAREST;
    for (uint32_t k = 0; k < n; k++) {
        const uint32_t e = shifts[k].expert;
        const struct mp_replica_set *is = &x->set[e];
        if (!shifted(x, &shifts[k], &new[k]))
            return UINT64_MAX;
        /* By `even` a replica that moves serves the same tokens; by `nearest` it does only where it is the only one. */
        const bool is_same = new[k].n == is->n && (!is_nearest || is->n == 1);
        bool fits = true;
        for (uint32_t r = 0; r < is->n; r++)
            fits &= move(&m, item_at(x, e, is->n, r, x->bank[e]), is->gpu[r], is_same ? new[k].gpu[r] : MP_ITEM_OFF);
        for (uint32_t r = 0; r < new[k].n && !is_same; r++)
            fits &= move(&m, item_at(x, e, new[k].n, r, 1u - x->bank[e]), MP_ITEM_OFF, new[k].gpu[r]);
        if (!fits)
            return UINT64_MAX;
    }
    for (uint32_t k = 0; k < n && is_nearest; k++)
        if (new[k].n > 1)
            fill_bank(x, shifts[k].expert, &new[k], 1u - x->bank[shifts[k].expert]);
    return mp_layer_cost_try(x->cost, m.move, m.n, is_race);
}

void mp_replicated_keep(struct mp_replicated *x, const struct mp_shift *shifts, uint32_t n) {
    mp_layer_cost_keep(x->cost);
    for (uint32_t k = 0; k < n; k++) {
        struct mp_replica_set new = {.n = 0};
        const uint32_t e = shifts[k].expert;
        if (!shifted(x, &shifts[k], &new))
            continue; /* was not tried */
        x->n_extra += (uint32_t) new.n - x->set[e].n;
        x->bank[e] = new.n > 1 && x->rule == MP_ROUTE_NEAREST ? (uint8_t)(1 - x->bank[e]) : x->bank[e];
        x->set[e] = new;
        if (shifts[k].from != MP_ITEM_OFF)
            x->n_used[shifts[k].from]--;
        if (shifts[k].to != MP_ITEM_OFF)
            x->n_used[shifts[k].to]++;
    }
}
