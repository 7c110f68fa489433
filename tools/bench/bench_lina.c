/* Lina's training figures (USENIX ATC'23, arXiv 2210.17223) under its conditions, the paper's beside ours, two readings
 * of what its gradients were: as its models' weights give them, and as many as its own slowdown of all-to-alls asks
 * for. What is printed there, derived, fitted and assumed: docs/LINA.md. The fit is made first, on one row of Table 1;
 * everything behind it is predicted. About 25 s of processor time.
 *
 * usage: bench_lina */
#include "lina_bed.h"
#include <math.h>

#define N_MODELS 3u
#define N_SIZES 4u
#define N_READINGS 2u
#define MOST_PACKINGS 5u
#define TOLERANCE 0.1

static const struct lina_model models[N_MODELS] = {
    {"Transformer-XL", 24, 512, 5, 204}, {"BERT2GPT2", 12, 512, 4, 80779}, {"GPT-2", 12, 512, 4, 51281}};
/* Experts = GPUs, over nodes: why so, docs/LINA.md. */
static const uint32_t n_experts[N_SIZES] = {2, 4, 8, 16}, n_nodes[N_SIZES] = {2, 4, 2, 4};
static const struct lina_fit start = {.tokens = 48000,
                                      .rest = 6,
                                      .gradients = 1,
                                      .nic_mbit = 100000,
                                      .inside_gb = 32,
                                      .is_nic_shared = false,
                                      .dispatcher = "hierarchical"};

static const struct mp_train_policy *policy(const char *name) { return &mp_train_policy_find(name)->policy; }

static struct lina_shape shape(const struct lina_model *m, uint32_t size, uint32_t packing) {
    return (struct lina_shape){.model = m,
                               .n_nodes = n_nodes[size],
                               .gpus_per_node = n_experts[size] / n_nodes[size],
                               .packing = packing,
                               .top_k = 2,
                               .gradient_bits = 16};
}

/* ---- figures ---- */

static uint32_t n_figures[N_READINGS], n_within[N_READINGS];

static void verdict(uint32_t reading, double paper, double ours, bool is_counted) {
    const bool is_within = fabs(ours / paper - 1) <= TOLERANCE;
    n_figures[reading] += is_counted;
    n_within[reading] += is_counted && is_within;
    printf(" %9.2f %s", ours, is_within ? "yes" : "no ");
}
/* A figure of the paper beside that of each reading. */
static void figure(const char *what, double paper, const double ours[N_READINGS]) {
    printf("%-52s %9.2f", what, paper);
    for (uint32_t i = 0; i < N_READINGS; i++)
        verdict(i, paper, ours[i], true);
    printf("\n");
}
/* The same of the first reading, under an even gate and an uneven one. */
static void figure_of_gates(const char *what, double paper, const double ours[2]) {
    printf("%-52s %9.2f", what, paper);
    for (uint32_t i = 0; i < 2; i++)
        verdict(0, paper, ours[i], i == 0);
    printf("\n");
}
/* Ours beside the paper's where the two are not the same thing. */
static void beside(const char *what, double paper, const double ours[N_READINGS]) {
    printf("%-52s %9.2f %9.2f     %9.2f\n", what, paper, ours[0], ours[1]);
}
static void heading(const char *what) {
    printf("\n%-52s %9s %9s %s %9s %s\n", what, "paper", "derived", "   ", "slowed", "   ");
}

/* ---- the fit ---- */

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}
static double median(struct lina_slowdowns *s) {
    qsort(s->of, s->n, sizeof *s->of, by_value);
    return s->n == 0 ? 0 : s->of[s->n / 2];
}

struct row { /* of Table 1, training */
    uint32_t n_layers, size;
    const char *name;
    double ms, percent;
};
static const struct row rows[] = {{12, 1, "12 layers, 117M", 259, 36.7}, {24, 1, "24 layers, 233M", 589, 35.4},
                                  {36, 1, "36 layers, 349M", 979, 38.2}, {12, 3, "12 layers, 419M", 333, 39.5},
                                  {24, 3, "24 layers, 838M", 715, 37.6}, {36, 3, "36 layers, 1.2B", 1145, 36.8}};
#define FITTED 1u
#define MEDIAN_SLOWDOWN 1.83

/* Tokens and the rest of a layer so that the fitted row is as printed; with `with_gradients` also as many gradients as
 * make the median backward all-to-all of it 1.83 times as long as alone. n: nodes of its 4 GPUs. */
static struct lina_fit fit(struct lina_fit f, uint32_t n, bool with_gradients, uint32_t n_rounds) {
    static double of[2 * LINA_MOST_LAYERS * LINA_STEPS];
    double low = 1, high = 400;
    for (uint32_t i = 0; i < n_rounds; i++) {
        struct lina_bed b;
        struct lina_slowdowns slow = {of, 0};
        struct lina_shape s = shape(&models[0], rows[FITTED].size, 1);
        s.n_nodes = n;
        s.gpus_per_node = 4 / n;
        lina_bed_make(&b, &s, &f);
        const struct lina_run r = lina_score(&b, policy("fair"), &slow);
        const double want = rows[FITTED].ms * 100 / rows[FITTED].percent, m = median(&slow);
        const double step = f.rest * (1 + (want - r.step) / (r.step - r.a2a) * 0.8);
        lina_bed_free(&b);
        f.tokens = (uint64_t)((double)f.tokens * rows[FITTED].ms / r.a2a) / LINA_ROW_TOKENS * LINA_ROW_TOKENS;
        f.rest = step < 1 ? 1 : step;
        if (with_gradients && i % 3 == 2) { /* bisection, the other two following */
            *(m < MEDIAN_SLOWDOWN ? &low : &high) = f.gradients;
            f.gradients = sqrt(low * high);
        }
    }
    return f;
}

/* ---- conditions ---- */

struct packed {                                         /* one number of experts per GPU */
    double expert_ms, a2a_ms;                           /* of a chunk of 30 MB, forward */
    struct lina_run lina, ours;                         /* ours: searched on the other steps */
    double planning_ns, floor, held_gb, activations_gb; /* of the fullest GPU; held: without activations */
    struct mp_train_policy policy;
};
struct cell { /* one model and size */
    struct lina_run fair, priority, chunks;
    struct lina_slowdowns slow;
    struct packed packed[MOST_PACKINGS];      /* 1, 2, 4, ... experts per GPU */
    uint32_t n_packed, published, rule, best; /* exponents: the paper's, what Lina's rule takes, what takes least */
};
static struct cell cells[N_READINGS + 1][N_MODELS][N_SIZES]; /* the last: as derived, under an uneven gate */
#define UNEVEN N_READINGS
#define UNEVEN_PPM 618800u /* most over least popular of 16 experts: 5.56, the paper's in inference */

static struct lina_run score(const struct lina_bed *b, const char *name) { return lina_score(b, policy(name), NULL); }

static void measure(struct cell *c, const struct lina_fit *f, uint32_t model, uint32_t size, uint32_t zipf_ppm) {
    c->published = size == 3 && model == 0 ? 2 : 1;
    for (uint32_t k = 0; 1u << k <= n_experts[size]; k++) {
        struct packed *p = &c->packed[c->n_packed++];
        struct mp_error err = {0};
        struct lina_bed b;
        uint64_t ns;
        struct lina_shape s = shape(&models[model], size, 1u << k);
        s.zipf_ppm = zipf_ppm;
        lina_bed_make(&b, &s, f);
        if (k == 0) {
            struct mp_train_policy whole = *policy("lina");
            whole.is_pipelined = false;
            c->slow.of = malloc(sizeof(double) * 2 * LINA_MOST_LAYERS * LINA_STEPS);
            if (c->slow.of == NULL)
                exit(1);
            c->fair = lina_score(&b, policy("fair"), &c->slow);
            c->priority = score(&b, "priority");
            c->chunks = lina_score(&b, &whole, NULL);
        }
        p->lina = score(&b, "lina");
        const struct mp_train_micro micro = mp_train_micro(b.steps, LINA_STEPS / 2, policy("lina")->a2a_chunk_bytes);
        p->expert_ms = (double)micro.expert_ns * 1e-6;
        p->a2a_ms = (double)micro.a2a_ns * 1e-6;
        lina_require(mp_train_search(&p->policy, &ns, b.steps, LINA_STEPS / 2, 2, &err), &err);
        p->planning_ns = (double)ns;
        p->ours = lina_score(&b, &p->policy, NULL);
        const struct mp_train_memory *held = &b.work[0].memory;
        p->held_gb = (double)(held->weight_bytes + held->gradient_bytes + held->state_bytes) * 1e-9;
        p->activations_gb = (double)held->activation_bytes * LINA_ROW_TOKENS * 1e-9;
        p->floor = lina_floor(&b, p->lina.compute);
        if (p->planning_ns < c->packed[c->best].planning_ns)
            c->best = k;
        if (c->rule + 1 == c->n_packed && p->expert_ms < p->a2a_ms && 2u << k <= n_experts[size])
            c->rule++;
        lina_bed_free(&b);
    }
}

/* ---- the tables ---- */

static double over_models(uint32_t reading, uint32_t size, double (*of)(const struct cell *)) {
    double sum = 0;
    for (uint32_t m = 0; m < N_MODELS; m++)
        sum += of(&cells[reading][m][size]) / N_MODELS;
    return sum;
}
static void by_size(const char *what, const double *paper, double (*of)(const struct cell *), bool is_theirs) {
    for (uint32_t s = 0; s < N_SIZES; s++) {
        char name[96];
        snprintf(name, sizeof name, "%s, %u experts", what, n_experts[s]);
        if (paper[s] > 0)
            (is_theirs ? figure : beside)(name, paper[s], (double[]){over_models(0, s, of), over_models(1, s, of)});
    }
}
static const struct lina_run *packed_lina(const struct cell *c) { return &c->packed[c->published].lina; }
static double speedup(const struct cell *c) { return c->fair.step / packed_lina(c)->step; }
static double speedup_rule(const struct cell *c) { return c->fair.step / c->packed[c->rule].lina.step; }
static double speedup_ours(const struct cell *c) { return c->fair.step / c->packed[c->best].ours.step; }
static double priority(const struct cell *c) { return c->fair.step / c->priority.step; }
static double chunks(const struct cell *c) { return c->fair.step / c->chunks.step; }
static double scheduler(const struct cell *c) { return c->fair.step / c->packed[0].lina.step; }
static double scheduler_ours(const struct cell *c) { return c->fair.step / c->packed[0].ours.step; }
static double layer_forward(const struct cell *c) { return c->fair.layer_forward / packed_lina(c)->layer_forward; }
static double layer_backward(const struct cell *c) { return c->fair.layer_backward / packed_lina(c)->layer_backward; }
static double a2a_back(const struct cell *c) { return c->fair.a2a_back / packed_lina(c)->a2a_back; }

static void print_fit(const struct lina_fit *f) {
    struct lina_bed b;
    const struct lina_shape s = shape(&models[0], 1, 1);
    lina_bed_make(&b, &s, f);
    const struct mp_train_layer *x = &b.steps[0]->layers[1];
    printf(
        "  %llu tokens per GPU (%.1f MB per all-to-all), the rest of a layer %.2f times its matrices (%.2f ms of %.2f "
        "ms); all-to-all alone %.2f ms, experts %.2f ms, gradients %.1f MB per layer in %.2f ms\n",
        (unsigned long long)f->tokens, (double)x->a2a[0].bytes * 1e-6, f->rest, (double)x->attention_ns[0] * 1e-6,
        ((double)x->attention_ns[0] + (double)x->expert_ns[0]) * 1e-6, (double)x->a2a[0].ns * 1e-6,
        (double)x->expert_ns[0] * 1e-6, (double)x->reduce.bytes * 1e-6, (double)x->reduce.ns * 1e-6);
    lina_bed_free(&b);
}

/* What the printed numbers of weights say of the models, and all-to-alls of 4 and 16 GPUs of where they were. */
static void print_derived(void) {
    static const double weights[] = {117, 233, 349, 419, 838, 1200};
    static const struct {
        const char *name;
        uint32_t n_nodes, inside_gb;
        bool is_nic_shared;
    } where[] = {
        {"1 node, NVLink; a NIC per GPU", 1, 300, false},         {"1 node, PCIe 4; a NIC per GPU", 1, 32, false},
        {"2 nodes, PCIe 4; a NIC per GPU", 2, 32, false},         {"4 nodes, NVLink; a NIC per GPU", 4, 300, false},
        {"4 nodes, PCIe 4; a NIC per GPU (taken)", 4, 32, false}, {"4 nodes, PCIe 4; a NIC per node", 4, 32, true}};
    printf("Derived: weights of %s, hidden %u, experts in every layer, without embeddings, millions, paper / ours:",
           models[0].name, models[0].hidden);
    for (uint32_t i = 0; i < 6; i++) {
        const double square = (double)models[0].hidden * models[0].hidden;
        printf(" %.0f / %.0f", weights[i],
               rows[i].n_layers * square * (models[0].projections + 8 * n_experts[rows[i].size]) * 1e-6);
    }
    printf("\nDerived: all-to-alls of 16 GPUs in 4 nodes over those of 4 GPUs in so many; the paper's are %.2f, %.2f, "
           "%.2f:\n",
           rows[3].ms / rows[0].ms, rows[4].ms / rows[1].ms, rows[5].ms / rows[2].ms);
    for (size_t i = 0; i < sizeof where / sizeof where[0]; i++) {
        double ms[2];
        for (uint32_t k = 0; k < 2; k++) {
            struct lina_bed b;
            struct lina_fit f = start;
            struct lina_shape s = shape(&models[0], 3, 1);
            f.is_nic_shared = where[i].is_nic_shared;
            f.inside_gb = where[i].inside_gb;
            if (k == 0) {
                s.n_nodes = where[i].n_nodes;
                s.gpus_per_node = 4 / s.n_nodes;
            }
            lina_bed_make(&b, &s, &f);
            ms[k] = score(&b, "deferred").a2a;
            lina_bed_free(&b);
        }
        printf("  %-42s %6.2f\n", where[i].name, ms[1] / ms[0]);
    }
}

static void print_table1(const struct lina_fit f[N_READINGS]) {
    heading("Table 1, training: ms of all-to-all, % of the step");
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct lina_model m = models[0];
        double ms[N_READINGS], percent[N_READINGS];
        char name[96];
        m.n_layers = rows[i].n_layers;
        for (uint32_t k = 0; k < N_READINGS; k++) {
            struct lina_bed b;
            const struct lina_shape s = shape(&m, rows[i].size, 1);
            lina_bed_make(&b, &s, &f[k]);
            const struct lina_run r = score(&b, "fair");
            ms[k] = r.a2a;
            percent[k] = 100 * r.a2a / r.step;
            lina_bed_free(&b);
        }
        snprintf(name, sizeof name, "%u GPUs, %s%s", n_experts[rows[i].size], rows[i].name,
                 i == FITTED ? " (fitted)" : "");
        if (i == FITTED) {
            printf("%-52s %9.2f %9.2f     %9.2f\n%-52s %9.2f %9.2f     %9.2f\n", name, rows[i].ms, ms[0], ms[1], "",
                   rows[i].percent, percent[0], percent[1]);
            continue;
        }
        figure(name, rows[i].ms, ms);
        figure("", rows[i].percent, percent);
    }
}

/* Forward alone, top-1, as balanced as training and as uneven as the paper says (most over least popular). */
static void print_table1_inference(const struct lina_fit f[N_READINGS]) {
    static const struct row inference[] = {{12, 1, "12 layers", 73, 27.4},  {24, 1, "24 layers", 103, 26.2},
                                           {36, 1, "36 layers", 153, 28.3}, {12, 3, "12 layers", 102, 32.5},
                                           {24, 3, "24 layers", 177, 31.7}, {36, 3, "36 layers", 243, 27.4}};
    printf("\n%-52s %9s %13s %13s\n", "Table 1, inference: ms of all-to-all, % of the step", "paper", "even gate",
           "uneven gate");
    for (size_t i = 0; i < 6; i++) {
        struct lina_model m = models[0];
        double ms[2], percent[2];
        char name[96];
        m.n_layers = inference[i].n_layers;
        for (uint32_t k = 0; k < 2; k++) {
            struct lina_bed b;
            struct lina_shape s = shape(&m, inference[i].size, 1);
            s.top_k = 1;
            s.zipf_ppm = k == 0 ? 0 : s.n_nodes * s.gpus_per_node == 4 ? 1003600 : 618800; /* 4.02 and 5.56 */
            lina_bed_make(&b, &s, &f[0]);
            const struct lina_run r = score(&b, "deferred");
            ms[k] = r.a2a_forward;
            percent[k] = 100 * r.a2a_forward / r.forward;
            lina_bed_free(&b);
        }
        snprintf(name, sizeof name, "%u GPUs, %s", n_experts[inference[i].size], inference[i].name);
        figure_of_gates(name, inference[i].ms, ms);
        figure_of_gates("", inference[i].percent, percent);
    }
}

static void print_slowdowns(void) {
    double of[N_READINGS][2];
    for (uint32_t i = 0; i < N_READINGS; i++) {
        static double all[N_MODELS * N_SIZES * 2 * LINA_MOST_LAYERS * LINA_STEPS];
        struct lina_slowdowns s = {all, 0};
        for (uint32_t m = 0; m < N_MODELS; m++)
            for (uint32_t k = 0; k < N_SIZES; k++)
                for (size_t j = 0; j < cells[i][m][k].slow.n; j++)
                    s.of[s.n++] = cells[i][m][k].slow.of[j];
        of[i][0] = median(&s);
        of[i][1] = s.of[s.n - 1];
    }
    heading("Backward all-to-alls under fair sharing, times alone");
    figure("median of all models and sizes", MEDIAN_SLOWDOWN, (double[]){of[0][0], of[1][0]});
    figure("worst", 4.14, (double[]){of[0][1], of[1][1]});
}

/* Share of an MoE layer, of a rank's time, overheads of cutting. */
static void print_shares(const struct lina_fit f[N_READINGS]) {
    static const double efficiency[N_MODELS][2] = {{33, 86}, {36, 85}, {34, 79}},
                        util[N_MODELS][2] = {{66.2, 83.4}, {62.3, 78.2}, {63.5, 82.5}};
    double share[2] = {0}, cut[2], more[2];
    for (uint32_t i = 0; i < N_READINGS; i++) {
        const struct lina_run *r = &cells[i][0][1].fair, *l = &cells[i][0][1].packed[0].lina;
        struct lina_bed b;
        const struct lina_shape s = shape(&models[0], 1, 1);
        share[i] = 100 * r->a2a / (models[0].n_layers * (r->layer_forward + r->layer_backward));
        lina_bed_make(&b, &s, &f[i]);
        const double split_ms = (double)b.steps[0]->split_ns * 1e-6, launch_ms = (double)b.steps[0]->launch_ns * 1e-6;
        cut[i] = 100 * 4 * models[0].n_layers * split_ms / l->step;
        more[i] = 100 * (l->chunks - 1) * launch_ms * 4 * models[0].n_layers / r->a2a_alone;
        lina_bed_free(&b);
    }
    heading("Shares, %: Transformer-XL, 4 experts; by model, 16");
    figure("all-to-all of an MoE layer", 74.9, share);
    figure("cutting and joining of the step", 1.02, cut);
    figure("all-to-alls in chunks longer by", 1.7, more);
    /* Tensors of 2.2, 2.2 and 12.9 ms at 100 Gbit/s, the last sent 1.875 times by 16 ranks, joined by a copy each. */
    const double us = 2 * (2 * 2.2 + 12.9 / 1.875) * 12.5e6 / (1555e9 * 0.8) * 1e6;
    figure("cutting and joining in figure 7, us", 764, (double[]){us, us});
    for (uint32_t m = 0; m < N_MODELS; m++)
        for (uint32_t k = 0; k < 2; k++) {
            char name[96];
            double e[2] = {0}, u[2] = {0};
            for (uint32_t i = 0; i < N_READINGS; i++) {
                const struct cell *c = &cells[i][m][N_SIZES - 1];
                const struct packed *p = &c->packed[k == 0 ? 0 : c->published];
                const struct lina_run *r = k == 0 ? &c->fair : packed_lina(c);
                e[i] = p->a2a_ms > p->expert_ms ? 100 * p->expert_ms / p->a2a_ms : 100;
                u[i] = 100 * r->compute / r->step;
            }
            snprintf(name, sizeof name, "pipelining, %s, %s", models[m].name, k == 0 ? "1 per GPU" : "packed");
            figure(name, efficiency[m][k], e);
            snprintf(name, sizeof name, "GPU busy, %s, %s", models[m].name, k == 0 ? "fair" : "Lina");
            figure(name, util[m][k], u);
        }
}

static void print_packing(void) {
    printf("\nExperts per GPU: paper; by Lina's rule and by the searched step, derived; and slowed\n");
    for (uint32_t m = 0; m < N_MODELS; m++)
        for (uint32_t s = 0; s < N_SIZES; s++) {
            const struct cell *a = &cells[0][m][s], *b = &cells[1][m][s];
            printf("  %-15s %2u experts: %u;  %u and %2u;  %u and %2u   steps of Lina, ms:", models[m].name,
                   n_experts[s], 1u << a->published, 1u << a->rule, 1u << a->best, 1u << b->rule, 1u << b->best);
            for (uint32_t k = 0; k < a->n_packed; k++)
                printf(" %.0f", a->packed[k].lina.step);
            printf(";");
            for (uint32_t k = 0; k < b->n_packed; k++)
                printf(" %.0f", b->packed[k].lina.step);
            printf("\n");
        }
    const struct cell *c = &cells[0][0][N_SIZES - 1];
    printf("  Weights, gradients and state of Transformer-XL, 16 experts, GB per GPU of 40, by experts per GPU:");
    for (uint32_t k = 0; k < c->n_packed; k++)
        printf(" %.1f", c->packed[k].held_gb);
    printf("; activations %.1f\n", c->packed[0].activations_gb);
}

static void print_chunks(const struct lina_fit f[N_READINGS]) {
    static const uint64_t mb[] = {2, 5, 10, 20, 30, 50, 75, 0};
    printf(
        "\nChunks of so many MB against 30, change of Lina's step in %% (paper: below 10 and above 50 it loses)\n%-36s",
        "");
    for (size_t i = 0; i < 8; i++)
        mb[i] == 0 ? (void)printf("   whole") : (void)printf(" %7llu", (unsigned long long)mb[i]);
    for (uint32_t i = 0; i < N_READINGS; i++)
        for (uint32_t m = 0; m < 2; m++) {
            struct lina_bed b;
            const struct lina_shape s = shape(&models[m], 3, 1);
            lina_bed_make(&b, &s, &f[i]);
            const double base = score(&b, "lina").step;
            printf("\n%-15s 16 experts, %-8s", models[m].name, i == 0 ? "derived" : "slowed");
            for (size_t k = 0; k < 8; k++) {
                struct mp_train_policy p = *policy("lina");
                p.a2a_chunk_bytes = p.reduce_chunk_bytes = mb[k] * 1000000;
                printf(" %+7.2f", 100 * (lina_score(&b, &p, NULL).step / base - 1));
            }
            lina_bed_free(&b);
        }
    printf("\n");
}

/* What the assumptions are worth: each of them otherwise, all fitted again. */
static void print_assumptions(void) {
    static const struct {
        const char *name;
        uint32_t hidden, nodes[N_SIZES], inside_gb;
        const char *dispatcher;
    } others[] = {{"as above", 512, {2, 4, 2, 4}, 32, "hierarchical"},
                  {"NVLink inside nodes", 512, {2, 4, 2, 4}, 300, "hierarchical"},
                  {"BERT2GPT2 and GPT-2 of width 768", 768, {2, 4, 2, 4}, 32, "hierarchical"},
                  {"one copy per expert, one phase", 512, {2, 4, 2, 4}, 32, "a2av"},
                  {"both phases at once", 512, {2, 4, 2, 4}, 32, "deepep-normal"},
                  {"8 GPUs in 4 nodes", 512, {2, 4, 4, 4}, 32, "hierarchical"},
                  {"2 and 4 GPUs in 1 node", 512, {1, 1, 2, 4}, 32, "hierarchical"}};
    printf(
        "\nAssumptions otherwise (derived, packed as published): Table 1's 16 GPUs with 24 layers, ms; step over "
        "Lina's "
        "with 2, 4, 8, 16 experts; scheduler alone; backward all-to-all with 4, 8, 16\n%-34s %6.0f  %5.2f %5.2f %5.2f "
        "%5.2f  %5.2f  %5.2f %5.2f %5.2f\n",
        "  paper", 715.0, 1.71, 1.37, 1.73, 1.47, 1.39, 2.21, 2.39, 2.31);
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        struct lina_fit f = start;
        double step[N_SIZES] = {0}, back[N_SIZES] = {0}, alone = 0, ms = 0;
        f.inside_gb = others[i].inside_gb;
        f.dispatcher = others[i].dispatcher;
        f = fit(f, others[i].nodes[rows[FITTED].size], false, 12);
        for (uint32_t m = 0; m < N_MODELS; m++)
            for (uint32_t s = 0; s < N_SIZES; s++) {
                struct lina_model model = models[m];
                struct lina_run fair = {0}, one = {0}, packed = {0};
                const uint32_t published = s == N_SIZES - 1 && m == 0 ? 4 : 2;
                model.hidden = m == 0 ? model.hidden : others[i].hidden;
                for (uint32_t k = 1; k <= published; k += published - 1) {
                    struct lina_bed b;
                    struct lina_shape x = shape(&model, s, k);
                    x.n_nodes = others[i].nodes[s];
                    x.gpus_per_node = n_experts[s] / x.n_nodes;
                    lina_bed_make(&b, &x, &f);
                    *(k == 1 ? &one : &packed) = score(&b, "lina");
                    if (k == 1)
                        fair = score(&b, "fair");
                    lina_bed_free(&b);
                }
                step[s] += fair.step / packed.step / N_MODELS;
                back[s] += fair.a2a_back / packed.a2a_back / N_MODELS;
                alone += fair.step / one.step / (N_MODELS * N_SIZES);
                ms = m == 0 && s == N_SIZES - 1 ? fair.a2a : ms;
            }
        printf("  %-32s %6.0f  %5.2f %5.2f %5.2f %5.2f  %5.2f  %5.2f %5.2f %5.2f\n", others[i].name, ms, step[0],
               step[1], step[2], step[3], alone, back[1], back[2], back[3]);
    }
}

struct against { /* changes of ours over Lina's */
    double sum, worst;
    uint32_t n, n_slower;
};
static void add_change(struct against *a, double ours, double lina) {
    a->sum += ours / lina - 1;
    a->worst = a->n == 0 ? ours / lina - 1 : fmax(a->worst, ours / lina - 1);
    a->n_slower += ours > lina;
    a->n++;
}
static void print_against(const char *what, const struct against *a) {
    printf("%-70s %+7.2f %% mean, %+.2f %% worst, slower in %u of %u\n", what, 100 * a->sum / a->n, 100 * a->worst,
           a->n_slower, a->n);
}
static void print_policy(const struct mp_train_policy *p) {
    printf("%s%s, chunks %llu and %llu MB, %s", p->is_shared ? "shared" : mp_train_guard_name(p->guard),
           p->is_pipelined ? ", pipelined" : "", (unsigned long long)p->a2a_chunk_bytes / 1000000,
           (unsigned long long)p->reduce_chunk_bytes / 1000000, mp_train_order_name(p->order));
    if (p->bucket_bytes > 0)
        printf(", buckets %llu MB", (unsigned long long)p->bucket_bytes / 1000000);
}

/* Ours against Lina's on steps that neither was chosen on. */
static void print_searched(void) {
    static const char *const readings[] = {"derived", "slowed", "uneven"};
    struct against same = {0}, rule = {0}, published = {0}, alone = {0}, ruled = {0}, floor = {0}, left = {0};
    printf(
        "\nSearched policy against Lina's, chosen on %u steps, scored on %u others; ms, experts per GPU in brackets; "
        "uneven: as derived, popularity 5.56 : 1 over 16 experts\n%-37s %13s %13s %13s %8s  %s\n",
        LINA_STEPS / 2, LINA_STEPS / 2, "", "Lina's rule", "policy alone", "packing too", "floor",
        "policy with that packing");
    for (uint32_t i = 0; i <= N_READINGS; i++)
        for (uint32_t m = 0; m < N_MODELS; m++)
            for (uint32_t s = 0; s < N_SIZES; s++) {
                const struct cell *c = &cells[i][m][s];
                const struct packed *best = &c->packed[c->best], *theirs = &c->packed[c->rule];
                for (uint32_t k = 0; k < c->n_packed; k++)
                    add_change(&same, c->packed[k].ours.step, c->packed[k].lina.step);
                add_change(&alone, c->packed[0].ours.step, c->packed[0].lina.step);
                add_change(&floor, c->packed[0].floor, c->packed[0].lina.step);
                add_change(&ruled, theirs->ours.step, theirs->lina.step);
                add_change(&left, theirs->floor, theirs->lina.step);
                add_change(&rule, best->ours.step, theirs->lina.step);
                add_change(&published, best->ours.step, packed_lina(c)->step);
                printf("  %-8s %-15s %2u experts %8.1f [%2u] %8.1f [%2u] %8.1f [%2u] %8.1f  ", readings[i],
                       models[m].name, n_experts[s], theirs->lina.step, 1u << c->rule, theirs->ours.step, 1u << c->rule,
                       best->ours.step, 1u << c->best, best->floor);
                print_policy(&best->policy);
                printf("\n");
            }
    print_against("same packing, all of them", &same);
    print_against("one expert per GPU", &alone);
    print_against("  floor of any policy there", &floor);
    print_against("packed by Lina's rule, both", &ruled);
    print_against("  floor of any policy there", &left);
    print_against("packing chosen too, against Lina's with the packing its rule takes", &rule);
    print_against("packing chosen too, against Lina's with its published packing", &published);
    printf("asked: -3 %% mean, never slower\n");
}

int main(void) {
    struct lina_fit f[N_READINGS];
    print_derived();
    for (uint32_t i = 0; i < N_READINGS; i++) {
        f[i] = fit(start, n_nodes[rows[FITTED].size], i == 1, 40);
        printf(i == 0
                   ? "Fitted on Table 1, 4 GPUs and 24 layers, gradients as derived:\n"
                   : "Slowed: fitted again, with %.1f times the gradients, so that the median backward all-to-all of "
                     "that row takes 1.83 times as long as alone:\n",
               f[i].gradients);
        print_fit(&f[i]);
        for (uint32_t m = 0; m < N_MODELS; m++)
            for (uint32_t s = 0; s < N_SIZES; s++)
                measure(&cells[i][m][s], &f[i], m, s, 0);
    }
    for (uint32_t m = 0; m < N_MODELS; m++)
        for (uint32_t s = 0; s < N_SIZES; s++)
            measure(&cells[UNEVEN][m][s], &f[0], m, s, UNEVEN_PPM);
    print_table1(f);
    print_table1_inference(f);
    heading("Step, DeepSpeed over Lina (mean of three models)");
    by_size("packed as published", (double[]){1.71, 1.37, 1.73, 1.47}, speedup, true);
    by_size("packed by its rule", (double[]){1.71, 1.37, 1.73, 1.47}, speedup_rule, false);
    double mean[N_READINGS] = {0};
    for (uint32_t i = 0; i < N_READINGS; i++)
        for (uint32_t s = 0; s < N_SIZES; s++)
            mean[i] += over_models(i, s, speedup) / N_SIZES;
    figure("packed as published, mean of all", 1.57, mean);
    heading("Step, DeepSpeed over ours");
    by_size("searched, packing too, beside Lina's", (double[]){1.71, 1.37, 1.73, 1.47}, speedup_ours, false);
    heading("Scheduler alone, one expert per GPU");
    by_size("priority", (double[]){1.24, 1.24, 1.24, 1.24}, priority, true);
    by_size("and chunks", (double[]){1.36, 1.36, 1.41, 1.42}, chunks, false);
    by_size("and chunks, pipelined", (double[]){1.36, 1.36, 1.41, 1.42}, scheduler, true);
    by_size("searched, beside Lina's", (double[]){1.36, 1.36, 1.41, 1.42}, scheduler_ours, false);
    heading("One MoE layer, packed as published");
    by_size("forward", (double[]){1.84, 0, 1.89, 0}, layer_forward, true);
    by_size("backward", (double[]){2.41, 0, 2.32, 0}, layer_backward, true);
    by_size("backward all-to-all", (double[]){0, 2.21, 2.39, 2.31}, a2a_back, true);
    print_slowdowns();
    print_shares(f);
    print_packing();
    print_chunks(f);
    print_assumptions();
    print_searched();
    printf("Within 10 %%: derived %u of %u, slowed %u of %u\n", n_within[0], n_figures[0], n_within[1], n_figures[1]);
    return 0;
}
