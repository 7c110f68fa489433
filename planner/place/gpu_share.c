/* How long each GPU takes for a share of the traffic, where GPUs differ in memory bandwidth, FLOPS, speed and ports.
 * Totals over all steps: a copy with fewer rows than steps is read at most once a row, so decode ranks GPUs by memory
 * bandwidth and prefill by FLOPS. */
#include "gpu_share.h"
#include <moeplan/base.h>

#define NS_MAX (UINT64_C(1) << 58)

typedef unsigned __int128 u128;

static uint64_t clip(u128 x) { return x < NS_MAX ? (uint64_t)x : NS_MAX; }

enum mp_status mp_gpu_shares(struct mp_gpu_share **out, const struct mp_problem *in, struct mp_arena *arena,
                             struct mp_error *err) {
    const struct mp_topology *t = in->topology;
    struct mp_gpu_share *g = mp_arena_alloc(arena, t->n_gpus, sizeof *g);
    *out = g;
    if (g == NULL)
        return mp_nomem(err, "weighing GPUs");
    uint32_t level = 0; /* the outermost that has more than one group below it */
    for (uint32_t l = 1; l < t->n_levels; l++)
        if (t->levels[l - 1].n_groups > 1)
            level = l;
    for (uint32_t i = 0; i < t->n_gpus; i++) {
        const struct mp_gpu *gpu = &t->gpus[i];
        uint64_t tile = t->types[gpu->type].tile_tokens;
        g[i] = (struct mp_gpu_share){.compute = mp_compute_coefficients(t, i, in->model),
                                     .speed_ppm = gpu->speed_ppm > 0 ? gpu->speed_ppm : 1,
                                     .tile = tile > 0 ? tile : 1,
                                     .dispatch_bytes = in->model->dispatch_bytes,
                                     .combine_bytes = in->model->combine_bytes,
                                     .n_gpus = t->n_gpus,
                                     .n_steps = in->workload->n_steps > 0 ? in->workload->n_steps : 1};
        if (gpu->in_port[level] < t->n_resources)
            g[i].in_bytes_per_s = t->resources[gpu->in_port[level]].bytes_per_s;
        if (gpu->out_port[level] < t->n_resources)
            g[i].out_bytes_per_s = t->resources[gpu->out_port[level]].bytes_per_s;
    }
    return MP_OK;
}

struct mp_gpu_load mp_gpu_load_of(const struct mp_gpu_share *g, uint64_t rows) {
    uint64_t reads = rows < g->n_steps ? rows : g->n_steps, padded = mp_ceil_div(rows, g->tile) * g->tile;
    return (struct mp_gpu_load){rows, reads, padded > reads * g->tile ? padded : reads * g->tile};
}

struct mp_gpu_load mp_gpu_load_sum(struct mp_gpu_load a, struct mp_gpu_load b) {
    return (struct mp_gpu_load){a.rows + b.rows, a.reads + b.reads, a.padded + b.padded};
}

static uint64_t wire_ns(const struct mp_gpu_share *g, uint64_t rows, uint64_t bytes, uint64_t rate) {
    u128 remote = (u128)rows * (g->n_gpus - 1) / g->n_gpus;
    return rate > 0 ? clip(remote * bytes * 1000000000 / rate) : 0;
}

void mp_gpu_share_ns(const struct mp_gpu_share *g, struct mp_gpu_load load, uint64_t ns[3]) {
    u128 reads = (u128)g->compute.a_ps * g->n_steps + (u128)g->compute.b_ps * load.reads;
    u128 flops = (u128)g->compute.c_ps * g->n_steps + (u128)g->compute.beta_ps * load.padded;
    u128 ps = reads > flops ? reads : flops;
    ns[0] = wire_ns(g, load.rows, g->dispatch_bytes, g->in_bytes_per_s);
    ns[1] = load.rows == 0 ? 0 : clip(ps * 1000 / g->speed_ppm);
    ns[2] = wire_ns(g, load.rows, g->combine_bytes, g->out_bytes_per_s);
}

uint64_t mp_gpu_share_total_ns(const struct mp_gpu_share *g, struct mp_gpu_load load) {
    uint64_t ns[3];
    mp_gpu_share_ns(g, load, ns);
    return ns[0] + ns[1] + ns[2];
}
