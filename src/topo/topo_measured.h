/* Levels and ports from measured bandwidths (and latencies) of all pairs of GPUs. */
#ifndef TOPO_MEASURED_H
#define TOPO_MEASURED_H

#include "topo_draft.h"

/* Two neighbours in the sorted rates are of different levels when the larger is more than this times the smaller; and
 * no pair may deviate by more from what the topology gives it. */
#define MEASURED_GAP 1.25
/* The same for the ports of one level: nearer ones are made equal. */
#define MEASURED_PORT_GAP 1.10
enum { MEASURED_MAX = 1024 };

struct measured {
    uint32_t n;
    double *rate;       /* [n * n], bytes/s from row to column; the diagonal is not read */
    double *latency_ns; /* [n * n], or NULL */
};

/* Fills the draft's levels and GPUs (topo_draft_gpus was called), and says what was found, with the largest deviation
 * of a pair. Refuses, at no position, what no tree with ports gives. */
enum mp_status measured_fit(const struct measured *m, struct topo_draft *d, struct mp_error *err) MP_MUST_CHECK;

#endif
