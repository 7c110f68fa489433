/* Two levels: balance inside the node, rails between nodes, hand on inside the node.
 *
 * Decides    the stages of transfers between nodes; docs/ORDERS.md part 4 says what each GPU does in them.
 * Minimises  simulated time with launches: what passes the NICs plus the balance of the first stage and the forward of
 *            the last, which nothing hides.
 * Method     *Slices*: every pair of nodes in every stage, each stage a fraction f_k of everything. A shot then takes
 *            the largest over ports of f_k B + f_(k-1) R + f_(k-2) F (bytes of balance, rails and inside traffic,
 * forward through the port), so all counts and sizes of slices are compared in closed form: sizes rise by the factor
 * that still hides the balance of the next, stay, and fall by the one that still hides the forward of the one before.
 * Pairs share ports fairly in a slice, which costs nothing where one node is hotter than the others. Where nodes are
 * loaded evenly and pairs are not, or in ports lose by incast, the same nodes are ordered as if they were GPUs by the
 * matchings strategy, and what simulates best is taken.
 * Bound      relay bound + launches + balance of the first and forward of the last slice (bench_two_level).
 * Paper      Y. Lei et al., FAST, arXiv 2505.09764, 2025: balance, one-to-one between servers, redistribution,
 * overlapped.
 * Differs    slices in place of one matching of servers after another: a few launches for any number of nodes; unequal
 *            nodes by weights.
 * Cost       O(bytes' segments: n_gpus^2) and some thousand evaluations of at most 2 n_gpus linear forms. */
#include "node_level.h"
#include "planner.h"
#include <stdlib.h>
#include <string.h>

#define UNIT 65536u            /* fractions of a slice; what plans use */
#define SLICES_MAX 64u         /* more are never worth their launches */
#define FORMS_MAX 48u          /* linear forms kept: the largest in their direction */
#define SIMULATED_NODES_MAX 64 /* past that one simulation of all pairs of nodes takes too long to plan with */

static const struct mp_option options[] = {{"slices", "stages", "slices of all traffic; 0 = as many as pay", 0, 0, 64},
                                           {NULL, NULL, NULL, 0, 0, 0}};

/* ns per unit of traffic that one port takes in the three phases. */
struct form {
    double balance, rail, forward;
};
struct load { /* bytes through each resource */
    const struct mp_topology *t;
    uint64_t *through[3]; /* [n_resources] balance, rails and inside, forward */
};

static enum mp_status add_load(void *ctx, uint32_t shot, const struct mp_hop *hops, size_t n, struct mp_error *err) {
    struct load *x = ctx;
    (void)shot, (void)err;
    for (size_t i = 0; i < n; i++) {
        struct mp_path path;
        uint64_t *through = x->through[hops[i].part == MP_HOP_BALANCE ? 0 : hops[i].part == MP_HOP_FORWARD ? 2 : 1];
        mp_topology_path(x->t, hops[i].src, hops[i].dst, &path);
        for (uint32_t k = 0; k < path.n; k++)
            through[path.resource[k]] += hops[i].bytes;
    }
    return MP_OK;
}

static int by_sum(const void *a, const void *b) {
    const struct form *x = a, *y = b;
    double p = x->balance + x->rail + x->forward, q = y->balance + y->rail + y->forward;
    return p > q ? -1 : p < q ? 1 : (x->rail < y->rail) - (x->rail > y->rail);
}

/* The forms that no other one exceeds in everything: list[0 .. returned), largest sums first. */
static uint32_t undominated(struct form *list, uint32_t n) {
    uint32_t kept = 0;
    qsort(list, n, sizeof *list, by_sum);
    for (uint32_t i = 0; i < n && kept < FORMS_MAX; i++) {
        bool is_needed = true;
        for (uint32_t k = 0; k < kept && is_needed; k++)
            is_needed = list[i].balance > list[k].balance * 1.001 || list[i].rail > list[k].rail * 1.001 ||
                        list[i].forward > list[k].forward * 1.001;
        if (is_needed)
            list[kept++] = list[i];
    }
    return kept;
}

/* Order of one stage with every pair of nodes. */
static enum mp_status whole_order(struct mp_order *out, uint32_t n, struct mp_arena *arena, struct mp_error *err) {
    struct mp_stage *stage = mp_arena_alloc(arena, 1, sizeof *stage);
    struct mp_transfer *transfers = mp_arena_alloc(arena, (size_t)n * n, sizeof *transfers);
    if (stage == NULL || transfers == NULL)
        return mp_nomem(err, "ordering transfers between nodes");
    for (uint32_t a = 0; a < n; a++)
        for (uint32_t b = 0; b < n; b++)
            if (a != b)
                transfers[stage->n++] = (struct mp_transfer){(uint16_t)a, (uint16_t)b, 1, 1};
    stage->transfers = transfers;
    *out =
        (struct mp_order){.name = "", .between_nodes = true, .unit = 1, .ports = n - 1, .n_stages = 1, .stages = stage};
    return MP_OK;
}

static enum mp_status make_forms(struct form **out, uint32_t *n_forms, const struct mp_order_problem *in,
                                 struct mp_arena *scratch, struct mp_error *err) {
    const struct mp_topology *t = in->topology;
    struct load load = {.t = t};
    struct mp_order whole;
    struct form *forms = mp_arena_alloc(scratch, t->n_resources, sizeof *forms);
    enum mp_status status = MP_OK;
    for (int k = 0; k < 3; k++)
        load.through[k] = mp_arena_alloc(scratch, t->n_resources, sizeof *load.through[k]);
    if (forms == NULL || load.through[0] == NULL || load.through[1] == NULL || load.through[2] == NULL)
        return mp_nomem(err, "ordering transfers between nodes");
    MP_TRY(whole_order(&whole, mp_topology_n_nodes(t), scratch, err));
    MP_TRY(mp_nodes_shots(&whole, t, false, in->matrix, add_load, &load, err));
    for (uint32_t r = 0; r < t->n_resources; r++) {
        double ns = 1e9 / (double)t->resources[r].bytes_per_s;
        forms[r] = (struct form){(double)load.through[0][r] * ns, (double)load.through[1][r] * ns,
                                 (double)load.through[2][r] * ns};
    }
    *n_forms = undominated(forms, t->n_resources);
    *out = forms;
out:
    return status;
}

/* ---- slices ---- */
struct slices {
    uint32_t n;
    double size[SLICES_MAX]; /* fractions, sum 1 */
    double ns;
};

static double shot_ns(const struct form *forms, uint32_t n_forms, double balance, double rail, double forward) {
    double most = 0;
    for (uint32_t r = 0; r < n_forms; r++) {
        double ns = forms[r].balance * balance + forms[r].rail * rail + forms[r].forward * forward;
        most = ns > most ? ns : most;
    }
    return most;
}

static double slices_ns(const struct slices *s, const struct form *forms, uint32_t n_forms, double launch) {
    double total = 0;
    for (uint32_t k = 0; k < s->n + 2; k++) {
        double ns = shot_ns(forms, n_forms, k < s->n ? s->size[k] : 0, k >= 1 && k <= s->n ? s->size[k - 1] : 0,
                            k >= 2 ? s->size[k - 2] : 0);
        total += ns > 0 ? ns + launch : 0;
    }
    return total;
}

/* The least factor from a slice to the next smaller one that hides the smaller slice's neighbour: its own share of
 * the ports is what rails leave. */
static double factor_of(const struct form *forms, uint32_t n_forms, bool is_head) {
    double most = 0, factor = 0.02;
    for (uint32_t r = 0; r < n_forms; r++)
        most = forms[r].rail > most ? forms[r].rail : most;
    for (uint32_t r = 0; r < n_forms; r++) {
        double room = most - forms[r].rail, part = is_head ? forms[r].balance : forms[r].forward;
        if (part > 0)
            factor = part < room * 0.98 ? (part / room > factor ? part / room : factor) : 0.98;
    }
    return factor;
}

static void shape(struct slices *s, uint32_t n, uint32_t head, uint32_t tail, double rise, double fall) {
    double sum = 0, x = 1;
    s->n = n;
    for (uint32_t k = 0; k < n; k++)
        s->size[k] = 1;
    for (uint32_t k = head; k-- > 0;)
        s->size[k] = x *= rise;
    x = 1;
    for (uint32_t k = n - tail; k < n; k++)
        s->size[k] = x *= fall;
    for (uint32_t k = 0; k < n; k++)
        sum += s->size[k];
    for (uint32_t k = 0; k < n; k++)
        s->size[k] /= sum;
}

static void choose_slices(struct slices *best, const struct form *forms, uint32_t n_forms, double launch,
                          uint32_t wanted) {
    const double rise = factor_of(forms, n_forms, true), fall = factor_of(forms, n_forms, false);
    const double least = shot_ns(forms, n_forms, 0, 1, 0);
    struct slices s;
    shape(best, wanted > 0 ? wanted : 1, 0, 0, 1, 1);
    best->ns = slices_ns(best, forms, n_forms, launch);
    for (uint32_t n = wanted > 0 ? wanted : 1; n <= (wanted > 0 ? wanted : SLICES_MAX); n += n < 12 ? 1 : n / 6) {
        if (least + (n + 1) * launch >= best->ns)
            break;
        for (uint32_t head = 0; head < n && head <= 8; head++)
            for (uint32_t tail = 0; head + tail < n && tail <= 24; tail += tail < 6 ? 1 : 3) {
                shape(&s, n, head, tail, rise, fall);
                s.ns = slices_ns(&s, forms, n_forms, launch);
                if (s.ns < best->ns)
                    *best = s;
            }
    }
}

static enum mp_status add_slices(struct mp_schedule *out, const struct slices *s, const uint64_t *nodes,
                                 struct mp_error *err) {
    const uint32_t n = out->n;
    enum mp_status status = MP_OK;
    double sum = 0;
    uint64_t from = 0;
    for (uint32_t k = 0; k < s->n; k++) {
        sum += s->size[k];
        uint64_t to = k + 1 == s->n ? UNIT : (uint64_t)(sum * UNIT + 0.5);
        to = to > UNIT ? UNIT : to;
        MP_TRY(mp_schedule_stage(out, err));
        for (uint32_t a = 0; a < n; a++)
            for (uint32_t b = 0; b < n; b++) {
                uint64_t bytes = nodes[(size_t)a * n + b];
                if (a != b)
                    MP_TRY(mp_schedule_add(out, a, b, 1, mp_mul_div(bytes, to, UNIT) - mp_mul_div(bytes, from, UNIT),
                                           err));
            }
        from = to;
    }
out:
    return status;
}

/* ---- the strategy ---- */
static enum mp_status order(const struct mp_order_problem *in, struct mp_arena *scratch, struct mp_schedule *out,
                            enum mp_outcome *outcome, struct mp_error *err) {
    const struct mp_topology *t = in->topology;
    const uint32_t n = mp_topology_n_nodes(t);
    enum mp_status status = MP_OK;
    struct form *forms = NULL;
    struct slices slices;
    uint32_t n_forms = 0;
    if (n < 2)
        return mp_decline(err, outcome, MP_NOT_APPLICABLE, "two-level orders need more than one node");
    if (n == t->n_gpus)
        return mp_decline(err, outcome, MP_NOT_APPLICABLE, "two-level orders need nodes of more than one GPU");
    *outcome = MP_FOUND;
    uint64_t *nodes = mp_arena_alloc(scratch, (size_t)n * n, sizeof *nodes), any = 0;
    if (nodes == NULL)
        return mp_nomem(err, "ordering transfers between nodes");
    mp_node_matrix(t, in->matrix, nodes);
    for (size_t p = 0; p < (size_t)n * n; p++)
        any |= nodes[p];
    if (any == 0)
        return MP_OK; /* nothing between nodes: single shot */
    uint64_t latency_ns = 0;
    for (uint32_t l = 0; l < t->n_levels; l++)
        latency_ns = t->levels[l].latency_ns > latency_ns ? t->levels[l].latency_ns : latency_ns;
    MP_TRY(make_forms(&forms, &n_forms, in, scratch, err));
    choose_slices(&slices, forms, n_forms, (double)(t->stage_launch_ns + latency_ns), (uint32_t)in->option_values[0]);
    out->n = n;
    out->between_nodes = true;
    out->ports = n - 1;
    MP_TRY(add_slices(out, &slices, nodes, err));
out:
    return status;
}

const struct mp_strategy mp_strategy_order_two_level = {.name = "two-level",
                                                        .summary = "even out inside nodes, rails between, hand on",
                                                        .reference = "FAST, arXiv 2505.09764",
                                                        .stage = MP_PLAN_ORDER,
                                                        .options = options,
                                                        .order = order};
