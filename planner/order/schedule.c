/* A schedule in bytes, and the same as shares of flows.
 *
 * Decides   where pairs without planned traffic go: into stages where both ends are idle, the last ones first.
 * Method    a piece ends at the first share whose cut is not below its end in bytes, so cutting the planned matrix with
 *           unit >= its largest entry gives back every piece to the byte.
 * Cost      O(pieces + n^2 * stages) worst case for the unplanned pairs, O(pieces) without them. */
#include <moeplan/schedule.h>
#include <stdlib.h>
#include <string.h>

void mp_schedule_init(struct mp_schedule *s, uint32_t n) { *s = (struct mp_schedule){.n = n, .ports = 1}; }

void mp_schedule_free(struct mp_schedule *s) {
    mp_free(s->first);
    mp_free(s->pieces);
    mp_schedule_init(s, s->n);
}

enum mp_status mp_schedule_stage(struct mp_schedule *s, struct mp_error *err) {
    if (s->n_stages > 0 && s->first[s->n_stages - 1] == s->n_pieces)
        return MP_OK;
    if (s->n_stages + 1 >= s->n_stages_allocated) {
        size_t n = 2 * s->n_stages_allocated + 32;
        uint32_t *first = mp_realloc(s->first, n, sizeof *first);
        if (first == NULL)
            return mp_nomem(err, "ordering transfers");
        s->first = first;
        s->n_stages_allocated = n;
    }
    s->first[s->n_stages++] = (uint32_t)s->n_pieces;
    s->first[s->n_stages] = (uint32_t)s->n_pieces;
    return MP_OK;
}

enum mp_status mp_schedule_add(struct mp_schedule *s, uint32_t src, uint32_t dst, uint32_t width, uint64_t bytes,
                               struct mp_error *err) {
    if (bytes == 0)
        return MP_OK;
    if (s->n_stages == 0 || s->n_pieces == UINT32_MAX)
        return mp_fail(err, MP_EBUG, "a piece outside a stage");
    if (s->n_pieces == s->n_pieces_allocated) {
        size_t n = 2 * s->n_pieces_allocated + 256;
        struct mp_piece *pieces = mp_realloc(s->pieces, n, sizeof *pieces);
        if (pieces == NULL)
            return mp_nomem(err, "ordering transfers");
        s->pieces = pieces;
        s->n_pieces_allocated = n;
    }
    s->pieces[s->n_pieces++] = (struct mp_piece){(uint16_t)src, (uint16_t)dst, (uint16_t)width, bytes};
    s->first[s->n_stages] = (uint32_t)s->n_pieces;
    return MP_OK;
}

static int by_pair(const void *a, const void *b) {
    const struct mp_piece *x = a, *y = b;
    uint32_t p = (uint32_t)x->src << 16 | x->dst, q = (uint32_t)y->src << 16 | y->dst;
    return (p > q) - (p < q);
}

void mp_schedule_finish(struct mp_schedule *s) {
    if (s->n_stages > 0 && s->first[s->n_stages - 1] == s->n_pieces)
        s->n_stages--;
    for (uint32_t k = 0; k < s->n_stages; k++) {
        struct mp_piece *p = s->pieces + s->first[k];
        uint32_t n = s->first[k + 1] - s->first[k];
        bool is_sorted = true;
        for (uint32_t i = 1; i < n; i++)
            is_sorted &= by_pair(&p[i - 1], &p[i]) < 0;
        if (!is_sorted)
            qsort(p, n, sizeof *p, by_pair);
    }
}

enum mp_status mp_schedule_check(const struct mp_schedule *s, const uint64_t *matrix, struct mp_error *err) {
    const size_t n = s->n;
    enum mp_status status = MP_OK;
    uint64_t *left = mp_calloc(n * n, sizeof *left);
    uint32_t *used = mp_calloc(2 * n, sizeof *used);
    if (left == NULL || used == NULL) {
        status = mp_nomem(err, "checking an order");
        goto out;
    }
    memcpy(left, matrix, n * n * sizeof *left);
    for (uint32_t k = 0; k < s->n_stages && status == MP_OK; k++) {
        bool is_flush = s->has_flush && k + 1 == s->n_stages;
        memset(used, 0, 2 * n * sizeof *used);
        for (uint32_t i = s->first[k]; i < s->first[k + 1] && status == MP_OK; i++) {
            const struct mp_piece *p = &s->pieces[i];
            if (p->src >= n || p->dst >= n || p->src == p->dst || p->width == 0 || p->bytes == 0)
                status = mp_fail(err, MP_EBUG, "stage %u: a piece %u>%u of width %u", k, p->src, p->dst, p->width);
            else if (i > s->first[k] && by_pair(p - 1, p) >= 0)
                status = mp_fail(err, MP_EBUG, "stage %u: %u>%u is out of order", k, p->src, p->dst);
            else if (p->bytes > left[p->src * n + p->dst])
                status = mp_fail(err, MP_EBUG, "stage %u: %u>%u sends more than there is", k, p->src, p->dst);
            else if (!is_flush && ((used[p->src] += p->width) > s->ports || (used[n + p->dst] += p->width) > s->ports))
                status = mp_fail(err, MP_EBUG, "stage %u: %u>%u is one transfer too many", k, p->src, p->dst);
            else
                left[p->src * n + p->dst] -= p->bytes;
        }
    }
    for (size_t i = 0; i < n * n && status == MP_OK; i++)
        if (i / n != i % n && left[i] > 0)
            status =
                mp_fail(err, MP_EBUG, "%zu>%zu: %llu bytes are not sent", i / n, i % n, (unsigned long long)left[i]);
out:
    mp_free(left);
    mp_free(used);
    return status;
}

/* ---- shares ---- */
struct draft { /* one share, with its stage */
    uint32_t stage;
    struct mp_transfer t;
};
static int by_stage(const void *a, const void *b) {
    const struct draft *x = a, *y = b;
    if (x->stage != y->stage)
        return x->stage < y->stage ? -1 : 1;
    uint32_t p = (uint32_t)x->t.src << 16 | x->t.dst, q = (uint32_t)y->t.src << 16 | y->t.dst;
    return (p > q) - (p < q);
}

/* What a pair without planned traffic looks for. */
struct room {
    uint32_t n, ports, n_stages, n_allocated;
    uint16_t *used; /* [n_allocated][2 * n] widths in use */
};

static bool add_stage(struct room *r) {
    if (r->n_stages == r->n_allocated) {
        uint32_t n = 2 * r->n_allocated + 8;
        uint16_t *used = mp_realloc(r->used, (size_t)n * 2 * r->n, sizeof *used);
        if (used == NULL)
            return false;
        r->used = used;
        r->n_allocated = n;
    }
    memset(r->used + (size_t)r->n_stages++ * 2 * r->n, 0, (size_t)2 * r->n * sizeof *r->used);
    return true;
}

/* The last stage with both ends idle, or a new one; MP_NONE when memory ran out. */
static uint32_t find_room(struct room *r, uint32_t src, uint32_t dst) {
    for (uint32_t k = r->n_stages; k-- > 0;) {
        uint16_t *used = r->used + (size_t)k * 2 * r->n;
        if (used[src] < r->ports && used[r->n + dst] < r->ports) {
            used[src]++, used[r->n + dst]++;
            return k;
        }
    }
    if (!add_stage(r))
        return MP_NONE;
    uint16_t *used = r->used + (size_t)(r->n_stages - 1) * 2 * r->n;
    used[src]++, used[r->n + dst]++;
    return r->n_stages - 1;
}

static enum mp_status place_rest(struct draft *drafts, size_t *n_drafts, struct room *room, bool has_flush,
                                 uint32_t unit, const uint32_t *sent, struct mp_error *err) {
    const uint32_t n = room->n;
    uint32_t flush = has_flush ? room->n_stages - 1 : 0;
    for (uint32_t by = 1; by < n; by++)
        for (uint32_t i = 0; i < n; i++) {
            uint32_t j = (i + by) % n;
            if (sent[(size_t)i * n + j] == unit)
                continue;
            uint32_t k = has_flush ? flush : find_room(room, i, j);
            if (k == MP_NONE)
                return mp_nomem(err, "ordering transfers");
            drafts[(*n_drafts)++] = (struct draft){k, {(uint16_t)i, (uint16_t)j, unit - sent[(size_t)i * n + j], 1}};
        }
    return MP_OK;
}

static enum mp_status collect(struct mp_order *out, struct draft *drafts, size_t n_drafts, uint32_t n_stages,
                              struct mp_arena *arena, struct mp_error *err) {
    struct mp_stage *stages = mp_arena_alloc(arena, n_stages > 0 ? n_stages : 1, sizeof *stages);
    struct mp_transfer *transfers = mp_arena_alloc(arena, n_drafts > 0 ? n_drafts : 1, sizeof *transfers);
    if (stages == NULL || transfers == NULL)
        return mp_nomem(err, "ordering transfers");
    qsort(drafts, n_drafts, sizeof *drafts, by_stage);
    uint32_t kept = 0;
    for (size_t i = 0; i < n_drafts; i++) {
        transfers[i] = drafts[i].t;
        if (i == 0 || drafts[i].stage != drafts[i - 1].stage)
            stages[kept++] = (struct mp_stage){0, transfers + i};
        stages[kept - 1].n++;
    }
    out->n_stages = kept;
    out->stages = stages;
    return MP_OK;
}

enum mp_status mp_schedule_order(struct mp_order *out, const struct mp_schedule *s, const uint64_t *matrix,
                                 uint32_t unit, const char *name, struct mp_arena *arena, struct mp_error *err) {
    const size_t n = s->n;
    enum mp_status status = MP_OK;
    size_t n_drafts = 0;
    struct room room = {.n = s->n, .ports = s->ports};
    struct draft *drafts = mp_calloc(s->n_pieces + n * n + 1, sizeof *drafts);
    uint64_t *done = mp_calloc(n * n, sizeof *done);
    uint32_t *sent = mp_calloc(n * n, sizeof *sent);
    *out = (struct mp_order){.name = name,
                             .between_nodes = s->between_nodes,
                             .has_flush = s->has_flush && s->n_stages > 0,
                             .unit = unit,
                             .ports = s->ports,
                             .port_bytes_per_s = s->port_bytes_per_s};
    if (drafts == NULL || done == NULL || sent == NULL) {
        status = mp_nomem(err, "ordering transfers");
        goto out;
    }
    for (uint32_t k = 0; k < s->n_stages; k++) {
        bool is_flush = out->has_flush && k + 1 == s->n_stages;
        if (!add_stage(&room)) {
            status = mp_nomem(err, "ordering transfers");
            goto out;
        }
        for (uint32_t i = s->first[k]; i < s->first[k + 1] && !is_flush; i++) {
            const struct mp_piece *p = &s->pieces[i];
            size_t pair = p->src * n + p->dst;
            done[pair] += p->bytes;
            if (done[pair] > matrix[pair]) {
                status = mp_fail(err, MP_EBUG, "%u>%u: the schedule sends more than the matrix has", p->src, p->dst);
                goto out;
            }
            uint64_t end = mp_mul_div_ceil(done[pair], unit, matrix[pair]);
            if (end == sent[pair])
                continue;
            drafts[n_drafts++] = (struct draft){k, {p->src, p->dst, (uint32_t)end - sent[pair], p->width}};
            sent[pair] = (uint32_t)end;
            room.used[(size_t)k * 2 * n + p->src] = (uint16_t)(room.used[(size_t)k * 2 * n + p->src] + p->width);
            room.used[(size_t)k * 2 * n + n + p->dst] =
                (uint16_t)(room.used[(size_t)k * 2 * n + n + p->dst] + p->width);
        }
    }
    /* Sub-ports differ from port to port: an idle one may be one too many. */
    if (s->port_bytes_per_s > 0 && !out->has_flush) {
        out->has_flush = true;
        if (!add_stage(&room)) {
            status = mp_nomem(err, "ordering transfers");
            goto out;
        }
    }
    const uint32_t n_stages = room.n_stages;
    MP_TRY(place_rest(drafts, &n_drafts, &room, out->has_flush, unit, sent, err));
    status = collect(out, drafts, n_drafts, room.n_stages, arena, err);
    /* Every share of the flush may have rounded away. */
    out->has_flush = out->has_flush && n_drafts > 0 && drafts[n_drafts - 1].stage == n_stages - 1;
out:
    mp_free(room.used);
    mp_free(drafts);
    mp_free(done);
    mp_free(sent);
    return status;
}

void mp_node_matrix(const struct mp_topology *t, const uint64_t *matrix, uint64_t *node_matrix) {
    uint32_t n = t->n_gpus, n_nodes = mp_topology_n_nodes(t);
    memset(node_matrix, 0, (size_t)n_nodes * n_nodes * sizeof *node_matrix);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++) {
            uint32_t a = mp_topology_node(t, i), b = mp_topology_node(t, j);
            if (a != b)
                node_matrix[(size_t)a * n_nodes + b] += matrix[(size_t)i * n + j];
        }
}
