/* List scheduling of whole messages.
 *
 * Decides   which message each sender and receiver handles next, without ever cutting one.
 * Minimises the end of the last message, startups included.
 * Method    events: whenever an end becomes free it takes, among the idle ends it still has a message with, the one
 *           of highest priority. Ends that become free together choose by falling load. Ties go around the ring of
 *           GPUs, so that equal messages make spread-out rounds.
 * Bound     makespan < 2 * the largest load of an end. Proof: two idle ends never have a message left, so before the
 *           last message (i, j) of time t started, i or j was busy at every moment: the end is at most load(i) - t +
 *           load(j) - t + t. QED. It is the largest load itself when one end is a party to every message.
 * Differs   messages have a startup cost and pairs a rate of their own; time is whole ticks, so that equal ends tie.
 * Paper     dense schedules of the open shop: T. Gonzalez, S. Sahni, J. ACM 23(4), 1976, is the problem's origin.
 * Cost      O(messages * idle partners) time, a bit scan each; O(n^2) scratch. */
#include "list_schedule.h"
#include "pair_time.h"
#include <stdlib.h>
#include <string.h>

#define MOST_TICKS (UINT64_C(1) << 51) /* of one end: the ends of MP_MAX_GPUS together stay below 2^63 */

static uint64_t add_capped(uint64_t a, uint64_t b) {
    uint64_t sum;
    return mp_add_overflow(a, b, &sum) || sum > MOST_TICKS ? MOST_TICKS : sum;
}

/* Can two one-to-one transfers of different ends meet anywhere? */
static bool are_alone(const struct mp_topology *t) {
    if (t->n_levels != 1 || (t->levels[0].n_incast > 0 && t->levels[0].incast_ppm[0] != 1000000))
        return false;
    for (uint32_t g = 0; g < t->n_gpus; g++) {
        const struct mp_gpu *x = &t->gpus[g];
        if (x->out_port[0] >= t->n_resources || x->in_port[0] >= t->n_resources ||
            t->resources[x->out_port[0]].first_gpu != g || t->resources[x->in_port[0]].first_gpu != g ||
            x->out_port[0] == x->in_port[0])
            return false;
    }
    return true;
}

static void find_rates(struct mp_ticks *t, const struct mp_topology *topology) {
    for (uint32_t i = 0; i < t->n; i++)
        for (uint32_t j = 0; j < t->n; j++) {
            size_t pair = (size_t)i * t->n + j;
            struct mp_path path;
            t->rate[pair] = 1;
            if (i == j)
                continue;
            mp_topology_path(topology, i, j, &path);
            t->rate[pair] = mp_path_rate(topology, &path);
            t->startup[pair] = add_capped(topology->stage_launch_ns, path.latency_ns);
        }
}

/* Most ticks of an end, startups included. */
static uint64_t most_load(const struct mp_ticks *t, const uint64_t *matrix, uint64_t *load) {
    const size_t n = t->n;
    uint64_t most = 0;
    memset(load, 0, 2 * n * sizeof *load);
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            if (i != j && matrix[i * n + j] > 0) {
                uint64_t startup = t->startup[i * n + j];
                startup = startup >= MOST_TICKS >> t->shift ? MOST_TICKS : startup << t->shift;
                uint64_t time = add_capped(startup, mp_ticks_wire(t, i * n + j, matrix[i * n + j]));
                load[i] = add_capped(load[i], time);
                load[n + j] = add_capped(load[n + j], time);
            }
    for (size_t i = 0; i < 2 * n; i++)
        most = load[i] > most ? load[i] : most;
    return most;
}

enum mp_status mp_ticks_new(struct mp_ticks **out, const struct mp_order_problem *in, struct mp_arena *arena,
                            struct mp_error *err) {
    const size_t n = in->topology->n_gpus;
    *out = NULL;
    struct mp_ticks *t = mp_arena_alloc(arena, 1, sizeof *t);
    uint64_t *load = mp_arena_alloc(arena, 2 * n, sizeof *load);
    if (t == NULL || load == NULL)
        return mp_nomem(err, "ordering transfers");
    t->n = (uint32_t)n;
    t->is_alone = are_alone(in->topology);
    t->rate = mp_arena_alloc(arena, n * n, sizeof *t->rate);
    t->startup = mp_arena_alloc(arena, n * n, sizeof *t->startup);
    t->wire = mp_arena_alloc(arena, n * n, sizeof *t->wire);
    if (t->rate == NULL || t->startup == NULL || t->wire == NULL)
        return mp_nomem(err, "ordering transfers");
    find_rates(t, in->topology);
    t->port_ns = most_load(t, in->matrix, load);
    while (t->shift < 20 && t->port_ns < MOST_TICKS >> (t->shift + 1))
        t->shift++;
    if (t->shift > 0) {
        uint64_t most = most_load(t, in->matrix, load);
        t->port_ns = mp_ticks_ns(t, most);
    }
    for (size_t p = 0; p < n * n; p++) {
        uint64_t most = MOST_TICKS / (2 * n), startup = t->startup[p];
        t->startup[p] = startup > most >> t->shift ? most : startup << t->shift;
        if (p / n == p % n || in->matrix[p] == 0)
            continue;
        uint64_t wire = mp_ticks_wire(t, p, in->matrix[p]);
        t->wire[p] = wire < most || t->port_ns < MOST_TICKS ? wire : most; /* beyond 26 days nothing is exact */
    }
    *out = t;
    return MP_OK;
}

/* ---- the list ---- */
struct mp_list_event {
    uint64_t time;
    uint32_t src, dst;
};

enum mp_status mp_list_new(struct mp_list **out, uint32_t n, struct mp_arena *arena, struct mp_error *err) {
    *out = NULL;
    struct mp_list *l = mp_arena_alloc(arena, 1, sizeof *l);
    if (l == NULL)
        return mp_nomem(err, "ordering transfers");
    size_t words = (n + 63) / 64, ends = 2 * (size_t)n;
    *l = (struct mp_list){.n = n,
                          .n_words = (uint32_t)words,
                          .messages = mp_arena_alloc(arena, (size_t)n * n, sizeof *l->messages),
                          .load = mp_arena_alloc(arena, ends, sizeof *l->load),
                          .idle = mp_arena_alloc(arena, 2 * words, sizeof *l->idle),
                          .left = mp_arena_alloc(arena, ends * words, sizeof *l->left),
                          .level = mp_arena_alloc(arena, ends, sizeof *l->level),
                          .freed = mp_arena_alloc(arena, ends, sizeof *l->freed),
                          .events = mp_arena_alloc(arena, ends, sizeof *l->events)};
    if (l->messages == NULL || l->load == NULL || l->idle == NULL || l->left == NULL || l->level == NULL ||
        l->freed == NULL || l->events == NULL)
        return mp_nomem(err, "ordering transfers");
    *out = l;
    return MP_OK;
}

static bool is_before(struct mp_list_event a, struct mp_list_event b) {
    return a.time != b.time ? a.time < b.time : a.src < b.src;
}
static void push(struct mp_list_event *heap, uint32_t *n, struct mp_list_event e) {
    uint32_t at = (*n)++;
    while (at > 0 && is_before(e, heap[(at - 1) / 2])) {
        heap[at] = heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap[at] = e;
}
static struct mp_list_event pop(struct mp_list_event *heap, uint32_t *n) {
    struct mp_list_event first = heap[0], last = heap[--*n];
    uint32_t at = 0;
    for (uint32_t child = 1; child < *n; child = 2 * at + 1) {
        child += child + 1 < *n && is_before(heap[child + 1], heap[child]);
        if (!is_before(heap[child], last))
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = last;
    return first;
}

/* The idle end that `end` (senders 0 .. n-1, receivers n .. 2n-1) takes, by its own number; MP_NONE = none. */
static uint32_t choose(const struct mp_list *l, const uint64_t *time, uint32_t end, enum mp_list_priority priority) {
    const uint32_t n = l->n, words = l->n_words;
    const bool is_sender = end < n;
    const uint64_t *idle = l->idle + (is_sender ? words : 0), *left = l->left + (size_t)end * words;
    const uint64_t *load = l->load + (is_sender ? n : 0), own = l->load[end];
    const uint64_t *message = is_sender ? time + (size_t)end * n : time + (end - n);
    const size_t stride = is_sender ? 1 : n;
    uint32_t best = MP_NONE, best_turn = 0;
    uint64_t best_score = 0, best_time = 0;
    for (uint32_t w = 0; w < words; w++)
        for (uint64_t bits = idle[w] & left[w]; bits != 0; bits &= bits - 1) {
            uint32_t q = w * 64 + (uint32_t)__builtin_ctzll(bits);
            uint64_t score = 0, size = message[q * stride];
            if (priority != MP_LIST_SIZE)
                score = priority == MP_LIST_LOAD && load[q] < own ? own : load[q];
            if (best != MP_NONE && (score < best_score || (score == best_score && size < best_time)))
                continue;
            uint32_t turn = is_sender ? (q + n - end) % n : (end - q) % n; /* receiver - sender, around the ring */
            if (best != MP_NONE && score == best_score && size == best_time && turn > best_turn)
                continue;
            best = q;
            best_turn = turn;
            best_score = score;
            best_time = size;
        }
    return best;
}

struct end_load {
    const uint64_t *load;
};
static int by_falling_load(const void *a, const void *b, void *ctx) {
    const uint64_t *load = ((const struct end_load *)ctx)->load;
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return load[x] != load[y] ? (load[x] < load[y] ? 1 : -1) : (x > y) - (x < y);
}

static void set_bit(uint64_t *bits, uint32_t i) { bits[i / 64] |= UINT64_C(1) << i % 64; }
static void clear_bit(uint64_t *bits, uint32_t i) { bits[i / 64] &= ~(UINT64_C(1) << i % 64); }

static void start_message(struct mp_list *l, const uint64_t *time, uint32_t src, uint32_t dst, uint64_t now,
                          uint32_t *n_events) {
    const uint32_t n = l->n;
    uint64_t taken = time[(size_t)src * n + dst];
    uint32_t level = l->level[src] > l->level[n + dst] ? l->level[src] : l->level[n + dst];
    clear_bit(l->idle, src);
    clear_bit(l->idle + l->n_words, dst);
    clear_bit(l->left + (size_t)src * l->n_words, dst);
    clear_bit(l->left + (size_t)(n + dst) * l->n_words, src);
    l->load[src] -= taken;
    l->load[n + dst] -= taken;
    l->level[src] = l->level[n + dst] = level + 1;
    l->n_stages = level + 1 > l->n_stages ? level + 1 : l->n_stages;
    l->messages[l->n_messages++] = (struct mp_list_message){(uint16_t)src, (uint16_t)dst, level};
    push(l->events, n_events, (struct mp_list_event){now + taken, src, dst});
}

/* Every message by both its ends; how many there are. */
static uint32_t begin(struct mp_list *l, const uint64_t *time) {
    const uint32_t n = l->n;
    uint32_t n_messages = 0;
    l->n_messages = l->n_stages = 0;
    l->makespan = 0;
    memset(l->load, 0, 2 * (size_t)n * sizeof *l->load);
    memset(l->level, 0, 2 * (size_t)n * sizeof *l->level);
    memset(l->idle, 0, 2 * (size_t)l->n_words * sizeof *l->idle);
    memset(l->left, 0, 2 * (size_t)n * l->n_words * sizeof *l->left);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++) {
            uint64_t taken = time[(size_t)i * n + j];
            if (taken == 0)
                continue;
            n_messages++;
            l->load[i] += taken;
            l->load[n + j] += taken;
            set_bit(l->left + (size_t)i * l->n_words, j);
            set_bit(l->left + (size_t)(n + j) * l->n_words, i);
        }
    return n_messages;
}

/* Events that are no message: an end that is busy with something before the list is free from then on. */
#define NO_END UINT32_MAX

bool mp_list_run(struct mp_list *l, const uint64_t *time, const uint64_t *ready, enum mp_list_priority priority,
                 uint64_t limit) {
    const uint32_t n = l->n, total = begin(l, time);
    uint32_t n_events = 0;
    for (uint32_t e = 0; e < 2 * n; e++) { /* as receivers of nobody, senders to nobody */
        uint64_t from = ready == NULL ? 0 : ready[e];
        l->makespan = from > l->makespan ? from : l->makespan;
        push(l->events, &n_events, (struct mp_list_event){from, e < n ? e : NO_END, e < n ? NO_END : e - n});
    }
    while (n_events > 0) {
        uint64_t now = l->events[0].time;
        uint32_t n_freed = 0;
        while (n_events > 0 && l->events[0].time == now) {
            struct mp_list_event e = pop(l->events, &n_events);
            if (e.src != NO_END) {
                set_bit(l->idle, e.src);
                l->freed[n_freed++] = e.src;
            }
            if (e.dst != NO_END) {
                set_bit(l->idle + l->n_words, e.dst);
                l->freed[n_freed++] = n + e.dst;
            }
        }
        if (n_freed > 1)
            qsort_r(l->freed, n_freed, sizeof *l->freed, by_falling_load, &(struct end_load){l->load});
        for (uint32_t k = 0; k < n_freed; k++) {
            uint32_t end = l->freed[k], side = end < n ? 0 : 1, me = end - side * n;
            l->makespan = now > l->makespan ? now : l->makespan;
            if (now + l->load[end] >= limit)
                return false;
            if ((l->idle[side * l->n_words + me / 64] >> me % 64 & 1) == 0)
                continue;
            uint32_t other = choose(l, time, end, priority);
            if (other != MP_NONE)
                start_message(l, time, side == 0 ? me : other, side == 0 ? other : me, now, &n_events);
        }
    }
    return l->n_messages == total && l->makespan < limit;
}

enum mp_status mp_list_append(const struct mp_list *l, const uint64_t *bytes, struct mp_schedule *out,
                              struct mp_arena *arena, struct mp_error *err) {
    uint32_t *first = mp_arena_alloc(arena, l->n_stages + 1, sizeof *first);
    uint32_t *sorted = mp_arena_alloc(arena, l->n_messages, sizeof *sorted);
    enum mp_status status = MP_OK;
    if (first == NULL || sorted == NULL)
        return mp_nomem(err, "ordering transfers");
    for (uint32_t i = 0; i < l->n_messages; i++)
        first[l->messages[i].stage]++;
    for (uint32_t s = 0, at = 0; s <= l->n_stages; s++) { /* first[s]: where stage s begins, then where it ends */
        uint32_t count = first[s];
        first[s] = at;
        at += count;
    }
    for (uint32_t i = 0; i < l->n_messages; i++)
        sorted[first[l->messages[i].stage]++] = i;
    for (uint32_t i = 0; i < l->n_messages; i++) {
        const struct mp_list_message *m = &l->messages[sorted[i]];
        if (i == 0 || m->stage != l->messages[sorted[i - 1]].stage)
            MP_TRY(mp_schedule_stage(out, err));
        MP_TRY(mp_schedule_add(out, m->src, m->dst, 1, bytes[(size_t)m->src * l->n + m->dst], err));
    }
out:
    return status;
}
