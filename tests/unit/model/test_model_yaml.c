#include "support.h"
#include <moeplan/model.h>
#include <moeplan/yaml.h>

static enum mp_status parse(const char *text, size_t n, struct mp_model **m, struct mp_error *err) {
    struct mp_in *in;
    *m = NULL;
    enum mp_status status = mp_in_from_memory(&in, "m.yaml", text, n, err);
    if (status != MP_OK)
        return status;
    status = mp_model_parse(m, in, NULL, err);
    mp_in_close(in);
    return status;
}
static struct mp_model *good(const char *text) {
    struct mp_error err = {0};
    struct mp_model *m;
    CHECK_OK(parse(text, strlen(text), &m, &err), err);
    return m;
}

#define HEAD "schema: moeplan.model\nversion: 1\nname: m\n"
#define BODY "hidden_layers: 4\nexperts: 16\ntop_k: 2\nhidden_size: 1024\nexpert_size: 512\nweight_bits: 16\n"
#define ATTENTION "attention: {heads: 16, kv_heads: 4, head_dim: 64}\n"

static void test_model_yaml__derives_what_is_not_given(void **state) {
    (void)state;
    struct mp_model *m = good(HEAD BODY ATTENTION);
    assert_int_equal(m->n_layers, 4);
    assert_int_equal(m->n_groups, 1);
    assert_int_equal(m->n_shared_experts, 0);
    assert_int_equal(m->shared_size, 0);
    assert_int_equal(m->expert_bytes, 3 * 1024 * 512 * 2);
    assert_int_equal(m->expert_flops_per_token, 6 * 1024 * 512);
    assert_int_equal(m->shared_bytes, 0);
    assert_int_equal(m->dispatch_bytes, 2048);
    assert_int_equal(m->combine_bytes, 2048);
    /* query and output 1024 x 1024 each, key and value 1024 x 256 each */
    assert_int_equal(m->attention_bytes, (2 * 1024 * 1024 + 2 * 1024 * 256) * 2);
    assert_int_equal(m->attention_flops_per_token, (2 * 1024 * 1024 + 2 * 1024 * 256) * 2);
    assert_int_equal(m->kv_bytes_per_token, 4 * 2 * 256 * 2);
    assert_int_equal(m->dense_bytes, 4 * m->attention_bytes);
    assert_int_equal(m->other_ns_per_step, 0);
    assert_false(m->is_8bit_compute);
    mp_model_free(m);
}

static void test_model_yaml__every_key(void **state) {
    (void)state;
    struct mp_model *m = good(HEAD "summary: s\nsource: here\nhidden_layers: 8\nmoe_layers: {first: 1, every: 3, "
                                   "source: x}\nexperts: 16\ntop_k: 2\n"
                                   "expert_groups: 4\nshared_experts: 2\nhidden_size: 1000\nexpert_size: 10\nffn: "
                                   "plain\nweight_bits: {value: 4.25, source: s}\n"
                                   "compute_bits: 8\ndense_bits: 8\nembedding_bits: 16\nkv_bits: 8\nvocabulary: "
                                   "100\ntied_embeddings: true\ndense_size: 50\n"
                                   "attention: {heads: 2, q_lora_rank: 6, kv_lora_rank: 5, nope_dim: 3, rope_dim: 2, "
                                   "value_dim: 4}\nother: 1.5 us\n");
    assert_int_equal(m->n_layers, 3);
    assert_int_equal(m->layer_ids[2], 7);
    assert_int_equal(m->n_groups, 4);
    assert_int_equal(m->shared_size, 20);
    assert_int_equal(m->weight_bits_x100, 425);
    assert_int_equal(m->dense_bits_x100, 800);
    assert_int_equal(m->expert_bytes, 10625); /* 2 * 1000 * 10 * 4.25 / 8 */
    assert_int_equal(m->shared_bytes, 21250);
    assert_int_equal(m->expert_flops_per_token, 40000);
    assert_int_equal(m->shared_flops_per_token, 80000);
    /* 1000*6 + 6*2*5 + 1000*7 + 5*2*7 + 2*4*1000 */
    assert_int_equal(m->attention_bytes, 21130);
    assert_int_equal(m->kv_bytes_per_token, 8 * 7);
    /* attention, embeddings of 16 bits once, five dense FFNs of 8 bits */
    assert_int_equal(m->dense_bytes, 8 * 21130 + 100 * 1000 * 2 + 5 * 2 * 1000 * 50);
    assert_int_equal(m->other_ns_per_step, 1500);
    assert_true(m->is_8bit_compute);
    assert_string_equal(m->source, "here");
    mp_model_free(m);
    m = good(HEAD BODY "moe_layers: [0, 3]\nexpert_bytes: 1 MB\nexpert_flops: 7\nshared_experts: 1\nshared_size: "
                       "99\nshared_bytes: 2 MB\nshared_flops: 8\n"
                       "dispatch_bytes: 11 B\ncombine_bytes: 12 B\nattention_bytes: 13 B\nattention_flops: "
                       "14\nkv_bytes: 15 B\ndense_bytes: 16 B\n");
    assert_int_equal(m->n_layers, 2);
    assert_int_equal(m->layer_ids[1], 3);
    assert_int_equal(m->expert_bytes, 1000000);
    assert_int_equal(m->expert_flops_per_token, 7);
    assert_int_equal(m->shared_size, 99);
    assert_int_equal(m->shared_bytes, 2000000);
    assert_int_equal(m->shared_flops_per_token, 8);
    assert_int_equal(m->dispatch_bytes, 11);
    assert_int_equal(m->combine_bytes, 12);
    assert_int_equal(m->attention_bytes, 13);
    assert_int_equal(m->attention_flops_per_token, 14);
    assert_int_equal(m->kv_bytes_per_token, 15);
    assert_int_equal(m->dense_bytes, 16);
    mp_model_free(m);
}

static void test_model_yaml__limits_on_both_sides(void **state) {
    (void)state;
    static const struct {
        const char *key;
        uint64_t least, most;
    } cases[] = {{"hidden_layers", 1, MP_MAX_LAYERS}, {"experts", 16, MP_MAX_EXPERTS}, {"top_k", 1, 16},
                 {"hidden_size", 1, 1 << 20},         {"expert_size", 1, 1 << 20},     {"weight_bits", 1, 32}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (int side = 0; side < 4; side++) {
            uint64_t v = side == 0   ? cases[i].least
                         : side == 1 ? cases[i].most
                         : side == 2 ? cases[i].least - 1
                                     : cases[i].most + 1;
            if (side == 2 && cases[i].least == 16)
                v = 0;
            char text[1024] = HEAD ATTENTION;
            static const char *const lines[][2] = {{"hidden_layers", "4"}, {"experts", "16"},
                                                   {"top_k", "1"},         {"hidden_size", "64"},
                                                   {"expert_size", "64"},  {"weight_bits", "16"}};
            for (size_t k = 0; k < sizeof lines / sizeof lines[0]; k++) {
                size_t used = strlen(text);
                if (strcmp(lines[k][0], cases[i].key) == 0)
                    snprintf(text + used, sizeof text - used, "%s: %llu\n", lines[k][0], (unsigned long long)v);
                else
                    snprintf(text + used, sizeof text - used, "%s: %s\n", lines[k][0], lines[k][1]);
            }
            struct mp_model *m;
            struct mp_error err = {0};
            enum mp_status status = parse(text, strlen(text), &m, &err);
            if (status != (side < 2 ? MP_OK : MP_EINPUT))
                fail_msg("%s %llu: %d %s", cases[i].key, (unsigned long long)v, (int)status, err.message);
            mp_model_free(m);
        }
    /* The largest of everything at once stays inside 64 bits. */
    struct mp_model *m = good(HEAD "hidden_layers: 1024\nmoe_layers: [1023]\nexperts: 4096\ntop_k: 64\nshared_experts: "
                                   "64\nshared_size: 67108864\nhidden_size: 1048576\n"
                                   "expert_size: 1048576\nweight_bits: 32\ndense_bits: 32\nembedding_bits: "
                                   "32\nkv_bits: 32\nvocabulary: 16777216\ndense_size: 1048576\n"
                                   "attention: {heads: 4096, q_lora_rank: 65536, kv_lora_rank: 65536, nope_dim: 65536, "
                                   "rope_dim: 65536, value_dim: 65536}\n");
    assert_true(m->dense_bytes > m->attention_bytes && m->attention_bytes > UINT64_C(1) << 48);
    assert_int_equal(m->shared_bytes, UINT64_C(3) * 1048576 * 67108864 * 4);
    mp_model_free(m);
}

static void test_model_yaml__cuts_and_flips_of_every_preset(void **state) {
    (void)state;
    const char *name, *summary;
    uint64_t live = mp_alloc_live();
    for (uint32_t i = 0; mp_model_preset(i, &name, &summary); i++) {
        char file[256];
        struct mp_error err = {0};
        struct mp_in *in;
        snprintf(file, sizeof file, "src/model/presets/%s.yaml", name);
        CHECK_OK(mp_in_open(&in, source_path(file), 0, &err), err);
        char *copy = mp_calloc(in->size, 1);
        for (size_t cut = 0; cut < in->size; cut++)
            for (int flip = 0; flip < 2; flip++) {
                struct mp_model *m;
                memcpy(copy, in->data, in->size);
                copy[cut] = (char)(copy[cut] ^ (flip << (cut * 5 + i) % 8));
                mp_error_clear(&err);
                enum mp_status status = parse(copy, flip == 1 ? in->size : cut, &m, &err);
                if (status != MP_OK && ((status != MP_EINPUT && status != MP_ELIMIT) || err.line == 0 || m != NULL))
                    fail_msg("%s at %zu: status %d, %s", name, cut, (int)status, err.message);
                mp_model_free(m);
            }
        mp_free(copy);
        mp_in_close(in);
    }
    assert_int_equal(mp_alloc_live(), live);
}

/* The example of the manual is a model. */
static void test_model_yaml__the_example_of_the_manual(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct mp_in *in;
    struct mp_model *m;
    static const char fence[] = "```yaml\n";
    CHECK_OK(mp_in_open(&in, source_path("docs/MODELS.md"), 0, &err), err);
    const char *start = memmem(in->data, in->size, fence, sizeof fence - 1);
    assert_non_null(start);
    start += sizeof fence - 1;
    const char *end = memmem(start, (size_t)((const char *)in->data + in->size - start), "```", 3);
    assert_non_null(end);
    CHECK_OK(parse(start, (size_t)(end - start), &m, &err), err);
    assert_int_equal(m->n_layers, 26);
    mp_model_free(m);
    mp_in_close(in);
}

/* Every figure of a preset says where it comes from. */
static void test_model_yaml__presets_have_sources(void **state) {
    (void)state;
    const char *name, *summary;
    for (uint32_t i = 0; mp_model_preset(i, &name, &summary); i++) {
        static const char *const words[] = {"schema", "version", "name", "summary", "source"};
        struct mp_error err = {0};
        struct mp_in *in;
        struct mp_yaml_doc *d;
        char file[256];
        snprintf(file, sizeof file, "src/model/presets/%s.yaml", name);
        CHECK_OK(mp_in_open(&in, source_path(file), 0, &err), err);
        CHECK_OK(mp_yaml_parse(&d, in, NULL, &err), err);
        for (uint32_t k = 0; k < d->root->n; k++) {
            const struct mp_yaml *n = &d->root->items[k], *source = mp_yaml_get(n, "source");
            bool is_word = false;
            for (size_t w = 0; w < sizeof words / sizeof words[0]; w++)
                is_word |= strcmp(n->key, words[w]) == 0;
            if (!is_word && (source == NULL || source->length < 5))
                fail_msg("%s: %s has no source", file, n->key);
        }
        mp_yaml_free(d);
        mp_in_close(in);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_model_yaml__derives_what_is_not_given),
        cmocka_unit_test(test_model_yaml__every_key),
        cmocka_unit_test(test_model_yaml__limits_on_both_sides),
        cmocka_unit_test(test_model_yaml__presets_have_sources),
        cmocka_unit_test(test_model_yaml__the_example_of_the_manual),
        cmocka_unit_test(test_model_yaml__cuts_and_flips_of_every_preset),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
