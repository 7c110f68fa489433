/* The rules that a server needs kept, checked before anything is written; and what the writers share. */
#include "stack_shared.h"

#include <stdio.h>

enum mp_status mp_stack_refuse(enum mp_outcome *outcome, struct mp_error *err, const char *fmt, ...) {
    char message[700];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(message, sizeof message, fmt, args);
    va_end(args);
    *outcome = MP_NOT_FOUND;
    if (err != NULL) {
        mp_error_clear(err);
        (void)snprintf(err->message, sizeof err->message, "%s", message);
    }
    return MP_OK;
}

/* Counts the slots of a layer that hold an expert which an earlier slot of their GPU holds; the first is reported. */
static uint64_t duplicates_of(const struct mp_plan *p, uint32_t l, uint32_t *first_gpu, uint32_t *first_expert) {
    uint16_t stamp[MP_MAX_EXPERTS] = {0}; /* last GPU that held the expert, + 1 */
    const uint16_t *slots = p->layers[l].slot_expert;
    uint64_t n = 0;
    _Static_assert(MP_MAX_GPUS < UINT16_MAX, "a GPU fits a stamp");
    for (uint32_t g = 0; g < p->n_gpus; g++)
        for (uint32_t s = p->gpu_first_slot[g]; s < p->gpu_first_slot[g + 1]; s++) {
            if (slots[s] >= MP_MAX_EXPERTS) /* empty */
                continue;
            if (stamp[slots[s]] == g + 1 && n++ == 0) {
                *first_gpu = g;
                *first_expert = slots[s];
            }
            stamp[slots[s]] = (uint16_t)(g + 1);
        }
    return n;
}

uint64_t mp_stack_duplicates(const struct mp_plan *p) {
    uint64_t n = 0;
    uint32_t gpu, expert;
    for (uint32_t l = 0; l < p->n_layers; l++)
        n += duplicates_of(p, l, &gpu, &expert);
    return n;
}

bool mp_stack_has_mtp(const struct mp_model *m) {
    static const char *const families[] = {"deepseek-v3", "deepseek-r1", "qwen3-next", "glm-4.5", "kimi-k2"};
    for (size_t i = 0; m != NULL && m->name != NULL && i < sizeof families / sizeof *families; i++)
        if (strncmp(m->name, families[i], strlen(families[i])) == 0)
            return true;
    return false;
}

/* Slots of one layer: how many are used, and the first duplicate. */
struct layer_use {
    uint32_t n_used, missing; /* missing: lowest expert without a slot, or MP_NONE */
    uint32_t duplicate_gpu, duplicate_expert;
};

static struct layer_use use_of(const struct mp_plan *p, uint32_t l, bool *seen) {
    const uint16_t *slots = p->layers[l].slot_expert;
    struct layer_use u = {0, MP_NONE, MP_NONE, MP_NONE};
    memset(seen, 0, p->n_experts * sizeof *seen);
    (void)duplicates_of(p, l, &u.duplicate_gpu, &u.duplicate_expert);
    for (uint32_t g = 0; g < p->n_gpus; g++)
        for (uint32_t s = p->gpu_first_slot[g]; s < p->gpu_first_slot[g + 1]; s++) {
            if (slots[s] == MP_NO_EXPERT)
                continue;
            u.n_used++;
            if (slots[s] < p->n_experts)
                seen[slots[s]] = true;
        }
    for (uint32_t e = p->n_experts; e-- > 0;)
        if (!seen[e])
            u.missing = e;
    return u;
}

/* Same layers and experts as the model that is going to be served. */
static enum mp_status check_model(const struct mp_plan *p, const struct mp_model *m, const char *stack,
                                  enum mp_outcome *outcome, struct mp_error *err) {
    if (m->n_experts != p->n_experts)
        return mp_stack_refuse(outcome, err,
                               "the plan has %u experts, %s has %u (plan on a trace of this model, or give its own -m)",
                               p->n_experts, m->name, m->n_experts);
    for (uint32_t l = 0, k = 0; k < m->n_layers; k++) {
        if (l < p->n_layers && p->layers[l].layer_id == m->layer_ids[k]) {
            l++;
            continue;
        }
        if (l < p->n_layers && p->layers[l].layer_id < m->layer_ids[k])
            break;
        return mp_stack_refuse(
            outcome, err,
            "layer %u of %s is not in the plan, and %s needs all %u MoE layers (record every layer and plan again)",
            m->layer_ids[k], m->name, stack, m->n_layers);
    }
    for (uint32_t l = 0; l < p->n_layers; l++) {
        uint32_t k = 0;
        while (k < m->n_layers && m->layer_ids[k] != p->layers[l].layer_id)
            k++;
        if (k == m->n_layers)
            return mp_stack_refuse(
                outcome, err,
                "layer %u of the plan is not a MoE layer of %s (give --layer-base when reading the trace)",
                p->layers[l].layer_id, m->name);
    }
    return MP_OK;
}

/* Formats leave out what they do not list: by position a missing layer moves all later ones, by key the server stops
 * at it. Without the model only a gap between the layers shows that some are missing. */
static enum mp_status check_gaps(const struct mp_plan *p, const char *stack, uint32_t n_hidden,
                                 enum mp_outcome *outcome, struct mp_error *err) {
    char list[96] = "";
    size_t used = 0;
    uint32_t last = p->layers[p->n_layers - 1].layer_id;
    for (uint32_t l = 0; l < p->n_layers && l < 8; l++)
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%u", l == 0 ? "" : ", ", p->layers[l].layer_id);
    if (last - p->layers[0].layer_id == p->n_layers - 1 && last + 1 < n_hidden)
        return mp_stack_refuse(outcome, err,
                               "the plan ends with layer %u and the model with layer %u, and %s needs every MoE layer "
                               "(give -m MODEL, which says which layers those are)",
                               last, n_hidden - 1, stack);
    if (last - p->layers[0].layer_id == p->n_layers - 1)
        return MP_OK;
    return mp_stack_refuse(outcome, err,
                           "layers %s%s are not consecutive, and %s needs every MoE layer (give -m MODEL, which says "
                           "which layers those are)",
                           list, p->n_layers > 8 ? ", ..." : "", stack);
}

enum mp_status mp_stack_check_rules(const struct mp_plan *p, const struct mp_stack_options *o,
                                    const struct mp_stack_rules *rules, enum mp_outcome *outcome,
                                    struct mp_error *err) {
    enum mp_status status = MP_OK;
    *outcome = MP_FOUND;
    uint32_t per_gpu = p->gpu_first_slot[1];
    for (uint32_t g = 1; g < p->n_gpus; g++) {
        uint32_t n = p->gpu_first_slot[g + 1] - p->gpu_first_slot[g];
        if (n != per_gpu)
            return mp_stack_refuse(
                outcome, err,
                "GPU %u has %u slots and GPU 0 has %u, but %s needs the same number on every GPU (plan again with "
                "--for %s or --slots-per-gpu %u)",
                g, n, per_gpu, rules->stack, rules->stack, n > per_gpu ? n : per_gpu);
    }
    if (o->n_mtp_layers > 0 && !rules->has_mtp_rows)
        return mp_stack_refuse(outcome, err, "%s has no place for MTP layers in its file (leave out --mtp-layers)",
                               rules->stack);
    if (o->model != NULL)
        status = check_model(p, o->model, rules->stack, outcome, err);
    if (status == MP_OK && *outcome == MP_FOUND && (o->model == NULL || o->model->is_stand_in))
        status = check_gaps(p, rules->stack, o->n_hidden_layers, outcome, err);
    if (status != MP_OK || *outcome != MP_FOUND)
        return status;
    bool *seen = mp_calloc(p->n_experts, sizeof *seen);
    if (seen == NULL)
        return mp_nomem(err, "rule check");
    for (uint32_t l = 0; l < p->n_layers && *outcome == MP_FOUND; l++) {
        struct layer_use u = use_of(p, l, seen);
        uint32_t id = p->layers[l].layer_id, n_empty = p->n_slots - u.n_used;
        if (u.missing != MP_NONE)
            status = mp_stack_refuse(
                outcome, err, "layer %u: expert %u has no slot, and %s would send its tokens nowhere (plan again)", id,
                u.missing, rules->stack);
        else if (n_empty > 0 && !rules->allows_empty)
            status = mp_stack_refuse(
                outcome, err,
                "layer %u leaves %u of its %u slots empty, and %s has no empty slots (plan again with --redundant %u "
                "and --for %s, which fills them)",
                id, n_empty, p->n_slots, rules->stack, p->n_slots - p->n_experts, rules->stack);
        else if (u.duplicate_gpu != MP_NONE && rules->needs_distinct)
            status = mp_stack_refuse(
                outcome, err,
                "layer %u: GPU %u holds expert %u twice, and %s keeps one replica of an expert per GPU (plan again "
                "with --for %s)",
                id, u.duplicate_gpu, u.duplicate_expert, rules->stack, rules->stack);
    }
    mp_free(seen);
    return status;
}

void mp_stack_write_list(struct mp_out *out, const uint16_t *experts, uint32_t n) {
    for (uint32_t s = 0; s < n; s++)
        mp_out_printf(out, "%s%u", s == 0 ? "" : ", ", experts[s]);
}

void mp_stack_write_shell(struct mp_out *out, const char *s) {
    static const char safe[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=./:,@%";
    if (*s != '\0' && strspn(s, safe) == strlen(s)) {
        mp_out_puts(out, s);
        return;
    }
    mp_out_puts(out, "'");
    for (; *s != '\0'; s++)
        if (*s == '\'')
            mp_out_puts(out, "'\\''");
        else
            mp_out_write(out, s, 1);
    mp_out_puts(out, "'");
}

void mp_stack_write_json_option(struct mp_out *out, const char *before, const char *path, const char *after) {
    mp_out_printf(out, "'%s\"", before);
    for (const char *s = path; *s != '\0'; s++)
        if (*s == '"' || *s == '\\')
            mp_out_printf(out, "\\%c", *s);
        else if (*s == '\'')
            mp_out_puts(out, "'\\''");
        else if ((unsigned char)*s < 0x20)
            mp_out_printf(out, "\\u%04x", (unsigned)(unsigned char)*s);
        else
            mp_out_write(out, s, 1);
    mp_out_printf(out, "\"%s'", after);
}

uint32_t mp_stack_hidden_layers(const struct mp_stack_options *o) {
    return o->n_hidden_layers != 0 ? o->n_hidden_layers : o->model != NULL ? o->model->n_hidden_layers : 0;
}

void mp_stack_write_route(struct mp_out *out, const struct mp_plan *p, const struct mp_stack *stack,
                          const char *instead) {
    if ((stack->routes >> p->route & 1) == 0)
        mp_out_printf(out, "# warning: %s, the plan's %s routing is lost\n", instead, mp_route_rule_name(p->route));
}

void mp_stack_write_warnings(struct mp_out *out, const struct mp_plan *p, const char *duplicates) {
    uint64_t n = duplicates == NULL ? 0 : mp_stack_duplicates(p);
    if (n > 0)
        mp_out_printf(
            out,
            "# warning: %llu slots hold an expert that their GPU holds already: %s (--for vllm-ascend plans without)\n",
            (unsigned long long)n, duplicates);
    if (p->n_orders > 0)
        mp_out_puts(out, "# the order of transfers stays in the plan file: this format holds the placement only\n");
}

bool mp_stack_head_has(const struct mp_in *in, char first, const char *word) {
    size_t head = in->size < 65536 ? in->size : 65536, i = 0;
    while (i < head && (in->data[i] == ' ' || in->data[i] == '\n' || in->data[i] == '\r' || in->data[i] == '\t'))
        i++;
    return i < head && (first == '\0' || in->data[i] == (uint8_t)first) &&
           memmem(in->data, head, word, strlen(word)) != NULL;
}
