/* The executor's loop: every step, every layer, every iteration, with all that is checked and timed on the way. */
#include "train.h"
#include "fault.h"
#include <stdio.h>
#include <string.h>

struct run {
    const struct mp_exec *in;
    struct ex_work w;
    struct mp_cost_setup setup;
    struct mp_token_flow *flow; /* of the step, or NULL */
    struct mp_router *router;
    struct mp_net *net;
    struct mp_exec_result *r;
    struct ex_layer **layers;           /* [n_layers] of the step */
    struct ex_times **times;            /* [n_layers][EX_N_PARTS] of the step */
    struct mp_net_log log;              /* of one prediction */
    struct mp_exec_transfer *predicted; /* of the first step, with the timeline */
    size_t n_predicted, n_predicted_allocated;
    uint64_t predicted_at_ns;
};

enum { N_TIMES = EX_N_PARTS + 2 }; /* of a layer: parts, packing, adding up */

bool mp_transport_at(uint32_t i, const char **name, const char **summary, const char **needs) {
    const struct ex_transport *t = ex_transport_at(i);
    if (t == NULL)
        return false;
    *name = t->name;
    *summary = t->summary;
    *needs = t->needs;
    return true;
}

bool mp_transport_has_one_rank_each(const char *name) {
    const struct ex_transport *t = ex_transport_find(name);
    return t != NULL && t->has_one_rank_each;
}

const char *mp_exec_part_name(enum mp_exec_part_kind kind) { return ex_part_name((enum ex_part)kind); }

/* ---- what all ranks must agree on ---- */

static enum mp_status identify(struct run *x, struct mp_error *err) {
    const struct mp_exec *in = x->in;
    const struct mp_workload *w = in->workload;
    struct mp_out *text = NULL;
    uint64_t rows = 0;
    size_t n;
    enum mp_status status = mp_out_open_memory(&text, err);
    if (status != MP_OK)
        return status;
    mp_plan_write(in->plan, text);
    if (in->matrix != NULL) {
        mp_out_write(text, in->matrix, (size_t)in->plan->n_gpus * in->plan->n_gpus * sizeof *in->matrix);
    } else {
        for (uint32_t s = 0; w->steps != NULL && s < w->n_steps; s++)
            for (uint32_t i = 0; i < w->steps[s].n; i++)
                rows = mp_mix64(rows ^ mp_mix64(w->steps[s].row[i] << 16 ^ w->steps[s].source[i]));
        for (uint32_t s = 0; w->iterations != NULL && s < w->n_steps; s++)
            rows = mp_mix64(rows ^ w->iterations[s]);
        mp_out_printf(text, "%s %s %s %d %u %llu\n", w->trace->sha256, in->model->sha256, in->dispatcher->name,
                      (int)in->sources, w->n_steps, (unsigned long long)rows);
    }
    mp_out_printf(text, "%s %d %u %u %llu %d %s\n", in->topology->sha256, in->stage_mode, in->n_warmup,
                  in->n_iterations, (unsigned long long)in->seed, (int)in->with_timeline | (int)in->with_gemm << 1,
                  in->transport);
    mp_out_printf(text, "%s\n", in->flow_name != NULL ? in->flow_name : "");
    for (uint32_t k = 0; k < in->n_policies; k++) {
        const struct mp_train_policy *p = &in->policies[k].policy;
        mp_out_printf(text, "%s %d %d %d %d %llu %llu %llu %u %u\n", in->policies[k].name, (int)p->is_shared,
                      (int)p->guard, (int)p->order, (int)p->is_pipelined, (unsigned long long)p->a2a_chunk_bytes,
                      (unsigned long long)p->reduce_chunk_bytes, (unsigned long long)p->bucket_bytes, p->n_buckets,
                      in->gradient_bits);
        for (uint32_t i = 0; p->buckets != NULL && i < p->n_buckets; i++)
            mp_out_printf(text, "%d %u %u\n", (int)p->buckets[i].is_experts, p->buckets[i].first_layer,
                          p->buckets[i].last_layer);
    }
    const uint8_t *bytes = mp_out_memory_bytes(text, &n);
    mp_sha256_hex(bytes, n, x->w.world.identity);
    return mp_out_commit(text, err);
}

/* ---- a layer, once ---- */

static enum mp_status run_part(struct run *x, uint32_t layer, enum ex_part part, struct mp_error *err) {
    struct ex_times *t = x->times[(size_t)layer * EX_N_PARTS + part];
    const struct ex_script *s = x->w.layer->scripts[part];
    const size_t cells = (size_t)t->n_ranks * t->n_stages;
    memset(t->total_ns, 0, t->n_ranks * sizeof *t->total_ns);
    memset(t->begin_ns, 0, cells * sizeof *t->begin_ns);
    memset(t->end_ns, 0, cells * sizeof *t->end_ns);
    memset(t->message_begin_ns, 0, s->n_messages * sizeof *t->message_begin_ns);
    memset(t->message_end_ns, 0, s->n_messages * sizeof *t->message_end_ns);
    enum mp_status status = x->w.transport->run(x->w.link, s, t, err);
    /* Not timed: ranks that are done must not take processors from those that are not, by checking what came. */
    return status == MP_OK ? x->w.transport->barrier(x->w.link, err) : status;
}

/* Real experts, behind the checks of what came; the slowest rank's time is added to the step's. */
static enum mp_status compute(struct run *x, struct mp_error *err) {
    const uint32_t n = x->w.world.n_ranks, n_local = x->w.world.n_local;
    uint64_t *mine = mp_calloc(n_local, sizeof *mine), *all = mp_calloc(n, sizeof *all), slowest_ns = 0;
    enum mp_status status = MP_OK;
    if (mine == NULL || all == NULL) {
        status = mp_nomem(err, "times");
        goto out;
    }
    for (uint32_t i = 0; i < n_local; i++)
        MP_TRY(
            ex_compute(x->w.transport, x->w.link, x->w.layer, x->in->model, x->w.world.first_rank + i, &mine[i], err));
    MP_TRY(x->w.transport->gather(x->w.link, mine, all, sizeof *mine, err));
    for (uint32_t r = 0; r < n; r++)
        slowest_ns = all[r] > slowest_ns ? all[r] : slowest_ns;
    if (x->w.payload.iteration >= x->in->n_warmup)
        x->r->gemm_ns[(size_t)x->w.payload.step * x->r->n_iterations + x->w.payload.iteration - x->in->n_warmup] +=
            slowest_ns;
out:
    mp_free(mine);
    mp_free(all);
    return status;
}

static enum mp_status run_layer(struct run *x, uint32_t layer, struct mp_error *err) {
    enum mp_status status = MP_OK;
    x->w.layer = x->layers[layer];
    x->w.payload.layer = layer;
    memset(x->w.rows_ns, 0, (size_t)x->w.world.n_local * 2 * sizeof *x->w.rows_ns);
    const bool has_inside = x->w.layer->scripts[EX_DISPATCH_INSIDE] != NULL;
    MP_TRY(ex_work_all(&x->w, EX_WORK_PACK, err));
    MP_TRY(run_part(x, layer, EX_DISPATCH, err));
    if (has_inside) {
        MP_TRY(ex_work_all(&x->w, EX_WORK_PASS_ON, err));
        MP_TRY(run_part(x, layer, EX_DISPATCH_INSIDE, err));
    }
    MP_TRY(ex_work_all(&x->w, EX_WORK_EXPERTS, err));
    if (x->in->with_gemm)
        MP_TRY(compute(x, err));
    if (has_inside) {
        MP_TRY(run_part(x, layer, EX_COMBINE_INSIDE, err));
        MP_TRY(ex_work_all(&x->w, EX_WORK_GATHER_UP, err));
    }
    MP_TRY(run_part(x, layer, EX_COMBINE, err));
    status = ex_work_all(&x->w, EX_WORK_CHECK, err);
out:
    return status;
}

/* The slowest rank's time of each part of the layer, and of kernels that pack and that add up. */
static enum mp_status slowest(struct run *x, uint32_t layer, uint64_t ns[N_TIMES], struct mp_error *err) {
    const uint32_t n = x->w.world.n_ranks, n_local = x->w.world.n_local;
    enum mp_status status = MP_OK;
    uint64_t *mine = mp_calloc((size_t)n_local * N_TIMES, sizeof *mine),
             *all = mp_calloc((size_t)n * N_TIMES, sizeof *all);
    if (mine == NULL || all == NULL) {
        status = mp_nomem(err, "times");
        goto out;
    }
    for (uint32_t i = 0; i < n_local; i++) {
        for (uint32_t k = 0; k < 2; k++)
            mine[i * N_TIMES + EX_N_PARTS + k] = x->w.rows_ns[2 * i + k];
        for (int part = 0; part < EX_N_PARTS; part++) {
            const struct ex_times *t = x->times[(size_t)layer * EX_N_PARTS + (uint32_t)part];
            mine[i * N_TIMES + (uint32_t)part] = t != NULL ? t->total_ns[x->w.world.first_rank + i] : 0;
        }
    }
    MP_TRY(x->w.transport->gather(x->w.link, mine, all, N_TIMES * sizeof *mine, err));
    for (uint32_t k = 0; k < N_TIMES; k++)
        for (uint32_t r = 0; r < n; r++)
            ns[k] = r == 0 || all[r * N_TIMES + k] > ns[k] ? all[r * N_TIMES + k] : ns[k];
out:
    mp_free(mine);
    mp_free(all);
    return status;
}

/* ---- the timeline: transfers of the first step, last iteration ---- */

static enum mp_status keep_measured(struct run *x, uint32_t layer, enum ex_part part, struct mp_exec_transfer *to,
                                    struct mp_error *err) {
    const struct ex_script *s = x->layers[layer]->scripts[part];
    const struct ex_times *t = x->times[(size_t)layer * EX_N_PARTS + part];
    const uint32_t n = x->w.world.n_ranks;
    const size_t m = s->n_messages, row = 2 * m * sizeof(uint64_t);
    enum mp_status status = MP_OK;
    /* Every process says what its ranks saw; the first local rank speaks for all of them. */
    uint64_t *mine = mp_calloc((size_t)x->w.world.n_local, row), *all = mp_calloc(n, row);
    if (mine == NULL || all == NULL) {
        status = mp_nomem(err, "a timeline");
        goto out;
    }
    memcpy(mine, t->message_begin_ns, m * sizeof *mine);
    memcpy(mine + m, t->message_end_ns, m * sizeof *mine);
    if (row > 0)
        MP_TRY(x->w.transport->gather(x->w.link, mine, all, row, err));
    for (size_t i = 0; i < m; i++) {
        to[i] = (struct mp_exec_transfer){.layer = layer,
                                          .part = part,
                                          .stage = s->messages[i].stage,
                                          .src = s->messages[i].src,
                                          .dst = s->messages[i].dst,
                                          .bytes = s->messages[i].bytes};
        for (uint32_t k = 0; k < 2; k++) { /* the sender's word, then the receiver's, which counts */
            const uint64_t *seen = all + (size_t)(k == 0 ? to[i].src : to[i].dst) * 2 * m;
            if (seen[m + i] > 0) {
                to[i].begin_ns = seen[i];
                to[i].end_ns = seen[m + i];
            }
        }
        if (to[i].end_ns == 0) { /* all ranks in one process */
            to[i].begin_ns = all[i];
            to[i].end_ns = all[m + i];
        }
    }
out:
    mp_free(mine);
    mp_free(all);
    return status;
}

static enum mp_status keep_timeline(struct run *x, struct mp_error *err) {
    struct mp_exec_result *r = x->r;
    enum mp_status status = MP_OK;
    size_t n = 0, part_at = 0; /* the first step's parts come first */
    uint64_t at_ns = 0;
    for (uint32_t l = 0; l < r->n_layers; l++)
        for (int part = 0; part < EX_N_PARTS; part++)
            n += x->layers[l]->scripts[part] != NULL ? x->layers[l]->scripts[part]->n_messages : 0;
    r->measured = mp_arena_alloc(r->arena, n, sizeof *r->measured);
    if (r->measured == NULL)
        return mp_nomem(err, "a timeline");
    for (uint32_t l = 0; l < r->n_layers; l++)
        for (int part = 0; part < EX_N_PARTS; part++) {
            const struct ex_script *s = x->layers[l]->scripts[part];
            if (s == NULL)
                continue;
            MP_TRY(keep_measured(x, l, (enum ex_part)part, r->measured + r->n_measured, err));
            for (size_t i = r->n_measured; i < r->n_measured + s->n_messages; i++) {
                r->measured[i].begin_ns += at_ns;
                r->measured[i].end_ns += at_ns;
            }
            r->n_measured += s->n_messages;
            at_ns += r->parts[part_at++].measured_ns[r->n_iterations - 1];
        }
    r->predicted = mp_arena_alloc(r->arena, x->n_predicted, sizeof *r->predicted);
    if (r->predicted == NULL)
        return mp_nomem(err, "a timeline");
    if (x->n_predicted > 0)
        memcpy(r->predicted, x->predicted, x->n_predicted * sizeof *r->predicted);
    r->n_predicted = x->n_predicted;
out:
    return status;
}

/* ---- a step ---- */

static enum mp_status make_room(struct run *x, struct mp_error *err) {
    uint64_t *most = mp_calloc(x->w.world.n_local, sizeof *most);
    if (most == NULL)
        return mp_nomem(err, "the memory of ranks");
    for (uint32_t i = 0; i < x->w.world.n_local; i++) {
        most[i] = 1;
        for (uint32_t l = 0; l < x->r->n_layers; l++) {
            const uint64_t used = x->layers[l]->used[x->w.world.first_rank + i];
            most[i] = used > most[i] ? used : most[i];
        }
    }
    enum mp_status status = ex_work_room(&x->w, most, err);
    mp_free(most);
    return status;
}

static enum mp_status prepare(struct run *x, struct mp_error *err) {
    const struct ex_script **all = mp_calloc((size_t)x->r->n_layers * EX_N_PARTS, sizeof *all);
    size_t n = 0;
    if (all == NULL)
        return mp_nomem(err, "a step");
    for (uint32_t l = 0; l < x->r->n_layers; l++)
        for (int part = 0; part < EX_N_PARTS; part++)
            if (x->layers[l]->scripts[part] != NULL)
                all[n++] = x->layers[l]->scripts[part];
    enum mp_status status = x->w.transport->prepare(x->w.link, all, n, err);
    mp_free(all);
    return status;
}

/* The transfers just predicted, behind those of the parts before. */
static enum mp_status keep_predicted(struct run *x, uint32_t layer, enum ex_part part, const struct mp_exec_part *p,
                                     struct mp_error *err) {
    const uint64_t launch_ns = p->is_staged ? 0 : x->in->topology->launch_ns;
    if (x->n_predicted + x->log.n > x->n_predicted_allocated) {
        size_t more = 2 * x->n_predicted_allocated + x->log.n;
        struct mp_exec_transfer *grown = mp_realloc(x->predicted, more, sizeof *grown);
        if (grown == NULL)
            return mp_nomem(err, "a timeline");
        x->predicted = grown;
        x->n_predicted_allocated = more;
    }
    for (size_t i = 0; i < x->log.n; i++) {
        const struct mp_net_transfer *t = &x->log.transfers[i];
        x->predicted[x->n_predicted++] = (struct mp_exec_transfer){layer,
                                                                   part,
                                                                   t->stage,
                                                                   t->src,
                                                                   t->dst,
                                                                   t->bytes,
                                                                   x->predicted_at_ns + launch_ns + t->start_ns,
                                                                   x->predicted_at_ns + launch_ns + t->end_ns};
    }
    x->predicted_at_ns += p->predicted_ns;
    x->log.n = 0;
    return MP_OK;
}

static enum mp_status predict(struct run *x, uint32_t step, struct mp_error *err) {
    struct mp_exec_result *r = x->r;
    const bool is_logged = x->in->with_timeline && step == 0;
    enum mp_status status = MP_OK;
    for (uint32_t l = 0; l < r->n_layers; l++)
        for (int part = 0; part < EX_N_PARTS; part++) {
            const struct ex_script *s = x->layers[l]->scripts[part];
            if (s == NULL)
                continue;
            struct mp_exec_part *p = &r->parts[r->n_parts++];
            *p = (struct mp_exec_part){.step = step,
                                       .layer = l,
                                       .kind = (enum mp_exec_part_kind)part,
                                       .n_stages = s->n_stages,
                                       .n_messages = s->n_messages,
                                       .mode = s->mode,
                                       .is_staged = !s->is_single,
                                       .has_fallen_back = x->layers[l]->has_fallen_back[part]};
            for (size_t f = 0; f < (size_t)r->n_ranks * r->n_ranks; f++)
                p->bytes += x->layers[l]->matrix[part][f];
            p->measured_ns = mp_arena_alloc(r->arena, r->n_iterations, sizeof *p->measured_ns);
            if (p->measured_ns == NULL)
                return mp_nomem(err, "times");
            MP_TRY(ex_layer_predict(x->layers[l], &x->setup, x->net, x->in->stage_mode, &x->w.transport->limits,
                                    (enum ex_part)part, is_logged ? &x->log : NULL, &p->predicted_ns, &p->bound_ns,
                                    err));
            if (is_logged)
                MP_TRY(keep_predicted(x, l, (enum ex_part)part, p, err));
        }
out:
    return status;
}

static void free_step(struct run *x) {
    mp_flow_free(x->flow);
    x->flow = NULL;
    x->setup.flow = NULL;
    for (uint32_t l = 0; x->layers != NULL && l < x->r->n_layers; l++) {
        ex_layer_free(x->layers[l]);
        x->layers[l] = NULL;
        for (int part = 0; part < EX_N_PARTS; part++) {
            ex_times_free(x->times[(size_t)l * EX_N_PARTS + (uint32_t)part]);
            x->times[(size_t)l * EX_N_PARTS + (uint32_t)part] = NULL;
        }
    }
}

/* A fault that strikes nothing would look like one that is not caught. */
static enum mp_status check_fault(const struct run *x, uint32_t step, uint32_t layer, struct mp_error *err) {
    const struct ex_fault *f = &x->w.world.fault;
    const struct ex_script *s = x->layers[layer]->scripts[EX_DISPATCH];
    bool is_there = f->stage < s->n_stages && f->rank < s->n_ranks &&
                    (f->kind == EX_FAULT_STOP || f->kind == EX_FAULT_KILL || f->kind == EX_FAULT_SLOW);
    if (f->kind == EX_FAULT_NONE || f->step != step || f->layer != layer)
        return MP_OK;
    for (size_t m = 0; m < s->n_messages && !is_there; m++)
        is_there = s->messages[m].stage == f->stage && (f->kind == EX_FAULT_DROP || s->messages[m].src == f->rank);
    const size_t n_sends = f->rank < s->n_ranks ? s->send_first[f->rank + 1] - s->send_first[f->rank] : 0;
    size_t n_from = 0; /* what a swap can choose from */
    for (size_t i = 0; i < n_sends; i++)
        n_from += s->sends[s->send_first[f->rank] + i].stage >= f->stage;
    if (is_there && f->kind == EX_FAULT_SWAP && n_from < 2)
        return mp_fail(err, MP_EUSAGE,
                       "--fault: rank %u sends one message from stage %u of the dispatch of step %u, layer %u, on: "
                       "there is no other to swap it with",
                       f->rank, f->stage, step, layer);
    if (is_there)
        return MP_OK;
    return mp_fail(err, MP_EUSAGE, "--fault: rank %u sends nothing in stage %u of the dispatch of step %u, layer %u",
                   f->rank, f->stage, step, layer);
}

/* Between pieces of work that know nothing of transports. */
static enum mp_status works_on(struct run *x, struct mp_error *err) {
    return x->w.transport->pulse != NULL ? x->w.transport->pulse(x->w.link, err) : MP_OK;
}

static enum mp_status run_step(struct run *x, uint32_t step, struct mp_error *err) {
    struct mp_exec_result *r = x->r;
    const uint32_t n_warmup = x->in->n_warmup;
    enum mp_status status = MP_OK;
    const size_t first_part = r->n_parts;
    if (x->in->flow != NULL) {
        MP_TRY(x->in->flow->make(&x->flow, x->in->flow->ctx, &x->setup, step, err));
        MP_TRY(works_on(x, err));
        x->setup.flow = x->flow;
    }
    for (uint32_t l = 0; l < r->n_layers; l++) {
        if (x->in->matrix != NULL)
            MP_TRY(ex_layer_plain(&x->layers[l], &x->setup, x->net, x->in->matrix, x->in->stage_mode,
                                  &x->w.transport->limits, err));
        else
            MP_TRY(ex_layer_new(&x->layers[l], &x->setup, x->net, x->in->stage_mode, &x->w.transport->limits, step, l,
                                err));
        MP_TRY(check_fault(x, step, l, err));
        MP_TRY(works_on(x, err));
        for (int part = 0; part < EX_N_PARTS; part++)
            if (x->layers[l]->scripts[part] != NULL)
                MP_TRY(
                    ex_times_new(&x->times[(size_t)l * EX_N_PARTS + (uint32_t)part], x->layers[l]->scripts[part], err));
    }
    MP_TRY(predict(x, step, err));
    MP_TRY(make_room(x, err));
    if (x->w.transport->prepare != NULL)
        MP_TRY(prepare(x, err));
    x->w.payload.step = step;
    for (uint32_t i = 0; i < n_warmup + r->n_iterations; i++) {
        size_t part_at = first_part;
        x->w.payload.iteration = i;
        for (uint32_t l = 0; l < r->n_layers; l++) {
            uint64_t ns[N_TIMES] = {0};
            MP_TRY(run_layer(x, l, err));
            MP_TRY(slowest(x, l, ns, err));
            if (i >= n_warmup && r->pack_ns != NULL) {
                r->pack_ns[(size_t)step * r->n_iterations + i - n_warmup] += ns[EX_N_PARTS];
                r->unpack_ns[(size_t)step * r->n_iterations + i - n_warmup] += ns[EX_N_PARTS + 1];
            }
            for (int part = 0; part < EX_N_PARTS; part++)
                if (x->layers[l]->scripts[part] != NULL) {
                    if (i >= n_warmup)
                        r->parts[part_at].measured_ns[i - n_warmup] = ns[part];
                    for (uint32_t k = 0; k < x->w.world.n_local; k++)
                        r->n_bytes += ex_script_bytes(x->layers[l]->scripts[part], x->w.world.first_rank + k, true);
                    part_at++;
                }
        }
    }
    if (x->in->with_timeline && step == 0)
        status = keep_timeline(x, err);
out:
    free_step(x);
    return status;
}

/* ---- all of it ---- */

static enum mp_status open_run(struct run *x, struct mp_error *err) {
    const struct mp_exec *in = x->in;
    enum mp_status status = MP_OK;
    x->w.transport = ex_transport_find(in->transport);
    if (x->w.transport == NULL)
        return mp_fail(err, MP_EUSAGE, "unknown transport \"%s\" (all: moeplan-exec --list transports)", in->transport);
    if (in->with_gemm && (x->w.transport->compute == NULL || in->matrix != NULL))
        return mp_fail(err, MP_EUSAGE,
                       in->matrix != NULL ? "--compute gemm: a matrix has no experts (leave out --matrix)"
                                          : "--compute gemm: transport %s has no GPU (take cuda or nccl)",
                       in->transport);
    if (in->n_policies > 0 && x->w.transport->beside == NULL)
        return mp_fail(err, MP_EUSAGE,
                       "transport %s sums no gradients beside all-to-alls (take loop, socket, nccl or cuda)",
                       in->transport);
    if (in->n_policies > 0 && (in->matrix != NULL || in->with_timeline || in->with_gemm))
        return mp_fail(err, MP_EUSAGE, "training steps are replayed without --%s (leave it out)",
                       in->matrix != NULL  ? "matrix"
                       : in->with_timeline ? "timeline"
                                           : "compute gemm");
    if (in->flow != NULL && (in->matrix != NULL || in->n_policies > 0 || x->w.transport->limits.packs))
        return mp_fail(err, MP_EUSAGE,
                       "tokens that move or stand for others are replayed in forward passes of recordings, over loop, "
                       "socket or mpi (leave out --%s)",
                       in->matrix != NULL   ? "matrix"
                       : in->n_policies > 0 ? "train"
                                            : "transport");
    if (in->n_ranks != in->plan->n_gpus || in->plan->n_gpus != in->topology->n_gpus)
        return mp_fail(err, MP_EUSAGE,
                       "the plan is for %u GPUs, the topology has %u, and there are %u ranks (one for each GPU)",
                       in->plan->n_gpus, in->topology->n_gpus, in->n_ranks);
    x->w.world = (struct ex_world){.n_ranks = in->n_ranks,
                                   .first_rank = in->first_rank,
                                   .n_local = in->n_local,
                                   .local_rank = in->local_rank,
                                   .topology = in->topology,
                                   .deadline_ms = in->deadline_ms,
                                   .rendezvous = in->rendezvous,
                                   .hosts = in->hosts,
                                   .congestion = in->congestion,
                                   .with_timeline = in->with_timeline,
                                   .with_sums = in->n_policies > 0,
                                   .sockets_fd = in->launcher_fd};
    if (in->fault != NULL) {
        const uint32_t n_steps = in->matrix != NULL ? 1 : in->workload->n_steps,
                       n_layers = in->matrix != NULL ? 1 : in->plan->n_layers;
        MP_TRY(ex_fault_parse(&x->w.world.fault, in->fault, err));
        if (x->w.world.fault.is_of_sums && in->n_policies == 0)
            return mp_fail(err, MP_EUSAGE, "--fault: gradients are summed in training steps only (add --train)");
        if (x->w.world.fault.step >= n_steps || x->w.world.fault.layer >= n_layers) {
            status = mp_fail(err, MP_EUSAGE, "--fault: there is no step %u or layer %u (%u steps of %u layers)",
                             x->w.world.fault.step, x->w.world.fault.layer, n_steps, n_layers);
            goto out;
        }
    }
    MP_TRY(mp_router_new(&x->router, in->plan, err));
    MP_TRY(mp_net_new(&x->net, in->topology, err));
    x->setup = (struct mp_cost_setup){.plan = in->plan,
                                      .router = x->router,
                                      .workload = in->workload,
                                      .topology = in->topology,
                                      .model = in->model,
                                      .dispatcher = in->dispatcher,
                                      .sources = in->sources};
    x->w.n_threads = in->n_threads;
    x->w.payload = (struct ex_payload){.seed = in->seed};
    if (in->matrix == NULL) {
        x->w.payload.dispatch_bytes = in->model->dispatch_bytes;
        x->w.payload.combine_bytes = in->model->combine_bytes;
    }
    MP_TRY(identify(x, err));
out:
    return status;
}

static enum mp_status new_result(struct run *x, struct mp_error *err) {
    const struct mp_exec *in = x->in;
    const uint32_t n_layers = in->matrix != NULL ? 1 : in->plan->n_layers;
    struct mp_arena *arena = mp_arena_new();
    struct mp_exec_result *r = arena != NULL ? mp_arena_alloc(arena, 1, sizeof *r) : NULL;
    if (r == NULL) {
        mp_arena_free(arena);
        return mp_nomem(err, "a result");
    }
    *r = (struct mp_exec_result){.n_ranks = in->n_ranks,
                                 .n_steps = in->matrix != NULL ? 1 : in->workload->n_steps,
                                 .n_layers = n_layers,
                                 .n_iterations = in->n_iterations,
                                 .transport = x->w.transport->name,
                                 .arena = arena};
    x->r = r;
    r->parts = mp_arena_alloc(arena, (size_t)n_layers * EX_N_PARTS * r->n_steps, sizeof *r->parts);
    x->layers = mp_calloc(n_layers, sizeof *x->layers);
    x->times = mp_calloc((size_t)n_layers * EX_N_PARTS, sizeof *x->times);
    x->w.views = mp_calloc(in->n_local, sizeof *x->w.views);
    x->w.view_bytes = mp_calloc(in->n_local, sizeof *x->w.view_bytes);
    x->w.counts = mp_calloc((size_t)in->n_local * 3, sizeof *x->w.counts);
    x->w.rows_ns = mp_calloc((size_t)in->n_local * 2, sizeof *x->w.rows_ns);
    const bool packs = x->w.transport->limits.packs && in->matrix == NULL;
    if (packs) {
        r->pack_ns = mp_arena_alloc(arena, (size_t)r->n_steps * in->n_iterations, sizeof *r->pack_ns);
        r->unpack_ns = mp_arena_alloc(arena, (size_t)r->n_steps * in->n_iterations, sizeof *r->unpack_ns);
    }
    if (in->with_gemm)
        r->gemm_ns = mp_arena_alloc(arena, (size_t)r->n_steps * in->n_iterations, sizeof *r->gemm_ns);
    if ((in->with_gemm && r->gemm_ns == NULL) || r->parts == NULL || x->layers == NULL || x->times == NULL ||
        x->w.views == NULL || x->w.view_bytes == NULL || x->w.counts == NULL || x->w.rows_ns == NULL ||
        (packs && (r->pack_ns == NULL || r->unpack_ns == NULL)))
        return mp_nomem(err, "a result");
    return MP_OK;
}

/* Counts of all ranks. */
static enum mp_status add_up(struct run *x, struct mp_error *err) {
    const uint32_t n = x->w.world.n_ranks, n_local = x->w.world.n_local;
    enum { N = 4 };
    uint64_t *mine = mp_calloc((size_t)n_local * N, sizeof *mine), *all = mp_calloc((size_t)n * N, sizeof *all);
    enum mp_status status = MP_OK;
    if (mine == NULL || all == NULL) {
        status = mp_nomem(err, "a result");
        goto out;
    }
    for (uint32_t i = 0; i < n_local; i++) {
        mine[N * i] = x->w.counts[2 * i];
        mine[N * i + 1] = x->w.counts[2 * i + 1];
        mine[N * i + 2] = i == 0 ? x->r->n_bytes : 0; /* of the process */
        mine[N * i + 3] = i == 0 ? x->r->n_gradient_bytes : 0;
    }
    MP_TRY(x->w.transport->gather(x->w.link, mine, all, N * sizeof *mine, err));
    x->r->n_bytes = x->r->n_gradient_bytes = 0;
    for (uint32_t r = 0; r < n; r++) {
        x->r->n_tokens += all[N * r];
        x->r->n_copies += all[N * r + 1];
        x->r->n_bytes += all[N * r + 2];
        x->r->n_gradient_bytes += all[N * r + 3];
    }
out:
    mp_free(mine);
    mp_free(all);
    return status;
}

/* Training steps in place of forward passes. */
static enum mp_status train_all(struct run *x, struct mp_error *err) {
    struct ex_training t = {.in = x->in, .work = &x->w, .setup = &x->setup, .net = x->net, .r = x->r};
    enum mp_status status = MP_OK;
    MP_TRY(ex_train_begin(&t, err));
    for (uint32_t s = 0; s < x->r->n_steps; s++)
        MP_TRY(ex_train_step(&t, s, err));
    ex_train_end(&t);
    x->r->n_gradient_bytes = t.n_gradient_bytes;
out:
    return status;
}

enum mp_status mp_exec_run(struct mp_exec_result **out, const struct mp_exec *in, struct mp_error *err) {
    *out = NULL;
    struct run x = {.in = in};
    struct mp_error why = {0};
    enum mp_status status = MP_OK;
    MP_TRY(open_run(&x, &why));
    MP_TRY(new_result(&x, &why));
    MP_TRY(x.w.transport->open(&x.w.link, &x.w.world, &why));
    x.w.pulse = (struct ex_pulse){.beat = x.w.transport->pulse, .link = x.w.link};
    x.w.payload.pulse = x.w.pulse.beat != NULL ? &x.w.pulse : NULL;
    if (in->n_policies > 0)
        MP_TRY(train_all(&x, &why));
    for (uint32_t s = 0; s < x.r->n_steps && in->n_policies == 0; s++)
        MP_TRY(run_step(&x, s, &why));
    MP_TRY(add_up(&x, &why));
    *out = x.r;
    x.r = NULL;
out:
    if (status != MP_OK && x.w.link != NULL)
        x.w.transport->abort(x.w.link, &why);
    if (x.w.transport != NULL)
        x.w.transport->close(x.w.link);
    if (status != MP_OK && err != NULL && err->status == MP_OK)
        *err = why;
    mp_net_log_free(&x.log);
    mp_free(x.predicted);
    mp_net_free(x.net);
    mp_router_free(x.router);
    mp_free(x.layers);
    mp_free(x.times);
    mp_free(x.w.views);
    mp_free(x.w.view_bytes);
    mp_free(x.w.counts);
    mp_free(x.w.rows_ns);
    mp_exec_result_free(x.r);
    return status;
}

void mp_exec_result_free(struct mp_exec_result *r) {
    if (r != NULL)
        mp_arena_free(r->arena);
}
