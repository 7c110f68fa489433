#include "progress.h"
#include "terminal.h"
#include <errno.h>
#include <moeplan/report.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { TICK_MS = 100, FIRST_MS = 1000 };
static const char erase[] = "\r\033[K";

/* There is one standard error, and so one line on it. */
static struct {
    pthread_mutex_t lock; /* guards what follows, and writing */
    pthread_cond_t wake;
    pthread_t thread;
    bool is_running, is_ending, is_hidden;
    struct mp_progress *progress;
    double started;
    /* Of each depth: the part that was last seen there, when it was first seen and how far it was then. */
    struct {
        uint64_t serial, done;
        double since;
    } seen[MP_PROGRESS_DEPTH];
} show = {.lock = PTHREAD_MUTEX_INITIALIZER};
static atomic_bool is_on_screen, is_writing, is_over;

static double now_seconds(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void put(const char *text, size_t n) {
    while (n > 0) {
        const ssize_t done = write(STDERR_FILENO, text, n);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return;
        text += done;
        n -= (size_t)done;
    }
}

static void take_away(void) {
    if (atomic_exchange(&is_on_screen, false))
        put(erase, sizeof erase - 1);
}

/* The other thread may be just about to write: it looks at is_over first, and a line that is on its way is waited for.
 */
void progress_erase_signal_safe(void) {
    atomic_store(&is_over, true);
    for (unsigned long i = 0; atomic_load(&is_writing) && i < 10000000; i++)
        continue;
    if (atomic_exchange(&is_on_screen, false))
        (void)!write(STDERR_FILENO, erase, sizeof erase - 1);
}

/* "8 s", "3 min 20 s", "2 h 5 min". */
static const char *duration(double seconds, char buf[32]) {
    const unsigned long long s = (unsigned long long)(seconds + 0.5);
    if (s < 60)
        snprintf(buf, 32, "%llu s", s);
    else if (s < 3600)
        snprintf(buf, 32, "%llu min %llu s", s / 60, s % 60);
    else
        snprintf(buf, 32, "%llu h %llu min", s / 3600 % 100000, s / 60 % 60);
    return buf;
}

/* "layers 31 of 58 (4.2/s, 6 s left)", "1.200 GB of 4.000 GB (310.0 MB/s)"; rate 0, left < 0: not said. */
static size_t put_part(char *text, size_t room, const struct mp_progress_state *s, double rate, double left) {
    char done[32], total[48] = "", per[96] = "", rest[64] = "";
    const bool is_bytes = strcmp(s->what, "bytes") == 0;
    int n;
    if (left >= 0)
        snprintf(rest, sizeof rest, ", %s left", duration(left, done));
    if (s->done == 0 && s->total == 0 && !s->is_uneven) {
        n = snprintf(text, room, "%s", is_bytes ? "reading" : s->what);
    } else if (is_bytes && s->done == 0) {
        n = snprintf(text, room, "reading");
    } else if (is_bytes) {
        if (s->total > 0)
            snprintf(total, sizeof total, " of %s", mp_human_bytes((double)s->total, done));
        if (rate > 0)
            snprintf(per, sizeof per, " (%s/s%s)", mp_human_bytes(rate, done), rest);
        n = snprintf(text, room, "%s%s%s", mp_human_bytes((double)s->done, done), total, per);
    } else {
        if (s->total > 0)
            snprintf(total, sizeof total, " of %llu", (unsigned long long)s->total);
        if (rate > 0)
            snprintf(per, sizeof per,
                     rate >= 9.95    ? " (%.0f/s%s)"
                     : rate >= 0.095 ? " (%.1f/s%s)"
                                     : " (%.2f/s%s)",
                     rate, rest);
        n = snprintf(text, room, "%s %llu%s%s", s->what, (unsigned long long)s->done, total, per);
    }
    return n < 0 ? 0 : (size_t)n < room ? (size_t)n : room - 1;
}

/* The line, at most `width` - 1 columns, so that the cursor stays on it; what matters most stands first. */
static size_t compose(char *line, size_t size, unsigned width, double now) {
    struct mp_progress_state state[MP_PROGRESS_DEPTH];
    const uint32_t n = mp_progress_read(show.progress, state);
    double inner = 0, left = -1; /* share of one unit of the part around it; seconds */
    double rate[MP_PROGRESS_DEPTH], part_left[MP_PROGRESS_DEPTH];
    char text[32];
    size_t used = 0;
    for (uint32_t i = n; i-- > 0;) {
        if (show.seen[i].serial != state[i].serial) {
            show.seen[i].serial = state[i].serial;
            show.seen[i].since = now;
            show.seen[i].done = state[i].done;
        }
        const double span = now - show.seen[i].since, all = (double)state[i].total,
                     done = (double)(state[i].done - show.seen[i].done) + (state[i].is_uneven ? 0 : inner);
        rate[i] = span > 0.5 && (state[i].done > show.seen[i].done || i > 0) ? done / span : 0;
        const double rest = all - (double)show.seen[i].done - done;
        part_left[i] = all > 0 && !state[i].is_uneven && rate[i] > 0 && rest >= 0 ? rest / rate[i] : -1;
        inner = all > 0 && !state[i].is_uneven ? ((double)show.seen[i].done + done) / all : 0;
        inner = inner < 1 ? inner : 1;
        if (rest > 0 || all <= 0) /* the outermost one's in the end; what is done waits for what is inside it */
            left = part_left[i];
    }
    used += (size_t)snprintf(line, size, "%s", duration(now - show.started, text));
    if (left >= 0)
        used += (size_t)snprintf(line + used, size - used, ", %s left", duration(left, text));
    for (uint32_t i = 0; i < n && used < size; i++) {
        const bool is_last = i + 1 == n;
        used += (size_t)snprintf(line + used, size - used, i == 0 ? ": " : ", ");
        if (used < size)
            used += put_part(line + used, size - used, &state[i], is_last ? rate[i] : 0,
                             is_last && n > 1 && part_left[i] != left ? part_left[i] : -1);
    }
    used = used < size ? used : size - 1;
    return used < width ? used : width - 1;
}

static void *run(void *unused) {
    (void)unused;
    char text[600];
    (void)pthread_mutex_lock(&show.lock);
    for (double next = show.started + FIRST_MS * 1e-3; !show.is_ending;) {
        const double now = now_seconds();
        if (now < next) {
            struct timespec until = {.tv_sec = (time_t)next, .tv_nsec = (long)((next - (double)(time_t)next) * 1e9)};
            (void)pthread_cond_timedwait(&show.wake, &show.lock, &until);
            continue;
        }
        next = now + TICK_MS * 1e-3;
        const unsigned width = terminal_of_errors(); /* it may have changed */
        if (show.is_hidden || width == 0)
            continue;
        memcpy(text, erase, sizeof erase - 1);
        const size_t n = compose(text + sizeof erase - 1, sizeof text - sizeof erase, width, now);
        atomic_store(&is_writing, true);
        if (!atomic_load(&is_over)) {
            atomic_store(&is_on_screen, true);
            put(text, sizeof erase - 1 + n);
        }
        atomic_store(&is_writing, false);
    }
    take_away();
    (void)pthread_mutex_unlock(&show.lock);
    return NULL;
}

/* Does a file go to the terminal, where the line would stand in it? */
static bool writes_to_terminal(const struct opts *o, const struct args *args) {
    bool is_out = o->out != NULL && strcmp(o->out, "-") == 0;
    for (int i = 0; i < args->n; i++)
        is_out |= strcmp(args->value[i], "-") == 0;
    return is_out && isatty(STDOUT_FILENO);
}

void progress_start(struct opts *o, const struct args *args) {
    pthread_condattr_t attributes;
    sigset_t all, before;
    o->progress = NULL;
    if (o->quiet || writes_to_terminal(o, args) || terminal_of_errors() == 0 ||
        (o->progress = mp_progress_new()) == NULL)
        return;
    show.progress = o->progress;
    show.started = now_seconds();
    show.is_ending = show.is_hidden = false;
    (void)pthread_condattr_init(&attributes);
    (void)pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&show.wake, &attributes);
    (void)pthread_condattr_destroy(&attributes);
    (void)sigfillset(&all); /* signals are for the other threads */
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    show.is_running = pthread_create(&show.thread, NULL, run, NULL) == 0;
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void progress_stop(struct opts *o) {
    if (show.is_running) {
        (void)pthread_mutex_lock(&show.lock);
        show.is_ending = true;
        (void)pthread_cond_signal(&show.wake);
        (void)pthread_mutex_unlock(&show.lock);
        (void)pthread_join(show.thread, NULL);
        show.is_running = false;
    }
    mp_progress_free(o->progress);
    o->progress = NULL;
}

void progress_hide(void) {
    if (!show.is_running)
        return;
    (void)pthread_mutex_lock(&show.lock);
    show.is_hidden = true;
    take_away();
    (void)pthread_mutex_unlock(&show.lock);
}

void progress_show(void) {
    if (!show.is_running)
        return;
    (void)pthread_mutex_lock(&show.lock);
    show.is_hidden = false;
    (void)pthread_mutex_unlock(&show.lock);
}
