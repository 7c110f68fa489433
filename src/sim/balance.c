/* Balance of load by every formula in use, so that a figure can be compared with what a stack prints. Load = (token,
 * expert) rows of a GPU in one step and layer; layers without rows do not count. docs/COST.md part 7. */
#include "balance.h"

double balance_add(struct balance_sum *b, const uint64_t *rows, uint32_t n_gpus, const uint64_t *slot_rows,
                   uint32_t n_slots) {
    uint64_t total = 0, most = 0, slot_most = 0, slot_least = UINT64_MAX;
    for (uint32_t g = 0; g < n_gpus; g++) {
        total += rows[g];
        most = rows[g] > most ? rows[g] : most;
    }
    if (total == 0)
        return 0;
    for (uint32_t s = 0; s < n_slots; s++) {
        slot_most = slot_rows[s] > slot_most ? slot_rows[s] : slot_most;
        slot_least = slot_rows[s] < slot_least ? slot_rows[s] : slot_least;
    }
    double max = (double)most, mean = (double)total / n_gpus, ratio = max / mean;
    b->n_layers++;
    b->max_over_mean += ratio;
    b->worst = ratio > b->worst ? ratio : b->worst;
    b->mean_over_max += (mean + 1e-5) / (max + 1e-5);
    b->excess += (max - mean) / mean;
    b->flashlb += (max * n_gpus + 0.01) / ((double)total + 0.01);
    b->slot += slot_most == 0 ? 0 : (double)slot_least / (double)slot_most;
    b->peak += max;
    b->mean_sum += mean;
    b->max_sum += max;
    return ratio;
}

void balance_finish(struct mp_balance *out, const struct balance_sum *steps, uint32_t n_steps, const uint64_t *totals,
                    uint32_t n_layers, uint32_t n_gpus) {
    struct balance_sum all = {0};
    double n = 0, vllm = 0, vllm_steps = 0, over_totals = 0, totals_layers = 0;
    for (uint32_t i = 0; i < n_steps; i++) {
        const struct balance_sum *s = &steps[i];
        if (s->n_layers == 0)
            continue;
        n += s->n_layers;
        all.max_over_mean += s->max_over_mean;
        all.worst = s->worst > all.worst ? s->worst : all.worst;
        all.mean_over_max += s->mean_over_max;
        all.excess += s->excess;
        all.flashlb += s->flashlb;
        all.slot += s->slot;
        all.peak += s->peak;
        vllm += s->mean_sum / s->max_sum;
        vllm_steps++;
    }
    for (uint32_t l = 0; l < n_layers; l++) {
        uint64_t total = 0, most = 0;
        for (uint32_t g = 0; g < n_gpus; g++) {
            uint64_t rows = totals[(size_t)l * n_gpus + g];
            total += rows;
            most = rows > most ? rows : most;
        }
        if (total == 0)
            continue;
        over_totals += (double)most * n_gpus / (double)total;
        totals_layers++;
    }
    *out = (struct mp_balance){0};
    if (n == 0)
        return;
    out->max_over_mean = all.max_over_mean / n;
    out->max_over_mean_worst = all.worst;
    out->mean_over_max = all.mean_over_max / n;
    out->sum_mean_over_sum_max = vllm / vllm_steps;
    out->excess = all.excess / n;
    out->flashlb = all.flashlb / n;
    out->min_over_max_slot = all.slot / n;
    out->peak_rows = all.peak / n;
    out->totals_max_over_mean = totals_layers == 0 ? 0 : over_totals / totals_layers;
}
