/* Decode steps: C = B * n_ranks slots, each giving the next token of its request (docs/STEPS.md, "Decode").
 *
 * Decides   which request each slot serves at each step.
 * Minimises nothing: it re-enacts continuous batching.
 * Method    slots are refilled in ascending order from the queue (file order); a request that names its source waits
 *           for a slot of that rank. Run twice, once to count the steps, so that only kept steps take memory.
 * Bound     every row is used at most once.
 * Differs   real schedulers also preempt and admit by memory; a recording does not say so.
 * Cost      O(rows) time, O(kept rows + requests + C) memory.  Deterministic. */
#include "internal.h"

struct decode {
    struct mp_step_builder *b;
    uint32_t n_slots, n_ranks;
    uint32_t *slots_of_rank; /* [n_ranks] */
    uint32_t *rank_of_slot;  /* [n_slots] */
    uint32_t *slot_in_order; /* [n_slots] slots by ascending (rank, slot) */
    uint16_t *source;        /* [n_slots] the source of every step; in the arena, shared by all steps */
    uint32_t *padding;       /* [n_ranks] likewise */
    /* Queues: members by rank, and those that may run anywhere (last), linked in file order. */
    uint32_t *head, *tail; /* [n_ranks + 1] */
    uint32_t *next;        /* [part->n] */
    /* Slots as they run. */
    uint32_t *member;    /* [n_slots] or MP_NONE */
    uint64_t *row, *end; /* [n_slots] next row, one past the last */
};

static void decode_free(struct decode *d) {
    mp_free(d->slots_of_rank);
    mp_free(d->rank_of_slot);
    mp_free(d->slot_in_order);
    mp_free(d->head);
    mp_free(d->tail);
    mp_free(d->next);
    mp_free(d->member);
    mp_free(d->row);
    mp_free(d->end);
}

/* Slots per rank by largest remainder of C in proportion to the weights (ties: lower rank). */
static enum mp_status share_slots(struct decode *d, struct mp_error *err) {
    uint64_t *weights = mp_calloc(d->n_ranks, sizeof *weights);
    if (weights == NULL)
        return mp_nomem(err, "the steps");
    uint64_t sum = mp_rank_weights(d->n_ranks, d->b->batching->source_skew_ppm, weights);
    uint32_t left = d->n_slots;
    for (uint32_t r = 0; r < d->n_ranks; r++) {
        uint64_t share = d->n_slots * weights[r]; /* < 2^32 * 2^20 */
        d->slots_of_rank[r] = (uint32_t)(share / sum);
        left -= d->slots_of_rank[r];
        weights[r] = share % sum;
    }
    for (; left > 0; left--) {
        uint32_t best = 0;
        for (uint32_t r = 1; r < d->n_ranks; r++)
            if (weights[r] > weights[best])
                best = r;
        d->slots_of_rank[best]++;
        weights[best] = 0;
    }
    mp_free(weights);
    return MP_OK;
}

/* Deals the slots: round after round, one to each rank that still has some to get (slot s to rank s mod n when all have
 * equally many). */
static enum mp_status lay_out(struct decode *d, struct mp_error *err) {
    d->slots_of_rank = mp_calloc(d->n_ranks, sizeof *d->slots_of_rank);
    d->rank_of_slot = mp_calloc(d->n_slots, sizeof *d->rank_of_slot);
    d->slot_in_order = mp_calloc(d->n_slots, sizeof *d->slot_in_order);
    d->source = mp_arena_alloc(d->b->arena, d->n_slots, sizeof *d->source);
    d->padding = mp_arena_alloc(d->b->arena, d->n_ranks, sizeof *d->padding);
    uint32_t *begin = mp_calloc((size_t)d->n_ranks + 1, sizeof *begin);
    if (d->slots_of_rank == NULL || d->rank_of_slot == NULL || d->slot_in_order == NULL || d->source == NULL ||
        d->padding == NULL || begin == NULL) {
        mp_free(begin);
        return mp_nomem(err, "the steps");
    }
    enum mp_status status = share_slots(d, err);
    if (status != MP_OK) {
        mp_free(begin);
        return status;
    }
    for (uint32_t r = 0; r < d->n_ranks; r++)
        begin[r + 1] = begin[r] + d->slots_of_rank[r];
    uint32_t s = 0;
    for (uint32_t round = 0; s < d->n_slots; round++)
        for (uint32_t r = 0; r < d->n_ranks; r++)
            if (d->slots_of_rank[r] > round) {
                d->rank_of_slot[s] = r;
                d->slot_in_order[begin[r] + round] = s;
                d->source[begin[r] + round] = (uint16_t)r;
                s++;
            }
    for (uint32_t r = 0; r < d->n_ranks; r++)
        d->padding[r] = mp_padding_of(d->slots_of_rank[r], d->b->batching->pad_tokens);
    mp_free(begin);
    return MP_OK;
}

/* ---- recorded ---- */
static void fill_queues(struct decode *d) {
    const struct mp_part *p = d->b->part;
    for (uint32_t q = 0; q <= d->n_ranks; q++)
        d->head[q] = d->tail[q] = MP_NONE;
    for (uint32_t m = 0; m < p->n; m++) {
        const uint32_t rank = mp_member_rank(d->b, m), q = rank == MP_NONE ? d->n_ranks : rank;
        if (mp_member_request(p, m)->n_rows == 0)
            continue;
        d->next[m] = MP_NONE;
        if (d->head[q] == MP_NONE)
            d->head[q] = m;
        else
            d->next[d->tail[q]] = m;
        d->tail[q] = m;
    }
}

/* The first request in file order that may run on the rank, taken out of its queue; MP_NONE when there is none. */
static uint32_t take(struct decode *d, uint32_t rank) {
    uint32_t own = d->head[rank], any = d->head[d->n_ranks];
    uint32_t q = own < any ? rank : d->n_ranks; /* MP_NONE is the largest number */
    uint32_t m = d->head[q];
    if (m != MP_NONE)
        d->head[q] = d->next[m];
    return m;
}

static void restart(struct decode *d) {
    fill_queues(d);
    for (uint32_t s = 0; s < d->n_slots; s++)
        d->row[s] = d->end[s] = 0;
}

/* Gives every finished slot its next request; the first slot that stays empty, or n_slots. */
static uint32_t refill(struct decode *d) {
    for (uint32_t s = 0; s < d->n_slots; s++) {
        if (d->row[s] < d->end[s])
            continue;
        uint32_t m = take(d, d->rank_of_slot[s]);
        if (m == MP_NONE)
            return s;
        const struct mp_request *r = mp_member_request(d->b->part, m);
        d->member[s] = m;
        d->row[s] = r->first_row;
        d->end[s] = r->first_row + r->n_rows;
    }
    return d->n_slots;
}

static const char advice[] = "(use --resample, a smaller --batch, or a larger trace)";

/* Before anything of n_slots entries is allocated. */
static enum mp_status refuse_too_few(const struct decode *d, struct mp_error *err) {
    uint32_t not_empty = 0;
    for (uint32_t m = 0; m < d->b->part->n; m++)
        not_empty += mp_member_request(d->b->part, m)->n_rows > 0;
    if (not_empty >= d->n_slots)
        return MP_OK;
    return mp_fail(err, MP_EINPUT,
                   "decode with %s requests per rank on %u ranks needs %s concurrent requests, the "
                   "part has %s %s",
                   mp_workload_number(d->b->batching->batch_per_rank).text, d->n_ranks,
                   mp_workload_number(d->n_slots).text, mp_workload_number(not_empty).text, advice);
}

static enum mp_status refuse(struct decode *d, uint32_t empty_slot, struct mp_error *err) {
    const struct mp_part *p = d->b->part;
    const struct mp_batching *b = d->b->batching;
    uint32_t rank = d->rank_of_slot[empty_slot], may_run = 0, not_empty = 0;
    for (uint32_t m = 0; m < p->n; m++) {
        const uint32_t own = mp_member_rank(d->b, m);
        if (mp_member_request(p, m)->n_rows == 0)
            continue;
        not_empty++;
        may_run += own == MP_NONE || own == rank;
    }
    return mp_fail(err, MP_EINPUT,
                   "decode with %s requests per rank on %u ranks needs %s concurrent requests on rank %u and "
                   "runs out: by their %s, %s of the part's %s requests may run there %s",
                   mp_workload_number(b->batch_per_rank).text, d->n_ranks,
                   mp_workload_number(d->slots_of_rank[rank]).text, rank,
                   d->b->home != NULL ? "homes" : "recorded source", mp_workload_number(may_run).text,
                   mp_workload_number(not_empty).text, advice);
}

static enum mp_status emit(struct decode *d, struct mp_step *step, struct mp_error *err) {
    uint64_t *row = mp_arena_alloc(d->b->arena, d->n_slots, sizeof *row);
    if (row == NULL)
        return mp_nomem(err, "the steps");
    for (uint32_t j = 0; j < d->n_slots; j++) {
        row[j] = d->row[d->slot_in_order[j]];
        mp_steps_mark_used(d->b, d->member[d->slot_in_order[j]]);
    }
    *step = (struct mp_step){.n = d->n_slots, .row = row, .source = d->source, .padding = d->padding};
    d->b->workload->n_rows += d->n_slots;
    return MP_OK;
}

static void advance(struct decode *d) {
    for (uint32_t s = 0; s < d->n_slots; s++)
        d->row[s]++;
}

enum mp_status mp_steps_decode(struct mp_step_builder *b, struct mp_error *err) {
    struct decode d = {.b = b, .n_ranks = b->batching->n_ranks};
    d.n_slots = b->batching->batch_per_rank * d.n_ranks;
    enum mp_status status;
    MP_TRY(refuse_too_few(&d, err));
    MP_TRY(lay_out(&d, err));
    d.head = mp_calloc((size_t)d.n_ranks + 1, sizeof *d.head);
    d.tail = mp_calloc((size_t)d.n_ranks + 1, sizeof *d.tail);
    d.next = mp_calloc(b->part->n, sizeof *d.next);
    d.member = mp_calloc(d.n_slots, sizeof *d.member);
    d.row = mp_calloc(d.n_slots, sizeof *d.row);
    d.end = mp_calloc(d.n_slots, sizeof *d.end);
    if (d.head == NULL || d.tail == NULL || d.next == NULL || d.member == NULL || d.row == NULL || d.end == NULL) {
        status = mp_nomem(err, "the steps");
        goto out;
    }
    uint64_t n = 0;
    uint32_t empty;
    for (restart(&d); (empty = refill(&d)) == d.n_slots; n++)
        advance(&d);
    if (n == 0) {
        status = refuse(&d, empty, err);
        goto out;
    }
    MP_TRY(mp_steps_start(b, mp_steps_kept(b->batching, n), err));
    restart(&d);
    uint64_t step = 0;
    for (uint32_t i = 0; i < b->workload->n_steps; i++) {
        uint64_t wanted = mp_steps_kept_index(b->batching, n, i);
        for (;; step++) {
            (void)refill(&d);
            if (step == wanted)
                break;
            advance(&d);
        }
        MP_TRY(emit(&d, &b->steps[i], err));
    }
out:
    decode_free(&d);
    return status;
}

/* ---- bootstrap ---- */
enum mp_status mp_steps_decode_bootstrap(struct mp_step_builder *b, struct mp_error *err) {
    struct decode d = {.b = b, .n_ranks = b->batching->n_ranks};
    d.n_slots = b->batching->batch_per_rank * d.n_ranks;
    enum mp_status status;
    uint32_t *members = mp_calloc(b->part->n, sizeof *members), n = 0;
    struct mp_members_by_node by_node = {0};
    if (members == NULL)
        return mp_nomem(err, "the steps");
    if (b->home != NULL)
        MP_TRY(mp_members_by_node(&by_node, b, err));
    for (uint32_t m = 0; m < b->part->n; m++)
        if (mp_member_request(b->part, m)->n_rows > 0)
            members[n++] = m;
    if (n == 0) {
        status = mp_fail(err, MP_EINPUT, "none of the %s requests of the part has a row",
                         mp_workload_number(b->part->n).text);
        goto out;
    }
    MP_TRY(lay_out(&d, err));
    MP_TRY(mp_steps_start(b, b->batching->n_steps_max == 0 ? 64 : b->batching->n_steps_max, err));
    d.member = mp_calloc(d.n_slots, sizeof *d.member);
    d.row = mp_calloc(d.n_slots, sizeof *d.row);
    if (d.member == NULL || d.row == NULL) {
        status = mp_nomem(err, "the steps");
        goto out;
    }
    struct mp_rng rng = mp_rng_seed(b->batching->seed);
    for (uint32_t i = 0; i < b->workload->n_steps; i++) {
        for (uint32_t s = 0; s < d.n_slots; s++) {
            if (b->home != NULL) {
                const uint32_t node = b->part->homes->gpu_node[d.rank_of_slot[s]];
                const uint32_t from = by_node.first[node], n_there = by_node.first[node + 1] - from;
                d.member[s] = by_node.list[from + mp_rng_below(&rng, n_there)];
            } else {
                d.member[s] = members[mp_rng_below(&rng, n)];
            }
            const struct mp_request *r = mp_member_request(b->part, d.member[s]);
            d.row[s] = r->first_row + mp_rng_below(&rng, r->n_rows);
        }
        MP_TRY(emit(&d, &b->steps[i], err));
    }
out:
    mp_free(members);
    mp_free(by_node.first);
    mp_free(by_node.list);
    decode_free(&d);
    return status;
}
