/* Bytes as path tables: as they are, and with size and checksums made right, so that the checks behind them are
 * reached. What is accepted is written again and comes back equal. */
#include <moeplan/predict.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool what) {
    if (!what)
        abort();
}

static struct mp_path_tables *read_tables(const uint8_t *data, size_t size) {
    struct mp_error err = {0};
    struct mp_in *in;
    struct mp_path_tables *t;
    require(mp_in_from_memory(&in, "fuzz", data, size, &err) == MP_OK);
    enum mp_status status = mp_path_read(&t, in, &err);
    mp_in_close(in);
    require((status == MP_OK) == (t != NULL));
    require(status == MP_OK || err.message[0] != '\0');
    return t;
}

static void check(const uint8_t *data, size_t size) {
    struct mp_error err = {0};
    struct mp_out *o;
    size_t size_again;
    struct mp_path_tables *t = read_tables(data, size);
    if (t == NULL)
        return;
    require(mp_out_open_memory(&o, &err) == MP_OK);
    require(mp_path_write(t, MP_PATH_PLACES_MAX, o, &err) == MP_OK);
    const uint8_t *bytes = mp_out_memory_bytes(o, &size_again);
    struct mp_path_tables *again = read_tables(bytes, size_again);
    require(again != NULL && again->n_layers == t->n_layers && again->length == t->length);
    require(memcmp(again->popularity, t->popularity, sizeof *t->popularity * t->n_layers * t->n_experts) == 0);
    require(memcmp(again->hint, t->hint, sizeof *t->hint * t->n_layers * t->length * t->n_experts * t->n_experts) == 0);
    mp_path_free(again);
    mp_path_free(t);
    mp_out_cancel(o);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    (void)mp_alloc_limit((uint64_t)64 << 20);
    check(data, size);
    if (size < 128)
        return 0;
    uint32_t n_layers;
    uint64_t file_bytes = size;
    uint8_t *copy = malloc(size);
    require(copy != NULL);
    memcpy(copy, data, size);
    memcpy(copy + 16, &file_bytes, 8);
    memcpy(&n_layers, copy + 24, 4);
    if (n_layers <= (size - 128) / 4) {
        const size_t header = 128 + 4 * (size_t)n_layers;
        uint32_t crc = (uint32_t)crc32(0, copy + header, (unsigned)(size - header));
        memcpy(copy + 120, &crc, 4);
        memset(copy + 124, 0, 4);
        crc = (uint32_t)crc32(0, copy, (unsigned)header);
        memcpy(copy + 124, &crc, 4);
    }
    check(copy, size);
    free(copy);
    return 0;
}
