/* Load and traffic of a plan over its scored steps: what the charts of a report show.
 *
 * Decides   nothing; which steps are looked at when there are many: STEPS_MAX, evenly spaced.
 * Method    src/cost's traffic of every (step, layer), summed up; what passes through another GPU counts on both hops.
 * Cost      what simulating the same steps spends on traffic; layers run in parallel, each with its own sums. */
#include "report.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    STEPS_MAX = 256,
    SUMS_MAX = 1 << 23,  /* cells that are summed up at all */
    CELLS_MAX = 1 << 19, /* cells that are kept layer by layer: more do not fit into the page */
    GPUS_MAX = 256       /* a matrix of sums of more does not either */
};

struct sums {
    const struct mp_cost_setup *setup;
    struct mp_traffic **traffic; /* of each worker */
    struct report_detail *d;
    uint32_t n_gpus, n_steps, n_steps_all;
    uint64_t **row; /* of each worker: [G] sums, [G] maxima, [G][G] dispatch, [G][G] combine */
    double *sums;   /* [L][2][G][G]; NULL = too many GPUs */
};

static enum mp_status sum_layer(void *ctx, size_t layer, unsigned worker, struct mp_error *err) {
    const struct sums *c = ctx;
    const size_t n = c->n_gpus, cells = c->sums != NULL ? n * n : 0;
    uint64_t *rows = c->row[worker], *most = rows + n, *dispatch = most + n, *combine = dispatch + cells;
    const struct mp_traffic *t = c->traffic[worker];
    memset(rows, 0, (2 * n + 2 * cells) * sizeof *rows);
    for (uint32_t i = 0; i < c->n_steps; i++) {
        const uint32_t step = (uint32_t)((uint64_t)i * c->n_steps_all / c->n_steps);
        enum mp_status status = mp_traffic_compute(c->traffic[worker], c->setup, step, (uint32_t)layer, err);
        if (status != MP_OK)
            return status;
        for (size_t g = 0; g < n; g++) {
            rows[g] += t->rows[g];
            most[g] = t->rows[g] > most[g] ? t->rows[g] : most[g];
        }
        for (size_t k = 0; k < cells; k++) {
            dispatch[k] += t->dispatch[k] + t->dispatch2[k];
            combine[k] += t->combine[k] + t->combine2[k];
        }
    }
    for (size_t g = 0; g < n; g++) {
        c->d->mean_rows[layer * n + g] = (double)rows[g] / c->n_steps;
        c->d->max_rows[layer * n + g] = (double)most[g];
    }
    for (size_t k = 0; k < cells; k++) {
        c->sums[layer * 2 * cells + k] = (double)dispatch[k] / c->n_steps;
        c->sums[(layer * 2 + 1) * cells + k] = (double)combine[k] / c->n_steps;
    }
    return MP_OK;
}

/* From [L][2][G][G] to the four arrays of the detail. */
static enum mp_status keep_traffic(struct report_detail *d, const double *sums, size_t n_layers, size_t cells,
                                   struct mp_error *err) {
    const bool has_layers = n_layers * cells <= CELLS_MAX;
    d->dispatch_sum = mp_calloc(cells, sizeof *d->dispatch_sum);
    d->combine_sum = mp_calloc(cells, sizeof *d->combine_sum);
    if (has_layers) {
        d->dispatch = mp_calloc(n_layers * cells, sizeof *d->dispatch);
        d->combine = mp_calloc(n_layers * cells, sizeof *d->combine);
    }
    if (d->dispatch_sum == NULL || d->combine_sum == NULL ||
        (has_layers && (d->dispatch == NULL || d->combine == NULL)))
        return mp_nomem(err, "traffic of a report");
    for (size_t l = 0; l < n_layers; l++)
        for (size_t k = 0; k < cells; k++) {
            const double out = sums[l * 2 * cells + k], back = sums[(l * 2 + 1) * cells + k];
            d->dispatch_sum[k] += out;
            d->combine_sum[k] += back;
            if (has_layers) {
                d->dispatch[l * cells + k] = out;
                d->combine[l * cells + k] = back;
            }
        }
    return MP_OK;
}

enum mp_status report_traffic(struct report *r, uint32_t plan, struct mp_error *err) {
    const struct setup *s = &r->s;
    struct report_detail *d = &r->details[plan];
    const struct mp_plan *p = r->scores[plan].plan;
    const struct mp_workload *w = score_steps(&r->scores[plan], s);
    const size_t n = p->n_gpus, n_layers = p->n_layers,
                 cells = n <= GPUS_MAX && n_layers * n * n <= SUMS_MAX ? n * n : 0;
    const unsigned n_workers = tool_threads(r->o) > 0 ? tool_threads(r->o) : 1;
    struct mp_router *router = NULL;
    struct mp_traffic *traffic[MP_MAX_THREADS] = {NULL};
    uint64_t *row[MP_MAX_THREADS] = {NULL};
    double *sums = NULL;
    enum mp_status status = MP_OK;
    MP_TRY(mp_router_new(&router, p, err));
    for (unsigned k = 0; k < n_workers; k++) {
        MP_TRY(mp_traffic_new(&traffic[k], (uint32_t)n, err));
        row[k] = mp_calloc(2 * n + 2 * cells, sizeof **row);
        if (row[k] == NULL) {
            status = mp_nomem(err, "traffic of a report");
            goto out;
        }
    }
    d->mean_rows = mp_calloc(n_layers * n, sizeof *d->mean_rows);
    d->max_rows = mp_calloc(n_layers * n, sizeof *d->max_rows);
    if (cells > 0)
        sums = mp_calloc(n_layers * 2 * cells, sizeof *sums);
    if (d->mean_rows == NULL || d->max_rows == NULL || (cells > 0 && sums == NULL)) {
        status = mp_nomem(err, "traffic of a report");
        goto out;
    }
    const struct mp_cost_setup setup = {.plan = p,
                                        .router = router,
                                        .workload = w,
                                        .topology = s->topology,
                                        .model = s->model,
                                        .dispatcher = s->sim.dispatcher,
                                        .sources = s->sim.sources};
    d->n_steps = w->n_steps < STEPS_MAX ? w->n_steps : STEPS_MAX;
    struct sums c = {&setup, traffic, d, (uint32_t)n, d->n_steps, w->n_steps, row, sums};
    MP_TRY(mp_parallel_for(n_workers, n_layers, sum_layer, &c, err));
    if (cells > 0)
        MP_TRY(keep_traffic(d, sums, n_layers, cells, err));
    if (cells == 0)
        snprintf(d->why, sizeof d->why, "no traffic from rank to rank: %zu layers on %zu GPUs are too much for a page",
                 n_layers, n);
out:
    mp_free(sums);
    for (unsigned k = 0; k < n_workers; k++) {
        mp_free(row[k]);
        mp_traffic_free(traffic[k]);
    }
    mp_router_free(router);
    return status;
}
