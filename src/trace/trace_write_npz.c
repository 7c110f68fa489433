/* NumPy's archive: topk_ids [tokens, layers, k], what the recording is as JSON bytes, both stored; and the table of the
 * requests beside it. Bytes are made twice: for the checksum that stands in front of them, and to be written. */
#include "trace_describe.h"
#include <stdio.h>
#include <string.h>

enum { N_MEMBERS = 2 };

struct member {
    const char *name;
    char header[192];
    size_t n_header;
    uint64_t bytes, offset; /* header included */
    uint32_t crc;
};
struct writer {
    const struct mp_trace *t;
    bool is_wide; /* two bytes, signed */
    const uint8_t *described;
    size_t n_described;
    struct member members[N_MEMBERS];
};

static void make_header(struct member *m, const char *name, const char *descr, const char *shape) {
    m->name = name;
    int n = snprintf(m->header + 10, sizeof m->header - 10, "{'descr': '%s', 'fortran_order': False, 'shape': (%s), }",
                     descr, shape);
    while ((10 + n + 1) % 64 != 0)
        m->header[10 + n++] = ' ';
    m->header[10 + n++] = '\n';
    memcpy(m->header, "\x93NUMPY\x01\x00", 8);
    m->header[8] = (char)n;
    m->header[9] = 0;
    m->n_header = 10 + (size_t)n;
}

/* The ids of all tokens, token-major, to a checksum or a file. */
static void put_ids(const struct writer *w, uint32_t *crc, struct mp_out *o) {
    const struct mp_trace *t = w->t;
    uint8_t buf[16384];
    size_t used = 0, item = w->is_wide ? 2 : 1;
    uint16_t ids[MP_MAX_TOP_K];
    for (uint64_t row = 0; row < t->n_rows; row++)
        for (uint32_t l = 0; l < t->n_layers; l++) {
            (void)mp_trace_row(t, l, row, ids);
            if (used + t->top_k * item > sizeof buf) {
                if (crc != NULL)
                    *crc = trace_crc32(*crc, buf, used);
                else
                    mp_out_write(o, buf, used);
                used = 0;
            }
            for (uint32_t k = 0; k < t->top_k; k++, used += item)
                memcpy(buf + used, &ids[k], item); /* MP_NO_EXPERT is -1 */
        }
    if (crc != NULL)
        *crc = trace_crc32(*crc, buf, used);
    else
        mp_out_write(o, buf, used);
}

static void put(struct mp_out *o, uint64_t v, size_t n) { mp_out_write(o, &v, n); }

/* What both headers of a member hold. */
static void put_common(struct mp_out *o, const struct member *m) {
    put(o, 20, 2);
    put(o, 0, 4);                    /* flags, stored */
    put(o, UINT64_C(0x00210000), 4); /* 1980-01-01: the same bytes at any time */
    put(o, m->crc, 4);
    put(o, m->bytes, 4);
    put(o, m->bytes, 4);
    put(o, strlen(m->name), 2);
    put(o, 0, 2);
}

static enum mp_status put_archive(struct writer *w, struct mp_out *o, struct mp_error *err) {
    for (int i = 0; i < N_MEMBERS; i++) {
        struct member *m = &w->members[i];
        uint64_t data = i == 0 ? w->t->n_rows * w->t->n_layers * w->t->top_k * (w->is_wide ? 2 : 1) : w->n_described;
        m->bytes = m->n_header + data;
        m->crc = trace_crc32(0, m->header, m->n_header);
        if (m->bytes > UINT32_MAX - (UINT64_C(1) << 20))
            return mp_fail(err, MP_EINPUT, "npz cannot carry %llu bytes of ids (it holds 4 GiB; write native)",
                           (unsigned long long)m->bytes);
        if (i == 0)
            put_ids(w, &m->crc, NULL);
        else
            m->crc = trace_crc32(m->crc, w->described, w->n_described);
        m->offset = mp_out_offset(o);
        put(o, 0x04034b50, 4);
        put_common(o, m);
        mp_out_puts(o, m->name);
        mp_out_write(o, m->header, m->n_header);
        if (i == 0)
            put_ids(w, NULL, o);
        else
            mp_out_write(o, w->described, w->n_described);
    }
    uint64_t start = mp_out_offset(o);
    for (int i = 0; i < N_MEMBERS; i++) {
        const struct member *m = &w->members[i];
        put(o, 0x02014b50, 4);
        put(o, 20, 2);
        put_common(o, m);
        put(o, 0, 8); /* comment, disk, attributes inside */
        put(o, 0, 2);
        put(o, m->offset, 4);
        mp_out_puts(o, m->name);
    }
    uint64_t end = mp_out_offset(o);
    put(o, 0x06054b50, 4);
    put(o, 0, 4);
    put(o, N_MEMBERS, 2);
    put(o, N_MEMBERS, 2);
    put(o, end - start, 4);
    put(o, start, 4);
    put(o, 0, 2);
    return MP_OK;
}

static enum mp_status put_table(const struct mp_trace *t, struct mp_out *o, struct mp_error *err) {
    mp_out_puts(o, "request,first_row,tokens,first_position,category,source\n");
    for (uint64_t i = 0; i < t->n_requests; i++) {
        const struct mp_request *q = &t->requests[i];
        const char *category = q->category != MP_NONE ? t->categories[q->category] : "";
        if (strpbrk(category, ",\"") != NULL || q->first_position > MP_MAX_TOKENS)
            return mp_fail(err, MP_EINPUT,
                           "the requests table cannot carry the category \"%s\" of request %llu, or its position (no "
                           "commas or quotes; write jsonl or native)",
                           category, (unsigned long long)q->id);
        mp_out_printf(o, "%llu,%llu,%llu,%llu,%s,", (unsigned long long)q->id, (unsigned long long)q->first_row,
                      (unsigned long long)q->n_rows, (unsigned long long)q->first_position, category);
        if (q->source != MP_NONE)
            mp_out_printf(o, "%u", q->source);
        mp_out_puts(o, "\n");
    }
    return MP_OK;
}

static bool any_unused(const struct mp_trace *t) {
    uint16_t ids[MP_MAX_TOP_K];
    for (uint64_t row = 0; row < t->n_rows; row++)
        for (uint32_t l = 0; l < t->n_layers; l++)
            if (mp_trace_row(t, l, row, ids) < t->top_k)
                return true;
    return false;
}

static enum mp_status write_npz(const struct mp_trace *t, struct mp_out *o, struct mp_out *table,
                                struct mp_error *err) {
    struct writer w = {.t = t};
    struct mp_out *described = NULL;
    char shape[96];
    enum mp_status status = trace_write_check(t, "npz", MP_TRACE_TOKENS, err);
    if (status != MP_OK)
        return status;
    if (t->weight_chunks != NULL)
        return mp_fail(err, MP_EINPUT, "npz cannot carry the gate weights of %llu tokens (write jsonl or native)",
                       (unsigned long long)t->n_rows);
    MP_TRY(mp_out_open_memory(&described, err));
    trace_describe_write(t, true, described);
    w.described = mp_out_memory_bytes(described, &w.n_described);
    w.is_wide = t->id_bytes == 2 || any_unused(t);
    snprintf(shape, sizeof shape, "%llu, %u, %u", (unsigned long long)t->n_rows, t->n_layers, t->top_k);
    make_header(&w.members[0], "topk_ids.npy", w.is_wide ? "<i2" : "|u1", shape);
    snprintf(shape, sizeof shape, "%zu,", w.n_described);
    make_header(&w.members[1], DESCRIBE_KEY ".npy", "|u1", shape);
    MP_TRY(put_archive(&w, o, err));
    MP_TRY(put_table(t, table, err));
out:
    if (described != NULL && status == MP_OK)
        status = mp_out_commit(described, err);
    else
        mp_out_cancel(described);
    return status;
}

const struct trace_writer trace_writer_npz = {
    .name = "npz",
    .summary = "NumPy array of top-k ids and the table of requests beside it: all but weights and signatures",
    .reference = "traces/FORMAT.md, \"Arrays\"",
    .has_table = true,
    .write = write_npz,
};
