/* NetMoE's matching on this layer's combine and the next one's dispatch (two_stage.c). */
#include "rehome_private.h"

const struct mp_rehome mp_rehome_matching = {
    .name = "matching",
    .summary = "matching, nodes then GPUs, on what this layer's combine and the next one's dispatch send",
    .reference = "NetMoE, ICLR 2025",
    .sees_next = true,
    .solve = match};
