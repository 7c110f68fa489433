/* The table of exporters. */
#include "export_registry.h"
#include <moeplan/export.h>
#include <string.h>

#define DECLARE(name) extern const struct mp_exporter mp_exporter_##name;
#define ENTRY(name) &mp_exporter_##name,
MP_REGISTRY(DECLARE)
static const struct mp_exporter *const exporters[] = {MP_REGISTRY(ENTRY)};
enum { N_EXPORTERS = sizeof exporters / sizeof *exporters };

const struct mp_exporter *mp_exporter_at(uint32_t i) { return i < N_EXPORTERS ? exporters[i] : NULL; }

const struct mp_exporter *mp_exporter_find(const char *name) {
    for (uint32_t i = 0; name != NULL && i < N_EXPORTERS; i++)
        if (strcmp(exporters[i]->name, name) == 0)
            return exporters[i];
    return NULL;
}
