/* Two recordings, two models, one cluster: plans, and whether sharing the cluster pays. */
#include "colocate_job.h"
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { STEPS_MAX = 16, SPLITS_BY_GPU_MAX = 16, SHARE_WORK = 2000, EXACT_WORK = 12800000 };

static double now_seconds(void) {
    struct timespec t = {0};
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* What was asked for and has no say in how two models share a cluster: refused, never left out in silence. */
static enum mp_status refuse_unused(const struct opts *o, struct mp_error *err) {
    static const enum opt_id unused[] = {
        OPT_OBJECTIVE,     OPT_FIT,         OPT_SOLVER,          OPT_EXPORT_LP,       OPT_FROM,
        OPT_MOVE_BUDGET,   OPT_TIME_LIMIT,  OPT_INTERVAL_GROUPS, OPT_IMPORT_SOLUTION, OPT_HOMES,
        OPT_HOMES_COMPARE, OPT_POLICY,      OPT_PACKING,         OPT_CONDENSE,        OPT_CONDENSE_HISTORY,
        OPT_HOST_LINK,     OPT_HOST_MEMORY, OPT_REHOME};
    static const enum opt_id unused_in_compare[] = {OPT_ROUTE,   OPT_ORDER,           OPT_STAGES,       OPT_PACING,
                                                    OPT_SET,     OPT_INCUMBENT_ROUTE, OPT_DISPATCHER,   OPT_WIDE,
                                                    OPT_NETWORK, OPT_STAGE_BARRIER,   OPT_STAGE_COUPLED};
    for (size_t i = 0; i < sizeof unused / sizeof *unused; i++)
        if (o->is_set[unused[i]])
            return mp_fail(err, MP_EUSAGE,
                           "--colocate: --%s is for one model (leave it out; what strategies minimise: --evaluator; "
                           "budget: --work-limit)",
                           opt_table[unused[i]].name);
    for (size_t i = 0; i < sizeof unused_in_compare / sizeof *unused_in_compare; i++)
        if (o->out_b == NULL && o->is_set[unused_in_compare[i]])
            return mp_fail(err, MP_EUSAGE,
                           "--colocate: --%s is for one model (leave it out; loads are one copy for each token and "
                           "expert, sent at once)",
                           opt_table[unused_in_compare[i]].name);
    return MP_OK;
}

enum mp_status colocate_check(const struct opts *o, const struct args *args, struct mp_error *err) {
    if (!o->colocate) {
        if (args->n > 2)
            return mp_fail(err, MP_EUSAGE, "too many arguments: \"%.60s\" (two recordings need --colocate)",
                           args->value[2]);
        if (o->model_b != NULL || o->out_b != NULL || o->colocation != NULL || o->is_set[OPT_EVALUATOR])
            return mp_fail(err, MP_EUSAGE,
                           "--model-b, --out-b, --colocation and --evaluator are for two models (add --colocate)");
        return MP_OK;
    }
    if (args->n < 3)
        return mp_fail(err, MP_EUSAGE,
                       "--colocate: TOPOLOGY is missing (write TRACE, the second model's TRACE, TOPOLOGY)");
    if (o->redundant > 0 || o->for_stack != NULL || o->place != NULL || o->replicate != NULL || o->score_on != NULL ||
        o->incumbent != NULL || o->is_set[OPT_STRATEGY] || o->strategies != NULL)
        return mp_fail(err, MP_EUSAGE,
                       "--colocate does not go with --strategy, --place, --replicate, --redundant, --for, --score-on "
                       "or --incumbent (one slot per expert; strategies: --colocation)");
    if (o->is_set[OPT_TIMELINE])
        return mp_fail(err, MP_EUSAGE, "--colocate: two models have a timeline of their own (leave out --timeline)");
    if (o->routing_ns > 0)
        return mp_fail(err, MP_EUSAGE, "--routing-ns is for one model (leave it out)");
    if (o->strict)
        return mp_fail(err, MP_EUSAGE, "--strict is for one model (leave it out; compare --colocate says what pays)");
    if (o->sources != NULL && strcmp(o->sources, "coupled") == 0)
        return mp_fail(err, MP_EUSAGE, "--colocate: tokens start on data-parallel ranks (write --sources dp)");
    return refuse_unused(o, err);
}

/* Of two recordings a message says which. */
static void name_recording(struct mp_error *err, enum mp_status status, const char *path) {
    if (status == MP_EINPUT && err->path[0] == '\0')
        snprintf(err->path, sizeof err->path, "%s", path);
}

static enum mp_status load(struct job *j, const struct opts *o, const struct args *args, struct mp_error *err) {
    enum mp_status status = MP_OK;
    int m = 0;
    j->o = o;
    j->arena = mp_arena_new();
    if (j->arena == NULL)
        return mp_nomem(err, "two models");
    j->objective = strcmp(o->evaluator, "closed-form") == 0 ? MP_COLOC_CLOSED : MP_COLOC_TIMELINE;
    for (; m < 2; m++) {
        struct side *x = &j->side[m];
        x->o = *o;
        if (m == 1)
            x->o.model = o->model_b;
        MP_TRY(setup_load(&x->s, &x->o, args->value[m], args->value[2], err));
        if (o->is_set[OPT_BATCH] && o->is_set[OPT_TOKENS_PER_RANK]) /* each for the recording of its phase */
            x->o.is_set[x->s.trace->phase == MP_PHASE_DECODE ? OPT_TOKENS_PER_RANK : OPT_BATCH] = false;
        MP_TRY(tool_batching(&x->s.batching, &x->o, x->s.trace, x->s.topology, err));
        x->s.sim = tool_sim_options(&x->o, x->s.trace, x->s.batching.phase);
        MP_TRY(setup_split(&x->s, o->split, err));
        MP_TRY(mp_workload_build(&x->planning, &x->s.planning, &x->s.batching, err));
        const uint32_t least = (x->s.trace->n_experts + x->s.topology->n_gpus - 1) / x->s.topology->n_gpus;
        x->slots = o->slots_per_gpu > 0 ? (uint32_t)o->slots_per_gpu : least;
        if (x->slots < least)
            return mp_fail(err, MP_EUSAGE,
                           "--slots-per-gpu: %u experts need %u slots on each of %u GPUs (write --slots-per-gpu %u)",
                           x->s.trace->n_experts, least, x->s.topology->n_gpus, least);
        if (x->s.trace->n_layers > j->n_layers)
            j->n_layers = x->s.trace->n_layers;
    }
    j->topology = j->side[0].s.topology;
    if (j->topology->n_gpus > MP_COLOC_GPUS_MAX)
        return mp_fail(err, MP_ELIMIT, "--colocate: at most %u GPUs, not %u", MP_COLOC_GPUS_MAX, j->topology->n_gpus);
    j->n_steps = j->side[0].s.workload->n_steps < j->side[1].s.workload->n_steps ? j->side[0].s.workload->n_steps
                                                                                 : j->side[1].s.workload->n_steps;
    j->n_steps = j->n_steps < STEPS_MAX ? j->n_steps : STEPS_MAX;
out:
    if (status != MP_OK)
        name_recording(err, status, args->value[m]);
    return status;
}

static void unload(struct job *j) {
    for (int m = 0; m < 2; m++) {
        mp_workload_free(j->side[m].planning);
        setup_free(&j->side[m].s);
    }
    mp_arena_free(j->arena);
    mp_free(j);
}

/* Layer `layer` of both, steps [first, first + n) of the planning or scored steps. Past a model's last layer, or with
 * only >= 0 and another model, it does nothing. */
static enum mp_status problem_of(const struct job *j, struct mp_coloc_problem *p, uint32_t layer, bool is_planning,
                                 uint32_t step, int only, struct mp_arena *arena, struct mp_error *err) {
    enum mp_status status = MP_OK;
    *p = (struct mp_coloc_problem){.topology = j->topology,
                                   .objective = j->objective,
                                   .seed = mp_mix64(j->o->seed ^ layer),
                                   .work_limit = mp_ceil_div(j->o->work_limit, j->n_layers)};
    for (int m = 0; m < 2 && status == MP_OK; m++) {
        const struct side *x = &j->side[m];
        if (layer >= x->s.trace->n_layers || (only >= 0 && m != only)) {
            status = mp_coloc_nobody(&p->model[m], j->topology->n_gpus, arena, err);
            continue;
        }
        const struct mp_workload *w = is_planning ? x->planning : x->s.workload;
        const uint32_t first = is_planning ? 0 : (uint32_t)((2 * (uint64_t)step + 1) * w->n_steps / (2 * j->n_steps));
        p->slots[m] = x->slots;
        p->gpu_slots[m] = x->gpu_slots;
        status = mp_coloc_model_of(&p->model[m], w, x->s.model, j->topology, layer, first, is_planning ? w->n_steps : 1,
                                   arena, err);
    }
    return status;
}

/* Slots of each GPU that a row's places need over all layers. NULL = as many as for every strategy; not for those that
 * keep the models apart. */
static enum mp_status slots_of_row(struct job *j, struct row *r, const struct mp_coloc_strategy *s,
                                   struct mp_error *err) {
    const uint32_t n = j->topology->n_gpus;
    uint32_t *count = mp_arena_alloc(j->arena, n, sizeof *count);
    for (int m = 0; m < 2 && s->is_apart; m++) {
        const struct mp_trace *t = j->side[m].s.trace;
        r->gpu_slots[m] = mp_arena_alloc(j->arena, n, sizeof *r->gpu_slots[m]);
        if (r->gpu_slots[m] == NULL || count == NULL)
            return mp_nomem(err, "two models");
        for (uint32_t l = 0; l < t->n_layers; l++) {
            memset(count, 0, n * sizeof *count);
            for (uint32_t e = 0; e < t->n_experts; e++) {
                const uint32_t gpu = r->gpu[m][(size_t)l * t->n_experts + e];
                if (++count[gpu] > r->gpu_slots[m][gpu])
                    r->gpu_slots[m][gpu] = count[gpu];
            }
        }
    }
    return MP_OK;
}

struct planning {
    const struct job *j;
    const struct mp_coloc_strategy *s;
    struct row *row;
    enum mp_outcome *outcome; /* [n_layers] */
    bool *proven;
    uint64_t *work;
    char (*note)[300];
};
static enum mp_status plan_layer(void *ctx, size_t i, unsigned worker, struct mp_error *err) {
    const struct planning *c = ctx;
    struct mp_arena *arena = mp_arena_new();
    struct mp_coloc_problem p = {.work_limit = 0};
    struct mp_coloc_plan *plan = NULL;
    const uint32_t layer = (uint32_t)i;
    (void)worker;
    if (arena == NULL)
        return mp_nomem(err, "a layer of two models");
    enum mp_status status = problem_of(c->j, &p, layer, true, 0, -1, arena, err);
    if (c->s->is_apart) /* a GPU is one model's in all layers */
        p.seed = mp_mix64(c->j->o->seed);
    const uint64_t n = c->j->topology->n_gpus;
    if (p.work_limit == 0 && strcmp(c->s->name, "exact") == 0) /* for many layers; a node takes about n * n */
        p.work_limit = EXACT_WORK / (n * n) + 1;
    if (status == MP_OK)
        status = mp_coloc_solve(&plan, c->s, &p, &c->outcome[i], err);
    if (status == MP_OK && plan == NULL) {
        snprintf(c->note[i], sizeof *c->note, "%.290s", err->message);
        mp_error_clear(err);
    }
    for (int m = 0; m < 2 && plan != NULL; m++) {
        const struct mp_trace *t = c->j->side[m].s.trace;
        if (layer < t->n_layers)
            memcpy(c->row->gpu[m] + i * t->n_experts, plan->gpu[m], t->n_experts * sizeof *plan->gpu[m]);
    }
    c->proven[i] = plan != NULL && plan->is_optimal;
    c->work[i] = plan != NULL ? plan->work_used : 0;
    mp_coloc_plan_free(plan);
    mp_arena_free(arena);
    return status;
}

struct scoring {
    const struct job *j;
    const struct row *row;
    struct worth *step; /* [n_steps] */
};
static enum mp_status score_step(void *ctx, size_t i, unsigned worker, struct mp_error *err) {
    const struct scoring *c = ctx;
    struct mp_arena *arena = mp_arena_new();
    enum mp_status status = MP_OK;
    uint32_t nobody = 0;
    (void)worker;
    if (arena == NULL)
        return mp_nomem(err, "a step of two models");
    for (uint32_t l = 0; l < c->j->n_layers && status == MP_OK; l++) {
        struct mp_coloc_problem p;
        struct mp_coloc_times t;
        struct mp_coloc_plan plan = {.gpu = {&nobody, &nobody}};
        for (int m = 0; m < 2; m++)
            if (l < c->j->side[m].s.trace->n_layers)
                plan.gpu[m] = c->row->gpu[m] + (size_t)l * c->j->side[m].s.trace->n_experts;
        status = problem_of(c->j, &p, l, false, (uint32_t)i, -1, arena, err);
        if (status == MP_OK)
            status = mp_coloc_evaluate(&t, &p, &plan, NULL, err);
        if (status != MP_OK)
            break;
        struct worth *w = &c->step[i];
        w->timeline_ns += t.timeline_ns;
        w->closed_ns += t.closed_ns;
        w->in_turn_ns += t.alone_ns[0] + t.alone_ns[1];
        w->port_ns += t.port_ns;
        w->compute_ns += t.compute_ns;
        w->busy_ns += t.busy_ns;
        mp_arena_reset(arena);
    }
    mp_arena_free(arena);
    return status;
}

static enum mp_status run(struct job *j, const struct mp_coloc_strategy *s, struct mp_error *err) {
    struct row *r = &j->rows[j->n_rows];
    struct planning c = {.j = j, .s = s, .row = r};
    struct scoring scoring = {.j = j, .row = r};
    enum mp_status status = MP_OK;
    if (j->n_rows == ROWS_MAX)
        return mp_fail(err, MP_EUSAGE, "--colocation: more than %d strategies (name fewer)", (int)ROWS_MAX);
    *r = (struct row){.name = s->name};
    j->n_rows++;
    for (int m = 0; m < 2; m++) {
        const struct mp_trace *t = j->side[m].s.trace;
        r->gpu[m] = mp_arena_alloc(j->arena, (size_t)t->n_layers * t->n_experts, sizeof *r->gpu[m]);
    }
    c.outcome = mp_arena_alloc(j->arena, j->n_layers, sizeof *c.outcome);
    c.proven = mp_arena_alloc(j->arena, j->n_layers, sizeof *c.proven);
    c.work = mp_arena_alloc(j->arena, j->n_layers, sizeof *c.work);
    c.note = mp_arena_alloc(j->arena, j->n_layers, sizeof *c.note);
    scoring.step = mp_arena_alloc(j->arena, j->n_steps, sizeof *scoring.step);
    if (r->gpu[0] == NULL || r->gpu[1] == NULL || c.outcome == NULL || c.proven == NULL || c.work == NULL ||
        c.note == NULL || scoring.step == NULL)
        return mp_nomem(err, "two models");
    const double started = now_seconds();
    MP_TRY(mp_parallel_for(tool_threads(j->o), j->n_layers, plan_layer, &c, err));
    r->seconds = now_seconds() - started;
    for (uint32_t l = 0; l < j->n_layers; l++) {
        r->n_proven += c.proven[l];
        r->work_used += c.work[l];
        r->is_stopped |= c.outcome[l] == MP_STOPPED;
        if (c.note[l][0] != '\0') {
            snprintf(r->note, sizeof r->note, "%s", c.note[l]);
            return MP_OK;
        }
    }
    MP_TRY(slots_of_row(j, r, s, err));
    if (s->is_apart && colocate_no_room(j, r->gpu_slots, r->note, sizeof r->note) != NULL)
        return MP_OK;
    r->is_found = true;
    MP_TRY(mp_parallel_for(tool_threads(j->o), j->n_steps, score_step, &scoring, err));
    uint64_t *const to = &r->worth.timeline_ns;
    for (uint32_t i = 0; i < j->n_steps; i++)
        for (size_t k = 0; k < sizeof r->worth / sizeof *to; k++)
            to[k] += (&scoring.step[i].timeline_ns)[k];
    for (size_t k = 0; k < sizeof r->worth / sizeof *to; k++)
        to[k] = (to[k] + j->n_steps / 2) / j->n_steps;
out:
    return status;
}

static uint64_t score_of(const struct job *j, const struct row *r) {
    return j->objective == MP_COLOC_CLOSED ? r->worth.closed_ns : r->worth.timeline_ns;
}

static enum mp_status run_named(void *ctx, const char *name, struct mp_error *err) {
    struct job *j = ctx;
    const struct mp_coloc_strategy *s = mp_coloc_strategy_find(name);
    for (uint32_t i = 0; i < j->n_rows; i++)
        if (strcmp(j->rows[i].name, name) == 0)
            return MP_OK;
    if (s == NULL)
        return mp_fail(err, MP_EUSAGE, "--colocation: unknown \"%.40s\" (all: moeplan list colocations)", name);
    return run(j, s, err);
}

/* ---- each model on GPUs of its own ---- */

static enum mp_status share_step(struct job *j, struct share *share, int m, struct mp_error *err) {
    const struct side *x = &j->side[m];
    const uint32_t n = j->topology->n_gpus;
    struct mp_topology part = *j->topology;
    struct mp_arena *arena = mp_arena_new();
    enum mp_status status = MP_OK;
    struct mp_coloc_plan *plan = NULL;
    part.n_gpus = share->n_gpus[m];
    part.gpus = j->topology->gpus + share->gpu[m];
    if (arena == NULL)
        return mp_nomem(err, "a share of a cluster");
    for (uint32_t l = 0; l < x->s.trace->n_layers; l++) {
        struct mp_coloc_problem p;
        struct mp_coloc_times t;
        enum mp_outcome outcome;
        MP_TRY(problem_of(j, &p, l, true, 0, m, arena, err));
        MP_TRY(mp_coloc_fold(&p.model[m], n, part.n_gpus, arena, err));
        p.topology = &part;
        p.slots[m] = share->slots[m];
        p.gpu_slots[m] = share->gpu_slots[m] != NULL ? share->gpu_slots[m] + share->gpu[m] : NULL;
        p.objective = MP_COLOC_TIMELINE;
        p.work_limit = SHARE_WORK;
        MP_TRY(mp_coloc_solve(&plan, mp_coloc_strategy_find("search"), &p, &outcome, err));
        for (uint32_t i = 0; i < j->n_steps && plan != NULL; i++) {
            MP_TRY(problem_of(j, &p, l, false, i, m, arena, err));
            MP_TRY(mp_coloc_fold(&p.model[m], n, part.n_gpus, arena, err));
            p.topology = &part;
            MP_TRY(mp_coloc_evaluate(&t, &p, plan, NULL, err));
            share->step_ns[m] += t.alone_ns[m];
            share->busy_ns[m] += t.busy_ns;
        }
        mp_coloc_plan_free(plan);
        plan = NULL;
        mp_arena_reset(arena);
    }
    share->step_ns[m] /= j->n_steps;
    share->busy_ns[m] /= j->n_steps;
out:
    mp_coloc_plan_free(plan);
    mp_arena_free(arena);
    return status;
}

static uint64_t longer(const struct share *s) { return s->step_ns[0] > s->step_ns[1] ? s->step_ns[0] : s->step_ns[1]; }

struct share_ctx {
    struct job *j;
};
static enum mp_status one_share(void *ctx, size_t i, unsigned worker, struct mp_error *err) {
    struct job *j = ((struct share_ctx *)ctx)->j;
    (void)worker;
    return share_step(j, &j->shares[i / 2], (int)(i % 2), err);
}

static enum mp_status run_shares(struct job *j, struct mp_error *err) {
    const uint32_t n = j->topology->n_gpus;
    struct share_ctx ctx = {j};
    const uint32_t n_sides = colocate_is_same_backwards(j->topology) ? 1 : 2;
    const uint32_t part = mp_topology_n_nodes(j->topology) > 1 ? 0 : (n + SPLITS_BY_GPU_MAX - 1) / SPLITS_BY_GPU_MAX;
    for (uint32_t k = 1; k < n; k++)
        for (uint32_t swapped = 0; swapped < n_sides; swapped++) {
            const uint32_t low = swapped ? n - k : k; /* GPUs of whoever has GPU 0 */
            struct share x = {.is_swapped = swapped == 1, .n_first = k, .n_gpus = {k, n - k}};
            x.gpu[1 - swapped] = low;
            if (n > SPLITS_BY_GPU_MAX &&
                (part > 0 ? k % part != 0
                          : mp_topology_node(j->topology, low) == mp_topology_node(j->topology, low - 1)))
                continue;
            if (colocate_share_fits(j, &x))
                j->shares[j->n_shares++] = x;
            else
                j->n_shares_without_room++;
        }
    enum mp_status status = mp_parallel_for(tool_threads(j->o), 2 * (size_t)j->n_shares, one_share, &ctx, err);
    for (uint32_t k = 1; k < j->n_shares && status == MP_OK; k++)
        if (longer(&j->shares[k]) < longer(&j->shares[j->best_share]))
            j->best_share = k;
    return status;
}

/* ---- reports ---- */

static double busy_share(const struct job *j, uint64_t busy_ns, uint64_t step_ns) {
    return step_ns == 0 ? 0 : (double)busy_ns / ((double)step_ns * j->topology->n_gpus);
}

/* Weights on all GPUs together: of both models on each, or with GPUs of their own. What memory is left is for KV cache.
 */
static double weights_in_all(const struct job *j, const struct share *s) {
    const uint32_t n = j->topology->n_gpus;
    double sum = 0;
    for (uint32_t g = 0; g < n; g++)
        for (int m = 0; m < 2; m++) {
            const struct side *x = &j->side[m];
            if (s == NULL)
                sum += (double)colocate_weights(x, colocate_slots_on(x, g));
            else if (g >= s->gpu[m] && g < s->gpu[m] + s->n_gpus[m])
                sum += (double)colocate_weights(x, s->gpu_slots[m] != NULL ? s->gpu_slots[m][g] : s->slots[m]);
        }
    return sum;
}
static double memory_in_all(const struct job *j) {
    double sum = 0;
    for (uint32_t g = 0; g < j->topology->n_gpus; g++)
        sum += (double)colocate_memory(j->topology, g);
    return sum;
}

static void write_head(const struct job *j, struct mp_out *out) {
    const struct setup *a = &j->side[0].s, *b = &j->side[1].s;
    mp_out_printf(out,
                  "%s (%u layers of %u experts) and %s (%u of %u) on %s; %u step%s of each, scored on %s%s; times are "
                  "those of one step of both in the MoE layers\n",
                  a->model->name, a->trace->n_layers, a->trace->n_experts, b->model->name, b->trace->n_layers,
                  b->trace->n_experts, j->topology->name, j->n_steps, tool_s(j->n_steps), a->evaluated_on,
                  a->trace->is_synthetic || b->trace->is_synthetic ? " (SYNTHETIC recording)" : "");
}

/* What the table says in a sentence, signed percent of the own shares. */
static void write_verdict(const struct job *j, struct mp_out *out) {
    const struct row *best = j->best != MP_NONE ? &j->rows[j->best] : NULL;
    char a[32], b[32];
    if (best == NULL)
        return;
    mp_out_printf(out, "colocated (%s) against each model on all GPUs in turn: %+.1f %% step time\n", best->name,
                  100 * ((double)best->worth.timeline_ns / (double)best->worth.in_turn_ns - 1));
    if (j->n_shares == 0 && j->n_shares_without_room == 0) {
        mp_out_printf(out, "own shares of the cluster: it cannot be split in two\n");
        return;
    }
    if (j->n_shares == 0) {
        mp_out_printf(out, "own shares of the cluster: none of %u splits has room for the weights\n",
                      j->n_shares_without_room);
        return;
    }
    const struct share *s = &j->shares[j->best_share];
    mp_out_printf(out,
                  "own shares: best of %u splits, %s%u GPU%s for the first model and %s%u for the second: step %s and "
                  "%s, utilisation %.1f %%; %u splits have no room\n",
                  j->n_shares + j->n_shares_without_room, s->is_swapped ? "the last " : "", s->n_first,
                  tool_s(s->n_first), s->is_swapped ? "the first " : "", s->n_gpus[1],
                  mp_human_ns((double)s->step_ns[0], a), mp_human_ns((double)s->step_ns[1], b),
                  100 * busy_share(j, s->busy_ns[0] + s->busy_ns[1], longer(s)), j->n_shares_without_room);
    mp_out_printf(out, "weights on all GPUs: %s colocated, ", mp_human_bytes(weights_in_all(j, NULL), a));
    mp_out_printf(out, "%s in own shares, of %s of memory; the rest is for KV cache\n",
                  mp_human_bytes(weights_in_all(j, s), a), mp_human_bytes(memory_in_all(j), b));
    const double change = (double)best->worth.timeline_ns / (double)longer(s) - 1;
    mp_out_printf(out, "verdict: colocating %s own shares: %+.1f %% step time, utilisation %.1f %%\n",
                  change < 0 ? "beats" : "does not beat", 100 * change,
                  100 * busy_share(j, best->worth.busy_ns, best->worth.timeline_ns));
}

static enum mp_status write_text(const struct job *j, struct mp_out *out, struct mp_error *err) {
    static const char *const titles[] = {"colocation",      "timeline",      "closed form",
                                         "against in turn", "busiest port",  "busiest GPU",
                                         "utilisation",     "proven layers", "seconds"};
    struct mp_table *t = mp_table_new();
    char a[32];
    if (t == NULL)
        return mp_nomem(err, "a table");
    write_head(j, out);
    mp_table_columns(t, titles, sizeof titles / sizeof *titles, "004056137", 1);
    for (uint32_t i = 0; i < j->n_rows; i++) {
        const struct row *r = &j->rows[i];
        const struct worth *w = &r->worth;
        mp_table_cell(t, "%s", r->name);
        for (int k = 0; k < 8 && !r->is_found; k++)
            mp_table_cell(t, "n/a");
        if (!r->is_found)
            continue;
        mp_table_cell(t, "%s", mp_human_ns((double)w->timeline_ns, a));
        mp_table_cell(t, "%s", mp_human_ns((double)w->closed_ns, a));
        mp_table_cell(t, "%+.1f %%", 100 * ((double)w->timeline_ns / (double)w->in_turn_ns - 1));
        mp_table_cell(t, "%s", mp_human_ns((double)w->port_ns, a));
        mp_table_cell(t, "%s", mp_human_ns((double)w->compute_ns, a));
        mp_table_cell(t, "%.1f %%", 100 * busy_share(j, w->busy_ns, w->timeline_ns));
        mp_table_cell(t, "%u of %u", r->n_proven, j->n_layers);
        mp_table_cell(t, "%.2f", r->seconds);
    }
    mp_table_show(t, j->o->style, out);
    mp_table_free(t);
    for (uint32_t i = 0; i < j->n_rows; i++)
        if (!j->rows[i].is_found)
            mp_out_printf(out, "%s: %s\n", j->rows[i].name, j->rows[i].note);
    write_verdict(j, out);
    return MP_OK;
}

static void write_json(const struct job *j, struct mp_out *out) {
    json_t *rows = json_array(), *shares = json_array();
    for (uint32_t i = 0; i < j->n_rows; i++) {
        const struct row *r = &j->rows[i];
        const struct worth *w = &r->worth;
        if (!r->is_found)
            (void)json_array_append_new(
                rows, json_pack("{s:s,s:s,s:s}", "colocation", r->name, "outcome", "not applicable", "note", r->note));
        else
            (void)json_array_append_new(
                rows, json_pack("{s:s,s:s,s:I,s:I,s:I,s:I,s:I,s:o,s:i,s:o}", "colocation", r->name, "outcome", "found",
                                "timeline_ns", (json_int_t)w->timeline_ns, "closed_form_ns", (json_int_t)w->closed_ns,
                                "in_turn_ns", (json_int_t)w->in_turn_ns, "port_ns", (json_int_t)w->port_ns,
                                "compute_ns", (json_int_t)w->compute_ns, "utilization",
                                mp_json_finite(busy_share(j, w->busy_ns, w->timeline_ns)), "layers_proven",
                                (int)r->n_proven, "plan_seconds", mp_json_finite(r->seconds)));
    }
    for (uint32_t k = 0; k < j->n_shares; k++) {
        const struct share *s = &j->shares[k];
        (void)json_array_append_new(
            shares, json_pack("{s:i,s:i,s:i,s:i,s:I,s:I,s:o,s:o}", "gpus_a", (int)s->n_gpus[0], "gpus_b",
                              (int)s->n_gpus[1], "first_gpu_a", (int)s->gpu[0], "first_gpu_b", (int)s->gpu[1],
                              "step_a_ns", (json_int_t)s->step_ns[0], "step_b_ns", (json_int_t)s->step_ns[1],
                              "utilization", mp_json_finite(busy_share(j, s->busy_ns[0] + s->busy_ns[1], longer(s))),
                              "weights_bytes", mp_json_finite(weights_in_all(j, s))));
    }
    json_t *root =
        json_pack("{s:s,s:i,s:s,s:s,s:s,s:i,s:i,s:s,s:s?,s:o,s:o,s:i,s:o,s:o}", "schema", "moeplan.colocate", "version",
                  1, "model_a", j->side[0].s.model->name, "model_b", j->side[1].s.model->name, "topology",
                  j->topology->name, "layers", (int)j->n_layers, "steps", (int)j->n_steps, "evaluated_on",
                  j->side[0].s.evaluated_on, "best", j->best != MP_NONE ? j->rows[j->best].name : NULL, "results", rows,
                  "own_shares", shares, "own_shares_without_room", (int)j->n_shares_without_room, "weights_bytes",
                  mp_json_finite(weights_in_all(j, NULL)), "memory_bytes", mp_json_finite(memory_in_all(j)));
    mp_json_write(root, out);
    json_decref(root);
}

static void choose(struct job *j) {
    j->best = MP_NONE;
    for (uint32_t i = 0; i < j->n_rows; i++)
        if (j->rows[i].is_found && (j->best == MP_NONE || score_of(j, &j->rows[i]) < score_of(j, &j->rows[j->best])))
            j->best = i;
}

/* The answer no, as both verbs give it. */
static enum mp_status say_no(const struct job *j, const char *verb, const char *note, int *exit_code,
                             struct mp_error *err) {
    tool_say("%s: %s", verb, note);
    *exit_code = 1;
    return j->o->json ? tool_write_no(j->o, "moeplan.colocate", "infeasible", note, err) : MP_OK;
}

enum mp_status colocate_compare(const struct opts *o, const struct args *args, int *exit_code, struct mp_error *err) {
    struct job *j = mp_calloc(1, sizeof *j);
    struct mp_out *out = NULL;
    char word[MP_MAX_NAME], note[300];
    bool has_room;
    enum mp_status status = MP_OK;
    if (j == NULL)
        return mp_nomem(err, "compare");
    MP_TRY(load(j, o, args, err));
    MP_TRY(colocate_find_room(j, note, sizeof note, &has_room, err));
    if (!has_room) {
        status = say_no(j, "compare", note, exit_code, err);
        goto out;
    }
    if (o->colocation != NULL)
        MP_TRY(tool_for_each_word(o->colocation, "colocation", word, sizeof word, run_named, j, err));
    for (uint32_t i = 0; o->colocation == NULL && mp_coloc_strategy_at(i) != NULL; i++)
        MP_TRY(run(j, mp_coloc_strategy_at(i), err));
    choose(j);
    MP_TRY(run_shares(j, err));
    MP_TRY(tool_open_result(&out, o, err));
    if (o->json)
        write_json(j, out);
    else
        status = write_text(j, out, err);
    if (status == MP_OK)
        status = tool_close_result(out, o, err);
    else
        mp_out_cancel(out);
out:
    unload(j);
    return status;
}

/* Which experts share a GPU: on each GPU the k-th of one model with the k-th of the other, the shorter list again from
 * its beginning. is_second: expert_a is the second model's, for its own plan. */
static enum mp_status pairs_of(const struct job *j, const struct row *r, bool is_second, struct mp_colocation **out,
                               uint32_t *n_out, struct mp_error *err) {
    const struct mp_trace *t[2] = {j->side[0].s.trace, j->side[1].s.trace};
    const uint32_t layers = t[0]->n_layers < t[1]->n_layers ? t[0]->n_layers : t[1]->n_layers;
    const size_t most = (size_t)layers * (t[0]->n_experts + t[1]->n_experts);
    struct mp_colocation *pairs = mp_arena_alloc(j->arena, most, sizeof *pairs);
    uint32_t *here[2], n = 0;
    for (int m = 0; m < 2; m++)
        here[m] = mp_arena_alloc(j->arena, t[m]->n_experts, sizeof *here[m]);
    if (pairs == NULL || here[0] == NULL || here[1] == NULL)
        return mp_nomem(err, "pairs of experts");
    for (uint32_t l = 0; l < layers; l++)
        for (uint32_t g = 0; g < j->topology->n_gpus; g++) {
            uint32_t count[2] = {0, 0};
            for (int m = 0; m < 2; m++)
                for (uint32_t e = 0; e < t[m]->n_experts; e++)
                    if (r->gpu[m][(size_t)l * t[m]->n_experts + e] == g)
                        here[m][count[m]++] = e;
            const uint32_t rows = count[0] > count[1] ? count[0] : count[1];
            for (uint32_t k = 0; k < rows && count[0] > 0 && count[1] > 0; k++) {
                const uint32_t a = here[0][k % count[0]], b = here[1][k % count[1]];
                pairs[n++] = (struct mp_colocation){
                    .layer = l, .expert_a = is_second ? b : a, .expert_b = is_second ? a : b, .gpu = g};
            }
        }
    *out = pairs;
    *n_out = n;
    return MP_OK;
}

/* What the plans say of a step of both: the planning steps' mean, layer by layer. */
static enum mp_status claim(const struct job *j, const struct row *r, struct mp_plan_together *out,
                            struct mp_error *err) {
    struct mp_arena *arena = mp_arena_new();
    enum mp_status status = MP_OK;
    uint32_t nobody = 0;
    if (arena == NULL)
        return mp_nomem(err, "a step of two models");
    for (uint32_t l = 0; l < j->n_layers; l++) {
        struct mp_coloc_problem p;
        struct mp_coloc_times t;
        struct mp_coloc_plan plan = {.gpu = {&nobody, &nobody}};
        for (int m = 0; m < 2; m++)
            if (l < j->side[m].s.trace->n_layers)
                plan.gpu[m] = r->gpu[m] + (size_t)l * j->side[m].s.trace->n_experts;
        MP_TRY(problem_of(j, &p, l, true, 0, -1, arena, err));
        MP_TRY(mp_coloc_evaluate(&t, &p, &plan, NULL, err));
        out->timeline_ns += t.timeline_ns;
        out->closed_form_ns += t.closed_ns;
        mp_arena_reset(arena);
    }
out:
    mp_arena_free(arena);
    return status;
}

/* Nothing is written that the verifier has not accepted; each plan by itself already was. */
static enum mp_status gate(const struct job *j, struct mp_plan *const plan[2], struct mp_error *err) {
    struct mp_verify_report *report = NULL;
    struct mp_verify_side side[2];
    for (int m = 0; m < 2; m++)
        side[m] = (struct mp_verify_side){plan[m], j->side[m].s.trace, j->side[m].s.model};
    enum mp_status status = mp_plan_verify_together(&report, side, j->topology, err);
    if (status == MP_OK && report->n > 0)
        status =
            mp_fail(err, MP_EBUG, "the verifier refuses these two plans: %s: %s (%u violations in all; please report)",
                    mp_violation_name(report->violations[0].kind), report->violations[0].message, report->n);
    mp_verify_report_free(report);
    return status;
}

enum mp_status colocate_plan(const struct opts *o, const struct args *args, int *exit_code, struct mp_error *err) {
    struct job *j = mp_calloc(1, sizeof *j);
    struct mp_out *file[2] = {NULL, NULL}, *out = NULL;
    struct mp_plan *plan[2] = {NULL, NULL};
    struct mp_plan_together together = {.is_present = true};
    char note[300], name[80], a[32], b[32];
    bool has_room;
    enum mp_status status = MP_OK;
    if (j == NULL)
        return mp_nomem(err, "plan");
    if (o->out == NULL || o->out_b == NULL || strcmp(o->out, "-") == 0 || strcmp(o->out_b, "-") == 0 ||
        strcmp(o->out, o->out_b) == 0) {
        status =
            mp_fail(err, MP_EUSAGE, "plan --colocate: two files, one for each model (add -o A.yaml --out-b B.yaml)");
        mp_free(j);
        return status;
    }
    MP_TRY(tool_check_output(o->out, err));
    MP_TRY(tool_check_output(o->out_b, err));
    MP_TRY(load(j, o, args, err));
    MP_TRY(colocate_find_room(j, note, sizeof note, &has_room, err));
    if (!has_room) {
        status = say_no(j, "plan", note, exit_code, err);
        goto out;
    }
    MP_TRY(run_named(j, o->colocation != NULL ? o->colocation : "search", err));
    choose(j);
    if (j->best == MP_NONE) {
        status = say_no(j, "plan", j->rows[0].note, exit_code, err);
        goto out;
    }
    snprintf(name, sizeof name, "colocate-%s", j->rows[0].name);
    MP_TRY(claim(j, &j->rows[0], &together, err));
    for (int m = 0; m < 2; m++) {
        struct mp_plan_request request = score_request(&j->side[m].s, "contiguous");
        struct mp_colocation *pairs = NULL;
        enum mp_outcome outcome;
        together.is_second = m == 1;
        together.other_trace_sha256 = j->side[1 - m].s.trace->sha256;
        together.other_model_sha256 = j->side[1 - m].s.model->sha256;
        request.together = &together;
        MP_TRY(pairs_of(j, &j->rows[0], m == 1, &pairs, &request.n_colocations, err));
        request.colocations = pairs;
        request.given = j->rows[0].gpu[m];
        request.given_name = name;
        request.given_work = j->rows[0].work_used;
        request.given_is_stopped = j->rows[0].is_stopped;
        request.gpu_slots = j->rows[0].gpu_slots[m] != NULL ? j->rows[0].gpu_slots[m] : j->side[m].gpu_slots;
        request.slots_per_gpu = request.gpu_slots == NULL ? j->side[m].slots : 0;
        MP_TRY(mp_plan_make(&plan[m], &request, &outcome, NULL, err));
        if (plan[m] == NULL) {
            snprintf(note, sizeof note, "the %s model: %.240s", m == 0 ? "first" : "second", err->message);
            mp_error_clear(err);
            status = say_no(j, "plan", note, exit_code, err);
            goto out;
        }
    }
    MP_TRY(gate(j, plan, err));
    for (int m = 0; m < 2; m++) { /* both are written before either replaces a file */
        MP_TRY(mp_out_open(&file[m], m == 0 ? o->out : o->out_b, err));
        mp_plan_write(plan[m], file[m]);
    }
    for (int m = 0; m < 2; m++) {
        status = mp_out_commit(file[m], err);
        file[m] = NULL;
        if (status != MP_OK)
            goto out;
    }
    MP_TRY(tool_open_result(&out, o, err));
    if (o->json) {
        write_json(j, out);
    } else {
        const struct worth *w = &j->rows[0].worth;
        write_head(j, out);
        mp_out_printf(out, "%s, %s: verified; %u pairs of experts\n", o->out, o->out_b, plan[0]->n_colocations);
        mp_out_printf(out, "colocation %s, %.2f s, %u of %u layers proven optimal\n", j->rows[0].name,
                      j->rows[0].seconds, j->rows[0].n_proven, j->n_layers);
        mp_out_printf(out, "step of both: timeline %s, closed form %s", mp_human_ns((double)w->timeline_ns, a),
                      mp_human_ns((double)w->closed_ns, b));
        mp_out_printf(out, "; in turn %s; utilisation %.1f %%\n", mp_human_ns((double)w->in_turn_ns, a),
                      100 * busy_share(j, w->busy_ns, w->timeline_ns));
    }
    status = tool_close_result(out, o, err);
out:
    for (int m = 0; m < 2; m++) {
        mp_out_cancel(file[m]);
        mp_plan_free(plan[m]);
    }
    unload(j);
    return status;
}
