/* Lina's replicas by popularity.
 *
 * Decides   which experts get replicas, and how many; slots may stay empty.
 * Minimises nothing: each expert gets slots in proportion to how popular it is.
 * Method    n_e = slots * popularity of e, rounded, at least one and at most one on each GPU; where that is more than
 * there are slots, the expert with the least load per replica gives one back, until it fits. A target that needs every
 * slot filled gets the rest by the largest load per replica.
 * Bound     -
 * Differs   the paper has as many devices as experts and tokens that choose one; here slots take the place of devices
 *           (--set lina.devices=1: GPUs, as the formula is printed), popularity is an expert's share of all (token,
 *           expert) pairs of the planning steps in place of a prediction from the layer before, and how to round, which
 *           the paper leaves open, is to the nearest (--set lina.round=0: down). Packing experts is the place stage's.
 * Paper     Lina, USENIX ATC 2023, section 5.2, equation 1.
 * Cost      O(L (E + R) E). */
#include "planner.h"
#include <moeplan/base.h>

enum { OPTION_DEVICES, OPTION_ROUND };
static const struct mp_option options[] = {
    {"devices", "0 or 1", "what popularity is multiplied by: 0 = slots, 1 = GPUs", 0, 0, 1},
    {"round", "0 or 1", "0 = down, 1 = to the nearest", 1, 0, 1},
    {.name = NULL}};

/* Is load[a] / n[a] less than load[b] / n[b]? */
static bool is_less(const uint64_t *load, const uint16_t *n, uint32_t a, uint32_t b) {
    return (unsigned __int128)load[a] * n[b] < (unsigned __int128)load[b] * n[a];
}

static uint32_t choose(const struct mp_problem *in, const struct mp_plan *p, const uint64_t *load, uint16_t *n) {
    const uint32_t n_most = p->n_experts + in->n_redundant;
    const uint64_t devices = in->option_values[OPTION_DEVICES] != 0 ? p->n_gpus : n_most;
    uint64_t all = 0;
    uint32_t sum = 0;
    for (uint32_t e = 0; e < p->n_experts; e++)
        all += load[e];
    for (uint32_t e = 0; e < p->n_experts; e++) {
        const unsigned __int128 doubled = 2 * (unsigned __int128)devices * load[e];
        uint64_t wanted = all == 0 ? 1
                                   : (uint64_t)((doubled + (in->option_values[OPTION_ROUND] != 0 ? all : 0)) /
                                                (2 * (unsigned __int128)all));
        wanted = wanted < 1 ? 1 : wanted > p->n_gpus ? p->n_gpus : wanted;
        n[e] = (uint16_t)wanted;
        sum += n[e];
    }
    while (sum > n_most) {
        uint32_t least = MP_NONE;
        for (uint32_t e = 0; e < p->n_experts; e++)
            if (n[e] > 1 && (least == MP_NONE || is_less(load, n, e, least)))
                least = e;
        n[least]--;
        sum--;
    }
    while (in->needs_equal_slots && sum < n_most) {
        uint32_t most = MP_NONE;
        for (uint32_t e = 0; e < p->n_experts; e++)
            if (n[e] < p->n_gpus && (most == MP_NONE || is_less(load, n, most, e)))
                most = e;
        if (most == MP_NONE)
            break;
        n[most]++;
        sum++;
    }
    return sum;
}

static enum mp_status solve(const struct mp_problem *in, const struct mp_budget *budget, struct mp_arena *scratch,
                            struct mp_draft *draft, enum mp_outcome *outcome, struct mp_error *err) {
    (void)budget;
    const struct mp_plan *p = draft->plan;
    uint16_t *n = mp_arena_alloc(scratch, p->n_experts, sizeof *n);
    if (n == NULL)
        return mp_nomem(err, "replicating experts");
    draft->n_copies = 0;
    for (uint32_t l = 0; l < p->n_layers; l++) {
        uint16_t *copies = draft->copies + (size_t)l * p->n_slots;
        uint32_t at = p->n_experts;
        draft->layer_copies[l] = choose(in, p, in->load + (size_t)l * p->n_experts, n);
        draft->n_copies = draft->layer_copies[l] > draft->n_copies ? draft->layer_copies[l] : draft->n_copies;
        for (uint32_t e = 0; e < p->n_experts; e++) {
            copies[e] = (uint16_t)e;
            for (uint32_t r = 1; r < n[e]; r++)
                copies[at++] = (uint16_t)e;
        }
    }
    *outcome = MP_FOUND;
    return MP_OK;
}

const struct mp_strategy mp_strategy_repl_lina = {.name = "lina",
                                                  .summary = "slots in proportion to how popular an expert is",
                                                  .reference = "Lina, USENIX ATC 2023",
                                                  .stage = MP_PLAN_REPLICATE,
                                                  .is_named_only = true,
                                                  .options = options,
                                                  .solve = solve};
