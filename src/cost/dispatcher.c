#include <moeplan/cost.h>
#include <string.h>

/* The ways of moving tokens that today's stacks use, and GRACE's. The launch counts are those of one direction. */
static const struct mp_dispatcher dispatchers[] = {
    {"a2av", "one all-to-all with unequal sizes, one copy per (token, expert)",
     "NCCL grouped send/recv; PyTorch all_to_all_single; vLLM naive and Megatron-LM alltoall dispatchers",
     MP_COPY_PER_EXPERT, 1, false},
    {"deepep-normal", "one copy per (token, node) over the network, fanned out over NVLink while it arrives",
     "DeepEP normal kernels (github.com/deepseek-ai/DeepEP); SGLang and vLLM prefill", MP_COPY_PER_NODE, 1, true},
    {"deepep-ll", "low-latency direct sends, one copy per (token, expert), no de-duplication",
     "DeepEP low-latency kernels (github.com/deepseek-ai/DeepEP); SGLang and vLLM decode", MP_COPY_PER_EXPERT, 1,
     false},
    {"hierarchical", "one copy per (token, node), then a second all-to-all inside the node after the first has ended",
     "two-level all-to-all of HetuMoE and Tutel (arXiv 2203.14685, 2206.03382)", MP_COPY_PER_NODE, 2, false},
    {"agrs", "all-gather of every token, reduce-scatter of the results: bytes do not depend on the placement",
     "vLLM allgather_reducescatter; TensorRT-LLM all-gather dispatch", MP_COPY_ALL, 1, false},
    {"hsc", "as hierarchical; the routing inside nodes is computed while the copies between nodes travel",
     "GRACE-MoE's hierarchical sparse communication, arXiv 2509.25041, section 5", MP_COPY_PER_NODE, 2, false, true},
};

static const struct mp_dispatcher travels[] = {
    {"janus", "every GPU fetches the experts that its tokens use, each once per node and passed on there; tokens stay",
     "Janus (SIGCOMM 2023), as EXT in table III of Luffy, arXiv 2411.15419", MP_COPY_PER_EXPERT, 1, false, false,
     MP_WEIGHTS_FETCH},
    {"fastermoe", "experts whose copies on all GPUs cost less than their tokens' way are copied; other tokens travel",
     "FasterMoE (PPoPP 2022), dynamic shadowing, as HYT in table III of Luffy, arXiv 2411.15419", MP_COPY_PER_EXPERT, 1,
     false, false, MP_WEIGHTS_SHADOW},
};

const struct mp_dispatcher *mp_travel_at(uint32_t i) {
    return i < sizeof travels / sizeof *travels ? &travels[i] : NULL;
}

const struct mp_dispatcher *mp_travel_find(const char *name) {
    for (uint32_t i = 0; name != NULL && i < sizeof travels / sizeof *travels; i++)
        if (strcmp(travels[i].name, name) == 0)
            return &travels[i];
    return NULL;
}

const struct mp_dispatcher *mp_dispatcher_at(uint32_t i) {
    return i < sizeof dispatchers / sizeof dispatchers[0] ? &dispatchers[i] : NULL;
}

const struct mp_dispatcher *mp_dispatcher_find(const char *name) {
    for (uint32_t i = 0; name != NULL && i < sizeof dispatchers / sizeof dispatchers[0]; i++)
        if (strcmp(dispatchers[i].name, name) == 0)
            return &dispatchers[i];
    return NULL;
}

const struct mp_dispatcher *mp_dispatcher_default(enum mp_phase phase, enum mp_trace_kind kind) {
    return mp_dispatcher_find(kind == MP_TRACE_COUNTS    ? "a2av"
                              : phase == MP_PHASE_DECODE ? "deepep-ll"
                                                         : "deepep-normal");
}
