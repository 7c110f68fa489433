/* Memory: one swappable table under every allocation, so that tests can fail call k for every k and --mem-limit can
 * be enforced; and arenas, one per loaded object, so that freeing an object is one call. */
#ifndef MOEPLAN_ALLOC_H
#define MOEPLAN_ALLOC_H

#include <moeplan/status.h>
#include <stdbool.h>

MP_API_BEGIN

/* What resize returns must be memory that free() could release: a table may count, refuse or record, not pool. */
struct mp_alloc_table {
    void *(*resize)(void *ctx, void *p, size_t size); /* p NULL = allocate; size > 0; NULL = out of memory */
    void (*release)(void *ctx, void *p);              /* p may be NULL */
    void *ctx;
};

/* Replaces the table (NULL = malloc family); returns the one in force before. Call with no allocation outstanding
 * from an incompatible table. Not thread-safe. */
struct mp_alloc_table mp_alloc_set(const struct mp_alloc_table *table);

/* Limits the sum of all live allocations, in bytes (0 = none). Past it, allocations fail as out of memory. */
void mp_alloc_limit(uint64_t bytes);
uint64_t mp_alloc_live(void); /* bytes live now */
uint64_t mp_alloc_peak(void); /* most bytes ever live */

/* n * size bytes, zeroed; NULL when out of memory or when n * size overflows. n * size = 0 gives a valid pointer. */
void *mp_calloc(size_t n, size_t size);
/* Grows or shrinks; new bytes are not zeroed; on failure p is untouched and NULL is returned. */
void *mp_realloc(void *p, size_t n, size_t size);
void mp_free(void *p);
char *mp_strdup(const char *s);

/* Memory that somebody else may release with free(), or had from malloc(): for libraries that know one allocator per
 * process and whose callers do not know about us (jansson). Through the table and counted, as near as can be: bytes
 * that went the other way are in mp_alloc_live for ever, or were never. */
void *mp_plain_alloc(size_t size);
void mp_plain_free(void *p);

struct mp_arena;
/* An empty arena; NULL when out of memory. */
struct mp_arena *mp_arena_new(void);
void mp_arena_free(struct mp_arena *a);  /* NULL is fine; frees everything allocated from it */
void mp_arena_reset(struct mp_arena *a); /* frees everything allocated from it, keeps the arena */
/* n * size zeroed bytes, aligned to 16; NULL when out of memory or on overflow. Lives as long as the arena. */
void *mp_arena_alloc(struct mp_arena *a, size_t n, size_t size);
char *mp_arena_strdup(struct mp_arena *a, const char *s);
char *mp_arena_strndup(struct mp_arena *a, const char *s, size_t n);
char *mp_arena_printf(struct mp_arena *a, const char *fmt, ...) MP_PRINTF(2, 3);

/* Checked arithmetic: true when the result does not fit (GCC and clang builtins). */
#define mp_mul_overflow(a, b, out) __builtin_mul_overflow(a, b, out)
#define mp_add_overflow(a, b, out) __builtin_add_overflow(a, b, out)

MP_API_END

#endif
