/* A topology as plain arrays, and its YAML text. */
#include "topo_draft.h"
#include <moeplan/base.h>
#include <stdio.h>
#include <string.h>

enum mp_status topo_draft_new(struct topo_draft **out, const struct topo_source *in, const char *why,
                              struct mp_error *err) {
    enum mp_status status = MP_OK;
    struct mp_arena *arena = mp_arena_new();
    struct topo_draft *d = arena != NULL ? mp_arena_alloc(arena, 1, sizeof *d) : NULL;
    *out = NULL;
    if (d == NULL) {
        status = mp_nomem(err, "reading a topology");
        goto out;
    }
    d->in = in;
    d->arena = arena;
    d->gpu_name = in->gpu;
    /* A GPU that is there is read once the rest of the file is sound. */
    if (in->gpu == NULL || topo_find(topo_gpu_presets, in->gpu) == NULL)
        MP_TRY(topo_source_gpu(in, why, arena, NULL, &d->ports, err));
    *out = d;
    arena = NULL;
out:
    mp_arena_free(arena);
    return status;
}

void topo_draft_free(struct topo_draft *d) {
    if (d != NULL)
        mp_arena_free(d->arena);
}

enum mp_status topo_draft_gpus(struct topo_draft *d, uint32_t n_gpus, uint64_t line, struct mp_error *err) {
    if ((uint64_t)n_gpus * d->in->n_hosts > MP_MAX_GPUS)
        return mp_fail_at(err, MP_ELIMIT, d->in->path, line, 0,
                          "%u hosts of %u GPUs are more than %u GPUs (write fewer hosts)", d->in->n_hosts, n_gpus,
                          MP_MAX_GPUS);
    d->n_gpus = n_gpus;
    d->gpus = mp_arena_alloc(d->arena, n_gpus, sizeof *d->gpus);
    if (d->gpus == NULL)
        return mp_nomem(err, "reading a topology");
    return topo_gpu_preset(d->gpu_name, d->arena, &d->gpu_type, &d->ports, err);
}

void topo_draft_port(struct topo_draft *d, uint32_t level, uint64_t bytes_per_s) {
    for (uint32_t g = 0; g < d->n_gpus; g++)
        d->gpus[g].out[level] = d->gpus[g].in[level] = bytes_per_s;
}

bool topo_draft_network(struct topo_draft *d) {
    if (d->in->n_hosts == 1)
        return true;
    if (d->n_levels == MP_MAX_LEVELS)
        return false;
    const uint32_t level = d->n_levels++;
    d->levels[level] = (struct topo_draft_level){.name = "nic", .latency_ns = d->ports.nic_latency_ns};
    topo_draft_port(d, level, d->ports.nic_bytes_per_s);
    d->has_network = true;
    return true;
}

enum mp_status topo_draft_share(struct topo_draft *d, struct mp_error *err) {
    const uint32_t level = d->n_levels - 1;
    bool is_wide = false, is_one = true;
    for (uint32_t a = 0; a < d->n_gpus; a++)
        for (uint32_t b = 0; b < a; b++) {
            const bool is_same_port =
                d->gpus[a].shared[level] > 0 && d->gpus[a].shared[level] == d->gpus[b].shared[level];
            is_one = is_one && is_same_port;
            is_wide = is_wide || (is_same_port && d->gpus[a].group[0] != d->gpus[b].group[0]);
        }
    if (!is_wide)
        return MP_OK;
    if (is_one) {
        uint64_t *uplink = mp_arena_alloc(d->arena, 1, sizeof *uplink);
        if (uplink == NULL)
            return mp_nomem(err, "reading a topology");
        uplink[0] = d->gpus[0].out[level];
        d->levels[level - 1].uplink = uplink;
        for (uint32_t g = 0; g < d->n_gpus; g++)
            d->gpus[g].shared[level] = 0;
        topo_draft_say(d, "The NIC that all GPUs of a host share is the host's uplink.");
        return MP_OK;
    }
    uint32_t *sharers = mp_arena_alloc(d->arena, d->n_gpus, sizeof *sharers);
    if (sharers == NULL)
        return mp_nomem(err, "reading a topology");
    for (uint32_t a = 0; a < d->n_gpus; a++)
        for (uint32_t b = 0; b < d->n_gpus; b++)
            sharers[a] += d->gpus[a].shared[level] > 0 && d->gpus[a].shared[level] == d->gpus[b].shared[level];
    for (uint32_t g = 0; g < d->n_gpus; g++) {
        struct topo_draft_gpu *gpu = &d->gpus[g];
        if (gpu->shared[level] == 0)
            continue;
        gpu->out[level] = gpu->in[level] = gpu->out[level] / sharers[g] > 0 ? gpu->out[level] / sharers[g] : 1;
        gpu->shared[level] = 0;
    }
    topo_draft_say(d, "GPUs of different groups share NICs: each has an equal part of its NIC for itself.");
    return MP_OK;
}

void topo_draft_say(struct topo_draft *d, const char *fmt, ...) {
    va_list args;
    if (d->n_said > 0 && d->n_said + 1 < sizeof d->said)
        d->said[d->n_said++] = ' ';
    va_start(args, fmt);
    const int n = vsnprintf(d->said + d->n_said, sizeof d->said - d->n_said, fmt, args);
    va_end(args);
    const size_t room = sizeof d->said - 1 - d->n_said;
    d->n_said += n < 0 ? 0 : (size_t)n < room ? (size_t)n : room;
}

/* ---- the text ---- */

static void indent(struct mp_out *o, uint32_t depth) {
    for (uint32_t i = 0; i < depth; i++)
        mp_out_puts(o, "  ");
}

static bool is_same(const struct topo_draft *d, const struct topo_draft_gpu *a, const struct topo_draft_gpu *b) {
    for (uint32_t l = 0; l < d->n_levels; l++)
        if (a->out[l] != b->out[l] || a->in[l] != b->in[l] || a->shared[l] != b->shared[l])
            return false;
    return true;
}

static void write_gpus(const struct topo_draft *d, uint32_t first, uint32_t end, uint32_t depth, struct mp_out *o) {
    for (uint32_t g = first, next; g < end; g = next) {
        const struct topo_draft_gpu *gpu = &d->gpus[g];
        for (next = g + 1; next < end && is_same(d, gpu, &d->gpus[next]);)
            next++;
        indent(o, depth);
        mp_out_printf(o, "- {repeat: %u, type: %s, ports: {", next - g, d->gpu_name);
        for (uint32_t l = 0; l < d->n_levels; l++) {
            if (gpu->out[l] == 0)
                continue;
            mp_out_puts(o, l > 0 ? ", " : "");
            mp_yaml_write_string(o, d->levels[l].name);
            mp_out_printf(o, ": {out: %llu B/s, in: %llu B/s", (unsigned long long)gpu->out[l],
                          (unsigned long long)gpu->in[l]);
            if (gpu->shared[l] > 0)
                mp_out_printf(o, ", shared: p%u", gpu->shared[l]);
            mp_out_puts(o, "}");
        }
        mp_out_puts(o, "}}\n");
    }
}

/* The groups of `level` in [first, end), which is one group of the level above. */
static void write_groups(const struct topo_draft *d, uint32_t first, uint32_t end, uint32_t level, uint32_t depth,
                         struct mp_out *o) {
    for (uint32_t g = first, next; g < end; g = next) {
        const uint32_t group = d->gpus[g].group[level];
        for (next = g + 1; next < end && d->gpus[next].group[level] == group;)
            next++;
        indent(o, depth);
        mp_out_printf(o, "- repeat: %u\n", d->has_network && level + 2 == d->n_levels ? d->in->n_hosts : 1);
        if (d->levels[level].uplink != NULL) {
            indent(o, depth + 1);
            mp_out_printf(o, "uplink: %llu B/s\n", (unsigned long long)d->levels[level].uplink[group]);
        }
        indent(o, depth + 1);
        mp_out_puts(o, level == 0 ? "gpus:\n" : "groups:\n");
        if (level == 0)
            write_gpus(d, g, next, depth + 2, o);
        else
            write_groups(d, g, next, level - 1, depth + 2, o);
    }
}

void topo_draft_write(const struct topo_draft *d, struct mp_out *yaml) {
    topo_put_head(yaml, d->in, d->said, d->ports.launch_ns, d->ports.stage_launch_ns);
    mp_out_puts(yaml, "levels:\n");
    for (uint32_t l = 0; l < d->n_levels; l++) {
        mp_out_puts(yaml, "  - name: ");
        mp_yaml_write_string(yaml, d->levels[l].name);
        mp_out_printf(yaml, "\n    latency: %llu ns\n", (unsigned long long)d->levels[l].latency_ns);
        if (d->levels[l].pair_bytes_per_s > 0)
            mp_out_printf(yaml, "    pair: %llu B/s\n", (unsigned long long)d->levels[l].pair_bytes_per_s);
    }
    if (d->n_levels == 1) {
        mp_out_puts(yaml, "gpus:\n");
        write_gpus(d, 0, d->n_gpus, 1, yaml);
    } else {
        mp_out_puts(yaml, "groups:\n");
        write_groups(d, 0, d->n_gpus, d->n_levels - 2, 1, yaml);
    }
}

/* ---- text ---- */

void topo_position(const char *text, size_t at, uint64_t *line, uint64_t *column) {
    *line = *column = 1;
    for (size_t i = 0; i < at; i++) {
        ++*column;
        if (text[i] == '\n') {
            ++*line;
            *column = 1;
        }
    }
}

struct unit {
    const char *name;
    double factor;
};

static double find_unit(const struct unit *units, const char *s, size_t n) {
    for (; units->name != NULL; units++)
        if (strlen(units->name) == n && memcmp(units->name, s, n) == 0)
            return units->factor;
    return 0;
}

double topo_rate_unit(const char *s, size_t n) {
    static const struct unit units[] = {
        {"B/s", 1},        {"kB/s", 1e3},     {"MB/s", 1e6},        {"GB/s", 1e9},           {"TB/s", 1e12},
        {"MBps", 1e6},     {"GBps", 1e9},     {"MiB/s", 1048576.0}, {"GiB/s", 1073741824.0}, {"Mbit/s", 125e3},
        {"Gbit/s", 125e6}, {"Tbit/s", 125e9}, {"Mbps", 125e3},      {"Gbps", 125e6},         {"Mb/s", 125e3},
        {"Gb/s", 125e6},   {NULL, 0}};
    return find_unit(units, s, n);
}

double topo_time_unit(const char *s, size_t n) {
    static const struct unit units[] = {{"ns", 1},   {"us", 1e3}, {"\xc2\xb5s", 1e3}, {"\xce\xbcs", 1e3},
                                        {"ms", 1e6}, {"s", 1e9},  {NULL, 0}};
    return find_unit(units, s, n);
}
