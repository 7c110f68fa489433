/* Replicas where they are worth most: a budget over all layers.
 *
 * Decides   how many replicas each layer has, of which experts, and for which GPUs; slots may stay empty.
 * Minimises the sum over layers of the cost of their steps (planner/place/layer_cost.h) under a number of replicas in
 * all.
 * Method    each layer by itself adds replicas one by one to a placement of single copies, each time the one of its
 *           busiest experts, on the GPU, for which the steps are shortest: a curve of cost over replicas. The curves
 *           are a knapsack with one choice per layer, solved exactly.
 * Bound     the best numbers of replicas for these curves; the curves are greedy.
 * Differs   the paper estimates what a replica gains from how even loads become; here it is the time of the step, which
 *           also pays for weights read and copies sent, so a layer may get none. The paper places afterwards; here the
 *           place stage may keep what the curve counted on (place kept).
 * Paper     CRAFT, MLSys 2026, arXiv 2603.28768.
 * Cost      per layer replicas x experts looked at x GPUs evaluations; the knapsack layers x budget x replicas. */
#include "start.h"
#include <moeplan/progress.h>
#include <moeplan/base.h>
#include <string.h>

enum { OPTION_MEAN, OPTION_EXPERTS, OPTION_GPUS, OPTION_STEPS };
static const struct mp_option options[] = {
    {"mean", "slots", "replicas of a layer on average (0 = up to --redundant in each)", 0, 0, 65535},
    {"experts", "experts", "experts looked at for each replica: those with most rows on the busiest GPUs", 8, 1, 4096},
    {"gpus", "GPUs", "GPUs looked at for each: with room, those that seldom compute longest", 6, 1, 65535},
    {"steps", "steps", "steps they are weighed on", 64, 1, 65536},
    {.name = NULL}};
#define QUIET 4u /* replicas in a row that gain nothing, after which a layer has enough */
#define TOKENS 131072u

struct craft {
    const struct mp_problem *in; /* with the steps it looks at */
    const struct mp_plan *start;
    struct mp_draft *draft;
    uint32_t n_steps, *steps, n_extra;
    uint64_t *curve;         /* [n_layers][n_extra + 1] cost with so many replicas; UINT64_MAX from where it ends */
    struct mp_shift *shifts; /* [n_layers][n_extra] */
    struct mp_replica_set *single; /* [n_layers][n_experts] */
    enum mp_outcome *outcomes;
    struct mp_error *declined;
};

/* The `n` experts with most rows per replica on the GPU that computes longest most often, and on the next ones. */
static uint32_t busy_experts(const struct mp_replicated *x, const uint64_t *load, uint32_t n, const uint32_t *busy,
                             bool *is_taken, uint16_t *out) {
    uint32_t n_out = 0;
    memset(is_taken, 0, x->n_experts * sizeof *is_taken);
    while (n_out < n && n_out < x->n_experts) {
        uint32_t best = MP_NONE, best_busy = 0;
        for (uint32_t e = 0; e < x->n_experts; e++) {
            uint32_t most = 0;
            for (uint32_t r = 0; r < x->set[e].n; r++)
                most = busy[x->set[e].gpu[r]] > most ? busy[x->set[e].gpu[r]] : most;
            if (is_taken[e])
                continue;
            const bool is_better = best == MP_NONE || (unsigned __int128)load[e] * (most + 1) * x->set[best].n >
                                                          (unsigned __int128)load[best] * (best_busy + 1) * x->set[e].n;
            best_busy = is_better ? most : best_busy;
            best = is_better ? e : best;
        }
        is_taken[best] = true;
        out[n_out++] = (uint16_t)best;
    }
    return n_out;
}

/* The `n` GPUs with room that compute longest least often, and of those with fewest rows. */
static uint32_t idle_gpus(const struct mp_replicated *x, uint32_t n, const uint32_t *busy, const uint64_t *load,
                          uint64_t *rows, uint32_t *out) {
    uint32_t n_out = 0;
    memset(rows, 0, x->n_gpus * sizeof *rows);
    for (uint32_t e = 0; e < x->n_experts; e++)
        for (uint32_t r = 0; r < x->set[e].n; r++)
            rows[x->set[e].gpu[r]] += load[e] / x->set[e].n;
    for (uint32_t g = 0; g < x->n_gpus; g++) {
        uint32_t at = n_out;
        if (mp_replicated_room(x, g) == 0)
            continue;
        while (at > 0 &&
               (busy[g] < busy[out[at - 1]] || (busy[g] == busy[out[at - 1]] && rows[g] < rows[out[at - 1]]))) {
            if (at < n)
                out[at] = out[at - 1];
            at--;
        }
        if (at < n)
            out[at] = g;
        n_out += n_out < n;
    }
    return n_out;
}

static enum mp_status grow(struct craft *s, uint32_t layer, struct mp_arena *arena, struct mp_replicated *x,
                           struct mp_error *err) {
    const struct mp_plan *p = s->draft->plan;
    const uint32_t E = p->n_experts, G = p->n_gpus, n_looked = (uint32_t)s->in->option_values[OPTION_EXPERTS];
    const uint64_t *load = s->in->load + (size_t)layer * E;
    uint64_t *curve = s->curve + (size_t)layer * (s->n_extra + 1), best_value;
    uint32_t *busy = mp_arena_alloc(arena, G, sizeof *busy), *idle = mp_arena_alloc(arena, G, sizeof *idle), quiet = 0;
    bool *is_taken = mp_arena_alloc(arena, E, sizeof *is_taken);
    uint16_t *experts = mp_arena_alloc(arena, E, sizeof *experts);
    uint64_t *rows = mp_arena_alloc(arena, G, sizeof *rows);
    if (busy == NULL || idle == NULL || is_taken == NULL || experts == NULL || rows == NULL)
        return mp_nomem(err, "replicating experts");
    if (!mp_replicated_read(x, s->start->layers[layer].slot_expert))
        return mp_fail(err, MP_EBUG, "craft: layer %u: a placement without some expert", layer);
    memcpy(s->single + (size_t)layer * E, x->set, E * sizeof *x->set);
    curve[0] = best_value = mp_layer_cost_now(x->cost);
    for (uint32_t k = 0; k < s->n_extra && quiet < QUIET; k++) {
        struct mp_shift best = {0, MP_ITEM_OFF, MP_ITEM_OFF};
        uint64_t value = UINT64_MAX;
        mp_layer_cost_busy(x->cost, busy);
        const uint32_t n = busy_experts(x, load, n_looked, busy, is_taken, experts);
        const uint32_t n_idle = idle_gpus(x, (uint32_t)s->in->option_values[OPTION_GPUS], busy, load, rows, idle);
        for (uint32_t i = 0; i < n; i++)
            for (uint32_t k_idle = 0; k_idle < n_idle; k_idle++) {
                const uint32_t g = idle[k_idle];
                const struct mp_shift one = {experts[i], MP_ITEM_OFF, (uint16_t)g};
                const uint64_t now = mp_replicated_try(x, &one, 1, false);
                if (now < value || (now == value && now != UINT64_MAX &&
                                    (g < best.to || (g == best.to && experts[i] < best.expert)))) {
                    value = now;
                    best = one;
                }
            }
        if (value == UINT64_MAX)
            break;
        value = mp_replicated_try(x, &best, 1, false);
        mp_replicated_keep(x, &best, 1);
        s->shifts[(size_t)layer * s->n_extra + k] = best;
        curve[k + 1] = value;
        quiet = value < best_value ? 0 : quiet + 1;
        best_value = value < best_value ? value : best_value;
    }
    return MP_OK;
}

static enum mp_status grow_layer(void *ctx, size_t layer, unsigned worker, struct mp_error *err) {
    (void)worker;
    struct craft *s = ctx;
    const struct mp_plan *p = s->draft->plan;
    struct mp_replicated x = {.cost = NULL};
    const struct mp_layer_cost_spec spec = {.problem = s->in,
                                            .layer = (uint32_t)layer,
                                            .n_steps = s->n_steps,
                                            .steps = s->steps,
                                            .rule = s->in->placed_for,
                                            .rows_max = TOKENS};
    struct mp_arena *arena = mp_arena_new();
    enum mp_status status = MP_OK;
    uint8_t *most = arena != NULL ? mp_arena_alloc(arena, p->n_experts, sizeof *most) : NULL;
    if (most == NULL) {
        status = mp_nomem(err, "replicating experts");
        goto out;
    }
    MP_TRY(mp_joint_most(most, s->in->load + layer * p->n_experts, p->n_experts, p->n_gpus, s->n_extra, arena, err));
    for (uint32_t e = 0; e < p->n_experts && s->n_extra > 0; e++) /* one more than that: adds are greedy */
        most[e] = (uint8_t)(most[e] + (most[e] < p->n_gpus && most[e] < MP_REPLICAS_MAX));
    MP_TRY(mp_replicated_new(&x, &spec, most, p->gpu_first_slot, arena, &s->outcomes[layer], &s->declined[layer]));
    if (s->outcomes[layer] == MP_FOUND)
        MP_TRY(grow(s, (uint32_t)layer, arena, &x, err));
out:
    if (status != MP_OK && err != NULL && err->message[0] == '\0')
        *err = s->declined[layer];
    mp_layer_cost_free(x.cost);
    mp_arena_free(arena);
    return status;
}

/* replicas[n_layers] with at most `budget` in all and the least sum over the curves; the fewest where that is equal. */
static enum mp_status knapsack(const struct craft *s, uint32_t n_layers, uint32_t budget, uint32_t *replicas,
                               struct mp_arena *arena, struct mp_error *err) {
    const size_t width = (size_t)budget + 1;
    uint64_t *sum = mp_arena_alloc(arena, 2 * width, sizeof *sum), *next = sum + width;
    uint16_t *chosen = mp_arena_alloc(arena, n_layers * width, sizeof *chosen);
    if (sum == NULL || chosen == NULL)
        return mp_nomem(err, "replicating experts");
    for (uint32_t l = 0; l < n_layers; l++) {
        const uint64_t *curve = s->curve + (size_t)l * (s->n_extra + 1);
        for (size_t b = 0; b < width; b++) {
            next[b] = UINT64_MAX;
            for (uint32_t r = 0; r <= s->n_extra && r <= b && curve[r] != UINT64_MAX; r++)
                if (sum[b - r] + curve[r] < next[b]) { /* sum is 0 before the first layer, whatever is left */
                    next[b] = sum[b - r] + curve[r];
                    chosen[l * width + b] = (uint16_t)r;
                }
        }
        uint64_t *other = sum;
        sum = next;
        next = other;
    }
    size_t left = budget;
    for (uint32_t l = n_layers; l-- > 0;) {
        replicas[l] = chosen[l * width + left];
        left -= replicas[l];
    }
    return MP_OK;
}

static void take(struct craft *s, const uint32_t *replicas) {
    const uint32_t E = s->draft->plan->n_experts;
    s->draft->n_copies = 0;
    for (uint32_t l = 0; l < s->draft->plan->n_layers; l++) {
        struct mp_replica_set *set = s->single + (size_t)l * E;
        for (uint32_t k = 0; k < replicas[l]; k++) {
            const struct mp_shift *added = &s->shifts[(size_t)l * s->n_extra + k];
            struct mp_replica_set *x = &set[added->expert];
            x->gpu[x->n++] = added->to;
        }
        mp_replicate_write(s->draft, l, set);
        const uint32_t n = s->draft->layer_copies[l];
        s->draft->n_copies = n > s->draft->n_copies ? n : s->draft->n_copies;
    }
    s->draft->has_wish = s->draft->by_rule = true;
}

static enum mp_status solve(const struct mp_problem *in, const struct mp_budget *budget, struct mp_arena *scratch,
                            struct mp_draft *draft, enum mp_outcome *outcome, struct mp_error *err) {
    const struct mp_plan *p = draft->plan;
    struct mp_problem looked_at;
    struct mp_workload *drawn = NULL;
    struct mp_plan *start = NULL;
    struct craft s = {.draft = draft, .n_extra = in->n_redundant};
    const size_t L = p->n_layers;
    enum mp_status status = MP_OK;
    MP_TRY(mp_replicate_start(&start, in, budget, draft, "lpt", outcome, err));
    if (*outcome != MP_FOUND)
        goto out;
    MP_TRY(mp_replicate_steps(&looked_at, &drawn, &s.steps, &s.n_steps, in, (uint32_t)in->option_values[OPTION_STEPS],
                              scratch, err));
    s.in = &looked_at;
    s.start = start;
    s.curve = mp_arena_alloc(scratch, L * (s.n_extra + (size_t)1), sizeof *s.curve);
    s.shifts = mp_arena_alloc(scratch, L * s.n_extra + 1, sizeof *s.shifts);
    s.single = mp_arena_alloc(scratch, L * p->n_experts, sizeof *s.single);
    s.outcomes = mp_arena_alloc(scratch, L, sizeof *s.outcomes);
    s.declined = mp_arena_alloc(scratch, L, sizeof *s.declined);
    uint32_t *replicas = mp_arena_alloc(scratch, L, sizeof *replicas);
    if (s.curve == NULL || s.shifts == NULL || s.single == NULL || s.outcomes == NULL || s.declined == NULL ||
        replicas == NULL) {
        status = mp_nomem(err, "replicating experts");
        goto out;
    }
    memset(s.curve, 0xff, L * (s.n_extra + (size_t)1) * sizeof *s.curve);
    MP_TRY(mp_parallel_for_told(in->sim.progress, "layers", in->n_threads, L, grow_layer, &s, err));
    for (size_t l = 0; l < L; l++)
        if (s.outcomes[l] != MP_FOUND) {
            status = mp_decline(err, outcome, s.outcomes[l], "craft: %s", s.declined[l].message);
            goto out;
        }
    uint64_t total = (uint64_t)in->option_values[OPTION_MEAN] * L;
    total = total == 0 || total > s.n_extra * (uint64_t)L ? s.n_extra * (uint64_t)L : total;
    MP_TRY(knapsack(&s, p->n_layers, (uint32_t)total, replicas, scratch, err));
    take(&s, replicas);
out:
    mp_plan_free(start);
    mp_workload_free(drawn);
    return status;
}

const struct mp_strategy mp_strategy_repl_craft = {.name = "craft",
                                                   .summary = "each layer as many as shorten its steps most",
                                                   .reference = "CRAFT, arXiv 2603.28768",
                                                   .stage = MP_PLAN_REPLICATE,
                                                   .is_named_only = true,
                                                   .options = options,
                                                   .solve = solve};
