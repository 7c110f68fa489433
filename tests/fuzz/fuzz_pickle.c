/* Any bytes as a pickle: read or refused, and every value that comes out may be walked. */
#include "../../src/trace/pickle.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t walk(const struct mp_pickle_value *v, unsigned depth) {
    uint64_t sum = v->kind;
    switch ((enum mp_pickle_kind)v->kind) {
    case MP_PICKLE_STRING:
        for (uint32_t i = 0; i < v->n; i++)
            sum += (unsigned char)v->as.text[i];
        break;
    case MP_PICKLE_TUPLE:
    case MP_PICKLE_LIST:
    case MP_PICKLE_DICT: /* lists may hold themselves, so not too deep and not too wide */
        for (uint32_t i = 0; i < v->as.items->n && i < 16 && depth < 4; i++)
            sum += walk(&v->as.items->at[i], depth + 1);
        break;
    case MP_PICKLE_TENSOR:
        if (v->as.tensor->offset + v->as.tensor->n > v->as.tensor->storage->n)
            abort();
        break;
    default:
        break;
    }
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct mp_error err = {0};
    struct mp_pickle *p = NULL;
    struct mp_limits limits = mp_limits_default;
    limits.pickle_heap_bytes = 1 << 20;
    uint64_t live = mp_alloc_live();
    if ((mp_pickle_read(&p, "fuzz", data, size, 0, &limits, &err) == MP_OK) != (p != NULL))
        abort();
    if (p != NULL)
        (void)walk(mp_pickle_root(p), 0);
    mp_pickle_free(p);
    if (mp_alloc_live() != live)
        abort();
    return 0;
}
