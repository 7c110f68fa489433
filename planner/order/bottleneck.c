/* Bottleneck matchings of a shrinking matrix.
 *
 * Decides   for each row a column of its own.
 * Minimises the lost time of a stage: of all perfect matchings one whose smallest entry t is largest.
 * Method    a threshold t, a matching of the entries >= t. Where a free row reaches no free column, the rows and
 * columns it does reach prove that t is too high (Hall); t falls to the largest entry that leaves them. Entries only
 *           ever shrink, so t only ever falls: threshold and matching are kept from one call to the next, and only rows
 *           whose entry fell below t look for a new column.
 *           Among matchings with that t, exchanges between two rows lead to one with a large sum: the longest entries
 *           are what makes the launch of all the rest at once slow.
 * Bound     t is exactly the largest possible; the sum only cannot be improved by one exchange.
 * Paper     O. Gross, RAND P-1630, 1959 (thresholds); H. N. Gabow, R. E. Tarjan, J. Algorithms 9(3), 1988.
 * Differs   warm start; rows as bits.
 * Cost      O(n^2 / 64) for a row that changes, O(n^2) for each fall of t. */
#include "bottleneck.h"
#include <string.h>

#define ROUNDS_MAX 8u /* of exchanges between two matchings */

struct mp_bottleneck {
    uint32_t n, words;
    uint64_t threshold;
    uint64_t *left;                /* [n][n] */
    uint64_t *row_bits;            /* [n][words] columns with left >= threshold */
    uint64_t *free_columns, *seen; /* [words] sets of columns */
    uint32_t *to, *from;           /* [n] MP_NONE = free */
    uint32_t *queue, *reached_by;  /* [n] */
};

static void put(uint64_t *bits, uint32_t i) { bits[i / 64] |= UINT64_C(1) << (i % 64); }
static void drop(uint64_t *bits, uint32_t i) { bits[i / 64] &= ~(UINT64_C(1) << (i % 64)); }

enum mp_status mp_bottleneck_new(struct mp_bottleneck **out, uint32_t n, const uint64_t *matrix, struct mp_error *err) {
    struct mp_bottleneck *b = mp_calloc(1, sizeof *b);
    const size_t words = (n + 63) / 64;
    *out = NULL;
    if (b == NULL)
        return mp_nomem(err, "matching traffic");
    *b = (struct mp_bottleneck){.n = n, .words = (uint32_t)words, .threshold = UINT64_MAX};
    b->left = mp_calloc((size_t)n * n, sizeof *b->left);
    b->row_bits = mp_calloc((n + 2) * words, sizeof *b->row_bits);
    b->to = mp_calloc(4 * (size_t)n, sizeof *b->to);
    if (b->left == NULL || b->row_bits == NULL || b->to == NULL) {
        mp_bottleneck_free(b);
        return mp_nomem(err, "matching traffic");
    }
    memcpy(b->left, matrix, (size_t)n * n * sizeof *matrix);
    b->free_columns = b->row_bits + n * words;
    b->seen = b->free_columns + words;
    b->from = b->to + n;
    b->queue = b->to + 2 * (size_t)n;
    b->reached_by = b->to + 3 * (size_t)n;
    memset(b->to, 0xff, 2 * (size_t)n * sizeof *b->to);
    for (uint32_t j = 0; j < n; j++)
        put(b->free_columns, j);
    *out = b;
    return MP_OK;
}

void mp_bottleneck_free(struct mp_bottleneck *b) {
    if (b == NULL)
        return;
    mp_free(b->left);
    mp_free(b->row_bits);
    mp_free(b->to);
    mp_free(b);
}

const uint32_t *mp_bottleneck_to(const struct mp_bottleneck *b) { return b->to; }
uint64_t mp_bottleneck_left(const struct mp_bottleneck *b, uint32_t row, uint32_t column) {
    return b->left[(size_t)row * b->n + column];
}

void mp_bottleneck_take(struct mp_bottleneck *b, uint32_t row, uint32_t column, uint64_t amount) {
    uint64_t *left = &b->left[(size_t)row * b->n + column];
    *left -= amount;
    if (*left >= b->threshold)
        return;
    drop(b->row_bits + (size_t)row * b->words, column);
    if (b->to[row] == column) {
        b->to[row] = b->from[column] = MP_NONE;
        put(b->free_columns, column);
    }
}

/* Gives the free row `root` a column along a shortest alternating path; false leaves rows reached in queue[0 ..
 * *n_queue) and columns reached in seen. */
static bool augment(struct mp_bottleneck *b, uint32_t root, uint32_t *n_queue) {
    const uint32_t words = b->words;
    *n_queue = 1;
    b->queue[0] = root;
    memset(b->seen, 0, words * sizeof *b->seen);
    for (uint32_t at = 0; at < *n_queue; at++) {
        uint32_t u = b->queue[at];
        const uint64_t *bits = b->row_bits + (size_t)u * words;
        for (uint32_t w = 0; w < words; w++) {
            uint64_t open = bits[w] & b->free_columns[w];
            if (open == 0)
                continue;
            uint32_t column = w * 64 + (uint32_t)__builtin_ctzll(open);
            drop(b->free_columns, column);
            for (;;) {
                uint32_t old = b->to[u];
                b->to[u] = column;
                b->from[column] = u;
                if (u == root)
                    return true;
                column = old;
                u = b->reached_by[old];
            }
        }
        for (uint32_t w = 0; w < words; w++) {
            uint64_t fresh = bits[w] & ~b->seen[w];
            b->seen[w] |= fresh;
            for (; fresh != 0; fresh &= fresh - 1) {
                uint32_t column = w * 64 + (uint32_t)__builtin_ctzll(fresh);
                b->reached_by[column] = u;
                b->queue[(*n_queue)++] = b->from[column];
            }
        }
    }
    return false;
}

/* Lowers the threshold to the largest entry from a reached row to a column not reached; false when that is 0. */
static bool lower(struct mp_bottleneck *b, uint32_t n_queue) {
    const uint32_t n = b->n;
    uint64_t most = 0;
    for (uint32_t k = 0; k < n_queue; k++) {
        const uint64_t *left = b->left + (size_t)b->queue[k] * n;
        for (uint32_t j = 0; j < n; j++)
            if (left[j] > most && !(b->seen[j / 64] >> (j % 64) & 1))
                most = left[j];
    }
    if (most == 0)
        return false;
    b->threshold = most;
    for (uint32_t i = 0; i < n; i++) {
        const uint64_t *left = b->left + (size_t)i * n;
        for (uint32_t w = 0; w < b->words; w++) {
            uint64_t bits = 0;
            uint32_t width = n - w * 64 < 64 ? n - w * 64 : 64;
            for (uint32_t j = 0; j < width; j++)
                bits |= (uint64_t)(left[w * 64 + j] >= most) << j;
            b->row_bits[(size_t)i * b->words + w] = bits;
        }
    }
    return true;
}

/* Exchanges the columns of two rows while that makes the sum of the matched entries larger and keeps them above the
 * threshold. */
static void improve(struct mp_bottleneck *b) {
    const uint32_t n = b->n;
    bool is_better = true;
    for (uint32_t round = 0; is_better && round < ROUNDS_MAX; round++) {
        is_better = false;
        for (uint32_t i = 0; i < n; i++) {
            const uint64_t *mine = b->left + (size_t)i * n;
            for (uint32_t k = i + 1; k < n; k++) {
                const uint64_t *other = b->left + (size_t)k * n;
                const uint32_t p = b->to[i], q = b->to[k];
                if (mine[q] < b->threshold || other[p] < b->threshold || mine[q] + other[p] <= mine[p] + other[q])
                    continue;
                b->to[i] = q, b->from[q] = i;
                b->to[k] = p, b->from[p] = k;
                is_better = true;
            }
        }
    }
}

uint64_t mp_bottleneck_next(struct mp_bottleneck *b) {
    for (uint32_t i = 0; i < b->n; i++) {
        uint32_t n_queue;
        while (b->to[i] == MP_NONE && !augment(b, i, &n_queue))
            if (!lower(b, n_queue))
                return 0;
    }
    improve(b);
    return b->threshold;
}
