/* The rule of a library as text: which files, which layers together, what switching takes, whose popularity is whose.
 *
 * Decides nothing. Method: YAML in a fixed order, whole numbers. */
#include "variants.h"
#include <moeplan/yaml.h>

static void put_row(struct mp_out *o, const char *before, const uint64_t *wide, const uint32_t *narrow, uint32_t n) {
    mp_out_printf(o, "%s[", before);
    for (uint32_t i = 0; i < n; i++)
        mp_out_printf(o, "%s%llu", i > 0 ? ", " : "",
                      (unsigned long long)(wide != NULL ? wide[i] : (uint64_t)narrow[i]));
    mp_out_puts(o, "]\n");
}

void mp_variants_write_rule(const struct mp_variants *v, const char *const *plan_names, const char *const *sha256,
                            struct mp_out *o) {
    const struct mp_switch_rule *r = &v->rule;
    mp_out_puts(o, "# How to switch between the plans below while serving: docs/VARIANTS.md part 2.\n");
    mp_out_printf(o, "moeplan_variants: 1\nwindow_steps: %u\npatience_ppm: %u\nbudget_ppm: %u\nworst_loss_ns: %llu\n",
                  r->window, r->patience_ppm, r->budget_ppm, (unsigned long long)r->worst_loss_ns);
    mp_out_printf(o, "share_one: %u\nvariants:\n", MP_SHARE_ONE);
    for (uint32_t i = 0; i < v->n; i++) {
        mp_out_puts(o, "  - plan: ");
        mp_yaml_write_string(o, plan_names[i]);
        mp_out_printf(o, "\n    sha256: \"%s\"\n    made_for: ", sha256[i]);
        mp_yaml_write_string(o, v->variant[i].from);
        mp_out_puts(o, "\n");
    }
    mp_out_puts(o, "groups:\n");
    for (uint32_t g = 0; g < r->n_groups; g++) {
        mp_out_printf(o, "  - first_layer: %u\n    n_layers: %u\n    cost_ns: # from, to\n",
                      v->variant[0].plan->layers[r->first_layer[g]].layer_id,
                      r->first_layer[g + 1] - r->first_layer[g]);
        for (uint32_t i = 0; i < v->n; i++)
            put_row(o, "      - ", r->cost_ns + ((size_t)g * v->n + i) * v->n, NULL, v->n);
        mp_out_puts(o, "    moves: # experts\n");
        for (uint32_t i = 0; i < v->n; i++)
            put_row(o, "      - ", NULL, v->moves + ((size_t)g * v->n + i) * v->n, v->n);
    }
    mp_out_puts(o, "popularity: # variant, layer, expert\n");
    for (uint32_t i = 0; i < v->n; i++)
        for (uint32_t l = 0; l < r->n_layers; l++)
            put_row(o, l == 0 ? "  - - " : "    - ", NULL, r->share + ((size_t)i * r->n_layers + l) * r->n_experts,
                    r->n_experts);
}
