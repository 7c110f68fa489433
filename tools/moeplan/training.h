/* Training steps of a plan, for simulate: how long they take under each policy. */
#ifndef TOOL_TRAINING_H
#define TOOL_TRAINING_H

#include "score.h"

struct training;
/* Every named policy and the searched one on up to 16 of the scored steps: the searched one is chosen on every other of
 * them, and all are scored on the rest (on all, where there are fewer than two). *out is NULL unless the phase is
 * train. */
enum mp_status training_run(struct training **out, const struct setup *s, const struct score *score,
                            struct mp_error *err) MP_MUST_CHECK;
void training_text(const struct training *t, struct mp_out *o);
json_t *training_json(const struct training *t); /* an array; NULL = out of memory */
void training_free(struct training *t);

#endif
