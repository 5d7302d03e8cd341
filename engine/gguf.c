/* GGUF reader (ggml docs/gguf.md): magic, version, counts, key-value pairs, tensor table, data.
 *
 * The file is hostile until shown otherwise.  Two rules keep it so: `take` is the only way to step
 * forward and knows how many bytes are left, and every table is sized by a count that was first held
 * against the bytes that so many entries need at least, so memory stays proportional to the file.
 * All tables lie in one arena; strings and data are pointers into the mapping. */
#include "engine/gguf.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/map.h"
#include "kernels/quant.h"

enum value_type {
    V_U8,
    V_I8,
    V_U16,
    V_I16,
    V_U32,
    V_I32,
    V_F32,
    V_BOOL,
    V_STR,
    V_ARR,
    V_U64,
    V_I64,
    V_F64,
    V_N
};

static const uint8_t value_size[V_N] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
static const char *const value_name[V_N] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                            "bool", "string", "array", "u64", "i64", "f64"};

enum {
    KV_MAX = 1 << 16,
    TENSORS_MAX = 1 << 16,
    KEY_MAX = 65535, /* bytes, as the specification has it */
    NAME_MAX_BYTES = 255,
    KV_MIN_BYTES = 8 + 1 + 4 + 1,             /* key of one byte, type, a value of one byte */
    TENSOR_MIN_BYTES = 8 + 1 + 4 + 8 + 4 + 8, /* name of one byte, ndim, one dim, type, offset */
    ALIGNMENT_DEFAULT = 32,
    ALIGNMENT_MIN = 8,
    ALIGNMENT_MAX = 1 << 16
};

struct kv {
    struct gguf_str key;
    enum value_type type;
    enum value_type elem;        /* of an array */
    size_t n;                    /* elements of an array */
    const char *data;            /* the scalar, or the array's fixed-size elements */
    struct gguf_str str;         /* V_STR */
    const struct gguf_str *strs; /* an array of strings */
};

struct gguf {
    struct file file;
    struct arena arena;
    struct kv *kvs;
    size_t n_kv;
    struct gguf_tensor *tensors;
    uint64_t *offsets; /* [n_tensors] from the start of the data */
    size_t n_tensors;
    struct map kv_by_key, tensor_by_name;
    uint64_t digest;
};

struct reader {
    const char *data;
    size_t size, at;
    struct err *e;
};

/* ---- stepping through the header ---- */

static int bad(const struct reader *r, const char *fmt, ...) PRINTF_LIKE(2, 3);
static int bad(const struct reader *r, const char *fmt, ...)
{
    char why[200];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why, sizeof why, fmt, ap);
    va_end(ap);
    return err_set(r->e, ERR_CORRUPT, "GGUF header at byte %zu: %s", r->at, why);
}

/* n bytes of the file, or NULL with the error set. */
static const char *take(struct reader *r, size_t n, const char *what)
{
    size_t left = r->size - r->at;
    if (n > left) {
        bad(r, "%s needs %zu bytes but the file ends %zu bytes from here (it has %zu): incomplete?",
            what, n, left, r->size);
        return NULL;
    }
    const char *p = r->data + r->at;
    r->at += n;
    return p;
}

static int take_u32(struct reader *r, uint32_t *v, const char *what)
{
    const char *p = take(r, sizeof *v, what);
    if (p == NULL)
        return ERR_CORRUPT;
    memcpy(v, p, sizeof *v);
    return 0;
}

static int take_u64(struct reader *r, uint64_t *v, const char *what)
{
    const char *p = take(r, sizeof *v, what);
    if (p == NULL)
        return ERR_CORRUPT;
    memcpy(v, p, sizeof *v);
    return 0;
}

static int take_str(struct reader *r, struct gguf_str *s, const char *what)
{
    uint64_t len;
    if (take_u64(r, &len, what) != 0)
        return ERR_CORRUPT;
    if (len > r->size - r->at)
        return bad(r, "%s of %" PRIu64 " bytes is longer than the rest of the file", what, len);
    s->len = (size_t)len;
    s->data = take(r, s->len, what);
    return s->data != NULL ? 0 : ERR_CORRUPT;
}

/* A string that is a name: not empty, bounded, without NUL. */
static int take_name(struct reader *r, struct gguf_str *s, size_t max, const char *what)
{
    if (take_str(r, s, what) != 0)
        return ERR_CORRUPT;
    if (s->len == 0 || s->len > max)
        return bad(r, "%s has %zu bytes, allowed are 1 to %zu", what, s->len, max);
    if (memchr(s->data, 0, s->len) != NULL)
        return bad(r, "%s contains a NUL byte", what);
    return 0;
}

/* ---- key-value pairs ---- */

static int no_memory(struct err *e)
{
    return err_set(e, ERR_NOMEM, "out of memory for the tables of the GGUF header");
}

static int read_array(struct gguf *g, struct reader *r, struct kv *kv)
{
    uint32_t elem;
    uint64_t n;
    if (take_u32(r, &elem, "array type") != 0 || take_u64(r, &n, "array length") != 0)
        return ERR_CORRUPT;
    if (elem >= V_N)
        return bad(r, "unknown array element type %u", elem);
    if (elem == V_ARR)
        return bad(r, "arrays of arrays are not supported");
    size_t left = r->size - r->at;
    size_t elem_min = elem == V_STR ? sizeof(uint64_t) : value_size[elem];
    if (n > left / elem_min)
        return bad(r, "array of %" PRIu64 " %s is longer than the rest of the file", n,
                   value_name[elem]);
    kv->elem = (enum value_type)elem;
    kv->n = (size_t)n;
    if (elem != V_STR) {
        kv->data = take(r, kv->n * elem_min, "array");
        return kv->data != NULL ? 0 : ERR_CORRUPT;
    }
    struct gguf_str *strs = arena_array(&g->arena, kv->n, sizeof *strs);
    if (strs == NULL)
        return no_memory(r->e);
    for (size_t i = 0; i < kv->n; i++)
        if (take_str(r, &strs[i], "string of an array") != 0)
            return ERR_CORRUPT;
    kv->strs = strs;
    return 0;
}

static int read_kv(struct gguf *g, struct reader *r, struct kv *kv)
{
    uint32_t type;
    if (take_name(r, &kv->key, KEY_MAX, "key") != 0 || take_u32(r, &type, "value type") != 0)
        return ERR_CORRUPT;
    if (type >= V_N)
        return bad(r, "key \"%s\" has the unknown value type %u",
                   err_shown(kv->key.data, kv->key.len).text, type);
    kv->type = (enum value_type)type;
    if (type == V_STR)
        return take_str(r, &kv->str, "string");
    if (type == V_ARR)
        return read_array(g, r, kv);
    kv->data = take(r, value_size[type], "value");
    return kv->data != NULL ? 0 : ERR_CORRUPT;
}

static int read_kvs(struct gguf *g, struct reader *r)
{
    g->kvs = arena_array(&g->arena, g->n_kv, sizeof *g->kvs);
    if (g->kvs == NULL || map_init(&g->kv_by_key, g->n_kv) != 0)
        return no_memory(r->e);
    for (size_t i = 0; i < g->n_kv; i++) {
        struct kv *kv = &g->kvs[i];
        int rc = read_kv(g, r, kv);
        if (rc != 0)
            return rc;
        rc = map_put(&g->kv_by_key, kv->key.data, kv->key.len, (int64_t)i);
        if (rc == ERR_INVALID)
            return bad(r, "duplicate key \"%s\"", err_shown(kv->key.data, kv->key.len).text);
        if (rc != 0)
            return no_memory(r->e);
    }
    return 0;
}

static const struct kv *kv_find(const struct gguf *g, const char *key)
{
    int64_t i;
    return map_get(&g->kv_by_key, key, strlen(key), &i) ? &g->kvs[i] : NULL;
}

/* ---- tensors ---- */

/* Bytes of the tensor; false when they do not fit size_t. */
static bool tensor_bytes(const struct gguf_tensor *t, size_t *bytes)
{
    size_t n = (size_t)t->dims[t->ndim - 1] / (size_t)dtype_block(t->type);
    for (int d = 0; d < t->ndim - 1; d++)
        if (__builtin_mul_overflow(n, (size_t)t->dims[d], &n))
            return false;
    int64_t elements; /* callers count elements in int64_t */
    return !__builtin_mul_overflow(n, (size_t)dtype_block(t->type), &elements) &&
           !__builtin_mul_overflow(n, (size_t)dtype_block_bytes(t->type), bytes);
}

static int read_tensor(struct gguf *g, struct reader *r, size_t i)
{
    struct gguf_tensor *t = &g->tensors[i];
    struct gguf_str name;
    uint32_t ndim, type;
    if (take_name(r, &name, NAME_MAX_BYTES, "tensor name") != 0)
        return ERR_CORRUPT;
    t->name = arena_strndup(&g->arena, name.data, name.len);
    if (t->name == NULL)
        return no_memory(r->e);
    struct err_shown label = err_shown(name.data, name.len);
    if (take_u32(r, &ndim, "number of dimensions") != 0)
        return ERR_CORRUPT;
    if (ndim < 1 || ndim > 4)
        return bad(r, "tensor \"%s\" has %u dimensions, allowed are 1 to 4", label.text, ndim);
    t->ndim = (int)ndim;
    for (int d = t->ndim - 1; d >= 0; d--) { /* the file has the fastest one first */
        uint64_t v;
        if (take_u64(r, &v, "dimension") != 0)
            return ERR_CORRUPT;
        if (v < 1 || v > INT64_MAX)
            return bad(r, "tensor \"%s\" has a dimension of %" PRIu64, label.text, v);
        t->dims[d] = (int64_t)v;
    }
    if (take_u32(r, &type, "tensor type") != 0 || take_u64(r, &g->offsets[i], "offset") != 0)
        return ERR_CORRUPT;
    if (!dtype_known(type))
        return bad(r, "tensor \"%s\" has the type %u, which is unknown here", label.text, type);
    t->type = (enum dtype)type;
    if (t->dims[t->ndim - 1] % dtype_block(t->type) != 0)
        return bad(r, "tensor \"%s\": rows of %" PRId64 " are not whole blocks of %s (%d)",
                   label.text, t->dims[t->ndim - 1], dtype_name(t->type), dtype_block(t->type));
    if (!tensor_bytes(t, &t->bytes))
        return bad(r, "the size of tensor \"%s\" overflows", label.text);
    int rc = map_put(&g->tensor_by_name, t->name, name.len, (int64_t)i);
    if (rc == ERR_INVALID)
        return bad(r, "duplicate tensor \"%s\"", label.text);
    return rc == 0 ? 0 : no_memory(r->e);
}

static int read_tensors(struct gguf *g, struct reader *r)
{
    g->tensors = arena_array(&g->arena, g->n_tensors, sizeof *g->tensors);
    g->offsets = arena_array(&g->arena, g->n_tensors, sizeof *g->offsets);
    if (g->tensors == NULL || g->offsets == NULL || map_init(&g->tensor_by_name, g->n_tensors) != 0)
        return no_memory(r->e);
    for (size_t i = 0; i < g->n_tensors; i++) {
        int rc = read_tensor(g, r, i);
        if (rc != 0)
            return rc;
    }
    return 0;
}

struct span {
    size_t start, end; /* in the file */
    const char *name;
};

static int span_compare(const void *a, const void *b)
{
    const struct span *x = a, *y = b;
    return (x->start > y->start) - (x->start < y->start);
}

static int check_overlap(const struct gguf *g, struct span *spans, struct err *e)
{
    if (g->n_tensors == 0)
        return 0;
    qsort(spans, g->n_tensors, sizeof *spans, span_compare);
    for (size_t i = 1; i < g->n_tensors; i++)
        if (spans[i].start < spans[i - 1].end)
            return err_set(e, ERR_CORRUPT, "tensors \"%s\" and \"%s\" overlap at byte %zu",
                           err_shown_str(spans[i - 1].name).text, err_shown_str(spans[i].name).text,
                           spans[i].start);
    return 0;
}

/* Sets the tensors' pointers; the data starts at the first aligned byte behind the header. */
static int place_tensors(struct gguf *g, const struct reader *r, size_t alignment)
{
    struct span *spans = mem_try(g->n_tensors, sizeof *spans);
    if (spans == NULL)
        return no_memory(r->e);
    int rc = 0;
    size_t data = (r->at + alignment - 1) / alignment * alignment; /* at <= a file's size */
    size_t expected = 0;
    for (size_t i = 0; i < g->n_tensors && rc == 0; i++) {
        struct gguf_tensor *t = &g->tensors[i];
        struct err_shown label = err_shown_str(t->name);
        if (g->offsets[i] % alignment != 0)
            rc = err_set(r->e, ERR_CORRUPT, "tensor \"%s\" lies at %" PRIu64 ", not aligned to %zu",
                         label.text, g->offsets[i], alignment);
        else if (__builtin_add_overflow(data, g->offsets[i], &spans[i].start) ||
                 __builtin_add_overflow(spans[i].start, t->bytes, &spans[i].end))
            rc = err_set(r->e, ERR_CORRUPT, "the offset of tensor \"%s\" (%" PRIu64 ") overflows",
                         label.text, g->offsets[i]);
        spans[i].name = t->name;
        expected = spans[i].end > expected ? spans[i].end : expected;
    }
    if (rc == 0 && expected > r->size)
        rc = err_set(r->e, ERR_CORRUPT,
                     "the header describes %zu bytes but the file has %zu: incomplete download?",
                     expected, r->size);
    for (size_t i = 0; i < g->n_tensors && rc == 0; i++)
        g->tensors[i].data = r->data + spans[i].start;
    if (rc == 0)
        rc = check_overlap(g, spans, r->e);
    free(spans);
    return rc;
}

/* ---- open and close ---- */

static int read_start(struct gguf *g, struct reader *r)
{
    uint32_t version;
    uint64_t n_tensors, n_kv;
    if (r->size < 4 || memcmp(r->data, "GGUF", 4) != 0)
        return err_set(r->e, ERR_CORRUPT, "not a GGUF file: it does not begin with \"GGUF\"");
    r->at = 4;
    if (take_u32(r, &version, "version") != 0)
        return ERR_CORRUPT;
    if (version != 0 && (version & 0xffff) == 0)
        return err_set(r->e, ERR_UNSUPPORTED,
                       "a big-endian GGUF file: convert it with gguf-convert-endian");
    if (version == 1)
        return err_set(r->e, ERR_UNSUPPORTED,
                       "GGUF version 1 is not supported: convert the model again");
    if (version != 2 && version != 3)
        return err_set(r->e, ERR_UNSUPPORTED, "GGUF version %u is unknown here (2 and 3 are known)",
                       version);
    if (take_u64(r, &n_tensors, "number of tensors") != 0 ||
        take_u64(r, &n_kv, "number of keys") != 0)
        return ERR_CORRUPT;
    size_t left = r->size - r->at;
    if (n_kv > KV_MAX || n_kv > left / KV_MIN_BYTES)
        return bad(r, "%" PRIu64 " keys are more than the file can hold or than allowed (%d)", n_kv,
                   KV_MAX);
    if (n_tensors > TENSORS_MAX || n_tensors > left / TENSOR_MIN_BYTES)
        return bad(r, "%" PRIu64 " tensors are more than the file can hold or than allowed (%d)",
                   n_tensors, TENSORS_MAX);
    g->n_kv = (size_t)n_kv;
    g->n_tensors = (size_t)n_tensors;
    return 0;
}

static int read_alignment(const struct gguf *g, uint32_t *alignment, struct err *e)
{
    *alignment = ALIGNMENT_DEFAULT;
    const struct kv *kv = kv_find(g, "general.alignment");
    if (kv == NULL)
        return 0;
    if (kv->type != V_U32)
        return err_set(e, ERR_CORRUPT, "general.alignment is of type %s, not u32",
                       value_name[kv->type]);
    memcpy(alignment, kv->data, sizeof *alignment);
    if (*alignment < ALIGNMENT_MIN || *alignment > ALIGNMENT_MAX ||
        (*alignment & (*alignment - 1)) != 0)
        return err_set(e, ERR_CORRUPT, "general.alignment is %u, not a power of two from %d to %d",
                       *alignment, ALIGNMENT_MIN, ALIGNMENT_MAX);
    return 0;
}

static int read_header(struct gguf *g, struct err *e)
{
    struct reader r = {.data = g->file.data, .size = g->file.size, .e = e};
    uint32_t alignment;
    int rc = read_start(g, &r);
    if (rc == 0)
        rc = read_kvs(g, &r);
    if (rc == 0)
        rc = read_alignment(g, &alignment, e);
    if (rc == 0)
        rc = read_tensors(g, &r);
    if (rc == 0)
        rc = place_tensors(g, &r, alignment);
    if (rc == 0)
        g->digest = map_hash(r.data, r.at);
    if (rc == 0 && file_damaged(&g->file))
        rc = err_set(e, ERR_IO, "the file changed while it was read");
    return rc;
}

uint64_t gguf_digest(const struct gguf *g)
{
    return g->digest;
}

int gguf_open(struct gguf **out, const char *path, struct err *e)
{
    struct gguf *g = xcalloc(1, sizeof *g);
    int rc = file_open(&g->file, path, e);
    if (rc != 0) {
        free(g);
        return rc;
    }
    /* The tables take at most a few times what their entries take in the file. */
    arena_init(&g->arena, g->file.size < SIZE_MAX / 16 ? g->file.size * 8 + 65536 : SIZE_MAX / 2);
    rc = read_header(g, e);
    if (rc != 0) {
        err_wrap(e, "%s", file_tail(path));
        gguf_close(g);
        return rc;
    }
    *out = g;
    return 0;
}

void gguf_close(struct gguf *g)
{
    if (g == NULL)
        return;
    map_free(&g->kv_by_key);
    map_free(&g->tensor_by_name);
    arena_free(&g->arena);
    file_close(&g->file);
    free(g);
}

struct file *gguf_file(struct gguf *g)
{
    return &g->file;
}

int gguf_n_tensors(const struct gguf *g)
{
    return (int)g->n_tensors;
}

const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, int i)
{
    return &g->tensors[i];
}

const struct gguf_tensor *gguf_tensor_find(const struct gguf *g, const char *name)
{
    int64_t i;
    return map_get(&g->tensor_by_name, name, strlen(name), &i) ? &g->tensors[i] : NULL;
}

bool gguf_has(const struct gguf *g, const char *key)
{
    return kv_find(g, key) != NULL;
}

/* ---- getters ---- */

static bool is_int(enum value_type t)
{
    return t <= V_I32 || t == V_U64 || t == V_I64;
}

/* Element i of integers; a u64 beyond int64_t gives INT64_MAX. */
static int64_t load_int(enum value_type type, const char *p)
{
    union {
        int8_t i8;
        uint16_t u16;
        int16_t i16;
        uint32_t u32;
        int32_t i32;
        uint64_t u64;
        int64_t i64;
    } v;
    memcpy(&v, p, value_size[type]);
    switch (type) {
    case V_I8:
        return v.i8;
    case V_U16:
        return v.u16;
    case V_I16:
        return v.i16;
    case V_U32:
        return v.u32;
    case V_I32:
        return v.i32;
    case V_U64:
        return v.u64 > INT64_MAX ? INT64_MAX : (int64_t)v.u64;
    case V_I64:
        return v.i64;
    default:
        return (unsigned char)*p;
    }
}

static int wrong_kind(const char *key, const struct kv *kv, const char *wanted, struct err *e)
{
    bool array = kv->type == V_ARR;
    return err_set(e, ERR_CORRUPT, "%s is %s%s, not %s", key, array ? "an array of " : "of type ",
                   value_name[array ? kv->elem : kv->type], wanted);
}

int gguf_get_int(const struct gguf *g, const char *key, int64_t *v, int64_t min, int64_t max,
                 struct err *e)
{
    const struct kv *kv = kv_find(g, key);
    if (kv == NULL)
        return 0;
    if (!is_int(kv->type))
        return wrong_kind(key, kv, "an integer", e);
    int64_t x = load_int(kv->type, kv->data);
    if (x < min || x > max)
        return err_set(e, ERR_CORRUPT, "%s is %" PRId64 ", allowed are %" PRId64 " to %" PRId64,
                       key, x, min, max);
    *v = x;
    return 0;
}

int gguf_get_float(const struct gguf *g, const char *key, float *v, struct err *e)
{
    const struct kv *kv = kv_find(g, key);
    if (kv == NULL)
        return 0;
    float x;
    if (kv->type == V_F32) {
        memcpy(&x, kv->data, sizeof x);
    } else if (kv->type == V_F64) {
        double wide;
        memcpy(&wide, kv->data, sizeof wide);
        x = (float)wide;
    } else {
        return wrong_kind(key, kv, "a float", e);
    }
    if (!isfinite(x))
        return err_set(e, ERR_CORRUPT, "%s is not a finite number", key);
    *v = x;
    return 0;
}

int gguf_get_bool(const struct gguf *g, const char *key, bool *v, struct err *e)
{
    const struct kv *kv = kv_find(g, key);
    if (kv == NULL)
        return 0;
    if (kv->type != V_BOOL)
        return wrong_kind(key, kv, "a bool", e);
    if ((unsigned char)*kv->data > 1)
        return err_set(e, ERR_CORRUPT, "%s is a bool of value %d", key, (unsigned char)*kv->data);
    *v = *kv->data != 0;
    return 0;
}

int gguf_get_str(const struct gguf *g, const char *key, struct gguf_str *v, struct err *e)
{
    const struct kv *kv = kv_find(g, key);
    if (kv == NULL)
        return 0;
    if (kv->type != V_STR)
        return wrong_kind(key, kv, "a string", e);
    *v = kv->str;
    return 0;
}

/* *v is empty where the file has no such key; any integers go for V_I32. */
static int get_array(const struct gguf *g, const char *key, enum value_type elem, const char *what,
                     struct gguf_arr *v, struct err *e)
{
    *v = (struct gguf_arr){.type = elem};
    const struct kv *kv = kv_find(g, key);
    if (kv == NULL)
        return 0;
    if (kv->type != V_ARR || !(kv->elem == elem || (elem == V_I32 && is_int(kv->elem))))
        return wrong_kind(key, kv, what, e);
    *v = (struct gguf_arr){.type = kv->elem, .n = kv->n, .data = kv->data, .strs = kv->strs};
    return 0;
}

int gguf_get_strs(const struct gguf *g, const char *key, struct gguf_arr *v, struct err *e)
{
    return get_array(g, key, V_STR, "an array of strings", v, e);
}

int gguf_get_ints(const struct gguf *g, const char *key, struct gguf_arr *v, struct err *e)
{
    return get_array(g, key, V_I32, "an array of integers", v, e);
}

int gguf_get_floats(const struct gguf *g, const char *key, struct gguf_arr *v, struct err *e)
{
    return get_array(g, key, V_F32, "an array of f32", v, e);
}

int64_t gguf_arr_int(const struct gguf_arr *a, size_t i)
{
    return load_int((enum value_type)a->type, a->data + i * value_size[a->type]);
}

float gguf_arr_float(const struct gguf_arr *a, size_t i)
{
    float v;
    memcpy(&v, a->data + i * sizeof v, sizeof v);
    return v;
}
