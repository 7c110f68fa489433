/* Luffy's sequence migration (arXiv 2411.15419, Algorithm 1).
 *
 * Decides   the next home of every sequence.
 * Minimises growth of attention time among the q GPUs where fewest outputs are remote.
 * Method    longest sequences first (the paper leaves the order open); of a sequence's q GPUs with least traffic, those
 *           with room, the one whose attention grows least; equal growth: least traffic. All q full: the next in order
 *           of traffic that has room.
 * Bound     none.
 * Differs   the printed line 6 takes the largest growth where the prose says the smallest; by_most does that. Capacity
 *           is the number of sequences a GPU takes, or of tokens; tokens that fit nowhere go where fewest are. Where
 * several have equal traffic, the home it has comes first.
 * Cost      O(n m log m + n q). */
#include "rehome_private.h"
#include <moeplan/base.h>
#include <stdlib.h>

struct candidate {
    uint32_t outputs, gpu;
    bool is_home;
};
static int by_traffic(const void *a, const void *b) {
    const struct candidate *x = a, *y = b;
    if (x->outputs != y->outputs)
        return x->outputs > y->outputs ? -1 : 1;
    if (x->is_home != y->is_home)
        return x->is_home ? -1 : 1;
    return (x->gpu > y->gpu) - (x->gpu < y->gpu);
}
struct sequence {
    uint32_t length, i;
};
static int by_length(const void *a, const void *b) {
    const struct sequence *x = a, *y = b;
    if (x->length != y->length)
        return x->length > y->length ? -1 : 1;
    return (x->i > y->i) - (x->i < y->i);
}

struct on_gpu {
    uint64_t tokens;
    uint32_t n, longest;
};

static bool takes(const struct mp_rehome_problem *in, const struct on_gpu *x, uint32_t g, uint32_t length) {
    return in->most_tokens != NULL ? x->tokens + length <= in->most_tokens[g] : x->n < in->most[g];
}

static uint64_t growth(const struct mp_rehome_problem *in, uint32_t g, const struct on_gpu *x, uint32_t length) {
    const uint32_t n = x->n, longest = x->longest;
    if (in->most_tokens != NULL)
        return mp_attention_ns(in->topology, g, in->model, x->tokens + length) -
               mp_attention_ns(in->topology, g, in->model, x->tokens);
    return mp_sequences_attention_ns(in->topology, g, in->model, (uint64_t)n + 1, length > longest ? length : longest) -
           mp_sequences_attention_ns(in->topology, g, in->model, n, longest);
}

enum mp_status algorithm1(uint32_t *home, const struct mp_rehome_problem *in, bool by_most, struct mp_arena *scratch,
                          struct mp_error *err) {
    const uint32_t m = in->n_gpus, q = in->n_candidates < m ? in->n_candidates : m;
    struct sequence *order = mp_arena_alloc(scratch, (size_t)in->n + 1, sizeof *order);
    struct candidate *list = mp_arena_alloc(scratch, m, sizeof *list);
    struct on_gpu *on = mp_arena_alloc(scratch, m, sizeof *on);
    if (order == NULL || list == NULL || on == NULL)
        return mp_nomem(err, "sequences by length");
    for (uint32_t i = 0; i < in->n; i++)
        order[i] = (struct sequence){in->length[i], i};
    qsort(order, in->n, sizeof *order, by_length);
    for (uint32_t k = 0; k < in->n; k++) {
        const uint32_t i = order[k].i, length = order[k].length;
        uint32_t best = MP_NONE;
        uint64_t best_ns = 0;
        for (uint32_t g = 0; g < m; g++)
            list[g] = (struct candidate){in->outputs[(size_t)i * m + g], g, g == in->home[i]};
        qsort(list, m, sizeof *list, by_traffic);
        for (uint32_t c = 0; c < m && (c < q || best == MP_NONE); c++) {
            const uint32_t g = list[c].gpu;
            if (!takes(in, &on[g], g, length))
                continue;
            const uint64_t ns = growth(in, g, &on[g], length);
            if (best == MP_NONE || (by_most ? ns > best_ns : ns < best_ns)) {
                best = g;
                best_ns = ns;
            }
        }
        if (best == MP_NONE && in->most_tokens != NULL) { /* what is left nowhere is enough: where least is */
            best = 0;
            for (uint32_t g = 1; g < m; g++)
                best = on[g].tokens < on[best].tokens ? g : best;
        }
        if (best == MP_NONE)
            return mp_fail(err, MP_EBUG, "no GPU has room for sequence %u of %u", i, in->n);
        home[i] = best;
        on[best].n++;
        on[best].tokens += length;
        on[best].longest = length > on[best].longest ? length : on[best].longest;
    }
    return MP_OK;
}
