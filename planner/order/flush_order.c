/* Stages and a flush.
 *
 * Decides   how many of the stages that a strategy found go before the flush.
 * Minimises simulated time with launches.
 * Method    the time of a count is what it is with a barrier after each stage, which stages that load all ports alike
 * do not feel. Counts are tried on a geometric grid and then between the best and its neighbours; a count whose port
 * bound and launches lose already is not simulated. Where the way back counts (incast), a flush takes the mean of both.
 * Bound     never slower than the single shot, with barriers.
 * Cost      a simulation of each stage and of up to some 20 flushes. */
#include "flush_order.h"
#include "pair_time.h"
#include "planner.h"
#include <string.h>

struct stage {
    size_t first, n; /* into turns */
    uint64_t end_ns; /* of this stage with those before it, a barrier after each */
};
struct mp_flush_order {
    const struct mp_order_problem *in;
    bool is_timed;
    uint32_t n, n_stages, n_stages_allocated;
    size_t n_turns, n_turns_allocated;
    struct stage *stages;
    struct mp_turn *turns;
    uint64_t *time;   /* [n][n] of the matrix */
    uint64_t *filled; /* [n][n] */
    uint64_t *done;   /* [n][n] time that the pairs had so far */
    uint64_t *bytes;  /* [n][n] of one stage, or left */
    uint64_t *back;   /* [n][n] what is left on its way back, or NULL: that does not count */
    uint64_t *slack;  /* [2 * n] */
    uint32_t *degree; /* [2 * n] transfers of one stage at each end */
    /* the choice of a count */
    uint32_t n_done; /* stages that `done` holds */
    uint32_t best;
    uint64_t best_ns;
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

enum mp_status mp_flush_order_new(struct mp_flush_order **out, const struct mp_order_problem *in, bool is_timed,
                                  struct mp_error *err) {
    const uint32_t n = in->topology->n_gpus;
    const size_t n_pairs = (size_t)n * n;
    struct mp_flush_order *f = mp_calloc(1, sizeof *f);
    *out = NULL;
    if (f == NULL)
        return mp_nomem(err, "ordering transfers");
    *f = (struct mp_flush_order){.in = in, .is_timed = is_timed, .n = n};
    const bool counts_return = mp_order_counts_return(in);
    f->time = mp_calloc((counts_return ? 5 : 4) * n_pairs, sizeof *f->time);
    f->slack = mp_calloc(2 * (size_t)n, sizeof *f->slack);
    f->degree = mp_calloc(2 * (size_t)n, sizeof *f->degree);
    if (f->time == NULL || f->slack == NULL || f->degree == NULL) {
        mp_flush_order_free(f);
        return mp_nomem(err, "ordering transfers");
    }
    f->filled = f->time + n_pairs;
    f->done = f->time + 2 * n_pairs;
    f->bytes = f->time + 3 * n_pairs;
    f->back = counts_return ? f->time + 4 * n_pairs : NULL;
    mp_pair_times(f->time, in);
    memcpy(f->filled, f->time, n_pairs * sizeof *f->time);
    fill(f->filled, n, f->slack, f->slack + n);
    *out = f;
    return MP_OK;
}

void mp_flush_order_free(struct mp_flush_order *f) {
    if (f == NULL)
        return;
    mp_free(f->stages);
    mp_free(f->turns);
    mp_free(f->time);
    mp_free(f->slack);
    mp_free(f->degree);
    mp_free(f);
}

const uint64_t *mp_flush_order_filled(const struct mp_flush_order *f) { return f->filled; }
uint32_t mp_flush_order_n_stages(const struct mp_flush_order *f) { return f->n_stages; }

/* ---- stages ---- */
/* Bytes that a turn moves; its time is then done. */
static uint64_t move(struct mp_flush_order *f, const struct mp_turn *t) {
    const size_t pair = (size_t)t->src * f->n + t->dst;
    uint64_t left = f->time[pair] - f->done[pair];
    uint64_t before = mp_pair_bytes(f->in->matrix[pair], f->done[pair], f->time[pair]);
    f->done[pair] += left < t->length ? left : t->length;
    return mp_pair_bytes(f->in->matrix[pair], f->done[pair], f->time[pair]) - before;
}

static bool reserve(struct mp_flush_order *f, size_t n_turns) {
    if (f->n_stages == f->n_stages_allocated) {
        uint32_t more = 2 * f->n_stages_allocated + 64;
        struct stage *stages = mp_realloc(f->stages, more, sizeof *stages);
        if (stages == NULL)
            return false;
        f->stages = stages;
        f->n_stages_allocated = more;
    }
    if (f->n_turns + n_turns > f->n_turns_allocated) {
        size_t more = 2 * f->n_turns_allocated + n_turns;
        struct mp_turn *turns = mp_realloc(f->turns, more, sizeof *turns);
        if (turns == NULL)
            return false;
        f->turns = turns;
        f->n_turns_allocated = more;
    }
    return true;
}

static void rewind_to(struct mp_flush_order *f, uint32_t n_stages) {
    if (f->n_done > n_stages) {
        memset(f->done, 0, (size_t)f->n * f->n * sizeof *f->done);
        f->n_done = 0;
    }
    for (; f->n_done < n_stages; f->n_done++) {
        const struct stage *s = &f->stages[f->n_done];
        for (size_t k = s->first; k < s->first + s->n; k++)
            move(f, &f->turns[k]);
    }
}

enum mp_status mp_flush_order_add(struct mp_flush_order *f, const struct mp_turn *turns, size_t n_turns,
                                  struct mp_error *err) {
    const uint32_t n = f->n;
    enum mp_status status;
    bool has_bytes = false;
    uint64_t time_ns = 0;
    if (!reserve(f, n_turns))
        return mp_nomem(err, "ordering transfers");
    rewind_to(f, f->n_stages);
    memcpy(f->turns + f->n_turns, turns, n_turns * sizeof *turns);
    memset(f->bytes, 0, (size_t)n * n * sizeof *f->bytes);
    for (size_t k = 0; k < n_turns; k++) {
        uint64_t bytes = turns[k].src == turns[k].dst ? 0 : move(f, &turns[k]);
        f->bytes[(size_t)turns[k].src * n + turns[k].dst] = bytes;
        has_bytes = has_bytes || bytes > 0;
    }
    if (!has_bytes || mp_order_is_stopped(f->in->budget))
        return MP_OK;
    if (f->is_timed)
        MP_TRY(mp_net_concurrent(f->in->net, f->bytes, &time_ns, NULL, err));
    time_ns += f->in->topology->stage_launch_ns;
    time_ns += f->n_stages > 0 ? f->stages[f->n_stages - 1].end_ns : 0;
    f->stages[f->n_stages++] = (struct stage){f->n_turns, n_turns, time_ns};
    f->n_turns += n_turns;
    f->n_done = f->n_stages;
    status = MP_OK;
out:
    return status;
}

/* ---- how many of them pay ---- */
/* What is left after the stages done, in f->bytes; false = nothing. */
static bool leftover(struct mp_flush_order *f) {
    bool any = false;
    for (size_t k = 0; k < (size_t)f->n * f->n; k++) {
        f->bytes[k] = f->in->matrix[k] - mp_pair_bytes(f->in->matrix[k], f->done[k], f->time[k]);
        any = any || (f->bytes[k] > 0 && k / f->n != k % f->n);
    }
    return any;
}

/* With so much time at least: slower than the best count, or on many GPUs than what is reached already. */
static bool is_known_to_lose(const struct mp_flush_order *f, uint64_t least_ns) {
    return least_ns >= f->best_ns || (f->n > MP_QUICK_GPUS && f->in->reached_ns > 0 && least_ns >= f->in->reached_ns);
}

static enum mp_status try_count(struct mp_flush_order *f, uint32_t n_stages, struct mp_error *err) {
    const struct mp_topology *t = f->in->topology;
    enum mp_status status = MP_OK;
    uint64_t time_ns = n_stages > 0 ? f->stages[n_stages - 1].end_ns : 0, flush_ns, back_ns;
    if (time_ns >= f->best_ns)
        return MP_OK;
    rewind_to(f, n_stages);
    if (leftover(f)) {
        time_ns += n_stages > 0 ? t->stage_launch_ns : t->launch_ns;
        if (is_known_to_lose(f, time_ns + mp_net_port_bound(f->in->net, f->bytes)))
            return MP_OK;
        if (n_stages == 0 && f->in->single_ns > 0) {
            time_ns = f->in->single_ns;
        } else {
            if (!mp_order_spend(f->in->budget))
                return MP_OK;
            MP_TRY(mp_net_concurrent(f->in->net, f->bytes, &flush_ns, NULL, err));
            if (f->back != NULL) {
                mp_transpose(f->back, f->bytes, f->n);
                MP_TRY(mp_net_concurrent(f->in->net, f->back, &back_ns, NULL, err));
                flush_ns = flush_ns / 2 + back_ns / 2 + (flush_ns % 2 + back_ns % 2 + 1) / 2;
            }
            time_ns += flush_ns;
        }
    }
    if (time_ns < f->best_ns) {
        f->best = n_stages;
        f->best_ns = time_ns;
    }
out:
    return status;
}

/* The grid 0, 1, 2, 3, 4, 6, 8, 10, 12, 15, ...: each about a quarter above the one before. */
static uint32_t next_count(uint32_t k) { return k < 4 ? k + 1 : k < 12 ? k + 2 : k + k / 4; }

static enum mp_status choose_count(struct mp_flush_order *f, struct mp_error *err) {
    const uint32_t most = f->n_stages;
    enum mp_status status = MP_OK;
    uint32_t low = 0, high = 0;
    for (uint32_t k = f->best_ns < UINT64_MAX, before = 0; k <= most;
         before = k, k = k < most && next_count(k) > most ? most : next_count(k)) {
        uint32_t best = f->best;
        uint64_t best_ns = f->best_ns;
        MP_TRY(try_count(f, k, err));
        if (f->best_ns < best_ns || best != f->best) {
            low = before;
            high = next_count(k) < most ? next_count(k) : most;
        }
    }
    while (high - low > 2) {
        uint32_t step = (high - low) / 8 + 1;
        for (uint32_t k = low + step; k < high; k += step)
            if (k != f->best)
                MP_TRY(try_count(f, k, err));
        low = f->best > low + step ? f->best - step : low;
        high = f->best + step < high ? f->best + step : high;
        if (step == 1)
            break;
    }
out:
    return status;
}

bool mp_flush_order_may_pay(struct mp_flush_order *f, uint64_t time_ns) {
    uint64_t least = f->n_stages > 0 ? f->stages[f->n_stages - 1].end_ns : 0;
    if (mp_order_is_stopped(f->in->budget))
        return false;
    rewind_to(f, f->n_stages);
    if (!leftover(f))
        return false;
    least += f->in->topology->stage_launch_ns + mp_net_port_bound(f->in->net, f->bytes);
    return least < time_ns && !is_known_to_lose(f, least);
}

enum mp_status mp_flush_order_choose(struct mp_flush_order *f, uint32_t n_stages, uint64_t *time_ns,
                                     struct mp_error *err) {
    const uint32_t wanted = n_stages < f->n_stages ? n_stages : f->n_stages;
    enum mp_status status;
    if (time_ns == NULL) {
        f->best = wanted;
        return MP_OK;
    }
    f->best = 0;
    f->best_ns = *time_ns;
    if (n_stages == 0)
        MP_TRY(choose_count(f, err));
    else
        MP_TRY(try_count(f, wanted, err));
    *time_ns = f->best_ns;
out:
    return status;
}

static uint32_t most_transfers(struct mp_flush_order *f, const struct mp_schedule *s, uint32_t stage) {
    uint32_t most = 0;
    memset(f->degree, 0, 2 * (size_t)f->n * sizeof *f->degree);
    for (uint32_t k = s->first[stage]; k < s->first[stage + 1]; k++) {
        uint32_t out = ++f->degree[s->pieces[k].src], into = ++f->degree[f->n + s->pieces[k].dst];
        most = out > most ? out : most;
        most = into > most ? into : most;
    }
    return most;
}

enum mp_status mp_flush_order_write(struct mp_flush_order *f, struct mp_schedule *out, struct mp_error *err) {
    const uint32_t n = f->n;
    enum mp_status status = MP_OK;
    if (f->best == 0)
        goto out; /* single shot */
    memset(f->done, 0, (size_t)n * n * sizeof *f->done);
    for (uint32_t k = 0; k < f->best; k++) {
        const struct stage *s = &f->stages[k];
        MP_TRY(mp_schedule_stage(out, err));
        for (size_t i = s->first; i < s->first + s->n; i++)
            MP_TRY(mp_schedule_add(out, f->turns[i].src, f->turns[i].dst, 1, move(f, &f->turns[i]), err));
        uint32_t most = most_transfers(f, out, out->n_stages - 1);
        out->ports = most > out->ports ? most : out->ports;
    }
    f->n_done = f->best;
    if (leftover(f)) {
        MP_TRY(mp_schedule_stage(out, err));
        for (uint32_t i = 0; i < n; i++)
            for (uint32_t j = 0; j < n; j++)
                if (i != j)
                    MP_TRY(mp_schedule_add(out, i, j, 1, f->bytes[(size_t)i * n + j], err));
        out->has_flush = true;
    }
out:
    return status;
}
