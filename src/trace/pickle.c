/* A restricted pickle machine (protocol 2): a stack, marks, a memo, and values that are only data. */
#include "pickle.h"

#include <moeplan/base.h>
#include <stdio.h>
#include <string.h>

enum { MAX_MARKS = 256, MAX_DICT = 64, MAX_STACK = 1 << 20 };

enum { GLOBAL_REBUILD = 1, GLOBAL_ORDERED_DICT, GLOBAL_STORAGE };
/* Every global that is known; storage types follow the first two. */
static const struct {
    const char *module, *name;
    uint8_t item;
} globals[] = {
    {NULL, NULL, 0},
    {"torch._utils", "_rebuild_tensor_v2", 0},
    {"collections", "OrderedDict", 0},
    {"torch", "IntStorage", 4},
    {"torch", "LongStorage", 8},
    {"torch", "ShortStorage", 2},
    {"torch", "CharStorage", 1},
    {"torch", "ByteStorage", 1},
    {"torch", "BoolStorage", 1},
    {"torch", "FloatStorage", 4},
    {"torch", "DoubleStorage", 8},
    {"torch", "HalfStorage", 2},
    {"torch", "BFloat16Storage", 2},
};

struct mp_pickle {
    const char *path;
    const uint8_t *data;
    size_t n, at, op_at; /* at: next byte; op_at: the opcode that runs */
    uint64_t position;
    size_t heap_used, heap_limit;
    struct mp_arena *arena;
    struct mp_pickle_items *all;
    struct mp_pickle_value *stack, *memo;
    uint32_t n_stack, stack_room, n_memo, memo_room, n_marks;
    uint32_t marks[MAX_MARKS];
    struct mp_pickle_value root;
};

static enum mp_status bad(const struct mp_pickle *p, struct mp_error *err, const char *fmt, ...) MP_PRINTF(3, 4);
static enum mp_status bad(const struct mp_pickle *p, struct mp_error *err, const char *fmt, ...) {
    char message[512];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(message, sizeof message, fmt, args);
    va_end(args);
    return mp_fail_at(err, MP_EINPUT, p->path, 0, p->position + p->op_at + 1, "pickle: %s", message);
}

static enum mp_status too_large(const struct mp_pickle *p, struct mp_error *err, size_t limit, const char *of_what) {
    return mp_fail_at(err, MP_ELIMIT, p->path, 0, p->position + p->op_at + 1,
                      "pickle: has more than %zu %s (record for a shorter time)", limit, of_what);
}

static enum mp_status charge(struct mp_pickle *p, size_t bytes, struct mp_error *err) {
    if (bytes > p->heap_limit - p->heap_used)
        return too_large(p, err, p->heap_limit, "bytes of values");
    p->heap_used += bytes;
    return MP_OK;
}

/* Room for `need` values in *table. */
static enum mp_status reserve(struct mp_pickle *p, struct mp_pickle_value **table, uint32_t *room, uint64_t need,
                              struct mp_error *err) {
    if (need <= *room)
        return MP_OK;
    /* Lists of a recording grow by batches of 1,000 and there are many: little slack once they are large. */
    uint64_t more = *room == 0 ? 4 : *room < 256 ? (uint64_t)*room * 2 : *room + (uint64_t)*room / 8;
    if (more < need)
        more = need;
    if (more > UINT32_MAX)
        return too_large(p, err, UINT32_MAX, "values in one place");
    enum mp_status status = charge(p, (size_t)(more - *room) * sizeof **table, err);
    if (status != MP_OK)
        return status;
    struct mp_pickle_value *grown = mp_realloc(*table, (size_t)more, sizeof **table);
    if (grown == NULL)
        return mp_nomem(err, "pickle");
    *table = grown;
    *room = (uint32_t)more;
    return MP_OK;
}

static void *allocate(struct mp_pickle *p, size_t size, struct mp_error *err) {
    if (charge(p, size + 16, err) != MP_OK)
        return NULL;
    void *made = mp_arena_alloc(p->arena, 1, size);
    if (made == NULL)
        (void)mp_nomem(err, "pickle");
    return made;
}

static enum mp_status push(struct mp_pickle *p, struct mp_pickle_value v, struct mp_error *err) {
    if (p->n_stack >= MAX_STACK)
        return too_large(p, err, MAX_STACK, "values on its stack");
    enum mp_status status = reserve(p, &p->stack, &p->stack_room, (uint64_t)p->n_stack + 1, err);
    if (status == MP_OK)
        p->stack[p->n_stack++] = v;
    return status;
}

/* Where the top mark's values start; values under it belong to what is being built below. */
static uint32_t floor_of(const struct mp_pickle *p) { return p->n_marks > 0 ? p->marks[p->n_marks - 1] : 0; }

static enum mp_status need(const struct mp_pickle *p, uint32_t n, struct mp_error *err) {
    return p->n_stack - floor_of(p) >= n ? MP_OK
                                         : bad(p, err, "opcode 0x%02x needs %u values, %u are there", p->data[p->op_at],
                                               n, p->n_stack - floor_of(p));
}

static enum mp_status bytes(struct mp_pickle *p, size_t n, const uint8_t **out, struct mp_error *err) {
    if (n > p->n - p->at)
        return bad(p, err, "ends inside an opcode (is the file complete?)");
    *out = p->data + p->at;
    p->at += n;
    return MP_OK;
}

static uint64_t little(const uint8_t *b, size_t n) {
    uint64_t v = 0;
    for (size_t i = 0; i < n; i++)
        v |= (uint64_t)b[i] << (8 * i);
    return v;
}

static enum mp_status new_items(struct mp_pickle *p, uint8_t kind, const struct mp_pickle_value *from, uint32_t n,
                                struct mp_error *err) {
    struct mp_pickle_items *items = allocate(p, sizeof *items, err);
    if (items == NULL)
        return err->status;
    items->next = p->all;
    p->all = items;
    if (n > 0) {
        enum mp_status status = reserve(p, &items->at, &items->room, n, err);
        if (status != MP_OK)
            return status;
        memcpy(items->at, from, n * sizeof *from);
        items->n = n;
    }
    return push(p, (struct mp_pickle_value){.kind = kind, .as.items = items}, err);
}

/* Moves the top n values into a new tuple. */
static enum mp_status make_tuple(struct mp_pickle *p, uint32_t n, struct mp_error *err) {
    enum mp_status status = need(p, n, err);
    if (status != MP_OK)
        return status;
    p->n_stack -= n;
    return new_items(p, MP_PICKLE_TUPLE, n > 0 ? p->stack + p->n_stack : NULL, n, err);
}

/* Appends the top n values to the container of `kind` under them. */
static enum mp_status extend(struct mp_pickle *p, uint32_t first, uint32_t n, uint8_t kind, struct mp_error *err) {
    if (first <= floor_of(p) || p->stack[first - 1].kind != kind)
        return bad(p, err, "there is no %s to put values in", kind == MP_PICKLE_LIST ? "list" : "dictionary");
    struct mp_pickle_items *to = p->stack[first - 1].as.items;
    if (kind == MP_PICKLE_DICT) {
        if (n % 2 != 0)
            return bad(p, err, "a dictionary gets a key without a value");
        if (to->n + n > 2 * MAX_DICT)
            return bad(p, err, "a dictionary has more than %d keys (recordings have a few)", (int)MAX_DICT);
    }
    enum mp_status status = reserve(p, &to->at, &to->room, (uint64_t)to->n + n, err);
    if (status != MP_OK)
        return status;
    for (uint32_t i = 0; i < n; i++) {
        const struct mp_pickle_value *v = &p->stack[first + i];
        if (kind == MP_PICKLE_DICT && i % 2 == 0) {
            if (v->kind != MP_PICKLE_STRING)
                return bad(p, err, "a dictionary has %s as a key (recordings have texts)", mp_pickle_kind_name(v));
            for (uint32_t k = 0; k < to->n; k += 2)
                if (to->at[k].n == v->n && memcmp(to->at[k].as.text, v->as.text, v->n) == 0)
                    return bad(p, err, "a dictionary has one key twice");
        }
        to->at[to->n++] = *v;
    }
    p->n_stack = first;
    return MP_OK;
}

/* GLOBAL: two lines, module and name. */
static enum mp_status load_global(struct mp_pickle *p, struct mp_error *err) {
    const char *text[2];
    size_t length[2];
    for (int i = 0; i < 2; i++) {
        const uint8_t *start = p->data + p->at, *newline = memchr(start, '\n', p->n - p->at);
        if (newline == NULL)
            return bad(p, err, "ends inside an opcode (is the file complete?)");
        text[i] = (const char *)start;
        length[i] = (size_t)(newline - start);
        p->at += length[i] + 1;
    }
    for (uint8_t g = 1; g < sizeof globals / sizeof *globals; g++)
        if (strlen(globals[g].module) == length[0] && memcmp(globals[g].module, text[0], length[0]) == 0 &&
            strlen(globals[g].name) == length[1] && memcmp(globals[g].name, text[1], length[1]) == 0)
            return push(p, (struct mp_pickle_value){.kind = MP_PICKLE_GLOBAL, .global = g}, err);
    char module[64], name[64];
    return bad(p, err, "names \"%s.%s\", which no recording needs, so it is refused (nothing was run)",
               mp_quote(text[0], length[0], module, sizeof module), mp_quote(text[1], length[1], name, sizeof name));
}

/* BINPERSID: ('storage', type, key, device, numbers). */
static enum mp_status load_storage(struct mp_pickle *p, struct mp_error *err) {
    enum mp_status status = need(p, 1, err);
    if (status != MP_OK)
        return status;
    const struct mp_pickle_value *id = &p->stack[p->n_stack - 1];
    if (id->kind != MP_PICKLE_TUPLE || id->as.items->n != 5)
        return bad(p, err, "a persistent id is not ('storage', type, key, device, size)");
    const struct mp_pickle_value *v = id->as.items->at;
    if (v[0].kind != MP_PICKLE_STRING || v[0].n != 7 || memcmp(v[0].as.text, "storage", 7) != 0 ||
        v[1].kind != MP_PICKLE_GLOBAL || v[1].global < GLOBAL_STORAGE || v[2].kind != MP_PICKLE_STRING ||
        v[3].kind != MP_PICKLE_STRING || v[4].kind != MP_PICKLE_INT || v[4].as.number < 0)
        return bad(p, err, "a persistent id is not ('storage', type, key, device, size)");
    bool is_number = v[2].n > 0 && v[2].n <= 20;
    for (uint32_t i = 0; is_number && i < v[2].n; i++)
        is_number = v[2].as.text[i] >= '0' && v[2].as.text[i] <= '9';
    if (!is_number)
        return bad(p, err, "a storage has a key that is not a number");
    struct mp_pickle_storage *s = allocate(p, sizeof *s, err);
    if (s == NULL)
        return err->status;
    s->type = globals[v[1].global].name;
    s->item = globals[v[1].global].item;
    memcpy(s->key, v[2].as.text, v[2].n);
    s->n = (uint64_t)v[4].as.number;
    p->stack[p->n_stack - 1] = (struct mp_pickle_value){.kind = MP_PICKLE_STORAGE, .as.storage = s};
    return MP_OK;
}

/* (storage, offset, sizes, strides, requires_grad, hooks[, metadata]) -> a tensor that lies inside its storage. */
static enum mp_status load_tensor(struct mp_pickle *p, const struct mp_pickle_items *args, struct mp_pickle_value *out,
                                  struct mp_error *err) {
    const struct mp_pickle_value *v = args->at;
    if (args->n < 6 || args->n > 7 || v[0].kind != MP_PICKLE_STORAGE || v[1].kind != MP_PICKLE_INT ||
        v[1].as.number < 0 || v[2].kind != MP_PICKLE_TUPLE || v[3].kind != MP_PICKLE_TUPLE ||
        v[4].kind != MP_PICKLE_BOOL || v[5].kind != MP_PICKLE_DICT)
        return bad(p, err, "a tensor is not (storage, offset, sizes, strides, requires_grad, hooks)");
    const struct mp_pickle_items *sizes = v[2].as.items, *strides = v[3].as.items;
    if (sizes->n != strides->n || sizes->n > MP_PICKLE_MAX_DIMS)
        return bad(p, err, "a tensor has %u sizes and %u strides (at most %u of each, as many of both)", sizes->n,
                   strides->n, MP_PICKLE_MAX_DIMS);
    struct mp_pickle_tensor *t = allocate(p, sizeof *t, err);
    if (t == NULL)
        return err->status;
    t->storage = v[0].as.storage;
    t->offset = (uint64_t)v[1].as.number;
    t->n_dims = sizes->n;
    t->n = 1;
    t->position = p->position + p->op_at;
    bool is_contiguous = true;
    for (uint32_t d = t->n_dims; d-- > 0;) {
        if (sizes->at[d].kind != MP_PICKLE_INT || sizes->at[d].as.number < 0 || strides->at[d].kind != MP_PICKLE_INT ||
            strides->at[d].as.number < 0)
            return bad(p, err, "a tensor's sizes and strides are not whole numbers from 0");
        t->size[d] = (uint64_t)sizes->at[d].as.number;
        is_contiguous &= t->size[d] == 1 || (uint64_t)strides->at[d].as.number == t->n;
        if (t->size[d] != 0 && t->n > t->storage->n / t->size[d])
            return bad(p, err, "a tensor is larger than its storage of %llu numbers",
                       (unsigned long long)t->storage->n);
        if (t->size[d] == 0) {
            /* Empty: strides mean nothing; the other sizes still have to be numbers. */
            for (uint32_t e = 0; e < d; e++) {
                if (sizes->at[e].kind != MP_PICKLE_INT || sizes->at[e].as.number < 0)
                    return bad(p, err, "a tensor's sizes and strides are not whole numbers from 0");
                t->size[e] = (uint64_t)sizes->at[e].as.number;
            }
            t->n = 0;
            is_contiguous = true;
            break;
        }
        t->n *= t->size[d];
    }
    if (t->offset > t->storage->n || t->n > t->storage->n - t->offset)
        return bad(p, err, "a tensor reaches past its storage of %llu numbers", (unsigned long long)t->storage->n);
    if (!is_contiguous)
        return bad(p, err, "a tensor is not contiguous (save .contiguous() of it)");
    *out = (struct mp_pickle_value){.kind = MP_PICKLE_TENSOR, .as.tensor = t};
    return MP_OK;
}

/* REDUCE calls nothing: two callables are known, and what they would make is made here. */
static enum mp_status reduce(struct mp_pickle *p, struct mp_error *err) {
    enum mp_status status = need(p, 2, err);
    if (status != MP_OK)
        return status;
    const struct mp_pickle_value *f = &p->stack[p->n_stack - 2], *args = &p->stack[p->n_stack - 1];
    if (f->kind != MP_PICKLE_GLOBAL || args->kind != MP_PICKLE_TUPLE || f->global >= GLOBAL_STORAGE)
        return bad(p, err, "calls %s, which is refused (nothing was run)",
                   f->kind == MP_PICKLE_GLOBAL ? globals[f->global].name : mp_pickle_kind_name(f));
    if (f->global == GLOBAL_ORDERED_DICT) {
        if (args->as.items->n != 0)
            return bad(p, err, "an OrderedDict is made with arguments");
        p->n_stack -= 2;
        return new_items(p, MP_PICKLE_DICT, NULL, 0, err);
    }
    struct mp_pickle_value tensor;
    status = load_tensor(p, args->as.items, &tensor, err);
    if (status != MP_OK)
        return status;
    p->n_stack--;
    p->stack[p->n_stack - 1] = tensor;
    return MP_OK;
}

static enum mp_status memo_put(struct mp_pickle *p, uint64_t index, size_t n_ops, struct mp_error *err) {
    enum mp_status status = need(p, 1, err);
    if (status != MP_OK)
        return status;
    /* Picklers number densely; a far index would only cost memory. */
    if (index > n_ops)
        return bad(p, err, "memo entry %llu is far past the %u there are", (unsigned long long)index, p->n_memo);
    status = reserve(p, &p->memo, &p->memo_room, index + 1, err);
    if (status != MP_OK)
        return status;
    while (p->n_memo <= index)
        p->memo[p->n_memo++] = (struct mp_pickle_value){.kind = UINT8_MAX};
    p->memo[index] = p->stack[p->n_stack - 1];
    return MP_OK;
}

static enum mp_status memo_get(struct mp_pickle *p, uint64_t index, struct mp_error *err) {
    if (index >= p->n_memo || p->memo[index].kind == UINT8_MAX)
        return bad(p, err, "memo entry %llu does not exist", (unsigned long long)index);
    return push(p, p->memo[index], err);
}

static enum mp_status take_mark(struct mp_pickle *p, uint32_t *first, struct mp_error *err) {
    if (p->n_marks == 0)
        return bad(p, err, "opcode 0x%02x without a mark", p->data[p->op_at]);
    *first = p->marks[--p->n_marks];
    return MP_OK;
}

/* LONG1: a whole number of up to 8 bytes. */
static enum mp_status load_long(struct mp_pickle *p, struct mp_error *err) {
    const uint8_t *b = NULL, *length = NULL;
    enum mp_status status = bytes(p, 1, &length, err);
    if (status == MP_OK && *length > 8)
        return bad(p, err, "a whole number of %u bytes is too large (8 at most)", *length);
    if (status == MP_OK)
        status = bytes(p, *length, &b, err);
    if (status != MP_OK)
        return status;
    uint64_t v = little(b, *length);
    if (*length > 0 && *length < 8 && (b[*length - 1] & 0x80) != 0)
        v |= UINT64_MAX << (8 * *length);
    return push(p, (struct mp_pickle_value){.kind = MP_PICKLE_INT, .as.number = (int64_t)v}, err);
}

/* Opcodes that push a value read from the data. */
static enum mp_status load_value(struct mp_pickle *p, uint8_t op, struct mp_error *err) {
    struct mp_pickle_value v = {.kind = MP_PICKLE_INT};
    const uint8_t *b = NULL;
    enum mp_status status;
    switch (op) {
    case 'K': /* BININT1 */
        MP_TRY(bytes(p, 1, &b, err));
        v.as.number = b[0];
        break;
    case 'M': /* BININT2 */
        MP_TRY(bytes(p, 2, &b, err));
        v.as.number = (int64_t)little(b, 2);
        break;
    case 'J': /* BININT */
        MP_TRY(bytes(p, 4, &b, err));
        v.as.number = (int32_t)(uint32_t)little(b, 4);
        break;
    case 'G': { /* BINFLOAT, big-endian */
        MP_TRY(bytes(p, 8, &b, err));
        uint64_t bits = 0;
        for (int i = 0; i < 8; i++)
            bits = bits << 8 | b[i];
        v.kind = MP_PICKLE_FLOAT;
        memcpy(&v.as.real, &bits, sizeof bits);
        break;
    }
    case 'X': { /* BINUNICODE */
        MP_TRY(bytes(p, 4, &b, err));
        v.n = (uint32_t)little(b, 4);
        MP_TRY(bytes(p, v.n, &b, err));
        v.kind = MP_PICKLE_STRING;
        v.as.text = (const char *)b;
        break;
    }
    case 'N':
        v.kind = MP_PICKLE_NONE;
        break;
    default: /* NEWTRUE, NEWFALSE */
        v.kind = MP_PICKLE_BOOL;
        v.as.truth = op == 0x88;
        break;
    }
    status = push(p, v, err);
out:
    return status;
}

/* One opcode after the first; *done at STOP. */
static enum mp_status step(struct mp_pickle *p, uint8_t op, size_t n_ops, bool *done, struct mp_error *err) {
    const uint8_t *b = NULL;
    uint32_t first = 0;
    enum mp_status status;
    switch (op) {
    case 'K':
    case 'M':
    case 'J':
    case 'G':
    case 'X':
    case 'N':
    case 0x88:
    case 0x89:
        return load_value(p, op, err);
    case 0x8a:
        return load_long(p, err);
    case 'c':
        return load_global(p, err);
    case 'Q':
        return load_storage(p, err);
    case 'R':
        return reduce(p, err);
    case 'q': /* BINPUT */
        status = bytes(p, 1, &b, err);
        return status != MP_OK ? status : memo_put(p, b[0], n_ops, err);
    case 'r': /* LONG_BINPUT */
        status = bytes(p, 4, &b, err);
        return status != MP_OK ? status : memo_put(p, little(b, 4), n_ops, err);
    case 'h': /* BINGET */
        status = bytes(p, 1, &b, err);
        return status != MP_OK ? status : memo_get(p, b[0], err);
    case 'j': /* LONG_BINGET */
        status = bytes(p, 4, &b, err);
        return status != MP_OK ? status : memo_get(p, little(b, 4), err);
    case '}':
        return new_items(p, MP_PICKLE_DICT, NULL, 0, err);
    case ']':
        return new_items(p, MP_PICKLE_LIST, NULL, 0, err);
    case ')':
        return new_items(p, MP_PICKLE_TUPLE, NULL, 0, err);
    case '(': /* MARK */
        if (p->n_marks >= MAX_MARKS)
            return too_large(p, err, MAX_MARKS, "marks inside each other");
        p->marks[p->n_marks++] = p->n_stack;
        return MP_OK;
    case 't': /* TUPLE */
        status = take_mark(p, &first, err);
        return status != MP_OK ? status : make_tuple(p, p->n_stack - first, err);
    case 0x85:
    case 0x86:
    case 0x87: /* TUPLE1, 2, 3 */
        return make_tuple(p, op - 0x84u, err);
    case 's':
    case 'a': /* SETITEM, APPEND */
        first = op == 's' ? 2 : 1;
        status = need(p, first + 1, err);
        return status != MP_OK ? status
                               : extend(p, p->n_stack - first, first, op == 's' ? MP_PICKLE_DICT : MP_PICKLE_LIST, err);
    case 'u':
    case 'e': /* SETITEMS, APPENDS */
        status = take_mark(p, &first, err);
        return status != MP_OK ? status
                               : extend(p, first, p->n_stack - first, op == 'u' ? MP_PICKLE_DICT : MP_PICKLE_LIST, err);
    case '.':
        *done = true;
        if (p->n_stack != 1 || p->n_marks != 0)
            return bad(p, err, "ends with %u values and %u marks left (one value, no mark)", p->n_stack, p->n_marks);
        if (p->at != p->n)
            return bad(p, err, "%zu bytes follow its end", p->n - p->at);
        return MP_OK;
    default:
        return bad(
            p, err,
            "opcode 0x%02x is not one that torch.save writes for a recording, so it is refused (nothing was run)", op);
    }
}

enum mp_status mp_pickle_read(struct mp_pickle **out, const char *path, const uint8_t *data, size_t n,
                              uint64_t position, const struct mp_limits *limits, struct mp_error *err) {
    *out = NULL;
    struct mp_error local = {0};
    if (err == NULL)
        err = &local;
    if (n > limits->pickle_bytes)
        return mp_fail_at(err, MP_ELIMIT, path, 0, position + 1,
                          "pickle: is %zu bytes, more than the limit of %zu (record for a shorter time)", n,
                          limits->pickle_bytes);
    struct mp_pickle *p = mp_calloc(1, sizeof *p);
    if (p == NULL || (p->arena = mp_arena_new()) == NULL) {
        mp_free(p);
        return mp_nomem(err, "pickle");
    }
    p->path = path;
    p->data = data;
    p->n = n;
    p->position = position;
    p->heap_limit = limits->pickle_heap_bytes;
    enum mp_status status = MP_OK;
    bool done = false;
    if (n < 2 || data[0] != 0x80)
        status = bad(p, err, "does not start with a protocol (is this a file of torch.save?)");
    else if (data[1] != 2)
        status = bad(p, err, "is of protocol %u (save with torch.save's default, 2)", data[1]);
    p->at = 2;
    for (size_t n_ops = 1; status == MP_OK && !done; n_ops++) {
        p->op_at = p->at;
        if (p->at >= n)
            status = bad(p, err, "ends before its STOP (is the file complete?)");
        else if (n_ops > limits->pickle_ops)
            status = too_large(p, err, limits->pickle_ops, "opcodes");
        else
            status = step(p, data[p->at++], n_ops, &done, err);
    }
    if (status != MP_OK) {
        mp_pickle_free(p);
        return status;
    }
    p->root = p->stack[0];
    *out = p;
    return MP_OK;
}

const struct mp_pickle_value *mp_pickle_root(const struct mp_pickle *p) { return &p->root; }

void mp_pickle_free(struct mp_pickle *p) {
    if (p == NULL)
        return;
    for (struct mp_pickle_items *i = p->all; i != NULL; i = i->next)
        mp_free(i->at);
    mp_free(p->stack);
    mp_free(p->memo);
    mp_arena_free(p->arena);
    mp_free(p);
}

const struct mp_pickle_value *mp_pickle_get(const struct mp_pickle_value *v, const char *key) {
    size_t n = strlen(key);
    if (v == NULL || v->kind != MP_PICKLE_DICT)
        return NULL;
    for (uint32_t k = 0; k < v->as.items->n; k += 2)
        if (v->as.items->at[k].n == n && memcmp(v->as.items->at[k].as.text, key, n) == 0)
            return &v->as.items->at[k + 1];
    return NULL;
}

const char *mp_pickle_kind_name(const struct mp_pickle_value *v) {
    static const char *const names[] = {
        "None",   "a truth value", "a whole number",      "a float",   "a text",  "a tuple",
        "a list", "a dictionary",  "a class or function", "a storage", "a tensor"};
    return v == NULL ? "nothing" : v->kind < sizeof names / sizeof *names ? names[v->kind] : "?";
}
