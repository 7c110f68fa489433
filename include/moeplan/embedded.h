/* Text files inside the library (presets), made at build time by tools/dev/embed.py. */
#ifndef MOEPLAN_EMBEDDED_H
#define MOEPLAN_EMBEDDED_H

#include <moeplan/api.h>
#include <stddef.h>

MP_API_BEGIN

struct mp_embedded {
    const char *name, *summary; /* the file's stem and its summary: line; NULL ends a table */
    const char *text;
    size_t length;
};

MP_API_END

#endif
