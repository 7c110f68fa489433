/* A host as `nvidia-smi topo -m` prints it.
 *
 * Decides   levels: NVLink groups, then the PCIe classes that occur, then (several hosts) the NICs; ports and uplinks.
 * Method    NVLink: when what a GPU's pairs show fits its lanes, it is a mesh (port = the sum, pair = the smallest),
 *           else a switch (port = the largest, and every pair must be the smaller of its two ports). Groups are those
 * in which all pairs have NVLink; when the links do not part the GPUs into such groups (the cube mesh of the DGX-1),
 * runs of GPUs that have, and links between the runs are not used. PCIe: a port of the GPU's PCIe rate; what leaves a
 * PCIe switch shares one such link, what leaves a socket the link between sockets. NICs: each GPU takes one of its
 * nearest, the least taken; those left over go to the GPUs they are nearest to.
 * Cost      O(n^2). */
#include "topo_links.h"
#include "topo_smi.h"
#include <stdio.h>
#include <string.h>

struct host {
    struct topo_draft *d;
    struct smi m;
    struct topo_links links;
    uint32_t n;                      /* GPUs */
    uint8_t *distance;               /* [n * n]: 0 = NVLink of a group, else a PCIe class */
    uint8_t class_of[MP_MAX_LEVELS]; /* of each level, the outermost it holds; 0 = NVLink */
    uint64_t lane_bytes_per_s;
};

static uint32_t cell(const struct host *h, uint32_t a, uint32_t b) {
    return smi_cell(&h->m, h->m.gpus[a], h->m.gpus[b]);
}

static uint32_t lanes(const struct host *h, uint32_t a, uint32_t b) {
    const uint32_t c = cell(h, a, b);
    return c > SMI_NV ? c - SMI_NV : 0;
}

static uint64_t rate(const struct host *h, uint32_t class) {
    return h->m.rates[class] > 0 ? h->m.rates[class]
           : class == SMI_SYS    ? h->links.sys_bytes_per_s
                                 : h->links.pcie_bytes_per_s;
}

static enum mp_status fail(const struct host *h, struct mp_error *err, const char *fmt, ...) MP_PRINTF(3, 4);
static enum mp_status fail(const struct host *h, struct mp_error *err, const char *fmt, ...) {
    char text[600];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    return mp_fail_at(err, MP_EINPUT, h->d->in->path, h->m.header_line, 0, "%s", text);
}

static const char *name(const struct host *h, uint32_t gpu) { return h->m.names[h->m.gpus[gpu]]; }

/* ---- distances ---- */

/* NVLink groups as labels: cliques of runs of GPUs when the links are not groups by themselves. */
static enum mp_status find_groups(struct host *h, uint32_t *group, struct mp_error *err) {
    enum mp_status status = MP_OK;
    const uint32_t n = h->n;
    uint32_t at[3], n_unused = 0, n_groups = 0;
    uint8_t *far = mp_calloc((size_t)n * n, 1);
    struct topo_nest nest = {.n = n, .n_levels = 1, .group = group};
    if (far == NULL)
        return mp_nomem(err, "reading a topology");
    for (uint32_t a = 0; a < n; a++)
        for (uint32_t b = 0; b < n; b++)
            far[(size_t)a * n + b] = a != b && lanes(h, a, b) == 0;
    if (topo_nest_find(&nest, far, at) != TOPO_NEST_BROKEN)
        goto out;
    for (uint32_t g = 0, first = 0; g < n; g++) {
        for (uint32_t k = first; k < g; k++)
            if (lanes(h, k, g) == 0)
                first = g;
        n_groups += g > 0 && first == g;
        group[g] = n_groups;
        for (uint32_t k = 0; k < first; k++)
            n_unused += lanes(h, k, g) > 0;
    }
    topo_draft_say(
        h->d,
        "Not all GPUs that NVLink joins are joined pair by pair: the NVLinks of %u pairs of GPUs between the "
        "groups below are not used (these pairs go over PCIe).",
        n_unused);
out:
    mp_free(far);
    return status;
}

/* Distances: 0 inside a group, else the class; between two groups the farthest, because NVLink hides some. */
static enum mp_status find_distances(struct host *h, struct mp_error *err) {
    enum mp_status status = MP_OK;
    const uint32_t n = h->n;
    uint32_t *group = mp_calloc(n, sizeof *group);
    uint8_t *far = mp_calloc((size_t)n * n, 1);
    h->distance = mp_arena_alloc(h->d->arena, (size_t)n * n, 1);
    if (group == NULL || far == NULL || h->distance == NULL) {
        status = mp_nomem(err, "reading a topology");
        goto out;
    }
    for (uint32_t a = 0; a < n; a++)
        for (uint32_t b = a + 1; b < n; b++)
            if (cell(h, a, b) == 0) {
                status = smi_missing(&h->m, h->m.gpus[a], h->m.gpus[b], err);
                goto out;
            }
    MP_TRY(find_groups(h, group, err));
    for (uint32_t a = 0; a < n; a++)
        for (uint32_t b = 0; b < n; b++) {
            const uint32_t c = cell(h, a, b);
            uint8_t *f = &far[(size_t)group[a] * n + group[b]];
            if (c < SMI_SELF && c > *f)
                *f = (uint8_t)c;
        }
    for (uint32_t a = 0; a < n; a++)
        for (uint32_t b = 0; b < n; b++) {
            const uint8_t f = far[(size_t)group[a] * n + group[b]];
            h->distance[(size_t)a * n + b] = group[a] == group[b] ? 0 : f > 0 ? f : SMI_SYS;
        }
out:
    mp_free(group);
    mp_free(far);
    return status;
}

/* ---- levels ---- */

/* The classes that occur become levels; the innermost of PCIe are taken together while there are too many. */
static void choose_levels(struct host *h, uint32_t n_max) {
    bool occurs[SMI_SELF] = {false};
    uint8_t merged_into[SMI_SELF];
    uint32_t n = 0;
    for (size_t i = 0; i < (size_t)h->n * h->n; i++)
        occurs[h->distance[i]] = true;
    /* Every GPU is at distance 0 of itself: NVLink only when two are. */
    occurs[0] = false;
    for (uint32_t a = 0; a < h->n; a++)
        for (uint32_t b = 0; b < a; b++)
            occurs[0] = occurs[0] || h->distance[(size_t)a * h->n + b] == 0;
    occurs[0] = occurs[0] || h->n == 1;
    for (uint32_t c = 0; c < SMI_SELF; c++)
        n += occurs[c];
    for (uint32_t c = SMI_PIX; c < SMI_SELF && n > n_max; c++) {
        uint32_t next = c + 1;
        while (next < SMI_SELF && !occurs[next])
            next++;
        if (!occurs[c] || next == SMI_SELF)
            continue;
        topo_draft_say(h->d, "%s is taken as %s, because there are at most %u levels in a host.", smi_class_name(c),
                       smi_class_name(next), n_max);
        occurs[c] = false;
        n--;
    }
    for (uint32_t c = 0; c < SMI_SELF; c++) {
        uint32_t next = c;
        while (next < SMI_SELF && !occurs[next])
            next++;
        merged_into[c] = (uint8_t)next;
        if (occurs[c])
            h->class_of[h->d->n_levels++] = (uint8_t)c;
    }
    for (uint32_t a = 0; a < h->n; a++)
        for (uint32_t b = 0; b < h->n; b++) {
            uint8_t *x = &h->distance[(size_t)a * h->n + b], level = 0;
            while (a != b && h->class_of[level] != merged_into[*x])
                level++;
            *x = level;
        }
}

static enum mp_status find_levels(struct host *h, struct mp_error *err) {
    struct topo_draft *d = h->d;
    uint32_t at[3], *group = mp_arena_alloc(d->arena, (size_t)h->n * MP_MAX_LEVELS, sizeof *group);
    char order[300];
    if (group == NULL)
        return mp_nomem(err, "reading a topology");
    choose_levels(h, d->in->n_hosts > 1 ? MP_MAX_LEVELS - 1 : MP_MAX_LEVELS);
    struct topo_nest nest = {.n = h->n, .n_levels = d->n_levels, .group = group};
    switch (topo_nest_find(&nest, h->distance, at)) {
    case TOPO_NEST_BROKEN:
        return fail(
            h, err,
            "%s and %s are both nearer to %s than to each other: no tree of links has that (paste the matrix as "
            "it was printed)",
            name(h, at[0]), name(h, at[2]), name(h, at[1]));
    case TOPO_NEST_SCATTERED:
        return fail(h, err,
                    "%s and %s are near each other and %s between them is not (number the GPUs group by group: write "
                    "columns and rows in the order %s, and start the ranks with CUDA_VISIBLE_DEVICES in this order)",
                    name(h, at[0]), name(h, at[2]), name(h, at[1]), topo_nest_order(&nest, order, sizeof order));
    case TOPO_NEST_OK:
        break;
    }
    for (uint32_t l = 0; l < d->n_levels; l++)
        for (uint32_t g = 0; g < h->n; g++)
            d->gpus[g].group[l] = group[(size_t)l * h->n + g];
    return MP_OK;
}

/* ---- rates ---- */

/* Level 0 when it is NVLink. */
static enum mp_status set_nvlink(struct host *h, struct mp_error *err) {
    struct topo_draft *d = h->d;
    const uint32_t whole = h->links.nvlink_lanes;
    bool is_mesh = true, is_alone = true;
    uint32_t fewest = UINT32_MAX, most = 0;
    d->levels[0] = (struct topo_draft_level){.name = d->ports.level, .latency_ns = d->ports.scale_up_latency_ns};
    for (uint32_t g = 0; g < h->n; g++) {
        uint32_t sum = 0, n_peers = 0, largest = 0;
        for (uint32_t k = 0; k < h->n; k++) {
            const uint32_t v = k != g && d->gpus[k].group[0] == d->gpus[g].group[0] ? lanes(h, g, k) : 0;
            sum += v;
            n_peers += v > 0;
            largest = v > largest ? v : largest;
            fewest = v > 0 && v < fewest ? v : fewest;
        }
        most = largest > most ? largest : most;
        is_alone = is_alone && n_peers == 0;
        is_mesh = is_mesh && (n_peers < 2 || sum <= whole);
        d->gpus[g].out[0] = sum;    /* a mesh's port, in lanes */
        d->gpus[g].in[0] = largest; /* a switch's */
    }
    if (is_alone) { /* one GPU */
        topo_draft_port(d, 0, d->ports.scale_up_bytes_per_s);
        return MP_OK;
    }
    if (whole == 0 && h->m.rates[SMI_RATE_LANE] == 0)
        return fail(h, err,
                    "the text shows NVLink and %s has none in topologies/link-classes.yaml (name the right GPU behind "
                    "the colon, or write \"# moeplan: NV 25 GB/s\", the rate of one lane, in front)",
                    d->gpu_name);
    h->lane_bytes_per_s =
        h->m.rates[SMI_RATE_LANE] > 0 ? h->m.rates[SMI_RATE_LANE] : d->ports.scale_up_bytes_per_s / whole;
    const bool is_exact = h->m.rates[SMI_RATE_LANE] == 0;
    for (uint32_t a = 0; a < h->n && !is_mesh; a++)
        for (uint32_t b = 0; b < a; b++) {
            const uint64_t x = d->gpus[a].in[0], y = d->gpus[b].in[0];
            if (d->gpus[a].group[0] == d->gpus[b].group[0] && lanes(h, a, b) != (x < y ? x : y))
                return fail(h, err,
                            "NV%u between %s and %s fits neither a mesh (the NVLinks of a GPU come to more than the %u "
                            "of %s) nor a switch (the two reach %llu and %llu) (name the right GPU behind the colon)",
                            lanes(h, a, b), name(h, a), name(h, b), whole, d->gpu_name, (unsigned long long)x,
                            (unsigned long long)y);
        }
    uint64_t n_pairs_above = 0;
    bool has_pair = false;
    for (uint32_t g = 0; g < h->n; g++) {
        struct topo_draft_gpu *gpu = &d->gpus[g];
        has_pair = has_pair || (is_mesh && gpu->out[0] != gpu->in[0]);
        for (uint32_t k = 0; k < g && is_mesh; k++)
            n_pairs_above += gpu->group[0] == d->gpus[k].group[0] && lanes(h, g, k) > fewest;
    }
    for (uint32_t g = 0; g < h->n; g++) {
        struct topo_draft_gpu *gpu = &d->gpus[g];
        uint64_t n = is_mesh ? gpu->out[0] : gpu->in[0];
        n = n == 0 ? whole > 0 ? whole : most : n; /* a GPU without NVLink: a group of its own, the port is not used */
        if (n > TOPO_RATE_MAX / h->lane_bytes_per_s)
            return fail(h, err, "%llu lanes of %llu B/s come to more than 1 PB/s (write fewer, or a lower rate)",
                        (unsigned long long)n, (unsigned long long)h->lane_bytes_per_s);
        gpu->out[0] = gpu->in[0] = is_exact ? n * d->ports.scale_up_bytes_per_s / whole : n * h->lane_bytes_per_s;
    }
    if (has_pair)
        d->levels[0].pair_bytes_per_s =
            is_exact ? fewest * d->ports.scale_up_bytes_per_s / whole : fewest * h->lane_bytes_per_s;
    topo_draft_say(d, "NVLink: %s, %.2f GB/s a lane (%s).", is_mesh ? (has_pair ? "a mesh" : "pairs") : "a switch",
                   (double)h->lane_bytes_per_s / 1e9,
                   is_exact ? "the GPU's scale-up rate over its lanes" : "a comment line of the file");
    if (has_pair && n_pairs_above > 0)
        topo_draft_say(d, "%llu pairs with more than %u lanes count as pairs with %u.",
                       (unsigned long long)n_pairs_above, fewest, fewest);
    return MP_OK;
}

/* A GPU that cannot have the lanes the text shows is another one; with a rate of one lane given any number is right. */
static enum mp_status check_lanes(const struct host *h, struct mp_error *err) {
    const uint32_t whole = h->links.nvlink_lanes;
    for (uint32_t a = 0; a < h->n && whole > 0 && h->m.rates[SMI_RATE_LANE] == 0; a++)
        for (uint32_t b = 0; b < a; b++) {
            const uint32_t row = h->m.row_line[h->m.gpus[b]], mirror = h->m.row_line[h->m.gpus[a]];
            if (lanes(h, a, b) > whole)
                return mp_fail_at(err, MP_EINPUT, h->d->in->path, row != 0 ? row : mirror, 0,
                                  "NV%u between %s and %s: %s has %u NVLink lanes in all (name the right GPU behind "
                                  "the colon, or write \"# moeplan: NV 25 GB/s\", the rate of one lane, in front)",
                                  lanes(h, a, b), name(h, b), name(h, a), h->d->gpu_name, whole);
        }
    return MP_OK;
}

static enum mp_status set_rates(struct host *h, struct mp_error *err) {
    struct topo_draft *d = h->d;
    const uint32_t first = h->class_of[0] == 0 ? 1 : 0; /* the first level of PCIe */
    static const char *const names[] = {"", "pix", "pxb", "phb", "node", "sys"};
    enum mp_status status;
    if (first == 1)
        MP_TRY(set_nvlink(h, err));
    uint64_t port = 0;
    for (uint32_t l = first; l < d->n_levels; l++) {
        const uint8_t class = h->class_of[l], below = l > first ? h->class_of[l - 1] : 0;
        const uint64_t r = rate(h, class);
        d->levels[l] = (struct topo_draft_level){.name = names[class], .latency_ns = h->links.pcie_latency_ns};
        if (below != 0 && (class == SMI_SYS || below <= SMI_PXB)) {
            uint64_t *uplink = mp_arena_alloc(d->arena, h->n, sizeof *uplink);
            if (uplink == NULL)
                return mp_nomem(err, "reading a topology");
            for (uint32_t g = 0; g < h->n; g++)
                uplink[g] = r;
            d->levels[l - 1].uplink = uplink;
        } else if (r != port) {
            topo_draft_port(d, l, r);
            port = r;
        }
        topo_draft_say(d, "%s: %.4g GB/s%s (%s).", smi_class_name(class), (double)r / 1e9,
                       below != 0 && (class == SMI_SYS || below <= SMI_PXB) ? " for a group together" : " a GPU",
                       h->m.rates[class] > 0 ? "a comment line of the file" : "topologies/link-classes.yaml");
    }
out:
    return status;
}

/* ---- NICs ---- */

struct nics {
    uint8_t best[SMI_MAX_DEVICES];   /* class of a GPU's nearest */
    uint16_t taken[SMI_MAX_DEVICES]; /* by how many GPUs */
    uint16_t first[SMI_MAX_DEVICES]; /* of a GPU */
    uint16_t count[SMI_MAX_DEVICES]; /* NICs of a GPU */
};

static enum mp_status share_nics(struct host *h, struct nics *x, struct mp_error *err) {
    const struct smi *m = &h->m;
    for (uint32_t g = 0; g < h->n; g++) {
        uint32_t choice = 0;
        x->best[g] = SMI_SELF;
        for (uint32_t k = 0; k < m->n_nics; k++) {
            const uint32_t c = smi_cell(m, m->gpus[g], m->nics[k]);
            if (c == 0)
                return smi_missing(m, m->gpus[g], m->nics[k], err);
            if (c > SMI_SELF)
                return fail(h, err, "%s to %s is NVLink, and a NIC has none (paste the matrix as it was printed)",
                            name(h, g), m->names[m->nics[k]]);
            if (c < x->best[g] || (c == x->best[g] && x->taken[k] < x->taken[choice]))
                choice = k;
            x->best[g] = (uint8_t)(c < x->best[g] ? c : x->best[g]);
        }
        x->first[g] = (uint16_t)choice;
        x->count[g] = 1;
        x->taken[choice]++;
    }
    /* Those nobody took: to the GPU of the fewest that has it nearest; one that shared leaves what it shared. */
    for (uint32_t k = 0; k < m->n_nics; k++) {
        uint32_t who = MP_NONE;
        if (x->taken[k] > 0)
            continue;
        for (uint32_t g = 0; g < h->n; g++) {
            const bool shares = x->taken[x->first[g]] > 1;
            if (smi_cell(m, m->gpus[g], m->nics[k]) != x->best[g])
                continue;
            if (who == MP_NONE || (shares && x->taken[x->first[who]] == 1) ||
                (shares == (x->taken[x->first[who]] > 1) && x->count[g] < x->count[who]))
                who = g;
        }
        if (who == MP_NONE)
            continue;
        x->taken[k] = 1;
        if (x->taken[x->first[who]] > 1) {
            x->taken[x->first[who]]--;
            x->first[who] = (uint16_t)k;
        } else {
            x->count[who]++;
        }
    }
    return MP_OK;
}

/* With several hosts: the NICs of the text become the ports of the level that joins the hosts. */
static enum mp_status set_nics(struct host *h, struct mp_error *err) {
    enum mp_status status;
    struct topo_draft *d = h->d;
    const struct smi *m = &h->m;
    const uint64_t r = m->rates[SMI_RATE_NIC] > 0 ? m->rates[SMI_RATE_NIC] : d->ports.nic_bytes_per_s;
    struct nics *x = mp_calloc(1, sizeof *x);
    if (x == NULL)
        return mp_nomem(err, "reading a topology");
    (void)topo_draft_network(d); /* there is room: find_levels left some */
    const uint32_t level = d->n_levels - 1;
    topo_draft_port(d, level, r);
    topo_draft_say(d, "A NIC: %.4g GB/s (%s); between the hosts nothing limits but the NICs.", (double)r / 1e9,
                   m->rates[SMI_RATE_NIC] > 0 ? "a comment line of the file" : "of the GPU's preset");
    if (m->n_nics == 0) {
        topo_draft_say(d, "The text names no NIC: one for each GPU is assumed.");
        status = MP_OK;
        goto out;
    }
    MP_TRY(share_nics(h, x, err));
    for (uint32_t g = 0; g < h->n; g++) {
        if (x->count[g] > TOPO_RATE_MAX / r) {
            status = fail(h, err, "%u NICs of %llu B/s come to more than 1 PB/s (write fewer, or a lower rate)",
                          x->count[g], (unsigned long long)r);
            goto out;
        }
        const uint32_t k = x->first[g];
        struct topo_draft_gpu *gpu = &d->gpus[g];
        gpu->out[level] = gpu->in[level] = r * x->count[g];
        gpu->shared[level] = x->taken[k] > 1 ? k + 1 : 0;
        if (h->n <= 64)
            topo_draft_say(d, "%s uses %s%s%s%s%s.", name(h, g), m->names[m->nics[k]],
                           m->legend[m->nics[k]][0] != '\0' ? " = " : "", m->legend[m->nics[k]],
                           x->count[g] > 1 ? " and others" : "", x->taken[k] > 1 ? " (shared)" : "");
    }
    MP_TRY(topo_draft_share(d, err));
    uint32_t n_unused = 0;
    for (uint32_t k = 0; k < m->n_nics; k++)
        n_unused += x->taken[k] == 0;
    if (n_unused > 0)
        topo_draft_say(d, "%u of %u NICs are nearest to no GPU and not used.", n_unused, m->n_nics);
out:
    mp_free(x);
    return status;
}

static enum mp_status read_smi(const struct topo_source *in, struct mp_out *yaml, struct mp_error *err) {
    enum mp_status status;
    struct host h = {0};
    if (memmem(in->text, in->size, "between two GPUs ==", 19) != NULL ||
        memmem(in->text, in->size, "ROCm System Management", 22) != NULL)
        return mp_fail_at(err, MP_EINPUT, in->path, 1, 0,
                          "this looks like rocm-smi --showtopo, which is not read (give the XML that lstopo writes: it "
                          "has the XGMI links too)");
    MP_TRY(topo_draft_new(&h.d, in, "which GPUs these are", err));
    MP_TRY(smi_parse(&h.m, in, h.d->arena, err));
    MP_TRY(topo_links_read(in->gpu, &h.links, err));
    h.n = h.m.n_gpus;
    topo_draft_say(h.d, "Read from nvidia-smi topo -m: %u GPUs, %u NICs.", h.n, h.m.n_nics);
    MP_TRY(topo_draft_gpus(h.d, h.n, h.m.header_line, err));
    for (uint32_t g = 0; g < h.n; g++) {
        char expected[SMI_NAME];
        snprintf(expected, sizeof expected, "GPU%u", g);
        if (strcmp(expected, name(&h, g)) != 0) {
            topo_draft_say(h.d, "GPU %u here is %s of the text, and so on in the order of its columns.", g,
                           name(&h, g));
            break;
        }
    }
    MP_TRY(check_lanes(&h, err));
    MP_TRY(find_distances(&h, err));
    MP_TRY(find_levels(&h, err));
    MP_TRY(set_rates(&h, err));
    if (in->n_hosts > 1)
        MP_TRY(set_nics(&h, err));
    else if (h.m.n_nics > 0)
        topo_draft_say(h.d, "One host: the NICs are not used.");
    topo_draft_write(h.d, yaml);
out:
    topo_draft_free(h.d);
    return status;
}

const struct topo_reader topo_reader_nvidia_smi = {
    .name = "nvidia-smi",
    .summary = "the text of nvidia-smi topo -m: NVLink, PCIe and NICs of one host (needs :GPU)",
    .reference = "topologies/FORMAT.md, Other formats; link rates: topologies/link-classes.yaml",
    .detect = smi_detect,
    .read = read_smi,
};
