#include "transport.h"
#include "transport_registry.h"
#include <string.h>

#define DECLARE(name) extern const struct ex_transport ex_##name;
#define ENTRY(name) &ex_##name,
MP_REGISTRY(DECLARE)
static const struct ex_transport *const transports[] = {MP_REGISTRY(ENTRY) NULL};

const struct ex_transport *ex_transport_at(uint32_t i) {
    return i < sizeof transports / sizeof *transports ? transports[i] : NULL;
}

const struct ex_transport *ex_transport_find(const char *name) {
    for (uint32_t i = 0; transports[i] != NULL; i++)
        if (strcmp(transports[i]->name, name) == 0)
            return transports[i];
    return NULL;
}

enum mp_stage_mode ex_limits_mode(const struct ex_limits *limits, enum mp_stage_mode wanted) {
    return limits->couples && wanted == MP_STAGE_FREE ? MP_STAGE_COUPLED : wanted;
}

enum mp_status ex_times_new(struct ex_times **out, const struct ex_script *s, struct mp_error *err) {
    *out = NULL;
    struct ex_times *t = mp_calloc(1, sizeof *t);
    if (t == NULL)
        return mp_nomem(err, "times");
    const size_t cells = (size_t)s->n_ranks * s->n_stages;
    *t = (struct ex_times){.n_ranks = s->n_ranks,
                           .n_stages = s->n_stages,
                           .total_ns = mp_calloc(s->n_ranks, sizeof *t->total_ns),
                           .begin_ns = mp_calloc(cells, sizeof *t->begin_ns),
                           .end_ns = mp_calloc(cells, sizeof *t->end_ns),
                           .message_begin_ns = mp_calloc(s->n_messages, sizeof *t->message_begin_ns),
                           .message_end_ns = mp_calloc(s->n_messages, sizeof *t->message_end_ns)};
    if (t->total_ns == NULL || t->begin_ns == NULL || t->end_ns == NULL || t->message_begin_ns == NULL ||
        t->message_end_ns == NULL) {
        ex_times_free(t);
        return mp_nomem(err, "times");
    }
    *out = t;
    return MP_OK;
}

void ex_times_free(struct ex_times *t) {
    if (t == NULL)
        return;
    void *owned[] = {t->total_ns, t->begin_ns, t->end_ns, t->message_begin_ns, t->message_end_ns};
    for (size_t i = 0; i < sizeof owned / sizeof *owned; i++)
        mp_free(owned[i]);
    mp_free(t);
}

enum mp_status ex_fail_deadline(struct mp_error *err, const struct ex_script *s, uint32_t rank, uint32_t stage,
                                uint32_t peer, bool is_receive, uint64_t bytes, enum ex_silence how,
                                uint64_t deadline_ms) {
    static const char *const words[] = {"did not come", "did not come, nor did anything else move",
                                        "showed no sign of life"};
    char name[96];
    return mp_fail(err, MP_EPEER,
                   "%s, stage %u: rank %u waited %llu ms for %llu bytes %s rank %u, which %s (is it alive? a "
                   "slow cluster may need a longer --deadline)",
                   ex_script_name(s, name, sizeof name), stage, rank, (unsigned long long)deadline_ms,
                   (unsigned long long)bytes, is_receive ? "from" : "to go to", peer, words[how]);
}
