/* GRACE-MoE's Tables 1 and 2 (arXiv 2509.25041 v4) under their conditions, the paper's figure and ours in each cell.
 *
 * Conditions: two nodes of 2 (or 4) A100, NVLink 600 GB/s as printed, one 25 Gbit/s NIC per node; a batch of 256
 * requests, prefill of 128 tokens each, then 16 decode steps; experts profiled on one half of the requests, figures of
 * the other. Models in shape: OLMoE and Qwen3-30B-A3B on synthetic recordings (presets fitted to recorded counts; their
 * co-activation is assumed), DeepSeek-V2-Lite on recorded tokens.
 *
 * Occult: flat all-to-all, one copy per (token, GPU). HSC: one copy per (token, node), then a second all-to-all inside
 * the node. Idle: what a GPU waits in a layer, on average: from the end of its own transfers to the end of the
 * collective, for each phase, and from the end of its own experts to that of the slowest. The step is moeplan's model:
 * rooflines, no host time. Routing (docs/COST.md part 6) is 0 in the tables; a table of its own says what it would cost
 * before each phase and what of that HSC hides behind its first one.
 *
 * usage: bench_grace DATA_FOLDER [GPUS_PER_NODE [SLOTS_PERCENT]] */
#include <math.h>
#include <moeplan/moeplan.h>
#include <moeplan/sim.h>
#include <moeplan/strategy.h>
#include <moeplan/synth.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BATCH 256u
#define PREFILL_TOKENS 128u
#define DECODE_STEPS 16u
#define PREFILL_SAMPLES 3u
#define DECODE_SAMPLES 24u
#define N_MODELS 3u

static const struct mp_dispatcher flat = {"flat", "one copy per (token, GPU)", "Occult", MP_COPY_PER_GPU, 1, false};

enum metric { A2A, INTER, INTRA, IDLE, SPREAD, STEP, ONE_WAY, N_METRICS };
static const char *const metric_names[N_METRICS] = {"all-to-all time",   "cross-node traffic", "intra-node traffic",
                                                    "GPU idle time",     "GPU load std",       "whole step",
                                                    "busier way of NICs"};
/* A time of routing, of which nothing is known, before the phases of a dispatch. */
static const double routing_ns[] = {20e3, 100e3};
#define N_ROUTINGS (sizeof routing_ns / sizeof routing_ns[0])
struct figures {
    double of[N_METRICS];
    double routed[N_ROUTINGS], hidden[N_ROUTINGS]; /* all-to-all: each phase routed before it; behind the first */
};

static void require(enum mp_status status, const struct mp_error *err) {
    if (status == MP_OK)
        return;
    fprintf(stderr, "bench_grace: %s\n", err->message);
    exit(1);
}

struct column {
    const char *name, *replicate, *place, *route;
    bool is_flat;
    int64_t ratio;       /* of place grace; -2 = not set */
    double paper[STEP];  /* percent against Occult, mean of three models, 2 x 2 */
    bool needs_replicas; /* redundant slots */
    bool as_printed;     /* equation 4, in the weights */
};
static const struct column table1[] = {
    {"Occult", "none", "occult", "even", true, -2, {0, 0, 0, 0, 0}, false},
    {"+HSC", "none", "occult", "even", false, -2, {-35.19, -35.64, 100.13, -49.88, 0.02}, false},
    {"HG+HSC", "none", "grace", "even", false, -1, {-48.33, -50.67, 47.10, -4.78, 90.03}, false},
    {"+FR+WRR", "grace-fixed", "grace", "wrr", false, -1, {-44.52, -41.62, 76.33, -6.18, 51.32}, true},
    {"+DR+WRR", "grace-dynamic", "grace", "wrr", false, -1, {-44.91, -41.84, 78.41, -26.86, 31.92}, true},
    {"+DR+TAR", "grace-dynamic", "grace", "tar", false, -1, {-50.57, -52.11, 57.22, -25.66, 39.35}, true},
    /* Which reading of equation 4 theirs is, the paper does not say: the same columns again. */
    {"DR+WRR, printed", "grace-dynamic", "grace", "wrr", false, -1, {-44.91, -41.84, 78.41, -26.86, 31.92}, true, true},
    {"DR+TAR, printed", "grace-dynamic", "grace", "tar", false, -1, {-50.57, -52.11, 57.22, -25.66, 39.35}, true, true},
};
#define N_COLUMNS (sizeof table1 / sizeof table1[0])
#define LAST 5u /* the paper's */
/* Table 2 is of OLMoE alone: ms of all-to-all, idle, end to end. */
static const struct {
    struct column column;
    double a2a, idle, whole;
} table2[] = {
    {{"uniform (Occult)", "none", "occult", "even", false, -2, {0}, false}, 3494.02, 501.69, 6328.03},
    {{"controlled, r = 0.15", "none", "grace", "even", false, 15, {0}, false}, 2846.38, 506.93, 5698.10},
    {{"fully non-uniform", "none", "grace", "even", false, 1000000, {0}, false}, 2825.81, 617.16, 5747.50},
};
/* Component text of the paper: HG against Occult, both under HSC, by model. */
static const double paper_hg[N_MODELS][3] = {
    {-18.56, -19.21, -22.35}, {-17.96, -16.72, -15.00}, {-24.69, -34.77, -42.15}};
static const double paper_speedup[N_MODELS] = {1.45, 1.31, 1.31};

struct bed {
    const char *name;
    struct mp_trace *trace;
    struct mp_model *model;
    struct mp_topology *topology;
    struct mp_part part[2];
    struct mp_workload *profile, *prefill, *decode;
    uint32_t slots; /* of a GPU where groups may differ */
};

/* ---- one plan over one workload ---- */
struct scratch {
    struct mp_net *net;
    struct mp_traffic *traffic;
    uint64_t *finish;
};

/* One collective: its time, and what GPUs wait for each other in it (mean). */
static double collective(struct scratch *x, const struct mp_topology *t, const uint64_t *matrix, double *wait) {
    struct mp_error err = {0};
    const uint32_t n = t->n_gpus;
    uint64_t time = 0;
    double sum = 0;
    require(mp_net_concurrent(x->net, matrix, &time, x->finish, &err), &err);
    for (uint32_t g = 0; g < n; g++) {
        uint64_t end = 0;
        for (uint32_t h = 0; h < n; h++) {
            end = x->finish[g * n + h] > end ? x->finish[g * n + h] : end;
            end = x->finish[h * n + g] > end ? x->finish[h * n + g] : end;
        }
        sum += (double)(time - end);
    }
    *wait += sum / n;
    return (double)time;
}

/* Bytes that cross between the two nodes the way that has more of them. */
static double busier_way(const struct mp_topology *t, const uint64_t *matrix) {
    uint64_t way[2] = {0, 0};
    for (uint32_t i = 0; i < t->n_gpus; i++)
        for (uint32_t j = 0; j < t->n_gpus; j++)
            if (mp_topology_node(t, i) != mp_topology_node(t, j))
                way[mp_topology_node(t, i)] += matrix[i * t->n_gpus + j];
    return (double)(way[0] > way[1] ? way[0] : way[1]);
}

static void add_layer(const struct mp_cost_setup *s, struct scratch *x, double weight, struct figures *f) {
    const struct mp_topology *t = s->topology;
    const struct mp_traffic *m = x->traffic;
    const uint32_t n = t->n_gpus;
    double wait = 0, a2a = 0, mean = 0, square = 0;
    uint64_t slowest = 0, sum = 0, attention = 0, shared = 0;
    const double launches = (double)s->dispatcher->n_launches * (double)t->launch_ns;
    const double first = collective(x, t, m->dispatch, &wait),
                 dispatch = first + (m->has_second ? collective(x, t, m->dispatch2, &wait) : 0) + launches;
    a2a = dispatch + collective(x, t, m->combine, &wait) + (m->has_second ? collective(x, t, m->combine2, &wait) : 0) +
          launches;
    for (uint32_t g = 0; g < n; g++) {
        const uint64_t ns = mp_compute_ns(t, g, s->model, m->active[g], m->padded_rows[g]);
        const uint64_t at = mp_attention_ns(t, g, s->model, m->source_rows[g]);
        const uint64_t own = mp_shared_ns(t, g, s->model, m->source_rows[g]);
        slowest = ns > slowest ? ns : slowest;
        attention = at > attention ? at : attention;
        shared = own > shared ? own : shared;
        sum += ns;
        mean += (double)m->rows[g] / n;
    }
    for (uint32_t g = 0; g < n; g++)
        square += ((double)m->rows[g] - mean) * ((double)m->rows[g] - mean) / n;
    f->of[A2A] += weight * a2a;
    for (size_t i = 0; i < N_ROUTINGS; i++) {
        const double r = routing_ns[i], behind = first > r ? 0 : r - first;
        f->routed[i] += weight * (a2a + (m->has_second ? 2 * r : r));
        f->hidden[i] += weight * (a2a + (m->has_second ? r + behind : r));
    }
    f->of[INTER] += weight * (double)m->inter_bytes;
    f->of[INTRA] += weight * (double)m->intra_bytes;
    f->of[IDLE] += weight * (wait + (double)slowest - (double)sum / n);
    f->of[SPREAD] += weight * sqrt(square);
    f->of[ONE_WAY] += weight * (busier_way(t, m->dispatch) + busier_way(t, m->combine));
    f->of[STEP] += weight * (a2a + (double)slowest + (double)attention +
                             ((double)shared > dispatch ? (double)shared - dispatch : 0));
}

static void add_workload(const struct bed *b, const struct mp_plan *p, const struct mp_workload *w,
                         const struct mp_dispatcher *d, double steps, struct figures *f) {
    struct mp_error err = {0};
    struct mp_router *router;
    struct scratch x;
    require(mp_router_new(&router, p, &err), &err);
    require(mp_net_new(&x.net, b->topology, &err), &err);
    require(mp_traffic_new(&x.traffic, b->topology->n_gpus, &err), &err);
    x.finish = mp_calloc((size_t)b->topology->n_gpus * b->topology->n_gpus, sizeof *x.finish);
    const struct mp_cost_setup setup = {.plan = p,
                                        .router = router,
                                        .workload = w,
                                        .topology = b->topology,
                                        .model = b->model,
                                        .dispatcher = d,
                                        .sources = MP_SOURCES_DP};
    for (uint32_t s = 0; s < w->n_steps; s++) {
        for (uint32_t l = 0; l < p->n_layers; l++) {
            require(mp_traffic_compute(x.traffic, &setup, s, l, &err), &err);
            add_layer(&setup, &x, steps / w->n_steps, f);
        }
        f->of[STEP] += steps / w->n_steps * (double)b->model->other_ns_per_step;
    }
    mp_free(x.finish);
    mp_traffic_free(x.traffic);
    mp_net_free(x.net);
    mp_router_free(router);
}

/* The figures of one generation; false: this build has not the strategies, or they decline. */
static bool measure(const struct bed *b, const struct column *c, struct figures *f) {
    struct mp_error err = {0};
    struct mp_plan *p = NULL;
    enum mp_outcome outcome;
    const bool is_fixed = strcmp(c->replicate, "grace-fixed") == 0; /* the hottest expert of the fullest GPU, once */
    const struct mp_setting settings[] = {{c->route, "printed", c->as_printed},
                                          {"grace", "ratio", c->ratio == -2 ? -1 : c->ratio}};
    const bool has_weights = strcmp(c->route, "even") != 0;
    const bool is_uneven = strcmp(c->place, "grace") == 0;
    const uint32_t n_experts = b->trace->n_experts;
    *f = (struct figures){{0}};
    if (mp_strategy_find(MP_PLAN_REPLICATE, is_fixed ? "grace-dynamic" : c->replicate) == NULL ||
        mp_strategy_find(MP_PLAN_ROUTE, c->route) == NULL)
        return false;
    struct mp_plan_request request = {.planning = &b->part[0],
                                      .batching = b->profile->batching,
                                      .topology = b->topology,
                                      .model = b->model,
                                      .sim = {.dispatcher = mp_dispatcher_find("hierarchical"), .stage_mode = -1},
                                      .strategy = "contiguous",
                                      .replicate = is_fixed ? "grace-dynamic" : c->replicate,
                                      .place = c->place,
                                      .route = c->route,
                                      .order = "single",
                                      .n_redundant = !c->needs_replicas ? 0
                                                     : is_fixed         ? 1
                                                                        : n_experts / 2,
                                      .slots_per_gpu = is_uneven ? b->slots : 0,
                                      .settings = settings + !has_weights,
                                      .n_settings = 1 + has_weights,
                                      .needs_distinct = true,
                                      .is_trial = true,
                                      .n_threads = 2,
                                      .limits = &mp_limits_default};
    require(mp_plan_make(&p, &request, &outcome, NULL, &err), &err);
    if (p == NULL) {
        printf("  %s: %s\n", c->name, err.message);
        return false;
    }
    const struct mp_dispatcher *d = c->is_flat ? &flat : mp_dispatcher_find("hierarchical");
    add_workload(b, p, b->prefill, d, 1, f);
    add_workload(b, p, b->decode, d, DECODE_STEPS, f);
    mp_plan_free(p);
    return true;
}

/* ---- the test beds ---- */
static void make_topology(struct mp_topology **out, unsigned n_gpus) {
    struct mp_error err = {0};
    struct mp_in *in;
    char text[1024];
    const int n = snprintf(text, sizeof text,
                           "schema: moeplan.topology\nversion: 1\nname: grace\nlaunch: 10 us\nlevels:\n"
                           "  - name: nvlink\n    latency: 936 ns\n  - name: ethernet\n    latency: 20 us\ngroups:\n"
                           "  - repeat: 2\n    gpus:\n      - repeat: %u\n        type: a100\n"
                           "        ports: {nvlink: 600 GB/s, ethernet: {rate: 25 Gbit/s, shared_by: %u}}\n",
                           n_gpus, n_gpus);
    require(mp_in_from_memory(&in, "grace.yaml", text, (size_t)n, &err), &err);
    require(mp_topology_parse(out, in, &mp_limits_default, &err), &err);
    mp_in_close(in);
}

static void make_trace(struct bed *b, const char *data, uint32_t which) {
    static const char *const names[N_MODELS] = {"olmoe", "deepseek-v2-lite", "qwen3-30b-a3b"};
    struct mp_error err = {0};
    b->name = names[which];
    if (which == 1) {
        struct mp_trace_hints hints = mp_trace_hints_none;
        char path[1024];
        snprintf(path, sizeof path, "%s/traces/deepseek-v2-lite/chat_prefill.npz", data);
        hints.phase = MP_PHASE_PREFILL;
        hints.layer_base = 1;
        hints.ids_are_physical = 0;
        hints.n_experts = 64;
        require(mp_trace_load(&b->trace, path, &hints, &mp_limits_default, &err), &err);
    } else {
        struct mp_synth_params params;
        const char *name, *want = which == 0 ? "olmoe-like" : "qwen3-30b-a3b-like";
        uint32_t i = 0;
        while (mp_synth_preset(i, &name, NULL, &params) && strcmp(name, want) != 0)
            i++;
        params.n_requests = 80000 / params.tokens_per_request_mean;
        require(mp_synth_generate(&b->trace, &params, &mp_limits_default, &err), &err);
    }
    require(mp_model_load(&b->model, b->name, &mp_limits_default, &err), &err);
}

static struct mp_workload *steps_of(const struct bed *b, uint32_t part, enum mp_phase phase, uint32_t n_steps) {
    struct mp_error err = {0};
    struct mp_workload *w;
    const uint32_t n = b->topology->n_gpus;
    const struct mp_batching batching = {.phase = phase,
                                         .n_ranks = n,
                                         .batch_per_rank = BATCH / n,
                                         .tokens_per_rank = (uint64_t)BATCH * PREFILL_TOKENS / n,
                                         .n_steps_max = n_steps,
                                         .resample = true,
                                         .seed = 1 + part};
    require(mp_workload_build(&w, &b->part[part], &batching, &err), &err);
    return w;
}

static void set_up(struct bed *b, const char *data, uint32_t which, uint32_t n_gpus, uint32_t slots_percent) {
    struct mp_error err = {0};
    const struct mp_split split = {.kind = MP_SPLIT_HASH, .planning_ppm = 500000};
    make_topology(&b->topology, n_gpus);
    make_trace(b, data, which);
    require(mp_part_split(&b->part[0], &b->part[1], b->trace, &split, &err), &err);
    b->profile = steps_of(b, 0, MP_PHASE_PREFILL, 4);
    b->prefill = steps_of(b, 1, MP_PHASE_PREFILL, PREFILL_SAMPLES);
    b->decode = steps_of(b, 1, MP_PHASE_DECODE, DECODE_SAMPLES);
    b->slots = b->trace->n_experts * slots_percent / 100 / b->topology->n_gpus;
}

static void take_down(struct bed *b) {
    mp_workload_free(b->profile);
    mp_workload_free(b->prefill);
    mp_workload_free(b->decode);
    mp_part_free(&b->part[0]);
    mp_part_free(&b->part[1]);
    mp_topology_free(b->topology);
    mp_model_free(b->model);
    mp_trace_free(b->trace);
}

static double percent(double a, double b) { return 100 * (a / b - 1); }

/* ---- the tables ---- */
struct result {
    struct figures figures[N_COLUMNS];
    bool has[N_COLUMNS];
};

static void print_table1(const struct result r[N_MODELS], unsigned n_gpus) {
    printf("\nTable 1, 2 x %u GPUs: percent against Occult, mean of three models, paper%s / ours\n", n_gpus,
           n_gpus == 2 ? "" : " (2 x 2)");
    printf("%-20s", "");
    for (size_t c = 1; c < N_COLUMNS; c++)
        printf(" %20s", table1[c].name);
    for (int m = 0; m < N_METRICS; m++) {
        printf("\n%-20s", metric_names[m]);
        for (size_t c = 1; c < N_COLUMNS; c++) {
            double sum = 0;
            for (uint32_t k = 0; k < N_MODELS; k++)
                sum += percent(r[k].figures[c].of[m], r[k].figures[0].of[m]) / N_MODELS;
            char paper[32] = "-", ours[32] = "not built";
            if (m < STEP)
                snprintf(paper, sizeof paper, "%+.1f", table1[c].paper[m]);
            if (r[0].has[c])
                snprintf(ours, sizeof ours, "%+.1f", sum);
            printf(" %10s /%8s", paper, ours);
        }
    }
    printf("\n");
    for (uint32_t k = 0; k < N_MODELS; k++) {
        static const char *const names[N_MODELS] = {"OLMoE (synthetic)", "DeepSeek-V2-Lite", "Qwen3-30B (synthetic)"};
        const double *hsc = r[k].figures[1].of, *hg = r[k].figures[2].of;
        const size_t last = LAST;
        printf("%-22s HG against Occult under HSC, paper / ours: all-to-all %+.1f / %+.1f, cross-node %+.1f / %+.1f, "
               "intra-node %+.1f / %+.1f; whole against Occult %.2f / ",
               names[k], paper_hg[k][0], percent(hg[A2A], hsc[A2A]), paper_hg[k][1], percent(hg[INTER], hsc[INTER]),
               paper_hg[k][2], percent(hg[INTRA], hsc[INTRA]), paper_speedup[k]);
        if (r[k].has[last])
            printf("%.2f x\n", r[k].figures[0].of[STEP] / r[k].figures[last].of[STEP]);
        else
            printf("not built (HG+HSC alone %.2f x)\n", r[k].figures[0].of[STEP] / hg[STEP]);
    }
}

static void print_routing(const struct result r[N_MODELS]) {
    printf("\nall-to-all time where routing takes time, against Occult with that, mean of three models: each phase of "
           "HSC routed before it / the second behind the first\n%-20s",
           "");
    for (size_t c = 1; c <= LAST; c++)
        printf(" %20s", table1[c].name);
    for (size_t i = 0; i < N_ROUTINGS; i++) {
        printf("\n%3.0f us              ", routing_ns[i] / 1e3);
        for (size_t c = 1; c <= LAST; c++) {
            double serial = 0, hidden = 0;
            for (uint32_t k = 0; k < N_MODELS; k++) {
                serial += percent(r[k].figures[c].routed[i], r[k].figures[0].routed[i]) / N_MODELS;
                hidden += percent(r[k].figures[c].hidden[i], r[k].figures[0].hidden[i]) / N_MODELS;
            }
            if (r[0].has[c])
                printf(" %+10.1f /%+8.1f", serial, hidden);
        }
    }
    printf("\n");
}

/* Signs of the cells, and in each row the order of the columns by pairs: which are not as printed. */
static void print_agreement(const struct result r[N_MODELS]) {
    double ours[STEP][LAST + 1] = {{0}};
    uint32_t n_signs = 0, n_pairs = 0, n_wrong_signs = 0, n_wrong_pairs = 0;
    for (int m = 0; m < STEP; m++)
        for (size_t c = 1; c <= LAST; c++)
            for (uint32_t k = 0; k < N_MODELS; k++)
                ours[m][c] += percent(r[k].figures[c].of[m], r[k].figures[0].of[m]) / N_MODELS;
    printf("not as printed:");
    for (int m = 0; m < STEP; m++)
        for (size_t c = 1; c <= LAST; c++) {
            const double paper = table1[c].paper[m];
            if (!r[0].has[c])
                continue;
            if (fabs(paper) >= 1) { /* "+0.02 %" is no sign */
                n_signs++;
                if ((paper < 0) != (ours[m][c] < 0)) {
                    n_wrong_signs++;
                    printf(" sign of %s, %s;", metric_names[m], table1[c].name);
                }
            }
            for (size_t d = 0; d < c; d++) {
                const double other = table1[d].paper[m];
                if (fabs(paper - other) < 1 || !r[0].has[d])
                    continue;
                n_pairs++;
                if ((paper < other) != (ours[m][c] < ours[m][d])) {
                    n_wrong_pairs++;
                    printf(" %s of %s and %s;", metric_names[m], table1[d].name, table1[c].name);
                }
            }
        }
    printf("\nsigns as printed %u of %u, pairs of columns in the printed order %u of %u\n", n_signs - n_wrong_signs,
           n_signs, n_pairs - n_wrong_pairs, n_pairs);
}

static void print_table2(const struct bed *b) {
    struct figures f[3];
    printf("\nTable 2 (OLMoE, 2 x 2), here %s, 2 x %u GPUs, ms of a generation, paper / ours\n%-22s %20s %20s %20s\n",
           b->name, b->topology->n_gpus / 2, "", "all-to-all", "GPU idle", "end to end");
    for (int k = 0; k < 3; k++) {
        if (!measure(b, &table2[k].column, &f[k]))
            continue;
        printf(
            "%-22s %10.0f /%8.0f %10.0f /%8.0f %10.0f /%8.0f   against uniform %+.1f / %+.1f, %+.1f / %+.1f, %+.1f / "
            "%+.1f %%\n",
            table2[k].column.name, table2[k].a2a, f[k].of[A2A] / 1e6, table2[k].idle, f[k].of[IDLE] / 1e6,
            table2[k].whole, f[k].of[STEP] / 1e6, percent(table2[k].a2a, table2[0].a2a),
            percent(f[k].of[A2A], f[0].of[A2A]), percent(table2[k].idle, table2[0].idle),
            percent(f[k].of[IDLE], f[0].of[IDLE]), percent(table2[k].whole, table2[0].whole),
            percent(f[k].of[STEP], f[0].of[STEP]));
    }
}

int main(int argc, char **argv) {
    static struct result r[N_MODELS];
    const uint32_t n_gpus = argc > 2 ? (uint32_t)atoi(argv[2]) : 2;
    const uint32_t slots_percent = argc > 3 ? (uint32_t)atoi(argv[3]) : 200;
    if (argc < 2 || n_gpus < 1 || n_gpus > 8 || slots_percent < 100) {
        fprintf(stderr, "usage: bench_grace DATA_FOLDER [GPUS_PER_NODE [SLOTS_PERCENT]]\n");
        return 2;
    }
    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    for (uint32_t k = 0; k < N_MODELS; k++) {
        struct bed b = {0};
        set_up(&b, argv[1], k, n_gpus, slots_percent);
        for (size_t c = 0; c < N_COLUMNS; c++)
            r[k].has[c] = measure(&b, &table1[c], &r[k].figures[c]);
        if (k < 2) /* theirs is of OLMoE; recorded tokens beside it */
            print_table2(&b);
        take_down(&b);
    }
    print_table1(r, n_gpus);
    print_agreement(r);
    print_routing(r);
    return 0;
}
