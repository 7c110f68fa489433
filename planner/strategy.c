/* The planner's extension point: the table of strategies, generated from this folder's meson.build. */
#include "planner.h"
#include "strategy_registry.h"
#include <moeplan/homes.h>
#include <stdio.h>
#include <string.h>

#define X(name) extern const struct mp_strategy mp_strategy_##name;
MP_REGISTRY(X)
#undef X

#define X(name) &mp_strategy_##name,
static const struct mp_strategy *const strategies[] = {MP_REGISTRY(X)};
#undef X

#define N_STRATEGIES (sizeof strategies / sizeof strategies[0])

static const char *const stage_names[MP_N_PLANNER_STAGES] = {"replicate", "place", "route", "order"};

const struct mp_strategy *mp_strategy_at(uint32_t i) { return i < N_STRATEGIES ? strategies[i] : NULL; }

const struct mp_strategy *mp_strategy_find(enum mp_planner_stage stage, const char *name) {
    for (size_t i = 0; i < N_STRATEGIES; i++)
        if (strategies[i]->stage == stage && strcmp(strategies[i]->name, name) == 0)
            return strategies[i];
    return NULL;
}

const char *mp_planner_stage_name(enum mp_planner_stage stage) {
    return (unsigned)stage < MP_N_PLANNER_STAGES ? stage_names[stage] : "?";
}

enum mp_status mp_strategy_need(const struct mp_strategy **out, enum mp_planner_stage stage, const char *name,
                                struct mp_error *err) {
    *out = mp_strategy_find(stage, name);
    if (*out != NULL)
        return MP_OK;
    char known[256] = "";
    size_t used = 0;
    for (size_t i = 0; i < N_STRATEGIES; i++)
        if (strategies[i]->stage == stage && used < sizeof known)
            used +=
                (size_t)snprintf(known + used, sizeof known - used, "%s%s", used > 0 ? ", " : "", strategies[i]->name);
    return mp_fail(err, MP_EUSAGE, "%s: \"%.60s\" is not a strategy of this stage (write one of %s)",
                   mp_planner_stage_name(stage), name, known);
}

/* No strategy of the setting's name (`s`, or another stage's) has the option. */
static enum mp_status no_option(const struct mp_strategy *s, const struct mp_setting *setting, struct mp_error *err) {
    char known[256] = "none";
    size_t used = 0;
    for (size_t k = 0; k <= N_STRATEGIES; k++) { /* the last one for what is not in the table */
        const struct mp_strategy *of = k < N_STRATEGIES ? strategies[k] : s;
        if (strcmp(of->name, s->name) != 0 || (k == N_STRATEGIES && used > 0))
            continue;
        for (size_t i = 0; of->options != NULL && of->options[i].name != NULL; i++)
            if (used < sizeof known)
                used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", used > 0 ? ", " : "",
                                         of->options[i].name);
    }
    return mp_fail(err, MP_EUSAGE, "%s.%.60s: no such option (its options: %s)", s->name, setting->option, known);
}

static enum mp_status check_setting(const struct mp_strategy *s, const struct mp_setting *setting, size_t *which,
                                    struct mp_error *err) {
    for (size_t i = 0; s->options != NULL && s->options[i].name != NULL; i++) {
        const struct mp_option *o = &s->options[i];
        if (strcmp(o->name, setting->option) != 0)
            continue;
        *which = i;
        if (setting->value >= o->min && setting->value <= o->max)
            return MP_OK;
        return mp_fail(err, MP_EUSAGE, "%s.%s: %lld is not in [%lld, %lld] (%s)", s->name, o->name,
                       (long long)setting->value, (long long)o->min, (long long)o->max, o->summary);
    }
    return no_option(s, setting, err);
}

static bool has_option(const struct mp_strategy *s, const char *name) {
    for (size_t i = 0; s->options != NULL && s->options[i].name != NULL; i++)
        if (strcmp(s->options[i].name, name) == 0)
            return true;
    return false;
}

/* The strategy that a setting is of: stages may have strategies of one name, with options of their own. NULL: none of
 * that name has it. */
static const struct mp_strategy *owner_of(const struct mp_setting *setting) {
    for (size_t i = 0; i < N_STRATEGIES; i++)
        if (strcmp(strategies[i]->name, setting->strategy) == 0 && has_option(strategies[i], setting->option))
            return strategies[i];
    return NULL;
}

enum mp_status mp_settings_check(const struct mp_setting *settings, uint32_t n_settings, struct mp_error *err) {
    for (uint32_t k = 0; k < n_settings; k++) {
        const struct mp_strategy *s = owner_of(&settings[k]);
        size_t which;
        for (size_t i = 0; i < N_STRATEGIES && s == NULL; i++)
            s = strcmp(strategies[i]->name, settings[k].strategy) == 0 && strategies[i]->options != NULL ? strategies[i]
                                                                                                         : NULL;
        if (s == NULL)
            s = mp_policy_find(settings[k].strategy);
        if (s == NULL)
            s = mp_homes_find(settings[k].strategy);
        if (s == NULL)
            return mp_fail(err, MP_EUSAGE, "\"%.60s\" is not a strategy with options (see: moeplan list strategies)",
                           settings[k].strategy);
        enum mp_status status = check_setting(s, &settings[k], &which, err);
        if (status != MP_OK)
            return status;
    }
    return MP_OK;
}

enum mp_status mp_option_values(const int64_t **out, const struct mp_strategy *s, const struct mp_setting *settings,
                                uint32_t n_settings, struct mp_arena *arena, struct mp_error *err) {
    size_t n = 0, which;
    *out = NULL;
    while (s->options != NULL && s->options[n].name != NULL)
        n++;
    int64_t *values = n > 0 ? mp_arena_alloc(arena, n, sizeof *values) : NULL;
    if (n == 0)
        return MP_OK;
    if (values == NULL)
        return mp_nomem(err, "options of a strategy");
    for (size_t i = 0; i < n; i++)
        values[i] = s->options[i].default_value;
    for (uint32_t k = 0; k < n_settings; k++) {
        if (strcmp(settings[k].strategy, s->name) != 0 ||
            (!has_option(s, settings[k].option) && owner_of(&settings[k]) != NULL))
            continue;
        enum mp_status status = check_setting(s, &settings[k], &which, err);
        if (status != MP_OK)
            return status;
        values[which] = settings[k].value;
    }
    *out = values;
    return MP_OK;
}

enum mp_status mp_decline(struct mp_error *err, enum mp_outcome *outcome, enum mp_outcome which, const char *fmt, ...) {
    *outcome = which;
    if (err != NULL) {
        va_list args;
        va_start(args, fmt);
        mp_error_clear(err);
        (void)vsnprintf(err->message, sizeof err->message, fmt, args);
        va_end(args);
    }
    return MP_OK;
}
