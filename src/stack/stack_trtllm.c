/* TensorRT-LLM: the file that moe_config.load_balancer names. Keys are absolute layer indices; consecutive num_slots /
 * ep_size slots are a rank. The served model is strict: an unknown key (such as the ep_size that helper scripts keep
 * there) is refused by it and by us. */
#include "stack_shared.h"

#include <moeplan/base.h>
#include <moeplan/yaml.h>

static int probe(const char *path, const struct mp_in *in) {
    (void)path;
    return mp_stack_head_has(in, '\0', "initial_global_assignments") && !mp_stack_head_has(in, '{', "\"") ? 80 : 0;
}

static bool is_model_layer(const struct mp_model *m, uint64_t id) {
    for (uint32_t l = 0; m != NULL && l < m->n_layers; l++)
        if (m->layer_ids[l] == id)
            return true;
    return m == NULL;
}

/* One layer's list into row l of p. */
static enum mp_status read_row(struct mp_placement *p, uint32_t l, const struct mp_yaml_doc *doc,
                               const struct mp_yaml *list, struct mp_error *err) {
    enum mp_status status = mp_yaml_expect(doc, list, MP_YAML_SEQUENCE, err);
    if (status != MP_OK)
        return status;
    p->lines[l] = list->line;
    p->columns[l] = list->column;
    if (list->n != p->n_slots)
        return mp_yaml_fail(doc, list, err, "has %u slots, num_slots says %u (write every slot's expert)", list->n,
                            p->n_slots);
    for (uint32_t s = 0; s < list->n; s++) {
        uint32_t expert;
        status = mp_yaml_u32(doc, &list->items[s], 0, MP_MAX_EXPERTS - 1, &expert, err);
        if (status != MP_OK)
            return status;
        p->slot_expert[(size_t)l * p->n_slots + s] = (uint16_t)expert;
    }
    return MP_OK;
}

static enum mp_status read(struct mp_plan **out, const struct mp_in *in, const struct mp_stack_options *o,
                           const struct mp_limits *limits, struct mp_error *err) {
    static const char *const keys[] = {"initial_global_assignments", "layer_updates_per_iter", "num_slots", NULL};
    struct mp_yaml_doc *doc = NULL;
    struct mp_placement p = {0};
    const struct mp_yaml *layers, *node;
    uint32_t n_slots = 0, updates;
    enum mp_status status;
    *out = NULL;
    MP_TRY(mp_yaml_parse(&doc, in, limits, err));
    MP_TRY(mp_yaml_keys(doc, doc->root, keys, err));
    MP_TRY(mp_yaml_need(doc, doc->root, "num_slots", &node, err));
    MP_TRY(mp_yaml_u32(doc, node, 1, STACK_MAX_SLOTS, &n_slots, err));
    node = mp_yaml_get(doc->root, "layer_updates_per_iter");
    if (node != NULL)
        MP_TRY(mp_yaml_u32(doc, node, 0, UINT32_MAX - 1, &updates, err));
    MP_TRY(mp_yaml_need(doc, doc->root, "initial_global_assignments", &layers, err));
    MP_TRY(mp_yaml_expect(doc, layers, MP_YAML_MAPPING, err));
    if (layers->n == 0) {
        status = mp_yaml_fail(doc, layers, err, "holds no layer (write one list of slots per MoE layer)");
        goto out;
    }
    MP_TRY(mp_placement_new(&p, in->path, layers->n, n_slots, err));
    /* Keys may come in any order; the plan wants them ascending. */
    uint32_t n = 0;
    int64_t last = -1;
    for (;;) {
        const struct mp_yaml *next = NULL;
        uint64_t next_id = UINT64_MAX, id;
        for (uint32_t i = 0; i < layers->n; i++) {
            const char *key = layers->items[i].key;
            if (!mp_parse_u64(key, strlen(key), &id) || id >= MP_MAX_LAYERS) {
                status = mp_yaml_fail(doc, &layers->items[i], err,
                                      "is not a layer index (write a whole number below %u)", MP_MAX_LAYERS);
                goto out;
            }
            if ((int64_t)id > last && id < next_id) {
                next_id = id;
                next = &layers->items[i];
            }
        }
        if (next == NULL)
            break;
        last = (int64_t)next_id;
        if (o->model != NULL && next_id >= o->model->n_hidden_layers)
            continue; /* MTP layers: not part of a plan */
        if (!is_model_layer(o->model, next_id) && o->model->is_stand_in)
            continue; /* not recorded */
        if (!is_model_layer(o->model, next_id)) {
            status = mp_yaml_fail(doc, next, err, "is not a MoE layer of %s (leave it out)", o->model->name);
            goto out;
        }
        p.layer_ids[n] = (uint32_t)next_id;
        MP_TRY(read_row(&p, n++, doc, next, err));
    }
    if (n == 0) {
        status = mp_yaml_fail(doc, layers, err, "holds no hidden layer of %s", o->model->name);
        goto out;
    }
    p.n_layers = n;
    MP_TRY(mp_placement_plan(out, &p, o, "trtllm", err));
out:
    mp_placement_free(&p);
    mp_yaml_free(doc);
    return status;
}

static enum mp_status check(const struct mp_plan *p, const struct mp_stack_options *o, enum mp_outcome *outcome,
                            struct mp_error *err) {
    static const struct mp_stack_rules rules = {.stack = "trtllm", .has_mtp_rows = true};
    if (o->n_mtp_layers > 0 && o->model == NULL && o->n_hidden_layers == 0) {
        *outcome = MP_NOT_FOUND;
        return mp_fail(err, MP_EUSAGE,
                       "MTP layers come after the last hidden layer (give -m MODEL, or --hidden-layers N)");
    }
    uint32_t n_hidden = mp_stack_hidden_layers(o), last = p->layers[p->n_layers - 1].layer_id;
    enum mp_status status = mp_stack_check_rules(p, o, &rules, outcome, err);
    if (status == MP_OK && *outcome == MP_FOUND && n_hidden != 0 && last >= n_hidden)
        return mp_stack_refuse(
            outcome, err,
            "the plan has layer %u, but the model has hidden layers 0 to %u (give the right -m or --hidden-layers)",
            last, n_hidden - 1);
    return status;
}

static void write(const struct mp_plan *p, const struct mp_stack_options *o, struct mp_out *out) {
    uint32_t n_hidden = mp_stack_hidden_layers(o);
    mp_out_puts(out, "initial_global_assignments:\n");
    for (uint32_t l = 0; l < p->n_layers; l++) {
        mp_out_printf(out, "  %u: [", p->layers[l].layer_id);
        mp_stack_write_list(out, p->layers[l].slot_expert, p->n_slots);
        mp_out_puts(out, "]\n");
    }
    for (uint32_t i = 0; i < o->n_mtp_layers; i++) {
        mp_out_printf(out, "  %u: [", n_hidden + i);
        mp_stack_write_list(out, p->layers[p->n_layers - 1].slot_expert, p->n_slots);
        mp_out_puts(out, "]\n");
    }
    mp_out_printf(out, "layer_updates_per_iter: 0\nnum_slots: %u\n", p->n_slots);
}

extern const struct mp_stack mp_stack_trtllm;
static void flags(const struct mp_plan *p, const struct mp_stack_options *o, const char *path, struct mp_out *out) {
    mp_out_puts(out, "--extra_llm_api_options config.yaml\n");
    mp_out_printf(out, "--ep_size %u\n", p->n_gpus);
    mp_out_puts(out, "# config.yaml holds:\n#   enable_attention_dp: true\n#   moe_config:\n#     load_balancer: ");
    mp_out_puts(out, path);
    mp_out_printf(out,
                  "\n# %u slots, %u of them redundant, %u per rank: num_slots stands in the file, ep_size must not\n",
                  p->n_slots, p->n_slots - p->n_experts, p->n_slots / p->n_gpus);
    mp_out_puts(out, "# warning: the section is ignored without a word unless the architecture supports it, EP is "
                     "above 1 and attention DP is on\n");
    if (mp_stack_has_mtp(o->model) && o->n_mtp_layers == 0)
        mp_out_printf(out,
                      "# warning: %s has MTP layers; serving them needs their rows too, from layer %u on (--mtp-layers "
                      "N adds them)\n",
                      o->model->name, o->model->n_hidden_layers);
    mp_stack_write_route(out, p, &mp_stack_trtllm, "TensorRT-LLM spreads tokens evenly over replicas");
    mp_stack_write_warnings(out, p, "legal for TensorRT-LLM, but memory without use");
}

static const struct mp_stack_choice choices[] = {
    {.name = "round-robin",
     .summary = "replicas in turn within each 1,024 entries of a rank, from the rank's number on (attention DP)",
     .route = MP_ROUTE_EVEN,
     .kind = MP_CHOICE_TURNS},
    {0}};

const struct mp_stack mp_stack_trtllm = {
    .name = "trtllm",
    .summary = "initial_global_assignments by absolute layer (moe_config.load_balancer)",
    .extension = ".yaml",
    .reference = "NVIDIA/TensorRT-LLM examples/wide_ep/ep_load_balancer",
    .needs_equal_slots = true,
    .needs_distinct = false,
    .routes = 1u << MP_ROUTE_EVEN,
    .choices = choices,
    STACK_FUNCTIONS,
};
