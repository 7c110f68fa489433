/* Every XML file of the shared data's topologies: it goes through, or is refused with the true reason. */
#include "import.h"

struct verdict {
    const char *before, *file, *after;
    const char *refused;                        /* NULL = it goes through */
    uint32_t n_gpus, n_nodes, n_levels, n_nics; /* n_nics: different net ports of the first host */
    uint64_t port0, port1;                      /* bytes/s of GPU 0 at levels 0 and 1 */
    const char *type;
};

#define AWS "topologies/aws-ofi-nccl/"
#define AZ "topologies/azhpc-images/"
#define HWLOC "topologies/hwloc/"

static const struct verdict verdicts[] = {
    {"", AWS "g5.48xl-topo.xml", ":a100", "has no class, so that GPUs and NICs cannot be told apart", .n_gpus = 0},
    {"", AWS "p4d-24xl-topo.xml", "", NULL, 8, 1, 1, 0, 300000000000, 0, "a100-40gb"},
    {"4x", AWS "p4d-24xl-topo.xml", "", "does not say how fast its NICs are, which 4 hosts are joined by", .n_gpus = 0},
    {"4x", AWS "p4d-24xl-topo.xml", ":a100", NULL, 32, 4, 2, 4, 300000000000, 12000000000, "a100-40gb"},
    {"", AWS "p4d-24xl-topo.xml", ":h100", "GPU 0 is PCI device 10de:20b0, a100-40gb, and not h100", .n_gpus = 0},
    {"", AWS "p4de-24xl-topo.xml", "", NULL, 8, 1, 1, 0, 300000000000, 0, "a100"},
    {"2x", AWS "p4de-24xl-topo.xml", ":a100", NULL, 16, 2, 2, 4, 300000000000, 12000000000, "a100"},
    {"", AWS "p5.48xl-topo.xml", "", "does not say which GPUs of compute capability 90 these are", .n_gpus = 0},
    {"", AWS "p5.48xl-topo.xml", ":a100", "GPU 0 has compute capability 90, and a100 has 80", .n_gpus = 0},
    {"", AWS "p5.48xl-topo.xml", ":h100", NULL, 8, 1, 1, 0, 380000000000, 0, "h100"},
    {"4x", AWS "p5.48xl-topo.xml", ":h100", NULL, 32, 4, 2, 8, 380000000000, 48000000000, "h100"},
    {"", AZ "ndv4-topo.xml", "", "does not say which GPUs these are", .n_gpus = 0},
    {"", AZ "ndv4-topo.xml", ":a100", NULL, 8, 1, 1, 0, 300000000000, 0, "a100"},
    {"4x", AZ "ndv4-topo.xml", ":a100", NULL, 32, 4, 2, 8, 300000000000, 24000000000, "a100"},
    {"", AZ "ndv5-topo.xml", ":h100", NULL, 8, 1, 1, 0, 380000000000, 0, "h100"},
    {"4x", AZ "ndv5-topo.xml", ":h100", NULL, 32, 4, 2, 8, 380000000000, 48000000000, "h100"},
    {"", HWLOC "nvidia-dgx-gb10.xml", ":b200", "lists no PCI devices, so no GPUs", .n_gpus = 0},
    {"", HWLOC "nvidiaDGX2.xml", "", NULL, 16, 1, 1, 0, 150000000000, 0, "v100"},
    {"2x", HWLOC "nvidiaDGX2.xml", "", "has no NICs, which 2 hosts are joined by", .n_gpus = 0},
    {"2x", HWLOC "nvidiaDGX2.xml", ":v100", NULL, 32, 2, 2, 16, 150000000000, 12500000000, "v100"},
    {"", HWLOC "power8gpudistances.xml", "", "GPU 0 is \"Tesla P100-SXM2-16GB\", which no built-in GPU", .n_gpus = 0},
    {"", HWLOC "power8gpudistances.xml", ":v100", NULL, 4, 2, 2, 0, 40000000000, 7876923000, "v100"},
};

static uint32_t count_net_ports(const struct mp_topology *t) {
    const uint32_t last = t->n_levels - 1, n = t->n_gpus / (t->n_levels > 1 ? mp_topology_n_nodes(t) : 1);
    uint32_t ports = 0;
    for (uint32_t g = 0; g < n && strcmp(t->levels[last].name, "net") == 0; g++)
        ports += t->resources[t->gpus[g].out_port[last]].first_gpu == g;
    return ports;
}

static void test_topo_xml_data__every_file_has_its_verdict(void **state) {
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
            if (status != MP_EINPUT || strstr(err.message, v->refused) == NULL)
                fail_msg("%s: %d: %s", spec, (int)status, err.message);
            continue;
        }
        CHECK_OK(status, err);
        CHECK_OK(mp_topology_check(t, &err), err);
        if (t->n_gpus != v->n_gpus || mp_topology_n_nodes(t) != v->n_nodes || t->n_levels != v->n_levels ||
            count_net_ports(t) != v->n_nics || port_out(t, 0, 0) != v->port0 ||
            (v->port1 > 0 && port_out(t, 0, 1) != v->port1) || strcmp(t->types[0].name, v->type) != 0)
            fail_msg("%s: %u GPUs, %u nodes, %u levels, %u net ports, %llu and %llu B/s, %s", spec, t->n_gpus,
                     mp_topology_n_nodes(t), t->n_levels, count_net_ports(t), (unsigned long long)port_out(t, 0, 0),
                     (unsigned long long)port_out(t, 0, t->n_levels > 1), t->types[0].name);
        mp_topology_free(t);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_topo_xml_data__every_file_has_its_verdict),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
