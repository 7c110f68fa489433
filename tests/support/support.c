#include "support.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

void support_check_ok(enum mp_status status, const struct mp_error *err, const char *call, const char *file, int line) {
    if (status == MP_OK)
        return;
    char text[2048];
    print_error("%s failed with %d: %s\n", call, (int)status, mp_error_text(err, text, sizeof text));
    _fail(file, line);
}

static char *rotating_buffer(void) {
    static char buffers[8][4096];
    static unsigned next;
    return buffers[next++ % 8];
}

const char *source_path(const char *relative) {
    const char *root = getenv("MOEPLAN_SOURCE");
    char *buf = rotating_buffer();
    snprintf(buf, 4096, "%s/%s", root != NULL ? root : ".", relative);
    return buf;
}

const char *shared_path(const char *relative) {
    const char *root = getenv("MOEPLAN_SHARED_DATA");
    char *buf = rotating_buffer();
    snprintf(buf, 4096, "%s/%s", root != NULL ? root : "../shared/data", relative);
    if (access(buf, R_OK) == 0)
        return buf;
    print_message("# real data is not at %s: skipped\n", buf); /* TAP wants the mark */
    return NULL;
}

static char temp_folder[64];
static pid_t temp_owner;
static void remove_temp_folder(void) {
    if (temp_owner != getpid())
        return;
    DIR *d = opendir(temp_folder);
    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", temp_folder, e->d_name);
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            (void)remove(path);
    }
    if (d != NULL)
        closedir(d);
    (void)rmdir(temp_folder);
}
const char *temp_path(const char *name) {
    if (temp_folder[0] == '\0') {
        strcpy(temp_folder, "/tmp/moeplan-test-XXXXXX");
        if (mkdtemp(temp_folder) == NULL)
            abort();
        temp_owner = getpid();
        atexit(remove_temp_folder);
    }
    char *buf = rotating_buffer();
    snprintf(buf, 4096, "%s/%s", temp_folder, name);
    return buf;
}

/* ---- faults ---- */
static struct {
    uint64_t n, fail_at;
    bool from_then_on, is_on, was_hit;
    int error;
} alloc_fault, io_fault;

static bool hit(uint64_t *n, uint64_t at, bool on, bool onward, bool *was_hit) {
    ++*n;
    bool yes = on && (*n == at || (onward && *n > at));
    *was_hit |= yes;
    return yes;
}
static bool alloc_hit(void) {
    return hit(&alloc_fault.n, alloc_fault.fail_at, alloc_fault.is_on, alloc_fault.from_then_on, &alloc_fault.was_hit);
}
static bool io_hit(void) {
    bool yes = hit(&io_fault.n, io_fault.fail_at, io_fault.is_on, io_fault.from_then_on, &io_fault.was_hit);
    if (yes)
        errno = io_fault.error;
    return yes;
}
static void *faulty_resize(void *ctx, void *p, size_t size) {
    (void)ctx;
    return alloc_hit() ? NULL : realloc(p, size);
}
static void faulty_release(void *ctx, void *p) {
    (void)ctx;
    free(p);
}
static int f_open(void *ctx, const char *path, int flags, mode_t mode) {
    (void)ctx;
    return io_hit() ? -1 : open(path, flags, mode);
}
static ssize_t f_read(void *ctx, int fd, void *buf, size_t n) {
    (void)ctx;
    return io_hit() ? -1 : read(fd, buf, n);
}
static ssize_t f_write(void *ctx, int fd, const void *buf, size_t n) {
    (void)ctx;
    return io_hit() ? -1 : write(fd, buf, n);
}
static int f_fstat(void *ctx, int fd, struct stat *st) {
    (void)ctx;
    return io_hit() ? -1 : fstat(fd, st);
}
static void *f_map(void *ctx, int fd, size_t n) {
    (void)ctx;
    if (io_hit())
        return NULL;
    void *p = mmap(NULL, n, PROT_READ, MAP_PRIVATE, fd, 0);
    return p == MAP_FAILED ? NULL : p;
}
static int f_unmap(void *ctx, void *p, size_t n) {
    (void)ctx;
    return munmap(p, n);
}
static int f_fsync(void *ctx, int fd) {
    (void)ctx;
    return io_hit() ? -1 : fsync(fd);
}
static int f_close(void *ctx, int fd) {
    (void)ctx;
    int rc = close(fd); /* a failed close still closes */
    return io_hit() ? -1 : rc;
}
static int f_rename(void *ctx, const char *from, const char *to) {
    (void)ctx;
    return io_hit() ? -1 : rename(from, to);
}
static int f_unlink(void *ctx, const char *path) {
    (void)ctx;
    return unlink(path); /* cleaning up must not be refused */
}

static void install(void) {
    static const struct mp_alloc_table a = {faulty_resize, faulty_release, NULL};
    static const struct mp_io_table i = {f_open,  f_read,  f_write,  f_fstat,  f_map, f_unmap,
                                         f_fsync, f_close, f_rename, f_unlink, NULL};
    (void)mp_alloc_set(&a);
    (void)mp_io_set(&i);
    alloc_fault.n = io_fault.n = 0;
    alloc_fault.was_hit = io_fault.was_hit = false;
    alloc_fault.is_on = io_fault.is_on = false;
}
void fail_allocation(uint64_t k, bool from_then_on) {
    install();
    alloc_fault.fail_at = k;
    alloc_fault.from_then_on = from_then_on;
    alloc_fault.is_on = true;
}
void fail_io(uint64_t k, bool from_then_on, int error) {
    install();
    io_fault.fail_at = k;
    io_fault.from_then_on = from_then_on;
    io_fault.error = error;
    io_fault.is_on = true;
}
bool faults_end(uint64_t *n_allocations, uint64_t *n_io) {
    (void)mp_alloc_set(NULL);
    (void)mp_io_set(NULL);
    if (n_allocations != NULL)
        *n_allocations = alloc_fault.n;
    if (n_io != NULL)
        *n_io = io_fault.n;
    return alloc_fault.was_hit || io_fault.was_hit;
}

static bool one_fault(support_flow flow, void *ctx, uint64_t live_before) {
    struct mp_error err = {0};
    enum mp_status status = flow(ctx, &err);
    bool was_hit = faults_end(NULL, NULL);
    if (status != MP_OK && status != MP_ENOMEM && status != MP_EIO) {
        char text[2048];
        fail_msg("a fault became status %d: %s", (int)status, mp_error_text(&err, text, sizeof text));
    }
    if (status != MP_OK)
        assert_true(err.message[0] != '\0');
    if (mp_alloc_live() != live_before)
        fail_msg("a fault leaked %lld bytes", (long long)(mp_alloc_live() - live_before));
    return was_hit;
}

void sweep_faults(support_flow flow, void *ctx, uint64_t stride) {
    uint64_t live_before = mp_alloc_live();
    static const int errors[] = {EIO, ENOSPC, EACCES, EINTR};
    for (int onward = 0; onward < 2; onward++) {
        for (uint64_t k = 1;; k += stride) {
            fail_allocation(k, onward == 1);
            if (!one_fault(flow, ctx, live_before))
                break;
        }
        for (size_t e = 0; e < sizeof errors / sizeof errors[0]; e++)
            for (uint64_t k = 1; !(onward == 1 && errors[e] == EINTR); k += stride) {
                fail_io(k, onward == 1, errors[e]);
                if (!one_fault(flow, ctx, live_before))
                    break;
            }
    }
    struct mp_error err = {0};
    CHECK_OK(flow(ctx, &err), err);
    assert_int_equal(mp_alloc_live(), live_before);
}
