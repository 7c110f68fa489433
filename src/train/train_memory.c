/* What a GPU holds in a training step, and what it costs to keep some of it in its host's memory. docs/TRAINING.md
 * part 3.
 *
 * Decides    the least offload with which everything fits.
 * Method     Weights, gradients and optimiser state from the model's bytes; activations from the tokens. The link to
 *            the host carries both ways at once. Experts that are not on the GPU come while their layer's attention
 *            computes (backward: the attention of the layer before them in the pass), and what is longer than it is
 *            waited for; state passes through the GPU in the update.
 * Paper      Lina (USENIX ATC'23, arXiv 2210.17223) offloads to the host when packed experts need it, without saying
 *            how; ZeRO-Offload (USENIX ATC'21) keeps state there.
 * Cost       O(layers * slots). */
#include "internal.h"
#include <inttypes.h>
#include <string.h>

#define ACTIVATION_BYTES 2u
#define KEPT_OF_A_TOKEN                                                                                                \
    8u                    /* vectors: input, normalised input, queries, keys, values, attention, residual, normalised */
#define KEPT_OF_HIDDEN 2u /* of a pair: the expert's input and output */
#define KEPT_OF_A_NEURON 3u /* gate, up and their product */

uint64_t train_bytes_at(const struct mp_model *model, uint64_t weight_bytes, uint64_t bits) {
    return mp_mul_div_ceil(weight_bytes, bits * 100, model->weight_bits_x100 == 0 ? 1600 : model->weight_bits_x100);
}

uint64_t train_dense_bytes_at(const struct mp_model *model, uint64_t weight_bytes, uint64_t bits) {
    if (model->dense_bits_x100 == 0)
        return train_bytes_at(model, weight_bytes, bits);
    return mp_mul_div_ceil(weight_bytes, bits * 100, model->dense_bits_x100);
}

uint64_t train_activation_bytes(const struct mp_model *model, uint64_t tokens, uint64_t pairs) {
    const uint64_t hidden = model->hidden_size > 0 ? model->hidden_size : model->combine_bytes / ACTIVATION_BYTES;
    const uint64_t of_token = KEPT_OF_A_TOKEN * hidden + KEPT_OF_A_NEURON * (uint64_t)model->shared_size;
    const uint64_t of_pair = KEPT_OF_HIDDEN * hidden + KEPT_OF_A_NEURON * (uint64_t)model->expert_size;
    return ACTIVATION_BYTES * (tokens * of_token + pairs * of_pair);
}

/* A model may say any number of bytes. */
static uint64_t add(uint64_t a, uint64_t b) {
    uint64_t sum;
    return mp_add_overflow(a, b, &sum) ? UINT64_MAX : sum;
}
static uint64_t times(uint64_t a, uint64_t b) {
    uint64_t product;
    return mp_mul_overflow(a, b, &product) ? UINT64_MAX : product;
}
static uint64_t less(uint64_t a, uint64_t b) { return a > b ? a - b : 0; }

/* Weights of the experts on GPU g in layer l. */
static uint64_t expert_weights(const struct mp_cost_setup *s, uint32_t l, uint32_t g) {
    const struct mp_plan *p = s->plan;
    uint64_t n = 0;
    for (uint32_t k = p->gpu_first_slot[g]; k < p->gpu_first_slot[g + 1]; k++)
        n += p->layers[l].slot_expert[k] != MP_NO_EXPERT;
    return times(n, s->model->expert_bytes);
}

struct held { /* of one GPU */
    uint64_t weights, gradients, state, activations, experts, expert_gradients, expert_state, layer;
};

static struct held held_by(const struct mp_cost_setup *s, const struct mp_train_options *o, uint32_t g,
                           uint64_t activations) {
    const struct mp_model *m = s->model;
    const uint32_t n = s->plan->n_layers, n_held = m->n_layers > n ? m->n_layers : n;
    struct held h = {0};
    for (uint32_t l = 0; l < n; l++) {
        const uint64_t own = expert_weights(s, l, g);
        const uint64_t layer = add(own, train_bytes_at(m, own, o->gradient_bits));
        h.layer = layer > h.layer ? layer : h.layer;
        h.experts = add(h.experts, own);
    }
    h.experts = mp_mul_div_ceil(h.experts, n_held, n); /* layers that are not recorded are like those that are */
    const uint64_t all = add(h.experts, times(n_held, m->shared_bytes));
    h.weights = add(all, m->dense_bytes);
    h.gradients =
        add(train_bytes_at(m, all, o->gradient_bits), train_dense_bytes_at(m, m->dense_bytes, o->gradient_bits));
    h.state = add(train_bytes_at(m, all, (uint64_t)o->held_bytes * 8),
                  train_dense_bytes_at(m, m->dense_bytes, (uint64_t)o->held_bytes * 8));
    h.expert_gradients = train_bytes_at(m, h.experts, o->gradient_bits);
    h.expert_state = train_bytes_at(m, h.experts, (uint64_t)o->held_bytes * 8);
    h.activations = mp_mul_div_ceil(activations, n_held, n);
    return h;
}

void train_memory(struct mp_train_memory *out, const struct mp_cost_setup *setup,
                  const struct mp_train_options *options, const uint64_t *activations) {
    const struct mp_topology *t = setup->topology;
    *out = (struct mp_train_memory){0};
    for (uint32_t g = 0; g < t->n_gpus; g++) {
        const struct held h = held_by(setup, options, g, activations[g]);
        const uint64_t has = t->types[t->gpus[g].type].memory_bytes;
        uint64_t need[MP_TRAIN_N_OFFLOADS], host[MP_TRAIN_N_OFFLOADS] = {0};
        need[MP_TRAIN_OFFLOAD_NONE] = add(add(h.weights, h.gradients), add(h.state, h.activations));
        need[MP_TRAIN_OFFLOAD_STATE] = less(need[MP_TRAIN_OFFLOAD_NONE], h.expert_state);
        host[MP_TRAIN_OFFLOAD_STATE] = h.expert_state;
        const uint64_t all = add(h.experts, h.expert_gradients), two = times(2, h.layer);
        need[MP_TRAIN_OFFLOAD_EXPERTS] = add(less(need[MP_TRAIN_OFFLOAD_STATE], all), two < all ? two : all);
        host[MP_TRAIN_OFFLOAD_EXPERTS] = add(h.expert_state, all);
        if (g == 0 || need[0] > out->need_bytes[0]) {
            out->gpu = g;
            out->has_bytes = has;
            out->weight_bytes = h.weights;
            out->gradient_bytes = h.gradients;
            out->state_bytes = h.state;
            out->activation_bytes = h.activations;
            memcpy(out->need_bytes, need, sizeof need);
        }
        for (uint32_t k = 0; k < MP_TRAIN_N_OFFLOADS; k++) {
            const uint64_t lacks = need[k] > has ? need[k] - has : 0;
            out->lacks_bytes[k] = lacks > out->lacks_bytes[k] ? lacks : out->lacks_bytes[k];
            out->host_bytes[k] = host[k] > out->host_bytes[k] ? host[k] : out->host_bytes[k];
        }
    }
}

enum mp_status mp_train_offload_for(enum mp_train_offload *out, const struct mp_train_memory *const *memory, uint32_t n,
                                    const struct mp_train_options *options, struct mp_error *err) {
    const struct mp_train_memory *worst = NULL;
    *out = MP_TRAIN_OFFLOAD_NONE;
    for (uint32_t k = 0; k < MP_TRAIN_N_OFFLOADS; k++) {
        bool fits = true;
        for (uint32_t i = 0; i < n; i++) {
            fits = fits && memory[i]->lacks_bytes[k] == 0 &&
                   (options->host_memory_bytes == 0 || memory[i]->host_bytes[k] <= options->host_memory_bytes);
            if (worst == NULL || memory[i]->need_bytes[0] > worst->need_bytes[0])
                worst = memory[i];
        }
        if (!fits)
            continue;
        *out = (enum mp_train_offload)k;
        return MP_OK;
    }
    const bool is_hosts = worst->lacks_bytes[MP_TRAIN_OFFLOAD_EXPERTS] == 0;
    if (is_hosts)
        return mp_fail(err, MP_EINPUT,
                       "memory: the training step needs %" PRIu64 " bytes of a host for each GPU, and it has %" PRIu64
                       " (pack fewer experts on a GPU, or use more GPUs)",
                       worst->host_bytes[MP_TRAIN_OFFLOAD_EXPERTS], options->host_memory_bytes);
    return mp_fail(err, MP_EINPUT,
                   "memory: GPU %u needs %" PRIu64 " bytes for the training step, %" PRIu64
                   " with all of its experts in its host's memory, and has %" PRIu64
                   " (fewer tokens on each rank, or more GPUs)",
                   worst->gpu, worst->need_bytes[MP_TRAIN_OFFLOAD_NONE], worst->need_bytes[MP_TRAIN_OFFLOAD_EXPERTS],
                   worst->has_bytes);
}

/* Makes ns[g] at least `least`; adds what that adds. */
static enum mp_status raise_to(struct mp_arena *arena, const uint64_t **ns, uint32_t n, const uint64_t *least,
                               uint64_t *added, struct mp_error *err) {
    uint64_t *own = mp_arena_alloc(arena, n, sizeof *own);
    if (own == NULL)
        return mp_nomem(err, "a training step");
    for (uint32_t g = 0; g < n; g++) {
        own[g] = *ns != NULL && (*ns)[g] > least[g] ? (*ns)[g] : least[g];
        added[g] += own[g] - (*ns != NULL ? (*ns)[g] : 0);
    }
    *ns = own;
    return MP_OK;
}

enum mp_status train_offload(struct mp_train_work *w, struct mp_train_layer *layers, const struct mp_cost_setup *setup,
                             const struct mp_train_options *options, struct mp_error *err) {
    const uint32_t n = setup->topology->n_gpus, n_layers = setup->plan->n_layers;
    const struct mp_model *m = setup->model;
    if (options->offload == MP_TRAIN_OFFLOAD_NONE)
        return MP_OK;
    const uint64_t rate = options->host_bytes_per_s == 0 ? 1 : options->host_bytes_per_s;
    uint64_t *added = mp_arena_alloc(w->arena, n, sizeof *added), *least = mp_arena_alloc(w->arena, n, sizeof *least);
    uint64_t most_update = 0;
    enum mp_status status = added == NULL || least == NULL ? mp_nomem(err, "a training step") : MP_OK;
    for (uint32_t l = 0; l < n_layers && status == MP_OK && options->offload == MP_TRAIN_OFFLOAD_EXPERTS; l++) {
        for (uint32_t g = 0; g < n; g++)
            least[g] = mp_mul_div_ceil(expert_weights(setup, l, g), 1000000000, rate);
        status = raise_to(w->arena, &layers[l].attention_ns, n, least, added, err);
        for (uint32_t g = 0; g < n; g++) { /* gradients of this layer go while the weights of the one below come */
            const uint64_t out = train_bytes_at(m, expert_weights(setup, l, g), options->gradient_bits);
            const uint64_t in = l == 0 ? 0 : expert_weights(setup, l - 1, g);
            least[g] = mp_mul_div_ceil(out > in ? out : in, 1000000000, rate);
        }
        if (status == MP_OK)
            status = raise_to(w->arena, &layers[l].attention_back_ns, n, least, added, err);
    }
    for (uint32_t g = 0; g < n && status == MP_OK; g++) {
        uint64_t weights = 0;
        for (uint32_t l = 0; l < n_layers; l++)
            weights = add(weights, expert_weights(setup, l, g));
        uint64_t bytes = train_bytes_at(m, weights, (uint64_t)options->held_bytes * 8);
        const uint64_t gradients = train_bytes_at(m, weights, options->gradient_bits);
        if (options->offload == MP_TRAIN_OFFLOAD_EXPERTS)
            bytes = add(bytes, gradients > weights ? gradients : weights);
        const uint64_t ns = mp_mul_div_ceil(bytes, 1000000000, rate);
        most_update = ns > most_update ? ns : most_update;
        w->host_ns = added[g] > w->host_ns ? added[g] : w->host_ns;
    }
    w->step.update_ns = add(w->step.update_ns, most_update);
    w->host_ns = add(w->host_ns, most_update);
    return status;
}
