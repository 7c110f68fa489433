/* Bytes as XML: refused with a place, or a tree in which children know their parents and places are in the text. */
#include <moeplan/xml.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool what) {
    if (!what)
        abort();
}

static uint32_t walk(const struct mp_xml *e, const struct mp_xml *parent, const uint8_t *data, size_t size) {
    uint32_t n = 1;
    size_t n_lines = 1;
    for (size_t i = 0; i < size; i++)
        n_lines += data[i] == '\n' || data[i] == '\r';
    require(e->parent == parent && e->name[0] != '\0' && e->line >= 1 && e->line <= n_lines && e->column >= 1);
    for (uint32_t i = 0; i < e->n_attributes; i++) {
        const struct mp_xml_attribute *a = &e->attributes[i];
        require(a->name[0] != '\0' && mp_xml_attribute(e, a->name) == a && mp_xml_get(e, a->name) == a->value);
        require(a->line >= e->line && a->line <= n_lines && a->column >= 1);
    }
    for (const struct mp_xml *c = e->first; c != NULL; c = c->next)
        n += walk(c, e, data, size);
    return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct mp_error err = {0};
    struct mp_xml_doc *d;
    enum mp_status status = mp_xml_parse_text(&d, "fuzz", (const char *)data, size, &err);
    require(status == MP_OK ||
            ((status == MP_EINPUT || status == MP_ELIMIT) && err.line > 0 && err.message[0] != '\0'));
    require((status == MP_OK) == (d != NULL));
    if (d != NULL)
        require(walk(d->root, NULL, data, size) == d->n_elements);
    mp_xml_free(d);
    require(mp_alloc_live() == 0);
    return 0;
}
