/* The only file that uses zlib's checksum. CRC-32 rather than a faster hash: every language has it at hand (Python's
 * zlib.crc32), and it finds every single bit flip and every burst up to 32 bits. */
#include "trace_box.h"
#include <zlib.h>

uint32_t trace_crc32(uint32_t crc, const void *data, size_t n) {
    return n == 0 ? crc : (uint32_t)crc32_z(crc, data, n);
}
