/* A DeepSeek-V3-sized plan, 58 layers x 256 experts -> 320 slots on 64 GPUs of 8 nodes, with weights, one shifted order
 * of 63 stages and eight explicit orders of 63 stages: bytes, YAML events, and the seconds to write and to load it.
 * Once with a weight for each slot (rule tiered), once with weights for each of 64 source GPUs (rule sourced). */
#include <moeplan/plan.h>
#include <moeplan/yaml.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { LAYERS = 58, EXPERTS = 256, GPUS = 64, PER_GPU = 5, ORDERS = 9 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void *need(void *p) {
    if (p == NULL) {
        fputs("out of memory\n", stderr);
        exit(4);
    }
    return p;
}

static void need_ok(enum mp_status status, const struct mp_error *err) {
    if (status != MP_OK) {
        char text[1400];
        fprintf(stderr, "%s\n", mp_error_text(err, text, sizeof text));
        exit(mp_exit_code(status));
    }
}

/* Order 0 is shifted rounds; the others pair GPUs in the same rounds under a permutation, so that no stage is a
 * rotation. */
static void fill_order(struct mp_plan *p, struct mp_rng *rng, struct mp_order *order, bool is_shifted) {
    uint32_t name[GPUS], place[GPUS];
    for (uint32_t g = 0; g < GPUS; g++)
        name[g] = g;
    if (!is_shifted)
        mp_rng_shuffle(rng, name, GPUS);
    for (uint32_t g = 0; g < GPUS; g++)
        place[name[g]] = g;
    struct mp_stage *stages = need(mp_arena_alloc(p->arena, GPUS - 1, sizeof *stages));
    for (uint32_t r = 1; r < GPUS; r++) {
        struct mp_transfer *t = need(mp_arena_alloc(p->arena, GPUS, sizeof *t));
        for (uint32_t g = 0; g < GPUS; g++)
            t[g] = (struct mp_transfer){(uint16_t)g, (uint16_t)name[(place[g] + r) % GPUS], 1, 1};
        stages[r - 1] = (struct mp_stage){GPUS, t};
    }
    *order = (struct mp_order){
        .name = is_shifted ? "spread-out" : "explicit", .unit = 1, .ports = 1, .n_stages = GPUS - 1, .stages = stages};
}

/* Weights with the sum 64 of an expert's replicas, for each source GPU others: no two neighbouring classes are equal.
 */
static void fill_by_source(struct mp_rng *rng, struct mp_plan *p, struct mp_plan_layer *layer) {
    for (uint32_t s = 0; s < p->n_slots; s++) {
        uint32_t slots[GPUS], n = 0;
        for (uint32_t k = 0; k < p->n_slots; k++)
            if (layer->slot_expert[k] == layer->slot_expert[s])
                slots[n++] = k;
        for (uint32_t c = 0; n > 1 && slots[0] == s && c < GPUS; c++) {
            uint32_t left = 64;
            for (uint32_t i = 0; i + 1 < n; i++) {
                uint32_t weight = (uint32_t)mp_rng_below(rng, left + 1);
                layer->slot_weight_by_source[(size_t)c * p->n_slots + slots[i]] = weight;
                left -= weight;
            }
            layer->slot_weight_by_source[(size_t)c * p->n_slots + slots[n - 1]] = left;
        }
    }
}

static struct mp_plan *make(bool is_sourced) {
    struct mp_error err = {0};
    struct mp_rng rng = mp_rng_seed(1);
    uint32_t slots[GPUS];
    struct mp_plan *p;
    for (uint32_t g = 0; g < GPUS; g++)
        slots[g] = PER_GPU;
    need_ok(mp_plan_new(&p, LAYERS, EXPERTS, GPUS, slots, &err), &err);
    uint32_t *node = need(mp_arena_alloc(p->arena, GPUS, sizeof *node));
    for (uint32_t g = 0; g < GPUS; g++)
        node[g] = g / 8;
    p->gpu_node = node;
    p->n_nodes = 8;
    if (is_sourced)
        need_ok(mp_plan_source_weights(p, MP_ROUTE_BY_GPU, &err), &err);
    else
        p->route = MP_ROUTE_TIERED;
    p->provenance.has_workload = true;
    p->provenance.sources = "dp";
    p->provenance.batching = (struct mp_batching){.phase = MP_PHASE_DECODE, .n_ranks = GPUS, .batch_per_rank = 128};
    p->n_planning_steps = 1000;
    struct mp_order *orders = need(mp_arena_alloc(p->arena, ORDERS, sizeof *orders));
    for (uint32_t o = 0; o < ORDERS; o++)
        fill_order(p, &rng, &orders[o], o == 0);
    p->orders = orders;
    p->n_orders = ORDERS;
    for (uint32_t l = 0; l < LAYERS; l++) {
        struct mp_plan_layer *layer = &p->layers[l];
        layer->layer_id = 3 + l;
        layer->order = l % ORDERS;
        layer->combine = MP_COMBINE_REVERSED;
        for (uint32_t s = 0; s < p->n_slots; s++)
            layer->slot_expert[s] = (uint16_t)((s * 7 + l) % EXPERTS);
        if (is_sourced) {
            fill_by_source(&rng, p, layer);
            continue;
        }
        layer->slot_weight = need(mp_arena_alloc(p->arena, p->n_slots, sizeof *layer->slot_weight));
        for (uint32_t s = 0; s < p->n_slots; s++)
            layer->slot_weight[s] = 1 + (uint32_t)mp_rng_below(&rng, 1000000);
    }
    return p;
}

static bool measure(bool is_sourced) {
    struct mp_error err = {0};
    struct mp_plan *p = make(is_sourced), *q;
    struct mp_out *o;
    struct mp_in *in;
    struct mp_yaml_doc *doc;
    size_t n;
    need_ok(mp_out_open_memory(&o, &err), &err);
    double start = now();
    mp_plan_write(p, o);
    double write_s = now() - start, load_s = 1e9, yaml_s = 1e9;
    const uint8_t *bytes = mp_out_memory_bytes(o, &n);
    struct mp_limits limits = mp_limits_default;
    limits.yaml_scalar = 1 << 20;
    need_ok(mp_in_from_memory(&in, "plan.yaml", bytes, n, &err), &err);
    size_t n_events = 0;
    for (int round = 0; round < 5; round++) {
        start = now();
        need_ok(mp_plan_parse(&q, in, NULL, &err), &err);
        load_s = now() - start < load_s ? now() - start : load_s;
        mp_plan_free(q);
        start = now();
        need_ok(mp_yaml_parse(&doc, in, &limits, &err), &err);
        yaml_s = now() - start < yaml_s ? now() - start : yaml_s;
        n_events = doc->n_events;
        mp_yaml_free(doc);
    }
    mp_in_close(in);
    printf("plan of %d layers, %u slots, %d GPUs, %d orders of %d stages (%d explicit), rule %s\n", LAYERS, p->n_slots,
           GPUS, ORDERS, GPUS - 1, ORDERS - 1, mp_route_rule_name(p->route));
    printf("  bytes        %9zu   reference: <= 3,000,000\n", n);
    printf("  YAML events  %9zu   reference: <  200,000\n", n_events);
    printf("  load         %9.4f s reference: < 0.2 s (best of 5; libyaml and tree alone %.4f s)\n", load_s, yaml_s);
    printf("  write        %9.4f s\n", write_s);
    need_ok(mp_out_commit(o, &err), &err);
    mp_plan_free(p);
    return n <= 3000000 && n_events < 200000 && load_s < 0.2;
}

int main(void) {
    bool is_good = measure(false);
    is_good &= measure(true);
    return is_good ? 0 : 1;
}
