/* Orders between nodes. */
#include "net.h"

enum mp_status net_nodes_staged(struct mp_net *n, const struct mp_order *order, bool is_reversed,
                                const uint64_t *matrix, uint64_t *time_ns, uint64_t *estimate_ns,
                                struct mp_error *err) {
    (void)n, (void)order, (void)is_reversed, (void)matrix;
    if (time_ns != NULL)
        *time_ns = 0;
    if (estimate_ns != NULL)
        *estimate_ns = 0;
    return mp_fail(err, MP_EBUG, "orders between nodes are not simulated yet");
}
