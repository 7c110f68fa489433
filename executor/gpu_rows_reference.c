#include "gpu_rows.h"
#include <string.h>

void gpu_rows_move_reference(uint8_t *block, const struct gpu_row_move *rows, uint32_t n_rows, uint64_t row_bytes) {
    for (uint32_t k = 0; k < n_rows; k++)
        memcpy(block + rows[k].to_at, block + rows[k].from_at, row_bytes);
}

void gpu_rows_add_reference(uint8_t *block, const struct gpu_row_sum *sums, const struct gpu_row_term *terms,
                            uint32_t n_sums, uint64_t row_bytes) {
    for (uint32_t k = 0; k < n_sums; k++)
        for (uint64_t at = 0; at < row_bytes; at += 8) {
            const uint64_t bytes = row_bytes - at < 8 ? row_bytes - at : 8;
            uint64_t sum = 0;
            memcpy(&sum, block + sums[k].to_at + at, bytes);
            for (uint32_t t = sums[k].first_term; t < sums[k].first_term + sums[k].n_terms; t++) {
                uint64_t word = 0;
                memcpy(&word, block + terms[t].from_at + at, bytes);
                sum += terms[t].weight * word;
            }
            memcpy(block + sums[k].to_at + at, &sum, bytes);
        }
}
