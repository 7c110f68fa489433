/* moeplan inspect: what a file is, and what is in it. */
#include "lossy.h"
#include "tool.h"
#include <moeplan/synth.h>
#include <stdio.h>
#include <string.h>

static const char *or_dash(const char *s) { return s != NULL && s[0] != '\0' ? s : "-"; }

/* One line of text and one member of JSON for each fact. */
struct facts {
    struct mp_table *table;
    json_t *json;
    json_t *units;          /* of the facts that have one */
    json_t *topology;       /* of a topology: all of its ports and groups, for programs; else NULL */
    struct mp_out *drawing; /* of a topology, as text, in memory; else NULL */
};

static void fact_text(struct facts *f, const char *key, const char *value) {
    mp_table_cell(f->table, "%s", key);
    mp_table_cell(f->table, "%s", or_dash(value));
    (void)json_object_set_new(f->json, key, json_string(value != NULL ? value : ""));
}

static void fact_whole(struct facts *f, const char *key, uint64_t value) {
    mp_table_cell(f->table, "%s", key);
    mp_table_cell(f->table, "%llu", (unsigned long long)value);
    (void)json_object_set_new(f->json, key, json_integer((json_int_t)value));
}

static void fact_real(struct facts *f, const char *key, double value) {
    mp_table_cell(f->table, "%s", key);
    mp_table_cell(f->table, "%.3f", value);
    (void)json_object_set_new(f->json, key, mp_json_finite(value));
}

static void fact_quantity(struct facts *f, const char *key, uint64_t value, const char *(*human)(double, char *)) {
    char text[32];
    mp_table_cell(f->table, "%s", key);
    mp_table_cell(f->table, "%s", value > 0 ? human((double)value, text) : "-");
    (void)json_object_set_new(f->json, key, json_integer((json_int_t)value));
    (void)json_object_set_new(f->units, key, json_string(human == mp_human_ns ? "ns" : "bytes"));
}

/* "0-23" or "1, 5, 9 ..." */
static const char *layers_text(const uint32_t *ids, uint32_t n, char *buf, size_t size) {
    bool is_run = n > 0 && ids[n - 1] - ids[0] == n - 1;
    if (is_run) {
        snprintf(buf, size, "%u-%u", ids[0], ids[n - 1]);
        return buf;
    }
    size_t used = 0;
    buf[0] = '\0';
    for (uint32_t l = 0; l < n && l < 12 && used < size; l++)
        used += (size_t)snprintf(buf + used, size - used, "%s%u", l > 0 ? ", " : "", ids[l]);
    if (n > 12 && used < size)
        snprintf(buf + used, size - used, " ...");
    return buf;
}

/* The largest id that occurs, + 1. */
static uint32_t experts_seen(const struct mp_trace *t) {
    uint32_t n = 1;
    uint64_t *load = mp_calloc(t->n_experts, sizeof *load);
    for (uint32_t l = 0; load != NULL && l < t->n_layers; l++) {
        mp_trace_load_of_layer(t, l, load);
        for (uint32_t e = n; e < t->n_experts; e++)
            n = load[e] > 0 ? e + 1 : n;
    }
    mp_free(load);
    return n;
}

/* How alike tokens of one expert are, in the first, sixth and last layer. */
static void similarity_facts(struct facts *f, const struct mp_trace *t) {
    const uint32_t layers[] = {0, 5, t->n_layers - 1};
    for (uint32_t i = 0; t->signature_chunks != NULL && i < 3; i++) {
        struct mp_similarity_stats s;
        char key[96];
        if (layers[i] >= t->n_layers || (i > 0 && layers[i] == layers[i - 1]))
            continue;
        mp_trace_similarity(&s, t, layers[i], MP_SIMILAR_PPM);
        snprintf(key, sizeof key, "layer %u: pairs of at least 0.8", t->layer_ids[layers[i]]);
        fact_real(f, key, s.pairs_above);
        snprintf(key, sizeof key, "layer %u: tokens with one of 0.9", t->layer_ids[layers[i]]);
        fact_real(f, key, s.tokens_very_similar);
        if (layers[i] + 1 == t->n_layers)
            continue;
        snprintf(key, sizeof key, "layer %u: such pairs that stay", t->layer_ids[layers[i]]);
        fact_real(f, key, s.persistence);
    }
}

static enum mp_status trace_facts(struct facts *f, const char *path, const struct opts *o, struct mp_error *err) {
    struct mp_trace *t = NULL;
    char text[256];
    struct mp_trace_missing missing;
    enum mp_status status = tool_load_trace_with_gaps(&t, path, o, &missing, err);
    if (status != MP_OK)
        return status;
    bool is_counts = t->kind == MP_TRACE_COUNTS;
    fact_text(f, "what", is_counts ? "recording, counts only" : "recording, per token");
    fact_text(f, "format", t->format);
    fact_text(f, "phase",
              missing.phase                  ? "not recorded (give --phase prefill|decode|train|mixed)"
              : t->phase == MP_PHASE_UNKNOWN ? "not recorded (--phase)"
                                             : mp_phase_name(t->phase));
    fact_text(f, "model", t->model);
    fact_text(f, "synthetic", t->is_synthetic ? "yes" : "no");
    fact_whole(f, "layers", t->n_layers);
    fact_text(f, "layer ids",
              missing.layer_base ? "not recorded (give --layer-base N)"
                                 : layers_text(t->layer_ids, t->n_layers, text, sizeof text));
    uint32_t n_experts = t->n_experts;
    if (missing.experts) {
        n_experts = experts_seen(t);
        snprintf(text, sizeof text, "not recorded (give --experts N; the largest id is %u)", n_experts - 1);
        fact_text(f, "experts", text);
    } else
        fact_whole(f, "experts", t->n_experts);
    if (missing.ids)
        fact_text(f, "ids", "not recorded (give --ids logical|physical)");
    fact_whole(f, "top_k", t->top_k);
    if (is_counts) {
        fact_whole(f, "iterations", t->n_iterations);
        fact_whole(f, "sources", t->source_known ? t->n_sources : 0);
        fact_whole(f, "pairs", t->n_pairs);
    } else {
        if (missing.requests)
            fact_text(f, "requests", "not recorded (give --requests FILE)");
        else
            fact_whole(f, "requests", t->n_requests);
        fact_whole(f, "tokens", t->n_rows);
        fact_text(f, "weights", t->weight_chunks != NULL ? "yes" : "no");
        fact_text(f, "signatures", t->signature_chunks != NULL ? "yes" : "no");
        fact_text(f, "ranked", t->is_ranked ? "yes" : "no");
        uint32_t n_sources = 0;
        for (uint64_t r = 0; r < t->n_requests; r++)
            if (t->requests[r].source != MP_NONE && t->requests[r].source >= n_sources)
                n_sources = t->requests[r].source + 1;
        fact_whole(f, "sources", n_sources);
    }
    fact_whole(f, "categories", t->n_categories);
    fact_text(f, "time order", t->is_time_ordered ? "yes" : "no");
    bool is_whole = !missing.phase && !missing.layer_base && !missing.experts && !missing.ids && !missing.requests;
    fact_text(f, "sha256", is_whole ? t->sha256 : "");
    similarity_facts(f, t);
    uint64_t *load = mp_calloc(t->n_experts, sizeof *load);
    if (load == NULL) {
        status = mp_nomem(err, "loads");
    } else {
        double sum_ratio = 0;
        uint64_t n_unused = 0;
        for (uint32_t l = 0; l < t->n_layers; l++) {
            uint64_t most = 0, sum = 0;
            memset(load, 0, t->n_experts * sizeof *load);
            mp_trace_load_of_layer(t, l, load);
            for (uint32_t e = 0; e < n_experts; e++) {
                most = load[e] > most ? load[e] : most;
                sum += load[e];
                n_unused += load[e] == 0;
            }
            sum_ratio += sum > 0 ? (double)most * n_experts / (double)sum : 0;
        }
        fact_real(f, "expert max/mean of totals", sum_ratio / t->n_layers);
        fact_whole(f, "experts never used", n_unused);
    }
    mp_free(load);
    mp_trace_free(t);
    return status;
}

static json_t *json_ids(const uint32_t *ids, uint32_t n) {
    json_t *list = json_array();
    for (uint32_t i = 0; i < n; i++)
        (void)json_array_append_new(list, json_integer(ids[i]));
    return list;
}

/* The topology as programs want it: what struct mp_topology says of groups and resources, by the same numbers. */
static json_t *topology_json(const struct mp_topology *t) {
    json_t *levels = json_array(), *resources = json_array(), *gpus = json_array();
    for (uint32_t l = 0; l < t->n_levels; l++) {
        const struct mp_level *v = &t->levels[l];
        json_t *out = v->uplink_out != NULL ? json_ids(v->uplink_out, v->n_groups) : json_null();
        json_t *in = v->uplink_in != NULL ? json_ids(v->uplink_in, v->n_groups) : json_null();
        (void)json_array_append_new(levels,
                                    json_pack("{s:s,s:I,s:I,s:I,s:o,s:o,s:o}", "name", v->name, "groups",
                                              (json_int_t)v->n_groups, "latency_ns", (json_int_t)v->latency_ns,
                                              "pair_bytes_per_s", (json_int_t)v->pair_bytes_per_s, "uplink_out", out,
                                              "uplink_in", in, "incast_ppm", json_ids(v->incast_ppm, v->n_incast)));
    }
    for (uint32_t r = 0; r < t->n_resources; r++) {
        const struct mp_resource *v = &t->resources[r];
        (void)json_array_append_new(resources, json_pack("{s:I,s:I,s:s,s:b}", "bytes_per_s", (json_int_t)v->bytes_per_s,
                                                         "level", (json_int_t)v->level, "direction",
                                                         v->is_in ? "in" : "out", "is_uplink", v->is_uplink ? 1 : 0));
    }
    for (uint32_t g = 0; g < t->n_gpus; g++) {
        const struct mp_gpu *v = &t->gpus[g];
        (void)json_array_append_new(gpus, json_pack("{s:s,s:o,s:o,s:o}", "type", t->types[v->type].name, "group",
                                                    json_ids(v->group, t->n_levels), "out_port",
                                                    json_ids(v->out_port, t->n_levels), "in_port",
                                                    json_ids(v->in_port, t->n_levels)));
    }
    return json_pack("{s:o,s:o,s:o}", "levels", levels, "resources", resources, "gpus", gpus);
}

static enum mp_status draw_svg(const struct mp_topology *t, const char *path, struct mp_error *err) {
    struct mp_out *out = NULL;
    enum mp_status status = MP_OK;
    MP_TRY(tool_check_output(path, err));
    MP_TRY(mp_out_open(&out, path, err));
    status = mp_topology_draw_svg(t, out, err);
    if (status == MP_OK)
        return mp_out_commit(out, err);
out:
    mp_out_cancel(out);
    return status;
}

static enum mp_status topology_facts(struct facts *f, const char *spec, const struct opts *o, struct mp_error *err) {
    struct mp_topology *t;
    char key[96], text[256], a[32], b[32];
    enum mp_status status = mp_topology_load(&t, spec, &o->limits, err);
    if (status != MP_OK)
        return status;
    fact_text(f, "what", "topology");
    fact_text(f, "name", t->name);
    fact_whole(f, "gpus", t->n_gpus);
    fact_whole(f, "nodes", mp_topology_n_nodes(t));
    for (uint32_t k = 0; k < t->n_types; k++) {
        const struct mp_gpu_type *g = &t->types[k];
        uint32_t n = 0;
        for (uint32_t i = 0; i < t->n_gpus; i++)
            n += t->gpus[i].type == k;
        snprintf(key, sizeof key, "type %.80s", g->name);
        snprintf(text, sizeof text, "%u GPUs, %s, %s/s, %.0f TFLOPS (16 bit), %.0f (8 bit)", n,
                 mp_human_bytes((double)g->memory_bytes, b), mp_human_bytes((double)g->hbm_bytes_per_s, a),
                 (double)g->flops_16bit / 1e12, (double)g->flops_8bit / 1e12);
        fact_text(f, key, text);
    }
    for (uint32_t k = 0; k < t->n_levels; k++) {
        const struct mp_level *level = &t->levels[k];
        uint64_t rate = UINT64_MAX; /* of the slowest; a level without ports of its own uses those below */
        for (uint32_t i = 0; i < t->n_gpus; i++) {
            const uint64_t port = t->resources[t->gpus[i].out_port[k]].bytes_per_s;
            rate = port < rate ? port : rate;
        }
        snprintf(key, sizeof key, "level %.80s", level->name);
        snprintf(text, sizeof text, "%u group%s, %s/s per port, %llu ns", level->n_groups,
                 level->n_groups == 1 ? "" : "s", mp_human_bytes((double)rate, a),
                 (unsigned long long)level->latency_ns);
        fact_text(f, key, text);
    }
    fact_quantity(f, "launch", t->launch_ns, mp_human_ns);
    fact_quantity(f, "stage launch", t->stage_launch_ns, mp_human_ns);
    if (t->source[0] != '\0')
        fact_text(f, "source", t->source);
    fact_text(f, "sha256", t->sha256);
    if (o->json)
        f->topology = topology_json(t);
    MP_TRY(mp_out_open_memory(&f->drawing, err));
    MP_TRY(mp_topology_draw_text(t, f->drawing, err));
    if (o->svg != NULL)
        status = draw_svg(t, o->svg, err);
out:
    mp_topology_free(t);
    return status;
}

static enum mp_status model_facts(struct facts *f, const char *spec, const struct opts *o, struct mp_error *err) {
    struct mp_model *m;
    char text[256];
    enum mp_status status = mp_model_load(&m, spec, &o->limits, err);
    if (status != MP_OK)
        return status;
    fact_text(f, "what", "model");
    fact_text(f, "name", m->name);
    fact_whole(f, "layers", m->n_hidden_layers);
    fact_whole(f, "moe layers", m->n_layers);
    fact_text(f, "layer ids", layers_text(m->layer_ids, m->n_layers, text, sizeof text));
    fact_whole(f, "experts", m->n_experts);
    fact_whole(f, "top_k", m->top_k);
    fact_whole(f, "shared experts", m->n_shared_experts);
    fact_whole(f, "groups", m->n_groups);
    fact_whole(f, "hidden size", m->hidden_size);
    fact_whole(f, "expert size", m->expert_size);
    fact_quantity(f, "expert bytes", m->expert_bytes, mp_human_bytes);
    fact_quantity(f, "dense bytes", m->dense_bytes, mp_human_bytes);
    fact_quantity(f, "dispatch bytes per token", m->dispatch_bytes, mp_human_bytes);
    fact_quantity(f, "combine bytes per token", m->combine_bytes, mp_human_bytes);
    fact_quantity(f, "kv bytes per token", m->kv_bytes_per_token, mp_human_bytes);
    fact_text(f, "source", m->source);
    fact_text(f, "sha256", m->sha256);
    mp_model_free(m);
    return MP_OK;
}

/* The order of one traffic matrix. */
static void matrix_facts(struct facts *f, const struct mp_plan *p) {
    const struct mp_provenance *v = &p->provenance;
    fact_text(f, "tool", v->tool);
    fact_text(f, "order", v->order);
    fact_text(f, "stages", mp_stage_mode_name(p->stage_mode));
    fact_text(f, "pacing", p->is_paced ? "yes" : "no");
    fact_text(f, "topology", v->topology);
    fact_text(f, "stopped by", v->stopped_by);
    fact_text(f, "matrix format", v->matrix.format);
    fact_quantity(f, "bytes of a token", v->matrix.token_bytes, mp_human_bytes);
    fact_text(f, "matrix sha256", v->matrix.sha256);
    if (p->n_certificates == 0)
        return;
    const struct mp_certificate *c = &p->certificates[0];
    fact_quantity(f, "dispatch", c->value_ns, mp_human_ns);
    fact_quantity(f, "bound", c->bound_ns, mp_human_ns);
    if (c->bound_ns > 0)
        fact_real(f, "dispatch over bound", (double)c->value_ns / (double)c->bound_ns);
}

static enum mp_status plan_facts(struct facts *f, const char *path, const struct opts *o, bool is_plan,
                                 struct mp_error *err) {
    struct mp_plan *p = NULL;
    char text[256];
    struct mp_stack_options options = tool_stack_options(o, NULL, NULL);
    enum mp_status status = mp_stack_load(&p, path, is_plan ? "plan" : o->input_format, &options, &o->limits, err);
    if (status != MP_OK)
        return status;
    fact_text(f, "what",
              !is_plan                          ? "placement of a serving stack"
              : p->provenance.matrix.is_present ? "plan, the order of a traffic matrix"
                                                : "plan");
    fact_whole(f, "layers", p->n_layers);
    uint64_t n_replicas = 0, n_empty = 0;
    uint32_t most = 0;
    uint32_t *count = mp_calloc(p->n_experts, sizeof *count);
    for (uint32_t l = 0; count != NULL && l < p->n_layers; l++) {
        memset(count, 0, p->n_experts * sizeof *count);
        for (uint32_t s = 0; s < p->n_slots; s++) {
            uint16_t e = p->layers[l].slot_expert[s];
            if (e == MP_NO_EXPERT) {
                n_empty++;
                continue;
            }
            n_replicas += count[e]++ > 0;
            most = count[e] > most ? count[e] : most;
        }
    }
    mp_free(count);
    snprintf(text, sizeof text, "%u-%u", p->n_layers > 0 ? p->layers[0].layer_id : 0,
             p->n_layers > 0 ? p->layers[p->n_layers - 1].layer_id : 0);
    fact_text(f, "layer ids", text);
    fact_whole(f, "experts", p->n_experts);
    fact_whole(f, "gpus", p->n_gpus);
    fact_whole(f, "nodes", p->n_nodes);
    fact_whole(f, "slots", p->n_slots);
    fact_whole(f, "replicas, all layers", n_replicas);
    fact_whole(f, "most copies of an expert", most);
    fact_whole(f, "empty slots, all layers", n_empty);
    fact_text(f, "route", mp_route_rule_name(p->route));
    if (p->condense.is_present)
        fact_text(f, "tokens condensed", lossy_describe(p, text, sizeof text));
    fact_whole(f, "orders", p->n_orders);
    if (p->provenance.has_workload) {
        const struct mp_provenance *v = &p->provenance;
        fact_text(f, "tool", v->tool);
        fact_text(f, "strategy", v->strategy);
        fact_text(f, "topology", v->topology);
        fact_text(f, "model", v->model);
        fact_text(f, "dispatcher", v->dispatcher);
        fact_text(f, "phase", mp_phase_name(v->batching.phase));
        fact_text(f, "stopped by", v->stopped_by);
        fact_text(f, "synthetic", v->is_synthetic ? "yes" : "no");
        fact_whole(f, "planning steps", p->n_planning_steps);
        fact_quantity(f, "predicted step", p->predicted_step_ns, mp_human_ns);
        fact_text(f, "trace sha256", v->trace_sha256);
    }
    if (p->provenance.matrix.is_present)
        matrix_facts(f, p);
    mp_plan_free(p);
    return MP_OK;
}

enum mp_status cmd_inspect(const struct opts *o, const struct args *args, int *exit_code, struct mp_error *err) {
    (void)exit_code;
    const char *spec = args->value[0];
    static const char *const kinds[] = {"recording", "plan", "placement", "topology", "model"};
    enum tool_kind kind;
    struct facts f = {mp_table_new(), json_object(), json_object(), NULL, NULL};
    struct mp_out *out;
    size_t n_drawn = 0;
    enum mp_status status = f.table == NULL || f.json == NULL || f.units == NULL ? mp_nomem(err, "inspect") : MP_OK;
    if (status != MP_OK)
        goto out;
    mp_table_column(f.table, "fact", false);
    mp_table_column(f.table, "value", false);
    MP_TRY(tool_kind_of(&kind, spec, o, err));
    if (kind == TOOL_TRACE)
        MP_TRY(trace_facts(&f, spec, o, err));
    else if (kind == TOOL_TOPOLOGY)
        MP_TRY(topology_facts(&f, spec, o, err));
    else if (kind == TOOL_MODEL)
        MP_TRY(model_facts(&f, spec, o, err));
    else
        MP_TRY(plan_facts(&f, spec, o, kind == TOOL_PLAN, err));
    if (o->svg != NULL && kind != TOOL_TOPOLOGY) {
        status = mp_fail(err, MP_EUSAGE, "inspect: %s is no topology, and only topologies are drawn (leave out --svg)",
                         spec);
        goto out;
    }
    MP_TRY(tool_open_result(&out, o, err));
    if (o->json) {
        json_t *root = json_pack("{s:s,s:i,s:s,s:s,s:O,s:O}", "schema", "moeplan.inspect", "version", 1, "input", spec,
                                 "kind", kinds[kind], "facts", f.json, "units", f.units);
        if (f.topology != NULL)
            (void)json_object_set(root, "topology", f.topology);
        mp_json_write(root, out);
        json_decref(root);
    } else {
        mp_table_show(f.table, o->style, out);
        if (f.drawing != NULL) {
            const uint8_t *drawing = mp_out_memory_bytes(f.drawing, &n_drawn);
            mp_out_puts(out, o->style->is_markdown ? "\n```text\n" : "\n");
            mp_out_write(out, drawing, n_drawn);
            mp_out_puts(out, o->style->is_markdown ? "```\n" : "");
        }
    }
    status = tool_close_result(out, o, err);
out:
    mp_out_cancel(f.drawing);
    json_decref(f.json);
    json_decref(f.units);
    json_decref(f.topology);
    mp_table_free(f.table);
    return status;
}
