#include "trial.h"

const char *const trial_dispatchers[] = {"a2av", "deepep-ll", "deepep-normal", "hierarchical", "agrs"};

void trial_make(struct trial *t, uint64_t seed, bool is_counts) {
    struct mp_rng r = mp_rng_seed(seed);
    memset(t, 0, sizeof *t);
    world_make(&t->w, &r,
               (struct world_shape){.max_nodes = 3, .max_per_node = 3, .n_steps = 2, .is_counts = is_counts});
    struct mp_plan *p = t->w.plan;
    t->w.model.dispatch_bytes = 1 + mp_rng_below(&r, 200);
    t->w.model.combine_bytes = 1 + mp_rng_below(&r, 200);
    t->w.net.t.name = "random";
    p->provenance.strategy = "test";
    p->stage_mode = (enum mp_stage_mode)mp_rng_below(&r, 3);
    p->fallback_ppm = mp_rng_below(&r, 3) == 0 ? 1000000 : 0;
    if (mp_rng_below(&r, 3) == 0) {
        world_rotation(&t->w);
    } else if (mp_rng_below(&r, 3) > 0) {
        const uint32_t n_nodes = t->w.net.levels[0].n_groups, n = p->n_gpus;
        const bool is_between = n_nodes > 1 && mp_rng_below(&r, 2) == 0;
        if (is_between || n <= 8) {
            case_order(&t->order, &r, is_between ? n_nodes : n, 1 + (uint32_t)mp_rng_below(&r, 2) * !is_between, 0,
                       !is_between && mp_rng_below(&r, 2));
            t->order.o.between_nodes = is_between;
            p->orders = &t->order.o;
            p->n_orders = 1;
            for (uint32_t l = 0; l < p->n_layers; l++) {
                p->layers[l].order = mp_rng_below(&r, 4) == 0 ? MP_NONE : 0;
                p->layers[l].combine = p->layers[l].order == MP_NONE ? MP_COMBINE_FORWARD
                                                                     : (enum mp_combine)mp_rng_below(&r, MP_N_COMBINES);
            }
        }
    }
    t->in = (struct mp_exec){.plan = p,
                             .workload = t->w.workload,
                             .topology = &t->w.net.t,
                             .model = &t->w.model,
                             .dispatcher = mp_dispatcher_find(trial_dispatchers[is_counts ? 0 : seed % 5]),
                             .sources = !is_counts && mp_rng_below(&r, 4) == 0 ? MP_SOURCES_COUPLED : MP_SOURCES_DP,
                             .stage_mode = -1,
                             .transport = "loop",
                             .n_warmup = (uint32_t)mp_rng_below(&r, 2),
                             .n_iterations = 1 + (uint32_t)mp_rng_below(&r, 2),
                             .seed = seed,
                             .n_threads = 1,
                             .deadline_ms = 30000,
                             .n_ranks = p->n_gpus,
                             .n_local = p->n_gpus,
                             .launcher_fd = -1};
}

bool trial_victim(const struct trial *t, uint32_t *rank, uint32_t *stage, uint64_t *n_sends) {
    struct mp_error err = {0};
    struct mp_net *net;
    struct ex_layer *l;
    struct mp_cost_setup setup = t->w.setup;
    bool is_found = false;
    setup.dispatcher = t->in.dispatcher;
    setup.sources = t->in.sources;
    CHECK_OK(mp_net_new(&net, &t->w.net.t, &err), err);
    CHECK_OK(ex_layer_new(&l, &setup, net, -1, &(struct ex_limits){0}, 0, 0, &err), err);
    const struct ex_script *s = l->scripts[EX_DISPATCH];
    for (size_t m = 0; m < s->n_messages && !is_found; m++) {
        *rank = s->messages[m].src;
        *stage = s->messages[m].stage;
        *n_sends = 0;
        /* A swap exchanges the first two: a few bytes may be the same, and the same tokens may go to two GPUs. */
        uint64_t first[2] = {0}, n_first = 0;
        for (size_t i = s->send_first[*rank]; i < s->send_first[*rank + 1]; i++)
            if (s->sends[i].stage >= *stage) {
                if (n_first < 2)
                    first[n_first++] = s->sends[i].bytes;
                *n_sends += s->sends[i].bytes >= 16;
            }
        is_found =
            *n_sends >= 2 && first[0] >= 16 && first[1] >= 16 && first[0] != first[1] && s->messages[m].bytes >= 16;
    }
    ex_layer_free(l);
    mp_net_free(net);
    return is_found;
}
