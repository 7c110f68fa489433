/* Topologies of other programs, in and out. A reader turns a file into the text of a moeplan topology (the YAML of
 * topologies/FORMAT.md), which the one YAML reader then checks as if a user had written it; a writer turns a loaded
 * topology into a file of another program.
 *
 * To add one: write topo_read_<name>.c with `const struct topo_reader topo_reader_<name>` (topo_write_<name>.c,
 * topo_writer_<name>) and add the word to the list in this folder's meson.build. */
#ifndef TOPO_READER_H
#define TOPO_READER_H

#include "topo.h"

/* Texts for readers of the topology (`source:`) are cut here: the YAML reader takes 4 KiB. */
enum { TOPO_SOURCE_MAX = 3600 };

/* What a user asked for: "4xdgx.xml:h100" is FILE dgx.xml, 4 hosts, GPUs h100. */
struct topo_source {
    const char *path; /* FILE, for messages */
    const char *text; /* its bytes; no NUL behind them */
    size_t size;
    uint32_t n_hosts; /* N of "NxFILE", else 1; in [1, MP_MAX_GPUS] */
    const char *gpu;  /* behind the colon, never empty; NULL = no colon */
    const char *name; /* for `name:`: N, FILE without folders and GPU, at most MP_MAX_NAME bytes of text */
};

struct topo_reader {
    const char *name, *summary; /* for `moeplan list topologies` */
    const char *reference;      /* where the format is described, or NULL */
    /* Is it surely this format? Looks at the content, never at the name; first in the list wins. Linear time. Text with
     * a line "schema: moeplan..." is never asked about. */
    bool (*detect)(const char *text, size_t size);
    /* Writes the YAML text. Refuses with in->path, the line and the column, and what to write instead. What is assumed
     * (a link class as GB/s, a latency that is not in the file) goes to the top-level `source:`. Rates, latencies and
     * counts that the YAML reader refuses must be refused here, where the line is known. */
    enum mp_status (*read)(const struct topo_source *in, struct mp_out *yaml, struct mp_error *err);
};

struct topo_writer {
    const char *name, *summary;
    const char *reference; /* or NULL */
    /* Appends the file to `out`. What the format cannot carry is refused (MP_EINPUT, no position), or, where the rest
     * is still useful, said in `lost`: sentences with the figure that is lost, a newline behind each, terminated, cut
     * at size; "" on entry. */
    enum mp_status (*write)(const struct mp_topology *t, struct mp_out *out, char *lost, size_t size,
                            struct mp_error *err);
};

/* The built-in GPU behind the colon; MP_EINPUT that names the file, and what to write, when there is none or it is
 * unknown. `why` is what the file does not say ("which GPUs these are"). Strings live in `arena`; type and ports may be
 * NULL. */
enum mp_status topo_source_gpu(const struct topo_source *in, const char *why, struct mp_arena *arena,
                               struct mp_gpu_type *type, struct topo_ports *ports, struct mp_error *err) MP_MUST_CHECK;
/* For formats that need no GPU behind the colon: refuses one. */
enum mp_status topo_source_no_gpu(const struct topo_source *in, const char *why, struct mp_error *err) MP_MUST_CHECK;
/* The first keys, schema to stage_launch: `source` (cut at TOPO_SOURCE_MAX; "" = none) says where the figures come from
 * and what was assumed. */
void topo_put_head(struct mp_out *yaml, const struct topo_source *in, const char *source, uint64_t launch_ns,
                   uint64_t stage_launch_ns);
/* "key: value", the value as a YAML scalar of any text; a newline behind it. */
void topo_put_text(struct mp_out *yaml, const char *key, const char *value);

#endif
