#include "opt.h"
#include "cmd.h"
#include <moeplan/base.h>
#include <moeplan/cost.h>
#include <moeplan/export.h>
#include <moeplan/limits.h>
#include <moeplan/matrix.h>
#include <moeplan/rehome.h>
#include <moeplan/stack.h>
#include <moeplan/homes.h>
#include <moeplan/strategy.h>
#include <moeplan/synth.h>
#include <moeplan/train.h>
#include <moeplan/variants.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#define AT(field) offsetof(struct opts, field)
#define FLAG(n, l, f, s)                                                                                               \
    { .name = n, .letter = l, .type = OPT_IS_FLAG, .offset = AT(f), .summary = s }
#define WHOLE(n, l, m, f, lo, hi, i, e, s)                                                                             \
    {                                                                                                                  \
        .name = n, .letter = l, .metavar = m, .type = OPT_IS_WHOLE, .offset = AT(f), .min = lo, .max = hi,             \
        .initial = i, .otherwise = e, .summary = s                                                                     \
    }
#define RATIO(n, m, f, hi, e, s)                                                                                       \
    { .name = n, .metavar = m, .type = OPT_IS_RATIO, .offset = AT(f), .max = hi, .otherwise = e, .summary = s }
#define TEXT(n, l, m, f, w, i, e, s)                                                                                   \
    {                                                                                                                  \
        .name = n, .letter = l, .metavar = m, .type = OPT_IS_TEXT, .offset = AT(f), .words = w, .initial = i,          \
        .otherwise = e, .summary = s                                                                                   \
    }
#define ONE_OF(n, m, f, c, i, e, s)                                                                                    \
    {                                                                                                                  \
        .name = n, .metavar = m, .type = OPT_IS_CHOICE, .offset = AT(f), .words = WORDS_STATIC, .choices = c,          \
        .initial = i, .otherwise = e, .summary = s                                                                     \
    }
#define NAMED(n, m, f, w, i, e, s)                                                                                     \
    {                                                                                                                  \
        .name = n, .metavar = m, .type = OPT_IS_CHOICE, .offset = AT(f), .words = w, .initial = i, .otherwise = e,     \
        .summary = s                                                                                                   \
    }

const struct opt opt_table[OPT_END] = {
    [OPT_HELP] = FLAG("help", 'h', help, "print this help and exit"),
    [OPT_JSON] = FLAG("json", 0, json, "print one JSON object (with schema and version): --format json"),
    [OPT_OUTPUT_FORMAT] = ONE_OF("format", "HOW", format, "table|json|csv|markdown", NULL, "table",
                                 "how results are printed (the format of an input is --input-format)"),
    [OPT_TABLE] = TEXT("table", 0, "NAME", table, WORDS_NONE, NULL, "the main one",
                       "--format csv: which of the result's tables (docs/TERMINAL.md)"),
    [OPT_COLOR] = ONE_OF("color", "WHEN", color, "auto|always|never", "auto", NULL,
                         "colours: on terminals unless NO_COLOR is set, always, or never"),
    [OPT_ALL_COLUMNS] = FLAG("wide", 0, wide, "tables as wide as they are, whatever the terminal's width"),
    [OPT_QUIET] = FLAG("quiet", 'q', quiet, "no notes on standard error, errors only"),
    [OPT_SEED] = WHOLE("seed", 0, "N", seed, 0, INT64_MAX, "1", NULL,
                       "seed of everything random, below 2^63; same seed, same bytes"),
    [OPT_THREADS] = WHOLE("threads", 0, "N", threads, 1, MP_MAX_THREADS, NULL, "one per core",
                          "threads to use; the result does not depend on it"),
    [OPT_WORK_LIMIT] = WHOLE("work-limit", 0, "N", work_limit, 0, UINT64_MAX, "0", NULL,
                             "work units a search may use; for orders simulated ones (0 = the strategy's own limit)"),
    [OPT_TIME_LIMIT] = {.name = "time-limit",
                        .metavar = "SECONDS",
                        .type = OPT_IS_SECONDS,
                        .offset = AT(time_limit),
                        .initial = "0",
                        .summary = "wall-clock safety net (0 = none); a plan that it stopped says so"},
    [OPT_MEM_LIMIT] = {.name = "mem-limit",
                       .metavar = "BYTES",
                       .type = OPT_IS_SIZE,
                       .offset = AT(mem_limit),
                       .min = 1 << 20,
                       .max = UINT64_MAX,
                       .initial = "2GiB",
                       .summary = "most memory to allocate: bytes, or 512MiB, 8GiB"},
    [OPT_MODEL] = TEXT("model", 'm', "MODEL", model, WORDS_MODELS, NULL, "the one the trace names, else a generic one",
                       "model: a YAML file or a preset's name (moeplan list models)"),
    [OPT_OUT] = TEXT("output", 'o', "FILE", out, WORDS_FILE, NULL, NULL,
                     "write here, replacing an existing file in one step; - is standard output"),

    [OPT_INPUT_FORMAT] = NAMED("input-format", "NAME", input_format, WORDS_FORMATS, NULL, "detected from the content",
                               "format of the input (moeplan list formats)"),
    [OPT_PHASE] =
        ONE_OF("phase", "PHASE", phase, "prefill|decode|train|mixed", NULL, "as recorded", "phase of the recording"),
    [OPT_LAYER_BASE] = WHOLE("layer-base", 0, "N", layer_base, 0, MP_MAX_LAYERS - 1, NULL, "as recorded",
                             "model layer of the recording's first layer"),
    [OPT_IDS] = ONE_OF("ids", "KIND", ids, "logical|physical", NULL, "as recorded",
                       "what the expert ids of the recording count"),
    [OPT_MAP] = TEXT("map", 0, "FILE", map, WORDS_FILE, NULL, NULL, "physical-to-logical map for --ids physical"),
    [OPT_REQUESTS] = TEXT("requests", 0, "FILE", requests, WORDS_FILE, NULL, "<stem>.requests.csv beside it",
                          "requests table of an .npz or .npy recording"),
    [OPT_RANKED] = ONE_OF("ranked", "YES", ranked, "yes|no", NULL, "as recorded",
                          "do the top-k ids stand by falling gate weight?"),
    [OPT_EXPERTS] = WHOLE("experts", 0, "N", experts, 1, MP_MAX_EXPERTS, NULL, "as recorded",
                          "experts of a layer, where the input cannot say"),
    [OPT_TOP_K] = WHOLE("top-k", 0, "N", top_k, 1, MP_MAX_TOP_K, NULL, "as recorded",
                        "experts of a token, where the input cannot say"),
    [OPT_AXES] =
        ONE_OF("axes", "AXES", axes, "tokens,layers,k|layers,experts|iterations,layers,experts|sources,layers,experts",
               NULL, "from the array's name", "what the axes of a bare array count"),
    [OPT_MTP_BASE] = WHOLE("mtp-base", 0, "N", mtp_base, 0, MP_MAX_LAYERS - 1, NULL, "they are left out",
                           "Megatron: absolute layer of the first MTP layer"),
    [OPT_PIPELINE_STAGES] = WHOLE("pipeline-stages", 0, "N", pipeline_stages, 1, MP_MAX_GPUS, NULL,
                                  "asked for where it matters", "Megatron: pipeline stages of the recorded run"),

    [OPT_BATCH] = WHOLE("batch", 'b', "B", batch, 1, 1 << 20, "16", NULL, "decode: concurrent requests on each rank"),
    [OPT_TOKENS_PER_RANK] = WHOLE("tokens-per-rank", 0, "T", tokens_per_rank, 1, UINT64_C(1) << 32, "1024", NULL,
                                  "prefill: up to T tokens on each rank; longer requests go on in the next step"),
    [OPT_THOROUGH] = FLAG("thorough", 0, thorough, "simulate every sampled step again, however long that takes"),
    [OPT_PROVE] =
        FLAG("prove", 0, prove, "run again the search that a certificate rests on; --work-limit: nodes of each layer"),
    [OPT_RESAMPLE] =
        FLAG("resample", 0, resample, "draw steps from the requests at random, with replacement (bootstrap)"),
    [OPT_STEPS] = WHOLE("steps", 0, "N", steps, 1, 1000000, NULL, "all that were recorded; 64 with --resample",
                        "steps to use, evenly spaced; with --resample, steps to draw"),
    [OPT_SOURCE_SKEW] = RATIO("source-skew", "S", source_skew_ppm, 10000000, "round-robin",
                              "uneven source ranks: rank r gets requests in proportion to (r + 1)^-S"),
    [OPT_PAD] = WHOLE("pad", 0, "N", pad, 1, 1 << 20, NULL, "none",
                      "pad each rank's tokens of a step to a multiple of N (CUDA graphs)"),

    [OPT_STRATEGY] =
        NAMED("strategy", "NAME", strategy, WORDS_RECIPES, "auto", NULL, "planning strategy (moeplan list strategies)"),
    [OPT_STRATEGIES] =
        TEXT("strategy", 0, "A,B,...", strategies, WORDS_RECIPES, NULL, "auto, search and what is usual today",
             "strategies to compare, or all (moeplan list strategies)"),
    [OPT_REPLICATE] = NAMED("replicate", "NAME", replicate, WORDS_REPLICATE, NULL, "the strategy's",
                            "stage: which experts get replicas"),
    [OPT_PLACE] =
        NAMED("place", "NAME", place, WORDS_PLACE, NULL, "the strategy's", "stage: which GPU holds which expert"),
    [OPT_ROUTE] =
        NAMED("route", "NAME", route, WORDS_ROUTE, NULL, "the strategy's", "stage: which replica serves which source"),
    [OPT_ORDER] = NAMED("order", "NAME", order, WORDS_ORDER, NULL, "the strategy's",
                        "stage: order of the transfers (moeplan list strategies)"),
    [OPT_ORDERS] = TEXT("strategy", 0, "A,B,...", strategies, WORDS_ORDER, NULL, "all of them",
                        "order strategies to run (moeplan list strategies)"),
    [OPT_MATRIX_FORMAT] = NAMED("input-format", "NAME", input_format, WORDS_MATRICES, NULL, "detected from the content",
                                "format of the matrix (moeplan list matrices)"),
    [OPT_TOKEN_BYTES] = WHOLE("token-bytes", 0, "N", token_bytes, 1, 1 << 24, NULL, "the cells are bytes",
                              "the cells count tokens of N bytes each"),
    [OPT_STAGES] = ONE_OF("stages", "MODE", stages, "coupled|free|barrier", "coupled", NULL,
                          "how the target runs the stages of an order: a rank's send and receive end together (NCCL "
                          "groups), two queues a rank, or a barrier after each"),
    [OPT_PACING] = FLAG("pacing", 0, pacing, "the target can cap the rate of a transfer (sockets; NCCL cannot)"),
    [OPT_SET] = TEXT("set", 0, "STRATEGY.OPTION=N,...", set, WORDS_NONE, NULL, "the defaults",
                     "options of strategies (moeplan list strategies)"),
    [OPT_REDUNDANT] = WHOLE("redundant", 'r', "R", redundant, 0, MP_MAX_EXPERTS, "0", NULL,
                            "slots beyond one per expert, in all, per layer"),
    [OPT_SLOTS_PER_GPU] =
        WHOLE("slots-per-gpu", 0, "N", slots_per_gpu, 1, MP_MAX_EXPERTS, NULL, "(experts + R) / GPUs, rounded up",
              "expert slots of each GPU; left out, GPUs with room make up for those without"),
    [OPT_OBJECTIVE] =
        ONE_OF("objective", "WHAT", objective, "step|p95|peak|inter-node-bytes", "step", NULL, "what to minimise"),
    [OPT_HOMES] = NAMED("homes", "NAME", homes, WORDS_HOMES, "none", NULL,
                        "which rank a request runs on: as steps are filled, or by the experts its prefix uses (moeplan "
                        "list homes)"),
    [OPT_HOMES_COMPARE] =
        TEXT("homes", 0, "A,B,...", homes, WORDS_HOMES, NULL, "none",
             "plan each strategy with each of these ways to give requests homes (moeplan list homes)"),
    [OPT_FIT] = ONE_OF("fit", "WHAT", fit, "requests|steps", "requests", NULL,
                       "plan for steps like these, drawn from their requests, or for these very planning steps"),
    [OPT_FOR] = NAMED("for", "STACK", for_stack, WORDS_STACKS, NULL, NULL,
                      "keep the rules of this serving stack, and score what its servers do with the placement alone "
                      "(moeplan list stacks)"),
    [OPT_REPLICA_CHOICE] =
        TEXT("replica-choice", 0, "NAME", replica_choice, WORDS_NONE, NULL, "what fits the plan's routing",
             "how the servers of that stack choose among replicas, by their name for it (moeplan list stacks)"),

    [OPT_POLICY] =
        NAMED("policy", "NAME", policy, WORDS_POLICIES, NULL, "searched",
              "phase train: what the network does first in a training step (moeplan list policies; searched: "
              "what is fastest on the planning steps; none: the plan does not say)"),
    [OPT_PACKING] =
        TEXT("packing", 0, "K", packing, WORDS_PACKING, NULL, "the strategy's own placement",
             "phase train: in place of a strategy, K experts of each layer on every GPU in groups that hold all "
             "(lina: doubled by its rule; searched: what is fastest on the planning steps)"),
    [OPT_HOST_LINK] = {.name = "host-link",
                       .metavar = "BYTES",
                       .type = OPT_IS_SIZE,
                       .offset = AT(host_link),
                       .min = 1,
                       .max = UINT64_MAX,
                       .initial = "25000000000",
                       .summary =
                           "phase train: what a GPU's link to its host carries each way in a second, where memory is "
                           "short (PCIe 4.0 x16: 25 GB/s)"},
    [OPT_HOST_MEMORY] = {.name = "host-memory",
                         .metavar = "BYTES",
                         .type = OPT_IS_SIZE,
                         .offset = AT(host_memory),
                         .min = 1,
                         .max = UINT64_MAX,
                         .otherwise = "enough",
                         .summary = "phase train: memory of a host for each of its GPUs: bytes, or 128GiB"},
    [OPT_SOLVER] = ONE_OF("solver", "HOW", solver, "exact|auto|heuristic", "auto", NULL,
                          "strategy auto: only placements proven by search, those too on small layers, or none"),
    [OPT_EXPORT_LP] = TEXT("export-lp", 0, "FILE", export_lp, WORDS_FILE, NULL, NULL,
                           "also write the placement problem for other solvers: CPLEX LP, or free MPS for FILE.mps"),
    [OPT_IMPORT_SOLUTION] = TEXT("import-solution", 0, "FILE", import_solution, WORDS_FILE, NULL, NULL,
                                 "take another solver's answer to --export-lp: lines NAME VALUE, or glpsol -w"),

    [OPT_DISPATCHER] = NAMED("dispatcher", "NAME", dispatcher, WORDS_DISPATCHERS, NULL,
                             "decode: deepep-ll; prefill and train: deepep-normal; counts: a2av",
                             "which copies of a token travel (moeplan list dispatchers)"),
    [OPT_SOURCES] = ONE_OF("sources", "MODE", sources, "dp|coupled", "dp", NULL,
                           "tokens start on data-parallel ranks, or with an expert (Aurora)"),
    [OPT_SPLIT_PLAN] = TEXT("split", 0, "SPLIT", split, WORDS_NONE, "none", NULL,
                            "part to plan on: 0.5, time:0.5, category:A,B or none (plan on everything)"),
    [OPT_SPLIT_COMPARE] = TEXT("split", 0, "SPLIT", split, WORDS_NONE, "0.5", NULL,
                               "plan on one part, score on the other: 0.5 (hash), time:0.5, category:A,B or none"),
    [OPT_SPLIT_SIMULATE] =
        TEXT("split", 0, "SPLIT", split, WORDS_NONE, NULL, "the plan's, when it was made from this trace; else none",
             "score on the held-out part of: 0.5, time:0.5, category:A,B or none"),
    [OPT_SCORE_ON] = TEXT("score-on", 0, "TRACE2", score_on, WORDS_FILE, NULL, NULL,
                          "score on this recording instead of a held-out part"),

    [OPT_NETWORK] = ONE_OF("network", "MODE", network, "plan|concurrent|rcs|sjf|spread-out", "plan", NULL,
                           "each layer as its plan says, all flows at once, or one of the papers' baselines"),
    [OPT_TIMELINE] = ONE_OF("timeline", "HOW", timeline, "barrier|pipelined", "barrier", NULL,
                            "gate, dispatch, experts and combine of a layer each wait for all GPUs, or every GPU goes "
                            "on when its own part has ended"),
    [OPT_TIMELINE_PLANNED] = ONE_OF("timeline", "HOW", timeline, "barrier|pipelined", NULL, "the plan's",
                                    "gate, dispatch, experts and combine of a layer each wait for all GPUs, or every "
                                    "GPU goes on when its own part has ended"),
    [OPT_ROUTING_NS] = WHOLE("routing-ns", 0, "N", routing_ns, 0, 1000000000, "0", NULL,
                             "what a GPU takes to compute the routing of a phase of a dispatch, in ns; when scoring, "
                             "never in a plan's claims"),
    [OPT_STAGE_BARRIER] = FLAG("stage-barrier", 0, stage_barrier, "staged orders: a barrier after each stage"),
    [OPT_STAGE_COUPLED] =
        FLAG("stage-coupled", 0, stage_coupled, "staged orders: a rank's send and receive end together (NCCL groups)"),

    [OPT_INCUMBENT] = TEXT("incumbent", 0, "FILE,...", incumbent, WORDS_FILE, NULL, NULL,
                           "also score these placements (any stack's file, or plans)"),
    [OPT_REPORT_BASELINE] = TEXT("incumbent", 0, "FILE", incumbent, WORDS_FILE, NULL, "the contiguous placement",
                                 "what one runs now, the baseline: a plan, or any stack's file"),
    [OPT_REPORT_REDUNDANT] = TEXT("redundant", 'r', "RANGE", sweep_redundant, WORDS_NONE, NULL, "no sweep",
                                  "also sweep over slots beyond one per expert, as moeplan sweep: FIRST:LAST:STEP or "
                                  "A,B,C"),
    [OPT_REPORT_SWEEP] = TEXT("sweep", 0, "FILE", sweep_file, WORDS_FILE, NULL, NULL,
                              "show this sweep over redundant slots (of moeplan sweep --json)"),
    [OPT_REPORT_DRIFT] = TEXT("drift", 0, "TRACE", drift_on, WORDS_FILE, NULL, NULL,
                              "is PLAN still good for this newer recording? As moeplan check"),
    [OPT_REPORT_MEASURED] = TEXT("measured", 0, "FILE,...", measured, WORDS_FILE, NULL, NULL,
                                 "show what moeplan-exec measured: its --json, its --timeline, or both"),
    [OPT_INCUMBENT_ROUTE] = ONE_OF("incumbent-route", "RULE", incumbent_route, "even|nearest", "even", NULL,
                                   "which replica serves a token in a stack's placement; plan files carry their own "
                                   "(SGLang: --ep-dispatch-algorithm static is nearest)"),
    [OPT_INTERVAL_GROUPS] = WHOLE("interval-groups", 0, "G", interval_groups, 0, 100, "10", NULL,
                                  "groups of requests of the jackknife behind the 95 % intervals; 0 = none"),
    [OPT_STRICT] = FLAG("strict", 0, strict,
                        "exit code 1, and no plan written, unless the gain over contiguous is more than noise"),
    [OPT_WIDE] = FLAG("wide", 0, wide, "all columns: also MoE time, dispatch, compute, combine, planning time"),
    [OPT_COLOCATE] =
        FLAG("colocate", 0, colocate,
             "two models on one cluster: twice TRACE (or PLAN, then twice TRACE), TOPOLOGY (docs/COLOCATION.md)"),
    [OPT_MODEL_B] = TEXT("model-b", 0, "MODEL", model_b, WORDS_MODELS, NULL, "as without --model, of its recording",
                         "--colocate: the second model"),
    [OPT_OUT_B] =
        TEXT("out-b", 0, "FILE", out_b, WORDS_FILE, NULL, NULL, "--colocate: where the second model's plan goes"),
    [OPT_COLOCATION] = TEXT("colocation", 0, "NAME,...", colocation, WORDS_NONE, NULL,
                            "plan: search; compare: all of them", "--colocate: strategies (moeplan list colocations)"),
    [OPT_EVALUATOR] = ONE_OF("evaluator", "WHAT", evaluator, "timeline|closed-form", "timeline", NULL,
                             "--colocate: what strategies minimise"),
    [OPT_MARKDOWN_TABLE] = FLAG("markdown", 0, markdown_table, "print the table as Markdown"),

    [OPT_TO] =
        NAMED("to", "NAME", to, WORDS_TARGETS, NULL, NULL,
              "what to write: for a serving stack (moeplan list stacks), or another export (moeplan list exports)"),
    [OPT_TO_TOPOLOGY] =
        NAMED("to", "NAME", to, WORDS_TOPOLOGY_FORMS, NULL, "native, or yaml",
              "the form to write a recording (moeplan list formats) or a topology (moeplan list topologies) in"),
    [OPT_SVG] = TEXT("svg", 0, "FILE", svg, WORDS_FILE, NULL, NULL, "also draw the topology as a picture: an SVG file"),
    [OPT_STEP] = WHOLE("step", 0, "N", step, 0, 1000000, NULL, "the mean of all steps, or the first one",
                       "step to export, from 0 on"),
    [OPT_GPUS] = WHOLE("gpus", 0, "N", gpus, 1, MP_MAX_GPUS, NULL, "as the file says",
                       "GPUs of a placement whose format cannot say"),
    [OPT_NODES] =
        WHOLE("nodes", 0, "N", nodes, 1, MP_MAX_GPUS, NULL, "1", "nodes of a placement whose format cannot say"),
    [OPT_HIDDEN_LAYERS] = WHOLE("hidden-layers", 0, "N", hidden_layers, 1, MP_MAX_LAYERS, NULL, "the model's",
                                "all layers of the model, dense ones included, for formats with a row for each"),
    [OPT_MTP_LAYERS] = WHOLE("mtp-layers", 0, "N", mtp_layers, 0, 16, "0", NULL,
                             "multi-token-prediction layers after the last one, placed like the last MoE layer"),

    [OPT_PRESET] = NAMED("preset", "NAME", preset, WORDS_SYNTH, NULL, "a small 4 x 32 top-4 decode recording",
                         "start from these parameters (moeplan list presets)"),
    [OPT_GEN_LAYERS] = WHOLE("layers", 0, "N", gen_layers, 1, MP_MAX_LAYERS, NULL, "the preset's", "MoE layers"),
    [OPT_GEN_EXPERTS] =
        WHOLE("experts", 0, "N", gen_experts, 1, MP_MAX_EXPERTS, NULL, "the preset's", "experts of a layer"),
    [OPT_GEN_TOP_K] = WHOLE("top-k", 0, "N", gen_top_k, 1, MP_MAX_TOP_K, NULL, "the preset's", "experts of a token"),
    [OPT_FIRST_LAYER] = WHOLE("first-layer", 0, "N", first_layer, 0, MP_MAX_LAYERS - 1, NULL, "the preset's",
                              "model layer of the first one"),
    [OPT_N_REQUESTS] = WHOLE("n-requests", 0, "N", n_requests, 1, 1 << 30, NULL, "the preset's", "requests to make"),
    [OPT_TOKENS_PER_REQUEST] = WHOLE("tokens-per-request", 0, "N", tokens_per_request, 1, 1 << 24, NULL, "the preset's",
                                     "mean tokens of a request"),
    [OPT_ZIPF] =
        RATIO("zipf", "S", zipf_ppm, 4000000, "the preset's", "popularity of the r-th expert in proportion to r^-S"),
    [OPT_COACTIVATION] = RATIO("coactivation", "P", coactivation_ppm, 1000000, "the preset's",
                               "probability that a token's further experts share its first one's cluster"),
    [OPT_CLUSTER] = WHOLE("cluster", 0, "N", cluster, 1, MP_MAX_EXPERTS, NULL, "the preset's", "experts of a cluster"),
    [OPT_CROSS_LAYER] = RATIO("cross-layer", "P", cross_layer_ppm, 1000000, "the preset's",
                              "probability that a token's cluster follows from its cluster one layer before"),
    [OPT_DOMAINS] =
        WHOLE("domains", 0, "N", domains, 1, 1000, NULL, "the preset's", "categories with popularity of their own"),
    [OPT_DOMAIN_SHARE] = RATIO("domain-share", "P", domain_share_ppm, 1000000, "the preset's",
                               "how much of the popularity a category replaces by its own"),
    [OPT_DRIFT] = RATIO("drift", "P", drift_ppm, 1000000, "the preset's",
                        "how far popularity moves from the first request to the last"),
    [OPT_STICKINESS] = RATIO("stickiness", "P", stickiness_ppm, 1000000, "the preset's",
                             "popularity of each request's own, on top (bursts)"),
    [OPT_TRAVEL] = ONE_OF("travel", "WAY", travel, "janus|fastermoe", NULL, "tokens travel",
                          "experts travel to tokens: all that are used, or those that it pays for (docs/LUFFY.md)"),
    [OPT_SIGNATURES] = ONE_OF("signatures", "PRESET", signatures, "txl|bert-l|gpt2", NULL, "none",
                              "similarity signatures of the tokens, as alike as the named model's are"),
    [OPT_REHOME] = NAMED("rehome", "NAME", rehome, WORDS_REHOMES, NULL, "tokens come back to the rank they started on",
                         "training and prefill: sequences move between layers (moeplan list rehomes); simulate shows "
                         "all strategies beside it"),
    [OPT_REHOME_BALANCE] =
        ONE_OF("rehome-balance", "WHAT", rehome_balance, "tokens|sequences", "tokens", NULL,
               "what stays equal on every GPU: tokens, or the number of sequences (attention is then padded to the "
               "longest)"),
    [OPT_REHOME_SLACK] = RATIO("rehome-slack", "S", rehome_slack_ppm, 1000000, "0.05",
                               "tokens: how many more than the fullest GPU had, as a part of it"),
    [OPT_REHOME_CANDIDATES] = WHOLE("rehome-candidates", 0, "Q", rehome_candidates, 1, MP_MAX_GPUS, "2", NULL,
                                    "luffy: GPUs that Algorithm 1 considers for a sequence"),
    [OPT_CONDENSE] = TEXT("condense", 0, "H", condense, WORDS_FILE, NULL, "every token travels",
                          "LOSSY: tokens at least as alike as H (0.8, a file of one per step, or sigmoid:FILE of "
                          "losses) travel once (docs/LUFFY.md)"),
    [OPT_CONDENSE_HISTORY] = TEXT("condense-history", 0, "S1,S2", condense_history, WORDS_NONE, NULL, "0.9,0.2",
                                  "cosines from which the layer before decides that two tokens are the same, or not; "
                                  "none: look at every pair"),
    [OPT_DROP_SIGNATURES] = FLAG("drop-signatures", 0, drop_signatures, "leave out the tokens' similarity signatures"),
    [OPT_AGAINST] =
        TEXT("against", 0, "TRACE", against, WORDS_FILE, NULL, NULL, "print the statistics of this recording beside"),

    [OPT_MAN] = FLAG("man", 0, man, "print the manual page (roff)"),
    [OPT_COMPLETION] = ONE_OF("completion", "SHELL", completion, "bash|zsh|fish", NULL, NULL,
                              "print the completion script of a shell"),
    [OPT_MARKDOWN] = FLAG("markdown", 0, markdown, "print the page of docs/ about the command line"),

    [OPT_SWEEP_REDUNDANT] = TEXT("redundant", 'r', "RANGE", sweep_redundant, WORDS_NONE, "0", NULL,
                                 "slots beyond one per expert, in all, per layer: FIRST:LAST:STEP or A,B,C"),
    [OPT_SWEEP_BATCH] = TEXT("batch", 'b', "RANGE", sweep_batch, WORDS_NONE, "16", NULL,
                             "decode: concurrent requests on each rank: FIRST:LAST:STEP or A,B,C"),
    [OPT_SWEEP_GPUS] = TEXT("gpus", 0, "RANGE", sweep_gpus, WORDS_NONE, NULL, "TOPOLOGY's",
                            "GPUs in all, shared out evenly over the nodes: FIRST:LAST:STEP or A,B,C"),
    [OPT_SWEEP_NODES] =
        TEXT("nodes", 0, "RANGE", sweep_nodes, WORDS_NONE, NULL, "TOPOLOGY's",
             "nodes, each with as many GPUs as TOPOLOGY's unless --gpus says: FIRST:LAST:STEP or A,B,C"),
    [OPT_SWEEP_STRATEGY] =
        NAMED("strategy", "NAME", strategy, WORDS_RECIPES, "auto", NULL,
              "planning strategy of every point; auto takes as long as moeplan plan for each, eplb a blink"),
    [OPT_PATH_LENGTH] = WHOLE("path-length", 0, "N", path_length, 0, 6, "6", NULL,
                              "layers before that experts are predicted from, at most; all lengths up to it are shown"),
    [OPT_TABLES] = TEXT("tables", 0, "FILE", tables, WORDS_FILE, NULL, NULL,
                        "score these tables, kept by -o, in place of learning some"),
    [OPT_TABLES_OUT] = TEXT("output", 'o', "FILE", out, WORDS_FILE, NULL, NULL,
                            "keep the tables here, replacing an existing file in one step"),
    [OPT_HINT_PLACES] = WHOLE("hint-places", 0, "N", hint_places, 0, 8, "3", NULL,
                              "-o: binary places of a hint; 3 = eighths of a doubling"),
    [OPT_CONTEXT] = WHOLE("context", 0, "N", context, 1, 1 << 30, "4096", NULL,
                          "tokens that a request keeps in the KV cache, prompt and answer"),
    [OPT_CSV] = FLAG("csv", 0, csv, "print the points as CSV, numbers in base units"),

    [OPT_SPLIT_CHECK] = TEXT("split", 0, "SPLIT", split, WORDS_NONE, "time:0.5", NULL,
                             "the new plan is made from one part of the recording, both are scored on the other"),
    [OPT_STRATEGY_CHECK] = NAMED("strategy", "NAME", strategy, WORDS_RECIPES, NULL,
                                 "the strategies of the plan; auto for a stack's placement",
                                 "planning strategy of the new plan (moeplan list strategies)"),
    [OPT_STRICT_CHECK] = FLAG("strict", 0, strict, "exit code 1 when a new plan is worth making"),
    [OPT_THRESHOLD] = RATIO("threshold", "X", threshold_ppm, 1000000, "0.01",
                            "a new plan is worth making when the whole interval of its gain is above this share"),

    [OPT_MIGRATE_SCORE_ON] = TEXT("score-on", 0, "TRACE", score_on, WORDS_FILE, NULL, NULL,
                                  "score both placements on this recording: what the new one gains, and when moving "
                                  "has paid"),
    [OPT_STEP_GAIN] = WHOLE("step-gain", 0, "NS", step_gain, 1, UINT64_C(1000000000000), NULL, "unknown",
                            "what the new placement gains in every step, for the break-even"),
    [OPT_KEEP_LABELS] = FLAG("keep-labels", 0, keep_labels, "GPU g takes what NEW has on GPU g, nothing is exchanged"),
    [OPT_FROM] =
        TEXT("from", 0, "OLD", from, WORDS_FILE, NULL, NULL,
             "the placement in use (a plan, or any stack's file): the new plan takes GPUs' labels that move the "
             "fewest weights"),
    [OPT_MOVE_BUDGET] = {.name = "move-budget",
                         .metavar = "BYTES",
                         .type = OPT_IS_SIZE,
                         .offset = AT(move_budget),
                         .min = 0,
                         .max = UINT64_MAX,
                         .otherwise = "no limit",
                         .summary = "--from: most weights to move; the layers that gain most within it change: bytes, "
                                    "or 512MiB, 8GB"},
    [OPT_ROBUST] = TEXT("robust", 0, "WHAT", robust, WORDS_FILE, NULL, NULL,
                        "one plan that is also good for these: TRACE2,TRACE3,... (same model), or categories[:N] for N "
                        "(4) groups of TRACE's categories"),
    [OPT_WEIGHTS] = TEXT("weights", 0, "A,B,...", weights, WORDS_NONE, NULL, "all equal",
                         "--robust: how much traffic there is of each, TRACE's first"),
    [OPT_ROBUST_OBJECTIVE] = ONE_OF("robust-objective", "WHAT", robust_objective, "worst|mean", "worst", NULL,
                                    "--robust: the longest of their steps, or the mean by --weights"),
    [OPT_KINDS] =
        TEXT("domains", 0, "WHAT", kinds, WORDS_FILE, "categories", NULL,
             "what takes turns: TRACE2,TRACE3,... (same model), or categories[:N] for N (4) groups of TRACE's "
             "categories"),
    [OPT_KIND_WEIGHTS] = TEXT("weights", 0, "A,B,...", weights, WORDS_NONE, NULL,
                              "as many as requests of a category; of several recordings alike",
                              "how many blocks there are of each domain"),
    [OPT_BESIDE] = TEXT("beside", 0, "A,B,...", beside, WORDS_NONE, "lina-online,lina-free", NULL,
                        "policies that place experts in every step, to be shown beside it, or none (moeplan list "
                        "strategies)"),
    [OPT_VARIANTS] = WHOLE("variants", 'k', "K", variants, 1, MP_VARIANTS_MAX, "8", NULL,
                           "most plans of the library, the static one included; fewer where more do not pay"),
    [OPT_BLOCKS] = TEXT("blocks", 0, "N,M,...", blocks, WORDS_NONE, "10,100,1000,10000", NULL,
                        "steps for which one domain is served, ascending: scored for each"),
    [OPT_POOL] = WHOLE("pool", 0, "N", pool, 1, 4096, "64", NULL,
                       "distinct held-out steps drawn of each domain; blocks repeat them"),
    [OPT_WINDOW] = WHOLE("window", 0, "N", window, 1, 65536, NULL, "chosen on a validation part",
                         "past steps whose popularity decides which variant is nearest"),
    [OPT_GROUP_LAYERS] = WHOLE("group-layers", 0, "N", group_layers, 1, MP_MAX_LAYERS, NULL,
                               "chosen on a validation part", "consecutive layers that are switched together"),
    [OPT_REGRET] = {.name = "regret",
                    .metavar = "SHARE",
                    .type = OPT_IS_RATIO,
                    .offset = AT(regret_ppm),
                    .max = 1000000,
                    .initial = "0.002",
                    .summary = "never take more than this share longer than the static plan, whatever comes"},
    [OPT_OVERLAP] = RATIO("overlap", "SHARE", overlap_ppm, 1000000, "0: steps wait for all of it",
                          "share of the time of moves that steps hide"),
    [OPT_MIGRATE_WIDE] = FLAG("wide", 0, wide, "every link, not only the five that carry most"),

    [OPT_TRANSPORT] = NAMED("transport", "NAME", transport, WORDS_TRANSPORTS, "loop", NULL,
                            "what moves the bytes (moeplan-exec --list transports)"),
    [OPT_ITERATIONS] =
        WHOLE("iterations", 0, "N", iterations, 1, 100000, "5", NULL, "timed repetitions of every step's layers"),
    [OPT_WARMUP] = WHOLE("warmup", 0, "N", warmup, 0, 100000, "1", NULL, "repetitions before them, not timed"),
    [OPT_DEADLINE] = WHOLE("deadline", 0, "MS", deadline_ms, 1, 86400000, "30000", NULL,
                           "longest silence of a rank, and longest time in which nothing moves, in milliseconds"),
    [OPT_TIMELINE_FILE] = TEXT("timeline", 0, "FILE", timeline_file, WORDS_FILE, NULL, NULL,
                               "write the first step as a Chrome trace, predicted and measured side by side"),
    [OPT_TRAIN] = TEXT("train", 0, "POLICIES", train, WORDS_NONE, NULL, "plan where it has one, in phase train",
                       "replay whole training steps, gradients summed beside the all-to-alls, under each of these "
                       "policies: some of moeplan list policies, plan, searched, separated by commas; none: forward "
                       "passes"),
    [OPT_CHUNK_SCALE] = WHOLE("chunk-scale", 0, "N", chunk_scale, 1, 1000000, "1", NULL,
                              "--train: chunks and buckets of named and searched policies are so many times smaller, "
                              "for links that are so much slower"),
    [OPT_COMPUTE] = ONE_OF("compute", "WHAT", compute, "none|gemm", "none", NULL,
                           "real matrix products of the experts beside the checks (cuda and nccl), timed apart"),
    [OPT_MATRIX] = FLAG("matrix", 0, matrix,
                        "TRACE is a traffic matrix: move it, in the order of the plan's first layer, and back"),
    [OPT_LOCAL] = WHOLE("local", 0, "N", local, 1, MP_MAX_GPUS, NULL, "one process for each GPU of the plan",
                        "start N ranks on this machine"),
    [OPT_RENDEZVOUS] = TEXT("rendezvous", 0, "WHERE", rendezvous, WORDS_NONE, NULL, NULL,
                            "where ranks that were started one by one meet: file:///PATH or tcp://HOST:PORT"),
    [OPT_RANK] = WHOLE("rank", 0, "R", rank, 0, MP_MAX_GPUS - 1, NULL, "what the launcher's environment says",
                       "this process is rank R"),
    [OPT_NRANKS] = WHOLE("nranks", 0, "N", n_ranks, 1, MP_MAX_GPUS, NULL, "what the launcher's environment says",
                         "there are N ranks, one for each GPU of the plan"),
    [OPT_HOSTS] = TEXT("hosts", 0, "FILE", hosts, WORDS_FILE, NULL, NULL,
                       "addresses of the ranks by level (tools/emulate writes it)"),
    [OPT_CALIBRATE] =
        FLAG("calibrate", 0, calibrate, "no plan: fit the figures of TOPOLOGY from short runs, and write them with -o"),
    [OPT_STRICT_FITS] = FLAG("strict", 0, strict, "--calibrate: exit code 1, and nothing written, when a fit is bad"),
    [OPT_PROBE] = WHOLE("probe", 0, "MS", probe_ms, 1, 60000, "150", NULL,
                        "--calibrate: length of the longest runs of a fit, in milliseconds; longer is truer"),
    [OPT_FAULT] = {.name = "fault",
                   .metavar = "KIND@STEP/LAYER/STAGE[/RANK]",
                   .type = OPT_IS_TEXT,
                   .offset = AT(fault),
                   .summary = "let something go wrong on purpose",
                   .is_hidden = true},
    [OPT_LIST] = ONE_OF("list", "WHAT", list, "transports", NULL, NULL, "list what is built in, and exit"),
    [OPT_VERSION] = FLAG("version", 'V', version, "print the version and exit"),
};

/* ---- words ---- */

static const char *stage_word(enum mp_planner_stage stage, uint32_t i) {
    for (uint32_t k = 0; mp_strategy_at(k) != NULL; k++)
        if (mp_strategy_at(k)->stage == stage && i-- == 0)
            return mp_strategy_at(k)->name;
    return NULL;
}

static const char *static_word(const char *choices, uint32_t i, char *buf) {
    while (i > 0 && choices != NULL) {
        choices = strchr(choices, '|');
        choices = choices != NULL ? choices + 1 : NULL;
        i--;
    }
    if (choices == NULL)
        return NULL;
    snprintf(buf, 128, "%.*s", (int)strcspn(choices, "|"), choices);
    return buf;
}

static const char *recipe_or_policy(uint32_t i) {
    uint32_t n = 0;
    while (n < i && mp_recipe_at(n) != NULL)
        n++;
    if (mp_recipe_at(n) != NULL)
        return mp_recipe_at(n)->name;
    return mp_policy_at(i - n) != NULL ? mp_policy_at(i - n)->name : NULL;
}

const char *opt_word(enum opt_words words, const char *choices, uint32_t i, char *buf) {
    const char *name = NULL, *summary, *reference;
    struct mp_synth_params params;
    switch (words) {
    case WORDS_STATIC:
        return static_word(choices, i, buf);
    case WORDS_RECIPES:
        return recipe_or_policy(i);
    case WORDS_REPLICATE:
        return stage_word(MP_PLAN_REPLICATE, i);
    case WORDS_PLACE:
        return stage_word(MP_PLAN_PLACE, i);
    case WORDS_ROUTE:
        return stage_word(MP_PLAN_ROUTE, i);
    case WORDS_ORDER:
        return stage_word(MP_PLAN_ORDER, i);
    case WORDS_POLICIES: {
        uint32_t n_named = 0;
        while (mp_train_policy_at(n_named) != NULL)
            n_named++;
        return i < n_named ? mp_train_policy_at(i)->name : static_word("searched|none", i - n_named, buf);
    }
    case WORDS_PACKING:
        return static_word("lina|searched", i, buf);
    case WORDS_HOMES:
        return mp_homes_at(i) != NULL ? mp_homes_at(i)->name : NULL;
    case WORDS_DISPATCHERS:
        return mp_dispatcher_at(i) != NULL ? mp_dispatcher_at(i)->name : NULL;
    case WORDS_REHOMES:
        return mp_rehome_at(i) != NULL ? mp_rehome_at(i)->name : NULL;
    case WORDS_FORMATS: {
        uint32_t n_traces = 0;
        while (mp_trace_format_at(n_traces) != NULL)
            n_traces++;
        if (i < n_traces)
            return mp_trace_format_at(i)->name;
        return mp_stack_at(i - n_traces) != NULL ? mp_stack_at(i - n_traces)->name : NULL;
    }
    case WORDS_MATRICES:
        return mp_matrix_format_at(i) != NULL ? mp_matrix_format_at(i)->name : NULL;
    case WORDS_STACKS:
        return mp_stack_at(i) != NULL ? mp_stack_at(i)->name : NULL;
    case WORDS_TARGETS: {
        uint32_t n_stacks = 0;
        while (mp_stack_at(n_stacks) != NULL)
            n_stacks++;
        if (i < n_stacks)
            return mp_stack_at(i)->name;
        return mp_exporter_at(i - n_stacks) != NULL ? mp_exporter_at(i - n_stacks)->name : NULL;
    }
    case WORDS_MODELS:
        return mp_model_preset(i, &name, &summary) ? name : NULL;
    case WORDS_SYNTH:
        return mp_synth_preset(i, &name, &summary, &params) ? name : NULL;
    case WORDS_TOPOLOGIES:
        return mp_gpu_preset(i, &name, &summary) ? name : NULL;
    case WORDS_TOPOLOGY_FORMS: {
        struct mp_trace_form form;
        uint32_t n_forms = 0;
        while (mp_trace_writer(n_forms, &form))
            n_forms++;
        if (i < n_forms)
            return mp_trace_writer(i, &form) ? form.name : NULL;
        return mp_topology_writer(i - n_forms, &name, &summary, &reference) ? name : NULL;
    }
    case WORDS_VERBS:
        return i < n_verbs ? verbs[i].name : NULL;
    case WORDS_LISTS:
        return static_word("strategies|colocations|policies|formats|matrices|stacks|exports|presets|models|dispatchers|"
                           "rehomes|topologies|homes",
                           i, buf);
    case WORDS_TRANSPORTS:
        return static_word(MOEPLAN_TRANSPORTS, i, buf); /* those that are built in */
    case WORDS_NONE:
    case WORDS_FILE:
        break;
    }
    return NULL;
}

/* Levenshtein distance, cut at words of 63 letters. */
static unsigned distance(const char *a, const char *b) {
    unsigned row[64];
    size_t na = strlen(a), nb = strlen(b);
    if (na > 63 || nb > 63)
        return 64;
    for (unsigned j = 0; j <= nb; j++)
        row[j] = j;
    for (unsigned i = 1; i <= na; i++) {
        unsigned diagonal = row[0];
        row[0] = i;
        for (unsigned j = 1; j <= nb; j++) {
            unsigned best = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            best = row[j] + 1 < best ? row[j] + 1 : best;
            row[j] = row[j - 1] + 1 < best ? row[j - 1] + 1 : best;
        }
    }
    return row[nb];
}

const char *opt_nearest(const char *s, const char *(*candidate)(void *ctx, uint32_t i), void *ctx) {
    const char *best = NULL;
    unsigned least = 64;
    for (uint32_t i = 0;; i++) {
        const char *c = candidate(ctx, i);
        if (c == NULL)
            break;
        unsigned d = distance(s, c);
        if (d < least) {
            least = d;
            best = c;
        }
    }
    return best;
}

bool opt_of_verb(const struct verb *verb, enum opt_id id) {
    for (const enum opt_id *o = verb->options; *o != OPT_END; o++)
        if (*o == id)
            return true;
    return false;
}
