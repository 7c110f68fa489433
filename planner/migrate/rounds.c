/* Moves in rounds in which nobody sends or receives twice.
 *
 * Decides   the round of each move.
 * Minimises rounds.
 * Method    edge colouring of a bipartite multigraph, senders and receivers: a move takes the first round that is free
 *           at its sender; where its receiver is busy then, the two rounds change places along the path of moves that
 *           alternate between them. D. Konig, Math. Annalen 77, 1916, doi:10.1007/BF01456961.
 * Bound     exact: as many rounds as the busiest GPU sends or receives, which no schedule is below.
 * Differs   -
 * Cost      O(moves * (rounds + GPUs)) time, O(GPUs * rounds) memory. */
#include <moeplan/base.h>
#include <moeplan/migrate.h>
#include <string.h>

struct colouring {
    const struct mp_move *moves;
    uint32_t n_gpus, n; /* n: rounds */
    uint32_t *out, *in; /* [n_gpus][n] the move in each round, or MP_NONE */
    uint32_t *round;
};

static uint32_t first_free(const uint32_t *of_gpu, uint32_t n) {
    uint32_t k = 0;
    while (k < n && of_gpu[k] != MP_NONE)
        k++;
    return k;
}

/* From receiver `dst`, which is busy in round a and free in b: every move on the alternating path changes its round. It
 * cannot end at the sender that wants round a, which has none in it. */
static void swap_path(struct colouring *c, uint32_t dst, uint32_t a, uint32_t b) {
    uint32_t move = c->in[(size_t)dst * c->n + a], from = a, to = b;
    bool at_receiver = true;
    c->in[(size_t)dst * c->n + a] = MP_NONE;
    while (move != MP_NONE) {
        const struct mp_move *m = &c->moves[move];
        uint32_t *in = &c->in[(size_t)m->dst * c->n], *out = &c->out[(size_t)m->src * c->n];
        /* It leaves `from` for `to` at both ends; whoever stands there at the far end is next. */
        uint32_t next = at_receiver ? out[to] : in[to];
        if (at_receiver) {
            in[to] = move;
            if (out[from] == move)
                out[from] = MP_NONE;
            out[to] = move;
        } else {
            out[to] = move;
            if (in[from] == move)
                in[from] = MP_NONE;
            in[to] = move;
        }
        c->round[move] = to;
        move = next;
        uint32_t other = from;
        from = to;
        to = other;
        at_receiver = !at_receiver;
    }
}

enum mp_status mp_rounds_of(struct mp_rounds *out, const struct mp_move *moves, uint32_t n_moves, const bool *is_taken,
                            uint32_t n_gpus, struct mp_error *err) {
    struct colouring c = {.moves = moves, .n_gpus = n_gpus};
    uint32_t *degree = mp_calloc(2 * (size_t)n_gpus, sizeof *degree);
    enum mp_status status = MP_OK;
    *out = (struct mp_rounds){.arena = mp_arena_new()};
    c.round = out->arena != NULL ? mp_arena_alloc(out->arena, n_moves > 0 ? n_moves : 1, sizeof *c.round) : NULL;
    if (degree == NULL || c.round == NULL) {
        status = mp_nomem(err, "rounds");
        goto out;
    }
    for (uint32_t i = 0; i < n_moves; i++) {
        c.round[i] = MP_NONE;
        if (is_taken != NULL && !is_taken[i])
            continue;
        const uint32_t sends = ++degree[moves[i].src], receives = ++degree[n_gpus + moves[i].dst];
        c.n = sends > c.n ? sends : c.n;
        c.n = receives > c.n ? receives : c.n;
    }
    const size_t cells = (size_t)n_gpus * (c.n > 0 ? c.n : 1);
    c.out = mp_calloc(cells, sizeof *c.out);
    c.in = mp_calloc(cells, sizeof *c.in);
    if (c.out == NULL || c.in == NULL) {
        status = mp_nomem(err, "rounds");
        goto out;
    }
    memset(c.out, 0xff, cells * sizeof *c.out);
    memset(c.in, 0xff, cells * sizeof *c.in);
    for (uint32_t i = 0; i < n_moves; i++) {
        if (is_taken != NULL && !is_taken[i])
            continue;
        uint32_t *sends = &c.out[(size_t)moves[i].src * c.n], *receives = &c.in[(size_t)moves[i].dst * c.n];
        const uint32_t a = first_free(sends, c.n), b = first_free(receives, c.n);
        if (receives[a] != MP_NONE)
            swap_path(&c, moves[i].dst, a, b);
        sends[a] = receives[a] = i;
        c.round[i] = a;
    }
    out->n = c.n;
    out->round = c.round;
out:
    mp_free(degree);
    mp_free(c.out);
    mp_free(c.in);
    if (status != MP_OK) {
        mp_arena_free(out->arena);
        *out = (struct mp_rounds){.n = 0};
    }
    return status;
}
