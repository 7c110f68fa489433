/* moeplan's own form, the canonical YAML: carries everything. */
#include "topo_reader.h"

static enum mp_status write(const struct mp_topology *t, struct mp_out *out, char *lost, size_t size,
                            struct mp_error *err) {
    (void)lost;
    (void)size;
    (void)err;
    mp_topology_write(t, out);
    return MP_OK;
}

const struct topo_writer topo_writer_yaml = {"yaml", "moeplan's own form: everything, in base units",
                                             "topologies/FORMAT.md", write};
