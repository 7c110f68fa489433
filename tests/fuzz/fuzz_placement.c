/* Any bytes as a placement of every stack: what is read is a sound plan, and what its own stack then accepts comes back
 * equal when written and read again. */
#include <moeplan/stack.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool holds) {
    if (!holds)
        abort();
}

static void write_and_read_again(const struct mp_stack *s, const struct mp_plan *p, const struct mp_stack_options *o) {
    struct mp_error err = {0};
    enum mp_outcome outcome;
    struct mp_stack_options again = *o;
    if (again.n_hidden_layers == 0)
        again.n_hidden_layers = p->layers[p->n_layers - 1].layer_id + 1;
    if (s->check(p, &again, &outcome, &err) != MP_OK || outcome != MP_FOUND)
        return;
    struct mp_out *out = NULL;
    struct mp_in *in = NULL;
    struct mp_plan *q = NULL;
    size_t n;
    if (mp_out_open_memory(&out, &err) != MP_OK)
        return;
    s->write(p, &again, out);
    const uint8_t *bytes = mp_out_memory_bytes(out, &n);
    again.n_gpus = p->n_gpus;
    again.n_experts = p->n_experts;
    again.layer_base = (int)p->layers[0].layer_id;
    must(mp_in_from_memory(&in, "again", bytes, n, &err) == MP_OK);
    must(s->read(&q, in, &again, &mp_limits_default, &err) == MP_OK);
    must(q->n_layers == p->n_layers && q->n_experts == p->n_experts && q->n_gpus == p->n_gpus);
    mp_plan_free(q);
    mp_in_close(in);
    mp_out_cancel(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct mp_stack_options o = {.layer_base = -1, .n_gpus = 0, .n_nodes = 1};
    uint64_t live = mp_alloc_live();
    for (uint32_t i = 0; mp_stack_at(i) != NULL; i++)
        for (uint32_t n_gpus = 0; n_gpus <= 8; n_gpus = n_gpus == 0 ? 1 : n_gpus * 8) {
            const struct mp_stack *s = mp_stack_at(i);
            struct mp_error err = {0};
            struct mp_plan *p = NULL;
            struct mp_in *in = NULL;
            must(mp_in_from_memory(&in, "fuzz", data, size, &err) == MP_OK);
            o.n_gpus = n_gpus;
            (void)s->probe("fuzz", in);
            enum mp_status status = s->read(&p, in, &o, &mp_limits_default, &err);
            must((status == MP_OK) == (p != NULL));
            if (p != NULL) {
                must(mp_plan_check(p, &err) == MP_OK);
                write_and_read_again(s, p, &o);
            }
            mp_plan_free(p);
            mp_in_close(in);
        }
    must(mp_alloc_live() == live);
    return 0;
}
