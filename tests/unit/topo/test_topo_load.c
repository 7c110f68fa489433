#include "support.h"
#include <moeplan/base.h>
#include <moeplan/topology.h>

/* [N x]FILE[:GPU]: the file that is meant, and a message that names it. */
static void test_topo_load__names_the_file(void **state) {
    (void)state;
    static const struct {
        const char *spec, *path; /* NULL = no file is meant */
    } cases[] = {{"4xmissing.xml", "missing.xml"},
                 {"4xmissing.xml:h100", "missing.xml"},
                 {"missing.xml:h100", "missing.xml"},
                 {"topology.conf:8:h100", "topology.conf"},
                 {"4x/no/such:a:b", "/no/such"},
                 {"4x8:h100", NULL},
                 {"8:h100", NULL},
                 {"nvl72", NULL},
                 {"4xnvl72", NULL},
                 {"", NULL}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char path[256];
        struct mp_error err = {0};
        struct mp_topology *t;
        assert_int_equal(mp_topology_file(cases[i].spec, path, sizeof path), cases[i].path != NULL);
        if (cases[i].path == NULL)
            continue;
        assert_string_equal(path, cases[i].path);
        assert_int_equal(mp_topology_load(&t, cases[i].spec, NULL, &err), MP_EIO);
        assert_string_equal(err.path, cases[i].path);
        assert_null(t);
    }
}

/* A file of exactly that name first; then the longest that exists; moeplan's own files take neither N nor a GPU. */
static void test_topo_load__finds_the_file(void **state) {
    (void)state;
    const char *plain = source_path("topologies/nvl72.yaml");
    char spec[600], path[600], colon[600];
    struct mp_error err = {0};
    struct mp_topology *t;
    snprintf(colon, sizeof colon, "%s", temp_path("a:b.yaml"));
    struct mp_out *o;
    CHECK_OK(mp_out_open(&o, colon, &err), err);
    mp_out_puts(o, "nothing\n");
    CHECK_OK(mp_out_commit(o, &err), err);
    snprintf(spec, sizeof spec, "4x%.500s:h100", colon);
    assert_true(mp_topology_file(spec, path, sizeof path));
    assert_string_equal(path, colon);
    assert_false(mp_topology_file(spec, path, strlen(colon)));
    static const char *const wrong[][2] = {
        {"4x%s", "says itself how many hosts"},     {"%s:h100", "says itself how many hosts"},
        {"%s:", "nothing stands behind the colon"}, {"0x%s", "the number of hosts"},
        {"4097x%s", "the number of hosts"},         {"99999999999999999999x%s", "the number of hosts"}};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        const char *mark = strstr(wrong[i][0], "%s");
        snprintf(spec, sizeof spec, "%.*s%s%s", (int)(mark - wrong[i][0]), wrong[i][0], plain, mark + 2);
        mp_error_clear(&err);
        assert_int_equal(mp_topology_load(&t, spec, NULL, &err), MP_EINPUT);
        assert_string_equal(err.path, plain);
        if (strstr(err.message, wrong[i][1]) == NULL)
            fail_msg("%s: %s", spec, err.message);
    }
    snprintf(spec, sizeof spec, "4x%.500s:h100", colon);
    mp_error_clear(&err);
    assert_int_equal(mp_topology_load(&t, spec, NULL, &err), MP_EINPUT);
    assert_non_null(strstr(err.message, "is not a topology of another program"));
}

/* An imported topology and the file that `moeplan convert` writes of it are the same to plans. */
static void test_topo_load__hash_is_that_of_the_converted_file(void **state) {
    (void)state;
    char from[400], spec[420], to[400];
    struct mp_error err = {0};
    struct mp_topology *t, *back;
    struct mp_out *o;
    snprintf(from, sizeof from, "%.390s", temp_path("a.xml"));
    snprintf(to, sizeof to, "%.390s", temp_path("a.yaml"));
    snprintf(spec, sizeof spec, "3x%s:h100", from);
    CHECK_OK(mp_out_open(&o, from, &err), err);
    mp_out_puts(o, "<system version='1'><cpu><pci busid='0:1:0.0' class='0x030200'/></cpu></system>");
    CHECK_OK(mp_out_commit(o, &err), err);
    CHECK_OK(mp_topology_load(&t, spec, NULL, &err), err);
    assert_string_equal(t->name, "3xa.xml:h100");
    assert_int_equal(t->n_gpus, 3);
    CHECK_OK(mp_out_open(&o, to, &err), err);
    mp_topology_write(t, o);
    CHECK_OK(mp_out_commit(o, &err), err);
    CHECK_OK(mp_topology_load(&back, to, NULL, &err), err);
    assert_string_equal(back->sha256, t->sha256);
    assert_string_equal(back->source, t->source);
    assert_non_null(strstr(t->source, "NCCL topology XML: 1 GPU"));
    mp_topology_free(t);
    mp_topology_free(back);
}

static enum mp_status load_flow(void *ctx, struct mp_error *err) {
    struct mp_topology *t;
    enum mp_status status = mp_topology_load(&t, ctx, NULL, err);
    mp_topology_free(t);
    return status;
}

static void test_topo_load__faults(void **state) {
    (void)state;
    char from[400], spec[420];
    struct mp_error err = {0};
    struct mp_out *o;
    snprintf(from, sizeof from, "%.390s", temp_path("b.xml"));
    snprintf(spec, sizeof spec, "2x%s:a100", from);
    CHECK_OK(mp_out_open(&o, from, &err), err);
    mp_out_puts(o, "<system version='1'><cpu><pci busid='0:1:0.0' class='0x0604'>"
                   "<pci busid='0:2:0.0' class='0x030200'><gpu dev='0' rank='0' sm='80'>"
                   "<nvlink target='0:3:0.0' count='4'/></gpu></pci>"
                   "<pci busid='0:3:0.0' class='0x030200'><gpu dev='1' rank='1' sm='80'>"
                   "<nvlink target='0:2:0.0' count='4'/></gpu></pci>"
                   "<pci busid='0:4:0.0' class='0x020700'><nic><net dev='0' speed='200000'/></nic></pci>"
                   "</pci></cpu></system>");
    CHECK_OK(mp_out_commit(o, &err), err);
    sweep_faults(load_flow, spec, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_topo_load__names_the_file),
        cmocka_unit_test(test_topo_load__finds_the_file),
        cmocka_unit_test(test_topo_load__hash_is_that_of_the_converted_file),
        cmocka_unit_test(test_topo_load__faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
