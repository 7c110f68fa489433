/* Private to planner/: the matching with the largest smallest entry, again and again on a matrix that only shrinks. */
#ifndef BOTTLENECK_H
#define BOTTLENECK_H

#include <moeplan/alloc.h>
#include <moeplan/limits.h>

struct mp_bottleneck;
/* Copies matrix[n][n]. */
enum mp_status mp_bottleneck_new(struct mp_bottleneck **out, uint32_t n, const uint64_t *matrix,
                                 struct mp_error *err) MP_MUST_CHECK;
void mp_bottleneck_free(struct mp_bottleneck *b);
/* The largest t for which a perfect matching of the entries >= t exists; 0 = none of entries above 0. */
uint64_t mp_bottleneck_next(struct mp_bottleneck *b);
/* Such a matching: column of each row. Borrowed, valid until the next call. */
const uint32_t *mp_bottleneck_to(const struct mp_bottleneck *b);
/* What is left of an entry, and less of it. */
uint64_t mp_bottleneck_left(const struct mp_bottleneck *b, uint32_t row, uint32_t column);
void mp_bottleneck_take(struct mp_bottleneck *b, uint32_t row, uint32_t column, uint64_t amount);

#endif
