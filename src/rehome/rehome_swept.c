/* The matching of every layer again, knowing where sequences are before and after it, until nothing gets cheaper: what
 * knowing the whole step buys beyond the next layer. Each layer's matching is exact, so bytes between nodes never grow.
 */
#include "rehome_private.h"

const struct mp_rehome mp_rehome_swept = {
    .name = "swept",
    .summary = "the matching, then every layer again between its neighbours' homes: needs the whole step's routing",
    .reference = NULL,
    .sees_next = true,
    .sweeps = true,
    .solve = match};
