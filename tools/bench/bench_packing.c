/* Packing on both sides: Lina's published policy with its packing by its rule (USENIX ATC'23, arXiv 2210.17223, section
 * 4.2) against ours, which searches packing, chunks and buckets together. Chosen on two steps, scored on two of other
 * requests. Synthetic recordings; models and clusters unlike Lina's (those: bench_lina). Beside it what is left of the
 * gain at Lina's own packing, and without packing. Processor time of the choice. */
#include <moeplan/base.h>
#include <moeplan/moeplan.h>
#include <moeplan/synth.h>
#include <moeplan/train.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define N_STEPS 2u

struct model {
    const char *name;
    uint32_t n_layers, n_experts, top_k, hidden, inner;
    bool is_gated;
};
static const struct model models[] = {{"16 experts, top-2, 1024 x 4096", 6, 16, 2, 1024, 4096, false},
                                      {"64 experts, top-6, 2048 x 1408", 6, 64, 6, 2048, 1408, true},
                                      {"8 experts, top-2, 4096 x 14336", 6, 8, 2, 4096, 14336, true}};
/* The last: Lina's GPUs and network as bench_lina derives them, PCIe inside nodes. */
static const char *const clusters[] = {"2x8:h100", "4x4:a100", "lina"};
static const char lina_cluster[] =
    "schema: moeplan.topology\nversion: 1\nname: lina\nlaunch: 10 us\nlevels:\n"
    "  - {name: inside, latency: 10 us}\n  - {name: ib, latency: 2600 ns}\n"
    "gpu_types: {a100-40: {preset: a100, memory: 40 GiB, hbm: 1555 GB/s}}\n"
    "groups: [{repeat: 4, gpus: [{repeat: 4, type: a100-40, ports: {inside: 32 GB/s, ib: 12500 MB/s}}]}]\n";
static const uint64_t tokens[] = {1024, 4096};
static const uint32_t zipf[] = {0, 600000};

static void require(enum mp_status status, const struct mp_error *err) {
    if (status == MP_OK)
        return;
    fprintf(stderr, "bench_packing: %s\n", err->message);
    exit(1);
}

struct bed {
    struct mp_trace *trace;
    struct mp_model *model;
    struct mp_topology *topology;
    struct mp_part part[2];
    struct mp_workload *workload[2]; /* chosen on, scored on */
};

static void bed_make(struct bed *b, const struct model *m, const char *cluster, uint64_t n_tokens, uint32_t zipf_ppm) {
    struct mp_error err = {0};
    struct mp_in *in;
    char text[640];
    *b = (struct bed){0};
    if (strcmp(cluster, "lina") == 0) {
        require(mp_in_from_memory(&in, "lina.yaml", lina_cluster, sizeof lina_cluster - 1, &err), &err);
        require(mp_topology_parse(&b->topology, in, &mp_limits_default, &err), &err);
        mp_in_close(in);
    } else {
        require(mp_topology_load(&b->topology, cluster, &mp_limits_default, &err), &err);
    }
    const int n = snprintf(text, sizeof text,
                           "schema: moeplan.model\nversion: 1\nname: bench\nhidden_layers: %u\nexperts: %u\ntop_k: %u\n"
                           "hidden_size: %u\nexpert_size: %u\nffn: %s\nweight_bits: 16\nattention_bytes: %llu B\n"
                           "attention_flops: %llu\nkv_bytes: 0 B\n",
                           m->n_layers, m->n_experts, m->top_k, m->hidden, m->inner, m->is_gated ? "gated" : "plain",
                           8ull * m->hidden * m->hidden, 8ull * m->hidden * m->hidden);
    require(mp_in_from_memory(&in, "model.yaml", text, (size_t)n, &err), &err);
    require(mp_model_parse(&b->model, in, &mp_limits_default, &err), &err);
    mp_in_close(in);
    const uint32_t ranks = b->topology->n_gpus;
    const struct mp_synth_params params = {.n_layers = m->n_layers,
                                           .n_experts = m->n_experts,
                                           .top_k = m->top_k,
                                           .n_requests = n_tokens * ranks * 5 / 256 + 64,
                                           .tokens_per_request_mean = 256,
                                           .phase = MP_PHASE_TRAIN,
                                           .zipf_ppm = zipf_ppm,
                                           .cluster_size = 2,
                                           .n_domains = 1,
                                           .seed = 7};
    const struct mp_split half = {.kind = MP_SPLIT_HASH, .planning_ppm = 500000, .seed = 1};
    const struct mp_batching batching = {
        .phase = MP_PHASE_TRAIN, .n_ranks = ranks, .tokens_per_rank = n_tokens, .n_steps_max = N_STEPS, .seed = 1};
    require(mp_synth_generate(&b->trace, &params, &mp_limits_default, &err), &err);
    require(mp_part_split(&b->part[0], &b->part[1], b->trace, &half, &err), &err);
    for (uint32_t i = 0; i < 2; i++)
        require(mp_workload_build(&b->workload[i], &b->part[i], &batching, &err), &err);
}

static void bed_free(struct bed *b) {
    for (uint32_t i = 0; i < 2; i++) {
        mp_workload_free(b->workload[i]);
        mp_part_free(&b->part[i]);
    }
    mp_topology_free(b->topology);
    mp_model_free(b->model);
    mp_trace_free(b->trace);
}

/* k: of GIVEN. policy NULL: searched, with buckets in `arena`. */
static struct mp_train_packed choose(const struct bed *b, enum mp_train_packing packing, uint32_t k, const char *policy,
                                     struct mp_arena *arena) {
    struct mp_error err = {0};
    struct mp_train_packed out;
    enum mp_outcome outcome;
    const struct mp_train_pack_request request = {.workload = b->workload[0],
                                                  .topology = b->topology,
                                                  .model = b->model,
                                                  .dispatcher = mp_dispatcher_find("deepep-normal"),
                                                  .options = mp_train_defaults(),
                                                  .packing = packing,
                                                  .k = k,
                                                  .policy =
                                                      policy == NULL ? NULL : &mp_train_policy_find(policy)->policy,
                                                  .n_steps_max = N_STEPS,
                                                  .n_threads = 1,
                                                  .arena = arena};
    require(mp_train_pack(&out, &request, &outcome, &err), &err);
    if (outcome != MP_FOUND)
        require(MP_EINPUT, &err);
    return out;
}

/* Mean step on the other half, ms. */
static double score(const struct bed *b, const struct mp_train_packed *packed) {
    struct mp_error err = {0};
    struct mp_plan *plan;
    struct mp_router *router;
    struct mp_train_options options = mp_train_defaults();
    double sum = 0;
    options.offload = packed->offload;
    require(mp_train_pack_plan(&plan, b->trace, b->topology, packed->k, &err), &err);
    require(mp_router_new(&router, plan, &err), &err);
    const struct mp_cost_setup setup = {.plan = plan,
                                        .router = router,
                                        .workload = b->workload[1],
                                        .topology = b->topology,
                                        .model = b->model,
                                        .dispatcher = mp_dispatcher_find("deepep-normal")};
    for (uint32_t i = 0; i < b->workload[1]->n_steps; i++) {
        struct mp_train_work work;
        struct mp_train_timeline line;
        require(mp_train_work_make(&work, &setup, i, &options, &err), &err);
        require(mp_train_run(&line, &work.step, &packed->policy, false, &err), &err);
        sum += (double)line.step_ns * 1e-6 / b->workload[1]->n_steps;
        mp_train_timeline_free(&line);
        mp_train_work_free(&work);
    }
    mp_router_free(router);
    mp_plan_free(plan);
    return sum;
}

struct sums {
    double sum, worst;
    uint32_t n, n_slower;
};
static void add(struct sums *s, double change) {
    s->worst = s->n == 0 || change > s->worst ? change : s->worst;
    s->sum += change;
    s->n++;
    s->n_slower += change > 0.000005; /* more than rounding */
}
static void print(const char *what, const struct sums *s, const char *asked) {
    printf("%-52s mean %+6.2f %%, worst %+6.2f %%, slower in %u of %u%s\n", what, 100 * s->sum / s->n, 100 * s->worst,
           s->n_slower, s->n, asked);
}

int main(void) {
    struct sums both = {0}, same = {0}, none = {0}, chosen = {0};
    double longest = 0;
    printf(
        "%-32s %-9s tokens zipf   lina: k    step, ms   ours: k    step, ms    change   at lina's k  without packing\n",
        "model", "cluster");
    for (size_t i = 0; i < sizeof models / sizeof *models; i++)
        for (size_t j = 0; j < 12; j++) {
            struct bed b;
            struct mp_arena *arena = mp_arena_new();
            const uint64_t n_tokens = tokens[j / 3 % 2];
            const uint32_t skew = zipf[j / 6];
            uint32_t all[MP_TRAIN_MAX_PACKINGS];
            bed_make(&b, &models[i], clusters[j % 3], n_tokens, skew);
            (void)mp_train_packings(all, b.model->n_experts, b.topology->n_gpus);
            const struct mp_train_packed lina = choose(&b, MP_TRAIN_PACK_LINA, 0, "lina", NULL);
            const clock_t from = clock();
            const struct mp_train_packed ours = choose(&b, MP_TRAIN_PACK_SEARCHED, 0, NULL, arena);
            const double took = (double)(clock() - from) / CLOCKS_PER_SEC;
            const struct mp_train_packed at_k = choose(&b, MP_TRAIN_PACK_GIVEN, lina.k, NULL, arena);
            const struct mp_train_packed plain = choose(&b, MP_TRAIN_PACK_GIVEN, all[0], "lina", NULL);
            const struct mp_train_packed searched = choose(&b, MP_TRAIN_PACK_GIVEN, all[0], NULL, arena);
            const double l = score(&b, &lina), o = score(&b, &ours);
            const double s = score(&b, &at_k) / l - 1, p = score(&b, &searched) / score(&b, &plain) - 1;
            add(&both, o / l - 1);
            add(&same, s);
            add(&none, p);
            add(&chosen, (double)ours.mean_ns / (double)lina.mean_ns - 1);
            longest = took > longest ? took : longest;
            printf("%-32s %-9s %6llu %4.1f %10u %11.2f %9u %11.2f  %+7.2f %%    %+7.2f %%        %+7.2f %%%s\n",
                   models[i].name, clusters[j % 3], (unsigned long long)n_tokens, skew * 1e-6, lina.k, l, ours.k, o,
                   100 * (o / l - 1), 100 * s, 100 * p,
                   ours.offload > 0 || lina.offload > 0 ? " (experts offloaded)" : "");
            mp_arena_free(arena);
            bed_free(&b);
        }
    print("ours against lina, each with its packing, other steps", &both, " (asked: never, and 3 % in the mean)");
    print("the same on the steps chosen on", &chosen, " (never, by construction)");
    print("both at the packing of Lina's rule", &same, "");
    print("both without packing", &none, "");
    printf("choosing packing, policy and buckets takes at most %.1f s of one processor\n", longest);
    return 0;
}
