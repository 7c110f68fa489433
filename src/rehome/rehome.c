/* The homes of a step, layer by layer. docs/LUFFY.md part 2. */
#include "rehome_private.h"
#include "rehome_registry.h"
#include <moeplan/base.h>
#include <string.h>

#define X(name) extern const struct mp_rehome mp_##name;
MP_REGISTRY(X)
#undef X

#define X(name) &mp_##name,
static const struct mp_rehome *const strategies[] = {MP_REGISTRY(X)};
#undef X

#define N_STRATEGIES (sizeof strategies / sizeof strategies[0])
#define N_CANDIDATES 2u
#define N_SWEEPS 8u
#define KEPT_BYTES (UINT64_C(256) << 20)

const struct mp_rehome *mp_rehome_at(uint32_t i) { return i < N_STRATEGIES ? strategies[i] : NULL; }

const struct mp_rehome *mp_rehome_find(const char *name) {
    for (size_t i = 0; name != NULL && i < N_STRATEGIES; i++)
        if (strcmp(strategies[i]->name, name) == 0)
            return strategies[i];
    return NULL;
}

struct rehoming {
    const struct mp_rehome_job *job;
    struct mp_cost_setup setup; /* flow: the one being made */
    uint32_t step, n, n_layers, n_gpus, n_nodes;
    struct mp_token_flow *flow, *balance; /* whose numbers on each GPU are kept */
    struct clusters clusters;
    struct counting counting;
    struct counts counts[2]; /* of this layer's outputs; of the next layer's dispatch */
    struct counts *kept;     /* [n_layers] without replicas, where homes change no count: made once; or NULL */
    uint32_t *length;        /* [n] */
    uint64_t *node_bytes, *gpu_bytes;
    uint32_t *most, *longest, *had; /* [n_gpus] */
    uint64_t *tokens, *most_tokens; /* [n_gpus] */
    uint32_t *start;                /* [n] */
    struct mp_arena *arena;
};

static uint32_t *home_at(const struct mp_token_flow *f, uint32_t t) { return f->home + (size_t)t * f->n_sequences; }

/* Without replicas, and if they do not take too much, the counts of all layers are kept. */
static enum mp_status keep_counts(struct rehoming *r, struct mp_error *err) {
    const struct mp_plan *p = r->setup.plan;
    const uint64_t bytes = (uint64_t)r->n * (2 * r->n_gpus + r->n_nodes) * 4 * r->n_layers;
    bool is_alone = bytes <= KEPT_BYTES;
    for (uint32_t l = 0; l < r->n_layers && is_alone; l++)
        for (uint32_t e = 0; e < p->n_experts && is_alone; e++) {
            uint32_t n;
            (void)mp_router_replicas(r->setup.router, l, e, &n);
            is_alone = n < 2;
        }
    if (!is_alone)
        return MP_OK;
    r->kept = mp_arena_alloc(r->arena, r->n_layers, sizeof *r->kept);
    if (r->kept == NULL)
        return mp_nomem(err, "homes of sequences");
    enum mp_status status = MP_OK;
    for (uint32_t l = 0; l < r->n_layers && status == MP_OK; l++) {
        status = counts_new(&r->kept[l], &r->counting, r->arena, err);
        if (status == MP_OK)
            status = counts_make(&r->kept[l], &r->counting, l, NULL, false, err);
    }
    return status;
}

/* Counts of a layer: which 0 = of its outputs, 1 = of its dispatch, of sequences that may yet go anywhere. */
static enum mp_status count(struct rehoming *r, uint32_t which, uint32_t layer, const uint32_t *home,
                            const struct counts **out, struct mp_error *err) {
    *out = r->kept != NULL ? &r->kept[layer] : &r->counts[which];
    return r->kept != NULL ? MP_OK : counts_make(&r->counts[which], &r->counting, layer, home, which == 1, err);
}

static enum mp_status prepare(struct rehoming *r, struct mp_error *err) {
    const struct mp_token_flow *f = r->flow;
    r->n = f->n_sequences;
    r->n_layers = f->n_layers;
    enum mp_status status = clusters_of(&r->clusters, r->setup.topology, r->arena, err);
    r->n_gpus = r->clusters.n_gpus;
    r->n_nodes = r->clusters.n_nodes;
    if (status == MP_OK)
        status = counting_init(&r->counting, &r->setup, f, &r->clusters, r->step, r->arena, err);
    for (uint32_t i = 0; i < 2 && status == MP_OK; i++)
        status = counts_new(&r->counts[i], &r->counting, r->arena, err);
    if (status != MP_OK)
        return status;
    r->length = mp_arena_alloc(r->arena, (size_t)r->n + 1, sizeof *r->length);
    r->node_bytes = mp_arena_alloc(r->arena, (size_t)r->n * r->n_nodes, sizeof *r->node_bytes);
    r->gpu_bytes = mp_arena_alloc(r->arena, (size_t)r->n * r->n_gpus, sizeof *r->gpu_bytes);
    r->most = mp_arena_alloc(r->arena, r->n_gpus, sizeof *r->most);
    r->longest = mp_arena_alloc(r->arena, r->n_gpus, sizeof *r->longest);
    r->had = mp_arena_alloc(r->arena, r->n_gpus, sizeof *r->had);
    r->tokens = mp_arena_alloc(r->arena, r->n_gpus, sizeof *r->tokens);
    r->most_tokens = mp_arena_alloc(r->arena, r->n_gpus, sizeof *r->most_tokens);
    r->start = mp_arena_alloc(r->arena, (size_t)r->n + 1, sizeof *r->start);
    if (r->length == NULL || r->node_bytes == NULL || r->gpu_bytes == NULL || r->most == NULL || r->longest == NULL ||
        r->had == NULL || r->tokens == NULL || r->most_tokens == NULL || r->start == NULL)
        return mp_nomem(err, "homes of sequences");
    for (uint32_t i = 0; i < r->n; i++)
        r->length[i] = f->first_row[i + 1] - f->first_row[i];
    return keep_counts(r, err);
}

/* Numbers of sequences as these homes have them, and how long one may be so that no GPU is slower at attention than the
 * slowest is with them. */
static void limit(struct rehoming *r, const uint32_t *home) {
    const struct mp_topology *t = r->setup.topology;
    const struct mp_model *m = r->setup.model;
    uint32_t all = 0;
    uint64_t slowest = 0;
    memset(r->most, 0, r->n_gpus * sizeof *r->most);
    memset(r->had, 0, r->n_gpus * sizeof *r->had);
    for (uint32_t i = 0; i < r->n; i++) {
        const uint32_t g = home[i], length = r->length[i];
        r->most[g]++;
        r->had[g] = length > r->had[g] ? length : r->had[g];
        all = length > all ? length : all;
    }
    for (uint32_t g = 0; g < r->n_gpus; g++) {
        const uint64_t ns = mp_sequences_attention_ns(t, g, m, r->most[g], r->had[g]);
        slowest = ns > slowest ? ns : slowest;
    }
    for (uint32_t g = 0; g < r->n_gpus; g++) {
        uint32_t low = r->had[g], high = all; /* low fits */
        while (low < high) {
            const uint32_t middle = high - (high - low) / 2;
            if (mp_sequences_attention_ns(t, g, m, r->most[g], middle) <= slowest)
                low = middle;
            else
                high = middle - 1;
        }
        r->longest[g] = low;
    }
}

/* Tokens that each GPU takes: with that many none is slower at attention than the slowest is with these homes. */
static void limit_tokens(struct rehoming *r, const uint32_t *home) {
    const struct mp_topology *t = r->setup.topology;
    const struct mp_model *m = r->setup.model;
    uint64_t slowest = 0;
    memset(r->tokens, 0, r->n_gpus * sizeof *r->tokens);
    for (uint32_t i = 0; i < r->n; i++)
        r->tokens[home[i]] += r->length[i];
    for (uint32_t g = 0; g < r->n_gpus; g++) {
        const uint64_t ns = mp_attention_ns(t, g, m, r->tokens[g]);
        slowest = ns > slowest ? ns : slowest;
    }
    for (uint32_t g = 0; g < r->n_gpus; g++) {
        uint64_t low = r->tokens[g], high = r->flow->n_rows; /* low fits */
        while (low < high) {
            const uint64_t middle = high - (high - low) / 2;
            if (mp_attention_ns(t, g, m, middle) <= slowest)
                low = middle;
            else
                high = middle - 1;
        }
        r->most_tokens[g] = low;
    }
    /* Attention may be bound by its weights: then a few tokens more cost nothing, but shared experts are not. */
    uint64_t most = 0;
    for (uint32_t g = 0; g < r->n_gpus; g++)
        most = r->tokens[g] > most ? r->tokens[g] : most;
    for (uint32_t g = 0; g < r->n_gpus; g++) {
        r->most_tokens[g] = r->most_tokens[g] > most ? most : r->most_tokens[g];
        if (r->job->balance_of == NULL)
            r->most_tokens[g] += mp_mul_div(r->most_tokens[g], r->job->slack_ppm, 1000000);
    }
}

/* Homes at t, 1 to n_layers, of the flow. has_after: those at t + 1 are known too. */
static enum mp_status solve_at(struct rehoming *r, uint32_t t, bool has_after, struct mp_error *err) {
    const struct mp_rehome *strategy = r->job->strategy;
    uint32_t *home = home_at(r->flow, t);
    const uint32_t *before = home_at(r->flow, t - 1);
    struct mp_rehome_problem problem = {.n = r->n,
                                        .n_gpus = r->n_gpus,
                                        .n_nodes = r->n_nodes,
                                        .gpu_node = r->clusters.node,
                                        .length = r->length,
                                        .home = before,
                                        .node_bytes = r->node_bytes,
                                        .gpu_bytes = r->gpu_bytes,
                                        .most = r->most,
                                        .longest = r->longest,
                                        .most_tokens = r->job->balance == MP_REHOME_TOKENS ? r->most_tokens : NULL,
                                        .start = r->start,
                                        .topology = r->setup.topology,
                                        .model = r->setup.model,
                                        .n_candidates =
                                            r->job->n_candidates == 0 ? N_CANDIDATES : r->job->n_candidates};
    const struct saving saving = {.clusters = &r->clusters,
                                  .model = r->setup.model,
                                  .copies = r->setup.dispatcher->copies,
                                  .n = r->n,
                                  .length = r->length,
                                  .node_bytes = r->node_bytes,
                                  .gpu_bytes = r->gpu_bytes};
    uint64_t bound = UINT64_MAX;
    struct mp_arena *scratch = mp_arena_new();
    enum mp_status status = scratch == NULL ? mp_nomem(err, "homes of sequences") : MP_OK;
    const struct counts *own = NULL, *next = NULL;
    if (status == MP_OK)
        status = count(r, 0, t - 1, before, &own, err);
    if (status == MP_OK && t < r->n_layers && strategy->sees_next)
        status = count(r, 1, t, has_after ? home : before, &next, err);
    if (status == MP_OK) {
        problem.outputs = own->outputs;
        const uint32_t *equal = home_at(r->balance, t);
        if (r->job->balance == MP_REHOME_TOKENS)
            limit_tokens(r, equal);
        else
            limit(r, equal);
        /* Both are within the limits: these homes as they are, once made; else those that set the limits. */
        memcpy(r->start, has_after ? home : equal, r->n * sizeof *r->start);
        memset(r->node_bytes, 0, (size_t)r->n * r->n_nodes * sizeof *r->node_bytes);
        memset(r->gpu_bytes, 0, (size_t)r->n * r->n_gpus * sizeof *r->gpu_bytes);
        save_combine(&saving, own, before);
        if (next != NULL)
            save_dispatch(&saving, next);
        if (next != NULL && has_after)
            save_residual(&saving, next, home_at(r->flow, t + 1));
        status = strategy->solve(home, &bound, &problem, scratch, err);
    }
    mp_arena_free(scratch);
    return status;
}

/* Bytes between nodes of the whole step, from the counts that are kept. */
static uint64_t bytes_of_counts(const struct rehoming *r, const struct mp_token_flow *f) {
    const struct clusters *k = &r->clusters;
    const struct mp_model *m = r->setup.model;
    const bool is_summed = r->setup.dispatcher->copies == MP_COPY_PER_NODE;
    uint64_t sum = 0;
    for (uint32_t l = 0; l < r->n_layers; l++)
        for (size_t q = 0; q < r->n; q++) {
            const uint32_t from = k->node[home_at(f, l)[q]], to = k->node[home_at(f, l + 1)[q]];
            uint64_t all = 0, near[2] = {0, 0}; /* copies on any node; on `from`; on `to` */
            for (uint32_t v = 0; v < k->n_nodes; v++) {
                uint64_t copies = is_summed ? r->kept[l].on_node[q * k->n_nodes + v] : 0;
                for (uint32_t x = k->first[v]; x < k->first[v + 1] && !is_summed; x++)
                    copies += r->kept[l].outputs[q * k->n_gpus + k->members[x]];
                all += copies;
                near[0] += v == from ? copies : 0;
                near[1] += v == to ? copies : 0;
            }
            const uint64_t residual = from == to ? 0 : r->length[q] - (is_summed ? near[0] : 0);
            sum += (all - near[0]) * m->dispatch_bytes + (all - near[1] + residual) * m->combine_bytes;
        }
    return sum;
}

static enum mp_status step_bytes(uint64_t *out, const struct rehoming *r, const struct mp_token_flow *f,
                                 struct mp_error *err) {
    const enum mp_copy_count copies = r->setup.dispatcher->copies;
    struct mp_cost_setup setup = r->setup;
    struct mp_traffic *traffic;
    *out = 0;
    if (r->kept != NULL && (copies == MP_COPY_PER_EXPERT || copies == MP_COPY_PER_NODE)) {
        *out = bytes_of_counts(r, f);
        return MP_OK;
    }
    setup.flow = f;
    enum mp_status status = mp_traffic_new(&traffic, r->n_gpus, err);
    if (status != MP_OK)
        return status;
    for (uint32_t l = 0; l < r->n_layers && status == MP_OK; l++) {
        status = mp_traffic_compute(traffic, &setup, r->step, l, err);
        *out += traffic->inter_bytes;
    }
    mp_traffic_free(traffic);
    return status;
}

static void copy_homes(uint32_t *to, const struct mp_token_flow *from) {
    memcpy(to, from->home, ((size_t)from->n_layers + 1) * from->n_sequences * sizeof *to);
}

/* Every layer again, as long as the step gets cheaper. */
static enum mp_status sweep(struct rehoming *r, struct mp_error *err) {
    const size_t cells = ((size_t)r->n_layers + 1) * r->n;
    uint32_t *best = mp_arena_alloc(r->arena, cells + 1, sizeof *best);
    uint64_t bytes, least;
    if (best == NULL)
        return mp_nomem(err, "homes of sequences");
    enum mp_status status = step_bytes(&least, r, r->flow, err);
    for (uint32_t k = 0; k < N_SWEEPS && status == MP_OK; k++) {
        copy_homes(best, r->flow);
        for (uint32_t t = 1; t <= r->n_layers && status == MP_OK; t++)
            status = solve_at(r, t, true, err);
        if (status == MP_OK)
            status = step_bytes(&bytes, r, r->flow, err);
        if (status != MP_OK || bytes < least) {
            least = bytes;
            continue;
        }
        memcpy(r->flow->home, best, cells * sizeof *best);
        break;
    }
    return status;
}

static enum mp_status make(struct rehoming *r, struct mp_error *err) {
    enum mp_status status = prepare(r, err);
    for (uint32_t t = 1; t <= r->n_layers && status == MP_OK; t++)
        status = solve_at(r, t, false, err);
    bool is_worse = false;
    if (status == MP_OK && r->balance != r->flow && r->job->balance_of != NULL) {
        uint64_t own, theirs = 0;
        status = step_bytes(&own, r, r->flow, err);
        if (status == MP_OK)
            status = step_bytes(&theirs, r, r->balance, err);
        is_worse = status == MP_OK && own > theirs;
    }
    if (is_worse)
        copy_homes(r->flow->home, r->balance);
    if (status == MP_OK && (is_worse || r->job->strategy->sweeps))
        status = sweep(r, err);
    return status;
}

enum mp_status mp_rehome_flow(struct mp_token_flow **out, const struct mp_rehome_job *job,
                              const struct mp_cost_setup *setup, uint32_t step, struct mp_error *err) {
    struct rehoming r = {.job = job, .setup = *setup, .step = step};
    *out = NULL;
    r.setup.flow = NULL;
    enum mp_status status = mp_flow_new(&r.flow, setup->workload, step, err);
    if (status != MP_OK)
        return status;
    r.flow->is_padded = job->balance == MP_REHOME_SEQUENCES;
    if (job->strategy->solve == NULL) {
        *out = r.flow;
        return MP_OK;
    }
    if (job->balance_of != NULL) {
        struct mp_rehome_job other = *job;
        other.strategy = job->balance_of;
        other.balance_of = NULL;
        status = mp_rehome_flow(&r.balance, &other, setup, step, err);
    } else {
        status = mp_flow_new(&r.balance, setup->workload, step, err);
    }
    if (status == MP_OK && (r.arena = mp_arena_new()) == NULL)
        status = mp_nomem(err, "homes of sequences");
    if (status == MP_OK)
        status = make(&r, err);
    mp_arena_free(r.arena);
    mp_flow_free(r.balance);
    if (status == MP_OK)
        *out = r.flow;
    else
        mp_flow_free(r.flow);
    return status;
}

static enum mp_status make_flow(struct mp_token_flow **out, void *ctx, const struct mp_cost_setup *setup, uint32_t step,
                                struct mp_error *err) {
    return mp_rehome_flow(out, ctx, setup, step, err);
}

struct mp_flow_maker mp_rehome_maker(const struct mp_rehome_job *job) {
    return (struct mp_flow_maker){.make = make_flow, .ctx = (void *)(uintptr_t)job};
}
