/* lina-online: every layer of every step gets the experts it is foreseen to need, before its gate has run.
 *
 * Decides   a placement for every layer of every step.
 * Minimises the busiest GPU's tokens (lina_schedule.c).
 * Method    phase 1: the popularity of a layer's experts is estimated from what the step's tokens used in the layers
 *           before, by tables learned on the planning part, and the experts are placed by it. Phase 2, after the gate:
 *           where the 2k most popular experts are not those that were foreseen they are placed again, by what they are.
 *           Then the layer runs. A GPU swaps in from its host what it does not hold of the layer's last placement.
 *           Costs: `schedule-us` a placement and `check-us` a comparison, and bytes over `host-mbytes` for what is
 *           swapped, the GPU with the most. Phase 1 runs while the layer before does: what fits the mean time of a
 *           layer is hidden (`hide`). Phase 2 blocks. Layers with fewer before them than the path is long keep the
 *           first placement, as published.
 * Differs   the paper's model is top-1 and has as many experts as GPUs. Swapping over PCIe is neglected there (and with
 *           swap-percent=0). Broadcasting the placement is inside schedule-us.
 * Paper     Lina, USENIX ATC 2023 (arXiv 2210.17223), sections 5.1 and 5.2.
 * Cost      O(steps * layers * (tokens * length * k * E + E log E)), and two simulations of the steps. */
#include "online_lina.h"
#include "lina_schedule.h"
#include "planner.h"
#include <moeplan/progress.h>
#include <moeplan/predict.h>
#include <string.h>

enum estimate { BY_NOTHING, BY_POPULARITY, BY_PAIRS, BY_PATHS, BY_ACTUAL };
enum option {
    PATH,
    ESTIMATE,
    TUNE,
    SCHEDULE,
    CHECK,
    HIDE,
    SWAP,
    HOST,
    PER_GPU,
    DEVICES,
    ROUND,
    EARLY,
    KEEP,
    N_OPTIONS
};
static const struct mp_option options[] = {
    {"path-length", "layers", "layers before that popularity is estimated from", 3, 0, MP_PATH_MAX},
    {"estimate", "",
     "popularity by 0 = nothing (placed after the gate), 1 = the planning data, 2 = pairs of experts, 3 = Lina's "
     "sample "
     "paths, 4 = what it will be",
     BY_PATHS, BY_NOTHING, BY_ACTUAL},
    {"fine-tune", "", "1 = experts are placed again where the lists differ (phase 2)", 1, 0, 1},
    {"schedule-us", "us", "what a placement of one layer takes", 6200, 0, 1000000000},
    {"check-us", "us", "what comparing the lists takes, every layer", 1450, 0, 1000000000},
    {"hide", "", "of phase 1: 0 = nothing is hidden, 1 = as much as a layer takes, 2 = all", 1, 0, 2},
    {"swap-percent", "%", "what of the time of weights from the host counts (0 = the paper's)", 100, 0, 10000},
    {"host-mbytes", "MB/s", "host memory to GPU", 25000, 1, 10000000},
    {"experts-per-gpu", "experts", "most on a GPU in a layer; as many as GPUs need slots if that is more", 4, 1, 4096},
    {"devices", "", "what popularity is multiplied by: 1 = GPUs, as printed; 0 = slots", 1, 0, 1},
    {"round", "", "0 = down, 1 = to the nearest", 1, 0, 1},
    {"early", "", "1 = layers with fewer than path-length before them are scheduled too, by those", 0, 0, 1},
    {"keep", "", "of a token's experts foreseen by sample paths, 1 = the top-k count, as published; 0 = all", 1, 0, 1},
    {0}};

#define LINA "Lina, USENIX ATC 2023, arXiv 2210.17223"
/* The first one has the options; the others are the same with these values over them. */
struct variant {
    struct mp_strategy policy;
    struct {
        enum option option;
        int64_t value;
    } set[5];
    uint32_t n_set;
};
static const struct variant variants[] = {
    {{.name = "lina-online",
      .summary = "Lina's two-phase scheduling: each layer's experts placed by their popularity foreseen, then checked, "
                 "at the published cost",
      .reference = LINA,
      .options = options},
     {{0}},
     0},
    {{.name = "lina-free",
      .summary = "lina-online where placing, checking and swapping cost nothing",
      .reference = LINA},
     {{SCHEDULE, 0}, {CHECK, 0}, {SWAP, 0}},
     3},
    {{.name = "lina-actual",
      .summary = "lina-free whose estimate is what popularity will be: what better estimates could still bring",
      .reference = LINA},
     {{ESTIMATE, BY_ACTUAL}, {SCHEDULE, 0}, {CHECK, 0}, {SWAP, 0}},
     4},
    {{.name = "lina-blind",
      .summary = "lina-online without estimates: every layer placed after its gate",
      .reference = LINA},
     {{ESTIMATE, BY_NOTHING}},
     1},
    {{.name = "lina-once",
      .summary = "lina-online without fine-tuning: the estimate's placement stays",
      .reference = LINA},
     {{TUNE, 0}},
     1},
};

const struct mp_strategy *online_lina_at(uint32_t i) {
    return i < sizeof variants / sizeof *variants ? &variants[i].policy : NULL;
}

struct scratch {
    uint64_t *estimated, *actual;
    int64_t *scores;
    double *p;
    void *room;
    uint16_t *first; /* [n_slots] phase 1 */
};
/* What one (step, layer) came to: the work of its thread, read in order afterwards. */
struct outcome {
    uint32_t n_ahead, n_again; /* experts swapped in by the GPU with the most, in each phase; filled in by `swaps` */
    bool is_ahead, is_again;
};
struct lina {
    const struct mp_online_request *in;
    int64_t value[N_OPTIONS];
    struct mp_path_tables *tables;
    struct mp_sample_paths *paths;
    struct mp_foresight how;
    struct lina_rule rule;
    uint32_t n_layers, n_slots, n_list, first_layer;
    uint16_t *ahead, *serving; /* [n_steps][n_layers][n_slots]: phase 1's, and what served */
    struct outcome *outcomes;  /* [n_steps][n_layers] */
    struct scratch *scratch;   /* [n_threads] */
    struct mp_online_result *r;
};

static uint16_t *slots_at(const struct lina *x, uint16_t *of, uint64_t step, uint32_t l) {
    return of + ((size_t)step * x->n_layers + l) * x->n_slots;
}

static bool are_alike(const struct lina *x, const struct scratch *s) {
    for (uint32_t e = 0; e < x->rule.n_experts; e++)
        if (mp_foresee_is_among(s->estimated, e, x->n_list, x->rule.n_experts) !=
            mp_foresee_is_among(s->actual, e, x->n_list, x->rule.n_experts))
            return false;
    return true;
}

static void estimate(const struct lina *x, struct scratch *s, const struct mp_step *step, uint32_t l) {
    const struct mp_trace *trace = x->in->workload->trace;
    memset(s->estimated, 0, x->rule.n_experts * sizeof *s->estimated);
    if (x->value[ESTIMATE] == BY_ACTUAL) {
        memcpy(s->estimated, s->actual, x->rule.n_experts * sizeof *s->estimated);
        return;
    }
    for (uint32_t j = 0; j < step->n; j++) {
        if (j == 0 || x->value[ESTIMATE] != BY_POPULARITY) /* that is the same for every token */
            mp_foresee(&x->how, trace, l, step->row[j], s->scores, s->p);
        mp_foresee_add(&x->how, s->scores, s->p, s->estimated);
    }
}

static enum mp_status schedule_step(void *ctx, size_t i, unsigned worker, struct mp_error *err) {
    (void)err;
    struct lina *x = ctx;
    struct scratch *s = &x->scratch[worker];
    const struct mp_step *step = &x->in->workload->steps[i];
    uint16_t ids[MP_MAX_TOP_K];
    for (uint32_t l = 0; l < x->n_layers; l++) {
        struct outcome *o = &x->outcomes[i * x->n_layers + l];
        uint16_t *ahead = slots_at(x, x->ahead, i, l), *serving = slots_at(x, x->serving, i, l);
        const size_t bytes = x->n_slots * sizeof *ahead;
        memset(s->actual, 0, x->rule.n_experts * sizeof *s->actual);
        for (uint32_t j = 0; j < step->n; j++) {
            uint32_t n = mp_trace_row(x->in->workload->trace, l, step->row[j], ids);
            for (uint32_t k = 0; k < n; k++)
                s->actual[ids[k]] += 1000000; /* as estimates count */
        }
        if (l < x->first_layer) {
            memcpy(ahead, x->r->home->layers[l].slot_expert, bytes);
            memcpy(serving, ahead, bytes);
            continue;
        }
        o->is_ahead = x->value[ESTIMATE] != BY_NOTHING;
        if (o->is_ahead) {
            estimate(x, s, step, l);
            lina_schedule(ahead, &x->rule, s->estimated, s->room);
        }
        o->is_again = !o->is_ahead || (x->value[TUNE] != 0 && !are_alike(x, s));
        if (o->is_again)
            lina_schedule(serving, &x->rule, s->actual, s->room);
        else
            memcpy(serving, ahead, bytes);
        if (!o->is_ahead) /* nothing is there before */
            memcpy(ahead, serving, bytes);
    }
    return MP_OK;
}

/* Experts of `to` that the GPU with the most of them does not hold in `from`; all of them are added to *n_all. */
static uint32_t swapped(const struct lina *x, const uint16_t *from, const uint16_t *to, uint64_t *n_all) {
    const uint32_t per_gpu = x->rule.per_gpu;
    uint32_t most = 0;
    for (uint32_t g = 0; g < x->rule.n_gpus; g++) {
        uint32_t n = 0;
        for (uint32_t a = g * per_gpu; a < (g + 1) * per_gpu && to[a] != MP_NO_EXPERT; a++) {
            bool is_there = false;
            for (uint32_t b = g * per_gpu; b < (g + 1) * per_gpu && !is_there; b++)
                is_there = from[b] == to[a];
            n += !is_there;
        }
        *n_all += n;
        most = n > most ? n : most;
    }
    return most;
}

/* What GPUs fetch from their hosts, step after step: a layer's slots keep what they held. */
static void swaps(struct lina *x) {
    struct mp_online_result *r = x->r;
    for (uint32_t t = 0; t < x->in->workload->n_steps; t++)
        for (uint32_t l = x->first_layer; l < x->n_layers; l++) {
            struct outcome *o = &x->outcomes[(size_t)t * x->n_layers + l];
            const uint16_t *held = t == 0 ? x->r->home->layers[l].slot_expert : slots_at(x, x->serving, t - 1, l);
            const uint16_t *ahead = slots_at(x, x->ahead, t, l), *serving = slots_at(x, x->serving, t, l);
            if (o->is_ahead)
                o->n_ahead = swapped(x, held, ahead, &r->moved_experts);
            if (o->is_again)
                o->n_again = swapped(x, o->is_ahead ? ahead : held, serving, &r->moved_experts);
            r->n_schedules += o->is_ahead;
            r->n_checks += o->is_ahead && x->value[TUNE] != 0;
            r->n_tuned += o->is_again;
        }
    r->moved_bytes = r->moved_experts * x->in->model->expert_bytes;
}

static uint64_t swap_ns(const struct lina *x, uint32_t n_experts) {
    const uint64_t ns = mp_mul_div_ceil(n_experts * x->in->model->expert_bytes, 1000, (uint64_t)x->value[HOST]);
    return mp_mul_div(ns, (uint64_t)x->value[SWAP], 100);
}

/* What a step waits, where a layer takes layer_ns. */
static void waits(struct lina *x, uint64_t *wait_ns, uint64_t layer_ns) {
    const uint64_t schedule_ns = 1000 * (uint64_t)x->value[SCHEDULE], check_ns = 1000 * (uint64_t)x->value[CHECK];
    for (uint32_t t = 0; t < x->in->workload->n_steps; t++) {
        wait_ns[t] = 0;
        for (uint32_t l = x->first_layer; l < x->n_layers; l++) {
            const struct outcome *o = &x->outcomes[(size_t)t * x->n_layers + l];
            const uint64_t ahead = o->is_ahead ? schedule_ns + swap_ns(x, o->n_ahead) : 0,
                           hidden = x->value[HIDE] == 0   ? 0
                                    : x->value[HIDE] == 1 ? layer_ns
                                                          : UINT64_MAX;
            wait_ns[t] += (ahead > hidden ? ahead - hidden : 0) + (o->is_ahead && x->value[TUNE] != 0 ? check_ns : 0) +
                          (o->is_again ? schedule_ns + swap_ns(x, o->n_again) : 0);
        }
    }
}

/* The start's placement in slots of this policy: GPU by GPU, in its order. */
static enum mp_status make_home(struct lina *x, struct mp_error *err) {
    const struct mp_plan *start = x->in->start;
    struct mp_arena *arena = x->r->arena;
    uint32_t *slots = mp_arena_alloc(arena, start->n_gpus, sizeof *slots);
    if (slots == NULL)
        return mp_nomem(err, "replaying a policy");
    for (uint32_t g = 0; g < start->n_gpus; g++)
        slots[g] = x->rule.per_gpu;
    enum mp_status status = mp_plan_new(&x->r->home, start->n_layers, start->n_experts, start->n_gpus, slots, err);
    if (status != MP_OK)
        return status;
    x->r->home->gpu_node = start->gpu_node;
    x->r->home->n_nodes = start->n_nodes;
    x->r->home->route = start->route == MP_ROUTE_NEAREST ? MP_ROUTE_NEAREST : MP_ROUTE_EVEN;
    x->r->home->provenance = start->provenance;
    for (uint32_t l = 0; l < start->n_layers; l++) {
        x->r->home->layers[l].layer_id = start->layers[l].layer_id;
        for (uint32_t g = 0; g < start->n_gpus; g++) {
            uint32_t n = 0;
            for (uint32_t s = start->gpu_first_slot[g]; s < start->gpu_first_slot[g + 1]; s++)
                if (start->layers[l].slot_expert[s] != MP_NO_EXPERT)
                    x->r->home->layers[l].slot_expert[g * x->rule.per_gpu + n++] = start->layers[l].slot_expert[s];
        }
    }
    return MP_OK;
}

static enum mp_status make(struct lina *x, unsigned n_threads, struct mp_error *err) {
    const struct mp_online_request *in = x->in;
    const uint32_t n_steps = in->workload->n_steps, n_experts = x->rule.n_experts;
    struct mp_arena *arena = x->r->arena;
    const size_t n = (size_t)n_steps * x->n_layers;
    x->ahead = mp_arena_alloc(arena, n * x->n_slots, sizeof *x->ahead);
    x->serving = mp_arena_alloc(arena, n * x->n_slots, sizeof *x->serving);
    x->outcomes = mp_arena_alloc(arena, n, sizeof *x->outcomes);
    x->scratch = mp_arena_alloc(arena, n_threads, sizeof *x->scratch);
    bool is_full = x->ahead != NULL && x->serving != NULL && x->outcomes != NULL && x->scratch != NULL;
    for (unsigned i = 0; i < n_threads && is_full; i++) {
        struct scratch *s = &x->scratch[i];
        s->estimated = mp_arena_alloc(arena, n_experts, sizeof *s->estimated);
        s->actual = mp_arena_alloc(arena, n_experts, sizeof *s->actual);
        s->scores = mp_arena_alloc(arena, n_experts, sizeof *s->scores);
        s->p = mp_arena_alloc(arena, n_experts, sizeof *s->p);
        s->room = mp_arena_alloc(arena, lina_room(&x->rule), 1);
        is_full = s->estimated != NULL && s->actual != NULL && s->scores != NULL && s->p != NULL && s->room != NULL;
    }
    return is_full ? MP_OK : mp_nomem(err, "replaying a policy");
}

static enum mp_status learn(struct lina *x, unsigned n_threads, struct mp_error *err) {
    const enum estimate by = (enum estimate)x->value[ESTIMATE];
    const uint32_t length = by == BY_PAIRS || by == BY_PATHS ? (uint32_t)x->value[PATH] : 0;
    enum mp_status status = MP_OK;
    if (by == BY_NOTHING || by == BY_ACTUAL)
        return MP_OK;
    status = mp_path_learn(&x->tables, x->in->planning, by == BY_PATHS ? 0 : length, err);
    if (status == MP_OK && by == BY_PATHS)
        status = mp_sample_paths_learn(&x->paths, x->in->planning, length, n_threads, err);
    x->how = (struct mp_foresight){
        .tables = x->tables, .paths = x->paths, .length = length, .keeps_top = by == BY_PATHS && x->value[KEEP] != 0};
    x->first_layer = x->value[EARLY] != 0 ? 0 : length < x->n_layers ? length : x->n_layers;
    return status;
}

/* A version for every step, and their simulation: once to know what a layer takes, then with what steps wait. */
static enum mp_status serve(struct lina *x, struct mp_error *err) {
    const struct mp_online_request *in = x->in;
    const uint32_t n_steps = in->workload->n_steps;
    struct mp_arena *arena = x->r->arena;
    struct mp_sim_version *versions = mp_arena_alloc(arena, n_steps, sizeof *versions);
    struct mp_plan *plans = mp_arena_alloc(arena, n_steps, sizeof *plans);
    struct mp_plan_layer *layers = mp_arena_alloc(arena, (size_t)n_steps * x->n_layers, sizeof *layers);
    uint64_t *wait_ns = mp_arena_alloc(arena, n_steps, sizeof *wait_ns);
    if (versions == NULL || plans == NULL || layers == NULL || wait_ns == NULL)
        return mp_nomem(err, "replaying a policy");
    for (uint32_t t = 0; t < n_steps; t++) {
        plans[t] = *x->r->home; /* borrows */
        plans[t].layers = layers + (size_t)t * x->n_layers;
        for (uint32_t l = 0; l < x->n_layers; l++) {
            plans[t].layers[l] = x->r->home->layers[l];
            plans[t].layers[l].slot_expert = slots_at(x, x->serving, t, l);
        }
        versions[t] = (struct mp_sim_version){t, &plans[t]};
    }
    x->r->versions = versions;
    x->r->n_versions = n_steps;
    x->r->wait_ns = wait_ns;
    struct mp_sim_options quick = in->sim;
    quick.with_bound = false;
    enum mp_status status =
        mp_simulate_versions(&x->r->sim, versions, n_steps, NULL, in->workload, in->topology, in->model, &quick, err);
    if (status != MP_OK)
        return status;
    waits(x, wait_ns, x->r->sim->mean.step_ns / x->n_layers);
    mp_sim_result_free(x->r->sim);
    x->r->sim = NULL;
    for (uint32_t t = 0; t < n_steps; t++)
        x->r->mean_wait_ns += wait_ns[t];
    x->r->mean_wait_ns /= n_steps;
    return mp_simulate_versions(&x->r->sim, versions, n_steps, wait_ns, in->workload, in->topology, in->model, &in->sim,
                                err);
}

/* The options of the first one, and the variant's own over them. */
static enum mp_status values_of(struct lina *x, struct mp_arena *arena, struct mp_error *err) {
    const int64_t *values;
    enum mp_status status =
        mp_option_values(&values, &variants[0].policy, x->in->settings, x->in->n_settings, arena, err);
    if (status != MP_OK)
        return status;
    memcpy(x->value, values, sizeof x->value);
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++)
        for (uint32_t k = 0; &variants[i].policy == x->in->policy && k < variants[i].n_set; k++)
            x->value[variants[i].set[k].option] = variants[i].set[k].value;
    return MP_OK;
}

enum mp_status online_lina(struct mp_online_result **out, const struct mp_online_request *in, struct mp_error *err) {
    struct lina x = {.in = in, .n_layers = in->start->n_layers};
    const struct mp_plan *start = in->start;
    const unsigned n_threads = in->sim.n_threads == 0 ? 1 : in->sim.n_threads;
    const double started = mp_now_seconds();
    enum mp_status status = MP_OK;
    *out = NULL;
    if (in->workload->steps == NULL || in->planning == NULL || in->planning->trace->kind != MP_TRACE_TOKENS)
        return mp_fail(err, MP_EUSAGE, "counts do not say which experts one token used (record tokens)");
    struct mp_arena *arena = mp_arena_new();
    x.r = arena != NULL ? mp_arena_alloc(arena, 1, sizeof *x.r) : NULL;
    if (x.r == NULL) {
        mp_arena_free(arena);
        return mp_nomem(err, "replaying a policy");
    }
    *x.r = (struct mp_online_result){.arena = arena, .n_layers = x.n_layers};
    MP_TRY(values_of(&x, arena, err));
    const uint32_t needed = (uint32_t)mp_ceil_div(start->n_experts + in->n_redundant, start->n_gpus);
    x.rule = (struct lina_rule){.n_experts = start->n_experts,
                                .n_gpus = start->n_gpus,
                                .per_gpu = needed > (uint32_t)x.value[PER_GPU] ? needed : (uint32_t)x.value[PER_GPU],
                                .n_slots = x.value[DEVICES] != 0 ? 0 : start->n_experts + in->n_redundant,
                                .is_down = x.value[ROUND] == 0};
    for (uint32_t g = 0; g < start->n_gpus; g++) {
        const uint32_t n = start->gpu_first_slot[g + 1] - start->gpu_first_slot[g];
        x.rule.per_gpu = n > x.rule.per_gpu ? n : x.rule.per_gpu;
    }
    x.n_slots = start->n_gpus * x.rule.per_gpu;
    x.n_list = 2 * in->planning->trace->top_k;
    x.n_list = x.n_list < start->n_experts ? x.n_list : start->n_experts;
    MP_TRY(learn(&x, n_threads, err));
    MP_TRY(make_home(&x, err));
    MP_TRY(make(&x, n_threads, err));
    MP_TRY(mp_parallel_for_told(in->sim.progress, "steps", n_threads, in->workload->n_steps, schedule_step, &x, err));
    swaps(&x);
    x.r->plan_seconds = mp_now_seconds() - started;
    MP_TRY(serve(&x, err));
    *out = x.r;
out:
    mp_path_free(x.tables);
    mp_sample_paths_free(x.paths);
    if (status != MP_OK)
        mp_online_result_free(x.r);
    return status;
}
