/* Hosts as lstopo writes them, in small. */
#include "import.h"

#define HEAD(version)                                                                                                  \
    "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<!DOCTYPE topology SYSTEM \"hwloc2.dtd\">\n"                          \
    "<topology version=\"" version "\">\n<object type=\"Machine\" gp_index=\"1\">\n"
#define BRIDGE "<object type=\"Bridge\" bridge_type=\"0-1\">\n"
#define PORT(bus)                                                                                                      \
    "<object type=\"Bridge\" bridge_type=\"1-1\" pci_busid=\"0000:" bus ":00.0\" pci_link_speed=\"31.5\">\n"
#define DEVICE(bus, gp, class, numbers, inside)                                                                        \
    "<object type=\"PCIDev\" gp_index=\"" gp "\" pci_busid=\"0000:" bus                                                \
    ":00.0\" pci_type=\"" class " [" numbers "] [0000:0000] a1\" pci_link_speed=\"31.507692\">" inside "</object>\n"
#define OS(gp, name, type) "<object type=\"OSDev\" gp_index=\"" gp "\" name=\"" name "\" osdev_type=\"" type "\"/>"
#define END "</object>\n"

/* Two sockets, each with a switch that has two GPUs and an HCA; a management card and a VGA chip. */
static const char two_sockets[] = HEAD("2.0") "<object type=\"Package\">\n" BRIDGE PORT("10")
    DEVICE("11", "20", "0302", "10de:20b2", OS("30", "cuda1", "5") OS("40", "nvml0", "1"))
        DEVICE("12", "21", "0302", "10de:20b2", OS("31", "cuda0", "5") OS("41", "nvml1", "1"))
            DEVICE("13", "22", "0207", "15b3:101b", OS("32", "ib0", "2") OS("33", "mlx5_0", "3"))
                END DEVICE("20", "23", "0200", "8086:1533", OS("34", "eno1", "2"))
                    DEVICE("21", "24", "0300", "1a03:2000", "") END END "<object type=\"Package\">\n" BRIDGE PORT("90")
                        DEVICE("91", "25", "0302", "10de:20b2", OS("35", "cuda2", "5") OS("45", "nvml2", "1"))
                            DEVICE("92", "26", "0302", "10de:20b2", OS("36", "cuda3", "5") OS("46", "nvml3", "1"))
                                DEVICE("93", "27", "0207", "15b3:101b", OS("37", "mlx5_1", "3")) END END END END;

static void with(char *out, size_t size, const char *matrix) {
    snprintf(out, size, "%s%s</topology>\n", two_sockets, matrix);
}

static void test_topo_read_hwloc_xml__a_matrix_of_gpus(void **state) {
    (void)state;
    char text[8000];
    with(text, sizeof text,
         "<distances2 type=\"OSDev\" nbobjs=\"4\" kind=\"25\" name=\"NVLinkBandwidth\" indexing=\"gp\">\n"
         "<indexes length=\"8\">40 41 </indexes><indexes length=\"6\">45 46 </indexes>\n"
         "<u64values length=\"9\">1000000 100000 100000 100000 100000 1000000 100000 100000 </u64values>"
         "<u64values length=\"9\">100000 100000 1000000 100000 100000 100000 100000 1000000 </u64values></distances2>");
    struct mp_topology *t = import_text("", text, "");
    assert_int_equal(t->n_gpus, 4);
    assert_int_equal(t->n_levels, 1);
    assert_string_equal(t->types[0].name, "a100");
    assert_int_equal(port_out(t, 0, 0), 300000000000);
    assert_int_equal(t->levels[0].pair_bytes_per_s, 100000000000);
    assert_non_null(strstr(t->source, "4 GPUs by CUDA's number, 2 NICs"));
    assert_non_null(strstr(t->source, "1 NICs without RDMA are left out"));
    mp_topology_free(t);
    import_refused("2x", text, "", 0, 0, "does not say how fast its NICs are");
    t = import_text("2x", text, ":a100");
    assert_int_equal(port_out(t, 0, 1), 25000000000);
    assert_int_equal(t->gpus[0].out_port[1], t->gpus[1].out_port[1]);
    assert_int_not_equal(t->gpus[1].out_port[1], t->gpus[2].out_port[1]);
    mp_topology_free(t);
}

/* Links in pairs, to what stands on the other socket by NVML's number: cuda0 is nvml1. */
static void test_topo_read_hwloc_xml__pairs_and_switches(void **state) {
    (void)state;
    char text[8000];
    with(text, sizeof text,
         "<distances2hetero nbobjs=\"4\" kind=\"25\" name=\"NVLinkBandwidth\">\n"
         "<indexes length=\"1\">OSDev:40 OSDev:41 PCIDev:25 PCIDev:26</indexes>\n"
         "<u64values length=\"9\">0 50000 0 0 50000 0 0 0 0 0 0 25000 0 0 25000 0</u64values></distances2hetero>");
    struct mp_topology *t = import_text("", text, ":a100");
    assert_int_equal(mp_topology_n_nodes(t), 2);
    assert_int_equal(port_out(t, 0, 0), 50000000000);
    assert_int_equal(port_out(t, 2, 0), 25000000000);
    assert_int_equal(port_out(t, 0, 1), 31500000000);
    assert_int_equal(t->gpus[0].out_port[1], t->gpus[1].out_port[1]);
    mp_topology_free(t);
}

static void test_topo_read_hwloc_xml__without_links(void **state) {
    (void)state;
    char text[8000];
    with(text, sizeof text, "");
    struct mp_topology *t = import_text("", text, "");
    assert_int_equal(t->n_levels, 1);
    assert_int_equal(port_out(t, 0, 0), 300000000000);
    assert_non_null(strstr(t->source, "The file has no links between GPUs"));
    mp_topology_free(t);
}

static void test_topo_read_hwloc_xml__refused_with_the_place(void **state) {
    (void)state;
    static const struct {
        const char *text;
        uint64_t line, column;
        const char *what;
    } cases[] = {
        {"<topology>\n<object type=\"Machine\"/></topology>", 1, 1, "has no version (that is hwloc 1"},
        {"<topology version='4.0'>\n<object type=\"Machine\"/></topology>", 1, 11, "\"4.0\" is not a version"},
        {"<topology version='2.0'>\n<object type=\"Machine\"/></topology>", 1, 1, "lists no PCI devices"},
        {HEAD("2.0") DEVICE("20", "23", "0200", "8086:1533", "") END "</topology>", 3, 1, "no GPU among them"},
        {HEAD("3.0") "<object/>" END "<!-- <object type= --></topology>", 5, 1, "object: has no type"},
        {HEAD("3.0") "<object type=\"PCIDev\"/>" END "</topology>", 5, 1, "a PCIDev has no pci_busid"},
        {HEAD("3.0") "<object type=\"PCIDev\" pci_busid=\"1\"/>" END "</topology>", 5, 23, "is not a PCI address"},
        {HEAD("3.0") "<object type=\"PCIDev\" pci_busid=\"0000:11:00.0\"/>" END "</topology>", 5, 1, "has no pci_type"},
        {HEAD("3.0") "<object type=\"PCIDev\" pci_busid=\"0000:11:00.0\" pci_type=\"GPU\"/>" END "</topology>", 5, 48,
         "does not start with a class"},
        {HEAD("3.0") "<object type=\"Bridge\" pci_busid=\"0000:11:00.0\" pci_link_speed=\"16x\"/>" END "</topology>", 5,
         48, "is not a rate in GB/s"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        import_refused("", cases[i].text, ":a100", cases[i].line, cases[i].column, cases[i].what);
    static const struct {
        const char *matrix, *what;
    } matrices[] = {
        {"<distances2 name=\"NVLinkBandwidth\"/>", "distances2: has no nbobjs"},
        {"<distances2 nbobjs=\"2\" name=\"NVLinkBandwidth\"><indexes>40</indexes></distances2>",
         "lists 1 of 2 indexes"},
        {"<distances2 nbobjs=\"1\" name=\"NVLinkBandwidth\"><indexes>x</indexes></distances2>",
         "\"x\" is not an index"},
        {"<distances2 nbobjs=\"1\" name=\"NVLinkBandwidth\"><indexes>40</indexes></distances2>", "has 0 of 1 values"},
        {"<distances2 nbobjs=\"1\" name=\"XGMIBandwidth\"><indexes>40</indexes><u64values>-1</u64values></distances2>",
         "\"-1\" is not a whole number of MB/s"},
        {"<distances2 nbobjs=\"5000\" name=\"NVLinkBandwidth\"/>",
         "nbobjs: \"5000\" is not a whole number in [1, 1024]"},
    };
    for (size_t i = 0; i < sizeof matrices / sizeof *matrices; i++) {
        char text[8000];
        struct mp_error err = {0};
        struct mp_topology *t;
        with(text, sizeof text, matrices[i].matrix);
        assert_int_equal(mp_topology_load(&t, import_spec("", text, strlen(text), ""), NULL, &err), MP_EINPUT);
        if (strstr(err.message, matrices[i].what) == NULL || err.line < 20)
            fail_msg("%u: %s", (unsigned)err.line, err.message);
    }
}

static enum mp_status load_flow(void *ctx, struct mp_error *err) {
    struct mp_topology *t;
    enum mp_status status = mp_topology_load(&t, ctx, NULL, err);
    mp_topology_free(t);
    return status;
}

static void test_topo_read_hwloc_xml__faults(void **state) {
    (void)state;
    char text[8000], spec[1200];
    with(text, sizeof text,
         "<distances2hetero nbobjs=\"2\" kind=\"25\" name=\"NVLinkBandwidth\">"
         "<indexes>OSDev:40 OSDev:41</indexes><u64values>0 50000 50000 0</u64values></distances2hetero>");
    snprintf(spec, sizeof spec, "%s", import_spec("2x", text, strlen(text), ":a100"));
    sweep_faults(load_flow, spec, 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_topo_read_hwloc_xml__a_matrix_of_gpus),
        cmocka_unit_test(test_topo_read_hwloc_xml__pairs_and_switches),
        cmocka_unit_test(test_topo_read_hwloc_xml__without_links),
        cmocka_unit_test(test_topo_read_hwloc_xml__refused_with_the_place),
        cmocka_unit_test(test_topo_read_hwloc_xml__faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
