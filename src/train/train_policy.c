/* The published ways to divide the network between all-to-alls and allreduces. One entry per policy. */
#include <moeplan/train.h>
#include <string.h>

#define LINA_CHUNK_BYTES 30000000u /* Lina, section 4.1; above 50 MB and below 10 MB its authors saw it lose */

static const struct mp_train_named_policy policies[] = {
    {"fair",
     "all-to-all and allreduce at once, ports shared evenly, tensors whole",
     "what frameworks do by themselves",
     {.is_shared = true}},
    {"priority",
     "one at a time, all-to-all first, tensors whole: who is begun is not interrupted",
     "Lina (arXiv 2210.17223), its naive baseline",
     {.guard = MP_TRAIN_GUARD_NONE}},
    {"deferred",
     "allreduces begin behind the last all-to-all",
     "Lina (arXiv 2210.17223), its second baseline",
     {.guard = MP_TRAIN_GUARD_BEHIND}},
    {"lina",
     "chunks of 30 MB, all-to-all first, no allreduce while one is near, experts begin on each chunk",
     "Lina (arXiv 2210.17223), section 4",
     {.guard = MP_TRAIN_GUARD_NEAR,
      .is_pipelined = true,
      .a2a_chunk_bytes = LINA_CHUNK_BYTES,
      .reduce_chunk_bytes = LINA_CHUNK_BYTES}},
};

const struct mp_train_named_policy *mp_train_policy_at(uint32_t i) {
    return i < sizeof policies / sizeof policies[0] ? &policies[i] : NULL;
}

const struct mp_train_named_policy *mp_train_policy_find(const char *name) {
    for (uint32_t i = 0; mp_train_policy_at(i) != NULL; i++)
        if (strcmp(policies[i].name, name) == 0)
            return &policies[i];
    return NULL;
}
