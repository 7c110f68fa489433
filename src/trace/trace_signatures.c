/* Similarity signatures of tokens: 64 bits of SimHash per token and layer (M. Charikar, Similarity Estimation
 * Techniques from Rounding Algorithms, STOC 2002). Two vectors at an angle t differ in each bit with chance t / pi. */
#include "trace_box.h"

/* cos(pi * d / 64) in millionths, rounded: a table, so that it is the same number on every machine. */
static const uint32_t similarity[33] = {1000000, 998795, 995185, 989177, 980785, 970031, 956940, 941544, 923880,
                                        903989,  881921, 857729, 831470, 803208, 773010, 740951, 707107, 671559,
                                        634393,  595699, 555570, 514103, 471397, 427555, 382683, 336890, 290285,
                                        242980,  195090, 146730, 98017,  49068,  0};

uint32_t mp_signature_similarity_ppm(uint32_t distance) { return distance < 32 ? similarity[distance] : 0; }

int mp_signature_reach(uint32_t similarity_ppm) {
    int reach = -1;
    if (similarity_ppm == 0)
        return 64;
    for (uint32_t d = 0; d < 32 && similarity[d] >= similarity_ppm; d++)
        reach = (int)d;
    return reach;
}

enum mp_status mp_trace_signatures_add(struct mp_trace *t, uint64_t *const **chunks, const struct mp_limits *limits,
                                       struct mp_error *err) {
    struct trace_box *box = (struct trace_box *)t;
    *chunks = NULL;
    if (t->kind != MP_TRACE_TOKENS || box->signatures != NULL)
        return mp_fail(err, MP_EBUG, "signatures for a trace of counts, or one that has them");
    const uint64_t n = trace_n_chunks(t->n_rows);
    if (limits->memory_bytes != 0 && t->n_rows > limits->memory_bytes / 8 / t->n_layers)
        return mp_fail(err, MP_ELIMIT, "signatures of %llu tokens do not fit the memory limit of %llu bytes",
                       (unsigned long long)t->n_rows, (unsigned long long)limits->memory_bytes);
    box->signatures = mp_calloc(n, sizeof *box->signatures);
    box->owns_signatures = true;
    t->signature_chunks = (const uint64_t *const *)box->signatures;
    bool is_full = box->signatures != NULL;
    for (uint64_t c = 0; c < n && is_full; c++) {
        box->signatures[c] = mp_calloc(trace_chunk_rows(t->n_rows, c) * t->n_layers, sizeof **box->signatures);
        is_full = box->signatures[c] != NULL;
    }
    if (!is_full) {
        mp_trace_signatures_drop(t);
        return mp_nomem(err, "signatures");
    }
    t->sha256[0] = '\0';
    *chunks = box->signatures;
    return MP_OK;
}

void mp_trace_signatures_drop(struct mp_trace *t) {
    struct trace_box *box = (struct trace_box *)t;
    if (box->signatures == NULL)
        return;
    for (uint64_t c = 0; box->owns_signatures && c < trace_n_chunks(t->n_rows); c++)
        mp_free(box->signatures[c]);
    mp_free(box->signatures);
    box->signatures = NULL;
    t->signature_chunks = NULL;
    t->sha256[0] = '\0';
}
