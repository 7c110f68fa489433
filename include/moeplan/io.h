/* Files: one swappable table under every file operation (tests fail call k for every k); a read-only input that is
 * mapped or loaded; and an atomic writer that keeps its first error, so that writing code is a straight line. */
#ifndef MOEPLAN_IO_H
#define MOEPLAN_IO_H

#include <moeplan/alloc.h>
#include <moeplan/limits.h>
#include <moeplan/status.h>
#include <sys/stat.h>
#include <sys/types.h>

MP_API_BEGIN

struct mp_io_table {
    int (*open)(void *ctx, const char *path, int flags, mode_t mode);
    ssize_t (*read)(void *ctx, int fd, void *buf, size_t n);
    ssize_t (*write)(void *ctx, int fd, const void *buf, size_t n);
    int (*fstat)(void *ctx, int fd, struct stat *st);
    void *(*map)(void *ctx, int fd, size_t n); /* NULL = failed, errno set */
    int (*unmap)(void *ctx, void *p, size_t n);
    int (*fsync)(void *ctx, int fd);
    int (*close)(void *ctx, int fd);
    int (*rename)(void *ctx, const char *from, const char *to);
    int (*unlink)(void *ctx, const char *path);
    void *ctx;
};
/* Replaces the table (NULL = the system's); returns the one in force before. Not thread-safe. */
struct mp_io_table mp_io_set(const struct mp_io_table *table);

/* A whole input in memory. Regular files are mapped (so a 464 MB trace costs no copy), anything else is read up to
 * `max_bytes`. Immutable; may be shared between threads. */
struct mp_in {
    const uint8_t *data; /* size bytes, then (only when not mapped) a NUL */
    size_t size;
    const char *path; /* owned; for messages */
    bool is_mapped;
};
/* Opens `path` ("-" = standard input). MP_EIO: cannot be opened or read, or is a folder; MP_ELIMIT: larger than
 * max_bytes (0 = no limit for mapped files, 1 GiB for others). The caller frees with mp_in_close. */
enum mp_status mp_in_open(struct mp_in **out, const char *path, uint64_t max_bytes, struct mp_error *err) MP_MUST_CHECK;
/* The same to find out what a file is: of a packed one only the first MiB or so is unpacked. */
enum mp_status mp_in_open_head(struct mp_in **out, const char *path, struct mp_error *err) MP_MUST_CHECK;
/* mp_in_open over bytes in memory, which are borrowed and must outlive the input. For tests and fuzzers. */
enum mp_status mp_in_from_memory(struct mp_in **out, const char *name, const void *data, size_t size,
                                 struct mp_error *err) MP_MUST_CHECK;
void mp_in_close(struct mp_in *in); /* NULL is fine */

/* Packed files. mp_in_open unpacks what starts like a gzip or zstd file, whatever its name, under mp_limits_default and
 * its own max_bytes; several members or frames may stand behind one another. MP_EINPUT: cut short, damaged, followed by
 * something else, or packed twice. MP_ELIMIT: past max_bytes (0 = only memory limits it), or, past
 * limits->inflate_free_bytes, more than limits->inflate_ratio times its packed bytes: a bomb. */
enum mp_file_packing { MP_FILE_PLAIN, MP_FILE_GZIP, MP_FILE_ZSTD };
enum mp_file_packing mp_file_packing_of(const void *data, size_t n); /* by the first bytes */
const char *mp_file_packing_name(enum mp_file_packing kind);         /* "gzip", "zstd" */
/* Replaces the bytes of an input by what they unpack to; does nothing when they are not packed. */
enum mp_status mp_in_unpack(struct mp_in *in, uint64_t max_bytes, const struct mp_limits *limits,
                            struct mp_error *err) MP_MUST_CHECK;
/* Gives an input other bytes, from mp_realloc, which it owns from then on; the old ones are released. */
void mp_in_replace(struct mp_in *in, uint8_t *data, size_t size);

/* Is `path` a folder? (0 = no or unreadable) */
bool mp_is_folder(const char *path);

/* An atomic writer: bytes go to a temporary file beside `path`; mp_out_commit flushes, fsyncs, renames over `path` and
 * fsyncs the folder. Until then an old file stays as it was. The writer keeps its first error: write calls need not be
 * checked, commit reports it. path "-" writes to standard output (not atomic, no fsync). */
struct mp_out;
enum mp_status mp_out_open(struct mp_out **out, const char *path, struct mp_error *err) MP_MUST_CHECK;
/* Into memory: mp_out_memory_bytes gives what was written; commit only reports errors. */
enum mp_status mp_out_open_memory(struct mp_out **out, struct mp_error *err) MP_MUST_CHECK;
const uint8_t *mp_out_memory_bytes(const struct mp_out *o, size_t *size); /* borrowed; NUL-terminated */
void mp_out_write(struct mp_out *o, const void *data, size_t n);
void mp_out_puts(struct mp_out *o, const char *s);
void mp_out_printf(struct mp_out *o, const char *fmt, ...) MP_PRINTF(2, 3);
/* Bytes that reach the file are added to the part (moeplan/progress.h), which must outlive the writer. */
struct mp_progress_part;
void mp_out_tell(struct mp_out *o, struct mp_progress_part *part);
uint64_t mp_out_offset(const struct mp_out *o);                                 /* bytes written so far */
void mp_out_fail(struct mp_out *o, enum mp_status status, const char *message); /* records an error of the caller's */
/* Packs what is written from here on; mp_out_pack_end ends that (and mp_out_offset then counts packed bytes). The same
 * bytes for the same input and library. Committing ends it too. */
void mp_out_pack(struct mp_out *o, enum mp_file_packing kind);
void mp_out_pack_end(struct mp_out *o);
/* Completes the temporary file and closes it, so that mp_out_commit has only to give it its name; no writes after it.
 * For sets of files that shall appear whole or not at all: finish each, then commit each; one takes no descriptor and
 * little memory in between. Reports the writer's first error; the caller commits or cancels it in either case. */
enum mp_status mp_out_finish(struct mp_out *o, struct mp_error *err) MP_MUST_CHECK;
/* Ends the writer in either case (o is freed); on failure nothing is left behind and an old file is untouched. */
enum mp_status mp_out_commit(struct mp_out *o, struct mp_error *err) MP_MUST_CHECK;
void mp_out_cancel(struct mp_out *o); /* NULL is fine; removes the temporary file */
/* Removes the temporary file of every writer that is open now; async-signal-safe, for SIGINT and SIGTERM handlers. */
void mp_out_cancel_all_signal_safe(void);

MP_API_END

#endif
