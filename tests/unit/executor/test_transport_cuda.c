/* The transport of one process with GPUs, on a mock of the CUDA runtime that runs what streams and events allow in any
 * order: every byte arrives, eager and captured, on one device and several, and what goes wrong is named. */
#include "mock_cuda.h"
#include "script_case.h"
#include "trial.h"
#include "../../../executor/gpu.h"

struct opened {
    struct ex_link *link;
    struct ex_times *times;
    uint8_t **views;
};

static const struct ex_transport *cuda(void) { return ex_transport_find("cuda"); }

static void open_case(struct opened *o, const struct script_case *c, struct ex_fault fault, uint64_t deadline_ms) {
    struct mp_error err = {0};
    const uint32_t n = c->net.t.n_gpus;
    const struct ex_world world = {
        .n_ranks = n, .n_local = n, .topology = &c->net.t, .deadline_ms = deadline_ms, .fault = fault};
    CHECK_OK(cuda()->open(&o->link, &world, &err), err);
    CHECK_OK(ex_times_new(&o->times, c->script, &err), err);
    o->views = calloc(n, sizeof *o->views);
    assert_non_null(o->views);
    for (uint32_t r = 0; r < n; r++) {
        void *view;
        CHECK_OK(cuda()->alloc(o->link, r, c->used[r] + 1, &view, &err), err);
        o->views[r] = view;
    }
}
/* From the views to the device, or back. */
static void copy_views(const struct opened *o, const struct script_case *c, bool is_push) {
    struct mp_error err = {0};
    for (uint32_t r = 0; r < c->net.t.n_gpus; r++)
        CHECK_OK((is_push ? cuda()->push : cuda()->pull)(o->link, r, 0, c->used[r], &err), err);
}
static void close_case(struct opened *o) {
    cuda()->close(o->link);
    ex_times_free(o->times);
    free(o->views);
    assert_int_equal(mock_cuda_end(), 0); /* nothing is left */
}

static void test_transport_cuda__every_byte_arrives(void **state) {
    (void)state;
    static struct script_case c;
    uint64_t n_launches = 0, n_peer_copies = 0;
    for (uint64_t seed = 0; seed < 120; seed++) {
        struct mp_error err = {0};
        struct opened o;
        const bool is_captured = seed % 2 == 0;
        mock_cuda_begin(1 + (int)(seed / 2 % 4), seed, 0);
        script_case_make(&c, seed);
        open_case(&o, &c, (struct ex_fault){0}, 30000);
        if (is_captured)
            CHECK_OK(cuda()->prepare(o.link, (const struct ex_script *const[]){c.script}, 1, &err), err);
        for (int again = 0; again < 3; again++) {
            blocks_fill(o.views, c.flows, c.used);
            copy_views(&o, &c, true);
            CHECK_OK(cuda()->run(o.link, c.script, o.times, &err), err);
            copy_views(&o, &c, false);
            assert_int_equal(n_wrong(o.views, c.flows), 0);
            assert_true(c.script->n_messages == 0 || o.times->total_ns[0] > 0);
        }
        assert_true(mock_cuda_launches() == (is_captured && c.script->n_messages > 0 ? 3 : 0));
        n_launches += mock_cuda_launches();
        n_peer_copies += mock_cuda_peer_copies();
        close_case(&o);
        script_case_free(&c);
    }
    assert_true(n_launches > 100 && n_peer_copies > 100);
}

/* Does message b wait for message a? They meet at a queue that they have in common, a in an earlier stage. */
static bool waits(const struct script_case *c, const struct ex_message *a, const struct ex_message *b) {
    if (a->stage >= b->stage)
        return false;
    if (c->script->mode == MP_STAGE_BARRIER || a->src == b->src || a->dst == b->dst)
        return true;
    return c->script->mode == MP_STAGE_COUPLED && (a->src == b->dst || a->dst == b->src);
}

static void test_transport_cuda__keeps_the_rules_of_stages(void **state) {
    (void)state;
    static struct script_case c;
    uint64_t n_checked[3] = {0};
    for (uint64_t seed = 0; seed < 150; seed++) {
        struct mp_error err = {0};
        struct opened o;
        mock_cuda_begin(1, seed, 0); /* one device: its events share a clock */
        script_case_make(&c, seed);
        const struct ex_script *s = c.script;
        open_case(&o, &c, (struct ex_fault){0}, 30000);
        CHECK_OK(cuda()->run(o.link, s, o.times, &err), err);
        for (size_t b = 0; b < s->n_messages; b++) {
            assert_true(o.times->message_end_ns[b] > o.times->message_begin_ns[b]);
            for (size_t a = 0; a < b; a++)
                if (waits(&c, &s->messages[a], &s->messages[b])) {
                    assert_true(o.times->message_end_ns[a] <= o.times->message_begin_ns[b]);
                    n_checked[s->mode]++;
                }
        }
        close_case(&o);
        script_case_free(&c);
    }
    assert_true(n_checked[MP_STAGE_FREE] > 100 && n_checked[MP_STAGE_BARRIER] > 100 &&
                n_checked[MP_STAGE_COUPLED] > 100);
}

static void test_transport_cuda__faults_are_caught(void **state) {
    (void)state;
    static struct script_case c;
    static const enum ex_fault_kind kinds[] = {EX_FAULT_CORRUPT, EX_FAULT_SWAP, EX_FAULT_DROP, EX_FAULT_STOP,
                                               EX_FAULT_KILL,    EX_FAULT_LIE,  EX_FAULT_SLOW};
    uint32_t n_caught[8] = {0};
    for (uint64_t seed = 0; seed < 140; seed++) {
        struct mp_error err = {0};
        struct opened o;
        const enum ex_fault_kind kind = kinds[seed % 7];
        const bool is_late = kind == EX_FAULT_STOP || kind == EX_FAULT_KILL || kind == EX_FAULT_SLOW;
        if (is_late && seed >= 28)
            continue; /* each takes its deadline */
        mock_cuda_begin(2, seed, 0);
        script_case_make(&c, seed);
        c.script->part = EX_DISPATCH;
        c.script->step = c.script->layer = 0;
        if (c.script->n_messages >= 2) {
            const struct ex_message *m = &c.script->messages[c.script->n_messages / 2];
            open_case(&o, &c, (struct ex_fault){.kind = kind, .stage = m->stage, .rank = m->src},
                      is_late ? 250 : 30000);
            CHECK_OK(cuda()->prepare(o.link, (const struct ex_script *const[]){c.script}, 1, &err), err);
            blocks_fill(o.views, c.flows, c.used);
            copy_views(&o, &c, true);
            const enum mp_status status = cuda()->run(o.link, c.script, o.times, &err);
            if (is_late || kind == EX_FAULT_LIE) {
                assert_int_equal(status, MP_EPEER);
                assert_non_null(strstr(err.message, "stage"));
                assert_non_null(strstr(err.message, "bytes"));
                n_caught[kind]++;
                cuda()->abort(o.link, &err); /* lets go who stands still */
                mock_cuda_drain();
            } else {
                CHECK_OK(status, err);
                copy_views(&o, &c, false);
                n_caught[kind] += n_wrong(o.views, c.flows) > 0; /* the executor's checks see it */
                assert_true(kind == EX_FAULT_SWAP || n_wrong(o.views, c.flows) > 0);
            }
            close_case(&o);
        } else {
            (void)mock_cuda_end();
        }
        script_case_free(&c);
    }
    for (size_t k = 0; k < 7; k++)
        assert_true(n_caught[kinds[k]] >= 2);
}

/* Whole runs: kernels pack, pass on and add up, and every token is verified; all counts are those of loop. */
static void test_transport_cuda__kernels_bring_every_token_home(void **state) {
    (void)state;
    static struct trial t;
    uint64_t n_rows[2] = {0}, n_tokens = 0;
    for (uint64_t seed = 0; seed < 60; seed++) {
        struct mp_error err = {0};
        struct mp_exec_result *want, *got;
        trial_make(&t, seed, seed % 8 == 7);
        CHECK_OK(mp_exec_run(&want, &t.in, &err), err);
        assert_true(want->pack_ns == NULL && want->unpack_ns == NULL);
        t.in.transport = "cuda";
        mock_cuda_begin(1 + (int)(seed % 4), seed, 0);
        CHECK_OK(mp_exec_run(&got, &t.in, &err), err);
        assert_true(got->n_tokens == want->n_tokens && got->n_copies == want->n_copies &&
                    got->n_bytes == want->n_bytes);
        uint64_t ns[2] = {0};
        for (uint32_t i = 0; i < got->n_steps * got->n_iterations; i++) {
            ns[0] += got->pack_ns[i];
            ns[1] += got->unpack_ns[i];
        }
        for (int adds = 0; adds < 2; adds++) {
            assert_true((ns[adds] > 0) == (mock_cuda_rows(adds) > 0));
            n_rows[adds] += mock_cuda_rows(adds);
        }
        /* Each copy is moved once, to be sent or passed on; each token of a rank is added up once. */
        assert_int_equal(mock_cuda_rows(false), got->n_copies);
        assert_true(mock_cuda_rows(true) >= got->n_tokens);
        n_tokens += got->n_tokens;
        assert_int_equal(mock_cuda_end(), 0);
        mp_exec_result_free(want);
        mp_exec_result_free(got);
        world_free(&t.w);
    }
    assert_true(n_rows[0] > 10000 && n_rows[1] > n_tokens && n_tokens > 5000);
}

/* One wrong index in a table, in either kernel, is seen. */
static void test_transport_cuda__a_wrong_row_index_is_caught(void **state) {
    (void)state;
    static struct trial t;
    uint32_t n_caught[2] = {0};
    for (uint64_t seed = 0; seed < 60; seed++) {
        struct mp_error err = {0};
        struct mp_exec_result *r;
        const bool adds = seed / 5 % 2 == 1;
        trial_make(&t, seed, false);
        t.in.transport = "cuda";
        mock_cuda_begin(2, seed, 0);
        mock_cuda_mistake_row(adds);
        const enum mp_status status = mp_exec_run(&r, &t.in, &err);
        assert_int_equal(status, MP_EPEER);
        assert_null(r);
        assert_non_null(strstr(err.message, adds ? "came home wrong" : "came wrong"));
        n_caught[adds]++;
        assert_int_equal(mock_cuda_end(), 0);
        world_free(&t.w);
    }
    assert_true(n_caught[0] == 30 && n_caught[1] == 30);
}

static void test_transport_cuda__says_what_is_missing(void **state) {
    (void)state;
    static struct script_case c;
    struct mp_error err = {0};
    struct ex_link *link;
    void *view;
    script_case_make(&c, 1);
    struct ex_world world = {
        .n_ranks = c.net.t.n_gpus, .n_local = c.net.t.n_gpus, .topology = &c.net.t, .deadline_ms = 9};
    mock_cuda_begin(0, 1, 0);
    assert_int_equal(cuda()->open(&link, &world, &err), MP_EIO);
    assert_null(link);
    assert_non_null(strstr(err.message, "no CUDA driver"));
    assert_int_equal(mock_cuda_end(), 0);
    world.n_local = 1;
    err = (struct mp_error){0};
    assert_int_equal(cuda()->open(&link, &world, &err), MP_EUSAGE);
    world.n_local = world.n_ranks;
    for (uint64_t k = 1; k <= 2; k++) { /* of the device, of the host */
        err = (struct mp_error){0};
        mock_cuda_begin(2, 1, k);
        CHECK_OK(cuda()->open(&link, &world, &err), err);
        assert_int_equal(cuda()->alloc(link, 0, 1000, &view, &err), MP_ENOMEM);
        if (k == 1)
            assert_non_null(strstr(err.message, "1000 bytes for the block of rank 0 (1 of 2 are free)"));
        cuda()->close(link);
        assert_int_equal(mock_cuda_end(), 0);
    }
    script_case_free(&c);
}

static enum mp_status whole_run(void *ctx, struct mp_error *err) {
    const struct script_case *c = ctx;
    const uint32_t n = c->net.t.n_gpus;
    const struct ex_world world = {.n_ranks = n, .n_local = n, .topology = &c->net.t, .deadline_ms = 30000};
    struct ex_link *link = NULL;
    struct ex_times *times = NULL;
    void *view;
    enum mp_status status = MP_OK;
    mock_cuda_begin(2, 7, 0);
    MP_TRY(ex_times_new(&times, c->script, err));
    MP_TRY(cuda()->open(&link, &world, err));
    for (uint32_t r = 0; r < n; r++)
        MP_TRY(cuda()->alloc(link, r, c->used[r] + 1, &view, err));
    MP_TRY(cuda()->run(link, c->script, times, err));
    MP_TRY(cuda()->prepare(link, (const struct ex_script *const[]){c->script}, 1, err));
    status = cuda()->run(link, c->script, times, err);
out:
    cuda()->close(link);
    ex_times_free(times);
    assert_int_equal(mock_cuda_end(), 0);
    return status;
}
static void test_transport_cuda__survives_faults_of_memory(void **state) {
    (void)state;
    static struct script_case c;
    script_case_make(&c, 3);
    sweep_faults(whole_run, &c, 1);
    script_case_free(&c);
}

static enum mp_status whole_plan(void *ctx, struct mp_error *err) {
    const struct trial *t = ctx;
    struct mp_exec_result *r;
    mock_cuda_begin(2, 3, 0);
    const enum mp_status status = mp_exec_run(&r, &t->in, err);
    if (status == MP_OK)
        mp_exec_result_free(r);
    assert_int_equal(mock_cuda_end(), 0);
    return status;
}
static void test_transport_cuda__whole_plans_without_memory(void **state) {
    (void)state;
    static struct trial t;
    for (uint64_t seed = 2; seed < 5; seed++) {
        trial_make(&t, seed, false);
        t.in.transport = "cuda";
        t.in.n_warmup = 0;
        t.in.n_iterations = 1;
        sweep_faults(whole_plan, &t, 13);
        world_free(&t.w);
    }
}

/* Training steps: rings of copies and adding kernels on low streams beside the scripts'. */
static void test_transport_cuda__every_sum_of_training_steps(void **state) {
    (void)state;
    static struct trial t;
    static const char *const kinds[] = {"sum-corrupt", "sum-lie", "sum-kill"};
    uint32_t n = 0, n_faults = 0;
    for (uint64_t seed = 100; seed < 106; seed++) {
        struct mp_error err = {0};
        struct mp_exec_result *want, *r;
        struct mp_rng rng = mp_rng_seed(seed);
        char fault[64];
        struct mp_exec_policy policy = {.name = "policy"};
        trial_make(&t, seed, false);
        t.w.model.attention_bytes = 1 + mp_rng_below(&rng, 20000);
        t.w.model.dense_bytes = t.w.model.attention_bytes * t.w.model.n_layers;
        t.w.model.expert_bytes = 1 + mp_rng_below(&rng, 9000);
        policy.policy.is_shared = seed % 3 == 0;
        policy.policy.reduce_chunk_bytes = seed % 2 ? 6000 : 0;
        policy.policy.a2a_chunk_bytes = seed % 4 ? 500 : 0;
        t.in.n_policies = 1;
        t.in.policies = &policy;
        CHECK_OK(mp_exec_run(&want, &t.in, &err), err);
        t.in.transport = "cuda";
        mock_cuda_begin(1 + (int)(seed % 3), seed, 0);
        CHECK_OK(mp_exec_run(&r, &t.in, &err), err);
        assert_true(r->n_tokens == want->n_tokens && r->n_gradient_bytes == want->n_gradient_bytes);
        assert_int_equal(mock_cuda_end(), 0);
        n += r->n_gradient_bytes > 0;
        mp_exec_result_free(r);
        mp_exec_result_free(want);
        if (t.in.n_ranks > 1) {
            snprintf(fault, sizeof fault, "%s@0/0/0/%u", kinds[seed % 3], (unsigned)seed % t.in.n_ranks);
            t.in.fault = fault;
            t.in.deadline_ms = seed % 3 == 2 ? 100 : 30000;
            mock_cuda_begin(2, seed, 0);
            if (t.w.plan->n_slots == t.w.plan->n_experts) { /* else the rank may hold nothing of what is summed first */
                assert_int_equal(mp_exec_run(&r, &t.in, &err), MP_EPEER);
                assert_non_null(strstr(err.message, "allreduce"));
                n_faults++;
            }
            (void)mock_cuda_end();
        }
        world_free(&t.w);
    }
    assert_true(n > 4 && n_faults > 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_transport_cuda__every_byte_arrives),
        cmocka_unit_test(test_transport_cuda__keeps_the_rules_of_stages),
        cmocka_unit_test(test_transport_cuda__faults_are_caught),
        cmocka_unit_test(test_transport_cuda__kernels_bring_every_token_home),
        cmocka_unit_test(test_transport_cuda__a_wrong_row_index_is_caught),
        cmocka_unit_test(test_transport_cuda__says_what_is_missing),
        cmocka_unit_test(test_transport_cuda__survives_faults_of_memory),
        cmocka_unit_test(test_transport_cuda__whole_plans_without_memory),
        cmocka_unit_test(test_transport_cuda__every_sum_of_training_steps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
