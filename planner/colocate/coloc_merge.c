/* A lower bound of the timelines of all assignments that agree on some GPUs.
 *
 * Decides   nothing: a bound for branch and bound.
 * Minimises the end of both models, over every order in which their phases might be released.
 * Method    a timeline takes phases in order of release, and with other groups on the other GPUs that order is not
 *           known: so all orders. After i phases of one model and j of the other, when the last one was of a given
 *           model, the least of each release and of each moment a GPU or port is free, whatever the way there: one
 *           label for each (i, j, model). A phase that is taken was released first, so the other's release is no
 *           earlier. A phase ends no sooner than on any GPU or port that has its groups, than its peak after its
 *           release, and where the other model's last transfer was of the same kind, than both together after that
 *           one's release.
 * Bound     below every timeline: each label is below the state of every timeline that comes by, and stays so.
 * Paper     none.
 * Cost      O(layers^2 * n), about 16 us for 8 layers and 4 GPUs; what cannot end below the limit is dropped. */
#include "coloc_merge.h"
#include <moeplan/base.h>
#include <string.h>

enum { N_KINDS = 5 }; /* gate, dispatch, experts, combine, aggregate with the next gate */

struct label {
    uint64_t release[2], transfer[2]; /* transfer: release of the model's last one */
    uint64_t *free_at;                /* [n_lanes] */
    bool is_there;
};
struct mp_coloc_merge {
    const struct mp_coloc_groups *g;
    uint32_t n_steps, n_lanes;            /* lanes: GPUs that have their groups, then two ports of each */
    uint64_t *work[2][N_KINDS], *last[2]; /* [n_lanes] */
    uint64_t peak[2][N_KINDS], last_peak[2];
    uint64_t *tail[2];    /* [n_steps + 1] phases to come of a model by themselves */
    uint64_t both[2];     /* dispatches, combines */
    struct label *row[2]; /* [n_steps + 1][2] labels after i phases of model 0, and after i + 1 */
    uint64_t *moved;      /* [n_lanes] scratch */
    uint64_t limit;
};

static uint64_t more(uint64_t a, uint64_t b) { return a > b ? a : b; }
static uint64_t less(uint64_t a, uint64_t b) { return a < b ? a : b; }
static uint32_t kind_of(uint32_t step) { return step == 0 ? 0 : 1 + (step - 1) % 4; }
static bool is_transfer(uint32_t kind) { return kind % 2 == 1; }

enum mp_status mp_coloc_merge_new(struct mp_coloc_merge **out, const struct mp_coloc_groups *g, struct mp_arena *arena,
                                  struct mp_error *err) {
    struct mp_coloc_merge *s = mp_arena_alloc(arena, 1, sizeof *s);
    *out = NULL;
    if (s == NULL)
        return mp_nomem(err, "branch and bound");
    s->g = g;
    s->n_steps = 4 * g->shape.n_layers + 1;
    const size_t lanes = 3 * (size_t)g->n, cells = 2 * ((size_t)s->n_steps + 1);
    uint64_t *words = mp_arena_alloc(arena, lanes * (13 + 2 * cells) + cells, sizeof *words);
    for (int k = 0; k < 2; k++)
        s->row[k] = mp_arena_alloc(arena, cells, sizeof *s->row[k]);
    if (words == NULL || s->row[0] == NULL || s->row[1] == NULL)
        return mp_nomem(err, "branch and bound");
    for (int m = 0; m < 2; m++) {
        for (int k = 0; k < N_KINDS; k++, words += lanes)
            s->work[m][k] = words;
        s->last[m] = words;
        words += lanes;
        s->tail[m] = words;
        words += s->n_steps + 1;
        for (size_t c = 0; c < cells; c++, words += lanes)
            s->row[m][c].free_at = words;
    }
    s->moved = words;
    *out = s;
    return MP_OK;
}

static uint64_t peak_of(const struct mp_coloc_merge *s, int m, uint32_t step) {
    return step + 1 == s->n_steps ? s->last_peak[m] : s->peak[m][kind_of(step)];
}

static void prepare(struct mp_coloc_merge *s, uint32_t n, const uint32_t *gpus, uint32_t *const on[2],
                    const struct mp_coloc_peaks *k) {
    const struct mp_coloc_groups *g = s->g;
    s->n_lanes = 3 * n;
    s->both[0] = k->both_dispatch;
    s->both[1] = k->both_combine;
    for (int m = 0; m < 2; m++) {
        const uint64_t peaks[N_KINDS] = {k->gate[m], k->dispatch[m], k->experts[m], k->combine[m], k->between[m]};
        memcpy(s->peak[m], peaks, sizeof peaks);
        s->last_peak[m] = k->aggregate[m];
        for (uint32_t x = 0; x < n; x++) {
            const size_t at = (size_t)on[m][gpus[x]] * g->n + gpus[x];
            s->work[m][0][x] = g->gate[m][at];
            s->work[m][2][x] = g->experts[m][at];
            s->work[m][4][x] = g->gate[m][at] + g->aggregate[m][at];
            s->last[m][x] = g->aggregate[m][at];
            for (uint32_t side = 0; side < 2; side++) {
                s->work[m][1][n + 2 * x + side] = g->dispatch[m][side][at];
                s->work[m][3][n + 2 * x + side] = g->combine[m][side][at];
            }
        }
        s->tail[m][s->n_steps] = 0;
        for (uint32_t step = s->n_steps; step-- > 0;) {
            const uint64_t peak = peak_of(s, m, step);
            const uint64_t shot = is_transfer(kind_of(step)) && peak > 0 ? g->shape.shot_ns : 0;
            s->tail[m][step] = s->tail[m][step + 1] + peak + shot;
        }
    }
}

/* Kind of the model's last transfer when `step` is its next phase; 0 without one. */
static uint32_t last_transfer(uint32_t step) {
    if (step < 2)
        return 0;
    const uint32_t kind = kind_of(step - 1);
    return is_transfer(kind) ? kind : step >= 3 ? kind_of(step - 2) : 0;
}

static void put(const struct mp_coloc_merge *s, struct label *to, const struct label *from, int m,
                const uint64_t release[2], uint64_t transfer, uint32_t first, uint32_t end) {
    if (!to->is_there) {
        to->is_there = true;
        memcpy(to->release, release, sizeof to->release);
        to->transfer[m] = transfer;
        to->transfer[1 - m] = from->transfer[1 - m];
        memcpy(to->free_at, from->free_at, s->n_lanes * sizeof *to->free_at);
        memcpy(to->free_at + first, s->moved + first, (end - first) * sizeof *to->free_at);
        return;
    }
    for (int k = 0; k < 2; k++)
        to->release[k] = less(to->release[k], release[k]);
    to->transfer[m] = less(to->transfer[m], transfer);
    to->transfer[1 - m] = less(to->transfer[1 - m], from->transfer[1 - m]);
    for (uint32_t r = 0; r < s->n_lanes; r++)
        to->free_at[r] = less(to->free_at[r], r >= first && r < end ? s->moved[r] : from->free_at[r]);
}

/* Model m takes its next phase. step: phases of both so far. */
static void take(struct mp_coloc_merge *s, const struct label *l, struct label *to, int m, const uint32_t step[2]) {
    const uint32_t kind = kind_of(step[m]), n = s->n_lanes / 3, first = is_transfer(kind) ? n : 0,
                   end = is_transfer(kind) ? 3 * n : n, other = step[1 - m];
    const uint64_t *work = step[m] + 1 == s->n_steps ? s->last[m] : s->work[m][kind], start = l->release[m];
    const uint64_t peak = peak_of(s, m, step[m]);
    uint64_t release[2], done = start + peak;
    release[1 - m] = other == s->n_steps ? l->release[1 - m] : more(l->release[1 - m], start);
    if (release[1 - m] + s->tail[1 - m][other] > s->limit)
        return;
    for (uint32_t r = first; r < end; r++) {
        const uint64_t at = more(start, l->free_at[r]) + work[r];
        s->moved[r] = work[r] > 0 ? at : l->free_at[r];
        done = more(done, work[r] > 0 ? at : 0);
    }
    if (is_transfer(kind) && last_transfer(other) == kind)
        done = more(done, l->transfer[1 - m] + s->both[kind == 3]);
    release[m] = done + (is_transfer(kind) && peak > 0 ? s->g->shape.shot_ns : 0);
    if (release[m] + s->tail[m][step[m] + 1] <= s->limit)
        put(s, to, l, m, release, is_transfer(kind) ? start : l->transfer[m], first, end);
}

uint64_t mp_coloc_merge_bound(struct mp_coloc_merge *s, uint32_t n, const uint32_t *gpus, uint32_t *const on[2],
                              const struct mp_coloc_peaks *peaks, uint64_t limit) {
    const uint32_t n_steps = s->n_steps, n_layers = s->g->shape.n_layers;
    uint64_t least = UINT64_MAX;
    prepare(s, n, gpus, on, peaks);
    if (limit == 0 || mp_mul_overflow(limit - 1, n_layers, &s->limit))
        s->limit = limit == 0 ? 0 : UINT64_MAX;
    for (uint32_t c = 0; c < 2 * (n_steps + 1); c++)
        s->row[0][c].is_there = false;
    s->row[0][0].is_there = true;
    memset(s->row[0][0].release, 0, sizeof s->row[0][0].release);
    memset(s->row[0][0].transfer, 0, sizeof s->row[0][0].transfer);
    memset(s->row[0][0].free_at, 0, s->n_lanes * sizeof *s->row[0][0].free_at);
    for (uint32_t i = 0; i <= n_steps; i++) {
        struct label *now = s->row[i % 2], *next = s->row[1 - i % 2];
        for (uint32_t c = 0; c < 2 * (n_steps + 1); c++)
            next[c].is_there = false;
        for (uint32_t c = 0; c < 2 * (n_steps + 1); c++) {
            const uint32_t step[2] = {i, c / 2};
            if (!now[c].is_there)
                continue;
            if (i == n_steps && c / 2 == n_steps)
                least = less(least, more(now[c].release[0], now[c].release[1]));
            if (i < n_steps)
                take(s, &now[c], &next[c - c % 2], 0, step);
            if (c / 2 < n_steps)
                take(s, &now[c], &now[c - c % 2 + 3], 1, step);
        }
    }
    return least == UINT64_MAX ? UINT64_MAX : mp_ceil_div(least, n_layers);
}
