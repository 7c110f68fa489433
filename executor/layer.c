/* A layer of a step ready to run: its routing, where its flows lie, a script for each part. */
#include "prove.h"
#include "run.h"

/* How a part goes: the order it is run by, or one shot. */
struct way {
    struct mp_order order;
    enum mp_combine turned;
    enum mp_stage_mode mode;
    bool is_staged, has_fallen_back;
};

static enum mp_status way_of(struct way *out, const struct mp_cost_setup *in, struct mp_net *net, int stage_mode,
                             const struct ex_limits *limits, uint32_t layer, enum ex_part part, const uint64_t *matrix,
                             struct mp_error *err) {
    const struct mp_plan *plan = in->plan;
    const struct mp_plan_layer *l = &plan->layers[layer];
    const enum mp_stage_mode wanted = stage_mode < 0 ? plan->stage_mode : (enum mp_stage_mode)stage_mode;
    *out = (struct way){.mode = ex_limits_mode(limits, wanted)};
    if (l->order == MP_NONE || plan->n_gpus < 2 || part == EX_DISPATCH_INSIDE || part == EX_COMBINE_INSIDE)
        return MP_OK;
    if (l->order >= plan->n_orders)
        return mp_fail(err, MP_EBUG, "layer %u uses order %u of %u", l->layer_id, l->order, plan->n_orders);
    out->order = plan->orders[l->order];
    if (!plan->is_paced || !limits->paces)
        out->order.port_bytes_per_s = 0;
    out->turned = part == EX_COMBINE ? l->combine : MP_COMBINE_FORWARD;
    enum mp_status status =
        mp_net_falls_back(net, &out->order, out->turned, plan->fallback_ppm, matrix, &out->has_fallen_back, err);
    out->is_staged = status == MP_OK && !out->has_fallen_back;
    return status;
}

static enum mp_status make_part(struct ex_layer *l, const struct mp_cost_setup *in, struct mp_net *net, int stage_mode,
                                const struct ex_limits *limits, uint32_t step, uint32_t layer, enum ex_part part,
                                struct mp_error *err) {
    struct way way;
    enum mp_status status = MP_OK;
    MP_TRY(way_of(&way, in, net, stage_mode, limits, layer, part, l->matrix[part], err));
    l->has_fallen_back[part] = way.has_fallen_back;
    const struct ex_script_request request = {.topology = in->topology,
                                              .order = way.is_staged ? &way.order : NULL,
                                              .way = way.turned,
                                              .mode = way.mode,
                                              .flows = l->flows[part],
                                              .used = l->used,
                                              .step = step,
                                              .layer = layer,
                                              .layer_id = in->plan->layers[layer].layer_id,
                                              .part = part};
    status = ex_script_new(&l->scripts[part], &request, err);
out:
    return status;
}

/* Flows, scripts and proofs of all parts that have a matrix. */
static enum mp_status make_parts(struct ex_layer *l, const struct mp_cost_setup *in, struct mp_net *net, int stage_mode,
                                 const struct ex_limits *limits, uint32_t step, uint32_t layer, struct mp_error *err) {
    enum mp_status status = MP_OK;
    for (int part = 0; part < EX_N_PARTS; part++)
        if (l->matrix[part] != NULL)
            MP_TRY(ex_flows_new(&l->flows[part], in->plan->n_gpus, l->matrix[part], l->used, err));
    for (int part = 0; part < EX_N_PARTS; part++)
        if (l->matrix[part] != NULL)
            MP_TRY(make_part(l, in, net, stage_mode, limits, step, layer, (enum ex_part)part, err));
    for (int part = 0; part < EX_N_PARTS; part++) /* relays are laid behind: blocks have their sizes now */
        if (l->matrix[part] != NULL)
            MP_TRY(ex_prove(l->scripts[part], l->flows[part], l->used, limits, err));
out:
    return status;
}

/* ---- pieces ---- */

/* Piece i of n of a flow of whole copies. */
static uint64_t piece_at(uint64_t bytes, uint64_t copy_bytes, uint32_t i, uint32_t n) {
    return mp_mul_div(bytes / copy_bytes, i, n) * copy_bytes;
}

enum mp_status ex_piece_new(struct ex_piece **out, struct ex_layer *l, const struct mp_cost_setup *in,
                            struct mp_net *net, int stage_mode, const struct ex_limits *limits, uint32_t step,
                            uint32_t layer, enum ex_part part, uint32_t i, uint32_t n, struct mp_error *err) {
    const uint64_t copy_bytes = part == EX_DISPATCH ? in->model->dispatch_bytes : in->model->combine_bytes;
    const size_t cells = (size_t)in->plan->n_gpus * in->plan->n_gpus;
    struct way way;
    enum mp_status status = MP_OK;
    *out = NULL;
    struct ex_piece *p = mp_calloc(1, sizeof *p);
    if (p == NULL)
        return mp_nomem(err, "a piece of an all-to-all");
    p->flows = (struct ex_flows){.n = in->plan->n_gpus,
                                 .out_at = mp_calloc(cells, sizeof *p->flows.out_at),
                                 .in_at = mp_calloc(cells, sizeof *p->flows.in_at)};
    p->flows.bytes = p->bytes = mp_calloc(cells, sizeof *p->bytes);
    if (p->bytes == NULL || p->flows.out_at == NULL || p->flows.in_at == NULL) {
        status = mp_nomem(err, "a piece of an all-to-all");
        goto out;
    }
    for (size_t f = 0; f < cells; f++) {
        const uint64_t from = piece_at(l->matrix[part][f], copy_bytes, i, n);
        p->bytes[f] = piece_at(l->matrix[part][f], copy_bytes, i + 1, n) - from;
        p->flows.out_at[f] = l->flows[part]->out_at[f] + from;
        p->flows.in_at[f] = l->flows[part]->in_at[f] + from;
    }
    MP_TRY(way_of(&way, in, net, stage_mode, limits, layer, part, p->bytes, err));
    const struct ex_script_request request = {.topology = in->topology,
                                              .order = way.is_staged ? &way.order : NULL,
                                              .way = way.turned,
                                              .mode = way.mode,
                                              .flows = &p->flows,
                                              .used = l->used,
                                              .step = step,
                                              .layer = layer,
                                              .layer_id = in->plan->layers[layer].layer_id,
                                              .part = part};
    MP_TRY(ex_script_new(&p->script, &request, err));
    status = ex_prove(p->script, &p->flows, l->used, limits, err);
out:
    if (status != MP_OK)
        ex_piece_free(p);
    else
        *out = p;
    return status;
}

void ex_piece_free(struct ex_piece *p) {
    if (p == NULL)
        return;
    ex_script_free(p->script);
    mp_free(p->flows.out_at);
    mp_free(p->flows.in_at);
    mp_free(p->bytes);
    mp_free(p);
}

/* ---- a layer ---- */

static struct ex_layer *new_layer(uint32_t n_ranks) {
    struct ex_layer *l = mp_calloc(1, sizeof *l);
    if (l != NULL && (l->used = mp_calloc(n_ranks, sizeof *l->used)) != NULL)
        return l;
    mp_free(l);
    return NULL;
}

enum mp_status ex_layer_new(struct ex_layer **out, const struct mp_cost_setup *in, struct mp_net *net, int stage_mode,
                            const struct ex_limits *limits, uint32_t step, uint32_t layer, struct mp_error *err) {
    *out = NULL;
    enum mp_status status = MP_OK;
    struct ex_layer *l = new_layer(in->plan->n_gpus);
    if (l == NULL)
        return mp_nomem(err, "a layer");
    MP_TRY(ex_route_new(&l->route, in, step, layer, err));
    const struct mp_traffic *t = l->route->traffic;
    l->matrix[EX_DISPATCH] = t->dispatch;
    l->matrix[EX_COMBINE] = t->combine;
    l->matrix[EX_DISPATCH_INSIDE] = l->route->has_inside ? t->dispatch2 : NULL;
    l->matrix[EX_COMBINE_INSIDE] = l->route->has_inside ? t->combine2 : NULL;
    MP_TRY(make_parts(l, in, net, stage_mode, limits, step, layer, err));
    if (limits->packs)
        status = ex_rows_new(&l->rows, l->route, l->flows, in->model->dispatch_bytes, in->model->combine_bytes, l->used,
                             err);
out:
    if (status != MP_OK)
        ex_layer_free(l);
    else
        *out = l;
    return status;
}

enum mp_status ex_layer_plain(struct ex_layer **out, const struct mp_cost_setup *in, struct mp_net *net,
                              const uint64_t *matrix, int stage_mode, const struct ex_limits *limits,
                              struct mp_error *err) {
    *out = NULL;
    const size_t n = in->plan->n_gpus;
    enum mp_status status = MP_OK;
    struct ex_layer *l = new_layer(in->plan->n_gpus);
    if (l == NULL)
        return mp_nomem(err, "a layer");
    l->plain = mp_calloc(2 * n * n, sizeof *l->plain);
    if (l->plain == NULL) {
        status = mp_nomem(err, "a matrix");
        goto out;
    }
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            l->plain[i * n + j] = l->plain[(n + j) * n + i] = i == j ? 0 : matrix[i * n + j];
    l->matrix[EX_DISPATCH] = l->plain;
    l->matrix[EX_COMBINE] = l->plain + n * n;
    status = make_parts(l, in, net, stage_mode, limits, 0, 0, err);
out:
    if (status != MP_OK)
        ex_layer_free(l);
    else
        *out = l;
    return status;
}

void ex_layer_free(struct ex_layer *l) {
    if (l == NULL)
        return;
    ex_rows_free(l->rows, l->route != NULL ? l->route->n : 0);
    for (int part = 0; part < EX_N_PARTS; part++) {
        ex_script_free(l->scripts[part]);
        ex_flows_free(l->flows[part]);
    }
    ex_route_free(l->route);
    mp_free(l->plain);
    mp_free(l->used);
    mp_free(l);
}

enum mp_status ex_layer_predict(const struct ex_layer *l, const struct mp_cost_setup *in, struct mp_net *net,
                                int stage_mode, const struct ex_limits *limits, enum ex_part part,
                                struct mp_net_log *log, uint64_t *predicted_ns, uint64_t *bound_ns,
                                struct mp_error *err) {
    struct way way;
    const uint64_t *matrix = l->matrix[part];
    enum mp_status status = MP_OK;
    *predicted_ns = *bound_ns = 0;
    if (in->plan->n_gpus < 2)
        return MP_OK;
    MP_TRY(way_of(&way, in, net, stage_mode, limits, l->scripts[part]->layer, part, matrix, err));
    *bound_ns = way.is_staged && way.order.between_nodes ? mp_relay_bound_ns(in->topology, matrix)
                                                         : mp_net_port_bound(net, matrix);
    mp_net_log_to(net, log);
    if (way.is_staged) {
        status = mp_net_staged(net, &way.order, way.turned, way.mode, matrix, predicted_ns, err);
    } else {
        status = mp_net_concurrent(net, matrix, predicted_ns, NULL, err);
        *predicted_ns += in->topology->launch_ns;
    }
out:
    mp_net_log_to(net, NULL);
    return status;
}
