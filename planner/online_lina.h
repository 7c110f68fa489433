/* Lina's policies, as online.c knows them. */
#ifndef ONLINE_LINA_H
#define ONLINE_LINA_H

#include <moeplan/strategy.h>

const struct mp_strategy *online_lina_at(uint32_t i); /* NULL past the last */
/* As mp_online_simulate, of a policy of online_lina_at. */
enum mp_status online_lina(struct mp_online_result **out, const struct mp_online_request *in,
                           struct mp_error *err) MP_MUST_CHECK;

#endif
