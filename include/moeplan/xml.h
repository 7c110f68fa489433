/* XML in: expat behind our own limits (bytes, depth, elements, attributes; no DTD, no entities but the five of XML), as
 * a tree of elements that know their position, and so do their attributes. */
#ifndef MOEPLAN_XML_H
#define MOEPLAN_XML_H

#include <moeplan/io.h>

MP_API_BEGIN

/* Files of topologies are some 100 kB; the largest machines' some MB. */
#define MP_XML_MAX_BYTES (4u << 20)
#define MP_XML_MAX_DEPTH 128u
#define MP_XML_MAX_ELEMENTS 100000u
#define MP_XML_MAX_ATTRIBUTES 300000u /* of all elements */
#define MP_XML_MAX_OF_ELEMENT 1024u   /* attributes of one */
#define MP_XML_MAX_NAMES 1024u        /* different names of elements and attributes */

struct mp_xml_attribute {
    const char *name, *value; /* terminated, no NUL inside */
    uint32_t line, column;    /* 1-based; of the name, in characters */
};
struct mp_xml {
    const char *name;
    uint32_t line, column; /* of its "<" */
    uint32_t n_attributes;
    const struct mp_xml_attribute *attributes;
    const char *text;                           /* its characters before its first child; "" = none, or blanks only */
    const struct mp_xml *parent, *first, *next; /* parent NULL: the root; first child, next sibling or NULL */
};
struct mp_xml_doc {
    const char *path;
    const struct mp_xml *root;
    uint32_t n_elements;
    struct mp_arena *arena;
};
/* Parses the whole input, UTF-8, as one document. A DOCTYPE line is skipped (its file is never opened); one with
 * declarations inside is refused, as is every entity reference but &lt; &gt; &amp; &quot; &apos; and characters by
 * number. MP_EINPUT: not well-formed, or that; MP_ELIMIT: past a limit; both with line and column. Linear time; at most
 * some 40 MB for MP_XML_MAX_BYTES. The document does not refer to `in` afterwards. The caller frees it with
 * mp_xml_free. */
enum mp_status mp_xml_parse(struct mp_xml_doc **out, const struct mp_in *in, struct mp_error *err) MP_MUST_CHECK;
/* The same of `size` bytes at `text`; `path` is for messages. */
enum mp_status mp_xml_parse_text(struct mp_xml_doc **out, const char *path, const char *text, size_t size,
                                 struct mp_error *err) MP_MUST_CHECK;
void mp_xml_free(struct mp_xml_doc *d); /* NULL is fine */

/* The attribute, its value, or NULL. */
const struct mp_xml_attribute *mp_xml_attribute(const struct mp_xml *e, const char *name);
const char *mp_xml_get(const struct mp_xml *e, const char *name);
/* Reports at an element, or at its attribute: MP_EINPUT "name: message". */
enum mp_status mp_xml_fail(const struct mp_xml_doc *d, const struct mp_xml *e, struct mp_error *err, const char *fmt,
                           ...) MP_PRINTF(4, 5);
enum mp_status mp_xml_fail_at(const struct mp_xml_doc *d, const struct mp_xml_attribute *a, struct mp_error *err,
                              const char *fmt, ...) MP_PRINTF(4, 5);
/* The attribute must be there: else MP_EINPUT at the element that says so and `hint` ("write ..."). */
enum mp_status mp_xml_need(const struct mp_xml_doc *d, const struct mp_xml *e, const char *name, const char *hint,
                           const struct mp_xml_attribute **out, struct mp_error *err) MP_MUST_CHECK;
/* A whole number in [min, max] as the value of an attribute that is there. */
enum mp_status mp_xml_u64(const struct mp_xml_doc *d, const struct mp_xml_attribute *a, uint64_t min, uint64_t max,
                          uint64_t *out, struct mp_error *err) MP_MUST_CHECK;

MP_API_END

#endif
