/* Lina's inference figures (USENIX ATC'23, arXiv 2210.17223, sections 5 and 7.3) under its conditions, the paper's
 * beside ours: Transformer-XL with 12 layers, top-1, 4 and 16 experts on as many GPUs, 48,544 tokens a GPU (fitted by
 * bench_lina on a training figure). docs/LINA.md, Inference.
 *
 * Routing is synthetic: a token is of one of `n_kinds` kinds, and in every layer takes the expert of its kind with
 * probability `follows`, else one by the layer's popularity; kinds weigh differently in every batch, by `drift`. Fitted
 * are these and the popularity's Zipf exponent on four figures of the paper: popularity (max/min of a batch 4.02 and
 * 5.56), 41.94 % of an expert's tokens go on to one and the same, and of paths of three layers 25.7 % of layers
 * scheduled again and 60.4 % foreseen. Everything else is predicted.
 *
 * usage: bench_lina_inference */
#define LINA_ROW_TOKENS 128u
#include "lina_bed.h"
#include <math.h>
#include <moeplan/predict.h>
#include <moeplan/strategy.h>

enum { MOST_KINDS = 32, LAYERS = 12, PLANNING_STEPS = 6, N_SIZES = 2 };

static const struct lina_model txl = {"Transformer-XL", LAYERS, 512, 5, 204};
static const struct lina_fit conditions = {
    .tokens = 48544, .rest = 17, .gradients = 1, .nic_mbit = 100000, .inside_gb = 32, .is_nic_shared = false};

struct size {
    uint32_t n_experts, n_nodes, n_steps; /* scored */
    uint32_t n_kinds;                     /* fitted, as are: */
    double zipf, follows, drift;
    double skew, median, p95, blind_median, once_tail;
};
/* Paper: Transformer-XL. Without estimation (median) and without fine-tuning (tail) are longer by so many %. */
static const struct size sizes[N_SIZES] = {{4, 4, 32, 16, 0.85, 0.72, 0.6, 4.02, 1.54, 0, 24.0, 26.7},
                                           {16, 4, 24, 24, 0.33, 0.75, 0.5, 5.56, 1.45, 1.82, 18.6, 33.1}};

struct bed {
    const struct size *size;
    struct lina_bed lina;
    struct mp_trace *trace;
    struct mp_part planning, scored;
    struct mp_workload *workload;
    struct mp_batching batching;
    struct mp_sim_options sim;
    struct mp_plan *start;
};

static uint32_t draw(struct mp_rng *rng, const double *cumulative, uint32_t n) {
    const double x = mp_rng_unit(rng) * cumulative[n - 1];
    uint32_t i = 0;
    while (i + 1 < n && x >= cumulative[i])
        i++;
    return i;
}
/* Of a normal distribution, near enough: sums of twelve. */
static double normal(struct mp_rng *rng) {
    double sum = -6;
    for (int i = 0; i < 12; i++)
        sum += mp_rng_unit(rng);
    return sum;
}

static struct mp_trace *make_trace(const struct size *z, uint32_t n_rows, bool is_even) {
    struct mp_error err = {0};
    struct mp_rng rng = mp_rng_seed(29);
    struct mp_trace_builder *b;
    struct mp_trace *t;
    const uint32_t n = z->n_experts, n_steps = z->n_steps + PLANNING_STEPS;
    const struct mp_trace_meta meta = {.kind = MP_TRACE_TOKENS,
                                       .phase = MP_PHASE_PREFILL,
                                       .model = "",
                                       .format = "synthetic",
                                       .is_synthetic = true,
                                       .n_layers = LAYERS,
                                       .n_experts = n,
                                       .top_k = 1};
    double popularity[LAYERS][16];
    uint16_t of_type[LAYERS][MOST_KINDS];
    for (uint32_t l = 0; l < LAYERS; l++) {
        uint32_t order[16];
        for (uint32_t e = 0; e < n; e++)
            order[e] = e;
        mp_rng_shuffle(&rng, order, n);
        double sum = 0;
        for (uint32_t e = 0; e < n; e++) {
            uint32_t rank = 0;
            while (order[rank] != e)
                rank++;
            popularity[l][e] = sum += is_even ? 1 : pow(rank + 1, -z->zipf);
        }
        /* As many kinds for each expert as its share asks, in a random order. */
        uint32_t kinds[MOST_KINDS];
        for (uint32_t k = 0; k < z->n_kinds; k++)
            kinds[k] = k;
        mp_rng_shuffle(&rng, kinds, z->n_kinds);
        for (uint32_t k = 0, e = 0; k < z->n_kinds; k++) {
            while (e + 1 < n && (k + 0.5) / z->n_kinds * sum >= popularity[l][e])
                e++;
            of_type[l][kinds[k]] = (uint16_t)e;
        }
    }
    lina_require(mp_trace_builder_new(&b, &meta, &mp_limits_default, &err), &err);
    for (uint32_t step = 0; step < n_steps; step++) {
        double kinds[MOST_KINDS], sum = 0;
        for (uint32_t k = 0; k < z->n_kinds; k++)
            kinds[k] = sum += is_even ? 1 : exp(z->drift * normal(&rng));
        for (uint32_t r = 0; r < n; r++) {
            const struct mp_request q = {.id = step * n + r, .source = MP_NONE, .category = MP_NONE};
            lina_require(mp_trace_builder_request(b, &q, &err), &err);
            for (uint32_t row = 0; row < n_rows; row++) {
                uint16_t ids[LAYERS];
                const uint32_t kind = draw(&rng, kinds, z->n_kinds);
                for (uint32_t l = 0; l < LAYERS; l++) {
                    const bool follows = mp_rng_unit(&rng) < z->follows && !is_even;
                    ids[l] = follows ? of_type[l][kind] : (uint16_t)draw(&rng, popularity[l], n);
                }
                lina_require(mp_trace_builder_row(b, ids, NULL, &err), &err);
            }
        }
    }
    lina_require(mp_trace_builder_finish(b, NULL, &t, &err), &err);
    return t;
}

static struct mp_plan *plan(const struct bed *b, const char *strategy, uint32_t n_redundant) {
    struct mp_error err = {0};
    struct mp_plan *p;
    enum mp_outcome outcome;
    const struct mp_plan_request r = {.planning = &b->planning,
                                      .batching = b->batching,
                                      .topology = b->lina.topology,
                                      .model = b->lina.model,
                                      .sim = b->sim,
                                      .strategy = strategy,
                                      .n_redundant = n_redundant,
                                      .needs_distinct = true,
                                      .n_threads = 2,
                                      .seed = 1,
                                      .is_trial = true};
    lina_require(mp_plan_make(&p, &r, &outcome, NULL, &err), &err);
    if (p == NULL) {
        fprintf(stderr, "bench_lina_inference: %s: %s\n", strategy, err.message);
        exit(1);
    }
    return p;
}

static void make_bed(struct bed *b, const struct size *z, bool is_even) {
    struct mp_error err = {0};
    const uint32_t n_rows = (uint32_t)(conditions.tokens / LINA_ROW_TOKENS);
    *b = (struct bed){.size = z};
    b->lina.shape = (struct lina_shape){.model = &txl,
                                        .n_nodes = z->n_nodes,
                                        .gpus_per_node = z->n_experts / z->n_nodes,
                                        .packing = 1,
                                        .top_k = 1,
                                        .gradient_bits = 16};
    b->lina.n_gpus = z->n_experts;
    lina_topology(&b->lina, &conditions);
    lina_model(&b->lina, &conditions);
    b->trace = make_trace(z, n_rows, is_even);
    b->batching =
        (struct mp_batching){.phase = MP_PHASE_PREFILL, .n_ranks = z->n_experts, .tokens_per_rank = n_rows, .seed = 1};
    const uint32_t n_all = z->n_steps + PLANNING_STEPS;
    const struct mp_split split = {.kind = MP_SPLIT_TIME,
                                   .planning_ppm = (PLANNING_STEPS * 1000000 + n_all - 1) / n_all};
    lina_require(mp_part_split(&b->planning, &b->scored, b->trace, &split, &err), &err);
    lina_require(mp_workload_build(&b->workload, &b->scored, &b->batching, &err), &err);
    b->sim = (struct mp_sim_options){
        .dispatcher = mp_dispatcher_find("hierarchical"), .stage_mode = -1, .n_threads = 2, .seed = 1};
    b->start = plan(b, "contiguous", 0);
}
static void free_bed(struct bed *b) {
    mp_plan_free(b->start);
    mp_workload_free(b->workload);
    mp_part_free(&b->planning);
    mp_part_free(&b->scored);
    mp_trace_free(b->trace);
    mp_model_free(b->lina.model);
    mp_topology_free(b->lina.topology);
}

/* ---- what the routing is like ---- */

static double skew(const struct bed *b) {
    double sum = 0, n = 0;
    for (uint32_t t = 0; t < b->workload->n_steps; t++)
        for (uint32_t l = 0; l < LAYERS; l++) {
            uint64_t load[16] = {0}, most = 0, least = UINT64_MAX;
            uint16_t id;
            for (uint32_t j = 0; j < b->workload->steps[t].n; j++) {
                (void)mp_trace_row(b->trace, l, b->workload->steps[t].row[j], &id);
                load[id]++;
            }
            for (uint32_t e = 0; e < b->size->n_experts; e++) {
                most = load[e] > most ? load[e] : most;
                least = load[e] < least ? load[e] : least;
            }
            sum += (double)most / (double)(least > 0 ? least : 1);
            n++;
        }
    return sum / n;
}
/* Share of the tokens of one expert that go on to the expert to which most of them do. */
static double pattern(const struct bed *b) {
    double together = 0, all = 0;
    for (uint32_t l = 1; l < LAYERS; l++) {
        uint64_t pairs[16][16] = {{0}};
        for (uint64_t row = 0; row < b->trace->n_rows; row++) {
            uint16_t from, to;
            (void)mp_trace_row(b->trace, l - 1, row, &from);
            (void)mp_trace_row(b->trace, l, row, &to);
            pairs[from][to]++;
        }
        for (uint32_t a = 0; a < b->size->n_experts; a++) {
            uint64_t most = 0;
            for (uint32_t e = 0; e < b->size->n_experts; e++) {
                most = pairs[a][e] > most ? pairs[a][e] : most;
                all += (double)pairs[a][e];
            }
            together += (double)most;
        }
    }
    return together / all;
}
static double accuracy(const struct bed *b, uint32_t length) {
    struct mp_error err = {0};
    struct mp_path_tables *tables;
    struct mp_sample_paths *paths;
    struct mp_path_accuracy a;
    struct mp_part some = b->scored; /* borrows */
    some.n = some.n < 4 * b->size->n_experts ? some.n : 4 * b->size->n_experts;
    lina_require(mp_path_learn(&tables, &b->planning, 0, &err), &err);
    lina_require(mp_sample_paths_learn(&paths, &b->planning, length, 2, &err), &err);
    const struct mp_foresight how = {.tables = tables, .paths = paths, .length = length, .keeps_top = true};
    lina_require(mp_path_measure(&a, &how, &some, NULL, 2, &err), &err);
    const double found = a.recall_k;
    mp_path_accuracy_free(&a);
    mp_path_free(tables);
    mp_sample_paths_free(paths);
    return found;
}

/* ---- what a policy or a plan makes of it ---- */

struct result {
    double mean, median, p95; /* ms */
    double tuned, waits;      /* share of layers; ms a step */
    double a2a_p95;           /* ms */
    double max_over_mean;     /* tokens of the busiest GPU */
};
static int by_value(const void *a, const void *b) {
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}
static struct result of_sim(const struct mp_sim_result *r) {
    uint64_t a2a[64];
    const uint32_t n = r->n_steps < 64 ? r->n_steps : 64;
    for (uint32_t i = 0; i < n; i++)
        a2a[i] = r->steps[i].dispatch_ns + r->steps[i].combine_ns;
    qsort(a2a, n, sizeof *a2a, by_value);
    return (struct result){.mean = (double)r->mean.step_ns * 1e-6,
                           .median = (double)r->p50_ns * 1e-6,
                           .p95 = (double)r->p95_ns * 1e-6,
                           .max_over_mean = r->balance.max_over_mean,
                           .a2a_p95 = (double)a2a[(n * 95 + 99) / 100 - 1] * 1e-6};
}
static struct result of_plan(const struct bed *b, const struct mp_plan *p) {
    struct mp_error err = {0};
    struct mp_sim_result *r;
    lina_require(mp_simulate(&r, p, b->workload, b->lina.topology, b->lina.model, &b->sim, &err), &err);
    const struct result x = of_sim(r);
    mp_sim_result_free(r);
    return x;
}
static struct result of_policy(const struct bed *b, const char *policy, int64_t length, bool is_published,
                               bool is_whole) {
    struct mp_error err = {0};
    struct mp_online_result *r;
    const struct mp_setting settings[] = {{"lina-online", "path-length", length},
                                          {"lina-online", "swap-percent", is_published ? 0 : 100},
                                          {"lina-online", "hide", is_published ? 2 : 1},
                                          {"lina-online", "keep", !is_whole}};
    const struct mp_online_request in = {.policy = mp_policy_find(policy),
                                         .planning = &b->planning,
                                         .start = b->start,
                                         .workload = b->workload,
                                         .topology = b->lina.topology,
                                         .model = b->lina.model,
                                         .sim = b->sim,
                                         .settings = settings,
                                         .n_settings = 4};
    lina_require(mp_online_simulate(&r, &in, &err), &err);
    struct result x = of_sim(r->sim);
    x.tuned = r->n_checks > 0 ? (double)r->n_tuned / (double)r->n_checks : 0;
    x.waits = (double)r->mean_wait_ns * 1e-6;
    mp_online_result_free(r);
    return x;
}

static void figure(const char *what, double paper, double ours) {
    if (paper > 0)
        printf("%-52s %9.2f %9.2f %s\n", what, paper, ours, fabs(ours / paper - 1) <= 0.1 ? "yes" : "no ");
    else
        printf("%-52s %9s %9.2f\n", what, "-", ours);
}
static void row(const char *what, const struct result *x, const struct result *base, const struct result *ideal) {
    printf("%-52s %9.1f %9.1f %9.1f %9.2f %9.2f %9.2f %9.2f\n", what, x->mean, x->median, x->p95,
           base->median / x->median, base->p95 / x->p95, x->p95 / ideal->p95, x->max_over_mean);
}

static void print_size(const struct size *z) {
    static const double paper5[3][3] = {{1.41, 76.5, 31.6}, {1.16, 25.7, 60.4}, {1.19, 22.5, 71.4}};
    static const int64_t lengths[3] = {1, 3, 6};
    struct bed b, even;
    make_bed(&b, z, false);
    make_bed(&even, z, true);
    printf("\n%u experts on as many GPUs, %u nodes, %u steps scored, %u learned from\n", z->n_experts, z->n_nodes,
           b.workload->n_steps, PLANNING_STEPS);
    printf("%-52s %9s %9s\n", "routing (fitted)", "paper", "ours");
    figure("popularity of a batch, most over least", z->skew, skew(&b));
    figure("tokens of an expert that go on to one, %", 41.94, 100 * pattern(&b));
    struct mp_plan *one = plan(&b, "auto", z->n_experts), *three = plan(&b, "auto", 3 * z->n_experts);
    const struct result ideal = of_plan(&even, even.start), base = of_plan(&b, b.start), fixed = of_plan(&b, one),
                        wide = of_plan(&b, three), lina = of_policy(&b, "lina-online", 3, true, false),
                        real = of_policy(&b, "lina-online", 3, false, false),
                        free_of_cost = of_policy(&b, "lina-free", 3, true, false),
                        whole = of_policy(&b, "lina-free", 3, true, true),
                        actual = of_policy(&b, "lina-actual", 3, true, false),
                        blind = of_policy(&b, "lina-blind", 3, true, false),
                        once = of_policy(&b, "lina-once", 3, true, false);
    printf("\n%-52s %9s %9s %9s %9s %9s %9s %9s\n", "ms a step; times as fast as one expert per GPU", "mean", "median",
           "p95", "median x", "p95 x", "p95/ideal", "max/mean");
    row("even popularity (ideal)", &ideal, &base, &ideal);
    row("one expert per GPU", &base, &base, &ideal);
    row("one static plan (auto), 2 slots a GPU", &fixed, &base, &ideal);
    row("one static plan (auto), 4 slots a GPU", &wide, &base, &ideal);
    row("Lina at the published cost", &lina, &base, &ideal);
    row("Lina, swaps over 25 GB/s", &real, &base, &ideal);
    row("Lina at no cost", &free_of_cost, &base, &ideal);
    row("Lina at no cost, whole distributions", &whole, &base, &ideal);
    row("Lina at no cost, actual popularity", &actual, &base, &ideal);
    row("Lina without estimation", &blind, &base, &ideal);
    row("Lina without fine-tuning", &once, &base, &ideal);
    printf("\n%-52s %9s %9s\n", "figures", "paper", "ours");
    figure("median, times as fast", z->median, base.median / lina.median);
    if (z->p95 > 0)
        figure("p95, times as fast", z->p95, base.p95 / lina.p95);
    figure("p95 over ideal", z->n_experts == 4 ? 1.08 : 1.11, lina.p95 / ideal.p95);
    figure("tail of all-to-all, times as fast (mean of sizes)", 1.96, base.a2a_p95 / lina.a2a_p95);
    figure("median without estimation, % longer", z->blind_median, 100 * (blind.median / lina.median - 1));
    figure("tail without fine-tuning, % longer", z->once_tail, 100 * (once.p95 / lina.p95 - 1));
    figure("us a layer may cost before Lina is as long as auto", 0,
           1e3 * ((wide.mean < fixed.mean ? wide.mean : fixed.mean) - free_of_cost.mean) / LAYERS);
    for (uint32_t i = 0; i < 3; i++) { /* Table 5, of 16 experts */
        const struct result x = lengths[i] == 3 ? lina : of_policy(&b, "lina-online", lengths[i], true, false);
        char name[64];
        const bool is_paper = z->n_experts == 16;
        snprintf(name, sizeof name, "paths of %lld: median over ideal", (long long)lengths[i]);
        figure(name, is_paper ? paper5[i][0] : 0, x.median / ideal.median);
        figure("   fine-tuned, %", is_paper ? paper5[i][1] : 0, 100 * x.tuned);
        figure("   tokens whose expert is foreseen, %", is_paper ? paper5[i][2] : 0,
               100 * accuracy(&b, (uint32_t)lengths[i]));
    }
    mp_plan_free(one);
    mp_plan_free(three);
    free_bed(&b);
    free_bed(&even);
}

int main(void) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("Transformer-XL, %u layers, top-1, %llu tokens a GPU; docs/LINA.md, Inference\n", LAYERS,
           (unsigned long long)conditions.tokens);
    for (uint32_t i = 0; i < N_SIZES; i++)
        print_size(&sizes[i]);
    return 0;
}
