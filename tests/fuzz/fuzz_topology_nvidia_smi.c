#include "fuzz_topology_text.h"

extern const struct topo_reader topo_reader_nvidia_smi;
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_topology_text(data, size, &topo_reader_nvidia_smi, "fuzz", NULL);
    return 0;
}
