/* Real experts: how many rows each expert of a rank has, and the transport's matrix products of these sizes. */
#include "run.h"
#include <string.h>

struct ex_gemm ex_gemm_of(const struct mp_model *model) {
    /* 2 * hidden operations for each inner column: three matrices where there is a gate, else two. */
    const uint64_t wide =
        model->expert_flops_per_token / (2 * (uint64_t)(model->hidden_size > 0 ? model->hidden_size : 1));
    return (struct ex_gemm){.hidden = model->hidden_size,
                            .inner = model->expert_size,
                            .up =
                                wide >= 3 * (uint64_t)model->expert_size ? 2 * model->expert_size : model->expert_size};
}

enum mp_status ex_compute(const struct ex_transport *t, struct ex_link *link, const struct ex_layer *l,
                          const struct mp_model *model, uint32_t rank, uint64_t *ns, struct mp_error *err) {
    enum mp_status status = MP_OK;
    uint32_t *rows = mp_calloc(model->n_experts, sizeof *rows);
    if (rows == NULL)
        return mp_nomem(err, "experts");
    for (uint32_t i = 0; i < l->route->n_choices; i++)
        if (l->route->choices[i].gpu == rank && l->route->choices[i].expert < model->n_experts)
            rows[l->route->choices[i].expert]++;
    uint32_t n = 0;
    for (uint32_t e = 0; e < model->n_experts; e++) /* those that have work, in the order of experts */
        if (rows[e] > 0)
            rows[n++] = rows[e];
    struct ex_gemm gemm = ex_gemm_of(model);
    gemm.n_experts = n;
    gemm.rows = rows;
    *ns = 0;
    if (n > 0)
        status = t->compute(link, rank, &gemm, ns, err);
    mp_free(rows);
    return status;
}
