/* Megatron Core's expert load dumps: one rank, folders of ranks, groups and pipeline stages. */
#include "samples.h"
#include <sys/stat.h>

enum { N_EXPERTS = 6, N_FORWARDS = 3 };

struct dump {
    int rank, ep_rank, ep_size, group, first_layer, n_layers, n_forwards;
    const char *version, *lost; /* lost: a member that is left out */
    int32_t negative;
};

static int32_t cell(const struct dump *d, int l, int f, int e) {
    return (((d->rank * 8 + d->first_layer + l) * 8 + f) * 8 + e) % 1000 + 1;
}

static struct bytes number_bytes(const int32_t *v, int n) {
    char shape[32];
    snprintf(shape, sizeof shape, n == 1 ? "()" : "(%d,)", n);
    return npy_bytes("<i4", shape, v, (size_t)n * 4);
}

static struct bytes dump_bytes(struct dump d) {
    int32_t loads[4 * N_FORWARDS * N_EXPERTS], layers[4], forwards[4], ranks[8], text[21] = {0};
    char shape[64];
    for (int l = 0; l < d.n_layers; l++) {
        layers[l] = d.first_layer + l + 1; /* counted from 1 */
        forwards[l] = l == 1 ? d.n_forwards : N_FORWARDS;
        for (int f = 0; f < N_FORWARDS; f++)
            for (int e = 0; e < N_EXPERTS; e++)
                loads[(l * N_FORWARDS + f) * N_EXPERTS + e] = cell(&d, l, f, e);
    }
    if (d.negative != 0)
        loads[3] = d.negative;
    for (int r = 0; r < d.ep_size; r++)
        ranks[r] = d.group + r;
    for (size_t i = 0; i < strlen(d.version); i++)
        text[i] = d.version[i];
    snprintf(shape, sizeof shape, "(%d, %d, %d)", d.n_layers, N_FORWARDS, N_EXPERTS);
    struct bytes list = npy_bytes("<i4",
                                  d.n_layers == 1   ? "(1,)"
                                  : d.n_layers == 2 ? "(2,)"
                                                    : "(3,)",
                                  layers, (size_t)d.n_layers * 4),
                 counts = npy_bytes("<i4",
                                    d.n_layers == 1   ? "(1,)"
                                    : d.n_layers == 2 ? "(2,)"
                                                      : "(3,)",
                                    forwards, (size_t)d.n_layers * 4);
    char group_shape[32];
    snprintf(group_shape, sizeof group_shape, "(%d,)", d.ep_size);
    struct member all[] = {
        {"dump_version.npy", npy_bytes("<U21", "()", text, sizeof text), false},
        {"loads.npy", npy_bytes("<i4", shape, loads, (size_t)d.n_layers * N_FORWARDS * N_EXPERTS * 4), d.rank == 1},
        {"layer_numbers.npy", list, false},
        {"forward_counts.npy", counts, false},
        {"ep_group_ranks.npy", npy_bytes("<i4", group_shape, ranks, (size_t)d.ep_size * 4), false},
        {"ep_rank.npy", number_bytes(&d.ep_rank, 1), false},
        {"ep_size.npy", number_bytes(&d.ep_size, 1), false},
    };
    struct member kept[7];
    size_t n = 0;
    for (size_t i = 0; i < 7; i++)
        if (d.lost == NULL || strcmp(d.lost, all[i].name) != 0)
            kept[n++] = all[i];
    struct bytes z = zip_bytes(kept, n);
    for (size_t i = 0; i < 7; i++)
        free(all[i].data.p);
    return z;
}

static struct dump good(int rank, int ep_size) {
    return (struct dump){.rank = rank,
                         .ep_rank = rank % ep_size,
                         .ep_size = ep_size,
                         .group = rank / ep_size * ep_size,
                         .first_layer = 3,
                         .n_layers = 2,
                         .n_forwards = N_FORWARDS,
                         .version = "mcore_ep_load_dump_v1"};
}

static const char *write_folder(const char *name, const struct dump *d, int n) {
    const char *folder = temp_path(name);
    mkdir(folder, 0777);
    for (int i = 0; i < n; i++) {
        char path[600];
        struct bytes z = dump_bytes(d[i]);
        snprintf(path, sizeof path, "%s/mcore_ep_loads_rank%d_20260101_000000_pid%d%s.npz", folder, d[i].rank, 100 + i,
                 i == 1 ? "_partial" : "");
        FILE *f = fopen(path, "wb");
        assert_non_null(f);
        assert_int_equal(fwrite(z.p, 1, z.n, f), z.n);
        assert_int_equal(fclose(f), 0);
        free(z.p);
    }
    return folder;
}

static struct mp_trace_hints said(void) {
    struct mp_trace_hints h = mp_trace_hints_none;
    h.phase = MP_PHASE_TRAIN;
    h.ids_are_physical = 0;
    return h;
}

static uint64_t count_of(const struct mp_trace *t, uint32_t i, uint32_t s, uint32_t l, uint32_t e) {
    return t->counts[(((size_t)i * t->n_sources + s) * t->n_layers + l) * t->n_experts + e];
}

static void load_fails(const char *path, const struct mp_trace_hints *h, enum mp_status want, const char *text) {
    struct mp_trace *t;
    struct mp_error err = {0};
    enum mp_status status = mp_trace_load(&t, path, h, &mp_limits_default, &err);
    if (status != want || strstr(err.message, text) == NULL)
        fail_msg("%d \"%s\", not %d \"%s\"", (int)status, err.message, (int)want, text);
}

static void test_trace_mcore_npz__reads_the_sample(void **state) {
    (void)state;
    const char *path = shared_path("formats/load_mcore_fork.npz");
    if (path == NULL)
        skip();
    struct mp_trace *t;
    struct mp_error err = {0};
    struct mp_trace_hints h = said();
    CHECK_OK(mp_trace_load(&t, path, &h, &mp_limits_default, &err), err);
    assert_string_equal(t->format, "mcore_npz");
    assert_int_equal(t->n_layers, 2);
    assert_int_equal(t->layer_ids[0], 3); /* number 4, counted from 1 */
    assert_int_equal(t->n_experts, 12);
    assert_false(t->source_known);
    assert_int_equal(count_of(t, 0, 0, 0, 1), 132);
    assert_int_equal(count_of(t, 0, 0, 1, 11), 27);
    assert_non_null(strstr(t->note, "EP rank 0 only, of 8"));
    mp_trace_free(t);
    load_fails(path, &mp_trace_hints_none, MP_EUSAGE, "--phase");
    h.n_experts = 10;
    load_fails(path, &h, MP_EINPUT, "has 12 experts but");
    h.layer_base = 3;
    load_fails(path, &h, MP_EUSAGE, "leave out --layer-base");
}

static void test_trace_mcore_npz__ranks_are_sources(void **state) {
    (void)state;
    struct dump d[4] = {good(2, 4), good(1, 4), good(3, 4), good(0, 4)};
    struct mp_trace *t;
    struct mp_error err = {0};
    struct mp_trace_hints h = said();
    CHECK_OK(mp_trace_load(&t, write_folder("one", d, 4), &h, &mp_limits_default, &err), err);
    assert_int_equal(t->n_sources, 4);
    assert_true(t->source_known);
    assert_int_equal(t->n_iterations, N_FORWARDS);
    assert_null(t->note);
    for (int s = 0; s < 4; s++)
        for (int f = 0; f < N_FORWARDS; f++)
            for (int l = 0; l < 2; l++)
                for (int e = 0; e < N_EXPERTS; e++) {
                    struct dump of = good(s, 4);
                    assert_int_equal(count_of(t, (uint32_t)f, (uint32_t)s, (uint32_t)l, (uint32_t)e),
                                     cell(&of, l, f, e));
                }
    mp_trace_free(t);
    /* Two groups with the same layers are steps of their own; with other layers they are pipeline stages. */
    for (int i = 0; i < 4; i++)
        d[i] = good(i, 2);
    CHECK_OK(mp_trace_load(&t, write_folder("groups", d, 4), &h, &mp_limits_default, &err), err);
    assert_int_equal(t->n_sources, 2);
    assert_int_equal(t->n_iterations, 2 * N_FORWARDS);
    assert_int_equal(count_of(t, 1, 1, 0, 2), cell(&d[3], 0, 0, 2));
    mp_trace_free(t);
    d[2].first_layer = d[3].first_layer = 7;
    CHECK_OK(mp_trace_load(&t, write_folder("stages", d, 4), &h, &mp_limits_default, &err), err);
    assert_int_equal(t->n_layers, 4);
    assert_int_equal(t->layer_ids[2], 7);
    assert_int_equal(t->n_iterations, N_FORWARDS);
    assert_int_equal(count_of(t, 2, 1, 3, 5), cell(&d[3], 1, 2, 5));
    mp_trace_free(t);
    d[3].n_forwards = 2;
    CHECK_OK(mp_trace_load(&t, write_folder("shorter", d, 4), &h, &mp_limits_default, &err), err);
    assert_int_equal(t->n_iterations, 2);
    assert_non_null(strstr(t->note, "the first 2 are read"));
    mp_trace_free(t);
}

static void test_trace_mcore_npz__names_what_is_wrong(void **state) {
    (void)state;
    struct mp_trace_hints h = said();
    struct dump d[4] = {good(0, 4), good(1, 4), good(3, 4), good(2, 4)};
    load_fails(write_folder("lost", d, 3), &h, MP_EINPUT, "EP rank 2 is missing");
    load_fails(write_folder("lost-last", (struct dump[]){d[0], d[1], d[3]}, 3), &h, MP_EINPUT, "EP rank 3 is missing");
    struct dump twice[2] = {good(0, 1), good(0, 1)};
    load_fails(write_folder("twice", twice, 2), &h, MP_EINPUT, "keep one capture");
    d[1].version = "mcore_ep_load_dump_v2";
    load_fails(write_folder("version", d, 4), &h, MP_EINPUT, "\"mcore_ep_load_dump_v2\" is not known");
    d[1] = good(1, 4);
    d[1].lost = "layer_numbers.npy";
    load_fails(write_folder("member", d, 4), &h, MP_EINPUT, "no member layer_numbers.npy");
    d[1] = good(1, 4);
    d[1].negative = -5;
    load_fails(write_folder("negative", d, 4), &h, MP_EINPUT, "layer 3, forward 0, expert 3 is -5");
    d[1] = good(1, 4);
    d[1].n_forwards = 0;
    load_fails(write_folder("none", d, 4), &h, MP_EINPUT, "no forward pass");
    d[1] = good(1, 4);
    d[1].first_layer = 4;
    load_fails(write_folder("layers", d, 4), &h, MP_EINPUT, "EP rank 1 is missing");
}

static enum mp_status load_flow(void *ctx, struct mp_error *err) {
    struct mp_trace *t;
    struct mp_trace_hints h = said();
    enum mp_status status = mp_trace_load(&t, ctx, &h, &mp_limits_default, err);
    mp_trace_free(t);
    return status;
}
static void test_trace_mcore_npz__survives_faults(void **state) {
    (void)state;
    struct dump d[2] = {good(0, 2), good(1, 2)};
    char folder[600];
    d[1].n_forwards = 2;
    snprintf(folder, sizeof folder, "%s", write_folder("faults", d, 2));
    sweep_faults(load_flow, folder, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_trace_mcore_npz__reads_the_sample),
        cmocka_unit_test(test_trace_mcore_npz__ranks_are_sources),
        cmocka_unit_test(test_trace_mcore_npz__names_what_is_wrong),
        cmocka_unit_test(test_trace_mcore_npz__survives_faults),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
