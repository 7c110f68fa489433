/* What the plan makes of the planning steps: which slot serves each token, which copies travel, which ports they load.
 * Derived from docs/VERIFY.md parts 2 and 3, not from the planner's code; then the evidence of every layer is compared,
 * exactly. */
#include "internal.h"
#include <string.h>

#define NS_PER_S UINT64_C(1000000000)
#define MANY_ROWS (UINT64_C(1) << 22)
#define PATH_TABLE_MAX 512u /* GPUs; beyond, paths are asked for one by one */

static const struct vf_dispatcher dispatchers[] = {
    {"a2av", VF_PER_EXPERT, 1, false},
    {"deepep-normal", VF_PER_NODE, 1, true},
    {"deepep-ll", VF_PER_EXPERT, 1, false},
    {"hierarchical", VF_PER_NODE, 2, false},
    {"agrs", VF_ALL, 1, false},
    {"hsc", VF_PER_NODE, 2, false}, /* no plan's claim knows a time of routing: hierarchical */
};

static void *take(struct vf_data *d, size_t n, size_t size, bool *is_full) {
    void *p = mp_arena_alloc(d->arena, n, size);
    *is_full |= p == NULL;
    return p;
}

/* Split and steps come from the plan's own words. What they cannot be rebuilt from is a fault of the plan, not of the
 * call. */
static enum mp_status rebuild_steps(struct vf_data *d, bool *is_usable, struct mp_error *err) {
    struct verifier *v = d->v;
    const struct mp_provenance *o = &v->plan->provenance;
    struct mp_error why = {0};
    /* Recorded steps are no more than the trace has rows; drawn ones are as many as the plan says. */
    uint32_t n_drawn = o->batching.n_steps_max == 0 ? 64 : o->batching.n_steps_max;
    if (v->trace->kind == MP_TRACE_TOKENS && o->batching.resample &&
        !vf_expect(v, n_drawn == v->plan->n_planning_steps, MP_V_PREDICTION,
                   "the plan says %llu planning steps, and %u are drawn", ULL(v->plan->n_planning_steps), n_drawn))
        return MP_OK;
    enum mp_status status = mp_part_split(&d->planning, &d->held_out, v->trace, &o->split, &why);
    if (status == MP_OK)
        status = mp_plan_home_rule(&d->planning.homes, v->plan, &why);
    if (status == MP_OK)
        status = mp_workload_build(&d->workload, &d->planning, &o->batching, &why);
    if (status == MP_EINPUT || status == MP_EUSAGE || status == MP_ELIMIT) {
        vf_expect(v, false, MP_V_PROVENANCE, "the planning steps cannot be built again: %.300s", why.message);
        return MP_OK;
    }
    if (status != MP_OK)
        return mp_fail(err, status, "%s", why.message);
    *is_usable = vf_expect(v, d->workload->n_steps == v->plan->n_planning_steps, MP_V_PREDICTION,
                           "the plan says %llu planning steps, and the trace gives %u", ULL(v->plan->n_planning_steps),
                           d->workload->n_steps);
    return MP_OK;
}

enum mp_status vf_network_open(struct vf_data *d, struct verifier *v, struct mp_error *err) {
    const struct mp_plan *p = v->plan;
    const struct mp_topology *t = v->topology;
    size_t n = p->n_gpus;
    bool is_full = false;
    d->v = v;
    d->n = p->n_gpus;
    d->arena = mp_arena_new();
    if (d->arena == NULL)
        return mp_nomem(err, "verifying a plan");
    d->node = take(d, n, sizeof *d->node, &is_full);
    d->index_in_node = take(d, n, sizeof *d->index_in_node, &is_full);
    d->node_size = take(d, n, sizeof *d->node_size, &is_full);
    d->node_gpus = take(d, (size_t)p->n_nodes * n, sizeof *d->node_gpus, &is_full);
    d->through = take(d, t->n_resources, sizeof *d->through, &is_full);
    d->leaving = take(d, 2 * n, sizeof *d->leaving, &is_full);
    d->node_leaving = take(d, 2 * n, sizeof *d->node_leaving, &is_full);
    d->flows.first = take(d, n * n, sizeof *d->flows.first, &is_full);
    if (n <= PATH_TABLE_MAX)
        d->paths = take(d, n * n, sizeof *d->paths, &is_full);
    if (is_full)
        return mp_nomem(err, "verifying a plan");
    for (uint32_t g = 0; g < d->n; g++) {
        uint32_t node = mp_topology_node(t, g);
        d->node[g] = node;
        d->index_in_node[g] = d->node_size[node];
        d->node_gpus[(size_t)node * n + d->node_size[node]++] = g;
        for (uint32_t h = 0; d->paths != NULL && h < d->n; h++)
            mp_topology_path(t, g, h, &d->paths[g * n + h]);
    }
    return vf_rates_open(d, err);
}

static enum mp_status make_tables(struct vf_data *d, struct mp_error *err) {
    const struct mp_plan *p = d->v->plan;
    size_t n = p->n_gpus;
    bool is_full = false;
    enum mp_status status = vf_network_open(d, d->v, err);
    if (status != MP_OK)
        return status;
    d->first = take(d, (size_t)p->n_experts + 1, sizeof *d->first, &is_full);
    d->slot = take(d, p->n_slots, sizeof *d->slot, &is_full);
    d->slot_rows = take(d, p->n_slots, sizeof *d->slot_rows, &is_full);
    d->expert_rows = take(d, p->n_experts, sizeof *d->expert_rows, &is_full);
    d->flows.second = take(d, n * n, sizeof *d->flows.second, &is_full);
    d->flows.rows = take(d, n, sizeof *d->flows.rows, &is_full);
    d->flows.padded_rows = take(d, n, sizeof *d->flows.padded_rows, &is_full);
    d->flows.source_rows = take(d, n, sizeof *d->flows.source_rows, &is_full);
    d->flows.active = take(d, n, sizeof *d->flows.active, &is_full);
    if (d->v->trace->kind == MP_TRACE_COUNTS)
        d->tokens = take(d, n * p->n_experts, sizeof *d->tokens, &is_full);
    if (p->route == MP_ROUTE_NEAREST)
        d->nearest = take(d, n * p->n_experts, sizeof *d->nearest, &is_full);
    d->sums = take(d, d->workload->n_steps, sizeof *d->sums, &is_full);
    return is_full ? mp_nomem(err, "verifying a plan") : vf_bounds_open(d, err);
}

enum mp_status vf_data_open(struct vf_data *d, struct verifier *v, bool *is_usable, struct mp_error *err) {
    *d = (struct vf_data){.v = v};
    *is_usable = false;
    const char *name = v->plan->provenance.dispatcher;
    for (size_t i = 0; i < sizeof dispatchers / sizeof dispatchers[0]; i++)
        if (strcmp(dispatchers[i].name, name) == 0)
            d->dispatcher = dispatchers[i];
    if (!vf_expect(v, d->dispatcher.name != NULL, MP_V_PROVENANCE, "dispatcher \"%.40s\" is not known", name))
        return MP_OK;
    bool is_coupled = strcmp(v->plan->provenance.sources, "coupled") == 0;
    if (!vf_expect(v, is_coupled || strcmp(v->plan->provenance.sources, "dp") == 0, MP_V_PROVENANCE,
                   "sources \"%.40s\" are not known", v->plan->provenance.sources) ||
        !vf_expect(v, v->trace->kind == MP_TRACE_TOKENS || (!is_coupled && d->dispatcher.copies != VF_PER_NODE),
                   MP_V_PROVENANCE, "dispatcher %s and sources %s need tokens, and the trace has counts", name,
                   v->plan->provenance.sources))
        return MP_OK;
    enum mp_status status = rebuild_steps(d, is_usable, err);
    return status == MP_OK && *is_usable ? make_tables(d, err) : status;
}

void vf_data_close(struct vf_data *d) {
    mp_workload_free(d->workload);
    mp_part_free(&d->planning);
    mp_part_free(&d->held_out);
    mp_free(d->number);
    mp_arena_free(d->arena);
}

struct mp_path vf_path(const struct vf_data *d, uint32_t src, uint32_t dst) {
    if (d->paths != NULL)
        return d->paths[(size_t)src * d->n + dst];
    struct mp_path path;
    mp_topology_path(d->v->topology, src, dst, &path);
    return path;
}

/* ---- which slot ---- */

/* 2 = the slot is on the source's GPU, 1 = on its node, 0 = elsewhere. */
static int closeness(const struct vf_data *d, uint32_t slot, uint32_t source) {
    uint32_t gpu = d->v->plan->slot_gpu[slot];
    return gpu == source ? 2 : d->node[gpu] == d->node[source] ? 1 : 0;
}

/* Sources in ascending order; each candidate set is known by its first replica and its size, because sets of this kind
 * (of a GPU, of a node, all) that share their first member contain each other. number[first][size] counts the sources
 * seen with that set. */
static enum mp_status fill_nearest(struct vf_data *d, uint32_t e, struct mp_error *err) {
    uint32_t r = d->first[e + 1] - d->first[e];
    const uint32_t *slot = d->slot + d->first[e];
    size_t cells = (size_t)r * (r + 1);
    if (cells > d->number_size) {
        uint32_t *grown = mp_realloc(d->number, cells, sizeof *grown);
        if (grown == NULL)
            return mp_nomem(err, "verifying a plan");
        d->number = grown;
        d->number_size = cells;
    }
    memset(d->number, 0, cells * sizeof *d->number);
    for (uint32_t source = 0; source < d->n; source++) {
        int best = 0;
        for (uint32_t i = 0; i < r; i++) {
            int c = closeness(d, slot[i], source);
            best = c > best ? c : best;
        }
        uint32_t members = 0, first = r;
        for (uint32_t i = 0; i < r; i++)
            if (closeness(d, slot[i], source) >= best) {
                first = first == r ? i : first;
                members++;
            }
        uint64_t pick = ((uint64_t)d->number[(size_t)first * (r + 1) + members]++ + e) % members;
        for (uint32_t i = first; i < r; i++)
            if (closeness(d, slot[i], source) >= best && pick-- == 0) {
                d->nearest[(size_t)e * d->n + source] = slot[i];
                break;
            }
    }
    return MP_OK;
}

enum mp_status vf_prepare_layer(struct vf_data *d, uint32_t layer, struct mp_error *err) {
    const struct mp_plan *p = d->v->plan;
    uint32_t at = 0;
    d->layer = layer;
    memset(d->first, 0, ((size_t)p->n_experts + 1) * sizeof *d->first);
    for (uint32_t s = 0; s < p->n_slots; s++)
        if (p->layers[layer].slot_expert[s] != MP_NO_EXPERT)
            d->first[p->layers[layer].slot_expert[s]]++;
    for (uint32_t e = 0; e <= p->n_experts; e++) {
        uint32_t n = d->first[e];
        at += n;
        d->first[e] = at;
    }
    for (uint32_t s = p->n_slots;
         s-- > 0;) /* from the end, so that first[e] comes down to the start and slots ascend */
        if (p->layers[layer].slot_expert[s] != MP_NO_EXPERT)
            d->slot[--d->first[p->layers[layer].slot_expert[s]]] = s;
    for (uint32_t e = 0; p->route == MP_ROUTE_NEAREST && e < p->n_experts; e++) {
        enum mp_status status = fill_nearest(d, e, err);
        if (status != MP_OK)
            return status;
    }
    return MP_OK;
}

/* By slot: what counts for this source. */
static const uint32_t *weights_for(const struct vf_data *d, uint32_t source) {
    const struct mp_plan *p = d->v->plan;
    const struct mp_plan_layer *layer = &p->layers[d->layer];
    if (p->route != MP_ROUTE_SOURCED)
        return layer->slot_weight;
    return &layer->slot_weight_by_source[(size_t)p->n_slots *
                                         (p->route_by == MP_ROUTE_BY_GPU ? source : d->node[source])];
}

/* Closest tier that holds weight under TIERED; under the others everything. */
static int weighted_tier(const struct vf_data *d, uint32_t e, uint32_t source) {
    int best = 0;
    const uint32_t *weight = weights_for(d, source);
    for (uint32_t i = d->first[e]; d->v->plan->route == MP_ROUTE_TIERED && i < d->first[e + 1]; i++) {
        int c = weight[d->slot[i]] > 0 ? closeness(d, d->slot[i], source) : 0;
        best = c > best ? c : best;
    }
    return best;
}

uint32_t vf_choose(const struct vf_data *d, uint32_t e, uint32_t source, uint64_t token_hash) {
    const struct mp_plan *p = d->v->plan;
    uint32_t r = d->first[e + 1] - d->first[e];
    if (r == 1)
        return d->slot[d->first[e]];
    if (p->route == MP_ROUTE_NEAREST)
        return d->nearest[(size_t)e * d->n + source];
    uint64_t hash = mp_mix64(token_hash ^ (((uint64_t)d->layer << 32) + e));
    if (p->route == MP_ROUTE_EVEN)
        return d->slot[d->first[e] + hash % r];
    const uint32_t *weight = weights_for(d, source);
    int tier = weighted_tier(d, e, source);
    uint64_t sum = 0;
    for (uint32_t i = d->first[e]; i < d->first[e + 1]; i++)
        sum += closeness(d, d->slot[i], source) >= tier ? weight[d->slot[i]] : 0;
    uint64_t left = hash % sum;
    for (uint32_t i = d->first[e]; i < d->first[e + 1]; i++) {
        uint64_t w = closeness(d, d->slot[i], source) >= tier ? weight[d->slot[i]] : 0;
        if (left < w)
            return d->slot[i];
        left -= w;
    }
    return d->slot[d->first[e]];
}

/* Tokens of (expert, source) on the i-th of its r replicas, of a count. */
static uint64_t share_of(const struct vf_data *d, uint32_t e, uint32_t source, uint64_t count, uint32_t i) {
    const struct mp_plan *p = d->v->plan;
    uint32_t r = d->first[e + 1] - d->first[e], here = d->slot[d->first[e] + i];
    if (r == 1)
        return count;
    if (p->route == MP_ROUTE_NEAREST)
        return d->nearest[(size_t)e * d->n + source] == here ? count : 0;
    if (p->route == MP_ROUTE_EVEN) {
        uint32_t turn = (i + r - source % r) % r; /* i = (source + turn) mod r */
        return count / r + (turn < count % r);
    }
    const uint32_t *weight = weights_for(d, source);
    int tier = weighted_tier(d, e, source);
    uint64_t sum = 0, floors = 0, before = 0;
    for (uint32_t k = 0; k < r; k++)
        sum += closeness(d, d->slot[d->first[e] + k], source) >= tier ? weight[d->slot[d->first[e] + k]] : 0;
    for (uint32_t k = 0; k < r; k++) {
        uint32_t slot = d->slot[d->first[e] + k];
        uint64_t w = closeness(d, slot, source) >= tier ? weight[slot] : 0;
        floors += (uint64_t)((unsigned __int128)count * w / sum);
        before += k < i && w > 0;
    }
    uint64_t own = closeness(d, here, source) >= tier ? weight[here] : 0;
    return own == 0 ? 0 : (uint64_t)((unsigned __int128)count * own / sum) + (before < count - floors);
}

/* ---- which copies ---- */

/* One token from `source` to the GPUs of its slots; gpu[k] may repeat. */
static void add_copies(struct vf_data *d, uint32_t source, const uint32_t *gpu, uint32_t k) {
    struct vf_flows *f = &d->flows;
    size_t n = d->n;
    if (d->dispatcher.copies == VF_ALL) {
        for (uint32_t g = 0; g < n; g++)
            f->first[source * n + g] += g != source;
        return;
    }
    for (uint32_t i = 0; i < k; i++) {
        uint32_t g = gpu[i], node = d->node[g];
        if (g == source)
            continue;
        if (d->dispatcher.copies == VF_PER_EXPERT) {
            f->first[source * n + g]++;
            continue;
        }
        bool has_gpu = false, has_node = false;
        for (uint32_t j = 0; j < i; j++) {
            has_gpu |= gpu[j] == g;
            has_node |= d->node[gpu[j]] == node;
        }
        if (node == d->node[source]) {
            f->first[source * n + g] += !has_gpu;
            continue;
        }
        uint32_t gateway = d->node_gpus[node * n + d->index_in_node[source] % d->node_size[node]];
        f->first[source * n + gateway] += !has_node;
        if (g != gateway)
            f->second[gateway * n + g] += !has_gpu;
    }
}

static void flows_of_tokens(struct vf_data *d, uint32_t step) {
    const struct mp_step *s = &d->workload->steps[step];
    const struct mp_plan *p = d->v->plan;
    bool is_coupled = strcmp(p->provenance.sources, "coupled") == 0;
    uint16_t ids[MP_MAX_TOP_K];
    uint32_t gpu[MP_MAX_TOP_K];
    for (uint32_t i = 0; i < s->n; i++) {
        uint32_t source = s->source[i], k = mp_trace_row(d->v->trace, d->layer, s->row[i], ids);
        uint64_t hash = mp_token_hash(s->row[i]);
        if (is_coupled)
            source = p->slot_gpu[vf_choose(d, (uint32_t)(s->row[i] % p->n_experts), source, hash)];
        for (uint32_t j = 0; j < k; j++) {
            uint32_t slot = vf_choose(d, ids[j], source, hash);
            d->slot_rows[slot]++;
            gpu[j] = p->slot_gpu[slot];
        }
        add_copies(d, source, gpu, k);
        d->flows.source_rows[source]++;
    }
    d->flows.n_tokens = s->n;
    for (uint32_t r = 0; r < d->workload->n_ranks; r++)
        d->flows.source_rows[r] += s->padding != NULL ? s->padding[r] : 0;
}

static void flows_of_counts(struct vf_data *d, uint32_t step) {
    const struct mp_plan *p = d->v->plan;
    size_t n = d->n;
    mp_workload_tokens(d->workload, step, d->layer, d->tokens);
    for (uint32_t source = 0; source < d->workload->n_ranks; source++) {
        uint64_t pairs = 0;
        for (uint32_t e = 0; e < p->n_experts; e++) {
            uint64_t count = d->tokens[(size_t)source * p->n_experts + e];
            pairs += count;
            for (uint32_t i = 0; count > 0 && i < d->first[e + 1] - d->first[e]; i++) {
                uint32_t slot = d->slot[d->first[e] + i], g = p->slot_gpu[slot];
                uint64_t share = share_of(d, e, source, count, i);
                d->slot_rows[slot] += share;
                if (g != source && d->dispatcher.copies == VF_PER_EXPERT)
                    d->flows.first[source * n + g] += share;
            }
        }
        uint64_t k = d->v->model->top_k > 0 ? d->v->model->top_k : 1;
        uint64_t starts = (pairs + k - 1) / k;
        d->flows.source_rows[source] += starts;
        d->flows.n_tokens += starts;
        for (uint32_t g = 0; g < n && d->dispatcher.copies == VF_ALL; g++)
            d->flows.first[source * n + g] += g != source ? starts : 0;
    }
}

enum mp_status vf_flows_of_step(struct vf_data *d, uint32_t step, struct mp_error *err) {
    const struct mp_plan *p = d->v->plan;
    struct vf_flows *f = &d->flows;
    size_t n = d->n;
    memset(f->first, 0, n * n * sizeof *f->first);
    if (d->dispatcher.copies == VF_PER_NODE)
        memset(f->second, 0, n * n * sizeof *f->second);
    memset(f->rows, 0, n * sizeof *f->rows);
    memset(f->padded_rows, 0, n * sizeof *f->padded_rows);
    memset(f->source_rows, 0, n * sizeof *f->source_rows);
    memset(f->active, 0, n * sizeof *f->active);
    memset(d->slot_rows, 0, p->n_slots * sizeof *d->slot_rows);
    f->n_tokens = 0;
    if (step >= d->workload->n_steps)
        return mp_fail(err, MP_EBUG, "step %u of %u", step, d->workload->n_steps);
    if (d->v->trace->kind == MP_TRACE_TOKENS)
        flows_of_tokens(d, step);
    else
        flows_of_counts(d, step);
    for (uint32_t s = 0; s < p->n_slots; s++) {
        uint32_t g = p->slot_gpu[s];
        uint64_t tile = d->v->topology->types[d->v->topology->gpus[g].type].tile_tokens;
        if (d->slot_rows[s] == 0)
            continue;
        f->active[g]++;
        f->rows[g] += d->slot_rows[s];
        f->padded_rows[g] += tile > 1 ? (d->slot_rows[s] + tile - 1) / tile * tile : d->slot_rows[s];
    }
    return MP_OK;
}

/* ---- which ports ---- */

static uint64_t ns_of(uint64_t bytes, uint64_t bytes_per_s) {
    unsigned __int128 ns = ((unsigned __int128)bytes * NS_PER_S + bytes_per_s - 1) / bytes_per_s;
    return ns > UINT64_MAX ? UINT64_MAX : (uint64_t)ns;
}

uint64_t vf_port_bound(struct vf_data *d, const uint64_t *copies, uint64_t bytes, bool is_reversed) {
    const struct mp_topology *t = d->v->topology;
    uint64_t bound = 0;
    memset(d->through, 0, t->n_resources * sizeof *d->through);
    for (uint32_t i = 0; i < d->n; i++)
        for (uint32_t j = 0; j < d->n; j++) {
            uint64_t size = copies[(size_t)i * d->n + j] * bytes;
            if (size == 0)
                continue;
            struct mp_path path = is_reversed ? vf_path(d, j, i) : vf_path(d, i, j);
            for (uint32_t k = 0; k < path.n; k++)
                d->through[path.resource[k]] += size;
            uint64_t ns = path.cap_bytes_per_s > 0 ? ns_of(size, path.cap_bytes_per_s) : 0;
            bound = ns > bound ? ns : bound;
        }
    for (uint32_t r = 0; r < t->n_resources; r++) {
        uint64_t ns = ns_of(d->through[r], t->resources[r].bytes_per_s);
        bound = ns > bound ? ns : bound;
    }
    return bound;
}

/* ---- evidence ---- */

static void add_bytes(const struct vf_data *d, const uint64_t *copies, uint64_t *intra, uint64_t *inter) {
    for (uint32_t i = 0; i < d->n; i++)
        for (uint32_t j = 0; j < d->n; j++)
            *(d->node[i] == d->node[j] ? intra : inter) += copies[(size_t)i * d->n + j] * d->v->model->dispatch_bytes;
}

enum mp_status vf_check_evidence(struct vf_data *d, struct mp_error *err) {
    struct verifier *v = d->v;
    bool wants_bound = false;
    for (uint32_t i = 0; i < v->plan->n_certificates; i++)
        wants_bound |= v->plan->certificates[i].kind != MP_CERT_ORDER;
    for (uint32_t step = 0; step < d->workload->n_steps; step++)
        d->sums[step].other_ns = d->sums[step].lower_ns = d->sums[step].residual_ns = v->model->other_ns_per_step;
    for (uint32_t l = 0; l < v->plan->n_layers; l++) {
        const struct mp_plan_layer *layer = &v->plan->layers[l];
        uint64_t rows = 0, intra = 0, inter = 0, bound = 0;
        memset(d->expert_rows, 0, v->plan->n_experts * sizeof *d->expert_rows);
        enum mp_status status = vf_prepare_layer(d, l, err);
        for (uint32_t step = 0; step < d->workload->n_steps && status == MP_OK; step++) {
            status = vf_flows_of_step(d, step, err);
            uint64_t most = 0;
            for (uint32_t g = 0; g < d->n; g++)
                most = d->flows.rows[g] > most ? d->flows.rows[g] : most;
            rows += most;
            for (uint32_t s = 0; s < v->plan->n_slots; s++)
                if (d->slot_rows[s] > 0)
                    d->expert_rows[layer->slot_expert[s]] += d->slot_rows[s];
            add_bytes(d, d->flows.first, &intra, &inter);
            if (d->dispatcher.copies == VF_PER_NODE)
                add_bytes(d, d->flows.second, &intra, &inter);
            struct vf_sums *sums = &d->sums[step];
            struct vf_slowest slowest = vf_slowest_gpu(d);
            uint64_t ports = vf_port_bound(d, d->flows.first, v->model->dispatch_bytes, false);
            uint64_t back = vf_port_bound(d, d->flows.first, v->model->combine_bytes, true);
            bound += ports;
            sums->n_copying += ports > 0;
            sums->n_combining += back > 0;
            if (layer->order != MP_NONE && v->plan->orders[layer->order].between_nodes) {
                ports = vf_relay_bound(d, d->flows.first, v->model->dispatch_bytes, false);
                back = vf_relay_bound(d, d->flows.first, v->model->combine_bytes, true);
            }
            sums->dispatch_bound_ns += ports;
            sums->combine_bound_ns += back;
            sums->compute_ns += slowest.compute_ns;
            sums->other_ns += slowest.attention_ns * vf_layer_weight(d, l);
            if (wants_bound)
                vf_layer_bound(d, step, sums);
        }
        if (status != MP_OK)
            return status;
        vf_expect(v, rows == layer->rows_max_sum, MP_V_EVIDENCE_ROWS,
                  "layer %u: rows_max_sum is %llu, and the steps give %llu", layer->layer_id, ULL(layer->rows_max_sum),
                  ULL(rows));
        vf_expect(v, intra == layer->dispatch_intra_bytes, MP_V_EVIDENCE_BYTES,
                  "layer %u: dispatch_intra_bytes is %llu, and the steps give %llu", layer->layer_id,
                  ULL(layer->dispatch_intra_bytes), ULL(intra));
        vf_expect(v, inter == layer->dispatch_inter_bytes, MP_V_EVIDENCE_BYTES,
                  "layer %u: dispatch_inter_bytes is %llu, and the steps give %llu", layer->layer_id,
                  ULL(layer->dispatch_inter_bytes), ULL(inter));
        vf_expect(v, bound == layer->port_bound_ns, MP_V_EVIDENCE_BOUND,
                  "layer %u: port_bound_ns is %llu, and the steps give %llu", layer->layer_id,
                  ULL(layer->port_bound_ns), ULL(bound));
        for (uint32_t e = 0; layer->expert_rows != NULL && e < v->plan->n_experts; e++)
            vf_expect(v, d->expert_rows[e] == layer->expert_rows[e], MP_V_EVIDENCE_ROWS,
                      "layer %u: expert_rows of expert %u is %llu, and the steps give %llu", layer->layer_id, e,
                      ULL(layer->expert_rows[e]), ULL(d->expert_rows[e]));
        if (v->report->n > 0 && d->workload->n_rows > MANY_ROWS)
            break; /* steps that the plan blew up are not worth every layer's time */
    }
    return MP_OK;
}
