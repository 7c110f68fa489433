#include "mutation_parts.h"
#include "support.h"

#define BIT(kind) (UINT32_C(1) << (kind))

/* Plans are const where they are shared; a test owns its copy. */
static void *writable(const void *p) { return (void *)(uintptr_t)p; }

/* A random order with a stage that has a transfer. */
static struct mp_order *any_order(struct mp_plan *p, struct mp_rng *rng, struct mp_stage **stage) {
    if (p->n_orders == 0)
        return NULL;
    struct mp_order *o = writable(&p->orders[below(rng, p->n_orders)]);
    if (o->n_stages == 0)
        return NULL;
    *stage = writable(&o->stages[below(rng, o->n_stages)]);
    return (*stage)->n > 0 ? o : NULL;
}

static bool drop_expert(struct mp_plan *p, struct mp_rng *rng) {
    struct mp_plan_layer *layer = any_layer(p, rng);
    uint16_t e = layer->slot_expert[filled_slot(p, layer, rng)];
    for (uint32_t s = 0; s < p->n_slots; s++)
        if (layer->slot_expert[s] == e)
            layer->slot_expert[s] = MP_NO_EXPERT;
    return true;
}

static bool repeat_on_gpu(struct mp_plan *p, struct mp_rng *rng) {
    struct mp_plan_layer *layer = any_layer(p, rng);
    uint32_t s = filled_slot(p, layer, rng), g = p->slot_gpu[s], other = p->gpu_first_slot[g];
    other += other == s;
    if (p->allow_same_gpu_replicas || other >= p->gpu_first_slot[g + 1])
        return false;
    layer->slot_expert[other] = layer->slot_expert[s];
    return true;
}

static bool expert_past_end(struct mp_plan *p, struct mp_rng *rng) {
    struct mp_plan_layer *layer = any_layer(p, rng);
    layer->slot_expert[below(rng, p->n_slots)] = (uint16_t)(p->n_experts + below(rng, 3));
    return true;
}

static bool repeat_layer_id(struct mp_plan *p, struct mp_rng *rng) {
    if (p->n_layers < 2)
        return false;
    uint32_t l = 1 + below(rng, p->n_layers - 1);
    p->layers[l].layer_id = p->layers[l - 1].layer_id;
    return true;
}

static bool swap_layers(struct mp_plan *p, struct mp_rng *rng) {
    if (p->n_layers < 2)
        return false;
    uint32_t l = 1 + below(rng, p->n_layers - 1);
    struct mp_plan_layer t = p->layers[l];
    p->layers[l] = p->layers[l - 1];
    p->layers[l - 1] = t;
    return true;
}

static bool shift_slots(struct mp_plan *p, struct mp_rng *rng) {
    uint32_t *first = writable(p->gpu_first_slot), g = 1 + below(rng, p->n_gpus - 1);
    if (p->n_gpus < 2)
        return false;
    first[g]++;
    return true;
}

static bool wrong_slot_total(struct mp_plan *p, struct mp_rng *rng) {
    (void)rng;
    p->n_slots--;
    return true;
}

static bool node_past_end(struct mp_plan *p, struct mp_rng *rng) {
    uint32_t *node = writable(p->gpu_node);
    node[below(rng, p->n_gpus)] = p->n_nodes;
    return true;
}

static bool order_past_end(struct mp_plan *p, struct mp_rng *rng) {
    any_layer(p, rng)->order = p->n_orders + below(rng, 2);
    return true;
}

static bool share_off_by_one(struct mp_plan *p, struct mp_rng *rng) {
    struct mp_stage *stage;
    if (any_order(p, rng, &stage) == NULL)
        return false;
    struct mp_transfer *t = writable(&stage->transfers[below(rng, stage->n)]);
    t->share += below(rng, 2) ? 1 : UINT32_MAX; /* -1 */
    return true;
}

static bool missing_pair(struct mp_plan *p, struct mp_rng *rng) {
    struct mp_stage *stage;
    if (any_order(p, rng, &stage) == NULL)
        return false;
    uint32_t at = below(rng, stage->n);
    struct mp_transfer *t = writable(stage->transfers);
    memmove(t + at, t + at + 1, (stage->n - at - 1) * sizeof *t);
    stage->n--;
    return true;
}

/* Adds a transfer to a stage, keeping the order by (src, dst). */
static bool add_transfer(struct mp_plan *p, struct mp_stage *stage, struct mp_transfer added) {
    struct mp_transfer *t = mp_arena_alloc(p->arena, (size_t)stage->n + 1, sizeof *t);
    assert_non_null(t);
    uint32_t at = 0;
    while (at < stage->n && (stage->transfers[at].src < added.src ||
                             (stage->transfers[at].src == added.src && stage->transfers[at].dst < added.dst)))
        at++;
    memcpy(t, stage->transfers, at * sizeof *t);
    t[at] = added;
    memcpy(t + at + 1, stage->transfers + at, (stage->n - at) * sizeof *t);
    *stage = (struct mp_stage){stage->n + 1, t};
    return true;
}

static bool repeat_transfer(struct mp_plan *p, struct mp_rng *rng) {
    struct mp_stage *stage;
    return any_order(p, rng, &stage) != NULL && add_transfer(p, stage, stage->transfers[below(rng, stage->n)]);
}

static bool self_transfer(struct mp_plan *p, struct mp_rng *rng) {
    struct mp_stage *stage;
    struct mp_order *o = any_order(p, rng, &stage);
    uint16_t g = o != NULL ? (uint16_t)below(rng, o->between_nodes ? p->n_nodes : p->n_gpus) : 0;
    return o != NULL && add_transfer(p, stage, (struct mp_transfer){g, g, o->unit, 1});
}

/* Moves a transfer into another stage in which its sender (or receiver) is busy already. */
static bool move_transfer(struct mp_plan *p, struct mp_rng *rng, bool is_send) {
    struct mp_stage *from;
    struct mp_order *o = any_order(p, rng, &from);
    if (o == NULL || o->ports > 1)
        return false;
    uint32_t at = below(rng, from->n);
    struct mp_transfer moved = from->transfers[at];
    for (uint32_t s = 0; s + o->has_flush < o->n_stages; s++) { /* a flush takes any number */
        struct mp_stage *to = writable(&o->stages[s]);
        for (uint32_t i = 0; to != from && i < to->n; i++) {
            const struct mp_transfer *t = &to->transfers[i];
            if (is_send ? t->src != moved.src || t->dst == moved.dst : t->dst != moved.dst || t->src == moved.src)
                continue;
            struct mp_transfer *list = writable(from->transfers);
            memmove(list + at, list + at + 1, (from->n - at - 1) * sizeof *list);
            from->n--;
            return add_transfer(p, to, moved);
        }
    }
    return false;
}
static bool two_sends(struct mp_plan *p, struct mp_rng *rng) { return move_transfer(p, rng, true); }
static bool two_receives(struct mp_plan *p, struct mp_rng *rng) { return move_transfer(p, rng, false); }

/* ---- sub-ports, flushes and nodes ---- */

/* A random order of this kind, NULL where there is none; one with stages. */
static struct mp_order *order_where(struct mp_plan *p, struct mp_rng *rng, bool (*is_wanted)(const struct mp_order *)) {
    uint32_t first = p->n_orders > 0 ? below(rng, p->n_orders) : 0;
    for (uint32_t i = 0; i < p->n_orders; i++) {
        struct mp_order *o = writable(&p->orders[(first + i) % p->n_orders]);
        if (o->n_stages > 0 && is_wanted(o))
            return o;
    }
    return NULL;
}
static bool has_flush(const struct mp_order *o) { return o->has_flush; }
static bool is_between_nodes(const struct mp_order *o) { return o->between_nodes; }
static bool is_paced(const struct mp_order *o) { return o->port_bytes_per_s > 0; }
static bool is_any(const struct mp_order *o) { return o->unit > 0; }

static struct mp_transfer *transfer_of(struct mp_rng *rng, const struct mp_order *o, uint32_t stage) {
    const struct mp_stage *s = &o->stages[stage];
    return s->n > 0 ? writable(&s->transfers[below(rng, s->n)]) : NULL;
}

/* Would this stage be too much for the ports if it were no flush? */
static bool is_crowded(const struct mp_plan *p, const struct mp_order *o, uint32_t stage) {
    uint32_t sends[64] = {0}, takes[64] = {0};
    bool is_too_much = false;
    assert_true(p->n_gpus <= 64);
    for (uint32_t i = 0; i < o->stages[stage].n; i++) {
        const struct mp_transfer *t = &o->stages[stage].transfers[i];
        is_too_much |= (sends[t->src] += t->width) > o->ports || (takes[t->dst] += t->width) > o->ports;
    }
    return is_too_much;
}

static bool flush_dropped(struct mp_plan *p, struct mp_rng *rng) { /* its transfers stay as an ordinary stage */
    struct mp_order *o = order_where(p, rng, has_flush);
    if (o == NULL || !is_crowded(p, o, o->n_stages - 1))
        return false;
    o->has_flush = false;
    return true;
}
static bool flush_not_last(struct mp_plan *p, struct mp_rng *rng) {
    struct mp_order *o = order_where(p, rng, has_flush);
    if (o == NULL || o->n_stages < 2 || !is_crowded(p, o, o->n_stages - 1))
        return false;
    struct mp_stage *stages = writable(o->stages), kept = stages[o->n_stages - 1];
    stages[o->n_stages - 1] = stages[o->n_stages - 2];
    stages[o->n_stages - 2] = kept;
    return true;
}
static bool flush_forgets_a_pair(struct mp_plan *p, struct mp_rng *rng) {
    struct mp_order *o = order_where(p, rng, has_flush);
    if (o == NULL)
        return false;
    struct mp_stage *last = writable(&o->stages[o->n_stages - 1]);
    last->n--;
    return last->n > 0;
}
static bool flush_of_nothing(struct mp_plan *p, struct mp_rng *rng) {
    struct mp_order *o = order_where(p, rng, is_any);
    if (o == NULL || o->has_flush || o->between_nodes)
        return false;
    struct mp_stage *stages = mp_arena_alloc(p->arena, (size_t)o->n_stages + 1, sizeof *stages);
    assert_non_null(stages);
    memcpy(stages, o->stages, o->n_stages * sizeof *stages);
    o->stages = stages;
    o->n_stages++;
    o->has_flush = true;
    return true;
}
static bool wide_flush(struct mp_plan *p, struct mp_rng *rng) {
    struct mp_order *o = order_where(p, rng, has_flush);
    struct mp_transfer *t = o != NULL ? transfer_of(rng, o, o->n_stages - 1) : NULL;
    if (t != NULL)
        t->width = 2;
    return t != NULL;
}
static bool flush_between_nodes(struct mp_plan *p, struct mp_rng *rng) {
    struct mp_order *o = order_where(p, rng, is_between_nodes);
    if (o != NULL)
        o->has_flush = true;
    return o != NULL;
}
static bool cap_between_nodes(struct mp_plan *p, struct mp_rng *rng) {
    struct mp_order *o = order_where(p, rng, is_between_nodes);
    if (o != NULL)
        o->port_bytes_per_s = 1 + below(rng, 1000000);
    return o != NULL;
}
static bool width_between_nodes(struct mp_plan *p, struct mp_rng *rng) {
    struct mp_order *o = order_where(p, rng, is_between_nodes);
    struct mp_transfer *t = o != NULL ? transfer_of(rng, o, below(rng, o->n_stages)) : NULL;
    if (t == NULL)
        return false;
    t->width = 2;
    o->ports = 2;
    return true;
}
static bool share_lost_between_nodes(struct mp_plan *p, struct mp_rng *rng) {
    struct mp_order *o = order_where(p, rng, is_between_nodes);
    struct mp_transfer *t = o != NULL ? transfer_of(rng, o, below(rng, o->n_stages)) : NULL;
    if (t != NULL)
        t->share--;
    return t != NULL;
}
static bool gpus_and_nodes_mistaken(struct mp_plan *p, struct mp_rng *rng) {
    struct mp_order *o = order_where(p, rng, is_any);
    if (o == NULL || p->n_nodes == p->n_gpus)
        return false;
    o->between_nodes = !o->between_nodes;
    return true;
}
/* Wider than the ports of its ends. */
static bool wide_transfer(struct mp_plan *p, struct mp_rng *rng) {
    struct mp_order *o = order_where(p, rng, is_any);
    uint32_t n = o != NULL ? o->n_stages - o->has_flush : 0;
    struct mp_transfer *t = n > 0 ? transfer_of(rng, o, below(rng, n)) : NULL;
    if (t != NULL)
        t->width = (uint16_t)(o->ports + 1);
    return t != NULL;
}
static bool is_between_gpus(const struct mp_order *o) { return !o->between_nodes; }
/* Within the ports, but nothing says what twice a sub-port is. */
static bool width_without_rate(struct mp_plan *p, struct mp_rng *rng) {
    struct mp_order *o = order_where(p, rng, is_between_gpus);
    uint32_t n = o != NULL ? o->n_stages - o->has_flush : 0;
    struct mp_transfer *t = n > 0 ? transfer_of(rng, o, below(rng, n)) : NULL;
    if (t == NULL)
        return false;
    t->width = 2;
    o->ports += 2;
    o->port_bytes_per_s = 0;
    return true;
}
static bool width_0(struct mp_plan *p, struct mp_rng *rng) {
    struct mp_order *o = order_where(p, rng, is_any);
    struct mp_transfer *t = o != NULL ? transfer_of(rng, o, below(rng, o->n_stages)) : NULL;
    if (t != NULL)
        t->width = 0;
    return t != NULL;
}
/* Within the ports, and past the rate of every port there is. */
static bool rate_past_port(struct mp_plan *p, struct mp_rng *rng) {
    struct mp_order *o = order_where(p, rng, is_paced);
    if (o == NULL || o->n_stages == o->has_flush)
        return false;
    o->port_bytes_per_s = below(rng, 2) ? UINT64_MAX : UINT64_C(100000000000000);
    return true;
}

static struct mp_train_bucket *any_bucket(struct mp_plan *p, struct mp_rng *rng) {
    const struct mp_train_policy *y = &p->training.policy;
    return !p->training.is_present || y->n_buckets == 0 ? NULL : writable(&y->buckets[below(rng, y->n_buckets)]);
}
static bool repeat_bucket(struct mp_plan *p, struct mp_rng *rng) {
    struct mp_train_bucket *b = any_bucket(p, rng);
    if (b == NULL || p->training.policy.n_buckets < 2)
        return false;
    const struct mp_train_bucket *all = p->training.policy.buckets;
    *b = all[b == all ? 1 : b - all - 1];
    return true;
}
static bool bucket_past_end(struct mp_plan *p, struct mp_rng *rng) {
    struct mp_train_bucket *b = any_bucket(p, rng);
    if (b != NULL)
        b->last_layer = p->n_layers;
    return b != NULL;
}
static bool bucket_backwards(struct mp_plan *p, struct mp_rng *rng) {
    struct mp_train_bucket *b = any_bucket(p, rng);
    if (b != NULL)
        b->first_layer = b->last_layer + 1;
    return b != NULL;
}
static bool bucket_of_nothing(struct mp_plan *p, struct mp_rng *rng) {
    struct mp_train_bucket *b = any_bucket(p, rng);
    if (b != NULL)
        b->bytes = 0;
    return b != NULL;
}
static bool wait_beside(struct mp_plan *p, struct mp_rng *rng) {
    (void)rng;
    p->training.policy.is_shared = true;
    p->training.policy.guard = MP_TRAIN_GUARD_NEAR;
    return p->training.is_present;
}
static bool packing_of_others(struct mp_plan *p, struct mp_rng *rng) {
    (void)rng;
    p->training.experts_per_gpu = p->n_slots; /* no GPU has so many: there are two at least */
    return p->training.is_present && p->n_gpus > 1;
}

static bool colocation_past_end(struct mp_plan *p, struct mp_rng *rng) {
    if (p->n_colocations == 0)
        return false;
    struct mp_colocation *c = writable(&p->colocations[below(rng, p->n_colocations)]);
    uint32_t *fields[] = {&c->layer, &c->expert_a, &c->gpu}, ends[] = {p->n_layers, p->n_experts, p->n_gpus},
             i = below(rng, 3);
    *fields[i] = ends[i];
    return true;
}

static bool colocation_elsewhere(struct mp_plan *p, struct mp_rng *rng) {
    if (p->n_colocations == 0)
        return false;
    struct mp_colocation *c = writable(&p->colocations[below(rng, p->n_colocations)]);
    c->gpu = below(rng, p->n_gpus);
    for (uint32_t s = p->gpu_first_slot[c->gpu]; s < p->gpu_first_slot[c->gpu + 1]; s++)
        if (p->layers[c->layer].slot_expert[s] == c->expert_a)
            return false;
    return true;
}

static bool bound_above_value(struct mp_plan *p, struct mp_rng *rng) {
    if (p->n_certificates == 0)
        return false;
    struct mp_certificate *c = &p->certificates[below(rng, p->n_certificates)];
    c->bound_ns = c->value_ns + 1;
    return true;
}

static bool no_samples(struct mp_plan *p, struct mp_rng *rng) {
    (void)rng;
    p->n_samples = 0;
    return p->provenance.has_workload && p->n_gpus > 1;
}

/* One of the four that every planned plan carries is deleted, or all that there are. */
static bool certificate_deleted(struct mp_plan *p, struct mp_rng *rng) {
    uint32_t at = below(rng, 5), n = p->n_certificates;
    if (!p->provenance.has_workload || p->n_gpus < 2 || n < 4)
        return false;
    if (at < 4)
        memmove(&p->certificates[at], &p->certificates[at + 1], (n - at - 1) * sizeof *p->certificates);
    p->n_certificates = at < 4 ? n - 1 : 0;
    return true;
}

/* Still there, under another name: of another kind, of another scope, or no longer in closed form. */
static bool certificate_renamed(struct mp_plan *p, struct mp_rng *rng) {
    if (!p->provenance.has_workload || p->n_gpus < 2 || p->n_certificates < 4)
        return false;
    struct mp_certificate *c = &p->certificates[below(rng, 4)];
    switch (below(rng, 3)) {
    case 0:
        c->kind = c->kind == MP_CERT_ORDER ? MP_CERT_RESIDUAL : MP_CERT_ORDER;
        break;
    case 1:
        c->proof = below(rng, 2) ? MP_PROOF_SEARCH : MP_PROOF_STOPPED;
        break;
    default:
        c->scope = "dispatch, all layers, planning step";
        break;
    }
    return true;
}

static bool sample_parts_above_step(struct mp_plan *p, struct mp_rng *rng) {
    if (p->n_samples == 0)
        return false;
    struct mp_plan_sample *s = &p->samples[below(rng, p->n_samples)];
    s->compute_ns = s->step_ns - s->dispatch_ns + 1;
    return true;
}

static bool sample_past_end(struct mp_plan *p, struct mp_rng *rng) {
    if (p->n_samples == 0)
        return false;
    p->samples[below(rng, p->n_samples)].step = (uint32_t)p->n_planning_steps;
    return true;
}

static bool wall_clock_reproducible(struct mp_plan *p, struct mp_rng *rng) {
    (void)rng;
    p->provenance.stopped_by = "wall_clock";
    p->provenance.is_reproducible = true;
    return true;
}

static bool stopped_by_itself(struct mp_plan *p, struct mp_rng *rng) {
    (void)rng;
    p->provenance.stopped_by = "done";
    p->provenance.is_reproducible = false;
    return true;
}

static bool unnamed_stage(struct mp_plan *p, struct mp_rng *rng) {
    struct mp_provenance *v = &p->provenance;
    const char **names[] = {&v->strategy, &v->replicate, &v->place, &v->route, &v->order};
    *names[below(rng, 5)] = "";
    return v->has_workload || v->matrix.is_present;
}

static bool other_route(struct mp_plan *p, struct mp_rng *rng) {
    static const char *const known[] = {"even", "nearest", "weighted", "tiered", "sourced"};
    const char *route = known[below(rng, 5)];
    if (strcmp(route, p->provenance.route) == 0)
        return false;
    p->provenance.route = route;
    return p->provenance.has_workload || p->provenance.matrix.is_present;
}

static bool options_not_canonical(struct mp_plan *p, struct mp_rng *rng) {
    static const char *const wrong[] = {"matchings.stages",
                                        "matchings.stages=",
                                        "matchings=8",
                                        "matchings.stages=08",
                                        "matchings.stages=-0",
                                        "matchings.stages=8,",
                                        ",matchings.stages=8",
                                        "matchings.stages=8 ",
                                        "Matchings.stages=8",
                                        "matchings.stages=8,matchings.stages=8",
                                        "two-level.stages=1,matchings.stages=8"};
    p->provenance.options = wrong[below(rng, sizeof wrong / sizeof *wrong)];
    return true;
}
static bool selected_elsewhere(struct mp_plan *p, struct mp_rng *rng) {
    p->provenance.selected_on = below(rng, 2) ? "held-out" : "";
    return p->provenance.has_workload;
}

static bool categories_without_split(struct mp_plan *p, struct mp_rng *rng) {
    (void)rng;
    struct mp_split *split = &p->provenance.split;
    split->categories = split->kind == MP_SPLIT_CATEGORY ? "" : "code,math";
    return p->provenance.has_workload;
}

static bool share_of_split(struct mp_plan *p, struct mp_rng *rng) {
    struct mp_split *split = &p->provenance.split;
    bool has_share = split->kind == MP_SPLIT_HASH || split->kind == MP_SPLIT_TIME;
    split->planning_ppm = below(rng, 2) ? 1000000 : has_share ? 0 : 500000;
    return p->provenance.has_workload;
}

static bool combine_of_a_single_shot(struct mp_plan *p, struct mp_rng *rng) {
    struct mp_plan_layer *layer = any_layer(p, rng);
    layer->order = MP_NONE;
    layer->combine = mp_rng_below(rng, 2) ? MP_COMBINE_REVERSED : MP_COMBINE_SWAPPED;
    return true;
}

static bool other_ranks(struct mp_plan *p, struct mp_rng *rng) {
    (void)rng;
    p->provenance.batching.n_ranks++;
    return p->provenance.has_workload;
}

/* ---- plans of one matrix ---- */

#define A_HASH "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
static bool matrix_without_hash(struct mp_plan *p, struct mp_rng *rng) {
    static const char *const wrong[] = {"", "0f", (A_HASH "0"), ("0123456789ABCDEF" A_HASH), "not a hash"};
    p->provenance.matrix.sha256 = wrong[below(rng, 5)];
    return p->provenance.matrix.is_present;
}
static bool matrix_without_format(struct mp_plan *p, struct mp_rng *rng) {
    static const char *const wrong[] = {"", "CSV", "nccl tests", "npy\n"};
    p->provenance.matrix.format = wrong[below(rng, 4)];
    return p->provenance.matrix.is_present;
}
static bool matrix_of_huge_tokens(struct mp_plan *p, struct mp_rng *rng) {
    p->provenance.matrix.token_bytes = MP_MAX_TOKEN_BYTES + 1 + mp_rng_below(rng, 1000);
    return p->provenance.matrix.is_present;
}
static bool matrix_and_workload(struct mp_plan *p, struct mp_rng *rng) {
    (void)rng;
    p->provenance.matrix = (struct mp_matrix_source){true, "csv", A_HASH, 0};
    return p->provenance.has_workload;
}
static bool matrix_of_two_layers(struct mp_plan *p, struct mp_rng *rng) {
    (void)rng;
    p->provenance.matrix = (struct mp_matrix_source){true, "csv", A_HASH, 0};
    return p->n_layers > 1;
}
static bool matrix_certificate_deleted(struct mp_plan *p, struct mp_rng *rng) {
    (void)rng;
    p->n_certificates = 0;
    return p->provenance.matrix.is_present;
}
static bool matrix_certificate_renamed(struct mp_plan *p, struct mp_rng *rng) {
    if (!p->provenance.matrix.is_present)
        return false;
    switch (below(rng, 4)) {
    case 0:
        p->certificates[0].kind = below(rng, 2) ? MP_CERT_PLACEMENT : MP_CERT_RESIDUAL;
        break;
    case 1:
        p->certificates[0].proof = below(rng, 2) ? MP_PROOF_SEARCH : MP_PROOF_STOPPED;
        break;
    case 2:
        p->certificates[0].nodes = 1;
        break;
    default:
        p->certificates[0].scope = "two dispatches of the matrix";
        break;
    }
    return true;
}

/* ---- only seen against the data ---- */

static bool drop_layer(struct mp_plan *p, struct mp_rng *rng) {
    (void)rng;
    for (uint32_t i = 0; i < p->n_colocations; i++)
        if (p->colocations[i].layer + 1 == p->n_layers)
            return false;
    return --p->n_layers > 0;
}

static bool edit_layer_id(struct mp_plan *p, struct mp_rng *rng) {
    (void)rng;
    p->layers[p->n_layers - 1].layer_id++;
    return true;
}

static bool change_node(struct mp_plan *p, struct mp_rng *rng) {
    uint32_t *node = writable(p->gpu_node), g = below(rng, p->n_gpus);
    if (p->n_nodes < 2)
        return false;
    node[g] = (node[g] + 1) % p->n_nodes;
    return true;
}

static bool swap_gpus(struct mp_plan *p, struct mp_rng *rng) {
    struct mp_plan_layer *layer = any_layer(p, rng);
    uint32_t a = below(rng, p->n_gpus), b = below(rng, p->n_gpus), n = p->gpu_first_slot[a + 1] - p->gpu_first_slot[a];
    if (a == b || n != p->gpu_first_slot[b + 1] - p->gpu_first_slot[b] || layer->slot_weight != NULL ||
        layer->slot_weight_by_source != NULL || p->n_colocations > 0)
        return false;
    for (uint32_t i = 0; i < n; i++) {
        uint16_t *x = &layer->slot_expert[p->gpu_first_slot[a] + i], *y = &layer->slot_expert[p->gpu_first_slot[b] + i],
                 t = *x;
        *x = *y;
        *y = t;
    }
    return true;
}

static bool move_expert(struct mp_plan *p, struct mp_rng *rng) {
    struct mp_plan_layer *layer = any_layer(p, rng);
    uint32_t s = filled_slot(p, layer, rng), t = below(rng, p->n_slots);
    uint16_t e = layer->slot_expert[s], f = layer->slot_expert[t];
    if (p->slot_gpu[s] == p->slot_gpu[t] || e == f || replicas_of(p, layer, e) > 1 || layer->slot_weight != NULL ||
        p->n_colocations > 0 || (f != MP_NO_EXPERT && replicas_of(p, layer, f) > 1))
        return false;
    layer->slot_expert[s] = f;
    layer->slot_expert[t] = e;
    return true;
}

#define EDIT_LAYER(name, field)                                                                                        \
    static bool name(struct mp_plan *p, struct mp_rng *rng) {                                                          \
        any_layer(p, rng)->field++;                                                                                    \
        return p->provenance.has_workload;                                                                             \
    }
EDIT_LAYER(edit_rows, rows_max_sum)
static bool edit_expert_rows(struct mp_plan *p, struct mp_rng *rng) {
    uint64_t *rows = any_layer(p, rng)->expert_rows;
    if (rows == NULL || p->n_experts < 2)
        return false;
    rows[0]++; /* the sum may stay as it is */
    if (rows[1] > 0)
        rows[1]--;
    return true;
}
EDIT_LAYER(edit_intra_bytes, dispatch_intra_bytes)
EDIT_LAYER(edit_inter_bytes, dispatch_inter_bytes)
EDIT_LAYER(edit_port_bound, port_bound_ns)

/* More than the tolerance of docs/VERIFY.md: 1 ns per layer, direction and phase, and 1 for a mean. */
static uint64_t past_tolerance(const struct mp_plan *p) {
    uint64_t by = 4 * (uint64_t)p->n_layers + 2;
    for (uint32_t o = 0; o < p->n_orders; o++) /* between nodes: 1 ns for each single shot */
        by += p->orders[o].between_nodes ? 2 * p->n_layers * ((uint64_t)p->orders[o].n_stages + 1) : 0;
    return by;
}

#define EDIT_SAMPLE(name, field)                                                                                       \
    static bool name(struct mp_plan *p, struct mp_rng *rng) {                                                          \
        if (p->n_samples == 0)                                                                                         \
            return false;                                                                                              \
        struct mp_plan_sample *s = &p->samples[below(rng, p->n_samples)];                                              \
        s->field += past_tolerance(p);                                                                                 \
        if (s->dispatch_ns + s->compute_ns + s->combine_ns > s->step_ns)                                               \
            s->step_ns = s->dispatch_ns + s->compute_ns + s->combine_ns;                                               \
        return true;                                                                                                   \
    }
EDIT_SAMPLE(edit_sample_step, step_ns)
EDIT_SAMPLE(edit_sample_dispatch, dispatch_ns)
EDIT_SAMPLE(edit_sample_compute, compute_ns)
EDIT_SAMPLE(edit_sample_combine, combine_ns)

static bool edit_sample_pipelined(struct mp_plan *p, struct mp_rng *rng) {
    if (p->n_samples == 0 || !p->is_pipelined)
        return false;
    p->samples[below(rng, p->n_samples)].pipelined_step_ns += 2 * past_tolerance(p);
    return true;
}
static bool edit_pipelined_prediction(struct mp_plan *p, struct mp_rng *rng) {
    uint64_t by = 2 * past_tolerance(p);
    p->predicted_pipelined_ns += below(rng, 2) ? by : UINT64_MAX - by + 1;
    return p->is_pipelined && p->provenance.has_workload;
}

static bool edit_prediction(struct mp_plan *p, struct mp_rng *rng) {
    uint64_t by = past_tolerance(p);
    p->predicted_step_ns += below(rng, 2) ? by : UINT64_MAX - by + 1;
    return p->provenance.has_workload;
}

static bool edit_planning_steps(struct mp_plan *p, struct mp_rng *rng) {
    (void)rng;
    p->n_planning_steps++;
    return p->provenance.has_workload;
}

/* One of that kind, at random: of orders there are two. */
static struct mp_certificate *certificate_of(struct mp_plan *p, enum mp_certificate_kind kind, struct mp_rng *rng) {
    uint32_t first = p->n_certificates > 0 ? below(rng, p->n_certificates) : 0;
    for (uint32_t k = 0, i = first; k < p->n_certificates; k++, i = (first + k) % p->n_certificates)
        if (p->certificates[i].kind == kind && p->certificates[i].proof == MP_PROOF_CLOSED_FORM)
            return &p->certificates[i];
    return NULL;
}
static bool edit_certificate(struct mp_plan *p, enum mp_certificate_kind kind, bool is_value, struct mp_rng *rng) {
    struct mp_certificate *c = certificate_of(p, kind, rng);
    if (c == NULL)
        return false;
    uint64_t *field = is_value ? &c->value_ns : &c->bound_ns;
    *field += is_value ? past_tolerance(p) : *field < c->value_ns ? 1 : UINT64_MAX;
    return true;
}
static bool edit_order_value(struct mp_plan *p, struct mp_rng *rng) {
    return edit_certificate(p, MP_CERT_ORDER, true, rng);
}
static bool edit_order_bound(struct mp_plan *p, struct mp_rng *rng) {
    return edit_certificate(p, MP_CERT_ORDER, false, rng);
}
static bool edit_placement_value(struct mp_plan *p, struct mp_rng *rng) {
    return edit_certificate(p, MP_CERT_PLACEMENT, true, rng);
}
static bool edit_placement_bound(struct mp_plan *p, struct mp_rng *rng) {
    return edit_certificate(p, MP_CERT_PLACEMENT, false, rng);
}
static bool edit_residual_value(struct mp_plan *p, struct mp_rng *rng) {
    return edit_certificate(p, MP_CERT_RESIDUAL, true, rng);
}
static bool edit_residual_bound(struct mp_plan *p, struct mp_rng *rng) {
    return edit_certificate(p, MP_CERT_RESIDUAL, false, rng);
}

#define OTHER_HASH "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210"
static bool other_trace(struct mp_plan *p, struct mp_rng *rng) {
    (void)rng;
    p->provenance.trace_sha256 = OTHER_HASH;
    return p->provenance.has_workload;
}
static bool other_topology(struct mp_plan *p, struct mp_rng *rng) {
    (void)rng;
    p->provenance.topology_sha256 = OTHER_HASH;
    return p->provenance.has_workload;
}
static bool other_model(struct mp_plan *p, struct mp_rng *rng) {
    (void)rng;
    p->provenance.model_sha256 = OTHER_HASH;
    return p->provenance.has_workload;
}
static bool other_topology_name(struct mp_plan *p, struct mp_rng *rng) {
    (void)rng;
    p->provenance.topology = "8:b200";
    return p->provenance.has_workload;
}
static bool other_model_name(struct mp_plan *p, struct mp_rng *rng) {
    (void)rng;
    p->provenance.model = "deepseek-v3";
    return p->provenance.has_workload;
}
/* Consistent with itself and far too many: refused before any of them is drawn. */
static bool drawn_without_end(struct mp_plan *p, struct mp_rng *rng) {
    (void)rng;
    p->provenance.batching.resample = true;
    p->provenance.batching.n_steps_max = UINT32_MAX;
    p->n_planning_steps = UINT32_MAX;
    return p->provenance.has_workload && p->provenance.batching.phase == MP_PHASE_DECODE;
}
static bool batch_without_end(struct mp_plan *p, struct mp_rng *rng) {
    (void)rng;
    p->provenance.batching.batch_per_rank = UINT32_MAX / p->n_gpus;
    return p->provenance.has_workload && p->provenance.batching.phase == MP_PHASE_DECODE;
}
static bool unknown_dispatcher(struct mp_plan *p, struct mp_rng *rng) {
    (void)rng;
    p->provenance.dispatcher = "pigeon";
    return p->provenance.has_workload;
}
static bool other_synthetic(struct mp_plan *p, struct mp_rng *rng) {
    (void)rng;
    p->provenance.is_synthetic = !p->provenance.is_synthetic;
    return p->provenance.has_workload;
}

#define ANY_EVIDENCE                                                                                                   \
    (BIT(MP_V_EVIDENCE_ROWS) | BIT(MP_V_EVIDENCE_BYTES) | BIT(MP_V_EVIDENCE_BOUND) | BIT(MP_V_SAMPLE) |                \
     BIT(MP_V_PREDICTION))

const struct mutation mutations[] = {
    {"drop-expert", BIT(MP_V_EXPERT_MISSING), false, drop_expert},
    {"repeat-on-gpu", BIT(MP_V_REPLICA_SAME_GPU), false, repeat_on_gpu},
    {"expert-past-end", BIT(MP_V_EXPERT_RANGE), false, expert_past_end},
    {"zero-weights", BIT(MP_V_ROUTE_WEIGHTS), false, mutate_zero_weights},
    {"no-weights", BIT(MP_V_ROUTE_WEIGHTS), false, mutate_no_weights},
    {"unused-weights", BIT(MP_V_ROUTE_WEIGHTS), false, mutate_unused_weights},
    {"zero-source-weights", BIT(MP_V_ROUTE_WEIGHTS), false, mutate_zero_source_weights},
    {"source-weight-elsewhere", BIT(MP_V_ROUTE_WEIGHTS), false, mutate_source_weight_elsewhere},
    {"unused-source-weights", BIT(MP_V_ROUTE_WEIGHTS), false, mutate_unused_source_weights},
    {"unknown-sources", BIT(MP_V_SHAPE), false, mutate_unknown_sources},
    {"repeat-layer-id", BIT(MP_V_LAYER_ID), false, repeat_layer_id},
    {"swap-layers", BIT(MP_V_LAYER_ID), false, swap_layers},
    {"shift-slots", BIT(MP_V_SLOTS), false, shift_slots},
    {"wrong-slot-total", BIT(MP_V_SLOTS), false, wrong_slot_total},
    {"node-past-end", BIT(MP_V_SHAPE), false, node_past_end},
    {"order-past-end", BIT(MP_V_SHAPE), false, order_past_end},
    {"share-off-by-one", BIT(MP_V_ORDER_SHARE), false, share_off_by_one},
    {"missing-pair", BIT(MP_V_ORDER_SHARE), false, missing_pair},
    {"repeat-transfer", BIT(MP_V_ORDER_SHARE), false, repeat_transfer},
    {"self-transfer", BIT(MP_V_ORDER_SELF), false, self_transfer},
    {"two-sends", BIT(MP_V_ORDER_PORT), false, two_sends},
    {"two-receives", BIT(MP_V_ORDER_PORT), false, two_receives},
    {"width-without-rate", BIT(MP_V_ORDER_RATE), false, width_without_rate},
    {"flush-dropped", BIT(MP_V_ORDER_PORT), false, flush_dropped},
    {"flush-not-last", BIT(MP_V_ORDER_PORT), false, flush_not_last},
    {"flush-forgets-a-pair", BIT(MP_V_ORDER_SHARE), false, flush_forgets_a_pair},
    {"flush-of-nothing", BIT(MP_V_ORDER_FLUSH), false, flush_of_nothing},
    {"wide-flush", BIT(MP_V_ORDER_FLUSH), false, wide_flush},
    {"flush-between-nodes", BIT(MP_V_ORDER_FLUSH), false, flush_between_nodes},
    {"cap-between-nodes", BIT(MP_V_ORDER_RATE), false, cap_between_nodes},
    {"width-between-nodes", BIT(MP_V_ORDER_PORT), false, width_between_nodes},
    {"share-lost-between-nodes", BIT(MP_V_ORDER_SHARE), false, share_lost_between_nodes},
    {"gpus-and-nodes-mistaken", BIT(MP_V_ORDER_SHARE) | BIT(MP_V_SHAPE), false, gpus_and_nodes_mistaken},
    {"wide-transfer", BIT(MP_V_ORDER_PORT), false, wide_transfer},
    {"width-0", BIT(MP_V_ORDER_PORT) | BIT(MP_V_ORDER_FLUSH), false, width_0},
    {"rate-past-port", BIT(MP_V_ORDER_RATE), true, rate_past_port},
    {"repeat-bucket", BIT(MP_V_TRAINING), false, repeat_bucket},
    {"bucket-past-end", BIT(MP_V_TRAINING), false, bucket_past_end},
    {"bucket-backwards", BIT(MP_V_TRAINING), false, bucket_backwards},
    {"bucket-of-nothing", BIT(MP_V_TRAINING), false, bucket_of_nothing},
    {"wait-beside", BIT(MP_V_TRAINING), false, wait_beside},
    {"packing-of-others", BIT(MP_V_TRAINING), false, packing_of_others},
    {"colocation-past-end", BIT(MP_V_COLOCATION), false, colocation_past_end},
    {"colocation-elsewhere", BIT(MP_V_COLOCATION), false, colocation_elsewhere},
    {"bound-above-value", BIT(MP_V_CERTIFICATE), false, bound_above_value},
    {"no-samples", BIT(MP_V_SAMPLE), false, no_samples},
    {"certificate-deleted", BIT(MP_V_CERTIFICATE), false, certificate_deleted},
    {"certificate-renamed", BIT(MP_V_CERTIFICATE), false, certificate_renamed},
    {"sample-parts-above-step", BIT(MP_V_SAMPLE), false, sample_parts_above_step},
    {"sample-past-end", BIT(MP_V_SAMPLE), false, sample_past_end},
    {"wall-clock-reproducible", BIT(MP_V_PROVENANCE), false, wall_clock_reproducible},
    {"stopped-by-itself", BIT(MP_V_PROVENANCE), false, stopped_by_itself},
    {"unnamed-stage", BIT(MP_V_PROVENANCE), false, unnamed_stage},
    {"other-route", BIT(MP_V_PROVENANCE), false, other_route},
    {"options-not-canonical", BIT(MP_V_PROVENANCE), false, options_not_canonical},
    {"selected-elsewhere", BIT(MP_V_PROVENANCE), false, selected_elsewhere},
    {"categories-without-split", BIT(MP_V_PROVENANCE), false, categories_without_split},
    {"share-of-split", BIT(MP_V_PROVENANCE), false, share_of_split},
    {"combine-of-a-single-shot", BIT(MP_V_SHAPE), false, combine_of_a_single_shot},
    {"other-ranks", BIT(MP_V_PROVENANCE), false, other_ranks},
    {"matrix-without-hash", BIT(MP_V_PROVENANCE), false, matrix_without_hash},
    {"matrix-without-format", BIT(MP_V_PROVENANCE), false, matrix_without_format},
    {"matrix-of-huge-tokens", BIT(MP_V_PROVENANCE), false, matrix_of_huge_tokens},
    {"matrix-and-workload", BIT(MP_V_PROVENANCE), false, matrix_and_workload},
    {"matrix-of-two-layers", BIT(MP_V_SHAPE), false, matrix_of_two_layers},
    {"matrix-certificate-deleted", BIT(MP_V_CERTIFICATE), false, matrix_certificate_deleted},
    {"matrix-certificate-renamed", BIT(MP_V_CERTIFICATE), false, matrix_certificate_renamed},
    {"drop-layer", BIT(MP_V_LAYER_MISSING), true, drop_layer},
    {"edit-layer-id", BIT(MP_V_LAYER_ID), true, edit_layer_id},
    {"change-node", BIT(MP_V_SHAPE), true, change_node},
    {"swap-gpus", ANY_EVIDENCE, true, swap_gpus, true},
    {"move-expert", ANY_EVIDENCE, true, move_expert, true},
    {"move-source-weight", ANY_EVIDENCE, true, mutate_move_source_weight, true},
    {"edit-rows", BIT(MP_V_EVIDENCE_ROWS), true, edit_rows},
    {"edit-expert-rows", BIT(MP_V_EVIDENCE_ROWS), true, edit_expert_rows},
    {"edit-intra-bytes", BIT(MP_V_EVIDENCE_BYTES), true, edit_intra_bytes},
    {"edit-inter-bytes", BIT(MP_V_EVIDENCE_BYTES), true, edit_inter_bytes},
    {"edit-port-bound", BIT(MP_V_EVIDENCE_BOUND), true, edit_port_bound},
    {"edit-sample-step", BIT(MP_V_SAMPLE), true, edit_sample_step},
    {"edit-sample-dispatch", BIT(MP_V_SAMPLE), true, edit_sample_dispatch},
    {"edit-sample-compute", BIT(MP_V_SAMPLE), true, edit_sample_compute},
    {"edit-sample-combine", BIT(MP_V_SAMPLE), true, edit_sample_combine},
    {"edit-sample-pipelined", BIT(MP_V_SAMPLE), true, edit_sample_pipelined},
    {"edit-pipelined-prediction", BIT(MP_V_PREDICTION), true, edit_pipelined_prediction},
    {"edit-prediction", BIT(MP_V_PREDICTION), true, edit_prediction},
    {"edit-planning-steps", BIT(MP_V_PREDICTION), true, edit_planning_steps},
    {"edit-order-value", BIT(MP_V_CERTIFICATE), true, edit_order_value},
    {"edit-order-bound", BIT(MP_V_CERTIFICATE), true, edit_order_bound},
    {"edit-placement-value", BIT(MP_V_CERTIFICATE), true, edit_placement_value},
    {"edit-placement-bound", BIT(MP_V_CERTIFICATE), true, edit_placement_bound},
    {"edit-residual-value", BIT(MP_V_CERTIFICATE), true, edit_residual_value},
    {"edit-residual-bound", BIT(MP_V_CERTIFICATE), true, edit_residual_bound},
    {"other-trace", BIT(MP_V_PROVENANCE), true, other_trace},
    {"other-topology", BIT(MP_V_PROVENANCE), true, other_topology},
    {"other-model", BIT(MP_V_PROVENANCE), true, other_model},
    {"other-topology-name", BIT(MP_V_PROVENANCE), true, other_topology_name},
    {"other-model-name", BIT(MP_V_PROVENANCE), true, other_model_name},
    {"drawn-without-end", BIT(MP_V_PROVENANCE), true, drawn_without_end},
    {"batch-without-end", BIT(MP_V_PROVENANCE), true, batch_without_end},
    {"unknown-dispatcher", BIT(MP_V_PROVENANCE), true, unknown_dispatcher},
    {"other-synthetic", BIT(MP_V_PROVENANCE), true, other_synthetic},
};
const uint32_t n_mutations = sizeof mutations / sizeof mutations[0];
