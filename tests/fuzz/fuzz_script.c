/* Bytes become a small script of the executor, first a right one, then changed at random places: whatever the proof
 * accepts must bring every byte of every flow home, in whichever order the rules of its stages let messages run. */
#include "../../executor/prove.h"
#include <stdlib.h>
#include <string.h>

enum { RANKS = 4, STAGES = 4, MESSAGES = 48, BLOCK = 4096 };

struct bytes {
    const uint8_t *p;
    size_t n;
};
static uint64_t take(struct bytes *b) {
    if (b->n == 0)
        return 0;
    b->n--;
    return *b->p++;
}
static void require(bool is_true) {
    if (!is_true)
        abort();
}
static uint8_t flow_byte(size_t flow, uint64_t at) { return (uint8_t)(1 + flow * 37 + at * 11); }

/* Every flow in one or two pieces, in stages as the bytes say. */
static void make_right(struct ex_script *s, const struct ex_flows *f, struct bytes *b) {
    for (size_t p = 0; p < (size_t)f->n * f->n; p++) {
        uint64_t at = 0;
        for (int piece = 0; piece < 2 && at < f->bytes[p]; piece++) {
            const uint64_t left = f->bytes[p] - at, bytes = piece == 0 && left > 1 ? 1 + take(b) % left : left;
            s->messages[s->n_messages++] = (struct ex_message){.stage = (uint32_t)(take(b) % STAGES),
                                                               .src = (uint16_t)(p / f->n),
                                                               .dst = (uint16_t)(p % f->n),
                                                               .width = 1,
                                                               .bytes = bytes,
                                                               .src_at = f->out_at[p] + at,
                                                               .dst_at = f->in_at[p] + at};
            at += bytes;
        }
    }
}

/* A message goes by way of another rank: what proofs of passing on are about. */
static void make_detour(struct ex_script *s, uint64_t *used, struct bytes *b) {
    if (s->n_messages == 0 || s->n_messages == MESSAGES)
        return;
    struct ex_message *m = &s->messages[take(b) % s->n_messages], *n = &s->messages[s->n_messages];
    const uint16_t by = (uint16_t)(take(b) % s->n_ranks);
    if (by == m->src || by == m->dst || used[by] + m->bytes > BLOCK)
        return;
    *n = *m;
    n->src = by;
    n->src_at = m->dst_at = used[by];
    m->dst = by;
    n->stage = (uint32_t)(take(b) % STAGES);
    used[by] += m->bytes;
    s->n_messages++;
}

static void change(struct ex_script *s, struct bytes *b) {
    if (s->n_messages == 0)
        return;
    struct ex_message *m = &s->messages[take(b) % s->n_messages];
    const uint64_t by = take(b);
    switch (take(b) % 6) {
    case 0:
        m->stage = (uint32_t)(by % STAGES);
        break;
    case 1:
        m->src_at += by - 16;
        break;
    case 2:
        m->dst_at += by - 16;
        break;
    case 3:
        m->bytes = by;
        break;
    case 4:
        m->dst = (uint16_t)(by % s->n_ranks);
        break;
    default:
        m->src = (uint16_t)(by % s->n_ranks);
        break;
    }
}

static int by_stage(const void *a, const void *b) {
    const struct ex_message *x = a, *y = b;
    return x->stage != y->stage ? (x->stage < y->stage ? -1 : 1) : (x > y) - (x < y);
}

/* With barriers stage by stage, all reads before all writes; without, in the given order or backwards. */
static void interpret(const struct ex_script *s, uint8_t (*blocks)[BLOCK], bool is_backwards) {
    static uint8_t wire[MESSAGES][BLOCK];
    if (s->mode != MP_STAGE_BARRIER) {
        for (size_t i = 0; i < s->n_messages; i++) {
            const struct ex_message *m = &s->messages[is_backwards ? s->n_messages - 1 - i : i];
            memcpy(blocks[m->dst] + m->dst_at, blocks[m->src] + m->src_at, m->bytes);
        }
        return;
    }
    for (uint32_t k = 0; k < s->n_stages; k++) {
        for (size_t m = s->stage_first[k]; m < s->stage_first[k + 1]; m++)
            memcpy(wire[m], blocks[s->messages[m].src] + s->messages[m].src_at, s->messages[m].bytes);
        for (size_t m = s->stage_first[k]; m < s->stage_first[k + 1]; m++)
            memcpy(blocks[s->messages[m].dst] + s->messages[m].dst_at, wire[m], s->messages[m].bytes);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static uint8_t blocks[RANKS][BLOCK];
    struct bytes b = {data, size};
    const uint32_t n = 2 + (uint32_t)take(&b) % (RANKS - 1);
    uint64_t matrix[RANKS * RANKS] = {0}, used[RANKS] = {0};
    struct mp_error err = {0};
    struct ex_flows *f = NULL;
    struct ex_script *s = mp_calloc(1, sizeof *s);
    require(s != NULL);
    for (uint32_t p = 0; p < n * n; p++)
        matrix[p] = p % (n + 1) == 0 ? 0 : take(&b) % 40;
    require(ex_flows_new(&f, n, matrix, used, &err) == MP_OK);
    *s = (struct ex_script){.n_ranks = n,
                            .n_stages = STAGES,
                            .mode = (enum mp_stage_mode)(take(&b) % 3),
                            .flush_stage = MP_NONE,
                            .messages = mp_calloc(MESSAGES, sizeof *s->messages)};
    require(s->messages != NULL);
    make_right(s, f, &b);
    for (uint64_t k = take(&b) % 4; k > 0; k--)
        make_detour(s, used, &b);
    for (uint64_t k = take(&b) % 4; k > 0; k--)
        change(s, &b);
    qsort(s->messages, s->n_messages, sizeof *s->messages, by_stage);
    require(ex_script_index(s, &err) == MP_OK);
    if (take(&b) % 4 == 3 && s->n_messages > 0) /* one end thinks otherwise */
        s->receives[take(&b) % s->n_messages].stage = (uint32_t)(take(&b) % STAGES);
    const enum mp_status status = ex_prove(s, f, used, &(struct ex_limits){0}, &err);
    require(status == MP_OK || status == MP_EBUG);
    for (int is_backwards = 0; status == MP_OK && is_backwards < 2; is_backwards++) {
        memset(blocks, 0, sizeof blocks);
        for (size_t p = 0; p < (size_t)n * n; p++)
            for (uint64_t o = 0; o < matrix[p]; o++)
                blocks[p / n][f->out_at[p] + o] = flow_byte(p, o);
        interpret(s, blocks, is_backwards == 1);
        for (size_t p = 0; p < (size_t)n * n; p++)
            for (uint64_t o = 0; o < matrix[p]; o++)
                require(blocks[p % n][f->in_at[p] + o] == flow_byte(p, o));
    }
    ex_script_free(s);
    ex_flows_free(f);
    return 0;
}
