/* Bytes become a plan file: as they are, and with the checksum put right so that everything behind it is reached. What
 * is read must write the same bytes, pass its own check, and be judged by the verifier without a crash, alone and,
 * where it is for 4 GPUs, against a matrix and a topology that pass for those it names. */
#include <moeplan/verify.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void need(bool holds) {
    if (!holds)
        abort();
}

static void try_matrix(const struct mp_plan *p) {
    static uint64_t cells[16] = {7, 400000, 100000, 100000, 100000, 0, 400000, 300000,
                                 1, 100000, 0,      400000, 400000, 1, 0,      0};
    static struct mp_topology *kept[2];
    const uint32_t i = p->n_nodes == 2;
    const struct mp_provenance *v = &p->provenance;
    struct mp_error err = {0};
    struct mp_verify_report *report;
    if (p->n_gpus != 4)
        return;
    if (kept[i] == NULL)
        need(mp_topology_load(&kept[i], i == 0 ? "4:h100" : "2x2:h100", &mp_limits_default, &err) == MP_OK);
    struct mp_topology t = *kept[i];
    struct mp_matrix m = {.n = 4, .cells = cells, .format = v->matrix.format};
    t.name = v->topology;
    snprintf(t.sha256, sizeof t.sha256, "%.64s", v->topology_sha256);
    snprintf(m.sha256, sizeof m.sha256, "%.64s", v->matrix.sha256);
    need(mp_plan_verify_matrix(&report, p, &m, &t, false, &err) == MP_OK);
    need(v->matrix.is_present || report->n > 0);
    mp_verify_report_free(report);
}

static void try_plan(const void *data, size_t size) {
    struct mp_limits limits = mp_limits_default;
    struct mp_error err = {0};
    struct mp_in *in;
    struct mp_plan *p;
    limits.yaml_bytes = 1 << 20;
    if (mp_in_from_memory(&in, "plan.yaml", data, size, &err) != MP_OK)
        return;
    if (mp_plan_parse(&p, in, &limits, &err) == MP_OK) {
        struct mp_out *o;
        struct mp_verify_report *report;
        size_t n;
        need(mp_plan_check(p, &err) == MP_OK);
        if (mp_out_open_memory(&o, &err) == MP_OK) {
            mp_plan_write(p, o);
            const uint8_t *bytes = mp_out_memory_bytes(o, &n);
            need(n == size && memcmp(bytes, data, n) == 0);
            need(mp_out_commit(o, &err) == MP_OK);
        }
        need(mp_plan_verify(&report, p, NULL, NULL, NULL, &err) == MP_OK);
        if (report->n == 0) { /* what is accepted can be routed */
            struct mp_router *r;
            need(mp_router_new(&r, p, &err) == MP_OK);
            for (uint32_t e = 0; e < p->n_experts; e++)
                need(mp_router_slot(r, p->n_layers - 1, e, e % p->n_gpus, mp_token_hash(e)) < p->n_slots);
            mp_router_free(r);
        }
        mp_verify_report_free(report);
        try_matrix(p);
    } else {
        need(p == NULL && err.status != MP_OK && err.message[0] != '\0');
    }
    mp_plan_free(p);
    mp_in_close(in);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char key[] = "checksum: \"";
    try_plan(data, size);
    /* Everything up to the last checksum key, with the right one behind it. */
    size_t at = size;
    while (at > 0 && (size - at < sizeof key - 1 || memcmp(data + at, key, sizeof key - 1) != 0))
        at--;
    char hex[65], *text = malloc(at + 80);
    if (text == NULL)
        return 0;
    if (at > 0) {
        memcpy(text, data, at);
        mp_sha256_hex(text, at, hex);
        memcpy(text + at, key, sizeof key - 1);
        memcpy(text + at + sizeof key - 1, hex, 64);
        memcpy(text + at + sizeof key - 1 + 64, "\"\n", 2);
        try_plan(text, at + sizeof key - 1 + 66);
    }
    free(text);
    return 0;
}
