/* DeepSeek's EPLB for one layer.
 *
 * Decides   replicas of each expert and the GPU of each replica.
 * Minimises max over GPUs of the summed load / replicas (greedily).
 * Method    float32 throughout; groups to nodes by balanced packing; inside a node each extra slot goes to the
 *           first expert with the largest load / replicas; replicas to the node's GPUs by balanced packing.
 *           Balanced packing: heaviest first, to the lightest pack with room, ties to the lower index; identity
 *           when a pack holds one item.
 * Bound     none known for the whole; see docs/STRATEGIES.md for exact optima of small cases.
 * Differs   not at all in results: heaps in place of scans and a radix sort give the same choices. Equal weights
 *           keep ascending index, as torch's CPU sort does in practice though it does not promise it.
 *           mp_eplb_make_distinct and max_replicas are ours.
 * Paper     DeepSeek EPLB, github.com/deepseek-ai/EPLB, 2025; behaviour written down in FORMATS.md 3.1.
 * Cost      O(S log S) for S slots. */
#include "eplb.h"
#include <math.h>
#include <string.h>

struct mp_eplb {
    struct mp_eplb_shape shape; /* as used: after the fall-back to the global policy */
    uint32_t group_size, groups_per_node, experts_per_node, slots_per_node, gpus_per_node, slots_per_gpu;
    float *weight;            /* [n_experts] */
    float *group_weight;      /* [n_groups] */
    float *node_weight;       /* [experts_per_node] of the experts of one node, in node order */
    float *slot_weight;       /* [n_slots] */
    uint16_t *node_expert;    /* [n_experts] expert at each place of the node order */
    uint16_t *slot_place;     /* [n_slots] place inside the node of each slot before packing */
    uint16_t *slot_rank;      /* [n_slots] */
    uint16_t *count;          /* [n_experts] replicas */
    uint32_t *pack, *place;   /* [n_slots] result of balanced packing */
    uint32_t *order, *order2; /* [n_slots] sorting */
    uint32_t *key, *key2;     /* [n_slots] */
    uint64_t *heap;           /* [n_slots] */
    uint32_t *pack_items;     /* [n_slots] */
};

enum mp_status mp_eplb_new(struct mp_eplb **out, const struct mp_eplb_shape *shape, struct mp_arena *arena,
                           struct mp_error *err) {
    *out = NULL;
    struct mp_eplb_shape s = *shape;
    if (s.n_nodes == 0 || s.n_groups == 0 || s.n_groups % s.n_nodes != 0)
        s.n_groups = s.n_nodes = 1;
    if (s.n_experts % s.n_groups != 0 || s.n_gpus % s.n_nodes != 0 || s.n_slots < s.n_experts ||
        s.n_slots % s.n_nodes != 0)
        return mp_fail(err, MP_EUSAGE, "EPLB cannot put %u experts in %u groups on %u slots of %u GPUs in %u nodes",
                       s.n_experts, s.n_groups, s.n_slots, s.n_gpus, s.n_nodes);
    struct mp_eplb *w = mp_arena_alloc(arena, 1, sizeof *w);
    if (w == NULL)
        return mp_nomem(err, "EPLB");
    w->shape = s;
    w->group_size = s.n_experts / s.n_groups;
    w->groups_per_node = s.n_groups / s.n_nodes;
    w->experts_per_node = s.n_experts / s.n_nodes;
    w->slots_per_node = s.n_slots / s.n_nodes;
    w->gpus_per_node = s.n_gpus / s.n_nodes;
    w->slots_per_gpu = s.n_slots / s.n_gpus;
    uint32_t most = s.n_slots > s.n_gpus ? s.n_slots : s.n_gpus;
    w->weight = mp_arena_alloc(arena, s.n_experts, sizeof *w->weight);
    w->group_weight = mp_arena_alloc(arena, s.n_groups, sizeof *w->group_weight);
    w->node_weight = mp_arena_alloc(arena, w->experts_per_node, sizeof *w->node_weight);
    w->slot_weight = mp_arena_alloc(arena, most, sizeof *w->slot_weight);
    w->node_expert = mp_arena_alloc(arena, s.n_experts, sizeof *w->node_expert);
    w->slot_place = mp_arena_alloc(arena, most, sizeof *w->slot_place);
    w->slot_rank = mp_arena_alloc(arena, most, sizeof *w->slot_rank);
    w->count = mp_arena_alloc(arena, s.n_experts, sizeof *w->count);
    w->heap = mp_arena_alloc(arena, most, sizeof *w->heap);
    uint32_t *u = mp_arena_alloc(arena, (size_t)most * 7, sizeof *u);
    if (w->weight == NULL || w->group_weight == NULL || w->node_weight == NULL || w->slot_weight == NULL ||
        w->node_expert == NULL || w->slot_place == NULL || w->slot_rank == NULL || w->count == NULL ||
        w->heap == NULL || u == NULL)
        return mp_nomem(err, "EPLB");
    w->pack = u;
    w->place = u + most;
    w->order = u + (size_t)most * 2;
    w->order2 = u + (size_t)most * 3;
    w->key = u + (size_t)most * 4;
    w->key2 = u + (size_t)most * 5;
    w->pack_items = u + (size_t)most * 6;
    *out = w;
    return MP_OK;
}

/* Weights are not negative, so their bits sort like the weights do. */
static uint32_t bits_of(float weight) {
    uint32_t bits;
    memcpy(&bits, &weight, sizeof bits);
    return bits;
}

static float weight_of(uint32_t bits) {
    float weight;
    memcpy(&weight, &bits, sizeof weight);
    return weight;
}

/* order[i] = items by falling weight, equal ones by ascending index. Passes over a
 * byte that all keys share are skipped. */
static void sort_falling(struct mp_eplb *w, const float *weight, uint32_t n) {
    uint32_t histogram[4][256];
    memset(histogram, 0, sizeof histogram);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t k = ~bits_of(weight[i]);
        w->key[i] = k;
        w->order[i] = i;
        for (int b = 0; b < 4; b++)
            histogram[b][k >> (8 * b) & 255]++;
    }
    for (int b = 0; b < 4; b++) {
        uint32_t *h = histogram[b];
        if (h[w->key[0] >> (8 * b) & 255] == n)
            continue;
        uint32_t sum = 0;
        for (int v = 0; v < 256; v++) {
            uint32_t c = h[v];
            h[v] = sum;
            sum += c;
        }
        for (uint32_t i = 0; i < n; i++) {
            uint32_t at = h[w->key[i] >> (8 * b) & 255]++;
            w->key2[at] = w->key[i];
            w->order2[at] = w->order[i];
        }
        uint32_t *t = w->key;
        w->key = w->key2;
        w->key2 = t;
        t = w->order;
        w->order = w->order2;
        w->order2 = t;
    }
}

/* Binary heap with the smallest on top: key in the upper half, item number in the lower, so that equal keys come by
 * ascending number. Puts `item` in place of the top. */
static void replace_top(uint64_t *heap, uint32_t n, uint64_t item) {
    uint32_t i = 0;
    for (uint32_t child = 1; child < n; child = 2 * i + 1) {
        if (child + 1 < n && heap[child + 1] < heap[child])
            child++;
        if (heap[child] >= item)
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = item;
}

static void sift_down(uint64_t *heap, uint32_t n, uint32_t i) {
    uint64_t item = heap[i];
    for (uint32_t child = 2 * i + 1; child < n; child = 2 * i + 1) {
        if (child + 1 < n && heap[child + 1] < heap[child])
            child++;
        if (heap[child] >= item)
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = item;
}

/* balanced_packing: pack[i] and place[i] (in the pack) of n items on n_packs packs. */
static void pack_balanced(struct mp_eplb *w, const float *weight, uint32_t n, uint32_t n_packs) {
    uint32_t per_pack = n / n_packs;
    if (per_pack == 1) {
        for (uint32_t i = 0; i < n; i++) {
            w->pack[i] = i;
            w->place[i] = 0;
        }
        return;
    }
    sort_falling(w, weight, n);
    for (uint32_t p = 0; p < n_packs; p++) {
        w->heap[p] = p; /* weight 0 */
        w->pack_items[p] = 0;
    }
    uint32_t n_open = n_packs;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t item = w->order[i], p = (uint32_t)w->heap[0];
        float sum = weight_of((uint32_t)(w->heap[0] >> 32)) + weight[item];
        w->pack[item] = p;
        w->place[item] = w->pack_items[p]++;
        if (w->pack_items[p] < per_pack)
            replace_top(w->heap, n_open, (uint64_t)bits_of(sum) << 32 | p);
        else if (--n_open > 0)
            replace_top(w->heap, n_open, w->heap[n_open]);
    }
}

/* replicate_experts: place[n_slots] and rank[n_slots] of each slot, count[n] replicas. */
static void replicate(struct mp_eplb *w, const float *weight, uint32_t n, uint32_t n_slots, uint16_t *place,
                      uint16_t *rank, uint16_t *count) {
    for (uint32_t i = 0; i < n; i++) {
        place[i] = (uint16_t)i;
        rank[i] = 0;
        count[i] = 1;
    }
    if (n_slots == n)
        return;
    /* Largest first: the key is the weight's complement. */
    for (uint32_t i = 0; i < n; i++)
        w->heap[i] = (uint64_t)~bits_of(weight[i]) << 32 | i;
    for (uint32_t i = n / 2; i-- > 0;)
        sift_down(w->heap, n, i);
    uint32_t n_open = w->shape.max_replicas == 1 ? 0 : n;
    for (uint32_t s = n; s < n_slots; s++) {
        /* Only with a cap too small for the shape, which the driver refuses before, does the heap run dry. */
        uint32_t i = n_open > 0 ? (uint32_t)w->heap[0] : s % n;
        place[s] = (uint16_t)i;
        rank[s] = count[i]++;
        if (n_open == 0)
            continue;
        if (count[i] != w->shape.max_replicas)
            replace_top(w->heap, n_open, (uint64_t)~bits_of(weight[i] / (float)count[i]) << 32 | i);
        else if (--n_open > 0)
            replace_top(w->heap, n_open, w->heap[n_open]);
    }
}

static void to_float(struct mp_eplb *w, const uint64_t *load) {
    for (uint32_t e = 0; e < w->shape.n_experts; e++)
        w->weight[e] = (float)load[e];
}

void mp_eplb_layer(struct mp_eplb *w, const uint64_t *load, uint16_t *phy2log, uint16_t *rank, uint16_t *logcnt) {
    const struct mp_eplb_shape *s = &w->shape;
    to_float(w, load);
    for (uint32_t g = 0; g < s->n_groups; g++) {
        float sum = 0;
        for (uint32_t i = 0; i < w->group_size; i++)
            sum += w->weight[g * w->group_size + i];
        w->group_weight[g] = sum;
    }
    pack_balanced(w, w->group_weight, s->n_groups, s->n_nodes);
    for (uint32_t g = 0; g < s->n_groups; g++) {
        uint32_t first = (w->pack[g] * w->groups_per_node + w->place[g]) * w->group_size;
        for (uint32_t i = 0; i < w->group_size; i++)
            w->node_expert[first + i] = (uint16_t)(g * w->group_size + i);
    }
    for (uint32_t node = 0; node < s->n_nodes; node++) {
        const uint16_t *expert = w->node_expert + node * w->experts_per_node;
        uint32_t first_slot = node * w->slots_per_node;
        for (uint32_t i = 0; i < w->experts_per_node; i++)
            w->node_weight[i] = w->weight[expert[i]];
        replicate(w, w->node_weight, w->experts_per_node, w->slots_per_node, w->slot_place, w->slot_rank, w->count);
        for (uint32_t i = 0; i < w->experts_per_node; i++)
            w->node_weight[i] /= (float)w->count[i];
        for (uint32_t i = 0; i < w->slots_per_node; i++)
            w->slot_weight[i] = w->node_weight[w->slot_place[i]];
        pack_balanced(w, w->slot_weight, w->slots_per_node, w->gpus_per_node);
        for (uint32_t i = 0; i < w->slots_per_node; i++) {
            uint32_t slot = first_slot + w->pack[i] * w->slots_per_gpu + w->place[i];
            phy2log[slot] = expert[w->slot_place[i]];
            rank[slot] = w->slot_rank[i];
        }
        for (uint32_t i = 0; i < w->experts_per_node; i++)
            logcnt[expert[i]] = w->count[i];
    }
}

void mp_eplb_log2phy(const struct mp_eplb *w, const uint16_t *phy2log, const uint16_t *rank, uint32_t width,
                     int32_t *log2phy) {
    for (size_t i = 0; i < (size_t)w->shape.n_experts * width; i++)
        log2phy[i] = -1;
    for (uint32_t s = 0; s < w->shape.n_slots; s++)
        log2phy[(size_t)phy2log[s] * width + rank[s]] = (int32_t)s;
}

void mp_eplb_copies(struct mp_eplb *w, const uint64_t *load, uint16_t *copies) {
    to_float(w, load);
    replicate(w, w->weight, w->shape.n_experts, w->shape.n_slots, copies, w->slot_rank, w->count);
}

/* slot_weight = load per replica of each slot's expert. */
static void weigh(struct mp_eplb *w, const uint64_t *load, const uint16_t *slots) {
    to_float(w, load);
    memset(w->count, 0, w->shape.n_experts * sizeof *w->count);
    for (uint32_t i = 0; i < w->shape.n_slots; i++)
        w->count[slots[i]]++;
    for (uint32_t i = 0; i < w->shape.n_slots; i++)
        w->slot_weight[i] = w->weight[slots[i]] / (float)w->count[slots[i]];
}

void mp_eplb_pack_copies(struct mp_eplb *w, const uint64_t *load, const uint16_t *copies, uint16_t *phy2log) {
    weigh(w, load, copies);
    pack_balanced(w, w->slot_weight, w->shape.n_slots, w->shape.n_gpus);
    for (uint32_t i = 0; i < w->shape.n_slots; i++)
        phy2log[w->pack[i] * w->slots_per_gpu + w->place[i]] = copies[i];
}

static bool gpu_has(const struct mp_eplb *w, const uint16_t *phy2log, uint32_t gpu, uint16_t expert) {
    for (uint32_t s = gpu * w->slots_per_gpu; s < (gpu + 1) * w->slots_per_gpu; s++)
        if (phy2log[s] == expert)
            return true;
    return false;
}

/* The copies of one node sorted by expert and dealt out in turn: distinct whenever no expert has more copies than
 * the node GPUs. */
static void deal(struct mp_eplb *w, uint32_t node, uint16_t *phy2log) {
    uint16_t *slots = phy2log + node * w->slots_per_node;
    uint32_t i = 0;
    memset(w->count, 0, w->shape.n_experts * sizeof *w->count);
    for (uint32_t s = 0; s < w->slots_per_node; s++)
        w->count[slots[s]]++;
    for (uint32_t e = 0; e < w->shape.n_experts; e++)
        for (uint32_t c = 0; c < w->count[e]; c++, i++)
            slots[i % w->gpus_per_node * w->slots_per_gpu + i / w->gpus_per_node] = (uint16_t)e;
}

void mp_eplb_make_distinct(struct mp_eplb *w, const uint64_t *load, uint16_t *phy2log) {
    weigh(w, load, phy2log);
    for (uint32_t node = 0; node < w->shape.n_nodes; node++) {
        uint32_t first = node * w->slots_per_node, end = first + w->slots_per_node;
        bool is_stuck = false;
        for (uint32_t s = first; s < end && !is_stuck; s++) {
            uint32_t gpu = s / w->slots_per_gpu, best = MP_NONE;
            float best_distance = INFINITY;
            bool is_duplicate = false;
            for (uint32_t t = gpu * w->slots_per_gpu; t < s; t++)
                is_duplicate |= phy2log[t] == phy2log[s];
            if (!is_duplicate)
                continue;
            for (uint32_t t = first; t < end; t++) {
                float distance = fabsf(w->slot_weight[t] - w->slot_weight[s]);
                if (t / w->slots_per_gpu == gpu || distance >= best_distance ||
                    gpu_has(w, phy2log, t / w->slots_per_gpu, phy2log[s]) || gpu_has(w, phy2log, gpu, phy2log[t]))
                    continue;
                best = t;
                best_distance = distance;
            }
            if (best == MP_NONE) {
                is_stuck = true;
                break;
            }
            uint16_t expert = phy2log[s];
            float weight = w->slot_weight[s];
            phy2log[s] = phy2log[best];
            phy2log[best] = expert;
            w->slot_weight[s] = w->slot_weight[best];
            w->slot_weight[best] = weight;
        }
        if (is_stuck)
            deal(w, node, phy2log);
    }
}

bool mp_eplb_has_room(const struct mp_plan *p, uint32_t n_copies) {
    for (uint32_t g = 0; g < p->n_gpus; g++)
        if (p->gpu_first_slot[g + 1] - p->gpu_first_slot[g] < n_copies / p->n_gpus)
            return false;
    return true;
}
