/* moeplan migrate: from one placement to the next, with the fewest weights over the links.
 *
 * Decides   see planner/migrate; here times, memory and the break-even.
 * Method    a round is one single shot of the simulator, with the launch of a stage; rounds between nodes and rounds
 *           inside nodes run side by side where they share no port. Sizes are whole experts. */
#include "score.h"
#include <moeplan/migrate.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OLD, NEW };
enum { INSIDE, BETWEEN, CLASSES };
enum { SHOWN_LINKS = 5 };

/* What one way to schedule the moves takes. */
struct schedule {
    uint32_t n_rounds[CLASSES];
    uint64_t time_ns;
    uint32_t buffer; /* experts that a GPU has to hold beside all of the old and the new ones that it has */
};
struct link {
    uint32_t src, dst, n;
};
struct migrate {
    const struct opts *o;
    struct opts own_options; /* with the plans' model */
    const char *path[2];
    struct mp_model *model;        /* NULL = not known: experts are counted, not bytes */
    struct mp_topology *topology;  /* NULL = not known: no times */
    struct mp_plan *plan[2], *own; /* own: NEW under the new labels, NULL = as it is */
    struct mp_migration *m;
    uint32_t *class, *round; /* [n_moves] of the schedule of everything at once */
    struct schedule at_once, by_layer;
    uint32_t n_moves[CLASSES], n_links;
    struct link *links;      /* [n_links] by falling n */
    uint64_t bound_ns, room; /* room: bytes free on the fullest GPU beside its weights */
    struct setup s;          /* --score-on */
    struct score scores[2];
    enum mp_labels labels;
    const struct mp_dispatcher *dispatcher; /* NULL = not known */
    double gain_ns;                         /* of a step; 0 = not known */
    bool has_gain;
};

static const struct mp_plan *result(const struct migrate *g) { return g->own != NULL ? g->own : g->plan[NEW]; }
static uint64_t bytes_of(const struct migrate *g, uint64_t n) {
    return g->model != NULL ? n * g->model->expert_bytes : 0;
}

static enum mp_status load(struct migrate *g, const struct args *args, struct mp_error *err) {
    const char *topology = args->n > 2 ? args->value[2] : NULL;
    enum mp_status status = MP_OK;
    if (g->o->model != NULL)
        MP_TRY(mp_model_load(&g->model, g->o->model, &g->o->limits, err));
    if (topology != NULL) {
        MP_TRY(mp_topology_load(&g->topology, topology, &g->o->limits, err));
    }
    for (int i = 0; i < 2; i++) {
        struct mp_stack_options options = tool_stack_options(g->o, g->model, g->topology);
        g->path[i] = args->value[i];
        if (i == NEW && g->topology == NULL && options.n_gpus == 0) { /* formats that do not say */
            options.n_gpus = g->plan[OLD]->n_gpus;
            options.n_nodes = g->plan[OLD]->n_nodes;
        }
        MP_TRY(mp_stack_load(&g->plan[i], g->path[i], NULL, &options, &g->o->limits, err));
        if (g->plan[i]->n_colocations > 0 || g->plan[i]->together.is_present) {
            status =
                mp_fail_at(err, MP_EUSAGE, g->path[i], 0, 0,
                           "is one of two plans that were made together: its experts are tied to the other's (plan "
                           "both again)");
            goto out;
        }
    }
    for (int i = NEW; i >= OLD; i--) {
        const struct mp_provenance *p = &g->plan[i]->provenance;
        if (g->topology == NULL && g->plan[OLD]->n_gpus == g->plan[NEW]->n_gpus &&
            tool_names_topology(g->plan[i], g->o))
            MP_TRY(mp_topology_load(&g->topology, p->topology, &g->o->limits, err));
        if (g->model == NULL && tool_names_model(g->plan[i], g->o)) {
            MP_TRY(mp_model_load(&g->model, p->model, &g->o->limits, err));
            g->own_options.model = p->model;
        }
    }
    const struct mp_provenance *was = &g->plan[OLD]->provenance, *is = &g->plan[NEW]->provenance;
    if (topology == NULL && g->topology != NULL && was->topology != NULL && is->topology != NULL &&
        was->topology_sha256 != NULL && is->topology_sha256 != NULL &&
        strcmp(was->topology_sha256, is->topology_sha256) != 0)
        tool_note(g->o, "OLD was made for %s and NEW for %s: moved on %s (give TOPOLOGY)", was->topology, is->topology,
                  g->topology->name);
    if (g->topology == NULL)
        tool_note(g->o, "no topology: GPUs of a node are taken for equal, and there are no times (give TOPOLOGY)");
    if (g->model == NULL)
        tool_note(g->o, "no model: experts are counted, not bytes (give -m MODEL)");
out:
    return status;
}

static enum mp_status set_nodes(struct migrate *g, struct mp_error *err) {
    for (int i = 0; i < 2 && g->topology != NULL; i++) {
        struct mp_plan *p = g->plan[i];
        uint32_t *node = mp_arena_alloc(p->arena, p->n_gpus, sizeof *node);
        if (node == NULL)
            return mp_nomem(err, "migration");
        if (p->n_gpus != g->topology->n_gpus)
            return mp_fail_at(err, MP_EINPUT, g->path[i], 0, 0,
                              "is for %u GPUs, the topology has %u (give the topology it was made for)", p->n_gpus,
                              g->topology->n_gpus);
        for (uint32_t k = 0; k < p->n_gpus; k++)
            node[k] = mp_topology_node(g->topology, k);
        p->gpu_node = node;
        p->n_nodes = mp_topology_n_nodes(g->topology);
    }
    return MP_OK;
}

/* ---- time ---- */

static enum mp_status find_times(struct migrate *g, struct mp_error *err) {
    const uint32_t n = g->m->n_gpus, n_moves = g->m->n_moves;
    const bool is_timed = g->topology != NULL && g->model != NULL;
    uint64_t *matrix = mp_calloc((size_t)n * n, sizeof *matrix);
    bool *is_taken = mp_calloc(n_moves > 0 ? n_moves : 1, sizeof *is_taken);
    struct mp_net *net = NULL;
    enum mp_status status = MP_OK;
    if (matrix == NULL || is_taken == NULL) {
        status = mp_nomem(err, "migration");
        goto out;
    }
    for (uint32_t i = 0; i < n_moves; i++)
        matrix[(size_t)g->m->moves[i].src * n + g->m->moves[i].dst] += bytes_of(g, 1);
    if (is_timed) {
        g->bound_ns = mp_port_bound_ns(g->topology, matrix);
        MP_TRY(mp_net_new(&net, g->topology, err));
    }
    for (uint32_t layer = 0; layer <= g->m->n_layers; layer++) { /* all at once, then layer by layer */
        struct schedule *to = layer == 0 ? &g->at_once : &g->by_layer;
        struct mp_moves_time time;
        for (uint32_t i = 0; i < n_moves; i++)
            is_taken[i] = layer == 0 || g->m->moves[i].layer == layer - 1;
        MP_TRY(mp_moves_time(&time, g->m->moves, n_moves, is_taken, g->plan[NEW]->gpu_node, n, g->topology,
                             bytes_of(g, 1), net, layer == 0 ? g->round : NULL, err));
        to->n_rounds[INSIDE] += time.n_inside;
        to->n_rounds[BETWEEN] += time.n_between;
        to->time_ns += time.ns;
    }
    g->at_once.buffer = (uint32_t)g->m->most_in;
    g->by_layer.buffer = (uint32_t)g->m->most_in_layer;
out:
    mp_net_free(net);
    mp_free(matrix);
    mp_free(is_taken);
    return status;
}

/* Bytes beside dense weights, shared experts and every slot, on the fullest GPU. */
static uint64_t room_of(const struct migrate *g) {
    uint64_t room = UINT64_MAX;
    const struct mp_plan *p = g->plan[OLD];
    for (uint32_t k = 0; k < p->n_gpus; k++) {
        const uint64_t memory = g->topology->types[g->topology->gpus[k].type].memory_bytes;
        const unsigned __int128 weights = (unsigned __int128)g->model->expert_bytes *
                                              (p->gpu_first_slot[k + 1] - p->gpu_first_slot[k]) * g->model->n_layers +
                                          (unsigned __int128)g->model->shared_bytes * g->model->n_layers +
                                          g->model->dense_bytes;
        const uint64_t own = weights < memory ? memory - (uint64_t)weights : 0;
        room = own < room ? own : room;
    }
    return room;
}

static int more_loaded(const void *a, const void *b) {
    const struct link *x = a, *y = b;
    if (x->n != y->n)
        return x->n < y->n ? 1 : -1;
    return x->src != y->src ? (x->src > y->src) - (x->src < y->src) : (x->dst > y->dst) - (x->dst < y->dst);
}

static enum mp_status find_links(struct migrate *g, struct mp_error *err) {
    const uint32_t n = g->m->n_gpus, n_moves = g->m->n_moves;
    const struct mp_plan *p = g->plan[NEW];
    g->class = mp_calloc(n_moves > 0 ? n_moves : 1, sizeof *g->class);
    g->round = mp_calloc(n_moves > 0 ? n_moves : 1, sizeof *g->round);
    g->links = mp_calloc((size_t)n * n, sizeof *g->links);
    if (g->class == NULL || g->round == NULL || g->links == NULL)
        return mp_nomem(err, "migration");
    for (uint32_t i = 0; i < n_moves; i++) {
        const struct mp_move *m = &g->m->moves[i];
        g->class[i] = p->gpu_node[m->src] == p->gpu_node[m->dst] ? INSIDE : BETWEEN;
        g->n_moves[g->class[i]]++;
        struct link *link = &g->links[(size_t)m->src * n + m->dst];
        *link = (struct link){m->src, m->dst, link->n + 1};
    }
    qsort(g->links, (size_t)n * n, sizeof *g->links, more_loaded);
    while (g->n_links < n * n && g->links[g->n_links].n > 0)
        g->n_links++;
    return MP_OK;
}

/* ---- what it gains ---- */

static enum mp_status score_both(struct migrate *g, const char *topology, struct mp_error *err) {
    enum mp_status status = MP_OK;
    if (topology == NULL)
        return mp_fail(err, MP_EUSAGE, "migrate: --score-on needs the topology (give TOPOLOGY)");
    MP_TRY(setup_load(&g->s, &g->own_options, g->o->score_on, topology, err));
    MP_TRY(score_load(&g->scores[OLD], &g->s, g->path[OLD], err));
    MP_TRY(score_load(&g->scores[NEW], &g->s, g->path[NEW], err));
    MP_TRY(setup_as_planned(&g->s, g->scores[NEW].plan, err));
    if (g->own != NULL) { /* as it will stand: under the new labels, without orders */
        mp_plan_free(g->scores[NEW].plan);
        g->scores[NEW].plan = NULL;
        MP_TRY(mp_migrated_plan(&g->scores[NEW].plan, g->m, g->plan[OLD], g->plan[NEW], err));
        MP_TRY(score_fit(g->scores[NEW].plan, g->path[NEW], g->s.trace, g->s.topology, err));
    }
    g->s.sim.with_bound = false;
    MP_TRY(score_all(g->scores, 2, OLD, &g->s, (uint32_t)g->o->interval_groups, err));
    g->gain_ns = (double)g->scores[OLD].result->mean.step_ns - (double)g->scores[NEW].result->mean.step_ns;
    g->has_gain = true;
out:
    return status;
}

/* The faster schedule that fits. */
static const struct schedule *chosen(const struct migrate *g) {
    return bytes_of(g, g->at_once.buffer) <= g->room ? &g->at_once : &g->by_layer;
}
static bool has_times(const struct migrate *g) { return g->topology != NULL && g->model != NULL; }

/* Steps after which moving has paid; 0 = never. */
static uint64_t break_even(const struct migrate *g) {
    if (g->m->n_moves == 0)
        return 0;
    return g->gain_ns > 0 ? mp_ceil_div(chosen(g)->time_ns, g->gain_ns < 1 ? 1 : (uint64_t)g->gain_ns) : 0;
}

/* Is what NEW gains within the noise? Then moving may never pay. */
static bool is_noise(const struct migrate *g) {
    const struct mp_interval *i = &g->scores[NEW].against_base;
    return g->scores[NEW].result != NULL && i->is_known && i->low <= 0 && i->high >= 0;
}

/* ---- output ---- */

static void put_count(struct mp_out *out, const struct migrate *g, const char *name, uint64_t n) {
    char a[32];
    mp_out_printf(out, "%-14s %8llu experts", name, (unsigned long long)n);
    if (g->model != NULL)
        mp_out_printf(out, ", %10s", mp_human_bytes((double)bytes_of(g, n), a));
    if (g->m->n_by_slot > 0)
        mp_out_printf(out, ", %5.1f %% of slot by slot", 100 * (double)n / (double)g->m->n_by_slot);
    mp_out_puts(out, "\n");
}

static void put_schedule(struct mp_out *out, const struct migrate *g, const char *name, const struct schedule *s) {
    char a[32];
    mp_out_printf(out, "%-14s %u round%s between nodes, %u inside", name, s->n_rounds[BETWEEN],
                  tool_s(s->n_rounds[BETWEEN]), s->n_rounds[INSIDE]);
    if (has_times(g))
        mp_out_printf(out, ", %s", mp_human_ns((double)s->time_ns, a));
    mp_out_printf(out, ", %u expert%s", s->buffer, tool_s(s->buffer));
    if (g->model != NULL)
        mp_out_printf(out, " (%s)", mp_human_bytes((double)bytes_of(g, s->buffer), a));
    mp_out_puts(out, " of spare memory on a GPU\n");
}

/* Which GPUs were taken for equal, and why. */
static const char *labels_text(const struct migrate *g, char *buf, size_t size) {
    if (g->plan[NEW]->n_nodes == 1)
        buf[0] = '\0';
    else if (g->labels == MP_LABELS_FREE)
        snprintf(buf, size, " of all nodes, between which %s makes no difference", g->dispatcher->name);
    else if (g->dispatcher == NULL)
        snprintf(buf, size, " inside nodes, and whole nodes (with --dispatcher maybe all)");
    else
        snprintf(buf, size, " inside nodes, and whole nodes: %s",
                 g->dispatcher->copies == MP_COPY_PER_NODE ? "the dispatcher sends by node"
                                                           : "replicas are chosen by node");
    return buf;
}

static void write_text(const struct migrate *g, struct mp_out *out) {
    const struct mp_migration *m = g->m;
    char a[32], b[32], labels[160];
    uint64_t n_relabelled = 0;
    for (uint32_t i = 0; i < m->n_layers * m->n_gpus; i++)
        n_relabelled += m->to[i] != i % m->n_gpus;
    mp_out_printf(out, "%s -> %s: %u layer%s of %u experts on %u GPU%s%s%s\n\n", g->path[OLD], g->path[NEW],
                  m->n_layers, tool_s(m->n_layers), g->plan[NEW]->n_experts, m->n_gpus, tool_s(m->n_gpus),
                  g->topology != NULL ? ", " : "", g->topology != NULL ? g->topology->name : "");
    put_count(out, g, "slot by slot", m->n_by_slot);
    put_count(out, g, "GPU by GPU", m->n_by_gpu);
    put_count(out, g, g->o->keep_labels ? "as labelled" : "fewest", m->n_moves);
    if (g->labels == MP_LABELS_KEPT)
        mp_out_puts(out, g->o->keep_labels ? "" : "labels are kept: the new plan routes by source\n");
    else
        mp_out_printf(out, "proven the fewest; %llu of %llu GPU labels change: equal GPUs%s\n",
                      (unsigned long long)n_relabelled, (unsigned long long)m->n_layers * m->n_gpus,
                      labels_text(g, labels, sizeof labels));
    if (m->n_moves > 0) {
        mp_out_printf(out, "\n%u between nodes, %u inside; busiest links:", g->n_moves[BETWEEN], g->n_moves[INSIDE]);
        for (uint32_t i = 0; i < g->n_links && (g->o->wide || i < SHOWN_LINKS); i++)
            mp_out_printf(out, "%s %u>%u %u", i > 0 ? "," : "", g->links[i].src, g->links[i].dst, g->links[i].n);
        if (!g->o->wide && g->n_links > SHOWN_LINKS)
            mp_out_printf(out, " (of %u links)", g->n_links);
        mp_out_puts(out, "\n");
        put_schedule(out, g, "all at once", &g->at_once);
        put_schedule(out, g, "layer by layer", &g->by_layer);
        if (has_times(g))
            mp_out_printf(out, "bound          %s: the bytes of the busiest port; room beside the weights: %s\n",
                          mp_human_ns((double)g->bound_ns, a), mp_human_bytes((double)g->room, b));
    }
    if (g->scores[NEW].result != NULL) {
        const struct mp_interval *i = &g->scores[NEW].against_base;
        mp_out_printf(out, "\nstep           %s old, %s new",
                      mp_human_ns((double)g->scores[OLD].result->mean.step_ns, a),
                      mp_human_ns((double)g->scores[NEW].result->mean.step_ns, b));
        if (i->is_known)
            mp_out_printf(out, " (95 %% interval of the change %+.1f to %+.1f %%)", 100 * i->low, 100 * i->high);
        mp_out_printf(out, "; %s\n", g->s.evaluated_on);
    }
    if (g->has_gain && has_times(g)) {
        if (m->n_moves == 0)
            mp_out_puts(out, "break-even     at once: nothing moves\n");
        else if (break_even(g) == 0)
            mp_out_puts(out, "break-even     never: the new placement's steps are no shorter\n");
        else
            mp_out_printf(out, "break-even     %safter %llu steps of serving without the links (%s)\n",
                          is_noise(g) ? "not known: the gain is within the noise; if it is real, " : "",
                          (unsigned long long)break_even(g),
                          chosen(g) == &g->at_once ? "all at once" : "layer by layer");
    }
    if (g->o->out != NULL && strcmp(g->o->out, "-") != 0)
        mp_out_printf(out, "%s: the new placement %s\n", g->o->out,
                      g->own != NULL ? "under these labels (without orders and evidence)" : "as it was");
}

static json_t *schedule_json(const struct migrate *g, const struct schedule *s) {
    return json_pack("{s:i,s:i,s:o,s:i,s:o}", "rounds_between_nodes", (int)s->n_rounds[BETWEEN], "rounds_inside_nodes",
                     (int)s->n_rounds[INSIDE], "time_ns",
                     has_times(g) ? json_integer((json_int_t)s->time_ns) : json_null(), "buffer_experts",
                     (int)s->buffer, "buffer_bytes",
                     g->model != NULL ? json_integer((json_int_t)bytes_of(g, s->buffer)) : json_null());
}

static void write_json(const struct migrate *g, struct mp_out *out) {
    const struct mp_migration *m = g->m;
    json_t *links = json_array(), *moves = json_array(), *labels = json_array();
    for (uint32_t i = 0; i < g->n_links; i++)
        (void)json_array_append_new(links, json_pack("{s:i,s:i,s:i}", "src", (int)g->links[i].src, "dst",
                                                     (int)g->links[i].dst, "experts", (int)g->links[i].n));
    for (uint32_t i = 0; i < m->n_moves; i++)
        (void)json_array_append_new(moves, json_pack("{s:I,s:i,s:i,s:i,s:b,s:i}", "layer",
                                                     (json_int_t)g->plan[NEW]->layers[m->moves[i].layer].layer_id,
                                                     "expert", (int)m->moves[i].expert, "src", (int)m->moves[i].src,
                                                     "dst", (int)m->moves[i].dst, "between_nodes",
                                                     (int)(g->class[i] == BETWEEN), "round", (int)g->round[i]));
    for (uint32_t l = 0; l < m->n_layers; l++) {
        json_t *of_layer = json_array();
        for (uint32_t k = 0; k < m->n_gpus; k++)
            (void)json_array_append_new(of_layer, json_integer((json_int_t)m->to[(size_t)l * m->n_gpus + k]));
        (void)json_array_append_new(labels, of_layer);
    }
    const bool is_paying = g->has_gain && has_times(g) && break_even(g) > 0 && !is_noise(g);
    json_t *root = json_pack(
        "{s:s,s:i,s:i,s:i,s:i,s:o,s:{s:I,s:I,s:I},s:b,s:b,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o}", "schema",
        "moeplan.migrate", "version", 1, "n_layers", (int)m->n_layers, "n_gpus", (int)m->n_gpus, "n_experts",
        (int)g->plan[NEW]->n_experts, "expert_bytes",
        g->model != NULL ? json_integer((json_int_t)g->model->expert_bytes) : json_null(), "experts", "by_slot",
        (json_int_t)m->n_by_slot, "by_gpu", (json_int_t)m->n_by_gpu, "moved", (json_int_t)m->n_moves, "proven",
        (int)(g->labels != MP_LABELS_KEPT), "relabelled", (int)m->is_relabelled, "bytes_moved",
        g->model != NULL ? json_integer((json_int_t)bytes_of(g, m->n_moves)) : json_null(), "at_once",
        schedule_json(g, &g->at_once), "by_layer", schedule_json(g, &g->by_layer), "bound_ns",
        has_times(g) ? json_integer((json_int_t)g->bound_ns) : json_null(), "step_gain_ns",
        g->has_gain ? mp_json_finite(g->gain_ns) : json_null(), "change_interval",
        mp_interval_json(&g->scores[NEW].against_base), "break_even_steps",
        is_paying ? json_integer((json_int_t)break_even(g)) : json_null(), "links", links, "gpu_of_new_gpu", labels,
        "moves", moves);
    mp_json_write(root, out);
    json_decref(root);
}

static enum mp_status write_plan(const struct migrate *g, struct mp_error *err) {
    struct mp_verify_report *report = NULL;
    struct mp_out *file = NULL;
    enum mp_status status = mp_plan_verify(&report, result(g), NULL, NULL, NULL, err);
    if (status == MP_OK && report->n > 0)
        status = mp_fail_at(err, MP_EINPUT, g->path[NEW], 0, 0, "is no plan that can be written: %s: %s",
                            mp_violation_name(report->violations[0].kind), report->violations[0].message);
    mp_verify_report_free(report);
    if (status != MP_OK)
        return status;
    status = mp_out_open(&file, g->o->out, err);
    if (status != MP_OK)
        return status;
    mp_plan_write(result(g), file);
    return mp_out_commit(file, err);
}

enum mp_status cmd_migrate(const struct opts *o, const struct args *args, int *exit_code, struct mp_error *err) {
    struct migrate g = {.o = o, .own_options = *o};
    struct mp_out *out = NULL;
    enum mp_status status = MP_OK;
    (void)exit_code;
    const bool to_stdout = o->out != NULL && strcmp(o->out, "-") == 0;
    if (to_stdout && o->json)
        return mp_fail(err, MP_EUSAGE, "migrate: %s and -o - both want standard output (write the plan to a file)",
                       tool_format_name(o));
    if (o->score_on != NULL && o->step_gain > 0)
        return mp_fail(err, MP_EUSAGE, "migrate: --score-on and --step-gain exclude each other (give one)");
    if (o->out != NULL) {
        status = tool_check_output(o->out, err);
        if (status != MP_OK)
            return status;
    }
    MP_TRY(load(&g, args, err));
    MP_TRY(set_nodes(&g, err));
    g.dispatcher = mp_dispatcher_find(o->dispatcher != NULL ? o->dispatcher : g.plan[NEW]->provenance.dispatcher);
    g.labels = o->keep_labels
                   ? MP_LABELS_KEPT
                   : mp_labels_of(g.plan[NEW], g.dispatcher == NULL || g.dispatcher->copies == MP_COPY_PER_NODE);
    MP_TRY(mp_migrate(&g.m, g.plan[OLD], g.plan[NEW], g.topology, g.labels, tool_threads(o), err));
    MP_TRY(mp_migrated_plan(&g.own, g.m, g.plan[OLD], g.plan[NEW], err));
    MP_TRY(find_links(&g, err));
    if (has_times(&g))
        g.room = room_of(&g);
    MP_TRY(find_times(&g, err));
    g.gain_ns = (double)o->step_gain;
    g.has_gain = o->step_gain > 0;
    if (o->score_on != NULL)
        MP_TRY(score_both(&g, args->n > 2 ? args->value[2] : g.topology != NULL ? g.topology->name : NULL, err));
    if (o->out != NULL)
        MP_TRY(write_plan(&g, err));
    if (!to_stdout) {
        MP_TRY(tool_open_result(&out, o, err));
        if (o->json)
            write_json(&g, out);
        else
            write_text(&g, out);
        status = tool_close_result(out, o, err);
    }
out:
    for (int i = 0; i < 2; i++) {
        score_free(&g.scores[i]);
        mp_plan_free(g.plan[i]);
    }
    setup_free(&g.s);
    mp_plan_free(g.own);
    mp_migration_free(g.m);
    mp_free(g.class);
    mp_free(g.round);
    mp_free(g.links);
    mp_topology_free(g.topology);
    mp_model_free(g.model);
    return status;
}
