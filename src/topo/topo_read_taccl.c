/* TACCL's topology files: one node by its links (alpha in us, beta in us per MB of 2^20 bytes), and its NICs.
 *
 * Decides   NVLink level(s) of the node, and for several nodes the NICs.
 * Method    node_betas_list of one: a switch, its port one link. A matrix (betas; or NDv2, whose pairs TACCL itself
 *           knows): a mesh, port = the sum of a GPU's links, pair = the slowest. When not all pairs are linked, runs of
 *           GPUs that are form groups, and the links between groups are the ports of a second level.
 * Differs   *_invbw(s) (what one chunk takes, alpha included) follow from alpha and beta and are not used. Files for
 *           chunks other than 1 MB are refused: their times have a unit the file does not name. */
#include "topo_draft.h"
#include <math.h>
#include <moeplan/json.h>
#include <stdio.h>
#include <string.h>

enum { MAX_NODE = 64 };
#define MIN_BETA 0.1 /* us/MB: ten TB/s */

struct node {
    const struct topo_source *in;
    struct topo_draft *d;
    const json_t *root;
    uint32_t n;
    double alpha_us;
    double beta[MAX_NODE][MAX_NODE]; /* us/MB; 0 = no link */
    uint32_t group[MAX_NODE], n_groups;
};

static bool detect(const char *text, size_t size) {
    size_t i = 0;
    while (i < size && (text[i] == ' ' || text[i] == '\t' || text[i] == '\r' || text[i] == '\n'))
        i++;
    return i < size && text[i] == '{' && memmem(text, size, "\"gpus_per_node\"", 15) != NULL &&
           memmem(text, size, "betas", 5) != NULL;
}

static enum mp_status fail(const struct node *x, const char *where, struct mp_error *err, const char *fmt, ...)
    MP_PRINTF(4, 5);
static enum mp_status fail(const struct node *x, const char *where, struct mp_error *err, const char *fmt, ...) {
    char text[500];
    uint64_t line = 1, at = 1;
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (!mp_json_position(x->in->text, x->in->size, where, &line, &at))
        line = at = 1;
    return mp_fail_at(err, MP_EINPUT, x->in->path, line, at, "%s: %s", where, text);
}

static enum mp_status number(const struct node *x, const json_t *v, const char *where, double min, double max,
                             double *out, struct mp_error *err) {
    if (!json_is_number(v))
        return fail(x, where, err, v == NULL ? "is missing (write a number)" : "is not a number (write one)");
    *out = json_number_value(v);
    return *out >= min && *out <= max
               ? MP_OK
               : fail(x, where, err, "%g is outside [%g, %g] (write microseconds, and microseconds per MB)", *out, min,
                      max);
}

static uint64_t rate(double beta) { return (uint64_t)llround(1048576e6 / beta); }

/* The time unit of the files for 1 KB and 32 KB chunks is not theirs to know. */
static enum mp_status check_name(const struct node *x, struct mp_error *err) {
    const char *name = json_string_value(json_object_get(x->root, "name"));
    const char *size = name != NULL ? strrchr(name, '_') : NULL;
    size_t digits = size != NULL ? strspn(size + 1, "0123456789") : 0;
    if (digits == 0 || (strcmp(size + 1 + digits, "B") != 0 && strcmp(size + 1 + digits, "KB") != 0 &&
                        strcmp(size + 1 + digits, "MB") != 0 && strcmp(size + 1 + digits, "GB") != 0))
        return MP_OK;
    if (strcmp(size + 1, "1MB") == 0)
        return MP_OK;
    return fail(x, "name", err,
                "\"%.40s\" is for chunks of %.20s: alpha and beta are of such a chunk, in a unit of time that the file "
                "does not name (give the file for 1MB, whose figures are us and us per MB)",
                name, size + 1);
}

static enum mp_status read_list(struct node *x, struct mp_error *err) {
    enum mp_status status;
    /* Pairs with two NVLinks of the eight GPUs of NDv2 (a cube mesh); those with one are the rest of links. */
    static const uint8_t twice[8] = {0x12, 0x09, 0x48, 0x06, 0x21, 0x90, 0x84, 0x60},
                         once[8] = {0x0c, 0x24, 0x03, 0x81, 0xc0, 0x42, 0x30, 0x18};
    const json_t *list = json_object_get(x->root, "node_betas_list");
    const char *name = json_string_value(json_object_get(x->root, "name"));
    double beta[2] = {0, 0};
    if (!json_is_array(list) || json_array_size(list) < 1 || json_array_size(list) > 2)
        return fail(x, "node_betas_list", err,
                    "is not a list of one or two numbers (write us per MB of each kind of link)");
    MP_TRY(number(x, json_array_get(list, 0), "node_betas_list/0", MIN_BETA, 1e9, &beta[0], err));
    if (json_array_size(list) == 1) {
        x->d->n_levels = 1;
        topo_draft_port(x->d, 0, rate(beta[0]));
        topo_draft_say(x->d, "One kind of link in the node: a switch, %.6g GB/s a GPU.", (double)rate(beta[0]) / 1e9);
        return MP_OK;
    }
    MP_TRY(number(x, json_array_get(list, 1), "node_betas_list/1", MIN_BETA, 1e9, &beta[1], err));
    if (name == NULL || strncmp(name, "NDv2", 4) != 0 || x->n != 8) {
        status =
            fail(x, "node_betas_list", err,
                 "two kinds of links, and which pairs have which is only known of NDv2 with 8 GPUs (write links and "
                 "betas as matrices)");
        goto out;
    }
    for (uint32_t a = 0; a < 8; a++)
        for (uint32_t b = 0; b < 8; b++)
            x->beta[a][b] = (twice[a] >> b & 1) != 0 ? beta[0] : (once[a] >> b & 1) != 0 ? beta[1] : 0;
    topo_draft_say(x->d, "NDv2: the pairs of each kind of link are those of TACCL's own table of this machine.");
out:
    return status;
}

static enum mp_status read_matrix(struct node *x, struct mp_error *err) {
    enum mp_status status = MP_OK;
    const json_t *betas = json_object_get(x->root, "betas"), *links = json_object_get(x->root, "links");
    char where[64];
    for (uint32_t a = 0; a < x->n; a++) {
        const json_t *row = json_array_get(betas, a), *link_row = json_array_get(links, a);
        const char *what = !json_is_array(row) || json_array_size(row) != x->n             ? "betas"
                           : !json_is_array(link_row) || json_array_size(link_row) != x->n ? "links"
                                                                                           : NULL;
        if (what != NULL || json_array_size(betas) != x->n || json_array_size(links) != x->n) {
            status = fail(x, what != NULL ? what : "betas", err,
                          "is not a matrix of gpus_per_node rows and columns (write %u rows of %u)", x->n, x->n);
            goto out;
        }
        for (uint32_t b = 0; b < x->n; b++) {
            double link, beta;
            snprintf(where, sizeof where, "links/%u/%u", a, b);
            MP_TRY(number(x, json_array_get(link_row, b), where, 0, 1, &link, err));
            snprintf(where, sizeof where, "betas/%u/%u", a, b);
            MP_TRY(number(x, json_array_get(row, b), where, 0, 1e9, &beta, err));
            if (link > 0 && (a == b || beta < MIN_BETA)) {
                status = fail(x, where, err,
                              a == b ? "a GPU is linked to itself (write 0 in links)"
                                     : "%g is not the beta of a link (write us per MB)",
                              beta);
                goto out;
            }
            x->beta[a][b] = link > 0 ? beta : 0;
            if (b < a && x->beta[a][b] != x->beta[b][a]) {
                status = fail(x, where, err, "%g here and %g the other way: a level has one rate (write the same)",
                              x->beta[a][b], x->beta[b][a]);
                goto out;
            }
        }
    }
out:
    return status;
}

/* Runs of GPUs of which every pair is linked; then ports and pairs. */
static enum mp_status set_mesh(struct node *x, struct mp_error *err) {
    struct topo_draft *d = x->d;
    double slowest = 0;
    uint32_t n_faster = 0, n_two_steps = 0;
    for (uint32_t g = 0, first = 0; g < x->n; g++) {
        for (uint32_t k = first; k < g; k++)
            if (x->beta[k][g] == 0)
                first = g;
        x->n_groups += first == g;
        x->group[g] = x->n_groups - 1;
    }
    d->n_levels = x->n_groups > 1 ? 2 : 1;
    d->levels[1] = (struct topo_draft_level){.name = "between", .latency_ns = d->levels[0].latency_ns};
    for (uint32_t a = 0; a < x->n; a++) {
        double inside = 0, outside = 0;
        for (uint32_t b = 0; b < x->n; b++) {
            const double beta = x->beta[a][b];
            const bool is_inside = x->group[a] == x->group[b];
            slowest = is_inside && beta > slowest ? beta : slowest;
            inside += is_inside && beta > 0 ? 1 / beta : 0;
            outside += !is_inside && beta > 0 ? 1 / beta : 0;
            n_two_steps += b < a && !is_inside && beta == 0;
        }
        if (x->n_groups > 1 && (inside == 0 || outside == 0))
            return fail(
                x, "links", err,
                "GPU %u has no link %s its group of linked GPUs, so that all it sends passes other GPUs (moeplan "
                "has no such level)",
                a, inside == 0 ? "inside" : "out of");
        d->gpus[a].group[0] = x->group[a];
        d->gpus[a].out[0] = d->gpus[a].in[0] = inside > 0 ? rate(1 / inside) : d->ports.scale_up_bytes_per_s;
        if (x->n_groups > 1)
            d->gpus[a].out[1] = d->gpus[a].in[1] = rate(1 / outside);
    }
    for (uint32_t a = 0; a < x->n; a++)
        for (uint32_t b = 0; b < a; b++)
            n_faster += x->group[a] == x->group[b] && x->beta[a][b] < slowest;
    if (slowest > 0 && x->n > 2)
        d->levels[0].pair_bytes_per_s = rate(slowest);
    topo_draft_say(
        d,
        "A mesh: a GPU's port is the sum of its links, a pair gets the slowest link, %.6g GB/s (%u pairs have "
        "a faster one).",
        slowest > 0 ? (double)rate(slowest) / 1e9 : 0, n_faster);
    if (x->n_groups > 1)
        topo_draft_say(
            d,
            "%u groups of GPUs that are linked pair by pair; between them a GPU's port is its own links out of "
            "the group, and %u pairs have none: what they send is forwarded, which is not counted.",
            x->n_groups, n_two_steps);
    return MP_OK;
}

static enum mp_status set_nics(struct node *x, struct mp_error *err) {
    enum mp_status status;
    struct topo_draft *d = x->d;
    double alpha, beta, n_nics;
    if (json_object_get(x->root, "nics_per_node") == NULL)
        return fail(x, "nics_per_node", err,
                    "is missing: what joins the nodes is not in the file (name the file without a "
                    "number of hosts)");
    MP_TRY(number(x, json_object_get(x->root, "nics_per_node"), "nics_per_node", 1, MAX_NODE, &n_nics, err));
    MP_TRY(number(x, json_object_get(x->root, "remote_alpha"), "remote_alpha", 0, 1e6, &alpha, err));
    MP_TRY(number(x, json_object_get(x->root, "remote_beta"), "remote_beta", MIN_BETA, 1e9, &beta, err));
    const uint32_t nics = (uint32_t)n_nics;
    if ((double)nics != n_nics || (x->n % nics != 0 && nics % x->n != 0)) {
        status = fail(x, "nics_per_node", err,
                      "%g NICs do not divide evenly among %u GPUs (write a divisor, or a multiple)", n_nics, x->n);
        goto out;
    }
    (void)topo_draft_network(d); /* there are at most two levels below */
    const uint32_t level = d->n_levels - 1;
    d->levels[level].latency_ns = (uint64_t)llround(alpha * 1e3);
    for (uint32_t g = 0; g < x->n; g++) {
        const uint32_t sharers = nics < x->n ? x->n / nics : 1;
        d->gpus[g].out[level] = d->gpus[g].in[level] = rate(beta) * (nics < x->n ? 1 : nics / x->n);
        d->gpus[g].shared[level] = sharers > 1 ? g / sharers + 1 : 0;
    }
    MP_TRY(topo_draft_share(d, err));
    topo_draft_say(d, "%u NICs of %.6g GB/s for %u GPUs.", nics, (double)rate(beta) / 1e9, x->n);
out:
    return status;
}

static enum mp_status read_taccl(const struct topo_source *in, struct mp_out *yaml, struct mp_error *err) {
    enum mp_status status;
    json_t *root = NULL;
    double n_gpus;
    struct node *x = mp_calloc(1, sizeof *x);
    if (x == NULL)
        return mp_nomem(err, "reading a topology");
    x->in = in;
    MP_TRY(topo_draft_new(&x->d, in, "which GPUs these are", err));
    MP_TRY(mp_json_parse(&root, in->path, in->text, in->size, 1, NULL, err));
    x->root = root;
    MP_TRY(check_name(x, err));
    MP_TRY(number(x, json_object_get(root, "gpus_per_node"), "gpus_per_node", 1, MAX_NODE, &n_gpus, err));
    x->n = (uint32_t)n_gpus;
    if ((double)x->n != n_gpus) {
        status = fail(x, "gpus_per_node", err, "%g is not a whole number (write how many)", n_gpus);
        goto out;
    }
    MP_TRY(number(x, json_object_get(root, "alpha"), "alpha", 0, 1e6, &x->alpha_us, err));
    MP_TRY(topo_draft_gpus(x->d, x->n, 1, err));
    x->d->levels[0] =
        (struct topo_draft_level){.name = x->d->ports.level, .latency_ns = (uint64_t)llround(x->alpha_us * 1e3)};
    topo_draft_say(x->d, "Read from a TACCL topology: alpha in us, beta in us per MB of 2^20 bytes.");
    const bool is_matrix = json_object_get(root, "betas") != NULL;
    MP_TRY(is_matrix ? read_matrix(x, err) : read_list(x, err));
    if (x->d->n_levels == 0)
        MP_TRY(set_mesh(x, err));
    if (in->n_hosts > 1)
        MP_TRY(set_nics(x, err));
    else
        topo_draft_say(x->d, "One node: the NICs are not used.");
    topo_draft_write(x->d, yaml);
out:
    json_decref(root);
    topo_draft_free(x->d);
    mp_free(x);
    return status;
}

const struct topo_reader topo_reader_taccl = {
    .name = "taccl",
    .summary = "a node of TACCL (JSON): alpha, beta, links, NICs (needs :GPU)",
    .reference = "microsoft/taccl, taccl/examples/topo, taccl/topologies/generic.py",
    .detect = detect,
    .read = read_taccl,
};
