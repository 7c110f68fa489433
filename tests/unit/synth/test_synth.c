#include "support.h"
#include <moeplan/base.h>
#include <moeplan/synth.h>
#include <moeplan/workload.h>

static const struct mp_synth_params base = {.n_layers = 4,
                                            .n_experts = 32,
                                            .top_k = 4,
                                            .first_layer_id = 3,
                                            .n_requests = 200,
                                            .tokens_per_request_mean = 40,
                                            .phase = MP_PHASE_DECODE,
                                            .zipf_ppm = 600000,
                                            .coactivation_ppm = 300000,
                                            .cluster_size = 4,
                                            .cross_layer_ppm = 500000,
                                            .n_domains = 4,
                                            .domain_ppm = 200000,
                                            .stickiness_ppm = 300000,
                                            .seed = 1};

static struct mp_trace *generate(const struct mp_synth_params *p) {
    struct mp_error err = {0};
    struct mp_trace *t;
    CHECK_OK(mp_synth_generate(&t, p, &mp_limits_default, &err), err);
    return t;
}

static void bytes_of(const struct mp_trace *t, char hex[65]) {
    struct mp_error err = {0};
    struct mp_out *o;
    CHECK_OK(mp_out_open_memory(&o, &err), err);
    mp_trace_write(t, o);
    size_t size;
    const uint8_t *bytes = mp_out_memory_bytes(o, &size);
    mp_sha256_hex(bytes, size, hex);
    CHECK_OK(mp_out_commit(o, &err), err);
}

static void test_synth__same_seed_same_bytes(void **state) {
    (void)state;
    char first[65], second[65], other[65];
    struct mp_synth_params p = base;
    struct mp_trace *t = generate(&p);
    struct mp_error err = {0};
    CHECK_OK(mp_trace_check(t, &err), err);
    assert_true(t->is_synthetic);
    assert_true(t->is_ranked);
    assert_int_equal(t->phase, MP_PHASE_DECODE);
    assert_int_equal(t->n_requests, 200);
    assert_int_equal(t->n_categories, 4);
    assert_int_equal(t->layer_ids[0], 3);
    assert_int_equal(t->layer_ids[3], 6);
    /* Lengths between half and one and a half of the mean, in all close to the mean. */
    for (uint64_t r = 0; r < t->n_requests; r++)
        assert_in_range(t->requests[r].n_rows, 20, 60);
    assert_in_range(t->n_rows, 200 * 37, 200 * 43);
    bytes_of(t, first);
    mp_trace_free(t);
    t = generate(&p);
    bytes_of(t, second);
    mp_trace_free(t);
    assert_string_equal(first, second);
    p.seed = 2;
    t = generate(&p);
    bytes_of(t, other);
    mp_trace_free(t);
    assert_string_not_equal(first, other);
}

/* A request's rows depend on the seed and its number alone: a longer trace begins with the shorter one (without drift,
 * which is measured against the whole). So do the layers. */
static void test_synth__longer_traces_begin_alike(void **state) {
    (void)state;
    struct mp_synth_params p = base;
    p.n_requests = 20;
    struct mp_trace *a = generate(&p);
    p.n_requests = 30;
    struct mp_trace *b = generate(&p);
    for (uint64_t row = 0; row < a->n_rows; row++)
        for (uint32_t l = 0; l < a->n_layers; l++) {
            uint16_t x[64], y[64];
            assert_int_equal(mp_trace_row(a, l, row, x), 4);
            (void)mp_trace_row(b, l, row, y);
            assert_memory_equal(x, y, 4 * sizeof *x);
        }
    mp_trace_free(a);
    mp_trace_free(b);
}

static struct mp_trace_stats statistics(const struct mp_synth_params *p) {
    struct mp_error err = {0};
    struct mp_trace *t = generate(p);
    struct mp_trace_stats s;
    CHECK_OK(mp_trace_statistics(&s, t, 1, &err), err);
    mp_trace_free(t);
    return s;
}

/* Each parameter moves its statistic up, over the whole range in four steps. */
static void test_synth__parameters_move_their_statistics(void **state) {
    (void)state;
    double last[6] = {0};
    for (uint32_t i = 0; i <= 4; i++) {
        struct mp_synth_params p[6];
        for (int j = 0; j < 6; j++)
            p[j] = base;
        p[0].zipf_ppm = i * 300000;
        p[1].coactivation_ppm = i * 250000;
        p[2].cross_layer_ppm = i * 250000;
        p[3].stickiness_ppm = i * 250000;
        p[3].n_requests = 64; /* few and long: a run sees one request */
        p[3].tokens_per_request_mean = 160;
        p[4].domain_ppm = i * 250000;
        p[5].drift_ppm = i * 250000;
        struct mp_trace_stats s[6];
        for (int j = 0; j < 6; j++)
            s[j] = statistics(&p[j]);
        double now[6] = {s[0].load_max_over_mean,      s[1].pair_lift,
                         s[2].cross_layer_information, s[3].run_max_over_mean / s[3].step_max_over_mean,
                         s[4].category_shift,          s[5].half_shift};
        print_message("# %.4f %.4f %.4f %.4f %.4f %.4f\n", now[0], now[1], now[2], now[3], now[4], now[5]);
        for (int j = 0; j < 6; j++) {
            if (i > 0 && now[j] <= last[j])
                fail_msg("parameter %d: statistic fell from %.4f to %.4f at step %u", j, last[j], now[j], i);
            last[j] = now[j];
        }
    }
}

static double distance_of_parts(const struct mp_trace *t, const char *text) {
    struct mp_error err = {0};
    struct mp_split split;
    struct mp_part parts[2];
    CHECK_OK(mp_split_parse(&split, text, 1, &err), err);
    CHECK_OK(mp_part_split(&parts[0], &parts[1], t, &split, &err), err);
    double distance = 0;
    for (uint32_t l = 0; l < t->n_layers; l++) {
        double load[2][32] = {{0}}, sum[2] = {0};
        for (int k = 0; k < 2; k++)
            for (uint32_t i = 0; i < parts[k].n; i++) {
                const struct mp_request *r = &t->requests[parts[k].members[i]];
                for (uint64_t row = r->first_row; row < r->first_row + r->n_rows; row++) {
                    uint16_t ids[64];
                    uint32_t n = mp_trace_row(t, l, row, ids);
                    for (uint32_t j = 0; j < n; j++)
                        load[k][ids[j]]++;
                    sum[k] += n;
                }
            }
        for (uint32_t e = 0; e < 32; e++) {
            double d = load[0][e] / sum[0] - load[1][e] / sum[1];
            distance += d < 0 ? -d : d;
        }
    }
    mp_part_free(&parts[0]);
    mp_part_free(&parts[1]);
    return distance / 2 / t->n_layers;
}

static void test_synth__drift_is_seen_by_time_and_not_by_hash(void **state) {
    (void)state;
    struct mp_synth_params p = base;
    struct mp_trace *still = generate(&p);
    p.drift_ppm = 1000000;
    struct mp_trace *drifting = generate(&p);
    double time_rise = distance_of_parts(drifting, "time:0.5") - distance_of_parts(still, "time:0.5");
    double hash_rise = distance_of_parts(drifting, "0.5") - distance_of_parts(still, "0.5");
    print_message("# distance of the parts rises by %.3f (time), %.3f (hash)\n", time_rise, hash_rise);
    assert_true(time_rise > 0.05);
    assert_true(hash_rise < time_rise / 4);
    mp_trace_free(still);
    mp_trace_free(drifting);
}

static void test_synth__a_prefix_is_the_same_in_all_requests(void **state) {
    (void)state;
    struct mp_synth_params p = base;
    p.prefix_tokens = 2;
    p.tokens_per_request_mean = 3; /* 2 to 4 tokens */
    struct mp_trace *t = generate(&p);
    for (uint64_t r = 1; r < t->n_requests; r++)
        for (uint32_t j = 0; j < 2; j++)
            for (uint32_t l = 0; l < t->n_layers; l++) {
                uint16_t x[64], y[64];
                (void)mp_trace_row(t, l, t->requests[0].first_row + j, x);
                (void)mp_trace_row(t, l, t->requests[r].first_row + j, y);
                assert_memory_equal(x, y, 4 * sizeof *x);
            }
    mp_trace_free(t);
}

/* Every corner of the parameters gives a trace that the checker accepts. */
static void test_synth__corners(void **state) {
    (void)state;
    static const uint32_t shares[] = {0, 1000000};
    for (uint32_t mask = 0; mask < 64; mask++) {
        struct mp_synth_params p = base;
        p.n_requests = 3;
        p.tokens_per_request_mean = 3;
        p.coactivation_ppm = shares[mask & 1];
        p.cross_layer_ppm = shares[mask >> 1 & 1];
        p.stickiness_ppm = shares[mask >> 2 & 1];
        p.domain_ppm = shares[mask >> 3 & 1];
        p.drift_ppm = shares[mask >> 4 & 1];
        p.zipf_ppm = 4 * shares[mask >> 5 & 1];
        static const uint32_t shapes[][3] = {{1, 1, 1}, {8, 8, 3}, {8, 1, 8}, {64, 64, 64}, {300, 12, 7}, {5, 5, 1}};
        for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
            p.n_experts = shapes[i][0];
            p.top_k = shapes[i][1];
            p.cluster_size = shapes[i][2];
            p.n_domains = (uint32_t)i % 3;
            struct mp_error err = {0};
            struct mp_trace *t = generate(&p);
            CHECK_OK(mp_trace_check(t, &err), err);
            mp_trace_free(t);
        }
    }
}

static void test_synth__refuses_what_cannot_be(void **state) {
    (void)state;
    struct {
        struct mp_synth_params p;
        const char *message;
    } cases[12];
    size_t n = 0;
#define REFUSED(field, value, text)                                                                                    \
    do {                                                                                                               \
        cases[n].p = base;                                                                                             \
        cases[n].p.field = (value);                                                                                    \
        cases[n++].message = (text);                                                                                   \
    } while (0)
    REFUSED(n_layers, 0, "--layers 0 is not in [1, 1024]");
    REFUSED(n_experts, 4097, "--experts 4097 is not in [1, 4096]");
    REFUSED(top_k, 33, "--top-k 33 is not in [1, 32]");
    REFUSED(n_requests, 0, "--n-requests 0 is not in [1, 4294967294]");
    REFUSED(tokens_per_request_mean, 0, "--tokens-per-request 0 is not in [1, 4294967295]");
    REFUSED(cluster_size, 33, "--cluster 33 is not in [1, 32]");
    REFUSED(zipf_ppm, 4000001, "--zipf 4.000001 is not in [0, 4]");
    REFUSED(coactivation_ppm, 1000001, "--coactivation 1.000001 is not in [0, 1]");
    REFUSED(stickiness_ppm, 2000000, "--stickiness 2.000000 is not in [0, 1]");
    REFUSED(first_layer_id, UINT32_MAX, "the first layer id 4294967295 is too large");
    REFUSED(phase, MP_PHASE_MIXED, "a synthetic trace needs --phase prefill, decode or train");
#undef REFUSED
    for (size_t i = 0; i < n; i++) {
        struct mp_error err = {0};
        struct mp_trace *t;
        assert_int_equal(mp_synth_generate(&t, &cases[i].p, &mp_limits_default, &err), MP_EUSAGE);
        assert_string_equal(err.message, cases[i].message);
        assert_null(t);
    }
}

static enum mp_status generate_flow(void *ctx, struct mp_error *err) {
    struct mp_trace *t;
    enum mp_status status = mp_synth_generate(&t, ctx, &mp_limits_default, err);
    mp_trace_free(status == MP_OK ? t : NULL);
    return status;
}
static void test_synth__survives_faults(void **state) {
    (void)state;
    struct mp_synth_params p = base;
    p.n_requests = 3;
    p.tokens_per_request_mean = 2;
    p.prefix_tokens = 1;
    sweep_faults(generate_flow, &p, 1);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_synth__same_seed_same_bytes),
        cmocka_unit_test(test_synth__longer_traces_begin_alike),
        cmocka_unit_test(test_synth__parameters_move_their_statistics),
        cmocka_unit_test(test_synth__drift_is_seen_by_time_and_not_by_hash),
        cmocka_unit_test(test_synth__a_prefix_is_the_same_in_all_requests),
        cmocka_unit_test(test_synth__corners),
        cmocka_unit_test(test_synth__refuses_what_cannot_be),
        cmocka_unit_test(test_synth__survives_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
