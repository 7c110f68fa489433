/* The placement of one layer's copies with the least cost summed over the steps.
 *
 * Decides   which GPU holds each copy (replica counts are given).
 * Minimises sum over steps of max(dispatch, shared) + slowest GPU's experts + combine, transfers as single shots in the
 *           simulator's network; or (objective peak) of the fullest GPU's rows.
 * Method    branch and bound of our own: copies by falling rows, to the GPU with the least bound first. Rows, padded
 *           rows, reads, copies of tokens and the ports' loads of every step are kept up to date as copies come and go.
 *           The first solution is the greedy one, improved by moves and exchanges while they lower the bound. Where
 *           sources do not matter, empty equal GPUs are one choice.
 * Bound     per step: what is placed already costs at least its slowest GPU and its fullest port (nothing that comes
 *           later makes either less), and docs/BOUNDS.md part 2 holds for every placement. Whole numbers throughout.
 * Differs   -
 * Cost      exponential; node_limit placements of one copy, each O(steps * GPUs^2). */
#include "exact_steps.h"
#include <moeplan/base.h>
#include <moeplan/sim.h>
#include <stdlib.h>
#include <string.h>

#define LEAF_NODES 20u /* simulating a placement takes about as long as placing so many copies */
#define MORE_NODES 20000u
#define TIME_MAX (UINT64_C(1) << 52) /* docs/COST.md part 6 */

static uint64_t sane(uint64_t ns) { return ns < TIME_MAX ? ns : TIME_MAX; }
static uint64_t larger(uint64_t a, uint64_t b) { return a > b ? a : b; }

struct step_floor { /* docs/BOUNDS.md part 2, of one step */
    uint64_t dispatch, compute, combine;
};

/* Resources of equal rate and least latency: only the fullest of them matters. */
struct port_class {
    uint64_t bytes_per_s, latency_ns;
    uint32_t n, *resources;
};
/* Copies through every resource of one matrix (dispatch or combine, first phase or inside nodes), all steps. */
enum { DISPATCH, COMBINE, DISPATCH_INSIDE, COMBINE_INSIDE, N_WIRES };

struct search {
    const struct mp_exact_steps *in;
    struct mp_exact_steps_answer *out;
    const struct mp_topology *topology;
    const struct mp_model *model;
    struct mp_copy_rows *ask;
    struct mp_net *net;
    uint32_t n_gpus, n_copies, n_steps, n_nodes;
    enum mp_copy_count kind;
    bool is_peak, is_symmetric, has_second;
    uint64_t launch_ns;
    struct step_floor *floors;
    uint64_t *peak_floor;            /* [n_steps] */
    uint32_t order[MP_EXACT_COPIES]; /* copies by falling rows */
    uint32_t node[MP_EXACT_GPUS], index_in_node[MP_EXACT_GPUS];
    uint32_t gateway[MP_EXACT_GPUS][MP_EXACT_GPUS]; /* [source][node] */
    uint32_t room[MP_EXACT_GPUS], n_slots[MP_EXACT_GPUS];
    /* the placement at hand */
    uint32_t gpu[MP_EXACT_COPIES];     /* NONE = not placed */
    uint64_t *rows, *padded, *compute; /* [n_steps][n_gpus] */
    uint32_t *active;
    uint64_t *first, *second;  /* [n_steps][n_gpus][n_gpus] copies */
    uint8_t *on_gpu, *on_node; /* [n_tokens][n_gpus], [n_tokens][n_nodes] pairs there */
    uint64_t *cost;            /* [n_steps] bound of each */
    uint64_t total;
    uint32_t n_resources, n_classes;
    struct port_class *classes;
    struct mp_path *path; /* [n_gpus][n_gpus] */
    bool has_caps;
    uint64_t least_latency_ns;
    uint64_t *through[N_WIRES];   /* [n_steps][n_resources] copies */
    uint64_t *dispatch, *combine; /* [n_gpus][n_gpus] scratch, bytes */
    /* the result */
    bool is_found, is_stopped, is_loose; /* loose: replicas need not rise yet */
    uint64_t best, open;                 /* open: least bound of what was left out when the budget struck */
};

/* ---- cost of a step ---- */
static uint64_t ns_of(uint64_t copies, uint64_t bytes, uint64_t rate) {
    uint64_t x;
    return mp_mul_overflow(copies, bytes, &x) || mp_mul_overflow(x, UINT64_C(1000000000), &x)
               ? mp_mul_div_ceil(copies * bytes, UINT64_C(1000000000), rate)
               : mp_ceil_div(x, rate);
}

/* The fullest port's time and a latency, of what is placed so far. The last flow through a port ends a latency after
 * the port has carried all of its bytes. The simulator's rounding may be a nanosecond below where that latency is not
 * the least of all (docs/COST.md part 4). */
static uint64_t wire_floor(const struct search *x, uint32_t step, int wire) {
    const uint64_t *through = x->through[wire] + (size_t)step * x->n_resources;
    bool is_combine = wire == COMBINE || wire == COMBINE_INSIDE;
    uint64_t bytes = is_combine ? x->model->combine_bytes : x->model->dispatch_bytes, most = 0;
    for (uint32_t c = 0; c < x->n_classes; c++) {
        const struct port_class *k = &x->classes[c];
        uint64_t copies = 0;
        for (uint32_t i = 0; i < k->n; i++)
            copies = larger(copies, through[k->resources[i]]);
        if (copies > 0 && bytes > 0)
            most = larger(most,
                          ns_of(copies, bytes, k->bytes_per_s) + k->latency_ns - (k->latency_ns > x->least_latency_ns));
    }
    const uint64_t *matrix = (wire < DISPATCH_INSIDE ? x->first : x->second) + (size_t)step * x->n_gpus * x->n_gpus;
    for (uint32_t i = 0; x->has_caps && i < x->n_gpus; i++)
        for (uint32_t j = 0; j < x->n_gpus; j++) {
            uint64_t copies = matrix[(size_t)i * x->n_gpus + j];
            const struct mp_path *p =
                is_combine ? &x->path[(size_t)j * x->n_gpus + i] : &x->path[(size_t)i * x->n_gpus + j];
            if (copies > 0 && bytes > 0 && p->cap_bytes_per_s > 0)
                most = larger(most, ns_of(copies, bytes, p->cap_bytes_per_s) + p->latency_ns -
                                        (p->latency_ns > x->least_latency_ns));
        }
    return sane(most);
}

static enum mp_status wire_exact(const struct search *x, const uint64_t *matrix, uint64_t *ns, struct mp_error *err) {
    enum mp_status status = mp_net_concurrent(x->net, matrix, ns, NULL, err);
    *ns = sane(*ns);
    return status;
}

static void weigh(const struct search *x, const uint64_t *copies) {
    uint32_t n = x->n_gpus;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++) {
            x->dispatch[(size_t)i * n + j] = copies[(size_t)i * n + j] * x->model->dispatch_bytes;
            x->combine[(size_t)j * n + i] = copies[(size_t)i * n + j] * x->model->combine_bytes;
        }
}

/* Both directions of a step, launches included. */
static enum mp_status transfers(const struct search *x, uint32_t step, bool is_exact, uint64_t *dispatch,
                                uint64_t *combine, struct mp_error *err) {
    size_t cells = (size_t)x->n_gpus * x->n_gpus;
    uint64_t ns[N_WIRES] = {0};
    enum mp_status status = MP_OK;
    *dispatch = *combine = 0;
    if (x->n_gpus < 2)
        return MP_OK;
    for (int w = 0; w < (x->has_second ? N_WIRES : DISPATCH_INSIDE) && !is_exact; w++)
        ns[w] = wire_floor(x, step, w);
    if (is_exact) {
        weigh(x, x->first + step * cells);
        MP_TRY(wire_exact(x, x->dispatch, &ns[DISPATCH], err));
        MP_TRY(wire_exact(x, x->combine, &ns[COMBINE], err));
    }
    if (is_exact && x->has_second) {
        weigh(x, x->second + step * cells);
        MP_TRY(wire_exact(x, x->dispatch, &ns[DISPATCH_INSIDE], err));
        MP_TRY(wire_exact(x, x->combine, &ns[COMBINE_INSIDE], err));
    }
    bool is_overlapped = x->in->problem->sim.dispatcher->is_overlapped;
    *dispatch =
        x->launch_ns + (is_overlapped ? larger(ns[DISPATCH], ns[DISPATCH_INSIDE]) : ns[DISPATCH] + ns[DISPATCH_INSIDE]);
    *combine =
        x->launch_ns + (is_overlapped ? larger(ns[COMBINE], ns[COMBINE_INSIDE]) : ns[COMBINE] + ns[COMBINE_INSIDE]);
out:
    return status;
}

static enum mp_status step_cost(const struct search *x, uint32_t step, bool is_exact, uint64_t *cost,
                                struct mp_error *err) {
    size_t at = (size_t)step * x->n_gpus;
    const struct step_floor *f = &x->floors[step];
    uint64_t most = 0, dispatch, combine;
    for (uint32_t g = 0; g < x->n_gpus; g++)
        most = larger(most, x->is_peak ? x->rows[at + g] : x->compute[at + g]);
    if (x->is_peak) {
        *cost = is_exact ? most : larger(most, x->peak_floor[step]);
        return MP_OK;
    }
    enum mp_status status = transfers(x, step, is_exact, &dispatch, &combine, err);
    if (!is_exact) {
        most = larger(most, f->compute);
        dispatch = larger(dispatch, f->dispatch);
        combine = larger(combine, f->combine);
    }
    *cost = larger(dispatch, x->ask->shared_ns[step]) + most + combine;
    return status;
}

/* Ends early, at some number that is no less than the best, when it cannot be better. */
static enum mp_status exact_cost(const struct search *x, uint64_t *total, struct mp_error *err) {
    uint64_t best = x->is_found ? x->best : UINT64_MAX;
    *total = x->total;
    for (uint32_t s = 0; s < x->n_steps && *total < best; s++) {
        uint64_t cost;
        enum mp_status status = step_cost(x, s, true, &cost, err);
        if (status != MP_OK)
            return status;
        *total += cost - x->cost[s];
    }
    return MP_OK;
}

/* ---- placing and taking away ---- */
static void add_copies(struct search *x, uint32_t step, bool is_inside, uint32_t i, uint32_t j, uint64_t by) {
    size_t n = x->n_gpus, at = (size_t)step * x->n_resources;
    const struct mp_path *out = &x->path[i * n + j], *back = &x->path[j * n + i];
    uint64_t *there = x->through[is_inside ? DISPATCH_INSIDE : DISPATCH] + at;
    uint64_t *home = x->through[is_inside ? COMBINE_INSIDE : COMBINE] + at;
    (is_inside ? x->second : x->first)[((size_t)step * n + i) * n + j] += by;
    for (uint32_t k = 0; k < out->n; k++)
        there[out->resource[k]] += by;
    for (uint32_t k = 0; k < back->n; k++)
        home[back->resource[k]] += by;
}

static void count_token(struct search *x, uint64_t token, uint32_t gpu, bool comes) {
    size_t n = x->n_gpus;
    uint32_t source = x->ask->token_source[token], v = x->node[gpu];
    uint32_t step = x->ask->token_step[token];
    uint64_t by = comes ? 1 : (uint64_t)-1;
    uint8_t *here = &x->on_gpu[token * n + gpu];
    if (!comes)
        --*here;
    bool is_change = *here == 0; /* the first pair there, or the last */
    if (comes)
        ++*here;
    if (!is_change || gpu == source)
        return;
    if (x->kind == MP_COPY_PER_GPU || v == x->node[source]) {
        add_copies(x, step, false, source, gpu, by);
        return;
    }
    uint8_t *there = &x->on_node[token * x->n_nodes + v];
    uint32_t gateway = x->gateway[source][v];
    if (!comes)
        --*there;
    if (*there == 0)
        add_copies(x, step, false, source, gateway, by);
    if (comes)
        ++*there;
    if (gateway != gpu)
        add_copies(x, step, true, gateway, gpu, by);
}

static enum mp_status change(struct search *x, uint32_t copy, uint32_t gpu, bool comes, struct mp_error *err) {
    size_t n = x->n_gpus;
    const struct mp_copy_rows *ask = x->ask;
    uint64_t tile = x->topology->types[x->topology->gpus[gpu].type].tile_tokens;
    tile = tile == 0 ? 1 : tile;
    x->gpu[copy] = comes ? gpu : MP_NONE;
    x->room[gpu] += comes ? (uint32_t)-1 : 1;
    if (!x->is_peak && (x->kind == MP_COPY_PER_GPU || x->kind == MP_COPY_PER_NODE))
        for (uint64_t i = ask->first_pair[copy]; i < ask->first_pair[copy + 1]; i++)
            count_token(x, ask->pair_token[i], gpu, comes);
    for (uint32_t s = 0; s < x->n_steps; s++) {
        uint64_t rows = ask->rows[(size_t)s * x->n_copies + copy], padded = mp_ceil_div(rows, tile) * tile, cost;
        size_t at = s * n + gpu;
        if (rows == 0)
            continue;
        x->rows[at] += comes ? rows : -rows;
        x->padded[at] += comes ? padded : -padded;
        x->active[at] += comes ? 1 : (uint32_t)-1;
        if (!x->is_peak) {
            x->compute[at] = sane(mp_compute_ns(x->topology, gpu, x->model, x->active[at], x->padded[at]));
            const uint64_t *from = ask->from + ((size_t)s * x->n_copies + copy) * ask->n_ranks;
            for (uint32_t r = 0; r < ask->n_ranks && x->kind == MP_COPY_PER_EXPERT; r++)
                if (r != gpu && from[r] > 0)
                    add_copies(x, s, false, r, gpu, comes ? from[r] : -from[r]);
        }
        enum mp_status status = step_cost(x, s, false, &cost, err);
        if (status != MP_OK)
            return status;
        x->total += cost - x->cost[s];
        x->cost[s] = cost;
    }
    return MP_OK;
}

static bool may_go(const struct search *x, uint32_t copy, uint32_t gpu) {
    if (x->room[gpu] == 0)
        return false;
    for (uint32_t c = 0; c < x->n_copies; c++) { /* replicas on distinct GPUs, by rising GPU */
        if (c == copy || x->gpu[c] == MP_NONE || x->in->copies[c] != x->in->copies[copy])
            continue;
        if (x->gpu[c] == gpu || (!x->is_loose && (c < copy) != (x->gpu[c] < gpu)))
            return false;
    }
    return true;
}

static void record(struct search *x, uint64_t total) {
    if (x->is_found && total >= x->best)
        return;
    x->is_found = true;
    x->best = total;
    for (uint32_t c = 0; c < x->n_copies; c++)
        x->out->gpu[c] = (uint16_t)x->gpu[c];
}

/* Without any solution yet it goes on a while longer. */
static bool must_stop(struct search *x) {
    uint64_t limit = x->in->node_limit + (x->is_found ? 0 : MORE_NODES);
    x->is_stopped |= x->in->node_limit > 0 && x->out->nodes >= limit;
    return x->is_stopped;
}

/* ---- a good solution to begin with ---- */
static enum mp_status try_change(struct search *x, uint32_t a, uint32_t to, uint32_t b, bool *is_better,
                                 struct mp_error *err) {
    uint64_t before = x->total;
    uint32_t from = x->gpu[a];
    enum mp_status status;
    *is_better = false;
    x->out->nodes++;
    MP_TRY(change(x, a, from, false, err));
    if (b != MP_NONE)
        MP_TRY(change(x, b, to, false, err));
    bool fits = may_go(x, a, to);
    if (fits)
        MP_TRY(change(x, a, to, true, err));
    if (fits && b != MP_NONE) {
        bool fits_too = may_go(x, b, from);
        if (fits_too)
            MP_TRY(change(x, b, from, true, err));
        else
            MP_TRY(change(x, a, to, false, err));
        fits = fits_too;
    }
    *is_better = fits && x->total < before;
    if (*is_better)
        goto out;
    if (fits) {
        MP_TRY(change(x, a, to, false, err));
        if (b != MP_NONE)
            MP_TRY(change(x, b, from, false, err));
    }
    MP_TRY(change(x, a, from, true, err));
    if (b != MP_NONE)
        MP_TRY(change(x, b, to, true, err));
out:
    return status;
}

static enum mp_status improve(struct search *x, struct mp_error *err) {
    bool has_moved = true, is_better;
    enum mp_status status = MP_OK;
    while (has_moved && !must_stop(x)) {
        has_moved = false;
        for (uint32_t a = 0; a < x->n_copies; a++) {
            for (uint32_t g = 0; g < x->n_gpus; g++) {
                if (x->room[g] == 0 || x->gpu[a] == g)
                    continue;
                MP_TRY(try_change(x, a, g, MP_NONE, &is_better, err));
                has_moved |= is_better;
            }
            for (uint32_t b = a + 1; b < x->n_copies; b++) {
                if (x->gpu[a] == x->gpu[b])
                    continue;
                MP_TRY(try_change(x, a, x->gpu[b], b, &is_better, err));
                has_moved |= is_better;
            }
        }
    }
out:
    return status;
}

/* Replicas of an expert change places until they rise. */
static enum mp_status straighten(struct search *x, struct mp_error *err) {
    enum mp_status status = MP_OK;
    for (uint32_t a = 0; a < x->n_copies; a++)
        for (uint32_t b = a + 1; b < x->n_copies; b++) {
            uint32_t of_a = x->gpu[a], of_b = x->gpu[b];
            if (x->in->copies[a] != x->in->copies[b] || of_a < of_b)
                continue;
            MP_TRY(change(x, a, of_a, false, err));
            MP_TRY(change(x, b, of_b, false, err));
            MP_TRY(change(x, a, of_b, true, err));
            MP_TRY(change(x, b, of_a, true, err));
        }
out:
    return status;
}

/* Greedy, then improved; leaves nothing placed. */
static enum mp_status begin(struct search *x, struct mp_error *err) {
    enum mp_status status = MP_OK;
    uint32_t k = 0;
    x->is_loose = true;
    for (; k < x->n_copies; k++) {
        uint32_t copy = x->order[k], best = MP_NONE;
        uint64_t least = 0;
        for (uint32_t g = 0; g < x->n_gpus; g++) {
            if (!may_go(x, copy, g))
                continue;
            x->out->nodes++;
            MP_TRY(change(x, copy, g, true, err));
            if (best == MP_NONE || x->total < least) {
                best = g;
                least = x->total;
            }
            MP_TRY(change(x, copy, g, false, err));
        }
        if (best == MP_NONE)
            break;
        MP_TRY(change(x, copy, best, true, err));
    }
    x->is_loose = false;
    if (k == x->n_copies) {
        uint64_t total;
        MP_TRY(straighten(x, err));
        x->is_found = true; /* the budget counts from here on */
        x->best = UINT64_MAX;
        MP_TRY(improve(x, err));
        MP_TRY(exact_cost(x, &total, err));
        record(x, total);
    }
    for (uint32_t c = 0; c < x->n_copies; c++)
        if (x->gpu[c] != MP_NONE)
            MP_TRY(change(x, c, x->gpu[c], false, err));
out:
    return status;
}

/* ---- the search ---- */
struct child {
    uint64_t bound;
    uint32_t gpu;
};

static bool is_twin(const struct search *x, uint32_t gpu) {
    if (!x->is_symmetric || x->room[gpu] != x->n_slots[gpu])
        return false;
    for (uint32_t h = 0; h < gpu; h++) {
        const struct mp_gpu *a = &x->topology->gpus[h], *b = &x->topology->gpus[gpu];
        if (x->room[h] == x->n_slots[h] && x->n_slots[h] == x->n_slots[gpu] &&
            (x->is_peak || (a->type == b->type && a->speed_ppm == b->speed_ppm)))
            return true;
    }
    return false;
}

static void leave_open(struct search *x, uint64_t bound) { x->open = bound < x->open ? bound : x->open; }

static enum mp_status descend(struct search *x, uint32_t depth, struct mp_error *err) {
    struct child children[MP_EXACT_GPUS];
    uint32_t n = 0;
    enum mp_status status = MP_OK;
    if (depth == x->n_copies) {
        uint64_t total;
        x->out->nodes += LEAF_NODES;
        status = exact_cost(x, &total, err);
        if (status == MP_OK)
            record(x, total);
        return status;
    }
    uint32_t copy = x->order[depth];
    for (uint32_t g = 0; g < x->n_gpus; g++) {
        if (!may_go(x, copy, g) || is_twin(x, g))
            continue;
        x->out->nodes++;
        MP_TRY(change(x, copy, g, true, err));
        if (!x->is_found || x->total < x->best) {
            uint32_t at = n++;
            for (; at > 0 && children[at - 1].bound > x->total; at--)
                children[at] = children[at - 1];
            children[at] = (struct child){x->total, g};
        }
        MP_TRY(change(x, copy, g, false, err));
    }
    for (uint32_t i = 0; i < n; i++) {
        if (x->is_found && children[i].bound >= x->best)
            break;
        if (must_stop(x)) {
            leave_open(x, children[i].bound); /* children rise: this one is the least of those left */
            break;
        }
        MP_TRY(change(x, copy, children[i].gpu, true, err));
        status = descend(x, depth + 1, err);
        enum mp_status undone = change(x, copy, children[i].gpu, false, err);
        status = status != MP_OK ? status : undone;
        if (status != MP_OK)
            goto out;
    }
out:
    return status;
}

/* ---- setting up ---- */
const char *mp_exact_steps_declines(const struct mp_problem *in, uint32_t n_copies) {
    const struct mp_workload *w = in->workload;
    uint64_t pairs = 0;
    if (n_copies > MP_EXACT_COPIES || in->topology->n_gpus > MP_EXACT_GPUS)
        return "more than 24 copies or 16 GPUs are not searched exactly (use strategy auto or lpt)";
    if (in->sim.sources == MP_SOURCES_COUPLED)
        return "coupled sources move with the placement (use --sources dp, or strategy sorted or bottleneck)";
    if (in->objective != MP_OBJECTIVE_STEP && in->objective != MP_OBJECTIVE_PEAK)
        return "only the objectives step and peak are sums over steps (write --objective step)";
    if (w->trace->kind == MP_TRACE_COUNTS && in->sim.dispatcher->copies != MP_COPY_PER_EXPERT &&
        in->sim.dispatcher->copies != MP_COPY_ALL)
        return "counts do not tell which experts one token used (use --dispatcher a2av)";
    for (uint32_t e = 0; e < w->trace->n_experts; e++) /* of the busiest layer, or nearly */
        pairs += in->load[e];
    if (pairs > MP_EXACT_PAIRS)
        return "more than 2^22 (token, expert) pairs in a layer are not searched exactly (use --steps)";
    return NULL;
}

static enum mp_status make_floors(struct search *x, struct mp_arena *arena, struct mp_error *err) {
    const struct mp_problem *p = x->in->problem;
    const struct mp_cost_setup setup = {.plan = x->in->shape,
                                        .workload = p->workload,
                                        .topology = p->topology,
                                        .model = p->model,
                                        .dispatcher = p->sim.dispatcher,
                                        .sources = p->sim.sources};
    x->floors = mp_arena_alloc(arena, x->n_steps, sizeof *x->floors);
    x->peak_floor = mp_arena_alloc(arena, x->n_steps, sizeof *x->peak_floor);
    if (x->floors == NULL || x->peak_floor == NULL)
        return mp_nomem(err, "an exact placement");
    for (uint32_t s = 0; s < x->n_steps; s++) {
        struct mp_layer_bound b;
        uint64_t sum = 0, most = 0;
        enum mp_status status = mp_layer_lower_bound(&b, &setup, s, x->in->layer, err);
        if (status != MP_OK)
            return status;
        x->floors[s] = (struct step_floor){sane(b.dispatch_ns), sane(b.compute_ns), sane(b.combine_ns)};
        for (uint32_t c = 0; c < x->n_copies; c++) {
            sum += x->ask->rows[(size_t)s * x->n_copies + c];
            most = larger(most, x->ask->rows[(size_t)s * x->n_copies + c]);
        }
        x->peak_floor[s] = larger(most, mp_ceil_div(sum, x->n_gpus));
    }
    return MP_OK;
}

static void make_nodes(struct search *x) {
    uint32_t size[MP_EXACT_GPUS] = {0};
    for (uint32_t g = 0; g < x->n_gpus; g++) {
        x->node[g] = mp_topology_node(x->topology, g);
        x->index_in_node[g] = size[x->node[g]]++;
        x->n_slots[g] = x->room[g] = x->in->shape->gpu_first_slot[g + 1] - x->in->shape->gpu_first_slot[g];
    }
    for (uint32_t i = 0; i < x->n_gpus; i++)
        for (uint32_t g = 0; g < x->n_gpus; g++)
            if (x->index_in_node[g] == x->index_in_node[i] % size[x->node[g]])
                x->gateway[i][x->node[g]] = g;
}

/* Paths, and resources by rate and least latency. */
static enum mp_status make_ports(struct search *x, struct mp_arena *arena, struct mp_error *err) {
    size_t n = x->n_gpus;
    uint32_t n_resources = x->n_resources = x->topology->n_resources;
    uint64_t *latency = mp_arena_alloc(arena, n_resources, sizeof *latency);
    x->path = mp_arena_alloc(arena, n * n, sizeof *x->path);
    x->classes = mp_arena_alloc(arena, n_resources, sizeof *x->classes);
    uint32_t *lists = mp_arena_alloc(arena, (size_t)n_resources * n_resources, sizeof *lists);
    if (latency == NULL || x->path == NULL || x->classes == NULL || lists == NULL)
        return mp_nomem(err, "an exact placement");
    for (uint32_t r = 0; r < n_resources; r++)
        latency[r] = UINT64_MAX;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++) {
            struct mp_path *p = &x->path[i * n + j];
            mp_topology_path(x->topology, i, j, p);
            x->has_caps |= p->cap_bytes_per_s > 0;
            for (uint32_t k = 0; k < p->n; k++)
                if (p->latency_ns < latency[p->resource[k]])
                    latency[p->resource[k]] = p->latency_ns;
        }
    x->least_latency_ns = UINT64_MAX;
    for (uint32_t l = 0; l < x->topology->n_levels; l++)
        if (x->topology->levels[l].latency_ns < x->least_latency_ns)
            x->least_latency_ns = x->topology->levels[l].latency_ns;
    for (uint32_t r = 0; r < n_resources; r++) {
        uint32_t c = 0;
        if (latency[r] == UINT64_MAX)
            continue; /* nobody's path */
        uint64_t rate = x->topology->resources[r].bytes_per_s;
        while (c < x->n_classes && (x->classes[c].bytes_per_s != rate || x->classes[c].latency_ns != latency[r]))
            c++;
        if (c == x->n_classes)
            x->classes[x->n_classes++] = (struct port_class){rate, latency[r], 0, lists + (size_t)c * n_resources};
        x->classes[c].resources[x->classes[c].n++] = r;
    }
    for (int w = 0; w < N_WIRES; w++) {
        x->through[w] = mp_arena_alloc(arena, (size_t)x->n_steps * n_resources, sizeof *x->through[w]);
        if (x->through[w] == NULL)
            return mp_nomem(err, "an exact placement");
    }
    return MP_OK;
}

static enum mp_status make_state(struct search *x, struct mp_arena *arena, struct mp_error *err) {
    size_t n = x->n_gpus, cells = (size_t)x->n_steps * n;
    x->rows = mp_arena_alloc(arena, cells, sizeof *x->rows);
    x->padded = mp_arena_alloc(arena, cells, sizeof *x->padded);
    x->compute = mp_arena_alloc(arena, cells, sizeof *x->compute);
    x->active = mp_arena_alloc(arena, cells, sizeof *x->active);
    x->first = mp_arena_alloc(arena, cells * n, sizeof *x->first);
    x->second = mp_arena_alloc(arena, cells * n, sizeof *x->second);
    x->on_gpu = mp_arena_alloc(arena, x->ask->n_tokens * n, 1);
    x->on_node = mp_arena_alloc(arena, x->ask->n_tokens * x->n_nodes, 1);
    x->cost = mp_arena_alloc(arena, x->n_steps, sizeof *x->cost);
    x->dispatch = mp_arena_alloc(arena, n * n, sizeof *x->dispatch);
    x->combine = mp_arena_alloc(arena, n * n, sizeof *x->combine);
    if (x->rows == NULL || x->padded == NULL || x->compute == NULL || x->active == NULL || x->first == NULL ||
        x->second == NULL || x->on_gpu == NULL || x->on_node == NULL || x->cost == NULL || x->dispatch == NULL ||
        x->combine == NULL)
        return mp_nomem(err, "an exact placement");
    if (x->kind == MP_COPY_ALL)
        for (uint32_t s = 0; s < x->n_steps; s++)
            for (uint32_t i = 0; i < x->ask->n_ranks; i++)
                for (uint32_t j = 0; j < n; j++)
                    if (i != j)
                        add_copies(x, s, false, i, j, x->ask->rank_tokens[(size_t)s * x->ask->n_ranks + i]);
    for (uint32_t s = 0; s < x->n_steps; s++) {
        enum mp_status status = step_cost(x, s, false, &x->cost[s], err);
        if (status != MP_OK)
            return status;
        x->total += x->cost[s];
    }
    return MP_OK;
}

static void make_order(struct search *x) {
    uint64_t rows[MP_EXACT_COPIES] = {0};
    bool has_replicas = false;
    for (uint32_t c = 0; c < x->n_copies; c++) {
        x->gpu[c] = MP_NONE;
        for (uint32_t s = 0; s < x->n_steps; s++)
            rows[c] += x->ask->rows[(size_t)s * x->n_copies + c];
        for (uint32_t b = 0; b < c; b++)
            has_replicas |= x->in->copies[b] == x->in->copies[c];
        uint32_t at = c;
        for (; at > 0 && rows[x->order[at - 1]] < rows[c]; at--)
            x->order[at] = x->order[at - 1];
        x->order[at] = c;
    }
    /* Which replica serves a token goes by rising GPU, so with replicas exchanging equal GPUs changes things. */
    x->is_symmetric = !has_replicas && (x->is_peak || x->kind == MP_COPY_ALL);
}

enum mp_status mp_exact_steps_solve(struct mp_exact_steps_answer *out, const struct mp_exact_steps *in,
                                    struct mp_error *err) {
    struct mp_copy_rows ask;
    struct mp_arena *arena = mp_arena_new();
    struct search *x = arena != NULL ? mp_arena_alloc(arena, 1, sizeof *x) : NULL;
    enum mp_status status;
    *out = (struct mp_exact_steps_answer){.outcome = MP_NOT_FOUND};
    if (x == NULL) {
        mp_arena_free(arena);
        return mp_nomem(err, "an exact placement");
    }
    const struct mp_problem *p = in->problem;
    x->in = in;
    x->out = out;
    x->ask = &ask;
    x->topology = p->topology;
    x->model = p->model;
    x->n_gpus = p->topology->n_gpus;
    x->n_nodes = mp_topology_n_nodes(p->topology);
    x->n_copies = in->n_copies;
    x->n_steps = p->workload->n_steps;
    x->kind = p->sim.dispatcher->copies;
    x->has_second = x->kind == MP_COPY_PER_NODE;
    x->is_peak = p->objective == MP_OBJECTIVE_PEAK;
    x->launch_ns = p->sim.dispatcher->n_launches * sane(p->topology->launch_ns);
    x->open = UINT64_MAX;
    MP_TRY(mp_copy_rows_count(&ask, p, in->layer, in->copies, in->n_copies, arena, err));
    for (uint32_t s = 0; s < x->n_steps; s++)
        ask.shared_ns[s] = sane(ask.shared_ns[s]);
    MP_TRY(mp_net_new(&x->net, p->topology, err));
    MP_TRY(make_floors(x, arena, err));
    make_nodes(x);
    make_order(x);
    MP_TRY(make_ports(x, arena, err));
    MP_TRY(make_state(x, arena, err));
    uint64_t root = x->total;
    MP_TRY(begin(x, err));
    if (!x->is_found || x->best > root)
        MP_TRY(descend(x, 0, err));
    out->has_solution = x->is_found;
    out->value = x->is_found ? x->best : 0;
    out->bound = !x->is_found ? 0 : x->open < x->best ? larger(x->open, root) : x->best;
    out->outcome = x->is_stopped && (!x->is_found || out->bound < out->value) ? MP_STOPPED
                   : x->is_found                                              ? MP_FOUND
                                                                              : MP_NOT_FOUND;
out:
    mp_net_free(x->net);
    mp_arena_free(arena);
    return status;
}
