/* Orders: every ordered pair's shares sum to the unit exactly, no GPU drives or takes more transfers in a stage than it
 * has ports, nobody sends to itself, and capped rates fit through every port of the topology at once. */
#include "internal.h"
#include <string.h>

struct order_scratch {
    uint64_t *share;         /* [n][n] sum of shares of each ordered pair */
    uint32_t *sends, *takes; /* [n] in the stage at hand */
    uint64_t *rate;          /* [n_resources] bytes/s in the stage at hand, or NULL without a topology */
};

static bool is_after(const struct mp_transfer *a, const struct mp_transfer *b) {
    return b->src > a->src || (b->src == a->src && b->dst > a->dst);
}

static void check_rates(struct verifier *v, uint32_t o, uint32_t s, struct order_scratch *x) {
    const struct mp_order *order = &v->plan->orders[o];
    const struct mp_topology *t = v->topology;
    memset(x->rate, 0, t->n_resources * sizeof *x->rate);
    for (uint32_t i = 0; i < order->stages[s].n; i++) {
        const struct mp_transfer *f = &order->stages[s].transfers[i];
        struct mp_path path;
        if (f->src == f->dst)
            continue;
        mp_topology_path(t, f->src, f->dst, &path);
        for (uint32_t k = 0; k < path.n; k++)
            if (mp_add_overflow(x->rate[path.resource[k]], order->port_bytes_per_s, &x->rate[path.resource[k]]))
                x->rate[path.resource[k]] = UINT64_MAX;
    }
    for (uint32_t r = 0; r < t->n_resources; r++)
        vf_expect(v, x->rate[r] <= t->resources[r].bytes_per_s, MP_V_ORDER_RATE,
                  "order %u stage %u: %llu bytes/s through the %s port of level %u at GPU %u, which has %llu", o, s,
                  ULL(x->rate[r]), t->resources[r].is_in ? "in" : "out", t->resources[r].level,
                  t->resources[r].first_gpu, ULL(t->resources[r].bytes_per_s));
}

static void check_stage(struct verifier *v, uint32_t o, uint32_t s, struct order_scratch *x) {
    const struct mp_plan *p = v->plan;
    const struct mp_order *order = &p->orders[o];
    const struct mp_stage *stage = &order->stages[s];
    memset(x->sends, 0, p->n_gpus * sizeof *x->sends);
    memset(x->takes, 0, p->n_gpus * sizeof *x->takes);
    bool is_in_range = true;
    for (uint32_t i = 0; i < stage->n; i++) {
        const struct mp_transfer *t = &stage->transfers[i];
        if (!vf_expect(v, t->src < p->n_gpus && t->dst < p->n_gpus, MP_V_SHAPE,
                       "order %u stage %u: transfer %u>%u, and there are %u GPUs", o, s, t->src, t->dst, p->n_gpus)) {
            is_in_range = false;
            continue;
        }
        vf_expect(v, t->src != t->dst, MP_V_ORDER_SELF, "order %u stage %u: GPU %u sends to itself", o, s, t->src);
        vf_expect(v, t->share > 0, MP_V_ORDER_SHARE, "order %u stage %u: transfer %u>%u has share 0 of %u", o, s,
                  t->src, t->dst, order->unit);
        vf_expect(v, i == 0 || is_after(t - 1, t), MP_V_ORDER_SHARE,
                  "order %u stage %u: transfer %u>%u is listed after %u>%u", o, s, t->src, t->dst,
                  i > 0 ? t[-1].src : 0, i > 0 ? t[-1].dst : 0);
        x->share[(size_t)t->src * p->n_gpus + t->dst] += t->share;
        x->sends[t->src]++;
        x->takes[t->dst]++;
    }
    for (uint32_t g = 0; g < p->n_gpus; g++) {
        vf_expect(v, x->sends[g] <= order->ports, MP_V_ORDER_PORT,
                  "order %u stage %u: GPU %u sends %u transfers on %u ports", o, s, g, x->sends[g], order->ports);
        vf_expect(v, x->takes[g] <= order->ports, MP_V_ORDER_PORT,
                  "order %u stage %u: GPU %u receives %u transfers on %u ports", o, s, g, x->takes[g], order->ports);
    }
    if (x->rate != NULL && order->port_bytes_per_s > 0 && is_in_range)
        check_rates(v, o, s, x);
}

enum mp_status vf_check_orders(struct verifier *v, struct mp_error *err) {
    const struct mp_plan *p = v->plan;
    if (p->n_orders == 0)
        return MP_OK;
    size_t n = p->n_gpus;
    bool has_rates = v->topology != NULL && v->topology->n_gpus == p->n_gpus;
    struct order_scratch x = {.share = mp_calloc(n * n, sizeof *x.share),
                              .sends = mp_calloc(n, sizeof *x.sends),
                              .takes = mp_calloc(n, sizeof *x.takes),
                              .rate = has_rates ? mp_calloc(v->topology->n_resources, sizeof *x.rate) : NULL};
    enum mp_status status = MP_OK;
    if (x.share == NULL || x.sends == NULL || x.takes == NULL || (has_rates && x.rate == NULL)) {
        status = mp_nomem(err, "verifying a plan");
        goto out;
    }
    for (uint32_t o = 0; o < p->n_orders; o++) {
        const struct mp_order *order = &p->orders[o];
        vf_expect(v, order->unit > 0 && order->ports > 0, MP_V_ORDER_SHARE, "order %u: unit %u, %u ports", o,
                  order->unit, order->ports);
        vf_expect(v, order->ports <= 1 || order->port_bytes_per_s > 0, MP_V_ORDER_RATE,
                  "order %u: %u ports per GPU and no rate cap", o, order->ports);
        memset(x.share, 0, n * n * sizeof *x.share);
        for (uint32_t s = 0; s < order->n_stages; s++)
            check_stage(v, o, s, &x);
        for (uint32_t i = 0; i < p->n_gpus; i++)
            for (uint32_t j = 0; j < p->n_gpus; j++)
                vf_expect(v, i == j || x.share[i * n + j] == order->unit, MP_V_ORDER_SHARE,
                          "order %u: the shares of %u>%u sum to %llu of %u", o, i, j, ULL(x.share[i * n + j]),
                          order->unit);
    }
out:
    mp_free(x.share);
    mp_free(x.sends);
    mp_free(x.takes);
    mp_free(x.rate);
    return status;
}
