#include "random_plan.h"
#include "support.h"

static void *arena_alloc(struct mp_plan *p, size_t n, size_t size) {
    void *m = mp_arena_alloc(p->arena, n, size);
    assert_non_null(m);
    return m;
}

struct random_plan_shape random_shape(struct mp_rng *rng) {
    struct random_plan_shape s = {.n_layers = 1 + (uint32_t)mp_rng_below(rng, 4),
                                  .n_gpus = 2 + (uint32_t)mp_rng_below(rng, 7)};
    s.n_experts = s.n_gpus + (uint32_t)mp_rng_below(rng, 13);
    s.n_nodes = s.n_gpus % 2 == 0 && mp_rng_below(rng, 2) ? 2 : 1;
    s.slots_per_gpu = (s.n_experts + s.n_gpus - 1) / s.n_gpus + (uint32_t)mp_rng_below(rng, 3);
    s.has_orders = mp_rng_below(rng, 4) > 0;
    s.has_outlook = mp_rng_below(rng, 4) > 0;
    return s;
}

static bool layer_has_twice(const struct mp_plan *p, const struct mp_plan_layer *layer, uint32_t slot) {
    for (uint32_t s = 0; s < p->n_slots; s++)
        if (s != slot && layer->slot_expert[s] == layer->slot_expert[slot] && layer->slot_expert[s] != MP_NO_EXPERT)
            return true;
    return false;
}

/* Every expert once, round robin from a random GPU; then replicas where they are not on the GPU yet; some slots stay
 * empty. */
static void fill_layer(struct mp_rng *rng, struct mp_plan *p, struct mp_plan_layer *layer) {
    uint32_t used[64] = {0}, start = (uint32_t)mp_rng_below(rng, p->n_gpus);
    for (uint32_t e = 0; e < p->n_experts; e++) {
        uint32_t g = (start + e) % p->n_gpus;
        layer->slot_expert[p->gpu_first_slot[g] + used[g]++] = (uint16_t)e;
    }
    for (uint32_t g = 0; g < p->n_gpus; g++)
        for (uint32_t s = p->gpu_first_slot[g] + used[g]; s < p->gpu_first_slot[g + 1]; s++) {
            uint16_t e = (uint16_t)mp_rng_below(rng, p->n_experts);
            bool is_there = mp_rng_below(rng, 5) == 0;
            for (uint32_t k = p->gpu_first_slot[g]; k < s; k++)
                is_there |= layer->slot_expert[k] == e;
            layer->slot_expert[s] = is_there ? MP_NO_EXPERT : e;
        }
    if (p->route == MP_ROUTE_WEIGHTED || p->route == MP_ROUTE_TIERED) {
        layer->slot_weight = arena_alloc(p, p->n_slots, sizeof *layer->slot_weight);
        for (uint32_t s = 0; s < p->n_slots; s++)
            layer->slot_weight[s] = layer->slot_expert[s] == MP_NO_EXPERT ? 0 : 1 + (uint32_t)mp_rng_below(rng, 1000);
    }
    for (uint32_t s = 0; p->route == MP_ROUTE_SOURCED && s < p->n_slots; s++)
        for (uint32_t c = 0; layer_has_twice(p, layer, s) && c < mp_plan_n_classes(p); c++)
            layer->slot_weight_by_source[(size_t)c * p->n_slots + s] =
                c > 0 && mp_rng_below(rng, 2) ? layer->slot_weight_by_source[(size_t)(c - 1) * p->n_slots + s]
                                              : 1 + (uint32_t)mp_rng_below(rng, 3);
    layer->order = p->n_orders > 0 && mp_rng_below(rng, 3) > 0 ? (uint32_t)mp_rng_below(rng, p->n_orders) : MP_NONE;
    layer->combine = layer->order == MP_NONE ? MP_COMBINE_FORWARD : (enum mp_combine)mp_rng_below(rng, MP_N_COMBINES);
}

static int by_pair(const void *a, const void *b) {
    const struct mp_transfer *x = a, *y = b;
    return x->src != y->src ? (x->src < y->src ? -1 : 1) : x->dst < y->dst ? -1 : x->dst > y->dst;
}

/* Rotations in random order; each may be cut in two stages, the first with a part of the pairs or of the shares. */
void random_order(struct mp_rng *rng, struct mp_plan *p, struct mp_order *order) {
    uint32_t n = p->n_gpus;
    *order = (struct mp_order){.name = "random", .unit = 1 + (uint32_t)mp_rng_below(rng, 8), .ports = 1};
    struct mp_stage *stages = arena_alloc(p, (size_t)n * 2, sizeof *stages);
    for (uint32_t r = 1; r < n; r++) {
        uint32_t cut = (uint32_t)mp_rng_below(rng, 3) == 0 ? (uint32_t)mp_rng_below(rng, order->unit + 1) : 0;
        struct mp_transfer *first = arena_alloc(p, n, sizeof *first), *second = arena_alloc(p, n, sizeof *second);
        uint32_t n_first = 0, n_second = 0;
        for (uint32_t i = 0; i < n; i++) {
            struct mp_transfer t = {(uint16_t)i, (uint16_t)((i + r) % n), 0, 1};
            uint32_t share = cut == 0 ? order->unit : mp_rng_below(rng, 2) ? cut : order->unit;
            if (share > 0) {
                t.share = share;
                first[n_first++] = t;
            }
            if (share < order->unit) {
                t.share = order->unit - share;
                second[n_second++] = t;
            }
        }
        qsort(first, n_first, sizeof *first, by_pair);
        if (n_first > 0)
            stages[order->n_stages++] = (struct mp_stage){n_first, first};
        if (n_second > 0)
            stages[order->n_stages++] = (struct mp_stage){n_second, second};
    }
    for (uint32_t i = order->n_stages; i > 1; i--) {
        uint32_t j = (uint32_t)mp_rng_below(rng, i);
        struct mp_stage t = stages[i - 1];
        stages[i - 1] = stages[j];
        stages[j] = t;
    }
    order->stages = stages;
}

/* Where a piece may still go: the stages so far, as tables. */
struct packing {
    uint32_t n, n_stages;
    uint32_t *used; /* [n_stages][2][n] widths */
    struct mp_transfer **list;
    uint32_t *length;
};

static bool fits(const struct packing *k, uint32_t s, const struct mp_transfer *t, uint32_t ports) {
    const uint32_t *used = k->used + (size_t)s * 2 * k->n;
    for (uint32_t i = 0; i < k->length[s]; i++)
        if (k->list[s][i].src == t->src && k->list[s][i].dst == t->dst)
            return false;
    return used[t->src] + t->width <= ports && used[k->n + t->dst] + t->width <= ports;
}

void random_any_order(struct mp_rng *rng, struct mp_plan *p, struct mp_order *order, enum random_order_kind kind) {
    bool has_widths = (kind & RANDOM_WIDTHS) != 0;
    uint32_t n = (kind & RANDOM_NODES) != 0 ? p->n_nodes : p->n_gpus;
    *order =
        (struct mp_order){.name = "random",
                          .between_nodes = (kind & RANDOM_NODES) != 0,
                          .unit = 1 + (uint32_t)mp_rng_below(rng, 9),
                          .ports = has_widths || (kind & RANDOM_SHARED) != 0 ? 2 + (uint32_t)mp_rng_below(rng, 4) : 1,
                          .port_bytes_per_s = has_widths ? 1000000 + mp_rng_below(rng, 1000000) : 0};
    uint32_t most = 3 * n * n + 1; /* a piece of a third of a flow each: one stage for each at worst */
    struct packing k = {.n = n,
                        .used = arena_alloc(p, (size_t)most * 2 * n, sizeof *k.used),
                        .list = arena_alloc(p, most, sizeof *k.list),
                        .length = arena_alloc(p, most, sizeof *k.length)};
    uint32_t *left = arena_alloc(p, (size_t)n * n, sizeof *left), *pair = arena_alloc(p, (size_t)n * n, sizeof *pair);
    uint32_t n_pairs = 0;
    for (uint32_t i = 0; i < n * n; i++)
        if (i / n != i % n) {
            left[i] = order->unit;
            pair[n_pairs++] = i;
        }
    mp_rng_shuffle(rng, pair, n_pairs);
    for (int part = 0; part < 3; part++)
        for (uint32_t i = 0; i < n_pairs; i++) {
            uint32_t at = pair[i], share = part < 2 ? (uint32_t)mp_rng_below(rng, left[at] + 1) : left[at];
            if (share == 0 || ((kind & RANDOM_FLUSH) != 0 && mp_rng_below(rng, 2)))
                continue;
            struct mp_transfer t = {(uint16_t)(at / n), (uint16_t)(at % n), share,
                                    has_widths ? (uint16_t)(1 + mp_rng_below(rng, order->ports)) : 1};
            uint32_t s = k.n_stages > 0 ? (uint32_t)mp_rng_below(rng, k.n_stages) : 0;
            while (s < k.n_stages && !fits(&k, s, &t, order->ports))
                s++;
            if (s == k.n_stages)
                k.list[k.n_stages++] = arena_alloc(p, (size_t)n * n, sizeof **k.list);
            k.list[s][k.length[s]++] = t;
            k.used[(size_t)s * 2 * n + t.src] += t.width;
            k.used[(size_t)s * 2 * n + n + t.dst] += t.width;
            left[at] -= share;
        }
    if ((kind & RANDOM_FLUSH) != 0)
        for (uint32_t i = 0; i < n * n; i++)
            if (left[i] > 0) {
                if (!order->has_flush)
                    k.list[k.n_stages++] = arena_alloc(p, (size_t)n * n, sizeof **k.list);
                order->has_flush = true;
                k.list[k.n_stages - 1][k.length[k.n_stages - 1]++] =
                    (struct mp_transfer){(uint16_t)(i / n), (uint16_t)(i % n), left[i], 1};
            }
    struct mp_stage *stages = arena_alloc(p, k.n_stages, sizeof *stages);
    for (uint32_t s = 0; s < k.n_stages; s++) {
        qsort(k.list[s], k.length[s], sizeof **k.list, by_pair);
        stages[s] = (struct mp_stage){k.length[s], k.list[s]};
    }
    order->n_stages = k.n_stages;
    order->stages = stages;
}

static void fill_outlook(struct mp_rng *rng, struct mp_plan *p) {
    p->n_planning_steps = 3 + mp_rng_below(rng, 50);
    p->predicted_step_ns = mp_rng_below(rng, 1000000);
    p->n_samples = 1 + (uint32_t)mp_rng_below(rng, 2);
    p->samples = arena_alloc(p, p->n_samples, sizeof *p->samples);
    for (uint32_t i = 0; i < p->n_samples; i++)
        p->samples[i] = (struct mp_plan_sample){i, 9 + mp_rng_below(rng, UINT64_MAX - 9), 2, 3, 4};
    /* The four that every planned plan carries, and others. */
    static const char *const scopes[] = {"dispatch, all layers, planning steps", "combine, all layers, planning steps",
                                         "step, every static plan with these slots, planning steps",
                                         "step, a plan for each step with any slots, planning steps"};
    p->n_certificates = 4 + (uint32_t)mp_rng_below(rng, 3);
    p->certificates = arena_alloc(p, p->n_certificates, sizeof *p->certificates);
    for (uint32_t i = 0; i < p->n_certificates; i++)
        p->certificates[i] =
            (struct mp_certificate){i < 2    ? MP_CERT_ORDER
                                    : i == 2 ? MP_CERT_PLACEMENT
                                    : i == 3 ? MP_CERT_RESIDUAL
                                             : (enum mp_certificate_kind)mp_rng_below(rng, 3),
                                    i < 4 ? MP_PROOF_CLOSED_FORM : (enum mp_proof_kind)mp_rng_below(rng, 3),
                                    i < 4 ? scopes[i] : "dispatch, all layers",
                                    1000 + mp_rng_below(rng, 1000),
                                    mp_rng_below(rng, 1000),
                                    0};
}

/* The order of a traffic matrix that nobody has. */
static void fill_matrix(struct mp_rng *rng, struct mp_plan *p) {
    static const char *const formats[] = {"nccl-tests", "csv", "npy"};
    p->provenance.matrix = (struct mp_matrix_source){
        true, formats[mp_rng_below(rng, 3)], "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        mp_rng_below(rng, 2) ? 0 : mp_rng_below(rng, MP_MAX_TOKEN_BYTES + 1)};
    p->n_certificates = 1;
    p->certificates = arena_alloc(p, 1, sizeof *p->certificates);
    p->certificates[0] = (struct mp_certificate){MP_CERT_ORDER,           MP_PROOF_CLOSED_FORM,
                                                 MP_SCOPE_MATRIX,         1000 + mp_rng_below(rng, UINT64_MAX - 1000),
                                                 mp_rng_below(rng, 1000), 0};
}

struct mp_plan *random_plan(struct mp_rng *rng, const struct random_plan_shape *shape) {
    static const char *const names[] = {
        "", "lpt", "say \"hi\" \\ there", "caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80", "tab\tbed", "true", "12: 3"};
    struct mp_error err = {0};
    struct mp_plan *p;
    uint32_t slots[64];
    for (uint32_t g = 0; g < shape->n_gpus; g++)
        slots[g] = shape->slots_per_gpu;
    CHECK_OK(mp_plan_new(&p, shape->n_layers, shape->n_experts, shape->n_gpus, slots, &err), err);
    struct mp_provenance *v = &p->provenance;
    const char **strings[] = {&v->tool, &v->trace_model, &v->topology, &v->model};
    for (size_t i = 0; i < sizeof strings / sizeof strings[0]; i++)
        *strings[i] = names[mp_rng_below(rng, sizeof names / sizeof names[0])];
    v->sources = mp_rng_below(rng, 2) ? "dp" : "coupled";
    v->dispatcher = "a2av";
    v->seed = mp_rng_next(rng);
    v->options = v->seed % 2 ? "" : "matchings.stages=-8,matchings.x=0,two-level.a_b=12";
    v->has_workload = shape->has_outlook;
    v->strategy = v->replicate = v->place = v->order = names[1 + mp_rng_below(rng, sizeof names / sizeof names[0] - 1)];
    v->selected_on = mp_rng_below(rng, 2) ? "planning data" : "validation part";
    if (v->has_workload) {
        v->split.kind = (enum mp_split_kind)mp_rng_below(rng, 4);
        if (v->split.kind == MP_SPLIT_CATEGORY)
            v->split.categories = v->place;
        if (v->split.kind == MP_SPLIT_HASH || v->split.kind == MP_SPLIT_TIME)
            v->split.planning_ppm = 500000;
        v->batching =
            (struct mp_batching){.phase = MP_PHASE_DECODE, .n_ranks = shape->n_gpus, .batch_per_rank = 4, .seed = 7};
    }
    p->n_nodes = shape->n_nodes;
    uint32_t *node = arena_alloc(p, p->n_gpus, sizeof *node);
    for (uint32_t g = 0; g < p->n_gpus; g++)
        node[g] = g * p->n_nodes / p->n_gpus;
    p->gpu_node = node;
    p->route = (enum mp_route_rule)mp_rng_below(rng, MP_N_ROUTE_RULES);
    if (p->route == MP_ROUTE_SOURCED)
        CHECK_OK(mp_plan_source_weights(p, (enum mp_route_by)mp_rng_below(rng, MP_N_ROUTE_BY), &err), err);
    v->route = mp_route_rule_name(p->route);
    p->stage_mode = (enum mp_stage_mode)mp_rng_below(rng, 3);
    p->fallback_ppm = (uint32_t)mp_rng_below(rng, 100000);
    p->is_paced = p->fallback_ppm % 2 == 0;
    p->is_pipelined = p->fallback_ppm % 3 == 0;
    if (shape->has_orders) {
        static const enum random_order_kind kinds[] = {
            RANDOM_PLAIN, RANDOM_WIDTHS, RANDOM_FLUSH, RANDOM_WIDTHS | RANDOM_FLUSH, RANDOM_NODES, RANDOM_SHARED};
        p->n_orders = 1 + (uint32_t)mp_rng_below(rng, 3);
        struct mp_order *orders = arena_alloc(p, p->n_orders, sizeof *orders);
        for (uint32_t i = 0; i < p->n_orders; i++)
            if (mp_rng_below(rng, 2))
                random_order(rng, p, &orders[i]);
            else
                random_any_order(rng, p, &orders[i], kinds[mp_rng_below(rng, 6)]);
        p->orders = orders;
    }
    for (uint32_t l = 0; l < p->n_layers; l++) {
        p->layers[l].layer_id = 3 + 2 * l;
        fill_layer(rng, p, &p->layers[l]);
        if (v->has_workload)
            p->layers[l].rows_max_sum = mp_rng_below(rng, 1000);
        if (v->has_workload && mp_rng_below(rng, 2)) {
            p->layers[l].expert_rows = arena_alloc(p, p->n_experts, sizeof *p->layers[l].expert_rows);
            for (uint32_t e = 0; e < p->n_experts; e++)
                p->layers[l].expert_rows[e] = mp_rng_next(rng) >> (16 + mp_rng_below(rng, 48));
        }
    }
    if (mp_rng_below(rng, 2)) {
        p->n_colocations = 1;
        struct mp_colocation *c = arena_alloc(p, 1, sizeof *c);
        *c = (struct mp_colocation){0, p->layers[0].slot_expert[0], 5, 0};
        p->colocations = c;
    }
    if (mp_rng_below(rng, 2)) {
        const uint32_t last = p->n_layers - 1;
        struct mp_train_bucket *b = arena_alloc(p, 2, sizeof *b);
        b[0] = (struct mp_train_bucket){last < 2 || mp_rng_below(rng, 2), last / 2, last, 1};
        b[0].bytes += mp_rng_next(rng) / 2;
        b[1] = (struct mp_train_bucket){.bytes = 1};
        p->training = (struct mp_plan_training){.is_present = true, .name = "searched", .gradient_bits = 16};
        struct mp_train_policy *y = &p->training.policy;
        *y = (struct mp_train_policy){
            .a2a_chunk_bytes = 65536, .reduce_chunk_bytes = UINT64_MAX, .bucket_bytes = 3, .buckets = b};
        y->is_shared = mp_rng_below(rng, 2) == 1;
        y->is_pipelined = mp_rng_below(rng, 2) == 1;
        y->guard = y->is_shared ? MP_TRAIN_GUARD_NONE : (enum mp_train_guard)mp_rng_below(rng, MP_TRAIN_N_GUARDS);
        y->order = (enum mp_train_order)mp_rng_below(rng, MP_TRAIN_N_ORDERS);
        y->n_buckets = (uint32_t)mp_rng_below(rng, 3);
        p->training.offload = (enum mp_train_offload)mp_rng_below(rng, MP_TRAIN_N_OFFLOADS);
    }
    if (mp_rng_below(rng, 2))
        p->together =
            (struct mp_plan_together){true, mp_rng_below(rng, 2) == 1, "0123abcd", "", mp_rng_below(rng, 1000), 7};
    if (v->has_workload)
        fill_outlook(rng, p);
    else if (p->n_layers == 1)
        fill_matrix(rng, p);
    CHECK_OK(mp_plan_check(p, &err), err);
    return p;
}

char *plan_text(const struct mp_plan *p, size_t *n) {
    struct mp_error err = {0};
    struct mp_out *o;
    CHECK_OK(mp_out_open_memory(&o, &err), err);
    mp_plan_write(p, o);
    const uint8_t *bytes = mp_out_memory_bytes(o, n);
    char *text = malloc(*n + 1);
    assert_non_null(text);
    memcpy(text, bytes, *n);
    text[*n] = '\0';
    CHECK_OK(mp_out_commit(o, &err), err);
    return text;
}

void restamp(char *text, size_t n) {
    char hex[65];
    mp_sha256_hex(text, n - 77, hex); /* checksum: "<64>"\n */
    memcpy(text + n - 66, hex, 64);
}
