/* Exact replication and placement on total load.
 *
 * Decides   how many replicas each expert gets (at most 8) and which GPU holds each.
 * Minimises the largest sum over a GPU's slots of load / replicas, in whole 840ths.
 * Method    branch and bound of our own. Replica counts first, heaviest expert first; a vector of counts is packed by
 *           branch and bound too, heaviest copy first, asking only for something better than the best so far.
 *           Equal experts get counts that do not rise; GPUs that hold equally much, have equally many slots left and
 *           lack the expert are one choice; copies of an expert go to rising GPUs. The first solution is heaviest
 *           first with EPLB's counts.
 * Bound     mean load; the heaviest copy; of the q * m + 1 heaviest copies on m GPUs some GPU gets q + 1 (pairing); a
 *           copy on a GPU that must fill more slots comes with the lightest that are left; room below the best so far
 *           must hold what is left.
 * Differs   a direct assignment model (a binary for each expert, GPU and count) is not proven by GLPK in 120 s where
 *           this takes milliseconds: docs/STRATEGIES.md.
 * Cost      exponential; node_limit packing nodes. */
#include "exact_load.h"
#include <moeplan/base.h>
#include <stdlib.h>
#include <string.h>

#define COPIES_MAX (MP_EXACT_LOAD_EXPERTS * MP_EXACT_LOAD_REPLICAS)

struct copy {
    uint64_t weight;
    uint32_t expert, index; /* of the replica */
};

struct search {
    const struct mp_exact_load *in;
    struct mp_exact_load_answer *out;
    uint32_t order[MP_EXACT_LOAD_EXPERTS]; /* heaviest first */
    uint64_t total, floor;                 /* in 840ths; floor: the bound before any branching */
    uint32_t n_slots, replicas_max;
    bool is_found, is_stopped;
    uint64_t best; /* value of *out; UINT64_MAX = none */
    /* counts being tried, and the packing of their copies */
    uint32_t count[MP_EXACT_LOAD_EXPERTS];
    struct copy copies[COPIES_MAX];
    uint64_t weight_before[COPIES_MAX + 1]; /* sums of the first k copies */
    uint32_t n_copies;
    uint64_t load[MP_EXACT_LOAD_GPUS];
    uint32_t used[MP_EXACT_LOAD_GPUS], at[COPIES_MAX], n_free;
};

static int by_falling_weight(const void *a, const void *b) {
    const struct copy *x = a, *y = b;
    if (x->weight != y->weight)
        return x->weight < y->weight ? 1 : -1;
    if (x->expert != y->expert)
        return x->expert > y->expert ? 1 : -1;
    return (x->index > y->index) - (x->index < y->index);
}

static void record(struct search *s) {
    struct mp_exact_load_answer *out = s->out;
    uint64_t most = 0;
    for (uint32_t g = 0; g < s->in->n_gpus; g++)
        most = s->load[g] > most ? s->load[g] : most;
    if (s->is_found && most >= s->best)
        return;
    s->is_found = true;
    s->best = most;
    memcpy(out->n_replicas, s->count, sizeof out->n_replicas);
    for (uint32_t i = 0; i < s->n_copies; i++)
        out->gpu[s->copies[i].expert][s->copies[i].index] = s->at[i];
    for (uint32_t e = 0; e < s->in->n_experts; e++) /* greedy ones come in any order */
        for (uint32_t i = 1; i < out->n_replicas[e]; i++)
            for (uint32_t j = i; j > 0 && out->gpu[e][j] < out->gpu[e][j - 1]; j--) {
                uint32_t swap = out->gpu[e][j];
                out->gpu[e][j] = out->gpu[e][j - 1];
                out->gpu[e][j - 1] = swap;
            }
}

static void list_copies(struct search *s) {
    s->n_copies = 0;
    for (uint32_t e = 0; e < s->in->n_experts; e++)
        for (uint32_t i = 0; i < s->count[e]; i++)
            s->copies[s->n_copies++] = (struct copy){s->in->load[e] * (MP_EXACT_LOAD_SCALE / s->count[e]), e, i};
    qsort(s->copies, s->n_copies, sizeof *s->copies, by_falling_weight);
    s->weight_before[0] = 0;
    for (uint32_t i = 0; i < s->n_copies; i++)
        s->weight_before[i + 1] = s->weight_before[i] + s->copies[i].weight;
    memset(s->load, 0, sizeof s->load);
    memset(s->used, 0, sizeof s->used);
    s->n_free = s->n_slots;
}

static bool holds(const struct search *s, uint32_t gpu, uint32_t n_placed, uint32_t expert) {
    for (uint32_t i = n_placed; i-- > 0 && s->copies[i].expert == expert;) /* copies of an expert are neighbours */
        if (s->at[i] == gpu)
            return true;
    return false;
}

static void put(struct search *s, uint32_t i, uint32_t gpu) {
    s->at[i] = gpu;
    s->load[gpu] += s->copies[i].weight;
    s->used[gpu]++;
    s->n_free--;
}
static void take(struct search *s, uint32_t i) {
    s->load[s->at[i]] -= s->copies[i].weight;
    s->used[s->at[i]]--;
    s->n_free++;
}

/* Heaviest first, to the least loaded. */
static void greedy(struct search *s) {
    list_copies(s);
    uint32_t i = 0;
    for (; i < s->n_copies; i++) {
        uint32_t best = MP_NONE;
        for (uint32_t g = 0; g < s->in->n_gpus; g++)
            if (s->used[g] < s->in->slots[g] && !holds(s, g, i, s->copies[i].expert) &&
                (best == MP_NONE || s->load[g] < s->load[best]))
                best = g;
        if (best == MP_NONE)
            break;
        put(s, i, best);
    }
    if (i == s->n_copies)
        record(s);
}

/* Of the q * m + 1 heaviest some GPU has q + 1. */
static uint64_t pairing_bound(const struct search *s) {
    uint64_t bound = s->n_copies > 0 ? s->copies[0].weight : 0;
    for (uint32_t q = 1; q * s->in->n_gpus < s->n_copies; q++) {
        uint32_t k = q * s->in->n_gpus + 1;
        uint64_t sum = s->weight_before[k] - s->weight_before[k - q - 1];
        bound = sum > bound ? sum : bound;
    }
    return bound;
}

/* Can what is left from copy i on go below the best? Only necessary conditions. */
static bool may_improve(const struct search *s, uint32_t i) {
    uint32_t n_left = s->n_copies - i;
    uint64_t rest = s->weight_before[s->n_copies] - s->weight_before[i], room = 0;
    if (n_left > s->n_free)
        return false;
    for (uint32_t g = 0; g < s->in->n_gpus; g++) {
        uint32_t free = s->in->slots[g] - s->used[g];
        if (s->load[g] >= s->best)
            return false;
        if (free == 0)
            continue;
        uint64_t here = s->best - 1 - s->load[g];
        uint32_t elsewhere = s->n_free - free, must = n_left > elsewhere ? n_left - elsewhere : 0;
        if (must > 0 && s->weight_before[s->n_copies] - s->weight_before[s->n_copies - must] > here)
            return false;
        uint32_t takes = free < n_left ? free : n_left;
        uint64_t most = s->weight_before[i + takes] - s->weight_before[i];
        room += most < here ? most : here;
    }
    return room >= rest;
}

static bool must_stop(struct search *s) {
    s->is_stopped |= s->in->node_limit > 0 && s->out->nodes >= s->in->node_limit;
    return s->is_stopped;
}

static void pack(struct search *s, uint32_t i) {
    if (must_stop(s))
        return;
    s->out->nodes++;
    if (i == s->n_copies) {
        record(s);
        return;
    }
    const struct copy *c = &s->copies[i];
    uint32_t n_gpus = s->in->n_gpus, first = i > 0 && s->copies[i - 1].expert == c->expert ? s->at[i - 1] + 1 : 0;
    for (uint32_t g = first; g < n_gpus && !s->is_stopped && s->best > s->floor; g++) {
        bool is_twin = false;
        if (s->used[g] == s->in->slots[g] || s->load[g] + c->weight >= s->best)
            continue;
        for (uint32_t h = 0; h < g && !is_twin; h++)
            is_twin = s->load[h] == s->load[g] && s->in->slots[h] - s->used[h] == s->in->slots[g] - s->used[g] &&
                      !holds(s, h, i, c->expert);
        if (is_twin)
            continue;
        put(s, i, g);
        if (may_improve(s, i + 1))
            pack(s, i + 1);
        take(s, i);
    }
}

/* Counts of experts order[k..]; `n` copies so far. */
static void choose_counts(struct search *s, uint32_t k, uint32_t n) {
    const struct mp_exact_load *in = s->in;
    if (must_stop(s) || s->best <= s->floor)
        return;
    if (k == in->n_experts) {
        list_copies(s);
        s->out->nodes += 1 + s->n_copies / 2; /* sorting takes as long as that many nodes */
        if (pairing_bound(s) < s->best && may_improve(s, 0))
            pack(s, 0);
        return;
    }
    uint32_t e = s->order[k], n_after = in->n_experts - k - 1;
    uint32_t most = in->n_copies_max - n - n_after;
    most = most > s->replicas_max ? s->replicas_max : most;
    if (k > 0 && in->load[s->order[k - 1]] == in->load[e] && s->count[s->order[k - 1]] < most)
        most = s->count[s->order[k - 1]];
    if (in->load[e] == 0)
        most = 1;
    for (uint32_t r = most; r >= 1; r--) {
        if (in->load[e] * (MP_EXACT_LOAD_SCALE / r) >= s->best)
            break; /* fewer replicas are heavier still */
        s->count[e] = r;
        choose_counts(s, k + 1, n + r);
    }
}

/* EPLB's greedy counts for n copies. */
static void greedy_counts(struct search *s, uint32_t n) {
    for (uint32_t e = 0; e < s->in->n_experts; e++)
        s->count[e] = 1;
    for (uint32_t k = s->in->n_experts; k < n; k++) {
        uint32_t best = MP_NONE;
        for (uint32_t e = 0; e < s->in->n_experts; e++)
            if (s->count[e] < s->replicas_max &&
                (best == MP_NONE || s->in->load[e] * s->count[best] > s->in->load[best] * s->count[e]))
                best = e;
        if (best == MP_NONE)
            return;
        s->count[best]++;
    }
}

enum mp_status mp_exact_load_solve(struct mp_exact_load_answer *out, const struct mp_exact_load *in,
                                   struct mp_error *err) {
    *out = (struct mp_exact_load_answer){.outcome = MP_NOT_FOUND};
    if (in->n_experts < 1 || in->n_experts > MP_EXACT_LOAD_EXPERTS || in->n_gpus < 1 || in->n_gpus > MP_EXACT_LOAD_GPUS)
        return mp_fail(err, MP_ELIMIT, "%u experts on %u GPUs are not searched exactly (at most %u on %u)",
                       in->n_experts, in->n_gpus, MP_EXACT_LOAD_EXPERTS, MP_EXACT_LOAD_GPUS);
    struct search *s = mp_calloc(1, sizeof *s);
    if (s == NULL)
        return mp_nomem(err, "an exact placement");
    s->in = in;
    s->out = out;
    s->best = UINT64_MAX;
    for (uint32_t e = 0; e < in->n_experts; e++) {
        if (in->load[e] >> 50 != 0) {
            mp_free(s);
            return mp_fail(err, MP_ELIMIT, "expert %u has a load of 2^50 or more", e);
        }
        s->total += in->load[e] * MP_EXACT_LOAD_SCALE;
        s->order[e] = e;
        for (uint32_t k = e; k > 0 && in->load[s->order[k]] > in->load[s->order[k - 1]]; k--) {
            s->order[k] = s->order[k - 1];
            s->order[k - 1] = e;
        }
    }
    for (uint32_t g = 0; g < in->n_gpus; g++)
        s->n_slots += in->slots[g];
    s->replicas_max = in->n_gpus < MP_EXACT_LOAD_REPLICAS ? in->n_gpus : MP_EXACT_LOAD_REPLICAS;
    uint32_t n_most = in->n_copies_max < s->n_slots ? in->n_copies_max : s->n_slots;
    struct mp_exact_load limited = *in;
    limited.n_copies_max = n_most;
    s->in = &limited;
    s->floor = mp_ceil_div(s->total, in->n_gpus);
    uint64_t least = in->load[s->order[0]] * (MP_EXACT_LOAD_SCALE / s->replicas_max);
    s->floor = least > s->floor ? least : s->floor;
    if (in->n_experts <= n_most) {
        for (uint32_t n = n_most; n >= in->n_experts && n + 8 > n_most; n--) {
            greedy_counts(s, n);
            greedy(s);
        }
        choose_counts(s, 0, 0);
    }
    out->value = s->is_found ? s->best : 0;
    out->bound = !s->is_found ? 0 : s->is_stopped ? s->floor : s->best;
    out->outcome = s->is_stopped && s->best > s->floor ? MP_STOPPED : s->is_found ? MP_FOUND : MP_NOT_FOUND;
    mp_free(s);
    return MP_OK;
}
