#include "support.h"
#include <moeplan/topology.h>

static enum mp_status parse(const char *text, size_t n, struct mp_topology **t, struct mp_error *err) {
    struct mp_in *in;
    *t = NULL;
    enum mp_status status = mp_in_from_memory(&in, "t.yaml", text, n, err);
    if (status != MP_OK)
        return status;
    status = mp_topology_parse(t, in, NULL, err);
    mp_in_close(in);
    return status;
}

static struct mp_in *open_sample(uint32_t i) {
    const char *name, *summary;
    char file[256];
    struct mp_error err = {0};
    struct mp_in *in;
    if (!mp_topology_preset(i, &name, &summary))
        return NULL;
    snprintf(file, sizeof file, "topologies/%s.yaml", name);
    CHECK_OK(mp_in_open(&in, source_path(file), 0, &err), err);
    return in;
}

/* A damaged sample ends in a status with a place, or is a sound topology. */
static void check_damaged(const char *text, size_t n) {
    struct mp_error err = {0};
    struct mp_topology *t;
    enum mp_status status = parse(text, n, &t, &err);
    if (status == MP_OK)
        CHECK_OK(mp_topology_check(t, &err), err);
    else if ((status != MP_EINPUT && status != MP_ELIMIT) || err.line == 0 || err.column == 0 || t != NULL)
        fail_msg("status %d, line %u, %s", (int)status, (unsigned)err.line, err.message);
    mp_topology_free(t);
}

static void test_topo_yaml__cuts_and_flips_of_every_sample(void **state) {
    (void)state;
    struct mp_in *in;
    uint64_t live = mp_alloc_live();
    for (uint32_t i = 0; (in = open_sample(i)) != NULL; i++) {
        char *copy = mp_calloc(in->size, 1);
        for (size_t cut = 0; cut < in->size; cut++) {
            memcpy(copy, in->data, in->size);
            check_damaged(copy, cut);
            copy[cut] = (char)(copy[cut] ^ (1 << (cut * 5 + i) % 8));
            check_damaged(copy, in->size);
        }
        mp_free(copy);
        mp_in_close(in);
    }
    assert_int_equal(mp_alloc_live(), live);
}

/* The example of the manual is a topology. */
static void test_topo_yaml__the_example_of_the_manual(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct mp_in *in;
    struct mp_topology *t;
    static const char fence[] = "```yaml\n";
    CHECK_OK(mp_in_open(&in, source_path("topologies/FORMAT.md"), 0, &err), err);
    const char *start = memmem(in->data, in->size, fence, sizeof fence - 1);
    assert_non_null(start);
    start += sizeof fence - 1;
    const char *end = memmem(start, (size_t)((const char *)in->data + in->size - start), "```", 3);
    assert_non_null(end);
    CHECK_OK(parse(start, (size_t)(end - start), &t, &err), err);
    assert_int_equal(t->n_gpus, 16);
    mp_topology_free(t);
    mp_in_close(in);
}

/* Each way of writing a port's rate, and a figure with its source anywhere. */
static void test_topo_yaml__ways_to_write_a_port(void **state) {
    (void)state;
    static const struct {
        const char *port;
        uint64_t out, in;
    } cases[] = {
        {"5 GB/s", 5000000000, 5000000000},
        {"40 Gbit/s", 5000000000, 5000000000},
        {"{rate: 5 GB/s}", 5000000000, 5000000000},
        {"{value: 5 GB/s, source: data sheet}", 5000000000, 5000000000},
        {"{rate: {value: 5 GB/s, source: data sheet}, shared_by: 2}", 5000000000, 5000000000},
        {"{out: 5 GB/s, in: 6 GB/s, source: data sheet}", 5000000000, 6000000000},
        {"{out: {value: 5 GB/s}, in: 6000000000}", 5000000000, 6000000000},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (int where = 0; where < 2; where++) {
            char text[1024];
            struct mp_error err = {0};
            struct mp_topology *t;
            if (where == 1 && strstr(cases[i].port, "shared_by") != NULL)
                continue;
            snprintf(text, sizeof text,
                     "schema: moeplan.topology\nversion: 1\nname: x\nlaunch: {value: 1 us, source: s}\nlevels:\n"
                     "  - {name: a, latency: {value: 1 us, source: s}}\n  - {name: b, latency: 1 us}\ngroups:\n"
                     "  - uplink: %s\n    gpus: [{type: h100, repeat: 2, ports: {a: %s}}]\n",
                     where == 1 ? cases[i].port : "5 GB/s", where == 0 ? cases[i].port : "5 GB/s");
            CHECK_OK(parse(text, strlen(text), &t, &err), err);
            const struct mp_gpu *g = &t->gpus[0];
            uint32_t out = where == 0 ? g->out_port[0] : t->levels[0].uplink_out[0];
            uint32_t in = where == 0 ? g->in_port[0] : t->levels[0].uplink_in[0];
            assert_int_equal(t->resources[out].bytes_per_s, cases[i].out);
            assert_int_equal(t->resources[in].bytes_per_s, cases[i].in);
            assert_int_equal(t->gpus[1].out_port[0] == g->out_port[0], strstr(text, "shared_by") != NULL);
            mp_topology_free(t);
        }
}

/* All eight bits of every byte of a file with every kind of key. */
static void test_topo_yaml__every_flip_of_a_dense_file(void **state) {
    (void)state;
    static const char text[] =
        "schema: moeplan.topology\nversion: 1\nname: x\nlaunch: 1 us\ngpu_types:\n  h: {preset: h100, kernel: 5 "
        "us}\nlevels:\n"
        "  - {name: a, latency: 0 ns, incast: [1.0, 0.5]}\n  - {name: b, latency: 1 us, pair: 1 GB/s}\ngroups:\n"
        "  - {uplink: 9 GB/s, gpus: [{type: h, repeat: 2, speed: 1.25, ports: {a: {out: 10 GB/s, in: 9 GB/s}, b: "
        "{rate: 2 GB/s, shared: b}}}]}\n";
    char copy[sizeof text];
    for (size_t i = 0; i < sizeof text - 1; i++)
        for (int bit = 0; bit < 8; bit++) {
            memcpy(copy, text, sizeof text);
            copy[i] = (char)(copy[i] ^ (1 << bit));
            check_damaged(copy, sizeof text - 1);
        }
}

/* A file of the largest size that repeats cannot hide: 4,096 GPUs one by one, each with a port by name. */
static void test_topo_yaml__a_long_file(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct mp_out *o;
    CHECK_OK(mp_out_open_memory(&o, &err), err);
    mp_out_puts(o, "schema: moeplan.topology\nversion: 1\nname: long\nlaunch: 1 us\nlevels:\n  - {name: a, latency: 1 "
                   "us}\ngpus:\n");
    for (unsigned i = 0; i < 4096; i++)
        mp_out_printf(o, "  - {type: h100, ports: {a: {rate: 1 GB/s, shared: k%u}}}\n", i / 2);
    size_t n;
    const char *text = (const char *)mp_out_memory_bytes(o, &n);
    struct mp_topology *t;
    CHECK_OK(parse(text, n, &t, &err), err);
    assert_int_equal(t->n_gpus, 4096);
    assert_int_equal(t->n_resources, 4096);
    mp_topology_free(t);
    mp_out_puts(o, "  - {type: h100, ports: {a: 1 GB/s}}\n");
    text = (const char *)mp_out_memory_bytes(o, &n);
    assert_int_equal(parse(text, n, &t, &err), MP_ELIMIT);
    assert_int_equal(err.line, 4104);
    mp_out_cancel(o);
}

/* Repeats that would multiply past every limit are refused before anything is made. */
static void test_topo_yaml__repeats_cannot_explode(void **state) {
    (void)state;
    static const char text[] = "schema: moeplan.topology\nversion: 1\nname: x\nlaunch: 1 us\nlevels:\n  - {name: a, "
                               "latency: 1 us}\n  - {name: b, latency: 1 us}\n"
                               "  - {name: c, latency: 1 us}\n  - {name: d, latency: 1 us}\ngroups:\n"
                               "  - {repeat: 4096, groups: [{repeat: 4096, groups: [{repeat: 4096, gpus: [{repeat: "
                               "4096, type: h100, ports: {a: 1 GB/s}}]}]}]}\n";
    struct mp_error err = {0};
    struct mp_topology *t;
    mp_alloc_limit(mp_alloc_live() + (1 << 18));
    assert_int_equal(parse(text, sizeof text - 1, &t, &err), MP_ELIMIT);
    mp_alloc_limit(0);
    assert_int_equal(err.line, 11);
}

static enum mp_status load_flow(void *ctx, struct mp_error *err) {
    struct mp_topology *t;
    enum mp_status status = mp_topology_load(&t, ctx, NULL, err);
    mp_topology_free(t);
    return status;
}
static void test_topo_yaml__faults(void **state) {
    (void)state;
    char file[4096], preset[] = "nvl72", small[] = "2x2:h100", mixed[] = "4x64:a100+2:l40s";
    snprintf(file, sizeof file, "%s", source_path("topologies/mixed-a100-l40s.yaml"));
    sweep_faults(load_flow, file, 1);
    sweep_faults(load_flow, preset, 1);
    sweep_faults(load_flow, small, 1);
    sweep_faults(load_flow, mixed, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_topo_yaml__cuts_and_flips_of_every_sample),
        cmocka_unit_test(test_topo_yaml__the_example_of_the_manual),
        cmocka_unit_test(test_topo_yaml__ways_to_write_a_port),
        cmocka_unit_test(test_topo_yaml__every_flip_of_a_dense_file),
        cmocka_unit_test(test_topo_yaml__a_long_file),
        cmocka_unit_test(test_topo_yaml__repeats_cannot_explode),
        cmocka_unit_test(test_topo_yaml__faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
