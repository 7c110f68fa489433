/* The invariants of a topology; the path of a transfer; the table of presets. */
#include "topo.h"
#include <moeplan/base.h>
#include <string.h>

void mp_topology_free(struct mp_topology *t) {
    if (t != NULL)
        mp_arena_free(t->arena);
}

bool mp_topology_preset(uint32_t i, const char **name, const char **summary) {
    for (uint32_t k = 0; topo_topology_presets[k].name != NULL; k++)
        if (k == i) {
            *name = topo_topology_presets[k].name;
            *summary = topo_topology_presets[k].summary;
            return true;
        }
    return false;
}

void mp_topology_path(const struct mp_topology *t, uint32_t src, uint32_t dst, struct mp_path *out) {
    *out = (struct mp_path){0};
    if (src == dst)
        return;
    const struct mp_gpu *s = &t->gpus[src], *d = &t->gpus[dst];
    uint32_t level = 0;
    while (s->group[level] != d->group[level])
        level++;
    out->level = level;
    out->latency_ns = t->levels[level].latency_ns;
    out->cap_bytes_per_s = t->levels[level].pair_bytes_per_s;
    out->resource[out->n++] = s->out_port[level];
    for (uint32_t l = 0; l < level; l++)
        if (t->levels[l].uplink_out != NULL)
            out->resource[out->n++] = t->levels[l].uplink_out[s->group[l]];
    for (uint32_t l = level; l-- > 0;)
        if (t->levels[l].uplink_in != NULL)
            out->resource[out->n++] = t->levels[l].uplink_in[d->group[l]];
    out->resource[out->n++] = d->in_port[level];
}

/* ---- the checker ---- */

#define REQUIRE(what, ...)                                                                                             \
    do {                                                                                                               \
        if (!(what))                                                                                                   \
            return mp_fail(err, MP_EBUG, "topology: " __VA_ARGS__);                                                    \
    } while (0)

static bool is_name(const char *s) {
    size_t n = s != NULL ? strlen(s) : 0;
    return n > 0 && n <= MP_MAX_NAME && mp_is_text(s, n);
}

static enum mp_status check_types(const struct mp_topology *t, struct mp_error *err) {
    for (uint32_t i = 0; i < t->n_types; i++) {
        const struct mp_gpu_type *y = &t->types[i];
        REQUIRE(is_name(y->name) && y->source != NULL, "GPU type %u has no name or source", i);
        for (uint32_t k = 0; k < i; k++)
            REQUIRE(strcmp(y->name, t->types[k].name) != 0, "two GPU types are called %s", y->name);
        REQUIRE(y->memory_bytes > 0 && y->hbm_bytes_per_s > 0 && y->flops_16bit > 0, "GPU type %s lacks a figure",
                y->name);
        REQUIRE(y->hbm_efficiency_ppm > 0 && y->hbm_efficiency_ppm <= 1000000 && y->flops_efficiency_ppm > 0 &&
                    y->flops_efficiency_ppm <= 1000000,
                "GPU type %s has an efficiency outside (0, 1]", y->name);
        REQUIRE(y->tile_tokens > 0, "GPU type %s has no tile", y->name);
        REQUIRE(y->n_coefficients == 0 || y->coefficients != NULL, "GPU type %s lacks its coefficients", y->name);
    }
    return MP_OK;
}

/* An uplink's record fits its group: the first GPU of each group is met in order. */
static enum mp_status check_uplinks(const struct mp_topology *t, uint32_t level, struct mp_error *err) {
    const struct mp_level *v = &t->levels[level];
    REQUIRE((v->uplink_out == NULL) == (v->uplink_in == NULL), "level %s has uplinks in one direction only", v->name);
    if (v->uplink_out == NULL)
        return MP_OK;
    REQUIRE(level + 1 < t->n_levels, "the last level has uplinks");
    for (uint32_t g = 0; g < t->n_gpus; g++) {
        uint32_t group = t->gpus[g].group[level];
        if (g > 0 && group == t->gpus[g - 1].group[level])
            continue;
        uint32_t out = v->uplink_out[group], in = v->uplink_in[group];
        REQUIRE(out < t->n_resources && in < t->n_resources, "an uplink of level %s is not a resource", v->name);
        const struct mp_resource *o = &t->resources[out], *i = &t->resources[in];
        REQUIRE(o->is_uplink && i->is_uplink && !o->is_in && i->is_in && o->level == level && i->level == level &&
                    o->first_gpu == g && i->first_gpu == g,
                "the uplink of group %u of level %s is another resource", group, v->name);
    }
    return MP_OK;
}

static enum mp_status check_levels(const struct mp_topology *t, struct mp_error *err) {
    for (uint32_t l = 0; l < t->n_levels; l++) {
        const struct mp_level *v = &t->levels[l];
        REQUIRE(is_name(v->name), "level %u has no name", l);
        for (uint32_t k = 0; k < l; k++)
            REQUIRE(strcmp(v->name, t->levels[k].name) != 0, "two levels are called %s", v->name);
        REQUIRE(v->n_groups > 0 && v->n_groups <= t->n_gpus, "level %s has %u groups", v->name, v->n_groups);
        REQUIRE(v->n_incast == 0 || v->incast_ppm != NULL, "level %s lacks its incast curve", v->name);
        for (uint32_t i = 0; i < v->n_incast; i++)
            REQUIRE(v->incast_ppm[i] > 0 && v->incast_ppm[i] <= (i == 0 ? 1000000 : v->incast_ppm[i - 1]) &&
                        (i > 0 || v->incast_ppm[0] == 1000000),
                    "the incast curve of level %s does not fall from 1", v->name);
        /* Groups: consecutive, numbered in order, nested. */
        for (uint32_t g = 0; g < t->n_gpus; g++) {
            uint32_t group = t->gpus[g].group[l], before = g > 0 ? t->gpus[g - 1].group[l] : 0;
            REQUIRE(group == before || (g > 0 && group == before + 1),
                    "groups of level %s are not numbered by their GPUs", v->name);
            REQUIRE(l == 0 || group == before || t->gpus[g].group[l - 1] != t->gpus[g - 1].group[l - 1],
                    "a group of level %s lies in two of level %s", t->levels[l - 1].name, v->name);
        }
        REQUIRE(t->gpus[t->n_gpus - 1].group[l] + 1 == v->n_groups, "level %s has a group without GPUs", v->name);
    }
    REQUIRE(t->levels[t->n_levels - 1].n_groups == 1, "the last level has %u groups",
            t->levels[t->n_levels - 1].n_groups);
    for (uint32_t l = 0; l < t->n_levels; l++) {
        enum mp_status status = check_uplinks(t, l, err);
        if (status != MP_OK)
            return status;
    }
    return MP_OK;
}

static enum mp_status check_port(const struct mp_topology *t, uint32_t gpu, uint32_t level, struct mp_error *err) {
    const struct mp_gpu *g = &t->gpus[gpu];
    uint32_t out = g->out_port[level], in = g->in_port[level];
    REQUIRE(out < t->n_resources && in < t->n_resources, "a port of GPU %u is not a resource", gpu);
    const struct mp_resource *o = &t->resources[out], *i = &t->resources[in];
    REQUIRE(!o->is_uplink && !i->is_uplink && !o->is_in && i->is_in, "a port of GPU %u is the wrong kind of resource",
            gpu);
    REQUIRE(o->level == i->level && o->level <= level, "a port of GPU %u is of another level", gpu);
    if (o->level != level)
        REQUIRE(level > 0 && out == g->out_port[level - 1] && in == g->in_port[level - 1],
                "a port of GPU %u skips a level", gpu);
    REQUIRE(o->first_gpu == i->first_gpu && o->first_gpu <= gpu,
            "the ports of GPU %u are shared differently out and in", gpu);
    const struct mp_gpu *first = &t->gpus[o->first_gpu];
    REQUIRE(first->out_port[level] == out && first->in_port[level] == in,
            "the first GPU of a port of GPU %u does not use it", gpu);
    REQUIRE(first->group[0] == g->group[0], "a port of GPU %u is shared between nodes", gpu);
    return MP_OK;
}

enum mp_status mp_topology_check(const struct mp_topology *t, struct mp_error *err) {
    REQUIRE(is_name(t->name), "no name");
    REQUIRE(t->source != NULL && mp_is_text(t->source, strlen(t->source)), "its source is not text");
    REQUIRE(t->n_gpus > 0 && t->n_gpus <= MP_MAX_GPUS, "%u GPUs", t->n_gpus);
    REQUIRE(t->n_levels > 0 && t->n_levels <= MP_MAX_LEVELS, "%u levels", t->n_levels);
    REQUIRE(t->n_types > 0 && t->n_resources > 0, "no types or resources");
    REQUIRE(t->gpus != NULL && t->types != NULL && t->levels != NULL && t->resources != NULL, "a table is missing");
    REQUIRE(strlen(t->sha256) == 64, "no hash");
    enum mp_status status = check_types(t, err);
    if (status == MP_OK)
        status = check_levels(t, err);
    for (uint32_t g = 0; g < t->n_gpus && status == MP_OK; g++) {
        REQUIRE(t->gpus[g].type < t->n_types && t->gpus[g].speed_ppm > 0, "GPU %u has no type or speed", g);
        for (uint32_t l = 0; l < t->n_levels && status == MP_OK; l++)
            status = check_port(t, g, l, err);
    }
    for (uint32_t i = 0; i < t->n_resources && status == MP_OK; i++) {
        const struct mp_resource *r = &t->resources[i];
        REQUIRE(r->bytes_per_s > 0 && r->level < t->n_levels && r->first_gpu < t->n_gpus, "resource %u is out of range",
                i);
        const struct mp_gpu *g = &t->gpus[r->first_gpu];
        const struct mp_level *v = &t->levels[r->level];
        const uint32_t *uplinks = r->is_in ? v->uplink_in : v->uplink_out;
        uint32_t user = !r->is_uplink     ? (r->is_in ? g->in_port[r->level] : g->out_port[r->level])
                        : uplinks != NULL ? uplinks[g->group[r->level]]
                                          : MP_NONE;
        REQUIRE(user == i, "resource %u is used by nobody", i);
    }
    return status;
}
