/* A topology as an analytical network of ASTRA-sim, where it is one: every GPU has the same ports, every group of a
 * level as many groups in it. The inverse of topo_read_astra_sim.c. */
#include "topo_astra.h"
#include <moeplan/base.h>
#include <stdio.h>
#include <string.h>

/* The shortest decimal that reads back as x. */
static const char *number(double x, char buf[40]) {
    double back;
    for (int digits = 6; digits < 18; digits++) {
        snprintf(buf, 40, "%.*g", digits, x);
        if (mp_parse_double(buf, strlen(buf), &back) && back == x)
            break;
    }
    return buf;
}

struct shape {
    uint32_t n[MP_MAX_LEVELS];    /* members of a group of each level: groups of the level below, or GPUs */
    uint64_t port[MP_MAX_LEVELS]; /* bytes/s */
};

static enum mp_status find_sizes(const struct mp_topology *t, struct shape *s, struct mp_error *err) {
    uint32_t inner = 1;
    for (uint32_t l = 0; l < t->n_levels; l++) {
        const uint32_t n_groups = t->levels[l].n_groups, size = t->n_gpus / n_groups;
        bool is_even = t->n_gpus % n_groups == 0 && size % inner == 0;
        for (uint32_t g = 0; g < t->n_gpus && is_even; g++)
            is_even = t->gpus[g].group[l] == g / size;
        if (!is_even)
            return mp_fail(err, MP_EINPUT,
                           "astra-sim: the groups of level %s have different sizes; its dimensions "
                           "cannot",
                           t->levels[l].name);
        s->n[l] = size / inner;
        inner = size;
    }
    return MP_OK;
}

static enum mp_status find_ports(const struct mp_topology *t, struct shape *s, struct mp_error *err) {
    for (uint32_t l = 0; l < t->n_levels; l++) {
        const char *level = t->levels[l].name;
        if (t->levels[l].uplink_out != NULL)
            return mp_fail(err, MP_EINPUT, "astra-sim: the groups of level %s have uplinks, which its dimensions lack",
                           level);
        for (uint32_t g = 0; g < t->n_gpus; g++) {
            const struct mp_resource *out = &t->resources[t->gpus[g].out_port[l]],
                                     *in = &t->resources[t->gpus[g].in_port[l]];
            if (out->level != l)
                return mp_fail(err, MP_EINPUT,
                               "astra-sim: a port of GPU %u serves level %s and the one below; its "
                               "dimensions have links of their own",
                               g, level);
            if (out->first_gpu != g)
                return mp_fail(err, MP_EINPUT,
                               "astra-sim: GPUs %u and %u share a port of level %s; its NPUs share none",
                               out->first_gpu, g, level);
            if (g == 0)
                s->port[l] = out->bytes_per_s;
            if (out->bytes_per_s != s->port[l] || in->bytes_per_s != s->port[l])
                return mp_fail(err, MP_EINPUT,
                               "astra-sim: the ports of GPU %u at level %s have another rate (%llu out, "
                               "%llu in) than %llu B/s of GPU 0 out; its dimensions have one rate",
                               g, level, (unsigned long long)out->bytes_per_s, (unsigned long long)in->bytes_per_s,
                               (unsigned long long)s->port[l]);
        }
    }
    return MP_OK;
}

/* Kind, link and latency of a level; the latency is exact, in ns. */
static enum mp_status find_link(const struct mp_topology *t, const struct shape *s, uint32_t l, const char **kind,
                                uint64_t *link, double *latency, struct mp_error *err) {
    const struct mp_level *v = &t->levels[l];
    const uint32_t n = s->n[l];
    const uint64_t pair = v->pair_bytes_per_s;
    *latency = (double)v->latency_ns;
    *link = pair;
    if (pair > 0 && n > 3 && s->port[l] == astra_ring_port(n, pair)) {
        *kind = "Ring";
        *latency = *latency * (n - 1) / (double)astra_ring_hops(n);
    } else if (pair == 0 || pair >= s->port[l]) {
        *kind = "Switch";
        *link = s->port[l];
        *latency /= 2;
    } else if (s->port[l] == pair * (n - 1)) {
        *kind = "FullyConnected";
    } else {
        return mp_fail(err, MP_EINPUT,
                       "astra-sim: ports of %llu and pairs of %llu B/s among %u at level %s are no Switch, no "
                       "FullyConnected (%llu) and no Ring",
                       (unsigned long long)s->port[l], (unsigned long long)pair, n, v->name,
                       (unsigned long long)(pair * (n - 1)));
    }
    return MP_OK;
}

static void add_lost(char *lost, size_t size, const char *text) {
    const size_t used = strlen(lost);
    snprintf(lost + used, size - used, "%s\n", text);
}

static enum mp_status write_astra(const struct mp_topology *t, struct mp_out *o, char *lost, size_t size,
                                  struct mp_error *err) {
    enum mp_status status;
    struct shape s;
    const char *kind[MP_MAX_LEVELS];
    uint64_t link[MP_MAX_LEVELS];
    double latency[MP_MAX_LEVELS];
    char buf[40], text[200];
    MP_TRY(find_sizes(t, &s, err));
    MP_TRY(find_ports(t, &s, err));
    for (uint32_t l = 0; l < t->n_levels; l++)
        MP_TRY(find_link(t, &s, l, &kind[l], &link[l], &latency[l], err));
    mp_out_puts(o,
                "# Written by moeplan. A GB is 2^30 bytes, as ASTRA-sim counts it; of a Switch the latency is of one\n"
                "# of the two links that a message passes.\ntopology: [ ");
    for (uint32_t l = 0; l < t->n_levels; l++)
        mp_out_printf(o, "%s%s", l > 0 ? ", " : "", kind[l]);
    mp_out_puts(o, " ]\nnpus_count: [ ");
    for (uint32_t l = 0; l < t->n_levels; l++)
        mp_out_printf(o, "%s%u", l > 0 ? ", " : "", s.n[l]);
    mp_out_puts(o, " ]\nbandwidth: [ ");
    for (uint32_t l = 0; l < t->n_levels; l++)
        mp_out_printf(o, "%s%s", l > 0 ? ", " : "", number((double)link[l] / ASTRA_GB, buf));
    mp_out_puts(o, " ]  # GB/s\nlatency: [ ");
    for (uint32_t l = 0; l < t->n_levels; l++)
        mp_out_printf(o, "%s%s", l > 0 ? ", " : "", number(latency[l], buf));
    mp_out_puts(o, " ]  # ns\n");
    snprintf(text, sizeof text,
             "astra-sim: what the GPUs are (%s%s) and the launch of a collective (%llu ns) are left out",
             t->types[0].name, t->n_types > 1 ? " and others" : "", (unsigned long long)t->launch_ns);
    add_lost(lost, size, text);
    for (uint32_t l = 0; l < t->n_levels; l++) {
        const struct mp_level *v = &t->levels[l];
        if (v->n_incast == 0 || v->incast_ppm[v->n_incast - 1] == 1000000)
            continue;
        snprintf(text, sizeof text, "astra-sim: incast at level %.80s (down to %.6g) is left out", v->name,
                 v->incast_ppm[v->n_incast - 1] / 1e6);
        add_lost(lost, size, text);
    }
out:
    return status;
}

const struct topo_writer topo_writer_astra_sim = {
    .name = "astra-sim",
    .summary = "analytical network of ASTRA-sim: equal ports, no uplinks, no shared NICs",
    .reference = "astra-sim/inputs/network/analytical, common/NetworkFunction.cpp",
    .write = write_astra,
};
