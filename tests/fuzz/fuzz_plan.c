/* Bytes become a plan file: as they are, and with the checksum put right so that everything behind it is reached. What
 * is read must write the same bytes, pass its own check, and be judged by the verifier without a crash. */
#include <moeplan/verify.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void need(bool holds) {
    if (!holds)
        abort();
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
