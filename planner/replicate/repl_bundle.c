/* Replicas of what tokens need together.
 *
 * Decides   sets of experts to copy to a node (on one node: a GPU) so that tokens that start there find everything they
 *           need from another place at home; slots may stay empty.
 * Minimises copies of tokens that leave their node (GPU); a set is taken only where the steps get shorter by it.
 * Method    a token needs another place for the set of its experts that stand there and not at home: a bundle. One that
 *           is copied home whole closes that token, and every other whose need it covers. Bundles of at most `size`
 *           experts, most tokens closed per replica first; copies go to the GPUs at home with fewest rows and room.
 * Each is tried on the cost of steps (planner/place/layer_cost.h), tokens going to the nearest replica.
 * Bound     never worse than the placement of single copies it begins with, on the steps it looks at.
 * Differs   replicating single experts (EPLB, GRACE) hardly saves copies: a token that needs two experts from a node
 *           still needs the node when one of them comes home (`bundle.size` 1 says how much that is).
 * Cost      per layer tokens looked at x bundles looked at, for each bundle taken. */
#include "start.h"
#include <moeplan/progress.h>
#include <moeplan/base.h>
#include <stdlib.h>
#include <string.h>

enum { OPTION_SIZE, OPTION_TOKENS, OPTION_TRIES, OPTION_STEPS };
static const struct mp_option options[] = {
    {"size", "experts", "most experts of a bundle", MP_SHIFTS_MAX, 1, MP_SHIFTS_MAX},
    {"tokens", "tokens", "tokens of each layer that bundles are looked for in", 2048, 64, 1 << 20},
    {"tries", "bundles", "bundles tried in a row that do not shorten steps, after which a layer is done", 12, 1,
     100000},
    {"steps", "steps", "steps they are weighed on", 64, 1, 65536},
    {.name = NULL}};
#define ROWS 131072u

struct bundler {
    const struct mp_problem *in; /* with the steps it looks at */
    const struct mp_plan *start;
    struct mp_draft *draft;
    uint32_t n_steps, *steps;
    struct mp_replica_set *sets; /* [n_layers][n_experts] what it came to */
    enum mp_outcome *outcomes;
    struct mp_error *declined;
};

/* What one token needs from one other place. */
struct need {
    uint16_t home, expert[MP_SHIFTS_MAX]; /* ascending; MP_NO_EXPERT behind the last */
    uint32_t n_tokens;                    /* that need just this */
};
struct layer {
    struct mp_replicated x;
    uint32_t n_places, *place; /* [n_gpus] */
    uint64_t *at_home;         /* [n_places][n_words] experts there */
    uint32_t n_words, n_needs;
    struct need *needs; /* [n_needs] distinct, by home and experts */
    bool *is_refused;   /* [n_needs] */
    uint64_t *rows;     /* [n_gpus] */
};

static int by_need(const void *a, const void *b) {
    const struct need *x = a, *y = b;
    if (x->home != y->home)
        return x->home < y->home ? -1 : 1;
    for (uint32_t i = 0; i < MP_SHIFTS_MAX; i++)
        if (x->expert[i] != y->expert[i])
            return x->expert[i] < y->expert[i] ? -1 : 1;
    return 0;
}

static bool is_home(const struct layer *l, uint32_t place, uint32_t expert) {
    return (l->at_home[(size_t)place * l->n_words + expert / 64] >> expert % 64 & 1) != 0;
}

/* Experts of a need that are not at home yet: how many. */
static uint32_t missing(const struct layer *l, const struct need *d, uint16_t *out) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < MP_SHIFTS_MAX && d->expert[i] != MP_NO_EXPERT; i++)
        if (!is_home(l, d->home, d->expert[i]))
            out[n++] = d->expert[i];
    return n;
}

/* Reads needs from tokens evenly from all steps; equal ones become one. */
static void read_needs(const struct bundler *s, struct layer *l, uint32_t layer, uint32_t n_tokens) {
    const struct mp_workload *w = s->in->workload;
    const uint32_t size = (uint32_t)s->in->option_values[OPTION_SIZE];
    uint64_t n_rows = 0, before = 0;
    for (uint32_t i = 0; i < s->n_steps; i++)
        n_rows += w->steps[s->steps[i]].n;
    for (uint32_t t = 0, step = 0; t < n_tokens; t++) {
        const uint64_t row = mp_mul_div(t, n_rows, n_tokens);
        uint16_t ids[MP_MAX_TOP_K];
        while (row >= before + w->steps[s->steps[step]].n)
            before += w->steps[s->steps[step++]].n;
        const struct mp_step *st = &w->steps[s->steps[step]];
        const uint32_t home = l->place[st->source[row - before]],
                       k = mp_trace_row(w->trace, layer, st->row[row - before], ids);
        for (uint32_t v = 0; v < l->n_places; v++) {
            struct need *d = &l->needs[l->n_needs];
            uint32_t n = 0;
            for (uint32_t j = 0; j < k && v != home; j++) {
                const bool is_there = l->place[l->x.set[ids[j]].gpu[0]] == v && !is_home(l, home, ids[j]);
                if (is_there && n < MP_SHIFTS_MAX)
                    d->expert[n] = ids[j];
                n += is_there;
            }
            if (n == 0 || n > size)
                continue;
            for (uint32_t a = 1; a < n; a++)
                for (uint32_t b = a; b > 0 && d->expert[b - 1] > d->expert[b]; b--) {
                    const uint16_t e = d->expert[b];
                    d->expert[b] = d->expert[b - 1];
                    d->expert[b - 1] = e;
                }
            for (; n < MP_SHIFTS_MAX; n++)
                d->expert[n] = MP_NO_EXPERT;
            d->home = (uint16_t)home;
            d->n_tokens = 1;
            l->n_needs++;
        }
    }
    qsort(l->needs, l->n_needs, sizeof *l->needs, by_need);
    uint32_t n = 0;
    for (uint32_t i = 0; i < l->n_needs; i++) {
        if (n > 0 && by_need(&l->needs[n - 1], &l->needs[i]) == 0)
            l->needs[n - 1].n_tokens++;
        else
            l->needs[n++] = l->needs[i];
    }
    l->n_needs = n;
}

/* The bundle that closes most tokens per replica; its experts. */
static uint32_t best_bundle(const struct layer *l, uint32_t room, uint16_t *experts, uint32_t *n) {
    uint32_t best = MP_NONE;
    uint64_t best_closed = 0;
    *n = 1;
    for (uint32_t i = 0; i < l->n_needs; i++) {
        uint16_t wanted[MP_SHIFTS_MAX], other[MP_SHIFTS_MAX];
        const uint32_t m = missing(l, &l->needs[i], wanted);
        uint64_t closed = 0;
        if (m == 0 || m > room || l->is_refused[i])
            continue;
        /* needs of this home are side by side */
        for (uint32_t side = 0; side < 2; side++)
            for (uint32_t j = side == 0 ? i : i - 1; j < l->n_needs && l->needs[j].home == l->needs[i].home;
                 side == 0 ? j++ : j--) {
                const uint32_t k = missing(l, &l->needs[j], other);
                bool is_covered = k > 0;
                for (uint32_t a = 0; a < k && is_covered; a++) {
                    bool is_in = false;
                    for (uint32_t b = 0; b < m; b++)
                        is_in |= wanted[b] == other[a];
                    is_covered = is_in;
                }
                closed += is_covered ? l->needs[j].n_tokens : 0;
            }
        if (closed * *n > best_closed * m) {
            best = i;
            best_closed = closed;
            *n = m;
            memcpy(experts, wanted, m * sizeof *wanted);
        }
    }
    return best;
}

/* A GPU at home for each expert: with room, fewest rows. False where there is none. */
static bool shifts_of(const struct layer *l, const struct mp_problem *in, uint32_t layer, uint32_t home,
                      const uint16_t *experts, uint32_t n, struct mp_shift *out) {
    uint16_t used[MP_SHIFTS_MAX];
    for (uint32_t i = 0; i < n; i++) {
        uint32_t best = MP_NONE;
        for (uint32_t g = 0; g < l->x.n_gpus; g++) {
            uint32_t taken = 0;
            for (uint32_t j = 0; j < i; j++)
                taken += used[j] == g;
            if (l->place[g] == home && mp_replicated_room(&l->x, g) > taken &&
                (best == MP_NONE || l->rows[g] < l->rows[best]))
                best = g;
        }
        if (best == MP_NONE)
            return false;
        used[i] = (uint16_t)best;
        out[i] = (struct mp_shift){experts[i], MP_ITEM_OFF, (uint16_t)best};
        l->rows[best] += in->load[(size_t)layer * l->x.n_experts + experts[i]] / l->n_places;
    }
    return true;
}

static void add_bundles(const struct bundler *s, struct layer *l, uint32_t layer) {
    const uint64_t *load = s->in->load + (size_t)layer * l->x.n_experts;
    for (uint32_t quiet = 0; quiet < (uint64_t)s->in->option_values[OPTION_TRIES];) {
        uint16_t experts[MP_SHIFTS_MAX];
        struct mp_shift shifts[MP_SHIFTS_MAX];
        uint32_t n;
        const uint32_t best = best_bundle(l, s->in->n_redundant - l->x.n_extra, experts, &n);
        if (best == MP_NONE)
            return;
        memset(l->rows, 0, l->x.n_gpus * sizeof *l->rows);
        for (uint32_t e = 0; e < l->x.n_experts; e++)
            for (uint32_t r = 0; r < l->x.set[e].n; r++)
                l->rows[l->x.set[e].gpu[r]] += load[e] / l->x.set[e].n;
        l->is_refused[best] = true;
        quiet++;
        if (!shifts_of(l, s->in, layer, l->needs[best].home, experts, n, shifts) ||
            mp_replicated_try(&l->x, shifts, n, false) >= mp_layer_cost_now(l->x.cost))
            continue;
        mp_replicated_keep(&l->x, shifts, n);
        for (uint32_t i = 0; i < n; i++)
            l->at_home[(size_t)l->needs[best].home * l->n_words + experts[i] / 64] |= UINT64_C(1) << experts[i] % 64;
        quiet = 0;
    }
}

static enum mp_status bundle(const struct bundler *s, uint32_t layer, struct layer *l, struct mp_arena *arena,
                             struct mp_error *err) {
    const struct mp_plan *p = s->draft->plan;
    const struct mp_workload *w = s->in->workload;
    uint64_t n_tokens = 0;
    for (uint32_t i = 0; i < s->n_steps; i++)
        n_tokens += w->steps[s->steps[i]].n;
    n_tokens = n_tokens < (uint64_t)s->in->option_values[OPTION_TOKENS] ? n_tokens
                                                                        : (uint64_t)s->in->option_values[OPTION_TOKENS];
    const uint32_t n_nodes = mp_topology_n_nodes(s->in->topology);
    l->n_places = n_nodes > 1 ? n_nodes : p->n_gpus;
    l->n_words = (p->n_experts + 63) / 64;
    l->place = mp_arena_alloc(arena, p->n_gpus, sizeof *l->place);
    l->at_home = mp_arena_alloc(arena, (size_t)l->n_places * l->n_words, sizeof *l->at_home);
    const uint64_t most = w->trace->top_k < l->n_places ? w->trace->top_k : l->n_places;
    l->needs = mp_arena_alloc(arena, n_tokens * most + 1, sizeof *l->needs);
    l->is_refused = mp_arena_alloc(arena, n_tokens * most + 1, sizeof *l->is_refused);
    l->rows = mp_arena_alloc(arena, p->n_gpus, sizeof *l->rows);
    if (l->place == NULL || l->at_home == NULL || l->needs == NULL || l->is_refused == NULL || l->rows == NULL)
        return mp_nomem(err, "replicating experts");
    for (uint32_t g = 0; g < p->n_gpus; g++)
        l->place[g] = n_nodes > 1 ? mp_topology_node(s->in->topology, g) : g;
    for (uint32_t e = 0; e < p->n_experts; e++)
        l->at_home[(size_t)l->place[l->x.set[e].gpu[0]] * l->n_words + e / 64] |= UINT64_C(1) << e % 64;
    read_needs(s, l, layer, (uint32_t)n_tokens);
    add_bundles(s, l, layer);
    memcpy(s->sets + (size_t)layer * p->n_experts, l->x.set, p->n_experts * sizeof *l->x.set);
    return MP_OK;
}

static enum mp_status bundle_layer(void *ctx, size_t layer, unsigned worker, struct mp_error *err) {
    (void)worker;
    const struct bundler *s = ctx;
    const struct mp_plan *p = s->draft->plan;
    struct layer l = {.n_places = 0};
    const struct mp_layer_cost_spec spec = {.problem = s->in,
                                            .layer = (uint32_t)layer,
                                            .n_steps = s->n_steps,
                                            .steps = s->steps,
                                            .rule = MP_ROUTE_NEAREST,
                                            .rows_max = ROWS};
    const uint32_t cap = p->n_gpus < MP_REPLICAS_MAX ? p->n_gpus : MP_REPLICAS_MAX;
    struct mp_arena *arena = mp_arena_new();
    enum mp_status status = MP_OK;
    uint8_t *most = arena != NULL ? mp_arena_alloc(arena, p->n_experts, sizeof *most) : NULL;
    if (most == NULL) {
        status = mp_nomem(err, "replicating experts");
        goto out;
    }
    memset(most, (int)cap, p->n_experts);
    MP_TRY(mp_replicated_new(&l.x, &spec, most, p->gpu_first_slot, arena, &s->outcomes[layer], &s->declined[layer]));
    if (s->outcomes[layer] != MP_FOUND)
        goto out;
    if (!mp_replicated_read(&l.x, s->start->layers[layer].slot_expert)) {
        status = mp_fail(err, MP_EBUG, "bundle: layer %zu: a placement without some expert", layer);
        goto out;
    }
    MP_TRY(bundle(s, (uint32_t)layer, &l, arena, err));
out:
    if (status != MP_OK && err != NULL && err->message[0] == '\0')
        *err = s->declined[layer];
    mp_layer_cost_free(l.x.cost);
    mp_arena_free(arena);
    return status;
}

static enum mp_status solve(const struct mp_problem *in, const struct mp_budget *budget, struct mp_arena *scratch,
                            struct mp_draft *draft, enum mp_outcome *outcome, struct mp_error *err) {
    const struct mp_plan *p = draft->plan;
    struct mp_problem looked_at;
    struct mp_workload *drawn = NULL;
    struct mp_plan *start = NULL;
    struct bundler s = {.draft = draft};
    const size_t L = p->n_layers;
    enum mp_status status = MP_OK;
    if (in->workload->trace->kind == MP_TRACE_COUNTS)
        return mp_decline(err, outcome, MP_NOT_APPLICABLE,
                          "bundle: counts do not say which experts a token uses together (record the top-k of every "
                          "token, or use --replicate eplb)");
    if (in->placed_for != MP_ROUTE_NEAREST)
        return mp_decline(err, outcome, MP_NOT_APPLICABLE,
                          "bundle: a bundle at home is of use only to tokens that go to the nearest replica (write "
                          "--route nearest)");
    MP_TRY(mp_replicate_start(&start, in, budget, draft, "lpt", outcome, err));
    if (*outcome != MP_FOUND)
        goto out;
    MP_TRY(mp_replicate_steps(&looked_at, &drawn, &s.steps, &s.n_steps, in, (uint32_t)in->option_values[OPTION_STEPS],
                              scratch, err));
    s.in = &looked_at;
    s.start = start;
    s.sets = mp_arena_alloc(scratch, L * p->n_experts, sizeof *s.sets);
    s.outcomes = mp_arena_alloc(scratch, L, sizeof *s.outcomes);
    s.declined = mp_arena_alloc(scratch, L, sizeof *s.declined);
    if (s.sets == NULL || s.outcomes == NULL || s.declined == NULL) {
        status = mp_nomem(err, "replicating experts");
        goto out;
    }
    MP_TRY(mp_parallel_for_told(in->sim.progress, "layers", in->n_threads, L, bundle_layer, &s, err));
    draft->n_copies = 0;
    for (uint32_t l = 0; l < L; l++) {
        if (s.outcomes[l] != MP_FOUND) {
            status = mp_decline(err, outcome, s.outcomes[l], "bundle: %s", s.declined[l].message);
            goto out;
        }
        mp_replicate_write(draft, l, s.sets + l * (size_t)p->n_experts);
        draft->n_copies = draft->layer_copies[l] > draft->n_copies ? draft->layer_copies[l] : draft->n_copies;
    }
    draft->has_wish = draft->by_rule = true;
out:
    mp_plan_free(start);
    mp_workload_free(drawn);
    return status;
}

const struct mp_strategy mp_strategy_repl_bundle = {.name = "bundle",
                                                    .summary = "sets of experts that close what tokens need elsewhere",
                                                    .reference = "docs/STRATEGIES.md",
                                                    .stage = MP_PLAN_REPLICATE,
                                                    .is_named_only = true,
                                                    .options = options,
                                                    .solve = solve};
