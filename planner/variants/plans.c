/* Plans of a library: each made for its own traffic, and close to the static one.
 *
 * Decides   placement, replicas, routing and orders of one variant.
 * Minimises the planner's objective on steps of the variant's traffic; then the experts that move from the static plan.
 * Method    the stages that the static plan was made with, on steps drawn from the variant's requests; the labels of
 *           GPUs that move least (planner/migrate); a layer that does not gain in KEEP_STEPS steps what moving it takes
 *           keeps the static plan's slots; what comes of that is routed and ordered anew.
 * Bound     the labels are proven; the rest is heuristic.
 * Differs   -
 * Cost      two runs of the static plan's stages and two simulations. */
#include "variants.h"
#include <math.h>
#include <moeplan/base.h>
#include <string.h>

#define FIT_STEPS 64u
#define CHOICE_STEPS 32u
#define KEEP_STEPS 5000
enum { FIT = 21, CHOICE };

static const char *recipe_of(bool repeats) {
    for (uint32_t i = 0; mp_recipe_at(i) != NULL; i++)
        if (mp_recipe_at(i)->place != NULL && mp_recipe_at(i)->may_repeat_on_gpu == repeats)
            return mp_recipe_at(i)->name;
    return "contiguous";
}

static struct mp_plan_request trial_of(const struct mp_plan_request *base, const struct mp_plan *like,
                                       const struct mp_part *part, const struct mp_workload *steps) {
    struct mp_plan_request r = *base;
    r.planning = part;
    r.steps = steps;
    r.fits_steps = r.is_trial = true;
    r.export_lp = r.import_solution = NULL;
    r.strategy = recipe_of(like->allow_same_gpu_replicas);
    r.replicate = like->provenance.replicate;
    r.place = like->provenance.place;
    r.route = like->provenance.route;
    r.order = like->provenance.order;
    return r;
}

static enum mp_status run(struct mp_plan **out, const struct mp_plan_request *request, struct mp_error *err) {
    struct mp_error why = {0};
    enum mp_outcome outcome;
    enum mp_status status = mp_plan_make(out, request, &outcome, NULL, &why);
    if (status != MP_OK && err != NULL)
        *err = why;
    return status;
}

/* What each layer moves from `label`, and what that takes. */
static enum mp_status price_layers(uint64_t *price_ns, const struct mp_migration *m, const struct mp_plan *label,
                                   const struct mp_plan_request *base, struct mp_error *err) {
    struct mp_net *net = NULL;
    bool *is_taken = mp_calloc(m->n_moves > 0 ? m->n_moves : 1, sizeof *is_taken);
    enum mp_status status = is_taken != NULL ? MP_OK : mp_nomem(err, "migration");
    if (status == MP_OK)
        status = mp_net_new(&net, base->topology, err);
    for (uint32_t l = 0; l < label->n_layers && status == MP_OK; l++) {
        struct mp_moves_time time;
        for (uint32_t i = 0; i < m->n_moves; i++)
            is_taken[i] = m->moves[i].layer == l;
        status = mp_moves_time(&time, m->moves, m->n_moves, is_taken, label->gpu_node, label->n_gpus, base->topology,
                               base->model->expert_bytes, net, NULL, err);
        price_ns[l] = time.ns;
    }
    mp_net_free(net);
    mp_free(is_taken);
    return status;
}

/* layers[l]: those of `moved` that are worth it, else `label`'s. Returns in *n how many are. */
static enum mp_status choose_layers(struct mp_plan_layer *layers, uint32_t *n, const struct mp_plan *label,
                                    const struct mp_plan *made, const struct mp_plan *moved,
                                    const struct mp_migration *m, const struct mp_part *parts, uint32_t n_parts,
                                    const struct mp_plan_request *base, struct mp_error *err) {
    struct mp_sim_options sim = base->sim;
    struct mp_workload *w = NULL;
    struct mp_sim_result *before = NULL, *after = NULL;
    enum mp_status status = MP_OK;
    uint64_t *price = mp_calloc(label->n_layers, sizeof *price);
    *n = 0;
    if (price == NULL)
        return mp_nomem(err, "choosing layers");
    sim.network = MP_NETWORK_PLAN;
    sim.with_bound = false;
    sim.n_threads = base->n_threads;
    sim.n_steps_max = 0;
    MP_TRY(vpool_steps(&w, parts, n_parts, base, CHOICE_STEPS, CHOICE, err));
    MP_TRY(price_layers(price, m, label, base, err));
    MP_TRY(mp_simulate(&before, label, w, base->topology, base->model, &sim, err));
    MP_TRY(mp_simulate(&after, made, w, base->topology, base->model, &sim, err));
    for (uint32_t l = 0; l < label->n_layers; l++) {
        const double gain = before->layer_ns[l] - after->layer_ns[l];
        const bool is_worth_it = gain * KEEP_STEPS > (double)price[l] && gain > 0;
        layers[l] = is_worth_it ? moved->layers[l] : label->layers[l];
        *n += is_worth_it;
    }
out:
    mp_sim_result_free(before);
    mp_sim_result_free(after);
    mp_workload_free(w);
    mp_free(price);
    return status;
}

static bool repeats_on_gpu(const struct mp_plan *p, const struct mp_plan_layer *layers) {
    for (uint32_t l = 0; l < p->n_layers; l++)
        for (uint32_t s = 0; s < p->n_slots; s++)
            for (uint32_t k = p->gpu_first_slot[p->slot_gpu[s]]; k < s; k++)
                if (layers[l].slot_expert[s] != MP_NO_EXPERT && layers[l].slot_expert[k] == layers[l].slot_expert[s])
                    return true;
    return false;
}

/* `made` under the labels that move least from `label`, where that is worth it. *out NULL: nowhere. */
static enum mp_status come_near(struct mp_plan **out, const struct mp_plan *made, const struct mp_plan *like,
                                const struct mp_plan *label, struct mp_plan_request request,
                                const struct mp_part *parts, uint32_t n_parts, const struct mp_plan_request *base,
                                struct mp_error *err) {
    struct mp_migration *m = NULL;
    struct mp_plan *moved = NULL;
    struct mp_plan mixed = *made; /* borrows all but the slots */
    enum mp_status status = MP_OK;
    uint32_t n_changed;
    uint32_t *gpu_slots = mp_calloc(label->n_gpus, sizeof *gpu_slots);
    mixed.layers = mp_calloc(label->n_layers, sizeof *mixed.layers);
    if (gpu_slots == NULL || mixed.layers == NULL) {
        status = mp_nomem(err, "a variant");
        goto out;
    }
    const bool is_by_node = base->sim.dispatcher->copies == MP_COPY_PER_NODE;
    MP_TRY(mp_migrate(&m, label, made, base->topology, mp_labels_of(made, is_by_node), base->n_threads, err));
    MP_TRY(mp_migrated_plan(&moved, m, label, made, err));
    MP_TRY(choose_layers(mixed.layers, &n_changed, label, made, moved != NULL ? moved : made, m, parts, n_parts, base,
                         err));
    if (n_changed == 0)
        goto out;
    for (uint32_t g = 0; g < label->n_gpus; g++)
        gpu_slots[g] = label->gpu_first_slot[g + 1] - label->gpu_first_slot[g];
    request.strategy = recipe_of(repeats_on_gpu(label, mixed.layers));
    request.replicate = "none";
    request.place = "contiguous";
    request.gpu_slots = gpu_slots;
    request.given_slots = &mixed;
    request.given_name = "variant";
    request.needs_equal_slots = false;
    MP_TRY(run(out, &request, err));
    if (*out != NULL) { /* who placed it, for its file */
        (*out)->provenance.replicate = like->provenance.replicate;
        (*out)->provenance.place = like->provenance.place;
    }
out:
    mp_free(gpu_slots);
    mp_free(mixed.layers);
    mp_migration_free(m);
    mp_plan_free(moved);
    return status;
}

enum mp_status vplan_make(struct mp_plan **out, const struct mp_plan *like, const struct mp_plan *label,
                          const struct mp_part *parts, uint32_t n_parts, const struct mp_plan_request *base,
                          struct mp_error *err) {
    struct mp_workload *steps = NULL;
    struct mp_plan *made = NULL;
    enum mp_status status = MP_OK;
    *out = NULL;
    MP_TRY(vpool_steps(&steps, parts, n_parts, base, FIT_STEPS, FIT, err));
    const struct mp_plan_request request = trial_of(base, like, parts, steps);
    MP_TRY(run(&made, &request, err));
    if (made == NULL || made->n_slots != like->n_slots ||
        memcmp(made->gpu_first_slot, like->gpu_first_slot, (like->n_gpus + 1) * sizeof *like->gpu_first_slot) != 0)
        goto out;
    if (label == NULL) {
        *out = made;
        made = NULL;
    } else {
        MP_TRY(come_near(out, made, like, label, request, parts, n_parts, base, err));
    }
out:
    mp_plan_free(made);
    mp_workload_free(steps);
    return status;
}

/* From one plan to another: moves and time of each group. */
static enum mp_status one_way(uint32_t *moves, uint64_t *cost_ns, size_t stride, const struct mp_migration *m,
                              const struct mp_plan *from, const uint32_t *first_layer, uint32_t n_groups,
                              const struct mp_plan_request *base, struct mp_net *net, struct mp_error *err) {
    bool *is_taken = mp_calloc(m->n_moves > 0 ? m->n_moves : 1, sizeof *is_taken);
    enum mp_status status = is_taken != NULL ? MP_OK : mp_nomem(err, "migration");
    for (uint32_t g = 0; g < n_groups && status == MP_OK; g++) {
        struct mp_moves_time time;
        uint32_t n = 0;
        for (uint32_t i = 0; i < m->n_moves; i++) {
            is_taken[i] = m->moves[i].layer >= first_layer[g] && m->moves[i].layer < first_layer[g + 1];
            n += is_taken[i];
        }
        status = mp_moves_time(&time, m->moves, m->n_moves, is_taken, from->gpu_node, from->n_gpus, base->topology,
                               base->model->expert_bytes, net, NULL, err);
        moves[g * stride] = n;
        cost_ns[g * stride] = time.ns;
    }
    mp_free(is_taken);
    return status;
}

enum mp_status vplan_costs(uint32_t *moves, uint64_t *cost_ns, const struct mp_plan *const *plans, uint32_t n,
                           const uint32_t *first_layer, uint32_t n_groups, const struct mp_plan_request *base,
                           struct mp_error *err) {
    struct mp_net *net = NULL;
    enum mp_status status = mp_net_new(&net, base->topology, err);
    memset(moves, 0, (size_t)n_groups * n * n * sizeof *moves);
    memset(cost_ns, 0, (size_t)n_groups * n * n * sizeof *cost_ns);
    for (uint32_t a = 0; a < n; a++)
        for (uint32_t b = 0; b < n && status == MP_OK; b++) {
            struct mp_migration *m = NULL;
            if (a == b)
                continue;
            status = mp_migrate(&m, plans[a], plans[b], base->topology, MP_LABELS_KEPT, base->n_threads, err);
            if (status == MP_OK)
                status = one_way(moves + (size_t)a * n + b, cost_ns + (size_t)a * n + b, (size_t)n * n, m, plans[a],
                                 first_layer, n_groups, base, net, err);
            mp_migration_free(m);
        }
    mp_net_free(net);
    return status;
}
