/* Homes by weighted matching, nodes first (NetMoE, ICLR 2025).
 *
 * Decides   the next home of every sequence.
 * Maximises bytes that need not travel between nodes, then bytes that need not inside them.
 * Method    sequences into nodes, exactly (bins.c), nodes having the room of their GPUs; then those of each node into
 *           its GPUs, exactly. GPUs of a node that take sequences of unlike lengths are bins of their own in the first
 *           stage, so that the second never lacks room. Of nodes that save the same, that with the better GPU wins as
 *           far as the numbers leave room for it.
 * Bound     the first stage's prices: no homes within the limits save more between nodes. So it equals one matching
 * over all GPUs that counts node bytes first.
 * Differs   NetMoE has equal lengths and Kuhn-Munkres. Here lengths limit who fits where.
 * Cost      bins.c on (n, nodes), then on the sequences and GPUs of each node. */
#include "rehome_private.h"
#include <moeplan/base.h>
#include <string.h>

/* GPUs of one node with one limit. */
struct groups {
    uint32_t n;
    uint32_t *of_gpu, *node, *room, *limit; /* [n_gpus] */
};

static enum mp_status group(struct groups *out, const struct mp_rehome_problem *in, struct mp_arena *scratch,
                            struct mp_error *err) {
    uint32_t *parts[4];
    for (uint32_t i = 0; i < 4; i++)
        if ((parts[i] = mp_arena_alloc(scratch, in->n_gpus, sizeof *parts[i])) == NULL)
            return mp_nomem(err, "groups of GPUs");
    *out = (struct groups){.of_gpu = parts[0], .node = parts[1], .room = parts[2], .limit = parts[3]};
    for (uint32_t g = 0; g < in->n_gpus; g++) {
        uint32_t k = 0;
        while (k < out->n && (out->node[k] != in->gpu_node[g] || out->limit[k] != in->longest[g]))
            k++;
        if (k == out->n) {
            out->node[k] = in->gpu_node[g];
            out->limit[k] = in->longest[g];
            out->room[k] = 0;
            out->n++;
        }
        out->of_gpu[g] = k;
        out->room[k] += in->most[g];
    }
    return MP_OK;
}

/* Worth of nodes in steps wide enough for a rank among equals: 0 to steps - 1 by the best GPU's bytes. */
static int64_t steps_of(const struct mp_rehome_problem *in, uint64_t *most_inside) {
    uint64_t most = 1;
    *most_inside = 1;
    for (size_t c = 0; c < (size_t)in->n * in->n_nodes; c++)
        most = in->node_bytes[c] > most ? in->node_bytes[c] : most;
    for (size_t c = 0; c < (size_t)in->n * in->n_gpus; c++)
        *most_inside = in->gpu_bytes[c] > *most_inside ? in->gpu_bytes[c] : *most_inside;
    const uint64_t room = (UINT64_C(1) << 60) / most / (in->n + 1), wanted = (uint64_t)in->n * 1024;
    return room > wanted ? (int64_t)wanted : 0; /* 0: nodes alone */
}

enum mp_status worth_of_gpus(const int64_t **out, int64_t *steps, const struct mp_rehome_problem *in,
                             struct mp_arena *scratch, struct mp_error *err) {
    uint64_t most_inside;
    int64_t *worth = mp_arena_alloc(scratch, ((size_t)in->n + 1) * in->n_gpus, sizeof *worth);
    if (worth == NULL)
        return mp_nomem(err, "sequences of GPUs");
    *steps = steps_of(in, &most_inside);
    for (size_t i = 0; i < in->n; i++)
        for (uint32_t g = 0; g < in->n_gpus; g++) {
            const int64_t between = (int64_t)in->node_bytes[i * in->n_nodes + in->gpu_node[g]],
                          inside = (int64_t)mp_mul_div(in->gpu_bytes[i * in->n_gpus + g], 1023, most_inside);
            worth[i * in->n_gpus + g] = *steps == 0 ? between : between * *steps + inside;
        }
    *out = worth;
    return MP_OK;
}

/* Sequences of one node to its GPUs. */
static enum mp_status into_gpus(uint32_t *home, uint32_t node, const uint32_t *node_of, uint32_t n_here,
                                const struct mp_rehome_problem *in, struct mp_arena *scratch, struct mp_error *err) {
    uint32_t m = 0, at = 0;
    for (uint32_t g = 0; g < in->n_gpus; g++)
        m += in->gpu_node[g] == node;
    uint32_t *gpu = mp_arena_alloc(scratch, m, sizeof *gpu), *room = mp_arena_alloc(scratch, m, sizeof *room);
    uint32_t *limit = mp_arena_alloc(scratch, m, sizeof *limit);
    uint32_t *who = mp_arena_alloc(scratch, (size_t)n_here + 1, sizeof *who);
    uint32_t *size = mp_arena_alloc(scratch, (size_t)n_here + 1, sizeof *size);
    uint32_t *bin = mp_arena_alloc(scratch, (size_t)n_here + 1, sizeof *bin);
    int64_t *worth = mp_arena_alloc(scratch, ((size_t)n_here + 1) * m, sizeof *worth);
    int64_t *price = mp_arena_alloc(scratch, m, sizeof *price);
    if (gpu == NULL || room == NULL || limit == NULL || who == NULL || size == NULL || bin == NULL || worth == NULL ||
        price == NULL)
        return mp_nomem(err, "sequences of a node");
    m = 0;
    for (uint32_t g = 0; g < in->n_gpus; g++)
        if (in->gpu_node[g] == node) {
            gpu[m] = g;
            room[m] = in->most[g];
            limit[m++] = in->longest[g];
        }
    for (uint32_t i = 0; i < in->n; i++)
        if (node_of[i] == node) {
            for (uint32_t b = 0; b < m; b++)
                worth[(size_t)at * m + b] = (int64_t)in->gpu_bytes[(size_t)i * in->n_gpus + gpu[b]];
            who[at] = i;
            size[at++] = in->length[i];
        }
    const struct mp_bins bins = {.n = n_here, .m = m, .worth = worth, .room = room, .size = size, .limit = limit};
    enum mp_status status = mp_bins_fill(bin, price, &bins, scratch, err);
    for (uint32_t k = 0; k < n_here && status == MP_OK; k++)
        home[who[k]] = gpu[bin[k]];
    return status;
}

enum mp_status two_stage(uint32_t *home, uint64_t *bound, const struct mp_rehome_problem *in, struct mp_arena *scratch,
                         struct mp_error *err) {
    struct groups groups = {0};
    const int64_t *of_gpus;
    int64_t steps;
    enum mp_status status = group(&groups, in, scratch, err);
    if (status == MP_OK)
        status = worth_of_gpus(&of_gpus, &steps, in, scratch, err);
    if (status != MP_OK)
        return status;
    const uint32_t m = groups.n;
    uint32_t *node_of = mp_arena_alloc(scratch, (size_t)in->n + 1, sizeof *node_of);
    uint32_t *n_of = mp_arena_alloc(scratch, in->n_nodes, sizeof *n_of);
    int64_t *worth = mp_arena_alloc(scratch, ((size_t)in->n + 1) * m, sizeof *worth);
    int64_t *price = mp_arena_alloc(scratch, m, sizeof *price);
    if (node_of == NULL || n_of == NULL || worth == NULL || price == NULL)
        return mp_nomem(err, "sequences of nodes");
    for (size_t i = 0; i < in->n; i++)
        for (uint32_t g = 0; g < in->n_gpus; g++) {
            const uint32_t b = groups.of_gpu[g];
            const int64_t own = of_gpus[i * in->n_gpus + g];
            worth[i * m + b] = own > worth[i * m + b] ? own : worth[i * m + b];
        }
    const struct mp_bins bins = {
        .n = in->n, .m = m, .worth = worth, .room = groups.room, .size = in->length, .limit = groups.limit};
    status = mp_bins_fill(node_of, price, &bins, scratch, err);
    if (status != MP_OK)
        return status;
    unsigned __int128 sum = 0;
    for (uint32_t b = 0; b < m; b++)
        sum += (unsigned __int128)groups.room[b] * (uint64_t)price[b];
    for (size_t i = 0; i < in->n; i++) {
        int64_t best = INT64_MIN;
        for (uint32_t b = 0; b < m; b++)
            if (in->length[i] <= groups.limit[b] && worth[i * m + b] - price[b] > best)
                best = worth[i * m + b] - price[b];
        sum += (unsigned __int128)(__int128)best;
        node_of[i] = groups.node[node_of[i]];
        n_of[node_of[i]]++;
    }
    *bound = (uint64_t)(sum / (uint64_t)(steps == 0 ? 1 : steps));
    for (uint32_t v = 0; v < in->n_nodes && status == MP_OK; v++)
        status = into_gpus(home, v, node_of, n_of[v], in, scratch, err);
    return status;
}

enum mp_status match(uint32_t *home, uint64_t *bound, const struct mp_rehome_problem *in, struct mp_arena *scratch,
                     struct mp_error *err) {
    return in->most_tokens != NULL ? by_tokens(home, bound, in, scratch, err)
                                   : two_stage(home, bound, in, scratch, err);
}
