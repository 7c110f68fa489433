/* The text of `nvidia-smi topo -m` as a matrix of link classes. */
#ifndef TOPO_SMI_H
#define TOPO_SMI_H

#include "topo_draft.h"

/* A cell: 0 = not in the text; SMI_NV + lanes; else one of these, nearest first. */
enum { SMI_PIX = 1, SMI_PXB, SMI_PHB, SMI_NODE, SMI_SYS, SMI_SELF, SMI_NV = 16 };
enum { SMI_MAX_DEVICES = 512, SMI_NAME = 24 };
/* Rates that a comment line may change: of the classes PIX to SYS by their number, one NVLink lane, one NIC. */
enum { SMI_RATE_LANE = 0, SMI_RATE_NIC = 6, SMI_N_RATES };

struct smi {
    const struct topo_source *in;
    uint32_t n, n_gpus, n_nics;
    char (*names)[SMI_NAME];  /* [n], as the columns are called */
    char (*legend)[SMI_NAME]; /* [n] what the NIC legend calls them; "" = nothing */
    uint32_t *gpus, *nics;    /* which columns they are */
    uint16_t *cells;          /* [n * n] */
    uint32_t *row_line;       /* [n] the line of a device's row; 0 = it has none */
    uint64_t header_line;
    uint64_t rates[SMI_N_RATES]; /* bytes/s from comment lines; 0 = not given */
};

bool smi_detect(const char *text, size_t size);
/* Everything lives in `arena`. Cells that stand in one of two places only are in both afterwards. */
enum mp_status smi_parse(struct smi *m, const struct topo_source *in, struct mp_arena *arena,
                         struct mp_error *err) MP_MUST_CHECK;
const char *smi_class_name(uint32_t cell); /* PIX to SYS */
static inline uint32_t smi_cell(const struct smi *m, uint32_t row, uint32_t column) {
    return m->cells[(size_t)row * m->n + column];
}
/* MP_EINPUT: what links the two is in neither row. */
enum mp_status smi_missing(const struct smi *m, uint32_t row, uint32_t column, struct mp_error *err);

#endif
