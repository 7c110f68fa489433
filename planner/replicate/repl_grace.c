/* GRACE's dynamic replication.
 *
 * Decides   which experts of the GPU with most rows get replicas, how many, and for which GPUs.
 * Minimises the fullest GPU's rows (one step of a greedy rule).
 * Method    groups of experts by GPU (place grace). Of each layer: rho = rows of the fullest GPU / mean;
 *           n = min(max(1, floor(rho)), GPUs - 1); the hot experts are the shortest beginning of the fullest GPU's, by
 *           falling rows, that has at least n / (1 + n) of its rows; each gets a copy on the n GPUs with fewest rows
 *           that have a slot left and not the expert. The copies stand where the rule counts on them with place kept.
 * Bound     -
 * Differs   slots and --redundant end the copying early, hottest experts first. `grace-dynamic.rounds` goes on with the
 *           next fullest GPU, rows as equation 4 predicts them: W_r, the rows of what was copied, in n + 1 parts (its
 *           sentence), or with grace-dynamic.printed=1 the rows of the whole GPU (as printed). The weights of that
 *           equation are the route stage's.
 * Paper     GRACE-MoE, arXiv 2509.25041, sections 4.2 and 4.3.
 * Cost      the groups', and O(L rounds E log E). */
#include "place_grace.h"
#include "start.h"
#include <moeplan/base.h>
#include <string.h>

enum { OPTION_ROUNDS, OPTION_PRINTED };
static const struct mp_option options[] = {
    {"rounds", "rounds", "how often the rule is applied to a layer (the paper: once)", 1, 1, 4096},
    {"printed", "0 or 1", "rows after a round: 0 = copied experts' rows are spread, 1 = equation 4 as printed", 0, 0,
     1},
    {.name = NULL}};

struct layer {
    const struct mp_plan *plan;
    const uint64_t *load;       /* [n_experts] */
    struct mp_replica_set *set; /* [n_experts]; gpu[0] has the first copy */
    uint64_t *rows;             /* [n_gpus] as predicted */
    uint32_t *n_used;           /* [n_gpus] */
    uint32_t n_left;            /* redundant slots */
    bool *is_hot;               /* [n_experts] copied already */
};

static bool has(const struct layer *x, uint32_t expert, uint32_t gpu) {
    for (uint32_t r = 0; r < x->set[expert].n; r++)
        if (x->set[expert].gpu[r] == gpu)
            return true;
    return false;
}

/* The GPU with fewest rows among those that can take the expert; MP_NONE: none. */
static uint32_t idlest(const struct layer *x, uint32_t expert) {
    const struct mp_plan *p = x->plan;
    uint32_t best = MP_NONE;
    for (uint32_t g = 0; g < p->n_gpus; g++)
        if (x->n_used[g] < p->gpu_first_slot[g + 1] - p->gpu_first_slot[g] && !has(x, expert, g) &&
            (best == MP_NONE || x->rows[g] < x->rows[best]))
            best = g;
    return best;
}

/* The expert with most rows that has its first copy on the GPU and was not copied yet. */
static uint32_t hottest(const struct layer *x, uint32_t gpu) {
    uint32_t best = MP_NONE;
    for (uint32_t e = 0; e < x->plan->n_experts; e++)
        if (!x->is_hot[e] && x->set[e].gpu[0] == gpu && (best == MP_NONE || x->load[e] > x->load[best]))
            best = e;
    return best;
}

/* One round; false when nothing was copied. */
static bool replicate(struct layer *x, bool as_printed) {
    const uint32_t n_gpus = x->plan->n_gpus;
    uint64_t all = 0, hot = 0, copied = 0;
    uint32_t full = 0;
    bool is_any = false;
    for (uint32_t g = 0; g < n_gpus; g++) {
        all += x->rows[g];
        full = x->rows[g] > x->rows[full] ? g : full;
    }
    const uint64_t most = x->rows[full];
    if (all == 0 || n_gpus < 2)
        return false;
    uint64_t n = (uint64_t)((unsigned __int128)most * n_gpus / all); /* floor(rho), at least 1 */
    n = n > n_gpus - 1 ? n_gpus - 1 : n;
    n = n > MP_REPLICAS_MAX - 1 ? MP_REPLICAS_MAX - 1 : n;
    uint32_t on[MP_REPLICAS_MAX];
    uint32_t n_on = 0;
    while ((unsigned __int128)hot * (n + 1) < (unsigned __int128)most * n && x->n_left > 0) {
        const uint32_t e = hottest(x, full);
        if (e == MP_NONE)
            break;
        x->is_hot[e] = true;
        hot += x->load[e];
        bool is_copied = false;
        for (uint32_t k = 0; k < n && x->n_left > 0; k++) {
            const uint32_t g = idlest(x, e); /* rows stay as they are within a round: the same GPUs for all of it */
            if (g == MP_NONE)
                break;
            x->set[e].gpu[x->set[e].n++] = (uint16_t)g;
            x->n_used[g]++;
            x->n_left--;
            is_copied = true;
            bool is_new = true;
            for (uint32_t i = 0; i < n_on; i++)
                is_new &= on[i] != g;
            if (is_new && n_on < MP_REPLICAS_MAX)
                on[n_on++] = g;
        }
        copied += is_copied ? x->load[e] : 0;
        is_any |= is_copied;
    }
    if (!is_any)
        return false;
    const uint64_t each = (as_printed ? most : copied) / (n_on + 1);
    x->rows[full] = most - copied + each;
    for (uint32_t i = 0; i < n_on; i++)
        x->rows[on[i]] += each;
    return true;
}

static enum mp_status solve(const struct mp_problem *in, const struct mp_budget *budget, struct mp_arena *scratch,
                            struct mp_draft *draft, enum mp_outcome *outcome, struct mp_error *err) {
    (void)budget;
    const struct mp_plan *p = draft->plan;
    const uint32_t E = p->n_experts;
    const int64_t *values = in->option_values;
    uint16_t *gpu = mp_arena_alloc(scratch, (size_t)p->n_layers * E, sizeof *gpu);
    struct layer x = {.plan = p};
    x.set = mp_arena_alloc(scratch, E, sizeof *x.set);
    x.rows = mp_arena_alloc(scratch, p->n_gpus, sizeof *x.rows);
    x.n_used = mp_arena_alloc(scratch, p->n_gpus, sizeof *x.n_used);
    x.is_hot = mp_arena_alloc(scratch, E, sizeof *x.is_hot);
    if (gpu == NULL || x.set == NULL || x.rows == NULL || x.n_used == NULL || x.is_hot == NULL)
        return mp_nomem(err, "replicating experts");
    enum mp_status status = mp_grace_groups(gpu, in, p, scratch, outcome, err);
    if (status != MP_OK || *outcome != MP_FOUND)
        return status;
    draft->n_copies = 0;
    for (uint32_t l = 0; l < p->n_layers; l++) {
        memset(x.rows, 0, p->n_gpus * sizeof *x.rows);
        memset(x.n_used, 0, p->n_gpus * sizeof *x.n_used);
        memset(x.is_hot, 0, E * sizeof *x.is_hot);
        x.load = in->load + (size_t)l * E;
        x.n_left = in->n_redundant;
        for (uint32_t e = 0; e < E; e++) {
            const uint16_t g = gpu[(size_t)l * E + e];
            x.set[e].n = 1;
            x.set[e].gpu[0] = g;
            x.rows[g] += x.load[e];
            x.n_used[g]++;
        }
        for (int64_t round = 0; round < values[OPTION_ROUNDS] && replicate(&x, values[OPTION_PRINTED] != 0);)
            round++;
        mp_replicate_write(draft, l, x.set);
        draft->n_copies = draft->layer_copies[l] > draft->n_copies ? draft->layer_copies[l] : draft->n_copies;
    }
    draft->has_wish = true;
    *outcome = MP_FOUND;
    return MP_OK;
}

const struct mp_strategy mp_strategy_repl_grace = {.name = "grace-dynamic",
                                                   .summary =
                                                       "GRACE's groups; what the fullest GPU has most of, copied",
                                                   .reference = "GRACE-MoE, arXiv 2509.25041",
                                                   .stage = MP_PLAN_REPLICATE,
                                                   .is_named_only = true,
                                                   .options = options,
                                                   .solve = solve};
