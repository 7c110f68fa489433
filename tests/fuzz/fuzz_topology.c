/* Bytes as a topology file, or, when they start with a digit, as a short string. What is accepted satisfies the
 * checker, has a path between any two GPUs, and comes back the same from its own text. */
#include <moeplan/topology.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool what) {
    if (!what)
        abort();
}

static void check_paths(const struct mp_topology *t) {
    uint32_t stride = t->n_gpus / 16 + 1;
    for (uint32_t i = 0; i < t->n_gpus; i += stride)
        for (uint32_t j = 0; j < t->n_gpus; j += stride) {
            struct mp_path p;
            mp_topology_path(t, i, j, &p);
            require((p.n == 0) == (i == j) && p.n <= 2 + 2 * MP_MAX_LEVELS && p.level < t->n_levels);
            for (uint32_t k = 0; k < p.n; k++)
                require(p.resource[k] < t->n_resources && t->resources[p.resource[k]].bytes_per_s > 0);
        }
}

static enum mp_status write_text(const struct mp_topology *t, struct mp_out **o, struct mp_in **in,
                                 struct mp_error *err) {
    size_t n;
    enum mp_status status = mp_out_open_memory(o, err);
    if (status != MP_OK)
        return status;
    mp_topology_write(t, *o);
    const uint8_t *text = mp_out_memory_bytes(*o, &n);
    return mp_in_from_memory(in, "again", text, n, err);
}

static void check_round_trip(const struct mp_topology *t) {
    struct mp_error err = {0};
    struct mp_out *first = NULL, *second = NULL;
    struct mp_in *in = NULL, *again = NULL;
    struct mp_topology *back = NULL;
    struct mp_limits large = mp_limits_default;
    large.yaml_bytes *= 4; /* escapes make a text longer */
    large.yaml_scalar *= 4;
    require(write_text(t, &first, &in, &err) == MP_OK && mp_topology_parse(&back, in, &large, &err) == MP_OK);
    require(write_text(back, &second, &again, &err) == MP_OK);
    require(in->size == again->size && memcmp(in->data, again->data, in->size) == 0);
    mp_in_close(in);
    mp_in_close(again);
    mp_out_cancel(first);
    mp_out_cancel(second);
    mp_topology_free(back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct mp_error err = {0};
    struct mp_topology *t = NULL;
    enum mp_status status = MP_OK;
    if (size > 0 && size < 100 && data[0] >= '0' && data[0] <= '9' && memchr(data, '/', size) == NULL) {
        char spec[100] = "";
        memcpy(spec, data, size);
        status = mp_topology_load(&t, spec, NULL, &err);
        require(status == MP_OK || status == MP_EINPUT || status == MP_EIO);
    } else {
        struct mp_in *in = NULL;
        require(mp_in_from_memory(&in, "fuzz", data, size, &err) == MP_OK);
        status = mp_topology_parse(&t, in, NULL, &err);
        require(status == MP_OK ||
                ((status == MP_EINPUT || status == MP_ELIMIT) && err.line > 0 && err.message[0] != '\0'));
        mp_in_close(in);
    }
    require((status == MP_OK) == (t != NULL));
    if (t != NULL) {
        require(mp_topology_check(t, &err) == MP_OK);
        check_paths(t);
        check_round_trip(t);
    }
    mp_topology_free(t);
    require(mp_alloc_live() == 0);
    return 0;
}
