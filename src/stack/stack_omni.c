/* omni-infer's placement pattern: a .npy of 0 and 1, [devices][MoE layers][experts], <i4 or <i8. Slots inside a device
 * stand by ascending expert, so slot order is lost and one replica of an expert per device is all it can say. Layers
 * may use different numbers of slots. */
#include "stack_shared.h"

#include <moeplan/base.h>

static int probe(const char *path, const struct mp_in *in) {
    (void)path;
    return in->size >= 6 && memcmp(in->data, "\x93NUMPY", 6) == 0 ? 60 : 0;
}

/* What a header says, and where the cells start. */
struct npy {
    uint64_t shape[3];
    uint32_t item; /* 4 or 8 bytes, little-endian signed */
    size_t data;
};

static void skip_blanks(const char **p, const char *end) {
    while (*p < end && (**p == ' ' || **p == '\n' || **p == '\t'))
        (*p)++;
}
static bool take(const char **p, const char *end, const char *word) {
    size_t n = strlen(word);
    skip_blanks(p, end);
    if ((size_t)(end - *p) < n || memcmp(*p, word, n) != 0)
        return false;
    *p += n;
    return true;
}

/* The three keys of the header in any order, each once. Returns what is wrong, or NULL. */
static const char *parse_header(struct npy *h, const char *p, const char *end) {
    unsigned seen = 0;
    if (!take(&p, end, "{"))
        return "the header is not a Python dictionary";
    while (!take(&p, end, "}")) {
        unsigned key = take(&p, end, "'descr'")           ? 1
                       : take(&p, end, "'fortran_order'") ? 2
                       : take(&p, end, "'shape'")         ? 4
                                                          : 0;
        if (key == 0 || (seen & key) != 0 || !take(&p, end, ":"))
            return "the header does not hold descr, fortran_order and shape, each once";
        seen |= key;
        if (key == 1) {
            h->item = take(&p, end, "'<i4'") ? 4 : take(&p, end, "'<i8'") ? 8 : 0;
            if (h->item == 0)
                return "descr is not '<i4' or '<i8' (save the pattern as int32 or int64)";
        } else if (key == 2) {
            if (!take(&p, end, "False"))
                return "fortran_order is not False (save the array in C order)";
        } else {
            if (!take(&p, end, "("))
                return "shape is not a tuple";
            for (int i = 0; i < 3; i++) {
                skip_blanks(&p, end);
                size_t n = 0;
                while (p + n < end && p[n] >= '0' && p[n] <= '9')
                    n++;
                if (!mp_parse_u64(p, n, &h->shape[i]) || (p += n, !take(&p, end, i < 2 ? "," : "")))
                    return "shape is not [devices, MoE layers, experts]";
            }
            (void)take(&p, end, ",");
            if (!take(&p, end, ")"))
                return "shape is not [devices, MoE layers, experts]";
        }
        (void)take(&p, end, ",");
    }
    skip_blanks(&p, end);
    return seen != 7  ? "the header does not hold descr, fortran_order and shape"
           : p != end ? "the header has text after its dictionary"
                      : NULL;
}

static enum mp_status read_header(struct npy *h, const struct mp_in *in, const struct mp_limits *limits,
                                  struct mp_error *err) {
    if (in->size < 12 || memcmp(in->data, "\x93NUMPY", 6) != 0)
        return mp_fail_at(err, MP_EINPUT, in->path, 0, 1, "is not a .npy file (%zu bytes)", in->size);
    if (in->data[6] < 1 || in->data[6] > 3)
        return mp_fail_at(err, MP_EINPUT, in->path, 0, 7, "version %u of .npy is not known (1 to 3 are)", in->data[6]);
    bool is_long = in->data[6] > 1;
    size_t first = is_long ? 12 : 10;
    size_t n = (size_t)in->data[8] | (size_t)in->data[9] << 8;
    if (is_long)
        n |= (size_t)in->data[10] << 16 | (size_t)in->data[11] << 24;
    if (n > limits->npy_header_bytes)
        return mp_fail_at(err, MP_ELIMIT, in->path, 0, 9, "the header is %zu bytes, more than the limit of %zu", n,
                          limits->npy_header_bytes);
    if (n > in->size - first)
        return mp_fail_at(err, MP_EINPUT, in->path, 0, 9, "the header says %zu bytes, but %zu follow", n,
                          in->size - first);
    const char *wrong = parse_header(h, (const char *)in->data + first, (const char *)in->data + first + n);
    if (wrong != NULL)
        return mp_fail_at(err, MP_EINPUT, in->path, 0, first + 1, "%s", wrong);
    h->data = first + n;
    if (h->shape[0] == 0 || h->shape[0] > MP_MAX_GPUS || h->shape[1] == 0 || h->shape[1] > MP_MAX_LAYERS ||
        h->shape[2] == 0 || h->shape[2] > MP_MAX_EXPERTS)
        return mp_fail_at(err, MP_ELIMIT, in->path, 0, first + 1,
                          "shape (%llu, %llu, %llu) is not [1..%u devices, 1..%u layers, 1..%u experts]",
                          (unsigned long long)h->shape[0], (unsigned long long)h->shape[1],
                          (unsigned long long)h->shape[2], MP_MAX_GPUS, MP_MAX_LAYERS, MP_MAX_EXPERTS);
    uint64_t want = h->shape[0] * h->shape[1] * h->shape[2] * h->item;
    if (in->size - h->data != want)
        return mp_fail_at(err, MP_EINPUT, in->path, 0, h->data + 1,
                          "%zu bytes of cells follow the header, its shape needs %llu", in->size - h->data,
                          (unsigned long long)want);
    return MP_OK;
}

/* The cell, or 2 when it is neither 0 nor 1. */
static unsigned cell(const struct npy *h, const struct mp_in *in, uint64_t index) {
    const uint8_t *p = in->data + h->data + index * h->item;
    unsigned rest = 0;
    for (uint32_t b = 1; b < h->item; b++)
        rest |= p[b];
    return rest != 0 || p[0] > 1 ? 2 : p[0];
}

static enum mp_status count_slots(const struct npy *h, const struct mp_in *in, uint32_t *slots, struct mp_error *err) {
    for (uint64_t d = 0, i = 0; d < h->shape[0]; d++)
        for (uint64_t l = 0; l < h->shape[1]; l++) {
            uint32_t n = 0;
            for (uint64_t e = 0; e < h->shape[2]; e++, i++) {
                unsigned c = cell(h, in, i);
                if (c > 1)
                    return mp_fail_at(err, MP_EINPUT, in->path, 0, h->data + i * h->item + 1,
                                      "device %llu, layer %llu, expert %llu: the cell is not 0 or 1",
                                      (unsigned long long)d, (unsigned long long)l, (unsigned long long)e);
                n += c;
            }
            slots[d] = n > slots[d] ? n : slots[d];
        }
    return MP_OK;
}

static enum mp_status read(struct mp_plan **out, const struct mp_in *in, const struct mp_stack_options *o,
                           const struct mp_limits *limits, struct mp_error *err) {
    struct npy h = {0};
    struct mp_placement p = {0};
    uint32_t *slots = NULL;
    uint64_t n_slots = 0;
    *out = NULL;
    enum mp_status status;
    MP_TRY(read_header(&h, in, limits, err));
    slots = mp_calloc(h.shape[0], sizeof *slots);
    if (slots == NULL) {
        status = mp_nomem(err, "pattern");
        goto out;
    }
    MP_TRY(count_slots(&h, in, slots, err));
    for (uint64_t d = 0; d < h.shape[0]; d++)
        n_slots += slots[d];
    MP_TRY(mp_placement_new(&p, in->path, h.shape[1], n_slots, err));
    p.slots_per_gpu = slots;
    slots = NULL;
    p.n_gpus = (uint32_t)h.shape[0];
    p.n_experts = (uint32_t)h.shape[2];
    MP_TRY(mp_placement_moe_layers(&p, o, err));
    uint32_t first = 0;
    for (uint32_t d = 0; d < p.n_gpus; first += p.slots_per_gpu[d++])
        for (uint32_t l = 0; l < p.n_layers; l++) {
            uint16_t *to = p.slot_expert + (size_t)l * p.n_slots + first;
            uint64_t at = ((uint64_t)d * h.shape[1] + l) * h.shape[2];
            for (uint32_t e = 0; e < p.n_experts; e++)
                if (cell(&h, in, at + e) == 1)
                    *to++ = (uint16_t)e;
        }
    MP_TRY(mp_placement_plan(out, &p, o, "omni", err));
out:
    mp_placement_free(&p);
    mp_free(slots);
    return status;
}

static enum mp_status check(const struct mp_plan *p, const struct mp_stack_options *o, enum mp_outcome *outcome,
                            struct mp_error *err) {
    static const struct mp_stack_rules rules = {.stack = "omni", .allows_empty = true, .needs_distinct = true};
    enum mp_status status = mp_stack_check_rules(p, o, &rules, outcome, err);
    for (uint32_t l = 0; l < p->n_layers && status == MP_OK && *outcome == MP_FOUND; l++) {
        uint32_t on_first = 0;
        for (uint32_t g = 0; g < p->n_gpus && *outcome == MP_FOUND; g++) {
            uint32_t n = 0;
            for (uint32_t s = p->gpu_first_slot[g]; s < p->gpu_first_slot[g + 1]; s++)
                n += p->layers[l].slot_expert[s] != MP_NO_EXPERT;
            on_first = g == 0 ? n : on_first;
            if (n != on_first)
                status = mp_stack_refuse(outcome, err,
                                         "layer %u uses %u slots of GPU %u and %u of GPU 0, but omni needs the same "
                                         "number of experts on every "
                                         "GPU of a layer (plan again with --redundant %u, which fills all slots)",
                                         p->layers[l].layer_id, n, g, on_first, p->n_slots - p->n_experts);
        }
    }
    return status;
}

static void write(const struct mp_plan *p, const struct mp_stack_options *o, struct mp_out *out) {
    char header[160];
    (void)o;
    int n = snprintf(header, sizeof header, "{'descr': '<i4', 'fortran_order': False, 'shape': (%u, %u, %u), }",
                     p->n_gpus, p->n_layers, p->n_experts);
    /* Padded with blanks so that the cells start at a multiple of 64. */
    size_t total = (10 + (size_t)n + 1 + 63) / 64 * 64;
    uint8_t start[10] = {
        0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, (uint8_t)((total - 10) & 0xFF), (uint8_t)((total - 10) >> 8)};
    mp_out_write(out, start, sizeof start);
    mp_out_printf(out, "%s%*s\n", header, (int)(total - 10 - (size_t)n - 1), "");
    uint8_t *row = mp_calloc(p->n_experts, 4);
    if (row == NULL) {
        mp_out_fail(out, MP_ENOMEM, "out of memory while writing the pattern");
        return;
    }
    for (uint32_t g = 0; g < p->n_gpus; g++)
        for (uint32_t l = 0; l < p->n_layers; l++) {
            memset(row, 0, (size_t)p->n_experts * 4);
            for (uint32_t s = p->gpu_first_slot[g]; s < p->gpu_first_slot[g + 1]; s++)
                if (p->layers[l].slot_expert[s] != MP_NO_EXPERT)
                    row[(size_t)p->layers[l].slot_expert[s] * 4] = 1;
            mp_out_write(out, row, (size_t)p->n_experts * 4);
        }
    mp_free(row);
}

/* Most slots of one expert in any layer. */
static uint32_t max_copies(const struct mp_plan *p) {
    uint32_t most = 0;
    for (uint32_t l = 0; l < p->n_layers; l++) {
        uint32_t copies[MP_MAX_EXPERTS] = {0};
        for (uint32_t s = 0; s < p->n_slots; s++)
            if (p->layers[l].slot_expert[s] < MP_MAX_EXPERTS && ++copies[p->layers[l].slot_expert[s]] > most)
                most = copies[p->layers[l].slot_expert[s]];
    }
    return most;
}

extern const struct mp_stack mp_stack_omni;
static void flags(const struct mp_plan *p, const struct mp_stack_options *o, const char *path, struct mp_out *out) {
    uint32_t per_gpu = p->n_slots / p->n_gpus, base = p->n_experts / p->n_gpus;
    mp_out_printf(out,
                  "pattern_path: %s\nmax_moe_layer_num: %u\nenable_dynamic: False\nmax_redundant_per_expert: "
                  "%u\nmax_redundant_per_rank: %u\n",
                  path, p->n_layers, max_copies(p), per_gpu > base ? per_gpu - base : 0);
    mp_out_puts(out, "# these lines go into omni-infer's placement config (YAML)\n");
    mp_out_printf(out, "# world size %u, %u MoE layers and %u experts must match the server exactly\n", p->n_gpus,
                  p->n_layers, p->n_experts);
    mp_out_puts(out, "# the order of slots inside a GPU is lost: the server sorts them by expert id\n");
    if (mp_stack_has_mtp(o->model))
        mp_out_printf(out, "# the MTP layers of %s are not in the pattern\n", o->model->name);
    mp_stack_write_route(out, p, &mp_stack_omni, "omni-infer has its own replica choice");
    mp_stack_write_warnings(out, p, NULL);
}

static const struct mp_stack_choice choices[] = {{.name = "own",
                                                  .summary = "its own choice, which differs by version and option",
                                                  .stands = "rule even: a hash of the token",
                                                  .route = MP_ROUTE_EVEN},
                                                 {0}};

const struct mp_stack mp_stack_omni = {
    .name = "omni",
    .summary = "0/1 pattern [devices, MoE layers, experts] (pattern_path)",
    .extension = ".npy",
    .reference = "omni-infer omni_planner/expert_mapping.py",
    .needs_equal_slots = true,
    .needs_distinct = true,
    .routes = 1u << MP_ROUTE_EVEN,
    .choices = choices,
    STACK_FUNCTIONS,
};
