/* Named combinations of one strategy per stage: what --strategy takes. */
#include "planner.h"
#include <stdio.h>
#include <string.h>

#define EPLB_URL "DeepSeek EPLB, github.com/deepseek-ai/EPLB, 2025"

#define GRACE "GRACE-MoE, arXiv 2509.25041, section 4.3"

static const struct mp_recipe recipes[] = {
    {"auto", "the combination of all the others with the best simulated score", "docs/STRATEGIES.md", NULL, NULL, NULL,
     NULL, false, true},
    {"contiguous", "experts in id order, equally many on each GPU: the default of most stacks",
     "vLLM --expert-placement-strategy linear", "none", "contiguous", "even", "single", false, true},
    {"round-robin", "expert e on GPU e mod n", "vLLM --expert-placement-strategy round_robin", "none", "round-robin",
     "even", "single", false, true},
    {"random", "a seeded random placement: what luck gives", "", "none", "random", "even", "single", false},
    {"trivial", "contiguous, extra slots repeating experts 0, 1, 2, ...: how stacks start with redundancy",
     "SGLang --init-expert-location trivial", "cycle", "contiguous", "even", "single", false},
    {"lpt", "heaviest expert first, to the least loaded GPU; no replicas",
     "R. L. Graham, SIAM J. Appl. Math. 17(2), 1969", "none", "lpt", "even", "single", false, true},
    {"lpt-replicated", "EPLB's replicas, placed heaviest first, never two of one expert on a GPU",
     "Graham 1969; " EPLB_URL, "eplb", "lpt", "even", "single", false},
    {"sorted", "Aurora's assignment for unequal GPUs: popular experts on fast GPUs", "Aurora, arXiv 2410.17043", "none",
     "sorted", "even", "single", false},
    {"bottleneck", "rounds of bottleneck assignments: unequal GPUs, one time per expert and GPU",
     "Aurora, arXiv 2410.17043, section 5", "none", "bottleneck", "even", "single", false},
    {"exact", "the best placement there is, proven, for small layers", "docs/STRATEGIES.md", "none", "exact", "even",
     "single", false},
    {"exact-load", "replicas and placement of least possible load, proven for small layers", "docs/STRATEGIES.md",
     "none", "exact-load", "even", "single", false},
    {"moetuner", "two integer programs: even clusters of experts, then their way from layer to layer; small cases",
     "MoETuner, arXiv 2502.06643", "none", "moetuner", "even", "single", false},
    {"grace-grouping", "GRACE's groups: experts used together on one node, then on one GPU; no replicas",
     "GRACE-MoE, arXiv 2509.25041", "none", "grace", "even", "single", false},
    {"metis", "METIS on the graph of experts used together, nodes first; no replicas",
     "Karypis and Kumar, SIAM J. Sci. Comput. 20(1), 1998", "none", "metis", "even", "single", false},
    {"occult", "Occult's groups of experts used together, equal sizes, no nodes; no replicas",
     "Occult, arXiv 2505.13345", "none", "occult", "even", "single", false},
    {"exflow", "experts of following layers that tokens use one after the other on one GPU; no replicas",
     "ExFlow, arXiv 2401.08383", "none", "exflow", "even", "single", false},
    {"eplb", "DeepSeek's load balancer, global policy", EPLB_URL, "eplb", "eplb", "even", "single", true, true},
    {"eplb-nearest", "EPLB's global placement with SGLang's static replica choice: own GPU, then own node", EPLB_URL,
     "eplb", "eplb", "nearest", "single", true, true},
    {"eplb-wrr", "EPLB's global placement with GRACE's weighted choice of replicas", GRACE, "eplb", "eplb", "wrr",
     "single", true},
    {"eplb-tar", "EPLB's global placement with GRACE's choice: own GPU, then own node, by weights", GRACE, "eplb",
     "eplb", "tar", "single", true},
    {"eplb-split", "EPLB's global placement with the optimal split of tokens over replicas", EPLB_URL "; LPLB", "eplb",
     "eplb", "split", "single", true},
    {"eplb-hierarchical", "DeepSeek's load balancer, groups to nodes first", EPLB_URL, "eplb", "eplb-hierarchical",
     "even", "single", true, true},
    {"spread-out", "contiguous, with the all-to-all in rounds of one peer each where that pays",
     "spread-out all-to-all, MPI practice", "none", "contiguous", "even", "spread-out", false},
    {"aurora-order", "contiguous, with Aurora's order as printed where that pays", "Aurora, arXiv 2410.17043", "none",
     "contiguous", "even", "aurora", false},
    {"contiguous-ordered", "contiguous, with the fastest of all orders in every layer where that pays",
     "docs/STRATEGIES.md", "none", "contiguous", "even", "auto", false, true},
    {"search", "moeplan's own: local search on the cost of every planning step", "docs/STRATEGIES.md", "none", "search",
     "even", "single", false, true},
    {"search-replicated", "the same, which also chooses every replica and leaves slots empty where that is faster",
     "docs/STRATEGIES.md", "search", "search", "even", "single", false},
    {"lina", "Lina's popularity rule: slots in proportion to how much an expert is used; the rest stay empty",
     "Lina, USENIX ATC 2023", "lina", "lpt", "even", "single", false},
    {"craft", "replicas where they shorten steps most, over all layers; the rest stay empty", "CRAFT, arXiv 2603.28768",
     "craft", "kept", "even", "single", false},
    {"craft-nearest", "the same for tokens that go to the nearest replica", "CRAFT, arXiv 2603.28768", "craft", "kept",
     "nearest", "single", false},
    {"bundle", "experts that tokens need together copied to where those tokens start", "docs/STRATEGIES.md", "bundle",
     "kept", "nearest", "single", false},
    {"grace", "GRACE's groups and its dynamic replicas of what the fullest GPU has most of",
     "GRACE-MoE, arXiv 2509.25041", "grace-dynamic", "kept", "tar", "single", false},
    {"packed",
     "packed experts: groups of GPUs that hold each once, and tokens stay in theirs (--redundant: more of them)",
     "Lina, USENIX ATC 2023, section 4.2", "cycle", "contiguous", "group", "single", false, false, true},
    {"search-nearest", "the same for tokens that go to the nearest replica", "docs/STRATEGIES.md", "search", "search",
     "nearest", "single", false},
};
#define N_RECIPES (sizeof recipes / sizeof recipes[0])

const struct mp_recipe *mp_recipe_at(uint32_t i) { return i < N_RECIPES ? &recipes[i] : NULL; }

const struct mp_recipe *mp_recipe_find(const char *name) {
    for (size_t i = 0; i < N_RECIPES; i++)
        if (strcmp(recipes[i].name, name) == 0)
            return &recipes[i];
    return NULL;
}

enum mp_status mp_combination_of(struct mp_combination *out, const struct mp_recipe *recipe,
                                 const struct mp_plan_request *request, struct mp_error *err) {
    const char *const of_recipe[MP_N_PLANNER_STAGES] = {recipe->replicate, recipe->place, recipe->route, recipe->order};
    const char *const asked[MP_N_PLANNER_STAGES] = {request->replicate, request->place, request->route, request->order};
    out->may_repeat_on_gpu = recipe->may_repeat_on_gpu;
    for (int s = 0; s < MP_N_PLANNER_STAGES; s++) {
        const char *name = asked[s] != NULL ? asked[s] : of_recipe[s];
        enum mp_status status = mp_strategy_need(&out->stage[s], (enum mp_planner_stage)s, name, err);
        if (status != MP_OK)
            return status;
    }
    return MP_OK;
}
