/* What an activation is made of, and what experts make of it. Everything is derived from the token's row, so that every
 * rank can check every byte without asking anybody. Words are 64 bits, little-endian; a last word may be cut. */
#ifndef EXECUTOR_PAYLOAD_H
#define EXECUTOR_PAYLOAD_H

#include <moeplan/base.h>

struct ex_link;
/* Who works on activations shows life (transport.h). Once it fails, nothing is worked on any more. */
struct ex_pulse {
    enum mp_status (*beat)(struct ex_link *link, struct mp_error *err); /* NULL: nobody waits meanwhile */
    struct ex_link *link;
    enum mp_status status;
    struct mp_error why;
};
void ex_pulse_beat(struct ex_pulse *p); /* NULL is fine */

struct ex_payload {
    struct ex_pulse *pulse; /* NULL, or of this rank: beats with every function below */
    uint64_t seed;
    uint32_t step, layer, iteration; /* so that nothing that is left of an earlier one passes */
    uint64_t dispatch_bytes, combine_bytes;
};
/* The activation of a token: its row, then words derived from row, layer, step, iteration and seed. */
void ex_payload_fill(const struct ex_payload *p, uint64_t row, uint8_t *to);
/* The first byte that differs from what ex_payload_fill writes; dispatch_bytes = none. */
uint64_t ex_payload_check(const struct ex_payload *p, uint64_t row, const uint8_t *at);
uint8_t ex_payload_byte(const struct ex_payload *p, uint64_t row, uint64_t at); /* byte `at` of it */
/* What experts see of an activation: a checksum of all its bytes. */
uint64_t ex_payload_key(const struct ex_payload *p, const uint8_t *at);
/* Adds an expert's answer to combine_bytes of sums: word w is weight * mix(key, expert, w), modulo 2^64. Sums are the
 * same in any order. */
void ex_payload_answer(const struct ex_payload *p, uint64_t key, uint32_t expert, uint32_t weight, uint8_t *sum);
/* Adds what a token had before the layer, and takes along where it moves: its row, then words of its own. */
void ex_payload_residual(const struct ex_payload *p, uint64_t row, uint8_t *sum);
/* Adds weight times what an expert or several of them answered. */
void ex_payload_add(const struct ex_payload *p, const uint8_t *from, uint64_t weight, uint8_t *sum);

/* Zeroed memory, however much (mp_calloc would be silent all that while); NULL = none. */
void *ex_payload_room(struct ex_pulse *pulse, uint64_t n);
/* memset and the first byte that differs (n = none), for flows as long as they like. */
void ex_payload_blank(const struct ex_payload *p, uint8_t *to, uint8_t value, uint64_t n);
uint64_t ex_payload_differs(const struct ex_payload *p, const uint8_t *a, const uint8_t *b, uint64_t n);

#endif
