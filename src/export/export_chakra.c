/* One step as Chakra execution traces for ASTRA-sim: a file per GPU, send and receive nodes for every transfer of the
 * step and compute nodes for what lies between them. (Chakra has no all-to-all of unequal sizes.)
 *
 * A file is a sequence of messages, each behind its length as a varint: GlobalMetadata, then Nodes. Which attribute has
 * which type is what the readers of ASTRA-sim's versions agree on: sizes int64, ranks and tags int32. Every pair of
 * GPUs counts its transfers of the step, and that number is the tag, so that a send and its receive find each other
 * whatever else travels. Sends of a part stand before its receives: ASTRA-sim issues one send of a GPU at a time, in
 * the order of their numbers, and a receive whenever it may. */
#include "timeline_names.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHAKRA_COMP = 4, CHAKRA_SEND = 5, CHAKRA_RECEIVE = 6 };
enum { WIRE_VARINT = 0, WIRE_BYTES = 2 };

/* ---- messages ---- */

struct message {
    uint8_t *bytes;
    size_t n, room;
    bool is_broken; /* memory ran out */
};

static void put_bytes(struct message *m, const void *bytes, size_t n) {
    if (m->n + n > m->room) {
        size_t room = 2 * m->room + n + 256;
        uint8_t *grown = mp_realloc(m->bytes, room, 1);
        if (grown == NULL) {
            m->is_broken = true;
            return;
        }
        m->bytes = grown;
        m->room = room;
    }
    memcpy(m->bytes + m->n, bytes, n);
    m->n += n;
}

static size_t varint(uint64_t value, uint8_t out[10]) {
    size_t n = 0;
    for (; value > 0x7f; value >>= 7)
        out[n++] = (uint8_t)(value | 0x80);
    out[n++] = (uint8_t)value;
    return n;
}

static void put_varint(struct message *m, uint64_t value) {
    uint8_t out[10];
    put_bytes(m, out, varint(value, out));
}

static void put_number(struct message *m, uint32_t field, uint64_t value) {
    put_varint(m, field << 3 | WIRE_VARINT);
    put_varint(m, value);
}

static void put_text(struct message *m, uint32_t field, const char *text) {
    put_varint(m, field << 3 | WIRE_BYTES);
    put_varint(m, strlen(text));
    put_bytes(m, text, strlen(text));
}

/* Attribute number of a Node: its name, and a number in the field of its type. */
static void put_attribute(struct message *m, const char *name, uint32_t type_field, uint64_t value) {
    uint8_t number[10], key[10];
    size_t n_number = varint(value, number), n_key = varint(type_field << 3 | WIRE_VARINT, key);
    put_varint(m, 10 << 3 | WIRE_BYTES);
    put_varint(m, 2 + strlen(name) + n_key + n_number); /* names are shorter than 128 bytes */
    put_text(m, 1, name);
    put_bytes(m, key, n_key);
    put_bytes(m, number, n_number);
}

static void write_message(struct message *m, struct mp_out *o) {
    uint8_t length[10];
    mp_out_write(o, length, varint(m->n, length));
    mp_out_write(o, m->bytes, m->n);
    m->n = 0;
}

/* ---- what all files share ---- */

struct shared {
    struct mp_timeline *timeline;
    uint32_t *tags; /* [timeline->n] of transfers */
};

static void release(void *shared) {
    struct shared *s = shared;
    if (s == NULL)
        return;
    mp_timeline_free(s->timeline);
    mp_free(s->tags);
    mp_free(s);
}

static enum mp_status prepare(const struct mp_export *in, void **out, struct mp_error *err) {
    const size_t n_gpus = in->plan->n_gpus;
    const uint32_t step = in->step == MP_NONE ? 0 : in->step;
    enum mp_status status = MP_OK;
    struct shared *s = mp_calloc(1, sizeof *s);
    uint32_t *next = mp_calloc(n_gpus * n_gpus, sizeof *next);
    *out = NULL;
    if (s == NULL || next == NULL) {
        status = mp_nomem(err, "an execution trace");
        goto out;
    }
    MP_TRY(mp_simulate_timeline(&s->timeline, in->plan, in->workload, in->topology, in->model, in->sim, step, err));
    s->tags = mp_calloc(s->timeline->n + 1, sizeof *s->tags);
    if (s->tags == NULL) {
        status = mp_nomem(err, "an execution trace");
        goto out;
    }
    for (size_t k = 0; k < s->timeline->n; k++) {
        const struct mp_timeline_event *e = &s->timeline->events[k];
        if (e->peer != MP_NONE)
            s->tags[k] = next[e->gpu * n_gpus + e->peer]++;
    }
    *out = s;
    s = NULL;
out:
    release(s);
    mp_free(next);
    return status;
}

/* ---- one GPU ---- */

/* What this GPU does, in the order in which it may: by layer, part, phase and stage, sends before receives. */
struct act {
    uint32_t layer, part, phase, stage;
    bool is_receive;
    size_t event;
};

static int by_turn(const void *a, const void *b) {
    const struct act *x = a, *y = b;
    if (x->layer != y->layer)
        return x->layer < y->layer ? -1 : 1;
    if (x->part != y->part)
        return x->part < y->part ? -1 : 1;
    if (x->phase != y->phase)
        return x->phase < y->phase ? -1 : 1;
    if (x->stage != y->stage)
        return x->stage < y->stage ? -1 : 1;
    if (x->is_receive != y->is_receive)
        return x->is_receive - y->is_receive;
    return (x->event > y->event) - (x->event < y->event);
}

static bool is_together(const struct act *x, const struct act *y) {
    return x->layer == y->layer && x->part == y->part && x->phase == y->phase && x->stage == y->stage;
}

static uint32_t part_of(enum mp_timeline_kind kind) {
    static const uint32_t order[] = {
        [MP_TIME_DENSE] = 0,   [MP_TIME_ATTENTION] = 1, [MP_TIME_DISPATCH] = 2, [MP_TIME_SHARED] = 3,
        [MP_TIME_EXPERTS] = 4, [MP_TIME_COMBINE] = 5,   [MP_TIME_OTHER] = 6};
    return order[kind];
}

static bool is_transfer(const struct act *a) { return a->part == 2 || a->part == 5; }

static bool concerns(const struct mp_timeline_event *e, uint32_t gpu) {
    return e->kind == MP_TIME_OTHER || e->gpu == gpu || (e->peer != MP_NONE && e->peer == gpu);
}

static size_t list_acts(struct act *out, const struct mp_export *in, const struct mp_timeline *t, uint32_t gpu) {
    size_t n = 0;
    for (size_t k = 0; k < t->n; k++) {
        const struct mp_timeline_event *e = &t->events[k];
        if (!concerns(e, gpu))
            continue;
        /* The fan-out inside nodes follows what arrives, the fan-in goes before what leaves. */
        const bool is_late = e->kind == MP_TIME_COMBINE ? !e->is_second : e->is_second;
        out[n++] = (struct act){.layer = e->layer,
                                .part = part_of(e->kind),
                                .phase = in->sim->dispatcher->is_overlapped ? 0 : is_late,
                                .stage = e->stage == MP_NONE ? 0 : e->stage + 1,
                                .is_receive = e->peer != MP_NONE && e->peer == gpu,
                                .event = k};
    }
    qsort(out, n, sizeof *out, by_turn);
    return n;
}

/* The first of the acts that go with act k. */
static size_t group_start(const struct act *acts, size_t k) {
    while (k > 0 && is_together(&acts[k - 1], &acts[k]))
        k--;
    return k;
}

static bool is_same_phase(const struct act *x, const struct act *y) {
    return x->layer == y->layer && x->part == y->part && x->phase == y->phase;
}

/* What act k waits for. A computation: the one before it (computed, or none) and all transfers since, [since, k);
 * shared experts for no transfer. A transfer: the computation before it; in later stages the latest stage before in
 * which this GPU took part, where stages are free only in its own direction, else both ways, as a rank's send and
 * receive end together (a barrier between all GPUs is no more than that here: a trace has none); in a second phase all
 * transfers of the first. */
static void list_deps(struct message *list, const struct act *acts, size_t k, size_t computed, size_t since,
                      bool is_free) {
    const struct act *a = &acts[k];
    const bool is_shared = a->part == part_of(MP_TIME_SHARED);
    size_t first = since, end = is_transfer(a) ? group_start(acts, k) : k;
    bool own_way = false;
    if (is_transfer(a))
        for (size_t j = end; j > since && is_same_phase(&acts[j - 1], a); j--)
            if (!is_free || acts[j - 1].is_receive == a->is_receive) {
                end = j;
                first = group_start(acts, j - 1);
                own_way = is_free;
                break;
            }
    if (is_transfer(a) && !own_way && is_free) /* the first of its way: what came before the phase */
        while (end > since && is_same_phase(&acts[end - 1], a))
            end--;
    bool waits = false;
    for (size_t j = first; j < end && !is_shared; j++)
        if (is_transfer(&acts[j]) && (!own_way || acts[j].is_receive == a->is_receive)) {
            put_varint(list, j);
            waits = true;
        }
    if (computed != SIZE_MAX && (!waits || !is_transfer(a)))
        put_varint(list, computed);
}

static void name_act(const struct mp_export *in, const struct mp_timeline_event *e, bool is_receive, char *buf,
                     size_t size) {
    const uint32_t id = e->layer == MP_NONE ? 0 : in->plan->layers[e->layer].layer_id;
    if (e->peer != MP_NONE)
        snprintf(buf, size, "%s L%u %s %u", export_kind_name(e->kind), id, is_receive ? "from" : "to",
                 is_receive ? e->gpu : e->peer);
    else if (e->layer == MP_NONE)
        snprintf(buf, size, "%s", export_kind_name(e->kind));
    else
        snprintf(buf, size, "%s L%u", export_kind_name(e->kind), id);
}

static uint32_t n_files(const struct mp_export *in) { return in->plan->n_gpus; }

static void file_name(const struct mp_export *in, uint32_t i, char *buf, size_t size) {
    (void)in;
    snprintf(buf, size, "step.%u.et", i);
}

static void put_usage(const struct mp_export *in, const struct shared *s, const char *path, struct mp_out *usage) {
    const size_t length = strlen(path), tail = strlen(".0.et");
    mp_out_printf(usage,
                  "# ASTRA-sim, %u NPUs: --workload-configuration=%.*s, with \"roofline-enabled\": 0 in its system "
                  "configuration\n",
                  in->plan->n_gpus, (int)(length > tail ? length - tail : length), path);
    mp_out_printf(usage,
                  "# its network: moeplan convert TOPOLOGY network.yml --to astra-sim; moeplan predicts %.1f us for "
                  "this step\n",
                  (double)s->timeline->times.step_ns / 1e3);
}

static enum mp_status write(const struct mp_export *in, uint32_t gpu, const char *path, struct mp_out *out,
                            struct mp_out *usage, struct mp_error *err) {
    const struct shared *s = in->shared;
    const struct mp_timeline *t = s->timeline;
    const enum mp_stage_mode mode =
        in->sim->stage_mode < 0 ? in->plan->stage_mode : (enum mp_stage_mode)in->sim->stage_mode;
    struct message m = {0}, deps = {0};
    size_t computed = SIZE_MAX, since = 0;
    uint64_t computed_ns = 0;
    enum mp_status status = MP_OK;
    struct act *acts = mp_calloc(t->n + 1, sizeof *acts);
    if (acts == NULL)
        return mp_nomem(err, "an execution trace");
    const size_t n = list_acts(acts, in, t, gpu);
    put_text(&m, 1, "0.0.4");
    write_message(&m, out);
    for (size_t k = 0; k < n; k++) {
        const struct act *a = &acts[k];
        const struct mp_timeline_event *e = &t->events[a->event];
        char name[96];
        name_act(in, e, a->is_receive, name, sizeof name);
        put_number(&m, 1, k);
        put_text(&m, 2, name);
        put_number(&m, 3, !is_transfer(a) ? CHAKRA_COMP : a->is_receive ? CHAKRA_RECEIVE : CHAKRA_SEND);
        list_deps(&deps, acts, k, computed, since, mode == MP_STAGE_FREE);
        if (deps.n > 0) {
            put_varint(&m, 5 << 3 | WIRE_BYTES);
            put_varint(&m, deps.n);
            put_bytes(&m, deps.bytes, deps.n);
            deps.n = 0;
        }
        if (!is_transfer(a)) { /* whole microseconds; what is rounded off goes to the next computation */
            const uint64_t before = (computed_ns + 500) / 1000;
            computed_ns += e->end_ns - e->start_ns;
            put_number(&m, 7, (computed_ns + 500) / 1000 - before);
        }
        put_attribute(&m, "is_cpu_op", 27, 0);
        if (is_transfer(a)) {
            put_attribute(&m, "comm_size", 9, e->bytes);
            put_attribute(&m, "comm_src", 7, e->gpu);
            put_attribute(&m, "comm_dst", 7, e->peer);
            put_attribute(&m, "comm_tag", 7, s->tags[a->event]);
        }
        write_message(&m, out);
        if (m.is_broken || deps.is_broken) {
            status = mp_nomem(err, "an execution trace");
            goto out;
        }
        if (!is_transfer(a)) {
            computed = k;
            since = a->part == part_of(MP_TIME_SHARED) ? since : k + 1;
        }
    }
    if (gpu == 0)
        put_usage(in, s, path, usage);
out:
    mp_free(deps.bytes);
    mp_free(m.bytes);
    mp_free(acts);
    return status;
}

const struct mp_exporter mp_exporter_chakra = {
    .name = "chakra",
    .summary = "execution traces of --step N (else the first step) for ASTRA-sim, sends and receives, one per GPU",
    .reference = "MLCommons Chakra schema/protobuf/et_def.proto, 0.0.4; astra-sim/workload",
    .n_files = n_files,
    .file_name = file_name,
    .prepare = prepare,
    .release = release,
    .write = write,
};
