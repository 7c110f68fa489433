/* What a stack's servers make of a placement.
 *
 * Decides   nothing; the step time under the stack's own replica choice.
 * Method    the plan's slots with the stack's choice (include/moeplan/plan.h, enum mp_choice_kind) in place of the
 *           plan's rule, every all-to-all in one shot; where the servers draw at random, the rule that stands for it.
 * Differs   of vLLM, TensorRT-LLM and vllm-ascend the order of replicas is that of their slots; servers that made the
 *           placement themselves may list them otherwise. */
#include "served.h"
#include <stdio.h>
#include <string.h>

enum mp_status served_check(const struct mp_stack_choice **out, const struct opts *o, struct mp_error *err) {
    const struct mp_stack *stack = mp_stack_find(o->for_stack);
    static const struct mp_plan none = {.route = MP_ROUTE_EVEN};
    char names[200];
    size_t used = 0;
    *out = NULL;
    if (stack == NULL && o->replica_choice != NULL)
        return mp_fail(err, MP_EUSAGE, "--replica-choice: of which stack? (add --for STACK)");
    if (stack == NULL)
        return MP_OK;
    *out = mp_stack_choice_find(stack, o->replica_choice, &none);
    names[0] = '\0';
    for (const struct mp_stack_choice *c = stack->choices; c->name != NULL && used < sizeof names; c++)
        if (c->refused == NULL)
            used += (size_t)snprintf(names + used, sizeof names - used, "%s%s", used > 0 ? " or " : "", c->name);
    if (*out == NULL)
        return mp_fail(err, MP_EUSAGE, "--replica-choice: %s has no \"%.40s\" (write %s)", stack->name,
                       o->replica_choice, names);
    if ((*out)->refused != NULL)
        return mp_fail(err, MP_EUSAGE, "--replica-choice %s of %s cannot be scored: %s (write %s)", (*out)->name,
                       stack->name, (*out)->refused, names);
    return MP_OK;
}

const struct mp_stack_choice *served_choice(const struct opts *o, const struct mp_plan *plan) {
    const struct mp_stack *stack = mp_stack_find(o->for_stack);
    return stack != NULL ? mp_stack_choice_find(stack, o->replica_choice, plan) : NULL;
}

bool served_loses_route(const struct opts *o, const struct mp_plan *plan) {
    const struct mp_stack *stack = mp_stack_find(o->for_stack);
    return stack != NULL && (stack->routes >> plan->route & 1) == 0;
}

enum mp_status served_online(struct mp_online_result **out, const struct setup *s, const char *policy,
                             const struct mp_plan *start, const struct mp_workload *w, const struct mp_sim_options *sim,
                             struct mp_error *err) {
    const struct mp_stack_choice *choice = served_choice(s->o, start);
    const struct mp_plan_request like = score_request(s, "eplb");
    struct mp_plan as_loaded = *start; /* borrows */
    struct mp_online_request request = {.policy = mp_policy_find(policy),
                                        .planning = &s->planning,
                                        .start = &as_loaded,
                                        .workload = w,
                                        .topology = s->topology,
                                        .model = s->model,
                                        .sim = *sim,
                                        .n_redundant = like.n_redundant,
                                        .needs_distinct = like.needs_distinct,
                                        .settings = s->settings,
                                        .n_settings = s->n_settings};
    if (choice != NULL) {
        as_loaded.route = choice->route;
        request.sim.choice.kind = choice->kind == MP_CHOICE_TABLE ? MP_CHOICE_PLAN : choice->kind;
        if (request.sim.network == MP_NETWORK_PLAN)
            request.sim.network = MP_NETWORK_CONCURRENT;
    }
    return mp_online_simulate(out, &request, err);
}

enum mp_status served_simulate(struct mp_sim_result **out, const struct setup *s, const struct mp_plan *plan,
                               const struct mp_workload *w, const struct mp_sim_options *sim, struct mp_error *err) {
    const struct mp_stack_choice *choice = served_choice(s->o, plan);
    if (choice == NULL)
        return mp_simulate(out, plan, w, s->topology, s->model, sim, err);
    struct mp_plan as_loaded = *plan; /* borrows */
    struct mp_sim_options as_served = *sim;
    uint32_t *table = NULL;
    *out = NULL;
    as_loaded.route = choice->route;
    as_served.choice.kind = choice->kind;
    if (as_served.network == MP_NETWORK_PLAN)
        as_served.network = MP_NETWORK_CONCURRENT;
    enum mp_status status = MP_OK;
    if (choice->table != NULL) {
        const struct mp_stack_options options = tool_stack_options(s->o, s->model, s->topology);
        table = mp_calloc((size_t)plan->n_layers * plan->n_experts * plan->n_gpus, sizeof *table);
        if (table == NULL)
            return mp_nomem(err, "replica choice of a stack");
        MP_TRY(choice->table(table, plan, &options, err));
        as_served.choice.table = table;
    }
    MP_TRY(mp_simulate(out, &as_loaded, w, s->topology, s->model, &as_served, err));
out:
    mp_free(table);
    return status;
}

const char *served_describe(const struct opts *o, const struct mp_plan *plan, char *buf, size_t size) {
    const struct mp_stack_choice *c = served_choice(o, plan);
    if (c == NULL)
        buf[0] = '\0';
    else
        snprintf(buf, size, "%s %s: %s%s%s", mp_stack_find(o->for_stack)->name, c->name, c->summary,
                 c->stands != NULL ? "; scored by " : "", c->stands != NULL ? c->stands : "");
    return buf;
}

json_t *served_json(const struct opts *o, const struct mp_plan *plan) {
    const struct mp_stack_choice *c = served_choice(o, plan);
    if (c == NULL)
        return json_null();
    return json_pack("{s:s,s:s,s:b,s:s,s:s?}", "stack", mp_stack_find(o->for_stack)->name, "name", c->name, "exact",
                     (int)(c->stands == NULL), "summary", c->summary, "stands", c->stands);
}
