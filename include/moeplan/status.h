/* How every fallible function of moeplan reports: a status says whether the call worked, an outcome says what an
 * algorithm found, and an error carries the first thing that went wrong, with its position in the input. */
#ifndef MOEPLAN_STATUS_H
#define MOEPLAN_STATUS_H

#include <moeplan/api.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

MP_API_BEGIN

#if defined(__GNUC__)
#define MP_MUST_CHECK __attribute__((warn_unused_result))
#define MP_PRINTF(fmt, first) __attribute__((format(printf, fmt, first)))
#else
#define MP_MUST_CHECK
#define MP_PRINTF(fmt, first)
#endif

/* Whether a call worked. 0 is success; the CLI maps each code to one exit code (mp_exit_code). */
enum mp_status {
    MP_OK = 0,
    MP_EUSAGE = -1, /* the caller asked for something that cannot be asked: exit 2 */
    MP_EINPUT = -2, /* a file says something it must not: exit 3, with path:line:column */
    MP_ELIMIT = -3, /* a file or request is past a limit of limits.h: exit 3 */
    MP_ENOMEM = -4, /* exit 4 */
    MP_EIO = -5,    /* exit 4 */
    MP_EPEER = -6,  /* a peer failed or a deadline passed: exit 5 */
    MP_EBUG = -7    /* cannot happen; reported, never ignored: exit 70 */
};

/* What an algorithm found. Infeasible is an answer, not an error. */
enum mp_outcome {
    MP_FOUND,          /* the draft holds a solution */
    MP_NOT_FOUND,      /* no solution (by this method) exists */
    MP_NOT_APPLICABLE, /* this method cannot work on this input; err->message says what would be needed */
    MP_STOPPED         /* a budget ended the search; the draft holds the best so far */
};

/* The first error of a call. Owned by the caller, fixed size, never allocates. Zero-initialise before use. */
struct mp_error {
    enum mp_status status;
    uint64_t line, column; /* 1-based; 0 = not applicable */
    char path[512];        /* "" = no file involved */
    char message[768];     /* what is wrong, and in brackets what to write instead */
};

/* Records the error unless one is recorded already (the first error wins) and returns `status`. `err` may be NULL. */
enum mp_status mp_fail(struct mp_error *err, enum mp_status status, const char *fmt, ...) MP_PRINTF(3, 4);

/* As mp_fail, with the position in the input. line or column 0 = unknown. For binary input, column is the byte
 * offset + 1 and line is 0. */
enum mp_status mp_fail_at(struct mp_error *err, enum mp_status status, const char *path, uint64_t line, uint64_t column,
                          const char *fmt, ...) MP_PRINTF(6, 7);

/* Out of memory while working on `what` (a short noun phrase). Returns MP_ENOMEM. */
enum mp_status mp_nomem(struct mp_error *err, const char *what);

/* Forgets the recorded error, so that `err` can be used again. */
void mp_error_clear(struct mp_error *err);

/* Writes "path:line:column: message" (the parts that apply) to buf, always terminated. Returns buf. */
const char *mp_error_text(const struct mp_error *err, char *buf, size_t size);

/* The process exit code of a status: 0, 2, 3, 3, 4, 4, 5, 70. */
int mp_exit_code(enum mp_status status);

/* Evaluates a call; on failure jumps to the function's single `out:` label with `status` set. */
#define MP_TRY(call)                                                                                                   \
    do {                                                                                                               \
        status = (call);                                                                                               \
        if (status != MP_OK)                                                                                           \
            goto out;                                                                                                  \
    } while (0)

MP_API_END

#endif
