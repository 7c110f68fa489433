/* Lina's tables: what came after each path of one expert per layer.
 *
 * Decides   the likeliest experts of a token's next layer.
 * Method    the tokens of the planning part, sorted by their first experts in the layers before, nearest first: equal
 *           beginnings are one path, and those of l layers lie inside those of l - 1, so that the longest path that was
 *           seen is found by going down. A path that one token took is not followed further: all that go on from it
 *           say the same.
 * Paper     Lina (USENIX ATC'23, arXiv 2210.17223), section 5.1.
 * Differs   the paper's tokens choose one expert; of top-k tokens a path has the first of the list in each layer and
 *           all k of the next layer count. Its hash maps are of one length; paths never seen fall back on shorter ones.
 * Cost      learning O(layers * tokens * (log tokens + length * k)); a row and layer O(length * log experts). */
#include <moeplan/alloc.h>
#include <moeplan/predict.h>
#include <stdlib.h>
#include <string.h>

struct node { /* a path */
    uint32_t n, first_child, n_children, first_entry, n_entries;
    uint16_t expert; /* the one furthest back */
};
struct entry { /* followed by */
    uint16_t expert;
    uint32_t n;
};
struct layer {
    struct node *nodes; /* [0]: the path of no layers */
    struct entry *entries;
    size_t n_nodes, n_entries, nodes_room, entries_room;
    uint64_t n_paths[MP_PATH_MAX + 1], n_followed[MP_PATH_MAX + 1]; /* of so many layers, as hash maps have them */
};
struct mp_sample_paths {
    uint32_t n_layers, n_experts, length;
    struct layer *layers;
};
struct token { /* of one layer */
    uint16_t path[MP_PATH_MAX];
    uint32_t row; /* of the part */
};
struct range {
    uint32_t from, to;
};
struct learning {
    struct mp_sample_paths *s;
    const struct mp_part *part;
    uint16_t *first; /* [n_rows][n_layers] first expert of each list */
    uint64_t *rows;  /* [n_rows] row of the trace */
    uint32_t n_rows;
    struct scratch {
        struct token *tokens; /* [n_rows] */
        struct range *ranges; /* of each node; grows with them */
        size_t ranges_room;
        uint32_t *count; /* [n_experts] */
    } * scratch;
};

static int by_path(const void *a, const void *b) {
    const struct token *x = a, *y = b;
    for (uint32_t d = 0; d < MP_PATH_MAX; d++)
        if (x->path[d] != y->path[d])
            return x->path[d] < y->path[d] ? -1 : 1;
    return x->row < y->row ? -1 : x->row > y->row;
}

/* Room for one more. */
static bool grow(void *pointer, size_t *room, size_t n, size_t size) {
    void **p = pointer;
    if (n < *room)
        return true;
    size_t more = *room < 64 ? 64 : *room * 2;
    void *q = mp_realloc(*p, more, size);
    if (q == NULL)
        return false;
    *p = q;
    *room = more;
    return true;
}

/* A node of these tokens, with what followed. */
static bool add_node(struct learning *x, struct layer *to, struct scratch *s, uint32_t l, struct range r,
                     uint16_t expert) {
    uint16_t ids[MP_MAX_TOP_K];
    if (to->n_nodes == UINT32_MAX || !grow(&to->nodes, &to->nodes_room, to->n_nodes, sizeof *to->nodes) ||
        !grow(&s->ranges, &s->ranges_room, to->n_nodes, sizeof *s->ranges))
        return false;
    struct node *node = &to->nodes[to->n_nodes];
    *node = (struct node){.n = r.to - r.from, .first_entry = (uint32_t)to->n_entries, .expert = expert};
    s->ranges[to->n_nodes++] = r;
    for (uint32_t i = r.from; i < r.to; i++) {
        uint32_t n = mp_trace_row(x->part->trace, l, x->rows[s->tokens[i].row], ids);
        for (uint32_t k = 0; k < n; k++)
            s->count[ids[k]]++;
    }
    /* Of few tokens their own lists, else every expert. */
    const bool is_few = node->n <= 2;
    for (uint32_t i = is_few ? r.from : 0; i < (is_few ? r.to : x->s->n_experts); i++) {
        uint32_t n = 1;
        ids[0] = (uint16_t)i;
        if (is_few)
            n = mp_trace_row(x->part->trace, l, x->rows[s->tokens[i].row], ids);
        for (uint32_t k = 0; k < n; k++) {
            if (s->count[ids[k]] == 0)
                continue;
            if (to->n_entries == UINT32_MAX ||
                !grow(&to->entries, &to->entries_room, to->n_entries, sizeof *to->entries))
                return false;
            to->entries[to->n_entries++] = (struct entry){ids[k], s->count[ids[k]]};
            s->count[ids[k]] = 0;
            node->n_entries++;
        }
    }
    return true;
}

static bool add_children(struct learning *x, struct layer *to, struct scratch *s, uint32_t l, uint32_t at,
                         uint32_t depth) {
    const struct range r = s->ranges[at];
    to->nodes[at].first_child = (uint32_t)to->n_nodes;
    for (uint32_t i = r.from; i < r.to;) {
        uint32_t end = i + 1;
        while (end < r.to && s->tokens[end].path[depth] == s->tokens[i].path[depth])
            end++;
        if (!add_node(x, to, s, l, (struct range){i, end}, s->tokens[i].path[depth]))
            return false;
        to->nodes[at].n_children++;
        i = end;
    }
    return true;
}

static enum mp_status learn_layer(void *ctx, size_t i, unsigned worker, struct mp_error *err) {
    struct learning *x = ctx;
    struct scratch *s = &x->scratch[worker];
    struct layer *to = &x->s->layers[i];
    const uint32_t l = (uint32_t)i, n_layers = x->s->n_layers, deepest = l < x->s->length ? l : x->s->length;
    for (uint32_t r = 0; r < x->n_rows; r++) {
        s->tokens[r] = (struct token){.row = r};
        for (uint32_t d = 1; d <= deepest; d++)
            s->tokens[r].path[d - 1] = x->first[(size_t)r * n_layers + l - d];
    }
    qsort(s->tokens, x->n_rows, sizeof *s->tokens, by_path);
    bool is_full = add_node(x, to, s, l, (struct range){0, x->n_rows}, 0);
    uint32_t from = 0;
    for (uint32_t depth = 0; depth < deepest && is_full; depth++) {
        const uint32_t end = (uint32_t)to->n_nodes;
        for (uint32_t at = from; at < end && is_full; at++) {
            if (to->nodes[at].n > 1) {
                is_full = add_children(x, to, s, l, at, depth);
                continue;
            }
            for (uint32_t d = depth + 1; d <= deepest; d++) {
                to->n_paths[d]++;
                to->n_followed[d] += to->nodes[at].n_entries;
            }
        }
        for (size_t at = end; at < to->n_nodes && is_full; at++) {
            to->n_paths[depth + 1]++;
            to->n_followed[depth + 1] += to->nodes[at].n_entries;
        }
        from = end;
    }
    return is_full ? MP_OK : mp_nomem(err, "sample paths");
}

static bool make(struct learning *x, uint32_t length, unsigned n_threads) {
    const struct mp_trace *t = x->part->trace;
    x->s = mp_calloc(1, sizeof *x->s);
    if (x->s == NULL)
        return false;
    *x->s = (struct mp_sample_paths){.n_layers = t->n_layers,
                                     .n_experts = t->n_experts,
                                     .length = length,
                                     .layers = mp_calloc(t->n_layers, sizeof(struct layer))};
    x->first = mp_calloc((size_t)x->n_rows * t->n_layers, sizeof *x->first);
    x->rows = mp_calloc(x->n_rows, sizeof *x->rows);
    x->scratch = mp_calloc(n_threads, sizeof *x->scratch);
    if (x->s->layers == NULL || x->first == NULL || x->rows == NULL || x->scratch == NULL)
        return false;
    for (unsigned i = 0; i < n_threads; i++) {
        x->scratch[i].tokens = mp_calloc(x->n_rows, sizeof *x->scratch[i].tokens);
        x->scratch[i].count = mp_calloc(t->n_experts, sizeof *x->scratch[i].count);
        if (x->scratch[i].tokens == NULL || x->scratch[i].count == NULL)
            return false;
    }
    return true;
}

enum mp_status mp_sample_paths_learn(struct mp_sample_paths **out, const struct mp_part *part, uint32_t length,
                                     unsigned n_threads, struct mp_error *err) {
    const struct mp_trace *trace = part->trace;
    struct learning x = {.part = part};
    uint64_t n_rows = 0;
    uint16_t ids[MP_MAX_TOP_K];
    *out = NULL;
    n_threads = n_threads == 0 ? 1 : n_threads;
    if (trace->kind != MP_TRACE_TOKENS)
        return mp_fail(err, MP_EUSAGE, "counts do not say which experts one token used (record tokens)");
    if (length > MP_PATH_MAX)
        return mp_fail(err, MP_EUSAGE, "a path of %u layers is too long (write at most %u)", length, MP_PATH_MAX);
    for (uint32_t m = 0; m < part->n; m++)
        n_rows += trace->requests[part->members[m]].n_rows;
    if (n_rows >= UINT32_MAX / MP_MAX_TOP_K)
        return mp_fail(err, MP_ELIMIT, "more than %u tokens to learn from", UINT32_MAX / MP_MAX_TOP_K);
    x.n_rows = (uint32_t)n_rows;
    enum mp_status status = make(&x, length, n_threads) ? MP_OK : mp_nomem(err, "sample paths");
    uint32_t at = 0;
    for (uint32_t m = 0; m < part->n && status == MP_OK; m++) {
        const struct mp_request *r = &trace->requests[part->members[m]];
        for (uint64_t row = r->first_row; row < r->first_row + r->n_rows; row++, at++) {
            x.rows[at] = row;
            for (uint32_t l = 0; l < trace->n_layers; l++)
                x.first[(size_t)at * trace->n_layers + l] =
                    mp_trace_row(trace, l, row, ids) > 0 ? ids[0] : MP_NO_EXPERT;
        }
    }
    if (status == MP_OK)
        status = mp_parallel_for(n_threads, trace->n_layers, learn_layer, &x, err);
    for (unsigned i = 0; i < n_threads && x.scratch != NULL; i++) {
        mp_free(x.scratch[i].tokens);
        mp_free(x.scratch[i].ranges);
        mp_free(x.scratch[i].count);
    }
    mp_free(x.scratch);
    mp_free(x.first);
    mp_free(x.rows);
    if (status == MP_OK)
        *out = x.s;
    else
        mp_sample_paths_free(x.s);
    return status;
}

void mp_sample_paths_free(struct mp_sample_paths *s) {
    if (s == NULL)
        return;
    for (uint32_t l = 0; l < s->n_layers && s->layers != NULL; l++) {
        mp_free(s->layers[l].nodes);
        mp_free(s->layers[l].entries);
    }
    mp_free(s->layers);
    mp_free(s);
}

/* The child of a node by this expert, or MP_NONE. */
static uint32_t child(const struct layer *l, uint32_t at, uint16_t expert) {
    uint32_t from = l->nodes[at].first_child, to = from + l->nodes[at].n_children;
    while (from < to) {
        uint32_t middle = from + (to - from) / 2;
        if (l->nodes[middle].expert < expert)
            from = middle + 1;
        else
            to = middle;
    }
    const bool is_one = from < l->nodes[at].first_child + l->nodes[at].n_children && l->nodes[from].expert == expert;
    return is_one ? from : MP_NONE;
}

/* p = (counts + back_off * p) / (n + back_off). */
static void blend(const struct layer *l, const struct node *node, uint32_t back_off, uint32_t n_experts, uint64_t *p) {
    const uint64_t n = (uint64_t)node->n + back_off;
    for (uint32_t e = 0; e < n_experts && back_off > 0; e++)
        p[e] = p[e] * back_off / n;
    if (back_off == 0)
        memset(p, 0, n_experts * sizeof *p);
    for (uint32_t i = node->first_entry; i < node->first_entry + node->n_entries; i++)
        p[l->entries[i].expert] += ((uint64_t)l->entries[i].n << 32) / n;
}

void mp_sample_paths_probabilities(const struct mp_sample_paths *s, const struct mp_trace *trace, uint32_t layer,
                                   uint64_t row, uint32_t length, uint32_t back_off, uint64_t *p) {
    const struct layer *l = &s->layers[layer];
    uint16_t ids[MP_MAX_TOP_K];
    uint32_t at = 0;
    memset(p, 0, s->n_experts * sizeof *p);
    if (l->nodes[0].n == 0)
        return;
    blend(l, &l->nodes[0], 0, s->n_experts, p);
    for (uint32_t d = 1; d <= length && d <= s->length && d <= layer; d++) {
        const uint16_t expert = mp_trace_row(trace, layer - d, row, ids) > 0 ? ids[0] : MP_NO_EXPERT;
        const uint32_t next = child(l, at, expert);
        if (next == MP_NONE)
            break;
        at = next;
        if (back_off > 0)
            blend(l, &l->nodes[at], back_off, s->n_experts, p);
    }
    if (back_off == 0 && at > 0)
        blend(l, &l->nodes[at], 0, s->n_experts, p);
}

uint64_t mp_sample_paths_bytes(const struct mp_sample_paths *s, uint32_t length, uint64_t *n_paths) {
    uint64_t bytes = 0;
    *n_paths = 0;
    for (uint32_t l = 0; l < s->n_layers; l++)
        for (uint32_t d = 1; d <= length && d <= s->length; d++) {
            *n_paths += s->layers[l].n_paths[d];
            bytes += 8 * s->layers[l].n_paths[d] + 4 * s->layers[l].n_followed[d];
        }
    return bytes;
}
