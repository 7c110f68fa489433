/* A script: what every rank moves when, of one direction of one step and layer. Made from a plan's order and a traffic
 * matrix (docs/ORDERS.md), proven safe (prove.h), carried out by a transport (transport.h).
 *
 * Every rank has one block of memory. A message is a contiguous range of the sender's block that becomes a contiguous
 * range of the receiver's; a copy moves bytes inside one block. So transports know nothing of tokens, flows or relays.
 */
#ifndef EXECUTOR_SCRIPT_H
#define EXECUTOR_SCRIPT_H

#include <moeplan/sim.h>

enum { EX_ALIGN = 64 }; /* where flows and relays begin in a block */

/* The parts of a layer that move bytes, in the order they run. INSIDE: the phase inside nodes of dispatchers that send
 * one copy per node; it never has an order. */
enum ex_part { EX_DISPATCH, EX_DISPATCH_INSIDE, EX_COMBINE_INSIDE, EX_COMBINE };
#define EX_N_PARTS 4
const char *ex_part_name(enum ex_part part); /* "dispatch", "dispatch inside nodes", ... */

/* A matrix, and where its flows lie. Flow i -> j is bytes[i * n + j] bytes from out_at[i * n + j] on in the block of i,
 * and comes to be from in_at[i * n + j] on in the block of j. */
struct ex_flows {
    uint32_t n;
    const uint64_t *bytes;    /* [n][n], row = sender, diagonal 0; borrowed */
    uint64_t *out_at, *in_at; /* [n][n] */
};
/* Lays the flows of a matrix into the blocks, by rising peer, behind what is used, which moves on: used[n]. */
enum mp_status ex_flows_new(struct ex_flows **out, uint32_t n, const uint64_t *bytes, uint64_t *used,
                            struct mp_error *err) MP_MUST_CHECK;
void ex_flows_free(struct ex_flows *f);

struct ex_message {
    uint32_t stage;
    uint16_t src, dst;
    uint32_t width;          /* sub-ports; the cap is width * port_bytes_per_s */
    uint64_t bytes;          /* > 0 */
    uint64_t src_at, dst_at; /* offsets into the two ranks' blocks */
};
/* One end of a message as one rank's program has it. A transport with one rank per process reads nothing else. */
struct ex_end {
    uint32_t stage, peer, width;
    uint32_t message; /* index into messages */
    uint64_t bytes, at;
};
/* A copy inside the block of one rank, before or after the messages of a stage. Between nodes only, to gather what a
 * GPU passes on and to scatter what has come. */
struct ex_copy {
    uint32_t stage, rank;
    bool is_before;
    uint64_t from_at, to_at, bytes;
};
struct ex_script {
    uint32_t step, layer, layer_id; /* layer: index into the plan's, layer_id: the model's */
    enum ex_part part;
    uint32_t n_ranks, n_stages;
    enum mp_stage_mode mode;   /* how stages follow each other (docs/COST.md part 5); one stage: no matter */
    bool is_single;            /* one shot: one stage, everything at once */
    bool is_agreed;            /* all ranks are known to be ready for it: a run begins without a barrier */
    uint32_t flush_stage;      /* not bound by ports, not capped; MP_NONE = none */
    uint32_t ports;            /* most sends and most receives of a rank in a stage, widths counted; 0 = not bound */
    uint64_t port_bytes_per_s; /* rate cap of one sub-port; 0 = none */
    size_t n_messages, n_copies;
    struct ex_message *messages; /* by stage, then as listed: messages of a pair in one stage keep this order */
    uint32_t *stage_first;       /* [n_stages + 1] into messages */
    /* What rank r does: sends[send_first[r] .. send_first[r + 1]), by stage; the rest likewise. */
    struct ex_end *sends, *receives;                 /* [n_messages] */
    size_t *send_first, *receive_first, *copy_first; /* [n_ranks + 1] */
    struct ex_copy *copies; /* by rank, stage, those before first, then in the order they run */
};

/* What a script is made of. All borrowed. */
struct ex_script_request {
    const struct mp_topology *topology;
    const struct mp_order *order; /* NULL = one shot */
    enum mp_combine way;          /* FORWARD for a dispatch */
    enum mp_stage_mode mode;      /* orders between nodes always have barriers */
    const struct ex_flows *flows;
    uint64_t *used; /* [n_ranks] bytes of each block in use; relays are laid behind, and it moves on */
    uint32_t step, layer, layer_id;
    enum ex_part part;
};
/* MP_EBUG when the order does not send every byte. */
enum mp_status ex_script_new(struct ex_script **out, const struct ex_script_request *request,
                             struct mp_error *err) MP_MUST_CHECK;
void ex_script_free(struct ex_script *s); /* NULL is fine */
/* Makes stage_first, sends, receives and the firsts from messages and copies, which it sorts. For tests and tools that
 * make scripts of their own. */
enum mp_status ex_script_index(struct ex_script *s, struct mp_error *err) MP_MUST_CHECK;
/* Bytes that rank r sends, receives. */
uint64_t ex_script_bytes(const struct ex_script *s, uint32_t rank, bool is_receive);
/* "dispatch of step 3, layer 7" into buf, which is returned: how messages name a script. */
const char *ex_script_name(const struct ex_script *s, char *buf, size_t size);

#endif
