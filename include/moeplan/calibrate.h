/* Calibration: short runs over a transport, and what they say of a topology's figures. docs/EXECUTOR.md part 6. */
#ifndef MOEPLAN_CALIBRATE_H
#define MOEPLAN_CALIBRATE_H

#include <moeplan/executor.h>

MP_API_BEGIN

enum mp_fit_kind { MP_FIT_RATE, MP_FIT_PAIR, MP_FIT_LAUNCH, MP_FIT_STAGE, MP_FIT_INCAST, MP_FIT_COMPUTE };
const char *mp_fit_kind_name(enum mp_fit_kind kind);

struct mp_fit_point {
    double x;             /* bytes through the port, bytes, bytes, stages, flows at once, experts * 2^32 + rows */
    uint64_t measured_ns; /* least of the runs, the slowest rank's */
    double fitted_ns;
};
struct mp_fit {
    enum mp_fit_kind kind;
    char what[160];
    uint32_t level, type; /* of the topology; MP_NONE where it has none */
    bool is_known;        /* else no run could tell, and the topology's figure is kept; note says why */
    bool is_bad;          /* negative, or residual above the threshold; note says which */
    bool is_uplink;
    uint64_t nominal;     /* what the topology said: B/s or ns; 0 = nothing */
    double value;         /* B/s, ns of the line's constant (launch) or slope (stage), least factor (incast) */
    double error;         /* standard error of the value, 0 where there is none */
    double residual;      /* root of the mean square of fitted / measured - 1; of an incast curve, of the factors */
    double a, b, c, beta; /* compute, ns */
    char note[200];
    size_t n_points;
    struct mp_fit_point *points;
};
struct mp_calibration {
    const char *transport;
    uint32_t n_ranks, n_iterations;
    enum mp_stage_mode stage_mode; /* in which stages were timed: what was asked for, or what the transport runs */
    const char *model;             /* of the compute coefficients, or NULL */
    struct mp_topology topology;   /* the one given, which must outlive it, with the figures fitted */
    size_t n_fits, n_bad;
    struct mp_fit *fits;
    struct mp_arena *arena;
};
/* Of `in` topology, transport, n_iterations, n_warmup, deadline_ms, stage_mode, fault and launch are used, and model:
 * NULL = computation is not calibrated. block_bytes: memory of a rank at most. probe_ms: length of the longest runs.
 * Every rank gets the same result. */
enum mp_status mp_calibrate(struct mp_calibration **out, const struct mp_exec *in, uint64_t block_bytes,
                            uint64_t probe_ms, struct mp_error *err) MP_MUST_CHECK;
void mp_calibration_free(struct mp_calibration *c); /* NULL is fine */

/* The topology with comments that say how each figure came about; a table; schema moeplan.calibration. */
void mp_calibration_write_topology(const struct mp_calibration *c, struct mp_out *o);
void mp_calibration_write_text(const struct mp_calibration *c, const struct mp_style *style, struct mp_out *o);
void mp_calibration_write_json(const struct mp_calibration *c, struct mp_out *o);

MP_API_END

#endif
