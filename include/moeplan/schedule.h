/* A schedule of one traffic matrix, in bytes: what order strategies make. mp_order (plan.h) is the same in shares of
 * flows, so that it can be replayed on traffic of other sizes. */
#ifndef MOEPLAN_SCHEDULE_H
#define MOEPLAN_SCHEDULE_H

#include <moeplan/sim.h>

MP_API_BEGIN

/* One transfer of a stage. */
struct mp_piece {
    uint16_t src, dst;
    uint16_t width; /* sub-ports it drives at both ends, >= 1 */
    uint64_t bytes;
};
/* Stages in the order they run. Grows by mp_schedule_stage and mp_schedule_add; all memory is its own. */
struct mp_schedule {
    uint32_t n;                /* senders and receivers: GPUs, or nodes when between_nodes */
    bool between_nodes;        /* docs/ORDERS.md part 4 */
    bool has_flush;            /* the last stage is one launch of all that is left, exempt from `ports` */
    uint32_t ports;            /* sends and receives of a GPU in one stage, sub-ports counted, at most */
    uint64_t port_bytes_per_s; /* rate of one sub-port; 0 = no cap */
    uint32_t loss_ppm;         /* how much longer than the port bound the stages are because rates were rounded to
                                * sub-ports; 0 where that did not happen */
    uint32_t n_stages;
    uint32_t *first; /* [n_stages + 1] into pieces */
    struct mp_piece *pieces;
    size_t n_pieces, n_pieces_allocated, n_stages_allocated;
};
void mp_schedule_init(struct mp_schedule *s, uint32_t n);
void mp_schedule_free(struct mp_schedule *s); /* its memory, not *s */
/* Starts the next stage; pieces are added to the last one. An empty stage is dropped by the next call and by
 * mp_schedule_finish. */
enum mp_status mp_schedule_stage(struct mp_schedule *s, struct mp_error *err) MP_MUST_CHECK;
/* bytes 0 adds nothing. */
enum mp_status mp_schedule_add(struct mp_schedule *s, uint32_t src, uint32_t dst, uint32_t width, uint64_t bytes,
                               struct mp_error *err) MP_MUST_CHECK;
/* Drops an empty last stage and sorts every stage by (src, dst). */
void mp_schedule_finish(struct mp_schedule *s);
/* Does it move exactly the matrix [n][n] (diagonal ignored), within its ports? MP_EBUG with what is wrong. */
enum mp_status mp_schedule_check(const struct mp_schedule *s, const uint64_t *matrix,
                                 struct mp_error *err) MP_MUST_CHECK;

/* The schedule as shares of `unit` (>= 1), in memory of `arena`. A piece ends where its flow's bytes so far, rounded up
 * to the next share, end: when unit >= the largest entry of the matrix, cutting the same matrix gives back the same
 * bytes. Pairs without bytes in the matrix are packed into stages where both ends are idle, last stage first, else into
 * stages added at the end (before a flush they go into it, with sub-ports into a flush that is added). name is
 * borrowed. */
enum mp_status mp_schedule_order(struct mp_order *out, const struct mp_schedule *s, const uint64_t *matrix,
                                 uint32_t unit, const char *name, struct mp_arena *arena,
                                 struct mp_error *err) MP_MUST_CHECK;

/* Matrix [n_nodes][n_nodes] of the bytes between nodes. */
void mp_node_matrix(const struct mp_topology *t, const uint64_t *matrix, uint64_t *node_matrix);

MP_API_END

#endif
