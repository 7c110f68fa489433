/* Chakra traces are decoded here by hand and run; CSV tables are held against the traffic they must add up to. */
#include "world.h"
#include <moeplan/export.h>

enum { NODES_MAX = 4096, DEPS_MAX = 64 };

struct node {
    uint64_t id, type, duration_us, size, src, dst, tag, is_cpu;
    char name[96];
    uint32_t n_deps;
    uint64_t deps[DEPS_MAX];
};
struct file {
    uint32_t n;
    struct node *nodes;
};
struct case_of {
    struct world w;
    struct mp_sim_options sim;
    struct mp_export in;
};

static void make(struct case_of *c, uint64_t seed) {
    struct mp_rng r = mp_rng_seed(seed);
    world_make(&c->w, &r, (struct world_shape){.n_layers = 3});
    c->w.setup.dispatcher = mp_dispatcher_at((uint32_t)(seed % 5));
    if (c->w.workload->trace->kind == MP_TRACE_COUNTS)
        c->w.setup.dispatcher = mp_dispatcher_find("a2av");
    if (seed % 2 == 0)
        world_rotation(&c->w);
    c->w.net.t.name = "net";
    c->w.model.name = "model";
    c->sim = (struct mp_sim_options){.dispatcher = c->w.setup.dispatcher,
                                     .sources = c->w.setup.sources,
                                     .stage_mode = (int)(seed % 3),
                                     .n_threads = 1};
    c->in = (struct mp_export){.plan = c->w.plan,
                               .workload = c->w.workload,
                               .topology = &c->w.net.t,
                               .model = &c->w.model,
                               .sim = &c->sim,
                               .step = (uint32_t)(seed % c->w.workload->n_steps)};
}

static struct mp_out *write_one(const struct mp_export *in, const char *exporter, uint32_t i) {
    struct mp_error err = {0};
    struct mp_out *out, *usage;
    CHECK_OK(mp_out_open_memory(&out, &err), err);
    CHECK_OK(mp_out_open_memory(&usage, &err), err);
    CHECK_OK(mp_exporter_find(exporter)->write(in, i, "folder/step.0.et", out, usage, &err), err);
    mp_out_cancel(usage);
    return out;
}

/* ---- a reader of protobuf, knowing nothing of the writer ---- */

static uint64_t varint(const uint8_t **at, const uint8_t *end) {
    uint64_t v = 0;
    for (uint32_t shift = 0;; shift += 7) {
        assert_true(*at < end && shift < 64);
        uint8_t b = *(*at)++;
        v |= (uint64_t)(b & 0x7f) << shift;
        if ((b & 0x80) == 0)
            return v;
    }
}

static void read_attribute(struct node *n, const uint8_t *at, const uint8_t *end) {
    char name[32] = "";
    uint64_t value = 0, type = 0;
    while (at < end) {
        uint64_t key = varint(&at, end);
        if (key == (1 << 3 | 2)) {
            uint64_t length = varint(&at, end);
            assert_true(length < sizeof name && at + length <= end);
            memcpy(name, at, length);
            at += length;
        } else {
            assert_int_equal(key & 7, 0);
            type = key >> 3;
            value = varint(&at, end);
        }
    }
    struct {
        const char *name;
        uint64_t type, *to;
    } known[] = {{"is_cpu_op", 27, &n->is_cpu},
                 {"comm_size", 9, &n->size},
                 {"comm_src", 7, &n->src},
                 {"comm_dst", 7, &n->dst},
                 {"comm_tag", 7, &n->tag}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(known[i].name, name) == 0) {
            assert_int_equal(type, known[i].type);
            *known[i].to = value;
            return;
        }
    fail_msg("attribute \"%s\"", name);
}

static void read_node(struct node *n, const uint8_t *at, const uint8_t *end) {
    *n = (struct node){.is_cpu = 2};
    while (at < end) {
        const uint64_t key = varint(&at, end), field = key >> 3, value = varint(&at, end);
        if ((key & 7) == 0) {
            uint64_t *to = field == 1 ? &n->id : field == 3 ? &n->type : field == 7 ? &n->duration_us : NULL;
            assert_non_null(to);
            *to = value;
            continue;
        }
        assert_int_equal(key & 7, 2);
        const uint8_t *stop = at + value;
        assert_true(stop <= end);
        if (field == 2) {
            assert_true(value < sizeof n->name);
            memcpy(n->name, at, value);
        } else if (field == 5) {
            while (at < stop) {
                assert_true(n->n_deps < DEPS_MAX);
                n->deps[n->n_deps++] = varint(&at, stop);
            }
        } else {
            assert_int_equal(field, 10);
            read_attribute(n, at, stop);
        }
        at = stop;
    }
    assert_int_equal(n->is_cpu, 0); /* older readers take a node without it for one of the CPU */
}

static struct file read_file(const struct mp_out *out) {
    size_t size;
    const uint8_t *at = mp_out_memory_bytes(out, &size), *end = at + size;
    struct file f = {0, calloc(NODES_MAX, sizeof(struct node))};
    static const uint8_t head[] = {7, 10, 5, '0', '.', '0', '.', '4'};
    assert_true(size > sizeof head && memcmp(at, head, sizeof head) == 0);
    for (at += sizeof head; at < end;) {
        uint64_t length = varint(&at, end);
        assert_true(at + length <= end && f.n < NODES_MAX);
        read_node(&f.nodes[f.n], at, at + length);
        assert_int_equal(f.nodes[f.n].id, f.n);
        at += length;
        f.n++;
    }
    return f;
}

static bool is_sent(const struct file *files, uint32_t n, const bool *const *done, const struct node *r) {
    for (uint32_t g = 0; g < n; g++)
        for (uint32_t k = 0; k < files[g].n; k++) {
            const struct node *s = &files[g].nodes[k];
            if (s->type == 5 && s->src == r->src && s->dst == r->dst && s->tag == r->tag) {
                assert_int_equal(s->size, r->size);
                return done[g][k];
            }
        }
    fail_msg("\"%s\": nobody sends it", r->name);
    return false;
}

/* Does node k wait, by whatever way, for node `what`? */
static bool waits_for(const struct file *f, uint64_t k, uint64_t what) {
    bool *reached = calloc(f->n, sizeof *reached);
    reached[k] = true;
    for (uint64_t j = k + 1; j-- > 0;)
        for (uint32_t d = 0; reached[j] && d < f->nodes[j].n_deps; d++)
            reached[f->nodes[j].deps[d]] = true;
    bool is = reached[what];
    free(reached);
    return is;
}

/* Runs all files against each other until nothing moves: everything must have ended. */
static void run(const struct file *files, uint32_t n) {
    bool **done = calloc(n, sizeof *done), moved = true;
    for (uint32_t g = 0; g < n; g++)
        done[g] = calloc(files[g].n + 1, sizeof **done);
    while (moved) {
        moved = false;
        for (uint32_t g = 0; g < n; g++)
            for (uint32_t k = 0; k < files[g].n; k++) {
                const struct node *x = &files[g].nodes[k];
                bool is_ready = !done[g][k];
                for (uint32_t d = 0; d < x->n_deps && is_ready; d++) {
                    assert_true(x->deps[d] < k);
                    is_ready = done[g][x->deps[d]];
                }
                if (is_ready && (x->type != 6 || is_sent(files, n, (const bool *const *)done, x)))
                    moved = done[g][k] = true;
            }
    }
    for (uint32_t g = 0; g < n; g++) {
        for (uint32_t k = 0; k < files[g].n; k++)
            if (!done[g][k])
                fail_msg("GPU %u: \"%s\" never ends", g, files[g].nodes[k].name);
        free(done[g]);
    }
    free(done);
}

static bool starts_with(const char *s, const char *what) { return strncmp(s, what, strlen(what)) == 0; }
/* The layer in "experts L3" or "dispatch L3 to 1". */
static int layer_of(const char *name) {
    const char *l = strstr(name, " L");
    return l == NULL ? -1 : atoi(l + 2);
}

static void check_waits(const struct file *f) {
    for (uint32_t k = 0; k < f->n; k++) {
        const struct node *x = &f->nodes[k];
        for (uint32_t j = 0; j < f->n; j++) {
            const struct node *y = &f->nodes[j];
            const bool is_same = layer_of(x->name) == layer_of(y->name);
            if (is_same && starts_with(x->name, "experts") && starts_with(y->name, "dispatch"))
                assert_true(waits_for(f, k, j)); /* nothing is computed that has not come */
            if (is_same && starts_with(x->name, "combine") && x->type == 5 && starts_with(y->name, "experts"))
                assert_true(waits_for(f, k, j)); /* nor sent back that is not computed */
            if (layer_of(x->name) == layer_of(y->name) + 1 && starts_with(x->name, "attention L") &&
                starts_with(y->name, "combine"))
                assert_true(waits_for(f, k, j));
            if (is_same && starts_with(x->name, "shared") && starts_with(y->name, "dispatch"))
                assert_false(waits_for(f, k, j)); /* they run beside each other */
        }
    }
}

static void test_export_tables__chakra_traces_run_to_their_end(void **state) {
    (void)state;
    static struct case_of c;
    uint32_t n_transfers = 0, n_staged = 0;
    for (uint64_t seed = 0; seed < 60; seed++) {
        struct mp_error err = {0};
        struct mp_timeline *t;
        make(&c, seed);
        const struct mp_exporter *e = mp_exporter_find("chakra");
        const uint32_t n = e->n_files(&c.in);
        assert_int_equal(n, c.w.plan->n_gpus);
        CHECK_OK(e->prepare(&c.in, &c.in.shared, &err), err);
        CHECK_OK(mp_simulate_timeline(&t, c.w.plan, c.w.workload, &c.w.net.t, &c.w.model, &c.sim, c.in.step, &err),
                 err);
        struct file *files = calloc(n, sizeof *files);
        uint64_t sent = 0, received = 0, wanted = 0;
        for (uint32_t g = 0; g < n; g++) {
            struct mp_out *out = write_one(&c.in, "chakra", g);
            uint64_t ns = 0, us = 0;
            files[g] = read_file(out);
            mp_out_cancel(out);
            for (uint32_t k = 0; k < files[g].n; k++) {
                const struct node *x = &files[g].nodes[k];
                sent += x->type == 5 ? x->size : 0;
                received += x->type == 6 ? x->size : 0;
                us += x->type == 4 ? x->duration_us : 0;
                n_transfers += x->type == 5;
                assert_true(x->type == 4 || (x->type == 5 ? x->src : x->dst) == g);
            }
            for (size_t k = 0; k < t->n; k++)
                if ((t->events[k].gpu == g && t->events[k].peer == MP_NONE) || t->events[k].kind == MP_TIME_OTHER)
                    ns += t->events[k].end_ns - t->events[k].start_ns;
            assert_int_equal(us, (ns + 500) / 1000); /* rounding does not add up */
            check_waits(&files[g]);
        }
        for (size_t k = 0; k < t->n; k++) {
            wanted += t->events[k].peer != MP_NONE ? t->events[k].bytes : 0;
            n_staged += t->events[k].peer != MP_NONE && t->events[k].stage != MP_NONE;
        }
        assert_int_equal(sent, wanted);
        assert_int_equal(received, wanted);
        run(files, n);
        for (uint32_t g = 0; g < n; g++)
            free(files[g].nodes);
        free(files);
        mp_timeline_free(t);
        e->release(c.in.shared);
        c.in.shared = NULL;
        world_free(&c.w);
    }
    assert_true(n_transfers > 1000 && n_staged > 100);
}

/* Number in column `column` of a line, which ends with it or goes on. */
static uint64_t cell(const char *line, uint32_t column) {
    for (; column > 0; column--)
        line = strchr(line, ',') + 1;
    return strtoull(line, NULL, 10);
}

static void test_export_tables__csv_adds_up(void **state) {
    (void)state;
    static struct case_of c;
    enum { PLACEMENT, LAYERS, GPUS, STEPS, TRAFFIC, TIMELINE, N_FILES };
    for (uint64_t seed = 0; seed < 30; seed++) {
        struct mp_error err = {0};
        make(&c, seed);
        const struct mp_exporter *e = mp_exporter_find("csv");
        struct mp_sim_result *r;
        assert_int_equal(e->n_files(&c.in), N_FILES);
        CHECK_OK(e->prepare(&c.in, &c.in.shared, &err), err);
        CHECK_OK(mp_simulate(&r, c.w.plan, c.w.workload, &c.w.net.t, &c.w.model, &c.sim, &err), err);
        uint64_t traffic = 0, moved = 0, last = 0;
        for (uint32_t i = 0; i < N_FILES; i++) {
            size_t size, n_lines = 0;
            struct mp_out *out = write_one(&c.in, "csv", i);
            char *text = strdup((const char *)mp_out_memory_bytes(out, &size)), *save = NULL;
            uint32_t n_columns = 0;
            for (char *line = strtok_r(text, "\n", &save); line != NULL;
                 line = strtok_r(NULL, "\n", &save), n_lines++) {
                uint32_t n = 1;
                for (const char *s = line; *s != '\0'; s++)
                    n += *s == ',';
                n_columns = n_lines == 0 ? n : n_columns;
                assert_int_equal(n, n_columns);
                if (n_lines > 0 && i == TRAFFIC)
                    traffic += cell(line, 4);
                if (n_lines > 0 && i == TIMELINE) {
                    moved += cell(line, 7);
                    last = cell(line, 10) > last ? cell(line, 10) : last;
                }
                if (n_lines > 0 && i == STEPS)
                    assert_int_equal(cell(line, 1), r->steps[n_lines - 1].step_ns);
                if (n_lines > 0 && i == PLACEMENT)
                    assert_int_equal(cell(line, 2), mp_plan_slot_gpu(c.w.plan, (uint32_t)cell(line, 1)));
            }
            const size_t wanted[N_FILES] = {[PLACEMENT] = (size_t)c.w.plan->n_layers * c.w.plan->n_slots,
                                            [LAYERS] = c.w.plan->n_layers,
                                            [GPUS] = (size_t)c.w.plan->n_layers * c.w.plan->n_gpus,
                                            [STEPS] = r->n_steps};
            if (wanted[i] > 0)
                assert_int_equal(n_lines - 1, wanted[i]);
            free(text);
            mp_out_cancel(out);
        }
        assert_int_equal(traffic, moved);
        assert_int_equal(last, r->steps[c.in.step].step_ns);
        e->release(c.in.shared);
        c.in.shared = NULL;
        mp_sim_result_free(r);
        world_free(&c.w);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_export_tables__chakra_traces_run_to_their_end),
        cmocka_unit_test(test_export_tables__csv_adds_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
