/* What the local ranks of a process do with their blocks between transfers, in parallel. */
#ifndef EXECUTOR_WORK_H
#define EXECUTOR_WORK_H

#include "run.h"

enum ex_task { EX_WORK_PACK, EX_WORK_PASS_ON, EX_WORK_EXPERTS, EX_WORK_GATHER_UP, EX_WORK_CHECK };
struct ex_work {
    const struct ex_transport *transport;
    struct ex_link *link;
    struct ex_world world;
    unsigned n_threads;
    uint8_t **views;      /* [n_local] blocks as this process sees them */
    uint64_t *view_bytes; /* [n_local] */
    uint64_t *counts;     /* [n_local][2] tokens, copies checked */
    uint64_t *rows_ns;    /* [n_local][2] kernels of the layer at hand that pack and pass on; that add up */
    struct ex_payload payload;
    struct ex_pulse pulse;        /* of this process's rank */
    const struct ex_layer *layer; /* the one at hand */
    enum ex_task task;
};
/* For all local ranks; behind it the blocks are as the transport has them. Fails with the pulse's reason when that has
 * failed: what was not worked on may have looked wrong. */
enum mp_status ex_work_all(struct ex_work *w, enum ex_task task, struct mp_error *err) MP_MUST_CHECK;
/* Blocks of at least most[n_local] bytes. */
enum mp_status ex_work_room(struct ex_work *w, const uint64_t *most, struct mp_error *err) MP_MUST_CHECK;

#endif
