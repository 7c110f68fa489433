/* Replica choice. The rules are those of <moeplan/plan.h>; tables are built once, so that a choice costs a hash and a
 * look-up.
 *
 * Decides   (layer, expert, source, token) -> slot.
 * Method    replicas of all experts of a layer in one list by counting; for NEAREST a table [source] per replicated
 *           expert.
 * Differs   NEAREST is SGLang's static rule (expert_location.py, compute_logical_to_rank_dispatch_physical_map) with
 *           its seeded shuffle replaced by (number of the source + expert) mod n.
 * Cost      O(layers * (slots + experts)) to build, plus O(GPUs) per replicated expert for NEAREST; O(1) per choice,
 *           O(replicas) for the weighted rules; SOURCED keeps its tables, 4 bytes for each layer, class and slot. */
#include <moeplan/plan.h>
#include <string.h>

struct mp_router {
    struct mp_arena *arena;
    uint32_t n_layers, n_experts, n_gpus, n_slots;
    uint32_t n_classes; /* of sources, SOURCED; else 1 */
    enum mp_route_rule rule;
    enum mp_route_by by;
    const uint32_t *gpu_node, *slot_gpu; /* copies: a router may outlive the plan */
    uint32_t *first;                     /* [n_layers][n_experts + 1] into the layer's row of slots */
    uint32_t *slots;                     /* [n_layers][n_slots] */
    uint32_t *weights;    /* WEIGHTED, TIERED: the same shape; SOURCED: [n_layers] of, expert after expert,
                           * [n_classes][replicas]; else NULL */
    uint64_t *cumulative; /* WEIGHTED, TIERED, shape of slots: sum of the weights of an expert's replicas up to and
                             including this one */
    const uint32_t *
        *nearest; /* [n_layers][n_experts] -> [n_gpus] slots; NULL where at most one replica; rule NEAREST only */
};

/* Candidates of one expert: a range of the layer's row. */
struct candidates {
    const uint32_t *slot;
    uint32_t n;
};

static struct candidates replicas_of(const struct mp_router *r, uint32_t layer, uint32_t expert) {
    const uint32_t *first = r->first + (size_t)layer * (r->n_experts + 1) + expert;
    return (struct candidates){r->slots + (size_t)layer * r->n_slots + first[0], first[1] - first[0]};
}

/* Those of one expert and class lie side by side. */
static inline uint32_t *weights_of_class(const struct mp_router *r, struct candidates c, uint32_t class) {
    return r->weights + (size_t)(c.slot - r->slots) * r->n_classes + (size_t) class * c.n;
}

static void list_source_weights(const struct mp_router *r, const struct mp_plan *p, uint32_t layer) {
    for (uint32_t e = 0; e < r->n_experts; e++) {
        struct candidates c = replicas_of(r, layer, e);
        for (uint32_t class = 0; class < r->n_classes; class ++) {
            uint32_t *weight = weights_of_class(r, c, class);
            for (uint32_t i = 0; i < c.n; i++)
                weight[i] = p->layers[layer].slot_weight_by_source[(size_t) class * r->n_slots + c.slot[i]];
        }
    }
}

static void list_replicas(struct mp_router *r, const struct mp_plan *p, uint32_t layer) {
    const uint16_t *expert = p->layers[layer].slot_expert;
    uint32_t *first = r->first + (size_t)layer * (r->n_experts + 1), *slots = r->slots + (size_t)layer * r->n_slots;
    for (uint32_t s = 0; s < p->n_slots; s++)
        if (expert[s] < r->n_experts)
            first[expert[s] + 1]++;
    for (uint32_t e = 0; e < r->n_experts; e++)
        first[e + 1] += first[e];
    /* Filling moves each start to its end; shifting back by one restores it. */
    for (uint32_t s = 0; s < p->n_slots; s++)
        if (expert[s] < r->n_experts)
            slots[first[expert[s]]++] = s;
    memmove(first + 1, first, r->n_experts * sizeof *first);
    first[0] = 0;
    if (r->rule == MP_ROUTE_SOURCED)
        list_source_weights(r, p, layer);
    if (r->cumulative == NULL)
        return;
    uint32_t *weights = r->weights + (size_t)layer * r->n_slots;
    uint64_t *cumulative = r->cumulative + (size_t)layer * r->n_slots;
    for (uint32_t e = 0; e < r->n_experts; e++) {
        uint64_t sum = 0;
        for (uint32_t i = first[e]; i < first[e + 1]; i++) {
            weights[i] = p->layers[layer].slot_weight[slots[i]];
            sum += weights[i];
            cumulative[i] = sum;
        }
    }
}

/* NEAREST for one expert. A GPU's candidates are a set of their own unless they are all of its node's, and a node's
 * unless they are all there are; so a set is counted per node or once for all. */
static void fill_nearest(const struct mp_router *r, uint32_t expert, struct candidates c, uint32_t *on_gpu,
                         uint32_t *on_node, uint32_t *used_node, uint32_t *table) {
    uint32_t used_all = 0;
    for (uint32_t i = 0; i < c.n; i++) {
        on_gpu[r->slot_gpu[c.slot[i]]]++;
        on_node[r->gpu_node[r->slot_gpu[c.slot[i]]]]++;
    }
    for (uint32_t source = 0; source < r->n_gpus; source++) {
        uint32_t node = r->gpu_node[source], n_gpu = on_gpu[source], n_node = on_node[node];
        uint32_t n = n_gpu > 0 ? n_gpu : n_node > 0 ? n_node : c.n;
        uint32_t number = n == c.n ? used_all++ : n == n_node ? used_node[node]++ : 0;
        uint32_t wanted = (uint32_t)(((uint64_t)number + expert) % n), i = 0;
        for (;; i++) {
            uint32_t gpu = r->slot_gpu[c.slot[i]];
            if ((n_gpu > 0 ? gpu == source : n_node == 0 || r->gpu_node[gpu] == node) && wanted-- == 0)
                break;
        }
        table[source] = c.slot[i];
    }
    for (uint32_t i = 0; i < c.n; i++)
        on_gpu[r->slot_gpu[c.slot[i]]] = on_node[r->gpu_node[r->slot_gpu[c.slot[i]]]] = 0;
    memset(used_node, 0, r->n_gpus * sizeof *used_node);
}

static enum mp_status build_nearest(struct mp_router *r, struct mp_error *err) {
    uint32_t *scratch = mp_calloc((size_t)r->n_gpus * 3, sizeof *scratch);
    r->nearest = mp_arena_alloc(r->arena, (size_t)r->n_layers * r->n_experts, sizeof *r->nearest);
    bool is_full = scratch == NULL || r->nearest == NULL;
    for (uint32_t l = 0; !is_full && l < r->n_layers; l++)
        for (uint32_t e = 0; !is_full && e < r->n_experts; e++) {
            struct candidates c = replicas_of(r, l, e);
            if (c.n < 2)
                continue;
            uint32_t *table = mp_arena_alloc(r->arena, r->n_gpus, sizeof *table);
            is_full = table == NULL;
            if (is_full)
                break;
            fill_nearest(r, e, c, scratch, scratch + r->n_gpus, scratch + 2 * (size_t)r->n_gpus, table);
            r->nearest[(size_t)l * r->n_experts + e] = table;
        }
    mp_free(scratch);
    return is_full ? mp_nomem(err, "preparing replica choice") : MP_OK;
}

enum mp_status mp_router_new(struct mp_router **out, const struct mp_plan *p, struct mp_error *err) {
    *out = NULL;
    struct mp_arena *arena = mp_arena_new();
    struct mp_router *r = arena != NULL ? mp_arena_alloc(arena, 1, sizeof *r) : NULL;
    if (r == NULL)
        goto nomem;
    *r = (struct mp_router){.arena = arena,
                            .n_layers = p->n_layers,
                            .n_experts = p->n_experts,
                            .n_gpus = p->n_gpus,
                            .n_slots = p->n_slots,
                            .n_classes = p->route == MP_ROUTE_SOURCED ? mp_plan_n_classes(p) : 1,
                            .rule = p->route,
                            .by = p->route_by};
    bool is_sourced = p->route == MP_ROUTE_SOURCED,
         has_sums = p->route == MP_ROUTE_WEIGHTED || p->route == MP_ROUTE_TIERED;
    size_t cells = (size_t)p->n_layers * p->n_slots;
    uint32_t *gpu_node = mp_arena_alloc(arena, p->n_gpus, sizeof *gpu_node);
    uint32_t *slot_gpu = mp_arena_alloc(arena, p->n_slots, sizeof *slot_gpu);
    r->first = mp_arena_alloc(arena, (size_t)p->n_layers * (p->n_experts + 1), sizeof *r->first);
    r->slots = mp_arena_alloc(arena, cells, sizeof *r->slots);
    if (gpu_node == NULL || slot_gpu == NULL || r->first == NULL || r->slots == NULL)
        goto nomem;
    memcpy(gpu_node, p->gpu_node, p->n_gpus * sizeof *gpu_node);
    memcpy(slot_gpu, p->slot_gpu, p->n_slots * sizeof *slot_gpu);
    r->gpu_node = gpu_node;
    r->slot_gpu = slot_gpu;
    for (uint32_t l = 0; l < p->n_layers; l++)
        if ((has_sums && p->layers[l].slot_weight == NULL) ||
            (is_sourced && p->layers[l].slot_weight_by_source == NULL)) {
            mp_arena_free(arena);
            return mp_fail(err, MP_EBUG, "layer %u has no routing weights under rule %s", l,
                           mp_route_rule_name(p->route));
        }
    if (has_sums || is_sourced) {
        r->weights = mp_arena_alloc(arena, cells * r->n_classes, sizeof *r->weights);
        r->cumulative = has_sums ? mp_arena_alloc(arena, cells, sizeof *r->cumulative) : NULL;
        if (r->weights == NULL || (has_sums && r->cumulative == NULL))
            goto nomem;
    }
    for (uint32_t l = 0; l < p->n_layers; l++)
        list_replicas(r, p, l);
    if (p->route == MP_ROUTE_NEAREST) {
        enum mp_status status = build_nearest(r, err);
        if (status != MP_OK) {
            mp_arena_free(arena);
            return status;
        }
    }
    *out = r;
    return MP_OK;
nomem:
    mp_arena_free(arena);
    return mp_nomem(err, "preparing replica choice");
}

void mp_router_free(struct mp_router *r) {
    if (r != NULL)
        mp_arena_free(r->arena);
}

const uint32_t *mp_router_replicas(const struct mp_router *r, uint32_t layer, uint32_t expert, uint32_t *n) {
    struct candidates c = replicas_of(r, layer, expert);
    *n = c.n;
    return c.slot;
}

/* The narrowest tier around `source` that holds weight: 0 = its GPU, 1 = its node, 2 = everywhere. */
static int tier_of(const struct mp_router *r, struct candidates c, const uint32_t *weight, uint32_t source) {
    int tier = 2;
    for (uint32_t i = 0; i < c.n; i++) {
        uint32_t gpu = r->slot_gpu[c.slot[i]];
        if (weight[i] > 0 && gpu == source)
            return 0;
        if (weight[i] > 0 && r->gpu_node[gpu] == r->gpu_node[source])
            tier = 1;
    }
    return tier;
}

static bool is_in_tier(const struct mp_router *r, uint32_t slot, uint32_t source, int tier) {
    uint32_t gpu = r->slot_gpu[slot];
    return tier == 2 || (tier == 1 ? r->gpu_node[gpu] == r->gpu_node[source] : gpu == source);
}

static uint32_t class_of(const struct mp_router *r, uint32_t source) {
    return r->by == MP_ROUTE_BY_NODE ? r->gpu_node[source] : source;
}
/* Weights of the candidates for this source, under any rule that has some. */
static const uint32_t *weights_of_source(const struct mp_router *r, struct candidates c, uint32_t source) {
    return weights_of_class(r, c, r->rule == MP_ROUTE_SOURCED ? class_of(r, source) : 0);
}

/* The first whose cumulative weight exceeds w is after as many as have one that does not. */
static inline uint32_t sourced_slot(struct candidates c, const uint32_t *weight, uint64_t hash) {
    uint64_t sum = 0, seen = 0;
    uint32_t at = 0;
    for (uint32_t i = 0; i < c.n; i++)
        sum += weight[i];
    if (sum == 0)
        return c.slot[0];
    const uint64_t w = sum > 1 ? hash % sum : 0;
    for (uint32_t i = 0; i < c.n; i++) {
        seen += weight[i];
        at += seen <= w;
    }
    return c.slot[at];
}

static uint32_t slot_of(const struct mp_router *r, uint32_t layer, struct candidates c, uint32_t expert,
                        uint32_t source, uint64_t token_hash) {
    if (c.n < 2)
        return c.n == 0 ? MP_NONE : c.slot[0];
    if (r->rule == MP_ROUTE_NEAREST)
        return r->nearest[(size_t)layer * r->n_experts + expert][source];
    uint64_t hash = mp_mix64(token_hash ^ ((uint64_t)layer << 32 | expert));
    if (r->rule == MP_ROUTE_EVEN)
        return c.slot[hash % c.n];
    if (r->rule == MP_ROUTE_SOURCED)
        return sourced_slot(c, weights_of_source(r, c, source), hash);
    size_t at = (size_t)(c.slot - r->slots);
    const uint32_t *weight = r->weights + at;
    const uint64_t *cumulative = r->cumulative + at;
    if (cumulative[c.n - 1] == 0)
        return c.slot[0];
    int tier = r->rule == MP_ROUTE_TIERED ? tier_of(r, c, weight, source) : 2;
    if (tier == 2) {
        uint64_t w = hash % cumulative[c.n - 1];
        uint32_t i = 0;
        while (cumulative[i] <= w)
            i++;
        return c.slot[i];
    }
    uint64_t sum = 0;
    for (uint32_t i = 0; i < c.n; i++)
        if (is_in_tier(r, c.slot[i], source, tier))
            sum += weight[i];
    uint64_t w = hash % sum, seen = 0;
    for (uint32_t i = 0; i < c.n; i++)
        if (is_in_tier(r, c.slot[i], source, tier)) {
            seen += weight[i];
            if (seen > w)
                return c.slot[i];
        }
    return MP_NONE;
}

uint32_t mp_router_slot(const struct mp_router *r, uint32_t layer, uint32_t expert, uint32_t source,
                        uint64_t token_hash) {
    return slot_of(r, layer, replicas_of(r, layer, expert), expert, source, token_hash);
}

void mp_router_row(const struct mp_router *r, uint32_t layer, const uint16_t *experts, uint32_t n, uint32_t source,
                   uint64_t token_hash, uint32_t *slots) {
    const uint32_t *const first = r->first + (size_t)layer * (r->n_experts + 1), *const of_layer =
                                                                                     r->slots +
                                                                                     (size_t)layer * r->n_slots;
    const uint32_t class = r->rule == MP_ROUTE_SOURCED ? class_of(r, source) : 0;
    for (uint32_t j = 0; j < n; j++) {
        const uint32_t e = experts[j];
        const struct candidates c = {of_layer + first[e], first[e + 1] - first[e]};
        if (c.n < 2)
            slots[j] = c.n == 0 ? MP_NONE : c.slot[0];
        else if (r->rule == MP_ROUTE_NEAREST)
            slots[j] = r->nearest[(size_t)layer * r->n_experts + e][source];
        else if (r->rule == MP_ROUTE_EVEN)
            slots[j] = c.slot[mp_mix64(token_hash ^ ((uint64_t)layer << 32 | e)) % c.n];
        else if (r->rule == MP_ROUTE_SOURCED)
            slots[j] =
                sourced_slot(c, weights_of_class(r, c, class), mp_mix64(token_hash ^ ((uint64_t)layer << 32 | e)));
        else
            slots[j] = slot_of(r, layer, c, e, source, token_hash);
    }
}

void mp_router_certain(const struct mp_router *r, uint32_t layer, uint32_t source, uint32_t *slot) {
    const uint32_t class = r->rule == MP_ROUTE_SOURCED ? class_of(r, source) : 0;
    for (uint32_t e = 0; e < r->n_experts; e++) {
        const struct candidates c = replicas_of(r, layer, e);
        slot[e] = c.n == 1 ? c.slot[0] : MP_NONE;
        if (c.n > 1 && r->rule == MP_ROUTE_NEAREST)
            slot[e] = r->nearest[(size_t)layer * r->n_experts + e][source];
        if (c.n < 2 || r->rule != MP_ROUTE_SOURCED)
            continue;
        const uint32_t *weight = weights_of_class(r, c, class);
        uint32_t n = 0, last = 0;
        for (uint32_t i = 0; i < c.n; i++) {
            n += weight[i] > 0;
            last = weight[i] > 0 ? i : last;
        }
        slot[e] = n < 2 ? c.slot[last] : MP_NONE; /* no weight at all: the first, as sourced_slot has it */
    }
}

void mp_router_split(const struct mp_router *r, uint32_t layer, uint32_t expert, uint32_t source, uint64_t n,
                     uint64_t *share) {
    struct candidates c = replicas_of(r, layer, expert);
    if (c.n == 0)
        return;
    memset(share, 0, c.n * sizeof *share);
    if (c.n == 1) {
        share[0] = n;
        return;
    }
    if (r->rule == MP_ROUTE_EVEN) {
        uint32_t rest = (uint32_t)(n % c.n);
        for (uint32_t i = 0; i < c.n; i++)
            share[i] = n / c.n;
        for (uint32_t j = 0; j < rest; j++)
            share[((uint64_t)source + j) % c.n]++;
        return;
    }
    if (r->rule == MP_ROUTE_NEAREST) {
        uint32_t slot = r->nearest[(size_t)layer * r->n_experts + expert][source];
        for (uint32_t i = 0; i < c.n; i++)
            share[i] = c.slot[i] == slot ? n : 0;
        return;
    }
    const uint32_t *weight = weights_of_source(r, c, source);
    int tier = r->rule == MP_ROUTE_TIERED ? tier_of(r, c, weight, source) : 2;
    uint64_t sum = 0, rest = n;
    for (uint32_t i = 0; i < c.n; i++)
        if (is_in_tier(r, c.slot[i], source, tier))
            sum += weight[i];
    if (sum == 0) {
        share[0] = n;
        return;
    }
    for (uint32_t i = 0; i < c.n; i++)
        if (is_in_tier(r, c.slot[i], source, tier)) {
            share[i] = mp_mul_div(n, weight[i], sum);
            rest -= share[i];
        }
    for (uint32_t i = 0; i < c.n && rest > 0; i++)
        if (weight[i] > 0 && is_in_tier(r, c.slot[i], source, tier)) {
            share[i]++;
            rest--;
        }
}
