#include "support.h"
#include <moeplan/base.h>
#include <moeplan/topology.h>
#include <moeplan/yaml.h>

static struct mp_topology *load(const char *spec) {
    struct mp_error err = {0};
    struct mp_topology *t;
    CHECK_OK(mp_topology_load(&t, spec, NULL, &err), err);
    return t;
}

static void test_topo_short__shapes(void **state) {
    (void)state;
    static const struct {
        const char *spec;
        uint32_t n_gpus, n_nodes, n_levels, n_types;
    } cases[] = {
        {"8:a100", 8, 1, 1, 1},         {"1:v100", 1, 1, 1, 1},           {"4x8:h100", 32, 4, 2, 1},
        {"4x1:b200", 4, 4, 2, 1},       {"1x8:h200", 8, 1, 1, 1},         {"2x4:a100+2x4:l40s", 16, 4, 2, 2},
        {"8:h100+8:h100", 16, 2, 2, 1}, {"3:l40s+2x5:l40s", 13, 3, 2, 1}, {"2x8:mi300x", 16, 2, 2, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct mp_topology *t = load(cases[i].spec);
        char hash[65];
        mp_sha256_hex(cases[i].spec, strlen(cases[i].spec), hash);
        assert_string_equal(t->name, cases[i].spec);
        assert_string_equal(t->sha256, hash);
        assert_int_equal(t->n_gpus, cases[i].n_gpus);
        assert_int_equal(mp_topology_n_nodes(t), cases[i].n_nodes);
        assert_int_equal(t->n_levels, cases[i].n_levels);
        assert_int_equal(t->n_types, cases[i].n_types);
        mp_topology_free(t);
    }
}

/* One NIC per GPU at the preset's rate; the slower latency counts for the shared level. */
static void test_topo_short__figures(void **state) {
    (void)state;
    struct mp_topology *t = load("2x4:a100+2x4:l40s");
    struct mp_path p;
    mp_topology_path(t, 0, 12, &p);
    assert_int_equal(p.n, 2);
    assert_int_equal(t->resources[p.resource[0]].bytes_per_s, 25000000000);
    assert_int_equal(t->levels[0].latency_ns, 10000);
    assert_string_equal(t->levels[0].name, "scale-up");
    assert_string_equal(t->levels[1].name, "nic");
    mp_topology_path(t, 0, 1, &p);
    assert_int_equal(t->resources[p.resource[0]].bytes_per_s, 300000000000);
    mp_topology_path(t, 15, 14, &p);
    assert_int_equal(t->resources[p.resource[0]].bytes_per_s, 32000000000);
    mp_topology_free(t);
    t = load("2x8:mi300x");
    mp_topology_path(t, 0, 1, &p);
    assert_int_equal(p.cap_bytes_per_s, 64000000000);
    mp_topology_path(t, 0, 8, &p);
    assert_int_equal(p.cap_bytes_per_s, 0);
    mp_topology_free(t);
}

static void test_topo_short__refused_with_the_place(void **state) {
    (void)state;
    static const struct {
        const char *spec;
        uint64_t column;
    } cases[] = {{"8", 2},
                 {"8:", 3},
                 {"4x:h100", 3},
                 {"4x0:h100", 3},
                 {"0:h100", 1},
                 {"4x8:foo", 5},
                 {"4x8:h100+", 10},
                 {"4x8h100", 4},
                 {"4xx8:h100", 3},
                 {"04x8:h100", 1},
                 {"4X8:h100", 2},
                 {"8:h100 ", 3},
                 {"8:h100+x", 8},
                 {"5000:h100", 1},
                 {"64x65:h100", 1},
                 {"4096:h100+1:a100", 11},
                 {"8:mi300x+8:h100", 10},
                 {"8:H100", 3}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct mp_error err = {0};
        struct mp_topology *t;
        enum mp_status status = mp_topology_load(&t, cases[i].spec, NULL, &err);
        if (status != MP_EINPUT || err.column != cases[i].column || strcmp(err.path, cases[i].spec) != 0)
            fail_msg("%s: status %d, column %u: %s", cases[i].spec, (int)status, (unsigned)err.column, err.message);
        assert_null(t);
    }
}

static void test_topo_short__names_and_files(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct mp_topology *t;
    assert_int_equal(mp_topology_load(&t, "h1000", NULL, &err), MP_EINPUT);
    assert_non_null(strstr(err.message, "not a file, a built-in topology or a short string"));
    assert_int_equal(mp_topology_load(&t, "", NULL, NULL), MP_EINPUT);
    assert_int_equal(mp_topology_load(&t, "no/such/file", NULL, NULL), MP_EIO);
    assert_int_equal(mp_topology_load(&t, "none.yaml", NULL, NULL), MP_EIO);
    assert_int_equal(mp_topology_load(&t, "/tmp", NULL, NULL), MP_EIO);
    /* A file wins over a name. */
    const char *path = temp_path("4x8:h100");
    struct mp_out *o;
    mp_error_clear(&err);
    CHECK_OK(mp_out_open(&o, path, &err), err);
    mp_out_puts(o,
                "schema: moeplan.topology\nversion: 1\nname: mine\nlaunch: 1 us\nlevels: [{name: a, latency: 1 us}]\n"
                "gpus: [{type: h100, ports: {a: 1 GB/s}}]\n");
    CHECK_OK(mp_out_commit(o, &err), err);
    CHECK_OK(mp_topology_load(&t, path, NULL, &err), err);
    assert_string_equal(t->name, "mine");
    mp_topology_free(t);
}

/* Every figure of a built-in GPU says where it comes from. */
static void check_sources(const struct mp_yaml *map, const char *file) {
    static const char *const words[] = {"schema", "version", "name", "summary", "source"};
    for (uint32_t i = 0; i < map->n; i++) {
        const struct mp_yaml *n = &map->items[i];
        bool is_word = false;
        for (size_t w = 0; w < sizeof words / sizeof words[0]; w++)
            is_word |= strcmp(n->key, words[w]) == 0;
        if (is_word)
            continue;
        if (n->kind == MP_YAML_MAPPING && mp_yaml_get(n, "value") == NULL) {
            check_sources(n, file);
            continue;
        }
        const struct mp_yaml *source = mp_yaml_get(n, "source");
        if (source == NULL || source->length < 10)
            fail_msg("%s: %s has no source", file, n->key);
    }
}
static void test_topo_short__gpus_have_sources(void **state) {
    (void)state;
    const char *name, *summary;
    for (uint32_t i = 0; mp_gpu_preset(i, &name, &summary); i++) {
        struct mp_error err = {0};
        struct mp_in *in;
        struct mp_yaml_doc *d;
        char file[256];
        snprintf(file, sizeof file, "topologies/gpus/%s.yaml", name);
        CHECK_OK(mp_in_open(&in, source_path(file), 0, &err), err);
        CHECK_OK(mp_yaml_parse(&d, in, NULL, &err), err);
        assert_string_equal(mp_yaml_get(d->root, "name")->text, name);
        check_sources(d->root, file);
        mp_yaml_free(d);
        mp_in_close(in);
    }
}

/* The presets say what the data sheets in the shared data say. */
static void test_topo_short__gpus_agree_with_data_sheets(void **state) {
    (void)state;
    static const char *const sheets[][2] = {{"a100", "measured/system_a100_sxm.yaml"},
                                            {"h100", "measured/system_h100_sxm.yaml"},
                                            {"h200", "measured/system_h200_sxm.yaml"},
                                            {"l40s", "measured/system_l40s.yaml"}};
    for (size_t i = 0; i < sizeof sheets / sizeof sheets[0]; i++) {
        const char *path = shared_path(sheets[i][1]);
        if (path == NULL)
            skip();
        struct mp_error err = {0};
        struct mp_in *in;
        struct mp_yaml_doc *d;
        char spec[64];
        snprintf(spec, sizeof spec, "8:%s", sheets[i][0]);
        struct mp_topology *t = load(spec);
        CHECK_OK(mp_in_open(&in, path, 0, &err), err);
        CHECK_OK(mp_yaml_parse(&d, in, NULL, &err), err);
        const struct mp_yaml *gpu = mp_yaml_get(d->root, "gpu");
        uint64_t v;
        CHECK_OK(mp_yaml_u64(d, mp_yaml_get(gpu, "mem_capacity"), 1, UINT64_MAX, &v, &err), err);
        assert_int_equal(t->types[0].memory_bytes, v);
        CHECK_OK(mp_yaml_u64(d, mp_yaml_get(gpu, "mem_bw"), 1, UINT64_MAX, &v, &err), err);
        assert_int_equal(t->types[0].hbm_bytes_per_s, v);
        CHECK_OK(mp_yaml_u64(d, mp_yaml_get(gpu, "bfloat16_tc_flops"), 1, UINT64_MAX, &v, &err), err);
        assert_int_equal(t->types[0].flops_16bit, v);
        CHECK_OK(mp_yaml_u64(d, mp_yaml_get(mp_yaml_get(d->root, "node"), "intra_node_bw"), 1, UINT64_MAX, &v, &err),
                 err);
        assert_true(t->resources[0].bytes_per_s <= v);
        mp_yaml_free(d);
        mp_in_close(in);
        mp_topology_free(t);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_topo_short__shapes),
        cmocka_unit_test(test_topo_short__figures),
        cmocka_unit_test(test_topo_short__refused_with_the_place),
        cmocka_unit_test(test_topo_short__names_and_files),
        cmocka_unit_test(test_topo_short__gpus_have_sources),
        cmocka_unit_test(test_topo_short__gpus_agree_with_data_sheets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
