/* Calibration over a transport that takes exactly as long as a topology says: the figures of that topology come back,
 * from whatever the one that was given said. And over threads, where times mean nothing but all must end. */
#include "../../../executor/calibrate_private.h"
#include "support.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- a transport of known speed ---- */

static const struct mp_topology *truth;
static uint64_t disturbed; /* added to every other run, in ns: the least of the runs does not see it */
static uint32_t n_runs;
static uint64_t burst;        /* bytes that every port lets pass at once in each run */
static uint32_t early;        /* so many first runs take as long as the longest: the search is misled */
static double uneven;         /* part by which runs of 8 bytes are longer than those of 64 */
static bool no_launch;        /* runs of a few bytes take no time at all */
static uint32_t n_of_mode[3]; /* scripts of several stages */
static double spoiled;        /* part by which rings of half of all sizes are longer; a fit sees it */

struct ex_link {
    uint8_t *blocks[64];
};

static enum mp_status known_open(struct ex_link **out, const struct ex_world *world, struct mp_error *err) {
    (void)world;
    *out = calloc(1, sizeof **out);
    return *out != NULL ? MP_OK : mp_nomem(err, "a link");
}
static enum mp_status known_alloc(struct ex_link *l, uint32_t rank, uint64_t bytes, void **view, struct mp_error *err) {
    (void)err;
    *view = l->blocks[rank] = malloc(bytes);
    return MP_OK;
}

/* From the figures alone: the busiest port of each stage. Patterns are even, so shares are too. credit: what each port
 * has left of its burst. */
static double stage_ns(const struct ex_script *s, uint32_t stage, double *credit) {
    double *loads = calloc(truth->n_resources, sizeof *loads), worst = 0, latency = 0;
    uint32_t *flows = calloc(truth->n_resources, sizeof *flows);
    for (uint32_t m = s->stage_first[stage]; m < s->stage_first[stage + 1]; m++) {
        struct mp_path path;
        mp_topology_path(truth, s->messages[m].src, s->messages[m].dst, &path);
        latency = (double)path.latency_ns > latency ? (double)path.latency_ns : latency;
        for (uint32_t k = 0; k < path.n; k++) {
            loads[path.resource[k]] += (double)s->messages[m].bytes;
            flows[path.resource[k]]++;
        }
        if (path.cap_bytes_per_s > 0)
            worst = fmax(worst, (double)s->messages[m].bytes / (double)path.cap_bytes_per_s);
    }
    for (uint32_t r = 0; r < truth->n_resources; r++) {
        const struct mp_resource *x = &truth->resources[r];
        const struct mp_level *level = &truth->levels[x->level];
        double rate = (double)x->bytes_per_s;
        if (x->is_in && !x->is_uplink && level->n_incast > 0 && flows[r] > 0)
            rate *= level->incast_ppm[(flows[r] < level->n_incast ? flows[r] : level->n_incast) - 1] / 1e6;
        const double at_once = fmin(credit[r], loads[r]);
        credit[r] -= at_once;
        loads[r] -= at_once;
        worst = fmax(worst, loads[r] / rate);
    }
    free(loads);
    free(flows);
    return worst * 1e9 + latency;
}
static enum mp_status known_run(struct ex_link *l, const struct ex_script *s, struct ex_times *times,
                                struct mp_error *err) {
    (void)l, (void)err;
    double ns = s->is_single ? (double)truth->launch_ns : 0, *credit = calloc(truth->n_resources, sizeof *credit);
    for (uint32_t r = 0; r < truth->n_resources; r++)
        credit[r] = (double)burst;
    for (uint32_t k = 0; k < s->n_stages; k++)
        ns += stage_ns(s, k, credit) + (s->is_single ? 0 : (double)truth->stage_launch_ns);
    free(credit);
    if (early > 0) {
        early--;
        ns = fmax(ns, 20e6);
    }
    n_of_mode[s->mode] += s->n_stages > 1;
    if (s->is_single && s->n_messages == s->n_ranks && s->messages[0].bytes > 64 && mp_mix64(s->messages[0].bytes) % 2)
        ns *= 1 + spoiled;
    if (s->is_single && s->messages[0].bytes <= 64)
        ns = no_launch ? 0 : ns * (1 + (s->messages[0].bytes == 8 ? uneven : 0));
    for (uint32_t r = 0; r < s->n_ranks; r++)
        times->total_ns[r] = (uint64_t)llround(ns) + (n_runs++ / s->n_ranks % 2 ? disturbed : 0);
    return MP_OK;
}
static enum mp_status known_compute(struct ex_link *l, uint32_t rank, const struct ex_gemm *q, uint64_t *ns,
                                    struct mp_error *err) {
    (void)l, (void)rank, (void)err;
    uint64_t rows = 0;
    for (uint32_t e = 0; e < q->n_experts; e++)
        rows += q->rows[e];
    *ns = (uint64_t)llround(fmax(20000 + 30000.0 * q->n_experts, 25000 + 80.0 * (double)rows));
    return MP_OK;
}
static enum mp_status known_barrier(struct ex_link *l, struct mp_error *err) {
    (void)l, (void)err;
    return MP_OK;
}
static enum mp_status known_gather(struct ex_link *l, const void *mine, void *all, size_t n, struct mp_error *err) {
    (void)l, (void)err;
    memcpy(all, mine, n * truth->n_gpus);
    return MP_OK;
}
static void known_abort(struct ex_link *l, const struct mp_error *why) { (void)l, (void)why; }
static void known_close(struct ex_link *l) {
    for (size_t i = 0; l != NULL && i < sizeof l->blocks / sizeof *l->blocks; i++)
        free(l->blocks[i]);
    free(l);
}
static const struct ex_transport known = {.name = "known",
                                          .limits = {.ops_per_stage = 256},
                                          .open = known_open,
                                          .alloc = known_alloc,
                                          .run = known_run,
                                          .compute = known_compute,
                                          .barrier = known_barrier,
                                          .gather = known_gather,
                                          .abort = known_abort,
                                          .close = known_close};

/* ---- cases ---- */

static struct mp_topology *topology_of(const char *text) {
    struct mp_topology *t = NULL;
    struct mp_error err = {0};
    struct mp_in *in = NULL;
    CHECK_OK(mp_in_from_memory(&in, "case.yaml", text, strlen(text), &err), err);
    CHECK_OK(mp_topology_parse(&t, in, &mp_limits_default, &err), err);
    mp_in_close(in);
    return t;
}

static struct mp_exec exec_of(const struct mp_topology *t, const char *transport) {
    return (struct mp_exec){.topology = t,
                            .transport = transport,
                            .stage_mode = -1,
                            .n_iterations = 2,
                            .n_ranks = t->n_gpus,
                            .n_local = t->n_gpus,
                            .n_threads = 1,
                            .deadline_ms = 10000,
                            .launcher_fd = -1};
}

static void check_rate(const char *what, uint64_t got, uint64_t want) {
    if (fabs((double)got / (double)want - 1) > 1e-6)
        fail_msg("%s: %llu, not %llu", what, (unsigned long long)got, (unsigned long long)want);
}
static void check_ns(const char *what, uint64_t got, uint64_t want) {
    if (got > want + 2 || got + 2 < want)
        fail_msg("%s: %llu ns, not %llu", what, (unsigned long long)got, (unsigned long long)want);
}

static struct mp_topology *given; /* of the last check: a calibration borrows from it */
/* Calibrates what `nominal` says over what `real` is: all figures are those of `real`. */
static struct mp_calibration *check(const char *nominal, const char *real) {
    struct mp_topology *want = topology_of(real);
    mp_topology_free(given);
    given = topology_of(nominal);
    struct mp_exec in = exec_of(given, "known");
    struct mp_calibration *c = NULL;
    struct mp_error err = {0};
    truth = want;
    CHECK_OK(ex_calibrate(&c, &in, &known, 1 << 22, 20, &err), err);
    const struct mp_topology *t = &c->topology;
    for (uint32_t r = 0; r < t->n_resources; r++)
        check_rate("a port", t->resources[r].bytes_per_s, want->resources[r].bytes_per_s);
    check_ns("launch", t->launch_ns, want->launch_ns);
    check_ns("stage", t->stage_launch_ns, want->stage_launch_ns);
    for (uint32_t l = 0; l < t->n_levels; l++) {
        check_ns("latency", t->levels[l].latency_ns, want->levels[l].latency_ns);
        if (want->levels[l].pair_bytes_per_s > 0)
            check_rate("a pair", t->levels[l].pair_bytes_per_s, want->levels[l].pair_bytes_per_s);
        if (t->levels[l].n_incast != want->levels[l].n_incast)
            fail_msg("%u factors of incast, not %u", t->levels[l].n_incast, want->levels[l].n_incast);
        for (uint32_t k = 0; k < t->levels[l].n_incast; k++)
            check_ns("incast, ppm", t->levels[l].incast_ppm[k], want->levels[l].incast_ppm[k]);
    }
    assert_int_equal(c->n_bad, 0);
    truth = NULL;
    mp_topology_free(want);
    return c;
}

#define HEAD(launch, stage)                                                                                            \
    "schema: moeplan.topology\nversion: 1\nname: case\nlaunch: " launch "\nstage_launch: " stage "\n"

static void test_calibrate__equal_ports(void **state) {
    (void)state;
    disturbed = 3000000;
    mp_calibration_free(
        check(HEAD("10 us", "10 us") "levels: [{name: nic, latency: 1 us}]\n"
                                     "gpus: [{repeat: 5, type: h100, ports: {nic: 100 Mbit/s}}]\n",
              HEAD("83 us", "41 us") "levels: [{name: nic, latency: 1 us}]\n"
                                     "gpus: [{repeat: 5, type: h100, ports: {nic: 87654321 kbit/s}}]\n"));
    disturbed = 0;
}

static void test_calibrate__unequal_ports(void **state) {
    (void)state;
    /* The one fast port is filled by all others together. */
    mp_calibration_free(check(HEAD("10 us", "10 us") "levels: [{name: nic, latency: 1 us}]\ngpus:\n"
                                                     "  - {repeat: 3, type: h100, ports: {nic: 20 MB/s}}\n"
                                                     "  - {repeat: 1, type: h100, ports: {nic: 50 MB/s}}\n"
                                                     "  - {repeat: 2, type: h100, ports: {nic: 10 MB/s}}\n",
                              HEAD("20 us", "5 us") "levels: [{name: nic, latency: 1 us}]\ngpus:\n"
                                                    "  - {repeat: 3, type: h100, ports: {nic: 19 MB/s}}\n"
                                                    "  - {repeat: 1, type: h100, ports: {nic: 47 MB/s}}\n"
                                                    "  - {repeat: 2, type: h100, ports: {nic: 9999 kB/s}}\n"));
}

static void test_calibrate__nodes_uplinks_and_shared_nics(void **state) {
    (void)state;
    static const char body[] = "levels: [{name: up, latency: %s}, {name: nic, latency: 5 us}]\ngroups:\n"
                               "  - repeat: 3\n    uplink: %s\n    gpus:\n"
                               "      - {repeat: 4, type: h100, ports: {up: %s, nic: {rate: %s, shared_by: 2}}}\n";
    char nominal[1000], real[1000];
    int n = snprintf(nominal, sizeof nominal, HEAD("10 us", "10 us"));
    snprintf(nominal + n, sizeof nominal - (size_t)n, body, "1 us", "15 MB/s", "450 MB/s", "10 MB/s");
    n = snprintf(real, sizeof real, HEAD("30 us", "15 us"));
    snprintf(real + n, sizeof real - (size_t)n, body, "2 us", "13 MB/s", "400 MB/s", "9 MB/s");
    mp_calibration_free(check(nominal, real));
}

static void test_calibrate__a_mesh(void **state) {
    (void)state;
    mp_calibration_free(check(HEAD("10 us", "10 us") "levels: [{name: xgmi, latency: 1 us, pair: 64 MB/s}]\n"
                                                     "gpus: [{repeat: 4, type: mi300x, ports: {xgmi: 150 MB/s}}]\n",
                              HEAD("11 us", "12 us") "levels: [{name: xgmi, latency: 1 us, pair: 55 MB/s}]\n"
                                                     "gpus: [{repeat: 4, type: mi300x, ports: {xgmi: 140 MB/s}}]\n"));
}

static void test_calibrate__incast(void **state) {
    (void)state;
    static const char ports[] = "gpus: [{repeat: 5, type: h100, ports: {nic: 20 MB/s}}]\n";
    char nominal[600], real[600];
    snprintf(nominal, sizeof nominal, HEAD("10 us", "10 us") "levels: [{name: nic, latency: 1 us}]\n%s", ports);
    snprintf(real, sizeof real,
             HEAD("10 us", "10 us") "levels: [{name: nic, latency: 1 us, incast: [1.0, 0.9, 0.8, 0.75]}]\n%s", ports);
    mp_calibration_free(check(nominal, real));
    mp_calibration_free(check(real, nominal)); /* a curve that is not seen is taken away */
}

static void test_calibrate__what_no_run_can_tell_is_kept(void **state) {
    (void)state;
    struct mp_topology *t =
        topology_of(HEAD("10 us", "10 us") "levels: [{name: up, latency: 1 us}, {name: nic, latency: 1 us}]\n"
                                           "groups:\n  - repeat: 2\n    uplink: 500 MB/s\n    gpus:\n"
                                           "      - {repeat: 1, type: h100, ports: {up: 450 MB/s, nic: 10 MB/s}}\n");
    struct mp_exec in = exec_of(t, "known");
    struct mp_calibration *c = NULL;
    struct mp_error err = {0};
    uint32_t n_kept = 0;
    truth = t;
    CHECK_OK(ex_calibrate(&c, &in, &known, 1 << 22, 20, &err), err);
    for (size_t i = 0; i < c->n_fits; i++) {
        n_kept += !c->fits[i].is_known;
        assert_true(c->fits[i].is_known || strncmp(c->fits[i].note, "kept: ", 6) == 0);
    }
    assert_int_equal(n_kept, 4); /* constant and ports of level up, the uplink, incast with one sender */
    for (uint32_t r = 0; r < t->n_resources; r++)
        check_rate("a port", c->topology.resources[r].bytes_per_s, t->resources[r].bytes_per_s);
    mp_calibration_free(c);
    mp_topology_free(t);
}

static void test_calibrate__a_bad_fit_is_said(void **state) {
    (void)state;
    struct mp_topology *t =
        topology_of(HEAD("10 us", "10 us") "levels: [{name: nic, latency: 1 us}]\n"
                                           "gpus: [{repeat: 3, type: h100, ports: {nic: 10 MB/s}}]\n");
    struct mp_exec in = exec_of(t, "known");
    struct mp_calibration *c = NULL;
    struct mp_error err = {0};
    truth = t;
    spoiled = 0.5;
    CHECK_OK(ex_calibrate(&c, &in, &known, 1 << 22, 20, &err), err);
    spoiled = 0;
    assert_in_range(c->n_bad, 1, 2);
    for (size_t i = 0; i < c->n_fits; i++) /* launches are what is left when bytes are taken off, at this rate */
        assert_true(c->fits[i].is_bad == (c->fits[i].kind == MP_FIT_RATE) || c->fits[i].kind == MP_FIT_LAUNCH);
    mp_calibration_free(c);
    mp_topology_free(t);
}

/* A port that lets bytes pass at once before its rate counts (tools/emulate's do), and short runs: sizes are beyond it,
 * or the fit is bad. */
static void test_calibrate__rates_are_those_behind_a_burst(void **state) {
    (void)state;
    static const uint64_t bursts[] = {0, 5000, 30000, 60000, 150000, 400000, 900000, 1500000, 3000000};
    struct mp_topology *t =
        topology_of(HEAD("10 us", "10 us") "levels: [{name: nic, latency: 1 us}]\n"
                                           "gpus: [{repeat: 4, type: h100, ports: {nic: 100 Mbit/s}}]\n");
    uint32_t n_good = 0, n_bad = 0;
    truth = t;
    for (size_t b = 0; b < sizeof bursts / sizeof *bursts; b++)
        for (uint64_t probe_ms = 2; probe_ms <= 50; probe_ms *= 5) {
            struct mp_exec in = exec_of(t, "known");
            struct mp_calibration *c = NULL;
            struct mp_error err = {0};
            burst = bursts[b];
            CHECK_OK(ex_calibrate(&c, &in, &known, 1 << 22, probe_ms, &err), err);
            burst = 0;
            assert_int_equal(c->fits[0].kind, MP_FIT_RATE);
            if (!c->fits[0].is_bad)
                check_rate("a port behind a burst", c->topology.resources[0].bytes_per_s, 12500000);
            assert_true(!c->fits[0].is_bad || bursts[b] >= 300000); /* there is room for sizes beyond */
            n_good += !c->fits[0].is_bad;
            n_bad += c->fits[0].is_bad;
            mp_calibration_free(c);
        }
    assert_true(n_good >= 15 && n_bad >= 3);
    mp_topology_free(t);
}

/* What disturbs the search for a size must not leave sizes that are too small. */
static void test_calibrate__a_search_that_ends_early_is_made_up_for(void **state) {
    (void)state;
    struct mp_topology *t =
        topology_of(HEAD("10 us", "10 us") "levels: [{name: nic, latency: 1 us}]\n"
                                           "gpus: [{repeat: 3, type: h100, ports: {nic: 100 Mbit/s}}]\n");
    struct mp_exec in = exec_of(t, "known");
    struct mp_calibration *c = NULL;
    struct mp_error err = {0};
    truth = t;
    early = 2;
    CHECK_OK(ex_calibrate(&c, &in, &known, 1 << 22, 20, &err), err);
    early = 0;
    assert_int_equal(c->n_bad, 0);
    check_rate("a port", c->topology.resources[0].bytes_per_s, 12500000);
    assert_true(c->fits[0].points[3].measured_ns > 2000000); /* 4096 bytes, where the search ended, take 0.3 ms */
    mp_calibration_free(c);
    mp_topology_free(t);
}

static const struct mp_fit *launch_of(const struct mp_calibration *c) {
    for (size_t i = 0; i < c->n_fits; i++)
        if (c->fits[i].kind == MP_FIT_LAUNCH)
            return &c->fits[i];
    fail_msg("no launch");
    return NULL;
}

static void test_calibrate__a_launch_that_varies_or_cannot_be_seen_is_bad(void **state) {
    (void)state;
    struct mp_topology *t =
        topology_of(HEAD("10 us", "10 us") "levels: [{name: nic, latency: 1 us}]\n"
                                           "gpus: [{repeat: 3, type: h100, ports: {nic: 10 MB/s}}]\n");
    struct mp_exec in = exec_of(t, "known");
    struct mp_calibration *c = NULL;
    struct mp_error err = {0};
    truth = t;
    uneven = 0.05;
    CHECK_OK(ex_calibrate(&c, &in, &known, 1 << 22, 20, &err), err);
    assert_int_equal(c->n_bad, 0);
    assert_true(launch_of(c)->is_known);
    mp_calibration_free(c);
    uneven = 0.5;
    CHECK_OK(ex_calibrate(&c, &in, &known, 1 << 22, 20, &err), err);
    uneven = 0;
    assert_int_equal(c->n_bad, 1);
    assert_true(launch_of(c)->is_bad && launch_of(c)->is_known);
    assert_non_null(strstr(launch_of(c)->note, "more than 10 %"));
    mp_calibration_free(c);
    no_launch = true;
    CHECK_OK(ex_calibrate(&c, &in, &known, 1 << 22, 20, &err), err);
    no_launch = false;
    assert_int_equal(c->n_bad, 1);
    assert_true(launch_of(c)->is_bad && !launch_of(c)->is_known);
    assert_int_equal(strncmp(launch_of(c)->note, "kept: 4 of 4 short runs", 23), 0);
    assert_int_equal(c->topology.launch_ns, t->launch_ns); /* what was given, not 0 */
    check_ns("stage", c->topology.stage_launch_ns, t->stage_launch_ns);
    check_ns("latency", c->topology.levels[0].latency_ns, t->levels[0].latency_ns);
    mp_calibration_free(c);
    mp_topology_free(t);
}

static void test_calibrate__computation(void **state) {
    (void)state;
    struct mp_topology *t =
        topology_of(HEAD("10 us", "10 us") "levels: [{name: nic, latency: 1 us}]\n"
                                           "gpus: [{repeat: 2, type: h100, ports: {nic: 10 MB/s}}]\n");
    struct mp_model *model = NULL;
    struct mp_exec in = exec_of(t, "known");
    struct mp_calibration *c = NULL;
    struct mp_error err = {0};
    CHECK_OK(mp_model_generic(&model, NULL, 1, 16, 2, &err), err);
    in.model = model;
    truth = t;
    CHECK_OK(ex_calibrate(&c, &in, &known, 1 << 22, 20, &err), err);
    const struct mp_gpu_type *type = &c->topology.types[t->gpus[0].type];
    assert_int_equal(type->n_coefficients, 1);
    assert_string_equal(type->coefficients[0].model, model->name);
    const uint64_t got[] = {type->coefficients[0].a_ps, type->coefficients[0].b_ps, type->coefficients[0].c_ps,
                            type->coefficients[0].beta_ps},
                   want[] = {20000000, 30000000, 25000000, 80000};
    for (int i = 0; i < 4; i++)
        check_rate("a coefficient", got[i], want[i]);
    mp_calibration_free(c);
    mp_model_free(model);
    mp_topology_free(t);
}

/* What is fitted is a stage as the transport runs it, and that is said. */
static void test_calibrate__a_stage_is_timed_as_the_transport_runs_it(void **state) {
    (void)state;
    static const enum mp_stage_mode runs[2][4] = {
        {MP_STAGE_FREE, MP_STAGE_FREE, MP_STAGE_BARRIER, MP_STAGE_COUPLED},
        {MP_STAGE_COUPLED, MP_STAGE_COUPLED, MP_STAGE_BARRIER, MP_STAGE_COUPLED}};
    struct mp_topology *t =
        topology_of(HEAD("10 us", "10 us") "levels: [{name: nic, latency: 1 us}]\n"
                                           "gpus: [{repeat: 3, type: h100, ports: {nic: 10 MB/s}}]\n");
    truth = t;
    for (int couples = 0; couples < 2; couples++)
        for (int wanted = -1; wanted < 3; wanted++) {
            struct ex_transport transport = known;
            struct mp_exec in = exec_of(t, "known");
            struct mp_calibration *c = NULL;
            struct mp_error err = {0};
            struct mp_out *out = NULL;
            size_t n;
            transport.limits.couples = couples;
            in.stage_mode = wanted;
            memset(n_of_mode, 0, sizeof n_of_mode);
            CHECK_OK(ex_calibrate(&c, &in, &transport, 1 << 22, 20, &err), err);
            const enum mp_stage_mode mode = runs[couples][wanted + 1];
            assert_int_equal(c->stage_mode, mode);
            for (int m = 0; m < 3; m++)
                assert_true((n_of_mode[m] > 0) == (m == (int)mode));
            CHECK_OK(mp_out_open_memory(&out, &err), err);
            mp_calibration_write_topology(c, out);
            mp_calibration_write_json(c, out);
            mp_out_write(out, "", 1);
            char words[2][64];
            snprintf(words[0], sizeof words[0], "stages %s,", mp_stage_mode_name(mode));
            snprintf(words[1], sizeof words[1], "\"stage_mode\": \"%s\"", mp_stage_mode_name(mode));
            for (int k = 0; k < 2; k++)
                assert_non_null(strstr((const char *)mp_out_memory_bytes(out, &n), words[k]));
            CHECK_OK(mp_out_commit(out, &err), err);
            mp_calibration_free(c);
        }
    mp_topology_free(t);
}

/* ---- files ---- */

static void test_calibrate__what_is_written_is_read_back(void **state) {
    (void)state;
    struct mp_calibration *c = check(HEAD("10 us", "10 us") "levels: [{name: nic, latency: 1 us}]\n"
                                                            "gpus: [{repeat: 3, type: h100, ports: {nic: 20 MB/s}}]\n",
                                     HEAD("20 us", "5 us") "levels: [{name: nic, latency: 1 us, incast: [1.0, 0.5]}]\n"
                                                           "gpus: [{repeat: 3, type: h100, ports: {nic: 19 MB/s}}]\n");
    struct mp_out *out = NULL;
    struct mp_error err = {0};
    size_t n;
    CHECK_OK(mp_out_open_memory(&out, &err), err);
    mp_calibration_write_topology(c, out);
    mp_out_write(out, "", 1);
    const char *text = (const char *)mp_out_memory_bytes(out, &n);
    assert_non_null(strstr(text, "# ports of nic, nominal 20000000 B/s: "));
    struct mp_topology *back = topology_of(text);
    assert_int_equal(back->launch_ns, c->topology.launch_ns);
    assert_int_equal(back->stage_launch_ns, c->topology.stage_launch_ns);
    assert_int_equal(back->levels[0].incast_ppm[1], c->topology.levels[0].incast_ppm[1]);
    assert_int_equal(back->resources[0].bytes_per_s, c->topology.resources[0].bytes_per_s);
    mp_topology_free(back);
    CHECK_OK(mp_out_commit(out, &err), err);
    CHECK_OK(mp_out_open_memory(&out, &err), err);
    mp_calibration_write_json(c, out);
    mp_calibration_write_text(c, NULL, out);
    assert_non_null(mp_out_memory_bytes(out, &n));
    CHECK_OK(mp_out_commit(out, &err), err);
    mp_calibration_free(c);
}

static void test_calibrate__over_threads(void **state) {
    (void)state;
    struct mp_topology *t =
        topology_of(HEAD("10 us", "10 us") "levels: [{name: up, latency: 1 us}, {name: nic, latency: 1 us}]\n"
                                           "groups:\n  - repeat: 2\n    gpus:\n"
                                           "      - {repeat: 2, type: h100, ports: {up: 450 GB/s, nic: 50 GB/s}}\n");
    struct mp_exec in = exec_of(t, "loop");
    struct mp_calibration *c = NULL;
    struct mp_error err = {0};
    CHECK_OK(mp_calibrate(&c, &in, 1 << 18, 1, &err), err);
    for (size_t i = 0; i < c->n_fits; i++)
        assert_true(c->fits[i].is_known || c->fits[i].note[0] != '\0');
    mp_calibration_free(c);
    in.fault = "kill@3/0/0/1"; /* rank 1 dies in the fourth probe */
    in.deadline_ms = 300;
    assert_int_equal(mp_calibrate(&c, &in, 1 << 18, 1, &err), MP_EPEER);
    assert_null(c);
    mp_topology_free(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_calibrate__equal_ports),
        cmocka_unit_test(test_calibrate__unequal_ports),
        cmocka_unit_test(test_calibrate__nodes_uplinks_and_shared_nics),
        cmocka_unit_test(test_calibrate__a_mesh),
        cmocka_unit_test(test_calibrate__incast),
        cmocka_unit_test(test_calibrate__what_no_run_can_tell_is_kept),
        cmocka_unit_test(test_calibrate__a_bad_fit_is_said),
        cmocka_unit_test(test_calibrate__rates_are_those_behind_a_burst),
        cmocka_unit_test(test_calibrate__a_search_that_ends_early_is_made_up_for),
        cmocka_unit_test(test_calibrate__a_launch_that_varies_or_cannot_be_seen_is_bad),
        cmocka_unit_test(test_calibrate__computation),
        cmocka_unit_test(test_calibrate__a_stage_is_timed_as_the_transport_runs_it),
        cmocka_unit_test(test_calibrate__what_is_written_is_read_back),
        cmocka_unit_test(test_calibrate__over_threads),
    };
    const int n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    mp_topology_free(given);
    return n_failed;
}
