/* Ranges on the command line, and the clusters that they stand for. */
#include "sweep_axes.h"
#include <stdio.h>
#include <string.h>

static enum mp_status not_a_range(const char *name, const char *text, const char *why, struct mp_error *err) {
    char shown[64];
    return mp_fail(err, MP_EUSAGE, "--%s: \"%s\" %s (write FIRST:LAST:STEP or A,B,C, for instance 0:64:8)", name,
                   mp_quote(text, strlen(text), shown, sizeof shown), why);
}

static enum mp_status add(struct sweep_axis *a, const char *text, uint64_t v, uint64_t low, uint64_t high,
                          struct mp_error *err) {
    char why[96];
    if (v < low || v > high) {
        snprintf(why, sizeof why, "leaves [%llu, %llu]", (unsigned long long)low, (unsigned long long)high);
        return not_a_range(a->name, text, why, err);
    }
    if (a->n > 0 && v <= a->value[a->n - 1])
        return not_a_range(a->name, text, "does not rise", err);
    if (a->n == SWEEP_VALUES_MAX)
        return not_a_range(a->name, text, "has more than 128 values", err);
    a->value[a->n++] = v;
    return MP_OK;
}

/* One part between commas: N, FIRST:LAST or FIRST:LAST:STEP. */
static enum mp_status add_part(struct sweep_axis *a, const char *text, const char *part, size_t size, uint64_t low,
                               uint64_t high, struct mp_error *err) {
    uint64_t v[3] = {0, 0, 1};
    int n = 0;
    for (const char *p = part, *end = part + size;; p++) {
        const char *colon = memchr(p, ':', (size_t)(end - p));
        size_t digits = (size_t)((colon != NULL ? colon : end) - p);
        if (n == 3 || !mp_parse_u64(p, digits, &v[n++]))
            return not_a_range(a->name, text, "is not a range", err);
        if (colon == NULL)
            break;
        p = colon;
    }
    if (n == 1)
        v[1] = v[0];
    if (v[2] == 0 || v[1] < v[0])
        return not_a_range(a->name, text, v[2] == 0 ? "has a step of 0" : "ends before it begins", err);
    for (uint64_t at = v[0];; at += v[2]) {
        enum mp_status status = add(a, text, at, low, high, err);
        if (status != MP_OK)
            return status;
        if (v[1] - at < v[2])
            return MP_OK;
    }
}

enum mp_status sweep_axes_of(struct sweep_axes *out, const struct opts *o, struct mp_error *err) {
    const struct {
        enum opt_id id;
        const char *text;
        uint64_t low, high;
    } from[SWEEP_AXES] = {{OPT_SWEEP_REDUNDANT, o->sweep_redundant, 0, MP_MAX_EXPERTS},
                          {OPT_SWEEP_BATCH, o->sweep_batch, 1, 1 << 20},
                          {OPT_SWEEP_GPUS, o->sweep_gpus, 1, MP_MAX_GPUS},
                          {OPT_SWEEP_NODES, o->sweep_nodes, 1, MP_MAX_GPUS}};
    *out = (struct sweep_axes){.along = SWEEP_AXES, .family = SWEEP_AXES};
    uint64_t n_points = 1;
    for (int k = 0; k < SWEEP_AXES; k++) {
        struct sweep_axis *a = &out->axis[k];
        a->name = opt_table[from[k].id].name;
        a->is_given = o->is_set[from[k].id];
        if (from[k].text == NULL)
            a->value[a->n++] = 0;
        for (const char *p = from[k].text; p != NULL;) {
            size_t n = strcspn(p, ",");
            enum mp_status status = add_part(a, from[k].text, p, n, from[k].low, from[k].high, err);
            if (status != MP_OK)
                return status;
            p = p[n] == ',' ? p + n + 1 : NULL;
        }
        n_points *= a->n;
        if (a->n < 2)
            continue;
        if (out->family != SWEEP_AXES)
            return mp_fail(err, MP_EUSAGE, "sweep: --%s is a third axis (give a range to at most two options)",
                           a->name);
        if (out->along == SWEEP_AXES)
            out->along = (enum sweep_axis_id)k;
        else
            out->family = (enum sweep_axis_id)k;
    }
    if (out->along == SWEEP_AXES)
        return mp_fail(err, MP_EUSAGE,
                       "sweep: over what? (give --redundant, --batch, --gpus or --nodes more than one value, for "
                       "instance --redundant 0:64:8)");
    if (n_points > SWEEP_POINTS_MAX)
        return mp_fail(err, MP_EUSAGE, "sweep: %llu points (sweep over at most %d)", (unsigned long long)n_points,
                       SWEEP_POINTS_MAX);
    return MP_OK;
}

/* "4x8:h100" or "8:h100": how many, and where the type begins. */
static bool read_short(const char *spec, uint64_t *nodes, uint64_t *per_node, const char **type) {
    size_t n = strspn(spec, "0123456789");
    *nodes = 1;
    if (!mp_parse_u64(spec, n, per_node))
        return false;
    spec += n;
    if (*spec == 'x') {
        *nodes = *per_node;
        n = strspn(++spec, "0123456789");
        if (!mp_parse_u64(spec, n, per_node))
            return false;
        spec += n;
    }
    *type = spec;
    return *spec == ':' && strchr(spec, '+') == NULL && *nodes > 0 && *per_node > 0;
}

enum mp_status sweep_topology(char *text, size_t size, bool *is_one, const char *topology, uint64_t gpus,
                              uint64_t nodes, struct mp_error *err) {
    uint64_t n_nodes, per_node;
    const char *type;
    *is_one = true;
    if (gpus == 0 && nodes == 0) {
        snprintf(text, size, "%s", topology);
        return MP_OK;
    }
    if (!read_short(topology, &n_nodes, &per_node, &type))
        return mp_fail(err, MP_EUSAGE,
                       "--%s: other sizes of \"%.80s\" cannot be made up (write TOPOLOGY as one kind of node, for "
                       "instance 2x8:h100)",
                       gpus > 0 ? "gpus" : "nodes", topology);
    if (nodes > 0)
        n_nodes = nodes;
    if (gpus > 0 && gpus % n_nodes != 0) {
        *is_one = false;
        snprintf(text, size, "%llu GPU%s cannot be shared out evenly over %llu nodes", (unsigned long long)gpus,
                 tool_s(gpus), (unsigned long long)n_nodes);
        return MP_OK;
    }
    if (gpus > 0)
        per_node = gpus / n_nodes;
    if (n_nodes > MP_MAX_GPUS / per_node) {
        *is_one = false;
        snprintf(text, size, "more than %u GPUs", MP_MAX_GPUS);
        return MP_OK;
    }
    if (n_nodes == 1)
        snprintf(text, size, "%llu%.200s", (unsigned long long)per_node, type);
    else
        snprintf(text, size, "%llux%llu%.200s", (unsigned long long)n_nodes, (unsigned long long)per_node, type);
    return MP_OK;
}
