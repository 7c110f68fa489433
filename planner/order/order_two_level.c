/* Two levels: balance inside the node, rails between nodes, hand on inside the node.
 *
 * Decides    the stages of transfers between nodes; docs/ORDERS.md part 4 says what each GPU does in them.
 * Minimises  simulated time with launches: what passes the NICs plus the balance of the first stage and the forward of
 *            the last, which nothing hides.
 * Method     *Slices*: every pair of nodes in every stage, each stage a fraction f_k of everything. A shot then takes
 *            the largest over ports of f_k B + f_(k-1) R + f_(k-2) F (bytes of balance, rails and inside traffic,
 *            forward through the port), so all counts and sizes of slices are compared in closed form: sizes rise by
 *            the factor that still hides the balance of the next, stay, and fall by the one that still hides the
 *            forward of the one before.
 *            Pairs share ports fairly in a slice, which costs nothing where one node is hotter than the others. Where
 *            that costs more than two launches (fair_share.h) the nodes are also ordered as if they were GPUs, in four
 *            ways (node_stages.h), and what is fastest is taken: by simulation up to SIMULATED_GPUS_MAX GPUs, by sums
 *            of bounds above. If the single shot is no slower, that is taken; above ESTIMATED_GPUS_MAX GPUs also where
 *            its port bound is not.
 * Bound      relay bound + launches + balance of the first and forward of the last slice (bench_two_level); with every
 *            option at its default no slower than the single shot, on many GPUs as far as the sums say.
 * Paper      Y. Lei et al., FAST, arXiv 2505.09764, 2025: balance, one-to-one between servers, redistribution,
 * overlapped.
 * Differs    slices, or many matchings in a stage, in place of one matching of servers after another: a few launches
 *            for any number of nodes; unequal nodes by weights.
 * Cost       O(bytes' segments: n_gpus^2) and some thousand evaluations of at most 2 n_gpus linear forms. */
#include "fair_share.h"
#include "node_stages.h"
#include "planner.h"
#include <stdlib.h>
#include <string.h>

#define UNIT 65536u            /* fractions of a slice; what plans use */
#define SLICES_MAX 64u         /* more are never worth their launches */
#define FORMS_MAX 48u          /* linear forms kept: the largest in their direction */
#define SIMULATED_GPUS_MAX 64  /* past that one simulation takes too long to plan with */
#define ESTIMATED_GPUS_MAX 512 /* and an estimate of the single shot past that */

static const struct mp_option options[] = {
    {"slices", "stages", "slices of all traffic; 0 = as many as pay", 0, 0, 64},
    {"nodes", "way",
     "how nodes take turns: 0 = what is fastest, 1 = slices, 2 = matchings, 3 = exact decomposition, 4 = hybrid, 5 = "
     "nested",
     MP_NODES_BEST, MP_NODES_BEST, MP_N_NODE_WAYS - 1},
    {NULL, NULL, NULL, 0, 0, 0}};

/* ns per unit of traffic that one port takes in the three phases. */
struct form {
    double balance, rail, forward;
};
struct load { /* bytes through each resource */
    const struct mp_topology *t;
    uint64_t *through[3]; /* [n_resources] balance, rails and inside, forward */
    struct form *capped;  /* [n_gpus] the most of any capped pair of a sender, part by part; NULL = no caps */
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
        if (x->capped != NULL && path.cap_bytes_per_s > 0) {
            double ns = (double)hops[i].bytes * 1e9 / (double)path.cap_bytes_per_s;
            struct form *f = &x->capped[hops[i].src];
            double *part = hops[i].part == MP_HOP_BALANCE   ? &f->balance
                           : hops[i].part == MP_HOP_FORWARD ? &f->forward
                                                            : &f->rail;
            *part = ns > *part ? ns : *part;
        }
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
    struct form *forms = mp_arena_alloc(scratch, (size_t)t->n_resources + t->n_gpus, sizeof *forms);
    enum mp_status status = MP_OK;
    bool has_caps = false;
    for (uint32_t l = 0; l < t->n_levels; l++)
        has_caps = has_caps || t->levels[l].pair_bytes_per_s > 0;
    load.capped = has_caps ? mp_arena_alloc(scratch, t->n_gpus, sizeof *load.capped) : NULL;
    for (int k = 0; k < 3; k++)
        load.through[k] = mp_arena_alloc(scratch, t->n_resources, sizeof *load.through[k]);
    if (forms == NULL || (has_caps && load.capped == NULL) || load.through[0] == NULL || load.through[1] == NULL ||
        load.through[2] == NULL)
        return mp_nomem(err, "ordering transfers between nodes");
    MP_TRY(whole_order(&whole, mp_topology_n_nodes(t), scratch, err));
    MP_TRY(mp_nodes_shots(&whole, t, MP_COMBINE_FORWARD, in->matrix, add_load, &load, err));
    for (uint32_t r = 0; r < t->n_resources; r++) {
        double ns = 1e9 / (double)t->resources[r].bytes_per_s;
        forms[r] = (struct form){(double)load.through[0][r] * ns, (double)load.through[1][r] * ns,
                                 (double)load.through[2][r] * ns};
    }
    for (uint32_t g = 0; has_caps && g < t->n_gpus; g++)
        forms[t->n_resources + g] = load.capped[g];
    *n_forms = undominated(forms, t->n_resources + (has_caps ? t->n_gpus : 0));
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

struct choice {
    struct form *forms;
    uint32_t n_forms;
    double launch; /* with a latency */
    struct slices best;
};

static void choose_slices(struct choice *c, uint32_t wanted) {
    const double rise = factor_of(c->forms, c->n_forms, true), fall = factor_of(c->forms, c->n_forms, false);
    const double least = shot_ns(c->forms, c->n_forms, 0, 1, 0);
    struct slices s;
    shape(&c->best, wanted > 0 ? wanted : 1, 0, 0, 1, 1);
    c->best.ns = slices_ns(&c->best, c->forms, c->n_forms, c->launch);
    for (uint32_t n = wanted > 0 ? wanted : 1; n <= (wanted > 0 ? wanted : SLICES_MAX); n += n < 12 ? 1 : n / 6) {
        if (least + (n + 1) * c->launch >= c->best.ns)
            break;
        for (uint32_t head = 0; head < n && head <= 8; head++)
            for (uint32_t tail = 0; head + tail < n && tail <= 24; tail += tail < 6 ? 1 : 3) {
                shape(&s, n, head, tail, rise, fall);
                s.ns = slices_ns(&s, c->forms, c->n_forms, c->launch);
                if (s.ns < c->best.ns)
                    c->best = s;
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
static void begin(struct mp_schedule *s, uint32_t n) {
    mp_schedule_init(s, n);
    s->between_nodes = true;
    s->ports = n - 1;
}

/* What a schedule is known to take: by simulation on few GPUs, else by sums. */
struct candidate {
    struct mp_schedule s;
    double sum_ns; /* rails, launches, first balance and last forward */
    uint64_t ns;   /* 0 = not known yet */
};
struct search {
    const struct mp_order_problem *in;
    const uint64_t *nodes;
    struct choice slices;
    struct candidate best, tried;
    bool is_simulated; /* times are */
    struct mp_arena *scratch;
};

/* Bytes of a stage as a part of all. */
static double part_of(const struct mp_schedule *s, uint32_t stage) {
    double part = 0, all = 0;
    for (size_t i = 0; i < s->n_pieces; i++) {
        all += (double)s->pieces[i].bytes;
        part += i >= s->first[stage] && i < s->first[stage + 1] ? (double)s->pieces[i].bytes : 0;
    }
    return part / all;
}

/* Finds out *ns of a candidate; false = the budget does not allow it. */
static enum mp_status measure(struct search *x, struct candidate *c, bool *is_known, struct mp_error *err) {
    enum mp_status status = MP_OK;
    *is_known = true;
    if (c->ns > 0)
        return MP_OK;
    if (!x->is_simulated) {
        c->ns = (uint64_t)c->sum_ns + 1;
        return MP_OK;
    }
    *is_known = mp_order_spend(x->in->budget);
    if (*is_known)
        status = mp_schedule_time(&c->s, x->in, &c->ns, err);
    return status;
}

/* The nodes ordered in one way, in place of the best so far where that is quicker (or it is what is asked for). */
static enum mp_status try_way(struct search *x, const struct mp_node_net *net, enum mp_node_way way, bool is_asked,
                              struct mp_error *err) {
    const struct choice *f = &x->slices;
    double rails_ns;
    bool is_known;
    enum mp_status status = MP_OK;
    mp_schedule_free(&x->tried.s);
    x->tried.ns = 0;
    begin(&x->tried.s, x->best.s.n);
    if (!is_asked) {
        MP_TRY(measure(x, &x->best, &is_known, err));
        if (!is_known || !mp_nodes_may_pay(net, way, (double)x->best.ns))
            goto out;
    }
    MP_TRY(mp_node_stages(&x->tried.s, net, way, x->in, &rails_ns, x->scratch, err));
    if (x->tried.s.n_stages == 0)
        goto out;
    mp_schedule_finish(&x->tried.s);
    x->tried.sum_ns = rails_ns + 2 * f->launch + shot_ns(f->forms, f->n_forms, part_of(&x->tried.s, 0), 0, 0) +
                      shot_ns(f->forms, f->n_forms, 0, 0, part_of(&x->tried.s, x->tried.s.n_stages - 1));
    if (!is_asked) {
        if (rails_ns >= (double)x->best.ns)
            goto out;
        MP_TRY(measure(x, &x->tried, &is_known, err));
        if (!is_known || x->tried.ns >= x->best.ns)
            goto out;
    }
    struct candidate worse = x->best;
    x->best = x->tried;
    x->tried = worse;
out:
    return status;
}

static bool has_incast(const struct mp_topology *t) {
    for (uint32_t l = 0; l < t->n_levels; l++)
        if (t->levels[l].n_incast > 0)
            return true;
    return false;
}

/* Where sharing ports fairly loses more than two launches in the slices, or when asked: the nodes as ends of their
 * own. On many GPUs hybrids, which simulate much of what they try, are left out, and plain matchings where nested ones
 * lose nothing. */
static enum mp_status try_ways(struct search *x, enum mp_node_way asked, struct mp_error *err) {
    static const enum mp_node_way ways[] = {MP_NODES_NESTED, MP_NODES_MATCHINGS, MP_NODES_HYBRID, MP_NODES_EXACT};
    struct mp_node_net net;
    enum mp_status status;
    MP_TRY(mp_node_net_open(&net, x->in->topology, x->nodes, x->slices.launch, x->scratch, err));
    x->best.sum_ns += net.loss_ns;
    if (asked != MP_NODES_BEST)
        MP_TRY(try_way(x, &net, asked, true, err));
    for (size_t i = 0; i < sizeof ways / sizeof ways[0] && asked == MP_NODES_BEST; i++) {
        const bool is_left_out = !x->is_simulated && (ways[i] == MP_NODES_HYBRID ||
                                                      (ways[i] == MP_NODES_MATCHINGS && !has_incast(x->in->topology)));
        if (net.loss_ns >= 2 * x->slices.launch && !is_left_out)
            MP_TRY(try_way(x, &net, ways[i], false, err));
    }
out:
    mp_node_net_close(&net);
    return status;
}

/* Everything at once, where orders between nodes do not pay. On many GPUs they have to be below the port bound, or
 * where that can be had in the time, the estimate, of the single shot. */
static enum mp_status fall_back(struct search *x, struct mp_error *err) {
    const struct mp_order_problem *in = x->in;
    const struct mp_topology *t = in->topology;
    const struct mp_schedule none = {.n = t->n_gpus};
    uint64_t single_ns = in->single_ns;
    bool is_known;
    enum mp_status status;
    MP_TRY(measure(x, &x->best, &is_known, err));
    if (!is_known)
        goto out;
    if (single_ns == 0) {
        const uint64_t least = mp_net_port_bound(in->net, in->matrix) + t->launch_ns;
        if (!mp_order_counts_return(in) && mp_order_gains(x->best.ns, least))
            goto out;
        if (x->is_simulated) {
            if (!mp_order_spend(in->budget))
                goto out;
            MP_TRY(mp_schedule_time(&none, in, &single_ns, err));
        } else {
            double ns = 0;
            if (t->n_gpus <= ESTIMATED_GPUS_MAX)
                MP_TRY(mp_fair_share_ns(&ns, t, in->matrix, x->scratch, err));
            single_ns = (uint64_t)ns + t->launch_ns;
            single_ns = single_ns > least ? single_ns : least;
        }
    }
    if (mp_order_gains(x->best.ns, single_ns))
        goto out;
    mp_schedule_free(&x->best.s);
    mp_schedule_init(&x->best.s, t->n_gpus);
out:
    return status;
}

static enum mp_status order(const struct mp_order_problem *in, struct mp_arena *scratch, struct mp_schedule *out,
                            enum mp_outcome *outcome, struct mp_error *err) {
    const struct mp_topology *t = in->topology;
    const uint32_t n = mp_topology_n_nodes(t), wanted = (uint32_t)in->option_values[0];
    const enum mp_node_way asked = (enum mp_node_way)in->option_values[1];
    enum mp_status status = MP_OK;
    struct search x = {.in = in, .is_simulated = t->n_gpus <= SIMULATED_GPUS_MAX, .scratch = scratch};
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
    x.nodes = nodes;
    uint64_t latency_ns = 0;
    for (uint32_t l = 0; l < t->n_levels; l++)
        latency_ns = t->levels[l].latency_ns > latency_ns ? t->levels[l].latency_ns : latency_ns;
    x.slices.launch = (double)(t->stage_launch_ns + latency_ns);
    begin(&x.best.s, n);
    MP_TRY(make_forms(&x.slices.forms, &x.slices.n_forms, in, scratch, err));
    choose_slices(&x.slices, wanted);
    MP_TRY(add_slices(&x.best.s, &x.slices.best, nodes, err));
    mp_schedule_finish(&x.best.s);
    x.best.sum_ns = x.slices.best.ns;
    if (wanted == 0 && asked != MP_NODES_SLICES && !mp_order_is_stopped(in->budget))
        MP_TRY(try_ways(&x, asked, err));
    if (wanted == 0 && asked == MP_NODES_BEST)
        status = fall_back(&x, err);
out:
    mp_schedule_free(&x.tried.s);
    if (status == MP_OK) {
        mp_schedule_free(out);
        *out = x.best.s;
    } else {
        mp_schedule_free(&x.best.s);
    }
    return status;
}

const struct mp_strategy mp_strategy_order_two_level = {.name = "two-level",
                                                        .summary = "even out inside nodes, rails between, hand on",
                                                        .reference = "FAST, arXiv 2505.09764",
                                                        .stage = MP_PLAN_ORDER,
                                                        .between_nodes = true,
                                                        .options = options,
                                                        .order = order};
