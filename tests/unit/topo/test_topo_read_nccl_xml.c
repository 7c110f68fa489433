/* Hosts as NCCL dumps them, in small. */
#include "import.h"

static char text[1 << 16];
static size_t used;

static void put(const char *fmt, ...) MP_PRINTF(1, 2);
static void put(const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    used += (size_t)vsnprintf(text + used, sizeof text - used, fmt, args);
    va_end(args);
    assert_true(used < sizeof text);
}
static void begin(void) {
    used = 0;
    put("<system version=\"1\">\n");
}
static void cpu(const char *more) { put("<cpu numaid=\"0\" arch=\"x86_64\" %s>\n", more); }
static void bridge(unsigned bus) {
    put("<pci busid=\"0000:%02x:00.0\" class=\"0x060400\" link_speed=\"16.0 GT/s PCIe\" link_width=\"16\">\n", bus);
}
/* links: nvlink elements */
static void gpu(unsigned bus, unsigned rank, unsigned sm, const char *links) {
    put("<pci busid=\"0000:%02x:00.0\" class=\"0x030200\" link_speed=\"32.0 GT/s PCIe\" link_width=\"16\">\n"
        "<gpu dev=\"%u\" sm=\"%u\" rank=\"%u\" gdr=\"1\">%s</gpu></pci>\n",
        bus, rank % 8, sm, rank, links);
}
static void nic(unsigned bus, unsigned dev, unsigned speed) {
    put("<pci busid=\"0000:%02x:00.0\" class=\"0x020700\" link_speed=\"32.0 GT/s PCIe\" link_width=\"16\"><nic>"
        "<net name=\"mlx5_%u\" dev=\"%u\" speed=\"%u\" port=\"1\" guid=\"0x%u\" maxconn=\"131072\" gdr=\"1\"/>"
        "</nic></pci>\n",
        bus, dev, dev, speed, dev);
}
static const char *link_to(unsigned bus, unsigned count) {
    static char links[8][100];
    static unsigned n;
    snprintf(links[n % 8], sizeof links[0], "<nvlink target=\"0000:%02x:00.0\" count=\"%u\" tclass=\"0x030200\"/>", bus,
             count);
    return links[n++ % 8];
}
#define NVSWITCH "<nvlink target=\"0000:05:00.0\" count=\"4\" tclass=\"0x068000\"/>"

/* Four GPUs behind NVSwitches, two and two behind a PCIe switch with two NICs. */
static void test_topo_read_nccl_xml__nvswitch_and_a_nic_each(void **state) {
    (void)state;
    begin();
    for (unsigned s = 0; s < 2; s++) {
        cpu("");
        bridge(0x10 * (s + 1));
        for (unsigned i = 0; i < 2; i++)
            gpu(0x10 * (s + 1) + 1 + i, 2 * s + i, 90, NVSWITCH NVSWITCH);
        nic(0x10 * (s + 1) + 8, 2 * s, 400000);
        nic(0x10 * (s + 1) + 9, 2 * s + 1, 400000);
        put("</pci></cpu>");
    }
    put("</system>");
    struct mp_topology *t = import_text("", text, ":h100");
    assert_int_equal(t->n_levels, 1);
    assert_int_equal(port_out(t, 3, 0), 8 * 20600000000);
    assert_int_equal(t->levels[0].pair_bytes_per_s, 0);
    mp_topology_free(t);
    t = import_text("3x", text, ":h100");
    assert_int_equal(t->n_gpus, 12);
    assert_int_equal(mp_topology_n_nodes(t), 3);
    for (uint32_t g = 0; g < 12; g++) {
        assert_int_equal(port_out(t, g, 1), 48000000000); /* 400 Gbit/s behind PCIe 5 of 16 lanes, NCCL's 48 GB/s */
        assert_int_equal(t->resources[t->gpus[g].out_port[1]].first_gpu, g);
    }
    mp_topology_free(t);
}

/* Half-speed NVLink of H800: the count says it. */
static void test_topo_read_nccl_xml__h800_has_fewer_lanes(void **state) {
    (void)state;
    begin();
    cpu("");
    gpu(1, 0, 90, NVSWITCH NVSWITCH);
    gpu(2, 1, 90, NVSWITCH NVSWITCH);
    put("</cpu></system>");
    struct mp_topology *t = import_text("", text, ":h800");
    assert_int_equal(port_out(t, 0, 0), 164800000000);
    mp_topology_free(t);
}

/* Two GPUs share the NIC of their switch; with four NICs there, each has two. */
static void test_topo_read_nccl_xml__shared_and_several_nics(void **state) {
    (void)state;
    for (unsigned n = 1; n <= 4; n *= 4) {
        begin();
        for (unsigned s = 0; s < 2; s++) {
            cpu("");
            bridge(0x10 * (s + 1));
            gpu(0x10 * (s + 1) + 1, 2 * s, 80, NVSWITCH);
            gpu(0x10 * (s + 1) + 2, 2 * s + 1, 80, NVSWITCH);
            for (unsigned i = 0; i < n; i++)
                nic(0x10 * (s + 1) + 8 + i, n * s + i, 100000);
            put("</pci></cpu>");
        }
        put("</system>");
        struct mp_topology *t = import_text("2x", text, ":a100");
        assert_int_equal(port_out(t, 0, 1), n == 1 ? 12500000000 : 25000000000);
        assert_int_equal(t->gpus[0].out_port[1] == t->gpus[1].out_port[1], n == 1);
        assert_int_not_equal(t->gpus[1].out_port[1], t->gpus[2].out_port[1]);
        assert_non_null(strstr(t->source, n == 1 ? "some shared" : "up to 2 NICs"));
        mp_topology_free(t);
    }
}

/* One NIC for the host, whose GPUs have no links: its uplink. */
static void test_topo_read_nccl_xml__one_nic_without_nvlink(void **state) {
    (void)state;
    begin();
    for (unsigned s = 0; s < 2; s++) {
        cpu("vendor=\"GenuineIntel\" familyid=\"6\" modelid=\"85\"");
        bridge(0x10 * (s + 1));
        gpu(0x10 * (s + 1) + 1, 2 * s, 89, "");
        gpu(0x10 * (s + 1) + 2, 2 * s + 1, 89, "");
        put("</pci>");
        if (s == 0)
            nic(8, 0, 50000); /* slower than the CPUs' link: as good for all */
        put("</cpu>");
    }
    put("</system>");
    struct mp_topology *t = import_text("", text, ":l40s");
    /* PCIe switches are the CPUs here: the CPUs' link is their uplink. */
    assert_int_equal(t->n_levels, 2);
    assert_int_equal(port_out(t, 0, 0), 48000000000);
    assert_int_equal(port_out(t, 0, 1), 24000000000);
    assert_int_equal(t->gpus[0].out_port[1], t->gpus[1].out_port[1]);
    assert_int_equal(t->resources[t->levels[0].uplink_out[1]].bytes_per_s, 10000000000);
    mp_topology_free(t);
    t = import_text("2x", text, ":l40s");
    assert_int_equal(t->n_levels, 3);
    assert_string_equal(t->levels[2].name, "net");
    assert_non_null(strstr(t->source, "The link between CPUs never limits"));
    assert_int_equal(t->levels[1].n_groups, 2);
    assert_int_equal(t->resources[t->levels[1].uplink_out[1]].bytes_per_s, 6250000000);
    assert_int_equal(port_out(t, 7, 2), 6250000000);
    assert_null(t->levels[0].uplink_out);
    mp_topology_free(t);
}

/* Pairs of NVLink in a PCIe box (DeepEP issue 666), each pair behind its switch: cards of two CPUs. */
static void test_topo_read_nccl_xml__nvlink_pairs(void **state) {
    (void)state;
    begin();
    for (unsigned s = 0; s < 4; s++) {
        if (s % 2 == 0)
            cpu("vendor=\"AuthenticAMD\" familyid=\"25\" modelid=\"17\"");
        bridge(0x10 * (s + 1));
        gpu(0x10 * (s + 1) + 1, 2 * s, 90, link_to(0x10 * (s + 1) + 2, 12));
        gpu(0x10 * (s + 1) + 2, 2 * s + 1, 90, link_to(0x10 * (s + 1) + 1, 12));
        put("</pci>");
        if (s % 2 == 1)
            put("</cpu>");
    }
    put("</system>");
    struct mp_topology *t = import_text("", text, ":h100");
    assert_int_equal(t->n_levels, 3);
    assert_int_equal(mp_topology_n_nodes(t), 4);
    assert_string_equal(t->levels[1].name, "cpu");
    assert_int_equal(port_out(t, 0, 0), 247200000000);
    assert_int_equal(port_out(t, 0, 1), 24000000000);
    assert_int_equal(t->gpus[0].out_port[1], t->gpus[1].out_port[1]);
    assert_int_equal(t->gpus[0].out_port[2], t->gpus[1].out_port[1]);
    assert_int_equal(t->levels[1].n_groups, 2);
    assert_int_equal(t->resources[t->levels[1].uplink_in[0]].bytes_per_s, 24000000000);
    mp_topology_free(t);
}

/* The hybrid cube mesh of a DGX-1: quads are groups, the cube's other edges are said to be lost. */
static void test_topo_read_nccl_xml__cube_mesh(void **state) {
    (void)state;
    static const unsigned lanes[8][8] = {{0, 1, 1, 2, 2, 0, 0, 0}, {1, 0, 2, 1, 0, 2, 0, 0}, {1, 2, 0, 2, 0, 0, 1, 0},
                                         {2, 1, 2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 1, 1, 2}, {0, 2, 0, 0, 1, 0, 2, 1},
                                         {0, 0, 1, 0, 1, 2, 0, 2}, {0, 0, 0, 1, 2, 1, 2, 0}};
    begin();
    cpu("");
    for (unsigned g = 0; g < 8; g++) {
        char links[900] = "";
        for (unsigned k = 0; k < 8; k++)
            if (lanes[g][k] > 0)
                strcat(links, link_to(0x10 + k, lanes[g][k]));
        gpu(0x10 + g, g, 70, links);
    }
    put("</cpu></system>");
    struct mp_topology *t = import_text("", text, ":v100");
    assert_int_equal(mp_topology_n_nodes(t), 2);
    assert_int_equal(t->levels[0].pair_bytes_per_s, 20000000000);
    assert_int_equal(port_out(t, 0, 0), 80000000000);
    assert_non_null(strstr(t->source, "4 pairs of linked GPUs in different groups (GPU 0 and 4 the first)"));
    assert_non_null(strstr(t->source, "Pairs have 20.0 to 40.0 GB/s"));
    mp_topology_free(t);
}

/* A domain of NVLink switches over several hosts, as NCCL fuses them: 18 hosts of four are one node of 72. */
static void test_topo_read_nccl_xml__nvl72(void **state) {
    (void)state;
    begin();
    for (unsigned h = 0; h < 18; h++) {
        put("<cpu host_hash=\"0x%x\" numaid=\"0\" arch=\"arm64\">\n", h + 1);
        for (unsigned i = 0; i < 4; i++) {
            bridge(0x10 * i + 2);
            gpu(0x10 * i + 3, 4 * h + i, 100, NVSWITCH NVSWITCH "<c2c bw=\"40000\" count=\"10\"/>");
            nic(0x10 * i + 4, i, 400000);
            put("</pci>");
        }
        put("</cpu>\n");
    }
    put("</system>");
    struct mp_topology *t = import_text("", text, ":b200");
    assert_int_equal(t->n_gpus, 72);
    assert_int_equal(t->n_levels, 1);
    assert_int_equal(port_out(t, 71, 0), 8 * 40100000000);
    assert_non_null(strstr(t->source, "18 hosts in one file"));
    assert_non_null(strstr(t->source, "c2c links"));
    mp_topology_free(t);
    t = import_text("2x", text, ":b200");
    assert_int_equal(t->n_gpus, 144);
    assert_int_equal(mp_topology_n_nodes(t), 2);
    assert_int_equal(port_out(t, 143, 1), 48000000000);
    assert_int_equal(t->resources[t->gpus[70].out_port[1]].first_gpu, 70);
    mp_topology_free(t);
}

/* In a virtual machine the switch is made up: 2.5 GT/s, one lane, which nothing crosses; widths of 0 are not known. */
static void test_topo_read_nccl_xml__virtual_bridges(void **state) {
    (void)state;
    begin();
    for (unsigned s = 0; s < 2; s++) {
        put("<cpu host_hash=\"0xa5f31daa95182da8\" numaid=\"%u\" arch=\"x86_64\">"
            "<pci busid=\"0000:%x1:00.0\" class=\"0x060400\" link_speed=\"2.5 GT/s PCIe\" link_width=\"1\">"
            "<pci busid=\"0000:%x3:00.0\" class=\"0x020000\" link_speed=\"32.0 GT/s PCIe\" link_width=\"0\"><nic>"
            "<net name=\"mlx5_%u\" dev=\"%u\" speed=\"200000\" port=\"1\" latency=\"%u.000000\"/></nic></pci>"
            "<pci busid=\"0000:%x4:00.0\" class=\"0x030200\" vendor=\"0x10de\" device=\"0x2330\" "
            "link_speed=\"32.0 GT/s PCIe\" link_width=\"0\"><gpu dev=\"%u\" sm=\"90\" rank=\"%u\" gdr=\"1\">"
            "<nvlink target=\"fffffff:ff:ff.0\" count=\"18\" tclass=\"0x068000\"/></gpu></pci></pci></cpu>",
            s, s + 1, s + 1, 1 - s, 1 - s, 75 * s, s + 1, s, s);
    }
    put("</system>");
    struct mp_topology *t = import_text("2x", text, "");
    assert_int_equal(t->n_levels, 2);
    assert_string_equal(t->types[0].name, "h100");
    assert_int_equal(port_out(t, 0, 0), 18 * 20600000000);
    assert_int_equal(port_out(t, 1, 1), 25000000000);
    assert_int_equal(t->levels[1].latency_ns, 75000);
    assert_non_null(strstr(t->source, "latency 75000 ns, from the file"));
    mp_topology_free(t);
}

/* What NCCL passes over in a dump: cards without <gpu> or <net>, ports that are part of a fused NIC. */
static void test_topo_read_nccl_xml__says_what_is_left_out(void **state) {
    (void)state;
    begin();
    cpu("");
    gpu(1, 0, 90, NVSWITCH);
    put("<pci busid=\"0:2:0.0\" class=\"0x030000\"/><pci busid=\"0:3:0.0\" class=\"0x020000\"/>"
        "<pci busid=\"0:4:0.0\" class=\"0x020700\"><nic><net name=\"mlx5_0\" speed=\"200000\"/></nic></pci>"
        "<nic><net name=\"mlx5_0+mlx5_1\" dev=\"0\" speed=\"400000\"/></nic></cpu></system>");
    struct mp_topology *t = import_text("2x", text, ":h100");
    assert_int_equal(t->n_gpus, 2);
    assert_int_equal(port_out(t, 0, 1), 48000000000);
    assert_non_null(strstr(t->source, "1 devices of class 0x03 without <gpu> are left out"));
    assert_non_null(strstr(t->source, "1 NICs without <net> are left out"));
    assert_non_null(strstr(t->source, "1 nets without dev are left out"));
    mp_topology_free(t);
}

/* A GPU whose NVLink has failed among others: NCCL goes over PCIe without a word. */
static void test_topo_read_nccl_xml__a_gpu_without_nvlink_among_others(void **state) {
    (void)state;
    begin();
    cpu("");
    gpu(1, 0, 90, NVSWITCH);
    gpu(2, 1, 90, "<c2c bw=\"44712\" count=\"5\"/>");
    gpu(3, 2, 90, NVSWITCH);
    put("</cpu></system>");
    import_refused("", text, ":h100", 6, 1, "gpu: has no nvlink to an NVSwitch, and others have");
}

/* GPUs are numbered by rank, wherever they stand. */
static void test_topo_read_nccl_xml__ranks_order_gpus(void **state) {
    (void)state;
    begin();
    cpu("");
    gpu(1, 3, 80, link_to(2, 4));
    gpu(2, 2, 80, link_to(1, 4));
    gpu(3, 0, 80, link_to(4, 8));
    gpu(4, 1, 80, link_to(3, 8));
    put("</cpu></system>");
    struct mp_topology *t = import_text("", text, ":a100");
    assert_int_equal(port_out(t, 0, 0), 160000000000);
    assert_int_equal(port_out(t, 3, 0), 80000000000);
    mp_topology_free(t);
    /* Pairs that are no neighbours in number: no groups, and it is said. */
    begin();
    cpu("");
    gpu(1, 0, 80, link_to(3, 4));
    gpu(2, 1, 80, link_to(4, 4));
    gpu(3, 2, 80, link_to(1, 4));
    gpu(4, 3, 80, link_to(2, 4));
    put("</cpu></system>");
    t = import_text("", text, ":a100");
    assert_int_equal(mp_topology_n_nodes(t), 4);
    assert_non_null(strstr(t->source, "2 pairs of linked GPUs in different groups (GPU 0 and 2 the first)"));
    mp_topology_free(t);
}

static void test_topo_read_nccl_xml__refused_with_the_place(void **state) {
    (void)state;
    static const struct {
        const char *text, *after;
        uint64_t line, column;
        const char *what;
    } cases[] = {
        {"<system version='2'>\n<cpu/></system>", "", 1, 9,
         "version: \"2\" is not a version that NCCL reads (write 1; 2 is RCCL's"},
        {"<system version=''>\n<cpu/></system>", "", 1, 9, "is not a version"},
        {"<system>\n<cpu></cpu></system>", "", 1, 1, "system: has no version (write version=\"1\")"},
        {"<system version='1'>\n<cpu/></system>", "", 1, 1, "has no GPUs"},
        {"<system version='1'><cpu>\n<net/></cpu></system>", "", 2, 1, "net: a net stands inside a nic"},
        {"<system version='1'><cpu>\n<gpu/></cpu></system>", "", 2, 1, "gpu: a gpu stands inside the pci"},
        {"<system version='1'><cpu>\n<pcie/></cpu></system>", "", 2, 1, "pcie: no such element inside cpu"},
        {"<system version='1'><cpu/>\n<gpu/></system>", "", 2, 1, "gpu: a gpu stands inside"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        import_refused("", cases[i].text, cases[i].after, cases[i].line, cases[i].column, cases[i].what);
    begin();
    for (unsigned h = 0; h < 2; h++) {
        put("<cpu host_hash=\"0x%x\">", h);
        gpu(1, h, 80, "");
        put("</cpu>");
    }
    put("</system>");
    import_refused("", text, ":l40s", 0, 0, "compute capability 80, and l40s has 89");
    used = 0;
    begin();
    for (unsigned h = 0; h < 2; h++) {
        put("<cpu host_hash=\"0x%x\">", h);
        gpu(1, 2 * h, 80, link_to(2, 4));
        gpu(2, 2 * h + 1, 80, link_to(1, 4));
        put("</cpu>");
    }
    put("</system>");
    import_refused("", text, ":a100", 0, 0, "holds several hosts that no NVLink switch joins");
    begin();
    cpu("");
    gpu(1, 0, 80, NVSWITCH);
    put("</cpu></system>");
    import_refused("4096x", text, ":h100", 0, 0, "compute capability");
    import_refused("2x", text, "", 0, 0, "which GPUs of compute capability 80");
    struct mp_topology *t = import_text("4096x", text, ":a100");
    assert_int_equal(t->n_gpus, 4096);
    mp_topology_free(t);
}

/* ---- NCCL's choice of NICs, by every path of small random hosts ---- */

enum { MAX_NODES = 96 };

/* Devices, bridges and CPUs, the CPUs being roots. */
struct graph {
    unsigned n, parent[MAX_NODES], kind[MAX_NODES]; /* 'c'pu, 'b'ridge, 'g'pu, 'n'ic */
    uint64_t up[MAX_NODES], speed[MAX_NODES];       /* B/s: to the parent; of a NIC's port */
};

static uint64_t seed = 88172645463325252u;
static unsigned draw(unsigned n) {
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (unsigned)((seed >> 11) % n);
}

static void open_device(struct graph *g, unsigned kind, unsigned parent, const char *class) {
    static const unsigned speeds[] = {8, 16, 32};
    const unsigned k = draw(3), width = 8 << draw(2), id = g->n++;
    g->kind[id] = kind;
    g->parent[id] = parent;
    g->up[id] = (uint64_t)width * (60u << k) * 12500000u;
    put("<pci busid=\"0000:%02x:00.0\" class=\"%s\" link_speed=\"%u GT/s\" link_width=\"%u\">", id, class, speeds[k],
        width);
}

static void add_cards(struct graph *g, unsigned parent, unsigned *n_gpus, unsigned *n_nics) {
    for (unsigned i = draw(3); i > 0; i--) {
        open_device(g, 'g', parent, "0x030200");
        put("<gpu dev=\"%u\" sm=\"80\" rank=\"%u\">" NVSWITCH "</gpu></pci>", *n_gpus, *n_gpus);
        ++*n_gpus;
    }
    for (unsigned i = draw(3); i > 0; i--) {
        open_device(g, 'n', parent, "0x020700");
        g->speed[g->n - 1] = UINT64_C(12500000000) << draw(3);
        put("<nic><net dev=\"%u\" speed=\"%u\"/></nic></pci>", (*n_nics)++, (unsigned)(g->speed[g->n - 1] / 125000));
    }
}

/* The only way between two nodes of a forest whose roots are joined: rate, and a class as NCCL ranks them. */
static void walk(const struct graph *g, unsigned gpu, unsigned nic, uint64_t *rate, unsigned *class) {
    unsigned at = gpu, n_bridges = 0;
    bool on_way[MAX_NODES] = {false}, meets = false;
    for (unsigned x = nic;; x = g->parent[x]) {
        on_way[x] = true;
        if (g->kind[x] == 'c')
            break;
    }
    *rate = g->speed[nic];
    for (; g->kind[at] != 'c' && !on_way[at]; at = g->parent[at]) {
        *rate = g->up[at] < *rate ? g->up[at] : *rate;
        n_bridges += at != gpu;
    }
    meets = g->kind[at] != 'c';
    unsigned x = nic;
    for (; g->kind[x] != 'c' && (!meets || x != at); x = g->parent[x]) {
        *rate = g->up[x] < *rate ? g->up[x] : *rate;
        n_bridges += x != nic;
    }
    *class = meets ? (n_bridges > 0) : x == at ? 2 : 3;
    if (*class == 3 && *rate > 10000000000)
        *rate = 10000000000; /* between CPUs of this kind */
}

static void choose(const struct graph *g, unsigned gpu, unsigned dev, bool *uses) {
    uint64_t best_rate = 0, rate;
    unsigned best_class = 9, class, n = 0, list[MAX_NODES], n_near = 0;
    for (unsigned x = 0; x < g->n; x++) {
        if (g->kind[x] != 'n')
            continue;
        walk(g, gpu, x, &rate, &class);
        if (rate > best_rate || (rate == best_rate && class < best_class)) {
            best_rate = rate;
            best_class = class;
            n = 0;
        }
        if (rate == best_rate && class == best_class)
            list[n++] = x;
    }
    best_rate = 0;
    best_class = 9;
    for (unsigned x = 0; x < g->n; x++) {
        if (g->kind[x] != 'g')
            continue;
        walk(g, x, list[0], &rate, &class);
        if (rate > best_rate || (rate == best_rate && class < best_class)) {
            best_rate = rate;
            best_class = class;
            n_near = 0;
        }
        n_near += rate == best_rate && class == best_class;
    }
    unsigned first = dev;
    if (n == 2)
        first = dev & 1;
    else if (n == 4)
        first = (dev & 1) << 1 | (dev >> 1 & 1);
    else if (n == 8)
        first = (dev & 1) << 2 | (dev & 2) | (dev >> 2 & 1);
    for (unsigned k = 0; k < (n + n_near - 1) / n_near; k++)
        uses[list[(first + k) % n]] = true;
}

static void test_topo_read_nccl_xml__nics_are_those_of_a_search(void **state) {
    (void)state;
    unsigned n_checked = 0, n_shared = 0, n_split = 0, n_several = 0;
    for (int trial = 0; trial < 400; trial++) {
        struct graph g = {0};
        unsigned n_gpus = 0, n_nics = 0, gpus[MAX_NODES];
        begin();
        for (unsigned c = 0; c < 1 + (unsigned)trial % 2; c++) {
            const unsigned root = g.n++;
            g.kind[root] = 'c';
            cpu("vendor=\"GenuineIntel\" familyid=\"6\" modelid=\"85\"");
            add_cards(&g, root, &n_gpus, &n_nics);
            for (unsigned s = draw(3); s > 0; s--) {
                open_device(&g, 'b', root, "0x060400");
                const unsigned bridge = g.n - 1;
                add_cards(&g, bridge, &n_gpus, &n_nics);
                if (draw(2) == 0) {
                    open_device(&g, 'b', bridge, "0x060400");
                    add_cards(&g, g.n - 1, &n_gpus, &n_nics);
                    put("</pci>");
                }
                put("</pci>");
            }
            put("</cpu>");
        }
        put("</system>");
        if (n_gpus == 0 || n_nics == 0 || n_gpus > 8 || n_nics > 8)
            continue;
        n_checked++;
        struct mp_topology *t = import_text("2x", text, ":a100");
        bool uses[8][MAX_NODES] = {{false}};
        for (unsigned x = 0, k = 0; x < g.n; x++)
            if (g.kind[x] == 'g') {
                choose(&g, x, k, uses[k]);
                gpus[k++] = x;
            }
        for (unsigned a = 0; a < n_gpus; a++) {
            unsigned n_same = 0, n_used = 0;
            bool is_split = false;
            uint64_t sum = 0, part = 0, ways = 0;
            for (unsigned b = 0; b < n_gpus; b++) {
                const bool same = memcmp(uses[a], uses[b], sizeof uses[a]) == 0;
                n_same += same;
                for (unsigned x = 0; x < g.n && !same; x++)
                    is_split = is_split || (uses[a][x] && uses[b][x]);
            }
            for (unsigned x = 0; x < g.n; x++) {
                unsigned n_users = 0, class;
                uint64_t rate;
                for (unsigned b = 0; b < n_gpus; b++)
                    n_users += uses[b][x];
                if (!uses[a][x])
                    continue;
                const uint64_t card = g.speed[x] < g.up[x] ? g.speed[x] : g.up[x];
                walk(&g, gpus[a], x, &rate, &class);
                n_used++;
                sum += card;
                part += card / n_users;
                ways += rate;
            }
            uint64_t want = is_split ? part : sum;
            if (is_split || n_same == 1) {
                want = want < ways ? want : ways;
                want = want < g.up[gpus[a]] ? want : g.up[gpus[a]];
            }
            if (port_out(t, a, 1) != want)
                fail_msg("trial %d, GPU %u: %llu and not %llu\n%s", trial, a, (unsigned long long)port_out(t, a, 1),
                         (unsigned long long)want, text);
            for (unsigned b = 0; b < a; b++)
                assert_int_equal(t->gpus[a].out_port[1] == t->gpus[b].out_port[1],
                                 !is_split && memcmp(uses[a], uses[b], sizeof uses[a]) == 0);
            n_shared += n_same > 1 && !is_split;
            n_split += is_split;
            n_several += n_used > 1;
        }
        mp_topology_free(t);
    }
    print_message("# %u hosts; GPUs that share NICs: %u, in part: %u, with several: %u\n", n_checked, n_shared, n_split,
                  n_several);
    assert_true(n_checked > 100 && n_shared > 50 && n_split > 10 && n_several > 50);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_topo_read_nccl_xml__nvswitch_and_a_nic_each),
        cmocka_unit_test(test_topo_read_nccl_xml__h800_has_fewer_lanes),
        cmocka_unit_test(test_topo_read_nccl_xml__shared_and_several_nics),
        cmocka_unit_test(test_topo_read_nccl_xml__one_nic_without_nvlink),
        cmocka_unit_test(test_topo_read_nccl_xml__nvlink_pairs),
        cmocka_unit_test(test_topo_read_nccl_xml__cube_mesh),
        cmocka_unit_test(test_topo_read_nccl_xml__nvl72),
        cmocka_unit_test(test_topo_read_nccl_xml__virtual_bridges),
        cmocka_unit_test(test_topo_read_nccl_xml__says_what_is_left_out),
        cmocka_unit_test(test_topo_read_nccl_xml__a_gpu_without_nvlink_among_others),
        cmocka_unit_test(test_topo_read_nccl_xml__ranks_order_gpus),
        cmocka_unit_test(test_topo_read_nccl_xml__refused_with_the_place),
        cmocka_unit_test(test_topo_read_nccl_xml__nics_are_those_of_a_search),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
