#include "support.h"

#include "eplb.h"
#include <moeplan/base.h>
#include <moeplan/json.h>

/* ---- the same algorithm written plainly: scans and an insertion sort; the reference for the fast one ---- */
static void plain_pack(const float *weight, uint32_t n, uint32_t n_packs, uint32_t *pack, uint32_t *place) {
    uint32_t order[512], items[512] = {0}, per_pack = n / n_packs;
    float sum[512] = {0};
    if (per_pack == 1) {
        for (uint32_t i = 0; i < n; i++) {
            pack[i] = i;
            place[i] = 0;
        }
        return;
    }
    for (uint32_t i = 0; i < n; i++) {
        uint32_t at = i;
        for (; at > 0 && weight[order[at - 1]] < weight[i]; at--)
            order[at] = order[at - 1];
        order[at] = i;
    }
    for (uint32_t i = 0; i < n; i++) {
        uint32_t best = MP_NONE;
        for (uint32_t p = 0; p < n_packs; p++)
            if (items[p] < per_pack && (best == MP_NONE || sum[p] < sum[best]))
                best = p;
        pack[order[i]] = best;
        place[order[i]] = items[best]++;
        sum[best] += weight[order[i]];
    }
}

static void plain_eplb(const struct mp_eplb_shape *in, const uint64_t *load, uint16_t *phy2log, uint16_t *rank,
                       uint16_t *logcnt) {
    struct mp_eplb_shape s = *in;
    if (s.n_groups % s.n_nodes != 0)
        s.n_groups = s.n_nodes = 1;
    uint32_t group_size = s.n_experts / s.n_groups, groups_per_node = s.n_groups / s.n_nodes,
             per_node = s.n_experts / s.n_nodes;
    uint32_t slots = s.n_slots / s.n_nodes, per_gpu = s.n_slots / s.n_gpus, pack[512], place[512], expert[512];
    float group[512];
    for (uint32_t g = 0; g < s.n_groups; g++) {
        group[g] = 0;
        for (uint32_t i = 0; i < group_size; i++)
            group[g] += (float)load[g * group_size + i];
    }
    plain_pack(group, s.n_groups, s.n_nodes, pack, place);
    for (uint32_t g = 0; g < s.n_groups; g++)
        for (uint32_t i = 0; i < group_size; i++)
            expert[(pack[g] * groups_per_node + place[g]) * group_size + i] = g * group_size + i;
    for (uint32_t node = 0; node < s.n_nodes; node++) {
        const uint32_t *mine = expert + node * per_node;
        uint32_t of[512], nth[512], count[512];
        float weight[512];
        for (uint32_t i = 0; i < per_node; i++) {
            of[i] = i;
            nth[i] = 0;
            count[i] = 1;
        }
        for (uint32_t i = per_node; i < slots; i++) {
            uint32_t best = 0;
            for (uint32_t e = 1; e < per_node; e++)
                if ((float)load[mine[e]] / (float)count[e] > (float)load[mine[best]] / (float)count[best])
                    best = e;
            of[i] = best;
            nth[i] = count[best]++;
        }
        for (uint32_t i = 0; i < slots; i++)
            weight[i] = (float)load[mine[of[i]]] / (float)count[of[i]];
        plain_pack(weight, slots, s.n_gpus / s.n_nodes, pack, place);
        for (uint32_t i = 0; i < slots; i++) {
            uint32_t slot = node * slots + pack[i] * per_gpu + place[i];
            phy2log[slot] = (uint16_t)mine[of[i]];
            rank[slot] = (uint16_t)nth[i];
        }
        for (uint32_t i = 0; i < per_node; i++)
            logcnt[mine[i]] = (uint16_t)count[i];
    }
}

struct eplb_result {
    uint16_t phy2log[512], rank[512], logcnt[512];
};

static struct eplb_result fast_eplb(const struct mp_eplb_shape *s, const uint64_t *load, int32_t *log2phy,
                                    uint32_t width) {
    struct mp_error err = {0};
    struct mp_arena *arena = mp_arena_new();
    struct mp_eplb *w;
    struct eplb_result r = {0};
    CHECK_OK(mp_eplb_new(&w, s, arena, &err), err);
    mp_eplb_layer(w, load, r.phy2log, r.rank, r.logcnt);
    if (log2phy != NULL)
        mp_eplb_log2phy(w, r.phy2log, r.rank, width, log2phy);
    mp_arena_free(arena);
    return r;
}

/* ---- published results ---- */
static uint32_t number(const json_t *o, const char *key) {
    return (uint32_t)json_integer_value(json_object_get(o, key));
}

static void check_invariants(const struct mp_eplb_shape *s, const struct eplb_result *r) {
    uint32_t seen[512] = {0}, sum = 0;
    for (uint32_t i = 0; i < s->n_slots; i++) {
        assert_true(r->phy2log[i] < s->n_experts);
        seen[r->phy2log[i]]++;
    }
    for (uint32_t e = 0; e < s->n_experts; e++) {
        assert_true(seen[e] >= 1);
        assert_int_equal(seen[e], r->logcnt[e]);
        sum += seen[e];
    }
    assert_int_equal(sum, s->n_slots);
}

static bool has_ties(const uint64_t *load, uint32_t n, const uint16_t *logcnt) {
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < i; j++)
            for (uint32_t a = 1; a <= logcnt[i]; a++)
                for (uint32_t b = 1; b <= logcnt[j]; b++)
                    if (load[i] * b == load[j] * a)
                        return true;
    return false;
}

static void test_eplb__published_results_bit_for_bit(void **state) {
    (void)state;
    const char *path = shared_path("formats/eplb_conformance.json");
    if (path == NULL) {
        print_message("# shared data is not here\n");
        skip();
    }
    struct mp_error err = {0};
    struct mp_in *in;
    json_t *root;
    CHECK_OK(mp_in_open(&in, path, 0, &err), err);
    CHECK_OK(mp_json_parse(&root, path, (const char *)in->data, in->size, 1, &mp_limits_default, &err), err);
    const json_t *cases = json_object_get(root, "cases");
    size_t n_layers = 0, n_free = 0, n_equal_ties = 0;
    for (size_t c = 0; c < json_array_size(cases); c++) {
        const json_t *o = json_array_get(cases, c), *want = json_object_get(o, "deepseek_eplb"),
                     *weight = json_object_get(o, "weight");
        for (size_t l = 0; l < json_array_size(weight); l++) {
            const json_t *row = json_array_get(weight, l);
            struct mp_eplb_shape s = {(uint32_t)json_array_size(row), number(o, "num_replicas"),
                                      number(o, "num_groups"),        number(o, "num_nodes"),
                                      number(o, "num_gpus"),          0};
            uint64_t load[512];
            int32_t log2phy[8192];
            const json_t *phy = json_array_get(json_object_get(want, "phy2log"), l),
                         *log = json_array_get(json_object_get(want, "log2phy"), l);
            const json_t *count = json_array_get(json_object_get(want, "logcnt"), l);
            uint32_t width = (uint32_t)json_array_size(json_array_get(log, 0));
            for (uint32_t e = 0; e < s.n_experts; e++)
                load[e] = (uint64_t)json_integer_value(json_array_get(row, e));
            struct eplb_result r = fast_eplb(&s, load, log2phy, width);
            check_invariants(&s, &r);
            bool is_equal = true;
            for (uint32_t i = 0; i < s.n_slots; i++) {
                /* torch's sort is not stable above 16 items: ties may change places, but every slot holds the same
                 * load. */
                uint32_t other = (uint32_t)json_integer_value(json_array_get(phy, i));
                is_equal &= r.phy2log[i] == other;
                assert_int_equal(load[other] * r.logcnt[r.phy2log[i]], load[r.phy2log[i]] * r.logcnt[other]);
            }
            for (uint32_t e = 0; e < s.n_experts; e++) {
                assert_int_equal(r.logcnt[e], json_integer_value(json_array_get(count, e)));
                for (uint32_t i = 0; i < width; i++)
                    is_equal &= log2phy[e * width + i] == json_integer_value(json_array_get(json_array_get(log, e), i));
            }
            bool is_free = !has_ties(load, s.n_experts, r.logcnt);
            if (is_free && !is_equal)
                fail_msg("%s layer %zu differs", json_string_value(json_object_get(o, "name")), l);
            n_layers++;
            n_free += is_free;
            n_equal_ties += !is_free && is_equal;
        }
    }
    print_message("# %zu layers, %zu without ties, %zu of %zu with ties equal too\n", n_layers, n_free, n_equal_ties,
                  n_layers - n_free);
    assert_true(n_free >= 8);
    json_decref(root);
    mp_in_close(in);
}

static void test_eplb__one_item_per_pack_is_identity(void **state) {
    (void)state;
    const uint64_t load[4] = {1, 9, 3, 7};
    const struct mp_eplb_shape s = {4, 4, 1, 1, 4, 0};
    struct eplb_result r = fast_eplb(&s, load, NULL, 0);
    for (uint32_t i = 0; i < 4; i++)
        assert_int_equal(r.phy2log[i], i);
}

static const struct mp_eplb_shape shapes[] = {{8, 16, 1, 1, 8, 0},  {12, 16, 4, 2, 8, 0},    {64, 80, 8, 2, 16, 0},
                                              {64, 64, 1, 1, 8, 0}, {60, 64, 1, 1, 8, 0},    {16, 16, 4, 4, 4, 0},
                                              {16, 32, 4, 2, 4, 0}, {256, 320, 8, 8, 64, 0}, {256, 320, 1, 1, 64, 0},
                                              {6, 12, 3, 2, 4, 0},  {1, 4, 1, 1, 4, 0}};

static void random_load(struct mp_rng *rng, uint64_t *load, uint32_t n) {
    uint64_t most = UINT64_C(1) << mp_rng_below(rng, 40); /* small ranges make ties */
    for (uint32_t e = 0; e < n; e++)
        load[e] = mp_rng_below(rng, 4) == 0 ? 0 : mp_rng_below(rng, most);
}

static void test_eplb__fast_equals_plain_with_and_without_ties(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(11);
    for (int i = 0; i < 2000; i++) {
        const struct mp_eplb_shape *s = &shapes[mp_rng_below(&rng, sizeof shapes / sizeof shapes[0])];
        uint64_t load[512];
        struct eplb_result want = {0};
        random_load(&rng, load, s->n_experts);
        plain_eplb(s, load, want.phy2log, want.rank, want.logcnt);
        struct eplb_result r = fast_eplb(s, load, NULL, 0);
        assert_memory_equal(&r, &want, sizeof r);
        check_invariants(s, &r);
    }
}

static void test_eplb__repair_makes_replicas_distinct_and_keeps_counts(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(12);
    uint32_t n_repaired = 0;
    for (int i = 0; i < 2000; i++) {
        struct mp_eplb_shape s = shapes[mp_rng_below(&rng, sizeof shapes / sizeof shapes[0])];
        uint32_t nodes = s.n_groups % s.n_nodes == 0 ? s.n_nodes : 1, per_gpu = s.n_slots / s.n_gpus;
        s.max_replicas = s.n_gpus / nodes;
        uint64_t load[512];
        struct mp_error err = {0};
        struct mp_arena *arena = mp_arena_new();
        struct mp_eplb *w;
        struct eplb_result r = {0}, before;
        random_load(&rng, load, s.n_experts);
        CHECK_OK(mp_eplb_new(&w, &s, arena, &err), err);
        mp_eplb_layer(w, load, r.phy2log, r.rank, r.logcnt);
        before = r;
        mp_eplb_make_distinct(w, load, r.phy2log);
        mp_arena_free(arena);
        check_invariants(&s, &r);
        for (uint32_t a = 0; a < s.n_slots; a++)
            for (uint32_t b = a / per_gpu * per_gpu; b < a; b++)
                assert_int_not_equal(r.phy2log[a], r.phy2log[b]);
        n_repaired += memcmp(&before, &r, sizeof r) != 0;
    }
    assert_true(n_repaired > 100);
}

static void test_eplb__shapes_that_do_not_divide_are_refused(void **state) {
    (void)state;
    const struct mp_eplb_shape bad[] = {
        {10, 12, 4, 2, 4, 0}, {8, 8, 2, 2, 3, 0}, {8, 4, 1, 1, 4, 0}, {8, 9, 2, 2, 4, 0}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct mp_error err = {0};
        struct mp_arena *arena = mp_arena_new();
        struct mp_eplb *w;
        assert_int_equal(mp_eplb_new(&w, &bad[i], arena, &err), MP_EUSAGE);
        assert_null(w);
        mp_arena_free(arena);
    }
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_eplb__published_results_bit_for_bit),
        cmocka_unit_test(test_eplb__one_item_per_pack_is_identity),
        cmocka_unit_test(test_eplb__fast_equals_plain_with_and_without_ties),
        cmocka_unit_test(test_eplb__repair_makes_replicas_distinct_and_keeps_counts),
        cmocka_unit_test(test_eplb__shapes_that_do_not_divide_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
