/* Linear assignment: who gets whom, when all pairs count.
 *
 * Decides   a partner of its own for everyone on the left.
 * Minimises the sum of the weights used.
 * Method    shortest augmenting paths with potentials, one left vertex after the other. H. W. Kuhn, The Hungarian
 *           Method for the Assignment Problem, Naval Research Logistics Quarterly 2, 1955; R. Jonker, A. Volgenant, A
 *           Shortest Augmenting Path Algorithm for Dense and Sparse Linear Assignment Problems, Computing 38, 1987,
 *           doi:10.1007/BF02278710.
 * Bound     exact; the potentials are the proof: none of u[left] + v[right] is above its weight, and their sum is the
 *           assignment's. Checked before it is returned.
 * Differs   no column reduction beforehand: the sizes are those of clusters.
 * Cost      O(n^3). */
#include "assign.h"
#include <moeplan/base.h>
#include <string.h>

#define NEVER (INT64_C(1) << 52) /* more than any sum of weights that are allowed */

struct least {
    uint32_t n;
    const uint64_t *weight;
    int64_t *u, *v, *slack; /* potentials of left and right; of right ones out of the tree the least reduced weight */
    uint32_t *from, *way;   /* [n] left partner of right (MP_NONE); the tree's right vertex before this one */
    bool *is_in;            /* right vertices in the tree */
};

static int64_t weight_of(const struct least *a, uint32_t left, uint32_t right) {
    uint64_t w = a->weight[(size_t)left * a->n + right];
    return w == MP_ASSIGN_NEVER ? NEVER : (int64_t)w;
}

/* Grows the tree from `start` until it reaches a free right vertex, keeping the potentials feasible. */
static void add(struct least *a, uint32_t start) {
    uint32_t left = start, last = MP_NONE;
    for (uint32_t j = 0; j < a->n; j++) {
        a->slack[j] = INT64_MAX;
        a->is_in[j] = false;
        a->way[j] = MP_NONE;
    }
    for (;;) {
        int64_t delta = INT64_MAX;
        uint32_t next = 0;
        for (uint32_t j = 0; j < a->n; j++) {
            if (a->is_in[j])
                continue;
            int64_t reduced = weight_of(a, left, j) - a->u[left] - a->v[j];
            if (reduced < a->slack[j]) {
                a->slack[j] = reduced;
                a->way[j] = last;
            }
            if (a->slack[j] < delta) {
                delta = a->slack[j];
                next = j;
            }
        }
        for (uint32_t j = 0; j < a->n; j++) {
            if (a->is_in[j]) {
                a->v[j] -= delta;
                a->u[a->from[j]] += delta;
            } else {
                a->slack[j] -= delta;
            }
        }
        a->u[start] += delta;
        if (a->from[next] == MP_NONE) {
            while (next != MP_NONE) { /* everyone on the way takes the partner of the one before */
                uint32_t before = a->way[next];
                a->from[next] = before != MP_NONE ? a->from[before] : start;
                next = before;
            }
            return;
        }
        a->is_in[next] = true;
        last = next;
        left = a->from[next];
    }
}

/* Is every potential feasible, and does their sum equal the assignment's? */
static enum mp_status check(const struct least *a, int64_t sum, struct mp_error *err) {
    int64_t dual = 0;
    for (uint32_t i = 0; i < a->n; i++)
        dual += a->u[i] + a->v[i];
    for (uint32_t i = 0; i < a->n; i++)
        for (uint32_t j = 0; j < a->n; j++)
            if (a->u[i] + a->v[j] > weight_of(a, i, j))
                return mp_fail(err, MP_EBUG, "assignment: the potentials of %u and %u are above their weight", i, j);
    if (dual != sum)
        return mp_fail(err, MP_EBUG, "assignment: the potentials do not prove it");
    return MP_OK;
}

enum mp_status mp_assign_least(uint32_t n, const uint64_t *weight, uint32_t *to, int64_t *u, int64_t *v,
                               uint64_t *total, bool *is_found, struct mp_error *err) {
    struct least a = {.n = n, .weight = weight, .u = u, .v = v};
    enum mp_status status = MP_OK;
    int64_t sum = 0;
    *total = 0;
    *is_found = false;
    a.slack = mp_calloc(n > 0 ? n : 1, sizeof *a.slack);
    a.from = mp_calloc(n > 0 ? n : 1, sizeof *a.from);
    a.way = mp_calloc(n > 0 ? n : 1, sizeof *a.way);
    a.is_in = mp_calloc(n > 0 ? n : 1, sizeof *a.is_in);
    if (a.slack == NULL || a.from == NULL || a.way == NULL || a.is_in == NULL) {
        status = mp_nomem(err, "assignment");
        goto out;
    }
    for (uint32_t i = 0; i < n; i++) {
        u[i] = v[i] = 0;
        a.from[i] = MP_NONE;
    }
    for (uint32_t i = 0; i < n; i++)
        add(&a, i);
    *is_found = true;
    for (uint32_t j = 0; j < n; j++) {
        to[a.from[j]] = j;
        sum += weight_of(&a, a.from[j], j);
        *is_found &= weight[(size_t)a.from[j] * n + j] != MP_ASSIGN_NEVER;
    }
    MP_TRY(check(&a, sum, err));
    *total = (uint64_t)sum;
out:
    mp_free(a.slack);
    mp_free(a.from);
    mp_free(a.way);
    mp_free(a.is_in);
    return status;
}
