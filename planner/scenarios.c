/* What several kinds of traffic come from: other recordings of the model, or groups of one recording's categories.
 *
 * Decides   which categories make one scenario.
 * Minimises the distance of the categories' expert shares from those of their group.
 * Method    Lloyd's from centres that are chosen one by one, each the category farthest from those before (the first is
 *           the one farthest from the whole); squared differences of shares over all layers. Ties: the earlier one.
 * Bound     none.
 * Paper     S. P. Lloyd, IEEE Trans. Inf. Theory 28(2), 1982; T. Gonzalez, Theor. Comput. Sci. 38, 1985 for the start.
 * Differs   a group that loses all its categories is left out.
 * Cost      O(rounds * groups * categories * layers * experts) */
#include "planner.h"
#include <moeplan/base.h>
#include <moeplan/robust.h>
#include <stdio.h>
#include <string.h>

#define ROUNDS 16

/* ---- several recordings ---- */

static const char *difference(const struct mp_trace *a, const struct mp_trace *b) {
    bool same = a->n_layers == b->n_layers;
    for (uint32_t l = 0; same && l < a->n_layers; l++)
        same = a->layer_ids[l] == b->layer_ids[l];
    if (a->kind != b->kind)
        return "tokens and counts do not mix";
    if (a->n_experts != b->n_experts)
        return "another number of experts";
    if (!same)
        return "other layers";
    if (a->kind == MP_TRACE_TOKENS && a->top_k != b->top_k)
        return "another top-k";
    if (a->kind == MP_TRACE_COUNTS && (a->n_sources != b->n_sources || a->source_known != b->source_known))
        return "counts of other source ranks";
    return NULL;
}

static enum mp_status add_tokens(struct mp_trace_builder *b, const struct mp_trace *t, uint16_t *ids,
                                 struct mp_error *err) {
    for (uint64_t r = 0; r < t->n_requests; r++) {
        struct mp_request request = t->requests[r];
        request.category = MP_NONE;
        enum mp_status status = mp_trace_builder_request(b, &request, err);
        for (uint64_t row = 0; row < request.n_rows && status == MP_OK; row++) {
            for (uint32_t l = 0; l < t->n_layers; l++)
                (void)mp_trace_row(t, l, t->requests[r].first_row + row, ids + (size_t)l * t->top_k);
            status = mp_trace_builder_row(b, ids, NULL, err);
        }
        if (status != MP_OK)
            return status;
    }
    return MP_OK;
}

static enum mp_status add_counts(struct mp_trace_builder *b, const struct mp_trace *t, struct mp_error *err) {
    const uint64_t *count = t->counts;
    for (uint32_t i = 0; i < t->n_iterations; i++) {
        enum mp_status status = mp_trace_builder_iteration(b, MP_NONE, err);
        for (uint32_t s = 0; s < t->n_sources; s++)
            for (uint32_t l = 0; l < t->n_layers; l++)
                for (uint32_t e = 0; e < t->n_experts && status == MP_OK; e++, count++)
                    status = *count > 0 ? mp_trace_builder_count(b, s, l, e, *count, err) : MP_OK;
        if (status != MP_OK)
            return status;
    }
    return MP_OK;
}

enum mp_status mp_traces_join(struct mp_trace **out, uint32_t *first_member, const struct mp_trace *const *traces,
                              const char *const *paths, uint32_t n, const struct mp_limits *limits,
                              struct mp_error *err) {
    const struct mp_trace *a = traces[0];
    struct mp_trace_builder *b = NULL;
    enum mp_status status = MP_OK;
    uint64_t members = 0;
    *out = NULL;
    for (uint32_t i = 0; i < n; i++) {
        const char *what = difference(a, traces[i]);
        if (what != NULL)
            return mp_fail_at(err, MP_EINPUT, paths[i], 0, 0,
                              "%s: %u layers of %u experts here, %u of %u in %.200s (give recordings of one model)",
                              what, traces[i]->n_layers, traces[i]->n_experts, a->n_layers, a->n_experts, paths[0]);
        first_member[i] = (uint32_t)members;
        members += a->kind == MP_TRACE_COUNTS ? traces[i]->n_iterations : traces[i]->n_requests;
        if (members > UINT32_MAX)
            return mp_fail_at(err, MP_ELIMIT, paths[i], 0, 0, "the recordings have over 4,294,967,295 requests");
    }
    const struct mp_trace_meta meta = {.kind = a->kind,
                                       .phase = a->phase,
                                       .model = a->model,
                                       .format = a->format,
                                       .is_synthetic = a->is_synthetic,
                                       .is_ranked = a->is_ranked,
                                       .is_time_ordered = a->is_time_ordered,
                                       .n_layers = a->n_layers,
                                       .n_experts = a->n_experts,
                                       .top_k = a->top_k,
                                       .layer_ids = a->layer_ids,
                                       .n_sources = a->source_known || a->n_sources > 1 ? a->n_sources : 0,
                                       .has_unused = true};
    uint16_t *ids = mp_calloc((size_t)a->n_layers * (a->top_k > 0 ? a->top_k : 1), sizeof *ids);
    if (ids == NULL)
        return mp_nomem(err, "joining recordings");
    MP_TRY(mp_trace_builder_new(&b, &meta, limits, err));
    for (uint32_t i = 0; i < n; i++)
        MP_TRY(a->kind == MP_TRACE_COUNTS ? add_counts(b, traces[i], err) : add_tokens(b, traces[i], ids, err));
    status = mp_trace_builder_finish(b, NULL, out, err);
    b = NULL;
out:
    mp_trace_builder_free(b);
    mp_free(ids);
    return status;
}

/* ---- groups of categories ---- */

struct groups {
    const struct mp_trace *trace;
    uint32_t n_categories, n_cells; /* categories that have members; cells: layers x experts */
    uint32_t *of_category;          /* [trace's + 1] index among those, or MP_NONE */
    uint32_t *name;                 /* [n_categories] index in the trace; its number of categories = none */
    double *share, *centre;         /* [n_categories], [groups] x [n_cells] */
    uint32_t *group;                /* [n_categories] */
};

static uint32_t category_of(const struct mp_trace *t, uint32_t member) {
    uint32_t c = t->kind == MP_TRACE_TOKENS      ? t->requests[member].category
                 : t->iteration_category != NULL ? t->iteration_category[member]
                                                 : MP_NONE;
    return c < t->n_categories ? c : t->n_categories;
}

static void add_load(const struct mp_trace *t, uint32_t member, double *load, uint16_t *ids) {
    if (t->kind == MP_TRACE_COUNTS) {
        const size_t cells = (size_t)t->n_layers * t->n_experts;
        const uint64_t *count = t->counts + member * cells * t->n_sources;
        for (size_t i = 0; i < cells * t->n_sources; i++)
            load[i % cells] += (double)count[i];
        return;
    }
    for (uint64_t row = 0; row < t->requests[member].n_rows; row++)
        for (uint32_t l = 0; l < t->n_layers; l++) {
            const uint32_t used = mp_trace_row(t, l, t->requests[member].first_row + row, ids);
            for (uint32_t k = 0; k < used; k++)
                load[(size_t)l * t->n_experts + ids[k]] += 1;
        }
}

static double distance(const double *a, const double *b, uint32_t n) {
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += (a[i] - b[i]) * (a[i] - b[i]);
    return sum;
}

static void to_shares(double *load, uint32_t n_layers, uint32_t n_experts) {
    for (uint32_t l = 0; l < n_layers; l++) {
        double sum = 0;
        for (uint32_t e = 0; e < n_experts; e++)
            sum += load[(size_t)l * n_experts + e];
        for (uint32_t e = 0; e < n_experts && sum > 0; e++)
            load[(size_t)l * n_experts + e] /= sum;
    }
}

/* Each category to its nearest centre; is anything new? */
static bool assign(struct groups *g, uint32_t n) {
    bool is_new = false;
    for (uint32_t c = 0; c < g->n_categories; c++) {
        const double *own = g->share + (size_t)c * g->n_cells;
        uint32_t best = 0;
        double least = distance(own, g->centre, g->n_cells);
        for (uint32_t k = 1; k < n; k++) {
            const double d = distance(own, g->centre + (size_t)k * g->n_cells, g->n_cells);
            best = d < least ? k : best;
            least = d < least ? d : least;
        }
        is_new |= g->group[c] != best;
        g->group[c] = best;
    }
    return is_new;
}

static void centre(struct groups *g, uint32_t n) {
    for (uint32_t k = 0; k < n; k++) {
        double *to = g->centre + (size_t)k * g->n_cells;
        uint32_t size = 0;
        for (uint32_t c = 0; c < g->n_categories; c++)
            size += g->group[c] == k;
        if (size == 0)
            continue;
        memset(to, 0, g->n_cells * sizeof *to);
        for (uint32_t c = 0; c < g->n_categories; c++)
            for (uint32_t i = 0; g->group[c] == k && i < g->n_cells; i++)
                to[i] += g->share[(size_t)c * g->n_cells + i] / size;
    }
}

static void group(struct groups *g, uint32_t n) {
    memset(g->group, 0, g->n_categories * sizeof *g->group);
    centre(g, 1);
    for (uint32_t k = 0; k < n; k++) {
        uint32_t farthest = 0;
        double most = -1;
        for (uint32_t c = 0; c < g->n_categories; c++) {
            const double d =
                distance(g->share + (size_t)c * g->n_cells, g->centre + (size_t)g->group[c] * g->n_cells, g->n_cells);
            farthest = d > most ? c : farthest;
            most = d > most ? d : most;
        }
        memcpy(g->centre + (size_t)k * g->n_cells, g->share + (size_t)farthest * g->n_cells,
               g->n_cells * sizeof *g->centre);
        (void)assign(g, k + 1);
    }
    for (int round = 0; round < ROUNDS; round++) {
        centre(g, n);
        if (!assign(g, n))
            break;
    }
}

/* Which categories the part has, and the shares of each one's experts. */
static enum mp_status measure(struct groups *g, const struct mp_part *part, struct mp_arena *arena,
                              struct mp_error *err) {
    const struct mp_trace *t = part->trace;
    uint16_t *ids = mp_arena_alloc(arena, t->top_k > 0 ? t->top_k : 1, sizeof *ids);
    g->of_category = mp_arena_alloc(arena, (size_t)t->n_categories + 1, sizeof *g->of_category);
    g->name = mp_arena_alloc(arena, (size_t)t->n_categories + 1, sizeof *g->name);
    if (ids == NULL || g->of_category == NULL || g->name == NULL)
        return mp_nomem(err, "grouping categories");
    memset(g->of_category, 0xff, ((size_t)t->n_categories + 1) * sizeof *g->of_category);
    for (uint32_t m = 0; m < part->n; m++)
        g->of_category[category_of(t, part->members[m])] = 0;
    for (uint32_t c = 0; c <= t->n_categories; c++)
        if (g->of_category[c] == 0) {
            g->name[g->n_categories] = c;
            g->of_category[c] = g->n_categories++;
        }
    if (g->n_categories < 2)
        return mp_fail(err, MP_EINPUT,
                       "--robust categories: the requests that are planned on are of %u categor%s (give other "
                       "recordings: --robust TRACE2)",
                       t->n_categories == 0 ? 0 : g->n_categories, t->n_categories == 0 ? "ies" : "y");
    g->n_cells = t->n_layers * t->n_experts;
    g->share = mp_arena_alloc(arena, (size_t)g->n_categories * g->n_cells, sizeof *g->share);
    g->group = mp_arena_alloc(arena, g->n_categories, sizeof *g->group);
    if (g->share == NULL || g->group == NULL)
        return mp_nomem(err, "grouping categories");
    for (uint32_t m = 0; m < part->n; m++)
        add_load(t, part->members[m], g->share + (size_t)g->of_category[category_of(t, part->members[m])] * g->n_cells,
                 ids);
    for (uint32_t c = 0; c < g->n_categories; c++)
        to_shares(g->share + (size_t)c * g->n_cells, t->n_layers, t->n_experts);
    return MP_OK;
}

static enum mp_status name_of(const char **out, const struct groups *g, uint32_t k, struct mp_arena *arena,
                              struct mp_error *err) {
    size_t size = 1;
    for (uint32_t c = 0; c < g->n_categories; c++)
        size += g->name[c] < g->trace->n_categories ? strlen(g->trace->categories[g->name[c]]) + 2 : 16;
    char *text = mp_arena_alloc(arena, size, 1);
    if (text == NULL)
        return mp_nomem(err, "grouping categories");
    size_t used = 0;
    for (uint32_t c = 0; c < g->n_categories; c++)
        if (g->group[c] == k)
            used += (size_t)snprintf(text + used, size - used, "%s%s", used > 0 ? "," : "",
                                     g->name[c] < g->trace->n_categories ? g->trace->categories[g->name[c]]
                                                                         : "no category");
    *out = text;
    return MP_OK;
}

enum mp_status mp_part_groups(struct mp_part *parts, const char **names, uint32_t *n, const struct mp_part *part,
                              struct mp_arena *arena, struct mp_error *err) {
    struct groups g = {.trace = part->trace};
    struct mp_arena *own = mp_arena_new();
    uint32_t wanted = *n, n_made = 0;
    enum mp_status status = MP_OK;
    *n = 0;
    if (own == NULL)
        return mp_nomem(err, "grouping categories");
    MP_TRY(measure(&g, part, own, err));
    wanted = wanted < g.n_categories ? wanted : g.n_categories;
    g.centre = mp_arena_alloc(own, (size_t)wanted * g.n_cells, sizeof *g.centre);
    if (g.centre == NULL) {
        status = mp_nomem(err, "grouping categories");
        goto out;
    }
    group(&g, wanted);
    for (uint32_t k = 0; k < wanted; k++) {
        struct mp_part *to = &parts[n_made];
        *to = (struct mp_part){.trace = part->trace, .members = mp_calloc(part->n, sizeof *to->members)};
        if (to->members == NULL) {
            status = mp_nomem(err, "grouping categories");
            goto out;
        }
        for (uint32_t m = 0; m < part->n; m++)
            if (g.group[g.of_category[category_of(part->trace, part->members[m])]] == k)
                to->members[to->n++] = part->members[m];
        if (to->n == 0) {
            mp_part_free(to);
            continue;
        }
        n_made++;
        MP_TRY(name_of(&names[n_made - 1], &g, k, arena, err));
    }
    *n = n_made;
out:
    for (uint32_t k = 0; status != MP_OK && k < n_made; k++)
        mp_part_free(&parts[k]);
    mp_arena_free(own);
    return status;
}
