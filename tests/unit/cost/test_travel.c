/* Experts that travel, counted again row by row. */
#include "world.h"
#include <moeplan/train.h>

enum { SLOTS = 512 };
struct hand {
    uint64_t pairs[CASE_GPUS][SLOTS]; /* (token, expert) by where the token is */
    uint64_t source[CASE_GPUS], weights[CASE_GPUS * CASE_GPUS], dispatch[CASE_GPUS * CASE_GPUS],
        combine[CASE_GPUS * CASE_GPUS];
};
static struct hand hand;

static void count_by_hand(const struct world *w, uint32_t step, uint32_t layer) {
    const struct mp_step *st = &w->workload->steps[step];
    memset(&hand, 0, sizeof hand);
    for (uint32_t i = 0; i < st->n; i++) {
        uint16_t ids[MP_MAX_TOP_K];
        uint32_t slots[MP_MAX_TOP_K];
        const uint32_t k = mp_trace_row(w->trace, layer, st->row[i], ids);
        mp_router_row(w->router, layer, ids, k, st->source[i], mp_token_hash(st->row[i]), slots);
        hand.source[st->source[i]]++;
        for (uint32_t j = 0; j < k; j++)
            hand.pairs[st->source[i]][slots[j]]++;
    }
}

/* Whose expert did travel? Told by the weights that came: with janus all that are used. */
static void send_by_hand(const struct world *w, const bool *is_copied, bool everywhere) {
    const uint32_t n = w->net.t.n_gpus;
    for (uint32_t s = 0; s < w->plan->n_slots; s++) {
        const uint32_t from = mp_plan_slot_gpu(w->plan, s);
        if (!is_copied[s]) {
            for (uint32_t g = 0; g < n; g++)
                if (g != from) {
                    hand.dispatch[g * n + from] += hand.pairs[g][s] * w->model.dispatch_bytes;
                    hand.combine[from * n + g] += hand.pairs[g][s] * w->model.combine_bytes;
                }
            continue;
        }
        uint32_t node_has[CASE_GPUS];
        for (uint32_t g = 0; g < n; g++)
            node_has[g] = MP_NONE;
        node_has[mp_topology_node(&w->net.t, from)] = from;
        for (uint32_t g = 0; g < n; g++) {
            const uint32_t v = mp_topology_node(&w->net.t, g);
            if (g == from || (!everywhere && hand.pairs[g][s] == 0))
                continue;
            hand.weights[(node_has[v] == MP_NONE ? from : node_has[v]) * n + g] += w->model.expert_bytes;
            node_has[v] = node_has[v] == MP_NONE ? g : node_has[v];
        }
    }
    for (uint32_t i = 0; i < n * n; i++)
        hand.dispatch[i] += hand.weights[i];
}

static void compare_with_hand(const struct world *w, const struct mp_traffic *t, const bool *is_copied) {
    const uint32_t n = w->net.t.n_gpus;
    uint64_t bytes = 0;
    assert_memory_equal(t->weights, hand.weights, (size_t)n * n * 8);
    assert_memory_equal(t->dispatch, hand.dispatch, (size_t)n * n * 8);
    assert_memory_equal(t->combine, hand.combine, (size_t)n * n * 8);
    for (uint32_t i = 0; i < n * n; i++)
        bytes += hand.dispatch[i] + hand.combine[i];
    assert_int_equal(t->intra_bytes + t->inter_bytes, bytes);
    for (uint32_t g = 0; g < n; g++) {
        uint64_t rows = 0;
        uint32_t active = 0;
        for (uint32_t s = 0; s < w->plan->n_slots; s++) {
            uint64_t here = is_copied[s] ? hand.pairs[g][s] : 0;
            for (uint32_t i = 0; i < n && !is_copied[s] && mp_plan_slot_gpu(w->plan, s) == g; i++)
                here += hand.pairs[i][s];
            rows += here;
            active += here > 0;
        }
        assert_int_equal(t->rows[g], rows);
        assert_int_equal(t->active[g], active);
        assert_true(t->padded_rows[g] >= rows);
    }
}

static void test_travel__agrees_with_row_by_row(void **state) {
    (void)state;
    static struct world w;
    uint32_t n_some = 0, n_none = 0;
    for (uint64_t seed = 0; seed < 120; seed++) {
        struct mp_rng r = mp_rng_seed(seed);
        struct mp_error err = {0};
        struct mp_traffic *t;
        world_make(&w, &r, (struct world_shape){0});
        if (seed % 2 == 1) /* so small that some of them pay */
            w.model.expert_bytes = 3 * w.model.dispatch_bytes;
        CHECK_OK(mp_traffic_new(&t, w.net.t.n_gpus, &err), err);
        assert_true(w.plan->n_slots <= SLOTS);
        for (uint32_t l = 0; l < w.plan->n_layers; l++) {
            bool is_copied[SLOTS];
            memset(is_copied, true, sizeof is_copied);
            w.setup.dispatcher = mp_travel_find("janus");
            CHECK_OK(mp_traffic_compute(t, &w.setup, 0, l, &err), err);
            count_by_hand(&w, 0, l);
            send_by_hand(&w, is_copied, false);
            compare_with_hand(&w, t, is_copied);
            assert_int_equal(t->copies_expert, 0);
            w.setup.dispatcher = mp_travel_find("fastermoe");
            CHECK_OK(mp_traffic_compute(t, &w.setup, 0, l, &err), err);
            /* Which it copied: the busiest ones, as many as the bytes say. */
            uint64_t sent = 0, each = 0;
            uint32_t n_copied = 0;
            bool none[SLOTS] = {false};
            count_by_hand(&w, 0, l);
            for (uint32_t i = 0; i < w.net.t.n_gpus * w.net.t.n_gpus; i++)
                sent += t->weights[i];
            each = (uint64_t)(w.net.t.n_gpus - 1) * w.model.expert_bytes;
            while (each > 0 && sent >= each) {
                uint32_t best = MP_NONE;
                uint64_t most = 0;
                for (uint32_t s = 0; s < w.plan->n_slots; s++) {
                    uint64_t remote = 0;
                    for (uint32_t g = 0; g < w.net.t.n_gpus; g++)
                        remote += g == mp_plan_slot_gpu(w.plan, s) ? 0 : hand.pairs[g][s];
                    if (!none[s] && (best == MP_NONE || remote > most)) {
                        best = s;
                        most = remote;
                    }
                }
                none[best] = true;
                n_copied++;
                sent -= each;
            }
            assert_int_equal(sent, 0);
            n_some += n_copied > 0;
            n_none += n_copied == 0;
            send_by_hand(&w, none, true);
            compare_with_hand(&w, t, none);
            w.setup.dispatcher = mp_dispatcher_find("a2av"); /* the same memory, without experts that travel */
            CHECK_OK(mp_traffic_compute(t, &w.setup, 0, l, &err), err);
            for (uint32_t i = 0; i < w.net.t.n_gpus * w.net.t.n_gpus; i++)
                assert_int_equal(t->weights[i], 0);
        }
        mp_traffic_free(t);
        world_free(&w);
    }
    assert_true(n_some > 20 && n_none > 20);
}

/* A training step fetches experts twice and sends their gradients home; no bound is given. */
static void test_travel__training_sends_gradients_home(void **state) {
    (void)state;
    static struct world w;
    struct mp_rng r = mp_rng_seed(4);
    struct mp_error err = {0};
    const struct mp_train_options options = mp_train_defaults();
    struct mp_train_work work;
    uint64_t ns;
    world_make(&w, &r, (struct world_shape){.max_nodes = 1, .max_per_node = 4, .no_replicas = true});
    w.model.weight_bits_x100 = 1600;
    w.setup.dispatcher = mp_travel_find("janus");
    CHECK_OK(mp_train_work_make(&work, &w.setup, 0, &options, &err), err);
    const struct mp_train_transfer *x = work.step.layers[0].a2a;
    assert_true(x[MP_TRAIN_DISPATCH].bytes > 0);
    assert_int_equal(x[MP_TRAIN_COMBINE].bytes, 0);
    assert_int_equal(x[MP_TRAIN_COMBINE_BACK].bytes, x[MP_TRAIN_DISPATCH].bytes);
    assert_true(x[MP_TRAIN_DISPATCH_BACK].bytes > 0);
    mp_train_work_free(&work);
    assert_int_equal(mp_step_lower_bound(&ns, &w.setup, 0, &err), MP_EUSAGE);
    err = (struct mp_error){0};
    struct mp_traffic *t;
    CHECK_OK(mp_traffic_new(&t, w.net.t.n_gpus, &err), err);
    w.setup.sources = MP_SOURCES_COUPLED;
    assert_int_equal(mp_traffic_compute(t, &w.setup, 0, 0, &err), MP_EUSAGE);
    mp_traffic_free(t);
    world_free(&w);
}

static void test_travel__is_found_by_name(void **state) {
    (void)state;
    for (uint32_t i = 0; mp_travel_at(i) != NULL; i++) {
        assert_ptr_equal(mp_travel_find(mp_travel_at(i)->name), mp_travel_at(i));
        assert_null(mp_dispatcher_find(mp_travel_at(i)->name)); /* no plan is made for one */
    }
    assert_null(mp_travel_find("walk"));
}

static enum mp_status once(void *ctx, struct mp_error *err) {
    struct world *w = ctx;
    struct mp_traffic *t;
    enum mp_status status = mp_traffic_new(&t, w->net.t.n_gpus, err);
    if (status == MP_OK)
        status = mp_traffic_compute(t, &w->setup, 0, 0, err);
    mp_traffic_free(t);
    return status;
}
static void test_travel__every_fault_is_reported(void **state) {
    (void)state;
    static struct world w;
    struct mp_rng r = mp_rng_seed(5);
    world_make(&w, &r, (struct world_shape){0});
    w.setup.dispatcher = mp_travel_find("fastermoe");
    sweep_faults(once, &w, 1);
    world_free(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_travel__agrees_with_row_by_row),
        cmocka_unit_test(test_travel__training_sends_gradients_home),
        cmocka_unit_test(test_travel__is_found_by_name),
        cmocka_unit_test(test_travel__every_fault_is_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
