/* Sub-ports: an exact order for unequal ports.
 *
 * Decides   the stages of transfers, and over how many sub-ports of its ends each goes (its rate).
 * Minimises time without launches: the stages add up to the port bound max(row_i / B_i, col_j / B_j) exactly where the
 *           ports' rates share a unit with at most 64 of them per port, which one-to-one transfers at min(B_i, B_j)
 * miss by 1.3 to 2 times where fast GPUs are hot. Each costs a launch.
 * Method    sub_ports.c makes the cluster one of equal sub-ports; its matrix is decomposed into matchings (bvn.c); the
 *           sub-port pairs of a matching that belong to one pair of GPUs are one transfer. In a stage of length w all
 * of them run for w / u at u each, and every port that has to is busy at its full rate.
 * Bound     the port bound, or port bound * (1 + loss_ppm / 10^6) where the unit had to be rounded; bytes are whole, so
 *           a stage may be a byte per sub-port longer.
 * Paper     T. Gonzalez, S. Sahni, J. ACM 23(4), 1976, on copies of the ports; the bound is Thm 5.2 of Aurora (arXiv
 *           2410.17043), which one-to-one orders do not reach.
 * Differs   needs a transport that caps rates; declines shared NICs, narrow uplinks and meshes.
 * Cost      bvn.c or bottleneck.c on at most 512 sub-ports of a side, and some ten simulations of a single shot. */
#include "bottleneck.h"
#include "bvn.h"
#include "planner.h"
#include "sub_ports.h"
#include <string.h>

#define ALL_STAGES 65536
static const struct mp_option options[] = {
    {"stages", "stages", "stages before the flush; 0 = as many as pay; 65536 = all, which reaches the bound exactly", 0,
     0, ALL_STAGES},
    {NULL, NULL, NULL, 0, 0, 0}};

#define STAGES_PER_GPU_MAX 8u /* past that nothing measurable is left to flush */
#define NS_PER_S UINT64_C(1000000000)

/* What a pair of GPUs has in the stage under way. */
struct tally {
    uint64_t before, done; /* of its bytes * scale */
    uint32_t stage, width; /* width in stage number `stage` (from 1) */
};
struct work {
    const struct mp_order_problem *in;
    struct mp_sub_ports *s;
    struct mp_schedule *out;
    uint32_t n;
    struct tally *tally;    /* [n][n] */
    uint32_t *pairs, *used; /* [n_sub] pairs of the stage; [2 * n] widths in use */
    uint32_t n_pairs;
    uint64_t launch_ns; /* of a stage, with the latency that follows its bytes */
};

static void add(struct work *w, uint32_t number, uint32_t a, uint32_t b, uint64_t real) {
    uint32_t pair = w->s->gpu[0][a] * w->n + w->s->gpu[1][b];
    struct tally *t = &w->tally[pair];
    if (t->stage != number) {
        t->stage = number;
        t->width = 0;
        w->pairs[w->n_pairs++] = pair;
    }
    t->width++;
    t->done += real;
}

/* What was added becomes a stage. */
static enum mp_status add_stage(struct work *w, struct mp_error *err) {
    const uint32_t n = w->n;
    const uint64_t scale = w->s->scale;
    enum mp_status status = MP_OK;
    MP_TRY(mp_schedule_stage(w->out, err));
    for (uint32_t k = 0; k < w->n_pairs; k++) {
        struct tally *t = &w->tally[w->pairs[k]];
        uint32_t src = w->pairs[k] / n, dst = w->pairs[k] % n;
        MP_TRY(mp_schedule_add(w->out, src, dst, t->width, t->done / scale - t->before / scale, err));
        t->before = t->done;
        w->used[src] += t->width;
        w->used[n + dst] += t->width;
    }
    for (uint32_t k = 0; k < w->n_pairs; k++) { /* the widest so far */
        uint32_t *side[2] = {&w->used[w->pairs[k] / n], &w->used[n + w->pairs[k] % n]};
        for (int d = 0; d < 2; d++) {
            w->out->ports = *side[d] > w->out->ports ? *side[d] : w->out->ports;
            *side[d] = 0;
        }
    }
    w->n_pairs = 0;
out:
    return status;
}

/* ---- all stages ---- */
static enum mp_status exact(struct work *w, bool is_counted_only, uint32_t *n_stages, struct mp_error *err) {
    enum mp_status status = MP_OK;
    struct mp_bvn *bvn = NULL;
    struct mp_bvn_stage stage;
    MP_TRY(mp_bvn_new(&bvn, w->s->n_sub, w->s->matrix, err));
    for (*n_stages = 0; mp_bvn_next(bvn, &stage);) {
        ++*n_stages;
        if (is_counted_only)
            continue;
        for (uint32_t a = 0; a < w->s->n[0]; a++) {
            uint64_t real = mp_bvn_bytes(&stage, a);
            if (real > 0)
                add(w, *n_stages, a, stage.to[a], real);
        }
        MP_TRY(add_stage(w, err));
    }
out:
    mp_bvn_free(bvn);
    return status;
}

/* ---- few stages and a flush ---- */
struct few {
    uint32_t n_stages, best;
    uint64_t *length; /* [most] in units of the sub-port matrix */
    uint32_t *to;     /* [most][n_sub] */
    uint64_t *left;   /* [n_sub][n_sub] of the matrix */
    uint64_t *bytes;  /* [n][n] left */
    uint64_t best_ns;
};

/* Slack spread over what lines lack, so that entries stay large: line sums become the bound. */
static void fill_slack(uint64_t *matrix, uint32_t n, uint64_t bound, uint64_t *row, uint64_t *column) {
    uint64_t total = 0;
    for (uint32_t i = 0; i < n; i++)
        row[i] = column[i] = bound;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++) {
            row[i] -= matrix[(size_t)i * n + j];
            column[j] -= matrix[(size_t)i * n + j];
        }
    for (uint32_t i = 0; i < n; i++)
        total += row[i];
    for (uint32_t i = 0; i < n; i++) {
        const uint64_t want = row[i], rest = total;
        total -= want;
        for (int pass = 0; pass < 2 && row[i] > 0; pass++) /* in proportion, then what rounding has left */
            for (uint32_t j = 0; j < n && row[i] > 0; j++) {
                uint64_t x = pass == 0 ? mp_mul_div(want, column[j], rest) : row[i] < column[j] ? row[i] : column[j];
                matrix[(size_t)i * n + j] += x;
                row[i] -= x;
                column[j] -= x;
            }
    }
}

static uint64_t length_ns(const struct work *w, uint64_t length) {
    return mp_mul_div_ceil(length / w->s->scale, NS_PER_S, w->s->unit_bytes_per_s);
}

/* Moves what stage k of the few moves; `left` keeps count. */
static void move(struct work *w, struct few *f, uint32_t k) {
    const uint32_t n_sub = w->s->n_sub, *to = f->to + (size_t)k * n_sub;
    for (uint32_t a = 0; a < w->s->n[0]; a++) {
        if (to[a] >= w->s->n[1])
            continue;
        uint64_t *left = &f->left[(size_t)a * n_sub + to[a]], real = *left < f->length[k] ? *left : f->length[k];
        if (real == 0)
            continue;
        *left -= real;
        add(w, k + 1, a, to[a], real);
    }
}
static bool leftover(const struct work *w, struct few *f) {
    bool any = false;
    for (size_t p = 0; p < (size_t)w->n * w->n; p++) {
        f->bytes[p] = p / w->n == p % w->n ? 0 : w->in->matrix[p] - w->tally[p].done / w->s->scale;
        any = any || f->bytes[p] > 0;
    }
    return any;
}
static void restart(struct work *w, struct few *f) {
    memcpy(f->left, w->s->matrix, (size_t)w->s->n_sub * w->s->n_sub * sizeof *f->left);
    memset(w->tally, 0, (size_t)w->n * w->n * sizeof *w->tally);
    w->n_pairs = 0;
}

/* 0, 1, 2, 3, 4, 6, 9, 13, ...: a flush of 64 GPUs takes a tenth of a second to simulate, and time is flat in k. */
static uint32_t next_count(uint32_t k) { return k + (k < 4 ? 1 : k / 2); }

/* Time with k stages, which are done, and a flush; better ones are noted. */
static enum mp_status try_count(struct work *w, struct few *f, uint32_t k, uint64_t staged_ns, struct mp_error *err) {
    enum mp_status status = MP_OK;
    uint64_t time_ns = staged_ns, flush_ns;
    if (leftover(w, f)) {
        time_ns += k > 0 ? w->in->topology->stage_launch_ns : w->in->topology->launch_ns;
        const uint64_t least_ns = time_ns + mp_net_port_bound(w->in->net, f->bytes);
        if (least_ns >= f->best_ns || (w->n > MP_QUICK_GPUS && w->in->reached_ns > 0 && least_ns >= w->in->reached_ns))
            return MP_OK;
        if (k == 0 && w->in->single_ns > 0 && !mp_order_counts_return(w->in)) {
            time_ns = w->in->single_ns;
        } else {
            if (!mp_order_spend(w->in->budget))
                return MP_OK;
            MP_TRY(mp_net_concurrent(w->in->net, f->bytes, &flush_ns, NULL, err));
            time_ns += flush_ns;
        }
    }
    if (time_ns < f->best_ns) {
        f->best_ns = time_ns;
        f->best = k;
    }
out:
    return status;
}

/* The longest matchings first. wanted 0: until no count of them can be better than the best so far, since their bytes
 * take as long as the port bound in all and every one more costs a launch. */
static enum mp_status make_few(struct work *w, struct few *f, uint32_t wanted, struct mp_arena *scratch,
                               struct mp_error *err) {
    const uint32_t n_sub = w->s->n_sub, most = wanted > 0 ? wanted : STAGES_PER_GPU_MAX * w->n;
    const size_t cells = (size_t)n_sub * n_sub;
    const uint64_t bound_ns = mp_net_port_bound(w->in->net, w->in->matrix);
    enum mp_status status = MP_OK;
    struct mp_bottleneck *b = NULL;
    uint64_t staged_ns = 0;
    uint64_t *filled = mp_arena_alloc(scratch, cells, sizeof *filled);
    uint64_t *slack = mp_arena_alloc(scratch, 2 * (size_t)n_sub, sizeof *slack);
    f->length = mp_arena_alloc(scratch, most, sizeof *f->length);
    f->to = mp_arena_alloc(scratch, (size_t)most * n_sub, sizeof *f->to);
    f->left = mp_arena_alloc(scratch, cells, sizeof *f->left);
    f->bytes = mp_arena_alloc(scratch, (size_t)w->n * w->n, sizeof *f->bytes);
    if (filled == NULL || slack == NULL || f->length == NULL || f->to == NULL || f->left == NULL || f->bytes == NULL)
        return mp_nomem(err, "ordering transfers");
    memcpy(filled, w->s->matrix, cells * sizeof *filled);
    fill_slack(filled, n_sub, w->s->bound, slack, slack + n_sub);
    f->best_ns = UINT64_MAX;
    restart(w, f);
    MP_TRY(mp_bottleneck_new(&b, n_sub, filled, err));
    for (uint32_t next = 0; f->n_stages < most && !mp_order_is_stopped(w->in->budget);) {
        if (wanted == 0 && f->n_stages == next) {
            MP_TRY(try_count(w, f, next, staged_ns, err));
            next = next_count(next);
        }
        if (wanted == 0 && bound_ns + (f->n_stages + 1) * w->launch_ns >= f->best_ns)
            break;
        uint64_t length = mp_bottleneck_next(b);
        /* A stage saves what the flush would lose on its bytes: never as much as a quarter of its launch is long. */
        if (length == 0 || (wanted == 0 && length_ns(w, length) < w->launch_ns / 4))
            break;
        const uint32_t k = f->n_stages++;
        memcpy(f->to + (size_t)k * n_sub, mp_bottleneck_to(b), n_sub * sizeof *f->to);
        f->length[k] = length;
        for (uint32_t a = 0; a < n_sub; a++)
            mp_bottleneck_take(b, a, f->to[(size_t)k * n_sub + a], length);
        staged_ns += w->launch_ns + length_ns(w, length);
        move(w, f, k);
        w->n_pairs = 0;
    }
    if (wanted == 0)
        MP_TRY(try_count(w, f, f->n_stages, staged_ns, err));
    else
        f->best = f->n_stages;
out:
    mp_bottleneck_free(b);
    return status;
}

static enum mp_status emit_few(struct work *w, struct few *f, struct mp_error *err) {
    const uint32_t n = w->n;
    enum mp_status status = MP_OK;
    restart(w, f);
    for (uint32_t k = 0; k < f->best; k++) {
        move(w, f, k);
        MP_TRY(add_stage(w, err));
    }
    if (f->best == 0 || !leftover(w, f))
        goto out;
    MP_TRY(mp_schedule_stage(w->out, err));
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++)
            if (i != j)
                MP_TRY(mp_schedule_add(w->out, i, j, 1, f->bytes[(size_t)i * n + j], err));
    w->out->has_flush = true;
out:
    return status;
}

/* The exact stages are about as many as there are entries. Could they be faster than this, launches and all? */
static enum mp_status exact_pays(struct work *w, uint64_t best_ns, bool *pays, struct mp_error *err) {
    const size_t cells = (size_t)w->s->n_sub * w->s->n_sub;
    const uint64_t bound_ns = length_ns(w, w->s->bound);
    uint64_t n_entries = 0;
    uint32_t n_stages;
    enum mp_status status = MP_OK;
    for (size_t k = 0; k < cells; k++)
        n_entries += w->s->matrix[k] > 0;
    *pays = false;
    if (mp_order_is_stopped(w->in->budget) || best_ns <= bound_ns ||
        (best_ns - bound_ns) / 2 < w->launch_ns * (n_entries / 4))
        return MP_OK;
    MP_TRY(exact(w, true, &n_stages, err));
    *pays = bound_ns + n_stages * w->launch_ns < best_ns;
out:
    return status;
}

static enum mp_status order(const struct mp_order_problem *in, struct mp_arena *scratch, struct mp_schedule *out,
                            enum mp_outcome *outcome, struct mp_error *err) {
    const int64_t wanted = in->option_values[0];
    enum mp_status status = MP_OK;
    struct work w = {.in = in, .out = out, .n = out->n, .launch_ns = in->topology->stage_launch_ns};
    uint64_t latency_ns = 0;
    uint32_t n_stages;
    if (!in->can_pace)
        return mp_decline(
            err, outcome, MP_NOT_APPLICABLE,
            "sub-ports need a target that caps the rate of a transfer, which NCCL does not (write --pacing if "
            "yours does)");
    MP_TRY(mp_sub_ports_new(&w.s, in, scratch, outcome, err));
    if (*outcome != MP_FOUND || w.s->n_sub == 0)
        goto out;
    w.tally = mp_arena_alloc(scratch, (size_t)w.n * w.n, sizeof *w.tally);
    w.pairs = mp_arena_alloc(scratch, w.s->n_sub, sizeof *w.pairs);
    w.used = mp_arena_alloc(scratch, 2 * (size_t)w.n, sizeof *w.used);
    if (w.tally == NULL || w.pairs == NULL || w.used == NULL) {
        status = mp_nomem(err, "ordering transfers");
        goto out;
    }
    for (uint32_t l = 0; l < in->topology->n_levels; l++)
        latency_ns = in->topology->levels[l].latency_ns > latency_ns ? in->topology->levels[l].latency_ns : latency_ns;
    w.launch_ns += latency_ns;
    bool is_exact = wanted == ALL_STAGES || (wanted == 0 && w.launch_ns == 0);
    struct few f = {0};
    if (!is_exact) {
        MP_TRY(make_few(&w, &f, (uint32_t)wanted, scratch, err));
        if (wanted == 0)
            MP_TRY(exact_pays(&w, f.best_ns, &is_exact, err));
    }
    if (is_exact) {
        memset(w.tally, 0, (size_t)w.n * w.n * sizeof *w.tally);
        w.n_pairs = 0;
        MP_TRY(exact(&w, false, &n_stages, err));
    } else
        MP_TRY(emit_few(&w, &f, err));
    if (out->n_stages > 0) {
        out->port_bytes_per_s = w.s->unit_bytes_per_s;
        out->loss_ppm = w.s->loss_ppm;
    }
out:
    return status;
}

const struct mp_strategy mp_strategy_order_sub_ports = {
    .name = "sub-ports",
    .summary = "unequal ports at full rate: transfers over several sub-ports each, then a flush (needs --pacing)",
    .reference = "Gonzalez, Sahni 1976, on sub-ports; reaches the bound of Aurora's Theorem 5.2",
    .stage = MP_PLAN_ORDER,
    .options = options,
    .order = order};
