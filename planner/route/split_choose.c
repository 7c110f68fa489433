/* The split's fixed-charge form: which replicas are used at all.
 *
 * Decides   for each replicated expert the replicas that take rows; the others are not read.
 * Minimises the longest time of a GPU, max(a + b * experts it reads, c + beta * rows): where few rows come (decode) the
 *           first term binds, and a second replica is a second reading of the same weights.
 * Method    all choices where they are few. Else descent by closing, opening and exchanging replicas, from all open and
 *           from one open each (most readings first, to the GPU that is done first), each choice with its least peak of
 *           rows (split.c); what is compared is the peak, then the squares of what GPUs read past the bound, then the
 * peak of rows (which transfers follow, even where readings bind).
 * Bound     the larger of both limits, each exact and polynomial: least peak of rows with all replicas open (a flow),
 * and least peak of readings when they could be divided (a flow; where all experts are read equally often the matching
 * of experts to GPUs that is the true optimum).
 * Differs   TEMPO (KlingAI, 2026) decides per batch, with the batch's own counts, and proves OPT + max(b, beta n_max)
 *           when every GPU holds every expert; this one plans on sums over steps.
 * Cost      one flow per choice tried, some 10 us at 64 GPUs and 320 slots. */
#include "split.h"
#include <moeplan/base.h>
#include <string.h>

struct choice {
    uint32_t expert;
    uint32_t first, n; /* its slots in `slots`, one for each GPU that holds it */
};
struct score {
    uint64_t peak_ps, rows_ps;
    unsigned __int128 excess;
};
static const struct score worst_score = {UINT64_MAX, UINT64_MAX, (unsigned __int128)UINT64_MAX << 64};
struct choosing {
    const struct mp_split_problem *p;
    const struct mp_split_charges *charges;
    struct mp_splitter *splitter;
    uint32_t n_choices;
    struct choice *choices;
    uint32_t *slots;
    bool *is_open, *best_open; /* [n_slots] */
    uint64_t *active;          /* [n_gpus] readings */
    uint64_t floor_ps;         /* readings up to here are not in the way */
    struct score now, best;
    uint64_t n_tried, effort;
};

static uint64_t read_time(const struct choosing *c, uint32_t gpu) {
    return c->charges->read_base_ps[gpu] + c->charges->read_ps[gpu] * c->active[gpu];
}

static bool list_choices(struct choosing *c, struct mp_arena *arena) {
    const struct mp_split_problem *p = c->p;
    c->choices = mp_arena_alloc(arena, p->n_experts, sizeof *c->choices);
    c->slots = mp_arena_alloc(arena, p->n_slots, sizeof *c->slots);
    c->is_open = mp_arena_alloc(arena, p->n_slots, sizeof *c->is_open);
    c->best_open = mp_arena_alloc(arena, p->n_slots, sizeof *c->best_open);
    c->active = mp_arena_alloc(arena, p->n_gpus, sizeof *c->active);
    uint32_t *next = mp_arena_alloc(arena, p->n_slots, sizeof *next);     /* slot of the same expert, + 1 */
    uint32_t *first = mp_arena_alloc(arena, p->n_experts, sizeof *first); /* + 1 */
    if (c->choices == NULL || c->slots == NULL || c->is_open == NULL || c->best_open == NULL || c->active == NULL ||
        next == NULL || first == NULL)
        return false;
    for (uint32_t s = p->n_slots; s-- > 0;)
        if (p->slot_expert[s] < p->n_experts) {
            next[s] = first[p->slot_expert[s]];
            first[p->slot_expert[s]] = s + 1;
        }
    uint32_t n = 0;
    for (uint32_t e = 0; e < p->n_experts; e++) {
        const uint32_t from = n;
        for (uint32_t s = first[e]; s != 0; s = next[s - 1]) {
            bool is_new = true;
            for (uint32_t i = from; i < n && is_new; i++)
                is_new = p->slot_gpu[c->slots[i]] != p->slot_gpu[s - 1];
            if (!is_new)
                continue;
            c->slots[n++] = s - 1;
            c->is_open[s - 1] = true;
            c->active[p->slot_gpu[s - 1]] += c->charges->active[e];
        }
        if (n - from > 1)
            c->choices[c->n_choices++] = (struct choice){e, from, n - from};
    }
    return true;
}

static void turn(struct choosing *c, const struct choice *x, uint32_t i, bool is_open) {
    const uint32_t slot = c->slots[x->first + i], gpu = c->p->slot_gpu[slot];
    if (c->is_open[slot] == is_open)
        return;
    c->is_open[slot] = is_open;
    c->active[gpu] =
        is_open ? c->active[gpu] + c->charges->active[x->expert] : c->active[gpu] - c->charges->active[x->expert];
}

static uint64_t read_peak(const struct choosing *c, unsigned __int128 *excess) {
    uint64_t peak = 0;
    *excess = 0;
    for (uint32_t g = 0; g < c->p->n_gpus; g++) {
        const uint64_t time = read_time(c, g), past = time > c->floor_ps ? (time - c->floor_ps) >> 6 : 0;
        peak = time > peak ? time : peak;
        *excess += (unsigned __int128)past * past;
    }
    return peak;
}

static bool is_less(const struct score *a, const struct score *b) {
    if (a->peak_ps != b->peak_ps)
        return a->peak_ps < b->peak_ps;
    return a->excess != b->excess ? a->excess < b->excess : a->rows_ps < b->rows_ps;
}

/* Is what is open now better than *than? Then *than is its score. */
static bool improves(struct choosing *c, struct score *than) {
    struct score now;
    now.peak_ps = read_peak(c, &now.excess);
    if (now.peak_ps > than->peak_ps || (now.peak_ps == than->peak_ps && now.excess > than->excess))
        return false;
    c->n_tried++;
    now.rows_ps = mp_split_peak_open(c->splitter, c->is_open, than->peak_ps);
    if (now.rows_ps == UINT64_MAX)
        return false;
    now.peak_ps = now.rows_ps > now.peak_ps ? now.rows_ps : now.peak_ps;
    if (!is_less(&now, than))
        return false;
    *than = now;
    return true;
}

static void keep_best(struct choosing *c) {
    if (!is_less(&c->now, &c->best))
        return;
    c->best = c->now;
    memcpy(c->best_open, c->is_open, c->p->n_slots * sizeof *c->best_open);
}

/* ---- all choices ---- */
static bool are_few(const struct choosing *c, uint64_t most) {
    uint64_t n = 1;
    for (uint32_t k = 0; k < c->n_choices; k++)
        if (c->choices[k].n > 20 || mp_mul_overflow(n, (UINT64_C(1) << c->choices[k].n) - 1, &n) || n > most)
            return false;
    return true;
}

static void try_all(struct choosing *c, uint32_t k) {
    if (k == c->n_choices) {
        if (improves(c, &c->best))
            memcpy(c->best_open, c->is_open, c->p->n_slots * sizeof *c->best_open);
        return;
    }
    const struct choice *x = &c->choices[k];
    for (uint32_t set = 1; set < UINT32_C(1) << x->n; set++) {
        for (uint32_t i = 0; i < x->n; i++)
            turn(c, x, i, set >> i & 1);
        try_all(c, k + 1);
    }
}

/* ---- descent ---- */
/* Opens `open` and closes `close` (indexes of the choice, MP_NONE = neither) where that is better. */
static bool try_move(struct choosing *c, const struct choice *x, uint32_t open, uint32_t close) {
    if (open != MP_NONE)
        turn(c, x, open, true);
    if (close != MP_NONE)
        turn(c, x, close, false);
    if (improves(c, &c->now))
        return true;
    if (open != MP_NONE)
        turn(c, x, open, false);
    if (close != MP_NONE)
        turn(c, x, close, true);
    return false;
}

static bool improve_choice(struct choosing *c, const struct choice *x) {
    uint32_t n_open = 0;
    for (uint32_t i = 0; i < x->n; i++)
        n_open += c->is_open[c->slots[x->first + i]];
    for (uint32_t i = 0; i < x->n; i++) {
        const bool is_open = c->is_open[c->slots[x->first + i]];
        if (!is_open && try_move(c, x, i, MP_NONE))
            return true;
        if (is_open && n_open > 1 && try_move(c, x, MP_NONE, i))
            return true;
        for (uint32_t j = 0; is_open && j < x->n; j++)
            if (!c->is_open[c->slots[x->first + j]] && try_move(c, x, j, i))
                return true;
    }
    return false;
}

static void descend(struct choosing *c) {
    const uint64_t most = c->n_tried + c->effort;
    c->now = worst_score;
    (void)improves(c, &c->now);
    for (uint32_t k = 0, since = 0; since < c->n_choices && c->n_tried < most; k = k + 1 < c->n_choices ? k + 1 : 0)
        since = improve_choice(c, &c->choices[k]) ? 0 : since + 1;
    keep_best(c);
}

/* One replica each: experts that are read most first, to the GPU that is done first. */
static bool open_one_each(struct choosing *c, struct mp_arena *arena) {
    bool *is_done = mp_arena_alloc(arena, c->n_choices + 1, sizeof *is_done);
    if (is_done == NULL)
        return false;
    for (uint32_t k = 0; k < c->n_choices; k++)
        for (uint32_t i = 0; i < c->choices[k].n; i++)
            turn(c, &c->choices[k], i, false);
    for (uint32_t turns = 0; turns < c->n_choices; turns++) {
        uint32_t next = MP_NONE, best = 0;
        uint64_t least = UINT64_MAX;
        for (uint32_t k = 0; k < c->n_choices; k++)
            if (!is_done[k] && (next == MP_NONE ||
                                c->charges->active[c->choices[k].expert] > c->charges->active[c->choices[next].expert]))
                next = k;
        const struct choice *x = &c->choices[next];
        for (uint32_t i = 0; i < x->n; i++) {
            const uint32_t gpu = c->p->slot_gpu[c->slots[x->first + i]];
            const uint64_t time = read_time(c, gpu) + c->charges->read_ps[gpu] * c->charges->active[x->expert];
            if (time < least) {
                least = time;
                best = i;
            }
        }
        turn(c, x, best, true);
        is_done[next] = true;
    }
    return true;
}

/* ---- the bound ---- */
static enum mp_status least_readings(uint64_t *out, const struct mp_split_problem *problem,
                                     const struct mp_split_charges *charges, struct mp_arena *arena,
                                     struct mp_error *err) {
    struct mp_split_problem p = *problem;
    struct mp_splitter *s;
    uint64_t unit = 0;
    const uint32_t node = 0;
    uint64_t *rows = mp_arena_alloc(arena, p.n_experts, sizeof *rows);
    uint64_t *row_ps = mp_arena_alloc(arena, p.n_gpus, sizeof *row_ps);
    if (rows == NULL || row_ps == NULL)
        return mp_nomem(err, "splitting tokens over replicas");
    for (uint32_t e = 0; e < p.n_experts; e++)
        for (uint64_t b = charges->active[e], rest; b > 0; b = rest) {
            rest = unit % b;
            unit = b;
        }
    unit = unit > 0 ? unit : 1;
    for (uint32_t e = 0; e < p.n_experts; e++)
        rows[e] = charges->active[e] / unit;
    for (uint32_t g = 0; g < p.n_gpus; g++)
        if (mp_mul_overflow(charges->read_ps[g], unit, &row_ps[g]))
            return mp_fail(err, MP_EUSAGE, "splitting tokens over replicas: readings of a layer take too long");
    p.n_classes = 1;
    p.class_gpu = NULL;
    p.class_node = &node;
    p.rows = rows;
    p.row_ps = row_ps;
    p.fixed_ps = charges->read_base_ps;
    enum mp_status status = mp_split_new(&s, &p, arena, err);
    *out = status == MP_OK ? mp_split_peak(s) : 0;
    return status;
}

enum mp_status mp_split_choose(struct mp_split_choice *out, const struct mp_split_problem *problem,
                               const struct mp_split_charges *charges, bool is_lean, uint64_t exact_max,
                               uint64_t effort, struct mp_arena *arena, struct mp_error *err) {
    struct choosing c = {.p = problem, .charges = charges, .best = worst_score, .effort = effort};
    uint64_t reads = 0;
    *out = (struct mp_split_choice){0};
    enum mp_status status = least_readings(&reads, problem, charges, arena, err);
    if (status == MP_OK)
        status = mp_split_new(&c.splitter, problem, arena, err);
    if (status != MP_OK)
        return status;
    const uint64_t rows = mp_split_peak(c.splitter);
    out->least_rows_ps = rows;
    out->least_reads_ps = reads;
    out->bound_ps = rows > reads ? rows : reads;
    c.floor_ps = is_lean ? 0 : out->bound_ps;
    out->slot_expert = mp_arena_alloc(arena, problem->n_slots, sizeof *out->slot_expert);
    if (out->slot_expert == NULL || !list_choices(&c, arena))
        return mp_nomem(err, "splitting tokens over replicas");
    out->is_exact = are_few(&c, exact_max);
    if (out->is_exact) {
        try_all(&c, 0);
    } else {
        descend(&c);
        if (!open_one_each(&c, arena))
            return mp_nomem(err, "splitting tokens over replicas");
        descend(&c);
    }
    for (uint32_t s = 0; s < problem->n_slots; s++)
        out->slot_expert[s] = c.best_open[s] ? problem->slot_expert[s] : MP_NO_EXPERT;
    out->peak_ps = c.best.peak_ps;
    out->is_exact |= c.best.peak_ps == out->bound_ps;
    out->n_tried = c.n_tried;
    return MP_OK;
}
