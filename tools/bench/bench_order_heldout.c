/* What planned orders are worth on steps they were not planned on: real recordings (the data folder is the argument),
 * planned on half of the requests, replayed on the other half.
 *
 * One row per recording, cluster and step size, for the time of dispatch and combine together, mean per held-out step:
 *   one shot    everything at once
 *   plan        the planned orders with their fallback; "kept" of the layers stay in one shot because nothing pays
 *   own         for every step and layer the best order of its own matrix: clairvoyant, what re-planning could reach
 *   bound       port bound, without launches
 *   worst       the layer that loses most against one shot on the held-out steps, and on the planning steps (never > 0)
 *   share       what layers lose on their mean planning matrix by taking another layer's order instead of their own
 * Reference: a held-out mean loss of at most 0.5 % against one shot. */
#include "bench_matrix.h"
#include <moeplan/strategy.h>
#include <string.h>

enum { STEPS_OWN = 4, STEPS_MAX = 32 };

static const char ethernet[] = "schema: moeplan.topology\n"
                               "version: 1\n"
                               "name: %s\n"
                               "summary: GPUs on 100 Gbit/s Ethernet, one port each\n"
                               "source: An example\n"
                               "launch: {value: 10 us, source: \"an example\"}\n"
                               "levels:\n"
                               "  - name: ethernet\n"
                               "    latency: {value: 5 us, source: \"an example\"}\n"
                               "%s"
                               "gpus:\n"
                               "  - repeat: %u\n"
                               "    type: h100\n"
                               "    ports:\n"
                               "      ethernet: {rate: 11 GB/s, source: \"FAST: usable of 100 Gbit/s\"}\n";
static const char incast[] = "    incast: [1.0, 0.97, 0.94, 0.9, 0.87, 0.84, 0.82]\n";

struct recording {
    const char *file, *model, *name, *split;
    uint32_t n_experts;
    int layer_base;
    enum mp_phase phase;
    /* Clusters of as many GPUs as the recording has ranks, where it has ranks. */
    const char *topologies[5];
    uint32_t n_ethernet;
};
static const struct recording recordings[] = {
    {"traces/qwen1.5-moe-6ranks/dispatch_counts.csv",
     "qwen1.5-moe-a2.7b",
     "qwen1.5 6 ranks",
     "time:0.5",
     0,
     0,
     MP_PHASE_PREFILL,
     {"6:h100", "3x2:h100", "6x1:h100", "ethernet", "ethernet, incast"},
     6},
    {"traces/deepseek-v2-lite/chat_prefill.npz",
     "deepseek-v2-lite",
     "deepseek-v2-lite",
     "0.5",
     64,
     1,
     MP_PHASE_PREFILL,
     {"8:h100", "2x8:h100", "4x8:h100", "ethernet", "ethernet, incast"},
     8},
    {"traces/gpt-oss-20b/mmlu_test.npz",
     "gpt-oss-20b",
     "gpt-oss-20b",
     "0.5",
     32,
     0,
     MP_PHASE_DECODE,
     {"8:h100", "2x8:h100", "4x8:h100", "ethernet", "ethernet, incast"},
     8},
};
/* Tokens of a step on all ranks (prefill), requests on each rank (decode). */
static const uint32_t prefill_tokens[] = {4096, 16384, 65536}, decode_batches[] = {16, 64};

struct bench {
    const struct recording *r;
    struct mp_trace *trace;
    struct mp_topology *t;
    struct mp_model *model;
    struct mp_split split;
    struct mp_part planning, held_out;
    struct mp_batching batching;
    struct mp_sim_options sim;
    struct mp_workload *planned, *replayed;
};

static struct mp_topology *load_topology(const char *name, uint32_t n_ethernet) {
    struct mp_error err = {0};
    struct mp_topology *t;
    if (strncmp(name, "ethernet", 8) != 0) {
        bench_require(mp_topology_load(&t, name, &mp_limits_default, &err), &err);
        return t;
    }
    char text[1024];
    struct mp_in *in;
    snprintf(text, sizeof text, ethernet, "ethernet", strchr(name, ',') != NULL ? incast : "", n_ethernet);
    bench_require(mp_in_from_memory(&in, name, text, strlen(text), &err), &err);
    bench_require(mp_topology_parse(&t, in, &mp_limits_default, &err), &err);
    mp_in_close(in);
    return t;
}

/* Recorded steps where at least four fill, else drawn ones. */
static bool build(struct bench *b) {
    struct mp_error err = {0};
    b->planned = b->replayed = NULL;
    for (int is_drawn = 0; is_drawn < 2; is_drawn++) {
        b->batching.resample = is_drawn == 1;
        b->batching.n_steps_max = is_drawn ? 8 : STEPS_MAX;
        enum mp_status status = mp_workload_build(&b->planned, &b->planning, &b->batching, &err);
        if (status == MP_OK)
            status = mp_workload_build(&b->replayed, &b->held_out, &b->batching, &err);
        bool is_enough = status == MP_OK && (b->trace->kind == MP_TRACE_COUNTS || b->planned->n_steps >= 4);
        if (is_enough)
            return true;
        mp_workload_free(b->planned);
        mp_workload_free(b->replayed);
        b->planned = b->replayed = NULL;
        mp_error_clear(&err);
    }
    return false;
}

static struct mp_sim_result *replay(const struct bench *b, const struct mp_plan *p, const struct mp_workload *w,
                                    enum mp_network_mode network, uint32_t n_steps) {
    struct mp_error err = {0};
    struct mp_sim_options o = b->sim;
    struct mp_sim_result *r;
    o.network = network;
    o.n_steps_max = n_steps;
    bench_require(mp_simulate(&r, p, w, b->t, b->model, &o, &err), &err);
    return r;
}
static double transfer_ns(const struct mp_sim_result *r) {
    return (double)r->mean.dispatch_ns + (double)r->mean.combine_ns;
}
/* Largest loss of a layer against one shot, in its MoE time. */
static double worst_layer(const struct mp_sim_result *plan, const struct mp_sim_result *single, uint32_t *which) {
    double worst = -1;
    for (uint32_t l = 0; l < plan->n_layers; l++) {
        double loss = plan->layer_ns[l] / single->layer_ns[l] - 1;
        if (loss > worst) {
            worst = loss;
            *which = l;
        }
    }
    return worst;
}

/* Mean dispatch and combine of the steps of `like`, every matrix in the best order made for it alone. */
static double own_orders(const struct bench *b, const struct mp_plan *p, const struct mp_sim_result *like) {
    struct mp_error err = {0};
    struct mp_router *router;
    struct mp_traffic *traffic;
    struct mp_net *net;
    const struct mp_strategy *best = mp_strategy_find(MP_PLAN_ORDER, "auto");
    double sum = 0;
    bench_require(mp_router_new(&router, p, &err), &err);
    bench_require(mp_traffic_new(&traffic, p->n_gpus, &err), &err);
    bench_require(mp_net_new(&net, b->t, &err), &err);
    const struct mp_cost_setup setup = {p, router, b->replayed, b->t, b->model, b->sim.dispatcher, b->sim.sources};
    for (uint32_t i = 0; i < like->n_steps; i++)
        for (uint32_t l = 0; l < p->n_layers; l++) {
            bench_require(mp_traffic_compute(traffic, &setup, (uint32_t)like->step_of[i], l, &err), &err);
            for (int is_combine = 0; is_combine < 2; is_combine++) {
                const struct mp_order_problem problem = {.topology = b->t,
                                                         .matrix = is_combine ? traffic->combine : traffic->dispatch,
                                                         .net = net,
                                                         .mode = MP_STAGE_COUPLED};
                struct mp_schedule schedule;
                enum mp_outcome outcome;
                uint64_t first_ns, second_ns = 0;
                bench_require(mp_order_run(best, &problem, &schedule, &outcome, &err), &err);
                bench_require(mp_schedule_time(&schedule, &problem, &first_ns, &err), &err);
                first_ns -= schedule.n_stages == 0 && first_ns > 0 ? b->t->launch_ns : 0;
                if (traffic->has_second)
                    bench_require(mp_net_concurrent(net, is_combine ? traffic->combine2 : traffic->dispatch2,
                                                    &second_ns, NULL, &err),
                                  &err);
                sum += b->sim.dispatcher->is_overlapped ? (double)(first_ns > second_ns ? first_ns : second_ns)
                                                        : (double)(first_ns + second_ns);
                sum += (double)b->t->launch_ns * (b->sim.dispatcher->n_launches - (schedule.n_stages > 0));
                mp_schedule_free(&schedule);
            }
        }
    mp_net_free(net);
    mp_traffic_free(traffic);
    mp_router_free(router);
    return sum / like->n_steps;
}

/* Sum of the staged layers' mean dispatches in the plan's orders over the same in their own, less 1. */
static double sharing_cost(const struct bench *b, const struct mp_plan *p, uint32_t *n_shared) {
    struct mp_error err = {0};
    struct mp_router *router;
    struct mp_traffic *traffic;
    struct mp_net *net;
    const struct mp_strategy *strategy = mp_strategy_find(MP_PLAN_ORDER, p->provenance.order);
    const size_t n = p->n_gpus;
    uint64_t *mean = calloc(n * n, sizeof *mean);
    double in_plan = 0, in_own = 0;
    *n_shared = 0;
    bench_require(mp_router_new(&router, p, &err), &err);
    bench_require(mp_traffic_new(&traffic, p->n_gpus, &err), &err);
    bench_require(mp_net_new(&net, b->t, &err), &err);
    const struct mp_cost_setup setup = {p, router, b->planned, b->t, b->model, b->sim.dispatcher, b->sim.sources};
    for (uint32_t l = 0; l < p->n_layers; l++) {
        uint64_t own_ns, plan_ns;
        struct mp_schedule schedule;
        enum mp_outcome outcome;
        if (p->layers[l].order == MP_NONE)
            continue;
        memset(mean, 0, n * n * sizeof *mean);
        for (uint32_t s = 0; s < b->planned->n_steps; s++) {
            bench_require(mp_traffic_compute(traffic, &setup, s, l, &err), &err);
            for (size_t k = 0; k < n * n; k++)
                mean[k] += traffic->dispatch[k];
        }
        for (size_t k = 0; k < n * n; k++)
            mean[k] /= b->planned->n_steps;
        const struct mp_order_problem problem = {
            .topology = b->t, .matrix = mean, .net = net, .mode = MP_STAGE_COUPLED};
        bench_require(mp_order_run(strategy, &problem, &schedule, &outcome, &err), &err);
        bench_require(mp_schedule_time(&schedule, &problem, &own_ns, &err), &err);
        bench_require(mp_net_staged(net, &p->orders[p->layers[l].order], MP_COMBINE_FORWARD, MP_STAGE_COUPLED, mean,
                                    &plan_ns, &err),
                      &err);
        for (uint32_t m = 0; m < l; m++)
            if (p->layers[m].order == p->layers[l].order) {
                (*n_shared)++;
                break;
            }
        in_plan += (double)plan_ns;
        in_own += (double)own_ns;
        mp_schedule_free(&schedule);
    }
    mp_net_free(net);
    mp_traffic_free(traffic);
    mp_router_free(router);
    free(mean);
    return in_own > 0 ? in_plan / in_own - 1 : 0;
}

struct totals {
    double loss, worst, worst_planning;
    uint32_t n;
};

static void row(const struct bench *b, const char *topology, uint32_t size, const char *recipe, struct totals *all) {
    struct mp_error err = {0};
    struct mp_plan *p = NULL;
    enum mp_outcome outcome;
    double seconds;
    uint32_t worst = 0, worst_planning = 0, n_kept = 0, n_shared;
    const struct mp_plan_request request = {.planning = &b->planning,
                                            .batching = b->batching,
                                            .split = b->split,
                                            .topology = b->t,
                                            .model = b->model,
                                            .sim = b->sim,
                                            .strategy = recipe,
                                            .order = "auto",
                                            .stage_mode = MP_STAGE_COUPLED,
                                            .seed = 1,
                                            .n_threads = b->sim.n_threads,
                                            .limits = &mp_limits_default};
    bench_require(mp_plan_make(&p, &request, &outcome, &seconds, &err), &err);
    if (p == NULL) {
        printf("%-17s %-17s %7u %-10s %s\n", b->r->name, topology, size, recipe, err.message);
        return;
    }
    struct mp_sim_result *plan = replay(b, p, b->replayed, MP_NETWORK_PLAN, 0),
                         *single = replay(b, p, b->replayed, MP_NETWORK_CONCURRENT, 0),
                         *few = replay(b, p, b->replayed, MP_NETWORK_PLAN, STEPS_OWN),
                         *on_plan = replay(b, p, b->planned, MP_NETWORK_PLAN, 0),
                         *on_single = replay(b, p, b->planned, MP_NETWORK_CONCURRENT, 0);
    for (uint32_t l = 0; l < p->n_layers; l++)
        n_kept += p->layers[l].order == MP_NONE;
    double loss = transfer_ns(plan) / transfer_ns(single) - 1, own = own_orders(b, p, few),
           share = sharing_cost(b, p, &n_shared), at_worst = worst_layer(plan, single, &worst),
           at_worst_planning = worst_layer(on_plan, on_single, &worst_planning);
    printf("%-17s %-16s %7u %-10s %3u%c | %9.0f %9.0f %+6.2f %% | %+6.2f %% | %9.0f | %2u of %2u, %2u, %6u | %+6.2f "
           "%% %2u %+6.2f %% | %+5.2f %% of %2u | %5.1f s\n",
           b->r->name, topology, size, recipe, b->replayed->n_steps, b->replayed->is_bootstrap ? 'd' : 'r',
           transfer_ns(single) * 1e-3, transfer_ns(plan) * 1e-3, 100 * loss, 100 * (transfer_ns(few) / own - 1),
           plan->port_bound_ns * 1e-3, n_kept, p->n_layers, p->n_orders, p->fallback_ppm, 100 * at_worst, worst,
           100 * at_worst_planning, 100 * share, n_shared, seconds);
    fflush(stdout);
    all->loss += loss;
    all->worst = at_worst > all->worst ? at_worst : all->worst;
    all->worst_planning = at_worst_planning > all->worst_planning ? at_worst_planning : all->worst_planning;
    all->n++;
    mp_sim_result_free(plan);
    mp_sim_result_free(single);
    mp_sim_result_free(few);
    mp_sim_result_free(on_plan);
    mp_sim_result_free(on_single);
    mp_plan_free(p);
}

static void measure(struct bench *b, const char *topology, uint32_t size, struct totals *all) {
    static const char *const recipes[] = {"contiguous", "lpt"};
    const bool is_decode = b->r->phase == MP_PHASE_DECODE;
    b->t = load_topology(topology, b->r->n_ethernet);
    b->batching = (struct mp_batching){.phase = b->r->phase,
                                       .n_ranks = b->t->n_gpus,
                                       .batch_per_rank = is_decode ? size : 0,
                                       .tokens_per_rank = is_decode ? 0 : size / b->t->n_gpus,
                                       .seed = 1};
    b->sim = (struct mp_sim_options){
        .dispatcher = mp_dispatcher_default(b->r->phase, b->trace->kind), .stage_mode = -1, .n_threads = 2, .seed = 1};
    if (build(b))
        for (size_t k = 0; k < 2; k++)
            row(b, topology, size, recipes[k], all);
    else
        printf("%-17s %-16s %7u cannot fill a step\n", b->r->name, topology, size);
    mp_workload_free(b->planned);
    mp_workload_free(b->replayed);
    mp_topology_free(b->t);
}

static void run_recording(const char *folder, const struct recording *r, const char *only, struct totals *all) {
    struct bench b = {.r = r};
    struct mp_error err = {0};
    struct mp_trace_hints hints = mp_trace_hints_none;
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, r->file);
    hints.phase = r->phase;
    hints.layer_base = r->layer_base;
    hints.ids_are_physical = 0;
    hints.n_experts = r->n_experts;
    hints.is_ranked = 0;
    bench_require(mp_trace_load(&b.trace, path, &hints, &mp_limits_default, &err), &err);
    bench_require(mp_model_load(&b.model, r->model, &mp_limits_default, &err), &err);
    bench_require(mp_split_parse(&b.split, r->split, 1, &err), &err);
    bench_require(mp_part_split(&b.planning, &b.held_out, b.trace, &b.split, &err), &err);
    for (size_t t = 0; t < sizeof r->topologies / sizeof *r->topologies; t++) {
        if (only != NULL && strcmp(only, r->topologies[t]) != 0)
            continue;
        if (b.trace->kind == MP_TRACE_COUNTS) {
            measure(&b, r->topologies[t], 0, all);
        } else if (r->phase == MP_PHASE_DECODE) {
            for (size_t i = 0; i < sizeof decode_batches / sizeof *decode_batches; i++)
                measure(&b, r->topologies[t], decode_batches[i], all);
        } else {
            for (size_t i = 0; i < sizeof prefill_tokens / sizeof *prefill_tokens; i++)
                measure(&b, r->topologies[t], prefill_tokens[i], all);
        }
    }
    mp_part_free(&b.planning);
    mp_part_free(&b.held_out);
    mp_trace_free(b.trace);
    mp_model_free(b.model);
}

int main(int argc, char **argv) {
    struct totals all = {.worst = -1, .worst_planning = -1};
    if (argc < 2) {
        fprintf(stderr, "usage: bench_order_heldout DATA_FOLDER [TOPOLOGY]\n");
        return 2;
    }
    printf(
        "recording         cluster             size placement  steps|  one shot      plan     loss | against own|     "
        "bound | kept, orders, fallback | worst layer: held out, planning | sharing | planned in\n"
        "                                                           us per step, dispatch and combine\n");
    for (size_t i = 0; i < sizeof recordings / sizeof *recordings; i++)
        run_recording(argv[1], &recordings[i], argc > 2 ? argv[2] : NULL, &all);
    printf(
        "held-out mean loss of %u plans against one shot %+.3f %%   (reference at most +0.5 %%), worst layer %+.2f %% "
        "held out, %+.2f %% on the planning steps (reference at most 0)\n",
        all.n, all.n > 0 ? 100 * all.loss / all.n : 0, 100 * all.worst, 100 * all.worst_planning);
    return 0;
}
