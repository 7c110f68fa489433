/* An order is planned on one matrix and replayed on others: random matrices go through the order of every strategy, and
 * through random orders of every kind, written to a plan file and read back; no byte is lost or sent twice. The cuts
 * are made here from docs/ORDERS.md and by the simulator, which logs what it moves. */
#include "../plan/random_plan.h"
#include "support.h"
#include <moeplan/strategy.h>
#include <moeplan/verify.h>
#include <stdio.h>
#include <stdlib.h>

static const char *const topologies[] = {"1x5:h100", "2x2:h100", "2x2:a100+1x3:l40s", "4x2:v100",
                                         "topologies/shared-nic.yaml"};
#define N_TOPOLOGIES (sizeof topologies / sizeof topologies[0])

struct world {
    struct mp_topology *t;
    struct mp_net *net;
    uint32_t n;
    uint64_t *planned, *replayed, *transposed, *nodes, *sums;
};

static uint64_t *square(uint32_t n) {
    uint64_t *m = mp_calloc((size_t)n * n, sizeof *m);
    assert_non_null(m);
    return m;
}

static void open_world(struct world *w, uint32_t i) {
    struct mp_error err = {0};
    const char *spec = i >= 4 ? source_path(topologies[i]) : topologies[i];
    CHECK_OK(mp_topology_load(&w->t, spec, &mp_limits_default, &err), err);
    CHECK_OK(mp_net_new(&w->net, w->t, &err), err);
    w->n = w->t->n_gpus;
    uint64_t **squares[] = {&w->planned, &w->replayed, &w->transposed, &w->nodes, &w->sums};
    for (size_t k = 0; k < sizeof squares / sizeof squares[0]; k++)
        *squares[k] = square(w->n);
}

static void close_world(struct world *w) {
    uint64_t *squares[] = {w->planned, w->replayed, w->transposed, w->nodes, w->sums};
    for (size_t k = 0; k < sizeof squares / sizeof squares[0]; k++)
        mp_free(squares[k]);
    mp_net_free(w->net);
    mp_topology_free(w->t);
}

/* ---- matrices ---- */

static void random_matrix(struct mp_rng *rng, uint32_t n, uint64_t *m) {
    for (size_t i = 0; i < (size_t)n * n; i++)
        m[i] = i / n == i % n || mp_rng_below(rng, 3) == 0
                   ? 0
                   : mp_rng_below(rng, UINT64_C(1) << (1 + mp_rng_below(rng, 30)));
}

/* Like the planned one and unlike it: nothing where something was planned, something where nothing was, sizes 0 and 1,
 * and sizes that no counter of 32 bits holds. */
static void replayed_matrix(struct mp_rng *rng, const struct world *w, uint32_t kind, uint64_t *m) {
    for (size_t i = 0; i < (size_t)w->n * w->n; i++) {
        uint64_t planned = w->planned[i];
        m[i] = kind == 0   ? planned
               : kind == 1 ? (planned > 0 ? 0 : 1 + mp_rng_below(rng, 1000000))
               : kind == 2 ? mp_rng_below(rng, 2)
               : kind == 3 ? mp_rng_below(rng, UINT64_C(1) << 40)
               : kind == 4 ? (mp_rng_below(rng, 6) == 0 ? mp_rng_below(rng, UINT64_C(1) << 33) : 0)
                           : planned + mp_rng_below(rng, planned / 4 + 2);
        m[i] = i / w->n == i % w->n ? 0 : m[i];
    }
}
#define N_KINDS 6

/* ---- replays ---- */

/* Cut by hand. matrix as the stages list it: of a combine that is reversed or swapped the transpose. */
static void check_cuts(const struct world *w, const struct mp_order *o, const uint64_t *matrix) {
    const uint32_t n = o->between_nodes ? mp_topology_n_nodes(w->t) : w->n;
    uint64_t *cumulative = square(n), *sent = square(n);
    uint32_t *sends = mp_calloc(2 * (size_t)n, sizeof *sends), *takes = sends + n;
    assert_non_null(sends);
    for (uint32_t s = 0; s < o->n_stages; s++) {
        memset(sends, 0, 2 * (size_t)n * sizeof *sends);
        for (uint32_t i = 0; i < o->stages[s].n; i++) {
            const struct mp_transfer *x = &o->stages[s].transfers[i];
            size_t pair = (size_t)x->src * n + x->dst;
            uint64_t from = mp_mul_div(cumulative[pair], matrix[pair], o->unit);
            cumulative[pair] += x->share;
            uint64_t piece = mp_mul_div(cumulative[pair], matrix[pair], o->unit) - from;
            sent[pair] += piece;
            sends[x->src] += piece > 0 ? x->width : 0;
            takes[x->dst] += piece > 0 ? x->width : 0;
        }
        for (uint32_t g = 0; g < n && !(o->has_flush && s + 1 == o->n_stages); g++)
            assert_true(sends[g] <= o->ports && takes[g] <= o->ports);
    }
    for (size_t i = 0; i < (size_t)n * n; i++)
        assert_true(i / n == i % n || sent[i] == matrix[i]);
    mp_free(cumulative);
    mp_free(sent);
    mp_free(sends);
}

/* What the simulator moved, pair by pair, in every stage mode. */
static void check_simulated(const struct world *w, const struct mp_order *o, enum mp_combine way,
                            const uint64_t *matrix) {
    for (uint32_t mode = 0; mode < 3; mode++) {
        struct mp_error err = {0};
        struct mp_net_log log = {0};
        uint64_t ns, quick;
        CHECK_OK(mp_net_staged(w->net, o, way, (enum mp_stage_mode)mode, matrix, &quick, &err), err);
        mp_net_log_to(w->net, &log);
        CHECK_OK(mp_net_staged(w->net, o, way, (enum mp_stage_mode)mode, matrix, &ns, &err), err);
        mp_net_log_to(w->net, NULL);
        /* Two ways to the same time, which may be weeks here: 1 ns of rounding, and what a double cannot tell. */
        assert_true((ns > quick ? ns - quick : quick - ns) <= 1 + ns / UINT64_C(1000000000000));
        assert_true(ns >= (o->between_nodes ? mp_relay_bound_ns(w->t, matrix) : mp_port_bound_ns(w->t, matrix)));
        memset(w->sums, 0, (size_t)w->n * w->n * sizeof *w->sums);
        for (size_t i = 0; i < log.n; i++)
            w->sums[(size_t)log.transfers[i].src * w->n + log.transfers[i].dst] += log.transfers[i].bytes;
        if (!o->between_nodes)
            assert_memory_equal(w->sums, matrix, (size_t)w->n * w->n * sizeof *matrix);
        /* Between nodes bytes take several hops: what a GPU gets beyond what it passes on is what was meant for it. */
        for (uint32_t g = 0; g < w->n; g++) {
            uint64_t in = 0, out = 0, meant = 0, own = 0;
            for (uint32_t h = 0; h < w->n; h++) {
                in += w->sums[(size_t)h * w->n + g];
                out += w->sums[(size_t)g * w->n + h];
                meant += matrix[(size_t)h * w->n + g];
                own += matrix[(size_t)g * w->n + h];
            }
            assert_true(in + own == out + meant);
        }
        mp_net_log_free(&log);
    }
}

struct collected {
    const struct mp_topology *t;
    struct mp_relay *relays;
    size_t n;
};

static enum mp_status collect(void *ctx, uint32_t stage, const struct mp_relay *relays, size_t n,
                              struct mp_error *err) {
    struct collected *c = ctx;
    (void)stage, (void)err;
    c->relays = mp_realloc(c->relays, c->n + n, sizeof *c->relays);
    assert_non_null(c->relays);
    memcpy(c->relays + c->n, relays, n * sizeof *relays);
    c->n += n;
    return MP_OK;
}

static int by_offset(const void *a, const void *b) {
    const struct mp_relay *x = a, *y = b;
    if (x->src != y->src)
        return x->src < y->src ? -1 : 1;
    if (x->dst != y->dst)
        return x->dst < y->dst ? -1 : 1;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* Between nodes: the relays of each flow lie end to end, from its first byte to its last. */
static void check_relays(const struct world *w, const struct mp_order *o, const uint64_t *matrix) {
    struct mp_error err = {0};
    struct collected c = {.t = w->t};
    CHECK_OK(mp_nodes_relays(o, w->t, matrix, collect, &c, &err), err);
    if (c.n > 0)
        qsort(c.relays, c.n, sizeof *c.relays, by_offset);
    memset(w->sums, 0, (size_t)w->n * w->n * sizeof *w->sums);
    for (size_t i = 0; i < c.n; i++) {
        const struct mp_relay *r = &c.relays[i];
        uint64_t *so_far = &w->sums[(size_t)r->src * w->n + r->dst];
        assert_true(r->bytes > 0 && r->offset == *so_far);
        *so_far += r->bytes;
        assert_int_equal(mp_topology_node(w->t, r->src), mp_topology_node(w->t, r->out));
        assert_int_equal(mp_topology_node(w->t, r->dst), mp_topology_node(w->t, r->in));
    }
    for (uint32_t i = 0; i < w->n; i++)
        for (uint32_t j = 0; j < w->n; j++)
            if (mp_topology_node(w->t, i) != mp_topology_node(w->t, j))
                assert_true(w->sums[(size_t)i * w->n + j] == matrix[(size_t)i * w->n + j]);
    mp_free(c.relays);
}

static void replay(struct mp_rng *rng, const struct world *w, const struct mp_order *o) {
    for (uint32_t kind = 0; kind < N_KINDS; kind++) {
        replayed_matrix(rng, w, kind, w->replayed);
        for (uint32_t i = 0; i < w->n; i++)
            for (uint32_t j = 0; j < w->n; j++)
                w->transposed[(size_t)j * w->n + i] = w->replayed[(size_t)i * w->n + j];
        for (enum mp_combine way = MP_COMBINE_FORWARD; way < MP_N_COMBINES; way++) {
            const uint64_t *listed = way != MP_COMBINE_FORWARD ? w->transposed : w->replayed;
            check_simulated(w, o, way, w->replayed);
            if (!o->between_nodes) {
                check_cuts(w, o, listed);
                continue;
            }
            check_relays(w, o, listed);
            mp_node_matrix(w->t, listed, w->nodes); /* node pairs, cut like flows */
            check_cuts(w, o, w->nodes);
        }
    }
}

/* ---- through a plan ---- */

static struct mp_plan *empty_plan(const struct world *w) {
    struct mp_error err = {0};
    struct mp_plan *p;
    uint32_t slots[64];
    assert_true(w->n <= 64);
    for (uint32_t g = 0; g < w->n; g++)
        slots[g] = 1;
    CHECK_OK(mp_plan_new(&p, 1, w->n, w->n, slots, &err), err);
    uint32_t *node = mp_arena_alloc(p->arena, w->n, sizeof *node);
    assert_non_null(node);
    for (uint32_t g = 0; g < w->n; g++) {
        p->layers[0].slot_expert[g] = (uint16_t)g;
        node[g] = mp_topology_node(w->t, g);
    }
    p->gpu_node = node;
    p->n_nodes = mp_topology_n_nodes(w->t);
    p->provenance.route = "even";
    return p;
}

/* Written, read back, accepted against the topology, and replayed as read. Frees p. */
static void replay_plan(struct mp_rng *rng, const struct world *w, struct mp_plan *p, const struct mp_order *orders,
                        uint32_t n_orders, const char *what) {
    struct mp_error err = {0};
    struct mp_plan *q;
    struct mp_in *in;
    struct mp_verify_report *report;
    size_t n;
    p->orders = orders;
    p->n_orders = n_orders;
    p->layers[0].order = 0;
    char *text = plan_text(p, &n);
    CHECK_OK(mp_in_from_memory(&in, "plan.yaml", text, n, &err), err);
    CHECK_OK(mp_plan_parse(&q, in, NULL, &err), err);
    CHECK_OK(mp_plan_verify(&report, q, NULL, w->t, NULL, &err), err);
    if (report->n > 0)
        fail_msg("%s: %s", what, report->violations[0].message);
    mp_verify_report_free(report);
    for (uint32_t o = 0; o < n_orders; o++)
        replay(rng, w, &q->orders[o]);
    mp_in_close(in);
    free(text);
    mp_plan_free(p);
    mp_plan_free(q);
}

/* Defaults, or where has_all_stages every `stages` at its largest: some strategies make stages only then here. */
static void choose_options(const struct mp_strategy *s, bool has_all_stages, int64_t values[16]) {
    for (uint32_t i = 0; s->options != NULL && s->options[i].name != NULL && i < 16; i++)
        values[i] = has_all_stages && strcmp(s->options[i].name, "stages") == 0 ? s->options[i].max
                                                                                : s->options[i].default_value;
}

static bool plan_and_replay(struct mp_rng *rng, const struct world *w, const struct mp_strategy *s,
                            bool has_all_stages) {
    struct mp_error err = {0};
    struct mp_schedule schedule;
    enum mp_outcome outcome;
    int64_t values[16] = {0};
    choose_options(s, has_all_stages, values);
    random_matrix(rng, w->n, w->planned);
    const struct mp_order_problem problem = {.topology = w->t,
                                             .matrix = w->planned,
                                             .net = w->net,
                                             .mode = (enum mp_stage_mode)mp_rng_below(rng, 3),
                                             .can_pace = mp_rng_below(rng, 4) > 0,
                                             .seed = mp_rng_next(rng),
                                             .option_values = values};
    CHECK_OK(mp_order_run(s, &problem, &schedule, &outcome, &err), err);
    bool has_stages = (outcome == MP_FOUND || outcome == MP_STOPPED) && schedule.n_stages > 0;
    if (has_stages) {
        static const uint32_t units[] = {1, 7, 65536, UINT32_MAX};
        struct mp_plan *p = empty_plan(w);
        struct mp_order *orders = mp_arena_alloc(p->arena, 4, sizeof *orders);
        assert_non_null(orders);
        mp_node_matrix(w->t, w->planned, w->nodes);
        for (int u = 0; u < 4; u++)
            CHECK_OK(mp_schedule_order(&orders[u], &schedule, schedule.between_nodes ? w->nodes : w->planned, units[u],
                                       s->name, p->arena, &err),
                     err);
        replay_plan(rng, w, p, orders, 4, s->name);
    }
    mp_schedule_free(&schedule);
    return has_stages;
}

/* Every strategy that is there, on every topology it takes. */
static void test_replay__strategies_lose_no_byte(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(12);
    struct world worlds[N_TOPOLOGIES];
    for (uint32_t i = 0; i < N_TOPOLOGIES; i++)
        open_world(&worlds[i], i);
    for (uint32_t i = 0; mp_strategy_at(i) != NULL; i++) {
        const struct mp_strategy *s = mp_strategy_at(i);
        uint32_t n_planned = 0;
        if (s->stage != MP_PLAN_ORDER)
            continue;
        for (uint32_t k = 0; k < N_TOPOLOGIES; k++)
            for (int round = 0; round < 3; round++)
                n_planned += plan_and_replay(&rng, &worlds[k], s, round == 1);
        /* One shot has no stages; `auto` may prefer it. */
        if (n_planned == 0 && strcmp(s->name, "single") != 0 && strcmp(s->name, "auto") != 0)
            fail_msg("%s: never made an order", s->name);
    }
    for (uint32_t i = 0; i < N_TOPOLOGIES; i++)
        close_world(&worlds[i]);
}

static void test_replay__random_orders_lose_no_byte(void **state) {
    (void)state;
    static const enum random_order_kind kinds[] = {
        RANDOM_PLAIN, RANDOM_WIDTHS, RANDOM_FLUSH, RANDOM_WIDTHS | RANDOM_FLUSH, RANDOM_NODES, RANDOM_SHARED};
    struct mp_rng rng = mp_rng_seed(13);
    for (uint32_t i = 0; i < N_TOPOLOGIES; i++) {
        struct world w;
        open_world(&w, i);
        for (int round = 0; round < 3; round++) {
            struct mp_plan *p = empty_plan(&w);
            struct mp_order *orders = mp_arena_alloc(p->arena, 6, sizeof *orders);
            assert_non_null(orders);
            for (int k = 0; k < 6; k++)
                random_any_order(&rng, p, &orders[k], kinds[k]);
            random_matrix(&rng, w.n, w.planned);
            replay_plan(&rng, &w, p, orders, 6, "random");
        }
        close_world(&w);
    }
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_replay__strategies_lose_no_byte),
        cmocka_unit_test(test_replay__random_orders_lose_no_byte),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
