#include "recording_folder.h"
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

size_t name_without_packing(const char *name) {
    size_t n = strlen(name);
    if (n > 3 && strcmp(name + n - 3, ".gz") == 0)
        return n - 3;
    return n > 4 && strcmp(name + n - 4, ".zst") == 0 ? n - 4 : n;
}

bool name_is_numbered(const char *name, const char *start, const char *end, uint64_t *out) {
    size_t n = name_without_packing(name), a = strlen(start), b = strlen(end);
    return n > a + b && memcmp(name, start, a) == 0 && memcmp(name + n - b, end, b) == 0 &&
           mp_parse_u64(name + a, n - a - b, out);
}

static int compare_files(const void *pa, const void *pb) {
    const struct folder_file *a = pa, *b = pb;
    for (int i = 0; i < 3; i++)
        if (a->keys[i] != b->keys[i])
            return a->keys[i] < b->keys[i] ? -1 : 1;
    return strcmp(a->name, b->name); /* names in a folder differ */
}

enum mp_status folder_list_read(struct folder_list *out, const char *folder, folder_wanted wanted,
                                struct mp_error *err) {
    *out = (struct folder_list){0};
    enum mp_status status = MP_OK;
    uint32_t room = 0;
    DIR *d = opendir(folder);
    if (d == NULL)
        return mp_fail_at(err, MP_EIO, folder, 0, 0, "cannot open: %s", strerror(errno));
    if ((out->arena = mp_arena_new()) == NULL) {
        status = mp_nomem(err, folder);
        goto out;
    }
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        uint64_t keys[3] = {0};
        if (!wanted(e->d_name, keys))
            continue;
        if (out->n == FOLDER_MAX_FILES) {
            status = mp_fail_at(err, MP_ELIMIT, folder, 0, 0, "holds more than %d files of a recording",
                                (int)FOLDER_MAX_FILES);
            goto out;
        }
        if (out->n == room) {
            room = room == 0 ? 16 : room * 2;
            struct folder_file *grown = mp_realloc(out->files, room, sizeof *grown);
            if (grown == NULL) {
                status = mp_nomem(err, folder);
                goto out;
            }
            out->files = grown;
        }
        size_t n = strlen(folder), size = n + strlen(e->d_name) + 2;
        char *path = mp_arena_alloc(out->arena, size, 1);
        if (path == NULL) {
            status = mp_nomem(err, folder);
            goto out;
        }
        int at = snprintf(path, size, "%s%s%s", folder, n > 0 && folder[n - 1] == '/' ? "" : "/", e->d_name);
        out->files[out->n++] =
            (struct folder_file){path, path + (size_t)at - strlen(e->d_name), {keys[0], keys[1], keys[2]}};
    }
    if (out->n > 0)
        qsort(out->files, out->n, sizeof *out->files, compare_files);
out:
    (void)closedir(d);
    if (status != MP_OK)
        folder_list_clear(out);
    return status;
}

void folder_list_clear(struct folder_list *l) {
    mp_free(l->files);
    mp_arena_free(l->arena);
    *l = (struct folder_list){0};
}

bool folder_has(const char *folder, folder_wanted wanted) {
    uint64_t keys[3];
    bool found = false;
    DIR *d = opendir(folder);
    for (struct dirent *e; d != NULL && !found && (e = readdir(d)) != NULL;)
        found = wanted(e->d_name, keys);
    if (d != NULL)
        (void)closedir(d);
    return found;
}
