#include "cmd.h"
#include "tool.h"
#include <string.h>

/* Verbs whose --wide says more than that tables are not fitted to the terminal. */
#define COMMON_BUT_WIDE                                                                                                \
    OPT_JSON, OPT_OUTPUT_FORMAT, OPT_TABLE, OPT_COLOR, OPT_QUIET, OPT_SEED, OPT_THREADS, OPT_WORK_LIMIT,               \
        OPT_TIME_LIMIT, OPT_MEM_LIMIT, OPT_HELP
#define COMMON COMMON_BUT_WIDE, OPT_ALL_COLUMNS
#define HINTS                                                                                                          \
    OPT_INPUT_FORMAT, OPT_PHASE, OPT_LAYER_BASE, OPT_IDS, OPT_MAP, OPT_REQUESTS, OPT_RANKED, OPT_EXPERTS, OPT_TOP_K,   \
        OPT_AXES, OPT_MTP_BASE, OPT_PIPELINE_STAGES
#define STEPS OPT_BATCH, OPT_TOKENS_PER_RANK, OPT_RESAMPLE, OPT_STEPS, OPT_SOURCE_SKEW, OPT_PAD
#define STAGES                                                                                                         \
    OPT_REPLICATE, OPT_PLACE, OPT_ROUTE, OPT_ORDER, OPT_STAGES, OPT_PACING, OPT_SET, OPT_REDUNDANT, OPT_SLOTS_PER_GPU, \
        OPT_OBJECTIVE, OPT_FIT, OPT_FOR, OPT_REPLICA_CHOICE, OPT_SOLVER
#define COSTS OPT_DISPATCHER, OPT_SOURCES
#define PLACEMENT OPT_GPUS, OPT_NODES

#define TRACE_ARGUMENT                                                                                                 \
    { "TRACE", "a recording in any known format (moeplan list formats)", false, false, WORDS_FILE }
#define TOPOLOGY_ARGUMENT                                                                                              \
    {                                                                                                                  \
        "TOPOLOGY",                                                                                                    \
            "a YAML file, a short string such as 8:h100 or 4x8:h100, or a file of another program: dgx.xml, "          \
            "4xdgx.xml:h100 (moeplan list topologies)",                                                                \
            false, false, WORDS_FILE                                                                                   \
    }

static const struct argument inspect_arguments[] = {
    {"FILE", "a recording, plan, placement, topology or model; or a preset's name or a short topology string", false,
     false, WORDS_FILE},
    {0}};
static const enum opt_id inspect_options[] = {HINTS, PLACEMENT, OPT_SVG, COMMON, OPT_END};
static const char *const inspect_examples[] = {"moeplan inspect trace.npz", "moeplan inspect 4x8:h100",
                                               "moeplan inspect nvl72 --svg nvl72.svg", "moeplan inspect deepseek-v3",
                                               NULL};

static const struct argument convert_arguments[] = {
    {"IN", "a recording, a placement of a serving stack, or a topology", false, false, WORDS_FILE},
    {"OUT",
     "file to write: a native trace, a plan file, a topology in YAML, or what --to says (text forms are packed by .gz "
     "and .zst)",
     false, false, WORDS_FILE},
    {0}};
static const enum opt_id convert_options[] = {HINTS,           PLACEMENT, OPT_MODEL, OPT_DROP_SIGNATURES,
                                              OPT_TO_TOPOLOGY, COMMON,    OPT_END};
static const char *const convert_examples[] = {
    "moeplan convert expert_distribution_recorder.pt trace.mpt --phase decode --layer-base 0",
    "moeplan convert trace.mpt trace.jsonl.zst --to jsonl",
    "moeplan convert sglang-placement.json plan.yaml --gpus 8",
    "moeplan convert 2x4:a100+2x4:l40s topology.yaml",
    "moeplan convert 4xdgx.xml:h100 four.yaml",
    NULL};

static const struct argument generate_arguments[] = {{0}};
static const enum opt_id generate_options[] = {
    OPT_PRESET,     OPT_GEN_LAYERS,         OPT_GEN_EXPERTS, OPT_GEN_TOP_K,    OPT_FIRST_LAYER,
    OPT_N_REQUESTS, OPT_TOKENS_PER_REQUEST, OPT_PHASE,       OPT_ZIPF,         OPT_COACTIVATION,
    OPT_CLUSTER,    OPT_CROSS_LAYER,        OPT_DOMAINS,     OPT_DOMAIN_SHARE, OPT_DRIFT,
    OPT_STICKINESS, OPT_SIGNATURES,         OPT_AGAINST,     OPT_OUT,          COMMON,
    OPT_END};
static const char *const generate_examples[] = {
    "moeplan generate --experts 64 --top-k 8 --zipf 0.8 -o trace.mpt",
    "moeplan generate --preset gpt-oss-20b-like --n-requests 500 -o trace.mpt", NULL};

#define COLOCATE OPT_COLOCATE, OPT_MODEL_B, OPT_COLOCATION, OPT_EVALUATOR
#define COLOCATE_ARGUMENT                                                                                              \
    {                                                                                                                  \
        "TOPOLOGY_OF_TWO", "with --colocate: the topology; the second argument is then the second model's recording",  \
            true, false, WORDS_FILE                                                                                    \
    }

static const struct argument plan_arguments[] = {TRACE_ARGUMENT, TOPOLOGY_ARGUMENT, COLOCATE_ARGUMENT, {0}};
static const enum opt_id plan_options[] = {OPT_OUT,
                                           OPT_MODEL,
                                           OPT_STRATEGY,
                                           STAGES,
                                           OPT_HOMES,
                                           COSTS,
                                           STEPS,
                                           OPT_TIMELINE,
                                           OPT_SPLIT_PLAN,
                                           OPT_SCORE_ON,
                                           OPT_INTERVAL_GROUPS,
                                           OPT_STRICT,
                                           COLOCATE,
                                           OPT_OUT_B,
                                           OPT_FROM,
                                           OPT_MOVE_BUDGET,
                                           OPT_ROBUST,
                                           OPT_WEIGHTS,
                                           OPT_ROBUST_OBJECTIVE,
                                           OPT_CONDENSE,
                                           OPT_CONDENSE_HISTORY,
                                           OPT_EXPORT_LP,
                                           OPT_IMPORT_SOLUTION,
                                           OPT_POLICY,
                                           OPT_PACKING,
                                           OPT_HOST_LINK,
                                           OPT_HOST_MEMORY,
                                           HINTS,
                                           COMMON,
                                           OPT_END};
static const char *const plan_examples[] = {
    "moeplan plan trace.npz 8:h100 -m gpt-oss-20b --redundant 8 -o plan.yaml",
    "moeplan plan trace.npz 2x8:h100 --strategy eplb --redundant 16 --for sglang -o plan.yaml",
    "moeplan plan monday.npz 2x8:h100 --from live.yaml --move-budget 8GB -o plan.yaml",
    "moeplan plan day.npz 8:h100 --robust night.npz,batch.npz --weights 3,1,1 -o plan.yaml",
    "moeplan plan a.mpt b.mpt 8:h100 --colocate -m mixtral-8x7b --model-b gpt-oss-20b -o a.yaml --out-b b.yaml",
    NULL};

static const struct argument verify_arguments[] = {
    {"PLAN", "a plan file", false, false, WORDS_FILE},
    {"TRACE", "the recording it was planned on; for a plan of moeplan order its traffic matrix", true, false,
     WORDS_FILE},
    {"TOPOLOGY", "the topology it was planned for", true, false, WORDS_FILE},
    {"TRACE_OF_SECOND",
     "with --colocate the arguments are PLAN, the second model's PLAN, and TRACE, the second model's TRACE, TOPOLOGY",
     true, false, WORDS_FILE},
    {"TOPOLOGY_OF_TWO", "with --colocate: see TRACE_OF_SECOND", true, false, WORDS_FILE},
    {0}};
static const enum opt_id verify_options[] = {OPT_THOROUGH, OPT_PROVE, OPT_MODEL, OPT_COLOCATE,
                                             OPT_MODEL_B,  HINTS,     COMMON,    OPT_END};
static const char *const verify_examples[] = {
    "moeplan verify plan.yaml",
    "moeplan verify plan.yaml trace.npz 8:h100",
    "moeplan verify exact.yaml trace.npz 4:h100 --prove",
    "moeplan verify order.yaml traffic.txt 8:h100",
    "moeplan verify a.yaml b.yaml a.mpt b.mpt 8:h100 --colocate -m mixtral-8x7b --model-b gpt-oss-20b",
    NULL};

static const struct argument simulate_arguments[] = {
    {"PLAN", "a plan file, or a placement of any serving stack", false, false, WORDS_FILE},
    TRACE_ARGUMENT,
    TOPOLOGY_ARGUMENT,
    {0}};
static const enum opt_id simulate_options[] = {OPT_MODEL,
                                               OPT_SPLIT_SIMULATE,
                                               OPT_INCUMBENT_ROUTE,
                                               OPT_FOR,
                                               OPT_REPLICA_CHOICE,
                                               STEPS,
                                               COSTS,
                                               OPT_NETWORK,
                                               OPT_TIMELINE_PLANNED,
                                               OPT_ROUTING_NS,
                                               OPT_STAGE_BARRIER,
                                               OPT_STAGE_COUPLED,
                                               OPT_PACING,
                                               OPT_TRAVEL,
                                               OPT_REHOME,
                                               OPT_REHOME_BALANCE,
                                               OPT_REHOME_SLACK,
                                               OPT_REHOME_CANDIDATES,
                                               OPT_CONDENSE,
                                               OPT_CONDENSE_HISTORY,
                                               OPT_HOST_LINK,
                                               OPT_HOST_MEMORY,
                                               OPT_INTERVAL_GROUPS,
                                               HINTS,
                                               COMMON,
                                               OPT_END};
static const char *const simulate_examples[] = {
    "moeplan simulate plan.yaml trace.npz 8:h100",
    "moeplan simulate plan.yaml other.npz 8:h100 --batch 32 --network spread-out", NULL};

static const struct argument compare_arguments[] = {TRACE_ARGUMENT, TOPOLOGY_ARGUMENT, COLOCATE_ARGUMENT, {0}};
static const enum opt_id compare_options[] = {OPT_STRATEGIES,
                                              OPT_INCUMBENT,
                                              OPT_INCUMBENT_ROUTE,
                                              OPT_MODEL,
                                              OPT_SPLIT_COMPARE,
                                              OPT_SCORE_ON,
                                              OPT_INTERVAL_GROUPS,
                                              OPT_STRICT,
                                              OPT_WIDE,
                                              OPT_MARKDOWN_TABLE,
                                              OPT_HOST_LINK,
                                              OPT_HOST_MEMORY,
                                              STAGES,
                                              OPT_HOMES_COMPARE,
                                              COSTS,
                                              STEPS,
                                              OPT_NETWORK,
                                              OPT_TIMELINE,
                                              OPT_ROUTING_NS,
                                              OPT_STAGE_BARRIER,
                                              OPT_STAGE_COUPLED,
                                              OPT_REHOME,
                                              OPT_REHOME_BALANCE,
                                              OPT_REHOME_SLACK,
                                              OPT_REHOME_CANDIDATES,
                                              OPT_CONDENSE,
                                              OPT_CONDENSE_HISTORY,
                                              COLOCATE,
                                              HINTS,
                                              COMMON_BUT_WIDE,
                                              OPT_END};
static const char *const compare_examples[] = {
    "moeplan compare trace.npz 8:h100 --redundant 8",
    "moeplan compare trace.npz 2x8:h100 --strategy contiguous,eplb,auto --split time:0.5 --incumbent live.json",
    "moeplan compare a.mpt b.mpt 8:h100 --colocate -m mixtral-8x7b --model-b gpt-oss-20b", NULL};

static const struct argument sweep_arguments[] = {TRACE_ARGUMENT, TOPOLOGY_ARGUMENT, {0}};
static const enum opt_id sweep_options[] = {OPT_SWEEP_REDUNDANT,
                                            OPT_SWEEP_BATCH,
                                            OPT_SWEEP_GPUS,
                                            OPT_SWEEP_NODES,
                                            OPT_SWEEP_STRATEGY,
                                            OPT_CONTEXT,
                                            OPT_CSV,
                                            OPT_MODEL,
                                            OPT_SPLIT_COMPARE,
                                            OPT_INTERVAL_GROUPS,
                                            OPT_REPLICATE,
                                            OPT_PLACE,
                                            OPT_ROUTE,
                                            OPT_ORDER,
                                            OPT_STAGES,
                                            OPT_PACING,
                                            OPT_SET,
                                            OPT_OBJECTIVE,
                                            OPT_FOR,
                                            OPT_SOLVER,
                                            COSTS,
                                            OPT_TOKENS_PER_RANK,
                                            OPT_RESAMPLE,
                                            OPT_STEPS,
                                            OPT_SOURCE_SKEW,
                                            OPT_PAD,
                                            OPT_TIMELINE,
                                            HINTS,
                                            COMMON,
                                            OPT_END};
static const char *const sweep_examples[] = {
    "moeplan sweep trace.npz 8:h100 -m gpt-oss-20b --redundant 0:64:8",
    "moeplan sweep trace.npz 2x8:h100 --redundant 0:32:16 --nodes 1,2,4 --resample --csv > points.csv", NULL};

static const struct argument predict_arguments[] = {TRACE_ARGUMENT, {0}};
static const enum opt_id predict_options[] = {
    OPT_TABLES_OUT, OPT_TABLES, OPT_HINT_PLACES, OPT_PATH_LENGTH, OPT_SPLIT_COMPARE, OPT_BATCH, OPT_TOKENS_PER_RANK,
    OPT_RESAMPLE,   HINTS,      COMMON,          OPT_END};
static const char *const predict_examples[] = {
    "moeplan predict trace.npz", "moeplan predict trace.npz --split time:0.5 --batch 256",
    "moeplan predict trace.npz -o model.paths", "moeplan predict other.npz --tables model.paths", NULL};

static const struct argument variants_arguments[] = {TRACE_ARGUMENT, TOPOLOGY_ARGUMENT, {0}};
static const enum opt_id variants_options[] = {
    OPT_OUT,      OPT_MODEL,  OPT_STRATEGY, OPT_REPLICATE,    OPT_PLACE,         OPT_ROUTE,     OPT_ORDER,
    OPT_STAGES,   OPT_PACING, OPT_SET,      OPT_REDUNDANT,    OPT_SLOTS_PER_GPU, OPT_OBJECTIVE, OPT_FIT,
    OPT_SOLVER,   COSTS,      STEPS,        OPT_KINDS,        OPT_KIND_WEIGHTS,  OPT_BESIDE,    OPT_BLOCKS,
    OPT_VARIANTS, OPT_POOL,   OPT_WINDOW,   OPT_GROUP_LAYERS, OPT_REGRET,        OPT_OVERLAP,   OPT_SPLIT_COMPARE,
    HINTS,        COMMON,     OPT_END};
static const char *const variants_examples[] = {
    "moeplan variants trace.npz 8:h100 -m gpt-oss-20b -b 128 -o library.yaml",
    "moeplan variants day.npz 2x8:h100 --domains night.npz,batch.npz --variants 3 --blocks 100,10000", NULL};

static const struct argument check_arguments[] = {
    {"PLAN", "the plan in use, or a placement of any serving stack", false, false, WORDS_FILE},
    {"TRACE", "a new recording of the same model", false, false, WORDS_FILE},
    {"TOPOLOGY", "the topology; left out, the plan's own where its name is enough, else only drift is measured", true,
     false, WORDS_FILE},
    {0}};
static const enum opt_id check_options[] = {OPT_STRICT_CHECK,
                                            OPT_THRESHOLD,
                                            OPT_STRATEGY_CHECK,
                                            OPT_SPLIT_CHECK,
                                            OPT_WIDE,
                                            OPT_MODEL,
                                            OPT_INCUMBENT_ROUTE,
                                            STEPS,
                                            COSTS,
                                            OPT_TIMELINE_PLANNED,
                                            OPT_STAGES,
                                            OPT_PACING,
                                            OPT_SET,
                                            OPT_INTERVAL_GROUPS,
                                            HINTS,
                                            COMMON_BUT_WIDE,
                                            OPT_END};
static const char *const check_examples[] = {
    "moeplan check plan.yaml monday.npz 8:h100", "moeplan check plan.yaml monday.npz --strict --threshold 0.02",
    "moeplan check live.json monday.npz 2x8:h100 -m deepseek-v3 --resample", NULL};

static const struct argument migrate_arguments[] = {
    {"OLD", "the placement in use: a plan, or any serving stack's file", false, false, WORDS_FILE},
    {"NEW", "the placement to come, likewise", false, false, WORDS_FILE},
    {"TOPOLOGY", "the topology; left out, the plans' own where its name is enough", true, false, WORDS_FILE},
    {0}};
static const enum opt_id migrate_options[] = {OPT_OUT,
                                              OPT_MODEL,
                                              OPT_MIGRATE_SCORE_ON,
                                              OPT_STEP_GAIN,
                                              OPT_KEEP_LABELS,
                                              OPT_MIGRATE_WIDE,
                                              OPT_INCUMBENT_ROUTE,
                                              PLACEMENT,
                                              STEPS,
                                              COSTS,
                                              OPT_INTERVAL_GROUPS,
                                              HINTS,
                                              COMMON_BUT_WIDE,
                                              OPT_END};
static const char *const migrate_examples[] = {
    "moeplan migrate live.yaml next.yaml 2x8:h100 -o next-here.yaml",
    "moeplan migrate live.npy next.npy 2x8:h100 -m deepseek-v3 --score-on monday.npz --resample", NULL};

static const struct argument order_arguments[] = {
    {"MATRIX", "bytes from every GPU to every other: a file of alltoallv_perf, CSV or NumPy (moeplan list matrices)",
     false, false, WORDS_FILE},
    TOPOLOGY_ARGUMENT,
    {0}};
static const enum opt_id order_options[] = {
    OPT_OUT,           OPT_ORDERS,      OPT_STAGES, OPT_PACING, OPT_SET, OPT_MARKDOWN_TABLE,
    OPT_MATRIX_FORMAT, OPT_TOKEN_BYTES, COMMON,     OPT_END};
static const char *const order_examples[] = {
    "moeplan order traffic.txt 8:h100",
    "moeplan order tokens.csv 2x8:h100 --token-bytes 14336 --strategy single,bvn,auto -o plan.yaml", NULL};

static const struct argument export_arguments[] = {
    {"PLAN", "a plan file, or a placement of any serving stack", false, false, WORDS_FILE},
    {"TRACE", "the recording, for exports that show its steps, and for a stack's step time", true, false, WORDS_FILE},
    {"TOPOLOGY", "the topology, for the same", true, false, WORDS_FILE},
    {0}};
static const enum opt_id export_options[] = {OPT_TO,
                                             OPT_OUT,
                                             OPT_STEP,
                                             OPT_MODEL,
                                             OPT_HIDDEN_LAYERS,
                                             OPT_MTP_LAYERS,
                                             PLACEMENT,
                                             STEPS,
                                             COSTS,
                                             OPT_SPLIT_SIMULATE,
                                             OPT_INCUMBENT_ROUTE,
                                             OPT_REPLICA_CHOICE,
                                             OPT_NETWORK,
                                             OPT_TIMELINE_PLANNED,
                                             OPT_STAGE_BARRIER,
                                             OPT_STAGE_COUPLED,
                                             OPT_PACING,
                                             HINTS,
                                             COMMON,
                                             OPT_END};
static const char *const export_examples[] = {
    "moeplan export plan.yaml --to sglang -o placement.json",
    "moeplan export plan.yaml trace.npz 8:h100 --to vllm -o placement.json",
    "moeplan export plan.yaml trace.npz 8:h100 --to chrome-trace -o step.json",
    "moeplan export plan.yaml trace.npz 8:h100 --to nccl-tests -o matrices/", NULL};

static const struct argument report_arguments[] = {
    {"PLAN", "the plan that is judged, or a placement of any serving stack", false, false, WORDS_FILE},
    TRACE_ARGUMENT,
    TOPOLOGY_ARGUMENT,
    {"PLAN2", "plans or placements to show beside it", true, true, WORDS_FILE},
    {0}};
static const enum opt_id report_options[] = {OPT_OUT,
                                             OPT_REPORT_BASELINE,
                                             OPT_INCUMBENT_ROUTE,
                                             OPT_REPORT_REDUNDANT,
                                             OPT_SWEEP_STRATEGY,
                                             OPT_CONTEXT,
                                             OPT_REPORT_SWEEP,
                                             OPT_REPORT_DRIFT,
                                             OPT_REPORT_MEASURED,
                                             OPT_MODEL,
                                             OPT_SPLIT_SIMULATE,
                                             OPT_INTERVAL_GROUPS,
                                             STEPS,
                                             COSTS,
                                             OPT_TIMELINE_PLANNED,
                                             OPT_STAGE_BARRIER,
                                             OPT_STAGE_COUPLED,
                                             OPT_PACING,
                                             HINTS,
                                             COMMON,
                                             OPT_END};
static const char *const report_examples[] = {
    "moeplan report plan.yaml trace.npz 8:h100 -o report.html",
    "moeplan report plan.yaml trace.npz 2x8:h100 eplb.yaml --incumbent live.json -o report.html",
    "moeplan report plan.yaml trace.npz 8:h100 --redundant 0:32:8 --drift today.npz -o report.html", NULL};

static const struct argument list_arguments[] = {{"WHAT",
                                                  "strategies, colocations, policies, formats, matrices, stacks, "
                                                  "exports, presets, models, dispatchers, rehomes or topologies",
                                                  true, false, WORDS_LISTS},
                                                 {0}};
static const enum opt_id list_options[] = {COMMON, OPT_END};
static const char *const list_examples[] = {"moeplan list strategies", "moeplan list models --json", NULL};

static const struct argument help_arguments[] = {{"VERB", "the verb to explain", true, false, WORDS_VERBS}, {0}};
static const enum opt_id help_options[] = {OPT_MAN,   OPT_COMPLETION, OPT_MARKDOWN, OPT_JSON,
                                           OPT_QUIET, OPT_HELP,       OPT_END};
static const char *const help_examples[] = {
    "moeplan help plan", "moeplan help --man plan | man -l -",
    "moeplan help --completion bash > ~/.local/share/bash-completion/completions/moeplan", NULL};

const struct verb verbs[] = {
    {"inspect", cmd_inspect, "say what a file is and what is in it", "moeplan inspect FILE [options]",
     "Detects what the file is by its content: a recording (layers, experts, requests, load, what it cannot say), a "
     "plan, a placement of a "
     "serving stack, a topology or a model.",
     inspect_arguments, inspect_options, inspect_examples},
    {"convert", cmd_convert, "read any known format, write moeplan's own", "moeplan convert IN OUT [options]",
     "A recording becomes a native trace (compact, checksummed, read without copying), a placement of a serving stack "
     "becomes a plan file, "
     "a topology, of another program too, becomes its full YAML, or what --to names. What the input cannot say (layer "
     "base, logical or physical ids, phase) is "
     "asked for.",
     convert_arguments, convert_options, convert_examples},
    {"generate", cmd_generate, "make a synthetic recording", "moeplan generate [--preset NAME] [options] -o TRACE",
     "Named parameters shape skew, co-activation, dependence between layers, domains, drift and bursts; presets are "
     "fitted to real "
     "recordings. The result is marked synthetic, and so is every plan made from it.",
     generate_arguments, generate_options, generate_examples},
    {"plan", cmd_plan, "decide placement, replicas, routing and order",
     "moeplan plan TRACE TOPOLOGY [-m MODEL] [options] -o PLAN",
     "Builds the steps of the recording, runs the strategy, predicts the step time and writes the plan once the "
     "verifier has accepted it. "
     "Says on standard error what the plan gains over contiguous on requests it was not made from, and when that is no "
     "more than noise. Exit code 1: no plan satisfies the constraints, or --strict and no gain; the message says what "
     "to change.",
     plan_arguments, plan_options, plan_examples},
    {"verify", cmd_verify, "check a plan independently of the planner",
     "moeplan verify PLAN [TRACE|MATRIX TOPOLOGY] [options]",
     "Structure always; with the recording and the topology also every number that the plan claims, and of a plan that "
     "moeplan order wrote, with the matrix and the topology, its certificate. With --colocate two "
     "plans that were made together: each by itself, their pairs against each other, the memory that both need and "
     "the step of both. With --prove the search that a certificate of kind search or stopped rests on is run "
     "again. Exit code 0: accepted, 1: refused, with one line for each violation, or not proven again.",
     verify_arguments, verify_options, verify_examples},
    {"simulate", cmd_simulate, "predict what a plan is worth on a recording",
     "moeplan simulate PLAN TRACE TOPOLOGY [options]",
     "Steps, dispatcher and split are the plan's own unless given. A result on the data that the plan was made from is "
     "labelled so. With --phase train also whole training steps, forward, backward and gradients, under each policy.",
     simulate_arguments, simulate_options, simulate_examples},
    {"compare", cmd_compare, "plan with several strategies, score on held-out steps",
     "moeplan compare TRACE TOPOLOGY [--strategy A,B,...] [options]",
     "Requests are split; every strategy plans on one part and is scored on the other, on the same steps. Intervals "
     "(95 %) are over "
     "requests: a delete-a-group jackknife, paired for the differences to the baseline. The baseline is contiguous "
     "when it is among the "
     "strategies, else the first one.",
     compare_arguments, compare_options, compare_examples},
    {"sweep", cmd_sweep, "how steps and memory change with replicas, batch, GPUs or nodes",
     "moeplan sweep TRACE TOPOLOGY --redundant RANGE [options]",
     "Plans every point on one part of the recording, scores it on the other, and prints step time, share of the MoE "
     "part, balance, remote bytes, weights and what room they leave for KV cache; draws the curve, names its knee and "
     "says what one more replica buys and costs. One range is a curve, two are a family of curves. Points that cannot "
     "be planned say why, and the sweep goes on. Exit code 1: no point could be planned.",
     sweep_arguments, sweep_options, sweep_examples},
    {"predict", cmd_predict, "how well experts are known ahead of their layer", "moeplan predict TRACE [options]",
     "Learns from one part of the recording which experts follow which, and says on the other part how often a token's "
     "experts are among the likeliest, by how many layers are looked back, how far the probabilities can be trusted, "
     "and "
     "how often the most popular experts of a batch are foreseen. Beside it Lina's sample paths of one expert a layer, "
     "as published. -o keeps the tables, --tables scores those of such a file.",
     predict_arguments, predict_options, predict_examples},
    {"variants", cmd_variants, "several plans, switched between while domains take turns",
     "moeplan variants TRACE TOPOLOGY [-o LIBRARY] [options]",
     "Makes plans for the kinds of traffic that take turns, close to the static one so that switching moves little, "
     "and "
     "a rule that switches groups of layers by the popularity of the last steps and never takes more than --regret "
     "longer than the static plan alone. How many plans are worth having is chosen on a validation part; one is an "
     "answer. Scored on held-out blocks of one domain each, weights moved charged in full, beside the static plan, a "
     "plan for each domain and a bound for each step. -o writes the rule, with the plans beside it.",
     variants_arguments, variants_options, variants_examples},
    {"check", cmd_check, "is this plan still good for new traffic?", "moeplan check PLAN TRACE [TOPOLOGY] [options]",
     "How far the use of experts has moved since the plan was made, layer by layer, beside what sampling alone gives; "
     "and what a step takes under the plan and under a new one that is made from the first half of the recording, both "
     "scored on the other half, beside the ceiling that no plan can pass. Exit code 1: --strict, and a new plan is "
     "worth making.",
     check_arguments, check_options, check_examples},
    {"migrate", cmd_migrate, "go from one placement to the next with the fewest bytes",
     "moeplan migrate OLD NEW [TOPOLOGY] [-o PLAN] [options]",
     "Which GPU takes which of the new contents, layer by layer, so that the fewest weights move: exchanged are only "
     "GPUs that are equal, inside nodes and node by node, and that it is the fewest is proven. Then over which links, "
     "in which rounds where no GPU sends or receives twice, how long, with how much memory, and after how many steps "
     "it "
     "has paid. -o writes the new placement under these labels.",
     migrate_arguments, migrate_options, migrate_examples},
    {"order", cmd_order, "order the transfers of a plain traffic matrix",
     "moeplan order MATRIX TOPOLOGY [--strategy A,B,...] [-o PLAN] [options]",
     "Runs order strategies on one matrix, without a recording, and prints what each takes beside the single shot, the "
     "bound that no order can pass, and the papers' baselines. The best one is written as a plan of one layer with "
     "expert i on GPU i, which replays this matrix to the byte.",
     order_arguments, order_options, order_examples},
    {"export", cmd_export, "write files for a serving stack or another program",
     "moeplan export PLAN [TRACE TOPOLOGY] --to NAME [-o FILE] [options]",
     "For a serving stack: checks every rule of the stack before it writes the placement, and prints the exact server "
     "flags for the file. Exit code 1: the stack cannot load this plan; the message says what to change. With the "
     "recording and the topology also the step time to expect under the stack's own choice of replicas; and for other "
     "programs what the plan's steps look like, as matrices, tables, timelines or traces. Steps "
     "are those that moeplan simulate takes.",
     export_arguments, export_options, export_examples},
    {"report", cmd_report, "one HTML page: is a plan worth it, and why",
     "moeplan report PLAN TRACE TOPOLOGY [PLAN2 ...] -o FILE.html [options]",
     "Scores the plans on the same held-out steps as the baseline, verifies them, and writes one HTML file that needs "
     "no "
     "network: the verdict first, the comparison with intervals, load, traffic, timeline, drift, certificates and what "
     "is outside the model (docs/REPORT.md). With --json the data of the page alone.",
     report_arguments, report_options, report_examples},
    {"list", cmd_list, "list what moeplan knows, with references", "moeplan list [WHAT] [options]",
     "Without WHAT, everything. The names are those that the options take.", list_arguments, list_options,
     list_examples},
    {"help", cmd_help, "explain a verb; print manual page or completion", "moeplan help [VERB] [options]",
     "All of it comes from the tables that parse the command line.", help_arguments, help_options, help_examples},
};
const uint32_t n_verbs = sizeof verbs / sizeof *verbs;

const struct verb *verb_find(const char *name) {
    for (uint32_t v = 0; v < n_verbs; v++)
        if (strcmp(verbs[v].name, name) == 0)
            return &verbs[v];
    return NULL;
}

static const char *name_of_verb(void *ctx, uint32_t i) {
    (void)ctx;
    return i < n_verbs ? verbs[i].name : NULL;
}

enum mp_status tool_unknown_verb(const char *name, struct mp_error *err) {
    char shown[64];
    const char *near = opt_nearest(name, name_of_verb, NULL);
    return mp_fail(err, MP_EUSAGE, "unknown verb \"%s\" (nearest: %s; all: moeplan help)",
                   mp_quote(name, strlen(name), shown, sizeof shown), near != NULL ? near : "help");
}
