/* Lina's devices by popularity, for one layer. */
#ifndef LINA_SCHEDULE_H
#define LINA_SCHEDULE_H

#include <moeplan/base.h>

struct lina_rule {
    uint32_t n_experts, n_gpus, per_gpu; /* slots of a GPU; n_gpus * per_gpu >= n_experts */
    uint32_t n_slots;                    /* 0: an expert's share of the GPUs, as printed; else of so many slots */
    bool is_down;                        /* shares are rounded down, not to the nearest */
};
/* Working room, of lina_room bytes. */
size_t lina_room(const struct lina_rule *r);
/* slot_expert[n_gpus * per_gpu]: GPU g's are [g * per_gpu, ...), filled from the front, the rest MP_NO_EXPERT. Every
 * expert gets a slot. */
void lina_schedule(uint16_t *slot_expert, const struct lina_rule *r, const uint64_t *popularity, void *room);

#endif
