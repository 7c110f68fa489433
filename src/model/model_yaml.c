/* The model reader (docs/MODELS.md). What the planner needs follows from what model cards publish; every derived figure
 * can be given instead. */
#include "model.h"
#include <math.h>
#include <moeplan/base.h>
#include <moeplan/yaml.h>
#include <string.h>

enum { SIZE_MAX_UNITS = 1 << 20, MAX_EVENTS = 20000 };
#define BYTES_MAX (UINT64_C(1) << 50)

struct reader {
    const struct mp_yaml_doc *d;
    struct mp_error *err;
    struct mp_model *m;
    uint64_t dense_bits, embedding_bits, kv_bits, mats; /* mats: matrices of one FFN, 3 gated or 2 plain */
    uint64_t vocab, dense_size;
    uint64_t attention_weights; /* per layer; 0 = not given */
    uint64_t kv_values;         /* per token and layer */
};

/* A figure of the top level; when it is missing *out keeps its value, or it is an error. */
static enum mp_status figure(struct reader *r, const struct mp_yaml *map, const char *key, const char *unit,
                             uint64_t min, uint64_t max, bool is_needed, uint64_t *out) {
    const struct mp_yaml *n = mp_yaml_get(map, key);
    if (n != NULL)
        return mp_yaml_figure(r->d, n, unit, min, max, out, r->err);
    return is_needed ? mp_yaml_need(r->d, map, key, &n, r->err) : MP_OK;
}

static enum mp_status count(struct reader *r, const char *key, uint32_t min, uint32_t max, bool is_needed,
                            uint32_t *out) {
    uint64_t v = *out;
    enum mp_status status = figure(r, r->d->root, key, NULL, min, max, is_needed, &v);
    *out = (uint32_t)v;
    return status;
}

/* The scalar of a figure: itself, or the value of {value, source}. */
static enum mp_status scalar(struct reader *r, const struct mp_yaml *n, const struct mp_yaml **out) {
    static const char *const keys[] = {"value", "source", NULL};
    enum mp_status status;
    *out = n;
    if (n->kind == MP_YAML_MAPPING) {
        MP_TRY(mp_yaml_keys(r->d, n, keys, r->err));
        MP_TRY(mp_yaml_need(r->d, n, "value", out, r->err));
    }
    MP_TRY(mp_yaml_expect(r->d, *out, MP_YAML_SCALAR, r->err));
out:
    return status;
}

/* "4.25" as 425. */
static enum mp_status read_bits(struct reader *r, const struct mp_yaml *n, uint32_t *x100) {
    double bits;
    const struct mp_yaml *s;
    enum mp_status status = scalar(r, n, &s);
    if (status != MP_OK)
        return status;
    if (s->is_quoted || !mp_parse_double(s->text, s->length, &bits) || bits < 1 || bits > 32 ||
        fabs(bits * 100 - round(bits * 100)) > 1e-6) {
        char quoted[200];
        return mp_yaml_fail(r->d, s, r->err,
                            "\"%s\" is not a number of bits in [1, 32] with two digits (write 16, 8 or 4.25)",
                            mp_quote(s->text, s->length, quoted, sizeof quoted));
    }
    *x100 = (uint32_t)lround(bits * 100);
    return MP_OK;
}

static enum mp_status read_layers(struct reader *r) {
    static const char *const keys[] = {"first", "every", "source", NULL};
    enum mp_status status;
    struct mp_model *m = r->m;
    uint64_t first = 0, every = 1;
    const struct mp_yaml *n = mp_yaml_get(r->d->root, "moe_layers");
    uint32_t *ids = mp_arena_alloc(m->arena, m->n_hidden_layers, sizeof *ids);
    if (ids == NULL)
        return mp_nomem(r->err, "reading a model");
    m->layer_ids = ids;
    if (n != NULL && n->kind == MP_YAML_SEQUENCE) {
        uint32_t id = 0;
        for (uint32_t i = 0; i < n->n; i++) {
            MP_TRY(mp_yaml_u32(r->d, &n->items[i], 0, m->n_hidden_layers - 1, &id, r->err));
            if (i > 0 && id <= ids[i - 1]) {
                status = mp_yaml_fail(r->d, &n->items[i], r->err,
                                      "layer %u stands after layer %u (write each once, in ascending order)", id,
                                      ids[i - 1]);
                goto out;
            }
            ids[i] = id; /* ascending and below n_hidden_layers, so i is too */
        }
        m->n_layers = n->n;
    } else {
        if (n != NULL) {
            MP_TRY(mp_yaml_keys(r->d, n, keys, r->err));
            MP_TRY(figure(r, n, "first", NULL, 0, m->n_hidden_layers - 1, true, &first));
            MP_TRY(figure(r, n, "every", NULL, 1, MP_MAX_LAYERS, false, &every));
        }
        for (uint64_t l = first; l < m->n_hidden_layers; l += every)
            ids[m->n_layers++] = (uint32_t)l;
    }
    if (m->n_layers == 0) {
        status = mp_yaml_fail(r->d, n, r->err, "no layer has experts (list at least one)");
        goto out;
    }
    return MP_OK;
out:
    return status;
}

static enum mp_status read_counts(struct reader *r) {
    enum mp_status status;
    struct mp_model *m = r->m;
    MP_TRY(count(r, "hidden_layers", 1, MP_MAX_LAYERS, true, &m->n_hidden_layers));
    MP_TRY(read_layers(r));
    MP_TRY(count(r, "experts", 1, MP_MAX_EXPERTS, true, &m->n_experts));
    MP_TRY(count(r, "top_k", 1, m->n_experts < MP_MAX_TOP_K ? m->n_experts : MP_MAX_TOP_K, true, &m->top_k));
    m->n_groups = 1;
    MP_TRY(count(r, "expert_groups", 1, m->n_experts, false, &m->n_groups));
    if (m->n_experts % m->n_groups != 0) {
        status = mp_yaml_fail(r->d, mp_yaml_get(r->d->root, "expert_groups"), r->err,
                              "%u groups do not divide %u experts (write a divisor)", m->n_groups, m->n_experts);
        goto out;
    }
    MP_TRY(count(r, "shared_experts", 0, 64, false, &m->n_shared_experts));
    MP_TRY(count(r, "hidden_size", 1, SIZE_MAX_UNITS, true, &m->hidden_size));
    MP_TRY(count(r, "expert_size", 1, SIZE_MAX_UNITS, true, &m->expert_size));
    m->shared_size = m->n_shared_experts * m->expert_size;
    MP_TRY(count(r, "shared_size", 1, 64 * SIZE_MAX_UNITS, false, &m->shared_size));
    if (m->n_shared_experts == 0 && m->shared_size > 0) {
        status = mp_yaml_fail(r->d, mp_yaml_get(r->d->root, "shared_size"), r->err,
                              "there are no shared experts (write shared_experts: 1 too)");
        goto out;
    }
out:
    return status;
}

static enum mp_status read_formats(struct reader *r) {
    enum mp_status status;
    const struct mp_yaml *root = r->d->root, *n;
    uint64_t compute_bits = 16;
    MP_TRY(mp_yaml_need(r->d, root, "weight_bits", &n, r->err));
    MP_TRY(read_bits(r, n, &r->m->weight_bits_x100));
    MP_TRY(figure(r, root, "compute_bits", NULL, 8, 16, false, &compute_bits));
    if (compute_bits != 8 && compute_bits != 16) {
        status = mp_yaml_fail(r->d, mp_yaml_get(root, "compute_bits"), r->err,
                              "%u is neither 8 nor 16 (write one of them)", (unsigned)compute_bits);
        goto out;
    }
    r->m->is_8bit_compute = compute_bits == 8;
    r->dense_bits = r->embedding_bits = r->kv_bits = 16;
    MP_TRY(figure(r, root, "dense_bits", NULL, 1, 32, false, &r->dense_bits));
    MP_TRY(figure(r, root, "embedding_bits", NULL, 1, 32, false, &r->embedding_bits));
    MP_TRY(figure(r, root, "kv_bits", NULL, 1, 32, false, &r->kv_bits));
    r->mats = 3;
    if ((n = mp_yaml_get(root, "ffn")) != NULL) {
        MP_TRY(scalar(r, n, &n));
        if (strcmp(n->text, "gated") != 0 && strcmp(n->text, "plain") != 0) {
            char quoted[200];
            status = mp_yaml_fail(r->d, n, r->err,
                                  "\"%s\" is no kind of FFN (write gated for three matrices or plain for two)",
                                  mp_quote(n->text, n->length, quoted, sizeof quoted));
            goto out;
        }
        r->mats = n->text[0] == 'g' ? 3 : 2;
    }
out:
    return status;
}

/* Weights of one attention layer and the values it caches per token, from head counts. */
static enum mp_status read_attention(struct reader *r) {
    static const char *const plain_keys[] = {"heads", "kv_heads", "head_dim", "source", NULL};
    static const char *const latent_keys[] = {"heads",    "q_lora_rank", "kv_lora_rank", "nope_dim",
                                              "rope_dim", "value_dim",   "source",       NULL};
    enum mp_status status;
    const struct mp_yaml *a = mp_yaml_get(r->d->root, "attention");
    uint64_t h = r->m->hidden_size, heads = 0;
    if (a == NULL)
        return MP_OK;
    bool is_latent = mp_yaml_get(a, "kv_lora_rank") != NULL;
    MP_TRY(mp_yaml_keys(r->d, a, is_latent ? latent_keys : plain_keys, r->err));
    MP_TRY(figure(r, a, "heads", NULL, 1, 4096, true, &heads));
    if (is_latent) {
        uint64_t q = 0, kv = 0, nope = 0, rope = 0, value = 0;
        MP_TRY(figure(r, a, "q_lora_rank", NULL, 1, 65536, false, &q));
        MP_TRY(figure(r, a, "kv_lora_rank", NULL, 1, 65536, true, &kv));
        MP_TRY(figure(r, a, "nope_dim", NULL, 1, 65536, true, &nope));
        MP_TRY(figure(r, a, "rope_dim", NULL, 0, 65536, true, &rope));
        MP_TRY(figure(r, a, "value_dim", NULL, 1, 65536, true, &value));
        uint64_t query = q > 0 ? h * q + q * heads * (nope + rope) : h * heads * (nope + rope);
        r->attention_weights = query + h * (kv + rope) + kv * heads * (nope + value) + heads * value * h;
        r->kv_values = kv + rope;
    } else {
        uint64_t kv_heads = 0, dim = 0;
        MP_TRY(figure(r, a, "kv_heads", NULL, 1, heads, true, &kv_heads));
        MP_TRY(figure(r, a, "head_dim", NULL, 1, 65536, true, &dim));
        r->attention_weights = 2 * h * heads * dim + 2 * h * kv_heads * dim;
        r->kv_values = 2 * kv_heads * dim;
    }
out:
    return status;
}

static enum mp_status read_sizes(struct reader *r) {
    enum mp_status status;
    struct mp_model *m = r->m;
    const struct mp_yaml *root = r->d->root, *n;
    bool has_attention = mp_yaml_get(root, "attention") != NULL;
    uint64_t h = m->hidden_size;
    if (!has_attention && (mp_yaml_get(root, "attention_bytes") == NULL ||
                           mp_yaml_get(root, "attention_flops") == NULL || mp_yaml_get(root, "kv_bytes") == NULL)) {
        status = mp_yaml_fail(r->d, root, r->err,
                              "the key \"attention\" is missing (add \"attention: {heads: ..., kv_heads: ..., "
                              "head_dim: ...}\", or attention_bytes, "
                              "attention_flops and kv_bytes)");
        goto out;
    }
    MP_TRY(read_attention(r));
    m->expert_bytes = mp_ceil_div(r->mats * h * m->expert_size * m->weight_bits_x100, 800);
    m->expert_flops_per_token = 2 * r->mats * h * m->expert_size;
    m->shared_bytes = mp_ceil_div(r->mats * h * m->shared_size * m->weight_bits_x100, 800);
    m->shared_flops_per_token = 2 * r->mats * h * m->shared_size;
    m->dispatch_bytes = m->combine_bytes = 2 * h;
    m->attention_bytes = mp_ceil_div(r->attention_weights * r->dense_bits, 8);
    m->dense_bits_x100 = (uint32_t)r->dense_bits * 100;
    m->attention_flops_per_token = 2 * r->attention_weights;
    m->kv_bytes_per_token = mp_ceil_div(r->kv_values * m->n_hidden_layers * r->kv_bits, 8);
    MP_TRY(figure(r, root, "expert_bytes", "bytes", 1, BYTES_MAX, false, &m->expert_bytes));
    MP_TRY(figure(r, root, "expert_flops", NULL, 1, BYTES_MAX, false, &m->expert_flops_per_token));
    MP_TRY(figure(r, root, "shared_bytes", "bytes", 0, BYTES_MAX, false, &m->shared_bytes));
    MP_TRY(figure(r, root, "shared_flops", NULL, 0, BYTES_MAX, false, &m->shared_flops_per_token));
    MP_TRY(figure(r, root, "dispatch_bytes", "bytes", 1, UINT64_C(1) << 24, false, &m->dispatch_bytes));
    MP_TRY(figure(r, root, "combine_bytes", "bytes", 1, UINT64_C(1) << 24, false, &m->combine_bytes));
    MP_TRY(figure(r, root, "attention_bytes", "bytes", 0, BYTES_MAX, false, &m->attention_bytes));
    MP_TRY(figure(r, root, "attention_flops", NULL, 0, BYTES_MAX, false, &m->attention_flops_per_token));
    MP_TRY(figure(r, root, "kv_bytes", "bytes", 0, BYTES_MAX, false, &m->kv_bytes_per_token));
    MP_TRY(figure(r, root, "vocabulary", NULL, 1, 1 << 24, false, &r->vocab));
    MP_TRY(figure(r, root, "dense_size", NULL, 1, SIZE_MAX_UNITS, false, &r->dense_size));
    bool is_tied = false;
    if ((n = mp_yaml_get(root, "tied_embeddings")) != NULL) {
        MP_TRY(scalar(r, n, &n));
        MP_TRY(mp_yaml_bool(r->d, n, &is_tied, r->err));
    }
    uint64_t embeddings = (is_tied ? 1 : 2) * r->vocab * h,
             ffns = (m->n_hidden_layers - m->n_layers) * r->mats * h * r->dense_size;
    m->dense_bytes =
        m->attention_bytes * m->n_hidden_layers + mp_ceil_div(embeddings * r->embedding_bits + ffns * r->dense_bits, 8);
    MP_TRY(figure(r, root, "dense_bytes", "bytes", 0, BYTES_MAX, false, &m->dense_bytes));
    MP_TRY(figure(r, root, "other", "ns", 0, UINT64_C(1000000000), false, &m->other_ns_per_step));
out:
    return status;
}

static enum mp_status read_model(struct reader *r) {
    static const char *const keys[] = {
        "schema",          "version",         "name",         "summary",       "source",          "hidden_layers",
        "moe_layers",      "experts",         "top_k",        "expert_groups", "shared_experts",  "hidden_size",
        "expert_size",     "shared_size",     "ffn",          "weight_bits",   "compute_bits",    "dense_bits",
        "embedding_bits",  "kv_bits",         "attention",    "vocabulary",    "tied_embeddings", "dense_size",
        "expert_bytes",    "expert_flops",    "shared_bytes", "shared_flops",  "dispatch_bytes",  "combine_bytes",
        "attention_bytes", "attention_flops", "kv_bytes",     "dense_bytes",   "other",           NULL};
    enum mp_status status;
    const struct mp_yaml *n;
    MP_TRY(mp_yaml_schema(r->d, "moeplan.model", r->err));
    MP_TRY(mp_yaml_keys(r->d, r->d->root, keys, r->err));
    MP_TRY(mp_yaml_need(r->d, r->d->root, "name", &n, r->err));
    MP_TRY(mp_yaml_string(r->d, n, r->m->arena, &r->m->name, r->err));
    if (n->length > MP_MAX_NAME) {
        status =
            mp_yaml_fail(r->d, n, r->err, "a name of %u bytes is longer than %u (shorten it)", n->length, MP_MAX_NAME);
        goto out;
    }
    r->m->source = "";
    if ((n = mp_yaml_get(r->d->root, "source")) != NULL)
        MP_TRY(mp_yaml_string(r->d, n, r->m->arena, &r->m->source, r->err));
    MP_TRY(read_counts(r));
    MP_TRY(read_formats(r));
    MP_TRY(read_sizes(r));
out:
    return status;
}

enum mp_status mp_model_parse(struct mp_model **out, const struct mp_in *in, const struct mp_limits *limits,
                              struct mp_error *err) {
    enum mp_status status;
    struct mp_limits own = limits != NULL ? *limits : mp_limits_default;
    struct mp_yaml_doc *d = NULL;
    struct reader r = {.err = err};
    struct mp_arena *arena = NULL;
    *out = NULL;
    own.yaml_events = own.yaml_events < MAX_EVENTS ? own.yaml_events : MAX_EVENTS;
    MP_TRY(mp_yaml_parse(&d, in, &own, err));
    arena = mp_arena_new();
    r.d = d;
    r.m = arena != NULL ? mp_arena_alloc(arena, 1, sizeof *r.m) : NULL;
    if (r.m == NULL) {
        status = mp_nomem(err, "reading a model");
        goto out;
    }
    r.m->arena = arena;
    MP_TRY(read_model(&r));
    mp_sha256_hex(in->data, in->size, r.m->sha256);
    *out = r.m;
    arena = NULL;
out:
    mp_arena_free(arena);
    mp_yaml_free(d);
    return status;
}
