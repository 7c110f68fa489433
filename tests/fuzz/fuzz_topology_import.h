/* Bytes as a topology of another program; hosts and GPU by the size. What is accepted satisfies the checker and comes
 * back the same, with the same hash, from its own text. */
#ifndef FUZZ_TOPOLOGY_IMPORT_H
#define FUZZ_TOPOLOGY_IMPORT_H

#include <moeplan/topology.h>
#include <stdlib.h>
#include <string.h>

static inline void need(bool what) {
    if (!what)
        abort();
}

static inline void fuzz_topology_import(const uint8_t *data, size_t size, const char *reader) {
    static const char *const gpus[] = {NULL, "h100", "a100", "v100", "l40s", "mi300x", NULL};
    const char *gpu = gpus[size % 7];
    struct mp_error err = {0};
    struct mp_topology *t = NULL, *back = NULL;
    struct mp_out *text = NULL;
    struct mp_in *in = NULL, *again = NULL;
    need(mp_in_from_memory(&in, "fuzz", data, size, &err) == MP_OK);
    const char *found = mp_topology_detect(in);
    if (found != NULL && strcmp(found, reader) == 0) {
        const enum mp_status status = mp_topology_import(&t, in, 1 + (uint32_t)(size / 7 % 3), gpu, NULL, &err);
        need(status == MP_OK || ((status == MP_EINPUT || status == MP_ELIMIT) && err.message[0] != '\0'));
        need((status == MP_OK) == (t != NULL));
    }
    if (t != NULL) {
        size_t n;
        struct mp_limits large = mp_limits_default;
        large.yaml_bytes *= 4;
        need(mp_topology_check(t, &err) == MP_OK);
        need(mp_out_open_memory(&text, &err) == MP_OK);
        mp_topology_write(t, text);
        const uint8_t *bytes = mp_out_memory_bytes(text, &n);
        need(mp_in_from_memory(&again, "again", bytes, n, &err) == MP_OK);
        need(mp_topology_parse(&back, again, &large, &err) == MP_OK);
        need(strcmp(back->sha256, t->sha256) == 0 && strcmp(back->source, t->source) == 0);
        mp_topology_free(back);
        mp_in_close(again);
        mp_out_cancel(text);
    }
    mp_topology_free(t);
    mp_in_close(in);
    need(mp_alloc_live() == 0);
}

#endif
