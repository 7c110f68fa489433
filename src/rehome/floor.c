/* What no homes go below.
 *
 * Decides   nothing: a bound.
 * Minimises bytes between nodes of a step over all homes of all layers, every sequence alone and every GPU with room
 * for all of them.
 * Method    of each sequence the cheapest path through the nodes, layer by layer, residuals included.
 * Bound     exact for homes without limits, so none within limits is below. Only nodes matter to bytes between them.
 * Differs   no paper gives one.
 * Cost      O(rows * top_k + sequences * layers * nodes^2). */
#include "rehome_private.h"
#include <moeplan/base.h>
#include <string.h>

/* Copies that a layer sends of a sequence, all of them and those on each node. */
static uint64_t copies_of(const struct counts *c, const struct clusters *k, size_t q, bool is_summed, uint64_t *on) {
    uint64_t all = 0;
    for (uint32_t v = 0; v < k->n_nodes; v++) {
        on[v] = is_summed ? c->on_node[q * k->n_nodes + v] : 0;
        for (uint32_t x = k->first[v]; x < k->first[v + 1] && !is_summed; x++)
            on[v] += c->outputs[q * k->n_gpus + k->members[x]];
        all += on[v];
    }
    return all;
}

static bool is_known(const struct mp_cost_setup *s) {
    const enum mp_copy_count copies = s->dispatcher->copies;
    bool is_alone = copies == MP_COPY_PER_EXPERT || copies == MP_COPY_PER_NODE;
    for (uint32_t l = 0; l < s->plan->n_layers; l++)
        for (uint32_t e = 0; e < s->plan->n_experts && is_alone; e++) {
            uint32_t n;
            (void)mp_router_replicas(s->router, l, e, &n);
            is_alone = n < 2;
        }
    return is_alone && s->dispatcher->weights == MP_WEIGHTS_STAY;
}

struct paths {
    uint64_t *least, *next; /* [n_sequences][n_nodes] bytes of the cheapest way here */
    uint64_t *on;           /* [n_nodes] */
};

static enum mp_status walk(uint64_t *bytes, struct paths *p, const struct mp_cost_setup *s, struct counting *counting,
                           struct counts *counts, struct mp_error *err) {
    const struct mp_token_flow *f = counting->flow;
    const struct clusters *k = counting->clusters;
    const bool is_summed = s->dispatcher->copies == MP_COPY_PER_NODE;
    const uint64_t out = s->model->dispatch_bytes, back = s->model->combine_bytes;
    const uint32_t m = k->n_nodes;
    for (size_t q = 0; q < f->n_sequences; q++)
        for (uint32_t v = 0; v < m; v++) /* it begins where batching put it */
            p->least[q * m + v] = v == k->node[f->home[q]] ? 0 : UINT64_MAX;
    for (uint32_t l = 0; l < f->n_layers; l++) {
        enum mp_status status = counts_make(counts, counting, l, f->home, false, err);
        if (status != MP_OK)
            return status;
        for (size_t q = 0; q < f->n_sequences; q++) {
            const uint64_t all = copies_of(counts, k, q, is_summed, p->on),
                           rows = f->first_row[q + 1] - f->first_row[q];
            memset(p->next + q * m, 0xff, m * sizeof *p->next);
            for (uint32_t from = 0; from < m; from++)
                for (uint32_t to = 0; to < m && p->least[q * m + from] != UINT64_MAX; to++) {
                    const uint64_t residual = from == to ? 0 : rows - (is_summed ? p->on[from] : 0),
                                   here = p->least[q * m + from] + (all - p->on[from]) * out +
                                          (all - p->on[to] + residual) * back;
                    if (here < p->next[q * m + to])
                        p->next[q * m + to] = here;
                }
        }
        uint64_t *swapped = p->least;
        p->least = p->next;
        p->next = swapped;
    }
    for (size_t q = 0; q < f->n_sequences; q++) {
        uint64_t least = UINT64_MAX;
        for (uint32_t v = 0; v < m; v++)
            least = p->least[q * m + v] < least ? p->least[q * m + v] : least;
        *bytes += least;
    }
    return MP_OK;
}

enum mp_status mp_rehome_floor(uint64_t *bytes, const struct mp_cost_setup *setup, uint32_t step,
                               struct mp_error *err) {
    struct mp_cost_setup stays = *setup;
    struct mp_token_flow *flow = NULL;
    struct mp_arena *arena = mp_arena_new();
    struct clusters clusters;
    struct counting counting;
    struct counts counts;
    enum mp_status status = arena == NULL ? mp_nomem(err, "a bound of homes") : MP_OK;
    *bytes = 0;
    stays.flow = NULL;
    if (status != MP_OK || !is_known(setup))
        goto out;
    MP_TRY(mp_flow_new(&flow, setup->workload, step, err));
    MP_TRY(clusters_of(&clusters, setup->topology, arena, err));
    MP_TRY(counting_init(&counting, &stays, flow, &clusters, step, arena, err));
    MP_TRY(counts_new(&counts, &counting, arena, err));
    const size_t cells = (size_t)flow->n_sequences * clusters.n_nodes + 1;
    struct paths paths = {.least = mp_arena_alloc(arena, cells, sizeof *paths.least),
                          .next = mp_arena_alloc(arena, cells, sizeof *paths.next),
                          .on = mp_arena_alloc(arena, clusters.n_nodes, sizeof *paths.on)};
    if (paths.least == NULL || paths.next == NULL || paths.on == NULL)
        status = mp_nomem(err, "a bound of homes");
    else
        status = walk(bytes, &paths, &stays, &counting, &counts, err);
out:
    mp_flow_free(flow);
    mp_arena_free(arena);
    return status;
}
