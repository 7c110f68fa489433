/* Bytes as a recording of the format omni_counts, with and without what it may leave unsaid. */
#include "trace_target.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct mp_trace_hints h = full_hints();
    check_reader("omni_counts", data, size, &h);
    h.phase = MP_PHASE_MIXED;
    h.mtp_base = 8;
    h.n_experts = 2;
    check_reader("omni_counts", data, size, &h);
    check_reader("omni_counts", data, size, &mp_trace_hints_none);
    return 0;
}
