#include "support.h"
#include <moeplan/base.h>
#include <moeplan/topology.h>

static struct mp_topology *load(const char *spec) {
    struct mp_error err = {0};
    struct mp_topology *t;
    CHECK_OK(mp_topology_load(&t, spec, NULL, &err), err);
    return t;
}
static struct mp_topology *parse(const char *text, size_t n) {
    struct mp_error err = {0};
    struct mp_topology *t;
    struct mp_in *in;
    CHECK_OK(mp_in_from_memory(&in, "t.yaml", text, n, &err), err);
    enum mp_status status = mp_topology_parse(&t, in, NULL, &err);
    if (status != MP_OK)
        print_message("# %.3000s\n", text);
    CHECK_OK(status, err);
    mp_in_close(in);
    return t;
}
static char *text_of(const struct mp_topology *t) {
    struct mp_error err = {0};
    struct mp_out *o;
    size_t n;
    CHECK_OK(mp_out_open_memory(&o, &err), err);
    mp_topology_write(t, o);
    const uint8_t *bytes = mp_out_memory_bytes(o, &n);
    char *copy = mp_calloc(n + 1, 1);
    memcpy(copy, bytes, n);
    CHECK_OK(mp_out_commit(o, &err), err);
    return copy;
}

/* The path has this level, latency, cap, and passes resources with these rates (GB/s, 0 ends). */
static void check_path(const struct mp_topology *t, uint32_t src, uint32_t dst, uint32_t level, uint64_t latency_ns,
                       double cap_gb, const double *gb) {
    struct mp_path p;
    mp_topology_path(t, src, dst, &p);
    assert_int_equal(p.level, level);
    assert_int_equal(p.latency_ns, latency_ns);
    assert_true((double)p.cap_bytes_per_s == cap_gb * 1e9);
    uint32_t n = 0;
    for (; gb[n] > 0; n++) {
        assert_true(n < p.n);
        if ((double)t->resources[p.resource[n]].bytes_per_s != gb[n] * 1e9)
            fail_msg("%u -> %u: resource %u has %llu B/s", src, dst, n,
                     (unsigned long long)t->resources[p.resource[n]].bytes_per_s);
    }
    assert_int_equal(p.n, n);
    assert_true(n == 0 || (!t->resources[p.resource[0]].is_in && t->resources[p.resource[n - 1]].is_in));
}
#define PATH(t, src, dst, level, ns, cap, ...) check_path(t, src, dst, level, ns, cap, (const double[]){__VA_ARGS__})

static void test_topology__one_node(void **state) {
    (void)state;
    struct mp_topology *t = load("8:h100");
    assert_int_equal(t->n_gpus, 8);
    assert_int_equal(t->n_levels, 1);
    assert_int_equal(t->n_resources, 16);
    assert_int_equal(mp_topology_n_nodes(t), 1);
    PATH(t, 0, 7, 0, 936, 0, 380, 380, 0);
    PATH(t, 3, 3, 0, 0, 0, 0);
    mp_topology_free(t);
    mp_topology_free(NULL);
}

static void test_topology__mesh_caps_each_pair(void **state) {
    (void)state;
    struct mp_topology *t = load("mi300x-n1g8");
    PATH(t, 1, 2, 0, 936, 64, 448, 448, 0);
    assert_int_equal(t->launch_ns, 30000);
    mp_topology_free(t);
}

static void test_topology__oversubscribed_uplinks(void **state) {
    (void)state;
    struct mp_topology *t = load("h100-n4g8-oversubscribed");
    assert_int_equal(t->n_gpus, 32);
    assert_int_equal(mp_topology_n_nodes(t), 4);
    assert_int_equal(mp_topology_node(t, 8), 1);
    assert_int_equal(t->n_resources, 32 * 4 + 4 * 2);
    PATH(t, 8, 15, 0, 936, 0, 380, 380, 0);
    PATH(t, 0, 8, 1, 2600, 0, 48.85, 195.4, 195.4, 48.85, 0);
    /* Two flows of one node share its uplink, flows of two nodes do not. */
    struct mp_path a, b, c;
    mp_topology_path(t, 0, 8, &a);
    mp_topology_path(t, 7, 30, &b);
    mp_topology_path(t, 9, 30, &c);
    assert_int_equal(a.resource[1], b.resource[1]);
    assert_int_not_equal(a.resource[1], c.resource[1]);
    assert_int_equal(b.resource[2], c.resource[2]);
    assert_int_not_equal(a.resource[0], b.resource[0]);
    mp_topology_free(t);
}

static void test_topology__three_levels(void **state) {
    (void)state;
    struct mp_topology *t = load("rack-two-tier");
    assert_int_equal(t->n_gpus, 32);
    assert_int_equal(t->levels[1].n_groups, 2);
    PATH(t, 0, 7, 0, 936, 0, 380, 380, 0);
    PATH(t, 0, 8, 1, 2600, 0, 48.85, 48.85, 0);
    PATH(t, 0, 16, 2, 4000, 0, 48.85, 195.4, 195.4, 48.85, 0);
    /* The NIC of the leaf level is the port of the spine level too. */
    assert_int_equal(t->gpus[0].out_port[2], t->gpus[0].out_port[1]);
    mp_topology_free(t);
}

static void test_topology__shared_nic(void **state) {
    (void)state;
    struct mp_topology *t = load("shared-nic");
    assert_int_equal(t->n_gpus, 16);
    assert_int_equal(t->n_resources, 16 * 2 + 8 * 2);
    struct mp_path a, b, c;
    mp_topology_path(t, 0, 8, &a);
    mp_topology_path(t, 1, 15, &b);
    mp_topology_path(t, 2, 15, &c);
    assert_int_equal(a.resource[0], b.resource[0]);
    assert_int_not_equal(b.resource[0], c.resource[0]);
    assert_int_equal(b.resource[1], c.resource[1]);
    assert_int_equal(t->resources[a.resource[0]].first_gpu, 0);
    PATH(t, 1, 8, 1, 2600, 0, 9.5, 9.5, 0);
    PATH(t, 0, 1, 0, 300, 0, 125, 125, 0);
    mp_topology_free(t);
}

static void test_topology__mixed(void **state) {
    (void)state;
    struct mp_topology *t = load("mixed-a100-l40s");
    assert_int_equal(t->n_gpus, 16);
    assert_int_equal(t->n_types, 2);
    assert_string_equal(t->types[t->gpus[15].type].name, "l40s");
    assert_int_equal(t->gpus[12].speed_ppm, 930000);
    assert_int_equal(t->gpus[15].speed_ppm, 1000000);
    assert_int_equal(t->levels[1].n_incast, 4);
    assert_int_equal(t->levels[1].incast_ppm[3], 900000);
    PATH(t, 0, 1, 0, 10000, 0, 300, 300, 0);
    PATH(t, 0, 12, 1, 2600, 0, 25, 25, 0);
    PATH(t, 12, 0, 1, 2600, 0, 12.5, 25, 0);
    PATH(t, 8, 9, 0, 10000, 0, 32, 32, 0);
    mp_topology_free(t);
}

static void test_topology__nvl72_is_one_node(void **state) {
    (void)state;
    struct mp_topology *t = load("nvl72");
    assert_int_equal(t->n_gpus, 72);
    assert_int_equal(mp_topology_n_nodes(t), 1);
    assert_int_equal(t->types[0].memory_bytes, 186000000000);
    assert_int_equal(t->types[0].flops_8bit, 4500000000000000);
    PATH(t, 0, 71, 0, 936, 0, 726, 726, 0);
    mp_topology_free(t);
}

/* What is written reads back as the same, for everything built in. */
static void check_round_trip(const struct mp_topology *t) {
    char *first = text_of(t);
    struct mp_topology *back = parse(first, strlen(first));
    char *second = text_of(back);
    assert_string_equal(first, second);
    assert_int_equal(back->n_gpus, t->n_gpus);
    assert_int_equal(back->n_resources, t->n_resources);
    assert_memory_equal(back->gpus, t->gpus, t->n_gpus * sizeof *t->gpus);
    for (uint32_t i = 0; i < t->n_resources; i++) {
        assert_int_equal(back->resources[i].bytes_per_s, t->resources[i].bytes_per_s);
        assert_int_equal(back->resources[i].first_gpu, t->resources[i].first_gpu);
    }
    mp_topology_free(back);
    mp_free(first);
    mp_free(second);
}
static void test_topology__round_trips(void **state) {
    (void)state;
    const char *name, *summary;
    uint32_t n = 0;
    for (; mp_topology_preset(n, &name, &summary); n++) {
        assert_true(summary[0] != '\0');
        struct mp_topology *t = load(name);
        assert_string_equal(t->name, name);
        check_round_trip(t);
        /* What is built in is the file, byte for byte. */
        char file[256];
        snprintf(file, sizeof file, "topologies/%s.yaml", name);
        struct mp_topology *same = load(source_path(file));
        assert_string_equal(same->sha256, t->sha256);
        mp_topology_free(same);
        mp_topology_free(t);
    }
    assert_int_equal(n, 8);
    for (n = 0; mp_gpu_preset(n, &name, &summary); n++) {
        char spec[256];
        snprintf(spec, sizeof spec, "3x5:%s+2:%s", name, name);
        struct mp_topology *t = load(spec);
        assert_int_equal(t->n_gpus, 17);
        assert_string_equal(t->types[0].name, name);
        assert_non_null(strstr(t->types[0].source, name));
        check_round_trip(t);
        mp_topology_free(t);
    }
    assert_int_equal(n, 9);
}

/* Measured coefficients, odd names and shared names survive too. */
static void test_topology__round_trip_of_everything(void **state) {
    (void)state;
    static const char text[] =
        "schema: moeplan.topology\nversion: 1\nname: \"a: \\\"b\\\" \\u00e9\"\nlaunch: 1 us\nstage_launch: 2 us\n"
        "gpu_types:\n  \"x: y\":\n    memory: 1 GiB\n    hbm: 1 TB/s\n    flops_16bit: 1 TFLOPS\n    hbm_efficiency: "
        "0.5\n"
        "    flops_efficiency: 1.0\n    kernel: 1 us\n    tile_tokens: 16\n    source: here\n"
        "    compute:\n      - {model: m1, a_ps: 1, b_ps: 2, c_ps: 3, beta_ps: 4}\n      - {model: m2, a_ps: 5, b_ps: "
        "6, c_ps: 7, beta_ps: 8}\n"
        "  h: {preset: h100, kernel: 5 us}\n"
        "levels:\n  - {name: \"l 0\", latency: 0 ns, incast: [1.0, 0.5]}\n  - {name: l1, latency: 1 us, pair: 1 GB/s}\n"
        "groups:\n  - gpus:\n"
        "      - {type: \"x: y\", ports: {\"l 0\": 10 GB/s, l1: {rate: 2 GB/s, shared: a}}}\n"
        "      - {type: h, repeat: 2, speed: 1.25, ports: {\"l 0\": {out: 10 GB/s, in: 9 GB/s}, l1: {rate: 2 GB/s, "
        "shared: b}}}\n"
        "      - {type: h, ports: {\"l 0\": 10 GB/s, l1: {rate: 2 GB/s, shared: a}}}\n"
        "      - {type: h, repeat: 4, ports: {\"l 0\": {rate: 10 GB/s, shared_by: 4}, l1: {rate: 2 GB/s, shared_by: "
        "2}}}\n"
        "  - {repeat: 2, gpus: [{type: \"x: y\", ports: {\"l 0\": 10 GB/s}}]}\n";
    struct mp_topology *t = parse(text, sizeof text - 1);
    assert_int_equal(t->n_gpus, 10);
    assert_int_equal(t->gpus[0].out_port[1], t->gpus[3].out_port[1]);
    assert_int_equal(t->gpus[1].in_port[1], t->gpus[2].in_port[1]);
    assert_int_equal(t->gpus[4].out_port[0], t->gpus[7].out_port[0]);
    assert_int_equal(t->gpus[4].out_port[1], t->gpus[5].out_port[1]);
    assert_int_not_equal(t->gpus[5].out_port[1], t->gpus[6].out_port[1]);
    assert_int_equal(t->gpus[8].out_port[1], t->gpus[8].out_port[0]);
    assert_int_equal(t->types[0].coefficients[1].beta_ps, 8);
    assert_int_equal(t->types[1].kernel_ns, 5000);
    check_round_trip(t);
    mp_topology_free(t);
}

static void test_topology__sizes_on_both_sides(void **state) {
    (void)state;
    static const char *const good[] = {"1:h100", "1x1:h100", "4096:h100", "4096x1:h100", "512x8:h100"};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        uint64_t live = mp_alloc_live();
        mp_alloc_limit(live + ((uint64_t)4 << 20)); /* linear: a table of pairs alone would be 16 M entries */
        struct mp_topology *t = load(good[i]);
        mp_alloc_limit(0);
        check_round_trip(t);
        mp_topology_free(t);
    }
    static const char *const bad[] = {"4097:h100", "4096x2:h100", "0:h100", "4096:h100+1:h100"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct mp_topology *t;
        assert_int_equal(mp_topology_load(&t, bad[i], NULL, NULL), MP_EINPUT);
        assert_null(t);
    }
}

/* Every broken invariant is found. */
static void test_topology__the_checker_finds_each_fault(void **state) {
    (void)state;
    for (int fault = 0;; fault++) {
        struct mp_topology *loaded = load(fault % 2 == 0 ? "h100-n4g8-oversubscribed" : "shared-nic"), broken = *loaded;
        struct mp_gpu gpus[32];
        struct mp_level levels[2];
        struct mp_gpu_type types[1] = {loaded->types[0]};
        struct mp_resource *resources = mp_calloc(loaded->n_resources, sizeof *resources);
        uint32_t up[4] = {0};
        static const uint32_t rising[] = {1000000, 900000, 950000};
        memcpy(gpus, loaded->gpus, loaded->n_gpus * sizeof *gpus);
        memcpy(levels, loaded->levels, sizeof levels);
        memcpy(resources, loaded->resources, loaded->n_resources * sizeof *resources);
        if (levels[0].uplink_out != NULL)
            memcpy(up, levels[0].uplink_out, sizeof up);
        broken.gpus = gpus;
        broken.levels = levels;
        broken.types = types;
        broken.resources = resources;
        bool is_last = false;
        switch (fault / 2) {
        case 0:
            broken.name = "";
            break;
        case 1:
            broken.n_gpus = 0;
            break;
        case 2:
            broken.n_gpus--;
            break;
        case 3:
            broken.n_levels = 1;
            break;
        case 4:
            gpus[3].type = 1;
            break;
        case 5:
            gpus[3].speed_ppm = 0;
            break;
        case 6:
            gpus[3].group[0] = 1;
            break;
        case 7:
            gpus[8].group[0] = 0;
            break;
        case 8:
            gpus[9].group[1] = 1;
            break;
        case 9:
            gpus[3].out_port[0] = loaded->n_resources;
            break;
        case 10:
            gpus[3].out_port[0] = gpus[3].in_port[0];
            break;
        case 11:
            gpus[3].out_port[1] = gpus[3].out_port[0];
            break;
        case 12:
            gpus[3].out_port[0] = gpus[2].out_port[0];
            break;
        case 13:
            gpus[8].out_port[1] = gpus[0].out_port[1];
            gpus[8].in_port[1] = gpus[0].in_port[1];
            break;
        case 14:
            resources[5].bytes_per_s = 0;
            break;
        case 15:
            resources[5].level = 3;
            break;
        case 16:
            resources[5].first_gpu = 31;
            break;
        case 17:
            levels[0].name = levels[1].name;
            break;
        case 18:
            levels[0].n_groups++;
            break;
        case 19:
            levels[1].n_incast = 3;
            levels[1].incast_ppm = rising;
            break;
        case 20:
            types[0].memory_bytes = 0;
            break;
        case 21:
            types[0].tile_tokens = 0;
            break;
        case 22:
            types[0].hbm_efficiency_ppm = 1000001;
            break;
        case 23:
            types[0].name = NULL;
            break;
        case 24:
            broken.sha256[0] = '\0';
            break;
        case 25:
            levels[1].uplink_out = levels[1].uplink_in = up;
            break;
        case 26:
            broken.n_resources--;
            break;
        case 27:
            up[1] = up[2];
            levels[0].uplink_out = up;
            break;
        case 28:
            levels[0].uplink_in = fault % 2 == 0 ? NULL : up;
            break;
        default:
            is_last = true;
        }
        struct mp_error err = {0};
        enum mp_status status = mp_topology_check(&broken, &err);
        if (status != (is_last ? MP_OK : MP_EBUG))
            fail_msg("fault %d gives %d %s", fault, (int)status, err.message);
        mp_free(resources);
        mp_topology_free(loaded);
        if (is_last && fault % 2 == 1)
            break;
    }
}

/* ---- random trees against a plain model of them ---- */

enum { MAX_RANDOM = 600 };
struct expectation {
    uint32_t n, n_levels, group[MAX_RANDOM][3], nic[MAX_RANDOM]; /* nic: which NIC, unique in the cluster */
    uint64_t rate[MAX_RANDOM][2], uplink[2][MAX_RANDOM];
    uint32_t n_groups[2];
    bool has_uplink[2];
};

static void random_node(struct mp_rng *r, struct mp_out *o, struct expectation *e, uint32_t n_copies, const char *pad) {
    uint32_t first = e->n, n_entries = 1 + (uint32_t)mp_rng_below(r, 3), named[3];
    memset(named, 0xff, sizeof named);
    mp_out_printf(o, "%sgpus:\n", pad);
    for (uint32_t i = 0; i < n_entries; i++) {
        uint32_t repeat = 1 + (uint32_t)mp_rng_below(r, 4), share = (uint32_t)mp_rng_below(r, 3),
                 by = mp_rng_below(r, 2) == 0 ? repeat : 1;
        uint32_t name = (uint32_t)mp_rng_below(r, 3);
        uint64_t up = 1 + mp_rng_below(r, 9), nic = share == 2 ? 7 : 1 + mp_rng_below(r, 9);
        mp_out_printf(o, "%s  - {repeat: %u, type: %s, ports: {a: %llu GB/s", pad, repeat, i % 2 == 0 ? "h100" : "l40s",
                      (unsigned long long)up);
        if (e->n_levels > 1)
            mp_out_printf(o,
                          share == 0   ? ", b: %llu GB/s"
                          : share == 1 ? ", b: {rate: %llu GB/s, shared_by: %u}"
                                       : ", b: {rate: %llu GB/s, shared: k%u}",
                          (unsigned long long)nic, share == 1 ? by : name);
        mp_out_puts(o, "}}\n");
        for (uint32_t k = 0; k < repeat; k++, e->n++) {
            e->rate[e->n][0] = up * 1000000000;
            e->rate[e->n][1] = nic * 1000000000;
            e->nic[e->n] = e->n;
            if (share == 1 && k % by != 0)
                e->nic[e->n] = e->nic[e->n - 1];
            if (share == 2 && named[name] == UINT32_MAX)
                named[name] = e->n;
            if (share == 2)
                e->nic[e->n] = named[name];
        }
    }
    uint32_t size = e->n - first;
    for (uint32_t c = 1; c < n_copies; c++)
        for (uint32_t k = 0; k < size; k++, e->n++) {
            memcpy(e->rate[e->n], e->rate[first + k], sizeof e->rate[0]);
            e->nic[e->n] = e->nic[first + k] + c * size;
        }
    for (uint32_t g = first; g < e->n; g++)
        e->group[g][0] = e->n_groups[0] + (g - first) / size;
}

static void random_groups(struct mp_rng *r, struct mp_out *o, struct expectation *e, const char *pad) {
    uint32_t n = 1 + (uint32_t)mp_rng_below(r, 3);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t repeat = 1 + (uint32_t)mp_rng_below(r, 3);
        uint64_t uplink = 1 + mp_rng_below(r, 50);
        mp_out_printf(o, "%s- repeat: %u\n", pad, repeat);
        if (e->has_uplink[0])
            mp_out_printf(o, "%s  uplink: %llu GB/s\n", pad, (unsigned long long)uplink);
        char inner[32];
        snprintf(inner, sizeof inner, "%s  ", pad);
        random_node(r, o, e, repeat, inner);
        for (uint32_t k = 0; k < repeat; k++)
            e->uplink[0][e->n_groups[0]++] = uplink * 1000000000;
    }
}

static void test_topology__random_trees(void **state) {
    (void)state;
    struct mp_rng r = mp_rng_seed(20260901);
    struct expectation *e = mp_calloc(1, sizeof *e);
    for (int round = 0; round < 150; round++) {
        memset(e, 0, sizeof *e);
        struct mp_error err = {0};
        struct mp_out *o;
        CHECK_OK(mp_out_open_memory(&o, &err), err);
        e->n_levels = 1 + (uint32_t)mp_rng_below(&r, 3);
        e->has_uplink[0] = e->n_levels > 1 && mp_rng_below(&r, 2) == 0;
        e->has_uplink[1] = e->n_levels > 2 && mp_rng_below(&r, 2) == 0;
        mp_out_puts(
            o, "schema: moeplan.topology\nversion: 1\nname: r\nlaunch: 1 us\nlevels:\n  - {name: a, latency: 1 us}\n");
        if (e->n_levels > 1)
            mp_out_puts(o, "  - {name: b, latency: 2 us}\n");
        if (e->n_levels > 2)
            mp_out_puts(o, "  - {name: c, latency: 3 us}\n");
        if (e->n_levels == 1) {
            random_node(&r, o, e, 1, "");
        } else if (e->n_levels == 2) {
            mp_out_puts(o, "groups:\n");
            random_groups(&r, o, e, "  ");
        } else {
            mp_out_puts(o, "groups:\n");
            for (uint32_t g = 0, n = 1 + (uint32_t)mp_rng_below(&r, 3); g < n; g++) {
                uint64_t uplink = 1 + mp_rng_below(&r, 50);
                uint32_t first = e->n;
                if (e->has_uplink[1])
                    mp_out_printf(o, "  - uplink: {out: %llu GB/s, in: %llu GB/s}\n    groups:\n",
                                  (unsigned long long)uplink, (unsigned long long)uplink);
                else
                    mp_out_puts(o, "  - groups:\n");
                random_groups(&r, o, e, "      ");
                for (; first < e->n; first++)
                    e->group[first][1] = g;
                e->uplink[1][e->n_groups[1]++] = uplink * 1000000000;
            }
        }
        size_t size;
        const char *text = (const char *)mp_out_memory_bytes(o, &size);
        struct mp_topology *t = parse(text, size);
        assert_int_equal(t->n_gpus, e->n);
        for (uint32_t i = 0; i < e->n; i++)
            for (uint32_t j = 0; j < e->n; j++) {
                if (i == j)
                    continue;
                uint32_t level = e->group[i][0] == e->group[j][0] ? 0 : e->group[i][1] == e->group[j][1] ? 1 : 2, k = 0;
                struct mp_path p;
                mp_topology_path(t, i, j, &p);
                assert_int_equal(p.level, level);
                assert_int_equal(p.latency_ns, 1000 * (level + 1));
                uint64_t want[6];
                want[k++] = e->rate[i][level > 0];
                for (uint32_t l = 0; l < level; l++)
                    if (e->has_uplink[l])
                        want[k++] = e->uplink[l][e->group[i][l]];
                for (uint32_t l = level; l-- > 0;)
                    if (e->has_uplink[l])
                        want[k++] = e->uplink[l][e->group[j][l]];
                want[k++] = e->rate[j][level > 0];
                assert_int_equal(p.n, k);
                for (k = 0; k < p.n; k++)
                    assert_int_equal(t->resources[p.resource[k]].bytes_per_s, want[k]);
                if (e->n_levels > 1)
                    assert_int_equal(t->gpus[i].out_port[1] == t->gpus[j].out_port[1], e->nic[i] == e->nic[j]);
            }
        check_round_trip(t);
        mp_topology_free(t);
        mp_out_cancel(o);
    }
    mp_free(e);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_topology__one_node),
        cmocka_unit_test(test_topology__mesh_caps_each_pair),
        cmocka_unit_test(test_topology__oversubscribed_uplinks),
        cmocka_unit_test(test_topology__three_levels),
        cmocka_unit_test(test_topology__shared_nic),
        cmocka_unit_test(test_topology__mixed),
        cmocka_unit_test(test_topology__nvl72_is_one_node),
        cmocka_unit_test(test_topology__round_trips),
        cmocka_unit_test(test_topology__round_trip_of_everything),
        cmocka_unit_test(test_topology__sizes_on_both_sides),
        cmocka_unit_test(test_topology__the_checker_finds_each_fault),
        cmocka_unit_test(test_topology__random_trees),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
