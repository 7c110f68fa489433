#include "support.h"
#include <moeplan/stack.h>

/* The README example of EPLB: 12 experts, 16 slots, 8 GPUs on 2 nodes. */
static const uint16_t readme[2][16] = {{5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1},
                                       {7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1}};

static struct mp_plan *plan_of(const uint16_t *slots, uint32_t n_layers, uint32_t n_experts, uint32_t n_gpus,
                               uint32_t per_gpu, uint32_t base) {
    struct mp_error err = {0};
    struct mp_plan *p;
    uint32_t each[64];
    for (uint32_t g = 0; g < n_gpus; g++)
        each[g] = per_gpu;
    CHECK_OK(mp_plan_new(&p, n_layers, n_experts, n_gpus, each, &err), err);
    for (uint32_t l = 0; l < n_layers; l++) {
        p->layers[l].layer_id = base + l;
        memcpy(p->layers[l].slot_expert, slots + (size_t)l * n_gpus * per_gpu, (size_t)n_gpus * per_gpu * 2);
    }
    return p;
}
static struct mp_plan *readme_plan(uint32_t base) { return plan_of(readme[0], 2, 12, 8, 2, base); }

/* A model with these MoE layers; only what stacks look at. */
static struct mp_model model_of(const char *name, uint32_t n_hidden, uint32_t n_layers, const uint32_t *ids,
                                uint32_t n_experts) {
    return (struct mp_model){
        .name = name, .n_hidden_layers = n_hidden, .n_layers = n_layers, .layer_ids = ids, .n_experts = n_experts};
}

/* What a stack writes, in a buffer that the caller frees. */
static char *written(const struct mp_stack *s, const struct mp_plan *p, const struct mp_stack_options *o,
                     size_t *size) {
    struct mp_error err = {0};
    struct mp_out *out;
    size_t n;
    CHECK_OK(mp_out_open_memory(&out, &err), err);
    s->write(p, o, out);
    const uint8_t *bytes = mp_out_memory_bytes(out, &n);
    char *copy = malloc(n + 1);
    memcpy(copy, bytes, n);
    copy[n] = '\0';
    *size = n;
    CHECK_OK(mp_out_commit(out, &err), err);
    return copy;
}
static char *flags_of(const struct mp_stack *s, const struct mp_plan *p, const struct mp_stack_options *o,
                      const char *path) {
    struct mp_error err = {0};
    struct mp_out *out;
    size_t n;
    CHECK_OK(mp_out_open_memory(&out, &err), err);
    s->flags(p, o, path, out);
    char *copy = strdup((const char *)mp_out_memory_bytes(out, &n));
    CHECK_OK(mp_out_commit(out, &err), err);
    return copy;
}
static void save(const char *path, const void *bytes, size_t n) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    fclose(f);
}
static char *slurp(const char *path, size_t *n) {
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    char *buf = malloc(4 << 20);
    *n = fread(buf, 1, 4 << 20, f);
    fclose(f);
    return buf;
}
static void same_slots(const struct mp_plan *a, const struct mp_plan *b) {
    assert_int_equal(a->n_layers, b->n_layers);
    assert_int_equal(a->n_slots, b->n_slots);
    assert_int_equal(a->n_experts, b->n_experts);
    assert_int_equal(a->n_gpus, b->n_gpus);
    for (uint32_t l = 0; l < a->n_layers; l++) {
        assert_int_equal(a->layers[l].layer_id, b->layers[l].layer_id);
        assert_memory_equal(a->layers[l].slot_expert, b->layers[l].slot_expert, a->n_slots * 2);
    }
}
/* Slots of each GPU sorted: what formats without slot order keep. */
static void sort_slots(struct mp_plan *p) {
    for (uint32_t l = 0; l < p->n_layers; l++)
        for (uint32_t g = 0; g < p->n_gpus; g++)
            for (uint32_t a = p->gpu_first_slot[g]; a < p->gpu_first_slot[g + 1]; a++)
                for (uint32_t b = a + 1; b < p->gpu_first_slot[g + 1]; b++)
                    if (p->layers[l].slot_expert[b] < p->layers[l].slot_expert[a]) {
                        uint16_t e = p->layers[l].slot_expert[a];
                        p->layers[l].slot_expert[a] = p->layers[l].slot_expert[b];
                        p->layers[l].slot_expert[b] = e;
                    }
}

struct sample {
    const char *stack, *file;
    uint32_t base;
};
static const struct sample samples[] = {{"sglang", "plan_sglang.json", 0},
                                        {"trtllm", "plan_trtllm.yaml", 3},
                                        {"vllm", "plan_vllm_pr41141.jsonl", 3},
                                        {"vllm-ascend", "plan_vllm_ascend.json", 3},
                                        {"omni", "plan_omni_infer.npy", 3}};
#define N_SAMPLES (sizeof samples / sizeof *samples)
static const struct mp_stack_options sample_options = {
    .n_hidden_layers = 2, .layer_base = 3, .n_gpus = 8, .n_nodes = 2};

static struct mp_stack_options options_of(const struct sample *s) {
    struct mp_stack_options o = sample_options;
    if (s->base == 0)
        o.layer_base = -1;
    else
        o.n_hidden_layers = 0;
    return o;
}

static void test_stack__writes_the_samples_byte_for_byte(void **state) {
    (void)state;
    for (size_t i = 0; i < N_SAMPLES; i++) {
        char name[128];
        snprintf(name, sizeof name, "formats/%s", samples[i].file);
        const char *path = shared_path(name);
        if (path == NULL)
            skip();
        const struct mp_stack *s = mp_stack_find(samples[i].stack);
        assert_non_null(s);
        struct mp_stack_options o = options_of(&samples[i]);
        struct mp_plan *p = readme_plan(samples[i].base);
        struct mp_error err = {0};
        enum mp_outcome outcome;
        CHECK_OK(s->check(p, &o, &outcome, &err), err);
        assert_int_equal(outcome, MP_FOUND);
        size_t n_want, n_got;
        char *want = slurp(path, &n_want), *got = written(s, p, &o, &n_got);
        assert_int_equal(n_got, n_want);
        assert_memory_equal(got, want, n_want);
        free(want);
        free(got);
        mp_plan_free(p);
    }
}

static void test_stack__reads_the_samples_back_equal(void **state) {
    (void)state;
    for (size_t i = 0; i < N_SAMPLES; i++) {
        char name[128];
        snprintf(name, sizeof name, "formats/%s", samples[i].file);
        const char *path = shared_path(name);
        if (path == NULL)
            skip();
        struct mp_error err = {0};
        struct mp_stack_options o = options_of(&samples[i]);
        struct mp_plan *want = readme_plan(samples[i].base), *got, *named;
        if (strcmp(samples[i].stack, "omni") == 0)
            sort_slots(want);
        CHECK_OK(mp_stack_load(&got, path, NULL, &o, &mp_limits_default, &err), err);
        CHECK_OK(mp_stack_load(&named, path, samples[i].stack, &o, &mp_limits_default, &err), err);
        same_slots(got, want);
        same_slots(named, want);
        CHECK_OK(mp_plan_check(got, &err), err);
        assert_int_equal(got->n_nodes, 2);
        assert_int_equal(got->gpu_node[3], 0);
        assert_int_equal(got->gpu_node[4], 1);
        assert_false(got->provenance.has_workload);
        assert_int_equal(got->route, MP_ROUTE_EVEN);
        assert_false(got->allow_same_gpu_replicas);
        mp_plan_free(want);
        mp_plan_free(got);
        mp_plan_free(named);
    }
}

static void test_stack__reads_deployed_placements(void **state) {
    (void)state;
    static const struct {
        const char *file;
        uint32_t n_gpus;
        uint64_t n_used;
    } reals[] = {{"placements/deepseek-v3/rearranged_16ranks.npy", 16, 58 * 256},
                 {"placements/deepseek-v3/gsm8k_decode_32dies.npy", 32, 0}};
    for (size_t i = 0; i < sizeof reals / sizeof *reals; i++) {
        const char *path = shared_path(reals[i].file);
        if (path == NULL)
            skip();
        char copy[512];
        snprintf(copy, sizeof copy, "%s", path);
        struct mp_error err = {0};
        struct mp_stack_options o = {.layer_base = 3};
        struct mp_plan *p;
        CHECK_OK(mp_stack_load(&p, copy, NULL, &o, &mp_limits_default, &err), err);
        CHECK_OK(mp_plan_check(p, &err), err);
        assert_int_equal(p->n_layers, 58);
        assert_int_equal(p->layers[0].layer_id, 3);
        assert_int_equal(p->n_experts, 256);
        assert_int_equal(p->n_gpus, reals[i].n_gpus);
        uint64_t n_used = 0, n_ones = 0;
        for (uint32_t l = 0; l < p->n_layers; l++)
            for (uint32_t s = 0; s < p->n_slots; s++)
                n_used += p->layers[l].slot_expert[s] != MP_NO_EXPERT;
        size_t n;
        char *raw = slurp(copy, &n);
        for (size_t b = 128; b < n; b++)
            n_ones += (uint64_t)raw[b];
        assert_int_equal(n_used, n_ones);
        if (reals[i].n_used != 0)
            assert_int_equal(n_used, reals[i].n_used);
        /* Written again, the same bytes come out. */
        size_t n_got;
        char *got = written(mp_stack_find("omni"), p, &o, &n_got);
        if (memcmp(raw + 20, "'<i4'", 5) == 0) {
            assert_int_equal(n_got, n);
            assert_memory_equal(got, raw, n);
        }
        free(raw);
        free(got);
        mp_plan_free(p);
    }
}

/* Every stack writes and reads back a placement with dense layers around it. */
static void test_stack__round_trips_with_a_model(void **state) {
    (void)state;
    static const uint32_t ids[] = {1, 2};
    struct mp_model m = model_of("toy", 4, 2, ids, 12);
    struct mp_stack_options o = {.model = &m, .n_gpus = 8, .layer_base = -1};
    for (uint32_t i = 0; mp_stack_at(i) != NULL; i++) {
        const struct mp_stack *s = mp_stack_at(i);
        struct mp_plan *p = readme_plan(1), *back;
        struct mp_error err = {0};
        enum mp_outcome outcome;
        char path[512];
        size_t n;
        CHECK_OK(s->check(p, &o, &outcome, &err), err);
        assert_int_equal(outcome, MP_FOUND);
        char *text = written(s, p, &o, &n);
        snprintf(path, sizeof path, "%s%s", temp_path("round"), s->extension);
        save(path, text, n);
        CHECK_OK(mp_stack_load(&back, path, NULL, &o, &mp_limits_default, &err), err);
        if (strcmp(s->name, "omni") == 0)
            sort_slots(p);
        same_slots(back, p);
        free(text);
        mp_plan_free(p);
        mp_plan_free(back);
    }
}

static void test_stack__sglang_writes_dense_rows_as_trivial(void **state) {
    (void)state;
    static const uint16_t slots[] = {1, 0, 0, 1, 2, 2};
    static const uint32_t ids[] = {1};
    struct mp_model m = model_of("toy", 3, 1, ids, 3);
    struct mp_plan *p = plan_of(slots, 1, 3, 3, 2, 1);
    struct mp_stack_options o = {.model = &m, .n_mtp_layers = 1};
    size_t n;
    char *text = written(mp_stack_find("sglang"), p, &o, &n);
    assert_string_equal(text, "{\"physical_to_logical_map\": [[0, 1, 2, 0, 1, 2], [1, 0, 0, 1, 2, 2], [0, 1, 2, 0, 1, "
                              "2], [1, 0, 0, 1, 2, 2]]}");
    free(text);
    mp_plan_free(p);
}

static void test_stack__trtllm_writes_mtp_rows_and_leaves_them_out_on_reading(void **state) {
    (void)state;
    static const uint32_t ids[] = {3, 4};
    struct mp_model m = model_of("deepseek-v3-toy", 5, 2, ids, 12);
    struct mp_stack_options o = {.model = &m, .n_mtp_layers = 2, .n_gpus = 8};
    struct mp_plan *p = readme_plan(3), *back;
    struct mp_error err = {0};
    size_t n;
    char path[512], *text = written(mp_stack_find("trtllm"), p, &o, &n);
    assert_non_null(strstr(text, "\n  5: [7, 10, 6"));
    assert_non_null(strstr(text, "\n  6: [7, 10, 6"));
    snprintf(path, sizeof path, "%s", temp_path("mtp.yaml"));
    save(path, text, n);
    CHECK_OK(mp_stack_load(&back, path, NULL, &o, &mp_limits_default, &err), err);
    same_slots(back, p);
    free(text);
    o.n_mtp_layers = 0;
    text = flags_of(mp_stack_find("trtllm"), p, &o, "x.yaml");
    assert_non_null(strstr(text, "# warning: deepseek-v3-toy has MTP layers"));
    free(text);
    mp_plan_free(p);
    mp_plan_free(back);
}

/* The refusal of one stack, or NULL when it accepts. */
static const char *refusal(const char *stack, struct mp_plan *p, const struct mp_stack_options *o) {
    static struct mp_error err;
    enum mp_outcome outcome;
    memset(&err, 0, sizeof err);
    CHECK_OK(mp_stack_find(stack)->check(p, o, &outcome, &err), err);
    return outcome == MP_FOUND ? NULL : err.message;
}

static void test_stack__rule_every_expert_has_a_slot(void **state) {
    (void)state;
    for (size_t i = 0; i < N_SAMPLES; i++) {
        struct mp_stack_options o = options_of(&samples[i]);
        struct mp_plan *p = readme_plan(samples[i].base);
        assert_null(refusal(samples[i].stack, p, &o));
        p->layers[1].slot_expert[14] = 2; /* was the only slot of expert 3 */
        const char *why = refusal(samples[i].stack, p, &o);
        assert_non_null(why);
        assert_non_null(strstr(why, "expert 3 has no slot"));
        mp_plan_free(p);
    }
}

static void test_stack__rule_equal_slots(void **state) {
    (void)state;
    static const uint32_t each[] = {3, 2, 2};
    static const uint16_t slots[] = {0, 1, 2, 3, 4, 5, 0};
    for (size_t i = 0; i < N_SAMPLES; i++) {
        struct mp_stack_options o = {.n_hidden_layers = 1};
        struct mp_error err = {0};
        struct mp_plan *p;
        CHECK_OK(mp_plan_new(&p, 1, 6, 3, each, &err), err);
        memcpy(p->layers[0].slot_expert, slots, sizeof slots);
        const char *why = refusal(samples[i].stack, p, &o);
        assert_non_null(why);
        assert_non_null(strstr(why, "--slots-per-gpu 3"));
        assert_true(mp_stack_find(samples[i].stack)->needs_equal_slots);
        mp_plan_free(p);
    }
}

static void test_stack__rule_empty_slots(void **state) {
    (void)state;
    static const uint16_t even[] = {0, 1, MP_NO_EXPERT, 2, 3, MP_NO_EXPERT}, uneven[] = {0, 1, MP_NO_EXPERT, 2, 3, 0};
    for (size_t i = 0; i < N_SAMPLES; i++) {
        struct mp_stack_options o = {.n_hidden_layers = 1};
        struct mp_plan *p = plan_of(even, 1, 4, 2, 3, 0);
        const char *why = refusal(samples[i].stack, p, &o);
        if (strcmp(samples[i].stack, "omni") == 0) {
            assert_null(why);
            memcpy(p->layers[0].slot_expert, uneven, sizeof uneven);
            why = refusal("omni", p, &o);
        }
        assert_non_null(why);
        assert_non_null(strstr(why, "--redundant 2"));
        /* search leaves slots empty with --redundant too, unless the stack is named */
        char names_it[40];
        snprintf(names_it, sizeof names_it, "--for %s", samples[i].stack);
        assert_int_equal(strstr(why, names_it) != NULL, strcmp(samples[i].stack, "omni") != 0);
        mp_plan_free(p);
    }
}

static void test_stack__rule_distinct_replicas(void **state) {
    (void)state;
    static const uint16_t twice[] = {0, 0, 1, 2};
    for (size_t i = 0; i < N_SAMPLES; i++) {
        struct mp_stack_options o = {.n_hidden_layers = 1};
        const struct mp_stack *s = mp_stack_find(samples[i].stack);
        struct mp_plan *p = plan_of(twice, 1, 3, 2, 2, 0);
        const char *why = refusal(samples[i].stack, p, &o);
        if (s->needs_distinct) {
            assert_non_null(why);
            assert_non_null(strstr(why, "GPU 0 holds expert 0 twice"));
            assert_non_null(strstr(why, "--for "));
        } else {
            assert_null(why);
            char *text = flags_of(s, p, &o, "x.json");
            assert_non_null(strstr(text, "# warning: 1 slots hold an expert that their GPU holds already"));
            free(text);
        }
        mp_plan_free(p);
    }
}

static void test_stack__rule_layers_of_the_model(void **state) {
    (void)state;
    static const uint32_t ids[] = {1, 2, 3}, right[] = {1, 2}, wrong[] = {1, 3};
    struct mp_model all = model_of("toy", 4, 3, ids, 12), two = model_of("toy", 4, 2, right, 12),
                    other = model_of("toy", 4, 2, wrong, 12), larger = model_of("toy", 4, 2, right, 16);
    for (size_t i = 0; i < N_SAMPLES; i++) {
        struct mp_stack_options o = {.model = &two};
        struct mp_plan *p = readme_plan(1);
        assert_null(refusal(samples[i].stack, p, &o));
        o.model = &all;
        assert_non_null(strstr(refusal(samples[i].stack, p, &o), "layer 3 of toy is not in the plan"));
        o.model = &other;
        assert_non_null(refusal(samples[i].stack, p, &o));
        o.model = &larger;
        assert_non_null(strstr(refusal(samples[i].stack, p, &o), "the plan has 12 experts, toy has 16"));
        mp_plan_free(p);
    }
}

/* A partial recording: by position its layers would become 0, 1, 2; by key the others would be missing. */
static void test_stack__rule_layers_have_no_gap(void **state) {
    (void)state;
    static const uint32_t recorded[] = {0, 7}, whole[] = {0, 7};
    struct mp_model stand_in = model_of("stand-in", 8, 2, recorded, 12), sparse = model_of("toy", 8, 2, whole, 12);
    stand_in.is_stand_in = true;
    for (size_t i = 0; i < N_SAMPLES; i++) {
        struct mp_plan *p = readme_plan(0);
        p->layers[1].layer_id = 7;
        struct mp_stack_options o = {.n_hidden_layers = 8};
        assert_non_null(strstr(refusal(samples[i].stack, p, &o), "layers 0, 7 are not consecutive"));
        o.model = &stand_in;
        assert_non_null(strstr(refusal(samples[i].stack, p, &o), "give -m MODEL"));
        o.model = &sparse; /* a model whose other layers are dense */
        assert_null(refusal(samples[i].stack, p, &o));
        mp_plan_free(p);
    }
}

/* Rows by position and a recording of layers 0 and 7: nothing says which rows are those. */
static void test_stack__reads_by_position_only_what_it_can_place(void **state) {
    (void)state;
    static const uint32_t gap[] = {0, 7}, dense[] = {3, 4};
    struct mp_model m = model_of("stand-in", 8, 2, gap, 12);
    m.is_stand_in = true;
    struct mp_stack_options o = {.n_gpus = 8, .layer_base = -1};
    struct mp_plan *p = readme_plan(0), *back;
    struct mp_error err = {0};
    char path[512];
    size_t n;
    char *text = written(mp_stack_find("vllm"), p, &o, &n);
    snprintf(path, sizeof path, "%s", temp_path("gap.json"));
    save(path, text, n);
    free(text);
    o.model = &m;
    assert_int_equal(mp_stack_load(&back, path, NULL, &o, &mp_limits_default, &err), MP_EINPUT);
    assert_null(back);
    assert_non_null(strstr(err.message, "the recording 2 from layer 0 to 7"));
    mp_error_clear(&err);
    o.layer_base = 6; /* layers 6 and 7 */
    CHECK_OK(mp_stack_load(&back, path, NULL, &o, &mp_limits_default, &err), err);
    assert_int_equal(back->layers[1].layer_id, 7);
    mp_plan_free(back);
    o.layer_base = -1;
    m.layer_ids = dense;
    CHECK_OK(mp_stack_load(&back, path, NULL, &o, &mp_limits_default, &err), err);
    assert_int_equal(back->layers[0].layer_id, 3);
    mp_plan_free(back);
    mp_plan_free(p);
}

/* Only SGLang's servers have a second rule, and the flags say when a plan's is lost. */
static void test_stack__routes(void **state) {
    (void)state;
    struct mp_plan *p = readme_plan(0);
    for (uint32_t i = 0; mp_stack_at(i) != NULL; i++) {
        const struct mp_stack *s = mp_stack_at(i);
        bool is_sglang = strcmp(s->name, "sglang") == 0;
        assert_int_equal(s->routes, 1u << MP_ROUTE_EVEN | (is_sglang ? 1u << MP_ROUTE_NEAREST : 0));
        for (int r = 0; r < MP_N_ROUTE_RULES; r++) {
            p->route = (enum mp_route_rule)r;
            char *text = flags_of(s, p, &sample_options, "x.json");
            assert_int_equal(strstr(text, "routing is lost") == NULL, s->routes >> r & 1);
            free(text);
        }
    }
    mp_plan_free(p);
}

static void test_stack__names_of_files(void **state) {
    (void)state;
    for (uint32_t i = 0; mp_stack_at(i) != NULL; i++) {
        const struct mp_stack *s = mp_stack_at(i);
        bool wants = strcmp(s->name, "sglang") == 0 || strcmp(s->name, "vllm-ascend") == 0;
        assert_int_equal(mp_stack_name_fits(s, "map.txt"), !wants);
        assert_int_equal(mp_stack_name_fits(s, ".json"), !wants);
        assert_int_equal(mp_stack_name_fits(s, ""), !wants);
        assert_true(!wants || mp_stack_name_fits(s, "x.json"));
    }
}

static void test_stack__rule_layer_keys(void **state) {
    (void)state;
    struct mp_plan *p = readme_plan(3);
    struct mp_error err = {0};
    enum mp_outcome outcome;
    /* SGLang: one row per hidden layer, so their number must be known and large enough. */
    struct mp_stack_options o = {.n_hidden_layers = 4};
    assert_non_null(strstr(refusal("sglang", p, &o), "the plan has layer 4"));
    o.n_hidden_layers = 5;
    assert_null(refusal("sglang", p, &o));
    o.n_hidden_layers = 0;
    assert_int_equal(mp_stack_find("sglang")->check(p, &o, &outcome, &err), MP_EUSAGE);
    assert_non_null(strstr(err.message, "--hidden-layers"));
    /* MTP rows: after the last hidden layer, where the format has them. */
    o.n_mtp_layers = 1;
    mp_error_clear(&err);
    assert_int_equal(mp_stack_find("trtllm")->check(p, &o, &outcome, &err), MP_EUSAGE);
    o.n_hidden_layers = 4;
    assert_non_null(strstr(refusal("trtllm", p, &o), "the plan has layer 4"));
    o.n_hidden_layers = 5;
    assert_null(refusal("trtllm", p, &o));
    assert_null(refusal("sglang", p, &o));
    assert_non_null(strstr(refusal("vllm", p, &o), "--mtp-layers"));
    assert_non_null(strstr(refusal("vllm-ascend", p, &o), "--mtp-layers"));
    assert_non_null(strstr(refusal("omni", p, &o), "--mtp-layers"));
    mp_plan_free(p);
}

static void test_stack__flags_hold_the_numbers(void **state) {
    (void)state;
    static const struct {
        const char *stack, *line;
    } want[] = {
        {"sglang", "--init-expert-location '/tmp/a plan.json'\n--ep-size 8\n--ep-num-redundant-experts "
                   "4\n--ep-dispatch-algorithm dynamic\n"},
        {"trtllm", "--ep_size 8\n"},
        {"trtllm", "16 slots, 4 of them redundant, 2 per rank"},
        {"vllm", "--eplb-config '{\"initial_mapping_path\": \"/tmp/a plan.json\", \"num_redundant_experts\": 4, "
                 "\"disable_online_rebalancing\": true}'"},
        {"vllm-ascend", "--additional-config '{\"eplb_config\": {\"expert_map_path\": \"/tmp/a plan.json\"}}'"},
        {"omni", "pattern_path: /tmp/a plan.json\nmax_moe_layer_num: 2\n"},
        {"omni", "max_redundant_per_expert: 2\n"},
    };
    struct mp_plan *p = readme_plan(0);
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        char *text = flags_of(mp_stack_find(want[i].stack), p, &sample_options, "/tmp/a plan.json");
        if (strstr(text, want[i].line) == NULL)
            fail_msg("%s: no \"%s\" in\n%s", want[i].stack, want[i].line, text);
        for (const char *line = text; *line != '\0'; line = strchr(line, '\n') + 1)
            assert_true(strncmp(line, "# ", 2) == 0 || strncmp(line, "--", 2) == 0 || strstr(line, ": ") != NULL);
        free(text);
    }
    p->route = MP_ROUTE_NEAREST;
    char *text = flags_of(mp_stack_find("sglang"), p, &sample_options, "x.json");
    assert_non_null(strstr(text, "--ep-dispatch-algorithm static\n"));
    free(text);
    text = flags_of(mp_stack_find("vllm"), p, &sample_options, "it's \"x\".json");
    assert_non_null(strstr(text, "\"it'\\''s \\\"x\\\".json\""));
    free(text);
    mp_plan_free(p);
}

static void test_stack__asks_for_the_number_of_gpus(void **state) {
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        struct mp_plan *p = readme_plan(0), *back;
        struct mp_error err = {0};
        struct mp_stack_options o = {.n_hidden_layers = 2};
        size_t n;
        char path[512], *text = written(mp_stack_find(samples[i].stack), p, &o, &n);
        snprintf(path, sizeof path, "%s", temp_path("ask"));
        save(path, text, n);
        assert_int_equal(mp_stack_load(&back, path, NULL, &o, &mp_limits_default, &err), MP_EUSAGE);
        assert_null(back);
        assert_non_null(strstr(err.message, "--gpus N"));
        free(text);
        mp_plan_free(p);
    }
}

/* Reads bytes as `format` (NULL = detect): the status and the message. */
static enum mp_status load_text(const char *text, size_t n, const char *format, struct mp_error *err) {
    char path[512];
    struct mp_plan *p;
    struct mp_stack_options o = {.n_gpus = 2, .layer_base = -1};
    snprintf(path, sizeof path, "%s", temp_path("input"));
    save(path, text, n);
    memset(err, 0, sizeof *err);
    enum mp_status status = mp_stack_load(&p, path, format, &o, &mp_limits_default, err);
    assert_true((status == MP_OK) == (p != NULL));
    mp_plan_free(p);
    return status;
}

static void test_stack__names_the_place_of_what_is_wrong(void **state) {
    (void)state;
    static const struct {
        const char *format, *text, *want;
        uint64_t line, column;
    } cases[] = {
        {NULL, "{\"physical_to_logical_map\": [[0, 1],\n [0, 2]]}", "expert 2 of 3", 1, 30},
        {NULL, "{\"physical_to_logical_map\": [[0, 1],\n [0, -1]]}", "\"-1\" is not an expert id", 2, 6},
        {NULL, "{\"physical_to_logical_map\": [[0, 1],\n [0, \"1\"]]}", "is not a whole number", 2, 6},
        {NULL, "{\"physical_to_logical_map\": [[0, 1],\n [0]]}", "has 1 slots where the first layer has 2", 2, 2},
        {NULL, "{\"physical_to_logical_map\": [[0, 1]],\n \"ep_size\": 2}", "\"ep_size\" is not a key", 2, 13},
        {NULL, "{\"logical_count\": [[0, 1]]}", "is a recorded load", 1, 19},
        {NULL, "{\"physical_to_logical_map\": [[0, 1, 2]]}", "3 slots a layer do not divide among 2 GPUs (use 4", 1,
         30},
        {"sglang", "[]", "is not an object", 1, 1},
        {"trtllm", "initial_global_assignments:\n  3: [0, 1]\nnum_slots: 4\n", "num_slots says 4", 2, 6},
        {"trtllm", "initial_global_assignments:\n  3: [0, x]\nnum_slots: 2\n", "x", 2, 10},
        {"trtllm", "initial_global_assignments:\n  three: [0, 1]\nnum_slots: 2\n", "is not a layer index", 2, 10},
        {"trtllm", "initial_global_assignments:\n  3: [0, 1]\nnum_slots: 2\nep_size: 2\n", "ep_size", 4, 0},
        {NULL,
         "{\"moe_layer_count\": 1, \"layer_list\": [{\"layer_id\": 0, \"device_count\": 1, \"device_list\": "
         "[{\"device_id\": 0, "
         "\"device_expert\": [1, 1]}]}]}",
         "expert 1 stands here twice", 1, 128},
        {NULL,
         "{\"moe_layer_count\": 2, \"layer_list\": [{\"layer_id\": 0, \"device_count\": 1, \"device_list\": "
         "[{\"device_id\": 0, "
         "\"device_expert\": [0, 1]}]}]}",
         "moe_layer_count: \"2\" is not 1", 1, 21},
        {NULL,
         "{\"record_type\": \"eplb_initial_mapping\", \"version\": 1, \"num_redundant_experts\": 1, \"num_slots\": 2, "
         "\"initial_global_assignments\": {\"0\": [0, 1]}}",
         "there are 1 experts", 1, 0},
        {NULL,
         "{\"record_type\": \"eplb_initial_mapping\", \"version\": 1, \"num_redundant_experts\": 0, \"num_slots\": 2, "
         "\"initial_global_assignments\": {\"1\": [0, 1]}}",
         "no key \"0\"", 1, 0},
        {NULL, "", "is empty", 0, 0},
        {NULL, "what is this", "is not a placement of a known format", 1, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct mp_error err;
        enum mp_status status = load_text(cases[i].text, strlen(cases[i].text), cases[i].format, &err);
        if (status != MP_EINPUT || strstr(err.message, cases[i].want) == NULL || err.line != cases[i].line ||
            (cases[i].column != 0 && err.column != cases[i].column))
            fail_msg("case %zu: %d %d:%d %s", i, (int)status, (int)err.line, (int)err.column, err.message);
    }
    struct mp_error err = {0};
    assert_int_equal(load_text("{}", 2, "nonsense", &err), MP_EUSAGE);
    assert_non_null(strstr(err.message, "sglang, trtllm, vllm, vllm-ascend, omni, plan"));
}

/* No cut and no flipped bit of a sample may do anything but be read or be refused. */
static void test_stack__survives_damage(void **state) {
    (void)state;
    for (size_t i = 0; i < N_SAMPLES; i++) {
        struct mp_stack_options o = options_of(&samples[i]);
        struct mp_plan *p = readme_plan(samples[i].base);
        const struct mp_stack *s = mp_stack_find(samples[i].stack);
        size_t n;
        char *text = written(s, p, &o, &n);
        for (size_t k = 0; k < n + n; k++) {
            struct mp_error err = {0};
            struct mp_plan *got = NULL;
            struct mp_in *in;
            if (k >= n)
                text[k - n] ^= (char)(1 << (k % 8));
            CHECK_OK(mp_in_from_memory(&in, "damaged", text, k < n ? k : n, &err), err);
            enum mp_status status = s->read(&got, in, &o, &mp_limits_default, &err);
            assert_true((status == MP_OK) == (got != NULL));
            assert_true(status == MP_OK || status == MP_EINPUT || status == MP_ELIMIT);
            if (got != NULL)
                CHECK_OK(mp_plan_check(got, &err), err);
            mp_plan_free(got);
            mp_in_close(in);
            if (k >= n)
                text[k - n] ^= (char)(1 << (k % 8));
        }
        free(text);
        mp_plan_free(p);
    }
}

struct faulty {
    char path[512];
    const struct mp_stack *stack;
};
static enum mp_status load_and_write(void *ctx, struct mp_error *err) {
    struct faulty *f = ctx;
    struct mp_stack_options o = {.n_gpus = 8, .n_hidden_layers = 2, .layer_base = -1};
    struct mp_plan *p = NULL;
    struct mp_out *out = NULL;
    enum mp_outcome outcome;
    enum mp_status status;
    MP_TRY(mp_stack_load(&p, f->path, NULL, &o, &mp_limits_default, err));
    MP_TRY(f->stack->check(p, &o, &outcome, err));
    MP_TRY(mp_out_open_memory(&out, err));
    f->stack->write(p, &o, out);
    f->stack->flags(p, &o, "x.json", out);
    status = mp_out_commit(out, err);
out:
    mp_plan_free(p);
    return status;
}

static void test_stack__leaks_nothing_on_faults(void **state) {
    (void)state;
    for (size_t i = 0; i < N_SAMPLES; i++) {
        struct faulty f = {.stack = mp_stack_find(samples[i].stack)};
        struct mp_plan *p = readme_plan(0);
        struct mp_stack_options o = {.n_hidden_layers = 2};
        size_t n;
        char *text = written(f.stack, p, &o, &n);
        snprintf(f.path, sizeof f.path, "%s", temp_path("faulty"));
        save(f.path, text, n);
        sweep_faults(load_and_write, &f, n > 1000 ? 7 : 1);
        free(text);
        mp_plan_free(p);
    }
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stack__writes_the_samples_byte_for_byte),
        cmocka_unit_test(test_stack__reads_the_samples_back_equal),
        cmocka_unit_test(test_stack__reads_deployed_placements),
        cmocka_unit_test(test_stack__round_trips_with_a_model),
        cmocka_unit_test(test_stack__sglang_writes_dense_rows_as_trivial),
        cmocka_unit_test(test_stack__trtllm_writes_mtp_rows_and_leaves_them_out_on_reading),
        cmocka_unit_test(test_stack__rule_every_expert_has_a_slot),
        cmocka_unit_test(test_stack__rule_equal_slots),
        cmocka_unit_test(test_stack__rule_empty_slots),
        cmocka_unit_test(test_stack__rule_distinct_replicas),
        cmocka_unit_test(test_stack__rule_layers_of_the_model),
        cmocka_unit_test(test_stack__rule_layers_have_no_gap),
        cmocka_unit_test(test_stack__reads_by_position_only_what_it_can_place),
        cmocka_unit_test(test_stack__names_of_files),
        cmocka_unit_test(test_stack__routes),
        cmocka_unit_test(test_stack__rule_layer_keys),
        cmocka_unit_test(test_stack__flags_hold_the_numbers),
        cmocka_unit_test(test_stack__asks_for_the_number_of_gpus),
        cmocka_unit_test(test_stack__names_the_place_of_what_is_wrong),
        cmocka_unit_test(test_stack__survives_damage),
        cmocka_unit_test(test_stack__leaks_nothing_on_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
