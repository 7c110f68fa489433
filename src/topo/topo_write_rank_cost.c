/* A topology as SGLang's rank_cost_matrix: what a byte costs from rank to rank when all ranks send, over what it costs
 * the cheapest pair.
 *
 * Method    cost(i, j) = max over the resources r of the path of users(r) / rate(r), and of 1 / pair rate; users = the
 *           GPUs that have the port, or that are in the group of the uplink. Divided by the smallest.
 * Cost      O(n^2). */
#include "topo_reader.h"
#include <stdio.h>
#include <string.h>

static enum mp_status write_rank_cost(const struct mp_topology *t, struct mp_out *o, char *lost, size_t size,
                                      struct mp_error *err) {
    enum mp_status status = MP_OK;
    double *cost = mp_calloc(t->n_resources, sizeof *cost), best = 0;
    uint64_t fastest = 0, latency_max = 0;
    if (cost == NULL)
        return mp_nomem(err, "writing a topology");
    for (uint32_t g = 0; g < t->n_gpus; g++)
        for (uint32_t l = 0; l < t->n_levels; l++) {
            const struct mp_level *v = &t->levels[l];
            const uint32_t out = t->gpus[g].out_port[l], in = t->gpus[g].in_port[l];
            if (t->resources[out].level == l) { /* counted at its own level only */
                cost[out] += 1;
                cost[in] += 1;
            }
            if (v->uplink_out != NULL) {
                cost[v->uplink_out[t->gpus[g].group[l]]] += 1;
                cost[v->uplink_in[t->gpus[g].group[l]]] += 1;
            }
        }
    for (uint32_t r = 0; r < t->n_resources; r++)
        cost[r] /= (double)t->resources[r].bytes_per_s;
    for (int pass = 0; pass < 2; pass++) {
        if (pass == 1)
            mp_out_puts(o, "{\"rank_cost_matrix\": [");
        for (uint32_t i = 0; i < t->n_gpus; i++) {
            for (uint32_t k = 0; k < t->n_gpus; k++) {
                struct mp_path p;
                double c = 0;
                mp_topology_path(t, i, k, &p);
                for (uint32_t r = 0; r < p.n; r++)
                    c = cost[p.resource[r]] > c ? cost[p.resource[r]] : c;
                if (i != k && p.cap_bytes_per_s > 0 && 1 / (double)p.cap_bytes_per_s > c)
                    c = 1 / (double)p.cap_bytes_per_s;
                if (pass == 0 && i != k && (best == 0 || c < best)) {
                    best = c;
                    fastest = (uint64_t)(1 / c + 0.5);
                }
                latency_max = p.latency_ns > latency_max ? p.latency_ns : latency_max;
                if (pass == 1)
                    mp_out_printf(o, "%s%.9g", k > 0 ? ", " : "[", i == k ? 0 : c / best);
            }
            if (pass == 1)
                mp_out_puts(o, i + 1 < t->n_gpus ? "],\n" : "]");
        }
    }
    mp_out_puts(o, "]}\n");
    snprintf(
        lost, size,
        "rank-cost-matrix: costs are relative: 1 is %.6g GB/s; latencies (up to %llu ns), the launch of a collective "
        "and what the GPUs are (%.60s) are left out\n",
        (double)fastest / 1e9, (unsigned long long)latency_max, t->types[0].name);
    mp_free(cost);
    return status;
}

const struct topo_writer topo_writer_rank_cost = {
    .name = "rank-cost-matrix",
    .summary = "SGLang's rank_cost_matrix (JSON): costs of a byte from rank to rank, the cheapest pair 1",
    .reference = "sgl-project/sglang PR 37923, --eplb-topology",
    .write = write_rank_cost,
};
