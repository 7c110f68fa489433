/* vllm-ascend: expert_map_path. Both lists are used by position, so they are sorted and dense; every device holds the
 * same number of experts; and an expert stands at most once on a device, because the reader keeps only the last
 * duplicate's slot. */
#include "stack_shared.h"

#include <moeplan/base.h>

static int probe(const char *path, const struct mp_in *in) {
    (void)path;
    return mp_stack_head_has(in, '{', "\"layer_list\"") || mp_stack_head_has(in, '{', "\"moe_layer_count\"") ? 90 : 0;
}

/* object[key] is the whole number `want`. */
static enum mp_status expect_number(const json_t *object, const char *key, uint64_t want, const struct mp_in *in,
                                    const char *steps, const char *why, struct mp_error *err) {
    const json_t *value = json_object_get(object, key);
    char place[160];
    (void)snprintf(place, sizeof place, "%s%s%s", steps, *steps == '\0' ? "" : "/", key);
    if (value == NULL)
        return mp_json_bad(in, steps, err, "has no \"%s\" (write %llu)", key, (unsigned long long)want);
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return mp_json_bad(in, place, err, "%s: is not a whole number (write %llu)", key, (unsigned long long)want);
    if ((uint64_t)json_integer_value(value) != want)
        return mp_json_bad(in, place, err, "%s: \"%lld\" is not %llu, %s", key, (long long)json_integer_value(value),
                           (unsigned long long)want, why);
    return MP_OK;
}

/* One device's experts, into slots [first, first + per_device) of row l. */
static enum mp_status read_device(struct mp_placement *p, uint32_t l, uint32_t d, uint32_t per_device,
                                  const json_t *device, const struct mp_in *in, struct mp_error *err) {
    char steps[160], where[96];
    (void)snprintf(steps, sizeof steps, "layer_list/%u/device_list/%u", l, d);
    (void)snprintf(where, sizeof where, "layer_list[%u].device_list[%u].device_expert", l, d);
    enum mp_status status =
        expect_number(device, "device_id", d, in, steps, "its position in device_list (sort it)", err);
    if (status != MP_OK)
        return status;
    const json_t *list = json_object_get(device, "device_expert");
    (void)snprintf(steps, sizeof steps, "layer_list/%u/device_list/%u%s", l, d, list == NULL ? "" : "/device_expert");
    if (!json_is_array(list))
        return mp_json_bad(in, steps, err, "%s: is not a list of expert ids", where);
    if (json_array_size(list) != per_device)
        return mp_json_bad(in, steps, err,
                           "%s: has %zu experts where the first device has %u (every device needs the same number)",
                           where, json_array_size(list), per_device);
    uint16_t *slots = p->slot_expert + (size_t)l * p->n_slots + (size_t)d * per_device;
    for (uint32_t s = 0; s < per_device; s++) {
        const json_t *id = json_array_get(list, s);
        (void)snprintf(steps, sizeof steps, "layer_list/%u/device_list/%u/device_expert/%u", l, d, s);
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= (json_int_t)MP_MAX_EXPERTS)
            return mp_json_bad(in, steps, err, "%s: entry %u is not an expert id (write 0 to %u)", where, s,
                               MP_MAX_EXPERTS - 1);
        slots[s] = (uint16_t)json_integer_value(id);
        for (uint32_t t = 0; t < s; t++)
            if (slots[t] == slots[s])
                return mp_json_bad(
                    in, steps, err,
                    "%s: expert %u stands here twice, and vllm-ascend keeps only one (put it on another device)", where,
                    slots[s]);
    }
    return MP_OK;
}

static enum mp_status read(struct mp_plan **out, const struct mp_in *in, const struct mp_stack_options *o,
                           const struct mp_limits *limits, struct mp_error *err) {
    struct mp_placement p = {0};
    json_t *root = NULL;
    char steps[96];
    *out = NULL;
    enum mp_status status;
    MP_TRY(mp_json_parse(&root, in->path, (const char *)in->data, in->size, 1, limits, err));
    const json_t *layers = json_object_get(root, "layer_list");
    const json_t *devices = json_object_get(json_array_get(layers, 0), "device_list");
    const json_t *experts = json_object_get(json_array_get(devices, 0), "device_expert");
    size_t n_devices = json_array_size(devices), per_device = json_array_size(experts);
    if (!json_is_array(layers) || n_devices == 0 || per_device == 0) {
        status =
            mp_json_bad(in, !json_is_array(layers) ? "" : "layer_list", err,
                        "layer_list: does not hold layers with device_list and device_expert (write the object that "
                        "vllm-ascend reads from expert_map_path)");
        goto out;
    }
    if (n_devices > MP_MAX_GPUS || per_device > STACK_MAX_SLOTS) {
        status = mp_json_bad(in, "layer_list/0/device_list", err,
                             "device_list: %zu devices of %zu experts are too many (at most %u and %u)", n_devices,
                             per_device, MP_MAX_GPUS, STACK_MAX_SLOTS);
        goto out;
    }
    MP_TRY(expect_number(root, "moe_layer_count", json_array_size(layers), in, "", "the length of layer_list", err));
    MP_TRY(mp_placement_new(&p, in->path, json_array_size(layers), (uint64_t)n_devices * per_device, err));
    MP_TRY(mp_placement_moe_layers(&p, o, err));
    p.n_gpus = (uint32_t)n_devices;
    p.json = in;
    p.json_rows = "layer_list";
    for (uint32_t l = 0; l < p.n_layers; l++) {
        const json_t *layer = json_array_get(layers, l);
        (void)snprintf(steps, sizeof steps, "layer_list/%u", l);
        MP_TRY(expect_number(layer, "layer_id", l, in, steps, "its position in layer_list (sort it)", err));
        devices = json_object_get(layer, "device_list");
        MP_TRY(expect_number(layer, "device_count", n_devices, in, steps, "the number of devices of the first layer",
                             err));
        if (json_array_size(devices) != n_devices) {
            status = mp_json_bad(in, steps, err, "layer_list[%u].device_list: has %zu devices, device_count says %zu",
                                 l, json_array_size(devices), n_devices);
            goto out;
        }
        for (uint32_t d = 0; d < n_devices; d++)
            MP_TRY(read_device(&p, l, d, (uint32_t)per_device, json_array_get(devices, d), in, err));
    }
    MP_TRY(mp_placement_plan(out, &p, o, "vllm-ascend", err));
out:
    mp_placement_free(&p);
    json_decref(root);
    return status;
}

static enum mp_status check(const struct mp_plan *p, const struct mp_stack_options *o, enum mp_outcome *outcome,
                            struct mp_error *err) {
    static const struct mp_stack_rules rules = {.stack = "vllm-ascend", .needs_distinct = true};
    return mp_stack_check_rules(p, o, &rules, outcome, err);
}

static void write(const struct mp_plan *p, const struct mp_stack_options *o, struct mp_out *out) {
    (void)o;
    mp_out_printf(out, "{\n \"moe_layer_count\": %u,\n \"layer_list\": [", p->n_layers);
    for (uint32_t l = 0; l < p->n_layers; l++) {
        mp_out_printf(out, "%s\n  {\n   \"layer_id\": %u,\n   \"device_count\": %u,\n   \"device_list\": [",
                      l == 0 ? "" : ",", l, p->n_gpus);
        for (uint32_t g = 0; g < p->n_gpus; g++) {
            mp_out_printf(out, "%s\n    {\n     \"device_id\": %u,\n     \"device_expert\": [", g == 0 ? "" : ",", g);
            for (uint32_t s = p->gpu_first_slot[g]; s < p->gpu_first_slot[g + 1]; s++)
                mp_out_printf(out, "%s\n      %u", s == p->gpu_first_slot[g] ? "" : ",", p->layers[l].slot_expert[s]);
            mp_out_puts(out, "\n     ]\n    }");
        }
        mp_out_puts(out, "\n   ]\n  }");
    }
    mp_out_puts(out, "\n ]\n}");
}

extern const struct mp_stack mp_stack_vllm_ascend;
static void flags(const struct mp_plan *p, const struct mp_stack_options *o, const char *path, struct mp_out *out) {
    mp_out_puts(out, "--enable-expert-parallel\n--additional-config ");
    mp_stack_write_json_option(out, "{\"eplb_config\": {\"expert_map_path\": ", path, "}}");
    mp_out_printf(out, "\n# %u devices with %u experts each; the redundancy of %u is read from the file\n", p->n_gpus,
                  p->n_slots / p->n_gpus, p->n_slots - p->n_experts);
    if (!mp_stack_name_fits(&mp_stack_vllm_ascend, path))
        mp_out_puts(out, "# warning: vllm-ascend accepts only a path that ends in .json: rename the file\n");
    if (p->n_slots / p->n_gpus <= 8)
        mp_out_printf(out,
                      "# warning: with %u experts per device (8 or fewer) its guide expects no gain from balancing\n",
                      p->n_slots / p->n_gpus);
    mp_out_puts(
        out, "# warning: expert_map_path belongs to the first model runner and is scheduled for removal in v0.25.1\n");
    if (mp_stack_has_mtp(o->model))
        mp_out_printf(out, "# the MTP layers of %s fall back to the default map\n", o->model->name);
    mp_stack_write_route(out, p, &mp_stack_vllm_ascend, "vllm-ascend has its own replica choice");
    mp_stack_write_warnings(out, p, NULL);
}

static const struct mp_stack_choice choices[] = {
    {.name = "by-rank",
     .summary = "one replica for each source rank: the rank's number modulo how many there are",
     .route = MP_ROUTE_EVEN,
     .kind = MP_CHOICE_RANK},
    {0}};

const struct mp_stack mp_stack_vllm_ascend = {
    .name = "vllm-ascend",
    .summary = "layer_list / device_list / device_expert (expert_map_path)",
    .extension = ".json",
    .reference = "vllm-project/vllm-ascend vllm_ascend/eplb/core/eplb_utils.py",
    .needs_equal_slots = true,
    .needs_distinct = true,
    .routes = 1u << MP_ROUTE_EVEN,
    .choices = choices,
    .needs_extension = true,
    STACK_FUNCTIONS,
};
