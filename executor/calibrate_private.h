/* What the parts of calibration share. */
#ifndef EXECUTOR_CALIBRATE_PRIVATE_H
#define EXECUTOR_CALIBRATE_PRIVATE_H

#include "fit.h"
#include "probe.h"
#include "run.h"
#include <moeplan/calibrate.h>

#define RESIDUAL_MAX 0.10 /* a fit that is further off is called bad */

struct calibration {
    const struct mp_exec *in;
    const struct ex_transport *transport;
    struct ex_link *link;
    struct ex_world world;
    uint64_t block_bytes, probe_ns;
    uint32_t n_probes;
    struct ex_probe *probes; /* all that ran: transports may hold on to scripts */
    uint64_t *mine, *all;    /* [n_local], [n_ranks] */
    struct mp_calibration *c;
    size_t n_fits_allocated;
};

/* mp_calibrate over a transport that need not be built in. */
enum mp_status ex_calibrate(struct mp_calibration **out, const struct mp_exec *in, const struct ex_transport *transport,
                            uint64_t block_bytes, uint64_t probe_ms, struct mp_error *err) MP_MUST_CHECK;
enum mp_status calibrate_new_fit(struct calibration *x, struct mp_fit **out, enum mp_fit_kind kind, uint32_t level,
                                 size_t n_points, struct mp_error *err) MP_MUST_CHECK;
/* x->mine of all ranks to x->all. */
enum mp_status calibrate_gather(struct calibration *x, struct mp_error *err) MP_MUST_CHECK;
void calibrate_remark(struct mp_fit *f, bool is_bad, const char *fmt, ...) MP_PRINTF(3, 4);
void calibrate_judge(struct mp_fit *f); /* by its residual */

/* Coefficients of every GPU type for x->in->model, into the topology. calibrate_compute.c */
enum mp_status calibrate_compute(struct calibration *x, struct mp_error *err) MP_MUST_CHECK;

#endif
