/* Training steps of a plan under each policy, and the policy that it carries: docs/TRAINING.md. */
#include "training.h"
#include "lossy.h"
#include <moeplan/train.h>
#include <moeplan/verify.h>
#include <stdio.h>
#include <string.h>

enum { STEPS_MAX = 16, POLICIES_MAX = 16 };
#define SEARCHED "searched"

/* ---- steps ---- */

struct works {
    uint32_t n;
    struct mp_train_work work[STEPS_MAX];
    const struct mp_train_step *step[STEPS_MAX];
    enum mp_train_offload offload;
    bool fits; /* all of it, with that offload */
    char why[256];
};

static struct mp_train_options options_of(const struct setup *s) {
    struct mp_train_options o = mp_train_defaults();
    o.host_bytes_per_s = s->o->host_link;
    o.host_memory_bytes = s->o->host_memory;
    return o;
}

static void free_works(struct works *w) {
    for (uint32_t i = 0; i < w->n; i++)
        mp_train_work_free(&w->work[i]);
    w->n = 0;
}

/* Up to STEPS_MAX steps, evenly over the workload, with this offload. */
static enum mp_status make_with(struct works *w, const struct setup *s, const struct mp_plan *plan,
                                const struct mp_dispatcher *travel, const struct mp_workload *workload,
                                enum mp_train_offload offload, struct mp_error *err) {
    struct mp_train_options options = options_of(s);
    const struct mp_flow_maker *flow = travel == NULL ? lossy_flow(s) : NULL;
    struct mp_router *router = NULL;
    options.offload = w->offload = offload;
    struct mp_cost_setup setup = {.plan = plan,
                                  .workload = workload,
                                  .topology = s->topology,
                                  .model = s->model,
                                  .dispatcher = travel != NULL ? travel : s->sim.dispatcher,
                                  .sources = s->sim.sources,
                                  .choice = s->sim.choice};
    enum mp_status status = mp_router_new(&router, plan, err);
    setup.router = router;
    const uint32_t n_steps = workload->n_steps, n = n_steps < STEPS_MAX ? n_steps : STEPS_MAX;
    for (uint32_t i = 0; i < n && status == MP_OK; i++) {
        const uint32_t step = (uint32_t)((2 * (uint64_t)i + 1) * n_steps / (2 * (uint64_t)n));
        struct mp_token_flow *moved = NULL;
        setup.flow = NULL;
        if (flow != NULL)
            status = flow->make(&moved, flow->ctx, &setup, step, err);
        setup.flow = moved;
        if (status == MP_OK)
            status = mp_train_work_make(&w->work[i], &setup, step, &options, err);
        mp_flow_free(moved);
        if (status != MP_OK)
            break;
        w->step[i] = &w->work[i].step;
        w->n++;
    }
    mp_router_free(router);
    return status;
}

/* The same with the plan's offload, or the least that fits; where none does, as if memory were enough. */
static enum mp_status make_works(struct works *w, const struct setup *s, const struct mp_plan *plan,
                                 const struct mp_dispatcher *travel, const struct mp_workload *workload,
                                 struct mp_error *err) {
    const struct mp_train_memory *memory[STEPS_MAX];
    const struct mp_train_options options = options_of(s);
    struct mp_error why = {0};
    enum mp_train_offload offload = MP_TRAIN_OFFLOAD_NONE;
    enum mp_status status = make_with(w, s, plan, travel, workload, offload, err);
    if (status != MP_OK)
        return status;
    for (uint32_t i = 0; i < w->n; i++)
        memory[i] = &w->work[i].memory;
    w->fits = true;
    status = mp_train_offload_for(&offload, memory, w->n, &options, &why);
    if (status != MP_OK) {
        w->fits = false;
        offload = MP_TRAIN_OFFLOAD_NONE;
        snprintf(w->why, sizeof w->why, "%.250s", why.message);
    }
    if (plan->training.is_present && plan->training.offload > offload)
        offload = plan->training.offload;
    if (offload == MP_TRAIN_OFFLOAD_NONE)
        return MP_OK;
    free_works(w);
    return make_with(w, s, plan, travel, workload, offload, err);
}

static void note_memory(const struct works *w, const struct setup *s, const char *name) {
    if (!w->fits)
        tool_note(s->o, "%s%s%s; times are as if it did not", name, name[0] != '\0' ? ": " : "", w->why);
}

/* Every second one of `from`, beginning with the first or the second; all of them where there is one. */
static void every_other(struct works *out, const struct works *from, uint32_t first) {
    out->n = 0;
    for (uint32_t i = from->n < 2 ? 0 : first; i < from->n; i += 2)
        out->step[out->n++] = from->step[i];
}

static enum mp_status run_mean(struct mp_train_timeline *m, const struct works *w, const struct mp_train_policy *policy,
                               struct mp_error *err) {
    *m = (struct mp_train_timeline){0};
    for (uint32_t i = 0; i < w->n; i++) {
        struct mp_train_timeline one;
        enum mp_status status = mp_train_run(&one, w->step[i], policy, false, err);
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
    for (size_t i = 0; i < sizeof sums / sizeof *sums && w->n > 0; i++)
        *sums[i] = (*sums[i] + w->n / 2) / w->n;
    return MP_OK;
}

/* The searched policy of these steps, its buckets in `arena`. */
static enum mp_status search(struct mp_train_policy *out, const struct setup *s, const struct works *w,
                             struct mp_arena *arena, struct mp_error *err) {
    uint64_t ns;
    enum mp_status status = mp_train_search(out, &ns, w->step, w->n, tool_threads(s->o), err);
    return status == MP_OK ? mp_train_search_buckets(out, &ns, w->step, w->n, tool_threads(s->o), arena, err) : status;
}

enum mp_status training_check(const struct setup *s, struct mp_error *err) {
    static const enum opt_id ours[] = {OPT_HOST_LINK, OPT_HOST_MEMORY};
    for (size_t i = 0; i < sizeof ours / sizeof *ours && s->batching.phase != MP_PHASE_TRAIN; i++)
        if (s->o->is_set[ours[i]])
            return mp_fail(err, MP_EUSAGE,
                           "--%s is about training steps, and these are of phase %s (add --phase train)",
                           opt_table[ours[i]].name, mp_phase_name(s->batching.phase));
    return MP_OK;
}

/* ---- what a plan carries ---- */

/* name: NULL or SEARCHED = searched over these steps. packed: what packing chose, or NULL. */
static enum mp_status fill_section(struct mp_plan *plan, const char *name, const struct mp_train_packed *packed,
                                   const struct setup *s, const struct works *w, struct mp_error *err) {
    struct mp_plan_training *t = &plan->training;
    const struct mp_train_named_policy *named = name != NULL ? mp_train_policy_find(name) : NULL;
    struct mp_train_policy policy = {0};
    enum mp_status status = MP_OK;
    if (named != NULL)
        policy = named->policy;
    else if (packed != NULL)
        policy = packed->policy;
    else
        status = search(&policy, s, w, plan->arena, err);
    if (status == MP_OK && policy.is_shared)
        policy.guard = MP_TRAIN_GUARD_NONE;
    if (status == MP_OK && policy.buckets == NULL)
        status =
            mp_train_buckets(&policy.buckets, &policy.n_buckets, w->step[0], policy.bucket_bytes, plan->arena, err);
    else if (status == MP_OK && packed != NULL) { /* lent */
        struct mp_train_bucket *own = mp_arena_alloc(plan->arena, policy.n_buckets, sizeof *own);
        if (own == NULL)
            return mp_nomem(err, "training steps");
        memcpy(own, policy.buckets, policy.n_buckets * sizeof *own);
        policy.buckets = own;
    }
    if (status != MP_OK)
        return status;
    *t = (struct mp_plan_training){.is_present = true,
                                   .name = named != NULL ? named->name : SEARCHED,
                                   .gradient_bits = mp_train_defaults().gradient_bits,
                                   .experts_per_gpu = packed != NULL ? packed->k : 0,
                                   .offload = w->offload,
                                   .policy = policy};
    return MP_OK;
}

static enum mp_status gate(const struct mp_plan *plan, const struct setup *s, struct mp_error *err) {
    struct mp_verify_report *report = NULL;
    enum mp_status status = mp_plan_verify(&report, plan, NULL, s->topology, s->model, err);
    if (status == MP_OK && report->n > 0)
        status = mp_fail(err, MP_EBUG, "the verifier refuses the plan's training section: %s: %s (please report)",
                         mp_violation_name(report->violations[0].kind), report->violations[0].message);
    mp_verify_report_free(report);
    return status;
}

enum mp_status training_pack(struct mp_train_packed *out, const struct setup *s, enum mp_outcome *outcome,
                             struct mp_error *err) {
    const struct opts *o = s->o;
    const struct mp_train_named_policy *named = o->policy != NULL ? mp_train_policy_find(o->policy) : NULL;
    const bool is_lina = strcmp(o->packing, "lina") == 0, is_searched = strcmp(o->packing, SEARCHED) == 0;
    uint64_t k = 0;
    struct mp_workload *workload = NULL;
    if (!is_lina && !is_searched && (!mp_parse_u64(o->packing, strlen(o->packing), &k) || k == 0 || k > MP_MAX_EXPERTS))
        return mp_fail(err, MP_EUSAGE,
                       "--packing: \"%.40s\" is not a number of experts in [1, %u] (write it, lina or searched)",
                       o->packing, MP_MAX_EXPERTS);
    enum mp_status status = mp_workload_build(&workload, &s->planning, &s->batching, err);
    if (status == MP_OK)
        status = mp_train_pack(out,
                               &(struct mp_train_pack_request){.workload = workload,
                                                               .topology = s->topology,
                                                               .model = s->model,
                                                               .dispatcher = s->sim.dispatcher,
                                                               .sources = s->sim.sources,
                                                               .options = options_of(s),
                                                               .packing = is_lina       ? MP_TRAIN_PACK_LINA
                                                                          : is_searched ? MP_TRAIN_PACK_SEARCHED
                                                                                        : MP_TRAIN_PACK_GIVEN,
                                                               .k = (uint32_t)k,
                                                               .policy = named != NULL ? &named->policy : NULL,
                                                               .n_steps_max = STEPS_MAX,
                                                               .n_threads = tool_threads(o),
                                                               .arena = s->arena},
                               outcome, err);
    mp_workload_free(workload);
    return status;
}

enum mp_status training_choose(struct mp_plan *plan, const struct setup *s, const char *policy,
                               const struct mp_train_packed *packed, struct mp_error *err) {
    if (s->batching.phase != MP_PHASE_TRAIN)
        return MP_OK;
    struct works *w = mp_calloc(1, sizeof *w);
    struct mp_workload *workload = NULL;
    struct mp_error why = {0};
    enum mp_status status = w == NULL ? mp_nomem(err, "training steps")
                                      : score_build_homed(&workload, plan, &s->planning, &s->batching, err);
    if (status == MP_OK) {
        status = make_works(w, s, plan, NULL, workload, &why);
        if (status == MP_EUSAGE && policy == NULL) {
            tool_note(s->o, "the plan says nothing of training steps: %s", why.message);
            goto out;
        }
        if (status != MP_OK)
            (void)mp_fail(err, status, "%s", why.message);
    }
    if (status == MP_OK) {
        note_memory(w, s, "");
        status = fill_section(plan, policy, packed, s, w, err);
    }
    if (status == MP_OK)
        status = gate(plan, s, err);
out:
    if (status == MP_EUSAGE && policy == NULL)
        status = MP_OK;
    mp_workload_free(workload);
    if (w != NULL)
        free_works(w);
    mp_free(w);
    return status;
}

static const char *chunk_text(uint64_t bytes, char *buf) {
    return bytes == 0 ? "whole" : mp_human_bytes((double)bytes, buf);
}

const char *training_describe(const struct mp_plan *plan, char *buf, size_t size) {
    const struct mp_plan_training *t = &plan->training;
    char a[32], b[32];
    char packed[64] = "";
    if (t->experts_per_gpu > 0)
        snprintf(packed, sizeof packed, ", %u expert%s of each layer on a GPU", t->experts_per_gpu,
                 tool_s(t->experts_per_gpu));
    snprintf(buf, size, "training: policy %s, all-to-alls %s%s, allreduces %s in %u bucket%s, %s%s%s%s", t->name,
             chunk_text(t->policy.a2a_chunk_bytes, a), t->policy.is_pipelined ? " pipelined" : "",
             chunk_text(t->policy.reduce_chunk_bytes, b), t->policy.n_buckets, tool_s(t->policy.n_buckets),
             t->policy.is_shared ? "beside each other" : "all-to-all first", packed,
             t->offload == MP_TRAIN_OFFLOAD_NONE ? "" : ", in the hosts' memory: ",
             t->offload == MP_TRAIN_OFFLOAD_NONE    ? ""
             : t->offload == MP_TRAIN_OFFLOAD_STATE ? "experts' optimiser state"
                                                    : "experts");
    return buf;
}

/* Of a policy's row and section. Steals nothing; NULL = out of memory. */
static json_t *policy_json(const char *name, const struct mp_train_policy *p) {
    return json_pack("{s:s,s:b,s:s,s:s,s:b,s:I,s:I,s:I}", "policy", name, "shared", (int)p->is_shared, "guard",
                     mp_train_guard_name(p->guard), "order", mp_train_order_name(p->order), "pipelined",
                     (int)p->is_pipelined, "a2a_chunk_bytes", (json_int_t)p->a2a_chunk_bytes, "reduce_chunk_bytes",
                     (json_int_t)p->reduce_chunk_bytes, "bucket_bytes", (json_int_t)p->bucket_bytes);
}

json_t *training_section_json(const struct mp_plan *plan) {
    const struct mp_plan_training *t = &plan->training;
    if (!t->is_present)
        return json_null();
    json_t *o = policy_json(t->name, &t->policy);
    if (o != NULL && (json_object_set_new(o, "experts_per_gpu", json_integer(t->experts_per_gpu)) != 0 ||
                      json_object_set_new(o, "offload", json_string(mp_train_offload_name(t->offload))) != 0 ||
                      json_object_set_new(o, "n_buckets", json_integer(t->policy.n_buckets)) != 0)) {
        json_decref(o);
        o = NULL;
    }
    return o;
}

/* ---- tables ---- */

struct row {
    char name[MP_MAX_NAME + 16], policy_name[MP_MAX_NAME];
    struct mp_train_policy policy;
    struct mp_train_timeline mean; /* of the scored steps; no arrays */
    uint64_t fair_ns;              /* the same plan's under the policy fair */
    bool is_lossy;
};
struct training {
    bool is_compare, is_lossy;
    uint32_t n_rows, n_scored, base; /* base: row, or MP_NONE */
    const char *searched_on;
    struct row rows[SCORE_PLANS_MAX];
    struct works works, scored, searched; /* the last two borrow from the first */
    struct mp_arena *arena;               /* of policies */
};

static struct training *new_training(struct mp_error *err) {
    struct training *t = mp_calloc(1, sizeof *t);
    if (t != NULL && (t->arena = mp_arena_new()) != NULL) {
        t->base = MP_NONE;
        return t;
    }
    mp_free(t);
    (void)mp_nomem(err, "training steps");
    return NULL;
}

static void add_row(struct training *t, const char *name, const char *policy_name,
                    const struct mp_train_policy *policy) {
    struct row *r = &t->rows[t->n_rows++];
    snprintf(r->name, sizeof r->name, "%s", name);
    snprintf(r->policy_name, sizeof r->policy_name, "%s", policy_name);
    r->policy = *policy;
    r->is_lossy = t->is_lossy;
}

static enum mp_status policy_rows(struct training *t, const struct setup *s, const struct mp_plan *plan,
                                  const char *path, struct mp_error *err) {
    struct mp_error why = {0};
    enum mp_status status = make_works(&t->works, s, plan, NULL, s->workload, err);
    if (status != MP_OK)
        return status;
    every_other(&t->searched, &t->works, 0);
    every_other(&t->scored, &t->works, 1);
    t->n_scored = t->scored.n;
    note_memory(&t->works, s, "");
    t->searched_on = t->works.n < 2 ? "the same one" : "others of the steps";
    for (uint32_t i = 0; mp_train_policy_at(i) != NULL && i + 2 < POLICIES_MAX; i++)
        add_row(t, mp_train_policy_at(i)->name, mp_train_policy_at(i)->name, &mp_train_policy_at(i)->policy);
    struct mp_train_policy found;
    status = search(&found, s, &t->searched, t->arena, err);
    if (status != MP_OK)
        return status;
    add_row(t, SEARCHED, SEARCHED, &found);
    if (plan->training.is_present) {
        char name[MP_MAX_NAME];
        snprintf(name, sizeof name, "the plan's: %.40s", plan->training.name);
        add_row(t, name, plan->training.name, &plan->training.policy);
    }
    for (uint32_t i = 0; i < t->n_rows && status == MP_OK; i++) {
        status = run_mean(&t->rows[i].mean, &t->scored, &t->rows[i].policy, &why);
        t->rows[i].fair_ns = t->rows[0].mean.step_ns;
        if (status == MP_EUSAGE && plan->training.is_present && i == t->n_rows - 1)
            status = mp_fail(err, MP_EINPUT, "%s: training: %s", path, why.message);
        else if (status != MP_OK)
            (void)mp_fail(err, status, "%s", why.message);
    }
    return status;
}

enum mp_status training_run(struct training **out, const struct setup *s, const struct score *score, const char *path,
                            struct mp_error *err) {
    *out = NULL;
    if (s->batching.phase != MP_PHASE_TRAIN)
        return MP_OK;
    struct training *t = new_training(err);
    if (t == NULL)
        return MP_ENOMEM;
    t->is_lossy = s->lossy != NULL;
    enum mp_status status = policy_rows(t, s, score->plan, path, err);
    if (status == MP_OK)
        *out = t;
    else
        training_free(t);
    return status;
}

/* One plan on the scored steps under its own policy, chosen on the planning steps where it has none. */
static enum mp_status compare_row(struct training *t, const struct setup *s, const struct score *score,
                                  struct mp_error *err) {
    const struct mp_train_policy *fair = &mp_train_policy_find("fair")->policy;
    struct mp_train_policy policy = score->plan->training.policy;
    struct mp_train_timeline m;
    enum mp_status status = MP_OK;
    if (!score->plan->training.is_present) {
        struct mp_workload *planning = NULL;
        status = score_build_homed(&planning, score->plan, &s->planning, &s->batching, err);
        if (status == MP_OK)
            status = make_works(&t->works, s, score->plan, score->travel, planning, err);
        if (status == MP_OK)
            status = search(&policy, s, &t->works, t->arena, err);
        free_works(&t->works);
        mp_workload_free(planning);
    }
    if (status == MP_OK)
        status = make_works(&t->works, s, score->plan, score->travel, score_steps(score, s), err);
    if (status != MP_OK)
        return status;
    add_row(t, score->name, score->plan->training.is_present ? score->plan->training.name : SEARCHED, &policy);
    struct row *r = &t->rows[t->n_rows - 1];
    r->is_lossy = score->lossy.is_lossy; /* where experts travel, all tokens are computed */
    t->n_scored = t->works.n;
    note_memory(&t->works, s, score->name);
    status = run_mean(&r->mean, &t->works, &policy, err);
    if (status == MP_OK)
        status = run_mean(&m, &t->works, fair, err);
    if (status == MP_OK)
        r->fair_ns = m.step_ns;
    free_works(&t->works);
    r->policy.buckets = NULL; /* the plan's */
    return status;
}

enum mp_status training_compare(struct training **out, const struct setup *s, const struct score *scores, uint32_t n,
                                uint32_t base, struct mp_error *err) {
    *out = NULL;
    if (s->batching.phase != MP_PHASE_TRAIN)
        return MP_OK;
    struct training *t = new_training(err);
    struct mp_error why = {0};
    if (t == NULL)
        return MP_ENOMEM;
    t->is_compare = true;
    t->is_lossy = s->lossy != NULL;
    t->searched_on = "planning steps";
    enum mp_status status = MP_OK;
    for (uint32_t i = 0; i < n && status == MP_OK; i++) {
        if (scores[i].plan == NULL || scores[i].is_online)
            continue;
        status = compare_row(t, s, &scores[i], &why);
        if (status == MP_EUSAGE) {
            tool_note(s->o, "%s: nothing is said of its training steps: %s", scores[i].name, why.message);
            free_works(&t->works);
            status = MP_OK;
        } else if (status != MP_OK) {
            (void)mp_fail(err, status, "%s", why.message);
        } else if (i == base) {
            t->base = t->n_rows - 1;
        }
    }
    if (status == MP_OK && t->n_rows > 0)
        *out = t;
    else
        training_free(t);
    return status;
}

static void put_change(struct mp_table *table, uint64_t ns, uint64_t base_ns) {
    mp_table_cell(table, "%+.1f %%", base_ns == 0 ? 0.0 : 100 * ((double)ns / (double)base_ns - 1));
}

/* The step that needs most, and what the hosts take. */
static const struct mp_train_work *fullest(const struct works *w) {
    const struct mp_train_work *most = &w->work[0];
    for (uint32_t i = 1; i < w->n; i++)
        if (w->work[i].memory.need_bytes[0] > most->memory.need_bytes[0])
            most = &w->work[i];
    return most;
}

static void memory_text(const struct works *w, struct mp_out *o) {
    char a[32], b[32];
    const struct mp_train_work *most = fullest(w);
    const struct mp_train_memory *m = &most->memory;
    mp_out_printf(o, "\nmemory of GPU %u: %s of %s", m->gpu, mp_human_bytes((double)m->need_bytes[w->offload], a),
                  mp_human_bytes((double)m->has_bytes, b));
    if (w->offload == MP_TRAIN_OFFLOAD_NONE)
        mp_out_printf(o, "%s", w->fits ? "" : ", which is too much whatever its host takes");
    else
        mp_out_printf(o, ", and %s %s in its host's, which adds %s to the step",
                      w->offload == MP_TRAIN_OFFLOAD_STATE ? "optimiser state of experts," : "experts,",
                      mp_human_bytes((double)m->host_bytes[w->offload], a), mp_human_ns((double)most->host_ns, b));
    mp_out_printf(o, " (weights %s", mp_human_bytes((double)m->weight_bytes, a));
    mp_out_printf(o, ", gradients %s", mp_human_bytes((double)m->gradient_bytes, a));
    mp_out_printf(o, ", optimiser state %s", mp_human_bytes((double)m->state_bytes, a));
    mp_out_printf(o, ", activations %s)\n", mp_human_bytes((double)m->activation_bytes, a));
}

void training_text(const struct training *t, const struct mp_style *style, struct mp_out *o) {
    char buf[32], of_base[MP_MAX_NAME + 32];
    struct mp_table *table = mp_table_new();
    const struct row *base = t->base == MP_NONE ? NULL : &t->rows[t->base];
    if (table == NULL) {
        mp_out_fail(o, MP_ENOMEM, "out of memory: training steps");
        return;
    }
    if (base != NULL)
        snprintf(of_base, sizeof of_base, "against %s", base->name);
    const char *const columns[] = {t->is_compare ? "strategy" : "policy",
                                   "step",
                                   base != NULL ? of_base : NULL,
                                   t->is_compare ? "own fair" : "against fair",
                                   "backward",
                                   "gradients",
                                   "a2a / alone",
                                   "waiting",
                                   "chunk of a2a",
                                   "of allreduce"};
    for (size_t i = 0; i < sizeof columns / sizeof *columns; i++)
        if (columns[i] != NULL)
            mp_table_columns(table, &columns[i], 1, &"0012345689"[i], i == 0);
    for (uint32_t i = 0; i < t->n_rows; i++) {
        const struct row *r = &t->rows[i];
        const struct mp_train_timeline *m = &r->mean;
        mp_table_cell(table, "%s%s%s", r->name, r->is_lossy ? " (LOSSY)" : "",
                      r->policy.is_pipelined ? ", pipelined" : "");
        mp_table_cell(table, "%s", mp_human_ns((double)m->step_ns, buf));
        if (base != NULL)
            put_change(table, m->step_ns, base->mean.step_ns);
        put_change(table, m->step_ns, r->fair_ns);
        mp_table_cell(table, "%s", mp_human_ns((double)m->backward_ns, buf));
        mp_table_cell(table, "%s", mp_human_ns((double)m->reduce_ns, buf));
        mp_table_cell(table, "%.2f", m->a2a_alone_ns == 0 ? 1.0 : (double)m->a2a_ns / (double)m->a2a_alone_ns);
        mp_table_cell(table, "%s", mp_human_ns((double)m->blocked_ns, buf));
        mp_table_cell(table, "%s", chunk_text(r->policy.a2a_chunk_bytes, buf));
        mp_table_cell(table, "%s", chunk_text(r->policy.reduce_chunk_bytes, buf));
    }
    mp_out_printf(o, "\n%straining steps (docs/TRAINING.md), mean of %u; %s chosen on %s\n\n",
                  t->is_lossy ? "LOSSY: " : "", t->n_scored,
                  t->is_compare ? "each under its own policy," : "the searched policy was", t->searched_on);
    mp_table_show(table, style, o);
    mp_table_free(table);
    if (!t->is_compare)
        memory_text(&t->works, o);
}

static json_t *row_json(const struct training *t, const struct row *r) {
    const struct mp_train_timeline *m = &r->mean;
    json_t *one = policy_json(r->policy_name, &r->policy);
    json_t *times =
        json_pack("{s:s,s:i,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", t->is_compare ? "name" : "row", r->name, "n_steps",
                  (int)t->n_scored, "step_ns", (json_int_t)m->step_ns, "forward_ns", (json_int_t)m->forward_ns,
                  "backward_ns", (json_int_t)m->backward_ns, "reduce_ns", (json_int_t)m->reduce_ns, "blocked_ns",
                  (json_int_t)m->blocked_ns, "a2a_ns", (json_int_t)m->a2a_ns, "a2a_alone_ns",
                  (json_int_t)m->a2a_alone_ns, "fair_step_ns", (json_int_t)r->fair_ns);
    if (one != NULL && (times == NULL || json_object_update(one, times) != 0 ||
                        (r->is_lossy && json_object_set_new(one, "lossy", json_true()) != 0))) {
        json_decref(one);
        one = NULL;
    }
    json_decref(times);
    return one;
}

json_t *training_json(const struct training *t) {
    json_t *rows = json_array();
    for (uint32_t i = 0; i < t->n_rows && rows != NULL; i++) {
        json_t *one = row_json(t, &t->rows[i]);
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
    free_works(&t->works);
    mp_arena_free(t->arena);
    mp_free(t);
}
