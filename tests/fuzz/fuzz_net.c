/* Bytes become a small cluster, a traffic matrix and an order; every network model runs, and what must hold always is
 * checked. */
#include <moeplan/sim.h>
#include <stdlib.h>
#include <string.h>

#define MAX_GPUS 5u /* small, so that many inputs are tried */

struct bytes {
    const uint8_t *p;
    size_t n;
};
static uint64_t take(struct bytes *b, unsigned width) {
    uint64_t v = 0;
    for (unsigned i = 0; i < width && b->n > 0; i++, b->p++, b->n--)
        v = v << 8 | *b->p;
    return v;
}
static void require(bool is_true) {
    if (!is_true)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct bytes b = {data, size};
    struct mp_gpu gpus[MAX_GPUS] = {0};
    struct mp_resource resources[MAX_GPUS * 6] = {0};
    struct mp_level levels[2] = {{.name = "in"}, {.name = "out", .n_groups = 1}};
    struct mp_gpu_type type = {.name = "gpu"};
    uint32_t uplink_out[MAX_GPUS], uplink_in[MAX_GPUS], incast[3] = {1000000, 0, 0};
    uint8_t shape = (uint8_t)take(&b, 1), flags = (uint8_t)take(&b, 1);
    uint32_t n = 2 + shape % (MAX_GPUS - 1), per_node = 1 + (shape >> 4) % n, n_res = 0;
    for (uint32_t g = 0; g < n; g++) {
        gpus[g].speed_ppm = 1000000;
        gpus[g].group[0] = g / per_node;
        for (uint32_t l = 0; l < 2; l++) {
            bool is_shared = l == 1 && (flags & 1) != 0 && g % per_node % 2 == 1;
            gpus[g].out_port[l] = is_shared ? gpus[g - 1].out_port[l] : n_res;
            gpus[g].in_port[l] = is_shared ? gpus[g - 1].in_port[l] : n_res + 1;
            for (uint32_t k = 0; k < 2 && !is_shared; k++)
                resources[n_res++] = (struct mp_resource){
                    .bytes_per_s = 1 + (take(&b, 2) << 22), .level = l, .is_in = k == 1, .first_gpu = g};
        }
    }
    levels[0].n_groups = (n + per_node - 1) / per_node;
    if ((flags & 2) != 0) {
        for (uint32_t v = 0; v < levels[0].n_groups; v++)
            for (uint32_t k = 0; k < 2; k++) {
                (k == 0 ? uplink_out : uplink_in)[v] = n_res;
                resources[n_res++] = (struct mp_resource){.bytes_per_s = 1 + (take(&b, 2) << 24),
                                                          .is_in = k == 1,
                                                          .is_uplink = true,
                                                          .first_gpu = v * per_node};
            }
        levels[0].uplink_out = uplink_out;
        levels[0].uplink_in = uplink_in;
    }
    if ((flags & 4) != 0) {
        incast[1] = 1000000 - (uint32_t)(take(&b, 1) * 1000);
        incast[2] = incast[1] / 2;
        levels[1].n_incast = 3;
        levels[1].incast_ppm = incast;
    }
    levels[0].pair_bytes_per_s = (flags & 8) != 0 ? 1 + (take(&b, 2) << 20) : 0;
    levels[0].latency_ns = take(&b, 1);
    levels[1].latency_ns = take(&b, 2);
    struct mp_topology t = {.name = "fuzz",
                            .n_gpus = n,
                            .n_types = 1,
                            .n_levels = 2,
                            .n_resources = n_res,
                            .gpus = gpus,
                            .types = &type,
                            .levels = levels,
                            .resources = resources,
                            .stage_launch_ns = take(&b, 1)};
    /* Stages of at most one transfer per pair in each; the last share of a pair goes to the end unless the input takes
     * it away. */
    struct mp_transfer transfers[8][MAX_GPUS * MAX_GPUS];
    struct mp_stage stages[8];
    uint32_t unit = 1 + (uint32_t)take(&b, 1), done[MAX_GPUS * MAX_GPUS] = {0},
             n_stages = 1 + (uint32_t)take(&b, 1) % 7;
    bool is_whole = (flags & 16) == 0;
    for (uint32_t s = 0; s <= n_stages; s++) {
        stages[s] = (struct mp_stage){0, transfers[s]};
        for (uint32_t p = 0; p < n * n; p++) {
            uint32_t share = s == n_stages ? (is_whole ? unit - done[p] : 0) : (uint32_t)take(&b, 1) % (unit + 1);
            if (s < n_stages && (share > unit - done[p] || b.n == 0))
                share = 0;
            if (p / n == p % n || share == 0)
                continue;
            done[p] += share;
            /* Sub-ports for some: as wide as its share and place happen to say, so that inputs need no more bytes. */
            uint16_t width = (flags & 32) != 0 ? (uint16_t)(1 + (share + p + s) % 3) : 1;
            transfers[s][stages[s].n++] = (struct mp_transfer){(uint16_t)(p / n), (uint16_t)(p % n), share, width};
        }
    }
    struct mp_order order = {.name = "fuzz",
                             .unit = unit,
                             .ports = 3 * n,
                             .has_flush = (flags & 128) != 0,
                             .n_stages = n_stages + 1,
                             .stages = stages,
                             .port_bytes_per_s = (flags & 32) != 0 ? 1 + (take(&b, 2) << 20) : 0};
    uint64_t matrix[MAX_GPUS * MAX_GPUS] = {0}, finish[MAX_GPUS * MAX_GPUS], all_at_once, time_ns, largest = 0;
    for (uint32_t p = 0; p < n * n; p++)
        matrix[p] = p / n == p % n ? 0 : (flags & 64) != 0 ? take(&b, 1) & 3 : take(&b, 4);
    struct mp_error err = {0};
    struct mp_net *net;
    require(mp_net_new(&net, &t, &err) == MP_OK);
    uint64_t bound = mp_port_bound_ns(&t, matrix);
    require(mp_net_port_bound(net, matrix) == bound);
    require(mp_net_concurrent(net, matrix, &all_at_once, finish, &err) == MP_OK);
    for (uint32_t p = 0; p < n * n; p++) {
        require((matrix[p] > 0) == (finish[p] > 0) || finish[p] == 0);
        largest = finish[p] > largest ? finish[p] : largest;
    }
    require(all_at_once >= bound && all_at_once >= largest);
    require(mp_net_concurrent(net, matrix, &time_ns, NULL, &err) == MP_OK && time_ns == all_at_once);
    for (int which = 0; which < 3; which++)
        require(mp_net_baseline(net, (enum mp_baseline)which, size, matrix, &time_ns, &err) == MP_OK &&
                time_ns >= bound);
    for (int mode = 0; mode < 3 * MP_N_COMBINES; mode++) {
        enum mp_status status = mp_net_staged(net, &order, (enum mp_combine)(mode / 3), (enum mp_stage_mode)(mode % 3),
                                              matrix, &time_ns, &err);
        require(is_whole ? status == MP_OK : status == MP_OK || status == MP_EBUG);
        require(status != MP_OK || time_ns >= bound);
        mp_error_clear(&err);
    }
    for (enum mp_combine way = MP_COMBINE_FORWARD; way < MP_N_COMBINES; way++) {
        uint64_t staged, single;
        bool falls_back;
        enum mp_status status = mp_net_order_estimate(net, &order, way, matrix, &staged, &single, &err);
        require(is_whole ? status == MP_OK : status == MP_OK || status == MP_EBUG);
        require(status != MP_OK ||
                (single >= (bound < UINT64_C(1) << 52 ? bound : UINT64_C(1) << 52) && staged <= UINT64_C(1) << 52));
        require(status != MP_OK || bound > 0 || staged == 0);
        mp_error_clear(&err);
        status = mp_net_falls_back(net, &order, way, shape, matrix, &falls_back, &err);
        require(status == MP_OK || (!is_whole && status == MP_EBUG));
        require(!falls_back || (shape > 0 && bound > 0 && staged > single));
        mp_error_clear(&err);
    }
    mp_net_free(net);
    require(mp_alloc_live() == 0);
    return 0;
}
