/* Exact decomposition into matchings.
 *
 * Decides   which column each row sends to, and when, so that no row and no column does two things at once.
 * Minimises the end of the last transfer; it is the largest row or column sum b, which no order can go below.
 * Method    slack is padded until every line sums to b. A perfect matching of the entries above 0 then exists (Hall)
 *           and runs until its smallest entry is used up; what is left has equal sums again. The matching is kept: only
 *           rows whose entry is used up look for a new column along an alternating path over rows and columns of bits,
 *           mostly a single exchange with the first row that fits. No entry is counted down: a matched pair holds the
 *           time at which its entry will be used up, so a stage that changes two rows touches two rows, and a
 *           tournament tree has the next time on top. Padding goes onto entries above 0 first: each other entry that it
 *           makes can cost a stage.
 * Bound     exact: lengths sum to b. At most n^2 - 2n + 2 stages: each ends on a smaller face of the cone of matrices
 *           with equal sums, whose dimension that is (M. Marcus, R. Ree, Quart. J. Math. 10, 1959).
 * Paper     G. Birkhoff, Univ. Nac. Tucuman Rev. A 5, 1946; T. Gonzalez, S. Sahni, J. ACM 23(4), 1976 (as preemptive
 *           open shop).
 * Differs   padding is at most one dummy entry per line with slack; a pair sends its real bytes first.
 * Cost      O(n^2) for the start; a stage O(n^2 / 64) for each row that changes, mostly O(log n). 10 n^2 bytes. */
#include "bvn.h"
#include <assert.h>
#include <string.h>

struct pad {
    uint32_t column;
    uint64_t bytes;
};
struct mp_bvn {
    uint32_t n, words;
    uint32_t n_leaves; /* of the tree: a power of two */
    uint64_t bound, now;
    uint64_t *left;       /* [n][n] padded, what is not sent yet; of a matched pair as it was when it was matched */
    uint64_t *row_bits;   /* [n][words] columns whose entry is above 0 */
    uint64_t *col_bits;   /* [n][words] rows whose entry is above 0 */
    uint64_t *tree;       /* [2 * n_leaves] leaf n_leaves + row: when its entry is used up; above: the earliest below */
    uint64_t *real_until; /* [n] */
    uint32_t *to, *from;  /* [n] the matching: column of a row, row of a column; MP_NONE = free */
    uint32_t *pad_first;  /* [n + 1] into pads */
    struct pad *pads;     /* [2 * n] by row */
    uint64_t *free_columns, *goals, *seen; /* [words] sets of columns */
    uint32_t *queue, *reached_by;          /* [n] rows of the search; row from which a column was reached */
    uint32_t n_expired, *expired;          /* [n] rows whose entry is used up */
};

static bool has(const uint64_t *bits, uint32_t i) { return bits[i / 64] >> (i % 64) & 1; }
static void put(uint64_t *bits, uint32_t i) { bits[i / 64] |= UINT64_C(1) << (i % 64); }
static void drop(uint64_t *bits, uint32_t i) { bits[i / 64] &= ~(UINT64_C(1) << (i % 64)); }
static uint64_t least(uint64_t a, uint64_t b) { return a < b ? a : b; }

/* ---- padding ---- */
static enum mp_status sum_lines(struct mp_bvn *b, const uint64_t *matrix, uint64_t *row_slack, uint64_t *col_slack,
                                struct mp_error *err) {
    const uint32_t n = b->n;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++) {
            uint64_t x = matrix[(size_t)i * n + j];
            if (x > MP_BVN_SUM_MAX || (row_slack[i] += x) > MP_BVN_SUM_MAX || (col_slack[j] += x) > MP_BVN_SUM_MAX)
                return mp_fail(err, MP_ELIMIT, "traffic of end %u or %u adds up to more than 2^62 (use a larger unit)",
                               i, j);
        }
    for (uint32_t i = 0; i < n; i++) {
        b->bound = row_slack[i] > b->bound ? row_slack[i] : b->bound;
        b->bound = col_slack[i] > b->bound ? col_slack[i] : b->bound;
    }
    for (uint32_t i = 0; i < n; i++) {
        row_slack[i] = b->bound - row_slack[i];
        col_slack[i] = b->bound - col_slack[i];
    }
    return MP_OK;
}

static void pad_entry(struct mp_bvn *b, uint32_t row, uint32_t column, uint64_t *row_slack, uint64_t *col_slack) {
    uint64_t bytes = least(row_slack[row], col_slack[column]);
    if (bytes == 0)
        return;
    b->left[(size_t)row * b->n + column] += bytes;
    b->pads[b->pad_first[row + 1]++] = (struct pad){column, bytes};
    row_slack[row] -= bytes;
    col_slack[column] -= bytes;
}

/* Every dummy uses up the slack of its row or its column, and the last one both: fewer than 2n. */
static void pad(struct mp_bvn *b, const uint64_t *matrix, uint64_t *row_slack, uint64_t *col_slack) {
    const uint32_t n = b->n;
    for (uint32_t i = 0; i < n; i++) {
        b->pad_first[i + 1] = b->pad_first[i];
        for (uint32_t j = 0; j < n && row_slack[i] > 0; j++)
            if (matrix[(size_t)i * n + j] > 0)
                pad_entry(b, i, j, row_slack, col_slack);
        for (uint32_t j = 0; j < n && row_slack[i] > 0; j++)
            pad_entry(b, i, (i + j) % n, row_slack, col_slack);
    }
}

/* ---- matching ---- */
static void set_leaf(struct mp_bvn *b, uint32_t row, uint64_t time) {
    uint64_t *tree = b->tree;
    uint32_t i = b->n_leaves + row;
    tree[i] = time;
    for (; i > 1; i /= 2) {
        uint64_t other = tree[i ^ 1];
        time = other < time ? other : time;
        tree[i / 2] = time;
    }
}

static void unmatch(struct mp_bvn *b, uint32_t row) {
    b->left[(size_t)row * b->n + b->to[row]] = b->tree[b->n_leaves + row] - b->now;
}

static void match(struct mp_bvn *b, uint32_t row, uint32_t column) {
    uint64_t left = b->left[(size_t)row * b->n + column], dummy = 0;
    for (uint32_t k = b->pad_first[row]; k < b->pad_first[row + 1]; k++)
        if (b->pads[k].column == column)
            dummy = b->pads[k].bytes;
    b->to[row] = column;
    b->from[column] = row;
    b->real_until[row] = b->now + (left > dummy ? left - dummy : 0);
    set_leaf(b, row, b->now + left);
}

/* Row u has reached `column`, whose row can go to a free column: shifts everything along the path by one. */
static void shift(struct mp_bvn *b, uint32_t root, uint32_t u, uint32_t column) {
    const uint32_t last = b->from[column];
    uint32_t open = 0;
    for (uint32_t w = 0; w < b->words; w++) {
        uint64_t x = b->row_bits[(size_t)last * b->words + w] & b->free_columns[w];
        if (x != 0) {
            open = w * 64 + (uint32_t)__builtin_ctzll(x);
            break;
        }
    }
    drop(b->free_columns, open);
    unmatch(b, last);
    match(b, last, open);
    while (u != root) {
        uint32_t old = b->to[u];
        unmatch(b, u);
        match(b, u, column);
        column = old;
        u = b->reached_by[old];
    }
    match(b, root, column);
}

/* Breadth first from the free row `root` until a column of `goals` is reached. */
static void search(struct mp_bvn *b, uint32_t root) {
    const uint32_t words = b->words;
    uint32_t n_queue = 1;
    b->queue[0] = root;
    memset(b->seen, 0, words * sizeof *b->seen);
    for (uint32_t at = 0; at < n_queue; at++) {
        const uint32_t u = b->queue[at];
        const uint64_t *bits = b->row_bits + (size_t)u * words;
        for (uint32_t w = 0; w < words; w++)
            if ((bits[w] & b->goals[w]) != 0) {
                shift(b, root, u, w * 64 + (uint32_t)__builtin_ctzll(bits[w] & b->goals[w]));
                return;
            }
        for (uint32_t w = 0; w < words; w++) {
            uint64_t fresh = bits[w] & ~b->seen[w];
            b->seen[w] |= fresh;
            for (; fresh != 0; fresh &= fresh - 1) {
                uint32_t column = w * 64 + (uint32_t)__builtin_ctzll(fresh);
                b->reached_by[column] = u;
                b->queue[n_queue++] = b->from[column];
            }
        }
    }
    assert(false); /* all lines of the matrix sum to the same, so a path exists */
}

/* Finds the free row `root` a column. */
static void augment(struct mp_bvn *b, uint32_t root) {
    const uint32_t words = b->words;
    const uint64_t *mine = b->row_bits + (size_t)root * words;
    for (uint32_t w = 0; w < words; w++)
        if ((mine[w] & b->free_columns[w]) != 0) {
            uint32_t column = w * 64 + (uint32_t)__builtin_ctzll(mine[w] & b->free_columns[w]);
            drop(b->free_columns, column);
            match(b, root, column);
            return;
        }
    /* goals: columns whose row could go to a free one. */
    memset(b->goals, 0, words * sizeof *b->goals);
    for (uint32_t f = 0; f < words; f++)
        for (uint64_t open = b->free_columns[f]; open != 0; open &= open - 1) {
            const uint64_t *rows = b->col_bits + (size_t)(f * 64 + (uint32_t)__builtin_ctzll(open)) * words;
            for (uint32_t w = 0; w < words; w++)
                for (uint64_t x = rows[w]; x != 0; x &= x - 1) {
                    uint32_t column = b->to[w * 64 + (uint32_t)__builtin_ctzll(x)];
                    if (column == MP_NONE)
                        continue;
                    if (has(mine, column)) {
                        shift(b, root, root, column);
                        return;
                    }
                    put(b->goals, column);
                }
        }
    search(b, root);
}

/* Rows whose entry is used up now. */
static void expire(struct mp_bvn *b, uint32_t node) {
    if (b->tree[node] != b->now)
        return;
    if (node < b->n_leaves) {
        expire(b, 2 * node);
        expire(b, 2 * node + 1);
        return;
    }
    const uint32_t row = node - b->n_leaves, column = b->to[row];
    b->left[(size_t)row * b->n + column] = 0;
    drop(b->row_bits + (size_t)row * b->words, column);
    drop(b->col_bits + (size_t)column * b->words, row);
    put(b->free_columns, column);
    b->to[row] = b->from[column] = MP_NONE;
    b->expired[b->n_expired++] = row;
}

static void rematch(struct mp_bvn *b) {
    b->n_expired = 0;
    expire(b, 1);
    for (uint32_t i = 0; i < b->n_expired; i++)
        augment(b, b->expired[i]);
}

/* The largest free entry of each row, then paths. */
static void match_first(struct mp_bvn *b) {
    const uint32_t n = b->n;
    for (uint32_t i = 0; i < n; i++) {
        const uint64_t *left = b->left + (size_t)i * n;
        uint32_t best = MP_NONE;
        for (uint32_t j = 0; j < n; j++)
            if (left[j] > 0 && has(b->free_columns, j) && (best == MP_NONE || left[j] > left[best]))
                best = j;
        if (best == MP_NONE) {
            b->expired[b->n_expired++] = i;
            continue;
        }
        drop(b->free_columns, best);
        match(b, i, best);
    }
    for (uint32_t i = 0; i < b->n_expired; i++)
        augment(b, b->expired[i]);
}

static bool allocate(struct mp_bvn *b) {
    const size_t n = b->n, words = b->words;
    b->left = mp_calloc(n * n, sizeof *b->left);
    b->row_bits = mp_calloc(n * words, sizeof *b->row_bits);
    b->col_bits = mp_calloc(n * words, sizeof *b->col_bits);
    b->tree = mp_calloc(2 * (size_t)b->n_leaves, sizeof *b->tree);
    b->real_until = mp_calloc(n, sizeof *b->real_until);
    b->to = mp_calloc(5 * n + n + 1, sizeof *b->to);
    b->pads = mp_calloc(2 * n, sizeof *b->pads);
    b->free_columns = mp_calloc(3 * words, sizeof *b->free_columns);
    if (b->left == NULL || b->row_bits == NULL || b->col_bits == NULL || b->tree == NULL || b->real_until == NULL ||
        b->to == NULL || b->pads == NULL || b->free_columns == NULL)
        return false;
    b->from = b->to + n;
    b->queue = b->to + 2 * n;
    b->reached_by = b->to + 3 * n;
    b->expired = b->to + 4 * n;
    b->pad_first = b->to + 5 * n;
    b->goals = b->free_columns + words;
    b->seen = b->free_columns + 2 * words;
    memset(b->to, 0xff, 2 * n * sizeof *b->to);
    memset(b->tree, 0xff, 2 * (size_t)b->n_leaves * sizeof *b->tree);
    return true;
}

enum mp_status mp_bvn_new(struct mp_bvn **out, uint32_t n, const uint64_t *matrix, struct mp_error *err) {
    enum mp_status status = MP_OK;
    struct mp_bvn *b = NULL;
    uint64_t *slack = NULL;
    *out = NULL;
    if (n == 0 || n > MP_BVN_ENDS_MAX)
        return mp_fail(err, MP_ELIMIT, "%u ends (a decomposition into matchings has 1 to %u)", n, MP_BVN_ENDS_MAX);
    b = mp_calloc(1, sizeof *b);
    slack = mp_calloc(2 * (size_t)n, sizeof *slack);
    if (b == NULL || slack == NULL) {
        status = mp_nomem(err, "decomposing traffic");
        goto out;
    }
    *b = (struct mp_bvn){.n = n, .words = (n + 63) / 64, .n_leaves = 1};
    while (b->n_leaves < n)
        b->n_leaves *= 2;
    MP_TRY(sum_lines(b, matrix, slack, slack + n, err));
    if (!allocate(b)) {
        status = mp_nomem(err, "decomposing traffic");
        goto out;
    }
    memcpy(b->left, matrix, (size_t)n * n * sizeof *matrix);
    pad(b, matrix, slack, slack + n);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++)
            if (b->left[(size_t)i * n + j] > 0) {
                put(b->row_bits + (size_t)i * b->words, j);
                put(b->col_bits + (size_t)j * b->words, i);
            }
    for (uint32_t j = 0; j < n; j++)
        put(b->free_columns, j);
    if (b->bound > 0)
        match_first(b);
    *out = b;
    b = NULL;
out:
    mp_bvn_free(b);
    mp_free(slack);
    return status;
}

void mp_bvn_free(struct mp_bvn *b) {
    if (b == NULL)
        return;
    mp_free(b->left);
    mp_free(b->row_bits);
    mp_free(b->col_bits);
    mp_free(b->tree);
    mp_free(b->real_until);
    mp_free(b->to);
    mp_free(b->pads);
    mp_free(b->free_columns);
    mp_free(b);
}

uint64_t mp_bvn_bound(const struct mp_bvn *b) { return b->bound; }

bool mp_bvn_next(struct mp_bvn *b, struct mp_bvn_stage *stage) {
    if (b->now == b->bound)
        return false;
    if (b->now > 0)
        rematch(b);
    *stage = (struct mp_bvn_stage){b->now, b->tree[1], b->to, b->real_until};
    b->now = b->tree[1];
    return true;
}
