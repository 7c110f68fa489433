/* eplb-online: what servers do today. EPLB plans anew every so many steps on what the last steps used, and experts move
 * while the model is served.
 *
 * Decides   a placement for every step, from nothing but the steps before it.
 * Minimises as EPLB, the busiest GPU's load over the window.
 * Method    replayed over the steps in their order. Every `interval` steps EPLB's own replicas and packing on the loads
 *           of the last `window` steps; then layer by layer, `layers-per-chunk` of them per step, every GPU fetches the
 *           experts that it did not hold from one that did: from its own node if there is one, from whoever has sent
 *           least so far. A chunk's fetches go over the ports at once and take what the simulator says. Synchronous:
 *           the step waits for them and runs with the new placement. Otherwise they run beside the steps: while a step
 *           computes they have the ports to themselves, while it communicates they take `share-percent` of them and
 *           lengthen it; the new placement serves from the step after the last byte.
 * Differs   planning takes no time (plan_seconds says what it took here), nor does counting loads or switching maps.
 *           Servers' own thresholds and EPLB's variants are not modelled. A step of the recording may stand for
 *           `stretch` steps like it: then intervals and windows count those, moves cost the fewer, and what changes
 *           inside a stretch counts from its start.
 * Reference SGLang eplb_manager.py (--eplb-rebalance-num-iterations, --eplb-rebalance-layers-per-chunk), vLLM
 *           eplb_state.py (window_size, step_interval, use_async)
 * Cost      O(steps) simulations, and for asynchronous moves one more of each step that has some; EPLB per interval. */
#include "online_lina.h"
#include "planner.h"
#include <moeplan/base.h>
#include <string.h>

enum option { WINDOW, INTERVAL, STRETCH, CHUNK, SYNCHRONOUS, MOVE, SHARE, START };
static const struct mp_option options[] = {
    {"window", "steps", "steps before a rebalance whose loads it plans on (0 = all so far)", 1000, 0, 1000000000},
    {"interval", "steps", "steps from one rebalance to the next (0 = none)", 1000, 0, 1000000000},
    {"stretch", "steps", "how many steps of a server a step of the recording stands for", 64, 1, 1000000},
    {"layers-per-chunk", "layers", "layers whose experts move before one step (0 = all)", 0, 0, 4096},
    {"synchronous", "", "1 = a step waits for the moves before it; 0 = they share the ports with the steps", 1, 0, 1},
    {"move-percent", "%", "what of the simulated time of the moves counts (0 = they are free)", 100, 0, 10000},
    {"share-percent", "%", "share of the ports that asynchronous moves take from a step's transfers", 50, 1, 99},
    {"start", "", "first placement: 0 = EPLB's of the planning data, 1 = as servers start without one", 0, 0, 1},
    {0}};

static const struct mp_strategy policy = {
    .name = "eplb-online",
    .summary = "EPLB again every interval on a window of past steps, experts moving while the model is served: what "
               "servers do",
    .reference = "SGLang --enable-eplb, vLLM --enable-eplb; DeepSeek EPLB, github.com/deepseek-ai/EPLB, 2025",
    .options = options};

const struct mp_strategy *mp_policy_at(uint32_t i) { return i == 0 ? &policy : online_lina_at(i - 1); }

const struct mp_strategy *mp_policy_find(const char *name) {
    for (uint32_t i = 0; name != NULL && mp_policy_at(i) != NULL; i++)
        if (strcmp(name, mp_policy_at(i)->name) == 0)
            return mp_policy_at(i);
    return NULL;
}

bool mp_online_needs_tokens(const struct mp_strategy *p) { return p != &policy; }

enum mp_status mp_online_start(const char **recipe, const struct mp_strategy *p, const struct mp_setting *settings,
                               uint32_t n_settings, struct mp_error *err) {
    const int64_t *values;
    if (p != &policy) {
        *recipe = "contiguous";
        return MP_OK;
    }
    struct mp_arena *arena = mp_arena_new();
    if (arena == NULL)
        return mp_nomem(err, "options of a strategy");
    enum mp_status status = mp_option_values(&values, &policy, settings, n_settings, arena, err);
    if (status == MP_OK)
        *recipe = values[START] == 0 ? "eplb" : "trivial";
    mp_arena_free(arena);
    return status;
}

/* The replay. */
struct replay {
    const struct mp_online_request *in;
    const int64_t *value;            /* of the options */
    uint32_t interval, window;       /* in steps of the recording; 0 = none, all */
    struct mp_arena *arena;          /* of the result */
    struct mp_plan **made;           /* plans of EPLB, owned by the result */
    struct mp_sim_version *versions; /* [n_steps + 1] */
    uint64_t *wait_ns;               /* [n_steps] */
    uint64_t *matrix;                /* [n_gpus][n_gpus] bytes of a chunk */
    uint64_t *sent;                  /* [n_gpus] of it */
    struct mp_net *net;
    struct mp_online_result *r;
    /* Layers [next, n_layers) of `target` are still to come; without a target everything is as it is to be. */
    const struct mp_plan *target;
    uint32_t next;
    bool is_moving;   /* asynchronous: chunks up to `next` are under way, */
    uint64_t left_ns; /* and take so much longer */
};

static const struct mp_plan *current(const struct replay *x) { return x->versions[x->r->n_versions - 1].plan; }

/* The problem as EPLB saw it when it made the first placement, with other loads. */
static enum mp_status plan_anew(struct replay *x, uint32_t from, uint32_t to, struct mp_error *err) {
    const struct mp_online_request *in = x->in;
    const struct mp_plan *like = in->start;
    struct mp_workload seen = *in->workload; /* borrows */
    struct mp_arena *scratch = mp_arena_new();
    struct mp_combination eplb = {.may_repeat_on_gpu = true};
    const struct mp_budget budget = {0};
    enum mp_outcome outcome;
    enum mp_status status = MP_OK;
    uint64_t work = 0;
    const double started = mp_now_seconds();
    if (scratch == NULL)
        return mp_nomem(err, "planning");
    seen.n_steps = to - from;
    seen.steps = seen.steps != NULL ? seen.steps + from : NULL;
    seen.iterations = seen.iterations != NULL ? seen.iterations + from : NULL;
    struct mp_problem problem = {.workload = &seen,
                                 .topology = in->topology,
                                 .model = in->model,
                                 .sim = in->sim,
                                 .n_redundant = in->n_redundant,
                                 .needs_distinct = in->needs_distinct,
                                 .n_threads = in->sim.n_threads};
    problem.sim.is_pipelined = false;
    uint32_t *slots = mp_arena_alloc(scratch, like->n_gpus, sizeof *slots);
    if (slots == NULL) {
        status = mp_nomem(err, "planning");
        goto out;
    }
    for (uint32_t g = 0; g < like->n_gpus; g++)
        slots[g] = like->gpu_first_slot[g + 1] - like->gpu_first_slot[g];
    problem.gpu_slots = slots;
    static const char *const names[MP_N_PLANNER_STAGES] = {"eplb", "eplb", "even", "single"};
    for (int s = 0; s < MP_N_PLANNER_STAGES; s++)
        MP_TRY(mp_strategy_need(&eplb.stage[s], (enum mp_planner_stage)s, names[s], err));
    MP_TRY(mp_load_table(&problem.load, &seen, in->sim.n_threads, scratch, err));
    struct mp_plan **out = &x->made[x->r->n_rebalances];
    MP_TRY(mp_combination_run(out, &problem, &eplb, NULL, &budget, &work, &outcome, err));
    if (*out == NULL) { /* what the first placement fits, later ones fit; err has the sentence */
        status = MP_EUSAGE;
        goto out;
    }
    x->r->n_rebalances++;
    x->target = *out;
    x->next = 0;
out:
    x->r->plan_seconds += mp_now_seconds() - started;
    mp_arena_free(scratch);
    return status;
}

static bool holds(const struct mp_plan *p, uint32_t l, uint32_t g, uint16_t expert) {
    for (uint32_t s = p->gpu_first_slot[g]; s < p->gpu_first_slot[g + 1]; s++)
        if (p->layers[l].slot_expert[s] == expert)
            return true;
    return false;
}

/* Adds to the matrix what GPU g fetches for the slot of layer l. */
static void fetch(struct replay *x, const struct mp_plan *old, uint32_t l, uint32_t g, uint16_t expert) {
    const uint64_t bytes = x->in->model->expert_bytes;
    uint32_t best = MP_NONE;
    bool is_best_near = false;
    for (uint32_t s = 0; s < old->n_slots; s++) {
        const uint32_t from = old->slot_gpu[s];
        const bool is_near = old->gpu_node[from] == old->gpu_node[g];
        if (old->layers[l].slot_expert[s] != expert || (is_best_near && !is_near))
            continue;
        if (best == MP_NONE || (is_near && !is_best_near) || x->sent[from] < x->sent[best]) {
            best = from;
            is_best_near = is_near;
        }
    }
    if (best == MP_NONE)
        return;
    x->sent[best] += bytes;
    x->matrix[(size_t)best * old->n_gpus + g] += bytes;
    x->r->moved_experts++;
    x->r->moved_bytes += bytes;
    x->r->moved_inter_bytes += is_best_near ? 0 : bytes;
}

/* Time of the fetches of layers [from, to), as it counts. */
static enum mp_status move(struct replay *x, uint32_t from, uint32_t to, uint64_t *time_ns, struct mp_error *err) {
    const struct mp_plan *old = current(x);
    const uint32_t n = old->n_gpus;
    const uint64_t before = x->r->moved_experts;
    uint64_t ns = 0;
    memset(x->matrix, 0, (size_t)n * n * sizeof *x->matrix);
    memset(x->sent, 0, n * sizeof *x->sent);
    for (uint32_t l = from; l < to; l++)
        for (uint32_t g = 0; g < n; g++)
            for (uint32_t s = old->gpu_first_slot[g]; s < old->gpu_first_slot[g + 1]; s++) {
                uint16_t expert = x->target->layers[l].slot_expert[s];
                bool is_again = false; /* twice on this GPU: fetched once */
                for (uint32_t a = old->gpu_first_slot[g]; a < s && !is_again; a++)
                    is_again = x->target->layers[l].slot_expert[a] == expert;
                if (expert != MP_NO_EXPERT && !is_again && !holds(old, l, g, expert))
                    fetch(x, old, l, g, expert);
            }
    *time_ns = 0;
    if (x->r->moved_experts == before)
        return MP_OK;
    enum mp_status status = mp_net_concurrent(x->net, x->matrix, &ns, NULL, err);
    if (status != MP_OK)
        return status;
    ns += x->in->topology->launch_ns;
    *time_ns = mp_mul_div(ns, (uint64_t)x->value[MOVE], 100 * (uint64_t)x->value[STRETCH]);
    return MP_OK;
}

/* From step `step` on, layers [0, to) of the target serve. */
static enum mp_status switch_to(struct replay *x, uint32_t step, uint32_t to, struct mp_error *err) {
    const struct mp_plan *old = current(x);
    struct mp_plan *p = mp_arena_alloc(x->arena, 1, sizeof *p);
    struct mp_plan_layer *layers = mp_arena_alloc(x->arena, old->n_layers, sizeof *layers);
    if (p == NULL || layers == NULL)
        return mp_nomem(err, "replaying a policy");
    *p = *old; /* borrows */
    memcpy(layers, old->layers, old->n_layers * sizeof *layers);
    for (uint32_t l = 0; l < to; l++)
        layers[l].slot_expert = x->target->layers[l].slot_expert;
    p->layers = layers;
    p->allow_same_gpu_replicas |= x->target->allow_same_gpu_replicas;
    uint32_t n = x->r->n_versions;
    n -= x->versions[n - 1].from_step == step; /* it never served */
    x->versions[n] = (struct mp_sim_version){step, p};
    x->r->n_versions = n + 1;
    if (to == old->n_layers)
        x->target = NULL;
    return MP_OK;
}

/* The layers that move before one step of the recording: [next, this). */
static uint32_t chunk_end(const struct replay *x) {
    const uint64_t n_layers = x->in->start->n_layers, chunk = (uint64_t)x->value[CHUNK];
    const uint64_t to = x->next + chunk * (uint64_t)x->value[STRETCH];
    return chunk == 0 || to > n_layers ? (uint32_t)n_layers : (uint32_t)to;
}

/* Fetches of one chunk after the other up to `to`; each is a shot of its own. */
static enum mp_status move_chunks(struct replay *x, uint32_t to, uint64_t *time_ns, struct mp_error *err) {
    const uint32_t chunk = x->value[CHUNK] == 0 ? to : (uint32_t)x->value[CHUNK];
    *time_ns = 0;
    while (x->next < to) {
        uint64_t ns;
        uint32_t end = to - x->next < chunk ? to : x->next + chunk;
        enum mp_status status = move(x, x->next, end, &ns, err);
        if (status != MP_OK)
            return status;
        *time_ns += ns;
        x->next = end;
    }
    return MP_OK;
}

/* Moves beside step `step`: how much they lengthen it and how much of them is done. A step of T ns with C ns of
 * transfers gives them T - C ns of the ports, and share / (100 - share) * C while it communicates, by which it is
 * longer. */
static enum mp_status move_beside(struct replay *x, uint32_t step, struct mp_error *err) {
    struct mp_workload one = *x->in->workload; /* borrows */
    struct mp_sim_options sim = x->in->sim;
    struct mp_sim_result *result = NULL;
    const uint64_t share = (uint64_t)x->value[SHARE];
    if (x->left_ns > 0) {
        one.n_steps = 1;
        one.steps = one.steps != NULL ? one.steps + step : NULL;
        one.iterations = one.iterations != NULL ? one.iterations + step : NULL;
        sim.with_bound = false;
        sim.n_threads = 1;
        enum mp_status status = mp_simulate(&result, current(x), &one, x->in->topology, x->in->model, &sim, err);
        if (status != MP_OK)
            return status;
        const uint64_t transfers = result->mean.dispatch_ns + result->mean.combine_ns;
        const uint64_t delay = mp_mul_div(transfers, share, 100 - share),
                       done = result->mean.step_ns - transfers + delay;
        mp_sim_result_free(result);
        x->wait_ns[step] = x->left_ns < done ? mp_mul_div(delay, x->left_ns, done) : delay;
        x->left_ns = x->left_ns < done ? 0 : x->left_ns - done;
    }
    x->is_moving = x->left_ns > 0;
    return x->is_moving ? MP_OK : switch_to(x, step + 1, x->next, err);
}

static enum mp_status replay(struct replay *x, struct mp_error *err) {
    const struct mp_online_request *in = x->in;
    const bool is_synchronous = x->value[SYNCHRONOUS] != 0;
    enum mp_status status = MP_OK;
    for (uint32_t step = 0; step < in->workload->n_steps; step++) {
        const bool is_due = x->interval > 0 && step > 0 && step % x->interval == 0;
        if (is_due && x->target != NULL)
            x->r->n_left_out++; /* the last one is still moving */
        else if (is_due)
            MP_TRY(plan_anew(x, x->window > 0 && x->window < step ? step - x->window : 0, step, err));
        if (x->target == NULL)
            continue;
        if (is_synchronous) {
            MP_TRY(move_chunks(x, chunk_end(x), &x->wait_ns[step], err));
            MP_TRY(switch_to(x, step, x->next, err));
            continue;
        }
        if (!x->is_moving) /* the next chunks start */
            MP_TRY(move_chunks(x, chunk_end(x), &x->left_ns, err));
        MP_TRY(move_beside(x, step, err));
    }
    if (x->versions[x->r->n_versions - 1].from_step >= in->workload->n_steps)
        x->r->n_versions--; /* it came too late to serve */
out:
    return status;
}

enum mp_status mp_online_simulate(struct mp_online_result **out, const struct mp_online_request *in,
                                  struct mp_error *err) {
    struct replay x = {.in = in};
    enum mp_status status = MP_OK;
    const uint32_t n_steps = in->workload->n_steps, n = in->start->n_gpus;
    *out = NULL;
    if (n_steps == 0)
        return mp_fail(err, MP_EUSAGE, "there is no step to simulate");
    if (in->policy != NULL && in->policy != &policy)
        return online_lina(out, in, err);
    x.arena = mp_arena_new();
    if (x.arena == NULL)
        return mp_nomem(err, "replaying a policy");
    x.r = mp_arena_alloc(x.arena, 1, sizeof *x.r);
    if (x.r == NULL) {
        mp_arena_free(x.arena);
        return mp_nomem(err, "replaying a policy");
    }
    x.r->arena = x.arena;
    MP_TRY(mp_option_values(&x.value, &policy, in->settings, in->n_settings, x.arena, err));
    const uint64_t stretch = (uint64_t)x.value[STRETCH], interval = (uint64_t)x.value[INTERVAL],
                   window = (uint64_t)x.value[WINDOW];
    x.interval = interval == 0 ? 0 : interval < stretch ? 1 : (uint32_t)(interval / stretch);
    x.window = window == 0 ? 0 : window < stretch ? 1 : (uint32_t)(window / stretch);
    x.versions = mp_arena_alloc(x.arena, (size_t)n_steps + 2, sizeof *x.versions);
    x.wait_ns = mp_arena_alloc(x.arena, n_steps, sizeof *x.wait_ns);
    x.made = mp_arena_alloc(x.arena, n_steps, sizeof(struct mp_plan *));
    x.matrix = mp_arena_alloc(x.arena, (size_t)n * n, sizeof *x.matrix);
    x.sent = mp_arena_alloc(x.arena, n, sizeof *x.sent);
    if (x.versions == NULL || x.wait_ns == NULL || x.made == NULL || x.matrix == NULL || x.sent == NULL) {
        status = mp_nomem(err, "replaying a policy");
        goto out;
    }
    x.r->made = x.made;
    x.r->versions = x.versions;
    x.r->wait_ns = x.wait_ns;
    x.versions[0] = (struct mp_sim_version){0, in->start};
    x.r->n_versions = 1;
    MP_TRY(mp_net_new(&x.net, in->topology, err));
    MP_TRY(replay(&x, err));
    MP_TRY(mp_simulate_versions(&x.r->sim, x.versions, x.r->n_versions, x.wait_ns, in->workload, in->topology,
                                in->model, &in->sim, err));
    for (uint32_t t = 0; t < n_steps; t++)
        x.r->mean_wait_ns += x.wait_ns[t];
    x.r->mean_wait_ns /= n_steps;
    *out = x.r;
out:
    mp_net_free(x.net);
    if (status != MP_OK)
        mp_online_result_free(x.r);
    return status;
}

void mp_online_result_free(struct mp_online_result *r) {
    if (r == NULL)
        return;
    mp_sim_result_free(r->sim);
    mp_plan_free(r->home);
    for (uint32_t i = 0; r->made != NULL && i < r->n_rebalances; i++)
        mp_plan_free(r->made[i]);
    mp_arena_free(r->arena);
}
