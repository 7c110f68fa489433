/* The table of link classes, topologies/link-classes.yaml. */
#include "topo_links.h"
#include <stdio.h>

static enum mp_status read_table(const struct mp_yaml_doc *d, const char *gpu, struct topo_links *out,
                                 struct mp_error *err) {
    enum mp_status status;
    const struct mp_yaml *n, *gpus, *entry;
    MP_TRY(mp_yaml_schema(d, "moeplan.link-classes", err));
    MP_TRY(mp_yaml_need(d, d->root, "pcie_latency", &n, err));
    MP_TRY(mp_yaml_figure(d, n, "ns", 0, TOPO_TIME_MAX, &out->pcie_latency_ns, err));
    MP_TRY(mp_yaml_need(d, d->root, "gpus", &gpus, err));
    MP_TRY(mp_yaml_need(d, gpus, gpu, &entry, err));
    MP_TRY(mp_yaml_need(d, entry, "nvlink_lanes", &n, err));
    MP_TRY(mp_yaml_u32(d, n, 0, 1024, &out->nvlink_lanes, err));
    MP_TRY(mp_yaml_need(d, entry, "pcie", &n, err));
    MP_TRY(mp_yaml_figure(d, n, "bytes/s", 1, TOPO_RATE_MAX, &out->pcie_bytes_per_s, err));
    MP_TRY(mp_yaml_need(d, entry, "between_sockets", &n, err));
    MP_TRY(mp_yaml_figure(d, n, "bytes/s", 1, TOPO_RATE_MAX, &out->sys_bytes_per_s, err));
out:
    return status;
}

enum mp_status topo_links_read(const char *gpu, struct topo_links *out, struct mp_error *err) {
    enum mp_status status;
    struct mp_in *in = NULL;
    struct mp_yaml_doc *d = NULL;
    const struct mp_embedded *table = &topo_link_classes[0];
    *out = (struct topo_links){0};
    MP_TRY(mp_in_from_memory(&in, table->name, table->text, table->length, err));
    MP_TRY(mp_yaml_parse(&d, in, NULL, err));
    MP_TRY(read_table(d, gpu, out, err));
out:
    mp_yaml_free(d);
    mp_in_close(in);
    return status;
}

bool mp_topology_links(uint32_t i, const char **gpu, char *text, size_t size) {
    const char *summary;
    struct topo_links links;
    struct topo_ports ports;
    struct mp_gpu_type type;
    char lanes[100] = "no NVLink";
    if (!mp_gpu_preset(i, gpu, &summary))
        return false;
    struct mp_arena *arena = mp_arena_new();
    if (arena == NULL || topo_gpu_preset(*gpu, arena, &type, &ports, NULL) != MP_OK ||
        topo_links_read(*gpu, &links, NULL) != MP_OK) {
        snprintf(text, size, "not known: out of memory");
    } else {
        if (links.nvlink_lanes > 0)
            snprintf(lanes, sizeof lanes, "%u NVLink lanes of %.4g GB/s", links.nvlink_lanes,
                     (double)ports.scale_up_bytes_per_s / links.nvlink_lanes / 1e9);
        snprintf(text, size, "%s; PIX, PXB, PHB, NODE %.4g GB/s; SYS %.4g GB/s; a NIC %.4g GB/s", lanes,
                 (double)links.pcie_bytes_per_s / 1e9, (double)links.sys_bytes_per_s / 1e9,
                 (double)ports.nic_bytes_per_s / 1e9);
    }
    mp_arena_free(arena);
    return true;
}
