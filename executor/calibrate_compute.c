/* Computation: matrix products of a model's experts, of several numbers of experts and rows, on the first GPU of each
 * type; on transports without GPUs the same products in plain C, which stand for a slow processor. */
#include "calibrate_private.h"
#include "rendezvous.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    POINTS_MAX = 64,
    ROWS_MAX = 65536,             /* of a point on a GPU */
    CPU_PRODUCTS_MAX = 200000000, /* multiplications of a point on a processor: a fraction of a second */
    CPU_BYTES_MAX = 256 << 20     /* of weights there */
};

/* ---- a processor ---- */

struct cpu {
    float *weights, *in, *middle, *out;
};

static void cpu_free(struct cpu *c) {
    mp_free(c->weights);
    mp_free(c->in);
    mp_free(c->middle);
    mp_free(c->out);
}

static enum mp_status cpu_new(struct cpu *c, const struct ex_gemm *q, uint32_t n_experts, uint32_t tile,
                              struct mp_error *err) {
    const size_t wide = q->up > q->inner ? q->up : q->inner, n = (size_t)n_experts * q->hidden * wide;
    *c = (struct cpu){.weights = mp_calloc(n, sizeof(float)),
                      .in = mp_calloc((size_t)tile * q->hidden, sizeof(float)),
                      .middle = mp_calloc((size_t)tile * wide, sizeof(float)),
                      .out = mp_calloc((size_t)tile * q->hidden, sizeof(float))};
    if (c->weights == NULL || c->in == NULL || c->middle == NULL || c->out == NULL) {
        cpu_free(c);
        return mp_nomem(err, "experts on a processor");
    }
    for (size_t i = 0; i < n; i++)
        c->weights[i] = 0.01f;
    for (size_t i = 0; i < (size_t)tile * q->hidden; i++)
        c->in[i] = 0.5f;
    return MP_OK;
}

/* out[m][n] = in[m][k] * weights[k][n] */
static void product(float *restrict out, const float *restrict in, const float *restrict weights, uint32_t m,
                    uint32_t k, uint32_t n) {
    memset(out, 0, (size_t)m * n * sizeof *out);
    for (uint32_t i = 0; i < m; i++)
        for (uint32_t h = 0; h < k; h++) {
            const float x = in[(size_t)i * k + h];
            const float *restrict row = weights + (size_t)h * n;
            float *restrict to = out + (size_t)i * n;
            for (uint32_t j = 0; j < n; j++)
                to[j] += x * row[j];
        }
}

/* Each expert's rows, a tile at a time, as kernels of GPUs do. */
static uint64_t cpu_run(struct cpu *c, const struct ex_gemm *q, uint32_t tile) {
    const size_t wide = q->up > q->inner ? q->up : q->inner;
    const uint64_t since = ex_now_ns();
    for (uint32_t e = 0; e < q->n_experts; e++)
        for (uint32_t done = 0; done < q->rows[e]; done += tile) {
            const float *weights = c->weights + e * q->hidden * wide;
            product(c->middle, c->in, weights, tile, q->hidden, q->up);
            product(c->out, c->middle, weights, tile, q->inner, q->hidden);
        }
    return ex_now_ns() - since;
}

/* ---- points ---- */

struct point {
    uint32_t n_experts, rows; /* rows of each */
};

static size_t choose_points(struct point *points, const struct ex_gemm *q, uint32_t n_experts, uint32_t tile,
                            bool is_cpu) {
    static const uint32_t tiles[] = {1, 2, 4, 16, 64};
    const uint64_t products = (uint64_t)q->hidden * ((uint64_t)q->up + q->inner);
    size_t n = 0;
    for (uint32_t experts = 1; experts <= n_experts; experts *= 2)
        for (size_t i = 0; i < sizeof tiles / sizeof *tiles; i++) {
            const uint64_t rows = (uint64_t)tiles[i] * tile * experts;
            if (n < POINTS_MAX && rows <= ROWS_MAX && (!is_cpu || rows * products <= CPU_PRODUCTS_MAX))
                points[n++] = (struct point){experts, tiles[i] * tile};
        }
    return n;
}

/* The least time of a point, of the rank that measures. Everybody waits for each run, so no wait is long. */
static enum mp_status measure(struct calibration *x, struct cpu *cpu, struct ex_gemm *q, const struct point *p,
                              uint32_t rank, uint32_t tile, uint64_t *ns, struct mp_error *err) {
    const uint32_t first = x->world.first_rank;
    enum mp_status status = MP_OK;
    uint32_t *rows = mp_calloc(p->n_experts, sizeof *rows);
    if (rows == NULL)
        return mp_nomem(err, "experts");
    for (uint32_t e = 0; e < p->n_experts; e++)
        rows[e] = p->rows;
    q->n_experts = p->n_experts;
    q->rows = rows;
    *ns = UINT64_MAX;
    for (uint32_t i = 0; i < x->in->n_warmup + x->in->n_iterations; i++) {
        memset(x->mine, 0, x->world.n_local * sizeof *x->mine);
        if (rank >= first && rank < first + x->world.n_local) {
            if (x->transport->compute != NULL)
                MP_TRY(x->transport->compute(x->link, rank, q, &x->mine[rank - first], err));
            else
                x->mine[rank - first] = cpu_run(cpu, q, tile);
        }
        MP_TRY(calibrate_gather(x, err));
        const uint64_t one = x->all[rank] > 0 ? x->all[rank] : 1;
        if (i >= x->in->n_warmup && one < *ns)
            *ns = one;
    }
out:
    mp_free(rows);
    return status;
}

/* The coefficients go in front of those the type has for other models. */
static enum mp_status put(struct calibration *x, uint32_t type, const struct ex_compute_fit *fit,
                          struct mp_error *err) {
    struct mp_gpu_type *t = (struct mp_gpu_type *)(uintptr_t)&x->c->topology.types[type];
    struct mp_compute_coefficients *all = mp_arena_alloc(x->c->arena, t->n_coefficients + 1u, sizeof *all);
    char *name = mp_arena_alloc(x->c->arena, strlen(x->in->model->name) + 1, 1);
    uint32_t n = 1;
    if (all == NULL || name == NULL)
        return mp_nomem(err, "a calibration");
    memcpy(name, x->in->model->name, strlen(x->in->model->name) + 1);
    all[0] = (struct mp_compute_coefficients){name, (uint64_t)llround(fit->a * 1000), (uint64_t)llround(fit->b * 1000),
                                              (uint64_t)llround(fit->c * 1000), (uint64_t)llround(fit->beta * 1000)};
    for (uint32_t i = 0; i < t->n_coefficients; i++)
        if (strcmp(t->coefficients[i].model, name) != 0)
            all[n++] = t->coefficients[i];
    t->coefficients = all;
    t->n_coefficients = n;
    return MP_OK;
}

static enum mp_status fit_type(struct calibration *x, uint32_t type, struct mp_error *err) {
    const struct mp_topology *t = x->in->topology;
    const struct mp_model *model = x->in->model;
    struct ex_gemm q = ex_gemm_of(model);
    struct point points[POINTS_MAX];
    struct ex_work work[POINTS_MAX];
    struct ex_compute_fit fit;
    struct cpu cpu = {0};
    struct mp_fit *f;
    uint32_t rank = 0;
    while (rank < t->n_gpus && t->gpus[rank].type != type)
        rank++;
    if (rank == t->n_gpus)
        return MP_OK;
    enum mp_status status = calibrate_new_fit(x, &f, MP_FIT_COMPUTE, MP_NONE, POINTS_MAX, err);
    if (status != MP_OK)
        return status;
    const uint32_t tile = t->types[type].tile_tokens, each = (model->n_experts + t->n_gpus - 1) / t->n_gpus;
    const uint32_t n_experts = each > 2 ? each : 2;
    const bool is_cpu = x->transport->compute == NULL;
    const uint64_t bytes =
        (uint64_t)n_experts * q.hidden * (q.up > q.inner ? q.up : q.inner) * (is_cpu ? sizeof(float) : 2);
    const size_t n = choose_points(points, &q, n_experts, tile, is_cpu);
    f->type = type;
    f->n_points = 0;
    (void)snprintf(f->what, sizeof f->what, "computation of %.40s for %.60s", t->types[type].name, model->name);
    if (n < 4 || (is_cpu && bytes > CPU_BYTES_MAX)) {
        calibrate_remark(f, false, "kept: experts of this model are too large for a processor's short runs");
        return MP_OK;
    }
    if (is_cpu && rank >= x->world.first_rank && rank < x->world.first_rank + x->world.n_local)
        MP_TRY(cpu_new(&cpu, &q, n_experts, tile, err));
    for (size_t i = 0; i < n; i++) {
        uint64_t ns = 0;
        MP_TRY(measure(x, &cpu, &q, &points[i], rank, tile, &ns, err));
        work[i] = (struct ex_work){points[i].n_experts, (double)points[i].n_experts * points[i].rows,
                                   (double)ns * t->gpus[rank].speed_ppm / 1e6};
        f->points[i] = (struct mp_fit_point){work[i].experts * 4294967296.0 + work[i].rows, ns, 0};
    }
    if (!ex_fit_compute(&fit, work, n)) {
        calibrate_remark(f, true, "kept: no two numbers of experts and rows");
        goto out;
    }
    f->n_points = n;
    for (size_t i = 0; i < n; i++)
        f->points[i].fitted_ns =
            fmax(fit.a + fit.b * work[i].experts, fit.c + fit.beta * work[i].rows) * 1e6 / t->gpus[rank].speed_ppm;
    f->a = fit.a;
    f->b = fit.b;
    f->c = fit.c;
    f->beta = fit.beta;
    f->is_known = true;
    f->residual = fit.residual;
    calibrate_judge(f);
    if (!fit.has_weights_side)
        calibrate_remark(f, false, "time always goes by rows here: a and b are 0");
    if (!fit.has_rows_side)
        calibrate_remark(f, false, "time always goes by experts here: c and beta are 0");
    if (is_cpu)
        calibrate_remark(f, false, "of this machine's processor, in plain C");
    status = put(x, type, &fit, err);
out:
    cpu_free(&cpu);
    return status;
}

enum mp_status calibrate_compute(struct calibration *x, struct mp_error *err) {
    for (uint32_t type = 0; type < x->in->topology->n_types; type++) {
        enum mp_status status = fit_type(x, type, err);
        if (status != MP_OK)
            return status;
    }
    return MP_OK;
}
