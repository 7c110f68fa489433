/* The rule that switches between plans while a model is served.
 *
 * Decides   before each step, from nothing but the steps before it, which variant serves each group of layers.
 * Minimises time, moves of weights included.
 * Method    per group: the variant whose traffic is nearest to that of the last `window` steps (sum of absolute
 *           differences of shares) or the static plan is switched to once staying has cost, by what the steps since
 * then would have taken, `patience` of the switch: ski rental, with the sum restarted at 0 whenever it falls below
 *           (Page's CUSUM). A switch that did not pay for itself by the time it is left doubles the group's patience,
 * one that did halves it again: so blocks too short to be worth it stop being followed.
 * Bound     an account holds what was saved less what switching cost. It is never let below -budget of the static
 * plan's time, the way back and one step's worst loss reserved: whatever comes, all groups go back to the static plan
 *           before that, and nothing else is switched to that could need it (header).
 * Paper     ski rental: Karlin, Manasse, Rudolph, Sleator, "Competitive snoopy caching", Algorithmica 3, 1988; E. S.
 * Page, "Continuous inspection schemes", Biometrika 41, 1954. Lina (METHODS.md N.5) for variants by popularity.
 * Differs   Lina plans anew in every layer of every step.
 * Cost      O(layers * experts * variants) whole-number operations per step. */
#include "variants.h"
#include <string.h>

#define PATIENCE_ONE 256u /* factor of a group's own patience: from 1 to 64 times */
#define PATIENCE_MOST (64 * PATIENCE_ONE)

typedef __int128 wide;

struct mp_switch {
    const struct mp_switch_rule *rule;
    uint32_t *variant;  /* [n_groups] */
    uint32_t *nearest;  /* [n_groups] */
    uint32_t *patience; /* [n_groups] factor */
    wide *regret;       /* [n_groups][n_variants] of staying instead */
    wide *paid;         /* [n_groups] what the last switch has brought, less its cost */
    uint32_t *before;   /* [n_groups] the variant that it was from */
    uint32_t *ring;     /* [window][n_layers][n_experts] */
    uint64_t *sum;      /* [n_layers][n_experts] of the ring */
    uint32_t n_ring, next;
    wide account, static_ns, worst_loss; /* account: saved less spent */
    struct mp_arena *arena;
};

static size_t cells_of(const struct mp_switch_rule *r) { return (size_t)r->n_layers * r->n_experts; }
static uint64_t cost(const struct mp_switch_rule *r, uint32_t g, uint32_t from, uint32_t to) {
    return r->cost_ns[((size_t)g * r->n_variants + from) * r->n_variants + to];
}

static enum mp_status check(const struct mp_switch_rule *r, struct mp_error *err) {
    const char *what = NULL;
    if (r->n_variants < 1 || r->n_variants > MP_VARIANTS_MAX)
        what = "no variant, or too many";
    else if (r->n_layers < 1 || r->n_layers > MP_MAX_LAYERS || r->n_experts < 1 || r->n_experts > MP_MAX_EXPERTS)
        what = "no layers or experts, or too many";
    else if (r->window < 1 || r->window > 65536)
        what = "a window that is not in [1, 65536]";
    else if (r->n_groups < 1 || r->n_groups > r->n_layers || r->first_layer[0] != 0 ||
             r->first_layer[r->n_groups] != r->n_layers)
        what = "groups that are not all layers";
    for (uint32_t g = 0; what == NULL && g < r->n_groups; g++) {
        if (r->first_layer[g] >= r->first_layer[g + 1])
            what = "a group without layers";
        for (uint32_t v = 0; what == NULL && v < r->n_variants; v++)
            if (cost(r, g, v, v) != 0)
                what = "a cost of staying";
    }
    return what == NULL ? MP_OK : mp_fail(err, MP_EUSAGE, "the rule to switch by has %s", what);
}

enum mp_status mp_switch_new(struct mp_switch **out, const struct mp_switch_rule *rule, struct mp_error *err) {
    *out = NULL;
    enum mp_status status = check(rule, err);
    if (status != MP_OK)
        return status;
    struct mp_arena *arena = mp_arena_new();
    struct mp_switch *s = arena != NULL ? mp_arena_alloc(arena, 1, sizeof *s) : NULL;
    if (s == NULL) {
        mp_arena_free(arena);
        return mp_nomem(err, "switching");
    }
    s->rule = rule;
    s->arena = arena;
    s->variant = mp_arena_alloc(arena, rule->n_groups, sizeof *s->variant);
    s->nearest = mp_arena_alloc(arena, rule->n_groups, sizeof *s->nearest);
    s->before = mp_arena_alloc(arena, rule->n_groups, sizeof *s->before);
    s->patience = mp_arena_alloc(arena, rule->n_groups, sizeof *s->patience);
    s->regret = mp_arena_alloc(arena, (size_t)rule->n_groups * rule->n_variants, sizeof *s->regret);
    s->paid = mp_arena_alloc(arena, rule->n_groups, sizeof *s->paid);
    s->ring = mp_arena_alloc(arena, rule->window * cells_of(rule), sizeof *s->ring);
    s->sum = mp_arena_alloc(arena, cells_of(rule), sizeof *s->sum);
    if (s->variant == NULL || s->nearest == NULL || s->before == NULL || s->patience == NULL || s->regret == NULL ||
        s->paid == NULL || s->ring == NULL || s->sum == NULL) {
        mp_arena_free(arena);
        return mp_nomem(err, "switching");
    }
    for (uint32_t g = 0; g < rule->n_groups; g++)
        s->patience[g] = PATIENCE_ONE;
    s->worst_loss = rule->worst_loss_ns;
    *out = s;
    return MP_OK;
}

void mp_switch_free(struct mp_switch *s) {
    if (s != NULL)
        mp_arena_free(s->arena);
}

int64_t mp_switch_ahead_ns(const struct mp_switch *s) {
    return s->account > INT64_MAX ? INT64_MAX : s->account < INT64_MIN ? INT64_MIN : (int64_t)s->account;
}

/* What the way back to the static plan takes. */
static wide way_back(const struct mp_switch *s) {
    wide ns = 0;
    for (uint32_t g = 0; g < s->rule->n_groups; g++)
        ns += cost(s->rule, g, s->variant[g], 0);
    return ns;
}

/* Would one more step, at its worst, and the way back still be within the budget? */
static bool is_safe(const struct mp_switch *s, wide account, wide back) {
    return (account - back - s->worst_loss) * 1000000 >= -s->static_ns * s->rule->budget_ppm;
}

static uint64_t take(struct mp_switch *s, uint32_t g, uint32_t to) {
    const struct mp_switch_rule *r = s->rule;
    const uint64_t ns = cost(r, g, s->variant[g], to);
    if (s->variant[g] != 0) { /* how the stay that ends here did; the way back is always worth it in the end */
        if (s->paid[g] < 0 && s->patience[g] < PATIENCE_MOST)
            s->patience[g] *= 2;
        else if (s->paid[g] > 0 && s->patience[g] > PATIENCE_ONE)
            s->patience[g] /= 2;
    }
    s->before[g] = s->variant[g];
    s->paid[g] = -(wide)ns;
    s->variant[g] = to;
    memset(&s->regret[(size_t)g * r->n_variants], 0, r->n_variants * sizeof *s->regret);
    s->account -= ns;
    return ns;
}

uint64_t mp_switch_choose(struct mp_switch *s, uint32_t *variant) {
    const struct mp_switch_rule *r = s->rule;
    uint64_t total = 0;
    bool is_away = false;
    for (uint32_t g = 0; g < r->n_groups; g++)
        is_away |= s->variant[g] != 0;
    const bool is_over = is_away && !is_safe(s, s->account, way_back(s));
    for (uint32_t g = 0; g < r->n_groups; g++) {
        if (is_over && s->variant[g] != 0)
            total += take(s, g, 0);
        if (is_over || s->n_ring == 0)
            continue;
        const uint32_t from = s->variant[g];
        const uint32_t candidates[2] = {s->nearest[g], 0};
        uint32_t best = from;
        wide most = 0;
        for (int i = 0; i < 2; i++) {
            const uint32_t to = candidates[i];
            const wide regret = s->regret[(size_t)g * r->n_variants + to], price = cost(r, g, from, to);
            if (to == from || regret <= 0 || (best != from && regret - price <= most) ||
                regret * 1000000 * PATIENCE_ONE < price * r->patience_ppm * s->patience[g])
                continue;
            const wide back = way_back(s) - cost(r, g, from, 0) + cost(r, g, to, 0);
            if (to != 0 && !is_safe(s, s->account - price, back))
                continue;
            best = to;
            most = regret - price;
        }
        if (best != from)
            total += take(s, g, best);
    }
    memcpy(variant, s->variant, r->n_groups * sizeof *variant);
    return total;
}

/* Takes the step into the window and finds each group's nearest variant. */
static void look(struct mp_switch *s, const uint32_t *load) {
    const struct mp_switch_rule *r = s->rule;
    const size_t cells = cells_of(r);
    uint32_t *slot = s->ring + s->next * cells;
    for (size_t i = 0; i < cells; i++) {
        s->sum[i] += load[i];
        s->sum[i] -= slot[i]; /* 0 before the ring is full */
    }
    memcpy(slot, load, cells * sizeof *slot);
    s->next = (s->next + 1) % r->window;
    s->n_ring += s->n_ring < r->window;
    for (uint32_t g = 0; g < r->n_groups; g++) {
        uint64_t distance[MP_VARIANTS_MAX] = {0};
        for (uint32_t l = r->first_layer[g]; l < r->first_layer[g + 1]; l++) {
            const uint64_t *sum = s->sum + (size_t)l * r->n_experts;
            uint64_t total = 0;
            for (uint32_t e = 0; e < r->n_experts; e++)
                total += sum[e];
            for (uint32_t e = 0; total > 0 && e < r->n_experts; e++) {
                const uint64_t share = (uint64_t)((unsigned __int128)sum[e] * MP_SHARE_ONE / total);
                for (uint32_t v = 0; v < r->n_variants; v++) {
                    const uint64_t own = r->share[v * cells + (size_t)l * r->n_experts + e];
                    distance[v] += share > own ? share - own : own - share;
                }
            }
        }
        s->nearest[g] = 0;
        for (uint32_t v = 1; v < r->n_variants; v++)
            if (distance[v] < distance[s->nearest[g]])
                s->nearest[g] = v;
    }
}

void mp_switch_seen(struct mp_switch *s, const uint32_t *load, const uint64_t *ns, uint64_t rest_ns) {
    const struct mp_switch_rule *r = s->rule;
    wide worst = 0;
    s->static_ns += rest_ns;
    for (uint32_t g = 0; g < r->n_groups; g++) {
        const uint64_t *own = ns + (size_t)g * r->n_variants;
        const uint32_t now = s->variant[g];
        uint64_t slowest = own[0];
        s->static_ns += own[0];
        s->account += (wide)own[0] - own[now];
        s->paid[g] += (wide)own[s->before[g]] - own[now];
        for (uint32_t v = 0; v < r->n_variants; v++) {
            wide *regret = &s->regret[(size_t)g * r->n_variants + v];
            *regret += (wide)own[now] - own[v];
            *regret = *regret > 0 ? *regret : 0;
            slowest = own[v] > slowest ? own[v] : slowest;
        }
        worst += slowest - own[0];
    }
    s->worst_loss = worst > s->worst_loss ? worst : s->worst_loss;
    look(s, load);
}
