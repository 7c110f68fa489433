/* A script over MPI: isend and irecv of every message, a queue of sends and one of receives in the order of the stages,
 * each rank by itself. Receives of a group are posted one group ahead where stages are free; messages that are long
 * enough for MPI's rendezvous then wait for the receiver, short ones may overtake stages in MPI's buffers. MPI matches
 * messages of a pair in order, which is the order of both their programs. */
#include "mpi_link.h"
#include <limits.h>
#include <stdio.h>
#include <string.h>

struct queue {
    const struct ex_end *ends;
    size_t n, at, end, posted; /* the group at hand: at .. end; posted: before it requests exist */
    MPI_Request *requests;
    uint8_t *is_done;
    uint64_t *begin_ns;
    bool is_receive;
};
struct run {
    struct ex_link *l;
    const struct ex_script *s;
    struct ex_times *times;
    struct queue sends, receives;
    struct ex_end *faulty;
    int *indices;
    MPI_Status *statuses;
    size_t copy;
    uint64_t origin_ns;
    bool has_misbehaved;
};

static size_t group_end(const struct queue *q, size_t at) {
    size_t i = at;
    while (i < q->n && q->ends[i].stage == q->ends[at].stage)
        i++;
    return i;
}
static uint32_t stage_of(const struct queue *q) { return q->at < q->n ? q->ends[q->at].stage : MP_NONE; }

static enum mp_status make_queue(struct queue *q, const struct ex_end *ends, size_t n, bool is_receive,
                                 struct mp_error *err) {
    *q = (struct queue){.ends = ends, .n = n, .is_receive = is_receive};
    q->requests = mp_calloc(n, sizeof *q->requests);
    q->is_done = mp_calloc(n, 1);
    q->begin_ns = mp_calloc(n, sizeof *q->begin_ns);
    if (q->requests == NULL || q->is_done == NULL || q->begin_ns == NULL)
        return mp_nomem(err, "running a script");
    for (size_t i = 0; i < n; i++)
        q->requests[i] = MPI_REQUEST_NULL;
    q->end = group_end(q, 0);
    return MP_OK;
}
static void unmake(struct run *x) {
    struct queue *queues[2] = {&x->sends, &x->receives};
    for (int k = 0; k < 2; k++) {
        mp_free(queues[k]->requests);
        mp_free(queues[k]->is_done);
        mp_free(queues[k]->begin_ns);
    }
    mp_free(x->faulty);
    mp_free(x->indices);
    mp_free(x->statuses);
}

static enum mp_status make(struct run *x, struct mp_error *err) {
    const struct ex_script *s = x->s;
    const uint32_t me = x->l->me;
    const size_t n[2] = {s->send_first[me + 1] - s->send_first[me], s->receive_first[me + 1] - s->receive_first[me]};
    enum mp_status status = MP_OK;
    MP_TRY(ex_fault_sends(&x->faulty, &x->l->world.fault, s, me, err));
    MP_TRY(make_queue(&x->sends, x->faulty != NULL ? x->faulty : s->sends + s->send_first[me], n[0], false, err));
    MP_TRY(make_queue(&x->receives, s->receives + s->receive_first[me], n[1], true, err));
    x->indices = mp_calloc(n[0] > n[1] ? n[0] : n[1], sizeof *x->indices);
    x->statuses = mp_calloc(n[0] > n[1] ? n[0] : n[1], sizeof *x->statuses);
    x->copy = s->copy_first[me];
    if (x->indices == NULL || x->statuses == NULL)
        status = mp_nomem(err, "running a script");
out:
    return status;
}

static void copy_around(struct run *x, uint32_t stage, bool is_before) {
    const struct ex_script *s = x->s;
    uint8_t *block = x->l->block;
    for (; x->copy < s->copy_first[x->l->me + 1] && s->copies[x->copy].stage == stage &&
           s->copies[x->copy].is_before == is_before;
         x->copy++)
        memcpy(block + s->copies[x->copy].to_at, block + s->copies[x->copy].from_at, s->copies[x->copy].bytes);
}

/* Begins all before `end` that has not begun. */
static enum mp_status post(struct run *x, struct queue *q, size_t end, struct mp_error *err) {
    struct ex_link *l = x->l;
    const struct ex_fault *f = &l->world.fault;
    enum mp_status status = MP_OK;
    for (; q->posted < end; q->posted++) {
        const struct ex_end *e = &q->ends[q->posted];
        uint8_t *at = l->block + e->at;
        const bool is_struck = ex_fault_strikes(f, x->s, e->stage, l->me);
        if (is_struck && !x->has_misbehaved &&
            (f->kind == EX_FAULT_STOP || f->kind == EX_FAULT_KILL || f->kind == EX_FAULT_SLOW)) {
            x->has_misbehaved = true;
            mpi_misbehave(l);
        }
        q->begin_ns[q->posted] = mpi_now_ns() - x->origin_ns;
        if (is_struck && f->kind == EX_FAULT_DROP) {
            q->is_done[q->posted] = 1;
            continue;
        }
        if (is_struck && f->kind == EX_FAULT_CORRUPT && !q->is_receive && !x->has_misbehaved) {
            x->has_misbehaved = true;
            at[e->bytes / 2] ^= 1;
        }
        if (q->is_receive)
            MPI_TRY(MPI_Irecv(at, (int)e->bytes, MPI_BYTE, (int)e->peer, (int)(e->stage % MPI_TAGS), MPI_COMM_WORLD,
                              &q->requests[q->posted]),
                    "receiving");
        else
            MPI_TRY(MPI_Isend(at, (int)e->bytes, MPI_BYTE, (int)e->peer, (int)(e->stage % MPI_TAGS), MPI_COMM_WORLD,
                              &q->requests[q->posted]),
                    "sending");
    }
out:
    return status;
}

static void note(struct run *x, const struct queue *q, size_t i) {
    const struct ex_end *e = &q->ends[i];
    struct ex_times *t = x->times;
    const size_t cell = (size_t)x->l->me * x->s->n_stages + e->stage;
    const uint64_t begin = q->begin_ns[i], end = mpi_now_ns() - x->origin_ns;
    if (q->is_receive || t->message_end_ns[e->message] == 0) {
        t->message_begin_ns[e->message] = begin;
        t->message_end_ns[e->message] = end;
    }
    if (t->end_ns[cell] == 0 || begin < t->begin_ns[cell])
        t->begin_ns[cell] = begin;
    if (end > t->end_ns[cell])
        t->end_ns[cell] = end;
}

static enum mp_status lied(struct run *x, const struct ex_end *e, long long bytes, struct mp_error *err) {
    char name[96], some[32] = "more";
    x->l->is_broken = true;
    if (bytes >= 0)
        (void)snprintf(some, sizeof some, "%lld", bytes);
    return mp_fail(err, MP_EPEER, "%s, stage %u: rank %u sends %s bytes to rank %u where %llu were agreed",
                   ex_script_name(x->s, name, sizeof name), e->stage, e->peer, some, x->l->me,
                   (unsigned long long)e->bytes);
}

/* What has ended since we looked. */
static enum mp_status look(struct run *x, struct queue *q, struct mp_error *err) {
    struct ex_link *l = x->l;
    const size_t first = q->at;
    int n_done = 0, n_bytes = 0;
    enum mp_status status = MP_OK;
    if (q->posted == first)
        return MP_OK;
    const int error = MPI_Testsome((int)(q->posted - first), q->requests + first, &n_done, x->indices, x->statuses);
    if (error != MPI_SUCCESS && error != MPI_ERR_IN_STATUS)
        return mpi_fail(l, err, error, q->is_receive ? "receiving" : "sending");
    for (int k = 0; n_done != MPI_UNDEFINED && k < n_done; k++) {
        const size_t i = first + (size_t)x->indices[k];
        const int wrong = error == MPI_ERR_IN_STATUS ? x->statuses[k].MPI_ERROR : MPI_SUCCESS;
        int class = MPI_SUCCESS;
        if (wrong != MPI_SUCCESS && wrong != MPI_ERR_PENDING) {
            (void)MPI_Error_class(wrong, &class);
            return class == MPI_ERR_TRUNCATE ? lied(x, &q->ends[i], -1, err)
                                             : mpi_fail(l, err, wrong, q->is_receive ? "receiving" : "sending");
        }
        if (q->is_receive) {
            MPI_TRY(MPI_Get_count(&x->statuses[k], MPI_BYTE, &n_bytes), "receiving");
            if ((uint64_t)n_bytes != q->ends[i].bytes)
                return lied(x, &q->ends[i], n_bytes, err);
        }
        q->is_done[i] = 1;
        note(x, q, i);
        l->life.moved_ns = mpi_now_ns();
        if (q->is_receive)
            ex_life_sign(&l->life, q->ends[i].peer, l->life.moved_ns);
    }
    while (q->at < q->n) { /* groups that are through */
        size_t i = q->at;
        while (i < q->end && q->is_done[i])
            i++;
        if (i < q->end)
            break;
        q->at = q->end;
        q->end = group_end(q, q->at);
    }
out:
    return status;
}

/* What is outstanding between us and a peer: what was begun, else what comes first. */
static void owed(const void *run, uint32_t peer, struct ex_owed *out) {
    const struct run *x = run;
    const struct queue *queues[2] = {&x->receives, &x->sends};
    for (int k = 0; k < 2; k++)
        for (size_t i = queues[k]->at; i < queues[k]->n; i++) {
            const struct ex_end *e = &queues[k]->ends[i];
            if (e->peer != peer || queues[k]->is_done[i])
                continue;
            *out = (struct ex_owed){e->bytes, e->stage, k == 0, i < queues[k]->end};
            return;
        }
}

/* MPI says nothing of parts of a message: a single one must not take longer than the deadline while nothing else ends
 * anywhere. */
static enum mp_status check_deadline(struct run *x, struct mp_error *err) {
    const struct queue *queues[2] = {&x->receives, &x->sends};
    enum mp_status status = mpi_look(x->l, err);
    if (status != MP_OK || mpi_now_ns() <= ex_life_patience(&x->l->life, x->l->life.moved_ns))
        return status;
    x->l->is_broken = true;
    for (int k = 0; k < 2; k++)
        for (size_t i = queues[k]->at; i < queues[k]->posted; i++)
            if (!queues[k]->is_done[i])
                return ex_fail_deadline(err, x->s, x->l->me, queues[k]->ends[i].stage, queues[k]->ends[i].peer, k == 0,
                                        queues[k]->ends[i].bytes, EX_IDLE, x->l->world.deadline_ms);
    return mp_fail(err, MP_EBUG, "rank %u waits for nothing", x->l->me);
}

/* Groups up to and including the stage; MP_NONE: all. */
static enum mp_status carry_out(struct run *x, uint32_t last_stage, struct mp_error *err) {
    struct queue *a = &x->sends, *b = &x->receives;
    enum mp_status status = MP_OK;
    x->l->life.moved_ns = mpi_now_ns();
    for (;;) {
        const uint32_t stages[2] = {stage_of(a), stage_of(b)}, first = stages[0] < stages[1] ? stages[0] : stages[1];
        if (first == MP_NONE || (last_stage != MP_NONE && first > last_stage))
            break;
        const bool is_free = x->s->mode == MP_STAGE_FREE;
        const uint32_t most = is_free ? MP_NONE : first;
        if (stages[1] <= most && stages[1] != MP_NONE)
            MP_TRY(post(x, b, is_free ? group_end(b, b->end < b->n ? b->end : b->at) : b->end, err));
        if (stages[0] <= most && stages[0] != MP_NONE)
            MP_TRY(post(x, a, a->end, err));
        MP_TRY(look(x, a, err));
        MP_TRY(look(x, b, err));
        MP_TRY(check_deadline(x, err));
        mpi_nap(x->l->life.moved_ns);
    }
out:
    return status;
}

static enum mp_status mpi_run(struct ex_link *l, const struct ex_script *s, struct ex_times *times,
                              struct mp_error *err) {
    struct run x = {.l = l, .s = s, .times = times};
    enum mp_status status = MP_OK;
    mpi_begins(l, s);
    MP_TRY(make(&x, err));
    MP_TRY(mpi_barrier(l, err));
    x.origin_ns = mpi_now_ns();
    l->owed = owed;
    l->run = &x;
    l->script = s;
    for (uint32_t k = 0; s->mode == MP_STAGE_BARRIER && k < s->n_stages; k++) {
        copy_around(&x, k, true);
        MP_TRY(carry_out(&x, k, err));
        copy_around(&x, k, false);
        mpi_is_behind(l, s, k);
        if (k + 1 < s->n_stages)
            MP_TRY(mpi_barrier(l, err));
    }
    if (s->mode != MP_STAGE_BARRIER)
        MP_TRY(carry_out(&x, MP_NONE, err));
    times->total_ns[l->me] = mpi_now_ns() - x.origin_ns;
    mpi_is_behind(l, s, MP_NONE);
out:
    l->owed = NULL;
    unmake(&x);
    return status;
}

static enum mp_status mpi_prepare(struct ex_link *l, const struct ex_script *const *scripts, size_t n,
                                  struct mp_error *err) {
    (void)l;
    for (size_t i = 0; i < n; i++)
        for (size_t m = 0; m < scripts[i]->n_messages; m++)
            if (scripts[i]->messages[m].bytes >= INT_MAX)
                return mp_fail(err, MP_EUSAGE,
                               "MPI counts to 2^31 - 1: a message of %llu bytes is too long (take --transport socket)",
                               (unsigned long long)scripts[i]->messages[m].bytes);
    return MP_OK;
}

const struct ex_transport ex_mpi = {
    .name = "mpi",
    .summary = "isend and irecv of the same stages over MPI, one process per rank, started by mpirun",
    .needs = "mpirun",
    .limits = {.max_ranks = 4096},
    .has_one_rank_each = true,
    .open = mpi_open,
    .alloc = mpi_alloc,
    .prepare = mpi_prepare,
    .run = mpi_run,
    .barrier = mpi_barrier,
    .pulse = mpi_pulse,
    .gather = mpi_gather,
    .abort = mpi_abort,
    .close = mpi_close,
};
