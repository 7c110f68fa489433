/* twisted FOLDER N: writes N random plans with their traces, of every routing rule, stage mode, dispatcher and source
 * mode, with cut orders and sub-ports, for tests/mutations/agree.py: FOLDER/I.yaml, FOLDER/I.mpt and, one line each,
 * FOLDER/topologies; and N random orders of random traffic matrices: FOLDER/mI.yaml, FOLDER/mI.txt, in whichever
 * format, and FOLDER/matrix_topologies. */
#include "tiny.h"
#include "../unit/verify/matrix_case.h"
#include "planner.h"
#include "support.h"

static int n_wanted;
static const char *folder;

static void write_trace(const struct mp_trace *t, const char *path) {
    struct mp_error err = {0};
    struct mp_out *o;
    CHECK_OK(mp_out_open(&o, path, &err), err);
    mp_trace_write(t, o);
    CHECK_OK(mp_out_commit(o, &err), err);
}

static void write_all(void **state) {
    (void)state;
    static const char *const topologies[] = {"1x4:h100", "2x2:h100", "2x2:a100+1x2:l40s", "1x4:mi300x", "3x2:v100"};
    static const char *const dispatchers[] = {"a2av", "deepep-normal", "deepep-ll", "hierarchical", "agrs"};
    struct mp_rng rng = mp_rng_seed(77);
    char path[600];
    snprintf(path, sizeof path, "%s/topologies", folder);
    FILE *list = fopen(path, "w");
    assert_non_null(list);
    for (int i = 0; i < n_wanted; i++) {
        struct mp_error err = {0};
        bool is_decode = mp_rng_below(&rng, 2), is_counts = mp_rng_below(&rng, 5) == 0;
        const struct tiny_spec spec = {1 + (uint32_t)mp_rng_below(&rng, 2),
                                       8 + (uint32_t)mp_rng_below(&rng, 4),
                                       1 + (uint32_t)mp_rng_below(&rng, 3),
                                       20,
                                       4,
                                       topologies[i % 5],
                                       is_counts,
                                       is_decode ? MP_PHASE_DECODE : MP_PHASE_PREFILL,
                                       is_decode ? 1 : 6,
                                       mp_rng_next(&rng)};
        struct tiny t;
        CHECK_OK(tiny_make(&t, &spec, &err), err);
        snprintf(path, sizeof path, "%s/%d.mpt", folder, i);
        write_trace(t.trace, path);
        mp_part_free(&t.part);
        mp_part_free(&t.unused);
        mp_trace_free(t.trace);
        t.trace = NULL;
        CHECK_OK(mp_trace_load(&t.trace, path, &mp_trace_hints_none, &mp_limits_default, &err), err);
        CHECK_OK(mp_part_split(&t.part, &t.unused, t.trace, &t.request.split, &err), err);
        t.request.sim.dispatcher = mp_dispatcher_find(is_counts ? (mp_rng_below(&rng, 2) ? "agrs" : "a2av")
                                                                : dispatchers[mp_rng_below(&rng, 5)]);
        t.request.sim.sources = !is_counts && mp_rng_below(&rng, 3) == 0 ? MP_SOURCES_COUPLED : MP_SOURCES_DP;
        t.request.strategy = "lpt";
        t.request.n_redundant = t.topology->n_gpus * (uint32_t)mp_rng_below(&rng, 3);
        if (t.request.n_redundant > 0) /* else routing has nothing to choose */
            t.request.replicate = "eplb";
        t.request.batching.n_steps_max = 4;
        struct mp_plan *p;
        struct mp_workload *w;
        enum mp_outcome outcome;
        CHECK_OK(mp_plan_make(&p, &t.request, &outcome, NULL, &err), err);
        assert_non_null(p);
        CHECK_OK(mp_workload_build(&w, &t.part, &t.request.batching, &err), err);
        const struct mp_problem problem = {
            .workload = w, .topology = t.topology, .model = t.model, .sim = t.request.sim, .n_threads = 1};
        twist(&rng, p, t.topology);
        CHECK_OK(mp_plan_prove(p, &problem, &err), err);
        struct mp_out *o;
        snprintf(path, sizeof path, "%s/%d.yaml", folder, i);
        CHECK_OK(mp_out_open(&o, path, &err), err);
        mp_plan_write(p, o);
        CHECK_OK(mp_out_commit(o, &err), err);
        fprintf(list, "%s\n", topologies[i % 5]);
        mp_workload_free(w);
        mp_plan_free(p);
        tiny_free(&t);
    }
    fclose(list);
}

static void write_matrices(void **state) {
    (void)state;
    static const char *const topologies[] = {"1x4:h100", "2x2:h100", "2x2:a100+1x2:l40s", "1x4:mi300x", "3x2:v100"};
    struct mp_rng rng = mp_rng_seed(78);
    char path[600];
    snprintf(path, sizeof path, "%s/matrix_topologies", folder);
    FILE *list = fopen(path, "w");
    assert_non_null(list);
    for (int i = 0; i < n_wanted; i++) {
        struct mp_error err = {0};
        struct mp_topology *t;
        struct mp_out *o;
        struct matrix_case c;
        CHECK_OK(mp_topology_load(&t, topologies[i % 5], &mp_limits_default, &err), err);
        matrix_case_make(&c, &rng, t);
        snprintf(path, sizeof path, "%s/m%d.yaml", folder, i);
        CHECK_OK(mp_out_open(&o, path, &err), err);
        mp_plan_write(c.plan, o);
        CHECK_OK(mp_out_commit(o, &err), err);
        snprintf(path, sizeof path, "%s/m%d.txt", folder, i);
        CHECK_OK(mp_out_open(&o, path, &err), err);
        mp_out_write(o, c.text, c.n_text);
        CHECK_OK(mp_out_commit(o, &err), err);
        fprintf(list, "%s\n", topologies[i % 5]);
        matrix_case_free(&c);
        mp_topology_free(t);
    }
    fclose(list);
}

int main(int argc, char **argv) {
    if (argc != 3)
        return 2;
    folder = argv[1];
    n_wanted = atoi(argv[2]);
    const struct CMUnitTest tests[] = {cmocka_unit_test(write_all), cmocka_unit_test(write_matrices)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
