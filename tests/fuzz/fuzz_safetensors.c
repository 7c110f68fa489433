/* Any bytes as a .safetensors file: the tensors that come out lie inside it, stand in order and do not overlap. */
#include "../../src/trace/safetensors.h"

#include <moeplan/alloc.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct mp_error err = {0};
    struct safetensors s;
    struct mp_in *in = NULL;
    uint64_t live = mp_alloc_live();
    if (mp_in_from_memory(&in, "fuzz", data, size, &err) != MP_OK)
        abort();
    enum mp_status status = safetensors_read(&s, in, &mp_limits_default, &err);
    for (uint32_t i = 0; status == MP_OK && i < s.n; i++) {
        const struct safetensor *t = &s.at[i];
        uint64_t bytes = t->size[0] * t->size[1] * t->item;
        if (t->offset > size || bytes > size - t->offset)
            abort();
        if (i > 0 && (t->iter < t[-1].iter || (t->iter == t[-1].iter && t->layer <= t[-1].layer)))
            abort();
    }
    safetensors_clear(&s);
    mp_in_close(in);
    if (mp_alloc_live() != live)
        abort();
    return 0;
}
