/* Time of computation and of a whole step, from docs/COST.md parts 3 and 6. */
#include "internal.h"
#include <string.h>

typedef unsigned __int128 u128;

static uint64_t clip(u128 x) { return x > UINT64_MAX ? UINT64_MAX : (uint64_t)x; }
static u128 ceil_div(u128 a, u128 b) { return a / b + (a % b != 0); }

/* Picoseconds that `amount` takes at peak * efficiency / 10^6 per second. */
static uint64_t ps_of(uint64_t amount, uint64_t peak, uint32_t efficiency_ppm) {
    const u128 scale = (u128)1000000000 * 1000000000; /* 10^12 ps per s, times the 10^6 of ppm */
    u128 rate = (u128)peak * efficiency_ppm;
    return amount == 0 ? 0 : rate == 0 ? UINT64_MAX : clip(ceil_div(amount * scale, rate));
}

static uint64_t flops_of(const struct mp_gpu_type *type, const struct mp_model *m) {
    return m->is_8bit_compute && type->flops_8bit != 0 ? type->flops_8bit : type->flops_16bit;
}

static uint64_t ns_of_ps(u128 ps, uint32_t speed_ppm) {
    if (ps >> 100 != 0)
        return UINT64_MAX;
    return clip(ceil_div(ps * 1000, speed_ppm > 0 ? speed_ppm : 1));
}

struct mp_compute_coefficients vf_coefficients(const struct vf_data *d, uint32_t gpu) {
    const struct mp_gpu_type *type = &d->v->topology->types[d->v->topology->gpus[gpu].type];
    const struct mp_model *m = d->v->model;
    for (uint32_t i = 0; i < type->n_coefficients; i++)
        if (strcmp(type->coefficients[i].model, m->name) == 0)
            return type->coefficients[i];
    uint64_t kernel = clip((u128)1000 * type->kernel_ns);
    return (struct mp_compute_coefficients){
        m->name, kernel, ps_of(m->expert_bytes, type->hbm_bytes_per_s, type->hbm_efficiency_ppm), kernel,
        ps_of(m->expert_flops_per_token, flops_of(type, m), type->flops_efficiency_ppm)};
}

uint64_t vf_expert_ns(const struct vf_data *d, uint32_t gpu, uint64_t active, uint64_t rows) {
    if (active == 0)
        return 0;
    struct mp_compute_coefficients k = vf_coefficients(d, gpu);
    u128 by_weights = (u128)k.b_ps * active + k.a_ps, by_rows = (u128)k.beta_ps * rows + k.c_ps;
    return ns_of_ps(by_weights > by_rows ? by_weights : by_rows, d->v->topology->gpus[gpu].speed_ppm);
}

static uint64_t dense_ns(const struct vf_data *d, uint32_t gpu, uint64_t rows, uint64_t bytes, uint64_t flops) {
    const struct mp_gpu_type *type = &d->v->topology->types[d->v->topology->gpus[gpu].type];
    if (rows == 0 || (bytes == 0 && flops == 0))
        return 0;
    u128 read = ps_of(bytes, type->hbm_bytes_per_s, type->hbm_efficiency_ppm);
    u128 work = (u128)ps_of(flops, flops_of(type, d->v->model), type->flops_efficiency_ppm) * rows;
    return ns_of_ps((u128)1000 * type->kernel_ns + (read > work ? read : work), d->v->topology->gpus[gpu].speed_ppm);
}

uint64_t vf_attention_ns(const struct vf_data *d, uint32_t gpu, uint64_t rows) {
    return dense_ns(d, gpu, rows, d->v->model->attention_bytes, d->v->model->attention_flops_per_token);
}

uint64_t vf_shared_ns(const struct vf_data *d, uint32_t gpu, uint64_t rows) {
    return d->v->model->n_shared_experts == 0
               ? 0
               : dense_ns(d, gpu, rows, d->v->model->shared_bytes, d->v->model->shared_flops_per_token);
}

struct vf_slowest vf_slowest_gpu(const struct vf_data *d) {
    struct vf_slowest most = {0};
    for (uint32_t g = 0; g < d->n; g++) {
        uint64_t attention = vf_attention_ns(d, g, d->flows.source_rows[g]),
                 shared = vf_shared_ns(d, g, d->flows.source_rows[g]);
        uint64_t compute = vf_expert_ns(d, g, d->flows.active[g], d->flows.padded_rows[g]);
        most.attention_ns = attention > most.attention_ns ? attention : most.attention_ns;
        most.shared_ns = shared > most.shared_ns ? shared : most.shared_ns;
        most.compute_ns = compute > most.compute_ns ? compute : most.compute_ns;
    }
    return most;
}

uint64_t vf_layer_weight(const struct vf_data *d, uint32_t layer) {
    const struct mp_model *m = d->v->model;
    return layer == 0 && m->n_hidden_layers > m->n_layers ? 1 + (uint64_t)(m->n_hidden_layers - m->n_layers) : 1;
}

uint64_t vf_fluid_times(const struct vf_data *d, uint32_t layer) {
    const struct mp_plan *p = d->v->plan;
    uint64_t n = d->dispatcher.copies == VF_PER_NODE ? 2 : 1;
    if (p->layers[layer].order != MP_NONE && p->orders[p->layers[layer].order].between_nodes)
        n += p->orders[p->layers[layer].order].n_stages + 1; /* single shots, less the one counted */
    return n;
}

/* One direction of the layer whose flows are in d->flows, phase by phase. */
struct direction {
    const struct mp_order *order; /* NULL = one shot, also where it falls back to that */
    struct mp_order unpaced;
    enum mp_combine way;
    bool is_combine;
    uint64_t bytes, launches_ns;
};

static enum mp_status open_direction(struct direction *x, struct vf_data *d, bool is_combine, uint64_t bytes,
                                     struct mp_error *err) {
    const struct mp_plan_layer *layer = &d->v->plan->layers[d->layer];
    *x = (struct direction){.way = is_combine ? layer->combine : MP_COMBINE_FORWARD,
                            .is_combine = is_combine,
                            .bytes = bytes,
                            .launches_ns = d->dispatcher.n_launches * d->v->topology->launch_ns};
    if (layer->order == MP_NONE)
        return MP_OK;
    x->unpaced = d->v->plan->orders[layer->order];
    if (!d->v->plan->is_paced) /* docs/ORDERS.md part 3 */
        x->unpaced.port_bytes_per_s = 0;
    bool falls_back = false;
    enum mp_status status =
        vf_falls_back(d, &x->unpaced, is_combine, x->way, d->flows.first, x->bytes, &falls_back, err);
    x->order = falls_back ? NULL : &x->unpaced;
    x->launches_ns -= falls_back ? 0 : d->v->topology->launch_ns;
    return status;
}

static enum mp_status first_phase(const struct direction *x, struct vf_data *d, uint64_t *clock, uint64_t *ns,
                                  bool *is_done, struct mp_error *err) {
    uint64_t last = 0;
    enum mp_status status;
    if (x->order == NULL)
        return vf_concurrent_ns(d, d->flows.first, x->bytes, x->is_combine, clock, ns, is_done, err);
    const bool is_apart = x->order->between_nodes || d->v->plan->stage_mode == MP_STAGE_BARRIER;
    if (x->order->between_nodes)
        status = vf_nodes_ns(d, x->order, x->is_combine, x->way, d->flows.first, x->bytes, ns, is_done, err);
    else
        status = vf_staged_ns(d, x->order, x->is_combine, x->way, d->flows.first, x->bytes, is_apart ? NULL : clock, ns,
                              is_done, err);
    for (uint32_t g = 0; clock != NULL && is_apart && g < d->n; g++)
        last = clock[g] > last ? clock[g] : last;
    for (uint32_t g = 0; clock != NULL && is_apart && g < d->n; g++) /* all wait for the last, and go on together */
        clock[g] = last + *ns;
    return status;
}

static enum mp_status second_phase(const struct direction *x, struct vf_data *d, uint64_t *clock, uint64_t *ns,
                                   bool *is_done, struct mp_error *err) {
    *ns = 0;
    if (d->dispatcher.copies != VF_PER_NODE || !*is_done)
        return MP_OK;
    return vf_concurrent_ns(d, d->flows.second, x->bytes, x->is_combine, clock, ns, is_done, err);
}

enum mp_status vf_direction_ns(struct vf_data *d, bool is_combine, uint64_t bytes, uint64_t *out_ns, bool *is_done,
                               struct mp_error *err) {
    struct direction x;
    uint64_t first = 0, second = 0;
    enum mp_status status = MP_OK;
    *out_ns = 0;
    *is_done = true;
    if (d->n < 2)
        return MP_OK;
    MP_TRY(open_direction(&x, d, is_combine, bytes, err));
    MP_TRY(first_phase(&x, d, NULL, &first, is_done, err));
    MP_TRY(second_phase(&x, d, NULL, &second, is_done, err));
    *out_ns = clip((d->dispatcher.is_overlapped ? (u128)(first > second ? first : second) : (u128)first + second) +
                   x.launches_ns);
out:
    return status;
}

/* The same for GPUs that come at their own times, [n] of clock; other[n] is scratch. */
static enum mp_status move_clocks(struct vf_data *d, bool is_combine, uint64_t *clock, uint64_t *other, bool *is_done,
                                  struct mp_error *err) {
    struct direction x;
    uint64_t unused;
    enum mp_status status = MP_OK;
    *is_done = true;
    if (d->n < 2)
        return MP_OK;
    MP_TRY(
        open_direction(&x, d, is_combine, is_combine ? d->v->model->combine_bytes : d->v->model->dispatch_bytes, err));
    for (uint32_t g = 0; g < d->n; g++)
        clock[g] += x.launches_ns;
    memcpy(other, clock, d->n * sizeof *other);
    if (!d->dispatcher.is_overlapped && is_combine) /* the fan-in inside nodes comes first */
        MP_TRY(second_phase(&x, d, clock, &unused, is_done, err));
    if (*is_done)
        MP_TRY(first_phase(&x, d, clock, &unused, is_done, err));
    if (!d->dispatcher.is_overlapped && !is_combine)
        MP_TRY(second_phase(&x, d, clock, &unused, is_done, err));
    if (d->dispatcher.is_overlapped) {
        MP_TRY(second_phase(&x, d, other, &unused, is_done, err));
        for (uint32_t g = 0; g < d->n; g++)
            clock[g] = other[g] > clock[g] ? other[g] : clock[g];
    }
out:
    return status;
}

enum mp_status vf_pipelined_step(struct vf_data *d, uint32_t step, uint64_t *out_ns, bool *is_done,
                                 struct mp_error *err) {
    enum mp_status status = MP_OK;
    uint64_t *at = mp_calloc(3 * (size_t)d->n, sizeof *at), last = 0;
    *is_done = true;
    *out_ns = 0;
    if (at == NULL)
        return mp_nomem(err, "verifying a plan");
    uint64_t *shared = at + d->n, *other = at + 2 * (size_t)d->n;
    for (uint32_t l = 0; l < d->v->plan->n_layers && *is_done; l++) {
        MP_TRY(vf_prepare_layer(d, l, err));
        MP_TRY(vf_flows_of_step(d, step, err));
        for (uint32_t g = 0; g < d->n; g++) {
            at[g] += vf_attention_ns(d, g, d->flows.source_rows[g]) * vf_layer_weight(d, l);
            shared[g] = at[g] + vf_shared_ns(d, g, d->flows.source_rows[g]);
        }
        MP_TRY(move_clocks(d, false, at, other, is_done, err));
        for (uint32_t g = 0; g < d->n; g++) {
            at[g] = at[g] > shared[g] ? at[g] : shared[g];
            at[g] += vf_expert_ns(d, g, d->flows.active[g], d->flows.padded_rows[g]);
        }
        if (*is_done)
            MP_TRY(move_clocks(d, true, at, other, is_done, err));
    }
    for (uint32_t g = 0; g < d->n; g++)
        last = at[g] > last ? at[g] : last;
    *out_ns = last + d->v->model->other_ns_per_step;
out:
    mp_free(at);
    return status;
}

enum mp_status vf_time_of_step(struct vf_data *d, uint32_t step, struct mp_plan_sample *out, bool *is_done,
                               struct mp_error *err) {
    enum mp_status status = MP_OK;
    *out = (struct mp_plan_sample){.step = step, .step_ns = d->v->model->other_ns_per_step};
    uint64_t before = d->n_operations, n_layers = d->v->plan->n_layers;
    *is_done = before < d->operations_max;
    for (uint32_t l = 0; l < n_layers && *is_done; l++) {
        /* When the first layer says that the whole step will be too much, the rest is not begun. */
        if (l == 1 && (d->n_operations - before) * n_layers > d->operations_max - before) {
            *is_done = false;
            break;
        }
        uint64_t dispatch = 0, combine = 0;
        bool is_combine_done = false;
        MP_TRY(vf_prepare_layer(d, l, err));
        MP_TRY(vf_flows_of_step(d, step, err));
        MP_TRY(vf_direction_ns(d, false, d->v->model->dispatch_bytes, &dispatch, is_done, err));
        if (!*is_done)
            break;
        MP_TRY(vf_direction_ns(d, true, d->v->model->combine_bytes, &combine, &is_combine_done, err));
        *is_done = is_combine_done;
        struct vf_slowest most = vf_slowest_gpu(d);
        out->dispatch_ns += dispatch;
        out->compute_ns += most.compute_ns;
        out->combine_ns += combine;
        out->step_ns += most.attention_ns * vf_layer_weight(d, l) + dispatch + most.compute_ns + combine +
                        (most.shared_ns > dispatch ? most.shared_ns - dispatch : 0);
    }
out:
    return status;
}
