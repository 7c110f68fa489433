/* What is outside the model, in sentences: what the figures of a report take for granted, and what they do not know. */
#include "report.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct limits {
    json_t *list;
    bool is_short; /* memory ran out */
};

static void say(struct limits *l, const char *fmt, ...) MP_PRINTF(2, 3);
static void say(struct limits *l, const char *fmt, ...) {
    char text[1200];
    va_list list;
    va_start(list, fmt);
    vsnprintf(text, sizeof text, fmt, list);
    va_end(list);
    l->is_short |= json_array_append_new(l->list, mp_json_text(text)) != 0;
}

static void say_network(struct limits *l, const struct setup *s) {
    const struct mp_dispatcher *d = s->sim.dispatcher;
    say(l, "Dispatcher %s: %s.", d->name, d->summary);
    if (d->copies == MP_COPY_ALL)
        say(l, "This dispatcher sends every token to every GPU: placement cannot change the bytes.");
    if (s->sim.is_pipelined)
        say(l,
            "Timeline pipelined: every GPU goes on when its own part has ended; no bound is known for this reading.");
    else
        say(l, "Timeline with barriers: gate, dispatch, experts and combine of a layer each wait for all GPUs.");
    say(l, "Transfers share the topology's ports max-min fairly, with a latency for each level and a launch for each "
           "collective. Not simulated: congestion control and lost packets, contention inside switches, PCIe and host "
           "memory, other jobs on the same links, and GPUs that slow down while they communicate.");
}

static void say_compute(struct limits *l, const struct setup *s) {
    const struct mp_topology *t = s->topology;
    if (t->source[0] != '\0')
        say(l, "Topology %s: %s.", t->name, t->source);
    for (uint32_t i = 0; i < t->n_types; i++) {
        const struct mp_gpu_type *type = &t->types[i];
        bool is_measured = false;
        for (uint32_t k = 0; k < type->n_coefficients; k++)
            is_measured |= strcmp(type->coefficients[k].model, s->model->name) == 0;
        say(l, "Expert computation on %s: %s%s%s.", type->name,
            is_measured ? "coefficients measured for this model"
                        : "a roofline of its memory bandwidth and FLOPS, not "
                          "measured on these kernels",
            type->source != NULL && type->source[0] != '\0' ? "; figures from " : "",
            type->source != NULL ? type->source : "");
    }
    say(l, "Attention, gate and the rest of the model are estimates that no plan changes; they make the share of MoE "
           "time, and so the change of the step, smaller or larger, and leave the change of MoE time as it is.");
    if (s->model->is_stand_in)
        say(l, "The recording names no known model: sizes are those of a stand-in (--model names one).");
}

static void say_data(struct limits *l, const struct report *r) {
    const struct setup *s = &r->s;
    char text[2][300];
    setup_inputs_text(s, text[0], text[1]);
    for (int i = 0; i < 2; i++)
        if (text[i][0] != '\0')
            say(l, "Note that %s.", text[i]);
    if (s->trace->is_synthetic)
        say(l, "The recording is SYNTHETIC: its figures are those of no real traffic.");
    if (s->trace->kind == MP_TRACE_COUNTS)
        say(l,
            "The recording holds counts of experts and not the experts of each token: nothing is known of tokens that "
            "use two experts of one GPU, so every (token, expert) pair travels by itself%s.",
            s->trace->source_known ? "" : ", and ranks are taken to send alike");
    if (s->workload->is_bootstrap)
        say(l, "Steps are drawn from the recorded requests, with replacement: no step was run exactly so.");
    else if (s->trace->kind == MP_TRACE_TOKENS)
        say(l,
            "Steps are put together from the recorded requests by the rules of docs/STEPS.md: a server's scheduler may "
            "put others together.");
    say(l, "Which experts are used is what was recorded: other requests may use others (see drift).");
    if (s->batching.phase == MP_PHASE_TRAIN)
        say(l, "Of training only the forward pass is shown here; moeplan simulate --phase train has whole steps.");
}

static void say_plans(struct limits *l, const struct report *r) {
    for (uint32_t i = 0; i < r->n; i++) {
        const struct mp_plan *p = r->scores[i].plan;
        if (p->condense.is_present)
            say(l,
                "%s condenses tokens that are alike (LOSSY): not applied here, every token travels; moeplan simulate "
                "shows it.",
                r->scores[i].name);
        if (p->homes.is_present)
            say(l, "%s gives requests homes: its steps hold the same requests on other ranks than the others'.",
                r->scores[i].name);
        if (r->scores[i].is_imported)
            say(l, "%s is a stack's placement: it is scored with route %s (--incumbent-route).", r->scores[i].name,
                mp_route_rule_name(p->route));
        if (p->provenance.matrix.is_present)
            say(l, "%s orders a plain traffic matrix: its certificate is of that matrix, not of this recording.",
                r->scores[i].name);
    }
}

enum mp_status report_limits(struct report *r, struct mp_error *err) {
    struct limits l = {.list = r->limits};
    say_network(&l, &r->s);
    say_compute(&l, &r->s);
    say_data(&l, r);
    say_plans(&l, r);
    return l.is_short ? mp_nomem(err, "report") : MP_OK;
}
