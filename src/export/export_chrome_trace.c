/* The predicted timeline of one step as a Chrome trace (JSON object form; complete events, microseconds with three
 * decimals), for Perfetto and chrome://tracing.
 *
 * Process 0 is the step: what the simulator adds up, one part behind the other; pipelined the parts of the GPU that
 * ends last. Process g + 1 is GPU g: a track for
 * what it computes, tracks for what it sends and tracks for what it receives. A transfer takes the first track of its
 * side on which nothing runs any more, so that no two events of a track overlap. */
#include "timeline_names.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TRACK_COMPUTE = 0, TRACK_SEND = 1, TRACK_RECEIVE = 10001 };

static void put_text(struct mp_out *o, const char *s) {
    mp_out_puts(o, "\"");
    for (; s != NULL && *s != '\0'; s++) {
        if (*s == '"' || *s == '\\')
            mp_out_printf(o, "\\%c", *s);
        else if ((unsigned char)*s < ' ')
            mp_out_printf(o, "\\u%04x", (unsigned)*s);
        else
            mp_out_write(o, s, 1);
    }
    mp_out_puts(o, "\"");
}

static void put_time(struct mp_out *o, const struct mp_timeline_event *e) {
    uint64_t ns = e->end_ns - e->start_ns;
    mp_out_printf(o, "\"ts\":%llu.%03llu,\"dur\":%llu.%03llu", (unsigned long long)(e->start_ns / 1000),
                  (unsigned long long)(e->start_ns % 1000), (unsigned long long)(ns / 1000),
                  (unsigned long long)(ns % 1000));
}

static void put_metadata(struct mp_out *o, const char *what, uint32_t pid, uint32_t tid, const char *key) {
    mp_out_printf(o, ",\n{\"name\":\"%s\",\"ph\":\"M\",\"pid\":%u,\"tid\":%u,\"args\":{\"%s\":", what, pid, tid, key);
}
/* A track's name; they stand in the order of their numbers. */
static void put_track(struct mp_out *o, uint32_t pid, uint32_t tid, const char *name, uint32_t number) {
    put_metadata(o, "thread_name", pid, tid, "name");
    mp_out_printf(o, number > 0 ? "\"%s %u\"}}" : "\"%s\"}}", name, number + 1);
    put_metadata(o, "thread_sort_index", pid, tid, "sort_index");
    mp_out_printf(o, "%u}}", tid);
}

/* Tracks of one side (send or receive) of one GPU: when each is free again. */
struct side {
    uint64_t *free_at;
    uint32_t n, n_allocated;
};

static uint32_t take_track(struct side *s, const struct mp_timeline_event *e) {
    for (uint32_t k = 0; k < s->n; k++)
        if (s->free_at[k] <= e->start_ns) {
            s->free_at[k] = e->end_ns;
            return k;
        }
    if (s->n == s->n_allocated) {
        uint32_t n = 2 * s->n_allocated + 4;
        uint64_t *grown = mp_realloc(s->free_at, n, sizeof *grown);
        if (grown == NULL)
            return MP_NONE;
        s->free_at = grown;
        s->n_allocated = n;
    }
    s->free_at[s->n] = e->end_ns;
    return s->n++;
}

static int by_start(const void *a, const void *b) {
    const struct mp_timeline_event *x = a, *y = b;
    bool p = x->peer != MP_NONE, q = y->peer != MP_NONE;
    if (p != q)
        return p - q; /* what is no transfer comes first, in its own order */
    if (x->start_ns != y->start_ns)
        return x->start_ns < y->start_ns ? -1 : 1;
    if (x->gpu != y->gpu)
        return x->gpu < y->gpu ? -1 : 1;
    if (x->peer != y->peer)
        return x->peer < y->peer ? -1 : 1;
    return x->is_second != y->is_second ? x->is_second - y->is_second
                                        : (x->end_ns > y->end_ns) - (x->end_ns < y->end_ns);
}

static void put_work(struct mp_out *o, const struct mp_export *in, const struct mp_timeline_event *e) {
    mp_out_printf(o, ",\n{\"name\":\"%s", export_kind_name(e->kind));
    if (e->layer != MP_NONE)
        mp_out_printf(o, " L%u", in->plan->layers[e->layer].layer_id);
    mp_out_printf(o, "\",\"cat\":\"%s\",\"ph\":\"X\",", e->gpu == MP_NONE ? "step" : "compute");
    put_time(o, e);
    mp_out_printf(o, ",\"pid\":%u,\"tid\":%u", e->gpu == MP_NONE ? 0 : e->gpu + 1, (unsigned)TRACK_COMPUTE);
    if (e->gpu != MP_NONE)
        mp_out_printf(o, ",\"args\":{\"%s\":%llu}", e->kind == MP_TIME_EXPERTS ? "rows" : "tokens",
                      (unsigned long long)e->bytes);
    mp_out_puts(o, "}");
}

static void put_transfer(struct mp_out *o, const struct mp_export *in, const struct mp_timeline_event *e,
                         bool is_receive, uint32_t track) {
    const uint32_t gpu = is_receive ? e->peer : e->gpu, peer = is_receive ? e->gpu : e->peer;
    const char *what = e->kind == MP_TIME_COMBINE ? "combine" : "dispatch";
    mp_out_printf(o, ",\n{\"name\":\"%s L%u %s GPU %u\",\"cat\":\"%s\",\"ph\":\"X\",", what,
                  in->plan->layers[e->layer].layer_id, is_receive ? "from" : "to", peer, what);
    put_time(o, e);
    mp_out_printf(o, ",\"pid\":%u,\"tid\":%u,\"args\":{\"bytes\":%llu,\"peer\":%u", gpu + 1,
                  (is_receive ? TRACK_RECEIVE : TRACK_SEND) + track, (unsigned long long)e->bytes, peer);
    if (e->stage != MP_NONE)
        mp_out_printf(o, ",\"stage\":%u", e->stage);
    if (e->is_second)
        mp_out_puts(o, ",\"phase\":\"inside nodes\"");
    mp_out_puts(o, "}}");
}

static void put_head(struct mp_out *o, const struct mp_export *in, uint32_t step, const struct mp_timeline *t) {
    mp_out_puts(o, "{\"displayTimeUnit\":\"ns\",\"otherData\":{\"source\":\"predicted by moeplan\",\"strategy\":");
    put_text(o, in->plan->provenance.strategy);
    mp_out_puts(o, ",\"topology\":");
    put_text(o, in->topology->name);
    mp_out_puts(o, ",\"model\":");
    put_text(o, in->model->name);
    mp_out_printf(o,
                  ",\"dispatcher\":\"%s\",\"timeline\":\"%s\",\"step\":%u,\"step_ns\":%llu,\"dispatch_ns\":%llu,"
                  "\"compute_ns\":%llu,"
                  "\"combine_ns\":%llu,\"other_ns\":%llu},\n\"traceEvents\":[\n"
                  "{\"name\":\"process_name\",\"ph\":\"M\",\"pid\":0,\"args\":{\"name\":\"step\"}}",
                  in->sim->dispatcher->name, in->sim->is_pipelined ? "pipelined" : "barrier", step,
                  (unsigned long long)t->times.step_ns, (unsigned long long)t->times.dispatch_ns,
                  (unsigned long long)t->times.compute_ns, (unsigned long long)t->times.combine_ns,
                  (unsigned long long)t->times.other_ns);
    put_track(o, 0, TRACK_COMPUTE, "parts", 0);
    for (uint32_t g = 0; g < t->n_gpus; g++) {
        char name[64];
        snprintf(name, sizeof name, "GPU %u (node %u)", g, mp_topology_node(in->topology, g));
        put_metadata(o, "process_name", g + 1, 0, "name");
        put_text(o, name);
        mp_out_puts(o, "}}");
        put_metadata(o, "process_sort_index", g + 1, 0, "sort_index");
        mp_out_printf(o, "%u}}", g + 1);
        put_track(o, g + 1, TRACK_COMPUTE, "compute", 0);
    }
}

static enum mp_status write(const struct mp_export *in, uint32_t i, const char *path, struct mp_out *out,
                            struct mp_out *usage, struct mp_error *err) {
    (void)i;
    const uint32_t step = in->step == MP_NONE ? 0 : in->step, n_gpus = in->plan->n_gpus;
    struct mp_timeline *t = NULL;
    enum mp_status status = MP_OK;
    struct side *sides = mp_calloc((size_t)n_gpus * 2, sizeof *sides); /* sends, then receives */
    if (sides == NULL) {
        status = mp_nomem(err, "a timeline");
        goto out;
    }
    MP_TRY(mp_simulate_timeline(&t, in->plan, in->workload, in->topology, in->model, in->sim, step, err));
    put_head(out, in, step, t);
    size_t n_work = 0;
    for (size_t k = 0; k < t->n; k++)
        if (t->events[k].peer == MP_NONE) {
            put_work(out, in, &t->events[k]);
            n_work++;
        }
    qsort(t->events, t->n, sizeof *t->events, by_start);
    for (size_t k = n_work; k < t->n; k++) {
        const struct mp_timeline_event *e = &t->events[k];
        uint32_t track[2] = {take_track(&sides[e->gpu], e), take_track(&sides[n_gpus + e->peer], e)};
        if (track[0] == MP_NONE || track[1] == MP_NONE) {
            status = mp_nomem(err, "a timeline");
            goto out;
        }
        put_transfer(out, in, e, false, track[0]);
        put_transfer(out, in, e, true, track[1]);
    }
    for (uint32_t g = 0; g < n_gpus; g++) {
        for (uint32_t k = 0; k < sides[g].n; k++)
            put_track(out, g + 1, TRACK_SEND + k, "send", k);
        for (uint32_t k = 0; k < sides[n_gpus + g].n; k++)
            put_track(out, g + 1, TRACK_RECEIVE + k, "receive", k);
    }
    mp_out_puts(out, "\n]}\n");
    mp_out_printf(usage, "# step %u, %.1f us predicted: open %s in https://ui.perfetto.dev or chrome://tracing\n", step,
                  (double)t->times.step_ns / 1e3, strcmp(path, "-") == 0 ? "it" : path);
out:
    mp_timeline_free(t);
    for (size_t k = 0; sides != NULL && k < (size_t)n_gpus * 2; k++)
        mp_free(sides[k].free_at);
    mp_free(sides);
    return status;
}

const struct mp_exporter mp_exporter_chrome_trace = {
    .name = "chrome-trace",
    .summary = "timeline of --step N (else the first step) for Perfetto and chrome://tracing, JSON",
    .reference = "Trace Event Format, JSON object form",
    .write = write,
};
