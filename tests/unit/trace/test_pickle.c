#include "support.h"

#include "pickle.h"
#include "pt_writer.h"

static enum mp_status read_pickle(const struct bytes *b, struct mp_pickle **p, struct mp_error *err) {
    memset(err, 0, sizeof *err);
    return mp_pickle_read(p, "data.pkl", b->at, b->n, 0, &mp_limits_default, err);
}
/* Reads text as a pickle (protocol and all) and demands this refusal; at = offset of the opcode. */
static void refused(const void *text, size_t n, enum mp_status want, const char *words, size_t at) {
    struct mp_error err;
    struct mp_pickle *p;
    uint64_t live = mp_alloc_live();
    struct bytes b = {0};
    put(&b, text, n);
    enum mp_status status = read_pickle(&b, &p, &err);
    if (status != want || strstr(err.message, words) == NULL || err.column != at + 1)
        fail_msg("%d at %d: %s (wanted %d at %zu: %s)", (int)status, (int)err.column - 1, err.message, (int)want, at,
                 words);
    assert_null(p);
    assert_int_equal(mp_alloc_live(), live);
    free(b.at);
}
#define REFUSED(text, words, at) refused(text, sizeof text - 1, MP_EINPUT, words, at)

static void test_pickle__reads_every_kind_of_value(void **state) {
    (void)state;
    struct bytes b = {0};
    struct mp_error err;
    struct mp_pickle *p;
    pickle_start(&b);
    put_text(&b, "}q");
    put_byte(&b, 0);
    put_text(&b, "(");
    pickle_string(&b, "small");
    pickle_int(&b, 200);
    pickle_string(&b, "middle");
    put(&b, "M\x34\x12", 3);
    pickle_string(&b, "negative");
    pickle_int(&b, -7);
    pickle_string(&b, "large");
    pickle_int(&b, -(INT64_C(1) << 40));
    pickle_string(&b, "long");
    put(&b, "\x8a\x02\xff\xff", 4);
    pickle_string(&b, "float");
    put(&b, "G\x3f\xf8\0\0\0\0\0\0", 9);
    pickle_string(&b, "none");
    put_text(&b, "N");
    pickle_string(&b, "yes");
    put_text(&b, "\x88");
    pickle_string(&b, "list");
    pickle_ints(&b, (const int64_t[]){1, 2, 3}, 3);
    pickle_string(&b, "tuple");
    put(&b, "K\x01K\x02\x86r\x01\0\0\0", 10);
    pickle_string(&b, "same tuple");
    put(&b, "j\x01\0\0\0", 5);
    pickle_string(&b, "tensor");
    pickle_tensor(&b, "LongStorage", "3", 2, (const uint64_t[]){2, 5});
    put_text(&b, "u.");
    CHECK_OK(read_pickle(&b, &p, &err), err);
    const struct mp_pickle_value *root = mp_pickle_root(p);
    assert_int_equal(mp_pickle_get(root, "small")->as.number, 200);
    assert_int_equal(mp_pickle_get(root, "middle")->as.number, 0x1234);
    assert_int_equal(mp_pickle_get(root, "negative")->as.number, -7);
    assert_true(mp_pickle_get(root, "large")->as.number == -(INT64_C(1) << 40));
    assert_int_equal(mp_pickle_get(root, "long")->as.number, -1);
    assert_true(mp_pickle_get(root, "float")->as.real == 1.5);
    assert_int_equal(mp_pickle_get(root, "none")->kind, MP_PICKLE_NONE);
    assert_true(mp_pickle_get(root, "yes")->as.truth);
    assert_int_equal(mp_pickle_get(root, "list")->as.items->at[2].as.number, 3);
    assert_ptr_equal(mp_pickle_get(root, "tuple")->as.items, mp_pickle_get(root, "same tuple")->as.items);
    const struct mp_pickle_tensor *t = mp_pickle_get(root, "tensor")->as.tensor;
    assert_int_equal(t->n, 10);
    assert_int_equal(t->size[1], 5);
    assert_string_equal(t->storage->key, "3");
    assert_int_equal(t->storage->item, 8);
    assert_null(mp_pickle_get(root, "nothing"));
    mp_pickle_free(p);
    free(b.at);
}

static void test_pickle__refuses_code(void **state) {
    (void)state;
    REFUSED("\x80\x02"
            "cos\nsystem\nX\2\0\0\0id\x85R.",
            "names \"os.system\"", 2);
    REFUSED("\x80\x02"
            "cbuiltins\neval\n)R.",
            "names \"builtins.eval\"", 2);
    REFUSED("\x80\x02"
            "ctorch._utils\n_rebuild_tensor_v3\n.",
            "names \"torch._utils._rebuild_tensor_v3\"", 2);
    REFUSED("\x80\x02"
            "ctorch\nIntStorage\n)R.",
            "calls IntStorage", 21);
    REFUSED("\x80\x02"
            "X\1\0\0\0a)R.",
            "calls a text", 9);
    REFUSED("\x80\x02"
            "ccollections\nOrderedDict\nK\1\x85R.",
            "made with arguments", 30);
    REFUSED("\x80\x02"
            "ccollections\nOrderedDict\n]R.",
            "calls OrderedDict", 28);
    REFUSED("\x80\x02"
            "}}b.",
            "opcode 0x62", 4); /* BUILD */
    REFUSED("\x80\x02"
            ")\x81.",
            "opcode 0x81", 3); /* NEWOBJ */
    REFUSED("\x80\x02"
            "(ios\nsystem\n.",
            "opcode 0x69", 3); /* INST */
    REFUSED("\x80\x02"
            "(o.",
            "opcode 0x6f", 3); /* OBJ */
    REFUSED("\x80\x02"
            "\x8c\1a\x93.",
            "opcode 0x8c", 2); /* protocol 4 */
    REFUSED("\x80\x02"
            "\x82\1.",
            "opcode 0x82", 2); /* EXT1 */
    REFUSED("\x80\x02"
            "I1\n.",
            "opcode 0x49", 2); /* text opcodes */
}

static void test_pickle__refuses_nonsense(void **state) {
    (void)state;
    REFUSED("", "does not start with a protocol", 0);
    REFUSED("\x80", "does not start with a protocol", 0);
    REFUSED("N.", "does not start with a protocol", 0);
    REFUSED("\x80\x04"
            "N.",
            "protocol 4", 0);
    REFUSED("\x80\x02"
            "N",
            "before its STOP", 3);
    REFUSED("\x80\x02"
            "N.N",
            "1 bytes follow", 3);
    REFUSED("\x80\x02"
            "NN.",
            "2 values", 4);
    REFUSED("\x80\x02"
            "N(.",
            "1 marks", 4);
    REFUSED("\x80\x02"
            ".",
            "0 values", 2);
    REFUSED("\x80\x02"
            "t.",
            "without a mark", 2);
    REFUSED("\x80\x02"
            "e.",
            "without a mark", 2);
    REFUSED("\x80\x02"
            "(e.",
            "no list", 3);
    REFUSED("\x80\x02"
            "N(K\1e.",
            "no list", 6);
    REFUSED("\x80\x02"
            "](K\1u.",
            "no dictionary", 6);
    REFUSED("\x80\x02"
            "}(K\1u.",
            "a key without a value", 6);
    REFUSED("\x80\x02"
            "}K\1K\1s.",
            "a whole number as a key", 7);
    REFUSED("\x80\x02"
            "}(X\1\0\0\0aNX\1\0\0\0aNu.",
            "one key twice", 18);
    REFUSED("\x80\x02"
            "h\0.",
            "memo entry 0", 2);
    REFUSED("\x80\x02"
            "Nr\xff\xff\xff\x7f.",
            "far past", 3);
    REFUSED("\x80\x02"
            "q\0.",
            "needs 1 values, 0", 2);
    REFUSED("\x80\x02"
            "N(q\0.",
            "needs 1 values, 0", 4);
    REFUSED("\x80\x02"
            "N\x87.",
            "needs 3 values, 1", 3);
    REFUSED("\x80\x02"
            "X\xff\xff\xff\xff"
            "a",
            "ends inside", 2);
    REFUSED("\x80\x02"
            "J\1\2",
            "ends inside", 2);
    REFUSED("\x80\x02"
            "cos",
            "ends inside", 2);
    REFUSED("\x80\x02"
            "\x8a\xff",
            "of 255 bytes is too large", 2);
    REFUSED("\x80\x02"
            "\x8a\x09\1\2\3\4\5\6\7\10\11.",
            "of 9 bytes is too large", 2);
    REFUSED("\x80\x02"
            "Q.",
            "needs 1 values", 2);
    REFUSED("\x80\x02"
            "NQ.",
            "persistent id", 3);
    REFUSED("\x80\x02"
            ")Q.",
            "persistent id", 3);
    REFUSED("\x80\x02"
            "(X\7\0\0\0storageNX\1\0\0\0"
            "0X\0\0\0\0K\1tQ.",
            "persistent id", 30);
    REFUSED("\x80\x02"
            "(X\7\0\0\0storagectorch\nIntStorage\nX\3\0\0\0../X\0\0\0\0K\1tQ.",
            "not a number", 49);
    REFUSED("\x80\x02"
            "(X\7\0\0\0storagectorch\nIntStorage\nX\1\0\0\0"
            "0X\0\0\0\0J\xff\xff\xff\xfftQ.",
            "persistent id", 50);
}

/* A tensor over 6 numbers with these sizes, strides and offset. */
static void tensor(struct bytes *b, int64_t offset, const int64_t *size, const int64_t *stride, unsigned n) {
    pickle_start(b);
    put_text(b, "ctorch._utils\n_rebuild_tensor_v2\n((");
    pickle_string(b, "storage");
    put_text(b, "ctorch\nIntStorage\n");
    pickle_string(b, "0");
    pickle_string(b, "cuda:3");
    pickle_int(b, 6);
    put_text(b, "tQ");
    pickle_int(b, offset);
    for (int round = 0; round < 2; round++) {
        put_text(b, "(");
        for (unsigned i = 0; i < n; i++)
            pickle_int(b, round == 0 ? size[i] : stride[i]);
        put_text(b, "t");
    }
    put_text(b, "\x89"
                "ccollections\nOrderedDict\n)RtR.");
}

static void test_pickle__checks_tensors_against_their_storage(void **state) {
    (void)state;
    static const struct {
        int64_t offset, size[3], stride[3];
        unsigned n;
        const char *want; /* NULL = fine */
    } cases[] = {
        {0, {2, 3}, {3, 1}, 2, NULL},
        {2, {2, 2}, {2, 1}, 2, NULL},
        {0, {1, 6}, {99, 1}, 2, NULL},
        {0, {2, 3}, {1, 2}, 2, "not contiguous"},
        {0, {3}, {2}, 1, "not contiguous"},
        {0, {6}, {0}, 1, "not contiguous"},
        {1, {2, 3}, {3, 1}, 2, "past its storage"},
        {7, {0}, {1}, 1, "past its storage"},
        {6, {0}, {1}, 1, NULL},
        {0, {7}, {1}, 1, "larger than its storage"},
        {0, {INT64_C(1) << 32, INT64_C(1) << 32}, {1, 1}, 2, "larger than its storage"},
        {0, {INT64_MAX, 0, 2}, {1, 1, 1}, 3, NULL},
        {-1, {1}, {1}, 1, "a tensor is not"},
        {0, {-1}, {1}, 1, "whole numbers from 0"},
        {0, {1}, {-1}, 1, "whole numbers from 0"},
        {0, {-1, 0}, {1, 1}, 2, "whole numbers from 0"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct bytes b = {0};
        struct mp_error err;
        struct mp_pickle *p;
        tensor(&b, cases[i].offset, cases[i].size, cases[i].stride, cases[i].n);
        enum mp_status status = read_pickle(&b, &p, &err);
        if (cases[i].want == NULL ? status != MP_OK : status != MP_EINPUT || strstr(err.message, cases[i].want) == NULL)
            fail_msg("case %zu: %d %s", i, (int)status, err.message);
        mp_pickle_free(p);
        free(b.at);
    }
}

/* Bombs end at a limit: soon, and in bounded memory. */
static void bomb(const struct bytes *b, const char *words) {
    struct mp_error err;
    struct mp_pickle *p;
    enum mp_status status = read_pickle(b, &p, &err);
    assert_int_equal(status, MP_ELIMIT);
    if (strstr(err.message, words) == NULL)
        fail_msg("%s", err.message);
    assert_true(mp_alloc_peak() < (UINT64_C(64) << 20));
}

static void test_pickle__stops_bombs(void **state) {
    (void)state;
    struct bytes b = {0};
    pickle_start(&b);
    put_text(&b, "N");
    for (int i = 0; i < 5000000; i++) /* opcodes that cost nothing but time */
        put(&b, "q\0", 2);
    bomb(&b, "opcodes");
    free(b.at);
    b = (struct bytes){0};
    pickle_start(&b);
    for (int i = 0; i < 3000000; i++)
        put_text(&b, "N");
    bomb(&b, "stack");
    b.n = 2;
    for (int i = 0; i < 3000000; i++)
        put_text(&b, i == 0 ? ")" : "\x85"); /* a tuple in a tuple in a tuple */
    bomb(&b, "bytes of values");
    b.n = 2;
    for (int i = 0; i < 1000; i++)
        put_text(&b, "(");
    bomb(&b, "marks");
    b.n = 2;
    for (int i = 0; i < 2000000; i++)
        put_text(&b, "]");
    bomb(&b, "");
    b.n = 2;
    put(&b, "]q\0(", 4); /* a list that holds itself, over and over */
    for (int k = 0; k < 40; k++) {
        for (int i = 0; i < 90000; i++)
            put(&b, "h\0", 2);
        put_text(&b, "e(");
    }
    bomb(&b, "bytes of values");
    b.n = 2;
    put_text(&b, "}(");
    for (int i = 0; i < 100; i++) {
        char key[16];
        snprintf(key, sizeof key, "%d", i);
        pickle_string(&b, key);
        put_text(&b, "N");
    }
    put_text(&b, "u.");
    struct mp_error err;
    struct mp_pickle *p;
    assert_int_equal(read_pickle(&b, &p, &err), MP_EINPUT);
    assert_non_null(strstr(err.message, "more than 64 keys"));
    free(b.at);
    b = (struct bytes){0};
    pickle_start(&b);
    while (b.n <= mp_limits_default.pickle_bytes)
        put_text(&b, "NNNNNNNNNNNNNNNN");
    bomb(&b, "more than the limit");
    free(b.at);
}

static void test_pickle__survives_damage(void **state) {
    (void)state;
    struct bytes b = {0};
    pickle_start(&b);
    put(&b, "}q\0(", 4);
    pickle_string(&b, "records");
    put_text(&b, "](}(");
    pickle_string(&b, "positions");
    pickle_ints(&b, (const int64_t[]){5, 70000, INT64_C(1) << 35}, 3);
    put_text(&b, "ue");
    pickle_string(&b, "map");
    pickle_tensor(&b, "LongStorage", "3", 2, (const uint64_t[]){2, 5});
    put_text(&b, "u.");
    uint64_t live = mp_alloc_live();
    for (size_t k = 0; k < b.n * 9; k++) {
        struct mp_error err;
        struct mp_pickle *p;
        struct bytes cut = {b.at, k < b.n ? k : b.n, b.room};
        if (k >= b.n)
            b.at[(k - b.n) / 8] ^= (uint8_t)(1 << (k - b.n) % 8);
        enum mp_status status = read_pickle(&cut, &p, &err);
        assert_true((status == MP_OK) == (p != NULL));
        assert_true(k >= b.n || status == MP_EINPUT);
        if (k >= b.n)
            b.at[(k - b.n) / 8] ^= (uint8_t)(1 << (k - b.n) % 8);
        mp_pickle_free(p);
    }
    assert_int_equal(mp_alloc_live(), live);
    free(b.at);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pickle__reads_every_kind_of_value),
        cmocka_unit_test(test_pickle__refuses_code),
        cmocka_unit_test(test_pickle__refuses_nonsense),
        cmocka_unit_test(test_pickle__checks_tensors_against_their_storage),
        cmocka_unit_test(test_pickle__stops_bombs),
        cmocka_unit_test(test_pickle__survives_damage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
