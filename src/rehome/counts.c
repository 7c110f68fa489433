/* Where the experts of sequences are, and what homes save by it. docs/LUFFY.md part 2. */
#include "rehome_private.h"
#include <moeplan/base.h>
#include <string.h>

enum mp_status clusters_of(struct clusters *out, const struct mp_topology *t, struct mp_arena *arena,
                           struct mp_error *err) {
    const uint32_t n = t->n_gpus, n_nodes = mp_topology_n_nodes(t);
    *out = (struct clusters){.n_gpus = n, .n_nodes = n_nodes};
    out->node = mp_arena_alloc(arena, n, sizeof *out->node);
    out->index = mp_arena_alloc(arena, n, sizeof *out->index);
    out->first = mp_arena_alloc(arena, (size_t)n_nodes + 1, sizeof *out->first);
    out->members = mp_arena_alloc(arena, n, sizeof *out->members);
    if (out->node == NULL || out->index == NULL || out->first == NULL || out->members == NULL)
        return mp_nomem(err, "nodes of GPUs");
    for (uint32_t g = 0; g < n; g++) {
        out->node[g] = mp_topology_node(t, g);
        out->index[g] = out->first[out->node[g] + 1]++;
    }
    for (uint32_t v = 0; v < n_nodes; v++)
        out->first[v + 1] += out->first[v];
    for (uint32_t g = 0; g < n; g++)
        out->members[out->first[out->node[g]] + out->index[g]] = g;
    return MP_OK;
}

enum mp_status counting_init(struct counting *c, const struct mp_cost_setup *setup, const struct mp_token_flow *flow,
                             const struct clusters *clusters, uint32_t step, struct mp_arena *arena,
                             struct mp_error *err) {
    const struct mp_plan *p = setup->plan;
    *c = (struct counting){.setup = setup, .flow = flow, .clusters = clusters, .step = step};
    c->slot_gpu = mp_arena_alloc(arena, p->n_slots, sizeof *c->slot_gpu);
    c->gpu_seen = mp_arena_alloc(arena, clusters->n_gpus, sizeof *c->gpu_seen);
    c->node_seen = mp_arena_alloc(arena, clusters->n_nodes, sizeof *c->node_seen);
    if (c->slot_gpu == NULL || c->gpu_seen == NULL || c->node_seen == NULL)
        return mp_nomem(err, "experts of sequences");
    for (uint32_t g = 0; g < p->n_gpus; g++)
        for (uint32_t slot = p->gpu_first_slot[g]; slot < p->gpu_first_slot[g + 1]; slot++)
            c->slot_gpu[slot] = g;
    return MP_OK;
}

enum mp_status counts_new(struct counts *out, const struct counting *c, struct mp_arena *arena, struct mp_error *err) {
    const size_t n = c->flow->n_sequences, n_gpus = c->clusters->n_gpus;
    out->outputs = mp_arena_alloc(arena, n * n_gpus, sizeof *out->outputs);
    out->rows = mp_arena_alloc(arena, n * n_gpus, sizeof *out->rows);
    out->on_node = mp_arena_alloc(arena, n * c->clusters->n_nodes, sizeof *out->on_node);
    return out->outputs == NULL || out->rows == NULL || out->on_node == NULL ? mp_nomem(err, "experts of sequences")
                                                                             : MP_OK;
}

/* An expert of the token that is stamped is on GPU g. */
static inline void add(struct counting *c, struct counts *out, size_t sequence, uint32_t g) {
    const uint32_t v = c->clusters->node[g];
    out->outputs[sequence * c->clusters->n_gpus + g]++;
    out->rows[sequence * c->clusters->n_gpus + g] += c->gpu_seen[g] != c->stamp;
    out->on_node[sequence * c->clusters->n_nodes + v] += c->node_seen[v] != c->stamp;
    c->gpu_seen[g] = c->node_seen[v] = c->stamp;
}

enum mp_status counts_make(struct counts *out, struct counting *c, uint32_t layer, const uint32_t *home,
                           bool is_anywhere, struct mp_error *err) {
    const struct mp_router *router = c->setup->router;
    const struct mp_trace *trace = c->setup->workload->trace;
    const struct mp_step *st = &c->setup->workload->steps[c->step];
    const size_t n = c->flow->n_sequences;
    const bool is_nearest = is_anywhere && c->setup->plan->route == MP_ROUTE_NEAREST;
    memset(out->outputs, 0, n * c->clusters->n_gpus * sizeof *out->outputs);
    memset(out->rows, 0, n * c->clusters->n_gpus * sizeof *out->rows);
    memset(out->on_node, 0, n * c->clusters->n_nodes * sizeof *out->on_node);
    for (size_t q = 0; q < n; q++)
        for (uint32_t i = c->flow->first_row[q]; i < c->flow->first_row[q + 1]; i++) {
            uint16_t ids[MP_MAX_TOP_K];
            uint32_t k = mp_trace_row(trace, layer, st->row[i], ids);
            if (++c->stamp == 0) { /* after 2^32 tokens */
                memset(c->gpu_seen, 0, c->clusters->n_gpus * sizeof *c->gpu_seen);
                memset(c->node_seen, 0, c->clusters->n_nodes * sizeof *c->node_seen);
                c->stamp = 1;
            }
            for (uint32_t j = 0; j < k; j++) {
                uint32_t n_replicas;
                const uint32_t *slots = mp_router_replicas(router, layer, ids[j], &n_replicas);
                if (n_replicas == 0)
                    return mp_fail(err, MP_EINPUT, "layer %u: expert %u has no slot in the plan",
                                   c->setup->plan->layers[layer].layer_id, ids[j]);
                if (n_replicas == 1 || is_nearest) {
                    for (uint32_t x = 0; x < n_replicas; x++)
                        add(c, out, q, c->slot_gpu[slots[x]]);
                    continue;
                }
                const uint32_t slot = mp_router_slot(router, layer, ids[j], home[q], mp_token_hash(st->row[i]));
                add(c, out, q, c->slot_gpu[slot]);
            }
        }
    return MP_OK;
}

/* Copies that need not travel, `bytes` each: where tokens' experts are, and the residual (all tokens) is on GPU `at`.
 */
static void save_copies(const struct saving *s, const struct counts *c, size_t q, uint64_t bytes, uint32_t at) {
    const struct clusters *k = s->clusters;
    const uint32_t *outputs = c->outputs + q * k->n_gpus, *rows = c->rows + q * k->n_gpus,
                   *on_node = c->on_node + q * k->n_nodes;
    uint64_t *node_bytes = s->node_bytes + q * k->n_nodes, *gpu_bytes = s->gpu_bytes + q * k->n_gpus;
    if (s->copies == MP_COPY_ALL)
        return; /* they travel whatever is where */
    for (uint32_t v = 0; v < k->n_nodes; v++) {
        const bool is_at = at != MP_NONE && k->node[at] == v;
        uint64_t near = s->copies == MP_COPY_PER_NODE ? (is_at ? s->length[q] : on_node[v]) : 0;
        for (uint32_t x = k->first[v]; x < k->first[v + 1]; x++) {
            const uint32_t g = k->members[x];
            const uint64_t here = s->copies == MP_COPY_PER_EXPERT ? outputs[g] + (uint64_t)(g == at ? s->length[q] : 0)
                                  : g == at                       ? s->length[q]
                                                                  : rows[g];
            near += s->copies == MP_COPY_PER_NODE ? 0 : here;
            gpu_bytes[g] += here * bytes;
            /* In other nodes the first phase ends, or the last begins, on the GPU with the same index. */
            for (uint32_t u = 0; u < k->n_nodes && s->copies == MP_COPY_PER_NODE; u++) {
                const uint32_t gateway = u == v ? MP_NONE : gateway_in(k, g, u);
                if (u != v)
                    gpu_bytes[g] += (gateway == at ? s->length[q] : rows[gateway]) * bytes;
            }
        }
        node_bytes[v] += near * bytes;
    }
}

void save_combine(const struct saving *s, const struct counts *c, const uint32_t *before) {
    for (size_t q = 0; q < s->n; q++)
        save_copies(s, c, q, s->model->combine_bytes, before[q]);
}

void save_dispatch(const struct saving *s, const struct counts *c) {
    for (size_t q = 0; q < s->n; q++)
        save_copies(s, c, q, s->model->dispatch_bytes, MP_NONE);
}

void save_residual(const struct saving *s, const struct counts *c, const uint32_t *next) {
    const struct clusters *k = s->clusters;
    const uint64_t bytes = s->model->combine_bytes;
    for (size_t q = 0; q < s->n && s->copies != MP_COPY_ALL; q++) {
        const uint32_t d = next[q], *rows = c->rows + q * k->n_gpus, length = s->length[q];
        const bool is_summed = s->copies != MP_COPY_PER_EXPERT; /* it joins what leaves that GPU or node anyway */
        for (uint32_t v = 0; v < k->n_nodes; v++)
            s->node_bytes[q * k->n_nodes + v] += bytes * (v == k->node[d] ? length
                                                          : is_summed     ? c->on_node[q * k->n_nodes + v]
                                                                          : 0);
        for (uint32_t g = 0; g < k->n_gpus; g++) {
            const uint32_t v = k->node[g];
            const bool is_free =
                g == d || (s->copies == MP_COPY_PER_NODE && v != k->node[d] && g == gateway_in(k, d, v));
            s->gpu_bytes[q * k->n_gpus + g] += bytes * (is_free ? length : is_summed ? rows[g] : 0);
        }
    }
}
