/* Bytes as JSON: refused with a place, or a tree; all memory is on our account and comes back. */
#include <moeplan/json.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool what) {
    if (!what)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct mp_error err = {0};
    json_t *j = NULL;
    uint64_t v;
    enum mp_status status = mp_json_parse(&j, "fuzz", (const char *)data, size, 1, NULL, &err);
    require(status == MP_OK ||
            ((status == MP_EINPUT || status == MP_ELIMIT) && err.line > 0 && err.message[0] != '\0'));
    require((status == MP_OK) == (j != NULL));
    if (j != NULL)
        require(mp_json_u64(j, "a", "fuzz", 1, 3, 1000, &v, NULL) != MP_OK || (v >= 3 && v <= 1000));
    json_decref(j);
    require(mp_alloc_live() == 0);
    /* The same bytes as lines. */
    const char *cursor = (const char *)data, *end = cursor + size, *line;
    size_t n, total = 0;
    while (mp_next_line_within(&cursor, end, 4096, &line, &n)) {
        require(line >= (const char *)data && line + n <= end);
        total += n;
    }
    require(total <= size);
    return 0;
}
