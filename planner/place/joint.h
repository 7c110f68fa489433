/* Private to planner/: one layer, replicas and placement together. */
#ifndef JOINT_H
#define JOINT_H

#include "layer_cost.h"

struct mp_joint {
    struct mp_layer_cost_spec cost; /* all but copies, n_copies and most */
    const uint32_t *first_slot;     /* [n_gpus + 1] */
    uint32_t n_extra;               /* replicas beyond one of each expert, at most */
    bool must_fill;                 /* every slot: starts that do not are left out */
    const uint64_t *load;           /* [n_experts] */
    uint32_t n_starts;
    const uint16_t *const *starts; /* [n_starts] slot_expert of placements to begin with; those that do not fit the rest
                                      of this are left out */
    uint32_t kicks;                /* without success, after which it is done */
    bool is_race;
    uint64_t effort; /* elementary operations */
    uint64_t seed;
    const struct mp_budget *budget;
    double started; /* for the budget's wall clock */
};
/* The best placement found, into slots[]: experts ascending inside each GPU, empty slots last. NOT_APPLICABLE as
 * mp_layer_cost_new; NOT_FOUND when no start fits. *value: its cost on the steps looked at; never more than that of any
 * start that fits. */
enum mp_status mp_joint_search(const struct mp_joint *in, uint16_t *slots, uint64_t *value, uint64_t *work,
                               bool *has_struck, enum mp_outcome *outcome, struct mp_error *err) MP_MUST_CHECK;

/* Into slots[], which hold single copies: what nodes need most at home besides, tokens going to the nearest replica
 * (planner/place/joint_near.c). *has_near false: nothing of the kind here (rule even, one node, counts, every slot to
 * be filled), and slots are as they were. */
enum mp_status mp_joint_near(const struct mp_joint *in, const uint8_t *most, uint16_t *slots, bool *has_near,
                             struct mp_arena *arena, struct mp_error *err) MP_MUST_CHECK;

/* The most replicas worth looking at: one more than EPLB's rule gives each expert with n_extra, at least two, at most
 * MP_REPLICAS_MAX and the GPUs there are. most[n_experts]. */
enum mp_status mp_joint_most(uint8_t *most, const uint64_t *load, uint32_t n_experts, uint32_t n_gpus, uint32_t n_extra,
                             struct mp_arena *arena, struct mp_error *err) MP_MUST_CHECK;

/* ---- a placement whose replicas come and go, and its cost ---- */
struct mp_replica_set { /* of one expert */
    uint8_t n;
    uint16_t gpu[MP_REPLICAS_MAX]; /* ascending */
};
struct mp_replicated {
    struct mp_layer_cost *cost;
    uint32_t n_experts, n_gpus, n_items, n_extra; /* n_extra: replicas beyond one each there are now */
    const uint8_t *most;                          /* [n_experts] */
    enum mp_route_rule rule;
    uint8_t *bank;        /* [n_experts] nearest: which of its two an expert's replicas are in */
    uint32_t *node;       /* [n_gpus] */
    uint32_t *on_node;    /* [n_gpus + 1] scratch: replicas on a node, then sources counted */
    uint32_t *counted;    /* [n_gpus + 1] */
    uint8_t *replica;     /* [n_gpus] scratch */
    uint32_t *first_item; /* [n_experts + 1] */
    const uint32_t *first_slot;
    uint32_t *n_used;           /* [n_gpus] */
    struct mp_replica_set *set; /* [n_experts] */
    uint16_t *gpu;              /* [n_items] scratch */
};
/* One replica goes from a GPU to another: MP_ITEM_OFF on one side adds or drops it. */
struct mp_shift {
    uint16_t expert, from, to;
};
#define MP_SHIFTS_MAX 4u

/* Everything in `arena` but the cost: mp_layer_cost_free(out->cost) in every case. */
enum mp_status mp_replicated_new(struct mp_replicated *out, const struct mp_layer_cost_spec *spec, const uint8_t *most,
                                 const uint32_t *first_slot, struct mp_arena *arena, enum mp_outcome *outcome,
                                 struct mp_error *err) MP_MUST_CHECK;
/* Begins with these slots; false (and nothing is set) where an expert has no replica, more than `most`, or two on a
 * GPU. */
bool mp_replicated_read(struct mp_replicated *x, const uint16_t *slots);
void mp_replicated_set(struct mp_replicated *x, const struct mp_replica_set *set);
void mp_replicated_write(const struct mp_replicated *x, uint16_t *slots, uint32_t n_slots);
static inline bool mp_replicated_has(const struct mp_replicated *x, uint32_t expert, uint32_t gpu) {
    const struct mp_replica_set *s = &x->set[expert];
    for (uint32_t r = 0; r < s->n; r++)
        if (s->gpu[r] == gpu)
            return true;
    return false;
}
static inline uint32_t mp_replicated_room(const struct mp_replicated *x, uint32_t gpu) {
    return x->first_slot[gpu + 1] - x->first_slot[gpu] - x->n_used[gpu];
}
/* The cost with these shifts, each of another expert; UINT64_MAX where they cannot be (two replicas on a GPU, none or
 * too many left, too many GPUs touched) or, with is_race, are soon seen to be no better. Slots of GPUs and the number
 * of replicas in all are the caller's to mind. */
uint64_t mp_replicated_try(struct mp_replicated *x, const struct mp_shift *shifts, uint32_t n, bool is_race);
/* Makes them the placement: those tried last, which were not UINT64_MAX. */
void mp_replicated_keep(struct mp_replicated *x, const struct mp_shift *shifts, uint32_t n);

#endif
