/* Fits the parameters of synthetic traces to recordings, and prints the rows of docs/SYNTHETIC.md.
 *
 *     fit_presets show TRACE...               statistics of recordings
 *     fit_presets fit NAME TRACE [SIZE]       fits the preset NAME to TRACE (clusters of SIZE experts; several sizes
 * when left out) fit_presets check NAME TRACE            the preset as it is, beside TRACE fit_presets counts NAME MAX
 * LIFT SHIFT  fits to numbers of a recording that has only counts (tools/dev/count_statistics.py): max / mean, lift of
 * the listed pairs, category shift; 0 = not known. SIZE is the preset's. fit_presets check-counts NAME           the
 * same numbers of the preset as it is
 *
 * Five parameters are moved in turn, each towards its own statistic, which grows with it: zipf (max/mean), coactivation
 * (pair lift), cross-layer (mutual information), stickiness (runs), domain shift (category shift). TRACE is one of
 * ../shared/data/traces. */
#include <moeplan/base.h>
#include <moeplan/synth.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_PARAMS = 5, ROUNDS = 12 };

static void die(const struct mp_error *err) {
    char text[2048];
    fprintf(stderr, "fit_presets: %s\n", mp_error_text(err, text, sizeof text));
    exit(1);
}

static struct mp_trace_stats of_file(const char *path) {
    struct mp_error err = {0};
    struct mp_trace *t;
    struct mp_trace_hints hints = mp_trace_hints_none;
    hints.layer_base = 0;
    hints.ids_are_physical = 0;
    hints.is_ranked = 1;
    hints.phase = MP_PHASE_DECODE; /* plays no part in the statistics, nor does the layer base */
    hints.n_experts = strstr(path, "deepseek") != NULL ? 64 : strstr(path, "gpt-oss") != NULL ? 32 : 0;
    struct mp_trace_stats s;
    if (mp_trace_load(&t, path, &hints, &mp_limits_default, &err) != MP_OK ||
        mp_trace_statistics(&s, t, 1, &err) != MP_OK)
        die(&err);
    mp_trace_free(t);
    return s;
}

/* Lift of the pairs that the recording of qwen3-30b-a3b lists: count >= 5, lift >= 1.5, the 2,000 most frequent of a
 * layer. */
struct pair {
    double count, lift;
};
static int by_falling_count(const void *pa, const void *pb) {
    const struct pair *a = pa, *b = pb;
    return (a->count < b->count) - (a->count > b->count);
}
static double listed_lift(const struct mp_trace *t) {
    size_t n = t->n_experts, cells = n * n;
    double *both = mp_calloc(cells, sizeof *both), sum = 0;
    struct pair *pairs = mp_calloc(cells, sizeof *pairs);
    if (both == NULL || pairs == NULL)
        exit(1);
    for (uint32_t l = 0; l < t->n_layers; l++) {
        memset(both, 0, cells * sizeof *both);
        for (uint64_t row = 0; row < t->n_rows; row++) {
            uint16_t ids[MP_MAX_TOP_K];
            uint32_t k = mp_trace_row(t, l, row, ids);
            for (uint32_t a = 0; a < k; a++)
                for (uint32_t b = 0; b < k; b++)
                    both[ids[a] * n + ids[b]]++;
        }
        size_t n_pairs = 0;
        for (size_t i = 0; i < n; i++)
            for (size_t j = i + 1; j < n; j++) {
                double count = both[i * n + j], lift = count * (double)t->n_rows / (both[i * n + i] * both[j * n + j]);
                if (count >= 5 && lift >= 1.5)
                    pairs[n_pairs++] = (struct pair){count, lift};
            }
        qsort(pairs, n_pairs, sizeof *pairs, by_falling_count);
        double weighted = 0, total = 0;
        for (size_t i = 0; i < n_pairs && i < 2000; i++) {
            weighted += pairs[i].count * pairs[i].lift;
            total += pairs[i].count;
        }
        sum += total > 0 ? weighted / total : 0;
    }
    mp_free(both);
    mp_free(pairs);
    return sum / t->n_layers;
}

static bool
    only_counts; /* pair_lift is that of the listed pairs, and nothing else but max/mean and shift is compared */

static struct mp_trace_stats of_params(const struct mp_synth_params *p) {
    struct mp_error err = {0};
    struct mp_trace *t;
    struct mp_trace_stats s;
    if (mp_synth_generate(&t, p, &mp_limits_default, &err) != MP_OK || mp_trace_statistics(&s, t, 1, &err) != MP_OK)
        die(&err);
    if (only_counts)
        s.pair_lift = listed_lift(t);
    mp_trace_free(t);
    return s;
}

static const char *const names[] = {"max/mean", "pair lift",      "cross-layer bits", "per step",
                                    "per run",  "category shift", "half shift"};
static void as_array(const struct mp_trace_stats *s, double v[7]) {
    v[0] = s->load_max_over_mean;
    v[1] = s->pair_lift;
    v[2] = s->cross_layer_information;
    v[3] = s->step_max_over_mean;
    v[4] = s->run_max_over_mean;
    v[5] = s->category_shift;
    v[6] = s->half_shift;
}

static double show_pair(const struct mp_trace_stats *real, const struct mp_trace_stats *made) {
    double r[7], m[7], worst = 0;
    as_array(real, r);
    as_array(made, m);
    for (int i = 0; i < 7; i++) {
        double off = r[i] > 0.02 ? m[i] / r[i] - 1 : 0;
        printf("| %s | %.3f | %.3f | %+.0f %% |\n", names[i], r[i], m[i], 100 * off);
        if (i < 5 && fabs(off) > worst)
            worst = fabs(off);
    }
    return worst;
}

static bool find_preset(const char *name, struct mp_synth_params *p) {
    const char *n;
    for (uint32_t i = 0; mp_synth_preset(i, &n, NULL, p); i++)
        if (strcmp(n, name) == 0)
            return true;
    fprintf(stderr, "fit_presets: no preset %s\n", name);
    return false;
}

/* The parameter and the statistic it is moved by. */
static uint32_t *param_of(struct mp_synth_params *p, int i) {
    uint32_t *all[N_PARAMS] = {&p->zipf_ppm, &p->coactivation_ppm, &p->cross_layer_ppm, &p->stickiness_ppm,
                               &p->domain_ppm};
    return all[i];
}
static const int statistic_of[N_PARAMS] = {0, 1, 2, 4, 5};

static double misfit(const struct mp_trace_stats *real, const struct mp_trace_stats *made) {
    double r[7], m[7], sum = 0;
    as_array(real, r);
    as_array(made, m);
    for (int i = 0; i < 6; i++) {
        if (r[i] <= 0.02)
            continue;
        double off = log((m[i] > 1e-3 ? m[i] : 1e-3) / r[i]);
        sum += off * off;
    }
    return sum;
}

static double fit(struct mp_synth_params *p, const struct mp_trace_stats *real) {
    double step[N_PARAMS] = {200000, 200000, 200000, 150000, 100000}, best = 1e9;
    int last_sign[N_PARAMS] = {0};
    struct mp_synth_params best_params = *p;
    double r[7], m[7];
    as_array(real, r);
    for (int round = 0; round < ROUNDS; round++)
        for (int i = 0; i < N_PARAMS; i++) {
            if (r[statistic_of[i]] <= 0 || (i == 4 && p->n_domains == 0))
                continue; /* not measured, or nothing to move */
            struct mp_trace_stats made = of_params(p);
            double off = misfit(real, &made);
            if (off < best) {
                best = off;
                best_params = *p;
            }
            as_array(&made, m);
            int sign = m[statistic_of[i]] < r[statistic_of[i]] ? 1 : -1;
            if (last_sign[i] != 0 && sign != last_sign[i])
                step[i] /= 2;
            last_sign[i] = sign;
            double value = *param_of(p, i) + sign * step[i], most = i == 0 ? 4e6 : 1e6;
            *param_of(p, i) = (uint32_t)(value < 0 ? 0 : value > most ? most : value);
        }
    *p = best_params;
    return best;
}

static void show_params(const struct mp_synth_params *p) {
    printf("cluster size %u: .zipf_ppm = %u, .coactivation_ppm = %u, .cross_layer_ppm = %u, .stickiness_ppm = %u, "
           ".domain_ppm = %u\n",
           p->cluster_size, p->zipf_ppm, p->coactivation_ppm, p->cross_layer_ppm, p->stickiness_ppm, p->domain_ppm);
}

int main(int argc, char **argv) {
    struct mp_synth_params p;
    if (argc >= 3 && strcmp(argv[1], "show") == 0) {
        for (int i = 2; i < argc; i++) {
            struct mp_trace_stats s = of_file(argv[i]);
            printf("%s: max/mean %.3f, pair lift %.3f, cross-layer %.3f bits, per step %.3f, per run %.3f, category "
                   "shift %.3f, "
                   "half shift %.3f\n",
                   argv[i], s.load_max_over_mean, s.pair_lift, s.cross_layer_information, s.step_max_over_mean,
                   s.run_max_over_mean, s.category_shift, s.half_shift);
        }
        return 0;
    }
    bool check_counts = argc == 3 && strcmp(argv[1], "check-counts") == 0;
    if (check_counts || (argc == 6 && strcmp(argv[1], "counts") == 0)) {
        if (!find_preset(argv[2], &p))
            return 2;
        only_counts = true;
        double v[3] = {0, 0, 0};
        for (int i = 0; i < 3 && !check_counts; i++)
            if (!mp_parse_double(argv[3 + i], strlen(argv[3 + i]), &v[i]))
                return 2;
        struct mp_trace_stats real = {.load_max_over_mean = v[0], .pair_lift = v[1], .category_shift = v[2]};
        uint32_t n_layers = p.n_layers;
        p.n_layers = n_layers < 24 ? n_layers : 24;
        if (!check_counts)
            (void)fit(&p, &real);
        p.n_layers = n_layers;
        show_params(&p);
        struct mp_trace_stats made = of_params(&p);
        (void)show_pair(&real, &made);
        return 0;
    }
    if (argc < 4 || (strcmp(argv[1], "fit") != 0 && strcmp(argv[1], "check") != 0)) {
        fprintf(stderr, "usage: fit_presets show TRACE... | fit NAME TRACE [SIZE] | check NAME TRACE | counts NAME MAX "
                        "LIFT SHIFT\n");
        return 2;
    }
    if (!find_preset(argv[2], &p))
        return 2;
    struct mp_trace_stats real = of_file(argv[3]);
    if (strcmp(argv[1], "check") == 0) {
        struct mp_trace_stats made = of_params(&p);
        printf("worst of the first five: %.0f %%\n", 100 * show_pair(&real, &made));
        return 0;
    }
    static const uint32_t sizes[] = {2, 3, 4, 6, 8, 12, 16};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        uint64_t only = 0;
        if (argc > 4 && !mp_parse_u64(argv[4], strlen(argv[4]), &only))
            return 2;
        if ((only != 0 && sizes[i] != only) || sizes[i] > p.n_experts)
            continue;
        struct mp_synth_params q = p, full;
        q.cluster_size = sizes[i];
        double off = fit(&q, &real);
        full = q;
        full.n_layers = p.n_layers;
        printf("\nmisfit %.4f, ", off);
        show_params(&full);
        struct mp_trace_stats made = of_params(&full);
        printf("worst of the first five: %.0f %%\n", 100 * show_pair(&real, &made));
        fflush(stdout);
    }
    return 0;
}
