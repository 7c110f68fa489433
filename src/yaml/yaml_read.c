/* Typed reads of YAML nodes, with messages that say where, what, and what to write instead. */
#include <moeplan/base.h>
#include <moeplan/yaml.h>
#include <stdio.h>
#include <string.h>

enum mp_status mp_yaml_fail(const struct mp_yaml_doc *d, const struct mp_yaml *n, struct mp_error *err, const char *fmt,
                            ...) {
    char text[700], key[200];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (n->key == NULL)
        return mp_fail_at(err, MP_EINPUT, d->path, n->line, n->column, "%s", text);
    return mp_fail_at(err, MP_EINPUT, d->path, n->line, n->column, "%s: %s",
                      mp_quote(n->key, strlen(n->key), key, sizeof key), text);
}

const struct mp_yaml *mp_yaml_get(const struct mp_yaml *map, const char *key) {
    if (map == NULL || map->kind != MP_YAML_MAPPING)
        return NULL;
    for (uint32_t i = 0; i < map->n; i++)
        if (strcmp(map->items[i].key, key) == 0)
            return &map->items[i];
    return NULL;
}

enum mp_status mp_yaml_need(const struct mp_yaml_doc *d, const struct mp_yaml *map, const char *key,
                            const struct mp_yaml **out, struct mp_error *err) {
    enum mp_status status = mp_yaml_expect(d, map, MP_YAML_MAPPING, err);
    if (status != MP_OK)
        return status;
    *out = mp_yaml_get(map, key);
    return *out != NULL ? MP_OK : mp_yaml_fail(d, map, err, "the key \"%s\" is missing (add \"%s: ...\")", key, key);
}

static const char *kind_name(enum mp_yaml_kind kind) {
    static const char *const names[] = {"single value", "list", "mapping"};
    return names[kind];
}
static const char *kind_form(enum mp_yaml_kind kind) {
    static const char *const forms[] = {"one word or number", "[a, b]", "lines of \"key: value\""};
    return forms[kind];
}

enum mp_status mp_yaml_expect(const struct mp_yaml_doc *d, const struct mp_yaml *n, enum mp_yaml_kind kind,
                              struct mp_error *err) {
    if (n->kind == kind)
        return MP_OK;
    return mp_yaml_fail(d, n, err, "a %s is not a %s (write %s)", kind_name(n->kind), kind_name(kind), kind_form(kind));
}

enum mp_status mp_yaml_keys(const struct mp_yaml_doc *d, const struct mp_yaml *map, const char *const *keys,
                            struct mp_error *err) {
    enum mp_status status = mp_yaml_expect(d, map, MP_YAML_MAPPING, err);
    for (uint32_t i = 0; status == MP_OK && i < map->n; i++) {
        uint32_t k = 0;
        while (keys[k] != NULL && strcmp(keys[k], map->items[i].key) != 0)
            k++;
        if (keys[k] != NULL)
            continue;
        char list[500] = "";
        size_t used = 0;
        for (k = 0; keys[k] != NULL && used + strlen(keys[k]) + 8 < sizeof list; k++)
            used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", k > 0 ? ", " : "", keys[k]);
        status = mp_yaml_fail(d, &map->items[i], err, "no such key here (write one of: %s)", list);
    }
    return status;
}

static const char *quoted(const struct mp_yaml *n, char *buf, size_t size) {
    return mp_quote(n->text, n->length, buf, size);
}

enum mp_status mp_yaml_u64(const struct mp_yaml_doc *d, const struct mp_yaml *n, uint64_t min, uint64_t max,
                           uint64_t *out, struct mp_error *err) {
    enum mp_status status = mp_yaml_expect(d, n, MP_YAML_SCALAR, err);
    if (status != MP_OK)
        return status;
    char text[200];
    uint64_t v;
    bool is_number = !n->is_quoted && mp_parse_u64(n->text, n->length, &v);
    if (!is_number || v < min || v > max)
        return mp_yaml_fail(d, n, err, "\"%s\" is not a whole number in [%llu, %llu] (write %s)",
                            quoted(n, text, sizeof text), (unsigned long long)min, (unsigned long long)max,
                            is_number ? "one in this range" : "digits only, without quotes or unit");
    *out = v;
    return MP_OK;
}

enum mp_status mp_yaml_u32(const struct mp_yaml_doc *d, const struct mp_yaml *n, uint32_t min, uint32_t max,
                           uint32_t *out, struct mp_error *err) {
    uint64_t v;
    enum mp_status status = mp_yaml_u64(d, n, min, max, &v, err);
    if (status == MP_OK)
        *out = (uint32_t)v;
    return status;
}

enum mp_status mp_yaml_bool(const struct mp_yaml_doc *d, const struct mp_yaml *n, bool *out, struct mp_error *err) {
    enum mp_status status = mp_yaml_expect(d, n, MP_YAML_SCALAR, err);
    if (status != MP_OK)
        return status;
    char text[200];
    bool is_true = !n->is_quoted && strcmp(n->text, "true") == 0;
    if (!is_true && (n->is_quoted || strcmp(n->text, "false") != 0))
        return mp_yaml_fail(d, n, err, "\"%s\" is not true or false (write one of them, without quotes)",
                            quoted(n, text, sizeof text));
    *out = is_true;
    return MP_OK;
}

enum mp_status mp_yaml_string(const struct mp_yaml_doc *d, const struct mp_yaml *n, struct mp_arena *arena,
                              const char **out, struct mp_error *err) {
    enum mp_status status = mp_yaml_expect(d, n, MP_YAML_SCALAR, err);
    if (status != MP_OK)
        return status;
    char text[200];
    if (n->length == 0 || !mp_is_text(n->text, n->length))
        return mp_yaml_fail(d, n, err, "\"%s\" is not a line of text (write printable characters)",
                            quoted(n, text, sizeof text));
    *out = mp_arena_strndup(arena, n->text, n->length);
    return *out != NULL ? MP_OK : mp_nomem(err, "reading YAML");
}

/* ---- quantities ---- */

struct unit {
    const char *base, *name;
    uint64_t times, over; /* value in the base unit = number * times / over */
};
static const struct unit units[] = {
    {"bytes", "B", 1, 1},
    {"bytes", "kB", 1000, 1},
    {"bytes", "MB", 1000000, 1},
    {"bytes", "GB", 1000000000, 1},
    {"bytes", "TB", 1000000000000, 1},
    {"bytes", "KiB", UINT64_C(1) << 10, 1},
    {"bytes", "MiB", UINT64_C(1) << 20, 1},
    {"bytes", "GiB", UINT64_C(1) << 30, 1},
    {"bytes", "TiB", UINT64_C(1) << 40, 1},
    {"bytes/s", "B/s", 1, 1},
    {"bytes/s", "kB/s", 1000, 1},
    {"bytes/s", "MB/s", 1000000, 1},
    {"bytes/s", "GB/s", 1000000000, 1},
    {"bytes/s", "TB/s", 1000000000000, 1},
    {"bytes/s", "MiB/s", UINT64_C(1) << 20, 1},
    {"bytes/s", "GiB/s", UINT64_C(1) << 30, 1},
    {"bytes/s", "kbit/s", 1000, 8},
    {"bytes/s", "Mbit/s", 1000000, 8},
    {"bytes/s", "Gbit/s", 1000000000, 8},
    {"bytes/s", "Tbit/s", 1000000000000, 8},
    {"ns", "ns", 1, 1},
    {"ns", "us", 1000, 1},
    {"ns", "ms", 1000000, 1},
    {"ns", "s", 1000000000, 1},
    {"flops", "FLOPS", 1, 1},
    {"flops", "GFLOPS", 1000000000, 1},
    {"flops", "TFLOPS", 1000000000000, 1},
    {"flops", "PFLOPS", 1000000000000000, 1},
    {"ppm", "ppm", 1, 1},
    {"ppm", "%", 10000, 1},
};

static const char *example_of(const char *base) {
    static const struct {
        const char *base, *example;
    } examples[] = {{"bytes", "4096 B or 80 GiB"},
                    {"bytes/s", "450 GB/s or 400 Gbit/s"},
                    {"ns", "2.5 us"},
                    {"flops", "989 TFLOPS"},
                    {"ppm", "0.8, 80 % or 800000 ppm"}};
    for (size_t i = 0; i < sizeof examples / sizeof examples[0]; i++)
        if (strcmp(examples[i].base, base) == 0)
            return examples[i].example;
    return "a whole number";
}

/* Exactly, in integers: digits, at most one point with at most 9 digits behind it, then at most one blank and a unit.
 */
static bool parse_quantity(const char *s, size_t n, const char *base, uint64_t *out) {
    uint64_t number = 0, scale = 1;
    size_t i = 0, n_digits = 0;
    bool has_point = false;
    for (; i < n && ((s[i] >= '0' && s[i] <= '9') || (s[i] == '.' && !has_point && i > 0)); i++) {
        if (s[i] == '.') {
            has_point = true;
            n_digits = 0;
            continue;
        }
        if (mp_mul_overflow(number, (uint64_t)10, &number) || mp_add_overflow(number, (uint64_t)(s[i] - '0'), &number))
            return false;
        n_digits++;
        if (has_point) {
            if (n_digits > 9)
                return false;
            scale *= 10;
        }
    }
    if (n_digits == 0)
        return false;
    bool has_blank = i < n && s[i] == ' ';
    i += has_blank;
    uint64_t times = 1, over = 1;
    if (i < n) {
        const struct unit *u = NULL;
        for (size_t k = 0; k < sizeof units / sizeof units[0] && u == NULL; k++)
            if (strcmp(units[k].base, base) == 0 && strlen(units[k].name) == n - i &&
                memcmp(units[k].name, s + i, n - i) == 0)
                u = &units[k];
        if (u == NULL)
            return false;
        times = u->times;
        over = u->over;
    } else if (has_blank) {
        return false;
    } else if (has_point) {
        if (strcmp(base, "ppm") != 0)
            return false; /* 2.5 of what? */
        times = 1000000;
    }
    unsigned __int128 product = (unsigned __int128)number * times, divisor = (unsigned __int128)scale * over;
    if (product % divisor != 0 || product / divisor > UINT64_MAX)
        return false;
    *out = (uint64_t)(product / divisor);
    return true;
}

enum mp_status mp_yaml_quantity(const struct mp_yaml_doc *d, const struct mp_yaml *n, const char *unit, uint64_t min,
                                uint64_t max, uint64_t *out, struct mp_error *err) {
    enum mp_status status = mp_yaml_expect(d, n, MP_YAML_SCALAR, err);
    if (status != MP_OK)
        return status;
    char text[200];
    uint64_t v;
    if (n->is_quoted || !parse_quantity(n->text, n->length, unit, &v))
        return mp_yaml_fail(d, n, err, "\"%s\" is not a whole number of %s (write for instance %s, without quotes)",
                            quoted(n, text, sizeof text), unit, example_of(unit));
    if (v < min || v > max)
        return mp_yaml_fail(d, n, err, "\"%s\" is %llu %s, outside [%llu, %llu] (write for instance %s)",
                            quoted(n, text, sizeof text), (unsigned long long)v, unit, (unsigned long long)min,
                            (unsigned long long)max, example_of(unit));
    *out = v;
    return MP_OK;
}

enum mp_status mp_yaml_figure(const struct mp_yaml_doc *d, const struct mp_yaml *n, const char *unit, uint64_t min,
                              uint64_t max, uint64_t *out, struct mp_error *err) {
    static const char *const keys[] = {"value", "source", NULL};
    enum mp_status status;
    const struct mp_yaml *value = n;
    if (n->kind == MP_YAML_MAPPING) {
        const struct mp_yaml *source = mp_yaml_get(n, "source");
        MP_TRY(mp_yaml_keys(d, n, keys, err));
        MP_TRY(mp_yaml_need(d, n, "value", &value, err));
        if (source != NULL)
            MP_TRY(mp_yaml_expect(d, source, MP_YAML_SCALAR, err));
    }
    MP_TRY(unit != NULL ? mp_yaml_quantity(d, value, unit, min, max, out, err)
                        : mp_yaml_u64(d, value, min, max, out, err));
out:
    return status;
}

enum mp_status mp_yaml_schema(const struct mp_yaml_doc *d, const char *schema, struct mp_error *err) {
    enum mp_status status = mp_yaml_expect(d, d->root, MP_YAML_MAPPING, err);
    if (status != MP_OK)
        return status;
    char text[200];
    const struct mp_yaml *root = d->root, *first = root->n > 0 ? &root->items[0] : NULL,
                         *second = root->n > 1 ? &root->items[1] : NULL;
    if (first == NULL || strcmp(first->key, "schema") != 0 || first->kind != MP_YAML_SCALAR)
        return mp_fail_at(err, MP_EINPUT, d->path, root->line, root->column,
                          "the first key is not \"schema\" (write \"schema: %s\" first)", schema);
    if (strcmp(first->text, schema) != 0)
        return mp_yaml_fail(d, first, err, "\"%s\" is not %s (give a file of that kind)",
                            quoted(first, text, sizeof text), schema);
    if (second == NULL || strcmp(second->key, "version") != 0 || second->kind != MP_YAML_SCALAR)
        return mp_fail_at(err, MP_EINPUT, d->path, root->line, root->column,
                          "the second key is not \"version\" (write \"version: 1\" after schema)");
    if (second->is_quoted || strcmp(second->text, "1") != 0)
        return mp_yaml_fail(d, second, err,
                            "\"%s\" is not a version this moeplan reads (write 1, or use a newer moeplan)",
                            quoted(second, text, sizeof text));
    return MP_OK;
}

/* ---- out ---- */

static bool is_plain(const char *s, size_t n) {
    static const char *const words[] = {"true", "false", "yes",  "no",  "on",  "off",
                                        "y",    "n",     "null", "nan", "inf", NULL};
    if (n == 0 || s[n - 1] == ' ' || !((s[0] >= 'a' && s[0] <= 'z') || (s[0] >= 'A' && s[0] <= 'Z')))
        return false;
    for (size_t i = 0; i < n; i++) {
        char c = s[i];
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
              strchr(" _./()+-", c) != NULL))
            return false;
    }
    for (size_t w = 0; words[w] != NULL; w++)
        if (strcasecmp(words[w], s) == 0)
            return false;
    return true;
}

void mp_yaml_write_string(struct mp_out *o, const char *s) {
    size_t n = strlen(s);
    if (is_plain(s, n)) {
        mp_out_write(o, s, n);
        return;
    }
    mp_out_puts(o, "\"");
    for (size_t i = 0; i < n;) {
        unsigned char c = (unsigned char)s[i];
        if (c == '"' || c == '\\') {
            mp_out_printf(o, "\\%c", c);
            i++;
        } else if (c >= 0x20 && c < 0x7f) {
            mp_out_write(o, s + i, 1);
            i++;
        } else {
            size_t length = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : 2;
            if (c < 0x80 || n - i < length || !mp_is_text(s + i, length)) {
                mp_out_printf(o, "\\x%02X",
                              c); /* a control character; a byte that is no UTF-8 comes back as that code */
                i++;
                continue;
            }
            uint32_t code = c & (0x7fu >> length); /* valid UTF-8, as an escape: the files stay ASCII */
            for (size_t k = 1; k < length; k++)
                code = code << 6 | ((unsigned char)s[i + k] & 0x3f);
            mp_out_printf(o, code > 0xffff ? "\\U%08X" : "\\u%04X", code);
            i += length;
        }
    }
    mp_out_puts(o, "\"");
}
