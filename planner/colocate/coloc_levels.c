/* Bounds of transfers on clusters of several levels, or of ports that GPUs share, for branch and bound.
 *
 * Decides   nothing.
 * Method    two numbers that no way to place the other groups goes below. A table: of a group on a GPU, what has to
 * pass the GPU's ports of the outermost level. What comes to it is from sources of other nodes; where sources are
 *           data-parallel these are known, else as many of the largest are left out as fit into the node. What leaves
 *           is all but what the fullest groups that fit into the node would keep. And of the groups that are placed:
 *           every port's load from pairs whose ends are both known. Either only grows as groups are placed, and of
 *           two models on one GPU both load the same port, so their sums are bounds too.
 * Bound     -
 * Paper     none.
 * Cost      tables O(n^3 log n) once; O(n^2) for a part. */
#include "coloc_levels.h"
#include "coloc_load.h"
#include <moeplan/base.h>
#include <stdlib.h>
#include <string.h>

struct mp_coloc_levels {
    const struct mp_coloc_groups *g;
    uint32_t n, n_ports;
    const struct mp_path *path; /* [n][n] */
    uint64_t *bytes[2][2];      /* [model][combine]: [source * n + group] of one pair of ends */
    uint64_t *load;             /* [4][n_ports] scratch: dispatch and combine of both models */
};

static uint64_t more(uint64_t a, uint64_t b) { return a > b ? a : b; }

static int falling(const void *x, const void *y) {
    const uint64_t a = *(const uint64_t *)x, b = *(const uint64_t *)y;
    return a > b ? -1 : a < b;
}

/* Sum of all but the largest n_left_out. */
static uint64_t rest_of(uint64_t *bytes, uint32_t n, uint32_t n_left_out) {
    uint64_t sum = 0;
    qsort(bytes, n, sizeof *bytes, falling);
    for (uint32_t i = n_left_out; i < n; i++)
        sum += bytes[i];
    return sum;
}

static void fill_tables(const struct mp_coloc_levels *s, uint32_t model, bool is_combine, uint64_t *scratch) {
    const struct mp_coloc_groups *g = s->g;
    const struct mp_topology *t = g->in->topology;
    const uint32_t n = s->n, outermost = t->n_levels - 1;
    const bool is_coupled = g->in->model[model].is_coupled;
    const uint64_t *bytes = s->bytes[model][is_combine];
    uint64_t *const *table = is_combine ? g->combine[model] : g->dispatch[model];
    for (uint32_t gpu = 0; gpu < n; gpu++) {
        const uint64_t out_rate = t->resources[t->gpus[gpu].out_port[outermost]].bytes_per_s;
        const uint64_t in_rate = t->resources[t->gpus[gpu].in_port[outermost]].bytes_per_s;
        uint32_t n_inside = 0;
        for (uint32_t x = 0; x < n; x++)
            n_inside += x != gpu && s->path[(size_t)gpu * n + x].level < outermost;
        for (uint32_t i = 0; i < n; i++) {
            const uint32_t source = is_coupled ? i : gpu;
            uint32_t count = 0;
            for (uint32_t j = 0; j < n; j++)
                if (j != i)
                    scratch[count++] = bytes[(size_t)source * n + j];
            const uint64_t from = rest_of(scratch, count, n_inside < count ? n_inside : count);
            count = 0;
            for (uint32_t x = 0; x < n; x++)
                if (x != source && (is_coupled || s->path[(size_t)gpu * n + x].level == outermost))
                    scratch[count++] = bytes[(size_t)x * n + i];
            const uint64_t to = rest_of(scratch, count, !is_coupled ? 0 : n_inside < count ? n_inside : count);
            table[0][(size_t)i * n + gpu] = mp_coloc_port_ns(is_combine ? to : from, out_rate);
            table[1][(size_t)i * n + gpu] = mp_coloc_port_ns(is_combine ? from : to, in_rate);
        }
    }
}

enum mp_status mp_coloc_levels_new(struct mp_coloc_levels **out, struct mp_coloc_groups *g, struct mp_arena *arena,
                                   struct mp_error *err) {
    const uint32_t n = g->n, n_ports = g->in->topology->n_resources;
    const size_t size = (size_t)n * n;
    struct mp_coloc_levels *s = mp_arena_alloc(arena, 1, sizeof *s);
    struct mp_path *path = mp_arena_alloc(arena, size, sizeof *path);
    uint64_t *bytes = mp_arena_alloc(arena, 4 * size + 4 * (size_t)n_ports + n, sizeof *bytes);
    *out = s;
    if (s == NULL || path == NULL || bytes == NULL)
        return mp_nomem(err, "branch and bound");
    *s = (struct mp_coloc_levels){.g = g, .n = n, .n_ports = n_ports, .path = path, .load = bytes + 4 * size};
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++)
            mp_topology_path(g->in->topology, i, j, &path[(size_t)i * n + j]);
    for (uint32_t m = 0; m < 2; m++)
        for (int back = 0; back < 2; back++) {
            const struct mp_coloc_model *model = &g->grouped.model[m];
            s->bytes[m][back] = bytes + (2 * (size_t)m + (size_t)back) * size;
            for (size_t at = 0; at < size; at++)
                s->bytes[m][back][at] = mp_coloc_bytes(model, model->tokens[at], back == 1);
            fill_tables(s, m, back == 1, s->load + 4 * (size_t)n_ports);
        }
    return MP_OK;
}

static void add(const struct mp_coloc_levels *s, uint64_t *load, uint32_t from, uint32_t to, uint64_t bytes) {
    const struct mp_path *p = &s->path[(size_t)from * s->n + to];
    for (uint32_t k = 0; k < p->n; k++)
        load[p->resource[k]] += bytes;
}

void mp_coloc_levels_raise(const struct mp_coloc_levels *s, uint32_t n, const uint32_t *gpus, uint32_t *const on[2],
                           struct mp_coloc_peaks *k) {
    const struct mp_resource *resources = s->g->in->topology->resources;
    memset(s->load, 0, 4 * (size_t)s->n_ports * sizeof *s->load);
    for (uint32_t m = 0; m < 2; m++) {
        const bool is_coupled = s->g->in->model[m].is_coupled;
        for (uint32_t d = 0; d < n; d++)
            for (uint32_t e = 0; e < (is_coupled ? n : s->n); e++) {
                const uint32_t to = gpus[d], from = is_coupled ? gpus[e] : e;
                const size_t at = (size_t)(is_coupled ? on[m][from] : from) * s->n + on[m][to];
                if (from == to)
                    continue;
                add(s, s->load + 2 * (size_t)m * s->n_ports, from, to, s->bytes[m][0][at]);
                add(s, s->load + (2 * (size_t)m + 1) * s->n_ports, to, from, s->bytes[m][1][at]);
            }
    }
    for (uint32_t p = 0; p < s->n_ports; p++) {
        uint64_t ns[4];
        for (uint32_t i = 0; i < 4; i++)
            ns[i] = mp_coloc_port_ns(s->load[(size_t)i * s->n_ports + p], resources[p].bytes_per_s);
        for (uint32_t m = 0; m < 2; m++) {
            k->dispatch[m] = more(k->dispatch[m], ns[2 * m]);
            k->combine[m] = more(k->combine[m], ns[2 * m + 1]);
        }
        k->both_dispatch = more(k->both_dispatch, ns[0] + ns[2]);
        k->both_combine = more(k->both_combine, ns[1] + ns[3]);
        k->port = more(k->port, ns[0] + ns[1] + ns[2] + ns[3]);
    }
}
