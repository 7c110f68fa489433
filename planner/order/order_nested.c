/* Few launches of many matchings each, and a flush.
 *
 * Decides   the stages of transfers: in each, every GPU sends to and receives from many others at once; and one launch
 *           of all that is left.
 * Minimises simulated time with its launches, over the number of stages.
 * Method    matchings P1, P2, ... without a pair in common, each of one length, can go in one launch and lose nothing,
 *           though ports are shared fairly and not paced: at any moment the pairs that still send are those of the
 *           longer matchings, equally many at every port, so all get the same rate and all ports stay full. A stage is
 *           therefore a run of bottleneck matchings (bottleneck.c), each among the pairs that the stage does not use
 *           yet, down to a share of the first one's length: shorter ones are better left to later stages, which need
 *           them beside what remains of the long pairs. The next stage does the same with what is left; then
 *           flush_order.c chooses the count. Three shares are tried and the one of least simulated time wins. Slack is
 *           filled in first, so that all ports carry the same.
 * Bound     a stage lowers the load of every port by the sum of its lengths. Launches excluded, 8 stages come within
 *           1.3 % of the port bound for 8 to 64 GPUs and balanced lognormal pairs of sigma 1, and within 1 to 7 % for
 *           sigma 2 (bench_bvn).
 * Differs   from few-stage Birkhoff decompositions: one launch for about n matchings instead of one. Where many senders
 *           at one port lower its goodput (incast), `peers` limits how many; with 1 stages are matchings.
 * Cost      about n bottleneck matchings for each stage, and some 20 simulations of a single shot. */
#include "bottleneck.h"
#include "flush_order.h"
#include "planner.h"
#include <string.h>

static const struct mp_option options[] = {
    {"stages", "stages", "stages before the flush; 0 = as many as pay", 0, 0, 65536},
    {"peers", "peers", "GPUs that one sends to in a stage, at most; 0 = any number", 0, 0, 4096},
    {"shortest", "percent", "of the longest matching of a stage, what the shortest is at least; 0 = the best of three",
     0, 0, 100},
    {NULL, NULL, NULL, 0, 0, 0}};

#define STAGES_MAX 32u
static const uint32_t shares[] = {50, 70, 35}; /* percent */
#define N_SHARES 3u

struct work {
    uint32_t n, peers, share;
    uint64_t *left; /* [n][n] filled, what no stage has taken yet */
    struct mp_turn *turns;
    size_t n_turns;
    uint64_t length; /* of all matchings of the stage */
};

/* One stage out of w->left. */
static enum mp_status make_stage(struct work *w, struct mp_error *err) {
    const uint32_t n = w->n;
    enum mp_status status;
    struct mp_bottleneck *b = NULL;
    w->n_turns = 0;
    w->length = 0;
    MP_TRY(mp_bottleneck_new(&b, n, w->left, err));
    for (uint32_t peer = 0; peer < w->peers; peer++) {
        uint64_t length = mp_bottleneck_next(b);
        if (length == 0 || (peer > 0 && length < mp_mul_div(w->turns[0].length, w->share, 100)))
            break;
        struct mp_turn *turns = w->turns + w->n_turns;
        for (uint32_t i = 0; i < n; i++)
            turns[i] = (struct mp_turn){(uint16_t)i, (uint16_t)mp_bottleneck_to(b)[i], length};
        for (uint32_t i = 0; i < n; i++) {
            mp_bottleneck_take(b, i, turns[i].dst, mp_bottleneck_left(b, i, turns[i].dst));
            w->left[(size_t)i * n + turns[i].dst] -= length;
        }
        w->n_turns += n;
        w->length += length;
    }
out:
    mp_bottleneck_free(b);
    return status;
}

/* Stages of one share, and how many of them pay: better than *time_ns, or f has none; is_fixed: all that are wanted. */
static enum mp_status try_share(const struct mp_budget *budget, struct mp_flush_order *f, struct work *w,
                                uint32_t wanted, bool is_fixed, uint64_t *time_ns, struct mp_error *err) {
    const uint32_t most = wanted > 0 ? wanted : STAGES_MAX;
    enum mp_status status;
    memcpy(w->left, mp_flush_order_filled(f), (size_t)w->n * w->n * sizeof *w->left);
    if (wanted == 0 && *time_ns == UINT64_MAX)
        MP_TRY(mp_flush_order_choose(f, 0, time_ns, err)); /* single shot */
    while (mp_flush_order_n_stages(f) < most && !mp_order_is_stopped(budget) &&
           (wanted > 0 || mp_flush_order_may_pay(f, *time_ns))) {
        MP_TRY(make_stage(w, err));
        if (w->length == 0)
            break;
        MP_TRY(mp_flush_order_add(f, w->turns, w->n_turns, err));
    }
    if (is_fixed)
        *time_ns = 0; /* whatever it takes */
    status = mp_flush_order_choose(f, wanted, is_fixed ? NULL : time_ns, err);
out:
    return status;
}

static enum mp_status order(const struct mp_order_problem *in, struct mp_arena *scratch, struct mp_schedule *out,
                            enum mp_outcome *outcome, struct mp_error *err) {
    const uint32_t n = out->n, wanted = (uint32_t)in->option_values[0], peers = (uint32_t)in->option_values[1];
    const uint32_t share = (uint32_t)in->option_values[2];
    const size_t n_pairs = (size_t)n * n;
    const bool is_fixed = wanted > 0 && (share > 0 || peers == 1); /* nothing to choose by time */
    enum mp_status status = MP_OK;
    struct mp_flush_order *best = NULL, *f = NULL;
    struct work w = {.n = n, .peers = peers > 0 && peers < n ? peers : n};
    uint64_t best_ns = UINT64_MAX;
    *outcome = MP_FOUND;
    w.left = mp_arena_alloc(scratch, n_pairs, sizeof *w.left);
    w.turns = mp_arena_alloc(scratch, n_pairs, sizeof *w.turns);
    if (w.left == NULL || w.turns == NULL)
        return mp_nomem(err, "ordering transfers");
    for (uint32_t k = 0; k < (share > 0 || w.peers == 1 ? 1 : N_SHARES); k++) {
        uint64_t before = best_ns;
        if (k > 0 && mp_order_is_stopped(in->budget))
            break;
        w.share = share > 0 ? share : shares[k];
        MP_TRY(mp_flush_order_new(&f, in, !is_fixed, err));
        MP_TRY(try_share(in->budget, f, &w, wanted, is_fixed, &best_ns, err));
        if (best_ns < before) {
            mp_flush_order_free(best);
            best = f;
        } else {
            mp_flush_order_free(f);
        }
        f = NULL;
    }
    if (best != NULL)
        status = mp_flush_order_write(best, out, err);
out:
    mp_flush_order_free(f);
    mp_flush_order_free(best);
    return status;
}

const struct mp_strategy mp_strategy_order_nested = {.name = "nested",
                                                     .summary = "few launches of many matchings each, then the rest",
                                                     .reference = "planner/order/order_nested.c",
                                                     .stage = MP_PLAN_ORDER,
                                                     .options = options,
                                                     .order = order};
