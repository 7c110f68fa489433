/* Prefill and train steps: T tokens per rank, long requests in pieces (docs/STEPS.md, "Prefill").
 *
 * Decides   which rank prefills which request, and where a step ends.
 * Minimises nothing: it re-enacts a server with chunked prefill, a token budget per rank and round-robin admission.
 * Method    a rank first goes on with the request it has not finished; then requests are dealt over a cursor of ranks,
 *           whole where one fits, else cut at the first rank with room. So all pieces of a request are on one rank, in
 *           steps that follow each other: a piece attends to those before it and needs their keys and values.
 * Bound     every row is used at most once; no rank of a step has more than its budget; a step that closes is full
 *           unless requests name their sources.
 * Differs   real schedulers look ahead in the queue and keep room for decoding; this rule does neither.
 * Cost      O(requests * ranks in the worst case, requests in the common one + steps * ranks + kept rows) time.
 *           Deterministic. */
#include "internal.h"

struct piece {
    uint32_t member, rank;
    uint64_t n, first_row;
};

struct packer {
    struct mp_step_builder *b;
    uint32_t n_ranks, cursor;
    uint64_t *budget, *used;  /* [n_ranks] tokens */
    struct piece *unfinished; /* [n_ranks] what is left of the request each rank has begun; n = 0: none */
    struct piece *pieces;     /* of the open step, in the order they were dealt */
    uint32_t n_pieces, room;
    uint64_t rows; /* of the open step */
};

static void packer_free(struct packer *p) {
    mp_free(p->budget);
    mp_free(p->used);
    mp_free(p->unfinished);
    mp_free(p->pieces);
}

static enum mp_status packer_init(struct packer *p, struct mp_step_builder *b, struct mp_error *err) {
    *p = (struct packer){.b = b, .n_ranks = b->batching->n_ranks};
    p->budget = mp_calloc(p->n_ranks, sizeof *p->budget);
    p->used = mp_calloc(p->n_ranks, sizeof *p->used);
    p->unfinished = mp_calloc(p->n_ranks, sizeof *p->unfinished);
    if (p->budget == NULL || p->used == NULL || p->unfinished == NULL) {
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

/* Adds what fits of `whole` to its rank; the rest stays with the rank. */
static enum mp_status take(struct packer *p, struct piece whole, struct mp_error *err) {
    if (p->n_pieces == p->room) {
        uint32_t room = p->room < 64 ? 64 : p->room * 2; /* at most one piece per row: < 2^32 rows in a step */
        struct piece *grown = room > p->room ? mp_realloc(p->pieces, room, sizeof *grown) : NULL;
        if (grown == NULL)
            return mp_nomem(err, "the steps");
        p->pieces = grown;
        p->room = room;
    }
    uint32_t r = whole.rank;
    uint64_t left = p->budget[r] - p->used[r], n = whole.n < left ? whole.n : left;
    p->unfinished[r] =
        (struct piece){.member = whole.member, .rank = r, .n = whole.n - n, .first_row = whole.first_row + n};
    whole.n = n;
    p->pieces[p->n_pieces++] = whole;
    p->used[r] += n;
    p->rows += n;
    return MP_OK;
}

/* Starts a step: every rank goes on with the request it has begun. */
static enum mp_status open_step(struct packer *p, struct mp_error *err) {
    enum mp_status status = MP_OK;
    p->n_pieces = 0;
    p->rows = 0;
    for (uint32_t r = 0; r < p->n_ranks; r++) {
        p->used[r] = 0;
        if (p->unfinished[r].n > 0)
            MP_TRY(take(p, p->unfinished[r], err));
    }
out:
    return status;
}

/* The rank that n rows go to: the first from the cursor where all of them fit, else the first with any room, else
 * MP_NONE. (A rank whose request is unfinished is full: the request took all that was left.) */
static uint32_t find_rank(const struct packer *p, uint64_t n, uint32_t source) {
    uint32_t with_room = MP_NONE;
    if (source != MP_NONE) {
        uint32_t r = source % p->n_ranks;
        return p->used[r] < p->budget[r] ? r : MP_NONE;
    }
    for (uint32_t i = 0; i < p->n_ranks; i++) {
        uint32_t r = p->cursor + i < p->n_ranks ? p->cursor + i : p->cursor + i - p->n_ranks;
        uint64_t left = p->budget[r] - p->used[r];
        if (n <= left)
            return r;
        if (left > 0 && with_room == MP_NONE)
            with_room = r;
    }
    return with_room;
}

static enum mp_status deal(struct packer *p, struct piece whole, struct mp_error *err) {
    p->cursor = whole.rank + 1 < p->n_ranks ? whole.rank + 1 : 0;
    return take(p, whole, err);
}

/* Writes the open step: rows by ascending (rank, order of dealing, position). */
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
    for (uint32_t i = 0; i < p->n_pieces; i++) {
        const struct piece *u = &p->pieces[i];
        for (uint64_t j = 0; j < u->n; j++) {
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
struct pass {
    bool is_counting;       /* only counts the steps */
    uint64_t n;             /* steps in all: counted, or known from the counting pass */
    uint64_t at, kept;      /* the open step; how many of those before it were written */
    uint64_t rows_of_first; /* for the refusal */
};
/* Ends the open step. */
static enum mp_status close_step(struct packer *p, struct pass *pass, struct mp_error *err) {
    if (!pass->is_counting && pass->kept < p->b->workload->n_steps &&
        pass->at == mp_steps_kept_index(p->b->batching, pass->n, pass->kept)) {
        enum mp_status status = emit(p, &p->b->steps[pass->kept], err);
        if (status != MP_OK)
            return status;
        pass->kept++;
    }
    pass->at++;
    return MP_OK;
}

/* The same where requests have homes: each rank has a queue of its own. */
static enum mp_status run_homed(struct packer *p, struct pass *pass, struct mp_error *err) {
    const struct mp_part *part = p->b->part;
    const uint64_t capacity = p->n_ranks * p->b->batching->tokens_per_rank;
    uint32_t *head = mp_calloc(p->n_ranks, sizeof *head); /* member from which on a rank looks for its next one */
    enum mp_status status = MP_OK;
    if (head == NULL)
        return mp_nomem(err, "the steps");
    for (uint32_t r = 0; r < p->n_ranks; r++)
        p->unfinished[r].n = 0;
    for (;;) {
        MP_TRY(open_step(p, err));
        for (uint32_t r = 0; r < p->n_ranks; r++)
            for (; head[r] < part->n && p->used[r] < p->budget[r]; head[r]++) {
                const struct mp_request *q = mp_member_request(part, head[r]);
                if (q->n_rows > 0 && p->b->home[head[r]] == r)
                    MP_TRY(take(p, (struct piece){head[r], r, q->n_rows, q->first_row}, err));
            }
        if (pass->at == 0)
            pass->rows_of_first = p->rows;
        if (p->rows == 0 || 2 * p->rows < capacity)
            break;
        MP_TRY(close_step(p, pass, err));
    }
    if (pass->is_counting)
        pass->n = pass->at;
out:
    mp_free(head);
    return status;
}

/* One pass over the part: counts the steps, or writes the kept ones. */
static enum mp_status run(struct packer *p, struct pass *pass, struct mp_error *err) {
    const struct mp_part *part = p->b->part;
    uint64_t capacity = p->n_ranks * p->b->batching->tokens_per_rank;
    enum mp_status status = MP_OK;
    if (p->b->home != NULL)
        return run_homed(p, pass, err);
    p->cursor = 0;
    for (uint32_t r = 0; r < p->n_ranks; r++)
        p->unfinished[r].n = 0;
    MP_TRY(open_step(p, err));
    for (uint32_t m = 0; m < part->n; m++) {
        const struct mp_request *r = mp_member_request(part, m);
        if (r->n_rows == 0)
            continue;
        struct piece whole = {.member = m, .n = r->n_rows, .first_row = r->first_row};
        while ((whole.rank = find_rank(p, whole.n, r->source == MP_NONE ? MP_NONE : mp_member_rank(p->b, m))) ==
               MP_NONE) { /* ends: unfinished rows get fewer */
            MP_TRY(close_step(p, pass, err));
            MP_TRY(open_step(p, err));
        }
        MP_TRY(deal(p, whole, err));
    }
    pass->rows_of_first = pass->at == 0 ? p->rows : capacity;
    while (p->rows > 0 && 2 * p->rows >= capacity) { /* the queue is empty: what is unfinished runs out */
        MP_TRY(close_step(p, pass, err));
        MP_TRY(open_step(p, err));
    }
    if (pass->is_counting)
        pass->n = pass->at;
out:
    return status;
}

enum mp_status mp_steps_prefill(struct mp_step_builder *b, struct mp_error *err) {
    struct packer p;
    enum mp_status status = packer_init(&p, b, err);
    if (status != MP_OK)
        return status;
    struct pass pass = {.is_counting = true};
    MP_TRY(run(&p, &pass, err));
    if (pass.n == 0) {
        uint64_t capacity = p.n_ranks * b->batching->tokens_per_rank;
        status =
            mp_fail(err, MP_EINPUT,
                    "prefill with %s tokens per rank on %u ranks needs %s tokens for half a step, the "
                    "first step of the part's %s requests has %s (use --resample, a smaller --tokens-per-rank, or a "
                    "larger trace)",
                    mp_workload_number(b->batching->tokens_per_rank).text, p.n_ranks,
                    mp_workload_number(mp_ceil_div(capacity, 2)).text, mp_workload_number(b->part->n).text,
                    mp_workload_number(pass.rows_of_first).text);
        goto out;
    }
    MP_TRY(mp_steps_start(b, mp_steps_kept(b->batching, pass.n), err));
    pass = (struct pass){.n = pass.n};
    MP_TRY(run(&p, &pass, err));
out:
    packer_free(&p);
    return status;
}

/* ---- bootstrap ---- */
/* Requests cut at T into pieces, numbered over all members; begin[m] is the first of member m. */
static enum mp_status number_pieces(const struct packer *p, uint64_t **out, struct mp_error *err) {
    const struct mp_part *part = p->b->part;
    uint64_t *begin = mp_calloc((size_t)part->n + 1, sizeof *begin);
    if (begin == NULL)
        return mp_nomem(err, "the steps");
    for (uint32_t m = 0; m < part->n; m++)
        begin[m + 1] = begin[m] + mp_ceil_div(mp_member_request(part, m)->n_rows, p->b->batching->tokens_per_rank);
    *out = begin;
    return MP_OK;
}

static struct piece piece_at(const struct packer *p, const uint64_t *begin, uint64_t i) {
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
    return (struct piece){.member = low, .n = left < most ? left : most, .first_row = r->first_row + first};
}

/* Where requests have homes: each rank in turn is filled with pieces of requests of its node. begin: number_pieces. */
static enum mp_status draw_homed(struct packer *p, const struct mp_members_by_node *by_node, const uint64_t *begin,
                                 uint64_t *at, struct mp_rng *rng, struct mp_error *err) {
    enum mp_status status = MP_OK;
    for (uint32_t r = 0; r < p->n_ranks; r++) {
        const uint32_t node = p->b->part->homes->gpu_node[r], from = by_node->first[node];
        const uint32_t n = by_node->first[node + 1] - from;
        at[0] = 0; /* at[i]: pieces of the node's members before its i-th */
        for (uint32_t i = 0; i < n; i++)
            at[i + 1] = at[i] + begin[by_node->list[from + i] + 1] - begin[by_node->list[from + i]];
        while (p->used[r] < p->budget[r]) {
            const uint64_t which = mp_rng_below(rng, at[n]);
            uint32_t low = 0, high = n;
            while (high - low > 1) {
                const uint32_t middle = low + (high - low) / 2;
                *(at[middle] <= which ? &low : &high) = middle;
            }
            struct piece u = piece_at(p, begin, begin[by_node->list[from + low]] + which - at[low]);
            u.rank = r;
            MP_TRY(take(p, u, err));
        }
    }
out:
    return status;
}

enum mp_status mp_steps_prefill_bootstrap(struct mp_step_builder *b, struct mp_error *err) {
    struct packer p;
    enum mp_status status = packer_init(&p, b, err);
    if (status != MP_OK)
        return status;
    uint64_t *begin = NULL, *at = NULL;
    struct mp_members_by_node by_node = {0};
    MP_TRY(number_pieces(&p, &begin, err));
    if (b->home != NULL) {
        MP_TRY(mp_members_by_node(&by_node, b, err));
        at = mp_calloc((size_t)b->part->n + 1, sizeof *at);
        if (at == NULL) {
            status = mp_nomem(err, "the steps");
            goto out;
        }
    }
    uint64_t n_pieces = begin[b->part->n], sum = 0;
    for (uint32_t r = 0; r < p.n_ranks; r++)
        sum += p.budget[r];
    if (n_pieces == 0) {
        status = mp_fail(err, MP_EINPUT, "none of the %s requests of the part has a row",
                         mp_workload_number(b->part->n).text);
        goto out;
    }
    MP_TRY(mp_steps_start(b, b->batching->n_steps_max == 0 ? 64 : b->batching->n_steps_max, err));
    struct mp_rng rng = mp_rng_seed(b->batching->seed);
    for (uint32_t i = 0; i < b->workload->n_steps; i++) {
        for (uint32_t r = 0; r < p.n_ranks; r++)
            p.unfinished[r].n = 0; /* the rest of a cut piece is dropped */
        MP_TRY(open_step(&p, err));
        p.cursor = 0;
        if (b->home != NULL)
            MP_TRY(draw_homed(&p, &by_node, begin, at, &rng, err));
        while (p.rows < sum) {
            struct piece u = piece_at(&p, begin, mp_rng_below(&rng, n_pieces));
            u.rank = find_rank(&p, u.n, MP_NONE);
            MP_TRY(deal(&p, u, err));
        }
        MP_TRY(emit(&p, &b->steps[i], err));
    }
out:
    mp_free(begin);
    mp_free(at);
    mp_free(by_node.first);
    mp_free(by_node.list);
    packer_free(&p);
    return status;
}
