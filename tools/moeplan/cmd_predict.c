/* moeplan predict: how well a token's experts are known ahead of their layer, and how long a path is worth keeping.
 * docs/PREDICTION.md. */
#include "tool.h"
#include <moeplan/predict.h>
#include <string.h>

enum { BATCHES_MAX = 64 };

struct predict {
    const struct opts *o;
    struct mp_trace *trace;
    struct mp_part planning, scored;
    struct mp_workload *batches; /* of the scored part */
    struct mp_path_tables *tables;
    struct mp_path_accuracy rows[MP_PATH_MAX + 1];
    uint32_t n_rows, best;
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

static enum mp_status measure(struct predict *p, struct mp_error *err) {
    const uint32_t longest = (uint32_t)p->o->path_length;
    enum mp_status status = mp_path_learn(&p->tables, &p->planning, longest, err);
    for (uint32_t length = 0; length <= longest && status == MP_OK; length++) {
        status = mp_path_measure(&p->rows[length], p->tables, &p->scored, p->batches, length, tool_threads(p->o), err);
        if (status == MP_OK) {
            p->n_rows++;
            if (p->rows[length].recall > p->rows[p->best].recall)
                p->best = length;
        }
    }
    return status;
}

static void write_text(const struct predict *p, struct mp_out *o) {
    static const char *const columns[] = {"path",        "recall in top-2k", "in top-k",
                                          "calibration", "lists alike",      "in common"};
    const struct mp_trace *t = p->trace;
    const struct mp_path_accuracy *best = &p->rows[p->best];
    struct mp_table *table = mp_table_new();
    if (table == NULL) {
        mp_out_fail(o, MP_ENOMEM, "out of memory: predictions");
        return;
    }
    mp_out_printf(
        o,
        "the top-%u of %u experts, from those of the layers before: learned from %u request%s, scored on %u %s\n"
        "recall: share of the true experts among the 2k likeliest; lists: the 2k most popular of a batch, %s, %u "
        "batches of %s\n\n",
        t->top_k, t->n_experts, p->planning.n, tool_s(p->planning.n), p->scored.n,
        strcmp(p->o->split, "none") == 0 ? "(the same: not held out)" : "held out",
        p->batches->is_bootstrap ? "drawn" : "recorded", p->batches->n_steps,
        p->trace->phase == MP_PHASE_DECODE ? "--batch requests" : "--tokens-per-rank tokens");
    for (size_t i = 0; i < sizeof columns / sizeof *columns; i++)
        mp_table_column(table, columns[i], i > 0);
    for (uint32_t i = 0; i < p->n_rows; i++) {
        const struct mp_path_accuracy *a = &p->rows[i];
        if (i == 0)
            mp_table_cell(table, "popularity alone");
        else
            mp_table_cell(table, "%u layer%s", i, tool_s(i));
        mp_table_cell(table, "%.4f", a->recall);
        mp_table_cell(table, "%.4f", a->recall_k);
        mp_table_cell(table, "%.4f", a->calibration);
        mp_table_cell(table, "%.1f %%", 100 * a->lists_equal);
        mp_table_cell(table, "%.1f %%", 100 * a->lists_common);
    }
    mp_table_write(table, o);
    mp_table_free(table);
    mp_out_printf(o, "\nbest path: %u layer%s; by layer:", p->best, tool_s(p->best));
    for (uint32_t l = 1; l < t->n_layers; l++)
        mp_out_printf(o, " %.2f", best->layer_recall[l]);
    mp_out_printf(o, "\n");
}

static json_t *row_json(const struct predict *p, const struct mp_path_accuracy *a) {
    json_t *layers = json_array(), *bins = json_array();
    for (uint32_t l = 1; l < p->trace->n_layers; l++)
        (void)json_array_append_new(layers, json_real(a->layer_recall[l]));
    for (uint32_t b = 0; b < MP_PATH_BINS; b++)
        (void)json_array_append_new(bins, json_pack("{s:I,s:f,s:f}", "n", (json_int_t)a->n[b], "predicted",
                                                    a->predicted[b], "came_true", a->came[b]));
    return json_pack("{s:i,s:f,s:f,s:f,s:f,s:f,s:o,s:o}", "path_length", (int)a->length, "recall_top_2k", a->recall,
                     "recall_top_k", a->recall_k, "calibration_error", a->calibration, "lists_equal", a->lists_equal,
                     "lists_common", a->lists_common, "layer_recall", layers, "bins", bins);
}

static void write_json(const struct predict *p, struct mp_out *o) {
    json_t *rows = json_array();
    for (uint32_t i = 0; i < p->n_rows; i++)
        (void)json_array_append_new(rows, row_json(p, &p->rows[i]));
    json_t *root =
        json_pack("{s:s,s:i,s:s,s:i,s:i,s:i,s:s,s:i,s:i,s:o}", "schema", "moeplan.predict", "version", 1, "split",
                  p->o->split, "n_learned", (int)p->planning.n, "n_scored", (int)p->scored.n, "top_k",
                  (int)p->trace->top_k, "batches", p->batches->is_bootstrap ? "bootstrap" : "recorded", "n_batches",
                  (int)p->batches->n_steps, "best_path_length", (int)p->best, "rows", rows);
    mp_json_write(root, o);
    json_decref(root);
}

enum mp_status cmd_predict(const struct opts *o, const struct args *args, int *exit_code, struct mp_error *err) {
    (void)exit_code;
    struct predict p = {.o = o};
    struct mp_split split;
    struct mp_out *out = NULL;
    enum mp_status status = MP_OK;
    MP_TRY(mp_split_parse(&split, o->split, o->seed, err));
    MP_TRY(tool_load_trace(&p.trace, args->value[0], o, err));
    if (p.trace->n_layers < 2) {
        status = mp_fail(err, MP_EUSAGE, "one layer has none before it (record more layers)");
        goto out;
    }
    MP_TRY(mp_part_split(&p.planning, &p.scored, p.trace, &split, err));
    if (p.trace->kind == MP_TRACE_TOKENS)
        MP_TRY(make_batches(&p, err));
    MP_TRY(measure(&p, err));
    MP_TRY(mp_out_open(&out, "-", err));
    if (o->json)
        write_json(&p, out);
    else
        write_text(&p, out);
    status = mp_out_commit(out, err);
out:
    for (uint32_t i = 0; i < p.n_rows; i++)
        mp_path_accuracy_free(&p.rows[i]);
    mp_path_free(p.tables);
    mp_workload_free(p.batches);
    mp_part_free(&p.planning);
    mp_part_free(&p.scored);
    mp_trace_free(p.trace);
    return status;
}
