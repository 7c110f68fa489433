/* Aurora's evaluation (arXiv 2410.17043, section 8) under its conditions: 8 GPUs on one switch, 100 Gbps each or two
 * each of 100, 80, 50 and 40; two models of 8 experts and 4 layers, top-1, one expert of each on a GPU, sources that
 * move with their experts. The paper's matrices are not published: these are made, Zipf 0.4 to 1.2, each layer with hot
 * experts of its own. Its token counts and FLOPS are not either: 2 KiB and 80 ns of computation a token here, which
 * puts utilisation below 20 % like the paper's. Times by its table 2 with the maxima left out there.
 * usage: bench_aurora [SEEDS] */
#include "bench_matrix.h"
#include "coloc.h"
#include <string.h>

#define N 8u
#define LAYERS 4u
#define RANDOM 10u
#define N_ZIPF 5u
#define N_NOISE 4 /* 0, 25, 50 and 75 % */

enum order { BOUND, SHOT, SJF, RCS };
enum sources { AS_EXPERTS, EQUAL, N_SOURCES };
static const char *const source_names[N_SOURCES] = {"sources as busy as their experts", "equal sources"};

struct bench {
    struct mp_arena *arena;
    struct mp_topology *cluster[2]; /* equal, unequal */
    struct mp_net *net[2];
    uint64_t tokens[2][LAYERS][N * N], alike[2][LAYERS][N * N]; /* alike: all layers have the same hot experts */
    struct mp_error err;
};

/* like NULL: hot experts of its own; else those of that order, each expert's popularity off by lognormal(0.3). */
static void fill(uint64_t *tokens, double zipf, enum sources kind, const uint32_t *like, struct mp_rng *r) {
    uint32_t rank[N];
    double sum = 0, off[N];
    for (uint32_t e = 0; e < N; e++) {
        rank[e] = e;
        sum += pow(1 + e, -zipf);
    }
    mp_rng_shuffle(r, rank, N);
    for (uint32_t e = 0; e < N; e++) {
        rank[e] = like != NULL ? like[e] : rank[e];
        off[e] = like != NULL ? exp(0.3 * bench_normal(r)) : 1;
    }
    for (uint32_t s = 0; s < N; s++)
        for (uint32_t e = 0; e < N; e++) {
            const double from = kind == EQUAL ? 1 : N * pow(1 + rank[s], -zipf) / sum;
            const double to = pow(1 + rank[e], -zipf) / sum * exp(0.2 * bench_normal(r));
            tokens[s * N + e] = (uint64_t)(4096 * from * to * off[e] + 0.5);
        }
}

static struct mp_coloc_problem problem(const struct mp_topology *t, const uint64_t *a, const uint64_t *b) {
    struct mp_coloc_problem p = {.topology = t, .objective = MP_COLOC_CLOSED};
    for (int m = 0; m < 2; m++)
        p.model[m] = (struct mp_coloc_model){.n_experts = N,
                                             .is_coupled = true,
                                             .tokens = m == 0 ? a : b,
                                             .n_steps = 1,
                                             .dispatch_bytes = 2048,
                                             .combine_bytes = 2048,
                                             .gate_ps = 10000,
                                             .experts_ps = 60000,
                                             .aggregate_ps = 10000};
    return p;
}

/* Time of one all-to-all of the models in `which` (bit m). */
static uint64_t transfer(struct bench *x, int unequal, const struct mp_coloc_problem *p,
                         const struct mp_coloc_plan *plan, unsigned which, bool back, enum order order) {
    uint64_t matrix[N * N] = {0}, ns = 0;
    for (unsigned m = 0; m < 2; m++)
        for (uint32_t s = 0; s < N && which >> m & 1; s++)
            for (uint32_t e = 0; e < N; e++) {
                const uint32_t from = plan->gpu[m][back ? e : s], to = plan->gpu[m][back ? s : e];
                if (from != to)
                    matrix[from * N + to] += 2048 * p->model[m].tokens[s * N + e];
            }
    if (order == BOUND)
        return mp_net_port_bound(x->net[unequal], matrix);
    if (order == SHOT)
        bench_require(mp_net_concurrent(x->net[unequal], matrix, &ns, NULL, &x->err), &x->err);
    else
        bench_require(
            mp_net_baseline(x->net[unequal], order == SJF ? MP_BASELINE_SJF : MP_BASELINE_RCS, 1, matrix, &ns, &x->err),
            &x->err);
    return ns;
}

/* ns of a layer; model -1 = both by table 2, else that one alone. *busy: mean computation of a GPU. */
static double layer_ns(struct bench *x, int unequal, const struct mp_coloc_problem *p, const struct mp_coloc_plan *plan,
                       int model, enum order order, double *busy) {
    struct mp_arena *arena = mp_arena_new();
    struct mp_coloc_load load[2];
    struct mp_coloc_shape shape;
    struct mp_coloc_peaks k;
    bench_require(mp_coloc_loads(load, p, plan, arena, &x->err), &x->err);
    mp_coloc_shape_of(&shape, p);
    mp_coloc_peaks_of(&k, load, &shape);
    for (unsigned m = 0; m < 2; m++) {
        k.dispatch[m] = transfer(x, unequal, p, plan, 1u << m, false, order);
        k.combine[m] = transfer(x, unequal, p, plan, 1u << m, true, order);
        for (uint32_t g = 0; g < N && busy != NULL && model != 1 - (int)m; g++)
            *busy += (double)(load[m].gate[g] + load[m].experts[g] + load[m].aggregate[g]) / N;
    }
    k.both_dispatch = transfer(x, unequal, p, plan, 3, false, order);
    k.both_combine = transfer(x, unequal, p, plan, 3, true, order);
    mp_arena_free(arena);
    if (model < 0)
        return (double)mp_coloc_closed(&k, 0);
    return (double)(k.gate[model] + k.dispatch[model] + k.experts[model] + k.combine[model] + k.aggregate[model]);
}

static struct mp_coloc_plan *plan_of(struct bench *x, const char *strategy, const struct mp_coloc_problem *p) {
    struct mp_coloc_plan *plan;
    enum mp_outcome outcome;
    bench_require(mp_coloc_solve(&plan, mp_coloc_strategy_find(strategy), p, &outcome, &x->err), &x->err);
    return plan;
}

static uint64_t popularity(const struct mp_coloc_model *m, uint32_t e) {
    uint64_t sum = 0;
    for (uint32_t s = 0; s < N; s++)
        sum += m->tokens[s * N + e];
    return sum;
}

/* Experts of a model by popularity, most first. */
static void rank(const struct mp_coloc_model *m, uint32_t *by) {
    for (uint32_t k = 0; k < N; k++) {
        uint32_t at = k;
        while (at > 0 && popularity(m, by[at - 1]) < popularity(m, k)) {
            by[at] = by[at - 1];
            at--;
        }
        by[at] = k;
    }
}

enum row {
    SJF_OVER_ORDER,
    RCS_OVER_ORDER,
    SHOT_OVER_ORDER,
    RGA_OVER_SORTED,
    RGA_OVER_SORTED_SHOT,
    RGA_OVER_SEARCH,
    LINA_EQUAL_RCS,
    LINA_EQUAL_SJF,
    LINA_EQUAL_SAME,
    LINA_UNEQUAL_RCS,
    LINA_UNEQUAL_SJF,
    LINA_UNEQUAL_SAME,
    UTIL_EXCLUSIVE,
    UTIL_GAIN,
    UTIL_LINA,
    UTIL_LINA_SAME,
    GAP,
    OUR_GAP,
    NOISE_RGA, /* at each of the shares */
    NOISE_REC = NOISE_RGA + N_NOISE,
    NOISE_LOSS = NOISE_REC + N_NOISE,
    ALIKE_RGA, /* in the order of those above */
    ALIKE_REC = ALIKE_RGA + N_NOISE,
    ALIKE_LOSS = ALIKE_REC + N_NOISE,
    N_ROWS
};

static void measure(struct bench *x, double *out, uint64_t seed) {
    double t[64] = {0}, busy = 0, busy_alone[2] = {0};
    struct mp_rng r = mp_rng_seed(seed);
    /* Sums over layers. 0..3 alone on equal GPUs by order; 4, 5 sorted on unequal; 6, 7 random on unequal; 8 together
     * on equal; 9, 10, 11 Lina on equal; 12 together on unequal; 13, 14, 15 Lina; 16 best; 17 ours; 18 found alone; 19,
     * 20 alone on equal by model */
    for (uint32_t l = 0; l < LAYERS; l++) {
        struct mp_coloc_problem p[2];
        for (int u = 0; u < 2; u++)
            p[u] = problem(x->cluster[u], x->tokens[0][l], x->tokens[1][l]);
        struct mp_coloc_plan *plan = plan_of(x, "bottleneck", &p[0]);
        for (int o = 0; o < 4; o++)
            for (int m = 0; m < 2; m++)
                t[o] += layer_ns(x, 0, &p[0], plan, m, (enum order)o, NULL);
        t[8] += layer_ns(x, 0, &p[0], plan, -1, BOUND, &busy);
        for (int m = 0; m < 2; m++)
            t[19 + m] += layer_ns(x, 0, &p[0], plan, m, BOUND, &busy_alone[m]);
        mp_coloc_plan_free(plan);
        plan = plan_of(x, "decoupled", &p[1]);
        t[12] += layer_ns(x, 1, &p[1], plan, -1, BOUND, NULL);
        mp_coloc_plan_free(plan);
        p[1].work_limit = 300000;
        plan = plan_of(x, "exact", &p[1]);
        p[1].work_limit = 0;
        t[16] += layer_ns(x, 1, &p[1], plan, -1, BOUND, NULL);
        mp_coloc_plan_free(plan);
        plan = plan_of(x, "search", &p[1]);
        t[17] += layer_ns(x, 1, &p[1], plan, -1, BOUND, NULL);
        for (int m = 0; m < 2; m++) { /* theorem 5.1: the most popular expert on the fastest GPU */
            uint32_t by[N];
            rank(&p[1].model[m], by);
            for (uint32_t g = 0; g < N; g++)
                plan->gpu[m][by[g]] = g;
        }
        for (int m = 0; m < 2; m++)
            for (int o = 0; o < 2; o++)
                t[4 + o] += layer_ns(x, 1, &p[1], plan, m, (enum order)o, NULL);
        mp_coloc_plan_free(plan);
        for (uint32_t k = 0; k < RANDOM; k++) {
            p[1].seed = mp_rng_next(&r);
            plan = plan_of(x, "random", &p[1]);
            for (int m = 0; m < 2; m++)
                for (int o = 0; o < 2; o++)
                    t[6 + o] += layer_ns(x, 1, &p[1], plan, m, (enum order)o, NULL) / RANDOM;
            for (int u = 0; u < 2; u++) {
                static const enum order orders[] = {RCS, SJF, BOUND};
                p[u].seed = mp_rng_next(&r);
                struct mp_coloc_plan *lina = plan_of(x, "lina", &p[u]);
                for (int o = 0; o < 3; o++)
                    t[(u == 0 ? 9 : 13) + o] += fmax(layer_ns(x, u, &p[u], lina, 0, orders[o], NULL),
                                                     layer_ns(x, u, &p[u], lina, 1, orders[o], NULL)) /
                                                RANDOM;
                mp_coloc_plan_free(lina);
            }
            mp_coloc_plan_free(plan);
        }
    }
    out[SJF_OVER_ORDER] += t[SJF] / t[BOUND];
    out[RCS_OVER_ORDER] += t[RCS] / t[BOUND];
    out[SHOT_OVER_ORDER] += t[SHOT] / t[BOUND];
    out[RGA_OVER_SORTED] += t[6] / t[4];
    out[RGA_OVER_SORTED_SHOT] += t[7] / t[5];
    for (int o = 0; o < 3; o++) {
        out[LINA_EQUAL_RCS + o] += t[9 + o] / t[8];
        out[LINA_UNEQUAL_RCS + o] += t[13 + o] / t[12];
    }
    const double exclusive = (busy_alone[0] / t[19] + busy_alone[1] / t[20]) / 2;
    out[UTIL_EXCLUSIVE] += exclusive;
    out[UTIL_GAIN] += busy / t[8] / exclusive;
    out[UTIL_LINA] += t[9] / t[8]; /* the same computation in the time of Lina's slower half */
    out[UTIL_LINA_SAME] += t[11] / t[8];
    out[GAP] += t[12] / t[16];
    out[OUR_GAP] += t[17] / t[16];
}

/* Planned on layer 0, run on a mixture of it with the mean of the others: 2 * N_NOISE gains, and the most that is lost
 * of the one without noise. */
static void noise(struct bench *x, uint64_t tokens[2][LAYERS][N * N], double *out, uint64_t seed) {
    struct mp_rng r = mp_rng_seed(seed ^ 77);
    double gain[2][N_NOISE] = {{0}}, together, lost = -INFINITY;
    for (int k = 0; k < N_NOISE; k++) {
        const double share = 0.25 * k;
        uint64_t mixed[2][N * N];
        for (int m = 0; m < 2; m++)
            for (uint32_t i = 0; i < N * N; i++) {
                double other = 0;
                for (uint32_t l = 1; l < LAYERS; l++)
                    other += (double)tokens[m][l][i] / (LAYERS - 1);
                mixed[m][i] = (uint64_t)((1 - share) * (double)tokens[m][0][i] + share * other + 0.5);
            }
        struct mp_coloc_problem known = problem(x->cluster[1], tokens[0][0], tokens[1][0]);
        struct mp_coloc_problem real = problem(x->cluster[1], mixed[0], mixed[1]);
        struct mp_coloc_plan *plan = plan_of(x, "decoupled", &known);
        struct mp_coloc_plan *sorted = plan_of(x, "random", &known);
        for (int m = 0; m < 2; m++) {
            uint32_t by[N];
            rank(&known.model[m], by);
            for (uint32_t g = 0; g < N; g++)
                sorted->gpu[m][by[g]] = g;
        }
        together = layer_ns(x, 1, &real, plan, -1, BOUND, NULL);
        double alone = layer_ns(x, 1, &real, sorted, 0, BOUND, NULL) + layer_ns(x, 1, &real, sorted, 1, BOUND, NULL);
        for (uint32_t i = 0; i < RANDOM; i++) {
            real.seed = mp_rng_next(&r);
            struct mp_coloc_plan *random = plan_of(x, "random", &real);
            gain[0][k] +=
                (layer_ns(x, 1, &real, random, 0, BOUND, NULL) + layer_ns(x, 1, &real, random, 1, BOUND, NULL)) /
                alone / RANDOM;
            gain[1][k] += layer_ns(x, 1, &real, random, -1, BOUND, NULL) / together / RANDOM;
            mp_coloc_plan_free(random);
        }
        mp_coloc_plan_free(plan);
        mp_coloc_plan_free(sorted);
    }
    for (int g = 0; g < 2; g++)
        for (int k = 0; k < N_NOISE; k++) {
            out[g * N_NOISE + k] += gain[g][k];
            lost = fmax(lost, 1 - gain[g][k] / gain[g][0]);
        }
    out[2 * N_NOISE] += lost;
}

static const struct {
    enum row row;
    const char *text, *paper;
} rows[] = {
    {SJF_OVER_ORDER, "alone, equal GPUs: SJF / ordered", "up to 1.38"},
    {RCS_OVER_ORDER, "alone, equal GPUs: RCS / ordered", "up to 1.38"},
    {SHOT_OVER_ORDER, "  honest: single shot / ordered", "-"},
    {RGA_OVER_SORTED, "alone, unequal: random / sorted GPUs", "1.36-1.81"},
    {RGA_OVER_SORTED_SHOT, "  honest: both in a single shot", "-"},
    {LINA_EQUAL_RCS, "together, equal: Lina in RCS order / case II", "1.25-2.38"},
    {LINA_EQUAL_SJF, "together, equal: Lina in SJF order / case II", "1.25-2.38"},
    {LINA_EQUAL_SAME, "  honest: Lina with our order", "-"},
    {LINA_UNEQUAL_RCS, "together, unequal: Lina in RCS order / decoupled", "1.91-3.54"},
    {LINA_UNEQUAL_SJF, "together, unequal: Lina in SJF order / decoupled", "1.91-3.54"},
    {LINA_UNEQUAL_SAME, "  honest: Lina with our order", "-"},
    {UTIL_EXCLUSIVE, "utilisation alone, equal GPUs", "< 0.20"},
    {UTIL_GAIN, "utilisation: together / alone", "1.57-1.72"},
    {UTIL_LINA, "utilisation: together / Lina in RCS order", "1.28-1.50"},
    {UTIL_LINA_SAME, "  honest: Lina with our order", "-"},
    {GAP, "unequal: decoupled / best known", "1.07"},
    {OUR_GAP, "unequal: search / best known", "-"},
    {NOISE_RGA, "random / sorted GPUs, no noise", "1.90"},
    {NOISE_RGA + 1, "random / sorted GPUs, 25 % noise", "-"},
    {NOISE_RGA + 2, "random / sorted GPUs, 50 % noise", "-"},
    {NOISE_RGA + 3, "random / sorted GPUs, 75 % noise", "1.60"},
    {NOISE_REC, "random / decoupled, no noise", "2.00"},
    {NOISE_REC + 1, "random / decoupled, 25 % noise", "-"},
    {NOISE_REC + 2, "random / decoupled, 50 % noise", "-"},
    {NOISE_REC + 3, "random / decoupled, 75 % noise", "1.80"},
    {NOISE_LOSS, "speed-up lost to noise, most of all", "at most 0.158"},
    {ALIKE_RGA, "  layers alike: random / sorted, no noise", "1.90"},
    {ALIKE_RGA + 1, "  layers alike: random / sorted, 25 % noise", "-"},
    {ALIKE_RGA + 2, "  layers alike: random / sorted, 50 % noise", "-"},
    {ALIKE_RGA + 3, "  layers alike: random / sorted, 75 % noise", "1.60"},
    {ALIKE_REC, "  layers alike: random / decoupled, no noise", "2.00"},
    {ALIKE_REC + 1, "  layers alike: random / decoupled, 25 % noise", "-"},
    {ALIKE_REC + 2, "  layers alike: random / decoupled, 50 % noise", "-"},
    {ALIKE_REC + 3, "  layers alike: random / decoupled, 75 % noise", "1.80"},
    {ALIKE_LOSS, "  layers alike: speed-up lost", "at most 0.158"},
};

int main(int argc, char **argv) {
    const uint32_t seeds = argc > 1 ? (uint32_t)atoi(argv[1]) : 3;
    double out[N_SOURCES][N_ZIPF][N_ROWS] = {{{0}}};
    struct bench *x = calloc(1, sizeof *x);
    if (x == NULL)
        return 4;
    x->arena = mp_arena_new();
    for (int u = 0; u < 2; u++) {
        x->cluster[u] = bench_aurora_switch(x->arena, N, u == 1);
        bench_require(mp_net_new(&x->net[u], x->cluster[u], &x->err), &x->err);
    }
    for (int kind = 0; kind < N_SOURCES; kind++)
        for (uint32_t z = 0; z < N_ZIPF; z++)
            for (uint32_t seed = 0; seed < seeds; seed++) {
                struct mp_rng r = mp_rng_seed(1 + seed);
                for (int m = 0; m < 2; m++)
                    for (uint32_t l = 0; l < LAYERS; l++)
                        fill(x->tokens[m][l], 0.4 + 0.2 * z, (enum sources)kind, NULL, &r);
                for (int m = 0; m < 2; m++) {
                    uint32_t like[N];
                    for (uint32_t e = 0; e < N; e++)
                        like[e] = e;
                    mp_rng_shuffle(&r, like, N);
                    for (uint32_t l = 0; l < LAYERS; l++)
                        fill(x->alike[m][l], 0.4 + 0.2 * z, (enum sources)kind, like, &r);
                }
                measure(x, out[kind][z], seed);
                noise(x, x->tokens, out[kind][z] + NOISE_RGA, seed);
                noise(x, x->alike, out[kind][z] + ALIKE_RGA, seed);
            }
    for (int kind = 0; kind < N_SOURCES; kind++) {
        printf("%s, Zipf 0.4 to 1.2, %u seeds\n%-52s %-14s %s\n", source_names[kind], seeds, "", "paper",
               "ours: least, most; at 0.4 0.6 0.8 1.0 1.2");
        for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
            double least = INFINITY, most = -INFINITY;
            for (uint32_t z = 0; z < N_ZIPF; z++) {
                least = fmin(least, out[kind][z][rows[i].row] / seeds);
                most = fmax(most, out[kind][z][rows[i].row] / seeds);
            }
            printf("%-52s %-14s %.3f %.3f ;", rows[i].text, rows[i].paper, least, most);
            for (uint32_t z = 0; z < N_ZIPF; z++)
                printf(" %.3f", out[kind][z][rows[i].row] / seeds);
            printf("\n");
        }
    }
    for (int u = 0; u < 2; u++)
        mp_net_free(x->net[u]);
    mp_arena_free(x->arena);
    free(x);
    return 0;
}
