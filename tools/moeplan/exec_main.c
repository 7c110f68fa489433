/* moeplan-exec: replays a plan over real links, checks every token, and says how true the prediction was. */
#include "help.h"
#include "lossy.h"
#include "rehoming.h"
#include "terminal.h"
#include "train_exec.h"
#include <moeplan/calibrate.h>
#include <moeplan/matrix.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATIENCE_MS = 200 }; /* beyond the deadline, before ranks that have not ended are killed */

static const struct argument exec_arguments[] = {
    {"PLAN", "a plan file; with --calibrate left out, and TRACE too", true, false, WORDS_FILE},
    {"TRACE", "a recording in any known format (moeplan list formats); with --matrix a traffic matrix", true, false,
     WORDS_FILE},
    {"TOPOLOGY",
     "a YAML file, or a short string such as 8:h100 or 4x8:h100 (moeplan list topologies); with --calibrate: by "
     "default the emulated cluster's, else one node with a GPU for each rank",
     true, false, WORDS_FILE},
    {0}};
static const enum opt_id exec_options[] = {OPT_TRANSPORT,
                                           OPT_ITERATIONS,
                                           OPT_WARMUP,
                                           OPT_DEADLINE,
                                           OPT_TIMELINE_FILE,
                                           OPT_COMPUTE,
                                           OPT_TRAIN,
                                           OPT_CHUNK_SCALE,
                                           OPT_REHOME,
                                           OPT_REHOME_BALANCE,
                                           OPT_REHOME_SLACK,
                                           OPT_REHOME_CANDIDATES,
                                           OPT_CONDENSE,
                                           OPT_CONDENSE_HISTORY,
                                           OPT_CALIBRATE,
                                           OPT_OUT,
                                           OPT_STRICT_FITS,
                                           OPT_PROBE,
                                           OPT_MATRIX,
                                           OPT_TOKEN_BYTES,
                                           OPT_LOCAL,
                                           OPT_RENDEZVOUS,
                                           OPT_RANK,
                                           OPT_NRANKS,
                                           OPT_HOSTS,
                                           OPT_MODEL,
                                           OPT_SPLIT_SIMULATE,
                                           OPT_BATCH,
                                           OPT_TOKENS_PER_RANK,
                                           OPT_RESAMPLE,
                                           OPT_STEPS,
                                           OPT_SOURCE_SKEW,
                                           OPT_PAD,
                                           OPT_DISPATCHER,
                                           OPT_SOURCES,
                                           OPT_STAGE_BARRIER,
                                           OPT_STAGE_COUPLED,
                                           OPT_INPUT_FORMAT,
                                           OPT_PHASE,
                                           OPT_LAYER_BASE,
                                           OPT_IDS,
                                           OPT_MAP,
                                           OPT_REQUESTS,
                                           OPT_RANKED,
                                           OPT_EXPERTS,
                                           OPT_TOP_K,
                                           OPT_AXES,
                                           OPT_MTP_BASE,
                                           OPT_PIPELINE_STAGES,
                                           OPT_JSON,
                                           OPT_OUTPUT_FORMAT,
                                           OPT_TABLE,
                                           OPT_COLOR,
                                           OPT_ALL_COLUMNS,
                                           OPT_QUIET,
                                           OPT_SEED,
                                           OPT_THREADS,
                                           OPT_MEM_LIMIT,
                                           OPT_LIST,
                                           OPT_MAN,
                                           OPT_COMPLETION,
                                           OPT_MARKDOWN,
                                           OPT_VERSION,
                                           OPT_HELP,
                                           OPT_FAULT,
                                           OPT_END};
static const char *const exec_examples[] = {
    "moeplan-exec plan.yaml trace.npz 8:h100",
    "moeplan-exec plan.yaml trace.npz 2x4:h100 --transport loop --steps 4 --timeline step.json --json",
    "moeplan-exec plan.yaml trace.npz 8:h100 --transport socket --train fair,lina,plan",
    "moeplan-exec order.yaml traffic.csv 8:h100 --matrix",
    "moeplan-exec --calibrate 8:h100 --transport socket -o measured.yaml",
    "tools/emulate slow.yaml -- moeplan-exec --calibrate --transport socket -o measured.yaml",
    NULL};
static const struct verb exec_verb = {
    .name = "moeplan-exec",
    .summary = "replay a plan over real links and check every token",
    .usage = "moeplan-exec PLAN TRACE TOPOLOGY [options], or moeplan-exec --calibrate [TOPOLOGY] -o FILE",
    .about =
        "Rebuilds the steps that the plan was made for (or those of the options, as moeplan simulate), and for each "
        "step and layer moves every token to its experts and back in the stages of the plan, over the transport. "
        "Every token is checked bit for bit where it arrives and back home. Prints what it took beside the bound "
        "and the prediction. Plans for training, and --train, replay whole training steps: the backward pass too, and "
        "allreduces of gradients beside the all-to-alls, each sum checked. With --calibrate it runs no plan: it times "
        "short transfers and writes a topology whose "
        "rates, latencies, launch costs, incast curve and, with --model, compute coefficients are fitted to them. Exit "
        "code 5: a rank failed or was too slow, or something came wrong.",
    .arguments = exec_arguments,
    .options = exec_options,
    .examples = exec_examples,
    .is_program = true,
};

/* ---- about itself ---- */

static void list_transports(const struct opts *o, struct mp_out *out) {
    const char *name, *summary, *needs;
    json_t *all = json_array();
    struct mp_table *t = mp_table_new();
    mp_table_column(t, "transport", false);
    mp_table_column(t, "needs", false);
    mp_table_column(t, "what it is", false);
    for (uint32_t i = 0; mp_transport_at(i, &name, &summary, &needs); i++) {
        mp_table_cell(t, "%s", name);
        mp_table_cell(t, "%s", needs);
        mp_table_cell(t, "%s", summary);
        (void)json_array_append_new(all, json_pack("{s:s,s:s,s:s}", "name", name, "needs", needs, "summary", summary));
    }
    if (o->json) {
        json_t *root = json_pack("{s:s,s:i,s:O}", "schema", "moeplan.transports", "version", 1, "transports", all);
        mp_json_write(root, out);
        json_decref(root);
    } else {
        mp_table_show(t, o->style, out);
    }
    json_decref(all);
    mp_table_free(t);
}

/* What asks about the program itself, and needs no arguments. */
static bool is_about_itself(const struct opts *o) {
    return o->help || o->version || o->man || o->markdown || o->completion != NULL || o->list != NULL;
}
static enum mp_status about_itself(const struct opts *given, struct mp_error *err) {
    struct mp_out *out;
    struct opts own = *given, *o = &own;
    if (own.list == NULL || own.help || own.version || own.man || own.markdown || own.completion != NULL)
        own.output = FORMAT_TABLE; /* only the list is a result */
    enum mp_status status = tool_open_result(&out, o, err);
    if (status != MP_OK)
        return status;
    if (o->help)
        help_verb(&exec_verb, out);
    else if (o->version)
        mp_out_printf(out, "moeplan-exec %s\n", MOEPLAN_VERSION);
    else if (o->man)
        help_man(&exec_verb, out);
    else if (o->markdown)
        help_program_markdown(&exec_verb, out);
    else if (o->completion != NULL && o->completion[0] == 'b')
        help_program_bash(&exec_verb, out);
    else if (o->completion != NULL && o->completion[0] == 'z')
        help_program_zsh(&exec_verb, out);
    else if (o->completion != NULL)
        help_program_fish(&exec_verb, out);
    else
        list_transports(o, out);
    return tool_close_result(out, o, err);
}

/* ---- a run ---- */

/* The plan, its structure accepted by the verifier, fitted to the recording. */
static enum mp_status load_plan(struct mp_plan **out, const struct setup *s, const char *path, bool *is_refused,
                                struct mp_error *err) {
    struct mp_verify_report *report = NULL;
    enum mp_status status = MP_OK;
    MP_TRY(mp_plan_load(out, path, &s->o->limits, err));
    MP_TRY(mp_plan_verify(&report, *out, NULL, NULL, NULL, err));
    *is_refused = report->n > 0;
    if (*is_refused)
        fprintf(stderr, "moeplan-exec: %s: %s: %s\n", path, mp_violation_name(report->violations[0].kind),
                report->violations[0].message);
    else if (s->trace != NULL)
        MP_TRY(score_fit(*out, path, s->trace, s->topology, err));
    else if ((*out)->n_gpus != s->topology->n_gpus)
        status = mp_fail_at(err, MP_EINPUT, path, 0, 0,
                            "is for %u GPUs, the topology has %u (give the topology it was made for)", (*out)->n_gpus,
                            s->topology->n_gpus);
out:
    mp_verify_report_free(report);
    return status;
}

static struct mp_exec exec_of(const struct setup *s, const struct mp_plan *plan, const uint64_t *matrix,
                              const struct train_policies *policies) {
    const struct opts *o = s->o;
    return (struct mp_exec){
        .plan = plan,
        .workload = s->workload,
        .matrix = matrix,
        .topology = s->topology,
        .model = s->model,
        .dispatcher = s->sim.dispatcher,
        .sources = s->sim.sources,
        .stage_mode = s->sim.stage_mode,
        .flow = matrix == NULL && plan != NULL ? lossy_flow(s) : NULL,
        .n_policies = policies->n,
        .policies = policies->list,
        .gradient_bits = plan != NULL && plan->training.is_present ? plan->training.gradient_bits : 0,
        .transport = o->transport,
        .n_warmup = (uint32_t)o->warmup,
        .n_iterations = (uint32_t)o->iterations,
        .seed = o->seed,
        .n_threads = tool_threads(o),
        .with_gemm = strcmp(o->compute, "gemm") == 0,
        .with_timeline = o->timeline_file != NULL,
        .deadline_ms = o->deadline_ms,
        .fault = o->fault,
        .n_ranks = s->topology->n_gpus,
        .n_local = s->topology->n_gpus,
        .launcher_fd = -1,
    };
}

/* ---- ranks ---- */

/* How this process came to be a rank. */
struct start {
    struct mp_launch found; /* by the environment */
    struct mp_local *local; /* or we have started all ranks */
    char rendezvous[MP_RENDEZVOUS_SIZE];
};

static const char *from_environment(void *ctx, const char *name) {
    (void)ctx;
    return getenv(name);
}

/* With a rank in each process: which one this is. All of them, one after the other, when nobody says: then this process
 * forks, and comes back as each rank and, with first_rank MP_NONE, as their parent. */
static enum mp_status find_rank(struct start *start, struct mp_exec *in, const struct opts *o, struct mp_error *err) {
    enum mp_status status = MP_OK;
    if (!mp_transport_has_one_rank_each(in->transport)) {
        in->first_rank = (uint32_t)o->rank;
        in->n_local = o->is_set[OPT_RANK] ? 1 : in->n_ranks;
        in->rendezvous = o->rendezvous; /* what the transport has no use for, it refuses */
        in->hosts = o->hosts;
        return MP_OK;
    }
    in->n_local = 1;
    if (!o->is_set[OPT_LOCAL])
        status = mp_launch_find(&start->found, from_environment, NULL, err);
    if (status != MP_OK)
        return status;
    if (o->is_set[OPT_RANK]) {
        in->first_rank = in->local_rank = (uint32_t)o->rank;
    } else if (start->found.by != NULL) {
        if (start->found.n_ranks != in->n_ranks)
            return mp_fail(err, MP_EUSAGE, "%s started %u ranks, the plan is for %u GPUs (start one for each)",
                           start->found.by, start->found.n_ranks, in->n_ranks);
        in->first_rank = start->found.rank;
        in->local_rank = start->found.local_rank;
    } else if (o->rendezvous != NULL) {
        return mp_fail(err, MP_EUSAGE,
                       "--rendezvous is for ranks that are started one by one (add --rank and --nranks, or leave it "
                       "out)");
    } else {
        status = mp_local_start(&start->local, in->n_ranks, &in->first_rank, &in->launcher_fd, start->rendezvous, err);
        in->local_rank = in->first_rank;
        in->rendezvous = start->rendezvous;
        return status;
    }
    const bool is_mpi = strncmp(in->transport, "mpi", 3) == 0; /* it knows addresses, whatever the environment says */
    in->hosts = o->hosts != NULL ? o->hosts : is_mpi ? NULL : start->found.hosts;
    in->rendezvous = o->rendezvous != NULL                ? o->rendezvous
                     : start->found.rendezvous[0] != '\0' ? start->found.rendezvous
                                                          : NULL;
    return MP_OK;
}

/* The parent of forked ranks: until all have ended. */
static enum mp_status wait_for_ranks(struct start *start, const struct opts *o, int *exit_code, struct mp_error *err) {
    int number;
    enum mp_status status = mp_local_wait(start->local, o->deadline_ms + PATIENCE_MS, &number, exit_code, err);
    start->local = NULL;
    if (number != 0)
        (void)raise(number); /* start.c ends us as the signal says */
    return status;
}

/* A rank that was forked: its parent speaks. */
static void leave_ranks(struct start *start, int *exit_code, enum mp_status *status, const struct mp_error *err) {
    if (start->local == NULL)
        return;
    if (*status != MP_OK) {
        mp_local_fail(start->local, err);
        *exit_code = mp_exit_code(*status);
    }
    *status = MP_OK;
    mp_local_leave(start->local);
}

/* One rank for each GPU of the plan, whoever starts them. */
static enum mp_status check_ranks(const struct opts *o, uint32_t n_gpus, struct mp_error *err) {
    if (o->is_set[OPT_LOCAL] && o->local != n_gpus)
        return mp_fail(err, MP_EUSAGE, "--local: the plan is for %u GPUs (write --local %u)", n_gpus, n_gpus);
    if (o->is_set[OPT_NRANKS] && o->n_ranks != n_gpus)
        return mp_fail(err, MP_EUSAGE, "--nranks: the plan is for %u GPUs (start %u ranks)", n_gpus, n_gpus);
    if (o->is_set[OPT_RANK] && o->rank >= n_gpus)
        return mp_fail(err, MP_EUSAGE, "--rank: the plan is for %u GPUs (write 0 to %u)", n_gpus, n_gpus - 1);
    if (o->is_set[OPT_RANK] != o->is_set[OPT_NRANKS])
        return mp_fail(err, MP_EUSAGE, "--rank and --nranks go together (give both or none)");
    if (o->is_set[OPT_RANK] && o->is_set[OPT_LOCAL])
        return mp_fail(err, MP_EUSAGE, "--rank and --local exclude each other: one rank of many, or all of them here");
    return MP_OK;
}

/* --matrix: topology, matrix and plan, without a recording. */
static enum mp_status load_matrix(struct setup *s, const struct opts *o, const char *path, const char *topology,
                                  struct mp_matrix **matrix, uint64_t **bytes, struct mp_error *err) {
    enum mp_status status = MP_OK;
    *s = (struct setup){.o = o,
                        .sim = {.stage_mode = o->stage_barrier   ? (int)MP_STAGE_BARRIER
                                              : o->stage_coupled ? (int)MP_STAGE_COUPLED
                                                                 : -1}};
    MP_TRY(mp_topology_load(&s->topology, topology, &o->limits, err));
    MP_TRY(mp_matrix_load(matrix, path, NULL, 0, &o->limits, err));
    const size_t n = (*matrix)->n;
    if (n != s->topology->n_gpus)
        return mp_fail_at(err, MP_EINPUT, path, 0, 0,
                          "is for %zu GPUs, the topology has %u (give a topology of %zu, for instance %zu:h100)", n,
                          s->topology->n_gpus, n, n);
    *bytes = mp_calloc(n * n, sizeof **bytes);
    if (*bytes == NULL)
        return mp_nomem(err, path);
    if (!mp_matrix_bytes(*matrix, o->token_bytes, *bytes))
        return mp_fail_at(err, MP_ELIMIT, path, 0, 0,
                          "the cells times %llu bytes a token add up to more than 2^53 bytes",
                          (unsigned long long)o->token_bytes);
out:
    return status;
}

/* The steps of a recording, or a matrix. */
static enum mp_status load_traffic(struct setup *s, const struct opts *o, const struct args *args,
                                   struct mp_matrix **matrix, uint64_t **bytes, struct mp_error *err) {
    static const enum opt_id of_steps[] = {
        OPT_SPLIT_SIMULATE, OPT_BATCH,   OPT_TOKENS_PER_RANK, OPT_RESAMPLE, OPT_STEPS,   OPT_SOURCE_SKEW, OPT_PAD,
        OPT_DISPATCHER,     OPT_SOURCES, OPT_MODEL,           OPT_REHOME,   OPT_CONDENSE};
    if (!o->matrix && o->is_set[OPT_TOKEN_BYTES])
        return mp_fail(err, MP_EUSAGE, "--token-bytes is for matrices (add --matrix)");
    if (!o->matrix)
        return setup_load(s, o, args->value[1], args->value[2], err);
    for (size_t i = 0; i < sizeof of_steps / sizeof *of_steps; i++)
        if (o->is_set[of_steps[i]])
            return mp_fail(err, MP_EUSAGE, "--matrix has no steps, tokens or model (leave out --%s)",
                           opt_table[of_steps[i]].name);
    return load_matrix(s, o, args->value[1], args->value[2], matrix, bytes, err);
}

static enum mp_status write_results(const struct mp_exec_result *r, const struct mp_exec *in, const struct setup *s,
                                    struct mp_error *err) {
    const struct opts *o = s->o;
    struct mp_out *out = NULL, *timeline = NULL;
    char text[1024];
    enum mp_status status = MP_OK;
    if (o->timeline_file != NULL) {
        MP_TRY(mp_out_open(&timeline, o->timeline_file, err));
        mp_exec_write_timeline(r, in, timeline);
        status = mp_out_commit(timeline, err);
        if (status != MP_OK)
            return status;
    }
    MP_TRY(tool_open_result(&out, o, err));
    if (o->json) {
        mp_exec_write_json(r, in, out);
    } else {
        mp_out_printf(out, "%s on %s, transport %s\n%s\n\n", in->plan->provenance.strategy, s->topology->name,
                      r->transport,
                      in->matrix != NULL ? "a traffic matrix, there and back" : score_describe(s, text, sizeof text));
        if (in->flow_name != NULL)
            mp_out_printf(out, "tokens between layers: %s\n\n", in->flow_name);
        mp_exec_write_text(r, in, o->style, out);
    }
    status = tool_close_result(out, o, err);
out:
    return status;
}

/* The options that say where tokens are, for ranks to compare and for the report; NULL: they stay and all travel. */
static const char *name_flow(char *buf, size_t size, const struct opts *o) {
    size_t n = 0;
    if (o->rehome == NULL && o->condense == NULL)
        return NULL;
    if (o->rehome != NULL)
        n = (size_t)snprintf(buf, size, "rehome %s, balance %s, slack %llu ppm, %llu candidates%s", o->rehome,
                             o->rehome_balance, (unsigned long long)o->rehome_slack_ppm,
                             (unsigned long long)o->rehome_candidates, o->condense != NULL ? "; " : "");
    if (o->condense != NULL && n < size)
        (void)snprintf(buf + n, size - n, "LOSSY: condensed at %s, history %s", o->condense,
                       o->condense_history != NULL ? o->condense_history : "0.9,0.2");
    return buf;
}

static enum mp_status execute(const struct opts *o, const struct args *args, int *exit_code, struct mp_error *err) {
    struct setup s = {.o = o};
    struct mp_plan *plan = NULL;
    struct mp_exec_result *result = NULL;
    struct mp_matrix *matrix = NULL;
    uint64_t *bytes = NULL;
    bool is_refused = false;
    struct start start = {.local = NULL};
    struct train_policies policies = {.n = 0};
    char flow_name[400];
    enum mp_status status = MP_OK;
    if (o->timeline_file != NULL)
        MP_TRY(tool_check_output(o->timeline_file, err));
    if (o->timeline_file != NULL && strcmp(o->timeline_file, "-") == 0)
        return mp_fail(err, MP_EUSAGE, "--timeline: standard output is taken by the report (name a file)");
    MP_TRY(load_traffic(&s, o, args, &matrix, &bytes, err));
    MP_TRY(load_plan(&plan, &s, args->value[0], &is_refused, err));
    if (is_refused) {
        *exit_code = 1;
        goto out;
    }
    MP_TRY(check_ranks(o, plan->n_gpus, err));
    if (matrix == NULL)
        MP_TRY(setup_as_planned(&s, plan, err));
    MP_TRY(train_policies(&policies, &s, plan, err));
    struct mp_exec in = exec_of(&s, plan, bytes, &policies);
    in.flow_name = in.flow != NULL ? name_flow(flow_name, sizeof flow_name, o) : NULL;
    in.is_lossy = in.flow != NULL && o->condense != NULL;
    MP_TRY(find_rank(&start, &in, o, err));
    if (start.local != NULL && in.first_rank == MP_NONE) {
        status = wait_for_ranks(&start, o, exit_code, err);
        goto out;
    }
    MP_TRY(mp_exec_run(&result, &in, err));
    if (in.first_rank == 0)
        status = write_results(result, &in, &s, err);
out:
    leave_ranks(&start, exit_code, &status, err);
    mp_exec_result_free(result);
    mp_matrix_free(matrix);
    mp_free(bytes);
    mp_plan_free(plan);
    setup_free(&s);
    return status;
}

/* ---- calibration ---- */

static enum mp_status check_calibration(const struct opts *o, const struct args *args, struct mp_error *err) {
    static const enum opt_id of_plans[] = {OPT_MATRIX,          OPT_TOKEN_BYTES, OPT_TIMELINE_FILE, OPT_COMPUTE,
                                           OPT_SPLIT_SIMULATE,  OPT_BATCH,       OPT_STEPS,         OPT_RESAMPLE,
                                           OPT_TOKENS_PER_RANK, OPT_SOURCE_SKEW, OPT_PAD,           OPT_DISPATCHER,
                                           OPT_SOURCES,         OPT_TRAIN,       OPT_CHUNK_SCALE};
    static const enum opt_id of_fits[] = {OPT_OUT, OPT_STRICT_FITS, OPT_PROBE};
    static const char *const names[] = {"PLAN", "TRACE", "TOPOLOGY"};
    if (!o->calibrate) {
        for (size_t i = 0; i < sizeof of_fits / sizeof *of_fits; i++)
            if (o->is_set[of_fits[i]])
                return mp_fail(err, MP_EUSAGE, "--%s is for calibration (add --calibrate)", opt_table[of_fits[i]].name);
        return args->n == 3 ? MP_OK
                            : mp_fail(err, MP_EUSAGE, "%s is missing (usage: %s)", names[args->n], exec_verb.usage);
    }
    for (size_t i = 0; i < sizeof of_plans / sizeof *of_plans; i++)
        if (o->is_set[of_plans[i]])
            return mp_fail(err, MP_EUSAGE, "--calibrate runs no plan (leave out --%s)", opt_table[of_plans[i]].name);
    if (args->n > 1)
        return mp_fail(err, MP_EUSAGE, "--calibrate takes a topology only: \"%.80s\" is too much", args->value[1]);
    if (o->out == NULL && !o->json)
        return mp_fail(err, MP_EUSAGE, "--calibrate: where is the topology to go? (add -o FILE, or --json)");
    return o->out != NULL ? tool_check_output(o->out, err) : MP_OK;
}

/* What is given; else the emulated cluster's topology; else one node with a GPU for each rank. */
static enum mp_status calibration_topology(struct mp_topology **out, const struct opts *o, const struct args *args,
                                           struct mp_error *err) {
    const char *given = args->n > 0 ? args->value[0] : getenv("MOEPLAN_TOPOLOGY");
    struct mp_launch found = {.by = NULL};
    enum mp_status status = MP_OK;
    char text[32];
    if (given == NULL) {
        MP_TRY(mp_launch_find(&found, from_environment, NULL, err));
        const uint64_t n = o->is_set[OPT_LOCAL]    ? o->local
                           : o->is_set[OPT_NRANKS] ? o->n_ranks
                           : found.by != NULL      ? found.n_ranks
                                                   : 0;
        if (n == 0)
            return mp_fail(err, MP_EUSAGE, "--calibrate: how many ranks? (give a topology, or --local N)");
        snprintf(text, sizeof text, "%llu:h100", (unsigned long long)n);
        given = text;
    }
    status = mp_topology_load(out, given, &o->limits, err);
out:
    return status;
}

static enum mp_status write_calibration(const struct mp_calibration *c, const struct opts *o, int *exit_code,
                                        struct mp_error *err) {
    struct mp_out *out = NULL, *file = NULL;
    const bool is_refused = o->strict && c->n_bad > 0;
    enum mp_status status = MP_OK;
    if (o->out != NULL && !is_refused) {
        MP_TRY(mp_out_open(&file, o->out, err));
        mp_calibration_write_topology(c, file);
        MP_TRY(mp_out_commit(file, err));
    }
    for (size_t i = 0; i < c->n_fits; i++)
        if (c->fits[i].is_bad)
            fprintf(stderr, "moeplan-exec: %s: %s\n", c->fits[i].what, c->fits[i].note);
    if (is_refused)
        fprintf(stderr, "moeplan-exec: --strict: %zu of %zu fits are bad, no topology is written\n", c->n_bad,
                c->n_fits);
    *exit_code = is_refused;
    if (o->out != NULL && strcmp(o->out, "-") == 0)
        return MP_OK;
    MP_TRY(tool_open_result(&out, o, err));
    if (o->json)
        mp_calibration_write_json(c, out);
    else
        mp_calibration_write_text(c, o->style, out);
    status = tool_close_result(out, o, err);
out:
    return status;
}

static enum mp_status calibrate(const struct opts *o, const struct args *args, int *exit_code, struct mp_error *err) {
    struct mp_topology *topology = NULL;
    struct mp_model *model = NULL;
    struct mp_calibration *c = NULL;
    struct start start = {.local = NULL};
    enum mp_status status = MP_OK;
    MP_TRY(calibration_topology(&topology, o, args, err));
    MP_TRY(check_ranks(o, topology->n_gpus, err));
    if (o->model != NULL)
        MP_TRY(mp_model_load(&model, o->model, &o->limits, err));
    struct setup s = {.o = o,
                      .topology = topology,
                      .model = model,
                      .sim = {.stage_mode = o->stage_barrier   ? (int)MP_STAGE_BARRIER
                                            : o->stage_coupled ? (int)MP_STAGE_COUPLED
                                                               : -1}};
    const struct train_policies none = {.n = 0};
    struct mp_exec in = exec_of(&s, NULL, NULL, &none);
    MP_TRY(find_rank(&start, &in, o, err));
    if (start.local != NULL && in.first_rank == MP_NONE) {
        status = wait_for_ranks(&start, o, exit_code, err);
        goto out;
    }
    MP_TRY(mp_calibrate(&c, &in, o->mem_limit / (4 * (uint64_t)in.n_local), o->probe_ms, err));
    if (in.first_rank == 0)
        status = write_calibration(c, o, exit_code, err);
out:
    leave_ranks(&start, exit_code, &status, err);
    mp_calibration_free(c);
    mp_model_free(model);
    mp_topology_free(topology);
    return status;
}

static enum mp_status run(int argc, char **argv, int *exit_code, const char **color, struct mp_error *err) {
    struct opts o;
    struct mp_style style;
    struct args args;
    enum mp_status status = opt_parse(&o, &args, &exec_verb, argc, argv, err);
    *color = o.color;
    if (status != MP_OK)
        return status;
    terminal_start(&o, &style);
    if (is_about_itself(&o))
        return about_itself(&o, err);
    o.limits = mp_limits_default;
    o.limits.memory_bytes = o.mem_limit;
    mp_alloc_limit(o.mem_limit);
    status = check_calibration(&o, &args, err);
    if (status != MP_OK)
        return status;
    return o.calibrate ? calibrate(&o, &args, exit_code, err) : execute(&o, &args, exit_code, err);
}

int main(int argc, char **argv) {
    int exit_code = 0;
    struct mp_error err = {0};
    const char *color = NULL;
    char text[2048], name[64];
    tool_start();
    enum mp_status status = run(argc, argv, &exit_code, &color, &err);
    if (status == MP_OK)
        return exit_code;
    fprintf(stderr, "%s %s\n", terminal_error_name("moeplan-exec", color, name),
            err.status != MP_OK ? mp_error_text(&err, text, sizeof text) : "internal error without a message");
    return mp_exit_code(status);
}
