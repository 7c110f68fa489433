/* Bytes as an array with a fixed requests table of five rows; or, when they start with "request", as the requests table
 * of a fixed array. */
#include "trace_target.h"
#include <stdio.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char table[64];
static void remove_table(void) { (void)unlink(table); }
static void write_table(const void *text, size_t n) {
    if (table[0] == '\0') {
        strcpy(table, "/tmp/moeplan-fuzz-XXXXXX");
        int fd = mkstemp(table);
        require(fd >= 0 && close(fd) == 0);
        atexit(remove_table);
    }
    FILE *f = fopen(table, "wb");
    require(f != NULL && fwrite(text, 1, n, f) == n && fclose(f) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char fixed_table[] = "request,first_row,tokens\n0,0,2\n1,2,3\n";
    static const char fixed_array[] =
        "\x93NUMPY\x01\x00\x40\x00{'descr': '|u1', 'fortran_order': False, 'shape': (5, 1, 1), } \n\0\1\2\3\0";
    static const char *const axes[] = {NULL, "tokens,layers,k", "layers,experts", "iterations,layers,experts",
                                       "sources,layers,experts"};
    static bool is_fixed;
    struct mp_trace_hints h = full_hints();
    if (size >= 7 && memcmp(data, "request", 7) == 0) {
        is_fixed = false;
        write_table(data, size);
        h.requests_path = table;
        h.axes = axes[1];
        check_reader("npz", (const uint8_t *)fixed_array, sizeof fixed_array - 1, &h);
        return 0;
    }
    if (!is_fixed)
        write_table(fixed_table, sizeof fixed_table - 1);
    is_fixed = true;
    h.requests_path = table;
    size_t i = size % (sizeof axes / sizeof axes[0]); /* one reading per input: the size picks which */
    h.axes = axes[i];
    h.n_experts = i >= 2 ? 0 : 4;
    check_reader("npz", data, size, &h);
    return 0;
}
