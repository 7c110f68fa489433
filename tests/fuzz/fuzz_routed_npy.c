/* Bytes as the one file of a folder of routed experts: the reader opens files itself, so a table of file operations
 * stands in for the disk. */
#include "trace_target.h"
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint8_t *file_data;
static size_t file_size, file_at;

static int open_file(void *ctx, const char *path, int flags, mode_t mode) {
    (void)ctx, (void)path, (void)flags, (void)mode;
    file_at = 0;
    return 1000;
}
static ssize_t read_file(void *ctx, int fd, void *buf, size_t n) {
    (void)ctx, (void)fd;
    n = n < file_size - file_at ? n : file_size - file_at;
    if (n > 0)
        memcpy(buf, file_data + file_at, n);
    file_at += n;
    return (ssize_t)n;
}
static int stat_file(void *ctx, int fd, struct stat *st) {
    (void)ctx, (void)fd;
    memset(st, 0, sizeof *st);
    st->st_mode = S_IFREG;
    st->st_size = (off_t)file_size;
    return 0;
}
static void *map_file(void *ctx, int fd, size_t n) {
    (void)ctx, (void)fd, (void)n;
    errno = ENOMEM;
    return NULL;
}
static int unmap_file(void *ctx, void *p, size_t n) {
    (void)ctx, (void)p, (void)n;
    return 0;
}
static int close_file(void *ctx, int fd) {
    (void)ctx, (void)fd;
    return 0;
}

static char folder[64];
static void remove_folder(void) {
    char path[128];
    for (int i = 7; i <= 8; i++) {
        (void)snprintf(path, sizeof path, "%s/%d.npy", folder, i);
        (void)unlink(path);
    }
    (void)rmdir(folder);
}

/* The folder with the names, once: only its listing is real. */
static const char *folder_of_names(void) {
    if (folder[0] == '\0') {
        char path[128];
        (void)snprintf(folder, sizeof folder, "/tmp/moeplan-fuzz-XXXXXX");
        require(mkdtemp(folder) != NULL);
        for (int i = 7; i <= 8; i++) {
            (void)snprintf(path, sizeof path, "%s/%d.npy", folder, i);
            FILE *f = fopen(path, "wb");
            require(f != NULL && fclose(f) == 0);
        }
        (void)atexit(remove_folder);
    }
    return folder;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct mp_io_table table = {.open = open_file,
                                .read = read_file,
                                .fstat = stat_file,
                                .map = map_file,
                                .unmap = unmap_file,
                                .close = close_file};
    struct mp_trace_hints h = full_hints();
    struct mp_limits limits = mp_limits_default;
    struct mp_error err = {0};
    struct mp_trace *t = NULL;
    bool keep = false;
    const char *path = folder_of_names();
    file_data = data;
    file_size = size;
    limits.memory_bytes = (uint64_t)64 << 20;
    struct mp_io_table old = mp_io_set(&table);
    enum mp_status status = format_named("routed_npy")->read(&t, path, NULL, &keep, &h, &limits, &err);
    (void)mp_io_set(&old);
    require((status == MP_OK) == (t != NULL));
    if (status == MP_OK)
        require(mp_trace_check(t, &err) == MP_OK);
    else
        require(err.message[0] != '\0');
    mp_trace_free(t);
    require(mp_alloc_live() == 0);
    return 0;
}
