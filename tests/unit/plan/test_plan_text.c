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

static void test_plan_text__round_trip_keeps_every_byte(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(1);
    for (int round = 0; round < 300; round++) {
        struct random_plan_shape shape = random_shape(&rng);
        struct mp_plan *p = random_plan(&rng, &shape), *q;
        struct mp_error err = {0};
        size_t n, m;
        char *text = plan_text(p, &n), *again = plan_text(p, &m);
        assert_int_equal(n, m);
        assert_memory_equal(text, again, n);
        free(again);
        for (size_t i = 0; i < n; i++)
            assert_true(text[i] == '\n' || (text[i] >= ' ' && text[i] <= '~'));
        CHECK_OK(parse(&q, text, n, &err), err);
        again = plan_text(q, &m);
        assert_int_equal(n, m);
        assert_memory_equal(text, again, n);
        assert_string_equal(p->provenance.model, q->provenance.model);
        for (uint32_t l = 0; l < p->n_layers; l++) {
            assert_memory_equal(p->layers[l].slot_expert, q->layers[l].slot_expert, p->n_slots * sizeof(uint16_t));
            assert_int_equal(p->layers[l].order, q->layers[l].order);
        }
        for (uint32_t o = 0; o < p->n_orders; o++)
            for (uint32_t s = 0; s < p->orders[o].n_stages; s++) {
                assert_int_equal(p->orders[o].stages[s].n, q->orders[o].stages[s].n);
                for (uint32_t i = 0; i < p->orders[o].stages[s].n; i++) {
                    const struct mp_transfer *a = &p->orders[o].stages[s].transfers[i],
                                             *b = &q->orders[o].stages[s].transfers[i];
                    assert_true(a->src == b->src && a->dst == b->dst && a->share == b->share && a->width == b->width);
                }
            }
        free(text);
        free(again);
        mp_plan_free(p);
        mp_plan_free(q);
    }
}

/* Every kind of order, written, read and written again; what is read is what was written, flushes included. */
static void test_plan_text__orders_of_every_kind(void **state) {
    (void)state;
    static const enum random_order_kind kinds[] = {RANDOM_PLAIN, RANDOM_WIDTHS, RANDOM_FLUSH,
                                                   RANDOM_WIDTHS | RANDOM_FLUSH, RANDOM_NODES};
    struct mp_rng rng = mp_rng_seed(3);
    uint32_t n_flushes = 0, n_wide = 0, n_between = 0;
    for (int round = 0; round < 400; round++) {
        struct random_plan_shape shape = random_shape(&rng);
        struct mp_plan *p = random_plan(&rng, &shape), *q;
        struct mp_error err = {0};
        struct mp_order *orders = mp_arena_alloc(p->arena, 5, sizeof *orders);
        assert_non_null(orders);
        for (int i = 0; i < 5; i++)
            random_any_order(&rng, p, &orders[i], kinds[i]);
        p->orders = orders;
        p->n_orders = 5;
        CHECK_OK(mp_plan_check(p, &err), err);
        size_t n, m;
        char *text = plan_text(p, &n);
        CHECK_OK(parse(&q, text, n, &err), err);
        char *again = plan_text(q, &m);
        assert_int_equal(n, m);
        assert_memory_equal(text, again, n);
        for (int i = 0; i < 5; i++) {
            const struct mp_order *a = &p->orders[i], *b = &q->orders[i];
            assert_true(a->has_flush == b->has_flush && a->between_nodes == b->between_nodes && a->ports == b->ports);
            assert_true(a->n_stages == b->n_stages && a->port_bytes_per_s == b->port_bytes_per_s);
            n_flushes += a->has_flush;
            n_between += a->between_nodes && a->n_stages > 0;
            for (uint32_t s = 0; s < a->n_stages; s++) {
                assert_int_equal(a->stages[s].n, b->stages[s].n);
                for (uint32_t k = 0; k < a->stages[s].n; k++) {
                    const struct mp_transfer *x = &a->stages[s].transfers[k], *y = &b->stages[s].transfers[k];
                    assert_true(x->src == y->src && x->dst == y->dst && x->share == y->share && x->width == y->width);
                    n_wide += x->width > 1;
                }
            }
        }
        free(text);
        free(again);
        mp_plan_free(p);
        mp_plan_free(q);
    }
    assert_true(n_flushes > 500 && n_wide > 5000 && n_between > 50);
}

/* A short text must not stand for memory without end: flushes count as the transfers they stand for. */
static void test_plan_text__flushes_count_as_transfers(void **state) {
    (void)state;
    struct mp_error err = {0};
    uint32_t slots[2048], n_orders = 9; /* 2048 * 2047 transfers each: 8 fit into 2^25 */
    for (uint32_t g = 0; g < 2048; g++)
        slots[g] = 1;
    struct mp_plan *p, *q;
    CHECK_OK(mp_plan_new(&p, 1, 1, 2048, slots, &err), err);
    const struct mp_stage flush = {0, NULL};
    struct mp_order *orders = mp_arena_alloc(p->arena, n_orders, sizeof *orders);
    assert_non_null(orders);
    for (uint32_t i = 0; i < n_orders; i++)
        orders[i] =
            (struct mp_order){.name = "all", .has_flush = true, .unit = 1, .ports = 1, .n_stages = 1, .stages = &flush};
    p->orders = orders;
    p->n_orders = n_orders;
    size_t n;
    char *text = plan_text(p, &n);
    assert_int_equal(parse(&q, text, n, &err), MP_ELIMIT);
    assert_non_null(strstr(err.message, "transfers in all"));
    assert_true(err.line > 0);
    free(text);
    mp_plan_free(p);
}

static char *small_text(size_t *n) {
    struct mp_rng rng = mp_rng_seed(7);
    struct random_plan_shape shape = {2, 5, 4, 2, 2, true, true};
    struct mp_plan *p = random_plan(&rng, &shape);
    char *text = plan_text(p, n);
    mp_plan_free(p);
    return text;
}

static void test_plan_text__every_truncation_and_bit_flip_is_refused(void **state) {
    (void)state;
    size_t n;
    char *text = small_text(&n);
    struct mp_plan *p;
    for (size_t cut = 0; cut < n; cut++) {
        struct mp_error err = {0};
        char *part = malloc(cut + 1); /* its own block, so that a sanitizer sees every byte read past it */
        memcpy(part, text, cut);
        assert_int_equal(parse(&p, part, cut, &err), MP_EINPUT);
        assert_null(p);
        assert_true(err.line > 0 && err.column > 0);
        free(part);
    }
    for (size_t at = 0; at < n; at++)
        for (int bit = 0; bit < 8; bit++) {
            struct mp_error err = {0};
            text[at] = (char)(text[at] ^ (1 << bit));
            assert_int_equal(parse(&p, text, n, &err), MP_EINPUT);
            assert_null(p);
            text[at] = (char)(text[at] ^ (1 << bit));
        }
    free(text);
}

/* With the checksum put right again, a flipped bit must be refused or give a plan that writes these very bytes. */
static void test_plan_text__restamped_flips_never_crash_and_stay_canonical(void **state) {
    (void)state;
    size_t n, m;
    char *text = small_text(&n);
    uint32_t n_read = 0;
    for (size_t at = 0; at + 77 < n; at++)
        for (int bit = 0; bit < 8; bit += 3) {
            struct mp_error err = {0};
            struct mp_plan *p;
            text[at] = (char)(text[at] ^ (1 << bit));
            restamp(text, n);
            if (parse(&p, text, n, &err) == MP_OK) {
                char *again = plan_text(p, &m);
                assert_int_equal(n, m);
                assert_memory_equal(text, again, n);
                free(again);
                mp_plan_free(p);
                n_read++;
            } else {
                assert_int_equal(err.status, MP_EINPUT);
                assert_true(err.line > 0);
            }
            text[at] = (char)(text[at] ^ (1 << bit));
        }
    assert_true(n_read > 100); /* digits of numbers may change */
    free(text);
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

static void test_plan_text__survives_faults(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(9);
    struct random_plan_shape shape = {2, 5, 4, 2, 2, true, true};
    struct mp_plan *p = random_plan(&rng, &shape);
    char path[512];
    snprintf(path, sizeof path, "%s", temp_path("plan.yaml"));
    struct write_flow f = {p, path};
    sweep_faults(write_flow, &f, 1);
    sweep_faults(read_flow, path, 1);
    mp_plan_free(p);
}

static void test_plan_text__stage_code(void **state) {
    (void)state;
    const struct mp_transfer rotation[] = {{0, 2, 4, 1}, {1, 0, 4, 1}, {2, 1, 4, 1}},
                             wide[] = {{0, 2, 4, 2}, {1, 0, 4, 2}, {2, 1, 4, 2}},
                             part[] = {{0, 1, 4, 1}, {1, 2, 3, 12}, {2, 0, 1, 1}},
                             rest[] = {{1, 2, 1, 1}, {2, 0, 3, 1}};
    const struct mp_stage stages[] = {{3, rotation}, {3, wide}, {3, part}, {0, NULL}, {2, rest}};
    struct mp_order order = {.unit = 4, .ports = 16, .n_stages = 5, .stages = stages};
    static const char *const expected[] = {"+2", "0>2x2 1>0x2 2>1x2", "0>1 1>2*3x12 2>0*1", "", "1>2*1 2>0*3", "*"};
    for (uint32_t s = 0; s < 6; s++) {
        struct mp_error err = {0};
        struct mp_out *o;
        size_t n;
        order.has_flush = s == 5; /* the last stage again, as a flush */
        CHECK_OK(mp_out_open_memory(&o, &err), err);
        mp_stage_write(&order, s < 5 ? s : 4, 3, o);
        const uint8_t *text = mp_out_memory_bytes(o, &n);
        assert_int_equal(n, strlen(expected[s]));
        if (n > 0)
            assert_memory_equal(text, expected[s], n);
        CHECK_OK(mp_out_commit(o, &err), err);
    }
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plan_text__round_trip_keeps_every_byte),
        cmocka_unit_test(test_plan_text__orders_of_every_kind),
        cmocka_unit_test(test_plan_text__flushes_count_as_transfers),
        cmocka_unit_test(test_plan_text__every_truncation_and_bit_flip_is_refused),
        cmocka_unit_test(test_plan_text__restamped_flips_never_crash_and_stay_canonical),
        cmocka_unit_test(test_plan_text__survives_faults),
        cmocka_unit_test(test_plan_text__stage_code),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
