/* Experts to GPUs, the node of each being known.
 *
 * Decides   expert -> GPU of its node, every layer by itself.
 * Minimises rows of the busiest GPU of all, summed over the steps looked at.
 * Method    most rows first, to the GPU of the node that has fewest and a free slot; then exchanges of two experts of a
 *           node, and moves to free slots, first improvement.
 * Bound     none.
 * Differs   from place lpt: GPUs of one node only, and steps one by one.
 * Cost      exchanges tried * steps. */
#include "homes_parts.h"
#include <stdlib.h>
#include <string.h>

#define STEPS_MAX 128u
#define PASSES 30u

struct gpus {
    const struct mp_home_data *d;
    uint32_t n_steps, n_gpus, n_experts;
    uint32_t *rows;     /* [n_experts][n_steps] */
    uint32_t *on;       /* [n_gpus][n_steps] */
    uint32_t (*top)[3]; /* [n_steps] GPUs with most rows */
    uint32_t *gpu;      /* [n_experts] */
    uint32_t *n_free;   /* [n_gpus] */
};

static void find_top(struct gpus *x, uint32_t s) {
    uint32_t *top = x->top[s];
    top[0] = top[1] = top[2] = MP_NONE;
    for (uint32_t g = 0; g < x->n_gpus; g++) {
        uint32_t at = 3;
        while (at > 0 && (top[at - 1] == MP_NONE ||
                          x->on[(size_t)g * x->n_steps + s] > x->on[(size_t)top[at - 1] * x->n_steps + s]))
            at--;
        for (uint32_t i = 2; at < 3 && i > at; i--)
            top[i] = top[i - 1];
        if (at < 3)
            top[at] = g;
    }
}

/* Change of the sum of maxima if GPU g gives expert a to h and gets b (MP_NONE: nothing) for it. */
static int64_t change(const struct gpus *x, uint32_t a, uint32_t b, uint32_t g, uint32_t h) {
    int64_t sum = 0;
    for (uint32_t s = 0; s < x->n_steps; s++) {
        const uint32_t *top = x->top[s];
        const int64_t moved = (int64_t)x->rows[(size_t)a * x->n_steps + s] -
                              (b != MP_NONE ? (int64_t)x->rows[(size_t)b * x->n_steps + s] : 0);
        const int64_t on_g = (int64_t)x->on[(size_t)g * x->n_steps + s] - moved,
                      on_h = (int64_t)x->on[(size_t)h * x->n_steps + s] + moved;
        int64_t most = on_g > on_h ? on_g : on_h;
        for (uint32_t i = 0; i < 3 && top[i] != MP_NONE; i++)
            if (top[i] != g && top[i] != h) {
                const int64_t other = x->on[(size_t)top[i] * x->n_steps + s];
                most = other > most ? other : most;
                break;
            }
        sum += most - x->on[(size_t)top[0] * x->n_steps + s];
    }
    return sum;
}

static void put(struct gpus *x, uint32_t e, uint32_t gpu) {
    x->gpu[e] = gpu;
    x->n_free[gpu]--;
    for (uint32_t s = 0; s < x->n_steps; s++)
        x->on[(size_t)gpu * x->n_steps + s] += x->rows[(size_t)e * x->n_steps + s];
}
static void lift(struct gpus *x, uint32_t e) {
    x->n_free[x->gpu[e]]++;
    for (uint32_t s = 0; s < x->n_steps; s++)
        x->on[(size_t)x->gpu[e] * x->n_steps + s] -= x->rows[(size_t)e * x->n_steps + s];
}

struct heavy {
    uint64_t load;
    uint32_t expert;
};
static int by_falling_load(const void *a, const void *b) {
    const struct heavy *x = a, *y = b;
    if (x->load != y->load)
        return x->load < y->load ? 1 : -1;
    return (x->expert > y->expert) - (x->expert < y->expert);
}

static enum mp_status deal(struct gpus *x, const uint16_t *node, const uint64_t *load, struct mp_arena *arena,
                           struct mp_error *err) {
    struct heavy *heavy = mp_arena_alloc(arena, x->n_experts, sizeof *heavy);
    uint64_t *sum = mp_arena_alloc(arena, x->n_gpus, sizeof *sum);
    if (heavy == NULL || sum == NULL)
        return mp_nomem(err, "homes of requests");
    for (uint32_t e = 0; e < x->n_experts; e++)
        heavy[e] = (struct heavy){load[e], e};
    qsort(heavy, x->n_experts, sizeof *heavy, by_falling_load);
    for (uint32_t i = 0; i < x->n_experts; i++) {
        uint32_t best = MP_NONE;
        for (uint32_t g = 0; g < x->n_gpus; g++)
            if (x->d->like->gpu_node[g] == node[heavy[i].expert] && x->n_free[g] > 0 &&
                (best == MP_NONE || sum[g] < sum[best]))
                best = g;
        if (best == MP_NONE)
            return mp_fail(err, MP_EBUG, "homes: node %u has more experts than slots", node[heavy[i].expert]);
        put(x, heavy[i].expert, best);
        sum[best] += heavy[i].load;
    }
    return MP_OK;
}

static bool improve(struct gpus *x, uint32_t a) {
    const uint32_t *node = x->d->like->gpu_node;
    const uint32_t g = x->gpu[a];
    for (uint32_t h = 0; h < x->n_gpus; h++)
        if (h != g && node[h] == node[g] && x->n_free[h] > 0 && change(x, a, MP_NONE, g, h) < 0) {
            lift(x, a);
            put(x, a, h);
            return true;
        }
    for (uint32_t b = 0; b < x->n_experts; b++) {
        const uint32_t h = x->gpu[b];
        if (h == g || node[h] != node[g] || change(x, a, b, g, h) >= 0)
            continue;
        lift(x, a);
        lift(x, b);
        put(x, a, h);
        put(x, b, g);
        return true;
    }
    return false;
}

struct gpus_ctx {
    const struct mp_home_data *d;
    const struct mp_workload *steps;
    const uint16_t *node;
    uint32_t *gpu;
};

static enum mp_status place_layer(void *ctx, size_t l, unsigned worker, struct mp_error *err) {
    const struct gpus_ctx *c = ctx;
    const struct mp_home_data *d = c->d;
    struct gpus x = {.d = d, .n_gpus = d->n_gpus, .n_experts = d->n_experts, .gpu = c->gpu + l * d->n_experts};
    (void)worker;
    x.n_steps = c->steps->n_steps < STEPS_MAX ? c->steps->n_steps : STEPS_MAX;
    struct mp_arena *arena = mp_arena_new();
    if (arena == NULL)
        return mp_nomem(err, "homes of requests");
    enum mp_status status;
    uint32_t *tokens = mp_arena_alloc(arena, (size_t)d->n_gpus * d->n_experts, sizeof *tokens);
    x.rows = mp_arena_alloc(arena, (size_t)d->n_experts * x.n_steps, sizeof *x.rows);
    x.on = mp_arena_alloc(arena, (size_t)d->n_gpus * x.n_steps, sizeof *x.on);
    x.top = mp_arena_alloc(arena, x.n_steps, sizeof *x.top);
    x.n_free = mp_arena_alloc(arena, d->n_gpus, sizeof *x.n_free);
    if (tokens == NULL || x.rows == NULL || x.on == NULL || x.top == NULL || x.n_free == NULL) {
        status = mp_nomem(err, "homes of requests");
        goto out;
    }
    for (uint32_t g = 0; g < d->n_gpus; g++)
        x.n_free[g] = d->like->gpu_first_slot[g + 1] - d->like->gpu_first_slot[g];
    for (uint32_t s = 0; s < x.n_steps; s++) {
        mp_workload_tokens(c->steps, (uint32_t)mp_mul_div(s, c->steps->n_steps, x.n_steps), (uint32_t)l, tokens);
        for (uint32_t r = 0; r < d->n_gpus; r++)
            for (uint32_t e = 0; e < d->n_experts; e++)
                x.rows[(size_t)e * x.n_steps + s] += tokens[(size_t)r * d->n_experts + e];
    }
    MP_TRY(deal(&x, c->node + l * d->n_experts, d->load + l * d->n_experts, arena, err));
    for (uint32_t s = 0; s < x.n_steps; s++)
        find_top(&x, s);
    for (uint32_t pass = 0, changed = 1; pass < PASSES && changed; pass++) {
        changed = 0;
        for (uint32_t e = 0; e < x.n_experts; e++) {
            if (!improve(&x, e))
                continue;
            changed = 1;
            for (uint32_t s = 0; s < x.n_steps; s++)
                find_top(&x, s);
        }
    }
out:
    mp_arena_free(arena);
    return status;
}

enum mp_status mp_home_gpus(uint32_t *gpu, const struct mp_home_data *d, const uint16_t *node,
                            const struct mp_workload *steps, struct mp_error *err) {
    struct gpus_ctx c = {d, steps, node, gpu};
    return mp_parallel_for(d->n_threads, d->n_layers, place_layer, &c, err);
}
