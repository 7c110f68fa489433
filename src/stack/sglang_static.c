/* SGLang's static dispatch, bit for bit: which replica each source rank uses, drawn once with a fixed seed.
 *
 * Decides   (layer, expert, source rank) -> slot.
 * Method    a rank with a replica of its own uses its first one. On several nodes a rank then takes the first on its
 *           node, unless that node has them all. Who is left is given fair shares of all replicas: as many times each
 *           as goes in evenly, a random sample for the rest, shuffled; ranks take from that list in order. The draws
 *           are those of Python's random.Random(42): MT19937 seeded by array, numbers below n by rejection of bits,
 *           Fisher-Yates from the end. One stream runs through all rows of the file, dense layers and unreplicated
 *           experts included where the version draws for them.
 * Differs   versions: the first (2025) knows no nodes and draws for experts with one replica, too.
 * Reference sgl-project/sglang expert_location.py, compute_logical_to_rank_dispatch_physical_map; CPython
 *           Lib/random.py. Written from what they do. */
#include "stack_shared.h"

#include <math.h>

enum { MT_SIZE = 624, MT_MIDDLE = 397, SEED = 42 };
struct random {
    uint32_t state[MT_SIZE], at;
};

static void mt_fill(struct random *r, uint32_t seed) {
    r->state[0] = seed;
    for (uint32_t i = 1; i < MT_SIZE; i++)
        r->state[i] = UINT32_C(1812433253) * (r->state[i - 1] ^ r->state[i - 1] >> 30) + i;
    r->at = MT_SIZE;
}

/* Seeding by an array of one word, which is what a small whole number is to Python. */
static void random_seed(struct random *r, uint32_t key) {
    uint32_t i = 1;
    mt_fill(r, 19650218);
    for (uint32_t k = 0; k < MT_SIZE; k++) {
        r->state[i] = (r->state[i] ^ (r->state[i - 1] ^ r->state[i - 1] >> 30) * UINT32_C(1664525)) + key;
        if (++i == MT_SIZE) {
            r->state[0] = r->state[MT_SIZE - 1];
            i = 1;
        }
    }
    for (uint32_t k = 1; k < MT_SIZE; k++) {
        r->state[i] = (r->state[i] ^ (r->state[i - 1] ^ r->state[i - 1] >> 30) * UINT32_C(1566083941)) - i;
        if (++i == MT_SIZE) {
            r->state[0] = r->state[MT_SIZE - 1];
            i = 1;
        }
    }
    r->state[0] = UINT32_C(0x80000000);
}

static uint32_t random_word(struct random *r) {
    if (r->at == MT_SIZE) {
        for (uint32_t i = 0; i < MT_SIZE; i++) {
            uint32_t y = (r->state[i] & UINT32_C(0x80000000)) | (r->state[(i + 1) % MT_SIZE] & UINT32_C(0x7fffffff));
            r->state[i] = r->state[(i + MT_MIDDLE) % MT_SIZE] ^ y >> 1 ^ ((y & 1) != 0 ? UINT32_C(0x9908b0df) : 0);
        }
        r->at = 0;
    }
    uint32_t y = r->state[r->at++];
    y ^= y >> 11;
    y ^= y << 7 & UINT32_C(0x9d2c5680);
    y ^= y << 15 & UINT32_C(0xefc60000);
    return y ^ y >> 18;
}

static uint32_t random_below(struct random *r, uint32_t n) {
    uint32_t bits = 0, x;
    while (n >> bits != 0)
        bits++;
    do
        x = random_word(r) >> (32 - bits);
    while (x >= n);
    return x;
}

/* k of the n values, in the order drawn; pool [n] is scratch. Python keeps a list of what is left while n is small
 * against k, else a set of what is taken. */
static void random_sample(struct random *r, const uint32_t *values, uint32_t n, uint32_t k, uint32_t *pool,
                          uint32_t *out) {
    double list_up_to = 21;
    if (k > 5)
        list_up_to += pow(4, ceil(log(k * 3.0) / log(4)));
    for (uint32_t i = 0; i < n; i++)
        pool[i] = n <= list_up_to ? values[i] : 0;
    for (uint32_t i = 0; i < k; i++) {
        if (n <= list_up_to) {
            uint32_t j = random_below(r, n - i);
            out[i] = pool[j];
            pool[j] = pool[n - i - 1];
            continue;
        }
        uint32_t j = random_below(r, n);
        while (pool[j] != 0)
            j = random_below(r, n);
        pool[j] = 1;
        out[i] = values[j];
    }
}

static void fair_choices(struct random *r, const uint32_t *values, uint32_t n, uint32_t k, uint32_t *pool,
                         uint32_t *out) {
    uint32_t n_even = k / n * n;
    for (uint32_t i = 0; i < n_even; i++)
        out[i] = values[i % n];
    random_sample(r, values, n, k % n, pool, out + n_even);
    for (uint32_t i = k; i-- > 1;) {
        uint32_t j = random_below(r, i + 1), other = out[i];
        out[i] = out[j];
        out[j] = other;
    }
}

/* Who uses what without a draw: candidate index, or MP_NONE. */
static uint32_t nearest(const struct mp_plan *p, const uint32_t *slots, uint32_t n, uint32_t rank, bool has_nodes) {
    uint32_t first = MP_NONE, n_near = 0;
    for (uint32_t i = 0; i < n; i++)
        if (p->slot_gpu[slots[i]] == rank)
            return i;
    for (uint32_t i = 0; i < n && has_nodes; i++)
        if (p->gpu_node[p->slot_gpu[slots[i]]] == p->gpu_node[rank] && n_near++ == 0)
            first = i;
    return n_near < n ? first : MP_NONE;
}

struct scratch {
    uint32_t *slots, *pool, *left, *drawn; /* [max(n_slots, n_gpus)] each */
};

/* One row: slot_expert NULL = a dense layer's, slot % experts. table [n_experts][n_gpus] or NULL. */
static void one_row(struct random *r, const struct mp_plan *p, const uint16_t *slot_expert, bool is_first_version,
                    struct scratch *x, uint32_t *table) {
    for (uint32_t e = 0; e < p->n_experts; e++) {
        uint32_t n = 0, n_left = 0;
        for (uint32_t s = 0; s < p->n_slots; s++)
            if ((slot_expert != NULL ? slot_expert[s] : s % p->n_experts) == e)
                x->slots[n++] = s;
        if (n == 0 || (n == 1 && !is_first_version && table == NULL))
            continue;
        for (uint32_t g = 0; g < p->n_gpus; g++) {
            uint32_t i =
                n == 1 && !is_first_version ? 0 : nearest(p, x->slots, n, g, !is_first_version && p->n_nodes > 1);
            if (i == MP_NONE)
                x->left[n_left++] = g;
            else if (table != NULL)
                table[(size_t)e * p->n_gpus + g] = x->slots[i];
        }
        if (n_left == 0)
            continue;
        fair_choices(r, x->slots, n, n_left, x->pool, x->drawn);
        for (uint32_t i = 0; i < n_left && table != NULL; i++)
            table[(size_t)e * p->n_gpus + x->left[i]] = x->drawn[i];
    }
}

static enum mp_status fill(uint32_t *table, const struct mp_plan *p, const struct mp_stack_options *o,
                           bool is_first_version, struct mp_error *err) {
    const uint32_t n = p->n_slots > p->n_gpus ? p->n_slots : p->n_gpus, last = p->layers[p->n_layers - 1].layer_id;
    uint32_t *words = mp_calloc((size_t)n * 4, sizeof *words), n_rows = mp_stack_hidden_layers(o);
    struct random *r = mp_calloc(1, sizeof *r);
    if (words == NULL || r == NULL) {
        mp_free(words);
        mp_free(r);
        return mp_nomem(err, "SGLang's replica choice");
    }
    struct scratch x = {words, words + n, words + 2 * (size_t)n, words + 3 * (size_t)n};
    random_seed(r, SEED);
    n_rows = n_rows > last ? n_rows : last + 1;
    for (uint32_t row = 0, l = 0; row < n_rows; row++) {
        bool is_placed = l < p->n_layers && p->layers[l].layer_id == row;
        one_row(r, p, is_placed ? p->layers[l].slot_expert : NULL, is_first_version, &x,
                is_placed ? table + (size_t)l * p->n_experts * p->n_gpus : NULL);
        l += is_placed;
    }
    mp_free(words);
    mp_free(r);
    return MP_OK;
}

enum mp_status mp_sglang_static(uint32_t *table, const struct mp_plan *p, const struct mp_stack_options *o,
                                struct mp_error *err) {
    return fill(table, p, o, false, err);
}

enum mp_status mp_sglang_static_first(uint32_t *table, const struct mp_plan *p, const struct mp_stack_options *o,
                                      struct mp_error *err) {
    return fill(table, p, o, true, err);
}
