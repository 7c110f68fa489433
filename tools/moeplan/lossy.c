#include "lossy.h"
#include "rehoming.h"
#include "served.h"
#include <moeplan/condense.h>
#include <stdio.h>
#include <string.h>

enum { COUNTED_STEPS = 16, SURE_PPM = 900000, NEVER_PPM = 200000 };

struct lossy {
    struct mp_condense condense;
    struct mp_flow_maker maker;
    const char *text; /* where the threshold comes from */
};

/* "S1,S2" or "none". */
static enum mp_status history_of(struct mp_condense *c, const char *text, struct mp_error *err) {
    double values[2];
    const char *comma = text != NULL ? strchr(text, ',') : NULL;
    c->sure_ppm = SURE_PPM;
    c->never_ppm = NEVER_PPM;
    if (text == NULL)
        return MP_OK;
    if (strcmp(text, "none") == 0) {
        c->sure_ppm = 2000000;
        c->never_ppm = 0;
        return MP_OK;
    }
    if (comma == NULL || !mp_parse_double(text, (size_t)(comma - text), &values[0]) ||
        !mp_parse_double(comma + 1, strlen(comma + 1), &values[1]) ||
        !(values[0] <= 1 && values[1] >= 0 && values[1] <= values[0]))
        return mp_fail(err, MP_EUSAGE,
                       "--condense-history %.60s is not two falling cosines in [0, 1] (write 0.9,0.2, or none)", text);
    c->sure_ppm = (uint32_t)(values[0] * 1e6 + 0.5);
    c->never_ppm = (uint32_t)(values[1] * 1e6 + 0.5);
    return MP_OK;
}

enum mp_status lossy_setup(struct setup *s, struct mp_error *err) {
    const struct opts *o = s->o;
    enum mp_status status = MP_OK;
    if (o->condense == NULL)
        return o->condense_history == NULL
                   ? MP_OK
                   : mp_fail(err, MP_EUSAGE, "--condense-history says how --condense looks (add --condense H)");
    struct lossy *l = mp_arena_alloc(s->arena, 1, sizeof *l);
    if (l == NULL)
        return mp_nomem(err, "reading options");
    *l = (struct lossy){.maker = {mp_condense_make, &l->condense}, .text = o->condense};
    MP_TRY(mp_condense_parse(&l->condense.threshold_ppm, &l->condense.n_thresholds, o->condense, s->arena, err));
    MP_TRY(history_of(&l->condense, o->condense_history, err));
    if (s->trace->signature_chunks == NULL)
        status = mp_fail(err, MP_EUSAGE,
                         "--condense: the recording has no similarity signatures, so nobody knows which tokens are "
                         "alike (traces/FORMAT.md says how to record them)");
    s->lossy = l;
out:
    return status;
}

static double share_of(uint64_t part, uint64_t whole) { return whole == 0 ? 0 : (double)part / (double)whole; }

/* Adds what a flow condenses, by layer. */
static void add_layers(uint64_t *condensed, uint64_t *pairs, const struct mp_token_flow *f, const struct mp_workload *w,
                       uint32_t step) {
    uint16_t ids[MP_MAX_TOP_K];
    for (uint32_t l = 0; l < f->n_layers; l++)
        for (uint32_t i = 0; i < f->n_rows; i++) {
            const uint32_t *stands = f->stands_for + ((size_t)l * f->n_rows + i) * w->trace->top_k;
            const uint32_t k = mp_trace_row(w->trace, l, w->steps[step].row[i], ids);
            pairs[l] += k;
            for (uint32_t j = 0; j < k; j++)
                condensed[l] += stands[j] != i;
        }
}

static enum mp_status measure_layers(uint32_t *ppm, const struct setup *s, const struct mp_workload *w,
                                     struct mp_error *err) {
    const uint32_t n = w->n_steps < COUNTED_STEPS ? w->n_steps : COUNTED_STEPS, n_layers = w->trace->n_layers;
    uint64_t *condensed = mp_calloc(n_layers, sizeof *condensed), *pairs = mp_calloc(n_layers, sizeof *pairs);
    const struct mp_cost_setup setup = {.workload = w};
    enum mp_status status = condensed == NULL || pairs == NULL ? mp_nomem(err, "token condensation") : MP_OK;
    for (uint32_t i = 0; i < n && status == MP_OK; i++) {
        const uint32_t step = (uint32_t)((2 * (uint64_t)i + 1) * w->n_steps / (2 * (uint64_t)n));
        struct mp_token_flow *f = NULL;
        status = mp_flow_new(&f, w, step, err);
        if (status == MP_OK)
            status = mp_condense_step(f, &setup, step, &s->lossy->condense, NULL, err);
        if (status == MP_OK)
            add_layers(condensed, pairs, f, w, step);
        mp_flow_free(f);
    }
    for (uint32_t l = 0; l < n_layers && status == MP_OK; l++)
        ppm[l] = (uint32_t)mp_mul_div(condensed[l], 1000000, pairs[l] == 0 ? 1 : pairs[l]);
    mp_free(condensed);
    mp_free(pairs);
    return status;
}

enum mp_status lossy_choose(struct mp_plan *plan, const struct setup *s, struct mp_error *err) {
    struct mp_workload *w = NULL;
    enum mp_status status = MP_OK;
    if (s->lossy == NULL)
        return MP_OK;
    const struct mp_condense *c = &s->lossy->condense;
    if (c->n_thresholds > 1)
        return mp_fail(err, MP_EUSAGE, "plan: a plan carries one threshold, and --condense %.60s has %u (write 0.8)",
                       s->lossy->text, c->n_thresholds);
    uint32_t *ppm = mp_arena_alloc(plan->arena, plan->n_layers, sizeof *ppm);
    if (ppm == NULL)
        return mp_nomem(err, "token condensation");
    MP_TRY(mp_workload_build(&w, &s->planning, &s->batching, err));
    MP_TRY(measure_layers(ppm, s, w, err));
    plan->condense = (struct mp_plan_condense){.is_present = true,
                                               .threshold_ppm = c->threshold_ppm[0],
                                               .sure_ppm = c->sure_ppm,
                                               .never_ppm = c->never_ppm,
                                               .condensed_ppm = ppm};
    status = mp_plan_check(plan, err);
out:
    mp_workload_free(w);
    return status;
}

enum mp_status lossy_planned(struct setup *s, const struct mp_plan *plan, struct mp_error *err) {
    const struct mp_plan_condense *c = &plan->condense;
    if (s->lossy != NULL || !c->is_present)
        return MP_OK;
    if (s->trace->signature_chunks == NULL) {
        tool_note(s->o, "the plan condenses tokens, and the recording has no similarity signatures: all tokens travel");
        return MP_OK;
    }
    struct lossy *l = mp_arena_alloc(s->arena, 1, sizeof *l);
    uint32_t *h = mp_arena_alloc(s->arena, 1, sizeof *h);
    if (l == NULL || h == NULL)
        return mp_nomem(err, "reading options");
    *h = c->threshold_ppm;
    *l = (struct lossy){
        .condense = {.threshold_ppm = h, .n_thresholds = 1, .sure_ppm = c->sure_ppm, .never_ppm = c->never_ppm},
        .maker = {mp_condense_make, &l->condense},
        .text = "the plan's"};
    s->lossy = l;
    return MP_OK;
}

const char *lossy_describe(const struct mp_plan *plan, char *buf, size_t size) {
    const struct mp_plan_condense *c = &plan->condense;
    uint64_t sum = 0;
    buf[0] = '\0';
    for (uint32_t l = 0; c->is_present && l < plan->n_layers; l++)
        sum += c->condensed_ppm[l];
    if (c->is_present)
        snprintf(buf, size, "LOSSY: tokens are condensed from a cosine of %.3g on, %.1f %% of (token, expert) pairs",
                 c->threshold_ppm / 1e6, (double)sum / plan->n_layers / 1e4);
    return buf;
}

const struct mp_flow_maker *lossy_flow(const struct setup *s) {
    if (s->lossy == NULL)
        return rehoming_flow(s);
    s->lossy->condense.base = rehoming_flow(s);
    return &s->lossy->maker;
}

/* Counts on up to COUNTED_STEPS steps, evenly spread. */
static enum mp_status count(struct mp_condense_sums *sums, uint32_t *n_counted, const struct setup *s,
                            const struct score *score, struct mp_error *err) {
    const struct mp_plan *plan = score->plan;
    const struct mp_workload *w = score_steps(score, s);
    struct mp_router *router = NULL;
    struct mp_cost_setup setup = {.plan = plan,
                                  .workload = w,
                                  .topology = s->topology,
                                  .model = s->model,
                                  .dispatcher = s->sim.dispatcher,
                                  .sources = s->sim.sources,
                                  .choice = s->sim.choice};
    const uint32_t n_steps = w->n_steps, n = n_steps < COUNTED_STEPS ? n_steps : COUNTED_STEPS;
    *n_counted = n;
    enum mp_status status = mp_router_new(&router, plan, err);
    setup.router = router;
    for (uint32_t i = 0; i < n && status == MP_OK; i++) {
        const uint32_t step = (uint32_t)((2 * (uint64_t)i + 1) * n_steps / (2 * (uint64_t)n));
        struct mp_condense_sums one;
        struct mp_token_flow *f = NULL;
        const struct mp_flow_maker *base = rehoming_flow(s);
        status = base != NULL ? base->make(&f, base->ctx, &setup, step, err) : mp_flow_new(&f, w, step, err);
        if (status == MP_OK)
            status = mp_condense_step(f, &setup, step, &s->lossy->condense, &one, err);
        mp_flow_free(f);
        if (status != MP_OK)
            break;
        sums->tokens += one.tokens;
        sums->condensed += one.condensed;
        sums->pairs += one.pairs;
        sums->compared += one.compared;
        sums->by_history += one.by_history;
    }
    mp_router_free(router);
    return status;
}

enum mp_status lossy_measure(struct score *score, const struct setup *s, struct mp_error *err) {
    struct mp_sim_result *plain = NULL;
    struct mp_condense_sums sums = {0};
    struct mp_sim_options sim = s->sim;
    uint32_t n_counted;
    if (s->lossy == NULL || score->plan == NULL || score->result == NULL || score->travel != NULL)
        return MP_OK;
    sim.with_bound = false;
    sim.flow = rehoming_flow(s);
    enum mp_status status = count(&sums, &n_counted, s, score, err);
    if (status == MP_OK)
        status = served_simulate(&plain, s, score->plan, score_steps(score, s), &sim, err);
    if (status != MP_OK)
        return status;
    score->lossy.is_lossy = true;
    score->lossy.share = share_of(sums.condensed, sums.tokens);
    score->lossy.rows = (double)sums.condensed / n_counted;
    score->lossy.compared = share_of(sums.compared, sums.pairs);
    score->lossy.by_history = share_of(sums.by_history, sums.compared);
    score->lossy.intra_bytes = plain->intra_bytes - score->result->intra_bytes;
    score->lossy.inter_bytes = plain->inter_bytes - score->result->inter_bytes;
    score->lossy.plain_bytes = plain->intra_bytes + plain->inter_bytes;
    score->lossy.plain_step_ns = plain->mean.step_ns;
    mp_sim_result_free(plain);
    return MP_OK;
}

void lossy_head(const struct setup *s, struct mp_out *o) {
    if (s->lossy == NULL)
        return;
    const struct mp_condense *c = &s->lossy->condense;
    if (c->n_thresholds == 1)
        mp_out_printf(o, "LOSSY: token condensation at h = %.3g", c->threshold_ppm[0] / 1e6);
    else
        mp_out_printf(o, "LOSSY: token condensation with h from %.60s (%u values, the first %.3g, the last %.3g)",
                      s->lossy->text, c->n_thresholds, c->threshold_ppm[0] / 1e6,
                      c->threshold_ppm[c->n_thresholds - 1] / 1e6);
    mp_out_puts(o, "; outputs of the model change, how much is not known here\n");
}

const char *lossy_mark(const struct score *score) { return score->lossy.is_lossy ? " (LOSSY)" : ""; }

void lossy_line(const struct score *score, struct mp_out *o) {
    char a[32], b[32], c[32];
    if (!score->lossy.is_lossy)
        return;
    const double saved = score->lossy.intra_bytes + score->lossy.inter_bytes;
    mp_out_printf(
        o,
        "%s: LOSSY, %.1f %% of (token, expert) pairs condensed, %.0f per step; %s saved (%.1f %%), %s of them "
        "between nodes; lossless step %s (%+.1f %%)\n",
        score->name, 100 * score->lossy.share, score->lossy.rows, mp_human_bytes(saved, a),
        score->lossy.plain_bytes > 0 ? 100 * saved / score->lossy.plain_bytes : 0,
        mp_human_bytes(score->lossy.inter_bytes, b), mp_human_ns((double)score->lossy.plain_step_ns, c),
        100 * ((double)score->result->mean.step_ns / (double)score->lossy.plain_step_ns - 1));
}

bool lossy_json(const struct setup *s, const struct score *score, json_t *result) {
    if (s->lossy == NULL || !score->lossy.is_lossy)
        return true;
    const struct mp_condense *c = &s->lossy->condense;
    return json_object_set_new(result, "lossy",
                               json_pack("{s:s,s:s,s:f,s:i,s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:I}", "method",
                                         "token condensation", "threshold", s->lossy->text, "first_threshold",
                                         c->threshold_ppm[0] / 1e6, "n_thresholds", (int)c->n_thresholds,
                                         "history_sure", c->sure_ppm / 1e6, "history_never", c->never_ppm / 1e6,
                                         "condensed_share", score->lossy.share, "expert_tokens_saved",
                                         score->lossy.rows, "pairs_compared_share", score->lossy.compared,
                                         "pairs_by_history_share", score->lossy.by_history, "intra_node_bytes_saved",
                                         score->lossy.intra_bytes, "inter_node_bytes_saved", score->lossy.inter_bytes,
                                         "lossless_step_ns", (json_int_t)score->lossy.plain_step_ns)) == 0;
}
