/* What a plan is and does, as tables for spreadsheets and notebooks: a first line of names, plain numbers in the base
 * units (bytes, ns, rows), GPUs, slots, experts and steps from 0, layers as the model counts them. */
#include "mean_traffic.h"
#include <stdio.h>

enum { FILE_PLACEMENT, FILE_LAYERS, FILE_GPUS, FILE_STEPS, FILE_TRAFFIC, FILE_TIMELINE, N_FILES };

static void file_name(const struct mp_export *in, uint32_t i, char *buf, size_t size) {
    static const char *const names[N_FILES] = {"placement", "layers", "gpus", "steps", "traffic", "timeline"};
    (void)in;
    snprintf(buf, size, "%s.csv", names[i]);
}
static uint32_t n_files(const struct mp_export *in) {
    (void)in;
    return N_FILES;
}

static void put_placement(const struct mp_export *in, struct mp_out *o) {
    const struct mp_plan *p = in->plan;
    mp_out_puts(o, "layer,slot,gpu,node,expert,weight,planning_rows\n");
    for (uint32_t l = 0; l < p->n_layers; l++) {
        const struct mp_plan_layer *layer = &p->layers[l];
        for (uint32_t s = 0; s < p->n_slots; s++) {
            const uint32_t gpu = mp_plan_slot_gpu(p, s), expert = layer->slot_expert[s];
            mp_out_printf(o, "%u,%u,%u,%u,", layer->layer_id, s, gpu, mp_topology_node(in->topology, gpu));
            if (expert == MP_NO_EXPERT) { /* an empty slot */
                mp_out_puts(o, ",,\n");
                continue;
            }
            mp_out_printf(o, "%u,", expert);
            if (layer->slot_weight != NULL)
                mp_out_printf(o, "%u", layer->slot_weight[s]);
            mp_out_puts(o, ",");
            if (layer->expert_rows != NULL)
                mp_out_printf(o, "%llu", (unsigned long long)layer->expert_rows[expert]);
            mp_out_puts(o, "\n");
        }
    }
}

static unsigned long long whole(double v) { return v > 0.0 && v < 1.8e19 ? (unsigned long long)(v + 0.5) : 0; }

static void put_layers(const struct mp_export *in, const struct mp_sim_result *r, struct mp_out *o) {
    const struct mp_plan *p = in->plan;
    mp_out_puts(o, "layer,moe_ns,max_over_mean,order,stages\n");
    for (uint32_t l = 0; l < p->n_layers; l++) {
        const uint32_t order = p->layers[l].order;
        mp_out_printf(o, "%u,%llu,%.6f,%s,%u\n", p->layers[l].layer_id, whole(r->layer_ns[l]), r->layer_imbalance[l],
                      order == MP_NONE ? "concurrent" : "staged", order == MP_NONE ? 1 : p->orders[order].n_stages);
    }
}

static void put_gpus(const struct mp_export *in, const struct mp_sim_result *r, struct mp_out *o) {
    mp_out_puts(o, "layer,gpu,node,rows_per_step\n");
    for (uint32_t l = 0; l < r->n_layers; l++)
        for (uint32_t g = 0; g < r->n_gpus; g++)
            mp_out_printf(o, "%u,%u,%u,%.3f\n", in->plan->layers[l].layer_id, g, mp_topology_node(in->topology, g),
                          r->gpu_rows[(size_t)l * r->n_gpus + g]);
}

static void put_steps(const struct mp_sim_result *r, struct mp_out *o) {
    mp_out_puts(o, "step,step_ns,dispatch_ns,compute_ns,combine_ns,other_ns\n");
    for (uint32_t s = 0; s < r->n_steps; s++) {
        const struct mp_step_times *t = &r->steps[s];
        mp_out_printf(o, "%llu,%llu,%llu,%llu,%llu,%llu\n", (unsigned long long)r->step_of[s],
                      (unsigned long long)t->step_ns, (unsigned long long)t->dispatch_ns,
                      (unsigned long long)t->compute_ns, (unsigned long long)t->combine_ns,
                      (unsigned long long)t->other_ns);
    }
}

static enum mp_status put_traffic(const struct mp_export *in, struct mp_out *o, struct mp_error *err) {
    const size_t n = in->plan->n_gpus;
    enum mp_status status = MP_OK;
    uint64_t *cells[TRAFFIC_PARTS] = {NULL};
    mp_out_puts(o, "layer,direction,source_gpu,destination_gpu,bytes\n");
    for (uint32_t l = 0; l < in->plan->n_layers; l++) {
        for (uint32_t part = 0; part < export_traffic_parts(in); part++) {
            mp_free(cells[part]);
            cells[part] = mp_calloc(n * n, sizeof *cells[part]);
            if (cells[part] == NULL) {
                status = mp_nomem(err, "a matrix");
                goto out;
            }
        }
        MP_TRY(export_mean_traffic(cells, in, l, err));
        for (uint32_t part = 0; part < export_traffic_parts(in); part++)
            for (size_t k = 0; k < n * n; k++)
                if (cells[part][k] > 0)
                    mp_out_printf(o, "%u,%s,%zu,%zu,%llu\n", in->plan->layers[l].layer_id, export_traffic_names[part],
                                  k / n, k % n, (unsigned long long)cells[part][k]);
    }
out:
    for (uint32_t part = 0; part < TRAFFIC_PARTS; part++)
        mp_free(cells[part]);
    return status;
}

static enum mp_status put_timeline(const struct mp_export *in, struct mp_out *o, struct mp_error *err) {
    static const char *const kinds[] = {
        [MP_TIME_ATTENTION] = "attention", [MP_TIME_DENSE] = "dense-attention", [MP_TIME_DISPATCH] = "dispatch",
        [MP_TIME_SHARED] = "shared",       [MP_TIME_EXPERTS] = "experts",       [MP_TIME_COMBINE] = "combine",
        [MP_TIME_OTHER] = "other"};
    const uint32_t step = in->step == MP_NONE ? 0 : in->step;
    struct mp_timeline *t = NULL;
    enum mp_status status = MP_OK;
    MP_TRY(mp_simulate_timeline(&t, in->plan, in->workload, in->topology, in->model, in->sim, step, err));
    mp_out_puts(o, "step,layer,kind,gpu,destination_gpu,stage,inside_nodes,bytes,tokens_or_rows,start_ns,end_ns\n");
    for (size_t k = 0; k < t->n; k++) {
        const struct mp_timeline_event *e = &t->events[k];
        const bool is_transfer = e->peer != MP_NONE;
        mp_out_printf(o, "%u,", step);
        if (e->layer != MP_NONE)
            mp_out_printf(o, "%u", in->plan->layers[e->layer].layer_id);
        mp_out_printf(o, ",%s,", kinds[e->kind]);
        if (e->gpu != MP_NONE) /* without a GPU: the step itself, one part behind the other */
            mp_out_printf(o, "%u", e->gpu);
        mp_out_puts(o, ",");
        if (is_transfer)
            mp_out_printf(o, "%u", e->peer);
        mp_out_puts(o, ",");
        if (e->stage != MP_NONE)
            mp_out_printf(o, "%u", e->stage);
        mp_out_printf(o, ",%d,", e->is_second);
        if (is_transfer)
            mp_out_printf(o, "%llu,", (unsigned long long)e->bytes);
        else if (e->gpu != MP_NONE)
            mp_out_printf(o, ",%llu", (unsigned long long)e->bytes);
        else
            mp_out_puts(o, ",");
        mp_out_printf(o, ",%llu,%llu\n", (unsigned long long)e->start_ns, (unsigned long long)e->end_ns);
    }
out:
    mp_timeline_free(t);
    return status;
}

static enum mp_status prepare(const struct mp_export *in, void **out, struct mp_error *err) {
    struct mp_sim_result *r = NULL;
    enum mp_status status =
        mp_simulate(&r, in->plan, in->workload, in->topology, in->model, in->sim, err); /* NULL when it fails */
    *out = r;
    return status;
}
static void release(void *shared) { mp_sim_result_free(shared); }

static enum mp_status write(const struct mp_export *in, uint32_t i, const char *path, struct mp_out *out,
                            struct mp_out *usage, struct mp_error *err) {
    static const char *const what[N_FILES] = {
        "which expert is in which slot",
        "each layer: mean MoE time of a step, balance, order",
        "rows that each GPU computes in each layer, mean of a step",
        "the times of each step",
        "bytes between GPUs of --step N, else of the mean step",
        "what happens when in --step N, else in the first step",
    };
    mp_out_printf(usage, "# %s: %s\n", path, what[i]);
    switch (i) {
    case FILE_PLACEMENT:
        put_placement(in, out);
        return MP_OK;
    case FILE_LAYERS:
        put_layers(in, in->shared, out);
        return MP_OK;
    case FILE_GPUS:
        put_gpus(in, in->shared, out);
        return MP_OK;
    case FILE_STEPS:
        put_steps(in->shared, out);
        return MP_OK;
    case FILE_TRAFFIC:
        return put_traffic(in, out, err);
    default:
        return put_timeline(in, out, err);
    }
}

const struct mp_exporter mp_exporter_csv = {
    .name = "csv",
    .summary = "tables: placement, layers, loads of GPUs, steps, traffic between GPUs, timeline of --step N",
    .reference = "RFC 4180",
    .n_files = n_files,
    .file_name = file_name,
    .prepare = prepare,
    .release = release,
    .write = write,
};
