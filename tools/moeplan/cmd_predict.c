/* moeplan predict: how well a token's experts are known ahead of their layer, and how long a path is worth keeping.
 * docs/PREDICTION.md. */
#include "tool.h"
#include <moeplan/predict.h>
#include <string.h>

enum { BATCHES_MAX = 64, ROWS_MAX = 2 * MP_PATH_MAX + 1 };

struct row {
    struct mp_foresight how;
    struct mp_path_accuracy accuracy;
    uint64_t bytes, n_paths; /* what it is looked up in; entries of one byte, or hash maps */
};
struct predict {
    const struct opts *o;
    struct mp_progress_part *part;
    struct mp_trace *trace;
    struct mp_part planning, scored;
    struct mp_workload *batches; /* of the scored part */
    struct mp_path_tables *tables;
    struct mp_sample_paths *paths; /* NULL when the tables were read from a file */
    struct row rows[ROWS_MAX];
    uint32_t n_rows, n_ours, best;
    const char *origin; /* what the scored requests are to the tables */
    struct {
        uint64_t bytes;
        double recall, recall_before; /* of the best path, as stored and as learned */
    } stored;
};

/* Batches of the scored part as one rank's: recorded where they fill, else drawn. */
static enum mp_status make_batches(struct predict *p, struct mp_error *err) {
    const bool is_decode = p->trace->phase == MP_PHASE_DECODE;
    struct mp_batching b = {.phase = is_decode ? MP_PHASE_DECODE : MP_PHASE_PREFILL,
                            .n_ranks = 1,
                            .batch_per_rank = (uint32_t)p->o->batch,
                            .tokens_per_rank = p->o->tokens_per_rank,
                            .n_steps_max = BATCHES_MAX,
                            .resample = p->o->resample,
                            .seed = p->o->seed};
    struct mp_error first = {0};
    enum mp_status status = mp_workload_build(&p->batches, &p->scored, &b, &first);
    if (status == MP_EINPUT && !b.resample) {
        b.resample = true;
        first = (struct mp_error){0};
        status = mp_workload_build(&p->batches, &p->scored, &b, &first);
    }
    return status == MP_OK ? MP_OK : mp_fail(err, status, "%s", first.message);
}

static enum mp_status measure_one(struct predict *p, struct mp_foresight how, uint64_t bytes, uint64_t n_paths,
                                  struct mp_error *err) {
    struct row *r = &p->rows[p->n_rows];
    *r = (struct row){.how = how, .bytes = bytes, .n_paths = n_paths};
    how.progress = p->o->progress;
    mp_progress_add(p->part, p->n_rows > 0);
    enum mp_status status = mp_path_measure(&r->accuracy, &how, &p->scored, p->batches, tool_threads(p->o), err);
    p->n_rows += status == MP_OK;
    return status;
}

/* One byte for each hint of paths of this length, two for each expert's popularity. */
static uint64_t table_bytes(const struct mp_path_tables *t, uint32_t length) {
    uint64_t n = 0;
    for (uint32_t l = 0; l < t->n_layers; l++)
        n += l < length ? l : length;
    return n * t->n_experts * t->n_experts + 2 * (uint64_t)t->n_layers * t->n_experts;
}

static enum mp_status measure(struct predict *p, struct mp_error *err) {
    const uint32_t longest = p->tables->length;
    enum mp_status status = MP_OK;
    p->part = mp_progress_begin(p->o->progress, "path lengths", 1 + (p->paths != NULL ? 2 : 1) * (uint64_t)longest, 0);
    for (uint32_t length = 0; length <= longest; length++) {
        MP_TRY(measure_one(p, (struct mp_foresight){.tables = p->tables, .length = length},
                           table_bytes(p->tables, length), 0, err));
        if (p->rows[length].accuracy.recall > p->rows[p->best].accuracy.recall)
            p->best = length;
    }
    p->n_ours = p->n_rows;
    for (uint32_t length = 1; length <= longest && p->paths != NULL; length++) {
        uint64_t n_paths, bytes = mp_sample_paths_bytes(p->paths, length, &n_paths);
        MP_TRY(measure_one(
            p, (struct mp_foresight){.tables = p->tables, .paths = p->paths, .length = length, .keeps_top = true},
            bytes, n_paths, err));
    }
out:
    mp_progress_end(p->part);
    return status;
}

/* Learns the tables, or reads them. */
static enum mp_status get_tables(struct predict *p, struct mp_error *err) {
    const struct opts *o = p->o;
    const uint32_t longest = (uint32_t)o->path_length;
    struct mp_in *in = NULL;
    enum mp_status status = MP_OK;
    const bool is_all = strcmp(o->split, "none") == 0;
    p->origin = is_all ? "(the same: not held out)" : "held out";
    if (o->tables == NULL) {
        MP_TRY(mp_path_learn(&p->tables, &p->planning, longest, err));
        return mp_sample_paths_learn(&p->paths, &p->planning, longest, tool_threads(o), err);
    }
    MP_TRY(mp_in_open(&in, o->tables, 0, err));
    MP_TRY(mp_path_read(&p->tables, in, err));
    MP_TRY(mp_path_check_fit(p->tables, o->tables, p->trace, err));
    const bool is_own = strcmp(p->tables->trace_sha256, p->trace->sha256) == 0;
    p->origin = !is_own  ? "of another recording"
                : is_all ? "of the same recording"
                : p->tables->part_checksum == mp_path_part_checksum(&p->planning)
                    ? "held out"
                    : "of the same recording, learned with another --split";
out:
    mp_in_close(in);
    return status;
}

/* -o: the file, and what rounding costs the best path. */
static enum mp_status keep(struct predict *p, struct mp_error *err) {
    struct mp_out *memory = NULL, *out = NULL;
    struct mp_in *in = NULL;
    struct mp_path_tables *again = NULL;
    struct mp_path_accuracy a = {0};
    enum mp_status status = MP_OK;
    size_t size;
    MP_TRY(mp_out_open_memory(&memory, err));
    MP_TRY(mp_path_write(p->tables, (uint32_t)p->o->hint_places, memory, err));
    const uint8_t *bytes = mp_out_memory_bytes(memory, &size);
    if (bytes == NULL) {
        status = mp_nomem(err, "path tables");
        goto out;
    }
    MP_TRY(mp_in_from_memory(&in, p->o->out, bytes, size, err));
    MP_TRY(mp_path_read(&again, in, err));
    struct mp_foresight how = p->rows[p->best].how;
    how.tables = again;
    MP_TRY(mp_path_measure(&a, &how, &p->scored, NULL, tool_threads(p->o), err));
    p->stored.bytes = size;
    p->stored.recall = a.recall;
    p->stored.recall_before = p->rows[p->best].accuracy.recall;
    mp_path_accuracy_free(&a);
    MP_TRY(mp_out_open(&out, p->o->out, err));
    mp_out_write(out, bytes, size);
    status = mp_out_commit(out, err);
out:
    mp_path_free(again);
    mp_in_close(in);
    if (memory != NULL)
        mp_out_cancel(memory);
    return status;
}

static void write_text(const struct predict *p, struct mp_out *o) {
    static const char *const columns[] = {"path",        "recall in top-2k", "in top-k", "calibration",
                                          "lists alike", "in common",        "table"};
    const struct mp_trace *t = p->trace;
    const struct mp_path_accuracy *best = &p->rows[p->best].accuracy;
    char size[32];
    struct mp_table *table = mp_table_new();
    if (table == NULL) {
        mp_out_fail(o, MP_ENOMEM, "out of memory: predictions");
        return;
    }
    mp_out_printf(
        o,
        "the top-%u of %u experts, from those of the layers before: learned from %llu token%s, scored on %u requests, "
        "%s\n"
        "recall: share of the true experts among the 2k likeliest; lists: the 2k most popular of a batch, %s, %u "
        "batches of %s\n\n",
        t->top_k, t->n_experts, (unsigned long long)p->tables->n_tokens, p->tables->n_tokens == 1 ? "" : "s",
        p->scored.n, p->origin, p->batches->is_bootstrap ? "drawn" : "recorded", p->batches->n_steps,
        p->trace->phase == MP_PHASE_DECODE ? "--batch requests" : "--tokens-per-rank tokens");
    mp_table_columns(table, columns, sizeof columns / sizeof *columns, "0013425", 1);
    for (uint32_t i = 0; i < p->n_rows; i++) {
        const struct mp_path_accuracy *a = &p->rows[i].accuracy;
        if (i == 0)
            mp_table_cell(table, "popularity alone");
        else
            mp_table_cell(table, "%s%u layer%s", i < p->n_ours ? "" : "Lina, ", a->length, tool_s(a->length));
        mp_table_cell(table, "%.4f", a->recall);
        mp_table_cell(table, "%.4f", a->recall_k);
        mp_table_cell(table, "%.4f", a->calibration);
        mp_table_cell(table, "%.1f %%", 100 * a->lists_equal);
        mp_table_cell(table, "%.1f %%", 100 * a->lists_common);
        mp_table_cell(table, "%s", mp_human_bytes((double)p->rows[i].bytes, size));
    }
    mp_table_show(table, p->o->style, o);
    mp_table_free(table);
    mp_out_printf(o, "\nbest path: %u layer%s; by layer:", p->best, tool_s(p->best));
    for (uint32_t l = 1; l < t->n_layers; l++)
        mp_out_printf(o, " %.2f", best->layer_recall[l]);
    mp_out_printf(o, "\n");
    if (p->stored.bytes > 0)
        mp_out_printf(o, "kept in %s: %s, recall %.4f in place of %.4f\n", p->o->out,
                      mp_human_bytes((double)p->stored.bytes, size), p->stored.recall, p->stored.recall_before);
}

static json_t *row_json(const struct predict *p, const struct row *r) {
    const struct mp_path_accuracy *a = &r->accuracy;
    json_t *layers = json_array(), *bins = json_array();
    for (uint32_t l = 1; l < p->trace->n_layers; l++)
        (void)json_array_append_new(layers, json_real(a->layer_recall[l]));
    for (uint32_t b = 0; b < MP_PATH_BINS; b++)
        (void)json_array_append_new(bins, json_pack("{s:I,s:f,s:f}", "n", (json_int_t)a->n[b], "predicted",
                                                    a->predicted[b], "came_true", a->came[b]));
    return json_pack("{s:i,s:f,s:f,s:f,s:f,s:f,s:I,s:I,s:o,s:o}", "path_length", (int)a->length, "recall_top_2k",
                     a->recall, "recall_top_k", a->recall_k, "calibration_error", a->calibration, "lists_equal",
                     a->lists_equal, "lists_common", a->lists_common, "bytes", (json_int_t)r->bytes, "n_paths",
                     (json_int_t)r->n_paths, "layer_recall", layers, "bins", bins);
}

static void write_json(const struct predict *p, struct mp_out *o) {
    json_t *rows = json_array(), *lina = json_array();
    for (uint32_t i = 0; i < p->n_rows; i++)
        (void)json_array_append_new(i < p->n_ours ? rows : lina, row_json(p, &p->rows[i]));
    json_t *root = json_pack(
        "{s:s,s:i,s:s,s:s,s:o,s:I,s:i,s:i,s:s,s:i,s:i,s:o,s:o}", "schema", "moeplan.predict", "version", 1, "split",
        p->o->split, "scored", p->origin, "n_learned", p->o->tables == NULL ? json_integer(p->planning.n) : json_null(),
        "n_tokens_learned", (json_int_t)p->tables->n_tokens, "n_scored", (int)p->scored.n, "top_k",
        (int)p->trace->top_k, "batches", p->batches->is_bootstrap ? "bootstrap" : "recorded", "n_batches",
        (int)p->batches->n_steps, "best_path_length", (int)p->best, "rows", rows, "sample_paths", lina);
    if (p->stored.bytes > 0)
        (void)json_object_set_new(root, "stored",
                                  json_pack("{s:I,s:i,s:f,s:f}", "bytes", (json_int_t)p->stored.bytes, "hint_places",
                                            (int)p->o->hint_places, "recall_top_2k", p->stored.recall,
                                            "recall_top_2k_learned", p->stored.recall_before));
    mp_json_write(root, o);
    json_decref(root);
}

enum mp_status cmd_predict(const struct opts *o, const struct args *args, int *exit_code, struct mp_error *err) {
    (void)exit_code;
    struct predict p = {.o = o};
    struct mp_split split;
    struct mp_out *out = NULL;
    enum mp_status status = MP_OK;
    if (o->out != NULL && (o->tables != NULL || strcmp(o->out, "-") == 0))
        return mp_fail(err, MP_EUSAGE,
                       o->tables != NULL ? "-o keeps what was learned, and --tables learns nothing (leave one out)"
                                         : "-o -: the table goes to standard output (write a file)");
    if (o->out == NULL && o->is_set[OPT_HINT_PLACES])
        return mp_fail(err, MP_EUSAGE, "--hint-places says how -o rounds hints (add -o FILE)");
    MP_TRY(mp_split_parse(&split, o->split, o->seed, err));
    MP_TRY(tool_load_trace(&p.trace, args->value[0], o, err));
    if (p.trace->n_layers < 2) {
        status = mp_fail(err, MP_EUSAGE, "one layer has none before it (record more layers)");
        goto out;
    }
    MP_TRY(mp_part_split(&p.planning, &p.scored, p.trace, &split, err));
    if (p.trace->kind == MP_TRACE_TOKENS)
        MP_TRY(make_batches(&p, err));
    MP_TRY(get_tables(&p, err));
    MP_TRY(measure(&p, err));
    if (o->out != NULL)
        MP_TRY(keep(&p, err));
    MP_TRY(tool_open_result(&out, o, err));
    if (o->json)
        write_json(&p, out);
    else
        write_text(&p, out);
    status = tool_close_result(out, o, err);
out:
    for (uint32_t i = 0; i < p.n_rows; i++)
        mp_path_accuracy_free(&p.rows[i].accuracy);
    mp_path_free(p.tables);
    mp_sample_paths_free(p.paths);
    mp_workload_free(p.batches);
    mp_part_free(&p.planning);
    mp_part_free(&p.scored);
    mp_trace_free(p.trace);
    return status;
}
