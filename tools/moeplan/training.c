/* Training steps of a plan under each policy: docs/TRAINING.md. */
#include "training.h"
#include <moeplan/train.h>
#include <string.h>

enum { STEPS_MAX = 16, POLICIES_MAX = 16 };

struct row {
    const char *name;
    struct mp_train_policy policy;
    struct mp_train_timeline mean; /* of the scored steps; no arrays */
};
struct training {
    uint32_t n_rows, n_works, n_scored, n_searched;
    struct row rows[POLICIES_MAX];
    struct mp_train_work works[STEPS_MAX];
    const struct mp_train_step *scored[STEPS_MAX], *searched[STEPS_MAX];
};

static enum mp_status make_works(struct training *t, const struct setup *s, const struct mp_plan *plan,
                                 struct mp_error *err) {
    const struct mp_train_options options = mp_train_defaults();
    struct mp_router *router = NULL;
    struct mp_cost_setup setup = {.plan = plan,
                                  .workload = s->workload,
                                  .topology = s->topology,
                                  .model = s->model,
                                  .dispatcher = s->sim.dispatcher,
                                  .sources = s->sim.sources,
                                  .choice = s->sim.choice};
    enum mp_status status = mp_router_new(&router, plan, err);
    setup.router = router;
    const uint32_t n_steps = s->workload->n_steps, n = n_steps < STEPS_MAX ? n_steps : STEPS_MAX;
    for (uint32_t i = 0; i < n && status == MP_OK; i++) {
        const uint32_t step = (uint32_t)((2 * (uint64_t)i + 1) * n_steps / (2 * (uint64_t)n));
        status = mp_train_work_make(&t->works[i], &setup, step, &options, err);
        if (status != MP_OK)
            break;
        t->n_works++;
        if (n < 2 || i % 2 == 0)
            t->searched[t->n_searched++] = &t->works[i].step;
        if (n < 2 || i % 2 == 1)
            t->scored[t->n_scored++] = &t->works[i].step;
    }
    mp_router_free(router);
    return status;
}

static enum mp_status score_row(const struct training *t, struct row *row, struct mp_error *err) {
    struct mp_train_timeline *m = &row->mean;
    for (uint32_t i = 0; i < t->n_scored; i++) {
        struct mp_train_timeline one;
        enum mp_status status = mp_train_run(&one, t->scored[i], &row->policy, false, err);
        if (status != MP_OK)
            return status;
        m->step_ns += one.step_ns;
        m->forward_ns += one.forward_ns;
        m->backward_ns += one.backward_ns;
        m->reduce_ns += one.reduce_ns;
        m->blocked_ns += one.blocked_ns;
        m->a2a_ns += one.a2a_ns;
        m->a2a_alone_ns += one.a2a_alone_ns;
        mp_train_timeline_free(&one);
    }
    uint64_t *sums[] = {&m->step_ns,    &m->forward_ns, &m->backward_ns, &m->reduce_ns,
                        &m->blocked_ns, &m->a2a_ns,     &m->a2a_alone_ns};
    for (size_t i = 0; i < sizeof sums / sizeof *sums; i++)
        *sums[i] = (*sums[i] + t->n_scored / 2) / t->n_scored;
    return MP_OK;
}

enum mp_status training_run(struct training **out, const struct setup *s, const struct score *score,
                            struct mp_error *err) {
    *out = NULL;
    if (s->batching.phase != MP_PHASE_TRAIN)
        return MP_OK;
    struct training *t = mp_calloc(1, sizeof *t);
    if (t == NULL)
        return mp_nomem(err, "training steps");
    enum mp_status status = make_works(t, s, score->plan, err);
    for (uint32_t i = 0; mp_train_policy_at(i) != NULL && i + 1 < POLICIES_MAX; i++)
        t->rows[t->n_rows++] =
            (struct row){.name = mp_train_policy_at(i)->name, .policy = mp_train_policy_at(i)->policy};
    if (status == MP_OK) {
        uint64_t ns;
        struct row *row = &t->rows[t->n_rows++];
        row->name = "searched";
        status = mp_train_search(&row->policy, &ns, t->searched, t->n_searched, tool_threads(s->o), err);
    }
    for (uint32_t i = 0; i < t->n_rows && status == MP_OK; i++)
        status = score_row(t, &t->rows[i], err);
    if (status == MP_OK)
        *out = t;
    else
        training_free(t);
    return status;
}

static const char *chunk_text(uint64_t bytes, char *buf) {
    return bytes == 0 ? "whole" : mp_human_bytes((double)bytes, buf);
}

void training_text(const struct training *t, struct mp_out *o) {
    static const char *const columns[] = {"policy",      "step",    "against fair", "backward",    "gradients",
                                          "a2a / alone", "waiting", "chunk of a2a", "of allreduce"};
    char buf[32];
    struct mp_table *table = mp_table_new();
    if (table == NULL) {
        mp_out_fail(o, MP_ENOMEM, "out of memory: training steps");
        return;
    }
    for (size_t i = 0; i < sizeof columns / sizeof *columns; i++)
        mp_table_column(table, columns[i], i > 0);
    for (uint32_t i = 0; i < t->n_rows; i++) {
        const struct row *r = &t->rows[i];
        const struct mp_train_timeline *m = &r->mean;
        mp_table_cell(table, "%s%s", r->name, r->policy.is_pipelined ? ", pipelined" : "");
        mp_table_cell(table, "%s", mp_human_ns((double)m->step_ns, buf));
        mp_table_cell(table, "%+.1f %%", 100 * ((double)m->step_ns / (double)t->rows[0].mean.step_ns - 1));
        mp_table_cell(table, "%s", mp_human_ns((double)m->backward_ns, buf));
        mp_table_cell(table, "%s", mp_human_ns((double)m->reduce_ns, buf));
        mp_table_cell(table, "%.2f", m->a2a_alone_ns == 0 ? 1.0 : (double)m->a2a_ns / (double)m->a2a_alone_ns);
        mp_table_cell(table, "%s", mp_human_ns((double)m->blocked_ns, buf));
        mp_table_cell(table, "%s", chunk_text(r->policy.a2a_chunk_bytes, buf));
        mp_table_cell(table, "%s", chunk_text(r->policy.reduce_chunk_bytes, buf));
    }
    mp_out_printf(o, "\ntraining steps (docs/TRAINING.md), mean of %u; the searched policy was chosen on %s\n\n",
                  t->n_scored, t->n_works < 2 ? "the same one" : "others of the steps");
    mp_table_write(table, o);
    mp_table_free(table);
}

json_t *training_json(const struct training *t) {
    json_t *rows = json_array();
    for (uint32_t i = 0; i < t->n_rows && rows != NULL; i++) {
        const struct row *r = &t->rows[i];
        const struct mp_train_timeline *m = &r->mean;
        json_t *one = json_pack(
            "{s:s,s:i,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:b,s:s,s:s,s:b,s:I,s:I,s:I}", "policy", r->name, "n_steps",
            (int)t->n_scored, "step_ns", (json_int_t)m->step_ns, "forward_ns", (json_int_t)m->forward_ns, "backward_ns",
            (json_int_t)m->backward_ns, "reduce_ns", (json_int_t)m->reduce_ns, "blocked_ns", (json_int_t)m->blocked_ns,
            "a2a_ns", (json_int_t)m->a2a_ns, "a2a_alone_ns", (json_int_t)m->a2a_alone_ns, "shared", r->policy.is_shared,
            "guard", mp_train_guard_name(r->policy.guard), "order", mp_train_order_name(r->policy.order), "pipelined",
            r->policy.is_pipelined, "a2a_chunk_bytes", (json_int_t)r->policy.a2a_chunk_bytes, "reduce_chunk_bytes",
            (json_int_t)r->policy.reduce_chunk_bytes, "bucket_bytes", (json_int_t)r->policy.bucket_bytes);
        if (one == NULL || json_array_append_new(rows, one) != 0) {
            json_decref(rows);
            rows = NULL;
        }
    }
    return rows;
}

void training_free(struct training *t) {
    if (t == NULL)
        return;
    for (uint32_t i = 0; i < t->n_works; i++)
        mp_train_work_free(&t->works[i]);
    mp_free(t);
}
