/* Plans of one traffic matrix, each broken in every way that only the matrix and the topology show: what it claims,
 * what it was made for, and what it does. */
#include "../unit/verify/matrix_case.h"

#define BIT(kind) (UINT32_C(1) << (kind))
#define OTHER_HASH "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210"

static uint64_t tolerance(const struct mp_plan *p) {
    return p->n_orders > 0 && p->orders[0].between_nodes ? p->orders[0].n_stages + 2 : 1;
}

static bool value_up(struct mp_plan *p, struct mp_rng *rng) {
    p->certificates[0].value_ns += 2 * tolerance(p) + 1 + mp_rng_below(rng, 1000);
    return true;
}
static bool value_down(struct mp_plan *p, struct mp_rng *rng) {
    struct mp_certificate *c = &p->certificates[0];
    const uint64_t by = 2 * tolerance(p) + 1;
    if (c->value_ns < c->bound_ns + by)
        return false;
    c->value_ns -= by + mp_rng_below(rng, c->value_ns - c->bound_ns - by + 1);
    return true;
}
static bool bound_up(struct mp_plan *p, struct mp_rng *rng) {
    struct mp_certificate *c = &p->certificates[0];
    if (c->value_ns == c->bound_ns)
        return false;
    c->bound_ns += 1 + mp_rng_below(rng, c->value_ns - c->bound_ns);
    return true;
}
static bool bound_down(struct mp_plan *p, struct mp_rng *rng) {
    struct mp_certificate *c = &p->certificates[0];
    if (c->bound_ns == 0)
        return false;
    c->bound_ns -= 1 + mp_rng_below(rng, c->bound_ns);
    return true;
}
static bool other_matrix(struct mp_plan *p, struct mp_rng *rng) {
    (void)rng;
    p->provenance.matrix.sha256 = OTHER_HASH;
    return true;
}
static bool other_format(struct mp_plan *p, struct mp_rng *rng) {
    static const char *const formats[] = {"csv", "nccl-tests", "npy"};
    const char *format = formats[mp_rng_below(rng, 3)];
    bool is_other = strcmp(format, p->provenance.matrix.format) != 0;
    p->provenance.matrix.format = format;
    return is_other;
}
/* Other bytes: another bound, unless there are none, or all is rounded away. */
static bool other_tokens(struct mp_plan *p, struct mp_rng *rng) {
    struct mp_matrix_source *m = &p->provenance.matrix;
    m->token_bytes = m->token_bytes > 1 ? mp_rng_below(rng, m->token_bytes) : 2 + mp_rng_below(rng, 4096);
    return p->certificates[0].bound_ns > 0;
}
static bool no_matrix(struct mp_plan *p, struct mp_rng *rng) {
    (void)rng;
    p->provenance.matrix.is_present = false;
    return true;
}
static bool other_topology(struct mp_plan *p, struct mp_rng *rng) {
    (void)rng;
    p->provenance.topology_sha256 = OTHER_HASH;
    return true;
}
static bool other_topology_name(struct mp_plan *p, struct mp_rng *rng) {
    (void)rng;
    p->provenance.topology = "8:b200";
    return true;
}
/* Honest claims of another order. */
static bool no_order(struct mp_plan *p, struct mp_rng *rng) {
    (void)rng;
    bool has_order = p->layers[0].order != MP_NONE;
    p->layers[0].order = MP_NONE;
    p->layers[0].combine = MP_COMBINE_FORWARD;
    return has_order;
}
static bool other_stages(struct mp_plan *p, struct mp_rng *rng) {
    p->stage_mode = (enum mp_stage_mode)((p->stage_mode + 1 + mp_rng_below(rng, 2)) % 3);
    return p->n_orders > 0;
}
static bool stage_cut_in_two(struct mp_plan *p, struct mp_rng *rng) {
    if (p->n_orders == 0 || p->orders[0].n_stages == 0 || p->orders[0].stages[0].n < 2)
        return false;
    struct mp_order *o = (void *)(uintptr_t)&p->orders[0];
    struct mp_stage *stages = mp_arena_alloc(p->arena, (size_t)o->n_stages + 1, sizeof *stages);
    assert_non_null(stages);
    uint32_t n = 1 + (uint32_t)mp_rng_below(rng, o->stages[0].n - 1);
    memcpy(stages + 1, o->stages, o->n_stages * sizeof *stages);
    stages[0] = (struct mp_stage){n, o->stages[0].transfers};
    stages[1] = (struct mp_stage){o->stages[0].n - n, o->stages[0].transfers + n};
    o->stages = stages;
    o->n_stages++;
    return !(o->has_flush && o->n_stages == 2);
}

static const struct {
    const char *name;
    uint32_t kinds;
    bool (*apply)(struct mp_plan *p, struct mp_rng *rng); /* false: nothing there to break */
    bool may_stay_true;                                   /* the broken plan may by chance be as true as the old one */
} ways[] = {
    {"value-up", BIT(MP_V_CERTIFICATE), value_up, false},
    {"value-down", BIT(MP_V_CERTIFICATE), value_down, false},
    {"bound-up", BIT(MP_V_CERTIFICATE), bound_up, false},
    {"bound-down", BIT(MP_V_CERTIFICATE), bound_down, false},
    {"other-matrix", BIT(MP_V_PROVENANCE), other_matrix, false},
    {"other-format", BIT(MP_V_PROVENANCE), other_format, false},
    {"other-tokens", BIT(MP_V_CERTIFICATE) | BIT(MP_V_PROVENANCE), other_tokens, true},
    {"no-matrix", BIT(MP_V_PROVENANCE), no_matrix, false},
    {"other-topology", BIT(MP_V_PROVENANCE), other_topology, false},
    {"other-topology-name", BIT(MP_V_PROVENANCE), other_topology_name, false},
    {"no-order", BIT(MP_V_CERTIFICATE), no_order, true},
    {"other-stages", BIT(MP_V_CERTIFICATE), other_stages, true},
    {"stage-cut-in-two", BIT(MP_V_CERTIFICATE), stage_cut_in_two, true},
};
enum { N_WAYS = sizeof ways / sizeof *ways };

static struct mp_plan *reread(const char *text, size_t n) {
    struct mp_error err = {0};
    struct mp_in *in;
    struct mp_plan *p;
    CHECK_OK(mp_in_from_memory(&in, "plan.yaml", text, n, &err), err);
    CHECK_OK(mp_plan_parse(&p, in, NULL, &err), err);
    mp_in_close(in);
    return p;
}

static void test_mutations_matrix__all_refused_by_name(void **state) {
    (void)state;
    static const char *const topologies[] = {"1x4:h100", "2x2:h100", "2x2:a100+1x2:l40s", "3x2:v100"};
    struct mp_rng rng = mp_rng_seed(19);
    uint32_t applied[N_WAYS] = {0}, refused[N_WAYS] = {0};
    for (uint32_t round = 0; round < 400; round++) {
        struct mp_error err = {0};
        struct mp_topology *t;
        struct matrix_case c;
        size_t n;
        CHECK_OK(mp_topology_load(&t, topologies[round % 4], &mp_limits_default, &err), err);
        matrix_case_make(&c, &rng, t);
        char *text = plan_text(c.plan, &n);
        for (int i = -1; i < N_WAYS; i++) {
            struct mp_verify_report *r;
            struct mp_plan *p = reread(text, n);
            if (i >= 0 && !ways[i].apply(p, &rng)) {
                mp_plan_free(p);
                continue;
            }
            CHECK_OK(mp_plan_verify_matrix(&r, p, c.matrix, t, false, &err), err);
            bool is_named = i < 0 ? r->n == 0 : ways[i].may_stay_true && r->n == 0;
            for (uint32_t k = 0; i >= 0 && k < r->n; k++)
                is_named |= ways[i].kinds >> r->violations[k].kind & 1;
            if (!is_named)
                fail_msg("round %u: %s: %u violations, the first \"%s\"", round, i >= 0 ? ways[i].name : "unbroken",
                         r->n, r->n > 0 ? r->violations[0].message : "");
            applied[i >= 0 ? i : 0] += i >= 0;
            refused[i >= 0 ? i : 0] += i >= 0 && r->n > 0;
            mp_verify_report_free(r);
            mp_plan_free(p);
        }
        free(text);
        matrix_case_free(&c);
        mp_topology_free(t);
    }
    for (int i = 0; i < N_WAYS; i++)
        if (refused[i] < 40 || (!ways[i].may_stay_true && refused[i] < applied[i]))
            fail_msg("%s: applied %u times, refused %u times", ways[i].name, applied[i], refused[i]);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_mutations_matrix__all_refused_by_name)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
