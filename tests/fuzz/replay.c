/* Runs a fuzz target over files (or every file of folders) without libFuzzer, so that plain `meson test` replays the
 * corpus; each input is also cut at every byte (small ones) and has bits flipped, with a fixed seed. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { CUT_AT_MOST = 2048, FLIPS = 64 };
static unsigned long n_runs;

static uint64_t next_random(uint64_t *state) {
    uint64_t x = *state += UINT64_C(0x9E3779B97F4A7C15);
    x = (x ^ (x >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94D049BB133111EB);
    return x ^ (x >> 31);
}

/* A copy of exactly `size` bytes, so that a sanitizer sees a read past its end. */
static void run_copy(const uint8_t *data, size_t size, size_t flip_byte, unsigned flip_bit) {
    uint8_t *copy = malloc(size > 0 ? size : 1); /* outside the allocator table on purpose: this is the harness */
    if (copy == NULL)
        abort();
    memcpy(copy, data, size);
    if (flip_byte < size)
        copy[flip_byte] = (uint8_t)(copy[flip_byte] ^ (1u << flip_bit));
    (void)LLVMFuzzerTestOneInput(copy, size);
    free(copy);
    n_runs++;
}

static void run_file(const char *path) {
    FILE *f = fopen(path, "rb");
    static uint8_t data[1 << 22];
    if (f == NULL) {
        fprintf(stderr, "cannot open %s\n", path);
        exit(1);
    }
    size_t size = fread(data, 1, sizeof data, f);
    fclose(f);
    uint64_t seed = size;
    run_copy(data, size, SIZE_MAX, 0);
    size_t stride = size / CUT_AT_MOST + 1;
    for (size_t cut = 0; cut < size; cut += stride)
        run_copy(data, cut, SIZE_MAX, 0);
    for (int i = 0; i < FLIPS && size > 0; i++) {
        uint64_t r = next_random(&seed);
        run_copy(data, size, (size_t)(r >> 8) % size, (unsigned)(r & 7));
    }
}

static int by_name(const struct dirent **a, const struct dirent **b) { return strcmp((*a)->d_name, (*b)->d_name); }

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        struct stat st;
        struct dirent **entries = NULL;
        if (stat(argv[i], &st) != 0)
            continue; /* a target without a corpus yet */
        if (!S_ISDIR(st.st_mode)) {
            run_file(argv[i]);
            continue;
        }
        int n = scandir(argv[i], &entries, NULL, by_name);
        for (int e = 0; e < n; e++) {
            char path[4096];
            snprintf(path, sizeof path, "%s/%s", argv[i], entries[e]->d_name);
            if (entries[e]->d_name[0] != '.')
                run_file(path);
            free(entries[e]);
        }
        free(entries);
    }
    run_copy((const uint8_t *)"", 0, SIZE_MAX, 0);
    printf("%lu inputs\n", n_runs);
    return 0;
}
