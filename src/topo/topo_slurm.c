/* Reading Slurm's topology.conf and topology.yaml into records, and records into a tree. */
#include "topo_slurm.h"
#include <ctype.h>
#include <moeplan/base.h>
#include <moeplan/json.h>
#include <stdio.h>
#include <string.h>

static bool is_key(const char *s, size_t n, const char *key) {
    if (strlen(key) != n)
        return false;
    for (size_t i = 0; i < n; i++)
        if (tolower((unsigned char)s[i]) != key[i])
            return false;
    return true;
}

static size_t blanks(const char *s, size_t n) {
    size_t i = 0;
    while (i < n && (s[i] == ' ' || s[i] == '\t'))
        i++;
    return i;
}

bool slurm_detect(const char *text, size_t size) {
    const char *cursor = text, *line;
    size_t n;
    bool has_topology = false;
    for (uint32_t k = 0; k < 100000 && mp_next_line(&cursor, text + size, &line, &n); k++) {
        const size_t i = blanks(line, n);
        const char *s = line + i;
        const size_t left = n - i;
        const char *sign = memchr(s, '=', left);
        const size_t equals = sign != NULL ? (size_t)(sign - s) : left;
        if (left == 0 || s[0] == '#')
            continue;
        if (equals < left &&
            (is_key(s, equals, "switchname") || is_key(s, equals, "blockname") || is_key(s, equals, "blocksizes")))
            return true;
        has_topology = has_topology || (left > 11 && memcmp(s, "- topology:", 11) == 0);
        if (has_topology && left >= 5 && (memcmp(s, "tree:", 5) == 0 || memcmp(s, "flat:", 5) == 0))
            return true;
        if (has_topology && left >= 6 && memcmp(s, "block:", 6) == 0)
            return true;
        if (!has_topology && s[0] != '-')
            return false; /* the first line that says something is another format's */
    }
    return false;
}

static struct slurm_record *add_record(struct slurm_file *f, uint64_t line, struct mp_error *err) {
    if (f->n_records == SLURM_MAX_RECORDS) {
        (void)mp_fail_at(err, MP_ELIMIT, f->in->path, line, 0, "more than %u switches (write fewer)",
                         (uint32_t)SLURM_MAX_RECORDS);
        return NULL;
    }
    if (f->n_records == f->n_room) {
        const uint32_t room = f->n_room == 0 ? 64 : 2 * f->n_room;
        struct slurm_record *grown = mp_arena_alloc(f->arena, room, sizeof *grown);
        if (grown == NULL) {
            (void)mp_nomem(err, "reading a topology");
            return NULL;
        }
        if (f->n_records > 0)
            memcpy(grown, f->records, f->n_records * sizeof *grown);
        f->records = grown;
        f->n_room = room;
    }
    return &f->records[f->n_records++];
}

/* ---- topology.conf ---- */

/* The record that a line, or several joined by a backslash, is filling. */
struct conf {
    struct slurm_file *f;
    struct slurm_record *record;
    uint64_t line, start; /* of the record */
    const char *bytes;    /* of the line */
    struct mp_error *err;
};

static enum mp_status conf_fail(const struct conf *c, const char *at, const char *what) {
    return mp_fail_at(c->err, MP_EINPUT, c->f->in->path, c->line, (uint64_t)(at - c->bytes) + 1, "%s", what);
}

static enum mp_status set_place(const struct conf *c, struct slurm_place *p, const char *key, const char *value,
                                size_t n) {
    if (p->text != NULL)
        return conf_fail(c, key, "the key stands here twice (remove one)");
    *p = (struct slurm_place){.text = value, .length = n, .line = c->line, .column = (uint64_t)(value - c->bytes) + 1};
    return MP_OK;
}

static enum mp_status read_pair(struct conf *c, const char *key, size_t n_key, const char *value, size_t n_value) {
    const bool is_switch = is_key(key, n_key, "switchname"), is_block = is_key(key, n_key, "blockname");
    if (n_value == 0)
        return conf_fail(c, key, "nothing stands behind the equals sign (write a value)");
    if (is_key(key, n_key, "blocksizes")) {
        c->f->has_blocks = true;
        return MP_OK;
    }
    if (is_switch || is_block) {
        if (c->record != NULL)
            return conf_fail(c, key, "a second name in one line (write one line for each switch or block)");
        c->record = add_record(c->f, c->line, c->err);
        if (c->record == NULL)
            return c->err != NULL ? c->err->status : MP_ENOMEM;
        c->f->has_switches = c->f->has_switches || is_switch;
        c->f->has_blocks = c->f->has_blocks || is_block;
        return set_place(c, &c->record->name, key, value, n_value);
    }
    const bool is_nodes = is_key(key, n_key, "nodes"), is_switches = is_key(key, n_key, "switches");
    const bool is_speed = is_key(key, n_key, "linkspeed");
    if (!is_nodes && !is_switches && !is_speed)
        return conf_fail(c, key,
                         "no such key here (write SwitchName, Nodes, Switches, LinkSpeed, BlockName or BlockSizes)");
    if (c->record == NULL)
        return conf_fail(c, key, "the line does not start with SwitchName or BlockName (write it first)");
    c->f->has_link_speed = c->f->has_link_speed || is_speed;
    if (is_speed)
        return MP_OK;
    return set_place(c, is_nodes ? &c->record->nodes : &c->record->switches, key, value, n_value);
}

static enum mp_status read_conf(struct slurm_file *f, struct mp_error *err) {
    enum mp_status status = MP_OK;
    const char *cursor = f->in->text, *end = f->in->text + f->in->size, *line;
    size_t n;
    struct conf c = {.f = f, .err = err};
    for (c.line = 1; mp_next_line(&cursor, end, &line, &n); c.line++) {
        const char *comment = memchr(line, '#', n);
        bool goes_on = false;
        c.bytes = line;
        n = comment != NULL ? (size_t)(comment - line) : n;
        while (n > 0 && (line[n - 1] == ' ' || line[n - 1] == '\t'))
            n--;
        if (n > 0 && line[n - 1] == '\\') {
            goes_on = true;
            n--;
        }
        for (size_t i = blanks(line, n); i < n; i += blanks(line + i, n - i)) {
            size_t stop = i, equals;
            while (stop < n && line[stop] != ' ' && line[stop] != '\t')
                stop++;
            for (equals = i; equals < stop && line[equals] != '=';)
                equals++;
            if (equals == stop) {
                status = conf_fail(&c, line + i,
                                   "an equals sign is missing (write for instance SwitchName=s0 Nodes=tux[0-3])");
                goto out;
            }
            MP_TRY(read_pair(&c, line + i, equals - i, line + equals + 1, stop - equals - 1));
            i = stop;
        }
        if (!goes_on)
            c.record = NULL;
    }
out:
    return status;
}

/* ---- topology.yaml ---- */

static enum mp_status yaml_place(const struct mp_yaml_doc *d, const struct mp_yaml *map, const char *key,
                                 bool is_needed, struct mp_arena *arena, struct slurm_place *p, struct mp_error *err) {
    enum mp_status status;
    const struct mp_yaml *n = mp_yaml_get(map, key);
    const char *text;
    if (n == NULL)
        return is_needed ? mp_yaml_need(d, map, key, &n, err) : MP_OK;
    MP_TRY(mp_yaml_string(d, n, arena, &text, err));
    if (n->length == 0) {
        status = mp_yaml_fail(d, n, err, "nothing stands here (write a name)");
        goto out;
    }
    *p = (struct slurm_place){
        .text = text, .length = n->length, .line = n->line, .column = (uint64_t)n->column + n->is_quoted};
out:
    return status;
}

static enum mp_status read_entries(struct slurm_file *f, const struct mp_yaml_doc *d, const struct mp_yaml *list,
                                   bool is_tree, struct mp_error *err) {
    static const char *const switch_keys[] = {"switch", "children", "nodes", "link_speed", NULL},
                             *const block_keys[] = {"block", "nodes", NULL};
    enum mp_status status;
    MP_TRY(mp_yaml_expect(d, list, MP_YAML_SEQUENCE, err));
    for (uint32_t i = 0; i < list->n; i++) {
        const struct mp_yaml *e = &list->items[i];
        struct slurm_record r = {{0}};
        MP_TRY(mp_yaml_keys(d, e, is_tree ? switch_keys : block_keys, err));
        MP_TRY(yaml_place(d, e, is_tree ? "switch" : "block", true, f->arena, &r.name, err));
        MP_TRY(yaml_place(d, e, "nodes", false, f->arena, &r.nodes, err));
        MP_TRY(yaml_place(d, e, "children", false, f->arena, &r.switches, err));
        f->has_link_speed = f->has_link_speed || mp_yaml_get(e, "link_speed") != NULL;
        struct slurm_record *record = add_record(f, e->line, err);
        if (record == NULL)
            return err != NULL ? err->status : MP_ENOMEM;
        *record = r;
    }
    f->has_switches = is_tree;
    f->has_blocks = !is_tree;
out:
    return status;
}

/* The topology marked cluster_default, else the first. */
static enum mp_status choose(const struct mp_yaml_doc *d, const struct mp_yaml **out, struct mp_error *err) {
    enum mp_status status;
    MP_TRY(mp_yaml_expect(d, d->root, MP_YAML_SEQUENCE, err));
    if (d->root->n == 0) {
        status = mp_yaml_fail(d, d->root, err, "the list is empty (write a topology)");
        goto out;
    }
    *out = NULL;
    for (uint32_t i = 0; i < d->root->n; i++) {
        const struct mp_yaml *e = &d->root->items[i];
        bool is_default = false;
        MP_TRY(mp_yaml_expect(d, e, MP_YAML_MAPPING, err));
        if (mp_yaml_get(e, "cluster_default") != NULL)
            MP_TRY(mp_yaml_bool(d, mp_yaml_get(e, "cluster_default"), &is_default, err));
        *out = *out == NULL && is_default ? e : *out;
    }
    *out = *out != NULL ? *out : &d->root->items[0];
out:
    return status;
}

static enum mp_status read_yaml(struct slurm_file *f, struct mp_error *err) {
    static const char *const keys[] = {"topology", "cluster_default", "tree", "block", "flat", NULL},
                             *const tree_keys[] = {"switches", NULL},
                             *const block_keys[] = {"block_sizes", "blocks", NULL};
    enum mp_status status;
    struct mp_in *in = NULL;
    struct mp_yaml_doc *d = NULL;
    const struct mp_yaml *e = NULL, *list;
    MP_TRY(mp_in_from_memory(&in, f->in->path, f->in->text, f->in->size, err));
    MP_TRY(mp_yaml_parse(&d, in, NULL, err));
    MP_TRY(choose(d, &e, err));
    MP_TRY(mp_yaml_keys(d, e, keys, err));
    const struct mp_yaml *tree = mp_yaml_get(e, "tree"), *block = mp_yaml_get(e, "block");
    if ((tree != NULL) == (block != NULL)) {
        status = mp_yaml_fail(d, e, err,
                              tree != NULL ? "tree and block in one topology (remove one)"
                                           : "a flat topology groups no nodes (give a tree or blocks; a short "
                                             "string such as 4x8:h100 says the rest)");
        goto out;
    }
    MP_TRY(mp_yaml_keys(d, tree != NULL ? tree : block, tree != NULL ? tree_keys : block_keys, err));
    MP_TRY(mp_yaml_need(d, tree != NULL ? tree : block, tree != NULL ? "switches" : "blocks", &list, err));
    MP_TRY(read_entries(f, d, list, tree != NULL, err));
out:
    mp_yaml_free(d);
    mp_in_close(in);
    return status;
}

enum mp_status slurm_parse(struct slurm_file *f, struct mp_error *err) {
    const char *text = f->in->text;
    size_t i = 0;
    /* YAML when its first line that says something starts with a dash. */
    while (i < f->in->size &&
           (text[i] == ' ' || text[i] == '\t' || text[i] == '\r' || text[i] == '\n' || text[i] == '#')) {
        const char *newline = text[i] == '#' ? memchr(text + i, '\n', f->in->size - i) : NULL;
        i = text[i] != '#' ? i + 1 : newline != NULL ? (size_t)(newline - text) : f->in->size;
    }
    const bool is_yaml = i < f->in->size && text[i] == '-';
    enum mp_status status = is_yaml ? read_yaml(f, err) : read_conf(f, err);
    if (status == MP_OK && f->n_records == 0)
        status = mp_fail_at(err, MP_EINPUT, f->in->path, 1, 0,
                            "no switch and no block is named (write SwitchName=s0 Nodes=...)");
    if (status == MP_OK && f->has_switches && f->has_blocks)
        status = mp_fail_at(err, MP_EINPUT, f->in->path, f->records[0].name.line, 0,
                            "switches and blocks in one file (give one topology)");
    return status;
}

/* ---- the tree ---- */

struct builder {
    const struct slurm_file *f;
    struct slurm_tree *t;
    struct mp_error *err;
    uint32_t max_nodes;
    struct slurm_names *nodes;        /* [n_records] */
    uint32_t **children, *n_children; /* [n_records] */
    uint32_t *parent, *height;        /* [n_records]; parent MP_NONE = none */
    uint64_t (*seen)[2];              /* hash and line of each node met */
    uint32_t n_seen;
    uint32_t number[SLURM_MAX_HEIGHT]; /* of the next switch of each height */
};

static enum mp_status fail_at(const struct builder *b, const struct slurm_place *p, const char *what) {
    return mp_fail_at(b->err, MP_EINPUT, b->f->in->path, p->line, p->column, "%s", what);
}

static bool is_named(const struct slurm_record *r, const char *name) {
    return strlen(name) == r->name.length && memcmp(name, r->name.text, r->name.length) == 0;
}

static const char *quoted_name(const struct slurm_record *r, char *buf, size_t size) {
    return mp_quote(r->name.text, r->name.length, buf, size);
}

/* The nodes of a leaf: none of them met before. */
static enum mp_status add_nodes(struct builder *b, uint32_t i) {
    enum mp_status status;
    const struct slurm_place *p = &b->f->records[i].nodes;
    char text[300], quoted[200];
    MP_TRY(slurm_expand(&b->nodes[i], p->text, p->length, b->max_nodes - b->n_seen, b->f->arena, b->f->in->path,
                        p->line, p->column, b->err));
    for (uint32_t k = 0; k < b->nodes[i].n; k++) {
        const char *name = b->nodes[i].name[k];
        const uint64_t hash = mp_xxh64(name, strlen(name));
        for (uint32_t s = 0; s < b->n_seen; s++)
            if (b->seen[s][0] == hash) {
                snprintf(text, sizeof text, "node \"%s\" is here and in line %llu (write each node in one leaf)",
                         mp_quote(name, strlen(name), quoted, sizeof quoted), (unsigned long long)b->seen[s][1]);
                status = fail_at(b, p, text);
                goto out;
            }
        b->seen[b->n_seen][0] = hash;
        b->seen[b->n_seen++][1] = p->line;
    }
out:
    return status;
}

static enum mp_status add_children(struct builder *b, uint32_t i) {
    enum mp_status status;
    const struct slurm_place *p = &b->f->records[i].switches;
    struct slurm_names names;
    char text[400], quoted[200], other[200];
    MP_TRY(slurm_expand(&names, p->text, p->length, SLURM_MAX_RECORDS, b->f->arena, b->f->in->path, p->line, p->column,
                        b->err));
    b->children[i] = mp_arena_alloc(b->f->arena, names.n, sizeof *b->children[i]);
    if (b->children[i] == NULL)
        return mp_nomem(b->err, "reading a topology");
    for (uint32_t k = 0; k < names.n; k++) {
        uint32_t c = 0;
        while (c < b->f->n_records && !is_named(&b->f->records[c], names.name[k]))
            c++;
        mp_quote(names.name[k], strlen(names.name[k]), quoted, sizeof quoted);
        if (c == b->f->n_records)
            snprintf(text, sizeof text, "switch \"%s\" is not in the file (write its line)", quoted);
        else if (b->parent[c] != MP_NONE)
            snprintf(text, sizeof text, "switch \"%s\" is in \"%s\" already (write each switch in one other)", quoted,
                     quoted_name(&b->f->records[b->parent[c]], other, sizeof other));
        else {
            b->parent[c] = i;
            b->children[i][b->n_children[i]++] = c;
            continue;
        }
        status = fail_at(b, p, text);
        goto out;
    }
out:
    return status;
}

static enum mp_status check_records(struct builder *b) {
    char text[300], quoted[200];
    for (uint32_t i = 0; i < b->f->n_records; i++) {
        const struct slurm_record *r = &b->f->records[i];
        if (r->nodes.text == NULL && r->switches.text == NULL)
            return fail_at(b, &r->name, "nothing is below it (write Nodes= or Switches=, or remove it)");
        if (r->nodes.text != NULL && r->switches.text != NULL)
            return fail_at(b, &r->name, "nodes and switches below one switch (write one of them)");
        for (uint32_t k = 0; k < i; k++) {
            const struct slurm_record *other = &b->f->records[k];
            if (other->name.length != r->name.length || memcmp(other->name.text, r->name.text, r->name.length) != 0)
                continue;
            snprintf(text, sizeof text, "\"%s\" has a line already, %llu (rename one)",
                     quoted_name(r, quoted, sizeof quoted), (unsigned long long)other->name.line);
            return fail_at(b, &r->name, text);
        }
    }
    return MP_OK;
}

/* Heights from the leaves up; what never gets one is a cycle. */
static enum mp_status find_heights(struct builder *b, uint32_t *root) {
    const uint32_t n = b->f->n_records;
    char text[400], quoted[200], other[200];
    *root = MP_NONE;
    for (uint32_t i = 0; i < n; i++) {
        const struct slurm_record *r = &b->f->records[i];
        /* Up from each leaf; longer than n steps is impossible without a cycle, and a leaf is in none. */
        if (r->nodes.text != NULL) {
            uint32_t height = 1;
            for (uint32_t s = i; s != MP_NONE && b->height[s] < height; s = b->parent[s])
                b->height[s] = height++;
        }
        if (b->parent[i] != MP_NONE)
            continue;
        if (*root != MP_NONE) {
            snprintf(text, sizeof text,
                     "\"%s\" is in no other switch, and neither is \"%s\" of line %llu: what joins them is not said "
                     "(write a "
                     "switch over both)",
                     quoted_name(r, quoted, sizeof quoted), quoted_name(&b->f->records[*root], other, sizeof other),
                     (unsigned long long)b->f->records[*root].name.line);
            return fail_at(b, &r->name, text);
        }
        *root = i;
    }
    for (uint32_t i = 0; i < n; i++)
        if (b->height[i] == 0)
            return fail_at(b, &b->f->records[i].name,
                           "below this switch there are only switches in a circle (write nodes below it)");
    if (*root == MP_NONE)
        return fail_at(b, &b->f->records[0].name,
                       "every switch is in another one: a circle (remove one from the other)");
    if (b->height[*root] > SLURM_MAX_HEIGHT) {
        snprintf(text, sizeof text, "%u tiers of switches below and with \"%s\" are more than %d (leave out a tier)",
                 b->height[*root], quoted_name(&b->f->records[*root], quoted, sizeof quoted), SLURM_MAX_HEIGHT);
        return fail_at(b, &b->f->records[*root].name, text);
    }
    return MP_OK;
}

/* Numbers nodes below switch i, which stands for itself at all heights from its own to `up_to`. */
static void number_nodes(struct builder *b, uint32_t i, uint32_t up_to, const uint32_t *above) {
    uint32_t own[SLURM_MAX_HEIGHT];
    memcpy(own, above, sizeof own);
    for (uint32_t h = b->height[i]; h <= up_to; h++)
        own[h - 1] = b->number[h - 1]++;
    for (uint32_t k = 0; k < b->n_children[i]; k++)
        number_nodes(b, b->children[i][k], b->height[i] - 1, own);
    for (uint32_t k = 0; k < b->nodes[i].n; k++) {
        for (uint32_t h = 0; h < b->t->height; h++)
            b->t->switch_of[h][b->t->n_nodes] = own[h];
        b->t->n_nodes++;
    }
}

enum mp_status slurm_build(struct slurm_tree *t, const struct slurm_file *f, uint32_t max_nodes, struct mp_error *err) {
    enum mp_status status;
    struct builder b = {.f = f, .t = t, .err = err, .max_nodes = max_nodes};
    const uint32_t n = f->n_records;
    uint32_t root = 0;
    *t = (struct slurm_tree){0};
    b.nodes = mp_arena_alloc(f->arena, n, sizeof *b.nodes);
    b.children = mp_arena_alloc(f->arena, n, sizeof *b.children);
    b.n_children = mp_arena_alloc(f->arena, n, sizeof *b.n_children);
    b.parent = mp_arena_alloc(f->arena, n, sizeof *b.parent);
    b.height = mp_arena_alloc(f->arena, n, sizeof *b.height);
    b.seen = mp_arena_alloc(f->arena, max_nodes, sizeof *b.seen);
    if (b.nodes == NULL || b.children == NULL || b.n_children == NULL || b.parent == NULL || b.height == NULL ||
        b.seen == NULL)
        return mp_nomem(err, "reading a topology");
    for (uint32_t i = 0; i < n; i++)
        b.parent[i] = MP_NONE;
    MP_TRY(check_records(&b));
    for (uint32_t i = 0; i < n; i++)
        MP_TRY(f->records[i].nodes.text != NULL ? add_nodes(&b, i) : add_children(&b, i));
    if (f->has_blocks) {
        for (uint32_t i = 0; i < n; i++)
            b.height[i] = 1;
        t->height = n > 1 ? 2 : 1;
    } else {
        MP_TRY(find_heights(&b, &root));
        t->height = b.height[root];
    }
    for (uint32_t h = 0; h < t->height; h++) {
        t->switch_of[h] = mp_arena_alloc(f->arena, b.n_seen, sizeof *t->switch_of[h]);
        if (t->switch_of[h] == NULL)
            return mp_nomem(err, "reading a topology");
    }
    const uint32_t none[SLURM_MAX_HEIGHT] = {0};
    if (f->has_blocks)
        for (uint32_t i = 0; i < n; i++)
            number_nodes(&b, i, 1, none);
    else
        number_nodes(&b, root, t->height, none);
out:
    return status;
}
