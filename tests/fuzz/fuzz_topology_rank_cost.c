#include "fuzz_topology_text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_topology_text(data, size, &topo_reader_rank_cost, "fuzz", NULL);
    return 0;
}
