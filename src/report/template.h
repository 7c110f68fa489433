/* page.html, page.css and page.js, embedded (tools/dev/embed.py); found by name. */
#ifndef REPORT_TEMPLATE_H
#define REPORT_TEMPLATE_H

#include <moeplan/embedded.h>

extern const struct mp_embedded report_page[];

#endif
