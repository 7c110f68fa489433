/* omni-infer's activation counts: activation_counts_recordstep_<step>_rank_<rank>.txt with a line per MoE layer of
 * counts between tabs (and mostly one more tab at the end), of the slots of the rank or, where rank 0 wrote for all, of
 * all ranks; or its log with lines
 *   [dump activation] decode step 7 in rank 0 for layer 3 get 8 experts data: 1<TAB>2...
 * Slot j of rank r is position r * slots + j. */
#include "recording_folder.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MARK "[dump activation] "

/* The counts of one layer of one rank in one step. */
struct row {
    uint64_t step, line;
    uint32_t mode, rank, layer; /* mode: a phase; 0 in files */
    uint32_t file;
    size_t first; /* in the pool, n_slots of them */
};
struct recording {
    const char *path;
    const struct mp_trace_hints *hints;
    const struct mp_limits *limits;
    struct folder_list list;
    struct row *rows;
    size_t n, room;
    uint64_t *counts;
    size_t n_counts, counts_room;
    uint32_t n_slots, n_ranks, n_layers;
    bool is_log, has_mode[MP_PHASE_MIXED + 1];
    uint64_t n_skipped; /* log lines of the other mode */
    const char *file;
    uint32_t file_index;
};

/* activation_counts_recordstep_<step>_rank_<rank>.txt */
static bool wanted(const char *name, uint64_t keys[3]) {
    static const char start[] = "activation_counts_recordstep_", middle[] = "_rank_";
    size_t n = name_without_packing(name), a = sizeof start - 1, m = sizeof middle - 1;
    if (n < a || memcmp(name, start, a) != 0)
        return false;
    size_t digits = strspn(name + a, "0123456789");
    const char *rank = name + a + digits + m;
    if (a + digits + m + 4 >= n || memcmp(name + a + digits, middle, m) != 0 || memcmp(name + n - 4, ".txt", 4) != 0)
        return false;
    return mp_parse_u64(name + a, digits, &keys[0]) && mp_parse_u64(rank, (size_t)(name + n - 4 - rank), &keys[1]);
}

static const char *name_of(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}

static int probe(const char *path, const struct mp_in *in) {
    uint64_t keys[3];
    if (in == NULL)
        return folder_has(path, wanted) ? 70 : 0;
    size_t n = in->size < 65536 ? in->size : 65536, i = 0;
    if (memmem(in->data, n, MARK, strlen(MARK)) != NULL)
        return 60;
    bool has_tab = false;
    for (; i < n && in->data[i] != '\n'; i++) {
        has_tab |= in->data[i] == '\t';
        if ((in->data[i] < '0' || in->data[i] > '9') && in->data[i] != '\t' && in->data[i] != '\r')
            return 0;
    }
    return i > 0 && has_tab && wanted(name_of(path), keys) ? 70 : i > 0 && has_tab ? 20 : 0;
}

#define BAD(line, column, ...) mp_fail_at(err, MP_EINPUT, r->file, line, column, __VA_ARGS__)

static bool grow(void **p, size_t *room, size_t need, size_t size) {
    if (need <= *room)
        return true;
    size_t more = *room == 0 ? 256 : *room * 2;
    more = more < need ? need : more;
    void *grown = mp_realloc(*p, more, size);
    if (grown != NULL) {
        *p = grown;
        *room = more;
    }
    return grown != NULL;
}

/* Counts between tabs, from `at` to the end of the line; as many as on every line. */
static enum mp_status read_counts(struct recording *r, struct row *row, const char *start, const char *at,
                                  const char *end, struct mp_error *err) {
    uint32_t n = 0;
    char quoted[64];
    row->first = r->n_counts;
    while (at < end) {
        const char *tab = memchr(at, '\t', (size_t)(end - at)), *stop = tab != NULL ? tab : end;
        uint64_t v;
        if (n == MP_MAX_EXPERTS)
            return mp_fail_at(err, MP_ELIMIT, r->file, row->line, (uint64_t)(at - start) + 1,
                              "the line has more than %u counts", MP_MAX_EXPERTS);
        if (!mp_parse_u64(at, (size_t)(stop - at), &v) || v > MP_MAX_TOKENS)
            return BAD(row->line, (uint64_t)(at - start) + 1,
                       "\"%s\" is not a count of tokens (whole numbers with one tab between)",
                       mp_quote(at, (size_t)(stop - at), quoted, sizeof quoted));
        if (!grow((void **)&r->counts, &r->counts_room, r->n_counts + 1, sizeof *r->counts))
            return mp_nomem(err, r->file);
        r->counts[r->n_counts++] = v;
        n++;
        at = tab != NULL ? tab + 1 : end;
    }
    if (r->n_slots == 0)
        r->n_slots = n;
    if (n == 0 || n != r->n_slots)
        return BAD(row->line, 1, "the line has %u counts, not %u", n, r->n_slots);
    if (r->limits->memory_bytes != 0 && (r->n + 1) * sizeof *row > r->limits->memory_bytes)
        return mp_fail_at(err, MP_ELIMIT, r->file, row->line, 1, "the lines do not fit the memory limit of %llu bytes",
                          (unsigned long long)r->limits->memory_bytes);
    if (!grow((void **)&r->rows, &r->room, r->n + 1, sizeof *row))
        return mp_nomem(err, r->file);
    r->rows[r->n++] = *row;
    return MP_OK;
}

/* `word` and the number behind it, both with one blank behind; *at moves on. */
static bool take_number(const char **at, const char *end, const char *word, uint64_t *v) {
    size_t n = strlen(word), digits = 0;
    if ((size_t)(end - *at) < n || memcmp(*at, word, n) != 0)
        return false;
    const char *p = *at + n;
    while (p + digits < end && p[digits] >= '0' && p[digits] <= '9')
        digits++;
    if (!mp_parse_u64(p, digits, v) || p + digits == end || p[digits] != ' ')
        return false;
    *at = p + digits + 1;
    return true;
}

/* A line of a log; lines of other programs are skipped. */
static enum mp_status read_log_line(struct recording *r, const char *start, size_t n, uint64_t line,
                                    struct mp_error *err) {
    static const char data[] = "experts data: ";
    const char *end = start + n, *at = memmem(start, n, MARK, strlen(MARK));
    uint64_t rank, layer, slots;
    struct row row = {.line = line, .file = r->file_index};
    if (at == NULL)
        return MP_OK;
    const char *mark = at;
    at += strlen(MARK);
    if (end - at > 8 && memcmp(at, "prefill ", 8) == 0) {
        row.mode = MP_PHASE_PREFILL;
        at += 8;
    } else if (end - at > 7 && memcmp(at, "decode ", 7) == 0) {
        row.mode = MP_PHASE_DECODE;
        at += 7;
    }
    if (row.mode == 0 || !take_number(&at, end, "step ", &row.step) || !take_number(&at, end, "in rank ", &rank) ||
        !take_number(&at, end, "for layer ", &layer) || !take_number(&at, end, "get ", &slots) ||
        (size_t)(end - at) < sizeof data - 1 || memcmp(at, data, sizeof data - 1) != 0)
        return BAD(line, (uint64_t)((at > end ? mark : at) - start) + 1,
                   "does not go on as \"" MARK
                   "prefill|decode step N in rank R for layer L get K experts data: \" does");
    if (rank >= MP_MAX_GPUS || layer >= MP_MAX_LAYERS)
        return mp_fail_at(err, MP_ELIMIT, r->file, line, (uint64_t)(mark - start) + 1,
                          "rank %llu, layer %llu are not below %u and %u", (unsigned long long)rank,
                          (unsigned long long)layer, MP_MAX_GPUS, MP_MAX_LAYERS);
    row.rank = (uint32_t)rank;
    row.layer = (uint32_t)layer;
    r->has_mode[row.mode] = true;
    if ((r->hints->phase == MP_PHASE_PREFILL || r->hints->phase == MP_PHASE_DECODE) &&
        row.mode != (uint32_t)r->hints->phase) {
        r->n_skipped++;
        return MP_OK;
    }
    enum mp_status status = read_counts(r, &row, start, at + sizeof data - 1, end, err);
    if (status == MP_OK && r->n_slots != slots)
        return BAD(line, (uint64_t)(at - start) + 1, "the line says %llu experts but has %u counts",
                   (unsigned long long)slots, r->n_slots);
    return status;
}

/* One file: a log, or the layers of a rank in a step. */
static enum mp_status read_file(struct recording *r, const struct mp_in *in, uint64_t step, uint64_t rank,
                                struct mp_error *err) {
    const char *at = (const char *)in->data, *end = at + in->size;
    uint32_t layer = 0;
    r->is_log = memmem(in->data, in->size < 65536 ? in->size : 65536, MARK, strlen(MARK)) != NULL;
    if (rank >= MP_MAX_GPUS)
        return mp_fail_at(err, MP_ELIMIT, r->file, 0, 0, "rank %llu is not below %u", (unsigned long long)rank,
                          MP_MAX_GPUS);
    for (uint64_t line = 1; at < end; line++) {
        size_t left = (size_t)(end - at), near = left > r->limits->line_bytes ? r->limits->line_bytes + 1 : left;
        const char *newline = memchr(at, '\n', near), *stop = newline != NULL ? newline : at + near;
        if (newline == NULL && near > r->limits->line_bytes)
            return mp_fail_at(err, MP_ELIMIT, r->file, line, 1, "the line has more than %zu bytes, the limit",
                              r->limits->line_bytes);
        const char *start = at;
        at = newline != NULL ? newline + 1 : end;
        if (stop > start && stop[-1] == '\r')
            stop--;
        if (stop == start)
            continue;
        struct row row = {.step = step, .line = line, .rank = (uint32_t)rank, .layer = layer, .file = r->file_index};
        if (!r->is_log && layer++ == MP_MAX_LAYERS)
            return mp_fail_at(err, MP_ELIMIT, r->file, line, 1, "has more than %u layers", MP_MAX_LAYERS);
        enum mp_status status = r->is_log ? read_log_line(r, start, (size_t)(stop - start), line, err)
                                          : read_counts(r, &row, start, start, stop, err);
        if (status != MP_OK)
            return status;
    }
    return MP_OK;
}

static enum mp_status read_all(struct recording *r, const struct mp_in *in, struct mp_error *err) {
    r->file = r->path;
    if (in != NULL) {
        uint64_t keys[3] = {0};
        (void)wanted(name_of(r->path), keys);
        return read_file(r, in, keys[0], 0, err);
    }
    enum mp_status status = folder_list_read(&r->list, r->path, wanted, err);
    if (status == MP_OK && r->list.n == 0)
        status =
            mp_fail_at(err, MP_EINPUT, r->path, 0, 0, "holds no activation_counts_recordstep_<step>_rank_<rank>.txt");
    for (uint32_t f = 0; f < r->list.n && status == MP_OK; f++) {
        struct mp_in *file;
        r->file = r->list.files[f].path;
        r->file_index = f;
        if ((status = mp_in_open(&file, r->file, 0, err)) != MP_OK)
            break;
        status = read_file(r, file, r->list.files[f].keys[0], r->list.files[f].keys[1], err);
        mp_in_close(file);
    }
    return status;
}

#define ORDER(a, b) ((a) < (b) ? -1 : (a) > (b))
static int compare_rows(const void *pa, const void *pb) {
    const struct row *a = pa, *b = pb;
    int by = ORDER(a->mode, b->mode);
    if (by == 0)
        by = ORDER(a->step, b->step);
    if (by == 0)
        by = ORDER(a->layer, b->layer);
    if (by == 0)
        by = ORDER(a->rank, b->rank);
    if (by == 0)
        by = ORDER(a->file, b->file);
    return by != 0 ? by : ORDER(a->line, b->line);
}

static const char *in_list(const struct recording *r, const struct row *row) {
    return r->list.n > 0 ? r->list.files[row->file].path : r->path;
}

/* Every step has every layer of every rank once. */
static enum mp_status check_grid(struct recording *r, struct mp_error *err) {
    for (size_t i = 0; i < r->n; i++) {
        r->n_ranks = r->rows[i].rank >= r->n_ranks ? r->rows[i].rank + 1 : r->n_ranks;
        r->n_layers = r->rows[i].layer >= r->n_layers ? r->rows[i].layer + 1 : r->n_layers;
    }
    size_t at = 0;
    while (at < r->n) {
        const struct row *first = &r->rows[at];
        for (uint32_t l = 0; l < r->n_layers; l++)
            for (uint32_t k = 0; k < r->n_ranks; k++, at++) {
                const struct row *row = &r->rows[at];
                bool is_step = at < r->n && row->step == first->step && row->mode == first->mode;
                if (is_step && row->layer == l && row->rank == k)
                    continue;
                const char *mode = first->mode != 0 ? mp_phase_name((enum mp_phase)first->mode) : "";
                if (is_step && at > 0 && row->layer == row[-1].layer && row->rank == row[-1].rank)
                    return mp_fail_at(err, MP_EINPUT, in_list(r, row), row->line, 1,
                                      "%s%sstep %llu, rank %u, layer %u stands on line %llu%s already (keep one run)",
                                      mode, mode[0] != '\0' ? " " : "", (unsigned long long)row->step, row->rank,
                                      row->layer, (unsigned long long)row[-1].line,
                                      row->file != row[-1].file ? " of another file" : "");
                return mp_fail_at(err, MP_EINPUT, r->path, 0, 0,
                                  "%s%sstep %llu has no counts of rank %u in layer %u (every step needs all %u ranks "
                                  "and %u layers)",
                                  mode, mode[0] != '\0' ? " " : "", (unsigned long long)first->step, k, l, r->n_ranks,
                                  r->n_layers);
            }
        const struct row *row = &r->rows[at];
        if (at < r->n && row->step == first->step && row->mode == first->mode) /* the last of them, again */
            return mp_fail_at(err, MP_EINPUT, in_list(r, row), row->line, 1,
                              "step %llu, rank %u, layer %u stands on line %llu already (keep one run)",
                              (unsigned long long)row->step, row->rank, row->layer, (unsigned long long)row[-1].line);
    }
    return MP_OK;
}

static enum mp_status build(struct recording *r, struct mp_trace_builder *b, const struct trace_map *map,
                            struct mp_error *err) {
    enum mp_status status = MP_OK;
    bool is_mixed = r->has_mode[MP_PHASE_PREFILL] && r->has_mode[MP_PHASE_DECODE] && r->n_skipped == 0;
    uint32_t category = MP_NONE;
    for (size_t at = 0; at < r->n; at += (size_t)r->n_layers * r->n_ranks) {
        if (is_mixed)
            MP_TRY(mp_trace_builder_category(b, mp_phase_name((enum mp_phase)r->rows[at].mode), &category, err));
        MP_TRY(mp_trace_builder_iteration(b, category, err));
        for (uint32_t l = 0; l < r->n_layers; l++)
            for (uint32_t p = 0; p < r->n_slots * r->n_ranks; p++) {
                const struct row *row = &r->rows[at + (size_t)l * r->n_ranks + p / r->n_slots];
                uint32_t expert = map->logical != NULL ? map->logical[(size_t)l * map->n_physical + p] : p;
                MP_TRY(mp_trace_builder_count(b, 0, l, expert, r->counts[row->first + p % r->n_slots], err));
            }
    }
out:
    return status;
}

static enum mp_status add_notes(const struct recording *r, struct mp_trace *t, struct mp_error *err) {
    uint64_t step = 0, n_gaps = 0, first_gap = 0;
    size_t stride = (size_t)r->n_layers * r->n_ranks;
    enum mp_status status = MP_OK;
    for (int pass = 0; pass < 2; pass++)
        for (size_t i = stride; i < r->n; i += stride) {
            uint64_t by = r->rows[i].step - r->rows[i - stride].step;
            if (r->rows[i].mode != r->rows[i - stride].mode)
                continue;
            if (pass == 0)
                step = step == 0 || by < step ? by : step;
            else if (by > step && n_gaps++ == 0)
                first_gap = r->rows[i - stride].step + step;
        }
    if (n_gaps > 0)
        MP_TRY(trace_note(t, err, "step %llu is missing%s", (unsigned long long)first_gap,
                          n_gaps > 1 ? ", and others" : ""));
    if (r->n_skipped > 0)
        MP_TRY(trace_note(t, err, "%llu lines of the other phase left out", (unsigned long long)r->n_skipped));
    MP_TRY(trace_note(t, err,
                      "counts are taken as they stand (omni-infer's own planner divides them by 128, rounds "
                      "up and adds 3)"));
out:
    return status;
}

static enum mp_status read_omni(struct mp_trace **out, const char *path, struct mp_in *in, bool *keep_in,
                                const struct mp_trace_hints *hints, const struct mp_limits *limits,
                                struct mp_error *err) {
    struct recording r = {.path = path, .hints = hints, .limits = limits};
    struct trace_map map = {0};
    struct mp_trace_builder *b = NULL;
    uint32_t ids[MP_MAX_LAYERS];
    enum mp_status status;
    *out = NULL;
    *keep_in = false;
    MP_TRY(read_all(&r, in, err));
    bool is_both = r.has_mode[MP_PHASE_PREFILL] && r.has_mode[MP_PHASE_DECODE];
    enum mp_phase phase = hints->phase;
    if (phase == MP_PHASE_UNKNOWN && r.is_log && !is_both)
        phase = r.has_mode[MP_PHASE_PREFILL] ? MP_PHASE_PREFILL : MP_PHASE_DECODE;
    struct mp_trace_hints with_phase = *hints;
    with_phase.phase = phase;
    MP_TRY(trace_ask(
        path, "omni_counts",
        (struct trace_needs){.layer_base = true, .phase = true, .ids = true, .experts = hints->ids_are_physical != 1},
        &with_phase, err));
    if (r.n == 0) {
        status = mp_fail_at(err, MP_EINPUT, path, 0, 0, "%s",
                            r.n_skipped > 0 ? "holds no lines of that phase"
                                            : "holds no activation counts (is enable_dump set?)");
        goto out;
    }
    qsort(r.rows, r.n, sizeof *r.rows, compare_rows);
    MP_TRY(check_grid(&r, err));
    MP_TRY(trace_check_base(path, hints->layer_base, r.n_layers, err));
    for (uint32_t l = 0; l < r.n_layers; l++)
        ids[l] = (uint32_t)hints->layer_base + l;
    uint64_t n_positions = (uint64_t)r.n_slots * r.n_ranks;
    uint32_t n_experts = hints->n_experts;
    if (hints->ids_are_physical == 1) {
        MP_TRY(trace_map_load(&map, hints->map_path, limits, err));
        if (map.n_layers != r.n_layers || map.n_physical != n_positions) {
            status = mp_fail_at(err, MP_EINPUT, hints->map_path, 0, 0,
                                "the map has %u layers and %u slots, the recording %u and %llu (%u rank%s of %u)",
                                map.n_layers, map.n_physical, r.n_layers, (unsigned long long)n_positions, r.n_ranks,
                                r.n_ranks == 1 ? "" : "s", r.n_slots);
            goto out;
        }
        n_experts = map.n_logical;
    }
    if (hints->missing != NULL && hints->missing->experts && n_positions <= MP_MAX_EXPERTS)
        n_experts = (uint32_t)n_positions; /* the caller asks for everything that can be seen without */
    if (map.logical == NULL && n_experts != n_positions) {
        status = mp_fail_at(err, MP_EINPUT, path, 0, 0,
                            "has %llu slots (%u rank%s of %u), not one for each of %u experts (%s)",
                            (unsigned long long)n_positions, r.n_ranks, r.n_ranks == 1 ? "" : "s", r.n_slots, n_experts,
                            n_positions < n_experts ? "name the folder with the files of all ranks"
                                                    : "give --ids physical and --map FILE");
        goto out;
    }
    struct mp_trace_meta meta = {.kind = MP_TRACE_COUNTS,
                                 .phase = phase,
                                 .model = hints->model_name,
                                 .format = "omni_counts",
                                 .is_time_ordered = !is_both || r.n_skipped > 0,
                                 .n_layers = r.n_layers,
                                 .n_experts = n_experts,
                                 .top_k = hints->top_k,
                                 .layer_ids = ids};
    MP_TRY(mp_trace_builder_new(&b, &meta, limits, err));
    MP_TRY(build(&r, b, &map, err));
    struct mp_trace_builder *done = b;
    b = NULL;
    MP_TRY(mp_trace_builder_finish(done, NULL, out, err));
    if ((status = add_notes(&r, *out, err)) != MP_OK) {
        mp_trace_free(*out);
        *out = NULL;
    }
out:
    mp_trace_builder_free(b);
    trace_map_clear(&map);
    folder_list_clear(&r.list);
    mp_free(r.rows);
    mp_free(r.counts);
    return status;
}

const struct mp_trace_format mp_trace_format_omni_counts = {
    .name = "omni_counts",
    .summary = "omni-infer activation counts (activation_counts_recordstep_<step>_rank_<rank>.txt, a file or a folder; "
               "or its log)",
    .reference = "omni-ai-npu/omni-infer omni/accelerators/placement/omni_planner/cpp/expert_activation.cpp",
    .probe = probe,
    .read = read_omni,
};
