/* What the argument TOPOLOGY names: a file, a preset, a short string, or [N x]FILE[:GPU] with a file of another
 * program; finding the reader of a file by its content; the table of readers. */
#include "topo_reader.h"
#include "topo_registry.h"
#include <moeplan/base.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define DECLARE(name) extern const struct topo_reader topo_reader_##name;
#define ENTRY(name) &topo_reader_##name,
MP_REGISTRY(DECLARE)
static const struct topo_reader *const readers[] = {MP_REGISTRY(ENTRY) NULL};

bool mp_topology_reader(uint32_t i, const char **name, const char **summary, const char **reference) {
    for (uint32_t k = 0; k <= i; k++)
        if (readers[k] == NULL)
            return false;
    *name = readers[i]->name;
    *summary = readers[i]->summary;
    *reference = readers[i]->reference;
    return true;
}

/* ---- the argument ---- */

enum { PATH_MAX_BYTES = 4096 };

struct spec {
    enum { SPEC_FILE, SPEC_PRESET, SPEC_SHORT, SPEC_MISSING, SPEC_UNKNOWN } kind;
    const struct mp_embedded *preset;
    char path[PATH_MAX_BYTES]; /* FILE, MISSING */
    uint64_t n_hosts;
    bool has_n_hosts;
    const char *gpu; /* points into the argument */
};

/* "4x8:" or "8:" at the start: a short string, whatever files there are. */
static bool looks_short(const char *s) {
    size_t n = strspn(s, "0123456789");
    if (n == 0)
        return false;
    s += n;
    if (*s == 'x' && (n = strspn(s + 1, "0123456789")) > 0)
        s += 1 + n;
    return *s == ':';
}

/* The longest part of `text` up to a colon, or all of it, that is a file. */
static bool find_file(const char *text, struct spec *s) {
    struct stat st;
    for (size_t n = strlen(text); n > 0; n--) {
        if ((text[n] != '\0' && text[n] != ':') || n >= sizeof s->path)
            continue;
        memcpy(s->path, text, n);
        s->path[n] = '\0';
        if (stat(s->path, &st) == 0 && !S_ISDIR(st.st_mode)) {
            s->gpu = text[n] == ':' ? text + n + 1 : NULL;
            return true;
        }
    }
    return false;
}

static void resolve(const char *text, struct spec *s) {
    struct stat st;
    const size_t digits = strspn(text, "0123456789");
    const char *rest = digits > 0 && text[digits] == 'x' ? text + digits + 1 : NULL;
    *s = (struct spec){.kind = SPEC_FILE, .n_hosts = 1};
    s->preset = topo_find(topo_topology_presets, text);
    if (strlen(text) < sizeof s->path &&
        (strcmp(text, "-") == 0 || (stat(text, &st) == 0 && !(s->preset != NULL && S_ISDIR(st.st_mode))))) {
        snprintf(s->path, sizeof s->path, "%s", text);
        return;
    }
    if (s->preset != NULL || looks_short(text)) {
        s->kind = s->preset != NULL ? SPEC_PRESET : SPEC_SHORT;
        return;
    }
    if (find_file(text, s))
        return;
    if (rest != NULL && find_file(rest, s)) {
        s->has_n_hosts = true;
        if (!mp_parse_u64(text, digits, &s->n_hosts) || s->n_hosts == 0 || s->n_hosts > MP_MAX_GPUS)
            s->n_hosts = 0;
        return;
    }
    /* No such file: the part that was meant as one. */
    rest = rest != NULL ? rest : text;
    const size_t n = strcspn(rest, ":");
    if (strcspn(rest, "/.") < n && n < sizeof s->path) {
        snprintf(s->path, sizeof s->path, "%.*s", (int)n, rest);
        s->kind = SPEC_MISSING;
        return;
    }
    s->kind = digits > 0 ? SPEC_SHORT : SPEC_UNKNOWN;
}

bool mp_topology_file(const char *spec, char *path, size_t size) {
    struct spec s;
    resolve(spec, &s);
    if ((s.kind != SPEC_FILE && s.kind != SPEC_MISSING) || strlen(s.path) >= size)
        return false;
    snprintf(path, size, "%s", s.path);
    return true;
}

/* ---- content ---- */

/* A moeplan file has a line "schema: moeplan..." near its start; as has what is meant as one. */
static bool is_moeplan(const char *text, size_t size) {
    static const char key[] = "schema:";
    const char *end = text + (size < 65536 ? size : 65536);
    while (text != NULL && text < end) {
        if ((size_t)(end - text) >= sizeof key - 1 && memcmp(text, key, sizeof key - 1) == 0)
            return true;
        text = memchr(text, '\n', (size_t)(end - text));
        text = text != NULL ? text + 1 : NULL;
    }
    return false;
}

static const struct topo_reader *find_reader(const char *text, size_t size) {
    for (uint32_t i = 0; readers[i] != NULL && size > 0 && !is_moeplan(text, size); i++)
        if (readers[i]->detect(text, size))
            return readers[i];
    return NULL;
}

const char *mp_topology_detect(const struct mp_in *in) {
    const struct topo_reader *r = find_reader((const char *)in->data, in->size);
    return r != NULL ? r->name : NULL;
}

/* ---- helpers of readers ---- */

void topo_put_text(struct mp_out *yaml, const char *key, const char *value) {
    mp_out_printf(yaml, "%s: ", key);
    mp_yaml_write_string(yaml, value);
    mp_out_puts(yaml, "\n");
}

void topo_put_head(struct mp_out *yaml, const struct topo_source *in, const char *source, uint64_t launch_ns,
                   uint64_t stage_launch_ns) {
    mp_out_puts(yaml, "schema: moeplan.topology\nversion: 1\n");
    topo_put_text(yaml, "name", in->name);
    if (source[0] != '\0') {
        char cut[TOPO_SOURCE_MAX + 8];
        size_t n = strlen(source);
        if (n > TOPO_SOURCE_MAX) {
            for (n = TOPO_SOURCE_MAX; n > 0 && ((unsigned char)source[n] & 0xc0) == 0x80;)
                n--;
            snprintf(cut, sizeof cut, "%.*s ...", (int)n, source);
            source = cut;
        }
        topo_put_text(yaml, "source", source);
    }
    mp_out_printf(yaml, "launch: %llu ns\nstage_launch: %llu ns\n", (unsigned long long)launch_ns,
                  (unsigned long long)stage_launch_ns);
}

enum mp_status topo_source_gpu(const struct topo_source *in, const char *why, struct mp_arena *arena,
                               struct mp_gpu_type *type, struct topo_ports *ports, struct mp_error *err) {
    struct mp_gpu_type unused;
    char quoted[200];
    if (in->gpu == NULL)
        return mp_fail_at(err, MP_EINPUT, in->path, 0, 0,
                          "the file does not say %s (write the built-in GPU behind a colon, for instance %s:h100; "
                          "\"moeplan list presets\" shows them)",
                          why, in->path);
    if (topo_find(topo_gpu_presets, in->gpu) == NULL)
        return mp_fail_at(err, MP_EINPUT, in->path, 0, 0,
                          "\"%s\" behind the colon is not a built-in GPU (write one that \"moeplan list presets\" "
                          "shows)",
                          mp_quote(in->gpu, strlen(in->gpu), quoted, sizeof quoted));
    return topo_gpu_preset(in->gpu, arena, type != NULL ? type : &unused, ports, err);
}

enum mp_status topo_source_no_gpu(const struct topo_source *in, const char *why, struct mp_error *err) {
    char quoted[200];
    return in->gpu == NULL ? MP_OK
                           : mp_fail_at(err, MP_EINPUT, in->path, 0, 0, "%s (remove \":%s\")", why,
                                        mp_quote(in->gpu, strlen(in->gpu), quoted, sizeof quoted));
}

/* ---- load ---- */

static enum mp_status memory_text(struct mp_out *text, const uint8_t **bytes, size_t *n, struct mp_error *err) {
    *bytes = mp_out_memory_bytes(text, n);
    /* A write that failed was counted, but did not arrive. */
    return *bytes != NULL && mp_out_offset(text) == *n ? MP_OK : mp_nomem(err, "reading a topology");
}

static enum mp_status load_text(struct mp_topology **out, const char *name, const void *text, size_t n,
                                const struct mp_limits *limits, struct mp_error *err) {
    struct mp_in *in;
    enum mp_status status = mp_in_from_memory(&in, name, text, n, err);
    if (status != MP_OK)
        return status;
    status = mp_topology_parse(out, in, limits, err);
    mp_in_close(in);
    return status;
}

static enum mp_status load_short(struct mp_topology **out, const char *spec, const struct mp_limits *limits,
                                 struct mp_error *err) {
    enum mp_status status;
    struct mp_out *text = NULL;
    const uint8_t *bytes;
    size_t n;
    MP_TRY(mp_out_open_memory(&text, err));
    MP_TRY(topo_short_text(text, spec, err));
    MP_TRY(memory_text(text, &bytes, &n, err));
    MP_TRY(load_text(out, spec, bytes, n, limits, err));
    mp_sha256_hex(spec, strlen(spec), (*out)->sha256);
out:
    mp_out_cancel(text);
    return status;
}

/* An imported topology is the one that `moeplan convert` writes: the same hash, so that plans for one are plans for the
 * other. */
static enum mp_status hash_as_written(struct mp_topology *t, struct mp_error *err) {
    enum mp_status status;
    struct mp_out *text = NULL;
    const uint8_t *bytes;
    size_t n;
    MP_TRY(mp_out_open_memory(&text, err));
    mp_topology_write(t, text);
    MP_TRY(memory_text(text, &bytes, &n, err));
    mp_sha256_hex(bytes, n, t->sha256);
out:
    mp_out_cancel(text);
    return status;
}

/* N, the file's name without folders, the GPU; what is not text becomes a question mark. */
static void put_name(const char *path, uint32_t n_hosts, bool has_n_hosts, const char *gpu, char *name, size_t size) {
    const char *slash = strrchr(path, '/');
    char count[24] = "";
    if (has_n_hosts)
        snprintf(count, sizeof count, "%ux", n_hosts);
    snprintf(name, size, "%s%.120s%s%.100s", count, slash != NULL ? slash + 1 : path, gpu != NULL ? ":" : "",
             gpu != NULL ? gpu : "");
    for (char *c = name; !mp_is_text(name, strlen(name)) && *c != '\0'; c++)
        if ((unsigned char)*c < 0x20 || (unsigned char)*c >= 0x7f)
            *c = '?';
    if (name[0] == '\0')
        snprintf(name, size, "?");
}

static enum mp_status import(struct mp_topology **out, const struct topo_reader *reader, const struct mp_in *in,
                             const struct topo_source *source, const struct mp_limits *limits, struct mp_error *err) {
    enum mp_status status;
    struct mp_error inner = {0};
    struct mp_out *yaml = NULL;
    const uint8_t *bytes;
    size_t n;
    MP_TRY(mp_out_open_memory(&yaml, err));
    status = reader->read(source, yaml, &inner);
    if (status == MP_OK)
        status = memory_text(yaml, &bytes, &n, &inner);
    if (status == MP_OK) {
        status = load_text(out, in->path, bytes, n, limits, &inner);
        inner.line = inner.column = 0; /* of the YAML, which nobody has seen */
    }
    if (status != MP_OK) {
        (void)mp_fail_at(err, status, inner.path[0] != '\0' ? inner.path : in->path, inner.line, inner.column, "%s",
                         inner.message);
        goto out;
    }
    MP_TRY(hash_as_written(*out, err));
out:
    if (status != MP_OK) {
        mp_topology_free(*out);
        *out = NULL;
    }
    mp_out_cancel(yaml);
    return status;
}

static enum mp_status load_in(struct mp_topology **out, const struct mp_in *in, uint64_t n_hosts, bool has_n_hosts,
                              const char *gpu, const struct mp_limits *limits, struct mp_error *err) {
    const struct topo_reader *reader = find_reader((const char *)in->data, in->size);
    char name[MP_MAX_NAME + 1];
    if (n_hosts == 0 || n_hosts > MP_MAX_GPUS)
        return mp_fail_at(err, MP_EINPUT, in->path, 0, 0,
                          "the number of hosts before the x is not a whole number in [1, %u] (write for instance "
                          "4x%s)",
                          MP_MAX_GPUS, in->path);
    if (gpu != NULL && gpu[0] == '\0')
        return mp_fail_at(err, MP_EINPUT, in->path, 0, 0,
                          "nothing stands behind the colon (write a built-in GPU there, for instance %s:h100)",
                          in->path);
    if (reader == NULL && (has_n_hosts || gpu != NULL))
        return mp_fail_at(err, MP_EINPUT, in->path, 0, 0,
                          is_moeplan((const char *)in->data, in->size)
                              ? "a moeplan topology says itself how many hosts there are and which GPUs (write them "
                                "into the file, and only its name here)"
                              : "is not a topology of another program that moeplan knows (see: moeplan list "
                                "topologies)");
    if (reader == NULL)
        return mp_topology_parse(out, in, limits, err);
    put_name(in->path, (uint32_t)n_hosts, has_n_hosts, gpu, name, sizeof name);
    const struct topo_source source = {.path = in->path,
                                       .text = (const char *)in->data,
                                       .size = in->size,
                                       .n_hosts = (uint32_t)n_hosts,
                                       .gpu = gpu,
                                       .name = name};
    return import(out, reader, in, &source, limits, err);
}

enum mp_status mp_topology_import(struct mp_topology **out, const struct mp_in *in, uint32_t n_hosts, const char *gpu,
                                  const struct mp_limits *limits, struct mp_error *err) {
    *out = NULL;
    return load_in(out, in, n_hosts, n_hosts != 1, gpu, limits != NULL ? limits : &mp_limits_default, err);
}

static enum mp_status load_file(struct mp_topology **out, const struct spec *s, const struct mp_limits *limits,
                                struct mp_error *err) {
    struct mp_in *in;
    enum mp_status status = mp_in_open(&in, s->path, limits->yaml_bytes, err);
    if (status != MP_OK)
        return status;
    status = load_in(out, in, s->n_hosts, s->has_n_hosts, s->gpu, limits, err);
    mp_in_close(in);
    return status;
}

enum mp_status mp_topology_load(struct mp_topology **out, const char *spec, const struct mp_limits *limits,
                                struct mp_error *err) {
    *out = NULL;
    char quoted[200];
    struct spec *s = mp_calloc(1, sizeof *s);
    enum mp_status status = MP_OK;
    if (s == NULL)
        return mp_nomem(err, "reading a topology");
    limits = limits != NULL ? limits : &mp_limits_default;
    resolve(spec, s);
    if (s->kind == SPEC_PRESET)
        status = load_text(out, s->preset->name, s->preset->text, s->preset->length, limits, err);
    else if (s->kind == SPEC_SHORT)
        status = load_short(out, spec, limits, err);
    else if (s->kind == SPEC_UNKNOWN)
        status = mp_fail(err, MP_EINPUT,
                         "\"%s\" is not a file, a built-in topology or a short string (write a path, 4x8:h100, or a "
                         "name that \"moeplan list presets\" shows)",
                         mp_quote(spec, strlen(spec), quoted, sizeof quoted));
    else /* a file that is missing is reported by the one that opens it */
        status = load_file(out, s, limits, err);
    mp_free(s);
    return status;
}
