/* Table III of Luffy (arXiv 2411.15419) under its conditions: computation and communication of a training step of three
 * models on 2 to 16 GPUs, for tokens that travel (Vanilla), experts that travel (EXT, HYT) and Luffy's own, the paper's
 * figures beside ours. What is printed there, fitted and assumed: docs/LUFFY.md, "Table III". Every model's columns for
 * two GPUs are fitted in the Vanilla row, one figure of the network for sixteen; all else is predicted.
 *
 * usage: bench_luffy [MODEL] */
#include <math.h>
#include <moeplan/moeplan.h>
#include <moeplan/rehome.h>
#include <moeplan/synth.h>
#include <moeplan/train.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SEQUENCES = 64, N_SIZES = 4, N_METHODS = 4, N_ROWS = 5, N_MODELS = 3, FIT_ROUNDS = 4 };
static const uint32_t sizes[N_SIZES] = {2, 4, 8, 16};
static const char *const methods[N_ROWS] = {"Vanilla", "EXT", "HYT", "Luffy", "matching"};

struct model {
    const char *name, *preset; /* of signatures */
    uint32_t n_layers, hidden, ff, length, thinning;
    uint32_t few_ppm, few;               /* so many sequences use at most so many experts */
    double paper[N_METHODS][N_SIZES][2]; /* computation, communication; ms */
};
/* Tokens are thinned: one of `thinning` is simulated and costs as much as all of them. */
static const struct model models[N_MODELS] = {
    {"TXL",
     "txl",
     18,
     1024,
     4096,
     250,
     4,
     550000,
     3,
     {{{2169, 843}, {2102, 1522}, {1923, 2548}, {1533, 4599}},
      {{2403, 209}, {2714, 370}, {3054, 625}, {3699, 1233}},
      {{2265, 197}, {2387, 357}, {2629, 539}, {3204, 1068}},
      {{1521, 480}, {1389, 851}, {1225, 1043}, {1012, 1238}}}},
    {"BERT-L",
     "bert-l",
     24,
     768,
     3072,
     512,
     8,
     550000,
     3,
     {{{973, 899}, {953, 2122}, {918, 3072}, {756, 4284}},
      {{1258, 314}, {1989, 561}, {2011, 1181}, {2112, 1728}},
      {{1123, 281}, {1794, 506}, {1843, 1083}, {1914, 1386}},
      {{784, 404}, {728, 672}, {638, 1042}, {525, 1225}}}},
    {"GPT2",
     "gpt2",
     12,
     768,
     3072,
     1024,
     16,
     820000,
     2,
     {{{955, 881}, {847, 1573}, {774, 2592}, {676, 3834}},
      {{1399, 209}, {1706, 374}, {2048, 544}, {2402, 718}},
      {{1278, 174}, {1509, 331}, {1741, 435}, {2095, 557}},
      {{752, 292}, {724, 780}, {669, 963}, {571, 1330}}}},
};

static void check(enum mp_status status, const struct mp_error *err) {
    if (status == MP_OK)
        return;
    fprintf(stderr, "bench_luffy: %s\n", err->message);
    exit(1);
}
static void *room(size_t n, size_t size) {
    void *p = calloc(n, size);
    if (p == NULL) {
        fprintf(stderr, "bench_luffy: out of memory\n");
        exit(1);
    }
    return p;
}

/* ---- the recording ---- */

/* `few` experts, or with the rest of the sequences twice as many and one more; all of them where there are not so many.
 * The same in every layer. A token uses two of its sequence's, one in twenty any. */
static struct mp_trace *make_trace(const struct model *m, uint32_t n_experts) {
    struct mp_trace_builder *b;
    struct mp_trace *t;
    struct mp_error err = {0};
    struct mp_rng rng = mp_rng_seed(7);
    const struct mp_trace_meta meta = {.kind = MP_TRACE_TOKENS,
                                       .phase = MP_PHASE_TRAIN,
                                       .model = m->name,
                                       .is_synthetic = true,
                                       .n_layers = m->n_layers,
                                       .n_experts = n_experts,
                                       .top_k = 2};
    uint32_t *set = room(n_experts, sizeof *set);
    uint16_t *ids = room((size_t)m->n_layers * 2, sizeof *ids);
    check(mp_trace_builder_new(&b, &meta, &mp_limits_default, &err), &err);
    for (uint32_t r = 0; r < SEQUENCES * n_experts; r++) {
        const struct mp_request request = {.id = r, .source = r % n_experts, .category = MP_NONE};
        const bool is_few = mp_rng_below(&rng, 1000000) < m->few_ppm;
        const uint32_t want = is_few ? m->few : 2 * m->few + 1, n_set = want < n_experts ? want : n_experts;
        check(mp_trace_builder_request(b, &request, &err), &err);
        for (uint32_t e = 0; e < n_experts; e++)
            set[e] = e;
        mp_rng_shuffle(&rng, set, n_experts);
        for (uint32_t i = 0; i < m->length / m->thinning; i++) {
            for (uint32_t l = 0; l < m->n_layers; l++) {
                const uint32_t n = mp_rng_below(&rng, 20) == 0 ? n_experts : n_set;
                const uint32_t first = (uint32_t)mp_rng_below(&rng, n), other = (uint32_t)mp_rng_below(&rng, n - 1);
                ids[2 * l] = (uint16_t)set[first];
                ids[2 * l + 1] = (uint16_t)set[other + (other >= first)];
            }
            check(mp_trace_builder_row(b, ids, NULL, &err), &err);
        }
    }
    free(set);
    free(ids);
    check(mp_trace_builder_finish(b, NULL, &t, &err), &err);
    check(mp_synth_signatures(t, mp_synth_similarity_find(m->preset), 11, &mp_limits_default, &err), &err);
    return t;
}

/* Share of (sequence, layer) whose 9 of 10 pairs use at most so many experts. */
static double share_with_few(const struct mp_trace *t, uint32_t few) {
    uint64_t n = 0, hit = 0;
    uint64_t *count = room(t->n_experts, sizeof *count);
    for (uint64_t r = 0; r < t->n_requests; r++)
        for (uint32_t l = 0; l < t->n_layers; l++) {
            const struct mp_request *q = &t->requests[r];
            uint64_t most = 0;
            memset(count, 0, t->n_experts * sizeof *count);
            for (uint64_t row = q->first_row; row < q->first_row + q->n_rows; row++) {
                uint16_t ids[MP_MAX_TOP_K];
                mp_trace_row(t, l, row, ids);
                count[ids[0]]++;
                count[ids[1]]++;
            }
            for (uint32_t k = 0; k < few; k++) {
                uint32_t best = 0;
                for (uint32_t e = 1; e < t->n_experts; e++)
                    best = count[e] > count[best] ? e : best;
                most += count[best];
                count[best] = 0;
            }
            hit += most * 10 >= q->n_rows * 2 * 9;
            n++;
        }
    free(count);
    return (double)hit / (double)n;
}

/* ---- the cluster: boxes of eight GPUs, two on a PCIe switch, the box behind one NIC ---- */

struct fit {
    double compute, tokens;       /* times as much as derived: operations, and bytes of a token */
    double pcie_per_s, nic_per_s; /* bytes */
};

static struct mp_topology *make_topology(uint32_t n, const struct fit *f) {
    char text[2048];
    struct mp_error err = {0};
    struct mp_topology *t;
    const unsigned long long pcie = (unsigned long long)f->pcie_per_s, nic = (unsigned long long)f->nic_per_s;
    char gpus[160];
    snprintf(gpus, sizeof gpus, "[{repeat: 2, type: v100-pcie, ports: {switch: %llu B/s}}]", pcie);
    int used = snprintf(text, sizeof text,
                        "schema: moeplan.topology\nversion: 1\nname: luffy-%u\nlaunch: 30 us\nlevels:\n"
                        "  - {name: switch, latency: 10 us}\n",
                        n);
    if (n > 2)
        used += snprintf(text + used, sizeof text - (size_t)used, "  - {name: box, latency: 10 us}\n");
    if (n > 8)
        used += snprintf(text + used, sizeof text - (size_t)used, "  - {name: network, latency: 20 us}\n");
    if (n == 2)
        snprintf(text + used, sizeof text - (size_t)used, "gpus: %s\n", gpus);
    else if (n <= 8)
        snprintf(text + used, sizeof text - (size_t)used, "groups:\n  - {repeat: %u, uplink: %llu B/s, gpus: %s}\n",
                 n / 2, pcie, gpus);
    else
        snprintf(text + used, sizeof text - (size_t)used,
                 "groups:\n  - repeat: %u\n    uplink: %llu B/s\n    groups:\n"
                 "      - {repeat: 4, uplink: %llu B/s, gpus: %s}\n",
                 n / 8, nic, pcie, gpus);
    struct mp_in *in;
    check(mp_in_from_memory(&in, "bench_luffy", text, strlen(text), &err), &err);
    check(mp_topology_parse(&t, in, &mp_limits_default, &err), &err);
    mp_in_close(in);
    return t;
}

/* ---- a step ---- */

struct bed {
    const struct model *model;
    uint32_t n; /* GPUs = experts */
    struct mp_trace *trace;
    struct mp_part part, same;
    struct mp_workload *workload;
    struct mp_plan *plan;
    struct mp_router *router;
};

static void bed_make(struct bed *b, const struct model *m, uint32_t n) {
    const struct mp_split none = {.kind = MP_SPLIT_NONE};
    struct mp_error err = {0};
    uint32_t one[16];
    *b = (struct bed){.model = m, .n = n, .trace = make_trace(m, n)};
    const struct mp_batching batching = {
        .phase = MP_PHASE_TRAIN, .n_ranks = n, .tokens_per_rank = (uint64_t)SEQUENCES * (m->length / m->thinning)};
    check(mp_part_split(&b->part, &b->same, b->trace, &none, &err), &err);
    check(mp_workload_build(&b->workload, &b->part, &batching, &err), &err);
    for (uint32_t g = 0; g < n; g++)
        one[g] = 1;
    check(mp_plan_new(&b->plan, m->n_layers, n, n, one, &err), &err);
    for (uint32_t l = 0; l < m->n_layers; l++)
        for (uint32_t e = 0; e < n; e++)
            b->plan->layers[l].slot_expert[e] = (uint16_t)e;
    check(mp_router_new(&b->router, b->plan, &err), &err);
}
static void bed_free(struct bed *b) {
    mp_router_free(b->router);
    mp_plan_free(b->plan);
    mp_workload_free(b->workload);
    mp_part_free(&b->part);
    mp_part_free(&b->same);
    mp_trace_free(b->trace);
}

/* Single precision; thinned tokens weigh as much as all of them. */
static struct mp_model model_of(const struct bed *b, const struct fit *f) {
    const struct model *m = b->model;
    const uint64_t d = m->hidden;
    struct mp_model x = {.name = m->name,
                         .source = "",
                         .n_hidden_layers = m->n_layers,
                         .n_layers = m->n_layers,
                         .n_experts = b->n,
                         .top_k = 2,
                         .n_groups = 1,
                         .hidden_size = m->hidden,
                         .expert_size = m->ff,
                         .weight_bits_x100 = 3200,
                         .expert_bytes = 2 * d * m->ff * 4,
                         .dispatch_bytes = (uint64_t)((double)(d * 4 * m->thinning) * f->tokens),
                         .combine_bytes = (uint64_t)((double)(d * 4 * m->thinning) * f->tokens)};
    const double scale = f->compute * m->thinning;
    x.expert_flops_per_token = (uint64_t)(4.0 * (double)d * m->ff * scale);
    x.attention_flops_per_token = (uint64_t)((8.0 * (double)d * (double)d + 4.0 * m->length * (double)d) * scale);
    return x;
}

struct times {
    double compute_ms, communicate_ms, share; /* share: condensed */
};

/* The paper measures that three experts on a GPU take 1.88 times as long as one with as many tokens (BERT-L); between
 * and beyond by the logarithm, which is assumed. */
static double slowdown(uint32_t n_active) { return n_active < 2 ? 1 : 1 + 0.88 * log(n_active) / log(3); }

/* One training step: computation of the slowest rank of every part, all-to-alls one after another. */
static struct times run(const struct bed *b, const struct fit *f, const struct mp_dispatcher *d,
                        const struct mp_token_flow *flow) {
    struct mp_error err = {0};
    struct mp_topology *t = make_topology(b->n, f);
    const struct mp_model model = model_of(b, f);
    const struct mp_cost_setup setup = {.plan = b->plan,
                                        .router = b->router,
                                        .workload = b->workload,
                                        .topology = t,
                                        .model = &model,
                                        .dispatcher = d,
                                        .flow = flow};
    struct mp_train_options options = mp_train_defaults();
    struct mp_train_work work;
    struct times sum = {0};
    struct mp_traffic *traffic;
    options.gradient_bits = 32;
    check(mp_traffic_new(&traffic, b->n, &err), &err);
    check(mp_train_work_make(&work, &setup, 0, &options, &err), &err);
    for (uint32_t l = 0; l < work.step.n_layers; l++) {
        const struct mp_train_layer *x = &work.step.layers[l];
        const uint64_t *const parts[] = {x->attention_ns,    x->expert_ns,      x->combine_ns,
                                         x->combine_back_ns, x->expert_back_ns, x->attention_back_ns};
        check(mp_traffic_compute(traffic, &setup, 0, l, &err), &err);
        for (size_t k = 0; k < sizeof parts / sizeof *parts; k++) {
            double most = 0;
            for (uint32_t g = 0; g < b->n; g++) {
                const bool is_experts = parts[k] == x->expert_ns || parts[k] == x->expert_back_ns;
                const double ns = (double)parts[k][g] * (is_experts ? slowdown(traffic->active[g]) : 1);
                most = ns > most ? ns : most;
            }
            sum.compute_ms += most / 1e6;
        }
        for (uint32_t k = 0; k < MP_TRAIN_N_A2A; k++)
            sum.communicate_ms += (double)(x->a2a[k].ns + (x->a2a[k].ns > 0 ? work.step.launch_ns : 0)) / 1e6;
    }
    mp_traffic_free(traffic);
    mp_train_work_free(&work);
    mp_topology_free(t);
    return sum;
}

enum homes { STAY, ALGORITHM_1, ALGORITHM_1_INLINED, MATCHING };
/* One expert on each GPU: copies and outputs are those of a2av, but a residual that moves joins an output that leaves
 * where it is (NetMoE). */
static const struct mp_dispatcher inlined = {.name = "inlined", .copies = MP_COPY_PER_GPU, .n_launches = 1};

/* Each GPU keeps its number of sequences. All are of one length, so that Algorithm 1's choice among q > 1 candidates
 * has nothing to choose by and only makes sequences move more: q = 1. */
static enum mp_status make_flow(struct mp_token_flow **out, enum homes homes, const struct mp_cost_setup *setup,
                                struct mp_error *err) {
    const struct mp_rehome_job job = {.strategy = mp_rehome_find(homes == MATCHING ? "matching" : "luffy"),
                                      .balance = MP_REHOME_SEQUENCES,
                                      .n_candidates = 1};
    return homes == STAY ? mp_flow_new(out, setup->workload, 0, err) : mp_rehome_flow(out, &job, setup, 0, err);
}

static struct times run_luffy(const struct bed *b, const struct fit *f, enum homes homes, uint32_t threshold_ppm) {
    struct mp_error err = {0};
    struct mp_token_flow *flow;
    struct mp_topology *t = make_topology(b->n, f);
    const struct mp_model model = model_of(b, f);
    const struct mp_cost_setup setup = {.plan = b->plan,
                                        .router = b->router,
                                        .workload = b->workload,
                                        .topology = t,
                                        .model = &model,
                                        .dispatcher =
                                            homes == ALGORITHM_1_INLINED ? &inlined : mp_dispatcher_find("a2av")};
    const struct mp_condense condense = {
        .threshold_ppm = &threshold_ppm, .n_thresholds = 1, .sure_ppm = 900000, .never_ppm = 200000, .block_rows = 256};
    struct mp_condense_sums sums = {0};
    check(make_flow(&flow, homes, &setup, &err), &err);
    if (threshold_ppm > 0)
        check(mp_condense_step(flow, &setup, 0, &condense, &sums, &err), &err);
    struct times x = run(b, f, setup.dispatcher, flow);
    x.share = sums.tokens == 0 ? 0 : (double)sums.condensed / (double)sums.tokens;
    mp_flow_free(flow);
    mp_topology_free(t);
    return x;
}

static struct times run_method(const struct bed *b, const struct fit *f, uint32_t method, uint32_t threshold_ppm) {
    switch (method) {
    case 0:
        return run(b, f, mp_dispatcher_find("a2av"), NULL);
    case 1:
        return run(b, f, mp_travel_find("janus"), NULL);
    case 2:
        return run(b, f, mp_travel_find("fastermoe"), NULL);
    default:
        return run_luffy(b, f, method == 3 ? ALGORITHM_1 : MATCHING, threshold_ppm);
    }
}

/* ---- fits ---- */

static struct fit fit_model(const struct bed *two) {
    struct fit f = {.compute = 1, .tokens = 1, .pcie_per_s = 11e9, .nic_per_s = 12.5e9};
    const double *paper = two->model->paper[0][0];
    for (uint32_t i = 0; i < FIT_ROUNDS; i++) {
        const struct times x = run_method(two, &f, 0, 0);
        f.compute *= paper[0] / x.compute_ms;
        f.tokens *= paper[1] / x.communicate_ms;
    }
    return f;
}

/* The rate with which Vanilla's all-to-alls of 16 GPUs take as long as printed. */
static double fit_nic(const struct bed *sixteen, struct fit f) {
    for (uint32_t i = 0; i < FIT_ROUNDS; i++)
        f.nic_per_s *= run_method(sixteen, &f, 0, 0).communicate_ms / sixteen->model->paper[0][3][1];
    return f.nic_per_s;
}

/* The similarity from which tokens are condensed: the highest with which Luffy's computation on two GPUs is no longer
 * than printed. */
static uint32_t fit_threshold(const struct bed *two, const struct fit *f) {
    uint32_t low = 0, high = 21; /* bits: fewer are condensed with fewer */
    while (low < high) {
        const uint32_t d = (low + high) / 2;
        if (run_luffy(two, f, STAY, mp_signature_similarity_ppm(d)).compute_ms > two->model->paper[3][0][0])
            low = d + 1;
        else
            high = d;
    }
    return mp_signature_similarity_ppm(low);
}

/* ---- what is printed ---- */

static double total(const struct times *x) { return x->compute_ms + x->communicate_ms; }
static double total_of(const double paper[2]) { return paper[0] + paper[1]; }

struct tally {
    uint32_t n, within_10, within_25;
    double log_off;
};
static void count(struct tally *t, double ours, double paper) {
    const double off = fabs(log(ours / paper));
    t->n++;
    t->within_10 += off <= log(1.1);
    t->within_25 += off <= log(1.25);
    t->log_off += off;
}
static void put_tally(const char *what, const struct tally *t) {
    printf("%s: %u figures, %u within 10 %%, %u within 25 %%, mean factor %.2f\n", what, t->n, t->within_10,
           t->within_25, exp(t->log_off / t->n));
}

static void put_model(const struct bed beds[N_SIZES], const struct fit *f, uint32_t fitted_ppm, struct tally *vanilla,
                      struct tally *rivals, struct tally *luffy, struct tally *speedups,
                      struct tally *speedups_rivals) {
    const struct model *m = beds[0].model;
    struct times x[N_ROWS][N_SIZES];
    printf("\n%s: operations x %.3f, bytes of tokens x %.3f; at most %u experts: ", m->name, f->compute, f->tokens,
           m->few);
    for (uint32_t k = 0; k < N_SIZES; k++)
        printf("%s%.0f %%", k > 0 ? " / " : "", 100 * share_with_few(beds[k].trace, m->few));
    printf(" of sequences and layers\n\n%-22s", "computation/communication, ms");
    for (uint32_t k = 0; k < N_SIZES; k++)
        printf("   %12s%-2u %11s", "E = ", sizes[k], "paper");
    printf("\n");
    for (uint32_t i = 0; i < N_ROWS; i++) {
        printf("%-29s", i < N_METHODS ? methods[i] : "Luffy, homes by matching");
        for (uint32_t k = 0; k < N_SIZES; k++) {
            x[i][k] = run_method(&beds[k], f, i, fitted_ppm);
            printf("   %5.0f/%5.0f", x[i][k].compute_ms, x[i][k].communicate_ms);
            if (i == N_METHODS) {
                printf("                ");
                continue;
            }
            const double *paper = m->paper[i][k];
            printf("     %5.0f/%5.0f", paper[0], paper[1]);
            if (k == 0 && i == 0)
                continue; /* fitted */
            count(i == 0 ? vanilla : i == 3 ? luffy : rivals, x[i][k].compute_ms, paper[0]);
            count(i == 0 ? vanilla : i == 3 ? luffy : rivals, x[i][k].communicate_ms, paper[1]);
        }
        printf("\n");
    }
    for (uint32_t i = 1; i < N_ROWS; i++) {
        printf("%-9s%-20s", methods[i], "against Vanilla");
        for (uint32_t k = 0; k < N_SIZES; k++) {
            const double ours = total(&x[0][k]) / total(&x[i][k]);
            printf("   %6.2fx     ", ours);
            if (i == N_METHODS) {
                printf("               ");
                continue;
            }
            const double paper = total_of(m->paper[0][k]) / total_of(m->paper[i][k]);
            printf("    %6.2fx    ", paper);
            count(i == 3 ? speedups : speedups_rivals, ours, paper);
        }
        printf("\n");
    }
    static const struct {
        const char *name;
        enum homes homes;
        bool is_fitted, is_condensed;
    } alone[] = {{"condensation alone, as fitted", STAY, true, true},
                 {"condensation alone, h = 0.8", STAY, false, true},
                 {"migration alone, Algorithm 1", ALGORITHM_1, false, false},
                 {"... residuals inlined", ALGORITHM_1_INLINED, false, false},
                 {"migration alone, matching", MATCHING, false, false}};
    for (size_t i = 0; i < sizeof alone / sizeof *alone; i++) {
        printf("%-29s", alone[i].name);
        for (uint32_t k = 0; k < N_SIZES; k++) {
            const struct times y = run_luffy(&beds[k], f, alone[i].homes,
                                             !alone[i].is_condensed ? 0
                                             : alone[i].is_fitted   ? fitted_ppm
                                                                    : 800000);
            printf("   %6.2fx", total(&x[0][k]) / total(&y));
            if (alone[i].is_condensed)
                printf(" %4.1f %% condensed  ", 100 * y.share);
            else
                printf("                   ");
        }
        printf("\n");
    }
}

int main(int argc, char **argv) {
    struct tally vanilla = {0}, rivals = {0}, luffy = {0}, speedups = {0}, speedups_rivals = {0};
    double nic_per_s = 0;
    uint32_t fitted_ppm = 0;
    for (uint32_t i = 0; i < N_MODELS; i++) {
        struct bed beds[N_SIZES];
        const bool is_shown = argc < 2 || strcmp(argv[1], models[i].name) == 0;
        if (!is_shown && i > 0)
            continue;
        for (uint32_t k = 0; k < N_SIZES; k++)
            bed_make(&beds[k], &models[i], sizes[k]);
        struct fit f = fit_model(&beds[0]);
        if (i == 0) {
            nic_per_s = fit_nic(&beds[3], f);
            fitted_ppm = fit_threshold(&beds[0], &f);
            printf("fitted on TXL: NIC of eight GPUs %.2f GB/s (E = 16), condensation from a cosine of %.3f (E = 2)\n",
                   nic_per_s / 1e9, fitted_ppm / 1e6);
        }
        f.nic_per_s = nic_per_s;
        if (is_shown)
            put_model(beds, &f, fitted_ppm, &vanilla, &rivals, &luffy, &speedups, &speedups_rivals);
        for (uint32_t k = 0; k < N_SIZES; k++)
            bed_free(&beds[k]);
    }
    printf(
        "\nablation in the paper: condensation alone 1.74x (TXL) and 1.38x (GPT2), migration alone 1.72x (GPT2); for "
        "how many GPUs is not said\n");
    put_tally("Vanilla, not fitted", &vanilla);
    put_tally("EXT and HYT", &rivals);
    put_tally("Luffy", &luffy);
    put_tally("Luffy against Vanilla", &speedups);
    put_tally("EXT and HYT against Vanilla", &speedups_rivals);
    return 0;
}
