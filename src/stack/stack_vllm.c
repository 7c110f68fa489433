/* vLLM, the file of PR #41141 (open when this was written): one JSON record, MoE layer index as a string key.
 * num_redundant_experts must equal the served value. Released versions take no placement file. */
#include "stack_shared.h"

#include <moeplan/base.h>

#define MAP "initial_global_assignments"

static int probe(const char *path, const struct mp_in *in) {
    (void)path;
    return mp_stack_head_has(in, '{', "\"eplb_initial_mapping\"") ? 90 : 0;
}

/* The whole numbers beside the map. */
static enum mp_status read_numbers(const json_t *root, const struct mp_in *in, uint64_t *n_slots, uint64_t *n_redundant,
                                   struct mp_error *err) {
    static const char *const keys[] = {"record_type", "version", "num_redundant_experts", "num_slots", MAP, NULL};
    uint64_t version;
    enum mp_status status = mp_json_keys(root, keys, 5, in, "", err);
    if (status != MP_OK)
        return status;
    const char *type = json_string_value(json_object_get(root, "record_type"));
    if (type == NULL || strcmp(type, "eplb_initial_mapping") != 0)
        return mp_json_bad(in, "record_type", err, "record_type: is not \"eplb_initial_mapping\"");
    status = mp_json_u64(root, "version", in->path, 1, 1, 1, &version, err);
    if (status == MP_OK)
        status = mp_json_u64(root, "num_slots", in->path, 1, 1, STACK_MAX_SLOTS, n_slots, err);
    if (status == MP_OK)
        status = mp_json_u64(root, "num_redundant_experts", in->path, 1, 0, STACK_MAX_SLOTS, n_redundant, err);
    if (status == MP_OK && *n_redundant >= *n_slots)
        return mp_json_bad(in, "num_redundant_experts", err,
                           "num_redundant_experts: %llu of %llu slots leave no slot for an expert",
                           (unsigned long long)*n_redundant, (unsigned long long)*n_slots);
    return status;
}

static enum mp_status read(struct mp_plan **out, const struct mp_in *in, const struct mp_stack_options *o,
                           const struct mp_limits *limits, struct mp_error *err) {
    struct mp_placement p = {0};
    json_t *root = NULL;
    uint64_t n_slots = 0, n_redundant = 0;
    char where[96], steps[96], key[16];
    *out = NULL;
    enum mp_status status;
    MP_TRY(mp_json_parse(&root, in->path, (const char *)in->data, in->size, 1, limits, err));
    MP_TRY(read_numbers(root, in, &n_slots, &n_redundant, err));
    const json_t *map = json_object_get(root, MAP);
    if (!json_is_object(map)) {
        status = mp_json_bad(in, MAP, err, MAP ": is not an object (write {\"0\": [...], \"1\": [...]})");
        goto out;
    }
    MP_TRY(mp_placement_new(&p, in->path, json_object_size(map), n_slots, err));
    p.json = in;
    p.json_rows = MAP;
    MP_TRY(mp_placement_moe_layers(&p, o, err));
    for (uint32_t l = 0; l < p.n_layers; l++) {
        (void)snprintf(key, sizeof key, "%u", l);
        (void)snprintf(where, sizeof where, MAP "[\"%u\"]", l);
        (void)snprintf(steps, sizeof steps, MAP "/%u", l);
        const json_t *list = json_object_get(map, key);
        if (list == NULL) {
            status = mp_json_bad(
                in, MAP, err, MAP ": has %u layers but no key \"%u\" (number the MoE layers 0, 1, ...)", p.n_layers, l);
            goto out;
        }
        if (json_is_array(list) && json_array_size(list) != n_slots) {
            status = mp_json_bad(in, steps, err, "%s: has %zu slots, num_slots says %llu", where, json_array_size(list),
                                 (unsigned long long)n_slots);
            goto out;
        }
        MP_TRY(mp_placement_row(&p, l, list, in, where, steps, err));
    }
    p.n_experts = (uint32_t)(n_slots - n_redundant);
    MP_TRY(mp_placement_plan(out, &p, o, "vllm", err));
out:
    mp_placement_free(&p);
    json_decref(root);
    return status;
}

static enum mp_status check(const struct mp_plan *p, const struct mp_stack_options *o, enum mp_outcome *outcome,
                            struct mp_error *err) {
    static const struct mp_stack_rules rules = {.stack = "vllm"};
    return mp_stack_check_rules(p, o, &rules, outcome, err);
}

static void write(const struct mp_plan *p, const struct mp_stack_options *o, struct mp_out *out) {
    (void)o;
    mp_out_printf(out,
                  "{\"record_type\": \"eplb_initial_mapping\", \"version\": 1, \"num_redundant_experts\": %u, "
                  "\"num_slots\": %u, \"" MAP "\": {",
                  p->n_slots - p->n_experts, p->n_slots);
    for (uint32_t l = 0; l < p->n_layers; l++) {
        mp_out_printf(out, "%s\"%u\": [", l == 0 ? "" : ", ", l);
        mp_stack_write_list(out, p->layers[l].slot_expert, p->n_slots);
        mp_out_puts(out, "]");
    }
    mp_out_puts(out, "}}\n");
}

extern const struct mp_stack mp_stack_vllm;
static void flags(const struct mp_plan *p, const struct mp_stack_options *o, const char *path, struct mp_out *out) {
    char after[160];
    (void)snprintf(after, sizeof after, ", \"num_redundant_experts\": %u, \"disable_online_rebalancing\": true}",
                   p->n_slots - p->n_experts);
    mp_out_puts(out, "--enable-expert-parallel\n--enable-eplb\n--eplb-config ");
    mp_stack_write_json_option(out, "{\"initial_mapping_path\": ", path, after);
    mp_out_printf(out, "\n# %u expert-parallel ranks: --tensor-parallel-size times --data-parallel-size must be %u\n",
                  p->n_gpus, p->n_gpus);
    mp_out_puts(out, "# warning: needs vLLM with PR #41141; the PR's other revision writes \"enable_online\": false in "
                     "place of "
                     "\"disable_online_rebalancing\": true\n");
    if (mp_stack_has_mtp(o->model))
        mp_out_printf(out, "# warning: the MTP layers of %s are not in the file\n", o->model->name);
    mp_stack_write_route(out, p, &mp_stack_vllm, "vLLM spreads tokens evenly over replicas");
    mp_stack_write_warnings(out, p, "two copies on a rank gave wrong answers on vLLM (vllm#18343)");
}

static const struct mp_stack_choice choices[] = {
    {.name = "row-hash",
     .summary = "by a multiplicative hash of the token's row in its rank's batch",
     .route = MP_ROUTE_EVEN,
     .kind = MP_CHOICE_ROW},
    {.name = "position",
     .summary = "by the entry's position in its rank's batch (row times top-k plus place): vLLM of 2025",
     .route = MP_ROUTE_EVEN,
     .kind = MP_CHOICE_POSITION},
    {0}};

const struct mp_stack mp_stack_vllm = {
    .name = "vllm",
    .summary = "eplb_initial_mapping by MoE layer index (--eplb-config, PR #41141)",
    .extension = ".json",
    .reference = "vllm-project/vllm pull request 41141",
    .needs_equal_slots = true,
    .needs_distinct = false,
    .routes = 1u << MP_ROUTE_EVEN,
    .choices = choices,
    STACK_FUNCTIONS,
};
