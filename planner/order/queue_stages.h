/* Private to planner/: senders' queues of whole flows as stages. */
#ifndef QUEUE_STAGES_H
#define QUEUE_STAGES_H

#include "planner.h"

/* queues[n][n]: destinations of each sender in its order, the first lengths[n] of a row count. Every flow goes into the
 * earliest stage after that of the sender's flow before it in which the receiver is free; where two would take the same
 * one, the flow nearer the head of its queue does, then the lower sender. */
enum mp_status mp_queue_stages(const uint64_t *matrix, const uint32_t *queues, const uint32_t *lengths,
                               struct mp_schedule *out, struct mp_arena *scratch, struct mp_error *err) MP_MUST_CHECK;

#endif
