/* moeplan order: order strategies on one traffic matrix, without a recording. */
#include "tool.h"
#include <moeplan/matrix.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { ROWS_MAX = 64 };
/* What a strategy, or a baseline (strategy NULL), does to the matrix. */
struct row {
    const struct mp_strategy *strategy;
    const char *name;
    struct mp_schedule schedule;
    enum mp_outcome outcome;
    uint64_t time_ns, launches_ns, bound_ns; /* time includes launches */
    double seconds;
    char note[300];
    bool is_untried; /* the budget was used up before it */
};
struct job {
    const struct opts *o;
    struct mp_matrix *matrix; /* as the file has it */
    uint64_t *bytes;          /* [n][n], diagonal 0 */
    struct mp_topology *topology;
    struct mp_topology no_launches; /* the same network, where launching is free */
    struct mp_net *net, *net_no_launches;
    uint64_t total_bytes, diagonal_bytes, largest, port_bound_ns, relay_bound_ns;
    struct row rows[ROWS_MAX];
    uint32_t n_rows, best, single; /* rows, or MP_NONE */
    bool has_single;
    uint64_t single_ns;                /* all flows at once, no launch */
    const struct mp_setting *settings; /* --set */
    uint32_t n_settings;
    struct mp_arena *arena;
    struct mp_budget budget;
    struct mp_spent spent;
    uint64_t work;          /* of the orders, without the baselines */
    const char *stopped_by; /* "done" | "work_limit" | "wall_clock" */
    bool wall_struck;
    struct mp_plan *plan; /* of the best, with -o */
    bool is_simulated;    /* its time, once more by the verifier */
};

static double now_seconds(void) {
    struct timespec t = {0};
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static const char *name_of_order(void *ctx, uint32_t i) {
    (void)ctx;
    return opt_word(WORDS_ORDER, NULL, i, NULL);
}
static enum mp_status check_strategy(void *ctx, const char *name, struct mp_error *err) {
    (void)ctx;
    if (strcmp(name, "all") == 0 || mp_strategy_find(MP_PLAN_ORDER, name) != NULL)
        return MP_OK;
    return mp_fail(err, MP_EUSAGE, "--strategy: unknown order \"%.40s\" (nearest: %s; all: moeplan list strategies)",
                   name, opt_nearest(name, name_of_order, NULL));
}

/* All at once; many flows take long to simulate, and several strategies may come to it. */
static enum mp_status time_single(struct job *j, struct row *r, struct mp_error *err) {
    enum mp_status status = MP_OK;
    if (!j->has_single)
        (void)mp_order_spend(&j->budget);
    if (!j->has_single)
        status = mp_net_concurrent(j->net, j->bytes, &j->single_ns, NULL, err);
    j->has_single = true;
    r->launches_ns = j->single_ns > 0 ? j->topology->launch_ns : 0;
    r->time_ns = j->single_ns + r->launches_ns;
    return status;
}

static enum mp_status time_stages(struct job *j, struct row *r, struct mp_order_problem problem, struct mp_error *err) {
    uint64_t without = 0;
    (void)mp_order_spend(&j->budget);
    enum mp_status status = mp_schedule_time(&r->schedule, &problem, &r->time_ns, err);
    problem.topology = &j->no_launches;
    problem.net = j->net_no_launches;
    if (status == MP_OK)
        status = mp_schedule_time(&r->schedule, &problem, &without, err);
    r->launches_ns = r->time_ns > without ? r->time_ns - without : 0;
    return status;
}

/* Has the budget ended before this row? Then the row says so. */
static bool is_stopped_before(struct job *j, struct row *r) {
    r->is_untried = mp_order_is_stopped(&j->budget);
    if (r->is_untried)
        snprintf(r->note, sizeof r->note, "stopped: the %s was reached before",
                 j->wall_struck ? "time limit" : "work limit");
    return r->is_untried;
}

static enum mp_status run_strategy(struct job *j, const struct mp_strategy *s, struct mp_error *err) {
    for (uint32_t i = 0; i < j->n_rows; i++) /* named twice is run once */
        if (j->rows[i].strategy == s)
            return MP_OK;
    if (j->n_rows == ROWS_MAX)
        return mp_fail(err, MP_EUSAGE, "--strategy: more than %d orders (name fewer)", (int)ROWS_MAX);
    struct row *r = &j->rows[j->n_rows++];
    *r = (struct row){.strategy = s, .name = s->name};
    mp_schedule_init(&r->schedule, j->matrix->n);
    if (is_stopped_before(j, r))
        return MP_OK;
    struct mp_order_problem problem = {
        .topology = j->topology,
        .matrix = j->bytes,
        .net = j->net,
        .mode = tool_stages(j->o),
        .can_pace = j->o->pacing,
        .seed = j->o->seed,
        .settings = j->settings,
        .n_settings = j->n_settings,
        .budget = &j->budget,
        .single_ns = j->has_single && j->single_ns > 0 ? j->single_ns + j->topology->launch_ns : 0};
    double started = now_seconds();
    enum mp_status status = mp_order_run(s, &problem, &r->schedule, &r->outcome, err);
    r->seconds = now_seconds() - started;
    if (status != MP_OK)
        return status;
    if (r->seconds > 5)
        tool_note(j->o, "%s took %.2f s", s->name, r->seconds);
    if (r->outcome != MP_FOUND && r->outcome != MP_STOPPED) {
        snprintf(r->note, sizeof r->note, "%s: %.240s",
                 r->outcome == MP_NOT_APPLICABLE ? "not applicable" : "not found", err->message);
        mp_error_clear(err);
        return MP_OK;
    }
    if (r->schedule.n_stages == 0)
        status = time_single(j, r, err);
    else
        status = time_stages(j, r, problem, err);
    r->bound_ns = r->schedule.between_nodes ? j->relay_bound_ns : j->port_bound_ns;
    return status;
}

static enum mp_status add_strategy(void *ctx, const char *name, struct mp_error *err) {
    struct job *j = ctx;
    enum mp_status status = MP_OK;
    bool is_all = strcmp(name, "all") == 0;
    for (uint32_t i = 0; mp_strategy_at(i) != NULL && status == MP_OK; i++) {
        const struct mp_strategy *s = mp_strategy_at(i);
        if (s->stage == MP_PLAN_ORDER && (is_all || strcmp(s->name, name) == 0))
            status = run_strategy(j, s, err);
    }
    return status;
}

/* One flow at a time from each sender, receivers shared: what the papers compare with. One launch, as in a
 * simulation (--network). */
static enum mp_status add_baselines(struct job *j, struct mp_error *err) {
    static const struct {
        enum mp_baseline which;
        const char *name;
    } known[] = {{MP_BASELINE_RCS, "RCS"}, {MP_BASELINE_SJF, "SJF"}, {MP_BASELINE_SPREAD_OUT, "spread-out"}};
    for (size_t k = 0; k < sizeof known / sizeof *known && j->n_rows < ROWS_MAX; k++) {
        struct row *r = &j->rows[j->n_rows++];
        *r = (struct row){.name = known[k].name, .bound_ns = j->port_bound_ns};
        if (is_stopped_before(j, r))
            continue;
        (void)mp_order_spend(&j->budget);
        enum mp_status status = mp_net_baseline(j->net, known[k].which, j->o->seed, j->bytes, &r->time_ns, err);
        if (status != MP_OK)
            return status;
        r->launches_ns = r->time_ns > 0 ? j->topology->launch_ns : 0;
        r->time_ns += r->launches_ns;
    }
    return MP_OK;
}

static void find_best(struct job *j) {
    j->best = j->single = MP_NONE;
    for (uint32_t i = 0; i < j->n_rows; i++) {
        const struct row *r = &j->rows[i], *b = j->best != MP_NONE ? &j->rows[j->best] : NULL;
        if (r->strategy == NULL || r->note[0] != '\0')
            continue;
        if (strcmp(r->name, "single") == 0)
            j->single = i;
        if (b == NULL || r->time_ns < b->time_ns ||
            (r->time_ns == b->time_ns && r->schedule.n_stages < b->schedule.n_stages))
            j->best = i;
    }
    /* What is not faster by more than rounding is not worth an order. */
    if (j->single != MP_NONE && !mp_order_gains(j->rows[j->best].time_ns, j->rows[j->single].time_ns))
        j->best = j->single;
}

static enum mp_status load(struct job *j, const char *matrix, const char *topology, struct mp_error *err) {
    const struct opts *o = j->o;
    enum mp_status status = MP_OK;
    MP_TRY(mp_topology_load(&j->topology, topology, &o->limits, err));
    MP_TRY(mp_matrix_load(&j->matrix, matrix, o->input_format, 0, &o->limits, err));
    const size_t n = j->matrix->n;
    if (n != j->topology->n_gpus) {
        status = mp_fail_at(err, MP_EINPUT, matrix, 0, 0,
                            "is for %zu GPUs, the topology has %u (give a topology of %zu, for instance %zu:h100)", n,
                            j->topology->n_gpus, n, n);
        goto out;
    }
    j->bytes = mp_calloc(n * n, sizeof *j->bytes);
    if (j->bytes == NULL) {
        status = mp_nomem(err, matrix);
        goto out;
    }
    if (!mp_matrix_bytes(j->matrix, o->token_bytes, j->bytes)) {
        status = mp_fail_at(err, MP_ELIMIT, matrix, 0, 0,
                            "the cells times %llu bytes a token add up to more than 2^53 bytes",
                            (unsigned long long)o->token_bytes);
        goto out;
    }
    for (size_t i = 0; i < n; i++)
        j->diagonal_bytes += j->matrix->cells[i * n + i] * (o->token_bytes > 0 ? o->token_bytes : 1);
    for (size_t k = 0; k < n * n; k++) {
        j->total_bytes += j->bytes[k];
        j->largest = j->bytes[k] > j->largest ? j->bytes[k] : j->largest;
    }
    if (j->diagonal_bytes > 0)
        tool_note(o, "%llu bytes that GPUs send to themselves need no network and are left out",
                  (unsigned long long)j->diagonal_bytes);
    if (j->largest > UINT32_MAX)
        tool_note(o,
                  "the largest cell is %llu bytes: a plan's shares are of 2^32 - 1, so its pieces end within %llu "
                  "bytes of the schedule's",
                  (unsigned long long)j->largest, (unsigned long long)mp_ceil_div(j->largest, UINT32_MAX));
    if (n > 256)
        tool_note(o, "%zu GPUs: simulating %zu flows at once takes minutes", n, n * (n - 1));
    j->no_launches = *j->topology;
    j->no_launches.launch_ns = j->no_launches.stage_launch_ns = 0;
    MP_TRY(mp_net_new(&j->net, j->topology, err));
    MP_TRY(mp_net_new(&j->net_no_launches, &j->no_launches, err));
    j->port_bound_ns = mp_port_bound_ns(j->topology, j->bytes);
    j->relay_bound_ns = mp_relay_bound_ns(j->topology, j->bytes);
out:
    return status;
}

/* ---- the plan ---- */

static enum mp_status make_plan(struct mp_plan **out, struct job *j, const struct row *r, struct mp_error *err) {
    const struct mp_matrix_request request = {.matrix = j->matrix,
                                              .token_bytes = j->o->token_bytes,
                                              .topology = j->topology,
                                              .schedule = &r->schedule,
                                              .time_ns = r->time_ns,
                                              .strategy = r->name,
                                              .stage_mode = tool_stages(j->o),
                                              .can_pace = j->o->pacing,
                                              .settings = j->settings,
                                              .n_settings = j->n_settings,
                                              .seed = j->o->seed,
                                              .work_used = j->work,
                                              .stopped_by = j->stopped_by};
    return mp_matrix_plan(out, &j->is_simulated, &request, err);
}

/* ---- what is printed ---- */

static double ratio(uint64_t a, uint64_t b) { return b > 0 ? (double)a / (double)b : 0; }

/* "-" where there is nothing to compare with. */
static void put_percent(struct mp_table *t, bool has, const char *sign, double x) {
    if (has && x > -0.0005 && x < 0) /* no "-0.0 %" */
        x = 0;
    if (has)
        mp_table_cell(t, "%s%.1f %%", x >= 0 ? sign : "", 100 * x);
    else
        mp_table_cell(t, "-");
}

static void write_table(const struct job *j, struct mp_out *out) {
    char text[64];
    struct mp_table *t = mp_table_new();
    if (t == NULL) {
        mp_out_fail(out, MP_ENOMEM, "out of memory: table");
        return;
    }
    static const char *const titles[] = {"order", "stages", "time", "launches", "x bound", "vs single", "planned in"};
    mp_table_columns(t, titles, sizeof titles / sizeof *titles, "0405126", 1);
    const uint64_t single_ns = j->single != MP_NONE ? j->rows[j->single].time_ns : 0;
    for (uint32_t i = 0; i < j->n_rows; i++) {
        const struct row *r = &j->rows[i];
        const bool is_order = r->strategy != NULL;
        mp_table_cell(t, "%s%s", r->name, !is_order ? " (baseline)" : i == j->best ? " *" : "");
        if (r->note[0] != '\0') {
            for (int k = 0; k < 6; k++)
                mp_table_cell(t, k == 0 && r->is_untried ? "stopped" : "-");
            continue;
        }
        snprintf(text, sizeof text, "%u%s%s", r->schedule.n_stages, r->schedule.has_flush ? " flush" : "",
                 r->schedule.between_nodes ? " nodes" : "");
        mp_table_cell(t, "%s", is_order ? text : "-");
        mp_table_cell(t, "%s", mp_human_ns((double)r->time_ns, text));
        put_percent(t, r->time_ns > 0, "", ratio(r->launches_ns, r->time_ns));
        if (r->bound_ns > 0)
            mp_table_cell(t, "%.4f", ratio(r->time_ns, r->bound_ns));
        else
            mp_table_cell(t, "-");
        put_percent(t, single_ns > 0, "+", ratio(r->time_ns, single_ns) - 1);
        if (is_order)
            mp_table_cell(t, "%.2f ms", 1e3 * r->seconds);
        else
            mp_table_cell(t, "-");
    }
    mp_table_show(t, j->o->style, out);
    mp_table_free(t);
}

static void write_text(const struct job *j, struct mp_out *out) {
    char a[32], b[32];
    const uint32_t n_nodes = mp_topology_n_nodes(j->topology);
    mp_out_printf(out, "%u x %u matrix of %s (%s) on %s; stages %s%s\n", j->matrix->n, j->matrix->n,
                  mp_human_bytes((double)j->total_bytes, a), j->matrix->format, j->topology->name,
                  mp_stage_mode_name(tool_stages(j->o)), j->o->pacing ? ", paced" : "");
    mp_out_printf(out, "port bound %s", mp_human_ns((double)j->port_bound_ns, a));
    if (n_nodes > 1)
        mp_out_printf(out, ", relay bound %s (for orders between nodes)", mp_human_ns((double)j->relay_bound_ns, b));
    mp_out_puts(out, "\n\n");
    write_table(j, out);
    mp_out_puts(out,
                "\nlaunches: share of the time that launching costs. x bound: time over the port bound, for orders "
                "between\nnodes over the relay bound. Baselines: one flow at a time from each sender, receivers "
                "shared, one launch.\n");
    if (strcmp(j->stopped_by, "done") != 0)
        mp_out_printf(out, "the search was stopped by its %s: the rows with an order show the best so far\n",
                      j->wall_struck ? "time limit" : "work limit");
    for (uint32_t i = 0; i < j->n_rows; i++)
        if (j->rows[i].note[0] != '\0' && !j->rows[i].is_untried)
            mp_out_printf(out, "%s: %s\n", j->rows[i].name, j->rows[i].note);
    for (uint32_t i = 0; i < j->n_rows; i++) {
        const struct mp_schedule *s = &j->rows[i].schedule;
        if (s->port_bytes_per_s == 0 || j->rows[i].note[0] != '\0')
            continue;
        mp_out_printf(out, "%s: up to %u sub-ports of %s/s; launches, latency%s aside, ", j->rows[i].name, s->ports,
                      mp_human_bytes((double)s->port_bytes_per_s, a), s->has_flush ? " and flush" : "");
        if (s->loss_ppm == 0)
            mp_out_puts(out, "at the port bound exactly\n");
        else
            mp_out_printf(out, "%.4f %% above the port bound, because rates share no unit\n", s->loss_ppm * 1e-4);
    }
    if (j->plan == NULL)
        return;
    const struct mp_certificate *c = &j->plan->certificates[0];
    mp_out_printf(out, "%s: the order of %s, %s", j->o->out, j->rows[j->best].name,
                  j->is_simulated ? "verified" : "verified but for its time (moeplan verify --thorough)");
    if (c->bound_ns > 0)
        mp_out_printf(out, ": %s, bound with latency and one launch %s, gap %.1f %%",
                      mp_human_ns((double)c->value_ns, a), mp_human_ns((double)c->bound_ns, b),
                      100 * (ratio(c->value_ns, c->bound_ns) - 1));
    mp_out_puts(out, "\n");
}

static json_t *number_or_null(bool has, uint64_t v) { return has ? json_integer((json_int_t)v) : json_null(); }
static json_t *text_or_null(const char *s) { return s != NULL ? json_string(s) : json_null(); }

static json_t *row_json(const struct job *j, const struct row *r) {
    const bool is_order = r->strategy != NULL, has = r->note[0] == '\0';
    const bool has_single = has && j->single != MP_NONE && j->rows[j->single].time_ns > 0;
    return json_pack("{s:s,s:s,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o}", "order", r->name, "kind",
                     is_order ? "order" : "baseline", "n_stages", number_or_null(has && is_order, r->schedule.n_stages),
                     "has_flush", has && is_order ? json_boolean(r->schedule.has_flush) : json_null(), "between_nodes",
                     has && is_order ? json_boolean(r->schedule.between_nodes) : json_null(), "time_ns",
                     number_or_null(has, r->time_ns), "launches_ns", number_or_null(has, r->launches_ns), "bound_ns",
                     number_or_null(has, r->bound_ns), "over_bound",
                     has && r->bound_ns > 0 ? mp_json_finite(ratio(r->time_ns, r->bound_ns)) : json_null(), "vs_single",
                     has_single ? mp_json_finite(ratio(r->time_ns, j->rows[j->single].time_ns) - 1) : json_null(),
                     "plan_seconds", is_order ? mp_json_finite(r->seconds) : json_null(), "note",
                     text_or_null(has ? NULL : r->note));
}

static json_t *certificate_json(const struct job *j) {
    const struct mp_certificate *c = j->plan != NULL ? &j->plan->certificates[0] : NULL;
    if (c == NULL)
        return json_null();
    return json_pack("{s:s,s:s,s:s,s:I,s:I,s:o,s:b}", "kind", "order", "proof", "closed-form", "scope", c->scope,
                     "value_ns", (json_int_t)c->value_ns, "bound_ns", (json_int_t)c->bound_ns, "gap",
                     c->bound_ns > 0 ? mp_json_finite(ratio(c->value_ns, c->bound_ns) - 1) : json_null(),
                     "value_simulated_again", (int)j->is_simulated);
}

static void write_json(const struct job *j, struct mp_out *out) {
    json_t *rows = json_array();
    for (uint32_t i = 0; i < j->n_rows; i++)
        (void)json_array_append_new(rows, row_json(j, &j->rows[i]));
    json_t *root = json_pack(
        "{s:s,s:i,s:s,s:i,s:s,s:I,s:I,s:I,s:s,s:b,s:s,s:o,s:o,s:o,s:o}", "schema", "moeplan.order", "version", 1,
        "topology", j->topology->name, "n_gpus", (int)j->matrix->n, "format", j->matrix->format, "bytes",
        (json_int_t)j->total_bytes, "port_bound_ns", (json_int_t)j->port_bound_ns, "relay_bound_ns",
        (json_int_t)j->relay_bound_ns, "stages", mp_stage_mode_name(tool_stages(j->o)), "pacing", (int)j->o->pacing,
        "stopped_by", j->stopped_by, "best", text_or_null(j->best != MP_NONE ? j->rows[j->best].name : NULL), "output",
        text_or_null(j->best != MP_NONE ? j->o->out : NULL), "certificate", certificate_json(j), "results", rows);
    mp_json_write(root, out);
    json_decref(root);
}

enum mp_status cmd_order(const struct opts *o, const struct args *args, int *exit_code, struct mp_error *err) {
    char word[MP_MAX_NAME];
    struct mp_out *file = NULL, *out = NULL;
    enum mp_status status = MP_OK;
    const bool to_stdout = o->out != NULL && strcmp(o->out, "-") == 0;
    if (to_stdout && o->json)
        return mp_fail(err, MP_EUSAGE, "order: %s and -o - both want standard output (write the plan to a file)",
                       tool_format_name(o));
    struct job *j = mp_calloc(1, sizeof *j);
    if (j == NULL)
        return mp_nomem(err, "order");
    j->o = o;
    j->stopped_by = "done";
    j->budget = (struct mp_budget){o->work_limit, o->time_limit, &j->wall_struck, &j->spent};
    j->arena = mp_arena_new();
    if (j->arena == NULL) {
        status = mp_nomem(err, "order");
        goto out;
    }
    MP_TRY(tool_settings(&j->settings, &j->n_settings, o, j->arena, err));
    if (o->strategies != NULL)
        MP_TRY(tool_for_each_word(o->strategies, "strategy", word, sizeof word, check_strategy, NULL, err));
    if (o->out != NULL)
        MP_TRY(tool_check_output(o->out, err));
    MP_TRY(load(j, args->value[0], args->value[1], err));
    MP_TRY(tool_for_each_word(o->strategies != NULL ? o->strategies : "all", "strategy", word, sizeof word,
                              add_strategy, j, err));
    j->work = j->spent.work;
    if (j->spent.is_stopped)
        j->stopped_by = j->wall_struck ? "wall_clock" : "work_limit";
    MP_TRY(add_baselines(j, err));
    find_best(j);
    if (j->best == MP_NONE) { /* the answer is no */
        tool_say("order: none of these strategies applies%s", o->out != NULL ? ", nothing is written" : "");
        *exit_code = 1;
    }
    if (o->out != NULL && j->best != MP_NONE) {
        MP_TRY(make_plan(&j->plan, j, &j->rows[j->best], err));
        MP_TRY(mp_out_open(&file, o->out, err));
        mp_plan_write(j->plan, file);
        if (mp_out_offset(file) > o->limits.yaml_bytes) { /* nobody could read it again */
            status = mp_fail(err, MP_ELIMIT,
                             "order: the plan of %s has %llu bytes, and a plan file may have %zu: nothing is written "
                             "(name an order of fewer stages with --strategy)",
                             j->rows[j->best].name, (unsigned long long)mp_out_offset(file), o->limits.yaml_bytes);
            goto out;
        }
        status = mp_out_commit(file, err);
        file = NULL;
        if (status != MP_OK)
            goto out;
    }
    if (to_stdout) /* that is where the plan goes */
        goto out;
    MP_TRY(tool_open_result(&out, o, err));
    if (o->json)
        write_json(j, out);
    else
        write_text(j, out);
    status = tool_close_result(out, o, err);
out:
    mp_out_cancel(file);
    mp_plan_free(j->plan);
    for (uint32_t i = 0; i < j->n_rows; i++)
        mp_schedule_free(&j->rows[i].schedule);
    mp_arena_free(j->arena);
    mp_net_free(j->net);
    mp_net_free(j->net_no_launches);
    mp_free(j->bytes);
    mp_matrix_free(j->matrix);
    mp_topology_free(j->topology);
    mp_free(j);
    return status;
}
