/* Orders for the layers of a plan.
 *
 * Decides    which layers run dispatch and combine in stages, in which order, which layers share one, and when a step
 *            falls back to one shot.
 * Minimises  the mean simulated time of each layer on the planning steps, launches included.
 * Method     1. A layer where an upper bound on the single shot is at the floor of all orders is left alone: no order
 *            is made. 2. Orders are made for mean dispatch matrices of the first half of the planning steps. An order
 *            serves further layers whose mean matrix it takes within SHARE_PPM of their own order's time, or of the
 *            floor; the rest of the layers get orders of their own, largest possible gain first, while they fit the
 *            plan's text. Each layer's combine runs them backwards or in the dispatch's sequence, whichever is
 *            faster on the mean matrix; under incast orders are made for the mean of both. 3. On the second half of the
 * steps, which those orders have not seen, a layer has to gain MARGIN_PPM. 4. Orders of those that do are made again
 * for all planning steps, summed over their layers.
 *            5. On all planning steps the tightest fallback is taken that costs at most INSURANCE_PPM over the best,
 * and a layer stays staged only where it gains.
 * Bound      on the planning steps no layer is slower than in one shot.
 * Cost       traffic of the steps; then per layer that may gain one single shot, one order and a simulation for each
 *            order that there is already; per staged layer both simulations of every planning step. */
#include "planner.h"
#include <moeplan/progress.h>
#include <moeplan/base.h>
#include <stdlib.h>
#include <string.h>

#define MARGIN_PPM 5000u           /* what a layer has to gain on steps that its order was not made from */
#define MARGIN_ONE_STEP_PPM 20000u /* with one planning step there are none: on that step */
#define SHARE_PPM 5000u            /* what a layer may lose by taking another one's order */
#define INSURANCE_PPM 500u         /* what a tighter fallback may cost on the planning steps */
#define WAVE 8u                    /* orders made at a time; fixed, so that the number of threads changes nothing */
#define MATRIX_STEPS_MAX 64u       /* steps that a mean matrix is taken over */
#define PART_OF_TEXT 8u /* all orders take at most this part of a plan file's bytes, and stages of its YAML events */
#define MATRICES_MAX (UINT64_C(1) << 23) /* entries of mean matrices in memory at a time */

static const uint32_t fallbacks[] = {0, 20000, 50000, 100000, 200000, 500000};
#define N_FALLBACKS (sizeof fallbacks / sizeof fallbacks[0])
static const uint32_t units[] = {256, 1024, 4096, 16384, 65536};
#define N_UNITS (sizeof units / sizeof units[0])

/* What making one order used of the budget; a copy of its own, so that threads do not depend on each other. */
struct tally {
    struct mp_spent spent;
    bool is_wall_struck;
};
struct layer {
    uint64_t *mean;                          /* [n][n] mean dispatch; while its block is worked on */
    uint64_t second_ns, single_ns, floor_ns; /* on it; second_ns: port bound of the second phase */
    uint64_t own_ns, best_ns;                /* its own order, the best of the leaders'; UINT64_MAX = none */
    uint64_t steps_single, steps_staged;     /* sums over the steps of the last evaluation */
    uint32_t best, order;                    /* leaders; MP_NONE */
    struct mp_order own;                     /* made for `mean`, in `arena` */
    struct mp_arena *arena;
    enum mp_combine combine;
    enum mp_outcome outcome;
    struct tally tally;
    bool may_gain, is_made;
};
struct leader {
    struct mp_order order, again; /* again: made for all planning steps */
    struct mp_arena *arena, *again_arena;
    uint64_t text;
    struct tally tally;
    bool is_made_again;
};
struct worker {
    struct mp_net *net;
    struct mp_traffic *traffic;
    uint64_t *sums; /* [n_layers][1 + N_FALLBACKS] single shot, and staged with each fallback */
};
struct job {
    const struct mp_problem *in;
    const struct mp_strategy *strategy;
    const struct mp_budget *budget;
    const int64_t *option_values;
    struct mp_plan *plan;
    struct mp_cost_setup setup;
    struct mp_router *router;
    struct worker *workers;
    struct layer *layers;   /* [n_layers] */
    struct leader *leaders; /* [n_layers] at most */
    uint32_t n_leaders, n_tested;
    uint32_t *list, n_list; /* layers being worked on */
    uint32_t n_steps, step_base, step_span, n_block;
    uint64_t text, n_stages, text_max, stages_max, work;
    double started;
    unsigned n_workers;
    bool is_stopped, is_out_of_budget;
    enum mp_outcome outcome; /* of the first order */
    struct mp_error declined;
};

static uint64_t larger(uint64_t a, uint64_t b) { return a > b ? a : b; }
static uint64_t smaller(uint64_t a, uint64_t b) { return a < b ? a : b; }
/* Times of one layer stop where the simulator's do. */
static uint64_t sane(uint64_t ns) { return smaller(ns, UINT64_C(1) << 52); }
/* a < b by more than ppm of b? */
static bool is_below(uint64_t a, uint64_t b, uint32_t ppm) {
    return (unsigned __int128)a * 1000000 < (unsigned __int128)b * (1000000 - ppm);
}

/* One direction as the simulator puts it together (docs/COST.md part 6). */
static uint64_t direction(const struct job *j, uint64_t first_ns, uint64_t second_ns, bool is_staged) {
    const struct mp_dispatcher *d = j->setup.dispatcher;
    uint64_t launches = d->n_launches - (is_staged && d->n_launches > 0);
    first_ns = sane(first_ns);
    second_ns = sane(second_ns);
    return (d->is_overlapped ? larger(first_ns, second_ns) : first_ns + second_ns) +
           launches * sane(j->in->topology->launch_ns);
}

/* Step i of n of [base, base + span), evenly spaced as the simulator does it. */
static uint32_t step_at(const struct job *j, uint32_t i) {
    return j->step_base + (uint32_t)mp_mul_div(2 * (uint64_t)i + 1, j->step_span, 2 * (uint64_t)j->n_steps);
}
static void use_steps(struct job *j, uint32_t base, uint32_t span, uint32_t most) {
    j->step_base = base;
    j->step_span = span;
    j->n_steps = most > 0 && span > most ? most : span;
}

/* ---- 1. where an order could gain ---- */

/* One shot takes at most this: a flow waits for its ports, each of which is done after its own bytes. */
static uint64_t single_most(const struct job *j, const uint64_t *matrix, uint64_t *through) {
    const struct mp_topology *t = j->in->topology;
    const uint32_t n = t->n_gpus;
    uint64_t most = 0;
    memset(through, 0, t->n_resources * sizeof *through);
    for (int pass = 0; pass < 2; pass++) {
        for (uint32_t a = 0; a < n; a++)
            for (uint32_t b = 0; b < n; b++) {
                struct mp_path path;
                uint64_t bytes = matrix[(size_t)a * n + b], ns;
                if (a == b || bytes == 0)
                    continue;
                mp_topology_path(t, a, b, &path);
                ns = path.latency_ns + 2;
                ns += path.cap_bytes_per_s > 0 ? mp_mul_div_ceil(bytes, UINT64_C(1000000000), path.cap_bytes_per_s) : 0;
                for (uint32_t k = 0; k < path.n; k++)
                    if (pass == 0)
                        through[path.resource[k]] += bytes;
                    else
                        ns += through[path.resource[k]];
                most = pass == 1 ? larger(most, ns) : 0;
            }
        for (uint32_t r = 0; r < t->n_resources && pass == 0; r++) {
            const struct mp_level *level = &t->levels[t->resources[r].level];
            through[r] = mp_mul_div_ceil(through[r], UINT64_C(1000000000), t->resources[r].bytes_per_s);
            if (t->resources[r].is_in && !t->resources[r].is_uplink && level->n_incast > 0)
                through[r] = mp_mul_div_ceil(through[r], 1000000, larger(1, level->incast_ppm[level->n_incast - 1]));
            through[r] = sane(through[r]);
        }
    }
    return most;
}

static enum mp_status screen_layer(void *ctx, size_t i, unsigned worker, struct mp_error *err) {
    struct job *j = ctx;
    struct worker *w = &j->workers[worker];
    struct layer *l = &j->layers[i];
    const struct mp_topology *t = j->in->topology;
    uint64_t most = 0, least = 0;
    enum mp_status status = MP_OK;
    uint64_t *through = mp_calloc(t->n_resources + 1, sizeof *through);
    if (through == NULL)
        return mp_nomem(err, "ordering transfers");
    for (uint32_t s = 0; s < j->n_steps; s++) {
        MP_TRY(mp_traffic_compute(w->traffic, &j->setup, step_at(j, s), (uint32_t)i, err));
        for (int is_combine = 0; is_combine < 2; is_combine++) {
            const uint64_t *first = is_combine ? w->traffic->combine : w->traffic->dispatch;
            const uint64_t *second = is_combine ? w->traffic->combine2 : w->traffic->dispatch2;
            const struct mp_order_problem problem = {.topology = t, .matrix = first, .net = w->net};
            uint64_t second_ns = w->traffic->has_second ? mp_net_port_bound(w->net, second) : 0;
            most += direction(j, single_most(j, first, through), second_ns, false);
            least += direction(j, mp_order_floor(&problem), second_ns, true);
        }
    }
    l->may_gain = is_below(least, most, MARGIN_PPM);
out:
    mp_free(through);
    return status;
}

/* ---- 2. orders for mean matrices ---- */

/* Adds the dispatches of the job's steps of one layer to *sum, and the port bounds of their second phases. */
static enum mp_status add_dispatch(const struct job *j, struct worker *w, uint32_t layer, uint64_t *sum,
                                   uint64_t *second_ns, struct mp_error *err) {
    const size_t n = j->plan->n_gpus;
    *second_ns = 0;
    for (uint32_t s = 0; s < j->n_steps; s++) {
        enum mp_status status = mp_traffic_compute(w->traffic, &j->setup, step_at(j, s), layer, err);
        if (status != MP_OK)
            return status;
        for (size_t p = 0; p < n * n; p++)
            sum[p] += w->traffic->dispatch[p];
        *second_ns += w->traffic->has_second ? mp_net_port_bound(w->net, w->traffic->dispatch2) : 0;
    }
    *second_ns /= j->n_steps;
    return MP_OK;
}
static void divide(uint64_t *matrix, size_t n, uint64_t by) {
    for (size_t p = 0; p < n * n; p++)
        matrix[p] = (matrix[p] + by / 2) / by;
}

static enum mp_status mean_layer(void *ctx, size_t i, unsigned worker, struct mp_error *err) {
    struct job *j = ctx;
    struct worker *w = &j->workers[worker];
    const uint32_t index = j->list[i];
    struct layer *l = &j->layers[index];
    const size_t n = j->plan->n_gpus;
    enum mp_status status;
    l->mean = mp_calloc(n * n, sizeof *l->mean);
    if (l->mean == NULL)
        return mp_nomem(err, "ordering transfers");
    MP_TRY(add_dispatch(j, w, index, l->mean, &l->second_ns, err));
    divide(l->mean, n, j->n_steps);
    const struct mp_order_problem problem = {
        .topology = j->in->topology, .matrix = l->mean, .net = w->net, .is_both_ways = true};
    MP_TRY(mp_order_time(&problem, NULL, &l->single_ns, err));
    l->single_ns = direction(j, l->single_ns, l->second_ns, false);
    l->floor_ns = direction(j, mp_order_floor(&problem), l->second_ns, true);
    l->may_gain = is_below(l->floor_ns, l->single_ns, MARGIN_PPM);
out:
    return status;
}

static unsigned digits(uint64_t v) {
    unsigned n = 1;
    for (; v >= 10; v /= 10)
        n++;
    return n;
}
/* Bytes of an order in a plan file, at most. */
static uint64_t text_of(const struct mp_order *o) {
    uint64_t bytes = 200;
    for (uint32_t s = 0; s < o->n_stages; s++) {
        bytes += 16;
        if (o->has_flush && s + 1 == o->n_stages)
            continue;
        for (uint32_t k = 0; k < o->stages[s].n; k++) {
            const struct mp_transfer *t = &o->stages[s].transfers[k];
            bytes += digits(t->src) + digits(t->dst) + 2;
            bytes += t->share < o->unit ? 1 + digits(t->share) : 0;
            bytes += t->width > 1 ? 1 + digits(t->width) : 0;
        }
    }
    return bytes;
}

static enum mp_status time_of(const struct job *j, struct worker *w, const struct mp_order *order,
                              const uint64_t *matrix, uint64_t second_ns, uint64_t *time_ns, struct mp_error *err) {
    const struct mp_order_problem problem = {
        .topology = j->in->topology, .matrix = matrix, .net = w->net, .mode = j->in->stage_mode, .is_both_ways = true};
    enum mp_status status = mp_order_time(&problem, order, time_ns, err);
    *time_ns = direction(j, *time_ns, second_ns, true);
    return status;
}

/* The strategy's order for a matrix, in the coarsest unit that costs at most a thousandth. *is_made false: the single
 * shot, or not applicable (*outcome says). */
static enum mp_status make_order(const struct job *j, struct worker *w, const uint64_t *matrix, uint64_t second_ns,
                                 struct mp_order *out, struct mp_arena *arena, uint64_t *time_ns, bool *is_made,
                                 struct tally *tally, enum mp_outcome *outcome, struct mp_error *err) {
    const double left_seconds = j->budget->wall_seconds - (mp_now_seconds() - j->started);
    const struct mp_budget left = {.work_limit = j->budget->work_limit == 0        ? 0
                                                 : j->work < j->budget->work_limit ? j->budget->work_limit - j->work
                                                                                   : 1,
                                   .wall_seconds =
                                       j->budget->wall_seconds > 0 ? (left_seconds > 1e-9 ? left_seconds : 1e-9) : 0,
                                   .wall_struck = &tally->is_wall_struck,
                                   .spent = &tally->spent};
    const struct mp_order_problem problem = {.budget = &left,
                                             .topology = j->in->topology,
                                             .matrix = matrix,
                                             .net = w->net,
                                             .mode = j->in->stage_mode,
                                             .can_pace = j->in->can_pace,
                                             .is_both_ways = true,
                                             .seed = j->in->seed,
                                             .option_values = j->option_values,
                                             .settings = j->in->settings,
                                             .n_settings = j->in->n_settings};
    struct mp_schedule schedule;
    uint64_t *nodes = NULL, finest_ns;
    enum mp_status status;
    *is_made = false;
    *time_ns = UINT64_MAX;
    MP_TRY(mp_order_run(j->strategy, &problem, &schedule, outcome, err));
    if ((*outcome != MP_FOUND && *outcome != MP_STOPPED) || schedule.n_stages == 0)
        goto out;
    if (schedule.between_nodes) {
        nodes = mp_calloc((size_t)schedule.n * schedule.n, sizeof *nodes);
        if (nodes == NULL) {
            status = mp_nomem(err, "ordering transfers");
            goto out;
        }
        mp_node_matrix(j->in->topology, matrix, nodes);
    }
    const uint64_t *planned = nodes != NULL ? nodes : matrix;
    MP_TRY(mp_schedule_order(out, &schedule, planned, units[N_UNITS - 1], j->strategy->name, arena, err));
    MP_TRY(time_of(j, w, out, matrix, second_ns, &finest_ns, err));
    for (size_t u = 0; u < N_UNITS; u++) {
        mp_arena_reset(arena);
        MP_TRY(mp_schedule_order(out, &schedule, planned, units[u], j->strategy->name, arena, err));
        MP_TRY(time_of(j, w, out, matrix, second_ns, time_ns, err));
        if (*time_ns <= finest_ns + finest_ns / 1000)
            break;
    }
    *is_made = true;
out:
    mp_free(nodes);
    mp_schedule_free(&schedule);
    return status;
}

static enum mp_status make_own(void *ctx, size_t i, unsigned worker, struct mp_error *err) {
    struct job *j = ctx;
    struct layer *l = &j->layers[j->list[i]];
    struct mp_error why = {0};
    l->arena = mp_arena_new();
    if (l->arena == NULL)
        return mp_nomem(err, "ordering transfers");
    enum mp_status status = make_order(j, &j->workers[worker], l->mean, l->second_ns, &l->own, l->arena, &l->own_ns,
                                       &l->is_made, &l->tally, &l->outcome, &why);
    if (status != MP_OK && err != NULL)
        *err = why;
    if (status == MP_OK && i == 0)
        j->declined = why;
    return status;
}

/* Leader k's order on the layer's mean matrix. */
static enum mp_status test_leader(const struct job *j, struct worker *w, struct layer *l, uint32_t k,
                                  struct mp_error *err) {
    uint64_t ns;
    enum mp_status status = time_of(j, w, &j->leaders[k].order, l->mean, l->second_ns, &ns, err);
    if (status == MP_OK && ns < l->best_ns) {
        l->best_ns = ns;
        l->best = k;
    }
    return status;
}
static enum mp_status test_leaders(void *ctx, size_t i, unsigned worker, struct mp_error *err) {
    struct job *j = ctx;
    enum mp_status status = MP_OK;
    for (uint32_t k = j->n_tested; k < j->n_leaders && status == MP_OK; k++)
        status = test_leader(j, &j->workers[worker], &j->layers[j->list[i]], k, err);
    return status;
}

static bool is_close(uint64_t ns, uint64_t to) {
    return (unsigned __int128)ns * 1000000 <= (unsigned __int128)to * (1000000 + SHARE_PPM);
}

/* The best of the orders that there are, where it gains. */
static void take_best(struct layer *l) {
    if (l->best != MP_NONE && is_below(l->best_ns, l->single_ns, MARGIN_PPM))
        l->order = l->best;
}

static bool fits(const struct job *j, uint64_t text, uint64_t n_stages) {
    return j->text + text <= j->text_max && j->n_stages + n_stages <= j->stages_max;
}

/* Tests the new leaders on the layers of the list, and settles those that need no order of their own. */
static enum mp_status test_rest(struct job *j, struct mp_error *err) {
    enum mp_status status = MP_OK;
    if (j->n_tested < j->n_leaders) {
        j->work += (uint64_t)j->n_list * (j->n_leaders - j->n_tested);
        status = mp_parallel_for_told(j->in->sim.progress, "layers", j->n_workers, j->n_list, test_leaders, j, err);
    }
    uint32_t kept = 0;
    for (uint32_t i = 0; i < j->n_list && status == MP_OK; i++) {
        struct layer *l = &j->layers[j->list[i]];
        if (l->best != MP_NONE && is_close(l->best_ns, l->floor_ns))
            take_best(l);
        else
            j->list[kept++] = j->list[i];
    }
    j->n_list = kept;
    return status;
}

/* A layer whose own order was made: is another as good, and does its own fit? */
static enum mp_status settle(struct job *j, struct layer *l, struct mp_error *err) {
    for (uint32_t k = j->n_tested; k < j->n_leaders; k++) {
        enum mp_status status = test_leader(j, &j->workers[0], l, k, err);
        if (status != MP_OK)
            return status;
        j->work++;
    }
    bool is_worth = l->is_made && is_below(l->own_ns, l->single_ns, MARGIN_PPM) &&
                    !(l->best != MP_NONE && is_close(l->best_ns, l->own_ns));
    uint64_t text = is_worth ? text_of(&l->own) : 0;
    if (!is_worth || !fits(j, text, l->own.n_stages)) {
        /* One that does not fit an empty plan: further ones will not either. */
        j->is_stopped |= is_worth && j->n_leaders == 0;
        take_best(l);
        return MP_OK;
    }
    l->order = j->n_leaders;
    j->leaders[j->n_leaders++] = (struct leader){.order = l->own, .arena = l->arena, .text = text};
    l->arena = NULL;
    j->text += text;
    j->n_stages += l->own.n_stages;
    return MP_OK;
}

static void count(struct job *j, const struct tally *t) {
    j->work += t->spent.work;
    j->is_out_of_budget |= t->spent.is_stopped;
    if (t->is_wall_struck && j->budget->wall_struck != NULL)
        *j->budget->wall_struck = true;
}

/* Orders for the first layers of the list; tested on the rest of it. *gains: one of them is faster than one shot. */
static enum mp_status make_wave(struct job *j, bool *gains, struct mp_error *err) {
    const uint32_t n = j->n_list < WAVE ? j->n_list : WAVE;
    enum mp_status status;
    j->work += n;
    MP_TRY(mp_parallel_for_told(j->in->sim.progress, "layers", j->n_workers, n, make_own, j, err));
    for (uint32_t i = 0; i < n; i++)
        count(j, &j->layers[j->list[i]].tally);
    for (uint32_t i = 0; i < n; i++) {
        struct layer *l = &j->layers[j->list[i]];
        if (i == 0 && j->n_leaders == 0 && l->outcome != MP_FOUND && l->outcome != MP_STOPPED) {
            j->outcome = l->outcome;
            j->is_stopped = true;
            return MP_OK;
        }
        *gains |= l->is_made && is_below(l->own_ns, l->single_ns, MARGIN_PPM);
        MP_TRY(settle(j, l, err));
        mp_arena_free(l->arena);
        l->arena = NULL;
    }
    j->n_list -= n;
    memmove(j->list, j->list + n, j->n_list * sizeof *j->list);
    MP_TRY(test_rest(j, err));
    j->n_tested = j->n_leaders;
out:
    return status;
}

static bool must_stop(struct job *j) {
    if (j->budget->work_limit > 0 && j->work >= j->budget->work_limit)
        j->is_stopped = j->is_out_of_budget = true;
    if (j->budget->wall_seconds > 0 && mp_now_seconds() - j->started > j->budget->wall_seconds) {
        j->is_stopped = j->is_out_of_budget = true;
        if (j->budget->wall_struck != NULL)
            *j->budget->wall_struck = true;
    }
    return j->is_stopped;
}

/* The layers of the list that may gain on their mean matrix, those that may gain most first. */
static void sort_by_gain(struct job *j) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < j->n_list; i++) {
        const struct layer *l = &j->layers[j->list[i]];
        if (!l->may_gain)
            continue;
        uint32_t index = j->list[i], at = n++;
        for (; at > 0; at--) {
            const struct layer *before = &j->layers[j->list[at - 1]];
            if (before->single_ns - before->floor_ns >= l->single_ns - l->floor_ns)
                break;
            j->list[at] = j->list[at - 1];
        }
        j->list[at] = index;
    }
    j->n_list = n;
}

/* How the combine of a layer runs its order. A flush at the start of a combine has all senders at it at once, and what
 * that costs (incast) shows in the simulation only. Between nodes, where there is no flush, backwards is as good. */
static enum mp_status choose_combine(void *ctx, size_t i, unsigned worker, struct mp_error *err) {
    struct job *j = ctx;
    struct worker *w = &j->workers[worker];
    struct layer *l = &j->layers[j->list[i]];
    const struct mp_order *order = &j->leaders[l->order].order;
    const struct mp_model *m = j->in->model;
    const size_t n = j->plan->n_gpus;
    uint64_t reversed_ns, swapped_ns;
    enum mp_status status = MP_OK;
    l->combine = MP_COMBINE_REVERSED;
    if (order->between_nodes)
        return MP_OK;
    uint64_t *combine = mp_calloc(n * n, sizeof *combine);
    if (combine == NULL)
        return mp_nomem(err, "ordering transfers");
    for (size_t p = 0; p < n * n; p++)
        combine[p % n * n + p / n] =
            m->dispatch_bytes > 0 ? mp_mul_div(l->mean[p], m->combine_bytes, m->dispatch_bytes) : 0;
    MP_TRY(mp_net_staged(w->net, order, MP_COMBINE_REVERSED, j->in->stage_mode, combine, &reversed_ns, err));
    MP_TRY(mp_net_staged(w->net, order, MP_COMBINE_SWAPPED, j->in->stage_mode, combine, &swapped_ns, err));
    if (swapped_ns < reversed_ns || (swapped_ns == reversed_ns && order->has_flush))
        l->combine = MP_COMBINE_SWAPPED;
out:
    mp_free(combine);
    return status;
}
static enum mp_status choose_combines(struct job *j, const uint32_t *may, uint32_t n, struct mp_error *err) {
    j->n_list = 0;
    for (uint32_t i = 0; i < n; i++)
        if (j->layers[may[i]].order != MP_NONE)
            j->list[j->n_list++] = may[i];
    j->work += j->n_list;
    return mp_parallel_for_told(j->in->sim.progress, "layers", j->n_workers, j->n_list, choose_combine, j, err);
}

/* Orders for the layers [first, first + n) of `may`, whose mean matrices are in memory together. */
static enum mp_status fit_block(struct job *j, const uint32_t *may, uint32_t n, struct mp_error *err) {
    enum mp_status status;
    memcpy(j->list, may, n * sizeof *may);
    j->n_list = n;
    j->work += n;
    MP_TRY(mp_parallel_for_told(j->in->sim.progress, "layers", j->n_workers, n, mean_layer, j, err));
    sort_by_gain(j);
    j->n_tested = 0;
    MP_TRY(test_rest(j, err));
    j->n_tested = j->n_leaders;
    /* Where none of the layers with the most to gain does, the others are left alone. */
    for (bool gains = true; j->n_list > 0 && gains && !must_stop(j);) {
        gains = false;
        MP_TRY(make_wave(j, &gains, err));
    }
    for (uint32_t i = 0; i < j->n_list; i++)
        take_best(&j->layers[j->list[i]]);
    MP_TRY(choose_combines(j, may, n, err));
out:
    for (uint32_t i = 0; i < n; i++) {
        mp_free(j->layers[may[i]].mean);
        mp_arena_free(j->layers[may[i]].arena);
        j->layers[may[i]].mean = NULL;
        j->layers[may[i]].arena = NULL;
    }
    return status;
}

/* ---- 3. and 5. what the orders are worth ---- */

static enum mp_status evaluate_one(void *ctx, size_t i, unsigned worker, struct mp_error *err) {
    struct job *j = ctx;
    struct worker *w = &j->workers[worker];
    const uint32_t layer = j->list[i % j->n_list];
    const struct mp_order *order = &j->leaders[j->layers[layer].order].order;
    uint64_t *sums = w->sums + layer * (1 + N_FALLBACKS);
    enum mp_status status;
    MP_TRY(mp_traffic_compute(w->traffic, &j->setup, step_at(j, (uint32_t)(i / j->n_list)), layer, err));
    for (int is_combine = 0; is_combine < 2; is_combine++) {
        const uint64_t *first = is_combine ? w->traffic->combine : w->traffic->dispatch;
        const uint64_t *second = is_combine ? w->traffic->combine2 : w->traffic->dispatch2;
        uint64_t single_ns, staged_ns, second_ns = 0, as_staged, as_single;
        MP_TRY(mp_net_concurrent(w->net, first, &single_ns, NULL, err));
        if (w->traffic->has_second)
            MP_TRY(mp_net_concurrent(w->net, second, &second_ns, NULL, err));
        const enum mp_combine way = is_combine ? j->layers[layer].combine : MP_COMBINE_FORWARD;
        MP_TRY(mp_net_staged(w->net, order, way, j->in->stage_mode, first, &staged_ns, err));
        MP_TRY(mp_net_order_estimate(w->net, order, way, first, &as_staged, &as_single, err));
        const bool is_empty = mp_net_port_bound(w->net, first) == 0;
        single_ns = direction(j, single_ns, second_ns, false);
        staged_ns = direction(j, staged_ns, second_ns, true);
        sums[0] += single_ns;
        for (size_t f = 0; f < N_FALLBACKS; f++) {
            bool falls_back = fallbacks[f] > 0 && !is_empty &&
                              (unsigned __int128)as_staged * 1000000 >
                                  (unsigned __int128)as_single * (UINT64_C(1000000) + fallbacks[f]);
            sums[1 + f] += falls_back ? single_ns : staged_ns;
        }
    }
out:
    return status;
}

/* Runs the list's layers both ways on the job's steps; *fallback gets the index of the rule with the least total over
 * layers, each the better way: of those that cost next to nothing over it the tightest, which guards other steps best.
 */
static enum mp_status evaluate(struct job *j, size_t *fallback, struct mp_error *err) {
    const size_t width = 1 + N_FALLBACKS, n = (size_t)j->plan->n_layers * width;
    uint64_t totals[N_FALLBACKS] = {0};
    for (unsigned k = 0; k < j->n_workers; k++)
        memset(j->workers[k].sums, 0, n * sizeof(uint64_t));
    j->work += (uint64_t)j->n_list * j->n_steps * 2;
    enum mp_status status = mp_parallel_for_told(j->in->sim.progress, "simulations", j->n_workers,
                                                 (size_t)j->n_list * j->n_steps, evaluate_one, j, err);
    if (status != MP_OK)
        return status;
    uint64_t *all = j->workers[0].sums;
    for (unsigned k = 1; k < j->n_workers; k++)
        for (size_t i = 0; i < n; i++)
            all[i] += j->workers[k].sums[i];
    *fallback = 0;
    for (size_t f = 0; f < N_FALLBACKS; f++) {
        for (uint32_t i = 0; i < j->n_list; i++)
            totals[f] += smaller(all[j->list[i] * width], all[j->list[i] * width + 1 + f]);
        *fallback = totals[f] < totals[*fallback] ? f : *fallback;
    }
    const uint64_t enough = totals[*fallback] + totals[*fallback] / 1000000 * INSURANCE_PPM;
    for (size_t f = N_FALLBACKS - 1; f > 0; f--)
        *fallback = totals[f] <= enough ? f : *fallback;
    for (uint32_t i = 0; i < j->n_list; i++) {
        j->layers[j->list[i]].steps_single = all[j->list[i] * width];
        j->layers[j->list[i]].steps_staged = all[j->list[i] * width + 1 + *fallback];
    }
    return MP_OK;
}

/* Layers of the list that gained less than `ppm` go in one shot. */
static void drop_losers(struct job *j, uint32_t ppm) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < j->n_list; i++) {
        struct layer *l = &j->layers[j->list[i]];
        if (is_below(l->steps_staged, l->steps_single, ppm))
            j->list[kept++] = j->list[i];
        else
            l->order = MP_NONE;
    }
    j->n_list = kept;
}

/* ---- 4. orders for all planning steps ---- */

static enum mp_status make_again(void *ctx, size_t i, unsigned worker, struct mp_error *err) {
    struct job *j = ctx;
    struct worker *w = &j->workers[worker];
    const uint32_t k = j->n_tested + (uint32_t)i;
    struct leader *leader = &j->leaders[k];
    const size_t n = j->plan->n_gpus;
    uint64_t second_ns = 0, one_ns, time_ns, n_members = 0;
    enum mp_outcome outcome;
    enum mp_status status = MP_OK;
    uint64_t *sum = mp_calloc(n * n, sizeof *sum);
    leader->again_arena = mp_arena_new();
    if (sum == NULL || leader->again_arena == NULL) {
        status = mp_nomem(err, "ordering transfers");
        goto out;
    }
    for (uint32_t l = 0; l < j->n_list; l++) {
        if (j->layers[j->list[l]].order != k)
            continue;
        MP_TRY(add_dispatch(j, w, j->list[l], sum, &one_ns, err));
        second_ns += one_ns;
        n_members++;
    }
    if (n_members == 0)
        goto out;
    divide(sum, n, n_members * j->n_steps);
    MP_TRY(make_order(j, w, sum, second_ns / n_members, &leader->again, leader->again_arena, &time_ns,
                      &leader->is_made_again, &leader->tally, &outcome, err));
out:
    mp_free(sum);
    return status;
}

static enum mp_status make_all_again(struct job *j, struct mp_error *err) {
    enum mp_status status = MP_OK;
    for (uint32_t k = 0; k < j->n_leaders && status == MP_OK && !must_stop(j); k += j->n_block) {
        uint32_t n = j->n_leaders - k < j->n_block ? j->n_leaders - k : j->n_block;
        j->n_tested = k;
        j->work += n;
        status = mp_parallel_for_told(j->in->sim.progress, "layers", j->n_workers, n, make_again, j, err);
        for (uint32_t i = k; i < k + n && status == MP_OK; i++) {
            struct leader *leader = &j->leaders[i];
            count(j, &leader->tally);
            uint64_t text = leader->is_made_again ? text_of(&leader->again) : 0;
            j->text -= leader->text;
            j->n_stages -= leader->order.n_stages;
            if (leader->is_made_again && fits(j, text, leader->again.n_stages)) {
                struct mp_arena *old = leader->arena;
                leader->order = leader->again;
                leader->text = text;
                leader->arena = leader->again_arena;
                leader->again_arena = old;
            }
            mp_arena_free(leader->again_arena);
            leader->again_arena = NULL;
            j->text += leader->text;
            j->n_stages += leader->order.n_stages;
        }
    }
    return status;
}

/* ---- the whole ---- */

static enum mp_status copy_order(struct mp_order *out, const struct mp_order *o, struct mp_arena *arena,
                                 struct mp_error *err) {
    size_t n = 0;
    for (uint32_t s = 0; s < o->n_stages; s++)
        n += o->stages[s].n;
    struct mp_stage *stages = mp_arena_alloc(arena, o->n_stages, sizeof *stages);
    struct mp_transfer *transfers = mp_arena_alloc(arena, n, sizeof *transfers);
    if (stages == NULL || transfers == NULL)
        return mp_nomem(err, "ordering transfers");
    *out = *o;
    out->stages = stages;
    for (uint32_t s = 0; s < o->n_stages; s++) {
        stages[s] = (struct mp_stage){o->stages[s].n, transfers};
        memcpy(transfers, o->stages[s].transfers, o->stages[s].n * sizeof *transfers);
        transfers += o->stages[s].n;
    }
    return MP_OK;
}

/* The orders that layers use, in the order of their first layers, into the plan. */
static enum mp_status install(struct job *j, size_t fallback, struct mp_error *err) {
    struct mp_plan *p = j->plan;
    struct mp_order *orders = mp_arena_alloc(p->arena, j->n_leaders, sizeof *orders);
    if (orders == NULL)
        return mp_nomem(err, "ordering transfers");
    for (uint32_t k = 0; k < j->n_leaders; k++)
        j->leaders[k].text = MP_NONE; /* from here on its number in the plan */
    for (uint32_t l = 0; l < p->n_layers; l++) {
        if (j->layers[l].order == MP_NONE)
            continue;
        struct leader *leader = &j->leaders[j->layers[l].order];
        if (leader->text == MP_NONE) {
            enum mp_status status = copy_order(&orders[p->n_orders], &leader->order, p->arena, err);
            if (status != MP_OK)
                return status;
            leader->text = p->n_orders++;
        }
        p->layers[l].order = (uint32_t)leader->text;
        p->layers[l].combine = j->layers[l].combine;
    }
    p->orders = orders;
    p->stage_mode = j->in->stage_mode;
    p->fallback_ppm = fallbacks[fallback];
    return MP_OK;
}

static enum mp_status run(struct job *j, struct mp_arena *arena, struct mp_error *err) {
    const uint32_t n_steps = j->in->workload->n_steps, n_layers = j->plan->n_layers, n_eval = mp_scoring_steps(j->in);
    const bool is_one = n_steps < 2;
    size_t fallback = 0;
    enum mp_status status;
    uint32_t n_may = 0, *may = mp_arena_alloc(arena, n_layers, sizeof *may);
    if (may == NULL)
        return mp_nomem(err, "ordering transfers");
    use_steps(j, 0, n_steps, n_eval < 8 ? n_eval : 8);
    MP_TRY(mp_parallel_for_told(j->in->sim.progress, "layers", j->n_workers, n_layers, screen_layer, j, err));
    for (uint32_t l = 0; l < n_layers; l++)
        if (j->layers[l].may_gain)
            may[n_may++] = l;
    use_steps(j, 0, is_one ? n_steps : n_steps / 2, MATRIX_STEPS_MAX);
    for (uint32_t i = 0; i < n_may && !j->is_stopped; i += j->n_block)
        MP_TRY(fit_block(j, may + i, n_may - i < j->n_block ? n_may - i : j->n_block, err));
    j->n_list = 0;
    for (uint32_t l = 0; l < n_layers; l++)
        if (j->layers[l].order != MP_NONE)
            j->list[j->n_list++] = l;
    if (j->n_list > 0 && !is_one) {
        use_steps(j, n_steps / 2, n_steps - n_steps / 2, n_eval);
        MP_TRY(evaluate(j, &fallback, err));
        drop_losers(j, MARGIN_PPM);
    }
    if (j->n_list > 0 && !is_one) {
        use_steps(j, 0, n_steps, 2 * MATRIX_STEPS_MAX);
        MP_TRY(make_all_again(j, err));
    }
    if (j->n_list > 0) {
        use_steps(j, 0, n_steps, 0);
        MP_TRY(evaluate(j, &fallback, err));
        drop_losers(j, is_one ? MARGIN_ONE_STEP_PPM : 0);
    }
    if (j->n_list > 0)
        status = install(j, fallback, err);
out:
    return status;
}

static enum mp_status prepare(struct job *j, struct mp_arena *arena, struct mp_error *err) {
    const uint32_t n_layers = j->plan->n_layers;
    const size_t n = j->plan->n_gpus;
    const uint64_t n_block = MATRICES_MAX / (n * n);
    j->n_block = n_block < 1 ? 1 : n_block > n_layers ? n_layers : (uint32_t)n_block;
    j->n_workers = j->in->n_threads < 1 ? 1 : j->in->n_threads > MP_MAX_THREADS ? MP_MAX_THREADS : j->in->n_threads;
    const struct mp_limits *limits = j->in->limits != NULL ? j->in->limits : &mp_limits_default;
    j->text_max = limits->yaml_bytes / PART_OF_TEXT;
    j->stages_max = limits->yaml_events / PART_OF_TEXT;
    j->layers = mp_arena_alloc(arena, n_layers, sizeof *j->layers);
    j->leaders = mp_arena_alloc(arena, n_layers, sizeof *j->leaders);
    j->list = mp_arena_alloc(arena, n_layers, sizeof *j->list);
    j->workers = mp_arena_alloc(arena, j->n_workers, sizeof *j->workers);
    if (j->layers == NULL || j->leaders == NULL || j->list == NULL || j->workers == NULL)
        return mp_nomem(err, "ordering transfers");
    for (uint32_t l = 0; l < n_layers; l++) {
        struct layer *layer = &j->layers[l];
        layer->own_ns = layer->best_ns = UINT64_MAX;
        layer->best = layer->order = MP_NONE;
    }
    enum mp_status status = mp_router_new(&j->router, j->plan, err);
    for (unsigned k = 0; k < j->n_workers && status == MP_OK; k++) {
        struct worker *w = &j->workers[k];
        w->sums = mp_arena_alloc(arena, (size_t)n_layers * (1 + N_FALLBACKS), sizeof *w->sums);
        if (w->sums == NULL)
            return mp_nomem(err, "ordering transfers");
        status = mp_net_new(&w->net, j->in->topology, err);
        if (status == MP_OK)
            status = mp_traffic_new(&w->traffic, j->plan->n_gpus, err);
    }
    j->setup = (struct mp_cost_setup){.plan = j->plan,
                                      .router = j->router,
                                      .workload = j->in->workload,
                                      .topology = j->in->topology,
                                      .model = j->in->model,
                                      .dispatcher = j->in->sim.dispatcher,
                                      .sources = j->in->sim.sources};
    return status;
}

enum mp_status mp_plan_order(const struct mp_strategy *s, const struct mp_problem *in, const struct mp_budget *budget,
                             struct mp_draft *draft, enum mp_outcome *outcome, struct mp_error *err) {
    struct mp_plan *p = draft->plan;
    struct job j = {.in = in,
                    .strategy = s,
                    .budget = budget,
                    .option_values = in->option_values,
                    .plan = p,
                    .started = mp_now_seconds(),
                    .outcome = MP_FOUND};
    enum mp_status status;
    *outcome = MP_FOUND;
    p->is_paced = in->can_pace;
    for (uint32_t l = 0; l < p->n_layers; l++)
        p->layers[l].order = MP_NONE;
    if (p->n_gpus < 2 || strcmp(s->name, "single") == 0)
        return MP_OK;
    struct mp_arena *arena = mp_arena_new();
    if (arena == NULL)
        return mp_nomem(err, "ordering transfers");
    MP_TRY(prepare(&j, arena, err));
    MP_TRY(run(&j, arena, err));
    *outcome = j.outcome;
    if (j.outcome != MP_FOUND && err != NULL)
        *err = j.declined;
    if (j.outcome == MP_FOUND && j.is_out_of_budget)
        *outcome = MP_STOPPED;
    draft->work_used += j.work;
out:
    for (uint32_t k = 0; k < j.n_leaders; k++) {
        mp_arena_free(j.leaders[k].arena);
        mp_arena_free(j.leaders[k].again_arena);
    }
    for (unsigned k = 0; j.workers != NULL && k < j.n_workers; k++) {
        mp_net_free(j.workers[k].net);
        mp_traffic_free(j.workers[k].traffic);
    }
    mp_router_free(j.router);
    mp_arena_free(arena);
    return status;
}
