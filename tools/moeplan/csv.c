/* Every table that is printed as CSV: which list of which document, and its columns. The header of a table is the same
 * whatever the result; names end in their unit. docs/TERMINAL.md and docs/CLI.md list them. */
#include "csv.h"
#include "tool.h"
#include <stdio.h>
#include <string.h>

#define COLUMNS(name, ...) static const struct mp_record_column name[] = {__VA_ARGS__, {NULL, NULL}}
#define SAME(name)                                                                                                     \
    { name, NULL }

#define TIMES                                                                                                          \
    {"step_ns", "step_time_ns.mean"}, {"step_p50_ns", "step_time_ns.p50"}, {"step_p95_ns", "step_time_ns.p95"},        \
        {"step_max_ns", "step_time_ns.max"}, {"step_low_ns", "step_time_interval_ns.low"}, {                           \
        "step_high_ns", "step_time_interval_ns.high"                                                                   \
    }
#define FIGURES                                                                                                        \
    SAME("dispatch_ns"), SAME("compute_ns"), SAME("combine_ns"), SAME("other_ns"), SAME("moe_ns"),                     \
        {"intra_node_bytes", "bytes.intra_node"}, {"inter_node_bytes", "bytes.inter_node"},                            \
        {"copies_per_expert", "copies.per_expert"}, {"copies_per_gpu", "copies.per_gpu"},                              \
        {"copies_per_node", "copies.per_node"}, {"max_over_mean", "imbalance.max_over_mean"},                          \
        {"mean_over_max", "imbalance.mean_over_max"}, {"max_over_mean_worst", "imbalance.max_over_mean_worst"},        \
        {"sum_mean_over_sum_max", "imbalance.sum_mean_over_sum_max"}, {"excess", "imbalance.excess"},                  \
        {"flashlb", "imbalance.flashlb"}, {"min_over_max_slot", "imbalance.min_over_max_slot"},                        \
        {"totals_max_over_mean", "imbalance.totals_max_over_mean"}, SAME("utilization"), SAME("port_bound_ns"),        \
        SAME("lower_bound_ns"), SAME("gap"), {"weight_bytes_max", "memory_bytes_max"}, SAME("kv_tokens_min"),          \
        SAME("steps"), SAME("n_steps"), SAME("n_requests"), SAME("n_rows")
#define SCORED SAME("strategy"), SAME("note"), SAME("evaluated_on"), SAME("plan_seconds"), SAME("route"), TIMES
#define TRAINING                                                                                                       \
    SAME("policy"), SAME("shared"), SAME("guard"), SAME("order"), SAME("pipelined"), SAME("a2a_chunk_bytes"),          \
        SAME("reduce_chunk_bytes"), SAME("bucket_bytes"), SAME("n_steps"), SAME("step_ns"), SAME("forward_ns"),        \
        SAME("backward_ns"), SAME("reduce_ns"), SAME("blocked_ns"), SAME("a2a_ns"), SAME("a2a_alone_ns"),              \
        SAME("fair_step_ns"), SAME("lossy")

COLUMNS(inspect_facts, {"fact", "key"}, SAME("value"), SAME("unit"));
COLUMNS(convert_result, SAME("input"), SAME("output"), SAME("what"), SAME("bytes"));
COLUMNS(generate_result, SAME("output"), SAME("n_requests"), SAME("n_rows"), SAME("n_layers"), SAME("n_experts"),
        SAME("top_k"), SAME("phase"), {"load_max_over_mean", "statistics.load_max_over_mean"},
        {"step_max_over_mean", "statistics.step_max_over_mean"}, {"pair_lift", "statistics.pair_lift"},
        {"cross_layer_information", "statistics.cross_layer_information"},
        {"similar_pairs_first", "statistics.similar_pairs_first"},
        {"similar_pairs_sixth", "statistics.similar_pairs_sixth"},
        {"similar_pairs_stay", "statistics.similar_pairs_stay"},
        {"very_similar_tokens", "statistics.very_similar_tokens"},
        {"against_load_max_over_mean", "against.load_max_over_mean"},
        {"against_step_max_over_mean", "against.step_max_over_mean"}, {"against_pair_lift", "against.pair_lift"},
        {"against_cross_layer_information", "against.cross_layer_information"},
        {"against_similar_pairs_first", "against.similar_pairs_first"},
        {"against_similar_pairs_sixth", "against.similar_pairs_sixth"},
        {"against_similar_pairs_stay", "against.similar_pairs_stay"},
        {"against_very_similar_tokens", "against.very_similar_tokens"});
COLUMNS(plan_result, SAME("outcome"), SAME("note"), SAME("output"), SAME("strategy"), SAME("replicate"), SAME("place"),
        SAME("route"), SAME("order"), SAME("n_layers"), SAME("n_experts"), SAME("n_gpus"), SAME("n_slots"),
        SAME("predicted_step_ns"), SAME("n_planning_steps"), SAME("plan_seconds"), SAME("stopped_by"),
        SAME("reproducible"), {"evaluated_on", "result.evaluated_on"}, {"step_ns", "result.step_time_ns.mean"},
        {"step_p95_ns", "result.step_time_ns.p95"}, {"moe_ns", "result.moe_ns"},
        {"max_over_mean", "result.imbalance.max_over_mean"}, {"inter_node_bytes", "result.bytes.inter_node"},
        {"weight_bytes_max", "result.memory_bytes_max"}, {"kv_tokens_min", "result.kv_tokens_min"},
        {"gain_kind", "gain.kind"}, {"change", "gain.change"}, {"change_low", "gain.change_interval.low"},
        {"change_high", "gain.change_interval.high"}, {"gain_evaluated_on", "gain.evaluated_on"});
COLUMNS(plan_certificates, SAME("kind"), SAME("proof"), SAME("scope"), SAME("value_ns"), SAME("bound_ns"), SAME("gap"));
COLUMNS(plan_scenarios, {"scenario", "name"}, SAME("weight"), SAME("share"), SAME("n_steps"), SAME("step_ns"),
        SAME("plain_ns"));
COLUMNS(verify_violations, SAME("plan"), SAME("kind"), SAME("message"));
COLUMNS(verify_proofs, SAME("plan"), SAME("verdict"), SAME("claimed_ns"), SAME("best_ns"), SAME("bound_ns"),
        SAME("nodes"));
COLUMNS(simulate_result, SCORED, FIGURES, SAME("topology"), SAME("model"), SAME("phase"), SAME("dispatcher"),
        SAME("timeline"), SAME("step_time_barrier_ns"), SAME("routing_ns"), SAME("synthetic"));
COLUMNS(simulate_training, {"row", "row"}, TRAINING);
COLUMNS(rehome_rows, SAME("strategy"), SAME("balance"), SAME("balanced_as_luffy"), SAME("n_steps"), SAME("step_ns"),
        SAME("dispatch_ns"), SAME("compute_ns"), SAME("combine_ns"), SAME("other_ns"), SAME("inter_node_bytes"),
        SAME("intra_node_bytes"), SAME("attention_ns"), SAME("moved_per_layer"), SAME("training_step_ns"));
COLUMNS(compare_results, SCORED, SAME("kind"), SAME("planning_step_ns"), SAME("change"),
        {"change_low", "change_interval.low"}, {"change_high", "change_interval.high"}, SAME("moe_change"), FIGURES,
        {"rebalances", "online.n_rebalances"}, {"moved_experts", "online.moved_experts"},
        {"moved_bytes", "online.moved_bytes"}, {"move_ns", "online.move_ns"}, {"homes", "homes.method"},
        {"inter_node_copies_per_expert", "homes.inter_node_copies_per_expert"},
        {"inter_node_copies_per_node", "homes.inter_node_copies_per_node"});
COLUMNS(compare_training, {"strategy", "name"}, TRAINING);
COLUMNS(colocate_results, SAME("colocation"), SAME("outcome"), SAME("note"), SAME("timeline_ns"),
        SAME("closed_form_ns"), SAME("in_turn_ns"), SAME("port_ns"), SAME("compute_ns"), SAME("utilization"),
        SAME("layers_proven"), SAME("plan_seconds"));
COLUMNS(colocate_shares, SAME("gpus_a"), SAME("gpus_b"), SAME("first_gpu_a"), SAME("first_gpu_b"), SAME("step_a_ns"),
        SAME("step_b_ns"), SAME("utilization"), SAME("weights_bytes"));
COLUMNS(sweep_points, SAME("redundant"), SAME("batch"), SAME("topology"), {"gpus", "n_gpus"},
        {"step_ns", "step_time_ns.mean"}, {"step_low_ns", "step_time_interval_ns.low"},
        {"step_high_ns", "step_time_interval_ns.high"}, {"p95_ns", "step_time_ns.p95"}, SAME("moe_ns"),
        SAME("dispatch_ns"), SAME("compute_ns"), SAME("combine_ns"), SAME("tokens_per_step"), SAME("max_over_mean"),
        {"remote_bytes", "bytes.remote"}, {"inter_node_bytes", "bytes.inter_node"},
        {"weight_bytes_max", "memory_bytes_max"}, SAME("kv_tokens_min"), {"requests", "requests_max"}, SAME("note"));
COLUMNS(sweep_curves, SAME("of"), SAME("knee"), SAME("at"), SAME("within_noise"), SAME("verdict"));
COLUMNS(predict_rows, {"path_layers", "path_length"}, SAME("recall_top_2k"), SAME("recall_top_k"),
        SAME("calibration_error"), SAME("lists_equal"), SAME("lists_common"), {"table_bytes", "bytes"}, SAME("n_paths"),
        SAME("layer_recall"));
COLUMNS(variants_blocks, SAME("block_steps"), SAME("n_blocks"), SAME("n_steps"), SAME("static_ns"), SAME("variants_ns"),
        SAME("switching_ns"), SAME("best_variant_ns"), SAME("domain_oracle_ns"), SAME("step_oracle_ns"),
        SAME("n_switches"), SAME("moved_bytes"), SAME("share_of_gap"), SAME("worst_at_a_block"), SAME("policies_ns"));
COLUMNS(variants_variants, SAME("made_for"), SAME("n_members"), SAME("layers_changed"), SAME("experts_away"),
        SAME("plan"));
COLUMNS(variants_domains, {"domain", "name"}, SAME("n_steps"), SAME("n_requests"), SAME("variant_ns"),
        SAME("oracle_ns"), SAME("best_ns"), SAME("bound_ns"));
COLUMNS(check_layers, SAME("layer"), {"drift", "distance"}, SAME("noise"), SAME("beyond"));
COLUMNS(check_result, SAME("answer"), SAME("verdict"), SAME("threshold"), SAME("evaluated_on"), {"drift", "drift.mean"},
        {"noise", "drift.mean_noise"}, {"layers_beyond", "drift.n_beyond"}, {"old_step_ns", "old.step_time_ns.mean"},
        {"new_step_ns", "new.step_time_ns.mean"}, SAME("change"), {"change_low", "change_interval.low"},
        {"change_high", "change_interval.high"}, SAME("ceiling_ns"), SAME("ceiling_change"));
COLUMNS(migrate_moves, SAME("layer"), SAME("expert"), SAME("src"), SAME("dst"), SAME("between_nodes"), SAME("round"));
COLUMNS(migrate_links, SAME("src"), SAME("dst"), SAME("experts"));
COLUMNS(migrate_result, SAME("n_layers"), SAME("n_gpus"), SAME("n_experts"), SAME("expert_bytes"),
        {"experts_by_slot", "experts.by_slot"}, {"experts_by_gpu", "experts.by_gpu"},
        {"experts_moved", "experts.moved"}, SAME("proven"), SAME("relabelled"), {"moved_bytes", "bytes_moved"},
        {"at_once_ns", "at_once.time_ns"}, {"at_once_buffer_bytes", "at_once.buffer_bytes"},
        {"by_layer_ns", "by_layer.time_ns"}, {"by_layer_buffer_bytes", "by_layer.buffer_bytes"}, SAME("bound_ns"),
        SAME("step_gain_ns"), SAME("break_even_steps"));
COLUMNS(order_results, SAME("order"), SAME("kind"), SAME("n_stages"), SAME("has_flush"), SAME("between_nodes"),
        SAME("time_ns"), SAME("launches_ns"), SAME("bound_ns"), SAME("over_bound"), SAME("vs_single"),
        SAME("plan_seconds"), SAME("note"));
COLUMNS(export_result, SAME("outcome"), SAME("note"), SAME("stack"), SAME("export"), SAME("output"), SAME("files"),
        SAME("flags"), SAME("usage"), {"step_ns", "prediction.step_ns"}, {"own_step_ns", "prediction.own_step_ns"},
        {"planning_step_ns", "prediction.planning_step_ns"});
COLUMNS(list_rows, {"list", "key"}, SAME("name"), SAME("kind"), SAME("summary"), SAME("reference"), SAME("options"));
COLUMNS(exec_parts, SAME("step"), SAME("layer"), SAME("part"), SAME("staged"), SAME("fallen_back"), SAME("stages"),
        SAME("stage_mode"), SAME("messages"), SAME("bytes"), SAME("bound_ns"), SAME("predicted_ns"),
        {"measured_min_ns", "measured_ns.min"}, {"measured_median_ns", "measured_ns.median"},
        {"measured_p95_ns", "measured_ns.p95"}, {"measured_max_ns", "measured_ns.max"},
        {"samples", "measured_ns.samples"}, {"algorithm_bytes_per_s", "measured_ns.algorithm_bytes_per_s"},
        {"bound_over_measured", "measured_ns.bound_over_measured"},
        {"predicted_over_measured", "measured_ns.predicted_over_measured"});
COLUMNS(exec_training, SAME("policy"), {"step_min_ns", "step_ns.min"}, {"step_median_ns", "step_ns.median"},
        {"step_max_ns", "step_ns.max"}, {"step_mean_ns", "step_ns.mean"}, {"samples", "step_ns.samples"},
        SAME("predicted_ns"), SAME("predicted_over_measured"), SAME("forward_ns"), SAME("predicted_forward_ns"),
        SAME("backward_ns"), SAME("predicted_backward_ns"), SAME("gradients_ns"), SAME("predicted_gradients_ns"),
        SAME("late_ns"), SAME("a2a_chunks"), SAME("allreduce_chunks"), SAME("a2a_stay_whole"), SAME("shared"),
        SAME("guard"), SAME("order"), SAME("pipelined"), SAME("a2a_chunk_bytes"), SAME("reduce_chunk_bytes"),
        SAME("bucket_bytes"));
COLUMNS(exec_fits, SAME("kind"), SAME("what"), SAME("known"), SAME("bad"), SAME("note"), SAME("level"), SAME("type"),
        SAME("nominal_bytes_per_s"), SAME("nominal_ns"), SAME("residual"), SAME("bytes_per_s"), {"fitted_ns", "ns"},
        SAME("least_factor"), SAME("coefficients_ps"), SAME("standard_error"));
COLUMNS(exec_transports, SAME("name"), SAME("needs"), SAME("summary"));

static const struct csv_table tables[] = {
    {"inspect", "facts", "moeplan.inspect", CSV_MEMBERS, "facts", "what the file says of itself", inspect_facts},
    {"convert", "result", "moeplan.convert", CSV_ONE, "", "the file written", convert_result},
    {"generate", "result", "moeplan.generate", CSV_ONE, "", "the recording and its statistics", generate_result},
    {"plan", "result", "moeplan.plan", CSV_ONE, "", "the plan and what it gains", plan_result},
    {"plan", "certificates", "moeplan.plan", CSV_LIST, "certificates", "its bounds", plan_certificates},
    {"plan", "scenarios", "moeplan.plan", CSV_LIST, "robust.scenarios", "--robust: each recording", plan_scenarios},
    {"plan", "colocations", "moeplan.colocate", CSV_LIST, "results", "--colocate: the pairing", colocate_results},
    {"verify", "violations", "moeplan.verify", CSV_LIST, "violations", "what is wrong; none = accepted",
     verify_violations},
    {"verify", "proofs", "moeplan.verify", CSV_LIST, "proofs", "--prove: each search", verify_proofs},
    {"simulate", "result", "moeplan.simulate", CSV_ONE, "", "the score of the plan", simulate_result},
    {"simulate", "training", "moeplan.simulate", CSV_LIST, "training", "phase train: each policy", simulate_training},
    {"simulate", "rehome", "moeplan.simulate", CSV_LIST, "rehome", "--rehome: each way to move", rehome_rows},
    {"compare", "results", "moeplan.compare", CSV_LIST, "results", "each strategy and incumbent", compare_results},
    {"compare", "training", "moeplan.compare", CSV_LIST, "training", "phase train: training steps", compare_training},
    {"compare", "colocations", "moeplan.colocate", CSV_LIST, "results", "--colocate: each pairing", colocate_results},
    {"compare", "shares", "moeplan.colocate", CSV_LIST, "own_shares", "--colocate: GPUs of their own", colocate_shares},
    {"sweep", "points", "moeplan.sweep", CSV_LIST, "points", "each point", sweep_points},
    {"sweep", "curves", "moeplan.sweep", CSV_LIST, "curves", "each curve and its knee", sweep_curves},
    {"predict", "paths", "moeplan.predict", CSV_LIST, "rows", "each path length", predict_rows},
    {"predict", "sample-paths", "moeplan.predict", CSV_LIST, "sample_paths", "Lina's, as published", predict_rows},
    {"variants", "blocks", "moeplan.variants", CSV_LIST, "blocks", "each length of blocks", variants_blocks},
    {"variants", "variants", "moeplan.variants", CSV_LIST, "variants", "each plan of the library", variants_variants},
    {"variants", "domains", "moeplan.variants", CSV_LIST, "domains", "each domain", variants_domains},
    {"check", "result", "moeplan.check", CSV_ONE, "", "the answer and its figures", check_result},
    {"check", "layers", "moeplan.check", CSV_LIST, "drift.layers", "drift of every layer", check_layers},
    {"migrate", "moves", "moeplan.migrate", CSV_LIST, "moves", "each expert that moves", migrate_moves},
    {"migrate", "links", "moeplan.migrate", CSV_LIST, "links", "each link that carries some", migrate_links},
    {"migrate", "result", "moeplan.migrate", CSV_ONE, "", "counts, times and memory", migrate_result},
    {"order", "results", "moeplan.order", CSV_LIST, "results", "each order and baseline", order_results},
    {"export", "result", "moeplan.export", CSV_ONE, "", "the files written", export_result},
    {"list", "rows", "moeplan.list", CSV_LISTS, "lists", "every row of every list asked for", list_rows},
    {"moeplan-exec", "parts", "moeplan.exec", CSV_LIST, "parts", "each transfer of each layer", exec_parts},
    {"moeplan-exec", "training", "moeplan.exec", CSV_LIST, "training", "--train: each policy", exec_training},
    {"moeplan-exec", "fits", "moeplan.calibration", CSV_LIST, "fits", "--calibrate: each fit", exec_fits},
    {"moeplan-exec", "transports", "moeplan.transports", CSV_LIST, "transports", "--list", exec_transports},
};
enum { N_TABLES = sizeof tables / sizeof *tables };

const struct csv_table *csv_table_at(uint32_t i) { return i < N_TABLES ? &tables[i] : NULL; }

enum mp_status csv_check(const struct opts *o, const char *verb, struct mp_error *err) {
    char all[256] = "", shown[64];
    for (size_t i = 0; i < N_TABLES; i++) {
        if (strcmp(tables[i].verb, verb) != 0)
            continue;
        if (o->table == NULL || strcmp(tables[i].name, o->table) == 0)
            return MP_OK;
        const size_t used = strlen(all);
        snprintf(all + used, sizeof all - used, "%s%s", used > 0 ? ", " : "", tables[i].name);
    }
    if (all[0] == '\0')
        return mp_fail(err, MP_EUSAGE, "%s: has no tables to print as CSV (leave --format csv out)", verb);
    return mp_fail(err, MP_EUSAGE, "--table: unknown \"%s\" (write one of: %s)",
                   mp_quote(o->table, strlen(o->table), shown, sizeof shown), all);
}

/* The list or object at a path of keys, the document itself for "". */
static json_t *part_of(json_t *root, const char *path) {
    char key[64];
    while (root != NULL && *path != '\0') {
        const size_t n = strcspn(path, ".");
        snprintf(key, sizeof key, "%.*s", (int)n, path);
        root = json_object_get(root, key);
        path += n + (path[n] == '.');
    }
    return root;
}

/* The records of a table as one list, which the caller owns; NULL: memory ran out. */
static json_t *rows_of(const struct csv_table *t, json_t *root) {
    json_t *rows = json_array(), *part = part_of(root, t->rows), *value;
    const char *key;
    bool ok = rows != NULL;
    size_t i;
    switch (t->kind) {
    case CSV_LIST:
        ok = ok && (!json_is_array(part) || json_array_extend(rows, part) == 0);
        break;
    case CSV_ONE:
        ok = ok && (!json_is_object(part) || json_array_append(rows, part) == 0);
        break;
    case CSV_MEMBERS:
        json_object_foreach(part, key, value) {
            json_t *unit = json_object_get(json_object_get(root, "units"), key);
            ok = ok && json_array_append_new(
                           rows, json_pack("{s:s,s:O,s:O?}", "key", key, "value", value, "unit", unit)) == 0;
        }
        break;
    case CSV_LISTS:
        json_object_foreach(part, key, value) {
            json_t *row;
            json_array_foreach(value, i, row) {
                ok = ok && json_object_set_new(row, "key", json_string(key)) == 0 && json_array_append(rows, row) == 0;
            }
        }
        break;
    }
    if (ok)
        return rows;
    json_decref(rows);
    return NULL;
}

/* The first table of the verb's that the document has and the options do not exclude; NULL = none of its schema. */
static const struct csv_table *table_of(const struct opts *o, json_t *root) {
    const char *schema = json_string_value(json_object_get(root, "schema"));
    const struct csv_table *first = NULL;
    for (size_t i = 0; schema != NULL && i < N_TABLES; i++) {
        const struct csv_table *t = &tables[i];
        if (strcmp(t->verb, o->verb->name) != 0 || strcmp(t->schema, schema) != 0 ||
            (o->table != NULL && strcmp(t->name, o->table) != 0))
            continue;
        if (part_of(root, t->rows) != NULL)
            return t;
        first = first == NULL ? t : first;
    }
    return first;
}

enum mp_status csv_write(const struct opts *o, const char *json, size_t n, struct mp_out *out, struct mp_error *err) {
    struct mp_table *table = NULL;
    json_t *root = NULL, *rows = NULL;
    enum mp_status status = MP_OK;
    struct mp_limits limits = mp_limits_default;
    limits.json_bytes = n; /* it is our own */
    limits.json_heap_bytes = 0;
    MP_TRY(mp_json_parse(&root, "result", json, n, 1, &limits, err));
    const struct csv_table *t = table_of(o, root);
    if (t == NULL) { /* --table of another form of the verb: an empty answer, and why */
        tool_note(o, "--table %s: this result has no such table", o->table != NULL ? o->table : "");
        goto out;
    }
    if (part_of(root, t->rows) == NULL && json_object_get(root, "note") == NULL)
        tool_note(o, "--table %s: there is nothing of it in this result", t->name);
    rows = rows_of(t, root);
    table = rows != NULL ? mp_table_of_records(rows, t->columns) : NULL;
    if (table == NULL) {
        status = mp_nomem(err, "a table");
        goto out;
    }
    mp_table_write_csv(table, out);
    const char *verdict = json_string_value(json_object_get(root, "verdict"));
    if (verdict != NULL)
        tool_note(o, "verdict: %s", verdict);
out:
    mp_table_free(table);
    json_decref(rows);
    json_decref(root);
    return status;
}
