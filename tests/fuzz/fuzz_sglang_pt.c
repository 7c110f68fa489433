/* Any bytes as a .pt of SGLang's recorder; the first byte's low bit chooses the phase that is asked for. Checksums of
 * the archive are made right first, so that mutations of the numbers and of the pickle get past them. */
#include "fuzz_trace_reader.h"
#include "../support/pt_writer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint32_t le(const uint8_t *p, unsigned n) {
    uint32_t v = 0;
    for (unsigned i = 0; i < n; i++)
        v |= (uint32_t)p[i] << (8 * i);
    return v;
}

/* Every entry of the directory that points at a stored member inside the bytes gets that member's checksum. */
static void mend(uint8_t *p, size_t n) {
    for (size_t at = 0; at + 46 <= n; at++) {
        if (memcmp(p + at, "PK\1\2", 4) != 0)
            continue;
        size_t local = le(p + at + 42, 4), size = le(p + at + 20, 4);
        if (local + 30 > n)
            continue;
        size_t start = local + 30 + le(p + local + 26, 2) + le(p + local + 28, 2);
        if (start > n || size > n - start)
            continue;
        uint32_t crc = zip_crc(p + start, size);
        for (unsigned i = 0; i < 4; i++)
            p[at + 16 + i] = (uint8_t)(crc >> (8 * i));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct mp_trace_hints hints = mp_trace_hints_none;
    uint8_t *copy = malloc(size + 1);
    if (copy == NULL)
        return 0;
    if (size > 0)
        memcpy(copy, data, size);
    mend(copy, size);
    fuzz_reader("sglang_pt", copy, size, &hints);
    hints.phase = MP_PHASE_DECODE;
    fuzz_reader("sglang_pt", copy, size, &hints);
    free(copy);
    return 0;
}
