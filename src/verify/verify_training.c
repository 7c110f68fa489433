/* What a plan's training section must be: every layer's gradients in one bucket of their kind, with the bytes that the
 * model's weights make, and as many experts on every GPU as packing says. */
#include "internal.h"
#include <string.h>

/* of weights with so many hundredths of a bit each; 0 = 16 bits */
static uint64_t gradient_bytes(const struct verifier *v, uint64_t weight_bytes, uint32_t bits_x100) {
    const uint32_t own = bits_x100 == 0 ? 1600 : bits_x100;
    const unsigned __int128 x = (unsigned __int128)weight_bytes * v->plan->training.gradient_bits * 100;
    return (uint64_t)((x + own - 1) / own);
}

/* Of what every rank holds of this layer; the first also has what belongs to none. */
static uint64_t common_bytes(const struct verifier *v, uint32_t layer) {
    const struct mp_model *m = v->model;
    const uint64_t counted = m->attention_bytes * m->n_layers;
    const uint32_t dense_bits = m->dense_bits_x100 == 0 ? m->weight_bits_x100 : m->dense_bits_x100;
    uint64_t weights = m->attention_bytes;
    if (layer == 0 && m->dense_bytes > counted)
        weights += m->dense_bytes - counted;
    if (v->plan->n_gpus < 2)
        return 0;
    return gradient_bytes(v, weights, dense_bits) + gradient_bytes(v, m->shared_bytes, m->weight_bits_x100);
}

/* Experts of the layer that two GPUs or more hold. gpu[n_experts]: room. */
static uint64_t n_shared_experts(const struct mp_plan *p, uint32_t l, uint32_t *gpu) {
    uint64_t n = 0;
    memset(gpu, 0xff, p->n_experts * sizeof *gpu); /* none yet; counted ones: n_gpus */
    for (uint32_t s = 0; s < p->n_slots; s++) {
        const uint16_t e = p->layers[l].slot_expert[s];
        if (e >= p->n_experts || gpu[e] == p->n_gpus)
            continue;
        if (gpu[e] != UINT32_MAX && gpu[e] != p->slot_gpu[s]) {
            n++;
            gpu[e] = p->n_gpus;
        } else
            gpu[e] = p->slot_gpu[s];
    }
    return n;
}

/* bytes[n_layers]: what the layers' gradients of this kind have; NULL = not known. times[n_layers]: room. */
static void check_buckets(struct verifier *v, bool is_experts, const uint64_t *bytes, uint32_t *times) {
    static const char *const kinds[] = {"what all GPUs hold", "experts"};
    const struct mp_train_policy *y = &v->plan->training.policy;
    memset(times, 0, v->plan->n_layers * sizeof *times);
    for (uint32_t i = 0; i < y->n_buckets; i++) {
        const struct mp_train_bucket *b = &y->buckets[i];
        uint64_t sum = 0;
        if (b->is_experts != is_experts)
            continue;
        for (uint32_t l = b->first_layer; l <= b->last_layer; l++) {
            times[l]++;
            sum += bytes != NULL ? bytes[l] : 0;
        }
        if (bytes != NULL)
            vf_expect(v, b->bytes == sum, MP_V_TRAINING, "bucket %u says %llu bytes, and layers %u to %u have %llu", i,
                      ULL(b->bytes), b->first_layer, b->last_layer, ULL(sum));
    }
    for (uint32_t l = 0; l < v->plan->n_layers; l++) {
        vf_expect(v, times[l] <= 1, MP_V_TRAINING, "gradients of layer %u, of %s, are in %u buckets", l,
                  kinds[is_experts], times[l]);
        if (bytes != NULL && bytes[l] > 0)
            vf_expect(v, times[l] > 0, MP_V_TRAINING, "gradients of layer %u, of %s, are in no bucket", l,
                      kinds[is_experts]);
    }
}

static void check_packing(struct verifier *v, uint32_t *count) {
    const struct mp_plan *p = v->plan;
    for (uint32_t l = 0; l < p->n_layers; l++) {
        memset(count, 0, p->n_gpus * sizeof *count);
        for (uint32_t s = 0; s < p->n_slots; s++)
            count[p->slot_gpu[s]] += p->layers[l].slot_expert[s] != MP_NO_EXPERT;
        for (uint32_t g = 0; g < p->n_gpus; g++)
            vf_expect(v, count[g] == p->training.experts_per_gpu, MP_V_TRAINING,
                      "layer %u: GPU %u has %u experts, and packing puts %u on each", p->layers[l].layer_id, g,
                      count[g], p->training.experts_per_gpu);
    }
}

enum mp_status vf_check_training(struct verifier *v, struct mp_error *err) {
    const struct mp_plan *p = v->plan;
    const struct mp_plan_training *t = &p->training;
    if (!t->is_present)
        return MP_OK;
    if (!vf_expect(v,
                   (unsigned)t->policy.guard < MP_TRAIN_N_GUARDS && (unsigned)t->policy.order < MP_TRAIN_N_ORDERS &&
                       (unsigned)t->offload < MP_TRAIN_N_OFFLOADS && t->gradient_bits >= 1 &&
                       t->gradient_bits <= MP_MAX_GRADIENT_BITS,
                   MP_V_TRAINING, "rule of waiting %u, order of gradients %u or gradients of %u bits are not known",
                   (unsigned)t->policy.guard, (unsigned)t->policy.order, t->gradient_bits))
        return MP_OK;
    vf_expect(v, !t->policy.is_shared || t->policy.guard == MP_TRAIN_GUARD_NONE, MP_V_TRAINING,
              "allreduces wait although they travel beside all-to-alls");
    for (uint32_t i = 0; i < t->policy.n_buckets; i++) {
        const struct mp_train_bucket *b = &t->policy.buckets[i];
        if (!vf_expect(v, b->first_layer <= b->last_layer && b->last_layer < p->n_layers && b->bytes > 0, MP_V_TRAINING,
                       "bucket %u: layers %u to %u of %u, %llu bytes", i, b->first_layer, b->last_layer, p->n_layers,
                       ULL(b->bytes)))
            return MP_OK;
    }
    const uint32_t n = p->n_experts > p->n_gpus ? p->n_experts : p->n_gpus;
    uint64_t *bytes = mp_calloc(2 * (size_t)p->n_layers, sizeof *bytes);
    uint32_t *room = mp_calloc((size_t)n + p->n_layers, sizeof *room);
    if (bytes == NULL || room == NULL) {
        mp_free(bytes);
        mp_free(room);
        return mp_nomem(err, "verifying a plan");
    }
    for (uint32_t l = 0; l < p->n_layers && v->model != NULL; l++) {
        bytes[l] = common_bytes(v, l);
        bytes[p->n_layers + l] =
            n_shared_experts(p, l, room) * gradient_bytes(v, v->model->expert_bytes, v->model->weight_bits_x100);
    }
    check_buckets(v, false, v->model == NULL ? NULL : bytes, room);
    check_buckets(v, true, v->model == NULL ? NULL : bytes + p->n_layers, room);
    if (t->experts_per_gpu > 0)
        check_packing(v, room);
    mp_free(bytes);
    mp_free(room);
    return MP_OK;
}
