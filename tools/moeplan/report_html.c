/* The parts of a report that read without JavaScript. docs/REPORT.md part 4 lists their elements and classes. */
#include "report.h"
#include <stdio.h>
#include <string.h>

static void put_element(struct mp_out *o, const char *element, const char *class, const char *text) {
    if (text == NULL || text[0] == '\0')
        return;
    mp_out_printf(o, class != NULL ? "<%s class=\"%s\">" : "<%s>", element, class);
    mp_html_text(o, text);
    mp_out_printf(o, "</%s>\n", element);
}

static void put_paragraph(struct mp_out *o, const char *class, const char *text) {
    if (text == NULL || text[0] == '\0')
        return;
    mp_out_printf(o, "<p class=\"%s\">", class);
    mp_html_figures(o, text);
    mp_out_puts(o, "</p>\n");
}

static void put_list(struct mp_out *o, const char *class, const json_t *sentences) {
    if (json_array_size(sentences) == 0)
        return;
    mp_out_printf(o, class != NULL ? "<ul class=\"%s\">\n" : "<ul>\n", class);
    for (size_t i = 0; i < json_array_size(sentences); i++)
        put_element(o, "li", NULL, json_string_value(json_array_get(sentences, i)));
    mp_out_puts(o, "</ul>\n");
}

static void put_cell(struct mp_out *o, const char *text) {
    mp_out_puts(o, "<td class=\"n\">");
    mp_html_figures(o, text);
    mp_out_puts(o, "</td>");
}

/* first_text: from this column on (and in the first) stands text; numbers between them. */
static void put_heads(struct mp_out *o, const char *caption, const char *const *titles, size_t n, size_t first_text) {
    mp_out_puts(o, "<div class=\"scroll\"><table>\n<caption>");
    mp_html_text(o, caption);
    mp_out_puts(o, "</caption>\n<thead><tr>");
    for (size_t i = 0; i < n; i++) {
        mp_out_puts(o, i > 0 && i < first_text ? "<th scope=\"col\" class=\"n\">" : "<th scope=\"col\">");
        mp_html_text(o, titles[i]);
        mp_out_puts(o, "</th>");
    }
    mp_out_puts(o, "</tr></thead>\n<tbody>\n");
}

void report_html_title(void *ctx, struct mp_out *o) {
    const struct report *r = ctx;
    mp_html_text(o, r->scores[1].name);
    mp_out_puts(o, " on ");
    mp_html_text(o, r->s.topology->name);
    mp_out_puts(o, " - moeplan report\n");
}

void report_html_verdict(void *ctx, struct mp_out *o) {
    const struct report *r = ctx;
    const struct report_verdict *v = &r->verdict;
    const struct setup *s = &r->s;
    char text[2048], steps[1024];
    put_paragraph(o,
                  v->is_none                ? "headline none"
                  : v->kind == GAIN_REAL    ? "headline real"
                  : v->kind == GAIN_TIE     ? "headline tie"
                  : v->kind == GAIN_TOO_FEW ? "headline few"
                  : v->kind == GAIN_NOISE   ? "headline noise"
                                            : "headline loss",
                  v->headline);
    put_paragraph(o, "interval", v->interval_text);
    put_paragraph(o, "where", v->where_text);
    put_paragraph(o, "other", v->other_text);
    snprintf(text, sizeof text, "%s: %u GPU%s, %u node%s; model %s, %u layer%s of %u experts, top-%u%s. ",
             s->topology->name, s->topology->n_gpus, tool_s(s->topology->n_gpus), mp_topology_n_nodes(s->topology),
             tool_s(mp_topology_n_nodes(s->topology)), s->model->name, s->trace->n_layers, tool_s(s->trace->n_layers),
             s->trace->n_experts, s->trace->top_k > 0 ? s->trace->top_k : s->model->top_k,
             s->trace->is_synthetic ? "; SYNTHETIC recording" : "");
    mp_out_puts(o, "<p class=\"subject\">");
    mp_html_text(o, text);
    char *second = strchr(score_describe(s, steps, sizeof steps), '\n');
    if (second != NULL)
        *second++ = '\0';
    mp_html_text(o, steps);
    mp_out_puts(o, second != NULL ? ". " : "");
    if (second != NULL && *second >= 'a' && *second <= 'z')
        *second = (char)(*second - 'a' + 'A');
    mp_html_text(o, second);
    mp_out_puts(o, ".</p>\n");
    put_list(o, "notes", r->notes);
}

/* ---- comparison ---- */

static const char *percent(double change, char *buf) {
    snprintf(buf, 32, "%+.1f %%", 100 * change);
    return buf;
}

static void put_row(const struct report *r, uint32_t i, struct mp_out *o) {
    const struct score *s = &r->scores[i];
    const struct mp_sim_result *x = s->result, *b = r->scores[0].result;
    char a[32], c[32], text[96];
    const bool has_change = i > 0 && b != NULL && x != NULL;
    mp_out_puts(o, i == 0 ? "<tr class=\"baseline\">" : i == 1 ? "<tr class=\"judged\">" : "<tr>");
    mp_out_puts(o, "<th scope=\"row\">");
    mp_html_text(o, s->name);
    if (r->plans[i].verified != NULL && r->plans[i].verified->n > 0)
        mp_out_puts(o, " <span class=\"refused\">refused by the verifier</span>");
    mp_out_puts(o, "</th>");
    if (x == NULL) {
        mp_out_puts(o, "<td colspan=\"11\">");
        mp_html_text(o, s->note);
        mp_out_puts(o, "</td></tr>\n");
        return;
    }
    put_cell(o, mp_human_ns((double)x->mean.step_ns, a));
    if (s->shown.step_ns.is_known)
        snprintf(text, sizeof text, "%s to %s", mp_human_ns(s->shown.step_ns.low, a),
                 mp_human_ns(s->shown.step_ns.high, c));
    put_cell(o, s->shown.step_ns.is_known ? text : "-");
    put_cell(o, has_change ? percent((double)x->mean.step_ns / (double)b->mean.step_ns - 1, a) : "");
    if (has_change && s->against_base.is_known)
        snprintf(text, sizeof text, "%+.1f to %+.1f %%", 100 * s->against_base.low, 100 * s->against_base.high);
    put_cell(o, !has_change ? "" : s->against_base.is_known ? text : "-");
    put_cell(o, has_change && b->moe_ns > 0 ? percent((double)x->moe_ns / (double)b->moe_ns - 1, a) : "");
    put_cell(o, mp_human_ns((double)x->p95_ns, a));
    snprintf(text, sizeof text, "%.2f", x->balance.max_over_mean);
    put_cell(o, text);
    put_cell(o, mp_human_bytes(x->inter_bytes, a));
    snprintf(text, sizeof text, "%.1f %%", 100 * x->gap);
    put_cell(o, x->lower_bound_ns > 0 ? text : "-");
    put_cell(o, mp_human_bytes((double)x->memory_bytes_max, a));
    mp_out_puts(o, "<td>");
    mp_html_text(o, s->shown.evaluated_on);
    mp_out_puts(o, "</td></tr>\n");
}

void report_html_comparison(void *ctx, struct mp_out *o) {
    const struct report *r = ctx;
    static const char *const titles[] = {
        "plan",     "step",     "95 % interval", "change",        "95 % interval of the change",
        "MoE time", "p95",      "max/mean load", "between nodes", "gap to bound",
        "weights",  "scored on"};
    const char *no_interval = r->scores[1].shown.no_interval;
    char caption[200 + MP_MAX_NAME];
    snprintf(
        caption, sizeof caption,
        "Mean step and what it is made of, all plans on the same steps; changes against %s. Bytes are of one step.",
        r->scores[0].name);
    put_heads(o, caption, titles, sizeof titles / sizeof *titles, sizeof titles / sizeof *titles - 1);
    for (uint32_t i = 0; i < r->n; i++)
        put_row(r, i, o);
    mp_out_puts(o, "</tbody></table></div>\n<ul class=\"notes\">\n");
    for (uint32_t i = 0; i < r->n; i++)
        if (r->scores[i].note[0] != '\0' && r->scores[i].result != NULL) {
            mp_out_puts(o, "<li>");
            mp_html_text(o, r->scores[i].name);
            mp_out_puts(o, ": ");
            mp_html_text(o, r->scores[i].note);
            mp_out_puts(o, "</li>\n");
        }
    if (no_interval != NULL) {
        mp_out_puts(o, "<li>no interval: ");
        mp_html_text(o, no_interval);
        mp_out_puts(o, "</li>\n");
    }
    if (r->scores[1].result != NULL && r->scores[1].result->lower_bound_ns > 0)
        mp_out_puts(o, "<li>gap: to a bound on these steps that no static plan with these slots can go below</li>\n");
    mp_out_puts(o, "</ul>\n");
}

/* ---- certificates ---- */

static void put_verified(const struct report_plan *p, struct mp_out *o) {
    const struct mp_verify_report *v = p->verified;
    char text[200];
    mp_out_printf(o, "<p class=\"verified %s\">", v == NULL ? "unknown" : v->n == 0 ? "yes" : "no");
    if (v == NULL)
        mp_out_puts(o, "not verified");
    else if (v->n > 0)
        mp_out_printf(o, "refused by the verifier, %u violation%s in %llu checks", v->n, tool_s(v->n),
                      (unsigned long long)v->n_checks);
    else if (v->has_data)
        mp_out_printf(o, "accepted by the verifier: %llu checks, %u steps simulated again",
                      (unsigned long long)v->n_checks, v->n_steps_simulated);
    else
        mp_out_printf(o, "structure accepted by the verifier: %llu checks", (unsigned long long)v->n_checks);
    if (p->why_not_verified != NULL)
        mp_out_puts(o, "; ");
    mp_html_text(o, p->why_not_verified);
    mp_out_puts(o, "</p>\n");
    for (uint32_t i = 0; v != NULL && i < v->n && i < 5; i++) {
        snprintf(text, sizeof text, "%s: ", mp_violation_name(v->violations[i].kind));
        mp_out_puts(o, "<p>");
        mp_html_text(o, text);
        mp_html_text(o, v->violations[i].message);
        mp_out_puts(o, "</p>\n");
    }
}

void report_html_certificates(void *ctx, struct mp_out *o) {
    const struct report *r = ctx;
    static const char *const kinds[] = {"order", "placement", "residual"};
    static const char *const proofs[] = {"closed form", "search", "search, stopped"};
    static const char *const titles[] = {"certificate", "this plan", "bound", "gap", "proof", "scope"};
    for (uint32_t i = 0; i < r->n; i++) {
        const struct report_plan *p = &r->plans[i];
        char a[32];
        put_element(o, "h3", NULL, r->scores[i].name);
        put_verified(p, o);
        if (p->file == NULL || p->file->n_certificates == 0)
            continue;
        put_heads(o, "What the plan says no other can go below; mean of a planning step", titles, 6, 4);
        for (uint32_t k = 0; k < p->file->n_certificates; k++) {
            const struct mp_certificate *c = &p->file->certificates[k];
            mp_out_printf(o, "<tr><th scope=\"row\">%s</th>", kinds[c->kind]);
            put_cell(o, mp_human_ns((double)c->value_ns, a));
            put_cell(o, mp_human_ns((double)c->bound_ns, a));
            if (c->bound_ns > 0)
                snprintf(a, sizeof a, "%.1f %%", 100 * ((double)c->value_ns / (double)c->bound_ns - 1));
            put_cell(o, c->bound_ns > 0 ? a : "-");
            mp_out_printf(o, "<td>%s</td><td>", c->value_ns == c->bound_ns ? "optimal" : proofs[c->proof]);
            mp_html_text(o, c->scope);
            mp_out_puts(o, "</td></tr>\n");
        }
        mp_out_puts(o, "</tbody></table></div>\n");
    }
}

void report_html_limits(void *ctx, struct mp_out *o) {
    const struct report *r = ctx;
    put_list(o, NULL, r->limits);
}

/* ---- provenance ---- */

static void put_fact(struct mp_out *o, const char *term, const char *text, const char *hash) {
    mp_out_puts(o, "<dt>");
    mp_html_text(o, term);
    mp_out_puts(o, "</dt><dd>");
    mp_html_text(o, text);
    if (hash != NULL && hash[0] != '\0') {
        mp_out_puts(o, text[0] != '\0' ? " <code>" : "<code>");
        mp_html_text(o, hash);
        mp_out_puts(o, "</code>");
    }
    mp_out_puts(o, "</dd>\n");
}

void report_html_provenance(void *ctx, struct mp_out *o) {
    const struct report *r = ctx;
    const struct setup *s = &r->s;
    char seed[32];
    snprintf(seed, sizeof seed, "%llu", (unsigned long long)r->o->seed);
    mp_out_puts(o, "<dl>\n<dt>command</dt><dd><code>");
    for (int i = 0; i < r->o->argc; i++) {
        mp_out_puts(o, i > 0 ? " " : "");
        mp_html_text(o, r->o->argv[i]);
    }
    mp_out_puts(o, "</code></dd>\n");
    put_fact(o, "written by", "moeplan " MOEPLAN_VERSION, NULL);
    put_fact(o, "seed", seed, NULL);
    put_fact(o, "recording", r->args->value[1], s->trace->sha256);
    put_fact(o, "topology", s->topology->name, s->topology->sha256);
    put_fact(o, "model", s->model->name, s->model->sha256);
    for (uint32_t i = 0; i < r->n; i++)
        if (r->plans[i].path != NULL)
            put_fact(o, i == 0 ? "baseline" : "plan", r->scores[i].name, r->plans[i].sha256);
    mp_out_puts(o, "</dl>\n");
}
