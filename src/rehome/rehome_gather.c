/* Matching on this layer's combine alone: needs no forecast of the next layer (two_stage.c). */
#include "rehome_private.h"

const struct mp_rehome mp_rehome_gather = {
    .name = "gather",
    .summary = "matching on what this layer's combine sends: nothing of the next layer need be known",
    .reference = NULL,
    .solve = match};
