/* Homes of requests: the methods, and the rule that a plan gets.
 *
 * Decides   the rule (docs/HOMES.md part 2) and, under codesign, the placement it goes with.
 * Minimises copies between nodes; the busiest GPU's rows stay within a tolerance of the plan's without homes.
 * Method    affinity: the strategy's placement as it is; a request's weights are the experts that its node holds.
 *           codesign: codesign.c for nodes, home_gpus.c for GPUs; with redundant slots, or where that has too much on
 *           one GPU, the strategy on steps whose requests have those homes. What has fewest copies on the planning
 * steps within the tolerance is taken, the placement without homes among them. Biases are the prices at which the
 * planning requests balance by what the rule sees of them (home_deal.c).
 * Bound     of the deal of requests, given the placement (home_deal.c); of copies for any placement: none known.
 * Paper     Semantic Parallelism, arXiv 2503.04398 (requests to data-parallel ranks by expected experts); METHODS.md
 * L.4
 * Differs   from it: the prefix is seen and not predicted; balance is exact; one home for all layers.
 * Cost      docs/HOMES.md part 6. */
#include "homes_parts.h"
#include <stdlib.h>
#include <string.h>

#define SLACK_SUMMARY "of a GPU's part of a step that a node may be ahead (0 = 200 in prefill, 25 in decode)"
#define PREFIX_OPTION                                                                                                  \
    { "prefix", "rows", "rows of a request that the rule sees (0 = all)", 64, 0, 1 << 20 }
#define SLACK_OPTION                                                                                                   \
    { "slack", "%", SLACK_SUMMARY, 0, 0, 100000 }
#define PRICE_OPTION                                                                                                   \
    { "price", "%", "of requests' mean preference that a node at that slack has to be better", 200, 0, 10000 }
enum { PREFIX, SLACK, PRICE, STARTS, ROUNDS, KICKS, EXPERT, LOAD, PEAK };

static const struct mp_option of_affinity[] = {PREFIX_OPTION, SLACK_OPTION, PRICE_OPTION, {.name = NULL}};
static const struct mp_option of_codesign[] = {
    PREFIX_OPTION,
    SLACK_OPTION,
    PRICE_OPTION,
    {"starts", "starts", "where homes and placement begin", 8, 1, 1000},
    {"rounds", "rounds", "of homes and placement in turn, at most", 6, 1, 100},
    {"kicks", "kicks", "per layer and round, to leave a local optimum", 2, 0, 1000},
    {"expert", "permille", "what a copy per expert counts beside a de-duplicated one", 150, 0, 100000},
    {"load", "ppm", "of its share of a layer's rows that a node may have more", 10000, 0, 1000000},
    {"peak", "ppm", "that the busiest GPU may have more rows than without homes", 20000, 0, 1000000},
    {.name = NULL}};

static const struct mp_strategy methods[] = {
    {.name = "none", .summary = "requests run where the batching puts them", .reference = "docs/STEPS.md"},
    {.name = "affinity",
     .summary = "to the node that holds most of what a request's prefix uses; the placement stays",
     .reference = "Semantic Parallelism, arXiv 2503.04398",
     .options = of_affinity},
    {.name = "codesign",
     .summary = "the same, and experts placed for those homes",
     .reference = "docs/HOMES.md; Semantic Parallelism, arXiv 2503.04398",
     .options = of_codesign},
};
#define N_METHODS (sizeof methods / sizeof methods[0])

const struct mp_strategy *mp_homes_at(uint32_t i) { return i < N_METHODS ? &methods[i] : NULL; }

const struct mp_strategy *mp_homes_find(const char *name) {
    for (size_t i = 0; name != NULL && i < N_METHODS; i++)
        if (strcmp(methods[i].name, name) == 0)
            return &methods[i];
    return NULL;
}

struct planning {
    const struct mp_plan_request *request;
    const struct mp_strategy *method;
    const int64_t *option;
    struct mp_home_data data;
    struct mp_part part; /* the planning part with the rule at hand */
    struct mp_arena *arena;
};

/* Weights of a placement: 1 for what a node holds, less what node 0 holds. */
static enum mp_status weights_of(const int8_t ***out, const struct planning *x, const struct mp_plan *plan,
                                 struct mp_error *err) {
    const struct mp_home_data *d = &x->data;
    const int8_t **weights = mp_arena_alloc(x->arena, d->n_layers, sizeof *weights);
    uint8_t *holds = mp_arena_alloc(x->arena, (size_t)d->n_nodes * d->n_experts, 1);
    if (weights == NULL || holds == NULL)
        return mp_nomem(err, "homes of requests");
    for (uint32_t l = 0; l < d->n_layers; l++) {
        int8_t *of_layer = mp_arena_alloc(x->arena, (size_t)(d->n_nodes - 1) * d->n_experts, 1);
        if (of_layer == NULL)
            return mp_nomem(err, "homes of requests");
        memset(holds, 0, (size_t)d->n_nodes * d->n_experts);
        for (uint32_t s = 0; s < plan->n_slots; s++)
            if (plan->layers[l].slot_expert[s] != MP_NO_EXPERT)
                holds[(size_t)plan->gpu_node[plan->slot_gpu[s]] * d->n_experts + plan->layers[l].slot_expert[s]] = 1;
        for (uint32_t v = 1; v < d->n_nodes; v++)
            for (uint32_t e = 0; e < d->n_experts; e++)
                of_layer[(size_t)(v - 1) * d->n_experts + e] = (int8_t)(holds[(size_t)v * d->n_experts + e] - holds[e]);
        weights[l] = of_layer;
    }
    *out = weights;
    return MP_OK;
}

static uint64_t tolerance_of(const struct planning *x) {
    const struct mp_batching *b = &x->request->batching;
    const bool is_decode = b->phase == MP_PHASE_DECODE;
    const uint64_t percent = x->option[SLACK] > 0 ? (uint64_t)x->option[SLACK] : is_decode ? 25 : 200;
    const uint64_t t = mp_mul_div(is_decode ? b->batch_per_rank : b->tokens_per_rank, percent, 100);
    return t < 1 ? 1 : t > MP_HOME_TOLERANCE_MAX ? MP_HOME_TOLERANCE_MAX : t;
}

static int64_t within(int64_t v, int64_t most) { return v < -most ? -most : v > most ? most : v; }

/* Biases that balance the planning requests, and the price of being ahead. */
static enum mp_status calibrate(struct mp_home_rule *rule, int32_t *bias, const struct planning *x,
                                struct mp_error *err) {
    const struct mp_home_data *d = &x->data;
    int64_t *cost = mp_arena_alloc(x->arena, (size_t)d->n_requests * d->n_nodes, sizeof *cost), least = INT64_MAX;
    uint16_t *home = mp_arena_alloc(x->arena, d->n_requests, sizeof *home);
    int64_t score[MP_HOME_NODES_MAX];
    if (cost == NULL || home == NULL)
        return mp_nomem(err, "homes of requests");
    for (uint32_t r = 0; r < d->n_requests; r++) {
        mp_home_scores(score, d->trace, d->request[r], rule);
        for (uint32_t v = 0; v < d->n_nodes; v++)
            cost[(size_t)r * d->n_nodes + v] = -score[v] * (int64_t)d->size[r];
    }
    struct mp_home_deal deal = {
        .n = d->n_requests, .n_nodes = d->n_nodes, .cost = cost, .size = d->size, .gpus_of = d->gpus_of, .home = home};
    enum mp_status status = mp_home_deal(&deal, err);
    if (status != MP_OK)
        return status;
    for (uint32_t v = 0; v < d->n_nodes; v++)
        least = deal.price[v] < least ? deal.price[v] : least;
    for (uint32_t v = 0; v < d->n_nodes; v++)
        bias[v] = (int32_t)within(deal.price[v] - least, MP_HOME_MILLI_MAX);
    unsigned __int128 sum = 0, size = 0;
    for (uint32_t r = 0; r < d->n_requests; r++) {
        int64_t best = INT64_MIN, second = INT64_MIN;
        for (uint32_t v = 0; v < d->n_nodes; v++) {
            const int64_t s = -cost[(size_t)r * d->n_nodes + v] / (int64_t)d->size[r] - bias[v];
            second = s > best ? best : s > second ? s : second;
            best = s > best ? s : best;
        }
        sum += (unsigned __int128)(best - second) * d->size[r];
        size += d->size[r];
    }
    rule->price_milli = (uint32_t)within((int64_t)(sum * (uint64_t)x->option[PRICE] / (size * 100)), MP_HOME_MILLI_MAX);
    return MP_OK;
}

/* The rule that goes with a placement, everything of it in x->arena. */
static enum mp_status rule_of(const struct mp_home_rule **out, const struct planning *x, const struct mp_plan *plan,
                              struct mp_error *err) {
    const struct mp_home_data *d = &x->data;
    const int8_t **weights = NULL;
    enum mp_status status = weights_of(&weights, x, plan, err);
    if (status != MP_OK)
        return status;
    struct mp_home_rule *rule = mp_arena_alloc(x->arena, 1, sizeof *rule);
    int32_t *bias = mp_arena_alloc(x->arena, d->n_nodes, sizeof *bias);
    if (rule == NULL || bias == NULL)
        return mp_nomem(err, "homes of requests");
    *rule = (struct mp_home_rule){.n_nodes = d->n_nodes,
                                  .n_gpus = d->n_gpus,
                                  .n_layers = d->n_layers,
                                  .n_experts = d->n_experts,
                                  .gpu_node = d->like->gpu_node,
                                  .prefix_rows = (uint32_t)x->option[PREFIX],
                                  .tolerance = tolerance_of(x),
                                  .bias_milli = bias,
                                  .weights = weights};
    *out = rule;
    return calibrate(rule, bias, x, err);
}

enum mp_status mp_home_rule_keep(struct mp_plan *plan, const struct mp_home_rule *rule, const char *method,
                                 struct mp_error *err) {
    const size_t cells = (size_t)(rule->n_nodes - 1) * rule->n_experts;
    int32_t *bias = mp_arena_alloc(plan->arena, rule->n_nodes, sizeof *bias);
    if (bias == NULL)
        return mp_nomem(err, "homes of requests");
    memcpy(bias, rule->bias_milli, rule->n_nodes * sizeof *bias);
    for (uint32_t l = 0; l < plan->n_layers; l++) {
        plan->layers[l].home_weights = mp_arena_alloc(plan->arena, cells, 1);
        if (plan->layers[l].home_weights == NULL)
            return mp_nomem(err, "homes of requests");
        memcpy(plan->layers[l].home_weights, rule->weights[l], cells);
    }
    plan->homes = (struct mp_plan_homes){true, method, rule->prefix_rows, rule->price_milli, rule->tolerance, bias};
    return MP_OK;
}

/* What a placement is worth on the planning steps with its rule. */
struct worth {
    double peak, copies;
};
static enum mp_status value(struct worth *out, const struct planning *x, const struct mp_plan *plan,
                            const struct mp_part *part, struct mp_error *err) {
    const struct mp_plan_request *r = x->request;
    struct mp_workload *w = NULL;
    struct mp_sim_result *sim = NULL;
    struct mp_sim_options options = r->sim;
    enum mp_status status;
    if (options.dispatcher == NULL)
        options.dispatcher = mp_dispatcher_default(r->batching.phase, x->data.trace->kind);
    options.network = MP_NETWORK_PORT_BOUND;
    options.stage_mode = -1;
    options.n_threads = r->n_threads;
    options.is_pipelined = options.with_bound = false;
    options.n_steps_max = 64;
    MP_TRY(mp_workload_build(&w, part, &r->batching, err));
    MP_TRY(mp_simulate(&sim, plan, w, r->topology, r->model, &options, err));
    out->peak = sim->balance.max_over_mean;
    out->copies = ((double)x->data.expert_milli * sim->copies_inter + 1000 * sim->copies_node) * w->n_steps /
                  (double)w->n_rows; /* per token: steps may differ in size */
out:
    mp_sim_result_free(sim);
    mp_workload_free(w);
    return status;
}

/* A candidate: a placement, and the rule that goes with it. */
struct candidate {
    struct mp_plan *plan; /* owned */
    const struct mp_home_rule *rule;
    struct worth worth;
};

static enum mp_status judge(struct candidate *c, struct planning *x, struct mp_error *err) {
    enum mp_status status = rule_of(&c->rule, x, c->plan, err);
    x->part.homes = c->rule;
    return status == MP_OK ? value(&c->worth, x, c->plan, &x->part, err) : status;
}

/* Steps to balance GPUs on: drawn, where that can be. */
static enum mp_status steps_to_fit(struct mp_workload **out, struct planning *x, struct mp_error *err) {
    enum mp_status status = MP_OK;
    *out = NULL;
    if (!x->request->fits_steps && mp_can_draw(&x->part))
        status = mp_draw_steps(out, &x->part, &x->request->batching, 128, x->request->seed, err);
    return status != MP_OK || *out != NULL ? status : mp_workload_build(out, &x->part, &x->request->batching, err);
}

/* Nodes by codesign.c, GPUs by home_gpus.c, the rest by the request. NULL: no plan. */
static enum mp_status own_placement(struct mp_plan **out, struct planning *x, const struct mp_plan *base,
                                    enum mp_outcome *outcome, struct mp_error *err) {
    struct mp_home_data *d = &x->data;
    const size_t n_cells = (size_t)d->n_layers * d->n_experts;
    uint16_t *first = mp_arena_alloc(x->arena, n_cells, sizeof *first);
    uint32_t *gpu = mp_arena_alloc(x->arena, n_cells, sizeof *gpu);
    struct mp_home_search search = {.n_starts = (uint32_t)x->option[STARTS],
                                    .rounds = (uint32_t)x->option[ROUNDS],
                                    .kicks = (uint32_t)x->option[KICKS],
                                    .slack_ppm = 10000,
                                    .first = first,
                                    .node = mp_arena_alloc(x->arena, n_cells, sizeof *search.node),
                                    .home = mp_arena_alloc(x->arena, d->n_requests, sizeof *search.home)};
    struct mp_workload *steps = NULL;
    enum mp_status status;
    if (first == NULL || gpu == NULL || search.node == NULL || search.home == NULL)
        return mp_nomem(err, "homes of requests");
    uint64_t left[MP_HOME_NODES_MAX];
    for (uint32_t l = 0; l < d->n_layers; l++) { /* the base's nodes, of replicas the first with room */
        uint16_t *node = first + (size_t)l * d->n_experts;
        memset(node, 0xff, d->n_experts * sizeof *node);
        memcpy(left, d->slots_of, sizeof left);
        for (uint32_t s = 0; s < base->n_slots; s++) {
            const uint16_t e = base->layers[l].slot_expert[s];
            if (e != MP_NO_EXPERT && node[e] == UINT16_MAX) {
                node[e] = (uint16_t)base->gpu_node[base->slot_gpu[s]];
                left[node[e]]--;
            }
        }
    }
    MP_TRY(mp_home_search(&search, d, err));
    MP_TRY(steps_to_fit(&steps, x, err));
    MP_TRY(mp_home_gpus(gpu, d, search.node, steps, err));
    struct mp_plan_request r = *x->request;
    r.homes = NULL;
    r.is_trial = true;
    r.planning = &x->part;
    r.strategy = "contiguous";
    r.replicate = r.place = NULL;
    r.given = gpu;
    r.given_name = x->method->name;
    MP_TRY(mp_plan_make(out, &r, outcome, NULL, err));
out:
    mp_workload_free(steps);
    return status;
}

/* The strategy on steps whose requests have the homes of the part's rule. */
static enum mp_status again(struct mp_plan **out, struct planning *x, enum mp_outcome *outcome, struct mp_error *err) {
    struct mp_plan_request r = *x->request;
    r.homes = NULL;
    r.is_trial = true; /* it does not say yet where its requests run; adopted, it is proven */
    r.planning = &x->part;
    return mp_plan_make(out, &r, outcome, NULL, err);
}

static enum mp_status decline_what_has_no_homes(const struct mp_plan_request *r, enum mp_outcome *outcome,
                                                struct mp_error *err) {
    const uint32_t n_nodes = mp_topology_n_nodes(r->topology);
    *outcome = MP_FOUND;
    if (r->planning->trace->kind != MP_TRACE_TOKENS)
        return mp_decline(err, outcome, MP_NOT_APPLICABLE,
                          "homes: a recording of counts has no requests (record the top-k of every token)");
    if (n_nodes < 2 || n_nodes > MP_HOME_NODES_MAX)
        return mp_decline(err, outcome, MP_NOT_APPLICABLE, "homes: %u node%s (homes are for 2 to %u nodes)", n_nodes,
                          n_nodes == 1 ? "" : "s", MP_HOME_NODES_MAX);
    if (r->sim.sources == MP_SOURCES_COUPLED)
        return mp_decline(err, outcome, MP_NOT_APPLICABLE,
                          "homes: with coupled sources tokens start where an expert is (use --sources dp)");
    if (r->batching.source_skew_ppm > 0)
        return mp_decline(err, outcome, MP_NOT_APPLICABLE,
                          "homes: they deal requests to ranks, and so does --source-skew (leave one out)");
    return MP_OK;
}

/* Candidates of codesign beside the base. */
#define CANDIDATES_MAX 3u
static enum mp_status find_candidates(struct candidate *c, uint32_t *n, struct planning *x, struct mp_error *err) {
    const struct mp_plan *base = c[0].plan;
    enum mp_outcome outcome;
    enum mp_status status;
    MP_TRY(own_placement(&c[*n].plan, x, base, &outcome, err));
    if (c[*n].plan != NULL)
        MP_TRY(judge(&c[(*n)++], x, err));
    if (base->n_slots > base->n_experts) {
        MP_TRY(again(&c[*n].plan, x, &outcome, err));
        if (c[*n].plan != NULL)
            MP_TRY(judge(&c[(*n)++], x, err));
    }
out:
    return status;
}

enum mp_status mp_homes_plan(struct mp_plan **out, const struct mp_plan_request *request, enum mp_outcome *outcome,
                             double *seconds, struct mp_error *err) {
    struct planning x = {.request = request, .part = *request->planning, .arena = mp_arena_new()};
    struct candidate c[CANDIDATES_MAX] = {{.plan = NULL}};
    struct mp_plan_request plain = *request;
    uint32_t n = 1, best = 0;
    const double started = mp_now_seconds();
    enum mp_status status;
    *out = NULL;
    plain.homes = NULL;
    x.method = mp_homes_find(request->homes);
    if (x.arena == NULL)
        return mp_nomem(err, "homes of requests");
    if (x.method == NULL) {
        status =
            mp_fail(err, MP_EUSAGE, "homes: \"%.60s\" is no method (write none, affinity or codesign)", request->homes);
        goto out;
    }
    MP_TRY(mp_settings_check(request->settings, request->n_settings, err));
    MP_TRY(mp_option_values(&x.option, x.method, request->settings, request->n_settings, x.arena, err));
    MP_TRY(decline_what_has_no_homes(request, outcome, err));
    if (*outcome != MP_FOUND)
        goto out;
    MP_TRY(mp_plan_make(&c[0].plan, &plain, outcome, NULL, err));
    if (c[0].plan == NULL)
        goto out;
    MP_TRY(mp_home_data_new(&x.data, request, c[0].plan, x.arena, err));
    const bool is_codesign = x.method->options == of_codesign;
    x.data.node_milli = 1000;
    x.data.expert_milli = is_codesign ? x.option[EXPERT] : 150;
    x.data.load_ppm = is_codesign ? (uint32_t)x.option[LOAD] : 0;
    struct worth plain_worth;
    MP_TRY(value(&plain_worth, &x, c[0].plan, request->planning, err));
    MP_TRY(judge(&c[0], &x, err));
    if (is_codesign)
        MP_TRY(find_candidates(c, &n, &x, err));
    for (uint32_t i = 1; i < n; i++) {
        const double most = plain_worth.peak * (1 + (double)x.option[PEAK] / 1e6);
        if (c[i].worth.peak <= most && c[i].worth.copies < c[best].worth.copies)
            best = i;
    }
    x.part.homes = c[best].rule;
    MP_TRY(mp_home_rule_keep(c[best].plan, c[best].rule, x.method->name, err));
    struct mp_plan_request final = plain;
    final.planning = &x.part;
    struct mp_plan *made = c[best].plan;
    c[best].plan = NULL;
    const char *name = mp_recipe_find(request->strategy != NULL ? request->strategy : "auto")->name;
    MP_TRY(mp_plan_adopt(out, made, &final, name, err));
    *outcome = MP_FOUND;
out:
    for (uint32_t i = 0; i < CANDIDATES_MAX; i++)
        mp_plan_free(c[i].plan);
    mp_arena_free(x.arena);
    if (seconds != NULL)
        *seconds = mp_now_seconds() - started;
    return status;
}
