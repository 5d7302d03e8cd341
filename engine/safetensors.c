/* safetensors reader: length, header (JSON through base/json.h, which refuses duplicate keys, bad
 * UTF-8, deep nesting and too many values), then every entry of it.
 *
 * The file is hostile until shown otherwise.  The format leaves no freedom, and none is given: in the
 * order of their offsets the tensors cover the bytes behind the header without gap or overlap, and
 * each one's bytes are what its shape and type need.  So every pointer lies within the mapping. */
#include "engine/safetensors.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/json.h"
#include "base/map.h"

enum {
    LENGTH_BYTES = 8,
    NAME_MAX_BYTES = 255,
    METADATA_MAX = 1 << 12,                              /* entries */
    NODES_MAX = SAFETENSORS_MAX_TENSORS * 12 + (1 << 14) /* 7 and the dimensions for each tensor */
};

static const struct {
    const char *name;
    int bytes;
    enum dtype type;
} types[] = {
    {"F32", 4, DTYPE_F32}, {"F16", 2, DTYPE_F16},   {"BF16", 2, DTYPE_BF16}, {"I32", 4, DTYPE_I32},
    {"I64", 8, DTYPE_N},   {"I16", 2, DTYPE_N},     {"I8", 1, DTYPE_N},      {"U64", 8, DTYPE_N},
    {"U32", 4, DTYPE_N},   {"U16", 2, DTYPE_N},     {"U8", 1, DTYPE_N},      {"BOOL", 1, DTYPE_N},
    {"F64", 8, DTYPE_N},   {"F8_E4M3", 1, DTYPE_N}, {"F8_E5M2", 1, DTYPE_N},
};
enum { N_TYPES = sizeof types / sizeof *types };

struct safetensors {
    struct file file;
    struct cJSON *doc;
    const struct cJSON *metadata;
    struct arena arena;
    struct safetensors_tensor *tensors; /* by offset */
    size_t n_tensors;
    struct map by_name;
};

struct entry { /* while the header is read */
    struct safetensors_tensor t;
    uint64_t start, end; /* from the start of the data */
};

struct reader {
    const char *data; /* the tensors' bytes */
    uint64_t n_data;
    struct entry *entries;
    size_t n;
    struct err *e;
};

static int bad(const struct reader *r, const char *name, const char *what)
{
    return err_set(r->e, ERR_CORRUPT, "safetensors header: tensor \"%s\" %s",
                   err_shown_str(name).text, what);
}

/* An unsigned integer that a double holds exactly. */
static bool get_uint(const struct cJSON *v, uint64_t *out)
{
    if (!json_is_int(v) || json_num(v) < 0)
        return false;
    *out = (uint64_t)json_num(v);
    return true;
}

static int read_type(struct reader *r, struct entry *x, const struct cJSON *v, int *elem_bytes)
{
    const char *name = json_str(v);
    if (name == NULL)
        return bad(r, x->t.name, "has no dtype");
    for (size_t i = 0; i < N_TYPES; i++) {
        if (strcmp(types[i].name, name) == 0) {
            x->t.type_name = types[i].name;
            x->t.type = types[i].type;
            *elem_bytes = types[i].bytes;
            return 0;
        }
    }
    return err_set(r->e, ERR_UNSUPPORTED,
                   "tensor \"%s\" has the type \"%s\", which is unknown here",
                   err_shown_str(x->t.name).text, err_shown_str(name).text);
}

/* The shape, and the bytes that it needs. */
static int read_shape(struct reader *r, struct entry *x, const struct cJSON *v, int elem_bytes)
{
    if (json_type(v) != JSON_ARRAY)
        return bad(r, x->t.name, "has no shape");
    if (json_size(v) > SAFETENSORS_MAX_DIMS)
        return bad(r, x->t.name, "has more than 8 dimensions");
    bool empty = false;
    int64_t elements = 1; /* the product of those that are not 0 */
    for (const struct cJSON *d = json_first(v); d != NULL; d = json_next(d)) {
        uint64_t dim;
        if (!get_uint(d, &dim))
            return bad(r, x->t.name, "has a dimension that is not a whole number");
        x->t.dims[x->t.ndim++] = (int64_t)dim;
        empty = empty || dim == 0;
        if (dim != 0 && __builtin_mul_overflow(elements, (int64_t)dim, &elements))
            return bad(r, x->t.name, "has a shape whose size overflows");
    }
    if (__builtin_mul_overflow((size_t)elements, (size_t)elem_bytes, &x->t.bytes))
        return bad(r, x->t.name, "has a shape whose size overflows");
    if (empty)
        x->t.bytes = 0;
    return 0;
}

static int read_offsets(struct reader *r, struct entry *x, const struct cJSON *v)
{
    const struct cJSON *first = json_type(v) == JSON_ARRAY ? json_first(v) : NULL;
    if (first == NULL || json_size(v) != 2 || !get_uint(first, &x->start) ||
        !get_uint(json_next(first), &x->end))
        return bad(r, x->t.name, "has no data_offsets of two whole numbers");
    if (x->start > x->end)
        return bad(r, x->t.name, "ends before it begins");
    if (x->end > r->n_data)
        return err_set(r->e, ERR_CORRUPT,
                       "tensor \"%s\" ends at byte %" PRIu64 " but the file has %" PRIu64
                       " bytes of data: incomplete download?",
                       err_shown_str(x->t.name).text, x->end, r->n_data);
    if (x->end - x->start != x->t.bytes)
        return err_set(r->e, ERR_CORRUPT,
                       "tensor \"%s\" has %" PRIu64 " bytes but its shape needs %zu",
                       err_shown_str(x->t.name).text, x->end - x->start, x->t.bytes);
    x->t.data = r->data + x->start;
    return 0;
}

static int read_tensor(struct reader *r, const struct cJSON *v)
{
    struct entry *x = &r->entries[r->n++];
    int elem_bytes = 0;
    x->t.name = json_key(v);
    size_t len = strlen(x->t.name);
    if (len == 0 || len > NAME_MAX_BYTES)
        return err_set(r->e, ERR_CORRUPT,
                       "safetensors header: a tensor's name has %zu bytes, allowed are 1 to %d",
                       len, NAME_MAX_BYTES);
    if (json_type(v) != JSON_OBJECT || json_size(v) != 3)
        return bad(r, x->t.name, "is not described by dtype, shape and data_offsets");
    int rc = read_type(r, x, json_get(v, "dtype"), &elem_bytes);
    if (rc == 0)
        rc = read_shape(r, x, json_get(v, "shape"), elem_bytes);
    return rc != 0 ? rc : read_offsets(r, x, json_get(v, "data_offsets"));
}

/* By start; an empty tensor before the one that begins where it does. */
static int compare(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    if (x->start != y->start)
        return x->start < y->start ? -1 : 1;
    return (x->end > y->end) - (x->end < y->end);
}

static int check_cover(const struct reader *r)
{
    uint64_t at = 0;
    for (size_t i = 0; i < r->n; i++) {
        const struct entry *x = &r->entries[i];
        if (x->start < at)
            return bad(r, x->t.name, "overlaps another tensor");
        if (x->start > at)
            return bad(r, x->t.name, "leaves a gap before it");
        at = x->end;
    }
    if (at != r->n_data)
        return err_set(r->e, ERR_CORRUPT,
                       "the header describes %" PRIu64 " bytes of data but the file has %" PRIu64,
                       at, r->n_data);
    return 0;
}

static int read_metadata(struct safetensors *s, const struct cJSON *v, struct err *e)
{
    if (json_type(v) != JSON_OBJECT || json_size(v) > METADATA_MAX)
        return err_set(e, ERR_CORRUPT, "safetensors header: __metadata__ is not a small object");
    for (const struct cJSON *m = json_first(v); m != NULL; m = json_next(m))
        if (json_str(m) == NULL)
            return err_set(e, ERR_CORRUPT,
                           "safetensors header: __metadata__ has a value that is %s",
                           json_type_name(json_type(m)));
    s->metadata = v;
    return 0;
}

static int read_entries(struct safetensors *s, struct reader *r)
{
    for (const struct cJSON *v = json_first(s->doc); v != NULL; v = json_next(v)) {
        int rc = strcmp(json_key(v), "__metadata__") == 0 ? read_metadata(s, v, r->e)
                                                          : read_tensor(r, v);
        if (rc != 0)
            return rc;
    }
    if (r->n > 0)
        qsort(r->entries, r->n, sizeof *r->entries, compare);
    return check_cover(r);
}

/* Moves the tensors into the arena and fills the table of names. */
static int keep_entries(struct safetensors *s, const struct reader *r)
{
    s->n_tensors = r->n;
    s->tensors = arena_array(&s->arena, r->n, sizeof *s->tensors);
    if (s->tensors == NULL || map_init(&s->by_name, r->n) != 0)
        return ERR_NOMEM;
    for (size_t i = 0; i < r->n; i++) {
        struct safetensors_tensor *t = &s->tensors[i];
        *t = r->entries[i].t;
        if (map_put(&s->by_name, t->name, strlen(t->name), (int64_t)i) != 0)
            return ERR_NOMEM; /* there are no two of one name: the scan saw to it */
    }
    return 0;
}

static int check_start(const struct file *f, uint64_t *header, struct err *e)
{
    if (f->size < LENGTH_BYTES + 2)
        return err_set(e, ERR_CORRUPT, "not a safetensors file: it has %zu bytes", f->size);
    memcpy(header, f->data, LENGTH_BYTES);
    if (f->data[LENGTH_BYTES] != '{')
        return err_set(e, ERR_CORRUPT, "not a safetensors file: its header does not begin with {");
    if (*header > SAFETENSORS_MAX_HEADER)
        return err_set(e, ERR_CORRUPT,
                       "the safetensors header has %" PRIu64 " bytes, allowed are at most %d",
                       *header, SAFETENSORS_MAX_HEADER);
    if (*header > f->size - LENGTH_BYTES)
        return err_set(e, ERR_CORRUPT,
                       "the safetensors header has %" PRIu64
                       " bytes but the file has %zu: incomplete download?",
                       *header, f->size);
    return 0;
}

static int read_file(struct safetensors *s, struct err *e)
{
    uint64_t header = 0;
    int rc = check_start(&s->file, &header, e);
    if (rc != 0)
        return rc;
    const struct json_limits limits = {
        .max_bytes = SAFETENSORS_MAX_HEADER, .max_depth = 4, .max_nodes = NODES_MAX};
    rc = json_parse(&s->doc, s->file.data + LENGTH_BYTES, (size_t)header, &limits, e);
    if (rc != 0) {
        if (e != NULL && rc != ERR_NOMEM)
            e->code = ERR_CORRUPT;
        err_wrap(e, "safetensors header");
        return rc == ERR_NOMEM ? rc : ERR_CORRUPT;
    }
    int n = json_size(s->doc);
    if (json_type(s->doc) != JSON_OBJECT || n > SAFETENSORS_MAX_TENSORS)
        return err_set(e, ERR_CORRUPT, "the safetensors header has %d entries, allowed are %d", n,
                       SAFETENSORS_MAX_TENSORS);
    struct reader r = {.data = s->file.data + LENGTH_BYTES + header,
                       .n_data = s->file.size - LENGTH_BYTES - header,
                       .entries = mem_try((size_t)n + 1, sizeof *r.entries),
                       .e = e};
    arena_init(&s->arena, ((size_t)n + 1) * 2 * sizeof *s->tensors);
    rc = r.entries != NULL ? read_entries(s, &r) : ERR_NOMEM;
    if (rc == 0)
        rc = keep_entries(s, &r);
    free(r.entries);
    if (rc == ERR_NOMEM)
        return err_set(e, rc, "out of memory for the tables of the safetensors header");
    if (rc == 0 && file_damaged(&s->file))
        rc = err_set(e, ERR_IO, "the file changed while it was read");
    return rc;
}

int safetensors_open(struct safetensors **out, const char *path, struct err *e)
{
    struct safetensors *s = xcalloc(1, sizeof *s);
    int rc = file_open(&s->file, path, e);
    if (rc != 0) {
        free(s);
        return rc;
    }
    rc = read_file(s, e);
    if (rc != 0) {
        err_wrap(e, "%s", file_tail(path));
        safetensors_close(s);
        return rc;
    }
    *out = s;
    return 0;
}

void safetensors_close(struct safetensors *s)
{
    if (s == NULL)
        return;
    map_free(&s->by_name);
    arena_free(&s->arena);
    json_free(s->doc);
    file_close(&s->file);
    free(s);
}

struct file *safetensors_file(struct safetensors *s)
{
    return &s->file;
}

int safetensors_n_tensors(const struct safetensors *s)
{
    return (int)s->n_tensors;
}

const struct safetensors_tensor *safetensors_tensor_at(const struct safetensors *s, int i)
{
    return &s->tensors[i];
}

const struct safetensors_tensor *safetensors_find(const struct safetensors *s, const char *name)
{
    int64_t i;
    return map_get(&s->by_name, name, strlen(name), &i) ? &s->tensors[i] : NULL;
}

const char *safetensors_metadata(const struct safetensors *s, const char *key)
{
    return json_str(json_get(s->metadata, key));
}
