/* moeplan simulate: what a plan (or any stack's placement) is worth on a recording. */
#include <math.h>
#include "lossy.h"
#include "rehoming.h"
#include "score.h"
#include "served.h"
#include "training.h"
#include <stdio.h>
#include <string.h>

/* barrier: the step with barriers, beside a pipelined one; else 0. */
static void write_text(const struct setup *s, const struct score *score, uint64_t barrier_ns, struct mp_out *o) {
    char a[32], b[32], c[32], text[1024];
    const struct mp_sim_result *r = score->result;
    const struct mp_balance *l = &r->balance;
    double step = (double)r->mean.step_ns;
    mp_out_printf(o, "%s%s on %s%s%s\n%s\n\n", score->name, lossy_mark(score), s->topology->name,
                  score->is_imported ? ", route " : "",
                  score->is_imported ? mp_route_rule_name(score->plan->route) : "",
                  score_describe(s, text, sizeof text));
    lossy_head(s, o);
    lossy_line(score, o);
    rehoming_head(s, o);
    if (s->lossy != NULL || s->rehoming != NULL)
        mp_out_puts(o, "\n");
    if (served_describe(s->o, score->plan, text, sizeof text)[0] != '\0')
        mp_out_printf(o, "replicas as %s\n\n", text);
    if (served_loses_route(s->o, score->plan))
        mp_out_printf(o, "the plan's own routing, %s, is not among what those servers do\n\n",
                      mp_route_rule_name(score->plan->route));
    if (score->note[0] != '\0')
        mp_out_printf(o, "%s\n\n", score->note);
    mp_out_printf(o, "step        %s mean", mp_human_ns(step, a));
    if (score->shown.no_interval != NULL)
        mp_out_printf(o, " (no interval: %s)", score->shown.no_interval);
    else if (score->shown.step_ns.is_known)
        mp_out_printf(o, " (95 %% interval %s .. %s)", mp_human_ns(score->shown.step_ns.low, a),
                      mp_human_ns(score->shown.step_ns.high, b));
    mp_out_printf(o, ", p50 %s, p95 %s, max %s\n", mp_human_ns((double)r->p50_ns, a), mp_human_ns((double)r->p95_ns, b),
                  mp_human_ns((double)r->max_ns, c));
    if (barrier_ns > 0)
        mp_out_printf(o, "barriers    %s mean: %.2f %% %s pipelined\n", mp_human_ns((double)barrier_ns, a),
                      100 * fabs(1 - step / (double)barrier_ns), step <= (double)barrier_ns ? "shorter" : "longer");
    const struct {
        const char *name;
        uint64_t ns;
    } parts[] = {{"dispatch", r->mean.dispatch_ns},
                 {"experts", r->mean.compute_ns},
                 {"combine", r->mean.combine_ns},
                 {"other", r->mean.other_ns}};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        mp_out_printf(o, "%-10s  %s (%.1f %% of the step)\n", parts[i].name, mp_human_ns((double)parts[i].ns, a),
                      100 * (double)parts[i].ns / step);
    if (barrier_ns == 0 && r->lower_bound_ns > 0)
        mp_out_printf(o, "bound       %s, gap %.1f %%\n", mp_human_ns((double)r->lower_bound_ns, a), 100 * r->gap);
    mp_out_printf(o, "bytes       %s inside nodes, %s between nodes, per step\n", mp_human_bytes(r->intra_bytes, a),
                  mp_human_bytes(r->inter_bytes, b));
    mp_out_printf(o, "copies      %.0f per (token, expert), %.0f per (token, GPU), %.0f per (token, node), per step\n",
                  r->copies_expert, r->copies_gpu, r->copies_node);
    if (score->plan->homes.is_present)
        mp_out_printf(o,
                      "homes       %s: %.0f copies per (token, expert) between nodes, %.0f de-duplicated, per step\n",
                      score->plan->homes.method, r->copies_inter, r->copies_node);
    mp_out_printf(
        o,
        "imbalance   max/mean %.3f (worst %.3f; of totals %.3f), mean/max %.3f, sum mean/sum max %.3f, excess %.3f\n",
        l->max_over_mean, l->max_over_mean_worst, l->totals_max_over_mean, l->mean_over_max, l->sum_mean_over_sum_max,
        l->excess);
    mp_out_printf(o, "utilization %.1f %% of the MoE time\n", 100 * r->utilization);
    mp_out_printf(o, "memory      %s of weights on the fullest GPU, %s tokens of KV cache beside them\n",
                  mp_human_bytes((double)r->memory_bytes_max, a), score_kv_tokens(s, r, b));
}

static void write_json(const struct setup *s, const struct score *score, uint64_t barrier_ns,
                       const struct training *training, const struct rehoming_table *rehoming, struct mp_out *o) {
    json_t *root = mp_scored_json(&score->shown, score_steps(score, s));
    json_t *head = json_pack("{s:s,s:i,s:s,s:s,s:s,s:s,s:s,s:b}", "schema", "moeplan.simulate", "version", 1,
                             "topology", s->topology->name, "model", s->model->name, "phase",
                             mp_phase_name(s->batching.phase), "dispatcher", s->sim.dispatcher->name, "timeline",
                             s->sim.is_pipelined ? "pipelined" : "barrier", "synthetic", (int)s->trace->is_synthetic);
    if (head != NULL && s->o->for_stack != NULL &&
        json_object_set_new(head, "replica_choice", served_json(s->o, score->plan)) != 0) {
        json_decref(head);
        head = NULL;
    }
    if (root == NULL || head == NULL || json_object_update(head, root) != 0 || !lossy_json(s, score, head) ||
        !rehoming_mark_json(s, head) ||
        (s->sim.routing_ns > 0 &&
         json_object_set_new(head, "routing_ns", json_integer((json_int_t)s->sim.routing_ns)) != 0) ||
        (score->plan->homes.is_present && json_object_set_new(head, "homes", score_homes_json(score)) != 0) ||
        (training != NULL && json_object_set_new(head, "training", training_json(training)) != 0) ||
        (rehoming != NULL && json_object_set_new(head, "rehome", rehoming_json(rehoming)) != 0) ||
        (barrier_ns > 0 &&
         json_object_set_new(head, "step_time_barrier_ns", json_integer((json_int_t)barrier_ns)) != 0)) {
        json_decref(head);
        head = NULL;
    }
    mp_json_write(head, o);
    json_decref(head);
    json_decref(root);
}

enum mp_status cmd_simulate(const struct opts *o, const struct args *args, int *exit_code, struct mp_error *err) {
    (void)exit_code;
    struct setup s = {.o = o};
    struct score score = {0};
    struct mp_out *out = NULL;
    struct mp_sim_result *barrier = NULL;
    struct training *training = NULL;
    struct rehoming_table *rehoming = NULL;
    uint64_t barrier_ns = 0;
    enum mp_status status = MP_OK;
    MP_TRY(setup_load(&s, o, args->value[1], args->value[2], err));
    MP_TRY(score_load(&score, &s, args->value[0], err));
    if (score.plan->provenance.has_workload)
        snprintf(score.name, sizeof score.name, "%s", score.plan->provenance.strategy);
    MP_TRY(setup_as_planned(&s, score.plan, err));
    MP_TRY(lossy_planned(&s, score.plan, err));
    if (o->travel != NULL)
        s.sim.dispatcher = mp_travel_find(o->travel);
    MP_TRY(score_all(&score, 1, 0, &s, (uint32_t)o->interval_groups, err));
    if (s.sim.is_pipelined) { /* both are shown */
        struct mp_sim_options other = s.sim;
        other.is_pipelined = other.with_bound = false;
        other.flow = lossy_flow(&s);
        MP_TRY(served_simulate(&barrier, &s, score.plan, s.workload, &other, err));
        barrier_ns = barrier->mean.step_ns;
    }
    MP_TRY(training_run(&training, &s, &score, args->value[0], err));
    MP_TRY(rehoming_run(&rehoming, &s, &score, err));
    MP_TRY(tool_open_result(&out, o, err));
    if (o->json)
        write_json(&s, &score, barrier_ns, training, rehoming, out);
    else
        write_text(&s, &score, barrier_ns, out);
    if (!o->json && training != NULL)
        training_text(training, o->style, out);
    if (!o->json)
        rehoming_text(rehoming, o->style, out);
    status = tool_close_result(out, o, err);
out:
    rehoming_free(rehoming);
    training_free(training);
    mp_sim_result_free(barrier);
    score_free(&score);
    setup_free(&s);
    return status;
}
