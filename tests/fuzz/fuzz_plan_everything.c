/* Bytes become a tiny problem; it is planned twice; the plans' bytes are equal and the verifier accepts them. */
#include "tiny.h"
#include <moeplan/verify.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const topologies[] = {"1:h100",   "2:h100", "4:h100", "2x2:a100", "3:h200", "1x2:a100+1x2:l40s",
                                         "4x1:h100", "2:l40s"};
static const char *const dispatchers[] = {"a2av", "deepep-normal", "deepep-ll", "hierarchical", "agrs"};

struct bytes {
    const uint8_t *at, *end;
};
static uint32_t take(struct bytes *b, uint32_t n) { return b->at < b->end ? *b->at++ % n : 0; }

/* Each is read once and kept to the end of the process. */
static struct mp_topology *topology_at(uint32_t i) {
    static struct mp_topology *kept[8];
    if (kept[i] == NULL && mp_topology_load(&kept[i], topologies[i], &mp_limits_default, NULL) != MP_OK)
        abort();
    return kept[i];
}

static void complain(const struct mp_error *err, const char *what) {
    fprintf(stderr, "plan_everything: %s: %s (status %d)\n", what, err->message, (int)err->status);
    abort();
}

/* Its own ids come from the rest of the bytes through the seed, so that every byte matters and every problem is
 * valid. */
static void read_problem(struct bytes *b, struct tiny_spec *s) {
    *s = (struct tiny_spec){.n_layers = 1 + take(b, 2),
                            .n_experts = 1 + take(b, 8),
                            .shared = topology_at(take(b, 8)),
                            .phase = take(b, 2) == 0 ? MP_PHASE_DECODE : MP_PHASE_PREFILL,
                            .n_requests = 1 + take(b, 12),
                            .n_rows = 1 + take(b, 5),
                            .is_counts = take(b, 6) == 0};
    s->top_k = 1 + take(b, s->n_experts < 3 ? s->n_experts : 3);
    s->batch = 1 + take(b, 4);
}

static char *plan_once(const struct tiny *t, unsigned n_threads, struct mp_error *err) {
    struct mp_plan_request r = t->request;
    struct mp_plan *p = NULL;
    struct mp_verify_report *report = NULL;
    enum mp_outcome outcome;
    r.n_threads = n_threads;
    enum mp_status status = mp_plan_make(&p, &r, &outcome, NULL, err);
    /* Steps that cannot be filled and counts under a dispatcher that needs tokens are refused; nothing else may be.
     * */
    if (status == MP_EINPUT || status == MP_EUSAGE || (status == MP_OK && p == NULL)) {
        if (err->message[0] == '\0')
            complain(err, "refused without a word");
        return NULL;
    }
    if (status != MP_OK)
        complain(err, "failed");
    if (mp_plan_verify(&report, p, t->trace, t->topology, t->model, err) != MP_OK || report->n > 0)
        complain(err, report != NULL ? report->violations[0].message : "verifier failed");
    mp_verify_report_free(report);
    char *text = tiny_text(p);
    mp_plan_free(p);
    return text;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct bytes b = {data, data + size};
    struct tiny_spec s;
    struct tiny t;
    struct mp_error err = {0};
    uint32_t n_recipes = 0;
    read_problem(&b, &s);
    while (mp_recipe_at(n_recipes) != NULL)
        n_recipes++;
    const char *strategy = mp_recipe_at(take(&b, n_recipes))->name;
    const char *dispatcher = dispatchers[take(&b, 5)];
    uint32_t redundant = take(&b, 9), objective = take(&b, 4), flags = take(&b, 16), slots = take(&b, 5),
             work = take(&b, 8);
    s.seed = mp_xxh64(b.at, (size_t)(b.end - b.at));
    if (tiny_make(&t, &s, &err) != MP_OK)
        complain(&err, "a valid problem was refused");
    t.request.strategy = strategy;
    t.request.sim.dispatcher = mp_dispatcher_find(dispatcher);
    t.request.sim.sources = (flags & 1) != 0 ? MP_SOURCES_COUPLED : MP_SOURCES_DP;
    t.request.n_redundant = redundant;
    t.request.objective = (enum mp_objective)objective;
    t.request.needs_distinct = (flags & 2) != 0;
    t.request.needs_equal_slots = (flags & 4) != 0;
    t.request.slots_per_gpu = slots < 3 ? 0 : slots;
    t.request.work_limit = work == 0 ? 0 : work * 20; /* the whole of auto takes long: one in eight */
    t.request.seed = s.seed;
    char *first = plan_once(&t, 1, &err);
    mp_error_clear(&err);
    char *second = plan_once(&t, (flags & 8) != 0 ? 2 : 1, &err);
    if ((first == NULL) != (second == NULL) || (first != NULL && strcmp(first, second) != 0))
        complain(&err, "planned twice, two plans");
    mp_free(first);
    mp_free(second);
    tiny_free(&t);
    return 0;
}
