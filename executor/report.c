/* What a run was: a table, an object, a timeline. Times of several steps and iterations are pooled per layer and part.
 */
#include "report_train.h"
#include <moeplan/executor.h>
#include <moeplan/report.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- figures ---- */

struct figures {                                                 /* of one layer and part, or of all layers */
    uint64_t bytes, stages, bound_ns, predicted_ns, measured_ns; /* sums over samples; stages: most */
    uint64_t min_ns, median_ns, p95_ns, max_ns;
    size_t n; /* samples */
    bool is_staged, has_fallen_back;
};

static int ascending(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Value number ceil(percent * n / 100) of the n ascending ones. */
static uint64_t nearest_rank(const uint64_t *sorted, size_t n, size_t percent) {
    size_t k = (percent * n + 99) / 100;
    return n == 0 ? 0 : sorted[k > 0 ? k - 1 : 0];
}

static void rank_samples(struct figures *f, uint64_t *samples) {
    qsort(samples, f->n, sizeof *samples, ascending);
    f->min_ns = f->n > 0 ? samples[0] : 0;
    f->median_ns = nearest_rank(samples, f->n, 50);
    f->p95_ns = nearest_rank(samples, f->n, 95);
    f->max_ns = f->n > 0 ? samples[f->n - 1] : 0;
}

static void add_part(struct figures *f, const struct mp_exec_part *p, uint32_t n_iterations, uint64_t *samples) {
    f->bytes += p->bytes * n_iterations;
    f->stages = p->n_stages > f->stages ? p->n_stages : f->stages;
    f->bound_ns += p->bound_ns * n_iterations;
    f->predicted_ns += p->predicted_ns * n_iterations;
    f->is_staged |= p->is_staged;
    f->has_fallen_back |= p->has_fallen_back;
    for (uint32_t i = 0; i < n_iterations; i++) {
        samples[f->n++] = p->measured_ns[i];
        f->measured_ns += p->measured_ns[i];
    }
}

/* Pools a layer's part over steps. samples: room for all of them. */
static struct figures of_layer(const struct mp_exec_result *r, uint32_t layer, int kind, uint64_t *samples) {
    struct figures f = {0};
    for (size_t i = 0; i < r->n_parts; i++)
        if (r->parts[i].layer == layer && (int)r->parts[i].kind == kind)
            add_part(&f, &r->parts[i], r->n_iterations, samples);
    rank_samples(&f, samples);
    return f;
}

/* A part of all layers: its samples are sums over the layers of a step. */
static struct figures of_step(const struct mp_exec_result *r, int kind, uint64_t *samples) {
    struct figures f = {.n = (size_t)r->n_steps * r->n_iterations};
    memset(samples, 0, f.n * sizeof *samples);
    for (size_t i = 0; i < r->n_parts; i++) {
        const struct mp_exec_part *p = &r->parts[i];
        if (kind >= 0 && (int)p->kind != kind)
            continue;
        f.bytes += p->bytes * r->n_iterations;
        f.stages = p->n_stages > f.stages ? p->n_stages : f.stages;
        f.bound_ns += p->bound_ns * r->n_iterations;
        f.predicted_ns += p->predicted_ns * r->n_iterations;
        f.is_staged |= p->is_staged;
        f.has_fallen_back |= p->has_fallen_back;
        for (uint32_t k = 0; k < r->n_iterations; k++) {
            samples[(size_t)p->step * r->n_iterations + k] += p->measured_ns[k];
            f.measured_ns += p->measured_ns[k];
        }
    }
    rank_samples(&f, samples);
    return f;
}

/* What a GPU does beside the parts, of all layers of a step. */
static struct figures of_kernels(const struct mp_exec_result *r, const uint64_t *ns, uint64_t *samples) {
    struct figures f = {.n = (size_t)r->n_steps * r->n_iterations};
    memcpy(samples, ns, f.n * sizeof *samples);
    rank_samples(&f, samples);
    return f;
}

/* As nccl-tests has it for uneven traffic: all bytes / (ranks * time). */
static double bandwidth(const struct figures *f, uint32_t n_ranks) {
    return f->measured_ns > 0 ? (double)f->bytes / n_ranks / (double)f->measured_ns * 1e9 : 0;
}
static double ratio(uint64_t a, uint64_t b) { return b > 0 ? (double)a / (double)b : 0; }

/* ---- text ---- */

static void put_row(struct mp_table *t, const struct mp_exec_result *r, const char *layer, const char *part,
                    const struct figures *f) {
    char buf[32];
    const double n = f->n > 0 ? (double)f->n : 1;
    mp_table_cell(t, "%s", layer);
    mp_table_cell(t, "%s%s", part, f->has_fallen_back ? " *" : "");
    if (f->is_staged)
        mp_table_cell(t, "%llu", (unsigned long long)f->stages);
    else
        mp_table_cell(t, "one shot");
    mp_table_cell(t, "%s", mp_human_bytes((double)f->bytes / n, buf));
    const uint64_t times[] = {f->min_ns, f->median_ns, f->p95_ns, f->max_ns};
    for (size_t i = 0; i < sizeof times / sizeof *times; i++)
        mp_table_cell(t, "%s", mp_human_ns((double)times[i], buf));
    mp_table_cell(t, "%s/s", mp_human_bytes(bandwidth(f, r->n_ranks), buf));
    mp_table_cell(t, "%.3f", ratio(f->bound_ns, f->measured_ns));
    mp_table_cell(t, "%s", mp_human_ns((double)f->predicted_ns / n, buf));
    mp_table_cell(t, "%.3f", ratio(f->predicted_ns, f->measured_ns));
}

static bool has_kind(const struct mp_exec_result *r, int kind) {
    for (size_t i = 0; i < r->n_parts; i++)
        if ((int)r->parts[i].kind == kind)
            return true;
    return false;
}

/* Stages that shall be free, on a transport that couples them. */
static bool runs_coupled(const struct mp_exec_result *r, const struct mp_exec *in) {
    const int wanted = in->stage_mode < 0 ? (int)in->plan->stage_mode : in->stage_mode;
    for (size_t i = 0; i < r->n_parts; i++)
        if (wanted == MP_STAGE_FREE && r->parts[i].is_staged && r->parts[i].mode == MP_STAGE_COUPLED)
            return true;
    return false;
}

static size_t n_samples(const struct mp_exec_result *r) { return (size_t)r->n_steps * r->n_iterations; }

/* NULL: there was none of it. */
static void put_kernels(const struct mp_exec_result *r, const uint64_t *ns, const char *what, uint64_t *samples,
                        struct mp_out *o) {
    static const char *const names[] = {"min", "median", "p95", "max"};
    char buf[32];
    if (ns == NULL)
        return;
    const struct figures f = of_kernels(r, ns, samples);
    const uint64_t times[] = {f.min_ns, f.median_ns, f.p95_ns, f.max_ns};
    mp_out_puts(o, what);
    for (size_t i = 0; i < sizeof times / sizeof *times; i++)
        mp_out_printf(o, " %s %s", names[i], mp_human_ns((double)times[i], buf));
    mp_out_puts(o, "\n");
}

void mp_exec_write_text(const struct mp_exec_result *r, const struct mp_exec *in, const struct mp_style *style,
                        struct mp_out *o) {
    static const char *const columns[] = {"layer", "part",           "stages",    "bytes",
                                          "min",   "median",         "p95",       "max",
                                          "algbw", "bound/measured", "predicted", "predicted/measured"};
    uint64_t *samples = mp_calloc(n_samples(r), sizeof *samples);
    struct mp_table *t = mp_table_new();
    char layer[32], bytes[32];
    bool has_fallback = false;
    if (r->n_policies > 0) {
        ex_report_training(r, in, style, o);
        goto out;
    }
    if (samples == NULL || t == NULL) {
        mp_out_fail(o, MP_ENOMEM, "out of memory: a report");
        goto out;
    }
    mp_table_columns(t, columns, sizeof columns / sizeof *columns, "004370582619", 2);
    for (uint32_t l = 0; l < r->n_layers; l++)
        for (int kind = 0; kind < MP_N_EXEC_PARTS; kind++)
            if (has_kind(r, kind)) {
                const struct figures f = of_layer(r, l, kind, samples);
                snprintf(layer, sizeof layer, "%u", in->plan->layers[l].layer_id);
                put_row(t, r, layer, mp_exec_part_name((enum mp_exec_part_kind)kind), &f);
                has_fallback |= f.has_fallen_back;
            }
    for (int kind = 0; kind < MP_N_EXEC_PARTS; kind++)
        if (has_kind(r, kind)) {
            const struct figures f = of_step(r, kind, samples);
            put_row(t, r, "step", mp_exec_part_name((enum mp_exec_part_kind)kind), &f);
        }
    const struct figures f = of_step(r, -1, samples);
    put_row(t, r, "step", "all", &f);
    mp_table_show(t, style, o);
    if (has_fallback)
        mp_out_puts(o, "* in some steps in one shot: the plan's order was estimated to lose (docs/ORDERS.md part 5)\n");
    if (runs_coupled(r, in))
        mp_out_printf(o,
                      "stages are coupled, in what is predicted too: transport %s ends one before it begins the next\n",
                      r->transport);
    mp_out_printf(
        o,
        "\n%u step%s, %u iteration%s after %u; times are the slowest rank's, pooled over steps and iterations; "
        "bytes and predicted are means\n",
        r->n_steps, r->n_steps == 1 ? "" : "s", r->n_iterations, r->n_iterations == 1 ? "" : "s", in->n_warmup);
    mp_out_printf(o, "verified: %llu %s back home, %llu %s where they arrived, %s moved\n",
                  (unsigned long long)r->n_tokens, in->matrix != NULL ? "answers" : "tokens",
                  (unsigned long long)r->n_copies, in->matrix != NULL ? "flows" : "copies",
                  mp_human_bytes((double)r->n_bytes, bytes));
    put_kernels(r, r->pack_ns, "packing by kernels, a step:", samples, o);
    put_kernels(r, r->unpack_ns, "adding answers up by kernels, a step:", samples, o);
    put_kernels(r, r->gemm_ns, "matrix products of the experts (bf16), a step:", samples, o);
out:
    mp_table_free(t);
    mp_free(samples);
}

/* ---- JSON ---- */

static json_t *text_or_null(const char *s) { return s != NULL ? json_string(s) : json_null(); }
static json_t *whole(uint64_t v) { return json_integer((json_int_t)(v < INT64_MAX ? v : INT64_MAX)); }

static json_t *figures_json(const struct figures *f, uint32_t n_ranks) {
    return json_pack("{s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o}", "min", whole(f->min_ns), "median", whole(f->median_ns), "p95",
                     whole(f->p95_ns), "max", whole(f->max_ns), "samples", whole(f->n), "algorithm_bytes_per_s",
                     mp_json_finite(bandwidth(f, n_ranks)), "bound_over_measured",
                     mp_json_finite(ratio(f->bound_ns, f->measured_ns)), "predicted_over_measured",
                     mp_json_finite(ratio(f->predicted_ns, f->measured_ns)));
}

static json_t *part_json(const struct mp_exec_result *r, const struct mp_exec *in, const struct mp_exec_part *p,
                         uint64_t *samples) {
    struct figures f = {0};
    add_part(&f, p, r->n_iterations, samples);
    rank_samples(&f, samples);
    return json_pack("{s:i,s:i,s:s,s:b,s:b,s:i,s:o,s:o,s:o,s:o,s:o,s:o}", "step", (int)p->step, "layer",
                     (int)in->plan->layers[p->layer].layer_id, "part", mp_exec_part_name(p->kind), "staged",
                     (int)p->is_staged, "fallen_back", (int)p->has_fallen_back, "stages", (int)p->n_stages,
                     "stage_mode", text_or_null(p->is_staged ? mp_stage_mode_name(p->mode) : NULL), "messages",
                     whole(p->n_messages), "bytes", whole(p->bytes), "bound_ns", whole(p->bound_ns), "predicted_ns",
                     whole(p->predicted_ns), "measured_ns", figures_json(&f, r->n_ranks));
}

/* NULL: there was none of it. */
static void kernels_json(const struct mp_exec_result *r, const uint64_t *ns, const char *name, uint64_t *samples,
                         json_t *totals) {
    if (ns == NULL)
        return;
    const struct figures f = of_kernels(r, ns, samples);
    (void)json_object_set_new(totals, name,
                              json_pack("{s:o,s:o,s:o,s:o,s:o}", "min", whole(f.min_ns), "median", whole(f.median_ns),
                                        "p95", whole(f.p95_ns), "max", whole(f.max_ns), "samples", whole(f.n)));
}

void mp_exec_write_json(const struct mp_exec_result *r, const struct mp_exec *in, struct mp_out *o) {
    uint64_t *samples = mp_calloc(n_samples(r), sizeof *samples);
    json_t *parts = json_array(), *totals = json_object();
    if (samples == NULL) {
        mp_out_fail(o, MP_ENOMEM, "out of memory: a report");
        goto out;
    }
    for (size_t i = 0; i < r->n_parts; i++)
        (void)json_array_append_new(parts, part_json(r, in, &r->parts[i], samples));
    for (int kind = -1; kind < MP_N_EXEC_PARTS; kind++) {
        if (kind >= 0 && !has_kind(r, kind))
            continue;
        const struct figures f = of_step(r, kind, samples);
        (void)json_object_set_new(totals, kind < 0 ? "all" : mp_exec_part_name((enum mp_exec_part_kind)kind),
                                  figures_json(&f, r->n_ranks));
    }
    kernels_json(r, r->pack_ns, "pack", samples, totals);
    kernels_json(r, r->unpack_ns, "unpack", samples, totals);
    kernels_json(r, r->gemm_ns, "gemm", samples, totals);
    json_t *root =
        json_pack("{s:s,s:i,s:s,s:s,s:s,s:o,s:o,s:i,s:i,s:i,s:i,s:i,s:{s:o,s:o,s:o},s:O,s:O}", "schema", "moeplan.exec",
                  "version", 1, "transport", r->transport, "strategy", in->plan->provenance.strategy, "topology",
                  in->topology->name, "model", text_or_null(in->matrix == NULL ? in->model->name : NULL), "dispatcher",
                  text_or_null(in->matrix == NULL ? in->dispatcher->name : NULL), "ranks", (int)r->n_ranks, "steps",
                  (int)r->n_steps, "layers", (int)r->n_layers, "warmup", (int)in->n_warmup, "iterations",
                  (int)r->n_iterations, "verified", "tokens", whole(r->n_tokens), "copies", whole(r->n_copies),
                  "bytes_moved", whole(r->n_bytes), "step_ns", totals, "parts", parts);
    if (r->n_policies > 0) {
        (void)json_object_del(root, "parts");
        (void)json_object_del(root, "step_ns");
        (void)json_object_set_new(json_object_get(root, "verified"), "gradient_bytes", whole(r->n_gradient_bytes));
        (void)json_object_set_new(root, "training", ex_report_training_json(r, in));
    }
    if (in->flow_name != NULL)
        (void)json_object_set_new(root, "tokens_between_layers", json_string(in->flow_name));
    if (in->is_lossy)
        (void)json_object_set_new(root, "lossy", json_true());
    mp_json_write(root, o);
    json_decref(root);
out:
    json_decref(parts);
    json_decref(totals);
    mp_free(samples);
}

/* ---- timeline ---- */

enum { SEND = 0, RECEIVE = 1, TRACKS = 10000 };

struct tracks { /* of one side of one GPU: when each is free again */
    uint64_t *free_at;
    uint32_t n, n_allocated;
};

static uint32_t take_track(struct tracks *s, uint64_t begin, uint64_t end) {
    uint32_t k = 0;
    while (k < s->n && s->free_at[k] > begin)
        k++;
    if (k == s->n_allocated) {
        uint64_t *grown = mp_realloc(s->free_at, 2 * s->n_allocated + 4, sizeof *grown);
        if (grown == NULL)
            return MP_NONE;
        s->free_at = grown;
        s->n_allocated = 2 * s->n_allocated + 4;
    }
    s->n = k == s->n ? k + 1 : s->n;
    s->free_at[k] = end;
    return k;
}

static int by_begin(const void *a, const void *b) {
    const struct mp_exec_transfer *x = a, *y = b;
    if (x->begin_ns != y->begin_ns)
        return x->begin_ns < y->begin_ns ? -1 : 1;
    return x->src != y->src ? (x->src < y->src ? -1 : 1) : (x->dst > y->dst) - (x->dst < y->dst);
}

static void put_transfer(struct mp_out *o, const struct mp_exec *in, const struct mp_exec_transfer *t, uint32_t pid,
                         int side, uint32_t track) {
    const uint64_t ns = t->end_ns - t->begin_ns;
    mp_out_printf(
        o,
        ",\n{\"name\":\"%s L%u %s GPU %u\",\"cat\":\"%s\",\"ph\":\"X\",\"ts\":%llu.%03llu,\"dur\":%llu.%03llu,"
        "\"pid\":%u,\"tid\":%u,\"args\":{\"bytes\":%llu,\"peer\":%u,\"stage\":%u}}",
        mp_exec_part_name((enum mp_exec_part_kind)t->part), in->plan->layers[t->layer].layer_id,
        side == SEND ? "to" : "from", side == SEND ? t->dst : t->src,
        mp_exec_part_name((enum mp_exec_part_kind)t->part), (unsigned long long)(t->begin_ns / 1000),
        (unsigned long long)(t->begin_ns % 1000), (unsigned long long)(ns / 1000), (unsigned long long)(ns % 1000), pid,
        (unsigned)side * TRACKS + track, (unsigned long long)t->bytes, side == SEND ? t->dst : t->src, t->stage);
}

/* GPU g is process 2 * g as predicted and 2 * g + 1 as measured, so that the two stand one above the other. */
static bool put_transfers(struct mp_out *o, const struct mp_exec *in, struct mp_exec_transfer *all, size_t n,
                          uint32_t n_ranks, bool is_measured) {
    struct tracks *tracks = mp_calloc((size_t)n_ranks * 2, sizeof *tracks);
    bool is_ok = tracks != NULL;
    qsort(all, n, sizeof *all, by_begin);
    for (uint32_t g = 0; g < n_ranks && is_ok; g++)
        mp_out_printf(o,
                      "%s\n{\"name\":\"process_name\",\"ph\":\"M\",\"pid\":%u,\"args\":{\"name\":\"GPU %u %s\"}},\n"
                      "{\"name\":\"process_sort_index\",\"ph\":\"M\",\"pid\":%u,\"args\":{\"sort_index\":%u}}",
                      g > 0 || is_measured ? "," : "", 2 * g + is_measured, g, is_measured ? "measured" : "predicted",
                      2 * g + is_measured, 2 * g + is_measured);
    for (size_t i = 0; i < n && is_ok; i++)
        for (int side = SEND; side <= RECEIVE && is_ok; side++) {
            const uint32_t g = side == SEND ? all[i].src : all[i].dst;
            const uint32_t track = take_track(&tracks[2 * (size_t)g + (size_t)side], all[i].begin_ns, all[i].end_ns);
            is_ok = track != MP_NONE;
            if (is_ok)
                put_transfer(o, in, &all[i], 2 * g + is_measured, side, track);
        }
    for (uint32_t k = 0; k < 2 * n_ranks && is_ok; k++)
        for (uint32_t track = 0; track < tracks[k].n; track++)
            mp_out_printf(
                o, ",\n{\"name\":\"thread_name\",\"ph\":\"M\",\"pid\":%u,\"tid\":%u,\"args\":{\"name\":\"%s %u\"}}",
                2 * (k / 2) + is_measured, k % 2 * TRACKS + track, k % 2 == SEND ? "send" : "receive", track + 1);
    for (uint32_t k = 0; tracks != NULL && k < 2 * n_ranks; k++)
        mp_free(tracks[k].free_at);
    mp_free(tracks);
    return is_ok;
}

void mp_exec_write_timeline(const struct mp_exec_result *r, const struct mp_exec *in, struct mp_out *o) {
    json_t *head = json_pack("{s:s,s:s,s:s,s:s,s:o,s:o}", "source", "moeplan-exec", "transport", r->transport,
                             "strategy", in->plan->provenance.strategy, "topology", in->topology->name, "model",
                             text_or_null(in->matrix == NULL ? in->model->name : NULL), "dispatcher",
                             text_or_null(in->matrix == NULL ? in->dispatcher->name : NULL));
    mp_out_puts(o, "{\"displayTimeUnit\":\"ns\",\"otherData\":");
    mp_json_write(head, o);
    mp_out_puts(o, ",\"traceEvents\":[");
    json_decref(head);
    if (!put_transfers(o, in, r->predicted, r->n_predicted, r->n_ranks, false) ||
        !put_transfers(o, in, r->measured, r->n_measured, r->n_ranks, true))
        mp_out_fail(o, MP_ENOMEM, "out of memory: a timeline");
    mp_out_puts(o, "\n]}\n");
}
