/* Lower bounds: of a given matrix over the ports, and of a layer over every placement.
 *
 * Decides    nothing; says how much better any plan could still be.
 * Method     closed forms: capacity counting of compute (rows, activated experts, the q heaviest experts on the slots
 *            they can have) and of ports (pairs that cannot be local, divided by what one copy can carry).
 *            docs/BOUNDS.md has statement and proof.
 * Cost       O(n_ranks * n_experts + 64 * n_gpus log n_gpus) per layer. */
#include <moeplan/cost.h>
#include <stdlib.h>
#include <string.h>

#define NS_PER_S UINT64_C(1000000000)

/* Resources are summed a window at a time on the stack, so that this needs no memory and cannot fail. */
#define WINDOW 2048u

uint64_t mp_port_bound_ns(const struct mp_topology *t, const uint64_t *matrix) {
    uint64_t through[WINDOW], bound = 0;
    for (uint32_t base = 0; base < t->n_resources; base += WINDOW) {
        memset(through, 0, sizeof through);
        for (uint32_t i = 0; i < t->n_gpus; i++)
            for (uint32_t j = 0; j < t->n_gpus; j++) {
                uint64_t bytes = matrix[(size_t)i * t->n_gpus + j];
                if (i == j || bytes == 0)
                    continue;
                struct mp_path path;
                mp_topology_path(t, i, j, &path);
                for (uint32_t k = 0; k < path.n; k++) {
                    uint32_t r = path.resource[k] - base; /* wraps past the window when below it */
                    if (r < WINDOW && mp_add_overflow(through[r], bytes, &through[r]))
                        through[r] = UINT64_MAX;
                }
                if (path.cap_bytes_per_s > 0) {
                    uint64_t ns = mp_mul_div_ceil(bytes, NS_PER_S, path.cap_bytes_per_s);
                    bound = ns > bound ? ns : bound;
                }
            }
        for (uint32_t r = base; r < t->n_resources && r - base < WINDOW; r++) {
            uint64_t ns = mp_mul_div_ceil(through[r - base], NS_PER_S, t->resources[r].bytes_per_s);
            bound = ns > bound ? ns : bound;
        }
    }
    return bound;
}

/* Scratch of one call. */
struct bound_scratch {
    uint32_t n, n_experts, n_nodes, n_ranks;
    uint64_t n_slots;
    uint32_t *tokens;                       /* [n_ranks][n_experts] */
    uint64_t *load, *sorted;                /* [n_experts] rows of each expert; work space */
    uint64_t *slots, *node_slots;           /* [n], [n_nodes] */
    uint64_t *out_rate, *in_rate;           /* [n] bytes/s of all ports of a GPU */
    uint64_t *node_out_rate, *node_in_rate; /* [n_nodes] bytes/s between this node and the others */
    uint64_t *remote, *node_remote;         /* pairs that cannot stay on the GPU, in the node */
    uint64_t *source_tokens;                /* [n] */
    uint64_t *capacity;                     /* [n] */
    struct mp_compute_coefficients *k;      /* [n] */
    struct mp_arena *arena;
};

static int descending(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x < y) - (x > y);
}
/* Sum of the k largest of v[n]; orders v. */
static uint64_t sum_of_largest(uint64_t *v, uint32_t n, uint64_t k) {
    if (k < n)
        qsort(v, n, sizeof *v, descending);
    uint64_t sum = 0;
    for (uint32_t i = 0; i < n && i < k; i++)
        sum += v[i];
    return sum;
}
static uint64_t larger(uint64_t a, uint64_t b) { return a > b ? a : b; }
static uint64_t smaller(uint64_t a, uint64_t b) { return a < b ? a : b; }

uint64_t mp_launch_floor_ns(const struct mp_topology *t, const struct mp_dispatcher *d) {
    uint64_t latency = UINT64_MAX, launch;
    for (uint32_t l = 0; l < t->n_levels; l++)
        latency = smaller(latency, t->levels[l].latency_ns);
    if (mp_mul_overflow(t->launch_ns, (uint64_t)d->n_launches, &launch))
        launch = UINT64_MAX;
    return latency + smaller(launch, t->stage_launch_ns);
}

static uint64_t gcd(uint64_t a, uint64_t b) {
    while (b != 0) {
        uint64_t r = a % b;
        a = b;
        b = r;
    }
    return a;
}
static uint64_t add_rate(uint64_t a, uint64_t b) {
    uint64_t sum;
    return mp_add_overflow(a, b, &sum) ? UINT64_MAX : sum;
}

/* Bytes per second of the distinct ports of one GPU, levels [from, n_levels). */
static uint64_t ports_of_gpu(const struct mp_topology *t, uint32_t gpu, bool is_in, uint32_t from) {
    const uint32_t *port = is_in ? t->gpus[gpu].in_port : t->gpus[gpu].out_port;
    uint64_t rate = 0;
    for (uint32_t l = from; l < t->n_levels; l++) {
        bool is_known = port[l] >= t->n_resources;
        for (uint32_t m = from; m < l && !is_known; m++)
            is_known = port[m] == port[l];
        if (!is_known)
            rate = add_rate(rate, t->resources[port[l]].bytes_per_s);
    }
    return rate;
}

/* Can every GPU be done within T ns? False only when no placement at all allows it. is_free: every GPU may hold every
 * expert. */
static bool is_possible(struct bound_scratch *s, const struct mp_topology *t, uint64_t T, uint64_t n_active,
                        const uint64_t *heavy, uint64_t total_rows, bool is_free) {
    uint64_t active = 0, rows = 0;
    for (uint32_t g = 0; g < s->n; g++) {
        const struct mp_compute_coefficients *k = &s->k[g];
        uint64_t tile = larger(1, t->types[t->gpus[g].type].tile_tokens);
        uint64_t P = mp_mul_div(T, t->gpus[g].speed_ppm, 1000); /* picoseconds of nominal work */
        uint64_t experts = 0, capacity = 0, slots = is_free ? larger(s->slots[g], s->n_experts) : s->slots[g];
        if (P >= k->a_ps && P >= k->c_ps) {
            experts = k->b_ps == 0 ? slots : smaller(slots, (P - k->a_ps) / k->b_ps);
            capacity = k->beta_ps == 0 ? total_rows : (P - k->c_ps) / k->beta_ps;
            capacity = k->beta_ps == 0 ? capacity : capacity / tile * tile;
            if (experts == 0 || capacity == 0)
                experts = capacity = 0;
        }
        s->capacity[g] = smaller(capacity, total_rows);
        active += experts;
        rows = add_rate(rows, s->capacity[g]);
    }
    if (active < n_active || rows < total_rows)
        return false;
    uint64_t spare = s->n_slots - s->n_experts; /* q experts have at most spare + q slots */
    if (is_free || spare + 1 >= s->n)
        return true;
    qsort(s->capacity, s->n, sizeof *s->capacity, descending);
    uint64_t room = 0, need = 0;
    for (uint64_t i = 0; i < spare; i++)
        room = add_rate(room, s->capacity[i]);
    for (uint32_t q = 1; q <= s->n_experts && spare + q < s->n; q++) {
        need += heavy[q - 1];
        room = add_rate(room, s->capacity[spare + q - 1]);
        if (room < need)
            return false;
    }
    return true;
}

/* *free_ns: where every GPU may hold every expert. */
static uint64_t compute_bound(struct bound_scratch *s, const struct mp_topology *t, uint64_t *free_ns) {
    uint64_t tile = 0, n_active = 0, total = 0;
    for (uint32_t g = 0; g < s->n; g++)
        tile = gcd(tile, larger(1, t->types[t->gpus[g].type].tile_tokens));
    for (uint32_t e = 0; e < s->n_experts; e++) {
        s->sorted[e] = mp_ceil_div(s->load[e], tile) * tile;
        total += s->sorted[e];
        n_active += s->load[e] > 0;
    }
    *free_ns = 0;
    if (n_active == 0 || s->n_slots < s->n_experts)
        return 0;
    qsort(s->sorted, s->n_experts, sizeof *s->sorted, descending);
    uint64_t low = 0, high = 1; /* low is impossible */
    while (!is_possible(s, t, high, n_active, s->sorted, total, false)) {
        low = high;
        high *= 2;
        if (high > UINT64_C(1) << 52)
            return 0; /* 52 days in one layer: the coefficients make no sense, claim nothing */
    }
    while (high - low > 1) {
        uint64_t middle = low + (high - low) / 2;
        if (is_possible(s, t, middle, n_active, s->sorted, total, false))
            high = middle;
        else
            low = middle;
    }
    *free_ns = high; /* more slots make nothing impossible */
    for (low = 0; *free_ns - low > 1;) {
        uint64_t middle = low + (*free_ns - low) / 2;
        if (is_possible(s, t, middle, n_active, s->sorted, total, true))
            *free_ns = middle;
        else
            low = middle;
    }
    return high;
}

/* One direction. to_experts: dispatch, else combine (ports change roles). */
static uint64_t transfer_bound(struct bound_scratch *s, const struct mp_cost_setup *in, bool to_experts) {
    const struct mp_topology *t = in->topology;
    const struct mp_dispatcher *d = in->dispatcher;
    uint64_t bytes = to_experts ? in->model->dispatch_bytes : in->model->combine_bytes, bound = 0;
    const uint64_t *source_rate = to_experts ? s->out_rate : s->in_rate,
                   *host_rate = to_experts ? s->in_rate : s->out_rate;
    const uint64_t *node_rate = to_experts ? s->node_out_rate : s->node_in_rate;
    if (in->sources != MP_SOURCES_DP || s->n < 2)
        return 0;
#define AT_LEAST(copies, rate)                                                                                         \
    do {                                                                                                               \
        uint64_t amount_ = (copies), rate_ = (rate);                                                                   \
        if (amount_ > 0 && rate_ > 0 && bytes > 0)                                                                     \
            bound = larger(bound, mp_mul_div_ceil(amount_ * bytes, NS_PER_S, rate_));                                  \
    } while (0)
    if (d->copies == MP_COPY_ALL) {
        uint64_t total = 0;
        for (uint32_t i = 0; i < s->n; i++)
            total += s->source_tokens[i];
        for (uint32_t i = 0; i < s->n; i++) {
            AT_LEAST(s->source_tokens[i] * (s->n - 1), source_rate[i]);
            AT_LEAST(total - s->source_tokens[i], host_rate[i]);
        }
    } else {
        uint64_t k = in->workload->trace->kind == MP_TRACE_TOKENS ? larger(1, in->workload->trace->top_k) : 1;
        uint64_t most = 1; /* pairs that one copy can carry */
        if (d->copies == MP_COPY_PER_GPU)
            for (uint32_t g = 0; g < s->n; g++)
                most = larger(most, smaller(k, s->slots[g]));
        if (d->copies == MP_COPY_PER_NODE)
            for (uint32_t v = 0; v < s->n_nodes; v++)
                most = larger(most, smaller(k, s->node_slots[v]));
        for (uint32_t i = 0; i < s->n_ranks; i++)
            AT_LEAST(mp_ceil_div(s->remote[i], most), source_rate[i]);
        for (uint32_t v = 0; v < s->n_nodes; v++)
            AT_LEAST(mp_ceil_div(s->node_remote[v], most), node_rate[v]);
        /* The busiest expert: it sits on few GPUs, and all its rows from elsewhere pass their ports. */
        uint64_t replicas = s->n_slots - s->n_experts + 1;
        if (d->copies != MP_COPY_PER_NODE && replicas < s->n) {
            uint32_t hot = 0;
            for (uint32_t e = 1; e < s->n_experts; e++)
                hot = s->load[e] > s->load[hot] ? e : hot;
            memset(s->capacity, 0, s->n * sizeof *s->capacity);
            for (uint32_t i = 0; i < s->n_ranks; i++)
                s->capacity[i] = s->tokens[(size_t)i * s->n_experts + hot];
            uint64_t local = sum_of_largest(s->capacity, s->n, replicas);
            memcpy(s->capacity, host_rate, s->n * sizeof *s->capacity);
            qsort(s->capacity, s->n, sizeof *s->capacity, descending);
            uint64_t rate = 0;
            for (uint64_t i = 0; i < replicas; i++)
                rate = add_rate(rate, s->capacity[i]);
            AT_LEAST(s->load[hot] - local, rate);
        }
    }
#undef AT_LEAST
    if (bound == 0)
        return 0;
    return bound + mp_launch_floor_ns(t, d); /* some message travels */
}

static enum mp_status prepare(struct bound_scratch *s, const struct mp_cost_setup *in, struct mp_error *err) {
    const struct mp_topology *t = in->topology;
    const struct mp_plan *p = in->plan;
    if (p->n_gpus != t->n_gpus || in->workload->n_ranks > p->n_gpus || in->workload->trace->n_experts != p->n_experts)
        return mp_fail(err, MP_EUSAGE,
                       "a bound needs a plan, steps and a topology of one size (%u GPUs, %u ranks, %u GPUs)", p->n_gpus,
                       in->workload->n_ranks, t->n_gpus);
    if (in->flow != NULL || in->dispatcher->weights != MP_WEIGHTS_STAY)
        return mp_fail(err, MP_EUSAGE, "a bound needs tokens and experts that stay where they are");
    s->n = t->n_gpus;
    s->n_experts = p->n_experts;
    s->n_nodes = mp_topology_n_nodes(t);
    s->n_ranks = in->workload->n_ranks;
    s->n_slots = p->n_slots;
    struct mp_arena *a = s->arena = mp_arena_new();
    if (a == NULL)
        return mp_nomem(err, "a lower bound");
    size_t n = s->n, nodes = s->n_nodes, experts = s->n_experts;
    s->tokens = mp_arena_alloc(a, (size_t)s->n_ranks * experts, sizeof *s->tokens);
    uint64_t **lists[] = {&s->slots,         &s->out_rate,    &s->in_rate,    &s->remote,
                          &s->source_tokens, &s->capacity,    &s->node_slots, &s->node_out_rate,
                          &s->node_in_rate,  &s->node_remote, &s->load,       &s->sorted};
    for (size_t i = 0; i < 12; i++) {
        *lists[i] = mp_arena_alloc(a, i < 6 ? n : i < 10 ? nodes : experts, sizeof(uint64_t));
        if (*lists[i] == NULL)
            return mp_nomem(err, "a lower bound");
    }
    s->k = mp_arena_alloc(a, n, sizeof *s->k);
    if (s->tokens == NULL || s->k == NULL)
        return mp_nomem(err, "a lower bound");
    /* A resource between nodes counts once for each node whose GPUs use it: its mark is the last node that counted
     * it. */
    uint32_t *mark = mp_arena_alloc(a, larger(1, t->n_resources), sizeof *mark);
    if (mark == NULL)
        return mp_nomem(err, "a lower bound");
    for (uint32_t v = 0; v < nodes; v++)
        for (uint32_t g = 0; g < n; g++) {
            if (mp_topology_node(t, g) != v)
                continue;
            for (uint32_t l = 1; l < t->n_levels; l++) {
                uint32_t o = t->gpus[g].out_port[l], i = t->gpus[g].in_port[l];
                if (o < t->n_resources && mark[o] != v + 1) {
                    mark[o] = v + 1;
                    s->node_out_rate[v] = add_rate(s->node_out_rate[v], t->resources[o].bytes_per_s);
                }
                if (i < t->n_resources && mark[i] != v + 1) {
                    mark[i] = v + 1;
                    s->node_in_rate[v] = add_rate(s->node_in_rate[v], t->resources[i].bytes_per_s);
                }
            }
        }
    /* Everything that leaves or enters a node also passes its uplink, where it has one. */
    for (uint32_t v = 0; v < nodes && t->levels[0].uplink_out != NULL && t->levels[0].uplink_in != NULL; v++) {
        s->node_out_rate[v] = smaller(s->node_out_rate[v], t->resources[t->levels[0].uplink_out[v]].bytes_per_s);
        s->node_in_rate[v] = smaller(s->node_in_rate[v], t->resources[t->levels[0].uplink_in[v]].bytes_per_s);
    }
    for (uint32_t g = 0; g < n; g++) {
        s->slots[g] = p->gpu_first_slot[g + 1] - p->gpu_first_slot[g];
        s->node_slots[mp_topology_node(t, g)] += s->slots[g];
        s->out_rate[g] = ports_of_gpu(t, g, false, 0);
        s->in_rate[g] = ports_of_gpu(t, g, true, 0);
        s->k[g] = mp_compute_coefficients(t, g, in->model);
    }
    return MP_OK;
}

static void one_layer(struct bound_scratch *s, const struct mp_cost_setup *in, uint32_t step, uint32_t layer,
                      struct mp_layer_bound *out) {
    const struct mp_topology *t = in->topology;
    const struct mp_workload *w = in->workload;
    size_t experts = s->n_experts;
    mp_workload_tokens(w, step, layer, s->tokens);
    memset(s->load, 0, experts * sizeof *s->load);
    memset(s->source_tokens, 0, s->n * sizeof *s->source_tokens);
    if (w->trace->kind == MP_TRACE_TOKENS)
        for (uint32_t i = 0; i < w->steps[step].n; i++)
            s->source_tokens[w->steps[step].source[i]]++;
    for (uint32_t r = 0; r < s->n_ranks; r++) {
        uint64_t pairs = 0;
        for (size_t e = 0; e < experts; e++) {
            uint64_t c = s->tokens[r * experts + e];
            s->load[e] += c;
            s->sorted[e] = c;
            pairs += c;
        }
        s->remote[r] = pairs - sum_of_largest(s->sorted, s->n_experts, s->slots[r]);
        if (w->trace->kind == MP_TRACE_COUNTS)
            s->source_tokens[r] = mp_ceil_div(pairs, larger(1, in->model->top_k));
    }
    for (uint32_t v = 0; v < s->n_nodes; v++) {
        memset(s->sorted, 0, experts * sizeof *s->sorted);
        uint64_t pairs = 0;
        for (uint32_t r = 0; r < s->n_ranks; r++)
            for (size_t e = 0; e < experts && mp_topology_node(t, r) == v; e++) {
                s->sorted[e] += s->tokens[r * experts + e];
                pairs += s->tokens[r * experts + e];
            }
        s->node_remote[v] = pairs - sum_of_largest(s->sorted, s->n_experts, s->node_slots[v]);
    }
    out->compute_ns = compute_bound(s, t, &out->free_compute_ns);
    out->dispatch_ns = transfer_bound(s, in, true);
    out->combine_ns = transfer_bound(s, in, false);
    const bool is_gathered = in->dispatcher->copies == MP_COPY_ALL; /* whatever is where */
    out->free_dispatch_ns = is_gathered ? out->dispatch_ns : 0;
    out->free_combine_ns = is_gathered ? out->combine_ns : 0;
}

enum mp_status mp_layer_lower_bound(struct mp_layer_bound *out, const struct mp_cost_setup *in, uint32_t step,
                                    uint32_t layer, struct mp_error *err) {
    struct bound_scratch s = {0};
    *out = (struct mp_layer_bound){0};
    enum mp_status status = prepare(&s, in, err);
    if (status == MP_OK)
        one_layer(&s, in, step, layer, out);
    mp_arena_free(s.arena);
    return status;
}

enum mp_status mp_step_lower_bound(uint64_t *out_ns, const struct mp_cost_setup *in, uint32_t step,
                                   struct mp_error *err) {
    struct bound_scratch s = {0};
    uint64_t sum = 0;
    enum mp_status status = prepare(&s, in, err);
    for (uint32_t l = 0; status == MP_OK && l < in->plan->n_layers; l++) {
        struct mp_layer_bound b;
        one_layer(&s, in, step, l, &b);
        sum += b.dispatch_ns + b.compute_ns + b.combine_ns;
    }
    mp_arena_free(s.arena);
    if (status == MP_OK)
        *out_ns = sum;
    return status;
}
