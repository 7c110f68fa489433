/* The best of all orders.
 *
 * Decides    which order strategy a matrix goes by, or the single shot.
 * Minimises  the simulated time of the matrix, launches included (mp_schedule_time).
 * Method     every registered order strategy is run and timed; ties go to the single shot, then to the earlier one.
 *            Nothing is built where the single shot is at the floor of every order (port bound, one latency, one
 *            launch), and a schedule is timed only when its launches and the bytes of its busiest GPU alone do not
 * lose.
 * Bound      never worse than any other strategy, or than the single shot, on its matrix; above GPUS_MAX GPUs than
 * those between nodes.
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

static enum mp_status order(const struct mp_order_problem *in, struct mp_arena *scratch, struct mp_schedule *out,
                            enum mp_outcome *outcome, struct mp_error *err) {
    const size_t n = in->topology->n_gpus;
    struct mp_order_problem problem = *in;
    struct mp_schedule tried;
    uint64_t best_ns, time_ns;
    enum mp_status status;
    problem.option_values = NULL;
    mp_schedule_init(&tried, (uint32_t)n);
    *outcome = MP_FOUND;
    MP_TRY(mp_schedule_time(&tried, &problem, &best_ns, err)); /* no stages yet: the single shot */
    if (best_ns <= mp_order_floor(in))
        return MP_OK;
    uint32_t *last = mp_arena_alloc(scratch, 2 * n, sizeof *last);
    double *busy = mp_arena_alloc(scratch, 2 * n, sizeof *busy);
    if (last == NULL || busy == NULL)
        return mp_nomem(err, "ordering transfers");
    for (uint32_t i = 0; mp_strategy_at(i) != NULL; i++) {
        const struct mp_strategy *s = mp_strategy_at(i);
        struct mp_error why = {0};
        enum mp_outcome tried_outcome;
        if (s->stage != MP_PLAN_ORDER || s == &mp_strategy_order_auto || (n > GPUS_MAX && !s->between_nodes))
            continue;
        mp_schedule_free(&tried);
        status = mp_order_run(s, &problem, &tried, &tried_outcome, &why);
        if (status != MP_OK) {
            if (err != NULL)
                *err = why;
            goto out;
        }
        if ((tried_outcome != MP_FOUND && tried_outcome != MP_STOPPED) || tried.n_stages == 0)
            continue;
        /* Below by a millionth: the bound is a sum of doubles. */
        if (!tried.between_nodes && least_ns(&tried, &problem, last, busy) * (1 - 1e-6) > (double)best_ns)
            continue;
        MP_TRY(mp_schedule_time(&tried, &problem, &time_ns, err));
        if (time_ns < best_ns) {
            struct mp_schedule worse = *out;
            *out = tried;
            tried = worse;
            best_ns = time_ns;
        }
    }
out:
    mp_schedule_free(&tried);
    return status;
}

const struct mp_strategy mp_strategy_order_auto = {.name = "auto",
                                                   .summary = "the fastest of all the others, by simulation",
                                                   .reference = "docs/STRATEGIES.md",
                                                   .stage = MP_PLAN_ORDER,
                                                   .order = order};
