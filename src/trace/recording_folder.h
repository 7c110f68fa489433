/* Recordings that are folders with a file per rank, step or request. Private to src/trace. */
#ifndef RECORDING_FOLDER_H
#define RECORDING_FOLDER_H

#include "trace_box.h"

enum { FOLDER_MAX_FILES = 65536 };
/* A file whose name was recognised, with the numbers in it. */
struct folder_file {
    const char *path; /* folder/name */
    const char *name;
    uint64_t keys[3];
};
struct folder_list {
    struct mp_arena *arena;
    struct folder_file *files; /* by keys, then by name */
    uint32_t n;
};
/* Is this the name of a file of the recording? Its numbers go to keys (0 where unused). */
typedef bool (*folder_wanted)(const char *name, uint64_t keys[3]);
/* All files of a folder that are wanted, which may be none. MP_ELIMIT past FOLDER_MAX_FILES. */
enum mp_status folder_list_read(struct folder_list *out, const char *folder, folder_wanted wanted,
                                struct mp_error *err) MP_MUST_CHECK;
void folder_list_clear(struct folder_list *l);
/* Does a folder hold such a file? For probes: an unreadable one does not. */
bool folder_has(const char *folder, folder_wanted wanted);

/* Length of a name without the .gz or .zst that it may end in. */
size_t name_without_packing(const char *name);
/* Does the name, without .gz or .zst, read <start><number><end>? The number goes to *out. */
bool name_is_numbered(const char *name, const char *start, const char *end, uint64_t *out);

#endif
