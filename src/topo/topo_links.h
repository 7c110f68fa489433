/* How fast the links are that programs only name (topologies/link-classes.yaml). */
#ifndef TOPO_LINKS_H
#define TOPO_LINKS_H

#include "topo.h"

extern const struct mp_embedded topo_link_classes[];

struct topo_links {
    uint32_t nvlink_lanes; /* of a whole GPU; 0 = it has none */
    uint64_t pcie_bytes_per_s, sys_bytes_per_s, pcie_latency_ns;
};
/* Of a built-in GPU. MP_EBUG when the table lacks it. */
enum mp_status topo_links_read(const char *gpu, struct topo_links *out, struct mp_error *err) MP_MUST_CHECK;

#endif
