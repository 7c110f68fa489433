/* A random traffic matrix, read from the text of one of its formats, and a plan of it under an order that no strategy
 * makes, with the certificate that the planner's code derives. Shared by the tests of the verifier, its mutations, and
 * the program that writes such plans for plancheck. */
#ifndef MATRIX_CASE_H
#define MATRIX_CASE_H

#include "planner.h"
#include "support.h"
#include "twist.h"
#include <moeplan/matrix.h>
#include <moeplan/verify.h>

struct matrix_case {
    struct mp_matrix *matrix; /* as its file has it */
    char *text;               /* of the file, from malloc */
    size_t n_text;
    uint64_t *bytes; /* [n][n] */
    struct mp_plan *plan;
};

static inline void matrix_case_free(struct matrix_case *c) {
    mp_plan_free(c->plan);
    mp_matrix_free(c->matrix);
    mp_free(c->bytes);
    free(c->text);
    *c = (struct matrix_case){0};
}

/* Cells, diagonal included, into a text and back. */
static inline void matrix_case_read(struct matrix_case *c, uint32_t n, const uint64_t *cells, const char *format,
                                    uint64_t token_bytes) {
    struct mp_error err = {0};
    struct mp_out *out;
    struct mp_in *in;
    CHECK_OK(mp_out_open_memory(&out, &err), err);
    mp_matrix_format_find(format)->write(n, cells, out);
    const uint8_t *text = mp_out_memory_bytes(out, &c->n_text);
    c->text = malloc(c->n_text);
    c->bytes = mp_calloc((size_t)n * n, sizeof *c->bytes);
    assert_true(c->text != NULL && c->bytes != NULL);
    memcpy(c->text, text, c->n_text);
    mp_out_cancel(out);
    CHECK_OK(mp_in_from_memory(&in, "matrix", c->text, c->n_text, &err), err);
    CHECK_OK(mp_matrix_parse(&c->matrix, in, NULL, 0, &mp_limits_default, &err), err);
    mp_in_close(in);
    assert_true(mp_matrix_bytes(c->matrix, token_bytes, c->bytes));
}

/* One layer on the topology, without an order yet; names what was read. */
static inline void matrix_case_plan(struct matrix_case *c, const struct mp_topology *t, uint64_t token_bytes) {
    struct mp_error err = {0};
    const uint32_t n = c->matrix->n;
    uint32_t *slots = mp_calloc(n, sizeof *slots);
    assert_non_null(slots);
    for (uint32_t g = 0; g < n; g++)
        slots[g] = 1;
    CHECK_OK(mp_plan_new(&c->plan, 1, n, n, slots, &err), err);
    mp_free(slots);
    struct mp_plan *p = c->plan;
    uint32_t *node = mp_arena_alloc(p->arena, n, sizeof *node);
    assert_non_null(node);
    for (uint32_t g = 0; g < n; g++) {
        node[g] = mp_topology_node(t, g);
        p->layers[0].slot_expert[g] = (uint16_t)g;
    }
    p->gpu_node = node;
    p->n_nodes = mp_topology_n_nodes(t);
    struct mp_provenance *v = &p->provenance;
    v->strategy = v->order = "random";
    v->replicate = "none";
    v->place = "contiguous";
    v->route = "even";
    v->topology = mp_arena_strdup(p->arena, t->name);
    v->topology_sha256 = mp_arena_strdup(p->arena, t->sha256);
    v->matrix =
        (struct mp_matrix_source){true, c->matrix->format, mp_arena_strdup(p->arena, c->matrix->sha256), token_bytes};
}

/* The simulator's time of the plan's dispatch, as docs/ORDERS.md says the plan runs it. */
static inline uint64_t matrix_case_time(const struct matrix_case *c, const struct mp_topology *t) {
    const struct mp_plan *p = c->plan;
    struct mp_error err = {0};
    struct mp_net *net;
    uint64_t ns = 0;
    bool is_single = p->layers[0].order == MP_NONE;
    CHECK_OK(mp_net_new(&net, t, &err), err);
    struct mp_order order = {0};
    if (!is_single) {
        order = p->orders[p->layers[0].order];
        if (!p->is_paced)
            order.port_bytes_per_s = 0;
        CHECK_OK(mp_net_falls_back(net, &order, MP_COMBINE_FORWARD, p->fallback_ppm, c->bytes, &is_single, &err), err);
    }
    if (is_single) {
        CHECK_OK(mp_net_concurrent(net, c->bytes, &ns, NULL, &err), err);
        ns += ns > 0 ? t->launch_ns : 0;
    } else {
        CHECK_OK(mp_net_staged(net, &order, MP_COMBINE_FORWARD, p->stage_mode, c->bytes, &ns, &err), err);
    }
    mp_net_free(net);
    return ns;
}

static inline void matrix_case_certify(struct matrix_case *c, const struct mp_topology *t) {
    struct mp_error err = {0};
    CHECK_OK(mp_matrix_certify(c->plan, t, c->bytes, matrix_case_time(c, t), &err), err);
}

/* One shot, or an order of any kind; any stage rule, paced or not, falling back or not. */
static inline void matrix_case_make(struct matrix_case *c, struct mp_rng *rng, const struct mp_topology *t) {
    static const uint32_t limits[] = {0, 0, 1, 20000, 300000};
    const uint32_t n = t->n_gpus;
    const uint64_t token_bytes = mp_rng_below(rng, 3) > 0 ? 0 : 1 + mp_rng_below(rng, 7168);
    const uint32_t digits = 8 + (uint32_t)mp_rng_below(rng, 20), holes = (uint32_t)mp_rng_below(rng, 5);
    *c = (struct matrix_case){0};
    uint64_t *cells = mp_calloc((size_t)n * n, sizeof *cells);
    assert_non_null(cells);
    for (size_t i = 0; i < (size_t)n * n; i++)
        cells[i] = mp_rng_below(rng, 4) < holes ? 0 : mp_rng_below(rng, UINT64_C(1) << mp_rng_below(rng, digits));
    matrix_case_read(c, n, cells, mp_rng_below(rng, 2) ? "csv" : "nccl-tests", token_bytes);
    mp_free(cells);
    matrix_case_plan(c, t, token_bytes);
    struct mp_plan *p = c->plan;
    p->stage_mode = (enum mp_stage_mode)mp_rng_below(rng, 3);
    p->is_paced = mp_rng_below(rng, 3) > 0;
    p->fallback_ppm = limits[mp_rng_below(rng, 5)];
    if (mp_rng_below(rng, 6) > 0) {
        struct mp_order *order = mp_arena_alloc(p->arena, 1, sizeof *order);
        assert_non_null(order);
        if (mp_rng_below(rng, 2) || !strategy_order(rng, p, t, order))
            twist_order(rng, p, order);
        p->orders = order;
        p->n_orders = 1;
        p->layers[0].order = 0;
        p->layers[0].combine = (enum mp_combine)mp_rng_below(rng, MP_N_COMBINES);
    }
    matrix_case_certify(c, t);
}

#endif
