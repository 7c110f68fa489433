/* The canonical text of a plan (docs/PLAN.md): same plan, same bytes. The body is put together in memory first, because
 * its last line is a checksum over all the others. */
#include "plan_text.h"
#include <string.h>

const char *const plan_split_names[] = {"none", "hash", "time", "category", NULL};
const char *const plan_phase_names[] = {"unknown", "prefill", "decode", "train", "mixed", NULL};
const char *const plan_certificate_names[] = {"order", "placement", "residual", NULL};
const char *const plan_role_names[] = {"first", "second", NULL};
const char *const plan_proof_names[] = {"closed-form", "search", "stopped", NULL};
const char *const plan_stop_names[] = {"done", "work_limit", "wall_clock", NULL};
const char *const plan_source_names[] = {"dp", "coupled", NULL};
const char *const plan_combine_names[] = {"forward", "reversed", "swapped", NULL};

/* printf is a third of the time of writing a large plan; these four are where its integers are. */
static size_t digits_of(uint64_t v, char *end) {
    char *p = end;
    do
        *--p = (char)('0' + v % 10);
    while ((v /= 10) > 0);
    return (size_t)(end - p);
}

static void put_u64(struct mp_out *o, uint64_t v) {
    char buf[20];
    size_t n = digits_of(v, buf + sizeof buf);
    mp_out_write(o, buf + sizeof buf - n, n);
}

static void put_key_u64(struct mp_out *o, const char *key, uint64_t v) {
    mp_out_puts(o, key);
    put_u64(o, v);
    mp_out_puts(o, "\n");
}

static void put_u32_list(struct mp_out *o, const char *key, const uint32_t *v, uint32_t n) {
    mp_out_puts(o, key);
    mp_out_puts(o, "[");
    for (uint32_t i = 0; i < n; i++) {
        if (i > 0)
            mp_out_puts(o, ", ");
        put_u64(o, v[i]);
    }
    mp_out_puts(o, "]\n");
}

/* One code point of valid UTF-8; returns its length. */
static size_t decode(const unsigned char *s, uint32_t *code) {
    size_t n = *s < 0x80 ? 1 : *s < 0xe0 ? 2 : *s < 0xf0 ? 3 : 4;
    *code = n == 1 ? *s : *s & (0x7fu >> n);
    for (size_t i = 1; i < n; i++)
        *code = *code << 6 | (s[i] & 0x3fu);
    return n;
}

/* Always in double quotes and ASCII: nothing in a name can then be taken for another type, and no editor re-encodes it.
 */
void plan_put_string(struct mp_out *o, const char *key, const char *s) {
    mp_out_puts(o, key);
    if (!mp_is_text(s, strlen(s))) {
        mp_out_fail(o, MP_EINPUT, "a name in the plan is not printable UTF-8 text");
        return;
    }
    mp_out_puts(o, "\"");
    for (const unsigned char *p = (const unsigned char *)s; *p != '\0';) {
        uint32_t code;
        size_t n = decode(p, &code);
        if (code == '"' || code == '\\')
            mp_out_printf(o, "\\%c", (int)code);
        else if (code == '\t')
            mp_out_puts(o, "\\t");
        else if (n == 1)
            mp_out_write(o, p, 1);
        else
            mp_out_printf(o, code <= 0xffff ? "\\u%04X" : "\\U%08X", code);
        p += n;
    }
    mp_out_puts(o, "\"\n");
}

static void put_bool(struct mp_out *o, const char *key, bool v) {
    mp_out_puts(o, key);
    mp_out_puts(o, v ? "true\n" : "false\n");
}

static void put_word(struct mp_out *o, const char *key, const char *const *words, unsigned n, unsigned i) {
    mp_out_puts(o, key);
    if (i >= n)
        mp_out_fail(o, MP_EBUG, "the plan holds an unknown kind");
    else
        mp_out_puts(o, words[i]);
    mp_out_puts(o, "\n");
}

/* A word held as text in the plan; anything not in the list cannot be read back. */
static void put_listed(struct mp_out *o, const char *key, const char *const *words, const char *word) {
    for (unsigned i = 0; words[i] != NULL; i++)
        if (strcmp(words[i], word) == 0) {
            put_word(o, key, words, i + 1, i);
            return;
        }
    mp_out_fail(o, MP_EBUG, "the plan's stopped_by or sources is not one of the words of docs/PLAN.md");
}

static void write_provenance(struct mp_out *o, const struct mp_provenance *v) {
    mp_out_puts(o, "provenance:\n");
    plan_put_string(o, "  tool: ", v->tool);
    plan_put_string(o, "  strategy: ", v->strategy);
    plan_put_string(o, "  replicate: ", v->replicate);
    plan_put_string(o, "  place: ", v->place);
    plan_put_string(o, "  route: ", v->route);
    plan_put_string(o, "  order: ", v->order);
    plan_put_string(o, "  options: ", v->options);
    plan_put_string(o, "  selected_on: ", v->selected_on);
    put_key_u64(o, "  seed: ", v->seed);
    put_key_u64(o, "  work_used: ", v->work_used);
    put_listed(o, "  stopped_by: ", plan_stop_names, v->stopped_by);
    put_bool(o, "  reproducible: ", v->is_reproducible);
    put_bool(o, "  synthetic: ", v->is_synthetic);
    plan_put_string(o, "  trace_format: ", v->trace_format);
    plan_put_string(o, "  trace_model: ", v->trace_model);
    plan_put_string(o, "  trace_sha256: ", v->trace_sha256);
    plan_put_string(o, "  topology: ", v->topology);
    plan_put_string(o, "  topology_sha256: ", v->topology_sha256);
    plan_put_string(o, "  model: ", v->model);
    plan_put_string(o, "  model_sha256: ", v->model_sha256);
    plan_put_string(o, "  dispatcher: ", v->dispatcher);
    put_listed(o, "  sources: ", plan_source_names, v->sources[0] != '\0' ? v->sources : "dp");
    put_bool(o, "  planned: ", v->has_workload);
    if (v->matrix.is_present) {
        mp_out_puts(o, "  matrix:\n");
        plan_put_string(o, "    format: ", v->matrix.format);
        plan_put_string(o, "    sha256: ", v->matrix.sha256);
        put_key_u64(o, "    token_bytes: ", v->matrix.token_bytes);
    }
    if (!v->has_workload)
        return;
    mp_out_puts(o, "  split:\n");
    put_word(o, "    kind: ", plan_split_names, 4, (unsigned)v->split.kind);
    put_key_u64(o, "    planning_ppm: ", v->split.planning_ppm);
    put_key_u64(o, "    seed: ", v->split.seed);
    plan_put_string(o, "    categories: ", v->split.categories != NULL ? v->split.categories : "");
    mp_out_puts(o, "  batching:\n");
    put_word(o, "    phase: ", plan_phase_names, 5, (unsigned)v->batching.phase);
    put_key_u64(o, "    ranks: ", v->batching.n_ranks);
    put_key_u64(o, "    batch_per_rank: ", v->batching.batch_per_rank);
    put_key_u64(o, "    tokens_per_rank: ", v->batching.tokens_per_rank);
    put_key_u64(o, "    source_skew_ppm: ", v->batching.source_skew_ppm);
    put_key_u64(o, "    pad_tokens: ", v->batching.pad_tokens);
    put_key_u64(o, "    steps_max: ", v->batching.n_steps_max);
    put_bool(o, "    resample: ", v->batching.resample);
    put_key_u64(o, "    seed: ", v->batching.seed);
}

static void write_layer(struct mp_out *o, const struct mp_plan *p, const struct mp_plan_layer *layer) {
    put_key_u64(o, "  - layer: ", layer->layer_id);
    mp_out_puts(o, "    slots: [");
    for (uint32_t s = 0; s < p->n_slots; s++) {
        if (s > 0)
            mp_out_puts(o, ", ");
        if (layer->slot_expert[s] == MP_NO_EXPERT)
            mp_out_puts(o, "-1");
        else
            put_u64(o, layer->slot_expert[s]);
    }
    mp_out_puts(o, "]\n");
    if (layer->slot_weight != NULL)
        put_u32_list(o, "    weights: ", layer->slot_weight, p->n_slots);
    if (layer->slot_weight_by_source != NULL)
        plan_write_weights_by_source(o, p, layer);
    if (layer->order == MP_NONE)
        mp_out_puts(o, "    order: concurrent\n");
    else
        put_key_u64(o, "    order: ", layer->order);
    put_word(o, "    combine: ", plan_combine_names, MP_N_COMBINES, (unsigned)layer->combine);
    if (!p->provenance.has_workload)
        return;
    put_key_u64(o, "    rows_max_sum: ", layer->rows_max_sum);
    put_key_u64(o, "    dispatch_intra_bytes: ", layer->dispatch_intra_bytes);
    put_key_u64(o, "    dispatch_inter_bytes: ", layer->dispatch_inter_bytes);
    put_key_u64(o, "    port_bound_ns: ", layer->port_bound_ns);
    if (layer->expert_rows == NULL)
        return;
    mp_out_puts(o, "    expert_rows: [");
    for (uint32_t e = 0; e < p->n_experts; e++) {
        if (e > 0)
            mp_out_puts(o, ", ");
        put_u64(o, layer->expert_rows[e]);
    }
    mp_out_puts(o, "]\n");
}

/* The r of a stage in which every end i sends its whole flow to (i + r) mod n over one port, else 0. */
static uint32_t rotation_of(const struct mp_order *order, const struct mp_stage *stage, uint32_t n) {
    if (stage->n != n || n < 2)
        return 0;
    uint32_t r = stage->transfers[0].dst;
    for (uint32_t i = 0; i < n; i++) {
        const struct mp_transfer *t = &stage->transfers[i];
        if (t->src != i || t->dst != (i + r) % n || t->share != order->unit || t->width != 1)
            return 0;
    }
    return r;
}

void mp_stage_write(const struct mp_order *order, uint32_t stage, uint32_t n, struct mp_out *o) {
    const struct mp_stage *st = &order->stages[stage];
    if (order->has_flush && stage + 1 == order->n_stages) {
        mp_out_puts(o, "*");
        return;
    }
    uint32_t r = rotation_of(order, st, n);
    if (r > 0) {
        mp_out_puts(o, "+");
        put_u64(o, r);
        return;
    }
    for (uint32_t i = 0; i < st->n; i++) {
        if (i > 0)
            mp_out_puts(o, " ");
        put_u64(o, st->transfers[i].src);
        mp_out_puts(o, ">");
        put_u64(o, st->transfers[i].dst);
        if (st->transfers[i].share != order->unit) {
            mp_out_puts(o, "*");
            put_u64(o, st->transfers[i].share);
        }
        if (st->transfers[i].width != 1) {
            mp_out_puts(o, "x");
            put_u64(o, st->transfers[i].width);
        }
    }
}

static void write_order(struct mp_out *o, const struct mp_plan *p, const struct mp_order *order) {
    plan_put_string(o, "  - name: ", order->name != NULL ? order->name : "");
    mp_out_puts(o, order->between_nodes ? "    between: nodes\n" : "    between: gpus\n");
    put_key_u64(o, "    unit: ", order->unit);
    put_key_u64(o, "    ports: ", order->ports);
    put_key_u64(o, "    port_bytes_per_s: ", order->port_bytes_per_s);
    mp_out_puts(o, order->n_stages == 0 ? "    stages: []\n" : "    stages:\n");
    for (uint32_t s = 0; s < order->n_stages; s++) {
        mp_out_puts(o, "      - \"");
        mp_stage_write(order, s, order->between_nodes ? p->n_nodes : p->n_gpus, o);
        mp_out_puts(o, "\"\n");
    }
}

static void write_outlook(struct mp_out *o, const struct mp_plan *p) {
    mp_out_puts(o, "prediction:\n");
    put_key_u64(o, "  planning_steps: ", p->n_planning_steps);
    put_key_u64(o, "  step_ns: ", p->predicted_step_ns);
    if (p->is_pipelined)
        put_key_u64(o, "  pipelined_step_ns: ", p->predicted_pipelined_ns);
    mp_out_puts(o, p->n_samples == 0 ? "samples: []\n" : "samples:\n");
    for (uint32_t i = 0; i < p->n_samples; i++) {
        const struct mp_plan_sample *s = &p->samples[i];
        put_key_u64(o, "  - step: ", s->step);
        put_key_u64(o, "    step_ns: ", s->step_ns);
        put_key_u64(o, "    dispatch_ns: ", s->dispatch_ns);
        put_key_u64(o, "    compute_ns: ", s->compute_ns);
        put_key_u64(o, "    combine_ns: ", s->combine_ns);
        if (p->is_pipelined)
            put_key_u64(o, "    pipelined_step_ns: ", s->pipelined_step_ns);
    }
}

static void write_certificates(struct mp_out *o, const struct mp_plan *p) {
    mp_out_puts(o, p->n_certificates == 0 ? "certificates: []\n" : "certificates:\n");
    for (uint32_t i = 0; i < p->n_certificates; i++) {
        const struct mp_certificate *c = &p->certificates[i];
        put_word(o, "  - kind: ", plan_certificate_names, 3, (unsigned)c->kind);
        put_word(o, "    proof: ", plan_proof_names, 3, (unsigned)c->proof);
        plan_put_string(o, "    scope: ", c->scope != NULL ? c->scope : "");
        put_key_u64(o, "    value_ns: ", c->value_ns);
        put_key_u64(o, "    bound_ns: ", c->bound_ns);
        put_key_u64(o, "    nodes: ", c->nodes);
    }
}

static void write_body(struct mp_out *o, const struct mp_plan *p) {
    mp_out_puts(o, PLAN_FIRST_LINES);
    write_provenance(o, &p->provenance);
    mp_out_puts(o, "shape:\n");
    put_key_u64(o, "  layers: ", p->n_layers);
    put_key_u64(o, "  experts: ", p->n_experts);
    put_key_u64(o, "  gpus: ", p->n_gpus);
    put_key_u64(o, "  nodes: ", p->n_nodes);
    put_key_u64(o, "  slots: ", p->n_slots);
    mp_out_puts(o, "  gpu_slots: [");
    for (uint32_t g = 0; g < p->n_gpus; g++) {
        if (g > 0)
            mp_out_puts(o, ", ");
        put_u64(o, p->gpu_first_slot[g + 1] - p->gpu_first_slot[g]);
    }
    mp_out_puts(o, "]\n");
    put_u32_list(o, "  gpu_nodes: ", p->gpu_node, p->n_gpus);
    mp_out_puts(o, "rules:\n");
    mp_out_printf(o, "  route: %s\n", mp_route_rule_name(p->route));
    if (p->route == MP_ROUTE_SOURCED)
        mp_out_printf(o, "  route_sources: %s\n", mp_route_by_name(p->route_by));
    mp_out_printf(o, "  stages: %s\n", mp_stage_mode_name(p->stage_mode));
    if (p->is_pipelined)
        mp_out_puts(o, "  timeline: pipelined\n");
    put_bool(o, "  pacing: ", p->is_paced);
    put_key_u64(o, "  fallback_ppm: ", p->fallback_ppm);
    put_bool(o, "  allow_same_gpu_replicas: ", p->allow_same_gpu_replicas);
    mp_out_puts(o, "layers:\n");
    for (uint32_t l = 0; l < p->n_layers; l++)
        write_layer(o, p, &p->layers[l]);
    mp_out_puts(o, p->n_orders == 0 ? "orders: []\n" : "orders:\n");
    for (uint32_t i = 0; i < p->n_orders; i++)
        write_order(o, p, &p->orders[i]);
    mp_out_puts(o, p->n_colocations == 0 ? "colocation: []\n" : "colocation:\n");
    for (uint32_t i = 0; i < p->n_colocations; i++) {
        const struct mp_colocation *c = &p->colocations[i];
        mp_out_printf(o, "  - {layer: %u, expert_a: %u, expert_b: %u, gpu: %u}\n", c->layer, c->expert_a, c->expert_b,
                      c->gpu);
    }
    if (p->together.is_present) {
        mp_out_puts(o, "together:\n");
        mp_out_printf(o, "  role: %s\n", plan_role_names[p->together.is_second]);
        plan_put_string(o, "  other_trace_sha256: ", p->together.other_trace_sha256);
        plan_put_string(o, "  other_model_sha256: ", p->together.other_model_sha256);
        put_key_u64(o, "  timeline_ns: ", p->together.timeline_ns);
        put_key_u64(o, "  closed_form_ns: ", p->together.closed_form_ns);
    }
    if (p->training.is_present)
        plan_write_training(o, p);
    if (p->homes.is_present)
        plan_write_homes(o, p);
    if (p->condense.is_present)
        plan_write_condense(o, p);
    if (p->provenance.has_workload)
        write_outlook(o, p);
    if (p->provenance.has_workload || p->provenance.matrix.is_present)
        write_certificates(o, p);
}

void mp_plan_write(const struct mp_plan *p, struct mp_out *o) {
    struct mp_error err = {0};
    struct mp_out *body;
    enum mp_status status = mp_out_open_memory(&body, &err);
    if (status != MP_OK) {
        mp_out_fail(o, status, err.message);
        return;
    }
    write_body(body, p);
    size_t n;
    const uint8_t *bytes = mp_out_memory_bytes(body, &n);
    char hex[65] = "";
    if (bytes != NULL) {
        mp_sha256_hex(bytes, n, hex);
        mp_out_write(o, bytes, n);
        mp_out_printf(o, PLAN_CHECKSUM_KEY "%s\"\n", hex);
    }
    status = mp_out_commit(body, &err);
    if (status != MP_OK)
        mp_out_fail(o, status, err.message);
}
