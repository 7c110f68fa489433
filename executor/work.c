#include "work.h"

/* A kernel's part of local rank i's work, where the layer has tables of it. */
static enum mp_status move_rows(struct ex_work *x, size_t i, enum ex_rows_kind kind, struct mp_error *err) {
    const uint32_t rank = x->world.first_rank + (uint32_t)i;
    uint64_t ns = 0;
    enum mp_status status = MP_OK;
    if (x->layer->rows != NULL)
        status = x->transport->rows(x->link, rank, &x->layer->rows[rank].tables[kind], &ns, err);
    x->rows_ns[2 * i + (kind >= EX_ROWS_GATHER_UP)] += ns;
    return status;
}

static enum mp_status task(void *ctx, size_t i, unsigned worker, struct mp_error *err) {
    (void)worker;
    struct ex_work *x = ctx;
    const uint32_t rank = x->world.first_rank + (uint32_t)i;
    uint8_t *block = x->views[i];
    enum mp_status status = MP_OK;
    if (x->layer->rows != NULL && (x->task == EX_WORK_PASS_ON || x->task == EX_WORK_GATHER_UP))
        return move_rows(x, i, x->task == EX_WORK_PASS_ON ? EX_ROWS_PASS_ON : EX_ROWS_GATHER_UP, err);
    if (x->task == EX_WORK_CHECK)
        MP_TRY(move_rows(x, i, EX_ROWS_HOME, err));
    if (x->transport->pull != NULL && x->task != EX_WORK_PACK)
        MP_TRY(x->transport->pull(x->link, rank, 0, x->layer->used[rank], err));
    switch (x->task) {
    case EX_WORK_PACK:
        ex_pack(x->layer, &x->payload, rank, block);
        break;
    case EX_WORK_PASS_ON:
        ex_pass_on(x->layer, &x->payload, rank, block);
        break;
    case EX_WORK_EXPERTS:
        status = ex_experts(x->layer, &x->payload, rank, block, &x->counts[2 * i + 1], err);
        break;
    case EX_WORK_GATHER_UP:
        ex_gather_up(x->layer, &x->payload, rank, block);
        break;
    default:
        status = ex_check_home(x->layer, &x->payload, rank, block, &x->counts[2 * i], err);
        break;
    }
    if (status == MP_OK && x->transport->push != NULL && x->task != EX_WORK_CHECK)
        status = x->transport->push(x->link, rank, 0, x->layer->used[rank], err);
    if (status == MP_OK && x->task == EX_WORK_PACK)
        status = move_rows(x, i, EX_ROWS_PACK, err);
out:
    return status;
}

enum mp_status ex_work_all(struct ex_work *x, enum ex_task which, struct mp_error *err) {
    x->task = which;
    enum mp_status status = mp_parallel_for(x->n_threads, x->world.n_local, task, x, err);
    if (x->pulse.status == MP_OK)
        return status;
    if (err != NULL)
        *err = x->pulse.why; /* what was not worked on may have looked wrong */
    return x->pulse.status;
}

enum mp_status ex_work_room(struct ex_work *x, const uint64_t *most, struct mp_error *err) {
    for (uint32_t i = 0; i < x->world.n_local; i++) {
        void *view;
        if (x->views[i] != NULL && most[i] <= x->view_bytes[i])
            continue;
        enum mp_status status = x->transport->alloc(x->link, x->world.first_rank + i, most[i], &view, err);
        if (status != MP_OK)
            return status;
        x->views[i] = view;
        x->view_bytes[i] = most[i];
    }
    return MP_OK;
}
