#include "mock_nccl.h"
#include "mock_cuda.h"
#include "../../../executor/nccl_library.h"
#include <assert.h>
#include <moeplan/base.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { OPS_MAX = 256, HEADER = 8 };

struct transfer {
    bool is_receive;
    int peer;
    uint8_t *at;
    size_t n, done; /* done: of header and bytes */
    uint8_t header[HEADER];
};
enum { RANKS_MAX = 64, COMMS_MAX = 128 };
struct comm {
    uint32_t n, members[RANKS_MAX]; /* ranks */
    int n_busy;                     /* how often it still says that it is at work */
};
struct sum {
    struct comm *comm;
    uint8_t *at, *own, *came; /* own: what it was; came: [n][bytes] */
    size_t bytes;
    size_t out[RANKS_MAX], in[RANKS_MAX]; /* of header and bytes, by place */
    uint8_t header[RANKS_MAX][HEADER];
    bool has_begun;
};
struct group {
    struct transfer ops[OPS_MAX];
    size_t n;
    struct sum *sums;
    size_t n_sums, at_sum;
    cudaStream_t stream;
    struct group *next;
};
static struct {
    uint32_t me, n, most;
    const int *sockets, *low;
    struct comm *comms[COMMS_MAX];
    uint32_t n_comms, n_sets;
    ncclResult_t error;
    bool is_open;
    struct group *group, *all;
    uint64_t n_done, n_sums;
} m;

void mock_nccl_begin(uint32_t me, uint32_t n, const int *sockets, const int *sums) {
    memset(&m, 0, sizeof m);
    m.me = me;
    m.n = n;
    m.sockets = sockets;
    m.low = sums;
}
uint64_t mock_nccl_groups(void) { return m.n_done; }
uint64_t mock_nccl_sums(void) { return m.n_sums; }
uint32_t mock_nccl_sets(void) { return m.n_sets; }
uint32_t mock_nccl_most(void) { return m.most; }
void mock_nccl_end(void) {
    for (struct group *g = m.all, *next; g != NULL; g = next) {
        next = g->next;
        for (size_t i = 0; i < g->n_sums; i++) {
            free(g->sums[i].own);
            free(g->sums[i].came);
        }
        free(g->sums);
        free(g);
    }
    m.all = NULL;
    for (uint32_t i = 0; i < m.n_comms; i++)
        free(m.comms[i]);
    m.n_comms = 0;
}

/* ---- moving bytes ---- */

/* As many bytes as go without waiting. */
static void move_on(struct transfer *t) {
    if (!t->is_receive && t->done == 0) {
        const uint64_t n = t->n;
        memcpy(t->header, &n, HEADER);
    }
    for (;;) {
        const bool is_header = t->done < HEADER;
        uint8_t *at = is_header ? t->header + t->done : t->at + (t->done - HEADER);
        const size_t left = is_header ? HEADER - t->done : HEADER + t->n - t->done;
        if (left == 0)
            return;
        const ssize_t moved = t->is_receive ? recv(m.sockets[t->peer], at, left, MSG_DONTWAIT)
                                            : send(m.sockets[t->peer], at, left, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (moved <= 0)
            return; /* later; when the other one is gone, never */
        t->done += (size_t)moved;
        uint64_t n;
        memcpy(&n, t->header, HEADER);
        if (t->is_receive && t->done == HEADER && n != t->n)
            m.error = ncclRemoteError; /* the other end sends another number of bytes */
        if (m.error != ncclSuccess)
            return;
    }
}

/* What goes to and comes from one peer of a sum. True: all of it has. */
static bool move_sum(struct sum *s, uint32_t place) {
    const int fd = m.low[s->comm->members[place]];
    const size_t all = HEADER + s->bytes;
    for (int receives = 0; receives < 2; receives++)
        for (size_t *done = receives ? &s->in[place] : &s->out[place]; *done < all;) {
            uint8_t header[HEADER], *at = receives ? s->header[place] : header;
            const uint64_t n = s->bytes;
            const bool is_header = *done < HEADER;
            memcpy(header, &n, HEADER);
            uint8_t *of = receives ? s->came + place * s->bytes : s->own;
            at = is_header ? at + *done : of + (*done - HEADER);
            const size_t left = is_header ? HEADER - *done : all - *done;
            const ssize_t moved =
                receives ? recv(fd, at, left, MSG_DONTWAIT) : send(fd, at, left, MSG_DONTWAIT | MSG_NOSIGNAL);
            if (moved <= 0)
                break;
            *done += (size_t)moved;
            if (receives && is_header && *done == HEADER && memcmp(s->header[place], header, HEADER) != 0) {
                m.error = ncclRemoteError; /* the other end sums another number of words */
                return false;
            }
        }
    return s->in[place] == all && s->out[place] == all;
}

/* One after the other, as all their ranks do. */
static bool progress_sums(struct group *g) {
    for (; g->at_sum < g->n_sums && m.error == ncclSuccess; g->at_sum++) {
        struct sum *s = &g->sums[g->at_sum];
        bool is_done = true;
        if (!s->has_begun)
            memcpy(s->own, s->at, s->bytes);
        s->has_begun = true;
        for (uint32_t k = 0; k < s->comm->n; k++)
            is_done = (s->comm->members[k] == m.me || move_sum(s, k)) && is_done;
        if (!is_done)
            return false;
        for (uint32_t k = 0; k < s->comm->n; k++)
            for (size_t w = 0; w < s->bytes && s->comm->members[k] != m.me; w += 8) {
                uint64_t a, b;
                memcpy(&a, s->at + w, 8);
                memcpy(&b, s->came + k * s->bytes + w, 8);
                a += b;
                memcpy(s->at + w, &a, 8);
            }
        m.n_sums++;
    }
    return m.error == ncclSuccess;
}

static bool progress(void *ctx) {
    struct group *g = ctx;
    size_t n_done = 0;
    if (g->n_sums > 0)
        return progress_sums(g);
    for (size_t i = 0; i < g->n && m.error == ncclSuccess; i++) {
        struct transfer *t = &g->ops[i];
        bool is_next = true; /* those with one peer go in order */
        for (size_t k = 0; k < i && is_next; k++)
            is_next = g->ops[k].peer != t->peer || g->ops[k].is_receive != t->is_receive ||
                      g->ops[k].done == HEADER + g->ops[k].n;
        if (is_next)
            move_on(t);
        n_done += t->done == HEADER + t->n;
    }
    if (n_done < g->n || m.error != ncclSuccess)
        return false;
    for (size_t i = 0; i < g->n; i++)
        g->ops[i].done = 0; /* a graph may do it again */
    m.n_done++;
    return true;
}

/* ---- the library ---- */

static ncclResult_t get_version(int *version) {
    *version = 22809;
    return ncclSuccess;
}
static ncclResult_t get_unique_id(ncclUniqueId *id) {
    memset(id, 0x5A, sizeof *id);
    memcpy(id->internal + 8, &m.me, sizeof m.me);
    return ncclSuccess;
}

/* Who a communicator is of: members tell who made the id, who tells them all. Blocks, as the members are all here. */
static void meet(struct comm *c, uint32_t maker, uint32_t place) {
    struct {
        uint32_t place, rank;
    } hello = {place, m.me};
    if (maker != m.me) {
        assert(send(m.low[maker], &hello, sizeof hello, MSG_NOSIGNAL) == sizeof hello);
        assert(recv(m.low[maker], c->members, sizeof c->members, MSG_WAITALL) == sizeof c->members);
        return;
    }
    c->members[place] = m.me;
    for (uint32_t n = 1, r = 0; n < c->n; r = (r + 1) % m.n)
        if (r != m.me && recv(m.low[r], &hello, sizeof hello, MSG_DONTWAIT) == sizeof hello) {
            c->members[hello.place] = hello.rank;
            n++;
        }
    for (uint32_t k = 0; k < c->n; k++)
        if (c->members[k] != m.me)
            assert(send(m.low[c->members[k]], c->members, sizeof c->members, MSG_NOSIGNAL) == sizeof c->members);
}

static ncclResult_t comm_init(ncclComm_t *comm, int n, ncclUniqueId id, int rank, ncclConfig_t *config) {
    const bool is_main = m.n_comms == 0;
    uint32_t maker;
    memcpy(&maker, id.internal + 8, sizeof maker);
    if (id.internal[0] != 0x5A || config->blocking != 0 || m.n_comms == COMMS_MAX ||
        (is_main ? n != (int)m.n || rank != (int)m.me : m.low == NULL || n < 2 || n > (int)m.n || rank >= n))
        return ncclInvalidArgument;
    struct comm *c = calloc(1, sizeof *c);
    assert(c != NULL);
    c->n = (uint32_t)n;
    c->n_busy = 3;
    if (!is_main)
        meet(c, maker, (uint32_t)rank);
    m.n_sets += !is_main && n < (int)m.n;
    m.comms[m.n_comms++] = c;
    *comm = (ncclComm_t)(void *)c;
    return ncclInProgress;
}
static ncclResult_t async_error(ncclComm_t comm, ncclResult_t *error) {
    struct comm *c = (struct comm *)(void *)comm;
    *error = m.error != ncclSuccess ? m.error : c->n_busy > 0 ? ncclInProgress : ncclSuccess;
    c->n_busy -= c->n_busy > 0;
    return ncclSuccess;
}
static ncclResult_t comm_end(ncclComm_t comm) {
    (void)comm;
    return ncclSuccess;
}
static ncclResult_t group_start(void) {
    if (m.is_open)
        return ncclInvalidUsage;
    m.group = calloc(1, sizeof *m.group);
    assert(m.group != NULL);
    m.group->next = m.all;
    m.all = m.group;
    m.is_open = true;
    return ncclSuccess;
}
static ncclResult_t add(void *at, size_t n, ncclDataType_t type, int peer, cudaStream_t s, bool is_receive) {
    if (!m.is_open || m.comms[0]->n_busy > 0 || m.group->n_sums > 0 || type != ncclUint8 || n == 0 || peer < 0 ||
        peer >= (int)m.n || m.group->n == OPS_MAX || (m.group->stream != NULL && m.group->stream != s))
        return ncclInvalidUsage;
    m.group->stream = s;
    m.group->ops[m.group->n++] = (struct transfer){.is_receive = is_receive, .peer = peer, .at = at, .n = n};
    return ncclSuccess;
}
static ncclResult_t send_to(const void *at, size_t n, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t s) {
    (void)comm;
    return add((void *)(uintptr_t)at, n, type, peer, s, false);
}
static ncclResult_t receive(void *at, size_t n, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t s) {
    (void)comm;
    return add(at, n, type, peer, s, true);
}
static ncclResult_t all_reduce(const void *from, void *to, size_t n, ncclDataType_t type, ncclRedOp_t op,
                               ncclComm_t comm, cudaStream_t s) {
    struct comm *c = (struct comm *)(void *)comm;
    /* In place, 64-bit words, in a group, on a stream below that of scripts, on a communicator that is not theirs. */
    if (!m.is_open || m.group->n > 0 || from != to || type != ncclUint64 || op != ncclSum || n == 0 ||
        mock_cuda_priority(s) != 0 || c == m.comms[0] || c->n_busy > 0 ||
        (m.group->stream != NULL && m.group->stream != s))
        return ncclInvalidUsage;
    struct sum *grown = realloc(m.group->sums, (m.group->n_sums + 1) * sizeof *grown);
    assert(grown != NULL);
    m.group->sums = grown;
    m.group->stream = s;
    m.group->sums[m.group->n_sums++] =
        (struct sum){.comm = c, .at = to, .own = malloc(n * 8), .came = malloc(n * 8 * c->n), .bytes = n * 8};
    return ncclSuccess;
}
static ncclResult_t group_end(void) {
    if (!m.is_open)
        return ncclInvalidUsage;
    m.is_open = false;
    m.most = m.group->n > m.most ? (uint32_t)m.group->n : m.most;
    if (m.group->n > 0 && mock_cuda_priority(m.group->stream) != -5)
        return ncclInvalidUsage;
    if (m.group->n + m.group->n_sums > 0)
        mock_cuda_enqueue(m.group->stream, progress, m.group);
    for (size_t i = 0; i < m.group->n_sums; i++)
        m.group->sums[i].comm->n_busy = 2;
    if (m.group->n > 0)
        m.comms[0]->n_busy = 1;
    return ncclInProgress;
}
static const char *error_string(ncclResult_t result) { return result == ncclRemoteError ? "remote error" : "error"; }
static const char *last_error(ncclComm_t comm) {
    (void)comm;
    return "mock";
}

enum mp_status nccl_load(struct nccl_library *out, struct mp_error *err) {
    (void)err;
    *out =
        (struct nccl_library){get_version, get_unique_id, comm_init,  async_error, comm_end,  comm_end,     comm_end,
                              send_to,     receive,       all_reduce, group_start, group_end, error_string, last_error};
    return MP_OK;
}
enum mp_status nccl_share_id(const struct nccl_library *nccl, struct ex_link *control, ncclUniqueId *out,
                             struct mp_error *err) {
    ncclUniqueId mine = {0}, all[64];
    if (control->me == 0)
        (void)nccl->GetUniqueId(&mine);
    enum mp_status status = socket_gather(control, &mine, all, sizeof mine, err);
    *out = all[0];
    return status;
}
