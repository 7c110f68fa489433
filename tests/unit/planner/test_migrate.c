/* Migration against every relabelling, rounds against the busiest GPU. */
#include "support.h"

#include "assign.h"
#include <moeplan/base.h>
#include <moeplan/migrate.h>
#include <moeplan/verify.h>

/* ---- assignment ---- */

static uint64_t least_of_all(uint32_t n, const uint64_t *w, uint32_t i, uint32_t used) {
    uint64_t best = MP_ASSIGN_NEVER;
    if (i == n)
        return 0;
    for (uint32_t j = 0; j < n; j++) {
        if (used >> j & 1 || w[i * n + j] == MP_ASSIGN_NEVER)
            continue;
        uint64_t rest = least_of_all(n, w, i + 1, used | 1u << j);
        if (rest != MP_ASSIGN_NEVER && rest + w[i * n + j] < best)
            best = rest + w[i * n + j];
    }
    return best;
}

static void test_migrate__least_assignment_agrees_with_every_permutation(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct mp_rng rng = mp_rng_seed(11);
    uint32_t n_impossible = 0;
    for (int trial = 0; trial < 3000; trial++) {
        const uint32_t n = (uint32_t)mp_rng_below(&rng, 7);
        uint64_t w[49], total, largest = trial % 3 == 0 ? 3 : 1000000;
        uint32_t to[7];
        int64_t u[7], v[7];
        bool is_found;
        for (uint32_t k = 0; k < n * n; k++)
            w[k] = trial % 2 == 1 && mp_rng_below(&rng, 3) == 0 ? MP_ASSIGN_NEVER : mp_rng_below(&rng, largest);
        uint64_t best = least_of_all(n, w, 0, 0);
        CHECK_OK(mp_assign_least(n, w, to, u, v, &total, &is_found, &err), err);
        assert_int_equal(is_found, best != MP_ASSIGN_NEVER);
        n_impossible += !is_found;
        if (!is_found)
            continue;
        uint64_t sum = 0;
        uint32_t used = 0;
        int64_t dual = 0;
        for (uint32_t i = 0; i < n; i++) {
            sum += w[i * n + to[i]];
            used |= 1u << to[i];
            dual += u[i] + v[i];
            for (uint32_t j = 0; j < n; j++)
                assert_true(w[i * n + j] == MP_ASSIGN_NEVER || u[i] + v[j] <= (int64_t)w[i * n + j]);
        }
        assert_int_equal(used, (1u << n) - 1);
        assert_int_equal(total, best);
        assert_int_equal(sum, best);
        assert_int_equal(dual, (int64_t)best);
    }
    assert_in_range(n_impossible, 50, 1000);
}

/* ---- placements ---- */

enum { LAYERS = 2, SLOTS = 3 };

/* A random placement of n_experts on n_gpus GPUs of SLOTS slots in every layer; some slots stay empty. */
static struct mp_plan *random_placement(struct mp_rng *rng, uint32_t n_gpus, uint32_t n_nodes, uint32_t n_experts) {
    struct mp_error err = {0};
    struct mp_plan *p;
    uint32_t slots[16] = {0};
    for (uint32_t g = 0; g < n_gpus; g++)
        slots[g] = SLOTS;
    CHECK_OK(mp_plan_new(&p, LAYERS, n_experts, n_gpus, slots, &err), err);
    uint32_t *node = mp_arena_alloc(p->arena, n_gpus, sizeof *node);
    assert_non_null(node);
    for (uint32_t g = 0; g < n_gpus; g++)
        node[g] = g / (n_gpus / n_nodes);
    p->gpu_node = node;
    p->n_nodes = n_nodes;
    for (uint32_t l = 0; l < LAYERS; l++) {
        uint32_t order[48];
        for (uint32_t s = 0; s < p->n_slots; s++)
            order[s] = s;
        mp_rng_shuffle(rng, order, p->n_slots);
        for (uint32_t e = 0; e < n_experts; e++)
            p->layers[l].slot_expert[order[e]] = (uint16_t)e;
        if (n_experts < p->n_slots) /* one replica, maybe on the same GPU */
            p->layers[l].slot_expert[order[n_experts]] = (uint16_t)mp_rng_below(rng, n_experts);
        p->layers[l].layer_id = 3 + l;
    }
    return p;
}

static uint32_t n_lacking(const struct mp_plan *old, const struct mp_plan *new, uint32_t l, uint32_t content,
                          uint32_t gpu) {
    uint32_t n = 0;
    for (uint32_t e = 0; e < new->n_experts; e++) {
        bool wants = false, has = false;
        for (uint32_t k = 0; k < SLOTS; k++) {
            wants |= new->layers[l].slot_expert[content * SLOTS + k] == e;
            has |= old->layers[l].slot_expert[gpu * SLOTS + k] == e;
        }
        n += wants && !has;
    }
    return n;
}

/* The least over every relabelling that keeps nodes of `per_node` GPUs together; kind[] may not be mixed. */
static uint32_t least_by_force(const struct mp_plan *old, const struct mp_plan *new, uint32_t l, uint32_t per_node,
                               const int *kind, uint32_t i, uint32_t used, uint32_t *to) {
    uint32_t best = UINT32_MAX;
    if (i == new->n_gpus)
        return 0;
    for (uint32_t j = 0; j < new->n_gpus; j++) {
        bool is_allowed = !(used >> j & 1) && kind[i] == kind[j];
        for (uint32_t before = 0; before < i; before++) /* the same node before, the same node after */
            is_allowed &= (before / per_node == i / per_node) == (to[before] / per_node == j / per_node);
        if (!is_allowed)
            continue;
        to[i] = j;
        uint32_t rest = least_by_force(old, new, l, per_node, kind, i + 1, used | 1u << j, to);
        if (rest != UINT32_MAX && rest + n_lacking(old, new, l, i, j) < best)
            best = rest + n_lacking(old, new, l, i, j);
    }
    return best;
}

static void check_migration(const struct mp_migration *m, const struct mp_plan *old, const struct mp_plan *new,
                            uint32_t per_node, const int *kind) {
    uint32_t n = 0, to[16];
    for (uint32_t l = 0; l < LAYERS; l++) {
        const uint32_t best = least_by_force(old, new, l, per_node, kind, 0, 0, to);
        uint32_t own = 0, used = 0;
        for (uint32_t g = 0; g < new->n_gpus; g++) {
            const uint32_t at = m->to[l * new->n_gpus + g];
            assert_int_equal(kind[g], kind[at]);
            used |= 1u << at;
            own += n_lacking(old, new, l, g, at);
        }
        assert_int_equal(used, (1u << new->n_gpus) - 1);
        assert_int_equal(own, best);
        n += own;
    }
    assert_int_equal(m->n_moves, n);
    assert_true(m->n_moves <= m->n_by_gpu && m->n_by_gpu <= m->n_by_slot);
    for (uint32_t i = 0; i < m->n_moves; i++) { /* from where it is to where it is not */
        const struct mp_move *v = &m->moves[i];
        bool src_has = false, dst_has = false;
        for (uint32_t k = 0; k < SLOTS; k++) {
            src_has |= old->layers[v->layer].slot_expert[v->src * SLOTS + k] == v->expert;
            dst_has |= old->layers[v->layer].slot_expert[v->dst * SLOTS + k] == v->expert;
        }
        assert_true(src_has && !dst_has);
    }
}

static void test_migrate__moves_as_few_experts_as_the_best_of_every_relabelling(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct mp_rng rng = mp_rng_seed(5);
    static const struct {
        uint32_t n_gpus, n_nodes;
    } shapes[] = {{1, 1}, {4, 1}, {4, 2}, {6, 1}, {6, 2}, {6, 3}, {4, 4}};
    const int same[16] = {0};
    for (int trial = 0; trial < 140; trial++) {
        const uint32_t n_gpus = shapes[trial % 7].n_gpus, n_nodes = shapes[trial % 7].n_nodes;
        const uint32_t n_experts = n_gpus * SLOTS - (uint32_t)mp_rng_below(&rng, 3);
        struct mp_plan *old = random_placement(&rng, n_gpus, n_nodes, n_experts);
        struct mp_plan *new = random_placement(&rng, n_gpus, n_nodes, n_experts);
        struct mp_migration *m, *kept;
        CHECK_OK(mp_migrate(&m, old, new, NULL, MP_LABELS_BY_NODE, 1 + (unsigned)trial % 2, &err), err);
        check_migration(m, old, new, n_gpus / n_nodes, same);
        CHECK_OK(mp_migrate(&kept, old, new, NULL, MP_LABELS_KEPT, 1, &err), err);
        assert_int_equal(kept->n_moves, kept->n_by_gpu);
        assert_int_equal(kept->n_by_gpu, m->n_by_gpu);
        assert_false(kept->is_relabelled);
        mp_migration_free(m);
        mp_migration_free(kept);
        mp_plan_free(old);
        mp_plan_free(new);
    }
}

static void test_migrate__gpus_that_differ_are_not_exchanged(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct mp_rng rng = mp_rng_seed(6);
    static const struct {
        const char *spec;
        uint32_t per_node;
        int kind[6];
    } cases[] = {{"2x3:h100", 3, {0}},
                 {"1x3:h100+1x3:a100", 3, {0, 0, 0, 1, 1, 1}},
                 {"2x2:h100+1x2:a100", 2, {0, 0, 0, 0, 1, 1}}};
    for (int trial = 0; trial < 30; trial++) {
        struct mp_topology *t;
        struct mp_migration *m;
        CHECK_OK(mp_topology_load(&t, cases[trial % 3].spec, &mp_limits_default, &err), err);
        struct mp_plan *old = random_placement(&rng, 6, 6 / cases[trial % 3].per_node, 17);
        struct mp_plan *new = random_placement(&rng, 6, 6 / cases[trial % 3].per_node, 17);
        CHECK_OK(mp_migrate(&m, old, new, t, MP_LABELS_BY_NODE, 1, &err), err);
        check_migration(m, old, new, cases[trial % 3].per_node, cases[trial % 3].kind);
        mp_migration_free(m);
        mp_plan_free(old);
        mp_plan_free(new);
        mp_topology_free(t);
    }
}

static void test_migrate__free_labels_are_the_best_of_all_permutations(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct mp_rng rng = mp_rng_seed(21);
    struct mp_topology *even, *uneven;
    const int same[16] = {0}, sizes[16] = {0, 0, 0, 0, 1, 1};
    CHECK_OK(mp_topology_load(&even, "3x2:h100", &mp_limits_default, &err), err);
    CHECK_OK(mp_topology_load(&uneven, "1x4:h100+1x2:h100", &mp_limits_default, &err), err);
    for (int trial = 0; trial < 60; trial++) {
        const struct mp_topology *t = trial % 3 == 0 ? NULL : trial % 3 == 1 ? even : uneven;
        struct mp_plan *old = random_placement(&rng, 6, 3, 17), *new = random_placement(&rng, 6, 3, 17);
        struct mp_migration *m, *by_node;
        CHECK_OK(mp_migrate(&m, old, new, t, MP_LABELS_FREE, 1, &err), err);
        check_migration(m, old, new, 6, t == uneven ? sizes : same);
        CHECK_OK(mp_migrate(&by_node, old, new, t, MP_LABELS_BY_NODE, 1, &err), err);
        assert_true(m->n_moves <= by_node->n_moves);
        mp_migration_free(m);
        mp_migration_free(by_node);
        mp_plan_free(old);
        mp_plan_free(new);
    }
    mp_topology_free(even);
    mp_topology_free(uneven);
}

static void test_migrate__labels_are_as_free_as_routing_and_dispatch_leave_them(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(22);
    struct mp_plan *single = random_placement(&rng, 4, 2, 12), *replicated = random_placement(&rng, 4, 2, 10);
    static const struct {
        enum mp_route_rule route;
        enum mp_labels single, replicated;
    } cases[] = {{MP_ROUTE_EVEN, MP_LABELS_FREE, MP_LABELS_FREE},
                 {MP_ROUTE_WEIGHTED, MP_LABELS_FREE, MP_LABELS_FREE},
                 {MP_ROUTE_NEAREST, MP_LABELS_FREE, MP_LABELS_BY_NODE},
                 {MP_ROUTE_TIERED, MP_LABELS_FREE, MP_LABELS_BY_NODE},
                 {MP_ROUTE_SOURCED, MP_LABELS_KEPT, MP_LABELS_KEPT}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        single->route = replicated->route = cases[i].route;
        assert_int_equal(mp_labels_of(single, false), cases[i].single);
        assert_int_equal(mp_labels_of(replicated, false), cases[i].replicated);
        const enum mp_labels most = cases[i].route == MP_ROUTE_SOURCED ? MP_LABELS_KEPT : MP_LABELS_BY_NODE;
        assert_int_equal(mp_labels_of(single, true), most);
        assert_int_equal(mp_labels_of(replicated, true), most);
    }
    mp_plan_free(single);
    mp_plan_free(replicated);
}

static void test_migrate__shared_ports_stay_with_those_that_share_them(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct mp_rng rng = mp_rng_seed(8);
    struct mp_topology *t;
    CHECK_OK(mp_topology_load(&t, "1x4:h100+1x4:h100", &mp_limits_default, &err), err);
    struct mp_gpu *gpus = mp_arena_alloc(t->arena, 8, sizeof *gpus);
    assert_non_null(gpus);
    memcpy(gpus, t->gpus, 8 * sizeof *gpus);
    for (uint32_t g = 0; g < 8; g++) { /* GPUs 0 and 2, and 1 and 3, of each node share their NIC */
        gpus[g].out_port[1] = gpus[g / 4 * 4 + g % 2].out_port[1];
        gpus[g].in_port[1] = gpus[g / 4 * 4 + g % 2].in_port[1];
    }
    t->gpus = gpus;
    for (int trial = 0; trial < 5; trial++) {
        struct mp_migration *m;
        struct mp_plan *old = random_placement(&rng, 8, 2, 24), *new = random_placement(&rng, 8, 2, 24);
        CHECK_OK(mp_migrate(&m, old, new, t, MP_LABELS_BY_NODE, 1, &err), err);
        for (uint32_t l = 0; l < LAYERS; l++)
            for (uint32_t g = 0; g < 8; g++)
                assert_int_equal(m->to[l * 8 + g] % 2, g % 2);
        mp_migration_free(m);
        mp_plan_free(old);
        mp_plan_free(new);
    }
    mp_topology_free(t);
}

static void test_migrate__a_relabelled_placement_moves_nothing(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct mp_rng rng = mp_rng_seed(7);
    struct mp_plan *old = random_placement(&rng, 6, 2, 18), *new = random_placement(&rng, 6, 2, 18), *same;
    struct mp_migration *m;
    for (uint32_t l = 0; l < LAYERS; l++)
        for (uint32_t g = 0; g < 6; g++) { /* nodes exchanged, and turned inside; slots backwards */
            const uint32_t to = (g < 3 ? 3 : 0) + (g + 1 + l) % 3;
            for (uint32_t k = 0; k < SLOTS; k++)
                new->layers[l].slot_expert[to * SLOTS + k] = old->layers[l].slot_expert[g * SLOTS + SLOTS - 1 - k];
        }
    CHECK_OK(mp_migrate(&m, old, new, NULL, MP_LABELS_BY_NODE, 1, &err), err);
    assert_int_equal(m->n_moves, 0);
    assert_true(m->is_relabelled && m->n_by_gpu == LAYERS * 18 && m->n_by_slot == LAYERS * 18);
    CHECK_OK(mp_migrated_plan(&same, m, old, new, &err), err);
    for (uint32_t l = 0; l < LAYERS; l++) /* and slots go back to where they were */
        assert_memory_equal(same->layers[l].slot_expert, old->layers[l].slot_expert, 18 * sizeof(uint16_t));
    mp_plan_free(same);
    mp_migration_free(m);
    CHECK_OK(mp_migrate(&m, old, old, NULL, MP_LABELS_BY_NODE, 1, &err), err);
    assert_false(m->is_relabelled);
    assert_int_equal(m->n_moves + m->n_by_gpu + m->n_by_slot, 0);
    CHECK_OK(mp_migrated_plan(&same, m, old, old, &err), err);
    assert_null(same);
    mp_migration_free(m);
    mp_plan_free(old);
    mp_plan_free(new);
}

static void test_migrate__the_plan_holds_what_each_gpu_was_given_and_keeps_slots(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct mp_rng rng = mp_rng_seed(9);
    for (int trial = 0; trial < 40; trial++) {
        struct mp_plan *old = random_placement(&rng, 6, 2, 16), *new = random_placement(&rng, 6, 2, 16), *own;
        struct mp_migration *m;
        struct mp_verify_report *report;
        new->allow_same_gpu_replicas = true;
        new->provenance.model = "some-model";
        CHECK_OK(mp_migrate(&m, old, new, NULL, MP_LABELS_BY_NODE, 1, &err), err);
        CHECK_OK(mp_migrated_plan(&own, m, old, new, &err), err);
        if (own == NULL) {
            mp_migration_free(m);
            mp_plan_free(old);
            mp_plan_free(new);
            continue;
        }
        CHECK_OK(mp_plan_verify(&report, own, NULL, NULL, NULL, &err), err);
        assert_int_equal(report->n, 0);
        assert_string_equal(own->provenance.model, "some-model");
        for (uint32_t l = 0; l < LAYERS; l++) {
            assert_int_equal(own->layers[l].layer_id, new->layers[l].layer_id);
            for (uint32_t g = 0; g < 6; g++) {
                const uint32_t at = m->to[l * 6 + g];
                const uint16_t *mine = &own->layers[l].slot_expert[at * SLOTS],
                               *was = &old->layers[l].slot_expert[at * SLOTS];
                for (uint32_t e = 0; e < 17; e++) { /* 16 stands for empty */
                    uint32_t n_own = 0, n_new = 0, n_old = 0, n_kept = 0;
                    for (uint32_t k = 0; k < SLOTS; k++) {
                        const uint16_t x = e == 16 ? MP_NO_EXPERT : (uint16_t)e;
                        n_own += mine[k] == x;
                        n_new += new->layers[l].slot_expert[g * SLOTS + k] == x;
                        n_old += was[k] == x;
                        n_kept += was[k] == x && mine[k] == x;
                    }
                    assert_int_equal(n_own, n_new);
                    if (e < 16)
                        assert_int_equal(n_kept, n_own < n_old ? n_own : n_old);
                }
            }
        }
        mp_verify_report_free(report);
        mp_plan_free(own);
        mp_migration_free(m);
        mp_plan_free(old);
        mp_plan_free(new);
    }
}

static void test_migrate__what_does_not_belong_together_is_refused(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct mp_rng rng = mp_rng_seed(1);
    struct mp_plan *a = random_placement(&rng, 4, 2, 10), *more = random_placement(&rng, 6, 2, 10);
    struct mp_plan *experts = random_placement(&rng, 4, 2, 11), *layers = random_placement(&rng, 4, 2, 10);
    struct mp_topology *t;
    struct mp_migration *m;
    CHECK_OK(mp_topology_load(&t, "2x4:h100", &mp_limits_default, &err), err);
    layers->layers[1].layer_id = 7;
    struct {
        const struct mp_plan *old, *new;
        const struct mp_topology *t;
        const char *says;
    } cases[] = {{more, a, NULL, "is for 6 GPUs, the new one for 4"},
                 {a, a, t, "the topology has others"},
                 {a, experts, NULL, "2 layers of 10 experts, the new one 2 of 11"},
                 {a, layers, NULL, "the new placement has layer 7, the old one does not"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(mp_migrate(&m, cases[i].old, cases[i].new, cases[i].t, MP_LABELS_BY_NODE, 1, &err), MP_EINPUT);
        assert_null(m);
        assert_non_null(strstr(err.message, cases[i].says));
        mp_error_clear(&err);
    }
    for (uint32_t s = 0; s < 12; s++)
        if (layers->layers[0].slot_expert[s] == 4)
            layers->layers[0].slot_expert[s] = MP_NO_EXPERT;
    layers->layers[1].layer_id = 4;
    assert_int_equal(mp_migrate(&m, layers, a, NULL, MP_LABELS_BY_NODE, 1, &err), MP_EINPUT);
    assert_non_null(strstr(err.message, "the old placement has expert 4 nowhere"));
    mp_error_clear(&err);
    mp_topology_free(t);
    mp_plan_free(a);
    mp_plan_free(more);
    mp_plan_free(experts);
    mp_plan_free(layers);
}

/* ---- rounds ---- */

static void test_migrate__rounds_use_no_port_twice_and_are_as_few_as_the_busiest_gpu_needs(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct mp_rng rng = mp_rng_seed(13);
    static struct mp_move moves[400];
    static bool is_taken[400];
    for (int trial = 0; trial < 300; trial++) {
        const uint32_t n_gpus = 1 + (uint32_t)mp_rng_below(&rng, 9), n = (uint32_t)mp_rng_below(&rng, 400);
        uint32_t sends[9] = {0}, receives[9] = {0}, most = 0;
        for (uint32_t i = 0; i < n; i++) {
            moves[i] = (struct mp_move){.src = (uint32_t)mp_rng_below(&rng, n_gpus),
                                        .dst = (uint32_t)mp_rng_below(&rng, n_gpus)};
            is_taken[i] = trial % 2 == 0 || mp_rng_below(&rng, 2) == 0;
            if (!is_taken[i])
                continue;
            sends[moves[i].src]++;
            receives[moves[i].dst]++;
            most = sends[moves[i].src] > most ? sends[moves[i].src] : most;
            most = receives[moves[i].dst] > most ? receives[moves[i].dst] : most;
        }
        struct mp_rounds r;
        CHECK_OK(mp_rounds_of(&r, moves, n, trial % 2 == 0 ? NULL : is_taken, n_gpus, &err), err);
        assert_int_equal(r.n, most);
        for (uint32_t i = 0; i < n; i++) {
            assert_true(is_taken[i] ? r.round[i] < r.n : r.round[i] == MP_NONE);
            for (uint32_t j = 0; j < i; j++)
                assert_false(is_taken[i] && is_taken[j] && r.round[i] == r.round[j] &&
                             (moves[i].src == moves[j].src || moves[i].dst == moves[j].dst));
        }
        mp_arena_free(r.arena);
    }
}

/* ---- faults ---- */

struct pair {
    const struct mp_plan *old, *new;
};
static enum mp_status migrate(void *ctx, struct mp_error *err) {
    const struct pair *pair = ctx;
    struct mp_migration *m = NULL;
    struct mp_plan *p = NULL;
    struct mp_rounds r = {.n = 0};
    enum mp_status status = mp_migrate(&m, pair->old, pair->new, NULL, MP_LABELS_BY_NODE, 1, err);
    if (status == MP_OK)
        status = mp_migrated_plan(&p, m, pair->old, pair->new, err);
    if (status == MP_OK)
        status = mp_rounds_of(&r, m->moves, m->n_moves, NULL, 4, err);
    mp_arena_free(r.arena);
    mp_plan_free(p);
    mp_migration_free(m);
    return status;
}

static void test_migrate__survives_every_fault(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(2);
    struct mp_plan *old = random_placement(&rng, 4, 2, 11), *new = random_placement(&rng, 4, 2, 11);
    struct pair pair = {old, new};
    sweep_faults(migrate, &pair, 1);
    mp_plan_free(old);
    mp_plan_free(new);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_migrate__least_assignment_agrees_with_every_permutation),
        cmocka_unit_test(test_migrate__moves_as_few_experts_as_the_best_of_every_relabelling),
        cmocka_unit_test(test_migrate__gpus_that_differ_are_not_exchanged),
        cmocka_unit_test(test_migrate__free_labels_are_the_best_of_all_permutations),
        cmocka_unit_test(test_migrate__labels_are_as_free_as_routing_and_dispatch_leave_them),
        cmocka_unit_test(test_migrate__shared_ports_stay_with_those_that_share_them),
        cmocka_unit_test(test_migrate__a_relabelled_placement_moves_nothing),
        cmocka_unit_test(test_migrate__the_plan_holds_what_each_gpu_was_given_and_keeps_slots),
        cmocka_unit_test(test_migrate__what_does_not_belong_together_is_refused),
        cmocka_unit_test(test_migrate__rounds_use_no_port_twice_and_are_as_few_as_the_busiest_gpu_needs),
        cmocka_unit_test(test_migrate__survives_every_fault),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
