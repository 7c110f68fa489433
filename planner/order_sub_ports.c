/* Sub-ports: an exact order for unequal ports.
 *
 * Decides   the stages of transfers, and over how many sub-ports of its ends each goes (its rate).
 * Minimises time without launches: the stages add up to the port bound max(row_i / B_i, col_j / B_j) exactly where the
 *           ports' rates share a unit with at most 64 of them per port, which one-to-one transfers at min(B_i, B_j)
 * miss by 1.3 to 2 times where fast GPUs are hot. Each costs a launch.
 * Method    sub_ports.c makes the cluster one of equal sub-ports; its matrix is decomposed into matchings (bvn.c); the
 *           sub-port pairs of a matching that belong to one pair of GPUs are one transfer. In a stage of length w all
 * of them run for w / u at u each, and every port that has to is busy at its full rate.
 * Bound     the port bound, or port bound * (1 + loss_ppm / 10^6) where the unit had to be rounded; bytes are whole, so
 *           a stage may be a byte per sub-port longer.
 * Paper     T. Gonzalez, S. Sahni, J. ACM 23(4), 1976, on copies of the ports; the bound is Thm 5.2 of Aurora (arXiv
 *           2410.17043), which one-to-one orders do not reach.
 * Differs   needs a transport that caps rates; declines shared NICs, narrow uplinks and meshes.
 * Cost      bvn.c on at most 512 sub-ports of a side. */
#include "bvn.h"
#include "sub_ports.h"

/* What a pair of GPUs has in the stage under way. */
struct tally {
    uint64_t before, done; /* of its bytes * scale */
    uint32_t stage, width; /* width in stage number `stage` (from 1) */
};

static enum mp_status add_pieces(struct mp_schedule *out, struct tally *tally, const uint32_t *pairs, uint32_t n_pairs,
                                 uint64_t scale, uint32_t *used, struct mp_error *err) {
    const uint32_t n = out->n;
    enum mp_status status = MP_OK;
    for (uint32_t k = 0; k < n_pairs; k++) {
        struct tally *t = &tally[pairs[k]];
        uint32_t src = pairs[k] / n, dst = pairs[k] % n;
        MP_TRY(mp_schedule_add(out, src, dst, t->width, t->done / scale - t->before / scale, err));
        t->before = t->done;
        used[src] += t->width;
        used[n + dst] += t->width;
    }
    for (uint32_t k = 0; k < n_pairs; k++) { /* counts for the next stage, and the widest so far */
        uint32_t *side[2] = {&used[pairs[k] / n], &used[n + pairs[k] % n]};
        for (int d = 0; d < 2; d++) {
            out->ports = *side[d] > out->ports ? *side[d] : out->ports;
            *side[d] = 0;
        }
    }
out:
    return status;
}

static enum mp_status order(const struct mp_order_problem *in, struct mp_arena *scratch, struct mp_schedule *out,
                            enum mp_outcome *outcome, struct mp_error *err) {
    const uint32_t n = out->n;
    enum mp_status status = MP_OK;
    struct mp_sub_ports *s;
    struct mp_bvn *bvn = NULL;
    struct mp_bvn_stage stage;
    if (!in->can_pace)
        return mp_decline(err, outcome, MP_NOT_APPLICABLE,
                          "sub-ports: the target cannot cap the rate of a transfer, as NCCL cannot (write --pacing if "
                          "yours can)");
    MP_TRY(mp_sub_ports_new(&s, in, scratch, outcome, err));
    if (*outcome != MP_FOUND || s->n_sub == 0)
        goto out;
    struct tally *tally = mp_arena_alloc(scratch, (size_t)n * n, sizeof *tally);
    uint32_t *pairs = mp_arena_alloc(scratch, s->n_sub, sizeof *pairs);
    uint32_t *used = mp_arena_alloc(scratch, 2 * (size_t)n, sizeof *used);
    if (tally == NULL || pairs == NULL || used == NULL) {
        status = mp_nomem(err, "ordering transfers");
        goto out;
    }
    out->port_bytes_per_s = s->unit_bytes_per_s;
    out->loss_ppm = s->loss_ppm;
    MP_TRY(mp_bvn_new(&bvn, s->n_sub, s->matrix, err));
    for (uint32_t number = 1; mp_bvn_next(bvn, &stage); number++) {
        uint32_t n_pairs = 0;
        MP_TRY(mp_schedule_stage(out, err));
        for (uint32_t a = 0; a < s->n[0]; a++) {
            uint64_t real = mp_bvn_bytes(&stage, a);
            if (real == 0)
                continue;
            uint32_t pair = s->gpu[0][a] * n + s->gpu[1][stage.to[a]];
            if (tally[pair].stage != number) {
                tally[pair].stage = number;
                tally[pair].width = 0;
                pairs[n_pairs++] = pair;
            }
            tally[pair].width++;
            tally[pair].done += real;
        }
        MP_TRY(add_pieces(out, tally, pairs, n_pairs, s->scale, used, err));
    }
out:
    mp_bvn_free(bvn);
    return status;
}

const struct mp_strategy mp_strategy_order_sub_ports = {
    .name = "sub-ports",
    .summary = "unequal ports at full rate: transfers over several sub-ports each (needs --pacing)",
    .reference = "Gonzalez, Sahni 1976, on sub-ports; reaches the bound of Aurora's Theorem 5.2",
    .stage = MP_PLAN_ORDER,
    .order = order};
