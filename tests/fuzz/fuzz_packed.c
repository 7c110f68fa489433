/* Bytes as a gzip or zstd file: refused with a sentence, or unpacked, within the limits; what was packed by us comes
 * back. */
#include "trace_target.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void unpack(const uint8_t *data, size_t size, const uint8_t *want, size_t n_want) {
    struct mp_limits limits = mp_limits_default;
    struct mp_error err = {0};
    struct mp_in *in;
    limits.inflate_free_bytes = 1 << 16;
    require(mp_in_from_memory(&in, "fuzz", data, size, &err) == MP_OK);
    enum mp_status status = mp_in_unpack(in, (uint64_t)4 << 20, &limits, &err);
    require(status == MP_OK || ((status == MP_EINPUT || status == MP_ELIMIT) && err.message[0] != '\0'));
    if (status == MP_OK) {
        require(in->data[in->size] == 0);
        require(in->size <= (size_t)4 << 20);
        require(mp_file_packing_of(in->data, in->size) == MP_FILE_PLAIN);
    }
    if (want != NULL && mp_file_packing_of(want, n_want) == MP_FILE_PLAIN)
        require(status == MP_OK && in->size == n_want && (n_want == 0 || memcmp(in->data, want, n_want) == 0));
    mp_in_close(in);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    unpack(data, size, NULL, 0);
    if (size > 0) { /* every 16th: packing takes longer than the rest */
        enum mp_file_packing kind = data[0] % 32 == 1 ? MP_FILE_GZIP : data[0] % 32 == 2 ? MP_FILE_ZSTD : MP_FILE_PLAIN;
        struct mp_error err = {0};
        struct mp_out *o;
        size_t n;
        if (kind != MP_FILE_PLAIN) {
            require(mp_out_open_memory(&o, &err) == MP_OK);
            mp_out_pack(o, kind);
            mp_out_write(o, data, size / 2);
            mp_out_write(o, data + size / 2, size - size / 2);
            mp_out_pack_end(o);
            const uint8_t *bytes = mp_out_memory_bytes(o, &n);
            unpack(bytes, n, data, size);
            mp_out_cancel(o);
        }
    }
    require(mp_alloc_live() == 0);
    return 0;
}
