/* The new placement under the labels of a migration.
 *
 * Decides   the slots of each GPU: experts that it has already keep theirs.
 * Minimises experts that change their slot inside a GPU.
 * Method    first those whose old slot the GPU has still, then the others in the new plan's order into what is left.
 * Bound     exact: the slots that experts keep do not conflict.
 * Differs   -
 * Cost      O(layers * slots * slots of a GPU). */
#include <moeplan/base.h>
#include <moeplan/migrate.h>
#include <string.h>

static void fill_gpu(const struct mp_plan_layer *before, const struct mp_plan_layer *after, const uint32_t *old_slots,
                     const uint32_t *new_slots, const uint32_t *own_slots, struct mp_plan_layer *own, bool *is_taken) {
    const uint32_t n_old = old_slots[1] - old_slots[0], n = new_slots[1] - new_slots[0];
    memset(is_taken, 0, n * sizeof *is_taken);
    for (int pass = 0; pass < 2; pass++)
        for (uint32_t k = 0; k < n; k++) {
            const uint16_t e = after->slot_expert[new_slots[0] + k];
            uint32_t at = 0;
            if (e == MP_NO_EXPERT || is_taken[k])
                continue;
            if (pass == 0) {
                while (at < n && at < n_old &&
                       (before->slot_expert[old_slots[0] + at] != e ||
                        own->slot_expert[own_slots[0] + at] != MP_NO_EXPERT))
                    at++;
                if (at == n || at == n_old)
                    continue;
            } else {
                while (own->slot_expert[own_slots[0] + at] != MP_NO_EXPERT)
                    at++;
            }
            own->slot_expert[own_slots[0] + at] = e;
            if (own->slot_weight != NULL)
                own->slot_weight[own_slots[0] + at] = after->slot_weight[new_slots[0] + k];
            is_taken[k] = true;
        }
}

enum mp_status mp_migrated_plan(struct mp_plan **out, const struct mp_migration *m, const struct mp_plan *old,
                                const struct mp_plan *new, struct mp_error *err) {
    const uint32_t n = new->n_gpus;
    struct mp_plan *p = NULL;
    enum mp_status status = MP_OK;
    *out = NULL;
    if (!m->is_relabelled)
        return MP_OK;
    uint32_t *slots = mp_calloc(n, sizeof *slots), *on = mp_calloc(n, sizeof *on);
    bool *is_taken = mp_calloc(new->n_slots, sizeof *is_taken);
    if (slots == NULL || on == NULL || is_taken == NULL) {
        status = mp_nomem(err, "migration");
        goto out;
    }
    for (uint32_t g = 0; g < n; g++)
        slots[g] = new->gpu_first_slot[g + 1] - new->gpu_first_slot[g]; /* GPUs that are exchanged have equally many */
    MP_TRY(mp_plan_new(&p, new->n_layers, new->n_experts, n, slots, err));
    uint32_t *node = mp_arena_alloc(p->arena, n, sizeof *node);
    if (node == NULL) {
        status = mp_nomem(err, "migration");
        goto out;
    }
    memcpy(node, new->gpu_node, n * sizeof *node);
    p->gpu_node = node;
    p->n_nodes = new->n_nodes;
    p->route = new->route;
    p->stage_mode = new->stage_mode;
    p->allow_same_gpu_replicas = new->allow_same_gpu_replicas;
    const char *const from[] = {new->provenance.tool,     new->provenance.replicate,      new->provenance.place,
                                new->provenance.route,    new->provenance.model,          new->provenance.model_sha256,
                                new->provenance.topology, new->provenance.topology_sha256};
    const char **const into[] = {&p->provenance.tool,     &p->provenance.replicate,      &p->provenance.place,
                                 &p->provenance.route,    &p->provenance.model,          &p->provenance.model_sha256,
                                 &p->provenance.topology, &p->provenance.topology_sha256};
    for (size_t i = 0; i < sizeof from / sizeof *from; i++) {
        *into[i] = mp_arena_strdup(p->arena, from[i]);
        if (*into[i] == NULL) {
            status = mp_nomem(err, "migration");
            goto out;
        }
    }
    p->provenance.strategy = "migrate";
    p->provenance.order = "single";
    for (uint32_t l = 0; l < new->n_layers; l++) {
        const struct mp_plan_layer *after = &new->layers[l], *before = old->layers;
        struct mp_plan_layer *own = &p->layers[l];
        while (before->layer_id != after->layer_id) /* mp_migrate has found them all */
            before++;
        own->layer_id = after->layer_id;
        if (after->slot_weight != NULL) {
            own->slot_weight = mp_arena_alloc(p->arena, p->n_slots, sizeof *own->slot_weight);
            if (own->slot_weight == NULL) {
                status = mp_nomem(err, "migration");
                goto out;
            }
        }
        for (uint32_t g = 0; g < n; g++)
            on[m->to[(size_t)l * n + g]] = g;
        for (uint32_t g = 0; g < n; g++)
            fill_gpu(before, after, &old->gpu_first_slot[g], &new->gpu_first_slot[on[g]], &p->gpu_first_slot[g], own,
                     is_taken);
    }
    MP_TRY(mp_plan_check(p, err));
    *out = p;
    p = NULL;
out:
    mp_free(slots);
    mp_free(on);
    mp_free(is_taken);
    mp_plan_free(p);
    return status;
}
