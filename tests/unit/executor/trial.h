/* Random plans on random recordings and clusters, ready for mp_exec_run over loop. */
#ifndef TRIAL_H
#define TRIAL_H

#include "../../../executor/run.h"
#include "../sim/world.h"

enum { N_TRIAL_DISPATCHERS = 5 };
extern const char *const trial_dispatchers[N_TRIAL_DISPATCHERS]; /* of seed: number seed % 5 */

struct trial {
    struct world w;
    struct mp_exec in;
    struct test_order order;
};
/* Everything from the seed. world_free(&t->w) gives back. */
void trial_make(struct trial *t, uint64_t seed, bool is_counts);
/* Is there traffic of at least two messages of 16 bytes out of a rank, from a stage of step 0, layer 0 on? */
bool trial_victim(const struct trial *t, uint32_t *rank, uint32_t *stage, uint64_t *n_sends);

#endif
