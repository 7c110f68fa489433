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
#define SIMULATED_GPUS_MAX 64  /* and of an order between nodes past that */

static const struct mp_option options[] = {{"slices", "stages", "slices of all traffic; 0 = as many as pay", 0, 0, 64},
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

/* ---- matchings of nodes ---- */

/* The nodes as ends of their own, and what all their pairs at once lose against their port bound. */
struct node_net {
    struct mp_topology *t;
    struct mp_net *net;
    uint64_t bound_ns;
    double loss;
};

static enum mp_status open_node_net(struct node_net *x, const struct mp_topology *t, const uint64_t *nodes,
                                    struct mp_arena *scratch, struct mp_error *err) {
    uint64_t time_ns, latency_ns = 0;
    enum mp_status status;
    MP_TRY(mp_node_level(&x->t, t, scratch, err));
    MP_TRY(mp_net_new(&x->net, x->t, err));
    MP_TRY(mp_net_concurrent(x->net, nodes, &time_ns, NULL, err));
    for (uint32_t l = 0; l < x->t->n_levels; l++)
        latency_ns = x->t->levels[l].latency_ns > latency_ns ? x->t->levels[l].latency_ns : latency_ns;
    x->bound_ns = mp_net_port_bound(x->net, nodes);
    x->loss = time_ns > x->bound_ns + latency_ns ? (double)(time_ns - x->bound_ns - latency_ns) : 0;
out:
    return status;
}

struct length {
    uint64_t ns;
    uint32_t stage;
};
static int by_length(const void *a, const void *b) {
    const struct length *x = a, *y = b;
    return x->ns != y->ns ? (x->ns > y->ns ? -1 : 1) : (x->stage > y->stage) - (x->stage < y->stage);
}

/* Number of stages of `all` after which sending the rest at once is quickest: what the rest loses falls with it. *ns:
 * time of the rails with launches. */
static uint32_t choose_count(const struct mp_schedule *all, const struct node_net *x, double launch, uint64_t *left,
                             const struct length *lengths, double *ns) {
    double total = 0, best_ns = (double)x->bound_ns + x->loss + launch;
    uint32_t best = 0;
    for (uint32_t k = 0; k + (all->has_flush ? 1 : 0) < all->n_stages; k++) {
        total += (double)lengths[k].ns + launch;
        for (uint32_t i = all->first[k]; i < all->first[k + 1]; i++)
            left[(size_t)all->pieces[i].src * all->n + all->pieces[i].dst] -= all->pieces[i].bytes;
        double rest = (double)mp_net_port_bound(x->net, left);
        rest = rest > 0 ? rest * (1 + x->loss / (double)x->bound_ns) + launch : 0;
        if (total + rest < best_ns) {
            best_ns = total + rest;
            best = k + 1;
        }
    }
    *ns = best_ns;
    return best;
}

/* The first `count` stages of `all` and one of all the rest, the shortest at the ends: the first balance and the last
 * forward are not hidden. */
static enum mp_status arrange(struct mp_schedule *out, const struct mp_schedule *all, uint32_t count,
                              struct length *lengths, const uint64_t *rest, struct mp_error *err) {
    const uint32_t n = all->n, n_sorted = count + 1;
    enum mp_status status = MP_OK;
    qsort(lengths, n_sorted, sizeof *lengths, by_length);
    /* The longest in the middle, the shortest last, the next shortest first. */
    for (uint32_t k = 0; k < n_sorted; k++) {
        const uint32_t at_head = 2 * k + 1, at_tail = 2 * (n_sorted - 1 - k); /* counted from the shortest */
        const uint32_t at = n_sorted - 1 - (at_head < n_sorted ? at_head : at_tail);
        const uint32_t stage = lengths[at].stage;
        MP_TRY(mp_schedule_stage(out, err));
        if (stage == MP_NONE) {
            for (uint32_t a = 0; a < n; a++)
                for (uint32_t b = 0; b < n; b++)
                    if (a != b)
                        MP_TRY(mp_schedule_add(out, a, b, 1, rest[(size_t)a * n + b], err));
            continue;
        }
        for (uint32_t i = all->first[stage]; i < all->first[stage + 1]; i++)
            MP_TRY(mp_schedule_add(out, all->pieces[i].src, all->pieces[i].dst, 1, all->pieces[i].bytes, err));
    }
out:
    return status;
}

/* Stages of few matchings of nodes; none when the strategy is not there or none pays. *rails_ns: their time without
 * what GPUs of a node pass to each other. */
static enum mp_status add_matchings(struct mp_schedule *out, const struct mp_order_problem *in,
                                    const struct node_net *x, const uint64_t *nodes, double launch, double *rails_ns,
                                    struct mp_arena *scratch, struct mp_error *err) {
    const struct mp_strategy *matchings = mp_strategy_find(MP_PLAN_ORDER, "matchings");
    const uint32_t n = x->t->n_gpus;
    int64_t *values = NULL;
    struct mp_order_problem problem = {.topology = x->t,
                                       .matrix = nodes,
                                       .net = x->net,
                                       .mode = MP_STAGE_BARRIER,
                                       .seed = in->seed,
                                       .option_values = NULL};
    struct mp_schedule all;
    enum mp_outcome outcome;
    enum mp_status status;
    if (matchings == NULL || matchings->options == NULL)
        return MP_OK;
    uint32_t n_options = 0;
    while (matchings->options[n_options].name != NULL)
        n_options++;
    values = mp_arena_alloc(scratch, n_options, sizeof *values);
    if (values == NULL)
        return mp_nomem(err, "ordering transfers between nodes");
    for (uint32_t i = 0; i < n_options; i++) /* more stages than can pay, without simulating each count */
        values[i] =
            strcmp(matchings->options[i].name, "stages") == 0 ? 3 * (int64_t)n : matchings->options[i].default_value;
    problem.option_values = values;
    MP_TRY(mp_order_run(matchings, &problem, &all, &outcome, err));
    if (outcome != MP_FOUND || all.n_stages == 0)
        goto out;
    struct length *lengths = mp_arena_alloc(scratch, (size_t)all.n_stages + 1, sizeof *lengths);
    uint64_t *stage = mp_arena_alloc(scratch, (size_t)n * n, sizeof *stage);
    uint64_t *left = mp_arena_alloc(scratch, (size_t)n * n, sizeof *left);
    if (lengths == NULL || stage == NULL || left == NULL) {
        status = mp_nomem(err, "ordering transfers between nodes");
        goto out;
    }
    for (uint32_t k = 0; k < all.n_stages; k++) {
        memset(stage, 0, (size_t)n * n * sizeof *stage);
        for (uint32_t i = all.first[k]; i < all.first[k + 1]; i++)
            stage[(size_t)all.pieces[i].src * n + all.pieces[i].dst] = all.pieces[i].bytes;
        lengths[k] = (struct length){mp_net_port_bound(x->net, stage), k};
    }
    memcpy(left, nodes, (size_t)n * n * sizeof *left);
    uint32_t count = choose_count(&all, x, launch, left, lengths, rails_ns);
    if (count == 0)
        goto out;
    memcpy(left, nodes, (size_t)n * n * sizeof *left);
    for (uint32_t i = 0; i < all.first[count]; i++)
        left[(size_t)all.pieces[i].src * n + all.pieces[i].dst] -= all.pieces[i].bytes;
    for (uint32_t v = 0; v < n; v++)
        left[(size_t)v * n + v] = 0;
    lengths[count] = (struct length){mp_net_port_bound(x->net, left), MP_NONE};
    MP_TRY(arrange(out, &all, count, lengths, left, err));
out:
    mp_schedule_free(&all);
    return status;
}

/* ---- the strategy ---- */
static void begin(struct mp_schedule *s, uint32_t n) {
    mp_schedule_init(s, n);
    s->between_nodes = true;
    s->ports = n - 1;
}

/* Bytes of a stage as a part of all. */
static double part_of(const struct mp_schedule *s, uint32_t stage) {
    double part = 0, all = 0;
    for (size_t i = 0; i < s->n_pieces; i++) {
        all += (double)s->pieces[i].bytes;
        part += i >= s->first[stage] && i < s->first[stage + 1] ? (double)s->pieces[i].bytes : 0;
    }
    return part / all;
}

/* Where sharing ports fairly loses more than two launches in the slices: matchings instead, when they simulate better;
 * on many GPUs, where that would take longer than planning may, when the sums say so. */
static enum mp_status try_matchings(struct mp_schedule *out, const struct mp_order_problem *in, const uint64_t *nodes,
                                    const struct choice *slices, struct mp_arena *scratch, struct mp_error *err) {
    struct node_net x = {0};
    struct mp_schedule matched;
    uint64_t slices_ns, matched_ns;
    double rails_ns = 0;
    enum mp_status status;
    begin(&matched, out->n);
    MP_TRY(open_node_net(&x, in->topology, nodes, scratch, err));
    if (x.loss < 2 * slices->launch)
        goto out;
    MP_TRY(add_matchings(&matched, in, &x, nodes, slices->launch, &rails_ns, scratch, err));
    mp_schedule_finish(&matched);
    if (matched.n_stages == 0)
        goto out;
    mp_schedule_finish(out);
    if (in->topology->n_gpus <= SIMULATED_GPUS_MAX) {
        if (!mp_order_spend(in->budget) || !mp_order_spend(in->budget))
            goto out;
        MP_TRY(mp_schedule_time(out, in, &slices_ns, err));
        MP_TRY(mp_schedule_time(&matched, in, &matched_ns, err));
    } else {
        double ends = shot_ns(slices->forms, slices->n_forms, part_of(&matched, 0), 0, 0) +
                      shot_ns(slices->forms, slices->n_forms, 0, 0, part_of(&matched, matched.n_stages - 1));
        matched_ns = (uint64_t)(rails_ns + ends + 2 * slices->launch);
        slices_ns = (uint64_t)(slices->best.ns + x.loss);
    }
    if (matched_ns < slices_ns) {
        struct mp_schedule swap = *out;
        *out = matched;
        matched = swap;
    }
out:
    mp_schedule_free(&matched);
    mp_net_free(x.net);
    return status;
}

static enum mp_status order(const struct mp_order_problem *in, struct mp_arena *scratch, struct mp_schedule *out,
                            enum mp_outcome *outcome, struct mp_error *err) {
    const struct mp_topology *t = in->topology;
    const uint32_t n = mp_topology_n_nodes(t), wanted = (uint32_t)in->option_values[0];
    enum mp_status status = MP_OK;
    struct choice slices = {0};
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
    slices.launch = (double)(t->stage_launch_ns + latency_ns);
    MP_TRY(make_forms(&slices.forms, &slices.n_forms, in, scratch, err));
    choose_slices(&slices, wanted);
    begin(out, n);
    MP_TRY(add_slices(out, &slices.best, nodes, err));
    if (n <= SIMULATED_NODES_MAX && wanted == 0 && !mp_order_is_stopped(in->budget))
        MP_TRY(try_matchings(out, in, nodes, &slices, scratch, err));
out:
    return status;
}

const struct mp_strategy mp_strategy_order_two_level = {.name = "two-level",
                                                        .summary = "even out inside nodes, rails between, hand on",
                                                        .reference = "FAST, arXiv 2505.09764",
                                                        .stage = MP_PLAN_ORDER,
                                                        .between_nodes = true,
                                                        .options = options,
                                                        .order = order};
