#include "nccl_sum.h"
#include <signal.h>
#include <stdio.h>
#include <string.h>

enum { NAP_NS = 50000 };

static enum mp_status fail(const struct nccl_sums *x, ncclComm_t comm, ncclResult_t result, const char *doing,
                           struct mp_error *err) {
    return mp_fail(err, result == ncclRemoteError ? MP_EPEER : MP_EIO, "rank %u, %s: NCCL: %s (%.300s)", x->me, doing,
                   x->nccl->GetErrorString(result), x->nccl->GetLastError(comm));
}
#define NCCL_TRY(comm, call, doing)                                                                                    \
    do {                                                                                                               \
        ncclResult_t nccl_result_ = (call);                                                                            \
        if (nccl_result_ != ncclSuccess && nccl_result_ != ncclInProgress) {                                           \
            status = fail(x, comm, nccl_result_, doing, err);                                                          \
            goto out;                                                                                                  \
        }                                                                                                              \
    } while (0)

enum mp_status nccl_sums_open(struct nccl_sums *x, const struct nccl_library *nccl, struct ex_link *control,
                              const struct ex_world *world, struct gpu_block *block, struct mp_error *err) {
    int least, greatest;
    enum mp_status status = MP_OK;
    *x = (struct nccl_sums){.nccl = nccl, .control = control, .world = world, .block = block, .me = world->first_rank};
    GPU_TRY(cudaSetDevice(block->device), "taking a GPU");
    GPU_TRY(cudaDeviceGetStreamPriorityRange(&least, &greatest), "priorities of streams");
    GPU_TRY(cudaStreamCreateWithPriority(&x->stream, cudaStreamNonBlocking, least), "making a stream");
    GPU_TRY(cudaEventCreateWithFlags(&x->done, cudaEventDisableTiming), "making an event");
out:
    return status;
}

/* ---- communicators ---- */

/* Has NCCL taken in what it was told? */
static enum mp_status is_settled(struct nccl_sums *x, ncclComm_t comm, bool *is, struct mp_error *err) {
    ncclResult_t state = ncclSuccess;
    enum mp_status status = MP_OK;
    NCCL_TRY(comm, x->nccl->CommGetAsyncError(comm, &state), "summing gradients");
    if (state != ncclSuccess && state != ncclInProgress)
        return fail(x, comm, state, "summing gradients", err);
    *is = state == ncclSuccess;
out:
    return status;
}

static enum mp_status make_set(struct nccl_sums *x, struct nccl_set *set, uint32_t place, struct mp_error *err) {
    const uint32_t n_ranks = x->world->n_ranks;
    const uint64_t since = gpu_now_ns();
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclUniqueId mine = {0}, *all = mp_calloc(n_ranks, sizeof *all);
    bool is = false;
    enum mp_status status = MP_OK;
    if (all == NULL)
        return mp_nomem(err, "the id of a communicator");
    if (set->members[0] == x->me)
        NCCL_TRY(NULL, x->nccl->GetUniqueId(&mine), "making an id");
    MP_TRY(socket_gather(x->control, &mine, all, sizeof mine, err));
    if (place == MP_NONE)
        goto out;
    config.blocking = 0;
    NCCL_TRY(NULL, x->nccl->CommInitRankConfig(&set->comm, (int)set->n, all[set->members[0]], (int)place, &config),
             "making a communicator for sums");
    while (!is) {
        MP_TRY(is_settled(x, set->comm, &is, err));
        MP_TRY(socket_step(x->control, gpu_now_ns() + NAP_NS, err));
        if (!is && gpu_now_ns() - since > x->world->deadline_ms * 1000000)
            return mp_fail(err, MP_EPEER, "rank %u: a communicator for sums was not made within %llu ms", x->me,
                           (unsigned long long)x->world->deadline_ms);
    }
out:
    mp_free(all);
    return status;
}

static const struct nccl_set *set_of(const struct nccl_sums *x, const struct ex_span *span) {
    for (uint32_t i = 0; i < x->n_sets; i++)
        if (x->sets[i].n == span->n_members &&
            memcmp(x->sets[i].members, span->members, span->n_members * sizeof *span->members) == 0)
            return &x->sets[i];
    return NULL;
}

enum mp_status nccl_sums_prepare(struct nccl_sums *x, uint32_t n_sets, const struct ex_span *sets,
                                 struct mp_error *err) {
    enum mp_status status = MP_OK;
    GPU_TRY(cudaSetDevice(x->block->device), "taking a GPU");
    for (uint32_t i = 0; i < n_sets; i++) {
        if (set_of(x, &sets[i]) != NULL)
            continue;
        if (x->n_sets == NCCL_SETS_MAX)
            return mp_fail(err, MP_EUSAGE,
                           "transport nccl: gradients are summed by more than %d different sets of ranks, which would "
                           "need a communicator each (plan with fewer replicas, or take socket)",
                           NCCL_SETS_MAX);
        struct nccl_set *set = &x->sets[x->n_sets];
        uint32_t place = MP_NONE;
        *set = (struct nccl_set){.n = sets[i].n_members, .members = mp_calloc(sets[i].n_members, sizeof *set->members)};
        if (set->members == NULL)
            return mp_nomem(err, "communicators for sums");
        memcpy(set->members, sets[i].members, set->n * sizeof *set->members);
        x->n_sets++;
        for (uint32_t k = 0; k < set->n; k++)
            place = set->members[k] == x->me ? k : place;
        MP_TRY(make_set(x, set, place, err));
    }
out:
    return status;
}

/* ---- a sum ---- */

static enum mp_status misbehave(struct nccl_sums *x, const struct ex_sum *sum, uint64_t *less, struct mp_error *err) {
    const enum ex_fault_kind kind = x->world->fault.kind;
    enum mp_status status = MP_OK;
    if (!sum->is_struck)
        return MP_OK;
    if (kind == EX_FAULT_KILL)
        (void)raise(SIGKILL);
    *less = kind == EX_FAULT_LIE ? 1 : 0;
    const uint64_t until = gpu_now_ns() + 2 * x->world->deadline_ms * 1000000;
    x->control->is_silent = kind == EX_FAULT_STOP || kind == EX_FAULT_SLOW;
    while (status == MP_OK && x->control->is_silent && (kind == EX_FAULT_STOP || gpu_now_ns() < until))
        status = socket_step(x->control, gpu_now_ns() + 10000000, err); /* ends when the others do */
    x->control->is_silent = false;
    if (status == MP_OK && kind == EX_FAULT_CORRUPT && sum->n_spans > 0) {
        uint8_t byte, *at = x->block->bytes + sum->spans[0].at;
        GPU_TRY(cudaMemcpy(&byte, at, 1, cudaMemcpyDeviceToHost), "a fault");
        byte ^= 1;
        GPU_TRY(cudaMemcpy(at, &byte, 1, cudaMemcpyHostToDevice), "a fault");
    }
out:
    return status;
}

enum mp_status nccl_sums_begin(struct nccl_sums *x, const struct ex_sum *sum, struct mp_error *err) {
    bool is_open = false;
    uint64_t less = 0;
    enum mp_status status = MP_OK;
    x->sum = sum;
    x->is_recorded = false;
    x->since_ns = gpu_now_ns();
    GPU_TRY(cudaSetDevice(x->block->device), "taking a GPU");
    MP_TRY(misbehave(x, sum, &less, err));
    for (size_t i = 0; i < sum->n_spans; i++) {
        const struct ex_span *s = &sum->spans[i];
        const struct nccl_set *set = set_of(x, s);
        uint8_t *at = x->block->bytes + s->at;
        if (set == NULL || set->comm == NULL) {
            status = mp_fail(err, MP_EBUG, "no communicator for a sum of %u ranks", s->n_members);
            goto out;
        }
        if (!is_open)
            NCCL_TRY(set->comm, x->nccl->GroupStart(), "beginning a group of sums");
        is_open = true;
        NCCL_TRY(
            set->comm,
            x->nccl->AllReduce(at, at, s->bytes / 8 - (i == 0 ? less : 0), ncclUint64, ncclSum, set->comm, x->stream),
            "summing gradients");
    }
    if (is_open) {
        is_open = false;
        NCCL_TRY(NULL, x->nccl->GroupEnd(), "ending a group of sums");
    }
out:
    if (is_open)
        (void)x->nccl->GroupEnd();
    return status;
}

enum mp_status nccl_sums_look(struct nccl_sums *x, bool *has_ended, struct mp_error *err) {
    bool is = true;
    char name[112];
    enum mp_status status = MP_OK;
    *has_ended = x->sum == NULL;
    for (uint32_t i = 0; i < x->n_sets && x->sum != NULL && is; i++)
        if (x->sets[i].comm != NULL)
            MP_TRY(is_settled(x, x->sets[i].comm, &is, err));
    if (x->sum == NULL)
        return MP_OK;
    if (is && !x->is_recorded) {
        GPU_TRY(cudaEventRecord(x->done, x->stream), "an event");
        x->is_recorded = true;
    }
    if (x->is_recorded) {
        const cudaError_t error = cudaEventQuery(x->done);
        if (error == cudaSuccess) {
            x->sum = NULL;
            *has_ended = true;
            return MP_OK;
        }
        if (error != cudaErrorNotReady)
            GPU_TRY(error, "summing gradients");
    }
    if (gpu_now_ns() - x->since_ns > x->world->deadline_ms * 1000000)
        status = mp_fail(err, MP_EPEER, "%s: rank %u did not end within %llu ms (are the others alive?)",
                         ex_sum_name(x->sum, name, sizeof name), x->me, (unsigned long long)x->world->deadline_ms);
out:
    return status;
}

void nccl_sums_close(struct nccl_sums *x, bool is_broken) {
    for (uint32_t i = 0; i < x->n_sets; i++) {
        if (x->sets[i].comm != NULL)
            (void)(is_broken ? x->nccl->CommAbort(x->sets[i].comm) : x->nccl->CommDestroy(x->sets[i].comm));
        mp_free(x->sets[i].members);
    }
    x->n_sets = 0;
    if (!is_broken && x->done != NULL)
        (void)cudaEventDestroy(x->done);
    if (!is_broken && x->stream != NULL)
        (void)cudaStreamDestroy(x->stream);
    x->done = NULL;
    x->stream = NULL;
}
