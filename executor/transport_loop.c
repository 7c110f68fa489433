/* The reference transport: one thread per rank, messages are copies in memory. It keeps the rules of stages to the
 * letter (docs/COST.md part 5) and proves nothing about time: cores and memory are shared, caps are not kept.
 *
 * Every rank has a queue of sends and a queue of receives, whose groups are its messages of a stage. Where stages are
 * free the queues go on by themselves; coupled, a rank goes on when both have done the stage; with barriers all go on
 * together. A sender copies a message once the receiver's queue has come to it. One lock guards all queues; bytes are
 * copied without it. */
#include "transport.h"
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

enum { RANKS_MAX = 1024 }; /* threads of one process */

struct ex_link {
    struct ex_world world;
    uint8_t **blocks;
    uint64_t *block_bytes;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool is_broken;      /* somebody failed: everybody ends */
    struct mp_error why; /* who failed first */
    /* Sums beside scripts: a thread that attends, and carries out what it is told to. */
    ex_attend_fn *attend; /* NULL = no thread */
    void *attend_ctx;
    pthread_t beside;
    bool is_over;           /* the thread is to end */
    struct ex_ring **rings; /* [n_ranks] begun, and not yet carried out */
    uint32_t n_rings;
    const struct ex_sum *struck; /* of the rank that a fault strikes, or NULL */
    uint32_t struck_rank;
};

struct rank {
    struct run *run;
    uint32_t number;
    size_t send, receive;                   /* first of the group that each queue has come to; the end = done */
    size_t send_end, receive_end;           /* behind that group */
    size_t copy;                            /* the next one */
    size_t n_sends, n_receives;             /* of the group that are still to be done */
    struct ex_end *faulty;                  /* what it sends instead, or NULL */
    bool is_waiting, has_ended, has_copied; /* has_copied: the copies before this stage are done (barriers) */
    uint64_t life_ns;                       /* the last sign of life: it looked what there is to do, or did some */
    pthread_t thread;
};
struct run {
    struct ex_link *link;
    const struct ex_script *s;
    struct ex_times *times;
    struct rank *ranks;
    uint8_t *is_done; /* [n_messages] */
    uint32_t n_come, n_ended;
    uint32_t stage, n_through; /* with barriers: where all are, and how many have done it */
    bool has_barriers, has_begun;
    uint64_t origin_ns, moved_ns; /* moved_ns: when anything moved last */
};

static uint64_t now_ns(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* ---- queues: all under the lock ---- */

static void come_to_sends(struct rank *r) {
    const struct ex_script *s = r->run->s;
    size_t end = s->send_first[r->number + 1], i = r->send;
    while (i < end && s->sends[i].stage == s->sends[r->send].stage)
        i++;
    r->send_end = i;
    r->n_sends = i - r->send;
}
static void come_to_receives(struct rank *r) {
    const struct ex_script *s = r->run->s;
    size_t end = s->receive_first[r->number + 1], i = r->receive;
    while (i < end && s->receives[i].stage == s->receives[r->receive].stage)
        i++;
    r->receive_end = i;
    r->n_receives = i - r->receive;
}
static uint32_t send_stage(const struct rank *r) {
    const struct ex_script *s = r->run->s;
    return r->send < s->send_first[r->number + 1] ? s->sends[r->send].stage : MP_NONE;
}
static uint32_t receive_stage(const struct rank *r) {
    const struct ex_script *s = r->run->s;
    return r->receive < s->receive_first[r->number + 1] ? s->receives[r->receive].stage : MP_NONE;
}
/* The stage that a rank as a whole is at; MP_NONE = done. */
static uint32_t rank_stage(const struct rank *r) {
    uint32_t a = send_stage(r), b = receive_stage(r);
    return a < b ? a : b;
}

/* May the rank's sends (receives) of its current group run? */
static bool is_open(const struct rank *r, uint32_t stage) {
    if (stage == MP_NONE || !r->run->has_begun)
        return false;
    if (r->run->has_barriers)
        return stage == r->run->stage;
    return r->run->s->mode == MP_STAGE_FREE || stage == rank_stage(r);
}

/* Queues whose group is done go on. */
static void go_on(struct rank *r) {
    if (r->n_sends == 0 && r->send < r->send_end) {
        r->send = r->send_end;
        come_to_sends(r);
    }
    if (r->n_receives == 0 && r->receive < r->receive_end) {
        r->receive = r->receive_end;
        come_to_receives(r);
    }
}

static enum mp_status break_link(struct ex_link *l, const struct mp_error *why) {
    if (!l->is_broken) {
        l->is_broken = true;
        l->why = *why;
    }
    (void)pthread_cond_broadcast(&l->changed);
    return why->status;
}
static enum mp_status fail(struct run *x, const struct mp_error *why) { return break_link(x->link, why); }

/* Who is to blame when rank `silent` shows no life: a rank that waits for a message with it says so. MP_NONE: nothing
 * moves, though all are alive; any message that is waited for. */
static void blame(struct run *x, uint32_t silent, struct mp_error *err) {
    const struct ex_script *s = x->s;
    const unsigned long long ms = x->link->world.deadline_ms;
    char name[96];
    for (uint32_t k = 0; k < s->n_ranks; k++) {
        const struct rank *a = &x->ranks[k];
        for (size_t i = a->receive; a->is_waiting && i < a->receive_end + (a->send_end - a->send); i++) {
            const bool is_receive = i < a->receive_end;
            const struct ex_end *e = is_receive ? &s->receives[i] : &s->sends[a->send + (i - a->receive_end)];
            if (x->is_done[e->message] || !is_open(a, e->stage) || (silent != MP_NONE && e->peer != silent))
                continue;
            (void)ex_fail_deadline(err, s, k, e->stage, e->peer, is_receive, e->bytes,
                                   silent != MP_NONE ? EX_SILENT : EX_IDLE, ms);
            return;
        }
    }
    (void)ex_script_name(s, name, sizeof name);
    if (silent != MP_NONE)
        (void)mp_fail(
            err, MP_EPEER,
            "%s, stage %u: all, with 0 bytes outstanding, waited %llu ms for rank %u, which showed no sign of "
            "life",
            name, x->has_barriers ? x->stage : rank_stage(&x->ranks[silent]), ms, silent);
    else
        (void)mp_fail(err, MP_EPEER, "%s: nothing moved for %llu ms (0 bytes were outstanding)", name, ms);
}

/* Waits for a change until `until_ns`. False when that has passed. */
static bool wait_until(struct ex_link *l, uint64_t until_ns) {
    struct timespec t = {(time_t)(until_ns / 1000000000), (long)(until_ns % 1000000000)};
    return pthread_cond_timedwait(&l->changed, &l->lock, &t) != ETIMEDOUT;
}

/* ---- one rank ---- */

static void copy_around(struct rank *r, uint32_t stage, bool is_before) {
    const struct ex_script *s = r->run->s;
    uint8_t *block = r->run->link->blocks[r->number];
    for (; r->copy < s->copy_first[r->number + 1] && s->copies[r->copy].stage == stage &&
           s->copies[r->copy].is_before == is_before;
         r->copy++)
        memcpy(block + s->copies[r->copy].to_at, block + s->copies[r->copy].from_at, s->copies[r->copy].bytes);
}

/* Under the lock, which it lets go while bytes are copied. */
static enum mp_status send_message(struct rank *r, size_t i) {
    struct run *x = r->run;
    const struct ex_script *s = x->s;
    const struct ex_end *e = r->faulty != NULL ? &r->faulty[i - s->send_first[r->number]] : &s->sends[i];
    const struct ex_message *m = &s->messages[e->message];
    struct ex_times *t = x->times;
    char name[96];
    if (e->bytes != m->bytes && e->bytes != 0) {
        struct mp_error why = {0};
        (void)mp_fail(&why, MP_EPEER, "%s, stage %u: rank %u sends %llu bytes to rank %u where %llu were agreed",
                      ex_script_name(s, name, sizeof name), e->stage, r->number, (unsigned long long)e->bytes, m->dst,
                      (unsigned long long)m->bytes);
        return fail(x, &why);
    }
    x->is_done[e->message] = 1; /* nobody else sends it */
    (void)pthread_mutex_unlock(&x->link->lock);
    uint64_t begin = now_ns() - x->origin_ns;
    uint8_t *to = x->link->blocks[m->dst] + m->dst_at;
    if (e->bytes > 0)
        memcpy(to, x->link->blocks[m->src] + e->at, e->bytes);
    if (x->link->world.fault.kind == EX_FAULT_CORRUPT &&
        ex_fault_strikes(&x->link->world.fault, s, e->stage, r->number) && i == r->send)
        to[m->bytes / 2] ^= 1;
    uint64_t end = now_ns() - x->origin_ns;
    (void)pthread_mutex_lock(&x->link->lock);
    t->message_begin_ns[e->message] = begin;
    t->message_end_ns[e->message] = end;
    const uint32_t ends[2] = {m->src, m->dst};
    for (int k = 0; k < 2; k++) {
        size_t cell = (size_t)ends[k] * s->n_stages + m->stage;
        t->begin_ns[cell] = t->end_ns[cell] == 0 || begin < t->begin_ns[cell] ? begin : t->begin_ns[cell];
        t->end_ns[cell] = end > t->end_ns[cell] ? end : t->end_ns[cell];
    }
    r->n_sends--;
    x->ranks[m->dst].n_receives--;
    r->life_ns = x->moved_ns = now_ns();
    go_on(r);
    go_on(&x->ranks[m->dst]);
    (void)pthread_cond_broadcast(&x->link->changed);
    return MP_OK;
}

/* Sends all that can go now. *did: something went. */
static enum mp_status send_some(struct rank *r, bool *did) {
    const struct ex_script *s = r->run->s;
    *did = false;
    if (!is_open(r, send_stage(r)) || (r->run->has_barriers && !r->has_copied))
        return MP_OK;
    for (size_t i = r->send, end = r->send_end; i < end; i++) {
        const struct rank *peer = &r->run->ranks[s->sends[i].peer];
        if (r->run->is_done[s->sends[i].message] || receive_stage(peer) != s->sends[i].stage ||
            !is_open(peer, s->sends[i].stage))
            continue;
        *did = true;
        enum mp_status status = send_message(r, i);
        if (status != MP_OK)
            return status;
    }
    return MP_OK;
}

/* With barriers: copies before the stage, and after it; the last to be through moves all on. */
static bool pass_barrier(struct rank *r, uint32_t *passed) {
    struct run *x = r->run;
    struct ex_link *l = x->link;
    if (!r->has_copied && x->stage < x->s->n_stages) {
        (void)pthread_mutex_unlock(&l->lock);
        copy_around(r, x->stage, true);
        (void)pthread_mutex_lock(&l->lock);
        r->has_copied = true;
        return true;
    }
    if (*passed > x->stage || x->stage >= x->s->n_stages || send_stage(r) <= x->stage || receive_stage(r) <= x->stage)
        return false;
    *passed = x->stage + 1;
    (void)pthread_mutex_unlock(&l->lock);
    copy_around(r, *passed - 1, false);
    (void)pthread_mutex_lock(&l->lock);
    x->moved_ns = now_ns();
    if (++x->n_through == x->s->n_ranks) {
        x->n_through = 0;
        x->stage++;
        for (uint32_t k = 0; k < x->s->n_ranks; k++)
            x->ranks[k].has_copied = false;
        (void)pthread_cond_broadcast(&l->changed);
    }
    return true;
}

/* What a faulty rank does when it comes to the stage. False: it never goes on. */
static bool misbehave(struct rank *r, bool *has_misbehaved) {
    struct run *x = r->run;
    const struct ex_fault *f = &x->link->world.fault;
    const uint64_t deadline_ns = x->link->world.deadline_ms * 1000000;
    if (*has_misbehaved || f->kind == EX_FAULT_DROP || !ex_fault_strikes(f, x->s, f->stage, r->number) ||
        (x->has_barriers ? x->stage : rank_stage(r)) < f->stage)
        return true;
    *has_misbehaved = true;
    if (f->kind == EX_FAULT_SLOW) {
        uint64_t until = now_ns() + 2 * deadline_ns;
        while (!x->link->is_broken && wait_until(x->link, until))
            ;
        return true;
    }
    if (f->kind != EX_FAULT_STOP && f->kind != EX_FAULT_KILL)
        return true;
    while (!x->link->is_broken) /* a thread cannot be killed; a dead one and this one do the same: nothing */
        (void)wait_until(x->link, now_ns() + deadline_ns);
    return false;
}

static void *rank_main(void *ctx) {
    struct rank *r = ctx;
    struct run *x = r->run;
    struct ex_link *l = x->link;
    uint32_t passed = 0;
    bool did, has_misbehaved = false;
    (void)pthread_mutex_lock(&l->lock);
    if (++x->n_come == x->s->n_ranks) {
        x->has_begun = true;
        x->origin_ns = x->moved_ns = now_ns();
        (void)pthread_cond_broadcast(&l->changed);
    }
    while (!l->is_broken) {
        r->life_ns = now_ns();
        if (x->has_begun && !misbehave(r, &has_misbehaved))
            break;
        if (x->has_begun && x->has_barriers && pass_barrier(r, &passed))
            continue;
        if (rank_stage(r) == MP_NONE && x->has_begun && (!x->has_barriers || x->stage == x->s->n_stages)) {
            x->times->total_ns[r->number] = now_ns() - x->origin_ns;
            r->has_ended = true;
            x->n_ended++;
            (void)pthread_cond_broadcast(&l->changed);
            break;
        }
        if (send_some(r, &did) != MP_OK)
            break;
        if (did)
            continue;
        r->is_waiting = true; /* as long as it takes: watch() minds the deadline */
        (void)pthread_cond_wait(&l->changed, &l->lock);
        r->is_waiting = false;
    }
    (void)pthread_mutex_unlock(&l->lock);
    return NULL;
}

/* Until all have ended, or somebody has failed: a rank that neither waits nor shows life for the deadline, or nothing
 * that moves for as long, though all wait. A rank that waits does so for as long as anything moves. */
static void watch(struct run *x) {
    struct ex_link *l = x->link;
    const uint64_t deadline_ns = l->world.deadline_ms * 1000000;
    struct mp_error why = {0};
    uint64_t next = 0;
    (void)pthread_mutex_lock(&l->lock);
    while (!l->is_broken && x->n_ended < x->s->n_ranks) {
        const uint64_t now = now_ns();
        uint32_t silent = MP_NONE;
        if (now < next) {
            (void)wait_until(l, next);
            continue;
        }
        next = UINT64_MAX;
        for (uint32_t k = 0; k < x->s->n_ranks; k++) {
            const struct rank *r = &x->ranks[k];
            const uint64_t until = r->life_ns + deadline_ns;
            if (r->is_waiting || r->has_ended)
                continue;
            silent = now >= until && (silent == MP_NONE || r->life_ns < x->ranks[silent].life_ns) ? k : silent;
            next = until < next ? until : next;
        }
        if (next == UINT64_MAX) /* all wait; while one does not, that one is what matters */
            next = x->moved_ns + deadline_ns;
        if (now < next)
            continue;
        blame(x, silent, &why);
        (void)fail(x, &why);
    }
    (void)pthread_mutex_unlock(&l->lock);
}

/* ---- sums beside scripts ---- */

enum { NAP_NS = 200000 };

/* What a fault does to a sum. A rank that says nothing, for whatever reason, ends the others after the deadline. */
static enum mp_status misbehave_in_sum(struct ex_link *l, struct mp_error *err) {
    const struct ex_sum *sum = l->struck;
    struct ex_ring *ring = l->rings[l->struck_rank];
    char name[112];
    if (sum == NULL || ring->n_sends == 0)
        return MP_OK;
    if (l->world.fault.kind == EX_FAULT_CORRUPT)
        l->blocks[l->struck_rank][ring->sends[0].at] ^= 1;
    if (l->world.fault.kind == EX_FAULT_LIE)
        ring->sends[0].bytes -= 8;
    if (l->world.fault.kind != EX_FAULT_STOP && l->world.fault.kind != EX_FAULT_KILL &&
        l->world.fault.kind != EX_FAULT_SLOW)
        return MP_OK;
    const uint64_t until = now_ns() + l->world.deadline_ms * 1000000;
    (void)pthread_mutex_lock(&l->lock);
    while (!l->is_broken && wait_until(l, until))
        ;
    (void)pthread_mutex_unlock(&l->lock);
    return mp_fail(err, MP_EPEER, "%s: all waited %llu ms for rank %u, which showed no sign of life",
                   ex_sum_name(sum, name, sizeof name), (unsigned long long)l->world.deadline_ms, l->struck_rank);
}

static void drop_rings(struct ex_link *l) {
    for (uint32_t r = 0; r < l->world.n_ranks; r++) {
        ex_ring_free(l->rings[r]);
        l->rings[r] = NULL;
    }
    l->n_rings = 0;
    l->struck = NULL;
}

static void *beside_main(void *ctx) {
    struct ex_link *l = ctx;
    struct mp_error why = {0};
    enum mp_status status = MP_OK;
    bool is_over = false;
    while (status == MP_OK && !is_over) {
        uint64_t next = UINT64_MAX;
        status = l->attend(l->attend_ctx, now_ns(), &next, &why);
        if (status == MP_OK && l->n_rings == l->world.n_ranks) {
            status = misbehave_in_sum(l, &why);
            if (status == MP_OK)
                status = ex_rings_carry_out(l->rings, l->blocks, l->world.n_ranks, &why);
            drop_rings(l);
            next = 0;
        }
        const uint64_t now = now_ns(), nap = now + NAP_NS;
        (void)pthread_mutex_lock(&l->lock);
        if (status != MP_OK)
            (void)break_link(l, &why);
        (void)pthread_cond_broadcast(&l->changed); /* who idles looks again */
        next = next < nap ? next : nap;
        while (!l->is_over && !l->is_broken && next > now && wait_until(l, next))
            ;
        is_over = l->is_over || l->is_broken;
        (void)pthread_mutex_unlock(&l->lock);
    }
    return NULL;
}

static enum mp_status loop_attend(struct ex_link *l, ex_attend_fn *fn, void *ctx, struct mp_error *err) {
    if (l->attend != NULL) {
        (void)pthread_mutex_lock(&l->lock);
        l->is_over = true;
        (void)pthread_cond_broadcast(&l->changed);
        (void)pthread_mutex_unlock(&l->lock);
        (void)pthread_join(l->beside, NULL);
        drop_rings(l);
        l->attend = NULL;
    }
    if (fn == NULL)
        return MP_OK;
    l->is_over = false;
    l->attend = fn;
    l->attend_ctx = ctx;
    const int error = pthread_create(&l->beside, NULL, beside_main, l);
    if (error == 0)
        return MP_OK;
    l->attend = NULL;
    return mp_fail(err, MP_ENOMEM, "cannot start a thread for sums: %s", strerror(error));
}

/* From within attend, so in the thread that carries it out. */
static enum mp_status loop_sum(struct ex_link *l, uint32_t rank, const struct ex_sum *sum, struct mp_error *err) {
    enum mp_status status = ex_ring_new(&l->rings[rank], sum, rank, l->world.topology, err);
    if (status != MP_OK)
        return status;
    l->n_rings++;
    if (sum->is_struck) {
        l->struck = sum;
        l->struck_rank = rank;
    }
    return MP_OK;
}

static enum mp_status loop_has_summed(struct ex_link *l, uint32_t rank, bool *has, struct mp_error *err) {
    (void)err;
    *has = l->rings[rank] == NULL;
    return MP_OK;
}

static enum mp_status loop_idle(struct ex_link *l, uint64_t until_ns, uint32_t waits_for, const char *doing,
                                struct mp_error *err) {
    const uint64_t nap = now_ns() + NAP_NS;
    (void)waits_for; /* who keeps the others waiting here is the thread beside, which says so itself */
    (void)doing;
    (void)pthread_mutex_lock(&l->lock);
    if (!l->is_broken)
        (void)wait_until(l, until_ns < nap ? until_ns : nap);
    enum mp_status status = l->is_broken ? l->why.status : MP_OK;
    if (status != MP_OK && err != NULL)
        *err = l->why;
    (void)pthread_mutex_unlock(&l->lock);
    return status;
}

static void loop_stir(struct ex_link *l) { (void)l; } /* the thread looks often enough */

static const struct ex_beside loop_beside = {
    .attend = loop_attend, .sum = loop_sum, .has_summed = loop_has_summed, .idle = loop_idle, .stir = loop_stir};

/* ---- the table's functions ---- */

static void loop_close(struct ex_link *l) {
    if (l == NULL)
        return;
    for (uint32_t r = 0; l->blocks != NULL && r < l->world.n_ranks; r++)
        mp_free(l->blocks[r]);
    mp_free(l->blocks);
    mp_free(l->block_bytes);
    mp_free(l->rings);
    (void)pthread_mutex_destroy(&l->lock);
    (void)pthread_cond_destroy(&l->changed);
    mp_free(l);
}

static enum mp_status loop_open(struct ex_link **out, const struct ex_world *world, struct mp_error *err) {
    *out = NULL;
    if (world->n_local != world->n_ranks || world->first_rank != 0 || world->rendezvous != NULL || world->hosts != NULL)
        return mp_fail(err, MP_EUSAGE,
                       "transport loop has all ranks in one process (leave out --rank, --nranks, --rendezvous and "
                       "--hosts, or take another transport)");
    if (world->n_ranks > RANKS_MAX)
        return mp_fail(err, MP_EUSAGE, "transport loop runs a thread per rank: %u ranks are more than %d",
                       world->n_ranks, RANKS_MAX);
    struct ex_link *l = mp_calloc(1, sizeof *l);
    if (l == NULL)
        return mp_nomem(err, "a transport");
    l->world = *world;
    pthread_condattr_t attributes;
    (void)pthread_condattr_init(&attributes);
    (void)pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    (void)pthread_mutex_init(&l->lock, NULL);
    (void)pthread_cond_init(&l->changed, &attributes);
    (void)pthread_condattr_destroy(&attributes);
    l->blocks = mp_calloc(world->n_ranks, sizeof *l->blocks);
    l->block_bytes = mp_calloc(world->n_ranks, sizeof *l->block_bytes);
    l->rings = mp_calloc(world->n_ranks, sizeof(struct ex_ring *));
    if (l->blocks == NULL || l->block_bytes == NULL || l->rings == NULL) {
        loop_close(l);
        return mp_nomem(err, "a transport");
    }
    *out = l;
    return MP_OK;
}

static enum mp_status loop_alloc(struct ex_link *l, uint32_t rank, uint64_t bytes, void **host_view,
                                 struct mp_error *err) {
    if (l->blocks[rank] == NULL || l->block_bytes[rank] < bytes) {
        mp_free(l->blocks[rank]);
        l->blocks[rank] = mp_calloc(bytes, 1);
        l->block_bytes[rank] = l->blocks[rank] != NULL ? bytes : 0;
    }
    *host_view = l->blocks[rank];
    return *host_view != NULL
               ? MP_OK
               : mp_nomem(err, "the memory of a rank (fewer --steps, a smaller --batch or smaller experts need less)");
}

static enum mp_status loop_run(struct ex_link *l, const struct ex_script *s, struct ex_times *times,
                               struct mp_error *err) {
    struct run x = {.link = l, .s = s, .times = times, .has_barriers = s->mode == MP_STAGE_BARRIER};
    enum mp_status status = MP_OK;
    uint32_t n_started = 0;
    x.ranks = mp_calloc(s->n_ranks, sizeof *x.ranks);
    x.is_done = mp_calloc(s->n_messages, 1);
    if (x.ranks == NULL || x.is_done == NULL) {
        status = mp_nomem(err, "running a script");
        goto out;
    }
    for (uint32_t r = 0; r < s->n_ranks; r++) {
        x.ranks[r] = (struct rank){
            .run = &x, .number = r, .send = s->send_first[r], .receive = s->receive_first[r], .copy = s->copy_first[r]};
        come_to_sends(&x.ranks[r]);
        come_to_receives(&x.ranks[r]);
        MP_TRY(ex_fault_sends(&x.ranks[r].faulty, &l->world.fault, s, r, err));
    }
    x.moved_ns = now_ns();
    for (uint32_t r = 0; r < s->n_ranks; r++)
        x.ranks[r].life_ns = x.moved_ns;
    for (; n_started < s->n_ranks; n_started++) {
        int error = pthread_create(&x.ranks[n_started].thread, NULL, rank_main, &x.ranks[n_started]);
        if (error != 0) {
            struct mp_error why = {0};
            (void)mp_fail(&why, MP_ENOMEM, "cannot start a thread for rank %u: %s", n_started, strerror(error));
            (void)pthread_mutex_lock(&l->lock);
            (void)fail(&x, &why);
            (void)pthread_mutex_unlock(&l->lock);
            break;
        }
    }
    watch(&x);
    for (uint32_t r = 0; r < n_started; r++)
        (void)pthread_join(x.ranks[r].thread, NULL);
    if (l->is_broken) {
        status = l->why.status;
        if (err != NULL && err->status == MP_OK)
            *err = l->why;
    }
out:
    for (uint32_t r = 0; x.ranks != NULL && r < s->n_ranks; r++)
        mp_free(x.ranks[r].faulty);
    mp_free(x.ranks);
    mp_free(x.is_done);
    return status;
}

/* All ranks are in this process: nobody to wait for, nobody to tell. */
static enum mp_status loop_barrier(struct ex_link *l, struct mp_error *err) {
    (void)l;
    (void)err;
    return MP_OK;
}
static enum mp_status loop_gather(struct ex_link *l, const void *mine, void *all, size_t n, struct mp_error *err) {
    (void)err;
    memcpy(all, mine, n * l->world.n_ranks);
    return MP_OK;
}
static void loop_abort(struct ex_link *l, const struct mp_error *why) {
    (void)pthread_mutex_lock(&l->lock);
    if (!l->is_broken) {
        l->is_broken = true;
        l->why = *why;
    }
    (void)pthread_cond_broadcast(&l->changed);
    (void)pthread_mutex_unlock(&l->lock);
}

const struct ex_transport ex_loop = {
    .name = "loop",
    .summary = "threads over memory, all ranks in one process: the reference; checks data and order, not time",
    .needs = "nothing",
    .limits = {.max_ranks = RANKS_MAX},
    .open = loop_open,
    .alloc = loop_alloc,
    .run = loop_run,
    .beside = &loop_beside,
    .barrier = loop_barrier,
    .gather = loop_gather,
    .abort = loop_abort,
    .close = loop_close,
};
