/* What telling progress costs those who work: one addition, alone and from all threads at once while a reader looks ten
 * times a second, against the second that it is not to lengthen. */
#include <moeplan/progress.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>

enum { ROUNDS = 64, ADDS = 200000 };

static double now_seconds(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static enum mp_status add_many(void *ctx, size_t i, unsigned worker, struct mp_error *err) {
    (void)i, (void)worker, (void)err;
    for (int k = 0; k < ADDS; k++)
        mp_progress_add(ctx, 1);
    return MP_OK;
}

static atomic_bool is_over;
static void *look(void *progress) {
    struct mp_progress_state state[MP_PROGRESS_DEPTH];
    const struct timespec tick = {.tv_nsec = 100000000};
    while (!atomic_load(&is_over)) {
        (void)mp_progress_read(progress, state);
        (void)nanosleep(&tick, NULL);
    }
    return NULL;
}

int main(void) {
    struct mp_progress *p = mp_progress_new();
    struct mp_progress_part *part = mp_progress_begin(p, "items", ROUNDS * (uint64_t)ADDS, MP_PROGRESS_LEAF);
    struct mp_error err = {0};
    pthread_t reader;
    if (part == NULL || pthread_create(&reader, NULL, look, p) != 0)
        return 1;
    for (unsigned n_threads = 1; n_threads <= 2; n_threads++) {
        for (int is_told = 0; is_told < 2; is_told++) {
            const double started = now_seconds();
            if (mp_parallel_for(n_threads, ROUNDS, add_many, is_told ? part : NULL, &err) != MP_OK)
                return 1;
            printf("%u thread%s, %s: %.2f ns an item\n", n_threads, n_threads == 1 ? "" : "s",
                   is_told ? "told" : "nobody listens", 1e9 * (now_seconds() - started) / (ROUNDS * (double)ADDS));
        }
    }
    atomic_store(&is_over, true);
    (void)pthread_join(reader, NULL);
    mp_progress_end(part);
    mp_progress_free(p);
    printf("reference: the least item that is told, a line of a recording, takes 500 ns and more; a simulated step 100 "
           "us and more\n");
    return 0;
}
