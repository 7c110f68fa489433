/* Serving stacks: placements out to the files their servers load, and back in. One file src/stack/stack_<name>.c each.
 */
#ifndef MOEPLAN_STACK_H
#define MOEPLAN_STACK_H

#include <moeplan/model.h>
#include <moeplan/plan.h>

MP_API_BEGIN

struct mp_stack_options {
    const struct mp_model *model; /* for dense layers and MTP rows; may be NULL where the format has no use for it */
    uint32_t n_hidden_layers;     /* rows of formats that want one per hidden layer; 0 = the model's */
    int layer_base;               /* reading formats without absolute ids: layer id of the first row; -1 = 0 */
    uint32_t n_gpus, n_nodes;     /* reading formats that do not say; 0 = unknown: MP_EUSAGE names the option */
    uint32_t n_experts;           /* reading; 0 = largest id + 1 */
    uint32_t n_mtp_layers;        /* extra rows after the last hidden layer, placed like the last MoE layer */
};
/* One way in which a stack's servers choose among the replicas of an expert (docs/STACKS.md part Replica choice). */
struct mp_stack_choice {
    const char *name;         /* theirs, where they have one: "static", "dynamic", ... */
    const char *summary;      /* what they do */
    const char *stands;       /* what is scored in its place where they draw at random; NULL = just that, bit for bit */
    const char *refused;      /* why it cannot be scored; NULL = it can */
    enum mp_route_rule route; /* the rule of a plan that comes nearest */
    enum mp_choice_kind kind;
    /* kind TABLE: fills table[n_layers][n_experts][n_gpus]. */
    enum mp_status (*table)(uint32_t *table, const struct mp_plan *p, const struct mp_stack_options *o,
                            struct mp_error *err);
};
struct mp_stack {
    const char *name, *summary, *extension, *reference;
    bool needs_equal_slots, needs_distinct; /* what the planner must keep for --for NAME */
    uint32_t routes;                        /* 1 << enum mp_route_rule of each rule its servers follow */
    const struct mp_stack_choice *choices;  /* the first is what they do unasked; ends with name NULL */
    bool needs_extension;                   /* its servers know the file by the end of its name only */
    int (*probe)(const char *path, const struct mp_in *in); /* 0 = no, larger = surer */
    enum mp_status (*read)(struct mp_plan **out, const struct mp_in *in, const struct mp_stack_options *o,
                           const struct mp_limits *limits, struct mp_error *err);
    /* Every rule of the stack, before anything is written. NOT_FOUND: err->message says which rule and what to change.
     */
    enum mp_status (*check)(const struct mp_plan *p, const struct mp_stack_options *o, enum mp_outcome *outcome,
                            struct mp_error *err);
    void (*write)(const struct mp_plan *p, const struct mp_stack_options *o, struct mp_out *out);
    /* The exact server flags for this file, one per line, and warnings the user must know. */
    void (*flags)(const struct mp_plan *p, const struct mp_stack_options *o, const char *path, struct mp_out *out);
};
const struct mp_stack *mp_stack_at(uint32_t i);
const struct mp_stack *mp_stack_find(const char *name);
/* The stack's choice of this name; NULL: the first whose rule is the plan's, else the first. NULL when there is none of
 * that name. */
const struct mp_stack_choice *mp_stack_choice_find(const struct mp_stack *s, const char *name, const struct mp_plan *p);
/* Do its servers know a file of this name for what it is? */
bool mp_stack_name_fits(const struct mp_stack *s, const char *path);
/* Reads a placement of any stack (or our own plan file): has_workload is false, route even. */
enum mp_status mp_stack_load(struct mp_plan **out, const char *path, const char *format,
                             const struct mp_stack_options *o, const struct mp_limits *limits,
                             struct mp_error *err) MP_MUST_CHECK;

MP_API_END

#endif
