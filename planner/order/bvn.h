/* Private to planner/: an integer matrix as a sum of weighted matchings (Birkhoff and von Neumann), exactly. Knows
 * nothing of topologies: matrix in, stages out, one at a time. */
#ifndef BVN_H
#define BVN_H

#include <moeplan/alloc.h>
#include <moeplan/limits.h>

#define MP_BVN_ENDS_MAX 4096u
#define MP_BVN_SUM_MAX (UINT64_C(1) << 62) /* of a row or column */

struct mp_bvn;
/* One stage: every row sends to one column and every column takes from one row, from `start` to `end` on a clock that
 * counts units of the matrix. Borrowed from the decomposition, valid until the next call. */
struct mp_bvn_stage {
    uint64_t start, end;
    const uint32_t *to;         /* [n] column of each row, a permutation */
    const uint64_t *real_until; /* [n] when the row's pair has sent all that the matrix has; it idles from there on */
};
/* matrix[n][n], n in [1, MP_BVN_ENDS_MAX]; the diagonal counts like any entry. MP_ELIMIT when a row or column sums to
 * more than MP_BVN_SUM_MAX. The matrix is copied. 16 n^2 bytes at most. */
enum mp_status mp_bvn_new(struct mp_bvn **out, uint32_t n, const uint64_t *matrix, struct mp_error *err) MP_MUST_CHECK;
void mp_bvn_free(struct mp_bvn *b);
/* Largest row or column sum: what the lengths of all stages add up to, exactly. */
uint64_t mp_bvn_bound(const struct mp_bvn *b);
/* The next stage; false past the last. At most n^2 - 2n + 2 of them. */
bool mp_bvn_next(struct mp_bvn *b, struct mp_bvn_stage *stage);
/* What `row` really sends in this stage: 0 = it idles. */
static inline uint64_t mp_bvn_bytes(const struct mp_bvn_stage *s, uint32_t row) {
    uint64_t until = s->real_until[row] < s->end ? s->real_until[row] : s->end;
    return until > s->start ? until - s->start : 0;
}

#endif
