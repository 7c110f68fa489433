/* One HTML file that needs no other: text and data made safe for it, numbers packed, the embedded template.
 * docs/REPORT.md. */
#ifndef MOEPLAN_PAGE_H
#define MOEPLAN_PAGE_H

#include <moeplan/json.h>

MP_API_BEGIN

/* Any bytes as text of an element or a quoted attribute: & < > " ' are escaped, what is no UTF-8 and control characters
 * become U+FFFD. */
void mp_html_text(struct mp_out *o, const char *s);
/* The same for sentences with figures: a number and its unit stay in one line (U+00A0), and us is written with its
 * Greek letter. */
void mp_html_figures(struct mp_out *o, const char *s);
/* Any bytes as a JSON string, what is no UTF-8 and control characters as U+FFFD; NULL when out of memory. s NULL: null.
 */
json_t *mp_json_text(const char *s);
/* The document in one line for inside <script>: < > & and the line ends U+2028, U+2029 as \uXXXX, so that no text in it
 * can end the element. value NULL (memory ran out while it was built) is recorded in o. */
void mp_json_write_in_script(const json_t *value, struct mp_out *o);

/* {type, shape, scale, base64}: docs/REPORT.md part 2. */
enum mp_packed_type { MP_PACK_U8, MP_PACK_U16, MP_PACK_U32 };
enum { MP_PACK_DIMENSIONS_MAX = 4 };
/* values: not negative, product of shape[n_dims] of them. NULL when out of memory. */
json_t *mp_json_packed(enum mp_packed_type type, const double *values, const uint32_t *shape, uint32_t n_dims);

/* What stands in the place of a line <!--NAME--> of the template. */
struct mp_page_part {
    const char *name; /* "VERDICT" */
    void (*write)(void *ctx, struct mp_out *o);
    void *ctx;
};
/* The template with its style and script, and the parts in their places. MP_EBUG: a placeholder is not there, or is
 * none of parts. */
enum mp_status mp_page_write(struct mp_out *o, const struct mp_page_part *parts, uint32_t n_parts,
                             struct mp_error *err) MP_MUST_CHECK;

MP_API_END
#endif
