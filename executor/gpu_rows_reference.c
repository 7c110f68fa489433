#include "gpu_rows.h"
#include <string.h>

void gpu_rows_gather_reference(void *to, const void *from, const uint32_t *index, uint32_t n_rows, uint64_t row_bytes) {
    for (uint32_t k = 0; k < n_rows; k++)
        memcpy((uint8_t *)to + k * row_bytes, (const uint8_t *)from + index[k] * row_bytes, row_bytes);
}

void gpu_rows_scatter_reference(void *to, const void *from, const uint32_t *index, uint32_t n_rows,
                                uint64_t row_bytes) {
    for (uint32_t k = 0; k < n_rows; k++)
        memcpy((uint8_t *)to + index[k] * row_bytes, (const uint8_t *)from + k * row_bytes, row_bytes);
}
