/* Slurm's topology.conf and topology.yaml: which nodes hang on which switches, and nothing else.
 *
 * Decides   GPU order and groups: the nodes of each leaf together, leaves in the order of the tree, switches above
 * them.
 * Method    a node is `topology.conf:8:h100`'s 8 GPUs with the ports of a short string; a switch limits nothing. */
#include "topo_draft.h"
#include "topo_slurm.h"
#include <moeplan/base.h>
#include <stdio.h>
#include <string.h>

static enum mp_status read_slurm(const struct topo_source *in, struct mp_out *yaml, struct mp_error *err) {
    static const char *const tiers[] = {"leaf", "spine", "core"}, *const blocks[] = {"block", "cluster", ""};
    enum mp_status status;
    struct topo_draft *d = NULL;
    struct slurm_tree t;
    struct topo_source host = *in; /* with the GPU alone behind the colon */
    const char *colon = in->gpu != NULL ? strchr(in->gpu, ':') : NULL;
    uint64_t per_node = 0;
    if (colon == NULL || !mp_parse_u64(in->gpu, (size_t)(colon - in->gpu), &per_node) || per_node == 0 ||
        per_node > MP_MAX_GPUS || colon[1] == '\0')
        return mp_fail_at(
            err, MP_EINPUT, in->path, 0, 0,
            "the file does not say what a node is (write how many GPUs of which kind, for instance %s:8:h100)",
            in->path);
    if (in->n_hosts > 1)
        return mp_fail_at(err, MP_EINPUT, in->path, 0, 0,
                          "the file names its nodes itself (remove \"%ux\" in front of it)", in->n_hosts);
    host.gpu = colon + 1;
    MP_TRY(topo_draft_new(&d, &host, "which GPUs a node has", err));
    struct slurm_file f = {.in = in, .arena = d->arena};
    MP_TRY(slurm_parse(&f, err));
    MP_TRY(slurm_build(&t, &f, MP_MAX_GPUS / (uint32_t)per_node, err));
    MP_TRY(topo_draft_gpus(d, t.n_nodes * (uint32_t)per_node, 1, err));
    d->n_levels = 1 + t.height;
    d->levels[0] = (struct topo_draft_level){.name = d->ports.level,
                                             .latency_ns = d->ports.scale_up_latency_ns,
                                             .pair_bytes_per_s = d->ports.pair_bytes_per_s};
    for (uint32_t h = 0; h < t.height; h++)
        d->levels[h + 1] = (struct topo_draft_level){.name = f.has_blocks ? blocks[h] : tiers[h],
                                                     .latency_ns = d->ports.nic_latency_ns};
    topo_draft_port(d, 0, d->ports.scale_up_bytes_per_s);
    topo_draft_port(d, 1, d->ports.nic_bytes_per_s);
    for (uint32_t g = 0; g < d->n_gpus; g++) {
        d->gpus[g].group[0] = g / (uint32_t)per_node;
        for (uint32_t h = 0; h < t.height; h++)
            d->gpus[g].group[h + 1] = h + 1 == t.height ? 0 : t.switch_of[h][g / per_node];
    }
    topo_draft_say(
        d,
        "Grouping of %u nodes from Slurm's topology; a node is %s GPUs with one NIC each, as in a short string. "
        "Nodes are numbered leaf by leaf. Switches limit nothing and all tiers have the NIC's latency: the file "
        "has no rates.",
        t.n_nodes, in->gpu);
    if (f.has_link_speed)
        topo_draft_say(d, "LinkSpeed has no unit and is not used.");
    if (f.has_blocks)
        topo_draft_say(d, "Block sizes are not used.");
    topo_draft_write(d, yaml);
out:
    topo_draft_free(d);
    return status;
}

const struct topo_reader topo_reader_slurm = {
    .name = "slurm",
    .summary = "which nodes hang on which switches or are in which blocks: topology.conf, topology.yaml (needs :8:GPU)",
    .reference = "slurm.schedmd.com, topology.conf(5), topology.yaml(5)",
    .detect = slurm_detect,
    .read = read_slurm,
};
