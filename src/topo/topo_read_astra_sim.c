/* ASTRA-sim's analytical network: dimensions, innermost first, each a Switch, a FullyConnected or a Ring.
 *
 * Decides   one level for each dimension.
 * Method    Switch: the port is the link, and a message passes two links (the latency counts twice). FullyConnected: a
 *           link for each pair. Ring: ports at what an all-to-all gets through the links, latency of the mean number of
 *           links. GB are 2^30 bytes, as ASTRA-sim counts them. */
#include "topo_astra.h"
#include "topo_draft.h"
#include <math.h>
#include <moeplan/base.h>
#include <string.h>

static bool line_starts(const char *text, size_t size, const char *key) {
    const size_t n = strlen(key);
    for (const char *s = text, *end = text + size; s != NULL && (size_t)(end - s) >= n;) {
        if (memcmp(s, key, n) == 0)
            return true;
        s = memchr(s, '\n', (size_t)(end - s));
        s = s != NULL ? s + 1 : NULL;
    }
    return false;
}

static bool detect(const char *text, size_t size) {
    return line_starts(text, size, "npus_count:") && line_starts(text, size, "topology:");
}

struct dimension {
    enum { SWITCH, FULLY_CONNECTED, RING } kind;
    uint32_t n;
    double bandwidth, latency_ns;
};

static enum mp_status read_number(const struct mp_yaml_doc *d, const struct mp_yaml *n, double min, double max,
                                  const char *what, double *out, struct mp_error *err) {
    enum mp_status status = mp_yaml_expect(d, n, MP_YAML_SCALAR, err);
    char quoted[200];
    if (status == MP_OK && (!mp_parse_double(n->text, n->length, out) || *out < min || *out > max))
        status =
            mp_yaml_fail(d, n, err, "\"%s\" is not %s (write for instance %s)",
                         mp_quote(n->text, n->length, quoted, sizeof quoted), what, max > 1e7 ? "936.25" : "400.0");
    return status;
}

static enum mp_status read_dimensions(const struct mp_yaml_doc *d, struct dimension *dims, uint32_t *n_dims,
                                      struct mp_error *err) {
    static const char *const keys[] = {"topology", "npus_count", "bandwidth", "latency", NULL}, *const kinds[] = {
                                                                                                    "Switch",
                                                                                                    "FullyConnected",
                                                                                                    "Ring"};
    enum mp_status status;
    const struct mp_yaml *list[4];
    char quoted[200];
    MP_TRY(mp_yaml_keys(d, d->root, keys, err));
    for (uint32_t k = 0; k < 4; k++) {
        MP_TRY(mp_yaml_need(d, d->root, keys[k], &list[k], err));
        MP_TRY(mp_yaml_expect(d, list[k], MP_YAML_SEQUENCE, err));
        if (list[k]->n == 0 || list[k]->n > MP_MAX_LEVELS) {
            status = mp_yaml_fail(d, list[k], err, "%u dimensions are not between 1 and %u (moeplan has %u levels)",
                                  list[k]->n, MP_MAX_LEVELS, MP_MAX_LEVELS);
            goto out;
        }
        if (list[k]->n != list[0]->n) {
            status = mp_yaml_fail(d, list[k], err, "%u entries for %u dimensions (write one for each)", list[k]->n,
                                  list[0]->n);
            goto out;
        }
    }
    *n_dims = list[0]->n;
    for (uint32_t i = 0; i < *n_dims; i++) {
        const struct mp_yaml *kind = &list[0]->items[i];
        MP_TRY(mp_yaml_expect(d, kind, MP_YAML_SCALAR, err));
        uint32_t k = 0;
        while (k < 3 && strcmp(kinds[k], kind->text) != 0)
            k++;
        if (k == 3) {
            status =
                mp_yaml_fail(d, kind, err, "\"%s\" is not a kind of dimension (write Switch, FullyConnected or Ring)",
                             mp_quote(kind->text, kind->length, quoted, sizeof quoted));
            goto out;
        }
        dims[i].kind = k == 0 ? SWITCH : k == 1 ? FULLY_CONNECTED : RING;
        MP_TRY(mp_yaml_u32(d, &list[1]->items[i], 1, MP_MAX_GPUS, &dims[i].n, err));
        MP_TRY(read_number(d, &list[2]->items[i], 1e-9, 1e6, "a number of GB/s", &dims[i].bandwidth, err));
        MP_TRY(read_number(d, &list[3]->items[i], 0, 1e9, "a number of ns", &dims[i].latency_ns, err));
    }
out:
    return status;
}

/* False when a rate or the latency is outside what a topology may have. */
static bool set_level(struct topo_draft *d, uint32_t l, const struct dimension *m, uint32_t inner) {
    static const char *const names[] = {"dim1", "dim2", "dim3", "dim4"}, *const kinds[] = {"Switch", "FullyConnected",
                                                                                           "Ring"};
    const uint64_t link = (uint64_t)llround(m->bandwidth * ASTRA_GB);
    uint64_t port = link, pair = 0;
    double latency = 2 * m->latency_ns;
    if (m->kind == FULLY_CONNECTED) {
        port = m->n > 2 ? link * (m->n - 1) : link;
        pair = m->n > 2 ? link : 0;
        latency = m->latency_ns;
    } else if (m->kind == RING) {
        port = astra_ring_port(m->n, link);
        pair = m->n > 2 ? link : 0;
        latency = m->n > 1 ? m->latency_ns * (double)astra_ring_hops(m->n) / (m->n - 1) : m->latency_ns;
    }
    d->levels[l] =
        (struct topo_draft_level){.name = names[l], .latency_ns = (uint64_t)llround(latency), .pair_bytes_per_s = pair};
    topo_draft_port(d, l, port);
    for (uint32_t g = 0; g < d->n_gpus; g++)
        d->gpus[g].group[l] = g / (inner * m->n);
    topo_draft_say(d, "%s is %s of %u: %.6g GB/s (10^9) a GPU%s, %.6g ns%s.", names[l], kinds[m->kind], m->n,
                   (double)port / 1e9, m->kind == RING && m->n > 3 ? ", what an all-to-all gets through the ring" : "",
                   latency,
                   m->kind == SWITCH             ? " (two links)"
                   : m->kind == RING && m->n > 2 ? " (mean of the ways)"
                                                 : "");
    return true;
}

static enum mp_status read_astra(const struct topo_source *in, struct mp_out *yaml, struct mp_error *err) {
    enum mp_status status;
    struct mp_in *text = NULL;
    struct mp_yaml_doc *doc = NULL;
    struct topo_draft *d = NULL;
    struct dimension dims[MP_MAX_LEVELS];
    uint32_t n_dims = 0, n_gpus = 1, inner = 1;
    MP_TRY(topo_draft_new(&d, in, "which GPUs these are", err));
    MP_TRY(mp_in_from_memory(&text, in->path, in->text, in->size, err));
    MP_TRY(mp_yaml_parse(&doc, text, NULL, err));
    MP_TRY(read_dimensions(doc, dims, &n_dims, err));
    for (uint32_t i = 0; i < n_dims; i++) {
        if (n_gpus > MP_MAX_GPUS / dims[i].n) {
            status = mp_yaml_fail(doc, mp_yaml_get(doc->root, "npus_count"), err, "more than %u GPUs (write fewer)",
                                  MP_MAX_GPUS);
            goto out;
        }
        n_gpus *= dims[i].n;
    }
    MP_TRY(topo_draft_gpus(d, n_gpus, mp_yaml_get(doc->root, "npus_count")->line, err));
    topo_draft_say(d, "Read from an ASTRA-sim analytical network file; its GB are 2^30 bytes.");
    for (d->n_levels = 0; d->n_levels < n_dims; d->n_levels++) {
        if (!set_level(d, d->n_levels, &dims[d->n_levels], inner)) {
            status =
                mp_yaml_fail(doc, &mp_yaml_get(doc->root, "bandwidth")->items[d->n_levels], err,
                             "with %u NPUs a port or the latency of this dimension is outside [1 B/s, 1 PB/s] or [0, "
                             "1 s] (write other figures)",
                             dims[d->n_levels].n);
            goto out;
        }
        inner *= dims[d->n_levels].n;
    }
    if (!topo_draft_network(d)) {
        status = mp_yaml_fail(doc, mp_yaml_get(doc->root, "npus_count"), err,
                              "with %u dimensions there is no level left that joins the hosts (name the file without a "
                              "number of hosts)",
                              n_dims);
        goto out;
    }
    topo_draft_write(d, yaml);
out:
    mp_yaml_free(doc);
    mp_in_close(text);
    topo_draft_free(d);
    return status;
}

const struct topo_reader topo_reader_astra_sim = {
    .name = "astra-sim",
    .summary = "the analytical network of ASTRA-sim: dimensions of Switch, FullyConnected, Ring (needs :GPU)",
    .reference = "astra-sim/inputs/network/analytical, common/NetworkFunction.cpp",
    .detect = detect,
    .read = read_astra,
};
