/* Exact solving: the known optima, how large a problem is proven in 1 s (and in 60 s with --long), unequal GPUs against
 * every assignment, and, given a data folder, reduced recorded problems against what `auto` makes of them.
 * usage: bench_exact [--long] [--only known|load|steps|coloc|recorded] [DATA FOLDER] */
#include "assign.h"
#include "bench_two_models.h"
#include "exact_load.h"
#include "exact_steps.h"
#include "planner.h"
#include <math.h>
#include <moeplan/base.h>
#include <moeplan/strategy.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Of this thread's processor time: what else runs on the machine does not count. */
static double now(void) { return bench_seconds(); }
static void need(enum mp_status status, const struct mp_error *err) {
    if (status == MP_OK)
        return;
    fprintf(stderr, "bench_exact: %s\n", err->message);
    exit(1);
}
#define NEED(call) need((call), &err)

/* Searches are counted in nodes: how many make up `seconds` is found by running longer each time. */
struct frontier {
    double seconds, slowest, gap;
    uint64_t nodes; /* of the next run */
    unsigned proven, tried;
};
static struct frontier frontier_new(double seconds, uint64_t nodes_per_s) {
    return (struct frontier){.seconds = seconds, .nodes = (uint64_t)(seconds * (double)nodes_per_s)};
}
/* One run took s; true: worth another one of the same problem, with more nodes. */
static bool frontier_goes_on(struct frontier *f, double s, bool is_proven, double gap) {
    if (!is_proven && s < 0.7 * f->seconds) {
        const double times = s > 0 ? 0.95 * f->seconds / s : 16;
        f->nodes = (uint64_t)((double)f->nodes * (times < 16 ? times : 16));
        return true;
    }
    f->tried++;
    f->proven += is_proven && s <= f->seconds;
    f->slowest = fmax(f->slowest, s);
    f->gap = fmax(f->gap, gap);
    return false;
}
/* One failure in 60 s is dear enough. */
static bool frontier_is_done(const struct frontier *f, unsigned n) {
    return f->tried == n || f->tried - f->proven > (f->seconds > 10 ? 0 : 1);
}
static void frontier_print(const struct frontier *f, unsigned n) {
    printf(" %2u of %u, slowest %6.3f s, gap %.3f %%;", f->proven, n, f->slowest, 100 * f->gap);
}

/* ---- replica counts and placement of least load ---- */
static double run_load(const uint64_t *load, uint32_t n, uint32_t n_gpus, uint32_t n_slots, uint64_t nodes,
                       struct mp_exact_load_answer *a) {
    struct mp_error err = {0};
    uint32_t slots[MP_EXACT_LOAD_GPUS];
    for (uint32_t g = 0; g < n_gpus; g++)
        slots[g] = n_slots / n_gpus;
    const struct mp_exact_load in = {n, n_gpus, load, slots, n_slots, nodes};
    double start = now();
    NEED(mp_exact_load_solve(a, &in, &err));
    return now() - start;
}

static void known_optima(void) {
    static const struct {
        const char *name;
        uint64_t load[12];
        uint32_t n;
        double optimum;
    } known[] = {{"EPLB README layer 0", {90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86}, 12, 136},
                 {"EPLB README layer 1", {20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27}, 12, 172},
                 {"FlashLB example", {600, 560, 120, 120, 20, 10, 10, 10}, 8, 590.0 / 3}};
    printf(
        "replicate + place, 16 slots on 8 GPUs (reference: enumeration; GLPK on a direct model: unproven in 120 s)\n");
    for (int i = 0; i < 3; i++) {
        struct mp_exact_load_answer a;
        double s = run_load(known[i].load, known[i].n, 8, 16, 0, &a);
        printf("  %-20s %8.3f %-8s %6llu nodes %.5f s   reference: %.3f, < 1 s\n", known[i].name, (double)a.value / 840,
               a.outcome == MP_FOUND ? "proven" : "stopped", (unsigned long long)a.nodes, s, known[i].optimum);
    }
}

static void zipf_load(struct mp_rng *rng, uint64_t *load, uint32_t n) {
    for (uint32_t e = 0; e < n; e++)
        load[e] = (uint64_t)(10000 / pow(e + 1, 0.8) * (0.7 + 0.6 * mp_rng_unit(rng)));
}

static void load_frontier(double seconds) {
    static const uint32_t sizes[][2] = {{8, 4},  {12, 4}, {16, 4}, {24, 4},  {32, 4}, {8, 8},
                                        {16, 8}, {24, 8}, {32, 8}, {32, 16}, {64, 16}};
    const unsigned n_problems = seconds > 10 ? 2 : 10;
    printf("replicate + place, Zipf 0.8, 25 %% redundant slots: proven in %.0f s\n", seconds);
    for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
        uint32_t n = sizes[k][0], n_gpus = sizes[k][1], n_slots = (n + n / 4 + n_gpus - 1) / n_gpus * n_gpus;
        struct frontier f = frontier_new(seconds, 3000000);
        struct mp_rng rng = mp_rng_seed(k);
        while (!frontier_is_done(&f, n_problems)) {
            uint64_t load[MP_EXACT_LOAD_EXPERTS];
            struct mp_exact_load_answer a;
            double s;
            zipf_load(&rng, load, n);
            do
                s = run_load(load, n, n_gpus, n_slots, f.nodes, &a);
            while (frontier_goes_on(&f, s, a.outcome == MP_FOUND, (double)a.value / (double)a.bound - 1));
        }
        printf("  %2u experts, %2u slots, %2u GPUs:", n, n_slots, n_gpus);
        frontier_print(&f, n_problems);
        printf("\n");
    }
}

/* ---- unequal GPUs, one expert each ---- */
#define N 8
struct unequal {
    uint64_t wire[N * N], compute[N * N]; /* [expert][gpu] */
    uint64_t best;
    uint32_t used;
};
static void every_assignment(struct unequal *u, uint32_t e, uint64_t wire, uint64_t compute) {
    if (2 * wire + compute >= u->best)
        return;
    if (e == N) {
        u->best = 2 * wire + compute;
        return;
    }
    for (uint32_t g = 0; g < N; g++) {
        if (u->used >> g & 1)
            continue;
        uint64_t w = u->wire[e * N + g], c = u->compute[e * N + g];
        u->used |= 1u << g;
        every_assignment(u, e + 1, w > wire ? w : wire, c > compute ? c : compute);
        u->used &= ~(1u << g);
    }
}

/* Aurora's layer: slowest dispatch, slowest expert, the same wire back; sources move with their experts. */
static void unequal_gpus(void) {
    static const uint64_t gbps[N] = {100, 100, 80, 80, 50, 50, 40, 40};
    struct mp_rng rng = mp_rng_seed(2);
    unsigned n_optimal = 0, n_proven = 0, n = 1000;
    double seconds = 0, sorted_sum = 0, sorted_max = 0;
    for (unsigned i = 0; i < n; i++) {
        struct unequal u = {.best = UINT64_MAX};
        struct mp_error err = {0};
        uint64_t send[N] = {0}, take[N] = {0}, twice[N * N], sum, bound, nodes;
        uint32_t by_load[N], to[N];
        double skew = 0.4 + 0.8 * mp_rng_unit(&rng);
        bool is_found, is_proven;
        for (uint32_t a = 0; a < N; a++)
            for (uint32_t b = 0; b < N; b++) {
                uint64_t tokens = (uint64_t)(100000 / pow(b + 1, skew) * (0.5 + mp_rng_unit(&rng)));
                send[a] += a != b ? tokens : 0;
                take[b] += a != b ? tokens : 0;
            }
        for (uint32_t e = 0; e < N; e++) {
            by_load[e] = e;
            for (uint32_t k = e; k > 0 && take[by_load[k]] > take[by_load[k - 1]]; k--) {
                uint32_t swap = by_load[k];
                by_load[k] = by_load[k - 1];
                by_load[k - 1] = swap;
            }
            for (uint32_t g = 0; g < N; g++) {
                uint64_t most = send[e] > take[e] ? send[e] : take[e];
                u.wire[e * N + g] = most * 1000 / gbps[g];
                twice[e * N + g] = 2 * u.wire[e * N + g];
                u.compute[e * N + g] = take[e] * 400 / gbps[g];
            }
        }
        const uint64_t *const tables[2] = {twice, u.compute};
        double start = now();
        NEED(mp_assign_sum(N, N, 2, tables, 0, to, &sum, &bound, &nodes, &is_found, &is_proven, &err));
        seconds += now() - start;
        uint64_t wire = 0, compute = 0;
        for (uint32_t k = 0; k < N; k++) {
            wire = u.wire[by_load[k] * N + k] > wire ? u.wire[by_load[k] * N + k] : wire;
            compute = u.compute[by_load[k] * N + k] > compute ? u.compute[by_load[k] * N + k] : compute;
        }
        every_assignment(&u, 0, 0, 0);
        double ratio = (double)(2 * wire + compute) / (double)u.best;
        sorted_sum += ratio;
        sorted_max = fmax(sorted_max, ratio);
        n_optimal += sum == u.best;
        n_proven += is_proven && bound == sum;
    }
    printf(
        "unequal GPUs (100/80/50/40), n = 8, Zipf 0.4 to 1.2, Aurora's layer time: sum of bottlenecks\n"
        "  optimal %u and proven %u of %u   reference: 1000 of 1000 (all 8! assignments)   %.6f s each\n"
        "  Aurora's sorted order / optimum: mean %.4f, max %.4f   reference: mean 1.05-1.06, max 1.13 at mild skew\n",
        n_optimal, n_proven, n, seconds / n, sorted_sum / n, sorted_max);
}

/* ---- the objective per step ---- */
struct source {                   /* what a reduced problem is made of */
    const struct mp_trace *trace; /* NULL = synthetic */
    uint32_t layer, first_request;
    uint64_t seed;
};

struct reduced {
    struct mp_trace *trace;
    struct mp_topology *topology;
    struct mp_model *model;
    struct mp_part part, unused;
    struct mp_workload *workload;
    struct mp_plan_request request;
};

/* 64 requests of 24 tokens over n experts; of a recording the first two experts of each token, ids modulo n. */
static void make_reduced(struct reduced *r, const struct source *from, uint32_t n, uint32_t n_gpus) {
    struct mp_error err = {0};
    struct mp_trace_builder *b;
    struct mp_rng rng = mp_rng_seed(from->seed);
    char topology[16];
    const struct mp_trace_meta meta = {.kind = MP_TRACE_TOKENS,
                                       .phase = MP_PHASE_DECODE,
                                       .model = "reduced",
                                       .format = "bench",
                                       .n_layers = 1,
                                       .n_experts = n,
                                       .top_k = 2};
    *r = (struct reduced){0};
    NEED(mp_trace_builder_new(&b, &meta, &mp_limits_default, &err));
    uint32_t made = 0;
    for (uint32_t q = from->first_request; made < 64; q++) {
        const struct mp_trace *t = from->trace;
        uint64_t first = 0, rows = 24;
        if (t != NULL) {
            first = t->requests[q % t->n_requests].first_row;
            rows = t->requests[q % t->n_requests].n_rows;
            if (rows < 24)
                continue;
        }
        const struct mp_request request = {.id = q, .source = MP_NONE, .category = MP_NONE};
        NEED(mp_trace_builder_request(b, &request, &err));
        made++;
        for (uint32_t i = 0; i < 24; i++) {
            uint16_t ids[MP_MAX_TOP_K] = {0}, two[2];
            if (t != NULL) {
                (void)mp_trace_row(t, from->layer, first + i, ids);
            } else {
                ids[0] = (uint16_t)mp_rng_below(&rng, 1 + mp_rng_below(&rng, n));
                ids[1] = (uint16_t)mp_rng_below(&rng, 1 + mp_rng_below(&rng, n));
            }
            two[0] = (uint16_t)(ids[0] % n);
            two[1] = (uint16_t)(ids[1] % n);
            two[1] = two[0] == two[1] ? (uint16_t)((two[1] + 1) % n) : two[1];
            NEED(mp_trace_builder_row(b, two, NULL, &err));
        }
    }
    NEED(mp_trace_builder_finish(b, "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", &r->trace,
                                 &err));
    snprintf(topology, sizeof topology, "%u:h100", n_gpus);
    NEED(mp_topology_load(&r->topology, topology, &mp_limits_default, &err));
    NEED(mp_model_generic(&r->model, NULL, 1, n, 2, &err));
    const struct mp_split split = {.kind = MP_SPLIT_NONE};
    NEED(mp_part_split(&r->part, &r->unused, r->trace, &split, &err));
    r->request = (struct mp_plan_request){
        .planning = &r->part,
        .batching = {.phase = MP_PHASE_DECODE, .n_ranks = n_gpus, .batch_per_rank = 64 / n_gpus, .n_steps_max = 16},
        .split = split,
        .topology = r->topology,
        .model = r->model,
        .sim = {.dispatcher = mp_dispatcher_find("deepep-ll"), .stage_mode = -1},
        .order = "single",
        .n_threads = 1,
        .limits = &mp_limits_default};
    NEED(mp_workload_build(&r->workload, &r->part, &r->request.batching, &err));
}

static void free_reduced(struct reduced *r) {
    mp_workload_free(r->workload);
    mp_part_free(&r->part);
    mp_part_free(&r->unused);
    mp_trace_free(r->trace);
    mp_topology_free(r->topology);
    mp_model_free(r->model);
}

/* The optimum of these steps. */
static double search(const struct reduced *r, const struct mp_workload *steps, enum mp_objective objective,
                     uint64_t nodes, struct mp_exact_steps_answer *a) {
    struct mp_error err = {0};
    const struct mp_problem *p;
    uint16_t copies[MP_EXACT_COPIES];
    uint64_t load[MP_EXACT_COPIES] = {0};
    uint32_t n = r->trace->n_experts, slots[MP_EXACT_GPUS], n_gpus = r->topology->n_gpus;
    struct mp_plan *shape;
    const struct mp_problem problem = {.workload = steps,
                                       .topology = r->topology,
                                       .model = r->model,
                                       .sim = r->request.sim,
                                       .objective = objective,
                                       .load = load};
    p = &problem;
    for (uint32_t g = 0; g < n_gpus; g++)
        slots[g] = (n + n_gpus - 1) / n_gpus;
    for (uint32_t e = 0; e < n; e++)
        copies[e] = (uint16_t)e;
    NEED(mp_plan_new(&shape, 1, n, n_gpus, slots, &err));
    const struct mp_exact_steps in = {
        .problem = p, .shape = shape, .n_copies = n, .copies = copies, .node_limit = nodes};
    double start = now();
    NEED(mp_exact_steps_solve(a, &in, &err));
    mp_plan_free(shape);
    return now() - start;
}

static void steps_frontier(double seconds) {
    static const uint32_t sizes[][2] = {{12, 2}, {16, 2}, {20, 2}, {24, 2}, {8, 4},  {12, 4}, {14, 4},
                                        {16, 4}, {18, 4}, {20, 4}, {8, 8},  {10, 8}, {12, 8}};
    const unsigned n_problems = seconds > 10 ? 2 : 5;
    printf("placement, 16 steps of 64 tokens, synthetic: proven in %.0f s (step time; rows)\n", seconds);
    for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
        printf("  %2u experts, %u GPUs:", sizes[k][0], sizes[k][1]);
        for (int o = 0; o < 2; o++) {
            struct frontier f = frontier_new(seconds, o == 0 ? 200000 : 1000000);
            for (uint64_t i = 0; !frontier_is_done(&f, n_problems); i++) {
                struct reduced r;
                struct mp_exact_steps_answer a;
                const struct source from = {.seed = 100 * k + i};
                double s;
                make_reduced(&r, &from, sizes[k][0], sizes[k][1]);
                do
                    s = search(&r, r.workload, o == 0 ? MP_OBJECTIVE_STEP : MP_OBJECTIVE_PEAK, f.nodes, &a);
                while (frontier_goes_on(&f, s, a.outcome == MP_FOUND, (double)a.value / (double)a.bound - 1));
                free_reduced(&r);
            }
            frontier_print(&f, n_problems);
        }
        printf("\n");
    }
}

/* ---- two models on unequal GPUs ---- */
static void coloc_frontier(double seconds) {
    static const uint32_t sizes[] = {4, 6, 8, 10, 12, 16};
    static uint64_t tokens[2][BENCH_TWO_MODELS_GPUS * BENCH_TWO_MODELS_GPUS];
    const unsigned n_problems = seconds > 10 ? 2 : 10;
    printf("colocation, GPUs of 4 types (bench_coloc's problems): proven in %.0f s (timeline; closed form)\n", seconds);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        const uint32_t n = sizes[i];
        printf("  %2u GPUs:", n);
        for (int o = 0; o < 2; o++) {
            struct frontier f = frontier_new(seconds, n <= 10 ? 2000000 : 400000);
            for (uint32_t k = 0; !frontier_is_done(&f, n_problems); k++) {
                struct mp_error err = {0};
                struct mp_arena *arena = mp_arena_new();
                /* every exponent and kind of sources among the problems */
                struct mp_coloc_problem p = bench_two_models(arena, n, 3 * k, (uint64_t *[2]){tokens[0], tokens[1]});
                double s, gap;
                bool is_proven;
                p.objective = o == 0 ? MP_COLOC_TIMELINE : MP_COLOC_CLOSED;
                do {
                    struct mp_coloc_plan *plan;
                    struct mp_coloc_times t;
                    enum mp_outcome outcome;
                    p.work_limit = f.nodes;
                    s = now();
                    NEED(mp_coloc_solve(&plan, mp_coloc_strategy_find("exact"), &p, &outcome, &err));
                    s = now() - s;
                    NEED(mp_coloc_evaluate(&t, &p, plan, NULL, &err));
                    gap = (double)(o == 0 ? t.timeline_ns : t.closed_ns) / (double)plan->bound_ns - 1;
                    is_proven = plan->is_optimal;
                    mp_coloc_plan_free(plan);
                } while (frontier_goes_on(&f, s, is_proven, gap));
                mp_arena_free(arena);
            }
            frontier_print(&f, n_problems);
        }
        printf("\n");
    }
}

/* What the transfers and experts of a plan's steps take in all. */
static uint64_t moe_ns(const struct reduced *r, const struct mp_plan *p, const struct mp_workload *steps) {
    struct mp_error err = {0};
    struct mp_sim_result *result;
    uint64_t moe = 0;
    NEED(mp_simulate(&result, p, steps, r->topology, r->model, &r->request.sim, &err));
    for (uint32_t k = 0; k < result->n_steps; k++)
        moe += result->steps[k].dispatch_ns + result->steps[k].compute_ns + result->steps[k].combine_ns;
    mp_sim_result_free(result);
    return moe;
}

struct gap {
    double sum, worst;
};
static void add_gap(struct gap *g, uint64_t value, uint64_t optimum) {
    const double gap = (double)value / (double)optimum - 1;
    g->sum += gap;
    g->worst = fmax(g->worst, gap);
}

/* `auto` and `search` look at steps drawn from the requests, for steps that are not known; with fits_steps (the
 * program's
 * --fit steps) at the steps they are given. Each is held against both optima. */
static void reduced_recordings(const char *folder) {
    static const char *const names[] = {"traces/gpt-oss-20b/tulu_polyglot.npz",
                                        "traces/deepseek-v2-lite/chat_prefill.npz"};
    static const struct {
        const char *name, *strategy;
        bool fits_steps, no_exact;
        int looks_at; /* 0 the given steps, 1 drawn ones */
    } rows[] = {{"auto", "auto", false, false, 1},
                {"auto --solver heuristic", "auto", false, true, 1},
                {"search", "search", false, false, 1},
                {"auto --fit steps", "auto", true, false, 0},
                {"the same, heuristic", "auto", true, true, 0},
                {"search --fit steps", "search", true, false, 0},
                {"exact", "exact", false, false, 0},
                {"lpt", "lpt", false, false, 0},
                {"bottleneck", "bottleneck", false, false, 0}};
    enum { N_ROWS = sizeof rows / sizeof rows[0] };
    const unsigned n = 500;
    struct mp_trace *trace[2];
    struct mp_error err = {0};
    struct gap gaps[N_ROWS][2] = {{{0}}};
    unsigned proven[2] = {0};
    double slowest[2] = {0}, total[2] = {0};
    for (int i = 0; i < 2; i++) {
        char path[1024];
        struct mp_trace_hints hints = mp_trace_hints_none;
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        hints.phase = i == 0 ? MP_PHASE_DECODE : MP_PHASE_PREFILL;
        hints.layer_base = i;
        hints.ids_are_physical = 0;
        hints.n_experts = i == 0 ? 32 : 64;
        hints.is_ranked = i == 0;
        NEED(mp_trace_load(&trace[i], path, &hints, &mp_limits_default, &err));
    }
    for (unsigned i = 0; i < n; i++) {
        struct reduced r;
        struct mp_workload *drawn;
        struct mp_exact_steps_answer a[2];
        const struct source from = {trace[i % 2], i / 2 % trace[i % 2]->n_layers, 7 * i, i};
        make_reduced(&r, &from, 8 + i % 5, 4);
        NEED(mp_draw_steps(&drawn, &r.part, &r.request.batching, 256, r.request.seed, &err)); /* as `search` does */
        const struct mp_workload *const steps[2] = {r.workload, drawn};
        for (int k = 0; k < 2; k++) {
            const double s = search(&r, steps[k], MP_OBJECTIVE_STEP, 20000000, &a[k]);
            slowest[k] = fmax(slowest[k], s);
            total[k] += s;
            proven[k] += a[k].outcome == MP_FOUND;
        }
        for (int h = 0; h < N_ROWS; h++) {
            struct mp_plan *p = NULL;
            enum mp_outcome outcome;
            r.request.strategy = rows[h].strategy;
            r.request.fits_steps = rows[h].fits_steps;
            r.request.no_exact = rows[h].no_exact;
            NEED(mp_plan_make(&p, &r.request, &outcome, NULL, &err));
            for (int k = 0; k < 2; k++)
                add_gap(&gaps[h][k], moe_ns(&r, p, steps[k]), a[k].value);
            mp_plan_free(p);
        }
        mp_workload_free(drawn);
        free_reduced(&r);
    }
    printf(
        "reduced recorded problems (8-12 experts, 4 GPUs, 16 steps of 64 tokens): %u of %u proven   reference: all\n"
        "  %.3f s each, slowest %.3f s; of 256 steps drawn from their requests %u of %u, %.3f s each, slowest %.3f s\n"
        "  above the optimum, mean / max:    of the 16 given steps      of the 256 drawn steps\n",
        proven[0], n, total[0] / n, slowest[0], proven[1], n, total[1] / n, slowest[1]);
    for (int h = 0; h < N_ROWS; h++) {
        printf("  %-24s", rows[h].name);
        for (int k = 0; k < 2; k++)
            printf("   %7.3f %% / %6.3f %%%s", 100 * gaps[h][k].sum / n, 100 * gaps[h][k].worst,
                   h < 6 && rows[h].looks_at == k ? " (1 / 3)" : "        ");
        printf("\n");
    }
    mp_trace_free(trace[0]);
    mp_trace_free(trace[1]);
}

static bool is_wanted(const char *only, const char *what) { return only == NULL || strcmp(only, what) == 0; }

int main(int argc, char **argv) {
    const char *only = NULL, *folder = NULL;
    bool is_long = false;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--long") == 0)
            is_long = true;
        else if (strcmp(argv[i], "--only") == 0 && i + 1 < argc)
            only = argv[++i];
        else
            folder = argv[i];
    }
    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    if (is_wanted(only, "known")) {
        known_optima();
        unequal_gpus();
    }
    for (int k = 0; k < 1 + is_long; k++) {
        const double seconds = k == 0 ? 1 : 60;
        if (is_wanted(only, "load"))
            load_frontier(seconds);
        if (is_wanted(only, "steps"))
            steps_frontier(seconds);
        if (is_wanted(only, "coloc"))
            coloc_frontier(seconds);
    }
    if (folder != NULL && is_wanted(only, "recorded"))
        reduced_recordings(folder);
    return 0;
}
