/* Measured matrices: levels found under noise, slow ports kept, units demanded. */
#include "import.h"
#include <math.h>
#include <moeplan/base.h>

static void test_topo_read_matrix__slow_port_is_not_a_level(void **state) {
    (void)state;
    struct mp_topology *t =
        import_text("",
                    "# bandwidth GB/s\n0,370,372,50,49,51\n371,0,369,48,50,50\n372,370,0,50,50.5,49\n"
                    "50,49,51,0,370,190\n50,49,51,375,0,191\n50,49,51,191,189,0\n"
                    "# latency us\n0,1,1,5,5,5\n1,0,1,5,5,5\n1,1,0,5,5,5\n5,5,5,0,1,1\n5,5,5,1,0,1\n"
                    "5,5,5,1,1,0\n",
                    ":h100");
    assert_int_equal(t->n_levels, 2);
    assert_int_equal(mp_topology_n_nodes(t), 2);
    assert_int_equal(t->levels[0].latency_ns, 1000);
    assert_int_equal(t->levels[1].latency_ns, 5000);
    assert_int_equal(port_out(t, 0, 0), port_in(t, 4, 0));
    assert_int_equal(port_out(t, 5, 0), 190250000000);
    assert_non_null(
        strstr(t->source, "Largest deviation of a pair from what was measured: 3.9 % (GPU 1 to 3, 48 GB/s"));
    mp_topology_free(t);
}

/* Made from a tree with drawn groups, ports and noise: the groups come back, every port within the noise, and the
 * deviation that is said is the largest there is. */
static void test_topo_read_matrix__finds_the_tree_under_noise(void **state) {
    (void)state;
    struct mp_rng r = mp_rng_seed(5);
    static char text[100000];
    for (uint32_t round = 0; round < 200; round++) {
        const uint32_t per_node = 3 + (uint32_t)mp_rng_below(&r, 6), n_nodes = 2 + (uint32_t)mp_rng_below(&r, 4);
        const uint32_t n = per_node * n_nodes;
        const double noise = 0.03 * mp_rng_unit(&r);
        double port[2][2][64];
        for (uint32_t g = 0; g < n; g++)
            for (uint32_t side = 0; side < 2; side++) {
                const bool is_slow = mp_rng_below(&r, 12) == 0;
                port[0][side][g] = is_slow ? 200 : 380;
                port[1][side][g] = mp_rng_below(&r, 12) == 0 ? 25 : 50;
            }
        size_t used = (size_t)sprintf(text, "# measured on the cluster\n# bandwidth GB/s\n");
        for (uint32_t i = 0; i < n; i++)
            for (uint32_t k = 0; k < n; k++) {
                const uint32_t l = i / per_node == k / per_node ? 0 : 1;
                const double a = port[l][0][i], b = port[l][1][k];
                const double v = (a < b ? a : b) * (1 + noise * (2 * mp_rng_unit(&r) - 1));
                used += (size_t)sprintf(text + used, "%.4f%s", i == k ? 0 : v, k + 1 < n ? "\t" : "\n");
            }
        struct mp_topology *t = import_text("", text, ":h100");
        assert_int_equal(t->n_levels, 2);
        assert_int_equal(mp_topology_n_nodes(t), n_nodes);
        for (uint32_t i = 0; i < n; i++) {
            assert_int_equal(mp_topology_node(t, i), i / per_node);
            for (uint32_t k = 0; k < n; k++) {
                const uint32_t l = i / per_node == k / per_node ? 0 : 1;
                const double a = port[l][0][i], b = port[l][1][k], want = (a < b ? a : b) * 1e9;
                const uint64_t o = port_out(t, i, l), in = port_in(t, k, l);
                if (i != k)
                    assert_true(fabs((double)(o < in ? o : in) - want) <= want * (noise + 0.001));
            }
        }
        mp_topology_free(t);
    }
}

/* As p2pBandwidthLatencyTest of the CUDA samples prints: numbered rows, several tables. */
static void test_topo_read_matrix__cuda_sample(void **state) {
    (void)state;
    struct mp_topology *t = import_text("",
                                        "[P2P (Peer-to-Peer) GPU Bandwidth Latency Test]\nDevice: 0, some card\n"
                                        "P2P Connectivity Matrix\n     D\\D     0     1\n     0\t     1     1\n"
                                        "     1\t     1     1\n"
                                        "Unidirectional P2P=Disabled Bandwidth Matrix (GB/s)\n   D\\D     0      1 \n"
                                        "     0 911.08  20.10 \n     1  20.39 920.20 \n"
                                        "Unidirectional P2P=Enabled Bandwidth (P2P Writes) Matrix (GB/s)\n"
                                        "   D\\D     0      1 \n     0 912.68   9.90 \n     1   9.90 922.37 \n"
                                        "Bidirectional P2P=Enabled Bandwidth Matrix (GB/s)\n   D\\D     0      1 \n"
                                        "     0 918.31  19.80 \n     1  19.70 920.00 \n"
                                        "P2P=Disabled Latency Matrix (us)\n   GPU     0      1 \n     0   1.60  10.60\n"
                                        "     1  10.50   1.60\n\n   CPU     0      1 \n     0   2.60   6.60\n"
                                        "     1   6.50   2.60\n"
                                        "P2P=Enabled Latency (P2P Writes) Matrix (us)\n   GPU     0      1 \n"
                                        "     0   1.60   1.30 \n     1   1.50   1.60 \n\n   CPU     0      1 \n"
                                        "     0   2.60   1.60 \n     1   1.50   2.60 \n",
                                        ":l40s");
    assert_int_equal(t->n_gpus, 2);
    assert_int_equal(port_out(t, 0, 0), 9900000000);
    assert_int_equal(t->levels[0].latency_ns, 1400);
    mp_topology_free(t);
}

static size_t npy(char *out, const char *descr, const char *shape, const double *v, size_t n) {
    char header[128];
    const int length =
        snprintf(header, sizeof header, "{'descr': '%s', 'fortran_order': False, 'shape': %s, }", descr, shape);
    memset(out, ' ', 128);
    memcpy(out, "\x93NUMPY\x01\x00\x76\x00", 10);
    memcpy(out + 10, header, (size_t)length);
    out[127] = '\n';
    memcpy(out + 128, v, n * sizeof *v);
    return 128 + n * sizeof *v;
}

static void test_topo_read_matrix__npy_with_the_unit_in_its_name(void **state) {
    (void)state;
    static char bytes[1000];
    const double both[32] = {0, 400, 40, 40, 400, 0, 40, 40, 40, 40, 0, 400, 40, 40, 400, 0,
                             0, 2,   3,  3,  2,   0, 3,  3,  3,  3,  0, 2,   3,  3,  2,   0};
    const size_t n = npy(bytes, "<f8", "(2, 4, 4)", both, 32);
    const char *path = temp_path("links.Gbps.npy");
    FILE *f = fopen(path, "wb");
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
    char spec[600];
    snprintf(spec, sizeof spec, "%s:h100", path);
    struct mp_error err = {0};
    struct mp_topology *t = NULL;
    CHECK_OK(mp_topology_load(&t, spec, NULL, &err), err);
    assert_int_equal(t->n_levels, 2);
    assert_int_equal(port_out(t, 0, 0), 50000000000);
    assert_int_equal(port_out(t, 0, 1), 5000000000);
    assert_int_equal(t->levels[1].latency_ns, 3000);
    mp_topology_free(t);
    t = NULL;
    assert_int_equal(mp_topology_load(&t, import_spec("", bytes, n, ":h100"), NULL, &err), MP_EINPUT);
    assert_non_null(strstr(err.message, "a .npy has no place for the unit"));
}

static void test_topo_read_matrix__refuses(void **state) {
    (void)state;
    import_refused("", "0,1\n1,0\n", ":h100", 1, 1, "no line above says the unit");
    import_refused("", "# GB/s\n0,1\n1,0,2\n", ":h100", 3, 1, "3 numbers in a row of a matrix of 2 columns");
    import_refused("", "# GB/s\n0,1,1\n1,0,1\n", ":h100", 4, 0, "2 rows of 3 numbers end here");
    import_refused("", "# GB/s\n0,1\n1,0\n1,0\n", ":h100", 4, 1, "one row more than the 2 columns");
    import_refused("", "# GB/s\n0,0\n1,0\n", ":h100", 2, 3, "\"0\" from GPU 0 to 1 is not a number above 0");
    import_refused("", "# GB/s\n0 -3\n1 0\n", ":h100", 2, 3, "\"-3\" from GPU 0 to 1");
    import_refused("", "# TB/s\n0 3000\n1 0\n", ":h100", 2, 3, "out of range in this unit");
    import_refused("", "# latency us\n0 3\n1 0\n", ":h100", 1, 0, "there is no matrix of bandwidth");
    import_refused("", "# GB/s\n0 9 1\n9 0 9\n1 9 0\n", ":h100", 0, 0, "more than 25 % off");
    import_refused("", "# GB/s\n0 1 9 1\n1 0 1 9\n9 1 0 1\n1 9 1 0\n", ":h100", 0, 0, "group by group: 0 2 1 3");
    import_refused("", "# GB/s\n0,1\n1,0\n", "", 0, 0, "which GPUs these are");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_topo_read_matrix__slow_port_is_not_a_level),
        cmocka_unit_test(test_topo_read_matrix__finds_the_tree_under_noise),
        cmocka_unit_test(test_topo_read_matrix__cuda_sample),
        cmocka_unit_test(test_topo_read_matrix__npy_with_the_unit_in_its_name),
        cmocka_unit_test(test_topo_read_matrix__refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
