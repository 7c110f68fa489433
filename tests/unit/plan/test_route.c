#include "support.h"
#include <moeplan/plan.h>

/* A random plan: up to 3 layers, 8 GPUs on a random node map, replicas wherever there is room. */
static struct mp_plan *route_plan(struct mp_rng *rng, enum mp_route_rule rule) {
    struct mp_error err = {0};
    uint32_t n_gpus = 1 + (uint32_t)mp_rng_below(rng, 8), n_experts = 1 + (uint32_t)mp_rng_below(rng, 10), slots[8];
    for (uint32_t g = 0; g < n_gpus; g++)
        slots[g] = (n_experts + n_gpus - 1) / n_gpus + (uint32_t)mp_rng_below(rng, 3);
    struct mp_plan *p;
    CHECK_OK(mp_plan_new(&p, 1 + (uint32_t)mp_rng_below(rng, 3), n_experts, n_gpus, slots, &err), err);
    p->route = rule;
    p->n_nodes = 1 + (uint32_t)mp_rng_below(rng, n_gpus);
    uint32_t *node = mp_arena_alloc(p->arena, n_gpus, sizeof *node);
    assert_non_null(node);
    for (uint32_t g = 0; g < n_gpus; g++)
        node[g] = (uint32_t)mp_rng_below(rng, p->n_nodes);
    p->gpu_node = node;
    if (rule == MP_ROUTE_SOURCED)
        CHECK_OK(mp_plan_source_weights(p, (enum mp_route_by)mp_rng_below(rng, MP_N_ROUTE_BY), &err), err);
    for (uint32_t l = 0; l < p->n_layers; l++) {
        struct mp_plan_layer *layer = &p->layers[l];
        for (uint32_t s = 0; s < p->n_slots; s++)
            layer->slot_expert[s] = s < n_experts               ? (uint16_t)s
                                    : mp_rng_below(rng, 4) == 0 ? MP_NO_EXPERT
                                                                : (uint16_t)mp_rng_below(rng, n_experts);
        for (uint32_t s = p->n_slots; s > 1; s--) {
            uint32_t j = (uint32_t)mp_rng_below(rng, s);
            uint16_t t = layer->slot_expert[s - 1];
            layer->slot_expert[s - 1] = layer->slot_expert[j];
            layer->slot_expert[j] = t;
        }
        if (rule == MP_ROUTE_WEIGHTED || rule == MP_ROUTE_TIERED) {
            layer->slot_weight = mp_arena_alloc(p->arena, p->n_slots, sizeof *layer->slot_weight);
            assert_non_null(layer->slot_weight);
            for (uint32_t s = 0; s < p->n_slots; s++)
                layer->slot_weight[s] = (uint32_t)mp_rng_below(rng, 4);
        }
        for (uint32_t i = 0; rule == MP_ROUTE_SOURCED && i < mp_plan_n_classes(p) * p->n_slots; i++)
            layer->slot_weight_by_source[i] = (uint32_t)mp_rng_below(rng, 4);
    }
    CHECK_OK(mp_plan_check(p, &err), err);
    return p;
}

/* What a slot counts for a source; the class by the words of plan.h. */
static uint32_t weight_of(const struct mp_plan *p, uint32_t l, uint32_t slot, uint32_t source) {
    if (p->route != MP_ROUTE_SOURCED)
        return p->layers[l].slot_weight[slot];
    uint32_t class = p->route_by == MP_ROUTE_BY_NODE ? p->gpu_node[source] : source;
    return p->layers[l].slot_weight_by_source[class * p->n_slots + slot];
}

/* The candidates of a rule for one source as a set of slots, straight from the comment in plan.h. */
static uint64_t candidate_set(const struct mp_plan *p, uint32_t l, uint32_t e, uint32_t source, bool is_weighted,
                              bool is_tiered) {
    uint64_t all = 0, node = 0, gpu = 0;
    for (uint32_t s = 0; s < p->n_slots; s++) {
        if (p->layers[l].slot_expert[s] != e || (is_weighted && weight_of(p, l, s, source) == 0))
            continue;
        all |= UINT64_C(1) << s;
        if (p->gpu_node[mp_plan_slot_gpu(p, s)] == p->gpu_node[source])
            node |= UINT64_C(1) << s;
        if (mp_plan_slot_gpu(p, s) == source)
            gpu |= UINT64_C(1) << s;
    }
    return !is_tiered ? all : gpu ? gpu : node ? node : all;
}

static uint32_t nth_of_set(uint64_t set, uint64_t n) {
    for (uint32_t s = 0;; s++)
        if (set >> s & 1 && n-- == 0)
            return s;
}

static uint32_t expected_slot(const struct mp_plan *p, uint32_t l, uint32_t e, uint32_t source, uint64_t token) {
    uint64_t hash = mp_mix64(token ^ ((uint64_t)l << 32 | e));
    bool is_weighted = p->route >= MP_ROUTE_WEIGHTED;
    bool is_tiered = p->route == MP_ROUTE_NEAREST || p->route == MP_ROUTE_TIERED;
    uint64_t set = candidate_set(p, l, e, source, is_weighted, is_tiered);
    if (set == 0)
        return MP_NONE;
    uint64_t n = (uint64_t)__builtin_popcountll(set);
    if (p->route == MP_ROUTE_EVEN)
        return nth_of_set(set, hash % n);
    if (p->route == MP_ROUTE_NEAREST) {
        uint64_t number = 0;
        for (uint32_t s = 0; s < source; s++)
            number += candidate_set(p, l, e, s, false, true) == set;
        return nth_of_set(set, (number + e) % n);
    }
    uint64_t table[256], sum = 0; /* one entry per unit of weight */
    for (uint32_t s = 0; s < p->n_slots; s++)
        for (uint32_t i = 0; set >> s & 1 && i < weight_of(p, l, s, source); i++)
            table[sum++] = s;
    return (uint32_t)table[hash % sum];
}

static void test_route__agrees_with_the_comment(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(1);
    for (uint32_t round = 0; round < 2000; round++) {
        struct mp_plan *p = route_plan(&rng, round % MP_N_ROUTE_RULES);
        struct mp_router *r;
        struct mp_error err = {0};
        CHECK_OK(mp_router_new(&r, p, &err), err);
        for (uint32_t l = 0; l < p->n_layers; l++)
            for (uint32_t e = 0; e < p->n_experts; e++) {
                uint32_t n;
                const uint32_t *replica = mp_router_replicas(r, l, e, &n);
                uint64_t set = candidate_set(p, l, e, 0, false, false);
                assert_int_equal(n, __builtin_popcountll(set));
                for (uint32_t i = 0; i < n; i++)
                    assert_int_equal(replica[i], nth_of_set(set, i));
                for (uint32_t source = 0; source < p->n_gpus; source++)
                    for (uint64_t row = 0; row < 3; row++) {
                        if (p->route >= MP_ROUTE_WEIGHTED && candidate_set(p, l, e, source, true, false) == 0)
                            continue; /* not a plan that a verifier lets through */
                        uint64_t token = mp_token_hash(row + 10 * round);
                        uint32_t want = expected_slot(p, l, e, source, token),
                                 got = mp_router_slot(r, l, e, source, token);
                        assert_int_equal(got, want);
                    }
            }
        mp_router_free(r);
        mp_plan_free(p);
    }
}

static void test_route__split_keeps_every_token(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(2);
    for (uint32_t round = 0; round < 2000; round++) {
        struct mp_plan *p = route_plan(&rng, round % MP_N_ROUTE_RULES);
        struct mp_router *r;
        struct mp_error err = {0};
        CHECK_OK(mp_router_new(&r, p, &err), err);
        for (uint32_t e = 0; e < p->n_experts; e++) {
            uint32_t n_replicas, source = (uint32_t)mp_rng_below(&rng, p->n_gpus);
            const uint32_t *replica = mp_router_replicas(r, 0, e, &n_replicas);
            uint64_t share[64], n = mp_rng_below(&rng, 1000), sum = 0;
            bool is_weighted = p->route >= MP_ROUTE_WEIGHTED;
            if (is_weighted && candidate_set(p, 0, e, source, true, false) == 0)
                continue;
            uint64_t set = candidate_set(p, 0, e, source, is_weighted,
                                         p->route == MP_ROUTE_TIERED || p->route == MP_ROUTE_NEAREST);
            mp_router_split(r, 0, e, source, n, share);
            uint64_t weight_sum = 0;
            for (uint32_t s = 0; s < p->n_slots; s++)
                weight_sum += set >> s & 1 ? (is_weighted ? weight_of(p, 0, s, source) : 1) : 0;
            for (uint32_t i = 0; i < n_replicas; i++) {
                sum += share[i];
                uint64_t weight = set >> replica[i] & 1 ? (is_weighted ? weight_of(p, 0, replica[i], source) : 1) : 0;
                if (n_replicas == 1)
                    continue;
                if (p->route == MP_ROUTE_NEAREST) {
                    assert_int_equal(share[i], replica[i] == mp_router_slot(r, 0, e, source, 7) ? n : 0);
                    continue;
                }
                assert_in_range(share[i], n * weight / weight_sum, n * weight / weight_sum + (weight > 0));
                if (p->route == MP_ROUTE_EVEN) {
                    uint32_t turn = (i + n_replicas - source % n_replicas) % n_replicas;
                    assert_int_equal(share[i], n / n_replicas + (turn < n % n_replicas));
                }
            }
            assert_int_equal(sum, n);
        }
        mp_router_free(r);
        mp_plan_free(p);
    }
}

/* 100,000 tokens over 1..8 replicas: each share within five standard deviations of its expectation. */
static void test_route__even_and_weighted_shares_are_statistically_right(void **state) {
    (void)state;
    for (uint32_t n = 2; n <= 8; n++)
        for (int weighted = 0; weighted < 2; weighted++) {
            uint32_t slots[8] = {1, 1, 1, 1, 1, 1, 1, 1}, hits[8] = {0}, weight_sum = 0;
            struct mp_plan *p;
            struct mp_router *r;
            struct mp_error err = {0};
            CHECK_OK(mp_plan_new(&p, 1, 1, n, slots, &err), err);
            uint32_t weights[8];
            for (uint32_t s = 0; s < n; s++) {
                p->layers[0].slot_expert[s] = 0;
                weights[s] = weighted ? s * 3 + 1 : 1;
                weight_sum += weights[s];
            }
            p->route = weighted ? MP_ROUTE_WEIGHTED : MP_ROUTE_EVEN;
            p->layers[0].slot_weight = weighted ? weights : NULL;
            CHECK_OK(mp_router_new(&r, p, &err), err);
            for (uint64_t row = 0; row < 100000; row++)
                hits[mp_router_slot(r, 0, 0, 0, mp_token_hash(row))]++;
            for (uint32_t s = 0; s < n; s++) {
                double share = (double)weights[s] / weight_sum, mean = 100000 * share, variance = mean * (1 - share);
                double off = (double)hits[s] - mean;
                assert_true(off * off < 25 * variance);
            }
            mp_router_free(r);
            mp_plan_free(p);
        }
}

static enum mp_status flow(void *ctx, struct mp_error *err) {
    struct mp_router *r;
    enum mp_status status = mp_router_new(&r, ctx, err);
    if (status == MP_OK)
        mp_router_free(r);
    return status;
}

static void test_route__survives_faults(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(3);
    for (uint32_t rule = 0; rule < MP_N_ROUTE_RULES; rule++) {
        struct mp_plan *p = route_plan(&rng, rule);
        sweep_faults(flow, p, 1);
        mp_plan_free(p);
    }
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_route__agrees_with_the_comment),
        cmocka_unit_test(test_route__split_keeps_every_token),
        cmocka_unit_test(test_route__even_and_weighted_shares_are_statistically_right),
        cmocka_unit_test(test_route__survives_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
