/* The section of a plan that says how training steps run (docs/PLAN.md). */
#include "plan_text.h"
#include <moeplan/io.h>
#include <inttypes.h>
#include <string.h>

static const char *const guard_names[MP_TRAIN_N_GUARDS + 1] = {"none", "near", "fits", "behind", NULL};
static const char *const order_names[MP_TRAIN_N_ORDERS + 1] = {"first_ready", "first_needed", "shortest", "listed",
                                                               NULL};
static const char *const offload_names[MP_TRAIN_N_OFFLOADS + 1] = {"none", "state", "experts", NULL};
static const char *const gradient_names[] = {"common", "experts", NULL};

const char *mp_train_guard_name(enum mp_train_guard guard) {
    return (unsigned)guard < MP_TRAIN_N_GUARDS ? guard_names[guard] : "?";
}
const char *mp_train_order_name(enum mp_train_order order) {
    return (unsigned)order < MP_TRAIN_N_ORDERS ? order_names[order] : "?";
}
const char *mp_train_offload_name(enum mp_train_offload offload) {
    return (unsigned)offload < MP_TRAIN_N_OFFLOADS ? offload_names[offload] : "?";
}

enum mp_status plan_check_training(const struct mp_plan *p, struct mp_error *err) {
    const struct mp_plan_training *t = &p->training;
    if (!t->is_present)
        return MP_OK;
    if ((unsigned)t->policy.guard >= MP_TRAIN_N_GUARDS || (unsigned)t->policy.order >= MP_TRAIN_N_ORDERS)
        return mp_fail(err, MP_EINPUT, "plan: training: unknown rule of waiting %u or order of gradients %u",
                       (unsigned)t->policy.guard, (unsigned)t->policy.order);
    if ((unsigned)t->offload >= MP_TRAIN_N_OFFLOADS)
        return mp_fail(err, MP_EINPUT, "plan: training: unknown offload %u", (unsigned)t->offload);
    if (t->policy.n_buckets > 2 * p->n_layers)
        return mp_fail(err, MP_EINPUT, "plan: training: %u buckets of 2 kinds of gradients of %u layers",
                       t->policy.n_buckets, p->n_layers);
    for (uint32_t i = 0; i < t->policy.n_buckets; i++) {
        const struct mp_train_bucket *b = &t->policy.buckets[i];
        if (b->first_layer > b->last_layer || b->last_layer >= p->n_layers)
            return mp_fail(err, MP_EINPUT, "plan: training: bucket %u: layers %u to %u of %u", i, b->first_layer,
                           b->last_layer, p->n_layers);
    }
    return MP_OK;
}

/* ---- writing ---- */

static void put_bool(struct mp_out *o, const char *key, bool v) {
    mp_out_printf(o, "  %s: %s\n", key, v ? "true" : "false");
}
static void put_u64(struct mp_out *o, const char *key, uint64_t v) { mp_out_printf(o, "  %s: %" PRIu64 "\n", key, v); }

void plan_write_training(struct mp_out *o, const struct mp_plan *p) {
    const struct mp_plan_training *t = &p->training;
    const struct mp_train_policy *y = &t->policy;
    mp_out_puts(o, "training:\n");
    plan_put_string(o, "  policy: ", t->name);
    put_bool(o, "share_network", y->is_shared);
    mp_out_printf(o, "  allreduce_waits: %s\n", mp_train_guard_name(y->guard));
    mp_out_printf(o, "  gradient_order: %s\n", mp_train_order_name(y->order));
    put_bool(o, "pipelined", y->is_pipelined);
    put_u64(o, "a2a_chunk_bytes", y->a2a_chunk_bytes);
    put_u64(o, "allreduce_chunk_bytes", y->reduce_chunk_bytes);
    put_u64(o, "bucket_bytes", y->bucket_bytes);
    put_u64(o, "gradient_bits", t->gradient_bits);
    put_u64(o, "experts_per_gpu", t->experts_per_gpu);
    mp_out_printf(o, "  offload: %s\n", mp_train_offload_name(t->offload));
    mp_out_puts(o, y->n_buckets == 0 ? "  buckets: []\n" : "  buckets:\n");
    for (uint32_t i = 0; i < y->n_buckets; i++) {
        const struct mp_train_bucket *b = &y->buckets[i];
        mp_out_printf(o, "    - {gradients: %s, first_layer: %u, last_layer: %u, bytes: %" PRIu64 "}\n",
                      gradient_names[b->is_experts], b->first_layer, b->last_layer, b->bytes);
    }
}

/* ---- reading ---- */

static enum mp_status get_u64(const struct mp_yaml_doc *doc, const struct mp_yaml *map, const char *key, uint64_t min,
                              uint64_t max, uint64_t *out, struct mp_error *err) {
    const struct mp_yaml *n = NULL;
    enum mp_status status = mp_yaml_need(doc, map, key, &n, err);
    return status != MP_OK ? status : mp_yaml_u64(doc, n, min, max, out, err);
}

static enum mp_status get_u32(const struct mp_yaml_doc *doc, const struct mp_yaml *map, const char *key, uint32_t min,
                              uint32_t max, uint32_t *out, struct mp_error *err) {
    uint64_t v = 0;
    enum mp_status status = get_u64(doc, map, key, min, max, &v, err);
    *out = (uint32_t)v;
    return status;
}

static enum mp_status get_bool(const struct mp_yaml_doc *doc, const struct mp_yaml *map, const char *key, bool *out,
                               struct mp_error *err) {
    const struct mp_yaml *n = NULL;
    enum mp_status status = mp_yaml_need(doc, map, key, &n, err);
    return status != MP_OK ? status : mp_yaml_bool(doc, n, out, err);
}

static enum mp_status read_bucket(const struct mp_yaml_doc *doc, const struct mp_yaml *map, const struct mp_plan *p,
                                  struct mp_train_bucket *b, struct mp_error *err) {
    static const char *const keys[] = {"gradients", "first_layer", "last_layer", "bytes", NULL};
    enum mp_status status;
    unsigned kind = 0;
    MP_TRY(mp_yaml_keys(doc, map, keys, err));
    MP_TRY(plan_read_word(doc, map, "gradients", gradient_names, &kind, err));
    MP_TRY(get_u32(doc, map, "first_layer", 0, p->n_layers - 1, &b->first_layer, err));
    MP_TRY(get_u32(doc, map, "last_layer", b->first_layer, p->n_layers - 1, &b->last_layer, err));
    MP_TRY(get_u64(doc, map, "bytes", 1, UINT64_MAX, &b->bytes, err));
    b->is_experts = kind == 1;
out:
    return status;
}

enum mp_status plan_read_training(const struct mp_yaml_doc *doc, const struct mp_yaml *map, struct mp_plan *p,
                                  struct mp_error *err) {
    static const char *const keys[] = {"policy",
                                       "share_network",
                                       "allreduce_waits",
                                       "gradient_order",
                                       "pipelined",
                                       "a2a_chunk_bytes",
                                       "allreduce_chunk_bytes",
                                       "bucket_bytes",
                                       "gradient_bits",
                                       "experts_per_gpu",
                                       "offload",
                                       "buckets",
                                       NULL};
    struct mp_plan_training *t = &p->training;
    struct mp_train_policy *y = &t->policy;
    const struct mp_yaml *name = NULL, *list = NULL;
    unsigned guard = 0, order = 0, offload = 0;
    enum mp_status status;
    MP_TRY(mp_yaml_keys(doc, map, keys, err));
    MP_TRY(mp_yaml_need(doc, map, "policy", &name, err));
    MP_TRY(mp_yaml_string(doc, name, p->arena, &t->name, err));
    MP_TRY(get_bool(doc, map, "share_network", &y->is_shared, err));
    MP_TRY(plan_read_word(doc, map, "allreduce_waits", guard_names, &guard, err));
    MP_TRY(plan_read_word(doc, map, "gradient_order", order_names, &order, err));
    MP_TRY(get_bool(doc, map, "pipelined", &y->is_pipelined, err));
    MP_TRY(get_u64(doc, map, "a2a_chunk_bytes", 0, UINT64_MAX, &y->a2a_chunk_bytes, err));
    MP_TRY(get_u64(doc, map, "allreduce_chunk_bytes", 0, UINT64_MAX, &y->reduce_chunk_bytes, err));
    MP_TRY(get_u64(doc, map, "bucket_bytes", 0, UINT64_MAX, &y->bucket_bytes, err));
    MP_TRY(get_u32(doc, map, "gradient_bits", 1, MP_MAX_GRADIENT_BITS, &t->gradient_bits, err));
    MP_TRY(get_u32(doc, map, "experts_per_gpu", 0, p->n_experts, &t->experts_per_gpu, err));
    MP_TRY(plan_read_word(doc, map, "offload", offload_names, &offload, err));
    MP_TRY(mp_yaml_need(doc, map, "buckets", &list, err));
    MP_TRY(mp_yaml_expect(doc, list, MP_YAML_SEQUENCE, err));
    if (list->n > 2 * p->n_layers) {
        status = mp_yaml_fail(doc, list, err, "has %u entries (write one for each layer and kind of gradients at most)",
                              list->n);
        goto out;
    }
    struct mp_train_bucket *buckets = mp_arena_alloc(p->arena, list->n + 1, sizeof *buckets);
    if (buckets == NULL) {
        status = mp_nomem(err, "reading a plan");
        goto out;
    }
    for (uint32_t i = 0; i < list->n; i++)
        MP_TRY(read_bucket(doc, &list->items[i], p, &buckets[i], err));
    y->guard = (enum mp_train_guard)guard;
    y->order = (enum mp_train_order)order;
    t->offload = (enum mp_train_offload)offload;
    y->buckets = buckets;
    y->n_buckets = list->n;
    t->is_present = true;
out:
    return status;
}
