/* The work of a training step: what every rank computes, what travels, and how long that takes alone. docs/TRAINING.md
 * part 2. */
#include "internal.h"
#include <moeplan/flow.h>
#include <moeplan/sim.h>
#include <string.h>

#define FULL TRAIN_FULL

struct making {
    const struct mp_cost_setup *setup;
    const struct mp_train_options *options;
    struct mp_train_work *out;
    struct mp_net *net;
    struct mp_traffic *traffic;
    uint64_t *matrix, *finish, *through; /* [n][n], 2 [n][n], [n_resources] */
    uint64_t *next_rows;                 /* [n] tokens that a flow has on each rank behind the layer */
    uint64_t *activations;               /* [n] bytes, of the layers so far */
    uint32_t n;
};

struct mp_train_options mp_train_defaults(void) {
    return (struct mp_train_options){.backward_ppm = 2000000,
                                     .gradient_bits = 16,
                                     .state_bytes = 20,
                                     .held_bytes = 12,
                                     .host_bytes_per_s = UINT64_C(25000000000)};
}

/* ---- transfers ---- */

/* Adds what the matrix sends through each port, and to `most` what the rank with most sends. */
static void add_loads(struct making *m, const uint64_t *matrix, uint64_t *most) {
    for (uint32_t i = 0; i < m->n; i++) {
        uint64_t sent = 0;
        for (uint32_t j = 0; j < m->n; j++) {
            struct mp_path path;
            uint64_t bytes = matrix[(size_t)i * m->n + j];
            if (i == j || bytes == 0)
                continue;
            mp_topology_path(m->setup->topology, i, j, &path);
            for (uint32_t k = 0; k < path.n; k++)
                m->through[path.resource[k]] += bytes;
            sent += bytes;
        }
        *most = sent > *most ? sent : *most;
    }
}

/* Room for a transfer's shares of ports. */
static enum mp_status loads_of(struct making *m, struct mp_train_transfer *x, struct mp_error *err) {
    const struct mp_topology *t = m->setup->topology;
    uint32_t *load = mp_arena_alloc(m->out->arena, t->n_resources, sizeof *load);
    if (load == NULL)
        return mp_nomem(err, "a training step");
    for (uint32_t p = 0; p < t->n_resources; p++) {
        uint64_t ns = mp_mul_div_ceil(m->through[p], 1000000000, t->resources[p].bytes_per_s);
        load[p] = x->ns == 0 || ns >= x->ns ? (ns == 0 ? 0 : FULL) : (uint32_t)mp_mul_div(ns, FULL, x->ns);
    }
    x->load_ppm = load;
    return MP_OK;
}

/* One phase of an all-to-all after another, or both at once (overlapped: the longer). finish_ns[n]: when each rank has
 * its own. */
static enum mp_status add_phase(struct making *m, const uint64_t *matrix, const struct mp_order *order,
                                enum mp_combine way, bool is_beside, struct mp_train_transfer *x, uint64_t *rank_ns,
                                struct mp_error *err) {
    const struct mp_plan *plan = m->setup->plan;
    uint64_t ns = 0, *finish = m->finish;
    enum mp_status status;
    if (order == NULL)
        status = mp_net_concurrent(m->net, matrix, &ns, finish, err);
    else
        status = mp_net_staged(m->net, order, way, plan->stage_mode, matrix, &ns, err);
    if (status != MP_OK)
        return status;
    add_loads(m, matrix, &x->bytes);
    uint64_t before = is_beside ? 0 : x->ns;
    for (uint32_t i = 0; i < m->n; i++) {
        uint64_t own = order == NULL ? 0 : ns;
        for (uint32_t j = 0; j < m->n && order == NULL; j++) {
            own = finish[(size_t)i * m->n + j] > own ? finish[(size_t)i * m->n + j] : own;
            own = finish[(size_t)j * m->n + i] > own ? finish[(size_t)j * m->n + i] : own;
        }
        if (own > 0)
            rank_ns[i] = before + own > rank_ns[i] ? before + own : rank_ns[i];
    }
    x->ns = before + ns > x->ns ? before + ns : x->ns;
    return MP_OK;
}

/* The all-to-all of these two phases; `second` NULL = one phase. */
static enum mp_status a2a(struct making *m, const uint64_t *first, const uint64_t *second, bool is_second_ahead,
                          const struct mp_order *order, enum mp_combine way, struct mp_train_transfer *x,
                          struct mp_error *err) {
    const struct mp_dispatcher *d = m->setup->dispatcher;
    uint64_t *rank_ns = mp_arena_alloc(m->out->arena, m->n, sizeof *rank_ns);
    uint32_t *end_ppm = mp_arena_alloc(m->out->arena, m->n, sizeof *end_ppm);
    if (rank_ns == NULL || end_ppm == NULL)
        return mp_nomem(err, "a training step");
    memset(m->through, 0, m->setup->topology->n_resources * sizeof *m->through);
    *x = (struct mp_train_transfer){0};
    enum mp_status status = MP_OK;
    for (uint32_t k = 0; k < 2 && status == MP_OK; k++) {
        bool is_second = (k == 1) != is_second_ahead;
        if (is_second && second == NULL)
            continue;
        status = add_phase(m, is_second ? second : first, is_second ? NULL : order, way, k == 1 && d->is_overlapped, x,
                           rank_ns, err);
    }
    if (status != MP_OK)
        return status;
    for (uint32_t i = 0; i < m->n; i++)
        end_ppm[i] = x->ns == 0 || rank_ns[i] >= x->ns ? FULL : (uint32_t)mp_mul_div_ceil(rank_ns[i], FULL, x->ns);
    x->end_ppm = end_ppm;
    return loads_of(m, x, err);
}

static void transpose(uint64_t *out, const uint64_t *in, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++)
            out[(size_t)i * n + j] = in[(size_t)j * n + i];
}

/* What goes back where `in` came from, outputs for activations. */
static void backwards(uint64_t *out, const uint64_t *in, const struct mp_model *model, uint32_t n) {
    transpose(out, in, n);
    for (size_t i = 0; i < (size_t)n * n; i++)
        out[i] = model->dispatch_bytes == 0 ? 0 : out[i] / model->dispatch_bytes * model->combine_bytes;
}

/* ---- gradients ---- */

/* What reading or writing so many bytes takes a GPU. */
static uint64_t memory_ns(const struct making *m, uint32_t gpu, uint64_t bytes) {
    const struct mp_topology *t = m->setup->topology;
    const struct mp_gpu_type *type = &t->types[t->gpus[gpu].type];
    uint64_t rate = mp_mul_div(type->hbm_bytes_per_s, type->hbm_efficiency_ppm, FULL);
    return rate == 0 ? 0 : mp_mul_div_ceil(bytes, 1000000000, rate);
}

/* A ring of these GPUs, ascending, that sums `bytes`: each sends on 2 (n - 1) / n of it. */
static void add_ring(struct making *m, const uint32_t *gpus, uint32_t n, uint64_t bytes) {
    for (uint32_t i = 0; i < n && n > 1; i++)
        m->matrix[(size_t)gpus[i] * m->n + gpus[(i + 1) % n]] += mp_mul_div_ceil(bytes, 2 * ((uint64_t)n - 1), n);
}

/* Over all GPUs: inside nodes a ring each, between nodes one of the GPUs with the same index in their nodes, each for
 * its share. Nodes of unlike size: one ring of all. */
static enum mp_status add_all_rings(struct making *m, uint64_t bytes, struct mp_error *err) {
    const struct mp_topology *t = m->setup->topology;
    uint32_t n_nodes = mp_topology_n_nodes(t), size = m->n / n_nodes;
    uint32_t *gpus = mp_arena_alloc(m->out->arena, m->n, sizeof *gpus);
    if (gpus == NULL)
        return mp_nomem(err, "a training step");
    bool is_even = m->n % n_nodes == 0;
    for (uint32_t g = 0; g < m->n; g++) {
        is_even = is_even && mp_topology_node(t, g) == g / size;
        gpus[g] = g;
    }
    if (!is_even) {
        add_ring(m, gpus, m->n, bytes);
        return MP_OK;
    }
    for (uint32_t v = 0; v < n_nodes; v++)
        add_ring(m, gpus + (size_t)v * size, size, bytes);
    for (uint32_t i = 0; i < size; i++) {
        for (uint32_t v = 0; v < n_nodes; v++)
            gpus[v] = v * size + i;
        add_ring(m, gpus, n_nodes, mp_ceil_div(bytes, size));
    }
    return MP_OK;
}

/* What m->matrix sends, and empties it. bytes: what chunks are cut from. */
static enum mp_status reduce(struct making *m, uint64_t bytes, struct mp_train_transfer *x, struct mp_error *err) {
    uint64_t sent = 0;
    *x = (struct mp_train_transfer){0};
    enum mp_status status = mp_net_concurrent(m->net, m->matrix, &x->ns, NULL, err);
    if (status != MP_OK)
        return status;
    memset(m->through, 0, m->setup->topology->n_resources * sizeof *m->through);
    add_loads(m, m->matrix, &sent);
    x->bytes = bytes;
    memset(m->matrix, 0, (size_t)m->n * m->n * sizeof *m->matrix);
    return loads_of(m, x, err);
}

/* Every expert among the GPUs that hold it. */
static enum mp_status reduce_experts(struct making *m, const struct mp_plan_layer *layer, struct mp_train_transfer *x,
                                     struct mp_error *err) {
    const struct mp_plan *plan = m->setup->plan;
    uint64_t bytes = train_bytes_at(m->setup->model, m->setup->model->expert_bytes, m->options->gradient_bits),
             most = 0;
    uint32_t *gpus = mp_arena_alloc(m->out->arena, plan->n_slots, sizeof *gpus);
    uint32_t *first = mp_arena_alloc(m->out->arena, (size_t)plan->n_experts + 1, sizeof *first);
    if (gpus == NULL || first == NULL)
        return mp_nomem(err, "a training step");
    for (uint32_t s = 0; s < plan->n_slots; s++)
        if (layer->slot_expert[s] != MP_NO_EXPERT)
            first[layer->slot_expert[s] + 1]++;
    for (uint32_t e = 0; e < plan->n_experts; e++)
        first[e + 1] += first[e];
    const uint32_t n_filled = first[plan->n_experts];
    for (uint32_t s = plan->n_slots; s-- > 0;) /* from behind, so that GPUs ascend */
        if (layer->slot_expert[s] != MP_NO_EXPERT)
            gpus[--first[layer->slot_expert[s] + 1]] = mp_plan_slot_gpu(plan, s);
    for (uint32_t e = 0; e < plan->n_experts; e++) { /* first[e + 1] is now where e begins */
        uint32_t from = first[e + 1], to = e + 1 < plan->n_experts ? first[e + 2] : n_filled, n = 0;
        for (uint32_t i = from; i < to; i++)
            if (n == 0 || gpus[from + n - 1] != gpus[i])
                gpus[from + n++] = gpus[i];
        add_ring(m, gpus + from, n, bytes);
        most += n > 1 ? bytes : 0;
    }
    return reduce(m, most, x, err);
}

/* ---- computation ---- */

static enum mp_status times(struct making *m, uint32_t layer, struct mp_train_layer *x, struct mp_error *err) {
    const struct mp_topology *t = m->setup->topology;
    const struct mp_model *model = m->setup->model;
    const struct mp_traffic *traffic = m->traffic;
    uint64_t *ns[6];
    for (uint32_t i = 0; i < 6; i++)
        if ((ns[i] = mp_arena_alloc(m->out->arena, m->n, sizeof *ns[i])) == NULL)
            return mp_nomem(err, "a training step");
    /* Outputs are weighted where their tokens are next. */
    const uint64_t *back = traffic->source_rows;
    if (m->setup->flow != NULL) {
        const uint32_t pad = m->setup->workload->batching.pad_tokens;
        mp_flow_rows(m->setup->flow, layer + 1, m->next_rows, m->n);
        for (uint32_t g = 0; g < m->n && pad > 1; g++)
            m->next_rows[g] = mp_ceil_div(m->next_rows[g], pad) * pad;
        back = m->next_rows;
    }
    /* Dense layers are where most models have them: in front. */
    uint32_t n_dense =
        layer == 0 && model->n_hidden_layers > model->n_layers ? model->n_hidden_layers - model->n_layers : 0;
    for (uint32_t g = 0; g < m->n; g++) {
        uint64_t rows = traffic->source_rows[g];
        ns[0][g] =
            mp_layer_attention_ns(m->setup, traffic, g) * (1 + (uint64_t)n_dense) + mp_shared_ns(t, g, model, rows);
        ns[1][g] = mp_compute_ns(t, g, model, traffic->active[g], traffic->padded_rows[g]);
        ns[2][g] = memory_ns(m, g, back[g] * (model->top_k + 1) * model->combine_bytes);
        ns[3][g] = ns[2][g];
        ns[4][g] = mp_mul_div_ceil(ns[1][g], m->options->backward_ppm, FULL);
        ns[5][g] = mp_mul_div_ceil(ns[0][g], m->options->backward_ppm, FULL);
    }
    x->attention_ns = ns[0];
    x->expert_ns = ns[1];
    x->combine_ns = ns[2];
    x->combine_back_ns = ns[3];
    x->expert_back_ns = ns[4];
    x->attention_back_ns = ns[5];
    return MP_OK;
}

static enum mp_status make_layer(struct making *m, uint32_t step, uint32_t layer, struct mp_train_layer *x,
                                 struct mp_error *err) {
    const struct mp_plan *plan = m->setup->plan;
    const struct mp_model *model = m->setup->model;
    const struct mp_plan_layer *own = &plan->layers[layer];
    const struct mp_order *order = own->order == MP_NONE ? NULL : &plan->orders[own->order];
    const struct mp_traffic *t = m->traffic;
    enum mp_status status = mp_traffic_compute(m->traffic, m->setup, step, layer, err);
    if (status == MP_OK)
        status = times(m, layer, x, err);
    for (uint32_t g = 0; g < m->n && status == MP_OK; g++)
        m->activations[g] += train_activation_bytes(model, t->source_rows[g], t->rows[g]);
    const uint64_t *second = t->has_second ? t->dispatch2 : NULL, *back = t->has_second ? t->combine2 : NULL;
    if (status == MP_OK)
        status = a2a(m, t->dispatch, second, false, order, MP_COMBINE_FORWARD, &x->a2a[MP_TRAIN_DISPATCH], err);
    if (status == MP_OK)
        status = a2a(m, t->combine, back, true, order, own->combine, &x->a2a[MP_TRAIN_COMBINE], err);
    x->a2a[MP_TRAIN_DISPATCH_BACK] = x->a2a[MP_TRAIN_COMBINE]; /* gradients come home as outputs did */
    uint64_t *other = m->finish + (size_t)m->n * m->n;
    if (status == MP_OK && m->setup->flow != NULL) { /* to where activations came from, which is another place */
        backwards(m->matrix, t->dispatch, model, m->n);
        if (second != NULL)
            backwards(other, second, model, m->n);
        status = a2a(m, m->matrix, second == NULL ? NULL : other, true, order, own->combine,
                     &x->a2a[MP_TRAIN_DISPATCH_BACK], err);
    }
    if (status == MP_OK && t->has_weights) { /* and gradients of experts that had come, to where those are */
        transpose(m->matrix, t->weights, m->n);
        for (size_t i = 0; i < (size_t)m->n * m->n; i++)
            m->matrix[i] = t->combine[i] + train_bytes_at(model, m->matrix[i], m->options->gradient_bits);
        status = a2a(m, m->matrix, NULL, true, order, own->combine, &x->a2a[MP_TRAIN_DISPATCH_BACK], err);
    }
    if (status == MP_OK) { /* and go out as activations did, with the bytes of outputs; experts come once more */
        transpose(m->matrix, t->combine, m->n);
        for (size_t i = 0; i < (size_t)m->n * m->n && t->has_weights; i++)
            m->matrix[i] += t->weights[i];
        if (back != NULL)
            transpose(other, back, m->n);
        status = a2a(m, m->matrix, back == NULL ? NULL : other, false, order, MP_COMBINE_FORWARD,
                     &x->a2a[MP_TRAIN_COMBINE_BACK], err);
        memset(m->matrix, 0, (size_t)m->n * m->n * sizeof *m->matrix);
    }
    if (status == MP_OK)
        status = reduce_experts(m, own, &x->expert_reduce, err);
    /* What no layer of experts has (embeddings, dense layers) comes last in the backward pass: with the first. */
    uint64_t weights = model->attention_bytes, dense = model->attention_bytes * model->n_layers;
    if (layer == 0 && model->dense_bytes > dense)
        weights += model->dense_bytes - dense;
    const uint64_t bytes = train_bytes_at(model, model->shared_bytes, m->options->gradient_bits) +
                           train_dense_bytes_at(model, weights, m->options->gradient_bits);
    if (status == MP_OK)
        status = add_all_rings(m, bytes, err);
    return status == MP_OK ? reduce(m, m->n > 1 ? bytes : 0, &x->reduce, err) : status;
}

static uint64_t update_ns(const struct making *m) {
    const struct mp_model *model = m->setup->model;
    const struct mp_plan *plan = m->setup->plan;
    uint64_t most = 0;
    for (uint32_t g = 0; g < m->n; g++) {
        uint64_t slots = plan->gpu_first_slot[g + 1] - plan->gpu_first_slot[g];
        uint64_t held = plan->n_layers * (slots * model->expert_bytes + model->shared_bytes);
        uint64_t ns =
            memory_ns(m, g,
                      train_bytes_at(model, held, (uint64_t)m->options->state_bytes * 8) +
                          train_dense_bytes_at(model, model->dense_bytes, (uint64_t)m->options->state_bytes * 8));
        most = ns > most ? ns : most;
    }
    return most;
}

static enum mp_status make_all(struct making *m, uint32_t step, struct mp_error *err) {
    const struct mp_cost_setup *s = m->setup;
    size_t cells = (size_t)m->n * m->n;
    struct mp_train_layer *layers = mp_arena_alloc(m->out->arena, s->plan->n_layers, sizeof *layers);
    m->matrix = mp_arena_alloc(m->out->arena, cells, sizeof *m->matrix);
    m->finish = mp_arena_alloc(m->out->arena, 2 * cells, sizeof *m->finish);
    m->through = mp_arena_alloc(m->out->arena, s->topology->n_resources, sizeof *m->through);
    m->next_rows = mp_arena_alloc(m->out->arena, m->n, sizeof *m->next_rows);
    m->activations = mp_arena_alloc(m->out->arena, m->n, sizeof *m->activations);
    if (layers == NULL || m->activations == NULL || m->matrix == NULL || m->finish == NULL || m->through == NULL ||
        m->next_rows == NULL)
        return mp_nomem(err, "a training step");
    enum mp_status status = mp_net_new(&m->net, s->topology, err);
    if (status == MP_OK)
        status = mp_traffic_new(&m->traffic, m->n, err);
    for (uint32_t l = 0; l < s->plan->n_layers && status == MP_OK; l++)
        status = make_layer(m, step, l, &layers[l], err);
    m->out->step = (struct mp_train_step){.n_ranks = m->n,
                                          .n_layers = s->plan->n_layers,
                                          .n_ports = s->topology->n_resources,
                                          .launch_ns = s->topology->launch_ns,
                                          .kernel_ns = s->topology->types[s->topology->gpus[0].type].kernel_ns,
                                          .split_ns = m->options->split_ns,
                                          .loss_ns = s->model->other_ns_per_step,
                                          .update_ns = update_ns(m),
                                          .layers = layers};
    if (status == MP_OK)
        train_memory(&m->out->memory, s, m->options, m->activations);
    return status == MP_OK ? train_offload(m->out, layers, s, m->options, err) : status;
}

enum mp_status mp_train_work_make(struct mp_train_work *out, const struct mp_cost_setup *setup, uint32_t step,
                                  const struct mp_train_options *options, struct mp_error *err) {
    struct making m = {.setup = setup, .options = options, .out = out, .n = setup->topology->n_gpus};
    *out = (struct mp_train_work){.arena = mp_arena_new()};
    enum mp_status status = out->arena == NULL ? mp_nomem(err, "a training step") : make_all(&m, step, err);
    mp_net_free(m.net);
    mp_traffic_free(m.traffic);
    if (status != MP_OK)
        mp_train_work_free(out);
    return status;
}

void mp_train_work_free(struct mp_train_work *w) {
    mp_arena_free(w->arena);
    *w = (struct mp_train_work){0};
}
