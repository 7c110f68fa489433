/* Private to the files planner/coloc_*.c: the cost of a part of a model on a GPU or a port. */
#ifndef COLOC_LOAD_H
#define COLOC_LOAD_H

#include <moeplan/coloc.h>

/* ns of a port for so many bytes; bytes of the mean step for so many pairs over all steps. */
uint64_t mp_coloc_port_ns(uint64_t bytes, uint64_t bytes_per_s);
uint64_t mp_coloc_bytes(const struct mp_coloc_model *m, uint64_t tokens, bool is_combine);
/* Tokens, active experts and padded pairs are sums over all steps; shared experts count as experts. */
uint64_t mp_coloc_gate_ns(const struct mp_coloc_problem *in, uint32_t model, uint32_t gpu, uint64_t tokens);
uint64_t mp_coloc_aggregate_ns(const struct mp_coloc_problem *in, uint32_t model, uint32_t gpu, uint64_t tokens);
uint64_t mp_coloc_experts_ns(const struct mp_coloc_problem *in, uint32_t model, uint32_t gpu, uint64_t source_tokens,
                             uint64_t active, uint64_t padded);

#endif
