#include "fuzz_topology_import.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_topology_import(data, size, "hwloc-xml");
    return 0;
}
