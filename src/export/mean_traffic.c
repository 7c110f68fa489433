/* The bytes between GPUs that one step, or the mean step, sends in a layer. */
#include "mean_traffic.h"

const char *const export_traffic_names[TRAFFIC_PARTS] = {"dispatch", "combine", "dispatch-inside-nodes",
                                                         "combine-inside-nodes"};

uint32_t export_traffic_parts(const struct mp_export *in) {
    const bool has_second = in->sim->dispatcher->copies == MP_COPY_PER_NODE && mp_topology_n_nodes(in->topology) > 1;
    return has_second ? 4 : 2;
}

static const uint64_t *part_of(const struct mp_traffic *t, uint32_t part) {
    return part == TRAFFIC_DISPATCH          ? t->dispatch
           : part == TRAFFIC_COMBINE         ? t->combine
           : part == TRAFFIC_DISPATCH_INSIDE ? t->dispatch2
                                             : t->combine2;
}

enum mp_status export_mean_traffic(uint64_t *cells[TRAFFIC_PARTS], const struct mp_export *in, uint32_t layer,
                                   struct mp_error *err) {
    const size_t n = in->plan->n_gpus;
    const uint32_t first = in->step == MP_NONE ? 0 : in->step,
                   last = in->step == MP_NONE ? in->workload->n_steps : in->step + 1;
    struct mp_router *router = NULL;
    struct mp_traffic *traffic = NULL;
    enum mp_status status;
    MP_TRY(mp_router_new(&router, in->plan, err));
    MP_TRY(mp_traffic_new(&traffic, in->plan->n_gpus, err));
    const struct mp_cost_setup setup = {.plan = in->plan,
                                        .router = router,
                                        .workload = in->workload,
                                        .topology = in->topology,
                                        .model = in->model,
                                        .dispatcher = in->sim->dispatcher,
                                        .sources = in->sim->sources};
    for (uint32_t s = first; s < last; s++) {
        MP_TRY(mp_traffic_compute(traffic, &setup, s, layer, err));
        for (uint32_t part = 0; part < TRAFFIC_PARTS; part++) {
            const uint64_t *from = part_of(traffic, part);
            for (size_t k = 0; cells[part] != NULL && k < n * n; k++)
                if (mp_add_overflow(cells[part][k], from[k], &cells[part][k]))
                    cells[part][k] = UINT64_MAX;
        }
    }
    const uint64_t n_steps = last - first;
    for (uint32_t part = 0; part < TRAFFIC_PARTS; part++)
        for (size_t k = 0; cells[part] != NULL && k < n * n; k++)
            cells[part][k] = cells[part][k] / n_steps + (cells[part][k] % n_steps * 2 >= n_steps);
out:
    mp_traffic_free(traffic);
    mp_router_free(router);
    return status;
}
