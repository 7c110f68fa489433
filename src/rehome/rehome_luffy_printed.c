/* Luffy's Algorithm 1 as line 6 is printed: largest growth of attention (algorithm1.c). */
#include "rehome_private.h"

static enum mp_status solve(uint32_t *home, uint64_t *bound, const struct mp_rehome_problem *in,
                            struct mp_arena *scratch, struct mp_error *err) {
    *bound = UINT64_MAX;
    return algorithm1(home, in, true, scratch, err);
}

const struct mp_rehome mp_rehome_luffy_printed = {
    .name = "luffy-printed",
    .summary = "the same with line 6 as printed: that whose attention grows most",
    .reference = "Luffy, arXiv 2411.15419, Algorithm 1 to the letter",
    .solve = solve};
