/* SGLang's per_token recording: the top-k slots of every token and hidden layer, pass by pass. Prefill passes say how
 * many tokens each request has (extend_seq_lens): each such segment becomes a request. Decode passes only have rows:
 * row b of a rank's next decode pass continues row b of the one before when its position is one higher, else it starts
 * a request. */
#include "recording_rows.h"
#include "sglang_parts.h"

#include <moeplan/progress.h>
#include <string.h>

enum { MODE_EXTEND = 1, MODE_DECODE = 2, MODE_MIXED = 3, MODE_IDLE = 4 };
/* Rows whose lists are taken over together, layer by layer: few enough for the caches, enough passes of a decoding
 * batch to fill a request's lines of memory. */
enum { TILE_ROWS = 4096 };
#define NOT_A_SLOT UINT32_MAX

/* One record with what is needed of it at hand. */
struct pass {
    const struct sglang_record *record;
    const uint8_t *ids; /* [n_layers][n_tokens][width] */
    uint32_t item, n_tokens, width;
    uint64_t at; /* byte offset of ids */
    int64_t mode;
    const struct mp_pickle_items *positions;
    bool *is_routed; /* [n_tokens]; false: padding, no layer routed it */
    uint64_t *row;   /* [n_tokens]; its row of the trace + 1; 0 = left out */
};
/* A row of a decode pass and the one that continues it. */
struct link {
    uint32_t pass, token;
    uint64_t next; /* index + 1 of the next row of the request; 0 = last */
    bool is_first;
};
struct reader {
    struct sglang_recording *r;
    const struct mp_trace_hints *hints;
    struct pass *passes;
    uint64_t n_passes, n_tokens, n_routed; /* of the phase that is read */
    bool *is_routed;                       /* of all passes */
    uint64_t *row;
    uint32_t n_layers, ids[MP_MAX_LAYERS], top_k;
    bool has_unused;
    enum mp_phase phase;
    struct mp_trace_builder *b;
    uint64_t n_requests, n_rows;
    uint32_t id_bytes;
    uint64_t n_lists;                 /* looked at so far */
    uint64_t seen_in[MP_MAX_EXPERTS]; /* the last list that named the expert; 0 = none */
};

static enum mp_status bad_record(const struct sglang_record *record, struct mp_error *err, const char *what) {
    return sglang_bad(record->file->in, err, "pass %lld, rank %u: %s", (long long)record->pass, record->rank, what);
}

/* A list of at most `most` whole numbers from 0. The length is looked at first: records may share one long list, and
 * reading it for each would cost more than the file is worth. */
static const struct mp_pickle_items *whole_numbers(const struct mp_pickle_value *v, uint32_t most) {
    if (v == NULL || v->kind != MP_PICKLE_LIST || v->as.items->n > most)
        return NULL;
    for (uint32_t i = 0; i < v->as.items->n; i++)
        if (v->as.items->at[i].kind != MP_PICKLE_INT || v->as.items->at[i].as.number < 0)
            return NULL;
    return v->as.items;
}

static enum mp_status open_pass(struct reader *d, const struct sglang_record *record, struct pass *p,
                                struct mp_error *err) {
    const struct mp_pickle_tensor *t;
    enum mp_status status = torch_file_numbers(record->file, mp_pickle_get(record->dict, "topk_ids_of_layer"),
                                               "topk_ids_of_layer", 3, &t, &p->ids, &p->item, &p->at, err);
    if (status != MP_OK)
        return status;
    p->record = record;
    if (p->at == 0)
        return bad_record(record, err, "topk_ids_of_layer is packed (save with torch.save, which stores)");
    if (t->size[0] != d->r->n_layers || t->size[1] > UINT32_MAX / 2 || t->size[2] == 0 || t->size[2] > MP_MAX_TOP_K)
        return bad_record(record, err, "topk_ids_of_layer is not [layers of the map, tokens, top-k]");
    p->n_tokens = (uint32_t)t->size[1];
    p->width = (uint32_t)t->size[2];
    p->positions = whole_numbers(mp_pickle_get(record->dict, "positions"), p->n_tokens);
    if (p->positions == NULL || p->positions->n != p->n_tokens)
        return bad_record(record, err, "positions is not one whole number per token");
    return MP_OK;
}

/* Which records are of the phase that is read: asked for, or the only one there is. */
static enum mp_status choose_phase(struct reader *d, struct mp_error *err) {
    uint64_t n[2] = {0, 0};
    for (uint64_t k = 0; k < d->r->n_records; k++) {
        int64_t mode;
        const struct sglang_record *record = &d->r->records[k];
        if (!sglang_number(record->dict, "forward_mode", &mode))
            return bad_record(record, err, "has no whole forward_mode");
        if (mode == MODE_MIXED)
            return bad_record(record, err, "mixes prefill and decode (record without --enable-mixed-chunk)");
        if (mode != MODE_IDLE && mode != MODE_EXTEND && mode != MODE_DECODE)
            return bad_record(
                record, err,
                "is of a forward_mode other than extend, decode and idle (record without speculative decoding)");
        if (mode != MODE_IDLE)
            n[mode == MODE_DECODE]++;
    }
    d->phase = d->hints->phase != MP_PHASE_UNKNOWN ? d->hints->phase
               : n[0] == 0                         ? MP_PHASE_DECODE
               : n[1] == 0                         ? MP_PHASE_PREFILL
                                                   : MP_PHASE_UNKNOWN;
    if (d->phase != MP_PHASE_PREFILL && d->phase != MP_PHASE_DECODE)
        return mp_fail(err, MP_EUSAGE,
                       "%s: holds %llu prefill and %llu decode passes (give --phase prefill or --phase decode)",
                       d->r->path, (unsigned long long)n[0], (unsigned long long)n[1]);
    if (n[d->phase == MP_PHASE_DECODE] == 0)
        return mp_fail_at(err, MP_EINPUT, d->r->path, 0, 0, "holds no %s pass", mp_phase_name(d->phase));
    return MP_OK;
}

/* Opens the passes of the phase by ascending (rank, pass): records stand by (pass, rank), so one sweep per rank. */
static enum mp_status open_passes(struct reader *d, struct mp_error *err) {
    int64_t want = d->phase == MP_PHASE_DECODE ? MODE_DECODE : MODE_EXTEND, mode;
    d->passes = mp_calloc(d->r->n_records, sizeof *d->passes);
    uint64_t *first_of_rank = mp_calloc(MP_MAX_GPUS + 1, sizeof *first_of_rank);
    enum mp_status status = d->passes == NULL || first_of_rank == NULL ? mp_nomem(err, "recording") : MP_OK;
    for (uint64_t k = 0; status == MP_OK && k < d->r->n_records; k++)
        if (sglang_number(d->r->records[k].dict, "forward_mode", &mode) && mode == want)
            first_of_rank[d->r->records[k].rank + 1]++;
    for (uint32_t g = 0; status == MP_OK && g < MP_MAX_GPUS; g++)
        first_of_rank[g + 1] += first_of_rank[g];
    for (uint64_t k = 0; status == MP_OK && k < d->r->n_records; k++)
        if (sglang_number(d->r->records[k].dict, "forward_mode", &mode) && mode == want) {
            status = open_pass(d, &d->r->records[k], &d->passes[first_of_rank[d->r->records[k].rank]++], err);
            d->n_passes++;
        }
    mp_free(first_of_rank);
    for (uint64_t k = 0; status == MP_OK && k < d->n_passes; k++)
        d->n_tokens += d->passes[k].n_tokens;
    if (status != MP_OK)
        return status;
    d->is_routed = mp_calloc(d->n_tokens, sizeof *d->is_routed);
    d->row = mp_calloc(d->n_tokens, sizeof *d->row);
    if (d->is_routed == NULL || d->row == NULL)
        return mp_nomem(err, "recording");
    for (uint64_t k = 0, at = 0; k < d->n_passes; at += d->passes[k++].n_tokens) {
        d->passes[k].is_routed = d->is_routed + at;
        d->passes[k].row = d->row + at;
    }
    return status;
}

/* The distinct experts of one list of slots, in recorded order, into to[width]; how many, or NOT_A_SLOT. A slot named
 * twice, or two replicas of one expert, count once: a token visits an expert once. Reading a recording is bound by this
 * loop: it is inlined where `item` is known, and has no branch that data could surprise. */
static inline __attribute__((always_inline)) uint32_t experts_of(struct reader *d, const uint8_t *from, uint32_t item,
                                                                 uint32_t width, const uint16_t *logical,
                                                                 uint16_t *to) {
    int64_t n_physical = d->r->n_physical;
    uint64_t list = ++d->n_lists;
    uint32_t n = 0;
    for (uint32_t i = 0; i < width; i++) {
        int64_t slot = number_at(from, item, i);
        if (slot < 0)
            continue;
        if (slot >= n_physical)
            return NOT_A_SLOT;
        uint16_t expert = logical[slot];
        to[n] = expert;
        n += d->seen_in[expert] != list;
        d->seen_in[expert] = list;
    }
    return n;
}

/* Where the lists of a pass start in a hidden layer. */
static const uint8_t *lists_of(const struct pass *p, uint32_t layer) {
    return p->ids + (uint64_t)layer * p->n_tokens * p->width * p->item;
}

static enum mp_status bad_slot(const struct reader *d, const struct pass *p, const uint8_t *list,
                               struct mp_error *err) {
    uint32_t i = 0;
    while (i + 1 < p->width && number_at(list, p->item, i) < (int64_t)d->r->n_physical)
        i++;
    return mp_fail_at(
        err, MP_EINPUT, p->record->file->in->path, 0, p->at + (uint64_t)(list - p->ids) + (uint64_t)i * p->item + 1,
        "\"%lld\" is not a slot of the map (0 to %u)", (long long)number_at(list, p->item, i), d->r->n_physical - 1);
}

/* The most and the fewest experts of a token in one layer of a pass, and which tokens are routed there. False:
 * *bad is a list with a number that is no slot. */
static inline __attribute__((always_inline)) bool measure_layer(struct reader *d, const struct pass *p, uint32_t item,
                                                                uint32_t layer, uint32_t *most, uint32_t *least,
                                                                const uint8_t **bad) {
    uint16_t experts[MP_MAX_TOP_K];
    const uint16_t *logical = d->r->logical + (size_t)layer * d->r->n_physical;
    const uint8_t *from = lists_of(p, layer);
    for (uint32_t j = 0; j < p->n_tokens; j++, from += (size_t)p->width * item) {
        uint32_t n = experts_of(d, from, item, p->width, logical, experts);
        if (n == NOT_A_SLOT) {
            *bad = from;
            return false;
        }
        p->is_routed[j] |= n > 0;
        *most = n > *most ? n : *most;
        *least = n < *least ? n : *least;
    }
    return true;
}

/* Layers that route anything, the widest top-k, and whether some token has fewer. Every number is checked here. */
static enum mp_status measure(struct reader *d, struct mp_error *err) {
    uint32_t least_of[MP_MAX_LAYERS], most_of[MP_MAX_LAYERS] = {0}, least = MP_MAX_TOP_K;
    for (uint32_t l = 0; l < d->r->n_layers; l++)
        least_of[l] = MP_MAX_TOP_K;
    for (uint64_t k = 0; k < d->n_passes; k++)
        for (uint32_t l = 0; l < d->r->n_layers; l++) {
            const struct pass *p = &d->passes[k];
            const uint8_t *bad;
            if (p->item == 4 ? !measure_layer(d, p, 4, l, &most_of[l], &least_of[l], &bad)
                             : !measure_layer(d, p, 8, l, &most_of[l], &least_of[l], &bad))
                return bad_slot(d, p, bad, err);
        }
    for (uint32_t l = 0; l < d->r->n_layers; l++) {
        if (most_of[l] == 0)
            continue;
        d->ids[d->n_layers++] = l;
        d->top_k = most_of[l] > d->top_k ? most_of[l] : d->top_k;
        least = least_of[l] < least ? least_of[l] : least;
    }
    d->has_unused = least < d->top_k;
    for (uint64_t i = 0; i < d->n_tokens; i++)
        d->n_routed += d->is_routed[i];
    return MP_OK;
}

/* The lists of one layer of a pass to their places in the trace. When every list is known to hold top_k different
 * experts, there is nothing to sort out. Slots have been checked, but the file may have changed since: what is wrong
 * now must still stay inside the tables, and the builder's own check finds it. */
static inline __attribute__((always_inline)) void take_layer(struct reader *d, const struct pass *p, uint32_t item,
                                                             uint32_t l, uint32_t id_bytes) {
    uint16_t experts[MP_MAX_TOP_K] = {0};
    uint32_t top_k = d->top_k;
    int64_t n_physical = d->r->n_physical;
    bool is_plain = !d->has_unused && p->width == top_k;
    const uint16_t *logical = d->r->logical + (size_t)d->ids[l] * d->r->n_physical;
    const uint8_t *from = lists_of(p, d->ids[l]);
    for (uint32_t j = 0; j < p->n_tokens; j++, from += (size_t)p->width * item) {
        if (p->row[j] == 0)
            continue;
        uint8_t *to = trace_builder_list(d->b, l, p->row[j] - 1);
        if (is_plain) {
            for (uint32_t k = 0; k < top_k; k++) {
                int64_t slot = number_at(from, item, k);
                uint16_t expert = logical[slot >= 0 && slot < n_physical ? slot : 0];
                memcpy(to + (size_t)k * id_bytes, &expert, id_bytes);
            }
            continue;
        }
        for (uint32_t n = experts_of(d, from, item, p->width, logical, experts); n < top_k; n++)
            experts[n] = MP_NO_EXPERT;
        for (uint32_t k = 0; k < top_k; k++)
            memcpy(to + (size_t)k * id_bytes, &experts[k], id_bytes);
    }
}

/* All lists, in the order of the recording: a decode pass has a row of many requests each, and following one request
 * through the passes would fetch every line of the file several times. */
static void take_lists(struct reader *d) {
    for (uint64_t first = 0, end; first < d->n_passes; first = end) {
        uint64_t n = 0;
        for (end = first; end < d->n_passes && n < TILE_ROWS; end++)
            n += d->passes[end].n_tokens;
        for (uint32_t l = 0; l < d->n_layers; l++)
            for (uint64_t k = first; k < end; k++) {
                const struct pass *p = &d->passes[k];
                mp_progress_add(d->hints->part, (uint64_t)p->n_tokens * p->width * p->item);
                if (d->id_bytes == 1)
                    p->item == 4 ? take_layer(d, p, 4, l, 1) : take_layer(d, p, 8, l, 1);
                else
                    p->item == 4 ? take_layer(d, p, 4, l, 2) : take_layer(d, p, 8, l, 2);
            }
    }
}

/* Gives one token the next row unless it is padding, starting a request first when there is none. */
static enum mp_status place(struct reader *d, const struct pass *p, uint32_t token, bool *is_open,
                            struct mp_error *err) {
    if (!p->is_routed[token])
        return MP_OK;
    if (!*is_open) {
        struct mp_request q = {.id = d->n_requests++,
                               .first_position = (uint64_t)p->positions->at[token].as.number,
                               .source = p->record->rank,
                               .category = MP_NONE};
        enum mp_status status = mp_trace_builder_request(d->b, &q, err);
        if (status != MP_OK)
            return status;
        *is_open = true;
    }
    p->row[token] = ++d->n_rows;
    return trace_builder_blank_row(d->b, err);
}

static enum mp_status place_prefill(struct reader *d, struct mp_error *err) {
    for (uint64_t k = 0; k < d->n_passes; k++) {
        const struct pass *p = &d->passes[k];
        const struct mp_pickle_items *lengths =
            whole_numbers(mp_pickle_get(p->record->dict, "extend_seq_lens"), p->n_tokens);
        uint32_t token = 0;
        if (lengths == NULL)
            return bad_record(p->record, err,
                              "is a prefill pass without extend_seq_lens, or with more of them than tokens");
        for (uint32_t i = 0; i < lengths->n; i++) {
            bool is_open = false;
            int64_t n = lengths->at[i].as.number;
            if (n > (int64_t)(p->n_tokens - token))
                return bad_record(p->record, err, "extend_seq_lens adds up to more tokens than the pass has");
            for (uint32_t end = token + (uint32_t)n; token < end; token++) {
                if (is_open && p->positions->at[token].as.number != p->positions->at[token - 1].as.number + 1)
                    return bad_record(p->record, err, "positions inside one request are not consecutive");
                enum mp_status status = place(d, p, token, &is_open, err);
                if (status != MP_OK)
                    return status;
            }
        }
    }
    return MP_OK;
}

static enum mp_status place_decode(struct reader *d, struct mp_error *err) {
    uint64_t n = d->n_tokens, before = 0, at = 0;
    struct link *links = mp_calloc(n, sizeof *links);
    if (links == NULL)
        return mp_nomem(err, "requests");
    for (uint64_t k = 0; k < d->n_passes; k++) {
        const struct pass *p = &d->passes[k], *last = k > 0 ? p - 1 : NULL;
        bool follows = last != NULL && last->record->rank == p->record->rank;
        for (uint32_t j = 0; j < p->n_tokens; j++) {
            links[at + j] = (struct link){.pass = (uint32_t)k, .token = j, .is_first = true};
            if (follows && j < last->n_tokens &&
                p->positions->at[j].as.number == last->positions->at[j].as.number + 1) {
                links[before + j].next = at + j + 1;
                links[at + j].is_first = false;
            }
        }
        before = at;
        at += p->n_tokens;
    }
    enum mp_status status = MP_OK;
    for (uint64_t i = 0; i < n && status == MP_OK; i++) {
        bool is_open = false;
        for (uint64_t j = links[i].is_first ? i + 1 : 0; j != 0 && status == MP_OK; j = links[j - 1].next)
            status = place(d, &d->passes[links[j - 1].pass], links[j - 1].token, &is_open, err);
    }
    mp_free(links);
    return status;
}

enum mp_status sglang_read_per_token(struct mp_trace **out, struct sglang_recording *r,
                                     const struct mp_trace_hints *hints, const struct mp_limits *limits,
                                     struct mp_error *err) {
    struct reader d = {.r = r, .hints = hints};
    enum mp_status status;
    MP_TRY(choose_phase(&d, err));
    MP_TRY(open_passes(&d, err));
    MP_TRY(measure(&d, err));
    if (d.n_layers == 0) {
        status = mp_fail_at(err, MP_EINPUT, r->path, 0, 0, "no %s pass routed a token (send requests while recording)",
                            mp_phase_name(d.phase));
        goto out;
    }
    if (hints->top_k != 0 && hints->top_k < d.top_k) {
        status = mp_fail_at(err, MP_EINPUT, r->path, 0, 0, "a token uses %u experts, but --top-k says %u", d.top_k,
                            hints->top_k);
        goto out;
    }
    d.has_unused |= hints->top_k > d.top_k;
    d.top_k = hints->top_k > d.top_k ? hints->top_k : d.top_k;
    struct mp_trace_meta meta = {.kind = MP_TRACE_TOKENS,
                                 .phase = d.phase,
                                 .model = hints->model_name,
                                 .format = "sglang_pt",
                                 .is_ranked = hints->is_ranked == 1,
                                 .is_time_ordered = true,
                                 .n_layers = d.n_layers,
                                 .n_experts = r->n_logical,
                                 .top_k = d.top_k,
                                 .layer_ids = d.ids,
                                 .has_unused = d.has_unused};
    MP_TRY(mp_trace_builder_new(&d.b, &meta, limits, err));
    d.id_bytes = trace_id_bytes(r->n_logical, d.has_unused);
    trace_builder_expect(d.b, d.n_routed);
    MP_TRY(d.phase == MP_PHASE_DECODE ? place_decode(&d, err) : place_prefill(&d, err));
    take_lists(&d);
    struct mp_trace_builder *done = d.b;
    d.b = NULL;
    MP_TRY(mp_trace_builder_finish(done, NULL, out, err));
out:
    mp_trace_builder_free(d.b);
    mp_free(d.is_routed);
    mp_free(d.row);
    mp_free(d.passes);
    return status;
}
