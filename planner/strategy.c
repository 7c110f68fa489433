/* The planner's extension point: the table of strategies, generated from this folder's meson.build. */
#include "planner.h"
#include "strategy_registry.h"
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
