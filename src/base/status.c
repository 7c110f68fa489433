#include <moeplan/status.h>
#include <stdio.h>
#include <string.h>

static MP_PRINTF(6, 0) void record(struct mp_error *err, enum mp_status status, const char *path, uint64_t line,
                                   uint64_t column, const char *fmt, va_list ap) {
    if (err == NULL || err->status != MP_OK)
        return;
    err->status = status;
    err->line = line;
    err->column = column;
    snprintf(err->path, sizeof err->path, "%s", path != NULL ? path : "");
    vsnprintf(err->message, sizeof err->message, fmt, ap);
}

enum mp_status mp_fail(struct mp_error *err, enum mp_status status, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    record(err, status, NULL, 0, 0, fmt, ap);
    va_end(ap);
    return status;
}

enum mp_status mp_fail_at(struct mp_error *err, enum mp_status status, const char *path, uint64_t line, uint64_t column,
                          const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    record(err, status, path, line, column, fmt, ap);
    va_end(ap);
    return status;
}

enum mp_status mp_nomem(struct mp_error *err, const char *what) {
    return mp_fail(err, MP_ENOMEM, "out of memory: %s (give more with --mem-limit, or use a smaller input)", what);
}

void mp_error_clear(struct mp_error *err) {
    if (err != NULL)
        memset(err, 0, sizeof *err);
}

const char *mp_error_text(const struct mp_error *err, char *buf, size_t size) {
    if (err->path[0] != '\0' && err->line > 0)
        snprintf(buf, size, "%s:%llu:%llu: %s", err->path, (unsigned long long)err->line,
                 (unsigned long long)(err->column > 0 ? err->column : 1), err->message);
    else if (err->path[0] != '\0' && err->column > 0)
        snprintf(buf, size, "%s:0:%llu: %s", err->path, (unsigned long long)err->column, err->message);
    else if (err->path[0] != '\0')
        snprintf(buf, size, "%s: %s", err->path, err->message);
    else
        snprintf(buf, size, "%s", err->message);
    return buf;
}

int mp_exit_code(enum mp_status status) {
    switch (status) {
    case MP_OK:
        return 0;
    case MP_EUSAGE:
        return 2;
    case MP_EINPUT:
    case MP_ELIMIT:
        return 3;
    case MP_ENOMEM:
    case MP_EIO:
        return 4;
    case MP_EPEER:
        return 5;
    case MP_EBUG:
        break;
    }
    return 70;
}
