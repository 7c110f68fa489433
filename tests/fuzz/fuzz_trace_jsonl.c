/* Bytes as a recording of the format jsonl, with and without what it may leave unsaid. */
#include "trace_target.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct mp_trace_hints h = full_hints();
    check_reader("jsonl", data, size, &h);
    h.n_experts = 0;
    h.phase = MP_PHASE_UNKNOWN;
    check_reader("jsonl", data, size, &h);
    h.phase = MP_PHASE_DECODE;
    check_reader("jsonl", data, size, &h);
    check_reader("jsonl", data, size, &mp_trace_hints_none);
    return 0;
}
