/* Homes by weighted matching where what a GPU takes is tokens, not sequences.
 *
 * Decides   the next home of every sequence, lengths being unlike and every GPU having room for so many tokens.
 * Maximises bytes that need not travel between nodes, then bytes that need not inside them.
 * Method    from homes that fit, and from a greedy start by regret: the best move or exchange of two sequences,
 * sequence by sequence, until none gains. The better of the two.
 * Bound     prices of a token on each GPU by subgradient; with them no homes within the limits are worth more. It is a
 *           knapsack for every GPU, so unlike two_stage.c nothing promises that the bound is met.
 * Differs   NetMoE and Luffy have equal lengths.
 * Cost      O(n^2 + n m) for each round over the sequences, few rounds; O(n m) for each of 60 steps of the prices. */
#include "rehome_private.h"
#include <moeplan/base.h>
#include <string.h>

#define ROUNDS 40u
#define PRICE_STEPS 60u

struct moving {
    const struct mp_rehome_problem *in;
    const int64_t *worth; /* [n][m] */
    uint32_t *bin;        /* [n] */
    uint64_t *load;       /* [m] */
};

static bool has_room(const struct moving *x, uint32_t b, uint64_t more, uint64_t less) {
    return x->load[b] + more - less <= x->in->most_tokens[b];
}

static void place(struct moving *x, uint32_t i, uint32_t b) {
    x->load[x->bin[i]] -= x->in->length[i];
    x->load[b] += x->in->length[i];
    x->bin[i] = b;
}

/* The best thing to do with sequence i, done; false = none gains. */
static bool improve(struct moving *x, uint32_t i) {
    const struct mp_rehome_problem *in = x->in;
    const uint32_t m = in->n_gpus, a = x->bin[i], own = in->length[i];
    const int64_t *worth = x->worth + (size_t)i * m;
    int64_t best = 0;
    uint32_t to = MP_NONE, with = MP_NONE;
    for (uint32_t b = 0; b < m; b++)
        if (worth[b] - worth[a] > best && has_room(x, b, own, 0)) {
            best = worth[b] - worth[a];
            to = b;
        }
    for (uint32_t j = 0; j < in->n; j++) {
        const uint32_t b = x->bin[j], other = in->length[j];
        const int64_t gain = worth[b] - worth[a] + x->worth[(size_t)j * m + a] - x->worth[(size_t)j * m + b];
        if (gain > best && has_room(x, b, own, other) && has_room(x, a, other, own)) {
            best = gain;
            to = b;
            with = j;
        }
    }
    if (to == MP_NONE)
        return false;
    place(x, i, to);
    if (with != MP_NONE)
        place(x, with, a);
    return true;
}

static int64_t climb(struct moving *x) {
    int64_t sum = 0;
    bool is_done = false;
    for (uint32_t round = 0; round < ROUNDS && !is_done; round++) {
        is_done = true;
        for (uint32_t i = 0; i < x->in->n; i++)
            is_done = !improve(x, i) && is_done;
    }
    for (uint32_t i = 0; i < x->in->n; i++)
        sum += x->worth[(size_t)i * x->in->n_gpus + x->bin[i]];
    return sum;
}

/* The sequence that would lose most by its second choice first, each to the best GPU with room. */
static bool greedy(struct moving *x, int64_t *regret, bool *is_placed) {
    const struct mp_rehome_problem *in = x->in;
    const uint32_t m = in->n_gpus;
    memset(x->load, 0, m * sizeof *x->load);
    for (uint32_t i = 0; i < in->n; i++) {
        int64_t first = INT64_MIN, second = INT64_MIN;
        for (uint32_t b = 0; b < m; b++) {
            const int64_t own = x->worth[(size_t)i * m + b];
            second = own > first ? first : own > second ? own : second;
            first = own > first ? own : first;
        }
        regret[i] = m < 2 ? 0 : (first - second) / (int64_t)(in->length[i] > 0 ? in->length[i] : 1);
        is_placed[i] = false;
    }
    for (uint32_t k = 0; k < in->n; k++) {
        uint32_t i = MP_NONE, best = MP_NONE;
        for (uint32_t j = 0; j < in->n; j++)
            if (!is_placed[j] && (i == MP_NONE || regret[j] > regret[i]))
                i = j;
        for (uint32_t b = 0; b < m; b++)
            if (has_room(x, b, in->length[i], 0) &&
                (best == MP_NONE || x->worth[(size_t)i * m + b] > x->worth[(size_t)i * m + best]))
                best = b;
        if (best == MP_NONE)
            return false;
        is_placed[i] = true;
        x->bin[i] = best;
        x->load[best] += in->length[i];
    }
    return true;
}

/* No homes within the limits are worth more than this. */
static __int128 bound_at(const struct moving *x, const int64_t *price, int64_t *taken) {
    const struct mp_rehome_problem *in = x->in;
    const uint32_t m = in->n_gpus;
    __int128 sum = 0;
    memset(taken, 0, m * sizeof *taken);
    for (uint32_t b = 0; b < m; b++)
        sum += (__int128)price[b] * (__int128)in->most_tokens[b];
    for (uint32_t i = 0; i < in->n; i++) {
        uint32_t best = 0;
        __int128 most = 0;
        for (uint32_t b = 0; b < m; b++) {
            const __int128 own = x->worth[(size_t)i * m + b] - (__int128)price[b] * in->length[i];
            if (b == 0 || own > most) {
                most = own;
                best = b;
            }
        }
        taken[best] += in->length[i];
        sum += most;
    }
    return sum;
}

static __int128 least_bound(const struct moving *x, int64_t reached, int64_t *price, int64_t *taken) {
    const uint32_t m = x->in->n_gpus;
    __int128 least = 0;
    for (uint32_t k = 0; k < PRICE_STEPS; k++) {
        const __int128 here = bound_at(x, price, taken);
        double square = 0;
        least = k == 0 || here < least ? here : least;
        for (uint32_t b = 0; b < m; b++) {
            const double over = (double)taken[b] - (double)x->in->most_tokens[b];
            square += over * over;
        }
        if (square < 1 || here <= reached)
            break;
        const double step = 1.5 / (1 + 0.1 * k) * (double)(here - reached) / square;
        for (uint32_t b = 0; b < m; b++) {
            const double next = (double)price[b] + step * ((double)taken[b] - (double)x->in->most_tokens[b]);
            price[b] = next < 0 ? 0 : next > 1e17 ? (int64_t)1e17 : (int64_t)next;
        }
    }
    return least;
}

enum mp_status by_tokens(uint32_t *home, uint64_t *bound, const struct mp_rehome_problem *in, struct mp_arena *scratch,
                         struct mp_error *err) {
    const uint32_t n = in->n, m = in->n_gpus;
    const int64_t *worth;
    int64_t steps;
    enum mp_status status = worth_of_gpus(&worth, &steps, in, scratch, err);
    if (status != MP_OK)
        return status;
    uint32_t *other = mp_arena_alloc(scratch, (size_t)n + 1, sizeof *other);
    uint64_t *load = mp_arena_alloc(scratch, m, sizeof *load);
    int64_t *regret = mp_arena_alloc(scratch, (size_t)n + 1, sizeof *regret);
    bool *is_placed = mp_arena_alloc(scratch, (size_t)n + 1, sizeof *is_placed);
    int64_t *price = mp_arena_alloc(scratch, m, sizeof *price), *taken = mp_arena_alloc(scratch, m, sizeof *taken);
    if (other == NULL || load == NULL || regret == NULL || is_placed == NULL || price == NULL || taken == NULL)
        return mp_nomem(err, "sequences by tokens");
    struct moving x = {.in = in, .worth = worth, .bin = home, .load = load};
    for (uint32_t i = 0; i < n; i++) {
        home[i] = in->start[i];
        load[home[i]] += in->length[i];
    }
    int64_t reached = climb(&x);
    x.bin = other;
    if (greedy(&x, regret, is_placed)) {
        const int64_t sum = climb(&x);
        if (sum > reached)
            memcpy(home, other, n * sizeof *home);
        reached = sum > reached ? sum : reached;
    }
    const __int128 least = least_bound(&x, reached, price, taken);
    *bound = (uint64_t)(least / (steps == 0 ? 1 : steps));
    return MP_OK;
}
