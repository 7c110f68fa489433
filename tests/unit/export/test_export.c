#include "world.h"
#include <moeplan/export.h>
#include <moeplan/json.h>
#include <moeplan/matrix.h>

struct case_of {
    struct world w;
    struct mp_sim_options sim;
    struct mp_export in;
};

static void make(struct case_of *c, uint64_t seed) {
    struct mp_rng r = mp_rng_seed(seed);
    world_make(&c->w, &r, (struct world_shape){.n_layers = 2});
    c->w.setup.dispatcher = mp_dispatcher_at((uint32_t)(seed % 5));
    if (c->w.workload->trace->kind == MP_TRACE_COUNTS)
        c->w.setup.dispatcher = mp_dispatcher_find("a2av");
    c->w.plan->provenance.strategy = "a \"quoted\\ one\n";
    c->w.net.t.name = c->w.net.t.name != NULL ? c->w.net.t.name : "net";
    c->w.model.name = c->w.model.name != NULL ? c->w.model.name : "model";
    c->sim = (struct mp_sim_options){
        .dispatcher = c->w.setup.dispatcher, .sources = c->w.setup.sources, .stage_mode = -1, .n_threads = 1};
    c->in = (struct mp_export){.plan = c->w.plan,
                               .workload = c->w.workload,
                               .topology = &c->w.net.t,
                               .model = &c->w.model,
                               .sim = &c->sim,
                               .step = seed % 2 == 0 ? MP_NONE : 0};
}

/* Writes file i into memory. */
static struct mp_out *write_one(const struct case_of *c, const char *exporter, uint32_t i, struct mp_out **usage) {
    struct mp_error err = {0};
    struct mp_out *out;
    CHECK_OK(mp_out_open_memory(&out, &err), err);
    CHECK_OK(mp_out_open_memory(usage, &err), err);
    CHECK_OK(mp_exporter_find(exporter)->write(&c->in, i, "some file", out, *usage, &err), err);
    return out;
}

static void test_export__matrices_are_the_mean_of_the_steps(void **state) {
    (void)state;
    static struct case_of c;
    uint32_t n_checked = 0, n_second = 0;
    for (uint64_t seed = 0; seed < 60; seed++) {
        struct mp_error err = {0};
        struct mp_traffic *t;
        make(&c, seed);
        const size_t n = c.w.plan->n_gpus;
        const struct mp_exporter *e = mp_exporter_find("nccl-tests");
        uint32_t n_files = e->n_files(&c.in), steps = c.in.step == MP_NONE ? c.w.workload->n_steps : 1;
        assert_true(n_files == 2 * 2 || n_files == 2 * 4);
        n_second += n_files == 8;
        CHECK_OK(mp_traffic_new(&t, (uint32_t)n, &err), err);
        for (uint32_t i = 0; i < n_files && n > 1; i++) {
            uint64_t sum[CASE_GPUS * CASE_GPUS] = {0}, most = 0;
            struct mp_out *usage, *out = write_one(&c, "nccl-tests", i, &usage);
            struct mp_matrix *m;
            struct mp_in *in;
            size_t size;
            char name[128], wanted[64];
            const uint8_t *bytes = mp_out_memory_bytes(out, &size);
            CHECK_OK(mp_in_from_memory(&in, "m", bytes, size, &err), err);
            CHECK_OK(mp_matrix_parse(&m, in, NULL, 0, &mp_limits_default, &err), err);
            assert_string_equal(m->format, "nccl-tests");
            assert_int_equal(m->n, n);
            e->file_name(&c.in, i, name, sizeof name);
            const bool is_combine = strstr(name, "combine") != NULL, is_inside = strstr(name, "inside") != NULL;
            for (uint32_t s = 0; s < steps; s++) {
                CHECK_OK(mp_traffic_compute(t, &c.w.setup, s, i / (n_files / 2), &err), err);
                const uint64_t *from =
                    is_inside ? (is_combine ? t->combine2 : t->dispatch2) : (is_combine ? t->combine : t->dispatch);
                for (size_t k = 0; k < n * n; k++)
                    sum[k] += from[k];
            }
            for (size_t k = 0; k < n * n; k++)
                assert_int_equal(m->cells[k], (2 * sum[k] + steps) / (2 * steps));
            for (size_t a = 0; a < n; a++) {
                uint64_t row = 0, column = 0;
                for (size_t b = 0; b < n; b++) {
                    row += m->cells[a * n + b] & ~UINT64_C(15);
                    column += m->cells[b * n + a] & ~UINT64_C(15);
                }
                most = row > most ? row : most;
                most = column > most ? column : most;
            }
            snprintf(wanted, sizeof wanted, "FILE='some file' alltoallv_perf -b %llu -e %llu ",
                     (unsigned long long)most, (unsigned long long)most);
            assert_non_null(strstr((const char *)mp_out_memory_bytes(usage, &size), wanted));
            mp_matrix_free(m);
            mp_in_close(in);
            mp_out_cancel(out);
            mp_out_cancel(usage);
            n_checked++;
        }
        mp_traffic_free(t);
        world_free(&c.w);
    }
    assert_true(n_checked > 100 && n_second > 3);
}

struct piece {
    json_int_t pid, tid;
    uint64_t start, end;
};
static int by_track(const void *a, const void *b) {
    const struct piece *x = a, *y = b;
    if (x->pid != y->pid)
        return x->pid < y->pid ? -1 : 1;
    if (x->tid != y->tid)
        return x->tid < y->tid ? -1 : 1;
    return (x->start > y->start) - (x->start < y->start);
}

static uint64_t ns_of(const json_t *event, const char *key) {
    return (uint64_t)(json_number_value(json_object_get(event, key)) * 1000 + 0.5);
}

static void test_export__traces_have_no_overlaps_and_end_with_the_step(void **state) {
    (void)state;
    static struct case_of c;
    for (uint64_t seed = 0; seed < 60; seed++) {
        struct mp_error err = {0};
        struct mp_sim_result *result;
        make(&c, seed);
        c.in.step = (uint32_t)(seed % c.w.workload->n_steps);
        CHECK_OK(mp_simulate(&result, c.w.plan, c.w.workload, &c.w.net.t, &c.w.model, &c.sim, &err), err);
        struct mp_out *usage, *out = write_one(&c, "chrome-trace", 0, &usage);
        size_t size, n = 0;
        const char *text = (const char *)mp_out_memory_bytes(out, &size);
        json_t *root, *event;
        CHECK_OK(mp_json_parse(&root, "trace", text, size, 1, &mp_limits_default, &err), err);
        assert_string_equal(json_string_value(json_object_get(json_object_get(root, "otherData"), "strategy")),
                            c.w.plan->provenance.strategy);
        const json_t *events = json_object_get(root, "traceEvents");
        struct piece *pieces = calloc(json_array_size(events) + 1, sizeof *pieces);
        uint64_t last = 0, sent = 0, received = 0;
        size_t i;
        json_array_foreach(events, i, event) {
            const char *ph = json_string_value(json_object_get(event, "ph"));
            if (strcmp(ph, "M") == 0)
                continue;
            assert_string_equal(ph, "X");
            struct piece p = {json_integer_value(json_object_get(event, "pid")),
                              json_integer_value(json_object_get(event, "tid")), ns_of(event, "ts"), 0};
            p.end = p.start + ns_of(event, "dur");
            assert_true(p.start < p.end && p.pid <= c.w.plan->n_gpus);
            last = p.end > last ? p.end : last;
            uint64_t bytes = (uint64_t)json_integer_value(json_object_get(json_object_get(event, "args"), "bytes"));
            if (p.tid >= 10001)
                received += bytes;
            else if (p.tid > 0)
                sent += bytes;
            pieces[n++] = p;
        }
        assert_int_equal(last, result->steps[c.in.step].step_ns);
        assert_int_equal(sent, received);
        qsort(pieces, n, sizeof *pieces, by_track);
        for (size_t k = 1; k < n; k++)
            if (pieces[k].pid == pieces[k - 1].pid && pieces[k].tid == pieces[k - 1].tid)
                assert_true(pieces[k].start >= pieces[k - 1].end);
        free(pieces);
        json_decref(root);
        mp_out_cancel(out);
        mp_out_cancel(usage);
        mp_sim_result_free(result);
        world_free(&c.w);
    }
}

static enum mp_status write_all(void *ctx, struct mp_error *err) {
    const struct case_of *c = ctx;
    struct mp_export in = c->in;
    struct mp_out *out = NULL, *usage = NULL;
    enum mp_status status = MP_OK;
    for (uint32_t i = 0; mp_exporter_at(i) != NULL && status == MP_OK; i++) {
        const struct mp_exporter *e = mp_exporter_at(i);
        out = usage = NULL;
        in.shared = NULL;
        status = mp_out_open_memory(&out, err);
        if (status == MP_OK)
            status = mp_out_open_memory(&usage, err);
        if (status == MP_OK && e->prepare != NULL)
            status = e->prepare(&in, &in.shared, err);
        for (uint32_t k = 0; status == MP_OK && k < (e->n_files != NULL ? e->n_files(&in) : 1); k++)
            status = e->write(&in, k, "f", out, usage, err);
        if (e->release != NULL)
            e->release(in.shared);
        mp_out_cancel(usage);
        if (status == MP_OK)
            status = mp_out_commit(out, err);
        else
            mp_out_cancel(out);
    }
    return status;
}

static void test_export__survives_every_fault(void **state) {
    (void)state;
    static struct case_of c;
    make(&c, 6);
    sweep_faults(write_all, &c, 1);
    world_free(&c.w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_export__matrices_are_the_mean_of_the_steps),
        cmocka_unit_test(test_export__traces_have_no_overlaps_and_end_with_the_step),
        cmocka_unit_test(test_export__survives_every_fault),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
