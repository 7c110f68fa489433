/* The transport of NCCL on mocks of NCCL and of the CUDA runtime, a process for each rank: whole runs of random plans,
 * every token verified, groups in the order of stages, as graphs and one by one; and what goes wrong ends all ranks. */
#include "mock_cuda.h"
#include "mock_nccl.h"
#include "trial.h"
#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { RANKS_MAX = 9, PATIENCE_MS = 20000 };

struct seen { /* of one rank, in memory that all share */
    enum mp_status status;
    uint64_t n_sums, n_gradient_bytes, n_tokens, n_copies, n_bytes, n_left, n_launches, n_groups, n_rows[2], pack_ns,
        unpack_ns;
    uint32_t most, n_coupled, n_free, n_sets;
    char message[400];
};
static struct seen *seen;
static int pairs[2][RANKS_MAX][RANKS_MAX]; /* of scripts, of sums */

static void run_rank(const struct trial *t, uint32_t rank, const char *where, uint64_t seed) {
    struct seen *s = &seen[rank];
    struct mp_exec in = t->in;
    struct mp_exec_result *r = NULL;
    struct mp_error err = {0};
    mock_cuda_begin((int)in.n_ranks, seed * 100 + rank, 0);
    mock_nccl_begin(rank, in.n_ranks, pairs[0][rank], pairs[1][rank]);
    for (uint32_t i = 0; i < in.n_ranks; i++) /* who ends is seen by the others */
        for (uint32_t k = 0; k < in.n_ranks && i != rank; k++)
            for (int of_sums = 0; of_sums < 2 && i != k; of_sums++)
                (void)close(pairs[of_sums][i][k]);
    in.transport = "nccl";
    in.first_rank = in.local_rank = rank;
    in.n_local = 1;
    in.rendezvous = where;
    s->status = mp_exec_run(&r, &in, &err);
    snprintf(s->message, sizeof s->message, "%.390s", err.message);
    if (s->status != MP_OK)
        return;
    s->n_tokens = r->n_tokens;
    s->n_copies = r->n_copies;
    s->n_bytes = r->n_bytes;
    for (size_t i = 0; i < r->n_parts; i++) {
        s->n_coupled += r->parts[i].is_staged && r->parts[i].mode == MP_STAGE_COUPLED;
        s->n_free += r->parts[i].is_staged && r->parts[i].mode == MP_STAGE_FREE;
    }
    for (uint32_t i = 0; r->pack_ns != NULL && i < r->n_steps * r->n_iterations; i++) {
        s->pack_ns += r->pack_ns[i];
        s->unpack_ns += r->unpack_ns[i];
    }
    s->n_rows[0] = mock_cuda_rows(false);
    s->n_rows[1] = mock_cuda_rows(true);
    s->n_launches = mock_cuda_launches();
    s->n_groups = mock_nccl_groups();
    s->n_sums = mock_nccl_sums();
    s->n_sets = mock_nccl_sets();
    s->n_gradient_bytes = r->n_gradient_bytes;
    s->most = mock_nccl_most();
    mp_exec_result_free(r);
    s->n_left = mock_cuda_end();
    mock_nccl_end();
}

/* All ranks; false when one did not end by itself with 0. */
static bool run_ranks(const struct trial *t, uint64_t seed) {
    const uint32_t n = t->in.n_ranks;
    char where[4200], name[32];
    pid_t pids[RANKS_MAX];
    bool is_good = true;
    memset(seen, 0, RANKS_MAX * sizeof *seen);
    snprintf(name, sizeof name, "meet-%u", (unsigned)seed);
    snprintf(where, sizeof where, "file://%s", temp_path(name));
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t k = 0; k < 2 * i; k++) {
            int both[2];
            assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, both), 0);
            pairs[k % 2][i][k / 2] = both[0];
            pairs[k % 2][k / 2][i] = both[1];
        }
    (void)fflush(NULL);
    for (uint32_t r = 0; r < n; r++) {
        pids[r] = fork();
        assert_true(pids[r] >= 0);
        if (pids[r] == 0) {
            run_rank(t, r, where, seed);
            _exit(0);
        }
    }
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t k = 0; k < n; k++)
            for (int of_sums = 0; of_sums < 2 && i != k; of_sums++)
                (void)close(pairs[of_sums][i][k]);
    for (uint32_t r = 0; r < n; r++) {
        int how = -1;
        assert_int_equal(waitpid(pids[r], &how, 0), pids[r]);
        is_good = is_good && WIFEXITED(how) && WEXITSTATUS(how) == 0;
    }
    return is_good;
}

static void test_transport_nccl__every_token_of_random_plans(void **state) {
    (void)state;
    static struct trial t;
    uint64_t n_tokens = 0, n_launches = 0, n_groups = 0, n_rows[2] = {0}, n_coupled = 0;
    for (uint64_t seed = 0; seed < 36; seed++) {
        struct mp_error err = {0};
        struct mp_exec_result *want;
        uint64_t rows[2] = {0};
        trial_make(&t, seed, seed % 8 == 7);
        if (t.in.n_ranks > RANKS_MAX) {
            world_free(&t.w);
            continue;
        }
        CHECK_OK(mp_exec_run(&want, &t.in, &err), err);
        t.in.with_timeline = seed % 3 == 0; /* then nothing is a graph */
        assert_true(run_ranks(&t, seed));
        for (uint32_t r = 0; r < t.in.n_ranks; r++) {
            const struct seen *s = &seen[r];
            if (s->status != MP_OK)
                fail_msg("seed %u, rank %u: %s", (unsigned)seed, r, s->message);
            assert_true(s->n_tokens == want->n_tokens && s->n_copies == want->n_copies && s->n_bytes == want->n_bytes);
            assert_int_equal(s->n_left, 0);
            assert_int_equal(s->n_free, 0);
            assert_true(s->most <= 2 * t.in.n_ranks);
            assert_true(!t.in.with_timeline || s->n_launches == 0);
            assert_true(s->pack_ns > 0 || s->n_rows[0] == 0);
            assert_true(s->unpack_ns > 0 || s->n_rows[1] == 0);
            n_launches += s->n_launches;
            n_groups += s->n_groups;
            n_coupled += s->n_coupled;
            for (int adds = 0; adds < 2; adds++)
                rows[adds] += s->n_rows[adds];
        }
        assert_int_equal(rows[0], want->n_copies); /* each by a kernel, once */
        assert_true(rows[1] >= want->n_tokens);
        n_rows[0] += rows[0];
        n_rows[1] += rows[1];
        n_tokens += want->n_tokens;
        mp_exec_result_free(want);
        world_free(&t.w);
    }
    assert_true(n_tokens > 2000 && n_launches > 100 && n_groups > 500 && n_rows[0] > 5000 && n_rows[1] > n_tokens);
    assert_true(n_coupled > 10);
}

static void test_transport_nccl__faults_end_all_ranks(void **state) {
    (void)state;
    static struct trial t;
    static const char *const kinds[] = {"corrupt", "swap", "drop", "lie", "stop", "slow", "kill"};
    enum { N = sizeof kinds / sizeof *kinds };
    uint32_t n[N] = {0};
    for (uint64_t seed = 4000; seed < 4040; seed++) {
        uint32_t rank = 0, stage = 0;
        uint64_t n_sends = 0;
        char fault[64];
        const size_t k = seed % N;
        trial_make(&t, seed, false);
        if (t.in.n_ranks <= RANKS_MAX && trial_victim(&t, &rank, &stage, &n_sends) && n[k] < 2) {
            snprintf(fault, sizeof fault, "%s@0/0/%u/%u", kinds[k], stage, rank);
            t.in.fault = fault;
            t.in.deadline_ms = k < 2 ? PATIENCE_MS : 700;
            assert_true(run_ranks(&t, seed) == (strcmp(kinds[k], "kill") != 0));
            for (uint32_t r = 0; r < t.in.n_ranks; r++)
                if (r != rank || k < 4) {
                    if (seen[r].status != MP_EPEER || strstr(seen[r].message, "rank") == NULL ||
                        (k < 2 && strstr(seen[r].message, "wrong") == NULL))
                        fail_msg("%s, rank %u: %d %s", fault, r, (int)seen[r].status, seen[r].message);
                }
            n[k]++;
        }
        world_free(&t.w);
    }
    for (size_t k = 0; k < N; k++)
        assert_true(n[k] >= 1);
}

/* ---- training steps ---- */

static void train_make(struct trial *t, struct mp_exec_policy *policy, uint64_t seed) {
    struct mp_rng r = mp_rng_seed(seed);
    trial_make(t, seed, false);
    t->w.model.attention_bytes = 1 + mp_rng_below(&r, 20000);
    t->w.model.shared_bytes = 0;
    t->w.model.dense_bytes = t->w.model.attention_bytes * t->w.model.n_layers;
    t->w.model.expert_bytes = 1 + mp_rng_below(&r, 9000);
    t->w.model.expert_flops_per_token = t->w.model.shared_flops_per_token = t->w.model.attention_flops_per_token = 1000;
    *policy = (struct mp_exec_policy){.name = "policy"};
    policy->policy.is_shared = mp_rng_below(&r, 3) == 0;
    policy->policy.guard = (enum mp_train_guard)mp_rng_below(&r, MP_TRAIN_N_GUARDS);
    policy->policy.is_pipelined = mp_rng_below(&r, 2);
    policy->policy.a2a_chunk_bytes = mp_rng_below(&r, 2) ? 500 : 0;
    policy->policy.reduce_chunk_bytes = mp_rng_below(&r, 2) ? 6000 : 0;
    t->in.n_policies = 1;
    t->in.policies = policy;
}

/* ncclAllReduce on the low stream, beside groups of sends and receives: the same counts as over loop, every sum right.
 */
static void test_transport_nccl__every_sum_of_training_steps(void **state) {
    (void)state;
    static struct trial t;
    struct mp_exec_policy policy;
    uint64_t n_sums = 0, n_sets = 0, n_bytes = 0;
    for (uint64_t seed = 100; seed < 112; seed++) {
        struct mp_error err = {0};
        struct mp_exec_result *want;
        train_make(&t, &policy, seed);
        if (t.in.n_ranks > RANKS_MAX || t.in.n_ranks < 2) {
            world_free(&t.w);
            continue;
        }
        CHECK_OK(mp_exec_run(&want, &t.in, &err), err);
        assert_true(run_ranks(&t, seed));
        for (uint32_t r = 0; r < t.in.n_ranks; r++) {
            const struct seen *s = &seen[r];
            if (s->status != MP_OK)
                fail_msg("seed %u, rank %u: %s", (unsigned)seed, r, s->message);
            assert_true(s->n_tokens == want->n_tokens && s->n_copies == want->n_copies);
            assert_true(s->n_gradient_bytes == want->n_gradient_bytes);
            assert_int_equal(s->n_left, 0);
            n_sums += s->n_sums;
            n_sets += s->n_sets;
        }
        n_bytes += want->n_gradient_bytes;
        mp_exec_result_free(want);
        world_free(&t.w);
    }
    assert_true(n_sums > 300 && n_sets > 10 && n_bytes > 500000);
}

static void test_transport_nccl__faults_of_sums_end_all_ranks(void **state) {
    (void)state;
    static struct trial t;
    static const char *const kinds[] = {"sum-corrupt", "sum-lie", "sum-stop", "sum-slow", "sum-kill"};
    struct mp_exec_policy policy;
    uint32_t n = 0;
    for (uint64_t seed = 300; n < 5; seed++) {
        char fault[64];
        train_make(&t, &policy, seed);
        policy.policy = (struct mp_train_policy){.guard = MP_TRAIN_GUARD_BEHIND};
        const uint32_t rank = (uint32_t)seed % t.in.n_ranks;
        /* The bucket of layer 0 that comes first may be that of experts which the rank does not hold. */
        if (t.in.n_ranks < 2 || t.in.n_ranks > 6 || t.w.plan->n_slots > t.w.plan->n_experts) {
            world_free(&t.w);
            continue;
        }
        snprintf(fault, sizeof fault, "%s@0/0/0/%u", kinds[n], rank);
        t.in.fault = fault;
        t.in.deadline_ms = n < 2 ? PATIENCE_MS : 700;
        assert_true(run_ranks(&t, seed) == (n != 4));
        for (uint32_t r = 0; r < t.in.n_ranks; r++)
            if ((r != rank || n < 2) && (seen[r].status != MP_EPEER || strstr(seen[r].message, "rank") == NULL))
                fail_msg("%s, rank %u: %d %s", fault, r, (int)seen[r].status, seen[r].message);
        n++;
        world_free(&t.w);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_transport_nccl__every_token_of_random_plans),
        cmocka_unit_test(test_transport_nccl__faults_end_all_ranks),
        cmocka_unit_test(test_transport_nccl__every_sum_of_training_steps),
        cmocka_unit_test(test_transport_nccl__faults_of_sums_end_all_ranks),
    };
    seen = mmap(NULL, RANKS_MAX * sizeof *seen, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return seen == MAP_FAILED ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
