/* The section `condense` of a plan file (docs/PLAN.md): token condensation, which is LOSSY and says so. */
#include "plan_text.h"
#include <string.h>

enum { PPM = 1000000, NEVER_SURE = 2000000 };

void plan_write_condense(struct mp_out *o, const struct mp_plan *p) {
    const struct mp_plan_condense *c = &p->condense;
    mp_out_printf(o, "condense:\n  lossy: true\n  threshold_ppm: %u\n  sure_ppm: %u\n  never_ppm: %u\n",
                  c->threshold_ppm, c->sure_ppm, c->never_ppm);
    mp_out_puts(o, "  condensed_ppm: \"");
    for (uint32_t l = 0; l < p->n_layers; l++)
        mp_out_printf(o, "%s%u", l > 0 ? " " : "", c->condensed_ppm[l]);
    mp_out_puts(o, "\"\n");
}

/* One share for each layer, separated by one blank. */
static enum mp_status read_shares(const struct mp_yaml_doc *doc, const struct mp_yaml *n, uint32_t n_layers,
                                  uint32_t *shares, struct mp_error *err) {
    uint32_t at = 0, l = 0;
    for (; l < n_layers && at <= n->length; l++) {
        uint32_t end = at;
        uint64_t value;
        while (end < n->length && n->text[end] != ' ')
            end++;
        if (!mp_parse_u64(n->text + at, end - at, &value) || value > PPM)
            return mp_yaml_fail(doc, n, err, "share %u is not a whole number in [0, %d] (write 0)", l, (int)PPM);
        shares[l] = (uint32_t)value;
        at = end + 1;
    }
    if (l == n_layers && at == n->length + 1)
        return MP_OK;
    return mp_yaml_fail(doc, n, err, "not %u shares (write one for each layer, separated by one blank)", n_layers);
}

enum mp_status plan_read_condense(const struct mp_yaml_doc *doc, const struct mp_yaml *map, struct mp_plan *p,
                                  struct mp_error *err) {
    static const char *const keys[] = {"lossy", "threshold_ppm", "sure_ppm", "never_ppm", "condensed_ppm", NULL};
    struct mp_plan_condense *c = &p->condense;
    const struct mp_yaml *n = NULL;
    bool is_lossy = false;
    enum mp_status status;
    MP_TRY(mp_yaml_keys(doc, map, keys, err));
    MP_TRY(mp_yaml_need(doc, map, "lossy", &n, err));
    MP_TRY(mp_yaml_bool(doc, n, &is_lossy, err));
    if (!is_lossy)
        return mp_yaml_fail(doc, n, err, "condensation changes results (write lossy: true)");
    MP_TRY(mp_yaml_need(doc, map, "threshold_ppm", &n, err));
    MP_TRY(mp_yaml_u32(doc, n, 0, PPM, &c->threshold_ppm, err));
    MP_TRY(mp_yaml_need(doc, map, "sure_ppm", &n, err));
    MP_TRY(mp_yaml_u32(doc, n, 0, NEVER_SURE, &c->sure_ppm, err));
    MP_TRY(mp_yaml_need(doc, map, "never_ppm", &n, err));
    MP_TRY(mp_yaml_u32(doc, n, 0, PPM, &c->never_ppm, err));
    if (c->never_ppm > c->sure_ppm)
        return mp_yaml_fail(doc, n, err, "%u is above sure_ppm, %u", c->never_ppm, c->sure_ppm);
    MP_TRY(mp_yaml_need(doc, map, "condensed_ppm", &n, err));
    MP_TRY(mp_yaml_expect(doc, n, MP_YAML_SCALAR, err));
    c->condensed_ppm = mp_arena_alloc(p->arena, p->n_layers, sizeof *c->condensed_ppm);
    if (c->condensed_ppm == NULL)
        return mp_nomem(err, "reading a plan");
    MP_TRY(read_shares(doc, n, p->n_layers, c->condensed_ppm, err));
    c->is_present = true;
out:
    return status;
}

enum mp_status plan_check_condense(const struct mp_plan *p, struct mp_error *err) {
    const struct mp_plan_condense *c = &p->condense;
    if (!c->is_present)
        return MP_OK;
    bool is_good = c->threshold_ppm <= PPM && c->sure_ppm <= NEVER_SURE && c->never_ppm <= PPM &&
                   c->never_ppm <= c->sure_ppm && c->condensed_ppm != NULL;
    for (uint32_t l = 0; is_good && l < p->n_layers; l++)
        is_good = c->condensed_ppm[l] <= PPM;
    return is_good ? MP_OK
                   : mp_fail(err, MP_EINPUT,
                             "plan: condense: threshold %u, history %u and %u or a share is out of range "
                             "(never_ppm is at most sure_ppm)",
                             c->threshold_ppm, c->sure_ppm, c->never_ppm);
}
