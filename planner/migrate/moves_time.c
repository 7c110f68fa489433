/* How long moving from one placement to another takes.
 *
 * Decides   nothing: the rounds are rounds.c's.
 * Minimises -
 * Method    rounds of moves inside nodes and rounds of moves between them; a round is one single shot of the simulator,
 *           with the launch of a stage. The two kinds run side by side where they share no port.
 * Bound     -
 * Differs   -
 * Cost      one simulation per round. */
#include <moeplan/base.h>
#include <moeplan/migrate.h>
#include <string.h>

enum { INSIDE, BETWEEN, CLASSES };

static int class_of(const struct mp_move *m, const uint32_t *gpu_node) {
    return gpu_node[m->src] == gpu_node[m->dst] ? INSIDE : BETWEEN;
}

/* Do moves inside nodes and moves between them use a port in common? */
static enum mp_status share_ports(bool *out, const struct mp_move *moves, uint32_t n_moves, const uint32_t *gpu_node,
                                  const struct mp_topology *t, struct mp_error *err) {
    bool *used = mp_calloc(t->n_resources, sizeof *used);
    *out = false;
    if (used == NULL)
        return mp_nomem(err, "migration");
    for (int c = 0; c < CLASSES; c++)
        for (uint32_t i = 0; i < n_moves; i++) {
            struct mp_path path;
            if (class_of(&moves[i], gpu_node) != c)
                continue;
            mp_topology_path(t, moves[i].src, moves[i].dst, &path);
            for (uint32_t k = 0; k < path.n; k++) {
                if (c == INSIDE)
                    used[path.resource[k]] = true;
                else
                    *out |= used[path.resource[k]];
            }
        }
    mp_free(used);
    return MP_OK;
}

enum mp_status mp_moves_time(struct mp_moves_time *out, const struct mp_move *moves, uint32_t n_moves,
                             const bool *is_taken, const uint32_t *gpu_node, uint32_t n_gpus,
                             const struct mp_topology *topology, uint64_t expert_bytes, struct mp_net *net,
                             uint32_t *round, struct mp_error *err) {
    uint64_t *matrix = mp_calloc((size_t)n_gpus * n_gpus, sizeof *matrix), ns[CLASSES] = {0};
    bool *own = mp_calloc(n_moves > 0 ? n_moves : 1, sizeof *own), is_shared = false;
    struct mp_rounds rounds = {.n = 0};
    enum mp_status status = MP_OK;
    *out = (struct mp_moves_time){.ns = 0};
    if (own == NULL || matrix == NULL) {
        status = mp_nomem(err, "migration");
        goto out;
    }
    for (int c = 0; c < CLASSES; c++) {
        for (uint32_t i = 0; i < n_moves; i++)
            own[i] = (is_taken == NULL || is_taken[i]) && class_of(&moves[i], gpu_node) == c;
        MP_TRY(mp_rounds_of(&rounds, moves, n_moves, own, n_gpus, err));
        *(c == INSIDE ? &out->n_inside : &out->n_between) = rounds.n;
        for (uint32_t i = 0; i < n_moves && round != NULL; i++)
            if (own[i])
                round[i] = rounds.round[i];
        for (uint32_t r = 0; r < rounds.n && net != NULL; r++) {
            uint64_t time;
            memset(matrix, 0, (size_t)n_gpus * n_gpus * sizeof *matrix);
            for (uint32_t i = 0; i < n_moves; i++)
                if (own[i] && rounds.round[i] == r)
                    matrix[(size_t)moves[i].src * n_gpus + moves[i].dst] = expert_bytes;
            MP_TRY(mp_net_concurrent(net, matrix, &time, NULL, err));
            ns[c] += time + topology->stage_launch_ns;
        }
        mp_arena_free(rounds.arena);
        rounds = (struct mp_rounds){.n = 0};
    }
    if (net != NULL && ns[INSIDE] > 0 && ns[BETWEEN] > 0)
        MP_TRY(share_ports(&is_shared, moves, n_moves, gpu_node, topology, err));
    out->ns = is_shared ? ns[INSIDE] + ns[BETWEEN] : ns[INSIDE] > ns[BETWEEN] ? ns[INSIDE] : ns[BETWEEN];
out:
    mp_arena_free(rounds.arena);
    mp_free(own);
    mp_free(matrix);
    return status;
}
