/* Routing tables from the optimal split.
 *
 * Decides   the weights of each (layer, replicated expert, source GPU or node, replica), or that all of them are even
 *           or the nearest.
 * Minimises the objective of steps, not of their mean: a split that is best for mean loads can be worse in most steps.
 * Method    candidates for each layer: even, nearest, the least peak, the fewest copies within 2, 5, 10 and 20 % above
 *           it and with no limit; with the fixed-charge form also the choices of split_choose.c. Each is scored, layer
 * by layer, on drawn steps (planner/drawn.c) or on the planning steps with every transfer at its port bound, and the
 * best stays. Then, with the fixed-charge form, one expert after the other (busiest first) is given even weights, its
 * nearest replicas or one replica alone where that is better. At last the whole is simulated on the planning steps
 * beside even and nearest, and the best of the three is the plan's.
 * Bound     on the planning steps never worse than even and nearest. The split of mean loads is exact (split.c).
 * Differs   LPLB and TEMPO solve for each batch as it runs; a table has to be good for steps it has not seen. Loads are
 *           therefore pooled over sources where requests may start on any rank.
 * Cost      a split per layer and candidate, below 1 ms each; a look at all steps per candidate. */
#include "split_route.h"
#include "route_value.h"
#include "split.h"
#include <moeplan/progress.h>
#include <moeplan/base.h>
#include <string.h>

static const uint32_t room_permille[] = {0, 20, 50, 100, 200, UINT32_MAX}; /* above the least peak */
#define N_ROOMS (sizeof room_permille / sizeof room_permille[0])
#define DEAR_ROOMS 3u /* so many of them where a look is dear */
#define LOAD_PAIRS UINT64_C(64000000)
#define EXACT_MAX 256u
#define EFFORT 400u
#define LOOK_PAIRS UINT64_C(12000000)     /* (token, expert) pairs of a look */
#define GPU_CELLS_MAX (UINT64_C(1) << 24) /* more than these: classes are nodes */
enum { DRAW_SEED = 7, SEEN_MAX = 32 };

enum { OPTION_STEPS, OPTION_WEIGHTS, OPTION_NODES };
const struct mp_option mp_split_options[] = {
    {"steps", "steps", "how many steps are looked at, at most", 64, 1, 4096},
    {"weights", "", "what the weights of an expert add up to, at most", 64, 1, 4096},
    {"nodes", "",
     "1: the sources of a node share their weights, which makes a small table; 0: only where there are too many", 0, 0,
     1},
    {NULL, NULL, NULL, 0, 0, 0}};

struct routing {
    const struct mp_problem *in;
    bool with_choice;
    struct mp_plan *plan;
    struct mp_arena *scratch;
    struct mp_workload *drawn;
    struct mp_route_value *value;
    uint32_t n_classes, n_load_steps;
    size_t cells; /* of a layer's table */
    uint32_t *class_gpu, *class_node, *slot_gpu;
    uint64_t *rows;                                /* [n_layers][n_classes][n_experts] */
    uint64_t *row_ps, *fixed_ps;                   /* [n_gpus] sums over steps */
    uint64_t *read_ps, *read_base_ps;              /* the same */
    uint64_t *active;                              /* [n_layers][n_experts] */
    uint32_t **best;                               /* [n_layers] tables */
    struct mp_layer_value *best_value, *value_now; /* [n_layers] */
    bool *is_left_out;                             /* [n_layers]: nothing new in this candidate */
    uint64_t (*seen)[SEEN_MAX];                    /* [n_layers] tables looked at, as hashes */
    uint32_t n_seen;
    /* the candidate that is being made */
    bool is_choice, is_lean;
    uint32_t room;
};

static uint32_t *table_of(struct routing *r, uint32_t layer) { return r->plan->layers[layer].slot_weight_by_source; }

static uint32_t count_slots(const struct mp_plan *p, uint32_t layer, uint32_t expert) {
    uint32_t n = 0;
    for (uint32_t s = 0; s < p->n_slots; s++)
        n += p->layers[layer].slot_expert[s] == expert;
    return n;
}

static bool has_replicas(const struct mp_plan *p) {
    for (uint32_t l = 0; l < p->n_layers; l++) {
        uint32_t n = 0;
        for (uint32_t s = 0; s < p->n_slots; s++)
            n += p->layers[l].slot_expert[s] != MP_NO_EXPERT;
        if (n > p->n_experts)
            return true;
    }
    return false;
}

/* ---- loads ---- */
/* Rows by class over the planning steps, of very many a sample. Where any request may start anywhere, an expert's rows
 * are shared out as all rows are: what one source had more of in these steps it will not have in others. */
static enum mp_status load_layer(void *ctx, size_t layer, unsigned worker, struct mp_error *err) {
    struct routing *r = ctx;
    const struct mp_workload *w = r->in->workload;
    const uint32_t n_experts = w->trace->n_experts, n_ranks = w->n_ranks;
    uint64_t *rows = r->rows + layer * r->n_classes * n_experts, *active = r->active + layer * n_experts;
    (void)worker;
    uint32_t *tokens = mp_calloc((size_t)n_ranks * n_experts, sizeof *tokens);
    if (tokens == NULL)
        return mp_nomem(err, "loads by source");
    for (uint32_t k = 0; k < r->n_load_steps; k++) {
        mp_workload_tokens(w, (uint32_t)((uint64_t)k * w->n_steps / r->n_load_steps), (uint32_t)layer, tokens);
        for (uint32_t e = 0; e < n_experts; e++) {
            bool is_active = false;
            for (uint32_t rank = 0; rank < n_ranks; rank++) {
                const uint32_t n = tokens[(size_t)rank * n_experts + e];
                rows[(size_t)mp_plan_class(r->plan, rank) * n_experts + e] += n;
                is_active |= n > 0;
            }
            active[e] += is_active;
        }
    }
    mp_free(tokens);
    if (r->drawn == NULL)
        return MP_OK;
    uint64_t total = 0;
    uint64_t *of_class = mp_calloc(r->n_classes, sizeof *of_class);
    if (of_class == NULL)
        return mp_nomem(err, "loads by source");
    for (uint32_t c = 0; c < r->n_classes; c++)
        for (uint32_t e = 0; e < n_experts; e++)
            of_class[c] += rows[(size_t)c * n_experts + e];
    for (uint32_t c = 0; c < r->n_classes; c++)
        total += of_class[c];
    for (uint32_t e = 0; e < n_experts; e++) {
        uint64_t load = 0, seen = 0, given = 0;
        for (uint32_t c = 0; c < r->n_classes; c++)
            load += rows[(size_t)c * n_experts + e];
        for (uint32_t c = 0; c < r->n_classes; c++) {
            seen += of_class[c];
            const uint64_t until = total > 0 ? mp_mul_div(load, seen, total) : 0;
            rows[(size_t)c * n_experts + e] = until - given;
            given = until;
        }
    }
    mp_free(of_class);
    return MP_OK;
}

static uint64_t scaled(uint64_t ps, uint64_t times, uint32_t speed_ppm) {
    const uint64_t n = mp_mul_div_ceil(ps, 1000000, speed_ppm > 0 ? speed_ppm : 1);
    return mp_mul_div(n > 0 ? n : 1, times, 1);
}

static enum mp_status prepare(struct routing *r, struct mp_error *err) {
    const struct mp_problem *in = r->in;
    const struct mp_plan *p = r->plan;
    const size_t n_layers = p->n_layers, n_gpus = p->n_gpus;
    r->n_classes = mp_plan_n_classes(p);
    r->cells = (size_t)r->n_classes * p->n_slots;
    r->class_gpu = mp_arena_alloc(r->scratch, n_gpus, sizeof *r->class_gpu);
    r->class_node = mp_arena_alloc(r->scratch, n_gpus, sizeof *r->class_node);
    r->slot_gpu = mp_arena_alloc(r->scratch, p->n_slots, sizeof *r->slot_gpu);
    r->rows = mp_arena_alloc(r->scratch, n_layers * r->n_classes * p->n_experts, sizeof *r->rows);
    r->active = mp_arena_alloc(r->scratch, n_layers * p->n_experts, sizeof *r->active);
    r->row_ps = mp_arena_alloc(r->scratch, n_gpus, sizeof *r->row_ps);
    r->fixed_ps = mp_arena_alloc(r->scratch, n_gpus, sizeof *r->fixed_ps);
    r->read_ps = mp_arena_alloc(r->scratch, n_gpus, sizeof *r->read_ps);
    r->read_base_ps = mp_arena_alloc(r->scratch, n_gpus, sizeof *r->read_base_ps);
    r->best = mp_arena_alloc(r->scratch, n_layers, sizeof *r->best);
    r->best_value = mp_arena_alloc(r->scratch, n_layers, sizeof *r->best_value);
    r->value_now = mp_arena_alloc(r->scratch, n_layers, sizeof *r->value_now);
    r->is_left_out = mp_arena_alloc(r->scratch, n_layers, sizeof *r->is_left_out);
    r->seen = mp_arena_alloc(r->scratch, n_layers, sizeof *r->seen);
    uint32_t *tables = mp_arena_alloc(r->scratch, n_layers * r->cells, sizeof *tables);
    if (r->class_gpu == NULL || r->class_node == NULL || r->slot_gpu == NULL || r->rows == NULL || r->active == NULL ||
        r->row_ps == NULL || r->fixed_ps == NULL || r->read_ps == NULL || r->read_base_ps == NULL || r->best == NULL ||
        r->best_value == NULL || r->value_now == NULL || r->is_left_out == NULL || r->seen == NULL || tables == NULL)
        return mp_nomem(err, "routing tables");
    for (uint32_t s = 0; s < p->n_slots; s++)
        r->slot_gpu[s] = mp_plan_slot_gpu(p, s);
    const uint64_t pairs = in->workload->n_rows * in->model->top_k * n_layers, n_steps = in->workload->n_steps;
    r->n_load_steps = (uint32_t)n_steps;
    if (pairs > LOAD_PAIRS) {
        const uint64_t n = mp_mul_div(n_steps, LOAD_PAIRS, pairs);
        r->n_load_steps = (uint32_t)(n < 8 ? (n_steps < 8 ? n_steps : 8) : n);
    }
    for (uint32_t g = 0; g < n_gpus; g++) {
        const uint32_t class = mp_plan_class(p, g), speed = in->topology->gpus[g].speed_ppm;
        const struct mp_compute_coefficients c = mp_compute_coefficients(in->topology, g, in->model);
        r->class_gpu[class] = g;
        r->class_node[class] = p->gpu_node[g];
        r->row_ps[g] = scaled(c.beta_ps, 1, speed);
        r->read_ps[g] = scaled(c.b_ps, 1, speed);
        r->fixed_ps[g] = scaled(c.c_ps, r->n_load_steps, speed);
        r->read_base_ps[g] = scaled(c.a_ps, r->n_load_steps, speed);
    }
    for (uint32_t l = 0; l < n_layers; l++) {
        r->best[l] = tables + l * r->cells;
        r->best_value[l].all = UINT64_MAX;
    }
    return mp_parallel_for(in->n_threads, n_layers, load_layer, r, err);
}

/* ---- candidates ---- */
static struct mp_split_problem problem_of(const struct routing *r, uint32_t layer) {
    const struct mp_plan *p = r->plan;
    return (struct mp_split_problem){.n_gpus = p->n_gpus,
                                     .n_classes = r->n_classes,
                                     .n_experts = p->n_experts,
                                     .n_slots = p->n_slots,
                                     .gpu_node = p->gpu_node,
                                     .class_gpu = p->route_by == MP_ROUTE_BY_GPU ? r->class_gpu : NULL,
                                     .class_node = r->class_node,
                                     .slot_expert = p->layers[layer].slot_expert,
                                     .slot_gpu = r->slot_gpu,
                                     .rows = r->rows + (size_t)layer * r->n_classes * p->n_experts,
                                     .row_ps = r->row_ps,
                                     .fixed_ps = r->fixed_ps};
}

/* Experts that use one replica alone have no weights yet. */
static void fill_single(const struct routing *r, uint32_t layer, const uint16_t *used, uint32_t *weights) {
    const struct mp_plan *p = r->plan;
    for (uint32_t s = 0; s < p->n_slots; s++) {
        const uint16_t e = used[s];
        if (e == MP_NO_EXPERT || count_slots(p, layer, e) < 2)
            continue;
        for (uint32_t c = 0; c < r->n_classes; c++) {
            uint64_t sum = 0;
            for (uint32_t k = 0; k < p->n_slots; k++)
                sum += p->layers[layer].slot_expert[k] == e ? weights[(size_t)c * p->n_slots + k] : 0;
            if (sum == 0)
                weights[(size_t)c * p->n_slots + s] = 1;
        }
    }
}

static enum mp_status split_layer(void *ctx, size_t l, unsigned worker, struct mp_error *err) {
    struct routing *r = ctx;
    const uint32_t layer = (uint32_t)l;
    struct mp_split_problem problem = problem_of(r, layer);
    struct mp_splitter *s = NULL;
    struct mp_arena *arena = mp_arena_new();
    enum mp_status status = MP_OK;
    (void)worker;
    if (arena == NULL)
        return mp_nomem(err, "routing tables");
    if (r->is_choice) {
        const struct mp_split_charges charges = {r->active + l * problem.n_experts, r->read_base_ps, r->read_ps};
        struct mp_split_choice choice;
        status = mp_split_choose(&choice, &problem, &charges, r->is_lean, EXACT_MAX, EFFORT, arena, err);
        problem.slot_expert = choice.slot_expert;
        r->is_left_out[l] = status == MP_OK && choice.least_reads_ps < choice.least_rows_ps / 2; /* rows alone bind */
    }
    if (status == MP_OK && !r->is_left_out[l])
        status = mp_split_new(&s, &problem, arena, err);
    if (status == MP_OK && !r->is_left_out[l]) {
        const uint64_t peak = mp_split_peak(s);
        (void)mp_split_within(s, r->room == UINT32_MAX ? UINT64_MAX / 4 : peak + mp_mul_div(peak, r->room, 1000));
        mp_split_weights(s, (uint32_t)r->in->option_values[OPTION_WEIGHTS], table_of(r, layer));
        if (r->is_choice)
            fill_single(r, layer, problem.slot_expert, table_of(r, layer));
    }
    mp_arena_free(arena);
    return status;
}

static void fill_even(struct routing *r) {
    const struct mp_plan *p = r->plan;
    for (uint32_t l = 0; l < p->n_layers; l++) {
        uint32_t *weights = table_of(r, l);
        memset(weights, 0, r->cells * sizeof *weights);
        for (uint32_t s = 0; s < p->n_slots; s++) {
            const uint16_t e = p->layers[l].slot_expert[s];
            const bool has_choice = e != MP_NO_EXPERT && count_slots(p, l, e) > 1;
            for (uint32_t c = 0; has_choice && c < r->n_classes; c++)
                weights[(size_t)c * p->n_slots + s] = 1;
        }
    }
}

/* The rule `nearest` as a table. */
static enum mp_status fill_nearest(struct routing *r, struct mp_error *err) {
    struct mp_plan *p = r->plan;
    struct mp_router *router;
    p->route = MP_ROUTE_NEAREST;
    enum mp_status status = mp_router_new(&router, p, err);
    p->route = MP_ROUTE_SOURCED;
    if (status != MP_OK)
        return status;
    for (uint32_t l = 0; l < p->n_layers; l++) {
        memset(table_of(r, l), 0, r->cells * sizeof *table_of(r, l));
        for (uint32_t e = 0; e < p->n_experts; e++) {
            uint32_t n;
            (void)mp_router_replicas(router, l, e, &n);
            for (uint32_t c = 0; n > 1 && c < r->n_classes; c++)
                table_of(r, l)[(size_t)c * p->n_slots + mp_router_slot(router, l, e, r->class_gpu[c], 0)] = 1;
        }
    }
    mp_router_free(router);
    return MP_OK;
}

/* Scores what the plan has now, but what was scored before, and keeps each layer's best. */
static enum mp_status look(struct routing *r, struct mp_error *err) {
    for (uint32_t l = 0; l < r->plan->n_layers; l++) {
        const uint64_t hash = mp_xxh64(table_of(r, l), r->cells * sizeof *table_of(r, l));
        for (uint32_t i = 0; i < r->n_seen && !r->is_left_out[l]; i++)
            r->is_left_out[l] = r->seen[l][i] == hash;
        r->seen[l][r->n_seen] = hash;
    }
    r->n_seen += r->n_seen + 1 < SEEN_MAX;
    enum mp_status status = mp_route_value_of(r->value, r->plan, r->best_value, r->is_left_out, r->value_now, err);
    for (uint32_t l = 0; status == MP_OK && l < r->plan->n_layers; l++) {
        r->is_left_out[l] = false;
        if (r->value_now[l].all >= r->best_value[l].all)
            continue;
        r->best_value[l] = r->value_now[l];
        memcpy(r->best[l], table_of(r, l), r->cells * sizeof *r->best[l]);
    }
    return status;
}

static void use_best(struct routing *r) {
    for (uint32_t l = 0; l < r->plan->n_layers; l++)
        memcpy(table_of(r, l), r->best[l], r->cells * sizeof *r->best[l]);
}

static enum mp_status try_splits(struct routing *r, struct mp_error *err) {
    enum mp_status status;
    fill_even(r);
    MP_TRY(look(r, err));
    if (r->plan->route_by == MP_ROUTE_BY_GPU) {
        MP_TRY(fill_nearest(r, err));
        MP_TRY(look(r, err));
    }
    const size_t each = mp_route_value_is_dear(r->value) ? N_ROOMS / DEAR_ROOMS : 1;
    for (size_t i = each - 1; i < N_ROOMS; i += each) {
        r->room = room_permille[i];
        MP_TRY(mp_parallel_for_told(r->in->sim.progress, "layers", r->in->n_threads, r->plan->n_layers, split_layer, r,
                                    err));
        MP_TRY(look(r, err));
    }
    for (size_t i = each - 1; r->with_choice && i < N_ROOMS; i += each) {
        r->is_choice = true;
        r->room = room_permille[i];
        for (int lean = each > 1; lean < 2; lean++) {
            r->is_lean = lean;
            MP_TRY(mp_parallel_for_told(r->in->sim.progress, "layers", r->in->n_threads, r->plan->n_layers, split_layer,
                                        r, err));
            MP_TRY(look(r, err));
        }
    }
    use_best(r);
out:
    return status;
}

/* ---- the whole beside even and nearest ---- */
static enum mp_status choose_rule(struct routing *r, struct mp_draft *draft, struct mp_error *err) {
    static const enum mp_route_rule rules[] = {MP_ROUTE_EVEN, MP_ROUTE_NEAREST, MP_ROUTE_SOURCED};
    enum mp_route_rule best = MP_ROUTE_EVEN;
    double least = 0;
    enum mp_status status;
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++) {
        struct mp_sim_result *result;
        if (r->in->allowed_routes != 0 && (r->in->allowed_routes >> rules[i] & 1) == 0)
            continue;
        r->plan->route = rules[i];
        status = mp_score(&result, r->plan, r->in, &draft->work_used, err);
        if (status != MP_OK)
            return status;
        const double value = mp_sim_objective(result, r->in->objective);
        mp_sim_result_free(result);
        if (least == 0 || value < least) {
            least = value;
            best = rules[i];
        }
    }
    r->plan->route = best;
    for (uint32_t l = 0; best != MP_ROUTE_SOURCED && l < r->plan->n_layers; l++)
        r->plan->layers[l].slot_weight_by_source = NULL;
    if (best != MP_ROUTE_SOURCED)
        r->plan->route_by = (enum mp_route_by)0;
    return MP_OK;
}

enum mp_status mp_split_route(const struct mp_problem *in, bool with_choice, struct mp_arena *scratch,
                              struct mp_draft *draft, enum mp_outcome *outcome, struct mp_error *err) {
    const uint32_t n_steps = (uint32_t)in->option_values[OPTION_STEPS];
    const bool by_gpu = in->option_values[OPTION_NODES] == 0;
    struct routing r = {.in = in, .with_choice = with_choice, .plan = draft->plan, .scratch = scratch};
    struct mp_plan *p = draft->plan;
    enum mp_status status;
    *outcome = MP_FOUND;
    if (in->allowed_routes != 0 && (in->allowed_routes >> MP_ROUTE_SOURCED & 1) == 0)
        return mp_decline(err, outcome, MP_NOT_APPLICABLE,
                          "split: the target does not choose replicas by the rule %s (write --route even)",
                          mp_route_rule_name(MP_ROUTE_SOURCED));
    p->route = MP_ROUTE_EVEN;
    if (!has_replicas(p)) /* nothing to choose */
        return MP_OK;
    const uint64_t cells = (uint64_t)p->n_layers * p->n_gpus * p->n_slots;
    if (cells > GPU_CELLS_MAX && cells / p->n_gpus > MP_MAX_ROUTE_CELLS / p->n_nodes)
        return mp_decline(err, outcome, MP_NOT_APPLICABLE,
                          "split: weights for %u layers, %u nodes and %u slots are too many (write --route even)",
                          p->n_layers, p->n_nodes, p->n_slots);
    MP_TRY(mp_plan_source_weights(p, cells <= GPU_CELLS_MAX && by_gpu ? MP_ROUTE_BY_GPU : MP_ROUTE_BY_NODE, err));
    if (mp_can_draw(in->part))
        MP_TRY(mp_draw_steps(&r.drawn, in->part, &in->workload->batching, n_steps, DRAW_SEED, err));
    MP_TRY(mp_route_value_new(&r.value, in, r.drawn != NULL ? r.drawn : in->workload, n_steps, LOOK_PAIRS, err));
    MP_TRY(prepare(&r, err));
    MP_TRY(try_splits(&r, err));
    MP_TRY(choose_rule(&r, draft, err));
out:
    mp_route_value_free(r.value);
    mp_workload_free(r.drawn);
    return status;
}
