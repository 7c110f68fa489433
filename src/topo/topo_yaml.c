/* The topology reader (topologies/FORMAT.md): a tree of groups with repeats, walked twice: once to count, once to
 * number. */
#include "topo.h"
#include <moeplan/base.h>
#include <stdio.h>
#include <string.h>

enum { MAX_TYPES = 64, MAX_EVENTS = 250000 };

struct shared_port {
    const char *name;
    uint32_t level, out, in;
};

struct reader {
    const struct mp_yaml_doc *d;
    struct mp_error *err;
    struct mp_topology *t;
    struct mp_arena *arena;
    struct mp_gpu *gpus;
    struct mp_gpu_type *types;
    struct mp_level *levels;
    struct mp_resource *resources;
    uint32_t *uplink_out[MP_MAX_LEVELS], *uplink_in[MP_MAX_LEVELS];
    uint64_t n_groups_wanted[MP_MAX_LEVELS], n_gpus_wanted;
    uint32_t n_gpus, n_resources, n_types;
    uint32_t n_groups[MP_MAX_LEVELS], current[MP_MAX_LEVELS]; /* groups made so far, and the ones being filled */
    struct shared_port *shared;                               /* of the node being filled */
    uint32_t n_shared;
};

static enum mp_status read_repeat(struct reader *r, const struct mp_yaml *n, uint32_t *out) {
    const struct mp_yaml *repeat = mp_yaml_get(n, "repeat");
    *out = 1;
    return repeat != NULL ? mp_yaml_u32(r->d, repeat, 1, MP_MAX_GPUS, out, r->err) : MP_OK;
}

/* The list of a node's GPUs, or of a group's groups; never empty. */
static enum mp_status read_list(struct reader *r, const struct mp_yaml *n, const char *key,
                                const struct mp_yaml **out) {
    enum mp_status status = mp_yaml_need(r->d, n, key, out, r->err);
    if (status == MP_OK)
        status = mp_yaml_expect(r->d, *out, MP_YAML_SEQUENCE, r->err);
    if (status == MP_OK && (*out)->n == 0)
        status = mp_yaml_fail(r->d, *out, r->err, "the list is empty (write at least one entry)");
    return status;
}

/* ---- first walk: count ---- */

static enum mp_status too_many(struct reader *r, const struct mp_yaml *n) {
    return mp_fail_at(r->err, MP_ELIMIT, r->d->path, n->line, n->column, "more than %u GPUs (lower a repeat)",
                      MP_MAX_GPUS);
}

static enum mp_status count_gpus(struct reader *r, const struct mp_yaml *list, uint64_t *n) {
    static const char *const keys[] = {"repeat", "type", "speed", "ports", NULL};
    enum mp_status status = MP_OK;
    for (uint32_t i = 0; i < list->n; i++) {
        uint32_t repeat;
        MP_TRY(mp_yaml_keys(r->d, &list->items[i], keys, r->err));
        MP_TRY(read_repeat(r, &list->items[i], &repeat));
        *n += repeat;
        if (*n > MP_MAX_GPUS) {
            status = too_many(r, &list->items[i]);
            goto out;
        }
    }
out:
    return status;
}

/* Adds what the entries of `list`, groups of `level`, hold, to n (GPUs) and groups (per level). */
static enum mp_status count_groups(struct reader *r, const struct mp_yaml *list, uint32_t level, uint64_t *n,
                                   uint64_t *groups) {
    static const char *const node_keys[] = {"repeat", "uplink", "gpus", NULL}, *const group_keys[] = {
                                                                                   "repeat", "uplink", "groups", NULL};
    enum mp_status status = MP_OK;
    for (uint32_t i = 0; i < list->n; i++) {
        const struct mp_yaml *e = &list->items[i], *inner;
        uint32_t repeat;
        uint64_t n_inner = 0, inner_groups[MP_MAX_LEVELS] = {0};
        MP_TRY(mp_yaml_keys(r->d, e, level == 0 ? node_keys : group_keys, r->err));
        MP_TRY(read_repeat(r, e, &repeat));
        MP_TRY(read_list(r, e, level == 0 ? "gpus" : "groups", &inner));
        MP_TRY(level == 0 ? count_gpus(r, inner, &n_inner) : count_groups(r, inner, level - 1, &n_inner, inner_groups));
        *n += n_inner * repeat;
        if (*n > MP_MAX_GPUS) {
            status = too_many(r, e);
            goto out;
        }
        groups[level] += repeat;
        for (uint32_t l = 0; l < level; l++)
            groups[l] += inner_groups[l] * repeat;
    }
out:
    return status;
}

/* ---- head: levels and types ---- */

static enum mp_status read_levels(struct reader *r) {
    static const char *const keys[] = {"name", "latency", "pair", "incast", NULL};
    enum mp_status status;
    const struct mp_yaml *list, *n;
    MP_TRY(read_list(r, r->d->root, "levels", &list));
    if (list->n > MP_MAX_LEVELS) {
        status = mp_yaml_fail(r->d, list, r->err, "%u levels are more than %u (write at most %u)", list->n,
                              MP_MAX_LEVELS, MP_MAX_LEVELS);
        goto out;
    }
    r->levels = mp_arena_alloc(r->arena, list->n, sizeof *r->levels);
    if (r->levels == NULL)
        return mp_nomem(r->err, "reading a topology");
    for (uint32_t l = 0; l < list->n; l++) {
        const struct mp_yaml *e = &list->items[l];
        struct mp_level *v = &r->levels[l];
        MP_TRY(mp_yaml_keys(r->d, e, keys, r->err));
        MP_TRY(mp_yaml_need(r->d, e, "name", &n, r->err));
        MP_TRY(topo_name(r->d, n, r->arena, &v->name, r->err));
        for (uint32_t k = 0; k < l; k++)
            if (strcmp(r->levels[k].name, v->name) == 0) {
                status = mp_yaml_fail(r->d, n, r->err, "two levels are called \"%s\" (rename one)", v->name);
                goto out;
            }
        MP_TRY(mp_yaml_need(r->d, e, "latency", &n, r->err));
        MP_TRY(mp_yaml_figure(r->d, n, "ns", 0, TOPO_TIME_MAX, &v->latency_ns, r->err));
        if ((n = mp_yaml_get(e, "pair")) != NULL)
            MP_TRY(mp_yaml_figure(r->d, n, "bytes/s", 1, TOPO_RATE_MAX, &v->pair_bytes_per_s, r->err));
        if ((n = mp_yaml_get(e, "incast")) == NULL)
            continue;
        MP_TRY(read_list(r, e, "incast", &n));
        if (n->n > MP_MAX_GPUS) {
            status = mp_yaml_fail(r->d, n, r->err, "%u entries are more than %u (write fewer)", n->n, MP_MAX_GPUS);
            goto out;
        }
        uint32_t *ppm = mp_arena_alloc(r->arena, n->n, sizeof *ppm);
        if (ppm == NULL)
            return mp_nomem(r->err, "reading a topology");
        for (uint32_t i = 0; i < n->n; i++) {
            uint64_t factor;
            MP_TRY(mp_yaml_quantity(r->d, &n->items[i], "ppm", 1000, 1000000, &factor, r->err));
            ppm[i] = (uint32_t)factor;
            if (i == 0 ? factor != 1000000 : factor > ppm[i - 1]) {
                status = mp_yaml_fail(r->d, &n->items[i], r->err, "%s",
                                      i == 0 ? "the factor of one flow is not 1.0 (write 1.0 first)"
                                             : "the factor rises (write it at most as large as the one before)");
                goto out;
            }
        }
        v->n_incast = n->n;
        v->incast_ppm = ppm;
    }
    r->t->n_levels = list->n;
out:
    return status;
}

static enum mp_status read_types(struct reader *r) {
    enum mp_status status = MP_OK;
    const struct mp_yaml *map = mp_yaml_get(r->d->root, "gpu_types");
    r->types = mp_arena_alloc(r->arena, MAX_TYPES, sizeof *r->types);
    if (r->types == NULL)
        return mp_nomem(r->err, "reading a topology");
    if (map == NULL)
        return MP_OK;
    MP_TRY(mp_yaml_expect(r->d, map, MP_YAML_MAPPING, r->err));
    if (map->n > MAX_TYPES) {
        status = mp_yaml_fail(r->d, map, r->err, "%u types are more than %d (write fewer)", map->n, MAX_TYPES);
        goto out;
    }
    for (uint32_t i = 0; i < map->n; i++) {
        const struct mp_yaml *e = &map->items[i];
        size_t length = strlen(e->key);
        if (length == 0 || length > MP_MAX_NAME || !mp_is_text(e->key, length)) {
            status = mp_yaml_fail(r->d, e, r->err,
                                  "the name of a GPU type has 1 to %u printable characters (rename it)", MP_MAX_NAME);
            goto out;
        }
        const char *name = mp_arena_strdup(r->arena, e->key);
        if (name == NULL)
            return mp_nomem(r->err, "reading a topology");
        MP_TRY(topo_gpu_read(r->d, e, name, r->arena, &r->types[i], r->err));
        r->n_types++;
    }
out:
    return status;
}

static enum mp_status find_type(struct reader *r, const struct mp_yaml *n, uint32_t *out) {
    enum mp_status status = mp_yaml_expect(r->d, n, MP_YAML_SCALAR, r->err);
    if (status != MP_OK)
        return status;
    for (*out = 0; *out < r->n_types; ++*out)
        if (strcmp(r->types[*out].name, n->text) == 0)
            return MP_OK;
    const struct mp_embedded *preset = topo_find(topo_gpu_presets, n->text);
    if (preset == NULL || r->n_types == MAX_TYPES) {
        char list[256] = "";
        size_t used = 0;
        for (uint32_t i = 0; i < r->n_types && used + MP_MAX_NAME + 8 < sizeof list; i++)
            used += (size_t)snprintf(list + used, sizeof list - used, "%s, or ", r->types[i].name);
        char quoted[200];
        return mp_yaml_fail(
            r->d, n, r->err,
            "\"%s\" is neither in gpu_types nor built in (write %sone that \"moeplan list presets\" shows)",
            mp_quote(n->text, n->length, quoted, sizeof quoted), list);
    }
    status = topo_gpu_preset(preset->name, r->arena, &r->types[*out], NULL, r->err);
    r->n_types += status == MP_OK;
    return status;
}

/* ---- second walk: number ---- */

static uint32_t add_resource(struct reader *r, uint64_t bytes_per_s, uint32_t level, bool is_in, bool is_uplink) {
    r->resources[r->n_resources] = (struct mp_resource){
        .bytes_per_s = bytes_per_s, .level = level, .is_in = is_in, .is_uplink = is_uplink, .first_gpu = r->n_gpus};
    return r->n_resources++;
}

/* "50 GB/s" for both directions, or a mapping with rate, or with out and in. */
static enum mp_status read_rates(struct reader *r, const struct mp_yaml *n, uint64_t *out, uint64_t *in) {
    enum mp_status status;
    const struct mp_yaml *rate = n;
    if (n->kind == MP_YAML_MAPPING && mp_yaml_get(n, "value") == NULL) {
        const struct mp_yaml *o = mp_yaml_get(n, "out"), *i = mp_yaml_get(n, "in");
        rate = mp_yaml_get(n, "rate");
        if ((rate != NULL) == (o != NULL || i != NULL)) {
            status = mp_yaml_fail(r->d, n, r->err,
                                  "a port needs a rate, or out and in, not both (write for instance 50 GB/s)");
            goto out;
        }
        if (rate == NULL) {
            MP_TRY(mp_yaml_need(r->d, n, "out", &o, r->err));
            MP_TRY(mp_yaml_need(r->d, n, "in", &i, r->err));
            MP_TRY(mp_yaml_figure(r->d, o, "bytes/s", 1, TOPO_RATE_MAX, out, r->err));
            MP_TRY(mp_yaml_figure(r->d, i, "bytes/s", 1, TOPO_RATE_MAX, in, r->err));
            return MP_OK;
        }
    }
    MP_TRY(mp_yaml_figure(r->d, rate, "bytes/s", 1, TOPO_RATE_MAX, out, r->err));
    *in = *out;
out:
    return status;
}

struct port {
    bool is_given;
    uint64_t out, in;
    uint32_t shared_by;
    const struct mp_yaml *shared;
};

static enum mp_status read_port(struct reader *r, const struct mp_yaml *n, uint32_t repeat, struct port *p) {
    static const char *const keys[] = {"rate", "out", "in", "shared_by", "shared", "source", NULL};
    enum mp_status status;
    *p = (struct port){.is_given = true, .shared_by = 1};
    if (n->kind == MP_YAML_MAPPING && mp_yaml_get(n, "value") == NULL) {
        const struct mp_yaml *by = mp_yaml_get(n, "shared_by");
        p->shared = mp_yaml_get(n, "shared");
        MP_TRY(mp_yaml_keys(r->d, n, keys, r->err));
        if (by != NULL && p->shared != NULL) {
            status = mp_yaml_fail(r->d, by, r->err, "a port has shared_by or shared, not both (remove one)");
            goto out;
        }
        if (by != NULL)
            MP_TRY(mp_yaml_u32(r->d, by, 1, MP_MAX_GPUS, &p->shared_by, r->err));
        if (repeat % p->shared_by != 0) {
            status = mp_yaml_fail(r->d, by, r->err, "%u GPUs cannot share ports by %u (write a divisor of repeat)",
                                  repeat, p->shared_by);
            goto out;
        }
        if (p->shared != NULL)
            MP_TRY(mp_yaml_expect(r->d, p->shared, MP_YAML_SCALAR, r->err));
        MP_TRY(read_rates(r, n, &p->out, &p->in));
    } else {
        MP_TRY(read_rates(r, n, &p->out, &p->in));
    }
out:
    return status;
}

/* The ports of one entry of a node's GPUs, by level. */
static enum mp_status read_ports(struct reader *r, const struct mp_yaml *n, uint32_t repeat, struct port *ports) {
    enum mp_status status;
    const char *names[MP_MAX_LEVELS + 1] = {NULL};
    for (uint32_t l = 0; l < r->t->n_levels; l++)
        names[l] = r->levels[l].name;
    MP_TRY(mp_yaml_keys(r->d, n, names, r->err));
    for (uint32_t l = 0; l < r->t->n_levels; l++) {
        const struct mp_yaml *p = mp_yaml_get(n, names[l]);
        ports[l] = (struct port){0};
        if (p != NULL)
            MP_TRY(read_port(r, p, repeat, &ports[l]));
        else if (l == 0)
            MP_TRY(mp_yaml_need(r->d, n, names[0], &p, r->err));
    }
out:
    return status;
}

/* The ids of a port by name in this node; made at its first mention. */
static enum mp_status find_shared(struct reader *r, uint32_t level, const struct port *p, struct mp_gpu *gpu) {
    const struct shared_port *s = NULL;
    for (uint32_t i = 0; i < r->n_shared && s == NULL; i++)
        if (r->shared[i].level == level && strcmp(r->shared[i].name, p->shared->text) == 0)
            s = &r->shared[i];
    if (s == NULL) {
        r->shared[r->n_shared] = (struct shared_port){.name = p->shared->text, .level = level};
        r->shared[r->n_shared].out = add_resource(r, p->out, level, false, false);
        r->shared[r->n_shared].in = add_resource(r, p->in, level, true, false);
        s = &r->shared[r->n_shared++];
    } else if (r->resources[s->out].bytes_per_s != p->out || r->resources[s->in].bytes_per_s != p->in) {
        char quoted[200];
        return mp_yaml_fail(r->d, p->shared, r->err,
                            "the port \"%s\" has another rate above (write the same rate, or another name)",
                            mp_quote(p->shared->text, p->shared->length, quoted, sizeof quoted));
    }
    gpu->out_port[level] = s->out;
    gpu->in_port[level] = s->in;
    return MP_OK;
}

static enum mp_status add_gpus(struct reader *r, const struct mp_yaml *n) {
    enum mp_status status;
    const struct mp_yaml *type_node, *ports_node, *speed = mp_yaml_get(n, "speed");
    uint32_t repeat, type;
    uint64_t speed_ppm = 1000000;
    struct port ports[MP_MAX_LEVELS];
    MP_TRY(read_repeat(r, n, &repeat));
    MP_TRY(mp_yaml_need(r->d, n, "type", &type_node, r->err));
    MP_TRY(find_type(r, type_node, &type));
    if (speed != NULL)
        MP_TRY(mp_yaml_figure(r->d, speed, "ppm", 1000, 1000000000, &speed_ppm, r->err));
    MP_TRY(mp_yaml_need(r->d, n, "ports", &ports_node, r->err));
    MP_TRY(read_ports(r, ports_node, repeat, ports));
    for (uint32_t i = 0; i < repeat; i++) {
        struct mp_gpu *g = &r->gpus[r->n_gpus];
        *g = (struct mp_gpu){.type = type, .speed_ppm = (uint32_t)speed_ppm};
        for (uint32_t l = 0; l < r->t->n_levels; l++) {
            const struct port *p = &ports[l];
            g->group[l] = r->current[l];
            if (!p->is_given) {
                g->out_port[l] = g->out_port[l - 1];
                g->in_port[l] = g->in_port[l - 1];
            } else if (p->shared != NULL) {
                MP_TRY(find_shared(r, l, p, g));
            } else if (i % p->shared_by != 0) {
                g->out_port[l] = g[-1].out_port[l];
                g->in_port[l] = g[-1].in_port[l];
            } else {
                g->out_port[l] = add_resource(r, p->out, l, false, false);
                g->in_port[l] = add_resource(r, p->in, l, true, false);
            }
        }
        r->n_gpus++;
    }
out:
    return status;
}

static enum mp_status add_groups(struct reader *r, const struct mp_yaml *list, uint32_t level);

/* One group of `level` with all it holds. */
static enum mp_status add_group(struct reader *r, const struct mp_yaml *n, uint32_t level) {
    static const char *const keys[] = {"rate", "out", "in", "source", "value", NULL};
    enum mp_status status;
    const struct mp_yaml *uplink = mp_yaml_get(n, "uplink"), *list;
    uint32_t id = r->n_groups[level]++;
    r->current[level] = id;
    if (uplink != NULL) {
        uint64_t out, in;
        if (uplink->kind == MP_YAML_MAPPING)
            MP_TRY(mp_yaml_keys(r->d, uplink, keys, r->err));
        MP_TRY(read_rates(r, uplink, &out, &in));
        if (id == 0) {
            r->uplink_out[level] = mp_arena_alloc(r->arena, r->n_groups_wanted[level], sizeof(uint32_t));
            r->uplink_in[level] = mp_arena_alloc(r->arena, r->n_groups_wanted[level], sizeof(uint32_t));
            if (r->uplink_out[level] == NULL || r->uplink_in[level] == NULL)
                return mp_nomem(r->err, "reading a topology");
        }
        if (r->uplink_out[level] != NULL) {
            r->uplink_out[level][id] = add_resource(r, out, level, false, true);
            r->uplink_in[level][id] = add_resource(r, in, level, true, true);
        }
    }
    if ((uplink != NULL) != (r->uplink_out[level] != NULL)) {
        status =
            mp_yaml_fail(r->d, n, r->err,
                         "some groups of level \"%s\" have an uplink and some none (write uplink: for all or for none)",
                         r->levels[level].name);
        goto out;
    }
    MP_TRY(read_list(r, n, level == 0 ? "gpus" : "groups", &list));
    if (level > 0) {
        MP_TRY(add_groups(r, list, level - 1));
        return MP_OK;
    }
    r->n_shared = 0;
    for (uint32_t i = 0; i < list->n; i++)
        MP_TRY(add_gpus(r, &list->items[i]));
out:
    return status;
}

static enum mp_status add_groups(struct reader *r, const struct mp_yaml *list, uint32_t level) {
    enum mp_status status = MP_OK;
    for (uint32_t i = 0; i < list->n; i++) {
        uint32_t repeat;
        MP_TRY(read_repeat(r, &list->items[i], &repeat));
        for (uint32_t k = 0; k < repeat; k++)
            MP_TRY(add_group(r, &list->items[i], level));
    }
out:
    return status;
}

static enum mp_status allocate(struct reader *r) {
    uint64_t n_resources = 2 * r->n_gpus_wanted * r->t->n_levels;
    for (uint32_t l = 0; l < r->t->n_levels; l++)
        n_resources += 2 * r->n_groups_wanted[l];
    r->gpus = mp_arena_alloc(r->arena, r->n_gpus_wanted, sizeof *r->gpus);
    r->resources = mp_arena_alloc(r->arena, n_resources, sizeof *r->resources);
    r->shared = mp_calloc(r->n_gpus_wanted * r->t->n_levels, sizeof *r->shared);
    return r->gpus != NULL && r->resources != NULL && r->shared != NULL ? MP_OK
                                                                        : mp_nomem(r->err, "reading a topology");
}

/* A line of text; line breaks of a literal become blanks. */
static enum mp_status read_source(struct reader *r) {
    const struct mp_yaml *n = mp_yaml_get(r->d->root, "source");
    enum mp_status status = n != NULL ? mp_yaml_expect(r->d, n, MP_YAML_SCALAR, r->err) : MP_OK;
    if (status != MP_OK)
        return status;
    char *text = mp_arena_strndup(r->arena, n != NULL ? n->text : "", n != NULL ? n->length : 0);
    if (text == NULL)
        return mp_nomem(r->err, "reading a topology");
    for (char *c = text; *c != '\0'; c++)
        *c = *c == '\n' || *c == '\r' ? ' ' : *c;
    if (!mp_is_text(text, strlen(text)))
        return mp_yaml_fail(r->d, n, r->err, "holds characters that cannot be shown (write a line of text)");
    r->t->source = text;
    return MP_OK;
}

static enum mp_status read_topology(struct reader *r) {
    static const char *const keys[] = {"schema",       "version",   "name",   "summary", "source", "launch",
                                       "stage_launch", "gpu_types", "levels", "groups",  "gpus",   NULL};
    enum mp_status status;
    const struct mp_yaml *n, *root = r->d->root, *list;
    struct mp_topology *t = r->t;
    MP_TRY(mp_yaml_schema(r->d, "moeplan.topology", r->err));
    MP_TRY(mp_yaml_keys(r->d, root, keys, r->err));
    MP_TRY(mp_yaml_need(r->d, root, "name", &n, r->err));
    MP_TRY(topo_name(r->d, n, r->arena, &t->name, r->err));
    MP_TRY(read_source(r));
    MP_TRY(mp_yaml_need(r->d, root, "launch", &n, r->err));
    MP_TRY(mp_yaml_figure(r->d, n, "ns", 0, TOPO_TIME_MAX, &t->launch_ns, r->err));
    t->stage_launch_ns = t->launch_ns;
    if ((n = mp_yaml_get(root, "stage_launch")) != NULL)
        MP_TRY(mp_yaml_figure(r->d, n, "ns", 0, TOPO_TIME_MAX, &t->stage_launch_ns, r->err));
    MP_TRY(read_levels(r));
    uint32_t last = t->n_levels - 1;
    const char *want = last == 0 ? "gpus" : "groups", *other = last == 0 ? "groups" : "gpus";
    if ((n = mp_yaml_get(root, other)) != NULL) {
        status =
            mp_yaml_fail(r->d, n, r->err,
                         last == 0 ? "with one level there are no groups (write gpus: at the top)"
                                   : "with several levels GPUs stand inside groups (write groups:, and gpus: in each)");
        goto out;
    }
    MP_TRY(read_list(r, root, want, &list));
    MP_TRY(last == 0 ? count_gpus(r, list, &r->n_gpus_wanted)
                     : count_groups(r, list, last - 1, &r->n_gpus_wanted, r->n_groups_wanted));
    r->n_groups_wanted[last] = 1;
    MP_TRY(read_types(r));
    MP_TRY(allocate(r));
    r->n_groups[last] = 1; /* current[last] is 0 already */
    if (last > 0)
        MP_TRY(add_groups(r, list, last - 1));
    else
        for (uint32_t i = 0; i < list->n; i++)
            MP_TRY(add_gpus(r, &list->items[i]));
    for (uint32_t l = 0; l <= last; l++) {
        r->levels[l].n_groups = r->n_groups[l];
        r->levels[l].uplink_out = r->uplink_out[l];
        r->levels[l].uplink_in = r->uplink_in[l];
    }
    t->gpus = r->gpus;
    t->types = r->types;
    t->levels = r->levels;
    t->resources = r->resources;
    t->n_gpus = r->n_gpus;
    t->n_types = r->n_types;
    t->n_resources = r->n_resources;
out:
    return status;
}

enum mp_status mp_topology_parse(struct mp_topology **out, const struct mp_in *in, const struct mp_limits *limits,
                                 struct mp_error *err) {
    enum mp_status status;
    struct mp_limits own = limits != NULL ? *limits : mp_limits_default;
    struct mp_yaml_doc *d = NULL;
    struct reader r = {.err = err};
    *out = NULL;
    own.yaml_events = own.yaml_events < MAX_EVENTS ? own.yaml_events : MAX_EVENTS;
    MP_TRY(mp_yaml_parse(&d, in, &own, err));
    r.d = d;
    r.arena = mp_arena_new();
    r.t = r.arena != NULL ? mp_arena_alloc(r.arena, 1, sizeof *r.t) : NULL;
    if (r.t == NULL) {
        status = mp_nomem(err, "reading a topology");
        goto out;
    }
    r.t->arena = r.arena;
    MP_TRY(read_topology(&r));
    mp_sha256_hex(in->data, in->size, r.t->sha256);
    MP_TRY(mp_topology_check(r.t, err));
    *out = r.t;
    r.arena = NULL;
out:
    mp_free(r.shared);
    mp_arena_free(r.arena);
    mp_yaml_free(d);
    return status;
}
