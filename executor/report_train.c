#include "report_train.h"
#include <moeplan/report.h>
#include <moeplan/train.h>
#include <stdlib.h>
#include <string.h>

struct figures { /* of steps under a policy */
    uint64_t min_ns, median_ns, max_ns, mean_ns, predicted_ns;
};

static int ascending(const void *a, const void *b) {
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static bool figures_of(struct figures *f, const struct mp_exec_result *r, uint32_t k) {
    const size_t n = (size_t)r->n_steps * r->n_iterations;
    uint64_t *sorted = mp_calloc(n, sizeof *sorted);
    *f = (struct figures){0};
    if (sorted == NULL || n == 0) {
        mp_free(sorted);
        return false;
    }
    memcpy(sorted, r->training[k].step_ns, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, ascending);
    f->min_ns = sorted[0];
    f->median_ns = sorted[(n - 1) / 2];
    f->max_ns = sorted[n - 1];
    for (size_t i = 0; i < n; i++)
        f->mean_ns += sorted[i] / n;
    for (uint32_t s = 0; s < r->n_steps; s++)
        f->predicted_ns += r->training[k].predicted_ns[s] / r->n_steps;
    mp_free(sorted);
    return true;
}

static double ratio(uint64_t a, uint64_t b) { return b > 0 ? (double)a / (double)b : 0; }

static void cell_ns(struct mp_table *t, uint64_t ns) {
    char buf[32];
    mp_table_cell(t, "%s", ns == 0 ? "-" : mp_human_ns((double)ns, buf));
}
static void cell_pair(struct mp_table *t, uint64_t measured, uint64_t predicted) {
    char a[32], b[32];
    if (measured == 0 && predicted == 0)
        mp_table_cell(t, "-");
    else
        mp_table_cell(t, "%s (%s)", mp_human_ns((double)measured, a), mp_human_ns((double)predicted, b));
}

/* ---- text ---- */

static void put_steps(const struct mp_exec_result *r, const struct figures *f, const struct mp_style *style,
                      struct mp_out *o) {
    static const char *const columns[] = {
        "policy",  "step",         "min",     "max",      "predicted", "predicted/measured",
        "against", "predicted so", "forward", "backward", "gradients", "late"};
    struct mp_table *t = mp_table_new();
    if (t == NULL) {
        mp_out_fail(o, MP_ENOMEM, "out of memory: a report");
        return;
    }
    mp_table_columns(t, columns, sizeof columns / sizeof *columns, "008912346578", 1);
    for (uint32_t k = 0; k < r->n_policies; k++) {
        const struct mp_exec_training *x = &r->training[k];
        mp_table_cell(t, "%s%s", x->policy, x->is_cut_down ? " *" : "");
        cell_ns(t, f[k].median_ns);
        cell_ns(t, f[k].min_ns);
        cell_ns(t, f[k].max_ns);
        cell_ns(t, f[k].predicted_ns);
        mp_table_cell(t, "%.3f", ratio(f[k].predicted_ns, f[k].median_ns));
        mp_table_cell(t, "%+.1f %%", 100 * (ratio(f[k].median_ns, f[0].median_ns) - 1));
        mp_table_cell(t, "%+.1f %%", 100 * (ratio(f[k].predicted_ns, f[0].predicted_ns) - 1));
        cell_pair(t, x->forward_ns, x->predicted_forward_ns);
        cell_pair(t, x->backward_ns, x->predicted_backward_ns);
        cell_pair(t, x->gradients_ns, x->predicted_gradients_ns);
        cell_ns(t, x->late_ns);
    }
    mp_table_show(t, style, o);
    mp_table_free(t);
}

static void put_layers(const struct mp_exec_result *r, const struct mp_exec *in, const struct mp_style *style,
                       struct mp_out *o) {
    static const char *const columns[] = {"policy",         "layer", "dispatch",           "combine",
                                          "to the experts", "home",  "gradients summed at"};
    struct mp_table *t = mp_table_new();
    if (t == NULL) {
        mp_out_fail(o, MP_ENOMEM, "out of memory: a report");
        return;
    }
    for (size_t i = 0; i < sizeof columns / sizeof *columns; i++)
        mp_table_column(t, columns[i], i > 0);
    for (uint32_t k = 0; k < r->n_policies; k++)
        for (uint32_t l = 0; l < r->n_layers; l++) {
            const struct mp_exec_training_layer *x = &r->training[k].layers[l];
            mp_table_cell(t, "%s", r->training[k].policy);
            mp_table_cell(t, "%u", in->plan->layers[l].layer_id);
            for (int i = 0; i < 4; i++)
                cell_pair(t, x->a2a_ns[i], x->predicted_a2a_ns[i]);
            cell_pair(t, x->reduced_ns, x->predicted_reduced_ns);
        }
    mp_table_show(t, style, o);
    mp_table_free(t);
}

/* Pairs of policies that stand the other way round than predicted. */
static void put_order(const struct mp_exec_result *r, const struct figures *f, struct mp_out *o) {
    uint32_t n_pairs = 0, n_same = 0;
    for (uint32_t a = 0; a < r->n_policies; a++)
        for (uint32_t b = a + 1; b < r->n_policies; b++) {
            const bool is_faster = f[a].median_ns < f[b].median_ns, was_to_be = f[a].predicted_ns < f[b].predicted_ns;
            n_pairs++;
            n_same += is_faster == was_to_be || f[a].predicted_ns == f[b].predicted_ns;
            if (is_faster == was_to_be || f[a].predicted_ns == f[b].predicted_ns)
                continue;
            mp_out_printf(o, "%s was to be %.1f %% %s than %s and was %.1f %% %s\n", r->training[a].policy,
                          100 * (was_to_be ? ratio(f[b].predicted_ns, f[a].predicted_ns) - 1
                                           : ratio(f[a].predicted_ns, f[b].predicted_ns) - 1),
                          was_to_be ? "faster" : "slower", r->training[b].policy,
                          100 * (is_faster ? ratio(f[b].median_ns, f[a].median_ns) - 1
                                           : ratio(f[a].median_ns, f[b].median_ns) - 1),
                          is_faster ? "faster" : "slower");
        }
    if (n_pairs > 0)
        mp_out_printf(o, "%u of %u pairs of policies stand in the order that was predicted\n", n_same, n_pairs);
}

void ex_report_training(const struct mp_exec_result *r, const struct mp_exec *in, const struct mp_style *style,
                        struct mp_out *o) {
    struct figures *f = mp_calloc(r->n_policies, sizeof *f);
    char bytes[32], gradients[32];
    bool is_cut_down = false;
    for (uint32_t k = 0; f != NULL && k < r->n_policies; k++) {
        is_cut_down |= r->training[k].is_cut_down;
        if (!figures_of(&f[k], r, k)) {
            mp_free(f);
            f = NULL;
        }
    }
    if (f == NULL) {
        mp_out_fail(o, MP_ENOMEM, "out of memory: a report");
        return;
    }
    put_steps(r, f, style, o);
    if (is_cut_down)
        mp_out_puts(o, "* all-to-alls of two phases stay whole and nothing is pipelined, in what is predicted too\n");
    mp_out_puts(o, "\n");
    put_layers(r, in, style, o);
    mp_out_puts(o, "\n");
    put_order(r, f, o);
    mp_out_printf(o,
                  "%u step%s, %u iteration%s after %u; times count from a step's begin and are the slowest rank's; in "
                  "brackets what was predicted; step: median, all else means; late: packing and checking took longer "
                  "than the computation they are hidden in\n",
                  r->n_steps, r->n_steps == 1 ? "" : "s", r->n_iterations, r->n_iterations == 1 ? "" : "s",
                  in->n_warmup);
    mp_out_printf(
        o,
        "verified: %llu tokens back home, %llu copies where they arrived, %s moved; %s of gradients, on every "
        "rank the sum of all holders' own\n",
        (unsigned long long)r->n_tokens, (unsigned long long)r->n_copies, mp_human_bytes((double)r->n_bytes, bytes),
        mp_human_bytes((double)r->n_gradient_bytes, gradients));
    mp_free(f);
}

/* ---- JSON ---- */

static json_t *whole(uint64_t v) { return json_integer((json_int_t)(v < INT64_MAX ? v : INT64_MAX)); }

static json_t *layer_json(const struct mp_exec_training_layer *x, uint32_t layer_id) {
    json_t *measured = json_array(), *predicted = json_array();
    for (int i = 0; i < 4; i++) {
        (void)json_array_append_new(measured, whole(x->a2a_ns[i]));
        (void)json_array_append_new(predicted, whole(x->predicted_a2a_ns[i]));
    }
    return json_pack("{s:i,s:o,s:o,s:o,s:o}", "layer", (int)layer_id, "a2a_ns", measured, "predicted_a2a_ns", predicted,
                     "gradients_at_ns", whole(x->reduced_ns), "predicted_gradients_at_ns",
                     whole(x->predicted_reduced_ns));
}

json_t *ex_report_training_json(const struct mp_exec_result *r, const struct mp_exec *in) {
    json_t *all = json_array();
    for (uint32_t k = 0; k < r->n_policies && all != NULL; k++) {
        const struct mp_exec_training *x = &r->training[k];
        const struct mp_train_policy *p = &in->policies[k].policy;
        struct figures f;
        json_t *layers = json_array();
        for (uint32_t l = 0; l < r->n_layers; l++)
            (void)json_array_append_new(layers, layer_json(&x->layers[l], in->plan->layers[l].layer_id));
        json_t *one =
            !figures_of(&f, r, k)
                ? NULL
                : json_pack("{s:s,s:{s:o,s:o,s:o,s:o,s:i},s:o,s:f,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:i,s:i,s:b,s:b,s:s,s:s,"
                            "s:b,s:o,"
                            "s:o,s:o,s:O}",
                            "policy", x->policy, "step_ns", "min", whole(f.min_ns), "median", whole(f.median_ns), "max",
                            whole(f.max_ns), "mean", whole(f.mean_ns), "samples", (int)(r->n_steps * r->n_iterations),
                            "predicted_ns", whole(f.predicted_ns), "predicted_over_measured",
                            ratio(f.predicted_ns, f.median_ns), "forward_ns", whole(x->forward_ns),
                            "predicted_forward_ns", whole(x->predicted_forward_ns), "backward_ns",
                            whole(x->backward_ns), "predicted_backward_ns", whole(x->predicted_backward_ns),
                            "gradients_ns", whole(x->gradients_ns), "predicted_gradients_ns",
                            whole(x->predicted_gradients_ns), "late_ns", whole(x->late_ns), "a2a_chunks",
                            (int)x->n_a2a_chunks, "allreduce_chunks", (int)x->n_sum_chunks, "a2a_stay_whole",
                            (int)x->is_cut_down, "shared", (int)p->is_shared, "guard", mp_train_guard_name(p->guard),
                            "order", mp_train_order_name(p->order), "pipelined", (int)p->is_pipelined,
                            "a2a_chunk_bytes", whole(p->a2a_chunk_bytes), "reduce_chunk_bytes",
                            whole(p->reduce_chunk_bytes), "bucket_bytes", whole(p->bucket_bytes), "layers", layers);
        json_decref(layers);
        if (one == NULL || json_array_append_new(all, one) != 0) {
            json_decref(all);
            all = NULL;
        }
    }
    return all;
}
