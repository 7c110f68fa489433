/* Private to planner/: how long each GPU takes for a share of the traffic summed over all steps, where GPUs differ. */
#ifndef GPU_SHARE_H
#define GPU_SHARE_H

#include "planner.h"

struct mp_gpu_share { /* of one GPU */
    struct mp_compute_coefficients compute;
    uint64_t speed_ppm, tile;
    uint64_t in_bytes_per_s, out_bytes_per_s; /* of the outermost level that is used; 0 = no network */
    uint64_t dispatch_bytes, combine_bytes;   /* of a row that comes from elsewhere */
    uint32_t n_gpus, n_steps;
};
/* [n_gpus], in `arena`. */
enum mp_status mp_gpu_shares(struct mp_gpu_share **out, const struct mp_problem *in, struct mp_arena *arena,
                             struct mp_error *err) MP_MUST_CHECK;
/* What experts of these rows ask of a GPU: add up over its copies. */
struct mp_gpu_load {
    uint64_t rows, reads, padded; /* reads: steps in which a copy has rows, at most */
};
struct mp_gpu_load mp_gpu_load_of(const struct mp_gpu_share *g, uint64_t rows);
struct mp_gpu_load mp_gpu_load_sum(struct mp_gpu_load a, struct mp_gpu_load b);
/* ns over all steps: [0] dispatch, [1] experts, [2] combine; each stops at 2^58. */
void mp_gpu_share_ns(const struct mp_gpu_share *g, struct mp_gpu_load load, uint64_t ns[3]);
uint64_t mp_gpu_share_total_ns(const struct mp_gpu_share *g, struct mp_gpu_load load);

#endif
