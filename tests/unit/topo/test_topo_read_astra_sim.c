/* ASTRA-sim's analytical network in and out. */
#include "import.h"
#include <moeplan/base.h>

static void test_topo_read_astra_sim__kinds(void **state) {
    (void)state;
    struct mp_topology *t = import_text("",
                                        "topology: [ FullyConnected, Ring, Switch ]\nnpus_count: [ 4, 5, 2 ]\n"
                                        "bandwidth: [ 1, 2.5, 4 ]\nlatency: [ 100, 200, 300 ]\n",
                                        ":h100");
    const uint64_t gb = UINT64_C(1) << 30;
    assert_int_equal(t->n_gpus, 40);
    assert_int_equal(t->levels[0].n_groups, 10);
    assert_int_equal(t->levels[1].n_groups, 2);
    assert_int_equal(port_out(t, 0, 0), 3 * gb);
    assert_int_equal(t->levels[0].pair_bytes_per_s, gb);
    assert_int_equal(t->levels[0].latency_ns, 100);
    /* Ring of 5: 4 transfers of a GPU pass 6 links; 2 * 4 / 6 of a link's rate, 1.5 links each. */
    assert_int_equal(port_out(t, 0, 1), 5 * gb / 2 * 8 / 6);
    assert_int_equal(t->levels[1].pair_bytes_per_s, 5 * gb / 2);
    assert_int_equal(t->levels[1].latency_ns, 300);
    assert_int_equal(port_out(t, 0, 2), 4 * gb);
    assert_int_equal(t->levels[2].pair_bytes_per_s, 0);
    assert_int_equal(t->levels[2].latency_ns, 600);
    mp_topology_free(t);
}

/* What an all-to-all gets through a ring, by counting links instead of the formula. */
static void test_topo_read_astra_sim__ring_by_counting_links(void **state) {
    (void)state;
    for (uint32_t n = 3; n < 24; n++) {
        double load[24] = {0}; /* of each link clockwise; ways of n/2 go half each way around */
        for (uint32_t from = 0; from < n; from++)
            for (uint32_t hops = 1; hops <= n / 2; hops++)
                for (uint32_t h = 0; h < hops; h++)
                    load[(from + h) % n] += 2 * hops == n ? 0.5 : 1;
        char text[300];
        snprintf(text, sizeof text, "topology: [Ring]\nnpus_count: [%u]\nbandwidth: [1]\nlatency: [0]\n", n);
        struct mp_topology *t = import_text("", text, ":h100");
        const double rate = (n - 1) / load[0] * 1073741824.0;
        assert_true(rate - (double)port_out(t, 0, 0) >= -1 && rate - (double)port_out(t, 0, 0) <= 1);
        mp_topology_free(t);
    }
}

static void test_topo_read_astra_sim__written_and_read_again(void **state) {
    (void)state;
    static const char *const kinds[] = {"Switch", "FullyConnected", "Ring"};
    struct mp_rng r = mp_rng_seed(3);
    for (uint32_t i = 0; i < 200; i++) {
        char lists[4][100] = {"", "", "", ""}, text[600], first[2000];
        const uint64_t n_dims = 1 + mp_rng_below(&r, 4);
        for (uint64_t k = 0; k < n_dims; k++) {
            const char *comma = k > 0 ? ", " : "";
            const unsigned long long kind = mp_rng_below(&r, 3), n = 1 + mp_rng_below(&r, 8);
            const unsigned long long rate = 1 + mp_rng_below(&r, 9000000), time = mp_rng_below(&r, 100000);
            snprintf(lists[0] + strlen(lists[0]), 100 - strlen(lists[0]), "%s%s", comma, kinds[kind]);
            snprintf(lists[1] + strlen(lists[1]), 100 - strlen(lists[1]), "%s%llu", comma, n);
            snprintf(lists[2] + strlen(lists[2]), 100 - strlen(lists[2]), "%s%.4f", comma, (double)rate / 1e4);
            snprintf(lists[3] + strlen(lists[3]), 100 - strlen(lists[3]), "%s%.2f", comma, (double)time / 100);
        }
        snprintf(text, sizeof text, "topology: [ %s ]\nnpus_count: [ %s ]\nbandwidth: [ %s ]\nlatency: [ %s ]\n",
                 lists[0], lists[1], lists[2], lists[3]);
        struct mp_topology *a = import_text("", text, ":h100");
        snprintf(first, sizeof first, "%s", written(a, "astra-sim", NULL));
        struct mp_topology *b = import_text("", first, ":h100");
        assert_string_equal(written(b, "astra-sim", NULL), first);
        assert_int_equal(a->n_gpus, b->n_gpus);
        assert_int_equal(a->n_resources, b->n_resources);
        for (uint32_t k = 0; k < a->n_resources; k++)
            assert_int_equal(a->resources[k].bytes_per_s, b->resources[k].bytes_per_s);
        for (uint32_t l = 0; l < a->n_levels; l++) {
            assert_int_equal(a->levels[l].latency_ns, b->levels[l].latency_ns);
            assert_int_equal(a->levels[l].n_groups, b->levels[l].n_groups);
        }
        mp_topology_free(a);
        mp_topology_free(b);
    }
}

static void test_topo_read_astra_sim__presets_are_written_or_refused(void **state) {
    (void)state;
    static const struct {
        const char *spec, *refused;
    } cases[] = {{"h100-n1g8", NULL},
                 {"mi300x-n1g8", NULL},
                 {"nvl72", NULL},
                 {"4x8:h100", NULL},
                 {"h100-n1g8-uneven", NULL},
                 {"shared-nic", "share a port of level"},
                 {"h100-n4g8-oversubscribed", "have uplinks"},
                 {"rack-two-tier", "have uplinks"},
                 {"2x4:a100+1x8:h100", "different sizes"},
                 {"mixed-a100-l40s", "another rate"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct mp_error err = {0};
        struct mp_topology *t = NULL;
        CHECK_OK(mp_topology_load(&t, cases[i].spec, NULL, &err), err);
        (void)written(t, "astra-sim", cases[i].refused);
        mp_topology_free(t);
    }
}

static void test_topo_read_astra_sim__refuses(void **state) {
    (void)state;
#define DIMS(t, n, b, l) "topology: " t "\nnpus_count: " n "\nbandwidth: " b "\nlatency: " l "\n"
    import_refused("", DIMS("[Ring]", "[4]", "[tbd]", "[1]"), ":h100", 3, 13, "\"tbd\" is not a number of GB/s");
    import_refused("", DIMS("[Torus]", "[4]", "[1]", "[1]"), ":h100", 1, 12, "\"Torus\" is not a kind of dimension");
    import_refused("", DIMS("[Ring, Ring]", "[4]", "[1]", "[1]"), ":h100", 2, 13, "1 entries for 2 dimensions");
    import_refused("", DIMS("[Ring]", "[0]", "[1]", "[1]"), ":h100", 2, 14, "npus_count");
    import_refused("", DIMS("[Ring, Ring]", "[4096, 2]", "[1, 1]", "[1, 1]"), ":h100", 2, 13, "more than 4096 GPUs");
    import_refused("", DIMS("[Ring]", "[4]", "[0]", "[1]"), ":h100", 3, 13, "\"0\" is not a number of GB/s");
    import_refused("", DIMS("[Ring]", "[4]", "[1]", "[-1]"), ":h100", 4, 11, "\"-1\" is not a number of ns");
    import_refused("", DIMS("Ring", "[4]", "[1]", "[1]"), ":h100", 1, 11, "topology");
    import_refused("", DIMS("[Ring]", "[4]", "[1]", "[1]") "links: 3\n", ":h100", 5, 8, "links: no such key here");
    import_refused("", "topology: [Ring]\nnpus_count: [4]\nbandwidth: [1]\n", ":h100", 1, 1, "latency");
    import_refused("2x", DIMS("[Ring, Ring, Ring, Ring]", "[2, 2, 2, 2]", "[1, 1, 1, 1]", "[1, 1, 1, 1]"), ":h100", 2,
                   13, "no level left");
    import_refused("1025x", DIMS("[Ring]", "[4]", "[1]", "[1]"), ":h100", 2, 0, "1025 hosts of 4 GPUs");
}

/* Found by fuzz_topology_matrix: the largest rates and latencies of a topology were written and not read again. */
static void test_topo_read_astra_sim__reads_the_largest_figures_it_writes(void **state) {
    (void)state;
    struct mp_topology *t = import_text("", "# TB/s\n0,1000\n1000,0\n# latency s\n0,1\n1,0\n", ":h100");
    char text[2000];
    snprintf(text, sizeof text, "%s", written(t, "astra-sim", NULL));
    struct mp_topology *back = import_text("", text, ":h100");
    assert_int_equal(port_out(back, 0, 0), port_out(t, 0, 0));
    assert_int_equal(back->levels[0].latency_ns, 1000000000);
    mp_topology_free(back);
    mp_topology_free(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_topo_read_astra_sim__reads_the_largest_figures_it_writes),
        cmocka_unit_test(test_topo_read_astra_sim__kinds),
        cmocka_unit_test(test_topo_read_astra_sim__ring_by_counting_links),
        cmocka_unit_test(test_topo_read_astra_sim__written_and_read_again),
        cmocka_unit_test(test_topo_read_astra_sim__presets_are_written_or_refused),
        cmocka_unit_test(test_topo_read_astra_sim__refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
