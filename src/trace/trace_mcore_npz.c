/* Loads that a fork of Megatron Core dumps: mcore_ep_loads_rank<R>_<capture>.npz, one per rank, with
 * loads[layer][forward][expert] of the tokens of that rank, over all experts of its EP group. So the rank is the source
 * of what it counts, and an iteration is a forward pass of an EP group. Megatron numbers layers from 1. Experts are
 * physical: slots, when the fork balances them. */
#include "recording_folder.h"
#include "zip_container.h"
#include <moeplan/npy.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VERSION "mcore_ep_load_dump_v1"

struct dump {
    const char *path;
    struct mp_in *in; /* owned, unless it is the only one */
    struct zip_archive *z;
    uint8_t *owned; /* the loads, when they were packed */
    const uint8_t *loads;
    uint64_t loads_at; /* in the file, or 0 */
    uint32_t item_bytes, n_layers, n_forwards, n_experts, ep_rank, ep_size, group, n_used;
    uint32_t layers[MP_MAX_LAYERS]; /* absolute */
};
struct recording {
    const char *path;
    struct folder_list list;
    struct dump **dumps;
    uint32_t n, n_groups;
    uint32_t n_layers, ids[MP_MAX_LAYERS], stage_of[MP_MAX_LAYERS], row_of[MP_MAX_LAYERS];
    uint32_t n_stages, n_replicas, ep_size, n_experts, n_iterations, n_most;
};

static bool wanted(const char *name, uint64_t keys[3]) {
    static const char start[] = "mcore_ep_loads_rank";
    size_t n = strlen(name), a = sizeof start - 1;
    if (n < a + 4 || memcmp(name, start, a) != 0 || strcmp(name + n - 4, ".npz") != 0)
        return false;
    size_t digits = strspn(name + a, "0123456789");
    return mp_parse_u64(name + a, digits, &keys[0]);
}

static int probe(const char *path, const struct mp_in *in) {
    if (in == NULL)
        return folder_has(path, wanted) ? 70 : 0;
    const char *name;
    size_t n;
    if (!zip_first_name(in, &name, &n))
        return 0;
    /* The directory, at the end, names all members. */
    size_t tail = in->size < 4096 ? in->size : 4096;
    const uint8_t *end = in->data + in->size - tail;
    return memmem(end, tail, "dump_version.npy", 16) != NULL && memmem(end, tail, "loads.npy", 9) != NULL ? 95 : 0;
}

/* A member's header and data: *owned when it had to be unpacked. `shape_is` dimensions; text arrays are not parsed. */
static enum mp_status read_member(struct dump *d, const char *name, bool is_text, uint32_t n_dims,
                                  struct mp_npy_header *h, const uint8_t **data, uint8_t **owned,
                                  const struct mp_limits *limits, struct mp_error *err) {
    uint32_t m = zip_find(d->z, name);
    const uint8_t *bytes;
    uint64_t header_bytes;
    *h = (struct mp_npy_header){0};
    if (m == MP_NONE)
        return mp_fail_at(err, MP_EINPUT, d->path, 0, 0, "has no member %s (is it a dump of %s?)", name, VERSION);
    const struct zip_member *member = &d->z->members[m];
    uint64_t at = member->is_stored ? member->data_offset : 0;
    enum mp_status status =
        zip_read(d->z, m, limits->memory_bytes != 0 ? limits->memory_bytes : UINT64_MAX, &bytes, owned, err);
    if (status == MP_OK)
        status = mp_npy_header_bytes(bytes, member->bytes < MP_NPY_PREFIX ? (size_t)member->bytes : MP_NPY_PREFIX,
                                     d->path, at, limits, &header_bytes, err);
    if (status == MP_OK && header_bytes > member->bytes)
        status = mp_fail_at(err, MP_EINPUT, d->path, 0, at + 1, "member %s ends inside its header", name);
    if (status == MP_OK && !is_text)
        status = mp_npy_header_parse(h, bytes, header_bytes, false, d->path, at, err);
    if (status != MP_OK)
        return status;
    *data = bytes + header_bytes;
    if (is_text)
        h->data_bytes = member->bytes - header_bytes;
    else if (h->n_dims != n_dims)
        return mp_fail_at(err, MP_EINPUT, d->path, 0, at + 1, "member %s has %u dimensions, not %u", name, h->n_dims,
                          n_dims);
    else if (h->data_bytes != member->bytes - header_bytes)
        return mp_fail_at(err, MP_EINPUT, d->path, 0, at + 1,
                          "member %s promises %llu bytes of data but %llu follow its header", name,
                          (unsigned long long)h->data_bytes, (unsigned long long)(member->bytes - header_bytes));
    return MP_OK;
}

static int64_t value_at(const struct mp_npy_header *h, const uint8_t *data, uint64_t i) {
    uint64_t v = 0;
    memcpy(&v, data + i * h->item_bytes, h->item_bytes);
    if (h->is_signed && h->item_bytes < 8 && v >> (8 * h->item_bytes - 1) != 0)
        v |= UINT64_MAX << (8 * h->item_bytes);
    return (int64_t)v;
}

/* n whole numbers in [min, max] of a member of one dimension, or a lone one. */
static enum mp_status read_numbers(struct dump *d, const char *name, bool is_list, uint32_t n, int64_t min, int64_t max,
                                   uint32_t *out, const struct mp_limits *limits, struct mp_error *err) {
    struct mp_npy_header h;
    const uint8_t *data;
    uint8_t *owned = NULL;
    enum mp_status status = read_member(d, name, false, is_list, &h, &data, &owned, limits, err);
    if (status == MP_OK && is_list && h.shape[0] != n)
        status = mp_fail_at(err, MP_EINPUT, d->path, 0, 0, "member %s has %llu numbers, not %u as loads has layers",
                            name, (unsigned long long)h.shape[0], n);
    for (uint32_t i = 0; i < n && status == MP_OK; i++) {
        int64_t v = value_at(&h, data, i);
        if (v < min || v > max)
            status = mp_fail_at(err, MP_EINPUT, d->path, 0, 0, "member %s: %lld is not in [%lld, %lld]", name,
                                (long long)v, (long long)min, (long long)max);
        out[i] = (uint32_t)v;
    }
    mp_free(owned);
    return status;
}

/* dump_version is a NumPy text: four bytes per character. */
static enum mp_status check_version(struct dump *d, const struct mp_limits *limits, struct mp_error *err) {
    struct mp_npy_header h;
    const uint8_t *data;
    uint8_t *owned = NULL;
    enum mp_status status = read_member(d, "dump_version.npy", true, 0, &h, &data, &owned, limits, err);
    if (status != MP_OK) {
        mp_free(owned);
        return status;
    }
    char text[64], quoted[128];
    size_t n = 0;
    for (uint64_t i = 0; i + 4 <= h.data_bytes && n + 1 < sizeof text && data[i] != 0; i += 4)
        text[n++] = data[i + 1] == 0 && data[i + 2] == 0 && data[i + 3] == 0 ? (char)data[i] : '?';
    mp_free(owned);
    if (n == strlen(VERSION) && memcmp(text, VERSION, n) == 0)
        return MP_OK;
    return mp_fail_at(err, MP_EINPUT, d->path, 0, 0, "dump_version: \"%s\" is not known (this program reads %s)",
                      mp_quote(text, n, quoted, sizeof quoted), VERSION);
}

static enum mp_status read_dump(struct dump *d, const struct mp_limits *limits, struct mp_error *err) {
    struct mp_npy_header h;
    uint32_t *forwards = NULL;
    enum mp_status status = zip_open(&d->z, d->in, limits, err);
    if (status != MP_OK)
        return status;
    MP_TRY(check_version(d, limits, err));
    MP_TRY(read_member(d, "loads.npy", false, 3, &h, &d->loads, &d->owned, limits, err));
    if (h.shape[0] < 1 || h.shape[0] > MP_MAX_LAYERS || h.shape[1] < 1 || h.shape[1] > UINT32_MAX / 2 ||
        h.shape[2] < 1 || h.shape[2] > MP_MAX_EXPERTS) {
        status = mp_fail_at(err, MP_EINPUT, d->path, 0, 0,
                            "loads has %llu layers, %llu forwards, %llu experts, which are not in [1, %u], [1, %u], "
                            "[1, %u]",
                            (unsigned long long)h.shape[0], (unsigned long long)h.shape[1],
                            (unsigned long long)h.shape[2], MP_MAX_LAYERS, UINT32_MAX / 2, MP_MAX_EXPERTS);
        goto out;
    }
    d->item_bytes = h.item_bytes;
    d->n_layers = (uint32_t)h.shape[0];
    d->n_forwards = (uint32_t)h.shape[1];
    d->n_experts = (uint32_t)h.shape[2];
    d->loads_at = d->owned == NULL ? (uint64_t)(d->loads - d->in->data) : 0;
    forwards = mp_calloc(d->n_layers, sizeof *forwards);
    if (forwards == NULL) {
        status = mp_nomem(err, d->path);
        goto out;
    }
    MP_TRY(read_numbers(d, "layer_numbers.npy", true, d->n_layers, 1, MP_MAX_LAYERS, d->layers, limits, err));
    MP_TRY(read_numbers(d, "forward_counts.npy", true, d->n_layers, 0, d->n_forwards, forwards, limits, err));
    MP_TRY(read_numbers(d, "ep_size.npy", false, 1, 1, MP_MAX_GPUS, &d->ep_size, limits, err));
    MP_TRY(read_numbers(d, "ep_rank.npy", false, 1, 0, (int64_t)d->ep_size - 1, &d->ep_rank, limits, err));
    /* The group is named by its first rank; without the member there is one. */
    if (zip_find(d->z, "ep_group_ranks.npy") != MP_NONE) {
        uint32_t *ranks = mp_calloc(d->ep_size, sizeof *ranks);
        status = ranks == NULL
                     ? mp_nomem(err, d->path)
                     : read_numbers(d, "ep_group_ranks.npy", true, d->ep_size, 0, UINT32_MAX, ranks, limits, err);
        d->group = status == MP_OK ? ranks[0] : 0;
        mp_free(ranks);
        MP_TRY(status);
    }
    d->n_used = forwards[0];
    for (uint32_t l = 0; l < d->n_layers; l++) {
        d->layers[l]--; /* numbered from 1 */
        if (l > 0 && d->layers[l] <= d->layers[l - 1]) {
            status = mp_fail_at(err, MP_EINPUT, d->path, 0, 0, "member layer_numbers.npy: %u stands after %u",
                                d->layers[l] + 1, d->layers[l - 1] + 1);
            goto out;
        }
        d->n_used = forwards[l] < d->n_used ? forwards[l] : d->n_used;
    }
out:
    mp_free(forwards);
    return status;
}

static int compare_dumps(const void *pa, const void *pb) {
    const struct dump *a = *(const struct dump *const *)pa, *b = *(const struct dump *const *)pb;
    if (a->layers[0] != b->layers[0])
        return a->layers[0] < b->layers[0] ? -1 : 1;
    if (a->group != b->group)
        return a->group < b->group ? -1 : 1;
    return a->ep_rank != b->ep_rank ? (a->ep_rank < b->ep_rank ? -1 : 1) : strcmp(a->path, b->path);
}

static bool same_layers(const struct dump *a, const struct dump *b) {
    return a->n_layers == b->n_layers && memcmp(a->layers, b->layers, a->n_layers * sizeof *a->layers) == 0;
}

/* Sorted dumps into stages (groups with other layers) of as many replicas (groups with the same) of ep_size ranks. */
static enum mp_status arrange(struct recording *r, bool is_folder, struct mp_error *err) {
    qsort(r->dumps, r->n, sizeof *r->dumps, compare_dumps); /* ties are refused below */
    const struct dump *first = r->dumps[0];
    r->ep_size = is_folder ? first->ep_size : 1;
    r->n_experts = first->n_experts;
    r->n_iterations = r->n_most = first->n_used;
    uint32_t in_stage = 0;
    for (uint32_t i = 0; i < r->n; i++) {
        const struct dump *d = r->dumps[i], *before = i > 0 ? r->dumps[i - 1] : NULL;
        uint32_t want = is_folder ? i % r->ep_size : d->ep_rank;
        if (d->n_experts != r->n_experts || (is_folder && d->ep_size != r->ep_size))
            return mp_fail_at(err, MP_EINPUT, d->path, 0, 0,
                              "has %u experts and EP groups of %u, but %s has %u and %u (keep one run)", d->n_experts,
                              d->ep_size, first->path, first->n_experts, first->ep_size);
        if (before != NULL && before->group == d->group && before->ep_rank == d->ep_rank && same_layers(before, d))
            return mp_fail_at(err, MP_EINPUT, d->path, 0, 0,
                              "is of EP rank %u of the group of rank %u, as is %s "
                              "(keep one capture)",
                              d->ep_rank, d->group, before->path);
        if (d->ep_rank != want || (want > 0 && is_folder && (before->group != d->group || !same_layers(before, d))))
            return mp_fail_at(err, MP_EINPUT, r->path, 0, 0,
                              "the dump of EP rank %u is missing beside %s (copy the files of all %u ranks of a group)",
                              want, want > 0 && before != NULL ? before->path : d->path, r->ep_size);
        r->n_iterations = d->n_used < r->n_iterations ? d->n_used : r->n_iterations;
        r->n_most = d->n_used > r->n_most ? d->n_used : r->n_most;
        if (want > 0 && is_folder)
            continue;
        bool is_new = before == NULL || !same_layers(before, d);
        if (is_new && before != NULL && r->n_stages == 1)
            r->n_replicas = in_stage;
        if (is_new && r->n_stages > 1 && in_stage != r->n_replicas)
            break;
        in_stage = is_new ? 1 : in_stage + 1;
        for (uint32_t l = 0; is_new && l < d->n_layers; l++) {
            if (r->n_layers > 0 && d->layers[l] <= r->ids[r->n_layers - 1])
                return mp_fail_at(err, MP_EINPUT, d->path, 0, 0, "has layer %u, as others that differ in their layers",
                                  d->layers[l]);
            r->stage_of[r->n_layers] = r->n_stages;
            r->row_of[r->n_layers] = l;
            r->ids[r->n_layers++] = d->layers[l];
        }
        r->n_stages += is_new;
    }
    if (is_folder && r->n % r->ep_size != 0)
        return mp_fail_at(err, MP_EINPUT, r->path, 0, 0,
                          "the dump of EP rank %u is missing beside %s (copy the files of all %u ranks of a group)",
                          r->n % r->ep_size, r->dumps[r->n - 1]->path, r->ep_size);
    if (r->n_stages == 1)
        r->n_replicas = in_stage;
    if (r->n != r->n_stages * r->n_replicas * r->ep_size)
        return mp_fail_at(err, MP_EINPUT, r->path, 0, 0,
                          "not every pipeline stage has as many EP groups (copy the files of all ranks)");
    if (r->n_iterations == 0)
        return mp_fail_at(err, MP_EINPUT, r->path, 0, 0, "a layer has no forward pass (let the run go on for longer)");
    return MP_OK;
}

static enum mp_status build(struct recording *r, struct mp_trace_builder *b, const struct trace_map *map,
                            struct mp_error *err) {
    enum mp_status status = MP_OK;
    for (uint32_t f = 0; f < r->n_iterations; f++)
        for (uint32_t replica = 0; replica < r->n_replicas; replica++) {
            MP_TRY(mp_trace_builder_iteration(b, MP_NONE, err));
            for (uint32_t l = 0; l < r->n_layers; l++)
                for (uint32_t s = 0; s < r->ep_size; s++) {
                    const struct dump *d = r->dumps[(r->stage_of[l] * r->n_replicas + replica) * r->ep_size + s];
                    uint64_t at = ((uint64_t)r->row_of[l] * d->n_forwards + f) * d->n_experts;
                    struct mp_npy_header h = {.item_bytes = d->item_bytes, .is_signed = true};
                    for (uint32_t e = 0; e < d->n_experts; e++) {
                        int64_t v = value_at(&h, d->loads, at + e);
                        uint32_t expert = map->logical != NULL ? map->logical[(size_t)l * map->n_physical + e] : e;
                        if (v < 0) {
                            status = mp_fail_at(err, MP_EINPUT, d->path, 0,
                                                d->loads_at > 0 ? d->loads_at + (at + e) * d->item_bytes + 1 : 0,
                                                "the load of layer %u, forward %u, expert %u is %lld (a count of "
                                                "tokens is not negative)",
                                                r->ids[l], f, e, (long long)v);
                            goto out;
                        }
                        MP_TRY(mp_trace_builder_count(b, s, l, expert, (uint64_t)v, err));
                    }
                }
        }
out:
    return status;
}

static enum mp_status add_notes(const struct recording *r, struct mp_trace *t, bool is_folder, struct mp_error *err) {
    enum mp_status status = MP_OK;
    if (!is_folder && r->dumps[0]->ep_size > 1)
        MP_TRY(trace_note(t, err, "the tokens of EP rank %u only, of %u (name the folder for those of all ranks)",
                          r->dumps[0]->ep_rank, r->dumps[0]->ep_size));
    if (r->n_most > r->n_iterations)
        MP_TRY(trace_note(t, err, "layers or ranks have %u to %u forward passes: the first %u are read",
                          r->n_iterations, r->n_most, r->n_iterations));
    if (r->n_replicas > 1)
        MP_TRY(trace_note(t, err, "each forward pass of its %u groups of %u ranks is a step of its own", r->n_replicas,
                          r->ep_size));
out:
    return status;
}

static enum mp_status open_dumps(struct recording *r, struct mp_in *in, const struct mp_limits *limits,
                                 struct mp_error *err) {
    enum mp_status status = MP_OK;
    if (in == NULL)
        MP_TRY(folder_list_read(&r->list, r->path, wanted, err));
    r->n = in == NULL ? r->list.n : 1;
    if (r->n == 0 || r->n > MP_MAX_GPUS)
        return mp_fail_at(err, MP_EINPUT, r->path, 0, 0, "holds %u files mcore_ep_loads_rank<R>_<capture>.npz", r->n);
    r->dumps = mp_calloc(r->n, sizeof *r->dumps);
    for (uint32_t i = 0; r->dumps != NULL && i < r->n; i++) {
        struct dump *d = r->dumps[i] = mp_calloc(1, sizeof *d);
        if (d == NULL)
            return mp_nomem(err, r->path);
        d->in = in;
        d->path = in != NULL ? r->path : r->list.files[i].path;
        if (in == NULL)
            MP_TRY(mp_in_open(&d->in, d->path, 0, err));
        MP_TRY(read_dump(d, limits, err));
    }
    if (r->dumps == NULL)
        return mp_nomem(err, r->path);
out:
    return status;
}

static enum mp_status read_mcore(struct mp_trace **out, const char *path, struct mp_in *in, bool *keep_in,
                                 const struct mp_trace_hints *hints, const struct mp_limits *limits,
                                 struct mp_error *err) {
    struct recording *r = mp_calloc(1, sizeof *r);
    struct trace_map map = {0};
    struct mp_trace_builder *b = NULL;
    enum mp_status status;
    *out = NULL;
    *keep_in = false;
    if (r == NULL)
        return mp_nomem(err, path);
    r->path = path;
    if (hints->layer_base > 0) { /* 0 is true, and what a caller without better knowledge says */
        status = mp_fail_at(err, MP_EUSAGE, path, 0, 0, "Megatron numbers its layers (leave out --layer-base)");
        goto out;
    }
    MP_TRY(open_dumps(r, in, limits, err));
    MP_TRY(trace_ask(path, "mcore_npz", (struct trace_needs){.phase = true, .ids = true}, hints, err));
    MP_TRY(arrange(r, in == NULL, err));
    uint32_t n_experts = r->n_experts;
    if (hints->ids_are_physical == 1) {
        MP_TRY(trace_map_load(&map, hints->map_path, limits, err));
        if (map.n_layers != r->n_layers || map.n_physical != r->n_experts) {
            status = mp_fail_at(err, MP_EINPUT, hints->map_path, 0, 0,
                                "the map has %u layers and %u slots, the recording %u and %u", map.n_layers,
                                map.n_physical, r->n_layers, r->n_experts);
            goto out;
        }
        n_experts = map.n_logical;
    }
    bool is_stand_in = hints->missing != NULL && hints->missing->experts;
    if (hints->n_experts != 0 && hints->n_experts != n_experts && !is_stand_in) {
        status = mp_fail_at(err, MP_EINPUT, path, 0, 0,
                            "the recording has %u experts but --experts or the model says %u (are they slots? give "
                            "--ids physical and --map FILE)",
                            n_experts, hints->n_experts);
        goto out;
    }
    struct mp_trace_meta meta = {.kind = MP_TRACE_COUNTS,
                                 .phase = hints->phase,
                                 .model = hints->model_name,
                                 .format = "mcore_npz",
                                 .is_time_ordered = true,
                                 .n_layers = r->n_layers,
                                 .n_experts = n_experts,
                                 .top_k = hints->top_k,
                                 .layer_ids = r->ids,
                                 .n_sources = r->ep_size};
    MP_TRY(mp_trace_builder_new(&b, &meta, limits, err));
    MP_TRY(build(r, b, &map, err));
    struct mp_trace_builder *done = b;
    b = NULL;
    MP_TRY(mp_trace_builder_finish(done, NULL, out, err));
    if ((status = add_notes(r, *out, in == NULL, err)) != MP_OK) {
        mp_trace_free(*out);
        *out = NULL;
    }
out:
    mp_trace_builder_free(b);
    trace_map_clear(&map);
    for (uint32_t i = 0; r->dumps != NULL && i < r->n && r->dumps[i] != NULL; i++) {
        mp_free(r->dumps[i]->owned);
        zip_close(r->dumps[i]->z);
        if (in == NULL)
            mp_in_close(r->dumps[i]->in);
        mp_free(r->dumps[i]);
    }
    mp_free(r->dumps);
    folder_list_clear(&r->list);
    mp_free(r);
    return status;
}

const struct mp_trace_format mp_trace_format_mcore_npz = {
    .name = "mcore_npz",
    .summary = "Megatron Core expert load dump (mcore_ep_loads_rank<R>_*.npz, a file or the folder with all ranks')",
    .reference = "dump_version mcore_ep_load_dump_v1, of a fork of NVIDIA/Megatron-LM",
    .probe = probe,
    .read = read_mcore,
};
