/* Experts in groups, one group of each model for each GPU, and what a group costs on each GPU.
 *
 * Decides   which experts of a model go together, where it has not just as many as there are GPUs.
 * Minimises the largest of (pairs of a group * time of its GPU for a pair), groups in the order of GPUs.
 * Method    the most used expert first, into the group that is then least full for its GPU and has a slot left. What a
 *           GPU takes is its time for the whole model: experts, and dispatch and combine at the ports of each level by
 *           how many GPUs are reached there.
 * Bound     none (longest processing time first).
 * Paper     Graham, SIAM J. Appl. Math. 17(2), 1969.
 * Cost      O(E n); tables O(n^2). */
#include "coloc.h"
#include "coloc_load.h"
#include <moeplan/base.h>
#include <stdlib.h>
#include <string.h>

struct ranked {
    uint64_t weight;
    uint32_t index;
};
static int by_weight(const void *x, const void *y) {
    const struct ranked *a = x, *b = y;
    if (a->weight != b->weight)
        return a->weight > b->weight ? -1 : 1;
    return a->index < b->index ? -1 : a->index > b->index;
}

/* Do GPUs have one port out and one in, nobody else's? */
static bool separable(const struct mp_topology *t) {
    if (t->n_levels != 1 || t->levels[0].pair_bytes_per_s > 0)
        return false;
    for (uint32_t g = 1; g < t->n_gpus; g++)
        for (uint32_t h = 0; h < g; h++)
            if (t->gpus[g].out_port[0] == t->gpus[h].out_port[0] || t->gpus[g].in_port[0] == t->gpus[h].in_port[0])
                return false;
    return true;
}

/* Time of a GPU that has all experts of the model, the tokens coming from everywhere alike. */
static uint64_t whole_ns(const struct mp_coloc_groups *g, uint32_t model, uint32_t gpu, uint64_t tokens,
                         uint64_t active, uint64_t padded) {
    const struct mp_coloc_model *m = &g->in->model[model];
    const struct mp_topology *t = g->in->topology;
    uint64_t ns = mp_coloc_experts_ns(g->in, model, gpu, 0, active, padded), most[2] = {0, 0};
    for (uint32_t v = 0; v < t->n_levels; v++) {
        uint64_t reached = 0;
        for (uint32_t x = 0; x < g->n; x++) {
            uint32_t level = 0;
            while (level + 1 < t->n_levels && t->gpus[x].group[level] != t->gpus[gpu].group[level])
                level++;
            reached += x != gpu && level == v;
        }
        for (int back = 0; back < 2; back++) {
            const uint32_t port = back ? t->gpus[gpu].out_port[v] : t->gpus[gpu].in_port[v];
            const uint64_t bytes = mp_mul_div(mp_coloc_bytes(m, tokens, back == 1), reached, g->n);
            const uint64_t time = mp_coloc_port_ns(bytes, t->resources[port].bytes_per_s);
            most[back] = time > most[back] ? time : most[back];
        }
    }
    return ns + most[0] + most[1] + 1;
}

static enum mp_status group(struct mp_coloc_groups *g, uint32_t model, struct mp_error *err) {
    const struct mp_coloc_model *m = &g->in->model[model];
    const uint32_t n = g->n, n_sources = m->is_coupled ? m->n_experts : n;
    const uint32_t slots = g->in->slots[model] > 0 ? g->in->slots[model] : (m->n_experts + n - 1) / n;
    struct ranked *order = mp_arena_alloc(g->arena, m->n_experts, sizeof *order);
    uint64_t *weight = mp_arena_alloc(g->arena, 2 * (size_t)n, sizeof *weight), *ns = weight + n;
    uint64_t tokens = 0, active = 0, padded = 0;
    const uint32_t *of_gpu = g->in->gpu_slots[model];
    uint32_t *used = mp_arena_alloc(g->arena, n, sizeof *used);
    uint64_t room = of_gpu == NULL ? (uint64_t)slots * n : 0;
    g->group_of[model] = mp_arena_alloc(g->arena, m->n_experts, sizeof *g->group_of[model]);
    if (order == NULL || weight == NULL || used == NULL || g->group_of[model] == NULL)
        return mp_nomem(err, "groups of experts");
    g->size[model] = used;
    for (uint32_t x = 0; x < n && of_gpu != NULL; x++)
        room += of_gpu[x];
    if (room < m->n_experts)
        return mp_fail(err, MP_EUSAGE, "%u experts do not fit %u slots on each of %u GPUs", m->n_experts, slots, n);
    for (uint32_t e = 0; e < m->n_experts; e++) {
        order[e].index = e;
        for (uint32_t s = 0; s < n_sources; s++)
            order[e].weight += m->tokens[(size_t)s * m->n_experts + e];
        g->group_of[model][e] = e;
        tokens += order[e].weight;
        active += m->active != NULL ? m->active[e] : order[e].weight > 0 ? m->n_steps : 0;
        padded += m->padded != NULL ? m->padded[e] : order[e].weight;
    }
    if (m->n_experts <= n && of_gpu == NULL)
        return MP_OK;
    for (uint32_t x = 0; x < n; x++)
        ns[x] = whole_ns(g, model, x, tokens, active, padded);
    qsort(order, m->n_experts, sizeof *order, by_weight);
    for (uint32_t k = 0; k < m->n_experts; k++) {
        uint32_t best = MP_NONE;
        for (uint32_t x = 0; x < n; x++)
            if (used[x] < (of_gpu != NULL ? of_gpu[x] : slots) &&
                (best == MP_NONE || (unsigned __int128)(weight[x] + order[k].weight) * ns[x] <
                                        (unsigned __int128)(weight[best] + order[k].weight) * ns[best]))
                best = x;
        g->group_of[model][order[k].index] = best;
        weight[best] += order[k].weight;
        used[best]++;
    }
    return MP_OK;
}

/* The model with its groups for experts. */
static enum mp_status merge(struct mp_coloc_groups *g, uint32_t model, struct mp_error *err) {
    const struct mp_coloc_model *m = &g->in->model[model];
    const uint32_t n = g->n, n_sources = m->is_coupled ? m->n_experts : n;
    struct mp_coloc_model *to = &g->grouped.model[model];
    uint64_t *tokens = mp_arena_alloc(g->arena, (size_t)n * n, sizeof *tokens);
    uint64_t *sources = mp_arena_alloc(g->arena, 3 * (size_t)n, sizeof *sources);
    if (tokens == NULL || sources == NULL)
        return mp_nomem(err, "groups of experts");
    uint64_t *padded = sources + n, *active = padded + n;
    for (uint32_t s = 0; s < n_sources; s++) {
        const uint32_t from = m->is_coupled ? g->group_of[model][s] : s;
        uint64_t sum = 0;
        for (uint32_t e = 0; e < m->n_experts; e++) {
            tokens[(size_t)from * n + g->group_of[model][e]] += m->tokens[(size_t)s * m->n_experts + e];
            sum += m->tokens[(size_t)s * m->n_experts + e];
        }
        sources[from] += m->source_tokens != NULL ? m->source_tokens[s] : sum;
    }
    for (uint32_t e = 0; e < m->n_experts; e++) {
        uint64_t sum = 0;
        for (uint32_t s = 0; s < n_sources; s++)
            sum += m->tokens[(size_t)s * m->n_experts + e];
        padded[g->group_of[model][e]] += m->padded != NULL ? m->padded[e] : sum;
        active[g->group_of[model][e]] += m->active != NULL ? m->active[e] : sum > 0 ? m->n_steps : 0;
    }
    *to = *m;
    to->n_experts = n;
    to->tokens = tokens;
    to->source_tokens = sources;
    to->padded = padded;
    to->active = active;
    return MP_OK;
}

static enum mp_status tables(struct mp_coloc_groups *g, uint32_t model, struct mp_error *err) {
    const struct mp_coloc_problem *in = &g->grouped;
    const struct mp_coloc_model *m = &in->model[model];
    const struct mp_topology *t = in->topology;
    const uint32_t n = g->n;
    const size_t size = (size_t)n * n;
    uint64_t *all = mp_arena_alloc(g->arena, 7 * size, sizeof *all);
    if (all == NULL)
        return mp_nomem(err, "groups of experts");
    g->gate[model] = all;
    g->experts[model] = all + size;
    g->aggregate[model] = all + 2 * size;
    for (int side = 0; side < 2; side++) {
        g->dispatch[model][side] = all + (size_t)(3 + side) * size;
        g->combine[model][side] = all + (size_t)(5 + side) * size;
    }
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t gpu = 0; gpu < n; gpu++) {
            const size_t at = (size_t)i * n + gpu;
            const uint32_t s = m->is_coupled ? i : gpu; /* the source that is on this GPU then */
            g->gate[model][at] = mp_coloc_gate_ns(in, model, gpu, m->source_tokens[s]);
            g->aggregate[model][at] = mp_coloc_aggregate_ns(in, model, gpu, m->source_tokens[s]);
            g->experts[model][at] =
                mp_coloc_experts_ns(in, model, gpu, m->source_tokens[s], m->active[i], m->padded[i]);
            for (int back = 0; back < 2; back++) {
                uint64_t out = 0, back_in = 0; /* from the source, to the group */
                for (uint32_t j = 0; j < n; j++) {
                    out += j == i ? 0 : mp_coloc_bytes(m, m->tokens[(size_t)s * n + j], back == 1);
                    back_in += j == s ? 0 : mp_coloc_bytes(m, m->tokens[(size_t)j * n + i], back == 1);
                }
                const uint64_t out_ns = t->resources[t->gpus[gpu].out_port[t->n_levels - 1]].bytes_per_s;
                const uint64_t in_ns = t->resources[t->gpus[gpu].in_port[t->n_levels - 1]].bytes_per_s;
                uint64_t **table = back ? g->combine[model] : g->dispatch[model];
                table[0][at] = mp_coloc_port_ns(back ? back_in : out, out_ns);
                table[1][at] = mp_coloc_port_ns(back ? out : back_in, in_ns);
            }
        }
    return MP_OK;
}

static bool alike(const struct mp_coloc_groups *g, uint32_t x, uint32_t y) {
    for (int m = 0; m < 2; m++)
        for (uint32_t i = 0; i < g->n; i++) {
            const uint64_t *all = g->gate[m]; /* the seven tables lie one behind the other */
            for (size_t k = 0; k < 7; k++) {
                const uint64_t *row = all + (k * g->n + i) * g->n;
                if (row[x] != row[y])
                    return false;
            }
        }
    return true;
}

enum mp_status mp_coloc_groups_new(struct mp_coloc_groups **out, const struct mp_coloc_problem *in,
                                   struct mp_error *err) {
    struct mp_arena *arena = mp_arena_new();
    struct mp_coloc_groups *g = arena == NULL ? NULL : mp_arena_alloc(arena, 1, sizeof *g);
    enum mp_status status = MP_OK;
    *out = NULL;
    if (g == NULL) {
        mp_arena_free(arena);
        return mp_nomem(err, "groups of experts");
    }
    const struct mp_topology *t = in->topology;
    const uint32_t n = t->n_gpus;
    *g = (struct mp_coloc_groups){.in = in, .n = n, .arena = arena, .grouped = *in, .is_separable = separable(t)};
    mp_coloc_shape_of(&g->shape, in);
    g->rate = mp_arena_alloc(arena, n, sizeof *g->rate);
    g->gpu_class = mp_arena_alloc(arena, n, sizeof *g->gpu_class);
    g->on_plan.gpu[0] = mp_arena_alloc(arena, 2 * (size_t)n, sizeof(uint32_t));
    g->shape.free_at = mp_arena_alloc(arena, (size_t)n + g->shape.n_ports, sizeof *g->shape.free_at);
    g->scratch = mp_arena_new();
    if (g->rate == NULL || g->gpu_class == NULL || g->on_plan.gpu[0] == NULL || g->shape.free_at == NULL ||
        g->scratch == NULL) {
        status = mp_nomem(err, "groups of experts");
        goto out;
    }
    g->on_plan.gpu[1] = g->on_plan.gpu[0] + n;
    for (uint32_t x = 0; x < n; x++)
        g->rate[x] = t->resources[t->gpus[x].out_port[t->n_levels - 1]].bytes_per_s;
    for (uint32_t m = 0; m < 2; m++) {
        MP_TRY(group(g, m, err));
        MP_TRY(merge(g, m, err));
        MP_TRY(tables(g, m, err));
        g->load[m].gate = mp_arena_alloc(arena, 3 * (size_t)n + 2 * (size_t)g->shape.n_ports, sizeof(uint64_t));
        if (g->load[m].gate == NULL) {
            status = mp_nomem(err, "groups of experts");
            goto out;
        }
        g->load[m].experts = g->load[m].gate + n;
        g->load[m].aggregate = g->load[m].experts + n;
        g->load[m].dispatch = g->load[m].aggregate + n;
        g->load[m].combine = g->load[m].dispatch + g->shape.n_ports;
    }
    for (uint32_t x = 0; x < n; x++) {
        g->gpu_class[x] = x;
        for (uint32_t y = 0; y < x && g->is_separable && g->gpu_class[x] == x; y++)
            if (alike(g, x, y))
                g->gpu_class[x] = g->gpu_class[y];
    }
    *out = g;
    return MP_OK;
out:
    mp_coloc_groups_free(g);
    return status;
}

void mp_coloc_groups_free(struct mp_coloc_groups *g) {
    if (g == NULL)
        return;
    mp_arena_free(g->scratch);
    mp_arena_free(g->arena);
}

/* Loads of the groups where they are. */
static enum mp_status fill(struct mp_coloc_groups *g, uint32_t *const on[2], struct mp_coloc_load load[2],
                           struct mp_error *err) {
    const struct mp_topology *t = g->in->topology;
    if (!g->is_separable) {
        mp_arena_reset(g->scratch);
        for (int m = 0; m < 2; m++)
            for (uint32_t x = 0; x < g->n; x++)
                g->on_plan.gpu[m][on[m][x]] = x;
        return mp_coloc_loads(load, &g->grouped, &g->on_plan, g->scratch, err);
    }
    for (int m = 0; m < 2; m++) {
        load[m] = g->load[m];
        for (uint32_t x = 0; x < g->n; x++) {
            const size_t at = (size_t)on[m][x] * g->n + x;
            const uint32_t out = t->gpus[x].out_port[0], in = t->gpus[x].in_port[0];
            load[m].gate[x] = g->gate[m][at];
            load[m].experts[x] = g->experts[m][at];
            load[m].aggregate[x] = g->aggregate[m][at];
            load[m].dispatch[out] = g->dispatch[m][0][at];
            load[m].dispatch[in] = g->dispatch[m][1][at];
            load[m].combine[out] = g->combine[m][0][at];
            load[m].combine[in] = g->combine[m][1][at];
        }
    }
    return MP_OK;
}

enum mp_status mp_coloc_value(struct mp_coloc_groups *g, uint32_t *const on[2], uint64_t limit, uint64_t *value,
                              struct mp_coloc_peaks *peaks, struct mp_error *err) {
    struct mp_coloc_load load[2];
    struct mp_coloc_peaks k;
    enum mp_status status = fill(g, on, load, err);
    if (status != MP_OK)
        return status;
    mp_coloc_peaks_of(&k, load, &g->shape);
    if (peaks != NULL)
        *peaks = k;
    *value = g->in->objective == MP_COLOC_CLOSED ? mp_coloc_closed(&k, g->shape.shot_ns)
                                                 : mp_coloc_timeline_below(load, &g->shape, &k, limit);
    return MP_OK;
}

bool mp_coloc_is_uneven(const struct mp_coloc_groups *g) {
    return g->in->gpu_slots[0] != NULL || g->in->gpu_slots[1] != NULL;
}

bool mp_coloc_fits(const struct mp_coloc_groups *g, uint32_t *const on[2], uint32_t x, uint32_t y) {
    for (int m = 0; m < 2; m++) {
        const uint32_t *room = g->in->gpu_slots[m];
        if (room != NULL && (g->size[m][on[m][x]] > room[x] || g->size[m][on[m][y]] > room[y]))
            return false;
    }
    return true;
}

uint64_t mp_coloc_bound(const struct mp_coloc_groups *g, const struct mp_coloc_peaks *k) {
    return g->in->objective == MP_COLOC_CLOSED ? mp_coloc_closed(k, g->shape.shot_ns)
                                               : mp_coloc_timeline_bound(k, &g->shape);
}

void mp_coloc_place(const struct mp_coloc_groups *g, uint32_t *const on[2], struct mp_coloc_plan *out) {
    for (int m = 0; m < 2; m++)
        for (uint32_t x = 0; x < g->n; x++)
            for (uint32_t e = 0; e < g->in->model[m].n_experts; e++)
                if (g->group_of[m][e] == on[m][x])
                    out->gpu[m][e] = x;
}

uint64_t mp_coloc_traffic(const struct mp_coloc_groups *g, uint32_t model, uint32_t group, bool is_in) {
    uint64_t sum = 0;
    for (uint32_t x = 0; x < g->n; x++)
        sum += mp_mul_div(g->dispatch[model][is_in][(size_t)group * g->n + x], g->rate[x], 1000000000) / g->n;
    return sum;
}
