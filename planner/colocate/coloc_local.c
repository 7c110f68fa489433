/* Local search over who shares a GPU and which GPU it is.
 *
 * Decides   the GPU of each group of both models.
 * Minimises the problem's objective; among equals the sum of squares of what GPUs and ports have to do.
 * Method    starts: Aurora's decoupled heuristic, its bottleneck and its sorted pairing with sorted GPUs, then random
 *           ones. From each, swaps of two GPUs' groups of one model, of the other, of both, as long as one helps; then
 *           kicks (three random swaps) from the best, kept when not worse.
 * Bound     no single swap improves what comes out, unless the work limit struck.
 * Paper     arXiv 2410.17043 section 7.2 has the first start only.
 * Cost      work_limit evaluations of O(layers * n), O(n^2) where what a group costs depends on where the others are.
 */
#include "coloc.h"
#include <moeplan/base.h>
#include <string.h>

#define RANDOM_STARTS 4u

typedef unsigned __int128 u128;

struct state {
    struct mp_coloc_groups *g;
    uint32_t *on[2], *best[2];
    uint64_t value, best_value, work, work_limit;
    u128 spread, best_spread;
    struct mp_rng rng;
};

/* What GPUs and ports do, squared: tells apart assignments whose largest are equal. */
static u128 spread_of(const struct mp_coloc_groups *g, uint32_t *const on[2]) {
    u128 sum = 0;
    for (uint32_t x = 0; x < g->n; x++) {
        const size_t a = (size_t)on[0][x] * g->n + x, b = (size_t)on[1][x] * g->n + x;
        for (int side = 0; side < 2; side++) {
            const u128 ns =
                g->dispatch[0][side][a] + g->dispatch[1][side][b] + g->combine[0][side][a] + g->combine[1][side][b];
            sum += ns * ns;
        }
        const u128 ns = g->experts[0][a] + g->experts[1][b];
        sum += ns * ns;
    }
    return sum;
}

/* The value where it is below the limit. */
static enum mp_status look(struct state *s, uint64_t limit, uint64_t *value, u128 *spread, struct mp_error *err) {
    s->work++;
    *spread = spread_of(s->g, s->on);
    return mp_coloc_value(s->g, s->on, limit, value, NULL, err);
}

static void swap(uint32_t *on, uint32_t x, uint32_t y) {
    uint32_t was = on[x];
    on[x] = on[y];
    on[y] = was;
}

static void put_back(struct state *s, uint32_t which, uint32_t x, uint32_t y) {
    for (uint32_t m = 0; m < 2; m++)
        if (which & (1u << m))
            swap(s->on[m], x, y);
}

static bool fits_everywhere(const struct state *s) {
    for (uint32_t x = 0; x < s->g->n; x++)
        if (!mp_coloc_fits(s->g, s->on, x, x))
            return false;
    return true;
}

static enum mp_status descend(struct state *s, struct mp_error *err) {
    const uint32_t n = s->g->n;
    uint32_t since = 0; /* moves tried since one helped */
    enum mp_status status = look(s, UINT64_MAX, &s->value, &s->spread, err);
    const uint32_t n_moves = 3 * (n * (n - 1) / 2);
    while (status == MP_OK && since < n_moves) {
        for (uint32_t x = 1; x < n && since < n_moves; x++)
            for (uint32_t y = 0; y < x && since < n_moves; y++)
                for (uint32_t which = 1; which <= 3 && since < n_moves; which++) {
                    uint64_t value;
                    u128 spread;
                    if (s->work >= s->work_limit)
                        return MP_OK;
                    if (which & 1)
                        swap(s->on[0], x, y);
                    if (which & 2)
                        swap(s->on[1], x, y);
                    if (!mp_coloc_fits(s->g, s->on, x, y)) {
                        since++;
                        put_back(s, which, x, y);
                        continue;
                    }
                    status = look(s, s->value + 1, &value, &spread, err);
                    if (status != MP_OK)
                        return status;
                    since++;
                    if (value < s->value || (value == s->value && spread < s->spread)) {
                        s->value = value;
                        s->spread = spread;
                        since = 0;
                        continue;
                    }
                    put_back(s, which, x, y);
                }
    }
    return status;
}

static void keep(struct state *s) {
    if (s->value > s->best_value || (s->value == s->best_value && s->spread > s->best_spread))
        return;
    s->best_value = s->value;
    s->best_spread = s->spread;
    for (int m = 0; m < 2; m++)
        memcpy(s->best[m], s->on[m], s->g->n * sizeof *s->on[m]);
}

static void random_start(struct state *s) {
    for (int m = 0; m < 2; m++) {
        for (uint32_t x = 0; x < s->g->n; x++)
            s->on[m][x] = x;
        mp_rng_shuffle(&s->rng, s->on[m], s->g->n);
    }
}

enum mp_status mp_coloc_improve(struct mp_coloc_groups *g, uint32_t *const on[2], uint64_t work_limit, uint64_t *value,
                                uint64_t *work_used, struct mp_error *err) {
    const uint32_t n = g->n;
    enum mp_status status = MP_OK;
    uint32_t *pair = mp_calloc(3 * (size_t)n, sizeof *pair);
    struct state s = {.g = g,
                      .best = {on[0], on[1]},
                      .best_value = UINT64_MAX,
                      .work_limit = work_limit,
                      .rng = mp_rng_seed(g->in->seed)};
    if (pair == NULL)
        return mp_nomem(err, "local search");
    s.on[0] = pair + n;
    s.on[1] = pair + 2 * (size_t)n;
    if (mp_coloc_is_uneven(g)) { /* groups are made for the GPUs of their numbers, so these always fit */
        for (uint32_t x = 0; x < n; x++)
            s.on[0][x] = s.on[1][x] = x;
        MP_TRY(descend(&s, err));
        keep(&s);
    }
    for (uint32_t start = 0; start < 3 + RANDOM_STARTS; start++) {
        if (start < 3) {
            MP_TRY(start == 2 ? mp_coloc_pair_sorted(g, pair, err) : mp_coloc_pair_bottleneck(g, pair, err));
            MP_TRY(start == 0 ? mp_coloc_spread_bottleneck(g, pair, s.on, err)
                              : mp_coloc_spread_sorted(g, pair, s.on, err));
        } else {
            if (s.work >= work_limit)
                break;
            random_start(&s);
        }
        s.work += !fits_everywhere(&s);
        if (!fits_everywhere(&s))
            continue;
        MP_TRY(descend(&s, err));
        keep(&s);
    }
    while (n > 1 && s.work < work_limit) {
        for (int m = 0; m < 2; m++)
            memcpy(s.on[m], s.best[m], n * sizeof *s.on[m]);
        for (int k = 0; k < 3; k++) { /* drawn one by one: compilers differ in which argument they work out first */
            const uint32_t a = (uint32_t)mp_rng_below(&s.rng, n), b = (uint32_t)mp_rng_below(&s.rng, n);
            const uint32_t m = (uint32_t)mp_rng_below(&s.rng, 2);
            swap(s.on[m], a, b);
        }
        if (!fits_everywhere(&s)) {
            s.work++;
            continue;
        }
        MP_TRY(descend(&s, err));
        keep(&s);
    }
    *value = s.best_value;
    *work_used = s.work;
out:
    mp_free(pair);
    return status;
}
