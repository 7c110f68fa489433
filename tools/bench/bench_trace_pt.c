/* How fast recordings of serving stacks are read: SGLang's (.pt; a stat dump, and per_token of prefill and of decode)
 * and an expert statistic of TensorRT-LLM (safetensors), written here, of 200 MB and more each. Reference: issue 2 asks
 * for 500 MB/s per core, in bounded memory. Each is read in a process of its own, so that the peaks do not mix. */
#include <moeplan/trace.h>

#include "pt_writer.h"

#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { LAYERS = 61, DENSE = 3, EXPERTS = 256, PT_ROWS = 3300, RANKS = 4, ITERS = 440, RUNS = 5 };
/* per_token: rows in all, and of one pass; 32 experts have a second slot. */
enum { TOP_K = 8, SLOTS = 288, TOKEN_ROWS = 110592, PREFILL_ROWS = 2048, DECODE_ROWS = 256, PROMPT = 512 };
enum { MODE_EXTEND = 1, MODE_DECODE = 2 };

static double cpu_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Counts that look like counts: skewed, some zero. */
static uint32_t count(uint64_t i) {
    uint64_t x = (i + 1) * UINT64_C(0x9E3779B97F4A7C15);
    x ^= x >> 29;
    return x % 7 == 0 ? 0 : (uint32_t)(x % 1000);
}

static void must(bool is_good, const char *what) {
    if (!is_good) {
        perror(what);
        exit(1);
    }
}

/* Returns the file's size. */
static uint64_t save(struct zip_writer *z, const char *path) {
    struct bytes file = zip_finish(z);
    FILE *f = fopen(path, "wb");
    must(f != NULL && fwrite(file.at, 1, file.n, f) == file.n && fclose(f) == 0, path);
    free(file.at);
    return file.n;
}

static uint64_t write_pt(const char *path) {
    size_t cells = (size_t)PT_ROWS * LAYERS * EXPERTS, n = cells * 4;
    int32_t *data = calloc(cells, sizeof *data);
    struct bytes pickle = {0};
    struct zip_writer z = {0};
    must(data != NULL, "memory");
    for (size_t i = 0; i < cells; i++)
        data[i] = i / EXPERTS % LAYERS < DENSE ? 0 : (int32_t)count(i);
    pickle_start(&pickle);
    put_text(&pickle, "}(");
    pickle_string(&pickle, "rank");
    pickle_int(&pickle, 0);
    pickle_string(&pickle, "logical_count");
    pickle_tensor(&pickle, "IntStorage", "0", 3, (const uint64_t[]){PT_ROWS, LAYERS, EXPERTS});
    put_text(&pickle, "u.");
    zip_member(&z, "dump/data.pkl", pickle.at, pickle.n);
    zip_member(&z, "dump/data/0", data, n);
    free(data);
    free(pickle.at);
    return save(&z, path);
}

/* The slots of one token in one layer: distinct experts, some of them on their second slot. */
static void choose(int32_t *to, bool is_dense, uint32_t *random) {
    *random = *random * 1664525 + 1013904223;
    uint32_t first = *random >> 16, step = *random >> 9 | 1;
    for (uint32_t k = 0; k < TOP_K; k++) {
        uint32_t expert = (first + k * step) % EXPERTS;
        to[k] = is_dense ? -1 : (int32_t)(expert < SLOTS - EXPERTS && first % 2 != 0 ? expert + EXPERTS : expert);
    }
}

/* One record: pass `pass` of `rows` rows. Prompts of PROMPT tokens, or rows of a batch that go on from pass to pass,
 * each giving way to a new request now and then. */
static void put_record(struct bytes *b, uint32_t pass, uint32_t rows, int mode, int64_t *positions) {
    int64_t lengths[PREFILL_ROWS / PROMPT];
    char key[16];
    for (uint32_t j = 0; j < rows; j++)
        positions[j] = mode == MODE_EXTEND ? j % PROMPT : (pass + j * 37) % 193 == 0 ? 5 : positions[j] + 1;
    for (uint32_t i = 0; i < PREFILL_ROWS / PROMPT; i++)
        lengths[i] = PROMPT;
    put_text(b, "}(");
    pickle_string(b, "forward_pass_id");
    pickle_int(b, pass);
    pickle_string(b, "rank");
    pickle_int(b, 0);
    pickle_string(b, "input_ids");
    pickle_ints(b, positions, rows);
    pickle_string(b, "positions");
    pickle_ints(b, positions, rows);
    pickle_string(b, "extend_seq_lens");
    if (mode == MODE_EXTEND)
        pickle_ints(b, lengths, rows / PROMPT);
    else
        put_text(b, "N");
    pickle_string(b, "forward_mode");
    pickle_int(b, mode);
    pickle_string(b, "topk_ids_of_layer");
    snprintf(key, sizeof key, "%u", pass);
    pickle_tensor(b, "IntStorage", key, 3, (const uint64_t[]){LAYERS, rows, TOP_K});
    put_text(b, "u");
}

static uint64_t write_per_token(const char *path, int mode) {
    static int64_t map[LAYERS][SLOTS], positions[PREFILL_ROWS];
    uint32_t rows = mode == MODE_EXTEND ? PREFILL_ROWS : DECODE_ROWS, n_passes = TOKEN_ROWS / rows, random = 1;
    size_t n = (size_t)LAYERS * rows;
    int32_t *slots = calloc(n * TOP_K, sizeof *slots);
    struct bytes pickle = {0};
    struct zip_writer z = {0};
    char name[32];
    must(slots != NULL, "memory");
    pickle_start(&pickle);
    put_text(&pickle, "}(");
    pickle_string(&pickle, "records");
    put_text(&pickle, "](");
    for (uint32_t i = 0; i < n_passes; i++)
        put_record(&pickle, i, rows, mode, positions);
    put_text(&pickle, "e");
    pickle_string(&pickle, "last_physical_to_logical_map");
    snprintf(name, sizeof name, "%u", n_passes);
    pickle_tensor(&pickle, "LongStorage", name, 2, (const uint64_t[]){LAYERS, SLOTS});
    put_text(&pickle, "u.");
    zip_member(&z, "dump/data.pkl", pickle.at, pickle.n);
    free(pickle.at);
    for (uint32_t i = 0; i < n_passes; i++) {
        for (size_t k = 0; k < n; k++)
            choose(slots + k * TOP_K, k / rows < DENSE, &random);
        snprintf(name, sizeof name, "dump/data/%u", i);
        zip_member(&z, name, slots, n * TOP_K * sizeof *slots);
    }
    free(slots);
    for (uint32_t l = 0; l < LAYERS; l++)
        for (uint32_t s = 0; s < SLOTS; s++)
            map[l][s] = s % EXPERTS;
    snprintf(name, sizeof name, "dump/data/%u", n_passes);
    zip_member(&z, name, map, sizeof map);
    return save(&z, path);
}

static uint64_t write_safetensors(const char *folder) {
    static int64_t row[EXPERTS];
    char name[600];
    uint64_t total = 0;
    must(mkdir(folder, 0700) == 0, folder);
    snprintf(name, sizeof name, "%s/meta_info.json", folder);
    FILE *f = fopen(name, "wb");
    must(f != NULL && fprintf(f, "{\"num_experts\": %d, \"num_experts_per_token\": 8}", EXPERTS) > 0 && fclose(f) == 0,
         name);
    for (int g = 0; g < RANKS; g++) {
        struct bytes header = {0};
        uint64_t at = 0;
        for (int i = 0; i < ITERS; i++)
            for (int l = DENSE; l < LAYERS; l++, at += sizeof row) {
                char entry[160];
                snprintf(entry, sizeof entry,
                         "%s\"%d_%d\":{\"dtype\":\"I64\",\"shape\":[%d],\"data_offsets\":[%llu,%llu]}",
                         at == 0 ? "{" : ",", i + 100, l, EXPERTS, (unsigned long long)at,
                         (unsigned long long)(at + sizeof row));
                put_text(&header, entry);
            }
        put_text(&header, "}");
        uint64_t n = header.n;
        snprintf(name, sizeof name, "%s/rank%d.safetensors", folder, g);
        f = fopen(name, "wb");
        must(f != NULL && fwrite(&n, 8, 1, f) == 1 && fwrite(header.at, 1, n, f) == n, name);
        for (uint64_t i = 0; i < at / sizeof row; i++) {
            for (uint32_t e = 0; e < EXPERTS; e++)
                row[e] = count(i * EXPERTS + e + (uint64_t)g);
            must(fwrite(row, sizeof row, 1, f) == 1, name);
        }
        must(fclose(f) == 0, name);
        free(header.at);
        total += 8 + n + at;
    }
    return total;
}

static int read_it(const char *what, const char *path, uint64_t size) {
    double best = 1e9;
    uint64_t trace_bytes = 0;
    for (int run = 0; run < RUNS; run++) {
        struct mp_error err = {0};
        struct mp_trace *t;
        char text[1024];
        double start = cpu_seconds();
        if (mp_trace_load(&t, path, NULL, &mp_limits_default, &err) != MP_OK) {
            fprintf(stderr, "%s\n", mp_error_text(&err, text, sizeof text));
            return 1;
        }
        double took = cpu_seconds() - start;
        best = took < best ? took : best;
        trace_bytes = t->kind == MP_TRACE_TOKENS
                          ? t->n_rows * t->n_layers * t->top_k * t->id_bytes
                          : (uint64_t)t->n_iterations * t->n_layers * t->n_experts * sizeof *t->counts;
        mp_trace_free(t);
    }
    printf("%-14s %6.0f MB file  %6.0f MB/s per core (reference: 500)  peak allocation %5.0f MB, of which the trace "
           "%5.0f MB\n",
           what, (double)size / 1e6, (double)size / 1e6 / best, (double)mp_alloc_peak() / 1e6,
           (double)trace_bytes / 1e6);
    return fflush(stdout);
}

static int in_child(const char *what, const char *path, uint64_t size) {
    int status = 1;
    pid_t child = fork();
    must(child >= 0, "fork");
    if (child == 0)
        _exit(read_it(what, path, size));
    must(waitpid(child, &status, 0) == child, "waitpid");
    return status;
}

int main(void) {
    const char *temp = getenv("TMPDIR");
    char folder[256], path[400], name[440];
    snprintf(folder, sizeof folder, "%s/moeplan-bench-XXXXXX", temp != NULL ? temp : "/tmp");
    must(mkdtemp(folder) != NULL, folder);
    snprintf(path, sizeof path, "%s/dump.pt", folder);
    int failed = in_child(".pt stat", path, write_pt(path));
    failed |= in_child(".pt prefill", path, write_per_token(path, MODE_EXTEND));
    failed |= in_child(".pt decode", path, write_per_token(path, MODE_DECODE));
    unlink(path);
    snprintf(path, sizeof path, "%s/statistic", folder);
    failed |= in_child("safetensors", path, write_safetensors(path));
    for (int g = 0; g < RANKS; g++) {
        snprintf(name, sizeof name, "%s/rank%d.safetensors", path, g);
        unlink(name);
    }
    snprintf(name, sizeof name, "%s/meta_info.json", path);
    unlink(name);
    rmdir(path);
    rmdir(folder);
    return failed != 0;
}
