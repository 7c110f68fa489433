/* Similarity signatures for a synthetic trace: docs/SYNTHETIC.md, "Signatures".
 *
 * Decides   64 bits for every token and layer.
 * Minimises -
 * Method    in each layer a share of the tokens is "common": their signature is the layer's core with some bits
 *           flipped, each by the token's own rate; all others have a word of their own. A common token stays common
 *           with a fixed chance, others join so that the share is the layer's; flips and own words change slowly.
 * Bound     -
 * Differs   a model of our own, fitted to figures that Luffy's paper (arXiv 2411.15419) prints of three models.
 * Cost      14 random numbers per token and layer; a stream per row.  Deterministic. */
#include "internal.h"
#include <math.h>
#include <string.h>

enum { PPM = 1000000, LEVELS = 8, KNOWN_BLOCK = 6 };

static const struct mp_synth_similarity presets[] = {
    {.name = "txl",
     .summary = "MoE-TransformerXL: 25 % of pairs above 0.75 in block 1, 85 % in block 6",
     .common_first_ppm = 524000,
     .common_sixth_ppm = 965000,
     .flips_256 = 36,
     .threshold_ppm = 750000,
     .stay_ppm = 970000},
    {.name = "bert-l",
     .summary = "MoE-BERT-Large: 57 % of pairs above 0.55 in block 6; block 1 assumed, a third of it",
     .common_first_ppm = 437000,
     .common_sixth_ppm = 756000,
     .flips_256 = 36,
     .threshold_ppm = 550000,
     .stay_ppm = 970000},
    {.name = "gpt2",
     .summary = "MoE-GPT2: 18 % of pairs above 0.50 in block 1, 50 % in block 6",
     .common_first_ppm = 423000,
     .common_sixth_ppm = 707000,
     .flips_256 = 36,
     .threshold_ppm = 500000,
     .stay_ppm = 970000},
};

const struct mp_synth_similarity *mp_synth_similarity_at(uint32_t i) {
    return i < sizeof presets / sizeof *presets ? &presets[i] : NULL;
}
const struct mp_synth_similarity *mp_synth_similarity_find(const char *name) {
    for (uint32_t i = 0; i < sizeof presets / sizeof *presets; i++)
        if (strcmp(presets[i].name, name) == 0)
            return &presets[i];
    return NULL;
}

/* A word whose bits are set with chance num / 256 each. */
static uint64_t bits_of(struct mp_rng *rng, uint32_t num) {
    uint64_t w = 0;
    for (uint32_t i = 0; i < 8; i++) {
        const uint64_t r = mp_rng_next(rng);
        w = num >> i & 1 ? w | r : w & r;
    }
    return w;
}

/* Which share of the tokens is common in a layer: slowly at first from the one known block to the other, then as it is
 * there. The way between is free; this one makes 62 % of txl's tokens very similar (docs/SYNTHETIC.md). */
static uint32_t common_of(const struct mp_synth_similarity *p, uint32_t layer) {
    const double share = layer + 1 >= KNOWN_BLOCK ? 1 : (double)layer / (KNOWN_BLOCK - 1);
    const double ratio = (double)p->common_sixth_ppm / p->common_first_ppm;
    return (uint32_t)llround(p->common_first_ppm * pow(ratio, share * share));
}

static bool happens(struct mp_rng *rng, uint32_t ppm) { return mp_rng_below(rng, PPM) < ppm; }

enum mp_status mp_synth_signatures(struct mp_trace *t, const struct mp_synth_similarity *p, uint64_t seed,
                                   const struct mp_limits *limits, struct mp_error *err) {
    uint64_t *const *chunks;
    if (p->common_first_ppm == 0 || p->common_first_ppm > PPM || p->common_sixth_ppm > PPM || p->stay_ppm > PPM ||
        p->flips_256 > 128)
        return mp_fail(err, MP_EBUG, "shares of signatures above 1, or none to begin with");
    enum mp_status status = mp_trace_signatures_add(t, &chunks, limits, err);
    if (status != MP_OK)
        return status;
    const uint64_t own_seed = mp_mix64(seed) ^ mp_mix64(UINT64_C(0x7369676e));
    for (uint64_t row = 0; row < t->n_rows; row++) {
        const uint64_t c = row / MP_CHUNK_TOKENS, left = t->n_rows - c * MP_CHUNK_TOKENS,
                       rows = left < MP_CHUNK_TOKENS ? left : MP_CHUNK_TOKENS;
        struct mp_rng rng = mp_rng_seed(own_seed ^ mp_mix64(row + 1));
        const uint32_t rate = (uint32_t)(p->flips_256 * mp_rng_below(&rng, LEVELS) / (LEVELS - 1));
        uint64_t own = mp_rng_next(&rng), flips = bits_of(&rng, rate);
        bool is_common = happens(&rng, common_of(p, 0));
        for (uint32_t l = 0; l < t->n_layers; l++) {
            if (l > 0) {
                const uint32_t before = common_of(p, l - 1), now = common_of(p, l);
                const uint64_t stay = (uint64_t)before * p->stay_ppm / PPM;
                const uint64_t join = now > stay && before < PPM ? (now - stay) * PPM / (PPM - before) : 0;
                is_common = happens(&rng, is_common ? p->stay_ppm : join > PPM ? PPM : (uint32_t)join);
                const uint64_t change = bits_of(&rng, 16), fresh = bits_of(&rng, rate), word = mp_rng_next(&rng);
                flips = (flips & ~change) | (fresh & change);
                own = (own & ~change) | (word & change);
            }
            const uint64_t core = mp_mix64(own_seed + l);
            chunks[c][l * rows + row % MP_CHUNK_TOKENS] = is_common ? core ^ flips : own;
        }
    }
    return MP_OK;
}
