/* Where a search begins when tokens pay for every node (or GPU) they need: experts that are used together in one place.
 *
 * Decides   item -> node, then item -> GPU of the node. On one node, or where tokens send a copy to every GPU they
 * need, each GPU is a node of its own here.
 * Minimises time that copies between nodes take, each token sending one to every node it needs, plus the time of the
 *           node with most rows; both summed over all steps, from a sample of their tokens.
 * Method    exchanges of two items between nodes. What a single move saves and costs in copies stands in tables that an
 *           exchange updates for the tokens of its two items, as Fiduccia and Mattheyses do for hypergraphs (DAC
 *           1982); an exchange whose sum over the tables is no gain is no gain, any other is counted exactly. First
 *           improvement, then kicks of random exchanges that are taken back where they lead to nothing. In a node the
 *           item with most rows goes first, to the GPU that has least to do.
 * Differs   nothing of single steps is seen: the search that begins here sees to that.
 * Cost      per exchange the tokens of two items, times top-k and nodes. */
#include "layer_cost_parts.h"
#include <stdlib.h>
#include <string.h>

#define TOKENS_MAX 65536u
#define TOKENS_REDUNDANT                                                                                               \
    16384u        /* with redundant slots, where there are many searches: more exchanges for the same work */
#define KICKS 16u /* without success, after which it is done */

struct groups {
    const struct mp_layer_cost *c;
    uint32_t n_tokens, n_nodes, n_items, top_k;
    uint64_t n_rows;    /* of the steps */
    uint16_t *ids;      /* [n_tokens][top_k], n_items = unused */
    uint32_t *first;    /* [n_items + 1] into list */
    uint32_t *list;     /* tokens of each item */
    uint8_t *on;        /* [n_tokens][n_nodes] items of a token on a node */
    uint16_t *node;     /* [n_items + 1] of "unused": none */
    int32_t *sole;      /* [n_items + 1] tokens that need the item's node for it alone */
    int32_t *fresh;     /* [n_nodes][n_items + 1] tokens of the item that do not need that node yet */
    uint64_t *rows;     /* [n_nodes] */
    uint64_t *row_ps;   /* [n_nodes] of a row on a GPU, with all GPUs of the node at work */
    uint32_t *shuffled; /* [n_items] */
    uint64_t copy_ps;   /* what a sampled token's copy stands for */
    uint64_t work, limit;
    uint16_t (*log)[2]; /* exchanges since the last kick */
    uint32_t n_log;
    bool is_by_gpu; /* one node: its GPUs are the nodes */
};
#define LOG_MAX 4096u

static uint32_t first_gpu(const struct groups *x, uint32_t node) {
    return x->is_by_gpu ? node : x->c->node_first[node];
}
static uint32_t n_gpus_of(const struct groups *x, uint32_t node) { return x->is_by_gpu ? 1 : x->c->node_size[node]; }

static int32_t *fresh_of(const struct groups *x, uint32_t node) { return x->fresh + (size_t)node * (x->n_items + 1); }

/* Adds what token t says to the tables. What is unused has a place there too, which nobody reads. */
static void count_token(struct groups *x, uint32_t t) {
    const uint16_t *ids = x->ids + (size_t)t * x->top_k;
    const uint8_t *on = x->on + (size_t)t * x->n_nodes;
    for (uint32_t j = 0; j < x->top_k && ids[j] < x->n_items; j++) {
        x->sole[ids[j]] += on[x->node[ids[j]]] == 1;
        for (uint32_t v = 0; v < x->n_nodes; v++)
            fresh_of(x, v)[ids[j]] += on[v] == 0;
    }
}

/* `change` to the one item of the token other than i that is on this node. */
static inline void count_other(struct groups *x, const uint16_t *ids, uint32_t i, uint32_t node, int32_t change) {
    for (uint32_t j = 0; j < x->top_k; j++)
        if (x->node[ids[j]] == node && ids[j] != i) {
            x->sole[ids[j]] += change;
            return;
        }
}

/* Of a token that uses i only the two nodes' entries change, and only where one of them is needed no more, or anew, or
 * for one item alone from now on, or no more. */
static void move_item(struct groups *x, uint32_t i, uint32_t node) {
    const uint32_t from = x->node[i], n_tokens = x->first[i + 1] - x->first[i], top_k = x->top_k;
    int32_t *of_from = fresh_of(x, from), *of_to = fresh_of(x, node), sole = x->sole[i];
    for (uint32_t a = x->first[i]; a < x->first[i + 1]; a++) {
        const uint16_t *ids = x->ids + (size_t)x->list[a] * top_k;
        uint8_t *on = x->on + (size_t)x->list[a] * x->n_nodes;
        const uint32_t before = on[from]--, there = on[node]++;
        sole += (there == 0) - (before == 1);
        if (before == 1)
            for (uint32_t j = 0; j < top_k; j++)
                of_from[ids[j]]++;
        else if (before == 2)
            count_other(x, ids, i, from, 1);
        if (there == 0)
            for (uint32_t j = 0; j < top_k; j++)
                of_to[ids[j]]--;
        else if (there == 1)
            count_other(x, ids, i, node, -1);
    }
    x->sole[i] = sole;
    x->rows[from] -= x->c->total_rows[i];
    x->rows[node] += x->c->total_rows[i];
    x->node[i] = (uint16_t)node;
    x->work += 2 * (uint64_t)n_tokens * top_k * (1 + x->n_nodes / 4);
}
static void exchange(struct groups *x, uint32_t a, uint32_t b) {
    uint32_t u = x->node[a], v = x->node[b];
    move_item(x, a, v);
    move_item(x, b, u);
}

/* Copies that an exchange of a and b saves less than the tables say: tokens that use both stay where they are. */
static int64_t shared(struct groups *x, uint32_t a, uint32_t b) {
    const uint32_t u = x->node[a], v = x->node[b];
    int64_t sum = 0;
    if (x->first[b + 1] - x->first[b] < x->first[a + 1] - x->first[a]) {
        uint32_t other = a;
        a = b;
        b = other;
    }
    for (uint32_t k = x->first[a]; k < x->first[a + 1]; k++) {
        const uint16_t *ids = x->ids + (size_t)x->list[k] * x->top_k;
        const uint8_t *on = x->on + (size_t)x->list[k] * x->n_nodes;
        bool has_both = false;
        for (uint32_t j = 0; j < x->top_k; j++)
            has_both |= ids[j] == b;
        sum += has_both ? (on[u] == 1) + (on[v] == 1) : 0;
    }
    x->work += (uint64_t)(x->first[a + 1] - x->first[a]) * 2;
    return sum;
}

/* ps of the fullest node when rows of a and b change places. */
static int64_t fullest_ps(const struct groups *x, uint32_t u, uint32_t v, uint64_t from_u, uint64_t from_v) {
    uint64_t most = 0;
    for (uint32_t n = 0; n < x->n_nodes; n++) {
        uint64_t rows = x->rows[n] + (n == u ? from_v - from_u : 0) + (n == v ? from_u - from_v : 0);
        most = rows * x->row_ps[n] > most ? rows * x->row_ps[n] : most;
    }
    return (int64_t)most;
}

static bool is_better(struct groups *x, uint32_t a, uint32_t b, int64_t now_ps) {
    const uint32_t u = x->node[a], v = x->node[b];
    const int64_t copies = (int64_t)fresh_of(x, v)[a] + fresh_of(x, u)[b] - x->sole[a] - x->sole[b];
    int64_t ps = fullest_ps(x, u, v, x->c->total_rows[a], x->c->total_rows[b]) - now_ps;
    x->work += 4 + x->n_nodes;
    return copies * (int64_t)x->copy_ps + ps < 0 && (copies + shared(x, a, b)) * (int64_t)x->copy_ps + ps < 0;
}

static void descend(struct groups *x, struct mp_rng *rng) {
    mp_rng_shuffle(rng, x->shuffled, x->n_items);
    uint32_t quiet = 0, at = 0;
    while (quiet < x->n_items && x->work < x->limit && x->n_log < LOG_MAX) {
        uint32_t a = x->shuffled[at];
        bool is_any = false;
        for (uint32_t k = 1; k < x->n_items; k++) {
            uint32_t b = x->shuffled[(at + k) % x->n_items];
            if (x->node[a] == x->node[b] || !is_better(x, a, b, fullest_ps(x, 0, 0, 0, 0)))
                continue;
            exchange(x, a, b);
            x->log[x->n_log][0] = (uint16_t)a;
            x->log[x->n_log++][1] = (uint16_t)b;
            is_any = true;
            break;
        }
        quiet = is_any ? 0 : quiet + 1;
        at = is_any ? at : (at + 1) % x->n_items;
    }
}

static int64_t value_ps(const struct groups *x) {
    int64_t copies = 0;
    for (size_t i = 0; i < (size_t)x->n_tokens * x->n_nodes; i++)
        copies += x->on[i] > 0;
    return copies * (int64_t)x->copy_ps + fullest_ps(x, 0, 0, 0, 0);
}

static void improve(struct groups *x, struct mp_rng *rng) {
    x->n_log = 0;
    descend(x, rng);
    int64_t best = value_ps(x);
    for (uint32_t quiet = 0; quiet < KICKS && x->work < x->limit; quiet++) {
        x->n_log = 0;
        for (uint32_t i = 0, n = 2 + (uint32_t)mp_rng_below(rng, 4); i < n; i++) {
            uint32_t a = (uint32_t)mp_rng_below(rng, x->n_items), b = (uint32_t)mp_rng_below(rng, x->n_items);
            if (x->node[a] == x->node[b])
                continue;
            exchange(x, a, b);
            x->log[x->n_log][0] = (uint16_t)a;
            x->log[x->n_log++][1] = (uint16_t)b;
        }
        descend(x, rng);
        int64_t value = value_ps(x);
        x->work += (uint64_t)x->n_tokens * x->n_nodes / 8;
        if (value < best) {
            best = value;
            quiet = 0;
            continue;
        }
        for (uint32_t i = x->n_log; i > 0; i--)
            exchange(x, x->log[i - 1][0], x->log[i - 1][1]);
    }
}

/* ---- the tables ---- */
static const struct mp_step *step_of(const struct mp_layer_cost_spec *spec, const struct mp_workload *w, uint32_t i) {
    return &w->steps[spec->steps != NULL ? spec->steps[i] : i];
}

/* Evenly from all rows of the steps. */
static void read_sample(struct groups *x, const struct mp_layer_cost_spec *spec) {
    const struct mp_layer_cost *c = x->c;
    const struct mp_workload *w = c->problem.workload;
    uint64_t before = 0; /* rows of the steps up to `step` */
    for (uint32_t t = 0, step = 0; t < x->n_tokens; t++) {
        const uint64_t row = mp_mul_div(t, x->n_rows, x->n_tokens);
        while (row >= before + step_of(spec, w, step)->n)
            before += step_of(spec, w, step++)->n;
        uint16_t *ids = x->ids + (size_t)t * x->top_k;
        uint32_t n = mp_trace_row(w->trace, c->layer, step_of(spec, w, step)->row[row - before], ids);
        for (; n < x->top_k; n++)
            ids[n] = (uint16_t)x->n_items;
    }
    for (size_t i = 0; i < (size_t)x->n_tokens * x->top_k; i++)
        if (x->ids[i] < x->n_items)
            x->first[x->ids[i] + 2]++;
    for (uint32_t i = 1; i < x->n_items + 2; i++)
        x->first[i] += x->first[i - 1];
    for (size_t i = 0; i < (size_t)x->n_tokens * x->top_k; i++)
        if (x->ids[i] < x->n_items)
            x->list[x->first[x->ids[i] + 1]++] = (uint32_t)(i / x->top_k);
    for (size_t i = 0; i < (size_t)x->n_tokens * x->top_k; i++)
        if (x->ids[i] < x->n_items)
            x->on[i / x->top_k * x->n_nodes + x->node[x->ids[i]]]++;
    for (uint32_t t = 0; t < x->n_tokens; t++)
        count_token(x, t);
    for (uint32_t i = 0; i < x->n_items; i++) {
        x->rows[x->node[i]] += c->total_rows[i];
        x->shuffled[i] = i;
    }
    x->work += (uint64_t)x->n_tokens * x->top_k * x->n_nodes;
}

static void set_times(struct groups *x) {
    const struct mp_layer_cost *c = x->c;
    const struct mp_topology *t = c->problem.topology;
    const uint32_t level = c->n_levels > 1 && !x->is_by_gpu ? 1 : 0;
    uint64_t rate = UINT64_MAX;
    for (uint32_t v = 0; v < x->n_nodes; v++) {
        uint64_t rows_per_s = 0;
        for (uint32_t g = first_gpu(x, v); g < first_gpu(x, v) + n_gpus_of(x, v); g++) {
            const struct gpu_cost *k = &c->gpus[g];
            uint64_t out = t->resources[t->gpus[g].out_port[level]].bytes_per_s;
            rows_per_s += mp_mul_div(1000000, k->speed, k->beta > 0 ? k->beta : 1);
            rate = out < rate ? out : rate;
        }
        rows_per_s = rows_per_s > 0 ? rows_per_s : 1;
        x->row_ps[v] = UINT64_C(1000000000000) / rows_per_s;
    }
    uint64_t each = mp_mul_div(c->dispatch_bytes + c->combine_bytes, UINT64_C(1000000000000), rate > 0 ? rate : 1);
    each = mp_mul_div(each, x->n_rows, x->n_tokens > 0 ? x->n_tokens : 1);
    x->copy_ps = each / c->n_gpus * (x->n_nodes - 1) / x->n_nodes + 1;
}

static void fill_gpus(const struct groups *x, const uint32_t *first_slot, uint16_t *gpu, uint64_t *rows,
                      uint32_t *n_used) {
    const struct mp_layer_cost *c = x->c;
    for (uint32_t i = 0; i < x->n_items; i++)
        gpu[i] = UINT16_MAX;
    for (uint32_t left = x->n_items; left > 0; left--) {
        uint32_t best = MP_NONE, to = MP_NONE;
        for (uint32_t i = 0; i < x->n_items; i++)
            if (gpu[i] == UINT16_MAX && (best == MP_NONE || c->total_rows[i] > c->total_rows[best]))
                best = i;
        const uint32_t v = x->node[best];
        for (uint32_t g = first_gpu(x, v); g < first_gpu(x, v) + n_gpus_of(x, v); g++)
            if (n_used[g] < first_slot[g + 1] - first_slot[g] && (to == MP_NONE || rows[g] < rows[to]))
                to = g;
        gpu[best] = (uint16_t)to; /* exchanges leave as many items on a node as it had */
        rows[to] += c->total_rows[best];
        n_used[to]++;
    }
}

enum mp_status mp_layer_cost_groups(struct mp_layer_cost *c, const struct mp_layer_cost_spec *spec,
                                    const uint32_t *first_slot, struct mp_rng *rng, uint64_t work, uint16_t *gpu,
                                    bool *has_groups, struct mp_error *err) {
    struct groups x = {.c = c, .n_items = c->n_items, .top_k = c->top_k, .limit = work};
    *has_groups = false;
    if (!c->by_token || c->is_coupled || c->n_items > c->problem.workload->trace->n_experts)
        return MP_OK;
    for (uint32_t g = 0; g < c->n_gpus; g++)
        x.n_nodes = node_of(c, g) + 1 > x.n_nodes ? node_of(c, g) + 1 : x.n_nodes;
    x.is_by_gpu = x.n_nodes < 2 || c->copies == MP_COPY_PER_GPU;
    x.n_nodes = x.is_by_gpu ? c->n_gpus : x.n_nodes;
    if (x.n_nodes < 2)
        return MP_OK;
    struct mp_arena *arena = mp_arena_new();
    for (uint32_t i = 0; i < c->n_steps; i++)
        x.n_rows += step_of(spec, c->problem.workload, i)->n;
    const uint32_t n_most = c->problem.n_redundant > 0 ? TOKENS_REDUNDANT : TOKENS_MAX;
    x.n_tokens = x.n_rows < n_most ? (uint32_t)x.n_rows : n_most;
    x.ids = arena != NULL ? mp_arena_alloc(arena, (size_t)x.n_tokens * x.top_k, sizeof *x.ids) : NULL;
    if (x.ids == NULL) {
        mp_arena_free(arena);
        return mp_nomem(err, "grouping experts");
    }
    x.first = mp_arena_alloc(arena, x.n_items + 2, sizeof *x.first);
    x.list = mp_arena_alloc(arena, (size_t)x.n_tokens * x.top_k, sizeof *x.list);
    x.on = mp_arena_alloc(arena, (size_t)x.n_tokens * x.n_nodes, sizeof *x.on);
    x.node = mp_arena_alloc(arena, (size_t)x.n_items + 1, sizeof *x.node);
    x.sole = mp_arena_alloc(arena, (size_t)x.n_items + 1, sizeof *x.sole);
    x.fresh = mp_arena_alloc(arena, ((size_t)x.n_items + 1) * x.n_nodes, sizeof *x.fresh);
    x.rows = mp_arena_alloc(arena, x.n_nodes, sizeof *x.rows);
    x.row_ps = mp_arena_alloc(arena, x.n_nodes, sizeof *x.row_ps);
    x.shuffled = mp_arena_alloc(arena, x.n_items, sizeof *x.shuffled);
    x.log = mp_arena_alloc(arena, LOG_MAX + 8, sizeof *x.log);
    uint64_t *rows = mp_arena_alloc(arena, c->n_gpus, sizeof *rows);
    uint32_t *n_used = mp_arena_alloc(arena, c->n_gpus, sizeof *n_used);
    if (x.first == NULL || x.list == NULL || x.on == NULL || x.node == NULL || x.sole == NULL || x.fresh == NULL ||
        x.rows == NULL || x.row_ps == NULL || x.shuffled == NULL || x.log == NULL || rows == NULL || n_used == NULL) {
        mp_arena_free(arena);
        return mp_nomem(err, "grouping experts");
    }
    for (uint32_t i = 0; i < x.n_items; i++)
        x.node[i] = (uint16_t)(x.is_by_gpu ? gpu[i] : node_of(c, gpu[i]));
    x.node[x.n_items] = UINT16_MAX;
    read_sample(&x, spec);
    set_times(&x);
    improve(&x, rng);
    fill_gpus(&x, first_slot, gpu, rows, n_used);
    c->n_work += x.work;
    *has_groups = true;
    mp_arena_free(arena);
    return MP_OK;
}
