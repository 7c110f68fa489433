/* Counts as comma-separated text, in two shapes: a line per cell (layer,expert,count) or a line per row of experts
 * (layer,e0,e1,...), each with an optional source rank, iteration and category. Columns are found by name, lines may
 * stand in any order: the keys are read and sorted first, then the counts are read in that order, so no table of counts
 * is held beside the trace. */
#include "csv_text.h"
#include "trace_describe.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum key { KEY_LAYER, KEY_RANK, KEY_ITERATION, KEY_CATEGORY, KEY_EXPERT, KEY_COUNT, N_KEYS };
static const char *const aliases[N_KEYS][4] = {
    [KEY_LAYER] = {"layer", "layer_id", "layer_idx", NULL}, [KEY_RANK] = {"rank", "source", NULL},
    [KEY_ITERATION] = {"iteration", "step", NULL},          [KEY_CATEGORY] = {"category", "dataset", "domain", NULL},
    [KEY_EXPERT] = {"expert", "expert_id", NULL},           [KEY_COUNT] = {"count", NULL},
};

struct line {
    uint32_t group; /* iterations are sorted by this, then by number: the category, or 0 where they are described */
    uint32_t category, source, layer, expert; /* expert 0 in the wide shape */
    uint64_t iteration, number;
    const char *text;
};

struct reader {
    struct csv_text csv;
    uint32_t column[N_KEYS]; /* MP_NONE = not there */
    uint32_t n_wide;         /* experts of the wide shape; 0 = long */
    uint32_t *wide;          /* [n_wide] column of expert e */
    struct line *lines;
    uint64_t n, room;
    struct trace_names categories;
    struct trace_described described;
};

/* "e12" or "12" as 12. */
static bool expert_column(const struct csv_field *f, uint64_t *e) {
    bool has_letter = f->n > 1 && f->text[0] == 'e';
    return mp_parse_u64(f->text + has_letter, f->n - has_letter, e) && *e < MP_MAX_EXPERTS;
}

static int probe(const char *path, const struct mp_in *in) {
    if (in == NULL)
        return 0;
    const char *text = (const char *)in->data, *end = text + (in->size < 65536 ? in->size : 65536),
               *stop = memchr(text, '\n', (size_t)(end - text));
    if (stop != NULL && *text == '#') { /* the line that describes it */
        text = stop + 1;
        stop = memchr(text, '\n', (size_t)(end - text));
    }
    bool has_layer = false, has_count = false, has_wide = false;
    for (const char *p = text; p < (stop != NULL ? stop : end);) {
        const char *line_end = stop != NULL ? stop : end, *comma = memchr(p, ',', (size_t)(line_end - p));
        const char *field_end = comma != NULL ? comma : line_end;
        if (comma == NULL && field_end > p && field_end[-1] == '\r')
            field_end--;
        struct csv_field f = {p, (size_t)(field_end - p)};
        for (int i = 0; aliases[KEY_LAYER][i] != NULL; i++)
            has_layer |= csv_is(&f, aliases[KEY_LAYER][i]);
        has_count |= csv_is(&f, "count");
        has_wide |= csv_is(&f, "e0") || csv_is(&f, "0");
        p = comma != NULL ? comma + 1 : line_end;
    }
    if (has_layer && (has_count || has_wide))
        return 80;
    size_t n = strlen(path);
    return n > 4 && strcmp(path + n - 4, ".csv") == 0 ? 2 : 0;
}

static enum mp_status find_columns(struct reader *r, struct mp_error *err) {
    struct csv_text *c = &r->csv;
    uint64_t e, n_wide = 0;
    char quoted[128];
    for (int k = 0; k < N_KEYS; k++) {
        r->column[k] = MP_NONE;
        for (int i = 0; aliases[k][i] != NULL && r->column[k] == MP_NONE; i++)
            r->column[k] = csv_column(c, aliases[k][i]);
    }
    for (uint32_t i = 0; i < c->n_names; i++)
        if (expert_column(&c->names[i], &e))
            n_wide++;
    bool is_long = r->column[KEY_EXPERT] != MP_NONE && r->column[KEY_COUNT] != MP_NONE;
    if (r->column[KEY_LAYER] == MP_NONE)
        return mp_fail_at(
            err, MP_EINPUT, c->path, 1, 1,
            "the header has no column layer (write layer,expert,count or [rank,]layer,[iteration,]e0,e1,...)");
    if (!is_long && n_wide == 0)
        return mp_fail_at(err, MP_EINPUT, c->path, 1, 1,
                          "the header has neither expert and count nor e0,e1,... (write layer,expert,count or "
                          "[rank,]layer,[iteration,]e0,e1,...)");
    if (is_long && n_wide > 0)
        return mp_fail_at(err, MP_EINPUT, c->path, 1, 1,
                          "the header has both expert and count and a column per expert (keep one of them)");
    if (is_long)
        return MP_OK;
    r->wide = mp_calloc(n_wide, sizeof *r->wide);
    if (r->wide == NULL)
        return mp_nomem(err, c->path);
    r->n_wide = (uint32_t)n_wide;
    memset(r->wide, 0xff, n_wide * sizeof *r->wide);
    for (uint32_t i = 0; i < c->n_names; i++) {
        if (!expert_column(&c->names[i], &e))
            continue;
        uint64_t at = (uint64_t)(c->names[i].text - c->line_text) + 1;
        if (e >= n_wide)
            return mp_fail_at(
                err, MP_EINPUT, c->path, 1, at,
                "column \"%s\" cannot be one of %llu expert columns (write a column for each expert from 0)",
                mp_quote(c->names[i].text, c->names[i].n, quoted, sizeof quoted), (unsigned long long)n_wide);
        if (r->wide[e] != MP_NONE)
            return mp_fail_at(err, MP_EINPUT, c->path, 1, at, "column \"%s\" is there twice",
                              mp_quote(c->names[i].text, c->names[i].n, quoted, sizeof quoted));
        r->wide[e] = i;
    }
    return MP_OK;
}

/* One line's keys. */
static enum mp_status read_keys(struct reader *r, const struct mp_limits *limits, struct mp_error *err) {
    struct csv_text *c = &r->csv;
    struct line l = {.category = MP_NONE, .number = c->line, .text = c->line_text};
    uint64_t v;
    enum mp_status status;
    if ((status = csv_u64(c, r->column[KEY_LAYER], 0, MP_MAX_LAYERS - 1, &v, err)) != MP_OK)
        return status;
    l.layer = (uint32_t)v;
    if (r->column[KEY_RANK] != MP_NONE) {
        if ((status = csv_u64(c, r->column[KEY_RANK], 0, MP_MAX_GPUS - 1, &v, err)) != MP_OK)
            return status;
        l.source = (uint32_t)v;
    }
    if (r->column[KEY_ITERATION] != MP_NONE &&
        (status = csv_u64(c, r->column[KEY_ITERATION], 0, UINT64_MAX, &l.iteration, err)) != MP_OK)
        return status;
    if (r->column[KEY_CATEGORY] != MP_NONE && c->fields[r->column[KEY_CATEGORY]].n > 0) {
        char name[MP_MAX_NAME + 1];
        struct mp_error inner = {0};
        if ((status = csv_name(c, r->column[KEY_CATEGORY], name, err)) != MP_OK)
            return status;
        if ((status = trace_names_find(&r->categories, name, &l.category, &inner)) != MP_OK)
            return trace_fail_at(err, &inner, c->path, c->line, csv_at(c, r->column[KEY_CATEGORY]));
    }
    if (r->n_wide == 0) {
        if ((status = csv_u64(c, r->column[KEY_EXPERT], 0, MP_MAX_EXPERTS - 1, &v, err)) != MP_OK)
            return status;
        l.expert = (uint32_t)v;
    }
    if (r->n == r->room) {
        uint64_t room = r->room == 0 ? 256 : r->room * 2;
        if (limits->memory_bytes != 0 && room > limits->memory_bytes / sizeof l)
            return mp_fail_at(err, MP_ELIMIT, c->path, c->line, 1,
                              "the lines do not fit the memory limit of %llu bytes",
                              (unsigned long long)limits->memory_bytes);
        struct line *grown = mp_realloc(r->lines, room, sizeof *grown);
        if (grown == NULL)
            return mp_nomem(err, c->path);
        r->lines = grown;
        r->room = room;
    }
    r->lines[r->n++] = l;
    return MP_OK;
}

#define ORDER(a, b) ((a) < (b) ? -1 : (a) > (b))
static int compare_iteration(const struct line *a, const struct line *b) {
    int by = ORDER(a->group, b->group);
    return by != 0 ? by : ORDER(a->iteration, b->iteration);
}
static int compare_cell(const struct line *a, const struct line *b) {
    int by = compare_iteration(a, b);
    if (by == 0)
        by = ORDER(a->source, b->source);
    if (by == 0)
        by = ORDER(a->layer, b->layer);
    return by != 0 ? by : ORDER(a->expert, b->expert);
}
static int compare_lines(const void *pa, const void *pb) {
    const struct line *a = pa, *b = pb;
    int by = compare_cell(a, b);
    return by != 0 ? by : ORDER(a->number, b->number);
}
static int compare_names(const void *pa, const void *pb) {
    return strcmp(*(const char *const *)pa, *(const char *const *)pb);
}

/* Categories by name and lines by key, so that the trace does not depend on the order of the lines. */
static enum mp_status sort_all(struct reader *r, struct mp_error *err) {
    uint32_t n_names = r->described.is_there ? 0 : r->categories.n;
    if (n_names > 0) {
        const char **names = r->categories.names, **sorted = mp_calloc(n_names, sizeof *sorted);
        uint32_t *place = mp_calloc(n_names, sizeof *place);
        if (sorted == NULL || place == NULL) {
            mp_free(sorted);
            mp_free(place);
            return mp_nomem(err, "categories");
        }
        memcpy(sorted, names, n_names * sizeof *sorted);
        qsort(sorted, n_names, sizeof *sorted, compare_names); /* names are distinct */
        for (uint32_t i = 0; i < n_names; i++) {
            const char **found = bsearch(&names[i], sorted, n_names, sizeof *sorted, compare_names);
            place[i] = (uint32_t)(found - sorted);
        }
        for (uint64_t i = 0; i < r->n; i++)
            if (r->lines[i].category != MP_NONE)
                r->lines[i].category = place[r->lines[i].category];
        memcpy(names, sorted, n_names * sizeof *sorted);
        mp_free(sorted);
        mp_free(place);
    }
    for (uint64_t i = 0; i < r->n; i++)
        r->lines[i].group = r->described.is_there ? 0 : r->lines[i].category + 1; /* no category first */
    qsort(r->lines, r->n, sizeof *r->lines, compare_lines);
    for (uint64_t i = 1; i < r->n; i++)
        if (compare_iteration(&r->lines[i - 1], &r->lines[i]) == 0 && r->lines[i].category != r->lines[i - 1].category)
            return mp_fail_at(err, MP_EINPUT, r->csv.path, r->lines[i].number, 1,
                              "iteration %llu has another category than on line %llu",
                              (unsigned long long)r->lines[i].iteration, (unsigned long long)r->lines[i - 1].number);
    for (uint64_t i = 1; i < r->n; i++)
        if (compare_cell(&r->lines[i - 1], &r->lines[i]) == 0)
            return mp_fail_at(err, MP_EINPUT, r->csv.path, r->lines[i].number, 1,
                              "the line has the same rank, layer, iteration%s as line %llu",
                              r->n_wide == 0 ? " and expert" : " and category",
                              (unsigned long long)r->lines[i - 1].number);
    return MP_OK;
}

/* Reads one line again, for its counts. */
static enum mp_status read_again(struct csv_text *c, const struct line *l, struct mp_error *err) {
    bool more;
    c->at = l->text;
    c->line = l->number - 1;
    return csv_next(c, &more, err);
}

static enum mp_status add_line(struct mp_trace_builder *b, struct reader *r, const struct line *l, uint32_t layer,
                               uint32_t n_experts, const struct trace_map *map, struct mp_error *err) {
    enum mp_status status = read_again(&r->csv, l, err);
    uint64_t v;
    uint32_t n = r->n_wide == 0 ? 1 : r->n_wide;
    for (uint32_t i = 0; i < n && status == MP_OK; i++) {
        uint32_t expert = r->n_wide == 0 ? l->expert : i, column = r->n_wide == 0 ? r->column[KEY_COUNT] : r->wide[i];
        if ((status = csv_u64(&r->csv, column, 0, MP_MAX_TOKENS, &v, err)) != MP_OK)
            break;
        if (map->logical != NULL)
            expert = expert < map->n_physical ? map->logical[(size_t)layer * map->n_physical + expert] : MP_NONE;
        if (expert >= n_experts)
            return mp_fail_at(err, MP_EINPUT, r->csv.path, l->number, csv_at(&r->csv, r->column[KEY_EXPERT]),
                              "expert: %u is not in [0, %u) (is --experts right?)", l->expert,
                              map->logical != NULL ? map->n_physical : n_experts);
        struct mp_error inner = {0};
        if ((status = mp_trace_builder_count(b, l->source, layer, expert, v, &inner)) != MP_OK)
            (void)trace_fail_at(err, &inner, r->csv.path, l->number, csv_at(&r->csv, column));
    }
    return status;
}

/* The wide shape must have every (rank, layer) of every iteration: a missing line is more likely lost than zero. */
static enum mp_status check_complete(const struct reader *r, const uint32_t *layer_of, uint32_t n_layers,
                                     uint32_t n_sources, struct mp_error *err) {
    uint64_t i = 0;
    while (i < r->n) {
        const struct line *first = &r->lines[i];
        for (uint32_t s = 0; s < n_sources; s++)
            for (uint32_t l = 0; l < n_layers; l++, i++)
                if (i == r->n || compare_iteration(first, &r->lines[i]) != 0 || r->lines[i].source != s ||
                    layer_of[r->lines[i].layer] != l) {
                    uint32_t id = 0;
                    while (layer_of[id] != l)
                        id++;
                    const char *category = first->category != MP_NONE ? r->categories.names[first->category] : "";
                    return mp_fail_at(err, MP_EINPUT, r->csv.path, first->number, 1,
                                      "there is no line for rank %u, layer %u in iteration %llu%s%s (every rank needs "
                                      "every layer; write zeros)",
                                      s, id, (unsigned long long)first->iteration, category[0] != '\0' ? " of " : "",
                                      category);
                }
    }
    return MP_OK;
}

static enum mp_status read_csv(struct mp_trace **out, const char *path, struct mp_in *in, bool *keep_in,
                               const struct mp_trace_hints *given, const struct mp_limits *limits,
                               struct mp_error *err) {
    (void)keep_in;
    *out = NULL;
    struct reader r = {0};
    struct mp_trace_hints settled = *given, *hints = &settled;
    struct trace_map map = {0};
    struct mp_trace_builder *b = NULL;
    uint32_t layer_of[MP_MAX_LAYERS], layer_ids[MP_MAX_LAYERS], n_layers = 0, n_sources = 0;
    bool more, any_category = false, any_iteration = false;
    enum mp_status status = csv_open(&r.csv, in, limits, err);
    if (status != MP_OK)
        return status;
    trace_described_clear(&r.described);
    if (r.csv.comment.text != NULL) {
        MP_TRY(trace_describe_parse(&r.described, r.csv.comment.text, r.csv.comment.n, path, 1, limits, err));
        MP_TRY(trace_describe_settle(&settled, &r.described, path, err));
        MP_TRY(trace_describe_categories(&r.described, &r.categories, err));
    }
    MP_TRY(find_columns(&r, err));
    MP_TRY(trace_ask(path, "csv",
                     (struct trace_needs){.layer_base = true,
                                          .phase = !r.described.is_phase_unknown,
                                          .ids = true,
                                          .experts = r.n_wide == 0 && hints->ids_are_physical != 1},
                     hints, err));
    for (;;) {
        MP_TRY(csv_next(&r.csv, &more, err));
        if (!more)
            break;
        MP_TRY(read_keys(&r, limits, err));
    }
    if (r.n == 0) {
        status = mp_fail_at(err, MP_EINPUT, path, 1, 1, "no line follows the header");
        goto out;
    }
    MP_TRY(sort_all(&r, err));
    memset(layer_of, 0xff, sizeof layer_of);
    for (uint64_t i = 0; i < r.n; i++) {
        layer_of[r.lines[i].layer] = 0;
        n_sources = r.lines[i].source >= n_sources ? r.lines[i].source + 1 : n_sources;
        any_category |= r.lines[i].category != MP_NONE && r.lines[i].category != r.lines[0].category;
        any_iteration |= r.lines[i].iteration != r.lines[0].iteration;
    }
    for (uint32_t l = 0; l < MP_MAX_LAYERS; l++)
        if (layer_of[l] != MP_NONE) {
            layer_of[l] = n_layers;
            layer_ids[n_layers++] = l + (uint32_t)hints->layer_base;
        }
    MP_TRY(trace_check_base(path, hints->layer_base, layer_ids[n_layers - 1] - (uint32_t)hints->layer_base + 1, err));
    if (r.n_wide > 0)
        MP_TRY(check_complete(&r, layer_of, n_layers, n_sources, err));
    uint32_t n_experts = r.n_wide > 0 ? r.n_wide : hints->n_experts;
    if (hints->ids_are_physical == 1) {
        MP_TRY(trace_map_load(&map, hints->map_path, limits, err));
        if (map.n_layers != n_layers || (r.n_wide > 0 && map.n_physical != r.n_wide)) {
            status = mp_fail_at(err, MP_EINPUT, hints->map_path, 0, 0,
                                "the map has %u layers and %u slots, the recording %u and %u", map.n_layers,
                                map.n_physical, n_layers, r.n_wide);
            goto out;
        }
        n_experts = map.n_logical;
    }
    if (hints->n_experts != 0 && hints->n_experts != n_experts) {
        status =
            mp_fail_at(err, MP_EINPUT, path, 1, 1, "the recording has %u experts but --experts or the model says %u",
                       n_experts, hints->n_experts);
        goto out;
    }
    struct mp_trace_meta meta = {.kind = MP_TRACE_COUNTS,
                                 .phase = hints->phase,
                                 .model = hints->model_name,
                                 .format = "csv",
                                 .is_synthetic = r.described.is_synthetic,
                                 .is_ranked = r.described.is_ranked == 1,
                                 .is_time_ordered = r.described.is_time_ordered >= 0 ? r.described.is_time_ordered == 1
                                                                                     : any_iteration && !any_category,
                                 .n_layers = n_layers,
                                 .n_experts = n_experts,
                                 .top_k = hints->top_k,
                                 .layer_ids = layer_ids,
                                 .n_sources = n_sources};
    MP_TRY(mp_trace_builder_new(&b, &meta, limits, err));
    MP_TRY(trace_names_to_builder(&r.categories, b, err));
    for (uint64_t i = 0; i < r.n; i++) {
        if (i == 0 || compare_iteration(&r.lines[i - 1], &r.lines[i]) != 0)
            MP_TRY(mp_trace_builder_iteration(b, r.lines[i].category, err));
        MP_TRY(add_line(b, &r, &r.lines[i], layer_of[r.lines[i].layer], n_experts, &map, err));
    }
    struct mp_trace_builder *done = b;
    b = NULL;
    MP_TRY(mp_trace_builder_finish(done, NULL, out, err));
out:
    mp_trace_builder_free(b);
    trace_map_clear(&map);
    csv_close(&r.csv);
    trace_names_clear(&r.categories);
    trace_described_clear(&r.described);
    mp_free(r.lines);
    mp_free(r.wide);
    return status;
}

const struct mp_trace_format mp_trace_format_csv = {
    .name = "csv",
    .summary = "counts: layer,expert,count or [rank,]layer,[iteration,][category,]e0,e1,...",
    .reference = "traces/FORMAT.md, \"Counts as text\"",
    .probe = probe,
    .read = read_csv,
};
