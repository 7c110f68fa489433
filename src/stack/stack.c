/* The stacks' table, and reading a placement of whichever stack wrote it. */
#include "stack_shared.h"
#include "stack_registry.h"

#define DECLARE(name) extern const struct mp_stack mp_stack_##name;
MP_REGISTRY(DECLARE)
#undef DECLARE

#define ENTRY(name) &mp_stack_##name,
static const struct mp_stack *const table[] = {MP_REGISTRY(ENTRY)};
#undef ENTRY
#define N_STACKS (sizeof table / sizeof *table)

const struct mp_stack *mp_stack_at(uint32_t i) { return i < N_STACKS ? table[i] : NULL; }

/* "vllm-ascend" and "vllm_ascend" are the same stack. */
static bool same_name(const char *a, const char *b) {
    for (; *a != '\0' && *b != '\0'; a++, b++)
        if (*a != *b && !(*a == '-' && *b == '_') && !(*a == '_' && *b == '-'))
            return false;
    return *a == *b;
}

const struct mp_stack *mp_stack_find(const char *name) {
    for (size_t i = 0; name != NULL && i < N_STACKS; i++)
        if (same_name(table[i]->name, name))
            return table[i];
    return NULL;
}

const struct mp_stack_choice *mp_stack_choice_find(const struct mp_stack *s, const char *name,
                                                   const struct mp_plan *p) {
    for (const struct mp_stack_choice *c = s->choices; c->name != NULL; c++)
        if (name != NULL ? strcmp(c->name, name) == 0 : c->route == p->route && c->refused == NULL)
            return c;
    return name != NULL ? NULL : s->choices;
}

bool mp_stack_name_fits(const struct mp_stack *s, const char *path) {
    size_t n = strlen(path), k = strlen(s->extension);
    return !s->needs_extension || (n > k && strcmp(path + n - k, s->extension) == 0);
}

/* Our own plan file says so in its first line's key. */
static bool is_own_plan(const struct mp_in *in) {
    static const char word[] = "moeplan";
    size_t head = in->size < 256 ? in->size : 256;
    return head >= sizeof word && memmem(in->data, head, word, sizeof word - 1) != NULL &&
           !mp_stack_head_has(in, '{', "\"");
}

static void list_names(char *buf, size_t size) {
    size_t used = 0;
    buf[0] = '\0';
    for (size_t i = 0; i < N_STACKS && used < size; i++)
        used += (size_t)snprintf(buf + used, size - used, "%s, ", table[i]->name);
    if (used < size)
        (void)snprintf(buf + used, size - used, "plan");
}

enum mp_status mp_stack_load(struct mp_plan **out, const char *path, const char *format,
                             const struct mp_stack_options *o, const struct mp_limits *limits, struct mp_error *err) {
    static const struct mp_stack_options none = {.layer_base = -1};
    *out = NULL;
    if (o == NULL)
        o = &none;
    char names[256];
    list_names(names, sizeof names);
    bool is_plan = format != NULL && strcmp(format, "plan") == 0;
    const struct mp_stack *stack = mp_stack_find(format);
    if (format != NULL && !is_plan && stack == NULL)
        return mp_fail(err, MP_EUSAGE, "\"%s\" is not a placement format (use one of: %s)", format, names);
    struct mp_in *in = NULL;
    enum mp_status status = mp_in_open(&in, path, 0, err);
    if (status != MP_OK)
        return status;
    if (format == NULL) {
        int best = 0;
        for (size_t i = 0; i < N_STACKS; i++) {
            int sure = table[i]->probe(path, in);
            if (sure > best) {
                best = sure;
                stack = table[i];
            }
        }
        is_plan = stack == NULL && is_own_plan(in);
    }
    if (is_plan)
        status = mp_plan_parse(out, in, limits, err);
    else if (stack == NULL)
        status = mp_fail_at(err, MP_EINPUT, in->path, in->size == 0 ? 0 : 1, in->size == 0 ? 0 : 1,
                            "%s (the formats are %s)",
                            in->size == 0 ? "is empty" : "is not a placement of a known format", names);
    else
        status = stack->read(out, in, o, limits, err);
    mp_in_close(in);
    return status;
}
