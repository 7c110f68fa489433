/* From one placement to the next: which GPU takes which of the new contents so that the fewest weights move, and in
 * which rounds they move. docs/OPERATIONS.md part 3.
 */
#ifndef MOEPLAN_MIGRATE_H
#define MOEPLAN_MIGRATE_H

#include <moeplan/plan.h>
#include <moeplan/sim.h>

MP_API_BEGIN

/* One expert's weights of one layer from a GPU that has them to one that needs them. */
struct mp_move {
    uint32_t layer; /* index into the plans' layers */
    uint32_t expert, src, dst;
};
struct mp_migration {
    uint32_t n_layers, n_gpus;
    uint32_t *to; /* [n_layers][n_gpus] the GPU that takes what the new plan has on GPU g there */
    bool is_relabelled;
    uint64_t n_by_slot;              /* experts that move when slot s of the new plan replaces slot s of the old one */
    uint64_t n_by_gpu;               /* when GPU g takes what the new plan has on GPU g, what it holds already stays */
    uint32_t n_moves;                /* least under these labels: proven by the assignments' potentials */
    struct mp_move *moves;           /* [n_moves] by layer, dst, expert */
    uint64_t most_in, most_in_layer; /* experts that one GPU receives: in all, and in one layer */
    struct mp_arena *arena;
};
/* Which GPUs may take each other's contents of a layer: none; equal ones (type, speed, ports, uplinks, slots) of one
 * node, and nodes as wholes with each other; or any equal ones in equally large nodes. */
enum mp_labels { MP_LABELS_KEPT, MP_LABELS_BY_NODE, MP_LABELS_FREE };
/* What changes nothing: FREE where every copy of a token travels by itself and replicas are chosen without a look at
 * nodes, BY_NODE where nodes matter, KEPT where the sources' own numbers do (rule SOURCED). copies_per_node: the
 * dispatcher sends one copy per node. */
enum mp_labels mp_labels_of(const struct mp_plan *next, bool copies_per_node);
/* Both plans have the same GPUs, experts and layer ids (MP_EINPUT says what not). Contents are exchanged in every layer
 * for itself. topology NULL: all GPUs are equal, nodes are those of the new one. */
enum mp_status mp_migrate(struct mp_migration **out, const struct mp_plan *old, const struct mp_plan *next,
                          const struct mp_topology *topology, enum mp_labels labels, unsigned n_threads,
                          struct mp_error *err) MP_MUST_CHECK;
void mp_migration_free(struct mp_migration *m);
/* The new plan under the labels of a migration, experts that stay in their old slots where the GPUs' slots allow: an
 * unplanned one (no evidence, no orders), or where nothing changes the plan as it is. NULL *out: nothing changed. */
enum mp_status mp_migrated_plan(struct mp_plan **out, const struct mp_migration *m, const struct mp_plan *old,
                                const struct mp_plan *next, struct mp_error *err) MP_MUST_CHECK;

/* Moves in rounds: in a round no GPU sends twice and none receives twice. */
struct mp_rounds {
    uint32_t n;      /* rounds, the least there can be: the most moves that one GPU sends or receives */
    uint32_t *round; /* [n_moves] */
    struct mp_arena *arena;
};
/* Of the moves for which is_taken[i] (NULL = all); the others get MP_NONE. */
enum mp_status mp_rounds_of(struct mp_rounds *out, const struct mp_move *moves, uint32_t n_moves, const bool *is_taken,
                            uint32_t n_gpus, struct mp_error *err) MP_MUST_CHECK;

/* What moving takes: rounds inside nodes and between them, each a single shot of the simulator with the launch of a
 * stage; the two kinds run side by side where no port is used by both. */
struct mp_moves_time {
    uint32_t n_inside, n_between; /* rounds */
    uint64_t ns;
};
/* Of the moves for which is_taken[i] (NULL = all); whether ports are shared is asked of all n_moves. gpu_node[n_gpus].
 * topology and net NULL: rounds only. round NULL, or [n_moves]: the round of each that is taken, of its own kind. */
enum mp_status mp_moves_time(struct mp_moves_time *out, const struct mp_move *moves, uint32_t n_moves,
                             const bool *is_taken, const uint32_t *gpu_node, uint32_t n_gpus,
                             const struct mp_topology *topology, uint64_t expert_bytes, struct mp_net *net,
                             uint32_t *round, struct mp_error *err) MP_MUST_CHECK;

MP_API_END

#endif
