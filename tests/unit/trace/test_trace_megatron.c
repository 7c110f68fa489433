/* Megatron-LM's tokens per expert: one rank, folders of ranks, replicas, pipeline stages, MTP layers, packed files. */
#include "samples.h"
#include <sys/stat.h>
#include <unistd.h>

static struct mp_trace_hints hints_of(uint32_t n_experts) {
    struct mp_trace_hints h = mp_trace_hints_none;
    h.n_experts = n_experts;
    return h;
}

static uint64_t count_of(const struct mp_trace *t, uint32_t i, uint32_t l, uint32_t e) {
    return t->counts[((size_t)i * t->n_layers + l) * t->n_experts + e];
}

/* The count of expert e of a rank in a layer, iteration and microbatch: distinct everywhere. */
static unsigned cell(unsigned rank, unsigned iter, unsigned layer, unsigned m, unsigned e) {
    return (((iter * 16 + layer) * 4 + m) * 16 + rank) * 4 + e + 1;
}

struct run {
    uint32_t n_ranks, n_local, n_micro, first_layer, n_layers;
    int lost_rank, lost_iter, lost_layer; /* -1 = nothing is lost */
};
static struct run whole(uint32_t n_ranks) { return (struct run){n_ranks, 2, 2, 1, 2, -1, -1, -1}; }

/* A folder of a run of three iterations. */
static const char *write_run(const char *name, struct run r) {
    const char *folder = temp_path(name);
    char path[600], text[4096];
    mkdir(folder, 0777);
    for (uint32_t rank = 0; rank < r.n_ranks; rank++) {
        if ((int)rank == r.lost_rank && r.lost_iter < 0)
            continue;
        int n = 0;
        for (uint32_t iter = 100; iter <= 300; iter += 100)
            for (uint32_t layer = r.first_layer; layer < r.first_layer + r.n_layers; layer++) {
                if ((int)rank == r.lost_rank && (int)iter == r.lost_iter && (int)layer == r.lost_layer)
                    continue;
                n += sprintf(text + n, "{\"iter\": %u, \"block\": \"decoder\", \"layer\": %u, \"tpe\": [", iter, layer);
                for (uint32_t m = 0; m < r.n_micro; m++) {
                    n += sprintf(text + n, "%s[", m > 0 ? ", " : "");
                    for (uint32_t e = 0; e < r.n_local; e++)
                        n += sprintf(text + n, "%s%u", e > 0 ? ", " : "", cell(rank, iter / 100, layer, m, e));
                    n += sprintf(text + n, "]");
                }
                n += sprintf(text + n, "]}\n");
            }
        snprintf(path, sizeof path, "%s/rank%u.jsonl", folder, rank);
        FILE *f = fopen(path, "wb");
        assert_non_null(f);
        assert_int_equal(fwrite(text, 1, (size_t)n, f), n);
        assert_int_equal(fclose(f), 0);
    }
    return folder;
}

static void load_fails(const char *path, const struct mp_trace_hints *h, enum mp_status want, const char *text) {
    struct mp_trace *t;
    struct mp_error err = {0};
    enum mp_status status = mp_trace_load(&t, path, h, &mp_limits_default, &err);
    if (status != want || strstr(err.message, text) == NULL)
        fail_msg("%d \"%s\", not %d \"%s\"", (int)status, err.message, (int)want, text);
    assert_null(t);
}

static void test_trace_megatron__reads_the_sample(void **state) {
    (void)state;
    const char *path = shared_path("formats/load_megatron_rank0.jsonl");
    if (path == NULL)
        skip();
    struct mp_trace *t;
    struct mp_error err = {0};
    struct mp_trace_hints h = hints_of(2);
    CHECK_OK(mp_trace_load(&t, path, &h, &mp_limits_default, &err), err);
    assert_string_equal(t->format, "megatron");
    assert_int_equal(t->phase, MP_PHASE_TRAIN);
    assert_int_equal(t->n_layers, 1);
    assert_int_equal(t->layer_ids[0], 3);
    assert_int_equal(t->n_iterations, 2); /* the microbatches */
    assert_int_equal(count_of(t, 0, 0, 0), 128);
    assert_int_equal(count_of(t, 1, 0, 1), 80);
    assert_non_null(strstr(t->note, "1 line of MTP layers left out"));
    mp_trace_free(t);
    h.mtp_base = 2;
    load_fails(path, &h, MP_EUSAGE, "the decoder has layers up to 3");
    h = mp_trace_hints_none;
    load_fails(path, &h, MP_EUSAGE, "--experts N");
    h = hints_of(16);
    load_fails(path, &h, MP_EINPUT, "name the folder");
    h = hints_of(3);
    load_fails(path, &h, MP_EINPUT, "no multiple of the 2");
}

static void test_trace_megatron__ranks_hold_their_own_experts(void **state) {
    (void)state;
    struct mp_trace *t, *same;
    struct mp_error err = {0};
    struct mp_trace_hints h = hints_of(8);
    const char *folder = write_run("ranks", whole(4));
    CHECK_OK(mp_trace_load(&t, folder, &h, &mp_limits_default, &err), err);
    assert_int_equal(t->n_iterations, 6);
    assert_int_equal(t->n_layers, 2);
    assert_int_equal(t->layer_ids[0], 1);
    assert_true(t->is_time_ordered);
    assert_null(t->note);
    for (uint32_t i = 0; i < 6; i++)
        for (uint32_t l = 0; l < 2; l++)
            for (uint32_t e = 0; e < 8; e++)
                assert_int_equal(count_of(t, i, l, e), cell(e / 2, i / 2 + 1, l + 1, i % 2, e % 2));
    /* The folder above it is found too. */
    const char *save = temp_path("save");
    char inner[600];
    mkdir(save, 0777);
    snprintf(inner, sizeof inner, "%s/tokens_per_expert", save);
    assert_int_equal(symlink(folder, inner), 0);
    CHECK_OK(mp_trace_load(&same, save, &h, &mp_limits_default, &err), err);
    assert_string_equal(same->sha256, t->sha256);
    mp_trace_free(same);
    mp_trace_free(t);
}

/* Four ranks of four experts are two groups: replicas, or two stages. */
static void test_trace_megatron__groups_are_asked_for(void **state) {
    (void)state;
    struct mp_trace *t;
    struct mp_error err = {0};
    struct mp_trace_hints h = hints_of(4);
    const char *folder = write_run("groups", whole(4));
    load_fails(folder, &h, MP_EUSAGE, "replicas or pipeline stages");
    h.n_stages = 1;
    CHECK_OK(mp_trace_load(&t, folder, &h, &mp_limits_default, &err), err);
    assert_int_equal(t->n_iterations, 12);
    assert_non_null(strstr(t->note, "2 replicas of 2 ranks"));
    assert_int_equal(count_of(t, 0, 0, 3), cell(1, 1, 1, 0, 1));
    assert_int_equal(count_of(t, 1, 0, 3), cell(3, 1, 1, 0, 1));
    mp_trace_free(t);
    h.n_stages = 2;
    CHECK_OK(mp_trace_load(&t, folder, &h, &mp_limits_default, &err), err);
    assert_int_equal(t->n_iterations, 6);
    assert_int_equal(t->n_layers, 4); /* 1, 2, and behind the first stage's three layers 4, 5 */
    assert_int_equal(t->layer_ids[2], 4);
    assert_int_equal(count_of(t, 0, 2, 3), cell(3, 1, 1, 0, 1));
    assert_non_null(strstr(t->note, "2 pipeline stages"));
    mp_trace_free(t);
    h.n_stages = 3;
    load_fails(folder, &h, MP_EUSAGE, "there are 2 groups");
    h.n_experts = 6;
    load_fails(folder, &h, MP_EINPUT, "4 ranks are no whole groups of 3");
}

static void test_trace_megatron__names_what_is_missing(void **state) {
    (void)state;
    struct mp_trace *t;
    struct mp_error err = {0};
    struct mp_trace_hints h = hints_of(8);
    struct run r = whole(4);
    r.lost_rank = 2;
    load_fails(write_run("lost-rank", r), &h, MP_EINPUT, "the file of rank 2 is missing; the last is rank 3");
    r.lost_iter = 200;
    r.lost_layer = 2;
    load_fails(write_run("lost-layer", r), &h, MP_EINPUT, "no line for iteration 200, layer 2, which rank 1 has");
    r.lost_rank = 0;
    load_fails(write_run("lost-first", r), &h, MP_EINPUT, "no line for iteration 200, layer 2, which rank 1 has");
    struct run one = whole(1);
    one.lost_rank = 0;
    one.lost_iter = 200;
    one.lost_layer = 2;
    h = hints_of(2);
    load_fails(write_run("one", one), &h, MP_EINPUT, "no rank has a line for iteration 200, layer 2");
    static const char gap[] = "{\"iter\": 10, \"block\": \"decoder\", \"layer\": 0, \"tpe\": [[1, 2]]}\n"
                              "{\"iter\": 20, \"block\": \"decoder\", \"layer\": 0, \"tpe\": [[1, 2]]}\n"
                              "{\"iter\": 50, \"block\": \"decoder\", \"layer\": 0, \"tpe\": [[1, 2]]}\n";
    CHECK_OK(read_bytes(&t, "megatron", gap, strlen(gap), &h, NULL, &err), err);
    assert_non_null(strstr(t->note, "10 apart, but 30 is missing"));
    mp_trace_free(t);
    static const char again[] = "{\"iter\": 10, \"block\": \"decoder\", \"layer\": 0, \"tpe\": [[1, 2]]}\n\n"
                                "{\"iter\": 10, \"block\": \"decoder\", \"layer\": 0, \"tpe\": [[1, 2]]}\n";
    assert_int_equal(read_bytes(&t, "megatron", again, strlen(again), &h, NULL, &err), MP_EINPUT);
    assert_int_equal(err.line, 3);
    assert_non_null(strstr(err.message, "stands on line 1 already"));
}

static void test_trace_megatron__mtp_layers_stand_behind(void **state) {
    (void)state;
    static const char text[] = "{\"iter\": 1, \"block\": \"decoder\", \"layer\": 3, \"tpe\": [[1, 2]]}\n"
                               "{\"iter\": 1, \"block\": \"mtp\", \"mtp_idx\": 1, \"layer\": 0, \"tpe\": [[5, 6]]}\n"
                               "{\"iter\": 1, \"block\": \"mtp\", \"mtp_idx\": 0, \"layer\": 0, \"tpe\": [[3, 4]]}\n";
    struct mp_trace *t;
    struct mp_error err = {0};
    struct mp_trace_hints h = hints_of(2);
    h.mtp_base = 61;
    CHECK_OK(read_bytes(&t, "megatron", text, strlen(text), &h, NULL, &err), err);
    assert_int_equal(t->n_layers, 3);
    assert_int_equal(t->layer_ids[1], 61);
    assert_int_equal(count_of(t, 0, 2, 1), 6);
    mp_trace_free(t);
}

/* The same recording, whatever its files are packed with. */
static void test_trace_megatron__packed_files(void **state) {
    (void)state;
    struct mp_trace *t, *same;
    struct mp_error err = {0};
    struct mp_trace_hints h = hints_of(8);
    const char *folder = write_run("plain", whole(4)), *packed = temp_path("packed");
    char from[600], to[600];
    mkdir(packed, 0777);
    for (unsigned rank = 0; rank < 4; rank++) {
        struct mp_in *in;
        struct mp_out *o;
        snprintf(from, sizeof from, "%s/rank%u.jsonl", folder, rank);
        snprintf(to, sizeof to, "%s/rank%u.jsonl.%s", packed, rank, rank % 2 == 0 ? "gz" : "zst");
        CHECK_OK(mp_in_open(&in, from, 0, &err), err);
        CHECK_OK(mp_out_open(&o, to, &err), err);
        mp_out_pack(o, rank % 2 == 0 ? MP_FILE_GZIP : MP_FILE_ZSTD);
        mp_out_write(o, in->data, in->size);
        CHECK_OK(mp_out_commit(o, &err), err);
        mp_in_close(in);
    }
    CHECK_OK(mp_trace_load(&t, folder, &h, &mp_limits_default, &err), err);
    CHECK_OK(mp_trace_load(&same, packed, &h, &mp_limits_default, &err), err);
    assert_string_equal(same->sha256, t->sha256);
    mp_trace_free(same);
    mp_trace_free(t);
    (void)snprintf(to, sizeof to, "%s/rank0.jsonl", packed);
    FILE *f = fopen(to, "wb");
    assert_non_null(f);
    fclose(f);
    load_fails(packed, &h, MP_EINPUT, "is of rank 0, as is");
}

static enum mp_status load_flow(void *ctx, struct mp_error *err) {
    struct mp_trace *t;
    struct mp_trace_hints h = hints_of(4);
    h.n_stages = 2;
    enum mp_status status = mp_trace_load(&t, ctx, &h, &mp_limits_default, err);
    mp_trace_free(t);
    return status;
}
static void test_trace_megatron__survives_faults(void **state) {
    (void)state;
    char folder[600];
    snprintf(folder, sizeof folder, "%s", write_run("faults", whole(4)));
    sweep_faults(load_flow, folder, 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_trace_megatron__reads_the_sample),
        cmocka_unit_test(test_trace_megatron__ranks_hold_their_own_experts),
        cmocka_unit_test(test_trace_megatron__groups_are_asked_for),
        cmocka_unit_test(test_trace_megatron__names_what_is_missing),
        cmocka_unit_test(test_trace_megatron__mtp_layers_stand_behind),
        cmocka_unit_test(test_trace_megatron__packed_files),
        cmocka_unit_test(test_trace_megatron__survives_faults),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
