/* Transfers that wait for each other, sharing ports at max-min fair rates.
 *
 * Decides    when each transfer starts and ends.
 * Method     discrete events. A queue (a sender, a receiver, a rank, or everything) is a sequence of groups of jobs.
 *            A job starts when it is in the current group of each of its queues, launch_ns after the later of them
 *            got there; then its bytes flow, then its latency passes, then it has ended. A queue moves on when all
 *            jobs of its group have ended. Rates are max-min fair over the jobs whose bytes flow (net_maxmin.c): an
 *            end undoes the filling from its own level on, a start all of it.
 * Cost       O(active jobs * path length + resources * levels) per moment at which something starts, less per end; the
 *            general case, which net_staged.c avoids where ports are not contended. */
#include "net.h"
#include <string.h>

enum mp_status net_events_reserve(struct mp_net *n, size_t n_jobs, struct mp_error *err) {
    enum mp_status status = net_log_reserve(n, n_jobs, err);
    if (status != MP_OK)
        return status;
    if (n->jobs != NULL && n_jobs <= n->n_jobs_allocated)
        return MP_OK;
    n_jobs += n_jobs / 4 + 16;
    n->n_jobs_allocated = 0;
#define GROW(field, count)                                                                                             \
    do {                                                                                                               \
        void *grown_ = mp_realloc(n->field, (count), sizeof *n->field);                                                \
        if (grown_ == NULL)                                                                                            \
            return mp_nomem(err, "transfers");                                                                         \
        n->field = grown_;                                                                                             \
    } while (0)
    GROW(jobs, n_jobs);
    GROW(job_pair, n_jobs);
    GROW(job_bytes, n_jobs);
    GROW(job_cap, n_jobs);
    GROW(queue_jobs, 2 * n_jobs);
    GROW(starting, n_jobs);
    GROW(pending, n_jobs);
    GROW(ending, n_jobs);
    GROW(ended, n_jobs);
#undef GROW
    n->n_jobs_allocated = n_jobs;
    return MP_OK;
}

void net_events_job(struct mp_net *n, size_t i, struct net_job job, uint32_t src, uint32_t dst, double bytes,
                    double cap) {
    struct net_pair path;
    net_path(n, src, dst, &path);
    job.latency_ns = path.latency_ns;
    n->jobs[i] = job;
    n->job_pair[i] = src * n->n + dst;
    n->job_bytes[i] = bytes;
    n->job_cap[i] = cap;
}

/* Heaps of jobs, the least time first, ties to the lower job. */
static inline bool is_before(const struct net_job *jobs, uint32_t a, uint32_t b) {
    return jobs[a].time < jobs[b].time || (jobs[a].time <= jobs[b].time && a < b);
}
static void push(const struct net_job *jobs, uint32_t *heap, uint32_t *count, uint32_t id) {
    uint32_t at = (*count)++;
    for (; at > 0 && is_before(jobs, id, heap[(at - 1) / 2]); at = (at - 1) / 2)
        heap[at] = heap[(at - 1) / 2];
    heap[at] = id;
}
static uint32_t pop(const struct net_job *jobs, uint32_t *heap, uint32_t *count) {
    uint32_t top = heap[0], id = heap[--*count], at = 0;
    for (uint32_t child = 1; child < *count; child = 2 * at + 1) {
        child += child + 1 < *count && is_before(jobs, heap[child + 1], heap[child]);
        if (!is_before(jobs, heap[child], id))
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = id;
    return top;
}

static void open_group(struct mp_net *n, uint32_t q) {
    uint32_t head = n->queue_head[q], end = n->queue_first[q + 1], tail = head;
    uint32_t stage = head < end ? n->jobs[n->queue_jobs[head]].stage : 0;
    while (tail < end && n->jobs[n->queue_jobs[tail]].stage == stage)
        tail++;
    n->queue_tail[q] = tail;
    n->queue_left[q] = tail - head;
}
/* The jobs of the queue's current group have one queue less to wait for. */
static uint32_t release_group(struct mp_net *n, uint32_t q, double launch_ns, uint32_t n_pending) {
    for (uint32_t i = n->queue_head[q]; i < n->queue_tail[q]; i++) {
        struct net_job *j = &n->jobs[n->queue_jobs[i]];
        if (--j->n_waiting > 0)
            continue;
        double ready = 0;
        for (int k = 0; k < 2; k++)
            if (j->queue[k] != MP_NONE)
                ready = fmax(ready, n->queue_ready[j->queue[k]]);
        j->time = ready + launch_ns;
        push(n->jobs, n->pending, &n_pending, n->queue_jobs[i]);
    }
    return n_pending;
}

static void fill_queues(struct mp_net *n, size_t n_jobs, uint32_t n_queues) {
    /* Queues as lists of jobs; jobs come by ascending stage, so each list is in order. */
    memset(n->queue_first, 0, (n_queues + 1) * sizeof *n->queue_first);
    for (size_t i = 0; i < n_jobs; i++) {
        struct net_job *j = &n->jobs[i];
        if (j->queue[1] == j->queue[0])
            j->queue[1] = MP_NONE;
        j->n_waiting = 0;
        for (int k = 0; k < 2; k++)
            if (j->queue[k] != MP_NONE) {
                j->n_waiting++;
                n->queue_first[j->queue[k] + 1]++;
            }
    }
    for (uint32_t q = 0; q < n_queues; q++) {
        n->queue_first[q + 1] += n->queue_first[q];
        n->queue_head[q] = n->queue_first[q];
        n->queue_ready[q] = n->has_clocks ? n->come[q % n->n] : 0; /* queue q, or n->n + q, is rank q's */
    }
    for (size_t i = 0; i < n_jobs; i++)
        for (int k = 0; k < 2; k++)
            if (n->jobs[i].queue[k] != MP_NONE)
                n->queue_jobs[n->queue_head[n->jobs[i].queue[k]]++] = (uint32_t)i;
    for (uint32_t q = 0; q < n_queues; q++) {
        n->queue_head[q] = n->queue_first[q];
        open_group(n, q);
    }
}

enum mp_status net_events_run(struct mp_net *n, size_t n_jobs, uint32_t n_queues, double launch_ns, struct net_end *end,
                              double *last, struct mp_error *err) {
    uint32_t n_pending = 0, n_ending = 0;
    struct net_fluid x;
    enum mp_status status = net_fluid_new(&x, n, n->job_pair, n->job_cap, n->job_bytes, n->ended, n_jobs, err);
    *last = 0;
    if (status != MP_OK)
        return status;
    fill_queues(n, n_jobs, n_queues);
    for (uint32_t q = 0; q < n_queues; q++)
        n_pending = release_group(n, q, launch_ns, n_pending);
    for (uint32_t i = 0; i < n_jobs && n_queues == 0; i++)
        push(n->jobs, n->pending, &n_pending, i);
    double finish = INFINITY;
    while (finish < INFINITY || n_pending + n_ending > 0) {
        double now = finish;
        now = n_pending > 0 ? fmin(now, n->jobs[n->pending[0]].time) : now;
        now = n_ending > 0 ? fmin(now, n->jobs[n->ending[0]].time) : now;
        const double limit = now + net_tolerance(now);
        const bool is_flow = finish <= limit;
        if (is_flow)
            net_fluid_end(&x, now);
        for (uint32_t i = 0; i < x.n_ended; i++) {
            struct net_job *j = &n->jobs[n->ended[i]];
            if (end != NULL)
                net_end(n, end, n->job_pair[n->ended[i]], x.now);
            j->time = x.now + j->latency_ns;
            push(n->jobs, n->ending, &n_ending, n->ended[i]);
        }
        x.n_ended = 0;
        /* Ends may release starts at this very moment, and those may only be active from now on: ends first, starts
         * after. */
        while (n_ending > 0 && n->jobs[n->ending[0]].time <= limit) {
            const struct net_job *j = &n->jobs[pop(n->jobs, n->ending, &n_ending)];
            *last = fmax(*last, j->time);
            for (int k = 0; k < 2; k++) {
                uint32_t q = j->queue[k];
                if (q == MP_NONE || --n->queue_left[q] > 0)
                    continue;
                n->queue_ready[q] = now;
                n->queue_head[q] = n->queue_tail[q];
                open_group(n, q);
                n_pending = release_group(n, q, launch_ns, n_pending);
            }
        }
        uint32_t n_starting = 0;
        while (n_pending > 0 && n->jobs[n->pending[0]].time <= limit) {
            uint32_t id = pop(n->jobs, n->pending, &n_pending);
            n->jobs[id].start = now;
            n->starting[n_starting++] = id;
        }
        if (n_starting > 0) {
            if (!is_flow)
                net_fluid_end(&x, now);
            net_fluid_start(&x, n->starting, n_starting);
        }
        if (is_flow || n_starting > 0)
            finish = net_fluid_settle(&x);
    }
    for (size_t i = 0; n->log != NULL && end == NULL && i < n_jobs; i++) {
        const struct net_job *j = &n->jobs[i];
        net_log_add(n, n->job_pair[i] / n->n, n->job_pair[i] % n->n, j->stage, (uint64_t)n->job_bytes[i], j->start,
                    net_round_up(j->time));
    }
    return MP_OK;
}

enum mp_status net_events_timed(struct mp_net *n, const uint32_t *pairs, size_t n_flows, const uint64_t *matrix,
                                const double *start, struct net_end *end, struct mp_error *err) {
    double last;
    enum mp_status status = net_events_reserve(n, n_flows, err);
    if (status != MP_OK)
        return status;
    for (size_t i = 0; i < n_flows; i++)
        net_events_job(n, i, (struct net_job){.queue = {MP_NONE, MP_NONE}, .time = start[pairs[i]]}, pairs[i] / n->n,
                       pairs[i] % n->n, (double)matrix[pairs[i]], INFINITY);
    return net_events_run(n, n_flows, 0, 0, end, &last, err);
}
