/* What the writer and the reader of plan files share: the fixed words. */
#ifndef PLAN_TEXT_H
#define PLAN_TEXT_H

#include <moeplan/plan.h>

#define PLAN_MAX_SLOTS (UINT32_C(1) << 20)
#define PLAN_FIRST_LINES "schema: moeplan.plan\nversion: 1\n"
#define PLAN_CHECKSUM_KEY "checksum: \""
#define PLAN_CHECKSUM_BYTES (sizeof PLAN_CHECKSUM_KEY - 1 + 64 + 2) /* with the closing quote and the newline */

/* Each in the order of its enum, ended by NULL. */
extern const char *const plan_split_names[], *const plan_phase_names[], *const plan_certificate_names[],
                                                                            *const plan_proof_names[],
                                                                                *const plan_stop_names[],
                                                                                    *const plan_source_names[],
                                                                                        *const plan_combine_names[],
                                                                                            *const plan_role_names[];

#endif
