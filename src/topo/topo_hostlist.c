/* Hostlists of Slurm: names with ranges in brackets, separated by commas. */
#include "topo_slurm.h"
#include <moeplan/base.h>
#include <stdio.h>
#include <string.h>

/* Where an expansion stands, for messages. */
struct list {
    const char *text;
    size_t n;
    const char *path;
    uint64_t line, column;
    struct mp_error *err;
};

static enum mp_status fail(const struct list *l, size_t at, const char *what) {
    return mp_fail_at(l->err, MP_EINPUT, l->path, l->line, l->column + at, "%s (write for instance tux[0-3,12])", what);
}

/* One range of a bracket at *at: "7", "0-3"; *at is moved behind it. */
static enum mp_status read_range(const struct list *l, size_t *at, uint64_t *low, uint64_t *high, uint32_t *width) {
    const size_t start = *at;
    uint64_t v[2] = {0, 0};
    for (uint32_t side = 0; side < 2; side++) {
        const size_t first = *at;
        while (*at < l->n && l->text[*at] >= '0' && l->text[*at] <= '9' && *at - first < 18)
            v[side] = 10 * v[side] + (uint64_t)(l->text[(*at)++] - '0');
        if (*at == first || (*at < l->n && l->text[*at] >= '0' && l->text[*at] <= '9'))
            return fail(l, first, "a number of at most 18 digits is expected here");
        *width = side == 0 ? (uint32_t)(*at - first) : *width;
        if (side == 0 && (*at >= l->n || l->text[*at] != '-')) {
            v[1] = v[0];
            break;
        }
        *at += side == 0;
    }
    *low = v[0];
    *high = v[1];
    return *high >= *low ? MP_OK : fail(l, start, "the range ends below its start");
}

/* How many names the bracket at *at (behind its "[") stands for, saturating; *at is moved behind its "]". */
static enum mp_status count_bracket(const struct list *l, size_t *at, uint64_t *n) {
    uint64_t low, high;
    uint32_t width;
    *n = 0;
    for (;;) {
        enum mp_status status = read_range(l, at, &low, &high, &width);
        if (status != MP_OK)
            return status;
        *n += high - low + 1; /* below 10^18 each, and each takes a byte of a text of at most 16 MiB */
        *n = *n > UINT32_MAX ? UINT32_MAX : *n;
        if (*at >= l->n)
            return fail(l, *at, "the bracket is not closed");
        const char c = l->text[(*at)++];
        if (c == ']')
            return MP_OK;
        if (c != ',')
            return fail(l, *at - 1, "a comma or \"]\" is expected here");
    }
}

/* Counts the names of one item (up to a comma outside brackets) at *at. */
static enum mp_status count_item(const struct list *l, size_t *at, uint64_t *n) {
    enum mp_status status;
    const size_t start = *at;
    *n = 1;
    while (*at < l->n && l->text[*at] != ',') {
        const char c = l->text[*at];
        if (c == ']')
            return fail(l, *at, "a \"]\" without \"[\"");
        ++*at;
        if (c != '[') {
            if ((unsigned char)c <= ' ' || (unsigned char)c == 0x7f)
                return fail(l, *at - 1, "a name has no blanks");
            continue;
        }
        uint64_t inside;
        status = count_bracket(l, at, &inside);
        if (status != MP_OK)
            return status;
        *n = *n * inside > UINT32_MAX ? UINT32_MAX : *n * inside;
    }
    return *at > start ? MP_OK : fail(l, start, "a name is missing here");
}

/* The k-th number of the bracket at `at`, as text; returns where the bracket ends. */
static size_t pick(const struct list *l, size_t at, uint64_t k, char *out, size_t size) {
    uint64_t low = 0, high = 0;
    uint32_t width = 0;
    bool is_found = false;
    while (l->text[at - 1] != ']') {
        (void)read_range(l, &at, &low, &high, &width); /* read before */
        if (!is_found && k <= high - low) {
            snprintf(out, size, "%0*llu", (int)width, (unsigned long long)(low + k));
            is_found = true;
        } else if (!is_found) {
            k -= high - low + 1;
        }
        at++;
    }
    return at;
}

/* The k-th name of the item [start, end): the last bracket counts fastest. */
static enum mp_status make_name(const struct list *l, size_t start, size_t end, uint64_t k, uint64_t n_names,
                                char *out) {
    size_t used = 0;
    uint64_t left = n_names;
    for (size_t at = start; at < end;) {
        char number[32] = "";
        if (l->text[at] != '[') {
            number[0] = l->text[at++];
        } else {
            uint64_t n;
            size_t close = at + 1;
            (void)count_bracket(l, &close, &n);
            left /= n;
            at = pick(l, at + 1, k / left, number, sizeof number);
            k %= left;
        }
        const size_t length = strlen(number);
        if (used + length > MP_MAX_NAME)
            return fail(l, start, "a name is longer than 128 bytes");
        memcpy(out + used, number, length);
        used += length;
    }
    out[used] = '\0';
    return mp_is_text(out, used) ? MP_OK : fail(l, start, "a name is not text");
}

enum mp_status slurm_expand(struct slurm_names *out, const char *text, size_t n, uint32_t max, struct mp_arena *arena,
                            const char *path, uint64_t line, uint64_t column, struct mp_error *err) {
    enum mp_status status;
    const struct list l = {text, n, path, line, column, err};
    uint64_t total = 0, inside;
    *out = (struct slurm_names){0};
    for (size_t at = 0;;) {
        const size_t start = at;
        MP_TRY(count_item(&l, &at, &inside));
        total += inside;
        if (total > max) {
            status = mp_fail_at(err, MP_ELIMIT, path, line, column + start,
                                "with this there are more than %u names (write fewer)", max);
            goto out;
        }
        if (at == n)
            break;
        at++; /* the comma */
    }
    out->name = mp_arena_alloc(arena, (size_t)total, sizeof *out->name);
    if (out->name == NULL)
        return mp_nomem(err, "reading a topology");
    for (size_t at = 0; at < n; at++) {
        const size_t start = at;
        MP_TRY(count_item(&l, &at, &inside));
        for (uint64_t k = 0; k < inside; k++)
            MP_TRY(make_name(&l, start, at, k, inside, out->name[out->n++]));
    }
out:
    return status;
}
