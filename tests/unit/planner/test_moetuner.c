/* MoETuner's two programs against every clustering and every way to put clusters on GPUs. */
#include "support.h"

#include "place_moetuner.h"
#include "planner.h"
#include "tiny.h"

#define LAYERS 3u
#define EXPERTS_MAX 8u

struct case_of {
    struct tiny t;
    struct mp_workload *workload;
    struct mp_arena *arena;
    struct mp_problem problem;
};

static void make(struct case_of *c, const char *topology, uint32_t n_experts, uint32_t top_k, uint64_t seed) {
    struct mp_error err = {0};
    const struct tiny_spec s = {.n_layers = LAYERS,
                                .n_experts = n_experts,
                                .top_k = top_k,
                                .n_requests = 40,
                                .n_rows = 6,
                                .topology = topology,
                                .phase = MP_PHASE_DECODE,
                                .batch = 3,
                                .seed = seed};
    CHECK_OK(tiny_make(&c->t, &s, &err), err);
    c->t.request.strategy = "moetuner";
    CHECK_OK(mp_workload_build(&c->workload, &c->t.part, &c->t.request.batching, &err), err);
    c->arena = mp_arena_new();
    assert_non_null(c->arena);
    c->problem = (struct mp_problem){.workload = c->workload, .topology = c->t.topology, .model = c->t.model};
    CHECK_OK(mp_load_table(&c->problem.load, c->workload, 1, c->arena, &err), err);
}
static void drop(struct case_of *c) {
    mp_workload_free(c->workload);
    mp_arena_free(c->arena);
    tiny_free(&c->t);
}

static struct mp_plan *plan_of(struct case_of *c, uint64_t nodes, enum mp_outcome *outcome) {
    struct mp_error err = {0};
    struct mp_plan *p = NULL;
    const struct mp_setting setting = {"moetuner", "nodes", (int64_t)nodes};
    c->t.request.settings = &setting;
    c->t.request.n_settings = 1;
    CHECK_OK(mp_plan_make(&p, &c->t.request, outcome, NULL, &err), err);
    c->t.request.settings = NULL;
    c->t.request.n_settings = 0;
    assert_non_null(p);
    return p;
}

/* Rows of the fullest of n clusters of at most `size`, over all ways. */
static uint64_t least_full(const uint64_t *load, uint32_t n_experts, uint32_t n, uint32_t size) {
    uint64_t best = UINT64_MAX, n_all = 1;
    for (uint32_t e = 0; e < n_experts; e++)
        n_all *= n;
    for (uint64_t code = 0; code < n_all; code++) {
        uint64_t rows[8] = {0}, x = code, most = 0;
        uint32_t used[8] = {0}, fullest = 0;
        for (uint32_t e = 0; e < n_experts; e++, x /= n) {
            rows[x % n] += load[e];
            fullest = ++used[x % n] > fullest ? used[x % n] : fullest;
        }
        for (uint32_t c = 0; c < n; c++)
            most = rows[c] > most ? rows[c] : most;
        if (fullest <= size && most < best)
            best = most;
    }
    return best;
}

/* The least of all ways to put each layer's GPUs elsewhere, the sets on them kept: layer `l` and those after it. */
static void every_way(struct case_of *c, struct mp_plan *p, uint32_t l, uint32_t from, uint64_t *best) {
    struct mp_error err = {0};
    const uint32_t n = p->n_gpus, slots = p->n_slots / n;
    if (l == p->n_layers) {
        struct mp_moetuner_worth w;
        CHECK_OK(mp_moetuner_worth(&w, &c->problem, p, &err), err);
        *best = w.transfer_ns < *best ? w.transfer_ns : *best;
        return;
    }
    if (from == n) {
        every_way(c, p, l + 1, 0, best);
        return;
    }
    for (uint32_t g = from; g < n; g++) { /* swap the slots of two GPUs, go on, swap back */
        for (int turn = 0; turn < 2; turn++) {
            for (uint32_t s = 0; s < slots; s++) {
                uint16_t *x = &p->layers[l].slot_expert[from * slots + s];
                uint16_t *y = &p->layers[l].slot_expert[g * slots + s], was = *x;
                *x = *y;
                *y = was;
            }
            if (turn == 0)
                every_way(c, p, l, from + 1, best);
        }
    }
}

static void test_moetuner__both_programs_are_solved(void **state) {
    static const struct {
        const char *topology;
        uint32_t n_experts, top_k;
    } kinds[] = {{"2:h100", 6, 1}, {"3:h100", 7, 2}, {"2x2:h100", 8, 1}, {"2x2:h100", 6, 2}};
    uint32_t n_asked = 0;
    (void)state;
    for (uint64_t seed = 0; seed < 24; seed++) {
        struct case_of c;
        struct mp_moetuner_worth w;
        struct mp_error err = {0};
        enum mp_outcome outcome;
        make(&c, kinds[seed % 4].topology, kinds[seed % 4].n_experts, kinds[seed % 4].top_k, seed);
        struct mp_plan *p = plan_of(&c, 100000, &outcome);
        const uint32_t n = p->n_gpus, size = (p->n_experts + n - 1) / n;
        uint64_t rows = 0, best = UINT64_MAX;
        assert_int_equal(outcome, MP_FOUND);
        for (uint32_t l = 0; l < LAYERS; l++)
            rows += least_full(c.problem.load + (size_t)l * p->n_experts, p->n_experts, n, size);
        CHECK_OK(mp_moetuner_worth(&w, &c.problem, p, &err), err);
        assert_true(w.rows == rows);
        every_way(&c, p, 0, 0, &best);
        assert_true(w.transfer_ns == best);
        n_asked += p->provenance.work_used > 0;
        mp_plan_free(p);
        drop(&c);
    }
    assert_true(n_asked >= 5); /* for the others the solution to begin with is at the bound */
}

static void test_moetuner__stopped_it_keeps_what_it_has(void **state) {
    uint32_t n_stopped = 0;
    (void)state;
    for (uint64_t seed = 0; seed < 12; seed++) {
        struct case_of c;
        struct mp_moetuner_worth w, all;
        struct mp_error err = {0};
        enum mp_outcome outcome;
        make(&c, "2x2:h100", 8, 2, seed);
        struct mp_plan *p = plan_of(&c, 1, &outcome), *q = plan_of(&c, 100000, &outcome);
        CHECK_OK(mp_moetuner_worth(&w, &c.problem, p, &err), err);
        CHECK_OK(mp_moetuner_worth(&all, &c.problem, q, &err), err);
        assert_true(w.rows >= all.rows);
        if (strcmp(p->provenance.stopped_by, "work_limit") == 0)
            n_stopped++;
        assert_true(p->provenance.work_used <= (LAYERS + 1) * 3);
        mp_plan_free(p);
        mp_plan_free(q);
        drop(&c);
    }
    assert_true(n_stopped > 0);
}

/* Against the definition, token by token, on the placement as it comes. */
static void test_moetuner__worth_counts_every_pair_of_a_token(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 6; seed++) {
        struct case_of c;
        struct mp_error err = {0};
        struct mp_plan *p = NULL;
        struct mp_moetuner_worth w;
        enum mp_outcome outcome;
        uint64_t total = 0;
        make(&c, seed % 2 ? "2x2:h100" : "4:h100", 8, 1 + (uint32_t)seed % 3, seed);
        c.t.request.strategy = "round-robin"; /* expert e on GPU e mod 4 */
        CHECK_OK(mp_plan_make(&p, &c.t.request, &outcome, NULL, &err), err);
        CHECK_OK(mp_moetuner_worth(&w, &c.problem, p, &err), err);
        for (uint32_t l = 0; l + 1 < LAYERS; l++) {
            uint64_t most = 0;
            for (uint32_t pair = 0; pair < 16; pair++) {
                const uint32_t g = pair / 4, h = pair % 4;
                uint64_t n = 0;
                for (uint32_t s = 0; s < c.workload->n_steps; s++)
                    for (uint32_t i = 0; i < c.workload->steps[s].n; i++) {
                        uint16_t ids[2][MP_MAX_TOP_K];
                        for (uint32_t k = 0; k < 2; k++)
                            (void)mp_trace_row(c.t.trace, l + k, c.workload->steps[s].row[i], ids[k]);
                        for (uint32_t a = 0; a < c.t.trace->top_k; a++)
                            for (uint32_t b = 0; b < c.t.trace->top_k; b++)
                                n += ids[0][a] % 4 == g && ids[1][b] % 4 == h;
                    }
                const struct mp_topology *t = c.t.topology;
                const uint32_t level = seed % 2 && g / 2 != h / 2; /* NVLink inside a node, NICs between nodes */
                const uint64_t rate = t->resources[t->gpus[g].out_port[level]].bytes_per_s; /* all alike */
                const uint64_t ps = mp_ceil_div(c.t.model->dispatch_bytes * UINT64_C(1000000000000), rate);
                const uint64_t ns = g == h ? 0 : mp_ceil_div(n * ps, 1000);
                most = ns > most ? ns : most;
            }
            total += most;
        }
        assert_true(w.transfer_ns == total);
        mp_plan_free(p);
        drop(&c);
    }
}

static void test_moetuner__declines_with_a_reason(void **state) {
    static const struct {
        struct tiny_spec spec;
        uint32_t n_redundant;
        const char *replicate, *want;
    } cases[] = {
        {{.n_experts = 65, .topology = "2:h100"}, 0, NULL, "at most 64 experts and 8 GPUs, not 65 and 2"},
        {{.n_experts = 18, .topology = "9:h100"}, 0, NULL, "at most 64 experts and 8 GPUs, not 18 and 9"},
        {{.n_experts = 6, .topology = "2:h100", .is_counts = true}, 0, NULL, "record the experts of each token"},
        {{.n_experts = 6, .topology = "2:h100"}, 2, "eplb", "write --replicate none"}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct mp_error err = {0};
        struct tiny t;
        struct tiny_spec s = cases[i].spec;
        struct mp_plan *p = NULL;
        enum mp_outcome outcome;
        s.n_layers = 2;
        s.top_k = 1;
        s.n_requests = 20;
        s.n_rows = 6;
        s.phase = MP_PHASE_DECODE;
        s.batch = 2;
        CHECK_OK(tiny_make(&t, &s, &err), err);
        t.request.strategy = "moetuner";
        t.request.replicate = cases[i].replicate;
        t.request.n_redundant = cases[i].n_redundant;
        CHECK_OK(mp_plan_make(&p, &t.request, &outcome, NULL, &err), err);
        assert_null(p);
        assert_int_equal(outcome, MP_NOT_APPLICABLE);
        if (strstr(err.message, cases[i].want) == NULL)
            fail_msg("%s", err.message);
        tiny_free(&t);
    }
}

static enum mp_status flow(void *ctx, struct mp_error *err) {
    struct case_of *c = ctx;
    struct mp_plan *p = NULL;
    struct mp_moetuner_worth w;
    enum mp_outcome outcome;
    enum mp_status status = mp_plan_make(&p, &c->t.request, &outcome, NULL, err);
    if (status == MP_OK)
        status = mp_moetuner_worth(&w, &c->problem, p, err);
    mp_plan_free(p);
    return status;
}
static void test_moetuner__survives_faults(void **state) {
    struct case_of c;
    (void)state;
    make(&c, "2x2:h100", 6, 2, 3);
    c.t.request.work_limit = 4;
    sweep_faults(flow, &c, 7);
    drop(&c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_moetuner__both_programs_are_solved),
        cmocka_unit_test(test_moetuner__stopped_it_keeps_what_it_has),
        cmocka_unit_test(test_moetuner__worth_counts_every_pair_of_a_token),
        cmocka_unit_test(test_moetuner__declines_with_a_reason),
        cmocka_unit_test(test_moetuner__survives_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
