#include "progress.h"
#include "tool.h"
#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static MP_PRINTF(1, 0) void say(const char *fmt, va_list ap) {
    progress_hide();
    fputs("moeplan: ", stderr);
    vfprintf(stderr, fmt, ap);
    fputs("\n", stderr);
    progress_show();
}

void tool_note(const struct opts *o, const char *fmt, ...) {
    if (o->quiet)
        return;
    va_list ap;
    va_start(ap, fmt);
    say(fmt, ap);
    va_end(ap);
}

void tool_say(const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    say(fmt, ap);
    va_end(ap);
}

enum mp_status tool_check_strict(const struct opts *o, struct mp_error *err) {
    if (o->strict && o->interval_groups < 2)
        return mp_fail(err, MP_EUSAGE,
                       "--strict: without an interval nothing is more than noise (write "
                       "--interval-groups 10)");
    return MP_OK;
}

unsigned tool_threads(const struct opts *o) {
    if (o->threads > 0)
        return (unsigned)o->threads;
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n < 1 ? 1 : n > MP_MAX_THREADS ? MP_MAX_THREADS : (unsigned)n;
}

static bool says(const char *value, const char *word) { return value != NULL && strcmp(value, word) == 0; }

static enum mp_phase phase_of_name(const char *name) {
    return says(name, "prefill")  ? MP_PHASE_PREFILL
           : says(name, "decode") ? MP_PHASE_DECODE
           : says(name, "train")  ? MP_PHASE_TRAIN
           : says(name, "mixed")  ? MP_PHASE_MIXED
                                  : MP_PHASE_UNKNOWN;
}

static enum mp_status load_trace(struct mp_trace **out, const char *path, const struct opts *o, bool overrides,
                                 struct mp_trace_missing *missing, struct mp_error *err) {
    struct mp_trace_hints hints = mp_trace_hints_none;
    hints.layer_base = o->is_set[OPT_LAYER_BASE] ? (int)o->layer_base : -1;
    hints.phase = phase_of_name(o->phase);
    hints.ids_are_physical = o->ids == NULL ? -1 : says(o->ids, "physical");
    hints.map_path = o->map;
    hints.requests_path = o->requests;
    hints.is_ranked = o->ranked == NULL ? -1 : says(o->ranked, "yes");
    hints.n_experts = (uint32_t)o->experts;
    hints.top_k = (uint32_t)o->top_k;
    hints.format = o->input_format;
    hints.axes = o->axes;
    hints.progress = o->progress;
    hints.mtp_base = o->is_set[OPT_MTP_BASE] ? (int)o->mtp_base : -1;
    hints.n_stages = (uint32_t)o->pipeline_stages;
    hints.overrides = overrides;
    hints.missing = missing;
    hints.n_threads = tool_threads(o);
    *out = NULL;
    struct mp_model *model = NULL;
    if (o->model != NULL) { /* it says how many experts a layer has, which arrays do not */
        enum mp_status status = mp_model_load(&model, o->model, &o->limits, err);
        if (status != MP_OK)
            return status;
        hints.model_name = model->name;
        if (hints.n_experts == 0)
            hints.n_experts = model->n_experts;
    }
    enum mp_status status = mp_trace_load(out, path, &hints, &o->limits, err);
    if (status == MP_EUSAGE && missing != NULL && !missing->top_k &&
        (missing->phase || missing->layer_base || missing->ids || missing->experts)) {
        mp_error_clear(err); /* read with stand-ins, which the caller names as such */
        hints.phase = missing->phase ? MP_PHASE_MIXED : hints.phase;
        hints.layer_base = missing->layer_base ? 0 : hints.layer_base;
        hints.ids_are_physical = missing->ids ? 0 : hints.ids_are_physical;
        hints.n_experts = missing->experts ? MP_MAX_EXPERTS : hints.n_experts;
        status = mp_trace_load(out, path, &hints, &o->limits, err);
    }
    mp_model_free(model);
    if (status == MP_OK && o->is_set[OPT_EXPERTS] && (*out)->n_experts != o->experts) {
        status = mp_fail_at(err, MP_EUSAGE, path, 0, 0, "the recording says %u experts (leave out --experts)",
                            (*out)->n_experts);
        mp_trace_free(*out);
        *out = NULL;
    }
    if (status == MP_OK && (*out)->note != NULL)
        tool_note(o, "%s: %s", path, (*out)->note);
    return status;
}

enum mp_status tool_load_trace(struct mp_trace **out, const char *path, const struct opts *o, struct mp_error *err) {
    return load_trace(out, path, o, false, NULL, err);
}

enum mp_status tool_load_trace_with_gaps(struct mp_trace **out, const char *path, const struct opts *o,
                                         struct mp_trace_missing *missing, struct mp_error *err) {
    *missing = (struct mp_trace_missing){0};
    return load_trace(out, path, o, false, missing, err);
}

enum mp_status tool_load_trace_changed(struct mp_trace **out, const char *path, const struct opts *o,
                                       struct mp_error *err) {
    return load_trace(out, path, o, true, NULL, err);
}

const char *tool_s(uint64_t n) { return n == 1 ? "" : "s"; }

static bool is_model_preset(const char *name) {
    const char *preset, *summary;
    for (uint32_t i = 0; mp_model_preset(i, &preset, &summary); i++)
        if (strcmp(preset, name) == 0)
            return true;
    return false;
}

/* Every layer, the experts and the top-k of the recording must be the model's. */
static enum mp_status check_model(const struct mp_model *m, const char *spec, const struct mp_trace *t,
                                  struct mp_error *err) {
    if (m->n_experts != t->n_experts || t->n_layers > m->n_layers)
        return mp_fail(err, MP_EINPUT,
                       "model %s has %u experts in %u MoE layers of %u, the recording has %u experts in %u layers "
                       "(name the model that was recorded)",
                       spec, m->n_experts, m->n_layers, m->n_hidden_layers, t->n_experts, t->n_layers);
    if (t->top_k != 0 && t->top_k != m->top_k)
        return mp_fail(err, MP_EINPUT,
                       "model %s is top-%u, the recording has %u experts per token (name the model that was recorded)",
                       spec, m->top_k, t->top_k);
    for (uint32_t l = 0, k = 0; l < t->n_layers; l++) {
        while (k < m->n_layers && m->layer_ids[k] < t->layer_ids[l])
            k++;
        if (k == m->n_layers || m->layer_ids[k] != t->layer_ids[l])
            return mp_fail(err, MP_EINPUT,
                           "the recording has layer %u, which is no MoE layer of model %s: its %u MoE layers are from "
                           "%u to %u (write --layer-base %u when it begins with the first of them; a native recording "
                           "is changed by moeplan convert)",
                           t->layer_ids[l], spec, m->n_layers, m->layer_ids[0], m->layer_ids[m->n_layers - 1],
                           m->layer_ids[0]);
    }
    return MP_OK;
}

enum mp_status tool_load_model(struct mp_model **out, const struct opts *o, const struct mp_trace *trace,
                               struct mp_error *err) {
    *out = NULL;
    enum mp_status status;
    bool is_named = trace->model != NULL && trace->model[0] != '\0' && is_model_preset(trace->model);
    if (o->model != NULL || is_named) {
        const char *spec = o->model != NULL ? o->model : trace->model;
        status = mp_model_load(out, spec, &o->limits, err);
        if (status != MP_OK)
            return status;
        status = check_model(*out, spec, trace, err);
        if (status == MP_OK)
            return MP_OK;
        mp_model_free(*out);
        *out = NULL;
        if (o->model != NULL)
            return status;
        mp_error_clear(err); /* a recording of other layers or experts of a model it only names: not an error */
    }
    return mp_model_generic(out, trace->layer_ids, trace->n_layers, trace->n_experts,
                            trace->top_k > 0 ? trace->top_k : 1, err);
}

void tool_note_generic(const struct opts *o, const struct mp_model *model) {
    if (model->is_stand_in)
        tool_note(o,
                  "no model given: a generic one with %u layer%s of %u experts stands in (-m MODEL gives real sizes)",
                  model->n_layers, tool_s(model->n_layers), model->n_experts);
}

void tool_note_layers(const struct opts *o, const struct mp_trace *trace, const struct mp_model *model) {
    if (trace->n_layers < model->n_layers)
        tool_note(o, "%u of %u MoE layers are recorded: step times cover those only", trace->n_layers, model->n_layers);
}

enum mp_status tool_batching(struct mp_batching *out, const struct opts *o, const struct mp_trace *trace,
                             const struct mp_topology *topology, struct mp_error *err) {
    enum mp_phase phase = o->phase != NULL ? phase_of_name(o->phase) : trace->phase;
    bool is_decode = phase == MP_PHASE_DECODE;
    *out = (struct mp_batching){0};
    if (trace->kind == MP_TRACE_TOKENS && phase != MP_PHASE_PREFILL && phase != MP_PHASE_DECODE &&
        phase != MP_PHASE_TRAIN)
        return mp_fail(err, MP_EUSAGE, "the recording does not say its phase (give --phase decode or --phase prefill)");
    if (trace->kind == MP_TRACE_TOKENS && is_decode && o->is_set[OPT_TOKENS_PER_RANK])
        return mp_fail(err, MP_EUSAGE, "--tokens-per-rank is for prefill, the recording is decode (use --batch B)");
    if (trace->kind == MP_TRACE_TOKENS && !is_decode && o->is_set[OPT_BATCH])
        return mp_fail(err, MP_EUSAGE, "--batch is for decode, the recording is %s (use --tokens-per-rank T)",
                       mp_phase_name(phase));
    if (trace->kind == MP_TRACE_COUNTS) {
        static const enum opt_id ignored[] = {OPT_BATCH, OPT_TOKENS_PER_RANK, OPT_RESAMPLE, OPT_SOURCE_SKEW, OPT_PAD};
        for (size_t i = 0; i < sizeof ignored / sizeof *ignored; i++)
            if (o->is_set[ignored[i]])
                return mp_fail(err, MP_EUSAGE,
                               "the recording has counts only: one step is one recorded iteration here (leave out "
                               "--%s)",
                               opt_table[ignored[i]].name);
    }
    *out = (struct mp_batching){
        .phase = phase,
        .n_ranks = topology->n_gpus,
        .batch_per_rank = is_decode ? (uint32_t)o->batch : 0,
        .tokens_per_rank = is_decode ? 0 : o->tokens_per_rank,
        .source_skew_ppm = (uint32_t)o->source_skew_ppm,
        .pad_tokens = (uint32_t)o->pad,
        .n_steps_max = (uint32_t)o->steps,
        .resample = o->resample,
        .seed = o->seed,
    };
    return MP_OK;
}

struct mp_sim_options tool_sim_options(const struct opts *o, const struct mp_trace *trace, enum mp_phase phase) {
    const char *n = o->network;
    return (struct mp_sim_options){
        .progress = o->progress,
        .dispatcher =
            o->dispatcher != NULL ? mp_dispatcher_find(o->dispatcher) : mp_dispatcher_default(phase, trace->kind),
        .sources = says(o->sources, "coupled") ? MP_SOURCES_COUPLED : MP_SOURCES_DP,
        .network = says(n, "concurrent")   ? MP_NETWORK_CONCURRENT
                   : says(n, "rcs")        ? MP_NETWORK_RCS
                   : says(n, "sjf")        ? MP_NETWORK_SJF
                   : says(n, "spread-out") ? MP_NETWORK_SPREAD_OUT
                                           : MP_NETWORK_PLAN,
        .stage_mode = o->stage_barrier   ? (int)MP_STAGE_BARRIER
                      : o->stage_coupled ? (int)MP_STAGE_COUPLED
                                         : -1,
        .no_pacing = !o->pacing,
        .n_threads = tool_threads(o),
        .seed = o->seed,
        .is_pipelined = says(o->timeline, "pipelined"),
        .routing_ns = o->routing_ns,
        .with_bound = true,
    };
}

enum mp_status tool_for_each_word(const char *list, const char *option, char *word, size_t size,
                                  enum mp_status (*fn)(void *ctx, const char *word, struct mp_error *err), void *ctx,
                                  struct mp_error *err) {
    for (const char *p = list; p != NULL;) {
        size_t n = strcspn(p, ",");
        if (n == 0 || n >= size)
            return mp_fail(err, MP_EUSAGE,
                           "--%s: \"%.80s\" has an empty or too long part (write names with one comma between)", option,
                           list);
        snprintf(word, size, "%.*s", (int)n, p);
        enum mp_status status = fn(ctx, word, err);
        if (status != MP_OK)
            return status;
        p = p[n] == ',' ? p + n + 1 : NULL;
    }
    return MP_OK;
}

enum mp_status tool_settings(const struct mp_setting **out, uint32_t *n, const struct opts *o, struct mp_arena *arena,
                             struct mp_error *err) {
    *out = NULL;
    *n = 0;
    if (o->set == NULL)
        return MP_OK;
    struct mp_setting *settings = mp_arena_alloc(arena, strlen(o->set), sizeof *settings);
    char *text = mp_arena_strdup(arena, o->set);
    if (settings == NULL || text == NULL)
        return mp_nomem(err, "options of strategies");
    for (char *word = text; word != NULL;) {
        char *end = strchr(word, ','), *dot = strchr(word, '.'), *is;
        if (end != NULL)
            *end = '\0';
        is = strchr(word, '=');
        struct mp_setting *s = &settings[*n];
        if (dot == NULL || is == NULL || dot > is || !mp_parse_i64(is + 1, strlen(is + 1), &s->value))
            return mp_fail(err, MP_EUSAGE,
                           "--set: \"%.80s\" is not STRATEGY.OPTION=N (for instance matchings.stages=16)", word);
        *dot = *is = '\0';
        s->strategy = word;
        s->option = dot + 1;
        (*n)++;
        word = end != NULL ? end + 1 : NULL;
    }
    *out = settings;
    struct mp_error why = {0};
    if (mp_settings_check(settings, *n, &why) == MP_OK)
        return MP_OK;
    return mp_fail(err, MP_EUSAGE, "--set: %s", why.message);
}

bool tool_names_topology(const struct mp_plan *p, const struct opts *o) {
    struct mp_topology *t = NULL;
    struct mp_error ignored = {0};
    bool is_same = p->provenance.topology[0] != '\0' &&
                   mp_topology_load(&t, p->provenance.topology, &o->limits, &ignored) == MP_OK &&
                   strcmp(t->sha256, p->provenance.topology_sha256) == 0;
    mp_topology_free(t);
    return is_same;
}

bool tool_names_model(const struct mp_plan *p, const struct opts *o) {
    struct mp_model *m = NULL;
    struct mp_error ignored = {0};
    bool is_same = is_model_preset(p->provenance.model) &&
                   mp_model_load(&m, p->provenance.model, &o->limits, &ignored) == MP_OK &&
                   strcmp(m->sha256, p->provenance.model_sha256) == 0;
    mp_model_free(m);
    return is_same;
}

enum mp_stage_mode tool_stages(const struct opts *o) {
    for (int m = MP_STAGE_FREE; m <= MP_STAGE_COUPLED; m++)
        if (says(o->stages, mp_stage_mode_name((enum mp_stage_mode)m)))
            return (enum mp_stage_mode)m;
    return MP_STAGE_COUPLED;
}

struct mp_stack_options tool_stack_options(const struct opts *o, const struct mp_model *model,
                                           const struct mp_topology *topology) {
    return (struct mp_stack_options){
        .model = model,
        .layer_base = o->is_set[OPT_LAYER_BASE] ? (int)o->layer_base : -1,
        .n_gpus = topology != NULL ? topology->n_gpus : (uint32_t)o->gpus,
        .n_nodes = topology != NULL ? mp_topology_n_nodes(topology) : (uint32_t)o->nodes,
        .n_experts = model != NULL ? model->n_experts : (uint32_t)o->experts,
        .n_hidden_layers = (uint32_t)o->hidden_layers,
        .n_mtp_layers = (uint32_t)o->mtp_layers,
    };
}

enum mp_objective tool_objective(const struct opts *o) {
    return says(o->objective, "p95")                ? MP_OBJECTIVE_P95
           : says(o->objective, "peak")             ? MP_OBJECTIVE_PEAK
           : says(o->objective, "inter-node-bytes") ? MP_OBJECTIVE_INTER
                                                    : MP_OBJECTIVE_STEP;
}

enum mp_status tool_check_output(const char *path, struct mp_error *err) {
    struct stat st;
    char folder[4096];
    if (strcmp(path, "-") == 0)
        return MP_OK;
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
        return mp_fail_at(err, MP_EIO, path, 0, 0, "is a folder (name a file in it)");
    /* The writer renames a finished file over the old one, which would replace a device by a file. */
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode))
        return mp_fail_at(err, MP_EIO, path, 0, 0, "is not a regular file (write to - and redirect standard output)");
    const char *slash = strrchr(path, '/');
    size_t n = slash == NULL ? 0 : slash == path ? 1 : (size_t)(slash - path);
    if (n >= sizeof folder)
        return mp_fail_at(err, MP_EIO, path, 0, 0, "the name is too long");
    snprintf(folder, sizeof folder, "%.*s", n > 0 ? (int)n : 1, n > 0 ? path : ".");
    if (stat(folder, &st) != 0 || !S_ISDIR(st.st_mode))
        return mp_fail_at(err, MP_EIO, path, 0, 0, "the folder %s does not exist (make it first)", folder);
    if (access(folder, W_OK | X_OK) != 0)
        return mp_fail_at(err, MP_EIO, path, 0, 0, "the folder %s cannot be written to", folder);
    return MP_OK;
}

/* Are they one file, which is there? b may be a topology's argument, "4xdgx.xml:h100". */
static bool is_same_file(const char *a, const char *b) {
    struct stat x, y;
    char path[4096];
    return a != NULL && b != NULL && stat(a, &x) == 0 && S_ISREG(x.st_mode) &&
           (stat(b, &y) == 0 || (mp_topology_file(b, path, sizeof path) && stat(path, &y) == 0)) &&
           x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

enum mp_status tool_keep_inputs(const struct opts *o, const struct args *args, struct mp_error *err) {
    const char *const outputs[] = {o->out, o->out_b}, *const others[] = {o->incumbent, o->sweep_file, o->drift_on,
                                                                         o->measured};
    const int n_others = sizeof others / sizeof others[0];
    for (size_t k = 0; k < sizeof outputs / sizeof outputs[0]; k++)
        for (int i = 0; i < args->n + n_others; i++) {
            const char *input = i < args->n ? args->value[i] : others[i - args->n];
            if (is_same_file(outputs[k], input))
                return mp_fail(err, MP_EUSAGE, "the result would replace its own input %s (write it to another file)",
                               input);
        }
    return MP_OK;
}

/* ---- what is it? ---- */

/* The word after "schema: moeplan." at the start of a line of the head, or "". */
static void schema_of(const struct mp_in *in, char *word, size_t size) {
    static const char key[] = "schema: moeplan.";
    size_t n = in->size < 65536 ? in->size : 65536;
    const char *p = (const char *)in->data, *end = p + n;
    word[0] = '\0';
    while (p < end) {
        const char *line_end = memchr(p, '\n', (size_t)(end - p));
        size_t length = (size_t)((line_end != NULL ? line_end : end) - p);
        if (length >= sizeof key && memcmp(p, key, sizeof key - 1) == 0) {
            p += sizeof key - 1;
            size_t used = 0;
            while (used + 1 < size && p + used < end && p[used] >= 'a' && p[used] <= 'z')
                used++;
            memcpy(word, p, used);
            word[used] = '\0';
            return;
        }
        if (line_end == NULL)
            return;
        p = line_end + 1;
    }
}

static bool ends_with(const char *s, const char *end) {
    size_t n = strlen(s), k = strlen(end);
    return n >= k && strcmp(s + n - k, end) == 0;
}

static int best_trace_probe(const char *path, const struct mp_in *in) {
    int best = 0;
    for (uint32_t i = 0; mp_trace_format_at(i) != NULL; i++) {
        int sure = mp_trace_format_at(i)->probe(path, in);
        best = sure > best ? sure : best;
    }
    return best;
}

static int best_stack_probe(const char *path, const struct mp_in *in) {
    int best = 0;
    for (uint32_t i = 0; mp_stack_at(i) != NULL; i++) {
        int sure = mp_stack_at(i)->probe(path, in);
        best = sure > best ? sure : best;
    }
    return best;
}

/* A NumPy array of zeros and ones is a placement mask (omni-infer's), not ids or counts. */
static bool is_mask(const struct mp_in *in) {
    if (in->size < 12 || memcmp(in->data, "\x93NUMPY", 6) != 0)
        return false;
    size_t header = (size_t)in->data[8] | (size_t)in->data[9] << 8, at = 10;
    if (in->data[6] > 1) {
        header |= (size_t)in->data[10] << 16 | (size_t)in->data[11] << 24;
        at = 12;
    }
    if (header >= in->size - at)
        return false;
    for (at += header; at < in->size; at++)
        if (in->data[at] > 1)
            return false;
    return true;
}

static bool is_trace_format(const char *name) {
    for (uint32_t i = 0; name != NULL && mp_trace_format_at(i) != NULL; i++)
        if (strcmp(mp_trace_format_at(i)->name, name) == 0)
            return true;
    return false;
}

/* A pipe can be read once, and finding out what it holds would eat it: its bytes move to memory that takes the place of
 * its descriptor, so that every later open of the same name starts at the first byte. */
static enum mp_status keep_pipe(const char *spec, struct mp_error *err) {
    uint64_t fd = 0;
    struct stat st;
    struct mp_in *in;
    const char *digits = strncmp(spec, "/dev/fd/", 8) == 0          ? spec + 8
                         : strncmp(spec, "/proc/self/fd/", 14) == 0 ? spec + 14
                                                                    : NULL;
    if (digits != NULL ? !mp_parse_u64(digits, strlen(digits), &fd) || fd > INT_MAX
                       : strcmp(spec, "-") != 0 && strcmp(spec, "/dev/stdin") != 0)
        return MP_OK;
    if (fstat((int)fd, &st) != 0 || S_ISREG(st.st_mode) || S_ISDIR(st.st_mode))
        return MP_OK;
    enum mp_status status = mp_in_open(&in, spec, 0, err);
    if (status != MP_OK)
        return status;
    int memory = memfd_create("moeplan", MFD_CLOEXEC);
    size_t done = 0;
    while (memory >= 0 && done < in->size) {
        ssize_t n = write(memory, in->data + done, in->size - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        done += (size_t)n;
    }
    if (memory < 0 || done < in->size || lseek(memory, 0, SEEK_SET) < 0 || dup2(memory, (int)fd) < 0)
        status = mp_fail_at(err, MP_EIO, spec, 0, 0, "cannot keep what was read: %s", strerror(errno));
    if (memory >= 0)
        (void)close(memory);
    mp_in_close(in);
    return status;
}

enum mp_status tool_kind_of(enum tool_kind *out, const char *spec, const struct opts *o, struct mp_error *err) {
    struct stat st;
    bool exists = strcmp(spec, "-") == 0 || stat(spec, &st) == 0;
    enum mp_status status = keep_pipe(spec, err);
    if (status != MP_OK)
        return status;
    if (o->input_format != NULL) {
        /* One name is both: TensorRT-LLM's statistic is a folder or its meta_info.json, its placement a file. */
        bool is_both = is_trace_format(o->input_format) && mp_stack_find(o->input_format) != NULL;
        bool is_trace =
            is_both ? mp_is_folder(spec) || ends_with(spec, "meta_info.json") : is_trace_format(o->input_format);
        *out = is_trace ? TOOL_TRACE : TOOL_PLACEMENT;
        return MP_OK;
    }
    if (!exists) {
        char path[4096];
        *out = is_model_preset(spec) ? TOOL_MODEL : TOOL_TOPOLOGY;
        /* A word with a slash or a dot in it was meant as a file. "4xdgx.xml:h100" is the topology reader's. */
        if (*out == TOOL_TOPOLOGY && strpbrk(spec, "/.") != NULL &&
            (!mp_topology_file(spec, path, sizeof path) || strcmp(path, spec) == 0))
            return mp_fail_at(err, MP_EIO, spec, 0, 0, "cannot open: No such file or directory");
        return MP_OK;
    }
    if (mp_is_folder(spec)) {
        *out = TOOL_TRACE;
        return MP_OK;
    }
    bool is_stdin = strcmp(spec, "-") == 0; /* is read from where it stands: it goes back there */
    off_t start = is_stdin ? lseek(STDIN_FILENO, 0, SEEK_CUR) : 0;
    struct mp_in *in;
    status = mp_in_open_head(&in, spec, err);
    if (status != MP_OK)
        return status;
    char schema[32];
    schema_of(in, schema, sizeof schema);
    int placement = best_stack_probe(spec, in), recording = best_trace_probe(spec, in);
    if (strcmp(schema, "plan") == 0)
        *out = TOOL_PLAN;
    else if (strcmp(schema, "model") == 0)
        *out = TOOL_MODEL;
    else if (strcmp(schema, "topology") == 0)
        *out = TOOL_TOPOLOGY;
    else if (placement > recording || (placement > 0 && o->axes == NULL && is_mask(in)))
        *out = TOOL_PLACEMENT;
    else if (recording > 2)
        *out = TOOL_TRACE;
    else if (mp_topology_detect(in) != NULL)
        *out = TOOL_TOPOLOGY;
    else if (recording > 0) /* by the ending of its name only */
        *out = TOOL_TRACE;
    else /* nobody knows it: the reader of its extension says what is wrong */
        *out = ends_with(spec, ".yaml") || ends_with(spec, ".yml") ? TOOL_TOPOLOGY : TOOL_TRACE;
    mp_in_close(in);
    if (is_stdin && start >= 0)
        (void)lseek(STDIN_FILENO, start, SEEK_SET);
    return status;
}

enum mp_status tool_matrix_format(const char **out, const char *spec, const struct mp_plan *plan, const struct opts *o,
                                  struct mp_error *err) {
    const struct mp_matrix_source *named = &plan->provenance.matrix;
    const struct mp_matrix_format *f = mp_matrix_format_find(o->input_format);
    struct mp_in *in;
    *out = NULL;
    if ((o->input_format != NULL && f == NULL) || mp_is_folder(spec))
        return MP_OK;
    bool is_stdin = strcmp(spec, "-") == 0; /* is read from where it stands: it goes back there */
    enum mp_status status = keep_pipe(spec, err);
    if (status != MP_OK)
        return status;
    off_t start = is_stdin ? lseek(STDIN_FILENO, 0, SEEK_CUR) : 0;
    status = mp_in_open(&in, spec, 0, err);
    if (status != MP_OK)
        return status;
    if (f == NULL)
        f = mp_matrix_detect(in);
    const bool is_array = f != NULL && strcmp(f->name, "npy") == 0;
    if (best_trace_probe(spec, in) > 2 ? is_array && named->is_present : f != NULL || named->is_present)
        *out = f != NULL ? f->name : named->format;
    mp_in_close(in);
    if (is_stdin && start >= 0)
        (void)lseek(STDIN_FILENO, start, SEEK_SET);
    return MP_OK;
}
