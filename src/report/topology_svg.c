/* A topology as a picture: groups are boxes inside each other with their switch as a bar, GPUs are tiles coloured by
 * type, NICs stand under the GPUs that share them. Parts that are alike are drawn once when there are many. No scripts,
 * no fonts to load; colours follow the reader's light or dark theme. */
#include "topology_shape.h"
#include <stdio.h>
#include <string.h>

enum {
    TILE_W = 80,
    TILE_H = 34,
    GAP = 8,
    PAD = 14,
    BAR = 20,
    TITLE = 20,
    CHIP = 18,
    PER_ROW = 8,    /* GPUs of a node side by side */
    WIDTH = 1260,   /* groups stand side by side up to this */
    WHOLE_GPUS = 72 /* larger clusters show alike groups once */
};
struct size {
    uint32_t w, h;
};

static void put_escaped(struct mp_out *o, const char *s) {
    for (; *s != '\0'; s++) {
        if (*s == '<')
            mp_out_puts(o, "&lt;");
        else if (*s == '>')
            mp_out_puts(o, "&gt;");
        else if (*s == '&')
            mp_out_puts(o, "&amp;");
        else if ((unsigned char)*s < ' ')
            mp_out_puts(o, " ");
        else
            mp_out_write(o, s, 1);
    }
}

static void put_text(struct mp_out *o, uint32_t x, uint32_t y, const char *class, const char *text, uint32_t room) {
    char cut[256];
    uint32_t most = room / 7; /* a letter of 12 px is about 7 wide */
    snprintf(cut, sizeof cut, "%s", text);
    if (strlen(cut) > most && most > 3 && most < sizeof cut) {
        while (most > 3 && ((unsigned char)cut[most - 2] & 0xC0) == 0x80)
            most--; /* not inside a character */
        memcpy(cut + most - 2, "..", 3);
    }
    mp_out_printf(o, "<text class=\"%s\" x=\"%u\" y=\"%u\">", class, x, y);
    put_escaped(o, cut);
    mp_out_puts(o, "</text>\n");
}

static void put_box(struct mp_out *o, const char *class, uint32_t x, uint32_t y, uint32_t w, uint32_t h) {
    mp_out_printf(o, "<rect class=\"%s\" x=\"%u\" y=\"%u\" width=\"%u\" height=\"%u\" rx=\"5\"/>\n", class, x, y, w, h);
}

/* Levels above the node for which some GPU of it has a port of its own. */
static uint32_t n_nic_rows(const struct shape *s, uint32_t node) {
    uint32_t rows = 0;
    for (uint32_t l = 1; l < s->t->n_levels; l++) {
        bool is_there = false;
        for (uint32_t g = s->first[0][node]; g < s->first[0][node + 1] && !is_there; g++)
            is_there = shape_has_port(s->t, g, l);
        rows += is_there;
    }
    return rows;
}

static struct size node_size(const struct shape *s, uint32_t node) {
    const uint32_t n = s->first[0][node + 1] - s->first[0][node], columns = n < PER_ROW ? n : PER_ROW;
    const uint32_t rows = (n + PER_ROW - 1) / PER_ROW, row = TILE_H + n_nic_rows(s, node) * (CHIP + 4) + GAP;
    const uint32_t w = columns * (TILE_W + GAP) - GAP + 2 * PAD;
    return (struct size){w < 230 ? 230 : w, TITLE + BAR + GAP + rows * row + PAD};
}

/* The groups of a level that are drawn, runs of alike ones cut to the first where the cluster is large. */
static uint32_t next_drawn(const struct shape *s, uint32_t level, uint32_t c, uint32_t end) {
    uint32_t next = c + 1;
    while (s->t->n_gpus > WHOLE_GPUS && next < end && shape_groups_alike(s, level, c, next))
        next++;
    return next;
}

static struct size group_size(const struct shape *s, uint32_t level, uint32_t g);

/* Lays the parts of a group out in rows; with `o` also draws them. */
static struct size lay_out(const struct shape *s, uint32_t level, uint32_t g, uint32_t x0, uint32_t y0,
                           struct mp_out *o);

static struct size group_size(const struct shape *s, uint32_t level, uint32_t g) {
    return level == 0 ? node_size(s, g) : lay_out(s, level, g, 0, 0, NULL);
}

static void title_of(const struct shape *s, uint32_t level, uint32_t g, uint32_t n_alike, char *buf, size_t size) {
    const struct mp_level *v = &s->t->levels[level];
    const char *what = level == 0 ? "node" : v->name;
    char rate[80], uplink[100] = "";
    if (v->uplink_out != NULL)
        snprintf(uplink, sizeof uplink, ", uplink %s", shape_rate(s->t, v->uplink_out[g], v->uplink_in[g], rate));
    if (v->n_groups == 1)
        snprintf(buf, size, "all %u GPUs%s", s->t->n_gpus, uplink);
    else if (n_alike > 1)
        snprintf(buf, size, "%u alike: %s %u to %u%s", n_alike, what, g, g + n_alike - 1, uplink);
    else
        snprintf(buf, size, "%s %u%s", what, g, uplink);
}

static void put_bar(const struct shape *s, uint32_t level, uint32_t x, uint32_t y, uint32_t w, struct mp_out *o) {
    const struct mp_level *v = &s->t->levels[level];
    char text[256], a[32], b[32], pair[64] = "";
    if (v->pair_bytes_per_s > 0)
        snprintf(pair, sizeof pair, ", mesh %s/s a pair", mp_human_bytes((double)v->pair_bytes_per_s, b));
    snprintf(text, sizeof text, "%.100s, %s%s", v->name, mp_human_ns((double)v->latency_ns, a), pair);
    mp_out_printf(o, "<rect class=\"bar l%u\" x=\"%u\" y=\"%u\" width=\"%u\" height=\"%u\" rx=\"3\"/>\n", level, x, y,
                  w, (unsigned)BAR);
    put_text(o, x + 8, y + 14, "on", text, w - 12);
}

static void put_node(const struct shape *s, uint32_t node, uint32_t x, uint32_t y, struct mp_out *o) {
    const struct mp_topology *t = s->t;
    const uint32_t first = s->first[0][node], end = s->first[0][node + 1];
    const uint32_t row_h = TILE_H + n_nic_rows(s, node) * (CHIP + 4) + GAP;
    put_bar(s, 0, x + PAD, y + TITLE, node_size(s, node).w - 2 * PAD, o);
    for (uint32_t g = first; g < end; g++) {
        const struct mp_gpu *v = &t->gpus[g];
        const uint32_t k = g - first, left = x + PAD + k % PER_ROW * (TILE_W + GAP);
        uint32_t top = y + TITLE + BAR + GAP + k / PER_ROW * row_h;
        char text[300], rate[80], small[32];
        mp_out_puts(o, "<g><title>");
        snprintf(text, sizeof text, "GPU %u, %.60s, %.1f %%", g, t->types[v->type].name, (double)v->speed_ppm / 1e4);
        put_escaped(o, text);
        for (uint32_t l = 0; l < t->n_levels; l++)
            if (shape_has_port(t, g, l)) {
                snprintf(text, sizeof text, "; %.60s %s", t->levels[l].name,
                         shape_rate(t, v->out_port[l], v->in_port[l], rate));
                put_escaped(o, text);
            }
        mp_out_puts(o, "</title>\n");
        mp_out_printf(o, "<rect class=\"gpu t%u\" x=\"%u\" y=\"%u\" width=\"%u\" height=\"%u\" rx=\"4\"/>\n",
                      v->type % 6, left, top, (unsigned)TILE_W, (unsigned)TILE_H);
        if (v->speed_ppm == 1000000)
            snprintf(text, sizeof text, "%u  %.40s", g, t->types[v->type].name);
        else
            snprintf(text, sizeof text, "%u  %.40s %.0f%%", g, t->types[v->type].name, (double)v->speed_ppm / 1e4);
        put_text(o, left + 6, top + 14, "on strong", text, TILE_W - 8);
        snprintf(text, sizeof text, "%s/s", mp_human_bytes((double)t->resources[v->out_port[0]].bytes_per_s, small));
        put_text(o, left + 6, top + 28, "on", text, TILE_W - 4);
        mp_out_puts(o, "</g>\n");
        top += TILE_H + 4;
        for (uint32_t l = 1; l < t->n_levels; l++) {
            bool is_row = false;
            for (uint32_t h = first; h < end && !is_row; h++)
                is_row = shape_has_port(t, h, l);
            if (!is_row)
                continue;
            if (shape_has_port(t, g, l)) { /* one chip over all neighbours of this row that share it */
                const uint32_t port = v->out_port[l];
                uint32_t span = 1;
                const bool begins = k % PER_ROW == 0 || t->gpus[g - 1].out_port[l] != port;
                while (g + span < end && (k + span) % PER_ROW != 0 && t->gpus[g + span].out_port[l] == port)
                    span++;
                if (begins) {
                    const uint32_t w = span * (TILE_W + GAP) - GAP;
                    mp_out_printf(o,
                                  "<rect class=\"chip l%u\" x=\"%u\" y=\"%u\" width=\"%u\" height=\"%u\" rx=\"3\"/>\n",
                                  l, left, top, w, (unsigned)CHIP);
                    snprintf(text, sizeof text, "%s/s", mp_human_bytes((double)t->resources[port].bytes_per_s, small));
                    put_text(o, left + 6, top + 13, "on", text, w - 4);
                }
            }
            top += CHIP + 4;
        }
    }
}

static struct size lay_out(const struct shape *s, uint32_t level, uint32_t g, uint32_t x0, uint32_t y0,
                           struct mp_out *o) {
    uint32_t begin, end, x = PAD, y = TITLE + BAR + GAP, row_h = 0, w = 0;
    shape_children(s, level, g, &begin, &end);
    for (uint32_t c = begin, next; c < end; c = next) {
        const struct size z = group_size(s, level - 1, c);
        next = next_drawn(s, level - 1, c, end);
        if (x > PAD && x + z.w + PAD > WIDTH) {
            x = PAD;
            y += row_h + GAP;
            row_h = 0;
        }
        if (o != NULL) {
            char title[256];
            title_of(s, level - 1, c, next - c, title, sizeof title);
            put_box(o, next > c + 1 ? "group many" : "group", x0 + x, y0 + y, z.w, z.h);
            put_text(o, x0 + x + PAD, y0 + y + 14, "ink", title, z.w - 2 * PAD);
            if (level - 1 == 0)
                put_node(s, c, x0 + x, y0 + y, o);
            else
                (void)lay_out(s, level - 1, c, x0 + x, y0 + y, o);
        }
        row_h = z.h > row_h ? z.h : row_h;
        x += z.w + GAP;
        w = x > w ? x : w;
    }
    const struct size z = {w - GAP + PAD, y + row_h + PAD};
    if (o != NULL)
        put_bar(s, level, x0 + PAD, y0 + TITLE, z.w - 2 * PAD, o);
    return z;
}

static void put_style(struct mp_out *o) {
    mp_out_puts(
        o, "<style>\n"
           "text{font:12px system-ui,sans-serif;fill:#1b1f24}.on{fill:#fff}.strong{font-weight:600}\n"
           ".paper{fill:#fff}.group{fill:#f3f5f7;stroke:#8b949e}.many{stroke-width:3;stroke-dasharray:7 4}\n"
           ".l0{fill:#1a6b4a}.l1{fill:#7a4fa0}.l2{fill:#9a5b13}.l3{fill:#5a6069}\n"
           ".t0{fill:#1f5fa8}.t1{fill:#a33d2e}.t2{fill:#2f6f6f}.t3{fill:#6b5a12}.t4{fill:#8a3a72}.t5{fill:#4b5563}\n"
           "@media "
           "(prefers-color-scheme:dark){.ink{fill:#e6edf3}.paper{fill:#0d1117}.group{fill:#161b22;stroke:#6e7681}}\n"
           "</style>\n");
}

enum mp_status mp_topology_draw_svg(const struct mp_topology *t, struct mp_out *o, struct mp_error *err) {
    struct shape s;
    const uint32_t top = t->n_levels - 1;
    char title[256];
    enum mp_status status = shape_new(&s, t, err);
    if (status != MP_OK)
        return status;
    const struct size z = group_size(&s, top, 0);
    const uint32_t w = z.w + 2 * PAD, h = z.h + 2 * PAD + TITLE;
    mp_out_printf(
        o,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%u\" height=\"%u\" viewBox=\"0 0 %u %u\" role=\"img\" "
        "aria-labelledby=\"title desc\">\n<title id=\"title\">",
        w, h, w, h);
    put_escaped(o, t->name);
    mp_out_puts(o, "</title>\n<desc id=\"desc\">");
    title_of(&s, top, 0, 1, title, sizeof title);
    mp_out_printf(o, "%s in %u node%s", title, mp_topology_n_nodes(t), mp_topology_n_nodes(t) == 1 ? "" : "s");
    for (uint32_t l = 0; l < t->n_levels; l++) {
        mp_out_puts(o, l == 0 ? ", joined by " : ", then ");
        put_escaped(o, t->levels[l].name);
    }
    mp_out_puts(o, "</desc>\n");
    put_style(o);
    mp_out_printf(o, "<rect class=\"paper\" width=\"%u\" height=\"%u\"/>\n", w, h);
    put_text(o, PAD, PAD + 10, "ink strong", t->name, z.w);
    put_box(o, "group", PAD, PAD + TITLE, z.w, z.h);
    put_text(o, 2 * PAD, PAD + TITLE + 14, "ink", title, z.w - 2 * PAD);
    if (top == 0)
        put_node(&s, 0, PAD, PAD + TITLE, o);
    else
        (void)lay_out(&s, top, 0, PAD, PAD + TITLE, o);
    mp_out_puts(o, "</svg>\n");
    shape_free(&s);
    return MP_OK;
}
