/* Transfers that wait for each other, sharing ports at max-min fair rates.
 *
 * Decides    when each transfer starts and ends.
 * Method     discrete events. A queue (a sender, a receiver, a rank, or everything) is a sequence of groups of jobs.
 *            A job starts when it is in the current group of each of its queues, launch_ns after the later of them
 *            got there; then its bytes flow, then its latency passes, then it has ended. A queue moves on when all
 *            jobs of its group have ended. Between events rates are max-min fair over the jobs whose bytes flow,
 *            filled from scratch.
 * Cost       O(events * (active jobs * path length * levels)): the general case; net_staged.c avoids it where ports
 *            are not contended. */
#include "net.h"
#include <string.h>

enum mp_status net_events_reserve(struct mp_net *n, size_t n_jobs, struct mp_error *err) {
    enum mp_status status = net_log_reserve(n, n_jobs, err);
    if (status != MP_OK)
        return status;
    if (n_jobs <= n->n_jobs_allocated)
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
    GROW(queue_jobs, 2 * n_jobs);
    GROW(active, n_jobs);
    GROW(pending, n_jobs);
    GROW(ending, n_jobs);
    GROW(unfrozen, n_jobs);
    GROW(job_rate, n_jobs);
#undef GROW
    n->n_jobs_allocated = n_jobs;
    return MP_OK;
}

/* Max-min fair rates of the active jobs, by progressive filling. */
static void fill(struct mp_net *n, uint32_t n_active) {
    uint32_t n_touched = 0, n_free = n_active;
    for (uint32_t i = 0; i < n_active; i++) {
        const struct net_job *j = &n->jobs[n->active[i]];
        n->unfrozen[i] = n->active[i];
        for (uint32_t k = 0; k < j->n_path; k++) {
            uint32_t r = j->path[k];
            if (n->n_free[r]++ == 0) {
                n->touched[n_touched++] = r;
                n->used[r] = 0;
            }
        }
    }
    for (uint32_t i = 0; i < n_touched; i++) {
        uint32_t r = n->touched[i];
        n->capacity[r] = net_capacity(&n->resources[r], n->n_free[r]);
    }
    double level = 0;
    while (n_free > 0) {
        double least = INFINITY;
        for (uint32_t i = 0; i < n_touched; i++) {
            uint32_t r = n->touched[i];
            n->share[r] = n->n_free[r] == 0 ? INFINITY : (n->capacity[r] - n->used[r]) / n->n_free[r];
            least = fmin(least, n->share[r]);
        }
        for (uint32_t i = 0; i < n_free; i++)
            least = fmin(least, n->jobs[n->unfrozen[i]].cap);
        level = fmax(level, least);
        double limit = least * (1 + 1e-13);
        uint32_t kept = 0;
        for (uint32_t i = 0; i < n_free; i++) {
            uint32_t id = n->unfrozen[i];
            const struct net_job *j = &n->jobs[id];
            bool is_frozen = j->cap <= limit;
            for (uint32_t k = 0; k < j->n_path && !is_frozen; k++)
                is_frozen = n->share[j->path[k]] <= limit;
            if (!is_frozen) {
                n->unfrozen[kept++] = id;
                continue;
            }
            n->job_rate[id] = level;
            for (uint32_t k = 0; k < j->n_path; k++) {
                n->used[j->path[k]] += level;
                n->n_free[j->path[k]]--;
            }
        }
        n_free = kept;
    }
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
        n->pending[n_pending++] = n->queue_jobs[i];
    }
    return n_pending;
}

double net_events_run(struct mp_net *n, size_t n_jobs, uint32_t n_queues, double launch_ns) {
    uint32_t n_active = 0, n_pending = 0, n_ending = 0;
    double now = 0, last = 0;
    /* Queues as lists of jobs; jobs come by ascending stage, so each list is in order. */
    memset(n->queue_first, 0, (n_queues + 1) * sizeof *n->queue_first);
    memset(n->n_free, 0, n->n_resources * sizeof *n->n_free);
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
        n->queue_ready[q] = 0;
    }
    for (size_t i = 0; i < n_jobs; i++)
        for (int k = 0; k < 2; k++)
            if (n->jobs[i].queue[k] != MP_NONE)
                n->queue_jobs[n->queue_head[n->jobs[i].queue[k]]++] = (uint32_t)i;
    for (uint32_t q = 0; q < n_queues; q++)
        n->queue_head[q] = n->queue_first[q];
    for (uint32_t q = 0; q < n_queues; q++)
        open_group(n, q);
    for (uint32_t q = 0; q < n_queues; q++)
        n_pending = release_group(n, q, launch_ns, n_pending);

    while (n_active + n_pending + n_ending > 0) {
        double next = INFINITY;
        if (n_active > 0)
            fill(n, n_active);
        for (uint32_t i = 0; i < n_active; i++)
            next = fmin(next, now + n->jobs[n->active[i]].left / n->job_rate[n->active[i]]);
        for (uint32_t i = 0; i < n_pending; i++)
            next = fmin(next, n->jobs[n->pending[i]].time);
        for (uint32_t i = 0; i < n_ending; i++)
            next = fmin(next, n->jobs[n->ending[i]].time);
        double limit = next + net_tolerance(next);
        uint32_t kept = 0;
        for (uint32_t i = 0; i < n_active; i++) {
            uint32_t id = n->active[i];
            struct net_job *j = &n->jobs[id];
            double finish = now + j->left / n->job_rate[id];
            if (finish <= limit) {
                j->time = next + j->latency_ns;
                n->ending[n_ending++] = id;
            } else {
                j->left -= n->job_rate[id] * (next - now);
                n->active[kept++] = id;
            }
        }
        n_active = kept;
        now = next;
        /* Ends may release starts at this very moment, and those may only be active from now on: ends first, starts
         * after. */
        kept = 0;
        for (uint32_t i = 0; i < n_ending; i++) {
            uint32_t id = n->ending[i];
            struct net_job *j = &n->jobs[id];
            if (j->time > limit) {
                n->ending[kept++] = id;
                continue;
            }
            last = fmax(last, j->time);
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
        n_ending = kept;
        kept = 0;
        for (uint32_t i = 0; i < n_pending; i++) {
            uint32_t id = n->pending[i];
            if (n->jobs[id].time > limit) {
                n->pending[kept++] = id;
                continue;
            }
            n->jobs[id].start = now;
            n->active[n_active++] = id;
        }
        n_pending = kept;
    }
    for (size_t i = 0; n->log != NULL && i < n_jobs; i++) {
        const struct net_job *j = &n->jobs[i];
        net_log_add(n, j->src, j->dst, j->stage, j->bytes, j->start, net_round_up(j->time));
    }
    return last;
}
