/* Exports that need a recording and a topology beside the plan: what its steps look like, for other programs. One file
 * src/export/export_<name>.c each. (Placements for serving stacks: stack.h.) */
#ifndef MOEPLAN_EXPORT_H
#define MOEPLAN_EXPORT_H

#include <moeplan/sim.h>

MP_API_BEGIN

struct mp_export { /* all borrowed */
    const struct mp_plan *plan;
    const struct mp_workload *workload;
    const struct mp_topology *topology;
    const struct mp_model *model;
    const struct mp_sim_options *sim;
    uint32_t step; /* of the workload; MP_NONE = what the exporter does without: see its summary */
    void *shared;  /* what the exporter's `prepare` made */
};
struct mp_exporter {
    const char *name, *summary, *reference;
    /* Files of one export, and what each is called; NULL = a single one, named by the user. */
    uint32_t (*n_files)(const struct mp_export *in);
    void (*file_name)(const struct mp_export *in, uint32_t i, char *buf, size_t size);
    /* What all files of an export have in common, made once before the first; both NULL = nothing. */
    enum mp_status (*prepare)(const struct mp_export *in, void **shared, struct mp_error *err);
    void (*release)(void *shared); /* NULL is fine */
    /* Writes file i to `out`; to `usage` lines that say how to use it under the name `path`. */
    enum mp_status (*write)(const struct mp_export *in, uint32_t i, const char *path, struct mp_out *out,
                            struct mp_out *usage, struct mp_error *err);
};
const struct mp_exporter *mp_exporter_at(uint32_t i); /* NULL past the last */
const struct mp_exporter *mp_exporter_find(const char *name);

MP_API_END

#endif
