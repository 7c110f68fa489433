/* Shared by the exporters of timelines. */
#ifndef TIMELINE_NAMES_H
#define TIMELINE_NAMES_H

#include <moeplan/export.h>

/* What a GPU, or the step, does then, for people: "attention of dense layers". */
const char *export_kind_name(enum mp_timeline_kind kind);

#endif
