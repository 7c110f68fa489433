/* The placement of given copies as a mixed-integer program.
 *
 * Decides   x[copy][gpu] in {0, 1}.
 * Minimises sum over steps of experts + dispatch + combine, each at least what every GPU or port needs: slowest GPU by
 *           docs/COST.md part 3, fullest port by docs/BOUNDS.md part 1 (launches included, latency not); or the rows of
 *           the fullest GPU.
 * Method    one equation per copy, slots of each GPU, replicas of an expert on rising GPUs, one row per (step, GPU,
 *           limit) and (step, port). Times in picoseconds, rounded up per term.
 * Bound     per step docs/BOUNDS.md part 2 as the least value of its variables.
 * Differs   a GPU without rows in a step still counts its fixed time a (the simulator: 0), which matters only
 *           where types differ in it; the simulator's network takes up to a few percent more than the ports need.
 * Cost      copies * GPUs binaries per layer. */
#include "place_model.h"
#include <moeplan/base.h>
#include <moeplan/cost.h>
#include <stdio.h>

#define TERMS_MAX (UINT64_C(1) << 22)
#define PS_MAX (UINT64_C(1) << 52)

struct maker {
    const struct mp_problem *in;
    const struct mp_plan *shape;
    const uint16_t *copies; /* of the layer at hand */
    uint32_t n_copies, n_gpus, layer, k;
    struct mp_copy_rows ask;
    struct mp_mip *m;
    struct mp_mip_term *terms; /* scratch */
    uint32_t n;                /* terms so far */
    struct mp_path *path;      /* [n_gpus][n_gpus] */
};

static uint32_t n_times(const struct mp_problem *in) { return in->objective == MP_OBJECTIVE_PEAK ? 1 : 3; }
static uint32_t n_of_layer(const struct mp_problem *in, uint32_t n_copies) {
    return n_copies * in->topology->n_gpus + n_times(in) * in->workload->n_steps;
}

uint32_t mp_place_model_at(const struct mp_problem *in, uint32_t n_copies, uint32_t k, uint32_t c, uint32_t g) {
    return k * n_of_layer(in, n_copies) + c * in->topology->n_gpus + g;
}
static uint32_t time_at(const struct maker *b, uint32_t step, uint32_t which) {
    return mp_place_model_at(b->in, b->n_copies, b->k, b->n_copies, 0) + n_times(b->in) * step + which;
}

void mp_place_model_put(const struct mp_problem *in, uint32_t n_copies, uint32_t k, const uint16_t *gpu,
                        int64_t *values) {
    for (uint32_t c = 0; c < n_copies; c++)
        for (uint32_t g = 0; g < in->topology->n_gpus; g++)
            values[mp_place_model_at(in, n_copies, k, c, g)] = gpu[c] == g;
}

static uint64_t clip(uint64_t ps) { return ps < PS_MAX ? ps : PS_MAX; }

static void term(struct maker *b, uint32_t variable, int64_t factor) {
    if (factor != 0)
        b->terms[b->n++] = (struct mp_mip_term){variable, factor};
}

/* The terms so far as a row; they are used up. */
static enum mp_status row(struct maker *b, const char *kind, uint32_t a, uint32_t c, int64_t lower, int64_t upper,
                          struct mp_error *err) {
    char name[MP_MIP_NAME_MAX + 1];
    snprintf(name, sizeof name, "%s_%u_%u_%u", kind, b->shape->layers[b->layer].layer_id, a, c);
    const struct mp_mip_row r = {.name = name, .lower = lower, .upper = upper, .n = b->n, .terms = b->terms};
    b->n = 0;
    return mp_mip_add_row(b->m, &r, err);
}

static enum mp_status add_variables(struct maker *b, const struct mp_cost_setup *setup, struct mp_error *err) {
    static const char *const times[] = {"dispatch", "experts", "combine"};
    char name[MP_MIP_NAME_MAX + 1];
    uint32_t id = b->shape->layers[b->layer].layer_id;
    enum mp_status status = MP_OK;
    for (uint32_t c = 0; c < b->n_copies; c++) {
        uint32_t replica = 0;
        for (uint32_t i = 0; i < c; i++)
            replica += b->copies[i] == b->copies[c];
        for (uint32_t g = 0; g < b->n_gpus; g++) {
            snprintf(name, sizeof name, "x_%u_%u_%u_%u", id, b->copies[c], replica, g);
            const struct mp_mip_variable v = {.name = name, .lower = 0, .upper = 1, .is_integer = true};
            MP_TRY(mp_mip_add_variable(b->m, &v, NULL, err));
        }
    }
    const uint64_t launch_ns = setup->dispatcher->n_launches * clip(b->in->topology->launch_ns);
    for (uint32_t s = 0; s < b->ask.n_steps; s++) {
        struct mp_layer_bound floor;
        uint64_t least[3], sum = 0;
        MP_TRY(mp_layer_lower_bound(&floor, setup, s, b->layer, err));
        least[0] = floor.dispatch_ns > launch_ns ? floor.dispatch_ns : launch_ns;
        least[0] = least[0] > b->ask.shared_ns[s] ? least[0] : b->ask.shared_ns[s];
        least[1] = floor.compute_ns;
        least[2] = floor.combine_ns > launch_ns ? floor.combine_ns : launch_ns;
        for (uint32_t c = 0; c < b->n_copies; c++)
            sum += b->ask.rows[(size_t)s * b->n_copies + c];
        if (b->n_gpus < 2) {
            least[0] = b->ask.shared_ns[s];
            least[2] = 0;
        }
        for (uint32_t i = 0; i < n_times(b->in); i++) {
            bool is_peak = b->in->objective == MP_OBJECTIVE_PEAK;
            snprintf(name, sizeof name, "%s_%u_%u", is_peak ? "rows" : times[i], id, s);
            const struct mp_mip_variable v = {.name = name,
                                              .lower = (int64_t)clip(is_peak ? mp_ceil_div(sum, b->n_gpus) : least[i]),
                                              .upper = MP_MIP_FREE,
                                              .cost = 1};
            MP_TRY(mp_mip_add_variable(b->m, &v, NULL, err));
        }
    }
out:
    return status;
}

static enum mp_status add_placement(struct maker *b, struct mp_error *err) {
    enum mp_status status = MP_OK;
    for (uint32_t c = 0; c < b->n_copies; c++) {
        for (uint32_t g = 0; g < b->n_gpus; g++)
            term(b, mp_place_model_at(b->in, b->n_copies, b->k, c, g), 1);
        MP_TRY(row(b, "somewhere", b->copies[c], c, 1, 1, err));
        uint32_t next = c + 1;
        while (next < b->n_copies && b->copies[next] != b->copies[c])
            next++;
        if (next == b->n_copies)
            continue;
        for (uint32_t g = 1; g < b->n_gpus; g++) {
            term(b, mp_place_model_at(b->in, b->n_copies, b->k, next, g), g);
            term(b, mp_place_model_at(b->in, b->n_copies, b->k, c, g), -(int64_t)g);
        }
        MP_TRY(row(b, "rising", c, next, 1, MP_MIP_FREE, err));
    }
    for (uint32_t g = 0; g < b->n_gpus; g++) {
        for (uint32_t c = 0; c < b->n_copies; c++)
            term(b, mp_place_model_at(b->in, b->n_copies, b->k, c, g), 1);
        MP_TRY(row(b, "slots", g, 0, 0, b->shape->gpu_first_slot[g + 1] - b->shape->gpu_first_slot[g], err));
    }
out:
    return status;
}

/* 1000 * time >= fixed + sum of per-copy picoseconds; `which`: 0 reads, 1 rows. */
static enum mp_status add_compute(struct maker *b, uint32_t s, uint32_t g, struct mp_error *err) {
    const struct mp_topology *t = b->in->topology;
    const struct mp_compute_coefficients k = mp_compute_coefficients(t, g, b->in->model);
    uint64_t speed = t->gpus[g].speed_ppm > 0 ? t->gpus[g].speed_ppm : 1, tile = t->types[t->gpus[g].type].tile_tokens;
    enum mp_status status = MP_OK;
    tile = tile == 0 ? 1 : tile;
    for (int which = 0; which < 2; which++) {
        uint64_t fixed = clip(mp_mul_div_ceil(which == 0 ? k.a_ps : k.c_ps, 1000000, speed));
        for (uint32_t c = 0; c < b->n_copies; c++) {
            uint64_t rows = b->ask.rows[(size_t)s * b->n_copies + c], each = which == 0 ? k.b_ps : k.beta_ps;
            uint64_t n = which == 0 ? rows > 0 : mp_ceil_div(rows, tile) * tile, ps;
            if (mp_mul_overflow(each, n, &ps))
                ps = PS_MAX;
            term(b, mp_place_model_at(b->in, b->n_copies, b->k, c, g),
                 -(int64_t)clip(mp_mul_div_ceil(ps, 1000000, speed)));
        }
        if (b->n == 0)
            continue;
        term(b, time_at(b, s, 1), 1000);
        MP_TRY(row(b, which == 0 ? "reads" : "flops", s, g, (int64_t)fixed, MP_MIP_FREE, err));
    }
out:
    return status;
}

static uint64_t bytes_of(const struct maker *b, uint32_t s, uint32_t c, uint32_t source, bool is_combine) {
    uint64_t rows = b->ask.from[((size_t)s * b->n_copies + c) * b->ask.n_ranks + source], bytes;
    if (mp_mul_overflow(rows, is_combine ? b->in->model->combine_bytes : b->in->model->dispatch_bytes, &bytes))
        return PS_MAX;
    return clip(bytes);
}

/* What passes resource r in step s: the dispatch goes source -> GPU, the combine back. */
static enum mp_status add_port(struct maker *b, uint32_t s, uint32_t r, bool is_combine, uint64_t launch_ns,
                               struct mp_error *err) {
    uint64_t rate = b->in->topology->resources[r].bytes_per_s;
    for (uint32_t c = 0; c < b->n_copies; c++)
        for (uint32_t g = 0; g < b->n_gpus; g++) {
            uint64_t ps = 0;
            for (uint32_t i = 0; i < b->ask.n_ranks; i++) {
                const struct mp_path *p =
                    is_combine ? &b->path[(size_t)g * b->n_gpus + i] : &b->path[(size_t)i * b->n_gpus + g];
                for (uint32_t k = 0; k < p->n; k++)
                    if (p->resource[k] == r)
                        ps += clip(mp_mul_div_ceil(bytes_of(b, s, c, i, is_combine), UINT64_C(1000000000000), rate));
            }
            term(b, mp_place_model_at(b->in, b->n_copies, b->k, c, g), -(int64_t)clip(ps));
        }
    if (b->n == 0)
        return MP_OK;
    term(b, time_at(b, s, is_combine ? 2 : 0), 1000);
    return row(b, is_combine ? "back" : "out", s, r, (int64_t)clip(launch_ns * 1000), MP_MIP_FREE, err);
}

static enum mp_status add_step(struct maker *b, uint32_t s, const struct mp_dispatcher *d, struct mp_error *err) {
    enum mp_status status = MP_OK;
    if (b->in->objective == MP_OBJECTIVE_PEAK) {
        for (uint32_t g = 0; g < b->n_gpus; g++) {
            for (uint32_t c = 0; c < b->n_copies; c++)
                term(b, mp_place_model_at(b->in, b->n_copies, b->k, c, g),
                     -(int64_t)clip(b->ask.rows[(size_t)s * b->n_copies + c]));
            term(b, time_at(b, s, 0), 1);
            MP_TRY(row(b, "load", s, g, 0, MP_MIP_FREE, err));
        }
        return status;
    }
    for (uint32_t g = 0; g < b->n_gpus; g++)
        MP_TRY(add_compute(b, s, g, err));
    for (uint32_t r = 0; r < b->in->topology->n_resources && b->n_gpus > 1 && d->copies == MP_COPY_PER_EXPERT; r++)
        for (int is_combine = 0; is_combine < 2; is_combine++)
            MP_TRY(add_port(b, s, r, is_combine, d->n_launches * clip(b->in->topology->launch_ns), err));
out:
    return status;
}

static const char *declines(const struct mp_problem *in, uint32_t n_copies, uint32_t n_layers) {
    uint64_t per_step = (uint64_t)n_copies * in->topology->n_gpus *
                        (in->objective == MP_OBJECTIVE_PEAK ? 1 : 2 + 2 * (uint64_t)(in->topology->n_levels + 1));
    enum mp_copy_count kind = in->sim.dispatcher->copies;
    if (kind != MP_COPY_PER_EXPERT && kind != MP_COPY_ALL && in->objective != MP_OBJECTIVE_PEAK)
        return "copies that go once per GPU or node are no sum over experts (use --dispatcher a2av or deepep-ll)";
    if (in->sim.sources == MP_SOURCES_COUPLED)
        return "coupled sources move with the placement (use --sources dp)";
    if (in->objective != MP_OBJECTIVE_STEP && in->objective != MP_OBJECTIVE_PEAK)
        return "only the objectives step and peak are sums over steps (write --objective step)";
    if (per_step > TERMS_MAX || per_step * in->workload->n_steps > TERMS_MAX ||
        per_step * in->workload->n_steps * n_layers > TERMS_MAX)
        return "the program would have more than 2^22 terms (use --steps)";
    return NULL;
}

enum mp_status mp_place_model_new(struct mp_mip **out, const struct mp_problem *in, const struct mp_plan *shape,
                                  const uint16_t *copies, uint32_t n_copies, uint32_t first_layer, uint32_t n_layers,
                                  enum mp_outcome *outcome, struct mp_error *err) {
    const struct mp_cost_setup setup = {.plan = shape,
                                        .workload = in->workload,
                                        .topology = in->topology,
                                        .model = in->model,
                                        .dispatcher = in->sim.dispatcher,
                                        .sources = in->sim.sources};
    struct maker b = {.in = in, .shape = shape, .n_copies = n_copies, .n_gpus = in->topology->n_gpus};
    struct mp_arena *arena = mp_arena_new(), *of_layer = mp_arena_new();
    size_t n = b.n_gpus;
    enum mp_status status = MP_OK;
    const char *why = declines(in, n_copies, n_layers);
    *out = NULL;
    *outcome = MP_FOUND;
    if (why != NULL) {
        status = mp_decline(err, outcome, MP_NOT_APPLICABLE, "exact: %s", why);
        goto out;
    }
    if (arena == NULL || of_layer == NULL) {
        status = mp_nomem(err, "a mixed-integer program");
        goto out;
    }
    b.path = mp_arena_alloc(arena, n * n, sizeof *b.path);
    b.terms = mp_arena_alloc(arena, (size_t)n_copies * n * 2 + 2, sizeof *b.terms);
    if (b.path == NULL || b.terms == NULL) {
        status = mp_nomem(err, "a mixed-integer program");
        goto out;
    }
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++)
            mp_topology_path(in->topology, i, j, &b.path[i * n + j]);
    MP_TRY(mp_mip_new(&b.m, err));
    for (b.k = 0; b.k < n_layers; b.k++) {
        b.layer = first_layer + b.k;
        b.copies = copies + (size_t)b.layer * shape->n_slots;
        MP_TRY(mp_copy_rows_count(&b.ask, in, b.layer, b.copies, n_copies, of_layer, err));
        MP_TRY(add_variables(&b, &setup, err));
        MP_TRY(add_placement(&b, err));
        for (uint32_t s = 0; s < b.ask.n_steps; s++)
            MP_TRY(add_step(&b, s, in->sim.dispatcher, err));
        mp_arena_reset(of_layer);
    }
    *out = b.m;
    b.m = NULL;
out:
    mp_mip_free(b.m);
    mp_arena_free(arena);
    mp_arena_free(of_layer);
    return status;
}
