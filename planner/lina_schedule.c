/* Lina's two-phase scheduling, what a phase decides.
 *
 * Decides   which GPUs hold which experts of a layer, replicas included.
 * Minimises the busiest GPU's tokens.
 * Method    n_e = GPUs * popularity of e. An expert with n_e of one or more, rounded, gets as many GPUs of its own;
 *           where that leaves too little room for the others the one with the least load per replica gives one back.
 *           The others, by falling popularity, go to the first GPU without one of those whose load stays within the
 *           mean, at most per_gpu to a GPU; none fits: to the least loaded one with room. Experts of no popularity go
 *           where there are fewest.
 * Bound     -
 * Differs   rounding, what to do with what fits nowhere, and experts without an estimate ("evenly on free devices, else
 *           at random") are left open by the paper. It has as many GPUs as experts; where experts are far more, n_slots
 *           takes the place of GPUs in n_e, every expert gets one slot at least, and all copies are packed first-fit.
 * Paper     Lina, USENIX ATC 2023 (arXiv 2210.17223), section 5.2, equation 1.
 * Cost      O(E log E + (E + copies) N). */
#include "lina_schedule.h"
#include <moeplan/trace.h>
#include <stdlib.h>

struct copies {
    uint64_t load; /* of each replica; popularity / n */
    uint32_t n;
    uint16_t expert;
};
struct gpu {
    uint64_t load;
    uint32_t n;
    bool is_taken; /* by a popular expert */
};

size_t lina_room(const struct lina_rule *r) {
    return r->n_experts * sizeof(struct copies) + r->n_gpus * sizeof(struct gpu);
}

static int by_load(const void *a, const void *b) {
    const struct copies *x = a, *y = b;
    if (x->load != y->load)
        return x->load > y->load ? -1 : 1;
    return x->expert < y->expert ? -1 : x->expert > y->expert;
}

static void put(uint16_t *slot_expert, const struct lina_rule *r, struct gpu *gpus, uint32_t g, uint16_t expert,
                uint64_t load) {
    slot_expert[(size_t)g * r->per_gpu + gpus[g].n++] = expert;
    gpus[g].load += load;
}

static bool holds(const uint16_t *slot_expert, const struct lina_rule *r, const struct gpu *gpus, uint32_t g,
                  uint16_t expert) {
    for (uint32_t s = 0; s < gpus[g].n; s++)
        if (slot_expert[(size_t)g * r->per_gpu + s] == expert)
            return true;
    return false;
}

/* The first GPU that stays within the mean, else the least loaded one; those of popular experts only where there is no
 * other. Of experts without load the one with the fewest. MP_NONE: every GPU with room holds it already. */
static uint32_t room_for(const uint16_t *slot_expert, const struct lina_rule *r, const struct gpu *gpus,
                         uint16_t expert, uint64_t load, uint64_t mean) {
    uint32_t best = MP_NONE;
    for (uint32_t g = 0; g < r->n_gpus; g++) {
        if (gpus[g].n == r->per_gpu || holds(slot_expert, r, gpus, g, expert))
            continue;
        if (load > 0 && !gpus[g].is_taken && gpus[g].load + load <= mean)
            return g;
        if (best == MP_NONE) {
            best = g;
            continue;
        }
        const struct gpu *a = &gpus[g], *b = &gpus[best];
        const bool is_better = a->is_taken != b->is_taken  ? b->is_taken
                               : load == 0 && a->n != b->n ? a->n < b->n
                                                           : a->load < b->load;
        best = is_better ? g : best;
    }
    return best;
}

/* Rounded shares of `devices`, all of them at most n_gpus and at least `least`. */
static void shares(struct copies *c, const struct lina_rule *r, const uint64_t *popularity, uint64_t total,
                   uint64_t devices, uint32_t least) {
    for (uint32_t e = 0; e < r->n_experts; e++) {
        const unsigned __int128 doubled = 2 * (unsigned __int128)devices * popularity[e];
        const uint64_t n =
            total == 0 ? 0 : (uint64_t)((doubled + (r->is_down ? 0 : total)) / (2 * (unsigned __int128)total));
        c[e] = (struct copies){.n = (uint32_t)(n < least       ? least
                                               : n > r->n_gpus ? r->n_gpus
                                                               : n),
                               .expert = (uint16_t)e};
    }
}

/* Takes one from the expert, of those with more than `least`, that has the least load per replica. */
static void give_back(struct copies *c, const struct lina_rule *r, const uint64_t *popularity, uint32_t least) {
    uint32_t which = MP_NONE;
    for (uint32_t e = 0; e < r->n_experts; e++)
        if (c[e].n > least && (which == MP_NONE || (unsigned __int128)popularity[e] * c[which].n <
                                                       (unsigned __int128)popularity[which] * c[e].n))
            which = e;
    c[which].n--;
}

void lina_schedule(uint16_t *slot_expert, const struct lina_rule *r, const uint64_t *popularity, void *room) {
    struct copies *c = room;
    struct gpu *gpus = (struct gpu *)(void *)(c + r->n_experts);
    const uint32_t least = r->n_slots > 0;
    uint64_t total = 0;
    for (uint32_t e = 0; e < r->n_experts; e++)
        total += popularity[e];
    for (uint32_t g = 0; g < r->n_gpus; g++)
        gpus[g] = (struct gpu){0};
    for (size_t s = 0; s < (size_t)r->n_gpus * r->per_gpu; s++)
        slot_expert[s] = MP_NO_EXPERT;
    shares(c, r, popularity, total, r->n_slots > 0 ? r->n_slots : r->n_gpus, least);
    for (;;) { /* what is left must hold the others */
        uint64_t n_small = 0, n_copies = 0;
        for (uint32_t e = 0; e < r->n_experts; e++) {
            n_small += c[e].n == 0;
            n_copies += c[e].n;
        }
        if (r->n_slots > 0 ? n_copies <= r->n_slots : n_copies + mp_ceil_div(n_small, r->per_gpu) <= r->n_gpus)
            break;
        give_back(c, r, popularity, least);
    }
    for (uint32_t e = 0; e < r->n_experts; e++)
        c[e].load = popularity[e] / (c[e].n > 0 ? c[e].n : 1);
    qsort(c, r->n_experts, sizeof *c, by_load);
    uint32_t next = 0;
    for (uint32_t i = 0; i < r->n_experts && r->n_slots == 0; i++)
        for (uint32_t k = 0; k < c[i].n; k++, next++) {
            put(slot_expert, r, gpus, next, c[i].expert, c[i].load);
            gpus[next].is_taken = true;
        }
    for (uint32_t i = 0; i < r->n_experts; i++)
        for (uint32_t k = 0; k < (r->n_slots > 0 ? c[i].n : c[i].n == 0); k++) {
            /* A replica for which there is no room is left out. The first copy always finds some: further replicas
             * never take the last slots. */
            const uint32_t g = room_for(slot_expert, r, gpus, c[i].expert, c[i].load, mp_ceil_div(total, r->n_gpus));
            if (g != MP_NONE)
                put(slot_expert, r, gpus, g, c[i].expert, c[i].load);
        }
}
