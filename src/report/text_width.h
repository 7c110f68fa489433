/* Steps through UTF-8 text. */
#ifndef REPORT_TEXT_WIDTH_H
#define REPORT_TEXT_WIDTH_H

#include <stddef.h>

/* Columns that the character at *s takes on a terminal; *s moves behind it. Bytes that are no UTF-8 take one each. */
size_t mp_text_next(const char **s);

#endif
