/* Requests of like popularity.
 *
 * Decides   which requests (iterations) one variant is made for.
 * Minimises the sum of absolute differences between the requests' expert shares and their group's.
 * Method    Lloyd's in whole numbers from centres chosen one by one, each the request farthest from those before (the
 *           first is the one farthest from the whole). A centre is the mean of its requests' shares. Ties: the earlier.
 * Bound     none.
 * Paper     S. P. Lloyd, IEEE Trans. Inf. Theory 28(2), 1982; T. Gonzalez, Theor. Comput. Sci. 38, 1985 for the start.
 * Differs   distances are those that the rule uses at run time; a group that loses all its requests is left out.
 * Cost      O(rounds * groups * requests * layers * experts). */
#include "variants.h"
#include <moeplan/base.h>
#include <string.h>

enum { ROUNDS = 12 };

static void add_load(const struct mp_trace *t, uint32_t member, uint64_t *load, uint16_t *ids) {
    if (t->kind == MP_TRACE_COUNTS) {
        const size_t cells = (size_t)t->n_layers * t->n_experts;
        const uint64_t *count = t->counts + member * cells * t->n_sources;
        for (size_t i = 0; i < cells * t->n_sources; i++)
            load[i % cells] += count[i];
        return;
    }
    for (uint64_t row = 0; row < t->requests[member].n_rows; row++)
        for (uint32_t l = 0; l < t->n_layers; l++) {
            const uint32_t used = mp_trace_row(t, l, t->requests[member].first_row + row, ids);
            for (uint32_t k = 0; k < used; k++)
                load[(size_t)l * t->n_experts + ids[k]]++;
        }
}

static void to_shares(uint32_t *share, const uint64_t *load, const struct mp_trace *t) {
    for (uint32_t l = 0; l < t->n_layers; l++) {
        const size_t at = (size_t)l * t->n_experts;
        uint64_t sum = 0;
        for (uint32_t e = 0; e < t->n_experts; e++)
            sum += load[at + e];
        for (uint32_t e = 0; e < t->n_experts; e++)
            share[at + e] = sum > 0 ? (uint32_t)mp_mul_div(load[at + e], MP_SHARE_ONE, sum) : 0;
    }
}

enum mp_status vcluster_shares(uint32_t *share, const struct mp_part *part, struct mp_error *err) {
    const struct mp_trace *t = part->trace;
    uint64_t *load = mp_calloc((size_t)t->n_layers * t->n_experts, sizeof *load);
    uint16_t *ids = mp_calloc(t->top_k > 0 ? t->top_k : 1, sizeof *ids);
    enum mp_status status = load != NULL && ids != NULL ? MP_OK : mp_nomem(err, "popularity");
    for (uint32_t m = 0; m < part->n && status == MP_OK; m++)
        add_load(t, part->members[m], load, ids);
    if (status == MP_OK)
        to_shares(share, load, t);
    mp_free(load);
    mp_free(ids);
    return status;
}

static uint64_t distance(const uint32_t *a, const uint32_t *b, size_t n) {
    uint64_t sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += a[i] > b[i] ? a[i] - b[i] : b[i] - a[i];
    return sum;
}

struct cluster {
    size_t n_cells;
    uint32_t n;
    uint32_t *share, *centre; /* [n], [groups] x [n_cells] */
    uint64_t *sum;            /* [n_cells] */
    uint32_t *group;
};

static bool assign(struct cluster *c, uint32_t n_groups) {
    bool is_new = false;
    for (uint32_t m = 0; m < c->n; m++) {
        uint32_t best = 0;
        uint64_t least = UINT64_MAX;
        for (uint32_t k = 0; k < n_groups; k++) {
            const uint64_t d = distance(c->share + m * c->n_cells, c->centre + k * c->n_cells, c->n_cells);
            best = d < least ? k : best;
            least = d < least ? d : least;
        }
        is_new |= c->group[m] != best;
        c->group[m] = best;
    }
    return is_new;
}

static void centre(struct cluster *c, uint32_t n_groups) {
    for (uint32_t k = 0; k < n_groups; k++) {
        uint32_t n = 0;
        memset(c->sum, 0, c->n_cells * sizeof *c->sum);
        for (uint32_t m = 0; m < c->n; m++) {
            if (c->group[m] != k)
                continue;
            for (size_t i = 0; i < c->n_cells; i++)
                c->sum[i] += c->share[m * c->n_cells + i];
            n++;
        }
        for (size_t i = 0; i < c->n_cells && n > 0; i++)
            c->centre[k * c->n_cells + i] = (uint32_t)(c->sum[i] / n);
    }
}

static void group(struct cluster *c, uint32_t n_groups) {
    memset(c->group, 0, c->n * sizeof *c->group);
    centre(c, 1);
    for (uint32_t k = 0; k < n_groups; k++) {
        uint32_t farthest = 0;
        uint64_t most = 0;
        for (uint32_t m = 0; m < c->n; m++) {
            const uint64_t d = distance(c->share + m * c->n_cells, c->centre + c->group[m] * c->n_cells, c->n_cells);
            farthest = d > most ? m : farthest;
            most = d > most ? d : most;
        }
        memcpy(c->centre + k * c->n_cells, c->share + farthest * c->n_cells, c->n_cells * sizeof *c->centre);
        (void)assign(c, k + 1);
    }
    for (int round = 0; round < ROUNDS; round++) {
        centre(c, n_groups);
        if (!assign(c, n_groups))
            break;
    }
}

enum mp_status vcluster_group(uint32_t *out, uint32_t *n, const struct mp_part *part, struct mp_error *err) {
    const struct mp_trace *t = part->trace;
    struct cluster c = {.n_cells = (size_t)t->n_layers * t->n_experts, .n = part->n, .group = out};
    const uint32_t wanted = *n < part->n ? *n : part->n;
    enum mp_status status = MP_OK;
    *n = 0;
    if (wanted == 0)
        return MP_OK;
    uint32_t *number = mp_calloc(wanted, sizeof *number);
    c.share = mp_calloc(part->n, c.n_cells * sizeof *c.share);
    c.centre = mp_calloc(wanted, c.n_cells * sizeof *c.centre);
    c.sum = mp_calloc(c.n_cells, sizeof *c.sum);
    if (c.share == NULL || c.centre == NULL || c.sum == NULL || number == NULL) {
        status = mp_nomem(err, "grouping requests");
        goto out;
    }
    for (uint32_t m = 0; m < part->n; m++) {
        const struct mp_part one = {.trace = t, .n = 1, .members = &part->members[m]};
        MP_TRY(vcluster_shares(c.share + m * c.n_cells, &one, err));
    }
    group(&c, wanted);
    memset(number, 0xff, wanted * sizeof *number);
    for (uint32_t m = 0; m < part->n; m++) { /* numbered by their first request, without gaps */
        if (number[out[m]] == MP_NONE)
            number[out[m]] = (*n)++;
        out[m] = number[out[m]];
    }
out:
    mp_free(c.share);
    mp_free(c.centre);
    mp_free(c.sum);
    mp_free(number);
    return status;
}
