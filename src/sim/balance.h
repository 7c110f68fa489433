/* Private to src/sim: sums behind struct mp_balance. */
#ifndef SIM_BALANCE_H
#define SIM_BALANCE_H

#include <moeplan/sim.h>

struct balance_sum {   /* of one step */
    uint32_t n_layers; /* layers with rows */
    double max_over_mean, worst, mean_over_max, excess, flashlb, slot, peak, mean_sum, max_sum;
};
/* One layer: rows[n_gpus], slot_rows[n_slots]. Returns max over mean, 0 when the layer has no rows. */
double balance_add(struct balance_sum *b, const uint64_t *rows, uint32_t n_gpus, const uint64_t *slot_rows,
                   uint32_t n_slots);
/* steps[n_steps] in order; totals[n_layers][n_gpus] rows over all steps. */
void balance_finish(struct mp_balance *out, const struct balance_sum *steps, uint32_t n_steps, const uint64_t *totals,
                    uint32_t n_layers, uint32_t n_gpus);

#endif
