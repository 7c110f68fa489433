/* Which NICs a GPU uses.
 *
 * Decides   gpu -> a set of NICs of its host.
 * Method    NCCL's: the NICs that it reaches at the highest rate, of these the nearest (one PCI bridge, several, its
 *           CPU, another CPU); when several GPUs are as near to n of them, GPU number d takes ceil(n / GPUs) from
 *           number mirror(d) on, mirror being d with its bits reversed (d itself where n is no power of two).
 * Differs   NCCL takes them channel by channel; here all of them are one port.
 * Cost      O(GPUs * NICs * depth). */
#include "topo_host.h"

enum distance { ONE_BRIDGE, BRIDGES, THROUGH_CPU, OTHER_CPU, UNREACHABLE };

struct reach {
    uint64_t bytes_per_s; /* the narrowest link on the way, the NIC's own rate included */
    enum distance distance;
};

static void narrow(uint64_t *bytes_per_s, uint64_t link) {
    if (link > 0 && link < *bytes_per_s)
        *bytes_per_s = link;
}

static uint64_t rate_of(const struct topo_host_nic *n, uint64_t otherwise) {
    return n->bytes_per_s > 0 ? n->bytes_per_s : otherwise;
}

static struct reach reach(const struct topo_host *h, uint32_t gpu, uint32_t nic, uint64_t otherwise) {
    const struct topo_host_nic *n = &h->nics[nic];
    const uint32_t from = h->gpus[gpu].pci, cpu = h->pci[from].cpu;
    struct reach r = {rate_of(n, otherwise), UNREACHABLE};
    if (h->cpus[cpu].host != h->cpus[n->cpu].host)
        return r;
    uint32_t a = from, b = n->pci, n_bridges = 0;
    while (a != b) { /* the deeper one goes up, to where they meet or to no bridge at all */
        const bool is_a = b == MP_NONE || (a != MP_NONE && h->pci[a].depth >= h->pci[b].depth);
        uint32_t *deeper = is_a ? &a : &b;
        n_bridges += *deeper != from && *deeper != n->pci;
        narrow(&r.bytes_per_s, h->pci[*deeper].bytes_per_s);
        *deeper = h->pci[*deeper].parent;
    }
    if (a != MP_NONE) {
        r.distance = n_bridges == 0 ? ONE_BRIDGE : BRIDGES;
        return r;
    }
    r.distance = cpu == n->cpu ? THROUGH_CPU : OTHER_CPU;
    if (cpu != n->cpu) {
        narrow(&r.bytes_per_s, h->cpus[cpu].bytes_per_s);
        narrow(&r.bytes_per_s, h->cpus[n->cpu].bytes_per_s);
    }
    return r;
}

static bool is_better(struct reach a, struct reach b) {
    if ((a.distance == UNREACHABLE) != (b.distance == UNREACHABLE))
        return b.distance == UNREACHABLE;
    return a.bytes_per_s != b.bytes_per_s ? a.bytes_per_s > b.bytes_per_s : a.distance < b.distance;
}

static bool is_as_good(struct reach a, struct reach b) { return !is_better(a, b) && !is_better(b, a); }

/* How many GPUs are as near to the NIC as the nearest. */
static uint32_t n_nearest(const struct topo_host *h, uint32_t nic, uint64_t otherwise) {
    struct reach best = {0, UNREACHABLE};
    uint32_t n = 0;
    for (uint32_t g = 0; g < h->n_gpus; g++) {
        const struct reach r = reach(h, g, nic, otherwise);
        if (is_better(r, best)) {
            best = r;
            n = 0;
        }
        n += is_as_good(r, best);
    }
    return n > 0 ? n : 1;
}

static uint32_t first_of(uint32_t dev, uint32_t n) {
    if ((n & (n - 1)) != 0)
        return dev % n;
    uint32_t mirror = 0;
    for (uint32_t bit = 1, other = n >> 1; bit < n; bit <<= 1, other >>= 1)
        mirror |= (dev & bit) != 0 ? other : 0;
    return mirror;
}

/* near: room for all NICs; users[nic]: how many GPUs are nearest to it, 0 = not counted yet. */
static enum mp_status take(struct topo_nic_set *set, const struct topo_host *h, uint32_t gpu, uint64_t otherwise,
                           uint32_t *near, uint32_t *users, struct mp_error *err) {
    struct reach best = {0, UNREACHABLE};
    uint32_t n = 0;
    for (uint32_t i = 0; i < h->n_nics; i++) {
        const struct reach r = reach(h, gpu, i, otherwise);
        if (is_better(r, best)) {
            best = r;
            n = 0;
        }
        if (r.distance != UNREACHABLE && is_as_good(r, best))
            near[n++] = i;
    }
    if (n == 0)
        return MP_OK;
    if (users[near[0]] == 0)
        users[near[0]] = n_nearest(h, near[0], otherwise);
    const uint32_t n_users = users[near[0]], first = first_of(h->gpus[gpu].dev, n);
    set->n = (n + n_users - 1) / n_users;
    set->nics = mp_arena_alloc(h->arena, set->n, sizeof *set->nics);
    if (set->nics == NULL)
        return mp_nomem(err, "reading a topology");
    for (uint32_t k = 0; k < set->n; k++) { /* inserted in ascending order */
        uint32_t nic = near[(first + k) % n], at = k;
        for (; at > 0 && set->nics[at - 1] > nic; at--)
            set->nics[at] = set->nics[at - 1];
        set->nics[at] = nic;
    }
    return MP_OK;
}

static bool is_same(const struct topo_nic_set *a, const struct topo_nic_set *b) {
    bool same = a->n == b->n;
    for (uint32_t i = 0; i < a->n && same; i++)
        same = a->nics[i] == b->nics[i];
    return same;
}

static bool overlaps(const struct topo_nic_set *a, const struct topo_nic_set *b) {
    for (uint32_t i = 0, k = 0; i < a->n && k < b->n;) {
        if (a->nics[i] == b->nics[k])
            return true;
        if (a->nics[i] < b->nics[k])
            i++;
        else
            k++;
    }
    return false;
}

/* NICs of one PCI device share its link. */
static uint64_t sum_of(const struct topo_nic_set *set, const struct topo_host *h, uint64_t otherwise) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < set->n; i++) {
        const uint32_t pci = h->nics[set->nics[i]].pci;
        uint64_t of_card = 0;
        bool is_first = true;
        for (uint32_t k = 0; k < set->n; k++)
            if (k == i || (pci != MP_NONE && h->nics[set->nics[k]].pci == pci)) {
                of_card += rate_of(&h->nics[set->nics[k]], otherwise);
                is_first = is_first && k >= i;
            }
        if (pci != MP_NONE)
            narrow(&of_card, h->pci[pci].bytes_per_s);
        sum += is_first ? of_card : 0;
    }
    return sum;
}

enum mp_status topo_host_nics(struct topo_nic_set **out, const struct topo_host *h, uint64_t otherwise,
                              struct mp_error *err) {
    enum mp_status status = MP_OK;
    struct topo_nic_set *sets = mp_arena_alloc(h->arena, h->n_gpus, sizeof *sets);
    uint32_t *near = mp_calloc(2 * (size_t)h->n_nics, sizeof *near), *users = near != NULL ? near + h->n_nics : NULL;
    *out = sets;
    if (sets == NULL || near == NULL) {
        mp_free(near);
        return mp_nomem(err, "reading a topology");
    }
    for (uint32_t g = 0; g < h->n_gpus && status == MP_OK; g++)
        status = take(&sets[g], h, g, otherwise, near, users, err);
    mp_free(near);
    for (uint32_t g = 0; g < h->n_gpus && status == MP_OK; g++) {
        struct topo_nic_set *s = &sets[g];
        s->first_user = g;
        for (uint32_t k = 0; k < h->n_gpus && s->n > 0; k++)
            if (is_same(s, &sets[k])) {
                s->n_users++;
                s->first_user = k < s->first_user ? k : s->first_user;
            } else if (overlaps(s, &sets[k]))
                s->is_split = true;
        s->bytes_per_s = sum_of(s, h, otherwise);
    }
    for (uint32_t g = 0; g < h->n_gpus && status == MP_OK; g++) {
        struct topo_nic_set *s = &sets[g];
        if (s->n == 0)
            continue;
        if (s->is_split) { /* its part of each NIC */
            uint64_t sum = 0;
            for (uint32_t i = 0; i < s->n; i++) {
                uint32_t n_users = 0;
                const struct topo_nic_set one = {.n = 1, .nics = &s->nics[i]};
                for (uint32_t k = 0; k < h->n_gpus; k++)
                    n_users += overlaps(&one, &sets[k]);
                sum += sum_of(&one, h, otherwise) / n_users;
            }
            s->bytes_per_s = sum;
        }
        if (s->is_split || s->n_users == 1) { /* nobody else's: the way there counts too */
            uint64_t sum = 0;
            for (uint32_t i = 0; i < s->n; i++)
                sum += reach(h, g, s->nics[i], otherwise).bytes_per_s;
            narrow(&s->bytes_per_s, sum);
            narrow(&s->bytes_per_s, h->pci[h->gpus[g].pci].bytes_per_s);
        }
    }
    return status;
}
