/* A topology drawn as a tree, alike parts once, and for few GPUs what a single transfer between each two gets. */
#include "topology_shape.h"
#include <stdio.h>
#include <string.h>

enum { MATRIX_GPUS = 8 };

/* `open`: bit k set = the branch at depth k goes on below. */
static void put_indent(struct mp_out *o, uint32_t depth, uint32_t open, bool is_last) {
    for (uint32_t k = 1; k < depth; k++)
        mp_out_puts(o, (open >> k & 1) != 0 ? "|   " : "    ");
    mp_out_puts(o, is_last ? "`-- " : "|-- ");
}

static void put_level(const struct mp_topology *t, uint32_t l, struct mp_out *o) {
    char text[32];
    const struct mp_level *v = &t->levels[l];
    mp_out_printf(o, "%s, %s", v->name, mp_human_ns((double)v->latency_ns, text));
    if (v->pair_bytes_per_s > 0)
        mp_out_printf(o, ", a mesh: %s/s for each pair", mp_human_bytes((double)v->pair_bytes_per_s, text));
    if (v->n_incast > 1)
        mp_out_printf(o, ", incast: %.0f %% with %u flows", (double)v->incast_ppm[v->n_incast - 1] / 1e4, v->n_incast);
}

/* "GPUs 0 to 7", of a group that stands for several "GPUs 0 to 7 of the first". */
static void put_range(struct mp_out *o, const char *what, uint32_t first, uint32_t last, bool of_first) {
    if (first == last)
        mp_out_printf(o, "%s %u", what, first);
    else
        mp_out_printf(o, "%ss %u to %u", what, first, last);
    if (of_first)
        mp_out_puts(o, " of the first");
}

static void put_gpus(const struct shape *s, uint32_t node, uint32_t depth, uint32_t open, bool of_first,
                     struct mp_out *o) {
    const struct mp_topology *t = s->t;
    const uint32_t end = s->first[0][node + 1];
    for (uint32_t g = s->first[0][node], next; g < end; g = next) {
        const struct mp_gpu *v = &t->gpus[g];
        char text[80];
        for (next = g + 1; next < end && shape_gpus_alike(t, g, next);)
            next++;
        put_indent(o, depth, open, next == end);
        mp_out_printf(o, "%u x %s", next - g, t->types[v->type].name);
        if (v->speed_ppm != 1000000)
            mp_out_printf(o, " at %.1f %%", (double)v->speed_ppm / 1e4);
        mp_out_puts(o, " (");
        put_range(o, "GPU", g, next - 1, of_first);
        mp_out_puts(o, ")");
        for (uint32_t l = 0; l < t->n_levels; l++) {
            if (!shape_has_port(t, g, l))
                continue;
            mp_out_printf(o, "; %s %s", t->levels[l].name, shape_rate(t, v->out_port[l], v->in_port[l], text));
            if (shape_sharers(t, g, l) > 1)
                mp_out_printf(o, " for each %u", shape_sharers(t, g, l));
        }
        mp_out_puts(o, "\n");
    }
}

static void put_group(const struct shape *s, uint32_t level, uint32_t g, uint32_t depth, uint32_t open, bool of_first,
                      struct mp_out *o) {
    const struct mp_topology *t = s->t;
    if (level == 0) {
        put_gpus(s, g, depth, open, of_first, o);
        return;
    }
    uint32_t begin, end;
    shape_children(s, level, g, &begin, &end);
    for (uint32_t c = begin, next; c < end; c = next) {
        const struct mp_level *below = &t->levels[level - 1];
        const char *what = level == 1 ? "node" : "group";
        char text[80];
        for (next = c + 1; next < end && shape_groups_alike(s, level - 1, c, next);)
            next++;
        put_indent(o, depth, open, next == end);
        if (next > c + 1)
            mp_out_printf(o, "%u alike, ", next - c);
        put_range(o, what, c, next - 1, of_first);
        mp_out_puts(o, ": ");
        put_level(t, level - 1, o);
        if (below->uplink_out != NULL)
            mp_out_printf(o, "; uplink %s", shape_rate(t, below->uplink_out[c], below->uplink_in[c], text));
        mp_out_puts(o, "\n");
        put_group(s, level - 1, c, depth + 1, next == end ? open : open | 1u << depth, of_first || next > c + 1, o);
    }
}

/* The rate of one transfer that has everything on its way to itself. */
static uint64_t lone_rate(const struct mp_topology *t, uint32_t src, uint32_t dst) {
    struct mp_path p;
    uint64_t rate = UINT64_MAX;
    mp_topology_path(t, src, dst, &p);
    for (uint32_t k = 0; k < p.n; k++)
        rate = t->resources[p.resource[k]].bytes_per_s < rate ? t->resources[p.resource[k]].bytes_per_s : rate;
    return p.cap_bytes_per_s > 0 && p.cap_bytes_per_s < rate ? p.cap_bytes_per_s : rate;
}

static void put_matrix(const struct mp_topology *t, struct mp_out *o) {
    mp_out_puts(o, "\nGB/s of one transfer alone, from the GPU of the row to that of the column\n\n    ");
    for (uint32_t g = 0; g < t->n_gpus; g++)
        mp_out_printf(o, "%7u", g);
    mp_out_puts(o, "\n");
    for (uint32_t a = 0; a < t->n_gpus; a++) {
        mp_out_printf(o, "%4u", a);
        for (uint32_t b = 0; b < t->n_gpus; b++)
            if (a == b)
                mp_out_printf(o, "%7s", "-");
            else
                mp_out_printf(o, "%7.*f", lone_rate(t, a, b) < 100000000000 ? 2 : 1, (double)lone_rate(t, a, b) / 1e9);
        mp_out_puts(o, "\n");
    }
}

enum mp_status mp_topology_draw_text(const struct mp_topology *t, struct mp_out *o, struct mp_error *err) {
    struct shape s;
    enum mp_status status = shape_new(&s, t, err);
    if (status != MP_OK)
        return status;
    put_level(t, t->n_levels - 1, o);
    mp_out_printf(o, ": all %u GPU%s\n", t->n_gpus, t->n_gpus == 1 ? "" : "s");
    put_group(&s, t->n_levels - 1, 0, 1, 0, false, o);
    if (t->n_gpus > 1 && t->n_gpus <= MATRIX_GPUS)
        put_matrix(t, o);
    shape_free(&s);
    return MP_OK;
}
