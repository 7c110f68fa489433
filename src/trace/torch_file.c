/* torch.save's container: <name>/data.pkl, <name>/data/<number> and members that do not matter here. */
#include "torch_file.h"

#include <moeplan/base.h>
#include <stdio.h>
#include <string.h>

/* A recorder writes each tensor from a storage of its own; a file that points at one storage again and again is made to
 * cost time. */
enum { MAX_USES = 8 };

bool torch_file_is(const struct mp_in *in) {
    static const char word[] = "/data.pkl";
    size_t head = in->size < 4096 ? in->size : 4096, tail = in->size < 65536 ? in->size : 65536;
    return zip_is_archive(in) && (memmem(in->data, head, word, sizeof word - 1) != NULL ||
                                  memmem(in->data + (in->size - tail), tail, word, sizeof word - 1) != NULL);
}

static enum mp_status bad(const struct torch_file *f, uint64_t at, struct mp_error *err, const char *what) {
    return mp_fail_at(err, MP_EINPUT, f->in->path, 0, at + 1, "%s", what);
}

/* The pickle's member, and what stands before "data.pkl" in every name. */
static enum mp_status find_pickle(const struct torch_file *f, uint32_t *member, size_t *prefix, struct mp_error *err) {
    *member = MP_NONE;
    for (uint32_t m = 0; m < f->zip->n_members; m++) {
        const char *name = f->zip->members[m].name, *slash = strchr(name, '/');
        if (slash == NULL || strcmp(slash, "/data.pkl") != 0)
            continue;
        if (*member != MP_NONE)
            return bad(f, f->zip->members[m].data_offset, err,
                       "the archive holds two data.pkl (one file of torch.save holds one)");
        *member = m;
        *prefix = (size_t)(slash + 1 - name);
    }
    if (*member == MP_NONE)
        return bad(f, 0, err, "the archive holds no data.pkl (is this a file of torch.save?)");
    return MP_OK;
}

/* Which member is storage i; other members are looked at only for the byte order. */
static enum mp_status index_members(struct torch_file *f, uint32_t pickle, size_t prefix,
                                    const struct mp_limits *limits, struct mp_error *err) {
    const char *own = f->zip->members[pickle].name;
    f->n_storages = f->zip->n_members;
    f->member = mp_calloc(f->n_storages, sizeof *f->member);
    f->uses = mp_calloc(f->n_storages, sizeof *f->uses);
    if (f->member == NULL || f->uses == NULL)
        return mp_nomem(err, "recording");
    memset(f->member, 0xff, f->n_storages * sizeof *f->member);
    for (uint32_t m = 0; m < f->zip->n_members; m++) {
        const char *name = f->zip->members[m].name;
        uint64_t key;
        if (strncmp(name, own, prefix) != 0)
            continue;
        name += prefix;
        if (strncmp(name, "data/", 5) == 0 && mp_parse_u64(name + 5, strlen(name + 5), &key) && key < f->n_storages)
            f->member[key] = m;
        if (strcmp(name, "byteorder") == 0) {
            const uint8_t *bytes;
            uint8_t *owned;
            enum mp_status status = zip_read(f->zip, m, limits->pickle_bytes, &bytes, &owned, err);
            if (status != MP_OK)
                return status;
            bool is_little = f->zip->members[m].bytes >= 6 && memcmp(bytes, "little", 6) == 0;
            mp_free(owned);
            if (!is_little)
                return bad(f, f->zip->members[m].data_offset, err,
                           "the numbers are not little-endian (save on a little-endian machine)");
        }
    }
    return MP_OK;
}

enum mp_status torch_file_open(struct torch_file **out, const struct mp_in *in, const struct mp_limits *limits,
                               struct mp_error *err) {
    *out = NULL;
    uint32_t m;
    size_t prefix = 0;
    const uint8_t *bytes;
    enum mp_status status = MP_OK;
    struct torch_file *f = mp_calloc(1, sizeof *f);
    if (f == NULL)
        return mp_nomem(err, "recording");
    f->in = in;
    f->inflated_storage = MP_NONE;
    MP_TRY(zip_open(&f->zip, in, limits, err));
    MP_TRY(find_pickle(f, &m, &prefix, err));
    MP_TRY(zip_read(f->zip, m, limits->pickle_bytes, &bytes, &f->pickle_bytes, err));
    MP_TRY(index_members(f, m, prefix, limits, err));
    /* Positions inside a packed pickle cannot be given as places of the file; they count from its own start. */
    MP_TRY(mp_pickle_read(&f->pickle, in->path, bytes, f->zip->members[m].bytes,
                          f->pickle_bytes == NULL ? f->zip->members[m].data_offset : 0, limits, err));
    f->root = mp_pickle_root(f->pickle);
    *out = f;
    f = NULL;
out:
    torch_file_close(f);
    return status;
}

void torch_file_close(struct torch_file *f) {
    if (f == NULL)
        return;
    mp_pickle_free(f->pickle);
    zip_close(f->zip);
    mp_free(f->pickle_bytes);
    mp_free(f->member);
    mp_free(f->uses);
    mp_free(f->inflated);
    mp_free(f);
}

enum mp_status torch_file_numbers(struct torch_file *f, const struct mp_pickle_value *v, const char *what,
                                  uint32_t n_dims, const struct mp_pickle_tensor **t, const uint8_t **bytes,
                                  uint32_t *item, uint64_t *position, struct mp_error *err) {
    char message[256];
    uint64_t key = 0;
    if (v == NULL || v->kind != MP_PICKLE_TENSOR) {
        (void)snprintf(message, sizeof message, "%s: is %s, not a tensor", what, mp_pickle_kind_name(v));
        return mp_fail_at(err, MP_EINPUT, f->in->path, 0, 0, "%s", message);
    }
    const struct mp_pickle_storage *s = v->as.tensor->storage;
    *t = v->as.tensor;
    if (strcmp(s->type, "IntStorage") != 0 && strcmp(s->type, "LongStorage") != 0) {
        (void)snprintf(message, sizeof message,
                       "%s: is of %s, not of IntStorage or LongStorage (record with the server's own recorder)", what,
                       s->type);
        return bad(f, (*t)->position, err, message);
    }
    if ((*t)->n_dims != n_dims) {
        (void)snprintf(message, sizeof message, "%s: has %u dimensions, not %u", what, (*t)->n_dims, n_dims);
        return bad(f, (*t)->position, err, message);
    }
    if (!mp_parse_u64(s->key, strlen(s->key), &key) || key >= f->n_storages || f->member[key] == MP_NONE) {
        (void)snprintf(message, sizeof message,
                       "%s: its numbers, member data/%s, are not in the archive (copy it again)", what, s->key);
        return bad(f, (*t)->position, err, message);
    }
    uint32_t m = f->member[key];
    const struct zip_member *member = &f->zip->members[m];
    if (s->n > UINT64_MAX / s->item || member->bytes < s->n * s->item) {
        (void)snprintf(message, sizeof message,
                       "%s: member data/%s has %llu bytes, %llu numbers of %u bytes do not fit", what, s->key,
                       (unsigned long long)member->bytes, (unsigned long long)s->n, s->item);
        return bad(f, member->data_offset, err, message);
    }
    if (++f->uses[key] > MAX_USES) {
        (void)snprintf(message, sizeof message,
                       "%s: member data/%s is used by more than %d tensors (each of a recording has its own)", what,
                       s->key, (int)MAX_USES);
        return bad(f, (*t)->position, err, message);
    }
    if (f->uses[key] == 1 || (!member->is_stored && f->inflated_storage != key)) {
        uint8_t *owned;
        enum mp_status status = zip_read(f->zip, m, UINT64_MAX, bytes, &owned, err);
        if (status != MP_OK)
            return status;
        if (owned != NULL) {
            mp_free(f->inflated);
            f->inflated = owned;
            f->inflated_storage = (uint32_t)key;
        }
    }
    *item = s->item;
    *bytes = (member->is_stored ? member->data : f->inflated) + (*t)->offset * s->item;
    *position = member->is_stored ? member->data_offset + (*t)->offset * s->item : 0;
    return MP_OK;
}
