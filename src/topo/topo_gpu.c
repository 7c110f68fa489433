/* GPU types: read from gpu_types of a topology, or from the built-in files of topologies/gpus/. */
#include "topo.h"
#include <stdio.h>
#include <string.h>

const struct mp_embedded *topo_find(const struct mp_embedded *table, const char *name) {
    for (; table->name != NULL; table++)
        if (strcmp(table->name, name) == 0)
            return table;
    return NULL;
}

bool mp_gpu_preset(uint32_t i, const char **name, const char **summary) {
    for (uint32_t k = 0; topo_gpu_presets[k].name != NULL; k++)
        if (k == i) {
            *name = topo_gpu_presets[k].name;
            *summary = topo_gpu_presets[k].summary;
            return true;
        }
    return false;
}

enum mp_status topo_name(const struct mp_yaml_doc *d, const struct mp_yaml *n, struct mp_arena *arena, const char **out,
                         struct mp_error *err) {
    enum mp_status status = mp_yaml_string(d, n, arena, out, err);
    if (status == MP_OK && n->length > MP_MAX_NAME)
        status = mp_yaml_fail(d, n, err, "a name of %u bytes is longer than %u (shorten it)", n->length, MP_MAX_NAME);
    return status;
}

/* A figure of a mapping; missing: MP_EINPUT when `is_needed`, else *out stays. */
static enum mp_status figure(const struct mp_yaml_doc *d, const struct mp_yaml *map, const char *key, const char *unit,
                             uint64_t min, uint64_t max, bool is_needed, uint64_t *out, struct mp_error *err) {
    const struct mp_yaml *n = mp_yaml_get(map, key);
    if (n != NULL)
        return mp_yaml_figure(d, n, unit, min, max, out, err);
    return is_needed ? mp_yaml_need(d, map, key, &n, err) : MP_OK;
}

static enum mp_status read_coefficients(const struct mp_yaml_doc *d, const struct mp_yaml *n, struct mp_arena *arena,
                                        struct mp_gpu_type *type, struct mp_error *err) {
    static const char *const keys[] = {"model", "a_ps", "b_ps", "c_ps", "beta_ps", "source", NULL};
    enum mp_status status;
    MP_TRY(mp_yaml_expect(d, n, MP_YAML_SEQUENCE, err));
    struct mp_compute_coefficients *all = mp_arena_alloc(arena, n->n, sizeof *all);
    if (all == NULL)
        return mp_nomem(err, "reading a GPU type");
    for (uint32_t i = 0; i < n->n; i++) {
        const struct mp_yaml *e = &n->items[i], *model;
        const uint64_t max = UINT64_C(1000000000000000);
        MP_TRY(mp_yaml_keys(d, e, keys, err));
        MP_TRY(mp_yaml_need(d, e, "model", &model, err));
        MP_TRY(topo_name(d, model, arena, &all[i].model, err));
        MP_TRY(figure(d, e, "a_ps", NULL, 0, max, true, &all[i].a_ps, err));
        MP_TRY(figure(d, e, "b_ps", NULL, 0, max, true, &all[i].b_ps, err));
        MP_TRY(figure(d, e, "c_ps", NULL, 0, max, true, &all[i].c_ps, err));
        MP_TRY(figure(d, e, "beta_ps", NULL, 0, max, true, &all[i].beta_ps, err));
        for (uint32_t k = 0; k < i; k++)
            if (strcmp(all[k].model, all[i].model) == 0) {
                status =
                    mp_yaml_fail(d, model, err, "\"%s\" has coefficients already (remove one entry)", all[i].model);
                goto out;
            }
    }
    type->n_coefficients = n->n;
    type->coefficients = all;
out:
    return status;
}

/* The keys that a GPU type and a preset file share, over what *type holds already. */
static enum mp_status read_type(const struct mp_yaml_doc *d, const struct mp_yaml *n, bool is_needed,
                                struct mp_arena *arena, struct mp_gpu_type *type, struct mp_error *err) {
    enum mp_status status;
    const uint64_t flops_max = UINT64_C(1000000000000000000);
    uint64_t hbm_ppm = type->hbm_efficiency_ppm, flops_ppm = type->flops_efficiency_ppm, tile = type->tile_tokens;
    MP_TRY(figure(d, n, "memory", "bytes", 1, UINT64_C(1) << 50, is_needed, &type->memory_bytes, err));
    MP_TRY(figure(d, n, "hbm", "bytes/s", 1, TOPO_RATE_MAX, is_needed, &type->hbm_bytes_per_s, err));
    MP_TRY(figure(d, n, "flops_16bit", "flops", 1, flops_max, is_needed, &type->flops_16bit, err));
    MP_TRY(figure(d, n, "flops_8bit", "flops", 0, flops_max, false, &type->flops_8bit, err));
    MP_TRY(figure(d, n, "hbm_efficiency", "ppm", 1000, 1000000, is_needed, &hbm_ppm, err));
    MP_TRY(figure(d, n, "flops_efficiency", "ppm", 1000, 1000000, is_needed, &flops_ppm, err));
    MP_TRY(figure(d, n, "kernel", "ns", 0, TOPO_TIME_MAX, is_needed, &type->kernel_ns, err));
    MP_TRY(figure(d, n, "tile_tokens", NULL, 1, 65536, is_needed, &tile, err));
    type->hbm_efficiency_ppm = (uint32_t)hbm_ppm;
    type->flops_efficiency_ppm = (uint32_t)flops_ppm;
    type->tile_tokens = (uint32_t)tile;
    const struct mp_yaml *compute = mp_yaml_get(n, "compute");
    if (compute != NULL)
        MP_TRY(read_coefficients(d, compute, arena, type, err));
out:
    return status;
}

enum mp_status topo_gpu_read(const struct mp_yaml_doc *d, const struct mp_yaml *n, const char *name,
                             struct mp_arena *arena, struct mp_gpu_type *type, struct mp_error *err) {
    static const char *const keys[] = {"preset",      "source",      "memory",         "hbm",
                                       "flops_16bit", "flops_8bit",  "hbm_efficiency", "flops_efficiency",
                                       "kernel",      "tile_tokens", "compute",        NULL};
    enum mp_status status;
    *type = (struct mp_gpu_type){0};
    MP_TRY(mp_yaml_keys(d, n, keys, err));
    const struct mp_yaml *preset = mp_yaml_get(n, "preset"), *source = mp_yaml_get(n, "source");
    if (preset != NULL) {
        const char *preset_name;
        MP_TRY(topo_name(d, preset, arena, &preset_name, err));
        if (topo_find(topo_gpu_presets, preset_name) == NULL) {
            status = mp_yaml_fail(d, preset, err,
                                  "\"%s\" is not a built-in GPU (write one that \"moeplan list presets\" shows)",
                                  preset_name);
            goto out;
        }
        MP_TRY(topo_gpu_preset(preset_name, arena, type, NULL, err));
        if (n->n > 1) {
            type->source = mp_arena_printf(arena, "%s, changed by the topology file", type->source);
            if (type->source == NULL) {
                status = mp_nomem(err, "reading a GPU type");
                goto out;
            }
        }
    }
    type->name = name;
    MP_TRY(read_type(d, n, preset == NULL, arena, type, err));
    if (source != NULL)
        MP_TRY(mp_yaml_string(d, source, arena, &type->source, err));
    else if (preset == NULL)
        type->source = "";
out:
    return status;
}

/* A preset file: a GPU type, and the ports of a usual node. */
static enum mp_status read_preset(const struct mp_yaml_doc *d, struct mp_arena *arena, struct mp_gpu_type *type,
                                  struct topo_ports *ports, struct mp_error *err) {
    enum mp_status status;
    const struct mp_yaml *n;
    MP_TRY(mp_yaml_schema(d, "moeplan.gpu", err));
    MP_TRY(mp_yaml_need(d, d->root, "name", &n, err));
    MP_TRY(topo_name(d, n, arena, &type->name, err));
    MP_TRY(mp_yaml_need(d, d->root, "source", &n, err));
    MP_TRY(mp_yaml_string(d, n, arena, &type->source, err));
    MP_TRY(read_type(d, d->root, true, arena, type, err));
    MP_TRY(figure(d, d->root, "launch", "ns", 0, TOPO_TIME_MAX, true, &ports->launch_ns, err));
    MP_TRY(figure(d, d->root, "stage_launch", "ns", 0, TOPO_TIME_MAX, true, &ports->stage_launch_ns, err));
    const struct mp_yaml *up, *nic;
    MP_TRY(mp_yaml_need(d, d->root, "scale_up", &up, err));
    MP_TRY(mp_yaml_need(d, up, "name", &n, err));
    MP_TRY(topo_name(d, n, arena, &ports->level, err));
    MP_TRY(figure(d, up, "rate", "bytes/s", 1, TOPO_RATE_MAX, true, &ports->scale_up_bytes_per_s, err));
    MP_TRY(figure(d, up, "latency", "ns", 0, TOPO_TIME_MAX, true, &ports->scale_up_latency_ns, err));
    MP_TRY(figure(d, up, "pair", "bytes/s", 1, TOPO_RATE_MAX, false, &ports->pair_bytes_per_s, err));
    MP_TRY(mp_yaml_need(d, d->root, "nic", &nic, err));
    MP_TRY(figure(d, nic, "rate", "bytes/s", 1, TOPO_RATE_MAX, true, &ports->nic_bytes_per_s, err));
    MP_TRY(figure(d, nic, "latency", "ns", 0, TOPO_TIME_MAX, true, &ports->nic_latency_ns, err));
out:
    return status;
}

enum mp_status topo_gpu_preset(const char *name, struct mp_arena *arena, struct mp_gpu_type *type,
                               struct topo_ports *ports, struct mp_error *err) {
    enum mp_status status;
    struct mp_in *in = NULL;
    struct mp_yaml_doc *d = NULL;
    struct topo_ports unused;
    const struct mp_embedded *e = topo_find(topo_gpu_presets, name);
    if (e == NULL)
        return mp_fail(err, MP_EINPUT, "\"%s\" is not a built-in GPU (write one that \"moeplan list presets\" shows)",
                       name);
    ports = ports != NULL ? ports : &unused;
    *type = (struct mp_gpu_type){0};
    *ports = (struct topo_ports){0};
    MP_TRY(mp_in_from_memory(&in, e->name, e->text, e->length, err));
    MP_TRY(mp_yaml_parse(&d, in, NULL, err));
    MP_TRY(read_preset(d, arena, type, ports, err));
out:
    mp_yaml_free(d);
    mp_in_close(in);
    return status;
}
