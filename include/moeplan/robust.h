/* Planning for several kinds of traffic at once: one plan that is good for all of them (planner/robust.c). */
#ifndef MOEPLAN_ROBUST_H
#define MOEPLAN_ROBUST_H

#include <moeplan/strategy.h>

MP_API_BEGIN

enum { MP_SCENARIOS_MAX = 16 };

/* One kind of traffic. Parts of all scenarios are of one trace: mp_traces_join makes one of several. */
struct mp_scenario {
    const struct mp_part *part;
    uint32_t weight; /* 1 and up, only their proportion matters */
};
struct mp_robust_request {
    struct mp_plan_request base; /* its planning part is what the plan is proven on: its evidence, its prediction */
    const struct mp_scenario *scenarios;
    uint32_t n;
    bool is_worst; /* the longest of the scenarios' mean steps counts; else their weighted mean */
};
enum mp_robust_from { MP_ROBUST_PLAIN, MP_ROBUST_ALONE, MP_ROBUST_POOLED };
struct mp_robust {
    enum mp_robust_from from; /* the plan of the base's planning part, of one scenario, of all */
    uint32_t scenario;        /* ALONE: which */
    uint32_t n_candidates;
    uint32_t share_ppm[MP_SCENARIOS_MAX]; /* POOLED: of the planning steps */
    /* By the objective, on the steps that were chosen on: the plan, and that of the base's planning part alone. */
    double score, plain_score;
    struct mp_plan *plain; /* the latter, to be scored elsewhere; owned, freed with mp_robust_free */
};
/* A plan for all scenarios; by the objective on the scenarios' steps never worse than the plan of the base's planning
 * part alone or of one scenario alone. NOT_FOUND, NOT_APPLICABLE: err->message says why, the status is MP_OK. */
enum mp_status mp_robust_make(struct mp_plan **out, struct mp_robust *how, const struct mp_robust_request *request,
                              enum mp_outcome *outcome, double *seconds, struct mp_error *err) MP_MUST_CHECK;
void mp_robust_free(struct mp_robust *r);

/* Recordings of one model behind one another. first_member[n]: where the requests (iterations) of each begin. Gate
 * weights, categories and pairs are left out. MP_EINPUT: `paths` of the one that is of another shape, and how. */
enum mp_status mp_traces_join(struct mp_trace **out, uint32_t *first_member, const struct mp_trace *const *traces,
                              const char *const *paths, uint32_t n, const struct mp_limits *limits,
                              struct mp_error *err) MP_MUST_CHECK;

/* The categories of a part in at most *n groups of like expert loads: parts[0..*n - 1], each ascending, together the
 * whole part; those without category are one more. names[i] lists its categories, in `arena`. The caller frees the
 * parts. MP_EINPUT: fewer than two categories. */
enum mp_status mp_part_groups(struct mp_part *parts, const char **names, uint32_t *n, const struct mp_part *part,
                              struct mp_arena *arena, struct mp_error *err) MP_MUST_CHECK;

MP_API_END

#endif
