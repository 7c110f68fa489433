/* What a layer of two models on the same GPUs takes: Aurora's closed form, and a timeline by GPU and port.
 *
 * Decides   nothing; both evaluators of docs/COLOCATION.md parts 2 and 3.
 * Method    closed form: table 2 of Aurora on maxima over GPUs, with the maxima that its equalities leave out.
 *           Timeline: each model is a chain gate, dispatch, experts, combine, aggregate + next gate, ...; a phase is
 *           released on every GPU at once, when the phase before has ended everywhere (the barrier of a collective).
 *           A GPU computes, and a port sends, one thing at a time, in order of release. Phases are taken in that
 *           order, so each resource needs no more than the time from which it is free.
 * Bound     a port is never given more than its rate; flows are not followed through both their ports, which is
 *           exact for one all-to-all (a paced or decomposed schedule reaches the port bound) and Aurora's own
 *           aggregate |N_a + N_b| where two meet.
 * Paper     arXiv 2410.17043, table 2, section 6.1.
 * Differs   combine bytes may differ from dispatch bytes; launches and latencies.
 * Cost      O(layers * (GPUs + ports)). */
#include "coloc.h"
#include <moeplan/base.h>

static uint64_t more(uint64_t a, uint64_t b) { return a > b ? a : b; }

static uint64_t shot(uint64_t port_ns, uint64_t shot_ns) { return port_ns > 0 ? port_ns + shot_ns : 0; }

uint64_t mp_coloc_closed(const struct mp_coloc_peaks *k, uint64_t shot_ns) {
    const uint64_t na = shot(k->dispatch[0], shot_ns), nb = shot(k->dispatch[1], shot_ns);
    const uint64_t ca = shot(k->combine[0], shot_ns), cb = shot(k->combine[1], shot_ns);
    const uint64_t nn = shot(k->both_dispatch, shot_ns), cc = shot(k->both_combine, shot_ns);
    const uint64_t end_fa = more(k->gate[1], na) + k->experts[0];
    const uint64_t end_nb = more(nn, k->gate[1] + nb);
    const uint64_t end_fb = more(end_fa, end_nb) + k->experts[1];
    const uint64_t end_ca = more(nn, end_fa) + ca;
    const uint64_t end_aa = more(end_fb, end_ca) + k->aggregate[0];
    const uint64_t end_cb = more(more(nn + cc, end_fb + cb), end_ca);
    return more(end_aa, end_cb) + k->aggregate[1] + k->gate[0];
}

uint64_t mp_coloc_timeline_bound(const struct mp_coloc_peaks *k, const struct mp_coloc_shape *shape) {
    const uint64_t layers = shape->n_layers;
    uint64_t least_gate = k->gate[0] < k->gate[1] ? k->gate[0] : k->gate[1];
    uint64_t least_end = k->aggregate[0] < k->aggregate[1] ? k->aggregate[0] : k->aggregate[1];
    uint64_t most = layers * k->compute;
    if (k->port > 0) /* before the first byte a gate, after the last one latency and an aggregate */
        most = more(most, least_gate + layers * k->port + shape->shot_ns + least_end);
    for (int m = 0; m < 2; m++) {
        uint64_t inner = shot(k->dispatch[m], shape->shot_ns) + k->experts[m] + shot(k->combine[m], shape->shot_ns);
        most = more(most, k->gate[m] + layers * inner + (layers - 1) * k->between[m] + k->aggregate[m]);
    }
    return mp_ceil_div(most, layers);
}

void mp_coloc_peaks_of(struct mp_coloc_peaks *out, const struct mp_coloc_load load[2],
                       const struct mp_coloc_shape *shape) {
    const struct mp_coloc_load *a = &load[0], *b = &load[1];
    *out = (struct mp_coloc_peaks){.port = 0};
    for (uint32_t g = 0; g < shape->n_gpus; g++) {
        uint64_t sum = 0;
        for (int m = 0; m < 2; m++) {
            const struct mp_coloc_load *x = &load[m];
            out->gate[m] = more(out->gate[m], x->gate[g]);
            out->experts[m] = more(out->experts[m], x->experts[g]);
            out->aggregate[m] = more(out->aggregate[m], x->aggregate[g]);
            out->between[m] = more(out->between[m], x->gate[g] + x->aggregate[g]);
            sum += x->gate[g] + x->experts[g] + x->aggregate[g];
        }
        out->compute = more(out->compute, sum);
    }
    for (uint32_t p = 0; p < shape->n_ports; p++) {
        for (int m = 0; m < 2; m++) {
            out->dispatch[m] = more(out->dispatch[m], load[m].dispatch[p]);
            out->combine[m] = more(out->combine[m], load[m].combine[p]);
        }
        out->both_dispatch = more(out->both_dispatch, a->dispatch[p] + b->dispatch[p]);
        out->both_combine = more(out->both_combine, a->combine[p] + b->combine[p]);
        out->port = more(out->port, a->dispatch[p] + b->dispatch[p] + a->combine[p] + b->combine[p]);
    }
}

static bool note(struct mp_coloc_log *log, const struct mp_coloc_event *event) {
    if (log->n == log->n_allocated) {
        size_t want = log->n_allocated == 0 ? 256 : 2 * log->n_allocated;
        struct mp_coloc_event *grown = mp_realloc(log->events, want, sizeof *grown);
        if (grown == NULL)
            return false;
        log->events = grown;
        log->n_allocated = want;
    }
    log->events[log->n++] = *event;
    return true;
}

void mp_coloc_log_free(struct mp_coloc_log *log) {
    mp_free(log->events);
    *log = (struct mp_coloc_log){.n = 0};
}

/* Phase number `step` of a chain: work on each of n resources, added to what is due at their first moment free. */
struct phase {
    const uint64_t *work, *more_work; /* more_work NULL or added */
    uint64_t *free_at;
    uint32_t n, kind;
    bool is_transfer;
};

static struct phase phase_of(const struct mp_coloc_load *x, const struct mp_coloc_shape *shape, uint32_t step) {
    struct phase p = {.free_at = shape->free_at, .n = shape->n_gpus, .kind = step == 0 ? 0 : 1 + (step - 1) % 4};
    switch (p.kind) {
    case 0:
        p.work = x->gate;
        break;
    case 2:
        p.work = x->experts;
        break;
    case 4:
        p.work = x->aggregate;
        p.more_work = step == 4 * shape->n_layers ? NULL : x->gate;
        break;
    default:
        p.work = p.kind == 1 ? x->dispatch : x->combine;
        p.free_at = shape->free_at + shape->n_gpus;
        p.n = shape->n_ports;
        p.is_transfer = true;
    }
    return p;
}

/* How far a timeline is, for mp_coloc_timeline_below. */
struct progress {
    const struct mp_coloc_load *load;
    const struct mp_coloc_shape *shape;
    const struct mp_coloc_peaks *peaks;
    uint64_t rest[2]; /* each model's phases to come, by themselves */
    uint64_t limit;   /* of the whole timeline */
};

static uint64_t phase_peak(const struct progress *p, uint32_t m, uint32_t step) {
    const struct mp_coloc_peaks *k = p->peaks;
    if (step == 0)
        return k->gate[m];
    switch ((step - 1) % 4) {
    case 0:
        return shot(k->dispatch[m], p->shape->shot_ns);
    case 1:
        return k->experts[m];
    case 2:
        return shot(k->combine[m], p->shape->shot_ns);
    default:
        return step == 4 * p->shape->n_layers ? k->aggregate[m] : k->between[m];
    }
}

/* Will it end past the limit? Each model's phases to come follow each other; a port has to do all that is left to it,
 * and then an aggregate is left. Ports are looked at once a layer. */
static bool is_past(const struct progress *p, const uint32_t step[2], const uint64_t release[2]) {
    if (release[0] + p->rest[0] > p->limit || release[1] + p->rest[1] > p->limit)
        return true;
    if (step[0] % 4 != 0)
        return false;
    const uint64_t *a = p->peaks->aggregate, end = p->shape->shot_ns + (a[0] < a[1] ? a[0] : a[1]);
    uint64_t dispatches[2], combines[2];
    for (int m = 0; m < 2; m++) {
        const uint64_t left = 4 * p->shape->n_layers + 1 - (step[m] > 0 ? step[m] : 1);
        dispatches[m] = left / 4;
        combines[m] = (left + 2) / 4;
    }
    for (uint32_t r = 0; r < p->shape->n_ports; r++) {
        uint64_t sum = 0;
        for (int m = 0; m < 2; m++)
            sum += dispatches[m] * p->load[m].dispatch[r] + combines[m] * p->load[m].combine[r];
        if (sum > 0 && p->shape->free_at[p->shape->n_gpus + r] + sum + end > p->limit)
            return true;
    }
    return false;
}

static uint64_t run(const struct mp_coloc_load load[2], unsigned which, const struct mp_coloc_shape *shape,
                    struct mp_coloc_log *log, bool *failed, struct progress *progress) {
    const uint32_t n_steps = 4 * shape->n_layers + 1;
    uint64_t release[2] = {0, 0};
    uint32_t step[2] = {which & 1 ? 0 : n_steps, which & 2 ? 0 : n_steps};
    for (uint32_t r = 0; r < shape->n_gpus + shape->n_ports; r++)
        shape->free_at[r] = 0;
    while (step[0] < n_steps || step[1] < n_steps) {
        const uint32_t m = step[1] == n_steps || (step[0] < n_steps && release[0] <= release[1]) ? 0 : 1;
        const struct phase p = phase_of(&load[m], shape, step[m]);
        uint64_t end = release[m];
        bool any = false;
        for (uint32_t r = 0; r < p.n; r++) {
            const uint64_t work = p.work[r] + (p.more_work != NULL ? p.more_work[r] : 0);
            if (work == 0)
                continue;
            const uint64_t start = more(release[m], p.free_at[r]);
            p.free_at[r] = start + work;
            end = more(end, start + work);
            any = true;
            if (log != NULL && !note(log, &(struct mp_coloc_event){.model = m,
                                                                   .layer = step[m] == 0 ? 0 : (step[m] - 1) / 4,
                                                                   .phase = p.kind,
                                                                   .resource = r,
                                                                   .start_ns = start,
                                                                   .end_ns = start + work}))
                *failed = true;
        }
        release[m] = end + (any && p.is_transfer ? shape->shot_ns : 0);
        if (progress != NULL) {
            progress->rest[m] -= phase_peak(progress, m, step[m]);
            step[m]++;
            if (is_past(progress, step, release))
                return UINT64_MAX;
        } else
            step[m]++;
    }
    return mp_ceil_div(more(release[0], release[1]), shape->n_layers);
}

uint64_t mp_coloc_timeline(const struct mp_coloc_load load[2], unsigned which, const struct mp_coloc_shape *shape,
                           struct mp_coloc_log *log, bool *failed) {
    return run(load, which, shape, log, failed, NULL);
}

uint64_t mp_coloc_timeline_below(const struct mp_coloc_load load[2], const struct mp_coloc_shape *shape,
                                 const struct mp_coloc_peaks *peaks, uint64_t limit) {
    bool failed = false;
    struct progress p = {.load = load, .shape = shape, .peaks = peaks};
    if (limit == 0 || mp_mul_overflow(limit - 1, shape->n_layers, &p.limit))
        p.limit = limit == 0 ? 0 : UINT64_MAX;
    for (uint32_t m = 0; m < 2; m++)
        for (uint32_t step = 0; step <= 4 * shape->n_layers; step++)
            p.rest[m] += phase_peak(&p, m, step);
    return run(load, 3, shape, NULL, &failed, &p);
}
