/* What ASTRA-sim's analytical network means by its figures; shared by reader and writer. */
#ifndef TOPO_ASTRA_H
#define TOPO_ASTRA_H

#include "topo_reader.h"

/* Its GB/s are 2^30 bytes per second (bw_GBps_to_Bpns in extern/network_backend/analytical). */
#define ASTRA_GB 1073741824.0

/* An all-to-all on a ring of n, both ways, each transfer the shorter way: (n - 1) transfers of a GPU pass
 * floor(n^2 / 4) links together, so that a GPU sends at 2 (n - 1) / floor(n^2 / 4) times a link's rate. */
static inline uint64_t astra_ring_hops(uint32_t n) { return (uint64_t)n * n / 4; }
static inline uint64_t astra_ring_port(uint32_t n, uint64_t link) {
    return n <= 2 ? link : 2 * link * (n - 1) / astra_ring_hops(n);
}

#endif
