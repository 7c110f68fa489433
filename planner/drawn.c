/* Steps to choose on: drawn from the requests of a part, as many as it takes.
 *
 * Decides   nothing.
 * Minimises -
 * Method    the bootstrap of docs/STEPS.md on the part's requests. A recording of a few hundred requests fills a dozen
 *           steps; what is chosen on those follows their accidents. Drawn steps use the same requests in other company.
 * Bound     -
 * Differs   -
 * Cost      O(rows drawn): at most DRAWN_ROWS, or DRAWN_STEPS_MIN steps where those have more. */
#include "planner.h"
#include <moeplan/base.h>

#define DRAWN_STEPS_MIN 16u
#define DRAWN_STEPS_MAX 256u
#define DRAWN_ROWS (UINT64_C(1) << 19)
#define DRAWN_ROWS_MOST (UINT64_C(1) << 24)

bool mp_can_draw(const struct mp_part *part) {
    if (part == NULL || part->trace->kind != MP_TRACE_TOKENS || part->n < MP_DRAWN_REQUESTS_MIN)
        return false;
    for (uint32_t i = 0; part->homes == NULL && i < part->n; i++)
        if (part->trace->requests[part->members[i]].source != MP_NONE)
            return false; /* drawing forgets where requests come from */
    return true;
}

enum mp_status mp_draw_steps(struct mp_workload **out, const struct mp_part *part, const struct mp_batching *like,
                             uint32_t n_steps, uint64_t seed, struct mp_error *err) {
    struct mp_batching b = *like;
    struct mp_error why = {0};
    const uint64_t each =
        (b.phase == MP_PHASE_DECODE ? (uint64_t)b.batch_per_rank : b.tokens_per_rank) * (uint64_t)b.n_ranks;
    *out = NULL;
    if (each == 0 || each > DRAWN_ROWS_MOST / DRAWN_STEPS_MIN)
        return MP_OK;
    uint64_t n = DRAWN_ROWS / each;
    n = n < DRAWN_STEPS_MIN ? DRAWN_STEPS_MIN : n > DRAWN_STEPS_MAX ? DRAWN_STEPS_MAX : n;
    b.n_steps_max = n < n_steps ? (uint32_t)n : n_steps;
    b.resample = true;
    b.seed = mp_mix64(like->seed ^ mp_mix64(seed));
    enum mp_status status = mp_workload_build(out, part, &b, &why);
    if (status == MP_EINPUT || status == MP_EUSAGE || status == MP_ELIMIT)
        return MP_OK; /* recorded steps will do */
    if (status != MP_OK && err != NULL)
        *err = why;
    return status;
}
