/* What the writer and the reader of plan files share: the fixed words. */
#ifndef PLAN_TEXT_H
#define PLAN_TEXT_H

#include <moeplan/plan.h>
#include <moeplan/yaml.h>

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

extern const char *const plan_route_names[], *const plan_route_by_names[];

/* The section weights_by_source of a layer, its slots known (plan_weights.c). */
enum mp_status plan_read_weights_by_source(const struct mp_yaml_doc *doc, const struct mp_yaml *map,
                                           const struct mp_plan *p, struct mp_plan_layer *layer,
                                           struct mp_error *err) MP_MUST_CHECK;
void plan_write_weights_by_source(struct mp_out *o, const struct mp_plan *p, const struct mp_plan_layer *layer);

/* One of `words`; *out its index (plan_read.c). */
enum mp_status plan_read_word(const struct mp_yaml_doc *doc, const struct mp_yaml *map, const char *key,
                              const char *const *words, unsigned *out, struct mp_error *err) MP_MUST_CHECK;
/* "KEY" and the text in double quotes, a line (plan_write.c). */
void plan_put_string(struct mp_out *o, const char *key, const char *s);

/* The section training, all before it known (plan_training.c). */
enum mp_status plan_read_training(const struct mp_yaml_doc *doc, const struct mp_yaml *map, struct mp_plan *p,
                                  struct mp_error *err) MP_MUST_CHECK;
void plan_write_training(struct mp_out *o, const struct mp_plan *p);
enum mp_status plan_check_training(const struct mp_plan *p, struct mp_error *err) MP_MUST_CHECK;
/* The section `homes` (plan_homes.c); read into p, whose shape is known. */
void plan_write_homes(struct mp_out *o, const struct mp_plan *p);
enum mp_status plan_read_homes(const struct mp_yaml_doc *doc, const struct mp_yaml *map, struct mp_plan *p,
                               struct mp_error *err) MP_MUST_CHECK;
enum mp_status plan_check_homes(const struct mp_plan *p, struct mp_error *err) MP_MUST_CHECK;
/* The section `condense` (plan_condense.c); likewise. */
void plan_write_condense(struct mp_out *o, const struct mp_plan *p);
enum mp_status plan_read_condense(const struct mp_yaml_doc *doc, const struct mp_yaml *map, struct mp_plan *p,
                                  struct mp_error *err) MP_MUST_CHECK;
enum mp_status plan_check_condense(const struct mp_plan *p, struct mp_error *err) MP_MUST_CHECK;

#endif
