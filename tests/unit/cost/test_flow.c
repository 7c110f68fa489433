#include "world.h"
#include <moeplan/flow.h>
#include <moeplan/train.h>

static const struct mp_dispatcher per_gpu = {.name = "per-gpu", .copies = MP_COPY_PER_GPU, .n_launches = 1};
static const struct mp_dispatcher *dispatcher_at(uint32_t i) {
    return mp_dispatcher_at(i) != NULL ? mp_dispatcher_at(i) : &per_gpu;
}
static uint32_t n_dispatchers(void) {
    uint32_t n = 0;
    while (mp_dispatcher_at(n) != NULL)
        n++;
    return n + 1;
}

static struct mp_token_flow *new_flow(const struct world *w, uint32_t step) {
    struct mp_error err = {0};
    struct mp_token_flow *f;
    CHECK_OK(mp_flow_new(&f, w->workload, step, &err), err);
    return f;
}

/* Tokens that stay cost what they cost without a flow: every field, by every dispatcher and every choice of replicas.
 */
static void test_flow__of_tokens_that_stay_is_none(void **state) {
    (void)state;
    static struct world w;
    for (uint64_t seed = 0; seed < 200; seed++) {
        struct mp_rng r = mp_rng_seed(seed);
        struct mp_error err = {0};
        struct mp_traffic *a, *b;
        if (seed % 40 == 7) /* more GPUs than bits in a word */
            case_plain(&w.net, 20, 4, UINT64_C(100000000000), UINT64_C(10000000000));
        world_make(&w, &r, (struct world_shape){.n_experts = seed % 40 == 7 ? 60 : 0});
        const uint32_t n = w.net.t.n_gpus;
        const size_t cells = (size_t)n * n * sizeof(uint64_t);
        struct mp_token_flow *f = new_flow(&w, 1);
        if (seed % 2 == 0)
            CHECK_OK(mp_flow_add_stands_for(f, w.trace->top_k, &err), err);
        CHECK_OK(mp_traffic_new(&a, n, &err), err);
        CHECK_OK(mp_traffic_new(&b, n, &err), err);
        for (uint32_t d = 0; d < n_dispatchers(); d++)
            for (int kind = MP_CHOICE_PLAN; kind <= MP_CHOICE_TURNS; kind++)
                for (uint32_t l = 0; l < w.plan->n_layers; l++) {
                    w.setup.dispatcher = dispatcher_at(d);
                    w.setup.choice.kind = (enum mp_choice_kind)kind;
                    w.setup.flow = NULL;
                    CHECK_OK(mp_traffic_compute(a, &w.setup, 1, l, &err), err);
                    w.setup.flow = f;
                    CHECK_OK(mp_traffic_compute(b, &w.setup, 1, l, &err), err);
                    assert_memory_equal(a->dispatch, b->dispatch, cells);
                    assert_memory_equal(a->dispatch2, b->dispatch2, cells);
                    assert_memory_equal(a->combine, b->combine, cells);
                    assert_memory_equal(a->combine2, b->combine2, cells);
                    assert_memory_equal(a->rows, b->rows, n * sizeof(uint64_t));
                    assert_memory_equal(a->padded_rows, b->padded_rows, n * sizeof(uint64_t));
                    assert_memory_equal(a->active, b->active, n * sizeof(uint32_t));
                    assert_memory_equal(a->source_rows, b->source_rows, n * sizeof(uint64_t));
                    assert_memory_equal(a->slot_rows, b->slot_rows, a->n_slots * sizeof(uint64_t));
                    assert_int_equal(a->has_second, b->has_second);
                    assert_int_equal(a->copies_expert, b->copies_expert);
                    assert_int_equal(a->copies_inter, b->copies_inter);
                    assert_int_equal(a->copies_gpu, b->copies_gpu);
                    assert_int_equal(a->copies_node, b->copies_node);
                    assert_int_equal(a->intra_bytes, b->intra_bytes);
                    assert_int_equal(a->inter_bytes, b->inter_bytes);
                    for (uint32_t g = 0; g < n; g++)
                        assert_int_equal(mp_layer_attention_ns(&w.setup, b, g),
                                         mp_attention_ns(&w.net.t, g, &w.model, a->source_rows[g]));
                }
        w.setup.choice.kind = MP_CHOICE_PLAN;
        w.setup.flow = NULL;
        mp_flow_free(f);
        mp_traffic_free(a);
        mp_traffic_free(b);
        world_free(&w);
    }
}

/* ---- by hand ---- */

#define ROWS 512u
#define RESIDUAL UINT32_C(0xffff)
struct hand_row {
    uint32_t src, dst, k, ids[MP_MAX_TOP_K], stands[MP_MAX_TOP_K], gpu[MP_MAX_TOP_K], slot[MP_MAX_TOP_K];
};
static struct hand_row hand[ROWS];
struct hand_counts {
    uint64_t dispatch[CASE_GPUS * CASE_GPUS], dispatch2[CASE_GPUS * CASE_GPUS], combine[CASE_GPUS * CASE_GPUS],
        combine2[CASE_GPUS * CASE_GPUS], slot[256], source[CASE_GPUS], by_expert, by_inter, by_gpu, by_node;
};

static uint32_t gateway_of(const struct mp_topology *t, uint32_t of, uint32_t node) {
    uint32_t index = 0, members[CASE_GPUS], n = 0;
    for (uint32_t g = 0; g < of; g++)
        index += t->gpus[g].group[0] == t->gpus[of].group[0];
    for (uint32_t g = 0; g < t->n_gpus; g++)
        if (t->gpus[g].group[0] == node)
            members[n++] = g;
    return members[index % n];
}

/* What a row's partial sum has in it where `in` is set: outputs of (row, expert), and a residual that is on its way.
 * Ascending; returns how many. */
static uint32_t contents(const struct hand_row *x, uint32_t row, const bool *in, uint32_t *out) {
    uint32_t n = 0;
    for (uint32_t j = 0; j < x->k; j++)
        if (in[x->gpu[j]])
            out[n++] = x->stands[j] << 16 | x->ids[j];
    if (x->src != x->dst && in[x->src])
        out[n++] = row << 16 | RESIDUAL;
    for (uint32_t i = 1; i < n; i++)
        for (uint32_t j = i; j > 0 && out[j] < out[j - 1]; j--) {
            const uint32_t swapped = out[j];
            out[j] = out[j - 1];
            out[j - 1] = swapped;
        }
    return n;
}

/* Must a sum of these GPUs be sent for this row? Not if there is nothing in it, or if another row that ends there has
 * the very same one, made of its own outputs alone. */
static bool must_send(uint32_t row, uint32_t n_rows, const bool *in) {
    uint32_t own[MP_MAX_TOP_K + 1], theirs[MP_MAX_TOP_K + 1];
    const uint32_t n = contents(&hand[row], row, in, own);
    if (n == 0)
        return false;
    for (uint32_t y = 0; y < n_rows; y++) {
        if (y == row || hand[y].dst != hand[row].dst || contents(&hand[y], y, in, theirs) != n)
            continue;
        bool is_same = memcmp(own, theirs, n * sizeof *own) == 0;
        for (uint32_t i = 0; i < n; i++)
            is_same = is_same && own[i] >> 16 == y;
        if (is_same)
            return false;
    }
    return true;
}

static void count_by_hand(const struct world *w, uint32_t n_rows, struct hand_counts *c) {
    const struct mp_topology *t = &w->net.t;
    const enum mp_copy_count copies = w->setup.dispatcher->copies;
    const uint32_t n = t->n_gpus, n_nodes = t->levels[0].n_groups;
    memset(c, 0, sizeof *c);
    for (uint32_t i = 0; i < n_rows; i++) {
        const struct hand_row *x = &hand[i];
        const uint32_t own_node = t->gpus[x->src].group[0], end_node = t->gpus[x->dst].group[0];
        bool out[CASE_GPUS] = {0}, back[CASE_GPUS] = {0}, goes_at_all = x->k == 0;
        c->source[x->src]++;
        for (uint32_t j = 0; j < x->k; j++) {
            back[x->gpu[j]] = true;
            if (x->stands[j] != i)
                continue;
            goes_at_all = out[x->gpu[j]] = true;
            c->slot[x->slot[j]]++;
            c->by_expert += x->gpu[j] != x->src;
            c->by_inter += t->gpus[x->gpu[j]].group[0] != t->gpus[x->src].group[0];
            c->dispatch[x->src * n + x->gpu[j]] += copies == MP_COPY_PER_EXPERT && x->gpu[j] != x->src;
        }
        back[x->src] = back[x->src] || x->src != x->dst;
        if (copies == MP_COPY_PER_EXPERT) {
            for (uint32_t j = 0; j < x->k; j++)
                if (x->gpu[j] != x->dst && (x->stands[j] == i || hand[x->stands[j]].dst != x->dst))
                    c->combine[x->gpu[j] * n + x->dst]++;
            if (x->src != x->dst)
                c->combine[x->src * n + x->dst]++;
        }
        bool all[CASE_GPUS];
        memset(all, true, sizeof all);
        for (uint32_t g = 0; g < n; g++) {
            bool only[CASE_GPUS] = {0};
            const uint32_t v = t->gpus[g].group[0];
            only[g] = true;
            c->by_gpu += out[g] && g != x->src;
            if (out[g] && g != x->src && (copies == MP_COPY_PER_GPU || (copies == MP_COPY_PER_NODE && v == own_node)))
                c->dispatch[x->src * n + g]++;
            if (out[g] && copies == MP_COPY_PER_NODE && v != own_node && gateway_of(t, x->src, v) != g)
                c->dispatch2[gateway_of(t, x->src, v) * n + g]++;
            if (copies == MP_COPY_ALL && g != x->src && goes_at_all)
                c->dispatch[x->src * n + g]++;
            if (copies == MP_COPY_ALL && g != x->dst && (x->k == 0 || must_send(i, n_rows, all)))
                c->combine[g * n + x->dst]++;
            if (!back[g] || g == x->dst || !must_send(i, n_rows, only))
                continue;
            if (copies == MP_COPY_PER_GPU || (copies == MP_COPY_PER_NODE && v == end_node))
                c->combine[g * n + x->dst]++;
            if (copies == MP_COPY_PER_NODE && v != end_node && gateway_of(t, x->dst, v) != g)
                c->combine2[g * n + gateway_of(t, x->dst, v)]++;
        }
        for (uint32_t v = 0; v < n_nodes; v++) {
            bool inside[CASE_GPUS] = {0}, goes = false, comes = false;
            for (uint32_t g = 0; g < n; g++) {
                inside[g] = t->gpus[g].group[0] == v;
                goes = goes || (inside[g] && out[g]);
                comes = comes || (inside[g] && back[g]);
            }
            c->by_node += goes && v != own_node;
            if (copies == MP_COPY_PER_NODE && goes && v != own_node)
                c->dispatch[x->src * n + gateway_of(t, x->src, v)]++;
            if (copies == MP_COPY_PER_NODE && comes && v != end_node && must_send(i, n_rows, inside))
                c->combine[gateway_of(t, x->dst, v) * n + x->dst]++;
        }
    }
}

/* Homes at random, and of some rows whole lists or single experts served by others that have them. */
static void shuffle_flow(const struct world *w, struct mp_token_flow *f, struct mp_rng *r) {
    const struct mp_step *st = &w->workload->steps[0];
    const uint32_t top_k = w->trace->top_k;
    for (size_t i = 0; i < ((size_t)f->n_layers + 1) * f->n_sequences; i++)
        if (mp_rng_below(r, 3) > 0)
            f->home[i] = (uint32_t)mp_rng_below(r, w->net.t.n_gpus);
    for (uint32_t l = 0; f->stands_for != NULL && l < f->n_layers; l++)
        for (uint32_t i = 0; i < f->n_rows; i++) {
            uint16_t ids[MP_MAX_TOP_K], theirs[MP_MAX_TOP_K];
            uint32_t *stands = f->stands_for + ((size_t)l * f->n_rows + i) * top_k;
            const uint32_t k = mp_trace_row(w->trace, l, st->row[i], ids), other = (uint32_t)mp_rng_below(r, f->n_rows),
                           n = mp_trace_row(w->trace, l, st->row[other], theirs),
                           *there = f->stands_for + ((size_t)l * f->n_rows + other) * top_k;
            const bool is_whole = mp_rng_below(r, 2) == 0;
            if (other > i || i % 3 == 0) /* what stands for others stays its own: it comes first */
                continue;
            for (uint32_t j = 0; j < k; j++)
                for (uint32_t m = 0; m < n; m++)
                    if (theirs[m] == ids[j] && there[m] == other && (is_whole || mp_rng_below(r, 2) == 0))
                        stands[j] = other;
        }
}

static void read_rows(const struct world *w, const struct mp_token_flow *f, uint32_t l) {
    const struct mp_step *st = &w->workload->steps[0];
    const uint32_t top_k = w->trace->top_k;
    assert_true(f->n_rows <= ROWS);
    for (uint32_t q = 0; q < f->n_sequences; q++)
        for (uint32_t i = f->first_row[q]; i < f->first_row[q + 1]; i++) {
            uint16_t ids[MP_MAX_TOP_K];
            struct hand_row *x = &hand[i];
            x->src = f->home[(size_t)l * f->n_sequences + q];
            x->dst = f->home[((size_t)l + 1) * f->n_sequences + q];
            x->k = mp_trace_row(w->trace, l, st->row[i], ids);
            for (uint32_t j = 0; j < x->k; j++) {
                x->ids[j] = ids[j];
                x->stands[j] = f->stands_for == NULL ? i : f->stands_for[((size_t)l * f->n_rows + i) * top_k + j];
            }
        }
    for (uint32_t i = 0; i < f->n_rows; i++)
        for (uint32_t j = 0; j < hand[i].k; j++) {
            const uint32_t by = hand[i].stands[j];
            hand[i].slot[j] = mp_router_slot(w->router, l, hand[i].ids[j], hand[by].src, mp_token_hash(st->row[by]));
            hand[i].gpu[j] = mp_plan_slot_gpu(w->plan, hand[i].slot[j]);
        }
}

static void test_flow__agrees_with_row_by_row(void **state) {
    (void)state;
    static struct world w;
    static struct hand_counts c;
    uint64_t n_served = 0;
    for (uint64_t seed = 0; seed < 150; seed++) {
        struct mp_rng r = mp_rng_seed(seed + 40);
        struct mp_error err = {0};
        struct mp_traffic *t;
        world_make(&w, &r, (struct world_shape){.n_experts = 4, .top_k = 1 + (uint32_t)mp_rng_below(&r, 3)});
        const uint32_t n = w.net.t.n_gpus, pad = w.workload->batching.pad_tokens;
        struct mp_token_flow *f = new_flow(&w, 0);
        if (seed % 3 > 0)
            CHECK_OK(mp_flow_add_stands_for(f, w.trace->top_k, &err), err);
        shuffle_flow(&w, f, &r);
        w.setup.flow = f;
        CHECK_OK(mp_traffic_new(&t, n, &err), err);
        for (uint32_t d = 0; d < n_dispatchers(); d++)
            for (uint32_t l = 0; l < w.plan->n_layers; l++) {
                uint64_t intra = 0, inter = 0, next[CASE_GPUS], rows = 0;
                w.setup.dispatcher = dispatcher_at(d);
                CHECK_OK(mp_traffic_compute(t, &w.setup, 0, l, &err), err);
                read_rows(&w, f, l);
                count_by_hand(&w, f->n_rows, &c);
                for (uint32_t i = 0; i < n; i++) {
                    const uint64_t padded = pad > 1 ? (c.source[i] + pad - 1) / pad * pad : c.source[i];
                    assert_int_equal(t->source_rows[i], padded);
                    for (uint32_t j = 0; j < n; j++) {
                        const size_t at = (size_t)i * n + j;
                        assert_int_equal(t->dispatch[at], c.dispatch[at] * w.model.dispatch_bytes);
                        assert_int_equal(t->dispatch2[at], c.dispatch2[at] * w.model.dispatch_bytes);
                        assert_int_equal(t->combine[at], c.combine[at] * w.model.combine_bytes);
                        assert_int_equal(t->combine2[at], c.combine2[at] * w.model.combine_bytes);
                        const uint64_t sum = t->dispatch[at] + t->dispatch2[at] + t->combine[at] + t->combine2[at];
                        *(w.net.gpus[i].group[0] == w.net.gpus[j].group[0] ? &intra : &inter) += sum;
                    }
                }
                assert_int_equal(t->intra_bytes, intra);
                assert_int_equal(t->inter_bytes, inter);
                assert_memory_equal(t->slot_rows, c.slot, w.plan->n_slots * sizeof *c.slot);
                assert_int_equal(t->copies_expert, c.by_expert);
                assert_int_equal(t->copies_inter, c.by_inter);
                assert_int_equal(t->copies_gpu, c.by_gpu);
                assert_int_equal(t->copies_node, c.by_node);
                mp_flow_rows(f, l + 1, next, n);
                for (uint32_t g = 0; g < n; g++)
                    rows += next[g];
                assert_int_equal(rows, f->n_rows);
                for (uint32_t i = 0; i < f->n_rows; i++)
                    for (uint32_t j = 0; j < hand[i].k; j++)
                        n_served += hand[i].stands[j] != i;
            }
        mp_flow_free(f);
        w.setup.flow = NULL;
        mp_traffic_free(t);
        world_free(&w);
    }
    assert_true(n_served > 1000);
}

/* Sequences are the requests' runs of rows, each on one rank; of a decode step the rows. */
static void test_flow__sequences_of_a_step(void **state) {
    (void)state;
    static struct world w;
    for (uint64_t seed = 0; seed < 60; seed++) {
        struct mp_rng r = mp_rng_seed(seed + 9);
        world_make(&w, &r, (struct world_shape){0});
        const struct mp_step *st = &w.workload->steps[0];
        struct mp_token_flow *f = new_flow(&w, 0);
        uint32_t q = 0;
        assert_int_equal(f->first_row[0], 0);
        assert_int_equal(f->first_row[f->n_sequences], st->n);
        for (uint32_t i = 1; i < st->n; i++) {
            bool is_next = st->row[i] == st->row[i - 1] + 1 && st->source[i] == st->source[i - 1];
            for (uint64_t k = 0; k < w.trace->n_requests; k++)
                is_next = is_next && w.trace->requests[k].first_row != st->row[i];
            if (!is_next)
                assert_int_equal(f->first_row[++q], i);
        }
        assert_int_equal(q + 1, f->n_sequences);
        for (uint32_t l = 0; l <= f->n_layers; l++)
            for (q = 0; q < f->n_sequences; q++)
                assert_int_equal(f->home[l * f->n_sequences + q], st->source[f->first_row[q]]);
        mp_flow_free(f);
        w.workload->batching.phase = MP_PHASE_DECODE;
        f = new_flow(&w, 0);
        assert_int_equal(f->n_sequences, st->n);
        mp_flow_free(f);
        world_free(&w);
    }
}

static void test_flow__padded_attention_by_hand(void **state) {
    (void)state;
    static struct net_case net;
    case_plain(&net, 1, 2, UINT64_C(100000000000), UINT64_C(10000000000));
    struct mp_gpu_type *type = &net.types[0];
    const uint64_t flops = mp_mul_div(type->flops_16bit, type->flops_efficiency_ppm, 1000000);
    struct mp_model m = {.name = "x", .hidden_size = 1024};
    for (uint64_t n = 1; n < 60; n += 7)
        for (uint64_t longest = 1; longest < 3000; longest += 411) {
            /* Luffy counts multiplications: 3 B L d^2 + 2 B L^2 d; two operations each. */
            const double work = 2 * (3.0 * (double)(n * longest) * 1024 * 1024 +
                                     2.0 * (double)(n * longest * longest) * 1024),
                         ns = work / (double)flops * 1e9 + (double)type->kernel_ns,
                         got = (double)mp_sequences_attention_ns(&net.t, 0, &m, n, longest);
            assert_true(got > ns * 0.9999 - 1 && got < ns * 1.0001 + (double)(n * longest) / 1000 + 2);
        }
    assert_int_equal(mp_sequences_attention_ns(&net.t, 0, &m, 0, 100), 0);
    /* A flow that says so is timed by it, layer for layer. */
    static struct world w;
    struct mp_rng r = mp_rng_seed(3);
    struct mp_error err = {0};
    struct mp_traffic *t;
    world_make(&w, &r, (struct world_shape){0});
    w.model.hidden_size = 512;
    struct mp_token_flow *f = new_flow(&w, 0);
    f->is_padded = true;
    for (uint32_t q = 0; q < f->n_sequences; q++)
        f->home[q] = 0;
    w.setup.flow = f;
    CHECK_OK(mp_traffic_new(&t, w.net.t.n_gpus, &err), err);
    CHECK_OK(mp_traffic_compute(t, &w.setup, 0, 0, &err), err);
    uint32_t longest = 0;
    for (uint32_t q = 0; q < f->n_sequences; q++)
        longest = f->first_row[q + 1] - f->first_row[q] > longest ? f->first_row[q + 1] - f->first_row[q] : longest;
    assert_int_equal(t->sequences[0], f->n_sequences);
    assert_int_equal(t->longest[0], longest);
    assert_int_equal(mp_layer_attention_ns(&w.setup, t, 0),
                     mp_sequences_attention_ns(&w.net.t, 0, &w.model, f->n_sequences, longest));
    for (uint32_t g = 1; g < w.net.t.n_gpus; g++)
        assert_int_equal(mp_layer_attention_ns(&w.setup, t, g), 0);
    mp_traffic_free(t);
    mp_flow_free(f);
    world_free(&w);
}

/* Gradients go the ways of activations and outputs backwards. */
static void test_flow__training_goes_back_the_same_ways(void **state) {
    (void)state;
    static struct world w;
    static uint64_t back[CASE_GPUS * CASE_GPUS];
    for (uint64_t seed = 0; seed < 40; seed++) {
        struct mp_rng r = mp_rng_seed(seed + 77);
        struct mp_error err = {0};
        struct mp_traffic *t;
        struct mp_net *net;
        struct mp_train_work stays, still, moves;
        const struct mp_train_options options = mp_train_defaults();
        world_make(&w, &r, (struct world_shape){0});
        const uint32_t n = w.net.t.n_gpus;
        struct mp_token_flow *f = new_flow(&w, 0);
        CHECK_OK(mp_train_work_make(&stays, &w.setup, 0, &options, &err), err);
        w.setup.flow = f;
        CHECK_OK(mp_train_work_make(&still, &w.setup, 0, &options, &err), err);
        shuffle_flow(&w, f, &r);
        CHECK_OK(mp_train_work_make(&moves, &w.setup, 0, &options, &err), err);
        CHECK_OK(mp_traffic_new(&t, n, &err), err);
        CHECK_OK(mp_net_new(&net, &w.net.t, &err), err);
        for (uint32_t l = 0; l < w.plan->n_layers; l++) {
            const struct mp_train_layer *x = &moves.step.layers[l];
            uint64_t ns;
            for (uint32_t k = 0; k < MP_TRAIN_N_A2A; k++)
                assert_int_equal(stays.step.layers[l].a2a[k].ns, still.step.layers[l].a2a[k].ns);
            assert_memory_equal(stays.step.layers[l].combine_ns, still.step.layers[l].combine_ns, n * 8);
            CHECK_OK(mp_traffic_compute(t, &w.setup, 0, l, &err), err);
            for (uint32_t i = 0; i < n * n; i++)
                back[i] = t->combine[i % n * n + i / n];
            CHECK_OK(mp_net_concurrent(net, back, &ns, NULL, &err), err);
            assert_int_equal(x->a2a[MP_TRAIN_COMBINE_BACK].ns, ns);
            for (uint32_t i = 0; i < n * n; i++)
                back[i] = t->dispatch[i % n * n + i / n] / w.model.dispatch_bytes * w.model.combine_bytes;
            CHECK_OK(mp_net_concurrent(net, back, &ns, NULL, &err), err);
            assert_int_equal(x->a2a[MP_TRAIN_DISPATCH_BACK].ns, ns);
        }
        mp_train_work_free(&stays);
        mp_train_work_free(&still);
        mp_train_work_free(&moves);
        mp_traffic_free(t);
        mp_net_free(net);
        mp_flow_free(f);
        world_free(&w);
    }
}

/* ---- simulate ---- */

static enum mp_status make_still(struct mp_token_flow **out, void *ctx, const struct mp_cost_setup *setup,
                                 uint32_t step, struct mp_error *err) {
    (void)ctx;
    return mp_flow_new(out, setup->workload, step, err);
}

static void test_flow__simulated_tokens_that_stay_take_as_long(void **state) {
    (void)state;
    static struct world w;
    const struct mp_flow_maker still = {.make = make_still};
    for (uint64_t seed = 0; seed < 40; seed++) {
        struct mp_rng r = mp_rng_seed(seed + 31);
        struct mp_error err = {0};
        struct mp_sim_result *a, *b;
        world_make(&w, &r, (struct world_shape){.n_steps = 3});
        struct mp_sim_options o = {.dispatcher = dispatcher_at((uint32_t)(seed % n_dispatchers())),
                                   .stage_mode = -1,
                                   .is_pipelined = seed % 3 == 0,
                                   .with_bound = true,
                                   .n_threads = 2};
        CHECK_OK(mp_simulate(&a, w.plan, w.workload, &w.net.t, &w.model, &o, &err), err);
        o.flow = &still;
        CHECK_OK(mp_simulate(&b, w.plan, w.workload, &w.net.t, &w.model, &o, &err), err);
        assert_memory_equal(a->steps, b->steps, a->n_steps * sizeof *a->steps);
        assert_int_equal(b->lower_bound_ns, 0);
        mp_sim_result_free(a);
        mp_sim_result_free(b);
        world_free(&w);
    }
}

static void test_flow__refuses_what_does_not_fit(void **state) {
    (void)state;
    static struct world w;
    struct mp_rng r = mp_rng_seed(1);
    struct mp_error err = {0};
    struct mp_traffic *t;
    struct mp_token_flow *f;
    uint64_t ns;
    world_make(&w, &r, (struct world_shape){.is_counts = true});
    assert_int_equal(mp_flow_new(&f, w.workload, 0, &err), MP_EUSAGE);
    assert_null(f);
    mp_error_clear(&err);
    world_free(&w);
    world_make(&w, &r, (struct world_shape){.n_experts = 5, .top_k = 3});
    assert_int_equal(mp_flow_new(&f, w.workload, 99, &err), MP_EBUG);
    mp_error_clear(&err);
    CHECK_OK(mp_traffic_new(&t, w.net.t.n_gpus, &err), err);
    f = new_flow(&w, 0);
    w.setup.flow = f;
    assert_int_equal(mp_step_lower_bound(&ns, &w.setup, 0, &err), MP_EUSAGE); /* homes are not part of any bound */
    mp_error_clear(&err);
    w.setup.sources = MP_SOURCES_COUPLED;
    assert_int_equal(mp_traffic_compute(t, &w.setup, 0, 0, &err), MP_EUSAGE);
    mp_error_clear(&err);
    w.setup.sources = MP_SOURCES_DP;
    f->home[0] = w.net.t.n_gpus;
    assert_int_equal(mp_traffic_compute(t, &w.setup, 0, 0, &err), MP_EBUG);
    mp_error_clear(&err);
    f->home[0] = 0;
    CHECK_OK(mp_flow_add_stands_for(f, 3, &err), err);
    f->stands_for[0] = f->n_rows; /* no such row */
    assert_int_equal(mp_traffic_compute(t, &w.setup, 0, 0, &err), MP_EBUG);
    mp_error_clear(&err);
    f->stands_for[0] = 1; /* which another stands for, or which has not this expert */
    for (uint32_t j = 0; j < 3; j++)
        f->stands_for[3 + j] = 2;
    assert_int_equal(mp_traffic_compute(t, &w.setup, 0, 0, &err), MP_EBUG);
    mp_error_clear(&err);
    f->n_rows++;
    assert_int_equal(mp_traffic_compute(t, &w.setup, 0, 0, &err), MP_EBUG);
    mp_error_clear(&err);
    mp_flow_free(f);
    mp_flow_free(NULL);
    mp_traffic_free(t);
    world_free(&w);
}

static enum mp_status whole(void *ctx, struct mp_error *err) {
    struct world *w = ctx;
    struct mp_traffic *t = NULL;
    struct mp_token_flow *f = NULL;
    enum mp_status status;
    struct mp_cost_setup setup = w->setup;
    MP_TRY(mp_traffic_new(&t, w->net.t.n_gpus, err));
    MP_TRY(mp_flow_new(&f, w->workload, 0, err));
    MP_TRY(mp_flow_add_stands_for(f, w->trace->top_k, err));
    setup.flow = f;
    MP_TRY(mp_traffic_compute(t, &setup, 0, 0, err));
out:
    mp_flow_free(f);
    mp_traffic_free(t);
    return status;
}
static void test_flow__survives_every_fault(void **state) {
    (void)state;
    static struct world w;
    struct mp_rng r = mp_rng_seed(4);
    world_make(&w, &r, (struct world_shape){0});
    sweep_faults(whole, &w, 1);
    world_free(&w);
}

int main(void) {
    cmocka_set_message_output(CM_OUTPUT_TAP);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_flow__of_tokens_that_stay_is_none),
        cmocka_unit_test(test_flow__agrees_with_row_by_row),
        cmocka_unit_test(test_flow__sequences_of_a_step),
        cmocka_unit_test(test_flow__padded_attention_by_hand),
        cmocka_unit_test(test_flow__training_goes_back_the_same_ways),
        cmocka_unit_test(test_flow__simulated_tokens_that_stay_take_as_long),
        cmocka_unit_test(test_flow__refuses_what_does_not_fit),
        cmocka_unit_test(test_flow__survives_every_fault),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
