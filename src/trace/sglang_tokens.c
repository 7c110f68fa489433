/* SGLang's per_token recording: the top-k slots of every token and hidden layer, pass by pass. Prefill passes say how
 * many tokens each request has (extend_seq_lens): each such segment becomes a request. Decode passes only have rows:
 * row b of a rank's next decode pass continues row b of the one before when its position is one higher, else it starts
 * a request. */
#include "recording_rows.h"
#include "sglang_parts.h"

#include <string.h>

enum { MODE_EXTEND = 1, MODE_DECODE = 2, MODE_MIXED = 3, MODE_IDLE = 4 };

/* One record with what is needed of it at hand. */
struct pass {
    const struct sglang_record *record;
    const uint8_t *ids; /* [n_layers][n_tokens][width] */
    uint32_t item, n_tokens, width;
    uint64_t at; /* byte offset of ids */
    int64_t mode;
    const struct mp_pickle_items *positions;
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
    uint64_t n_passes; /* of the phase that is read */
    uint32_t n_layers, ids[MP_MAX_LAYERS], top_k;
    bool has_unused;
    enum mp_phase phase;
    struct mp_trace_builder *b;
    uint16_t *row; /* [n_layers][top_k] */
    uint64_t n_requests;
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
    return status;
}

/* The distinct experts of one token in one hidden layer, in recorded order, into to[width]. A slot named twice, or two
 * replicas of one expert, count once: a token visits an expert once. */
static enum mp_status experts_of(const struct reader *d, const struct pass *p, uint32_t layer, uint32_t token,
                                 uint16_t *to, uint32_t *n, struct mp_error *err) {
    uint64_t cell = ((uint64_t)layer * p->n_tokens + token) * p->width;
    const uint8_t *from = p->ids + cell * p->item;
    const uint16_t *logical = d->r->logical + (size_t)layer * d->r->n_physical;
    uint64_t seen[4] = {0}; /* expert modulo 256: a hit is looked at more closely */
    uint32_t used = 0;
    for (uint32_t i = 0; i < p->width; i++) {
        int64_t slot = number_at(from, p->item, i);
        if (slot < 0)
            continue;
        if (slot >= (int64_t)d->r->n_physical)
            return mp_fail_at(err, MP_EINPUT, p->record->file->in->path, 0, p->at + (cell + i) * p->item + 1,
                              "\"%lld\" is not a slot of the map (0 to %u)", (long long)slot, d->r->n_physical - 1);
        uint16_t expert = logical[slot];
        uint64_t *word = &seen[expert >> 6 & 3], bit = UINT64_C(1) << (expert & 63);
        if ((*word & bit) != 0) {
            uint32_t k = 0;
            while (k < used && to[k] != expert)
                k++;
            if (k < used)
                continue;
        }
        *word |= bit;
        to[used++] = expert;
    }
    *n = used;
    return MP_OK;
}

/* Layers that route anything, the widest top-k, and whether some token has fewer. */
static enum mp_status measure(struct reader *d, struct mp_error *err) {
    uint16_t experts[MP_MAX_TOP_K];
    uint32_t least_of[MP_MAX_LAYERS], most_of[MP_MAX_LAYERS] = {0}, least = MP_MAX_TOP_K;
    for (uint32_t l = 0; l < d->r->n_layers; l++)
        least_of[l] = MP_MAX_TOP_K;
    for (uint64_t k = 0; k < d->n_passes; k++)
        for (uint32_t l = 0; l < d->r->n_layers; l++)
            for (uint32_t j = 0; j < d->passes[k].n_tokens; j++) {
                uint32_t n = 0;
                enum mp_status status = experts_of(d, &d->passes[k], l, j, experts, &n, err);
                if (status != MP_OK)
                    return status;
                most_of[l] = n > most_of[l] ? n : most_of[l];
                least_of[l] = n < least_of[l] ? n : least_of[l];
            }
    for (uint32_t l = 0; l < d->r->n_layers; l++) {
        if (most_of[l] == 0)
            continue;
        d->ids[d->n_layers++] = l;
        d->top_k = most_of[l] > d->top_k ? most_of[l] : d->top_k;
        least = least_of[l] < least ? least_of[l] : least;
    }
    d->has_unused = least < d->top_k;
    return MP_OK;
}

/* The row of one token into d->row; *is_padding when no layer routed it. */
static enum mp_status gather(struct reader *d, const struct pass *p, uint32_t token, bool *is_padding,
                             struct mp_error *err) {
    uint16_t experts[MP_MAX_TOP_K];
    *is_padding = true;
    for (uint32_t l = 0; l < d->n_layers; l++) {
        uint16_t *to = d->row + (size_t)l * d->top_k;
        uint32_t n = 0;
        enum mp_status status = experts_of(d, p, d->ids[l], token, experts, &n, err);
        if (status != MP_OK)
            return status;
        *is_padding &= n == 0;
        for (uint32_t i = 0; i < d->top_k; i++)
            to[i] = i < n ? experts[i] : MP_NO_EXPERT;
    }
    return MP_OK;
}

/* Appends one token, starting a request first when there is none. */
static enum mp_status emit(struct reader *d, const struct pass *p, uint32_t token, bool *is_open,
                           struct mp_error *err) {
    bool is_padding;
    enum mp_status status = gather(d, p, token, &is_padding, err);
    if (status != MP_OK || is_padding)
        return status;
    if (!*is_open) {
        struct mp_request q = {.id = d->n_requests++,
                               .first_position = (uint64_t)p->positions->at[token].as.number,
                               .source = p->record->rank,
                               .category = MP_NONE};
        status = mp_trace_builder_request(d->b, &q, err);
        *is_open = status == MP_OK;
    }
    return status == MP_OK ? mp_trace_builder_row(d->b, d->row, NULL, err) : status;
}

static enum mp_status emit_prefill(struct reader *d, struct mp_error *err) {
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
                enum mp_status status = emit(d, p, token, &is_open, err);
                if (status != MP_OK)
                    return status;
            }
        }
    }
    return MP_OK;
}

static enum mp_status emit_decode(struct reader *d, struct mp_error *err) {
    uint64_t n = 0, before = 0, at = 0;
    for (uint64_t k = 0; k < d->n_passes; k++)
        n += d->passes[k].n_tokens;
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
            status = emit(d, &d->passes[links[j - 1].pass], links[j - 1].token, &is_open, err);
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
    d.row = mp_calloc((size_t)d.n_layers * d.top_k, sizeof *d.row);
    if (d.row == NULL) {
        status = mp_nomem(err, "recording");
        goto out;
    }
    MP_TRY(d.phase == MP_PHASE_DECODE ? emit_decode(&d, err) : emit_prefill(&d, err));
    struct mp_trace_builder *done = d.b;
    d.b = NULL;
    MP_TRY(mp_trace_builder_finish(done, NULL, out, err));
out:
    mp_trace_builder_free(d.b);
    mp_free(d.row);
    mp_free(d.passes);
    return status;
}
