/* The least peaks of what is left to place, for every state of a search over few GPUs.
 *
 * Decides   nothing: bounds for branch and bound.
 * Minimises each peak by itself (busiest port of both dispatches, largest gate of a model, ...).
 * Method    dynamic program from the last GPU to the first over the sets of groups placed: the least over the pairs of
 *           the next GPU of max(what the pair costs there, what is left then). Peaks of one model need its set only.
 * Bound     exact for each peak; peaks together are only bounded, since one way to place must serve them all.
 * Paper     Held and Karp, J. SIAM 10(1), 1962, for the dynamic program over sets.
 * Cost      sum over d of C(n, d)^2 (n - d)^2 steps: 0.3 million for n = 8, 5 million for n = 10; 2^n n for the peaks
 *           of one model, which is all that is done for n above 10. */
#include "coloc_states.h"
#include <string.h>

enum { OF_ONE = 6, OF_BOTH = 4 };

struct mp_coloc_states {
    uint32_t n;
    const uint32_t *rank;                     /* [2^n] of a set among those of its size */
    uint32_t choose[MP_COLOC_PAIRS_GPUS + 1]; /* sets of each size */
    size_t first[MP_COLOC_PAIRS_GPUS + 1];    /* of the states of each size */
    uint64_t (*one[2])[OF_ONE];               /* [2^n] gate, experts, aggregate, between, dispatch, combine */
    uint64_t (*both)[OF_BOTH];                /* [states] dispatch, combine, port, compute */
};

static uint64_t more(uint64_t a, uint64_t b) { return a > b ? a : b; }
static uint64_t less(uint64_t a, uint64_t b) { return a < b ? a : b; }

static void one_model(const struct mp_coloc_states *s, const struct mp_coloc_groups *g, const uint32_t *order, int m) {
    const uint32_t n = s->n, full = (1u << n) - 1;
    uint64_t(*least)[OF_ONE] = s->one[m];
    for (uint32_t set = full; set-- > 0;) {
        const uint32_t gpu = order[__builtin_popcount(set)];
        for (int k = 0; k < OF_ONE; k++)
            least[set][k] = UINT64_MAX;
        for (uint32_t i = 0; i < n; i++) {
            if (set >> i & 1)
                continue;
            const size_t at = (size_t)i * n + gpu;
            const uint64_t here[OF_ONE] = {g->gate[m][at],
                                           g->experts[m][at],
                                           g->aggregate[m][at],
                                           g->gate[m][at] + g->aggregate[m][at],
                                           more(g->dispatch[m][0][at], g->dispatch[m][1][at]),
                                           more(g->combine[m][0][at], g->combine[m][1][at])};
            for (int k = 0; k < OF_ONE; k++)
                least[set][k] = less(least[set][k], more(here[k], least[set | 1u << i][k]));
        }
    }
}

/* here[i * n + j]: the pair on this GPU. */
static void pairs_on(const struct mp_coloc_groups *g, uint32_t gpu, uint64_t (*here)[OF_BOTH]) {
    const uint32_t n = g->n;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++) {
            struct mp_coloc_peaks k = {.port = 0};
            mp_coloc_peaks_add(&k, g, i, j, gpu);
            here[i * n + j][0] = k.both_dispatch;
            here[i * n + j][1] = k.both_combine;
            here[i * n + j][2] = k.port;
            here[i * n + j][3] = k.compute;
        }
}

static void both_models(struct mp_coloc_states *s, const struct mp_coloc_groups *g, const uint32_t *order,
                        uint64_t (*here)[OF_BOTH]) {
    const uint32_t n = s->n, n_sets = 1u << n;
    for (uint32_t d = n; d-- > 0;) {
        pairs_on(g, order[d], here);
        for (uint32_t a = 0; a < n_sets; a++) {
            if ((uint32_t)__builtin_popcount(a) != d)
                continue;
            for (uint32_t b = 0; b < n_sets; b++) {
                if ((uint32_t)__builtin_popcount(b) != d)
                    continue;
                uint64_t least[OF_BOTH] = {UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX};
                for (uint32_t i = 0; i < n; i++) {
                    if (a >> i & 1)
                        continue;
                    const size_t row = s->first[d + 1] + (size_t)s->rank[a | 1u << i] * s->choose[d + 1];
                    for (uint32_t j = 0; j < n; j++) {
                        if (b >> j & 1)
                            continue;
                        const uint64_t *then = s->both[row + s->rank[b | 1u << j]];
                        for (int k = 0; k < OF_BOTH; k++)
                            least[k] = less(least[k], more(here[i * n + j][k], then[k]));
                    }
                }
                memcpy(s->both[s->first[d] + (size_t)s->rank[a] * s->choose[d] + s->rank[b]], least, sizeof least);
            }
        }
    }
}

static enum mp_status pairs_new(struct mp_coloc_states *s, const struct mp_coloc_groups *g, const uint32_t *order,
                                struct mp_arena *arena, struct mp_error *err) {
    const uint32_t n = s->n, n_sets = 1u << n;
    uint32_t *rank = mp_arena_alloc(arena, n_sets, sizeof *rank);
    uint64_t(*here)[OF_BOTH] = mp_arena_alloc(arena, (size_t)n * n, sizeof *here);
    size_t n_states = 0;
    if (rank == NULL || here == NULL)
        return mp_nomem(err, "branch and bound");
    s->rank = rank;
    for (uint32_t set = 0; set < n_sets; set++)
        rank[set] = s->choose[__builtin_popcount(set)]++;
    for (uint32_t d = 0; d <= n; d++) {
        s->first[d] = n_states;
        n_states += (size_t)s->choose[d] * s->choose[d];
    }
    s->both = mp_arena_alloc(arena, n_states, sizeof *s->both);
    if (s->both == NULL)
        return mp_nomem(err, "branch and bound");
    both_models(s, g, order, here);
    return MP_OK;
}

enum mp_status mp_coloc_states_new(struct mp_coloc_states **out, const struct mp_coloc_groups *g, const uint32_t *order,
                                   struct mp_arena *arena, struct mp_error *err) {
    struct mp_coloc_states *s = mp_arena_alloc(arena, 1, sizeof *s);
    *out = NULL;
    if (s == NULL)
        return mp_nomem(err, "branch and bound");
    s->n = g->n;
    for (int m = 0; m < 2; m++) {
        s->one[m] = mp_arena_alloc(arena, (size_t)1 << s->n, sizeof *s->one[m]);
        if (s->one[m] == NULL)
            return mp_nomem(err, "branch and bound");
        one_model(s, g, order, m);
    }
    if (s->n <= MP_COLOC_PAIRS_GPUS) {
        enum mp_status status = pairs_new(s, g, order, arena, err);
        if (status != MP_OK)
            return status;
    }
    *out = s;
    return MP_OK;
}

void mp_coloc_states_raise(const struct mp_coloc_states *s, const uint32_t mask[2], struct mp_coloc_peaks *k) {
    for (int m = 0; m < 2; m++) {
        const uint64_t *one = s->one[m][mask[m]];
        k->gate[m] = more(k->gate[m], one[0]);
        k->experts[m] = more(k->experts[m], one[1]);
        k->aggregate[m] = more(k->aggregate[m], one[2]);
        k->between[m] = more(k->between[m], one[3]);
        k->dispatch[m] = more(k->dispatch[m], one[4]);
        k->combine[m] = more(k->combine[m], one[5]);
    }
    if (s->both == NULL)
        return;
    const uint32_t d = (uint32_t)__builtin_popcount(mask[0]);
    const uint64_t *both = s->both[s->first[d] + (size_t)s->rank[mask[0]] * s->choose[d] + s->rank[mask[1]]];
    k->both_dispatch = more(k->both_dispatch, both[0]);
    k->both_combine = more(k->both_combine, both[1]);
    k->port = more(k->port, both[2]);
    k->compute = more(k->compute, both[3]);
}
