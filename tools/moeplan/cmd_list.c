/* moeplan list: every table that can be extended, with references. */
#include "tool.h"
#include <moeplan/coloc.h>
#include <moeplan/homes.h>
#include <moeplan/rehome.h>
#include <moeplan/train.h>
#include <stdio.h>
#include <string.h>

/* One row of a list: what all of them have. */
struct row {
    const char *name, *kind, *summary, *reference;
    const struct mp_option *options;
};
/* Row i of a list, false past the last. buf (512 bytes) is for composed text. */
typedef bool (*row_fn)(uint32_t i, struct row *row, char *buf);

static bool strategies_row(uint32_t i, struct row *row, char *buf) {
    uint32_t n_recipes = 0, n_policies = 0;
    while (mp_recipe_at(n_recipes) != NULL)
        n_recipes++;
    if (i < n_recipes) {
        const struct mp_recipe *r = mp_recipe_at(i);
        if (r->place != NULL)
            snprintf(buf, 512, "%s [%s, %s, %s, %s]", r->summary, r->replicate, r->place, r->route, r->order);
        else
            snprintf(buf, 512, "%s", r->summary);
        *row = (struct row){r->name, "strategy", buf, r->reference, NULL};
        return true;
    }
    const struct mp_strategy *policy = mp_policy_at(i - n_recipes);
    if (policy != NULL) {
        *row = (struct row){policy->name, "policy", policy->summary, policy->reference, policy->options};
        return true;
    }
    while (mp_policy_at(n_policies) != NULL)
        n_policies++;
    uint32_t n_travels = 0;
    while (mp_travel_at(n_travels) != NULL)
        n_travels++;
    const struct mp_dispatcher *travel = mp_travel_at(i - n_recipes - n_policies);
    if (i - n_recipes - n_policies < n_travels) {
        *row = (struct row){travel->name, "experts travel", travel->summary, travel->reference, NULL};
        return true;
    }
    const struct mp_strategy *s = mp_strategy_at(i - n_recipes - n_policies - n_travels);
    if (s != NULL)
        *row = (struct row){s->name, mp_planner_stage_name(s->stage), s->summary, s->reference, s->options};
    return s != NULL;
}

static bool colocations_row(uint32_t i, struct row *row, char *buf) {
    (void)buf;
    const struct mp_coloc_strategy *s = mp_coloc_strategy_at(i);
    if (s != NULL)
        *row = (struct row){s->name, "colocation", s->summary, s->reference, NULL};
    return s != NULL;
}

static bool policies_row(uint32_t i, struct row *row, char *buf) {
    (void)buf;
    const struct mp_train_named_policy *p = mp_train_policy_at(i);
    if (p != NULL)
        *row = (struct row){p->name, "policy", p->summary, p->reference, NULL};
    return p != NULL;
}

static bool homes_row(uint32_t i, struct row *row, char *buf) {
    (void)buf;
    const struct mp_strategy *s = mp_homes_at(i);
    if (s != NULL)
        *row = (struct row){s->name, "homes", s->summary, s->reference, s->options};
    return s != NULL;
}

/* What is read, then what is written. */
static bool formats_row(uint32_t i, struct row *row, char *buf) {
    (void)buf;
    const struct mp_trace_format *f = mp_trace_format_at(i);
    struct mp_trace_form form;
    uint32_t n_readers = 0;
    if (f != NULL) {
        *row = (struct row){f->name, "read", f->summary, f->reference, NULL};
        return true;
    }
    while (mp_trace_format_at(n_readers) != NULL)
        n_readers++;
    if (!mp_trace_writer(i - n_readers, &form))
        return false;
    *row = (struct row){form.name, "written", form.summary, form.reference, NULL};
    return true;
}

static bool matrices_row(uint32_t i, struct row *row, char *buf) {
    const struct mp_matrix_format *f = mp_matrix_format_at(i);
    if (f == NULL)
        return false;
    snprintf(buf, 512, "%s%s", f->summary, f->write == NULL ? " (read only)" : "");
    *row = (struct row){f->name, "matrix", buf, f->reference, NULL};
    return true;
}

static bool stacks_row(uint32_t i, struct row *row, char *buf) {
    const struct mp_stack *s = mp_stack_at(i);
    if (s == NULL)
        return false;
    size_t used = (size_t)snprintf(buf, 512, "%s%s%s; replica choice ", s->summary,
                                   s->needs_equal_slots ? "; equal slots on every GPU" : "",
                                   s->needs_distinct ? "; no two replicas on one GPU" : "");
    for (const struct mp_stack_choice *c = s->choices; c->name != NULL && used < 512; c++)
        if (c->refused == NULL)
            used += (size_t)snprintf(buf + used, 512 - used, "%s%s", c == s->choices ? "" : ", ", c->name);
    *row = (struct row){s->name, s->extension, buf, s->reference, NULL};
    return true;
}

static bool exports_row(uint32_t i, struct row *row, char *buf) {
    (void)buf;
    const struct mp_exporter *e = mp_exporter_at(i);
    if (e != NULL)
        *row = (struct row){e->name, e->n_files != NULL ? "files" : "file", e->summary, e->reference, NULL};
    return e != NULL;
}

static bool models_row(uint32_t i, struct row *row, char *buf) {
    (void)buf;
    const char *name, *summary;
    if (!mp_model_preset(i, &name, &summary))
        return false;
    *row = (struct row){name, "model", summary, NULL, NULL};
    return true;
}

static bool dispatchers_row(uint32_t i, struct row *row, char *buf) {
    (void)buf;
    const struct mp_dispatcher *d = mp_dispatcher_at(i);
    if (d != NULL)
        *row = (struct row){d->name, "dispatcher", d->summary, d->reference, NULL};
    return d != NULL;
}

static bool rehomes_row(uint32_t i, struct row *row, char *buf) {
    (void)buf;
    const struct mp_rehome *r = mp_rehome_at(i);
    if (r != NULL)
        *row = (struct row){r->name, "migration", r->summary, r->reference, NULL};
    return r != NULL;
}

static bool topologies_row(uint32_t i, struct row *row, char *buf) {
    (void)buf;
    const char *name, *summary;
    uint32_t n = 0;
    if (mp_gpu_preset(i, &name, &summary)) {
        *row = (struct row){name, "GPU type", summary, NULL, NULL};
        return true;
    }
    while (mp_gpu_preset(n, &name, &summary))
        n++;
    if (!mp_topology_preset(i - n, &name, &summary))
        return false;
    *row = (struct row){name, "topology", summary, NULL, NULL};
    return true;
}

/* What is built in, then what is read, then what is written, then link rates. */
static bool topologies_and_formats_row(uint32_t i, struct row *row, char *buf) {
    const char *name, *summary, *reference;
    uint32_t n = 0, n_readers = 0, n_writers = 0;
    while (topologies_row(n, row, buf))
        n++;
    if (i < n)
        return topologies_row(i, row, buf);
    if (mp_topology_reader(i - n, &name, &summary, &reference)) {
        *row = (struct row){name, "read", summary, reference, NULL};
        return true;
    }
    while (mp_topology_reader(n_readers, &name, &summary, &reference))
        n_readers++;
    if (mp_topology_writer(i - n - n_readers, &name, &summary, &reference)) {
        *row = (struct row){name, "written", summary, reference, NULL};
        return true;
    }
    while (mp_topology_writer(n_writers, &name, &summary, &reference))
        n_writers++;
    if (!mp_topology_links(i - n - n_readers - n_writers, &name, buf, 512))
        return false;
    *row = (struct row){name, "links", buf, NULL, NULL};
    return true;
}

static bool other_presets_row(uint32_t i, struct row *row, char *buf) {
    uint32_t n = 0;
    while (models_row(n, row, buf))
        n++;
    return i < n ? models_row(i, row, buf) : topologies_row(i - n, row, buf);
}

static bool presets_row(uint32_t i, struct row *row, char *buf) {
    struct mp_synth_params p;
    const char *name, *summary;
    uint32_t n = 0;
    while (mp_synth_preset(n, &name, &summary, &p))
        n++;
    if (i >= n)
        return other_presets_row(i - n, row, buf);
    (void)mp_synth_preset(i, &name, &summary, &p);
    snprintf(buf, 512, "%s [%u layers, %u experts, top-%u, %s]", summary, p.n_layers, p.n_experts, p.top_k,
             mp_phase_name(p.phase));
    *row = (struct row){name, "synthetic", buf, NULL, NULL};
    return true;
}

static const struct {
    const char *name;
    row_fn fn;
    const char *title;
} lists[] = {
    {"strategies", strategies_row, "strategies (--strategy) and their stages (--replicate, --place, --route, --order)"},
    {"colocations", colocations_row, "colocations of two models (--colocation)"},
    {"policies", policies_row,
     "policies of training steps: what travels first (plan --policy; simulate --phase train shows all, and the "
     "searched one)"},
    {"formats", formats_row,
     "recordings: what is read (--input-format; detected otherwise; .gz and .zst of any), what is written (convert "
     "--to)"},
    {"matrices", matrices_row, "traffic matrices that `moeplan order` reads (--input-format; detected otherwise)"},
    {"stacks", stacks_row, "serving stacks: placements out (export --to) and in"},
    {"exports", exports_row, "other exports (export --to), made from a plan, a recording and a topology"},
    {"presets", presets_row,
     "presets: synthetic recordings (generate --preset), models (-m), GPU types (8:h100), topologies"},
    {"models", models_row, "models (-m)"},
    {"dispatchers", dispatchers_row, "dispatchers (--dispatcher)"},
    {"rehomes", rehomes_row, "sequence migration (simulate and compare --rehome)"},
    {"topologies", topologies_and_formats_row,
     "topologies, and GPU types for short ones: 8:h100 is one node of 8, 4x8:h100 four of them, 2x4:a100+2x4:l40s "
     "mixed; topologies of other programs that are read (FILE, 4xFILE:h100) and written (convert --to); what the links "
     "are taken as that nvidia-smi topo -m names"},
    {"homes", homes_row, "homes of requests (--homes)"},
};
enum { N_LISTS = sizeof lists / sizeof *lists };

static json_t *text_or_null(const char *s) { return s != NULL ? json_string(s) : json_null(); }

static json_t *row_json(const struct row *row) {
    json_t *options = json_array();
    for (const struct mp_option *p = row->options; p != NULL && p->name != NULL; p++)
        (void)json_array_append_new(options, json_pack("{s:s,s:o,s:o,s:I,s:I,s:I}", "name", p->name, "unit",
                                                       text_or_null(p->unit), "summary", text_or_null(p->summary),
                                                       "default", (json_int_t)p->default_value, "min",
                                                       (json_int_t)p->min, "max", (json_int_t)p->max));
    return json_pack("{s:s,s:o,s:o,s:o,s:o}", "name", row->name, "kind", text_or_null(row->kind), "summary",
                     text_or_null(row->summary), "reference", text_or_null(row->reference), "options", options);
}

static void write_list(uint32_t l, const struct mp_style *style, struct mp_out *out) {
    struct mp_table *t = mp_table_new();
    struct row row;
    char buf[512];
    if (t == NULL) {
        mp_out_fail(out, MP_ENOMEM, "out of memory: list");
        return;
    }
    mp_table_column(t, "name", false);
    mp_table_column(t, "kind", false);
    mp_table_column(t, "what it is", false);
    for (uint32_t i = 0; lists[l].fn(i, &row, buf); i++) {
        mp_table_cell(t, "%s", row.name);
        mp_table_cell(t, "%s", row.kind != NULL ? row.kind : "");
        mp_table_cell(t, "%s", row.summary != NULL ? row.summary : "");
    }
    mp_out_printf(out, "%s\n\n", lists[l].title);
    mp_table_show(t, style, out);
    mp_table_free(t);
    bool is_first = true;
    for (uint32_t i = 0; lists[l].fn(i, &row, buf); i++)
        for (const struct mp_option *p = row.options; p != NULL && p->name != NULL; p++) {
            mp_out_printf(out, "%s  %s.%s: %s (%s; default %lld, %lld to %lld)\n",
                          is_first ? "\noptions (--set STRATEGY.OPTION=N)\n" : "", row.name, p->name, p->summary,
                          p->unit != NULL ? p->unit : "number", (long long)p->default_value, (long long)p->min,
                          (long long)p->max);
            is_first = false;
        }
    is_first = true;
    for (uint32_t i = 0; lists[l].fn(i, &row, buf); i++) {
        if (row.reference == NULL || row.reference[0] == '\0' || strcmp(row.reference, "none") == 0)
            continue;
        mp_out_printf(out, "%s  %s %s: %s\n", is_first ? "\nreferences\n" : "", row.kind, row.name, row.reference);
        is_first = false;
    }
}

enum mp_status cmd_list(const struct opts *o, const struct args *args, int *exit_code, struct mp_error *err) {
    (void)exit_code;
    const char *what = args->n > 0 ? args->value[0] : NULL;
    uint32_t first = 0, last = N_LISTS;
    if (what != NULL) {
        while (first < N_LISTS && strcmp(lists[first].name, what) != 0)
            first++;
        if (first == N_LISTS)
            return mp_fail(err, MP_EUSAGE,
                           "list: unknown \"%s\" (write one of: strategies, colocations, policies, formats, matrices, "
                           "stacks, exports, "
                           "presets, models, dispatchers, rehomes, topologies, homes)",
                           what);
        last = first + 1;
    }
    struct mp_out *out;
    enum mp_status status = tool_open_result(&out, o, err);
    if (status != MP_OK)
        return status;
    if (o->json) {
        json_t *all = json_object();
        for (uint32_t l = first; l < last; l++) {
            json_t *list = json_array();
            struct row row;
            char buf[512];
            for (uint32_t i = 0; lists[l].fn(i, &row, buf); i++)
                (void)json_array_append_new(list, row_json(&row));
            (void)json_object_set_new(all, lists[l].name, list);
        }
        json_t *root = json_pack("{s:s,s:i,s:o}", "schema", "moeplan.list", "version", 1, "lists", all);
        mp_json_write(root, out);
        json_decref(root);
    } else {
        for (uint32_t l = first; l < last; l++) {
            if (l > first)
                mp_out_puts(out, "\n");
            write_list(l, o->style, out);
        }
    }
    return tool_close_result(out, o, err);
}
