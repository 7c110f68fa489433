/* The option table: one entry per option drives parsing, --help, the man page, shell completion and docs/CLI.md. */
#ifndef TOOL_OPT_H
#define TOOL_OPT_H

#include <moeplan/limits.h>
#include <moeplan/progress.h>
#include <moeplan/report.h>
#include <moeplan/status.h>
#include <stdbool.h>

/* Every option of every verb. The same --name may appear twice where verbs read it differently. */
enum opt_id {
    OPT_HELP,
    OPT_JSON,
    OPT_OUTPUT_FORMAT,
    OPT_TABLE,
    OPT_COLOR,
    OPT_ALL_COLUMNS,
    OPT_QUIET,
    OPT_SEED,
    OPT_THREADS,
    OPT_WORK_LIMIT,
    OPT_TIME_LIMIT,
    OPT_MEM_LIMIT,
    OPT_MODEL,
    OPT_OUT,
    OPT_INPUT_FORMAT,
    OPT_PHASE,
    OPT_LAYER_BASE,
    OPT_IDS,
    OPT_MAP,
    OPT_REQUESTS,
    OPT_RANKED,
    OPT_EXPERTS,
    OPT_TOP_K,
    OPT_AXES,
    OPT_MTP_BASE,
    OPT_PIPELINE_STAGES,
    OPT_BATCH,
    OPT_TOKENS_PER_RANK,
    OPT_THOROUGH,
    OPT_PROVE,
    OPT_RESAMPLE,
    OPT_STEPS,
    OPT_SOURCE_SKEW,
    OPT_PAD,
    OPT_STRATEGY,
    OPT_STRATEGIES,
    OPT_REPLICATE,
    OPT_PLACE,
    OPT_ROUTE,
    OPT_ORDER,
    OPT_ORDERS,
    OPT_MATRIX_FORMAT,
    OPT_TOKEN_BYTES,
    OPT_STAGES,
    OPT_PACING,
    OPT_SET,
    OPT_REDUNDANT,
    OPT_SLOTS_PER_GPU,
    OPT_OBJECTIVE,
    OPT_HOMES,
    OPT_HOMES_COMPARE,
    OPT_FIT,
    OPT_FOR,
    OPT_REPLICA_CHOICE,
    OPT_POLICY,
    OPT_PACKING,
    OPT_HOST_LINK,
    OPT_HOST_MEMORY,
    OPT_SOLVER,
    OPT_EXPORT_LP,
    OPT_IMPORT_SOLUTION,
    OPT_DISPATCHER,
    OPT_SOURCES,
    OPT_SPLIT_PLAN,
    OPT_SPLIT_COMPARE,
    OPT_SPLIT_SIMULATE,
    OPT_SCORE_ON,
    OPT_NETWORK,
    OPT_TIMELINE,
    OPT_TIMELINE_PLANNED,
    OPT_ROUTING_NS,
    OPT_STAGE_BARRIER,
    OPT_STAGE_COUPLED,
    OPT_INCUMBENT,
    OPT_INCUMBENT_ROUTE,
    OPT_INTERVAL_GROUPS,
    OPT_STRICT,
    OPT_MARKDOWN_TABLE,
    OPT_WIDE,
    OPT_COLOCATE,
    OPT_MODEL_B,
    OPT_OUT_B,
    OPT_COLOCATION,
    OPT_EVALUATOR,
    OPT_TO,
    OPT_TO_TOPOLOGY,
    OPT_SVG,
    OPT_STEP,
    OPT_GPUS,
    OPT_NODES,
    OPT_HIDDEN_LAYERS,
    OPT_MTP_LAYERS,
    OPT_PRESET,
    OPT_GEN_LAYERS,
    OPT_GEN_EXPERTS,
    OPT_GEN_TOP_K,
    OPT_FIRST_LAYER,
    OPT_N_REQUESTS,
    OPT_TOKENS_PER_REQUEST,
    OPT_ZIPF,
    OPT_COACTIVATION,
    OPT_CLUSTER,
    OPT_CROSS_LAYER,
    OPT_DOMAINS,
    OPT_DOMAIN_SHARE,
    OPT_DRIFT,
    OPT_STICKINESS,
    OPT_AGAINST,
    OPT_SIGNATURES,
    OPT_TRAVEL,
    OPT_REHOME,
    OPT_REHOME_BALANCE,
    OPT_REHOME_SLACK,
    OPT_REHOME_CANDIDATES,
    OPT_CONDENSE,
    OPT_CONDENSE_HISTORY,
    OPT_DROP_SIGNATURES,
    OPT_MAN,
    OPT_COMPLETION,
    OPT_MARKDOWN,
    OPT_SWEEP_REDUNDANT,
    OPT_SWEEP_BATCH,
    OPT_SWEEP_GPUS,
    OPT_SWEEP_NODES,
    OPT_SWEEP_STRATEGY,
    OPT_CONTEXT,
    OPT_PATH_LENGTH,
    OPT_TABLES,
    OPT_TABLES_OUT,
    OPT_HINT_PLACES,
    OPT_CSV,
    OPT_SPLIT_CHECK,
    OPT_STRATEGY_CHECK,
    OPT_STRICT_CHECK,
    OPT_THRESHOLD,
    OPT_MIGRATE_SCORE_ON,
    OPT_STEP_GAIN,
    OPT_KEEP_LABELS,
    OPT_FROM,
    OPT_MOVE_BUDGET,
    OPT_ROBUST,
    OPT_WEIGHTS,
    OPT_ROBUST_OBJECTIVE,
    OPT_KINDS,
    OPT_KIND_WEIGHTS,
    OPT_BESIDE,
    OPT_VARIANTS,
    OPT_BLOCKS,
    OPT_POOL,
    OPT_WINDOW,
    OPT_GROUP_LAYERS,
    OPT_REGRET,
    OPT_OVERLAP,
    OPT_MIGRATE_WIDE,
    OPT_TRANSPORT,
    OPT_ITERATIONS,
    OPT_WARMUP,
    OPT_DEADLINE,
    OPT_TIMELINE_FILE,
    OPT_COMPUTE,
    OPT_TRAIN,
    OPT_CHUNK_SCALE,
    OPT_MATRIX,
    OPT_LOCAL,
    OPT_RENDEZVOUS,
    OPT_RANK,
    OPT_NRANKS,
    OPT_HOSTS,
    OPT_CALIBRATE,
    OPT_STRICT_FITS,
    OPT_PROBE,
    OPT_FAULT,
    OPT_REPORT_BASELINE,
    OPT_REPORT_REDUNDANT,
    OPT_REPORT_SWEEP,
    OPT_REPORT_DRIFT,
    OPT_REPORT_MEASURED,
    OPT_LIST,
    OPT_VERSION,
    OPT_END
};

/* How results are printed. */
enum output_format { FORMAT_TABLE, FORMAT_JSON, FORMAT_CSV, FORMAT_MARKDOWN };

/* What the command line said; defaults come from the table. Text is borrowed from argv. */
struct opts {
    int argc; /* the command line, borrowed: for provenance */
    char *const *argv;
    struct mp_limits limits; /* the defaults, with --mem-limit */
    bool is_set[OPT_END];
    bool help, json, quiet, strict, thorough, prove, colocate, resample, stage_barrier, stage_coupled, pacing,
        markdown_table, wide, man, markdown, version, matrix, csv, calibrate, keep_labels, drop_signatures;
    enum output_format output;    /* what --format, --json, --csv and --markdown come to */
    struct mp_style *style;       /* of tables for people */
    const struct verb *verb;      /* that is run */
    struct mp_progress *progress; /* NULL = nobody looks */
    uint64_t host_link, host_memory, seed, threads, work_limit, mem_limit, layer_base, experts, top_k, routing_ns,
        mtp_base, pipeline_stages;
    double time_limit;
    uint64_t batch, tokens_per_rank, steps, pad, redundant, slots_per_gpu, interval_groups, gpus, nodes, hidden_layers,
        mtp_layers;
    const char *svg;
    uint64_t token_bytes, step;
    uint64_t gen_layers, gen_experts, gen_top_k, first_layer, n_requests, tokens_per_request, cluster, domains;
    uint64_t source_skew_ppm, zipf_ppm, coactivation_ppm, cross_layer_ppm, domain_share_ppm, drift_ppm, stickiness_ppm,
        threshold_ppm;
    const char *model, *out, *tables, *input_format, *format, *table, *color, *phase, *ids, *map, *requests, *ranked,
        *axes;
    const char *model_b, *out_b, *colocation, *evaluator;
    const char *strategy, *strategies, *replicate, *place, *route, *order, *stages, *set, *objective, *for_stack,
        *policy, *packing, *replica_choice, *homes;
    const char *dispatcher, *sources, *split, *score_on, *network, *timeline, *incumbent, *incumbent_route, *to,
        *preset, *against, *signatures, *travel, *condense, *condense_history, *completion;
    const char *rehome, *rehome_balance;
    uint64_t rehome_slack_ppm, rehome_candidates;
    uint64_t context, step_gain, move_budget, path_length, hint_places;
    const char *from;
    const char *sweep_redundant, *sweep_batch, *sweep_gpus, *sweep_nodes;
    const char *sweep_file, *drift_on, *measured;
    const char *fit; /* requests or steps */
    const char *robust, *weights, *robust_objective;
    const char *kinds, *blocks, *beside; /* --domains of variants */
    uint64_t variants, pool, window, group_layers, regret_ppm, overlap_ppm;
    const char *solver, *export_lp, *import_solution;
    uint64_t iterations, warmup, deadline_ms, probe_ms, chunk_scale, local, rank, n_ranks;
    const char *transport, *compute, *train, *timeline_file, *rendezvous, *hosts, *fault, *list;
};

enum opt_type { OPT_IS_FLAG, OPT_IS_WHOLE, OPT_IS_TEXT, OPT_IS_CHOICE, OPT_IS_SECONDS, OPT_IS_SIZE, OPT_IS_RATIO };

/* Where the allowed (or suggested) words of a value come from. */
enum opt_words {
    WORDS_NONE,
    WORDS_FILE,
    WORDS_STATIC,
    WORDS_RECIPES,
    WORDS_REPLICATE,
    WORDS_PLACE,
    WORDS_ROUTE,
    WORDS_ORDER,
    WORDS_HOMES,
    WORDS_DISPATCHERS,
    WORDS_REHOMES,
    WORDS_POLICIES,
    WORDS_PACKING,
    WORDS_FORMATS,
    WORDS_MATRICES,
    WORDS_STACKS,
    WORDS_TARGETS,
    WORDS_MODELS,
    WORDS_SYNTH,
    WORDS_TOPOLOGIES,
    WORDS_TOPOLOGY_FORMS,
    WORDS_VERBS,
    WORDS_LISTS,
    WORDS_TRANSPORTS
};

struct opt {
    const char *name;    /* without the dashes */
    char letter;         /* 0 = none */
    const char *metavar; /* NULL for flags */
    enum opt_type type;
    size_t offset;     /* into struct opts */
    uint64_t min, max; /* WHOLE, SIZE; RATIO in ppm */
    enum opt_words words;
    const char *choices;   /* WORDS_STATIC: "a|b|c" */
    const char *initial;   /* parsed as if given; NULL = unset */
    const char *otherwise; /* what happens without it, when `initial` does not say it */
    const char *summary;
    bool is_hidden; /* parsed, and shown by no help: for tests */
};
extern const struct opt opt_table[OPT_END];

struct verb;
enum { ARGUMENTS_MAX = 8 };
struct args {
    int n;
    const char *value[ARGUMENTS_MAX];
};

/* Sets the defaults, then reads argv[1..]. MP_EUSAGE names the option, what is wrong and what to write. --help ends
 * parsing early. */
enum mp_status opt_parse(struct opts *o, struct args *args, const struct verb *verb, int argc, char **argv,
                         struct mp_error *err) MP_MUST_CHECK;
/* Word i of a source, or NULL past the last. buf (128 bytes) is used for static lists. */
const char *opt_word(enum opt_words words, const char *choices, uint32_t i, char *buf);
/* The candidate with the smallest edit distance to `s`, when it is near enough to suggest; else NULL. */
const char *opt_nearest(const char *s, const char *(*candidate)(void *ctx, uint32_t i), void *ctx);
/* Is the option switched on for this verb? */
bool opt_of_verb(const struct verb *verb, enum opt_id id);

#endif
