/* omni-infer's activation counts: files per rank, rank 0 for all, logs, with and without a map. */
#include "samples.h"
#include <sys/stat.h>

static struct mp_trace_hints said(uint32_t n_experts) {
    struct mp_trace_hints h = mp_trace_hints_none;
    h.phase = MP_PHASE_DECODE;
    h.layer_base = 3;
    h.ids_are_physical = 0;
    h.n_experts = n_experts;
    return h;
}

static uint64_t count_of(const struct mp_trace *t, uint32_t i, uint32_t l, uint32_t e) {
    return t->counts[((size_t)i * t->n_layers + l) * t->n_experts + e];
}

static void load_fails(const char *path, const struct mp_trace_hints *h, enum mp_status want, const char *text) {
    struct mp_trace *t;
    struct mp_error err = {0};
    enum mp_status status = mp_trace_load(&t, path, h, &mp_limits_default, &err);
    if (status != want || strstr(err.message, text) == NULL)
        fail_msg("%d \"%s\", not %d \"%s\"", (int)status, err.message, (int)want, text);
}

/* A file of the folder for one step and rank: counts step * 1000 + layer * 100 + (rank * 2 + slot). */
static void write_rank(const char *folder, int step, int rank, int n_layers, int n_slots) {
    char path[600];
    snprintf(path, sizeof path, "%s/activation_counts_recordstep_%d_rank_%d.txt", folder, step, rank);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    for (int l = 0; l < n_layers; l++) {
        for (int s = 0; s < n_slots; s++)
            fprintf(f, "%d\t", step * 1000 + l * 100 + rank * 2 + s);
        fprintf(f, "\n");
    }
    assert_int_equal(fclose(f), 0);
}

static const char *write_run(const char *name, int lost_step, int lost_rank) {
    const char *folder = temp_path(name);
    mkdir(folder, 0777);
    for (int step = 2; step <= 10; step += 4)
        for (int rank = 0; rank < 3; rank++)
            if (step != lost_step || (lost_rank >= 0 && rank != lost_rank))
                write_rank(folder, step, rank, 2, 2);
    return folder;
}

static void test_trace_omni_counts__files_of_ranks(void **state) {
    (void)state;
    struct mp_trace *t, *same;
    struct mp_error err = {0};
    struct mp_trace_hints h = said(6);
    CHECK_OK(mp_trace_load(&t, write_run("ranks", -1, -1), &h, &mp_limits_default, &err), err);
    assert_string_equal(t->format, "omni_counts");
    assert_int_equal(t->n_iterations, 3);
    assert_int_equal(t->n_layers, 2);
    assert_int_equal(t->layer_ids[0], 3);
    assert_true(t->is_time_ordered);
    assert_non_null(strstr(t->note, "as they stand"));
    for (uint32_t i = 0; i < 3; i++)
        for (uint32_t l = 0; l < 2; l++)
            for (uint32_t e = 0; e < 6; e++)
                assert_int_equal(count_of(t, i, l, e), (2 + 4 * i) * 1000 + l * 100 + e);
    /* Rank 0 for all says the same, in one file per step. */
    const char *folder = temp_path("full");
    mkdir(folder, 0777);
    for (int step = 2; step <= 10; step += 4)
        write_rank(folder, step, 0, 2, 6);
    CHECK_OK(mp_trace_load(&same, folder, &h, &mp_limits_default, &err), err);
    assert_string_equal(same->sha256, t->sha256);
    mp_trace_free(same);
    mp_trace_free(t);
    /* One file of them alone. */
    char path[600];
    snprintf(path, sizeof path, "%s/activation_counts_recordstep_6_rank_0.txt", folder);
    CHECK_OK(mp_trace_load(&t, path, &h, &mp_limits_default, &err), err);
    assert_int_equal(t->n_iterations, 1);
    assert_int_equal(count_of(t, 0, 1, 5), 6105);
    mp_trace_free(t);
}

static void test_trace_omni_counts__slots_need_a_map(void **state) {
    (void)state;
    struct mp_trace *t;
    struct mp_error err = {0};
    const char *folder = write_run("slots", -1, -1);
    struct mp_trace_hints h = said(0);
    load_fails(folder, &h, MP_EUSAGE, "--experts N");
    h.n_experts = 4;
    load_fails(folder, &h, MP_EINPUT, "has 6 slots (3 ranks of 2), not one for each of 4 experts (give --ids physical");
    h.n_experts = 8;
    load_fails(folder, &h, MP_EINPUT, "name the folder");
    h.ids_are_physical = 1;
    h.n_experts = 0;
    load_fails(folder, &h, MP_EUSAGE, "--map FILE");
    static const char map[] = "[[0, 1, 2, 3, 0, 1], [3, 2, 1, 0, 3, 3]]", narrow[] = "[[0, 1, 2], [2, 1, 0]]";
    h.map_path = save_bytes("map.json", map, strlen(map));
    CHECK_OK(mp_trace_load(&t, folder, &h, &mp_limits_default, &err), err);
    assert_int_equal(t->n_experts, 4);
    assert_int_equal(count_of(t, 0, 0, 0), 2000 + 2004);
    assert_int_equal(count_of(t, 0, 1, 3), 2100 + 2104 + 2105);
    mp_trace_free(t);
    h.map_path = save_bytes("narrow.json", narrow, strlen(narrow));
    load_fails(folder, &h, MP_EINPUT, "the map has 2 layers and 3 slots, the recording 2 and 6");
}

static void test_trace_omni_counts__names_what_is_missing(void **state) {
    (void)state;
    struct mp_trace *t;
    struct mp_error err = {0};
    struct mp_trace_hints h = said(6);
    load_fails(write_run("lost", 6, 1), &h, MP_EINPUT, "step 6 has no counts of rank 1 in layer 0");
    const char *folder = temp_path("gap");
    mkdir(folder, 0777);
    for (int step = 0; step < 5; step++)
        if (step != 3)
            write_rank(folder, step, 0, 2, 6);
    CHECK_OK(mp_trace_load(&t, folder, &h, &mp_limits_default, &err), err);
    assert_non_null(strstr(t->note, "step 3 is missing;"));
    mp_trace_free(t);
    static const char ragged[] = "1\t2\t\n3\t4\t5\n", word[] = "1\t2\n3\tx\n", negative[] = "1\t2\n3\t-4\n",
                      two_tabs[] = "1\t\t2\n";
    assert_int_equal(read_bytes(&t, "omni_counts", ragged, strlen(ragged), &h, NULL, &err), MP_EINPUT);
    assert_non_null(strstr(err.message, "the line has 3 counts, not 2"));
    mp_error_clear(&err);
    assert_int_equal(read_bytes(&t, "omni_counts", word, strlen(word), &h, NULL, &err), MP_EINPUT);
    assert_int_equal(err.line, 2);
    assert_int_equal(err.column, 3);
    mp_error_clear(&err);
    assert_int_equal(read_bytes(&t, "omni_counts", negative, strlen(negative), &h, NULL, &err), MP_EINPUT);
    mp_error_clear(&err);
    assert_int_equal(read_bytes(&t, "omni_counts", two_tabs, strlen(two_tabs), &h, NULL, &err), MP_EINPUT);
}

static void test_trace_omni_counts__logs(void **state) {
    (void)state;
    static const char log[] =
        "2026-01-01 00:00:00 INFO something else\n"
        "[dump activation] prefill step 0 in rank 0 for layer 0 get 2 experts data: 128\t256\n"
        "12:00 [dump activation] decode step 1 in rank 1 for layer 0 get 2 experts data: 3\t4\t\r\n"
        "[dump activation] decode step 1 in rank 0 for layer 0 get 2 experts data: 1\t2\n"
        "[dump activation] decode step 0 in rank 0 for layer 0 get 2 experts data: 5\t6\n"
        "[dump activation] prefill step 0 in rank 1 for layer 0 get 2 experts data: 7\t8\n"
        "[dump activation] decode step 0 in rank 1 for layer 0 get 2 experts data: 9\t10";
    struct mp_trace *t;
    struct mp_error err = {0};
    struct mp_trace_hints h = said(4);
    CHECK_OK(read_bytes(&t, "omni_counts", log, strlen(log), &h, NULL, &err), err);
    assert_int_equal(t->n_iterations, 2);
    assert_int_equal(count_of(t, 0, 0, 2), 9);
    assert_int_equal(count_of(t, 1, 0, 3), 4);
    assert_non_null(strstr(t->note, "2 lines of the other phase"));
    mp_trace_free(t);
    h.phase = MP_PHASE_MIXED;
    CHECK_OK(read_bytes(&t, "omni_counts", log, strlen(log), &h, NULL, &err), err);
    assert_int_equal(t->n_iterations, 3);
    assert_int_equal(t->n_categories, 2);
    assert_string_equal(t->categories[t->iteration_category[0]], "prefill");
    assert_int_equal(count_of(t, 0, 0, 1), 256);
    mp_trace_free(t);
    h.phase = MP_PHASE_UNKNOWN;
    assert_int_equal(read_bytes(&t, "omni_counts", log, strlen(log), &h, NULL, &err), MP_EUSAGE);
    assert_non_null(strstr(err.message, "--phase"));
    mp_error_clear(&err);
    /* One phase only is the recording's. */
    CHECK_OK(
        read_bytes(&t, "omni_counts", log, (size_t)(strstr(log, "12:00") - log), (h.n_experts = 2, &h), NULL, &err),
        err);
    assert_int_equal(t->phase, MP_PHASE_PREFILL);
    mp_trace_free(t);
    static const char *const wrong[] = {
        "[dump activation] train step 0 in rank 0 for layer 0 get 2 experts data: 1\t2\n",
        "[dump activation] decode step x in rank 0 for layer 0 get 2 experts data: 1\t2\n",
        "[dump activation] decode step 0 in rank 0 for layer 0 get 3 experts data: 1\t2\n",
        "[dump activation] decode step 0 in rank 0 for layer 0 get 2 experts data: \n",
        "[dump activation] decode step 0 in rank 99999 for layer 0 get 2 experts data: 1\t2\n",
        ("[dump activation] decode step 0 in rank 0 for layer 0 get 2 experts data: 1\t2\n"
         "[dump activation] decode step 0 in rank 0 for layer 0 get 2 experts data: 1\t2\n"),
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        mp_error_clear(&err);
        enum mp_status status = read_bytes(&t, "omni_counts", wrong[i], strlen(wrong[i]), &h, NULL, &err);
        assert_true(status == MP_EINPUT || status == MP_ELIMIT);
        assert_true(err.line > 0);
    }
}

static enum mp_status load_flow(void *ctx, struct mp_error *err) {
    struct mp_trace *t;
    struct mp_trace_hints h = said(6);
    enum mp_status status = mp_trace_load(&t, ctx, &h, &mp_limits_default, err);
    mp_trace_free(t);
    return status;
}
static void test_trace_omni_counts__survives_faults(void **state) {
    (void)state;
    char folder[600];
    snprintf(folder, sizeof folder, "%s", write_run("faults", -1, -1));
    sweep_faults(load_flow, folder, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_trace_omni_counts__files_of_ranks),
        cmocka_unit_test(test_trace_omni_counts__slots_need_a_map),
        cmocka_unit_test(test_trace_omni_counts__names_what_is_missing),
        cmocka_unit_test(test_trace_omni_counts__logs),
        cmocka_unit_test(test_trace_omni_counts__survives_faults),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
