/* Training steps under each policy, beside Lina's figures (USENIX ATC'23, arXiv 2210.17223). The paper prints no
 * durations of its layers; those that its figure 7 determines (docs/TRAINING.md part 4) are used here, the forward pass
 * half of the backward one, ranks unlike by a skew of the experts' rows. First its figures, then 48 conditions on which
 * the searched policy, chosen on other steps, is held against Lina's. Processor time of the search. */
#include <moeplan/base.h>
#include <moeplan/train.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MOST_RANKS 16u
#define MOST_LAYERS 36u
#define N_STEPS 4u
#define US UINT64_C(1000)
#define BYTES_PER_US 12500u /* 100 Gbit/s */

struct shape {
    uint32_t n_layers, n_ranks;
    uint64_t a2a_ns, expert_ns, attention_ns, reduce_ns; /* of the backward pass */
    uint32_t skew_ppm;                                   /* the fullest rank's rows above the mean */
};
struct made {
    struct mp_train_step step;
    struct mp_train_layer layers[MOST_LAYERS];
    uint64_t ns[MOST_LAYERS][4][MOST_RANKS];
};
static const struct shape figure_7 = {12, 16, 2200 * US, 6600 * US, 7100 * US, 12900 * US, 0};

static struct mp_train_transfer transfer(uint64_t ns) {
    return (struct mp_train_transfer){.ns = ns, .bytes = ns / US * BYTES_PER_US};
}

static void make(struct made *m, const struct shape *s, uint64_t seed) {
    struct mp_rng r = mp_rng_seed(seed);
    memset(m, 0, sizeof *m);
    for (uint32_t l = 0; l < s->n_layers; l++) {
        struct mp_train_layer *x = &m->layers[l];
        uint64_t most = 0;
        for (uint32_t g = 0; g < s->n_ranks; g++) {
            uint64_t rows =
                1000000 + (s->skew_ppm == 0 ? 0 : mp_rng_below(&r, 2 * (uint64_t)s->skew_ppm) - s->skew_ppm);
            m->ns[l][0][g] = s->attention_ns / 2;
            m->ns[l][1][g] = mp_mul_div(s->expert_ns / 2, rows, 1000000);
            m->ns[l][2][g] = 2 * m->ns[l][1][g];
            m->ns[l][3][g] = s->attention_ns;
            most = rows > most ? rows : most;
        }
        x->attention_ns = m->ns[l][0];
        x->expert_ns = m->ns[l][1];
        x->expert_back_ns = m->ns[l][2];
        x->attention_back_ns = m->ns[l][3];
        for (uint32_t i = 0; i < MP_TRAIN_N_A2A; i++)
            x->a2a[i] = transfer(mp_mul_div(s->a2a_ns, most, 1000000));
        x->reduce = transfer(s->reduce_ns);
    }
    m->step = (struct mp_train_step){.n_ranks = s->n_ranks,
                                     .n_layers = s->n_layers,
                                     .launch_ns = 30 * US,
                                     .kernel_ns = 10 * US,
                                     .layers = m->layers};
}

static void fail(const struct mp_error *err) {
    fprintf(stderr, "%s\n", err->message);
    exit(1);
}
static struct mp_train_timeline run(const struct made *m, const struct mp_train_policy *p) {
    struct mp_error err = {0};
    struct mp_train_timeline t;
    if (mp_train_run(&t, &m->step, p, false, &err) != MP_OK)
        fail(&err);
    struct mp_train_timeline sums = t;
    sums.reduced_ns = NULL;
    mp_train_timeline_free(&t);
    return sums;
}
static double mean_ms(struct made *const *made, const struct mp_train_policy *p) {
    double sum = 0;
    for (uint32_t i = 0; i < N_STEPS; i++)
        sum += (double)run(made[i], p).step_ns * 1e-6;
    return sum / N_STEPS;
}
static double search(struct made *const *made, struct mp_train_policy *found) {
    const struct mp_train_step *steps[N_STEPS];
    struct mp_error err = {0};
    uint64_t ns;
    for (uint32_t i = 0; i < N_STEPS; i++)
        steps[i] = &made[i]->step;
    const clock_t from = clock();
    if (mp_train_search(found, &ns, steps, N_STEPS, 1, &err) != MP_OK)
        fail(&err);
    return (double)(clock() - from) * 1e3 / CLOCKS_PER_SEC;
}

static void figures(struct made *const *made) {
    static const uint32_t layers[] = {12, 24, 36};
    printf("Lina's figure 7 repeated over a whole step, 16 ranks alike, ms\n");
    printf("layers  a2a of the step    fair  priority  deferred  lina, whole experts    lina  searched\n");
    for (size_t i = 0; i < 3; i++) {
        struct shape s = figure_7;
        s.n_layers = layers[i];
        for (uint32_t k = 0; k < N_STEPS; k++)
            make(made[k], &s, k);
        struct mp_train_policy lina = mp_train_policy_find("lina")->policy, plain = lina, found;
        plain.is_pipelined = false;
        (void)search(made, &found);
        const struct mp_train_timeline fair = run(made[0], &mp_train_policy_find("fair")->policy);
        const double f = (double)fair.step_ns * 1e-6;
        printf("%6u  %14.1f %%  %6.1f  %7.2fx  %7.2fx  %18.2fx  %5.2fx  %7.2fx   (all-to-alls under fair %.2f times as "
               "long as alone)\n",
               s.n_layers, 100 * (double)fair.a2a_ns / (double)fair.step_ns, f,
               f / mean_ms(made, &mp_train_policy_find("priority")->policy),
               f / mean_ms(made, &mp_train_policy_find("deferred")->policy), f / mean_ms(made, &plain),
               f / mean_ms(made, &lina), f / mean_ms(made, &found), (double)fair.a2a_ns / (double)fair.a2a_alone_ns);
    }
    printf("paper   36.7 to 39.5 %%                 +24 %%                    1.36x to 1.42x          scheduler alone; "
           "1.83 times (median)\n\n");
}

int main(void) {
    struct made *search_on[N_STEPS], *score_on[N_STEPS];
    for (uint32_t i = 0; i < N_STEPS; i++) {
        search_on[i] = malloc(sizeof **search_on);
        score_on[i] = malloc(sizeof **score_on);
        if (search_on[i] == NULL || score_on[i] == NULL)
            return 1;
    }
    figures(search_on);
    double sum = 0, worst = -1, longest = 0;
    uint32_t n = 0, n_slower = 0;
    printf("searched against lina, chosen on %u steps and scored on %u others\n", N_STEPS, N_STEPS);
    printf("layers ranks  a2a  reduce  skew    lina, ms  searched   change\n");
    for (uint32_t i = 0; i < 48; i++) {
        static const uint32_t layers[] = {12, 24}, ranks[] = {4, 16}, skews[] = {0, 400000};
        static const uint64_t a2a[] = {1, 3, 9}, reduce[] = {1, 3};
        struct shape s = figure_7;
        s.n_layers = layers[i % 2];
        s.n_ranks = ranks[i / 2 % 2];
        s.skew_ppm = skews[i / 4 % 2];
        s.a2a_ns = a2a[i / 8 % 3] * s.a2a_ns / 2;
        s.reduce_ns = reduce[i / 24] * s.reduce_ns / 4;
        for (uint32_t k = 0; k < N_STEPS; k++) {
            make(search_on[k], &s, 100 * i + k);
            make(score_on[k], &s, 100 * i + 50 + k);
        }
        struct mp_train_policy found;
        const double took = search(search_on, &found);
        const double lina = mean_ms(score_on, &mp_train_policy_find("lina")->policy), ours = mean_ms(score_on, &found);
        const double change = ours / lina - 1;
        longest = took > longest ? took : longest;
        sum += change;
        worst = change > worst ? change : worst;
        n++;
        n_slower += change > 0;
        printf("%6u %5u %4.1f %7.1f %4.0f %%  %8.1f  %8.1f  %+6.2f %%\n", s.n_layers, s.n_ranks,
               (double)s.a2a_ns * 1e-6, (double)s.reduce_ns * 1e-6, s.skew_ppm * 1e-4, lina, ours, 100 * change);
    }
    printf(
        "mean %+.2f %% (asked -3 %%), worst %+.2f %%, slower in %u of %u (asked 0); a search takes at most %.0f ms\n",
        100 * sum / n, 100 * worst, n_slower, n, longest);
    for (uint32_t i = 0; i < N_STEPS; i++) {
        free(search_on[i]);
        free(score_on[i]);
    }
    return 0;
}
