/* Traffic and load of one (step, layer) under a plan: counts first, bytes at the end, so that every number is exact.
 * docs/COST.md part 2. */
#include "traffic.h"
#include <string.h>

enum mp_status mp_traffic_new(struct mp_traffic **out, uint32_t n_gpus, struct mp_error *err) {
    *out = NULL;
    struct traffic_scratch *s = mp_calloc(1, sizeof *s);
    if (s == NULL)
        return mp_nomem(err, "a traffic matrix");
    struct mp_traffic *t = &s->pub;
    t->n_gpus = n_gpus;
    size_t n = n_gpus, cells = n * n;
    t->dispatch = mp_calloc(cells, sizeof *t->dispatch);
    t->combine = mp_calloc(cells, sizeof *t->combine);
    t->dispatch2 = mp_calloc(cells, sizeof *t->dispatch2);
    t->combine2 = mp_calloc(cells, sizeof *t->combine2);
    t->rows = mp_calloc(n, sizeof *t->rows);
    t->padded_rows = mp_calloc(n, sizeof *t->padded_rows);
    t->active = mp_calloc(n, sizeof *t->active);
    t->source_rows = mp_calloc(n, sizeof *t->source_rows);
    t->sequences = mp_calloc(n, sizeof *t->sequences);
    t->longest = mp_calloc(n, sizeof *t->longest);
    t->weights = mp_calloc(cells, sizeof *t->weights);
    s->own_index = mp_calloc(n, sizeof *s->own_index);
    s->node = mp_calloc(n, sizeof *s->node);
    s->index_in_node = mp_calloc(n, sizeof *s->index_in_node);
    s->node_first = mp_calloc(n + 1, sizeof *s->node_first);
    s->node_gpus = mp_calloc(n, sizeof *s->node_gpus);
    s->gpu_stamp = mp_calloc(n, sizeof *s->gpu_stamp);
    s->node_stamp = mp_calloc(n, sizeof *s->node_stamp);
    if (t->dispatch == NULL || t->combine == NULL || t->dispatch2 == NULL || t->combine2 == NULL || t->rows == NULL ||
        t->padded_rows == NULL || t->active == NULL || t->source_rows == NULL || s->node == NULL ||
        s->index_in_node == NULL || s->node_first == NULL || s->node_gpus == NULL || s->gpu_stamp == NULL ||
        s->node_stamp == NULL || t->sequences == NULL || t->longest == NULL || s->own_index == NULL ||
        t->weights == NULL) {
        mp_traffic_free(t);
        return mp_nomem(err, "a traffic matrix");
    }
    *out = t;
    return MP_OK;
}

void mp_traffic_free(struct mp_traffic *t) {
    if (t == NULL)
        return;
    struct traffic_scratch *s = (struct traffic_scratch *)t;
    void *owned[] = {t->dispatch,  t->combine,     t->dispatch2, t->combine2,      t->rows,         t->padded_rows,
                     t->active,    t->source_rows, s->node,      s->index_in_node, s->node_first,   s->node_gpus,
                     s->gpu_stamp, s->node_stamp,  s->slot_gpu,  s->only_slot,     s->tokens,       s->share,
                     t->slot_rows, s->turns,       s->place,     s->certain,       t->sequences,    t->longest,
                     s->order,     s->first_at,    s->own_index, s->row_slot,      s->row_sequence, t->weights,
                     s->pairs,     s->trial,       s->is_copied, s->by_traffic};
    for (size_t i = 0; i < sizeof owned / sizeof owned[0]; i++)
        mp_free(owned[i]);
    mp_free(s);
}

static enum mp_status grow(struct traffic_scratch *s, const struct mp_cost_setup *in, struct mp_error *err) {
    const struct mp_plan *p = in->plan;
    if (p->n_slots > s->n_slots_allocated) {
        uint64_t *rows = mp_realloc(s->pub.slot_rows, p->n_slots, sizeof *rows);
        if (rows == NULL)
            return mp_nomem(err, "rows per slot");
        s->pub.slot_rows = rows;
        uint64_t *share = mp_realloc(s->share, p->n_slots, sizeof *share);
        if (share == NULL)
            return mp_nomem(err, "rows per slot");
        s->share = share;
        uint32_t *slot_gpu = mp_realloc(s->slot_gpu, p->n_slots, sizeof *slot_gpu);
        if (slot_gpu == NULL)
            return mp_nomem(err, "GPUs of slots");
        s->slot_gpu = slot_gpu;
        struct place *place = mp_realloc(s->place, p->n_slots, sizeof *place);
        if (place == NULL)
            return mp_nomem(err, "GPUs of slots");
        s->place = place;
        s->n_slots_allocated = p->n_slots;
    }
    if (p->n_experts > s->n_experts_allocated) {
        uint32_t *only = mp_realloc(s->only_slot, p->n_experts, sizeof *only);
        if (only == NULL)
            return mp_nomem(err, "slots of experts");
        s->only_slot = only;
        uint32_t *turns = mp_realloc(s->turns, p->n_experts, sizeof *turns);
        if (turns == NULL)
            return mp_nomem(err, "slots of experts");
        s->turns = turns;
        uint32_t *certain = mp_realloc(s->certain, p->n_experts, sizeof *certain);
        if (certain == NULL)
            return mp_nomem(err, "slots of experts");
        s->certain = certain;
        s->n_experts_allocated = p->n_experts;
    }
    uint64_t cells = (uint64_t)in->workload->n_ranks * p->n_experts;
    if (in->workload->trace->kind == MP_TRACE_COUNTS && cells > s->n_cells_allocated) {
        uint32_t *tokens = mp_realloc(s->tokens, cells, sizeof *tokens);
        if (tokens == NULL)
            return mp_nomem(err, "tokens per source and expert");
        s->tokens = tokens;
        s->n_cells_allocated = (uint32_t)cells;
    }
    return MP_OK;
}

static enum mp_status check(const struct mp_traffic *t, const struct mp_cost_setup *s, uint32_t step, uint32_t layer,
                            struct mp_error *err) {
    const struct mp_plan *p = s->plan;
    const struct mp_workload *w = s->workload;
    if (t->n_gpus != p->n_gpus || p->n_gpus != s->topology->n_gpus)
        return mp_fail(err, MP_EUSAGE,
                       "the plan is for %u GPUs and the topology has %u (give the topology it was made for)", p->n_gpus,
                       s->topology->n_gpus);
    if (w->n_ranks > p->n_gpus)
        return mp_fail(err, MP_EUSAGE,
                       "the steps have %u source ranks and the plan %u GPUs (build them for as many ranks as GPUs)",
                       w->n_ranks, p->n_gpus);
    if (w->trace->n_experts != p->n_experts || w->trace->n_layers != p->n_layers)
        return mp_fail(
            err, MP_EUSAGE,
            "the plan has %u layers of %u experts and the trace %u of %u (give a trace of the model it was made for)",
            p->n_layers, p->n_experts, w->trace->n_layers, w->trace->n_experts);
    if (step >= w->n_steps || layer >= p->n_layers)
        return mp_fail(err, MP_EBUG, "step %u of %u, layer %u of %u", step, w->n_steps, layer, p->n_layers);
    if (w->trace->kind == MP_TRACE_COUNTS) {
        if (s->dispatcher->copies == MP_COPY_PER_GPU || s->dispatcher->copies == MP_COPY_PER_NODE)
            return mp_fail(
                err, MP_EUSAGE,
                "%s sends one copy of a token to several experts, which counts cannot tell (record the top-k of every "
                "token, or use --dispatcher a2av)",
                s->dispatcher->name);
        if (s->sources == MP_SOURCES_COUPLED)
            return mp_fail(
                err, MP_EUSAGE,
                "coupled sources need to know each token (record the top-k of every token, or use --sources dp)");
    }
    return MP_OK;
}

static enum mp_status no_slot(const struct mp_plan *p, uint32_t layer, uint32_t expert, struct mp_error *err) {
    return mp_fail(err, MP_EINPUT, "layer %u: expert %u has no slot in the plan", p->layers[layer].layer_id, expert);
}

static void prepare(struct traffic_scratch *s, const struct mp_cost_setup *in, uint32_t layer) {
    struct mp_traffic *t = &s->pub;
    const struct mp_plan *p = in->plan;
    uint32_t n = t->n_gpus;
    memset(t->dispatch, 0, (size_t)n * n * sizeof *t->dispatch);
    if (t->has_second) {
        memset(t->dispatch2, 0, (size_t)n * n * sizeof *t->dispatch2);
        memset(t->combine2, 0, (size_t)n * n * sizeof *t->combine2);
    }
    t->has_second = in->dispatcher->copies == MP_COPY_PER_NODE;
    memset(t->rows, 0, n * sizeof *t->rows);
    memset(t->padded_rows, 0, n * sizeof *t->padded_rows);
    memset(t->active, 0, n * sizeof *t->active);
    memset(t->source_rows, 0, n * sizeof *t->source_rows);
    memset(t->sequences, 0, n * sizeof *t->sequences);
    memset(t->longest, 0, n * sizeof *t->longest);
    t->n_slots = p->n_slots;
    memset(t->slot_rows, 0, p->n_slots * sizeof *t->slot_rows);
    t->copies_expert = t->copies_gpu = t->copies_node = t->copies_inter = t->intra_bytes = t->inter_bytes = 0;
    for (uint32_t g = 0; g < n; g++)
        for (uint32_t slot = p->gpu_first_slot[g]; slot < p->gpu_first_slot[g + 1]; slot++)
            s->slot_gpu[slot] = g;
    s->gpus = s->nodes = (struct tally){.n_planes = 0}; /* a call that failed may have left some */
    s->has_choice = false;
    for (uint32_t e = 0; e < p->n_experts; e++) {
        uint32_t n_replicas;
        const uint32_t *slots = mp_router_replicas(in->router, layer, e, &n_replicas);
        s->only_slot[e] = n_replicas == 1 ? slots[0] : MP_NONE;
        s->has_choice |= n_replicas != 1;
    }
    /* GPUs of each node, ascending; nodes are few, GPUs at most 4,096. */
    uint32_t n_nodes = mp_topology_n_nodes(in->topology);
    memset(s->node_first, 0, (n + 1) * sizeof *s->node_first);
    for (uint32_t g = 0; g < n; g++) {
        s->node[g] = mp_topology_node(in->topology, g);
        s->index_in_node[g] = s->node_first[s->node[g] + 1]++;
    }
    for (uint32_t v = 0; v < n_nodes; v++)
        s->node_first[v + 1] += s->node_first[v];
    for (uint32_t g = 0; g < n; g++)
        s->node_gpus[s->node_first[s->node[g]] + s->index_in_node[g]] = g;
    for (uint32_t slot = 0; n <= NARROW && slot < p->n_slots; slot++)
        s->place[slot] = (struct place){UINT64_C(1) << s->slot_gpu[slot], UINT64_C(1) << s->node[s->slot_gpu[slot]]};
}

/* Where a token starts. */
static enum mp_status source_of(const struct traffic_scratch *s, const struct mp_cost_setup *in, uint32_t layer,
                                uint64_t row, uint64_t hash, uint32_t *src, struct mp_error *err) {
    if (in->sources != MP_SOURCES_COUPLED)
        return MP_OK;
    uint32_t expert = (uint32_t)(row % in->plan->n_experts),
             home = mp_router_slot(in->router, layer, expert, *src, hash);
    if (home == MP_NONE)
        return no_slot(in->plan, layer, expert, err);
    *src = s->slot_gpu[home];
    return MP_OK;
}

/* The next token, by rank and row. */
static void next_row(struct traffic_scratch *s, uint32_t rank) {
    s->row = rank == s->rank ? s->row + 1 : 0;
    if (rank != s->rank)
        s->block = MP_NONE;
    s->rank = rank;
}

/* The slot that a stack's servers choose for the j-th expert of this token; the expert has several replicas. */
static uint32_t served_slot(struct traffic_scratch *s, const struct mp_cost_setup *in, uint32_t layer, uint32_t expert,
                            uint32_t j) {
    const uint64_t entry = (uint64_t)s->row * in->workload->trace->top_k + j;
    uint64_t which = 0;
    uint32_t n, block = (uint32_t)(entry / MP_CHOICE_BLOCK);
    const uint32_t *slots = mp_router_replicas(in->router, layer, expert, &n);
    if (n == 0)
        return MP_NONE;
    switch (in->choice.kind) {
    case MP_CHOICE_TABLE:
        return in->choice.table[((size_t)layer * in->plan->n_experts + expert) * in->plan->n_gpus + s->rank];
    case MP_CHOICE_RANK:
        which = s->rank;
        break;
    case MP_CHOICE_ROW:
        which = (uint32_t)(s->row * UINT32_C(2654435769));
        break;
    case MP_CHOICE_TURNS:
        if (block != s->block) {
            memset(s->turns, 0, in->plan->n_experts * sizeof *s->turns);
            s->block = block;
        }
        which = (uint64_t)block + s->rank + s->turns[expert]++;
        break;
    case MP_CHOICE_POSITION:
    case MP_CHOICE_PLAN:
        which = entry;
        break;
    }
    return slots[which % n];
}

/* Where the experts of a token are served: slots[k]. certain[n_experts]: where nothing is drawn, else MP_NONE. */
static inline enum mp_status choose_slots(struct traffic_scratch *s, const struct mp_cost_setup *in, uint32_t layer,
                                          uint32_t src, uint64_t hash, const uint32_t *certain, const uint16_t *ids,
                                          uint32_t k, uint32_t *slots, struct mp_error *err) {
    uint16_t drawn_ids[MP_MAX_TOP_K], at[MP_MAX_TOP_K];
    uint32_t drawn[MP_MAX_TOP_K], n = 0;
    for (uint32_t j = 0; j < k; j++) {
        slots[j] = certain[ids[j]];
        drawn_ids[n] = ids[j];
        at[n] = (uint16_t)j;
        n += slots[j] == MP_NONE;
    }
    if (n > 0 && in->choice.kind == MP_CHOICE_PLAN)
        mp_router_row(in->router, layer, drawn_ids, n, src, hash, drawn);
    for (uint32_t i = 0; i < n; i++) {
        slots[at[i]] = in->choice.kind == MP_CHOICE_PLAN ? drawn[i] : served_slot(s, in, layer, drawn_ids[i], at[i]);
        if (slots[at[i]] == MP_NONE)
            return no_slot(in->plan, layer, drawn_ids[i], err);
    }
    return MP_OK;
}

enum mp_status traffic_choose(struct traffic_scratch *s, const struct mp_cost_setup *in, uint32_t layer, uint32_t src,
                              uint64_t hash, const uint16_t *ids, uint32_t k, uint32_t *slots, struct mp_error *err) {
    next_row(s, src);
    return choose_slots(s, in, layer, src, hash, s->only_slot, ids, k, slots, err);
}

/* Experts whose slot is certain for tokens that start on src, of which rows [row, ...) of the step are some. */
static const uint32_t *certain_of(struct traffic_scratch *s, const struct mp_cost_setup *in, const struct mp_step *st,
                                  uint32_t row, uint32_t layer, uint32_t src) {
    const uint32_t n_experts = in->plan->n_experts, top_k = in->workload->trace->top_k;
    uint32_t end = row;
    if (!s->has_choice || in->choice.kind != MP_CHOICE_PLAN || in->sources == MP_SOURCES_COUPLED)
        return s->only_slot;
    while (end < st->n && st->source[end] == src && (end - row) * top_k < n_experts)
        end++;
    if ((end - row) * top_k < n_experts)
        return s->only_slot; /* it would not be worth it */
    mp_router_certain(in->router, layer, src, s->certain);
    return s->certain;
}

/* a + b + *sum, bit by bit: the sum stays, the carry is returned. */
static inline uint64_t add_words(uint64_t *sum, uint64_t a, uint64_t b) {
    const uint64_t differ = a ^ b, c = *sum;
    *sum = differ ^ c;
    return (a & b) | (differ & c);
}
static inline void add_eight(struct tally *t) {
    const uint64_t *m = t->wait;
    uint64_t ones = t->plane[0], twos = t->plane[1], fours = t->plane[2];
    const uint64_t twos_a = add_words(&ones, m[0], m[1]), twos_b = add_words(&ones, m[2], m[3]),
                   fours_a = add_words(&twos, twos_a, twos_b), twos_c = add_words(&ones, m[4], m[5]),
                   twos_d = add_words(&ones, m[6], m[7]), fours_b = add_words(&twos, twos_c, twos_d);
    uint64_t left = add_words(&fours, fours_a, fours_b);
    uint32_t i = 3;
    t->plane[0] = ones;
    t->plane[1] = twos;
    t->plane[2] = fours;
    for (; left != 0; i++) {
        const uint64_t both = t->plane[i] & left;
        t->plane[i] ^= left;
        left = both;
    }
    t->n_planes = i > t->n_planes ? i : t->n_planes;
}

uint32_t traffic_gateway(const struct traffic_scratch *s, uint32_t src, uint32_t node) {
    return s->node_gpus[s->node_first[node] + s->index_in_node[src] % (s->node_first[node + 1] - s->node_first[node])];
}

/* What the tokens tallied send, all from src; the last n_waiting of them wait. The tallies are empty afterwards. */
static void send_tally(struct traffic_scratch *s, enum mp_copy_count copies, uint32_t src, uint32_t n_waiting) {
    struct mp_traffic *t = &s->pub;
    const size_t n = t->n_gpus;
    const uint32_t own = s->node[src];
    if (n_waiting > 0) {
        memset(s->gpus.wait + n_waiting, 0, (EIGHT - n_waiting) * sizeof *s->gpus.wait);
        memset(s->nodes.wait + n_waiting, 0, (EIGHT - n_waiting) * sizeof *s->nodes.wait);
        add_eight(&s->gpus);
        add_eight(&s->nodes);
    }
    for (uint32_t i = 0; i < s->gpus.n_planes; i++)
        for (uint64_t left = s->gpus.plane[i] & ~(UINT64_C(1) << src); left != 0; left &= left - 1) {
            const uint32_t g = (uint32_t)__builtin_ctzll(left), v = s->node[g];
            t->copies_gpu += UINT64_C(1) << i;
            if (copies == MP_COPY_PER_GPU || (copies == MP_COPY_PER_NODE && v == own)) {
                t->dispatch[src * n + g] += UINT64_C(1) << i;
            } else if (copies == MP_COPY_PER_NODE) {
                const uint32_t gateway = traffic_gateway(s, src, v);
                t->dispatch2[gateway * n + g] += (uint64_t)(gateway != g) << i;
            }
        }
    for (uint32_t i = 0; i < s->nodes.n_planes; i++)
        for (uint64_t left = s->nodes.plane[i] & ~(UINT64_C(1) << own); left != 0; left &= left - 1) {
            t->copies_node += UINT64_C(1) << i;
            if (copies == MP_COPY_PER_NODE)
                t->dispatch[src * n + traffic_gateway(s, src, (uint32_t)__builtin_ctzll(left))] += UINT64_C(1) << i;
        }
    memset(s->gpus.plane, 0, s->gpus.n_planes * sizeof *s->gpus.plane);
    memset(s->nodes.plane, 0, s->nodes.n_planes * sizeof *s->nodes.plane);
    s->gpus.n_planes = s->nodes.n_planes = 0;
}

/* (token, expert) pairs counted on this GPU so far. */
static uint64_t rows_on(const struct traffic_scratch *s, const struct mp_plan *p, uint32_t gpu) {
    uint64_t sum = 0;
    for (uint32_t slot = p->gpu_first_slot[gpu]; slot < p->gpu_first_slot[gpu + 1]; slot++)
        sum += s->pub.slot_rows[slot];
    return sum;
}

/* Routes every token of the step; dispatch and dispatch2 receive copies, not bytes. Up to 64 GPUs: those that a token
 * needs are bits of a word, and words of one source after another are tallied before they become copies. */
static enum mp_status count_narrow(struct traffic_scratch *s, const struct mp_cost_setup *in, uint32_t step,
                                   uint32_t layer, struct mp_error *err) {
    struct mp_traffic *t = &s->pub;
    const struct mp_trace *trace = in->workload->trace;
    const struct mp_step *st = &in->workload->steps[step];
    const enum mp_copy_count copies = in->dispatcher->copies;
    const size_t n = t->n_gpus;
    const bool has_hash = s->has_choice || in->sources == MP_SOURCES_COUPLED;
    uint32_t here = MP_NONE, n_here = 0; /* source of the tokens that are tallied; how many they are */
    const uint32_t *certain = s->only_slot;
    uint64_t pairs = 0, local = 0; /* of all tokens so far; of those of `here` before */
    uint64_t own = 0, inter = 0;   /* bit of here's node; pairs whose expert is on another */
    uint16_t ids[MP_MAX_TOP_K];
    uint32_t slots[MP_MAX_TOP_K];
    enum mp_status status = MP_OK;
    s->rank = MP_NONE;
    for (uint32_t i = 0; i < st->n; i++) {
        const uint64_t row = st->row[i], hash = has_hash ? mp_token_hash(row) : 0;
        const uint32_t k = mp_trace_row(trace, layer, row, ids);
        uint32_t src = st->source[i];
        MP_TRY(source_of(s, in, layer, row, hash, &src, err));
        if (src != here) {
            if (here != MP_NONE) {
                send_tally(s, copies, here, n_here % EIGHT);
                t->source_rows[here] += n_here;
                t->copies_expert -= rows_on(s, in->plan, here) - local;
            }
            here = src;
            own = UINT64_C(1) << s->node[src];
            n_here = 0;
            local = rows_on(s, in->plan, src);
            certain = certain_of(s, in, st, i, layer, src);
        }
        if (s->has_choice) {
            next_row(s, st->source[i]);
            MP_TRY(choose_slots(s, in, layer, src, hash, certain, ids, k, slots, err));
        } else {
            for (uint32_t j = 0; j < k; j++)
                slots[j] = s->only_slot[ids[j]];
        }
        uint64_t gpus = 0, nodes = 0;
        for (uint32_t j = 0; j < k; j++) {
            const struct place at = s->place[slots[j]];
            gpus |= at.gpu;
            nodes |= at.node;
            inter += (at.node & own) == 0;
            t->slot_rows[slots[j]]++;
        }
        if (copies == MP_COPY_PER_EXPERT)
            for (uint32_t j = 0; j < k; j++)
                t->dispatch[src * n + s->slot_gpu[slots[j]]]++; /* the diagonal is cleared below */
        pairs += k;
        s->gpus.wait[n_here % EIGHT] = gpus;
        s->nodes.wait[n_here % EIGHT] = nodes;
        if (++n_here % EIGHT == 0) {
            add_eight(&s->gpus);
            add_eight(&s->nodes);
        }
    }
    if (here != MP_NONE) {
        send_tally(s, copies, here, n_here % EIGHT);
        t->source_rows[here] += n_here;
        t->copies_expert -= rows_on(s, in->plan, here) - local;
    }
    t->copies_expert += pairs;
    t->copies_inter += inter;
out:
    return status;
}

/* The same beyond 64 GPUs. */
static enum mp_status count_wide(struct traffic_scratch *s, const struct mp_cost_setup *in, uint32_t step,
                                 uint32_t layer, struct mp_error *err) {
    struct mp_traffic *t = &s->pub;
    const struct mp_step *st = &in->workload->steps[step];
    const enum mp_copy_count copies = in->dispatcher->copies;
    const size_t n = t->n_gpus;
    uint16_t ids[MP_MAX_TOP_K];
    uint32_t slots[MP_MAX_TOP_K];
    s->rank = MP_NONE;
    for (uint32_t i = 0; i < st->n; i++) {
        const uint64_t row = st->row[i], hash = mp_token_hash(row);
        const uint32_t k = mp_trace_row(in->workload->trace, layer, row, ids);
        uint32_t src = st->source[i];
        enum mp_status status = source_of(s, in, layer, row, hash, &src, err);
        next_row(s, st->source[i]);
        if (status == MP_OK)
            status = choose_slots(s, in, layer, src, hash, s->only_slot, ids, k, slots, err);
        if (status != MP_OK)
            return status;
        t->source_rows[src]++;
        const uint64_t stamp = ++s->stamp;
        s->gpu_stamp[src] = stamp;
        for (uint32_t j = 0; j < k; j++) {
            const uint32_t g = s->slot_gpu[slots[j]], v = s->node[g];
            t->slot_rows[slots[j]]++;
            t->copies_expert += g != src;
            t->copies_inter += v != s->node[src];
            if (copies == MP_COPY_PER_EXPERT)
                t->dispatch[src * n + g]++; /* the diagonal is cleared below */
            if (s->gpu_stamp[g] == stamp)
                continue;
            s->gpu_stamp[g] = stamp;
            t->copies_gpu++;
            if (copies == MP_COPY_PER_GPU || (copies == MP_COPY_PER_NODE && v == s->node[src]))
                t->dispatch[src * n + g]++;
            if (v == s->node[src])
                continue;
            const bool is_first = s->node_stamp[v] != stamp; /* in its node */
            s->node_stamp[v] = stamp;
            t->copies_node += is_first;
            if (copies != MP_COPY_PER_NODE)
                continue;
            const uint32_t gateway = traffic_gateway(s, src, v);
            t->dispatch[src * n + gateway] += is_first;
            t->dispatch2[gateway * n + g] += gateway != g;
        }
    }
    return MP_OK;
}

static enum mp_status count_tokens(struct traffic_scratch *s, const struct mp_cost_setup *in, uint32_t step,
                                   uint32_t layer, struct mp_error *err) {
    struct mp_traffic *t = &s->pub;
    const struct mp_step *st = &in->workload->steps[step];
    const size_t n = t->n_gpus;
    const enum mp_status status =
        n <= NARROW ? count_narrow(s, in, step, layer, err) : count_wide(s, in, step, layer, err);
    if (status != MP_OK)
        return status;
    for (uint32_t i = 0; i < n; i++)
        t->dispatch[i * n + i] = 0;
    if (in->dispatcher->copies == MP_COPY_ALL)
        for (uint32_t i = 0; i < n; i++)
            for (uint32_t j = 0; j < n; j++)
                t->dispatch[i * n + j] = i == j ? 0 : t->source_rows[i];
    for (uint32_t r = 0; r < in->workload->n_ranks; r++)
        t->source_rows[r] += st->padding != NULL ? st->padding[r] : 0;
    return MP_OK;
}

/* share[i] of `count` tokens for replica i. */
static void split(struct traffic_scratch *s, const struct mp_cost_setup *in, uint32_t layer, uint32_t expert,
                  uint32_t src, uint64_t count) {
    uint32_t n;
    const uint32_t *slots = mp_router_replicas(in->router, layer, expert, &n);
    s->rank = src;
    if (n < 2 || (in->choice.kind != MP_CHOICE_RANK && in->choice.kind != MP_CHOICE_TABLE)) {
        mp_router_split(in->router, layer, expert, src, count, s->share);
        return;
    }
    uint32_t slot = served_slot(s, in, layer, expert, 0);
    for (uint32_t i = 0; i < n; i++)
        s->share[i] = slots[i] == slot ? count : 0;
}

static enum mp_status count_counts(struct traffic_scratch *s, const struct mp_cost_setup *in, uint32_t step,
                                   uint32_t layer, struct mp_error *err) {
    struct mp_traffic *t = &s->pub;
    const struct mp_workload *w = in->workload;
    const size_t n = t->n_gpus;
    const uint32_t n_experts = in->plan->n_experts;
    mp_workload_tokens(w, step, layer, s->tokens);
    for (uint32_t src = 0; src < w->n_ranks; src++) {
        uint64_t pairs = 0;
        for (uint32_t e = 0; e < n_experts; e++) {
            uint64_t count = s->tokens[(size_t)src * n_experts + e];
            if (count == 0)
                continue;
            pairs += count;
            uint32_t n_replicas;
            const uint32_t *slots = mp_router_replicas(in->router, layer, e, &n_replicas);
            if (n_replicas == 0)
                return no_slot(in->plan, layer, e, err);
            split(s, in, layer, e, src, count);
            for (uint32_t i = 0; i < n_replicas; i++) {
                uint32_t g = s->slot_gpu[slots[i]];
                t->slot_rows[slots[i]] += s->share[i];
                if (g == src)
                    continue;
                t->copies_expert += s->share[i];
                if (in->dispatcher->copies == MP_COPY_PER_EXPERT)
                    t->dispatch[src * n + g] += s->share[i];
            }
        }
        uint32_t k = in->model->top_k > 0 ? in->model->top_k : 1;
        t->source_rows[src] = mp_ceil_div(pairs, k);
        if (in->dispatcher->copies == MP_COPY_ALL)
            for (uint32_t j = 0; j < n; j++)
                t->dispatch[src * n + j] = j == src ? 0 : t->source_rows[src];
    }
    return MP_OK;
}

/* Copies become bytes. */
static void weigh_flow(const struct traffic_scratch *s, uint64_t *copies, uint64_t bytes) {
    struct mp_traffic *t = (struct mp_traffic *)&s->pub;
    const size_t n = t->n_gpus;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) {
            copies[i * n + j] *= bytes;
            *(s->node[i] == s->node[j] ? &t->intra_bytes : &t->inter_bytes) += copies[i * n + j];
        }
}

/* The same both ways, where all come back as they went. */
static void weigh(const struct traffic_scratch *s, uint64_t *dispatch, uint64_t *combine, const struct mp_model *m) {
    struct mp_traffic *t = (struct mp_traffic *)&s->pub;
    const size_t n = t->n_gpus;
    uint64_t copies_in_node = 0, copies_between = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) {
            uint64_t copies = dispatch[i * n + j];
            dispatch[i * n + j] = copies * m->dispatch_bytes;
            combine[j * n + i] = copies * m->combine_bytes;
            if (s->node[i] == s->node[j])
                copies_in_node += copies;
            else
                copies_between += copies;
        }
    t->intra_bytes += copies_in_node * (m->dispatch_bytes + m->combine_bytes);
    t->inter_bytes += copies_between * (m->dispatch_bytes + m->combine_bytes);
}

/* Experts travel with the tokens of the dispatch. */
static void add_weights(struct traffic_scratch *s) {
    struct mp_traffic *t = &s->pub;
    for (size_t i = 0; i < t->n_gpus; i++)
        for (size_t j = 0; j < t->n_gpus; j++) {
            const uint64_t bytes = t->weights[i * t->n_gpus + j];
            t->dispatch[i * t->n_gpus + j] += bytes;
            *(s->node[i] == s->node[j] ? &t->intra_bytes : &t->inter_bytes) += bytes;
        }
}

enum mp_status mp_traffic_compute(struct mp_traffic *out, const struct mp_cost_setup *in, uint32_t step, uint32_t layer,
                                  struct mp_error *err) {
    struct traffic_scratch *s = (struct traffic_scratch *)out;
    enum mp_status status;
    MP_TRY(check(out, in, step, layer, err));
    MP_TRY(grow(s, in, err));
    prepare(s, in, layer);
    if (out->has_weights || in->dispatcher->weights != MP_WEIGHTS_STAY)
        memset(out->weights, 0, (size_t)out->n_gpus * out->n_gpus * sizeof *out->weights);
    out->has_weights = in->dispatcher->weights != MP_WEIGHTS_STAY;
    if (out->has_weights)
        MP_TRY(traffic_weights_count(s, in, step, layer, err));
    else if (in->flow != NULL)
        MP_TRY(traffic_flow_count(s, in, step, layer, err));
    else if (in->workload->trace->kind == MP_TRACE_TOKENS)
        MP_TRY(count_tokens(s, in, step, layer, err));
    else
        MP_TRY(count_counts(s, in, step, layer, err));
    for (uint32_t g = 0; g < out->n_gpus && !out->has_weights; g++) {
        uint64_t tile = in->topology->types[in->topology->gpus[g].type].tile_tokens;
        tile = tile == 0 ? 1 : tile;
        for (uint32_t slot = in->plan->gpu_first_slot[g]; slot < in->plan->gpu_first_slot[g + 1]; slot++) {
            uint64_t rows = out->slot_rows[slot];
            if (rows == 0)
                continue;
            out->active[g]++;
            out->rows[g] += rows;
            out->padded_rows[g] += mp_ceil_div(rows, tile) * tile;
        }
    }
    if (in->flow != NULL) {
        weigh_flow(s, out->dispatch, in->model->dispatch_bytes);
        weigh_flow(s, out->combine, in->model->combine_bytes);
        weigh_flow(s, out->dispatch2, in->model->dispatch_bytes);
        weigh_flow(s, out->combine2, in->model->combine_bytes);
        goto out;
    }
    weigh(s, out->dispatch, out->combine, in->model);
    if (out->has_second)
        weigh(s, out->dispatch2, out->combine2, in->model);
    if (out->has_weights)
        add_weights(s);
out:
    return status;
}
