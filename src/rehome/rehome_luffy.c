/* Luffy's Algorithm 1 as its prose means it: least growth of attention (algorithm1.c). */
#include "rehome_private.h"

static enum mp_status solve(uint32_t *home, uint64_t *bound, const struct mp_rehome_problem *in,
                            struct mp_arena *scratch, struct mp_error *err) {
    *bound = UINT64_MAX;
    return algorithm1(home, in, false, scratch, err);
}

const struct mp_rehome mp_rehome_luffy = {
    .name = "luffy",
    .summary = "of the q GPUs with most of a sequence's outputs, that whose attention grows least",
    .reference = "Luffy, arXiv 2411.15419, Algorithm 1 as its prose has it",
    .solve = solve};
