/* What is said of training steps: in the text and the JSON of mp_exec_write_text and mp_exec_write_json. */
#ifndef EXECUTOR_REPORT_TRAIN_H
#define EXECUTOR_REPORT_TRAIN_H

#include <moeplan/executor.h>

void ex_report_training(const struct mp_exec_result *r, const struct mp_exec *in, const struct mp_style *style,
                        struct mp_out *o);
json_t *ex_report_training_json(const struct mp_exec_result *r, const struct mp_exec *in); /* NULL = out of memory */

#endif
