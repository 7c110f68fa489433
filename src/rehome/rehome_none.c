/* Sequences stay where batching put them.
 * Decides nothing. Minimises nothing. Method: none. Bound: none. Differs: it is what data parallelism does. Cost O(1).
 */
#include "rehome_private.h"

const struct mp_rehome mp_rehome_none = {
    .name = "none", .summary = "sequences stay where batching put them", .reference = NULL};
