/* Bytes as a topology of one other program; hosts and GPU by the size. What a reader accepts, the YAML reader accepts
 * too, satisfies the checker and comes back the same from its own text; writers write or refuse it, and what they write
 * is read again. */
#ifndef FUZZ_TOPOLOGY_TEXT_H
#define FUZZ_TOPOLOGY_TEXT_H

#include "../../src/topo/topo_reader.h"
#include <moeplan/topology.h>
#include <stdlib.h>
#include <string.h>

extern const struct topo_reader topo_reader_rank_cost, topo_reader_astra_sim;
extern const struct topo_writer topo_writer_rank_cost, topo_writer_astra_sim;

static inline void need(bool what) {
    if (!what)
        abort();
}

/* The topology that the reader makes of the bytes; NULL = refused, properly. */
static inline struct mp_topology *fuzz_read(const struct topo_reader *reader, const char *text, size_t size,
                                            const char *path, uint32_t n_hosts, const char *gpu) {
    const struct topo_source source = {
        .path = path, .text = text, .size = size, .n_hosts = n_hosts, .gpu = gpu, .name = "fuzz"};
    struct mp_error err = {0};
    struct mp_out *yaml = NULL;
    struct mp_in *in = NULL;
    struct mp_topology *t = NULL;
    size_t n;
    need(mp_out_open_memory(&yaml, &err) == MP_OK);
    const enum mp_status status = reader->read(&source, yaml, &err);
    if (status == MP_OK) {
        const uint8_t *bytes = mp_out_memory_bytes(yaml, &n);
        need(mp_in_from_memory(&in, "yaml", bytes, n, &err) == MP_OK);
        need(mp_topology_parse(&t, in, NULL, &err) == MP_OK);
        need(mp_topology_check(t, &err) == MP_OK);
        mp_in_close(in);
    } else {
        need((status == MP_EINPUT || status == MP_ELIMIT) && err.message[0] != '\0' && strcmp(err.path, path) == 0);
    }
    mp_out_cancel(yaml);
    return t;
}

static inline void fuzz_write(const struct mp_topology *t, const struct topo_writer *writer,
                              const struct topo_reader *reader) {
    struct mp_error err = {0};
    struct mp_out *first = NULL, *second = NULL;
    char lost[500] = "";
    size_t n, n_again;
    need(mp_out_open_memory(&first, &err) == MP_OK && mp_out_open_memory(&second, &err) == MP_OK);
    const enum mp_status status = writer->write(t, first, lost, sizeof lost, &err);
    need(status == MP_OK || (status == MP_EINPUT && err.message[0] != '\0'));
    const uint8_t *bytes = mp_out_memory_bytes(first, &n);
    if (status == MP_OK && n < 200000) {
        struct mp_topology *back = fuzz_read(reader, (const char *)bytes, n, "written", 1, "h100");
        /* Asymmetric ports make costs that are refused; a network of ASTRA-sim comes back in any case. */
        need(back != NULL || writer == &topo_writer_rank_cost);
        if (back != NULL && writer == &topo_writer_astra_sim) {
            need(writer->write(back, second, lost, sizeof lost, &err) == MP_OK);
            const uint8_t *again = mp_out_memory_bytes(second, &n_again);
            need(n == n_again && memcmp(bytes, again, n) == 0);
        }
        mp_topology_free(back);
    }
    mp_out_cancel(first);
    mp_out_cancel(second);
}

static inline void fuzz_topology_text(const uint8_t *data, size_t size, const struct topo_reader *reader,
                                      const char *path, const char *gpu) {
    static const char *const gpus[] = {NULL, "h100", "a100", "v100", "l40s", "mi300x"};
    /* Readers are asked only about what they found to be theirs, but a file may change: all bytes are read. */
    (void)reader->detect((const char *)data, size);
    struct mp_topology *t =
        fuzz_read(reader, (const char *)data, size, path, gpu != NULL ? 1 : 1 + (uint32_t)(size / 6 % 3),
                  gpu != NULL ? gpu : gpus[size % 6]);
    if (t != NULL && t->n_gpus <= 64 && size % 3 == 0) {
        fuzz_write(t, &topo_writer_rank_cost, &topo_reader_rank_cost);
        fuzz_write(t, &topo_writer_astra_sim, &topo_reader_astra_sim);
    }
    mp_topology_free(t);
    need(mp_alloc_live() == 0);
}

#endif
