/* The id of a NCCL communicator, made by rank 0 and known to all, over the meeting of the socket transport: a process
 * per rank, no GPU. */
#include "../../../executor/nccl_library.h"
#include "script_case.h"
#include <sys/wait.h>
#include <unistd.h>

enum { N = 3 };

/* Writes the id that this rank got into the pipe. 0: all went well; 2: NCCL is not installed. */
static int member(uint32_t rank, const char *where, const struct mp_topology *t, int to) {
    const struct ex_world world = {.n_ranks = N,
                                   .first_rank = rank,
                                   .n_local = 1,
                                   .topology = t,
                                   .deadline_ms = 20000,
                                   .rendezvous = where,
                                   .sockets_fd = -1,
                                   .identity = "same"};
    struct mp_error err = {0};
    struct nccl_library nccl;
    struct ex_link *control = NULL;
    ncclUniqueId id;
    int version = 0;
    if (nccl_load(&nccl, &err) != MP_OK)
        return 2;
    if (nccl.GetVersion(&version) != ncclSuccess || version < 21800)
        return 3;
    if (socket_open(&control, &world, &err) != MP_OK || nccl_share_id(&nccl, control, &id, &err) != MP_OK)
        return 4;
    socket_close(control);
    return write(to, &id, sizeof id) == (ssize_t)sizeof id ? 0 : 5;
}

static void test_nccl_library__all_ranks_get_the_id(void **state) {
    (void)state;
    static struct script_case c;
    char where[4200];
    int pipes[N][2];
    pid_t pids[N];
    ncclUniqueId ids[N];
    script_case_make(&c, 1);
    snprintf(where, sizeof where, "file://%s", temp_path("meet"));
    for (uint32_t r = 0; r < N; r++) {
        assert_int_equal(pipe(pipes[r]), 0);
        pids[r] = fork();
        assert_true(pids[r] >= 0);
        if (pids[r] == 0)
            _exit(member(r, where, &c.net.t, pipes[r][1]));
    }
    bool is_missing = false;
    for (uint32_t r = 0; r < N; r++) {
        int how = -1;
        assert_int_equal(waitpid(pids[r], &how, 0), pids[r]);
        assert_true(WIFEXITED(how) && (WEXITSTATUS(how) == 0 || WEXITSTATUS(how) == 2));
        is_missing = is_missing || WEXITSTATUS(how) == 2;
        if (!is_missing)
            assert_int_equal(read(pipes[r][0], &ids[r], sizeof ids[r]), sizeof ids[r]);
        (void)close(pipes[r][0]);
        (void)close(pipes[r][1]);
    }
    if (is_missing) {
        script_case_free(&c);
        print_message("skipped: libnccl.so.2 is not installed\n");
        skip();
    }
    script_case_free(&c);
    static const ncclUniqueId nothing;
    assert_memory_not_equal(&ids[0], &nothing, sizeof nothing);
    for (uint32_t r = 1; r < N; r++)
        assert_memory_equal(&ids[r], &ids[0], sizeof ids[0]);
}

/* Groups follow each other: what is predicted, calibrated and reported are coupled stages, never free ones. */
static void test_nccl_library__its_stages_are_coupled(void **state) {
    (void)state;
    const struct ex_limits *limits = &ex_transport_find("nccl")->limits;
    assert_int_equal(ex_limits_mode(limits, MP_STAGE_FREE), MP_STAGE_COUPLED);
    assert_int_equal(ex_limits_mode(limits, MP_STAGE_COUPLED), MP_STAGE_COUPLED);
    assert_int_equal(ex_limits_mode(limits, MP_STAGE_BARRIER), MP_STAGE_BARRIER);
    for (uint32_t i = 0; ex_transport_at(i) != NULL; i++)
        if (strcmp(ex_transport_at(i)->name, "nccl") != 0)
            assert_int_equal(ex_limits_mode(&ex_transport_at(i)->limits, MP_STAGE_FREE), MP_STAGE_FREE);
}

/* The proof holds scripts against what a group of NCCL takes. */
static void test_nccl_library__groups_of_more_than_256_are_refused(void **state) {
    (void)state;
    const struct ex_transport *t = ex_transport_find("nccl");
    static uint64_t bytes[200 * 200];
    for (uint32_t n = 128; n <= 130; n++) { /* one shot: n - 1 sends and n - 1 receives of every rank */
        struct mp_error err = {0};
        struct ex_flows *flows;
        struct ex_script *script;
        uint64_t *used = calloc(n, sizeof *used);
        for (size_t p = 0; p < (size_t)n * n; p++)
            bytes[p] = p % (n + 1) == 0 ? 0 : 8;
        CHECK_OK(ex_flows_new(&flows, n, bytes, used, &err), err);
        const struct ex_script_request request = {.flows = flows, .used = used};
        CHECK_OK(ex_script_new(&script, &request, &err), err);
        const enum mp_status status = ex_prove(script, flows, used, &t->limits, &err);
        assert_int_equal(status, 2 * (n - 1) <= 256 ? MP_OK : MP_EUSAGE);
        if (status != MP_OK)
            assert_non_null(strstr(err.message, "at most 256 at once"));
        ex_script_free(script);
        ex_flows_free(flows);
        free(used);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nccl_library__all_ranks_get_the_id),
        cmocka_unit_test(test_nccl_library__its_stages_are_coupled),
        cmocka_unit_test(test_nccl_library__groups_of_more_than_256_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
