/* Private to planner/: what the driver, the search of `auto` and the strategies share. */
#ifndef PLANNER_H
#define PLANNER_H

#include <moeplan/strategy.h>

/* One choice for each stage. */
struct mp_combination {
    const struct mp_strategy *stage[MP_N_PLANNER_STAGES];
    bool may_repeat_on_gpu;
};

/* Records why a method does not apply or finds nothing, in words that say what to change; the call itself worked. */
enum mp_status mp_decline(struct mp_error *err, enum mp_outcome *outcome, enum mp_outcome which, const char *fmt, ...)
    MP_PRINTF(4, 5);

/* The recipe with the request's own choices put over it. MP_EUSAGE with the known names for an unknown one. Only
 * for recipes that name a place (not `auto`). */
enum mp_status mp_combination_of(struct mp_combination *out, const struct mp_recipe *recipe,
                                 const struct mp_plan_request *request, struct mp_error *err) MP_MUST_CHECK;
enum mp_status mp_strategy_need(const struct mp_strategy **out, enum mp_planner_stage stage, const char *name,
                                struct mp_error *err) MP_MUST_CHECK;

/* Does any plan of this shape exist? NOT_FOUND says in numbers what to change. Fills in slots_per_gpu, and gpu_slots
 * (in `arena`) where GPUs get unequally many. */
enum mp_status mp_problem_check(struct mp_problem *p, struct mp_arena *arena, enum mp_outcome *outcome,
                                struct mp_error *err) MP_MUST_CHECK;

/* Placements made so far, for combinations that differ in later stages only; all of one problem. */
struct mp_placed_list;
enum mp_status mp_placed_list_new(struct mp_placed_list **out, struct mp_error *err) MP_MUST_CHECK;
void mp_placed_list_free(struct mp_placed_list *list);

/* Replicate -> place -> route -> order, no evidence and no provenance. *work gets the simulated (step, layer) pairs
 * added. A placement in `list` (NULL = none) is not made again and costs no work. */
enum mp_status mp_combination_run(struct mp_plan **out, const struct mp_problem *problem,
                                  const struct mp_combination *c, struct mp_placed_list *list,
                                  const struct mp_budget *budget, uint64_t *work, enum mp_outcome *outcome,
                                  struct mp_error *err) MP_MUST_CHECK;

/* Stage ORDER: makes orders for the layers of draft->plan with the strategy, and uses them where they pay on the
 * planning steps; *outcome as the strategy's. Once this call has used up the budget it makes no further orders. */
enum mp_status mp_plan_order(const struct mp_strategy *s, const struct mp_problem *problem,
                             const struct mp_budget *budget, struct mp_draft *draft, enum mp_outcome *outcome,
                             struct mp_error *err) MP_MUST_CHECK;
/* Afterwards, for a plan chosen by the pipelined reading of a step: the orders that do not pay there leave the plan. */
enum mp_status mp_keep_pipelined_orders(struct mp_plan *plan, const struct mp_problem *problem,
                                        const struct mp_budget *budget, uint64_t *work,
                                        struct mp_error *err) MP_MUST_CHECK;

/* No order of this matrix, whatever its strategy and mode, takes less: the bytes through its busiest port (or node,
 * where bytes may take other rails), one latency and one launch. 0 without bytes. */
uint64_t mp_order_floor(const struct mp_order_problem *in);
/* Does the way back count? Without incast it takes what the way there takes, as far as ports are alike. */
bool mp_order_counts_return(const struct mp_order_problem *in);
/* Simulated time of an order on the problem's matrix, or of one shot without its launch (NULL); the mean with its
 * combine where that counts. */
enum mp_status mp_order_time(const struct mp_order_problem *in, const struct mp_order *order, uint64_t *time_ns,
                             struct mp_error *err) MP_MUST_CHECK;
void mp_transpose(uint64_t *out, const uint64_t *matrix, size_t n);

/* Place: experts where problem->given has them. Not in the table. */
extern const struct mp_strategy mp_place_given;

/* Seconds on a clock that only goes forward: how long something took. */
double mp_now_seconds(void);
/* Search nodes as work units: each one where a strategy is run for itself, and where it is one of `auto`'s parts, whose
 * unit is a simulated (step, layer) pair, about as many as take that long. */
uint64_t mp_work_of_nodes(const struct mp_problem *p, uint64_t nodes, uint32_t steps_of_a_node);

/* load[n_layers][n_experts] over all steps of a workload, in `arena`. */
enum mp_status mp_load_table(const uint64_t **out, const struct mp_workload *w, unsigned n_threads,
                             struct mp_arena *arena, struct mp_error *err) MP_MUST_CHECK;

/* Can steps be drawn from this part (NULL: no)? Not from counts, from too few requests, or where requests name the rank
 * they come from. */
#define MP_DRAWN_REQUESTS_MIN 40u
bool mp_can_draw(const struct mp_part *part);
/* At most n_steps of them, batched like the others; `seed`: another one, other steps. *out NULL: none. */
enum mp_status mp_draw_steps(struct mp_workload **out, const struct mp_part *part, const struct mp_batching *like,
                             uint32_t n_steps, uint64_t seed, struct mp_error *err) MP_MUST_CHECK;

/* A plan that was made as a trial on other steps, proven on the request's as mp_plan_make proves its own, with `name`
 * for its strategy. Takes `made` in every case. */
enum mp_status mp_plan_adopt(struct mp_plan **out, struct mp_plan *made, const struct mp_plan_request *request,
                             const char *name, struct mp_error *err) MP_MUST_CHECK;

/* The search of `auto`: the combination with the best selection score. selected_on gets where it was chosen: on the
 * validation part it is to be run again on all planning data, and *plan is NULL; else *plan is what it came to, which
 * the caller owns. NOT_APPLICABLE when no combination is. */
enum mp_status mp_auto_choose(struct mp_combination *out, struct mp_plan **plan, const struct mp_plan_request *request,
                              const struct mp_problem *problem, const struct mp_budget *budget, uint64_t *work,
                              const char **selected_on, const char **stopped_by, enum mp_outcome *outcome,
                              struct mp_error *err) MP_MUST_CHECK;

/* Fills evidence, samples, prediction and certificates. */
enum mp_status mp_plan_prove(struct mp_plan *plan, const struct mp_problem *problem,
                             struct mp_error *err) MP_MUST_CHECK;

/* The certificate of a plan of one matrix (of `bytes`, diagonal 0): bound in closed form, and time_ns, the simulated
 * time of its order or of one shot with its launch. */
enum mp_status mp_matrix_certify(struct mp_plan *p, const struct mp_topology *t, const uint64_t *bytes,
                                 uint64_t time_ns, struct mp_error *err) MP_MUST_CHECK;
/* "strategy.option=value,..." by strategy and option, in `arena`; "" without any. */
enum mp_status mp_settings_text(const char **out, struct mp_arena *arena, const struct mp_setting *settings,
                                uint32_t n_settings, struct mp_error *err) MP_MUST_CHECK;

/* Steps on which a choice between plans is scored, at most 64 evenly spaced ones: fewer where many GPUs or many tokens
 * make each one dear. A function of the shape alone, so that the choice does not depend on the machine. */
uint32_t mp_scoring_steps(const struct mp_problem *p);
/* mp_simulate with the problem's options on those steps; adds to *work. */
enum mp_status mp_score(struct mp_sim_result **out, const struct mp_plan *plan, const struct mp_problem *p,
                        uint64_t *work, struct mp_error *err) MP_MUST_CHECK;
/* The same with every transfer at its port bound: much faster, no step longer than mp_score's where the plan has no
 * orders, and rows and bytes are the same. Not counted as work. */
enum mp_status mp_score_below(struct mp_sim_result **out, const struct mp_plan *plan, const struct mp_problem *p,
                              struct mp_error *err) MP_MUST_CHECK;
/* mp_score_below on so few steps. */
enum mp_status mp_score_glance(struct mp_sim_result **out, const struct mp_plan *plan, const struct mp_problem *p,
                               uint32_t n_steps, struct mp_error *err) MP_MUST_CHECK;

#endif
