/* Nodes in order, as if they were GPUs.
 *
 * Decides   the stages of transfers between nodes.
 * Minimises the time of the rails with launches, over how many stages go before all the rest.
 * Method    an order strategy is run on the matrix of nodes. Of stages that load all ports alike (matchings, nested)
 *           the first k are taken and the rest goes at once, for the k of least sum: lengths of the stages by their
 *           port bounds, launches, and of the rest its bound with the loss that fair sharing has on the whole. Exact
 *           and hybrid decompositions are taken as they are. The longest stages then stand in the middle and the
 *           shortest at the ends, where nothing hides what GPUs of a node pass to each other.
 * Bound     a matching has its port bound exactly; nested stages lose nothing but by incast, which counts in full.
 * Differs   from FAST (arXiv 2505.09764), which decomposes the matrix of servers exactly: that is the way EXACT, and
 *           on more than a few nodes its launches cost more than it saves (bench_two_level).
 * Cost      that of the strategy, and O(n_nodes^2) for each of its stages. */
#include "node_stages.h"
#include "fair_share.h"
#include "node_level.h"
#include "planner.h"
#include <stdlib.h>
#include <string.h>

#define NESTED_STAGES 8 /* more of them hardly lower what is left */
#define NESTED_SHORTEST 50

static const char *const strategy_names[MP_N_NODE_WAYS] = {[MP_NODES_MATCHINGS] = "matchings",
                                                           [MP_NODES_EXACT] = "bvn",
                                                           [MP_NODES_HYBRID] = "hybrid",
                                                           [MP_NODES_NESTED] = "nested"};

static bool takes_some(enum mp_node_way way) { return way == MP_NODES_MATCHINGS || way == MP_NODES_NESTED; }

enum mp_status mp_node_net_open(struct mp_node_net *out, const struct mp_topology *t, const uint64_t *nodes,
                                double launch, struct mp_arena *scratch, struct mp_error *err) {
    double time_ns;
    enum mp_status status;
    *out = (struct mp_node_net){.matrix = nodes, .launch = launch};
    MP_TRY(mp_node_level(&out->t, t, scratch, err));
    MP_TRY(mp_net_new(&out->net, out->t, err));
    MP_TRY(mp_fair_share_ns(&time_ns, out->t, nodes, scratch, err));
    out->bound_ns = (double)mp_net_port_bound(out->net, nodes);
    out->loss_ns = time_ns > out->bound_ns ? time_ns - out->bound_ns : 0;
out:
    return status;
}

void mp_node_net_close(struct mp_node_net *x) { mp_net_free(x->net); }

/* No decomposition into matchings has fewer stages than a node has partners. */
static uint32_t most_partners(const struct mp_node_net *x) {
    const uint32_t n = x->t->n_gpus;
    uint32_t most = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t out = 0, into = 0;
        for (uint32_t j = 0; j < n; j++) {
            out += i != j && x->matrix[(size_t)i * n + j] > 0;
            into += i != j && x->matrix[(size_t)j * n + i] > 0;
        }
        most = out > most ? out : most;
        most = into > most ? into : most;
    }
    return most;
}

bool mp_nodes_may_pay(const struct mp_node_net *x, enum mp_node_way way, double time_ns) {
    const uint32_t least = way == MP_NODES_EXACT ? most_partners(x) : 1;
    return x->bound_ns + least * x->launch < time_ns;
}

/* How much longer k flows take at a port where they meet, at worst. */
static double incast(const struct mp_topology *t, uint32_t k) {
    double most = 1;
    for (uint32_t l = 0; l < t->n_levels && k > 0; l++) {
        const struct mp_level *v = &t->levels[l];
        const uint32_t ppm = v->n_incast == 0 ? 1000000 : v->incast_ppm[(k < v->n_incast ? k : v->n_incast) - 1];
        most = ppm > 0 && 1e6 / ppm > most ? 1e6 / ppm : most;
    }
    return most;
}

struct length {
    double ns;
    uint32_t stage; /* MP_NONE = all the rest */
};
static int by_length(const void *a, const void *b) {
    const struct length *x = a, *y = b;
    return x->ns != y->ns ? (x->ns > y->ns ? -1 : 1) : (x->stage > y->stage) - (x->stage < y->stage);
}

struct cut {
    const struct mp_node_net *x;
    struct mp_schedule all;
    struct length *lengths; /* [all.n_stages + 1] */
    uint64_t *left, *stage; /* [n][n] */
    uint32_t *degree;       /* [n] transfers into a node */
};

static double length_of(const struct cut *c, uint32_t k) {
    const struct mp_schedule *s = &c->all;
    const uint32_t n = s->n;
    uint32_t most = 0;
    memset(c->stage, 0, (size_t)n * n * sizeof *c->stage);
    memset(c->degree, 0, n * sizeof *c->degree);
    for (uint32_t i = s->first[k]; i < s->first[k + 1]; i++) {
        c->stage[(size_t)s->pieces[i].src * n + s->pieces[i].dst] = s->pieces[i].bytes;
        c->degree[s->pieces[i].dst]++;
        most = c->degree[s->pieces[i].dst] > most ? c->degree[s->pieces[i].dst] : most;
    }
    return (double)mp_net_port_bound(c->x->net, c->stage) * incast(c->x->t, most);
}

static void take(const struct cut *c, uint32_t k) {
    for (uint32_t i = c->all.first[k]; i < c->all.first[k + 1]; i++)
        c->left[(size_t)c->all.pieces[i].src * c->all.n + c->all.pieces[i].dst] -= c->all.pieces[i].bytes;
}
static void put_back(const struct cut *c) {
    const uint32_t n = c->all.n;
    memcpy(c->left, c->x->matrix, (size_t)n * n * sizeof *c->left);
    for (uint32_t v = 0; v < n; v++)
        c->left[(size_t)v * n + v] = 0;
}
/* What is left, at once, if it loses like the whole. */
static double rest_ns(const struct cut *c) {
    return (double)mp_net_port_bound(c->x->net, c->left) * (1 + c->x->loss_ns / c->x->bound_ns);
}

/* How many of the stages come before all the rest. */
static uint32_t choose_count(const struct cut *c, bool is_whole, double *rails_ns) {
    const double launch = c->x->launch;
    const uint32_t n_stages = c->all.n_stages - c->all.has_flush;
    double total = 0;
    uint32_t best = 0;
    *rails_ns = c->x->bound_ns + c->x->loss_ns + launch;
    put_back(c);
    for (uint32_t k = 0; k < n_stages; k++) {
        total += c->lengths[k].ns + launch;
        take(c, k);
        double rest = is_whole && k + 1 < n_stages ? 0 : rest_ns(c);
        rest += rest > 0 ? launch : 0;
        if (is_whole ? k + 1 == n_stages : total + rest < *rails_ns) {
            *rails_ns = total + rest;
            best = k + 1;
        }
    }
    return best;
}

static enum mp_status arrange(struct mp_schedule *out, const struct cut *c, uint32_t count, struct mp_error *err) {
    const uint32_t n = c->all.n, n_sorted = count + 1;
    enum mp_status status = MP_OK;
    qsort(c->lengths, n_sorted, sizeof *c->lengths, by_length);
    /* The longest in the middle, the shortest last, the next shortest first. */
    for (uint32_t k = 0; k < n_sorted; k++) {
        const uint32_t at_head = 2 * k + 1, at_tail = 2 * (n_sorted - 1 - k); /* counted from the shortest */
        const uint32_t at = n_sorted - 1 - (at_head < n_sorted ? at_head : at_tail);
        const uint32_t stage = c->lengths[at].stage;
        MP_TRY(mp_schedule_stage(out, err));
        if (stage == MP_NONE) {
            for (uint32_t a = 0; a < n; a++)
                for (uint32_t b = 0; b < n; b++)
                    if (a != b)
                        MP_TRY(mp_schedule_add(out, a, b, 1, c->left[(size_t)a * n + b], err));
            continue;
        }
        for (uint32_t i = c->all.first[stage]; i < c->all.first[stage + 1]; i++)
            MP_TRY(mp_schedule_add(out, c->all.pieces[i].src, c->all.pieces[i].dst, 1, c->all.pieces[i].bytes, err));
    }
out:
    return status;
}

enum mp_status mp_node_stages(struct mp_schedule *out, const struct mp_node_net *x, enum mp_node_way way,
                              const struct mp_order_problem *in, double *rails_ns, struct mp_arena *scratch,
                              struct mp_error *err) {
    const uint32_t n = x->t->n_gpus;
    const struct mp_strategy *strategy = mp_strategy_find(MP_PLAN_ORDER, strategy_names[way]);
    /* Each stage costs a launch, and all of them together gain no more than the loss. */
    const double most = x->loss_ns / x->launch + 1;
    int64_t n_stages = way == MP_NODES_NESTED ? NESTED_STAGES : 3 * (int64_t)n;
    n_stages = most < (double)n_stages ? (int64_t)most : n_stages;
    const struct mp_setting settings[] = {{strategy_names[way], "stages", n_stages},
                                          {strategy_names[way], "shortest", NESTED_SHORTEST}};
    const struct mp_order_problem problem = {.topology = x->t,
                                             .matrix = x->matrix,
                                             .net = x->net,
                                             .mode = MP_STAGE_BARRIER,
                                             .seed = in->seed,
                                             .settings = settings,
                                             .n_settings = !takes_some(way)         ? 0
                                                           : way == MP_NODES_NESTED ? 2
                                                                                    : 1,
                                             .budget = in->budget,
                                             .single_ns = (uint64_t)(x->bound_ns + x->loss_ns + x->launch) + 1};
    struct cut c = {.x = x};
    enum mp_outcome outcome = MP_NOT_APPLICABLE;
    enum mp_status status = MP_OK;
    mp_schedule_init(&c.all, n);
    *rails_ns = 0;
    if (strategy == NULL)
        goto out;
    MP_TRY(mp_order_run(strategy, &problem, &c.all, &outcome, err));
    if ((outcome != MP_FOUND && outcome != MP_STOPPED) || c.all.n_stages == 0)
        goto out;
    c.lengths = mp_arena_alloc(scratch, (size_t)c.all.n_stages + 1, sizeof *c.lengths);
    c.stage = mp_arena_alloc(scratch, (size_t)n * n, sizeof *c.stage);
    c.left = mp_arena_alloc(scratch, (size_t)n * n, sizeof *c.left);
    c.degree = mp_arena_alloc(scratch, n, sizeof *c.degree);
    if (c.lengths == NULL || c.stage == NULL || c.left == NULL || c.degree == NULL) {
        status = mp_nomem(err, "ordering transfers between nodes");
        goto out;
    }
    for (uint32_t k = 0; k < c.all.n_stages; k++)
        c.lengths[k] = (struct length){length_of(&c, k), k};
    const uint32_t count = choose_count(&c, !takes_some(way), rails_ns);
    if (count == 0)
        goto out;
    put_back(&c);
    for (uint32_t k = 0; k < count; k++)
        take(&c, k);
    const double as_whole = rest_ns(&c);
    double ns;
    MP_TRY(mp_fair_share_ns(&ns, x->t, c.left, scratch, err));
    const double least = (double)mp_net_port_bound(x->net, c.left);
    ns = ns > least ? ns : least;
    *rails_ns += ns - as_whole;
    c.lengths[count] = (struct length){ns, MP_NONE};
    status = arrange(out, &c, count, err);
out:
    mp_schedule_free(&c.all);
    return status;
}
