/* The forms that topologies are written in. */
#include "topo_reader.h"
#include "topo_writer_registry.h"
#include <string.h>

#define DECLARE(name) extern const struct topo_writer topo_writer_##name;
#define ENTRY(name) &topo_writer_##name,
MP_REGISTRY(DECLARE)
static const struct topo_writer *const writers[] = {MP_REGISTRY(ENTRY)};
enum { N_WRITERS = sizeof writers / sizeof *writers };

bool mp_topology_writer(uint32_t i, const char **name, const char **summary, const char **reference) {
    if (i >= N_WRITERS)
        return false;
    *name = writers[i]->name;
    *summary = writers[i]->summary;
    *reference = writers[i]->reference;
    return true;
}

enum mp_status mp_topology_write_as(const struct mp_topology *t, const char *format, struct mp_out *o, char *lost,
                                    size_t size, struct mp_error *err) {
    lost[0] = '\0';
    for (uint32_t i = 0; i < N_WRITERS; i++)
        if (strcmp(writers[i]->name, format) == 0)
            return writers[i]->write(t, o, lost, size, err);
    return mp_fail(err, MP_EUSAGE, "\"%.40s\" is not a form topologies are written in (see: moeplan list topologies)",
                   format);
}
