/* Routed experts: a folder of arrays, layers without experts, every integer type. */
#include "samples.h"
#include <sys/stat.h>

enum { N_LAYERS = 3, K = 2 };

/* Experts of a token: layer 0 has none. */
static int cell(int request, int token, int layer, int k) {
    return layer == 0 ? -1 : (request + token * 2 + layer + k) % 4;
}

static void write_request(const char *folder, const char *name, int request, int n_tokens, const char *descr) {
    uint8_t data[64 * N_LAYERS * K * 8];
    char path[600], shape[64];
    size_t size = (size_t)(descr[2] - '0'), n = 0;
    for (int t = 0; t < n_tokens; t++)
        for (int l = 0; l < N_LAYERS; l++)
            for (int k = 0; k < K; k++, n += size) {
                int64_t v = cell(request, t, l, k);
                if (descr[1] == 'u' && l == 0)
                    v = k;
                memcpy(data + n, &v, size);
            }
    snprintf(shape, sizeof shape, "(%d, %d, %d)", n_tokens, N_LAYERS, K);
    struct bytes npy = npy_bytes(descr, shape, data, n);
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(npy.p, 1, npy.n, f), npy.n);
    assert_int_equal(fclose(f), 0);
    free(npy.p);
}

static const char *fresh(const char *name) {
    const char *folder = temp_path(name);
    mkdir(folder, 0777);
    return folder;
}

static void test_trace_routed_npy__reads_a_folder(void **state) {
    (void)state;
    static const char *const types[] = {"<i2", "<i4", "<i8", "|i1"};
    struct mp_error err = {0};
    struct mp_trace_hints h = full_hints();
    char sha256[65] = "";
    for (size_t i = 0; i < 4; i++) {
        char name[16];
        struct mp_trace *t;
        snprintf(name, sizeof name, "signed%zu", i);
        const char *folder = fresh(name);
        write_request(folder, "10.npy", 10, 3, types[i]);
        write_request(folder, "9.npy", 9, 5, types[i]);
        CHECK_OK(mp_trace_load(&t, folder, &h, &mp_limits_default, &err), err);
        assert_string_equal(t->format, "routed_npy");
        assert_int_equal(t->n_layers, N_LAYERS - 1);
        assert_int_equal(t->layer_ids[0], 1);
        assert_non_null(strstr(t->note, "1 of its 3 layers have no experts"));
        assert_int_equal(t->n_requests, 2);
        assert_int_equal(t->requests[0].id, 9);
        assert_int_equal(t->requests[0].n_rows, 5);
        for (uint64_t row = 0; row < 8; row++)
            for (uint32_t l = 0; l < 2; l++) {
                uint16_t ids[K];
                assert_int_equal(mp_trace_row(t, l, row, ids), K);
                for (int k = 0; k < K; k++)
                    assert_int_equal(ids[k], cell(row < 5 ? 9 : 10, (int)(row < 5 ? row : row - 5), (int)l + 1, k));
            }
        if (i > 0)
            assert_string_equal(t->sha256, sha256);
        memcpy(sha256, t->sha256, sizeof sha256);
        mp_trace_free(t);
    }
    /* An unsigned type has no unused place: all layers stay. */
    struct mp_trace *t;
    const char *folder = fresh("unsigned");
    write_request(folder, "0.npy", 1, 3, "|u1");
    CHECK_OK(mp_trace_load(&t, folder, &h, &mp_limits_default, &err), err);
    assert_int_equal(t->n_layers, N_LAYERS);
    mp_trace_free(t);
}

static void test_trace_routed_npy__names_that_are_no_numbers(void **state) {
    (void)state;
    struct mp_trace *t;
    struct mp_error err = {0};
    struct mp_trace_hints h = full_hints();
    const char *folder = fresh("names");
    write_request(folder, "req-b.npy", 2, 3, "<i2");
    write_request(folder, "req-a.npy", 1, 2, "<i2");
    CHECK_OK(mp_trace_load(&t, folder, &h, &mp_limits_default, &err), err);
    assert_int_equal(t->requests[0].id, 0);
    assert_int_equal(t->requests[0].n_rows, 2);
    assert_non_null(strstr(t->note, "in the order of their files' names"));
    mp_trace_free(t);
}

static void refused(const char *folder, const struct mp_trace_hints *h, enum mp_status want, const char *text) {
    struct mp_trace *t;
    struct mp_error err = {0};
    enum mp_status status = mp_trace_load(&t, folder, h, &mp_limits_default, &err);
    if (status != want || strstr(err.message, text) == NULL)
        fail_msg("%d \"%s\", not %d \"%s\"", (int)status, err.message, (int)want, text);
}

static void test_trace_routed_npy__refuses(void **state) {
    (void)state;
    struct mp_trace_hints h = full_hints(), none = mp_trace_hints_none;
    const char *folder = fresh("other");
    char path[600];
    write_request(folder, "1.npy", 1, 3, "<i2");
    refused(folder, &none, MP_EUSAGE, "--experts N");
    h.n_experts = 3;
    refused(folder, &h, MP_EINPUT, "3 is not an expert in [0, 3)");
    h = full_hints();
    h.top_k = 1;
    refused(folder, &h, MP_EINPUT, "has 2 experts per token");
    h = full_hints();
    write_request(folder, "2.npy", 1, 3, "|u1");
    refused(folder, &h, MP_EINPUT, "keep one recording per folder");
    write_request(folder, "2.npy", 1, 3, "<i4");
    write_request(folder, "2.npy.gz", 1, 3, "<i4");
    refused(folder, &h, MP_EINPUT, "is request 2, as is");
    snprintf(path, sizeof path, "%s/2.npy.gz", folder);
    static const char cut[] = "\x93NUMPY\x01\x00\x76\x00{'descr'";
    FILE *f = fopen(path, "wb");
    fwrite(cut, 1, sizeof cut - 1, f);
    fclose(f);
    remove((snprintf(path, sizeof path, "%s/2.npy", folder), path));
    refused(folder, &h, MP_EINPUT, "does not fit its");
    h.requests_path = "x.csv";
    refused(folder, &h, MP_EUSAGE, "leave out --requests");
    h = full_hints();
    folder = fresh("slots");
    write_request(folder, "1.npy", 1, 3, "<i2");
    static const char map[] = "[[0, 1, 2, 3], [3, 2, 1, 0], [0, 1, 3, 2]]";
    h.ids_are_physical = 1;
    h.map_path = save_bytes("map.json", map, strlen(map));
    struct mp_trace *t;
    struct mp_error err = {0};
    CHECK_OK(mp_trace_load(&t, folder, &h, &mp_limits_default, &err), err);
    uint16_t ids[K];
    assert_int_equal(mp_trace_row(t, 0, 0, ids), K);
    assert_int_equal(ids[0], 3 - cell(1, 0, 1, 0));
    mp_trace_free(t);
}

/* The array of many requests drops layers without experts too. */
static void test_trace_routed_npy__one_array_with_dense_layers(void **state) {
    (void)state;
    static const int16_t data[5 * 3 * 2] = {-1, -1, 0, 1,  2,  3, -1, -1, 1, 2,  3,  0, -1, -1, 2,
                                            1,  0,  3, -1, -1, 3, 2,  1,  0, -1, -1, 0, 3,  2,  1};
    struct bytes npy = npy_bytes("<i2", "(5, 3, 2)", data, sizeof data);
    struct mp_trace *t;
    struct mp_error err = {0};
    struct mp_trace_hints h = full_hints();
    h.axes = "tokens,layers,k";
    h.requests_path = save_bytes("dense.requests.csv", requests_sample, strlen(requests_sample));
    CHECK_OK(read_bytes(&t, "npz", npy.p, npy.n, &h, NULL, &err), err);
    assert_int_equal(t->n_layers, 2);
    assert_int_equal(t->layer_ids[0], 1);
    CHECK_OK(mp_trace_check(t, &err), err);
    uint16_t ids[2];
    assert_int_equal(mp_trace_row(t, 1, 4, ids), 2);
    assert_int_equal(ids[0], 2);
    mp_trace_free(t);
    int16_t none[5 * 3 * 2];
    memset(none, 0xff, sizeof none);
    free(npy.p);
    npy = npy_bytes("<i2", "(5, 3, 2)", none, sizeof none);
    assert_int_equal(read_bytes(&t, "npz", npy.p, npy.n, &h, NULL, &err), MP_EINPUT);
    assert_non_null(strstr(err.message, "no token uses an expert"));
    free(npy.p);
}

/* Named, one file is one request, called after a file that is a number; with a table beside it, its requests. */
static void test_trace_routed_npy__one_file_is_one_request_without_axes(void **state) {
    (void)state;
    static const char table[] = "request,first_row,tokens\n5,0,2\n9,2,3\n";
    struct mp_trace_hints h = full_hints();
    struct mp_trace *t;
    struct mp_error err = {0};
    char folder[600], path[700];
    snprintf(folder, sizeof folder, "%s", fresh("single"));
    write_request(folder, "17.npy", 9, 5, "<i2");
    write_request(folder, "a.npy", 9, 5, "<i2");
    write_request(folder, "b.npy", 9, 5, "<i2");
    snprintf(path, sizeof path, "%s/b.requests.csv", folder);
    FILE *f = fopen(path, "wb");
    fwrite(table, 1, sizeof table - 1, f);
    fclose(f);
    snprintf(path, sizeof path, "%s/17.npy", folder);
    refused(path, &h, MP_EUSAGE, "for routed experts --input-format routed_npy");
    h.format = "routed_npy";
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s.npy", folder, i == 0 ? "17" : i == 1 ? "a" : "b");
        CHECK_OK(mp_trace_load(&t, path, &h, &mp_limits_default, &err), err);
        assert_string_equal(t->format, "routed_npy");
        assert_int_equal(t->n_layers, N_LAYERS - 1);
        assert_int_equal(t->n_rows, 5);
        assert_int_equal(t->n_requests, i == 2 ? 2 : 1);
        assert_int_equal(t->requests[0].id, i == 0 ? 17 : i == 1 ? 0 : 5);
        assert_int_equal(strstr(t->note, "without a requests table") != NULL, i == 1);
        CHECK_OK(mp_trace_check(t, &err), err);
        uint16_t ids[K];
        assert_int_equal(mp_trace_row(t, 1, 4, ids), K);
        assert_int_equal(ids[0], cell(9, 4, 2, 0));
        mp_trace_free(t);
    }
    h.axes = "layers,experts";
    refused(path, &h, MP_EUSAGE, "routed experts are tokens,layers,k");
    h.axes = NULL;
    h.requests_path = "/nowhere.csv";
    refused(path, &h, MP_EIO, "cannot open");
    h.requests_path = NULL;
    strcat(strcpy(path, folder), "/b.requests.csv");
    refused(path, &h, MP_EINPUT, "is not an .npy array");
}

static enum mp_status load_flow(void *ctx, struct mp_error *err) {
    struct mp_trace *t;
    struct mp_trace_hints h = full_hints();
    h.format = "routed_npy";
    enum mp_status status = mp_trace_load(&t, ctx, &h, &mp_limits_default, err);
    mp_trace_free(t);
    return status;
}
static void test_trace_routed_npy__survives_faults(void **state) {
    (void)state;
    char folder[600];
    snprintf(folder, sizeof folder, "%s", fresh("faults"));
    write_request(folder, "a.npy", 1, 3, "<i2");
    write_request(folder, "b.npy", 1, 4, "<i4");
    sweep_faults(load_flow, folder, 1);
    strcat(folder, "/a.npy");
    sweep_faults(load_flow, folder, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_trace_routed_npy__reads_a_folder),
        cmocka_unit_test(test_trace_routed_npy__names_that_are_no_numbers),
        cmocka_unit_test(test_trace_routed_npy__refuses),
        cmocka_unit_test(test_trace_routed_npy__one_array_with_dense_layers),
        cmocka_unit_test(test_trace_routed_npy__one_file_is_one_request_without_axes),
        cmocka_unit_test(test_trace_routed_npy__survives_faults),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
