/* plan --from OLD --move-budget BYTES: how much of a new plan is worth moving.
 *
 * Decides   which layers of the new plan replace those of the placement in use.
 * Minimises the sum of the layers' mean times on the planning steps, within a number of experts that may move.
 * Method    labels that move least (planner/migrate); then a knapsack over layers, each with what it gains and what it
 *           moves, by dynamic programming. A plan has one routing for all its layers, those that stay too: where OLD
 * and the new plan route differently both routings are tried, each with the times of both placements under it, and the
 * shorter step wins. The plan that comes out is routed, ordered, proven and verified anew.
 * Bound     exact for whole layers and one routing.
 * Differs   -
 * Cost      two simulations for each routing and O(layers * experts that may move). */
#include "from.h"
#include <math.h>
#include <moeplan/migrate.h>
#include <stdio.h>
#include <string.h>

enum mp_status from_load(struct score *old, struct opts *own, struct setup *s, struct mp_error *err) {
    enum mp_status status = score_load(old, s, own->from, err);
    if (status != MP_OK)
        return status;
    const struct mp_plan *p = old->plan;
    for (uint32_t g = 0; g + 1 < p->n_gpus; g++)
        if (p->gpu_first_slot[g + 2] - p->gpu_first_slot[g + 1] != p->gpu_first_slot[1])
            return MP_OK; /* memory gave them unevenly, and will do so again */
    if (!own->is_set[OPT_SLOTS_PER_GPU])
        own->slots_per_gpu = p->gpu_first_slot[1];
    return MP_OK;
}

/* takes[l]: is layer l worth its moves? Exact: best[b] = the largest gain with b moves at most. */
static enum mp_status choose(bool *takes, const int64_t *gain, const uint32_t *moves, uint32_t n, uint64_t budget,
                             struct mp_error *err) {
    uint64_t all = 0;
    for (uint32_t l = 0; l < n; l++)
        all += moves[l];
    const size_t width = (size_t)(budget < all ? budget : all) + 1;
    int64_t *best = mp_calloc(width, sizeof *best);
    uint8_t *is_taken = mp_calloc(width * n, 1);
    if (best == NULL || is_taken == NULL) {
        mp_free(best);
        mp_free(is_taken);
        return mp_nomem(err, "choosing layers");
    }
    for (uint32_t l = 0; l < n; l++)
        for (size_t b = width; b-- > 0;)
            if (gain[l] > 0 && moves[l] <= b && best[b - moves[l]] + gain[l] > best[b]) {
                best[b] = best[b - moves[l]] + gain[l];
                is_taken[l * width + b] = 1;
            }
    size_t left = width - 1;
    for (uint32_t l = n; l-- > 0;) {
        takes[l] = is_taken[l * width + left] != 0;
        left -= takes[l] ? moves[l] : 0;
    }
    mp_free(best);
    mp_free(is_taken);
    return MP_OK;
}

static uint64_t step_ns(const struct mp_sim_result *r) { return r->mean.step_ns; }

/* Two replicas of an expert on one GPU, as EPLB may make them. */
static bool repeats_on_gpu(const struct mp_plan *p) {
    for (uint32_t l = 0; l < p->n_layers; l++)
        for (uint32_t s = 0; s < p->n_slots; s++)
            for (uint32_t k = p->gpu_first_slot[p->slot_gpu[s]]; k < s; k++)
                if (p->layers[l].slot_expert[s] != MP_NO_EXPERT &&
                    p->layers[l].slot_expert[k] == p->layers[l].slot_expert[s])
                    return true;
    return false;
}

/* The plan of these slots, by the routing of `like` and the orders of `new`; NULL and why when there is none. */
static enum mp_status make(struct mp_plan **out, const struct setup *s, const struct mp_plan *slots,
                           const struct mp_plan *like, const struct mp_plan *new, char *why, size_t size,
                           struct mp_error *err) {
    struct mp_plan_request request = score_request(s, "contiguous");
    enum mp_outcome outcome;
    uint32_t gpu_slots[MP_MAX_GPUS];
    for (uint32_t g = 0; g < slots->n_gpus; g++)
        gpu_slots[g] = slots->gpu_first_slot[g + 1] - slots->gpu_first_slot[g];
    request.replicate = "none";
    request.place = "contiguous";
    request.route = like->provenance.route;
    request.order = new->provenance.order;
    request.gpu_slots = gpu_slots;
    request.given_slots = slots;
    request.given_name = "from";
    request.needs_equal_slots = false; /* the new plan keeps them, and so does what is in use */
    const bool repeats = repeats_on_gpu(slots);
    if (repeats && request.needs_distinct)
        return mp_fail_at(err, MP_EINPUT, s->o->from, 0, 0,
                          "has two replicas of an expert on one GPU, which %s does not load (raise --move-budget until "
                          "those layers change too)",
                          s->o->for_stack);
    for (uint32_t i = 0; mp_recipe_at(i) != NULL; i++)
        if (mp_recipe_at(i)->place != NULL && mp_recipe_at(i)->may_repeat_on_gpu == repeats) {
            request.strategy = mp_recipe_at(i)->name;
            break;
        }
    enum mp_status status = mp_plan_make(out, &request, &outcome, NULL, err);
    why[0] = '\0';
    if (status != MP_OK || *out != NULL)
        return status;
    snprintf(why, size, "%.399s", err->message);
    mp_error_clear(err);
    return MP_OK;
}

/* One routing, and the layers that are worth their moves under it. */
struct way {
    const struct mp_plan *like; /* whose routing */
    bool *takes;
    struct mp_plan *plan; /* NULL = the routing cannot do this */
    char why[400];
};

/* Both placements' layers in time, under the way's routing. */
static enum mp_status simulate_under(struct mp_sim_result **out, struct way *way, const struct mp_plan *slots,
                                     const struct mp_plan *new, const struct mp_workload *w, const struct setup *s,
                                     struct mp_error *err) {
    const enum mp_route_rule rule = way->like->route;
    struct mp_sim_options sim = s->sim;
    struct mp_plan plain = *slots, *made = NULL; /* plain borrows */
    enum mp_status status = MP_OK;
    *out = NULL;
    sim.with_bound = sim.is_pipelined = false;
    if (rule == MP_ROUTE_EVEN || rule == MP_ROUTE_NEAREST) {
        plain.route = rule;
        return mp_simulate(out, &plain, w, s->topology, s->model, &sim, err);
    }
    MP_TRY(make(&made, s, slots, way->like, new, way->why, sizeof way->why, err));
    if (made != NULL)
        MP_TRY(mp_simulate(out, made, w, s->topology, s->model, &sim, err));
out:
    mp_plan_free(made);
    return status;
}

/* May the placement in use keep its routing? */
static bool keeps_route(const struct setup *s, const struct mp_plan *was, const struct mp_plan *new) {
    const uint32_t allowed = score_request(s, "contiguous").allowed_routes;
    return was->route != new->route && s->o->route == NULL &&
           was->provenance.route != NULL &&mp_strategy_find(MP_PLAN_ROUTE, was->provenance.route) != NULL &&
           (allowed == 0 || (allowed >> was->route & 1) != 0);
}

/* The best plan under way->like's routing: moved = the new placement's slots under the labels that move least. */
static enum mp_status go_way(struct way *way, const struct mp_plan *was, const struct mp_plan *moved,
                             const struct mp_plan *new, const uint32_t *moves, uint64_t budget,
                             const struct mp_workload *w, const struct setup *s, const struct mp_sim_result *known_was,
                             const struct mp_sim_result *known_new, struct mp_error *err) {
    struct mp_sim_result *made[2] = {NULL, NULL};
    const struct mp_sim_result *before = way->like == was ? known_was : NULL,
                               *after = way->like == new ? known_new : NULL;
    struct mp_plan mixed = *moved; /* borrows all but the slots */
    enum mp_status status = MP_OK;
    int64_t *gain = mp_calloc(new->n_layers, sizeof *gain);
    mixed.layers = mp_calloc(new->n_layers, sizeof *mixed.layers);
    if (gain == NULL || mixed.layers == NULL) {
        status = mp_nomem(err, "plan --from");
        goto out;
    }
    if (before == NULL) {
        MP_TRY(simulate_under(&made[0], way, was, new, w, s, err));
        before = made[0];
    }
    if (after == NULL && before != NULL) {
        MP_TRY(simulate_under(&made[1], way, moved, new, w, s, err));
        after = made[1];
    }
    if (before == NULL || after == NULL)
        goto out;
    for (uint32_t l = 0; l < new->n_layers; l++)
        gain[l] = llround(before->layer_ns[l] - after->layer_ns[l]);
    MP_TRY(choose(way->takes, gain, moves, new->n_layers, budget, err));
    for (uint32_t l = 0; l < new->n_layers; l++) {
        mixed.layers[l] = moved->layers[l];
        if (!way->takes[l])
            mixed.layers[l].slot_expert = was->layers[l].slot_expert;
    }
    MP_TRY(make(&way->plan, s, &mixed, way->like, new, way->why, sizeof way->why, err));
out:
    mp_free(gain);
    mp_free(mixed.layers);
    mp_sim_result_free(made[0]);
    mp_sim_result_free(made[1]);
    return status;
}

enum mp_status from_plan(struct from *out, struct score *score, const struct score *old, const struct setup *s,
                         struct mp_error *err) {
    const struct opts *o = s->o;
    const struct mp_plan *was = old->plan, *new = score->plan;
    struct mp_plan *moved = NULL;
    struct mp_workload *w = NULL;
    struct mp_sim_result *before = NULL, *after = NULL;
    struct mp_migration *m = NULL;
    struct mp_sim_options sim = s->sim;
    enum mp_status status = MP_OK;
    uint32_t *moves = mp_calloc(new->n_layers, sizeof *moves);
    struct way ways[2] = {{.like = new, .takes = mp_calloc(new->n_layers, sizeof(bool))},
                          {.like = was, .takes = mp_calloc(new->n_layers, sizeof(bool))}};
    if (moves == NULL || ways[0].takes == NULL || ways[1].takes == NULL) {
        status = mp_nomem(err, "plan --from");
        goto out;
    }
    if (was->n_slots != new->n_slots ||
        memcmp(was->gpu_first_slot, new->gpu_first_slot, (new->n_gpus + 1) * sizeof *new->gpu_first_slot) != 0) {
        status = mp_fail_at(err, MP_EINPUT, o->from, 0, 0,
                            "has %u slots, the new plan %u, or other GPUs have them (write --slots-per-gpu and "
                            "--redundant as the placement in use has them)",
                            was->n_slots, new->n_slots);
        goto out;
    }
    const enum mp_labels labels = mp_labels_of(new, sim.dispatcher->copies == MP_COPY_PER_NODE);
    MP_TRY(mp_migrate(&m, was, new, s->topology, labels, tool_threads(o), err));
    MP_TRY(mp_migrated_plan(&moved, m, was, new, err));
    MP_TRY(mp_workload_build(&w, &s->planning, &s->batching, err));
    sim.with_bound = sim.is_pipelined = false;
    MP_TRY(mp_simulate(&before, was, w, s->topology, s->model, &sim, err));
    MP_TRY(mp_simulate(&after, new, w, s->topology, s->model, &sim, err));
    for (uint32_t i = 0; i < m->n_moves; i++)
        moves[m->moves[i].layer]++;
    *out = (struct from){.is_used = true,
                         .old_name = old->name,
                         .n_layers = new->n_layers,
                         .n_all = m->n_moves,
                         .has_budget = o->is_set[OPT_MOVE_BUDGET],
                         .budget = o->is_set[OPT_MOVE_BUDGET] ? o->move_budget / s->model->expert_bytes : UINT64_MAX,
                         .expert_bytes = s->model->expert_bytes,
                         .old_step_ns = step_ns(before),
                         .all_step_ns = step_ns(after)};
    struct way *best = &ways[0];
    for (uint32_t i = 0; i < 2; i++)
        if (i == 0 || keeps_route(s, was, new))
            MP_TRY(
                go_way(&ways[i], was, moved != NULL ? moved : new, new, moves, out->budget, w, s, before, after, err));
    if (ways[0].plan == NULL ||
        (ways[1].plan != NULL && ways[1].plan->predicted_step_ns < ways[0].plan->predicted_step_ns))
        best = &ways[1];
    if (best->plan == NULL) {
        status = mp_fail(err, MP_EINPUT, "--from: no plan of these slots: %s", ways[0].why);
        goto out;
    }
    for (uint32_t l = 0; l < new->n_layers; l++) {
        out->n_changed += best->takes[l];
        out->n_moves += best->takes[l] ? moves[l] : 0;
    }
    out->step_ns = best->plan->predicted_step_ns;
    mp_plan_free(score->plan);
    score->plan = best->plan;
    best->plan = NULL;
out:
    mp_free(moves);
    mp_sim_result_free(before);
    mp_sim_result_free(after);
    mp_workload_free(w);
    mp_migration_free(m);
    mp_plan_free(moved);
    for (int i = 0; i < 2; i++) {
        mp_free(ways[i].takes);
        mp_plan_free(ways[i].plan);
    }
    return status;
}

void from_write(const struct from *f, struct mp_out *o) {
    char a[32], b[32], c[32];
    mp_out_printf(o, "from %s: %u of %u layers change, %llu experts move (%s", f->old_name, f->n_changed, f->n_layers,
                  (unsigned long long)f->n_moves, mp_human_bytes((double)(f->n_moves * f->expert_bytes), a));
    if (f->has_budget)
        mp_out_printf(o, " of a budget of %llu experts", (unsigned long long)f->budget);
    mp_out_printf(o, "); the whole new plan moves %llu\n", (unsigned long long)f->n_all);
    mp_out_printf(o, "step on the planning data: %s as it is, %s this plan, %s the whole new one\n",
                  mp_human_ns((double)f->old_step_ns, a), mp_human_ns((double)f->step_ns, b),
                  mp_human_ns((double)f->all_step_ns, c));
}

json_t *from_json(const struct from *f) {
    if (!f->is_used)
        return json_null();
    return json_pack("{s:s,s:i,s:I,s:I,s:I,s:o,s:I,s:I,s:I}", "old", f->old_name, "layers_changed", (int)f->n_changed,
                     "experts_moved", (json_int_t)f->n_moves, "bytes_moved", (json_int_t)(f->n_moves * f->expert_bytes),
                     "experts_moved_by_the_whole", (json_int_t)f->n_all, "budget_experts",
                     f->has_budget ? json_integer((json_int_t)f->budget) : json_null(), "old_step_ns",
                     (json_int_t)f->old_step_ns, "step_ns", (json_int_t)f->step_ns, "whole_step_ns",
                     (json_int_t)f->all_step_ns);
}
