/* A placement with replicas to begin with, for tokens that go to the nearest one.
 *
 * Decides   which experts each node has at home besides those of the single copies, and the GPU of each.
 * Minimises copies of tokens that leave their node, summed over all steps, from a sample of their tokens.
 * Method    greedy: the expert and node where most copies end, one after the other, until slots or replicas run out. A
 *           token's copy to another node ends when the last expert it needs from there is at home. Sources are taken
 *           alike, since any request may start anywhere. Then the most used replica first, to the GPU of its node that
 *           has fewest rows.
 * Bound     -
 * Differs   a local search alone is stuck without it: a step takes what its busiest port takes, and one replica seldom
 *           shortens that; all of them together do.
 * Cost      per replica a look at the sampled tokens of one node. */
#include "joint.h"
#include <string.h>

#define TOKENS_MAX 4096u

struct near {
    const struct mp_joint *in;
    uint32_t n_nodes, n_experts, n_tokens, top_k;
    bool by_token;    /* a token sends one copy to a node, however many experts it needs there */
    uint16_t *ids;    /* [n_tokens][top_k]; n_experts = unused */
    uint16_t *home;   /* [n_experts] node of the single copy */
    uint8_t *has;     /* [n_nodes][n_experts] */
    uint32_t *gain;   /* [n_nodes][n_experts] copies that end, of the sampled tokens */
    uint32_t *room;   /* [n_nodes] slots left */
    uint32_t *needed; /* [n_nodes] scratch: experts that a token needs from each node */
    uint8_t *n;       /* [n_experts] replicas */
};

static const struct mp_step *step_of(const struct mp_layer_cost_spec *spec, uint32_t i) {
    return &spec->problem->workload->steps[spec->steps != NULL ? spec->steps[i] : i];
}

/* Evenly from all rows of the steps. */
static void read_tokens(struct near *x) {
    const struct mp_layer_cost_spec *spec = &x->in->cost;
    const struct mp_trace *trace = spec->problem->workload->trace;
    uint64_t n_rows = 0, before = 0;
    for (uint32_t i = 0; i < spec->n_steps; i++)
        n_rows += step_of(spec, i)->n;
    x->n_tokens = n_rows < TOKENS_MAX ? (uint32_t)n_rows : TOKENS_MAX;
    for (uint32_t t = 0, step = 0; t < x->n_tokens; t++) {
        const uint64_t row = mp_mul_div(t, n_rows, x->n_tokens);
        uint16_t *ids = x->ids + (size_t)t * x->top_k;
        while (row >= before + step_of(spec, step)->n)
            before += step_of(spec, step++)->n;
        uint32_t k = mp_trace_row(trace, spec->layer, step_of(spec, step)->row[row - before], ids);
        for (; k < x->top_k; k++)
            ids[k] = (uint16_t)x->n_experts;
    }
}

static void count_gains(struct near *x, uint32_t node) {
    uint32_t *gain = x->gain + (size_t)node * x->n_experts;
    const uint8_t *has = x->has + (size_t)node * x->n_experts;
    memset(gain, 0, x->n_experts * sizeof *gain);
    for (uint32_t t = 0; t < x->n_tokens; t++) {
        const uint16_t *ids = x->ids + (size_t)t * x->top_k;
        uint32_t k = 0;
        memset(x->needed, 0, x->n_nodes * sizeof *x->needed);
        for (; k < x->top_k && ids[k] < x->n_experts; k++)
            x->needed[x->home[ids[k]]] += has[ids[k]] == 0;
        for (uint32_t j = 0; j < k; j++)
            gain[ids[j]] += has[ids[j]] == 0 && (!x->by_token || x->needed[x->home[ids[j]]] == 1);
    }
}

static void add_replicas(struct near *x, const uint8_t *most) {
    for (uint32_t v = 0; v < x->n_nodes; v++)
        count_gains(x, v);
    for (uint32_t left = x->in->n_extra; left > 0; left--) {
        uint32_t best = MP_NONE, node = 0, best_gain = 0;
        for (uint32_t v = 0; v < x->n_nodes; v++)
            for (uint32_t e = 0; e < x->n_experts && x->room[v] > 0; e++) {
                const size_t at = (size_t)v * x->n_experts + e;
                if (x->has[at] == 0 && x->n[e] < most[e] && x->gain[at] > best_gain) {
                    best = e;
                    node = v;
                    best_gain = x->gain[at];
                }
            }
        if (best == MP_NONE)
            return;
        x->has[(size_t)node * x->n_experts + best] = 1;
        x->n[best]++;
        x->room[node]--;
        count_gains(x, node);
    }
}

/* Replicas in the order of what each computes, to GPUs of their node. */
static void write_slots(const struct near *x, uint16_t *slots, uint64_t *rows, uint32_t *used, uint8_t *is_done) {
    const struct mp_topology *topology = x->in->cost.problem->topology;
    const uint32_t n_gpus = topology->n_gpus, *first = x->in->first_slot;
    memset(is_done, 0, (size_t)x->n_nodes * x->n_experts);
    memset(used, 0, n_gpus * sizeof *used);
    memset(rows, 0, n_gpus * sizeof *rows);
    for (uint32_t g = 0; g < n_gpus; g++) /* the single copies stay where they are; theirs are the first slots */
        for (uint32_t s = first[g]; s < first[g + 1]; s++)
            if (slots[s] != MP_NO_EXPERT) {
                const uint16_t e = slots[s];
                is_done[(size_t)mp_topology_node(topology, g) * x->n_experts + e] = 1;
                rows[g] += x->in->load[e] / x->n[e];
                slots[first[g] + used[g]++] = e;
            }
    for (uint32_t g = 0; g < n_gpus; g++)
        for (uint32_t s = first[g] + used[g]; s < first[g + 1]; s++)
            slots[s] = MP_NO_EXPERT;
    for (;;) {
        uint32_t best = MP_NONE, node = 0, to = MP_NONE;
        for (uint32_t v = 0; v < x->n_nodes; v++)
            for (uint32_t e = 0; e < x->n_experts; e++) {
                const size_t at = (size_t)v * x->n_experts + e;
                if (x->has[at] != 0 && is_done[at] == 0 &&
                    (best == MP_NONE || x->in->load[e] / x->n[e] > x->in->load[best] / x->n[best])) {
                    best = e;
                    node = v;
                }
            }
        if (best == MP_NONE)
            return;
        is_done[(size_t)node * x->n_experts + best] = 1;
        for (uint32_t g = 0; g < n_gpus; g++)
            if (mp_topology_node(topology, g) == node && used[g] < first[g + 1] - first[g] &&
                (to == MP_NONE || rows[g] < rows[to]))
                to = g;
        slots[first[to] + used[to]++] = (uint16_t)best; /* there is room: add_replicas counted it */
        rows[to] += x->in->load[best] / x->n[best];
    }
}

enum mp_status mp_joint_near(const struct mp_joint *in, const uint8_t *most, uint16_t *slots, bool *has_near,
                             struct mp_arena *arena, struct mp_error *err) {
    const struct mp_problem *p = in->cost.problem;
    const struct mp_trace *trace = p->workload->trace;
    struct near x = {.in = in,
                     .n_nodes = mp_topology_n_nodes(p->topology),
                     .n_experts = trace->n_experts,
                     .top_k = trace->top_k,
                     .by_token = p->sim.dispatcher->copies == MP_COPY_PER_NODE};
    const size_t cells = (size_t)x.n_nodes * x.n_experts;
    *has_near = false;
    if (in->cost.rule != MP_ROUTE_NEAREST || in->must_fill || x.n_nodes < 2 || trace->kind != MP_TRACE_TOKENS)
        return MP_OK;
    x.ids = mp_arena_alloc(arena, (size_t)TOKENS_MAX * x.top_k, sizeof *x.ids);
    x.home = mp_arena_alloc(arena, x.n_experts, sizeof *x.home);
    x.has = mp_arena_alloc(arena, cells, sizeof *x.has);
    x.gain = mp_arena_alloc(arena, cells, sizeof *x.gain);
    x.room = mp_arena_alloc(arena, x.n_nodes, sizeof *x.room);
    x.needed = mp_arena_alloc(arena, x.n_nodes, sizeof *x.needed);
    x.n = mp_arena_alloc(arena, x.n_experts, sizeof *x.n);
    uint64_t *rows = mp_arena_alloc(arena, p->topology->n_gpus, sizeof *rows);
    uint32_t *used = mp_arena_alloc(arena, p->topology->n_gpus, sizeof *used);
    uint8_t *is_done = mp_arena_alloc(arena, cells, sizeof *is_done);
    if (x.ids == NULL || x.home == NULL || x.has == NULL || x.gain == NULL || x.room == NULL || x.needed == NULL ||
        x.n == NULL || rows == NULL || used == NULL || is_done == NULL)
        return mp_nomem(err, "replicas of a layer");
    for (uint32_t g = 0; g < p->topology->n_gpus; g++) {
        const uint32_t v = mp_topology_node(p->topology, g);
        for (uint32_t s = in->first_slot[g]; s < in->first_slot[g + 1]; s++) {
            const uint16_t e = slots[s];
            x.room[v] += e == MP_NO_EXPERT;
            if (e == MP_NO_EXPERT)
                continue;
            x.home[e] = (uint16_t)v;
            x.has[(size_t)v * x.n_experts + e] = 1;
            x.n[e]++;
        }
    }
    for (uint32_t e = 0; e < x.n_experts; e++)
        if (x.n[e] != 1)
            return MP_OK; /* no single copies */
    read_tokens(&x);
    add_replicas(&x, most);
    write_slots(&x, slots, rows, used, is_done);
    *has_near = true;
    return MP_OK;
}
