/* Homes of requests and nodes of experts, planned together.
 *
 * Decides   the node of every planning request, and of every expert in every layer: a request has one home for all
 *           layers, so layers have to agree on who is at home where.
 * Minimises copies between nodes of the planning requests (home_split.c says what a copy counts), requests balanced
 *           over nodes, experts' rows balanced over nodes in every layer.
 * Method    experts for given homes (home_split.c), homes for given experts (home_deal.c), in turn, until nothing
 * falls. From several starts: the placement that is there, two halves of the requests by what sets them apart most
 *           (power iteration on their use of experts), and requests drawn as seeds. Starts run with copies per expert
 *           alone, which is linear and quick; the best goes on with the true cost.
 * Bound     of the homes, given the placement (home_deal.c). None of both together.
 * Differs   Semantic Parallelism (arXiv 2503.04398) clusters tokens and experts of each layer and has no balance of
 *           load per layer; here requests are clustered, once.
 * Cost      starts and rounds times those of the two parts.  Deterministic. */
#include "homes_parts.h"
#include <math.h>
#include <string.h>

#define USAGE_CELLS_MAX (UINT64_C(1) << 26)
#define LINEAR_ROUNDS 12u
#define LINEAR_ROWS 16384u
#define POWER_ROUNDS 30u

struct search {
    const struct mp_home_data *d;
    uint32_t slack_ppm;
    int64_t *cost;     /* [n_requests][n_nodes] */
    float *use;        /* [n_requests][n_layers * n_experts] share of its rows; NULL: too many */
    double *direction; /* [n_layers * n_experts] */
    double *mean;
};

static enum mp_status deal(struct search *x, uint16_t *home, const int64_t *cost, struct mp_home_deal *out,
                           struct mp_error *err) {
    *out = (struct mp_home_deal){.n = x->d->n_requests,
                                 .n_nodes = x->d->n_nodes,
                                 .cost = cost,
                                 .size = x->d->size,
                                 .gpus_of = x->d->gpus_of,
                                 .slack_ppm = x->slack_ppm,
                                 .home = home};
    return mp_home_deal(out, err);
}

static enum mp_status read_use(void *ctx, size_t r, unsigned worker, struct mp_error *err) {
    const struct search *x = ctx;
    const struct mp_home_data *d = x->d;
    float *use = x->use + r * d->n_layers * d->n_experts;
    uint16_t ids[MP_MAX_TOP_K];
    (void)worker, (void)err;
    for (uint32_t l = 0; l < d->n_layers; l++)
        for (uint64_t i = 0; i < d->request[r]->n_rows; i++) {
            const uint32_t k = mp_trace_row(d->trace, l, d->request[r]->first_row + i, ids);
            for (uint32_t j = 0; j < k; j++)
                use[(size_t)l * d->n_experts + ids[j]] += 1.0F / (float)d->request[r]->n_rows;
        }
    return MP_OK;
}

/* Along what requests differ most, weighted by their rows: one sum after the other, the same on any number of threads.
 */
static void find_direction(struct search *x) {
    const struct mp_home_data *d = x->d;
    const size_t n = (size_t)d->n_layers * d->n_experts;
    double rows = 0;
    memset(x->mean, 0, n * sizeof *x->mean);
    for (uint32_t r = 0; r < d->n_requests; r++) {
        const double w = (double)d->request[r]->n_rows;
        rows += w;
        for (size_t i = 0; i < n; i++)
            x->mean[i] += w * (double)x->use[r * n + i];
    }
    struct mp_rng rng = mp_rng_seed(mp_mix64(d->seed ^ 1));
    for (size_t i = 0; i < n; i++) {
        x->mean[i] /= rows;
        x->direction[i] = mp_rng_unit(&rng) - 0.5;
    }
    double *next = x->mean + n; /* scratch */
    for (uint32_t round = 0; round < POWER_ROUNDS; round++) {
        double norm = 0;
        memset(next, 0, n * sizeof *next);
        for (uint32_t r = 0; r < d->n_requests; r++) {
            double dot = 0;
            for (size_t i = 0; i < n; i++)
                dot += x->direction[i] * ((double)x->use[r * n + i] - x->mean[i]);
            dot *= (double)d->request[r]->n_rows / rows;
            for (size_t i = 0; i < n; i++)
                next[i] += dot * ((double)x->use[r * n + i] - x->mean[i]);
        }
        for (size_t i = 0; i < n; i++)
            norm += next[i] * next[i];
        if (!(norm > 0))
            return;
        for (size_t i = 0; i < n; i++)
            x->direction[i] = next[i] / sqrt(norm);
    }
}

/* Costs of a request at each node of a start: how far it is from what the node stands for. */
static void start_costs(struct search *x, uint32_t start, struct mp_rng *rng) {
    const struct mp_home_data *d = x->d;
    const size_t n = (size_t)d->n_layers * d->n_experts;
    uint32_t seed[MP_HOME_NODES_MAX];
    for (uint32_t v = 0; v < d->n_nodes; v++)
        seed[v] = (uint32_t)mp_rng_below(rng, d->n_requests);
    for (uint32_t r = 0; r < d->n_requests; r++)
        for (uint32_t v = 0; v < d->n_nodes; v++) {
            double dot = 0;
            for (size_t i = 0; i < n && start == 0; i++)
                dot += x->direction[i] * ((double)x->use[r * n + i] - x->mean[i]);
            for (size_t i = 0; i < n && start > 0; i++)
                dot += (double)x->use[r * n + i] * ((double)x->use[seed[v] * n + i] - x->mean[i]);
            dot *= start == 0 ? (double)v : 1;
            x->cost[(size_t)r * d->n_nodes + v] = -llround(dot * 1000) * (int64_t)d->size[r];
        }
}

/* A placement of no thought: experts in turn, as slots go. */
static void any_nodes(uint16_t *node, const struct mp_home_data *d) {
    for (uint32_t l = 0; l < d->n_layers; l++) {
        uint64_t left[MP_HOME_NODES_MAX];
        uint32_t v = 0;
        memcpy(left, d->slots_of, sizeof left);
        for (uint32_t e = 0; e < d->n_experts; e++) {
            while (left[v] == 0)
                v = (v + 1) % d->n_nodes;
            node[(size_t)l * d->n_experts + e] = (uint16_t)v;
            left[v]--;
            v = (v + 1) % d->n_nodes;
        }
    }
}

/* In turn, from node[] and home[], until nothing falls. */
static enum mp_status alternate(struct search *x, const struct mp_home_data *d, uint16_t *node, uint16_t *home,
                                uint32_t rounds, uint32_t kicks, int64_t *value, int64_t *bound, struct mp_arena *arena,
                                struct mp_error *err) {
    const size_t n_cells = (size_t)d->n_layers * d->n_experts;
    uint16_t *next_node = mp_arena_alloc(arena, n_cells, sizeof *next_node);
    uint16_t *next_home = mp_arena_alloc(arena, d->n_requests, sizeof *next_home);
    enum mp_status status = MP_OK;
    if (next_node == NULL || next_home == NULL)
        return mp_nomem(err, "homes of requests");
    *value = INT64_MAX;
    memcpy(next_node, node, n_cells * sizeof *node);
    for (uint32_t round = 0; round < rounds; round++) {
        struct mp_home_deal dealt;
        MP_TRY(mp_home_split(next_node, d, round == 0 ? home : next_home, kicks, err));
        MP_TRY(mp_home_costs(x->cost, d, next_node, err));
        MP_TRY(deal(x, next_home, x->cost, &dealt, err));
        if (dealt.value >= *value)
            break;
        *value = dealt.value;
        *bound = dealt.bound;
        memcpy(node, next_node, n_cells * sizeof *node);
        memcpy(home, next_home, d->n_requests * sizeof *home);
    }
out:
    return status;
}

enum mp_status mp_home_search(struct mp_home_search *out, const struct mp_home_data *d, struct mp_error *err) {
    const size_t n_cells = (size_t)d->n_layers * d->n_experts;
    struct search x = {.d = d, .slack_ppm = out->slack_ppm};
    struct mp_home_data linear = *d; /* copies per expert alone, on fewer rows */
    struct mp_arena *arena = mp_arena_new();
    if (arena == NULL)
        return mp_nomem(err, "homes of requests");
    enum mp_status status = MP_OK;
    const bool has_use = (uint64_t)d->n_requests * n_cells <= USAGE_CELLS_MAX;
    const uint32_t n_starts = has_use ? out->n_starts : 0;
    uint16_t *node = mp_arena_alloc(arena, n_cells, sizeof *node);
    uint16_t *home = mp_arena_alloc(arena, d->n_requests, sizeof *home);
    struct mp_rng rng = mp_rng_seed(mp_mix64(d->seed ^ 2));
    int64_t best = INT64_MAX, value, bound = 0;
    x.cost = mp_arena_alloc(arena, (size_t)d->n_requests * d->n_nodes, sizeof *x.cost);
    x.use = has_use ? mp_arena_alloc(arena, d->n_requests * n_cells, sizeof *x.use) : NULL;
    x.mean = mp_arena_alloc(arena, 2 * n_cells, sizeof *x.mean);
    x.direction = mp_arena_alloc(arena, n_cells, sizeof *x.direction);
    if (node == NULL || home == NULL || x.cost == NULL || (has_use && x.use == NULL) || x.mean == NULL ||
        x.direction == NULL) {
        status = mp_nomem(err, "homes of requests");
        goto out;
    }
    if (has_use) {
        MP_TRY(mp_parallel_for(d->n_threads, d->n_requests, read_use, &x, err));
        find_direction(&x);
    }
    linear.expert_milli = 1000;
    linear.node_milli = 0;
    if (d->n_rows > LINEAR_ROWS) {
        linear.n_rows = LINEAR_ROWS;
        linear.row = mp_arena_alloc(arena, LINEAR_ROWS, sizeof *linear.row);
        linear.of = mp_arena_alloc(arena, LINEAR_ROWS, sizeof *linear.of);
        if (linear.row == NULL || linear.of == NULL) {
            status = mp_nomem(err, "homes of requests");
            goto out;
        }
        for (uint32_t i = 0; i < LINEAR_ROWS; i++) {
            linear.row[i] = d->row[mp_mul_div(i, d->n_rows, LINEAR_ROWS)];
            linear.of[i] = d->of[mp_mul_div(i, d->n_rows, LINEAR_ROWS)];
        }
    }
    for (uint32_t start = 0; start <= n_starts; start++) {
        struct mp_home_deal dealt;
        if (start == n_starts) { /* the placement that is there */
            if (out->first == NULL && best < INT64_MAX)
                break;
            if (out->first != NULL)
                memcpy(node, out->first, n_cells * sizeof *node);
            else
                any_nodes(node, d);
            MP_TRY(mp_home_costs(x.cost, d, node, err));
        } else {
            any_nodes(node, d);
            start_costs(&x, start, &rng);
        }
        MP_TRY(deal(&x, home, x.cost, &dealt, err));
        MP_TRY(alternate(&x, &linear, node, home, LINEAR_ROUNDS, 0, &value, &bound, arena, err));
        MP_TRY(mp_home_costs(x.cost, d, node, err));
        MP_TRY(deal(&x, home, x.cost, &dealt, err));
        if (dealt.value >= best)
            continue;
        best = dealt.value;
        memcpy(out->node, node, n_cells * sizeof *node);
        memcpy(out->home, home, d->n_requests * sizeof *home);
    }
    MP_TRY(alternate(&x, d, out->node, out->home, out->rounds, out->kicks, &out->value, &out->bound, arena, err));
out:
    mp_arena_free(arena);
    return status;
}
