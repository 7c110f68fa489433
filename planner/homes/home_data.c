/* What requests use, for homes and placement together.
 *
 * Decides   nothing.
 * Method    sums over the rows of the planning requests; a sample of at most ROWS_MAX rows for what looks at tokens.
 * Bound     -
 * Differs   -
 * Cost      O(rows * layers * top-k) for each set of costs. */
#include "homes_parts.h"
#include <string.h>

#define ROWS_MAX 65536u

struct load_ctx {
    const struct mp_home_data *d;
};

static enum mp_status load_layer(void *ctx, size_t l, unsigned worker, struct mp_error *err) {
    const struct mp_home_data *d = ((struct load_ctx *)ctx)->d;
    uint64_t *load = d->load + l * d->n_experts;
    uint16_t ids[MP_MAX_TOP_K];
    (void)worker, (void)err;
    for (uint32_t r = 0; r < d->n_requests; r++)
        for (uint64_t i = 0; i < d->request[r]->n_rows; i++) {
            const uint32_t k = mp_trace_row(d->trace, (uint32_t)l, d->request[r]->first_row + i, ids);
            for (uint32_t j = 0; j < k; j++)
                load[ids[j]]++;
        }
    return MP_OK;
}

/* Evenly from all rows. */
static enum mp_status sample(struct mp_home_data *d, uint64_t n_rows, struct mp_error *err) {
    d->n_rows = n_rows < ROWS_MAX ? (uint32_t)n_rows : ROWS_MAX;
    d->row = mp_arena_alloc(d->arena, d->n_rows, sizeof *d->row);
    d->of = mp_arena_alloc(d->arena, d->n_rows, sizeof *d->of);
    if (d->row == NULL || d->of == NULL)
        return mp_nomem(err, "homes of requests");
    uint64_t before = 0;
    for (uint32_t i = 0, r = 0; i < d->n_rows; i++) {
        const uint64_t at = mp_mul_div(i, n_rows, d->n_rows);
        while (at >= before + d->request[r]->n_rows)
            before += d->request[r++]->n_rows;
        d->row[i] = d->request[r]->first_row + at - before;
        d->of[i] = r;
    }
    return MP_OK;
}

enum mp_status mp_home_data_new(struct mp_home_data *d, const struct mp_plan_request *request,
                                const struct mp_plan *like, struct mp_arena *arena, struct mp_error *err) {
    const struct mp_part *part = request->planning;
    const struct mp_trace *t = part->trace;
    uint64_t n_rows = 0;
    *d = (struct mp_home_data){.trace = t,
                               .n_layers = t->n_layers,
                               .n_experts = t->n_experts,
                               .top_k = t->top_k,
                               .n_nodes = like->n_nodes,
                               .n_gpus = like->n_gpus,
                               .like = like,
                               .seed = request->seed,
                               .n_threads = request->n_threads,
                               .arena = arena};
    for (uint32_t g = 0; g < like->n_gpus; g++) {
        d->gpus_of[like->gpu_node[g]]++;
        d->slots_of[like->gpu_node[g]] += like->gpu_first_slot[g + 1] - like->gpu_first_slot[g];
    }
    d->request = mp_arena_alloc(arena, part->n, sizeof *d->request);
    d->size = mp_arena_alloc(arena, part->n, sizeof *d->size);
    d->load = mp_arena_alloc(arena, (size_t)t->n_layers * t->n_experts, sizeof *d->load);
    if (d->request == NULL || d->size == NULL || d->load == NULL)
        return mp_nomem(err, "homes of requests");
    for (uint32_t m = 0; m < part->n; m++) {
        const struct mp_request *r = &t->requests[part->members[m]];
        if (r->n_rows == 0)
            continue;
        d->size[d->n_requests] = request->batching.phase == MP_PHASE_DECODE ? 1 : r->n_rows;
        d->request[d->n_requests++] = r;
        n_rows += r->n_rows;
    }
    struct load_ctx ctx = {d};
    enum mp_status status = mp_parallel_for(d->n_threads, d->n_layers, load_layer, &ctx, err);
    return status == MP_OK ? sample(d, n_rows, err) : status;
}

struct cost_ctx {
    const struct mp_home_data *d;
    const uint16_t *node;
    int64_t *cost;
};

static enum mp_status cost_request(void *ctx, size_t r, unsigned worker, struct mp_error *err) {
    const struct cost_ctx *c = ctx;
    const struct mp_home_data *d = c->d;
    int64_t *cost = c->cost + r * d->n_nodes;
    uint32_t on[MP_HOME_NODES_MAX];
    uint16_t ids[MP_MAX_TOP_K];
    (void)worker, (void)err;
    memset(cost, 0, d->n_nodes * sizeof *cost);
    for (uint32_t l = 0; l < d->n_layers; l++)
        for (uint64_t i = 0; i < d->request[r]->n_rows; i++) {
            const uint32_t k = mp_trace_row(d->trace, l, d->request[r]->first_row + i, ids);
            int64_t nodes = 0;
            memset(on, 0, d->n_nodes * sizeof *on);
            for (uint32_t j = 0; j < k; j++)
                nodes += on[c->node[(size_t)l * d->n_experts + ids[j]]]++ == 0;
            for (uint32_t v = 0; v < d->n_nodes; v++)
                cost[v] += d->expert_milli * (k - on[v]) + d->node_milli * (nodes - (on[v] > 0));
        }
    return MP_OK;
}

enum mp_status mp_home_costs(int64_t *cost, const struct mp_home_data *d, const uint16_t *node, struct mp_error *err) {
    struct cost_ctx c = {d, node, cost};
    return mp_parallel_for(d->n_threads, d->n_requests, cost_request, &c, err);
}
