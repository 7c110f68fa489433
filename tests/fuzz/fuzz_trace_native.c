/* Bytes as a native recording: as they are, and with the header's checksum made right, so that the checks behind it are
 * reached. */
#include "trace_target.h"
#include <zlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    check_reader("native", data, size, &mp_trace_hints_none);
    if (size < 128)
        return 0;
    uint8_t *copy = malloc(size);
    uint64_t header, file_bytes = size;
    require(copy != NULL);
    memcpy(copy, data, size);
    memcpy(copy + 16, &file_bytes, 8);
    memcpy(&header, copy + 24, 8);
    if (header <= size) {
        memset(copy + 124, 0, 4);
        uint32_t crc = (uint32_t)crc32(0, copy, (unsigned)header);
        memcpy(copy + 124, &crc, 4);
    }
    check_reader("native", copy, size, &mp_trace_hints_none);
    free(copy);
    return 0;
}
