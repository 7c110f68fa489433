/* Plain matrices: each flow is one activation, sent whole, answered in as many bytes. */
#include "run.h"

/* The payload of flow src -> dst. */
static struct ex_payload payload_of(const struct ex_layer *l, const struct ex_payload *p, size_t flow) {
    struct ex_payload one = *p;
    one.dispatch_bytes = one.combine_bytes = l->matrix[EX_DISPATCH][flow];
    return one;
}

void ex_plain_pack(const struct ex_layer *l, const struct ex_payload *p, uint32_t rank, uint8_t *block) {
    const uint32_t n = l->flows[EX_DISPATCH]->n;
    for (uint32_t peer = 0; peer < n; peer++) {
        const size_t out = (size_t)rank * n + peer, in = (size_t)peer * n + rank;
        const struct ex_payload one = payload_of(l, p, out);
        for (int part = 0; part < EX_N_PARTS; part++)
            if (l->flows[part] != NULL)
                ex_payload_blank(p, block + l->flows[part]->in_at[in], 0xEE, l->matrix[part][in]);
        ex_payload_fill(&one, out, block + l->flows[EX_DISPATCH]->out_at[out]);
    }
}

enum mp_status ex_plain_experts(const struct ex_layer *l, const struct ex_payload *p, uint32_t rank, uint8_t *block,
                                uint64_t *n_copies, struct mp_error *err) {
    const uint32_t n = l->flows[EX_DISPATCH]->n;
    for (uint32_t src = 0; src < n; src++) {
        const size_t flow = (size_t)src * n + rank, back = (size_t)rank * n + src;
        const struct ex_payload one = payload_of(l, p, flow);
        const uint8_t *came = block + l->flows[EX_DISPATCH]->in_at[flow];
        uint8_t *answer = block + l->flows[EX_COMBINE]->out_at[back];
        const uint64_t differs = ex_payload_check(&one, flow, came);
        if (differs < one.dispatch_bytes)
            return mp_fail(err, MP_EPEER,
                           "dispatch: the flow of rank %u to rank %u came wrong: byte %llu of %llu is 0x%02x and "
                           "should be 0x%02x",
                           src, rank, (unsigned long long)differs, (unsigned long long)one.dispatch_bytes,
                           came[differs], ex_payload_byte(&one, flow, differs));
        ex_payload_blank(&one, answer, 0, one.combine_bytes);
        ex_payload_answer(&one, ex_payload_key(&one, came), rank, 1, answer);
        *n_copies += one.dispatch_bytes > 0;
    }
    return MP_OK;
}

enum mp_status ex_plain_check_home(const struct ex_layer *l, const struct ex_payload *p, uint32_t rank,
                                   const uint8_t *block, uint64_t *n_tokens, struct mp_error *err) {
    const uint32_t n = l->flows[EX_DISPATCH]->n;
    enum mp_status status = MP_OK;
    for (uint32_t dst = 0; dst < n && status == MP_OK; dst++) {
        const size_t flow = (size_t)rank * n + dst, back = (size_t)dst * n + rank;
        const struct ex_payload one = payload_of(l, p, flow);
        const uint8_t *got = block + l->flows[EX_COMBINE]->in_at[back];
        uint8_t *own = ex_payload_room(p->pulse, one.dispatch_bytes);
        uint8_t *want = ex_payload_room(p->pulse, one.combine_bytes);
        if (own == NULL || want == NULL) {
            status = mp_nomem(err, "checking flows");
        } else {
            ex_payload_fill(&one, flow, own);
            ex_payload_answer(&one, ex_payload_key(&one, own), dst, 1, want);
            const uint64_t at = ex_payload_differs(&one, got, want, one.combine_bytes);
            if (at < one.combine_bytes)
                status = mp_fail(err, MP_EPEER,
                                 "combine: the answer of rank %u to rank %u came home wrong: byte %llu of %llu is "
                                 "0x%02x and should be 0x%02x",
                                 dst, rank, (unsigned long long)at, (unsigned long long)one.combine_bytes, got[at],
                                 want[at]);
            *n_tokens += one.combine_bytes > 0;
        }
        mp_free(own);
        mp_free(want);
    }
    return status;
}
