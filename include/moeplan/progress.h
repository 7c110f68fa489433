/* How far long work has come. Whoever works tells it (from any thread, at the price of an atomic addition), whoever
 * waits reads it whenever they like, from another thread. It changes no result. NULL is fine everywhere: nobody
 * listens.
 *
 *     struct mp_progress *progress = mp_progress_new();
 *     options.progress = progress;                        (struct mp_sim_options, mp_trace_hints, ...)
 *     ... in another thread, now and then:
 *     struct mp_progress_state now[MP_PROGRESS_DEPTH];
 *     uint32_t n = mp_progress_read(progress, now);       now[0]: "strategies" 2 of 7; now[1]: "layers" 31 of 58
 */
#ifndef MOEPLAN_PROGRESS_H
#define MOEPLAN_PROGRESS_H

#include <moeplan/base.h>
#include <stdint.h>

MP_API_BEGIN

struct mp_progress;
struct mp_progress *mp_progress_new(void); /* NULL: out of memory, and then nothing is told */
void mp_progress_free(struct mp_progress *p);

/* One part of the work: so many `what` of `total` (0 = not known). Parts lie inside each other. */
enum { MP_PROGRESS_DEPTH = 4 };
struct mp_progress_state {
    const char *what; /* static text in the plural: "layers"; "bytes" are told as such; what cannot be counted is said
                       * as it is: "verifying" 0 of 0 */
    uint64_t done, total;
    bool is_uneven;  /* its units are not alike: how long the first ones took says little of the others */
    uint64_t serial; /* differs between parts, so that a reader can tell when a new one has begun */
};
/* What is under way now, the outermost part first; returns how many there are. */
uint32_t mp_progress_read(struct mp_progress *p, struct mp_progress_state state[MP_PROGRESS_DEPTH]);

/* For those who work. A part begins inside those that are under way, by the one thread that does them. LEAF: it is done
 * by several threads, or in small steps, and nothing that begins inside it is told. NULL: it is not told. */
enum { MP_PROGRESS_LEAF = 1, MP_PROGRESS_UNEVEN = 2 };
struct mp_progress_part;
struct mp_progress_part *mp_progress_begin(struct mp_progress *p, const char *what, uint64_t total, unsigned flags);
void mp_progress_expect(struct mp_progress_part *part, uint64_t total); /* where it is known later */
void mp_progress_add(struct mp_progress_part *part, uint64_t n);        /* any thread */
void mp_progress_end(struct mp_progress_part *part);
/* mp_parallel_for as a part of its own, of n `what`. */
enum mp_status mp_parallel_for_told(struct mp_progress *p, const char *what, unsigned n_threads, size_t n,
                                    mp_parallel_fn fn, void *ctx, struct mp_error *err) MP_MUST_CHECK;

MP_API_END

#endif
