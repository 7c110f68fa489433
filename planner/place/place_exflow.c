/* ExFlow's cross-layer affinity: experts of following layers that a token uses one after the other on one GPU.
 *
 * Decides   expert -> GPU, all layers together; of replicas, the first copy.
 * Minimises (token, expert, expert of the next layer) triples whose experts are on different nodes, then on different
 *           GPUs of a node, at equal numbers of experts.
 * Method    nodes first, then the GPUs of each node. The first layer in a row; each next one by the assignment of its
 *           experts to bins that keeps most triples in place, exactly (shortest augmenting paths over bins); then
 *           layers again, one after the other, for both neighbours at once, until nothing is gained or `sweeps` have
 *           been made. Copies beyond an expert's first go to the GPUs with least load.
 * Bound     each layer is optimal for its neighbours; all together none.
 * Paper     ExFlow, arXiv 2401.08383 (an integer program through Gurobi there).
 * Differs   a heuristic in place of the integer program, for any number of layers. And the saving is not there to be
 *           had where attention is data-parallel, as in every stack that moeplan exports to: there a token's
 *           activation returns to its own GPU between layers, wherever its last expert was. ExFlow keeps the context of
 *           all tokens on every GPU to be rid of that return. docs/STRATEGIES.md has what it comes to.
 * Cost      O(L (tokens k^2 + sweeps E^2 GPUs)). */
#include "affinity.h"
#include <moeplan/base.h>
#include <string.h>

static const struct mp_option options[] = {
    {"sweeps", "sweeps", "over all layers after the first way through", 8, 0, 1000}, {.name = NULL}};

/* What a level of bins is filled with: the experts of each layer that are in it. */
struct flow {
    uint32_t n_layers, n, n_bins; /* n: experts of a layer */
    const uint32_t *next;         /* [n_layers - 1][n][n] tokens from expert to expert of the next layer */
    const uint32_t *share;        /* [n_bins] experts that each takes */
    uint32_t *bin;                /* [n_layers][n]; MP_NONE = not in this level */
    uint64_t *gain;               /* [n][n_bins] */
    int64_t *far;                 /* [n_bins] */
    int64_t *step;                /* [n_bins][n_bins] */
    uint32_t *via, *item_of;      /* [n_bins]; [n_bins][n_bins] */
    uint32_t *size;               /* [n_bins] */
    uint32_t *items;              /* [n] */
    uint32_t n_items;
};

/* gain[f][b]: triples that stay where they are with f of `layer` in b. is_forward: for the layer before alone. */
static void sum_up(struct flow *x, uint32_t layer, bool is_forward) {
    const size_t n = x->n;
    memset(x->gain, 0, n * x->n_bins * sizeof *x->gain);
    for (uint32_t k = 0; k < x->n_items; k++) {
        const uint32_t f = x->items[k];
        uint64_t *gain = x->gain + (size_t)f * x->n_bins;
        for (uint32_t e = 0; layer > 0 && e < n; e++) {
            const uint32_t b = x->bin[(layer - 1) * n + e];
            if (b != MP_NONE)
                gain[b] += x->next[((layer - 1) * n + e) * n + f];
        }
        for (uint32_t e = 0; !is_forward && layer + 1 < x->n_layers && e < n; e++) {
            const uint32_t b = x->bin[(layer + 1) * n + e];
            if (b != MP_NONE)
                gain[b] += x->next[(layer * n + f) * n + e];
        }
    }
}

/* step[b][c]: what it costs to pass one item on from b to c, and item_of which. */
static void weigh_steps(struct flow *x, const uint32_t *bin, uint32_t n_placed) {
    for (uint32_t i = 0; i < x->n_bins * x->n_bins; i++)
        x->step[i] = INT64_MAX;
    for (uint32_t k = 0; k < n_placed; k++) {
        const uint64_t *gain = x->gain + (size_t)x->items[k] * x->n_bins;
        const uint32_t b = bin[x->items[k]];
        for (uint32_t c = 0; c < x->n_bins; c++) {
            const int64_t cost = (int64_t)gain[b] - (int64_t)gain[c];
            if (c == b || cost >= x->step[b * x->n_bins + c])
                continue;
            x->step[b * x->n_bins + c] = cost;
            x->item_of[b * x->n_bins + c] = x->items[k];
        }
    }
}

/* One more item, and others passed on so that all of them together keep most. */
static void place_one(struct flow *x, uint32_t *bin, uint32_t k) {
    const uint32_t item = x->items[k], n = x->n_bins;
    uint32_t end = MP_NONE;
    weigh_steps(x, bin, k);
    for (uint32_t b = 0; b < n; b++) {
        x->far[b] = -(int64_t)x->gain[(size_t)item * n + b];
        x->via[b] = MP_NONE;
    }
    bool has_changed = true; /* no cycle is below zero: what is placed is placed as well as can be */
    for (uint32_t round = 0; round < n && has_changed; round++) {
        has_changed = false;
        for (uint32_t b = 0; b < n; b++)
            for (uint32_t c = 0; c < n; c++) {
                if (x->step[b * n + c] == INT64_MAX || x->far[b] + x->step[b * n + c] >= x->far[c])
                    continue;
                x->far[c] = x->far[b] + x->step[b * n + c];
                x->via[c] = b;
                has_changed = true;
            }
    }
    for (uint32_t b = 0; b < n; b++)
        if (x->size[b] < x->share[b] && (end == MP_NONE || x->far[b] < x->far[end]))
            end = b;
    x->size[end]++;
    for (; x->via[end] != MP_NONE; end = x->via[end])
        bin[x->item_of[x->via[end] * n + end]] = end;
    bin[item] = end;
}

static void assign_layer(struct flow *x, uint32_t layer, bool is_forward) {
    uint32_t *bin = x->bin + (size_t)layer * x->n;
    x->n_items = 0;
    for (uint32_t e = 0; e < x->n; e++)
        if (bin[e] != MP_NONE)
            x->items[x->n_items++] = e;
    sum_up(x, layer, is_forward);
    memset(x->size, 0, x->n_bins * sizeof *x->size);
    for (uint32_t k = 0; k < x->n_items; k++)
        place_one(x, bin, k);
}

static uint64_t kept(const struct flow *x) {
    const size_t n = x->n;
    uint64_t sum = 0;
    for (uint32_t l = 0; l + 1 < x->n_layers; l++)
        for (size_t e = 0; e < n; e++)
            for (size_t f = 0; x->bin[l * n + e] != MP_NONE && f < n; f++)
                sum += x->bin[l * n + e] == x->bin[(l + 1) * n + f] ? x->next[(l * n + e) * n + f] : 0;
    return sum;
}

/* Experts of bin MP_NONE stay out; all others get theirs. */
static void fill(struct flow *x, int64_t sweeps) {
    uint32_t b = 0, used = 0;
    for (uint32_t e = 0; e < x->n; e++) { /* the first layer in a row */
        while (b < x->n_bins && used == x->share[b]) {
            b++;
            used = 0;
        }
        if (x->bin[e] == MP_NONE || b == x->n_bins)
            continue;
        x->bin[e] = b;
        used++;
    }
    for (uint32_t l = 1; l < x->n_layers; l++)
        assign_layer(x, l, true);
    for (uint64_t now = kept(x), before = 0; sweeps > 0 && now > before; sweeps--) {
        for (uint32_t l = 0; l < x->n_layers; l++)
            assign_layer(x, l, false);
        before = now;
        now = kept(x);
    }
}

struct count {
    const struct mp_workload *workload;
    uint32_t *next;
};
static enum mp_status count_layer(void *ctx, size_t layer, unsigned worker, struct mp_error *err) {
    const struct count *c = ctx;
    const struct mp_workload *w = c->workload;
    const size_t n = w->trace->n_experts;
    uint32_t *next = c->next + layer * n * n;
    uint16_t ids[2][MP_MAX_TOP_K];
    (void)worker;
    (void)err;
    for (uint32_t s = 0; s < w->n_steps; s++)
        for (uint32_t i = 0; i < w->steps[s].n; i++) {
            const uint32_t k = mp_trace_row(w->trace, (uint32_t)layer, w->steps[s].row[i], ids[0]);
            const uint32_t m = mp_trace_row(w->trace, (uint32_t)layer + 1, w->steps[s].row[i], ids[1]);
            for (uint32_t a = 0; a < k; a++)
                for (uint32_t b = 0; b < m; b++)
                    next[ids[0][a] * n + ids[1][b]]++;
        }
    return MP_OK;
}

static enum mp_status flow_new(struct flow *x, const struct mp_problem *in, const struct mp_plan *p,
                               struct mp_arena *arena, struct mp_error *err) {
    const size_t n = p->n_experts, bins = p->n_gpus;
    uint32_t *next = mp_arena_alloc(arena, (p->n_layers - 1) * n, n * sizeof *next);
    *x = (struct flow){.n_layers = p->n_layers, .n = p->n_experts, .next = next};
    x->bin = mp_arena_alloc(arena, p->n_layers * n, sizeof *x->bin);
    x->gain = mp_arena_alloc(arena, n * bins, sizeof *x->gain);
    x->far = mp_arena_alloc(arena, bins, sizeof *x->far);
    x->step = mp_arena_alloc(arena, bins * bins, sizeof *x->step);
    x->via = mp_arena_alloc(arena, bins, sizeof *x->via);
    x->item_of = mp_arena_alloc(arena, bins * bins, sizeof *x->item_of);
    x->size = mp_arena_alloc(arena, bins, sizeof *x->size);
    x->items = mp_arena_alloc(arena, n, sizeof *x->items);
    if (next == NULL || x->bin == NULL || x->gain == NULL || x->far == NULL || x->step == NULL || x->via == NULL ||
        x->item_of == NULL || x->size == NULL || x->items == NULL)
        return mp_nomem(err, "exflow");
    struct count c = {in->workload, next};
    return mp_parallel_for(in->n_threads, p->n_layers - 1, count_layer, &c, err);
}

static enum mp_status group(struct flow *x, const struct mp_bins *bins, int64_t sweeps, uint16_t *gpu,
                            struct mp_arena *arena, struct mp_error *err) {
    const size_t cells = (size_t)x->n_layers * x->n;
    uint32_t *node = mp_arena_alloc(arena, cells, sizeof *node);
    uint32_t *share = mp_arena_alloc(arena, bins->n_nodes, sizeof *share);
    uint32_t *inner = mp_arena_alloc(arena, bins->n_gpus, sizeof *inner);
    if (node == NULL || share == NULL || inner == NULL)
        return mp_nomem(err, "exflow");
    mp_bins_share(bins->node_room, bins->n_nodes, x->n, share);
    x->n_bins = bins->n_nodes;
    x->share = share;
    fill(x, sweeps);
    memcpy(node, x->bin, cells * sizeof *node);
    for (uint32_t v = 0; v < bins->n_nodes; v++) {
        const uint32_t from = bins->node_first[v];
        for (size_t i = 0; i < cells; i++)
            x->bin[i] = node[i] == v ? 0 : MP_NONE;
        x->n_bins = bins->node_first[v + 1] - from;
        mp_bins_share(bins->room + from, x->n_bins, share[v], inner);
        x->share = inner;
        fill(x, sweeps);
        for (size_t i = 0; i < cells; i++)
            if (x->bin[i] != MP_NONE)
                gpu[i] = (uint16_t)bins->gpus[from + x->bin[i]];
    }
    return MP_OK;
}

static enum mp_status solve(const struct mp_problem *in, const struct mp_budget *budget, struct mp_arena *scratch,
                            struct mp_draft *draft, enum mp_outcome *outcome, struct mp_error *err) {
    (void)budget;
    const struct mp_plan *p = draft->plan;
    struct mp_bins bins;
    struct flow x;
    enum mp_status status;
    if (in->workload->trace->kind != MP_TRACE_TOKENS)
        return mp_decline(err, outcome, MP_NOT_APPLICABLE,
                          "exflow: the way of tokens from layer to layer is needed, and the trace has counts only "
                          "(record the experts of each token)");
    if (p->n_layers < 2)
        return mp_decline(err, outcome, MP_NOT_APPLICABLE,
                          "exflow: one layer is recorded, and it follows tokens from layer to layer (use grace)");
    if (in->workload->n_rows > UINT32_MAX)
        return mp_decline(err, outcome, MP_NOT_APPLICABLE, "exflow: more than 2^32 - 1 tokens (write fewer steps)");
    uint16_t *gpu = mp_arena_alloc(scratch, (size_t)p->n_layers * p->n_experts, sizeof *gpu);
    if (gpu == NULL)
        return mp_nomem(err, "exflow");
    MP_TRY(mp_bins_of(&bins, p, scratch, err));
    MP_TRY(flow_new(&x, in, p, scratch, err));
    MP_TRY(group(&x, &bins, in->option_values != NULL ? in->option_values[0] : options[0].default_value, gpu, scratch,
                 err));
    MP_TRY(mp_place_groups(in, draft, "exflow", gpu, scratch, outcome, err));
out:
    return status;
}

const struct mp_strategy mp_strategy_place_exflow = {
    .name = "exflow",
    .summary = "ExFlow's cross-layer affinity: a token's experts of following layers on one node, then on one GPU",
    .reference = "ExFlow, arXiv 2401.08383",
    .stage = MP_PLAN_PLACE,
    .is_named_only = true,
    .takes_layers = true,
    .options = options,
    .solve = solve};
