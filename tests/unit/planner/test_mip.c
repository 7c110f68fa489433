/* The MIP interface: GLPK against every point, its failures, texts and answers of other solvers. */
#include "support.h"

#include "mip.h"

#define N_MAX 6u

static struct mp_mip *random_program(struct mp_rng *rng, bool has_fraction) {
    struct mp_error err = {0};
    struct mp_mip *m;
    uint32_t n = 1 + (uint32_t)mp_rng_below(rng, N_MAX - 1), n_rows = (uint32_t)mp_rng_below(rng, 5);
    char name[16];
    CHECK_OK(mp_mip_new(&m, &err), err);
    for (uint32_t i = 0; i < n; i++) {
        snprintf(name, sizeof name, "v%u", i);
        int64_t lower = (int64_t)mp_rng_below(rng, 4) - 2;
        const struct mp_mip_variable v = {.name = name,
                                          .lower = lower,
                                          .upper = lower + (int64_t)mp_rng_below(rng, 4),
                                          .cost = (int64_t)mp_rng_below(rng, 21) - 10,
                                          .is_integer = true};
        CHECK_OK(mp_mip_add_variable(m, &v, NULL, &err), err);
    }
    for (uint32_t r = 0; r < n_rows; r++) {
        struct mp_mip_term terms[2 * N_MAX];
        uint32_t k = (uint32_t)mp_rng_below(rng, n + 2);
        for (uint32_t i = 0; i < k; i++)
            terms[i] = (struct mp_mip_term){(uint32_t)mp_rng_below(rng, n), (int64_t)mp_rng_below(rng, 13) - 6};
        int64_t middle = (int64_t)mp_rng_below(rng, 21) - 10, half = (int64_t)mp_rng_below(rng, 6);
        uint64_t kind = mp_rng_below(rng, 4);
        snprintf(name, sizeof name, "r%u", r);
        const struct mp_mip_row row = {.name = name,
                                       .lower = kind == 0 ? -MP_MIP_FREE : middle - half,
                                       .upper = kind == 1 ? MP_MIP_FREE : middle + half,
                                       .n = k,
                                       .terms = terms};
        CHECK_OK(mp_mip_add_row(m, &row, &err), err);
    }
    if (has_fraction) { /* the largest of all variables, as a fractional one */
        uint32_t most;
        const struct mp_mip_variable v = {.name = "most", .lower = -100, .upper = MP_MIP_FREE, .cost = 7};
        CHECK_OK(mp_mip_add_variable(m, &v, &most, &err), err);
        for (uint32_t i = 0; i < n; i++) {
            const struct mp_mip_term terms[2] = {{most, 3}, {i, -5}};
            snprintf(name, sizeof name, "m%u", i);
            const struct mp_mip_row row = {.name = name, .lower = 0, .upper = MP_MIP_FREE, .n = 2, .terms = terms};
            CHECK_OK(mp_mip_add_row(m, &row, &err), err);
        }
    }
    return m;
}

/* Every point of the box; fractional variables follow. */
static bool best_of_all(const struct mp_mip *m, int64_t *best) {
    int64_t x[N_MAX + 1] = {0};
    bool is_found = false;
    uint32_t n = 0;
    for (uint32_t i = 0; i < m->n_variables; i++) {
        x[i] = m->variables[i].lower;
        n += m->variables[i].is_integer;
    }
    for (;;) {
        __int128 cost;
        for (uint32_t i = n; i < m->n_variables; i++)
            x[i] = m->variables[i].lower;
        mp_mip_repair(m, x);
        if (mp_mip_holds(m, x, &cost, NULL) && (!is_found || cost < *best)) {
            *best = (int64_t)cost;
            is_found = true;
        }
        uint32_t i = 0;
        while (i < n && x[i] == m->variables[i].upper) {
            x[i] = m->variables[i].lower;
            i++;
        }
        if (i == n)
            return is_found;
        x[i]++;
    }
}

static void test_mip__glpk_agrees_with_every_point(void **state) {
    (void)state;
    struct mp_rng rng = mp_rng_seed(71);
    unsigned n_found = 0, n_none = 0;
    for (int i = 0; i < 1500; i++) {
        struct mp_mip *m = random_program(&rng, i % 3 == 0);
        struct mp_arena *arena = mp_arena_new();
        struct mp_error err = {0};
        struct mp_mip_answer a;
        int64_t best = 0;
        __int128 cost;
        const struct mp_mip_options o = {.node_limit = UINT64_MAX};
        bool is_found = best_of_all(m, &best);
        CHECK_OK(mp_mip_solve(&a, m, &o, arena, &err), err);
        if (is_found) {
            assert_int_equal(a.outcome, MP_FOUND);
            assert_true(mp_mip_holds(m, a.values, &cost, NULL) && cost == a.objective);
            if (i % 3 != 0) {
                assert_int_equal(a.objective, best);
                assert_int_equal(a.bound, best);
            } else { /* the largest variable was only rounded up at the end */
                assert_true(a.objective >= best && a.objective < best + 7 && a.bound <= best && a.bound > best - 7);
            }
            n_found++;
            /* Given its own answer and no nodes it hands that back; with few nodes it is never worse. */
            const struct mp_mip_options none = {.node_limit = 0, .incumbent = a.values},
                                        few = {.node_limit = 1 + mp_rng_below(&rng, 3)};
            struct mp_mip_answer b;
            CHECK_OK(mp_mip_solve(&b, m, &none, arena, &err), err);
            assert_int_equal(b.outcome, MP_STOPPED);
            assert_int_equal(b.objective, a.objective);
            assert_true(b.bound <= best && memcmp(a.values, b.values, m->n_variables * sizeof *a.values) == 0);
            CHECK_OK(mp_mip_solve(&b, m, &few, arena, &err), err);
            assert_true(b.outcome == MP_FOUND || b.outcome == MP_STOPPED);
            assert_true(b.bound <= best && (b.values == NULL || b.objective >= best));
        } else {
            assert_int_equal(a.outcome, MP_NOT_FOUND);
            n_none++;
        }
        mp_arena_free(arena);
        mp_mip_free(m);
    }
    assert_true(n_found >= 500 && n_none >= 100);
}

/* A program that takes memory and nodes: packing. */
static struct mp_mip *large_program(uint32_t n, uint32_t n_bins) {
    struct mp_error err = {0};
    struct mp_mip *m;
    struct mp_rng rng = mp_rng_seed(72);
    struct mp_mip_term terms[256];
    char name[32];
    CHECK_OK(mp_mip_new(&m, &err), err);
    const struct mp_mip_variable most = {.name = "most", .lower = 0, .upper = MP_MIP_FREE, .cost = 1};
    CHECK_OK(mp_mip_add_variable(m, &most, NULL, &err), err);
    int64_t weight[256];
    for (uint32_t i = 0; i < n; i++) {
        weight[i] = 100 + (int64_t)mp_rng_below(&rng, 900);
        for (uint32_t b = 0; b < n_bins; b++) {
            snprintf(name, sizeof name, "x_%u_%u", i, b);
            const struct mp_mip_variable v = {.name = name, .upper = 1, .is_integer = true};
            CHECK_OK(mp_mip_add_variable(m, &v, NULL, &err), err);
            terms[b] = (struct mp_mip_term){1 + i * n_bins + b, 1};
        }
        snprintf(name, sizeof name, "one_%u", i);
        const struct mp_mip_row row = {.name = name, .lower = 1, .upper = 1, .n = n_bins, .terms = terms};
        CHECK_OK(mp_mip_add_row(m, &row, &err), err);
    }
    for (uint32_t b = 0; b < n_bins; b++) {
        for (uint32_t i = 0; i < n; i++)
            terms[i] = (struct mp_mip_term){1 + i * n_bins + b, -weight[i]};
        terms[n] = (struct mp_mip_term){0, 1};
        snprintf(name, sizeof name, "bin_%u", b);
        const struct mp_mip_row row = {.name = name, .lower = 0, .upper = MP_MIP_FREE, .n = n + 1, .terms = terms};
        CHECK_OK(mp_mip_add_row(m, &row, &err), err);
    }
    return m;
}

static void test_mip__what_glpk_cannot_do_does_not_end_the_process(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct mp_mip *m = large_program(120, 16);
    struct mp_arena *arena = mp_arena_new();
    struct mp_mip_answer a;
    const struct mp_mip_options poor = {.node_limit = 10, .memory_mib = 1};
    CHECK_OK(mp_mip_solve(&a, m, &poor, arena, &err), err); /* its allocator calls its error routine */
    assert_int_equal(a.outcome, MP_NOT_APPLICABLE);
    assert_null(a.values);
    assert_non_null(strstr(a.why, "memory"));
    /* With something to begin with, that comes back. */
    int64_t *values = mp_arena_alloc(arena, m->n_variables, sizeof *values);
    for (uint32_t i = 0; i < 120; i++)
        values[1 + i * 16 + i % 16] = 1;
    mp_mip_repair(m, values);
    const struct mp_mip_options poor_too = {.node_limit = 10, .memory_mib = 1, .incumbent = values};
    CHECK_OK(mp_mip_solve(&a, m, &poor_too, arena, &err), err);
    assert_int_equal(a.outcome, MP_NOT_APPLICABLE);
    assert_memory_equal(a.values, values, m->n_variables * sizeof *values);
    mp_mip_free(m);
    /* And afterwards it works. */
    m = large_program(6, 2);
    const struct mp_mip_options rich = {.node_limit = UINT64_MAX};
    CHECK_OK(mp_mip_solve(&a, m, &rich, arena, &err), err);
    assert_int_equal(a.outcome, MP_FOUND);
    int64_t best = 0;
    mp_mip_free(m);
    m = large_program(4, 1);
    CHECK_OK(mp_mip_solve(&a, m, &rich, arena, &err), err);
    for (uint32_t i = 1; i <= 4; i++)
        best += a.values[i] * -m->rows[4].terms[i].factor;
    assert_int_equal(a.objective, best);
    mp_mip_free(m);
    mp_arena_free(arena);
}

static void test_mip__stops_at_its_nodes_the_same_way_every_time(void **state) {
    (void)state;
    struct mp_error err = {0};
    struct mp_mip *m = large_program(24, 4);
    struct mp_arena *arena = mp_arena_new();
    struct mp_mip_answer a, b;
    int64_t *values = mp_arena_alloc(arena, m->n_variables, sizeof *values);
    for (uint32_t i = 0; i < 24; i++)
        values[1 + i * 4 + i % 4] = 1;
    mp_mip_repair(m, values);
    const struct mp_mip_options o = {.node_limit = 200, .incumbent = values};
    __int128 given;
    assert_true(mp_mip_holds(m, values, &given, NULL));
    CHECK_OK(mp_mip_solve(&a, m, &o, arena, &err), err);
    CHECK_OK(mp_mip_solve(&b, m, &o, arena, &err), err);
    assert_int_equal(a.outcome, MP_STOPPED);
    assert_true(a.nodes >= 200 && a.nodes <= 210 && a.objective <= given && a.bound < a.objective);
    assert_int_equal(a.objective, b.objective);
    assert_int_equal(a.bound, b.bound);
    assert_int_equal(a.nodes, b.nodes);
    assert_memory_equal(a.values, b.values, m->n_variables * sizeof *a.values);
    values[1] = 2;
    assert_int_equal(mp_mip_solve(&a, m, &o, arena, &err), MP_EUSAGE);
    assert_non_null(strstr(err.message, "x_0_0"));
    mp_mip_free(m);
    mp_arena_free(arena);
}

static void test_mip__refuses_what_is_no_program(void **state) {
    (void)state;
    struct mp_mip *m;
    struct mp_error err = {0};
    CHECK_OK(mp_mip_new(&m, &err), err);
    static const struct mp_mip_variable bad[] = {{.name = "x", .lower = 1, .upper = 0},
                                                 {.name = "x y", .upper = 1},
                                                 {.name = "", .upper = 1},
                                                 {.name = "9x", .upper = 1},
                                                 {.name = "x", .upper = 1, .cost = INT64_C(1) << 60},
                                                 {.name = "x", .upper = INT64_C(1) << 60}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        mp_error_clear(&err);
        assert_int_equal(mp_mip_add_variable(m, &bad[i], NULL, &err), MP_EBUG);
    }
    const struct mp_mip_term nobody = {0, 1};
    const struct mp_mip_row row = {.name = "r", .upper = 1, .n = 1, .terms = &nobody};
    assert_int_equal(mp_mip_add_row(m, &row, &err), MP_EBUG);
    assert_int_equal(m->n_variables + m->n_rows, 0);
    mp_mip_free(m);
}

static struct mp_mip *small_program(void) {
    struct mp_error err = {0};
    struct mp_mip *m;
    CHECK_OK(mp_mip_new(&m, &err), err);
    static const struct mp_mip_variable variables[] = {
        {.name = "x", .upper = 1, .is_integer = true},
        {.name = "y", .lower = -3, .upper = 5, .cost = -2, .is_integer = true},
        {.name = "t", .lower = 0, .upper = MP_MIP_FREE, .cost = 1}};
    static const struct mp_mip_term first[] = {{1, 4}, {0, 1}, {1, -1}}, second[] = {{2, 2}, {1, -3}};
    static const struct mp_mip_row rows[] = {{.name = "a", .lower = -6, .upper = 7, .n = 3, .terms = first},
                                             {.name = "b", .lower = 0, .upper = MP_MIP_FREE, .n = 2, .terms = second}};
    for (int i = 0; i < 3; i++)
        CHECK_OK(mp_mip_add_variable(m, &variables[i], NULL, &err), err);
    for (int i = 0; i < 2; i++)
        CHECK_OK(mp_mip_add_row(m, &rows[i], &err), err);
    return m;
}

static void test_mip__texts(void **state) {
    (void)state;
    static const char *const want[2] = {
        "\\ why\nMinimize\n cost: +0 x -2 y +1 t\nSubject To\n a: +1 x +3 y <= 7\n a_low: +1 x +3 y >= -6\n"
        " b: -3 y +2 t >= 0\nBounds\n 0 <= x <= 1\n -3 <= y <= 5\n 0 <= t <= +inf\nGeneral\n x\n y\nEnd\n",
        "* why\nNAME moeplan\nROWS\n N cost\n L a\n G b\nCOLUMNS\n MARKER 'MARKER' 'INTORG'\n x cost 0\n x a 1\n"
        " y cost -2\n y a 3\n y b -3\n MARKER 'MARKER' 'INTEND'\n t cost 1\n t b 2\nRHS\n RHS a 7\nRANGES\n RANGE a "
        "13\n"
        "BOUNDS\n LO BOUND x 0\n UP BOUND x 1\n LO BOUND y -3\n UP BOUND y 5\n LO BOUND t 0\n PL BOUND t\nENDATA\n"};
    struct mp_mip *m = small_program();
    for (int i = 0; i < 2; i++) {
        struct mp_error err = {0};
        struct mp_out *o;
        size_t size;
        CHECK_OK(mp_out_open_memory(&o, &err), err);
        mp_mip_write(m, i == 1, "why", o);
        assert_string_equal((const char *)mp_out_memory_bytes(o, &size), want[i]);
        mp_out_cancel(o);
    }
    mp_mip_free(m);
}

static enum mp_status read_text(const char *text, int64_t *out, struct mp_error *err) {
    struct mp_mip *m = small_program();
    struct mp_arena *arena = mp_arena_new();
    struct mp_in *in = NULL;
    int64_t *values = NULL;
    enum mp_status status = mp_in_from_memory(&in, "s.txt", text, strlen(text), err);
    if (status == MP_OK)
        status = mp_mip_read_solution(&values, m, in, arena, err);
    if (status == MP_OK)
        memcpy(out, values, 3 * sizeof *values);
    mp_in_close(in);
    mp_arena_free(arena);
    mp_mip_free(m);
    return status;
}

static void test_mip__reads_answers_of_other_solvers(void **state) {
    (void)state;
    static const char *const good[] = {"x 1\ny 2\nt 3\n", "# Objective value = -1\n\n  y\t2.0000001 \r\nx 0.9999999\n",
                                       "=obj= -1\nx 1\ny 2", "t 2.99\ny 2\nx 1\n",
                                       "c Problem: \ns mip 2 3 o -1\ni 1 7\nj 1 1\nj 2 2\nj 3 3\ne o f\n"};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        struct mp_error err = {0};
        int64_t values[3];
        CHECK_OK(read_text(good[i], values, &err), err);
        assert_true(values[0] == 1 && values[1] == 2 && values[2] == 3);
    }
    static const struct {
        const char *text, *want;
    } bad[] = {
        {"", "s.txt:1:1: no solution in it (write a line NAME VALUE per variable)"},
        {"# nothing\n", "s.txt:1:1: no solution in it (write a line NAME VALUE per variable)"},
        {"x 1\nz 3\n", "s.txt:2:1: \"z\" is no variable of this problem (was another model solved, or with other "
                       "options?)"},
        {"x 1 2\n", "s.txt:1:1: 3 words where a name and a value are wanted (write NAME VALUE, # begins a comment)"},
        {"x\n", "s.txt:1:1: 1 words where a name and a value are wanted (write NAME VALUE, # begins a comment)"},
        {"x one\n", "s.txt:1:3: x: \"one\" is not a number"},
        {"x nan\n", "s.txt:1:3: x: \"nan\" is not a number"},
        {"y 0.5\n", "s.txt:1:3: y: \"0.5\" is not a whole number (solve it as an integer program, not its relaxation)"},
        {"x 1\nx 1\n", "s.txt:2:1: x: a second value (keep one)"},
        {"  x 2\n", "s.txt:1:5: x: 2 is not in [0, 1]"},
        {"y -1e300\n", "s.txt:1:3: y: \"-1e300\" is not a whole number (solve it as an integer program, not its "
                       "relaxation)"},
        {"s mip 2 3 o -1\nj 4 1\n", "s.txt:2:1: a column of a GLPK solution is \"j NUMBER VALUE\", with a number in "
                                    "[1, 3] (was it another model that was solved?)"},
        {"s mip 2 3 o -1\nx 1\n", "s.txt:2:1: \"x\" begins no line of a GLPK solution (write what glpsol -w does)"}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct mp_error err = {0};
        char text[1400];
        int64_t values[3];
        assert_int_equal(read_text(bad[i].text, values, &err), MP_EINPUT);
        assert_string_equal(mp_error_text(&err, text, sizeof text), bad[i].want);
    }
}

static enum mp_status flow(void *ctx, struct mp_error *err) {
    struct mp_mip *m = NULL;
    struct mp_arena *arena = mp_arena_new();
    struct mp_out *o = NULL;
    struct mp_in *in = NULL;
    int64_t *values;
    struct mp_mip_answer a;
    static const struct mp_mip_variable v = {.name = "x", .upper = 3, .cost = 1, .is_integer = true};
    static const struct mp_mip_term t = {0, 2};
    static const struct mp_mip_row r = {.name = "r", .lower = 3, .upper = MP_MIP_FREE, .n = 1, .terms = &t};
    const struct mp_mip_options options = {.node_limit = 100};
    enum mp_status status = arena == NULL ? mp_nomem(err, "a test") : MP_OK;
    if (status == MP_OK)
        status = mp_mip_new(&m, err);
    if (status == MP_OK)
        MP_TRY(mp_mip_add_variable(m, &v, NULL, err));
    if (status == MP_OK)
        MP_TRY(mp_mip_add_row(m, &r, err));
    for (int i = 0; i < 2 && status == MP_OK; i++) {
        MP_TRY(mp_out_open(&o, ctx, err));
        mp_mip_write(m, i == 1, "test", o);
        status = mp_out_commit(o, err);
    }
    if (status == MP_OK)
        MP_TRY(mp_in_from_memory(&in, "s", "x 2\n", 4, err));
    if (status == MP_OK)
        MP_TRY(mp_mip_read_solution(&values, m, in, arena, err));
    if (status == MP_OK)
        MP_TRY(mp_mip_solve(&a, m, &options, arena, err));
    if (status == MP_OK)
        assert_int_equal(a.values[0], 2);
out:
    mp_in_close(in);
    mp_mip_free(m);
    mp_arena_free(arena);
    return status;
}

static void test_mip__survives_faults(void **state) {
    (void)state;
    char path[512];
    snprintf(path, sizeof path, "%s", temp_path("program.lp"));
    sweep_faults(flow, path, 1);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mip__glpk_agrees_with_every_point),
        cmocka_unit_test(test_mip__what_glpk_cannot_do_does_not_end_the_process),
        cmocka_unit_test(test_mip__stops_at_its_nodes_the_same_way_every_time),
        cmocka_unit_test(test_mip__refuses_what_is_no_program),
        cmocka_unit_test(test_mip__texts),
        cmocka_unit_test(test_mip__reads_answers_of_other_solvers),
        cmocka_unit_test(test_mip__survives_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
