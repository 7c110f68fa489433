/* Planning and held-out parts of a trace, by whole request.
 *
 * Decides   which requests (iterations of a COUNTS trace) are planned on and which are scored on.
 * Minimises nothing: the rules of docs/STEPS.md, so that a second program comes to the same parts.
 * Method    HASH: per category, in hash order, the share by cumulative rounding; TIME: a prefix; CATEGORY: by name.
 * Bound     the planning part of HASH and TIME is within one half of n * share, of each category's within one.
 * Differs   -
 * Cost      O(n log n) time, O(n) memory.  Deterministic in (trace, split). */
#include "internal.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PPM = 1000000 };

static uint64_t n_units(const struct mp_trace *t) {
    return t->kind == MP_TRACE_TOKENS ? t->n_requests : t->n_iterations;
}
static uint64_t id_of(const struct mp_trace *t, uint32_t i) {
    return t->kind == MP_TRACE_TOKENS ? t->requests[i].id : i;
}
/* The category's index, or n_categories for none. */
static uint32_t category_of(const struct mp_trace *t, uint32_t i) {
    uint32_t c = MP_NONE;
    if (t->kind == MP_TRACE_TOKENS)
        c = t->requests[i].category;
    else if (t->iteration_category != NULL)
        c = t->iteration_category[i];
    return c < t->n_categories ? c : t->n_categories;
}
static const char *noun_of(const struct mp_trace *t) { return t->kind == MP_TRACE_TOKENS ? "requests" : "iterations"; }

enum mp_status mp_split_parse(struct mp_split *out, const char *text, uint64_t seed, struct mp_error *err) {
    *out = (struct mp_split){.kind = MP_SPLIT_NONE, .seed = seed};
    if (strcmp(text, "none") == 0)
        return MP_OK;
    if (strncmp(text, "category:", 9) == 0) {
        if (text[9] == '\0')
            return mp_fail(err, MP_EUSAGE,
                           "split: \"category:\" names no category (write category:NAME or "
                           "category:NAME,NAME)");
        out->kind = MP_SPLIT_CATEGORY;
        out->categories = text + 9;
        return MP_OK;
    }
    enum mp_split_kind kind = MP_SPLIT_HASH;
    const char *share = text;
    if (strncmp(text, "time:", 5) == 0) {
        kind = MP_SPLIT_TIME;
        share = text + 5;
    } else if (strncmp(text, "hash:", 5) == 0) {
        share = text + 5;
    }
    double value;
    char quoted[64];
    if (!mp_parse_double(share, strlen(share), &value))
        return mp_fail(err, MP_EUSAGE, "split: \"%s\" is not a split (write none, 0.5, time:0.5 or category:A,B)",
                       mp_quote(text, strlen(text), quoted, sizeof quoted));
    /* The range is checked after rounding: 0.0000001 would plan on nothing. */
    long long ppm = value > 0 && value < 1 ? llround(value * PPM) : 0;
    if (ppm <= 0 || ppm >= PPM)
        return mp_fail(err, MP_EUSAGE,
                       "split: \"%s\" is not a share between 0.000001 and 0.999999 (write 0.5 to plan on "
                       "half of the requests)",
                       mp_quote(text, strlen(text), quoted, sizeof quoted));
    out->kind = kind;
    out->planning_ppm = (uint32_t)ppm;
    return MP_OK;
}

/* ---- HASH ---- */
struct keyed {
    uint32_t category, index;
    uint64_t key;
};
static int by_category_key_index(const void *pa, const void *pb) {
    const struct keyed *a = pa, *b = pb;
    if (a->category != b->category)
        return a->category < b->category ? -1 : 1;
    if (a->key != b->key)
        return a->key < b->key ? -1 : 1;
    return (a->index > b->index) - (a->index < b->index);
}

static enum mp_status choose_by_hash(uint8_t *plans, const struct mp_trace *t, uint32_t n, const struct mp_split *split,
                                     struct mp_error *err) {
    struct keyed *keys = mp_calloc(n, sizeof *keys);
    if (keys == NULL)
        return mp_nomem(err, "the split");
    uint64_t salt = mp_mix64(split->seed);
    for (uint32_t i = 0; i < n; i++)
        keys[i] = (struct keyed){category_of(t, i), i, mp_mix64(id_of(t, i) ^ salt)};
    qsort(keys, n, sizeof *keys, by_category_key_index);
    uint64_t cumulative = 0, taken = 0;
    for (uint32_t begin = 0, end; begin < n; begin = end) {
        for (end = begin; end < n && keys[end].category == keys[begin].category; end++)
            ;
        cumulative += (uint64_t)(end - begin) * split->planning_ppm;
        uint64_t take = (cumulative + PPM / 2) / PPM - taken;
        for (uint64_t j = 0; j < take; j++)
            plans[keys[begin + j].index] = 1;
        taken += take;
    }
    mp_free(keys);
    return MP_OK;
}

/* ---- CATEGORY ---- */
/* For messages: the first categories of a trace. */
static void list_categories(const struct mp_trace *t, char *buf, size_t size) {
    size_t used = 0;
    buf[0] = '\0';
    for (uint32_t c = 0; c < t->n_categories && used + 60 < size; c++) {
        char quoted[48];
        (void)mp_quote(t->categories[c], strlen(t->categories[c]), quoted, sizeof quoted);
        used += (size_t)snprintf(buf + used, size - used, "%s%s", c > 0 ? ", " : "", quoted);
        if (c + 1 < t->n_categories && used + 60 >= size)
            (void)snprintf(buf + used, size - used, ", ...");
    }
}

static enum mp_status choose_by_category(uint8_t *plans, const struct mp_trace *t, uint32_t n,
                                         const struct mp_split *split, struct mp_error *err) {
    if (t->n_categories == 0)
        return mp_fail(err, MP_EINPUT, "the trace has no categories to split by (use --split 0.5, or record them)");
    uint8_t *listed = mp_calloc(t->n_categories, 1);
    if (listed == NULL)
        return mp_nomem(err, "the split");
    enum mp_status status = MP_OK;
    const char *name = split->categories;
    while (status == MP_OK) {
        size_t length = strcspn(name, ",");
        uint32_t c = 0;
        while (c < t->n_categories &&
               (strlen(t->categories[c]) != length || memcmp(t->categories[c], name, length) != 0))
            c++;
        if (c == t->n_categories) {
            char quoted[64], list[400];
            list_categories(t, list, sizeof list);
            status = mp_fail(err, MP_EINPUT, "the trace has no category \"%s\" (its %u are: %s)",
                             mp_quote(name, length, quoted, sizeof quoted), t->n_categories, list);
            break;
        }
        listed[c] = 1;
        if (name[length] == '\0')
            break;
        name += length + 1;
    }
    for (uint32_t i = 0; status == MP_OK && i < n; i++) {
        uint32_t c = category_of(t, i);
        plans[i] = c < t->n_categories && listed[c];
    }
    mp_free(listed);
    return status;
}

/* ---- parts ---- */
static enum mp_status fill_part(struct mp_part *p, const struct mp_trace *t, uint32_t n, const uint8_t *plans,
                                uint8_t wanted, struct mp_error *err) {
    *p = (struct mp_part){.trace = t};
    uint32_t count = 0;
    for (uint32_t i = 0; i < n; i++)
        count += plans[i] == wanted;
    p->members = mp_calloc(count, sizeof *p->members);
    if (p->members == NULL)
        return mp_nomem(err, "a part of the trace");
    for (uint32_t i = 0; i < n; i++)
        if (plans[i] == wanted)
            p->members[p->n++] = i;
    return MP_OK;
}

void mp_part_free(struct mp_part *p) {
    if (p == NULL)
        return;
    mp_free(p->members);
    *p = (struct mp_part){0};
}

enum mp_status mp_part_split(struct mp_part *planning, struct mp_part *held_out, const struct mp_trace *t,
                             const struct mp_split *split, struct mp_error *err) {
    *planning = *held_out = (struct mp_part){0};
    uint64_t total = n_units(t);
    if (total == 0)
        return mp_fail(err, MP_EINPUT, "the trace has no %s", noun_of(t));
    if (total >= UINT32_MAX)
        return mp_fail(err, MP_ELIMIT, "the trace has %s %s (at most 4,294,967,294)", mp_workload_number(total).text,
                       noun_of(t));
    uint32_t n = (uint32_t)total;
    uint8_t *plans = mp_calloc(n, 1);
    if (plans == NULL)
        return mp_nomem(err, "the split");
    enum mp_status status = MP_OK;
    bool both = false;
    switch (split->kind) {
    case MP_SPLIT_NONE:
        both = true;
        break;
    case MP_SPLIT_HASH:
        MP_TRY(choose_by_hash(plans, t, n, split, err));
        break;
    case MP_SPLIT_TIME:
        if (t->kind == MP_TRACE_COUNTS && !t->is_time_ordered) {
            status = mp_fail(err, MP_EINPUT,
                             "the iterations of this recording do not stand in time order, so they cannot "
                             "be split by time (use --split 0.5)");
            goto out;
        }
        memset(plans, 1, (size_t)(((uint64_t)n * split->planning_ppm + PPM / 2) / PPM));
        break;
    case MP_SPLIT_CATEGORY:
        MP_TRY(choose_by_category(plans, t, n, split, err));
        break;
    }
    MP_TRY(fill_part(planning, t, n, plans, both ? 0 : 1, err));
    MP_TRY(fill_part(held_out, t, n, plans, 0, err));
    if (planning->n == 0 || held_out->n == 0)
        status = mp_fail(err, MP_EINPUT,
                         "the split leaves %s of %s %s for planning and %s held out: each part needs one "
                         "(use another share, other categories, a larger trace, or --split none)",
                         mp_workload_number(planning->n).text, mp_workload_number(n).text, noun_of(t),
                         mp_workload_number(held_out->n).text);
out:
    mp_free(plans);
    if (status != MP_OK) {
        mp_part_free(planning);
        mp_part_free(held_out);
    }
    return status;
}

enum mp_status mp_part_without_group(struct mp_part *out, const struct mp_part *part, uint32_t n_groups,
                                     uint32_t left_out, struct mp_error *err) {
    *out = (struct mp_part){0};
    if (n_groups == 0 || left_out >= n_groups)
        return mp_fail(err, MP_EUSAGE, "group %u of %u cannot be left out", left_out, n_groups);
    uint32_t *members = mp_calloc(part->n, sizeof *members);
    if (members == NULL)
        return mp_nomem(err, "a part of the trace");
    uint32_t n = 0;
    for (uint32_t i = 0; i < part->n; i++)
        if (mp_mix64(id_of(part->trace, part->members[i])) % n_groups != left_out)
            members[n++] = part->members[i];
    *out = (struct mp_part){.trace = part->trace, .n = n, .members = members, .homes = part->homes};
    return MP_OK;
}
