/* The library replayed on blocks of steps of one domain each.
 *
 * Decides   nothing: rule.c does.
 * Minimises -
 * Method    every domain has blocks in proportion to its weight (largest remainders), all in random order; a block's
 *           steps are drawn among the domain's with replacement; one stream of random numbers. A step takes the sum of
 * its groups' times under the variants that the rule has in force, and what switching to them takes, in full.
 * Bound     -
 * Differs   -
 * Cost      O(steps * layers * experts * variants). */
#include "variants.h"
#include <moeplan/base.h>
#include <string.h>

uint32_t vstream_blocks(uint32_t length) {
    const uint32_t n = 20000 / (length > 0 ? length : 1);
    return n > 400 ? 400 : n < 12 ? 12 : n;
}

void vreplay_groups(uint64_t *group_ns, uint64_t *worst_loss_ns, const uint64_t *const *ns, uint32_t n_steps,
                    const struct mp_switch_rule *rule) {
    *worst_loss_ns = 0;
    for (uint32_t t = 0; t < n_steps; t++) {
        uint64_t worst = 0;
        for (uint32_t g = 0; g < rule->n_groups; g++) {
            uint64_t *to = group_ns + ((size_t)t * rule->n_groups + g) * rule->n_variants, slowest = 0;
            for (uint32_t v = 0; v < rule->n_variants; v++) {
                to[v] = 0;
                for (uint32_t l = rule->first_layer[g]; l < rule->first_layer[g + 1]; l++)
                    to[v] += ns[v][(size_t)t * rule->n_layers + l];
                slowest = to[v] > slowest ? to[v] : slowest;
            }
            worst += slowest - to[0];
        }
        *worst_loss_ns = worst > *worst_loss_ns ? worst : *worst_loss_ns;
    }
}

struct replay {
    const struct mp_switch_rule *rule;
    const uint32_t *moves;
    const uint64_t *group_ns;
    const struct vpool *pool;
    struct mp_switch *state;
    uint32_t *was, *is; /* [n_groups] */
    struct vreplay *out;
};

static void one_step(struct replay *x, uint32_t step) {
    const struct mp_switch_rule *r = x->rule;
    const uint64_t *ns = x->group_ns + (size_t)step * r->n_groups * r->n_variants;
    const uint64_t switching = mp_switch_choose(x->state, x->is);
    uint64_t own = switching + x->pool->rest_ns, fixed = x->pool->rest_ns;
    for (uint32_t g = 0; g < r->n_groups; g++) {
        const size_t at = (size_t)g * r->n_variants;
        own += ns[at + x->is[g]];
        fixed += ns[at];
        if (x->is[g] != x->was[g]) {
            x->out->n_switches++;
            x->out->n_moves += x->moves[(at + x->was[g]) * r->n_variants + x->is[g]];
        }
    }
    memcpy(x->was, x->is, r->n_groups * sizeof *x->was);
    x->out->n_steps++;
    x->out->static_ns += (double)fixed;
    x->out->variants_ns += (double)own;
    x->out->switching_ns += (double)switching;
    mp_switch_seen(x->state, x->pool->load + (size_t)step * r->n_layers * r->n_experts, ns, x->pool->rest_ns);
}

/* The domain of each block. */
static enum mp_status deal(uint32_t **out, const struct vstream *stream, struct mp_rng *rng, struct mp_error *err) {
    const struct vpool *p = stream->pool;
    uint64_t weight[MP_VARIANT_DOMAINS_MAX], rest[MP_VARIANT_DOMAINS_MAX], sum = 0;
    uint32_t n = 0, n_of[MP_VARIANT_DOMAINS_MAX];
    *out = mp_calloc(stream->n_blocks, sizeof **out);
    if (*out == NULL)
        return mp_nomem(err, "blocks");
    for (uint32_t d = 0; d < p->n_domains; d++) {
        weight[d] = p->first[d + 1] > p->first[d] ? stream->weights[d] : 0;
        sum += weight[d];
    }
    if (sum == 0) {
        mp_free(*out);
        *out = NULL;
        return mp_fail(err, MP_EUSAGE, "there is no step to simulate");
    }
    for (uint32_t d = 0; d < p->n_domains; d++) {
        n_of[d] = (uint32_t)(weight[d] * stream->n_blocks / sum);
        rest[d] = weight[d] * stream->n_blocks % sum;
        n += n_of[d];
    }
    while (n < stream->n_blocks) {
        uint32_t best = 0;
        for (uint32_t d = 1; d < p->n_domains; d++)
            best = rest[d] > rest[best] ? d : best;
        rest[best] = 0;
        n_of[best]++;
        n++;
    }
    n = 0;
    for (uint32_t d = 0; d < p->n_domains; d++)
        for (uint32_t i = 0; i < n_of[d]; i++)
            (*out)[n++] = d;
    mp_rng_shuffle(rng, *out, n);
    return MP_OK;
}

enum mp_status vreplay_run(struct vreplay *out, const struct mp_switch_rule *rule, const uint32_t *moves,
                           const uint64_t *group_ns, const struct vstream *stream,
                           void (*each)(void *ctx, uint32_t step), void *ctx, struct mp_error *err) {
    const struct vpool *p = stream->pool;
    struct replay x = {.rule = rule, .moves = moves, .group_ns = group_ns, .pool = p, .out = out};
    struct mp_rng rng = mp_rng_seed(mp_mix64(stream->seed ^ mp_mix64(stream->length)));
    uint32_t *domains;
    *out = (struct vreplay){.n_steps = 0};
    enum mp_status status = deal(&domains, stream, &rng, err);
    if (status != MP_OK)
        return status;
    x.was = mp_calloc(2 * (size_t)rule->n_groups, sizeof *x.was);
    if (x.was == NULL) {
        mp_free(domains);
        return mp_nomem(err, "replaying a library");
    }
    x.is = x.was + rule->n_groups;
    status = mp_switch_new(&x.state, rule, err);
    for (uint32_t b = 0; b < stream->n_blocks && status == MP_OK; b++) {
        const uint32_t domain = domains[b];
        for (uint32_t i = 0; i < stream->length; i++) {
            const uint32_t n = p->first[domain + 1] - p->first[domain];
            const uint32_t step = p->first[domain] + (uint32_t)mp_rng_below(&rng, n);
            one_step(&x, step);
            if (each != NULL)
                each(ctx, step);
        }
        const double worse = out->variants_ns / out->static_ns - 1;
        out->worst_block = b == 0 || worse > out->worst_block ? worse : out->worst_block;
    }
    mp_switch_free(x.state);
    mp_free(x.was);
    mp_free(domains);
    return status;
}
