/* One flow at a time, shortest first.
 *
 * Decides   the order of transfers: each sender sends whole flows by ascending bytes, ties to the lower destination.
 * Minimises nothing: the baseline of papers, here as stages that can be executed.
 * Method    sort, then mp_queue_stages. The simulator's network `sjf` has the same queues of senders, but shares a
 *           receiver fairly where this order makes flows wait.
 * Bound     none; the largest flows all come last and meet.
 * Paper     SJF of Aurora, arXiv 2410.17043, part 8.
 * Cost      O(n^2 * (log n + stages / 64)). */
#include "queue_stages.h"
#include <stdlib.h>

static int shortest_first(const void *a, const void *b, void *row) {
    const uint64_t *bytes = row;
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return bytes[x] != bytes[y] ? (bytes[x] > bytes[y] ? 1 : -1) : (x > y) - (x < y);
}

static enum mp_status order(const struct mp_order_problem *in, struct mp_arena *scratch, struct mp_schedule *out,
                            enum mp_outcome *outcome, struct mp_error *err) {
    const size_t n = out->n;
    uint32_t *queues = mp_arena_alloc(scratch, n * n, sizeof *queues),
             *lengths = mp_arena_alloc(scratch, n, sizeof *lengths);
    uint64_t *row = mp_arena_alloc(scratch, n, sizeof *row);
    if (queues == NULL || lengths == NULL || row == NULL)
        return mp_nomem(err, "ordering transfers");
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t j = 0; j < n; j++) {
            row[j] = in->matrix[i * n + j];
            if (j != i && row[j] > 0)
                queues[i * n + lengths[i]++] = j;
        }
        qsort_r(queues + i * n, lengths[i], sizeof *queues, shortest_first, row);
    }
    *outcome = MP_FOUND;
    return mp_queue_stages(in->matrix, queues, lengths, out, scratch, err);
}

const struct mp_strategy mp_strategy_order_sjf = {.name = "sjf",
                                                  .summary = "each sender one whole flow after another, shortest first",
                                                  .reference = "SJF of Aurora, arXiv 2410.17043 part 8",
                                                  .stage = MP_PLAN_ORDER,
                                                  .order = order};
