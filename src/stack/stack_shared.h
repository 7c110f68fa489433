/* What the stacks share: from slots read to a plan, the rules of FORMATS.md 2.7, small writers. Private to this folder.
 */
#ifndef MP_STACK_SHARED_H
#define MP_STACK_SHARED_H

#include <moeplan/alloc.h>
#include <moeplan/json.h>
#include <moeplan/stack.h>
#include <string.h>

/* Slots of a layer at most, so that sizes stay sane before anything is allocated. */
#define STACK_MAX_SLOTS 65536u
#define STACK_MAX_CELLS (UINT64_C(1) << 26)

/* A placement as a file gives it, before it becomes a plan. All tables are owned (mp_calloc). */
struct mp_placement {
    const char *path; /* borrowed */
    uint32_t n_layers, n_slots, n_gpus;
    uint32_t n_experts;      /* 0 = the file does not say */
    uint32_t *layer_ids;     /* [n_layers], ascending */
    uint16_t *slot_expert;   /* [n_layers][n_slots], MP_NO_EXPERT = empty */
    uint32_t *slots_per_gpu; /* NULL = equal; else [n_gpus] */
    /* Where a layer's list stands, for messages: [n_layers], 0 = unknown; or, found only when needed, row l (or row
     * layer_ids[l]) of the list json_rows of the JSON text `json`. */
    uint64_t *lines, *columns;
    const struct mp_in *json;
    const char *json_rows;
    bool json_by_layer_id;
};
/* Allocates the tables for n_layers * n_slots; layer ids 0, 1, ... MP_ELIMIT past our limits. */
enum mp_status mp_placement_new(struct mp_placement *p, const char *path, uint64_t n_layers, uint64_t n_slots,
                                struct mp_error *err) MP_MUST_CHECK;
void mp_placement_free(struct mp_placement *p);
/* One plan of it: ids in range, every expert at least once in each layer, slots divisible by GPUs; n_gpus of the file
 * or of the options (MP_EUSAGE when neither says). has_workload false, route even. */
enum mp_status mp_placement_plan(struct mp_plan **out, const struct mp_placement *p, const struct mp_stack_options *o,
                                 const char *stack, struct mp_error *err) MP_MUST_CHECK;
/* Layer ids of formats that count MoE layers only: the model's, else the layer base and on. MP_EINPUT when the model
 * has another number. */
enum mp_status mp_placement_moe_layers(struct mp_placement *p, const struct mp_stack_options *o,
                                       struct mp_error *err) MP_MUST_CHECK;
/* Reads a JSON list of expert ids into row `layer`; `where` names the list in messages, `steps` is its place for
 * mp_json_position. */
enum mp_status mp_placement_row(struct mp_placement *p, uint32_t layer, const json_t *list, const struct mp_in *in,
                                const char *where, const char *steps, struct mp_error *err) MP_MUST_CHECK;

/* Every stack_<name>.c names its five functions so. */
#define STACK_FUNCTIONS .probe = probe, .read = read, .check = check, .write = write, .flags = flags

/* SGLang's static dispatch as its servers draw it (sglang_static.c), and as those of 2025 did. */
enum mp_status mp_sglang_static(uint32_t *table, const struct mp_plan *p, const struct mp_stack_options *o,
                                struct mp_error *err) MP_MUST_CHECK;
enum mp_status mp_sglang_static_first(uint32_t *table, const struct mp_plan *p, const struct mp_stack_options *o,
                                      struct mp_error *err) MP_MUST_CHECK;

/* What a stack cannot do without. */
struct mp_stack_rules {
    const char *stack;         /* name, for messages */
    bool allows_empty;         /* slots without an expert */
    bool needs_distinct;       /* at most one replica of an expert per GPU */
    bool allows_uneven_layers; /* other numbers of used slots from layer to layer */
    bool has_mtp_rows;         /* the file has a place for MTP layers */
};
/* NOT_FOUND with the message when a rule is broken. */
enum mp_status mp_stack_check_rules(const struct mp_plan *p, const struct mp_stack_options *o,
                                    const struct mp_stack_rules *rules, enum mp_outcome *outcome,
                                    struct mp_error *err) MP_MUST_CHECK;
enum mp_status mp_stack_refuse(enum mp_outcome *outcome, struct mp_error *err, const char *fmt, ...) MP_PRINTF(3, 4);
/* Slots that hold an expert which an earlier slot of the same GPU holds too, over all layers. */
uint64_t mp_stack_duplicates(const struct mp_plan *p);
/* Does a model of this name bring MTP (multi-token prediction) layers with experts? */
bool mp_stack_has_mtp(const struct mp_model *m);
/* Prints "5, 6, 5" for the n experts. */
void mp_stack_write_list(struct mp_out *out, const uint16_t *experts, uint32_t n);
/* Prints s with what a shell must not see quoted: plain, or 'single-quoted'. */
void mp_stack_write_shell(struct mp_out *out, const char *s);
/* Prints 'before"path"after' for a shell: before and after are JSON without single quotes, path is escaped for both. */
void mp_stack_write_json_option(struct mp_out *out, const char *before, const char *path, const char *after);
/* Hidden layers of the model that is going to be served; 0 = nobody says. */
uint32_t mp_stack_hidden_layers(const struct mp_stack_options *o);
/* The warning for a routing rule that is none of the stack's; `instead` says what its servers do. */
void mp_stack_write_route(struct mp_out *out, const struct mp_plan *p, const struct mp_stack *stack,
                          const char *instead);
/* Warnings every stack shares: duplicates (`duplicates` NULL = not a matter here), transfer orders. */
void mp_stack_write_warnings(struct mp_out *out, const struct mp_plan *p, const char *duplicates);

/* MP_EINPUT at a place of the input, steps as for mp_json_position. */
enum mp_status mp_json_bad(const struct mp_in *in, const char *steps, struct mp_error *err, const char *fmt, ...)
    MP_PRINTF(4, 5);
/* Does the text start (after blanks) with `first` and hold `word` in its first 64 KiB? */
bool mp_stack_head_has(const struct mp_in *in, char first, const char *word);
/* Every key of the object is one of `keys` (NULL-terminated), and the first n_needed of them are there. */
enum mp_status mp_json_keys(const json_t *object, const char *const *keys, uint32_t n_needed, const struct mp_in *in,
                            const char *steps, struct mp_error *err) MP_MUST_CHECK;

#endif
