/* Private to planner/: mixed-integer programs in whole numbers, and whoever solves them. A solver's answer is a hint:
 * mp_mip_solve rounds it, repairs what rounding broke and checks every row in exact arithmetic before it is an answer.
 */
#ifndef MIP_H
#define MIP_H

#include <moeplan/alloc.h>
#include <moeplan/base.h>
#include <moeplan/io.h>
#include <moeplan/limits.h>

#define MP_MIP_FREE INT64_MAX /* as an upper bound: none; its negative as a lower bound: none */
#define MP_MIP_NAME_MAX 64u

/* Every coefficient, bound and value is a whole number of magnitude below 2^53. */
struct mp_mip_variable {
    const char *name; /* letters, digits and _ */
    int64_t lower, upper, cost;
    bool is_integer; /* false: the solver may leave it fractional; its value is then the next whole one that fits */
};
struct mp_mip_term {
    uint32_t variable;
    int64_t factor; /* not 0 */
};
struct mp_mip_row {
    const char *name;
    int64_t lower, upper;
    uint32_t n;
    const struct mp_mip_term *terms; /* variables rise */
};

/* Minimise sum of cost * value over values within their bounds and rows. */
struct mp_mip {
    uint32_t n_variables, n_rows;
    struct mp_mip_variable *variables;
    struct mp_mip_row *rows;
    uint32_t n_variables_allocated, n_rows_allocated;
    struct mp_arena *arena;
};
enum mp_status mp_mip_new(struct mp_mip **out, struct mp_error *err) MP_MUST_CHECK;
void mp_mip_free(struct mp_mip *m);
/* *index: the new variable's; NULL when nobody asks. Names are copied. */
enum mp_status mp_mip_add_variable(struct mp_mip *m, const struct mp_mip_variable *v, uint32_t *index,
                                   struct mp_error *err) MP_MUST_CHECK;
/* Terms are copied, sorted, added up where a variable occurs twice, and left out where they come to 0. */
enum mp_status mp_mip_add_row(struct mp_mip *m, const struct mp_mip_row *row, struct mp_error *err) MP_MUST_CHECK;
/* Is every value within its bounds, whole, and every row kept? Exact. *objective: its cost (may be NULL). `broken`
 * (may be NULL): the name of the first row or variable that is not. */
bool mp_mip_holds(const struct mp_mip *m, const int64_t *values, __int128 *objective, const char **broken);
/* Moves fractional variables by what rows lack, once over all rows. Then mp_mip_holds has the last word. */
void mp_mip_repair(const struct mp_mip *m, int64_t *values);

struct mp_mip_options {
    uint64_t node_limit;      /* nodes of the search; 0 = not one, the incumbent comes back */
    double seconds;           /* safety net; 0 = none */
    const int64_t *incumbent; /* [n_variables] a solution to begin with, or NULL */
    uint32_t memory_mib;      /* what the solver may take; 0 = 1024 */
};
struct mp_mip_answer {
    enum mp_outcome outcome; /* FOUND: the solver ended, with less than one unit of each fractional variable between
                              * objective and bound; STOPPED: the best so far, if any; NOT_FOUND: none exists,
                              * the solver says; NOT_APPLICABLE: the solver failed, `why` says how */
    int64_t *values;         /* [n_variables] or NULL; of the caller's arena */
    int64_t objective;       /* of values */
    int64_t bound;           /* no solution costs less, the solver says (INT64_MIN: it does not) */
    uint64_t nodes;
    bool wall_struck;
    char why[256];
};
/* Through GLPK. Never aborts the process: what GLPK finds wrong ends up in `why`. Not two at a time. MP_EUSAGE: an
 * incumbent that is no solution. */
enum mp_status mp_mip_solve(struct mp_mip_answer *out, const struct mp_mip *m, const struct mp_mip_options *options,
                            struct mp_arena *arena, struct mp_error *err) MP_MUST_CHECK;

/* For other solvers: CPLEX LP text, or free MPS when `is_mps`. */
void mp_mip_write(const struct mp_mip *m, bool is_mps, const char *comment, struct mp_out *o);
/* Their answer: lines "name value" (blank lines and lines that begin with # or = apart), or what glpsol -w writes.
 * Variables that are not named are 0 (their lower bound where that is more). MP_EINPUT with line and column. Fractional
 * variables are recomputed; rows are not checked. */
enum mp_status mp_mip_read_solution(int64_t **values, const struct mp_mip *m, const struct mp_in *in,
                                    struct mp_arena *arena, struct mp_error *err) MP_MUST_CHECK;

#endif
