/* What a plan must be whatever it was planned on: shape, layers, slots, replicas, weights, pairs, training sections;
 * and that it is about the given trace, topology and model. */
#include "internal.h"
#include <string.h>

/* Counts and tables: false when the rest may not index by them. */
static bool check_shape(struct verifier *v) {
    const struct mp_plan *p = v->plan;
    if (!vf_expect(
            v, p->n_layers >= 1 && p->n_layers <= MP_MAX_LAYERS && p->n_experts >= 1 && p->n_experts <= MP_MAX_EXPERTS,
            MP_V_SHAPE, "%u layers of %u experts are not in [1, %u] and [1, %u]", p->n_layers, p->n_experts,
            MP_MAX_LAYERS, MP_MAX_EXPERTS) ||
        !vf_expect(v, p->n_gpus >= 1 && p->n_gpus <= MP_MAX_GPUS && p->n_nodes >= 1 && p->n_nodes <= p->n_gpus,
                   MP_V_SHAPE, "%u GPUs on %u nodes are not in [1, %u] and [1, GPUs]", p->n_gpus, p->n_nodes,
                   MP_MAX_GPUS))
        return false;
    bool is_good =
        vf_expect(v, (unsigned)p->route < MP_N_ROUTE_RULES && (unsigned)p->stage_mode <= MP_STAGE_COUPLED, MP_V_SHAPE,
                  "route rule %u or stage mode %u is not known", (unsigned)p->route, (unsigned)p->stage_mode);
    is_good &= vf_expect(v, (unsigned)p->route_by < MP_N_ROUTE_BY, MP_V_SHAPE, "classes of sources %u are not known",
                         (unsigned)p->route_by);
    uint32_t expected = 0;
    for (uint32_t g = 0; g < p->n_gpus; g++) {
        is_good &= vf_expect(v, p->gpu_node[g] < p->n_nodes, MP_V_SHAPE, "GPU %u is on node %u of %u", g,
                             p->gpu_node[g], p->n_nodes);
        is_good &= vf_expect(v, p->gpu_first_slot[g] == expected && p->gpu_first_slot[g + 1] >= expected, MP_V_SLOTS,
                             "GPU %u: its slots are [%u, %u), and the GPU before ends at %u", g, p->gpu_first_slot[g],
                             p->gpu_first_slot[g + 1], expected);
        if (!is_good)
            return false;
        expected = p->gpu_first_slot[g + 1];
    }
    if (!vf_expect(v, expected == p->n_slots && p->n_slots > 0, MP_V_SLOTS,
                   "the GPUs have %u slots in all, and the plan says %u", expected, p->n_slots))
        return false;
    for (uint32_t g = 0; g < p->n_gpus; g++)
        for (uint32_t s = p->gpu_first_slot[g]; s < p->gpu_first_slot[g + 1]; s++)
            is_good &= vf_expect(v, p->slot_gpu[s] == g, MP_V_SLOTS,
                                 "slot %u is listed under GPU %u and belongs to GPU %u", s, p->slot_gpu[s], g);
    return is_good;
}

struct seen { /* one expert in the layer at hand */
    uint32_t n_slots, last_gpu, last_slot;
    uint64_t weight;
};

/* Under sourced, each replicated expert and class of sources: weights, not all 0; and none in other slots. */
static void check_weights_by_source(struct verifier *v, uint32_t l, const struct seen *seen) {
    const struct mp_plan *p = v->plan;
    const struct mp_plan_layer *layer = &p->layers[l];
    for (uint32_t c = 0; c < vf_classes(p); c++) {
        const uint32_t *weight = layer->slot_weight_by_source + (size_t)c * p->n_slots;
        for (uint32_t s = 0; s < p->n_slots; s++) { /* an expert is looked at in its last slot */
            uint16_t e = layer->slot_expert[s];
            bool is_replica = e < p->n_experts && seen[e].n_slots > 1;
            if (!is_replica)
                vf_expect(v, weight[s] == 0, MP_V_ROUTE_WEIGHTS,
                          "layer %u slot %u, class of sources %u: weight %u, and no other slot has this expert",
                          layer->layer_id, s, c, weight[s]);
            if (!is_replica || seen[e].last_slot != s)
                continue;
            uint64_t sum = 0;
            for (uint32_t k = 0; k <= s; k++)
                sum += layer->slot_expert[k] == e ? weight[k] : 0;
            vf_expect(v, sum > 0, MP_V_ROUTE_WEIGHTS,
                      "layer %u: the weights of expert %u's %u slots for class %u of sources are all 0",
                      layer->layer_id, e, seen[e].n_slots, c);
        }
    }
}

static bool check_layer(struct verifier *v, uint32_t l, struct seen *seen) {
    const struct mp_plan *p = v->plan;
    const struct mp_plan_layer *layer = &p->layers[l];
    bool needs_weights = p->route == MP_ROUTE_WEIGHTED || p->route == MP_ROUTE_TIERED, is_good = true;
    memset(seen, 0, p->n_experts * sizeof *seen);
    is_good &= vf_expect(v, needs_weights == (layer->slot_weight != NULL), MP_V_ROUTE_WEIGHTS,
                         "layer %u: route rule %s %s", layer->layer_id, mp_route_rule_name(p->route),
                         needs_weights ? "needs weights, and there are none" : "has no use for weights");
    bool is_sourced = p->route == MP_ROUTE_SOURCED;
    is_good &=
        vf_expect(v, is_sourced == (layer->slot_weight_by_source != NULL), MP_V_ROUTE_WEIGHTS,
                  "layer %u: route rule %s %s", layer->layer_id, mp_route_rule_name(p->route),
                  is_sourced ? "needs weights by source, and there are none" : "has no use for weights by source");
    for (uint32_t s = 0; s < p->n_slots; s++) {
        uint16_t e = layer->slot_expert[s];
        if (e == MP_NO_EXPERT)
            continue;
        uint32_t gpu = p->slot_gpu[s];
        if (!vf_expect(v, e < p->n_experts, MP_V_EXPERT_RANGE, "layer %u slot %u (GPU %u): expert %u, and there are %u",
                       layer->layer_id, s, gpu, e, p->n_experts)) {
            is_good = false;
            continue;
        }
        if (!p->allow_same_gpu_replicas && seen[e].n_slots > 0)
            vf_expect(v, seen[e].last_gpu != gpu, MP_V_REPLICA_SAME_GPU,
                      "layer %u: expert %u is in slot %u and slot %u of GPU %u", layer->layer_id, e, seen[e].last_slot,
                      s, gpu);
        seen[e].n_slots++;
        seen[e].last_gpu = gpu;
        seen[e].last_slot = s;
        seen[e].weight += layer->slot_weight != NULL ? layer->slot_weight[s] : 0;
    }
    for (uint32_t e = 0; e < p->n_experts; e++) {
        vf_expect(v, seen[e].n_slots > 0, MP_V_EXPERT_MISSING, "layer %u: expert %u has 0 slots of %u", layer->layer_id,
                  e, p->n_slots);
        if (seen[e].n_slots > 0 && layer->slot_weight != NULL)
            vf_expect(v, seen[e].weight > 0, MP_V_ROUTE_WEIGHTS,
                      "layer %u: the weights of expert %u's %u slots are all 0 (slot %u is the last)", layer->layer_id,
                      e, seen[e].n_slots, seen[e].last_slot);
    }
    if (is_sourced && layer->slot_weight_by_source != NULL)
        check_weights_by_source(v, l, seen);
    is_good &= vf_expect(v, layer->order == MP_NONE || layer->order < p->n_orders, MP_V_SHAPE,
                         "layer %u: order %u, and there are %u", layer->layer_id, layer->order, p->n_orders);
    vf_expect(v, layer->combine == MP_COMBINE_FORWARD || layer->order != MP_NONE, MP_V_SHAPE,
              "layer %u: the combine is not forward, and there is no order to run", layer->layer_id);
    if (l > 0)
        vf_expect(v, layer->layer_id > p->layers[l - 1].layer_id, MP_V_LAYER_ID,
                  "layer %u follows layer %u (ids must rise)", layer->layer_id, p->layers[l - 1].layer_id);
    return is_good;
}

static void check_colocation(struct verifier *v, uint32_t i) {
    const struct mp_plan *p = v->plan;
    const struct mp_colocation *c = &p->colocations[i];
    if (!vf_expect(v,
                   c->layer < p->n_layers && c->expert_a < p->n_experts && c->expert_b < MP_MAX_EXPERTS &&
                       c->gpu < p->n_gpus,
                   MP_V_COLOCATION,
                   "entry %u: layer %u, experts %u and %u, GPU %u, and there are %u layers, %u experts, %u GPUs", i,
                   c->layer, c->expert_a, c->expert_b, c->gpu, p->n_layers, p->n_experts, p->n_gpus))
        return;
    bool is_there = false;
    for (uint32_t s = p->gpu_first_slot[c->gpu]; s < p->gpu_first_slot[c->gpu + 1]; s++)
        is_there |= p->layers[c->layer].slot_expert[s] == c->expert_a;
    vf_expect(v, is_there, MP_V_COLOCATION, "entry %u: expert %u has no slot on GPU %u in layer %u", i, c->expert_a,
              c->gpu, p->layers[c->layer].layer_id);
}

/* Length of a name, a number; 0 = none is there. */
static size_t name_length(const char *s) { return strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789_-"); }
static size_t number_length(const char *s) {
    size_t sign = s[0] == '-', digits = strspn(s + sign, "0123456789");
    return digits == 0 || (s[sign] == '0' && digits + sign > 1) ? 0 : sign + digits;
}
static int compare_names(const char *a, size_t n, const char *b, size_t m) {
    int c = memcmp(a, b, n < m ? n : m);
    return c != 0 ? c : n < m ? -1 : n > m;
}
/* "strategy.option=number,...", names rising, or "". */
static bool are_options(const char *s) {
    const char *before = NULL;
    size_t n_before = 0;
    while (*s != '\0') {
        size_t strategy = name_length(s), option = s[strategy] == '.' ? name_length(s + strategy + 1) : 0,
               n = strategy + 1 + option;
        if (strategy == 0 || option == 0 || s[n] != '=' ||
            (before != NULL && compare_names(before, n_before, s, n) >= 0))
            return false;
        before = s;
        n_before = n;
        size_t digits = number_length(s + n + 1);
        s += n + 1 + digits;
        if (digits == 0 || (*s != '\0' && (*s != ',' || s[1] == '\0')))
            return false;
        s += *s == ',';
    }
    return true;
}

/* What a plan says about how it was made must not contradict itself. */
static void check_names(struct verifier *v) {
    const struct mp_provenance *o = &v->plan->provenance;
    const struct {
        const char *key, *value;
    } names[] = {{"strategy", o->strategy},
                 {"replicate", o->replicate},
                 {"place", o->place},
                 {"route", o->route},
                 {"order", o->order}};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        vf_expect(v, names[i].value[0] != '\0', MP_V_PROVENANCE, "%s is not named", names[i].key);
    bool is_rule = false; /* strategies that choose among rules have names of their own */
    for (int r = 0; r < MP_N_ROUTE_RULES; r++)
        is_rule |= strcmp(o->route, mp_route_rule_name((enum mp_route_rule)r)) == 0;
    vf_expect(v, !is_rule || strcmp(o->route, mp_route_rule_name(v->plan->route)) == 0, MP_V_PROVENANCE,
              "planned with route \"%.40s\", and the rule is %s", o->route, mp_route_rule_name(v->plan->route));
}

static void check_provenance(struct verifier *v) {
    const struct mp_provenance *o = &v->plan->provenance;
    check_names(v);
    vf_expect(v, strcmp(o->selected_on, "planning data") == 0 || strcmp(o->selected_on, "validation part") == 0,
              MP_V_PROVENANCE, "selected_on is \"%.40s\", neither \"planning data\" nor \"validation part\"",
              o->selected_on);
    bool is_listed = o->split.kind == MP_SPLIT_CATEGORY;
    bool is_share = o->split.kind == MP_SPLIT_HASH || o->split.kind == MP_SPLIT_TIME;
    vf_expect(v, is_listed == (o->split.categories[0] != '\0'), MP_V_PROVENANCE,
              "split: categories are \"%.40s\", and this kind of split %s", o->split.categories,
              is_listed ? "needs some" : "has none");
    vf_expect(v, is_share ? o->split.planning_ppm > 0 && o->split.planning_ppm < 1000000 : o->split.planning_ppm == 0,
              MP_V_PROVENANCE, "split: planning_ppm is %u, and this kind of split %s", o->split.planning_ppm,
              is_share ? "needs a share between 0 and 1000000" : "has no share");
}

/* What the plan claims, as far as it can be wrong by itself. */
static bool has_certificate(const struct mp_plan *p, enum mp_certificate_kind kind, const char *scope) {
    for (uint32_t i = 0; i < p->n_certificates; i++) {
        const struct mp_certificate *c = &p->certificates[i];
        if (c->kind == kind && c->proof == MP_PROOF_CLOSED_FORM && strcmp(c->scope, scope) == 0)
            return true;
    }
    return false;
}

/* A plan with its samples or certificates cut off claims less than every plan must. */
static void check_presence(struct verifier *v) {
    static const struct {
        enum mp_certificate_kind kind;
        const char *name, *scope;
    } needed[] = {{MP_CERT_ORDER, "order", VF_SCOPE_DISPATCH},
                  {MP_CERT_ORDER, "order", VF_SCOPE_COMBINE},
                  {MP_CERT_PLACEMENT, "placement", VF_SCOPE_PLACEMENT},
                  {MP_CERT_RESIDUAL, "residual", VF_SCOPE_RESIDUAL}};
    if (v->plan->n_gpus < 2)
        return;
    vf_expect(v, v->plan->n_samples > 0, MP_V_SAMPLE, "the plan was planned and has no sample");
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
        vf_expect(v, has_certificate(v->plan, needed[i].kind, needed[i].scope), MP_V_CERTIFICATE,
                  "the plan was planned and has no %s certificate in closed form of scope \"%s\"", needed[i].name,
                  needed[i].scope);
}

static void check_certificates(struct verifier *v) {
    const struct mp_plan *p = v->plan;
    for (uint32_t i = 0; i < p->n_certificates; i++) {
        const struct mp_certificate *c = &p->certificates[i];
        if (!vf_expect(v, (unsigned)c->kind <= MP_CERT_RESIDUAL && (unsigned)c->proof <= MP_PROOF_STOPPED,
                       MP_V_CERTIFICATE, "certificate %u: kind %u or proof %u is not known", i, (unsigned)c->kind,
                       (unsigned)c->proof))
            continue;
        vf_expect(v, c->bound_ns <= c->value_ns, MP_V_CERTIFICATE,
                  "certificate %u: the bound, %llu ns, is above the value, %llu ns", i, ULL(c->bound_ns),
                  ULL(c->value_ns));
        vf_expect(v, c->proof != MP_PROOF_CLOSED_FORM || c->nodes == 0, MP_V_CERTIFICATE,
                  "certificate %u: a closed form that took %llu search nodes", i, ULL(c->nodes));
    }
}

/* A plan of one matrix: which one it is, and the one kind of certificate that can be derived from it. */
static void check_matrix_claims(struct verifier *v) {
    const struct mp_plan *p = v->plan;
    const struct mp_matrix_source *m = &p->provenance.matrix;
    check_names(v);
    vf_expect(v, !p->provenance.has_workload, MP_V_PROVENANCE, "made for a matrix, and yet planned on a workload");
    vf_expect(v, m->format[0] != '\0' && name_length(m->format) == strlen(m->format), MP_V_PROVENANCE,
              "matrix: format \"%.40s\" is no format's name", m->format);
    vf_expect(v, strlen(m->sha256) == 64 && strspn(m->sha256, "0123456789abcdef") == 64, MP_V_PROVENANCE,
              "matrix: sha256 \"%.70s\" is not 64 hex digits in lower case", m->sha256);
    vf_expect(v, m->token_bytes <= MP_MAX_TOKEN_BYTES, MP_V_PROVENANCE, "matrix: tokens of %llu bytes",
              ULL(m->token_bytes));
    vf_expect(v, p->n_layers == 1 && p->n_gpus > 1, MP_V_SHAPE,
              "the plan of one matrix has %u layers on %u GPUs (1, and 2 or more)", p->n_layers, p->n_gpus);
    check_certificates(v);
    for (uint32_t i = 0; i < p->n_certificates; i++) {
        const struct mp_certificate *c = &p->certificates[i];
        vf_expect(
            v, c->kind == MP_CERT_ORDER && c->proof == MP_PROOF_CLOSED_FORM && strcmp(c->scope, VF_SCOPE_MATRIX) == 0,
            MP_V_CERTIFICATE, "certificate %u: not of an order, in closed form, of the scope \"%s\", but of \"%.80s\"",
            i, VF_SCOPE_MATRIX, c->scope);
    }
    vf_expect(v, p->n_certificates > 0, MP_V_CERTIFICATE,
              "the plan was made for a matrix and has no order certificate in closed form of scope \"%s\"",
              VF_SCOPE_MATRIX);
}

static void check_claims(struct verifier *v) {
    const struct mp_plan *p = v->plan;
    const struct mp_provenance *o = &p->provenance;
    bool is_by_clock = strcmp(o->stopped_by, "wall_clock") == 0;
    vf_expect(v, are_options(o->options), MP_V_PROVENANCE,
              "options: \"%.200s\" is not strategy.option=number by rising names", o->options);
    vf_expect(v, o->is_reproducible != is_by_clock, MP_V_PROVENANCE, "stopped_by is %.20s, and yet reproducible is %s",
              o->stopped_by, o->is_reproducible ? "true" : "false");
    if (o->matrix.is_present)
        check_matrix_claims(v);
    if (!o->has_workload)
        return;
    check_provenance(v);
    vf_expect(v, o->batching.n_ranks == p->n_gpus, MP_V_PROVENANCE, "steps of %u ranks on %u GPUs", o->batching.n_ranks,
              p->n_gpus);
    for (uint32_t i = 0; i < p->n_samples; i++) {
        const struct mp_plan_sample *s = &p->samples[i];
        vf_expect(v, s->step < p->n_planning_steps, MP_V_SAMPLE, "sample %u: step %u, and there are %llu", i, s->step,
                  ULL(p->n_planning_steps));
        vf_expect(v, i == 0 || s->step > p->samples[i - 1].step, MP_V_SAMPLE,
                  "sample %u: step %u does not come after step %u", i, s->step, i > 0 ? p->samples[i - 1].step : 0);
        unsigned __int128 parts = (unsigned __int128)s->dispatch_ns + s->compute_ns + s->combine_ns;
        vf_expect(v, parts <= s->step_ns, MP_V_SAMPLE,
                  "step %u: dispatch %llu, compute %llu and combine %llu ns are more than the step's %llu", s->step,
                  ULL(s->dispatch_ns), ULL(s->compute_ns), ULL(s->combine_ns), ULL(s->step_ns));
    }
    check_certificates(v);
    check_presence(v);
}

static void check_against_trace(struct verifier *v) {
    const struct mp_plan *p = v->plan;
    const struct mp_trace *t = v->trace;
    vf_expect(v, p->n_experts == t->n_experts, MP_V_SHAPE, "the plan has %u experts and the trace %u", p->n_experts,
              t->n_experts);
    if (vf_expect(v, p->n_layers == t->n_layers, MP_V_LAYER_MISSING, "the plan has %u layers and the trace %u",
                  p->n_layers, t->n_layers))
        for (uint32_t l = 0; l < p->n_layers; l++)
            vf_expect(v, p->layers[l].layer_id == t->layer_ids[l], MP_V_LAYER_ID,
                      "entry %u is layer %u and the trace's is layer %u", l, p->layers[l].layer_id, t->layer_ids[l]);
    if (!p->provenance.has_workload)
        return;
    vf_expect(v, strcmp(p->provenance.trace_sha256, t->sha256) == 0, MP_V_PROVENANCE,
              "planned on the trace with SHA-256 %.16s..., and this one has %.16s...", p->provenance.trace_sha256,
              t->sha256);
    vf_expect(v, p->provenance.is_synthetic == t->is_synthetic, MP_V_PROVENANCE,
              "the plan says synthetic: %d and the trace %d", p->provenance.is_synthetic, t->is_synthetic);
}

static void check_against_matrix(struct verifier *v) {
    const struct mp_plan *p = v->plan;
    const struct mp_matrix_source *named = &p->provenance.matrix;
    if (!vf_expect(v, named->is_present, MP_V_PROVENANCE, "the plan names no matrix, and one is given"))
        return;
    vf_expect(v, p->n_gpus == v->matrix->n, MP_V_SHAPE, "the plan has %u GPUs and the matrix is for %u", p->n_gpus,
              v->matrix->n);
    vf_expect(v, strcmp(named->sha256, v->matrix->sha256) == 0, MP_V_PROVENANCE,
              "made for the matrix with SHA-256 %.16s..., and this one has %.16s...", named->sha256, v->matrix->sha256);
    vf_expect(v, strcmp(named->format, v->matrix->format) == 0, MP_V_PROVENANCE,
              "made for a matrix of format \"%.40s\", and this one is %s", named->format, v->matrix->format);
}

static void check_against_topology(struct verifier *v) {
    const struct mp_plan *p = v->plan;
    const struct mp_topology *t = v->topology;
    if (vf_expect(v, p->n_gpus == t->n_gpus, MP_V_SHAPE, "the plan has %u GPUs and the topology %u", p->n_gpus,
                  t->n_gpus)) {
        vf_expect(v, p->n_nodes == mp_topology_n_nodes(t), MP_V_SHAPE, "the plan has %u nodes and the topology %u",
                  p->n_nodes, mp_topology_n_nodes(t));
        for (uint32_t g = 0; g < p->n_gpus; g++)
            vf_expect(v, p->gpu_node[g] == mp_topology_node(t, g), MP_V_SHAPE,
                      "GPU %u is on node %u in the plan and %u in the topology", g, p->gpu_node[g],
                      mp_topology_node(t, g));
    }
    if (p->provenance.has_workload || p->provenance.matrix.is_present) {
        vf_expect(v, strcmp(p->provenance.topology_sha256, t->sha256) == 0, MP_V_PROVENANCE,
                  "planned for the topology with SHA-256 %.16s..., and this one has %.16s...",
                  p->provenance.topology_sha256, t->sha256);
        vf_expect(v, strcmp(p->provenance.topology, t->name != NULL ? t->name : "") == 0, MP_V_PROVENANCE,
                  "planned for topology \"%.60s\", and this one is \"%.60s\"", p->provenance.topology,
                  t->name != NULL ? t->name : "");
    }
}

static void check_against_model(struct verifier *v) {
    const struct mp_plan *p = v->plan;
    const struct mp_model *m = v->model;
    vf_expect(v, p->n_experts == m->n_experts, MP_V_SHAPE, "the plan has %u experts and the model %u", p->n_experts,
              m->n_experts);
    if (p->provenance.has_workload) {
        vf_expect(v, strcmp(p->provenance.model_sha256, m->sha256) == 0, MP_V_PROVENANCE,
                  "planned for the model with SHA-256 %.16s..., and this one has %.16s...", p->provenance.model_sha256,
                  m->sha256);
        vf_expect(v, strcmp(p->provenance.model, m->name != NULL ? m->name : "") == 0, MP_V_PROVENANCE,
                  "planned for model \"%.60s\", and this one is \"%.60s\"", p->provenance.model,
                  m->name != NULL ? m->name : "");
    }
}

/* Weights of all MoE layers of the model; those that are not recorded are taken to have as many slots. */
static void check_capacity(struct verifier *v) {
    const struct mp_plan *p = v->plan;
    const struct mp_model *m = v->model;
    uint32_t n_layers = m->n_layers > p->n_layers ? m->n_layers : p->n_layers;
    for (uint32_t g = 0; g < p->n_gpus && p->n_gpus == v->topology->n_gpus; g++) {
        uint32_t n_slots = p->gpu_first_slot[g + 1] - p->gpu_first_slot[g];
        unsigned __int128 need = (unsigned __int128)m->expert_bytes * n_slots * n_layers +
                                 (unsigned __int128)m->shared_bytes * n_layers + m->dense_bytes;
        uint64_t has = v->topology->types[v->topology->gpus[g].type].memory_bytes;
        vf_expect(v, need <= has, MP_V_CAPACITY,
                  "GPU %u: %u slots in %u layers of %llu bytes each are %llu bytes with the other weights, and it has "
                  "%llu",
                  g, n_slots, n_layers, ULL(m->expert_bytes), need > UINT64_MAX ? ULL(UINT64_MAX) : ULL(need),
                  ULL(has));
    }
}

enum mp_status vf_check_structure(struct verifier *v, bool *is_indexable, struct mp_error *err) {
    const struct mp_plan *p = v->plan;
    *is_indexable = check_shape(v);
    if (!*is_indexable)
        return MP_OK;
    struct seen *seen = mp_calloc(p->n_experts, sizeof *seen);
    if (seen == NULL)
        return mp_nomem(err, "verifying a plan");
    for (uint32_t l = 0; l < p->n_layers; l++)
        *is_indexable &= check_layer(v, l, seen);
    mp_free(seen);
    for (uint32_t i = 0; i < p->n_colocations; i++)
        check_colocation(v, i);
    enum mp_status status = *is_indexable ? vf_check_training(v, err) : MP_OK;
    check_claims(v);
    if (v->trace != NULL)
        check_against_trace(v);
    if (v->matrix != NULL)
        check_against_matrix(v);
    if (v->topology != NULL)
        check_against_topology(v);
    if (v->model != NULL)
        check_against_model(v);
    if (v->topology != NULL && v->model != NULL)
        check_capacity(v);
    return status;
}
