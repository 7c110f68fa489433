/* The rule of homes in a plan file (docs/PLAN.md, `homes`): weights as one packed scalar for each layer, nodes from 1
 * on separated by |, experts by a blank. A list of numbers would be 64 times the YAML events. */
#include "plan_text.h"
#include <stdlib.h>
#include <string.h>

static const char *const methods[] = {"affinity", "codesign", NULL};

static void put_signed(struct mp_out *o, int64_t v) { mp_out_printf(o, "%lld", (long long)v); }

void plan_write_homes(struct mp_out *o, const struct mp_plan *p) {
    const struct mp_plan_homes *h = &p->homes;
    mp_out_printf(o, "homes:\n  method: %s\n  prefix_rows: %u\n  tolerance: %llu\n  price_milli: %u\n  bias_milli: \"",
                  h->method, h->prefix_rows, (unsigned long long)h->tolerance, h->price_milli);
    for (uint32_t v = 0; v < p->n_nodes; v++) {
        mp_out_puts(o, v > 0 ? " " : "");
        put_signed(o, h->bias_milli[v]);
    }
    mp_out_puts(o, "\"\n  weights:\n");
    for (uint32_t l = 0; l < p->n_layers; l++) {
        mp_out_puts(o, "    - \"");
        for (size_t i = 0; i < (size_t)(p->n_nodes - 1) * p->n_experts; i++) {
            mp_out_puts(o, i == 0 ? "" : i % p->n_experts == 0 ? "|" : " ");
            put_signed(o, p->layers[l].home_weights[i]);
        }
        mp_out_puts(o, "\"\n");
    }
}

/* ---- reading ---- */
static enum mp_status fail_text(const struct mp_yaml_doc *doc, const struct mp_yaml *n, uint32_t at, const char *what,
                                struct mp_error *err) {
    /* The canonical scalar is quoted and has no escapes: its text starts one column after the quote. */
    return mp_fail_at(err, MP_EINPUT, doc->path, n->line, (uint64_t)n->column + (n->is_quoted ? 1 : 0) + at,
                      "homes: %s", what);
}

/* A whole number in [-most, most] at *at. */
static bool take_signed(const struct mp_yaml *n, uint32_t *at, int64_t most, int64_t *out) {
    const bool is_negative = *at < n->length && n->text[*at] == '-';
    uint32_t start = *at + is_negative, end = start;
    uint64_t value;
    while (end < n->length && n->text[end] >= '0' && n->text[end] <= '9')
        end++;
    if (!mp_parse_u64(n->text + start, end - start, &value) || value > (uint64_t)most || (is_negative && value == 0))
        return false;
    *out = is_negative ? -(int64_t)value : (int64_t)value;
    *at = end;
    return true;
}

static enum mp_status read_bias(const struct mp_yaml_doc *doc, const struct mp_yaml *n, uint32_t n_nodes, int32_t *bias,
                                struct mp_error *err) {
    uint32_t at = 0;
    for (uint32_t v = 0; v < n_nodes; v++) {
        int64_t value;
        if (v > 0 && (at >= n->length || n->text[at++] != ' '))
            return fail_text(doc, n, at, "too few biases (write one for each node, separated by one blank)", err);
        if (!take_signed(n, &at, MP_HOME_MILLI_MAX, &value))
            return fail_text(doc, n, at, "a bias is not a whole number in [-1000000000, 1000000000] (write 0)", err);
        bias[v] = (int32_t)value;
    }
    return at == n->length ? MP_OK
                           : fail_text(doc, n, at, "something follows the last bias (write one for each node)", err);
}

static enum mp_status read_weights(const struct mp_yaml_doc *doc, const struct mp_yaml *n, const struct mp_plan *p,
                                   int8_t *weights, struct mp_error *err) {
    uint32_t at = 0;
    const size_t n_cells = (size_t)(p->n_nodes - 1) * p->n_experts;
    for (size_t i = 0; i < n_cells; i++) {
        const bool is_node = i % p->n_experts == 0;
        int64_t value;
        if (i > 0 && (at >= n->length || n->text[at] != (is_node ? '|' : ' ')))
            return fail_text(doc, n, at,
                             "too few or too many weights (write one for each expert, separated by one blank, and | "
                             "between nodes)",
                             err);
        at += i > 0;
        if (!take_signed(n, &at, MP_HOME_WEIGHT_MAX, &value))
            return fail_text(doc, n, at, "a weight is not a whole number in [-127, 127] (write 0)", err);
        weights[i] = (int8_t)value;
    }
    return at == n->length
               ? MP_OK
               : fail_text(doc, n, at, "something follows the last weight (write one for each expert, nodes from 1 on)",
                           err);
}

enum mp_status plan_read_homes(const struct mp_yaml_doc *doc, const struct mp_yaml *map, struct mp_plan *p,
                               struct mp_error *err) {
    static const char *const keys[] = {"method",     "prefix_rows", "tolerance", "price_milli",
                                       "bias_milli", "weights",     NULL};
    struct mp_plan_homes *h = &p->homes;
    const struct mp_yaml *n = NULL;
    int32_t *bias;
    enum mp_status status;
    MP_TRY(mp_yaml_keys(doc, map, keys, err));
    if (p->n_nodes < 2 || p->n_nodes > MP_HOME_NODES_MAX)
        return mp_yaml_fail(doc, map, err, "for %u node(s) (homes are for 2 to %u nodes; leave the section out)",
                            p->n_nodes, MP_HOME_NODES_MAX);
    MP_TRY(mp_yaml_need(doc, map, "method", &n, err));
    MP_TRY(mp_yaml_expect(doc, n, MP_YAML_SCALAR, err));
    for (uint32_t i = 0; methods[i] != NULL && h->method == NULL; i++)
        if (n->length == strlen(methods[i]) && memcmp(n->text, methods[i], n->length) == 0)
            h->method = methods[i];
    if (h->method == NULL)
        return mp_yaml_fail(doc, n, err, "\"%.*s\" is no method (write affinity or codesign)",
                            (int)(n->length < 40 ? n->length : 40), n->text);
    MP_TRY(mp_yaml_need(doc, map, "prefix_rows", &n, err));
    MP_TRY(mp_yaml_u32(doc, n, 0, UINT32_MAX, &h->prefix_rows, err));
    MP_TRY(mp_yaml_need(doc, map, "tolerance", &n, err));
    MP_TRY(mp_yaml_u64(doc, n, 1, MP_HOME_TOLERANCE_MAX, &h->tolerance, err));
    MP_TRY(mp_yaml_need(doc, map, "price_milli", &n, err));
    MP_TRY(mp_yaml_u32(doc, n, 0, MP_HOME_MILLI_MAX, &h->price_milli, err));
    MP_TRY(mp_yaml_need(doc, map, "bias_milli", &n, err));
    MP_TRY(mp_yaml_expect(doc, n, MP_YAML_SCALAR, err));
    bias = mp_arena_alloc(p->arena, p->n_nodes, sizeof *bias);
    if (bias == NULL)
        return mp_nomem(err, "reading a plan");
    MP_TRY(read_bias(doc, n, p->n_nodes, bias, err));
    h->bias_milli = bias;
    MP_TRY(mp_yaml_need(doc, map, "weights", &n, err));
    MP_TRY(mp_yaml_expect(doc, n, MP_YAML_SEQUENCE, err));
    if (n->n != p->n_layers)
        return mp_yaml_fail(doc, n, err, "%u layers, and the plan has %u (write one text for each)", n->n, p->n_layers);
    for (uint32_t l = 0; l < p->n_layers; l++) {
        MP_TRY(mp_yaml_expect(doc, &n->items[l], MP_YAML_SCALAR, err));
        p->layers[l].home_weights = mp_arena_alloc(p->arena, (size_t)(p->n_nodes - 1) * p->n_experts, 1);
        if (p->layers[l].home_weights == NULL)
            return mp_nomem(err, "reading a plan");
        MP_TRY(read_weights(doc, &n->items[l], p, p->layers[l].home_weights, err));
    }
    h->is_present = true;
out:
    return status;
}

/* ---- checking, and use ---- */
enum mp_status plan_check_homes(const struct mp_plan *p, struct mp_error *err) {
    const struct mp_plan_homes *h = &p->homes;
    if (!h->is_present)
        return MP_OK;
    bool is_known = false;
    for (uint32_t i = 0; h->method != NULL && methods[i] != NULL; i++)
        is_known |= strcmp(h->method, methods[i]) == 0;
    if (!is_known || p->n_nodes < 2 || p->n_nodes > MP_HOME_NODES_MAX || h->tolerance == 0 ||
        h->tolerance > MP_HOME_TOLERANCE_MAX || h->price_milli > MP_HOME_MILLI_MAX || h->bias_milli == NULL)
        return mp_fail(err, MP_EINPUT, "plan: homes: method, tolerance %llu, price %u or %u nodes are out of range",
                       (unsigned long long)h->tolerance, h->price_milli, p->n_nodes);
    for (uint32_t v = 0; v < p->n_nodes; v++)
        if (abs(h->bias_milli[v]) > MP_HOME_MILLI_MAX)
            return mp_fail(err, MP_EINPUT, "plan: homes: bias %d of node %u", h->bias_milli[v], v);
    for (uint32_t l = 0; l < p->n_layers; l++) {
        const int8_t *weights = p->layers[l].home_weights;
        if (weights == NULL)
            return mp_fail(err, MP_EINPUT, "plan: homes: layer %u has no weights", p->layers[l].layer_id);
        for (size_t i = 0; i < (size_t)(p->n_nodes - 1) * p->n_experts; i++)
            if (weights[i] < -MP_HOME_WEIGHT_MAX)
                return mp_fail(err, MP_EINPUT, "plan: homes: layer %u: weight %d", p->layers[l].layer_id, weights[i]);
    }
    return MP_OK;
}

enum mp_status mp_plan_home_rule(const struct mp_home_rule **out, const struct mp_plan *p, struct mp_error *err) {
    const struct mp_plan_homes *h = &p->homes;
    *out = NULL;
    if (!h->is_present)
        return MP_OK;
    const int8_t **weights = mp_arena_alloc(p->arena, p->n_layers, sizeof *weights);
    struct mp_home_rule *rule = mp_arena_alloc(p->arena, 1, sizeof *rule);
    if (weights == NULL || rule == NULL)
        return mp_nomem(err, "homes of requests");
    for (uint32_t l = 0; l < p->n_layers; l++)
        weights[l] = p->layers[l].home_weights;
    *rule = (struct mp_home_rule){.n_nodes = p->n_nodes,
                                  .n_gpus = p->n_gpus,
                                  .n_layers = p->n_layers,
                                  .n_experts = p->n_experts,
                                  .gpu_node = p->gpu_node,
                                  .prefix_rows = h->prefix_rows,
                                  .tolerance = h->tolerance,
                                  .price_milli = h->price_milli,
                                  .bias_milli = h->bias_milli,
                                  .weights = weights};
    *out = rule;
    return MP_OK;
}
