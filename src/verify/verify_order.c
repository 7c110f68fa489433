/* Orders (docs/ORDERS.md): every ordered pair's shares sum to the unit exactly, no end drives or takes more sub-ports
 * in a stage than it has, nobody sends to itself, capped rates fit through every port of the topology at once, a flush
 * is the last stage and nothing but what is left, and orders between nodes neither pace nor flush. */
#include "internal.h"
#include <string.h>

struct order_scratch {
    uint64_t *share;         /* [n][n] sum of shares of each ordered pair */
    uint64_t *sends, *takes; /* [n] widths in the stage at hand */
    uint64_t *rate;          /* [n_resources] bytes/s in the stage at hand, or NULL without a topology */
};

static bool is_after(const struct mp_transfer *a, const struct mp_transfer *b) {
    return b->src > a->src || (b->src == a->src && b->dst > a->dst);
}

/* What the ends of an order are called in messages. */
static const char *end_name(const struct mp_order *order) { return order->between_nodes ? "node" : "GPU"; }

static void check_rates(struct verifier *v, uint32_t o, uint32_t s, struct order_scratch *x) {
    const struct mp_order *order = &v->plan->orders[o];
    const struct mp_topology *t = v->topology;
    memset(x->rate, 0, t->n_resources * sizeof *x->rate);
    for (uint32_t i = 0; i < order->stages[s].n; i++) {
        const struct mp_transfer *f = &order->stages[s].transfers[i];
        struct mp_path path;
        uint64_t rate;
        if (f->src == f->dst)
            continue;
        if (mp_mul_overflow(order->port_bytes_per_s, (uint64_t)f->width, &rate))
            rate = UINT64_MAX;
        mp_topology_path(t, f->src, f->dst, &path);
        for (uint32_t k = 0; k < path.n; k++)
            if (mp_add_overflow(x->rate[path.resource[k]], rate, &x->rate[path.resource[k]]))
                x->rate[path.resource[k]] = UINT64_MAX;
    }
    for (uint32_t r = 0; r < t->n_resources; r++)
        vf_expect(v, x->rate[r] <= t->resources[r].bytes_per_s, MP_V_ORDER_RATE,
                  "order %u stage %u: %llu bytes/s through the %s port of level %u at GPU %u, which has %llu", o, s,
                  ULL(x->rate[r]), t->resources[r].is_in ? "in" : "out", t->resources[r].level,
                  t->resources[r].first_gpu, ULL(t->resources[r].bytes_per_s));
}

/* A flush is exempt from ports and rates, and is the last stage by what has_flush means; so that its shares are all
 * that is left follows from the sums. */
static void check_flush(struct verifier *v, uint32_t o) {
    const struct mp_order *order = &v->plan->orders[o];
    const struct mp_stage *stage = &order->stages[order->n_stages - 1];
    vf_expect(v, !order->between_nodes, MP_V_ORDER_FLUSH, "order %u: a flush between nodes", o);
    vf_expect(v, stage->n > 0, MP_V_ORDER_FLUSH, "order %u: stage %u is a flush, and nothing is left to send", o,
              order->n_stages - 1);
    for (uint32_t i = 0; i < stage->n; i++)
        vf_expect(v, stage->transfers[i].width == 1, MP_V_ORDER_FLUSH,
                  "order %u stage %u: transfer %u>%u of a flush has width %u", o, order->n_stages - 1,
                  stage->transfers[i].src, stage->transfers[i].dst, stage->transfers[i].width);
}

static void check_ports(struct verifier *v, uint32_t o, uint32_t s, uint32_t n, const struct order_scratch *x) {
    const struct mp_order *order = &v->plan->orders[o];
    for (uint32_t g = 0; g < n; g++) {
        vf_expect(v, x->sends[g] <= order->ports, MP_V_ORDER_PORT,
                  "order %u stage %u: %s %u sends over %llu ports of %u", o, s, end_name(order), g, ULL(x->sends[g]),
                  order->ports);
        vf_expect(v, x->takes[g] <= order->ports, MP_V_ORDER_PORT,
                  "order %u stage %u: %s %u receives over %llu ports of %u", o, s, end_name(order), g, ULL(x->takes[g]),
                  order->ports);
    }
}

static void check_stage(struct verifier *v, uint32_t o, uint32_t s, uint32_t n, struct order_scratch *x) {
    const struct mp_order *order = &v->plan->orders[o];
    const struct mp_stage *stage = &order->stages[s];
    bool is_in_range = true, is_flush = order->has_flush && s + 1 == order->n_stages;
    memset(x->sends, 0, n * sizeof *x->sends);
    memset(x->takes, 0, n * sizeof *x->takes);
    for (uint32_t i = 0; i < stage->n; i++) {
        const struct mp_transfer *t = &stage->transfers[i];
        if (!vf_expect(v, t->src < n && t->dst < n, MP_V_SHAPE,
                       "order %u stage %u: transfer %u>%u, and there are %u %ss", o, s, t->src, t->dst, n,
                       end_name(order))) {
            is_in_range = false;
            continue;
        }
        vf_expect(v, t->src != t->dst, MP_V_ORDER_SELF, "order %u stage %u: %s %u sends to itself", o, s,
                  end_name(order), t->src);
        vf_expect(v, t->share > 0, MP_V_ORDER_SHARE, "order %u stage %u: transfer %u>%u has share 0 of %u", o, s,
                  t->src, t->dst, order->unit);
        vf_expect(v, i == 0 || is_after(t - 1, t), MP_V_ORDER_SHARE,
                  "order %u stage %u: transfer %u>%u is listed after %u>%u", o, s, t->src, t->dst,
                  i > 0 ? t[-1].src : 0, i > 0 ? t[-1].dst : 0);
        vf_expect(v, t->width > 0 && (t->width == 1 || !order->between_nodes), MP_V_ORDER_PORT,
                  "order %u stage %u: transfer %u>%u between %ss has width %u", o, s, t->src, t->dst, end_name(order),
                  t->width);
        vf_expect(v, t->width <= 1 || is_flush || order->between_nodes || order->port_bytes_per_s > 0, MP_V_ORDER_RATE,
                  "order %u stage %u: transfer %u>%u has width %u and no rate cap", o, s, t->src, t->dst, t->width);
        x->share[(size_t)t->src * n + t->dst] += t->share;
        x->sends[t->src] += t->width;
        x->takes[t->dst] += t->width;
    }
    if (is_flush)
        return;
    check_ports(v, o, s, n, x);
    if (x->rate != NULL && order->port_bytes_per_s > 0 && is_in_range && !order->between_nodes)
        check_rates(v, o, s, x);
}

static void check_order(struct verifier *v, uint32_t o, struct order_scratch *x) {
    const struct mp_order *order = &v->plan->orders[o];
    const uint32_t n = order->between_nodes ? v->plan->n_nodes : v->plan->n_gpus;
    vf_expect(v, order->unit > 0 && order->ports > 0, MP_V_ORDER_SHARE, "order %u: unit %u, %u ports", o, order->unit,
              order->ports);
    vf_expect(v, !order->between_nodes || order->port_bytes_per_s == 0, MP_V_ORDER_RATE,
              "order %u: a cap of %llu bytes/s between nodes", o, ULL(order->port_bytes_per_s));
    if (vf_expect(v, !order->has_flush || order->n_stages > 0, MP_V_ORDER_FLUSH, "order %u: a flush among 0 stages",
                  o) &&
        order->has_flush)
        check_flush(v, o);
    memset(x->share, 0, (size_t)n * n * sizeof *x->share);
    for (uint32_t s = 0; s < order->n_stages; s++)
        check_stage(v, o, s, n, x);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++)
            vf_expect(v, i == j || x->share[(size_t)i * n + j] == order->unit, MP_V_ORDER_SHARE,
                      "order %u: the shares of %u>%u sum to %llu of %u", o, i, j, ULL(x->share[(size_t)i * n + j]),
                      order->unit);
}

enum mp_status vf_check_orders(struct verifier *v, struct mp_error *err) {
    const struct mp_plan *p = v->plan;
    if (p->n_orders == 0)
        return MP_OK;
    size_t n = p->n_gpus; /* at least as many as nodes */
    bool has_rates = v->topology != NULL && v->topology->n_gpus == p->n_gpus;
    struct order_scratch x = {.share = mp_calloc(n * n, sizeof *x.share),
                              .sends = mp_calloc(n, sizeof *x.sends),
                              .takes = mp_calloc(n, sizeof *x.takes),
                              .rate = has_rates ? mp_calloc(v->topology->n_resources, sizeof *x.rate) : NULL};
    enum mp_status status = MP_OK;
    if (x.share == NULL || x.sends == NULL || x.takes == NULL || (has_rates && x.rate == NULL))
        status = mp_nomem(err, "verifying a plan");
    for (uint32_t o = 0; o < p->n_orders && status == MP_OK; o++)
        check_order(v, o, &x);
    mp_free(x.share);
    mp_free(x.sends);
    mp_free(x.takes);
    mp_free(x.rate);
    return status;
}
