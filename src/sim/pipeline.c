/* The pipelined reading of a step: every GPU has a clock, and waits only for what it needs.
 *
 * Decides    when each GPU ends each part of a layer, if nothing but its own transfers holds it (docs/COST.md part 6).
 * Method     a GPU's attention and gate start when its own part of the last combine has ended, its transfers of the
 *            dispatch when both their ends have come, its experts when all that it sends and receives has ended and
 *            its shared experts are done, the combine likewise.
 * Differs    from the plan's claim, where a barrier stands between these parts: where loads differ from layer to layer
 *            the busy GPU of one layer is not always that of the next. Transfers at fair rates may take longer when
 *            some start earlier, so that this is not a bound on the other reading, or the reverse.
 * Cost       that of the network with start times of their own; O(n_layers * n_gpus) scratch. */
#include "simulate.h"
#include <string.h>

enum mp_status sim_pipelined_new(struct worker *w, struct mp_arena *arena, uint32_t n_gpus, uint32_t n_layers,
                                 struct mp_error *err) {
    struct sim_clocks *c = &w->clocks;
    c->at = mp_arena_alloc(arena, n_gpus, sizeof *c->at);
    c->came = mp_arena_alloc(arena, n_gpus, sizeof *c->came);
    c->other = mp_arena_alloc(arena, n_gpus, sizeof *c->other);
    c->parts = mp_arena_alloc(arena, n_gpus, sizeof *c->parts);
    c->moe = mp_arena_alloc(arena, (size_t)n_layers * n_gpus, sizeof *c->moe);
    if (c->at == NULL || c->came == NULL || c->other == NULL || c->parts == NULL || c->moe == NULL)
        return mp_nomem(err, "clocks of GPUs");
    return MP_OK;
}

void sim_pipelined_begin(struct worker *w, uint32_t n_gpus) {
    memset(w->clocks.at, 0, n_gpus * sizeof *w->clocks.at);
    memset(w->clocks.parts, 0, n_gpus * sizeof *w->clocks.parts);
}

static enum mp_status move_first(struct worker *w, const struct sim_direction *x, uint64_t *clock_ns,
                                 struct mp_error *err) {
    struct sim_seen *seen = &w->seen[x->is_combine];
    enum mp_status status;
    seen->first_from = w->log.n;
    if (x->is_staged)
        status = mp_net_staged_from(w->net, &x->order, x->way, x->mode, x->first, clock_ns, err);
    else
        status = mp_net_concurrent_from(w->net, x->first, clock_ns, err);
    seen->first_to = w->log.n;
    return status;
}

enum mp_status sim_move_clocks(struct worker *w, const struct sim_direction *x, uint64_t *clock_ns,
                               struct mp_error *err) {
    const uint32_t n = w->traffic->n_gpus;
    uint64_t *other = w->clocks.other, latest = 0;
    enum mp_status status = MP_OK;
    for (uint32_t g = 0; g < n; g++) {
        clock_ns[g] += x->launch_ns;
        latest = clock_ns[g] > latest ? clock_ns[g] : latest;
    }
    if (x->second == NULL) {
        MP_TRY(move_first(w, x, clock_ns, err));
    } else if (x->is_overlapped) {
        memcpy(other, clock_ns, n * sizeof *other);
        MP_TRY(move_first(w, x, clock_ns, err));
        MP_TRY(mp_net_concurrent_from(w->net, x->second, other, err));
        for (uint32_t g = 0; g < n; g++)
            clock_ns[g] = clock_ns[g] > other[g] ? clock_ns[g] : other[g];
    } else if (x->is_combine) { /* the fan-in inside nodes comes first */
        MP_TRY(mp_net_concurrent_from(w->net, x->second, clock_ns, err));
        MP_TRY(move_first(w, x, clock_ns, err));
    } else {
        memcpy(other, clock_ns, n * sizeof *other);
        MP_TRY(move_first(w, x, clock_ns, err));
        for (uint32_t g = 0; g < n; g++) { /* routing of the second, from when g came or from when it goes on */
            const uint64_t routed = other[g] + x->routing_ns;
            clock_ns[g] = !x->hides_routing ? clock_ns[g] + x->routing_ns : clock_ns[g] > routed ? clock_ns[g] : routed;
        }
        MP_TRY(mp_net_concurrent_from(w->net, x->second, clock_ns, err));
    }
    for (uint32_t g = 0; g < n; g++)
        clock_ns[g] = clock_ns[g] > latest ? latest + sane(clock_ns[g] - latest) : clock_ns[g];
out:
    return status;
}

enum mp_status sim_pipelined_layer(const struct run *run, struct worker *w, uint32_t step, uint32_t layer,
                                   uint64_t n_attention, uint64_t bounds_ns[2], struct mp_error *err) {
    const struct mp_topology *t = run->setup.topology;
    const struct mp_model *m = run->setup.model;
    const struct mp_traffic *x = w->traffic;
    struct sim_clocks *c = &w->clocks;
    const uint32_t n = x->n_gpus;
    struct sim_ends *ends = c->ends != NULL ? c->ends + (size_t)layer * n : NULL;
    uint64_t *moe = c->moe + (size_t)layer * n, unused;
    enum mp_status status = MP_OK;
    for (uint32_t g = 0; g < n; g++) {
        const uint64_t attention = sane(mp_layer_attention_ns(&run->setup, x, g)) * n_attention;
        c->parts[g].other_ns += attention;
        c->came[g] = c->at[g] += attention;
    }
    MP_TRY(sim_transfer(run, w, step, layer, false, c->at, &unused, &bounds_ns[0], err));
    for (uint32_t g = 0; g < n; g++) {
        const uint64_t shared_end = c->came[g] + sane(mp_shared_ns(t, g, m, x->source_rows[g])),
                       dispatch = c->at[g] - c->came[g], excess = shared_end > c->at[g] ? shared_end - c->at[g] : 0,
                       compute = sane(mp_compute_ns(t, g, m, x->active[g], x->padded_rows[g]));
        c->parts[g].dispatch_ns += dispatch;
        c->parts[g].other_ns += excess;
        c->parts[g].compute_ns += compute;
        moe[g] = dispatch + compute;
        if (ends != NULL)
            ends[g] = (struct sim_ends){c->came[g], c->at[g], c->at[g] + excess, c->at[g] + excess + compute, 0};
        c->came[g] = c->at[g] += excess + compute;
    }
    MP_TRY(sim_transfer(run, w, step, layer, true, c->at, &unused, &bounds_ns[1], err));
    for (uint32_t g = 0; g < n; g++) {
        c->parts[g].combine_ns += c->at[g] - c->came[g];
        moe[g] += c->at[g] - c->came[g];
        if (ends != NULL)
            ends[g].combine = c->at[g];
    }
    if (run->timeline != NULL)
        MP_TRY(sim_timeline_clocks(run, w, layer, n_attention, err));
out:
    return status;
}

uint32_t sim_pipelined_last(const struct worker *w, uint32_t n_gpus) {
    uint32_t last = 0;
    for (uint32_t g = 1; g < n_gpus; g++)
        last = w->clocks.at[g] > w->clocks.at[last] ? g : last;
    return last;
}

void sim_pipelined_end(struct worker *w, uint32_t n_gpus, uint32_t n_layers, struct mp_step_times *sum) {
    const struct sim_clocks *c = &w->clocks;
    const uint32_t last = sim_pipelined_last(w, n_gpus);
    sum->dispatch_ns += c->parts[last].dispatch_ns;
    sum->compute_ns += c->parts[last].compute_ns;
    sum->combine_ns += c->parts[last].combine_ns;
    sum->other_ns += c->parts[last].other_ns;
    for (uint32_t l = 0; l < n_layers; l++)
        w->layer_ns[l] += c->moe[(size_t)l * n_gpus + last];
}
