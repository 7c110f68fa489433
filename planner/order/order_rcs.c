/* One flow at a time, in random order.
 *
 * Decides   the order of transfers: each sender sends whole flows in a random order of its own.
 * Minimises nothing: the baseline of papers, here as stages that can be executed.
 * Method    destinations ascending, shuffled by one stream, senders ascending (as the simulator's network `rcs`,
 *           which is fair to flows that meet at a receiver where this order makes them wait); then mp_queue_stages.
 * Bound     none; two flows that meet at a receiver cost their sum.
 * Paper     RCS of Aurora, arXiv 2410.17043, part 8.
 * Cost      O(n^2 * (1 + stages / 64)). Deterministic by seed. */
#include "queue_stages.h"

static enum mp_status order(const struct mp_order_problem *in, struct mp_arena *scratch, struct mp_schedule *out,
                            enum mp_outcome *outcome, struct mp_error *err) {
    const size_t n = out->n;
    struct mp_rng rng = mp_rng_seed(in->seed);
    uint32_t *queues = mp_arena_alloc(scratch, n * n, sizeof *queues),
             *lengths = mp_arena_alloc(scratch, n, sizeof *lengths);
    if (queues == NULL || lengths == NULL)
        return mp_nomem(err, "ordering transfers");
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t j = 0; j < n; j++)
            if (j != i && in->matrix[i * n + j] > 0)
                queues[i * n + lengths[i]++] = j;
        mp_rng_shuffle(&rng, queues + i * n, lengths[i]);
    }
    *outcome = MP_FOUND;
    return mp_queue_stages(in->matrix, queues, lengths, out, scratch, err);
}

const struct mp_strategy mp_strategy_order_rcs = {.name = "rcs",
                                                  .summary =
                                                      "each sender one whole flow after another, in random order",
                                                  .reference = "RCS of Aurora, arXiv 2410.17043 part 8",
                                                  .stage = MP_PLAN_ORDER,
                                                  .order = order};
