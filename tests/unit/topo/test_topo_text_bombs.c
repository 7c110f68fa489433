/* Files made to take long or much: refused in a second, within 64 MB. */
#include "import.h"
#include <time.h>

enum { LARGE = 15 << 20, MAX_MIB = 64 };

/* `head`, then `unit` repeated up to n bytes, then `tail`. */
static void check_bomb(const char *head, const char *unit, size_t n, const char *tail, const char *after) {
    char *text = malloc(n + 200);
    assert_non_null(text);
    size_t used = strlen(head);
    memcpy(text, head, used);
    for (const size_t k = strlen(unit); used + k <= n; used += k)
        memcpy(text + used, unit, k);
    memcpy(text + used, tail, strlen(tail));
    used += strlen(tail);
    struct mp_error err = {0};
    struct mp_topology *t = NULL;
    const char *spec = import_spec("", text, used, after);
    free(text);
    const uint64_t live = mp_alloc_live();
    const clock_t start = clock();
    const enum mp_status status = mp_topology_load(&t, spec, NULL, &err);
    const double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
    if (status != MP_EINPUT && status != MP_ELIMIT)
        fail_msg("\"%.40s%.20s\" gives %d: %s", head, unit, status, err.message);
    assert_null(t);
    assert_int_equal(mp_alloc_live(), live);
    if (mp_alloc_peak() > UINT64_C(1024) * 1024 * MAX_MIB)
        fail_msg("\"%.40s%.20s\" took %llu bytes", head, unit, (unsigned long long)mp_alloc_peak());
#ifdef __SANITIZE_ADDRESS__
    (void)seconds;
#else
    if (seconds > 1.0)
        fail_msg("\"%.40s%.20s\" took %.1f s", head, unit, seconds);
#endif
}

static void test_topo_text_bombs__columns_and_lines(void **state) {
    (void)state;
    check_bomb("GPU0 ", "GPU1 ", LARGE, "\n", ":h100");
    check_bomb("GPU0 GPU1\nGPU0 ", "X ", LARGE, "\n", ":h100");
    check_bomb("GPU0 GPU1\n", "GPU0\n", LARGE, "", ":h100");
    check_bomb("GPU0 GPU1\n", "\x1b[4m", LARGE, "\n", ":h100");
    check_bomb("GPU0 GPU1\n# moeplan: ", "NV ", LARGE, "\n", ":h100");
    check_bomb("# bandwidth GB/s\n", "1,", LARGE, "\n", ":h100");
    check_bomb("# bandwidth GB/s\n1,2", "\n1,2", LARGE, "\n", ":h100");
    check_bomb("# bandwidth GB/s\n", "# latency us\n", LARGE, "\n", ":h100");
    check_bomb("# bandwidth GB/s\n0 ", " ", LARGE, "1\n1 0\n", ":h100");
}

static void test_topo_text_bombs__json(void **state) {
    (void)state;
    check_bomb("{\"rank_cost_matrix\": ", "[", LARGE, "", ":h100");
    check_bomb("{\"rank_cost_matrix\": ", "[", 1000000, "", ":h100");
    check_bomb("{\"rank_cost_matrix\": [[", "0,", LARGE, "0]]}", ":h100");
    check_bomb("{\"rank_cost_matrix\": [", "[],", 2 << 20, "[]]}", ":h100");
    check_bomb("{\"rank_cost_matrix\": [[0]], \"x\": \"", "a", LARGE, "\n", ":h100");
    check_bomb("{\"gpus_per_node\": 4, \"betas\": ", "{\"a\":", LARGE, "", ":h100");
    check_bomb("{\"gpus_per_node\": 4, \"alpha\": 1, \"links\": [], \"betas\": [", "0,", LARGE, "0]}", ":h100");
}

static void test_topo_text_bombs__yaml_and_slurm(void **state) {
    (void)state;
    check_bomb("npus_count: [1]\ntopology: ", "[", LARGE, "", ":h100");
    check_bomb("npus_count: [1]\ntopology: [", "Ring, ", LARGE, "Ring]\n", ":h100");
    check_bomb("- topology: t\n  tree: ", "{switches: ", LARGE, "", ":8:h100");
    check_bomb("- topology: t\n  tree:\n    switches:\n", "      - {switch: s, nodes: n}\n", LARGE, "", ":8:h100");
    check_bomb("SwitchName=s0 Nodes=", "n[0-999999999]", LARGE, "\n", ":8:h100");
    check_bomb("SwitchName=s0 Nodes=n[", "0-999999999,", LARGE, "1]\n", ":8:h100");
    check_bomb("SwitchName=s0 Nodes=", "n,", LARGE, "n\n", ":8:h100");
    check_bomb("", "SwitchName=s Switches=s[0-4095]\n", LARGE, "", ":8:h100");
    check_bomb("SwitchName=s Nodes=n ", "\\\n ", LARGE, "x", ":8:h100");
    check_bomb("SwitchName=a Switches=", "a[1-4000],", LARGE, "b\n", ":8:h100");
}

static enum mp_status load_and_write(void *ctx, struct mp_error *err) {
    struct mp_topology *t = NULL;
    struct mp_out *o = NULL;
    char lost[500];
    enum mp_status status = mp_topology_load(&t, ctx, NULL, err);
    if (status == MP_OK)
        status = mp_out_open_memory(&o, err);
    if (status == MP_OK)
        status = mp_topology_write_as(t, "rank-cost-matrix", o, lost, sizeof lost, err);
    mp_out_cancel(o);
    mp_topology_free(t);
    return status;
}

/* Every reader, and every allocation and read of it that may fail. */
static void test_topo_text_bombs__samples_survive_faults(void **state) {
    (void)state;
    static const char *const specs[][3] = {
        {"2x", "nvidia-smi-a100-n1g8.txt", ":a100"}, {"", "bandwidth-h100-n2g4.csv", ":h100"},
        {"", "rank-cost-n2g4.json", ":h100"},        {"", "astra-sim-n4g8.yml", ":h100"},
        {"2x", "taccl-v100-n1g4.json", ":v100"},     {"", "slurm-tree.conf", ":8:h100"},
        {"", "slurm-blocks.yaml", ":4:b200"}};
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        char file[100], spec[1200];
        snprintf(file, sizeof file, "topologies/other/%s", specs[i][1]);
        snprintf(spec, sizeof spec, "%s%s%s", specs[i][0], source_path(file), specs[i][2]);
        sweep_faults(load_and_write, spec, 5);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_topo_text_bombs__columns_and_lines),
        cmocka_unit_test(test_topo_text_bombs__json),
        cmocka_unit_test(test_topo_text_bombs__yaml_and_slurm),
        cmocka_unit_test(test_topo_text_bombs__samples_survive_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
