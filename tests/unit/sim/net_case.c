#include "net_case.h"
#include <math.h>

static uint32_t add_resource(struct net_case *c, uint64_t rate, uint32_t level, bool is_in, bool is_uplink,
                             uint32_t gpu) {
    uint32_t id = c->t.n_resources++;
    assert_true(id < CASE_RESOURCES);
    c->resources[id] = (struct mp_resource){rate, level, is_in, is_uplink, gpu};
    return id;
}

static void begin(struct net_case *c, uint32_t n_nodes, uint32_t per_node) {
    memset(c, 0, sizeof *c);
    c->types[0] = (struct mp_gpu_type){.name = "gpu",
                                       .source = "test",
                                       .memory_bytes = UINT64_C(1) << 36,
                                       .hbm_bytes_per_s = UINT64_C(2000000000000),
                                       .flops_16bit = UINT64_C(500000000000000),
                                       .hbm_efficiency_ppm = 800000,
                                       .flops_efficiency_ppm = 600000,
                                       .kernel_ns = 2500,
                                       .tile_tokens = 16};
    c->types[1] = c->types[0];
    c->types[1].name = "slow";
    c->types[1].flops_16bit /= 3;
    c->types[1].tile_tokens = 64;
    c->t = (struct mp_topology){.name = "case",
                                .n_gpus = n_nodes * per_node,
                                .n_types = 2,
                                .gpus = c->gpus,
                                .types = c->types,
                                .levels = c->levels,
                                .resources = c->resources};
    memset(c->t.sha256, '0', 64);
    for (uint32_t g = 0; g < c->t.n_gpus; g++) {
        c->gpus[g].speed_ppm = 1000000;
        c->gpus[g].group[0] = g / per_node;
    }
}

void case_plain(struct net_case *c, uint32_t n_nodes, uint32_t per_node, uint64_t nvlink, uint64_t nic) {
    begin(c, n_nodes, per_node);
    c->t.n_levels = n_nodes > 1 ? 2 : 1;
    c->levels[0] = (struct mp_level){.name = "nvlink", .n_groups = n_nodes};
    c->levels[1] = (struct mp_level){.name = "net", .n_groups = 1};
    for (uint32_t g = 0; g < c->t.n_gpus; g++)
        for (uint32_t l = 0; l < c->t.n_levels; l++) {
            c->gpus[g].out_port[l] = add_resource(c, l == 0 ? nvlink : nic, l, false, false, g);
            c->gpus[g].in_port[l] = add_resource(c, l == 0 ? nvlink : nic, l, true, false, g);
        }
}

static uint64_t random_rate(struct mp_rng *r, bool is_tied, uint64_t base) {
    static const uint64_t some[] = {UINT64_C(50000000000), UINT64_C(25000000000), UINT64_C(100000000000),
                                    UINT64_C(12500000000)};
    return is_tied ? base : mp_rng_below(r, 2) ? some[mp_rng_below(r, 4)] : base / 4 + mp_rng_below(r, base);
}

void case_random(struct net_case *c, struct mp_rng *r, uint32_t max_nodes, uint32_t max_per_node) {
    uint32_t n_nodes = 1 + (uint32_t)mp_rng_below(r, max_nodes), per_node = 1 + (uint32_t)mp_rng_below(r, max_per_node);
    if (n_nodes * per_node < 2)
        per_node = 2;
    begin(c, n_nodes, per_node);
    bool is_tied = mp_rng_below(r, 3) == 0, has_racks = n_nodes > 2 && mp_rng_below(r, 2) == 0;
    uint32_t share = mp_rng_below(r, 3) == 0 ? 2 : 1; /* GPUs per NIC */
    c->t.n_levels = n_nodes == 1 ? 1 : has_racks ? 3 : 2;
    c->levels[0] = (struct mp_level){.name = "nvlink", .n_groups = n_nodes};
    c->levels[1] = (struct mp_level){.name = "net", .n_groups = has_racks ? (n_nodes + 1) / 2 : 1};
    c->levels[2] = (struct mp_level){.name = "spine", .n_groups = 1};
    for (uint32_t l = 0; l < c->t.n_levels; l++) {
        struct mp_level *v = &c->levels[l];
        v->latency_ns = mp_rng_below(r, 2) ? mp_rng_below(r, 5000) : 0;
        v->pair_bytes_per_s = mp_rng_below(r, 4) == 0 ? random_rate(r, false, UINT64_C(20000000000)) : 0;
        if (mp_rng_below(r, 3) == 0) {
            v->n_incast = 1 + (uint32_t)mp_rng_below(r, 4);
            v->incast_ppm = c->incast[l];
            for (uint32_t i = 0; i < v->n_incast; i++)
                c->incast[l][i] = i == 0 ? 1000000 : c->incast[l][i - 1] - (uint32_t)mp_rng_below(r, 150000);
        }
    }
    for (uint32_t g = 0; g < c->t.n_gpus; g++) {
        struct mp_gpu *u = &c->gpus[g];
        u->type = (uint32_t)mp_rng_below(r, 2);
        u->speed_ppm = mp_rng_below(r, 2) ? 1000000 : 800000 + (uint32_t)mp_rng_below(r, 400000);
        u->group[1] = has_racks ? u->group[0] / 2 : 0;
        u->out_port[0] = add_resource(c, random_rate(r, is_tied, UINT64_C(100000000000)), 0, false, false, g);
        u->in_port[0] = add_resource(c, random_rate(r, is_tied, UINT64_C(100000000000)), 0, true, false, g);
        for (uint32_t l = 1; l < c->t.n_levels; l++) {
            bool is_shared = g % per_node % share != 0, is_same = l == 2 || (share == 1 && mp_rng_below(r, 6) == 0);
            if (is_shared || is_same) {
                u->out_port[l] = is_shared ? c->gpus[g - 1].out_port[l] : u->out_port[l - 1];
                u->in_port[l] = is_shared ? c->gpus[g - 1].in_port[l] : u->in_port[l - 1];
                continue;
            }
            u->out_port[l] = add_resource(c, random_rate(r, is_tied, UINT64_C(25000000000)), l, false, false, g);
            u->in_port[l] = add_resource(c, random_rate(r, is_tied, UINT64_C(25000000000)), l, true, false, g);
        }
    }
    for (uint32_t l = 0; l + 1 < c->t.n_levels; l++) {
        if (mp_rng_below(r, 2) == 0)
            continue;
        for (uint32_t v = 0; v < c->levels[l].n_groups; v++) {
            uint32_t first = 0;
            while (c->gpus[first].group[l] != v)
                first++;
            uint64_t rate = random_rate(r, is_tied, UINT64_C(60000000000)) +
                            (mp_rng_below(r, 4) == 0 ? UINT64_C(1000000000000) : 0);
            c->uplink_out[l][v] = add_resource(c, rate, l, false, true, first);
            c->uplink_in[l][v] = add_resource(c, rate, l, true, true, first);
        }
        c->levels[l].uplink_out = c->uplink_out[l];
        c->levels[l].uplink_in = c->uplink_in[l];
    }
    c->t.launch_ns = mp_rng_below(r, 20000);
    c->t.stage_launch_ns = mp_rng_below(r, 2) ? mp_rng_below(r, 20000) : 0;
    case_matrix(c, r);
}

void case_matrix(struct net_case *c, struct mp_rng *r) {
    uint32_t n = c->t.n_gpus, shape = (uint32_t)mp_rng_below(r, 6);
    for (uint32_t i = 0; i < n; i++) {
        bool is_idle = mp_rng_below(r, 6) == 0;
        for (uint32_t j = 0; j < n; j++) {
            uint64_t bytes = 1 + mp_rng_below(r, 1000000);
            if (shape == 0)
                bytes = 65536;
            if (shape == 1)
                bytes = mp_rng_below(r, 3) * 40000;
            if (shape == 2)
                bytes = UINT64_C(1) << mp_rng_below(r, 34);
            if (shape == 3 && j > 0)
                bytes /= 100; /* one hot receiver */
            c->matrix[(size_t)i * n + j] = i == j || is_idle ? 0 : bytes;
        }
    }
}

void case_order(struct test_order *x, struct mp_rng *r, uint32_t n, uint32_t ports, uint64_t port_rate,
                bool has_flush) {
    static struct mp_transfer flush[CASE_PER_STAGE];
    uint32_t n_flush = 0;
    static uint32_t sends[CASE_STAGES][CASE_GPUS], receives[CASE_STAGES][CASE_GPUS];
    memset(sends, 0, sizeof sends);
    memset(receives, 0, sizeof receives);
    *x = (struct test_order){.o = {.name = "test",
                                   .unit = 1 + (uint32_t)mp_rng_below(r, 1000),
                                   .ports = ports,
                                   .port_bytes_per_s = port_rate}};
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++) {
            uint32_t left = i == j ? 0 : x->o.unit, s = (uint32_t)mp_rng_below(r, 4);
            for (; left > 0; s++) {
                assert_true(s < CASE_STAGES);
                if (has_flush && mp_rng_below(r, 2) == 0) {
                    assert_true(n_flush < CASE_PER_STAGE);
                    flush[n_flush++] = (struct mp_transfer){(uint16_t)i, (uint16_t)j, left, 1};
                    break;
                }
                if (sends[s][i] == ports || receives[s][j] == ports)
                    continue;
                uint32_t share = mp_rng_below(r, 2) ? left : 1 + (uint32_t)mp_rng_below(r, left);
                uint32_t room = ports - (sends[s][i] > receives[s][j] ? sends[s][i] : receives[s][j]);
                uint32_t width = 1 + (uint32_t)mp_rng_below(r, room);
                sends[s][i] += width;
                receives[s][j] += width;
                assert_true(x->stages[s].n < CASE_PER_STAGE);
                x->transfers[s][x->stages[s].n++] =
                    (struct mp_transfer){(uint16_t)i, (uint16_t)j, share, (uint16_t)width};
                left -= share;
                x->o.n_stages = s + 1 > x->o.n_stages ? s + 1 : x->o.n_stages;
            }
        }
    if (n_flush > 0) {
        assert_true(x->o.n_stages < CASE_STAGES);
        memcpy(x->transfers[x->o.n_stages], flush, sizeof flush);
        x->stages[x->o.n_stages++].n = n_flush;
        x->o.has_flush = true;
    }
    for (uint32_t s = 0; s < x->o.n_stages; s++)
        x->stages[s].transfers = x->transfers[s];
    x->o.stages = x->stages;
}

/* ---- slow and obvious ---- */

struct slow_flow {
    uint32_t src, dst, n, resource[10];
    long double left, cap, rate;
    bool is_active, is_frozen;
};

static void slow_route(const struct mp_topology *t, struct slow_flow *f) {
    uint32_t level = 0;
    f->n = 0;
    while (t->gpus[f->src].group[level] != t->gpus[f->dst].group[level])
        level++;
    f->resource[f->n++] = t->gpus[f->src].out_port[level];
    f->resource[f->n++] = t->gpus[f->dst].in_port[level];
    for (uint32_t l = 0; l < level; l++)
        if (t->levels[l].uplink_out != NULL) {
            f->resource[f->n++] = t->levels[l].uplink_out[t->gpus[f->src].group[l]];
            f->resource[f->n++] = t->levels[l].uplink_in[t->gpus[f->dst].group[l]];
        }
    f->cap = t->levels[level].pair_bytes_per_s > 0 ? (long double)t->levels[level].pair_bytes_per_s / 1e9L : INFINITY;
}
static long double slow_latency(const struct mp_topology *t, uint32_t src, uint32_t dst) {
    uint32_t level = 0;
    while (t->gpus[src].group[level] != t->gpus[dst].group[level])
        level++;
    return (long double)t->levels[level].latency_ns;
}

/* Progressive filling: the least share over all resources and caps is fixed first, again and again. */
static void slow_rates(const struct mp_topology *t, struct slow_flow *flows, size_t n_flows) {
    static long double room[CASE_RESOURCES];
    static uint32_t users[CASE_RESOURCES], all[CASE_RESOURCES];
    memset(all, 0, sizeof all);
    size_t n_left = 0;
    for (size_t f = 0; f < n_flows; f++) {
        flows[f].is_frozen = !flows[f].is_active;
        flows[f].rate = 0;
        n_left += flows[f].is_active;
        for (uint32_t k = 0; k < flows[f].n && flows[f].is_active; k++)
            all[flows[f].resource[k]]++;
    }
    for (uint32_t r = 0; r < t->n_resources; r++) {
        const struct mp_resource *x = &t->resources[r];
        const struct mp_level *v = &t->levels[x->level];
        room[r] = (long double)x->bytes_per_s / 1e9L;
        if (x->is_in && !x->is_uplink && v->n_incast > 0 && all[r] > 0)
            room[r] = room[r] * v->incast_ppm[(all[r] < v->n_incast ? all[r] : v->n_incast) - 1] / 1e6L;
        users[r] = all[r];
    }
    while (n_left > 0) {
        long double least = INFINITY;
        uint32_t at = MP_NONE;
        for (uint32_t r = 0; r < t->n_resources; r++)
            if (users[r] > 0 && room[r] / users[r] < least) {
                least = room[r] / users[r];
                at = r;
            }
        size_t capped = n_flows;
        for (size_t f = 0; f < n_flows; f++)
            if (!flows[f].is_frozen && flows[f].cap < least) {
                least = flows[f].cap;
                capped = f;
            }
        for (size_t f = 0; f < n_flows; f++) {
            bool is_on = f == capped;
            for (uint32_t k = 0; k < flows[f].n && capped == n_flows; k++)
                is_on |= flows[f].resource[k] == at;
            if (!is_on || flows[f].is_frozen)
                continue;
            flows[f].is_frozen = true;
            flows[f].rate = least;
            n_left--;
            for (uint32_t k = 0; k < flows[f].n; k++) {
                room[flows[f].resource[k]] -= least;
                users[flows[f].resource[k]]--;
            }
        }
    }
}

long double slow_concurrent(const struct mp_topology *t, const uint64_t *matrix, long double *finish) {
    static struct slow_flow flows[CASE_GPUS * CASE_GPUS];
    size_t n_flows = 0, n_left;
    long double now = 0, last = 0;
    for (uint32_t i = 0; i < t->n_gpus; i++)
        for (uint32_t j = 0; j < t->n_gpus; j++) {
            if (finish != NULL)
                finish[(size_t)i * t->n_gpus + j] = 0;
            if (i == j || matrix[(size_t)i * t->n_gpus + j] == 0)
                continue;
            struct slow_flow *f = &flows[n_flows++];
            *f = (struct slow_flow){
                .src = i, .dst = j, .left = (long double)matrix[(size_t)i * t->n_gpus + j], .is_active = true};
            slow_route(t, f);
        }
    for (n_left = n_flows; n_left > 0;) {
        slow_rates(t, flows, n_flows);
        long double step = INFINITY;
        for (size_t f = 0; f < n_flows; f++)
            if (flows[f].is_active)
                step = fminl(step, flows[f].left / flows[f].rate);
        for (size_t f = 0; f < n_flows; f++) {
            if (!flows[f].is_active)
                continue;
            bool has_ended = flows[f].left / flows[f].rate <= step * (1 + 1e-15L) + 1e-12L;
            flows[f].left -= flows[f].rate * step;
            if (!has_ended)
                continue;
            flows[f].is_active = false;
            n_left--;
            long double end = now + step + slow_latency(t, flows[f].src, flows[f].dst);
            last = fmaxl(last, end);
            if (finish != NULL)
                finish[(size_t)flows[f].src * t->n_gpus + flows[f].dst] = end;
        }
        now += step;
    }
    return last;
}

/* Jobs with their predecessors worked out pair by pair. */
struct slow_job {
    uint32_t src, dst, stage;
    long double start, end; /* INFINITY = not known yet */
    bool is_sent;
};

/* come NULL, or when each rank has come; gone NULL, or when each has ended all its jobs. */
static long double slow_run(const struct mp_topology *t, struct slow_job *jobs, struct slow_flow *flows, size_t n,
                            int mode, long double launch, const uint64_t *come, long double *gone) {
    long double now = 0, last = 0;
    size_t n_left = n;
    while (n_left > 0) {
        /* A start is known once every job that must end before it has a known end. */
        for (size_t i = 0; i < n; i++) {
            long double ready = 0;
            if (jobs[i].start < INFINITY)
                continue;
            if (come != NULL)
                ready = fmaxl((long double)come[jobs[i].src], (long double)come[jobs[i].dst]);
            for (size_t k = 0; k < n; k++) {
                if (jobs[k].stage >= jobs[i].stage)
                    continue;
                bool same_sender = jobs[k].src == jobs[i].src, same_receiver = jobs[k].dst == jobs[i].dst;
                bool crossed = jobs[k].src == jobs[i].dst || jobs[k].dst == jobs[i].src;
                bool before = mode == MP_STAGE_BARRIER || same_sender || (same_receiver && mode >= 0) ||
                              (crossed && mode == MP_STAGE_COUPLED);
                if (before)
                    ready = fmaxl(ready, jobs[k].end);
            }
            if (ready < INFINITY)
                jobs[i].start = ready + launch;
        }
        for (size_t i = 0; i < n; i++)
            flows[i].is_active = !jobs[i].is_sent && jobs[i].start <= now * (1 + 1e-15L);
        slow_rates(t, flows, n);
        long double next = INFINITY;
        for (size_t i = 0; i < n; i++) {
            if (flows[i].is_active)
                next = fminl(next, now + flows[i].left / flows[i].rate);
            else if (!jobs[i].is_sent)
                next = fminl(next, jobs[i].start);
        }
        for (size_t i = 0; i < n; i++) {
            if (!flows[i].is_active)
                continue;
            bool has_ended = now + flows[i].left / flows[i].rate <= next * (1 + 1e-15L) + 1e-12L;
            flows[i].left -= flows[i].rate * (next - now);
            if (!has_ended)
                continue;
            jobs[i].is_sent = true;
            jobs[i].end = next + slow_latency(t, jobs[i].src, jobs[i].dst);
            last = fmaxl(last, jobs[i].end);
            n_left--;
        }
        now = next;
    }
    for (uint32_t g = 0; gone != NULL && g < t->n_gpus; g++) {
        gone[g] = (long double)come[g];
        for (size_t i = 0; i < n; i++)
            if (jobs[i].src == g || jobs[i].dst == g)
                gone[g] = fmaxl(gone[g], jobs[i].end);
    }
    return last;
}

long double slow_staged(const struct mp_topology *t, const struct mp_order *o, enum mp_combine way,
                        enum mp_stage_mode mode, const uint64_t *matrix) {
    return slow_staged_from(t, o, way, mode, matrix, NULL, NULL);
}

void slow_concurrent_from(const struct mp_topology *t, const uint64_t *matrix, const uint64_t *come,
                          long double *gone) {
    static struct slow_job jobs[4096];
    static struct slow_flow flows[4096];
    size_t n = 0;
    for (uint32_t i = 0; i < t->n_gpus; i++)
        for (uint32_t j = 0; j < t->n_gpus; j++) {
            if (i == j || matrix[(size_t)i * t->n_gpus + j] == 0)
                continue;
            jobs[n] = (struct slow_job){i, j, 0, INFINITY, INFINITY, false};
            flows[n] = (struct slow_flow){.src = i, .dst = j, .left = (long double)matrix[(size_t)i * t->n_gpus + j]};
            slow_route(t, &flows[n++]);
        }
    (void)slow_run(t, jobs, flows, n, MP_STAGE_FREE, 0, come, gone);
}

long double slow_staged_from(const struct mp_topology *t, const struct mp_order *o, enum mp_combine way,
                             enum mp_stage_mode mode, const uint64_t *matrix, const uint64_t *come, long double *gone) {
    static struct slow_job jobs[4096];
    static struct slow_flow flows[4096];
    const bool is_turned = way != MP_COMBINE_FORWARD;
    size_t n = 0;
    for (uint32_t s = 0; s < o->n_stages; s++)
        for (uint32_t k = 0; k < o->stages[s].n; k++) {
            struct mp_transfer x = o->stages[s].transfers[k];
            unsigned __int128 bytes = matrix[is_turned ? x.dst * t->n_gpus + x.src : x.src * t->n_gpus + x.dst],
                              before = 0;
            for (uint32_t q = 0; q < s; q++)
                for (uint32_t p = 0; p < o->stages[q].n; p++)
                    if (o->stages[q].transfers[p].src == x.src && o->stages[q].transfers[p].dst == x.dst)
                        before += o->stages[q].transfers[p].share;
            unsigned __int128 piece = bytes * (before + x.share) / o->unit - bytes * before / o->unit;
            if (piece == 0)
                continue;
            assert_true(n < 4096);
            jobs[n] = (struct slow_job){is_turned ? x.dst : x.src,
                                        is_turned ? x.src : x.dst,
                                        way == MP_COMBINE_REVERSED ? o->n_stages - s : s,
                                        INFINITY,
                                        INFINITY,
                                        false};
            flows[n] = (struct slow_flow){.src = jobs[n].src, .dst = jobs[n].dst, .left = (long double)piece};
            slow_route(t, &flows[n]);
            bool is_flush = o->has_flush && s == o->n_stages - 1;
            if (o->port_bytes_per_s > 0 && !is_flush)
                flows[n].cap = fminl(flows[n].cap, (long double)o->port_bytes_per_s * x.width / 1e9L);
            n++;
        }
    return slow_run(t, jobs, flows, n, (int)mode, (long double)t->stage_launch_ns, come, gone);
}

long double slow_one_at_a_time(const struct mp_topology *t, const uint32_t *order, const uint64_t *matrix) {
    static struct slow_job jobs[4096];
    static struct slow_flow flows[4096];
    size_t n = 0;
    for (uint32_t i = 0; i < t->n_gpus; i++)
        for (uint32_t k = 0; k < t->n_gpus && order[i * t->n_gpus + k] != MP_NONE; k++) {
            uint32_t dst = order[i * t->n_gpus + k];
            jobs[n] = (struct slow_job){i, dst, k, INFINITY, INFINITY, false};
            flows[n] = (struct slow_flow){.src = i, .dst = dst, .left = (long double)matrix[i * t->n_gpus + dst]};
            slow_route(t, &flows[n++]);
        }
    return slow_run(t, jobs, flows, n, -1, 0, NULL, NULL);
}
