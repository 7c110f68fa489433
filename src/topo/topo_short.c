/* Short strings: "4x8:h100" (4 nodes of 8), "8:a100" (one node), "2x4:a100+2x4:l40s". One NIC per GPU at the preset's
 * rate. A short string is turned into the YAML it stands for, so that there is one way in. */
#include "topo.h"
#include <moeplan/base.h>
#include <stdio.h>
#include <string.h>

struct part {
    uint64_t n_nodes, n_gpus;
    char name[MP_MAX_NAME + 1];
    struct topo_ports ports;
};

static enum mp_status fail_here(const char *spec, const char *at, struct mp_error *err, const char *what) {
    return mp_fail_at(err, MP_EINPUT, spec, 1, (uint64_t)(at - spec) + 1,
                      "%s (write for instance 4x8:h100, 8:a100 or 2x4:a100+2x4:l40s)", what);
}

/* Reads a count in [1, MP_MAX_GPUS] at *s. */
static bool read_count(const char **s, uint64_t *out) {
    size_t n = strspn(*s, "0123456789");
    if (!mp_parse_u64(*s, n, out) || *out == 0 || *out > MP_MAX_GPUS)
        return false;
    *s += n;
    return true;
}

static enum mp_status read_part(const char *spec, const char **s, struct mp_arena *arena, struct part *p,
                                struct mp_error *err) {
    char text[128];
    p->n_nodes = 1;
    snprintf(text, sizeof text, "a whole number in [1, %u] is expected here", MP_MAX_GPUS);
    if (!read_count(s, &p->n_gpus))
        return fail_here(spec, *s, err, text);
    if (**s == 'x') {
        p->n_nodes = p->n_gpus;
        ++*s;
        if (!read_count(s, &p->n_gpus))
            return fail_here(spec, *s, err, text);
    }
    if (**s != ':')
        return fail_here(spec, *s, err, "a colon and the name of a GPU are expected here");
    ++*s;
    size_t n = strcspn(*s, "+");
    if (n == 0 || n > MP_MAX_NAME)
        return fail_here(spec, *s, err, "the name of a GPU is expected here");
    memcpy(p->name, *s, n);
    p->name[n] = '\0';
    if (topo_find(topo_gpu_presets, p->name) == NULL) {
        char quoted[200];
        return mp_fail_at(err, MP_EINPUT, spec, 1, (uint64_t)(*s - spec) + 1,
                          "\"%s\" is not a built-in GPU (write one that \"moeplan list presets\" shows)",
                          mp_quote(p->name, n, quoted, sizeof quoted));
    }
    struct mp_gpu_type type;
    enum mp_status status = topo_gpu_preset(p->name, arena, &type, &p->ports, err);
    *s += n;
    return status;
}

static void write_text(struct mp_out *o, const char *spec, const struct part *parts, size_t n,
                       const struct topo_ports *all, bool has_nic) {
    mp_out_puts(o, "schema: moeplan.topology\nversion: 1\nname: ");
    mp_yaml_write_string(o, spec);
    mp_out_printf(o,
                  "\nlaunch: %llu ns\nstage_launch: %llu ns\nlevels:\n  - name: ", (unsigned long long)all->launch_ns,
                  (unsigned long long)all->stage_launch_ns);
    mp_yaml_write_string(o, all->level);
    mp_out_printf(o, "\n    latency: %llu ns\n", (unsigned long long)all->scale_up_latency_ns);
    if (all->pair_bytes_per_s > 0)
        mp_out_printf(o, "    pair: %llu B/s\n", (unsigned long long)all->pair_bytes_per_s);
    if (has_nic)
        mp_out_printf(o, "  - name: nic\n    latency: %llu ns\n", (unsigned long long)all->nic_latency_ns);
    mp_out_puts(o, has_nic ? "groups:\n" : "gpus:\n");
    for (size_t i = 0; i < n; i++) {
        const struct part *p = &parts[i];
        if (has_nic)
            mp_out_printf(o, "  - repeat: %llu\n    gpus:\n    ", (unsigned long long)p->n_nodes);
        mp_out_printf(o, "  - {repeat: %llu, type: %s, ports: {", (unsigned long long)p->n_gpus, p->name);
        mp_yaml_write_string(o, all->level);
        mp_out_printf(o, ": %llu B/s", (unsigned long long)p->ports.scale_up_bytes_per_s);
        if (has_nic)
            mp_out_printf(o, ", nic: %llu B/s", (unsigned long long)p->ports.nic_bytes_per_s);
        mp_out_puts(o, "}}\n");
    }
}

static void widen(uint64_t *largest, uint64_t v) { *largest = v > *largest ? v : *largest; }

enum mp_status topo_short_text(struct mp_out *o, const char *spec, struct mp_error *err) {
    enum mp_status status = MP_OK;
    enum { MAX_PARTS = 64 };
    struct mp_arena *arena = mp_arena_new();
    struct part *parts = mp_calloc(MAX_PARTS, sizeof *parts);
    struct topo_ports all = {0};
    const char *s = spec;
    size_t n = 0;
    uint64_t n_gpus = 0, n_nodes = 0;
    if (arena == NULL || parts == NULL) {
        status = mp_nomem(err, "reading a topology");
        goto out;
    }
    for (bool has_more = true; has_more;) {
        const char *start = s;
        if (n == MAX_PARTS) {
            status = fail_here(spec, s, err, "more than 64 parts");
            goto out;
        }
        struct part *p = &parts[n++];
        MP_TRY(read_part(spec, &s, arena, p, err));
        n_nodes += p->n_nodes;
        n_gpus += p->n_nodes * p->n_gpus;
        if (n_gpus > MP_MAX_GPUS) {
            status = fail_here(spec, start, err, "with these there are more than 4096 GPUs");
            goto out;
        }
        if (n > 1 && p->ports.pair_bytes_per_s != all.pair_bytes_per_s) {
            status = fail_here(spec, start, err, "a mesh and a switch cannot be one level");
            goto out;
        }
        all.level = n == 1 || strcmp(all.level, p->ports.level) == 0 ? p->ports.level : "scale-up";
        all.pair_bytes_per_s = p->ports.pair_bytes_per_s;
        widen(&all.scale_up_latency_ns, p->ports.scale_up_latency_ns);
        widen(&all.nic_latency_ns, p->ports.nic_latency_ns);
        widen(&all.launch_ns, p->ports.launch_ns);
        widen(&all.stage_launch_ns, p->ports.stage_launch_ns);
        has_more = *s == '+';
        s += has_more;
    }
    write_text(o, spec, parts, n, &all, n_nodes > 1);
out:
    mp_free(parts);
    mp_arena_free(arena);
    return status;
}
