/* Strategies that place experts by which tokens use them together: grace, metis, occult, exflow. */
#include "support.h"

#include "affinity.h"
#include "place_grace.h"
#include "tiny.h"

#define E_MAX 64u
#define L_MAX 4u
#define GROUPS_MAX 16u

static const char *const groupers[] = {"grace", "metis", "occult"};
#define N_GROUPERS (sizeof groupers / sizeof groupers[0])

static bool has_metis(void) { return MP_HAS_METIS; }

/* A recording in which each token's experts are of one hidden group, but for `noise` of 64 of them, which are of any,
 * and `kin` of 64, which are of the group beside (0 and 1, 2 and 3, ...). */
struct planted {
    uint32_t n_layers, n_experts, top_k, n_groups, sizes[GROUPS_MAX], noise, kin, n_tokens;
    const char *topology;
    uint64_t seed;
    bool follows; /* the group of a token is the same in all layers */
};
struct hidden {
    uint32_t of[L_MAX][E_MAX];
};

static uint32_t any_of(struct mp_rng *rng, const struct planted *s, const uint32_t *of, uint32_t group) {
    uint32_t e;
    do {
        e = (uint32_t)mp_rng_below(rng, s->n_experts);
    } while (group != MP_NONE && of[e] != group);
    return e;
}

static void plant_row(struct mp_rng *rng, const struct planted *s, const struct hidden *h, uint16_t *ids) {
    uint32_t start = h->of[0][mp_rng_below(rng, s->n_experts)];
    for (uint32_t l = 0; l < s->n_layers; l++) {
        uint32_t group = s->follows ? start : h->of[l][mp_rng_below(rng, s->n_experts)];
        for (uint32_t k = 0; k < s->top_k;) {
            const uint64_t dice = mp_rng_below(rng, 64);
            const uint32_t from = dice < s->noise ? MP_NONE : dice < s->noise + s->kin ? group ^ 1 : group;
            const uint16_t e = (uint16_t)any_of(rng, s, h->of[l], from);
            bool is_new = true;
            for (uint32_t j = 0; j < k; j++)
                is_new &= ids[l * s->top_k + j] != e;
            if (is_new)
                ids[l * s->top_k + k++] = e;
        }
    }
}

/* The caller ends with tiny_free. */
static void plant(struct tiny *t, struct hidden *h, const struct planted *s) {
    struct mp_error err = {0};
    struct mp_trace_builder *b = NULL;
    struct mp_rng rng = mp_rng_seed(s->seed);
    const struct mp_split split = {.kind = MP_SPLIT_NONE};
    const struct tiny_spec spec = {.n_layers = s->n_layers,
                                   .n_experts = s->n_experts,
                                   .top_k = s->top_k,
                                   .n_requests = 20,
                                   .n_rows = 1,
                                   .topology = s->topology,
                                   .phase = MP_PHASE_PREFILL,
                                   .batch = 32};
    const struct mp_trace_meta meta = {.kind = MP_TRACE_TOKENS,
                                       .phase = MP_PHASE_PREFILL,
                                       .model = "planted",
                                       .format = "test",
                                       .is_synthetic = true,
                                       .n_layers = s->n_layers,
                                       .n_experts = s->n_experts,
                                       .top_k = s->top_k};
    CHECK_OK(tiny_make(t, &spec, &err), err);
    mp_part_free(&t->part);
    mp_part_free(&t->unused);
    mp_trace_free(t->trace);
    for (uint32_t l = 0; l < s->n_layers; l++) {
        uint32_t at = 0;
        for (uint32_t g = 0; g < s->n_groups; g++)
            for (uint32_t i = 0; i < s->sizes[g]; i++)
                h->of[l][at++] = g;
        assert_int_equal(at, s->n_experts);
        mp_rng_shuffle(&rng, h->of[l], at);
    }
    CHECK_OK(mp_trace_builder_new(&b, &meta, &mp_limits_default, &err), err);
    for (uint32_t i = 0; i < s->n_tokens; i++) {
        uint16_t ids[64];
        const struct mp_request request = {.id = i / 16, .source = MP_NONE, .category = MP_NONE};
        if (i % 16 == 0)
            CHECK_OK(mp_trace_builder_request(b, &request, &err), err);
        plant_row(&rng, s, h, ids);
        CHECK_OK(mp_trace_builder_row(b, ids, NULL, &err), err);
    }
    CHECK_OK(
        mp_trace_builder_finish(b, "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", &t->trace, &err),
        err);
    CHECK_OK(mp_part_split(&t->part, &t->unused, t->trace, &split, &err), err);
}

/* A plan by this place strategy; every expert has a slot, and the verifier has said so. */
static struct mp_plan *plan_of(struct tiny *t, const char *place, const struct mp_setting *setting) {
    struct mp_error err = {0};
    struct mp_plan *p = NULL;
    enum mp_outcome outcome;
    t->request.strategy = "contiguous";
    t->request.place = place;
    t->request.settings = setting;
    t->request.n_settings = setting != NULL;
    CHECK_OK(mp_plan_make(&p, &t->request, &outcome, NULL, &err), err);
    if (p == NULL)
        fail_msg("%s: %s", place, err.message);
    return p;
}

static uint32_t size_of(const struct mp_plan *p, uint32_t layer, uint32_t gpu) {
    uint32_t n = 0;
    for (uint32_t s = p->gpu_first_slot[gpu]; s < p->gpu_first_slot[gpu + 1]; s++)
        n += p->layers[layer].slot_expert[s] != MP_NO_EXPERT;
    return n;
}

static void gpus_of(const struct mp_plan *p, uint32_t layer, uint32_t *gpu) {
    for (uint32_t s = p->n_slots; s-- > 0;)
        if (p->layers[layer].slot_expert[s] != MP_NO_EXPERT)
            gpu[p->layers[layer].slot_expert[s]] = mp_plan_slot_gpu(p, s);
}

/* Is each hidden group on one GPU, and nothing else there? */
static bool is_recovered(const struct mp_plan *p, const struct hidden *h, bool by_node) {
    for (uint32_t l = 0; l < p->n_layers; l++) {
        uint32_t gpu[E_MAX];
        gpus_of(p, l, gpu);
        for (uint32_t e = 0; e < p->n_experts; e++)
            for (uint32_t f = 0; f < e; f++) {
                const bool is_one = by_node ? p->gpu_node[gpu[e]] == p->gpu_node[gpu[f]] : gpu[e] == gpu[f];
                const bool is_kin = by_node ? h->of[l][e] / 2 == h->of[l][f] / 2 : h->of[l][e] == h->of[l][f];
                if (is_one != is_kin)
                    return false;
            }
    }
    return true;
}

static void test_grouping__planted_groups_are_found(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 6; seed++) {
        const struct planted s = {.n_layers = 2,
                                  .n_experts = 32,
                                  .top_k = 4,
                                  .n_groups = 4,
                                  .sizes = {8, 8, 8, 8},
                                  .noise = 12,
                                  .n_tokens = 1600,
                                  .topology = "4:h100",
                                  .seed = seed};
        struct tiny t;
        struct hidden h;
        plant(&t, &h, &s);
        for (size_t i = 0; i < N_GROUPERS; i++) {
            if (i == 1 && !has_metis())
                continue;
            struct mp_plan *p = plan_of(&t, groupers[i], NULL);
            if (!is_recovered(p, &h, false))
                fail_msg("%s, seed %d", groupers[i], (int)seed);
            mp_plan_free(p);
        }
        struct mp_plan *p = plan_of(&t, "lpt", NULL); /* a test that lpt passes would show nothing */
        assert_false(is_recovered(p, &h, false));
        mp_plan_free(p);
        tiny_free(&t);
    }
}

static void test_grouping__nodes_hold_groups_that_are_kin(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 6; seed++) {
        const struct planted s = {.n_layers = 2,
                                  .n_experts = 32,
                                  .top_k = 4,
                                  .n_groups = 4,
                                  .sizes = {8, 8, 8, 8},
                                  .noise = 4,
                                  .kin = 16,
                                  .n_tokens = 3200,
                                  .topology = "2x2:h100",
                                  .seed = 50 + seed};
        struct tiny t;
        struct hidden h;
        plant(&t, &h, &s);
        for (size_t i = 0; i < 2; i++) { /* Occult knows no nodes */
            if (i == 1 && !has_metis())
                continue;
            struct mp_plan *p = plan_of(&t, groupers[i], NULL);
            if (!is_recovered(p, &h, true) || !is_recovered(p, &h, false))
                fail_msg("%s, seed %d", groupers[i], (int)seed);
            mp_plan_free(p);
        }
        tiny_free(&t);
    }
}

/* Groups of 4, 2, 7 and 3: with room they come out as they are, with equal slots no GPU has more than its slots. */
static void test_grouping__sizes_follow_the_slots(void **state) {
    const struct planted s = {.n_layers = 2,
                              .n_experts = 16,
                              .top_k = 2,
                              .n_groups = 4,
                              .sizes = {4, 2, 7, 3},
                              .noise = 4,
                              .n_tokens = 3200,
                              .topology = "4:h100",
                              .seed = 3};
    struct tiny t;
    struct hidden h;
    (void)state;
    plant(&t, &h, &s);
    for (uint32_t slots = 0; slots <= 8; slots += slots == 0 ? 5 : 1) {
        t.request.slots_per_gpu = slots;
        for (int64_t ratio = -1; ratio <= 100; ratio += ratio < 0 ? 1 : 25) {
            const struct mp_setting setting = {"grace", "ratio", ratio};
            struct mp_plan *p = plan_of(&t, "grace", &setting);
            const uint32_t most = slots == 0 ? 4 : slots, away = ratio < 0 ? 2 : (uint32_t)ratio / 25;
            for (uint32_t l = 0; l < 2; l++)
                for (uint32_t g = 0; g < 4; g++) {
                    const uint32_t n = size_of(p, l, g);
                    assert_true(n <= most && n <= 4 + away && n >= (away >= 4 ? 1 : 4 - away));
                }
            if (slots >= 7 && ratio >= 75)
                assert_true(is_recovered(p, &h, false));
            mp_plan_free(p);
        }
    }
    for (size_t i = 1; i < N_GROUPERS; i++) { /* the others: equal sizes */
        if (i == 1 && !has_metis())
            continue;
        struct mp_plan *p = plan_of(&t, groupers[i], NULL);
        for (uint32_t g = 0; g < 4; g++)
            assert_int_equal(size_of(p, 0, g), 4);
        mp_plan_free(p);
    }
    tiny_free(&t);
}

/* Two of the four groups are one expert larger and smaller: with half more room the knee is where they fit. */
static void test_grouping__the_knee_is_where_groups_fit(void **state) {
    const struct planted s = {.n_layers = 3,
                              .n_experts = 40,
                              .top_k = 4,
                              .n_groups = 4,
                              .sizes = {10, 8, 12, 10},
                              .noise = 4,
                              .n_tokens = 3200,
                              .topology = "4:h100",
                              .seed = 8};
    struct tiny t;
    struct hidden h;
    (void)state;
    plant(&t, &h, &s);
    t.request.slots_per_gpu = 15;
    struct mp_plan *p = plan_of(&t, "grace", NULL);
    const struct mp_setting none = {"grace", "ratio", 0};
    struct mp_plan *q = plan_of(&t, "grace", &none);
    assert_true(is_recovered(p, &h, false));
    assert_false(is_recovered(q, &h, false));
    mp_plan_free(p);
    mp_plan_free(q);
    tiny_free(&t);
}

/* ---- against every balanced placement ---- */
struct brute {
    const uint64_t *a;
    uint32_t n, n_groups, size, used[GROUPS_MAX], group[E_MAX];
    uint64_t best;
};
static void every_grouping(struct brute *x, uint32_t item) {
    if (item == x->n) {
        const struct mp_groups g = {.n = x->n, .n_groups = x->n_groups, .a = x->a, .group = x->group};
        const uint64_t inside = mp_groups_inside(&g);
        x->best = inside > x->best ? inside : x->best;
        return;
    }
    for (uint32_t g = 0; g < x->n_groups; g++) {
        const bool is_empty = x->used[g] == 0;
        if (x->used[g] < x->size) {
            x->used[g]++;
            x->group[item] = g;
            every_grouping(x, item + 1);
            x->used[g]--;
        }
        if (is_empty)
            return; /* empty groups are alike */
    }
}

static void test_grouping__near_the_optimum_of_small_graphs(void **state) {
    static const struct {
        uint32_t n_experts, n_gpus;
        const char *topology;
    } kinds[] = {{8, 2, "2:h100"}, {9, 3, "3:h100"}, {12, 4, "4:h100"}, {10, 2, "2:h100"}};
    const double want_mean[N_GROUPERS] = {0.93, 0.97, 0.93}, want_least[N_GROUPERS] = {0.8, 0.85, 0.8};
    double sum[N_GROUPERS] = {0}, least[N_GROUPERS] = {1, 1, 1};
    uint32_t n = 0;
    (void)state;
    for (uint64_t seed = 0; seed < 40; seed++) {
        const uint32_t kind = seed % 4;
        const struct tiny_spec s = {.n_layers = 2,
                                    .n_experts = kinds[kind].n_experts,
                                    .top_k = 3,
                                    .n_requests = 30,
                                    .n_rows = 8,
                                    .topology = kinds[kind].topology,
                                    .phase = MP_PHASE_PREFILL,
                                    .batch = 16,
                                    .seed = seed};
        struct tiny t;
        struct mp_error err = {0};
        struct mp_workload *w;
        CHECK_OK(tiny_make(&t, &s, &err), err);
        CHECK_OK(mp_workload_build(&w, &t.part, &t.request.batching, &err), err);
        for (size_t i = 0; i < N_GROUPERS; i++) {
            if (i == 1 && !has_metis())
                continue;
            struct mp_plan *p = plan_of(&t, groupers[i], NULL);
            for (uint32_t l = 0; l < s.n_layers; l++) {
                uint64_t pairs[E_MAX * E_MAX];
                enum mp_outcome outcome;
                const struct mp_problem problem = {.workload = w};
                struct brute x = {.a = pairs,
                                  .n = s.n_experts,
                                  .n_groups = kinds[kind].n_gpus,
                                  .size = s.n_experts / kinds[kind].n_gpus};
                struct mp_groups g = {.n = x.n, .n_groups = x.n_groups, .a = pairs, .group = x.group};
                CHECK_OK(mp_affinity(&problem, l, "test", pairs, &outcome, &err), err);
                every_grouping(&x, 0);
                gpus_of(p, l, x.group);
                const double ratio = (double)mp_groups_inside(&g) / (double)x.best;
                assert_true(ratio <= 1);
                sum[i] += ratio;
                least[i] = ratio < least[i] ? ratio : least[i];
            }
            mp_plan_free(p);
        }
        n += s.n_layers;
        mp_workload_free(w);
        tiny_free(&t);
    }
    for (size_t i = 0; i < N_GROUPERS; i++) {
        if (i == 1 && !has_metis())
            continue;
        print_message("# %s: affinity kept, of the most there is: mean %.4f, least %.4f of %u\n", groupers[i],
                      sum[i] / n, least[i], n);
        assert_true(sum[i] / n >= want_mean[i] && least[i] >= want_least[i]);
    }
}

/* ---- exflow ---- */
static uint64_t stays(const struct mp_workload *w, const uint32_t *gpu, uint32_t n_layers) {
    const uint32_t n = w->trace->n_experts;
    uint64_t sum = 0;
    uint16_t ids[2][MP_MAX_TOP_K];
    for (uint32_t l = 0; l + 1 < n_layers; l++)
        for (uint32_t s = 0; s < w->n_steps; s++)
            for (uint32_t i = 0; i < w->steps[s].n; i++) {
                const uint32_t k = mp_trace_row(w->trace, l, w->steps[s].row[i], ids[0]);
                const uint32_t m = mp_trace_row(w->trace, l + 1, w->steps[s].row[i], ids[1]);
                for (uint32_t a = 0; a < k; a++)
                    for (uint32_t b = 0; b < m; b++)
                        sum += gpu[l * n + ids[0][a]] == gpu[(l + 1) * n + ids[1][b]];
            }
    return sum;
}

struct ways {
    const struct mp_workload *w;
    uint32_t n, n_gpus, size, n_layers, used[L_MAX][4], gpu[L_MAX * E_MAX];
    uint64_t best;
};
static void every_way(struct ways *x, uint32_t at) {
    if (at == x->n * x->n_layers) {
        const uint64_t now = stays(x->w, x->gpu, x->n_layers);
        x->best = now > x->best ? now : x->best;
        return;
    }
    for (uint32_t g = 0; g < x->n_gpus; g++) {
        if (x->used[at / x->n][g] == x->size)
            continue;
        x->used[at / x->n][g]++;
        x->gpu[at] = g;
        every_way(x, at + 1);
        x->used[at / x->n][g]--;
    }
}

static void test_grouping__exflow_against_every_placement(void **state) {
    uint32_t n_optimal = 0;
    (void)state;
    for (uint64_t seed = 0; seed < 20; seed++) {
        const struct tiny_spec s = {.n_layers = 2,
                                    .n_experts = 6,
                                    .top_k = 1 + seed % 2,
                                    .n_requests = 12,
                                    .n_rows = 4,
                                    .topology = seed % 4 < 2 ? "2:h100" : "3:h100",
                                    .phase = MP_PHASE_PREFILL,
                                    .batch = 8,
                                    .seed = seed};
        struct tiny t;
        struct mp_error err = {0};
        struct ways x = {.n = 6, .n_layers = 2};
        struct mp_workload *w;
        CHECK_OK(tiny_make(&t, &s, &err), err);
        CHECK_OK(mp_workload_build(&w, &t.part, &t.request.batching, &err), err);
        x.w = w;
        x.n_gpus = t.topology->n_gpus;
        x.size = 6 / x.n_gpus;
        for (int kind = 0; kind < 2; kind++) { /* the first layer in a row: the second is the best for it; then both */
            const struct mp_setting setting = {"exflow", "sweeps", kind == 0 ? 0 : 8};
            struct mp_plan *p = plan_of(&t, "exflow", &setting);
            uint32_t gpu[2 * 6];
            gpus_of(p, 0, gpu);
            gpus_of(p, 1, gpu + 6);
            x.best = 0;
            memset(x.used, 0, sizeof x.used);
            for (uint32_t e = 0; kind == 0 && e < 6; e++) {
                assert_int_equal(gpu[e], e / x.size);
                x.gpu[e] = gpu[e];
            }
            every_way(&x, kind == 0 ? 6 : 0);
            const uint64_t now = stays(w, gpu, 2);
            if (kind == 0)
                assert_true(now == x.best);
            else
                assert_true(now <= x.best && now * 10 >= x.best * 8);
            n_optimal += kind == 1 && now == x.best;
            mp_plan_free(p);
        }
        mp_workload_free(w);
        tiny_free(&t);
    }
    print_message("# exflow: %u of 20 optimal\n", n_optimal);
    assert_true(n_optimal >= 10);
}

static void test_grouping__exflow_follows_tokens(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 4; seed++) {
        const struct planted s = {.n_layers = 4,
                                  .n_experts = 16,
                                  .top_k = 2,
                                  .n_groups = 4,
                                  .sizes = {4, 4, 4, 4},
                                  .noise = 6,
                                  .n_tokens = 1600,
                                  .topology = seed % 2 == 0 ? "4:h100" : "2x2:h100",
                                  .seed = seed,
                                  .follows = true};
        struct tiny t;
        struct hidden h;
        struct mp_error err = {0};
        struct mp_workload *w;
        uint32_t gpu[4 * 16];
        uint64_t kept[2];
        plant(&t, &h, &s);
        CHECK_OK(mp_workload_build(&w, &t.part, &t.request.batching, &err), err);
        for (int k = 0; k < 2; k++) {
            struct mp_plan *p = plan_of(&t, k == 0 ? "exflow" : "contiguous", NULL);
            for (uint32_t l = 0; l < 4; l++)
                gpus_of(p, l, gpu + 16 * (size_t)l);
            kept[k] = stays(w, gpu, 4);
            mp_plan_free(p);
        }
        assert_true(kept[0] > kept[1] * 2);
        mp_workload_free(w);
        tiny_free(&t);
    }
}

/* ---- what all of them keep to ---- */
static const char *const all[] = {"grace", "metis", "occult", "exflow"};

static void test_grouping__same_bytes_for_any_number_of_threads(void **state) {
    const struct planted s = {.n_layers = 4,
                              .n_experts = 24,
                              .top_k = 4,
                              .n_groups = 4,
                              .sizes = {5, 7, 6, 6},
                              .noise = 30,
                              .n_tokens = 800,
                              .topology = "2x2:h100",
                              .seed = 5};
    struct tiny t;
    struct hidden h;
    (void)state;
    plant(&t, &h, &s);
    t.request.slots_per_gpu = 8;
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        char *text[3];
        if (i == 1 && !has_metis())
            continue;
        for (unsigned k = 0; k < 3; k++) {
            t.request.n_threads = k == 0 ? 1 : 4 - k;
            struct mp_plan *p = plan_of(&t, all[i], NULL);
            text[k] = tiny_text(p);
            assert_non_null(text[k]);
            mp_plan_free(p);
        }
        assert_string_equal(text[0], text[1]);
        assert_string_equal(text[0], text[2]);
        for (unsigned k = 0; k < 3; k++)
            mp_free(text[k]);
    }
    tiny_free(&t);
}

/* Replicas, experts that do not divide by GPUs, fewer than GPUs, room for all of them: all placed, all verified
 * (mp_plan_make does), no expert twice on a GPU. */
static void test_grouping__any_shape_and_replicas(void **state) {
    static const struct {
        const char *topology;
        uint32_t n_experts, n_redundant, slots;
        const char *replicate;
    } cases[] = {{"4:h100", 10, 0, 0, NULL},    {"2x2:h100", 13, 3, 0, "eplb"}, {"3x2:h100", 20, 10, 0, "cycle"},
                 {"4:h100", 12, 12, 0, "eplb"}, {"8:h100", 6, 0, 0, NULL},      {"2x4:h100", 6, 10, 0, "eplb"},
                 {"2x2:h100", 12, 0, 12, NULL}, {"1:h100", 5, 0, 0, NULL}};
    (void)state;
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++)
        for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
            const struct tiny_spec s = {.n_layers = 3,
                                        .n_experts = cases[c].n_experts,
                                        .top_k = 2,
                                        .n_requests = 24,
                                        .n_rows = 8,
                                        .topology = cases[c].topology,
                                        .phase = MP_PHASE_PREFILL,
                                        .batch = 16,
                                        .seed = c};
            struct tiny t;
            struct mp_error err = {0};
            if (i == 1 && !has_metis())
                continue;
            CHECK_OK(tiny_make(&t, &s, &err), err);
            t.request.n_redundant = cases[c].n_redundant;
            t.request.slots_per_gpu = cases[c].slots;
            t.request.replicate = cases[c].replicate;
            t.request.needs_distinct = true;
            struct mp_plan *p = plan_of(&t, all[i], NULL);
            for (uint32_t l = 0; l < s.n_layers; l++) {
                uint32_t n = 0;
                for (uint32_t g = 0; g < p->n_gpus; g++)
                    n += size_of(p, l, g);
                assert_int_equal(n, s.n_experts + cases[c].n_redundant);
            }
            mp_plan_free(p);
            tiny_free(&t);
        }
}

/* A node of three GPUs beside one of one, GPUs whose memory holds few experts or none. */
static void test_grouping__unequal_nodes_and_slots(void **state) {
    static const struct {
        uint32_t n_gpus, slots[6], node[6];
    } cases[] = {{4, {4, 4, 4, 4}, {0, 0, 0, 1}},
                 {4, {2, 6, 4, 4}, {0, 1, 1, 1}},
                 {6, {1, 0, 9, 3, 3, 2}, {0, 0, 1, 1, 2, 2}},
                 {4, {0, 0, 8, 8}, {0, 0, 1, 1}},
                 {3, {16, 16, 1}, {0, 1, 2}}};
    const struct planted s = {.n_layers = 2,
                              .n_experts = 16,
                              .top_k = 3,
                              .n_groups = 4,
                              .sizes = {6, 4, 4, 2},
                              .noise = 8,
                              .n_tokens = 640,
                              .topology = "2x2:h100",
                              .seed = 6};
    struct tiny t;
    struct hidden h;
    struct mp_error err = {0};
    struct mp_workload *w;
    struct mp_arena *arena = mp_arena_new();
    uint64_t load[2 * 16];
    (void)state;
    plant(&t, &h, &s);
    CHECK_OK(mp_workload_build(&w, &t.part, &t.request.batching, &err), err);
    for (uint32_t l = 0; l < 2; l++)
        mp_workload_load(w, l, load + 16 * (size_t)l);
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++)
        for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
            const struct mp_strategy *place = mp_strategy_find(MP_PLAN_PLACE, all[i]);
            const struct mp_budget budget = {0};
            struct mp_problem problem = {.workload = w, .topology = t.topology, .load = load, .needs_distinct = true};
            struct mp_draft draft = {.n_copies = 16};
            enum mp_outcome outcome;
            if (i == 1 && !has_metis())
                continue;
            CHECK_OK(mp_option_values(&problem.option_values, place, NULL, 0, arena, &err), err);
            CHECK_OK(mp_plan_new(&draft.plan, 2, 16, cases[c].n_gpus, cases[c].slots, &err), err);
            draft.plan->gpu_node = cases[c].node;
            draft.plan->n_nodes = cases[c].node[cases[c].n_gpus - 1] + 1;
            draft.copies = mp_arena_alloc(arena, 2 * (size_t)draft.plan->n_slots, sizeof *draft.copies);
            for (uint32_t k = 0; k < 2; k++)
                for (uint16_t e = 0; e < 16; e++)
                    draft.copies[k * draft.plan->n_slots + e] = e;
            CHECK_OK(place->solve(&problem, &budget, arena, &draft, &outcome, &err), err);
            assert_int_equal(outcome, MP_FOUND);
            for (uint32_t l = 0; l < 2; l++) {
                uint32_t gpu[16] = {0}, n = 0;
                gpus_of(draft.plan, l, gpu);
                for (uint32_t g = 0; g < cases[c].n_gpus; g++) {
                    assert_true(size_of(draft.plan, l, g) <= cases[c].slots[g]);
                    n += size_of(draft.plan, l, g);
                }
                assert_int_equal(n, 16);
                for (uint32_t e = 0; e < 16; e++)
                    assert_true(cases[c].slots[gpu[e]] > 0);
            }
            mp_plan_free(draft.plan);
        }
    mp_workload_free(w);
    mp_arena_free(arena);
    tiny_free(&t);
}

/* 94,165 recorded tokens, two nodes of two: bytes between nodes on the steps planned on, against experts in a row. */
static void test_grouping__real_tokens_need_fewer_nodes(void **state) {
    const char *path = shared_path("traces/deepseek-v2-lite/chat_prefill.npz");
    const double want[] = {0.92, 0.92, 0.99, 0.97};
    struct mp_trace_hints hints = mp_trace_hints_none;
    struct tiny t = {0};
    struct mp_error err = {0};
    const struct mp_split split = {.kind = MP_SPLIT_NONE};
    uint64_t row = 0;
    (void)state;
    if (path == NULL)
        skip();
    hints.phase = MP_PHASE_PREFILL;
    hints.layer_base = 1;
    hints.ids_are_physical = 0;
    hints.n_experts = 64;
    CHECK_OK(mp_trace_load(&t.trace, path, &hints, &mp_limits_default, &err), err);
    CHECK_OK(mp_topology_load(&t.own_topology, "2x2:h100", &mp_limits_default, &err), err);
    CHECK_OK(mp_model_generic(&t.model, NULL, t.trace->n_layers, 64, 6, &err), err);
    CHECK_OK(mp_part_split(&t.part, &t.unused, t.trace, &split, &err), err);
    t.request = (struct mp_plan_request){
        .planning = &t.part,
        .batching = {.phase = MP_PHASE_PREFILL, .n_ranks = 4, .tokens_per_rank = 1024, .n_steps_max = 8},
        .split = split,
        .topology = t.own_topology,
        .model = t.model,
        .sim = {.dispatcher = mp_dispatcher_find("deepep-normal"), .stage_mode = -1},
        .n_threads = 2,
        .limits = &mp_limits_default};
    for (size_t i = 0; i <= sizeof all / sizeof all[0]; i++) {
        uint64_t bytes = 0;
        if (i == 2 && !has_metis())
            continue;
        struct mp_plan *p = plan_of(&t, i == 0 ? "contiguous" : all[i - 1], NULL);
        for (uint32_t l = 0; l < p->n_layers; l++)
            bytes += p->layers[l].dispatch_inter_bytes;
        row = i == 0 ? bytes : row;
        if (i > 0)
            print_message("# %s: %.3f of the bytes between nodes\n", all[i - 1], (double)bytes / (double)row);
        assert_true(i == 0 || (double)bytes <= want[i - 1] * (double)row);
        mp_plan_free(p);
    }
    tiny_free(&t);
}

/* A recording of counts that lists pairs, planned on as a whole. */
static void test_grouping__recorded_pairs_are_enough(void **state) {
    const char *path = shared_path("traces/qwen3-30b-a3b/coactivation.json");
    struct mp_trace_hints hints = mp_trace_hints_none;
    struct tiny t = {0};
    struct mp_error err = {0};
    const struct mp_split split = {.kind = MP_SPLIT_NONE};
    (void)state;
    if (path == NULL)
        skip();
    hints.phase = MP_PHASE_DECODE;
    hints.layer_base = 0;
    hints.ids_are_physical = 0;
    hints.top_k = 8;
    CHECK_OK(mp_trace_load(&t.trace, path, &hints, &mp_limits_default, &err), err);
    CHECK_OK(mp_topology_load(&t.own_topology, "2x2:h100", &mp_limits_default, &err), err);
    CHECK_OK(mp_model_generic(&t.model, NULL, t.trace->n_layers, 128, 8, &err), err);
    CHECK_OK(mp_part_split(&t.part, &t.unused, t.trace, &split, &err), err);
    t.request = (struct mp_plan_request){.planning = &t.part,
                                         .batching = {.phase = MP_PHASE_DECODE, .n_ranks = 4},
                                         .split = split,
                                         .topology = t.own_topology,
                                         .model = t.model,
                                         .sim = {.dispatcher = mp_dispatcher_find("a2av"), .stage_mode = -1},
                                         .n_threads = 2,
                                         .limits = &mp_limits_default};
    uint64_t kept[2] = {0};
    for (int i = 0; i < 2; i++) {
        struct mp_plan *p = plan_of(&t, i == 0 ? "lpt" : "grace", NULL);
        for (uint64_t k = 0; k < t.trace->n_pairs; k++) {
            uint32_t gpu[128];
            const struct mp_pair *pair = &t.trace->pairs[k];
            if (k == 0 || pair->layer != t.trace->pairs[k - 1].layer)
                gpus_of(p, pair->layer, gpu);
            kept[i] += gpu[pair->first] == gpu[pair->second] ? pair->count : 0;
        }
        mp_plan_free(p);
    }
    print_message("# pairs kept on a GPU: grace %.2f times those of lpt\n", (double)kept[1] / (double)kept[0]);
    assert_true(kept[1] > kept[0] + kept[0] / 2);
    tiny_free(&t);
}

/* Replicate grace and place grace are two strategies of one name with options of their own; the second puts copies
 * where the first counted on them, as place kept does. */
static void test_grouping__grace_of_two_stages(void **state) {
    const struct planted s = {.n_layers = 2,
                              .n_experts = 16,
                              .top_k = 3,
                              .n_groups = 4,
                              .sizes = {6, 4, 4, 2},
                              .noise = 8,
                              .n_tokens = 640,
                              .topology = "2x2:h100",
                              .seed = 6};
    const struct mp_setting both[] = {{"grace", "ratio", 25}, {"grace-dynamic", "rounds", 2}};
    const struct mp_setting wrong[] = {{"grace", "ration", 25}};
    struct mp_error err = {0};
    struct mp_plan *p[2];
    struct tiny t;
    struct hidden h;
    enum mp_outcome outcome;
    (void)state;
    plant(&t, &h, &s);
    t.request.strategy = "grace";
    t.request.n_redundant = 4;
    t.request.slots_per_gpu = 8;
    t.request.needs_distinct = true;
    t.request.settings = both;
    t.request.n_settings = 2;
    CHECK_OK(mp_settings_check(both, 2, &err), err);
    for (int k = 0; k < 2; k++) {
        t.request.place = k == 0 ? "grace" : "kept";
        CHECK_OK(mp_plan_make(&p[k], &t.request, &outcome, NULL, &err), err);
        assert_non_null(p[k]);
        for (uint32_t l = 0; l < 2; l++)
            for (uint32_t g = 0; g < 4; g++)
                assert_true(size_of(p[k], l, g) >= 3);
    }
    for (uint32_t l = 0; l < 2; l++)
        assert_memory_equal(p[0]->layers[l].slot_expert, p[1]->layers[l].slot_expert,
                            p[0]->n_slots * sizeof *p[0]->layers[l].slot_expert);
    mp_plan_free(p[0]);
    mp_plan_free(p[1]);
    assert_int_equal(mp_settings_check(wrong, 1, &err), MP_EUSAGE);
    assert_non_null(strstr(err.message, "grace.ration: no such option (its options: ratio, "));
    tiny_free(&t);
}

static void test_grouping__counts_are_declined(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        const struct tiny_spec s = {.n_layers = 2,
                                    .n_experts = 8,
                                    .top_k = 1,
                                    .n_requests = 8,
                                    .is_counts = true,
                                    .topology = "2:h100",
                                    .phase = MP_PHASE_PREFILL,
                                    .batch = 8};
        struct tiny t;
        struct mp_error err = {0};
        struct mp_plan *p = NULL;
        enum mp_outcome outcome;
        CHECK_OK(tiny_make(&t, &s, &err), err);
        t.request.strategy = "contiguous";
        t.request.place = all[i];
        CHECK_OK(mp_plan_make(&p, &t.request, &outcome, NULL, &err), err);
        assert_null(p);
        assert_int_equal(outcome, MP_NOT_APPLICABLE);
        if (strncmp(err.message, all[i], strlen(all[i])) != 0 ||
            strstr(err.message, i == 1 && !has_metis() ? "libmetis-dev" : "record") == NULL)
            fail_msg("%s", err.message);
        tiny_free(&t);
    }
}

struct faulted {
    struct tiny t;
    const char *place;
};
static enum mp_status flow(void *ctx, struct mp_error *err) {
    struct faulted *f = ctx;
    struct mp_plan *p = NULL;
    enum mp_outcome outcome;
    f->t.request.place = f->place;
    enum mp_status status = mp_plan_make(&p, &f->t.request, &outcome, NULL, err);
    mp_plan_free(p);
    return status;
}
static void test_grouping__survives_faults(void **state) {
    const struct planted s = {.n_layers = 2,
                              .n_experts = 8,
                              .top_k = 2,
                              .n_groups = 2,
                              .sizes = {4, 4},
                              .n_tokens = 200,
                              .topology = "2x2:h100",
                              .seed = 5};
    struct hidden h;
    (void)state;
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        struct faulted f = {.place = all[i]};
        if (i == 1 && !has_metis())
            continue;
        plant(&f.t, &h, &s);
        f.t.request.strategy = "contiguous";
        sweep_faults(flow, &f, 3);
        tiny_free(&f.t);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_grouping__planted_groups_are_found),
        cmocka_unit_test(test_grouping__nodes_hold_groups_that_are_kin),
        cmocka_unit_test(test_grouping__sizes_follow_the_slots),
        cmocka_unit_test(test_grouping__the_knee_is_where_groups_fit),
        cmocka_unit_test(test_grouping__near_the_optimum_of_small_graphs),
        cmocka_unit_test(test_grouping__exflow_against_every_placement),
        cmocka_unit_test(test_grouping__exflow_follows_tokens),
        cmocka_unit_test(test_grouping__same_bytes_for_any_number_of_threads),
        cmocka_unit_test(test_grouping__any_shape_and_replicas),
        cmocka_unit_test(test_grouping__unequal_nodes_and_slots),
        cmocka_unit_test(test_grouping__real_tokens_need_fewer_nodes),
        cmocka_unit_test(test_grouping__recorded_pairs_are_enough),
        cmocka_unit_test(test_grouping__grace_of_two_stages),
        cmocka_unit_test(test_grouping__counts_are_declined),
        cmocka_unit_test(test_grouping__survives_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
