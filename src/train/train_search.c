/* The policy that suits a plan.
 *
 * Decides    chunk sizes of all-to-alls and of allreduces, whether experts begin on chunks, when an allreduce may
 * begin, which gradients go first, and how many are joined.
 * Minimises  the mean training step over the steps given.
 * Method     Descent from every named policy: of all that is one change away, the best, until none is better.
 * Differs    from Lina (arXiv 2210.17223), which fixes 30 MB for both kinds of chunks and one rule of waiting.
 * Cost       a few hundred timelines of each step. */
#include <moeplan/alloc.h>
#include <moeplan/base.h>
#include <moeplan/train.h>
#include <string.h>

#define MB UINT64_C(1000000)
static const uint64_t chunk_bytes[] = {0, 2 * MB, 4 * MB, 8 * MB, 15 * MB, 30 * MB, 60 * MB, 120 * MB};
static const uint64_t bucket_bytes[] = {0, 10 * MB, 25 * MB, 100 * MB};
#define N_CHUNKS ((uint32_t)(sizeof chunk_bytes / sizeof chunk_bytes[0]))
#define N_BUCKETS ((uint32_t)(sizeof bucket_bytes / sizeof bucket_bytes[0]))

struct means {
    const struct mp_train_step *const *steps;
    const struct mp_train_policy *policy;
    uint64_t *ns;
};

static enum mp_status one(void *ctx, size_t i, unsigned worker, struct mp_error *err) {
    (void)worker;
    const struct means *m = ctx;
    struct mp_train_timeline t;
    enum mp_status status = mp_train_run(&t, m->steps[i], m->policy, false, err);
    if (status == MP_OK) {
        m->ns[i] = t.step_ns;
        mp_train_timeline_free(&t);
    }
    return status;
}

enum mp_status mp_train_mean(uint64_t *mean_ns, const struct mp_train_step *const *steps, uint32_t n_steps,
                             const struct mp_train_policy *policy, unsigned n_threads, struct mp_error *err) {
    struct means m = {steps, policy, mp_calloc(n_steps, sizeof *m.ns)};
    *mean_ns = 0;
    if (m.ns == NULL)
        return mp_nomem(err, "the search for a training policy");
    enum mp_status status = n_steps == 0 ? mp_fail(err, MP_EUSAGE, "there is no training step")
                                         : mp_parallel_for(n_threads, n_steps, one, &m, err);
    unsigned __int128 sum = 0;
    for (uint32_t i = 0; i < n_steps && status == MP_OK; i++)
        sum += m.ns[i];
    if (status == MP_OK)
        *mean_ns = (uint64_t)((sum + n_steps - 1) / n_steps);
    mp_free(m.ns);
    return status;
}

/* One change of a policy. */
enum change { PIPELINE, SHARE, GUARD, ORDER, A2A_CHUNK, REDUCE_CHUNK, SMALL_PIECES, BUCKET };
static const struct {
    enum change change;
    uint32_t n; /* values */
} changes[] = {{PIPELINE, 1},
               {SHARE, 1},
               {GUARD, MP_TRAIN_N_GUARDS},
               {ORDER, MP_TRAIN_LISTED},
               {A2A_CHUNK, N_CHUNKS},
               {REDUCE_CHUNK, N_CHUNKS},
               {SMALL_PIECES, N_CHUNKS},
               {BUCKET, N_BUCKETS}};

static struct mp_train_policy changed(struct mp_train_policy p, enum change change, uint32_t i) {
    switch (change) {
    case PIPELINE:
        p.is_pipelined = !p.is_pipelined;
        break;
    case SHARE:
        p.is_shared = true;
        break;
    case GUARD:
        p.guard = (enum mp_train_guard)i;
        p.is_shared = false;
        break;
    case ORDER:
        p.order = (enum mp_train_order)i;
        break;
    case REDUCE_CHUNK:
        p.reduce_chunk_bytes = chunk_bytes[i];
        break;
    case SMALL_PIECES: /* two at once: neither helps without the other */
        p.is_pipelined = true;
        p.a2a_chunk_bytes = chunk_bytes[i];
        break;
    case A2A_CHUNK:
        p.a2a_chunk_bytes = chunk_bytes[i];
        break;
    case BUCKET:
        p.bucket_bytes = bucket_bytes[i];
        break;
    }
    return p;
}

/* The best of `here` and all that is one change away. */
static enum mp_status best_change(struct mp_train_policy *here, uint64_t *here_ns,
                                  const struct mp_train_step *const *steps, uint32_t n_steps, unsigned n_threads,
                                  struct mp_error *err) {
    const struct mp_train_policy from = *here;
    for (size_t c = 0; c < sizeof changes / sizeof changes[0]; c++) {
        for (uint32_t i = 0; i < changes[c].n; i++) {
            const struct mp_train_policy next = changed(from, changes[c].change, i);
            struct mp_error own = {0};
            uint64_t ns;
            enum mp_status status = mp_train_mean(&ns, steps, n_steps, &next, n_threads, &own);
            if (status == MP_EUSAGE) /* too many chunks */
                continue;
            if (status != MP_OK)
                return mp_fail(err, status, "%s", own.message);
            if (ns < *here_ns) {
                *here_ns = ns;
                *here = next;
            }
        }
    }
    return MP_OK;
}

enum mp_status mp_train_search(struct mp_train_policy *out, uint64_t *mean_ns, const struct mp_train_step *const *steps,
                               uint32_t n_steps, unsigned n_threads, struct mp_error *err) {
    *mean_ns = UINT64_MAX;
    for (uint32_t from = 0; mp_train_policy_at(from) != NULL; from++) {
        struct mp_train_policy here = mp_train_policy_at(from)->policy;
        uint64_t here_ns;
        enum mp_status status = mp_train_mean(&here_ns, steps, n_steps, &here, n_threads, err);
        if (status != MP_OK)
            return status;
        for (uint64_t before = UINT64_MAX; here_ns < before && status == MP_OK;) {
            before = here_ns;
            status = best_change(&here, &here_ns, steps, n_steps, n_threads, err);
        }
        if (status != MP_OK)
            return status;
        if (here_ns < *mean_ns) {
            *mean_ns = here_ns;
            *out = here;
        }
    }
    return MP_OK;
}
