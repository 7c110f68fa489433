/* The order of one traffic matrix against that matrix (docs/VERIFY.md part 6): is it the matrix that the plan names,
 * and what do its ports need, and what does the dispatch take, launches included?
 *
 * Decides   nothing.
 * Method    the port bound, or the relay bound of an order between nodes, in closed form; the verifier's own network.
 * Bound     exact for the bound; 1 ns for each fluid time, and one part in 10^10, for the time.
 * Cost      one dispatch in the slow network, given up past VF_SAMPLE_OPERATIONS. */
#include "internal.h"
#include <string.h>

typedef unsigned __int128 u128;

#define MOST_FLOWS (UINT64_C(1) << 20)  /* of one network: about 128 MB */
#define MOST_QUEUED (UINT64_C(1) << 26) /* entries of its queues' tables, one per queue and stage: 256 MB */

static uint64_t clip(u128 x) { return x > UINT64_MAX ? UINT64_MAX : (uint64_t)x; }

/* The matrix in bytes, as the plan says what its cells count, into d->flows.first. */
static bool fill_flows(struct vf_data *d) {
    struct verifier *v = d->v;
    const struct mp_matrix *m = v->matrix;
    const uint64_t token_bytes = v->plan->provenance.matrix.token_bytes;
    u128 total = 0;
    for (size_t k = 0; k < (size_t)d->n * d->n; k++)
        total += (u128)m->cells[k] * (token_bytes > 0 ? token_bytes : 1);
    if (!vf_expect(v, total <= MP_MAX_MATRIX_BYTES, MP_V_PROVENANCE,
                   "the matrix with %llu bytes a token holds more than 2^53 bytes", ULL(token_bytes)))
        return false;
    for (uint32_t i = 0; i < d->n; i++)
        for (uint32_t j = 0; j < d->n; j++) { /* what a GPU sends to itself needs no network */
            size_t k = (size_t)i * d->n + j;
            d->flows.first[k] = i == j ? 0 : m->cells[k] * (token_bytes > 0 ? token_bytes : 1);
        }
    return true;
}

/* Is that more memory than a gate may take? */
static bool is_too_large(const struct vf_data *d) {
    const struct mp_plan *p = d->v->plan;
    const struct mp_order *order = p->layers[0].order != MP_NONE ? &p->orders[p->layers[0].order] : NULL;
    uint64_t n_pairs = 0, n_transfers = 0;
    for (size_t k = 0; k < (size_t)d->n * d->n; k++)
        n_pairs += d->flows.first[k] > 0;
    for (uint32_t s = 0; order != NULL && !order->between_nodes && s < order->n_stages; s++)
        n_transfers += order->stages[s].n;
    return n_pairs > MOST_FLOWS || n_transfers > MOST_FLOWS ||
           (order != NULL && 2 * (uint64_t)d->n * order->n_stages > MOST_QUEUED);
}

static enum mp_status check_times(struct vf_data *d, struct mp_error *err) {
    struct verifier *v = d->v;
    const struct mp_plan *p = v->plan;
    const bool is_relayed = p->layers[0].order != MP_NONE && p->orders[p->layers[0].order].between_nodes;
    const uint64_t ports = vf_port_bound(d, d->flows.first, 1, false);
    uint64_t bound = is_relayed ? vf_relay_bound(d, d->flows.first, 1, false) : ports, own = 0;
    bool is_done = true;
    bound = ports > 0 ? clip((u128)bound + vf_launch_floor(d)) : 0;
    d->operations_max = v->is_thorough ? UINT64_MAX : VF_SAMPLE_OPERATIONS;
    if (ports > 0 && !v->is_thorough && is_too_large(d))
        is_done = false;
    else if (ports > 0) {
        enum mp_status status = vf_direction_ns(d, false, 1, &own, &is_done, err);
        if (status != MP_OK)
            return status;
        own = own > bound ? own : bound; /* rounding must not pass below what no schedule can */
    }
    v->report->n_steps_simulated = is_done;
    const uint64_t by = vf_fluid_times(d, 0) + own / UINT64_C(10000000000);
    for (uint32_t i = 0; i < p->n_certificates; i++) {
        const struct mp_certificate *c = &p->certificates[i];
        vf_expect(v, c->bound_ns == bound, MP_V_CERTIFICATE,
                  "certificate %u: bound_ns is %llu, and the matrix gives %llu", i, ULL(c->bound_ns), ULL(bound));
        if (is_done)
            vf_expect(v, c->value_ns > own ? c->value_ns - own <= by : own - c->value_ns <= by, MP_V_CERTIFICATE,
                      "certificate %u: value_ns is %llu, and simulating the dispatch gives %llu", i, ULL(c->value_ns),
                      ULL(own));
    }
    return MP_OK;
}

enum mp_status vf_check_matrix(struct verifier *v, struct mp_error *err) {
    struct vf_data d = {.dispatcher = {"matrix", VF_PER_EXPERT, 1, false}};
    enum mp_status status = vf_network_open(&d, v, err);
    if (status == MP_OK && fill_flows(&d))
        status = check_times(&d, err);
    vf_data_close(&d);
    return status;
}
