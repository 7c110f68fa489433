/* `nvidia-smi topo -m`: what becomes of the classes, and the ways people paste it. */
#include "import.h"

#define ROW8(n, a, b, c, d, e, f, g, h, rest)                                                                          \
    "GPU" #n "\t" a "\t" b "\t" c "\t" d "\t" e "\t" f "\t" g "\t" h "\t" rest "\n"

/* Eight H100 behind NVSwitch, a NIC each and one for the host's own use. */
static const char hgx[] =
    "\tGPU0\tGPU1\tGPU2\tGPU3\tNIC0\tNIC1\tNIC2\tNIC3\tNIC4\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\n"
    "GPU0\t X \tNV18\tNV18\tNV18\tPIX\tNODE\tSYS\tSYS\tSYS\t0-55\t0\tN/A\n"
    "GPU1\tNV18\t X \tNV18\tNV18\tNODE\tPIX\tSYS\tSYS\tSYS\t0-55\t0\tN/A\n"
    "GPU2\tNV18\tNV18\t X \tNV18\tSYS\tSYS\tPIX\tNODE\tNODE\t56-111\t1\tN/A\n"
    "GPU3\tNV18\tNV18\tNV18\t X \tSYS\tSYS\tNODE\tPIX\tNODE\t56-111\t1\tN/A\n"
    "NIC0\tPIX\tNODE\tSYS\tSYS\t X \tNODE\tSYS\tSYS\tSYS\t\t\t\n"
    "NIC1\tNODE\tPIX\tSYS\tSYS\tNODE\t X \tSYS\tSYS\tSYS\t\t\t\n"
    "NIC2\tSYS\tSYS\tPIX\tNODE\tSYS\tSYS\t X \tNODE\tNODE\t\t\t\n"
    "NIC3\tSYS\tSYS\tNODE\tPIX\tSYS\tSYS\tNODE\t X \tNODE\t\t\t\n"
    "NIC4\tSYS\tSYS\tNODE\tNODE\tSYS\tSYS\tNODE\tNODE\t X \t\t\t\n"
    "\n"
    "Legend:\n\n  X    = Self\n  SYS  = Connection traversing PCIe\n  NV#  = NVLinks\n\nNIC Legend:\n\n"
    "  NIC0: mlx5_0\n  NIC1: mlx5_3\n";

static void test_topo_read_nvidia_smi__switch_and_nics(void **state) {
    (void)state;
    struct mp_topology *t = import_text("2x", hgx, ":h100");
    assert_int_equal(t->n_gpus, 8);
    assert_int_equal(t->n_levels, 2);
    assert_int_equal(port_out(t, 0, 0), 380000000000);
    assert_int_equal(t->levels[0].pair_bytes_per_s, 0);
    assert_int_equal(port_out(t, 7, 1), 48850000000);
    assert_int_not_equal(t->gpus[0].out_port[1], t->gpus[1].out_port[1]);
    assert_non_null(strstr(t->source, "GPU1 uses NIC1 = mlx5_3"));
    assert_non_null(strstr(t->source, "1 of 5 NICs"));
    mp_topology_free(t);
}

/* Blanks for tabs, colours (with and without their escape), a prompt, comments, a fence, Windows line ends, no legend:
 * always the same topology. */
static void test_topo_read_nvidia_smi__pasted_in_any_way(void **state) {
    (void)state;
    static char text[4 * sizeof hgx];
    struct mp_topology *t;
    for (uint32_t way = 0; way < 6; way++) {
        size_t n = 0;
        if (way == 3)
            n += (size_t)sprintf(text, "# from the wiki\nroot@n1:~# nvidia-smi topo -m\n```\n");
        for (const char *s = hgx; *s != '\0'; s++) {
            if (way == 5 && strncmp(s, "Legend:", 7) == 0)
                break;
            if (way == 0 && *s == '\t')
                n += (size_t)sprintf(text + n, "     ");
            else if (way == 1 && s == hgx)
                n += (size_t)sprintf(text + n, "\x1b[4m\t");
            else if (way == 1 && strncmp(s, "NV18", 4) == 0)
                n += (size_t)sprintf(text + n, "\x1b[32m%c", *s);
            else if (way == 2 && strncmp(s, "GPU0", 4) == 0)
                n += (size_t)sprintf(text + n, "[4m%c", *s);
            else if (way == 4 && *s == '\n')
                n += (size_t)sprintf(text + n, "\r\n");
            else
                text[n++] = *s;
        }
        text[n] = '\0';
        t = import_text("2x", text, ":h100");
        if (way == 5) /* the legend's names are in the source text */
            assert_null(strstr(t->source, "mlx5"));
        assert_string_equal(t->gpus[0].type == 0 ? t->types[0].name : "", "h100");
        assert_int_equal(t->n_gpus, 8);
        assert_int_equal(port_out(t, 3, 1), 48850000000);
        assert_int_equal(port_out(t, 3, 0), 380000000000);
        mp_topology_free(t);
    }
}

/* Cut after any byte: the same levels and ports, or refused; never another topology. */
static void test_topo_read_nvidia_smi__cut_anywhere(void **state) {
    (void)state;
    static char text[sizeof hgx];
    uint32_t n_read = 0;
    for (size_t n = 1; n < sizeof hgx; n += n < 500 ? 1 : 7) {
        struct mp_error err = {0};
        struct mp_topology *t = NULL;
        memcpy(text, hgx, n);
        if (mp_topology_load(&t, import_spec("3x", text, n, ":h100"), NULL, &err) != MP_OK) {
            assert_true(err.message[0] != '\0');
            continue;
        }
        /* A header cut short is a smaller host, as complete in itself as the text can say. */
        if (memchr(text, '\n', n) != NULL && strstr(t->source, "5 NICs") != NULL) {
            n_read++;
            assert_int_equal(t->n_gpus, 12);
            assert_int_equal(t->n_levels, 2);
            for (uint32_t g = 0; g < 12; g++) {
                assert_int_equal(port_out(t, g, 0), 380000000000);
                assert_int_equal(port_out(t, g, 1), 48850000000);
            }
        }
        mp_topology_free(t);
    }
    assert_true(n_read > 10);
    assert_int_equal(mp_alloc_live(), 0);
}

static void test_topo_read_nvidia_smi__few_lanes_to_each_are_a_mesh(void **state) {
    (void)state;
    struct mp_topology *t = import_text("",
                                        "GPU0 GPU1 GPU2 GPU3 CPU Affinity\n"
                                        "GPU0 X NV6 NV6 NV6 6\nGPU1 NV6 X NV6 NV6 4\n"
                                        "GPU2 NV6 NV6 X NV6 7\nGPU3 NV6 NV6 NV6 X 5\n",
                                        ":h100");
    assert_int_equal(t->n_levels, 1);
    assert_int_equal(port_out(t, 0, 0), 380000000000);
    assert_int_equal(t->levels[0].pair_bytes_per_s, 126666666666);
    mp_topology_free(t);
}

static void test_topo_read_nvidia_smi__a_gpu_with_lanes_down_has_a_slow_port(void **state) {
    (void)state;
    struct mp_topology *t = import_text("",
                                        "GPU0 GPU1 GPU2 GPU3\n"
                                        "GPU0 X NV12 NV12 NV8\nGPU1 NV12 X NV12 NV8\n"
                                        "GPU2 NV12 NV12 X NV8\nGPU3 NV8 NV8 NV8 X\n",
                                        ":a100");
    assert_int_equal(t->n_levels, 1);
    assert_int_equal(t->levels[0].pair_bytes_per_s, 0);
    assert_int_equal(port_out(t, 0, 0), 300000000000);
    assert_int_equal(port_in(t, 3, 0), 200000000000);
    mp_topology_free(t);
}

/* DeepEP#666's kind of box: NVLink bridges between pairs, PCIe switches, two sockets. */
static void test_topo_read_nvidia_smi__nvlink_pairs_in_a_pcie_box(void **state) {
    (void)state;
    struct mp_topology *t = import_text("",
                                        "GPU0 GPU1 GPU2 GPU3 CPU Affinity NUMA Affinity\n"
                                        "GPU0 X NV4 SYS SYS 0 0\nGPU1 NV4 X SYS SYS 0 0\n"
                                        "GPU2 SYS SYS X NV4 1 1\nGPU3 SYS SYS NV4 X 1 1\n",
                                        ":a100");
    assert_int_equal(t->n_levels, 2);
    assert_int_equal(mp_topology_n_nodes(t), 2);
    assert_int_equal(port_out(t, 0, 0), 100000000000);
    assert_int_equal(port_out(t, 0, 1), 16000000000);
    assert_string_equal(t->levels[1].name, "sys");
    mp_topology_free(t);
}

/* No NVLink: PCIe switches whose uplinks are shared, sockets that share the link between them. */
static void test_topo_read_nvidia_smi__pcie_only(void **state) {
    (void)state;
    static const char text[] = "# moeplan: SYS 9 GB/s\nGPU0 GPU1 GPU2 GPU3 GPU4 GPU5 NIC0\n"
                               "GPU0 X PIX NODE SYS SYS SYS NODE\nGPU1 PIX X NODE SYS SYS SYS NODE\n"
                               "GPU2 NODE NODE X SYS SYS SYS NODE\nGPU3 SYS SYS SYS X PIX NODE SYS\n"
                               "GPU4 SYS SYS SYS PIX X NODE SYS\nGPU5 SYS SYS SYS NODE NODE X SYS\n";
    struct mp_topology *t = import_text("2x", text, ":l40s");
    assert_int_equal(t->n_levels, 4);
    assert_string_equal(t->levels[0].name, "pix");
    assert_string_equal(t->levels[1].name, "node");
    assert_string_equal(t->levels[2].name, "sys");
    assert_string_equal(t->levels[3].name, "nic");
    assert_int_equal(port_out(t, 0, 0), 32000000000);
    assert_int_equal(t->gpus[0].out_port[2], t->gpus[0].out_port[0]);
    assert_non_null(t->levels[0].uplink_out);
    assert_int_equal(t->resources[t->levels[0].uplink_out[0]].bytes_per_s, 32000000000);
    assert_int_equal(t->resources[t->levels[1].uplink_out[0]].bytes_per_s, 9000000000);
    /* The one NIC of the host is its uplink: GPUs of several switches cannot share a port. */
    assert_int_equal(t->resources[t->levels[2].uplink_out[0]].bytes_per_s, 25000000000);
    mp_topology_free(t);
}

/* The cube mesh of the DGX-1: NVLink joins all eight, but not pair by pair. */
static void test_topo_read_nvidia_smi__cube_mesh_is_two_groups(void **state) {
    (void)state;
    static const char text[] = "\tGPU0\tGPU1\tGPU2\tGPU3\tGPU4\tGPU5\tGPU6\tGPU7\tCPU Affinity\n" ROW8(
        0, "X", "NV1", "NV1", "NV2", "NV2", "SYS", "SYS", "SYS", "0-19")
        ROW8(1, "NV1", "X", "NV2", "NV1", "SYS", "NV2", "SYS", "SYS", "0-19")
            ROW8(2, "NV1", "NV2", "X", "NV2", "SYS", "SYS", "NV1", "SYS", "0-19")
                ROW8(3, "NV2", "NV1", "NV2", "X", "SYS", "SYS", "SYS", "NV1", "0-19")
                    ROW8(4, "NV2", "SYS", "SYS", "SYS", "X", "NV1", "NV1", "NV2", "20-39")
                        ROW8(5, "SYS", "NV2", "SYS", "SYS", "NV1", "X", "NV2", "NV1", "20-39")
                            ROW8(6, "SYS", "SYS", "NV1", "SYS", "NV1", "NV2", "X", "NV2", "20-39")
                                ROW8(7, "SYS", "SYS", "SYS", "NV1", "NV2", "NV1", "NV2", "X", "20-39");
    struct mp_topology *t = import_text("", text, ":v100");
    assert_int_equal(t->n_levels, 2);
    assert_int_equal(mp_topology_n_nodes(t), 2);
    assert_int_equal(t->levels[0].pair_bytes_per_s, 125000000000 / 6);
    assert_int_equal(port_out(t, 0, 0), 4 * UINT64_C(125000000000) / 6);
    assert_int_equal(port_out(t, 0, 1), 10000000000);
    assert_non_null(strstr(t->source, "4 pairs of GPUs between the groups below are not used"));
    mp_topology_free(t);
}

/* Two GPUs and two NICs behind each switch: one each; four NICs for two GPUs: two each; one NIC for two: shared. */
static void test_topo_read_nvidia_smi__nics_are_dealt_out(void **state) {
    (void)state;
    struct mp_topology *t =
        import_text("2x", "GPU0 GPU1 NIC0 NIC1\nGPU0 X NV12 PXB PXB\nGPU1 NV12 X PXB PXB\n", ":a100");
    assert_int_equal(port_out(t, 0, 1), 25000000000);
    assert_int_not_equal(t->gpus[0].out_port[1], t->gpus[1].out_port[1]);
    mp_topology_free(t);
    t = import_text("2x", "GPU0 GPU1 a b c d\nGPU0 X NV12 PIX PIX PIX PIX\nGPU1 NV12 X PIX PIX PIX PIX\n", ":a100");
    assert_int_equal(port_out(t, 1, 1), 50000000000);
    assert_int_not_equal(t->gpus[0].out_port[1], t->gpus[1].out_port[1]);
    mp_topology_free(t);
    t = import_text("2x", "# moeplan: NIC 10 GB/s\nGPU0 GPU1 NIC0\nGPU0 X NV12 PXB\nGPU1 NV12 X PXB\n", ":a100");
    assert_int_equal(port_out(t, 1, 1), 10000000000);
    assert_int_equal(t->gpus[0].out_port[1], t->gpus[1].out_port[1]);
    mp_topology_free(t);
}

static void test_topo_read_nvidia_smi__one_gpu_is_a_host(void **state) {
    (void)state;
    struct mp_topology *t = import_text("4x", "GPU0 CPU Affinity NUMA Affinity\nGPU0 X 0-15 0\n", ":l40s");
    assert_int_equal(t->n_gpus, 4);
    assert_int_equal(mp_topology_n_nodes(t), 4);
    mp_topology_free(t);
}

static void test_topo_read_nvidia_smi__refuses_what_is_not_one_matrix(void **state) {
    (void)state;
    import_refused("", "GPU0 GPU1 GPU2\nGPU0 X NV12 NV12\nGPU1 NV12 X\nGPU2 NV12\n", ":a100", 3, 0,
                   "what links GPU1 and GPU2 is cut off: both rows end before it");
    import_refused("", "GPU0 GPU1\nGPU0 X NV12\nGPU1 NV8 X\n", ":a100", 3, 6,
                   "GPU1 to GPU0 is NV8 here and NV12 in line 2");
    import_refused("", "GPU0 GPU1\nGPU0 NV12 X\n", ":a100", 2, 6, "the row does not fit the header");
    import_refused("", "GPU0 GPU1\nGPU0 X OK\nGPU1 OK X\n", ":a100", 2, 8, "\"OK\" is not a link");
    import_refused("", "GPU0 GPU1 GPU2 GPU3\nGPU0 X NV4 SYS SYS\nSYS SYS\n", ":a100", 3, 1, "the text was folded");
    import_refused("", "GPU0 GPU1\nGPU0 X NV4\nGPU1 NV4 X\nGPU2 SYS SYS\n", ":a100", 4, 1,
                   "GPU2 has a row but no column");
    import_refused("", "GPU0 GPU1\nGPU0 X NV4\nGPU0 X NV4\n", ":a100", 3, 1, "GPU0 has a row already, in line 2");
    import_refused("", "GPU0 GPU1\nGPU0 X NV4\nGPU1 NV4 X\n", ":l40s", 1, 0, "l40s has none");
    import_refused("", "# moeplan: QPI 3 GB/s\nGPU0 GPU1\nGPU0 X SYS\n", ":a100", 1, 12,
                   "\"QPI\" is not a link whose rate");
    import_refused("", "# moeplan: SYS 3 apples\nGPU0 GPU1\nGPU0 X SYS\n", ":a100", 1, 16, "\"3 apples\"");
    import_refused(
        "", "GPU0 GPU1 GPU2 GPU3\nGPU0 X SYS NV4 SYS\nGPU1 SYS X SYS NV4\nGPU2 NV4 SYS X SYS\nGPU3 SYS NV4 SYS X\n",
        ":a100", 1, 0, "in the order 0 2 1 3");
    import_refused("2000x", hgx, ":h100", 1, 0, "2000 hosts of 4 GPUs are more than 4096 GPUs");
}

static void test_topo_read_nvidia_smi__columns_in_another_order_are_ranks(void **state) {
    (void)state;
    struct mp_topology *t = import_text("",
                                        "GPU0 GPU2 GPU1 GPU3\nGPU0 X NV4 SYS SYS\nGPU1 SYS SYS X NV4\n"
                                        "GPU2 NV4 X SYS SYS\nGPU3 SYS SYS NV4 X\n",
                                        ":a100");
    assert_int_equal(mp_topology_n_nodes(t), 2);
    assert_non_null(strstr(t->source, "GPU 1 here is GPU2 of the text"));
    mp_topology_free(t);
}

static enum mp_status load_flow(void *ctx, struct mp_error *err) {
    struct mp_topology *t = NULL;
    enum mp_status status = mp_topology_load(&t, ctx, NULL, err);
    mp_topology_free(t);
    return status;
}

static void test_topo_read_nvidia_smi__survives_faults(void **state) {
    (void)state;
    char spec[1200];
    snprintf(spec, sizeof spec, "%s", import_spec("2x", hgx, strlen(hgx), ":h100"));
    sweep_faults(load_flow, spec, 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_topo_read_nvidia_smi__switch_and_nics),
        cmocka_unit_test(test_topo_read_nvidia_smi__pasted_in_any_way),
        cmocka_unit_test(test_topo_read_nvidia_smi__cut_anywhere),
        cmocka_unit_test(test_topo_read_nvidia_smi__few_lanes_to_each_are_a_mesh),
        cmocka_unit_test(test_topo_read_nvidia_smi__a_gpu_with_lanes_down_has_a_slow_port),
        cmocka_unit_test(test_topo_read_nvidia_smi__nvlink_pairs_in_a_pcie_box),
        cmocka_unit_test(test_topo_read_nvidia_smi__pcie_only),
        cmocka_unit_test(test_topo_read_nvidia_smi__cube_mesh_is_two_groups),
        cmocka_unit_test(test_topo_read_nvidia_smi__nics_are_dealt_out),
        cmocka_unit_test(test_topo_read_nvidia_smi__one_gpu_is_a_host),
        cmocka_unit_test(test_topo_read_nvidia_smi__refuses_what_is_not_one_matrix),
        cmocka_unit_test(test_topo_read_nvidia_smi__columns_in_another_order_are_ranks),
        cmocka_unit_test(test_topo_read_nvidia_smi__survives_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
