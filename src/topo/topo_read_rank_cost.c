/* SGLang's rank_cost_matrix: what a token costs from rank to rank, without a unit.
 *
 * Decides   levels: ranks at the same cost or less are one group; rates in proportion.
 * Method    the cheapest pairs get the scale-up rate of the GPU, a pair of k times their cost 1/k of it. When the
 *           cheapest cost nothing, they get it, and the next the GPU's NIC rate.
 * Differs   costs that are not nested (rails) are refused: no tree has them. */
#include "topo_draft.h"
#include <math.h>
#include <moeplan/json.h>
#include <stdio.h>
#include <string.h>

static bool detect(const char *text, size_t size) {
    size_t i = 0;
    while (i < size && strchr(" \t\r\n", text[i]) != NULL && text[i] != '\0')
        i++;
    return i < size && text[i] == '{' && memmem(text, size, "\"rank_cost_matrix\"", 18) != NULL;
}

struct costs {
    const struct topo_source *in;
    uint32_t n, n_values;
    double values[MP_MAX_LEVELS]; /* ascending */
    uint8_t *distance;            /* [n * n] */
};

static enum mp_status fail(const struct costs *c, uint32_t row, uint32_t column, struct mp_error *err, const char *fmt,
                           ...) MP_PRINTF(5, 6);
static enum mp_status fail(const struct costs *c, uint32_t row, uint32_t column, struct mp_error *err, const char *fmt,
                           ...) {
    char where[64] = "rank_cost_matrix", text[500];
    uint64_t line = 0, at = 0;
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (row != MP_NONE && column == MP_NONE)
        snprintf(where, sizeof where, "rank_cost_matrix/%u", row);
    else if (row != MP_NONE)
        snprintf(where, sizeof where, "rank_cost_matrix/%u/%u", row, column);
    (void)mp_json_position(c->in->text, c->in->size, where, &line, &at);
    return mp_fail_at(err, MP_EINPUT, c->in->path, line, at, "%s: %s", where, text);
}

static double value(const json_t *matrix, uint32_t i, uint32_t k) {
    return json_number_value(json_array_get(json_array_get(matrix, i), k));
}

static enum mp_status check(const struct costs *c, const json_t *matrix, struct mp_error *err) {
    for (uint32_t i = 0; i < c->n; i++) {
        const json_t *row = json_array_get(matrix, i);
        if (!json_is_array(row) || json_array_size(row) != c->n)
            return fail(c, i, MP_NONE, err, "%zu entries in a row of a matrix of %u rows (write a square matrix)",
                        json_array_size(row), c->n);
        for (uint32_t k = 0; k < c->n; k++) {
            const json_t *v = json_array_get(row, k);
            if (!json_is_number(v))
                return fail(c, i, k, err, "is not a number (write a cost)");
            if (json_number_value(v) < 0)
                return fail(c, i, k, err, "%g is negative (write a cost of at least 0)", json_number_value(v));
            if (i == k && json_number_value(v) != 0)
                return fail(c, i, k, err, "%g from a rank to itself is not 0 (write 0)", json_number_value(v));
        }
    }
    for (uint32_t i = 0; i < c->n; i++)
        for (uint32_t k = 0; k < i; k++)
            if (value(matrix, i, k) != value(matrix, k, i))
                return fail(
                    c, i, k, err,
                    "%g here and %g from rank %u to rank %u: a level has one rate for both ways (write the same)",
                    value(matrix, i, k), value(matrix, k, i), k, i);
    return MP_OK;
}

/* The different costs, ascending, and each pair's place among them. */
static enum mp_status rank_values(struct costs *c, const json_t *matrix, uint32_t n_max, struct mp_error *err) {
    for (uint32_t i = 0; i < c->n; i++)
        for (uint32_t k = 0; k < i; k++) {
            const double v = value(matrix, i, k);
            uint32_t at = 0;
            while (at < c->n_values && c->values[at] < v)
                at++;
            if (at < c->n_values && c->values[at] == v)
                continue;
            if (c->n_values == n_max)
                return fail(c, i, k, err,
                            "%g is one more than %u different costs, and there are at most %u levels (write costs that "
                            "are nearly equal as equal)",
                            v, n_max, n_max);
            memmove(&c->values[at + 1], &c->values[at], (c->n_values - at) * sizeof *c->values);
            c->values[at] = v;
            c->n_values++;
        }
    for (uint32_t i = 0; i < c->n; i++)
        for (uint32_t k = 0; k < c->n; k++)
            while (i != k && c->values[c->distance[(size_t)i * c->n + k]] < value(matrix, i, k))
                c->distance[(size_t)i * c->n + k]++;
    return MP_OK;
}

static enum mp_status set_levels(struct topo_draft *d, const struct costs *c, struct mp_error *err) {
    static const char *const tiers[] = {"", "tier1", "tier2", "tier3"};
    const double first = c->values[0] > 0 ? c->values[0] : c->values[1];
    const uint64_t base = c->values[0] > 0 ? d->ports.scale_up_bytes_per_s : d->ports.nic_bytes_per_s;
    topo_draft_say(
        d,
        "Read from a rank_cost_matrix of SGLang, whose costs have no unit: cost %g is taken as %.6g GB/s (%s "
        "of %s), others in proportion; latencies of the same preset.",
        first, (double)base / 1e9, c->values[0] > 0 ? d->ports.level : "the NIC", d->gpu_name);
    for (uint32_t l = 0; l < d->n_levels; l++) {
        const double rate =
            c->values[l] > 0 ? (double)base * (first / c->values[l]) : (double)d->ports.scale_up_bytes_per_s;
        if (!(rate >= 1) || rate > (double)TOPO_RATE_MAX)
            return fail(c, MP_NONE, MP_NONE, err,
                        "a cost of %g beside one of %g would be %g B/s (write costs that are nearer to each other)",
                        c->values[l], first, rate);
        d->levels[l] =
            (struct topo_draft_level){.name = l == 0 ? d->ports.level : tiers[l],
                                      .latency_ns = l == 0 ? d->ports.scale_up_latency_ns : d->ports.nic_latency_ns};
        topo_draft_port(d, l, (uint64_t)llround(rate));
        topo_draft_say(d, "%s: cost %g, %.6g GB/s.", d->levels[l].name, c->values[l], rate / 1e9);
    }
    return MP_OK;
}

static enum mp_status find_groups(struct topo_draft *d, const struct costs *c, struct mp_error *err) {
    uint32_t at[3], *group = mp_arena_alloc(d->arena, (size_t)c->n * MP_MAX_LEVELS, sizeof *group);
    char order[300];
    if (group == NULL)
        return mp_nomem(err, "reading a topology");
    struct topo_nest nest = {.n = c->n, .n_levels = d->n_levels, .group = group};
#define COST(a, b) c->values[c->distance[(size_t)at[a] * c->n + at[b]]]
    switch (topo_nest_find(&nest, c->distance, at)) {
    case TOPO_NEST_BROKEN:
        return fail(
            c, at[0], at[2], err,
            "%g, but rank %u to %u costs %g and %u to %u costs %g: no tree of groups has that (write costs that "
            "are nested)",
            COST(0, 2), at[0], at[1], COST(0, 1), at[1], at[2], COST(1, 2));
    case TOPO_NEST_SCATTERED:
        return fail(
            c, at[0], at[2], err,
            "ranks %u and %u are near each other (%g) and rank %u between them is not (number the ranks group by "
            "group: %s)",
            at[0], at[2], COST(0, 2), at[1], topo_nest_order(&nest, order, sizeof order));
    case TOPO_NEST_OK:
        break;
    }
#undef COST
    for (uint32_t l = 0; l < d->n_levels; l++)
        for (uint32_t g = 0; g < c->n; g++)
            d->gpus[g].group[l] = group[(size_t)l * c->n + g];
    return MP_OK;
}

static enum mp_status read_rank_cost(const struct topo_source *in, struct mp_out *yaml, struct mp_error *err) {
    enum mp_status status;
    struct topo_draft *d = NULL;
    struct costs c = {.in = in};
    json_t *root = NULL;
    MP_TRY(topo_draft_new(&d, in, "which GPUs the ranks have", err));
    MP_TRY(mp_json_parse(&root, in->path, in->text, in->size, 1, NULL, err));
    const json_t *matrix = json_object_get(root, "rank_cost_matrix");
    if (!json_is_array(matrix) || json_array_size(matrix) == 0 || json_array_size(matrix) > MP_MAX_GPUS) {
        status = fail(&c, MP_NONE, MP_NONE, err, "is not a list of 1 to %u rows (write a square matrix)", MP_MAX_GPUS);
        goto out;
    }
    c.n = (uint32_t)json_array_size(matrix);
    c.distance = mp_arena_alloc(d->arena, (size_t)c.n * c.n, 1);
    if (c.distance == NULL) {
        status = mp_nomem(err, "reading a topology");
        goto out;
    }
    MP_TRY(check(&c, matrix, err));
    MP_TRY(rank_values(&c, matrix, in->n_hosts > 1 ? MP_MAX_LEVELS - 1 : MP_MAX_LEVELS, err));
    if (c.n_values == 0)
        c.values[c.n_values++] = 1; /* one rank: nothing has a cost */
    MP_TRY(topo_draft_gpus(d, c.n, 1, err));
    d->n_levels = c.n_values;
    MP_TRY(find_groups(d, &c, err));
    if (c.n_values == 1 && c.values[0] == 0)
        c.values[1] = 1; /* all is free: the scale-up rate; no other is used */
    MP_TRY(set_levels(d, &c, err));
    (void)topo_draft_network(d);
    topo_draft_write(d, yaml);
out:
    json_decref(root);
    topo_draft_free(d);
    return status;
}

const struct topo_reader topo_reader_rank_cost = {
    .name = "rank-cost-matrix",
    .summary = "SGLang's rank_cost_matrix (JSON): levels by equal costs, rates in proportion (needs :GPU)",
    .reference = "sgl-project/sglang PR 37923, --eplb-topology",
    .detect = detect,
    .read = read_rank_cost,
};
