/* Which parts of a topology are alike. */
#include "topology_shape.h"
#include <stdio.h>
#include <string.h>

enum mp_status shape_new(struct shape *s, const struct mp_topology *t, struct mp_error *err) {
    *s = (struct shape){.t = t};
    for (uint32_t l = 0; l < t->n_levels; l++) {
        const uint32_t n = t->levels[l].n_groups;
        s->first[l] = mp_calloc((size_t)n + 1, sizeof *s->first[l]);
        if (s->first[l] == NULL) {
            shape_free(s);
            return mp_nomem(err, "drawing a topology");
        }
        for (uint32_t g = t->n_gpus; g-- > 0;)
            s->first[l][t->gpus[g].group[l]] = g;
        s->first[l][n] = t->n_gpus;
    }
    return MP_OK;
}

void shape_free(struct shape *s) {
    for (uint32_t l = 0; l < MP_MAX_LEVELS; l++)
        mp_free(s->first[l]);
    *s = (struct shape){0};
}

uint32_t shape_sharers(const struct mp_topology *t, uint32_t gpu, uint32_t level) {
    const uint32_t port = t->gpus[gpu].out_port[level], node = mp_topology_node(t, gpu);
    uint32_t n = 0;
    for (uint32_t g = t->resources[port].first_gpu; g < t->n_gpus && mp_topology_node(t, g) == node; g++)
        n += t->gpus[g].out_port[level] == port;
    return n;
}

bool shape_has_port(const struct mp_topology *t, uint32_t gpu, uint32_t level) {
    return level == 0 || t->gpus[gpu].out_port[level] != t->gpus[gpu].out_port[level - 1];
}

static bool same_rate(const struct mp_topology *t, uint32_t a, uint32_t b) {
    return t->resources[a].bytes_per_s == t->resources[b].bytes_per_s;
}

bool shape_gpus_alike(const struct mp_topology *t, uint32_t a, uint32_t b) {
    const struct mp_gpu *x = &t->gpus[a], *y = &t->gpus[b];
    bool is_alike = x->type == y->type && x->speed_ppm == y->speed_ppm;
    for (uint32_t l = 0; l < t->n_levels && is_alike; l++)
        is_alike = same_rate(t, x->out_port[l], y->out_port[l]) && same_rate(t, x->in_port[l], y->in_port[l]) &&
                   shape_has_port(t, a, l) == shape_has_port(t, b, l) &&
                   shape_sharers(t, a, l) == shape_sharers(t, b, l);
    return is_alike;
}

bool shape_groups_alike(const struct shape *s, uint32_t level, uint32_t a, uint32_t b) {
    const struct mp_topology *t = s->t;
    const uint32_t first_a = s->first[level][a], first_b = s->first[level][b], n = s->first[level][a + 1] - first_a;
    if (s->first[level][b + 1] - first_b != n)
        return false;
    for (uint32_t k = 0; k < n; k++) {
        const struct mp_gpu *x = &t->gpus[first_a + k], *y = &t->gpus[first_b + k];
        if (!shape_gpus_alike(t, first_a + k, first_b + k))
            return false;
        for (uint32_t l = 0; l <= level; l++) {
            const uint32_t *out = t->levels[l].uplink_out, *in = t->levels[l].uplink_in;
            if (s->first[l][x->group[l]] - first_a != s->first[l][y->group[l]] - first_b ||
                (out != NULL && (!same_rate(t, out[x->group[l]], out[y->group[l]]) ||
                                 !same_rate(t, in[x->group[l]], in[y->group[l]]))))
                return false;
        }
        for (uint32_t l = 0; l < t->n_levels; l++)
            if (t->resources[x->out_port[l]].first_gpu - first_a != t->resources[y->out_port[l]].first_gpu - first_b)
                return false;
    }
    return true;
}

void shape_children(const struct shape *s, uint32_t level, uint32_t g, uint32_t *begin, uint32_t *end) {
    const struct mp_topology *t = s->t;
    *begin = t->gpus[s->first[level][g]].group[level - 1];
    *end = t->gpus[s->first[level][g + 1] - 1].group[level - 1] + 1;
}

const char *shape_rate(const struct mp_topology *t, uint32_t out, uint32_t in, char *buf) {
    char a[32], b[32];
    const uint64_t x = t->resources[out].bytes_per_s, y = t->resources[in].bytes_per_s;
    if (x == y)
        snprintf(buf, 80, "%s/s", mp_human_bytes((double)x, a));
    else
        snprintf(buf, 80, "%s/s out, %s/s in", mp_human_bytes((double)x, a), mp_human_bytes((double)y, b));
    return buf;
}
