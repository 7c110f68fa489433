/* Faults made on purpose, so that tests see each one caught: `KIND@STEP/LAYER/STAGE[/RANK]`. STEP counts executed
 * steps, LAYER the plan's layers, STAGE the stages of the dispatch as run; RANK (0) is who misbehaves. `sum-KIND@...`:
 * in chunk STAGE of the gradients of this layer (corrupt, stop, kill, lie, slow). */
#ifndef EXECUTOR_FAULT_H
#define EXECUTOR_FAULT_H

#include "script.h"

enum ex_fault_kind {
    EX_FAULT_NONE,
    EX_FAULT_CORRUPT, /* one bit of the first message that the rank sends in the stage is flipped on its way */
    EX_FAULT_SWAP, /* the rank sends in the place of one message what belongs into another, and the other way round */
    EX_FAULT_DROP, /* all ranks leave the stage out and go on as if it had run */
    EX_FAULT_STOP, /* the rank stops at the stage and says nothing; it ends when the others do */
    EX_FAULT_KILL, /* the rank is gone at the stage: SIGKILL for a process, its thread ends for a thread */
    EX_FAULT_LIE,  /* the rank sends one byte less than was agreed, or one more where that is none */
    EX_FAULT_SLOW  /* the rank pauses at the stage for twice the deadline */
};
struct ex_fault {
    enum ex_fault_kind kind;
    uint32_t step, layer, stage, rank;
    bool is_of_sums;
};
enum mp_status ex_fault_parse(struct ex_fault *out, const char *text, struct mp_error *err) MP_MUST_CHECK;
/* Does the fault strike this rank in this stage of the script? (DROP strikes every rank.) */
bool ex_fault_strikes(const struct ex_fault *f, const struct ex_script *s, uint32_t stage, uint32_t rank);
/* The sends of a rank as it will wrongly carry them out: a copy of its sends with SWAP, DROP (bytes 0: leave it out) or
 * LIE done to it; NULL in *out where nothing changes. DROP: receives of 0 bytes are the transport's to leave out too:
 * ex_fault_strikes says so. Freed with mp_free. */
enum mp_status ex_fault_sends(struct ex_end **out, const struct ex_fault *f, const struct ex_script *s, uint32_t rank,
                              struct mp_error *err) MP_MUST_CHECK;

#endif
