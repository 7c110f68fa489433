/* Bytes as a model file: refused with a place, or a model whose lists and figures are in range. */
#include <moeplan/model.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool what) {
    if (!what)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct mp_error err = {0};
    struct mp_in *in = NULL;
    struct mp_model *m = NULL;
    require(mp_in_from_memory(&in, "fuzz", data, size, &err) == MP_OK);
    enum mp_status status = mp_model_parse(&m, in, NULL, &err);
    mp_in_close(in);
    require(status == MP_OK ||
            ((status == MP_EINPUT || status == MP_ELIMIT) && err.line > 0 && err.message[0] != '\0'));
    require((status == MP_OK) == (m != NULL));
    if (m != NULL) {
        require(m->n_layers > 0 && m->n_layers <= m->n_hidden_layers && m->n_hidden_layers <= MP_MAX_LAYERS);
        for (uint32_t l = 0; l < m->n_layers; l++)
            require(m->layer_ids[l] < m->n_hidden_layers && (l == 0 || m->layer_ids[l] > m->layer_ids[l - 1]));
        require(m->top_k > 0 && m->top_k <= m->n_experts && m->n_experts <= MP_MAX_EXPERTS && m->top_k <= MP_MAX_TOP_K);
        require(m->n_groups > 0 && m->n_experts % m->n_groups == 0);
        require(m->expert_bytes > 0 && m->dispatch_bytes > 0 && m->combine_bytes > 0);
    }
    mp_model_free(m);
    require(mp_alloc_live() == 0);
    return 0;
}
