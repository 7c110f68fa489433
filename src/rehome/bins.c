/* Things into bins of limited room, worth as much as can be.
 *
 * Decides   the bin of every thing.
 * Maximises the sum of what each is worth where it is.
 * Method    all start in their best bin; while a bin is overfull, the chain of moves from an overfull bin to one with
 *           room that loses least is made (successive longest paths). Per pair of bins the best move is kept, so that a
 *           path is one over m bins, not over n things.
 * Bound     exact: prices of the bins, the longest paths into them, prove it (complementary slackness).
 * Differs   NetMoE runs Kuhn-Munkres over sequences and places, O(n^3); here n enters almost linearly.
 * Cost      O(n m + moves * (m^3 + n)) worst case, moves being what is over the bins' room at the start; a path settles
 *           after few rounds, so about moves * m^2. */
#include <moeplan/base.h>
#include <moeplan/rehome.h>
#include <string.h>

#define NEVER (-(INT64_C(1) << 62)) /* worth of a bin that is too small; such moves are never on a path */

struct filling {
    const struct mp_bins *in;
    uint32_t *bin, *next, *previous, *first; /* [n], [n], [n]; [m]: members of a bin, linked */
    uint32_t *load, *from;                   /* [m] */
    int64_t *gain;                           /* [m][m] of the best move; NEVER = none */
    uint32_t *mover;                         /* [m][m] */
    int64_t *reach;                          /* [m] */
    bool *is_open;                           /* [m] has been reached better since it was looked at */
};

static bool fits(const struct mp_bins *in, uint32_t i, uint32_t b) {
    return in->size == NULL || in->size[i] <= in->limit[b];
}

static void consider(struct filling *f, uint32_t a, uint32_t b, uint32_t i) {
    const struct mp_bins *in = f->in;
    int64_t *gain = &f->gain[(size_t)a * in->m + b];
    if (a == b || !fits(in, i, b))
        return;
    const int64_t own = in->worth[(size_t)i * in->m + b] - in->worth[(size_t)i * in->m + a];
    uint32_t *mover = &f->mover[(size_t)a * in->m + b];
    if (own > *gain || (own == *gain && (*mover == MP_NONE || i < *mover))) {
        *gain = own;
        *mover = i;
    }
}

static void put(struct filling *f, uint32_t i, uint32_t b) {
    f->bin[i] = b;
    f->next[i] = f->first[b];
    f->previous[i] = MP_NONE;
    if (f->first[b] != MP_NONE)
        f->previous[f->first[b]] = i;
    f->first[b] = i;
    f->load[b]++;
    for (uint32_t c = 0; c < f->in->m; c++)
        consider(f, b, c, i);
}

static void take(struct filling *f, uint32_t i) {
    const uint32_t a = f->bin[i], m = f->in->m;
    if (f->previous[i] != MP_NONE)
        f->next[f->previous[i]] = f->next[i];
    else
        f->first[a] = f->next[i];
    if (f->next[i] != MP_NONE)
        f->previous[f->next[i]] = f->previous[i];
    f->load[a]--;
    for (uint32_t b = 0; b < m; b++) {
        if (f->mover[(size_t)a * m + b] != i)
            continue;
        f->gain[(size_t)a * m + b] = NEVER;
        f->mover[(size_t)a * m + b] = MP_NONE;
        for (uint32_t j = f->first[a]; j != MP_NONE; j = f->next[j])
            consider(f, a, b, j);
    }
}

/* Longest paths of moves from the bins that are open; there is no cycle that gains. */
static void settle(struct filling *f) {
    const uint32_t m = f->in->m;
    for (bool is_settled = false; !is_settled;) {
        is_settled = true;
        for (uint32_t a = 0; a < m; a++) {
            const int64_t here = f->reach[a], *gain = f->gain + (size_t)a * m;
            if (!f->is_open[a])
                continue;
            f->is_open[a] = false;
            for (uint32_t b = 0; b < m; b++)
                if (here + gain[b] > f->reach[b] && gain[b] > NEVER) {
                    f->reach[b] = here + gain[b];
                    f->from[b] = a;
                    f->is_open[b] = true;
                    is_settled = false;
                }
        }
    }
}

/* The best chain from an overfull bin to one with room; false = there is none. */
static bool relieve(struct filling *f) {
    const uint32_t m = f->in->m;
    uint32_t best = MP_NONE, at[2] = {0, 0};
    for (uint32_t b = 0; b < m; b++) {
        f->reach[b] = f->load[b] > f->in->room[b] ? 0 : NEVER;
        f->from[b] = MP_NONE;
        f->is_open[b] = f->reach[b] == 0;
    }
    settle(f);
    for (uint32_t b = 0; b < m; b++)
        if (f->load[b] < f->in->room[b] && f->reach[b] > NEVER && (best == MP_NONE || f->reach[b] > f->reach[best]))
            best = b;
    if (best == MP_NONE)
        return false;
    /* From behind: a move changes the best moves out of its two bins, but not those before it on the path. */
    for (at[1] = best; f->from[at[1]] != MP_NONE; at[1] = at[0]) {
        at[0] = f->from[at[1]];
        const uint32_t i = f->mover[(size_t)at[0] * m + at[1]];
        take(f, i);
        put(f, i, at[1]);
    }
    return true;
}

enum mp_status mp_bins_fill(uint32_t *bin, int64_t *price, const struct mp_bins *in, struct mp_arena *scratch,
                            struct mp_error *err) {
    const uint32_t n = in->n, m = in->m;
    struct filling f = {.in = in, .bin = bin};
    f.next = mp_arena_alloc(scratch, (size_t)n + 1, sizeof *f.next);
    f.previous = mp_arena_alloc(scratch, (size_t)n + 1, sizeof *f.previous);
    f.first = mp_arena_alloc(scratch, m, sizeof *f.first);
    f.load = mp_arena_alloc(scratch, m, sizeof *f.load);
    f.from = mp_arena_alloc(scratch, m, sizeof *f.from);
    f.gain = mp_arena_alloc(scratch, (size_t)m * m, sizeof *f.gain);
    f.mover = mp_arena_alloc(scratch, (size_t)m * m, sizeof *f.mover);
    f.reach = price;
    f.is_open = mp_arena_alloc(scratch, m, sizeof *f.is_open);
    if (f.next == NULL || f.previous == NULL || f.first == NULL || f.load == NULL || f.from == NULL || f.gain == NULL ||
        f.mover == NULL || f.is_open == NULL)
        return mp_nomem(err, "things in bins");
    for (uint32_t b = 0; b < m; b++)
        f.first[b] = MP_NONE;
    for (size_t c = 0; c < (size_t)m * m; c++) {
        f.gain[c] = NEVER;
        f.mover[c] = MP_NONE;
    }
    for (uint32_t i = n; i-- > 0;) {
        uint32_t best = MP_NONE;
        for (uint32_t b = 0; b < m; b++)
            if (fits(in, i, b) && (best == MP_NONE || in->worth[(size_t)i * m + b] > in->worth[(size_t)i * m + best]))
                best = b;
        if (best == MP_NONE)
            return mp_fail(err, MP_EUSAGE, "thing %u fits no bin", i);
        put(&f, i, best);
    }
    for (uint32_t b = 0; b < m; b++)
        while (f.load[b] > in->room[b])
            if (!relieve(&f))
                return mp_fail(err, MP_EUSAGE, "%u things do not fit the bins", n);
    for (uint32_t b = 0; b < m; b++) {
        price[b] = 0;
        f.is_open[b] = true;
    }
    settle(&f);
    return MP_OK;
}
