/* Every file of the shared data's topologies that is text, JSON or YAML: it goes through, or is refused with the true
 * reason. */
#include "support.h"
#include <moeplan/topology.h>

struct verdict {
    const char *before, *file, *after; /* "4x", the file, ":h100" */
    const char *refused;               /* NULL = it goes through */
    uint32_t n_gpus, n_nodes, n_levels;
    uint64_t port0, port1; /* bytes/s of GPU 0 at levels 0 and 1 */
};

#define SMI "topologies/nvidia-smi-topo-m/"
#define TACCL "topologies/taccl/"
#define ASTRA "topologies/astra-sim/"

static const struct verdict verdicts[] = {
    {"", SMI "hgx-h100_nccl-issue-1264.txt", ":h100", NULL, 8, 1, 1, 380000000000, 0},
    {"4x", SMI "hgx-h100_nccl-issue-1264.txt", ":h100", NULL, 32, 4, 2, 380000000000, 48850000000},
    {"", SMI "hgx-h100_nccl-issue-1264.txt", "", "the file does not say which GPUs these are", 0, 0, 0, 0, 0},
    {"", SMI "a800-nv8_nccl-issue-933.txt", ":a100", NULL, 8, 1, 1, 200000000000, 0},
    {"2x", SMI "a800-nv8_nccl-issue-933.txt", ":a100", "what links GPU7 and NIC0 is cut off: neither has a row", 0, 0,
     0, 0, 0},
    {"", "formats/topo_sglang_eplb_topology.json", ":h100", NULL, 8, 2, 2, 380000000000, 47500000000},
    {"", TACCL "topo-dgx2-1MB.json", ":v100", NULL, 16, 1, 1, 131072000000, 0},
    {"2x", TACCL "topo-dgx2-1MB.json", ":v100", NULL, 32, 2, 2, 131072000000, 9986438095},
    {"", TACCL "topo-dgx2-1KB.json", ":v100", "name: \"DGX2_1KB\" is for chunks of 1KB", 0, 0, 0, 0, 0},
    {"", TACCL "topo-ndv2-1MB.json", ":v100", NULL, 8, 2, 2, 91180521739, 45590260870},
    {"2x", TACCL "topo-ndv2-1MB.json", ":v100", NULL, 16, 4, 3, 91180521739, 45590260870},
    {"", TACCL "topo-ndv2-32KB.json", ":v100", "name: \"NDv2_32KB\" is for chunks of 32KB", 0, 0, 0, 0, 0},
    {"", TACCL "topo-ndv2-1KB.json", ":v100", "name: \"NDv2_1KB\" is for chunks of 1KB", 0, 0, 0, 0, 0},
    {"", ASTRA "HGX-H100-validated.yml", ":h100", NULL, 8, 1, 1, 429496729600, 0},
    {"4x", ASTRA "HGX-H100-validated.yml", ":h100", NULL, 32, 4, 2, 429496729600, 48850000000},
    {"", ASTRA "Ring_4npus.yml", ":h100", NULL, 4, 1, 1, 80530636800, 0},
    {"", ASTRA "Ring_8npus.yml", ":h100", NULL, 8, 1, 1, 46976204800, 0},
    {"", ASTRA "Ring_16npus.yml", ":h100", NULL, 16, 1, 1, 25165824000, 0},
    {"", ASTRA "dgx_v100_4gpu.yml", ":v100", NULL, 4, 1, 1, 5033164800, 0},
    {"", ASTRA "dgx_v100_8gpu.yml", ":v100", "bandwidth: \"tbd\" is not a number of GB/s", 0, 0, 0, 0, 0},
    {"", ASTRA "hgx_h100_2gpu.yml", ":h100", NULL, 2, 1, 1, 796007763804, 0},
    {"", ASTRA "hgx_h100_4gpu.yml", ":h100", NULL, 4, 1, 1, 796007763804, 0},
    {"", ASTRA "hgx_h100_8gpu.yml", ":h100", NULL, 8, 1, 1, 429496729600, 0},
    {"", ASTRA "hgx_h100_16gpu.yml", ":h100", NULL, 16, 2, 2, 429496729600, 53687091200},
    {"", ASTRA "hgx_h100_32gpu.yml", ":h100", NULL, 32, 4, 2, 429496729600, 80530636800},
};

static void test_topo_text_data__every_file_has_its_verdict(void **state) {
    (void)state;
    if (shared_path("topologies") == NULL)
        skip();
    for (size_t i = 0; i < sizeof verdicts / sizeof *verdicts; i++) {
        const struct verdict *v = &verdicts[i];
        struct mp_error err = {0};
        struct mp_topology *t = NULL;
        char spec[600];
        snprintf(spec, sizeof spec, "%s%s%s", v->before, shared_path(v->file), v->after);
        enum mp_status status = mp_topology_load(&t, spec, NULL, &err);
        if (v->refused != NULL) {
            assert_int_equal(status, MP_EINPUT);
            if (strstr(err.message, v->refused) == NULL)
                fail_msg("%s: %s", spec, err.message);
            continue;
        }
        CHECK_OK(status, err);
        CHECK_OK(mp_topology_check(t, &err), err);
        assert_int_equal(t->n_gpus, v->n_gpus);
        assert_int_equal(mp_topology_n_nodes(t), v->n_nodes);
        assert_int_equal(t->n_levels, v->n_levels);
        assert_int_equal(t->resources[t->gpus[0].out_port[0]].bytes_per_s, v->port0);
        if (v->n_levels > 1)
            assert_int_equal(t->resources[t->gpus[0].out_port[1]].bytes_per_s, v->port1);
        assert_true(strlen(t->source) > 20);
        mp_topology_free(t);
    }
    assert_int_equal(mp_alloc_live(), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_topo_text_data__every_file_has_its_verdict)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
