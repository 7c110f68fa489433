/* Tables of rows: what a rank packs, passes on and adds up, for transports whose GPUs do it with kernels. The block of
 * such a rank also has the activations of its own tokens, the sums of their answers, and the tables themselves, so that
 * whoever has the block needs nothing else. */
#ifndef EXECUTOR_ROWS_H
#define EXECUTOR_ROWS_H

#include "gpu_rows.h"
#include "route.h"
#include "script.h"

/* In the order they are carried out. PACK: activations of tokens to their places in the flows of the dispatch, by the
 * routing table; PASS_ON: a gateway's, to those inside its node; GATHER_UP: a gateway adds up what came from its node;
 * HOME: what came back for each token, weighted, onto what its own rank's experts answered. */
enum ex_rows_kind { EX_ROWS_PACK, EX_ROWS_PASS_ON, EX_ROWS_GATHER_UP, EX_ROWS_HOME };
#define EX_N_ROWS 4
const char *ex_rows_name(enum ex_rows_kind kind); /* "packing", ... */

struct ex_rows_table { /* offsets into the rank's block */
    enum ex_rows_kind kind;
    bool adds; /* struct gpu_row_sum at `at`, their terms at terms_at; else struct gpu_row_move at `at` */
    uint32_t n;
    uint64_t row_bytes, at, terms_at;
};
struct ex_rows {                      /* of one rank */
    uint64_t tokens_at, token_stride; /* the activation of its i-th token of the step is at tokens_at + i * stride */
    uint64_t home_at, home_stride;
    struct ex_rows_table tables[EX_N_ROWS]; /* n = 0: nothing to do */
    uint64_t image_at, image_bytes;         /* where all tables lie */
    uint8_t *image;                         /* and what lies there */
};
/* Of all ranks: out[n]. flows: of all parts of the layer; used[n]: bytes of each block in use, which move on. */
enum mp_status ex_rows_new(struct ex_rows **out, const struct ex_route *route, struct ex_flows *const flows[EX_N_PARTS],
                           uint64_t dispatch_bytes, uint64_t combine_bytes, uint64_t *used,
                           struct mp_error *err) MP_MUST_CHECK;
void ex_rows_free(struct ex_rows *rows, uint32_t n); /* NULL is fine */

#endif
