/* Proves a script safe before anything moves. */
#ifndef EXECUTOR_PROVE_H
#define EXECUTOR_PROVE_H

#include "transport.h"

/* Follows every byte of the flows through the script without moving one:
 *   both ends of a message are in the programs of its two ranks, in the same stage, with the same bytes and in the same
 *   order among those of the pair;
 *   at most `ports` sends and receives of a rank in a stage, widths counted, but in a flush or one shot; sends plus
 *   receives of a rank in a stage within limits->ops_per_stage; ranks within limits->max_ranks;
 *   every range lies in its block, and no byte of a block is written twice;
 *   nothing is read before the stage after the one that wrote it, and where stages have no barrier nothing is passed
 * on; in the end every flow is where it belongs, whole, each byte in its place. MP_EBUG names what is wrong; MP_EUSAGE
 * when only the limits are passed. */
enum mp_status ex_prove(const struct ex_script *s, const struct ex_flows *flows, const uint64_t *block_bytes,
                        const struct ex_limits *limits, struct mp_error *err) MP_MUST_CHECK;

#endif
