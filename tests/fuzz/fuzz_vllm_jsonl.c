/* Any bytes as vLLM's expert loads. */
#include "fuzz_trace_reader.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct mp_trace_hints hints = mp_trace_hints_none;
    hints.layer_base = 3;
    fuzz_reader("vllm_jsonl", data, size, &hints);
    return 0;
}
