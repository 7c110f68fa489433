/* How well path tables predict a part that they were not learned from: token by token, and batch by batch as Lina
 * checks (arXiv 2210.17223, section 5.2). Whole numbers are summed, so the result does not depend on threads. */
#include <moeplan/progress.h>
#include <moeplan/alloc.h>
#include <moeplan/base.h>
#include <moeplan/predict.h>
#include <string.h>

#define MILLION 1000000

struct sums { /* of a request */
    uint64_t hits, hits_k, all, n[MP_PATH_BINS], came[MP_PATH_BINS], predicted[MP_PATH_BINS];
};
struct measure {
    const struct mp_foresight *f;
    const struct mp_path_tables *t;
    const struct mp_part *part;
    const struct mp_workload *steps;
    struct sums *sums;                /* [part->n] */
    uint64_t *layer_hits, *layer_all; /* [part->n][n_layers] */
    uint64_t *equal, *common, *lists; /* [n_steps]; common in experts */
    struct scratch {
        int64_t *scores;
        double *p;
        uint64_t *estimated, *actual;
    } * scratch; /* [n_threads] */
};

/* The same for scores, which may be below 0. */
static bool is_among(const int64_t *value, uint32_t e, uint32_t n, uint32_t n_experts) {
    uint32_t n_better = 0;
    for (uint32_t i = 0; i < n_experts; i++)
        n_better += value[i] > value[e] || (value[i] == value[e] && i < e);
    return n_better < n;
}

static enum mp_status measure_request(void *ctx, size_t i, unsigned worker, struct mp_error *err) {
    (void)err;
    struct measure *m = ctx;
    const struct mp_path_tables *t = m->t;
    const struct mp_trace *trace = m->part->trace;
    const struct mp_request *r = &trace->requests[m->part->members[i]];
    struct scratch *s = &m->scratch[worker];
    struct sums *sums = &m->sums[i];
    uint16_t ids[MP_MAX_TOP_K];
    for (uint64_t row = r->first_row; row < r->first_row + r->n_rows; row++)
        for (uint32_t l = 1; l < t->n_layers; l++) {
            uint32_t n = mp_trace_row(trace, l, row, ids), n_hits = 0;
            mp_foresee(m->f, trace, l, row, s->scores, s->p);
            for (uint32_t k = 0; k < n; k++) {
                n_hits += is_among(s->scores, ids[k], 2 * t->top_k, t->n_experts);
                sums->hits_k += is_among(s->scores, ids[k], t->top_k, t->n_experts);
            }
            sums->hits += n_hits;
            sums->all += n;
            m->layer_hits[i * t->n_layers + l] += n_hits;
            m->layer_all[i * t->n_layers + l] += n;
            for (uint32_t e = 0; e < t->n_experts; e++) {
                uint64_t p = (uint64_t)(s->p[e] * MILLION + 0.5);
                uint32_t bin = (uint32_t)(p * MP_PATH_BINS / MILLION);
                bin = bin < MP_PATH_BINS ? bin : MP_PATH_BINS - 1;
                sums->n[bin]++;
                sums->predicted[bin] += p;
                for (uint32_t k = 0; k < n; k++)
                    sums->came[bin] += ids[k] == e;
            }
        }
    return MP_OK;
}

static enum mp_status measure_step(void *ctx, size_t i, unsigned worker, struct mp_error *err) {
    (void)err;
    struct measure *m = ctx;
    const struct mp_path_tables *t = m->t;
    const struct mp_step *step = &m->steps->steps[i];
    struct scratch *s = &m->scratch[worker];
    uint16_t ids[MP_MAX_TOP_K];
    for (uint32_t l = 1; l < t->n_layers; l++) {
        memset(s->estimated, 0, t->n_experts * sizeof *s->estimated);
        memset(s->actual, 0, t->n_experts * sizeof *s->actual);
        for (uint32_t j = 0; j < step->n; j++) {
            uint32_t n = mp_trace_row(m->part->trace, l, step->row[j], ids);
            for (uint32_t k = 0; k < n; k++)
                s->actual[ids[k]]++;
            mp_foresee(m->f, m->part->trace, l, step->row[j], s->scores, s->p);
            mp_foresee_add(m->f, s->scores, s->p, s->estimated);
        }
        uint32_t n_common = 0, n_list = 2 * t->top_k < t->n_experts ? 2 * t->top_k : t->n_experts;
        for (uint32_t e = 0; e < t->n_experts; e++)
            n_common += mp_foresee_is_among(s->estimated, e, n_list, t->n_experts) &&
                        mp_foresee_is_among(s->actual, e, n_list, t->n_experts);
        m->equal[i] += n_common == n_list;
        m->common[i] += n_common;
        m->lists[i] += n_list;
    }
    return MP_OK;
}

static enum mp_status make(struct measure *m, unsigned n_threads, struct mp_error *err) {
    const size_t n = m->part->n, n_steps = m->steps == NULL ? 0 : m->steps->n_steps, n_experts = m->t->n_experts;
    m->sums = mp_calloc(n, sizeof *m->sums);
    m->layer_hits = mp_calloc(n * m->t->n_layers, sizeof *m->layer_hits);
    m->layer_all = mp_calloc(n * m->t->n_layers, sizeof *m->layer_all);
    m->equal = mp_calloc(n_steps, sizeof *m->equal);
    m->common = mp_calloc(n_steps, sizeof *m->common);
    m->lists = mp_calloc(n_steps, sizeof *m->lists);
    m->scratch = mp_calloc(n_threads, sizeof *m->scratch);
    bool is_full = m->sums != NULL && m->layer_hits != NULL && m->layer_all != NULL && m->equal != NULL &&
                   m->common != NULL && m->lists != NULL && m->scratch != NULL;
    for (unsigned i = 0; i < n_threads && is_full; i++) {
        struct scratch *s = &m->scratch[i];
        s->scores = mp_calloc(n_experts, sizeof *s->scores);
        s->p = mp_calloc(n_experts, sizeof *s->p);
        s->estimated = mp_calloc(n_experts, sizeof *s->estimated);
        s->actual = mp_calloc(n_experts, sizeof *s->actual);
        is_full = s->scores != NULL && s->p != NULL && s->estimated != NULL && s->actual != NULL;
    }
    return is_full ? MP_OK : mp_nomem(err, "the accuracy of path tables");
}

static void release(struct measure *m, unsigned n_threads) {
    for (unsigned i = 0; i < n_threads && m->scratch != NULL; i++) {
        mp_free(m->scratch[i].scores);
        mp_free(m->scratch[i].p);
        mp_free(m->scratch[i].estimated);
        mp_free(m->scratch[i].actual);
    }
    mp_free(m->scratch);
    mp_free(m->sums);
    mp_free(m->layer_hits);
    mp_free(m->layer_all);
    mp_free(m->equal);
    mp_free(m->common);
    mp_free(m->lists);
}

static double ratio(uint64_t a, uint64_t b) { return b == 0 ? 0 : (double)a / (double)b; }

static void add_up(struct mp_path_accuracy *out, const struct measure *m) {
    struct sums all = {0};
    uint64_t equal = 0, common = 0, lists = 0, n_steps = m->steps == NULL ? 0 : m->steps->n_steps, n_pairs = 0;
    for (uint32_t i = 0; i < m->part->n; i++) {
        all.hits += m->sums[i].hits;
        all.hits_k += m->sums[i].hits_k;
        all.all += m->sums[i].all;
        for (uint32_t b = 0; b < MP_PATH_BINS; b++) {
            all.n[b] += m->sums[i].n[b];
            all.came[b] += m->sums[i].came[b];
            all.predicted[b] += m->sums[i].predicted[b];
        }
    }
    out->recall = ratio(all.hits, all.all);
    out->recall_k = ratio(all.hits_k, all.all);
    for (uint32_t b = 0; b < MP_PATH_BINS; b++) {
        out->n[b] = all.n[b];
        out->predicted[b] = ratio(all.predicted[b], all.n[b]) / MILLION;
        out->came[b] = ratio(all.came[b], all.n[b]);
        double apart = out->predicted[b] - out->came[b];
        out->calibration += (double)all.n[b] * (apart < 0 ? -apart : apart);
        n_pairs += all.n[b];
    }
    out->calibration = n_pairs == 0 ? 0 : out->calibration / (double)n_pairs;
    for (uint64_t i = 0; i < n_steps; i++) {
        equal += m->equal[i];
        common += m->common[i];
        lists += m->lists[i];
    }
    out->n_batches = n_steps * (m->t->n_layers - 1);
    out->lists_equal = ratio(equal, out->n_batches);
    out->lists_common = ratio(common, lists);
    for (uint32_t l = 0; l < m->t->n_layers; l++) {
        uint64_t hits = 0, n = 0;
        for (uint32_t i = 0; i < m->part->n; i++) {
            hits += m->layer_hits[(size_t)i * m->t->n_layers + l];
            n += m->layer_all[(size_t)i * m->t->n_layers + l];
        }
        out->layer_recall[l] = ratio(hits, n);
    }
}

enum mp_status mp_path_measure(struct mp_path_accuracy *out, const struct mp_foresight *f, const struct mp_part *part,
                               const struct mp_workload *steps, unsigned n_threads, struct mp_error *err) {
    struct measure m = {.f = f, .t = f->tables, .part = part, .steps = steps};
    n_threads = n_threads == 0 ? 1 : n_threads;
    *out = (struct mp_path_accuracy){.length = f->length,
                                     .layer_recall = mp_calloc(m.t->n_layers, sizeof *out->layer_recall)};
    enum mp_status status =
        out->layer_recall == NULL ? mp_nomem(err, "the accuracy of path tables") : make(&m, n_threads, err);
    if (status == MP_OK)
        status = mp_parallel_for_told(f->progress, "requests", n_threads, part->n, measure_request, &m, err);
    if (status == MP_OK && steps != NULL)
        status = mp_parallel_for_told(f->progress, "batches", n_threads, steps->n_steps, measure_step, &m, err);
    if (status == MP_OK)
        add_up(out, &m);
    else
        mp_path_accuracy_free(out);
    release(&m, n_threads);
    return status;
}

void mp_path_accuracy_free(struct mp_path_accuracy *a) {
    mp_free(a->layer_recall);
    a->layer_recall = NULL;
}
