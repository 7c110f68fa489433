/* What docs/API.md says of threads: four at once, each with a plan of every strategy of its own on objects that all of
 * them share; the same bytes as one after the other. usage: threads TRACE TOPOLOGY STRATEGY... */
#include <moeplan/moeplan.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum { N_THREADS = 4, N_PLANS_MAX = 16 };
static struct mp_trace *trace;
static struct mp_topology *topology;
static struct mp_model *model;
static char **strategies;
static int n_strategies;

struct turn {
    char sha256[N_PLANS_MAX][65]; /* of each strategy's plan, or of why there is none */
    struct mp_error err;
    enum mp_status status;
};

static enum mp_status plan(char sha256[65], const char *strategy, struct mp_error *err) {
    struct mp_part planning = {0}, held_out = {0};
    struct mp_plan *p = NULL;
    struct mp_out *text = NULL;
    const uint8_t *bytes;
    size_t n;
    enum mp_outcome outcome;
    const struct mp_split split = {.kind = MP_SPLIT_NONE};
    const struct mp_batching batching = {.phase = trace->phase, .n_ranks = topology->n_gpus, .batch_per_rank = 1};
    struct mp_plan_request request = {
        .planning = &planning,
        .batching = batching,
        .split = split,
        .topology = topology,
        .model = model,
        .sim = {.dispatcher = mp_dispatcher_default(trace->phase, trace->kind), .stage_mode = -1},
        .strategy = strategy,
        .n_redundant = strcmp(strategy, "eplb") == 0 ? topology->n_gpus : 0,
        .limits = &mp_limits_default};
    enum mp_status status;
    MP_TRY(mp_part_split(&planning, &held_out, trace, &split, err));
    MP_TRY(mp_plan_make(&p, &request, &outcome, NULL, err));
    if (p == NULL) {
        mp_sha256_hex(err->message, strlen(err->message), sha256);
        mp_error_clear(err);
        goto out;
    }
    MP_TRY(mp_out_open_memory(&text, err));
    mp_plan_write(p, text);
    bytes = mp_out_memory_bytes(text, &n);
    mp_sha256_hex(bytes, n, sha256);
out:
    mp_out_cancel(text);
    mp_plan_free(p);
    mp_part_free(&held_out);
    mp_part_free(&planning);
    return status;
}

static void *take_turn(void *ctx) {
    struct turn *t = ctx;
    for (int i = 0; i < n_strategies && t->status == MP_OK; i++)
        t->status = plan(t->sha256[i], strategies[i], &t->err);
    return NULL;
}

int main(int argc, char **argv) {
    static struct turn alone, together[N_THREADS];
    pthread_t thread[N_THREADS];
    struct mp_error err = {0};
    strategies = argv + 3;
    n_strategies = argc - 3;
    if (argc < 4 || n_strategies > N_PLANS_MAX ||
        mp_trace_load(&trace, argv[1], &mp_trace_hints_none, &mp_limits_default, &err) != MP_OK ||
        mp_topology_load(&topology, argv[2], &mp_limits_default, &err) != MP_OK ||
        mp_model_generic(&model, trace->layer_ids, trace->n_layers, trace->n_experts, trace->top_k, &err) != MP_OK) {
        printf("%s\n", err.message);
        return 1;
    }
    take_turn(&alone);
    for (int i = 0; i < N_THREADS; i++)
        if (pthread_create(&thread[i], NULL, take_turn, &together[i]) != 0)
            return 1;
    int n_other = alone.status != MP_OK;
    for (int i = 0; i < N_THREADS; i++) {
        pthread_join(thread[i], NULL);
        n_other += together[i].status != MP_OK;
        for (int k = 0; k < n_strategies; k++)
            n_other += strcmp(alone.sha256[k], together[i].sha256[k]) != 0;
    }
    for (int k = 0; k < n_strategies; k++)
        printf("%s %s\n", strategies[k], alone.sha256[k]);
    printf("%d differ%s%s\n", n_other, alone.err.message[0] != '\0' ? ": " : "", alone.err.message);
    mp_model_free(model);
    mp_topology_free(topology);
    mp_trace_free(trace);
    return n_other != 0 || mp_alloc_live() != 0;
}
