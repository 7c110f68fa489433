/* Lina's conditions (USENIX ATC'23, arXiv 2210.17223) as models, clusters, recordings and plans of moeplan. What is
 * printed, derived, fitted and assumed: docs/LINA.md. */
#ifndef LINA_BED_H
#define LINA_BED_H

#include <moeplan/moeplan.h>
#include <moeplan/sim.h>
#include <moeplan/synth.h>
#include <moeplan/train.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef LINA_ROW_TOKENS
#define LINA_ROW_TOKENS 32u /* one row of a recording stands for so many tokens, which saves 31/32 of the time */
#endif
#define LINA_MOST_LAYERS 36u
#define LINA_STEPS 4u /* of a bed: policies are chosen on the first half and scored on the other */

/* A model of the paper. */
struct lina_model {
    const char *name;
    uint32_t n_layers, hidden;
    uint32_t projections; /* square matrices of attention per layer: 4, Transformer-XL 5 */
    uint32_t vocabulary;  /* rows of embeddings, with positions */
};

/* What Table 1 is fitted with. */
struct lina_fit {
    uint64_t tokens;  /* of a GPU in a step */
    double rest;      /* what a layer takes beside its experts, over what its square matrices alone would take */
    double gradients; /* times as many as the weights that all ranks hold; 1 = as derived */
    uint32_t nic_mbit, inside_gb; /* of each GPU; GB/s inside a node */
    bool is_nic_shared;           /* one NIC for all GPUs of a node */
    const char *dispatcher;
};

struct lina_shape {
    const struct lina_model *model;
    uint32_t n_nodes, gpus_per_node, packing, top_k;
    uint32_t zipf_ppm;
    uint32_t gradient_bits;
};

struct lina_bed {
    struct lina_shape shape;
    uint32_t n_gpus;
    struct mp_trace *trace;
    struct mp_model *model;
    struct mp_topology *topology;
    struct mp_part part[2];
    struct mp_workload *workload;
    struct mp_plan *plan;
    struct mp_router *router;
    struct mp_train_work work[LINA_STEPS];
    const struct mp_train_step *steps[LINA_STEPS];
};

static inline void lina_require(enum mp_status status, const struct mp_error *err) {
    if (status == MP_OK)
        return;
    fprintf(stderr, "bench_lina: %s\n", err->message);
    exit(1);
}

static inline void lina_topology(struct lina_bed *b, const struct lina_fit *f) {
    struct mp_error err = {0};
    struct mp_in *in;
    char text[1024], shared[32] = "";
    if (f->is_nic_shared)
        snprintf(shared, sizeof shared, ", shared_by: %u", b->shape.gpus_per_node);
    const int n = snprintf(text, sizeof text,
                           "schema: moeplan.topology\nversion: 1\nname: lina\nlaunch: 10 us\nlevels:\n"
                           "  - {name: inside, latency: 10 us}\n  - {name: ib, latency: 2600 ns}\ngpu_types:\n"
                           "  a100-40: {preset: a100, memory: 40 GiB, hbm: 1555 GB/s, tile_tokens: 1}\ngroups:\n"
                           "  - repeat: %u\n    gpus:\n      - repeat: %u\n        type: a100-40\n"
                           "        ports: {inside: %u GB/s, ib: {rate: %u Mbit/s%s}}\n",
                           b->shape.n_nodes, b->shape.gpus_per_node, f->inside_gb, f->nic_mbit, shared);
    lina_require(mp_in_from_memory(&in, "lina.yaml", text, (size_t)n, &err), &err);
    lina_require(mp_topology_parse(&b->topology, in, &mp_limits_default, &err), &err);
    mp_in_close(in);
}

static inline void lina_model(struct lina_bed *b, const struct lina_fit *f) {
    const struct lina_model *m = b->shape.model;
    const uint64_t d = m->hidden, square = d * d, g = LINA_ROW_TOKENS;
    struct mp_error err = {0};
    struct mp_in *in;
    char text[1024];
    const int n = snprintf(
        text, sizeof text,
        "schema: moeplan.model\nversion: 1\nname: %s\nhidden_layers: %u\nexperts: %u\ntop_k: %u\nhidden_size: %u\n"
        "expert_size: %u\nffn: plain\nweight_bits: 16\nexpert_flops: %llu\ndispatch_bytes: %llu B\n"
        "combine_bytes: %llu B\nattention_bytes: %llu B\nattention_flops: %llu\nkv_bytes: 0 B\ndense_bytes: %llu B\n",
        m->name, m->n_layers, b->n_gpus, b->shape.top_k, m->hidden, 4 * m->hidden,
        (unsigned long long)(16 * square * g), (unsigned long long)(2 * d * g), (unsigned long long)(2 * d * g),
        (unsigned long long)(2 * m->projections * square),
        (unsigned long long)(f->rest * 2 * m->projections * (double)square * (double)g),
        (unsigned long long)(2 * (m->n_layers * m->projections * square + m->vocabulary * d)));
    lina_require(mp_in_from_memory(&in, "lina.yaml", text, (size_t)n, &err), &err);
    lina_require(mp_model_parse(&b->model, in, &mp_limits_default, &err), &err);
    mp_in_close(in);
}

static inline void lina_workload(struct lina_bed *b, const struct lina_fit *f) {
    struct mp_error err = {0};
    const uint64_t rows = f->tokens / LINA_ROW_TOKENS;
    const struct mp_synth_params params = {.n_layers = b->shape.model->n_layers,
                                           .n_experts = b->n_gpus,
                                           .top_k = b->shape.top_k,
                                           .n_requests = rows * b->n_gpus * LINA_STEPS / 32 + 8 * b->n_gpus,
                                           .tokens_per_request_mean = 32,
                                           .phase = MP_PHASE_PREFILL,
                                           .zipf_ppm = b->shape.zipf_ppm,
                                           .cluster_size = b->n_gpus < 2 ? 1 : 2,
                                           .n_domains = 1,
                                           .seed = 7};
    const struct mp_split none = {.kind = MP_SPLIT_NONE};
    const struct mp_batching batching = {
        .phase = MP_PHASE_PREFILL, .n_ranks = b->n_gpus, .tokens_per_rank = rows, .n_steps_max = LINA_STEPS, .seed = 1};
    lina_require(mp_synth_generate(&b->trace, &params, &mp_limits_default, &err), &err);
    lina_require(mp_part_split(&b->part[0], &b->part[1], b->trace, &none, &err), &err);
    lina_require(mp_workload_build(&b->workload, &b->part[0], &batching, &err), &err);
    if (b->workload->n_steps < LINA_STEPS) {
        fprintf(stderr, "bench_lina: %u steps\n", b->workload->n_steps);
        exit(1);
    }
}

/* What cutting a tensor and joining it again costs: the pieces are views, and joined by one copy. */
static inline uint64_t lina_split_ns(const struct lina_bed *b, const struct lina_fit *f) {
    const double bytes = (double)f->tokens * b->shape.top_k * b->shape.model->hidden * 2;
    return (uint64_t)(2 * bytes / (1555e9 * 0.8) * 1e9);
}

/* Every layer's gradients that all ranks hold as if there were `factor` times as many, embeddings as they are. */
static inline void lina_more_gradients(struct lina_bed *b, double factor) {
    for (uint32_t i = 0; i < LINA_STEPS; i++) {
        struct mp_train_layer *x = (struct mp_train_layer *)b->steps[i]->layers;
        const struct mp_train_transfer one = x[b->steps[i]->n_layers - 1].reduce;
        for (uint32_t l = 0; l < b->steps[i]->n_layers; l++) {
            x[l].reduce.ns += (uint64_t)((factor - 1) * (double)one.ns);
            x[l].reduce.bytes += (uint64_t)((factor - 1) * (double)one.bytes);
        }
    }
}

static inline void lina_bed_make(struct lina_bed *b, const struct lina_shape *shape, const struct lina_fit *f) {
    struct mp_error err = {0};
    memset(b, 0, sizeof *b);
    b->shape = *shape;
    b->n_gpus = shape->n_nodes * shape->gpus_per_node;
    lina_topology(b, f);
    lina_model(b, f);
    lina_workload(b, f);
    lina_require(mp_train_pack_plan(&b->plan, b->trace, b->topology, shape->packing, &err), &err);
    lina_require(mp_router_new(&b->router, b->plan, &err), &err);
    const struct mp_cost_setup setup = {.plan = b->plan,
                                        .router = b->router,
                                        .workload = b->workload,
                                        .topology = b->topology,
                                        .model = b->model,
                                        .dispatcher = mp_dispatcher_find(f->dispatcher),
                                        .sources = MP_SOURCES_DP};
    struct mp_train_options options = mp_train_defaults();
    options.gradient_bits = shape->gradient_bits;
    options.split_ns = lina_split_ns(b, f);
    for (uint32_t i = 0; i < LINA_STEPS; i++) {
        lina_require(mp_train_work_make(&b->work[i], &setup, i, &options, &err), &err);
        b->steps[i] = &b->work[i].step;
    }
    lina_more_gradients(b, f->gradients);
}

static inline void lina_bed_free(struct lina_bed *b) {
    for (uint32_t i = 0; i < LINA_STEPS; i++)
        mp_train_work_free(&b->work[i]);
    mp_router_free(b->router);
    mp_plan_free(b->plan);
    mp_workload_free(b->workload);
    mp_part_free(&b->part[0]);
    mp_part_free(&b->part[1]);
    mp_topology_free(b->topology);
    mp_model_free(b->model);
    mp_trace_free(b->trace);
}

/* ---- what a policy makes of it ---- */

struct lina_run {         /* means over the scored steps; ms */
    double step, compute; /* compute: of the rank with most */
    double forward, a2a, a2a_alone, a2a_forward, a2a_back;
    double layer_forward, layer_backward; /* of one MoE layer, from where its first all-to-all is ready */
    double chunks;                        /* of an all-to-all, mean */
};
struct lina_slowdowns { /* how many times as long as alone each backward all-to-all was on its way */
    double *of;
    size_t n;
};

/* One step's, added to sum with this weight. */
static inline void lina_add_run(const struct mp_train_step *s, const struct mp_train_policy *p, double weight,
                                struct lina_run *sum, struct lina_slowdowns *slow) {
    struct mp_error err = {0};
    struct mp_train_timeline t;
    uint64_t first[2][LINA_MOST_LAYERS], last[2][LINA_MOST_LAYERS] = {{0}};
    double n_events = 0;
    memset(first, 0xff, sizeof first);
    lina_require(mp_train_run(&t, s, p, true, &err), &err);
    for (size_t k = 0; k < t.n_events; k++) {
        const struct mp_train_event *e = &t.events[k];
        const bool is_a2a = e->what == MP_TRAIN_A2A;
        if (!is_a2a && e->what != MP_TRAIN_EXPERTS && e->what != MP_TRAIN_EXPERTS_BACK)
            continue;
        const bool is_back =
            is_a2a ? e->a2a == MP_TRAIN_COMBINE_BACK || e->a2a == MP_TRAIN_DISPATCH_BACK : e->what != MP_TRAIN_EXPERTS;
        const double ns = (double)(e->end_ns - e->start_ns), ms = weight * 1e-6 * ns;
        first[is_back][e->layer] = e->ready_ns < first[is_back][e->layer] ? e->ready_ns : first[is_back][e->layer];
        last[is_back][e->layer] = e->end_ns > last[is_back][e->layer] ? e->end_ns : last[is_back][e->layer];
        if (!is_a2a)
            continue;
        *(is_back ? &sum->a2a_back : &sum->a2a_forward) += ms;
        n_events++;
        if (slow != NULL && is_back)
            slow->of[slow->n++] = ns / (double)(s->layers[e->layer].a2a[e->a2a].ns + s->launch_ns);
    }
    for (uint32_t l = 0; l < s->n_layers; l++) {
        const double each = weight * 1e-6 / s->n_layers;
        sum->layer_forward += last[0][l] > 0 ? each * (double)(last[0][l] - first[0][l]) : 0;
        sum->layer_backward += last[1][l] > 0 ? each * (double)(last[1][l] - first[1][l]) : 0;
    }
    sum->step += weight * 1e-6 * (double)t.step_ns;
    sum->forward += weight * 1e-6 * (double)t.forward_ns;
    sum->compute += weight * 1e-6 * (double)t.compute_ns;
    sum->a2a += weight * 1e-6 * (double)t.a2a_ns;
    sum->a2a_alone += weight * 1e-6 * (double)t.a2a_alone_ns;
    sum->chunks += weight * n_events / (4 * (double)s->n_layers);
    mp_train_timeline_free(&t);
}

/* What no policy goes below, ms, mean of the scored steps: everything but the experts one after the other, or all
 * computation of the rank with most. */
static inline uint64_t lina_least(const uint64_t *ns, uint32_t n) {
    uint64_t least = ns == NULL ? 0 : ns[0];
    for (uint32_t g = 1; g < n && ns != NULL; g++)
        least = ns[g] < least ? ns[g] : least;
    return least;
}
static inline double lina_floor(const struct lina_bed *b, double compute_ms) {
    double sum = 0;
    for (uint32_t i = LINA_STEPS / 2; i < LINA_STEPS; i++) {
        const struct mp_train_step *s = b->steps[i];
        uint64_t ns = s->loss_ns + s->update_ns;
        for (uint32_t l = 0; l < s->n_layers; l++) {
            const struct mp_train_layer *x = &s->layers[l];
            const uint64_t *const parts[] = {x->attention_ns, x->combine_ns, x->combine_back_ns, x->attention_back_ns};
            for (uint32_t k = 0; k < 4; k++)
                ns += lina_least(parts[k], s->n_ranks);
            for (uint32_t k = 0; k < MP_TRAIN_N_A2A; k++) {
                uint32_t ppm = 1000000;
                for (uint32_t g = 0; g < s->n_ranks && x->a2a[k].end_ppm != NULL; g++)
                    ppm = x->a2a[k].end_ppm[g] < ppm ? x->a2a[k].end_ppm[g] : ppm;
                ns += mp_mul_div(x->a2a[k].ns, ppm, 1000000);
            }
        }
        const double all = compute_ms + (double)(s->loss_ns + s->update_ns) * 1e-6, chain = (double)ns * 1e-6;
        sum += (chain > all ? chain : all) * 2 / LINA_STEPS;
    }
    return sum;
}

static inline struct lina_run lina_score(const struct lina_bed *b, const struct mp_train_policy *p,
                                         struct lina_slowdowns *slow) {
    struct lina_run sum = {0};
    for (uint32_t i = LINA_STEPS / 2; i < LINA_STEPS; i++)
        lina_add_run(b->steps[i], p, 2.0 / LINA_STEPS, &sum, slow);
    return sum;
}

#endif
