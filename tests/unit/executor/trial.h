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

#endif
