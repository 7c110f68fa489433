/* Expert packing: how many experts of each layer a GPU holds.
 *
 * Decides    k, and with it the groups of GPUs between which tokens travel; the policy where none is given.
 * Minimises  the mean training step over the steps given (searched); nothing (Lina's rule).
 * Method     Searched: every k that divides, with the policy's own search. Lina's: the least k, doubled while the
 *            experts of a chunk take less than its all-to-all and the memory, with offloads, is enough.
 * Paper      Lina (USENIX ATC'23, arXiv 2210.17223), section 4.2.
 * Differs    Lina adjusts k while training, from the tenth step on, every four; here it is decided on recorded steps.
 * Cost       a step's work for every k, and a search of the policy. */
#include "internal.h"
#include <stdio.h>
#include <string.h>

static uint32_t divisor_of_both(uint32_t a, uint32_t b) {
    while (b != 0) {
        const uint32_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

uint32_t mp_train_packings(uint32_t k[MP_TRAIN_MAX_PACKINGS], uint32_t n_experts, uint32_t n_gpus) {
    const uint32_t both = divisor_of_both(n_experts, n_gpus);
    uint32_t n = 0;
    for (uint32_t group = both; group > 0 && n < MP_TRAIN_MAX_PACKINGS; group--)
        if (both % group == 0)
            k[n++] = n_experts / group;
    return n;
}

enum mp_status mp_train_pack_plan(struct mp_plan **out, const struct mp_trace *trace,
                                  const struct mp_topology *topology, uint32_t k, struct mp_error *err) {
    const uint32_t n = topology->n_gpus;
    *out = NULL;
    if (k == 0 || trace->n_experts % k != 0 || n % (trace->n_experts / k) != 0)
        return mp_fail(err, MP_EUSAGE,
                       "%u experts of each layer on a GPU: groups that hold all %u do not share out %u GPUs", k,
                       trace->n_experts, n);
    uint32_t *slots = mp_calloc(n, sizeof *slots), *node = NULL;
    if (slots == NULL)
        return mp_nomem(err, "packing experts");
    for (uint32_t g = 0; g < n; g++)
        slots[g] = k;
    enum mp_status status = mp_plan_new(out, trace->n_layers, trace->n_experts, n, slots, err);
    mp_free(slots);
    if (status == MP_OK && (node = mp_arena_alloc((*out)->arena, n, sizeof *node)) == NULL)
        status = mp_nomem(err, "packing experts");
    for (uint32_t g = 0; g < n && status == MP_OK; g++)
        node[g] = mp_topology_node(topology, g);
    for (uint32_t l = 0; l < trace->n_layers && status == MP_OK; l++) {
        (*out)->layers[l].layer_id = trace->layer_ids[l];
        for (uint32_t s = 0; s < (*out)->n_slots; s++)
            (*out)->layers[l].slot_expert[s] = (uint16_t)(s % trace->n_experts);
    }
    if (status == MP_OK) {
        (*out)->gpu_node = node;
        (*out)->n_nodes = mp_topology_n_nodes(topology);
        status = mp_plan_route_groups(*out, trace->n_experts / k, err);
    }
    if (status != MP_OK) {
        mp_plan_free(*out);
        *out = NULL;
    }
    return status;
}

struct mp_train_micro mp_train_micro(const struct mp_train_step *const *steps, uint32_t n_steps, uint64_t chunk_bytes) {
    unsigned __int128 experts = 0, a2as = 0;
    uint64_t n = 0;
    for (uint32_t i = 0; i < n_steps; i++)
        for (uint32_t l = 0; l < steps[i]->n_layers; l++, n++) {
            const struct mp_train_layer *x = &steps[i]->layers[l];
            const struct mp_train_transfer *a = &x->a2a[MP_TRAIN_DISPATCH];
            const uint64_t pieces =
                chunk_bytes == 0 || a->bytes <= chunk_bytes ? 1 : mp_ceil_div(a->bytes, chunk_bytes);
            uint64_t most = 0;
            for (uint32_t g = 0; g < steps[i]->n_ranks && x->expert_ns != NULL; g++)
                most = x->expert_ns[g] > most ? x->expert_ns[g] : most;
            const uint64_t again = pieces > 1 && most > steps[i]->kernel_ns ? steps[i]->kernel_ns : 0;
            experts += again + mp_ceil_div(most - again, pieces);
            a2as += a->ns == 0 ? 0 : mp_ceil_div(a->ns, pieces) + steps[i]->launch_ns;
        }
    return n == 0 ? (struct mp_train_micro){0} : (struct mp_train_micro){(uint64_t)(experts / n), (uint64_t)(a2as / n)};
}

/* ---- one k ---- */

struct steps { /* of one packing */
    uint32_t n;
    struct mp_train_work *work;
    const struct mp_train_step **step;
    const struct mp_train_memory **memory;
};

static void free_steps(struct steps *x) {
    for (uint32_t i = 0; i < x->n; i++)
        mp_train_work_free(&x->work[i]);
    mp_free(x->work);
    mp_free(x->step);
    mp_free(x->memory);
    *x = (struct steps){0};
}

static enum mp_status make_works(struct steps *x, const struct mp_cost_setup *setup,
                                 const struct mp_train_pack_request *r, const struct mp_train_options *options,
                                 struct mp_error *err) {
    const uint32_t n_steps = setup->workload->n_steps, n = n_steps < r->n_steps_max ? n_steps : r->n_steps_max;
    enum mp_status status = MP_OK;
    x->n = 0;
    for (uint32_t i = 0; i < n && status == MP_OK; i++) {
        const uint32_t step = (uint32_t)((2 * (uint64_t)i + 1) * n_steps / (2 * (uint64_t)n));
        status = mp_train_work_make(&x->work[i], setup, step, options, err);
        x->step[i] = &x->work[i].step;
        x->memory[i] = &x->work[i].memory;
        x->n += status == MP_OK;
    }
    return status;
}

/* Steps of packing k with the least offload that fits. *fits false: there is none, and err says why. */
static enum mp_status make_steps(struct steps *x, const struct mp_train_pack_request *r, uint32_t k,
                                 enum mp_train_offload *offload, bool *fits, struct mp_error *err) {
    struct mp_plan *plan = NULL;
    struct mp_router *router = NULL;
    struct mp_train_options options = r->options;
    const uint32_t n = r->workload->n_steps < r->n_steps_max ? r->workload->n_steps : r->n_steps_max;
    *x = (struct steps){.work = mp_calloc(n, sizeof *x->work),
                        .step = mp_calloc(n, sizeof *x->step),
                        .memory = mp_calloc(n, sizeof *x->memory)};
    enum mp_status status =
        x->work == NULL || x->step == NULL || x->memory == NULL ? mp_nomem(err, "packing experts") : MP_OK;
    *fits = true;
    if (status == MP_OK)
        status = mp_train_pack_plan(&plan, r->workload->trace, r->topology, k, err);
    if (status == MP_OK)
        status = mp_router_new(&router, plan, err);
    const struct mp_cost_setup setup = {.plan = plan,
                                        .router = router,
                                        .workload = r->workload,
                                        .topology = r->topology,
                                        .model = r->model,
                                        .dispatcher = r->dispatcher,
                                        .sources = r->sources};
    options.offload = MP_TRAIN_OFFLOAD_NONE;
    if (status == MP_OK)
        status = make_works(x, &setup, r, &options, err);
    if (status == MP_OK) {
        status = mp_train_offload_for(&options.offload, x->memory, x->n, &options, err);
        *fits = status == MP_OK;
        status = status == MP_EINPUT ? MP_OK : status;
    }
    if (status == MP_OK && *fits && options.offload != MP_TRAIN_OFFLOAD_NONE) {
        for (uint32_t i = 0; i < x->n; i++)
            mp_train_work_free(&x->work[i]);
        status = make_works(x, &setup, r, &options, err);
    }
    *offload = options.offload;
    mp_router_free(router);
    mp_plan_free(plan);
    if (status != MP_OK)
        free_steps(x);
    return status;
}

/* The policy at these steps, and its mean. */
static enum mp_status choose_policy(struct mp_train_packed *out, const struct mp_train_pack_request *r,
                                    const struct steps *x, struct mp_error *err) {
    if (r->policy == NULL) {
        enum mp_status status = mp_train_search(&out->policy, &out->mean_ns, x->step, x->n, r->n_threads, err);
        if (status == MP_OK && r->arena != NULL)
            status = mp_train_search_buckets(&out->policy, &out->mean_ns, x->step, x->n, r->n_threads, r->arena, err);
        return status;
    }
    out->policy = *r->policy;
    return mp_train_mean(&out->mean_ns, x->step, x->n, &out->policy, r->n_threads, err);
}

/* ---- which k ---- */

static enum mp_status by_rule(struct mp_train_packed *out, const struct mp_train_pack_request *r, const uint32_t *all,
                              uint32_t n_all, enum mp_outcome *outcome, struct mp_error *err) {
    const uint64_t chunk =
        r->policy != NULL ? r->policy->a2a_chunk_bytes : mp_train_policy_find("lina")->policy.a2a_chunk_bytes;
    struct steps best = {0};
    enum mp_status status = MP_OK;
    for (uint32_t k = all[0], i = 0; status == MP_OK;) {
        struct steps x;
        struct mp_error why = {0};
        enum mp_train_offload offload;
        bool fits;
        status = make_steps(&x, r, k, &offload, &fits, &why);
        if (status != MP_OK) {
            (void)mp_fail(err, status, "%s", why.message);
            break;
        }
        out->n_tried++;
        out->n_unfit += !fits;
        if (!fits) {
            if (best.n == 0)
                (void)mp_fail(err, MP_EINPUT, "%s", why.message);
            free_steps(&x);
            break;
        }
        free_steps(&best);
        best = x;
        out->k = k;
        out->offload = offload;
        out->micro = mp_train_micro(x.step, x.n, chunk);
        while (i < n_all && all[i] < 2 * k)
            i++;
        if (out->micro.expert_ns >= out->micro.a2a_ns || i == n_all || all[i] != 2 * k)
            break;
        k *= 2;
    }
    *outcome = best.n > 0 ? MP_FOUND : MP_NOT_FOUND;
    if (status == MP_OK && best.n > 0)
        status = choose_policy(out, r, &best, err);
    free_steps(&best);
    return status;
}

static enum mp_status by_search(struct mp_train_packed *out, const struct mp_train_pack_request *r, const uint32_t *all,
                                uint32_t n_all, enum mp_outcome *outcome, struct mp_error *err) {
    struct mp_train_packed best = {.mean_ns = UINT64_MAX};
    enum mp_status status = MP_OK;
    *outcome = MP_NOT_FOUND;
    for (uint32_t i = 0; i < n_all && status == MP_OK; i++) {
        struct mp_train_packed one = {.k = all[i]};
        struct mp_error why = {0};
        struct steps x;
        bool fits;
        status = make_steps(&x, r, all[i], &one.offload, &fits, &why);
        best.n_tried++;
        if (status == MP_OK && fits)
            status = choose_policy(&one, r, &x, &why);
        free_steps(&x);
        if (status != MP_OK || (!fits && best.n_unfit++ == 0))
            (void)mp_fail(err, status == MP_OK ? MP_EINPUT : status, "%s", why.message);
        if (status == MP_OK && fits && one.mean_ns < best.mean_ns) {
            one.n_tried = best.n_tried;
            one.n_unfit = best.n_unfit;
            best = one;
            *outcome = MP_FOUND;
        }
    }
    const uint32_t n_tried = best.n_tried, n_unfit = best.n_unfit;
    *out = best;
    out->n_tried = n_tried;
    out->n_unfit = n_unfit;
    return status;
}

enum mp_status mp_train_pack(struct mp_train_packed *out, const struct mp_train_pack_request *request,
                             enum mp_outcome *outcome, struct mp_error *err) {
    uint32_t all[MP_TRAIN_MAX_PACKINGS];
    uint32_t n = mp_train_packings(all, request->workload->trace->n_experts, request->topology->n_gpus);
    *out = (struct mp_train_packed){0};
    *outcome = MP_NOT_FOUND;
    if (request->workload->n_steps == 0 || request->n_steps_max == 0)
        return mp_fail(err, MP_EUSAGE, "there is no training step");
    if (request->packing == MP_TRAIN_PACK_GIVEN) {
        uint32_t i = 0;
        while (i < n && all[i] != request->k)
            i++;
        if (i == n) {
            char list[256] = "";
            size_t used = 0;
            for (i = 0; i < n && used + 12 < sizeof list; i++)
                used += (size_t)snprintf(list + used, sizeof list - used, "%s%u", i > 0 ? ", " : "", all[i]);
            (void)mp_fail(
                err, MP_EINPUT,
                "packing: groups that hold %u experts, %u on a GPU, do not share out %u GPUs (write one of %s)",
                request->workload->trace->n_experts, request->k, request->topology->n_gpus, list);
            return MP_OK;
        }
        all[0] = request->k;
        n = 1;
    }
    enum mp_status status = request->packing == MP_TRAIN_PACK_LINA ? by_rule(out, request, all, n, outcome, err)
                                                                   : by_search(out, request, all, n, outcome, err);
    if (status == MP_OK && *outcome == MP_FOUND && err != NULL)
        mp_error_clear(err);
    return status;
}
