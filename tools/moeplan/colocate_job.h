/* Two models on one cluster, between colocate.c and colocate_room.c. */
#ifndef TOOL_COLOCATE_JOB_H
#define TOOL_COLOCATE_JOB_H

#include "colocate.h"
#include <moeplan/coloc.h>

enum { ROWS_MAX = 16 };

/* Means over the scored steps of one step of both models, ns. */
struct worth {
    uint64_t timeline_ns, closed_ns, in_turn_ns, port_ns, compute_ns, busy_ns;
};
struct row {
    const char *name;
    uint32_t *gpu[2];       /* [layers of the model][its experts] */
    uint32_t *gpu_slots[2]; /* [GPUs] of a strategy that keeps the models apart, or NULL */
    struct worth worth;
    uint32_t n_proven;
    double seconds;
    char note[300];
    uint64_t work_used;
    bool is_found, is_stopped;
};
/* Each model on GPUs of its own: the first on GPUs 0..n_first-1, the second on the others. */
struct share {
    bool is_swapped;                     /* the first on the last n_first GPUs, which are not like the first ones */
    uint32_t n_first, gpu[2], n_gpus[2]; /* of each model: its lowest GPU, how many */
    uint32_t slots[2], *gpu_slots[2];    /* gpu_slots: [n_gpus] of the cluster, where memory is unlike; NULL = slots */
    uint64_t step_ns[2], busy_ns[2];
};
struct side {
    struct opts o;
    struct setup s;
    struct mp_workload *planning;
    uint32_t slots, *gpu_slots; /* gpu_slots: [n_gpus] where memory has no room for as many on each; NULL = slots */
};
struct job {
    const struct opts *o;
    struct side side[2];
    const struct mp_topology *topology;
    uint32_t n_layers, n_steps; /* pairs of layers; scored steps */
    enum mp_coloc_objective objective;
    struct row rows[ROWS_MAX];
    uint32_t n_rows, best;
    struct share shares[2 * MP_COLOC_GPUS_MAX];
    uint32_t n_shares, best_share, n_shares_without_room;
    struct mp_arena *arena;
};

/* Weights of so many slots a layer on a GPU, saturating. */
uint64_t colocate_weights(const struct side *x, uint64_t slots);
uint64_t colocate_memory(const struct mp_topology *t, uint32_t gpu);
uint64_t colocate_slots_on(const struct side *x, uint32_t gpu);
/* NULL: both fit on every GPU. Else says why not. gpu_slots: NULL, or where the strategy keeps the models apart. */
const char *colocate_no_room(const struct job *j, uint32_t *const *gpu_slots, char *buf, size_t size);
/* Where as many experts on each GPU do not fit: as many as fit each. A note, where that is not enough either. */
enum mp_status colocate_find_room(struct job *j, char *note, size_t size, bool *is_found, struct mp_error *err);
/* Slots of each GPU in a share: what the colocated layout has on all GPUs, dealt to these, as far as memory goes.
 * False: not even one slot for each expert fits. */
bool colocate_share_fits(struct job *j, struct share *share);
/* Is the cluster the same counted from its last GPU? */
bool colocate_is_same_backwards(const struct mp_topology *t);

#endif
