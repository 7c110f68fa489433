/* The library replayed on blocks of steps of one domain each.
 *
 * Decides   nothing: rule.c does.
 * Minimises -
 * Method    a block's domain is drawn among the others than the last one's, its steps among that domain's with
 *           replacement; one stream of random numbers. A step takes the sum of its groups' times under the variants
 * that the rule has in force, and what switching to them takes, in full.
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

/* Another domain than `last`, of those that have steps. */
static uint32_t next_domain(const struct vpool *p, uint32_t last, struct mp_rng *rng) {
    uint32_t n = 0, k;
    for (uint32_t d = 0; d < p->n_domains; d++)
        n += p->first[d + 1] > p->first[d] && d != last;
    if (n == 0)
        return last;
    k = (uint32_t)mp_rng_below(rng, n);
    for (uint32_t d = 0;; d++)
        if (p->first[d + 1] > p->first[d] && d != last && k-- == 0)
            return d;
}

enum mp_status vreplay_run(struct vreplay *out, const struct mp_switch_rule *rule, const uint32_t *moves,
                           const uint64_t *group_ns, const struct vstream *stream,
                           void (*each)(void *ctx, uint32_t step), void *ctx, struct mp_error *err) {
    const struct vpool *p = stream->pool;
    struct replay x = {.rule = rule, .moves = moves, .group_ns = group_ns, .pool = p, .out = out};
    struct mp_rng rng = mp_rng_seed(mp_mix64(stream->seed ^ mp_mix64(stream->length)));
    uint32_t domain = MP_NONE;
    *out = (struct vreplay){.n_steps = 0};
    if (p->first[p->n_domains] == 0)
        return mp_fail(err, MP_EUSAGE, "there is no step to simulate");
    x.was = mp_calloc(2 * (size_t)rule->n_groups, sizeof *x.was);
    if (x.was == NULL)
        return mp_nomem(err, "replaying a library");
    x.is = x.was + rule->n_groups;
    enum mp_status status = mp_switch_new(&x.state, rule, err);
    for (uint32_t b = 0; b < stream->n_blocks && status == MP_OK; b++) {
        domain = next_domain(p, domain, &rng);
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
    return status;
}
