#include "cuda_sum.h"
#include <stddef.h>
#include <string.h>

enum mp_status cuda_sums_open(struct cuda_sums *x, const struct ex_world *world, struct gpu_block *blocks,
                              struct mp_error *err) {
    const uint32_t n = world->n_ranks;
    int least, greatest;
    enum mp_status status = MP_OK;
    *x = (struct cuda_sums){.world = world, .blocks = blocks, .n = n};
    x->streams = mp_calloc(n, sizeof(cudaStream_t));
    x->rings = mp_calloc(n, sizeof(struct ex_ring *));
    x->sums = mp_calloc(n, sizeof(struct ex_sum *));
    x->tables = mp_calloc(n, sizeof(uint8_t *));
    x->in = mp_calloc(n, sizeof(cudaEvent_t *));
    if (x->streams == NULL || x->rings == NULL || x->sums == NULL || x->tables == NULL || x->in == NULL)
        return mp_nomem(err, "sums of gradients");
    for (uint32_t r = 0; r < n; r++) {
        GPU_TRY(cudaSetDevice(blocks[r].device), "taking a GPU");
        GPU_TRY(cudaDeviceGetStreamPriorityRange(&least, &greatest), "priorities of streams");
        GPU_TRY(cudaStreamCreateWithPriority(&x->streams[r], cudaStreamNonBlocking, least), "making a stream");
    }
out:
    return status;
}

static void drop(struct cuda_sums *x) {
    for (uint32_t r = 0; x->rings != NULL && r < x->n; r++) {
        for (size_t i = 0; x->in[r] != NULL && i < x->rings[r]->n_receives; i++)
            if (x->in[r][i] != NULL)
                (void)cudaEventDestroy(x->in[r][i]);
        mp_free(x->in[r]);
        x->in[r] = NULL;
        mp_free(x->tables[r]);
        x->tables[r] = NULL;
        ex_ring_free(x->rings[r]);
        x->rings[r] = NULL;
    }
    x->n_begun = 0;
    x->is_running = false;
}

/* ---- a ring's tables and scratch in the block: a sum and a term for each receive, then what comes to be added ---- */

struct entry {
    struct gpu_row_sum sum;
    struct gpu_row_term term;
};

static uint64_t aligned(uint64_t at) { return (at + EX_ALIGN - 1) / EX_ALIGN * EX_ALIGN; }

/* Where receive i of a rank comes to. */
static uint64_t lands_at(const struct cuda_sums *x, uint32_t rank, size_t i) {
    const struct ex_ring *ring = x->rings[rank];
    uint64_t at = aligned(x->sums[rank]->scratch_at + ring->n_receives * sizeof(struct entry));
    if (!ring->receives[i].adds)
        return ring->receives[i].at;
    for (size_t k = 0; k < i; k++)
        at += ring->receives[k].adds ? ring->receives[k].bytes : 0;
    return at;
}

static enum mp_status make_tables(struct cuda_sums *x, uint32_t rank, struct mp_error *err) {
    const struct ex_ring *ring = x->rings[rank];
    const uint64_t bytes = ring->n_receives * sizeof(struct entry), at = x->sums[rank]->scratch_at;
    enum mp_status status = MP_OK;
    struct entry *entries = mp_calloc(ring->n_receives + 1, sizeof *entries);
    x->tables[rank] = (uint8_t *)entries;
    x->in[rank] = mp_calloc(ring->n_receives + 1, sizeof(cudaEvent_t));
    if (entries == NULL || x->in[rank] == NULL)
        return mp_nomem(err, "sums of gradients");
    if (ring->n_receives > 0) {
        const struct ex_move *last = &ring->receives[ring->n_receives - 1];
        if (lands_at(x, rank, ring->n_receives - 1) + last->bytes > x->blocks[rank].n)
            return mp_fail(err, MP_EBUG, "a sum's scratch does not fit into the block of rank %u", rank);
    }
    GPU_TRY(cudaSetDevice(x->blocks[rank].device), "taking a GPU");
    for (size_t i = 0; i < ring->n_receives; i++) {
        entries[i] = (struct entry){{ring->receives[i].at, 0, 1}, {lands_at(x, rank, i), 1}};
        GPU_TRY(cudaEventCreateWithFlags(&x->in[rank][i], cudaEventDisableTiming), "making an event");
    }
    if (bytes > 0)
        GPU_TRY(cudaMemcpyAsync(x->blocks[rank].bytes + at, entries, bytes, cudaMemcpyHostToDevice, x->streams[rank]),
                "copying tables");
out:
    return status;
}

/* ---- messages into streams, in an order in which whatever is needed was enqueued before ---- */

static size_t next_of(const struct ex_move *moves, size_t n, size_t from, uint32_t peer) {
    while (from < n && moves[from].peer != peer)
        from++;
    return from;
}

static enum mp_status enqueue(struct cuda_sums *x, uint32_t src, size_t send, uint32_t dst, size_t receive,
                              struct mp_error *err) {
    const struct ex_move *s = &x->rings[src]->sends[send], *r = &x->rings[dst]->receives[receive];
    struct gpu_block *from = &x->blocks[src], *to = &x->blocks[dst];
    cudaStream_t stream = x->streams[dst];
    uint8_t *land = to->bytes + lands_at(x, dst, receive);
    enum mp_status status = MP_OK;
    if (s->bytes != r->bytes)
        return mp_fail(err, MP_EPEER, "allreduce: rank %u sends rank %u %llu bytes where %llu were agreed", src, dst,
                       (unsigned long long)s->bytes, (unsigned long long)r->bytes);
    GPU_TRY(cudaSetDevice(to->device), "taking a GPU");
    if (s->needs != MP_NONE)
        GPU_TRY(cudaStreamWaitEvent(stream, x->in[src][s->needs], 0), "waiting for an event");
    if (from->device == to->device)
        GPU_TRY(cudaMemcpyAsync(land, from->bytes + s->at, s->bytes, cudaMemcpyDeviceToDevice, stream),
                "copying inside a GPU");
    else
        GPU_TRY(cudaMemcpyPeerAsync(land, to->device, from->bytes + s->at, from->device, s->bytes, stream),
                "copying between GPUs");
    if (r->adds) {
        const uint8_t *entry = to->bytes + x->sums[dst]->scratch_at + receive * sizeof(struct entry);
        GPU_TRY(
            (cudaError_t)gpu_rows_add(to->bytes, (const struct gpu_row_sum *)(const void *)entry,
                                      (const struct gpu_row_term *)(const void *)(entry + offsetof(struct entry, term)),
                                      1, r->bytes, stream),
            "adding up gradients");
    }
    GPU_TRY(cudaEventRecord(x->in[dst][receive], stream), "an event");
out:
    return status;
}

static enum mp_status enqueue_all(struct cuda_sums *x, struct mp_error *err) {
    const size_t n = x->n, cells = n * n;
    size_t *next = mp_calloc(2 * cells, sizeof *next), n_left = 0, n_moved = 1;
    bool **is_in = mp_calloc(n, sizeof(bool *));
    enum mp_status status = next == NULL || is_in == NULL ? mp_nomem(err, "sums of gradients") : MP_OK;
    for (uint32_t r = 0; r < n && status == MP_OK; r++) {
        n_left += x->rings[r]->n_sends;
        is_in[r] = mp_calloc(x->rings[r]->n_receives + 1, sizeof(bool));
        status = is_in[r] == NULL ? mp_nomem(err, "sums of gradients") : make_tables(x, r, err);
        for (uint32_t k = 0; k < n; k++) {
            next[r * n + k] = next_of(x->rings[r]->sends, x->rings[r]->n_sends, 0, k);
            next[cells + k * n + r] = next_of(x->rings[r]->receives, x->rings[r]->n_receives, 0, k);
        }
    }
    while (n_left > 0 && n_moved > 0 && status == MP_OK) {
        n_moved = 0;
        for (size_t c = 0; c < cells && status == MP_OK; c++) {
            const uint32_t src = (uint32_t)(c / n), dst = (uint32_t)(c % n);
            const struct ex_ring *a = x->rings[src], *b = x->rings[dst];
            while (next[c] < a->n_sends && next[cells + c] < b->n_receives && status == MP_OK &&
                   (a->sends[next[c]].needs == MP_NONE || is_in[src][a->sends[next[c]].needs])) {
                status = enqueue(x, src, next[c], dst, next[cells + c], err);
                is_in[dst][next[cells + c]] = true;
                next[c] = next_of(a->sends, a->n_sends, next[c] + 1, dst);
                next[cells + c] = next_of(b->receives, b->n_receives, next[cells + c] + 1, src);
                n_moved++;
            }
        }
        n_left -= n_moved;
    }
    if (status == MP_OK && n_left > 0)
        status = mp_fail(err, MP_EBUG, "%zu messages of an allreduce wait for each other", n_left);
    for (uint32_t r = 0; is_in != NULL && r < n; r++)
        mp_free(is_in[r]);
    mp_free(is_in);
    mp_free(next);
    return status;
}

/* What a fault does. A rank that says nothing, for whatever reason, ends the others after the deadline. */
static enum mp_status misbehave(struct cuda_sums *x, uint32_t rank, struct mp_error *err) {
    const enum ex_fault_kind kind = x->world->fault.kind;
    struct ex_ring *ring = x->rings[rank];
    const uint64_t since = gpu_now_ns();
    char name[112];
    enum mp_status status = MP_OK;
    if (!x->sums[rank]->is_struck || ring->n_sends == 0)
        return MP_OK;
    if (kind == EX_FAULT_LIE)
        ring->sends[0].bytes -= 8;
    if (kind == EX_FAULT_CORRUPT) {
        uint8_t byte, *at = x->blocks[rank].bytes + ring->sends[0].at;
        GPU_TRY(cudaMemcpy(&byte, at, 1, cudaMemcpyDeviceToHost), "a fault");
        byte ^= 1;
        GPU_TRY(cudaMemcpy(at, &byte, 1, cudaMemcpyHostToDevice), "a fault");
    }
    if (kind != EX_FAULT_STOP && kind != EX_FAULT_KILL && kind != EX_FAULT_SLOW)
        return MP_OK;
    while (gpu_now_ns() - since < x->world->deadline_ms * 1000000)
        gpu_nap(since);
    return mp_fail(err, MP_EPEER, "%s: all waited %llu ms for rank %u, which showed no sign of life",
                   ex_sum_name(x->sums[rank], name, sizeof name), (unsigned long long)x->world->deadline_ms, rank);
out:
    return status;
}

enum mp_status cuda_sums_begin(struct cuda_sums *x, uint32_t rank, const struct ex_sum *sum, struct mp_error *err) {
    enum mp_status status = MP_OK;
    x->sums[rank] = sum;
    MP_TRY(ex_ring_new(&x->rings[rank], sum, rank, x->world->topology, err));
    if (++x->n_begun < x->n)
        return MP_OK;
    for (uint32_t r = 0; r < x->n; r++)
        MP_TRY(misbehave(x, r, err));
    x->since_ns = gpu_now_ns();
    x->is_running = true;
    status = enqueue_all(x, err);
out:
    return status;
}

enum mp_status cuda_sums_look(struct cuda_sums *x, uint32_t rank, bool *has_ended, struct mp_error *err) {
    char name[112];
    *has_ended = x->rings[rank] == NULL;
    for (uint32_t r = 0; x->is_running && r < x->n; r++) {
        const cudaError_t error = cudaStreamQuery(x->streams[r]);
        if (error != cudaSuccess && error != cudaErrorNotReady)
            return gpu_fail(err, error, "summing gradients");
        if (error == cudaSuccess)
            continue;
        if (gpu_now_ns() - x->since_ns > x->world->deadline_ms * 1000000)
            return mp_fail(err, MP_EPEER, "%s: rank %u did not end within %llu ms",
                           ex_sum_name(x->sums[r], name, sizeof name), r, (unsigned long long)x->world->deadline_ms);
        return MP_OK;
    }
    if (x->is_running) {
        drop(x);
        *has_ended = true;
    }
    return MP_OK;
}

enum mp_status cuda_sums_attend(struct cuda_sums *x, uint64_t *next_ns, struct mp_error *err) {
    *next_ns = UINT64_MAX;
    if (x->attend == NULL || x->is_attending)
        return MP_OK;
    x->is_attending = true;
    enum mp_status status = x->attend(x->attend_ctx, gpu_now_ns(), next_ns, err);
    x->is_attending = false;
    return status;
}

void cuda_sums_close(struct cuda_sums *x, bool is_idle) {
    if (is_idle) {
        drop(x);
        for (uint32_t r = 0; x->streams != NULL && r < x->n; r++)
            if (x->streams[r] != NULL)
                (void)cudaStreamDestroy(x->streams[r]);
    } /* else streams may never end, and the process does anyway */
    mp_free(x->streams);
    mp_free(x->rings);
    mp_free(x->sums);
    mp_free(x->tables);
    mp_free(x->in);
    *x = (struct cuda_sums){.n = 0};
}
