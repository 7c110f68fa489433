/* Plan files in (docs/PLAN.md). The order of the checks is what a user needs: is it a plan at all, of this version; is
 * it whole (the checksum); then the content, every message with its position. What passes may be indexed without care
 * (mp_plan_check). Whether it makes sense is the verifier's business. */
#include "plan_text.h"
#include <moeplan/yaml.h>
#include <stdio.h>
#include <string.h>

#define MAX_STAGE_BYTES (1u << 20)
#define MAX_TRANSFERS (UINT64_C(1) << 25) /* over all orders, rotations and flushes written out: 384 MiB */

struct reader {
    const struct mp_yaml_doc *doc;
    struct mp_plan *plan;
    uint64_t n_transfers;
    struct mp_error *err;
};

static void position_of(const char *text, size_t at, uint64_t *line, uint64_t *column) {
    *line = *column = 1;
    for (size_t i = 0; i < at; i++, (*column)++)
        if (text[i] == '\n') {
            ++*line;
            *column = 0;
        }
}

static enum mp_status check_first_lines(const struct mp_in *in, struct mp_error *err) {
    static const char schema[] = "schema: moeplan.plan\n", version[] = "version: ";
    const char *text = (const char *)in->data;
    char quoted[128];
    if (in->size < sizeof schema - 1 || memcmp(text, schema, sizeof schema - 1) != 0) {
        const char *end = in->size > 0 ? memchr(text, '\n', in->size) : NULL;
        size_t n = end != NULL ? (size_t)(end - text) : in->size;
        if (n == sizeof schema - 1 && memcmp(text, schema, n - 1) == 0 && text[n - 1] == '\r')
            return mp_fail_at(err, MP_EINPUT, in->path, 1, n,
                              "the lines end in CR LF, which a plan's never do (copy the file "
                              "again without changing its line ends)");
        return mp_fail_at(err, MP_EINPUT, in->path, 1, 1,
                          "\"%s\" is not the first line of a plan (write \"schema: "
                          "moeplan.plan\", or give a file that moeplan plan wrote)",
                          mp_quote(text, n, quoted, sizeof quoted));
    }
    const char *second = text + sizeof schema - 1;
    size_t rest = in->size - (sizeof schema - 1);
    const char *end = rest > 0 ? memchr(second, '\n', rest) : NULL;
    size_t n = end != NULL ? (size_t)(end - second) : rest;
    if (n != sizeof version || memcmp(second, version, sizeof version - 1) != 0 || second[n - 1] != '1')
        return mp_fail_at(err, MP_EINPUT, in->path, 2, 1,
                          "\"%s\" is not a version this moeplan reads (write \"version: 1\", or "
                          "plan again)",
                          mp_quote(second, n, quoted, sizeof quoted));
    return MP_OK;
}

static enum mp_status check_checksum(const struct mp_in *in, struct mp_error *err) {
    const char *text = (const char *)in->data;
    size_t key = sizeof PLAN_CHECKSUM_KEY - 1;
    uint64_t line, column;
    const char *last = in->size > PLAN_CHECKSUM_BYTES ? text + in->size - PLAN_CHECKSUM_BYTES : NULL;
    if (last == NULL || memcmp(last, PLAN_CHECKSUM_KEY, key) != 0 || memcmp(last + key + 64, "\"\n", 2) != 0 ||
        last[-1] != '\n') {
        position_of(text, in->size, &line, &column);
        return mp_fail_at(err, MP_EINPUT, in->path, line, column,
                          "checksum: the file does not end in one, so it is torn (copy it "
                          "again, or write it anew with moeplan plan)");
    }
    char hex[65];
    size_t n = in->size - PLAN_CHECKSUM_BYTES;
    mp_sha256_hex(text, n, hex);
    if (memcmp(hex, last + key, 64) == 0)
        return MP_OK;
    position_of(text, n + key - 1, &line, &column);
    return mp_fail_at(err, MP_EINPUT, in->path, line, column,
                      "checksum: \"%.12s...\" is not that of the lines above, %.12s...: the "
                      "file is torn or was edited (copy it again, or write it anew with moeplan plan)",
                      last + key, hex);
}

static enum mp_status need(struct reader *r, const struct mp_yaml *map, const char *key, const struct mp_yaml **out) {
    return mp_yaml_need(r->doc, map, key, out, r->err);
}

static enum mp_status get_u64(struct reader *r, const struct mp_yaml *map, const char *key, uint64_t max,
                              uint64_t *out) {
    const struct mp_yaml *n = NULL;
    enum mp_status status = need(r, map, key, &n);
    return status != MP_OK ? status : mp_yaml_u64(r->doc, n, 0, max, out, r->err);
}

static enum mp_status get_u32(struct reader *r, const struct mp_yaml *map, const char *key, uint32_t min, uint32_t max,
                              uint32_t *out) {
    const struct mp_yaml *n = NULL;
    enum mp_status status = need(r, map, key, &n);
    return status != MP_OK ? status : mp_yaml_u32(r->doc, n, min, max, out, r->err);
}

static enum mp_status get_bool(struct reader *r, const struct mp_yaml *map, const char *key, bool *out) {
    const struct mp_yaml *n = NULL;
    enum mp_status status = need(r, map, key, &n);
    return status != MP_OK ? status : mp_yaml_bool(r->doc, n, out, r->err);
}

static enum mp_status get_kind(struct reader *r, const struct mp_yaml *map, const char *key, enum mp_yaml_kind kind,
                               const struct mp_yaml **out) {
    enum mp_status status = need(r, map, key, out);
    return status != MP_OK ? status : mp_yaml_expect(r->doc, *out, kind, r->err);
}

static enum mp_status get_string(struct reader *r, const struct mp_yaml *map, const char *key, const char **out) {
    const struct mp_yaml *n = NULL;
    enum mp_status status = get_kind(r, map, key, MP_YAML_SCALAR, &n);
    if (status != MP_OK)
        return status;
    if (n->length == 0) { /* mp_yaml_string wants text; here "" means "not known" */
        *out = "";
        return MP_OK;
    }
    return mp_yaml_string(r->doc, n, r->plan->arena, out, r->err);
}

enum mp_status plan_read_word(const struct mp_yaml_doc *doc, const struct mp_yaml *map, const char *key,
                              const char *const *words, unsigned *out, struct mp_error *err) {
    const struct mp_yaml *n = NULL;
    enum mp_status status = mp_yaml_need(doc, map, key, &n, err);
    if (status == MP_OK)
        status = mp_yaml_expect(doc, n, MP_YAML_SCALAR, err);
    if (status != MP_OK)
        return status;
    char list[128] = "", quoted[128];
    size_t used = 0;
    for (unsigned i = 0; words[i] != NULL; i++) {
        if (strlen(words[i]) == n->length && memcmp(words[i], n->text, n->length) == 0) {
            *out = i;
            return MP_OK;
        }
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", i > 0 ? ", " : "", words[i]);
    }
    return mp_yaml_fail(doc, n, err, "\"%s\" is not known (write one of %s)",
                        mp_quote(n->text, n->length, quoted, sizeof quoted), list);
}

static enum mp_status get_word(struct reader *r, const struct mp_yaml *map, const char *key, const char *const *words,
                               unsigned *out) {
    return plan_read_word(r->doc, map, key, words, out, r->err);
}

/* A flow sequence of exactly n whole numbers in [0, max], or -1 = `none` where that is allowed. The fast path of large
 * plans. */
static enum mp_status get_numbers(struct reader *r, const struct mp_yaml *list, uint32_t n, uint32_t max,
                                  const uint32_t *none, const char *hint, uint32_t *out) {
    enum mp_status status = mp_yaml_expect(r->doc, list, MP_YAML_SEQUENCE, r->err);
    if (status != MP_OK)
        return status;
    if (list->n != n)
        return mp_yaml_fail(r->doc, list, r->err, "has %u entries (write %u)", list->n, n);
    for (uint32_t i = 0; i < n; i++) {
        const struct mp_yaml *item = &list->items[i];
        uint64_t v;
        if (none != NULL && item->kind == MP_YAML_SCALAR && item->length == 2 && memcmp(item->text, "-1", 2) == 0)
            out[i] = *none;
        else if (item->kind == MP_YAML_SCALAR && mp_parse_u64(item->text, item->length, &v) && v <= max)
            out[i] = (uint32_t)v;
        else {
            char quoted[128];
            const char *text =
                item->kind == MP_YAML_SCALAR ? mp_quote(item->text, item->length, quoted, sizeof quoted) : "...";
            return mp_fail_at(r->err, MP_EINPUT, r->doc->path, item->line, item->column,
                              "%s: entry %u, \"%s\", is not in [0, %u] (%s)", list->key != NULL ? list->key : "list", i,
                              text, max, hint);
        }
    }
    return MP_OK;
}

static enum mp_status read_batching(struct reader *r, const struct mp_yaml *provenance, struct mp_provenance *v) {
    static const char *const split_keys[] = {"kind", "planning_ppm", "seed", "categories", NULL};
    static const char *const batching_keys[] = {
        "phase", "ranks", "batch_per_rank", "tokens_per_rank", "source_skew_ppm", "pad_tokens", "steps_max", "resample",
        "seed",  NULL};
    const struct mp_yaml *split = NULL, *batching = NULL;
    enum mp_status status;
    unsigned word = 0;
    MP_TRY(need(r, provenance, "split", &split));
    MP_TRY(mp_yaml_keys(r->doc, split, split_keys, r->err));
    MP_TRY(get_word(r, split, "kind", plan_split_names, &word));
    v->split.kind = (enum mp_split_kind)word;
    MP_TRY(get_u32(r, split, "planning_ppm", 0, 1000000, &v->split.planning_ppm));
    MP_TRY(get_u64(r, split, "seed", UINT64_MAX, &v->split.seed));
    MP_TRY(get_string(r, split, "categories", &v->split.categories));
    MP_TRY(need(r, provenance, "batching", &batching));
    MP_TRY(mp_yaml_keys(r->doc, batching, batching_keys, r->err));
    MP_TRY(get_word(r, batching, "phase", plan_phase_names, &word));
    v->batching.phase = (enum mp_phase)word;
    MP_TRY(get_u32(r, batching, "ranks", 1, MP_MAX_GPUS, &v->batching.n_ranks));
    MP_TRY(get_u32(r, batching, "batch_per_rank", 0, UINT32_MAX, &v->batching.batch_per_rank));
    MP_TRY(get_u64(r, batching, "tokens_per_rank", MP_MAX_TOKENS, &v->batching.tokens_per_rank));
    MP_TRY(get_u32(r, batching, "source_skew_ppm", 0, UINT32_MAX, &v->batching.source_skew_ppm));
    MP_TRY(get_u32(r, batching, "pad_tokens", 0, UINT32_MAX, &v->batching.pad_tokens));
    MP_TRY(get_u32(r, batching, "steps_max", 0, UINT32_MAX, &v->batching.n_steps_max));
    MP_TRY(get_bool(r, batching, "resample", &v->batching.resample));
    MP_TRY(get_u64(r, batching, "seed", UINT64_MAX, &v->batching.seed));
out:
    return status;
}

static enum mp_status read_matrix(struct reader *r, const struct mp_yaml *map, struct mp_matrix_source *m) {
    static const char *const keys[] = {"format", "sha256", "token_bytes", NULL};
    enum mp_status status;
    MP_TRY(mp_yaml_keys(r->doc, map, keys, r->err));
    MP_TRY(get_string(r, map, "format", &m->format));
    MP_TRY(get_string(r, map, "sha256", &m->sha256));
    MP_TRY(get_u64(r, map, "token_bytes", MP_MAX_TOKEN_BYTES, &m->token_bytes));
    m->is_present = true;
out:
    return status;
}

static enum mp_status read_provenance(struct reader *r, const struct mp_yaml *map) {
    static const char *const keys[] = {
        "tool",      "strategy",     "replicate",   "place",        "route",      "order",
        "options",   "selected_on",  "seed",        "work_used",    "stopped_by", "reproducible",
        "synthetic", "trace_format", "trace_model", "trace_sha256", "topology",   "topology_sha256",
        "model",     "model_sha256", "dispatcher",  "sources",      "planned",    "matrix",
        "split",     "batching",     NULL};
    struct mp_provenance *v = &r->plan->provenance;
    const struct {
        const char *key, **to;
    } strings[] = {{"tool", &v->tool},
                   {"strategy", &v->strategy},
                   {"replicate", &v->replicate},
                   {"place", &v->place},
                   {"route", &v->route},
                   {"order", &v->order},
                   {"options", &v->options},
                   {"selected_on", &v->selected_on},
                   {"trace_format", &v->trace_format},
                   {"trace_model", &v->trace_model},
                   {"trace_sha256", &v->trace_sha256},
                   {"topology", &v->topology},
                   {"topology_sha256", &v->topology_sha256},
                   {"model", &v->model},
                   {"model_sha256", &v->model_sha256},
                   {"dispatcher", &v->dispatcher}};
    enum mp_status status;
    unsigned word = 0;
    MP_TRY(mp_yaml_keys(r->doc, map, keys, r->err));
    for (size_t i = 0; i < sizeof strings / sizeof strings[0]; i++)
        MP_TRY(get_string(r, map, strings[i].key, strings[i].to));
    MP_TRY(get_u64(r, map, "seed", UINT64_MAX, &v->seed));
    MP_TRY(get_u64(r, map, "work_used", UINT64_MAX, &v->work_used));
    MP_TRY(get_word(r, map, "stopped_by", plan_stop_names, &word));
    v->stopped_by = plan_stop_names[word];
    MP_TRY(get_bool(r, map, "reproducible", &v->is_reproducible));
    MP_TRY(get_bool(r, map, "synthetic", &v->is_synthetic));
    MP_TRY(get_word(r, map, "sources", plan_source_names, &word));
    v->sources = plan_source_names[word];
    MP_TRY(get_bool(r, map, "planned", &v->has_workload));
    const struct mp_yaml *matrix = mp_yaml_get(map, "matrix");
    if (v->has_workload && matrix != NULL)
        status = mp_yaml_fail(r->doc, matrix, r->err, "is not used by planned: true (leave it out)");
    else if (v->has_workload)
        status = read_batching(r, map, v);
    else if (matrix != NULL)
        status = read_matrix(r, matrix, &v->matrix);
out:
    return status;
}

/* Makes r->plan. Lengths are compared before anything of that size is allocated. */
static enum mp_status read_shape(struct reader *r, const struct mp_yaml *map, const struct mp_yaml *layers) {
    static const char *const keys[] = {"layers", "experts", "gpus", "nodes", "slots", "gpu_slots", "gpu_nodes", NULL};
    uint32_t n_layers = 0, n_experts = 0, n_gpus = 0, n_nodes = 0, n_slots = 0, *slots = NULL, *node;
    const struct mp_yaml *list = NULL, *slots_node = NULL;
    enum mp_status status;
    MP_TRY(mp_yaml_keys(r->doc, map, keys, r->err));
    MP_TRY(get_u32(r, map, "layers", 1, MP_MAX_LAYERS, &n_layers));
    MP_TRY(get_u32(r, map, "experts", 1, MP_MAX_EXPERTS, &n_experts));
    MP_TRY(get_u32(r, map, "gpus", 1, MP_MAX_GPUS, &n_gpus));
    MP_TRY(get_u32(r, map, "nodes", 1, n_gpus, &n_nodes));
    MP_TRY(need(r, map, "slots", &slots_node));
    MP_TRY(mp_yaml_u32(r->doc, slots_node, 1, PLAN_MAX_SLOTS, &n_slots, r->err));
    if (layers->n != n_layers) {
        status = mp_yaml_fail(r->doc, layers, r->err,
                              "has %u entries, but shape.layers is %u (layer-missing: write one per layer)", layers->n,
                              n_layers);
        goto out;
    }
    slots = mp_calloc(n_gpus, sizeof *slots);
    if (slots == NULL) {
        status = mp_nomem(r->err, "reading a plan");
        goto out;
    }
    MP_TRY(need(r, map, "gpu_slots", &list));
    MP_TRY(get_numbers(r, list, n_gpus, PLAN_MAX_SLOTS, NULL, "write how many slots the GPU has", slots));
    uint64_t sum = 0;
    for (uint32_t g = 0; g < n_gpus; g++)
        sum += slots[g];
    if (sum != n_slots) {
        status = mp_yaml_fail(r->doc, slots_node, r->err, "%u is not the sum of gpu_slots (write %llu)", n_slots,
                              (unsigned long long)sum);
        goto out;
    }
    for (uint32_t l = 0; l < n_layers; l++) {
        const struct mp_yaml *of_layer =
            layers->items[l].kind == MP_YAML_MAPPING ? mp_yaml_get(&layers->items[l], "slots") : NULL;
        if (of_layer != NULL && (of_layer->kind != MP_YAML_SEQUENCE || of_layer->n != n_slots)) {
            status = mp_yaml_fail(r->doc, of_layer, r->err,
                                  "is not a list of %u entries (write one per slot, -1 for an empty one)", n_slots);
            goto out;
        }
        if (of_layer == NULL)
            MP_TRY(need(r, &layers->items[l], "slots", &list));
    }
    MP_TRY(mp_plan_new(&r->plan, n_layers, n_experts, n_gpus, slots, r->err));
    r->plan->n_nodes = n_nodes;
    node = mp_arena_alloc(r->plan->arena, n_gpus, sizeof *node);
    if (node == NULL) {
        status = mp_nomem(r->err, "reading a plan");
        goto out;
    }
    r->plan->gpu_node = node;
    MP_TRY(need(r, map, "gpu_nodes", &list));
    MP_TRY(get_numbers(r, list, n_gpus, n_nodes - 1, NULL, "write the node of each GPU", node));
out:
    mp_free(slots);
    return status;
}

/* 64-bit numbers that add up to one: get_numbers is for smaller ones. */
static enum mp_status read_expert_rows(struct reader *r, const struct mp_yaml *list, struct mp_plan_layer *layer) {
    const uint32_t n = r->plan->n_experts;
    uint64_t sum = 0;
    enum mp_status status = mp_yaml_expect(r->doc, list, MP_YAML_SEQUENCE, r->err);
    if (status != MP_OK)
        return status;
    if (list->n != n)
        return mp_yaml_fail(r->doc, list, r->err, "has %u entries (write %u)", list->n, n);
    layer->expert_rows = mp_arena_alloc(r->plan->arena, n, sizeof *layer->expert_rows);
    if (layer->expert_rows == NULL)
        return mp_nomem(r->err, "reading a plan");
    for (uint32_t e = 0; e < n; e++) {
        status = mp_yaml_u64(r->doc, &list->items[e], 0, UINT64_MAX, &layer->expert_rows[e], r->err);
        if (status == MP_OK && mp_add_overflow(sum, layer->expert_rows[e], &sum))
            status = mp_yaml_fail(r->doc, list, r->err, "adds up to more than 2^64 (write pairs of steps)");
        if (status != MP_OK)
            return status;
    }
    return MP_OK;
}

static enum mp_status read_layer(struct reader *r, const struct mp_yaml *map, uint32_t l, uint32_t *scratch) {
    static const char *const keys[] = {"layer",
                                       "slots",
                                       "weights",
                                       "weights_by_source",
                                       "order",
                                       "combine",
                                       "rows_max_sum",
                                       "dispatch_intra_bytes",
                                       "dispatch_inter_bytes",
                                       "port_bound_ns",
                                       "expert_rows",
                                       NULL};
    struct mp_plan *p = r->plan;
    struct mp_plan_layer *layer = &p->layers[l];
    const uint32_t none = MP_NO_EXPERT;
    const struct mp_yaml *list = NULL, *order = NULL;
    unsigned combine = 0;
    enum mp_status status;
    MP_TRY(mp_yaml_keys(r->doc, map, keys, r->err));
    MP_TRY(get_u32(r, map, "layer", 0, UINT32_MAX - 1, &layer->layer_id));
    MP_TRY(need(r, map, "slots", &list));
    MP_TRY(get_numbers(r, list, p->n_slots, p->n_experts - 1, &none,
                       "expert-range: write an expert, or -1 for an empty slot", scratch));
    for (uint32_t s = 0; s < p->n_slots; s++)
        layer->slot_expert[s] = (uint16_t)scratch[s];
    if (p->route == MP_ROUTE_WEIGHTED || p->route == MP_ROUTE_TIERED) {
        layer->slot_weight = mp_arena_alloc(p->arena, p->n_slots, sizeof *layer->slot_weight);
        if (layer->slot_weight == NULL) {
            status = mp_nomem(r->err, "reading a plan");
            goto out;
        }
        MP_TRY(need(r, map, "weights", &list));
        MP_TRY(get_numbers(r, list, p->n_slots, UINT32_MAX, NULL, "route-weights: write a whole number",
                           layer->slot_weight));
    } else if ((list = mp_yaml_get(map, "weights")) != NULL) {
        status = mp_yaml_fail(r->doc, list, r->err, "is not used by rules.route: %s (leave it out)",
                              mp_route_rule_name(p->route));
        goto out;
    }
    MP_TRY(plan_read_weights_by_source(r->doc, map, p, layer, r->err));
    MP_TRY(get_kind(r, map, "order", MP_YAML_SCALAR, &order));
    if (strcmp(order->text, "concurrent") == 0)
        layer->order = MP_NONE;
    else if (p->n_orders == 0) {
        status =
            mp_yaml_fail(r->doc, order, r->err, "\"%.40s\": the plan has no orders (write concurrent)", order->text);
        goto out;
    } else
        MP_TRY(mp_yaml_u32(r->doc, order, 0, p->n_orders - 1, &layer->order, r->err));
    MP_TRY(get_word(r, map, "combine", plan_combine_names, &combine));
    layer->combine = (enum mp_combine)combine;
    if (p->provenance.has_workload) {
        MP_TRY(get_u64(r, map, "rows_max_sum", UINT64_MAX, &layer->rows_max_sum));
        MP_TRY(get_u64(r, map, "dispatch_intra_bytes", UINT64_MAX, &layer->dispatch_intra_bytes));
        MP_TRY(get_u64(r, map, "dispatch_inter_bytes", UINT64_MAX, &layer->dispatch_inter_bytes));
        MP_TRY(get_u64(r, map, "port_bound_ns", UINT64_MAX, &layer->port_bound_ns));
        if ((list = mp_yaml_get(map, "expert_rows")) != NULL)
            MP_TRY(read_expert_rows(r, list, layer));
    } else if ((list = mp_yaml_get(map, "expert_rows")) != NULL) {
        status = mp_yaml_fail(r->doc, list, r->err, "is evidence of steps, and the plan is not planned (leave it out)");
    }
out:
    return status;
}

/* Reads the digits at *at. False when there are none, too many, or a leading zero. */
static bool take_number(const char *text, uint32_t length, uint32_t *at, uint64_t *out) {
    uint32_t start = *at;
    while (*at < length && text[*at] >= '0' && text[*at] <= '9')
        ++*at;
    return mp_parse_u64(text + start, *at - start, out);
}

static enum mp_status stage_error(struct reader *r, const struct mp_yaml *n, uint32_t at, const char *what) {
    /* The canonical scalar is quoted and has no escapes: its text starts one column after the quote. */
    return mp_fail_at(r->err, MP_EINPUT, r->doc->path, n->line, (uint64_t)n->column + (n->is_quoted ? 1 : 0) + at,
                      "stages: %s", what);
}

/* Transfers are counted before any memory for them is asked for. */
static enum mp_status new_transfers(struct reader *r, const struct mp_yaml *n, uint64_t count,
                                    struct mp_transfer **out) {
    r->n_transfers += count;
    if (r->n_transfers > MAX_TRANSFERS)
        return mp_fail_at(r->err, MP_ELIMIT, r->doc->path, n->line, n->column,
                          "stages: more than %llu transfers in all (share orders "
                          "between layers)",
                          (unsigned long long)MAX_TRANSFERS);
    *out = mp_arena_alloc(r->plan->arena, (size_t)count, sizeof **out);
    return *out != NULL ? MP_OK : mp_nomem(r->err, "reading a plan");
}

static enum mp_status read_rotation(struct reader *r, const struct mp_yaml *n, const struct mp_order *order,
                                    uint32_t n_ends, struct mp_stage *stage) {
    uint32_t at = 1;
    uint64_t by;
    struct mp_transfer *t = NULL;
    if (!take_number(n->text, n->length, &at, &by) || at != n->length || by == 0 || by >= n_ends)
        return stage_error(r, n, 1,
                           order->between_nodes
                               ? "a rotation is not in [+1, + nodes - 1] (write +1, or the transfers as 0>1 1>2)"
                               : "a rotation is not in [+1, + GPUs - 1] (write +3, or the transfers as 0>1 1>2)");
    enum mp_status status = new_transfers(r, n, n_ends, &t);
    if (status != MP_OK)
        return status;
    for (uint32_t i = 0; i < n_ends; i++)
        t[i] = (struct mp_transfer){(uint16_t)i, (uint16_t)((i + by) % n_ends), order->unit, 1};
    *stage = (struct mp_stage){n_ends, t};
    return MP_OK;
}

/* One transfer and the blank behind it. */
static enum mp_status read_transfer(struct reader *r, const struct mp_yaml *n, const struct mp_order *order,
                                    uint32_t n_ends, uint32_t *at, struct mp_transfer *t) {
    uint32_t start = *at;
    uint64_t src, dst, share = order->unit, width = 1;
    if (!take_number(n->text, n->length, at, &src) || *at >= n->length || n->text[(*at)++] != '>' ||
        !take_number(n->text, n->length, at, &dst))
        return stage_error(r, n, start,
                           "a transfer is not of the form src>dst or src>dst*share (write for instance 0>1)");
    if (src >= n_ends || dst >= n_ends)
        return stage_error(r, n, start,
                           order->between_nodes
                               ? "a transfer names a node that shape.nodes does not have (write a smaller number)"
                               : "a transfer names a GPU that shape.gpus does not have (write a smaller number)");
    if (*at < n->length && n->text[*at] == '*') {
        ++*at;
        if (!take_number(n->text, n->length, at, &share) || share > UINT32_MAX)
            return stage_error(r, n, start, "a share is not a whole number (write src>dst*share)");
    }
    if (*at < n->length && n->text[*at] == 'x') {
        uint32_t digits = ++*at;
        if (!take_number(n->text, n->length, at, &width) || width < 2 || width > UINT16_MAX)
            return stage_error(r, n, digits,
                               "a width is not in [2, 65535] (write for instance 0>1x2, or leave x1 out)");
    }
    if (*at < n->length && n->text[*at] != ' ')
        return stage_error(r, n, *at, "transfers are separated by one blank (write 0>1 1>2)");
    if (*at < n->length)
        ++*at;
    *t = (struct mp_transfer){(uint16_t)src, (uint16_t)dst, (uint32_t)share, (uint16_t)width};
    return MP_OK;
}

static enum mp_status read_transfers(struct reader *r, const struct mp_yaml *n, const struct mp_order *order,
                                     uint32_t n_ends, struct mp_stage *stage) {
    uint32_t at = 0, count = n->length > 0;
    struct mp_transfer *t = NULL;
    for (uint32_t i = 0; i < n->length; i++)
        count += n->text[i] == ' ';
    enum mp_status status = new_transfers(r, n, count, &t);
    for (uint32_t i = 0; status == MP_OK && i < count; i++)
        status = read_transfer(r, n, order, n_ends, &at, &t[i]);
    if (status == MP_OK && at != n->length)
        status = stage_error(r, n, at, "something follows the last transfer (write 0>1 1>2)");
    *stage = (struct mp_stage){count, t};
    return status;
}

/* What the stages so far leave of every pair. Shares that exceed the unit are the verifier's business. */
static enum mp_status read_flush(struct reader *r, const struct mp_yaml *n, const struct mp_order *order,
                                 uint32_t n_ends, uint32_t n_before, struct mp_stage *stage) {
    enum mp_status status = MP_OK;
    struct mp_transfer *t = NULL;
    uint64_t count = 0;
    uint32_t *left = NULL;
    if (n->length > 1)
        return stage_error(r, n, 1, "something follows the flush (write * alone)");
    left = mp_calloc((size_t)n_ends * n_ends, sizeof *left);
    if (left == NULL)
        return mp_nomem(r->err, "reading a plan");
    for (size_t i = 0; i < (size_t)n_ends * n_ends; i++)
        left[i] = i / n_ends != i % n_ends ? order->unit : 0;
    for (uint32_t s = 0; s < n_before; s++)
        for (uint32_t i = 0; i < order->stages[s].n; i++) {
            const struct mp_transfer *x = &order->stages[s].transfers[i];
            uint32_t *pair = &left[(size_t)x->src * n_ends + x->dst];
            *pair -= x->share < *pair ? x->share : *pair;
        }
    for (size_t i = 0; i < (size_t)n_ends * n_ends; i++)
        count += left[i] > 0;
    if (count == 0) {
        status = stage_error(r, n, 0, "a flush has nothing left to send (leave it out)");
        goto out;
    }
    MP_TRY(new_transfers(r, n, count, &t));
    *stage = (struct mp_stage){(uint32_t)count, t};
    for (size_t i = 0; i < (size_t)n_ends * n_ends; i++)
        if (left[i] > 0)
            *t++ = (struct mp_transfer){(uint16_t)(i / n_ends), (uint16_t)(i % n_ends), left[i], 1};
out:
    mp_free(left);
    return status;
}

static enum mp_status read_stage(struct reader *r, const struct mp_yaml *n, struct mp_order *order, uint32_t s,
                                 struct mp_stage *stage) {
    uint32_t n_ends = order->between_nodes ? r->plan->n_nodes : r->plan->n_gpus;
    enum mp_status status = mp_yaml_expect(r->doc, n, MP_YAML_SCALAR, r->err);
    if (status != MP_OK)
        return status;
    if (n->length > 0 && n->text[0] == '+')
        return read_rotation(r, n, order, n_ends, stage);
    if (n->length == 0 || n->text[0] != '*')
        return read_transfers(r, n, order, n_ends, stage);
    if (s + 1 != order->n_stages)
        return stage_error(r, n, 0, "a flush is not the last stage (write * last, or its transfers one by one)");
    order->has_flush = true;
    return read_flush(r, n, order, n_ends, s, stage);
}

static enum mp_status read_order(struct reader *r, const struct mp_yaml *map, struct mp_order *order) {
    static const char *const keys[] = {"name", "between", "unit", "ports", "port_bytes_per_s", "stages", NULL};
    static const char *const ends[] = {"gpus", "nodes", NULL};
    const struct mp_yaml *stages = NULL;
    enum mp_status status;
    unsigned word = 0;
    MP_TRY(mp_yaml_keys(r->doc, map, keys, r->err));
    MP_TRY(get_string(r, map, "name", &order->name));
    MP_TRY(get_word(r, map, "between", ends, &word));
    order->between_nodes = word == 1;
    MP_TRY(get_u32(r, map, "unit", 1, UINT32_MAX, &order->unit));
    MP_TRY(get_u32(r, map, "ports", 1, UINT16_MAX, &order->ports));
    MP_TRY(get_u64(r, map, "port_bytes_per_s", UINT64_MAX, &order->port_bytes_per_s));
    MP_TRY(get_kind(r, map, "stages", MP_YAML_SEQUENCE, &stages));
    struct mp_stage *list = mp_arena_alloc(r->plan->arena, stages->n, sizeof *list);
    if (list == NULL) {
        status = mp_nomem(r->err, "reading a plan");
        goto out;
    }
    order->n_stages = stages->n;
    order->stages = list;
    for (uint32_t s = 0; s < stages->n; s++)
        MP_TRY(read_stage(r, &stages->items[s], order, s, &list[s]));
out:
    return status;
}

static enum mp_status read_colocation(struct reader *r, const struct mp_yaml *map, struct mp_colocation *c) {
    static const char *const keys[] = {"layer", "expert_a", "expert_b", "gpu", NULL};
    enum mp_status status;
    MP_TRY(mp_yaml_keys(r->doc, map, keys, r->err));
    MP_TRY(get_u32(r, map, "layer", 0, r->plan->n_layers - 1, &c->layer));
    MP_TRY(get_u32(r, map, "expert_a", 0, r->plan->n_experts - 1, &c->expert_a));
    MP_TRY(get_u32(r, map, "expert_b", 0, MP_MAX_EXPERTS - 1, &c->expert_b));
    MP_TRY(get_u32(r, map, "gpu", 0, r->plan->n_gpus - 1, &c->gpu));
out:
    return status;
}

static enum mp_status read_together(struct reader *r, const struct mp_yaml *map) {
    static const char *const keys[] = {"role",        "other_trace_sha256", "other_model_sha256",
                                       "timeline_ns", "closed_form_ns",     NULL};
    struct mp_plan_together *t = &r->plan->together;
    unsigned role = 0;
    enum mp_status status;
    MP_TRY(mp_yaml_keys(r->doc, map, keys, r->err));
    MP_TRY(get_word(r, map, "role", plan_role_names, &role));
    MP_TRY(get_string(r, map, "other_trace_sha256", &t->other_trace_sha256));
    MP_TRY(get_string(r, map, "other_model_sha256", &t->other_model_sha256));
    MP_TRY(get_u64(r, map, "timeline_ns", UINT64_MAX, &t->timeline_ns));
    MP_TRY(get_u64(r, map, "closed_form_ns", UINT64_MAX, &t->closed_form_ns));
    t->is_present = true;
    t->is_second = role == 1;
out:
    return status;
}

static enum mp_status read_sample(struct reader *r, const struct mp_yaml *map, struct mp_plan_sample *s) {
    /* The last one belongs to plans with a clock per GPU. */
    const char *const keys[] = {"step",       "step_ns",    "dispatch_ns",
                                "compute_ns", "combine_ns", r->plan->is_pipelined ? "pipelined_step_ns" : NULL,
                                NULL};
    uint64_t n = r->plan->n_planning_steps;
    enum mp_status status;
    MP_TRY(mp_yaml_keys(r->doc, map, keys, r->err));
    MP_TRY(get_u32(r, map, "step", 0, n > 0 ? (uint32_t)(n - 1) : 0, &s->step));
    MP_TRY(get_u64(r, map, "step_ns", UINT64_MAX, &s->step_ns));
    MP_TRY(get_u64(r, map, "dispatch_ns", UINT64_MAX, &s->dispatch_ns));
    MP_TRY(get_u64(r, map, "compute_ns", UINT64_MAX, &s->compute_ns));
    MP_TRY(get_u64(r, map, "combine_ns", UINT64_MAX, &s->combine_ns));
    if (r->plan->is_pipelined)
        MP_TRY(get_u64(r, map, "pipelined_step_ns", UINT64_MAX, &s->pipelined_step_ns));
out:
    return status;
}

static enum mp_status read_certificate(struct reader *r, const struct mp_yaml *map, struct mp_certificate *c) {
    static const char *const keys[] = {"kind", "proof", "scope", "value_ns", "bound_ns", "nodes", NULL};
    enum mp_status status;
    unsigned word = 0;
    MP_TRY(mp_yaml_keys(r->doc, map, keys, r->err));
    MP_TRY(get_word(r, map, "kind", plan_certificate_names, &word));
    c->kind = (enum mp_certificate_kind)word;
    MP_TRY(get_word(r, map, "proof", plan_proof_names, &word));
    c->proof = (enum mp_proof_kind)word;
    MP_TRY(get_string(r, map, "scope", &c->scope));
    MP_TRY(get_u64(r, map, "value_ns", UINT64_MAX, &c->value_ns));
    MP_TRY(get_u64(r, map, "bound_ns", UINT64_MAX, &c->bound_ns));
    MP_TRY(get_u64(r, map, "nodes", UINT64_MAX, &c->nodes));
out:
    return status;
}

static enum mp_status read_certificates(struct reader *r, const struct mp_yaml *root) {
    struct mp_plan *p = r->plan;
    const struct mp_yaml *certificates = NULL;
    enum mp_status status;
    MP_TRY(get_kind(r, root, "certificates", MP_YAML_SEQUENCE, &certificates));
    p->certificates = mp_arena_alloc(p->arena, certificates->n, sizeof *p->certificates);
    if (p->certificates == NULL) {
        status = mp_nomem(r->err, "reading a plan");
        goto out;
    }
    p->n_certificates = certificates->n;
    for (uint32_t i = 0; i < certificates->n; i++)
        MP_TRY(read_certificate(r, &certificates->items[i], &p->certificates[i]));
out:
    return status;
}

static enum mp_status read_outlook(struct reader *r, const struct mp_yaml *root) {
    struct mp_plan *p = r->plan;
    const char *const keys[] = {"planning_steps", "step_ns", p->is_pipelined ? "pipelined_step_ns" : NULL, NULL};
    const struct mp_yaml *prediction = NULL, *samples = NULL;
    enum mp_status status;
    MP_TRY(need(r, root, "prediction", &prediction));
    MP_TRY(mp_yaml_keys(r->doc, prediction, keys, r->err));
    MP_TRY(get_u64(r, prediction, "planning_steps", UINT32_MAX, &p->n_planning_steps));
    MP_TRY(get_u64(r, prediction, "step_ns", UINT64_MAX, &p->predicted_step_ns));
    if (p->is_pipelined)
        MP_TRY(get_u64(r, prediction, "pipelined_step_ns", UINT64_MAX, &p->predicted_pipelined_ns));
    MP_TRY(get_kind(r, root, "samples", MP_YAML_SEQUENCE, &samples));
    p->samples = mp_arena_alloc(p->arena, samples->n, sizeof *p->samples);
    if (p->samples == NULL) {
        status = mp_nomem(r->err, "reading a plan");
        goto out;
    }
    p->n_samples = samples->n;
    for (uint32_t i = 0; i < samples->n; i++)
        MP_TRY(read_sample(r, &samples->items[i], &p->samples[i]));
out:
    return status;
}

static enum mp_status read_rules(struct reader *r, const struct mp_yaml *map) {
    static const char *const keys[] = {"route",        "route_sources",           "stages", "timeline", "pacing",
                                       "fallback_ppm", "allow_same_gpu_replicas", NULL};
    static const char *const timelines[] = {"pipelined", NULL};
    static const char *const modes[] = {"free", "barrier", "coupled", NULL};
    enum mp_status status;
    unsigned word = 0;
    MP_TRY(mp_yaml_keys(r->doc, map, keys, r->err));
    MP_TRY(get_word(r, map, "route", plan_route_names, &word));
    r->plan->route = (enum mp_route_rule)word;
    const struct mp_yaml *by = mp_yaml_get(map, "route_sources");
    if (r->plan->route == MP_ROUTE_SOURCED) {
        MP_TRY(get_word(r, map, "route_sources", plan_route_by_names, &word));
        r->plan->route_by = (enum mp_route_by)word;
    } else if (by != NULL) {
        status = mp_yaml_fail(r->doc, by, r->err, "is not used by rules.route: %s (leave it out)",
                              mp_route_rule_name(r->plan->route));
        goto out;
    }
    MP_TRY(get_word(r, map, "stages", modes, &word));
    r->plan->stage_mode = (enum mp_stage_mode)word;
    if (mp_yaml_get(map, "timeline") != NULL) { /* with barriers it is left out */
        MP_TRY(get_word(r, map, "timeline", timelines, &word));
        r->plan->is_pipelined = true;
    }
    MP_TRY(get_bool(r, map, "pacing", &r->plan->is_paced));
    MP_TRY(get_u32(r, map, "fallback_ppm", 0, UINT32_MAX, &r->plan->fallback_ppm));
    MP_TRY(get_bool(r, map, "allow_same_gpu_replicas", &r->plan->allow_same_gpu_replicas));
out:
    return status;
}

static enum mp_status read_lists(struct reader *r, const struct mp_yaml *root, const struct mp_yaml *layers) {
    struct mp_plan *p = r->plan;
    const struct mp_yaml *orders = NULL, *colocation = NULL, *training = mp_yaml_get(root, "training"),
                         *together = mp_yaml_get(root, "together"), *homes = mp_yaml_get(root, "homes"),
                         *condense = mp_yaml_get(root, "condense");
    enum mp_status status;
    uint32_t *scratch = mp_calloc(p->n_slots, sizeof *scratch);
    MP_TRY(get_kind(r, root, "orders", MP_YAML_SEQUENCE, &orders));
    MP_TRY(get_kind(r, root, "colocation", MP_YAML_SEQUENCE, &colocation));
    struct mp_order *order = mp_arena_alloc(p->arena, orders->n, sizeof *order);
    struct mp_colocation *pair = mp_arena_alloc(p->arena, colocation->n, sizeof *pair);
    if (scratch == NULL || order == NULL || pair == NULL) {
        status = mp_nomem(r->err, "reading a plan");
        goto out;
    }
    p->orders = order;
    p->n_orders = orders->n;
    p->colocations = pair;
    p->n_colocations = colocation->n;
    for (uint32_t l = 0; l < p->n_layers; l++)
        MP_TRY(read_layer(r, &layers->items[l], l, scratch));
    for (uint32_t i = 0; i < orders->n; i++)
        MP_TRY(read_order(r, &orders->items[i], &order[i]));
    for (uint32_t i = 0; i < colocation->n; i++)
        MP_TRY(read_colocation(r, &colocation->items[i], &pair[i]));
    if (together != NULL)
        MP_TRY(read_together(r, together));
    if (training != NULL)
        MP_TRY(plan_read_training(r->doc, training, p, r->err));
    if (homes != NULL)
        MP_TRY(plan_read_homes(r->doc, homes, p, r->err));
    if (condense != NULL)
        MP_TRY(plan_read_condense(r->doc, condense, p, r->err));
out:
    mp_free(scratch);
    return status;
}

/* A file with a right checksum that our writer would not write was made by another program, wrongly: the first byte
 * that differs. */
static enum mp_status check_canonical(const struct mp_in *in, const struct mp_plan *p, struct mp_error *err) {
    struct mp_out *o;
    enum mp_status status = mp_out_open_memory(&o, err);
    if (status != MP_OK)
        return status;
    mp_plan_write(p, o);
    size_t n, same = 0;
    const uint8_t *bytes = mp_out_memory_bytes(o, &n);
    bool is_same = n == in->size && bytes != NULL && memcmp(bytes, in->data, n) == 0;
    uint64_t line = 0, column = 0;
    if (!is_same && bytes != NULL) {
        while (same < n && same < in->size && bytes[same] == in->data[same])
            same++;
        position_of((const char *)in->data, same, &line, &column);
    }
    status = mp_out_commit(o, err);
    if (status != MP_OK || is_same)
        return status;
    return mp_fail_at(err, MP_EINPUT, in->path, line, column,
                      "from here on the file is not in the canonical form of docs/PLAN.md (write "
                      "it anew with moeplan plan)");
}

static enum mp_status read_document(struct reader *r, const struct mp_in *in) {
    static const char *const keys[] = {"schema",     "version",    "provenance",   "shape",    "rules", "layers",
                                       "orders",     "colocation", "together",     "training", "homes", "condense",
                                       "prediction", "samples",    "certificates", "checksum", NULL};
    const struct mp_yaml *root = r->doc->root, *shape = NULL, *layers = NULL, *part = NULL;
    enum mp_status status;
    MP_TRY(mp_yaml_expect(r->doc, root, MP_YAML_MAPPING, r->err));
    MP_TRY(mp_yaml_keys(r->doc, root, keys, r->err));
    MP_TRY(get_kind(r, root, "shape", MP_YAML_MAPPING, &shape));
    MP_TRY(get_kind(r, root, "layers", MP_YAML_SEQUENCE, &layers));
    MP_TRY(read_shape(r, shape, layers));
    MP_TRY(need(r, root, "provenance", &part));
    MP_TRY(read_provenance(r, part));
    MP_TRY(need(r, root, "rules", &part));
    MP_TRY(read_rules(r, part));
    MP_TRY(read_lists(r, root, layers));
    if (r->plan->provenance.has_workload)
        MP_TRY(read_outlook(r, root));
    if (r->plan->provenance.has_workload || r->plan->provenance.matrix.is_present)
        MP_TRY(read_certificates(r, root));
    MP_TRY(mp_plan_check(r->plan, r->err));
    MP_TRY(check_canonical(in, r->plan, r->err));
out:
    return status;
}

enum mp_status mp_plan_parse(struct mp_plan **out, const struct mp_in *in, const struct mp_limits *limits,
                             struct mp_error *err) {
    struct mp_limits own = limits != NULL ? *limits : mp_limits_default;
    struct reader r = {.err = err};
    struct mp_yaml_doc *doc = NULL;
    enum mp_status status;
    *out = NULL;
    if (own.yaml_scalar < MAX_STAGE_BYTES)
        own.yaml_scalar = MAX_STAGE_BYTES;
    if (in->size > own.yaml_bytes)
        return mp_fail_at(err, MP_ELIMIT, in->path, 1, 1, "a plan of %zu bytes is past the limit of %zu", in->size,
                          own.yaml_bytes);
    MP_TRY(check_first_lines(in, err));
    MP_TRY(check_checksum(in, err));
    MP_TRY(mp_yaml_parse(&doc, in, &own, err));
    r.doc = doc;
    MP_TRY(read_document(&r, in));
out:
    mp_yaml_free(doc);
    if (status == MP_OK)
        *out = r.plan;
    else
        mp_plan_free(r.plan);
    return status;
}

enum mp_status mp_plan_load(struct mp_plan **out, const char *path, const struct mp_limits *limits,
                            struct mp_error *err) {
    struct mp_in *in;
    *out = NULL;
    enum mp_status status = mp_in_open(&in, path, 0, err);
    if (status != MP_OK)
        return status;
    status = mp_plan_parse(out, in, limits, err);
    mp_in_close(in);
    return status;
}
