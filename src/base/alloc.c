#include <moeplan/alloc.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Each block carries its size in front, so that the live total is exact under any table. */
struct block_header {
    _Alignas(16) size_t size;
};

static void *system_resize(void *ctx, void *p, size_t size) {
    (void)ctx;
    return realloc(p, size);
}
static void system_release(void *ctx, void *p) {
    (void)ctx;
    free(p);
}
static const struct mp_alloc_table system_table = {system_resize, system_release, NULL};
static struct mp_alloc_table table = {system_resize, system_release, NULL};
static _Atomic uint64_t live_bytes, peak_bytes, limit_bytes;

struct mp_alloc_table mp_alloc_set(const struct mp_alloc_table *t) {
    struct mp_alloc_table old = table;
    table = t != NULL ? *t : system_table;
    return old;
}
void mp_alloc_limit(uint64_t bytes) { atomic_store(&limit_bytes, bytes); }
uint64_t mp_alloc_live(void) { return atomic_load(&live_bytes); }
uint64_t mp_alloc_peak(void) { return atomic_load(&peak_bytes); }

/* Books `more` bytes; false when that would pass the limit. */
static bool book(size_t more) {
    uint64_t now = atomic_fetch_add(&live_bytes, more) + more;
    uint64_t limit = atomic_load(&limit_bytes);
    if (limit != 0 && now > limit) {
        atomic_fetch_sub(&live_bytes, more);
        return false;
    }
    uint64_t peak = atomic_load(&peak_bytes);
    while (now > peak && !atomic_compare_exchange_weak(&peak_bytes, &peak, now))
        ;
    return true;
}

static bool total_size(size_t n, size_t size, size_t *out) {
    size_t payload;
    return !mp_mul_overflow(n, size, &payload) && !mp_add_overflow(payload, sizeof(struct block_header), out);
}

void *mp_realloc(void *p, size_t n, size_t size) {
    size_t total;
    if (!total_size(n, size, &total))
        return NULL;
    struct block_header *old = p != NULL ? (struct block_header *)p - 1 : NULL;
    size_t old_total = old != NULL ? old->size : 0;
    if (total > old_total && !book(total - old_total))
        return NULL;
    struct block_header *h = table.resize(table.ctx, old, total);
    if (h == NULL) {
        if (total > old_total)
            atomic_fetch_sub(&live_bytes, total - old_total);
        return NULL;
    }
    if (total < old_total)
        atomic_fetch_sub(&live_bytes, old_total - total);
    h->size = total;
    return h + 1;
}

void *mp_calloc(size_t n, size_t size) {
    void *p = mp_realloc(NULL, n, size);
    if (p != NULL)
        memset(p, 0, n * size);
    return p;
}

void mp_free(void *p) {
    if (p == NULL)
        return;
    struct block_header *h = (struct block_header *)p - 1;
    atomic_fetch_sub(&live_bytes, h->size);
    table.release(table.ctx, h);
}

/* No header, so that free() may have it: what it takes is asked of malloc. */
void *mp_plain_alloc(size_t size) {
    if (!book(size))
        return NULL;
    void *p = table.resize(table.ctx, NULL, size > 0 ? size : 1);
    size_t taken = p != NULL ? malloc_usable_size(p) : 0;
    if (taken >= size)
        atomic_fetch_add(&live_bytes, taken - size);
    else
        atomic_fetch_sub(&live_bytes, size - taken);
    return p;
}

void mp_plain_free(void *p) {
    if (p == NULL)
        return;
    size_t taken = malloc_usable_size(p);
    uint64_t live = atomic_load(&live_bytes);
    while (!atomic_compare_exchange_weak(&live_bytes, &live, live > taken ? live - taken : 0))
        ;
    table.release(table.ctx, p);
}

char *mp_strdup(const char *s) {
    size_t n = strlen(s) + 1;
    char *copy = mp_realloc(NULL, n, 1);
    if (copy != NULL)
        memcpy(copy, s, n);
    return copy;
}

struct arena_chunk {
    struct arena_chunk *next;
    size_t used, size;
    _Alignas(16) unsigned char bytes[];
};
struct mp_arena {
    struct arena_chunk *first;
    size_t next_size;
};
enum { ARENA_FIRST = 4096, ARENA_LARGEST = 1 << 20 };

struct mp_arena *mp_arena_new(void) {
    struct mp_arena *a = mp_calloc(1, sizeof *a);
    if (a != NULL)
        a->next_size = ARENA_FIRST;
    return a;
}

void mp_arena_reset(struct mp_arena *a) {
    while (a->first != NULL) {
        struct arena_chunk *next = a->first->next;
        mp_free(a->first);
        a->first = next;
    }
    a->next_size = ARENA_FIRST;
}

void mp_arena_free(struct mp_arena *a) {
    if (a == NULL)
        return;
    mp_arena_reset(a);
    mp_free(a);
}

void *mp_arena_alloc(struct mp_arena *a, size_t n, size_t size) {
    size_t bytes, total;
    if (mp_mul_overflow(n, size, &bytes) || mp_add_overflow(bytes, (size_t)15, &bytes))
        return NULL;
    bytes &= ~(size_t)15;
    struct arena_chunk *c = a->first;
    if (c == NULL || c->size - c->used < bytes) {
        size_t want = bytes > a->next_size / 4 ? bytes : a->next_size;
        if (mp_add_overflow(want, sizeof *c, &total))
            return NULL;
        c = mp_realloc(NULL, 1, total);
        if (c == NULL)
            return NULL;
        c->used = 0;
        c->size = want;
        if (want != bytes && a->next_size < ARENA_LARGEST)
            a->next_size *= 2;
        /* A chunk made for one large object goes behind the current one, which may still have room. */
        if (want == bytes && a->first != NULL) {
            c->next = a->first->next;
            a->first->next = c;
        } else {
            c->next = a->first;
            a->first = c;
        }
    }
    void *p = c->bytes + c->used;
    c->used += bytes;
    memset(p, 0, bytes);
    return p;
}

char *mp_arena_strndup(struct mp_arena *a, const char *s, size_t n) {
    char *copy = mp_arena_alloc(a, n + 1, 1);
    if (copy != NULL)
        memcpy(copy, s, n);
    return copy;
}
char *mp_arena_strdup(struct mp_arena *a, const char *s) { return mp_arena_strndup(a, s, strlen(s)); }

char *mp_arena_printf(struct mp_arena *a, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0)
        return NULL;
    char *s = mp_arena_alloc(a, (size_t)n + 1, 1);
    if (s == NULL)
        return NULL;
    va_start(ap, fmt);
    vsnprintf(s, (size_t)n + 1, fmt, ap);
    va_end(ap);
    return s;
}
