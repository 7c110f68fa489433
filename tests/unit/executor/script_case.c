#include "script_case.h"
#include <moeplan/base.h>

const struct ex_limits no_limits = {0};

/* Shares of every pair of nodes, in random stages. */
static void node_order(struct test_order *x, struct mp_rng *r, uint32_t n_nodes) {
    case_order(x, r, n_nodes, 1 + (uint32_t)mp_rng_below(r, 2), 0, false);
    x->o.between_nodes = true;
    for (uint32_t s = 0; s < x->o.n_stages; s++)
        for (uint32_t i = 0; i < x->stages[s].n; i++)
            x->transfers[s][i].width = 1;
}

void script_case_make(struct script_case *c, uint64_t seed) {
    struct mp_rng r = mp_rng_seed(seed);
    const bool is_between = mp_rng_below(&r, 2) == 0;
    memset(c, 0, sizeof *c);
    case_random(&c->net, &r, 4, is_between ? 4 : 2);
    const uint32_t n = c->net.t.n_gpus, n_nodes = c->net.levels[0].n_groups;
    const uint64_t size = mp_rng_below(&r, 3) == 0 ? 5 : mp_rng_below(&r, 2) == 0 ? 300 : 4000;
    for (uint32_t p = 0; p < n * n; p++)
        c->net.matrix[p] = p % (n + 1) == 0 || mp_rng_below(&r, 4) == 0 ? 0 : mp_rng_below(&r, size);
    c->way = (enum mp_combine)mp_rng_below(&r, MP_N_COMBINES);
    c->mode = (enum mp_stage_mode)mp_rng_below(&r, 3);
    c->is_single = mp_rng_below(&r, 10) == 0 || (is_between && n_nodes < 2);
    if (c->is_single)
        ;
    else if (is_between)
        node_order(&c->order, &r, n_nodes);
    else
        case_order(&c->order, &r, n, 1 + (uint32_t)mp_rng_below(&r, 3), mp_rng_below(&r, 2) * 1000,
                   mp_rng_below(&r, 2) == 0);
    script_case_build(c);
}

void script_case_build(struct script_case *c) {
    struct mp_error err = {0};
    script_case_free(c);
    memset(c->used, 0, sizeof c->used);
    CHECK_OK(ex_flows_new(&c->flows, c->net.t.n_gpus, c->net.matrix, c->used, &err), err);
    const struct ex_script_request q = {.topology = &c->net.t,
                                        .order = c->is_single ? NULL : &c->order.o,
                                        .way = c->way,
                                        .mode = c->mode,
                                        .flows = c->flows,
                                        .used = c->used,
                                        .part = c->way == MP_COMBINE_FORWARD ? EX_DISPATCH : EX_COMBINE};
    CHECK_OK(ex_script_new(&c->script, &q, &err), err);
}

void script_case_free(struct script_case *c) {
    ex_script_free(c->script);
    ex_flows_free(c->flows);
    c->script = NULL;
    c->flows = NULL;
}

uint8_t flow_byte(size_t flow, uint64_t offset) { return (uint8_t)mp_mix64(flow << 32 ^ offset); }

void blocks_fill(uint8_t *const *blocks, const struct ex_flows *f, const uint64_t *bytes) {
    for (uint32_t r = 0; r < f->n; r++)
        memset(blocks[r], 0xEE, bytes[r]);
    for (size_t p = 0; p < (size_t)f->n * f->n; p++)
        for (uint64_t o = 0; o < f->bytes[p]; o++)
            blocks[p / f->n][f->out_at[p] + o] = flow_byte(p, o);
}

uint8_t **blocks_new(const struct ex_flows *f, const uint64_t *bytes) {
    uint8_t **blocks = calloc(f->n, sizeof *blocks);
    assert_non_null(blocks);
    for (uint32_t r = 0; r < f->n; r++) {
        blocks[r] = malloc(bytes[r] + 1);
        assert_non_null(blocks[r]);
    }
    blocks_fill(blocks, f, bytes);
    return blocks;
}

void blocks_free(uint8_t **blocks, uint32_t n) {
    for (uint32_t r = 0; r < n; r++)
        free(blocks[r]);
    free(blocks);
}

static void copy_all(const struct ex_script *s, uint8_t *const *blocks, uint32_t stage, bool is_before) {
    for (size_t i = 0; i < s->n_copies; i++)
        if (s->copies[i].stage == stage && s->copies[i].is_before == is_before)
            memcpy(blocks[s->copies[i].rank] + s->copies[i].to_at, blocks[s->copies[i].rank] + s->copies[i].from_at,
                   s->copies[i].bytes);
}

void interpret(const struct ex_script *s, uint8_t *const *blocks) {
    for (uint32_t k = 0; k < s->n_stages; k++) {
        uint64_t bytes = 0, at = 0;
        copy_all(s, blocks, k, true);
        for (size_t m = s->stage_first[k]; m < s->stage_first[k + 1]; m++)
            bytes += s->messages[m].bytes;
        uint8_t *wire = malloc(bytes + 1);
        assert_non_null(wire);
        for (size_t m = s->stage_first[k]; m < s->stage_first[k + 1]; at += s->messages[m++].bytes)
            memcpy(wire + at, blocks[s->messages[m].src] + s->messages[m].src_at, s->messages[m].bytes);
        at = 0;
        for (size_t m = s->stage_first[k]; m < s->stage_first[k + 1]; at += s->messages[m++].bytes)
            memcpy(blocks[s->messages[m].dst] + s->messages[m].dst_at, wire + at, s->messages[m].bytes);
        free(wire);
        copy_all(s, blocks, k, false);
    }
}

uint32_t n_wrong(uint8_t *const *blocks, const struct ex_flows *f) {
    uint32_t n = 0;
    for (size_t p = 0; p < (size_t)f->n * f->n; p++) {
        bool is_whole = true;
        for (uint64_t o = 0; o < f->bytes[p]; o++)
            is_whole &= blocks[p % f->n][f->in_at[p] + o] == flow_byte(p, o);
        n += !is_whole;
    }
    return n;
}
