/* The one file that knows GLPK: mp_mip_solve.
 *
 * Decides   values of the variables of a mixed-integer program.
 * Minimises its cost.
 * Method    GLPK's branch and bound over its simplex (github.com/firedrakeproject/glpk, manual 5.0). Whatever GLPK
 *           finds wrong calls our error hook, which jumps back here: without one it would abort the process. Its
 *           environment is thrown away after each use. The incumbent is handed over before the first node, nodes are
 *           counted and ended by us. Values are rounded, repaired and checked in whole numbers; the bound is rounded
 *           up after a millionth of it is taken off, and is no more than GLPK's word.
 * Bound     -
 * Differs   -
 * Cost      node_limit relaxations. The same answer every time unless the clock struck. */
#include "mip.h"
#include <glpk.h>
#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>

struct call { /* all that lives across the jump is in here, and this is not a local of the function that jumps */
    const struct mp_mip *m;
    const struct mp_mip_options *options;
    jmp_buf back;
    double *incumbent; /* [1 + n_variables] */
    int *index;
    double *factor;
    double *found; /* [1 + n_variables] what GLPK answers */
    bool is_given, is_done, is_found, is_stopped, is_infeasible, has_bound, wall_struck;
    bool has_fraction;
    double bound, least; /* least: the cost of `found` as GLPK counts it */
    uint64_t nodes;
    char why[256];
};

/* GLPK has printed its message through the terminal hook; it wants to abort. */
static void jump_back(void *info) {
    struct call *c = info;
    longjmp(c->back, 1);
}

/* Messages are off, but those of errors are not: the last line of them is what went wrong. */
static int keep_message(void *info, const char *text) {
    struct call *c = info;
    size_t n = strcspn(text, "\n");
    if (n > 0 && strncmp(text, "Error detected", 14) != 0)
        snprintf(c->why, sizeof c->why, "%.*s", (int)(n < 200 ? n : 200), text);
    return 1;
}

static void at_node(glp_tree *tree, void *info) {
    struct call *c = info;
    int n_active, n_now, n_total;
    glp_ios_tree_size(tree, &n_active, &n_now, &n_total);
    c->nodes = n_total > 0 ? (uint64_t)n_total : 0;
    int best = glp_ios_best_node(tree);
    if (best != 0) {
        c->bound = glp_ios_node_bound(tree, best);
        c->has_bound = true;
    }
    if (glp_ios_reason(tree) == GLP_IHEUR && !c->is_given && c->options->incumbent != NULL) {
        c->is_given = true;
        (void)glp_ios_heur_sol(tree, c->incumbent);
    }
    if (c->nodes > c->options->node_limit) {
        c->is_stopped = true;
        glp_ios_terminate(tree);
    }
}

static int kind_of_bounds(int64_t lower, int64_t upper) {
    bool has_lower = lower != -MP_MIP_FREE, has_upper = upper != MP_MIP_FREE;
    if (has_lower && has_upper)
        return lower == upper ? GLP_FX : GLP_DB;
    return has_lower ? GLP_LO : has_upper ? GLP_UP : GLP_FR;
}

static void build(struct call *c, glp_prob *p) {
    const struct mp_mip *m = c->m;
    glp_set_obj_dir(p, GLP_MIN);
    if (m->n_variables > 0)
        glp_add_cols(p, (int)m->n_variables);
    if (m->n_rows > 0)
        glp_add_rows(p, (int)m->n_rows);
    for (uint32_t i = 0; i < m->n_variables; i++) {
        const struct mp_mip_variable *v = &m->variables[i];
        glp_set_col_bnds(p, (int)i + 1, kind_of_bounds(v->lower, v->upper), (double)v->lower, (double)v->upper);
        glp_set_obj_coef(p, (int)i + 1, (double)v->cost);
        glp_set_col_kind(p, (int)i + 1, v->is_integer ? GLP_IV : GLP_CV);
        c->has_fraction |= !v->is_integer;
    }
    for (uint32_t i = 0; i < m->n_rows; i++) {
        const struct mp_mip_row *row = &m->rows[i];
        for (uint32_t k = 0; k < row->n; k++) {
            c->index[k + 1] = (int)row->terms[k].variable + 1;
            c->factor[k + 1] = (double)row->terms[k].factor;
        }
        glp_set_row_bnds(p, (int)i + 1, kind_of_bounds(row->lower, row->upper), (double)row->lower, (double)row->upper);
        glp_set_mat_row(p, (int)i + 1, (int)row->n, c->index, c->factor);
    }
}

static void solve(struct call *c) {
    glp_prob *p = glp_create_prob();
    glp_smcp lp;
    glp_iocp mip;
    int milliseconds = c->options->seconds > 0 && c->options->seconds < 1e6 ? (int)(c->options->seconds * 1000) + 1 : 0;
    build(c, p);
    glp_scale_prob(p, GLP_SF_AUTO);
    glp_adv_basis(p, 0);
    glp_init_smcp(&lp);
    lp.msg_lev = GLP_MSG_ERR;
    lp.meth = GLP_DUALP;
    lp.tm_lim = milliseconds > 0 ? milliseconds : lp.tm_lim;
    int failed = glp_simplex(p, &lp), status = failed == 0 ? glp_get_status(p) : GLP_UNDEF;
    if (failed == GLP_ETMLIM) {
        c->is_stopped = c->wall_struck = c->is_done = true;
        return;
    }
    if (failed != 0 || status == GLP_UNBND || status == GLP_UNDEF) {
        snprintf(c->why, sizeof c->why, "%s",
                 status == GLP_UNBND ? "the relaxation has no least cost" : "its simplex method failed");
        return;
    }
    if (status == GLP_NOFEAS || status == GLP_INFEAS) {
        c->is_infeasible = c->is_done = status == GLP_NOFEAS;
        if (status == GLP_INFEAS)
            snprintf(c->why, sizeof c->why, "its simplex method ended without a solution");
        return;
    }
    c->bound = glp_get_obj_val(p);
    c->has_bound = true;
    if (c->options->node_limit == 0) {
        c->is_stopped = c->is_done = true;
        return;
    }
    glp_init_iocp(&mip);
    mip.msg_lev = GLP_MSG_ERR;
    mip.cb_func = at_node;
    mip.cb_info = c;
    mip.tm_lim = milliseconds > 0 ? milliseconds : mip.tm_lim;
    failed = glp_intopt(p, &mip);
    if (failed != 0 && failed != GLP_ESTOP && failed != GLP_ETMLIM) {
        snprintf(c->why, sizeof c->why, "its branch and bound ended with code %d", failed);
        return;
    }
    c->wall_struck = failed == GLP_ETMLIM;
    c->is_stopped |= c->wall_struck;
    status = glp_mip_status(p);
    c->is_found = status == GLP_OPT || status == GLP_FEAS;
    c->is_infeasible = status == GLP_NOFEAS || (status == GLP_UNDEF && failed == 0);
    c->is_stopped |= c->is_found && status != GLP_OPT;
    c->least = c->is_found ? glp_mip_obj_val(p) : 0;
    for (uint32_t i = 0; i < c->m->n_variables && c->is_found; i++)
        c->found[i + 1] = glp_mip_col_val(p, (int)i + 1);
    c->is_done = true;
}

/* In a function of its own: nothing here changes between setjmp and the jump. */
static void solve_or_survive(struct call *c) {
    if (setjmp(c->back) == 0) {
        glp_error_hook(jump_back, c);
        glp_term_hook(keep_message, c);
        glp_mem_limit(c->options->memory_mib > 0 ? (int)c->options->memory_mib : 1024);
        solve(c);
    } else if (c->why[0] == '\0') {
        snprintf(c->why, sizeof c->why, "an internal check failed");
    }
    glp_error_hook(NULL, NULL);
    glp_free_env(); /* everything GLPK allocated, its problem included */
}

static int64_t nearest(double x) { return x > -9e15 && x < 9e15 ? (int64_t)llround(x) : 0; }

enum mp_status mp_mip_solve(struct mp_mip_answer *out, const struct mp_mip *m, const struct mp_mip_options *options,
                            struct mp_arena *arena, struct mp_error *err) {
    size_t n = (size_t)m->n_variables + 1;
    const char *broken = NULL;
    __int128 cost = 0;
    *out = (struct mp_mip_answer){.outcome = MP_NOT_APPLICABLE, .bound = INT64_MIN};
    if (options->incumbent != NULL && !mp_mip_holds(m, options->incumbent, &cost, &broken))
        return mp_fail(err, MP_EUSAGE, "the solution to begin with is none: %s does not hold", broken);
    struct call *c = mp_arena_alloc(arena, 1, sizeof *c);
    int64_t *values = mp_arena_alloc(arena, n, sizeof *values);
    if (c == NULL || values == NULL)
        return mp_nomem(err, "a mixed-integer program");
    *c = (struct call){.m = m, .options = options};
    c->index = mp_arena_alloc(arena, n, sizeof *c->index);
    c->factor = mp_arena_alloc(arena, n, sizeof *c->factor);
    c->incumbent = mp_arena_alloc(arena, n, sizeof *c->incumbent);
    c->found = mp_arena_alloc(arena, n, sizeof *c->found);
    if (c->index == NULL || c->factor == NULL || c->incumbent == NULL || c->found == NULL)
        return mp_nomem(err, "a mixed-integer program");
    for (uint32_t i = 0; i < m->n_variables && options->incumbent != NULL; i++)
        c->incumbent[i + 1] = (double)options->incumbent[i];
    solve_or_survive(c);

    bool is_kept = false;
    if (c->is_found) {
        for (uint32_t i = 0; i < m->n_variables; i++)
            values[i] = nearest(c->found[i + 1]);
        mp_mip_repair(m, values);
        __int128 found;
        is_kept = mp_mip_holds(m, values, &found, &broken);
        if (is_kept && options->incumbent != NULL && found > cost)
            is_kept = false; /* worse than what it was given */
        else if (is_kept)
            cost = found;
        else
            snprintf(c->why, sizeof c->why, "its solution is none: %s does not hold", broken);
    }
    if (!is_kept && options->incumbent != NULL) {
        memcpy(values, options->incumbent, m->n_variables * sizeof *values);
        is_kept = true;
    }
    out->nodes = c->nodes;
    out->wall_struck = c->wall_struck;
    memcpy(out->why, c->why, sizeof out->why);
    if (is_kept && cost < INT64_MAX && cost > INT64_MIN) {
        out->values = values;
        out->objective = (int64_t)cost;
    }
    if (!c->is_done || (c->is_found && out->values == NULL))
        return MP_OK; /* NOT_APPLICABLE, with an incumbent if one was given */
    if (c->has_bound)
        out->bound = nearest(ceil(c->bound - 1e-6 * fmax(1, fabs(c->bound))));
    if (out->values != NULL && out->bound > out->objective)
        out->bound = out->objective;
    if (c->is_stopped)
        out->outcome = MP_STOPPED;
    else if (c->is_infeasible && out->values == NULL)
        out->outcome = MP_NOT_FOUND;
    else if (out->values != NULL && !c->is_infeasible) {
        out->outcome = MP_FOUND;
        out->bound = !c->has_fraction ? out->objective : nearest(ceil(c->least - 1e-9 * fabs(c->least) - 1e-6));
        out->bound = out->bound < out->objective ? out->bound : out->objective;
    } else
        snprintf(out->why, sizeof out->why, "it finds no solution where there is one");
    return MP_OK;
}
