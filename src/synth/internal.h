/* Private to src/synth. */
#ifndef SYNTH_INTERNAL_H
#define SYNTH_INTERNAL_H

#include <moeplan/base.h>
#include <moeplan/synth.h>

/* Popularity of the experts of one layer under one influence, over positions in cluster order: a cluster is a range. */
struct mp_popularity {
    const uint32_t *cumulative; /* [n_experts + 1], cumulative[0] = 0 */
    const uint16_t *guide;      /* [256] position of the draw whose top 8 bits are i */
};
struct mp_synth_layer {
    const uint16_t *expert_at;           /* [n_experts] expert at a position */
    const uint32_t *maps_to;             /* [n_clusters] cluster of the next layer that a cluster leads to */
    struct mp_popularity base, moved;    /* at the first request, at the end of the drift */
    const struct mp_popularity *domains; /* [n_domains] */
};
/* The fixed part of a generator: what all requests share. */
struct mp_synth_world {
    const struct mp_synth_params *params;
    uint32_t n_clusters;
    const struct mp_synth_layer *layers;
};
enum mp_status mp_synth_world_build(struct mp_synth_world *w, const struct mp_synth_params *p, struct mp_arena *arena,
                                    struct mp_error *err) MP_MUST_CHECK;

#endif
