/* Experts to nodes, for requests whose homes are known.
 *
 * Decides   expert -> node, every layer by itself.
 * Minimises copies between nodes of the sampled rows: a weight for each expert a token needs from another node than its
 *           home, and one for each other node it needs. No node has more than its part of the layer's rows and a
 *           tolerance where that can be had.
 * Method    exchanges of two experts, and moves to free slots, first improvement. Tables say what taking an expert away
 *           from its node saves and what putting it on another costs, as Fiduccia and Mattheyses keep them (DAC 1982);
 *           the sum of both over an exchange is never more than its true change, since tokens with both experts change
 *           nothing and are counted as gains at most, so most exchanges need no look at tokens. Then kicks of two
 * random exchanges, taken back where they lead to nothing better.
 * Bound     none.
 * Differs   from planner/place/layer_cost_groups.c: tokens have homes, so a node is worth more to some than to others.
 * Cost      an exchange that is taken: tokens of two experts, times top-k and nodes. */
#include "homes_parts.h"
#include <moeplan/base.h>
#include <string.h>

struct split {
    const struct mp_home_data *d;
    uint32_t n, k, n_experts, n_nodes;
    int64_t per_expert, per_node;
    uint16_t *ids;          /* [n][k]; n_experts = unused */
    const uint16_t *home;   /* [n] node of each row's request */
    uint32_t *first, *list; /* rows of each expert */
    uint8_t *on;            /* [n][n_nodes] experts of a row on a node */
    uint16_t *node;         /* [n_experts] */
    int64_t *leave;         /* [n_experts] change of the cost when it leaves its node */
    int64_t *enter;         /* [n_nodes][n_experts] and when it comes to another */
    const uint64_t *load;   /* [n_experts] rows */
    uint64_t on_node[MP_HOME_NODES_MAX], limit[MP_HOME_NODES_MAX]; /* rows; in units of 1 / all GPUs */
    uint64_t n_gpus, free[MP_HOME_NODES_MAX];
    int64_t cost;
};

/* Adds (sign 1) or takes away what row t says to the tables. */
static void tell(struct split *x, uint32_t t, int sign) {
    const uint16_t *ids = x->ids + (size_t)t * x->k;
    const uint8_t *on = x->on + (size_t)t * x->n_nodes;
    const uint32_t h = x->home[t];
    int64_t come[MP_HOME_NODES_MAX];
    for (uint32_t v = 0; v < x->n_nodes; v++)
        come[v] = sign * (v == h ? -x->per_expert : on[v] == 0 ? x->per_node : 0);
    for (uint32_t j = 0; j < x->k && ids[j] < x->n_experts; j++) {
        const uint32_t e = ids[j], a = x->node[e];
        x->leave[e] += sign * (a == h ? x->per_expert : on[a] == 1 ? -x->per_node : 0);
        for (uint32_t v = 0; v < x->n_nodes; v++)
            x->enter[(size_t)v * x->n_experts + e] += v != a ? come[v] : 0;
    }
}

/* Rows that hold e but not `but` have it on node `to` now. */
static void shift_rows(struct split *x, uint32_t e, uint32_t but, uint32_t to) {
    const uint32_t from = x->node[e];
    for (uint32_t i = x->first[e]; i < x->first[e + 1]; i++) {
        const uint32_t t = x->list[i];
        bool has = false;
        for (uint32_t j = 0; j < x->k; j++)
            has |= x->ids[(size_t)t * x->k + j] == but;
        x->on[(size_t)t * x->n_nodes + from] -= !has;
        x->on[(size_t)t * x->n_nodes + to] += !has;
    }
}

/* Rows of `a` (and of b, each once) leave the tables or come back. */
static void tell_rows(struct split *x, uint32_t a, uint32_t b, int sign) {
    for (uint32_t i = x->first[a]; i < x->first[a + 1]; i++)
        tell(x, x->list[i], sign);
    for (uint32_t i = b < x->n_experts ? x->first[b] : 0; b < x->n_experts && i < x->first[b + 1]; i++) {
        const uint16_t *ids = x->ids + (size_t)x->list[i] * x->k;
        bool has = false;
        for (uint32_t j = 0; j < x->k; j++)
            has |= ids[j] == a;
        if (!has)
            tell(x, x->list[i], sign);
    }
}

/* Expert a to node `to`; b (n_experts: none) takes its place. */
static void apply(struct split *x, uint32_t a, uint32_t b, uint32_t to, int64_t change) {
    const uint32_t from = x->node[a];
    tell_rows(x, a, b, -1);
    shift_rows(x, a, b < x->n_experts ? b : MP_NONE, to);
    if (b < x->n_experts)
        shift_rows(x, b, a, from);
    x->node[a] = (uint16_t)to;
    x->on_node[from] -= x->load[a];
    x->on_node[to] += x->load[a];
    if (b < x->n_experts) {
        x->node[b] = (uint16_t)from;
        x->on_node[to] -= x->load[b];
        x->on_node[from] += x->load[b];
    } else {
        x->free[from]++;
        x->free[to]--;
    }
    tell_rows(x, a, b, 1);
    x->cost += change;
}

/* How much nodes have too much, if node `from` gave `out` and got `in` of node `to`. */
static uint64_t excess(const struct split *x, uint32_t from, uint32_t to, uint64_t out, uint64_t in) {
    uint64_t sum = 0;
    for (uint32_t v = 0; v < x->n_nodes; v++) {
        uint64_t rows = x->on_node[v];
        rows = v == from ? rows - out + in : v == to ? rows + out - in : rows;
        sum += rows * x->n_gpus > x->limit[v] ? rows * x->n_gpus - x->limit[v] : 0;
    }
    return sum;
}

/* What the tables count for rows that hold both, and that change nothing. */
static int64_t both(const struct split *x, uint32_t a, uint32_t b) {
    const uint32_t va = x->node[a], vb = x->node[b];
    const bool is_a = x->first[a + 1] - x->first[a] <= x->first[b + 1] - x->first[b];
    const uint32_t e = is_a ? a : b, other = is_a ? b : a;
    int64_t sum = 0;
    for (uint32_t i = x->first[e]; i < x->first[e + 1]; i++) {
        const uint32_t t = x->list[i], h = x->home[t];
        const uint16_t *ids = x->ids + (size_t)t * x->k;
        const uint8_t *on = x->on + (size_t)t * x->n_nodes;
        bool has = false;
        for (uint32_t j = 0; j < x->k; j++)
            has |= ids[j] == other;
        if (has) /* what is gained and paid at home cancels */
            sum -= (va != h && on[va] == 1 ? x->per_node : 0) + (vb != h && on[vb] == 1 ? x->per_node : 0);
    }
    return sum;
}

static int64_t guess(const struct split *x, uint32_t a, uint32_t to) {
    return x->leave[a] + x->enter[(size_t)to * x->n_experts + a];
}

/* One look at everything that can be done with expert a; true when something was. */
static bool improve(struct split *x, uint32_t a) {
    const uint32_t from = x->node[a];
    for (uint32_t v = 0; v < x->n_nodes; v++) {
        if (v == from || x->free[v] == 0)
            continue;
        const uint64_t was = excess(x, from, v, 0, 0), is = excess(x, from, v, x->load[a], 0);
        if (is < was || (is == was && guess(x, a, v) < 0)) {
            apply(x, a, x->n_experts, v, guess(x, a, v));
            return true;
        }
    }
    for (uint32_t b = 0; b < x->n_experts; b++) {
        const uint32_t to = x->node[b];
        if (to == from)
            continue;
        const uint64_t was = excess(x, from, to, 0, 0), is = excess(x, from, to, x->load[a], x->load[b]);
        const int64_t least = guess(x, a, to) + guess(x, b, from);
        if (is > was || (is == was && least >= 0))
            continue;
        const int64_t change = least - both(x, a, b);
        if (is < was || change < 0) {
            apply(x, a, b, to, change);
            return true;
        }
    }
    return false;
}

#define PASSES 60u
static void descend(struct split *x, uint32_t *order, struct mp_rng *rng) {
    for (uint32_t pass = 0, changed = 1; pass < PASSES && changed; pass++) {
        changed = 0;
        mp_rng_shuffle(rng, order, x->n_experts);
        for (uint32_t i = 0; i < x->n_experts; i++)
            changed |= improve(x, order[i]);
    }
}

/* All tables anew for x->node. */
static void start(struct split *x) {
    memset(x->on, 0, (size_t)x->n * x->n_nodes);
    memset(x->leave, 0, x->n_experts * sizeof *x->leave);
    memset(x->enter, 0, (size_t)x->n_nodes * x->n_experts * sizeof *x->enter);
    memset(x->on_node, 0, sizeof x->on_node);
    for (uint32_t v = 0; v < x->n_nodes; v++)
        x->free[v] = x->d->slots_of[v];
    for (uint32_t e = 0; e < x->n_experts; e++) {
        x->on_node[x->node[e]] += x->load[e];
        x->free[x->node[e]]--;
    }
    x->cost = 0;
    for (uint32_t t = 0; t < x->n; t++) {
        uint8_t *on = x->on + (size_t)t * x->n_nodes;
        for (uint32_t j = 0; j < x->k && x->ids[(size_t)t * x->k + j] < x->n_experts; j++) {
            const uint32_t v = x->node[x->ids[(size_t)t * x->k + j]];
            x->cost += (v != x->home[t] ? x->per_expert : 0) + (v != x->home[t] && on[v] == 0 ? x->per_node : 0);
            on[v]++;
        }
        tell(x, t, 1);
    }
}

static enum mp_status split_new(struct split *x, const struct mp_home_data *d, uint32_t layer, const uint16_t *home,
                                uint16_t *node, struct mp_arena *arena, struct mp_error *err) {
    uint64_t total = 0;
    *x = (struct split){.d = d,
                        .n = d->n_rows,
                        .k = d->top_k,
                        .n_experts = d->n_experts,
                        .n_nodes = d->n_nodes,
                        .n_gpus = d->n_gpus,
                        .per_expert = d->expert_milli,
                        .per_node = d->node_milli,
                        .node = node,
                        .load = d->load + (size_t)layer * d->n_experts};
    uint16_t *of = mp_arena_alloc(arena, x->n, sizeof *of);
    x->ids = mp_arena_alloc(arena, (size_t)x->n * x->k, sizeof *x->ids);
    x->first = mp_arena_alloc(arena, (size_t)x->n_experts + 2, sizeof *x->first);
    x->list = mp_arena_alloc(arena, (size_t)x->n * x->k, sizeof *x->list);
    x->on = mp_arena_alloc(arena, x->n, x->n_nodes);
    x->leave = mp_arena_alloc(arena, x->n_experts, sizeof *x->leave);
    x->enter = mp_arena_alloc(arena, (size_t)x->n_nodes * x->n_experts, sizeof *x->enter);
    if (of == NULL || x->ids == NULL || x->first == NULL || x->list == NULL || x->on == NULL || x->leave == NULL ||
        x->enter == NULL)
        return mp_nomem(err, "homes of requests");
    for (uint32_t t = 0; t < x->n; t++) {
        uint16_t *ids = x->ids + (size_t)t * x->k;
        for (uint32_t k = mp_trace_row(d->trace, layer, d->row[t], ids); k < x->k; k++)
            ids[k] = (uint16_t)x->n_experts;
        for (uint32_t j = 0; j < x->k && ids[j] < x->n_experts; j++)
            x->first[ids[j] + 2]++;
        of[t] = home[d->of[t]];
    }
    x->home = of;
    for (uint32_t e = 0; e < x->n_experts; e++)
        x->first[e + 2] += x->first[e + 1];
    for (uint32_t t = 0; t < x->n; t++)
        for (uint32_t j = 0; j < x->k && x->ids[(size_t)t * x->k + j] < x->n_experts; j++)
            x->list[x->first[x->ids[(size_t)t * x->k + j] + 1]++] = t;
    for (uint32_t e = 0; e < x->n_experts; e++)
        total += x->load[e];
    for (uint32_t v = 0; v < x->n_nodes; v++)
        x->limit[v] = mp_mul_div(total * d->gpus_of[v], 1000000 + (uint64_t)d->load_ppm, 1000000);
    return MP_OK;
}

struct split_ctx {
    const struct mp_home_data *d;
    const uint16_t *home;
    uint16_t *node;
    uint32_t kicks;
};

static enum mp_status split_layer(void *ctx, size_t l, unsigned worker, struct mp_error *err) {
    const struct split_ctx *c = ctx;
    const struct mp_home_data *d = c->d;
    struct split x;
    (void)worker;
    struct mp_arena *arena = mp_arena_new();
    if (arena == NULL)
        return mp_nomem(err, "homes of requests");
    uint32_t *order = mp_arena_alloc(arena, d->n_experts, sizeof *order);
    uint16_t *best = mp_arena_alloc(arena, d->n_experts, sizeof *best);
    enum mp_status status = order == NULL || best == NULL ? mp_nomem(err, "homes of requests") : MP_OK;
    if (status == MP_OK)
        status = split_new(&x, d, (uint32_t)l, c->home, c->node + l * d->n_experts, arena, err);
    if (status == MP_OK) {
        struct mp_rng rng = mp_rng_seed(mp_mix64(d->seed) + l);
        for (uint32_t e = 0; e < d->n_experts; e++)
            order[e] = e;
        start(&x);
        descend(&x, order, &rng);
        for (uint32_t kick = 0; kick < c->kicks; kick++) {
            const int64_t cost = x.cost;
            const uint64_t was = excess(&x, 0, 0, 0, 0);
            memcpy(best, x.node, d->n_experts * sizeof *best);
            for (uint32_t i = 0; i < 2; i++) {
                const uint32_t a = (uint32_t)mp_rng_below(&rng, d->n_experts);
                const uint32_t b = (uint32_t)mp_rng_below(&rng, d->n_experts);
                if (x.node[a] != x.node[b])
                    apply(&x, a, b, x.node[b], guess(&x, a, x.node[b]) + guess(&x, b, x.node[a]) - both(&x, a, b));
            }
            descend(&x, order, &rng);
            const uint64_t is = excess(&x, 0, 0, 0, 0);
            if (is > was || (is == was && x.cost >= cost)) {
                memcpy(x.node, best, d->n_experts * sizeof *best);
                start(&x);
            }
        }
    }
    mp_arena_free(arena);
    return status;
}

enum mp_status mp_home_split(uint16_t *node, const struct mp_home_data *d, const uint16_t *home, uint32_t kicks,
                             struct mp_error *err) {
    struct split_ctx c = {d, home, node, kicks};
    return mp_parallel_for(d->n_threads, d->n_layers, split_layer, &c, err);
}
