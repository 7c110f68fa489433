/* The best of all orders.
 *
 * Decides    which order strategy a matrix goes by, or the single shot.
 * Minimises  the simulated time of the matrix, launches included (mp_schedule_time).
 * Method     orders between nodes first, which are cheap and may gain most, and the single shot (on few GPUs before
 *            them); then every other registered order strategy is run and timed. Ties go to the single shot, which
 *            only more than rounding beats, then to the earlier one. Nothing is built where the single shot is at the
 *            floor of every order (port bound, one latency, one launch), nor between GPUs where the best is below the
 *            port bound; and a schedule is timed only when its launches and the bytes of its busiest GPU alone do not
 *            lose. A budget stops before a candidate or a simulation.
 * Bound      never worse than any other strategy, or than the single shot, on its matrix; above GPUS_MAX GPUs than
 *            those between nodes.
 * Cost       the sum of the strategies and of the simulations of those that could win. */
#include "planner.h"
#include <string.h>

#define GPUS_MAX 256u /* more GPUs are ordered between nodes only: every pair's part would not fit a plan file */

extern const struct mp_strategy mp_strategy_order_auto;

/* Bytes per ns through all distinct ports of one side of a GPU. */
static double port_rate(const struct mp_topology *t, uint32_t gpu, bool is_in) {
    const uint32_t *port = is_in ? t->gpus[gpu].in_port : t->gpus[gpu].out_port;
    double rate = 0;
    for (uint32_t l = 0; l < t->n_levels; l++) {
        bool is_known = port[l] >= t->n_resources;
        for (uint32_t m = 0; m < l && !is_known; m++)
            is_known = port[m] == port[l];
        rate += is_known ? 0 : (double)t->resources[port[l]].bytes_per_s * 1e-9;
    }
    return rate;
}

/* What a schedule between GPUs takes at least: a queue pays a launch and a latency for each of its stages, and its
 * bytes pass its ports. Queues of one side are in every stage mode also parts of the real ones. */
static double least_ns(const struct mp_schedule *s, const struct mp_order_problem *in, uint32_t *last, double *busy) {
    const struct mp_topology *t = in->topology;
    const uint32_t n = s->n;
    double latency = (double)t->levels[0].latency_ns, most = 0;
    for (uint32_t l = 1; l < t->n_levels; l++)
        latency = (double)t->levels[l].latency_ns < latency ? (double)t->levels[l].latency_ns : latency;
    const double launch = (double)t->stage_launch_ns + latency;
    memset(last, 0, 2 * (size_t)n * sizeof *last);
    memset(busy, 0, 2 * (size_t)n * sizeof *busy);
    for (uint32_t k = 0; k < s->n_stages; k++)
        for (uint32_t i = s->first[k]; i < s->first[k + 1]; i++) {
            const size_t side[2] = {s->pieces[i].src, n + s->pieces[i].dst};
            for (int d = 0; d < 2; d++) {
                busy[side[d]] += last[side[d]] == k + 1 ? 0 : launch;
                last[side[d]] = k + 1;
            }
        }
    for (uint32_t g = 0; g < n; g++) {
        double out = 0, into = 0;
        for (uint32_t j = 0; j < n; j++) {
            out += j == g ? 0 : (double)in->matrix[(size_t)g * n + j];
            into += j == g ? 0 : (double)in->matrix[(size_t)j * n + g];
        }
        busy[g] += out > 0 ? out / port_rate(t, g, false) : 0;
        busy[n + g] += into > 0 ? into / port_rate(t, g, true) : 0;
        most = busy[g] > most ? busy[g] : most;
        most = busy[n + g] > most ? busy[n + g] : most;
    }
    return in->mode == MP_STAGE_BARRIER && s->n_stages * launch > most ? s->n_stages * launch : most;
}

#define SINGLE UINT32_MAX /* as the number of a strategy */
struct search {
    struct mp_order_problem in;
    struct mp_schedule *out, tried;
    uint64_t best_ns, floor_ns; /* of orders between GPUs: the port bound, one latency and one launch */
    uint32_t best;              /* number of the strategy, or SINGLE */
    uint32_t *last;             /* for least_ns */
    double *busy;
};

/* Everything at once, simulated unless the best is faster than its port bound. */
static enum mp_status try_single(struct search *a, struct mp_error *err) {
    const struct mp_topology *t = a->in.topology;
    const struct mp_schedule none = {.n = t->n_gpus};
    uint64_t single_ns = a->in.single_ns;
    enum mp_status status = MP_OK;
    if (a->best != SINGLE && mp_order_gains(a->best_ns, a->floor_ns - t->stage_launch_ns + t->launch_ns))
        return MP_OK;
    if (single_ns == 0 && (a->best == SINGLE || !mp_order_is_stopped(a->in.budget))) {
        (void)mp_order_spend(a->in.budget);
        status = mp_schedule_time(&none, &a->in, &single_ns, err);
        a->in.single_ns = single_ns;
    }
    if (status != MP_OK || (a->best != SINGLE && single_ns > 0 && mp_order_gains(a->best_ns, single_ns)))
        return status;
    mp_schedule_free(a->out); /* unknown: whoever orders transfers has to know that it pays */
    mp_schedule_init(a->out, t->n_gpus);
    a->best = SINGLE;
    a->best_ns = single_ns;
    return MP_OK;
}

static enum mp_status try_strategy(struct search *a, uint32_t i, struct mp_error *err) {
    const struct mp_strategy *s = mp_strategy_at(i);
    struct mp_error why = {0};
    enum mp_outcome outcome;
    uint64_t time_ns;
    if (!s->between_nodes && a->floor_ns > a->best_ns)
        return MP_OK;
    mp_schedule_free(&a->tried);
    a->in.reached_ns = a->best_ns == UINT64_MAX ? 0 : a->best_ns;
    enum mp_status status = mp_order_run(s, &a->in, &a->tried, &outcome, &why);
    if (status != MP_OK) {
        if (err != NULL)
            *err = why;
        return status;
    }
    if ((outcome != MP_FOUND && outcome != MP_STOPPED) || a->tried.n_stages == 0)
        return MP_OK;
    /* Below by a millionth: the bound is a sum of doubles. */
    if (!a->tried.between_nodes && least_ns(&a->tried, &a->in, a->last, a->busy) * (1 - 1e-6) > (double)a->best_ns)
        return MP_OK;
    if (!mp_order_spend(a->in.budget))
        return MP_OK;
    MP_TRY(mp_schedule_time(&a->tried, &a->in, &time_ns, err));
    bool is_better = time_ns < a->best_ns || (time_ns == a->best_ns && a->best != SINGLE && i < a->best);
    if (a->in.single_ns > 0 && !mp_order_gains(time_ns, a->in.single_ns))
        is_better = false;
    if (is_better) {
        struct mp_schedule worse = *a->out;
        *a->out = a->tried;
        a->tried = worse;
        a->best_ns = time_ns;
        a->best = i;
    }
out:
    return status;
}

static enum mp_status try_strategies(struct search *a, bool between_nodes, struct mp_error *err) {
    const uint32_t n = a->in.topology->n_gpus;
    enum mp_status status = MP_OK;
    for (uint32_t i = 0; mp_strategy_at(i) != NULL && status == MP_OK && !mp_order_is_stopped(a->in.budget); i++) {
        const struct mp_strategy *s = mp_strategy_at(i);
        if (s->stage == MP_PLAN_ORDER && s != &mp_strategy_order_auto && s->between_nodes == between_nodes &&
            (n <= GPUS_MAX || between_nodes))
            status = try_strategy(a, i, err);
    }
    return status;
}

static enum mp_status order(const struct mp_order_problem *in, struct mp_arena *scratch, struct mp_schedule *out,
                            enum mp_outcome *outcome, struct mp_error *err) {
    const struct mp_topology *t = in->topology;
    const size_t n = t->n_gpus;
    uint64_t ports_ns = mp_net_port_bound(in->net, in->matrix);
    struct search a = {.in = *in, .out = out, .best_ns = UINT64_MAX, .best = SINGLE};
    enum mp_status status;
    uint64_t latency_ns = t->levels[0].latency_ns;
    *outcome = MP_FOUND;
    if (ports_ns == 0)
        return MP_OK;
    for (uint32_t l = 1; l < t->n_levels; l++)
        latency_ns = t->levels[l].latency_ns < latency_ns ? t->levels[l].latency_ns : latency_ns;
    if (mp_order_counts_return(in)) { /* times are the mean of both ways */
        uint64_t *back = mp_arena_alloc(scratch, n * n, sizeof *back);
        if (back == NULL)
            return mp_nomem(err, "ordering transfers");
        mp_transpose(back, in->matrix, n);
        const uint64_t back_ns = mp_net_port_bound(in->net, back);
        ports_ns = back_ns < ports_ns ? back_ns : ports_ns;
    }
    a.floor_ns = ports_ns - 1 + latency_ns + t->stage_launch_ns;
    a.in.option_values = NULL;
    a.last = mp_arena_alloc(scratch, 2 * n, sizeof *a.last);
    a.busy = mp_arena_alloc(scratch, 2 * n, sizeof *a.busy);
    if (a.last == NULL || a.busy == NULL)
        return mp_nomem(err, "ordering transfers");
    mp_schedule_init(&a.tried, (uint32_t)n);
    /* Of many GPUs the single shot takes long to simulate, and orders between nodes do not. */
    const bool is_single_first = n <= MP_QUICK_GPUS || mp_topology_n_nodes(t) < 2;
    if (!is_single_first)
        MP_TRY(try_strategies(&a, true, err));
    MP_TRY(try_single(&a, err));
    if (a.best == SINGLE && a.best_ns <= mp_order_floor(in))
        goto out;
    if (is_single_first)
        MP_TRY(try_strategies(&a, true, err));
    status = try_strategies(&a, false, err);
out:
    mp_schedule_free(&a.tried);
    return status;
}

const struct mp_strategy mp_strategy_order_auto = {.name = "auto",
                                                   .summary = "the fastest of all the others, by simulation",
                                                   .reference = "docs/STRATEGIES.md",
                                                   .stage = MP_PLAN_ORDER,
                                                   .order = order};
