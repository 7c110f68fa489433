/* Shared by the files of this folder. */
#ifndef TOPO_H
#define TOPO_H

#include <moeplan/embedded.h>
#include <moeplan/topology.h>
#include <moeplan/yaml.h>

extern const struct mp_embedded topo_gpu_presets[], topo_topology_presets[];

#define TOPO_RATE_MAX                                                                                                  \
    UINT64_C(1000000000000000)             /* 1 PB/s: keeps every product of later steps inside 128 bits with room */
#define TOPO_TIME_MAX UINT64_C(1000000000) /* 1 s, of latencies and launches */

/* What a GPU preset says beside the type: the ports a short string gives each GPU. */
struct topo_ports {
    const char *level; /* name of the scale-up level */
    uint64_t scale_up_bytes_per_s, scale_up_latency_ns, pair_bytes_per_s;
    uint64_t nic_bytes_per_s, nic_latency_ns;
    uint64_t launch_ns, stage_launch_ns;
};

/* NULL = no preset of this name. */
const struct mp_embedded *topo_find(const struct mp_embedded *table, const char *name);
/* Reads a built-in GPU; strings live in `arena`; `ports` may be NULL. MP_EINPUT when there is none of this name (no
 * position). */
enum mp_status topo_gpu_preset(const char *name, struct mp_arena *arena, struct mp_gpu_type *type,
                               struct topo_ports *ports, struct mp_error *err) MP_MUST_CHECK;
/* Reads the value of one entry of gpu_types: a preset and changes, or everything. */
enum mp_status topo_gpu_read(const struct mp_yaml_doc *d, const struct mp_yaml *n, const char *name,
                             struct mp_arena *arena, struct mp_gpu_type *type, struct mp_error *err) MP_MUST_CHECK;
/* A short string as the text of a YAML topology. */
enum mp_status topo_short_text(struct mp_out *o, const char *spec, struct mp_error *err) MP_MUST_CHECK;
/* A scalar of at most MP_MAX_NAME bytes. */
enum mp_status topo_name(const struct mp_yaml_doc *d, const struct mp_yaml *n, struct mp_arena *arena, const char **out,
                         struct mp_error *err) MP_MUST_CHECK;

#endif
