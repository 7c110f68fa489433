/* Bounds of docs/BOUNDS.md part 2, derived again, and what the plan claims with them: samples, prediction,
 * certificates.
 *
 * Decides   nothing.
 * Method    closed forms; the smallest possible T by halving [1, 2^52].
 * Bound     proofs in docs/BOUNDS.md.
 * Differs   -
 * Cost      O(ranks * experts * log) per step and layer. */
#include "internal.h"
#include <stdlib.h>
#include <string.h>

typedef unsigned __int128 u128;
#define T_MAX (UINT64_C(1) << 52)

static uint64_t clip(u128 x) { return x > UINT64_MAX ? UINT64_MAX : (uint64_t)x; }
static uint64_t max_of(uint64_t a, uint64_t b) { return a > b ? a : b; }
static uint64_t min_of(uint64_t a, uint64_t b) { return a < b ? a : b; }

static int falling(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

/* Sum of the k largest of x[n], which may be reordered. */
static uint64_t top(uint64_t k, uint64_t *x, uint32_t n) {
    uint64_t best[8] = {0}, sum = 0;
    if (k <= 8) { /* the usual case, without sorting */
        for (uint32_t i = 0; i < n && k > 0; i++) {
            if (x[i] <= best[k - 1])
                continue;
            uint64_t at = k - 1;
            for (; at > 0 && best[at - 1] < x[i]; at--)
                best[at] = best[at - 1];
            best[at] = x[i];
        }
        for (uint64_t i = 0; i < k; i++)
            sum = clip((u128)sum + best[i]);
        return sum;
    }
    if (k < n)
        qsort(x, n, sizeof *x, falling);
    for (uint64_t i = 0; i < n && i < k; i++)
        sum = clip((u128)sum + x[i]);
    return sum;
}

enum mp_status vf_bounds_open(struct vf_data *d, struct mp_error *err) {
    const struct mp_plan *p = d->v->plan;
    struct vf_bounds *b = &d->bounds;
    size_t n = d->n, most = n > p->n_experts ? n : p->n_experts;
    b->tokens = mp_arena_alloc(d->arena, n * p->n_experts, sizeof *b->tokens);
    uint64_t **lists[] = {&b->of_expert, &b->scratch, &b->padded, &b->rows, &b->slots, &b->node_slots, &b->starts};
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
        *lists[i] = mp_arena_alloc(d->arena, most, sizeof(uint64_t));
        if (*lists[i] == NULL)
            return mp_nomem(err, "verifying a plan");
    }
    b->k = mp_arena_alloc(d->arena, n, sizeof *b->k);
    if (b->tokens == NULL || b->k == NULL)
        return mp_nomem(err, "verifying a plan");
    for (uint32_t g = 0; g < d->n; g++) {
        b->slots[g] = p->gpu_first_slot[g + 1] - p->gpu_first_slot[g];
        b->node_slots[d->node[g]] += b->slots[g];
        b->k[g] = vf_coefficients(d, g);
    }
    return MP_OK;
}

enum mp_status vf_rates_open(struct vf_data *d, struct mp_error *err) {
    const struct mp_plan *p = d->v->plan;
    const struct mp_topology *t = d->v->topology;
    struct vf_bounds *b = &d->bounds;
    size_t n = d->n;
    uint64_t **lists[] = {&b->out_rate, &b->in_rate, &b->node_out, &b->node_in};
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
        *lists[i] = mp_arena_alloc(d->arena, n, sizeof(uint64_t));
        if (*lists[i] == NULL)
            return mp_nomem(err, "verifying a plan");
    }
    for (uint32_t g = 0; g < d->n; g++) {
        const struct mp_gpu *gpu = &t->gpus[g];
        for (uint32_t l = 0; l < t->n_levels; l++) {
            bool is_new_out = gpu->out_port[l] < t->n_resources, is_new_in = gpu->in_port[l] < t->n_resources;
            for (uint32_t m = 0; m < l; m++) {
                is_new_out &= gpu->out_port[m] != gpu->out_port[l];
                is_new_in &= gpu->in_port[m] != gpu->in_port[l];
            }
            if (is_new_out)
                b->out_rate[g] = clip((u128)b->out_rate[g] + t->resources[gpu->out_port[l]].bytes_per_s);
            if (is_new_in)
                b->in_rate[g] = clip((u128)b->in_rate[g] + t->resources[gpu->in_port[l]].bytes_per_s);
        }
    }
    /* A node's ports of level 1 and above, each counted once however many of its GPUs share it. */
    for (uint32_t r = 0; r < t->n_resources; r++)
        for (uint32_t node = 0; node < p->n_nodes; node++) {
            bool is_out = false, is_in = false;
            for (uint32_t i = 0; i < d->node_size[node]; i++)
                for (uint32_t l = 1; l < t->n_levels; l++) {
                    is_out |= t->gpus[d->node_gpus[(size_t)node * n + i]].out_port[l] == r;
                    is_in |= t->gpus[d->node_gpus[(size_t)node * n + i]].in_port[l] == r;
                }
            b->node_out[node] =
                is_out ? clip((u128)b->node_out[node] + t->resources[r].bytes_per_s) : b->node_out[node];
            b->node_in[node] = is_in ? clip((u128)b->node_in[node] + t->resources[r].bytes_per_s) : b->node_in[node];
        }
    for (uint32_t node = 0; t->levels[0].uplink_out != NULL && node < p->n_nodes; node++) {
        b->node_out[node] = min_of(b->node_out[node], t->resources[t->levels[0].uplink_out[node]].bytes_per_s);
        b->node_in[node] = min_of(b->node_in[node], t->resources[t->levels[0].uplink_in[node]].bytes_per_s);
    }
    return MP_OK;
}

/* ---- 2.1 ---- */

static uint64_t tile_of(const struct vf_data *d, uint32_t g) {
    return max_of(1, d->v->topology->types[d->v->topology->gpus[g].type].tile_tokens);
}

/* Conditions (1), (2) and (3) at T; any slots: (1) and (2) alone. b->padded is falling. */
static bool is_possible(struct vf_data *d, uint64_t T, uint64_t M, uint64_t A, bool any_slots) {
    struct vf_bounds *b = &d->bounds;
    const struct mp_plan *p = d->v->plan;
    u128 rows = 0, experts = 0;
    for (uint32_t g = 0; g < d->n; g++) {
        const struct mp_compute_coefficients *k = &b->k[g];
        uint64_t P = clip((u128)T * d->v->topology->gpus[g].speed_ppm / 1000), most = 0, capacity = 0;
        uint64_t slots = any_slots ? max_of(b->slots[g], p->n_experts) : b->slots[g];
        if (P >= k->a_ps && P >= k->c_ps) {
            most = k->b_ps == 0 ? slots : min_of(slots, (P - k->a_ps) / k->b_ps);
            capacity = k->beta_ps == 0 ? M : (P - k->c_ps) / k->beta_ps / tile_of(d, g) * tile_of(d, g);
        }
        if (most == 0 || capacity == 0)
            most = capacity = 0;
        b->rows[g] = min_of(capacity, M);
        rows += b->rows[g];
        experts += most;
    }
    if (rows < M || experts < A || any_slots)
        return rows >= M && experts >= A;
    uint64_t spare = p->n_slots - p->n_experts;
    if (spare + 1 >= d->n)
        return true;
    qsort(b->rows, d->n, sizeof *b->rows, falling);
    u128 room = 0, need = 0;
    for (uint64_t i = 0; i < spare; i++)
        room += b->rows[i];
    for (uint64_t q = 1; q <= p->n_experts && spare + q < d->n; q++) {
        room += b->rows[spare + q - 1];
        need += b->padded[q - 1];
        if (room < need)
            return false;
    }
    return true;
}

static uint64_t compute_bound(struct vf_data *d, bool any_slots) {
    struct vf_bounds *b = &d->bounds;
    const struct mp_plan *p = d->v->plan;
    uint64_t t = 0, M = 0, A = 0;
    for (uint32_t g = 0; g < d->n; g++) {
        uint64_t x = tile_of(d, g);
        while (x != 0) { /* greatest common divisor */
            uint64_t rest = t % x;
            t = x;
            x = rest;
        }
    }
    for (uint32_t e = 0; e < p->n_experts; e++) {
        b->padded[e] = (b->of_expert[e] + t - 1) / t * t;
        M += b->padded[e];
        A += b->of_expert[e] > 0;
    }
    if (A == 0 || p->n_slots < p->n_experts)
        return 0;
    qsort(b->padded, p->n_experts, sizeof *b->padded, falling);
    if (!is_possible(d, T_MAX, M, A, false))
        return 0;
    uint64_t low = 0, high = T_MAX; /* low is not possible (0 ns), high is */
    while (high - low > 1) {
        uint64_t middle = (low + high) / 2;
        if (is_possible(d, middle, M, A, any_slots))
            high = middle;
        else
            low = middle;
    }
    return high;
}

/* ---- 2.2 ---- */

static uint64_t term(uint64_t copies, uint64_t bytes, uint64_t rate) {
    if (copies == 0 || bytes == 0 || rate == 0)
        return 0;
    return clip(((u128)copies * bytes * 1000000000 + rate - 1) / rate);
}

static uint64_t transfer_bound(struct vf_data *d, bool is_combine) {
    struct vf_bounds *b = &d->bounds;
    const struct mp_plan *p = d->v->plan;
    uint64_t bytes = is_combine ? d->v->model->combine_bytes : d->v->model->dispatch_bytes, largest = 0;
    const uint64_t *source = is_combine ? b->in_rate : b->out_rate, *host = is_combine ? b->out_rate : b->in_rate;
    const uint64_t *node_rate = is_combine ? b->node_in : b->node_out;
    if (d->n < 2 || strcmp(p->provenance.sources, "coupled") == 0)
        return 0;
    if (d->dispatcher.copies == VF_ALL) {
        uint64_t all = 0;
        for (uint32_t r = 0; r < d->n; r++)
            all += b->starts[r];
        for (uint32_t i = 0; i < d->n; i++) {
            largest = max_of(largest, term(b->starts[i] * (d->n - 1), bytes, source[i]));
            largest = max_of(largest, term(all - b->starts[i], bytes, host[i]));
        }
    } else {
        bool is_per_node = d->dispatcher.copies == VF_PER_NODE;
        uint64_t k = d->v->trace->kind == MP_TRACE_TOKENS ? max_of(1, d->v->trace->top_k) : 1, K = 1;
        for (uint32_t node = 0; node < p->n_nodes && is_per_node; node++)
            K = max_of(K, min_of(k, b->node_slots[node]));
        for (uint32_t i = 0; i < d->workload->n_ranks; i++) {
            uint64_t pairs = 0;
            for (uint32_t e = 0; e < p->n_experts; e++)
                pairs += b->scratch[e] = b->tokens[(size_t)i * p->n_experts + e];
            uint64_t away = pairs - top(b->slots[i], b->scratch, p->n_experts);
            largest = max_of(largest, term((away + K - 1) / K, bytes, source[i]));
        }
        for (uint32_t node = 0; node < p->n_nodes; node++) {
            uint64_t pairs = 0;
            memset(b->scratch, 0, p->n_experts * sizeof *b->scratch);
            for (uint32_t i = 0; i < d->node_size[node]; i++) {
                uint32_t r = d->node_gpus[(size_t)node * d->n + i];
                for (uint32_t e = 0; e < p->n_experts && r < d->workload->n_ranks; e++) {
                    b->scratch[e] += b->tokens[(size_t)r * p->n_experts + e];
                    pairs += b->tokens[(size_t)r * p->n_experts + e];
                }
            }
            uint64_t away = pairs - top(b->node_slots[node], b->scratch, p->n_experts);
            largest = max_of(largest, term((away + K - 1) / K, bytes, node_rate[node]));
        }
        uint64_t W = (uint64_t)p->n_slots - p->n_experts + 1;
        if (!is_per_node && p->n_slots >= p->n_experts && W < d->n) {
            uint32_t hot = 0;
            for (uint32_t e = 1; e < p->n_experts; e++)
                hot = b->of_expert[e] > b->of_expert[hot] ? e : hot;
            for (uint32_t r = 0; r < d->n; r++)
                b->scratch[r] = r < d->workload->n_ranks ? b->tokens[(size_t)r * p->n_experts + hot] : 0;
            uint64_t copies = b->of_expert[hot] - top(W, b->scratch, d->n);
            memcpy(b->scratch, host, d->n * sizeof *host);
            largest = max_of(largest, term(copies, bytes, top(W, b->scratch, d->n)));
        }
    }
    if (largest == 0)
        return 0;
    return clip((u128)largest + vf_launch_floor(d));
}

uint64_t vf_launch_floor(const struct vf_data *d) {
    const struct mp_topology *t = d->v->topology;
    uint64_t latency = UINT64_MAX, launch = clip((u128)d->dispatcher.n_launches * t->launch_ns);
    for (uint32_t l = 0; l < t->n_levels; l++)
        latency = min_of(latency, t->levels[l].latency_ns);
    return clip((u128)latency + min_of(launch, t->stage_launch_ns));
}

void vf_layer_bound(struct vf_data *d, uint32_t step, struct vf_sums *sums) {
    struct vf_bounds *b = &d->bounds;
    const struct mp_plan *p = d->v->plan;
    const struct mp_workload *w = d->workload;
    mp_workload_tokens(w, step, d->layer, b->tokens);
    memset(b->of_expert, 0, p->n_experts * sizeof *b->of_expert);
    memset(b->starts, 0, d->n * sizeof *b->starts);
    for (uint32_t r = 0; r < w->n_ranks; r++) {
        uint64_t pairs = 0;
        for (uint32_t e = 0; e < p->n_experts; e++) {
            b->of_expert[e] += b->tokens[(size_t)r * p->n_experts + e];
            pairs += b->tokens[(size_t)r * p->n_experts + e];
        }
        uint64_t k = max_of(1, d->v->model->top_k);
        b->starts[r] = d->v->trace->kind == MP_TRACE_COUNTS ? (pairs + k - 1) / k : 0;
    }
    for (uint32_t i = 0; d->v->trace->kind == MP_TRACE_TOKENS && i < w->steps[step].n; i++)
        b->starts[w->steps[step].source[i]]++;
    struct vf_slowest most = vf_slowest_gpu(d);
    if (strcmp(p->provenance.sources, "coupled") ==
        0) { /* the sources may lie anywhere: as if spread evenly on the quickest */
        u128 sum = 0;
        for (uint32_t g = 0; g < d->n; g++)
            sum += d->flows.source_rows[g];
        uint64_t rows = clip((sum + d->n - 1) / d->n);
        most.attention_ns = most.shared_ns = UINT64_MAX;
        for (uint32_t g = 0; g < d->n; g++) {
            most.attention_ns = min_of(most.attention_ns, vf_attention_ns(d, g, rows));
            most.shared_ns = min_of(most.shared_ns, vf_shared_ns(d, g, rows));
        }
    }
    const uint64_t attention = most.attention_ns * vf_layer_weight(d, d->layer), out = transfer_bound(d, false),
                   back = transfer_bound(d, true), moves = d->dispatcher.copies == VF_ALL;
    sums->lower_ns += attention + max_of(most.shared_ns, out) + compute_bound(d, false) + back;
    sums->residual_ns += attention + max_of(most.shared_ns, moves * out) + compute_bound(d, true) + moves * back;
}

/* ---- the claims ---- */

static bool is_near(uint64_t a, uint64_t b, uint64_t by) { return a > b ? a - b <= by : b - a <= by; }

static void compare_sample(struct verifier *v, const struct mp_plan_sample *s, const struct mp_plan_sample *own,
                           uint64_t by) {
    const struct {
        const char *what;
        uint64_t claimed, found, by;
    } fields[] = {{"dispatch_ns", s->dispatch_ns, own->dispatch_ns, by},
                  {"compute_ns", s->compute_ns, own->compute_ns, 0},
                  {"combine_ns", s->combine_ns, own->combine_ns, by},
                  {"step_ns", s->step_ns, own->step_ns, 2 * by}};
    for (size_t i = 0; i < 4; i++)
        vf_expect(v, is_near(fields[i].claimed, fields[i].found, fields[i].by), MP_V_SAMPLE,
                  "step %u: %s is %llu, and simulating it gives %llu", s->step, fields[i].what, ULL(fields[i].claimed),
                  ULL(fields[i].found));
}

static enum mp_status check_samples(struct vf_data *d, uint64_t by, uint64_t *operations, struct mp_error *err) {
    struct verifier *v = d->v;
    const uint64_t most = d->operations_max;
    for (uint32_t i = 0; i < v->plan->n_samples; i++) {
        const struct mp_plan_sample *s = &v->plan->samples[i];
        const struct vf_sums *x = &d->sums[s->step];
        struct mp_plan_sample own;
        bool is_done = false;
        enum mp_status status = vf_time_of_step(d, s->step, &own, &is_done, err);
        if (status != MP_OK)
            return status;
        if (is_done) {
            v->report->n_steps_simulated++;
            *operations = d->n_operations / (i + 1);
            compare_sample(v, s, &own, by);
            if (!v->plan->is_pipelined)
                continue;
            uint64_t clocks_ns;
            d->operations_max = v->is_thorough ? UINT64_MAX : d->n_operations + VF_SAMPLE_OPERATIONS;
            status = vf_pipelined_step(d, s->step, &clocks_ns, &is_done, err);
            d->operations_max = most;
            if (status != MP_OK)
                return status;
            *operations = is_done ? d->n_operations / (i + 1) : UINT64_MAX;
            if (is_done)
                vf_expect(v, is_near(s->pipelined_step_ns, clocks_ns, 4 * by), MP_V_SAMPLE,
                          "step %u: pipelined_step_ns is %llu, and simulating it gives %llu", s->step,
                          ULL(s->pipelined_step_ns), ULL(clocks_ns));
            continue;
        }
        /* Too large for the slow simulator: what needs no simulation, exactly, and the rest from below. */
        *operations = UINT64_MAX;
        vf_expect(v, s->compute_ns == x->compute_ns, MP_V_SAMPLE,
                  "step %u: compute_ns is %llu, and the loads give %llu", s->step, ULL(s->compute_ns),
                  ULL(x->compute_ns));
        vf_expect(v, s->dispatch_ns >= x->dispatch_bound_ns && s->combine_ns >= x->combine_bound_ns, MP_V_SAMPLE,
                  "step %u: dispatch_ns %llu and combine_ns %llu, and the ports need %llu and %llu", s->step,
                  ULL(s->dispatch_ns), ULL(s->combine_ns), ULL(x->dispatch_bound_ns), ULL(x->combine_bound_ns));
        vf_expect(v, s->step_ns >= s->dispatch_ns + s->compute_ns + s->combine_ns + x->other_ns, MP_V_SAMPLE,
                  "step %u: step_ns is %llu, and its parts with attention make %llu", s->step, ULL(s->step_ns),
                  ULL(s->dispatch_ns + s->compute_ns + s->combine_ns + x->other_ns));
    }
    return MP_OK;
}

/* Fluid times of one direction of a step. */
static uint64_t fluid_times(const struct vf_data *d) {
    uint64_t n = 0;
    for (uint32_t l = 0; l < d->v->plan->n_layers; l++)
        n += vf_fluid_times(d, l);
    return n;
}

/* Certificates of orders, of the dispatch or the combine: sum over steps and layers of bound and launch floor. */
static u128 check_order_value(struct vf_data *d, uint32_t i, bool is_combine, const struct mp_plan_sample *mean,
                              uint64_t by) {
    struct verifier *v = d->v;
    const struct mp_certificate *c = &v->plan->certificates[i];
    u128 bound = 0;
    for (uint64_t s = 0; s < v->plan->n_planning_steps; s++) {
        const struct vf_sums *x = &d->sums[s];
        bound += is_combine ? x->combine_bound_ns : x->dispatch_bound_ns;
        bound += (u128)(is_combine ? x->n_combining : x->n_copying) * vf_launch_floor(d);
    }
    if (mean == NULL) {
        vf_expect(v, c->value_ns <= v->plan->predicted_step_ns, MP_V_CERTIFICATE,
                  "certificate %u: value_ns is %llu, and the whole step is predicted to take %llu", i, ULL(c->value_ns),
                  ULL(v->plan->predicted_step_ns));
        return bound;
    }
    uint64_t own = is_combine ? mean->combine_ns : mean->dispatch_ns;
    vf_expect(v, is_near(c->value_ns, own, by + 1), MP_V_CERTIFICATE,
              "certificate %u: value_ns is %llu, and simulating all steps gives %llu", i, ULL(c->value_ns), ULL(own));
    return bound;
}

/* A search is proven by running it again; what can be said without: its scope, its value, and that its bound is neither
 * below the closed one nor, when the search ended, away from the value. */
static void check_search(struct vf_data *d, uint32_t i, u128 lower) {
    struct verifier *v = d->v;
    const struct mp_plan *p = v->plan;
    const struct mp_certificate *c = &p->certificates[i];
    bool is_single = strcmp(c->scope, "step, single shots, every placement of one copy per expert in these slots, "
                                      "planning steps") == 0,
         has_orders = false, has_replicas = false;
    if (!vf_expect(v,
                   c->kind == MP_CERT_PLACEMENT &&
                       (is_single || strcmp(c->scope, "step, single shots, every placement of these replicas in these "
                                                      "slots, planning steps") == 0),
                   MP_V_CERTIFICATE, "certificate %u: no search is known for the scope \"%.80s\"", i, c->scope))
        return;
    for (uint32_t l = 0; l < p->n_layers; l++) {
        uint32_t n = 0;
        has_orders |= p->layers[l].order != MP_NONE;
        for (uint32_t s = 0; s < p->n_slots; s++)
            n += p->layers[l].slot_expert[s] != MP_NO_EXPERT;
        has_replicas |= n > p->n_experts;
    }
    vf_expect(v, !has_orders, MP_V_CERTIFICATE, "certificate %u: single shots, and a layer has an order", i);
    vf_expect(v, !is_single || !has_replicas, MP_V_CERTIFICATE,
              "certificate %u: one copy per expert, and an expert has more", i);
    vf_expect(v, is_single || p->route == MP_ROUTE_EVEN, MP_V_CERTIFICATE,
              "certificate %u: replicas searched under the rule even, and the rule is %s", i,
              mp_route_rule_name(p->route));
    vf_expect(v, strcmp(p->provenance.sources, "dp") == 0, MP_V_CERTIFICATE,
              "certificate %u: searched for sources dp, and they are %s", i, p->provenance.sources);
    vf_expect(v, c->nodes > 0, MP_V_CERTIFICATE, "certificate %u: a search of no nodes", i);
    vf_expect(v, c->value_ns == p->predicted_step_ns, MP_V_CERTIFICATE,
              "certificate %u: value_ns is %llu, and the predicted step %llu", i, ULL(c->value_ns),
              ULL(p->predicted_step_ns));
    vf_expect(v, c->bound_ns >= clip(lower / p->n_planning_steps), MP_V_CERTIFICATE,
              "certificate %u: bound_ns is %llu, and the closed form gives %llu already", i, ULL(c->bound_ns),
              ULL(clip(lower / p->n_planning_steps)));
    vf_expect(v, c->proof != MP_PROOF_SEARCH || c->bound_ns + 1 >= c->value_ns, MP_V_CERTIFICATE,
              "certificate %u: a search that ended at bound %llu, and the value is %llu", i, ULL(c->bound_ns),
              ULL(c->value_ns));
}

static void check_certificate(struct vf_data *d, uint32_t i, const struct mp_plan_sample *mean, uint64_t by) {
    struct verifier *v = d->v;
    const struct mp_plan *p = v->plan;
    const struct mp_certificate *c = &p->certificates[i];
    u128 bound = 0;
    uint64_t n = p->n_planning_steps;
    if (c->proof != MP_PROOF_CLOSED_FORM) {
        for (uint64_t s = 0; s < n && c->kind == MP_CERT_PLACEMENT; s++)
            bound += d->sums[s].lower_ns;
        check_search(d, i, bound);
        return;
    }
    if (c->kind == MP_CERT_ORDER && strcmp(c->scope, VF_SCOPE_DISPATCH) == 0) {
        bound = check_order_value(d, i, false, mean, by);
    } else if (c->kind == MP_CERT_ORDER && strcmp(c->scope, VF_SCOPE_COMBINE) == 0) {
        bound = check_order_value(d, i, true, mean, by);
    } else if ((c->kind == MP_CERT_PLACEMENT && strcmp(c->scope, VF_SCOPE_PLACEMENT) == 0) ||
               (c->kind == MP_CERT_RESIDUAL && strcmp(c->scope, VF_SCOPE_RESIDUAL) == 0)) {
        for (uint64_t s = 0; s < n; s++)
            bound += c->kind == MP_CERT_PLACEMENT ? d->sums[s].lower_ns : d->sums[s].residual_ns;
        vf_expect(v, c->value_ns == p->predicted_step_ns, MP_V_CERTIFICATE,
                  "certificate %u: value_ns is %llu, and the predicted step %llu", i, ULL(c->value_ns),
                  ULL(p->predicted_step_ns));
    } else {
        vf_expect(v, false, MP_V_CERTIFICATE, "certificate %u: no closed form is known for the scope \"%.80s\"", i,
                  c->scope);
        return;
    }
    vf_expect(v, c->bound_ns == clip(bound / n), MP_V_CERTIFICATE,
              "certificate %u: bound_ns is %llu, and the steps give %llu", i, ULL(c->bound_ns), ULL(clip(bound / n)));
}

enum mp_status vf_check_claims(struct vf_data *d, struct mp_error *err) {
    struct verifier *v = d->v;
    const struct mp_plan *p = v->plan;
    uint64_t n = p->n_planning_steps, operations = 0;
    uint64_t by = fluid_times(d);
    d->operations_max = v->is_thorough ? UINT64_MAX : VF_SAMPLE_OPERATIONS;
    enum mp_status status = check_samples(d, by, &operations, err);
    u128 step = 0, dispatch = 0, combine = 0, floor = 0, pipelined = 0;
    bool is_whole = status == MP_OK && p->n_samples > 0 && operations != UINT64_MAX &&
                    (u128)operations * n <= (v->is_thorough ? VF_THOROUGH_OPERATIONS : VF_ALL_OPERATIONS);
    d->operations_max = UINT64_MAX;
    for (uint32_t s = 0; s < n && status == MP_OK; s++) {
        const struct vf_sums *x = &d->sums[s];
        floor += (u128)x->dispatch_bound_ns + x->combine_bound_ns + x->compute_ns + x->other_ns;
        if (!is_whole)
            continue;
        struct mp_plan_sample own;
        bool is_done;
        status = vf_time_of_step(d, s, &own, &is_done, err);
        step += own.step_ns;
        dispatch += own.dispatch_ns;
        combine += own.combine_ns;
        uint64_t clocks_ns = 0;
        if (status == MP_OK && p->is_pipelined)
            status = vf_pipelined_step(d, s, &clocks_ns, &is_done, err);
        pipelined += clocks_ns;
    }
    if (status != MP_OK)
        return status;
    struct mp_plan_sample mean = {.step_ns = clip((step + n / 2) / n),
                                  .dispatch_ns = clip((dispatch + n / 2) / n),
                                  .combine_ns = clip((combine + n / 2) / n)};
    if (is_whole)
        vf_expect(v, is_near(p->predicted_step_ns, mean.step_ns, 2 * by + 1), MP_V_PREDICTION,
                  "step_ns is %llu, and simulating all %llu steps gives %llu", ULL(p->predicted_step_ns), ULL(n),
                  ULL(mean.step_ns));
    else
        vf_expect(v, p->predicted_step_ns >= clip(floor / n), MP_V_PREDICTION,
                  "step_ns is %llu, and ports and computation alone need %llu", ULL(p->predicted_step_ns),
                  ULL(clip(floor / n)));
    const uint64_t clocks_mean_ns = clip((pipelined + n / 2) / n);
    if (is_whole && p->is_pipelined)
        vf_expect(v, is_near(p->predicted_pipelined_ns, clocks_mean_ns, 4 * by + 1), MP_V_PREDICTION,
                  "pipelined_step_ns is %llu, and simulating all %llu steps gives %llu", ULL(p->predicted_pipelined_ns),
                  ULL(n), ULL(clocks_mean_ns));
    for (uint32_t i = 0; i < p->n_certificates; i++)
        check_certificate(d, i, is_whole ? &mean : NULL, by);
    return MP_OK;
}
