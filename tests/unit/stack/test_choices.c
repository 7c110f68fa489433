/* How servers choose among replicas. What is expected of SGLang's static dispatch came out of Python's own
 * random.Random(42). */
#include "support.h"
#include <moeplan/stack.h>

static const uint16_t readme[2][16] = {{5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1},
                                       {7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1}};

static struct mp_plan *new_plan(uint32_t n_layers, uint32_t n_experts, uint32_t n_gpus, uint32_t per_gpu,
                                uint32_t n_nodes) {
    struct mp_error err = {0};
    struct mp_plan *p;
    uint32_t each[64];
    for (uint32_t g = 0; g < n_gpus; g++)
        each[g] = per_gpu;
    CHECK_OK(mp_plan_new(&p, n_layers, n_experts, n_gpus, each, &err), err);
    p->n_nodes = n_nodes;
    for (uint32_t g = 0; g < n_gpus; g++)
        ((uint32_t *)p->gpu_node)[g] = g / (n_gpus / n_nodes);
    return p;
}

static uint32_t *table_of(const struct mp_plan *p, const char *name) {
    struct mp_error err = {0};
    const struct mp_stack_choice *c = mp_stack_choice_find(mp_stack_find("sglang"), name, p);
    uint32_t *table = calloc((size_t)p->n_layers * p->n_experts * p->n_gpus, sizeof *table);
    assert_non_null(c);
    assert_int_equal(c->kind, MP_CHOICE_TABLE);
    CHECK_OK(c->table(table, p, &(struct mp_stack_options){0}, &err), err);
    return table;
}

/* The README's placement in layers 1 and 2 of a model whose layer 0 is dense: its row takes draws of the first version
 * and of experts 0 to 3. */
static void test_choices__static_is_what_python_draws(void **state) {
    (void)state;
    static const struct {
        const char *name;
        uint32_t layer, expert, slots[8];
    } expected[] = {{"static", 0, 1, {15, 15, 13, 13, 13, 15, 13, 15}},
                    {"static", 0, 4, {7, 5, 5, 7, 5, 5, 7, 7}},
                    {"static", 0, 5, {0, 2, 2, 2, 0, 0, 0, 2}},
                    {"static", 0, 10, {10, 8, 10, 8, 8, 10, 10, 8}},
                    {"static", 1, 1, {15, 15, 11, 11, 15, 11, 11, 15}},
                    {"static", 1, 6, {4, 2, 4, 4, 4, 2, 2, 2}},
                    {"static", 1, 8, {3, 3, 6, 6, 3, 6, 6, 3}},
                    {"static", 1, 3, {14, 14, 14, 14, 14, 14, 14, 14}},
                    {"static-2025", 0, 1, {13, 13, 15, 15, 13, 15, 13, 15}},
                    {"static-2025", 0, 5, {0, 2, 2, 0, 0, 2, 2, 0}},
                    {"static-2025", 1, 5, {12, 12, 10, 10, 10, 10, 12, 12}},
                    {"static-2025", 1, 6, {4, 2, 4, 2, 4, 2, 2, 4}}};
    struct mp_plan *p = new_plan(2, 12, 8, 2, 2);
    for (uint32_t l = 0; l < 2; l++) {
        p->layers[l].layer_id = 1 + l;
        memcpy(p->layers[l].slot_expert, readme[l], sizeof readme[l]);
    }
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        uint32_t *table = table_of(p, expected[i].name);
        assert_memory_equal(table + ((size_t)expected[i].layer * 12 + expected[i].expert) * 8, expected[i].slots,
                            sizeof expected[i].slots);
        free(table);
    }
    mp_plan_free(p);
}

static uint64_t digest(const struct mp_plan *p, const char *name) {
    uint64_t h = 0;
    uint32_t *table = table_of(p, name);
    for (size_t i = 0; i < (size_t)p->n_layers * p->n_experts * p->n_gpus; i++)
        h = h * 1000003 + table[i];
    free(table);
    return h;
}

/* 36 replicas of expert 0, of which a sample of 4 is drawn the other of Python's two ways. */
static void test_choices__static_of_many_replicas(void **state) {
    (void)state;
    struct mp_plan *p = new_plan(2, 40, 40, 8, 5);
    for (uint32_t l = 0; l < 2; l++) {
        p->layers[l].layer_id = l;
        for (uint32_t s = 0; s < 320; s++)
            p->layers[l].slot_expert[s] = (uint16_t)((s + l) % 39 + 1);
        for (uint32_t g = 0; g < 36; g++)
            p->layers[l].slot_expert[g * 8 + l] = 0;
    }
    assert_int_equal(digest(p, "static"), UINT64_C(0x378c49f2efac5b45));
    assert_int_equal(digest(p, "static-2025"), UINT64_C(0x4af6973d62e4191d));
    mp_plan_free(p);
}

static void test_choices__every_stack_says_what_it_does(void **state) {
    (void)state;
    const struct mp_plan even = {.route = MP_ROUTE_EVEN}, nearest = {.route = MP_ROUTE_NEAREST},
                         weighted = {.route = MP_ROUTE_WEIGHTED}, sourced = {.route = MP_ROUTE_SOURCED};
    for (uint32_t i = 0; mp_stack_at(i) != NULL; i++) {
        const struct mp_stack *s = mp_stack_at(i);
        assert_null(s->choices[0].refused);
        assert_null(mp_stack_choice_find(s, "no-such", &even));
        for (const struct mp_stack_choice *c = s->choices; c->name != NULL; c++) {
            assert_ptr_equal(mp_stack_choice_find(s, c->name, &even), c);
            if (c->refused != NULL)
                continue;
            assert_true((s->routes >> c->route & 1) != 0);
            assert_int_equal(c->kind == MP_CHOICE_TABLE, c->table != NULL);
            /* what is scored by a rule of ours says so, and nothing else does */
            assert_int_equal(c->kind == MP_CHOICE_PLAN, c->stands != NULL);
        }
        /* a routing table that the servers do not know is scored as what they do unasked */
        assert_ptr_equal(mp_stack_choice_find(s, NULL, &weighted), s->choices);
        assert_ptr_equal(mp_stack_choice_find(s, NULL, &sourced), s->choices);
        assert_int_equal(s->routes & (1u << MP_ROUTE_WEIGHTED | 1u << MP_ROUTE_TIERED | 1u << MP_ROUTE_SOURCED), 0);
    }
    assert_string_equal(mp_stack_choice_find(mp_stack_find("sglang"), NULL, &nearest)->name, "static");
    assert_string_equal(mp_stack_choice_find(mp_stack_find("sglang"), NULL, &even)->name, "dynamic");
    assert_string_equal(mp_stack_choice_find(mp_stack_find("vllm"), NULL, &nearest)->name, "row-hash");
}

static enum mp_status draw(void *ctx, struct mp_error *err) {
    const struct mp_plan *p = ctx;
    uint32_t table[2 * 12 * 8];
    return mp_stack_choice_find(mp_stack_find("sglang"), "static", p)
        ->table(table, p, &(struct mp_stack_options){0}, err);
}
static void test_choices__leaks_nothing_on_faults(void **state) {
    (void)state;
    struct mp_plan *p = new_plan(2, 12, 8, 2, 2);
    for (uint32_t l = 0; l < 2; l++)
        memcpy(p->layers[l].slot_expert, readme[l], sizeof readme[l]);
    sweep_faults(draw, p, 1);
    mp_plan_free(p);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_choices__static_is_what_python_draws),
        cmocka_unit_test(test_choices__static_of_many_replicas),
        cmocka_unit_test(test_choices__every_stack_says_what_it_does),
        cmocka_unit_test(test_choices__leaks_nothing_on_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
