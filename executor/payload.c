#include "payload.h"
#include <moeplan/alloc.h>
#include <string.h>

static inline uint64_t load(const uint8_t *at, uint64_t bytes) {
    uint64_t word = 0;
    memcpy(&word, at, bytes < 8 ? bytes : 8);
    return word;
}
static inline void store(uint8_t *at, uint64_t word, uint64_t bytes) { memcpy(at, &word, bytes < 8 ? bytes : 8); }

enum { PIECE_BYTES = 1 << 20 }; /* of a long activation, between two beats */

void ex_pulse_beat(struct ex_pulse *p) {
    if (p != NULL && p->beat != NULL && p->status == MP_OK)
        p->status = p->beat(p->link, &p->why);
}

/* Where the piece of work from byte `at` on ends; `at` when there is to be no more work. */
static uint64_t piece(const struct ex_payload *p, uint64_t at, uint64_t n) {
    if (at < n)
        ex_pulse_beat(p->pulse);
    if (at >= n || (p->pulse != NULL && p->pulse->status != MP_OK))
        return at;
    return n - at < PIECE_BYTES ? n : at + PIECE_BYTES;
}

static uint64_t stream(const struct ex_payload *p, uint64_t row) {
    return mp_mix64(row ^ mp_mix64((uint64_t)p->layer << 32 | p->step) ^ mp_mix64(p->seed ^ mp_mix64(p->iteration)));
}

void ex_payload_fill(const struct ex_payload *p, uint64_t row, uint8_t *to) {
    const uint64_t s = stream(p, row);
    for (uint64_t at = 0, end; (end = piece(p, at, p->dispatch_bytes)) > at;)
        for (; at < end; at += 8)
            store(to + at, at == 0 ? row : mp_mix64(s + at), p->dispatch_bytes - at);
}

uint64_t ex_payload_check(const struct ex_payload *p, uint64_t row, const uint8_t *from) {
    const uint64_t s = stream(p, row);
    for (uint64_t at = 0, end; (end = piece(p, at, p->dispatch_bytes)) > at;)
        for (; at < end; at += 8) {
            const uint64_t left = p->dispatch_bytes - at, word = at == 0 ? row : mp_mix64(s + at);
            const uint64_t cut = left < 8 ? word & ((UINT64_C(1) << 8 * left) - 1) : word, got = load(from + at, left);
            if (got != cut)
                return at + (uint64_t)__builtin_ctzll(got ^ cut) / 8;
        }
    return p->dispatch_bytes;
}

uint8_t ex_payload_byte(const struct ex_payload *p, uint64_t row, uint64_t at) {
    const uint64_t word = at < 8 ? row : mp_mix64(stream(p, row) + at / 8 * 8);
    return (uint8_t)(word >> at % 8 * 8);
}

uint64_t ex_payload_key(const struct ex_payload *p, const uint8_t *from) {
    uint64_t key = 0;
    for (uint64_t at = 0, end; (end = piece(p, at, p->dispatch_bytes)) > at; at = end)
        key = at == 0 ? mp_xxh64(from, end) : mp_mix64(key) ^ mp_xxh64(from + at, end - at);
    return key;
}

void ex_payload_blank(const struct ex_payload *p, uint8_t *to, uint8_t value, uint64_t n) {
    for (uint64_t at = 0, end; (end = piece(p, at, n)) > at; at = end)
        memset(to + at, value, end - at);
}

void *ex_payload_room(struct ex_pulse *pulse, uint64_t n) {
    uint8_t *room = mp_realloc(NULL, n, 1);
    if (room != NULL)
        ex_payload_blank(&(struct ex_payload){.pulse = pulse}, room, 0, n);
    return room;
}

uint64_t ex_payload_differs(const struct ex_payload *p, const uint8_t *a, const uint8_t *b, uint64_t n) {
    for (uint64_t at = 0, end; (end = piece(p, at, n)) > at; at = end)
        if (memcmp(a + at, b + at, end - at) != 0) {
            while (a[at] == b[at])
                at++;
            return at;
        }
    return n;
}

void ex_payload_answer(const struct ex_payload *p, uint64_t key, uint32_t expert, uint32_t weight, uint8_t *sum) {
    const uint64_t s = mp_mix64(key ^ mp_mix64(expert));
    for (uint64_t at = 0, end; (end = piece(p, at, p->combine_bytes)) > at;)
        for (; at < end; at += 8) {
            const uint64_t left = p->combine_bytes - at;
            store(sum + at, load(sum + at, left) + weight * mp_mix64(s + at), left);
        }
}

void ex_payload_residual(const struct ex_payload *p, uint64_t row, uint8_t *sum) {
    const uint64_t s = mp_mix64(~stream(p, row));
    for (uint64_t at = 0, end; (end = piece(p, at, p->combine_bytes)) > at;)
        for (; at < end; at += 8) {
            const uint64_t left = p->combine_bytes - at;
            store(sum + at, load(sum + at, left) + (at == 0 ? row : mp_mix64(s + at)), left);
        }
}

void ex_payload_add(const struct ex_payload *p, const uint8_t *from, uint64_t weight, uint8_t *sum) {
    for (uint64_t at = 0, end; (end = piece(p, at, p->combine_bytes)) > at;)
        for (; at < end; at += 8) {
            const uint64_t left = p->combine_bytes - at;
            store(sum + at, load(sum + at, left) + weight * load(from + at, left), left);
        }
}
