/* Senders' queues as stages.
 *
 * Decides   the stage of each flow, given each sender's order.
 * Method    the k-th flows of all senders, senders ascending, then the (k + 1)-th: first stage past the sender's
 *           last one in which the receiver is idle.
 * Bound     none: a queue may wait at each of its receivers. About 2 * n stages are seen where n^2 are possible.
 * Cost      O(flows * stages / 64). */
#include "queue_stages.h"
#include <string.h>

struct receivers {
    uint32_t n, n_words; /* words of stages per receiver */
    uint64_t *busy;      /* [n][n_words] */
};

static bool widen(struct receivers *r) {
    uint32_t words = 2 * r->n_words;
    uint64_t *busy = mp_calloc((size_t)r->n * words, sizeof *busy);
    if (busy == NULL)
        return false;
    for (uint32_t j = 0; j < r->n; j++)
        memcpy(busy + (size_t)j * words, r->busy + (size_t)j * r->n_words, r->n_words * sizeof *busy);
    mp_free(r->busy);
    r->busy = busy;
    r->n_words = words;
    return true;
}

/* First stage from `from` on in which j is idle, taken for it; MP_NONE = no memory. */
static uint32_t take_stage(struct receivers *r, uint32_t j, uint32_t from) {
    for (uint32_t w = from / 64;; w++) {
        if (w >= r->n_words && !widen(r))
            return MP_NONE;
        uint64_t *busy = r->busy + (size_t)j * r->n_words;
        uint64_t idle = ~busy[w] & (w == from / 64 ? UINT64_MAX << from % 64 : UINT64_MAX);
        if (idle == 0)
            continue;
        busy[w] |= idle & -idle;
        return w * 64 + (uint32_t)__builtin_ctzll(idle);
    }
}

enum mp_status mp_queue_stages(const uint64_t *matrix, const uint32_t *queues, const uint32_t *lengths,
                               struct mp_schedule *out, struct mp_arena *scratch, struct mp_error *err) {
    const size_t n = out->n;
    enum mp_status status = MP_OK;
    uint32_t n_stages = 0;
    struct receivers r = {.n = out->n, .n_words = out->n / 32 + 1};
    uint32_t *stage = mp_arena_alloc(scratch, n * n, sizeof *stage); /* of each flow, as queues */
    uint32_t *next = mp_arena_alloc(scratch, n, sizeof *next);       /* first stage each sender may use */
    r.busy = mp_calloc(n * r.n_words, sizeof *r.busy);
    if (stage == NULL || next == NULL || r.busy == NULL) {
        status = mp_nomem(err, "ordering transfers");
        goto out;
    }
    for (uint32_t k = 0; k < n; k++)
        for (uint32_t i = 0; i < n; i++) {
            if (k >= lengths[i])
                continue;
            uint32_t s = take_stage(&r, queues[i * n + k], next[i]);
            if (s == MP_NONE) {
                status = mp_nomem(err, "ordering transfers");
                goto out;
            }
            stage[i * n + k] = s;
            next[i] = s + 1;
            n_stages = s + 1 > n_stages ? s + 1 : n_stages;
        }
    memset(next, 0, n * sizeof *next); /* now the flow of each sender that comes next */
    for (uint32_t s = 0; s < n_stages; s++) {
        MP_TRY(mp_schedule_stage(out, err));
        for (uint32_t i = 0; i < n; i++) {
            const size_t at = i * n + next[i];
            if (next[i] == lengths[i] || stage[at] != s)
                continue;
            MP_TRY(mp_schedule_add(out, i, queues[at], 1, matrix[i * n + queues[at]], err));
            next[i]++;
        }
    }
out:
    mp_free(r.busy);
    return status;
}
