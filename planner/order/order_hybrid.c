/* Bottleneck matchings, then a list.
 *
 * Decides   the order of transfers: large pieces in matchings that keep every busy port busy, the small rest whole.
 * Minimises the time of the order with its startups, over the size tau at which the matchings end.
 * Method    the matrix is padded to equal loads in proportion to the slacks, and bottleneck matchings (bottleneck.c)
 *           are taken off it, each as long as its least entry. A remainder that takes less than half of a startup
 *           goes with the piece before it. Each time the matchings' length falls below a tau of {1, 1/2, 1/4, 1/8,
 *           1/16} * bound / n, the rest is tried: for free stages as a list that starts where the matchings leave
 *           each port; else packed into matchings, largest first, and as one flush (taken to lose what a single shot
 *           does; simulated only where the better of the two is in doubt). One run of matchings serves every tau.
 * Bound     never slower than everything at once, which is simulated where the order is above its port bound (on
 *           many GPUs only where an estimate of it is not clearly slower); beyond that none proven but the list's,
 * which is tried too. bench_hybrid: 1.011 of the startup-aware bound at n = 64 with startups of 1e-4 of it.
 * Differs   entries are times, so that unequal rates do no harm of their own (unequal ports need sub-ports).
 * Cost      O(n^2 / 64) per entry that falls below the threshold, O(n^2) per fall of the threshold, 18 lists (each
 *           simulated where ports are shared). */
#include "bottleneck.h"
#include "fair_share.h"
#include "list_schedule.h"
#include "planner.h"
#include <stdlib.h>
#include <string.h>

#define N_TAUS 5u
#define QUICK_GPUS 32u /* a flush of so many is simulated in a millisecond */
#define CLEARLY 0.95   /* mp_fair_share_ns is tested to be within 2 % */

/* How what the matchings leave is sent. */
enum tail { LIST, PACKED, FLUSH, N_TAILS };
struct rest_try {      /* the best so far of one tail */
    uint64_t least;    /* ticks */
    uint32_t n_stages; /* of matchings before it */
    uint64_t *bytes;   /* [n * n] sent by it */
};
struct rest {
    uint64_t ticks;
    uint32_t pair, stage;
};

struct hybrid {
    const struct mp_order_problem *in;
    const struct mp_ticks *ticks;
    struct mp_arena *scratch;
    struct mp_bottleneck *matchings;
    uint32_t n;
    uint64_t bound;         /* most ticks of a port, startups excluded */
    uint64_t *padded;       /* [n * n] ticks */
    uint64_t *wire, *bytes; /* [n * n] what is left to send */
    uint64_t *time;         /* [n * n] the rest with startups, for the list */
    uint64_t *ready, *next; /* [2 * n] when senders, receivers have ended their stages */
    uint32_t *to;           /* [n] the matching being sent */
    uint64_t *busy;         /* [2 * n][n_words] stages in which an end is in use, while packing */
    size_t n_words;
    struct rest *packed;              /* [n * n] */
    struct mp_list *list, *best_list; /* at work, of best[LIST] */
    struct rest_try best[N_TAILS];
    uint64_t loss_ppm;                /* what fair shares are taken to lose of a flush */
    uint64_t flush_least, flush_most; /* best[FLUSH].least with no and with twice the usual loss */
};

static bool get_memory(struct hybrid *h) {
    const size_t n = h->n, pairs = n * n;
    uint64_t **squares[] = {&h->padded, &h->wire, &h->bytes, &h->time, &h->best[LIST].bytes};
    for (size_t i = 0; i < sizeof squares / sizeof squares[0]; i++)
        if ((*squares[i] = mp_arena_alloc(h->scratch, pairs, sizeof **squares[i])) == NULL)
            return false;
    h->ready = mp_arena_alloc(h->scratch, 4 * n, sizeof *h->ready);
    h->to = mp_arena_alloc(h->scratch, n, sizeof *h->to);
    if (h->ready == NULL || h->to == NULL)
        return false;
    h->next = h->ready + 2 * n;
    if (h->in->mode == MP_STAGE_FREE)
        return true;
    h->n_words = (2 * n + 63) / 64;
    h->busy = mp_arena_alloc(h->scratch, 2 * n * h->n_words, sizeof *h->busy);
    h->packed = mp_arena_alloc(h->scratch, pairs, sizeof *h->packed);
    h->best[PACKED].bytes = mp_arena_alloc(h->scratch, pairs, sizeof *h->bytes);
    h->best[FLUSH].bytes = mp_arena_alloc(h->scratch, pairs, sizeof *h->bytes);
    return h->busy != NULL && h->packed != NULL && h->best[PACKED].bytes != NULL && h->best[FLUSH].bytes != NULL;
}

/* ---- matchings ---- */
/* padded = wire + slack_i * slack_j / all slack. */
static void pad(struct hybrid *h) {
    const size_t n = h->n;
    uint64_t *row = h->ready, *column = h->ready + n, slack = 0;
    memset(h->ready, 0, 2 * n * sizeof *h->ready);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) {
            row[i] += h->wire[i * n + j];
            column[j] += h->wire[i * n + j];
        }
    h->bound = 0;
    for (size_t i = 0; i < 2 * n; i++)
        h->bound = h->ready[i] > h->bound ? h->ready[i] : h->bound;
    for (size_t i = 0; i < n; i++)
        slack += h->bound - row[i];
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            h->padded[i * n + j] =
                h->wire[i * n + j] + (slack == 0 ? 0 : mp_mul_div(h->bound - row[i], h->bound - column[j], slack));
    memset(h->ready, 0, 2 * n * sizeof *h->ready);
}

/* Sends the matching for `length` ticks, as it is taken off. */
static enum mp_status emit(struct hybrid *h, uint64_t length, struct mp_schedule *out, struct mp_error *err) {
    const size_t n = h->n;
    enum mp_status status = MP_OK;
    MP_TRY(mp_schedule_stage(out, err));
    memcpy(h->next, h->ready, 2 * n * sizeof *h->ready);
    uint64_t longest = 0, now = h->ready[0];
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t j = h->to[i];
        const size_t pair = i * n + j;
        mp_bottleneck_take(h->matchings, i, j, length);
        if (h->bytes[pair] == 0)
            continue;
        uint64_t taken = length, bytes;
        if (h->wire[pair] <= taken || h->wire[pair] - taken < h->ticks->startup[pair] / 2) {
            taken = h->wire[pair];
            bytes = h->bytes[pair];
        } else {
            bytes = mp_ticks_bytes(h->ticks, pair, taken);
            if (bytes == 0)
                continue;
            bytes = bytes < h->bytes[pair] ? bytes : h->bytes[pair];
        }
        h->bytes[pair] -= bytes;
        h->wire[pair] = h->bytes[pair] == 0 ? 0 : h->wire[pair] - taken;
        MP_TRY(mp_schedule_add(out, i, j, 1, bytes, err));
        taken += h->ticks->startup[pair];
        size_t a = i, b = h->in->mode == MP_STAGE_COUPLED ? j : n + j;
        uint64_t end = (h->ready[a] > h->ready[b] ? h->ready[a] : h->ready[b]) + taken;
        h->next[a] = end > h->next[a] ? end : h->next[a];
        h->next[b] = end > h->next[b] ? end : h->next[b];
        longest = taken > longest ? taken : longest;
    }
    if (h->in->mode == MP_STAGE_BARRIER)
        for (size_t e = 0; e < 2 * n; e++)
            h->next[e] = now + longest;
    uint64_t *swap = h->ready;
    h->ready = h->next;
    h->next = swap;
out:
    return status;
}

/* ---- the rest ---- */
static void note(struct hybrid *h, enum tail tail, uint64_t ticks, uint32_t n_stages) {
    h->best[tail].least = ticks;
    h->best[tail].n_stages = n_stages;
    memcpy(h->best[tail].bytes, h->bytes, (size_t)h->n * h->n * sizeof *h->bytes);
}

static int by_falling_time(const void *a, const void *b) {
    const struct rest *x = a, *y = b;
    return x->ticks != y->ticks ? (x->ticks < y->ticks ? 1 : -1) : (x->pair > y->pair) - (x->pair < y->pair);
}
static int by_stage(const void *a, const void *b) {
    const struct rest *x = a, *y = b;
    return x->stage != y->stage ? (x->stage > y->stage) - (x->stage < y->stage)
                                : (x->pair > y->pair) - (x->pair < y->pair);
}

/* Largest first, each into the first stage where both ends are free: fewer than 2 * n stages. By stage in `packed`. */
static size_t pack(struct hybrid *h, const uint64_t *bytes) {
    const uint32_t n = h->n;
    const size_t words = h->n_words;
    size_t count = 0;
    memset(h->busy, 0, 2 * n * words * sizeof *h->busy);
    for (size_t p = 0; p < (size_t)n * n; p++)
        if (bytes[p] > 0)
            h->packed[count++] =
                (struct rest){h->ticks->startup[p] + mp_ticks_wire(h->ticks, p, bytes[p]), (uint32_t)p, 0};
    qsort(h->packed, count, sizeof *h->packed, by_falling_time);
    for (size_t i = 0; i < count; i++) {
        uint64_t *a = h->busy + h->packed[i].pair / n * words, *b = h->busy + (n + h->packed[i].pair % n) * words;
        size_t w = 0;
        while ((a[w] | b[w]) == UINT64_MAX)
            w++;
        uint32_t bit = (uint32_t)__builtin_ctzll(~(a[w] | b[w]));
        a[w] |= UINT64_C(1) << bit;
        b[w] |= UINT64_C(1) << bit;
        h->packed[i].stage = (uint32_t)w * 64 + bit;
    }
    qsort(h->packed, count, sizeof *h->packed, by_stage);
    return count;
}

/* When the stages `packed` end after the matchings. */
static uint64_t packed_end(struct hybrid *h, size_t count) {
    const size_t n = h->n;
    uint64_t last = 0;
    memcpy(h->next, h->ready, 2 * n * sizeof *h->ready);
    for (size_t i = 0, j; i < count; i = j) {
        uint64_t *clock = h->next, now = 0;
        for (j = i; j < count && h->packed[j].stage == h->packed[i].stage; j++)
            now = h->packed[j].ticks > now ? h->packed[j].ticks : now;
        if (h->in->mode == MP_STAGE_BARRIER) {
            for (size_t e = 0; e < 2 * n; e++)
                clock[e] += now;
            continue;
        }
        /* Coupled: `time` is free for the ends of this stage. */
        memcpy(h->time, clock, n * sizeof *clock);
        for (size_t k = i; k < j; k++) {
            size_t a = h->packed[k].pair / n, b = h->packed[k].pair % n;
            uint64_t end = (clock[a] > clock[b] ? clock[a] : clock[b]) + h->packed[k].ticks;
            h->time[a] = end > h->time[a] ? end : h->time[a];
            h->time[b] = end > h->time[b] ? end : h->time[b];
        }
        memcpy(clock, h->time, n * sizeof *clock);
    }
    for (size_t e = 0; e < 2 * n; e++)
        last = h->next[e] > last ? h->next[e] : last;
    return last;
}

/* When a flush of the rest ends, if fair shares lose so much of the time of its busiest port; 0 is a bound. */
static uint64_t flush_end(const struct hybrid *h, uint64_t loss_ppm) {
    const size_t n = h->n;
    uint64_t last = 0;
    for (size_t i = 0; i < n; i++)
        for (int side = 0; side < 2; side++) {
            uint64_t end = 0, startup = 0;
            for (size_t j = 0; j < n; j++) {
                size_t pair = side ? j * n + i : i * n + j;
                end += h->bytes[pair] == 0 ? 0 : h->wire[pair];
                startup = h->bytes[pair] > 0 && h->ticks->startup[pair] > startup ? h->ticks->startup[pair] : startup;
            }
            end += mp_mul_div(end, loss_ppm, 1000000) + startup + h->ready[h->in->mode == MP_STAGE_BARRIER ? 0 : i];
            last = end > last ? end : last;
        }
    return last;
}

/* Stages with pieces: an empty last one is dropped by whatever comes next. */
static uint32_t n_full(const struct mp_schedule *s) {
    return s->n_stages - (s->n_stages > 0 && s->first[s->n_stages - 1] == s->n_pieces);
}

static void cut(struct mp_schedule *s, uint32_t n_stages) {
    s->has_flush = false;
    if (s->n_stages > n_stages) {
        s->n_pieces = s->first[n_stages];
        s->n_stages = n_stages;
    }
}

/* The matchings in `out` up to the tail's, then the tail. */
static enum mp_status finish(struct hybrid *h, enum tail tail, struct mp_schedule *out, struct mp_error *err) {
    const struct rest_try *best = &h->best[tail];
    const uint32_t n = h->n;
    enum mp_status status = MP_OK;
    cut(out, best->n_stages);
    if (tail == LIST)
        return mp_list_append(h->best_list, best->bytes, out, h->scratch, err);
    size_t count = pack(h, best->bytes);
    for (size_t i = 0; i < count; i++) {
        if (i == 0 || (tail == PACKED && h->packed[i].stage != h->packed[i - 1].stage))
            MP_TRY(mp_schedule_stage(out, err));
        uint32_t pair = h->packed[i].pair;
        MP_TRY(mp_schedule_add(out, pair / n, pair % n, 1, best->bytes[pair], err));
    }
    out->has_flush = tail == FLUSH && count > 0;
out:
    return status;
}

/* Time of the matchings in `out` with this tail, as the simulator has it; `out` keeps the tail. */
static enum mp_status simulate(struct hybrid *h, enum tail tail, struct mp_schedule *out, uint64_t *ns,
                               struct mp_error *err) {
    enum mp_status status = finish(h, tail, out, err);
    if (status != MP_OK)
        return status;
    mp_schedule_finish(out);
    return mp_schedule_time(out, h->in, ns, err);
}

/* Lists of the rest, by each priority. Where transfers can slow each other down only the simulator knows their time. */
static enum mp_status try_lists(struct hybrid *h, uint32_t n_stages, struct mp_schedule *out, struct mp_error *err) {
    const size_t pairs = (size_t)h->n * h->n;
    enum mp_status status = MP_OK;
    for (size_t p = 0; p < pairs; p++)
        h->time[p] = h->bytes[p] == 0 ? 0 : h->ticks->startup[p] + h->wire[p];
    for (int priority = 0; priority < MP_N_LIST_PRIORITIES; priority++) {
        uint64_t limit = h->ticks->is_alone ? h->best[LIST].least : UINT64_MAX;
        if (!mp_list_run(h->list, h->time, h->ready, (enum mp_list_priority)priority, limit))
            continue;
        uint64_t end = h->list->makespan;
        if (!h->ticks->is_alone) {
            if (!mp_order_spend(h->in->budget) && h->best[LIST].least < UINT64_MAX)
                break;
            MP_TRY(mp_list_append(h->list, h->bytes, out, h->scratch, err));
            mp_schedule_finish(out);
            MP_TRY(mp_schedule_time(out, h->in, &end, err));
            cut(out, n_stages);
            if (end >= h->best[LIST].least)
                continue;
        }
        struct mp_list *swap = h->best_list;
        h->best_list = h->list;
        h->list = swap;
        note(h, LIST, end, n_stages);
    }
out:
    return status;
}

/* Tries the tails after the matchings so far. */
static enum mp_status try_rest(struct hybrid *h, struct mp_schedule *out, struct mp_error *err) {
    const uint32_t n_stages = n_full(out);
    if (h->in->mode == MP_STAGE_FREE)
        return try_lists(h, n_stages, out, err);
    uint64_t end = packed_end(h, pack(h, h->bytes));
    if (end < h->best[PACKED].least)
        note(h, PACKED, end, n_stages);
    end = flush_end(h, h->loss_ppm);
    if (end < h->best[FLUSH].least) {
        note(h, FLUSH, end, n_stages);
        h->flush_least = flush_end(h, 0);
        h->flush_most = flush_end(h, 2 * h->loss_ppm);
    }
    return MP_OK;
}

/* Takes matchings off until the smallest tau, trying the tails at each. */
static enum mp_status run_matchings(struct hybrid *h, struct mp_schedule *out, struct mp_error *err) {
    enum mp_status status = MP_OK;
    for (uint32_t tau = 0; tau < N_TAUS && !mp_order_is_stopped(h->in->budget);) {
        const uint64_t length = mp_bottleneck_next(h->matchings);
        for (; tau < N_TAUS && (length == 0 || length < (h->bound / h->n) >> tau); tau++)
            MP_TRY(try_rest(h, out, err));
        if (length == 0 || tau == N_TAUS)
            break;
        memcpy(h->to, mp_bottleneck_to(h->matchings), h->n * sizeof *h->to);
        MP_TRY(emit(h, length, out, err));
    }
out:
    return status;
}

/* What fair shares lose on the whole matrix, where that is quickly known; else an eighth, usual on balanced ports. */
static enum mp_status measure_loss(struct hybrid *h, struct mp_error *err) {
    const uint64_t bound = mp_net_port_bound(h->in->net, h->in->matrix);
    uint64_t time = 0;
    enum mp_status status = MP_OK;
    h->loss_ppm = 125000;
    if (h->n > QUICK_GPUS || bound == 0 || h->in->mode == MP_STAGE_FREE || !mp_order_spend(h->in->budget))
        return MP_OK;
    MP_TRY(mp_net_concurrent(h->in->net, h->in->matrix, &time, NULL, err));
    h->loss_ppm = mp_mul_div(time - bound, 1000000, bound);
    h->loss_ppm = h->loss_ppm < 1000000 ? h->loss_ppm : 1000000; /* one of a flow's ends is always full: never more */
out:
    return status;
}

static enum mp_status copy_stages(struct mp_schedule *to, const struct mp_schedule *from, uint32_t n_stages,
                                  struct mp_error *err) {
    enum mp_status status = MP_OK;
    for (uint32_t k = 0; k < n_stages; k++) {
        MP_TRY(mp_schedule_stage(to, err));
        for (uint32_t i = from->first[k]; i < from->first[k + 1]; i++) {
            const struct mp_piece *p = &from->pieces[i];
            MP_TRY(mp_schedule_add(to, p->src, p->dst, p->width, p->bytes, err));
        }
    }
out:
    return status;
}

/* All is rest: one flush, or where its launch is no cheaper than that of the single shot, none. */
static enum mp_status all_at_once(const struct mp_order_problem *in, struct mp_schedule *out, struct mp_error *err) {
    const uint32_t n = out->n;
    enum mp_status status = MP_OK;
    mp_schedule_free(out);
    mp_schedule_init(out, n);
    if (in->topology->stage_launch_ns >= in->topology->launch_ns)
        return MP_OK;
    MP_TRY(mp_schedule_stage(out, err));
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++)
            if (i != j)
                MP_TRY(mp_schedule_add(out, i, j, 1, in->matrix[(size_t)i * n + j], err));
    out->has_flush = true;
out:
    return status;
}

/* Where the order is slower than everything at once, that. Who has reached a time compares with the single shot
 * himself, but not with a flush of everything, whose launch may be shorter. */
static enum mp_status keep_if_faster(const struct mp_order_problem *in, struct mp_schedule *out,
                                     struct mp_arena *scratch, struct mp_error *err) {
    const struct mp_topology *t = in->topology;
    const struct mp_schedule none = {.n = out->n};
    const uint64_t least_ns = mp_net_port_bound(in->net, in->matrix);
    const uint64_t launch_ns = t->stage_launch_ns < t->launch_ns ? t->stage_launch_ns : t->launch_ns;
    uint64_t time_ns, once_ns = in->single_ns;
    enum mp_status status = MP_OK;
    mp_schedule_finish(out);
    if ((in->reached_ns > 0 && t->stage_launch_ns >= t->launch_ns) || out->n_stages == 0 || !mp_order_spend(in->budget))
        return MP_OK;
    MP_TRY(mp_schedule_time(out, in, &time_ns, err));
    if (time_ns <= least_ns + launch_ns && !mp_order_counts_return(in))
        return MP_OK;
    if (once_ns == 0 && out->n > QUICK_GPUS && !mp_order_counts_return(in)) {
        double about_ns;
        MP_TRY(mp_fair_share_ns(&about_ns, t, in->matrix, scratch, err));
        if (about_ns * CLEARLY + (double)launch_ns > (double)time_ns)
            return MP_OK;
    }
    if (once_ns == 0) {
        if (!mp_order_spend(in->budget))
            return MP_OK;
        MP_TRY(mp_schedule_time(&none, in, &once_ns, err));
    }
    if (time_ns > once_ns - t->launch_ns + launch_ns)
        status = all_at_once(in, out, err);
out:
    return status;
}

static enum mp_status order(const struct mp_order_problem *in, struct mp_arena *scratch, struct mp_schedule *out,
                            enum mp_outcome *outcome, struct mp_error *err) {
    struct hybrid h = {.in = in, .scratch = scratch, .n = out->n};
    struct mp_ticks *ticks;
    struct mp_schedule other;
    enum mp_status status = MP_OK;
    const size_t n = out->n;
    mp_schedule_init(&other, out->n);
    *outcome = MP_FOUND;
    MP_TRY(mp_ticks_new(&ticks, in, scratch, err));
    h.ticks = ticks;
    MP_TRY(mp_list_new(&h.best_list, out->n, scratch, err));
    MP_TRY(mp_list_new(&h.list, out->n, scratch, err));
    if (!get_memory(&h)) {
        status = mp_nomem(err, "ordering transfers");
        goto out;
    }
    for (size_t p = 0; p < n * n; p++) {
        h.wire[p] = ticks->wire[p];
        h.bytes[p] = ticks->wire[p] == 0 ? 0 : in->matrix[p];
    }
    for (int tail = 0; tail < N_TAILS; tail++)
        h.best[tail].least = UINT64_MAX;
    pad(&h);
    MP_TRY(measure_loss(&h, err));
    MP_TRY(mp_bottleneck_new(&h.matchings, out->n, h.padded, err));
    MP_TRY(try_rest(&h, out, err));
    MP_TRY(run_matchings(&h, out, err));
    if (in->mode == MP_STAGE_FREE) {
        MP_TRY(finish(&h, LIST, out, err));
        status = keep_if_faster(in, out, scratch, err);
        goto out;
    }
    /* Simulating a flush takes longer than all the rest: only where the tails are close, or ports are shared. */
    const bool is_clear =
        ticks->is_alone && (h.best[PACKED].least <= h.flush_least || h.best[PACKED].least >= h.flush_most);
    if (is_clear || !mp_order_spend(in->budget) || !mp_order_spend(in->budget)) {
        MP_TRY(finish(&h, h.best[PACKED].least <= h.flush_least ? PACKED : FLUSH, out, err));
        status = keep_if_faster(in, out, scratch, err);
        goto out;
    }
    uint64_t packed_ns, flush_ns;
    MP_TRY(copy_stages(&other, out, h.best[FLUSH].n_stages, err));
    MP_TRY(simulate(&h, FLUSH, &other, &flush_ns, err));
    MP_TRY(simulate(&h, PACKED, out, &packed_ns, err));
    if (flush_ns < packed_ns) {
        struct mp_schedule swap = *out;
        *out = other;
        other = swap;
    }
    status = keep_if_faster(in, out, scratch, err);
out:
    mp_bottleneck_free(h.matchings);
    mp_schedule_free(&other);
    return status;
}

const struct mp_strategy mp_strategy_order_hybrid = {.name = "hybrid",
                                                     .summary = "matchings for the large pieces, a list of the small",
                                                     .reference = "bottleneck matchings and list scheduling",
                                                     .stage = MP_PLAN_ORDER,
                                                     .order = order};
