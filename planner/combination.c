/* One combination of strategies as a plan: replicate -> place -> route -> order.
 *
 * Placements are kept in a list where the caller gives one, so that combinations which differ in routing or order only
 * place once: of all stages placing is the dearest. */
#include "planner.h"
#include <moeplan/base.h>
#include <string.h>

/* What replicating and placing came to. */
struct placed {
    const struct mp_strategy *replicate, *place;
    bool needs_distinct;
    enum mp_route_rule rule; /* it was placed for; matters where draft.by_rule */
    enum mp_outcome outcome;
    struct mp_error why;    /* where no placement was found */
    struct mp_plan *plan;   /* NULL then */
    struct mp_arena *arena; /* of draft.copies */
    struct mp_draft draft;  /* its plan is lent out: NULL between calls */
    struct placed *next;
};
struct mp_placed_list {
    struct placed *first;
};

enum mp_status mp_placed_list_new(struct mp_placed_list **out, struct mp_error *err) {
    *out = mp_calloc(1, sizeof **out);
    return *out != NULL ? MP_OK : mp_nomem(err, "planning");
}

static void free_placed(struct placed *x) {
    if (x == NULL)
        return;
    mp_plan_free(x->plan);
    mp_arena_free(x->arena);
    mp_free(x);
}

void mp_placed_list_free(struct mp_placed_list *list) {
    if (list == NULL)
        return;
    for (struct placed *x = list->first, *next; x != NULL; x = next) {
        next = x->next;
        free_placed(x);
    }
    mp_free(list);
}

static enum mp_status empty_plan(struct mp_plan **out, const struct mp_problem *p, struct mp_error *err) {
    const struct mp_trace *t = p->workload->trace;
    uint32_t n_gpus = p->topology->n_gpus, *slots = mp_calloc(n_gpus, sizeof *slots);
    *out = NULL;
    if (slots == NULL)
        return mp_nomem(err, "making a plan");
    for (uint32_t g = 0; g < n_gpus; g++)
        slots[g] = p->gpu_slots != NULL ? p->gpu_slots[g] : p->slots_per_gpu;
    enum mp_status status = mp_plan_new(out, t->n_layers, t->n_experts, n_gpus, slots, err);
    mp_free(slots);
    if (status != MP_OK)
        return status;
    uint32_t *node = mp_arena_alloc((*out)->arena, n_gpus, sizeof *node);
    if (node == NULL) {
        mp_plan_free(*out);
        *out = NULL;
        return mp_nomem(err, "making a plan");
    }
    for (uint32_t g = 0; g < n_gpus; g++)
        node[g] = mp_topology_node(p->topology, g);
    (*out)->gpu_node = node;
    (*out)->n_nodes = mp_topology_n_nodes(p->topology);
    for (uint32_t l = 0; l < t->n_layers; l++)
        (*out)->layers[l].layer_id = t->layer_ids[l];
    return MP_OK;
}

/* The placement once more, for other routes and orders. */
static enum mp_status copy_of(struct mp_plan **out, const struct mp_problem *p, const struct mp_plan *placed,
                              struct mp_error *err) {
    enum mp_status status = empty_plan(out, p, err);
    if (status != MP_OK)
        return status;
    struct mp_plan *copy = *out;
    for (uint32_t l = 0; l < copy->n_layers; l++)
        memcpy(copy->layers[l].slot_expert, placed->layers[l].slot_expert,
               copy->n_slots * sizeof *copy->layers[l].slot_expert);
    if (placed->n_certificates == 0)
        return MP_OK;
    copy->certificates = mp_arena_alloc(copy->arena, placed->n_certificates, sizeof *copy->certificates);
    if (copy->certificates == NULL) {
        mp_plan_free(copy);
        *out = NULL;
        return mp_nomem(err, "making a plan");
    }
    memcpy(copy->certificates, placed->certificates, placed->n_certificates * sizeof *copy->certificates);
    copy->n_certificates = placed->n_certificates;
    return MP_OK;
}

static bool repeats_on_gpu(const struct mp_plan *p) {
    for (uint32_t l = 0; l < p->n_layers; l++)
        for (uint32_t g = 0; g < p->n_gpus; g++)
            for (uint32_t a = p->gpu_first_slot[g]; a < p->gpu_first_slot[g + 1]; a++)
                for (uint32_t b = p->gpu_first_slot[g]; b < a; b++)
                    if (p->layers[l].slot_expert[a] == p->layers[l].slot_expert[b] &&
                        p->layers[l].slot_expert[a] != MP_NO_EXPERT)
                        return true;
    return false;
}

bool mp_draft_varies(const struct mp_draft *d) {
    for (uint32_t l = 1; l < d->plan->n_layers; l++)
        if (mp_draft_n(d, l) != mp_draft_n(d, 0))
            return true;
    return false;
}

static bool fills_all(const struct mp_draft *d) {
    for (uint32_t l = 0; l < d->plan->n_layers; l++)
        if (mp_draft_n(d, l) != d->plan->n_slots)
            return false;
    return d->plan->n_layers > 0;
}

/* What the replicate stage left for the place stage has to suit both it and the target. */
static enum mp_status check_copies(const struct mp_problem *p, const struct mp_combination *c,
                                   const struct mp_draft *draft, enum mp_outcome *outcome, struct mp_error *err) {
    const char *name = c->stage[MP_PLAN_REPLICATE]->name, *place = c->stage[MP_PLAN_PLACE]->name;
    const uint32_t n_slots = draft->plan->n_slots, n_redundant = n_slots - draft->plan->n_experts;
    if (draft->is_open && !c->stage[MP_PLAN_PLACE]->takes_open)
        return mp_decline(err, outcome, MP_NOT_APPLICABLE,
                          "%s: replicas are chosen while placing, and place %s places those it is given (write --place "
                          "search, or --replicate eplb)",
                          name, place);
    if (mp_draft_varies(draft) && !c->stage[MP_PLAN_PLACE]->takes_layers)
        return mp_decline(err, outcome, MP_NOT_APPLICABLE,
                          "%s: layers have different numbers of replicas, and place %s gives each GPU equally many "
                          "(write --place search or --place lpt)",
                          name, place);
    if (p->needs_equal_slots && (draft->is_open ? p->n_redundant != n_redundant : !fills_all(draft)))
        return mp_decline(err, outcome, MP_NOT_APPLICABLE,
                          "%s: %u of %u slots would be filled, and the target needs all (write --redundant %u with a "
                          "strategy that replicates, such as eplb)",
                          name, draft->is_open ? draft->plan->n_experts + p->n_redundant : mp_draft_n(draft, 0),
                          n_slots, n_redundant);
    return MP_OK;
}

/* The stages of [from, to) on *draft; *outcome FOUND goes in, or nothing is done. *was_stopped: the budget ended one,
 * and its best so far counts. */
static enum mp_status run_stages(const struct mp_problem *problem, const struct mp_combination *c,
                                 enum mp_planner_stage from, enum mp_planner_stage to, const struct mp_budget *budget,
                                 struct mp_draft *draft, bool *was_stopped, enum mp_outcome *outcome,
                                 struct mp_error *err) {
    struct mp_problem p = *problem;
    struct mp_arena *scratch = mp_arena_new();
    enum mp_status status = MP_OK;
    if (scratch == NULL) {
        status = mp_nomem(err, "planning");
        goto out;
    }
    for (enum mp_planner_stage s = from; s < to && *outcome == MP_FOUND; s++) {
        MP_TRY(mp_option_values(&p.option_values, c->stage[s], p.settings, p.n_settings, scratch, err));
        MP_TRY(s == MP_PLAN_ORDER ? mp_plan_order(c->stage[s], &p, budget, draft, outcome, err)
                                  : c->stage[s]->solve(&p, budget, scratch, draft, outcome, err));
        mp_arena_reset(scratch);
        if (s < MP_PLAN_ORDER && *outcome == MP_STOPPED) { /* the best so far is a placement, too */
            *was_stopped = true;
            *outcome = MP_FOUND;
        }
        if (s == MP_PLAN_REPLICATE && *outcome == MP_FOUND)
            MP_TRY(check_copies(&p, c, draft, outcome, err));
        if (s == MP_PLAN_ROUTE && *outcome == MP_FOUND && p.allowed_routes != 0 &&
            (p.allowed_routes >> draft->plan->route & 1) == 0)
            status = mp_decline(err, outcome, MP_NOT_APPLICABLE,
                                "%s: the target does not choose replicas by the rule %s (write --route even)",
                                c->stage[s]->name, mp_route_rule_name(draft->plan->route));
    }
out:
    mp_arena_free(scratch);
    return status;
}

static enum mp_status place(struct placed **out, const struct mp_problem *p, const struct mp_combination *c,
                            const struct mp_budget *budget, struct mp_error *err) {
    enum mp_status status;
    bool was_stopped = false;
    struct placed *x = mp_calloc(1, sizeof *x);
    *out = NULL;
    if (x == NULL)
        return mp_nomem(err, "planning");
    x->replicate = c->stage[MP_PLAN_REPLICATE];
    x->place = c->stage[MP_PLAN_PLACE];
    x->needs_distinct = p->needs_distinct;
    x->rule = p->placed_for;
    x->arena = mp_arena_new();
    if (x->arena == NULL) {
        status = mp_nomem(err, "planning");
        goto out;
    }
    MP_TRY(empty_plan(&x->plan, p, err));
    x->draft.plan = x->plan;
    x->draft.copies = mp_arena_alloc(x->arena, (size_t)x->plan->n_layers * x->plan->n_slots, sizeof *x->draft.copies);
    x->draft.layer_copies = mp_arena_alloc(x->arena, x->plan->n_layers, sizeof *x->draft.layer_copies);
    x->draft.wish = mp_arena_alloc(x->arena, (size_t)x->plan->n_layers * x->plan->n_slots, sizeof *x->draft.wish);
    if (x->draft.copies == NULL || x->draft.layer_copies == NULL || x->draft.wish == NULL) {
        status = mp_nomem(err, "planning");
        goto out;
    }
    MP_TRY(run_stages(p, c, MP_PLAN_REPLICATE, MP_PLAN_ROUTE, budget, &x->draft, &was_stopped, &x->outcome, &x->why));
    x->draft.plan = NULL;
    if (x->outcome != MP_FOUND) {
        mp_plan_free(x->plan);
        x->plan = NULL;
    } else if (was_stopped) {
        x->outcome = MP_STOPPED;
    }
    *out = x;
    x = NULL;
out:
    if (x != NULL && status != MP_OK && err != NULL && x->why.message[0] != '\0')
        *err = x->why;
    free_placed(x);
    return status;
}

/* What replicas are placed for: sources that prefer what is near, or dealing evenly. */
static enum mp_route_rule rule_of(const struct mp_strategy *route) {
    return strcmp(route->name, "even") == 0 || strcmp(route->name, "wrr") == 0 ? MP_ROUTE_EVEN : MP_ROUTE_NEAREST;
}

static struct placed *find_placed(const struct mp_placed_list *list, const struct mp_problem *p,
                                  const struct mp_combination *c) {
    struct placed *x = list != NULL ? list->first : NULL;
    while (x != NULL && (x->replicate != c->stage[MP_PLAN_REPLICATE] || x->place != c->stage[MP_PLAN_PLACE] ||
                         x->needs_distinct != p->needs_distinct || (x->draft.by_rule && x->rule != p->placed_for)))
        x = x->next;
    return x;
}

static void add_placed(struct mp_placed_list *list, struct placed *x) {
    x->next = list->first;
    list->first = x;
}

/* A search that chooses replicas begins with single copies, whatever rule they are for: they are made once. */
static enum mp_status place_singles(const struct mp_plan **out, const struct mp_problem *p,
                                    const struct mp_combination *c, struct mp_placed_list *list,
                                    const struct mp_budget *budget, uint64_t *work, struct mp_error *err) {
    struct mp_combination single = *c;
    struct mp_budget half = *budget;
    *out = NULL;
    if (list == NULL || p->needs_equal_slots || p->n_redundant == 0 || !c->stage[MP_PLAN_PLACE]->takes_open ||
        c->stage[MP_PLAN_REPLICATE] != mp_strategy_find(MP_PLAN_REPLICATE, "search"))
        return MP_OK;
    single.stage[MP_PLAN_REPLICATE] = mp_strategy_find(MP_PLAN_REPLICATE, "none");
    struct placed *x = find_placed(list, p, &single);
    if (x == NULL) {
        half.work_limit = budget->work_limit > 1 ? budget->work_limit / 2 : budget->work_limit;
        enum mp_status status = place(&x, p, &single, &half, err);
        if (status != MP_OK)
            return status;
        *work += x->draft.work_used;
        add_placed(list, x);
    }
    *out = x->plan;
    return MP_OK;
}

enum mp_status mp_combination_run(struct mp_plan **out, const struct mp_problem *problem,
                                  const struct mp_combination *c, struct mp_placed_list *list,
                                  const struct mp_budget *budget, uint64_t *work, enum mp_outcome *outcome,
                                  struct mp_error *err) {
    struct mp_problem p = *problem;
    struct mp_draft draft = {0};
    enum mp_status status = MP_OK;
    *out = NULL;
    *outcome = MP_FOUND;
    p.needs_distinct = problem->needs_distinct || !c->may_repeat_on_gpu;
    p.placed_for = rule_of(c->stage[MP_PLAN_ROUTE]);
    struct placed *x = find_placed(list, &p, c), *own = NULL;
    struct mp_budget left = *budget; /* of routing and orders */
    if (x == NULL) {
        uint64_t used = 0;
        MP_TRY(place_singles(&p.singles, &p, c, list, budget, &used, err));
        if (left.work_limit > 0)
            left.work_limit = left.work_limit > used ? left.work_limit - used : 1;
        MP_TRY(place(&x, &p, c, &left, err));
        *work += used + x->draft.work_used;
        if (left.work_limit > 0)
            left.work_limit = left.work_limit > x->draft.work_used ? left.work_limit - x->draft.work_used : 1;
        if (list != NULL)
            add_placed(list, x);
        else
            own = x;
    }
    if (x->plan == NULL) {
        *outcome = x->outcome;
        if (err != NULL)
            *err = x->why;
        goto out;
    }
    draft = x->draft;
    draft.work_used = 0;
    if (own != NULL) {
        draft.plan = own->plan;
        own->plan = NULL;
    } else {
        MP_TRY(copy_of(&draft.plan, &p, x->plan, err));
    }
    bool was_stopped = x->outcome == MP_STOPPED;
    MP_TRY(run_stages(&p, c, MP_PLAN_ROUTE, MP_N_PLANNER_STAGES, &left, &draft, &was_stopped, outcome, err));
    draft.plan->is_pipelined = p.sim.is_pipelined;
    if (p.sim.is_pipelined && (*outcome == MP_FOUND || *outcome == MP_STOPPED))
        MP_TRY(mp_keep_pipelined_orders(draft.plan, &p, &left, &draft.work_used, err));
    *work += draft.work_used;
    if (was_stopped && *outcome == MP_FOUND)
        *outcome = MP_STOPPED;
    if (*outcome == MP_FOUND || *outcome == MP_STOPPED) {
        draft.plan->allow_same_gpu_replicas = !p.needs_distinct && repeats_on_gpu(draft.plan);
        *out = draft.plan;
        draft.plan = NULL;
    }
out:
    mp_plan_free(draft.plan);
    free_placed(own);
    return status;
}
