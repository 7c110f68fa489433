/* moeplan's own placement: local search on the cost of every step.
 *
 * Decides   expert -> GPU, layer by layer (a step's time is a sum over layers, so layers are independent).
 * Minimises the objective on steps drawn from the planning requests (planner/drawn.c; where that cannot be, on planning
 *           steps): mean step with every transfer at its port bound
 * (planner/place/layer_cost.h), or its own terms for p95, peak and inter.
 * Method    iterated local search. Starts: contiguous, lpt, eplb and seeded random placements. Descent: the first
 *           exchange of two experts, or move to an empty slot, that is better, around GPUs that changed lately; then
 *           3-cycles. When nothing is better: a kick of random exchanges, another descent, back where that is worse.
 *           Where tokens pay for every node or GPU they need, one more start: planner/place/layer_cost_groups.c.
 * Differs   from balancing totals (LPT, EPLB): sees the experts that a step reads, tiles, every port and de-duplicated
 *           copies, so it trades balance for traffic where the steps say so. Replicas: placed for the rule `even`, how
 *           many there are is the replicate stage's.
 * Over-fit  docs/STRATEGIES.md, "search": what was tried and which of it is on.
 * Cost      `effort` million elementary operations per layer (twice that where copies are counted per token);
 * layers in parallel, the same bytes for any number of threads. */
#include "eplb.h"
#include "grid.h"
#include "joint.h"
#include "layer_cost.h"
#include <moeplan/progress.h>
#include <moeplan/base.h>
#include <stdlib.h>
#include <string.h>

enum { OPTION_EFFORT, OPTION_DRAW, OPTION_STEPS, OPTION_ROWS, OPTION_KICKS, OPTION_RANDOM, OPTION_RACE, OPTION_SHRINK };
static const struct mp_option options[] = {
    {"effort", "10^6 operations", "work of the search in each layer; twice that where copies are counted per token",
     100, 1, 1000000},
    {"draw", "steps", "steps to draw from the planning requests and look at (0 = the planning steps themselves)", 256,
     0, 65536},
    {"steps", "steps", "steps it looks at, evenly spaced", 256, 1, 65536},
    {"rows", "tokens", "tokens it looks at where copies are counted per token", 262144, 64, INT64_C(1) << 32},
    {"kicks", "kicks", "kicks without success after which a layer is done", 40, 0, 1000000},
    {"random", "starts", "random starts beside those of other strategies", 2, 0, 1000},
    {"race", "0 or 1", "give up on changes that are no better on the first eighth of the steps", 1, 0, 1},
    {"shrink", "thousandths", "how far a step's loads are moved towards those of all steps", 0, 0, 1000},
    {.name = NULL}};

#define WORK_PER_PAIR 4096u /* elementary operations that count as one simulated (step, layer) pair */
#define STARTS_MAX 8u
#define START_PART 32u /* setting out from one start takes at most this part of the effort */
#define DRAW_MIN 8u
#define EFFORT_OF_ALL                                                                                                  \
    UINT64_C(5200000000) /* with redundant slots, over all layers: `auto` searches three times then                    \
                          */
#define RETURN_MOVES 4u  /* items at a time on the way back to the best placement */
#define GROUPS_PART 8u   /* of the work goes into grouping experts by node */

struct starts {
    uint32_t n;
    const struct mp_plan *plan[STARTS_MAX];
};

struct search {
    const struct mp_problem *problem; /* with the steps it looks at */
    const struct mp_budget *budget;
    struct mp_draft *draft;
    struct starts starts;
    bool is_open;       /* replicas are chosen here, too */
    bool must_fill;     /* and every slot */
    struct starts more; /* then: placements with replicas */
    uint32_t n_steps;
    uint32_t *steps;       /* [n_steps] */
    uint64_t *work;        /* [n_layers] */
    uint64_t effort;       /* of a layer */
    const int64_t *values; /* of the options */
    double started;
    bool *has_struck;          /* [n_layers] the wall clock ended it */
    enum mp_outcome *outcomes; /* [n_layers] */
    struct mp_error *declined; /* [n_layers] */
};

/* One layer while it is searched. */
struct local {
    struct mp_layer_cost *cost;
    struct mp_rng rng;
    struct mp_arena *arena;
    const struct search *search;
    const uint16_t *copies; /* [n_items] */
    uint32_t n_items, n_gpus, n_experts;
    const uint32_t *first_slot;
    uint32_t *n_used;        /* [n_gpus] */
    uint32_t *replica_first; /* [n_experts + 1] into replicas */
    uint16_t *replicas;      /* [n_items] items of each expert */
    bool *is_dirty;          /* [n_gpus] */
    uint16_t *at;            /* [n_items] items by GPU, for a scan */
    uint32_t *order;         /* [n_gpus] */
    uint16_t *best;          /* [n_items] GPU of each item in the best placement so far */
    uint64_t best_value, limit;
    bool is_over;
};

static uint32_t gpu_of(const struct local *x, uint32_t item) { return mp_layer_cost_gpus(x->cost)[item]; }
static uint32_t room_of(const struct local *x, uint32_t gpu) {
    return x->first_slot[gpu + 1] - x->first_slot[gpu] - x->n_used[gpu];
}

static bool is_over(struct local *x) {
    const struct mp_budget *b = x->search->budget;
    if (mp_layer_cost_work(x->cost) >= x->limit)
        x->is_over = true;
    if (!x->is_over && b->wall_seconds > 0 && mp_now_seconds() - x->search->started > b->wall_seconds)
        x->is_over = true;
    return x->is_over;
}

/* Items go to other GPUs; the replicas of an expert then stand on rising GPUs. False when an expert would be twice on a
 * GPU, or too many GPUs are touched. */
static bool spell_out(const struct local *x, const struct mp_item_move *wanted, uint32_t n, struct mp_item_move *moves,
                      uint32_t *n_moves) {
    uint32_t n_touched = 0;
    uint16_t touched[2 * MP_LAYER_MOVES_MAX + 2];
    *n_moves = 0;
    for (uint32_t j = 0; j < n; j++) {
        uint32_t e = x->copies[wanted[j].item], first = x->replica_first[e], m = x->replica_first[e + 1] - first;
        bool is_known = false;
        if (m == 1) {
            moves[(*n_moves)++] = wanted[j];
            continue;
        }
        for (uint32_t i = 0; i < j; i++)
            is_known |= x->copies[wanted[i].item] == e;
        if (is_known)
            continue;
        uint16_t gpus[MP_MAX_GPUS];
        for (uint32_t r = 0; r < m; r++) {
            uint16_t g = (uint16_t)gpu_of(x, x->replicas[first + r]);
            for (uint32_t i = j; i < n; i++)
                g = wanted[i].item == x->replicas[first + r] ? wanted[i].gpu : g;
            uint32_t at = r;
            while (at > 0 && gpus[at - 1] > g) {
                gpus[at] = gpus[at - 1];
                at--;
            }
            if (at > 0 && gpus[at - 1] == g)
                return false;
            gpus[at] = g;
        }
        for (uint32_t r = 0; r < m; r++) {
            if (gpu_of(x, x->replicas[first + r]) == gpus[r])
                continue;
            if (*n_moves == 2 * MP_LAYER_MOVES_MAX)
                return false;
            moves[(*n_moves)++] = (struct mp_item_move){x->replicas[first + r], gpus[r]};
        }
    }
    for (uint32_t j = 0; j < *n_moves; j++)
        for (int side = 0; side < 2; side++) {
            uint16_t g = side == 0 ? (uint16_t)gpu_of(x, moves[j].item) : moves[j].gpu;
            uint32_t i = 0;
            while (i < n_touched && touched[i] != g)
                i++;
            if (i < n_touched)
                continue;
            if (n_touched == MP_LAYER_MOVES_MAX)
                return false;
            touched[n_touched++] = g;
        }
    return true;
}

/* Tries; keeps what is better than `than`. */
static bool improve(struct local *x, const struct mp_item_move *wanted, uint32_t n, uint64_t than, bool is_race) {
    struct mp_item_move moves[2 * MP_LAYER_MOVES_MAX];
    uint32_t n_moves;
    uint16_t from[3];
    if (!spell_out(x, wanted, n, moves, &n_moves))
        return false;
    for (uint32_t j = 0; j < n; j++)
        from[j] = (uint16_t)gpu_of(x, wanted[j].item);
    if (mp_layer_cost_try(x->cost, moves, n_moves, is_race) >= than)
        return false;
    mp_layer_cost_keep(x->cost);
    for (uint32_t j = 0; j < n; j++) {
        x->n_used[from[j]]--;
        x->n_used[wanted[j].gpu]++;
        x->is_dirty[from[j]] = x->is_dirty[wanted[j].gpu] = true;
    }
    return true;
}
static bool improve_now(struct local *x, const struct mp_item_move *wanted, uint32_t n) {
    return improve(x, wanted, n, mp_layer_cost_now(x->cost), x->search->values[OPTION_RACE] != 0);
}

static bool swap(struct local *x, uint32_t a, uint32_t b) {
    uint32_t g = gpu_of(x, a), h = gpu_of(x, b);
    const struct mp_item_move wanted[2] = {{(uint16_t)a, (uint16_t)h}, {(uint16_t)b, (uint16_t)g}};
    return g != h && x->copies[a] != x->copies[b] && improve_now(x, wanted, 2);
}
static bool shift(struct local *x, uint32_t a, uint32_t gpu) {
    const struct mp_item_move wanted = {(uint16_t)a, (uint16_t)gpu};
    return gpu != gpu_of(x, a) && room_of(x, gpu) > 0 && improve_now(x, &wanted, 1);
}

/* Everything that exchanges items of GPU g; true when something was better. */
static bool scan_gpu(struct local *x, uint32_t g) {
    uint32_t n = 0, shifted = (uint32_t)mp_rng_below(&x->rng, x->n_items);
    for (uint32_t i = 0; i < x->n_items; i++) {
        uint32_t item = (i + shifted) % x->n_items;
        if (gpu_of(x, item) == g)
            x->at[n++] = (uint16_t)item;
    }
    for (uint32_t k = 0; k < n; k++) {
        uint32_t a = x->at[k];
        for (uint32_t h = 0; h < x->n_gpus; h++)
            if (room_of(x, h) > 0 && shift(x, a, h))
                return true;
        for (uint32_t b = 0; b < x->n_items; b++) {
            if (swap(x, a, (b + shifted) % x->n_items))
                return true;
            if ((b & 15) == 15 && is_over(x))
                return false;
        }
    }
    for (uint32_t b = 0; b < x->n_items && room_of(x, g) > 0; b++)
        if (shift(x, b, g))
            return true;
    return false;
}

/* To where no exchange and no move is better. */
static void descend(struct local *x) {
    bool is_settled = false;
    while (!is_over(x)) {
        bool is_better = false, is_any = false;
        mp_layer_cost_busy(x->cost, x->order); /* the busiest first */
        uint32_t best = MP_NONE;
        for (uint32_t g = 0; g < x->n_gpus; g++)
            if (x->is_dirty[g] && (best == MP_NONE || x->order[g] > x->order[best]))
                best = g;
        is_any = best != MP_NONE;
        if (is_any) {
            x->is_dirty[best] = false;
            is_better = scan_gpu(x, best);
            is_settled &= !is_better;
        }
        if (is_better || is_any)
            continue;
        if (is_settled)
            return;
        is_settled = true; /* once around all of them: a change elsewhere may have made others good */
        for (uint32_t g = 0; g < x->n_gpus; g++)
            x->is_dirty[g] = true;
    }
}

/* Random 3-cycles; true when one was better. */
static bool cycles(struct local *x, uint32_t n) {
    for (uint32_t i = 0; i < n && !is_over(x); i++) {
        uint32_t a[3], g[3];
        for (int k = 0; k < 3; k++) {
            a[k] = (uint32_t)mp_rng_below(&x->rng, x->n_items);
            g[k] = gpu_of(x, a[k]);
        }
        const struct mp_item_move wanted[3] = {
            {(uint16_t)a[0], (uint16_t)g[1]}, {(uint16_t)a[1], (uint16_t)g[2]}, {(uint16_t)a[2], (uint16_t)g[0]}};
        if (g[0] != g[1] && g[1] != g[2] && g[0] != g[2] && x->copies[a[0]] != x->copies[a[1]] &&
            x->copies[a[1]] != x->copies[a[2]] && x->copies[a[0]] != x->copies[a[2]] && improve_now(x, wanted, 3))
            return true;
    }
    return false;
}

/* A few random exchanges or moves, whatever they cost. */
static void kick(struct local *x, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        uint32_t a = (uint32_t)mp_rng_below(&x->rng, x->n_items), b = (uint32_t)mp_rng_below(&x->rng, x->n_items);
        uint32_t g = gpu_of(x, a), h = gpu_of(x, b), roomy = (uint32_t)mp_rng_below(&x->rng, x->n_gpus);
        const struct mp_item_move move = {(uint16_t)a, (uint16_t)roomy};
        const struct mp_item_move two[2] = {{(uint16_t)a, (uint16_t)h}, {(uint16_t)b, (uint16_t)g}};
        if (roomy != g && room_of(x, roomy) > 0 && mp_rng_below(&x->rng, 2) == 0)
            (void)improve(x, &move, 1, UINT64_MAX, false);
        else if (g != h && x->copies[a] != x->copies[b])
            (void)improve(x, two, 2, UINT64_MAX, false);
    }
}

static void count_used(struct local *x) {
    memset(x->n_used, 0, x->n_gpus * sizeof *x->n_used);
    for (uint32_t i = 0; i < x->n_items; i++)
        x->n_used[gpu_of(x, i)]++;
}

static void keep_best(struct local *x) {
    if (mp_layer_cost_now(x->cost) >= x->best_value)
        return;
    x->best_value = mp_layer_cost_now(x->cost);
    memcpy(x->best, mp_layer_cost_gpus(x->cost), x->n_items * sizeof *x->best);
}

/* Back to the best placement: a few items at a time, which costs less than to count everything anew. */
static void return_to_best(struct local *x) {
    struct mp_item_move moves[RETURN_MOVES];
    uint32_t n = 0;
    for (uint32_t i = 0; i < x->n_items; i++) {
        if (gpu_of(x, i) != x->best[i])
            moves[n++] = (struct mp_item_move){(uint16_t)i, x->best[i]};
        if (n == RETURN_MOVES || (n > 0 && i + 1 == x->n_items)) {
            (void)mp_layer_cost_try(x->cost, moves, n, false);
            mp_layer_cost_keep(x->cost);
            n = 0;
        }
    }
    count_used(x);
}

/* From a placement to a local optimum. */
static void settle(struct local *x, const uint16_t *gpu) {
    if (gpu != NULL) {
        mp_layer_cost_set(x->cost, gpu);
        count_used(x);
        for (uint32_t g = 0; g < x->n_gpus; g++)
            x->is_dirty[g] = true;
    }
    keep_best(x);
    do
        descend(x);
    while (cycles(x, 2 * x->n_items));
    keep_best(x);
}

/* gpu[item] of a layer of another plan with the same copies; false when it has others. */
static bool read_start(const struct local *x, const struct mp_plan *p, uint32_t layer, uint16_t *gpu, uint32_t *seen) {
    memset(seen, 0, x->n_experts * sizeof *seen);
    for (uint32_t g = 0; g < x->n_gpus; g++)
        for (uint32_t s = p->gpu_first_slot[g]; s < p->gpu_first_slot[g + 1]; s++) {
            uint32_t e = p->layers[layer].slot_expert[s];
            if (e == MP_NO_EXPERT)
                continue;
            uint32_t r = seen[e]++;
            if (r >= x->replica_first[e + 1] - x->replica_first[e])
                return false;
            uint32_t item = x->replicas[x->replica_first[e] + r];
            if (r > 0 && gpu[x->replicas[x->replica_first[e] + r - 1]] == g)
                return false; /* EPLB may do that; replicas are distinct here */
            gpu[item] = (uint16_t)g;
        }
    for (uint32_t e = 0; e < x->n_experts; e++)
        if (seen[e] != x->replica_first[e + 1] - x->replica_first[e])
            return false;
    return true;
}

/* Every item on a random GPU with room; replicas distinct as far as luck has it. False when it did not. */
static bool random_start(struct local *x, uint16_t *gpu, uint32_t *perm) {
    uint32_t n = 0;
    for (uint32_t g = 0; g < x->n_gpus; g++)
        for (uint32_t s = x->first_slot[g]; s < x->first_slot[g + 1]; s++)
            perm[n++] = g;
    mp_rng_shuffle(&x->rng, perm, n);
    for (uint32_t e = 0; e < x->n_experts; e++) {
        uint32_t first = x->replica_first[e], m = x->replica_first[e + 1] - first;
        for (uint32_t r = 0; r < m; r++) {
            uint32_t k = 0, at = r;
            for (bool is_taken = true; is_taken && k < n; k += is_taken) {
                is_taken = false;
                for (uint32_t i = 0; i < r; i++)
                    is_taken |= gpu[x->replicas[first + i]] == perm[k];
            }
            if (k == n)
                return false;
            uint16_t g = (uint16_t)perm[k];
            perm[k] = perm[--n];
            for (; at > 0 && gpu[x->replicas[first + at - 1]] > g; at--)
                gpu[x->replicas[first + at]] = gpu[x->replicas[first + at - 1]];
            gpu[x->replicas[first + at]] = g;
        }
    }
    return true;
}

static enum mp_status local_new(struct local *x, struct mp_error *err) {
    const struct mp_plan *p = x->search->draft->plan;
    x->arena = mp_arena_new();
    if (x->arena == NULL)
        return mp_nomem(err, "searching a layer");
    x->n_used = mp_arena_alloc(x->arena, x->n_gpus, sizeof *x->n_used);
    x->replica_first = mp_arena_alloc(x->arena, x->n_experts + 2, sizeof *x->replica_first);
    x->replicas = mp_arena_alloc(x->arena, x->n_items, sizeof *x->replicas);
    x->is_dirty = mp_arena_alloc(x->arena, x->n_gpus, sizeof *x->is_dirty);
    x->at = mp_arena_alloc(x->arena, x->n_items, sizeof *x->at);
    x->order = mp_arena_alloc(x->arena, x->n_gpus, sizeof *x->order);
    x->best = mp_arena_alloc(x->arena, x->n_items, sizeof *x->best);
    if (x->n_used == NULL || x->replica_first == NULL || x->replicas == NULL || x->is_dirty == NULL || x->at == NULL ||
        x->order == NULL || x->best == NULL)
        return mp_nomem(err, "searching a layer");
    x->first_slot = p->gpu_first_slot;
    for (uint32_t i = 0; i < x->n_items; i++)
        x->replica_first[x->copies[i] + 2]++;
    for (uint32_t e = 1; e < x->n_experts + 2; e++)
        x->replica_first[e] += x->replica_first[e - 1];
    for (uint32_t i = 0; i < x->n_items; i++)
        x->replicas[x->replica_first[x->copies[i] + 1]++] = (uint16_t)i;
    x->best_value = UINT64_MAX;
    return MP_OK;
}

struct start {
    uint64_t value;
    uint32_t number;
};
static int by_value(const void *a, const void *b) {
    const struct start *x = a, *y = b;
    if (x->value != y->value)
        return x->value < y->value ? -1 : 1;
    return (x->number > y->number) - (x->number < y->number);
}

static enum mp_status search_from_starts(struct local *x, const struct mp_layer_cost_spec *spec, struct mp_error *err) {
    const struct search *s = x->search;
    uint32_t n = 0, n_slots = s->draft->plan->n_slots, n_all = s->starts.n + (uint32_t)s->values[OPTION_RANDOM];
    uint16_t *gpu = mp_arena_alloc(x->arena, ((size_t)n_all + 1) * x->n_items, sizeof *gpu);
    uint32_t *seen = mp_arena_alloc(x->arena, x->n_experts + n_slots, sizeof *seen);
    struct start *starts = mp_arena_alloc(x->arena, n_all + 1, sizeof *starts);
    if (gpu == NULL || seen == NULL || starts == NULL)
        return mp_nomem(err, "searching a layer");
    for (uint32_t i = 0; i < n_all; i++) {
        uint16_t *mine = gpu + (size_t)n * x->n_items;
        if (n > 0 && mp_layer_cost_work(x->cost) >= x->limit)
            break;
        if (i < s->starts.n ? !read_start(x, s->starts.plan[i], spec->layer, mine, seen) : !random_start(x, mine, seen))
            continue;
        mp_layer_cost_set(x->cost, mine);
        keep_best(x);
        starts[n] = (struct start){mp_layer_cost_now(x->cost), n};
        n++;
    }
    if (n == 0)
        return MP_OK; /* best_value says that there is none */
    uint16_t *grouped = gpu + (size_t)n * x->n_items;
    bool has_groups;
    memcpy(grouped, x->best, x->n_items * sizeof *grouped);
    enum mp_status status =
        mp_layer_cost_groups(x->cost, spec, x->first_slot, &x->rng, x->limit / GROUPS_PART, grouped, &has_groups, err);
    if (status != MP_OK)
        return status;
    if (has_groups) {
        mp_layer_cost_set(x->cost, grouped);
        keep_best(x);
        starts[n] = (struct start){mp_layer_cost_now(x->cost), n};
        n++;
    }
    qsort(starts, n, sizeof *starts, by_value);
    /* Most of the work goes to the descent from the best start and to kicks; the other starts are a glance. */
    const uint64_t all = x->limit;
    for (uint32_t i = 0; i < n; i++) {
        if (i > 0 && starts[i].value == starts[i - 1].value)
            continue; /* the same placement, as lpt and eplb often have it */
        uint64_t used = mp_layer_cost_work(x->cost), left = all > used ? all - used : 0;
        x->limit = used + (i == 0 ? left / 8 * 5 : left / 8);
        settle(x, gpu + (size_t)starts[i].number * x->n_items);
        x->is_over = false;
    }
    x->limit = all;
    mp_layer_cost_set(x->cost, x->best);
    count_used(x);
    for (uint32_t i = 0; i < (uint32_t)s->values[OPTION_KICKS] && !is_over(x); i++) {
        uint64_t before = x->best_value;
        memset(x->is_dirty, 0, x->n_gpus * sizeof *x->is_dirty);
        kick(x, 2 + (uint32_t)mp_rng_below(&x->rng, 3));
        settle(x, NULL);
        if (x->best_value < before)
            i = 0;
        if (mp_layer_cost_now(x->cost) > x->best_value)
            return_to_best(x);
    }
    return MP_OK;
}

static enum mp_status search_layer(void *ctx, size_t layer, unsigned worker, struct mp_error *err) {
    (void)worker;
    struct search *s = ctx;
    struct mp_plan *p = s->draft->plan;
    struct local x = {.search = s,
                      .rng = mp_rng_seed(s->problem->seed ^ mp_mix64(layer)),
                      .copies = s->draft->copies + layer * p->n_slots,
                      .n_items = mp_draft_n(s->draft, (uint32_t)layer),
                      .n_gpus = p->n_gpus,
                      .n_experts = p->n_experts,
                      .limit = s->effort};
    const struct mp_layer_cost_spec spec = {.problem = s->problem,
                                            .copies = x.copies,
                                            .n_copies = x.n_items,
                                            .layer = (uint32_t)layer,
                                            .n_steps = s->n_steps,
                                            .steps = s->steps,
                                            .rows_max = (uint64_t)s->values[OPTION_ROWS],
                                            .shrink_permille = (uint32_t)s->values[OPTION_SHRINK]};
    enum mp_status status;
    MP_TRY(mp_layer_cost_new(&x.cost, &spec, &s->outcomes[layer], &s->declined[layer]));
    if (s->outcomes[layer] != MP_FOUND)
        goto out;
    MP_TRY(local_new(&x, err));
    MP_TRY(search_from_starts(&x, &spec, err));
    if (x.best_value == UINT64_MAX) {
        s->outcomes[layer] = MP_NOT_FOUND;
        goto out;
    }
    s->work[layer] = mp_layer_cost_work(x.cost);
    s->has_struck[layer] = x.is_over && s->work[layer] < s->effort;
    uint16_t *slots = p->layers[layer].slot_expert;
    memset(slots, 0xff, p->n_slots * sizeof *slots);
    memset(x.n_used, 0, x.n_gpus * sizeof *x.n_used);
    for (uint32_t e = 0; e < x.n_experts; e++) /* ascending experts inside a GPU */
        for (uint32_t r = x.replica_first[e]; r < x.replica_first[e + 1]; r++) {
            uint32_t g = x.best[x.replicas[r]];
            slots[p->gpu_first_slot[g] + x.n_used[g]++] = (uint16_t)e;
        }
out:
    if (status != MP_OK && err != NULL && err->message[0] == '\0')
        *err = s->declined[layer];
    mp_layer_cost_free(x.cost);
    mp_arena_free(x.arena);
    return status;
}

/* ---- starts: what other strategies do with the same copies ---- */
static void free_starts(struct starts *s) {
    for (uint32_t i = 0; i < s->n; i++)
        mp_plan_free((struct mp_plan *)s->plan[i]);
    s->n = 0;
}

static enum mp_status same_shape(struct mp_plan **out, const struct mp_plan *p, struct mp_error *err) {
    uint32_t *slots = mp_calloc(p->n_gpus, sizeof *slots);
    *out = NULL;
    if (slots == NULL)
        return mp_nomem(err, "a start of a search");
    for (uint32_t g = 0; g < p->n_gpus; g++)
        slots[g] = p->gpu_first_slot[g + 1] - p->gpu_first_slot[g];
    enum mp_status status = mp_plan_new(out, p->n_layers, p->n_experts, p->n_gpus, slots, err);
    mp_free(slots);
    return status;
}

static enum mp_status make_starts(struct starts *out, const struct search *s, const struct mp_draft *like,
                                  const char *const *names, size_t n_names, struct mp_error *err) {
    for (size_t i = 0; i < n_names; i++) {
        const struct mp_strategy *strategy = mp_strategy_find(MP_PLAN_PLACE, names[i]);
        struct mp_problem p = *s->problem;
        struct mp_draft draft = *like;
        struct mp_error why = {0};
        enum mp_outcome outcome = MP_NOT_FOUND;
        struct mp_arena *scratch = mp_arena_new();
        draft.plan = NULL;
        enum mp_status status =
            scratch != NULL ? same_shape(&draft.plan, s->draft->plan, err) : mp_nomem(err, "starts");
        p.needs_distinct = true;
        p.option_values = NULL;
        if (status == MP_OK)
            status = strategy->solve(&p, s->budget, scratch, &draft, &outcome, &why);
        mp_arena_free(scratch);
        if (status != MP_OK || outcome != MP_FOUND) {
            mp_plan_free(draft.plan);
            if (status != MP_OK && err != NULL && why.message[0] != '\0')
                *err = why;
            if (status != MP_OK)
                return status;
            continue;
        }
        out->plan[out->n++] = draft.plan;
    }
    return MP_OK;
}

/* ---- replicas and placement together ---- */
/* EPLB's choice of `n_extra` replicas, placed by itself and by lpt. */
static enum mp_status start_with(struct search *s, uint32_t n_extra, struct mp_arena *scratch, struct mp_error *err) {
    static const char *const names[] = {"lpt", "eplb"};
    const struct mp_plan *p = s->draft->plan;
    struct mp_draft draft = {.plan = s->draft->plan, .n_copies = p->n_experts + n_extra};
    const struct mp_eplb_shape shape = {
        p->n_experts, draft.n_copies, 1, 1, 1, p->n_gpus < MP_REPLICAS_MAX ? p->n_gpus : MP_REPLICAS_MAX};
    struct mp_eplb *w;
    draft.copies = mp_arena_alloc(scratch, (size_t)p->n_layers * p->n_slots, sizeof *draft.copies);
    if (draft.copies == NULL)
        return mp_nomem(err, "starts");
    enum mp_status status = mp_eplb_new(&w, &shape, scratch, err);
    if (status != MP_OK)
        return status;
    for (uint32_t l = 0; l < p->n_layers; l++)
        mp_eplb_copies(w, s->problem->load + (size_t)l * p->n_experts, draft.copies + (size_t)l * p->n_slots);
    return make_starts(&s->more, s, &draft, names, n_extra == s->problem->n_redundant ? 2 : 1, err);
}

static enum mp_status replicate_layer(void *ctx, size_t layer, unsigned worker, struct mp_error *err) {
    (void)worker;
    struct search *s = ctx;
    struct mp_plan *p = s->draft->plan;
    const uint16_t *starts[STARTS_MAX + 1];
    uint64_t value;
    struct mp_joint in = {.cost = {.problem = s->problem,
                                   .layer = (uint32_t)layer,
                                   .n_steps = s->n_steps,
                                   .steps = s->steps,
                                   .rows_max = (uint64_t)s->values[OPTION_ROWS],
                                   .rule = s->problem->placed_for,
                                   .shrink_permille = (uint32_t)s->values[OPTION_SHRINK]},
                          .first_slot = p->gpu_first_slot,
                          .n_extra = s->problem->n_redundant,
                          .must_fill = s->must_fill,
                          .load = s->problem->load + layer * p->n_experts,
                          .starts = starts,
                          .kicks = (uint32_t)s->values[OPTION_KICKS],
                          .is_race = s->values[OPTION_RACE] != 0,
                          .effort = s->effort,
                          .seed = s->problem->seed ^ mp_mix64(layer + p->n_layers),
                          .budget = s->budget,
                          .started = s->started};
    if (!s->must_fill)
        starts[in.n_starts++] = p->layers[layer].slot_expert;
    for (uint32_t i = 0; i < s->more.n; i++)
        starts[in.n_starts++] = s->more.plan[i]->layers[layer].slot_expert;
    enum mp_status status = mp_joint_search(&in, p->layers[layer].slot_expert, &value, &s->work[layer],
                                            &s->has_struck[layer], &s->outcomes[layer], &s->declined[layer]);
    if (status != MP_OK && err != NULL)
        *err = s->declined[layer];
    return status;
}

/* Steps to look at: as many as the option says, but so few that setting out from a start is a small part of the effort.
 * None: those of the problem will do. */
static enum mp_status draw(struct mp_workload **out, const struct search *s, uint32_t n_items, bool by_token,
                           struct mp_error *err) {
    const struct mp_problem *in = s->problem;
    const struct mp_workload *w = in->workload;
    *out = NULL;
    if (s->values[OPTION_DRAW] == 0 || w->n_steps == 0 || !mp_can_draw(in->part))
        return MP_OK;
    const uint64_t rows = by_token ? w->n_rows / w->n_steps : 0,
                   each = rows * 4 + (uint64_t)n_items * in->topology->n_gpus + 8 * (uint64_t)in->topology->n_gpus,
                   most = s->effort / START_PART / each;
    uint64_t n = (uint64_t)s->values[OPTION_DRAW];
    n = most < n ? most : n;
    n = n < DRAW_MIN ? DRAW_MIN : n;
    return mp_draw_steps(out, in->part, &w->batching, (uint32_t)n, in->seed, err);
}

static enum mp_status solve(const struct mp_problem *in, const struct mp_budget *budget, struct mp_arena *scratch,
                            struct mp_draft *draft, enum mp_outcome *outcome, struct mp_error *err);

/* Where replicas are chosen too it begins with single copies: what a search for those comes to. */
static enum mp_status begin_with_singles(struct search *s, const struct mp_problem *in, struct mp_arena *scratch,
                                         enum mp_outcome *outcome, struct mp_error *err) {
    struct mp_plan *p = s->draft->plan;
    struct mp_draft single = *s->draft;
    struct mp_budget half = *s->budget;
    if (in->singles != NULL) {
        for (uint32_t l = 0; l < p->n_layers; l++)
            memcpy(p->layers[l].slot_expert, in->singles->layers[l].slot_expert,
                   p->n_slots * sizeof *p->layers[l].slot_expert);
        *outcome = MP_FOUND;
        return MP_OK;
    }
    single.is_open = false;
    single.work_used = 0;
    half.work_limit = half.work_limit > 1 ? half.work_limit / 2 : half.work_limit;
    enum mp_status status = solve(in, &half, scratch, &single, outcome, err);
    s->draft->work_used += single.work_used;
    return status;
}

static enum mp_status solve(const struct mp_problem *in, const struct mp_budget *budget, struct mp_arena *scratch,
                            struct mp_draft *draft, enum mp_outcome *outcome, struct mp_error *err) {
    struct mp_plan *p = draft->plan;
    struct search s = {
        .problem = in, .budget = budget, .draft = draft, .values = in->option_values, .started = mp_now_seconds()};
    struct mp_problem looked_at = *in;
    struct mp_workload *drawn = NULL;
    enum mp_status status;
    bool by_token = in->sim.dispatcher->copies == MP_COPY_PER_NODE || in->sim.dispatcher->copies == MP_COPY_PER_GPU;
    s.effort = (uint64_t)s.values[OPTION_EFFORT] * 1000000 * (by_token ? 2 : 1);
    const bool is_large = in->n_redundant > 0 && s.effort > EFFORT_OF_ALL / p->n_layers;
    if (is_large)
        s.effort = EFFORT_OF_ALL / p->n_layers;
    if (budget->work_limit > 0) {
        uint64_t each = mp_mul_div(budget->work_limit, WORK_PER_PAIR, p->n_layers);
        s.effort = each < s.effort ? each : s.effort;
    }
    s.is_open = draft->is_open && in->n_redundant > 0;
    s.must_fill = s.is_open && in->needs_equal_slots;
    MP_TRY(draw(&drawn, &s, s.is_open ? 2 * (draft->n_copies + in->n_redundant) : draft->n_copies, by_token, err));
    looked_at.workload = drawn != NULL ? drawn : in->workload;
    const uint32_t n = looked_at.workload->n_steps;
    s.n_steps = n < (uint64_t)s.values[OPTION_STEPS] ? n : (uint32_t)s.values[OPTION_STEPS];
    s.steps = mp_arena_alloc(scratch, s.n_steps, sizeof *s.steps);
    s.work = mp_arena_alloc(scratch, p->n_layers, sizeof *s.work);
    s.has_struck = mp_arena_alloc(scratch, p->n_layers, sizeof *s.has_struck);
    s.outcomes = mp_arena_alloc(scratch, p->n_layers, sizeof *s.outcomes);
    s.declined = mp_arena_alloc(scratch, p->n_layers, sizeof *s.declined);
    if (s.steps == NULL || s.work == NULL || s.has_struck == NULL || s.outcomes == NULL || s.declined == NULL) {
        status = mp_nomem(err, "searching a placement");
        goto out;
    }
    for (uint32_t i = 0; i < s.n_steps; i++)
        s.steps[i] = (uint32_t)mp_mul_div(2 * (uint64_t)i + 1, n, 2 * (uint64_t)s.n_steps);
    if (s.is_open && !s.must_fill) {
        MP_TRY(begin_with_singles(&s, in, scratch, outcome, err));
        if (*outcome != MP_FOUND)
            goto out;
    }
    if (s.is_open) {
        for (uint32_t part = 1; part < 8 && in->n_redundant / part > 0; part *= 2)
            MP_TRY(start_with(&s, in->n_redundant / part, scratch, err));
        s.effort = is_large || (budget->work_limit > 0 && in->singles == NULL) ? s.effort / 2 : s.effort / 3 * 2;
    } else {
        static const char *const names[] = {"contiguous", "lpt", "eplb", "round-robin"};
        MP_TRY(make_starts(&s.starts, &s, draft, names, sizeof names / sizeof *names, err));
        s.problem = &looked_at;
        MP_TRY(mp_parallel_for_told(in->sim.progress, "layers", in->n_threads, p->n_layers, search_layer, &s, err));
    }
    *outcome = MP_FOUND;
    s.problem = &looked_at;
    if (s.is_open)
        MP_TRY(mp_parallel_for_told(in->sim.progress, "layers", in->n_threads, p->n_layers, replicate_layer, &s, err));
    uint64_t work = 0;
    for (uint32_t l = 0; l < p->n_layers; l++) {
        work += s.work[l];
        if (s.has_struck[l] && budget->wall_struck != NULL)
            *budget->wall_struck = true;
        if (s.outcomes[l] != MP_FOUND && *outcome == MP_FOUND)
            status = s.outcomes[l] == MP_NOT_FOUND
                         ? mp_decline(err, outcome, MP_NOT_FOUND, MP_GRID_STUCK, "search", l)
                         : mp_decline(err, outcome, s.outcomes[l], "search: %s", s.declined[l].message);
    }
    draft->work_used += work / WORK_PER_PAIR;
out:
    free_starts(&s.starts);
    free_starts(&s.more);
    mp_workload_free(drawn);
    return status;
}

const struct mp_strategy mp_strategy_place_search = {
    .name = "search",
    .summary = "local search on the cost of every step: exchanges, moves and cycles from several starts",
    .reference = "docs/STRATEGIES.md",
    .stage = MP_PLAN_PLACE,
    .options = options,
    .takes_layers = true,
    .takes_open = true,
    .solve = solve};
