/* SGLang: --init-expert-location FILE.json, {"physical_to_logical_map": [[...], ...]}, one row per hidden layer, dense
 * ones included (those rows are read and never used; we write the trivial slot % experts). Any second key reaches a
 * constructor as a keyword and fails there, so none is written and none is accepted. */
#include "stack_shared.h"

#include <moeplan/base.h>

#define KEY "physical_to_logical_map"

static int probe(const char *path, const struct mp_in *in) {
    (void)path;
    return mp_stack_head_has(in, '{', "\"" KEY "\"") && !mp_stack_head_has(in, '{', "\"snapshots\"") ? 80
           : mp_stack_head_has(in, '{', "\"logical_count\"")                                         ? 20
                                                                                                     : 0;
}

/* Which rows are MoE layers: the model's, else those from --layer-base on. ids has room for n_rows. */
static enum mp_status choose_rows(const struct mp_in *in, const struct mp_stack_options *o, uint32_t n_rows,
                                  uint32_t *ids, uint32_t *n, struct mp_error *err) {
    uint32_t base = o->layer_base > 0 ? (uint32_t)o->layer_base : 0;
    *n = 0;
    if (o->model != NULL) {
        if (n_rows < o->model->n_hidden_layers)
            return mp_json_bad(
                in, KEY, err, KEY ": has %u rows, but %s has %u hidden layers (write one row for each, dense ones too)",
                n_rows, o->model->name, o->model->n_hidden_layers);
        for (uint32_t l = 0; l < o->model->n_layers && o->model->layer_ids[l] < n_rows; l++)
            ids[(*n)++] = o->model->layer_ids[l];
    } else {
        for (uint32_t r = base; r < n_rows; r++)
            ids[(*n)++] = r;
    }
    if (*n == 0)
        return mp_json_bad(in, KEY, err, KEY ": has %u rows, none from layer %u on (give a smaller --layer-base)",
                           n_rows, base);
    return MP_OK;
}

static enum mp_status read(struct mp_plan **out, const struct mp_in *in, const struct mp_stack_options *o,
                           const struct mp_limits *limits, struct mp_error *err) {
    static const char *const keys[] = {KEY, NULL};
    struct mp_placement p = {0};
    json_t *root = NULL;
    uint32_t *ids = NULL, n = 0;
    char where[96], steps[96];
    *out = NULL;
    enum mp_status status;
    MP_TRY(mp_json_parse(&root, in->path, (const char *)in->data, in->size, 1, limits, err));
    if (json_is_object(root) && json_object_get(root, "logical_count") != NULL) {
        status = mp_json_bad(in, "logical_count", err,
                             "logical_count: is a recorded load, not a placement (give it as the TRACE)");
        goto out;
    }
    MP_TRY(mp_json_keys(root, keys, 1, in, "", err));
    const json_t *map = json_object_get(root, KEY), *first = json_array_get(map, 0);
    if (!json_is_array(map) || !json_is_array(first)) {
        status = mp_json_bad(in, KEY, err, KEY ": is not a list of rows of expert ids (write [[0, 1, ...], ...])");
        goto out;
    }
    if (json_array_size(map) > MP_MAX_LAYERS) {
        status =
            mp_json_bad(in, KEY, err, KEY ": has %zu rows, more than %u layers", json_array_size(map), MP_MAX_LAYERS);
        goto out;
    }
    uint32_t n_rows = (uint32_t)json_array_size(map);
    ids = mp_calloc(n_rows, sizeof *ids);
    if (ids == NULL) {
        status = mp_nomem(err, "placement");
        goto out;
    }
    MP_TRY(choose_rows(in, o, n_rows, ids, &n, err));
    MP_TRY(mp_placement_new(&p, in->path, n, json_array_size(first), err));
    p.json = in;
    p.json_rows = KEY;
    p.json_by_layer_id = true;
    for (uint32_t l = 0; l < n; l++) {
        p.layer_ids[l] = ids[l];
        (void)snprintf(where, sizeof where, KEY "[%u]", ids[l]);
        (void)snprintf(steps, sizeof steps, KEY "/%u", ids[l]);
        MP_TRY(mp_placement_row(&p, l, json_array_get(map, ids[l]), in, where, steps, err));
    }
    MP_TRY(mp_placement_plan(out, &p, o, "sglang", err));
out:
    mp_placement_free(&p);
    mp_free(ids);
    json_decref(root);
    return status;
}

static enum mp_status check(const struct mp_plan *p, const struct mp_stack_options *o, enum mp_outcome *outcome,
                            struct mp_error *err) {
    static const struct mp_stack_rules rules = {.stack = "sglang", .has_mtp_rows = true};
    uint32_t n_hidden = mp_stack_hidden_layers(o);
    *outcome = MP_NOT_FOUND;
    if (n_hidden == 0)
        return mp_fail(
            err, MP_EUSAGE,
            "sglang wants one row per hidden layer, dense ones included (give -m MODEL, or --hidden-layers N)");
    enum mp_status status = mp_stack_check_rules(p, o, &rules, outcome, err);
    if (status == MP_OK && *outcome == MP_FOUND && p->layers[p->n_layers - 1].layer_id >= n_hidden)
        return mp_stack_refuse(
            outcome, err,
            "the plan has layer %u, but the model has hidden layers 0 to %u (give the right -m or --hidden-layers)",
            p->layers[p->n_layers - 1].layer_id, n_hidden - 1);
    return status;
}

static void write(const struct mp_plan *p, const struct mp_stack_options *o, struct mp_out *out) {
    uint32_t n_hidden = mp_stack_hidden_layers(o), n_rows = n_hidden + o->n_mtp_layers;
    mp_out_puts(out, "{\"" KEY "\": [");
    for (uint32_t r = 0, l = 0; r < n_rows; r++) {
        mp_out_puts(out, r == 0 ? "[" : ", [");
        if (l < p->n_layers && p->layers[l].layer_id == r)
            mp_stack_write_list(out, p->layers[l++].slot_expert, p->n_slots);
        else if (r >= n_hidden)
            mp_stack_write_list(out, p->layers[p->n_layers - 1].slot_expert, p->n_slots);
        else
            for (uint32_t s = 0; s < p->n_slots; s++)
                mp_out_printf(out, "%s%u", s == 0 ? "" : ", ", s % p->n_experts);
        mp_out_puts(out, "]");
    }
    mp_out_puts(out, "]}");
}

extern const struct mp_stack mp_stack_sglang;
static void flags(const struct mp_plan *p, const struct mp_stack_options *o, const char *path, struct mp_out *out) {
    mp_out_puts(out, "--init-expert-location ");
    mp_stack_write_shell(out, path);
    mp_out_printf(out, "\n--ep-size %u\n--ep-num-redundant-experts %u\n--ep-dispatch-algorithm %s\n", p->n_gpus,
                  p->n_slots - p->n_experts, p->route == MP_ROUTE_NEAREST ? "static" : "dynamic");
    if (!mp_stack_name_fits(&mp_stack_sglang, path))
        mp_out_puts(out,
                    "# warning: SGLang takes a value that does not end in .json as inline JSON: rename the file\n");
    mp_stack_write_route(out, p, &mp_stack_sglang, "SGLang's dynamic picks replicas evenly at random");
    if (p->route == MP_ROUTE_NEAREST)
        mp_out_puts(out, "# note: static picks among equally near replicas with a fixed seed; moeplan's choice is "
                         "another, equally even one\n");
    if (mp_stack_has_mtp(o->model) && o->n_mtp_layers == 0)
        mp_out_printf(out,
                      "# warning: %s has MTP layers and the file has no rows for them (--mtp-layers N adds them); the "
                      "draft model keeps its "
                      "default placement\n",
                      o->model->name);
    mp_out_puts(out, "# leave --enable-eplb off, or the server moves experts away from this placement\n");
    mp_stack_write_warnings(out, p, "legal for SGLang, but memory without use");
}

static const struct mp_stack_choice choices[] = {
    {.name = "dynamic",
     .summary = "a random replica for every token and expert",
     .stands = "rule even: a hash of the token",
     .route = MP_ROUTE_EVEN},
    {.name = "static",
     .summary = "one replica for each source rank: on its GPU, else on its node, else fair draws with a fixed seed",
     .route = MP_ROUTE_NEAREST,
     .kind = MP_CHOICE_TABLE,
     .table = mp_sglang_static},
    {.name = "static-2025",
     .summary = "one replica for each source rank: on its GPU, else fair draws with a fixed seed",
     .route = MP_ROUTE_NEAREST,
     .kind = MP_CHOICE_TABLE,
     .table = mp_sglang_static_first},
    {.name = "fake",
     .summary = "random experts in place of the router's: for benchmarks of the server",
     .refused = "it replaces the router's experts by random ones, so that no recording says anything about it"},
    {.name = "lp",
     .summary = "a linear program for every batch shares its tokens out among replicas",
     .refused = "it solves a linear program for every batch, and no rule that is fixed beforehand stands for that"},
    {0}};

const struct mp_stack mp_stack_sglang = {
    .name = "sglang",
    .summary = "physical_to_logical_map, one row per hidden layer (--init-expert-location)",
    .extension = ".json",
    .reference = "sgl-project/sglang python/sglang/srt/eplb/expert_location.py",
    .needs_equal_slots = true,
    .needs_distinct = false,
    .routes = 1u << MP_ROUTE_EVEN | 1u << MP_ROUTE_NEAREST,
    .choices = choices,
    .needs_extension = true,
    STACK_FUNCTIONS,
};
