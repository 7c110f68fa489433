/* What the network does first in a training step: the policy that a plan carries, the timeline plays and the executor
 * follows. docs/TRAINING.md part 1. */
#ifndef MOEPLAN_POLICY_H
#define MOEPLAN_POLICY_H

#include <moeplan/api.h>
#include <stdbool.h>
#include <stdint.h>

MP_API_BEGIN

enum mp_train_guard { /* when no allreduce is begun although the network is free */
                      MP_TRAIN_GUARD_NONE,
                      MP_TRAIN_GUARD_NEAR, /* while the combine's computation of the backward pass runs: an all-to-all
                                              is near (Lina) */
                      MP_TRAIN_GUARD_FITS, /* unless it ends before the next all-to-all is ready, as far as that can be
                                              foreseen */
                      MP_TRAIN_GUARD_BEHIND, /* until the last all-to-all has ended */
                      MP_TRAIN_N_GUARDS
};
enum mp_train_order { /* which of the gradients that are ready goes first */
                      MP_TRAIN_FIRST_READY,
                      MP_TRAIN_FIRST_NEEDED, /* the one that the next forward pass needs first */
                      MP_TRAIN_SHORTEST,
                      MP_TRAIN_LISTED, /* the one that stands first in the list of buckets */
                      MP_TRAIN_N_ORDERS
};
const char *mp_train_guard_name(enum mp_train_guard guard); /* "none", "near", "fits", "behind" */
const char *mp_train_order_name(enum mp_train_order order); /* "first_ready", "first_needed", "shortest", "listed" */

/* What is kept in the hosts' memory where a GPU's is short. Each includes those before it. */
enum mp_train_offload {
    MP_TRAIN_OFFLOAD_NONE,
    MP_TRAIN_OFFLOAD_STATE,   /* the optimiser's state of experts */
    MP_TRAIN_OFFLOAD_EXPERTS, /* experts' weights and gradients: two layers' are on the GPU at a time */
    MP_TRAIN_N_OFFLOADS
};
const char *mp_train_offload_name(enum mp_train_offload offload); /* "none", "state", "experts" */

/* Gradients that travel as one tensor: of neighbouring layers, of one kind. */
struct mp_train_bucket {
    bool is_experts; /* of experts that several ranks hold; else of what all ranks hold */
    uint32_t first_layer, last_layer;
    uint64_t bytes; /* what chunks are cut from */
};
struct mp_train_policy {
    bool is_shared; /* one of each kind travels at a time, beside each other; else one of both, all-to-all first */
    enum mp_train_guard guard; /* not of a shared one */
    enum mp_train_order order;
    bool is_pipelined;           /* experts begin with the tokens of each chunk that has come */
    uint64_t a2a_chunk_bytes;    /* 0 = whole */
    uint64_t reduce_chunk_bytes; /* 0 = whole */
    uint64_t bucket_bytes;       /* gradients of neighbouring layers are joined until there are so many; 0 = never */
    /* [n_buckets] borrowed: these, whatever bucket_bytes says; NULL = as bucket_bytes says. */
    const struct mp_train_bucket *buckets;
    uint32_t n_buckets;
};

MP_API_END

#endif
