#include "mock_nccl.h"
#include "mock_cuda.h"
#include "../../../executor/nccl_library.h"
#include <assert.h>
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
struct group {
    struct transfer ops[OPS_MAX];
    size_t n;
    cudaStream_t stream;
    struct group *next;
};
static struct {
    uint32_t me, n, most;
    const int *sockets;
    int n_busy; /* how often it still says that it is at work */
    ncclResult_t error;
    bool is_open;
    struct group *group, *all;
    uint64_t n_done;
} m;

void mock_nccl_begin(uint32_t me, uint32_t n, const int *sockets) {
    memset(&m, 0, sizeof m);
    m.me = me;
    m.n = n;
    m.sockets = sockets;
}
uint64_t mock_nccl_groups(void) { return m.n_done; }
uint32_t mock_nccl_most(void) { return m.most; }
void mock_nccl_end(void) {
    for (struct group *g = m.all, *next; g != NULL; g = next) {
        next = g->next;
        free(g);
    }
    m.all = NULL;
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

static bool progress(void *ctx) {
    struct group *g = ctx;
    size_t n_done = 0;
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
    return ncclSuccess;
}
static ncclResult_t comm_init(ncclComm_t *comm, int n, ncclUniqueId id, int rank, ncclConfig_t *config) {
    if (id.internal[0] != 0x5A || n != (int)m.n || rank != (int)m.me || config->blocking != 0)
        return ncclInvalidArgument;
    *comm = (ncclComm_t)&m;
    m.n_busy = 3;
    return ncclInProgress;
}
static ncclResult_t async_error(ncclComm_t comm, ncclResult_t *error) {
    (void)comm;
    *error = m.error != ncclSuccess ? m.error : m.n_busy > 0 ? ncclInProgress : ncclSuccess;
    m.n_busy -= m.n_busy > 0;
    return ncclSuccess;
}
static ncclResult_t comm_end(ncclComm_t comm) {
    (void)comm;
    return ncclSuccess;
}
static ncclResult_t group_start(void) {
    if (m.is_open || m.n_busy > 0)
        return ncclInvalidUsage;
    m.group = calloc(1, sizeof *m.group);
    assert(m.group != NULL);
    m.group->next = m.all;
    m.all = m.group;
    m.is_open = true;
    return ncclSuccess;
}
static ncclResult_t add(void *at, size_t n, ncclDataType_t type, int peer, cudaStream_t s, bool is_receive) {
    if (!m.is_open || type != ncclUint8 || n == 0 || peer < 0 || peer >= (int)m.n || m.group->n == OPS_MAX ||
        (m.group->stream != NULL && m.group->stream != s))
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
static ncclResult_t group_end(void) {
    if (!m.is_open)
        return ncclInvalidUsage;
    m.is_open = false;
    m.most = m.group->n > m.most ? (uint32_t)m.group->n : m.most;
    if (m.group->n > 0)
        mock_cuda_enqueue(m.group->stream, progress, m.group);
    m.n_busy = 1;
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
        (struct nccl_library){get_version, get_unique_id, comm_init,   async_error, comm_end,     comm_end,  comm_end,
                              send_to,     receive,       group_start, group_end,   error_string, last_error};
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
