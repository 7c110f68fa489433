/* The canonical YAML of a topology (topologies/FORMAT.md): every figure in its base unit, equal neighbours folded with
 * `repeat`, shared ports by name. */
#include "topo.h"

static const struct mp_resource *port(const struct mp_topology *t, uint32_t gpu, uint32_t level, bool is_in) {
    const struct mp_gpu *g = &t->gpus[gpu];
    return &t->resources[is_in ? g->in_port[level] : g->out_port[level]];
}

static uint32_t group_end(const struct mp_topology *t, uint32_t first, uint32_t level) {
    uint32_t g = first;
    while (g < t->n_gpus && t->gpus[g].group[level] == t->gpus[first].group[level])
        g++;
    return g;
}

static uint64_t uplink(const struct mp_topology *t, uint32_t gpu, uint32_t level, bool is_in) {
    const uint32_t *ids = is_in ? t->levels[level].uplink_in : t->levels[level].uplink_out;
    return ids != NULL ? t->resources[ids[t->gpus[gpu].group[level]]].bytes_per_s : 0;
}

/* Do the groups of `level` that start at GPUs a and b look the same? */
static bool is_same_group(const struct mp_topology *t, uint32_t a, uint32_t b, uint32_t level) {
    uint32_t n = group_end(t, a, level) - a;
    if (group_end(t, b, level) - b != n)
        return false;
    for (uint32_t i = 0; i < n; i++) {
        const struct mp_gpu *x = &t->gpus[a + i], *y = &t->gpus[b + i];
        if (x->type != y->type || x->speed_ppm != y->speed_ppm)
            return false;
        for (uint32_t l = 0; l < t->n_levels; l++) {
            if (l <= level && (x->group[l] - t->gpus[a].group[l] != y->group[l] - t->gpus[b].group[l] ||
                               uplink(t, a + i, l, false) != uplink(t, b + i, l, false) ||
                               uplink(t, a + i, l, true) != uplink(t, b + i, l, true)))
                return false;
            for (int side = 0; side < 2; side++) {
                const struct mp_resource *p = port(t, a + i, l, side == 1), *q = port(t, b + i, l, side == 1);
                if (p->level != q->level || p->bytes_per_s != q->bytes_per_s || p->first_gpu - a != q->first_gpu - b)
                    return false;
            }
        }
    }
    return true;
}

static bool is_shared(const struct mp_topology *t, uint32_t gpu, uint32_t level) {
    uint32_t id = t->gpus[gpu].out_port[level];
    if (t->resources[id].first_gpu != gpu)
        return true;
    for (uint32_t g = gpu + 1, end = group_end(t, gpu, 0); g < end; g++)
        if (t->gpus[g].out_port[level] == id)
            return true;
    return false;
}

/* Can GPU b be folded into the entry of GPU a of the same node? */
static bool is_same_entry(const struct mp_topology *t, uint32_t a, uint32_t b) {
    const struct mp_gpu *x = &t->gpus[a], *y = &t->gpus[b];
    if (x->type != y->type || x->speed_ppm != y->speed_ppm)
        return false;
    for (uint32_t l = 0; l < t->n_levels; l++) {
        const struct mp_resource *xo = port(t, a, l, false), *yo = port(t, b, l, false);
        if (xo->level != yo->level || xo->bytes_per_s != yo->bytes_per_s ||
            port(t, a, l, true)->bytes_per_s != port(t, b, l, true)->bytes_per_s)
            return false;
        if (xo->level == l && x->out_port[l] != y->out_port[l] && (is_shared(t, a, l) || is_shared(t, b, l)))
            return false;
    }
    return true;
}

static void indent(struct mp_out *o, uint32_t depth) {
    for (uint32_t i = 0; i < depth; i++)
        mp_out_puts(o, "  ");
}

static void write_gpus(const struct mp_topology *t, uint32_t first, uint32_t end, uint32_t depth, struct mp_out *o) {
    for (uint32_t g = first, next; g < end; g = next) {
        for (next = g + 1; next < end && is_same_entry(t, g, next);)
            next++;
        indent(o, depth);
        mp_out_printf(o, "- repeat: %u\n", next - g);
        indent(o, depth + 1);
        mp_out_puts(o, "type: ");
        mp_yaml_write_string(o, t->types[t->gpus[g].type].name);
        mp_out_puts(o, "\n");
        indent(o, depth + 1);
        mp_out_printf(o, "speed: %u ppm\n", t->gpus[g].speed_ppm);
        indent(o, depth + 1);
        mp_out_puts(o, "ports:\n");
        for (uint32_t l = 0; l < t->n_levels; l++) {
            const struct mp_resource *out = port(t, g, l, false), *in = port(t, g, l, true);
            if (out->level != l)
                continue; /* the port of the level below */
            indent(o, depth + 2);
            mp_yaml_write_string(o, t->levels[l].name);
            mp_out_printf(o, ": {out: %llu B/s, in: %llu B/s", (unsigned long long)out->bytes_per_s,
                          (unsigned long long)in->bytes_per_s);
            if (is_shared(t, g, l))
                mp_out_printf(o, ", shared: n%u", out->first_gpu - first);
            mp_out_puts(o, "}\n");
        }
    }
}

/* The groups of `level` among GPUs [first, end). */
static void write_groups(const struct mp_topology *t, uint32_t first, uint32_t end, uint32_t level, uint32_t depth,
                         struct mp_out *o) {
    for (uint32_t g = first; g < end;) {
        uint32_t one_end = group_end(t, g, level), next = one_end, n = 1;
        for (; next < end && is_same_group(t, g, next, level); n++)
            next = group_end(t, next, level);
        indent(o, depth);
        mp_out_printf(o, "- repeat: %u\n", n);
        if (uplink(t, g, level, false) > 0) {
            indent(o, depth + 1);
            mp_out_printf(o, "uplink: {out: %llu B/s, in: %llu B/s}\n", (unsigned long long)uplink(t, g, level, false),
                          (unsigned long long)uplink(t, g, level, true));
        }
        indent(o, depth + 1);
        mp_out_puts(o, level == 0 ? "gpus:\n" : "groups:\n");
        if (level == 0)
            write_gpus(t, g, one_end, depth + 2, o);
        else
            write_groups(t, g, one_end, level - 1, depth + 2, o);
        g = next;
    }
}

static void write_type(const struct mp_gpu_type *type, struct mp_out *o) {
    mp_out_puts(o, "  ");
    mp_yaml_write_string(o, type->name);
    mp_out_puts(o, ":\n");
    if (type->source[0] != '\0') {
        mp_out_puts(o, "    source: ");
        mp_yaml_write_string(o, type->source);
        mp_out_puts(o, "\n");
    }
    mp_out_printf(o, "    memory: %llu B\n    hbm: %llu B/s\n    flops_16bit: %llu FLOPS\n    flops_8bit: %llu FLOPS\n",
                  (unsigned long long)type->memory_bytes, (unsigned long long)type->hbm_bytes_per_s,
                  (unsigned long long)type->flops_16bit, (unsigned long long)type->flops_8bit);
    mp_out_printf(
        o, "    hbm_efficiency: %u ppm\n    flops_efficiency: %u ppm\n    kernel: %llu ns\n    tile_tokens: %u\n",
        type->hbm_efficiency_ppm, type->flops_efficiency_ppm, (unsigned long long)type->kernel_ns, type->tile_tokens);
    for (uint32_t i = 0; i < type->n_coefficients; i++) {
        const struct mp_compute_coefficients *c = &type->coefficients[i];
        mp_out_puts(o, i == 0 ? "    compute:\n      - model: " : "      - model: ");
        mp_yaml_write_string(o, c->model);
        mp_out_printf(o, "\n        a_ps: %llu\n        b_ps: %llu\n        c_ps: %llu\n        beta_ps: %llu\n",
                      (unsigned long long)c->a_ps, (unsigned long long)c->b_ps, (unsigned long long)c->c_ps,
                      (unsigned long long)c->beta_ps);
    }
}

void mp_topology_write(const struct mp_topology *t, struct mp_out *o) {
    mp_out_puts(o, "schema: moeplan.topology\nversion: 1\nname: ");
    mp_yaml_write_string(o, t->name);
    if (t->source[0] != '\0') {
        mp_out_puts(o, "\nsource: ");
        mp_yaml_write_string(o, t->source);
    }
    mp_out_printf(o, "\nlaunch: %llu ns\nstage_launch: %llu ns\ngpu_types:\n", (unsigned long long)t->launch_ns,
                  (unsigned long long)t->stage_launch_ns);
    for (uint32_t i = 0; i < t->n_types; i++)
        write_type(&t->types[i], o);
    mp_out_puts(o, "levels:\n");
    for (uint32_t l = 0; l < t->n_levels; l++) {
        const struct mp_level *v = &t->levels[l];
        mp_out_puts(o, "  - name: ");
        mp_yaml_write_string(o, v->name);
        mp_out_printf(o, "\n    latency: %llu ns\n", (unsigned long long)v->latency_ns);
        if (v->pair_bytes_per_s > 0)
            mp_out_printf(o, "    pair: %llu B/s\n", (unsigned long long)v->pair_bytes_per_s);
        for (uint32_t i = 0; i < v->n_incast; i++)
            mp_out_printf(o, "%s%u ppm%s", i == 0 ? "    incast: [" : ", ", v->incast_ppm[i],
                          i + 1 == v->n_incast ? "]\n" : "");
    }
    if (t->n_levels == 1) {
        mp_out_puts(o, "gpus:\n");
        write_gpus(t, 0, t->n_gpus, 1, o);
    } else {
        mp_out_puts(o, "groups:\n");
        write_groups(t, 0, t->n_gpus, t->n_levels - 2, 1, o);
    }
}
