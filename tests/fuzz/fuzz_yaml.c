/* Bytes as any YAML: refused with a place, or a tree whose nodes are in order; every scalar of it comes back from its
 * own text. */
#include <moeplan/yaml.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool what) {
    if (!what)
        abort();
}

static void check_scalar(const struct mp_yaml_doc *d, const struct mp_yaml *n) {
    static const char *const units[] = {"bytes", "bytes/s", "ns", "flops", "ppm"};
    uint64_t v;
    bool b;
    require(strlen(n->text) == n->length);
    require(mp_yaml_u64(d, n, 3, 1000, &v, NULL) != MP_OK || (v >= 3 && v <= 1000));
    for (size_t u = 0; u < sizeof units / sizeof units[0]; u++)
        require(mp_yaml_quantity(d, n, units[u], 3, 1000, &v, NULL) != MP_OK || (v >= 3 && v <= 1000));
    (void)!mp_yaml_bool(d, n, &b, NULL);
    struct mp_error err = {0};
    struct mp_out *o = NULL;
    struct mp_in *in = NULL;
    struct mp_yaml_doc *back = NULL;
    struct mp_limits large = mp_limits_default;
    large.yaml_scalar *= 16;
    require(mp_out_open_memory(&o, &err) == MP_OK);
    mp_out_puts(o, "k: ");
    mp_yaml_write_string(o, n->text);
    size_t size;
    const uint8_t *text = mp_out_memory_bytes(o, &size);
    require(mp_in_from_memory(&in, "again", text, size, &err) == MP_OK &&
            mp_yaml_parse(&back, in, &large, &err) == MP_OK);
    require(back->root->n == 1 && strcmp(back->root->items[0].text, n->text) == 0);
    mp_yaml_free(back);
    mp_in_close(in);
    mp_out_cancel(o);
}

static void walk(const struct mp_yaml_doc *d, const struct mp_yaml *n, unsigned depth, unsigned *n_scalars) {
    require(depth <= mp_limits_default.yaml_depth && n->line > 0 && n->column > 0);
    if (n->kind == MP_YAML_SCALAR && ++*n_scalars <= 50)
        check_scalar(d, n);
    for (uint32_t i = 0; i < n->n; i++) {
        require(n->kind != MP_YAML_MAPPING || mp_yaml_get(n, n->items[i].key) == &n->items[i]);
        walk(d, &n->items[i], depth + 1, n_scalars);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct mp_error err = {0};
    struct mp_in *in = NULL;
    struct mp_yaml_doc *d = NULL;
    unsigned n_scalars = 0;
    require(mp_in_from_memory(&in, "fuzz", data, size, &err) == MP_OK);
    enum mp_status status = mp_yaml_parse(&d, in, NULL, &err);
    mp_in_close(in);
    require(status == MP_OK ||
            ((status == MP_EINPUT || status == MP_ELIMIT) && err.line > 0 && err.message[0] != '\0'));
    require((status == MP_OK) == (d != NULL));
    if (d != NULL)
        walk(d, d->root, 0, &n_scalars);
    mp_yaml_free(d);
    require(mp_alloc_live() == 0);
    return 0;
}
