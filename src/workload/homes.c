/* Homes of requests by a plan's rule (docs/HOMES.md part 2, normative).
 *
 * Decides   the rank of each request of a part, once, in the order they stand in, nothing looked ahead.
 * Minimises copies between nodes, as far as the rule's weights foretell them.
 * Method    each node's weights summed over the experts of the rows that are seen; what a node is ahead of the others
 *           is taken off; nodes further ahead than the tolerance are closed. In the node the rank that has least.
 * Bound     a node is never ahead by more than the tolerance and one request.
 * Differs   Semantic Parallelism (arXiv 2503.04398) predicts experts from token ids; a recording has none.
 * Cost      O(rows seen * layers * top-k * nodes).  Deterministic. */
#include "internal.h"
#include <string.h>

#define MILLI 1000

static uint64_t rows_seen(const struct mp_request *r, const struct mp_home_rule *rule) {
    return rule->prefix_rows == 0 || r->n_rows < rule->prefix_rows ? r->n_rows : rule->prefix_rows;
}

/* sum[n_nodes] */
static void add_up(int64_t *sum, const struct mp_trace *t, const struct mp_request *r,
                   const struct mp_home_rule *rule) {
    const uint64_t n = rows_seen(r, rule);
    uint16_t ids[MP_MAX_TOP_K];
    memset(sum, 0, rule->n_nodes * sizeof *sum);
    for (uint32_t l = 0; l < rule->n_layers; l++)
        for (uint64_t i = 0; i < n; i++) {
            const uint32_t k = mp_trace_row(t, l, r->first_row + i, ids);
            for (uint32_t v = 1; v < rule->n_nodes; v++) {
                const int8_t *weight = rule->weights[l] + (size_t)(v - 1) * rule->n_experts;
                for (uint32_t j = 0; j < k; j++)
                    sum[v] += weight[ids[j]];
            }
        }
}

void mp_home_scores(int64_t *score, const struct mp_trace *trace, const struct mp_request *request,
                    const struct mp_home_rule *rule) {
    const int64_t n = (int64_t)rows_seen(request, rule);
    add_up(score, trace, request, rule);
    for (uint32_t v = 0; v < rule->n_nodes; v++)
        score[v] = n > 0 ? MILLI * score[v] / n - rule->bias_milli[v] : 0;
}

/* Load of a node: units per GPU, in thousandths. */
static uint64_t load_of(uint64_t units, uint64_t gpus) { return mp_mul_div(units, MILLI, gpus); }

struct dealer {
    const struct mp_home_rule *rule;
    uint64_t units[MP_HOME_NODES_MAX], gpus[MP_HOME_NODES_MAX];
    uint64_t *on_rank; /* [n_gpus] units */
};

static uint32_t choose_node(const struct dealer *d, const int64_t *sum, uint64_t rows) {
    const struct mp_home_rule *rule = d->rule;
    uint64_t load[MP_HOME_NODES_MAX], least = UINT64_MAX;
    const uint64_t tolerance = MILLI * rule->tolerance;
    __int128 best_value = 0;
    uint32_t best = MP_NONE;
    for (uint32_t v = 0; v < rule->n_nodes; v++) {
        load[v] = load_of(d->units[v], d->gpus[v]);
        least = load[v] < least ? load[v] : least;
    }
    for (uint32_t v = 0; v < rule->n_nodes; v++) {
        const uint64_t ahead = load[v] - least;
        if (ahead > tolerance)
            continue;
        const __int128 value = (__int128)tolerance * (MILLI * (__int128)sum[v] - (__int128)rows * rule->bias_milli[v]) -
                               (__int128)rows * rule->price_milli * ahead;
        if (best == MP_NONE || value > best_value || (value == best_value && load[v] < load[best])) {
            best = v;
            best_value = value;
        }
    }
    return best;
}

static uint32_t choose_rank(const struct dealer *d, uint32_t node) {
    uint32_t best = MP_NONE;
    for (uint32_t g = 0; g < d->rule->n_gpus; g++)
        if (d->rule->gpu_node[g] == node && (best == MP_NONE || d->on_rank[g] < d->on_rank[best]))
            best = g;
    return best;
}

static enum mp_status check_shape(struct dealer *d, const struct mp_trace *t, struct mp_error *err) {
    const struct mp_home_rule *rule = d->rule;
    if (t->kind != MP_TRACE_TOKENS)
        return mp_fail(err, MP_EUSAGE,
                       "homes: a recording of counts has no requests (record the top-k of every token)");
    if (rule->n_layers != t->n_layers || rule->n_experts != t->n_experts)
        return mp_fail(err, MP_EUSAGE, "homes: the rule is for %u layers of %u experts and the recording has %u of %u",
                       rule->n_layers, rule->n_experts, t->n_layers, t->n_experts);
    if (rule->n_nodes < 2 || rule->n_nodes > MP_HOME_NODES_MAX || rule->tolerance == 0 ||
        rule->tolerance > MP_HOME_TOLERANCE_MAX)
        return mp_fail(err, MP_EUSAGE, "homes: %u nodes and a tolerance of %llu (2 to %u nodes, a tolerance above 0)",
                       rule->n_nodes, (unsigned long long)rule->tolerance, MP_HOME_NODES_MAX);
    for (uint32_t g = 0; g < rule->n_gpus; g++) {
        if (rule->gpu_node[g] >= rule->n_nodes)
            return mp_fail(err, MP_EUSAGE, "homes: GPU %u is on node %u of %u", g, rule->gpu_node[g], rule->n_nodes);
        d->gpus[rule->gpu_node[g]]++;
    }
    for (uint32_t v = 0; v < rule->n_nodes; v++)
        if (d->gpus[v] == 0)
            return mp_fail(err, MP_EUSAGE, "homes: node %u has no GPU", v);
    return MP_OK;
}

enum mp_status mp_home_assign(uint16_t *home, const struct mp_part *part, const struct mp_home_rule *rule,
                              enum mp_phase phase, struct mp_error *err) {
    struct dealer d = {.rule = rule};
    enum mp_status status = check_shape(&d, part->trace, err);
    if (status != MP_OK)
        return status;
    d.on_rank = mp_calloc(rule->n_gpus, sizeof *d.on_rank);
    if (d.on_rank == NULL)
        return mp_nomem(err, "homes of requests");
    for (uint32_t m = 0; m < part->n; m++) {
        const struct mp_request *r = mp_member_request(part, m);
        int64_t sum[MP_HOME_NODES_MAX];
        home[m] = 0;
        if (r->n_rows == 0)
            continue;
        add_up(sum, part->trace, r, rule);
        const uint32_t node = choose_node(&d, sum, rows_seen(r, rule)), rank = choose_rank(&d, node);
        const uint64_t units = phase == MP_PHASE_DECODE ? 1 : r->n_rows;
        d.units[node] += units;
        d.on_rank[rank] += units;
        home[m] = (uint16_t)rank;
    }
    mp_free(d.on_rank);
    return MP_OK;
}
