#include <moeplan/alloc.h>
#include <moeplan/progress.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>

struct mp_progress_part {
    struct mp_progress *of;
    const char *what;
    uint64_t serial;
    unsigned flags;
    _Atomic uint64_t done, total;
};
struct mp_progress {
    pthread_mutex_t lock; /* guards everything but the parts' `done` */
    uint32_t n;
    uint64_t n_begun;
    struct mp_progress_part part[MP_PROGRESS_DEPTH];
};

struct mp_progress *mp_progress_new(void) {
    struct mp_progress *p = mp_calloc(1, sizeof *p);
    if (p != NULL)
        (void)pthread_mutex_init(&p->lock, NULL);
    return p;
}

void mp_progress_free(struct mp_progress *p) {
    if (p == NULL)
        return;
    (void)pthread_mutex_destroy(&p->lock);
    mp_free(p);
}

uint32_t mp_progress_read(struct mp_progress *p, struct mp_progress_state state[MP_PROGRESS_DEPTH]) {
    if (p == NULL)
        return 0;
    (void)pthread_mutex_lock(&p->lock);
    const uint32_t n = p->n;
    for (uint32_t i = 0; i < n; i++) {
        struct mp_progress_part *part = &p->part[i];
        state[i] = (struct mp_progress_state){.what = part->what,
                                              .done = atomic_load_explicit(&part->done, memory_order_relaxed),
                                              .total = atomic_load_explicit(&part->total, memory_order_relaxed),
                                              .is_uneven = (part->flags & MP_PROGRESS_UNEVEN) != 0,
                                              .serial = part->serial};
    }
    (void)pthread_mutex_unlock(&p->lock);
    return n;
}

struct mp_progress_part *mp_progress_begin(struct mp_progress *p, const char *what, uint64_t total, unsigned flags) {
    struct mp_progress_part *part = NULL;
    if (p == NULL)
        return NULL;
    (void)pthread_mutex_lock(&p->lock);
    if (p->n < MP_PROGRESS_DEPTH && (p->n == 0 || (p->part[p->n - 1].flags & MP_PROGRESS_LEAF) == 0)) {
        part = &p->part[p->n++];
        part->of = p;
        part->what = what;
        part->serial = ++p->n_begun;
        part->flags = flags;
        atomic_store_explicit(&part->done, 0, memory_order_relaxed);
        atomic_store_explicit(&part->total, total, memory_order_relaxed);
    }
    (void)pthread_mutex_unlock(&p->lock);
    return part;
}

void mp_progress_expect(struct mp_progress_part *part, uint64_t total) {
    if (part != NULL)
        atomic_store_explicit(&part->total, total, memory_order_relaxed);
}

void mp_progress_add(struct mp_progress_part *part, uint64_t n) {
    if (part != NULL)
        (void)atomic_fetch_add_explicit(&part->done, n, memory_order_relaxed);
}

/* Parts end in the reverse order; one that ends before those inside it, on an error's way out, takes them along. */
void mp_progress_end(struct mp_progress_part *part) {
    if (part == NULL)
        return;
    struct mp_progress *p = part->of;
    (void)pthread_mutex_lock(&p->lock);
    if (part < p->part + p->n)
        p->n = (uint32_t)(part - p->part);
    (void)pthread_mutex_unlock(&p->lock);
}
