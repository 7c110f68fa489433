/* Tables of pairs of experts in neighbouring layers, and what they say about a token.
 *
 * Decides   the likeliest experts of a token's next layer.
 * Method    A token's experts in the layers before are taken for independent hints: the score of expert e is
 *           log2 of its popularity plus, for each earlier expert a at distance d, log2 of P(e | a) / P(e), halved with
 *           every layer further back. P(e | a) backs off to P(e) as if it had been seen eight more times.
 * Paper     Lina (USENIX ATC'23, arXiv 2210.17223), section 5.1.
 * Differs   Lina keeps a distribution for each path of one expert per layer, l layers long. With top-k routing a token
 *           has k^l such paths, and most were never seen; pairs are seen often, and all k experts count.
 * Cost      learning O(tokens * layers * length * k^2); a row and layer O(length * k * experts). */
#include <math.h>
#include <moeplan/alloc.h>
#include <moeplan/predict.h>
#include <string.h>

#define BACK_OFF 8u

struct counts {       /* of the planning part */
    uint32_t *pairs;  /* as `hint`: tokens with both */
    uint32_t *before; /* [n_layers][length][n_experts]: tokens with this expert at that distance */
    uint32_t *load;   /* [n_layers][n_experts] */
    uint16_t *ids;    /* [n_layers][top_k] of a row */
    uint32_t *n;      /* [n_layers] used of them */
};

static size_t cell(const struct mp_path_tables *t, uint32_t layer, uint32_t distance, uint32_t there) {
    return ((size_t)layer * t->length + distance - 1) * t->n_experts + there;
}

static void count_row(const struct mp_path_tables *t, struct counts *c, const struct mp_trace *trace, uint64_t row) {
    for (uint32_t l = 0; l < t->n_layers; l++) {
        uint16_t *own = c->ids + (size_t)l * t->top_k;
        c->n[l] = mp_trace_row(trace, l, row, own);
        for (uint32_t k = 0; k < c->n[l]; k++)
            c->load[(size_t)l * t->n_experts + own[k]]++;
        for (uint32_t d = 1; d <= t->length && d <= l; d++) {
            const uint16_t *there = c->ids + (size_t)(l - d) * t->top_k;
            for (uint32_t j = 0; j < c->n[l - d]; j++) {
                const size_t at = cell(t, l, d, there[j]);
                c->before[at]++;
                for (uint32_t k = 0; k < c->n[l]; k++)
                    c->pairs[at * t->n_experts + own[k]]++;
            }
        }
    }
}

/* floor(log2(x) * 2^16), x > 0: whole numbers, so that every machine ranks alike. */
static int32_t log2_fixed(uint64_t x) {
    int whole = 63 - __builtin_clzll(x);
    uint64_t m = whole >= 31 ? x >> (whole - 31) : x << (31 - whole); /* in [2^31, 2^32) */
    int32_t bits = 0;
    for (int i = 0; i < 16; i++) {
        m = (m * m) >> 31; /* in [2^31, 2^33) */
        bits <<= 1;
        if (m >> 32 != 0) {
            bits |= 1;
            m >>= 1;
        }
    }
    return (int32_t)((uint32_t)whole << 16) | bits;
}

/* Popularity is (2 load + 1) / (2 tokens + 2): never 0. */
static void hints(struct mp_path_tables *t, const struct counts *c) {
    for (size_t i = 0; i < (size_t)t->n_layers * t->n_experts; i++)
        t->popularity[i] = log2_fixed(2 * (uint64_t)c->load[i] + 1);
    for (uint32_t l = 0; l < t->n_layers; l++)
        for (uint32_t d = 1; d <= t->length && d <= l; d++)
            for (uint32_t a = 0; a < t->n_experts; a++) {
                const size_t at = cell(t, l, d, a);
                const int32_t seen = log2_fixed((uint64_t)c->before[at] + BACK_OFF);
                for (uint32_t e = 0; e < t->n_experts; e++) {
                    const size_t here = (size_t)l * t->n_experts + e;
                    const uint64_t p = 2 * (uint64_t)c->load[here] + 1; /* sums fit: at most 2^32 tokens */
                    const uint64_t joint =
                        (uint64_t)c->pairs[at * t->n_experts + e] * (2 * t->n_tokens + 2) / 2 + BACK_OFF * p / 2;
                    t->hint[at * t->n_experts + e] = log2_fixed(joint + 1) + 65536 - seen - t->popularity[here];
                }
            }
}

static enum mp_status make(struct mp_path_tables *t, struct counts *c, struct mp_error *err) {
    size_t rows = (size_t)t->n_layers * t->n_experts;
    t->hint = mp_calloc(rows * t->length * t->n_experts, sizeof *t->hint);
    t->popularity = mp_calloc(rows, sizeof *t->popularity);
    t->layer_ids = mp_calloc(t->n_layers, sizeof *t->layer_ids);
    c->pairs = mp_calloc(rows * t->length * t->n_experts, sizeof *c->pairs);
    c->before = mp_calloc(rows * t->length, sizeof *c->before);
    c->load = mp_calloc(rows, sizeof *c->load);
    c->ids = mp_calloc((size_t)t->n_layers * t->top_k, sizeof *c->ids);
    c->n = mp_calloc(t->n_layers, sizeof *c->n);
    return t->hint != NULL && t->popularity != NULL && t->layer_ids != NULL && c->pairs != NULL && c->before != NULL &&
                   c->load != NULL && c->ids != NULL && c->n != NULL
               ? MP_OK
               : mp_nomem(err, "path tables");
}

enum mp_status mp_path_learn(struct mp_path_tables **out, const struct mp_part *part, uint32_t length,
                             struct mp_error *err) {
    const struct mp_trace *trace = part->trace;
    struct counts c = {0};
    *out = NULL;
    if (trace->kind != MP_TRACE_TOKENS)
        return mp_fail(err, MP_EUSAGE, "counts do not say which experts one token used (record tokens)");
    if (length > MP_PATH_MAX)
        return mp_fail(err, MP_EUSAGE, "a path of %u layers is too long (write at most %u)", length, MP_PATH_MAX);
    struct mp_path_tables *t = mp_calloc(1, sizeof *t);
    if (t == NULL)
        return mp_nomem(err, "path tables");
    *t = (struct mp_path_tables){.n_layers = trace->n_layers,
                                 .n_experts = trace->n_experts,
                                 .top_k = trace->top_k,
                                 .length = length,
                                 .hint_places = 16,
                                 .part_checksum = mp_path_part_checksum(part)};
    for (uint32_t m = 0; m < part->n; m++)
        t->n_tokens += trace->requests[part->members[m]].n_rows;
    enum mp_status status = t->n_tokens >= UINT32_MAX / 2
                                ? mp_fail(err, MP_ELIMIT, "more than 2^31 tokens to learn from")
                                : make(t, &c, err);
    for (uint32_t m = 0; m < part->n && status == MP_OK; m++) {
        const struct mp_request *r = &trace->requests[part->members[m]];
        for (uint64_t row = r->first_row; row < r->first_row + r->n_rows; row++)
            count_row(t, &c, trace, row);
    }
    if (status == MP_OK) {
        hints(t, &c);
        memcpy(t->layer_ids, trace->layer_ids, t->n_layers * sizeof *t->layer_ids);
        memcpy(t->trace_sha256, trace->sha256, sizeof t->trace_sha256);
    }
    mp_free(c.pairs);
    mp_free(c.before);
    mp_free(c.load);
    mp_free(c.ids);
    mp_free(c.n);
    if (status == MP_OK)
        *out = t;
    else
        mp_path_free(t);
    return status;
}

void mp_path_free(struct mp_path_tables *t) {
    if (t == NULL)
        return;
    mp_free(t->hint);
    mp_free(t->popularity);
    mp_free(t->layer_ids);
    mp_free(t);
}

uint64_t mp_path_part_checksum(const struct mp_part *part) {
    return mp_xxh64(part->members, part->n * sizeof *part->members);
}

void mp_path_scores(const struct mp_path_tables *t, const struct mp_trace *trace, uint32_t layer, uint64_t row,
                    uint32_t length, int64_t *scores) {
    uint16_t ids[MP_MAX_TOP_K];
    for (uint32_t e = 0; e < t->n_experts; e++)
        scores[e] = t->popularity[(size_t)layer * t->n_experts + e];
    for (uint32_t d = 1; d <= length && d <= t->length && d <= layer; d++) {
        uint32_t n = mp_trace_row(trace, layer - d, row, ids);
        for (uint32_t j = 0; j < n; j++) {
            const int32_t *hint = t->hint + cell(t, layer, d, ids[j]) * t->n_experts;
            for (uint32_t e = 0; e < t->n_experts; e++)
                scores[e] += hint[e] >> (d - 1);
        }
    }
}

void mp_path_probabilities(const struct mp_path_tables *t, const int64_t *scores, double *p) {
    int64_t top = scores[0];
    for (uint32_t e = 1; e < t->n_experts; e++)
        top = scores[e] > top ? scores[e] : top;
    for (uint32_t e = 0; e < t->n_experts; e++)
        p[e] = exp2((double)(scores[e] - top) / 65536);
    /* What is above 1 is cut and the rest scaled up, at most once for each expert. */
    for (uint32_t round = 0, n_cut = 0; round <= t->n_experts; round++) {
        double rest = 0;
        uint32_t n_before = n_cut;
        for (uint32_t e = 0; e < t->n_experts; e++)
            rest += p[e] >= 1 && round > 0 ? 0 : p[e];
        double factor = rest > 0 ? ((double)t->top_k - n_cut) / rest : 0;
        n_cut = 0;
        for (uint32_t e = 0; e < t->n_experts; e++) {
            if (!(p[e] >= 1 && round > 0))
                p[e] *= factor;
            p[e] = p[e] > 1 ? 1 : p[e];
            n_cut += p[e] >= 1;
        }
        if (n_cut == n_before || n_cut >= t->top_k)
            break;
    }
}
