/* Topologies of other programs from a text in a test. */
#ifndef TEST_IMPORT_H
#define TEST_IMPORT_H

#include "support.h"
#include <moeplan/topology.h>

/* "before" + a file with this text + "after", as a spec; the file's path starts behind `before`. */
static inline const char *import_spec(const char *before, const char *text, size_t n, const char *after) {
    static char spec[1200];
    static uint32_t n_files;
    char file[32];
    snprintf(file, sizeof file, "import-%u.txt", n_files++ % 4);
    const char *path = temp_path(file);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
    snprintf(spec, sizeof spec, "%s%s%s", before, path, after);
    return spec;
}

static inline struct mp_topology *import_text(const char *before, const char *text, const char *after) {
    struct mp_error err = {0};
    struct mp_topology *t = NULL;
    CHECK_OK(mp_topology_load(&t, import_spec(before, text, strlen(text), after), NULL, &err), err);
    CHECK_OK(mp_topology_check(t, &err), err);
    return t;
}

/* The text is refused at line:column with a message that contains `what`. */
static inline void import_refused(const char *before, const char *text, const char *after, uint64_t line,
                                  uint64_t column, const char *what) {
    struct mp_error err = {0};
    struct mp_topology *t = NULL;
    enum mp_status status = mp_topology_load(&t, import_spec(before, text, strlen(text), after), NULL, &err);
    assert_true(status == MP_EINPUT || status == MP_ELIMIT);
    assert_null(t);
    if (strstr(err.message, what) == NULL || err.line != line || err.column != column)
        fail_msg("%llu:%llu: %s", (unsigned long long)err.line, (unsigned long long)err.column, err.message);
}

static inline uint64_t port_out(const struct mp_topology *t, uint32_t gpu, uint32_t level) {
    return t->resources[t->gpus[gpu].out_port[level]].bytes_per_s;
}

static inline uint64_t port_in(const struct mp_topology *t, uint32_t gpu, uint32_t level) {
    return t->resources[t->gpus[gpu].in_port[level]].bytes_per_s;
}

/* What mp_topology_write_as makes, in a buffer that the next call reuses; "" when it is refused with `refused`. */
static inline const char *written(const struct mp_topology *t, const char *format, const char *refused) {
    static char text[1 << 20];
    struct mp_error err = {0};
    struct mp_out *o = NULL;
    char lost[1000];
    size_t n;
    CHECK_OK(mp_out_open_memory(&o, &err), err);
    enum mp_status status = mp_topology_write_as(t, format, o, lost, sizeof lost, &err);
    text[0] = '\0';
    if (refused != NULL) {
        assert_int_equal(status, MP_EINPUT);
        if (strstr(err.message, refused) == NULL)
            fail_msg("%s", err.message);
    } else {
        CHECK_OK(status, err);
        const uint8_t *bytes = mp_out_memory_bytes(o, &n);
        assert_true(n < sizeof text);
        memcpy(text, bytes, n);
        text[n] = '\0';
    }
    mp_out_cancel(o);
    return text;
}

#endif
