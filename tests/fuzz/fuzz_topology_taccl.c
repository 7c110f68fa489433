#include "fuzz_topology_text.h"

extern const struct topo_reader topo_reader_taccl;
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_topology_text(data, size, &topo_reader_taccl, "fuzz", NULL);
    return 0;
}
