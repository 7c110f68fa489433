/* Calibration: which runs are made, in which order, and what is fitted to them. All ranks see the same times and so
 * make the same decisions; nothing here looks at a clock.
 *
 * Decides:  rate of each class of ports, uplinks and pairs; launch, latency and cost of a stage; incast curve;
 *           coefficients of computation.
 * Method:   probes whose time one figure decides (probe.c), least times of repeated runs, fits of fit.c. Shapers let
 *           some bytes pass at once (token buckets): a rate is the slope of sizes that are all well beyond that.
 * Differs:  launch and latency are both a constant of every transfer, a stage's cost and latency both its slope: no
 * time tells them apart. The outermost level keeps its nominal latency, as far as the measured constants have room. */
#include "calibrate_private.h"
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum {
    SEARCH_FIRST = 4096, /* bytes on an edge where the search for a size begins */
    SEARCH_FACTOR = 8,   /* its largest step */
    SEARCH_RUNS = 2,
    BLOCK_BYTES = 64 << 20, /* of a rank; ranks of one process share four times as much */
    GPU_BLOCK_BYTES = 256 << 20,
    SIZES = 4,        /* of a rate: quarters of the largest */
    GROWTHS = 6,      /* how often these may prove too small */
    PROBES_MAX = 4,   /* how much longer than a probe runs may get for lines that are not straight */
    TINY_SIZES = 4,   /* of a launch: 8, 16, 32, 64 bytes */
    TINY_FACTOR = 4,  /* as many times more runs of these: they are short and vary */
    STAGE_COUNTS = 5, /* 2, 4, 8, 16, 32 stages */
    SENDERS_MAX = 32  /* of an incast curve */
};
#define SLOPE_ERROR_TRY 0.05 /* part of a rate that its standard error may be before longer runs are tried */
#define NOISE_ERRORS 3       /* a negative value within so many standard errors is 0 */
#define INCAST_SEEN 0.98     /* a curve that stays above it is none */

const char *mp_fit_kind_name(enum mp_fit_kind kind) {
    static const char *const names[] = {"rate", "pair", "launch", "stage", "incast", "compute"};
    return names[kind];
}

/* ---- runs ---- */

enum mp_status calibrate_gather(struct calibration *x, struct mp_error *err) {
    return x->transport->gather(x->link, x->mine, x->all, sizeof *x->mine, err);
}

/* The slowest rank's time of the first n_edges edges with `bytes` on each: the least of the runs. */
static enum mp_status measure(struct calibration *x, const struct ex_pattern *p, size_t n_edges, uint64_t bytes,
                              uint32_t n_runs, uint64_t *ns, struct mp_error *err) {
    const uint32_t n_local = x->world.n_local, first = x->world.first_rank;
    struct ex_times *times = NULL;
    struct ex_probe *probe;
    enum mp_status status =
        ex_probe_new(&probe, p, n_edges, bytes, x->c->stage_mode, &x->transport->limits, x->n_probes, err);
    if (status != MP_OK)
        return status;
    x->n_probes++;
    probe->next = x->probes;
    x->probes = probe;
    MP_TRY(ex_times_new(&times, probe->script, err));
    if (x->transport->prepare != NULL) {
        const struct ex_script *const one = probe->script;
        MP_TRY(x->transport->prepare(x->link, &one, 1, err));
    }
    *ns = UINT64_MAX;
    for (uint32_t i = 0; i < x->in->n_warmup + n_runs; i++) {
        uint64_t slowest = 1;
        memset(times->total_ns, 0, times->n_ranks * sizeof *times->total_ns);
        MP_TRY(x->transport->run(x->link, probe->script, times, err));
        for (uint32_t k = 0; k < n_local; k++)
            x->mine[k] = times->total_ns[first + k];
        MP_TRY(calibrate_gather(x, err));
        for (uint32_t r = 0; r < x->world.n_ranks; r++)
            slowest = x->all[r] > slowest ? x->all[r] : slowest;
        if (i >= x->in->n_warmup && slowest < *ns)
            *ns = slowest;
    }
out:
    ex_times_free(times);
    return status;
}

/* A number of bytes on each edge that takes about probe_ns, or as many as there is memory for. Never much more than
 * what the last run says: a run that others disturbed must not end the search early, nor one too short make it jump. */
static enum mp_status find_size(struct calibration *x, const struct ex_pattern *p, uint64_t *bytes,
                                struct mp_error *err) {
    const uint64_t most = ex_pattern_most(p, x->block_bytes), step = (uint64_t)SIZES * EX_ALIGN;
    uint64_t size = SEARCH_FIRST < most ? SEARCH_FIRST : most, ns;
    for (;;) {
        enum mp_status status = measure(x, p, p->n, size, SEARCH_RUNS, &ns, err);
        if (status != MP_OK)
            return status;
        if (ns >= x->probe_ns / 4 * 3 || size == most)
            break;
        const uint64_t wanted = mp_mul_div(size, x->probe_ns, ns), limit = SEARCH_FACTOR * size;
        size = wanted < limit ? wanted : limit;
        size = size < most ? size : most;
    }
    *bytes = size > step ? size / step * step : step;
    return MP_OK;
}

/* ---- fits ---- */

static uint64_t whole(double ns) { return ns > 0 ? (uint64_t)llround(ns) : 0; }

void calibrate_remark(struct mp_fit *f, bool is_bad, const char *fmt, ...) {
    va_list args;
    const size_t n = strlen(f->note);
    f->is_bad |= is_bad;
    (void)snprintf(f->note + n, sizeof f->note - n, "%s", n > 0 ? "; " : "");
    va_start(args, fmt);
    (void)vsnprintf(f->note + strlen(f->note), sizeof f->note - strlen(f->note), fmt, args);
    va_end(args);
}

void calibrate_judge(struct mp_fit *f) {
    if (f->residual > RESIDUAL_MAX)
        calibrate_remark(f, true, "the fit is off by %.1f %%, more than %.0f %%", f->residual * 100,
                         RESIDUAL_MAX * 100);
}

/* A value below 0: 0, and bad unless that is within its error. */
static void judge_sign(struct mp_fit *f) {
    if (f->value >= 0)
        return;
    if (-f->value > NOISE_ERRORS * f->error)
        calibrate_remark(f, true, "came out negative (%.0f ns); 0 is taken", f->value);
    else
        calibrate_remark(f, false, "not to be told from 0");
    f->value = 0;
}

enum mp_status calibrate_new_fit(struct calibration *x, struct mp_fit **out, enum mp_fit_kind kind, uint32_t level,
                                 size_t n_points, struct mp_error *err) {
    struct mp_calibration *c = x->c;
    if (c->n_fits == x->n_fits_allocated)
        return mp_fail(err, MP_EBUG, "calibration: more than %zu fits", x->n_fits_allocated);
    struct mp_fit *f = &c->fits[c->n_fits++];
    *f = (struct mp_fit){.kind = kind, .level = level, .type = MP_NONE, .n_points = n_points};
    f->points = mp_arena_alloc(c->arena, n_points > 0 ? n_points : 1, sizeof *f->points);
    *out = f;
    return f->points != NULL ? MP_OK : mp_nomem(err, "a calibration");
}

/* Sizes of which the largest is `largest` on each edge, and their line. */
static enum mp_status measure_sizes(struct calibration *x, const struct ex_pattern *p, uint64_t largest, uint32_t load,
                                    struct ex_sample samples[SIZES], struct ex_line *line, bool *is_line,
                                    struct mp_error *err) {
    for (uint32_t i = 0; i < SIZES; i++) {
        const uint64_t bytes = largest / SIZES * (i + 1);
        uint64_t ns;
        enum mp_status status = measure(x, p, p->n, bytes, x->in->n_iterations, &ns, err);
        if (status != MP_OK)
            return status;
        samples[i] = (struct ex_sample){(double)(bytes * load), (double)ns};
    }
    *is_line = ex_fit_line(line, samples, SIZES);
    return MP_OK;
}

/* What passes at once before the rate counts, in bytes through the port: where the line meets no time at all. */
static double burst_of(const struct ex_line *line) { return line->b > 0 && line->a < 0 ? -line->a / line->b : 0; }
/* Is the least size not clearly beyond it? Then the line may have a knee, and its slope is none. */
static bool is_within_burst(const struct ex_line *line, const struct ex_sample *least) {
    return 2 * burst_of(line) > least->x;
}

/* Sizes that a rate can be seen by: long enough (what disturbed the search may have ended it early), beyond any burst,
 * on a line. Each time they are not, larger ones are tried, as long as there is memory. */
static enum mp_status find_line(struct calibration *x, const struct ex_pattern *p, uint32_t load,
                                struct ex_sample samples[SIZES], struct ex_line *line, bool *is_line,
                                struct mp_error *err) {
    const uint64_t step = (uint64_t)SIZES * EX_ALIGN, most = ex_pattern_most(p, x->block_bytes) / step * step;
    uint64_t largest;
    enum mp_status status = find_size(x, p, &largest, err);
    for (uint32_t i = 0; status == MP_OK; i++) {
        status = measure_sizes(x, p, largest, load, samples, line, is_line, err);
        if (status != MP_OK)
            break;
        const double longest = samples[SIZES - 1].ns, probe = (double)x->probe_ns;
        const bool is_straight = *is_line && line->b > 0 && line->b_error <= SLOPE_ERROR_TRY * line->b;
        if (i == GROWTHS || largest >= most ||
            (longest >= probe / 2 && !is_within_burst(line, &samples[0]) &&
             (is_straight || longest >= PROBES_MAX * probe)))
            break;
        const double beyond = 2.5 * SIZES * burst_of(line) / load; /* the least of the sizes, with something to spare */
        uint64_t wanted = beyond > 2 * (double)largest ? (beyond < 8 * (double)largest ? (uint64_t)beyond : 8 * largest)
                                                       : 2 * largest;
        wanted = wanted / step * step;
        largest = wanted < most ? wanted : most;
    }
    return status;
}

/* Ports, uplinks or pairs with one nominal rate. */
static enum mp_status fit_class(struct calibration *x, const struct ex_class *k, struct mp_error *err) {
    const struct mp_topology *t = x->in->topology;
    struct ex_pattern p = {0};
    struct ex_sample samples[SIZES];
    struct ex_line line;
    struct mp_fit *f;
    uint32_t load;
    bool is_line = false;
    enum mp_status status = calibrate_new_fit(x, &f, k->is_pair ? MP_FIT_PAIR : MP_FIT_RATE, k->level, SIZES, err);
    if (status != MP_OK)
        return status;
    f->is_uplink = k->is_uplink;
    f->nominal = k->bytes_per_s;
    (void)snprintf(f->what, sizeof f->what, "%s of %.60s, nominal %llu B/s",
                   k->is_pair     ? "pairs"
                   : k->is_uplink ? "uplinks"
                                  : "ports",
                   t->levels[k->level].name, (unsigned long long)k->bytes_per_s);
    MP_TRY(ex_pattern_of_class(&p, &load, t, k, err));
    if (p.n == 0) {
        f->n_points = 0;
        calibrate_remark(f, false, "kept: other figures always limit before it, or nobody uses it");
        goto out;
    }
    MP_TRY(find_line(x, &p, load, samples, &line, &is_line, err));
    if (!is_line) {
        f->n_points = 0;
        calibrate_remark(f, true, "kept: no room for two sizes");
        goto out;
    }
    for (uint32_t i = 0; i < SIZES; i++)
        f->points[i] = (struct mp_fit_point){samples[i].x, (uint64_t)samples[i].ns, line.a + line.b * samples[i].x};
    f->residual = line.residual;
    if (!(line.b > 0)) {
        calibrate_remark(f, true, "kept: more bytes did not take longer");
    } else {
        f->is_known = true;
        f->value = 1e9 / line.b;
        f->error = line.b_error / line.b * f->value;
        calibrate_judge(f);
        if (is_within_burst(&line, &samples[0]))
            calibrate_remark(f, true, "about %.0f bytes pass at once, and the least of the sizes had %.0f",
                             burst_of(&line), samples[0].x);
        if (line.b_error > RESIDUAL_MAX * line.b)
            calibrate_remark(f, true, "the slope's standard error is %.0f %%", line.b_error / line.b * 100);
    }
out:
    ex_pattern_free(&p);
    return status;
}

static enum mp_status fit_classes(struct calibration *x, struct mp_error *err) {
    const struct mp_topology *t = x->in->topology;
    enum mp_status status = MP_OK;
    for (uint32_t r = 0; r < t->n_resources; r++) {
        const struct mp_resource *a = &t->resources[r];
        bool is_new = true;
        for (uint32_t q = 0; q < r && is_new; q++)
            is_new = t->resources[q].level != a->level || t->resources[q].is_uplink != a->is_uplink ||
                     t->resources[q].bytes_per_s != a->bytes_per_s;
        if (is_new)
            MP_TRY(fit_class(
                x, &(struct ex_class){.level = a->level, .is_uplink = a->is_uplink, .bytes_per_s = a->bytes_per_s},
                err));
    }
    for (uint32_t l = 0; l < t->n_levels; l++)
        if (t->levels[l].pair_bytes_per_s > 0)
            MP_TRY(fit_class(
                x, &(struct ex_class){.level = l, .is_pair = true, .bytes_per_s = t->levels[l].pair_bytes_per_s}, err));
out:
    return status;
}

/* Launch plus latency of a level: single shots of a few bytes. */
static enum mp_status fit_launch(struct calibration *x, uint32_t level, struct mp_error *err) {
    const struct mp_topology *t = x->in->topology;
    struct ex_pattern p = {0};
    struct ex_sample samples[TINY_SIZES];
    double byte_ns = 0;
    uint32_t n_unseen = 0;
    struct mp_fit *f;
    enum mp_status status = calibrate_new_fit(x, &f, MP_FIT_LAUNCH, level, TINY_SIZES, err);
    if (status != MP_OK)
        return status;
    (void)snprintf(f->what, sizeof f->what, "launch and latency of %.60s", t->levels[level].name);
    f->nominal = t->launch_ns + t->levels[level].latency_ns;
    MP_TRY(ex_pattern_ring(&p, t, NULL, level, 1, err));
    if (p.n == 0) {
        f->n_points = 0;
        calibrate_remark(f, false, "kept: nobody has a peer there");
        goto out;
    }
    MP_TRY(ex_pattern_bound(&byte_ns, &p, &x->c->topology, err));
    for (uint32_t i = 0; i < TINY_SIZES; i++) {
        const uint64_t bytes = 8ull << i;
        uint64_t ns;
        MP_TRY(measure(x, &p, p.n, bytes, TINY_FACTOR * x->in->n_iterations, &ns, err));
        const double rest = (double)ns - byte_ns * (double)bytes; /* slow links: these few bytes take their time too */
        n_unseen += rest < 1;
        samples[i] = (struct ex_sample){(double)bytes, rest > 1 ? rest : 1};
    }
    const struct ex_line line = ex_fit_constant(samples, TINY_SIZES);
    for (uint32_t i = 0; i < TINY_SIZES; i++)
        f->points[i] = (struct mp_fit_point){samples[i].x, whole(samples[i].ns + byte_ns * samples[i].x),
                                             line.a + byte_ns * samples[i].x};
    if (n_unseen > 0) {
        calibrate_remark(f, true, "kept: %u of %u short runs took no longer than their bytes at the fitted rates",
                         n_unseen, (uint32_t)TINY_SIZES);
        goto out;
    }
    f->is_known = true;
    f->value = line.a;
    f->error = line.a_error;
    f->residual = line.residual;
    calibrate_judge(f);
out:
    ex_pattern_free(&p);
    return status;
}

/* A stage and the level's latency: the same bytes in ever more stages. */
static enum mp_status fit_stage(struct calibration *x, uint32_t level, struct mp_error *err) {
    const struct mp_topology *t = x->in->topology;
    struct ex_pattern p = {0};
    struct ex_sample samples[STAGE_COUNTS];
    struct ex_line line;
    struct mp_fit *f;
    uint64_t bytes;
    enum mp_status status = calibrate_new_fit(x, &f, MP_FIT_STAGE, level, STAGE_COUNTS, err);
    if (status != MP_OK)
        return status;
    (void)snprintf(f->what, sizeof f->what, "a stage and latency of %.60s", t->levels[level].name);
    f->nominal = t->stage_launch_ns + t->levels[level].latency_ns;
    MP_TRY(ex_pattern_ring(&p, t, NULL, level, 1, err));
    MP_TRY(find_size(x, &p, &bytes, err));
    bytes = bytes / 2 > EX_ALIGN << STAGE_COUNTS ? bytes / 2 : EX_ALIGN << STAGE_COUNTS;
    for (uint32_t i = 0; i < STAGE_COUNTS; i++) {
        const uint32_t n_stages = 2u << i;
        uint64_t ns;
        ex_pattern_free(&p);
        MP_TRY(ex_pattern_ring(&p, t, NULL, level, n_stages, err));
        MP_TRY(measure(x, &p, p.n, bytes / n_stages, x->in->n_iterations, &ns, err));
        samples[i] = (struct ex_sample){(double)n_stages, (double)ns};
    }
    (void)ex_fit_line(&line, samples, STAGE_COUNTS);
    for (uint32_t i = 0; i < STAGE_COUNTS; i++)
        f->points[i] = (struct mp_fit_point){samples[i].x, (uint64_t)samples[i].ns, line.a + line.b * samples[i].x};
    f->is_known = true;
    f->value = line.b;
    f->error = line.b_error;
    f->residual = line.residual;
    judge_sign(f);
    calibrate_judge(f);
out:
    ex_pattern_free(&p);
    return status;
}

/* The port of a receiver, as ever more senders fill it. The constant of a shot is taken off. */
static enum mp_status fit_incast(struct calibration *x, uint32_t level, double constant_ns, struct mp_error *err) {
    const struct mp_topology *t = x->in->topology;
    struct ex_pattern p = {0}, one = {0};
    uint32_t counts[SENDERS_MAX];
    double factors[SENDERS_MAX], gained = 1;
    size_t n = 0;
    struct mp_fit *f;
    uint64_t bytes, first_ns = 0;
    enum mp_status status = calibrate_new_fit(x, &f, MP_FIT_INCAST, level, SENDERS_MAX, err);
    if (status != MP_OK)
        return status;
    (void)snprintf(f->what, sizeof f->what, "incast of %.60s", t->levels[level].name);
    MP_TRY(ex_pattern_incast(&p, t, level, err));
    const uint32_t most = p.n < SENDERS_MAX ? (uint32_t)p.n : SENDERS_MAX;
    if (most < 2) {
        f->n_points = 0;
        calibrate_remark(f, false, "kept: no two senders that fill a port of it each");
        goto out;
    }
    one = p;
    one.n = 1;
    MP_TRY(find_size(x, &one, &bytes, err));
    for (uint32_t k = 1; k <= most; k = k < 4 || 2 * k <= most || k == most ? (k < 4 ? k + 1 : 2 * k) : most) {
        uint64_t ns;
        MP_TRY(measure(x, &p, k, bytes / k, x->in->n_iterations, &ns, err));
        first_ns = k == 1 ? ns : first_ns;
        const double own = (double)ns - constant_ns, first = (double)first_ns - constant_ns;
        counts[n] = k;
        f->points[n] = (struct mp_fit_point){k, ns, 0};
        factors[n] = own > 0 && first > 0 ? first / own : 1;
        gained = factors[n] > gained ? factors[n] : gained;
        factors[n] = factors[n] > 1 ? 1 : factors[n]; /* what several gain is no error of a curve that falls from 1 */
        n++;
    }
    f->residual = ex_fit_falling(factors, n);
    f->n_points = n;
    for (size_t i = 0; i < n; i++)
        f->points[i].fitted_ns = ((double)first_ns - constant_ns) / factors[i] + constant_ns;
    f->is_known = true;
    f->value = factors[n - 1];
    calibrate_judge(f);
    if (gained > 2 - INCAST_SEEN)
        calibrate_remark(f, false, "one sender alone gets less than several, by up to %.0f %%", (1 - 1 / gained) * 100);
    if (f->value < INCAST_SEEN) {
        uint32_t *curve = mp_arena_alloc(x->c->arena, most, sizeof *curve);
        if (curve == NULL) {
            status = mp_nomem(err, "a calibration");
            goto out;
        }
        for (uint32_t k = 1, i = 0; k <= most; k++) { /* counts that were left out lie on a line */
            while (counts[i] < k)
                i++;
            const double share = counts[i] == k ? 1 : (double)(k - counts[i - 1]) / (counts[i] - counts[i - 1]);
            const double factor = share >= 1 ? factors[i] : factors[i - 1] + share * (factors[i] - factors[i - 1]);
            curve[k - 1] = k == 1 ? 1000000 : factor < 0.001 ? 1000 : (uint32_t)llround(factor * 1e6);
        }
        struct mp_level *levels = (struct mp_level *)(uintptr_t)x->c->topology.levels;
        levels[level].n_incast = most;
        levels[level].incast_ppm = curve;
    } else {
        struct mp_level *levels = (struct mp_level *)(uintptr_t)x->c->topology.levels;
        levels[level].n_incast = 0;
        levels[level].incast_ppm = NULL;
        calibrate_remark(f, false, "none: %u senders at once get %.1f %% of what one gets", most, f->value * 100);
    }
out:
    ex_pattern_free(&p);
    return status;
}

/* ---- the topology ---- */

static void *copy_of(struct mp_arena *arena, const void *from, size_t n, size_t size) {
    void *to = mp_arena_alloc(arena, n, size);
    if (to != NULL && n > 0)
        memcpy(to, from, n * size);
    return to;
}

static void put_rates(struct mp_calibration *c) {
    struct mp_resource *resources = (struct mp_resource *)(uintptr_t)c->topology.resources;
    struct mp_level *levels = (struct mp_level *)(uintptr_t)c->topology.levels;
    for (uint32_t r = 0; r < c->topology.n_resources; r++) { /* nominal rates of all fits stand in the fits */
        const struct mp_resource was = resources[r];
        for (size_t i = 0; i < c->n_fits; i++) {
            const struct mp_fit *f = &c->fits[i];
            if (f->is_known && f->kind == MP_FIT_RATE && f->level == was.level && f->is_uplink == was.is_uplink &&
                f->nominal == was.bytes_per_s) {
                resources[r].bytes_per_s = f->value < 1 ? 1 : whole(f->value);
                break;
            }
        }
    }
    for (size_t i = 0; i < c->n_fits; i++)
        if (c->fits[i].is_known && c->fits[i].kind == MP_FIT_PAIR)
            levels[c->fits[i].level].pair_bytes_per_s = c->fits[i].value < 1 ? 1 : whole(c->fits[i].value);
}

/* Launch, stage and latencies from the constants; the outermost level that has peers keeps its nominal latency, and so
 * does one whose constant could not be seen. */
static void put_constants(struct mp_calibration *c) {
    struct mp_level *levels = (struct mp_level *)(uintptr_t)c->topology.levels;
    const struct mp_fit *launch = NULL, *stage = NULL;
    for (size_t i = 0; i < c->n_fits; i++) {
        const struct mp_fit *f = &c->fits[i];
        if (f->is_known && f->kind == MP_FIT_LAUNCH)
            launch = f; /* levels rise */
        if (f->is_known && f->kind == MP_FIT_STAGE)
            stage = f;
    }
    if (stage != NULL && (launch == NULL || launch->level != stage->level)) {
        c->topology.stage_launch_ns = whole(stage->value - (double)levels[stage->level].latency_ns);
        stage = NULL;
    }
    if (launch == NULL)
        return;
    double latency = (double)levels[launch->level].latency_ns;
    latency = latency < launch->value ? latency : launch->value;
    if (stage != NULL && stage->value < latency)
        latency = stage->value;
    c->topology.launch_ns = whole(launch->value - latency);
    if (stage != NULL)
        c->topology.stage_launch_ns = whole(stage->value - latency);
    for (size_t i = 0; i < c->n_fits; i++)
        if (c->fits[i].is_known && c->fits[i].kind == MP_FIT_LAUNCH)
            levels[c->fits[i].level].latency_ns = whole(c->fits[i].value - (launch->value - latency));
}

/* ---- all of it ---- */

static enum mp_status begin(struct calibration *x, struct mp_error *err) {
    const struct mp_exec *in = x->in;
    const struct mp_topology *t = in->topology;
    char text[400];
    enum mp_status status = MP_OK;
    const enum mp_stage_mode wanted = in->stage_mode < 0 ? MP_STAGE_FREE : (enum mp_stage_mode)in->stage_mode;
    const uint64_t room = x->transport->push != NULL ? GPU_BLOCK_BYTES
                          : in->n_local > 1          ? (uint64_t)4 * BLOCK_BYTES / in->n_local
                                                     : BLOCK_BYTES;
    x->block_bytes = room < x->block_bytes ? room : x->block_bytes;
    if (strcmp(in->transport, "mpi-alltoallv") == 0)
        return mp_fail(err, MP_EUSAGE, "--calibrate: transport mpi-alltoallv knows no stages (take mpi)");
    x->world = (struct ex_world){.n_ranks = in->n_ranks,
                                 .first_rank = in->first_rank,
                                 .n_local = in->n_local,
                                 .local_rank = in->local_rank,
                                 .topology = t,
                                 .deadline_ms = in->deadline_ms,
                                 .rendezvous = in->rendezvous,
                                 .hosts = in->hosts,
                                 .congestion = in->congestion,
                                 .sockets_fd = in->launcher_fd};
    if (in->fault != NULL)
        MP_TRY(ex_fault_parse(&x->world.fault, in->fault, err));
    (void)snprintf(text, sizeof text, "calibrate %s %s %d %u %u %llu %llu %s", t->sha256,
                   in->model != NULL ? in->model->sha256 : "", in->stage_mode, in->n_warmup, in->n_iterations,
                   (unsigned long long)x->block_bytes, (unsigned long long)x->probe_ns, in->transport);
    mp_sha256_hex(text, strlen(text), x->world.identity);
    struct mp_arena *arena = mp_arena_new();
    struct mp_calibration *c = arena != NULL ? mp_arena_alloc(arena, 1, sizeof *c) : NULL;
    if (c == NULL) {
        mp_arena_free(arena);
        return mp_nomem(err, "a calibration");
    }
    x->n_fits_allocated = (size_t)t->n_resources + 4 * (size_t)t->n_levels + t->n_types + 1;
    *c = (struct mp_calibration){.transport = x->transport->name,
                                 .n_ranks = in->n_ranks,
                                 .n_iterations = in->n_iterations,
                                 .stage_mode = ex_limits_mode(&x->transport->limits, wanted),
                                 .model = in->model != NULL ? in->model->name : NULL,
                                 .topology = *t,
                                 .arena = arena};
    x->c = c;
    c->topology.source = "measured by moeplan-exec --calibrate";
    c->fits = mp_arena_alloc(arena, x->n_fits_allocated, sizeof *c->fits);
    c->topology.levels = copy_of(arena, t->levels, t->n_levels, sizeof *t->levels);
    c->topology.resources = copy_of(arena, t->resources, t->n_resources, sizeof *t->resources);
    c->topology.types = copy_of(arena, t->types, t->n_types, sizeof *t->types);
    x->mine = mp_calloc(in->n_local, sizeof *x->mine);
    x->all = mp_calloc(in->n_ranks, sizeof *x->all);
    if (c->fits == NULL || c->topology.levels == NULL || c->topology.resources == NULL || c->topology.types == NULL ||
        x->mine == NULL || x->all == NULL)
        status = mp_nomem(err, "a calibration");
out:
    return status;
}

static enum mp_status all_fits(struct calibration *x, struct mp_error *err) {
    const struct mp_topology *t = x->in->topology;
    const uint64_t margin = (uint64_t)EX_ALIGN * (2 * (uint64_t)t->n_gpus + 2);
    enum mp_status status = MP_OK;
    uint32_t outermost = MP_NONE;
    for (uint32_t i = 0; i < x->world.n_local; i++) {
        void *view;
        MP_TRY(x->transport->alloc(x->link, x->world.first_rank + i, x->block_bytes + margin, &view, err));
        memset(view, 0x5A, x->block_bytes + margin); /* memory that is there: the first run pays for no pages */
        if (x->transport->push != NULL)
            MP_TRY(x->transport->push(x->link, x->world.first_rank + i, 0, x->block_bytes + margin, err));
    }
    MP_TRY(fit_classes(x, err));
    put_rates(x->c);
    const size_t first_launch = x->c->n_fits;
    for (uint32_t l = 0; l < t->n_levels; l++)
        MP_TRY(fit_launch(x, l, err));
    for (uint32_t l = 0; l < t->n_levels; l++) {
        if (x->c->fits[first_launch + l].n_points == 0) /* nobody has a peer there */
            continue;
        outermost = l;
        MP_TRY(fit_incast(x, l, x->c->fits[first_launch + l].value, err));
    }
    if (outermost != MP_NONE)
        MP_TRY(fit_stage(x, outermost, err));
    if (x->in->model != NULL)
        MP_TRY(calibrate_compute(x, err));
    put_constants(x->c);
    for (size_t i = 0; i < x->c->n_fits; i++)
        x->c->n_bad += x->c->fits[i].is_bad;
    status = mp_topology_check(&x->c->topology, err);
out:
    return status;
}

enum mp_status ex_calibrate(struct mp_calibration **out, const struct mp_exec *in, const struct ex_transport *transport,
                            uint64_t block_bytes, uint64_t probe_ms, struct mp_error *err) {
    *out = NULL;
    struct calibration x = {
        .in = in, .transport = transport, .block_bytes = block_bytes, .probe_ns = probe_ms * 1000000};
    struct mp_error why = {0};
    enum mp_status status = MP_OK;
    MP_TRY(begin(&x, &why));
    MP_TRY(x.transport->open(&x.link, &x.world, &why));
    MP_TRY(all_fits(&x, &why));
    *out = x.c;
    x.c = NULL;
out:
    if (status != MP_OK && x.link != NULL)
        x.transport->abort(x.link, &why);
    x.transport->close(x.link);
    if (status != MP_OK && err != NULL && err->status == MP_OK)
        *err = why;
    for (struct ex_probe *p = x.probes, *next; p != NULL; p = next) {
        next = p->next;
        ex_probe_free(p);
    }
    mp_free(x.mine);
    mp_free(x.all);
    mp_calibration_free(x.c);
    return status;
}

enum mp_status mp_calibrate(struct mp_calibration **out, const struct mp_exec *in, uint64_t block_bytes,
                            uint64_t probe_ms, struct mp_error *err) {
    const struct ex_transport *transport = ex_transport_find(in->transport);
    *out = NULL;
    if (transport == NULL)
        return mp_fail(err, MP_EUSAGE, "unknown transport \"%s\" (all: moeplan-exec --list transports)", in->transport);
    return ex_calibrate(out, in, transport, block_bytes, probe_ms, err);
}

void mp_calibration_free(struct mp_calibration *c) {
    if (c != NULL)
        mp_arena_free(c->arena);
}
