#include <moeplan/limits.h>

const struct mp_limits mp_limits_default = {
    .yaml_bytes = (size_t)16 << 20,
    .yaml_depth = 32,
    .yaml_events = 1000000,
    .yaml_scalar = 4096,
    .json_bytes = (size_t)64 << 20,
    .json_heap_bytes = (size_t)48 << 20,
    .json_depth = 64,
    .line_bytes = (size_t)4 << 20,
    .pickle_bytes = (size_t)16 << 20,
    .pickle_ops = 4000000,
    .pickle_heap_bytes = (size_t)40 << 20,
    .npy_header_bytes = (size_t)64 << 10,
    .safetensors_header_bytes = (size_t)16 << 20,
    .zip_members = 65536,
    .inflate_ratio = 200,
    .inflate_free_bytes = UINT64_C(16) << 20,
    .memory_bytes = UINT64_C(2) << 30,
};
