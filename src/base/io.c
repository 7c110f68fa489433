#include "packing.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <moeplan/base.h>
#include <moeplan/io.h>
#include <moeplan/progress.h>
#include <moeplan/limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

static int sys_open(void *ctx, const char *path, int flags, mode_t mode) {
    (void)ctx;
    return open(path, flags, mode);
}
static ssize_t sys_read(void *ctx, int fd, void *buf, size_t n) {
    (void)ctx;
    return read(fd, buf, n);
}
static ssize_t sys_write(void *ctx, int fd, const void *buf, size_t n) {
    (void)ctx;
    return write(fd, buf, n);
}
static int sys_fstat(void *ctx, int fd, struct stat *st) {
    (void)ctx;
    return fstat(fd, st);
}
static void *sys_map(void *ctx, int fd, size_t n) {
    (void)ctx;
    void *p = mmap(NULL, n, PROT_READ, MAP_PRIVATE, fd, 0);
    return p == MAP_FAILED ? NULL : p;
}
static int sys_unmap(void *ctx, void *p, size_t n) {
    (void)ctx;
    return munmap(p, n);
}
static int sys_fsync(void *ctx, int fd) {
    (void)ctx;
    return fsync(fd);
}
static int sys_close(void *ctx, int fd) {
    (void)ctx;
    return close(fd);
}
static int sys_rename(void *ctx, const char *from, const char *to) {
    (void)ctx;
    return rename(from, to);
}
static int sys_unlink(void *ctx, const char *path) {
    (void)ctx;
    return unlink(path);
}
#define SYSTEM_TABLE                                                                                                   \
    { sys_open, sys_read, sys_write, sys_fstat, sys_map, sys_unmap, sys_fsync, sys_close, sys_rename, sys_unlink, NULL }
static const struct mp_io_table system_table = SYSTEM_TABLE;
static struct mp_io_table io = SYSTEM_TABLE;

struct mp_io_table mp_io_set(const struct mp_io_table *t) {
    struct mp_io_table old = io;
    io = t != NULL ? *t : system_table;
    return old;
}

bool mp_is_folder(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

/* Small files are read rather than mapped: a writer that truncates one under us then cannot fault us. */
enum { READ_AT_MOST = 1 << 20 };
#define PIPE_DEFAULT_MAX (UINT64_C(1) << 30)

static enum mp_status read_all(struct mp_in *in, int fd, uint64_t max_bytes, struct mp_error *err) {
    uint8_t *buf = NULL;
    size_t used = 0, room = 0;
    for (;;) {
        if (used + 1 >= room) {
            size_t more = room == 0 ? 65536 : room * 2;
            uint8_t *grown = mp_realloc(buf, more, 1);
            if (grown == NULL) {
                mp_free(buf);
                return mp_nomem(err, in->path);
            }
            buf = grown;
            room = more;
        }
        ssize_t got = io.read(io.ctx, fd, buf + used, room - used - 1);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            int e = errno;
            mp_free(buf);
            return mp_fail_at(err, MP_EIO, in->path, 0, 0, "cannot read: %s", strerror(e));
        }
        if (got == 0)
            break;
        used += (size_t)got;
        if (used > max_bytes) {
            mp_free(buf);
            return mp_fail_at(err, MP_ELIMIT, in->path, 0, 0, "is larger than %llu bytes",
                              (unsigned long long)max_bytes);
        }
    }
    buf[used] = 0;
    in->data = buf;
    in->size = used;
    return MP_OK;
}

static enum mp_status open_input(struct mp_in **out, const char *path, uint64_t max_bytes, bool is_head,
                                 struct mp_error *err) {
    *out = NULL;
    enum mp_status status = MP_OK;
    bool is_stdin = strcmp(path, "-") == 0;
    int fd = -1;
    struct mp_in *in = mp_calloc(1, sizeof *in);
    char *name = mp_strdup(is_stdin ? "<stdin>" : path);
    if (in == NULL || name == NULL) {
        mp_free(in);
        mp_free(name);
        return mp_nomem(err, path);
    }
    in->path = name;
    if (is_stdin)
        fd = STDIN_FILENO;
    else
        do
            fd = io.open(io.ctx, path, O_RDONLY | O_CLOEXEC, 0);
        while (fd < 0 && errno == EINTR);
    if (fd < 0) {
        status = mp_fail_at(err, MP_EIO, in->path, 0, 0, "cannot open: %s", strerror(errno));
        goto out;
    }
    struct stat st;
    if (io.fstat(io.ctx, fd, &st) != 0) {
        status = mp_fail_at(err, MP_EIO, in->path, 0, 0, "cannot stat: %s", strerror(errno));
        goto out;
    }
    if (S_ISDIR(st.st_mode)) {
        status = mp_fail_at(err, MP_EIO, in->path, 0, 0, "is a folder (name a file)");
        goto out;
    }
    if (S_ISREG(st.st_mode) && max_bytes != 0 && (uint64_t)st.st_size > max_bytes) {
        status = mp_fail_at(err, MP_ELIMIT, in->path, 0, 0, "is %llu bytes, more than the limit of %llu",
                            (unsigned long long)st.st_size, (unsigned long long)max_bytes);
        goto out;
    }
    if (S_ISREG(st.st_mode) && st.st_size > READ_AT_MOST) {
        in->data = io.map(io.ctx, fd, (size_t)st.st_size);
        if (in->data == NULL)
            status = mp_fail_at(err, MP_EIO, in->path, 0, 0, "cannot map: %s", strerror(errno));
        in->size = (size_t)st.st_size;
        in->is_mapped = in->data != NULL;
    } else {
        status = read_all(in, fd, max_bytes != 0 ? max_bytes : PIPE_DEFAULT_MAX, err);
    }
    if (status == MP_OK)
        status = is_head ? mp_in_unpack_head(in, &mp_limits_default, err)
                         : mp_in_unpack(in, max_bytes, &mp_limits_default, err);
out:
    if (fd >= 0 && !is_stdin && io.close(io.ctx, fd) != 0 && errno != EINTR && status == MP_OK)
        status = mp_fail_at(err, MP_EIO, in->path, 0, 0, "cannot close: %s", strerror(errno));
    if (status != MP_OK) {
        mp_in_close(in);
        return status;
    }
    *out = in;
    return MP_OK;
}

enum mp_status mp_in_open(struct mp_in **out, const char *path, uint64_t max_bytes, struct mp_error *err) {
    return open_input(out, path, max_bytes, false, err);
}

enum mp_status mp_in_open_head(struct mp_in **out, const char *path, struct mp_error *err) {
    return open_input(out, path, 0, true, err);
}

enum mp_status mp_in_from_memory(struct mp_in **out, const char *name, const void *data, size_t size,
                                 struct mp_error *err) {
    *out = NULL;
    struct mp_in *in = mp_calloc(1, sizeof *in);
    char *path = mp_strdup(name);
    uint8_t *copy = mp_calloc(size + 1, 1);
    if (in == NULL || path == NULL || copy == NULL) {
        mp_free(in);
        mp_free(path);
        mp_free(copy);
        return mp_nomem(err, name);
    }
    if (size > 0)
        memcpy(copy, data, size);
    *in = (struct mp_in){.data = copy, .size = size, .path = path};
    *out = in;
    return MP_OK;
}

static void release_bytes(struct mp_in *in) {
    if (in->is_mapped)
        (void)io.unmap(io.ctx, (void *)(uintptr_t)in->data, in->size);
    else
        mp_free((void *)(uintptr_t)in->data);
}

void mp_in_replace(struct mp_in *in, uint8_t *data, size_t size) {
    release_bytes(in);
    in->data = data;
    in->size = size;
    in->is_mapped = false;
}

void mp_in_close(struct mp_in *in) {
    if (in == NULL)
        return;
    release_bytes(in);
    mp_free((void *)(uintptr_t)in->path);
    mp_free(in);
}

/* ---- writer ---- */

enum { OUT_BUFFER = 65536, OUT_OPEN_MAX = 4 * (int)MP_MAX_LAYERS + 64 }; /* a set: 4 files of each layer */
struct mp_out {
    int fd; /* -1 = memory */
    char *path, *temp_path;
    uint8_t *buf;
    size_t used, room;
    uint64_t offset;
    enum mp_status status;
    char message[256];
    int slot; /* in open_temps, or -1 */
    bool is_finished;
    struct packer *packer;         /* NULL, or everything goes through it */
    struct mp_progress_part *part; /* NULL, or told of what is written */
};

/* Temporary files of open writers, for the signal handler. A slot is claimed and freed atomically. */
static _Atomic(const char *) open_temps[OUT_OPEN_MAX];

static int claim_slot(const char *temp) {
    for (int i = 0; i < OUT_OPEN_MAX; i++) {
        const char *expected = NULL;
        if (atomic_compare_exchange_strong(&open_temps[i], &expected, temp))
            return i;
    }
    return -1;
}

void mp_out_cancel_all_signal_safe(void) {
    for (int i = 0; i < OUT_OPEN_MAX; i++) {
        const char *temp = atomic_load(&open_temps[i]);
        if (temp != NULL)
            (void)unlink(temp);
    }
}

static void out_free(struct mp_out *o) {
    if (o->slot >= 0)
        atomic_store(&open_temps[o->slot], NULL);
    mp_free(o->path);
    mp_free(o->temp_path);
    mp_free(o->buf);
    packer_free(o->packer);
    mp_free(o);
}

void mp_out_fail(struct mp_out *o, enum mp_status status, const char *message) {
    if (o->status != MP_OK)
        return;
    o->status = status;
    snprintf(o->message, sizeof o->message, "%s", message);
}

static void fail_errno(struct mp_out *o, const char *operation) {
    char text[200];
    snprintf(text, sizeof text, "cannot %s: %s", operation, strerror(errno));
    mp_out_fail(o, MP_EIO, text);
}

static struct mp_out *out_new(const char *path, size_t room) {
    struct mp_out *o = mp_calloc(1, sizeof *o);
    if (o == NULL)
        return NULL;
    o->fd = o->slot = -1;
    o->room = room;
    o->buf = mp_calloc(room, 1);
    o->path = mp_strdup(path);
    if (o->buf == NULL || o->path == NULL) {
        out_free(o);
        return NULL;
    }
    return o;
}

/* The process that made a temporary file for `name`, or 0 when the file is none. */
static pid_t maker_of(const char *file, const char *name) {
    static const char mark[] = ".moeplan-", end[] = ".tmp";
    size_t n = strlen(name);
    if (strncmp(file, name, n) != 0 || strncmp(file + n, mark, sizeof mark - 1) != 0)
        return 0;
    const char *pid = file + n + sizeof mark - 1;
    size_t digits = strcspn(pid, "-");
    const char *serial = pid + digits + (pid[digits] == '-');
    size_t serial_digits = strcspn(serial, ".");
    uint64_t maker, ignored;
    if (!mp_parse_u64(pid, digits, &maker) || !mp_parse_u64(serial, serial_digits, &ignored) ||
        strcmp(serial + serial_digits, end) != 0 || maker > INT_MAX)
        return 0;
    return (pid_t)maker;
}

/* Removes temporary files that killed runs left beside `path`: those whose process is gone and whose lock is free. The
 * lock tells a run on another host or in another container, whose process ids mean nothing here. */
static void remove_stale(const char *path) {
    char folder[4096], stale[4096 + 512];
    const char *slash = strrchr(path, '/'), *name = slash != NULL ? slash + 1 : path;
    size_t n = (size_t)(name - path);
    if (n + 2 > sizeof folder)
        return;
    snprintf(folder, sizeof folder, "%.*s", n > 0 ? (int)n : 2, n > 0 ? path : "./");
    DIR *d = opendir(folder);
    if (d == NULL)
        return;
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        pid_t maker = maker_of(e->d_name, name);
        if (maker <= 0 || kill(maker, 0) == 0 || errno != ESRCH)
            continue;
        snprintf(stale, sizeof stale, "%s%s", folder, e->d_name);
        int fd = open(stale, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        if (fd < 0)
            continue;
        if (flock(fd, LOCK_EX | LOCK_NB) == 0)
            (void)io.unlink(io.ctx, stale);
        (void)close(fd);
    }
    closedir(d);
}

enum mp_status mp_out_open(struct mp_out **out, const char *path, struct mp_error *err) {
    *out = NULL;
    struct mp_out *o = out_new(path, OUT_BUFFER);
    if (o == NULL)
        return mp_nomem(err, path);
    if (strcmp(path, "-") == 0) {
        o->fd = STDOUT_FILENO;
        *out = o;
        return MP_OK;
    }
    /* A link stays a link: the file that it names is replaced. */
    struct stat old;
    if (lstat(path, &old) == 0 && S_ISLNK(old.st_mode)) {
        char *target = realpath(path, NULL), *copy = target != NULL ? mp_strdup(target) : NULL;
        free(target);
        if (copy != NULL) {
            mp_free(o->path);
            o->path = copy;
            path = copy;
        }
    }
    size_t size = strlen(path) + 48;
    o->temp_path = mp_calloc(size, 1);
    if (o->temp_path == NULL) {
        enum mp_status status = mp_nomem(err, path); /* before path goes with o */
        out_free(o);
        return status;
    }
    /* The name is ours by process id; a stale one of a killed run with the same id is replaced. */
    static _Atomic unsigned serial;
    snprintf(o->temp_path, size, "%s.moeplan-%ld-%u.tmp", path, (long)getpid(), atomic_fetch_add(&serial, 1));
    remove_stale(path);
    (void)io.unlink(io.ctx, o->temp_path);
    do
        o->fd = io.open(io.ctx, o->temp_path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    while (o->fd < 0 && errno == EINTR);
    if (o->fd < 0) {
        enum mp_status status =
            mp_fail_at(err, MP_EIO, path, 0, 0, "cannot create a file beside it: %s", strerror(errno));
        out_free(o);
        return status;
    }
    (void)flock(o->fd, LOCK_EX | LOCK_NB);
    /* A plan that was private stays private. */
    if (stat(o->path, &old) == 0 && S_ISREG(old.st_mode))
        (void)fchmod(o->fd, old.st_mode & 07777);
    o->slot = claim_slot(o->temp_path);
    *out = o;
    return MP_OK;
}

enum mp_status mp_out_open_memory(struct mp_out **out, struct mp_error *err) {
    *out = out_new("<memory>", 4096);
    return *out != NULL ? MP_OK : mp_nomem(err, "output");
}

const uint8_t *mp_out_memory_bytes(const struct mp_out *o, size_t *size) {
    *size = o->used;
    return o->buf;
}

void mp_out_tell(struct mp_out *o, struct mp_progress_part *part) { o->part = part; }

static void flush(struct mp_out *o) {
    size_t done = 0;
    while (o->status == MP_OK && done < o->used) {
        ssize_t n = io.write(io.ctx, o->fd, o->buf + done, o->used - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            if (n == 0)
                errno = ENOSPC;
            fail_errno(o, "write");
            break;
        }
        mp_progress_add(o->part, (uint64_t)n);
        done += (size_t)n;
    }
    o->used = 0;
}

static void write_bytes(struct mp_out *o, const void *data, size_t n) {
    const uint8_t *p = data;
    if (o->status != MP_OK || n == 0)
        return;
    if (o->is_finished) {
        mp_out_fail(o, MP_EBUG, "written to after its end");
        return;
    }
    o->offset += n;
    if (o->fd < 0) {
        size_t need;
        if (mp_add_overflow(o->used, n + 1, &need)) {
            mp_out_fail(o, MP_ENOMEM, "out of memory: output");
            return;
        }
        if (need > o->room) {
            size_t room = o->room * 2 > need ? o->room * 2 : need;
            uint8_t *grown = mp_realloc(o->buf, room, 1);
            if (grown == NULL) {
                mp_out_fail(o, MP_ENOMEM, "out of memory: output");
                return;
            }
            o->buf = grown;
            o->room = room;
        }
        memcpy(o->buf + o->used, p, n);
        o->used += n;
        o->buf[o->used] = 0;
        return;
    }
    while (n > 0 && o->status == MP_OK) {
        size_t part = o->room - o->used < n ? o->room - o->used : n;
        memcpy(o->buf + o->used, p, part);
        o->used += part;
        p += part;
        n -= part;
        if (o->used == o->room)
            flush(o);
    }
}

static void write_packed(void *ctx, const void *data, size_t n) { write_bytes(ctx, data, n); }

void mp_out_pack(struct mp_out *o, enum mp_file_packing kind) {
    if (o->status != MP_OK || kind == MP_FILE_PLAIN)
        return;
    if (o->packer != NULL)
        mp_out_fail(o, MP_EBUG, "is packed already");
    else if ((o->packer = packer_new(kind, write_packed, o)) == NULL)
        mp_out_fail(o, MP_ENOMEM, "out of memory: packing");
}

void mp_out_pack_end(struct mp_out *o) {
    if (o->packer == NULL)
        return;
    if (o->status == MP_OK && !packer_take(o->packer, NULL, 0, true))
        mp_out_fail(o, MP_ENOMEM, "out of memory: packing");
    packer_free(o->packer);
    o->packer = NULL;
}

void mp_out_write(struct mp_out *o, const void *data, size_t n) {
    if (o->packer == NULL)
        write_bytes(o, data, n);
    else if (o->status == MP_OK && n > 0 && !packer_take(o->packer, data, n, false))
        mp_out_fail(o, MP_ENOMEM, "out of memory: packing");
}

void mp_out_puts(struct mp_out *o, const char *s) { mp_out_write(o, s, strlen(s)); }

void mp_out_printf(struct mp_out *o, const char *fmt, ...) {
    char small[512];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(small, sizeof small, fmt, ap);
    va_end(ap);
    if (n < 0) {
        mp_out_fail(o, MP_EBUG, "cannot format");
        return;
    }
    if ((size_t)n < sizeof small) {
        mp_out_write(o, small, (size_t)n);
        return;
    }
    char *large = mp_calloc((size_t)n + 1, 1);
    if (large == NULL) {
        mp_out_fail(o, MP_ENOMEM, "out of memory: output");
        return;
    }
    va_start(ap, fmt);
    vsnprintf(large, (size_t)n + 1, fmt, ap);
    va_end(ap);
    mp_out_write(o, large, (size_t)n);
    mp_free(large);
}

uint64_t mp_out_offset(const struct mp_out *o) { return o->offset; }

/* Makes the rename durable. Some file systems refuse fsync on a folder; that is not an error of ours. */
static void sync_folder(const char *path) {
    char folder[4096];
    const char *slash = strrchr(path, '/');
    size_t n = slash == NULL ? 0 : (size_t)(slash - path);
    if (n >= sizeof folder)
        return;
    if (slash == NULL)
        strcpy(folder, ".");
    else if (n == 0)
        strcpy(folder, "/");
    else {
        memcpy(folder, path, n);
        folder[n] = '\0';
    }
    int fd = io.open(io.ctx, folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (fd < 0)
        return;
    (void)io.fsync(io.ctx, fd);
    (void)io.close(io.ctx, fd);
}

static enum mp_status out_status(const struct mp_out *o, struct mp_error *err) {
    return o->status == MP_OK
               ? MP_OK
               : mp_fail_at(err, o->status, strcmp(o->path, "-") == 0 ? "<stdout>" : o->path, 0, 0, "%s", o->message);
}

static void finish(struct mp_out *o) {
    if (o->is_finished)
        return;
    mp_out_pack_end(o);
    if (o->fd >= 0)
        flush(o);
    if (o->temp_path == NULL)
        return;
    if (o->status == MP_OK && io.fsync(io.ctx, o->fd) != 0 && errno != EINVAL)
        fail_errno(o, "fsync");
    if (io.close(io.ctx, o->fd) != 0 && errno != EINTR)
        fail_errno(o, "close");
    o->fd = -1;
    o->is_finished = true;
    mp_free(o->buf);
    o->buf = NULL;
    o->room = 0;
    /* A device such as /dev/full or a pipe cannot be replaced by rename: say so instead of replacing it. */
    struct stat st;
    if (o->status == MP_OK && stat(o->path, &st) == 0 && !S_ISREG(st.st_mode))
        mp_out_fail(o, MP_EIO, "is not a regular file (write to a file, or to - for standard output)");
}

enum mp_status mp_out_finish(struct mp_out *o, struct mp_error *err) {
    if (o->temp_path != NULL)
        finish(o);
    return out_status(o, err);
}

enum mp_status mp_out_commit(struct mp_out *o, struct mp_error *err) {
    finish(o);
    if (o->temp_path != NULL) {
        if (o->status == MP_OK && io.rename(io.ctx, o->temp_path, o->path) != 0)
            fail_errno(o, "rename");
        if (o->status == MP_OK)
            sync_folder(o->path);
        else
            (void)io.unlink(io.ctx, o->temp_path);
    }
    enum mp_status status = out_status(o, err);
    out_free(o);
    return status;
}

void mp_out_cancel(struct mp_out *o) {
    if (o == NULL)
        return;
    if (o->temp_path != NULL) {
        if (!o->is_finished)
            (void)io.close(io.ctx, o->fd);
        (void)io.unlink(io.ctx, o->temp_path);
    }
    out_free(o);
}
