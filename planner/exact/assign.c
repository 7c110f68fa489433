/* Bottleneck assignment, and the sum of several bottlenecks.
 *
 * Decides   a partner of its own for everyone on the left.
 * Minimises the largest weight used; of several tables the sum of their largest ones.
 * Method    threshold: the least weight t such that the pairs of weight <= t hold a matching of the whole left side, by
 *           bisection over the distinct weights; matchings by Hopcroft and Karp (SIAM J. Comput. 2(4), 1973,
 *           doi:10.1137/0202019). Bottleneck assignment: R. E. Burkard, M. Dell'Amico, S. Martello, Assignment
 *           Problems, SIAM 2009, chapter 6. Sums: every distinct weight of the first table from its own least threshold
 *           upwards is tried as its limit, pairs above it are taken away, and so on in the next table; a branch ends
 *           where the least thresholds of the tables left already add up to the best sum.
 * Bound     exact. A weight that no optimal assignment uses as its largest never needs to be a limit.
 * Differs   -
 * Cost      O(E sqrt(V) log E) for a threshold; with k tables at most (distinct weights)^(k - 1) of them. */
#include "assign.h"
#include <moeplan/base.h>
#include <stdlib.h>
#include <string.h>

struct matcher {
    uint32_t n_left, n_right;
    const bool *is_open; /* [n_left][n_right] or NULL = all */
    const uint64_t *weight;
    uint64_t limit;
    uint32_t *to, *from, *level, *queue, *edge; /* partner of left, of right; breadth-first levels; next edge to try */
};

static bool is_usable(const struct matcher *m, uint32_t left, uint32_t right) {
    size_t at = (size_t)left * m->n_right + right;
    return m->weight[at] <= m->limit && m->weight[at] != MP_ASSIGN_NEVER && (m->is_open == NULL || m->is_open[at]);
}

/* Levels of the left vertices from the free ones; is there a free right vertex at the end of some path? */
static bool find_levels(struct matcher *m) {
    uint32_t n = 0;
    bool has_free = false;
    for (uint32_t i = 0; i < m->n_left; i++) {
        m->level[i] = m->to[i] == MP_NONE ? 0 : MP_NONE;
        if (m->level[i] == 0)
            m->queue[n++] = i;
    }
    for (uint32_t k = 0; k < n; k++)
        for (uint32_t j = 0; j < m->n_right; j++) {
            uint32_t i = m->queue[k], next = m->from[j];
            if (!is_usable(m, i, j))
                continue;
            if (next == MP_NONE) {
                has_free = true;
            } else if (m->level[next] == MP_NONE) {
                m->level[next] = m->level[i] + 1;
                m->queue[n++] = next;
            }
        }
    return has_free;
}

/* Depth-first from a free left vertex; queue holds the path. */
static bool augment(struct matcher *m, uint32_t start) {
    uint32_t depth = 0;
    m->queue[0] = start;
    for (;;) {
        uint32_t i = m->queue[depth];
        if (m->edge[i] == m->n_right) {
            m->level[i] = MP_NONE;
            if (depth == 0)
                return false;
            depth--;
            m->edge[m->queue[depth]]++;
            continue;
        }
        uint32_t j = m->edge[i], next = m->from[j];
        if (is_usable(m, i, j) && next == MP_NONE) {
            for (uint32_t d = depth + 1; d-- > 0;) { /* every vertex of the path takes the edge it is at */
                uint32_t left = m->queue[d], right = m->edge[left];
                m->to[left] = right;
                m->from[right] = left;
            }
            return true;
        }
        if (is_usable(m, i, j) && m->level[next] == m->level[i] + 1)
            m->queue[++depth] = next;
        else
            m->edge[i]++;
    }
}

static bool matches_all(struct matcher *m, uint64_t limit) {
    m->limit = limit;
    memset(m->to, 0xff, m->n_left * sizeof *m->to);
    memset(m->from, 0xff, m->n_right * sizeof *m->from);
    uint32_t n = 0;
    while (find_levels(m)) {
        memset(m->edge, 0, m->n_left * sizeof *m->edge);
        for (uint32_t i = 0; i < m->n_left; i++)
            if (m->to[i] == MP_NONE && m->level[i] == 0)
                n += augment(m, i);
        if (n == m->n_left)
            return true;
    }
    return n == m->n_left;
}

static int ascending(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Distinct weights but NEVER, ascending. */
static uint32_t distinct(const uint64_t *weight, size_t n, uint64_t *out) {
    uint32_t k = 0;
    memcpy(out, weight, n * sizeof *out);
    qsort(out, n, sizeof *out, ascending);
    for (size_t i = 0; i < n && out[i] != MP_ASSIGN_NEVER; i++)
        if (k == 0 || out[i] != out[k - 1])
            out[k++] = out[i];
    return k;
}

/* Index of the least value that is enough as the limit, n when none is. */
static uint32_t least_limit(struct matcher *m, const uint64_t *values, uint32_t n) {
    if (m->n_left == 0 || n == 0 || !matches_all(m, values[n - 1]))
        return n;
    uint32_t low = 0, high = n - 1; /* high is enough */
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (matches_all(m, values[middle]))
            high = middle;
        else
            low = middle + 1;
    }
    (void)matches_all(m, values[high]);
    return high;
}

static bool make_matcher(struct matcher *m, uint32_t n_left, uint32_t n_right, struct mp_arena *arena) {
    m->n_left = n_left;
    m->n_right = n_right;
    m->to = mp_arena_alloc(arena, n_left, sizeof *m->to);
    m->from = mp_arena_alloc(arena, n_right, sizeof *m->from);
    m->level = mp_arena_alloc(arena, n_left, sizeof *m->level);
    m->queue = mp_arena_alloc(arena, (size_t)n_left + 1, sizeof *m->queue);
    m->edge = mp_arena_alloc(arena, n_left, sizeof *m->edge);
    return m->to != NULL && m->from != NULL && m->level != NULL && m->queue != NULL && m->edge != NULL;
}

enum mp_status mp_assign_bottleneck(uint32_t n_left, uint32_t n_right, const uint64_t *weight, uint32_t *to,
                                    uint64_t *worst, bool *is_found, struct mp_error *err) {
    struct mp_arena *arena = mp_arena_new();
    struct matcher m = {.weight = weight};
    uint64_t *values = arena != NULL ? mp_arena_alloc(arena, (size_t)n_left * n_right, sizeof *values) : NULL;
    *worst = 0;
    *is_found = n_left == 0;
    if (values == NULL || !make_matcher(&m, n_left, n_right, arena)) {
        mp_arena_free(arena);
        return mp_nomem(err, "assigning experts to GPUs");
    }
    uint32_t n = distinct(weight, (size_t)n_left * n_right, values), best = least_limit(&m, values, n);
    if (best < n) {
        *is_found = true;
        *worst = values[best];
        memcpy(to, m.to, n_left * sizeof *to);
    }
    mp_arena_free(arena);
    return MP_OK;
}

/* ---- sums ---- */
struct sum {
    struct matcher m;
    uint32_t n_tables;
    const uint64_t *const *weight;
    uint64_t *values[MP_ASSIGN_TABLES_MAX]; /* distinct weights of each table */
    uint32_t n_values[MP_ASSIGN_TABLES_MAX];
    bool *is_open[MP_ASSIGN_TABLES_MAX]; /* pairs left when tables before this one have their limits */
    uint64_t node_limit, nodes, best, unexplored;
    uint32_t *best_to;
    bool is_found;
};

/* Least limit of a table under what is open before `depth`; NEVER when there is none. */
static uint64_t least_of(struct sum *s, uint32_t table, uint32_t depth) {
    s->m.weight = s->weight[table];
    s->m.is_open = s->is_open[depth];
    uint32_t at = least_limit(&s->m, s->values[table], s->n_values[table]);
    return at < s->n_values[table] ? s->values[table][at] : MP_ASSIGN_NEVER;
}

static void search(struct sum *s, uint32_t depth, uint64_t so_far) {
    uint64_t rest = 0, first;
    size_t n_pairs = (size_t)s->m.n_left * s->m.n_right;
    s->nodes++;
    for (uint32_t t = depth + 1; t < s->n_tables; t++) {
        uint64_t least = least_of(s, t, depth);
        if (least == MP_ASSIGN_NEVER)
            return;
        rest += least;
    }
    first = least_of(s, depth, depth);
    if (first == MP_ASSIGN_NEVER || (s->is_found && so_far + first + rest >= s->best))
        return;
    if (depth + 1 == s->n_tables) {
        s->is_found = true;
        s->best = so_far + first;
        memcpy(s->best_to, s->m.to, s->m.n_left * sizeof *s->best_to);
        return;
    }
    for (uint32_t i = 0; i < s->n_values[depth]; i++) {
        uint64_t limit = s->values[depth][i];
        if (limit < first)
            continue;
        if (s->is_found && so_far + limit + rest >= s->best)
            break;
        if (s->node_limit > 0 && s->nodes >= s->node_limit && s->is_found) {
            uint64_t open = so_far + limit + rest;
            s->unexplored = open < s->unexplored ? open : s->unexplored;
            break;
        }
        for (size_t k = 0; k < n_pairs; k++)
            s->is_open[depth + 1][k] = s->is_open[depth][k] && s->weight[depth][k] <= limit;
        search(s, depth + 1, so_far + limit);
    }
}

enum mp_status mp_assign_sum(uint32_t n_left, uint32_t n_right, uint32_t n_tables, const uint64_t *const *weight,
                             uint64_t node_limit, uint32_t *to, uint64_t *sum, uint64_t *bound, uint64_t *nodes,
                             bool *is_found, bool *is_proven, struct mp_error *err) {
    struct mp_arena *arena = mp_arena_new();
    struct sum s = {.n_tables = n_tables, .weight = weight, .node_limit = node_limit, .unexplored = UINT64_MAX};
    size_t n_pairs = (size_t)n_left * n_right;
    enum mp_status status = MP_OK;
    *is_found = *is_proven = n_left == 0;
    *sum = *bound = *nodes = 0;
    if (arena == NULL || !make_matcher(&s.m, n_left, n_right, arena)) {
        status = mp_nomem(err, "assigning experts to GPUs");
        goto out;
    }
    s.best_to = to;
    for (uint32_t t = 0; t < n_tables; t++) {
        s.values[t] = mp_arena_alloc(arena, n_pairs, sizeof *s.values[t]);
        s.is_open[t] = mp_arena_alloc(arena, n_pairs, sizeof *s.is_open[t]);
        if (s.values[t] == NULL || s.is_open[t] == NULL) {
            status = mp_nomem(err, "assigning experts to GPUs");
            goto out;
        }
        s.n_values[t] = distinct(weight[t], n_pairs, s.values[t]);
    }
    for (size_t k = 0; k < n_pairs; k++) {
        s.is_open[0][k] = true;
        for (uint32_t t = 0; t < n_tables; t++)
            s.is_open[0][k] &= weight[t][k] != MP_ASSIGN_NEVER;
    }
    if (n_left > 0)
        search(&s, 0, 0);
    *is_found = n_left == 0 || s.is_found;
    *sum = s.is_found ? s.best : 0;
    *bound = s.unexplored < *sum ? s.unexplored : *sum;
    *is_proven = *is_found && *bound == *sum;
    *nodes = s.nodes;
out:
    mp_arena_free(arena);
    return status;
}
