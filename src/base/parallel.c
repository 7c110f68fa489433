#include <moeplan/alloc.h>
#include <moeplan/base.h>
#include <moeplan/limits.h>
#include <moeplan/progress.h>
#include <pthread.h>
#include <stdatomic.h>

struct loop {
    mp_parallel_fn fn;
    void *ctx;
    size_t n;
    _Atomic size_t next;
    pthread_mutex_t lock; /* guards what follows */
    size_t failed_i;
    enum mp_status status;
    struct mp_error err;
};
struct worker {
    struct loop *loop;
    unsigned id;
    pthread_t thread;
};

static void *run(void *arg) {
    struct worker *w = arg;
    struct loop *l = w->loop;
    for (;;) {
        size_t i = atomic_fetch_add(&l->next, 1);
        if (i >= l->n)
            return NULL;
        struct mp_error err = {0};
        enum mp_status status = l->fn(l->ctx, i, w->id, &err);
        if (status == MP_OK)
            continue;
        /* Items are handed out in order, so every item below i runs too and the lowest failure is always found. */
        pthread_mutex_lock(&l->lock);
        if (l->status == MP_OK || i < l->failed_i) {
            l->status = status;
            l->failed_i = i;
            l->err = err;
        }
        pthread_mutex_unlock(&l->lock);
        atomic_store(&l->next, l->n);
    }
}

enum mp_status mp_parallel_for(unsigned n_threads, size_t n, mp_parallel_fn fn, void *ctx, struct mp_error *err) {
    if (n_threads > MP_MAX_THREADS)
        n_threads = MP_MAX_THREADS;
    if ((size_t)n_threads > n)
        n_threads = (unsigned)n;
    if (n_threads <= 1) {
        for (size_t i = 0; i < n; i++) {
            enum mp_status status = fn(ctx, i, 0, err);
            if (status != MP_OK)
                return status;
        }
        return MP_OK;
    }
    struct loop loop = {.fn = fn, .ctx = ctx, .n = n, .lock = PTHREAD_MUTEX_INITIALIZER};
    struct worker *workers = mp_calloc(n_threads, sizeof *workers);
    if (workers == NULL)
        return mp_nomem(err, "threads");
    unsigned started = 1; /* worker 0 is the caller; a thread that cannot start only costs speed */
    workers[0] = (struct worker){.loop = &loop, .id = 0};
    for (unsigned t = 1; t < n_threads; t++) {
        workers[t] = (struct worker){.loop = &loop, .id = t};
        if (pthread_create(&workers[t].thread, NULL, run, &workers[t]) != 0)
            break;
        started++;
    }
    run(&workers[0]);
    for (unsigned t = 1; t < started; t++)
        pthread_join(workers[t].thread, NULL);
    mp_free(workers);
    if (loop.status != MP_OK && err != NULL && err->status == MP_OK)
        *err = loop.err;
    return loop.status;
}

struct told {
    mp_parallel_fn fn;
    void *ctx;
    struct mp_progress_part *part;
};

static enum mp_status tell(void *ctx, size_t i, unsigned worker, struct mp_error *err) {
    const struct told *t = ctx;
    enum mp_status status = t->fn(t->ctx, i, worker, err);
    mp_progress_add(t->part, 1);
    return status;
}

enum mp_status mp_parallel_for_told(struct mp_progress *p, const char *what, unsigned n_threads, size_t n,
                                    mp_parallel_fn fn, void *ctx, struct mp_error *err) {
    struct told t = {fn, ctx, mp_progress_begin(p, what, n, MP_PROGRESS_LEAF)};
    if (t.part == NULL)
        return mp_parallel_for(n_threads, n, fn, ctx, err);
    enum mp_status status = mp_parallel_for(n_threads, n, tell, &t, err);
    mp_progress_end(t.part);
    return status;
}
