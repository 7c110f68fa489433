#include "score.h"
#include "lossy.h"
#include "rehoming.h"
#include "served.h"
#include "training.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

/* --route that the stack of --for does not do. */
static enum mp_status check_route(const struct opts *o, struct mp_error *err) {
    const struct mp_stack *stack = mp_stack_find(o->for_stack);
    for (int r = 0; stack != NULL && o->route != NULL && r < MP_N_ROUTE_RULES; r++)
        if (strcmp(o->route, mp_route_rule_name((enum mp_route_rule)r)) == 0 && (stack->routes >> r & 1) == 0)
            return mp_fail(err, MP_EUSAGE, "--route %s: the servers of %s do not choose replicas so (use --route even)",
                           o->route, stack->name);
    return MP_OK;
}

enum mp_status setup_load(struct setup *s, const struct opts *o, const char *trace, const char *topology,
                          struct mp_error *err) {
    *s = (struct setup){.o = o};
    const struct mp_stack_choice *choice;
    enum mp_status status = MP_OK;
    MP_TRY(check_route(o, err));
    MP_TRY(served_check(&choice, o, err));
    s->arena = mp_arena_new();
    if (s->arena == NULL)
        return mp_nomem(err, "reading options");
    MP_TRY(tool_settings(&s->settings, &s->n_settings, o, s->arena, err));
    /* The small inputs first, so that their mistakes show at once. */
    MP_TRY(mp_topology_load(&s->topology, topology, &o->limits, err));
    MP_TRY(tool_load_trace(&s->trace, trace, o, err));
    MP_TRY(tool_load_model(&s->model, o, s->trace, err));
    tool_note_layers(o, s->trace, s->model);
    MP_TRY(lossy_setup(s, err));
    MP_TRY(rehoming_setup(s, err));
out:
    if (status != MP_OK)
        setup_free(s);
    return status;
}

void setup_free(struct setup *s) {
    mp_workload_free(s->workload);
    mp_part_free(&s->planning);
    mp_part_free(&s->scored);
    mp_model_free(s->model);
    mp_topology_free(s->topology);
    mp_trace_free(s->score_trace);
    mp_trace_free(s->trace);
    mp_arena_free(s->arena);
    *s = (struct setup){.o = s->o};
}

void setup_inputs_text(const struct setup *s, char ranks[300], char totals[300]) {
    const struct mp_trace *t = s->workload->trace;
    uint32_t n_ranks = s->workload->n_ranks, n_named = t->source_known ? t->n_sources : 0;
    for (uint64_t r = 0; t->kind == MP_TRACE_TOKENS && r < t->n_requests; r++)
        if (t->requests[r].source != MP_NONE && t->requests[r].source >= n_named)
            n_named = t->requests[r].source + 1;
    ranks[0] = totals[0] = '\0';
    if (n_named > n_ranks)
        snprintf(ranks, 300,
                 "the recording names %u source ranks and there are %u GPUs: rank r is folded onto GPU r mod %u",
                 n_named, n_ranks, n_ranks);
    else if (n_named > 0 && n_named < n_ranks)
        snprintf(ranks, 300, "the recording names %u source rank%s and there are %u GPUs: the last %u send no tokens",
                 n_named, tool_s(n_named), n_ranks, n_ranks - n_named);
    if (t->kind != MP_TRACE_COUNTS)
        return;
    uint64_t pairs = 0, per_iteration = (uint64_t)t->n_sources * t->n_layers;
    for (uint32_t i = 0; i < s->workload->n_steps; i++)
        for (uint64_t part = 0; part < t->n_sources; part++) { /* layer 0: every layer sees the same tokens */
            const uint64_t *from =
                t->counts + (s->workload->iterations[i] * per_iteration + part * t->n_layers) * t->n_experts;
            for (uint32_t e = 0; e < t->n_experts; e++)
                pairs += from[e];
        }
    uint32_t top_k = t->top_k > 0 ? t->top_k : s->model->top_k;
    uint64_t tokens = pairs / top_k / n_ranks / s->workload->n_steps;
    if (tokens > (s->batching.phase == MP_PHASE_DECODE ? SCORE_DECODE_STEP_TOKENS_MAX : SCORE_STEP_TOKENS_MAX))
        snprintf(totals, 300,
                 "%u recorded iteration%s holding about %llu tokens per rank%s: a total, not a step; times are those "
                 "of one giant step",
                 s->workload->n_steps, tool_s(s->workload->n_steps), (unsigned long long)tokens,
                 s->workload->n_steps == 1 ? "" : " each");
}

void setup_note_inputs(const struct setup *s) {
    char text[2][300];
    setup_inputs_text(s, text[0], text[1]);
    for (int i = 0; i < 2; i++)
        if (text[i][0] != '\0')
            tool_note(s->o, "%s", text[i]);
}

static enum mp_status check_same_model(const struct setup *s, struct mp_error *err) {
    const struct mp_trace *a = s->trace, *b = s->score_trace;
    bool same = a->n_layers == b->n_layers && a->n_experts == b->n_experts && a->kind == b->kind;
    for (uint32_t l = 0; same && l < a->n_layers; l++)
        same = a->layer_ids[l] == b->layer_ids[l];
    if (same)
        return MP_OK;
    return mp_fail_at(err, MP_EINPUT, s->o->score_on, 0, 0,
                      "%u layers of %u experts, the recording that is planned on has %u of %u, or other layers (record "
                      "the same model)",
                      b->n_layers, b->n_experts, a->n_layers, a->n_experts);
}

static bool is_same_recording(const char *a, const char *b) {
    return a != NULL && b != NULL && a[0] != '\0' && strcmp(a, b) == 0;
}

/* The same experts for the same tokens in the same order, whatever names the two give to the model or to requests (the
 * digest covers those too). Both have passed check_same_model. */
static bool has_same_experts(const struct mp_trace *a, const struct mp_trace *b) {
    if (a->kind == MP_TRACE_COUNTS) {
        size_t n = (size_t)a->n_iterations * a->n_sources * a->n_layers * a->n_experts;
        return a->n_iterations == b->n_iterations && a->n_sources == b->n_sources &&
               memcmp(a->counts, b->counts, n * sizeof *a->counts) == 0;
    }
    if (a->n_rows != b->n_rows || a->top_k != b->top_k || a->id_bytes != b->id_bytes)
        return false;
    size_t row_bytes = (size_t)a->n_layers * a->top_k * a->id_bytes;
    for (uint64_t row = 0; row < a->n_rows; row += MP_CHUNK_TOKENS) {
        uint64_t n = a->n_rows - row < MP_CHUNK_TOKENS ? a->n_rows - row : MP_CHUNK_TOKENS;
        if (memcmp(a->chunks[row / MP_CHUNK_TOKENS], b->chunks[row / MP_CHUNK_TOKENS], n * row_bytes) != 0)
            return false;
    }
    return true;
}

/* Do two splits put the same requests of one recording into the planning part? */
static bool is_same_split(const struct mp_split *a, const struct mp_split *b) {
    if (a->kind != b->kind)
        return false;
    if (a->kind == MP_SPLIT_CATEGORY)
        return a->categories != NULL && b->categories != NULL && strcmp(a->categories, b->categories) == 0;
    return a->planning_ppm == b->planning_ppm && (a->kind != MP_SPLIT_HASH || a->seed == b->seed);
}

const char *score_origin(const struct setup *s, const struct mp_plan *plan) {
    const struct mp_provenance *p = &plan->provenance;
    const struct mp_trace *scored = s->score_trace != NULL ? s->score_trace : s->trace;
    if (!p->has_workload || p->trace_sha256 == NULL || p->trace_sha256[0] == '\0')
        return "unknown origin";
    if (!is_same_recording(p->trace_sha256, scored->sha256))
        return "held-out";
    bool is_own_split = s->score_trace == NULL && s->split.kind != MP_SPLIT_NONE && is_same_split(&s->split, &p->split);
    return is_own_split ? "held-out" : "planning data";
}

enum mp_status setup_split(struct setup *s, const char *split, struct mp_error *err) {
    enum mp_status status = MP_OK;
    struct mp_part unused = {0};
    const struct opts *o = s->o;
    MP_TRY(rehoming_check(s, err));
    MP_TRY(training_check(s, err));
    if (o->score_on != NULL) {
        struct mp_split none = {.kind = MP_SPLIT_NONE, .seed = o->seed};
        MP_TRY(tool_load_trace(&s->score_trace, o->score_on, o, err));
        MP_TRY(check_same_model(s, err));
        s->split = none;
        MP_TRY(mp_part_split(&s->planning, &unused, s->trace, &none, err));
        mp_part_free(&unused);
        MP_TRY(mp_part_split(&unused, &s->scored, s->score_trace, &none, err));
        bool is_same =
            is_same_recording(s->trace->sha256, s->score_trace->sha256) || has_same_experts(s->trace, s->score_trace);
        s->evaluated_on = is_same ? "planning data" : "held-out";
    } else {
        MP_TRY(mp_split_parse(&s->split, split, o->seed, err));
        MP_TRY(mp_part_split(&s->planning, &s->scored, s->trace, &s->split, err));
        s->evaluated_on = s->split.kind == MP_SPLIT_NONE ? "planning data" : "held-out";
    }
    s->scored.homes = s->homes;
    MP_TRY(mp_workload_build(&s->workload, &s->scored, &s->batching, err));
    tool_note_generic(o, s->model);
    setup_note_inputs(s);
out:
    mp_part_free(&unused);
    return status;
}

struct mp_plan_request score_request(const struct setup *s, const char *strategy) {
    const struct opts *o = s->o;
    const struct mp_stack *stack = o->for_stack != NULL ? mp_stack_find(o->for_stack) : NULL;
    const bool is_exact = o->solver != NULL && strcmp(o->solver, "exact") == 0 && strcmp(strategy, "auto") == 0;
    struct mp_sim_options sim = s->sim;
    sim.routing_ns = 0; /* a plan's claims do not know it */
    return (struct mp_plan_request){
        .stage_mode = tool_stages(o),
        .can_pace = o->pacing,
        .settings = s->settings,
        .n_settings = s->n_settings,
        .planning = &s->planning,
        .batching = s->batching,
        .split = s->split,
        .topology = s->topology,
        .model = s->model,
        .sim = sim,
        .objective = tool_objective(o),
        .strategy = strategy,
        .replicate = o->replicate,
        .place = is_exact && o->place == NULL ? "exact" : o->place,
        .route = o->route,
        .order = o->order == NULL && stack != NULL ? "single" : o->order, /* servers know no orders */
        .n_redundant = (uint32_t)o->redundant,
        .slots_per_gpu = (uint32_t)o->slots_per_gpu,
        .allowed_routes = stack != NULL ? stack->routes : 0,
        .needs_equal_slots = stack != NULL && stack->needs_equal_slots,
        .needs_distinct = stack != NULL && stack->needs_distinct,
        .seed = o->seed,
        .work_limit = o->work_limit,
        .wall_seconds = o->time_limit,
        .n_threads = tool_threads(o),
        .limits = &o->limits,
        .no_exact = o->solver != NULL && strcmp(o->solver, "heuristic") == 0,
        .fits_steps = o->fit != NULL && strcmp(o->fit, "steps") == 0,
        .export_lp = o->export_lp,
        .import_solution = o->import_solution,
    };
}

/* Says in the note, and bars the plan, when a GPU's weights are more than its memory. */
static void check_memory(struct score *out, const struct setup *s) {
    const struct mp_plan *p = out->plan;
    char need[32], has[32];
    for (uint32_t g = 0; g < p->n_gpus; g++) {
        uint64_t n_filled = 0, experts, shared, memory = s->topology->types[s->topology->gpus[g].type].memory_bytes;
        for (uint32_t l = 0; l < p->n_layers; l++)
            for (uint32_t k = p->gpu_first_slot[g]; k < p->gpu_first_slot[g + 1]; k++)
                n_filled += p->layers[l].slot_expert[k] != MP_NO_EXPERT;
        if (mp_mul_overflow(n_filled, s->model->expert_bytes, &experts) ||
            mp_mul_overflow(p->n_layers, s->model->shared_bytes, &shared) ||
            mp_add_overflow(experts, shared, &experts) || mp_add_overflow(experts, s->model->dense_bytes, &experts))
            experts = UINT64_MAX;
        if (experts <= memory)
            continue;
        out->is_barred = true;
        snprintf(out->note, sizeof out->note, "does not fit: %s of weights on %s (GPU %u)",
                 mp_human_bytes((double)experts, need), mp_human_bytes((double)memory, has), g);
        return;
    }
}

enum mp_status score_check_stack(const struct setup *s, const struct mp_plan *plan, enum mp_outcome *outcome,
                                 struct mp_error *err) {
    *outcome = MP_FOUND;
    if (s->o->for_stack == NULL)
        return MP_OK;
    struct mp_stack_options options = tool_stack_options(s->o, s->model, s->topology);
    return mp_stack_find(s->o->for_stack)->check(plan, &options, outcome, err);
}

/* What a policy starts with. For those that run EPLB it is planned in any case: what it cannot do here, it cannot do
 * later. */
static enum mp_status plan_start(struct score *out, struct mp_plan_request *request, enum mp_outcome *outcome,
                                 struct mp_error *err) {
    const char *recipe;
    double seconds = 0;
    const struct mp_strategy *policy = mp_policy_find(request->strategy);
    enum mp_status status = mp_online_start(&recipe, policy, request->settings, request->n_settings, err);
    out->is_online = true;
    if (status == MP_OK && mp_online_needs_tokens(policy) && request->planning->trace->kind != MP_TRACE_TOKENS) {
        *outcome = MP_NOT_APPLICABLE;
        (void)mp_fail(err, MP_EUSAGE, "counts do not say which experts one token used (record tokens)");
        return MP_OK;
    }
    const bool is_eplb = !mp_online_needs_tokens(policy);
    request->strategy = is_eplb ? "eplb" : recipe;
    request->replicate = request->place = NULL;
    request->order = "single"; /* servers know no orders */
    if (status == MP_OK)
        status = mp_plan_make(&out->plan, request, outcome, &seconds, err);
    if (status != MP_OK || out->plan == NULL || strcmp(recipe, request->strategy) == 0) {
        out->shown.plan_seconds = seconds;
        return status;
    }
    mp_plan_free(out->plan);
    request->strategy = recipe;
    return mp_plan_make(&out->plan, request, outcome, &out->shown.plan_seconds, err);
}

enum mp_status score_plan(struct score *out, const struct setup *s, const char *strategy, const char *homes,
                          struct mp_error *err) {
    *out = (struct score){0};
    const bool has_homes = homes != NULL && strcmp(homes, "none") != 0;
    snprintf(out->name, sizeof out->name, "%s%s%s", strategy, has_homes ? "+" : "", has_homes ? homes : "");
    out->travel = mp_travel_find(strategy);
    struct mp_plan_request request = score_request(s, out->travel != NULL ? "contiguous" : strategy);
    request.homes = homes;
    enum mp_outcome outcome = MP_NOT_FOUND;
    enum mp_status status = mp_policy_find(strategy) != NULL
                                ? plan_start(out, &request, &outcome, err)
                                : mp_plan_make(&out->plan, &request, &outcome, &out->shown.plan_seconds, err);
    if (status != MP_OK)
        return status;
    if (outcome == MP_FOUND || (outcome == MP_STOPPED && out->plan != NULL))
        return MP_OK;
    snprintf(out->note, sizeof out->note, "%s: %s", outcome == MP_NOT_APPLICABLE ? "not applicable" : "not feasible",
             err->message);
    mp_error_clear(err);
    return MP_OK;
}

enum mp_status score_fit(struct mp_plan *plan, const char *path, const struct mp_trace *trace,
                         const struct mp_topology *topology, struct mp_error *err) {
    if (plan->n_gpus != topology->n_gpus)
        return mp_fail_at(err, MP_EINPUT, path, 0, 0,
                          "is for %u GPUs, the topology has %u (give the topology it was made for)", plan->n_gpus,
                          topology->n_gpus);
    if (plan->n_experts != trace->n_experts)
        return mp_fail_at(err, MP_EINPUT, path, 0, 0,
                          "places %u experts, the recording has %u (give a recording of the same model)",
                          plan->n_experts, trace->n_experts);
    for (uint32_t g = 0; plan->homes.is_present && g < plan->n_gpus; g++)
        if (plan->gpu_node[g] != mp_topology_node(topology, g))
            return mp_fail_at(err, MP_EINPUT, path, 0, 0,
                              "gives requests homes on nodes, and GPU %u is on node %u there and on node %u of the "
                              "topology (give the topology it was made for)",
                              g, plan->gpu_node[g], mp_topology_node(topology, g));
    struct mp_plan_layer *layers = mp_arena_alloc(plan->arena, trace->n_layers, sizeof *layers);
    uint32_t *node = mp_arena_alloc(plan->arena, plan->n_gpus, sizeof *node);
    bool is_same = plan->n_layers == trace->n_layers;
    if (layers == NULL || node == NULL)
        return mp_nomem(err, "placement");
    for (uint32_t l = 0; l < trace->n_layers; l++) {
        uint32_t k = 0;
        while (k < plan->n_layers && plan->layers[k].layer_id != trace->layer_ids[l])
            k++;
        if (k == plan->n_layers)
            return mp_fail_at(err, MP_EINPUT, path, 0, 0,
                              "has no layer %u, which the recording has (its first is %u; --layer-base says which "
                              "layer its first row is)",
                              trace->layer_ids[l], plan->n_layers > 0 ? plan->layers[0].layer_id : 0);
        layers[l] = plan->layers[k];
        is_same = is_same && k == l;
    }
    if (!is_same) /* the buckets name the plan's layers: they are made anew, as its bucket_bytes says */
        plan->training.policy.buckets = NULL;
    for (uint32_t g = 0; g < plan->n_gpus; g++)
        node[g] = mp_topology_node(topology, g);
    plan->layers = layers;
    plan->n_layers = trace->n_layers;
    plan->gpu_node = node;
    plan->n_nodes = mp_topology_n_nodes(topology);
    return MP_OK;
}

enum mp_status score_load(struct score *out, const struct setup *s, const char *path, struct mp_error *err) {
    *out = (struct score){0};
    const char *slash = strrchr(path, '/');
    snprintf(out->name, sizeof out->name, "%s", slash != NULL ? slash + 1 : path);
    struct mp_stack_options options = tool_stack_options(s->o, s->model, s->topology);
    enum mp_status status = MP_OK;
    MP_TRY(mp_stack_load(&out->plan, path, NULL, &options, &s->o->limits, err));
    if (!out->plan->provenance.has_workload) { /* a placement, or one that was converted to a plan file */
        struct opts plain = *s->o;             /* --input-format speaks of the recording */
        enum tool_kind kind;
        plain.input_format = NULL;
        MP_TRY(tool_kind_of(&kind, path, &plain, err));
        out->is_imported = kind != TOOL_PLAN;
    }
    if (out->is_imported) {
        bool is_nearest = strcmp(s->o->incumbent_route, "nearest") == 0;
        out->plan->route = is_nearest ? MP_ROUTE_NEAREST : MP_ROUTE_EVEN;
        out->plan->provenance.route = mp_route_rule_name(out->plan->route);
        if (!s->o->is_set[OPT_INCUMBENT_ROUTE] && strcmp(out->plan->provenance.place, "sglang") == 0)
            tool_note(s->o,
                      "%s: replicas take turns (route even); for SGLang's --ep-dispatch-algorithm static add "
                      "--incumbent-route nearest",
                      out->name);
    }
    MP_TRY(score_fit(out->plan, path, s->trace, s->topology, err));
    if (out->plan->provenance.matrix.is_present)
        tool_note(s->o,
                  "%s orders a traffic matrix: expert i stands for GPU i, and its certificate is of that matrix, not "
                  "of this recording",
                  out->name);
    check_memory(out, s);
out:
    return status;
}

void score_free(struct score *score) {
    mp_sim_result_free(score->result);
    mp_workload_free(score->workload);
    mp_plan_free(score->plan);
    score->workload = NULL;
    score->result = NULL;
    score->plan = NULL;
}

/* Simulates a plan, or replays a policy; figures NULL = those of the policy are not wanted. */
static enum mp_status run(struct mp_sim_result **out, const struct score *c, struct score *figures,
                          const struct setup *s, const struct mp_workload *w, const struct mp_sim_options *sim,
                          struct mp_error *err) {
    struct mp_online_result *r;
    struct mp_sim_options with_flow = *sim;
    with_flow.flow = lossy_flow(s);
    if (c->travel != NULL) {
        with_flow.dispatcher = c->travel;
        with_flow.flow = NULL; /* tokens stay, all of them */
    }
    if (!c->is_online)
        return served_simulate(out, s, c->plan, w, &with_flow, err);
    *out = NULL;
    enum mp_status status = served_online(&r, s, c->name, c->plan, w, &with_flow, err);
    if (status != MP_OK)
        return status;
    if (figures != NULL) {
        figures->online.n_rebalances = r->n_rebalances;
        figures->online.n_left_out = r->n_left_out;
        figures->online.n_steps = w->n_steps;
        figures->online.moved_experts = r->moved_experts;
        figures->online.moved_bytes = r->moved_bytes;
        figures->online.moved_inter_bytes = r->moved_inter_bytes;
        figures->online.wait_ns = r->mean_wait_ns;
        figures->online.n_schedules = r->n_schedules;
        figures->online.n_checks = r->n_checks;
        figures->online.n_tuned = r->n_tuned;
        figures->online.n_layers = r->n_layers;
        figures->shown.plan_seconds += r->plan_seconds;
    }
    *out = r->sim;
    r->sim = NULL;
    mp_online_result_free(r);
    return MP_OK;
}

enum mp_status score_build_homed(struct mp_workload **out, const struct mp_plan *plan, const struct mp_part *part,
                                 const struct mp_batching *batching, struct mp_error *err) {
    struct mp_part homed = *part; /* borrows */
    enum mp_status status = mp_plan_home_rule(&homed.homes, plan, err);
    return status == MP_OK ? mp_workload_build(out, &homed, batching, err) : status;
}

/* One replicate of the jackknife: mean step of every plan on the part without one group. *is_used is false when the
 * group is empty; *is_short is true when what is left does not fill a step. */
static enum mp_status score_replicate(struct score *scores, uint32_t n, const struct setup *s, uint32_t n_groups,
                                      uint32_t group, uint32_t slot, bool *is_used, bool *is_short,
                                      struct mp_error *err) {
    enum mp_status status = MP_OK;
    struct mp_part part = {0};
    struct mp_workload *w = NULL, *own = NULL;
    *is_short = false;
    struct mp_error refused = {0};
    struct mp_batching batching = s->batching;
    struct mp_sim_options sim = s->sim;
    *is_used = false;
    status = mp_part_without_group(&part, &s->scored, n_groups, group, &refused);
    if (status == MP_EINPUT) { /* all requests are in that group */
        *is_short = true;
        return MP_OK;
    }
    if (status == MP_OK && part.n == s->scored.n)
        goto out;
    const uint32_t most = s->n_replicate_steps > 0 ? s->n_replicate_steps : SCORE_REPLICATE_STEPS;
    if (batching.resample && (batching.n_steps_max == 0 || batching.n_steps_max > most))
        batching.n_steps_max = most;
    if (status == MP_OK)
        status = mp_workload_build(&w, &part, &batching, &refused);
    if (status == MP_EINPUT) { /* what is left does not fill a recorded step, and others would not compare with it */
        *is_short = true;
        status = MP_OK;
        goto out;
    }
    if (status != MP_OK) {
        *err = refused;
        goto out;
    }
    sim.with_bound = false;
    sim.n_steps_max = most;
    if (s->is_replicate_bound)
        sim.network = MP_NETWORK_PORT_BOUND;
    for (uint32_t i = 0; i < n; i++) {
        struct mp_sim_result *r = NULL;
        if (scores[i].plan == NULL)
            continue;
        if (scores[i].workload != NULL)
            MP_TRY(score_build_homed(&own, scores[i].plan, &part, &batching, err));
        MP_TRY(run(&r, &scores[i], NULL, s, own != NULL ? own : w, &sim, err));
        mp_workload_free(own);
        own = NULL;
        double sum = 0;
        for (uint32_t t = 0; t < r->n_steps; t++)
            sum += (double)r->steps[t].step_ns;
        scores[i].without[slot] = sum / r->n_steps;
        mp_sim_result_free(r);
    }
    *is_used = true;
out:
    mp_workload_free(own);
    mp_workload_free(w);
    mp_part_free(&part);
    return status;
}

static double mean_step(const struct mp_sim_result *r) {
    double sum = 0;
    for (uint32_t t = 0; t < r->n_steps; t++)
        sum += (double)r->steps[t].step_ns;
    return sum / r->n_steps;
}

static enum mp_status score_each(struct score *scores, uint32_t n, uint32_t base, const struct setup *s,
                                 uint32_t n_groups, struct mp_progress_part *part, struct mp_error *err) {
    uint32_t n_used = 0;
    const char *no_interval = NULL;
    for (uint32_t i = 0; i < n; i++) {
        struct score *c = &scores[i];
        c->shown.strategy = c->name;
        if (c->shown.evaluated_on == NULL)
            c->shown.evaluated_on = s->evaluated_on;
        c->shown.is_without_kv_cache = s->model->kv_bytes_per_token == 0;
        c->shown.note = c->note[0] != '\0' ? c->note : NULL;
        mp_progress_add(part, i > 0);
        if (c->plan == NULL)
            continue;
        enum mp_status status = MP_OK;
        if (c->plan->homes.is_present)
            status = score_build_homed(&c->workload, c->plan, &s->scored, &s->batching, err);
        if (status == MP_OK)
            status = run(&c->result, c, c, s, score_steps(c, s), &s->sim, err);
        if (status != MP_OK)
            return status;
        c->shown.result = c->result;
        c->shown.plan = c->plan;
        if ((status = lossy_measure(c, s, err)) != MP_OK)
            return status;
    }
    if (n_groups > 1 && s->scored.n < 2 * n_groups)
        no_interval = "too few requests";
    for (uint32_t g = 0; n_groups > 1 && no_interval == NULL && g < n_groups; g++) {
        bool is_used, is_short;
        mp_progress_add(part, g > 0 ? n : 1);
        enum mp_status status = score_replicate(scores, n, s, n_groups, g, n_used, &is_used, &is_short, err);
        if (status != MP_OK)
            return status;
        n_used += is_used;
        if (is_short)
            no_interval = s->batching.resample ? "too few requests"
                          : n_groups == 10     ? "without a tenth of the requests no recorded step is full; "
                                                 "--resample gives one"
                                               : "without one group of the requests no recorded step is full; "
                                                 "--resample gives one";
    }
    if (no_interval != NULL)
        n_used = 0;
    else if (n_groups > 1 && n_used < 2)
        no_interval = "too few requests";
    const struct score *b = base < n ? &scores[base] : NULL;
    for (uint32_t i = 0; i < n; i++) {
        struct score *c = &scores[i];
        if (c->result == NULL)
            continue;
        c->shown.no_interval = no_interval;
        c->shown.step_ns = mp_interval_jackknife(mean_step(c->result), c->without, n_used);
        if (b == NULL || b->result == NULL)
            continue;
        double ratio[SCORE_GROUPS_MAX];
        for (uint32_t g = 0; g < n_used; g++)
            ratio[g] = c->without[g] / b->without[g] - 1;
        c->against_base = mp_interval_jackknife(mean_step(c->result) / mean_step(b->result) - 1, ratio, n_used);
    }
    return MP_OK;
}

enum mp_status score_all(struct score *scores, uint32_t n, uint32_t base, const struct setup *s, uint32_t n_groups,
                         struct mp_error *err) {
    const uint64_t n_runs = (uint64_t)n * (1 + (n_groups > 1 ? n_groups : 0));
    struct mp_progress_part *part = mp_progress_begin(s->o->progress, "scores", n_runs, 0);
    enum mp_status status = score_each(scores, n, base, s, n_groups, part, err);
    mp_progress_end(part);
    return status;
}

bool score_change_json(json_t *result, const struct score *score, const struct mp_sim_result *base) {
    const struct mp_sim_result *r = score->result;
    if (r == NULL || base == NULL)
        return true;
    return json_object_set_new(result, "change",
                               mp_json_finite((double)r->mean.step_ns / (double)base->mean.step_ns - 1)) == 0 &&
           json_object_set_new(result, "change_interval", mp_interval_json(&score->against_base)) == 0 &&
           json_object_set_new(result, "moe_change",
                               base->moe_ns > 0 ? mp_json_finite((double)r->moe_ns / (double)base->moe_ns - 1)
                                                : json_null()) == 0;
}

json_t *score_homes_json(const struct score *score) {
    const struct mp_sim_result *r = score->result;
    const struct mp_plan_homes *h = &score->plan->homes;
    return json_pack("{s:s,s:i,s:I,s:o,s:o,s:o,s:I}", "method", h->is_present ? h->method : "none", "prefix_rows",
                     (int)h->prefix_rows, "tolerance", (json_int_t)h->tolerance, "inter_node_copies_per_expert",
                     mp_json_finite(r->copies_inter), "inter_node_copies_per_node", mp_json_finite(r->copies_node),
                     "max_over_mean", mp_json_finite(r->balance.max_over_mean), "rows",
                     (json_int_t)(score->workload != NULL ? score->workload->n_rows : 0));
}

const char *score_kv_tokens(const struct setup *s, const struct mp_sim_result *r, char *buf) {
    snprintf(buf, 32, s->model->kv_bytes_per_token > 0 ? "%llu" : "-", (unsigned long long)r->kv_tokens_min);
    return buf;
}

const char *score_describe(const struct setup *s, char *buf, size_t size) {
    const struct mp_workload *w = s->workload;
    const struct mp_batching *b = &w->batching;
    char rule[128], split[300];
    if (b->phase == MP_PHASE_DECODE)
        snprintf(rule, sizeof rule, "%u request%s on each of %u ranks", b->batch_per_rank, tool_s(b->batch_per_rank),
                 b->n_ranks);
    else
        snprintf(rule, sizeof rule, "up to %llu tokens on each of %u ranks", (unsigned long long)b->tokens_per_rank,
                 b->n_ranks);
    bool is_held_out = strcmp(s->evaluated_on, "held-out") == 0;
    if (s->score_trace != NULL && !is_held_out)
        snprintf(split, sizeof split, "scored on the planning data: %.200s is the recording that is planned on",
                 s->o->score_on);
    else if (s->score_trace != NULL)
        snprintf(split, sizeof split, "scored on another recording, %.200s", s->o->score_on);
    else if (strcmp(s->evaluated_on, "unknown origin") == 0)
        snprintf(split, sizeof split, "unknown origin: the file does not say which recording it was made from");
    else if (!is_held_out)
        snprintf(split, sizeof split, "scored on the planning data%s",
                 s->split.kind != MP_SPLIT_NONE ? ": the plan was made from this recording, and not with this split"
                                                : "");
    else if (s->split.kind == MP_SPLIT_NONE)
        snprintf(split, sizeof split, "held-out: the plan was not made from this recording");
    else if (s->split.kind == MP_SPLIT_CATEGORY)
        snprintf(split, sizeof split, "held-out: categories other than %.200s", s->split.categories);
    else
        snprintf(split, sizeof split, "held-out: %.3g %% of the %s, %s", 100 - s->split.planning_ppm / 1e4,
                 s->trace->kind == MP_TRACE_COUNTS ? "iterations" : "requests",
                 s->split.kind == MP_SPLIT_TIME ? "the last in file order" : "by hash of the request id");
    const char *sources = s->sim.sources == MP_SOURCES_COUPLED ? "coupled" : "dp";
    char reading[64] = "", ns[32];
    if (s->sim.is_pipelined || s->sim.routing_ns > 0)
        snprintf(reading, sizeof reading, "%s%s%s", s->sim.is_pipelined ? ", timeline pipelined" : "",
                 s->sim.routing_ns > 0 ? ", routing " : "",
                 s->sim.routing_ns > 0 ? mp_human_ns((double)s->sim.routing_ns, ns) : "");
    if (s->trace->kind == MP_TRACE_COUNTS)
        snprintf(buf, size, "%u recorded %s iteration%s; dispatcher %s, sources %s%s\n%s", w->n_steps,
                 mp_phase_name(b->phase), tool_s(w->n_steps), s->sim.dispatcher->name, sources, reading, split);
    else
        snprintf(buf, size,
                 "%u %s %s step%s of %s; %u distinct request%s, %llu tokens; dispatcher %s, sources %s%s\n%s",
                 w->n_steps, w->is_bootstrap ? "bootstrap" : "recorded", mp_phase_name(b->phase), tool_s(w->n_steps),
                 rule, w->n_requests, tool_s(w->n_requests), (unsigned long long)w->n_rows, s->sim.dispatcher->name,
                 sources, reading, split);
    return buf;
}

/* ---- steps and costs as a plan has them ---- */

/* Steps as the plan was made for, where the options do not say otherwise. */
static enum mp_status batching_of(struct setup *s, const struct mp_plan *plan, struct mp_error *err) {
    const struct opts *o = s->o;
    enum mp_status status = tool_batching(&s->batching, o, s->trace, s->topology, err);
    const struct mp_batching *made = &plan->provenance.batching;
    if (status != MP_OK || !plan->provenance.has_workload || made->phase != s->batching.phase)
        return status;
    struct mp_batching *b = &s->batching;
    if (!o->is_set[OPT_BATCH])
        b->batch_per_rank = made->batch_per_rank;
    if (!o->is_set[OPT_TOKENS_PER_RANK])
        b->tokens_per_rank = made->tokens_per_rank;
    if (!o->is_set[OPT_SOURCE_SKEW])
        b->source_skew_ppm = made->source_skew_ppm;
    if (!o->is_set[OPT_PAD])
        b->pad_tokens = made->pad_tokens;
    if (!o->is_set[OPT_STEPS] && !o->is_set[OPT_RESAMPLE])
        b->n_steps_max = made->n_steps_max;
    b->resample |= made->resample;
    if (!o->is_set[OPT_SEED])
        b->seed = made->seed;
    return MP_OK;
}

static void costs_of(struct setup *s, const struct mp_plan *plan) {
    const struct mp_provenance *p = &plan->provenance;
    s->sim = tool_sim_options(s->o, s->trace, s->batching.phase);
    if (!p->has_workload)
        return;
    if (!s->o->is_set[OPT_DISPATCHER] && p->dispatcher != NULL && mp_dispatcher_find(p->dispatcher) != NULL)
        s->sim.dispatcher = mp_dispatcher_find(p->dispatcher);
    if (!s->o->is_set[OPT_SOURCES] && p->sources != NULL)
        s->sim.sources = strcmp(p->sources, "coupled") == 0 ? MP_SOURCES_COUPLED : MP_SOURCES_DP;
    if (s->o->timeline == NULL)
        s->sim.is_pipelined = plan->is_pipelined;
}

/* Which part of the recording is scored, and what that is called. */
static enum mp_status part_of(struct setup *s, const struct mp_plan *plan, struct mp_error *err) {
    const struct mp_provenance *p = &plan->provenance;
    struct mp_part planning = {0};
    bool is_own = p->has_workload && p->trace_sha256 != NULL && p->trace_sha256[0] != '\0' &&
                  strcmp(p->trace_sha256, s->trace->sha256) == 0;
    if (s->o->split != NULL) {
        enum mp_status status = setup_split(s, s->o->split, err);
        s->evaluated_on = score_origin(s, plan);
        return status;
    }
    s->split = is_own ? p->split : (struct mp_split){.kind = MP_SPLIT_NONE, .seed = s->o->seed};
    s->evaluated_on = score_origin(s, plan);
    enum mp_status status = mp_part_split(&planning, &s->scored, s->trace, &s->split, err);
    mp_part_free(&planning);
    s->scored.homes = s->homes;
    if (status == MP_OK)
        status = mp_workload_build(&s->workload, &s->scored, &s->batching, err);
    if (status == MP_OK)
        setup_note_inputs(s);
    return status;
}

enum mp_status setup_as_planned(struct setup *s, const struct mp_plan *plan, struct mp_error *err) {
    enum mp_status status = batching_of(s, plan, err);
    if (status != MP_OK)
        return status;
    costs_of(s, plan);
    status = rehoming_check(s, err);
    if (status == MP_OK)
        status = training_check(s, err);
    if (status == MP_OK)
        status = mp_plan_home_rule(&s->homes, plan, err);
    return status == MP_OK ? part_of(s, plan, err) : status;
}
