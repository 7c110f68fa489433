/* Prefill and train steps: whole requests packed up to T tokens per rank (docs/STEPS.md, "Prefill").
 *
 * Decides   which rank prefills which request, and where a step ends.
 * Minimises nothing: it re-enacts round-robin admission with a token budget per rank.
 * Method    next fit over a cursor of ranks; a request longer than T is cut into units (chunked prefill).
 * Bound     every row is used at most once; no rank of a step has more than its budget.
 * Differs   real schedulers look ahead in the queue; this rule does not.
 * Cost      O(units * ranks in the worst case, units in the common one + kept rows) time.  Deterministic. */
#include "internal.h"

struct unit {
    uint32_t member, rank, n;
    uint64_t first_row;
};

struct packer {
    struct mp_step_builder *b;
    uint32_t n_ranks, cursor;
    uint64_t *budget, *used; /* [n_ranks] tokens */
    struct unit *units;      /* of the open step, in the order they were placed */
    uint32_t n_units, room;
    uint64_t rows; /* of the open step */
};

static void packer_free(struct packer *p) {
    mp_free(p->budget);
    mp_free(p->used);
    mp_free(p->units);
}

static enum mp_status packer_init(struct packer *p, struct mp_step_builder *b, struct mp_error *err) {
    *p = (struct packer){.b = b, .n_ranks = b->batching->n_ranks};
    p->budget = mp_calloc(p->n_ranks, sizeof *p->budget);
    p->used = mp_calloc(p->n_ranks, sizeof *p->used);
    if (p->budget == NULL || p->used == NULL) {
        packer_free(p);
        return mp_nomem(err, "the steps");
    }
    uint64_t sum = mp_rank_weights(p->n_ranks, b->batching->source_skew_ppm, p->budget);
    for (uint32_t r = 0; r < p->n_ranks; r++) {
        p->budget[r] = mp_mul_div(b->batching->tokens_per_rank * p->n_ranks, p->budget[r], sum);
        if (p->budget[r] == 0)
            p->budget[r] = 1; /* a rank takes part, however skewed the sources are */
    }
    return MP_OK;
}

/* Longest unit of a request: T, or the budget of the rank it names when that is smaller. */
static uint64_t unit_rows_max(const struct packer *p, const struct mp_request *r, bool honour_source) {
    uint64_t most = p->b->batching->tokens_per_rank;
    if (honour_source && r->source != MP_NONE && p->budget[r->source % p->n_ranks] < most)
        most = p->budget[r->source % p->n_ranks];
    return most;
}

static void open_step(struct packer *p) {
    for (uint32_t r = 0; r < p->n_ranks; r++)
        p->used[r] = 0;
    p->n_units = 0;
    p->rows = 0;
}

/* The rank the unit goes to, or MP_NONE when it fits nowhere. */
static uint32_t find_rank(const struct packer *p, uint64_t n, uint32_t source) {
    if (source != MP_NONE) {
        uint32_t r = source % p->n_ranks;
        return p->used[r] + n <= p->budget[r] ? r : MP_NONE;
    }
    for (uint32_t i = 0; i < p->n_ranks; i++) {
        uint32_t r = p->cursor + i < p->n_ranks ? p->cursor + i : p->cursor + i - p->n_ranks;
        if (p->used[r] + n <= p->budget[r])
            return r;
    }
    return MP_NONE;
}

static enum mp_status place(struct packer *p, struct unit u, struct mp_error *err) {
    if (p->n_units == p->room) {
        uint32_t room = p->room < 64 ? 64 : p->room * 2; /* at most one unit per row: < 2^32 rows in a step */
        struct unit *grown = room > p->room ? mp_realloc(p->units, room, sizeof *grown) : NULL;
        if (grown == NULL)
            return mp_nomem(err, "the steps");
        p->units = grown;
        p->room = room;
    }
    p->units[p->n_units++] = u;
    p->used[u.rank] += u.n;
    p->rows += u.n;
    p->cursor = u.rank + 1 < p->n_ranks ? u.rank + 1 : 0;
    return MP_OK;
}

/* Writes the open step: rows by ascending (rank, order of placement, position). */
static enum mp_status emit(struct packer *p, struct mp_step *step, struct mp_error *err) {
    uint64_t *row = mp_arena_alloc(p->b->arena, (size_t)p->rows, sizeof *row);
    uint16_t *source = mp_arena_alloc(p->b->arena, (size_t)p->rows, sizeof *source);
    uint32_t *padding = mp_arena_alloc(p->b->arena, p->n_ranks, sizeof *padding);
    uint64_t *at = mp_calloc(p->n_ranks, sizeof *at);
    if (row == NULL || source == NULL || padding == NULL || at == NULL) {
        mp_free(at);
        return mp_nomem(err, "the steps");
    }
    for (uint32_t r = 0; r < p->n_ranks; r++) {
        padding[r] = mp_padding_of((uint32_t)p->used[r], p->b->batching->pad_tokens);
        if (r > 0)
            at[r] = at[r - 1] + p->used[r - 1];
    }
    for (uint32_t i = 0; i < p->n_units; i++) {
        const struct unit *u = &p->units[i];
        for (uint32_t j = 0; j < u->n; j++) {
            row[at[u->rank]] = u->first_row + j;
            source[at[u->rank]++] = (uint16_t)u->rank;
        }
        mp_steps_mark_used(p->b, u->member);
    }
    mp_free(at);
    *step = (struct mp_step){.n = (uint32_t)p->rows, .row = row, .source = source, .padding = padding};
    p->b->workload->n_rows += p->rows;
    return MP_OK;
}

/* ---- recorded ---- */
/* One pass over the part. counting: only counts the steps into *n. Else writes the kept ones of *n. */
static enum mp_status run(struct packer *p, bool counting, uint64_t *n, struct mp_error *err) {
    const struct mp_part *part = p->b->part;
    const struct mp_batching *b = p->b->batching;
    uint64_t step = 0, kept = 0, wanted = 0;
    enum mp_status status = MP_OK;
    p->cursor = 0;
    open_step(p);
    for (uint32_t m = 0; m < part->n; m++) {
        const struct mp_request *r = mp_member_request(part, m);
        uint64_t most = unit_rows_max(p, r, true);
        for (uint64_t first = 0; first < r->n_rows; first += most) {
            uint64_t left = r->n_rows - first;
            struct unit u = {
                .member = m, .n = (uint32_t)(left < most ? left : most), .first_row = r->first_row + first};
            u.rank = find_rank(p, u.n, r->source);
            if (u.rank == MP_NONE) { /* the step closes, the unit starts the next one */
                if (!counting && step == wanted) {
                    MP_TRY(emit(p, &p->b->steps[kept], err));
                    if (++kept == p->b->workload->n_steps)
                        goto out;
                    wanted = mp_steps_kept_index(b, *n, kept);
                }
                step++;
                open_step(p);
                u.rank = find_rank(p, u.n, r->source);
                if (u.rank == MP_NONE) /* rank 0's budget is at least T and a named rank's at least the unit */
                    return mp_fail(err, MP_EBUG, "a unit of %u tokens fits no empty rank", u.n);
            }
            MP_TRY(place(p, u, err));
        }
    }
    if (p->rows > 0 && 2 * p->rows >= p->n_ranks * b->tokens_per_rank) {
        if (!counting && step == wanted)
            MP_TRY(emit(p, &p->b->steps[kept], err));
        step++;
    }
    if (counting)
        *n = step;
out:
    return status;
}

enum mp_status mp_steps_prefill(struct mp_step_builder *b, struct mp_error *err) {
    struct packer p;
    enum mp_status status = packer_init(&p, b, err);
    if (status != MP_OK)
        return status;
    uint64_t n = 0;
    MP_TRY(run(&p, true, &n, err));
    if (n == 0) {
        uint64_t capacity = p.n_ranks * b->batching->tokens_per_rank;
        status = mp_fail(err, MP_EINPUT,
                         "prefill with %s tokens per rank on %u ranks needs %s tokens for half a step, the "
                         "part has %s in %s requests (use --resample, a smaller --tokens-per-rank, or a "
                         "larger trace)",
                         mp_workload_number(b->batching->tokens_per_rank).text, p.n_ranks,
                         mp_workload_number(mp_ceil_div(capacity, 2)).text, mp_workload_number(p.rows).text,
                         mp_workload_number(b->part->n).text);
        goto out;
    }
    MP_TRY(mp_steps_start(b, mp_steps_kept(b->batching, n), err));
    MP_TRY(run(&p, false, &n, err));
out:
    packer_free(&p);
    return status;
}

/* ---- bootstrap ---- */
/* Units are numbered over all members; begin[m] is the first of member m. */
static enum mp_status number_units(const struct packer *p, uint64_t **out, struct mp_error *err) {
    const struct mp_part *part = p->b->part;
    uint64_t *begin = mp_calloc((size_t)part->n + 1, sizeof *begin);
    if (begin == NULL)
        return mp_nomem(err, "the steps");
    for (uint32_t m = 0; m < part->n; m++)
        begin[m + 1] = begin[m] + mp_ceil_div(mp_member_request(part, m)->n_rows, p->b->batching->tokens_per_rank);
    *out = begin;
    return MP_OK;
}

static struct unit unit_at(const struct packer *p, const uint64_t *begin, uint64_t i) {
    uint32_t low = 0, high = p->b->part->n; /* begin[low] <= i < begin[high] */
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (begin[middle] <= i)
            low = middle;
        else
            high = middle;
    }
    const struct mp_request *r = mp_member_request(p->b->part, low);
    uint64_t most = p->b->batching->tokens_per_rank, first = (i - begin[low]) * most, left = r->n_rows - first;
    return (struct unit){.member = low, .n = (uint32_t)(left < most ? left : most), .first_row = r->first_row + first};
}

enum mp_status mp_steps_prefill_bootstrap(struct mp_step_builder *b, struct mp_error *err) {
    struct packer p;
    enum mp_status status = packer_init(&p, b, err);
    if (status != MP_OK)
        return status;
    uint64_t *begin = NULL;
    MP_TRY(number_units(&p, &begin, err));
    uint64_t n_units = begin[b->part->n];
    if (n_units == 0) {
        status = mp_fail(err, MP_EINPUT, "none of the %s requests of the part has a row",
                         mp_workload_number(b->part->n).text);
        goto out;
    }
    MP_TRY(mp_steps_start(b, b->batching->n_steps_max == 0 ? 64 : b->batching->n_steps_max, err));
    struct mp_rng rng = mp_rng_seed(b->batching->seed);
    for (uint32_t i = 0; i < b->workload->n_steps; i++) {
        open_step(&p);
        p.cursor = 0;
        for (;;) {
            struct unit u = unit_at(&p, begin, mp_rng_below(&rng, n_units));
            u.rank = find_rank(&p, u.n, MP_NONE);
            if (u.rank == MP_NONE)
                break;
            MP_TRY(place(&p, u, err));
        }
        MP_TRY(emit(&p, &b->steps[i], err));
    }
out:
    mp_free(begin);
    packer_free(&p);
    return status;
}
