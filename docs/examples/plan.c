/* A plan made, verified and judged through libmoeplan: what docs/API.md walks through.
 *
 *     cc plan.c $(pkg-config --cflags --libs moeplan) -o plan
 *     ./plan decode.mpt 2x4:h100 gpt-oss-20b search 4 plan.yaml
 */
#include <moeplan/moeplan.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

enum { SEED = 1 }; /* as the program moeplan has it: the same seed, the same bytes */

/* Everything that main owns: all NULL or 0 in the beginning, so that freeing is always allowed. */
struct job {
    struct mp_trace *trace;
    struct mp_topology *topology;
    struct mp_model *model;
    struct mp_part planning, held_out;
    struct mp_workload *steps; /* of the held-out requests */
    struct mp_plan *plan, *usual;
    struct mp_out *file;
};

static void job_free(struct job *j) {
    mp_out_cancel(j->file);
    mp_plan_free(j->usual);
    mp_plan_free(j->plan);
    mp_workload_free(j->steps);
    mp_part_free(&j->held_out);
    mp_part_free(&j->planning);
    mp_model_free(j->model);
    mp_topology_free(j->topology);
    mp_trace_free(j->trace);
}

/* What does the plan's mean step take on the held-out requests? */
static enum mp_status step_time(uint64_t *ns, const struct job *j, const struct mp_plan *plan,
                                const struct mp_sim_options *sim, struct mp_error *err) {
    struct mp_sim_result *result;
    enum mp_status status = mp_simulate(&result, plan, j->steps, j->topology, j->model, sim, err);
    if (status != MP_OK)
        return status;
    *ns = result->mean.step_ns;
    mp_sim_result_free(result);
    return MP_OK;
}

static enum mp_status run(struct job *j, char **word, struct mp_error *err) {
    enum mp_status status;
    enum mp_outcome outcome;
    struct mp_verify_report *report;
    uint64_t usual_ns, plan_ns;

    /* 1. What there is: a recording, GPUs, a model. */
    MP_TRY(mp_trace_load(&j->trace, word[0], &mp_trace_hints_none, &mp_limits_default, err));
    MP_TRY(mp_topology_load(&j->topology, word[1], &mp_limits_default, err));
    MP_TRY(mp_model_load(&j->model, word[2], &mp_limits_default, err));

    /* 2. Half of the requests to plan on, the other half to judge by; steps of them. */
    const struct mp_split split = {.kind = MP_SPLIT_HASH, .planning_ppm = 500000, .seed = SEED};
    const struct mp_batching batching = {.phase = j->trace->phase,
                                         .n_ranks = j->topology->n_gpus,
                                         .batch_per_rank = (uint32_t)strtoul(word[4], NULL, 10),
                                         .seed = SEED};
    MP_TRY(mp_part_split(&j->planning, &j->held_out, j->trace, &split, err));
    MP_TRY(mp_workload_build(&j->steps, &j->held_out, &batching, err));

    /* 3. Two plans: what is usual today, and what was asked for. */
    const struct mp_sim_options sim = {.dispatcher = mp_dispatcher_default(batching.phase, j->trace->kind),
                                       .stage_mode = -1,
                                       .n_threads = 2,
                                       .seed = SEED};
    struct mp_plan_request request = {.planning = &j->planning,
                                      .batching = batching,
                                      .split = split,
                                      .topology = j->topology,
                                      .model = j->model,
                                      .sim = sim,
                                      .strategy = "contiguous",
                                      .seed = SEED,
                                      .n_threads = 2,
                                      .limits = &mp_limits_default};
    MP_TRY(mp_plan_make(&j->usual, &request, &outcome, NULL, err));
    request.strategy = word[3];
    if (outcome == MP_FOUND)
        MP_TRY(mp_plan_make(&j->plan, &request, &outcome, NULL, err));
    if (outcome != MP_FOUND) { /* no failure: the answer is no, and err->message says why */
        printf("no plan: %s\n", err->message);
        mp_error_clear(err);
        return MP_OK;
    }

    /* 4. mp_plan_make lets nothing out that was not verified; a plan from elsewhere is verified so. */
    MP_TRY(mp_plan_verify(&report, j->plan, j->trace, j->topology, j->model, err));
    for (uint32_t i = 0; i < report->n; i++)
        printf("%s: %s\n", mp_violation_name(report->violations[i].kind), report->violations[i].message);
    printf("%s: %s, %" PRIu64 " facts compared\n", word[3], report->n == 0 ? "accepted" : "refused", report->n_checks);
    mp_verify_report_free(report);

    /* 5. Is it worth it, on requests that it has not seen? */
    MP_TRY(step_time(&usual_ns, j, j->usual, &sim, err));
    MP_TRY(step_time(&plan_ns, j, j->plan, &sim, err));
    printf("contiguous: %" PRIu64 " ns a step, held out\n%s: %" PRIu64 " ns a step, %+.2f %%\n", usual_ns, word[3],
           plan_ns, 100 * ((double)plan_ns / (double)usual_ns - 1));

    /* 6. The file, whole or not at all. */
    MP_TRY(mp_out_open(&j->file, word[5], err));
    mp_plan_write(j->plan, j->file);
    status = mp_out_commit(j->file, err);
    j->file = NULL; /* commit has ended it either way */
out:
    return status;
}

int main(int argc, char **argv) {
    struct job job = {0};
    struct mp_error err = {0};
    char text[2048];
    if (argc != 7) {
        fprintf(stderr, "usage: %s TRACE TOPOLOGY MODEL STRATEGY BATCH PLAN    (libmoeplan %s)\n", argv[0],
                mp_version());
        return 2;
    }
    enum mp_status status = run(&job, argv + 1, &err);
    job_free(&job);
    if (status != MP_OK)
        fprintf(stderr, "%s\n", mp_error_text(&err, text, sizeof text));
    return mp_exit_code(status);
}
