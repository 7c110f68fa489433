/* Small shared tools: the version, random numbers, hashes, a parallel loop, integer parsing. */
#ifndef MOEPLAN_BASE_H
#define MOEPLAN_BASE_H

#include <moeplan/status.h>
#include <stdbool.h>

MP_API_BEGIN

/* The library's version, as "0.1.0": that of the library that runs, which may be newer than these headers. */
const char *mp_version(void);

/* Random numbers (xoshiro256**, seeded through splitmix64). Same seed, same numbers, on every machine. */
struct mp_rng {
    uint64_t s[4];
};
struct mp_rng mp_rng_seed(uint64_t seed);
uint64_t mp_rng_next(struct mp_rng *r);
uint64_t mp_rng_below(struct mp_rng *r, uint64_t n); /* uniform in [0, n), unbiased; n > 0 */
double mp_rng_unit(struct mp_rng *r);                /* uniform in [0, 1), 53 bits */
void mp_rng_shuffle(struct mp_rng *r, uint32_t *a, size_t n);

/* A fixed 64-bit mix of x (splitmix64's finaliser): the hash of tokens and requests in every rule that needs one. */
static inline uint64_t mp_mix64(uint64_t x) {
    x += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

/* SHA-256 (nettle), for provenance. hex receives 64 digits and a NUL. */
void mp_sha256_hex(const void *data, size_t n, char hex[65]);
/* XXH3-64, for checksums inside our binary format. */
uint64_t mp_xxh64(const void *data, size_t n);

/* Calls fn(ctx, i, worker) once for each i in [0, n), on n_threads threads (0 or 1 = on the caller's). fn must write
 * only what belongs to i or to worker (worker < n_threads), so that the result does not depend on the number of
 * threads. The first failure by lowest i is returned with its error. */
typedef enum mp_status (*mp_parallel_fn)(void *ctx, size_t i, unsigned worker, struct mp_error *err);
enum mp_status mp_parallel_for(unsigned n_threads, size_t n, mp_parallel_fn fn, void *ctx,
                               struct mp_error *err) MP_MUST_CHECK;

/* Whole numbers, strictly: decimal digits only, no sign for the unsigned one, no leading zero but "0" itself, no
 * blanks. False when the text is anything else or does not fit. */
bool mp_parse_u64(const char *s, size_t n, uint64_t *out);
bool mp_parse_i64(const char *s, size_t n, int64_t *out);
/* A finite decimal number ("3", "-0.25", "1e9"), locale-independent. */
bool mp_parse_double(const char *s, size_t n, double *out);
/* ceil(a / b), b > 0. */
static inline uint64_t mp_ceil_div(uint64_t a, uint64_t b) { return a / b + (a % b != 0); }
/* floor(a * b / c) and ceil(a * b / c) in 128 bits, saturating at UINT64_MAX; c > 0. */
uint64_t mp_mul_div(uint64_t a, uint64_t b, uint64_t c);
uint64_t mp_mul_div_ceil(uint64_t a, uint64_t b, uint64_t c);
/* Is s valid UTF-8 without NUL and control characters other than tab? */
bool mp_is_text(const char *s, size_t n);
/* For messages: the n bytes of s, cut at 40, unprintable bytes as \xNN, terminated; returns buf. */
const char *mp_quote(const char *s, size_t n, char *buf, size_t size);

MP_API_END

#endif
