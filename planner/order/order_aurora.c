/* Aurora's Algorithm 1, as printed.
 *
 * Decides   the order of transfers: for every token a time slot in which its sender and its receiver do nothing
 *           else.
 * Minimises the number of slots, greedily.
 * Method    our reading of the printed lines. A GPU's tokens are those it sends and those it receives, its traffic
 *           the more of the two. The GPU of most traffic (ties: the lower one) comes first, the others follow by
 *           falling traffic of what it leaves. A GPU's tokens to send, then those to receive, are each taken in
 *           random order, and each token goes into the first slot in which both its ends do nothing: 0, 1, ... for
 *           the first GPU, "arranged to avoid conflicts" for the others. Slots are stages; equal ones in a row are
 *           one stage.
 * Bound     fewer than twice the busiest port's tokens: until its slot one of a token's ends was always in use. The
 *           paper claims once; tokens of one byte, up to 20 per flow, uniformly random: 1.012 on average and 1.25 at
 *           worst for n = 4, 1.002 and 1.10 for n = 8, once for n = 16 (test_order_list).
 * Paper     Aurora, arXiv 2410.17043, part 4.2; its proof of optimality is Birkhoff's theorem and not about this
 *           order (strategy bvn is exact).
 * Differs   tokens are `quantum` bytes, the last one of a flow what is left: quantum = busiest port / (slots-per-gpu
 *           * n), rounded up. Ports are taken to be equal, as in the paper.
 * Cost      O(tokens * slots / 64). Deterministic by seed. */
#include "planner.h"
#include <stdlib.h>
#include <string.h>

static const struct mp_option options[] = {
    {"slots-per-gpu", "slots", "time slots of the busiest port, per GPU: how small a token is", 16, 1, 4096},
    {.name = NULL}};

#define MOST_SLOTS_OF_ALL (UINT64_C(1) << 24) /* GPUs * slots: 64 MiB of plan in the making */

struct aurora {
    uint32_t n, n_slots, n_words; /* n_slots: allocated; never all used */
    uint64_t quantum;
    uint32_t *tokens;    /* [n * n] without a slot yet */
    uint64_t *free_send; /* [n][n_words] slots */
    uint64_t *free_receive;
    uint16_t *to; /* [n_slots][n] receiver of the sender's token, n = none */
};

static uint64_t traffic(const struct aurora *a, uint32_t gpu) {
    uint64_t out = 0, in = 0;
    for (uint32_t k = 0; k < a->n; k++) {
        out += a->tokens[(size_t)gpu * a->n + k];
        in += a->tokens[(size_t)k * a->n + gpu];
    }
    return out > in ? out : in;
}

static void put(struct aurora *a, uint32_t slot, uint32_t src, uint32_t dst) {
    a->free_send[(size_t)src * a->n_words + slot / 64] &= ~(UINT64_C(1) << slot % 64);
    a->free_receive[(size_t)dst * a->n_words + slot / 64] &= ~(UINT64_C(1) << slot % 64);
    a->to[(size_t)slot * a->n + src] = (uint16_t)dst;
    a->tokens[(size_t)src * a->n + dst]--;
}

static uint32_t first_slot(const struct aurora *a, uint32_t src, uint32_t dst) {
    const uint64_t *s = a->free_send + (size_t)src * a->n_words, *r = a->free_receive + (size_t)dst * a->n_words;
    uint32_t w = 0;
    while ((s[w] & r[w]) == 0) /* twice the busiest port's tokens are room enough */
        w++;
    return w * 64 + (uint32_t)__builtin_ctzll(s[w] & r[w]);
}

/* The tokens one GPU sends (or receives), in random order. */
static void arrange(struct aurora *a, uint32_t gpu, bool is_sender, struct mp_rng *rng, uint32_t *peers) {
    uint32_t count = 0;
    for (uint32_t k = 0; k < a->n; k++)
        for (uint32_t t = a->tokens[is_sender ? (size_t)gpu * a->n + k : (size_t)k * a->n + gpu]; t > 0; t--)
            peers[count++] = k;
    mp_rng_shuffle(rng, peers, count);
    for (uint32_t t = 0; t < count; t++) {
        uint32_t src = is_sender ? gpu : peers[t], dst = is_sender ? peers[t] : gpu;
        put(a, first_slot(a, src, dst), src, dst);
    }
}

struct busy_gpu {
    uint64_t traffic;
    uint32_t gpu;
};
static int by_falling_traffic(const void *a, const void *b) {
    const struct busy_gpu *x = a, *y = b;
    return x->traffic != y->traffic ? (x->traffic < y->traffic ? 1 : -1) : (x->gpu > y->gpu) - (x->gpu < y->gpu);
}

/* Tokens, and room for slots: twice the busiest port's. */
static bool prepare(struct aurora *a, const uint64_t *matrix, uint64_t slots_wanted, struct mp_arena *scratch) {
    const size_t n = a->n;
    uint64_t most = 0, most_tokens = 0;
    for (size_t i = 0; i < n; i++)
        for (int side = 0; side < 2; side++) {
            uint64_t bytes = 0;
            for (size_t j = 0; j < n; j++)
                if (i != j && mp_add_overflow(bytes, matrix[side ? j * n + i : i * n + j], &bytes))
                    bytes = UINT64_MAX;
            most = bytes > most ? bytes : most;
        }
    slots_wanted = slots_wanted * n <= MOST_SLOTS_OF_ALL ? slots_wanted : MOST_SLOTS_OF_ALL / n;
    a->quantum = most == 0 ? 1 : mp_ceil_div(most, slots_wanted);
    a->tokens = mp_arena_alloc(scratch, n * n, sizeof *a->tokens);
    if (a->tokens == NULL)
        return false;
    for (size_t p = 0; p < n * n; p++)
        a->tokens[p] = p / n == p % n ? 0 : (uint32_t)mp_ceil_div(matrix[p], a->quantum);
    for (uint32_t i = 0; i < n; i++)
        most_tokens = traffic(a, i) > most_tokens ? traffic(a, i) : most_tokens;
    a->n_slots = (uint32_t)(2 * most_tokens + 1);
    a->n_words = (a->n_slots + 63) / 64;
    a->free_send = mp_arena_alloc(scratch, 2 * n * a->n_words, sizeof *a->free_send);
    a->to = mp_arena_alloc(scratch, n * a->n_slots, sizeof *a->to);
    if (a->free_send == NULL || a->to == NULL)
        return false;
    a->free_receive = a->free_send + n * a->n_words;
    memset(a->free_send, 0xff, 2 * n * a->n_words * sizeof *a->free_send);
    for (size_t k = 0; k < n * a->n_slots; k++)
        a->to[k] = (uint16_t)n;
    return true;
}

static enum mp_status write_stages(const struct aurora *a, const uint64_t *matrix, uint64_t *left,
                                   struct mp_schedule *out, struct mp_error *err) {
    const size_t n = a->n;
    enum mp_status status = MP_OK;
    memcpy(left, matrix, n * n * sizeof *left);
    for (uint32_t slot = 0, end; slot < a->n_slots; slot = end) {
        const uint16_t *to = a->to + slot * n;
        for (end = slot + 1; end < a->n_slots && memcmp(to, a->to + end * n, n * sizeof *to) == 0; end++)
            ;
        MP_TRY(mp_schedule_stage(out, err));
        for (uint32_t i = 0; i < n; i++) {
            if (to[i] == n)
                continue;
            uint64_t *bytes = &left[i * n + to[i]], most, taken;
            taken = __builtin_mul_overflow(a->quantum, (uint64_t)(end - slot), &most) || most > *bytes ? *bytes : most;
            *bytes -= taken;
            MP_TRY(mp_schedule_add(out, i, to[i], 1, taken, err));
        }
    }
out:
    return status;
}

static enum mp_status order(const struct mp_order_problem *in, struct mp_arena *scratch, struct mp_schedule *out,
                            enum mp_outcome *outcome, struct mp_error *err) {
    const uint32_t n = out->n;
    struct aurora a = {.n = n};
    struct mp_rng rng = mp_rng_seed(in->seed);
    *outcome = MP_FOUND;
    struct busy_gpu *gpus = mp_arena_alloc(scratch, n, sizeof *gpus);
    uint64_t *left = mp_arena_alloc(scratch, (size_t)n * n, sizeof *left);
    if (gpus == NULL || left == NULL || !prepare(&a, in->matrix, (uint64_t)in->option_values[0] * n, scratch))
        return mp_nomem(err, "ordering transfers");
    uint32_t *peers = mp_arena_alloc(scratch, a.n_slots, sizeof *peers);
    if (peers == NULL)
        return mp_nomem(err, "ordering transfers");
    for (uint32_t i = 0; i < n; i++)
        gpus[i] = (struct busy_gpu){traffic(&a, i), i};
    qsort(gpus, n, sizeof *gpus, by_falling_traffic);
    for (uint32_t k = 0; k < n; k++) {
        if (k == 1) { /* the busiest GPU's traffic is gone */
            for (uint32_t i = 1; i < n; i++)
                gpus[i].traffic = traffic(&a, gpus[i].gpu);
            qsort(gpus + 1, n - 1, sizeof *gpus, by_falling_traffic);
        }
        arrange(&a, gpus[k].gpu, true, &rng, peers);
        arrange(&a, gpus[k].gpu, false, &rng, peers);
    }
    return write_stages(&a, in->matrix, left, out, err);
}

const struct mp_strategy mp_strategy_order_aurora = {.name = "aurora",
                                                     .summary = "tokens into greedy time slots, busiest GPU first",
                                                     .reference = "Aurora, arXiv 2410.17043, Algorithm 1",
                                                     .stage = MP_PLAN_ORDER,
                                                     .options = options,
                                                     .order = order};
