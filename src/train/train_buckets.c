/* Which gradients travel together, and in which order.
 *
 * Decides    the list of buckets: how large those of each kind become, and which goes first of those that are ready.
 * Minimises  the mean training step over the steps given.
 * Method     Descent from a policy: bucket sizes for each kind of its own, lists by rules (as the backward pass makes
 *            them, as the next step needs them, short and long ones first), then one bucket after the other to the
 *            front or the end, as long as that is faster.
 * Differs    from Lina (arXiv 2210.17223), which sends gradients as they come, each layer's alone.
 * Cost       at most 16 + 4 + 96 timelines of each step. */
#include "internal.h"
#include <string.h>

#define MB UINT64_C(1000000)
#define MOST_MOVES 96u
static const uint64_t bucket_bytes[] = {0, 10 * MB, 25 * MB, 100 * MB};
#define N_SIZES ((uint32_t)(sizeof bucket_bytes / sizeof bucket_bytes[0]))

struct search {
    const struct mp_train_step *const *steps;
    uint32_t n_steps, n_most;
    unsigned n_threads;
    struct mp_train_policy *policy; /* the best so far; its list is `best` once one was better */
    struct mp_train_bucket *best, *tried;
    uint64_t *mean_ns;
};

/* The policy with tried[n] in this order; taken over when it is faster. */
static enum mp_status try_list(struct search *s, uint32_t n, enum mp_train_order order, bool *is_better,
                               struct mp_error *err) {
    struct mp_train_policy p = *s->policy;
    struct mp_error why = {0};
    uint64_t ns;
    p.buckets = s->tried;
    p.n_buckets = n;
    p.order = order;
    *is_better = false;
    enum mp_status status = mp_train_mean(&ns, s->steps, s->n_steps, &p, s->n_threads, &why);
    if (status == MP_EUSAGE) /* too many chunks */
        return MP_OK;
    if (status != MP_OK)
        return mp_fail(err, status, "%s", why.message);
    if (ns >= *s->mean_ns)
        return MP_OK;
    memcpy(s->best, s->tried, n * sizeof *s->best);
    *s->policy = p;
    s->policy->buckets = s->best;
    *s->mean_ns = ns;
    *is_better = true;
    return MP_OK;
}

/* tried = common gradients joined by one size, those of experts by another, in the backward pass's order. */
static uint32_t join(struct search *s, const struct mp_train_bucket *const lists[N_SIZES], const uint32_t *n_of,
                     uint32_t common, uint32_t experts) {
    uint32_t i = 0, j = 0, n = 0;
    while (i < n_of[common] || j < n_of[experts]) { /* both lists go from the last layer to the first */
        while (i < n_of[common] && lists[common][i].is_experts)
            i++;
        while (j < n_of[experts] && !lists[experts][j].is_experts)
            j++;
        const bool has_common = i < n_of[common], has_experts = j < n_of[experts];
        if (has_experts && (!has_common || lists[experts][j].first_layer >= lists[common][i].first_layer))
            s->tried[n++] = lists[experts][j++];
        else if (has_common)
            s->tried[n++] = lists[common][i++];
    }
    return n;
}

static enum mp_status try_sizes(struct search *s, struct mp_arena *scratch, struct mp_error *err) {
    const struct mp_train_bucket *lists[N_SIZES];
    uint32_t n_of[N_SIZES], n;
    const enum mp_train_order order = s->policy->order;
    enum mp_status status = MP_OK;
    bool is_better;
    for (uint32_t i = 0; i < N_SIZES && status == MP_OK; i++)
        status = mp_train_buckets(&lists[i], &n_of[i], s->steps[0], bucket_bytes[i], scratch, err);
    for (uint32_t i = 0; i < N_SIZES * N_SIZES && status == MP_OK; i++) {
        n = join(s, lists, n_of, i / N_SIZES, i % N_SIZES);
        if (n > 0)
            status = try_list(s, n, order, &is_better, err);
    }
    return status;
}

/* Is a to stand before b? Ties: as they stand. */
static bool is_before(uint32_t rule, const struct mp_train_bucket *a, const struct mp_train_bucket *b) {
    return rule == 1   ? a->first_layer < b->first_layer
           : rule == 2 ? a->bytes < b->bytes
           : rule == 3 ? a->bytes > b->bytes
                       : false;
}

static enum mp_status try_rules(struct search *s, const struct mp_train_bucket *list, uint32_t n,
                                struct mp_error *err) {
    enum mp_status status = MP_OK;
    bool is_better;
    for (uint32_t rule = 0; rule < 4 && status == MP_OK; rule++) {
        for (uint32_t i = 0; i < n; i++) { /* insertion keeps ties in order */
            uint32_t at = i;
            for (; at > 0 && is_before(rule, &list[i], &s->tried[at - 1]); at--)
                s->tried[at] = s->tried[at - 1];
            s->tried[at] = list[i];
        }
        status = try_list(s, n, MP_TRAIN_LISTED, &is_better, err);
    }
    return status;
}

/* Bucket i of the best list to its front or its end. */
static void move(struct search *s, uint32_t i, bool to_front) {
    const uint32_t n = s->policy->n_buckets;
    memcpy(s->tried, s->best, n * sizeof *s->tried);
    if (to_front) {
        memmove(s->tried + 1, s->best, i * sizeof *s->tried);
        s->tried[0] = s->best[i];
    } else {
        memmove(s->tried + i, s->best + i + 1, (n - i - 1) * sizeof *s->tried);
        s->tried[n - 1] = s->best[i];
    }
}

static enum mp_status try_moves(struct search *s, struct mp_error *err) {
    enum mp_status status = MP_OK;
    const uint32_t n = s->policy->n_buckets;
    uint32_t n_tried = 0;
    for (uint32_t i = 0; i < 2 * n && n_tried < MOST_MOVES && status == MP_OK; i++, n_tried++) {
        bool is_better;
        move(s, i / 2, i % 2 == 0);
        status = try_list(s, n, MP_TRAIN_LISTED, &is_better, err);
    }
    return status;
}

enum mp_status mp_train_search_buckets(struct mp_train_policy *policy, uint64_t *mean_ns,
                                       const struct mp_train_step *const *steps, uint32_t n_steps, unsigned n_threads,
                                       struct mp_arena *arena, struct mp_error *err) {
    if (n_steps == 0)
        return mp_fail(err, MP_EUSAGE, "there is no training step");
    struct search s = {.steps = steps,
                       .n_steps = n_steps,
                       .n_most = (policy->buckets == NULL ? 0 : policy->n_buckets) + 2 * steps[0]->n_layers + 1,
                       .n_threads = n_threads,
                       .policy = policy,
                       .mean_ns = mean_ns};
    struct mp_arena *scratch = mp_arena_new();
    const struct mp_train_bucket *list = NULL;
    uint32_t n = 0;
    s.best = mp_arena_alloc(arena, s.n_most, sizeof *s.best);
    s.tried = scratch == NULL ? NULL : mp_arena_alloc(scratch, s.n_most, sizeof *s.tried);
    enum mp_status status = s.best == NULL || s.tried == NULL ? mp_nomem(err, "the search for buckets") : MP_OK;
    if (status == MP_OK && policy->buckets != NULL) {
        memcpy(s.best, policy->buckets, policy->n_buckets * sizeof *s.best);
        policy->buckets = s.best;
    }
    if (status == MP_OK)
        status = try_sizes(&s, scratch, err);
    if (status == MP_OK && policy->buckets == NULL)
        status = mp_train_buckets(&list, &n, steps[0], policy->bucket_bytes, scratch, err);
    else if (status == MP_OK) {
        struct mp_train_bucket *own = mp_arena_alloc(scratch, s.n_most, sizeof *own);
        n = policy->n_buckets;
        if (own == NULL)
            status = mp_nomem(err, "the search for buckets");
        else
            memcpy(own, policy->buckets, n * sizeof *own);
        list = own;
    }
    if (status == MP_OK && n > 1)
        status = try_rules(&s, list, n, err);
    if (status == MP_OK && policy->order == MP_TRAIN_LISTED)
        status = try_moves(&s, err);
    mp_arena_free(scratch);
    return status;
}
