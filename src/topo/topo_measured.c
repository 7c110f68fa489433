/* Levels and ports from measurements.
 *
 * Decides   groups of GPUs for each level, an out and an in port for each GPU and level.
 * Minimises nothing; bounds the deviation of every pair: min(out port, in port) against what was measured.
 * Method    the rates of all pairs (the better direction), sorted, are cut where one is more than 1.25 times the next;
 *           at each cut, GPUs joined by pairs above it are one group (single linkage, so that groups nest). From the
 *           inside outwards a level is taken into the next one when ports alone explain both (a slow port makes such a
 *           level): a port is the mean of what the GPU's best pairs reach. Ports within 1.10 are then made equal.
 * Bound     refused when a pair deviates by more than 25 %, or more levels are needed than there are.
 * Cost      O(n^2 log n + levels n^2). */
#include "topo_measured.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_CUTS = 64 };

struct fit {
    const struct measured *m;
    struct topo_draft *d;
    uint32_t n_levels;
    uint32_t *group[MAX_CUTS]; /* [n] of each level, numbered by the first GPU */
    double *out, *in;          /* [n] ports of the level being fitted; 0 = no pair */
    double worst;              /* deviation */
    uint32_t worst_from, worst_to;
};

static double rate(const struct fit *f, uint32_t i, uint32_t k) { return f->m->rate[(size_t)i * f->m->n + k]; }

static double better(const struct fit *f, uint32_t i, uint32_t k) {
    const double a = rate(f, i, k), b = rate(f, k, i);
    return a > b ? a : b;
}

static int compare_down(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return x > y ? -1 : x < y;
}

/* ---- groups ---- */

/* Groups of GPUs joined by pairs of at least `least`. */
static uint32_t join(const struct fit *f, double least, uint32_t *group, uint32_t *stack) {
    uint32_t n_groups = 0;
    for (uint32_t i = 0; i < f->m->n; i++)
        group[i] = MP_NONE;
    for (uint32_t i = 0; i < f->m->n; i++) {
        if (group[i] != MP_NONE)
            continue;
        uint32_t n = 0;
        group[i] = n_groups;
        stack[n++] = i;
        while (n > 0) {
            const uint32_t a = stack[--n];
            for (uint32_t b = 0; b < f->m->n; b++)
                if (group[b] == MP_NONE && better(f, a, b) >= least) {
                    group[b] = n_groups;
                    stack[n++] = b;
                }
        }
        n_groups++;
    }
    return n_groups;
}

static enum mp_status find_cuts(struct fit *f, struct mp_error *err) {
    enum mp_status status = MP_OK;
    const uint32_t n = f->m->n;
    const size_t n_pairs = (size_t)n * (n - 1) / 2;
    double *sorted = mp_calloc(n_pairs + 1, sizeof *sorted);
    uint32_t *stack = mp_calloc(n, sizeof *stack), last_groups = MP_NONE;
    if (sorted == NULL || stack == NULL) {
        status = mp_nomem(err, "reading a topology");
        goto out;
    }
    size_t at = 0;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t k = 0; k < i; k++)
            sorted[at++] = better(f, i, k);
    qsort(sorted, n_pairs, sizeof *sorted, compare_down);
    for (size_t i = 0; i < n_pairs; i++) {
        if (i + 1 < n_pairs && sorted[i] <= sorted[i + 1] * MEASURED_GAP)
            continue;
        if (f->n_levels == MAX_CUTS) {
            status = mp_fail_at(err, MP_EINPUT, f->d->in->path, 0, 0,
                                "more than %d steps of more than %g in the rates: no levels (measure again)", MAX_CUTS,
                                MEASURED_GAP);
            goto out;
        }
        uint32_t *group = mp_arena_alloc(f->d->arena, n, sizeof *group);
        if (group == NULL) {
            status = mp_nomem(err, "reading a topology");
            goto out;
        }
        const uint32_t n_groups = join(f, sorted[i], group, stack);
        if (n_groups == last_groups)
            continue; /* the same groups: these pairs are inside them already */
        last_groups = n_groups;
        f->group[f->n_levels++] = group;
        if (n_groups == 1)
            break;
    }
    if (n == 1) {
        f->group[0] = mp_arena_alloc(f->d->arena, 1, sizeof *f->group[0]);
        f->n_levels = 1;
        if (f->group[0] == NULL)
            status = mp_nomem(err, "reading a topology");
    }
out:
    mp_free(sorted);
    mp_free(stack);
    return status;
}

/* ---- ports ---- */

static bool is_pair(const uint32_t *below, const uint32_t *group, uint32_t i, uint32_t k) {
    return i != k && group[i] == group[k] && (below == NULL || below[i] != below[k]);
}

/* Mean of GPU g's rates within MEASURED_GAP of its best, among its pairs of the level. */
static double port(const struct fit *f, const uint32_t *below, const uint32_t *group, uint32_t g, bool is_in) {
    double best = 0, sum = 0;
    uint32_t n = 0;
    for (uint32_t k = 0; k < f->m->n; k++)
        if (is_pair(below, group, g, k)) {
            const double r = is_in ? rate(f, k, g) : rate(f, g, k);
            best = r > best ? r : best;
        }
    for (uint32_t k = 0; k < f->m->n; k++)
        if (is_pair(below, group, g, k)) {
            const double r = is_in ? rate(f, k, g) : rate(f, g, k);
            sum += r * MEASURED_GAP >= best ? r : 0;
            n += r * MEASURED_GAP >= best;
        }
    return n > 0 ? sum / n : 0;
}

/* The largest deviation of the pairs of a level, and its pair. */
static double deviation(const struct fit *f, const uint32_t *below, const uint32_t *group, uint32_t *from,
                        uint32_t *to) {
    double worst = 0;
    for (uint32_t i = 0; i < f->m->n; i++)
        for (uint32_t k = 0; k < f->m->n; k++) {
            if (!is_pair(below, group, i, k))
                continue;
            const double given = f->out[i] < f->in[k] ? f->out[i] : f->in[k];
            const double off = fabs(given - rate(f, i, k)) / rate(f, i, k);
            if (off > worst) {
                worst = off;
                *from = i;
                *to = k;
            }
        }
    return worst;
}

static void find_ports(struct fit *f, const uint32_t *below, const uint32_t *group) {
    for (uint32_t g = 0; g < f->m->n; g++) {
        f->out[g] = port(f, below, group, g, false);
        f->in[g] = port(f, below, group, g, true);
    }
}

/* Ports that differ by little become equal: the mean of each run of near ones. */
static enum mp_status snap_ports(struct fit *f, struct mp_error *err) {
    const uint32_t n = f->m->n;
    double *sorted = mp_calloc((size_t)2 * n, sizeof *sorted);
    if (sorted == NULL)
        return mp_nomem(err, "reading a topology");
    for (uint32_t g = 0; g < n; g++) {
        sorted[2 * g] = f->out[g];
        sorted[2 * g + 1] = f->in[g];
    }
    qsort(sorted, (size_t)2 * n, sizeof *sorted, compare_down);
    for (uint32_t first = 0, end; first < 2 * n && sorted[first] > 0; first = end) {
        double sum = 0;
        for (end = first;
             end < 2 * n && sorted[end] > 0 && (end == first || sorted[end - 1] <= sorted[end] * MEASURED_PORT_GAP);
             end++)
            sum += sorted[end];
        const double high = sorted[first], low = sorted[end - 1], mean = round(sum / (end - first));
        for (uint32_t g = 0; g < n; g++) {
            f->out[g] = f->out[g] <= high && f->out[g] >= low ? -mean : f->out[g];
            f->in[g] = f->in[g] <= high && f->in[g] >= low ? -mean : f->in[g];
        }
    }
    for (uint32_t g = 0; g < n; g++) { /* negative: done; so that no mean is met again */
        f->out[g] = fabs(f->out[g]);
        f->in[g] = fabs(f->in[g]);
    }
    mp_free(sorted);
    return MP_OK;
}

/* A level goes into the next when one set of ports explains both. */
static void merge_levels(struct fit *f) {
    for (uint32_t l = 0; l + 1 < f->n_levels;) {
        const uint32_t *below = l > 0 ? f->group[l - 1] : NULL;
        uint32_t from, to;
        find_ports(f, below, f->group[l + 1]);
        if (deviation(f, below, f->group[l + 1], &from, &to) > MEASURED_GAP - 1) {
            l++;
            continue;
        }
        memmove(&f->group[l], &f->group[l + 1], (f->n_levels - l - 1) * sizeof *f->group);
        f->n_levels--;
        l = l > 0 ? l - 1 : 0; /* what lies below may fit now */
    }
}

/* ---- result ---- */

static uint64_t mean_latency(const struct fit *f, const uint32_t *below, const uint32_t *group, uint64_t otherwise) {
    double sum = 0;
    uint64_t n = 0;
    for (uint32_t i = 0; i < f->m->n && f->m->latency_ns != NULL; i++)
        for (uint32_t k = 0; k < f->m->n; k++)
            if (is_pair(below, group, i, k)) {
                sum += f->m->latency_ns[(size_t)i * f->m->n + k];
                n++;
            }
    return n > 0 ? (uint64_t)llround(sum / (double)n) : otherwise;
}

static enum mp_status set_level(struct fit *f, uint32_t l, struct mp_error *err) {
    static const char *const tiers[] = {"", "tier1", "tier2", "tier3"};
    struct topo_draft *d = f->d;
    const uint32_t *below = l > 0 ? f->group[l - 1] : NULL, *group = f->group[l];
    double low = 0, high = 0;
    uint32_t from = 0, to = 0;
    enum mp_status status;
    find_ports(f, below, group);
    MP_TRY(snap_ports(f, err));
    const double off = deviation(f, below, group, &from, &to);
    if (off > f->worst) {
        f->worst = off;
        f->worst_from = from;
        f->worst_to = to;
    }
    if (off > MEASURED_GAP - 1)
        return mp_fail_at(
            err, MP_EINPUT, d->in->path, 0, 0,
            "GPU %u to GPU %u: %.4g GB/s measured where ports of these two would give %.4g, more than %g %% "
            "off: no tree of groups with a port for each GPU has these rates (measure again, or write the "
            "topology by hand)",
            from, to, rate(f, from, to) / 1e9, (f->out[from] < f->in[to] ? f->out[from] : f->in[to]) / 1e9,
            (MEASURED_GAP - 1) * 100);
    for (uint32_t g = 0; g < f->m->n; g++) {
        high = f->out[g] > high ? f->out[g] : high;
        high = f->in[g] > high ? f->in[g] : high;
        low = f->out[g] > 0 && (low == 0 || f->out[g] < low) ? f->out[g] : low;
        low = f->in[g] > 0 && (low == 0 || f->in[g] < low) ? f->in[g] : low;
    }
    if (high == 0) /* one GPU */
        high = low = (double)d->ports.scale_up_bytes_per_s;
    d->levels[l] = (struct topo_draft_level){
        .name = l == 0 ? d->ports.level : tiers[l],
        .latency_ns = mean_latency(f, below, group, l == 0 ? d->ports.scale_up_latency_ns : d->ports.nic_latency_ns)};
    for (uint32_t g = 0; g < f->m->n; g++) {
        const bool is_used = f->out[g] > 0;
        d->gpus[g].group[l] = group[g];
        d->gpus[g].out[l] = is_used ? (uint64_t)llround(f->out[g]) : l == 0 ? (uint64_t)llround(high) : 0;
        d->gpus[g].in[l] = is_used ? (uint64_t)llround(f->in[g]) : d->gpus[g].out[l];
    }
    if (low < high)
        topo_draft_say(d, "%s: ports of %.5g to %.5g GB/s.", d->levels[l].name, low / 1e9, high / 1e9);
    else
        topo_draft_say(d, "%s: ports of %.5g GB/s.", d->levels[l].name, high / 1e9);
out:
    return status;
}

enum mp_status measured_fit(const struct measured *m, struct topo_draft *d, struct mp_error *err) {
    enum mp_status status = MP_OK;
    const uint32_t n_max = d->in->n_hosts > 1 ? MP_MAX_LEVELS - 1 : MP_MAX_LEVELS;
    uint32_t at[3];
    char order[300];
    struct fit f = {.m = m, .d = d};
    f.out = mp_arena_alloc(d->arena, m->n, sizeof *f.out);
    f.in = mp_arena_alloc(d->arena, m->n, sizeof *f.in);
    uint32_t *flat = mp_arena_alloc(d->arena, (size_t)m->n * MP_MAX_LEVELS, sizeof *flat);
    if (f.out == NULL || f.in == NULL || flat == NULL)
        return mp_nomem(err, "reading a topology");
    MP_TRY(find_cuts(&f, err));
    merge_levels(&f);
    if (f.n_levels > n_max) {
        status = mp_fail_at(err, MP_EINPUT, d->in->path, 0, 0,
                            "the rates fall into %u levels, and there is room for %u (measure again, or write the "
                            "topology by hand)",
                            f.n_levels, n_max);
        goto out;
    }
    for (uint32_t l = 0; l < f.n_levels; l++)
        memcpy(flat + (size_t)l * m->n, f.group[l], m->n * sizeof *flat);
    const struct topo_nest nest = {.n = m->n, .n_levels = f.n_levels, .group = flat};
    if (!topo_nest_runs(&nest, at)) {
        status =
            mp_fail_at(err, MP_EINPUT, d->in->path, 0, 0,
                       "GPUs %u and %u are near each other and %u between them is not (measure with the ranks group by "
                       "group: %s)",
                       at[0], at[2], at[1], topo_nest_order(&nest, order, sizeof order));
        goto out;
    }
    d->n_levels = f.n_levels;
    for (uint32_t l = 0; l < f.n_levels; l++)
        MP_TRY(set_level(&f, l, err));
    if (m->n > 1)
        topo_draft_say(
            d, "Largest deviation of a pair from what was measured: %.1f %% (GPU %u to %u, %.4g GB/s measured).",
            f.worst * 100, f.worst_from, f.worst_to == f.worst_from ? !f.worst_from : f.worst_to,
            rate(&f, f.worst_from, f.worst_to == f.worst_from ? !f.worst_from : f.worst_to) / 1e9);
    topo_draft_say(d, "Latencies: %s. Pairs were measured alone: what several share (uplinks, NICs) cannot be seen.",
                   m->latency_ns != NULL ? "the mean of each level's pairs" : "of the GPU's preset");
out:
    return status;
}
