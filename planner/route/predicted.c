/* GRACE's weights for replicas.
 *
 * Decides   a whole number for each slot: how often it is drawn among the slots of its expert.
 * Minimises nothing; evens out what GPUs compute as far as a draw among replicas can.
 * Method    predicted load of a GPU: its experts' rows, those of an expert with r replicas divided by r; the weight of
 *           a slot is in inverse proportion to its GPU's. Where one group of experts has n copies elsewhere this is
 *           W - W_r + W_p for its GPU and W + W_p for the others, W_p = W_r / (n + 1): equation 4 by its own sentence,
 *           W_r being the load of the replicated experts. As printed, W_p = W / (n + 1), the load of all experts of
 *           the group: then for each GPU on which replicated experts are at home (have their lowest slot), what it
 *           holds divided by the most replicas of one of these experts is added to every GPU that has one of them.
 * Bound     none.
 * Differs   loads are times: rows over the rate at which a GPU computes them, for GPUs that are not alike. Any
 *           replication, not GRACE's alone; groups are known by where experts have their lowest slot.
 * Paper     GRACE-MoE, arXiv 2509.25041, section 4.3, equation 4 and algorithm 3.
 * Cost      O(S log S) per layer of S slots. */
#include "predicted.h"
#include <moeplan/base.h>
#include <stdlib.h>
#include <string.h>

__extension__ typedef unsigned __int128 u128;

#define PARTS 1024u /* of a row */

struct copy { /* a slot of a replicated expert */
    uint32_t home, gpu;
};
struct prediction {
    const struct mp_problem *in;
    u128 *load;          /* [n_gpus] PARTS of rows */
    uint64_t *row_ps;    /* [n_gpus] time of a row */
    uint64_t *home_load; /* [n_gpus] rows of the experts at home there */
    uint32_t *home, *n;  /* [n_experts] GPU of the lowest slot; slots */
    uint32_t *most;      /* [n_gpus] replicas of an expert at home there, at most */
    struct copy *copies; /* [n_slots] */
};

static int by_home(const void *a, const void *b) {
    const struct copy *x = a, *y = b;
    if (x->home != y->home)
        return x->home < y->home ? -1 : 1;
    return (x->gpu > y->gpu) - (x->gpu < y->gpu);
}

static bool prepare(struct prediction *w, const struct mp_plan *p, struct mp_arena *scratch) {
    w->load = mp_arena_alloc(scratch, p->n_gpus, sizeof *w->load);
    w->row_ps = mp_arena_alloc(scratch, p->n_gpus, sizeof *w->row_ps);
    w->home_load = mp_arena_alloc(scratch, p->n_gpus, sizeof *w->home_load);
    w->most = mp_arena_alloc(scratch, p->n_gpus, sizeof *w->most);
    w->home = mp_arena_alloc(scratch, p->n_experts, sizeof *w->home);
    w->n = mp_arena_alloc(scratch, p->n_experts, sizeof *w->n);
    w->copies = mp_arena_alloc(scratch, p->n_slots, sizeof *w->copies);
    if (w->load == NULL || w->row_ps == NULL || w->home_load == NULL || w->most == NULL || w->home == NULL ||
        w->n == NULL || w->copies == NULL)
        return false;
    for (uint32_t g = 0; g < p->n_gpus; g++) {
        const struct mp_compute_coefficients k = mp_compute_coefficients(w->in->topology, g, w->in->model);
        const uint32_t speed = w->in->topology->gpus[g].speed_ppm;
        w->row_ps[g] = mp_mul_div(k.beta_ps > 0 ? k.beta_ps : 1, 1000000, speed > 0 ? speed : 1);
    }
    return true;
}

/* Slots and home of every expert, and what is at home on each GPU. */
static void look_at(struct prediction *w, const struct mp_plan *p, uint32_t layer) {
    const uint16_t *expert = p->layers[layer].slot_expert;
    const uint64_t *rows = w->in->load + (size_t)layer * p->n_experts;
    memset(w->n, 0, p->n_experts * sizeof *w->n);
    memset(w->most, 0, p->n_gpus * sizeof *w->most);
    memset(w->home_load, 0, p->n_gpus * sizeof *w->home_load);
    memset(w->load, 0, p->n_gpus * sizeof *w->load);
    for (uint32_t s = 0; s < p->n_slots; s++)
        if (expert[s] < p->n_experts && w->n[expert[s]]++ == 0) {
            w->home[expert[s]] = p->slot_gpu[s];
            w->home_load[p->slot_gpu[s]] += rows[expert[s]];
        }
    for (uint32_t e = 0; e < p->n_experts; e++)
        if (w->n[e] > 1 && w->n[e] > w->most[w->home[e]])
            w->most[w->home[e]] = w->n[e];
}

/* An expert's rows in equal parts to its slots. */
static void predict(struct prediction *w, const struct mp_plan *p, uint32_t layer) {
    const uint16_t *expert = p->layers[layer].slot_expert;
    const uint64_t *rows = w->in->load + (size_t)layer * p->n_experts;
    for (uint32_t s = 0; s < p->n_slots; s++)
        if (expert[s] < p->n_experts)
            w->load[p->slot_gpu[s]] += (u128)rows[expert[s]] * PARTS / w->n[expert[s]];
}

/* Replicated experts count nothing, and their home's load in equal parts for every GPU that has one of them. */
static void predict_as_printed(struct prediction *w, const struct mp_plan *p, uint32_t layer) {
    const uint16_t *expert = p->layers[layer].slot_expert;
    const uint64_t *rows = w->in->load + (size_t)layer * p->n_experts;
    uint32_t n = 0;
    for (uint32_t s = 0; s < p->n_slots; s++) {
        if (expert[s] >= p->n_experts)
            continue;
        if (w->n[expert[s]] == 1)
            w->load[p->slot_gpu[s]] += (u128)rows[expert[s]] * PARTS;
        else
            w->copies[n++] = (struct copy){w->home[expert[s]], p->slot_gpu[s]};
    }
    qsort(w->copies, n, sizeof *w->copies, by_home);
    for (uint32_t i = 0; i < n; i++)
        if (i == 0 || by_home(&w->copies[i - 1], &w->copies[i]) != 0)
            w->load[w->copies[i].gpu] += (u128)w->home_load[w->copies[i].home] * PARTS / w->most[w->copies[i].home];
}

/* Time predicted for the GPU of a slot, not 0. */
static u128 time_of(const struct prediction *w, const struct mp_plan *p, uint32_t slot) {
    return (w->load[p->slot_gpu[slot]] + 1) * w->row_ps[p->slot_gpu[slot]];
}

static bool weigh(const struct prediction *w, struct mp_plan *p, uint32_t layer, u128 *least) {
    const uint16_t *expert = p->layers[layer].slot_expert;
    uint32_t *weight = mp_arena_alloc(p->arena, p->n_slots, sizeof *weight);
    if (weight == NULL)
        return false;
    for (uint32_t e = 0; e < p->n_experts; e++)
        least[e] = 0;
    for (uint32_t s = 0; s < p->n_slots; s++)
        if (expert[s] < p->n_experts && (least[expert[s]] == 0 || time_of(w, p, s) < least[expert[s]]))
            least[expert[s]] = time_of(w, p, s);
    for (uint32_t s = 0; s < p->n_slots; s++) {
        if (expert[s] >= p->n_experts)
            continue;
        u128 time = time_of(w, p, s);
        weight[s] = (uint32_t)((least[expert[s]] * MP_PREDICTED_WEIGHT + time / 2) / time);
        weight[s] = weight[s] > 0 ? weight[s] : 1;
    }
    p->layers[layer].slot_weight = weight;
    return true;
}

enum mp_status mp_predicted_weights(const struct mp_problem *in, bool as_printed, struct mp_arena *scratch,
                                    struct mp_draft *draft, struct mp_error *err) {
    struct mp_plan *p = draft->plan;
    struct prediction w = {.in = in};
    u128 *least = mp_arena_alloc(scratch, p->n_experts, sizeof *least);
    bool has_memory = least != NULL && prepare(&w, p, scratch);
    for (uint32_t l = 0; has_memory && l < p->n_layers; l++) {
        look_at(&w, p, l);
        if (as_printed)
            predict_as_printed(&w, p, l);
        else
            predict(&w, p, l);
        has_memory = weigh(&w, p, l, least);
    }
    return has_memory ? MP_OK : mp_nomem(err, "weighing replicas");
}

const struct mp_option mp_predicted_options[] = {
    {"printed", "switch", "1: equation 4 as printed, the load of the whole group spread; 0: by its sentence", 0, 0, 1},
    {NULL, NULL, NULL, 0, 0, 0}};

enum mp_status mp_predicted_route(const struct mp_problem *in, enum mp_route_rule rule, struct mp_arena *scratch,
                                  struct mp_draft *draft, enum mp_outcome *outcome, struct mp_error *err) {
    draft->plan->route = rule;
    *outcome = MP_FOUND;
    return mp_predicted_weights(in, in->option_values != NULL && in->option_values[0] != 0, scratch, draft, err);
}
