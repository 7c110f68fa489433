/* moeplan generate: a synthetic recording from named parameters, with its statistics and those of a real one beside. */
#include "tool.h"
#include <string.h>

static enum mp_status params_of(struct mp_synth_params *p, const struct opts *o, struct mp_error *err) {
    static const struct mp_synth_params small = {.n_layers = 4,
                                                 .n_experts = 32,
                                                 .top_k = 4,
                                                 .n_requests = 256,
                                                 .tokens_per_request_mean = 64,
                                                 .phase = MP_PHASE_DECODE,
                                                 .zipf_ppm = 600000,
                                                 .coactivation_ppm = 200000,
                                                 .cluster_size = 4,
                                                 .cross_layer_ppm = 300000,
                                                 .n_domains = 4,
                                                 .domain_ppm = 300000,
                                                 .stickiness_ppm = 200000};
    *p = small;
    if (o->preset != NULL) {
        const char *name, *summary;
        uint32_t i = 0;
        while (mp_synth_preset(i, &name, &summary, p) && strcmp(name, o->preset) != 0)
            i++;
    }
    const struct {
        enum opt_id id;
        uint64_t value;
        uint32_t *at;
    } fields[] = {
        {OPT_GEN_LAYERS, o->gen_layers, &p->n_layers}, {OPT_GEN_EXPERTS, o->gen_experts, &p->n_experts},
        {OPT_GEN_TOP_K, o->gen_top_k, &p->top_k},      {OPT_FIRST_LAYER, o->first_layer, &p->first_layer_id},
        {OPT_ZIPF, o->zipf_ppm, &p->zipf_ppm},         {OPT_COACTIVATION, o->coactivation_ppm, &p->coactivation_ppm},
        {OPT_CLUSTER, o->cluster, &p->cluster_size},   {OPT_CROSS_LAYER, o->cross_layer_ppm, &p->cross_layer_ppm},
        {OPT_DOMAINS, o->domains, &p->n_domains},      {OPT_DOMAIN_SHARE, o->domain_share_ppm, &p->domain_ppm},
        {OPT_DRIFT, o->drift_ppm, &p->drift_ppm},      {OPT_STICKINESS, o->stickiness_ppm, &p->stickiness_ppm}};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        if (o->is_set[fields[i].id])
            *fields[i].at = (uint32_t)fields[i].value;
    if (o->is_set[OPT_N_REQUESTS])
        p->n_requests = o->n_requests;
    if (o->is_set[OPT_TOKENS_PER_REQUEST])
        p->tokens_per_request_mean = o->tokens_per_request;
    if (o->phase != NULL)
        p->phase = strcmp(o->phase, "decode") == 0  ? MP_PHASE_DECODE
                   : strcmp(o->phase, "train") == 0 ? MP_PHASE_TRAIN
                                                    : MP_PHASE_PREFILL;
    p->seed = o->seed;
    if (p->top_k > p->n_experts)
        return mp_fail(err, MP_EUSAGE, "generate: --top-k %u is more than --experts %u (a token uses an expert once)",
                       p->top_k, p->n_experts);
    /* A cluster that the preset made for more experts shrinks with them; one that was asked for must fit. */
    if (p->cluster_size > p->n_experts && o->is_set[OPT_CLUSTER])
        return mp_fail(err, MP_EUSAGE, "generate: --cluster %u is more than the %u experts", p->cluster_size,
                       p->n_experts);
    if (p->cluster_size > p->n_experts)
        p->cluster_size = p->n_experts;
    return MP_OK;
}

struct figure {
    const char *key, *title;
    double generated, real;
};

/* How alike the tokens are in blocks 1 and 6, at the preset's threshold. Returns how many figures there are. */
static size_t add_similarity(struct figure *to, const struct mp_trace *t, const struct mp_trace *real,
                             const struct opts *o) {
    static const struct figure names[] = {
        {.key = "similar_pairs_first", .title = "pairs above the preset's threshold, block 1"},
        {.key = "similar_pairs_sixth", .title = "pairs above the preset's threshold, block 6"},
        {.key = "similar_pairs_stay", .title = "pairs of at least 0.8 that stay, block 1 to 2"},
        {.key = "very_similar_tokens", .title = "tokens with one of at least 0.9, mean of blocks 1 to 6"}};
    const struct mp_trace *traces[] = {t, real != NULL && real->signature_chunks != NULL ? real : NULL};
    if (t->signature_chunks == NULL)
        return 0;
    memcpy(to, names, sizeof names);
    for (uint32_t i = 0; i < 2 && traces[i] != NULL; i++) {
        const uint32_t n = traces[i]->n_layers < 6 ? traces[i]->n_layers : 6;
        double values[4] = {0};
        for (uint32_t l = 0; l < n; l++) {
            struct mp_similarity_stats s;
            mp_trace_similarity(&s, traces[i], l, mp_synth_similarity_find(o->signatures)->threshold_ppm);
            if (l == 0)
                values[2] = s.persistence;
            if (l == 0 || l + 1 == n)
                values[l == 0 ? 0 : 1] = s.pairs_above;
            values[3] += s.tokens_very_similar / n;
        }
        for (uint32_t k = 0; k < 4; k++)
            *(i == 0 ? &to[k].generated : &to[k].real) = values[k];
    }
    return 4;
}

static void write_report(const struct opts *o, const struct mp_trace *t, const struct figure *figures, size_t n,
                         struct mp_out *out) {
    bool has_real = o->against != NULL;
    if (o->json) {
        json_t *generated = json_object(), *real = json_object();
        for (size_t i = 0; i < n; i++) {
            (void)json_object_set_new(generated, figures[i].key, mp_json_finite(figures[i].generated));
            (void)json_object_set_new(real, figures[i].key, mp_json_finite(figures[i].real));
        }
        if (!has_real) {
            json_decref(real);
            real = json_null();
        }
        json_t *root =
            json_pack("{s:s,s:i,s:s,s:b,s:I,s:I,s:i,s:i,s:i,s:s,s:o,s:o}", "schema", "moeplan.generate", "version", 1,
                      "output", o->out, "synthetic", 1, "n_requests", (json_int_t)t->n_requests, "n_rows",
                      (json_int_t)t->n_rows, "n_layers", (int)t->n_layers, "n_experts", (int)t->n_experts, "top_k",
                      (int)t->top_k, "phase", mp_phase_name(t->phase), "statistics", generated, "against", real);
        mp_json_write(root, out);
        json_decref(root);
        return;
    }
    mp_out_printf(out, "%s: synthetic, %llu requests, %llu tokens, %u layers of %u experts, top-%u, %s\n\n", o->out,
                  (unsigned long long)t->n_requests, (unsigned long long)t->n_rows, t->n_layers, t->n_experts, t->top_k,
                  mp_phase_name(t->phase));
    struct mp_table *table = mp_table_new();
    if (table == NULL) {
        mp_out_fail(out, MP_ENOMEM, "out of memory: table");
        return;
    }
    mp_table_column(table, "statistic", false);
    mp_table_column(table, "generated", true);
    if (has_real)
        mp_table_column(table, "recorded", true);
    for (size_t i = 0; i < n; i++) {
        mp_table_cell(table, "%s", figures[i].title);
        mp_table_cell(table, "%.3f", figures[i].generated);
        if (has_real)
            mp_table_cell(table, "%.3f", figures[i].real);
    }
    mp_table_show(table, o->style, out);
    mp_table_free(table);
}

enum mp_status cmd_generate(const struct opts *o, const struct args *args, int *exit_code, struct mp_error *err) {
    (void)args;
    (void)exit_code;
    struct mp_synth_params params;
    struct mp_trace *trace = NULL, *real = NULL;
    struct mp_trace_stats made, recorded = {0};
    struct mp_out *file = NULL, *out = NULL;
    enum mp_status status = MP_OK;
    if (o->out == NULL)
        return mp_fail(err, MP_EUSAGE, "generate: where to? (add -o TRACE, or -o - for standard output)");
    bool to_stdout = strcmp(o->out, "-") == 0;
    if (to_stdout && o->json)
        return mp_fail(err, MP_EUSAGE,
                       "generate: %s and -o - both want standard output (write the recording to a file)",
                       tool_format_name(o));
    MP_TRY(params_of(&params, o, err));
    MP_TRY(tool_check_output(o->out, err));
    if (o->against != NULL) {
        struct opts plain = *o; /* the parameters of the recording are its own */
        plain.phase = NULL;
        MP_TRY(tool_load_trace(&real, o->against, &plain, err));
        MP_TRY(mp_trace_statistics(&recorded, real, o->seed, err));
    }
    params.progress = o->progress;
    MP_TRY(mp_synth_generate(&trace, &params, &o->limits, err));
    if (o->signatures != NULL)
        MP_TRY(mp_synth_signatures(trace, mp_synth_similarity_find(o->signatures), o->seed, &o->limits, err));
    MP_TRY(mp_out_open(&file, o->out, err));
    mp_trace_write(trace, file);
    status = mp_out_commit(file, err);
    file = NULL;
    if (status != MP_OK || to_stdout)
        goto out;
    MP_TRY(mp_trace_statistics(&made, trace, o->seed, err));
    struct figure figures[8];
    const struct figure plain[] = {
        {"load_max_over_mean", "max/mean of the experts' totals", made.load_max_over_mean, recorded.load_max_over_mean},
        {"step_max_over_mean", "max/mean of the experts per step of 128 tokens", made.step_max_over_mean,
         recorded.step_max_over_mean},
        {"pair_lift", "lift of co-activated pairs", made.pair_lift, recorded.pair_lift},
        {"cross_layer_information", "information between neighbouring layers, bits", made.cross_layer_information,
         recorded.cross_layer_information}};
    MP_TRY(tool_open_result(&out, o, err));
    const size_t n_plain = sizeof plain / sizeof *plain;
    memcpy(figures, plain, sizeof plain);
    write_report(o, trace, figures, n_plain + add_similarity(figures + n_plain, trace, real, o), out);
    status = tool_close_result(out, o, err);
out:
    mp_out_cancel(file);
    mp_trace_free(trace);
    mp_trace_free(real);
    return status;
}
