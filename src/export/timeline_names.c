/* The parts of a step as exports name them. */
#include "timeline_names.h"

const char *export_kind_name(enum mp_timeline_kind kind) {
    static const char *const names[] = {
        [MP_TIME_ATTENTION] = "attention",    [MP_TIME_DENSE] = "attention of dense layers",
        [MP_TIME_DISPATCH] = "dispatch",      [MP_TIME_SHARED] = "shared experts",
        [MP_TIME_EXPERTS] = "experts",        [MP_TIME_COMBINE] = "combine",
        [MP_TIME_OTHER] = "rest of the model"};
    return names[kind];
}
