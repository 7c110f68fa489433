/* Orders between nodes: which bytes are passed on by which GPU, and the single shots that this makes.
 *
 * Decides    nothing; carries out docs/ORDERS.md part 4. For every transfer node -> node the bytes are evened out over
 *            the GPUs of the sending node, cross on rails, and are handed on inside the receiving node.
 * Method     the bytes of a transfer are a line of segments (one source, one destination each) cut twice: by what each
 *            sending GPU carries and by what each receiving GPU takes. Balance and forward are added up in tables of
 *            the pairs inside nodes, rails are listed.
 * Paper      Y. Lei et al., "FAST: An Efficient Scheduler for All-to-All GPU Communication", arXiv 2505.09764, 2025:
 *            balance, one-to-one transfers between servers, redistribution, as a pipeline.
 * Differs    any shares and ports per stage; unequal nodes and shared NICs by weights; a GPU keeps what it can of its
 * own bytes; traffic inside nodes is spread over the stages.
 * Cost       O(sum over transfers of GPUs^2 of the two nodes + stages * GPUs * GPUs of a node). */
#include "net.h"
#include <string.h>

#define LONGEST (UINT64_C(1) << 52) /* where sums of times stop */

static uint64_t sum_ns(uint64_t a, uint64_t b) { return a >= LONGEST || b >= LONGEST - a ? LONGEST : a + b; }
static uint64_t larger(uint64_t a, uint64_t b) { return a > b ? a : b; }
static uint64_t smaller(uint64_t a, uint64_t b) { return a < b ? a : b; }

struct walk {
    const struct mp_topology *t;
    const struct mp_order *order;
    const uint64_t *matrix;
    bool is_transposed; /* of the matrix the transpose is meant */
    uint32_t n, n_nodes;
    uint32_t *first;                  /* [n_nodes + 1] GPUs */
    uint64_t *out_weight, *in_weight; /* [n + n_nodes] of node v from first[v] + v on: sum of the weights before x */
    uint32_t *cumulative;             /* [n_nodes * n_nodes] shares of the stages before */
    /* One transfer, m GPUs of the largest node. */
    uint64_t *piece, *start; /* [m * m] bytes of the stage, and where they start in their flow */
    uint64_t *sum;           /* [m] bytes of GPU i */
    uint64_t *carry, *take;  /* [m] bytes that GPU x sends on its rail, GPU y receives */
    struct mp_relay *over;   /* what GPUs cannot keep, by the GPU that gets it */
    struct mp_relay *relays;
    size_t n_relays;
};

static uint64_t bytes_of(const struct walk *w, uint32_t i, uint32_t j) {
    return w->is_transposed ? w->matrix[(size_t)j * w->n + i] : w->matrix[(size_t)i * w->n + j];
}

/* Sums of the weights of a node's GPUs before each, divided by what all have in common: the cuts do not change. */
static void weigh(const struct mp_topology *t, uint32_t from, uint32_t to, bool is_in, uint64_t *before) {
    uint64_t common = 0;
    for (uint32_t x = from; x < to; x++) {
        uint32_t port = t->n_levels < 2 ? MP_NONE : is_in ? t->gpus[x].in_port[1] : t->gpus[x].out_port[1], users = 0;
        for (uint32_t y = from; y < to && port < t->n_resources; y++)
            users += (is_in ? t->gpus[y].in_port[1] : t->gpus[y].out_port[1]) == port;
        uint64_t weight = users == 0 ? 1 : larger(1, t->resources[port].bytes_per_s / users);
        before[x - from + 1] = weight;
        while (weight != 0) {
            uint64_t r = common % weight;
            common = weight;
            weight = r;
        }
    }
    for (uint32_t x = 0; x < to - from; x++)
        before[x + 1] = before[x] + before[x + 1] / common;
}

static void end_walk(struct walk *w) {
    void *owned[] = {w->first, w->out_weight, w->in_weight, w->cumulative, w->piece, w->start,
                     w->sum,   w->carry,      w->take,      w->over,       w->relays};
    for (size_t i = 0; i < sizeof owned / sizeof owned[0]; i++)
        mp_free(owned[i]);
}

static enum mp_status begin_walk(struct walk *w, const struct mp_topology *t, const struct mp_order *order,
                                 const uint64_t *matrix, bool is_transposed, struct mp_error *err) {
    const size_t n = t->n_gpus, n_nodes = mp_topology_n_nodes(t);
    *w = (struct walk){.t = t,
                       .order = order,
                       .matrix = matrix,
                       .is_transposed = is_transposed,
                       .n = (uint32_t)n,
                       .n_nodes = (uint32_t)n_nodes};
    w->first = mp_calloc(n_nodes + 1, sizeof *w->first);
    w->out_weight = mp_calloc(n + n_nodes, sizeof *w->out_weight);
    w->in_weight = mp_calloc(n + n_nodes, sizeof *w->in_weight);
    w->cumulative = mp_calloc(n_nodes * n_nodes, sizeof *w->cumulative);
    size_t m = 0;
    for (uint32_t g = 0; g < n && w->first != NULL; g++)
        w->first[mp_topology_node(t, g) + 1] = g + 1;
    for (size_t v = 0; v < n_nodes && w->first != NULL; v++)
        m = w->first[v + 1] - w->first[v] > m ? w->first[v + 1] - w->first[v] : m;
    w->piece = mp_calloc(m * m, sizeof *w->piece);
    w->start = mp_calloc(m * m, sizeof *w->start);
    w->sum = mp_calloc(m, sizeof *w->sum);
    w->carry = mp_calloc(m, sizeof *w->carry);
    w->take = mp_calloc(m, sizeof *w->take);
    /* Every segment of the line is one demand, cut at most at the ends of what GPUs keep, carry and take. */
    w->over = mp_calloc(m * m + 2 * m, sizeof *w->over);
    w->relays = mp_calloc(m * m + 4 * m, sizeof *w->relays);
    if (w->first == NULL || w->out_weight == NULL || w->in_weight == NULL || w->cumulative == NULL ||
        w->piece == NULL || w->start == NULL || w->sum == NULL || w->carry == NULL || w->take == NULL ||
        w->over == NULL || w->relays == NULL) {
        end_walk(w);
        return mp_nomem(err, "an order between nodes");
    }
    for (uint32_t v = 0; v < n_nodes; v++) {
        weigh(t, w->first[v], w->first[v + 1], false, w->out_weight + w->first[v] + v);
        weigh(t, w->first[v], w->first[v + 1], true, w->in_weight + w->first[v] + v);
    }
    return MP_OK;
}

/* floor(bytes * part / whole), part <= whole. */
static inline uint64_t cut(uint64_t bytes, uint64_t part, uint64_t whole) {
    uint64_t product;
    return part == whole                            ? bytes
           : mp_mul_overflow(bytes, part, &product) ? mp_mul_div(bytes, part, whole)
                                                    : product / whole;
}

/* Splits P by the sums of weights of a node. */
static void split(uint64_t P, const uint64_t *before, uint32_t m, uint64_t *out) {
    uint64_t last = 0;
    for (uint32_t x = 0; x < m; x++) {
        uint64_t end = cut(P, before[x + 1], before[m]);
        out[x] = end - last;
        last = end;
    }
}

/* The pieces of a transfer a -> b: w->piece and w->start; *P is their sum. */
static enum mp_status demand(struct walk *w, uint32_t stage, const struct mp_transfer *r, uint64_t *P,
                             struct mp_error *err) {
    if (r->src >= w->n_nodes || r->dst >= w->n_nodes || r->src == r->dst)
        return mp_fail(err, MP_EBUG, "stage %u sends from node %u to %u of %u", stage, r->src, r->dst, w->n_nodes);
    const uint64_t unit = w->order->unit, before = w->cumulative[(size_t)r->src * w->n_nodes + r->dst],
                   after = before + r->share;
    if (after > unit)
        return mp_fail(err, MP_EBUG, "the shares of node %u -> %u pass the unit", r->src, r->dst);
    const uint32_t i0 = w->first[r->src], j0 = w->first[r->dst], ma = w->first[r->src + 1] - i0,
                   mb = w->first[r->dst + 1] - j0;
    *P = 0;
    for (uint32_t i = 0; i < ma; i++)
        for (uint32_t j = 0; j < mb; j++) {
            uint64_t bytes = bytes_of(w, i0 + i, j0 + j), start = before == 0 ? 0 : cut(bytes, before, unit);
            w->start[(size_t)i * mb + j] = start;
            w->piece[(size_t)i * mb + j] = bytes = cut(bytes, after, unit) - start;
            if (mp_add_overflow(*P, bytes, P))
                return mp_fail(err, MP_EBUG, "more than 2^64 bytes from node %u to %u", r->src, r->dst);
        }
    return MP_OK;
}
static void done(struct walk *w, const struct mp_transfer *r) {
    w->cumulative[(size_t)r->src * w->n_nodes + r->dst] += r->share;
}

/* All shares given out? */
static enum mp_status all_sent(const struct walk *w, struct mp_error *err) {
    for (uint32_t a = 0; a < w->n_nodes; a++)
        for (uint32_t b = 0; b < w->n_nodes; b++) {
            if (a == b || w->cumulative[(size_t)a * w->n_nodes + b] == w->order->unit)
                continue;
            for (uint32_t i = w->first[a]; i < w->first[a + 1]; i++)
                for (uint32_t j = w->first[b]; j < w->first[b + 1]; j++)
                    if (bytes_of(w, i, j) > 0)
                        return mp_fail(err, MP_EBUG, "the order leaves part of node %u -> %u unsent", a, b);
        }
    return MP_OK;
}

/* w->piece as relays. */
static void make_relays(struct walk *w, const struct mp_transfer *r, uint64_t P) {
    const uint32_t i0 = w->first[r->src], j0 = w->first[r->dst], ma = w->first[r->src + 1] - i0,
                   mb = w->first[r->dst + 1] - j0;
    size_t n_over = 0, next_over = 0;
    split(P, w->out_weight + i0 + r->src, ma, w->carry);
    split(P, w->in_weight + j0 + r->dst, mb, w->take);
    for (uint32_t i = 0; i < ma; i++) {
        w->sum[i] = 0;
        for (uint32_t j = 0; j < mb; j++)
            w->sum[i] += w->piece[(size_t)i * mb + j];
    }
    /* What is over goes to the GPUs with room, lowest first. */
    uint32_t x = 0;
    uint64_t room = w->carry[0] > w->sum[0] ? w->carry[0] - w->sum[0] : 0;
    for (uint32_t i = 0; i < ma; i++) {
        uint64_t keep = smaller(w->sum[i], w->carry[i]);
        for (uint32_t j = 0; j < mb && w->sum[i] > w->carry[i]; j++) {
            uint64_t bytes = w->piece[(size_t)i * mb + j], kept = smaller(bytes, keep), offset;
            keep -= kept;
            bytes -= kept;
            offset = w->start[(size_t)i * mb + j] + kept;
            while (bytes > 0) {
                while (room == 0) {
                    x++;
                    room = w->carry[x] > w->sum[x] ? w->carry[x] - w->sum[x] : 0;
                }
                uint64_t moved = smaller(bytes, room);
                w->over[n_over++] = (struct mp_relay){i0 + i, j0 + j, i0 + x, 0, offset, moved};
                offset += moved;
                bytes -= moved;
                room -= moved;
            }
        }
    }
    /* The line: what GPU x kept, then what it got. GPU y takes what comes. */
    uint32_t y = 0;
    uint64_t to_take = w->take[0];
    w->n_relays = 0;
    for (x = 0; x < ma; x++) {
        uint64_t keep = smaller(w->sum[x], w->carry[x]);
        uint32_t j = 0;
        for (;;) {
            struct mp_relay s;
            if (keep > 0) {
                uint64_t bytes = smaller(w->piece[(size_t)x * mb + j], keep);
                s = (struct mp_relay){i0 + x, j0 + j, i0 + x, 0, w->start[(size_t)x * mb + j], bytes};
                keep -= bytes;
                j++;
            } else if (next_over < n_over && w->over[next_over].out == i0 + x) {
                s = w->over[next_over++];
            } else {
                break;
            }
            while (s.bytes > 0) {
                while (to_take == 0)
                    to_take = w->take[++y];
                uint64_t taken = smaller(s.bytes, to_take);
                w->relays[w->n_relays++] = (struct mp_relay){s.src, s.dst, s.out, j0 + y, s.offset, taken};
                s.offset += taken;
                s.bytes -= taken;
                to_take -= taken;
            }
        }
    }
}

enum mp_status mp_nodes_relays(const struct mp_order *order, const struct mp_topology *t, const uint64_t *matrix,
                               mp_relay_fn fn, void *ctx, struct mp_error *err) {
    struct walk w;
    enum mp_status status = begin_walk(&w, t, order, matrix, false, err);
    if (status != MP_OK)
        return status;
    for (uint32_t s = 0; s < order->n_stages; s++)
        for (uint32_t k = 0; k < order->stages[s].n; k++) {
            uint64_t P;
            MP_TRY(demand(&w, s, &order->stages[s].transfers[k], &P, err));
            done(&w, &order->stages[s].transfers[k]);
            if (P == 0)
                continue;
            make_relays(&w, &order->stages[s].transfers[k], P);
            MP_TRY(fn(ctx, s, w.relays, w.n_relays, err));
        }
    status = all_sent(&w, err);
out:
    end_walk(&w);
    return status;
}

/* ---- single shots ---- */

/* The hops of the shots, made in forward order one after another. */
struct shots {
    struct walk w;
    uint32_t n_stages;
    uint64_t *stage_ns;   /* [n_stages + 1] port bounds of the rails before, summed */
    uint64_t *through;    /* [n_resources] */
    size_t *inside_first; /* [n] row of GPU i in the tables of pairs inside nodes */
    size_t n_inside;
    bool is_swapped;   /* a combine in the sequence of the dispatch: FORWARD hops before the rails, BALANCE after */
    uint64_t *early;   /* [n_inside] hops before the rails of the stage */
    uint64_t *late[3]; /* hops after the rails of the last three stages, stage mod 3 */
    struct mp_hop *rails, *hops;
    size_t n_rails, n_rails_allocated, n_hops, n_hops_allocated;
};

static void end_shots(struct shots *x) {
    end_walk(&x->w);
    void *owned[] = {x->stage_ns, x->through, x->inside_first, x->early, x->late[0],
                     x->late[1],  x->late[2], x->rails,        x->hops};
    for (size_t i = 0; i < sizeof owned / sizeof owned[0]; i++)
        mp_free(owned[i]);
}

static enum mp_status add_hop(struct mp_hop **list, size_t *n, size_t *n_allocated, struct mp_hop hop,
                              struct mp_error *err) {
    if (*n == *n_allocated) {
        size_t more = 2 * *n_allocated + 1024;
        struct mp_hop *grown = mp_realloc(*list, more, sizeof *grown);
        if (grown == NULL)
            return mp_nomem(err, "an order between nodes");
        *list = grown;
        *n_allocated = more;
    }
    (*list)[(*n)++] = hop;
    return MP_OK;
}

/* Rails of a transfer of P bytes: where what GPU x sends overlaps what GPU y takes. */
static enum mp_status add_rails(struct shots *x, const struct mp_transfer *r, uint64_t P, struct mp_error *err) {
    struct walk *w = &x->w;
    const uint32_t i0 = w->first[r->src], j0 = w->first[r->dst], ma = w->first[r->src + 1] - i0,
                   mb = w->first[r->dst + 1] - j0;
    split(P, w->out_weight + i0 + r->src, ma, w->carry);
    split(P, w->in_weight + j0 + r->dst, mb, w->take);
    for (uint32_t i = 0, j = 0; i < ma && j < mb;) {
        uint64_t bytes = smaller(w->carry[i], w->take[j]);
        w->carry[i] -= bytes;
        w->take[j] -= bytes;
        if (bytes > 0) {
            enum mp_status status = add_hop(&x->rails, &x->n_rails, &x->n_rails_allocated,
                                            (struct mp_hop){i0 + i, j0 + j, MP_HOP_RAIL, bytes}, err);
            if (status != MP_OK)
                return status;
        }
        i += w->carry[i] == 0;
        j += w->take[j] == 0 && j < mb;
    }
    return MP_OK;
}

/* Port bound of the stage's rails. */
static uint64_t rails_bound(struct shots *x) {
    const struct mp_topology *t = x->w.t;
    uint64_t bound = 0;
    memset(x->through, 0, t->n_resources * sizeof *x->through);
    for (size_t i = 0; i < x->n_rails; i++) {
        const struct mp_hop *h = &x->rails[i];
        struct mp_path path;
        mp_topology_path(t, h->src, h->dst, &path);
        for (uint32_t k = 0; k < path.n; k++)
            x->through[path.resource[k]] = net_add(x->through[path.resource[k]], h->bytes);
        if (path.cap_bytes_per_s > 0)
            bound = larger(bound, mp_mul_div_ceil(h->bytes, UINT64_C(1000000000), path.cap_bytes_per_s));
    }
    for (uint32_t r = 0; r < t->n_resources; r++)
        if (x->through[r] > 0)
            bound = larger(bound, mp_mul_div_ceil(x->through[r], UINT64_C(1000000000), t->resources[r].bytes_per_s));
    return bound;
}

/* First pass: what each stage takes on the rails, which says how traffic inside nodes is spread. */
static enum mp_status time_stages(struct shots *x, struct mp_error *err) {
    struct walk *w = &x->w;
    for (uint32_t s = 0; s < x->n_stages; s++) {
        const struct mp_stage *stage = &w->order->stages[s];
        x->n_rails = 0;
        for (uint32_t k = 0; k < stage->n; k++) {
            uint64_t P;
            enum mp_status status = demand(w, s, &stage->transfers[k], &P, err);
            if (status == MP_OK && P > 0)
                status = add_rails(x, &stage->transfers[k], P, err);
            if (status != MP_OK)
                return status;
            done(w, &stage->transfers[k]);
        }
        x->stage_ns[s + 1] = sum_ns(x->stage_ns[s], rails_bound(x));
    }
    enum mp_status status = all_sent(w, err);
    x->n_rails = 0;
    memset(w->cumulative, 0, (size_t)w->n_nodes * w->n_nodes * sizeof *w->cumulative);
    return status;
}

static enum mp_status begin_shots(struct shots *x, const struct mp_topology *t, const struct mp_order *order,
                                  const uint64_t *matrix, enum mp_combine way, struct mp_error *err) {
    *x = (struct shots){.n_stages = order->n_stages, .is_swapped = way == MP_COMBINE_SWAPPED};
    enum mp_status status = begin_walk(&x->w, t, order, matrix, way != MP_COMBINE_FORWARD, err);
    if (status != MP_OK)
        return status;
    const uint32_t *first = x->w.first;
    x->stage_ns = mp_calloc((size_t)order->n_stages + 1, sizeof *x->stage_ns);
    x->through = mp_calloc(t->n_resources, sizeof *x->through);
    x->inside_first = mp_calloc(t->n_gpus, sizeof *x->inside_first);
    for (uint32_t g = 0; g < t->n_gpus && x->inside_first != NULL; g++) {
        uint32_t v = mp_topology_node(t, g);
        x->inside_first[g] = x->n_inside;
        x->n_inside += first[v + 1] - first[v];
    }
    x->early = mp_calloc(x->n_inside, sizeof *x->early);
    for (uint32_t k = 0; k < 3; k++)
        x->late[k] = mp_calloc(x->n_inside, sizeof *x->late[k]);
    if (x->stage_ns == NULL || x->through == NULL || x->inside_first == NULL || x->early == NULL ||
        x->late[0] == NULL || x->late[1] == NULL || x->late[2] == NULL)
        status = mp_nomem(err, "an order between nodes");
    else
        status = time_stages(x, err);
    if (status != MP_OK)
        end_shots(x);
    return status;
}

/* Hops inside nodes of stage s; its rails wait in x->rails for the next shot. */
static enum mp_status run_stage(struct shots *x, uint32_t s, struct mp_error *err) {
    struct walk *w = &x->w;
    uint64_t *late = x->late[s % 3], *balance = x->is_swapped ? late : x->early,
             *forward = x->is_swapped ? x->early : late;
    memset(balance, 0, x->n_inside * sizeof *balance);
    memset(forward, 0, x->n_inside * sizeof *forward);
    x->n_rails = 0;
    for (uint32_t k = 0; k < w->order->stages[s].n; k++) {
        const struct mp_transfer *r = &w->order->stages[s].transfers[k];
        uint64_t P;
        enum mp_status status = demand(w, s, r, &P, err);
        if (status == MP_OK && P > 0) {
            const uint32_t i0 = w->first[r->src], j0 = w->first[r->dst];
            make_relays(w, r, P);
            for (size_t i = 0; i < w->n_relays; i++) {
                const struct mp_relay *p = &w->relays[i];
                balance[x->inside_first[p->src] + p->out - i0] += p->bytes;
                forward[x->inside_first[p->in] + p->dst - j0] += p->bytes;
            }
            status = add_rails(x, r, P, err);
        }
        if (status != MP_OK)
            return status;
        done(w, r);
    }
    return MP_OK;
}

/* Bytes of the flow i -> j of one node in the shot after stage s. */
static uint64_t inside_piece(const struct shots *x, uint64_t bytes, uint32_t s) {
    uint64_t T = x->stage_ns[x->n_stages];
    if (T == 0)
        return s == 0 ? bytes : 0;
    return cut(bytes, x->stage_ns[s + 1], T) - cut(bytes, x->stage_ns[s], T);
}

static enum mp_status add_inside(struct shots *x, uint32_t k, struct mp_error *err) {
    const struct walk *w = &x->w;
    const uint64_t *late = k >= 2 ? x->late[(k - 2) % 3] : NULL;
    const enum mp_hop_part parts[3] = {x->is_swapped ? MP_HOP_FORWARD : MP_HOP_BALANCE, MP_HOP_INSIDE,
                                       x->is_swapped ? MP_HOP_BALANCE : MP_HOP_FORWARD};
    bool has_inside = k >= 1 && (k <= x->n_stages || (k == 1 && x->n_stages == 0));
    for (uint32_t v = 0; v < w->n_nodes; v++)
        for (uint32_t i = w->first[v]; i < w->first[v + 1]; i++)
            for (uint32_t j = w->first[v]; j < w->first[v + 1]; j++) {
                if (i == j)
                    continue;
                size_t at = x->inside_first[i] + j - w->first[v];
                uint64_t bytes[3] = {k < x->n_stages ? x->early[at] : 0,
                                     has_inside ? inside_piece(x, bytes_of(w, i, j), k - 1) : 0,
                                     late != NULL ? late[at] : 0};
                for (int p = 0; p < 3; p++) {
                    if (bytes[p] == 0)
                        continue;
                    enum mp_status status = add_hop(&x->hops, &x->n_hops, &x->n_hops_allocated,
                                                    (struct mp_hop){i, j, parts[p], bytes[p]}, err);
                    if (status != MP_OK)
                        return status;
                }
            }
    return MP_OK;
}

/* Every shot with bytes, forwards, hops as made (not turned round). */
static enum mp_status walk_shots(struct shots *x, mp_shot_fn fn, void *ctx, struct mp_error *err) {
    enum mp_status status = MP_OK;
    for (uint32_t k = 0; k < x->n_stages + 2 && status == MP_OK; k++) {
        x->n_hops = 0;
        for (size_t i = 0; i < x->n_rails && status == MP_OK; i++) /* of stage k - 1 */
            status = add_hop(&x->hops, &x->n_hops, &x->n_hops_allocated, x->rails[i], err);
        x->n_rails = 0;
        if (status == MP_OK && k < x->n_stages)
            status = run_stage(x, k, err);
        if (status == MP_OK)
            status = add_inside(x, k, err);
        if (status == MP_OK && x->n_hops > 0)
            status = fn(ctx, k, x->hops, x->n_hops, err);
    }
    return status;
}

struct kept { /* shots to be given out turned round */
    struct mp_hop *hops;
    size_t n, n_allocated;
    size_t *first;   /* [n_shots + 1] */
    uint32_t *shots; /* their k */
    uint32_t n_shots;
};
static enum mp_status keep_shot(void *ctx, uint32_t shot, const struct mp_hop *hops, size_t n, struct mp_error *err) {
    struct kept *x = ctx;
    for (size_t i = 0; i < n; i++) {
        struct mp_hop h = {hops[i].dst, hops[i].src, hops[i].part, hops[i].bytes};
        enum mp_status status = add_hop(&x->hops, &x->n, &x->n_allocated, h, err);
        if (status != MP_OK)
            return status;
    }
    x->shots[x->n_shots++] = shot;
    x->first[x->n_shots] = x->n;
    return MP_OK;
}

enum mp_status mp_nodes_shots(const struct mp_order *order, const struct mp_topology *t, enum mp_combine way,
                              const uint64_t *matrix, mp_shot_fn fn, void *ctx, struct mp_error *err) {
    struct shots x;
    struct kept kept = {0};
    enum mp_status status = begin_shots(&x, t, order, matrix, way, err);
    if (status != MP_OK)
        return status;
    if (way == MP_COMBINE_FORWARD) {
        status = walk_shots(&x, fn, ctx, err);
        goto out;
    }
    kept.first = mp_calloc((size_t)order->n_stages + 3, sizeof *kept.first);
    kept.shots = mp_calloc((size_t)order->n_stages + 2, sizeof *kept.shots);
    if (kept.first == NULL || kept.shots == NULL) {
        status = mp_nomem(err, "an order between nodes");
        goto out;
    }
    MP_TRY(walk_shots(&x, keep_shot, &kept, err));
    for (uint32_t i = 0; i < kept.n_shots; i++) {
        uint32_t k = way == MP_COMBINE_REVERSED ? kept.n_shots - 1 - i : i;
        MP_TRY(fn(ctx, kept.shots[k], kept.hops + kept.first[k], kept.first[k + 1] - kept.first[k], err));
    }
out:
    mp_free(kept.hops);
    mp_free(kept.first);
    mp_free(kept.shots);
    end_shots(&x);
    return status;
}

/* ---- their time ---- */

struct timing {
    struct mp_net *net;
    bool is_transposed, is_backwards, has_time;
    uint32_t n_shots;
    uint64_t latency_ns, time_ns, estimate_ns;
};

/* Transfers of the shot just timed, logged from `first` on, ran after all shots before it. A reversed order runs the
 * other way round: until its total is known, its times are counted from the end. */
static void move_log(const struct timing *x, size_t first, uint64_t shot_ns) {
    struct mp_net_log *log = x->net->log;
    const uint64_t launch = x->net->t->stage_launch_ns;
    for (size_t i = first; log != NULL && i < log->n; i++) {
        struct mp_net_transfer *r = &log->transfers[i];
        r->stage = x->n_shots;
        r->start_ns = x->is_backwards ? x->time_ns + shot_ns - launch - r->start_ns : x->time_ns + launch + r->start_ns;
        r->end_ns = x->is_backwards ? x->time_ns + shot_ns - launch - r->end_ns : x->time_ns + launch + r->end_ns;
    }
}
static void turn_log(const struct timing *x, size_t first) {
    struct mp_net_log *log = x->net->log;
    for (size_t i = first; log != NULL && x->is_backwards && i < log->n; i++) {
        struct mp_net_transfer *r = &log->transfers[i];
        r->stage = x->n_shots - 1 - r->stage;
        r->start_ns = x->time_ns - r->start_ns;
        r->end_ns = x->time_ns - r->end_ns;
    }
}

static enum mp_status time_shot(void *ctx, uint32_t shot, const struct mp_hop *hops, size_t n, struct mp_error *err) {
    (void)shot;
    struct timing *x = ctx;
    struct mp_net *net = x->net;
    if (n > net->n_shot_allocated) {
        uint32_t *grown = mp_realloc(net->shot_pairs, n + n / 4, sizeof *grown);
        if (grown == NULL)
            return mp_nomem(err, "an order between nodes");
        net->shot_pairs = grown;
        net->n_shot_allocated = n + n / 4;
    }
    size_t n_pairs = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t from = x->is_transposed ? hops[i].dst : hops[i].src, to = x->is_transposed ? hops[i].src : hops[i].dst,
                 pair = from * net->n + to;
        if (net->shot[pair] == 0)
            net->shot_pairs[n_pairs++] = pair;
        net->shot[pair] = net_add(net->shot[pair], hops[i].bytes);
    }
    const uint64_t launch = net->t->stage_launch_ns;
    struct net_end end = {.least_latency_ns = UINT64_MAX};
    uint64_t bound = 0;
    enum mp_status status = MP_OK;
    const size_t logged = net->log == NULL ? 0 : net->log->n;
    if (x->has_time)
        status = net_concurrent_pairs(net, net->shot_pairs, n_pairs, net->shot, &bound, &end, err);
    else
        bound = net_bound_pairs(net, net->shot_pairs, n_pairs, net->shot);
    for (size_t i = 0; i < n_pairs; i++)
        net->shot[net->shot_pairs[i]] = 0;
    if (status == MP_OK)
        move_log(x, logged, sum_ns(launch, end.longest_ns));
    x->time_ns = sum_ns(x->time_ns, sum_ns(launch, end.longest_ns));
    x->n_shots++;
    x->estimate_ns = sum_ns(x->estimate_ns, sum_ns(sum_ns(launch, x->latency_ns), bound));
    return status;
}

enum mp_status net_nodes_staged(struct mp_net *n, const struct mp_order *order, enum mp_combine way,
                                const uint64_t *matrix, uint64_t *time_ns, uint64_t *estimate_ns,
                                struct mp_error *err) {
    struct shots x;
    struct timing timing = {.net = n,
                            .is_transposed = way != MP_COMBINE_FORWARD,
                            .is_backwards = way == MP_COMBINE_REVERSED,
                            .has_time = time_ns != NULL};
    if (n->shot == NULL && (n->shot = mp_calloc((size_t)n->n * n->n, sizeof *n->shot)) == NULL)
        return mp_nomem(err, "an order between nodes");
    for (uint32_t l = 0; l < n->t->n_levels; l++)
        timing.latency_ns = larger(timing.latency_ns, n->t->levels[l].latency_ns);
    enum mp_status status = begin_shots(&x, n->t, order, matrix, way, err);
    if (status != MP_OK)
        return status;
    const size_t logged = n->log == NULL ? 0 : n->log->n;
    status = walk_shots(&x, time_shot, &timing, err);
    end_shots(&x);
    if (status == MP_OK)
        turn_log(&timing, logged);
    if (status == MP_OK && time_ns != NULL)
        *time_ns = larger(timing.time_ns, mp_relay_bound_ns(n->t, matrix)); /* rounding must not pass below */
    if (status == MP_OK && estimate_ns != NULL)
        *estimate_ns = timing.estimate_ns;
    return status;
}
