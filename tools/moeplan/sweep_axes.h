/* What `moeplan sweep` runs over: values of up to four axes, two of them with more than one. */
#ifndef TOOL_SWEEP_AXES_H
#define TOOL_SWEEP_AXES_H

#include "tool.h"

enum { SWEEP_VALUES_MAX = 128, SWEEP_POINTS_MAX = 512 };
enum sweep_axis_id { SWEEP_REDUNDANT, SWEEP_BATCH, SWEEP_GPUS, SWEEP_NODES, SWEEP_AXES };

struct sweep_axis {
    const char *name; /* of the option */
    bool is_given;
    uint32_t n;
    uint64_t value[SWEEP_VALUES_MAX];
};
struct sweep_axes {
    struct sweep_axis axis[SWEEP_AXES];
    enum sweep_axis_id along, family; /* curves run along the one, there is a curve for each value of the other;
                                       * SWEEP_AXES = no family */
};
/* Reads the ranges of the options: FIRST:LAST[:STEP] or A,B,C. MP_EUSAGE: not a range, nothing to sweep, too much. */
enum mp_status sweep_axes_of(struct sweep_axes *out, const struct opts *o, struct mp_error *err) MP_MUST_CHECK;

/* The topology of a point: TOPOLOGY itself, or NODESxGPUS:TYPE where --gpus (in all) or --nodes was given. gpus, nodes:
 * 0 = not given. *is_one false: there is no such cluster, text says why. */
enum mp_status sweep_topology(char *text, size_t size, bool *is_one, const char *topology, uint64_t gpus,
                              uint64_t nodes, struct mp_error *err) MP_MUST_CHECK;

#endif
