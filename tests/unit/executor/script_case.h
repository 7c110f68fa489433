/* Random clusters, matrices and orders as scripts, and a plain interpreter of scripts. */
#ifndef SCRIPT_CASE_H
#define SCRIPT_CASE_H

#include "../../../executor/prove.h"
#include "../sim/net_case.h"

struct script_case {
    struct net_case net;
    struct test_order order;
    bool is_single;
    enum mp_combine way;
    enum mp_stage_mode mode;
    uint64_t used[CASE_GPUS];
    struct ex_flows *flows;
    struct ex_script *script;
};
extern const struct ex_limits no_limits;

/* Everything from the seed: between GPUs, between nodes or one shot; any way, any mode. The matrix is small. */
void script_case_make(struct script_case *c, uint64_t seed);
/* Makes flows and script again of what stands in the case. */
void script_case_build(struct script_case *c);
void script_case_free(struct script_case *c);

/* Byte `offset` of flow `flow`. */
uint8_t flow_byte(size_t flow, uint64_t offset);
/* Blocks with the flows in their out ranges, all else 0xEE. */
uint8_t **blocks_new(const struct ex_flows *f, const uint64_t *bytes);
void blocks_free(uint8_t **blocks, uint32_t n);
void blocks_fill(uint8_t *const *blocks, const struct ex_flows *f, const uint64_t *bytes);
/* Stage by stage: all reads before all writes. */
void interpret(const struct ex_script *s, uint8_t *const *blocks);
/* Flows whose bytes did not all arrive. */
uint32_t n_wrong(uint8_t *const *blocks, const struct ex_flows *f);

#endif
