/* What the ways of making a script share. */
#ifndef EXECUTOR_SCRIPT_PRIVATE_H
#define EXECUTOR_SCRIPT_PRIVATE_H

#include "script.h"

/* Takes `bytes` of a block, from an aligned offset on. False when a block has no such offset. */
bool script_take(uint64_t *used, uint64_t bytes, uint64_t *at);
/* Appends a message; one of 0 bytes does not exist. */
enum mp_status script_add(struct ex_script *s, size_t *n_allocated, struct ex_message m,
                          struct mp_error *err) MP_MUST_CHECK;
/* An order between nodes (script_nodes.c). */
enum mp_status script_nodes(struct ex_script *s, const struct ex_script_request *q, struct mp_error *err) MP_MUST_CHECK;

#endif
