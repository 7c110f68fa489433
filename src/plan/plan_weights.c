/* Routing weights by source (rule sourced) as text: one packed scalar for each replicated expert of a layer, classes of
 * sources separated by |, the weights of its slots in ascending order by a blank; a run of N equal classes is N*weights
 * (docs/PLAN.md). A list of numbers would be 64 times the YAML events. */
#include "plan_text.h"
#include <string.h>

static void put_number(struct mp_out *o, uint32_t v) {
    char text[10], *p = text + sizeof text;
    do
        *--p = (char)('0' + v % 10);
    while ((v /= 10) > 0);
    mp_out_write(o, p, (size_t)(text + sizeof text - p));
}

/* slot[0..n): the slots of every expert with two or more, expert after expert: those of expert e are slot[first[e]] up
 * to slot[first[e + 1]]. */
struct slots_of {
    uint32_t *first, *slot;
};

static void free_slots_of(struct slots_of *x) {
    mp_free(x->first);
    mp_free(x->slot);
    *x = (struct slots_of){NULL, NULL};
}

static bool make_slots_of(struct slots_of *x, const struct mp_plan *p, const struct mp_plan_layer *layer) {
    *x = (struct slots_of){mp_calloc((size_t)p->n_experts + 2, sizeof *x->first),
                           mp_calloc(p->n_slots, sizeof *x->slot)};
    if (x->first == NULL || x->slot == NULL) {
        free_slots_of(x);
        return false;
    }
    uint32_t *at = x->first + 1; /* at[e] is where the next slot of e goes, and in the end where those of e + 1 begin */
    for (uint32_t s = 0; s < p->n_slots; s++)
        if (layer->slot_expert[s] < p->n_experts)
            at[layer->slot_expert[s] + 1]++;
    for (uint32_t e = 0; e < p->n_experts; e++)
        at[e + 1] += at[e];
    for (uint32_t s = 0; s < p->n_slots; s++)
        if (layer->slot_expert[s] < p->n_experts)
            x->slot[at[layer->slot_expert[s]]++] = s;
    return true;
}

static bool is_same_class(const uint32_t *a, const uint32_t *b, const uint32_t *slot, uint32_t n) {
    for (uint32_t i = 0; i < n; i++)
        if (a[slot[i]] != b[slot[i]])
            return false;
    return true;
}

static void write_expert(struct mp_out *o, const struct mp_plan *p, const uint32_t *weights, const uint32_t *slot,
                         uint32_t n) {
    uint32_t n_classes = mp_plan_n_classes(p);
    for (uint32_t c = 0, run; c < n_classes; c += run) {
        const uint32_t *weight = weights + (size_t)c * p->n_slots;
        for (run = 1; c + run < n_classes; run++)
            if (!is_same_class(weight, weight + (size_t)run * p->n_slots, slot, n))
                break;
        if (c > 0)
            mp_out_puts(o, "|");
        if (run > 1) {
            put_number(o, run);
            mp_out_puts(o, "*");
        }
        for (uint32_t i = 0; i < n; i++) {
            if (i > 0)
                mp_out_puts(o, " ");
            put_number(o, weight[slot[i]]);
        }
    }
}

void plan_write_weights_by_source(struct mp_out *o, const struct mp_plan *p, const struct mp_plan_layer *layer) {
    struct slots_of x;
    bool is_empty = true;
    if (!make_slots_of(&x, p, layer)) {
        mp_out_fail(o, MP_ENOMEM, "out of memory while writing a plan");
        return;
    }
    mp_out_puts(o, "    weights_by_source:");
    for (uint32_t e = 0; e < p->n_experts; e++) {
        uint32_t n = x.first[e + 1] - x.first[e];
        if (n < 2)
            continue;
        mp_out_puts(o, is_empty ? "\n      - {expert: " : "      - {expert: ");
        put_number(o, e);
        mp_out_puts(o, ", weights: \"");
        write_expert(o, p, layer->slot_weight_by_source, x.slot + x.first[e], n);
        mp_out_puts(o, "\"}\n");
        is_empty = false;
    }
    if (is_empty)
        mp_out_puts(o, " []\n");
    free_slots_of(&x);
}

/* ---- reading ---- */

static enum mp_status fail_text(const struct mp_yaml_doc *doc, const struct mp_yaml *n, uint32_t at, const char *what,
                                struct mp_error *err) {
    /* The canonical scalar is quoted and has no escapes: its text starts one column after the quote. */
    return mp_fail_at(err, MP_EINPUT, doc->path, n->line, (uint64_t)n->column + (n->is_quoted ? 1 : 0) + at,
                      "weights: %s", what);
}

/* Reads the digits at *at. False when there are none, too many, or a leading zero. */
static bool take_number(const struct mp_yaml *n, uint32_t *at, uint64_t *out) {
    uint32_t start = *at;
    while (*at < n->length && n->text[*at] >= '0' && n->text[*at] <= '9')
        ++*at;
    return mp_parse_u64(n->text + start, *at - start, out);
}

/* How many classes the weights from *at on are of: N of "N*", or 1. */
static enum mp_status read_run(const struct mp_yaml_doc *doc, const struct mp_yaml *n, uint32_t left, uint32_t *at,
                               uint32_t *run, struct mp_error *err) {
    uint32_t end = *at;
    uint64_t value;
    *run = 1;
    if (!take_number(n, &end, &value) || end >= n->length || n->text[end] != '*')
        return MP_OK; /* a weight already, or nothing that it says */
    if (value < 2 || value > left)
        return fail_text(doc, n, *at,
                         "a run of classes is not in [2, the classes that are left] (write for instance 2*1 1)", err);
    *run = (uint32_t)value;
    *at = end + 1;
    return MP_OK;
}

static enum mp_status read_class(const struct mp_yaml_doc *doc, const struct mp_yaml *n, const uint32_t *slot,
                                 uint32_t n_replicas, uint32_t *at, uint32_t *weight, struct mp_error *err) {
    for (uint32_t i = 0; i < n_replicas; i++) {
        uint64_t value;
        if (i > 0 && (*at >= n->length || n->text[*at] != ' '))
            return fail_text(doc, n, *at, "the class has too few weights (write one for each slot of the expert)", err);
        *at += i > 0;
        uint32_t start = *at;
        if (!take_number(n, at, &value) || value > UINT32_MAX)
            return fail_text(doc, n, start, "not a whole number below 2^32 (write one weight for each slot)", err);
        weight[slot[i]] = (uint32_t)value;
    }
    return MP_OK;
}

static enum mp_status read_expert(const struct mp_yaml_doc *doc, const struct mp_yaml *n, const struct mp_plan *p,
                                  const uint32_t *slot, uint32_t n_replicas, uint32_t *weights, struct mp_error *err) {
    uint32_t at = 0, n_classes = mp_plan_n_classes(p), run;
    enum mp_status status;
    MP_TRY(mp_yaml_expect(doc, n, MP_YAML_SCALAR, err));
    for (uint32_t c = 0; c < n_classes; c += run) {
        uint32_t *weight = weights + (size_t)c * p->n_slots;
        if (c > 0 && (at >= n->length || n->text[at] != '|')) {
            status = fail_text(doc, n, at,
                               at >= n->length ? "too few classes (write one for each GPU, or node, of the sources)"
                                               : "the class has too many weights (write one for each slot of the "
                                                 "expert, and | between classes)",
                               err);
            goto out;
        }
        at += c > 0;
        MP_TRY(read_run(doc, n, n_classes - c, &at, &run, err));
        MP_TRY(read_class(doc, n, slot, n_replicas, &at, weight, err));
        for (uint32_t k = 1; k < run; k++)
            for (uint32_t i = 0; i < n_replicas; i++)
                weight[(size_t)k * p->n_slots + slot[i]] = weight[slot[i]];
    }
    if (at != n->length)
        status = fail_text(doc, n, at, "something follows the last class (write one for each GPU, or node)", err);
out:
    return status;
}

/* An entry for each expert with two slots or more, by rising expert. */
static enum mp_status read_entries(const struct mp_yaml_doc *doc, const struct mp_yaml *list, const struct mp_plan *p,
                                   const struct slots_of *x, uint32_t *weights, struct mp_error *err) {
    static const char *const keys[] = {"expert", "weights", NULL};
    enum mp_status status = MP_OK;
    uint32_t next = 0; /* expert that an entry is wanted for */
    for (uint32_t i = 0; i <= list->n; i++) {
        const struct mp_yaml *number = NULL, *text = NULL;
        uint32_t e = p->n_experts;
        while (next < p->n_experts && x->first[next + 1] - x->first[next] < 2)
            next++;
        if (i < list->n) {
            MP_TRY(mp_yaml_keys(doc, &list->items[i], keys, err));
            MP_TRY(mp_yaml_need(doc, &list->items[i], "expert", &number, err));
            MP_TRY(mp_yaml_u32(doc, number, 0, p->n_experts - 1, &e, err));
        }
        if (e != next) {
            status = next < p->n_experts
                         ? mp_yaml_fail(doc, number != NULL ? number : list, err,
                                        "route-weights: expert %u has %u slots, and the next weights are not its "
                                        "(write an entry for each expert with two slots or more, in order)",
                                        next, x->first[next + 1] - x->first[next])
                         : mp_yaml_fail(doc, number, err,
                                        "route-weights: expert %u has fewer than two slots, or its entry was before "
                                        "(leave this one out)",
                                        e);
            goto out;
        }
        if (i == list->n)
            break;
        MP_TRY(mp_yaml_need(doc, &list->items[i], "weights", &text, err));
        MP_TRY(read_expert(doc, text, p, x->slot + x->first[e], x->first[e + 1] - x->first[e], weights, err));
        next++;
    }
out:
    return status;
}

enum mp_status plan_read_weights_by_source(const struct mp_yaml_doc *doc, const struct mp_yaml *map,
                                           const struct mp_plan *p, struct mp_plan_layer *layer, struct mp_error *err) {
    struct slots_of x = {NULL, NULL};
    const struct mp_yaml *list = mp_yaml_get(map, "weights_by_source");
    uint64_t cells = (uint64_t)mp_plan_n_classes(p) * p->n_slots;
    enum mp_status status = MP_OK;
    if (p->route != MP_ROUTE_SOURCED)
        return list == NULL ? MP_OK
                            : mp_yaml_fail(doc, list, err, "is not used by rules.route: %s (leave it out)",
                                           mp_route_rule_name(p->route));
    MP_TRY(mp_yaml_need(doc, map, "weights_by_source", &list, err));
    MP_TRY(mp_yaml_expect(doc, list, MP_YAML_SEQUENCE, err));
    if (cells * p->n_layers > MP_MAX_ROUTE_CELLS) { /* before any memory of that size is asked for */
        status = mp_fail_at(err, MP_ELIMIT, doc->path, list->line, list->column,
                            "weights_by_source: %u layers of %u classes and %u slots are more than %llu weights "
                            "(write route_sources: node, or another rule)",
                            p->n_layers, mp_plan_n_classes(p), p->n_slots, (unsigned long long)MP_MAX_ROUTE_CELLS);
        goto out;
    }
    layer->slot_weight_by_source = mp_arena_alloc(p->arena, (size_t)cells, sizeof *layer->slot_weight_by_source);
    if (layer->slot_weight_by_source == NULL || !make_slots_of(&x, p, layer)) {
        status = mp_nomem(err, "reading a plan");
        goto out;
    }
    MP_TRY(read_entries(doc, list, p, &x, layer->slot_weight_by_source, err));
out:
    free_slots_of(&x);
    return status;
}
