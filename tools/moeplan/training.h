/* Training steps of plans: which policy a plan carries, and how long its steps take under each. docs/TRAINING.md. */
#ifndef TOOL_TRAINING_H
#define TOOL_TRAINING_H

#include "score.h"
#include <moeplan/train.h>

/* --packing: how many experts of each layer on a GPU, on up to 16 planning steps. NOT_FOUND: err says why. */
enum mp_status training_pack(struct mp_train_packed *out, const struct setup *s, enum mp_outcome *outcome,
                             struct mp_error *err) MP_MUST_CHECK;

/* Fills in the plan's training section: the policy of that name, or the searched one, whose mean step over up to 16
 * planning steps is never above that of a named one; and has the verifier accept it. Without a name (NULL) the searched
 * one, and where training steps cannot be told (coupled sources) none. packed: what training_pack chose for this plan,
 * or NULL. Nothing unless the phase is train. */
enum mp_status training_choose(struct mp_plan *plan, const struct setup *s, const char *policy,
                               const struct mp_train_packed *packed, struct mp_error *err) MP_MUST_CHECK;

/* MP_EUSAGE for options that say something of training steps where these are others. Behind s->batching. */
enum mp_status training_check(const struct setup *s, struct mp_error *err) MP_MUST_CHECK;

struct training;
/* Every named policy, the searched one and the plan's own on up to 16 of the scored steps: the searched one is chosen
 * on every other of them, and all are scored on the rest (on all, where there are fewer than two). *out is NULL unless
 * the phase is train. path: of the plan, for errors. */
enum mp_status training_run(struct training **out, const struct setup *s, const struct score *score, const char *path,
                            struct mp_error *err) MP_MUST_CHECK;
/* For compare: every plan under the policy that training_choose gives it, on up to 16 of the scored steps. base: index,
 * or MP_NONE. *out is NULL unless the phase is train. */
enum mp_status training_compare(struct training **out, const struct setup *s, const struct score *scores, uint32_t n,
                                uint32_t base, struct mp_error *err) MP_MUST_CHECK;
void training_text(const struct training *t, const struct mp_style *style, struct mp_out *o);
/* The section of a plan in a line: "training: searched, ...". buf of at least 200. */
const char *training_describe(const struct mp_plan *plan, char *buf, size_t size);
json_t *training_section_json(const struct mp_plan *plan); /* null where it has none */
json_t *training_json(const struct training *t);           /* an array; NULL = out of memory */
void training_free(struct training *t);

#endif
