#include "csv_text.h"
#include "recording_folder.h"
#include <string.h>
#include <sys/stat.h>

void request_table_clear(struct request_table *t) {
    mp_free(t->requests);
    mp_free(t->lines);
    trace_names_clear(&t->categories);
    *t = (struct request_table){0};
}

enum mp_status request_table_read(struct request_table *out, const struct mp_in *in, uint64_t n_rows,
                                  const struct mp_limits *limits, struct mp_error *err) {
    *out = (struct request_table){0};
    struct csv_text c;
    enum mp_status status = csv_open(&c, in, limits, err);
    if (status != MP_OK)
        return status;
    uint64_t room = 0, row = 0;
    bool more;
    uint32_t request = csv_column(&c, "request"), first_row = csv_column(&c, "first_row"),
             tokens = csv_column(&c, "tokens");
    uint32_t position = csv_column(&c, "first_position"), category = csv_column(&c, "category"),
             source = csv_column(&c, "source");
    if (category == MP_NONE)
        category = csv_column(&c, "dataset");
    if (request == MP_NONE || first_row == MP_NONE || tokens == MP_NONE) {
        status = mp_fail_at(err, MP_EINPUT, in->path, 1, 1,
                            "is not a requests table: column %s is missing (write "
                            "request,first_row,tokens[,first_position][,category][,source])",
                            request == MP_NONE     ? "request"
                            : first_row == MP_NONE ? "first_row"
                                                   : "tokens");
        goto out;
    }
    for (;;) {
        MP_TRY(csv_next(&c, &more, err));
        if (!more)
            break;
        struct mp_request r = {.source = MP_NONE, .category = MP_NONE};
        uint64_t v;
        MP_TRY(csv_u64(&c, request, 0, UINT64_MAX, &r.id, err));
        MP_TRY(csv_u64(&c, first_row, 0, MP_MAX_TOKENS, &r.first_row, err));
        MP_TRY(csv_u64(&c, tokens, 1, MP_MAX_TOKENS, &r.n_rows, err));
        if (position != MP_NONE)
            MP_TRY(csv_u64(&c, position, 0, MP_MAX_TOKENS, &r.first_position, err));
        if (source != MP_NONE && c.fields[source].n > 0) {
            MP_TRY(csv_u64(&c, source, 0, MP_MAX_GPUS - 1, &v, err));
            r.source = (uint32_t)v;
        }
        if (category != MP_NONE && c.fields[category].n > 0) {
            char name[MP_MAX_NAME + 1];
            MP_TRY(csv_name(&c, category, name, err));
            struct mp_error inner = {0};
            if ((status = trace_names_find(&out->categories, name, &r.category, &inner)) != MP_OK) {
                (void)trace_fail_at(err, &inner, in->path, c.line, csv_at(&c, category));
                goto out;
            }
        }
        if (r.first_row != row) {
            status = mp_fail_at(err, MP_EINPUT, in->path, c.line, csv_at(&c, first_row),
                                "first_row: %llu does not follow the rows before it, which end at %llu (sort the table "
                                "by first_row and leave no gap)",
                                (unsigned long long)r.first_row, (unsigned long long)row);
            goto out;
        }
        if (r.n_rows > n_rows - row) {
            status = mp_fail_at(err, MP_EINPUT, in->path, c.line, csv_at(&c, tokens),
                                "tokens: row %llu and %llu more pass the %llu rows of the array (is it the table of "
                                "another recording?)",
                                (unsigned long long)row, (unsigned long long)r.n_rows, (unsigned long long)n_rows);
            goto out;
        }
        row += r.n_rows;
        if (out->n == room) {
            uint64_t wider = room == 0 ? 256 : room * 2;
            struct mp_request *requests = mp_realloc(out->requests, wider, sizeof *requests);
            if (requests != NULL)
                out->requests = requests;
            uint64_t *lines = mp_realloc(out->lines, wider, sizeof *lines);
            if (lines != NULL)
                out->lines = lines;
            if (requests == NULL || lines == NULL) {
                status = mp_nomem(err, in->path);
                goto out;
            }
            room = wider;
        }
        out->lines[out->n] = c.line;
        out->requests[out->n++] = r;
    }
    if (row != n_rows)
        status = mp_fail_at(err, MP_EINPUT, in->path, c.line, 1,
                            "the table ends at row %llu but the array has %llu (is it the table of another recording?)",
                            (unsigned long long)row, (unsigned long long)n_rows);
out:
    csv_close(&c);
    if (status != MP_OK)
        request_table_clear(out);
    return status;
}

enum mp_status request_table_open(struct mp_in **out, const char *path, const struct mp_trace_hints *hints,
                                  struct mp_error *err) {
    *out = NULL;
    if (hints->requests_path != NULL)
        return mp_in_open(out, hints->requests_path, 0, err);
    static const char *const endings[] = {".requests.csv", ".requests.csv.gz", ".requests.csv.zst"};
    size_t stem = name_without_packing(path), all = stem;
    while (stem > 0 && path[stem - 1] != '.' && path[stem - 1] != '/')
        stem--;
    stem = stem > 0 && path[stem - 1] == '.' ? stem - 1 : all;
    char *beside = mp_calloc(stem + 32, 1);
    if (beside == NULL)
        return mp_nomem(err, path);
    memcpy(beside, path, stem);
    struct stat st;
    enum mp_status status;
    size_t e = 0;
    do
        memcpy(beside + stem, endings[e], strlen(endings[e]) + 1);
    while (stat(beside, &st) != 0 && ++e < sizeof endings / sizeof *endings);
    if (e < sizeof endings / sizeof *endings)
        status = mp_in_open(out, beside, 0, err);
    else {
        memcpy(beside + stem, endings[0], strlen(endings[0]) + 1);
        status = mp_fail_at(
            err, MP_EUSAGE, path, 0, 0,
            "an array does not say where its requests begin (give --requests FILE; \"%s\" is not there)", beside);
    }
    mp_free(beside);
    return status;
}
