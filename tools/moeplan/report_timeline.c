/* One predicted step, layer by layer and GPU by GPU, as bars: what mp_simulate_timeline says, each kind of event of a
 * GPU from the first beginning to the last end. */
#include "report.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FLOWS_MAX = 1 << 20, PARTS = 5 }; /* transfers of a step that are followed one by one */

struct bars {
    const struct mp_timeline *t;
    size_t n_layers, n_gpus;
    double *bar, *sent, *received;
};

static void put(const struct bars *b, uint32_t layer, uint32_t gpu, enum report_bar kind,
                const struct mp_timeline_event *e) {
    double *bar = b->bar + ((layer * b->n_gpus + gpu) * REPORT_KINDS + kind) * 2;
    const double start = (double)e->start_ns, end = (double)e->end_ns;
    const bool is_new = bar[1] <= bar[0];
    bar[0] = is_new || start < bar[0] ? start : bar[0];
    bar[1] = is_new || end > bar[1] ? end : bar[1];
}

static void put_event(const struct bars *b, const struct mp_timeline_event *e) {
    static const int kind[] = {REPORT_ATTENTION, REPORT_DENSE, -1, REPORT_SHARED, REPORT_EXPERTS, -1, -1};
    if (e->peer == MP_NONE) {
        if (kind[e->kind] >= 0)
            put(b, e->layer, e->gpu, (enum report_bar)kind[e->kind], e);
        return;
    }
    const bool is_back = e->kind == MP_TIME_COMBINE;
    put(b, e->layer, e->gpu, is_back ? REPORT_COMBINE_SENDS : REPORT_DISPATCH_SENDS, e);
    put(b, e->layer, e->peer, is_back ? REPORT_COMBINE_RECEIVES : REPORT_DISPATCH_RECEIVES, e);
    b->sent[(e->layer * b->n_gpus + e->gpu) * 2 + is_back] += (double)e->bytes;
    b->received[(e->layer * b->n_gpus + e->peer) * 2 + is_back] += (double)e->bytes;
}

/* Attention, dispatch, shared, experts, combine of the step as it is added up. */
static void put_part(struct report_detail *d, const struct mp_timeline_event *e) {
    static const int part[] = {0, 0, 1, 2, 3, 4, -1};
    if (e->layer != MP_NONE && part[e->kind] >= 0)
        d->parts_ns[e->layer * PARTS + (size_t)part[e->kind]] += e->end_ns - e->start_ns;
}

void report_set_starts(double *bars, uint64_t *start_ns, uint64_t *length_ns, size_t n_layers, size_t n_bars) {
    for (size_t l = 0; l < n_layers; l++) {
        double *bar = bars + l * n_bars * 2, first = -1, last = 0;
        for (size_t k = 0; k < n_bars; k++)
            if (bar[2 * k + 1] > bar[2 * k]) {
                first = first < 0 || bar[2 * k] < first ? bar[2 * k] : first;
                last = bar[2 * k + 1] > last ? bar[2 * k + 1] : last;
            }
        first = first < 0 ? 0 : first;
        for (size_t k = 0; k < n_bars; k++)
            if (bar[2 * k + 1] > bar[2 * k]) {
                bar[2 * k] -= first;
                bar[2 * k + 1] -= first;
            }
        start_ns[l] = (uint64_t)first;
        length_ns[l] = last > first ? (uint64_t)(last - first) : 0;
    }
}

static bool allocate(struct report_detail *d, size_t n_layers, size_t n_gpus) {
    d->bars = mp_calloc(n_layers * n_gpus, REPORT_KINDS * 2 * sizeof *d->bars);
    d->sent = mp_calloc(n_layers * n_gpus, 2 * sizeof *d->sent);
    d->received = mp_calloc(n_layers * n_gpus, 2 * sizeof *d->received);
    d->start_ns = mp_calloc(n_layers, sizeof *d->start_ns);
    d->length_ns = mp_calloc(n_layers, sizeof *d->length_ns);
    d->parts_ns = mp_calloc(n_layers, PARTS * sizeof *d->parts_ns);
    return d->bars != NULL && d->sent != NULL && d->received != NULL && d->start_ns != NULL && d->length_ns != NULL &&
           d->parts_ns != NULL;
}

enum mp_status report_timeline(struct report *r, uint32_t plan, uint32_t step, struct mp_error *err) {
    const struct setup *s = &r->s;
    struct report_detail *d = &r->details[plan];
    const struct mp_plan *p = r->scores[plan].plan;
    const size_t n = p->n_gpus, n_layers = p->n_layers;
    struct mp_timeline *t = NULL;
    enum mp_status status = MP_OK;
    if (n_layers * n * n > FLOWS_MAX) {
        const size_t used = strlen(d->why);
        snprintf(d->why + used, sizeof d->why - used,
                 "%sno timeline: %zu layers on %zu GPUs have too many transfers to "
                 "follow one by one",
                 used > 0 ? "; " : "", n_layers, n);
        return MP_OK;
    }
    struct mp_sim_options sim = s->sim;
    sim.with_bound = false;
    MP_TRY(mp_simulate_timeline(&t, p, score_steps(&r->scores[plan], s), s->topology, s->model, &sim, step, err));
    if (!allocate(d, n_layers, n)) {
        status = mp_nomem(err, "timeline of a report");
        goto out;
    }
    const struct bars b = {t, n_layers, n, d->bars, d->sent, d->received};
    for (size_t i = 0; i < t->n; i++)
        if (t->events[i].gpu == MP_NONE)
            put_part(d, &t->events[i]);
        else
            put_event(&b, &t->events[i]);
    report_set_starts(d->bars, d->start_ns, d->length_ns, n_layers, n * REPORT_KINDS);
    d->times = t->times;
    d->step = step;
out:
    mp_timeline_free(t);
    return status;
}
