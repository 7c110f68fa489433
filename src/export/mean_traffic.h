/* Shared by the exporters of traffic. */
#ifndef MEAN_TRAFFIC_H
#define MEAN_TRAFFIC_H

#include <moeplan/export.h>

enum { TRAFFIC_DISPATCH, TRAFFIC_COMBINE, TRAFFIC_DISPATCH_INSIDE, TRAFFIC_COMBINE_INSIDE, TRAFFIC_PARTS };
extern const char *const export_traffic_names[TRAFFIC_PARTS];
/* 2, or 4 where the dispatcher sends once per node and then inside it. */
uint32_t export_traffic_parts(const struct mp_export *in);
/* Adds to cells[part][n_gpus][n_gpus], which are 0, the bytes of the export's step, or their mean over all steps
 * rounded half up; a part that is NULL is left out. */
enum mp_status export_mean_traffic(uint64_t *cells[TRAFFIC_PARTS], const struct mp_export *in, uint32_t layer,
                                   struct mp_error *err) MP_MUST_CHECK;

#endif
