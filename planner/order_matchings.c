/* Few matchings and a flush.
 *
 * Decides   the stages of transfers: matchings with the largest smallest entry, each as long as that entry, and one
 *           launch of all that is left.
 * Minimises simulated time with its launches, over the number of stages.
 * Method    slack is filled in so that all ports carry the same; a bottleneck matching then lowers the load of every
 *           port by its whole length (bottleneck.c). Lengths only fall, so the stages of k are the first of those of
 *           k + 1: one run gives every count. The flush runs all at once, which loses 10 to 20 % on balanced ports with
 *           skewed pairs, but only on what is left by then. A count's time is what barriers between the stages make
 *           it; counts are tried on a geometric grid and then between the best and its neighbours.
 * Bound     port bound + loss of the flush + launches. Sinkhorn-balanced lognormal matrices of 8 to 64 GPUs, launches
 *           excluded: 2n stages within 0.4 %, 3n within 0.05 % of the port bound (bench_bvn). Longer stages than the
 *           smallest entry lose more by idle ports than they save launches (half as long again: 10 % and more).
 * Paper     Birkhoff decompositions with few terms, bottleneck choice among others: F. Dufosse, B. Ucar, Lin. Alg. Appl.
 *           497, 2016.
 * Differs   stops early and flushes; real bytes go before filling. Unequal rates: entries are times.
 * Cost      bottleneck.c for each stage, and some 30 simulations of a single shot. */
#include "bottleneck.h"
#include "pair_time.h"
#include "planner.h"
#include <string.h>

static const struct mp_option options[] = {
    {"stages", "stages", "stages before the flush; 0 = as many as pay", 0, 0, 65536}, {NULL, NULL, NULL, 0, 0, 0}};

#define STAGES_PER_GPU_MAX 8u /* past 6n nothing measurable is left to flush */

struct stage {
    uint64_t length; /* in units of draft.time */
    uint64_t end_ns; /* of this stage with those before it, a barrier after each */
};
/* All that could become stages; the first so many of them do. */
struct draft {
    uint32_t n, n_stages, n_allocated;
    struct stage *stages; /* [n_stages] */
    uint32_t *to;         /* [n_stages][n] column of each row */
    const uint64_t *matrix;
    uint64_t *time;  /* [n][n] of the matrix */
    uint64_t *done;  /* [n][n] time that the pairs had so far */
    uint64_t *bytes; /* [n][n] of one stage, or left */
};

/* Fills in slack, row by row in proportion to what columns lack: entries that are dummy only partly and not tiny. */
static void fill(uint64_t *matrix, uint32_t n, uint64_t *row_slack, uint64_t *col_slack) {
    uint64_t bound = 0, total = 0;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++) {
            row_slack[i] += matrix[(size_t)i * n + j];
            col_slack[j] += matrix[(size_t)i * n + j];
        }
    for (uint32_t i = 0; i < n; i++) {
        bound = row_slack[i] > bound ? row_slack[i] : bound;
        bound = col_slack[i] > bound ? col_slack[i] : bound;
    }
    for (uint32_t i = 0; i < n; i++) {
        row_slack[i] = bound - row_slack[i];
        col_slack[i] = bound - col_slack[i];
        total += row_slack[i];
    }
    for (uint32_t i = 0; i < n; i++) {
        uint64_t row = row_slack[i], rest = total;
        for (uint32_t j = 0; j < n && row_slack[i] > 0; j++) {
            uint64_t x = mp_mul_div(row, col_slack[j], rest);
            matrix[(size_t)i * n + j] += x;
            row_slack[i] -= x;
            col_slack[j] -= x;
        }
        for (uint32_t j = 0; j < n && row_slack[i] > 0; j++) {
            uint64_t x = row_slack[i] < col_slack[j] ? row_slack[i] : col_slack[j];
            matrix[(size_t)i * n + j] += x;
            row_slack[i] -= x;
            col_slack[j] -= x;
        }
        total -= row;
    }
}

/* ---- the stages, as many as could pay ---- */
static enum mp_status add_stage(struct draft *d, uint64_t length, const uint32_t *to, struct mp_error *err) {
    const uint32_t n = d->n;
    if (d->n_stages == d->n_allocated) {
        uint32_t more = 2 * d->n_allocated + 64;
        struct stage *stages = mp_realloc(d->stages, more, sizeof *stages);
        if (stages == NULL)
            return mp_nomem(err, "ordering transfers");
        d->stages = stages;
        uint32_t *all = mp_realloc(d->to, (size_t)more * n, sizeof *all);
        if (all == NULL)
            return mp_nomem(err, "ordering transfers");
        d->to = all;
        d->n_allocated = more;
    }
    memcpy(d->to + (size_t)d->n_stages * n, to, n * sizeof *to);
    d->stages[d->n_stages++] = (struct stage){.length = length};
    return MP_OK;
}

/* Bytes that the stage moves of row i's pair, which it records as done. */
static uint64_t move(struct draft *d, uint32_t stage, uint32_t i) {
    const size_t pair = (size_t)i * d->n + d->to[(size_t)stage * d->n + i];
    uint64_t left = d->time[pair] - d->done[pair], length = d->stages[stage].length;
    uint64_t before = mp_pair_bytes(d->matrix[pair], d->done[pair], d->time[pair]);
    d->done[pair] += left < length ? left : length;
    return mp_pair_bytes(d->matrix[pair], d->done[pair], d->time[pair]) - before;
}

/* Time of the stage in d->stages and whether it moves anything; its pieces are done then. */
static enum mp_status time_stage(struct draft *d, uint32_t stage, const struct mp_order_problem *in, bool *has_bytes,
                                 struct mp_error *err) {
    const uint32_t n = d->n;
    enum mp_status status;
    const uint32_t *to = d->to + (size_t)stage * n;
    uint64_t time_ns;
    *has_bytes = false;
    memset(d->bytes, 0, (size_t)n * n * sizeof *d->bytes);
    for (uint32_t i = 0; i < n; i++) {
        uint64_t bytes = move(d, stage, i);
        d->bytes[(size_t)i * n + to[i]] = bytes;
        *has_bytes = *has_bytes || bytes > 0;
    }
    MP_TRY(mp_net_concurrent(in->net, d->bytes, &time_ns, NULL, err));
    d->stages[stage].end_ns = (stage > 0 ? d->stages[stage - 1].end_ns : 0) + in->topology->stage_launch_ns + time_ns;
out:
    return status;
}

static enum mp_status make_stages(struct draft *d, const struct mp_order_problem *in, uint32_t n_stages_max,
                                  uint64_t length_min, struct mp_arena *scratch, struct mp_error *err) {
    const uint32_t n = d->n;
    enum mp_status status = MP_OK;
    struct mp_bottleneck *b = NULL;
    uint64_t *filled = mp_arena_alloc(scratch, (size_t)n * n, sizeof *filled);
    uint64_t *slack = mp_arena_alloc(scratch, 2 * (size_t)n, sizeof *slack);
    uint32_t *to = mp_arena_alloc(scratch, n, sizeof *to);
    if (filled == NULL || slack == NULL || to == NULL)
        return mp_nomem(err, "ordering transfers");
    memcpy(filled, d->time, (size_t)n * n * sizeof *filled);
    fill(filled, n, slack, slack + n);
    MP_TRY(mp_bottleneck_new(&b, n, filled, err));
    while (d->n_stages < n_stages_max) {
        uint64_t length = mp_bottleneck_next(b);
        bool has_bytes;
        if (length < length_min || length == 0)
            break;
        memcpy(to, mp_bottleneck_to(b), n * sizeof *to);
        MP_TRY(add_stage(d, length, to, err));
        MP_TRY(time_stage(d, d->n_stages - 1, in, &has_bytes, err));
        for (uint32_t i = 0; i < n; i++)
            mp_bottleneck_take(b, i, to[i], length);
        d->n_stages -= !has_bytes; /* only filling moved */
    }
out:
    mp_bottleneck_free(b);
    return status;
}

/* ---- how many of them pay ---- */
struct choice {
    struct draft *d;
    const struct mp_order_problem *in;
    uint32_t n_done; /* stages that d->done holds */
    uint32_t best;
    uint64_t best_ns;
};

static void rewind_to(struct draft *d, uint32_t *n_done, uint32_t n_stages) {
    if (*n_done > n_stages) {
        memset(d->done, 0, (size_t)d->n * d->n * sizeof *d->done);
        *n_done = 0;
    }
    for (; *n_done < n_stages; ++*n_done)
        for (uint32_t i = 0; i < d->n; i++)
            move(d, *n_done, i);
}

/* What is left after the stages done, in d->bytes; false = nothing. */
static bool leftover(struct draft *d) {
    bool any = false;
    for (size_t k = 0; k < (size_t)d->n * d->n; k++) {
        d->bytes[k] = d->matrix[k] - mp_pair_bytes(d->matrix[k], d->done[k], d->time[k]);
        any = any || (d->bytes[k] > 0 && k / d->n != k % d->n);
    }
    return any;
}

static enum mp_status try_count(struct choice *c, uint32_t n_stages, struct mp_error *err) {
    const struct mp_topology *t = c->in->topology;
    enum mp_status status = MP_OK;
    uint64_t time_ns = n_stages > 0 ? c->d->stages[n_stages - 1].end_ns : 0, flush_ns;
    if (time_ns >= c->best_ns)
        return MP_OK;
    rewind_to(c->d, &c->n_done, n_stages);
    if (leftover(c->d)) {
        time_ns += n_stages > 0 ? t->stage_launch_ns : t->launch_ns;
        if (time_ns + mp_net_port_bound(c->in->net, c->d->bytes) >= c->best_ns)
            return MP_OK;
        MP_TRY(mp_net_concurrent(c->in->net, c->d->bytes, &flush_ns, NULL, err));
        time_ns += flush_ns;
    }
    if (time_ns < c->best_ns) {
        c->best = n_stages;
        c->best_ns = time_ns;
    }
out:
    return status;
}

/* The grid 0, 1, 2, 3, 4, 6, 8, 10, 12, 15, ...: each about a quarter above the one before. */
static uint32_t next_count(uint32_t k) { return k < 4 ? k + 1 : k < 12 ? k + 2 : k + k / 4; }

static enum mp_status choose_count(struct choice *c, struct mp_error *err) {
    const uint32_t most = c->d->n_stages;
    enum mp_status status = MP_OK;
    uint32_t low = 0, high = 0;
    for (uint32_t k = 0, before = 0; k <= most;
         before = k, k = k < most && next_count(k) > most ? most : next_count(k)) {
        uint32_t best = c->best;
        uint64_t best_ns = c->best_ns;
        MP_TRY(try_count(c, k, err));
        if (c->best_ns < best_ns || best != c->best) {
            low = before;
            high = next_count(k) < most ? next_count(k) : most;
        }
    }
    while (high - low > 2) {
        uint32_t step = (high - low) / 8 + 1;
        for (uint32_t k = low + step; k < high; k += step)
            if (k != c->best)
                MP_TRY(try_count(c, k, err));
        low = c->best > low + step ? c->best - step : low;
        high = c->best + step < high ? c->best + step : high;
        if (step == 1)
            break;
    }
out:
    return status;
}

static enum mp_status order(const struct mp_order_problem *in, struct mp_arena *scratch, struct mp_schedule *out,
                            enum mp_outcome *outcome, struct mp_error *err) {
    const uint32_t n = out->n;
    enum mp_status status = MP_OK;
    const size_t n_pairs = (size_t)n * n;
    uint32_t wanted = (uint32_t)in->option_values[0];
    struct draft d = {.n = n, .matrix = in->matrix};
    *outcome = MP_FOUND;
    d.time = mp_arena_alloc(scratch, n_pairs, sizeof *d.time);
    d.done = mp_arena_alloc(scratch, n_pairs, sizeof *d.done);
    d.bytes = mp_arena_alloc(scratch, n_pairs, sizeof *d.bytes);
    if (d.time == NULL || d.done == NULL || d.bytes == NULL)
        return mp_nomem(err, "ordering transfers");
    uint64_t rate = mp_pair_times(d.time, in);
    /* A stage saves what the flush would lose on its bytes: never as much as a quarter of its launch is long. */
    uint64_t length_min = wanted > 0 ? 1 : mp_mul_div(in->topology->stage_launch_ns / 4, rate, UINT64_C(1000000000));
    MP_TRY(make_stages(&d, in, wanted > 0 ? wanted : STAGES_PER_GPU_MAX * n, length_min, scratch, err));
    struct choice c = {.d = &d, .in = in, .n_done = d.n_stages, .best_ns = UINT64_MAX};
    if (wanted > 0)
        c.best = d.n_stages;
    else
        MP_TRY(choose_count(&c, err));
    if (c.best == 0)
        goto out; /* single shot */
    memset(d.done, 0, n_pairs * sizeof *d.done);
    for (uint32_t k = 0; k < c.best; k++) {
        MP_TRY(mp_schedule_stage(out, err));
        for (uint32_t i = 0; i < n; i++)
            MP_TRY(mp_schedule_add(out, i, d.to[(size_t)k * n + i], 1, move(&d, k, i), err));
    }
    if (leftover(&d)) {
        MP_TRY(mp_schedule_stage(out, err));
        for (uint32_t i = 0; i < n; i++)
            for (uint32_t j = 0; j < n; j++)
                if (i != j)
                    MP_TRY(mp_schedule_add(out, i, j, 1, d.bytes[(size_t)i * n + j], err));
        out->has_flush = true;
    }
out:
    mp_free(d.stages);
    mp_free(d.to);
    return status;
}

const struct mp_strategy mp_strategy_order_matchings = {.name = "matchings",
                                                        .summary = "the best few matchings, then all the rest at once",
                                                        .reference = "bottleneck matchings; Dufosse, Ucar 2016",
                                                        .stage = MP_PLAN_ORDER,
                                                        .options = options,
                                                        .order = order};
