/* Weights by source: their text, and what is read back. */
#include "random_plan.h"
#include "support.h"

static enum mp_status parse(struct mp_plan **out, const char *text, size_t n, struct mp_error *err) {
    struct mp_in *in;
    *out = NULL;
    enum mp_status status = mp_in_from_memory(&in, "plan.yaml", text, n, err);
    if (status == MP_OK) {
        status = mp_plan_parse(out, in, NULL, err);
        mp_in_close(in);
    }
    return status;
}

/* 4 GPUs on 2 nodes with 2 slots each: experts 0 and 2 twice, 1 and 3 once, slots 3 and 5 empty. */
static struct mp_plan *small_plan(enum mp_route_by by) {
    static const uint16_t slots[8] = {0, 2, 1, MP_NO_EXPERT, 3, MP_NO_EXPERT, 2, 0};
    const uint32_t per_gpu[4] = {2, 2, 2, 2};
    struct mp_error err = {0};
    struct mp_plan *p;
    CHECK_OK(mp_plan_new(&p, 1, 4, 4, per_gpu, &err), err);
    uint32_t *node = mp_arena_alloc(p->arena, 4, sizeof *node);
    assert_non_null(node);
    node[2] = node[3] = 1;
    p->gpu_node = node;
    p->n_nodes = 2;
    memcpy(p->layers[0].slot_expert, slots, sizeof slots);
    p->layers[0].order = MP_NONE;
    CHECK_OK(mp_plan_source_weights(p, by, &err), err);
    return p;
}

static void set(struct mp_plan *p, uint32_t class, uint32_t slot, uint32_t weight) {
    p->layers[0].slot_weight_by_source[class * p->n_slots + slot] = weight;
}

static void check_text(const struct mp_plan *p, const char *expected) {
    size_t n;
    char *text = plan_text(p, &n), *from = strstr(text, "    weights_by_source:"), *end = strstr(text, "    order:");
    assert_non_null(from);
    assert_non_null(end);
    *end = '\0';
    assert_string_equal(from, expected);
    free(text);
}

static void test_plan_weights__text(void **state) {
    (void)state;
    struct mp_plan *p = small_plan(MP_ROUTE_BY_GPU);
    for (uint32_t c = 0; c < 4; c++) {
        set(p, c, 0, c < 2 ? 3 : 0);
        set(p, c, 7, 4096);
        set(p, c, 1, 1);
        set(p, c, 6, c);
    }
    check_text(p, "    weights_by_source:\n"
                  "      - {expert: 0, weights: \"2*3 4096|2*0 4096\"}\n"
                  "      - {expert: 2, weights: \"1 0|1 1|1 2|1 3\"}\n");
    set(p, 0, 2, 9); /* of an expert with one slot: not written */
    set(p, 0, 3, 9);
    for (uint32_t c = 0; c < 4; c++)
        set(p, c, 6, UINT32_MAX);
    check_text(p, "    weights_by_source:\n"
                  "      - {expert: 0, weights: \"2*3 4096|2*0 4096\"}\n"
                  "      - {expert: 2, weights: \"4*1 4294967295\"}\n");
    mp_plan_free(p);
    p = small_plan(MP_ROUTE_BY_NODE);
    for (uint32_t c = 0; c < 2; c++)
        set(p, c, 0, 1 + c);
    check_text(p, "    weights_by_source:\n"
                  "      - {expert: 0, weights: \"1 0|2 0\"}\n"
                  "      - {expert: 2, weights: \"2*0 0\"}\n");
    p->layers[0].slot_expert[6] = p->layers[0].slot_expert[7] = MP_NO_EXPERT;
    check_text(p, "    weights_by_source: []\n");
    mp_plan_free(p);
}

static void test_plan_weights__round_trip_keeps_every_weight(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(17);
    uint32_t n_by[MP_N_ROUTE_BY] = {0}, n_weights = 0, n_runs = 0;
    for (int round = 0; round < 1000; round++) {
        struct random_plan_shape shape = random_shape(&rng);
        struct mp_plan *p = random_plan(&rng, &shape), *q;
        struct mp_error err = {0};
        size_t n, m;
        if (p->route == MP_ROUTE_SOURCED) {
            char *text = plan_text(p, &n);
            CHECK_OK(parse(&q, text, n, &err), err);
            assert_int_equal(q->route, p->route);
            assert_int_equal(q->route_by, p->route_by);
            n_by[p->route_by]++;
            for (uint32_t l = 0; l < p->n_layers; l++) {
                const uint32_t *a = p->layers[l].slot_weight_by_source, *b = q->layers[l].slot_weight_by_source;
                for (uint32_t i = 0; i < mp_plan_n_classes(p) * p->n_slots; i++) {
                    assert_int_equal(a[i], b[i]);
                    n_weights += a[i] > 0;
                }
            }
            n_runs += strstr(text, "weights: \"2*") != NULL;
            char *again = plan_text(q, &m);
            assert_int_equal(n, m);
            assert_memory_equal(text, again, n);
            free(text);
            free(again);
            mp_plan_free(q);
        }
        mp_plan_free(p);
    }
    assert_true(n_by[0] > 50 && n_by[1] > 50 && n_weights > 5000 && n_runs > 20);
}

/* A short text must not stand for memory without end: the tables' size is known before it is asked for. */
static void test_plan_weights__tables_have_a_limit(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct mp_plan *p, *q;
    uint32_t slots[1024];
    for (uint32_t g = 0; g < 1024; g++)
        slots[g] = 64; /* 2^16 slots times 2^10 sources: a layer is as much as there may be */
    CHECK_OK(mp_plan_new(&p, 2, 1, 1024, slots, &err), err);
    assert_int_equal(mp_plan_source_weights(p, MP_ROUTE_BY_GPU, &err), MP_ELIMIT);
    CHECK_OK(mp_plan_source_weights(p, MP_ROUTE_BY_NODE, &err), err); /* of which there is one */
    for (uint32_t l = 0; l < 2; l++) {
        p->layers[l].layer_id = l;
        p->layers[l].order = MP_NONE;
        p->layers[l].slot_expert[0] = 0;
    }
    size_t n;
    char *text = plan_text(p, &n), *word = strstr(text, "route_sources: node");
    assert_non_null(word);
    memmove(word + 18, word + 19, n - (size_t)(word - text) - 18); /* "gpu" is a letter shorter */
    memcpy(word, "route_sources: gpu", 18);
    restamp(text, n - 1);
    err = (struct mp_error){0};
    assert_int_equal(parse(&q, text, n - 1, &err), MP_ELIMIT);
    assert_non_null(strstr(err.message, "weights_by_source"));
    free(text);
    p->route_by = MP_ROUTE_BY_GPU;
    assert_int_equal(mp_plan_check(p, &err), MP_EINPUT);
    mp_plan_free(p);
}

static void test_plan_weights__check_wants_them_under_sourced_only(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct mp_plan *p = small_plan(MP_ROUTE_BY_NODE);
    struct mp_router *r;
    CHECK_OK(mp_plan_check(p, &err), err);
    p->route = MP_ROUTE_EVEN;
    err = (struct mp_error){0};
    assert_int_equal(mp_plan_check(p, &err), MP_EINPUT);
    assert_non_null(strstr(err.message, "route-weights"));
    p->route = MP_ROUTE_SOURCED;
    p->layers[0].slot_weight_by_source = NULL;
    err = (struct mp_error){0};
    assert_int_equal(mp_plan_check(p, &err), MP_EINPUT);
    assert_non_null(strstr(err.message, "route-weights"));
    assert_int_equal(mp_router_new(&r, p, &err), MP_EBUG);
    p->route_by = MP_N_ROUTE_BY;
    err = (struct mp_error){0};
    assert_int_equal(mp_plan_check(p, &err), MP_EINPUT);
    assert_non_null(strstr(err.message, "classes of sources"));
    mp_plan_free(p);
}

static enum mp_status make_flow(void *ctx, struct mp_error *err) {
    (void)ctx;
    const uint32_t per_gpu[2] = {2, 2};
    struct mp_plan *p;
    enum mp_status status = mp_plan_new(&p, 2, 2, 2, per_gpu, err);
    if (status == MP_OK)
        status = mp_plan_source_weights(p, MP_ROUTE_BY_GPU, err);
    mp_plan_free(p);
    return status;
}

static enum mp_status read_flow(void *ctx, struct mp_error *err) {
    struct mp_plan *p;
    enum mp_status status = mp_plan_load(&p, ctx, NULL, err);
    mp_plan_free(p);
    return status;
}

struct write_flow {
    const struct mp_plan *plan;
    const char *path;
};

static enum mp_status write_flow(void *ctx, struct mp_error *err) {
    struct write_flow *f = ctx;
    struct mp_out *o;
    enum mp_status status = mp_out_open(&o, f->path, err);
    if (status != MP_OK)
        return status;
    mp_plan_write(f->plan, o);
    return mp_out_commit(o, err);
}

static void test_plan_weights__survives_faults(void **state) {
    (void)state;
    struct mp_plan *p = small_plan(MP_ROUTE_BY_GPU);
    char path[512];
    snprintf(path, sizeof path, "%s", temp_path("weights.yaml"));
    struct write_flow f = {p, path};
    sweep_faults(make_flow, NULL, 1);
    sweep_faults(write_flow, &f, 1);
    sweep_faults(read_flow, path, 1);
    mp_plan_free(p);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plan_weights__text),
        cmocka_unit_test(test_plan_weights__round_trip_keeps_every_weight),
        cmocka_unit_test(test_plan_weights__tables_have_a_limit),
        cmocka_unit_test(test_plan_weights__check_wants_them_under_sourced_only),
        cmocka_unit_test(test_plan_weights__survives_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
