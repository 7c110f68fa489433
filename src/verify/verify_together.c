/* Two plans of two models on the same GPUs: do they belong together, does the memory hold both, and is a step of both
 * what they say. From docs/COLOCATION.md parts 1 to 3 and 6; shares no code with planner and cost. */
#include "internal.h"
#include <stdlib.h>
#include <string.h>

#define LAYERS 8u                   /* of the timeline */
#define NS_MOST (UINT64_C(1) << 48) /* a load past this counts as this */
#define BYTES_MOST (UINT64_C(1) << 60)

typedef unsigned __int128 u128;

/* One model in one layer: time on every GPU and port, in the mean planning step. */
struct load {
    uint64_t *gate, *experts, *dispatch, *combine;
};
struct one {
    struct verifier v;
    struct vf_data d;
    struct load load;
    uint64_t *copies, *starts, *active, *padded; /* sums over the steps */
    uint64_t *bytes;                             /* [n_resources] */
};

static uint64_t at_most(u128 x, uint64_t most) { return x < most ? (uint64_t)x : most; }
static uint64_t up(u128 a, u128 b) { return (uint64_t)(a / b + (a % b != 0)); }
static uint64_t larger(uint64_t a, uint64_t b) { return a > b ? a : b; }

/* ---- the two lists ---- */

struct pair {
    uint32_t layer, gpu, of_first, of_second;
};
static int by_all(const void *x, const void *y) {
    const struct pair *a = x, *b = y;
    const uint32_t left[] = {a->layer, a->gpu, a->of_first, a->of_second};
    const uint32_t right[] = {b->layer, b->gpu, b->of_first, b->of_second};
    for (int i = 0; i < 4; i++)
        if (left[i] != right[i])
            return left[i] < right[i] ? -1 : 1;
    return 0;
}

static struct pair *sorted_pairs(const struct mp_plan *p, bool is_second) {
    struct pair *out = mp_calloc(p->n_colocations + 1, sizeof *out);
    for (uint32_t i = 0; out != NULL && i < p->n_colocations; i++) {
        const struct mp_colocation *c = &p->colocations[i];
        out[i] = (struct pair){c->layer, c->gpu, is_second ? c->expert_b : c->expert_a,
                               is_second ? c->expert_a : c->expert_b};
    }
    if (out != NULL)
        qsort(out, p->n_colocations, sizeof *out, by_all);
    return out;
}

static bool holds(const struct mp_plan *p, uint32_t layer, uint32_t gpu, uint32_t expert) {
    for (uint32_t s = p->gpu_first_slot[gpu]; s < p->gpu_first_slot[gpu + 1]; s++)
        if (p->layers[layer].slot_expert[s] == expert)
            return true;
    return false;
}

static bool is_any(const struct mp_plan *p, uint32_t layer, uint32_t gpu) {
    for (uint32_t s = p->gpu_first_slot[gpu]; s < p->gpu_first_slot[gpu + 1]; s++)
        if (p->layers[layer].slot_expert[s] != MP_NO_EXPERT)
            return true;
    return false;
}

static bool is_listed(const struct pair *list, uint32_t n, uint32_t layer, uint32_t gpu, uint32_t expert, int m) {
    for (uint32_t i = 0; i < n; i++)
        if (list[i].layer == layer && list[i].gpu == gpu && expert == (m == 0 ? list[i].of_first : list[i].of_second))
            return true;
    return false;
}

/* Every expert that shares a GPU with one of the other model is in a pair there. list: of layer `l` only. */
static void check_complete(struct verifier *v, const struct mp_plan *const plan[2], const struct pair *list, uint32_t n,
                           uint32_t l) {
    for (uint32_t g = 0; g < plan[0]->n_gpus; g++)
        for (int m = 0; m < 2 && is_any(plan[0], l, g) && is_any(plan[1], l, g); m++)
            for (uint32_t s = plan[m]->gpu_first_slot[g]; s < plan[m]->gpu_first_slot[g + 1]; s++) {
                const uint16_t expert = plan[m]->layers[l].slot_expert[s];
                if (expert != MP_NO_EXPERT)
                    vf_expect(v, is_listed(list, n, l, g, expert, m), MP_V_COLOCATION,
                              "entry %u of the layers: expert %u of the %s model shares GPU %u and is in no pair", l,
                              expert, m == 0 ? "first" : "second", g);
            }
}

static enum mp_status check_pairs(struct verifier *v, const struct mp_plan *const plan[2], struct mp_error *err) {
    struct pair *list[2] = {sorted_pairs(plan[0], false), sorted_pairs(plan[1], true)};
    const uint32_t n = plan[0]->n_colocations;
    enum mp_status status = MP_OK;
    if (list[0] == NULL || list[1] == NULL) {
        status = mp_nomem(err, "verifying two plans");
        goto out;
    }
    bool is_same = vf_expect(v, n == plan[1]->n_colocations, MP_V_COLOCATION,
                             "the first plan lists %u pairs and the second %u", n, plan[1]->n_colocations);
    for (uint32_t i = 0; is_same && i < n; i++) {
        const struct pair *a = &list[0][i], *b = &list[1][i];
        is_same = vf_expect(v, by_all(a, b) == 0, MP_V_COLOCATION,
                            "the lists do not mirror each other: layer %u, GPU %u, experts %u and %u of the first "
                            "plan's list, and layer %u, GPU %u, experts %u and %u of the second's",
                            a->layer, a->gpu, a->of_first, a->of_second, b->layer, b->gpu, b->of_first, b->of_second);
        if (is_same && a->layer < plan[1]->n_layers)
            vf_expect(v, holds(plan[1], a->layer, a->gpu, a->of_second), MP_V_COLOCATION,
                      "entry %u of the layers: expert %u of the second model has no slot on GPU %u, where expert %u of "
                      "the first is",
                      a->layer, a->of_second, a->gpu, a->of_first);
    }
    const uint32_t layers = plan[0]->n_layers < plan[1]->n_layers ? plan[0]->n_layers : plan[1]->n_layers;
    for (uint32_t l = 0, i = 0; is_same && l < layers; l++) {
        uint32_t end = i;
        while (end < n && list[0][end].layer == l)
            end++;
        check_complete(v, plan, list[0] + i, end - i, l);
        i = end;
    }
out:
    mp_free(list[0]);
    mp_free(list[1]);
    return status;
}

/* ---- what stands in both files ---- */

static void check_files(struct verifier *v, const struct mp_plan *const plan[2]) {
    static const char *const words[] = {"first", "second"};
    for (int m = 0; m < 2; m++) {
        const struct mp_plan *p = plan[m], *other = plan[1 - m];
        const struct mp_plan_together *t = &p->together;
        if (!vf_expect(v, t->is_present, MP_V_COLOCATION, "the %s plan is not one of two (it has no section together)",
                       words[m]))
            continue;
        vf_expect(v, t->is_second == (m == 1), MP_V_COLOCATION,
                  "the plan given %s says that it is the %s one (give the two in their order)", words[m],
                  words[t->is_second]);
        vf_expect(v, strcmp(t->other_trace_sha256, other->provenance.trace_sha256) == 0, MP_V_PROVENANCE,
                  "the %s plan was made beside one of the trace with SHA-256 %.16s..., and the other's is %.16s...",
                  words[m], t->other_trace_sha256, other->provenance.trace_sha256);
        vf_expect(v, strcmp(t->other_model_sha256, other->provenance.model_sha256) == 0, MP_V_PROVENANCE,
                  "the %s plan was made beside one of the model with SHA-256 %.16s..., and the other's is %.16s...",
                  words[m], t->other_model_sha256, other->provenance.model_sha256);
    }
    const struct mp_plan *a = plan[0], *b = plan[1];
    vf_expect(v, strcmp(a->provenance.topology_sha256, b->provenance.topology_sha256) == 0, MP_V_PROVENANCE,
              "the first plan is for topology \"%.60s\" (%.16s...) and the second for \"%.60s\" (%.16s...)",
              a->provenance.topology, a->provenance.topology_sha256, b->provenance.topology,
              b->provenance.topology_sha256);
    vf_expect(v, a->together.timeline_ns == b->together.timeline_ns, MP_V_PREDICTION,
              "timeline_ns is %llu in the first plan and %llu in the second", ULL(a->together.timeline_ns),
              ULL(b->together.timeline_ns));
    vf_expect(v, a->together.closed_form_ns == b->together.closed_form_ns, MP_V_PREDICTION,
              "closed_form_ns is %llu in the first plan and %llu in the second", ULL(a->together.closed_form_ns),
              ULL(b->together.closed_form_ns));
}

static u128 weights_of(const struct mp_plan *p, const struct mp_model *m, uint32_t gpu) {
    const uint32_t layers = m->n_layers > p->n_layers ? m->n_layers : p->n_layers;
    const uint32_t slots = p->gpu_first_slot[gpu + 1] - p->gpu_first_slot[gpu];
    return (u128)m->expert_bytes * slots * layers + (u128)m->shared_bytes * layers + m->dense_bytes;
}

static void check_memory(struct verifier *v, const struct mp_verify_side side[2]) {
    for (uint32_t g = 0; g < side[0].plan->n_gpus; g++) {
        const u128 a = weights_of(side[0].plan, side[0].model, g), b = weights_of(side[1].plan, side[1].model, g);
        const uint64_t has = v->topology->types[v->topology->gpus[g].type].memory_bytes;
        vf_expect(v, a + b <= has, MP_V_CAPACITY,
                  "GPU %u: the weights of both models are %llu and %llu bytes, and it has %llu", g,
                  ULL(at_most(a, UINT64_MAX)), ULL(at_most(b, UINT64_MAX)), ULL(has));
    }
}

/* ---- the step of both ---- */

static enum mp_status open_one(struct one *x, const struct mp_verify_side *side, struct verifier *shared,
                               bool *is_usable, struct mp_error *err) {
    x->v = *shared;
    x->v.plan = side->plan;
    x->v.trace = side->trace;
    x->v.model = side->model;
    enum mp_status status = vf_data_open(&x->d, &x->v, is_usable, err);
    if (status != MP_OK || !*is_usable)
        return status;
    const size_t n = x->d.n, ports = shared->topology->n_resources;
    x->d.dispatcher.copies = VF_PER_EXPERT; /* whatever travels when the model is alone */
    uint64_t *sums = mp_arena_alloc(x->d.arena, n * n + 5 * n + 3 * ports, sizeof *sums);
    if (sums == NULL)
        return mp_nomem(err, "verifying two plans");
    x->copies = sums;
    x->starts = sums + n * n;
    x->active = x->starts + n;
    x->padded = x->active + n;
    x->load.gate = x->padded + n;
    x->load.experts = x->load.gate + n;
    x->load.dispatch = x->load.experts + n;
    x->load.combine = x->load.dispatch + ports;
    x->bytes = x->load.combine + ports;
    return MP_OK;
}

static void add_step(struct one *x, uint64_t tile) {
    const struct vf_data *d = &x->d;
    const struct mp_plan *p = d->v->plan;
    for (size_t k = 0; k < (size_t)d->n * d->n; k++)
        x->copies[k] += d->flows.first[k];
    for (uint32_t g = 0; g < d->n; g++) {
        x->starts[g] += d->flows.source_rows[g];
        for (uint32_t s = p->gpu_first_slot[g]; s < p->gpu_first_slot[g + 1]; s++) {
            x->active[g] += d->slot_rows[s] > 0;
            x->padded[g] += tile > 1 ? up(d->slot_rows[s], tile) * tile : d->slot_rows[s];
        }
    }
}

static void fill_ports(struct one *x, bool is_combine, uint64_t bytes_each, uint64_t steps, uint64_t *out) {
    const struct mp_topology *t = x->v.topology;
    memset(x->bytes, 0, t->n_resources * sizeof *x->bytes);
    for (uint32_t i = 0; i < x->d.n; i++)
        for (uint32_t j = 0; j < x->d.n; j++) {
            const uint64_t copies = i == j ? 0 : x->copies[(size_t)i * x->d.n + j];
            const struct mp_path path = vf_path(&x->d, is_combine ? j : i, is_combine ? i : j);
            const uint64_t bytes = at_most(((u128)copies * bytes_each + steps - 1) / steps, BYTES_MOST);
            for (uint32_t k = 0; copies > 0 && k < path.n; k++)
                x->bytes[path.resource[k]] = at_most((u128)x->bytes[path.resource[k]] + bytes, BYTES_MOST);
        }
    for (uint32_t r = 0; r < t->n_resources; r++) {
        const u128 rate = t->resources[r].bytes_per_s, amount = (u128)x->bytes[r] * 1000000000;
        out[r] = at_most(amount / rate + (amount % rate != 0), NS_MOST);
    }
}

/* Part 1. A layer past the model's last: nothing. */
static enum mp_status fill_load(struct one *x, uint32_t layer, struct mp_error *err) {
    const struct mp_topology *t = x->v.topology;
    const size_t n = x->d.n;
    enum mp_status status = MP_OK;
    memset(x->copies, 0, (n * n + 5 * n + 3 * (size_t)t->n_resources) * sizeof *x->copies);
    if (layer >= x->v.plan->n_layers)
        return MP_OK;
    const uint64_t steps = x->d.workload->n_steps;
    MP_TRY(vf_prepare_layer(&x->d, layer, err));
    for (uint32_t s = 0; s < steps; s++) {
        MP_TRY(vf_flows_of_step(&x->d, s, err));
        add_step(x, t->types[t->gpus[0].type].tile_tokens);
    }
    for (uint32_t g = 0; g < n; g++) {
        const uint64_t rows = up(x->starts[g], steps);
        const uint64_t shared = at_most(vf_shared_ns(&x->d, g, rows), NS_MOST / 2);
        const uint64_t own = vf_expert_ns(&x->d, g, up(x->active[g], steps), up(x->padded[g], steps));
        x->load.gate[g] = at_most(vf_attention_ns(&x->d, g, rows), NS_MOST);
        x->load.experts[g] = shared + at_most(own, NS_MOST / 2);
    }
    fill_ports(x, false, x->v.model->dispatch_bytes, steps, x->load.dispatch);
    fill_ports(x, true, x->v.model->combine_bytes, steps, x->load.combine);
out:
    return status;
}

static uint64_t peak(const uint64_t *a, const uint64_t *b, size_t n) {
    uint64_t most = 0;
    for (size_t i = 0; i < n; i++)
        most = larger(most, a[i] + (b != NULL ? b[i] : 0));
    return most;
}

/* Part 2: aggregation takes nothing in these models. */
static uint64_t closed_form(const struct load *a, const struct load *b, size_t n, size_t ports, uint64_t extra) {
#define SHOT(x, y) (peak(x, y, ports) > 0 ? peak(x, y, ports) + extra : 0)
    const uint64_t g_a = peak(a->gate, NULL, n), g_b = peak(b->gate, NULL, n), f_a = peak(a->experts, NULL, n),
                   f_b = peak(b->experts, NULL, n), n_a = SHOT(a->dispatch, NULL), n_b = SHOT(b->dispatch, NULL),
                   c_a = SHOT(a->combine, NULL), c_b = SHOT(b->combine, NULL), nn = SHOT(a->dispatch, b->dispatch),
                   cc = SHOT(a->combine, b->combine);
#undef SHOT
    const uint64_t e_fa = larger(g_b, n_a) + f_a, e_nb = larger(nn, g_b + n_b), e_fb = larger(e_fa, e_nb) + f_b;
    const uint64_t e_ca = larger(nn, e_fa) + c_a, e_cb = larger(larger(nn + cc, e_fb + c_b), e_ca);
    return larger(larger(e_fb, e_ca), e_cb) + g_a;
}

/* Part 3, phase by phase: a gate, then for each layer dispatch, experts, combine and the next layer's gate. */
static uint64_t timeline(const struct load load[2], size_t n, size_t ports, uint64_t extra, uint64_t *gpu_free,
                         uint64_t *port_free) {
    uint64_t due[2] = {0, 0};
    uint32_t done[2] = {0, 0};
    const uint32_t last = 4 * LAYERS; /* phase 0 is the first gate; the last combine's aggregate takes nothing */
    memset(gpu_free, 0, n * sizeof *gpu_free);
    memset(port_free, 0, ports * sizeof *port_free);
    while (done[0] < last || done[1] < last) {
        const int m = done[1] == last || (done[0] < last && due[0] <= due[1]) ? 0 : 1;
        const struct load *x = &load[m];
        const uint32_t kind = done[m]++ % 4;
        const uint64_t *const work[] = {x->gate, x->dispatch, x->experts, x->combine};
        uint64_t *const busy = kind % 2 == 1 ? port_free : gpu_free;
        const size_t count = kind % 2 == 1 ? ports : n;
        uint64_t end = due[m];
        for (size_t r = 0; r < count; r++)
            if (work[kind][r] > 0) {
                busy[r] = larger(busy[r], due[m]) + work[kind][r];
                end = larger(end, busy[r]);
            }
        due[m] = end + (kind % 2 == 1 && peak(work[kind], NULL, count) > 0 ? extra : 0);
    }
    return up(larger(due[0], due[1]), LAYERS);
}

static enum mp_status check_times(struct verifier *v, const struct mp_verify_side side[2], struct mp_error *err) {
    struct one *x = mp_calloc(2, sizeof *x);
    const struct mp_topology *t = v->topology;
    uint64_t *busy = mp_calloc((size_t)t->n_gpus + t->n_resources, sizeof *busy), extra = 0, line = 0, closed = 0;
    bool is_usable = x != NULL && busy != NULL;
    enum mp_status status = MP_OK;
    if (!is_usable) {
        status = mp_nomem(err, "verifying two plans");
        goto out;
    }
    for (uint32_t l = 0; l < t->n_levels; l++)
        extra = larger(extra, t->levels[l].latency_ns);
    extra += t->launch_ns;
    for (int m = 0; m < 2 && is_usable; m++)
        MP_TRY(open_one(&x[m], &side[m], v, &is_usable, err));
    if (!is_usable)
        goto out;
    const uint32_t layers =
        side[0].plan->n_layers > side[1].plan->n_layers ? side[0].plan->n_layers : side[1].plan->n_layers;
    for (uint32_t l = 0; l < layers; l++) {
        for (int m = 0; m < 2; m++)
            MP_TRY(fill_load(&x[m], l, err));
        const struct load both[2] = {x[0].load, x[1].load};
        closed += closed_form(&both[0], &both[1], t->n_gpus, t->n_resources, extra);
        line += timeline(both, t->n_gpus, t->n_resources, extra, busy, busy + t->n_gpus);
    }
    const struct mp_plan_together *claim = &side[0].plan->together;
    vf_expect(v, claim->closed_form_ns == closed, MP_V_PREDICTION,
              "a step of both takes %llu ns by the closed form, and the plans say %llu", ULL(closed),
              ULL(claim->closed_form_ns));
    vf_expect(v, claim->timeline_ns == line, MP_V_PREDICTION,
              "a step of both takes %llu ns by the timeline, and the plans say %llu", ULL(line),
              ULL(claim->timeline_ns));
out:
    for (int m = 0; m < 2 && x != NULL; m++)
        vf_data_close(&x[m].d);
    mp_free(x);
    mp_free(busy);
    return status;
}

enum mp_status mp_plan_verify_together(struct mp_verify_report **out, const struct mp_verify_side side[2],
                                       const struct mp_topology *topology, struct mp_error *err) {
    struct verifier v = {.topology = topology};
    enum mp_status status = vf_report_new(out, &v, err);
    if (status != MP_OK)
        return status;
    const struct mp_plan *const plan[2] = {side[0].plan, side[1].plan};
    struct mp_verify_report *r = *out;
    *out = NULL;
    r->has_data = topology != NULL && side[0].trace != NULL && side[1].trace != NULL && side[0].model != NULL &&
                  side[1].model != NULL;
    const bool is_same_size =
        vf_expect(&v, plan[0]->n_gpus == plan[1]->n_gpus, MP_V_SHAPE, "the first plan has %u GPUs and the second %u",
                  plan[0]->n_gpus, plan[1]->n_gpus);
    check_files(&v, plan);
    if (is_same_size)
        MP_TRY(check_pairs(&v, plan, err));
    if (r->has_data && is_same_size && plan[0]->n_gpus == topology->n_gpus)
        check_memory(&v, side);
    if (r->has_data && r->n == 0)
        MP_TRY(check_times(&v, side, err));
    if (v.is_full)
        status = mp_nomem(err, "verifying two plans");
out:
    if (status == MP_OK)
        *out = r;
    else
        mp_verify_report_free(r);
    return status;
}
