/* Which requests are of which kind of traffic, for planning and for scoring. */
#include "kinds.h"
#include <stdio.h>
#include <string.h>

#define CATEGORIES "categories"

bool kinds_are_categories(const char *text) {
    const size_t n = strlen(CATEGORIES);
    return strncmp(text, CATEGORIES, n) == 0 && (text[n] == '\0' || text[n] == ':');
}

struct list {
    struct kinds *k;
    const struct setup *s;
    const char *option;
    uint32_t most;
};

static enum mp_status add_trace(void *ctx, const char *word, struct mp_error *err) {
    struct list *list = ctx;
    struct kinds *k = list->k;
    if (k->n == list->most)
        return mp_fail(err, MP_EUSAGE, "--%s: more than %u recordings (give fewer)", list->option, list->most);
    if (list->s->o->out != NULL && strcmp(word, list->s->o->out) == 0)
        return mp_fail(err, MP_EUSAGE, "--%s: -o would replace the recording %s (write elsewhere)", list->option, word);
    k->name[k->n] = mp_arena_strdup(k->arena, word);
    if (k->name[k->n] == NULL)
        return mp_nomem(err, "reading options");
    enum mp_status status = tool_load_trace(&k->traces[k->n], word, list->s->o, err);
    k->n++;
    return status;
}

/* TRACE and the others, each split by itself; the planning parts as parts of all of them behind one another. */
static enum mp_status of_traces(struct kinds *k, const struct setup *s, const char *text, const char *option,
                                const char *first, uint32_t most, struct mp_error *err) {
    const struct mp_trace *traces[KINDS_MAX];
    uint32_t first_member[KINDS_MAX];
    struct list list = {k, s, option, most};
    char word[4096];
    enum mp_status status = MP_OK;
    k->n = 1;
    k->name[0] = first;
    MP_TRY(tool_for_each_word(text, option, word, sizeof word, add_trace, &list, err));
    for (uint32_t i = 0; i < k->n; i++)
        traces[i] = i == 0 ? s->trace : k->traces[i];
    MP_TRY(mp_traces_join(&k->joined, first_member, traces, k->name, k->n, &s->o->limits, err));
    for (uint32_t i = 0; i < k->n; i++) {
        MP_TRY(mp_part_split(&k->planning[i], &k->scored[i], traces[i], &s->split, err));
        k->planning[i].trace = k->joined;
        for (uint32_t m = 0; m < k->planning[i].n; m++)
            k->planning[i].members[m] += first_member[i];
    }
out:
    return status;
}

static uint32_t category_of(const struct mp_trace *t, uint32_t member) {
    const uint32_t c = t->kind == MP_TRACE_TOKENS      ? t->requests[member].category
                       : t->iteration_category != NULL ? t->iteration_category[member]
                                                       : MP_NONE;
    return c < t->n_categories ? c : t->n_categories;
}

static enum mp_status of_categories(struct kinds *k, const struct setup *s, const char *text, const char *option,
                                    uint32_t usual, uint32_t most, struct mp_error *err) {
    const char *given = text + strlen(CATEGORIES);
    const struct mp_trace *t = s->trace;
    uint64_t n = usual;
    if (given[0] == ':' && (!mp_parse_u64(given + 1, strlen(given + 1), &n) || n < 2 || n > most))
        return mp_fail(err, MP_EUSAGE, "--%s: \"%.40s\" is not categories:N (write N in [2, %u], how many groups)",
                       option, text, most);
    k->n = (uint32_t)n;
    enum mp_status status = mp_part_groups(k->planning, k->name, &k->n, &s->planning, k->arena, err);
    uint32_t *group = mp_arena_alloc(k->arena, (size_t)t->n_categories + 1, sizeof *group);
    if (status != MP_OK)
        return status;
    if (group == NULL)
        return mp_nomem(err, "grouping categories");
    for (uint32_t c = 0; c <= t->n_categories; c++)
        group[c] = MP_NONE;
    for (uint32_t i = 0; i < k->n; i++) {
        for (uint32_t m = 0; m < k->planning[i].n; m++)
            group[category_of(t, k->planning[i].members[m])] = i;
        k->scored[i] = (struct mp_part){.trace = t};
        k->scored[i].members = mp_calloc(s->scored.n, sizeof *k->scored[i].members);
        if (k->scored[i].members == NULL)
            return mp_nomem(err, "grouping categories");
    }
    for (uint32_t m = 0; m < s->scored.n; m++) {
        const uint32_t i = group[category_of(t, s->scored.members[m])];
        if (i != MP_NONE)
            k->scored[i].members[k->scored[i].n++] = s->scored.members[m];
    }
    return MP_OK;
}

enum mp_status kinds_load(struct kinds *k, const struct setup *s, const char *text, const char *option,
                          const char *first, uint32_t usual, uint32_t most, struct mp_error *err) {
    *k = (struct kinds){.arena = mp_arena_new()};
    if (k->arena == NULL)
        return mp_nomem(err, "planning");
    return kinds_are_categories(text) ? of_categories(k, s, text, option, usual, most, err)
                                      : of_traces(k, s, text, option, first, most, err);
}

void kinds_free(struct kinds *k) {
    for (uint32_t i = 0; i < KINDS_MAX; i++) {
        mp_part_free(&k->planning[i]);
        mp_part_free(&k->scored[i]);
        mp_trace_free(k->traces[i]);
    }
    mp_trace_free(k->joined);
    mp_arena_free(k->arena);
    *k = (struct kinds){.n = 0};
}
