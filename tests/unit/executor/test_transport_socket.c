/* The socket transport, a thread in place of each process: every byte arrives under every rule of stages, ranks tell
 * each other what they should, and whatever goes wrong ends all of them. */
#include "../../../executor/guests.h"
#include "../../../executor/rendezvous.h"
#include "script_case.h"
#include <moeplan/base.h>
#include <moeplan/executor.h>
#include <dlfcn.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { RANKS_MAX = CASE_GPUS };

struct cluster { /* what all ranks have in common */
    const struct script_case *c;
    uint32_t n;
    char rendezvous[4200];
    struct ex_fault fault;
    uint64_t deadline_ms;
    int n_runs;
    uint32_t odd_rank; /* whose identity differs; MP_NONE = nobody's */
    uint8_t *views[RANKS_MAX];
};
struct member {
    struct cluster *cluster;
    uint32_t rank;
    pthread_t thread;
    bool is_wrong; /* something that ranks told each other */
    enum mp_status status;
    struct mp_error err;
};

/* One rank's flows, all else 0xEE. */
static void fill_own(const struct script_case *c, uint32_t rank, uint8_t *block) {
    const uint32_t n = c->flows->n;
    memset(block, 0xEE, c->used[rank]);
    for (size_t p = (size_t)rank * n; p < (size_t)(rank + 1) * n; p++)
        for (uint64_t o = 0; o < c->flows->bytes[p]; o++)
            block[c->flows->out_at[p] + o] = flow_byte(p, o);
}

static void *member_main(void *ctx) {
    struct member *m = ctx;
    struct cluster *k = m->cluster;
    const struct ex_transport *t = ex_transport_find("socket");
    struct ex_world world = {.n_ranks = k->n,
                             .first_rank = m->rank,
                             .n_local = 1,
                             .topology = &k->c->net.t,
                             .deadline_ms = k->deadline_ms,
                             .rendezvous = k->rendezvous,
                             .sockets_fd = -1,
                             .fault = k->fault};
    struct ex_link *link = NULL;
    struct ex_times *times = NULL;
    void *view = NULL;
    enum mp_status status = MP_OK;
    snprintf(world.identity, sizeof world.identity, "%064u", m->rank == k->odd_rank ? 1 : 0);
    MP_TRY(t->open(&link, &world, &m->err));
    MP_TRY(ex_times_new(&times, k->c->script, &m->err));
    MP_TRY(t->alloc(link, m->rank, k->c->used[m->rank] + 1, &view, &m->err));
    for (int i = 0; i < k->n_runs; i++) {
        uint32_t mine = 1000 + m->rank * 7 + (uint32_t)i, all[RANKS_MAX];
        fill_own(k->c, m->rank, view);
        MP_TRY(t->run(link, k->c->script, times, &m->err));
        m->is_wrong |= times->total_ns[m->rank] == 0;
        MP_TRY(t->gather(link, &mine, all, sizeof mine, &m->err));
        for (uint32_t r = 0; r < k->n; r++)
            m->is_wrong |= all[r] != 1000 + r * 7 + (uint32_t)i;
        MP_TRY(t->barrier(link, &m->err));
    }
    k->views[m->rank] = malloc(k->c->used[m->rank] + 1);
    memcpy(k->views[m->rank], view, k->c->used[m->rank]);
out:
    m->status = status;
    if (status != MP_OK && link != NULL)
        t->abort(link, &m->err);
    t->close(link);
    ex_times_free(times);
    return NULL;
}

static void run_cluster(struct cluster *k, struct member *members) {
    const char *path = temp_path("rendezvous");
    snprintf(k->rendezvous, sizeof k->rendezvous, "file://%s", path);
    k->n = k->c->net.t.n_gpus;
    for (uint32_t r = k->n; r-- > 0;) {
        members[r] = (struct member){.cluster = k, .rank = r};
        assert_int_equal(pthread_create(&members[r].thread, NULL, member_main, &members[r]), 0);
    }
    for (uint32_t r = 0; r < k->n; r++)
        assert_int_equal(pthread_join(members[r].thread, NULL), 0);
    assert_int_not_equal(access(path, F_OK), 0); /* the meeting's file is gone */
}
static void free_views(struct cluster *k) {
    for (uint32_t r = 0; r < RANKS_MAX; r++) {
        free(k->views[r]);
        k->views[r] = NULL;
    }
}

static void test_transport_socket__every_byte_arrives(void **state) {
    (void)state;
    static struct script_case c;
    static struct member members[RANKS_MAX];
    uint32_t n_modes[3] = {0};
    for (uint64_t seed = 0; seed < 60; seed++) {
        struct cluster k = {.c = &c, .deadline_ms = 20000, .n_runs = 3, .odd_rank = MP_NONE};
        script_case_make(&c, seed);
        run_cluster(&k, members);
        for (uint32_t r = 0; r < k.n; r++) {
            CHECK_OK(members[r].status, members[r].err);
            assert_false(members[r].is_wrong);
        }
        if (n_wrong(k.views, c.flows) != 0)
            fail_msg("case %llu: bytes are missing", (unsigned long long)seed);
        n_modes[c.script->mode] += !c.script->is_single;
        free_views(&k);
        script_case_free(&c);
    }
    assert_true(n_modes[0] > 5 && n_modes[1] > 5 && n_modes[2] > 5);
}

/* A stage and a rank that sends at least `least` messages of 8 bytes or more from it on. */
static bool find_victim(const struct script_case *c, struct mp_rng *r, size_t least, struct ex_fault *f) {
    const struct ex_script *s = c->script;
    for (int tries = 0; tries < 20 && s->n_messages > 0; tries++) {
        const struct ex_message *m = &s->messages[mp_rng_below(r, s->n_messages)];
        size_t n = 0;
        bool are_large = true;
        for (size_t i = s->send_first[m->src]; i < s->send_first[m->src + 1]; i++)
            if (s->sends[i].stage >= m->stage && n++ < least)
                are_large &= s->sends[i].bytes >= 8;
        if (n >= least && are_large) {
            *f = (struct ex_fault){f->kind, s->step, s->layer, m->stage, m->src};
            return true;
        }
    }
    return false;
}

static void test_transport_socket__wrong_data_is_only_data(void **state) {
    (void)state;
    static struct script_case c;
    static struct member members[RANKS_MAX];
    static const enum ex_fault_kind kinds[] = {EX_FAULT_CORRUPT, EX_FAULT_SWAP, EX_FAULT_DROP};
    for (size_t i = 0; i < 3; i++) {
        uint32_t n = 0;
        for (uint64_t seed = 0; seed < 16; seed++) {
            struct mp_rng r = mp_rng_seed(seed);
            struct cluster k = {
                .c = &c, .fault = {.kind = kinds[i]}, .deadline_ms = 2000, .n_runs = 1, .odd_rank = MP_NONE};
            script_case_make(&c, seed);
            c.script->part = EX_DISPATCH;
            if (find_victim(&c, &r, kinds[i] == EX_FAULT_SWAP ? 2 : 1, &k.fault)) {
                run_cluster(&k, members);
                for (uint32_t m = 0; m < k.n; m++)
                    if (members[m].status != MP_OK)
                        fail_msg("kind %zu, case %llu, rank %u: %s", i, (unsigned long long)seed, m,
                                 members[m].err.message);
                if (n_wrong(k.views, c.flows) == 0)
                    fail_msg("kind %zu, case %llu: all is right in spite of the fault", i, (unsigned long long)seed);
                free_views(&k);
                n++;
            }
            script_case_free(&c);
        }
        assert_true(n > 5);
    }
}

/* Ranks that lie, stop, or are slow end all ranks. (Being killed takes a process: tests/cli/exec.py.) */
static void test_transport_socket__bad_ranks_end_all(void **state) {
    (void)state;
    static struct script_case c;
    static struct member members[RANKS_MAX];
    static const enum ex_fault_kind kinds[] = {EX_FAULT_LIE, EX_FAULT_STOP, EX_FAULT_SLOW};
    for (size_t i = 0; i < 3; i++) {
        uint32_t n = 0;
        for (uint64_t seed = 0; seed < 8; seed++) {
            struct mp_rng r = mp_rng_seed(seed);
            struct cluster k = {
                .c = &c, .fault = {.kind = kinds[i]}, .deadline_ms = 250, .n_runs = 2, .odd_rank = MP_NONE};
            char who[32];
            uint32_t n_named = 0;
            script_case_make(&c, seed);
            c.script->part = EX_DISPATCH;
            if (find_victim(&c, &r, 1, &k.fault)) {
                run_cluster(&k, members);
                snprintf(who, sizeof who, "rank %u", k.fault.rank);
                for (uint32_t m = 0; m < k.n; m++) {
                    if (members[m].status != MP_EPEER ||
                        strstr(members[m].err.message, " of step 0, layer 0, ") == NULL ||
                        strstr(members[m].err.message, " bytes ") == NULL)
                        fail_msg("kind %zu, case %llu, rank %u: %d %s", i, (unsigned long long)seed, m,
                                 members[m].status, members[m].err.message);
                    n_named += strstr(members[m].err.message, who) != NULL;
                }
                if (n_named == 0)
                    fail_msg("kind %zu, case %llu, rank %u is not named: %s", i, (unsigned long long)seed, k.fault.rank,
                             members[0].err.message);
                free_views(&k);
                n++;
            }
            script_case_free(&c);
        }
        assert_true(n > 3);
    }
}

static void test_transport_socket__another_run_is_named(void **state) {
    (void)state;
    static struct script_case c;
    static struct member members[RANKS_MAX];
    uint64_t seed = 0;
    do {
        script_case_free(&c);
        script_case_make(&c, seed++);
    } while (c.net.t.n_gpus < 4);
    struct cluster k = {.c = &c, .deadline_ms = 20000, .n_runs = 1, .odd_rank = 2};
    run_cluster(&k, members);
    for (uint32_t r = 0; r < k.n; r++) {
        assert_int_equal(members[r].status, MP_EPEER);
        assert_non_null(strstr(members[r].err.message, "rank 2 is about to run something else"));
    }
    script_case_free(&c);
}

/* In front of the C library's: hosts "stuck.test" are not answered as long as the lock is held. */
static pthread_mutex_t stuck = PTHREAD_MUTEX_INITIALIZER;
int getaddrinfo(const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **found);
int getaddrinfo(const char *host, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    if (host != NULL && strcmp(host, "stuck.test") == 0) {
        if ((hints->ai_flags & AI_NUMERICHOST) == 0) {
            pthread_mutex_lock(&stuck);
            pthread_mutex_unlock(&stuck);
        }
        return EAI_NONAME;
    }
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
    *(void **)&real = dlsym(RTLD_NEXT, "getaddrinfo");
    return real(host, service, hints, found);
}

static void test_transport_socket__a_name_that_is_not_answered_has_the_deadline(void **state) {
    (void)state;
    static const enum mp_status want[] = {MP_EUSAGE, MP_EPEER};
    pthread_mutex_lock(&stuck);
    for (uint32_t rank = 0; rank < 2; rank++) {
        struct ex_meeting meeting;
        struct mp_error err = {0};
        const struct ex_world world = {.n_ranks = 2,
                                       .first_rank = rank,
                                       .n_local = 1,
                                       .deadline_ms = 20,
                                       .rendezvous = "tcp://stuck.test:5",
                                       .sockets_fd = -1};
        assert_int_equal(ex_meet(&meeting, &world, ex_now_ns() + 20000000, &err), want[rank]);
        assert_non_null(strstr(err.message, "\"stuck.test\": "));
    }
    pthread_mutex_unlock(&stuck);
}

/* In front of the C library's: whoever listens has visitors at once, who then say nothing. */
static int n_strangers; /* at each listener */
static int strangers[1024], n_open;
static pthread_mutex_t visiting = PTHREAD_MUTEX_INITIALIZER;
int listen(int fd, int backlog) {
    int (*real)(int, int);
    *(void **)&real = dlsym(RTLD_NEXT, "listen");
    const int result = real(fd, backlog);
    struct sockaddr_in to = {.sin_family = AF_INET};
    socklen_t size = sizeof to;
    pthread_mutex_lock(&visiting);
    for (int i = 0; i < n_strangers && n_open < 1024 && getsockname(fd, (struct sockaddr *)&to, &size) == 0; i++) {
        const int s = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(s, (struct sockaddr *)&to, sizeof to) == 0 && (i % 2 == 0 || send(s, "x", 1, 0) == 1))
            strangers[n_open++] = s;
        else
            close(s);
    }
    pthread_mutex_unlock(&visiting);
    return result;
}
static void strangers_leave(void) {
    n_strangers = 0;
    while (n_open > 0)
        close(strangers[--n_open]);
}

static void test_transport_socket__silent_strangers_hold_nobody_up(void **state) {
    (void)state;
    static struct script_case c;
    static struct member members[RANKS_MAX];
    struct cluster k = {.c = &c, .deadline_ms = 20000, .n_runs = 1, .odd_rank = MP_NONE};
    script_case_make(&c, 3);
    n_strangers = 6;
    const uint64_t begin = ex_now_ns();
    run_cluster(&k, members);
    for (uint32_t r = 0; r < k.n; r++)
        CHECK_OK(members[r].status, members[r].err);
    assert_true(n_open >= 6 * (int)k.n);
    assert_true(ex_now_ns() - begin < k.deadline_ms * 1000000); /* nobody waited for one of them */
    strangers_leave();
    free_views(&k);
    script_case_free(&c);
}

static void test_transport_socket__no_number_of_strangers_keeps_a_rank_out(void **state) {
    (void)state;
    struct ex_guests guests;
    struct mp_error err = {0};
    uint64_t said = 0;
    n_strangers = 40;
    const int listener = ex_listen("127.0.0.1", 0);
    assert_true(listener >= 0);
    CHECK_OK(ex_guests_open(&guests, listener, sizeof said, 8, &err), err);
    assert_int_equal(ex_guests_next(&guests, &said, ex_now_ns() + 1000000), -1);
    const int rank = ex_connect("127.0.0.1", ex_port(listener), NULL);
    assert_true(rank >= 0 && ex_wait(rank, true, ex_now_ns() + 20000000000));
    const uint64_t word = 0x1234567890abcdef;
    assert_int_equal(send(rank, &word, 5, 0), 5);
    assert_int_equal(ex_guests_next(&guests, &said, ex_now_ns() + 1000000), -1);
    assert_int_equal(send(rank, (const char *)&word + 5, 3, 0), 3);
    const int fd = ex_guests_next(&guests, &said, ex_now_ns() + 20000000000);
    assert_true(fd >= 0);
    assert_true(said == word);
    close(fd);
    close(rank);
    ex_guests_close(&guests);
    close(listener);
    strangers_leave();
}

/* In front of the C library's: of a message of 16 bytes and more only the first 8 go out, as on a link that has died in
 * the middle. What is short goes through, signs of life among it. */
static bool is_clogged;
ssize_t sendmsg(int fd, const struct msghdr *m, int flags) {
    ssize_t (*real)(int, const struct msghdr *, int);
    *(void **)&real = dlsym(RTLD_NEXT, "sendmsg");
    if (!is_clogged || (m->msg_iovlen == 2 && m->msg_iov[1].iov_len < 16))
        return real(fd, m, flags);
    if (m->msg_iovlen < 2) {
        errno = EAGAIN;
        return -1;
    }
    struct iovec parts[2] = {m->msg_iov[0], {m->msg_iov[1].iov_base, 8}};
    struct msghdr part = *m;
    part.msg_iov = parts;
    return real(fd, &part, flags);
}

static void test_transport_socket__a_message_that_stops_on_its_way_ends_all(void **state) {
    (void)state;
    static struct script_case c;
    static struct member members[RANKS_MAX];
    uint32_t n = 0;
    for (uint64_t seed = 0; seed < 6; seed++) {
        struct cluster k = {.c = &c, .deadline_ms = 300, .n_runs = 1, .odd_rank = MP_NONE};
        script_case_make(&c, seed);
        is_clogged = true;
        run_cluster(&k, members);
        is_clogged = false;
        for (uint32_t r = 0; r < k.n; r++) {
            if (members[r].status == MP_OK) /* all messages were short */
                continue;
            assert_int_equal(members[r].status, MP_EPEER);
            if (strstr(members[r].err.message, ", stage ") == NULL || strstr(members[r].err.message, " bytes ") == NULL)
                fail_msg("case %llu, rank %u: %s", (unsigned long long)seed, r, members[r].err.message);
            n += strstr(members[r].err.message, "which did not come (") != NULL;
        }
        free_views(&k);
        script_case_free(&c);
    }
    assert_true(n > 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_transport_socket__every_byte_arrives),
        cmocka_unit_test(test_transport_socket__wrong_data_is_only_data),
        cmocka_unit_test(test_transport_socket__bad_ranks_end_all),
        cmocka_unit_test(test_transport_socket__another_run_is_named),
        cmocka_unit_test(test_transport_socket__a_name_that_is_not_answered_has_the_deadline),
        cmocka_unit_test(test_transport_socket__silent_strangers_hold_nobody_up),
        cmocka_unit_test(test_transport_socket__a_message_that_stops_on_its_way_ends_all),
        cmocka_unit_test(test_transport_socket__no_number_of_strangers_keeps_a_rank_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
