/* Packing of experts: the placements, Lina's rule, the search, and the memory of a training step. */
#include "support.h"
#include "tiny.h"
#include <inttypes.h>
#include <moeplan/train.h>

static struct mp_topology *cluster(uint32_t nodes, uint32_t gpus, uint64_t memory_bytes, uint64_t gbps) {
    char text[640];
    struct mp_error err = {0};
    struct mp_in *in;
    struct mp_topology *t;
    snprintf(text, sizeof text,
             "schema: moeplan.topology\nversion: 1\nname: t\nlaunch: 10 us\n"
             "levels: [{name: nvlink, latency: 1 us}, {name: ib, latency: 2 us}]\n"
             "gpu_types: {own: {preset: a100, memory: %" PRIu64 "}}\n"
             "groups: [{repeat: %u, gpus: [{repeat: %u, type: own, ports: {nvlink: %" PRIu64 " GB/s, ib: %" PRIu64
             " MB/s}}]}]\n",
             memory_bytes, nodes, gpus, 4 * gbps, 250 * gbps);
    CHECK_OK(mp_in_from_memory(&in, "t.yaml", text, strlen(text), &err), err);
    CHECK_OK(mp_topology_parse(&t, in, &mp_limits_default, &err), err);
    mp_in_close(in);
    return t;
}
#define ROOM UINT64_C(80000000000)

struct problem {
    struct tiny t;
    struct mp_topology *topology;
    struct mp_workload *workload;
    struct mp_train_pack_request request;
};

static void problem_make(struct problem *p, uint32_t n_experts, struct mp_topology *topology, uint64_t seed) {
    struct mp_error err = {0};
    *p = (struct problem){.topology = topology};
    const struct tiny_spec spec = {.n_layers = 2,
                                   .n_experts = n_experts,
                                   .top_k = 2,
                                   .n_requests = 40,
                                   .n_rows = 24,
                                   .shared = topology,
                                   .phase = MP_PHASE_TRAIN,
                                   .batch = 48,
                                   .seed = seed};
    CHECK_OK(tiny_make(&p->t, &spec, &err), err);
    p->t.model->dispatch_bytes = p->t.model->combine_bytes = 400000; /* few tokens stand for many */
    CHECK_OK(mp_workload_build(&p->workload, &p->t.part, &p->t.request.batching, &err), err);
    p->request = (struct mp_train_pack_request){.workload = p->workload,
                                                .topology = topology,
                                                .model = p->t.model,
                                                .dispatcher = mp_dispatcher_find("deepep-normal"),
                                                .options = mp_train_defaults(),
                                                .packing = MP_TRAIN_PACK_SEARCHED,
                                                .n_steps_max = 2,
                                                .n_threads = 1};
}
static void problem_free(struct problem *p) {
    mp_workload_free(p->workload);
    tiny_free(&p->t);
    mp_topology_free(p->topology);
}

static struct mp_train_packed pack(struct mp_train_pack_request r, enum mp_train_packing packing, uint32_t k,
                                   const char *policy) {
    struct mp_error err = {0};
    struct mp_train_packed out;
    enum mp_outcome outcome;
    r.packing = packing;
    r.k = k;
    r.policy = policy == NULL ? NULL : &mp_train_policy_find(policy)->policy;
    CHECK_OK(mp_train_pack(&out, &r, &outcome, &err), err);
    if (outcome != MP_FOUND)
        fail_msg("packing %u: %s", k, err.message);
    return out;
}

/* The steps of one packing, made without mp_train_pack. */
struct works {
    struct mp_train_work work[2];
    const struct mp_train_step *step[2];
    uint32_t n;
};
static void works_make(struct works *w, const struct problem *p, uint32_t k, enum mp_train_offload offload) {
    struct mp_error err = {0};
    struct mp_plan *plan;
    struct mp_router *router;
    struct mp_train_options options = p->request.options;
    options.offload = offload;
    CHECK_OK(mp_train_pack_plan(&plan, p->workload->trace, p->topology, k, &err), err);
    CHECK_OK(mp_router_new(&router, plan, &err), err);
    const struct mp_cost_setup setup = {.plan = plan,
                                        .router = router,
                                        .workload = p->workload,
                                        .topology = p->topology,
                                        .model = p->t.model,
                                        .dispatcher = p->request.dispatcher};
    const uint32_t n_steps = p->workload->n_steps;
    w->n = n_steps < 2 ? n_steps : 2;
    for (uint32_t i = 0; i < w->n; i++) {
        CHECK_OK(mp_train_work_make(&w->work[i], &setup, (2 * i + 1) * n_steps / (2 * w->n), &options, &err), err);
        w->step[i] = &w->work[i].step;
    }
    mp_router_free(router);
    mp_plan_free(plan);
}
static void works_free(struct works *w) {
    for (uint32_t i = 0; i < w->n; i++)
        mp_train_work_free(&w->work[i]);
}
static uint64_t mean_of(const struct works *w, const struct mp_train_policy *policy) {
    struct mp_error err = {0};
    uint64_t ns;
    CHECK_OK(mp_train_mean(&ns, w->step, w->n, policy, 1, &err), err);
    return ns;
}

static void test_train_pack__packings_that_there_are(void **state) {
    (void)state;
    static const struct {
        uint32_t n_experts, n_gpus, n, k[8];
    } cases[] = {
        {16, 16, 5, {1, 2, 4, 8, 16}},   {8, 4, 3, {2, 4, 8}}, {6, 4, 2, {3, 6}}, {5, 3, 1, {5}}, {4, 8, 3, {1, 2, 4}},
        {12, 12, 6, {1, 2, 3, 4, 6, 12}}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint32_t k[MP_TRAIN_MAX_PACKINGS];
        assert_int_equal(mp_train_packings(k, cases[i].n_experts, cases[i].n_gpus), cases[i].n);
        assert_memory_equal(k, cases[i].k, cases[i].n * sizeof *k);
    }
}

/* Whatever groups and nodes: a token's experts are on the GPUs of its own group, by the cheapest rule that says so; and
 * strategy packed makes the same plan. */
static void test_train_pack__tokens_stay_in_their_group(void **state) {
    (void)state;
    static const struct {
        uint32_t nodes, gpus, n_experts;
    } shapes[] = {{2, 2, 4}, {4, 2, 8}, {2, 4, 8}, {3, 2, 6}, {2, 3, 6}, {4, 1, 4}, {1, 4, 8}};
    bool was_nearest = false, was_by_node = false, was_by_gpu = false;
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        struct problem p;
        struct mp_error err = {0};
        uint32_t all[MP_TRAIN_MAX_PACKINGS];
        problem_make(&p, shapes[i].n_experts, cluster(shapes[i].nodes, shapes[i].gpus, ROOM, 100), i);
        const uint32_t n = p.topology->n_gpus, n_all = mp_train_packings(all, shapes[i].n_experts, n);
        for (uint32_t j = 0; j < n_all; j++) {
            const uint32_t group = shapes[i].n_experts / all[j];
            struct mp_plan *plan, *planned;
            struct mp_router *router;
            enum mp_outcome outcome;
            CHECK_OK(mp_train_pack_plan(&plan, p.t.trace, p.topology, all[j], &err), err);
            CHECK_OK(mp_plan_check(plan, &err), err);
            CHECK_OK(mp_router_new(&router, plan, &err), err);
            for (uint32_t l = 0; l < plan->n_layers; l++)
                for (uint32_t source = 0; source < n; source++)
                    for (uint32_t e = 0; e < plan->n_experts; e++)
                        for (uint64_t token = 0; token < 3; token++) {
                            const uint32_t slot = mp_router_slot(router, l, e, source, token * 77);
                            assert_int_equal(plan->layers[l].slot_expert[slot], e);
                            assert_int_equal(mp_plan_slot_gpu(plan, slot) / group, source / group);
                        }
            was_nearest |= plan->route == MP_ROUTE_NEAREST && group < n;
            was_by_node |= plan->route == MP_ROUTE_SOURCED && plan->route_by == MP_ROUTE_BY_NODE;
            was_by_gpu |= plan->route == MP_ROUTE_SOURCED && plan->route_by == MP_ROUTE_BY_GPU;
            struct mp_plan_request request = p.t.request;
            request.strategy = "packed";
            request.slots_per_gpu = all[j];
            request.n_redundant = all[j] * n - shapes[i].n_experts;
            CHECK_OK(mp_plan_make(&planned, &request, &outcome, NULL, &err), err);
            if (planned == NULL)
                fail_msg("packed: %s", err.message);
            assert_int_equal(planned->n_slots, plan->n_slots);
            assert_int_equal(planned->route, plan->route);
            assert_int_equal(planned->route_by, plan->route_by);
            for (uint32_t l = 0; l < plan->n_layers; l++) {
                assert_memory_equal(planned->layers[l].slot_expert, plan->layers[l].slot_expert,
                                    plan->n_slots * sizeof(uint16_t));
                if (plan->route == MP_ROUTE_SOURCED)
                    assert_memory_equal(planned->layers[l].slot_weight_by_source, plan->layers[l].slot_weight_by_source,
                                        (size_t)mp_plan_n_classes(plan) * plan->n_slots * sizeof(uint32_t));
            }
            mp_plan_free(planned);
            mp_router_free(router);
            mp_plan_free(plan);
        }
        problem_free(&p);
    }
    assert_true(was_nearest && was_by_node && was_by_gpu);
}

/* A GPU twice, or an expert missing: no groups. */
static void test_train_pack__groups_are_refused_where_there_are_none(void **state) {
    (void)state;
    struct mp_error err = {0};
    const uint32_t slots[4] = {2, 2, 2, 2}, nodes[4] = {0, 0, 1, 1};
    struct mp_plan *p;
    CHECK_OK(mp_plan_new(&p, 1, 4, 4, slots, &err), err);
    p->gpu_node = nodes;
    p->n_nodes = 2;
    static const uint16_t experts[8] = {0, 1, 2, 3, 0, 1, 2, 2};
    memcpy(p->layers[0].slot_expert, experts, sizeof experts);
    assert_int_equal(mp_plan_route_groups(p, 2, &err), MP_EUSAGE);
    assert_string_equal(err.message, "layer 0: GPUs 2 to 3 hold expert 2 twice, and a group holds each once");
    p->layers[0].slot_expert[7] = MP_NO_EXPERT;
    mp_error_clear(&err);
    assert_int_equal(mp_plan_route_groups(p, 2, &err), MP_EUSAGE);
    assert_string_equal(err.message, "layer 0: GPUs 2 to 3 do not hold expert 3, and a group holds all");
    mp_error_clear(&err);
    assert_int_equal(mp_plan_route_groups(p, 3, &err), MP_EUSAGE);
    mp_plan_free(p);
}

/* The rule worked out from the steps of every k, from fast networks to slow ones. */
static void test_train_pack__lina_doubles_by_the_rule(void **state) {
    (void)state;
    uint32_t seen[17] = {0};
    for (uint64_t i = 0; i < 24; i++) {
        static const uint64_t rates[] = {1, 10, 100, 1000, 10000, 100000};
        struct problem p;
        problem_make(&p, i % 2 == 0 ? 8 : 16, cluster(i % 4 < 2 ? 2 : 4, 2, ROOM, rates[i % 6]), i);
        uint32_t all[MP_TRAIN_MAX_PACKINGS], k;
        const uint32_t n_all = mp_train_packings(all, p.t.model->n_experts, p.topology->n_gpus);
        const uint64_t chunk = mp_train_policy_find("lina")->policy.a2a_chunk_bytes;
        for (k = all[0];; k *= 2) {
            struct works w;
            works_make(&w, &p, k, MP_TRAIN_OFFLOAD_NONE);
            uint64_t experts = 0, a2as = 0, n = 0;
            for (uint32_t s = 0; s < w.n; s++)
                for (uint32_t l = 0; l < 2; l++, n++) {
                    const struct mp_train_layer *x = &w.step[s]->layers[l];
                    const uint64_t ns = x->a2a[MP_TRAIN_DISPATCH].ns, bytes = x->a2a[MP_TRAIN_DISPATCH].bytes;
                    const uint64_t pieces = bytes <= chunk ? 1 : (bytes + chunk - 1) / chunk;
                    uint64_t most = 0;
                    for (uint32_t g = 0; g < p.topology->n_gpus; g++)
                        most = x->expert_ns[g] > most ? x->expert_ns[g] : most;
                    const uint64_t kernel = pieces > 1 ? w.step[s]->kernel_ns : 0;
                    experts += kernel + (most - kernel + pieces - 1) / pieces;
                    a2as += ns == 0 ? 0 : (ns + pieces - 1) / pieces + w.step[s]->launch_ns;
                }
            works_free(&w);
            bool has_next = false;
            for (uint32_t j = 0; j < n_all; j++)
                has_next |= all[j] == 2 * k;
            if (experts / n >= a2as / n || !has_next)
                break;
        }
        const struct mp_train_packed lina = pack(p.request, MP_TRAIN_PACK_LINA, 0, "lina");
        assert_int_equal(lina.k, k);
        seen[k]++;
        problem_free(&p);
    }
    assert_true(seen[1] + seen[2] > 0 && seen[8] + seen[16] > 0); /* both ends of the rule */
}

/* The best of every k with every policy that the search knows; never slower than Lina's, or any k with any policy. */
static void test_train_pack__search_is_best_of_all_k(void **state) {
    (void)state;
    for (uint64_t i = 0; i < 8; i++) {
        static const uint64_t rates[] = {5, 50, 500, 5000};
        struct problem p;
        struct mp_error err = {0};
        uint32_t all[MP_TRAIN_MAX_PACKINGS], best_k = 0;
        problem_make(&p, i < 4 ? 8 : 6, cluster(2, i < 4 ? 4 : 3, ROOM, rates[i % 4]), i);
        const uint32_t n_all = mp_train_packings(all, p.t.model->n_experts, p.topology->n_gpus);
        const struct mp_train_packed ours = pack(p.request, MP_TRAIN_PACK_SEARCHED, 0, NULL);
        uint64_t best = UINT64_MAX;
        for (uint32_t j = 0; j < n_all; j++) {
            struct works w;
            struct mp_train_policy found;
            uint64_t ns;
            works_make(&w, &p, all[j], MP_TRAIN_OFFLOAD_NONE);
            CHECK_OK(mp_train_search(&found, &ns, w.step, w.n, 1, &err), err);
            if (ns < best) {
                best = ns;
                best_k = all[j];
            }
            for (uint32_t n = 0; mp_train_policy_at(n) != NULL; n++)
                assert_true(ours.mean_ns <= mean_of(&w, &mp_train_policy_at(n)->policy));
            assert_true(ours.mean_ns <= pack(p.request, MP_TRAIN_PACK_GIVEN, all[j], NULL).mean_ns);
            works_free(&w);
        }
        assert_int_equal(ours.k, best_k);
        assert_int_equal(ours.mean_ns, best);
        assert_int_equal(ours.n_tried, n_all);
        assert_true(ours.mean_ns <= pack(p.request, MP_TRAIN_PACK_LINA, 0, "lina").mean_ns);
        problem_free(&p);
    }
}

/* More bandwidth, and a faster link to the host, never make a step longer whose parts follow each other. */
static void test_train_pack__more_bandwidth_is_never_slower(void **state) {
    (void)state;
    for (uint64_t i = 0; i < 6; i++) {
        uint64_t before = UINT64_MAX;
        for (uint64_t rate = 10; rate <= 10000; rate *= 10) {
            struct problem p;
            struct works w;
            problem_make(&p, 8, cluster(2, 4, ROOM, rate), i);
            works_make(&w, &p, UINT32_C(1) << i % 4, MP_TRAIN_OFFLOAD_NONE);
            const uint64_t ns = mean_of(&w, &mp_train_policy_find("deferred")->policy);
            assert_true(ns <= before);
            before = ns;
            works_free(&w);
            problem_free(&p);
        }
        struct problem p;
        problem_make(&p, 8, cluster(2, 4, ROOM, 100), i);
        before = UINT64_MAX;
        for (uint64_t link = UINT64_C(1000000000); link <= UINT64_C(1000000000000); link *= 10) {
            uint64_t last = 0;
            for (int offload = 0; offload < MP_TRAIN_N_OFFLOADS; offload++) {
                struct works w;
                p.request.options.host_bytes_per_s = link;
                works_make(&w, &p, UINT32_C(1) << i % 4, (enum mp_train_offload)offload);
                const uint64_t ns = mean_of(&w, &mp_train_policy_find("deferred")->policy);
                assert_true(ns >= last); /* whatever is kept elsewhere has to be fetched */
                assert_true((w.work[0].host_ns > 0) == (offload > 0));
                last = ns;
                works_free(&w);
            }
            assert_true(last <= before);
            before = last;
        }
        problem_free(&p);
    }
}

/* Every byte of it, and what one byte more or less does. */
static void test_train_pack__memory_to_the_byte(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct problem p;
    struct works w;
    problem_make(&p, 4, cluster(2, 2, ROOM, 100), 1);
    works_make(&w, &p, 2, MP_TRAIN_OFFLOAD_NONE);
    const struct mp_model *m = p.t.model;
    const struct mp_train_memory *x =
        w.work[1].memory.need_bytes[0] > w.work[0].memory.need_bytes[0] ? &w.work[1].memory : &w.work[0].memory;
    const uint64_t experts = 2 * 2 * m->expert_bytes, weights = experts + m->dense_bytes; /* 2 layers of 2, bf16 */
    assert_int_equal(m->weight_bits_x100, 1600);
    assert_int_equal(m->shared_bytes, 0);
    assert_int_equal(x->weight_bytes, weights);
    assert_int_equal(x->gradient_bytes, weights);
    assert_int_equal(x->state_bytes, 6 * weights); /* 12 bytes for each 2 */
    assert_true(x->activation_bytes > 0);
    assert_int_equal(x->need_bytes[0], 8 * weights + x->activation_bytes);
    assert_int_equal(x->need_bytes[1], x->need_bytes[0] - 6 * experts);
    assert_int_equal(x->need_bytes[2], x->need_bytes[1]); /* two layers are all that there are */
    assert_int_equal(x->host_bytes[0], 0);
    assert_int_equal(x->host_bytes[1], 6 * experts);
    assert_int_equal(x->host_bytes[2], 8 * experts);
    const uint64_t need[2] = {x->need_bytes[0], x->need_bytes[1]};
    works_free(&w);
    problem_free(&p);

    static const enum mp_train_offload want[] = {MP_TRAIN_OFFLOAD_NONE, MP_TRAIN_OFFLOAD_STATE, MP_TRAIN_OFFLOAD_STATE};
    const uint64_t memory[] = {need[0], need[0] - 1, need[1], need[1] - 1};
    for (uint32_t i = 0; i < 4; i++) {
        struct mp_train_packed out;
        enum mp_outcome outcome;
        problem_make(&p, 4, cluster(2, 2, memory[i], 100), 1);
        p.request.packing = MP_TRAIN_PACK_GIVEN;
        p.request.k = 2;
        p.request.policy = &mp_train_policy_find("lina")->policy;
        CHECK_OK(mp_train_pack(&out, &p.request, &outcome, &err), err);
        assert_int_equal(outcome, i < 3 ? MP_FOUND : MP_NOT_FOUND);
        if (i < 3)
            assert_int_equal(out.offload, want[i]);
        else
            assert_true(strstr(err.message, "with all of its experts in its host's memory") != NULL);
        mp_error_clear(&err);
        p.request.options.host_memory_bytes = 6 * experts - (i == 2); /* just enough, and one byte less */
        if (i == 1 || i == 2) {
            CHECK_OK(mp_train_pack(&out, &p.request, &outcome, &err), err);
            assert_int_equal(outcome, i == 1 ? MP_FOUND : MP_NOT_FOUND);
            assert_true(i == 1 || strstr(err.message, "bytes of a host for each GPU") != NULL);
            mp_error_clear(&err);
        }
        problem_free(&p);
    }
}

/* Where memory ends, Lina's rule stops doubling and the search looks elsewhere. */
static void test_train_pack__memory_ends_the_doubling(void **state) {
    (void)state;
    struct problem p;
    struct works w;
    problem_make(&p, 8, cluster(2, 4, ROOM, 1), 3);
    const uint32_t free_k = pack(p.request, MP_TRAIN_PACK_LINA, 0, "lina").k;
    assert_true(free_k > 2);
    works_make(&w, &p, 2, MP_TRAIN_OFFLOAD_NONE);
    uint64_t need = 0;
    for (uint32_t i = 0; i < w.n; i++)
        need = w.work[i].memory.need_bytes[2] > need ? w.work[i].memory.need_bytes[2] : need;
    works_free(&w);
    problem_free(&p);
    problem_make(&p, 8, cluster(2, 4, need, 1), 3);
    const struct mp_train_packed lina = pack(p.request, MP_TRAIN_PACK_LINA, 0, "lina");
    const struct mp_train_packed ours = pack(p.request, MP_TRAIN_PACK_SEARCHED, 0, NULL);
    assert_true(lina.k <= 2 && ours.k <= 2);
    assert_true(ours.mean_ns <= lina.mean_ns);
    assert_true(lina.n_unfit == 1 && ours.n_unfit > 0);
    problem_free(&p);
}

static void test_train_pack__other_k_is_named_with_what_there_is(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct mp_train_packed out;
    enum mp_outcome outcome;
    struct problem p;
    problem_make(&p, 8, cluster(2, 2, ROOM, 100), 1);
    p.request.packing = MP_TRAIN_PACK_GIVEN;
    p.request.k = 3;
    CHECK_OK(mp_train_pack(&out, &p.request, &outcome, &err), err);
    assert_int_equal(outcome, MP_NOT_FOUND);
    assert_string_equal(
        err.message, "packing: groups that hold 8 experts, 3 on a GPU, do not share out 4 GPUs (write one of 2, 4, 8)");
    problem_free(&p);
}

static struct problem faulted_problem;
static enum mp_status faulted(void *ctx, struct mp_error *err) {
    const enum mp_train_packing *packing = ctx;
    struct mp_train_packed out;
    enum mp_outcome outcome;
    struct mp_train_pack_request r = faulted_problem.request;
    r.packing = *packing;
    r.n_steps_max = 1;
    r.policy = &mp_train_policy_find("lina")->policy;
    return mp_train_pack(&out, &r, &outcome, err);
}
static void test_train_pack__survives_faults(void **state) {
    (void)state;
    enum mp_train_packing packing[] = {MP_TRAIN_PACK_LINA, MP_TRAIN_PACK_SEARCHED};
    problem_make(&faulted_problem, 4, cluster(2, 2, ROOM, 100), 1);
    for (size_t i = 0; i < 2; i++)
        sweep_faults(faulted, &packing[i], 3);
    problem_free(&faulted_problem);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_train_pack__packings_that_there_are),
        cmocka_unit_test(test_train_pack__tokens_stay_in_their_group),
        cmocka_unit_test(test_train_pack__groups_are_refused_where_there_are_none),
        cmocka_unit_test(test_train_pack__lina_doubles_by_the_rule),
        cmocka_unit_test(test_train_pack__search_is_best_of_all_k),
        cmocka_unit_test(test_train_pack__more_bandwidth_is_never_slower),
        cmocka_unit_test(test_train_pack__memory_to_the_byte),
        cmocka_unit_test(test_train_pack__memory_ends_the_doubling),
        cmocka_unit_test(test_train_pack__other_k_is_named_with_what_there_is),
        cmocka_unit_test(test_train_pack__survives_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
