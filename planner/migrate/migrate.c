/* The fewest weights that a new placement moves.
 *
 * Decides   per layer which GPU takes which of the new placement's contents, and where each expert that a GPU lacks
 *           comes from.
 * Minimises experts that move, then GPUs that change their label.
 * Method    what a GPU may be exchanged with is a tree: all GPUs, or GPUs in nodes and nodes in outer groups. Moving
 * what subtree a of the new placement holds to subtree b costs the least assignment of a's children to b's; the
 *           assignments are solved exactly from the leaves up (planner/exact/assign_least.c). A missing expert comes
 *           from a GPU of the same node when one has it, and of those from the one that sends least so far.
 * Bound     exact: every relabelling that keeps the tree is one of these, and each assignment is proven by its
 *           potentials. Where an expert comes from is greedy.
 * Differs   EPLB's authors leave this assignment to the user (deepseek-ai/EPLB, issue 25); servers match slots or GPUs
 *           by number.
 * Cost      O(layers * (GPUs^2 * slots of a GPU + GPUs^3)), less with nodes. */
#include "assign.h"
#include <moeplan/base.h>
#include <moeplan/migrate.h>
#include <string.h>

/* A pair's weight: experts that move, then relabelled GPUs. */
#define MOVE_SHIFT 20
#define MOVE_ONE (UINT64_C(1) << MOVE_SHIFT)

struct group {
    uint32_t first, n; /* children: groups of the level below, or GPUs at the lowest */
};
struct level {
    uint32_t n;
    struct group *groups;
};
struct tree {
    uint32_t n_levels; /* [0] are the nodes, the last is one group of everything */
    struct level level[MP_MAX_LEVELS + 1];
    uint64_t *kind;                     /* [n_gpus] equal for GPUs that may be exchanged with each other */
    const struct mp_topology *topology; /* NULL = not known */
};
struct work {
    const struct mp_plan *old, *new;
    const struct tree *tree;
    struct mp_migration *m;
    const uint32_t *old_layer; /* [n_layers] of the new plan's layers */
    uint64_t *n_by_slot, *n_by_gpu;
    enum mp_labels labels;
};
/* One thread's. */
struct scratch {
    struct mp_arena *arena;
    uint8_t *has;                         /* [n_gpus][n_experts] the old placement */
    uint64_t *lacks;                      /* [n_gpus][n_gpus] weight of new contents a on GPU b */
    uint64_t *between[MP_MAX_LEVELS + 1]; /* [groups][groups] of a level: the least weight of a's contents on b */
    uint64_t *weight;
    int64_t *u, *v;
    uint32_t *to;
};

/* ---- which GPUs are equal ---- */

static uint64_t fold(uint64_t hash, uint64_t x) { return mp_mix64(hash ^ mp_mix64(x)); }

/* What a GPU can do, and how it stands to those it shares ports with: exchanging two of one kind changes nothing. */
static void find_kinds(struct tree *tree, const struct mp_topology *t) {
    for (uint32_t g = 0; g < t->n_gpus; g++) {
        const struct mp_gpu *gpu = &t->gpus[g];
        uint64_t kind = fold(gpu->type, gpu->speed_ppm);
        for (uint32_t k = 0; k < t->n_levels; k++) {
            kind = fold(kind, t->resources[gpu->out_port[k]].bytes_per_s);
            kind = fold(kind, t->resources[gpu->in_port[k]].bytes_per_s);
            const struct mp_level *level = &t->levels[k];
            if (level->uplink_out != NULL) {
                kind = fold(kind, t->resources[level->uplink_out[gpu->group[k]]].bytes_per_s);
                kind = fold(kind, t->resources[level->uplink_in[gpu->group[k]]].bytes_per_s);
            }
        }
        uint32_t sharer = g, base = g; /* the first GPU that has one of its ports too, counted inside the node */
        while (base > 0 && mp_topology_node(t, base - 1) == mp_topology_node(t, g))
            base--;
        for (uint32_t h = base; h < g && sharer == g; h++)
            for (uint32_t k = 0; k < t->n_levels && sharer == g; k++)
                if (t->gpus[h].out_port[k] == gpu->out_port[k] || t->gpus[h].in_port[k] == gpu->in_port[k])
                    sharer = h;
        bool is_shared = sharer != g;
        uint32_t end = g + 1;
        for (; end < t->n_gpus && mp_topology_node(t, end) == mp_topology_node(t, g); end++)
            for (uint32_t k = 0; k < t->n_levels; k++)
                is_shared |= t->gpus[end].out_port[k] == gpu->out_port[k] || t->gpus[end].in_port[k] == gpu->in_port[k];
        tree->kind[g] = fold(fold(kind, end - base), is_shared ? sharer - base + 1 : 0);
    }
}

static enum mp_status add_level(struct tree *tree, uint32_t n_groups, struct mp_arena *arena, struct mp_error *err) {
    struct level *level = &tree->level[tree->n_levels++];
    level->n = n_groups;
    level->groups = mp_arena_alloc(arena, n_groups, sizeof *level->groups);
    return level->groups != NULL ? MP_OK : mp_nomem(err, "migration");
}

static enum mp_status tree_of_topology(struct tree *tree, const struct mp_topology *t, struct mp_arena *arena,
                                       struct mp_error *err) {
    for (uint32_t k = 0; k < t->n_levels; k++) {
        enum mp_status status = add_level(tree, t->levels[k].n_groups, arena, err);
        if (status != MP_OK)
            return status;
        struct level *level = &tree->level[tree->n_levels - 1];
        for (uint32_t g = 0; g < t->n_gpus; g++) {
            struct group *group = &level->groups[t->gpus[g].group[k]];
            const uint32_t child = k == 0 ? g : t->gpus[g].group[k - 1];
            if (group->n == 0)
                group->first = child;
            if (child == group->first + group->n)
                group->n++;
        }
    }
    return MP_OK;
}

/* One group of everything. The kinds of the GPUs say what of it may be exchanged. */
static enum mp_status tree_of_all(struct tree *tree, const struct mp_plan *p, struct mp_arena *arena,
                                  struct mp_error *err) {
    enum mp_status status = add_level(tree, 1, arena, err);
    if (status != MP_OK)
        return status;
    tree->level[0].groups[0] = (struct group){0, p->n_gpus};
    uint32_t *size = mp_arena_alloc(arena, p->n_nodes, sizeof *size);
    if (size == NULL)
        return mp_nomem(err, "migration");
    for (uint32_t g = 0; g < p->n_gpus; g++)
        size[p->gpu_node[g]]++;
    for (uint32_t g = 0; g < p->n_gpus; g++)
        tree->kind[g] = fold(tree->kind[g], size[p->gpu_node[g]]);
    return MP_OK;
}

static enum mp_status tree_of_plan(struct tree *tree, const struct mp_plan *p, struct mp_arena *arena,
                                   struct mp_error *err) {
    enum mp_status status = add_level(tree, p->n_nodes, arena, err);
    bool is_consecutive = true;
    for (uint32_t g = 0; g < p->n_gpus && status == MP_OK; g++) {
        struct group *group = &tree->level[0].groups[p->gpu_node[g]];
        if (group->n == 0)
            group->first = g;
        is_consecutive &= g == group->first + group->n++;
    }
    if (status == MP_OK && !is_consecutive)
        return mp_fail(err, MP_EINPUT, "the GPUs of a node do not stand together in the plan (give the topology)");
    if (status != MP_OK || p->n_nodes == 1)
        return status;
    status = add_level(tree, 1, arena, err);
    if (status == MP_OK)
        tree->level[1].groups[0] = (struct group){0, p->n_nodes};
    return status;
}

/* ---- one layer ---- */

static uint32_t n_slots_of(const struct mp_plan *p, uint32_t gpu) {
    return p->gpu_first_slot[gpu + 1] - p->gpu_first_slot[gpu];
}

/* Experts on GPU `gpu`, each once, that has[] lacks. */
static uint32_t n_lacking(const struct mp_plan *p, const uint16_t *slots, uint32_t gpu, const uint8_t *has) {
    uint32_t n = 0;
    for (uint32_t s = p->gpu_first_slot[gpu]; s < p->gpu_first_slot[gpu + 1]; s++) {
        bool is_new = slots[s] != MP_NO_EXPERT && !has[slots[s]];
        for (uint32_t before = p->gpu_first_slot[gpu]; before < s && is_new; before++)
            is_new = slots[before] != slots[s];
        n += is_new;
    }
    return n;
}

/* The assignment of the children of new group a to those of group b; fills s->to. */
static enum mp_status assign(const struct work *w, struct scratch *s, uint32_t level, uint32_t a, uint32_t b,
                             uint64_t *total, struct mp_error *err) {
    const struct group *from = &w->tree->level[level].groups[a], *into = &w->tree->level[level].groups[b];
    const uint64_t *below = level == 0 ? s->lacks : s->between[level - 1];
    const uint32_t n_below = level == 0 ? w->new->n_gpus : w->tree->level[level - 1].n;
    bool is_found;
    *total = MP_ASSIGN_NEVER;
    if (from->n != into->n)
        return MP_OK;
    for (uint32_t i = 0; i < from->n; i++)
        for (uint32_t j = 0; j < into->n; j++)
            s->weight[(size_t)i * from->n + j] = below[(size_t)(from->first + i) * n_below + into->first + j];
    enum mp_status status = mp_assign_least(from->n, s->weight, s->to, s->u, s->v, total, &is_found, err);
    if (status == MP_OK && !is_found)
        *total = MP_ASSIGN_NEVER;
    return status;
}

/* Follows the least assignments down: new group a stands on group b. */
static enum mp_status follow(const struct work *w, struct scratch *s, uint32_t level, uint32_t a, uint32_t b,
                             uint32_t *to, struct mp_error *err) {
    const struct group *from = &w->tree->level[level].groups[a], *into = &w->tree->level[level].groups[b];
    uint64_t total;
    enum mp_status status = assign(w, s, level, a, b, &total, err);
    if (status != MP_OK)
        return status;
    uint32_t *own = mp_arena_alloc(s->arena, from->n, sizeof *own);
    if (own == NULL)
        return mp_nomem(err, "migration");
    memcpy(own, s->to, from->n * sizeof *own);
    for (uint32_t i = 0; i < from->n && status == MP_OK; i++) {
        if (level == 0)
            to[from->first + i] = into->first + own[i];
        else
            status = follow(w, s, level - 1, from->first + i, into->first + own[i], to, err);
    }
    return status;
}

static enum mp_status relabel(const struct work *w, struct scratch *s, uint32_t *to, struct mp_error *err) {
    const struct tree *tree = w->tree;
    for (uint32_t k = 0; k < tree->n_levels; k++) {
        const uint32_t n = tree->level[k].n;
        for (uint32_t a = 0; a < n; a++)
            for (uint32_t b = 0; b < n; b++) {
                enum mp_status status = assign(w, s, k, a, b, &s->between[k][(size_t)a * n + b], err);
                if (status != MP_OK)
                    return status;
            }
    }
    return follow(w, s, tree->n_levels - 1, 0, 0, to, err);
}

static enum mp_status solve_layer(void *ctx, size_t l, unsigned worker, struct mp_error *err) {
    const struct work *w = ctx;
    const struct mp_plan *old = w->old, *new = w->new;
    const uint32_t n = new->n_gpus, n_experts = new->n_experts;
    const uint16_t *before = old->layers[w->old_layer[l]].slot_expert, *after = new->layers[l].slot_expert;
    struct scratch s = {.arena = mp_arena_new()};
    enum mp_status status = MP_OK;
    uint32_t widest = 1;
    (void)worker;
    if (s.arena == NULL)
        return mp_nomem(err, "migration");
    s.has = mp_arena_alloc(s.arena, (size_t)n * n_experts, 1);
    s.lacks = mp_arena_alloc(s.arena, (size_t)n * n, sizeof *s.lacks);
    bool is_full = s.has == NULL || s.lacks == NULL;
    for (uint32_t k = 0; k < w->tree->n_levels; k++) {
        const struct level *level = &w->tree->level[k];
        for (uint32_t g = 0; g < level->n; g++)
            widest = level->groups[g].n > widest ? level->groups[g].n : widest;
        s.between[k] = mp_arena_alloc(s.arena, (size_t)level->n * level->n, sizeof *s.between[k]);
        is_full |= s.between[k] == NULL;
    }
    s.weight = mp_arena_alloc(s.arena, (size_t)widest * widest, sizeof *s.weight);
    s.u = mp_arena_alloc(s.arena, widest, sizeof *s.u);
    s.v = mp_arena_alloc(s.arena, widest, sizeof *s.v);
    s.to = mp_arena_alloc(s.arena, widest, sizeof *s.to);
    if (is_full || s.weight == NULL || s.u == NULL || s.v == NULL || s.to == NULL) {
        status = mp_nomem(err, "migration");
        goto out;
    }
    for (uint32_t slot = 0; slot < old->n_slots; slot++)
        if (before[slot] != MP_NO_EXPERT)
            s.has[(size_t)old->slot_gpu[slot] * n_experts + before[slot]] = 1;
    uint32_t *to = w->m->to + l * n;
    for (uint32_t g = 0; g < n; g++) {
        to[g] = g;
        w->n_by_gpu[l] += n_lacking(new, after, g, s.has + (size_t)g * n_experts);
        for (uint32_t k = 0; k < n_slots_of(new, g); k++) {
            uint16_t e = after[new->gpu_first_slot[g] + k];
            bool is_same = k < n_slots_of(old, g) && before[old->gpu_first_slot[g] + k] == e;
            w->n_by_slot[l] += e != MP_NO_EXPERT && !is_same;
        }
    }
    if (w->labels == MP_LABELS_KEPT)
        goto out;
    for (uint32_t a = 0; a < n; a++)
        for (uint32_t b = 0; b < n; b++)
            s.lacks[(size_t)a * n + b] =
                w->tree->kind[a] == w->tree->kind[b] && n_slots_of(new, a) == n_slots_of(new, b)
                    ? n_lacking(new, after, a, s.has + (size_t)b * n_experts) * MOVE_ONE + (a != b)
                    : MP_ASSIGN_NEVER;
    MP_TRY(relabel(w, &s, to, err));
out:
    mp_arena_free(s.arena);
    return status;
}

/* ---- the moves ---- */

static uint32_t node_of(const struct work *w, uint32_t gpu) {
    return w->tree->topology != NULL ? mp_topology_node(w->tree->topology, gpu) : w->new->gpu_node[gpu];
}

/* Of the GPUs that hold `expert` the one to send it to dst; sent[] counts what each sends already. */
static uint32_t sender_of(const struct work *w, const struct mp_plan_layer *before, uint32_t expert, uint32_t dst,
                          const uint32_t *sent) {
    uint32_t best = MP_NONE;
    for (uint32_t s = 0; s < w->old->n_slots; s++) {
        if (before->slot_expert[s] != expert)
            continue;
        const uint32_t g = w->old->slot_gpu[s];
        if (best == MP_NONE) {
            best = g;
            continue;
        }
        const bool is_near = node_of(w, g) == node_of(w, dst), was_near = node_of(w, best) == node_of(w, dst);
        if (is_near != was_near ? is_near : sent[g] < sent[best])
            best = g;
    }
    return best;
}

/* moves NULL: only counts. Returns how many. */
static uint32_t list_moves(const struct work *w, uint8_t *has, uint32_t *on, uint32_t *sent, uint32_t *received,
                           struct mp_move *moves) {
    const struct mp_plan *old = w->old, *new = w->new;
    struct mp_migration *m = w->m;
    uint32_t n = 0;
    memset(sent, 0, new->n_gpus * sizeof *sent);
    memset(received, 0, new->n_gpus * sizeof *received);
    m->most_in = m->most_in_layer = 0;
    for (uint32_t l = 0; l < new->n_layers; l++) {
        const struct mp_plan_layer *before = &old->layers[w->old_layer[l]];
        for (uint32_t g = 0; g < new->n_gpus; g++)
            on[m->to[(size_t)l * new->n_gpus + g]] = g;
        for (uint32_t dst = 0; dst < new->n_gpus; dst++) {
            const uint32_t g = on[dst], first = n;
            memset(has, 0, new->n_experts);
            for (uint32_t s = old->gpu_first_slot[dst]; s < old->gpu_first_slot[dst + 1]; s++)
                if (before->slot_expert[s] != MP_NO_EXPERT)
                    has[before->slot_expert[s]] = 1;
            for (uint32_t s = new->gpu_first_slot[g]; s < new->gpu_first_slot[g + 1]; s++)
                if (new->layers[l].slot_expert[s] != MP_NO_EXPERT && !has[new->layers[l].slot_expert[s]])
                    has[new->layers[l].slot_expert[s]] = 2;
            for (uint32_t e = 0; e < new->n_experts; e++) {
                if (has[e] != 2)
                    continue;
                const uint32_t src = sender_of(w, before, e, dst, sent);
                sent[src]++;
                received[dst]++;
                if (moves != NULL)
                    moves[n] = (struct mp_move){l, e, src, dst};
                n++;
            }
            m->most_in_layer = n - first > m->most_in_layer ? n - first : m->most_in_layer;
            m->most_in = received[dst] > m->most_in ? received[dst] : m->most_in;
        }
    }
    return n;
}

static enum mp_status find_moves(const struct work *w, struct mp_error *err) {
    struct mp_migration *m = w->m;
    const uint32_t n_gpus = w->new->n_gpus;
    uint8_t *has = mp_arena_alloc(m->arena, w->new->n_experts, 1);
    uint32_t *on = mp_arena_alloc(m->arena, n_gpus, sizeof *on), *sent = mp_arena_alloc(m->arena, n_gpus, sizeof *sent),
             *received = mp_arena_alloc(m->arena, n_gpus, sizeof *received);
    if (has == NULL || on == NULL || sent == NULL || received == NULL)
        return mp_nomem(err, "migration");
    m->n_moves = list_moves(w, has, on, sent, received, NULL);
    m->moves = mp_arena_alloc(m->arena, m->n_moves > 0 ? m->n_moves : 1, sizeof *m->moves);
    if (m->moves == NULL)
        return mp_nomem(err, "migration");
    (void)list_moves(w, has, on, sent, received, m->moves);
    return MP_OK;
}

/* ---- the whole ---- */

/* Are the two of the same model and cluster? Fills old_layer. */
static enum mp_status pair_up(const struct mp_plan *old, const struct mp_plan *new, const struct mp_topology *t,
                              uint32_t *old_layer, struct mp_error *err) {
    if (old->n_gpus != new->n_gpus || (t != NULL && t->n_gpus != new->n_gpus))
        return mp_fail(err, MP_EINPUT,
                       "the old placement is for %u GPUs, the new one for %u%s (both must be for the %s)", old->n_gpus,
                       new->n_gpus, t != NULL && t->n_gpus != new->n_gpus ? ", the topology has others" : "",
                       t != NULL ? "GPUs of the topology" : "same GPUs");
    if (old->n_experts != new->n_experts || old->n_layers != new->n_layers)
        return mp_fail(err, MP_EINPUT,
                       "the old placement has %u layers of %u experts, the new one %u of %u (give two of one model)",
                       old->n_layers, old->n_experts, new->n_layers, new->n_experts);
    for (uint32_t l = 0; l < new->n_layers; l++) {
        uint32_t k = 0;
        while (k < old->n_layers && old->layers[k].layer_id != new->layers[l].layer_id)
            k++;
        if (k == old->n_layers)
            return mp_fail(err, MP_EINPUT,
                           "the new placement has layer %u, the old one does not: its first is %u (--model or "
                           "--layer-base says which layer the first row of a placement file is)",
                           new->layers[l].layer_id, old->layers[0].layer_id);
        old_layer[l] = k;
    }
    /* What is to move must be somewhere. */
    for (uint32_t l = 0; l < new->n_layers; l++)
        for (uint32_t s = 0; s < new->n_slots; s++) {
            const uint16_t e = new->layers[l].slot_expert[s];
            uint32_t k = 0;
            while (e != MP_NO_EXPERT && k < old->n_slots && old->layers[old_layer[l]].slot_expert[k] != e)
                k++;
            if (e != MP_NO_EXPERT && k == old->n_slots)
                return mp_fail(err, MP_EINPUT, "layer %u: the old placement has expert %u nowhere",
                               new->layers[l].layer_id, e);
        }
    return MP_OK;
}

enum mp_status mp_migrate(struct mp_migration **out, const struct mp_plan *old, const struct mp_plan *new,
                          const struct mp_topology *topology, enum mp_labels labels, unsigned n_threads,
                          struct mp_error *err) {
    struct mp_arena *arena = mp_arena_new(), *scratch = mp_arena_new();
    struct tree tree = {.topology = topology};
    struct mp_migration *m = arena != NULL ? mp_arena_alloc(arena, 1, sizeof *m) : NULL;
    enum mp_status status = MP_OK;
    *out = NULL;
    if (m == NULL || scratch == NULL) {
        status = mp_nomem(err, "migration");
        goto out;
    }
    *m = (struct mp_migration){.n_layers = new->n_layers, .n_gpus = new->n_gpus, .arena = arena};
    struct work w = {.old = old,
                     .new = new,
                     .tree = &tree,
                     .m = m,
                     .n_by_slot = mp_arena_alloc(scratch, new->n_layers, sizeof(uint64_t)),
                     .n_by_gpu = mp_arena_alloc(scratch, new->n_layers, sizeof(uint64_t)),
                     .labels = labels};
    uint32_t *old_layer = mp_arena_alloc(scratch, new->n_layers, sizeof *old_layer);
    tree.kind = mp_arena_alloc(scratch, new->n_gpus, sizeof *tree.kind);
    m->to = mp_arena_alloc(arena, (size_t) new->n_layers *new->n_gpus, sizeof *m->to);
    if (old_layer == NULL || tree.kind == NULL || m->to == NULL || w.n_by_slot == NULL || w.n_by_gpu == NULL) {
        status = mp_nomem(err, "migration");
        goto out;
    }
    w.old_layer = old_layer;
    MP_TRY(pair_up(old, new, topology, old_layer, err));
    if (topology != NULL)
        find_kinds(&tree, topology);
    if (labels == MP_LABELS_FREE)
        MP_TRY(tree_of_all(&tree, new, scratch, err));
    else if (topology != NULL)
        MP_TRY(tree_of_topology(&tree, topology, scratch, err));
    else
        MP_TRY(tree_of_plan(&tree, new, scratch, err));
    MP_TRY(mp_parallel_for(n_threads, new->n_layers, solve_layer, &w, err));
    for (uint32_t l = 0; l < new->n_layers; l++) {
        m->n_by_slot += w.n_by_slot[l];
        m->n_by_gpu += w.n_by_gpu[l];
        for (uint32_t g = 0; g < new->n_gpus; g++)
            m->is_relabelled |= m->to[(size_t)l * new->n_gpus + g] != g;
    }
    MP_TRY(find_moves(&w, err));
    if (m->n_moves > m->n_by_gpu || m->n_by_gpu > m->n_by_slot) {
        status = mp_fail(err, MP_EBUG, "migration: %u moves, %llu by GPU, %llu by slot", m->n_moves,
                         (unsigned long long)m->n_by_gpu, (unsigned long long)m->n_by_slot);
        goto out;
    }
    *out = m;
    arena = NULL;
out:
    mp_arena_free(arena);
    mp_arena_free(scratch);
    return status;
}

enum mp_labels mp_labels_of(const struct mp_plan *new, bool copies_per_node) {
    if (new->route == MP_ROUTE_SOURCED)
        return MP_LABELS_KEPT;
    bool looks_at_nodes = false; /* a choice between replicas does */
    for (uint32_t l = 0; l < new->n_layers && (new->route == MP_ROUTE_NEAREST || new->route == MP_ROUTE_TIERED); l++) {
        uint32_t n = 0;
        for (uint32_t s = 0; s < new->n_slots; s++)
            n += new->layers[l].slot_expert[s] != MP_NO_EXPERT;
        looks_at_nodes |= n > new->n_experts;
    }
    return copies_per_node || looks_at_nodes ? MP_LABELS_BY_NODE : MP_LABELS_FREE;
}

void mp_migration_free(struct mp_migration *m) {
    if (m != NULL)
        mp_arena_free(m->arena);
}
