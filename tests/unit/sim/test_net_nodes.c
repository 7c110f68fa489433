/* Orders between nodes against docs/ORDERS.md part 4 followed byte by byte. */
#include "net_case.h"

#define GPUS 24u
#define MAX_STAGES 12u
#define MAX_TRANSFERS (MAX_STAGES * GPUS * GPUS)

struct node_order {
    struct mp_order o;
    struct mp_stage stages[MAX_STAGES];
    struct mp_transfer transfers[MAX_STAGES][GPUS * GPUS];
};

/* Every pair of nodes cut into random shares, in ascending stages. */
static void random_order(struct node_order *x, struct mp_rng *r, uint32_t n_nodes) {
    uint32_t n_stages = 1 + (uint32_t)mp_rng_below(r, MAX_STAGES - 1);
    *x = (struct node_order){.o = {.name = "test",
                                   .between_nodes = true,
                                   .unit = 1 + (uint32_t)mp_rng_below(r, mp_rng_below(r, 2) ? 5 : 70000),
                                   .ports = n_nodes,
                                   .n_stages = n_stages}};
    for (uint32_t a = 0; a < n_nodes; a++)
        for (uint32_t b = 0; b < n_nodes; b++) {
            uint32_t left = a == b ? 0 : x->o.unit;
            for (uint32_t s = 0; s < n_stages && left > 0; s++) {
                uint32_t share =
                    s + 1 == n_stages || mp_rng_below(r, 4) == 0 ? left : (uint32_t)mp_rng_below(r, left + 1);
                if (share > 0)
                    x->transfers[s][x->stages[s].n++] = (struct mp_transfer){(uint16_t)a, (uint16_t)b, share, 1};
                left -= share;
            }
        }
    for (uint32_t s = 0; s < n_stages; s++)
        x->stages[s].transfers = x->transfers[s];
    x->o.stages = x->stages;
}

/* Joins some nodes with their neighbour, so that nodes have unequally many GPUs; at least two stay. */
static void join_nodes(struct net_case *c, struct mp_rng *r) {
    uint32_t n = 0, before = MP_NONE, n_left = c->t.levels[0].n_groups;
    for (uint32_t g = 0; g < c->t.n_gpus; g++) {
        if (c->gpus[g].group[0] != before) {
            before = c->gpus[g].group[0];
            if (n > 0 && n_left > 2 && mp_rng_below(r, 2) == 0)
                n_left--;
            else
                n++;
        }
        c->gpus[g].group[0] = n - 1;
        if (c->t.n_levels > 2)
            c->gpus[g].group[1] = (n - 1) / 2;
    }
    c->levels[0].n_groups = n;
    if (c->t.n_levels > 2)
        c->levels[1].n_groups = (n + 1) / 2;
}

static void random_case(struct net_case *c, uint64_t seed, struct mp_rng *r) {
    *r = mp_rng_seed(seed);
    do
        case_random(c, r, 5, 4);
    while (c->t.n_levels < 2);
    if (mp_rng_below(r, 2))
        join_nodes(c, r);
}

/* ---- the text, byte by byte ---- */
struct byte {
    uint32_t i, j;
    uint64_t offset;
};
#define MAX_BYTES 40000u
static uint64_t shots[MAX_STAGES + 2][GPUS * GPUS], balance[MAX_STAGES][GPUS * GPUS], rail[MAX_STAGES][GPUS * GPUS],
    forward[MAX_STAGES][GPUS * GPUS], arrived[GPUS * GPUS];
static uint8_t via_out[GPUS * GPUS][300], via_in[GPUS * GPUS][300]; /* of byte `offset` of a flow */

static void weights(const struct mp_topology *t, uint32_t v, bool is_in, uint64_t *w) {
    for (uint32_t x = 0; x < t->n_gpus; x++) {
        uint32_t port = is_in ? t->gpus[x].in_port[1] : t->gpus[x].out_port[1];
        uint64_t users = 0;
        w[x] = 0;
        if (t->gpus[x].group[0] != v)
            continue;
        for (uint32_t y = 0; y < t->n_gpus; y++)
            users += t->gpus[y].group[0] == v && (is_in ? t->gpus[y].in_port[1] : t->gpus[y].out_port[1]) == port;
        w[x] = t->resources[port].bytes_per_s / users;
        w[x] = w[x] > 1 ? w[x] : 1;
    }
}
static uint64_t quota(const struct mp_topology *t, const uint64_t *w, uint32_t x, uint64_t P) {
    uint64_t before = 0, all = 0;
    for (uint32_t y = 0; y < t->n_gpus; y++) {
        before += y < x ? w[y] : 0;
        all += w[y];
    }
    return mp_mul_div(P, before + w[x], all) - mp_mul_div(P, before, all);
}

static void follow_transfer(const struct mp_topology *t, const uint64_t *D, uint32_t s, uint32_t a, uint32_t b,
                            uint64_t before, uint64_t after, uint64_t unit) {
    static struct byte own[GPUS][MAX_BYTES / 4], over[MAX_BYTES], line[MAX_BYTES];
    static struct byte sequence[GPUS][MAX_BYTES / 4];
    uint64_t n_own[GPUS] = {0}, n_sequence[GPUS] = {0}, w[GPUS], P = 0, n_over = 0, n_line = 0, at = 0;
    const uint32_t n = t->n_gpus;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++)
            if (t->gpus[i].group[0] == a && t->gpus[j].group[0] == b)
                for (uint64_t k = before * D[i * n + j] / unit; k < after * D[i * n + j] / unit; k++) {
                    assert_true(n_own[i] < MAX_BYTES / 4);
                    own[i][n_own[i]++] = (struct byte){i, j, k};
                    P++;
                }
    weights(t, a, false, w);
    for (uint32_t i = 0; i < n; i++) {
        uint64_t q = w[i] > 0 ? quota(t, w, i, P) : 0;
        for (uint64_t k = 0; k < n_own[i]; k++)
            if (k < q)
                sequence[i][n_sequence[i]++] = own[i][k];
            else
                over[n_over++] = own[i][k];
    }
    for (uint32_t x = 0; x < n; x++)
        while (w[x] > 0 && n_sequence[x] < quota(t, w, x, P)) {
            assert_true(at < n_over);
            sequence[x][n_sequence[x]++] = over[at++];
        }
    assert_int_equal(at, n_over);
    for (uint32_t x = 0; x < n; x++)
        for (uint64_t k = 0; k < n_sequence[x]; k++) {
            struct byte z = sequence[x][k];
            balance[s][z.i * n + x]++;
            via_out[z.i * n + z.j][z.offset] = (uint8_t)x;
            line[n_line++] = z;
        }
    weights(t, b, true, w);
    at = 0;
    for (uint32_t y = 0; y < n; y++)
        for (uint64_t k = w[y] > 0 ? quota(t, w, y, P) : 0; k > 0; k--) {
            struct byte z = line[at++];
            rail[s][via_out[z.i * n + z.j][z.offset] * n + y]++;
            forward[s][y * n + z.j]++;
            via_in[z.i * n + z.j][z.offset] = (uint8_t)y;
            arrived[z.i * n + z.j]++;
        }
    assert_int_equal(at, P);
}

/* All shots of D (not turned round) into `shots`; checks that every byte arrives. A swapped combine comes to `y` from
 * its destination first, and from `x` to its source last. */
static void follow(const struct mp_topology *t, const struct mp_order *o, enum mp_combine way, const uint64_t *D) {
    static uint64_t cumulative[GPUS * GPUS];
    const uint32_t n = t->n_gpus, n_nodes = t->levels[0].n_groups, S = o->n_stages;
    uint64_t ends[MAX_STAGES + 1] = {0};
    memset(shots, 0, sizeof shots);
    memset(balance, 0, sizeof balance);
    memset(rail, 0, sizeof rail);
    memset(forward, 0, sizeof forward);
    memset(arrived, 0, sizeof arrived);
    memset(cumulative, 0, sizeof cumulative);
    for (uint32_t s = 0; s < S; s++) {
        for (uint32_t k = 0; k < o->stages[s].n; k++) {
            const struct mp_transfer *r = &o->stages[s].transfers[k];
            uint64_t *sum = &cumulative[r->src * n_nodes + r->dst];
            follow_transfer(t, D, s, r->src, r->dst, *sum, *sum + r->share, o->unit);
            *sum += r->share;
        }
        ends[s + 1] = ends[s] + mp_port_bound_ns(t, rail[s]);
    }
    for (uint32_t p = 0; p < n * n; p++) {
        const uint32_t i = p / n, j = p % n;
        bool is_inside = t->gpus[i].group[0] == t->gpus[j].group[0];
        if (!is_inside)
            assert_int_equal(arrived[p], D[p]);
        for (uint32_t s = 0; s < S; s++) {
            shots[way == MP_COMBINE_SWAPPED ? s + 2 : s][p] += i == j ? 0 : balance[s][p];
            shots[s + 1][p] += rail[s][p];
            shots[way == MP_COMBINE_SWAPPED ? s : s + 2][p] += i == j ? 0 : forward[s][p];
            if (is_inside && i != j)
                shots[s + 1][p] +=
                    ends[S] == 0 ? (s == 0 ? D[p] : 0) : ends[s + 1] * D[p] / ends[S] - ends[s] * D[p] / ends[S];
        }
    }
}

struct got {
    uint32_t n, n_shots, last;
    enum mp_combine way;
    uint64_t shots[MAX_STAGES + 2][GPUS * GPUS];
};
static enum mp_status collect(void *ctx, uint32_t shot, const struct mp_hop *hops, size_t n, struct mp_error *err) {
    struct got *x = ctx;
    (void)err;
    assert_true(n > 0 && shot < MAX_STAGES + 2);
    if (x->n_shots++ > 0)
        assert_true(x->way == MP_COMBINE_REVERSED ? shot < x->last : shot > x->last);
    x->last = shot;
    for (size_t i = 0; i < n; i++) {
        assert_true(hops[i].bytes > 0 && hops[i].src != hops[i].dst);
        x->shots[shot][hops[i].src * x->n + hops[i].dst] += hops[i].bytes;
    }
    return MP_OK;
}

static void transpose(uint64_t *out, const uint64_t *matrix, uint32_t n) {
    for (uint32_t p = 0; p < n * n; p++)
        out[p % n * n + p / n] = matrix[p];
}

static void test_net_nodes__shots_are_those_of_every_byte_followed(void **state) {
    (void)state;
    static struct net_case c;
    static struct node_order order;
    static struct got got;
    static uint64_t turned[GPUS * GPUS], back[GPUS * GPUS];
    struct mp_error err = {0};
    for (uint64_t seed = 0; seed < 400; seed++) {
        struct mp_rng r;
        random_case(&c, seed, &r);
        const uint32_t n = c.t.n_gpus;
        for (uint32_t p = 0; p < n * n; p++)
            c.matrix[p] = p % (n + 1) == 0 || mp_rng_below(&r, 4) == 0 ? 0 : mp_rng_below(&r, seed % 3 ? 40 : 250);
        random_order(&order, &r, c.t.levels[0].n_groups);
        for (enum mp_combine way = MP_COMBINE_FORWARD; way < MP_N_COMBINES; way++) {
            memset(&got, 0, sizeof got);
            got.n = n;
            got.way = way;
            transpose(turned, c.matrix, n);
            follow(&c.t, &order.o, way, way == MP_COMBINE_FORWARD ? c.matrix : turned);
            CHECK_OK(mp_nodes_shots(&order.o, &c.t, way, c.matrix, collect, &got, &err), err);
            uint32_t n_shots = 0;
            uint64_t want_ns = 0, latency = 0, time_ns, staged_ns, single_ns;
            long double simulated = 0;
            for (uint32_t l = 0; l < c.t.n_levels; l++)
                latency = c.t.levels[l].latency_ns > latency ? c.t.levels[l].latency_ns : latency;
            for (uint32_t k = 0; k < order.o.n_stages + 2; k++) {
                uint64_t any = 0;
                memcpy(back, shots[k], sizeof back);
                if (way != MP_COMBINE_FORWARD)
                    transpose(back, shots[k], n);
                for (uint32_t p = 0; p < n * n; p++) {
                    any |= back[p];
                    if (got.shots[k][p] != back[p])
                        fail_msg("case %llu, shot %u, %u>%u: %llu bytes, expected %llu", (unsigned long long)seed, k,
                                 p / n, p % n, (unsigned long long)got.shots[k][p], (unsigned long long)back[p]);
                }
                if (any == 0)
                    continue;
                n_shots++;
                want_ns += c.t.stage_launch_ns + latency + mp_port_bound_ns(&c.t, back);
                if (seed < 60)
                    simulated += c.t.stage_launch_ns + slow_concurrent(&c.t, back, NULL);
            }
            assert_int_equal(n_shots, got.n_shots);
            struct mp_net *net;
            CHECK_OK(mp_net_new(&net, &c.t, &err), err);
            CHECK_OK(mp_net_order_estimate(net, &order.o, way, c.matrix, &staged_ns, &single_ns, &err), err);
            assert_int_equal(staged_ns, want_ns);
            CHECK_OK(mp_net_staged(net, &order.o, way, MP_STAGE_COUPLED, c.matrix, &time_ns, &err), err);
            if (seed < 60 &&
                ((long double)time_ns + 1e-3L < simulated || (long double)time_ns > simulated + 2 * n_shots))
                fail_msg("case %llu: %llu ns, expected %.3Lf", (unsigned long long)seed, (unsigned long long)time_ns,
                         simulated);
            mp_net_free(net);
        }
    }
}

struct relays {
    const struct mp_topology *t;
    uint64_t bytes;
};
static enum mp_status check_relays(void *ctx, uint32_t stage, const struct mp_relay *r, size_t n,
                                   struct mp_error *err) {
    struct relays *x = ctx;
    (void)stage, (void)err;
    for (size_t k = 0; k < n; k++)
        for (uint64_t o = r[k].offset; o < r[k].offset + r[k].bytes; o++) {
            size_t pair = r[k].src * x->t->n_gpus + r[k].dst;
            assert_int_equal(via_out[pair][o], r[k].out);
            assert_int_equal(via_in[pair][o], r[k].in);
            via_out[pair][o] = via_in[pair][o] = 255; /* once only */
            x->bytes++;
        }
    return MP_OK;
}

static void test_net_nodes__relays_name_the_way_of_every_byte(void **state) {
    (void)state;
    static struct net_case c;
    static struct node_order order;
    struct mp_error err = {0};
    for (uint64_t seed = 1000; seed < 1200; seed++) {
        struct mp_rng r;
        uint64_t all = 0;
        random_case(&c, seed, &r);
        const uint32_t n = c.t.n_gpus;
        for (uint32_t p = 0; p < n * n; p++) {
            c.matrix[p] = p % (n + 1) == 0 ? 0 : mp_rng_below(&r, 60);
            all += c.gpus[p / n].group[0] == c.gpus[p % n].group[0] ? 0 : c.matrix[p];
        }
        random_order(&order, &r, c.t.levels[0].n_groups);
        follow(&c.t, &order.o, MP_COMBINE_FORWARD, c.matrix);
        struct relays x = {.t = &c.t};
        CHECK_OK(mp_nodes_relays(&order.o, &c.t, c.matrix, check_relays, &x, &err), err);
        assert_int_equal(x.bytes, all);
    }
}

/* Any rails: no GPU of a node sends more than its part of what leaves the node in the stage. */
static void test_net_nodes__rails_are_even_on_equal_nodes(void **state) {
    (void)state;
    static struct net_case c;
    static struct node_order order;
    static struct got got;
    struct mp_error err = {0};
    for (uint64_t seed = 0; seed < 100; seed++) {
        struct mp_rng r = mp_rng_seed(seed);
        const uint32_t m = 1 + (uint32_t)mp_rng_below(&r, 5), n_nodes = 2 + (uint32_t)mp_rng_below(&r, 3),
                       n = m * n_nodes;
        case_plain(&c, n_nodes, m, UINT64_C(450000000000), UINT64_C(50000000000));
        case_matrix(&c, &r);
        random_order(&order, &r, n_nodes);
        memset(&got, 0, sizeof got);
        got.n = n;
        CHECK_OK(mp_nodes_shots(&order.o, &c.t, MP_COMBINE_FORWARD, c.matrix, collect, &got, &err), err);
        for (uint32_t k = 1; k <= order.o.n_stages; k++)
            for (uint32_t a = 0; a < n_nodes; a++)
                for (uint32_t b = 0; b < n_nodes; b++) {
                    uint64_t P = 0;
                    for (uint32_t x = a * m; a != b && x < (a + 1) * m; x++)
                        for (uint32_t y = b * m; y < (b + 1) * m; y++) {
                            P += got.shots[k][x * n + y];
                            if (x - a * m != y - b * m)
                                assert_int_equal(got.shots[k][x * n + y], 0);
                        }
                    for (uint32_t x = 0; a != b && x < m; x++)
                        assert_in_range(got.shots[k][(a * m + x) * n + b * m + x], P / m, P / m + 1);
                }
    }
}

static void test_net_nodes__one_flow_by_hand(void **state) {
    (void)state;
    static struct net_case c;
    struct mp_error err = {0};
    struct mp_net *net;
    struct mp_transfer all[2] = {{0, 1, 1, 1}, {1, 0, 1, 1}};
    struct mp_stage stage = {2, all};
    struct mp_order order = {
        .name = "test", .between_nodes = true, .unit = 1, .ports = 1, .n_stages = 1, .stages = &stage};
    uint64_t time_ns;
    case_plain(&c, 2, 2, UINT64_C(450000000000), UINT64_C(50000000000));
    memset(c.matrix, 0, sizeof c.matrix);
    c.matrix[0 * 4 + 2] = 9000000;
    CHECK_OK(mp_net_new(&net, &c.t, &err), err);
    /* 4.5 MB to GPU 1 at 450 GB/s, 4.5 MB on each of two NICs, 4.5 MB from GPU 3 to 2. */
    CHECK_OK(mp_net_staged(net, &order, MP_COMBINE_FORWARD, MP_STAGE_COUPLED, c.matrix, &time_ns, &err), err);
    assert_int_equal(time_ns, 10000 + 90000 + 10000);
    assert_int_equal(mp_relay_bound_ns(&c.t, c.matrix), 90000);
    assert_int_equal(mp_port_bound_ns(&c.t, c.matrix), 180000);
    /* What is even needs no balance and no forward: the bound is reached. */
    c.matrix[0 * 4 + 2] = c.matrix[1 * 4 + 3] = c.matrix[3 * 4 + 1] = c.matrix[2 * 4 + 0] = 4500000;
    for (enum mp_combine way = MP_COMBINE_FORWARD; way < MP_N_COMBINES; way++) {
        CHECK_OK(mp_net_staged(net, &order, way, MP_STAGE_COUPLED, c.matrix, &time_ns, &err), err);
        assert_int_equal(time_ns, 90000);
        assert_int_equal(mp_relay_bound_ns(&c.t, c.matrix), 90000);
    }
    /* Traffic inside nodes runs beside the rails. */
    c.matrix[0 * 4 + 1] = 40000000;
    CHECK_OK(mp_net_staged(net, &order, MP_COMBINE_FORWARD, MP_STAGE_COUPLED, c.matrix, &time_ns, &err), err);
    assert_int_equal(time_ns, 90000);
    assert_int_equal(mp_relay_bound_ns(&c.t, c.matrix), 90000);
    /* A NIC twice as fast carries twice as much: 3 MB and 6 MB. */
    memset(c.matrix, 0, sizeof c.matrix);
    c.matrix[1 * 4 + 3] = 9000000;
    c.resources[c.gpus[1].out_port[1]].bytes_per_s = c.resources[c.gpus[3].in_port[1]].bytes_per_s =
        UINT64_C(100000000000);
    mp_net_free(net);
    CHECK_OK(mp_net_new(&net, &c.t, &err), err);
    CHECK_OK(mp_net_staged(net, &order, MP_COMBINE_FORWARD, MP_STAGE_COUPLED, c.matrix, &time_ns, &err), err);
    assert_int_equal(time_ns, 6667 + 60000 + 6667);
    assert_int_equal(mp_relay_bound_ns(&c.t, c.matrix), 60000);
    /* An uplink of 60 GB/s out of each node. */
    uint32_t uplinks[4];
    for (uint32_t k = 0; k < 4; k++) {
        uplinks[k] = c.t.n_resources;
        c.resources[c.t.n_resources++] = (struct mp_resource){UINT64_C(60000000000), 0, k >= 2, true, k % 2 * 2};
    }
    c.levels[0].uplink_out = uplinks;
    c.levels[0].uplink_in = uplinks + 2;
    mp_net_free(net);
    CHECK_OK(mp_net_new(&net, &c.t, &err), err);
    CHECK_OK(mp_net_staged(net, &order, MP_COMBINE_FORWARD, MP_STAGE_COUPLED, c.matrix, &time_ns, &err), err);
    assert_int_equal(mp_relay_bound_ns(&c.t, c.matrix), 150000);
    assert_in_range(time_ns, 6667 + 150000 + 6667, 6667 + 150001 + 6667);
    mp_net_free(net);
}

/* Both orders of a direction on the transposed network are the same thing seen from the other side. */
static void test_net_nodes__reversed_is_the_transpose(void **state) {
    (void)state;
    static struct net_case c;
    static struct node_order order;
    static uint64_t turned[GPUS * GPUS];
    struct mp_error err = {0};
    for (uint64_t seed = 0; seed < 200; seed++) {
        struct mp_rng r = mp_rng_seed(seed);
        case_plain(&c, 2 + (uint32_t)mp_rng_below(&r, 3), 1 + (uint32_t)mp_rng_below(&r, 4), UINT64_C(450000000000),
                   UINT64_C(50000000000));
        case_matrix(&c, &r);
        random_order(&order, &r, c.t.levels[0].n_groups);
        transpose(turned, c.matrix, c.t.n_gpus);
        struct mp_net *net;
        uint64_t forwards, backwards;
        CHECK_OK(mp_net_new(&net, &c.t, &err), err);
        CHECK_OK(mp_net_staged(net, &order.o, MP_COMBINE_FORWARD, MP_STAGE_FREE, c.matrix, &forwards, &err), err);
        CHECK_OK(mp_net_staged(net, &order.o, MP_COMBINE_REVERSED, MP_STAGE_FREE, turned, &backwards, &err), err);
        assert_true(forwards <= backwards + MAX_STAGES + 2 && backwards <= forwards + MAX_STAGES + 2);
        mp_net_free(net);
    }
}

static void test_net_nodes__nothing_beats_the_relay_bound_on_2000_cases(void **state) {
    (void)state;
    static struct net_case c;
    static struct node_order order;
    struct mp_error err = {0};
    uint32_t n_near = 0;
    for (uint64_t seed = 0; seed < 2000; seed++) {
        struct mp_rng r;
        random_case(&c, seed, &r);
        random_order(&order, &r, c.t.levels[0].n_groups);
        struct mp_net *net;
        uint64_t time_ns, bound = mp_relay_bound_ns(&c.t, c.matrix), without;
        CHECK_OK(mp_net_new(&net, &c.t, &err), err);
        assert_true(bound <= mp_port_bound_ns(&c.t, c.matrix));
        /* The sum of its shots, not what the last comparison makes of it. */
        static struct got got;
        memset(&got, 0, sizeof got);
        got.n = c.t.n_gpus;
        CHECK_OK(mp_nodes_shots(&order.o, &c.t, MP_COMBINE_FORWARD, c.matrix, collect, &got, &err), err);
        without = 0;
        for (uint32_t k = 0; k < order.o.n_stages + 2; k++) {
            CHECK_OK(mp_net_concurrent(net, got.shots[k], &time_ns, NULL, &err), err);
            without += time_ns + (time_ns > 0 ? c.t.stage_launch_ns : 0);
        }
        CHECK_OK(mp_net_staged(net, &order.o, MP_COMBINE_FORWARD, MP_STAGE_COUPLED, c.matrix, &time_ns, &err), err);
        if (without < bound)
            fail_msg("case %llu: %llu ns, below the bound of %llu", (unsigned long long)seed,
                     (unsigned long long)without, (unsigned long long)bound);
        assert_true(time_ns >= without && time_ns <= without + order.o.n_stages + 2);
        n_near += without < bound + bound / 2;
        mp_net_free(net);
    }
    assert_true(n_near > 100); /* the bound is not far below everything */
}

/* Rates of the different ports, of levels >= from, of the GPUs for which is_member holds. */
static uint64_t all_ports(const struct mp_topology *t, const bool *is_member, uint32_t from, bool is_in) {
    static bool is_counted[CASE_RESOURCES];
    uint64_t rate = 0;
    memset(is_counted, 0, sizeof is_counted);
    for (uint32_t g = 0; g < t->n_gpus; g++)
        for (uint32_t l = from; is_member[g] && l < t->n_levels; l++) {
            uint32_t port = is_in ? t->gpus[g].in_port[l] : t->gpus[g].out_port[l];
            rate += is_counted[port] ? 0 : t->resources[port].bytes_per_s;
            is_counted[port] = true;
        }
    return rate;
}
/* Bytes between the members and all others. */
static uint64_t crossing(const struct mp_topology *t, const uint64_t *matrix, const bool *is_member, bool is_in) {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < t->n_gpus; i++)
        for (uint32_t j = 0; j < t->n_gpus; j++)
            bytes += i != j && is_member[i] == !is_in && is_member[j] == is_in ? matrix[i * t->n_gpus + j] : 0;
    return bytes;
}
static uint64_t slow_relay_bound(const struct mp_topology *t, const uint64_t *matrix) {
    bool is_member[CASE_GPUS];
    uint64_t bound = 0;
#define AT_LEAST(rate)                                                                                                 \
    do {                                                                                                               \
        uint64_t ns_ = mp_mul_div_ceil(crossing(t, matrix, is_member, is_in == 1), UINT64_C(1000000000), (rate));      \
        bound = ns_ > bound ? ns_ : bound;                                                                             \
    } while (0)
    for (int is_in = 0; is_in < 2; is_in++) {
        for (uint32_t g = 0; g < t->n_gpus; g++) {
            memset(is_member, 0, sizeof is_member);
            is_member[g] = true;
            AT_LEAST(all_ports(t, is_member, 0, is_in == 1));
        }
        for (uint32_t l = 0; l + 1 < t->n_levels; l++)
            for (uint32_t v = 0; v < t->levels[l].n_groups; v++) {
                for (uint32_t g = 0; g < t->n_gpus; g++)
                    is_member[g] = t->gpus[g].group[l] == v;
                if (l == 0)
                    AT_LEAST(all_ports(t, is_member, 1, is_in == 1));
                if (t->levels[l].uplink_out != NULL)
                    AT_LEAST(t->resources[is_in ? t->levels[l].uplink_in[v] : t->levels[l].uplink_out[v]].bytes_per_s);
            }
    }
#undef AT_LEAST
    return bound;
}
static void test_net_nodes__bound_is_that_of_its_definition(void **state) {
    (void)state;
    static struct net_case c;
    for (uint64_t seed = 0; seed < 3000; seed++) {
        struct mp_rng r;
        random_case(&c, seed, &r);
        assert_int_equal(mp_relay_bound_ns(&c.t, c.matrix), slow_relay_bound(&c.t, c.matrix));
    }
}

static void test_net_nodes__bound_scales_and_turns(void **state) {
    (void)state;
    static struct net_case c;
    for (uint64_t seed = 0; seed < 300; seed++) {
        struct mp_rng r;
        random_case(&c, seed, &r);
        uint64_t before = mp_relay_bound_ns(&c.t, c.matrix);
        for (uint32_t i = 0; i < c.t.n_resources; i++)
            c.resources[i].bytes_per_s *= 2;
        uint64_t halved = mp_relay_bound_ns(&c.t, c.matrix);
        assert_true(halved * 2 >= before && halved * 2 <= before + 1);
        for (uint32_t p = 0; p < c.t.n_gpus * c.t.n_gpus; p++)
            c.matrix[p] *= 2;
        assert_int_equal(mp_relay_bound_ns(&c.t, c.matrix), before);
        for (uint32_t p = 0; p < c.t.n_gpus * c.t.n_gpus; p++) /* less traffic, no more time */
            c.matrix[p] = mp_rng_below(&r, 2) ? c.matrix[p] : 0;
        assert_true(mp_relay_bound_ns(&c.t, c.matrix) <= before);
    }
}

static void test_net_nodes__the_log_has_every_shot_where_it_ran(void **state) {
    (void)state;
    static struct net_case c;
    static struct node_order order;
    struct mp_error err = {0};
    for (uint64_t seed = 0; seed < 100; seed++)
        for (enum mp_combine way = MP_COMBINE_FORWARD; way < MP_N_COMBINES; way++) {
            struct mp_rng r;
            random_case(&c, seed, &r);
            random_order(&order, &r, c.t.levels[0].n_groups);
            struct mp_net *net;
            struct mp_net_log log = {0};
            uint64_t time_ns, plain_ns, first[MAX_STAGES + 2], last[MAX_STAGES + 2] = {0};
            uint32_t n_shots = 0;
            memset(first, 0xff, sizeof first);
            CHECK_OK(mp_net_new(&net, &c.t, &err), err);
            CHECK_OK(mp_net_staged(net, &order.o, way, MP_STAGE_FREE, c.matrix, &plain_ns, &err), err);
            mp_net_log_to(net, &log);
            CHECK_OK(mp_net_staged(net, &order.o, way, MP_STAGE_FREE, c.matrix, &time_ns, &err), err);
            assert_int_equal(time_ns, plain_ns);
            for (size_t i = 0; i < log.n; i++) {
                const struct mp_net_transfer *x = &log.transfers[i];
                assert_true(x->stage < MAX_STAGES + 2 && x->start_ns <= x->end_ns && x->end_ns <= time_ns);
                first[x->stage] = x->start_ns < first[x->stage] ? x->start_ns : first[x->stage];
                last[x->stage] = x->end_ns > last[x->stage] ? x->end_ns : last[x->stage];
                n_shots = x->stage + 1 > n_shots ? x->stage + 1 : n_shots;
            }
            for (uint32_t k = 0; k < n_shots; k++)
                assert_true(first[k] >= (k == 0 ? 0 : last[k - 1]) + c.t.stage_launch_ns);
            mp_net_log_free(&log);
            mp_net_free(net);
        }
}

static enum mp_status run_all(void *ctx, struct mp_error *err) {
    static struct got got;
    struct net_case *c = ctx;
    struct mp_transfer all[2] = {{0, 1, 3, 1}, {1, 0, 3, 1}};
    struct mp_stage stage = {2, all};
    struct mp_order order = {
        .name = "test", .between_nodes = true, .unit = 3, .ports = 1, .n_stages = 1, .stages = &stage};
    struct relays relays = {.t = &c->t};
    struct mp_net *net = NULL;
    uint64_t time_ns, single_ns;
    enum mp_status status;
    memset(&got, 0, sizeof got);
    got.n = c->t.n_gpus;
    for (got.way = MP_COMBINE_REVERSED; got.way < MP_N_COMBINES; got.way++, got.n_shots = 0)
        MP_TRY(mp_nodes_shots(&order, &c->t, got.way, c->matrix, collect, &got, err));
    follow(&c->t, &order, MP_COMBINE_FORWARD, c->matrix);
    MP_TRY(mp_nodes_relays(&order, &c->t, c->matrix, check_relays, &relays, err));
    MP_TRY(mp_net_new(&net, &c->t, err));
    for (enum mp_combine way = MP_COMBINE_REVERSED; way < MP_N_COMBINES; way++)
        MP_TRY(mp_net_staged(net, &order, way, MP_STAGE_FREE, c->matrix, &time_ns, err));
    MP_TRY(mp_net_order_estimate(net, &order, MP_COMBINE_FORWARD, c->matrix, &time_ns, &single_ns, err));
out:
    mp_net_free(net);
    return status;
}
static void test_net_nodes__survives_every_failed_allocation(void **state) {
    (void)state;
    static struct net_case c;
    case_plain(&c, 2, 3, UINT64_C(450000000000), UINT64_C(50000000000));
    for (uint32_t p = 0; p < 36; p++)
        c.matrix[p] = p % 7 * 30;
    sweep_faults(run_all, &c, 1);
}

static void test_net_nodes__orders_that_do_not_fit_are_refused(void **state) {
    (void)state;
    static struct net_case c;
    struct mp_transfer all[2] = {{0, 1, 3, 1}, {1, 0, 2, 1}};
    struct mp_stage stage = {2, all};
    struct mp_order order = {
        .name = "test", .between_nodes = true, .unit = 3, .ports = 1, .n_stages = 1, .stages = &stage};
    struct mp_net *net;
    struct mp_error err = {0};
    uint64_t time_ns;
    case_plain(&c, 2, 2, UINT64_C(450000000000), UINT64_C(50000000000));
    c.matrix[2 * 4 + 1] = 5;
    CHECK_OK(mp_net_new(&net, &c.t, &err), err);
    assert_int_equal(mp_net_staged(net, &order, MP_COMBINE_FORWARD, MP_STAGE_FREE, c.matrix, &time_ns, &err), MP_EBUG);
    assert_non_null(strstr(err.message, "unsent"));
    err = (struct mp_error){0};
    all[1].share = 4;
    assert_int_equal(mp_net_staged(net, &order, MP_COMBINE_FORWARD, MP_STAGE_FREE, c.matrix, &time_ns, &err), MP_EBUG);
    assert_non_null(strstr(err.message, "pass the unit"));
    err = (struct mp_error){0};
    all[1] = (struct mp_transfer){2, 0, 3, 1};
    assert_int_equal(mp_net_staged(net, &order, MP_COMBINE_FORWARD, MP_STAGE_FREE, c.matrix, &time_ns, &err), MP_EBUG);
    assert_non_null(strstr(err.message, "node 2"));
    mp_net_free(net);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_net_nodes__shots_are_those_of_every_byte_followed),
        cmocka_unit_test(test_net_nodes__relays_name_the_way_of_every_byte),
        cmocka_unit_test(test_net_nodes__rails_are_even_on_equal_nodes),
        cmocka_unit_test(test_net_nodes__one_flow_by_hand),
        cmocka_unit_test(test_net_nodes__reversed_is_the_transpose),
        cmocka_unit_test(test_net_nodes__nothing_beats_the_relay_bound_on_2000_cases),
        cmocka_unit_test(test_net_nodes__bound_is_that_of_its_definition),
        cmocka_unit_test(test_net_nodes__bound_scales_and_turns),
        cmocka_unit_test(test_net_nodes__the_log_has_every_shot_where_it_ran),
        cmocka_unit_test(test_net_nodes__survives_every_failed_allocation),
        cmocka_unit_test(test_net_nodes__orders_that_do_not_fit_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
