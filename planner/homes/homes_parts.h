/* Private to planner/homes: requests on nodes, experts on nodes, and what that costs. */
#ifndef HOMES_PARTS_H
#define HOMES_PARTS_H

#include "planner.h"
#include <moeplan/homes.h>

/* What the planning requests use. */
struct mp_home_data {
    const struct mp_trace *trace;
    uint32_t n_layers, n_experts, top_k, n_nodes, n_gpus;
    const struct mp_plan *like; /* its slots and nodes */
    uint64_t gpus_of[MP_HOME_NODES_MAX], slots_of[MP_HOME_NODES_MAX];
    uint32_t n_requests;
    const struct mp_request **request; /* [n_requests], those with rows */
    uint64_t *size;                    /* [n_requests] what it counts for balance: rows, or 1 in decode */
    uint64_t *load;                    /* [n_layers][n_experts] pairs of all their rows */
    uint32_t n_rows;                   /* a sample of their rows */
    uint64_t *row;                     /* [n_rows] */
    uint32_t *of;                      /* [n_rows] request */
    int64_t expert_milli, node_milli;  /* what a copy for an expert counts, and one for a node */
    uint32_t load_ppm;                 /* a node may have so much more than its share of a layer's rows */
    uint64_t seed;
    unsigned n_threads;
    struct mp_arena *arena;
};
enum mp_status mp_home_data_new(struct mp_home_data *d, const struct mp_plan_request *request,
                                const struct mp_plan *like, struct mp_arena *arena, struct mp_error *err) MP_MUST_CHECK;

/* cost[n_requests][n_nodes] of all rows of each request, homed on each node; node[n_layers][n_experts]. */
enum mp_status mp_home_costs(int64_t *cost, const struct mp_home_data *d, const uint16_t *node,
                             struct mp_error *err) MP_MUST_CHECK;

/* Requests to nodes at least cost, none with more than its part of the sizes by its GPUs and slack_ppm of that. */
struct mp_home_deal {
    uint32_t n, n_nodes;
    const int64_t *cost;  /* [n][n_nodes] */
    const uint64_t *size; /* [n] */
    const uint64_t *gpus_of;
    uint32_t slack_ppm;
    /* out */
    uint16_t *home;                   /* [n] */
    int64_t price[MP_HOME_NODES_MAX]; /* per unit of size */
    int64_t value, bound;             /* cost of home[]; no deal within the limits costs less than the bound */
    bool is_within;                   /* the limits hold */
};
enum mp_status mp_home_deal(struct mp_home_deal *x, struct mp_error *err) MP_MUST_CHECK;

/* Experts to nodes, every layer by itself, for requests that are at home[n_requests] (nodes). Begins with node[], which
 * it never makes worse. */
enum mp_status mp_home_split(uint16_t *node, const struct mp_home_data *d, const uint16_t *home, uint32_t kicks,
                             struct mp_error *err) MP_MUST_CHECK;

/* Experts to GPUs of their nodes, so that the busiest GPU of each of these steps has few rows. gpu[n_layers][n_experts]
 */
enum mp_status mp_home_gpus(uint32_t *gpu, const struct mp_home_data *d, const uint16_t *node,
                            const struct mp_workload *steps, struct mp_error *err) MP_MUST_CHECK;

/* Homes and nodes in turn until nothing falls, from several starts. */
struct mp_home_search {
    uint32_t n_starts, rounds, kicks, slack_ppm;
    const uint16_t *first; /* [n_layers][n_experts] a placement that is one of the starts; NULL: none */
    /* out */
    uint16_t *node;       /* [n_layers][n_experts] */
    uint16_t *home;       /* [n_requests] */
    int64_t value, bound; /* of the homes, given the placement */
};
enum mp_status mp_home_search(struct mp_home_search *x, const struct mp_home_data *d,
                              struct mp_error *err) MP_MUST_CHECK;

/* The rule into a plan. */
enum mp_status mp_home_rule_keep(struct mp_plan *plan, const struct mp_home_rule *rule, const char *method,
                                 struct mp_error *err) MP_MUST_CHECK;

#endif
