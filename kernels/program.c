/* Recording, the plan of memory, and running.
 *
 * In the first pass tensors get addresses that no memory has (from FAKE_BASE on, one after the other);
 * an op that mentions one extends its life.  Then tensors are placed, large ones first, each at the
 * lowest offset where nothing lives that meets it in time.  In the second pass the i-th tensor
 * gets the i-th place. */
#include "kernels/program.h"

#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "base/clock.h"
#include "kernels/quant.h"

#define FAKE_BASE   ((uintptr_t)1 << 62) /* above any address of a process */
#define FAKE_BYTES  ((size_t)1 << 60)
#define PLACE_ALIGN 64

enum { MAX_TENSORS = 11 /* that one op mentions */ };

/* ---- what the ops look like ---- */

/* A line for every op of BACKEND_OPS: where its struct points to tensors. */
#define AT(op, field) offsetof(struct op_##op, field)
#define NO_FIELD      SIZE_MAX
static const size_t fields_embed[] = {AT(embed, out)};
static const size_t fields_linear[] = {
    AT(linear, out[0]),  AT(linear, out[1]),   AT(linear, out[2]), AT(linear, bias[0]),
    AT(linear, bias[1]), AT(linear, bias[2]),  AT(linear, x),      AT(linear, add),
    AT(linear, pre.w),   AT(linear, pre.bias), AT(linear, pre.up)};
static const size_t fields_rmsnorm[] = {AT(rmsnorm, out), AT(rmsnorm, x), AT(rmsnorm, w)};
static const size_t fields_rope[] = {AT(rope, x)};
static const size_t fields_kv_store[] = {AT(kv_store, k), AT(kv_store, v)};
static const size_t fields_rope_store[] = {AT(rope_store, q), AT(rope_store, k), AT(rope_store, v)};
static const size_t fields_attn_paged[] = {AT(attn_paged, out), AT(attn_paged, q)};
static const size_t fields_glu[] = {AT(glu, out), AT(glu, gate), AT(glu, up)};
static const size_t fields_add[] = {AT(add, out), AT(add, a), AT(add, b)};
static const size_t fields_act[] = {AT(act, out), AT(act, x), AT(act, slope)};
static const size_t fields_concat[] = {AT(concat, out), AT(concat, a), AT(concat, b)};
static const size_t fields_cosine[] = {AT(cosine, out), AT(cosine, x), AT(cosine, w)};
static const size_t fields_layernorm[] = {AT(layernorm, out), AT(layernorm, x), AT(layernorm, w),
                                          AT(layernorm, bias)};
static const size_t fields_groupnorm[] = {AT(groupnorm, out), AT(groupnorm, x), AT(groupnorm, w),
                                          AT(groupnorm, bias)};
static const size_t fields_conv2d[] = {AT(conv2d, out), AT(conv2d, x), AT(conv2d, bias),
                                       AT(conv2d, add_image), AT(conv2d, add)};
static const size_t fields_lowrank[] = {AT(lowrank, out), AT(lowrank, x)};
static const size_t fields_attn[] = {NO_FIELD}; /* its items point to data: touch_items */

/* clang-format off */
enum op_kind {
#define X(op) KIND_##op,
    BACKEND_OPS(X)
#undef X
};

union op_args {
#define X(op) struct op_##op op;
    BACKEND_OPS(X)
#undef X
};

static const struct {
    size_t size;
    const size_t *fields;
    int n_fields;
} kinds[] = {
#define X(op) {sizeof(struct op_##op), fields_##op, (int)(sizeof fields_##op / sizeof(size_t))},
    BACKEND_OPS(X)
#undef X
};
/* clang-format on */

struct node {
    enum op_kind kind;
    union op_args args; /* its pointers to tensors lead to t */
    struct tensor t[MAX_TENSORS];
};

/* One tensor of the program. */
struct place {
    size_t bytes, offset;
    int first, last; /* ops; last < first: never touched */
};

struct array {
    struct array *next;
    max_align_t data[];
};

/* The host's copy of a pinned tensor (program_host). */
struct twin {
    struct twin *next;
    void *host, *device;
    size_t bytes;
    enum program_way way;
};

struct program {
    struct backend rec; /* what program_backend gives; first */
    struct backend *be;
    bool planning;
    enum dtype type; /* of tensors */
    int rc;          /* of what went wrong while recording */
    struct err err;

    struct node *nodes; /* [n_nodes], second pass */
    int n_nodes, n_planned, next;
    struct place *places; /* [n_places] */
    int n_places, cap_places, at_place;
    size_t fake_bytes;
    char *memory;
    size_t bytes, array_bytes;
    struct array *arrays;
    void *note;
    struct twin *twins;
};

/* ---- recording ---- */

static bool is_fake(const void *p)
{
    return (uintptr_t)p >= FAKE_BASE && (uintptr_t)p < FAKE_BASE + FAKE_BYTES;
}

/* The tensor whose made-up address is the highest that is not above `data`. */
static struct place *place_of(struct program *p, const void *data)
{
    size_t at = (uintptr_t)data - FAKE_BASE;
    int low = 0, high = p->n_places;
    while (high - low > 1) {
        int middle = low + (high - low) / 2;
        if (p->places[middle].offset <= at)
            low = middle;
        else
            high = middle;
    }
    return &p->places[low];
}

static void touch(struct program *p, const void *data)
{
    if (!p->planning || !is_fake(data) || p->n_places == 0)
        return;
    struct place *t = place_of(p, data);
    if (t->last < t->first && t->first == INT32_MAX)
        t->first = p->n_nodes;
    if (t->last < p->n_nodes)
        t->last = p->n_nodes;
}

static void touch_items(struct program *p, const struct op_attn *a)
{
    for (int i = 0; i < a->n_items; i++) {
        touch(p, a->items[i].q);
        touch(p, a->items[i].k);
        touch(p, a->items[i].v);
        touch(p, a->items[i].out);
    }
}

static void record(struct backend *rec, enum op_kind kind, const void *args)
{
    struct program *p = (struct program *)rec;
    struct node spare, *node = &spare;
    if (p->rc != 0)
        return;
    if (p->n_nodes >= (p->planning ? PROGRAM_MAX_OPS : p->n_planned)) {
        p->rc = err_set(&p->err, ERR_TOOBIG, "a program of more than %d ops", p->n_nodes);
        return;
    }
    if (!p->planning)
        node = &p->nodes[p->n_nodes];
    node->kind = kind;
    memcpy(&node->args, args, kinds[kind].size);
    for (int i = 0; i < kinds[kind].n_fields; i++) {
        const struct tensor *from;
        if (kinds[kind].fields[i] == NO_FIELD)
            continue;
        char *field = (char *)&node->args + kinds[kind].fields[i];
        memcpy(&from, field, sizeof from);
        if (from == NULL)
            continue;
        node->t[i] = *from;
        const struct tensor *to = &node->t[i];
        memcpy(field, &to, sizeof to);
        touch(p, from->data);
    }
    if (kind == KIND_attn)
        touch_items(p, &node->args.attn);
    p->n_nodes++;
}

/* clang-format off */
#define X(op)                                                                   \
    static void record_##op(struct backend *rec, const struct op_##op *args)   \
    {                                                                           \
        record(rec, KIND_##op, args);                                           \
    }
BACKEND_OPS(X)
#undef X

static const struct backend_ops recording_ops = {
#define X(op) .op = record_##op,
    BACKEND_OPS(X)
#undef X
};
/* clang-format on */

static size_t tensor_bytes(struct program *p, enum dtype type, int ndim, const int64_t *dims)
{
    size_t bytes = (size_t)dtype_block_bytes(type);
    bool bad = ndim < 1 || ndim > 4;
    for (int i = 0; i < ndim && !bad; i++)
        bad = dims[i] < 1 || __builtin_mul_overflow(bytes, (size_t)dims[i], &bytes);
    if (bad || bytes > FAKE_BYTES / 4 || p->fake_bytes > FAKE_BYTES / 2) {
        if (p->rc == 0)
            p->rc = err_set(&p->err, ERR_TOOBIG, "a tensor that is too large or has no elements");
        return 0;
    }
    return (bytes + PLACE_ALIGN - 1) / PLACE_ALIGN * PLACE_ALIGN;
}

static struct tensor add_tensor(struct program *p, int ndim, const int64_t *dims, bool pinned)
{
    struct tensor t = {.type = pinned ? DTYPE_F32 : p->type, .ndim = ndim};
    for (int i = 0; i < ndim && i < 4; i++)
        t.dims[i] = dims[i];
    size_t bytes = tensor_bytes(p, t.type, ndim, dims);
    if (p->rc != 0)
        return t;
    if (!p->planning) {
        if (p->at_place < p->n_places)
            t.data = p->memory + p->places[p->at_place++].offset;
        return t;
    }
    if (p->n_places == p->cap_places) {
        p->cap_places = p->cap_places > 0 ? 2 * p->cap_places : 256;
        p->places = xrealloc(p->places, (size_t)p->cap_places * sizeof *p->places);
    }
    t.data = (void *)(FAKE_BASE + p->fake_bytes); // NOLINT(performance-no-int-to-ptr)
    p->places[p->n_places++] = (struct place){.bytes = bytes,
                                              .offset = p->fake_bytes,
                                              .first = pinned ? 0 : INT32_MAX,
                                              .last = pinned ? INT32_MAX : -1};
    p->fake_bytes += bytes;
    return t;
}

void program_use(struct program *p, enum dtype type)
{
    p->type = type;
}

struct tensor program_tensor(struct program *p, int ndim, const int64_t *dims)
{
    return add_tensor(p, ndim, dims, false);
}

struct tensor program_pinned(struct program *p, int ndim, const int64_t *dims)
{
    return add_tensor(p, ndim, dims, true);
}

void program_pin(struct program *p, const struct tensor *t)
{
    if (!p->planning || !is_fake(t->data) || p->n_places == 0)
        return;
    struct place *at = place_of(p, t->data);
    at->first = 0;
    at->last = INT32_MAX;
}

void *program_array(struct program *p, size_t count, size_t size)
{
    size_t bytes = count * size;
    struct array *a = xcalloc(1, sizeof *a + bytes);
    a->next = p->arrays;
    p->arrays = a;
    p->array_bytes += bytes;
    return a->data;
}

static void free_arrays(struct program *p)
{
    for (struct array *a = p->arrays, *next; a != NULL; a = next) {
        next = a->next;
        free(a);
    }
    p->arrays = NULL;
    p->array_bytes = 0;
}

float *program_host(struct program *p, const struct tensor *t, enum program_way way)
{
    size_t bytes = sizeof(float);
    for (int i = 0; i < t->ndim; i++)
        bytes *= (size_t)t->dims[i];
    if (p->planning) {
        p->array_bytes += p->be->host_memory ? 0 : bytes;
        return NULL;
    }
    if (p->be->host_memory || t->data == NULL)
        return t->data;
    for (struct twin *w = p->twins; w != NULL; w = w->next)
        if (w->device == t->data && w->way == way)
            return w->host;
    struct err why = {0};
    void *host = p->be->host_alloc(p->be, bytes, &why);
    if (host == NULL) {
        p->rc = err_set(&p->err, ERR_NOMEM, "%s", why.msg);
        return NULL;
    }
    struct twin *w = xcalloc(1, sizeof *w);
    *w = (struct twin){
        .next = p->twins, .host = host, .device = t->data, .bytes = bytes, .way = way};
    p->twins = w;
    return host;
}

static void free_twins(struct program *p)
{
    for (struct twin *w = p->twins, *next; w != NULL; w = next) {
        next = w->next;
        p->be->host_free(p->be, w->host);
        free(w);
    }
}

struct backend *program_backend(struct program *p)
{
    return &p->rec;
}

void program_set_note(struct program *p, void *note)
{
    p->note = note;
}

void *program_note(const struct program *p)
{
    return p->note;
}

bool program_recording(const struct program *p)
{
    return !p->planning;
}

/* ---- the plan of memory ---- */

/* Large ones first; of equals the earlier. */
static int by_size(const void *a, const void *b)
{
    const struct place *pa = *(const struct place *const *)a, *pb = *(const struct place *const *)b;
    if (pa->bytes != pb->bytes)
        return pa->bytes < pb->bytes ? 1 : -1;
    return pa < pb ? -1 : pa > pb;
}

/* Puts t at the lowest offset that is free during its life.  placed: those before it, by offset. */
static void put(struct place *t, struct place **placed, int n)
{
    size_t at = 0;
    int i = 0;
    for (; i < n; i++) {
        const struct place *o = placed[i];
        if (o->first > t->last || o->last < t->first)
            continue;
        if (o->offset >= at + t->bytes)
            break;
        if (o->offset + o->bytes > at)
            at = o->offset + o->bytes;
    }
    t->offset = at;
    for (i = n; i > 0 && placed[i - 1]->offset > at; i--)
        placed[i] = placed[i - 1];
    placed[i] = t;
}

static void plan(struct program *p)
{
    const size_t n = (size_t)p->n_places;
    struct place **order = xcalloc(2 * n + 1, sizeof *order), **placed = order + n;
    for (size_t i = 0; i < n; i++)
        order[i] = &p->places[i];
    qsort(order, n, sizeof *order, by_size);
    int n_placed = 0;
    for (size_t i = 0; i < n; i++) {
        struct place *t = order[i];
        t->offset = 0;
        if (t->last < t->first)
            continue; /* nobody touches it */
        put(t, placed, n_placed++);
        if (t->offset + t->bytes > p->bytes)
            p->bytes = t->offset + t->bytes;
    }
    free(order);
}

static int first_pass(struct program **out, struct backend *be, program_record_fn *fn, void *arg,
                      struct err *e)
{
    struct program *p = xcalloc(1, sizeof *p);
    p->rec = (struct backend){.ops = &recording_ops,
                              .name = be->name,
                              .n_threads = be->n_threads,
                              .host_memory = be->host_memory,
                              .activations = be->activations};
    p->be = be;
    p->planning = true;
    fn(p, arg);
    if (p->rc == 0 && p->n_nodes == 0)
        p->rc = err_set(&p->err, ERR_INVALID, "a program without ops");
    int rc = p->rc;
    if (rc != 0) {
        err_set(e, rc, "%s", p->err.msg);
        program_close(p);
        return rc;
    }
    plan(p);
    p->n_planned = p->n_nodes;
    *out = p;
    return 0;
}

static size_t all_bytes(const struct program *p)
{
    return p->bytes + p->array_bytes + (size_t)p->n_planned * sizeof(struct node) +
           (size_t)p->n_places * sizeof(struct place);
}

size_t program_bytes(struct backend *be, program_record_fn *fn, void *arg, struct err *e)
{
    struct program *p;
    if (first_pass(&p, be, fn, arg, e) != 0)
        return 0;
    size_t bytes = all_bytes(p);
    program_close(p);
    return bytes;
}

int program_open(struct program **out, struct backend *be, program_record_fn *fn, void *arg,
                 struct err *e)
{
    struct program *p;
    int rc = first_pass(&p, be, fn, arg, e);
    if (rc != 0)
        return rc;
    free_arrays(p);
    p->planning = false;
    p->type = DTYPE_F32;
    p->n_nodes = 0;
    p->nodes = mem_try((size_t)p->n_planned, sizeof *p->nodes);
    if (p->nodes == NULL)
        rc = err_set(e, ERR_NOMEM, "no memory for %d ops", p->n_planned);
    else if (p->bytes > 0 && (p->memory = be->alloc(be, p->bytes, e)) == NULL)
        rc = ERR_NOMEM;
    if (rc == 0) {
        fn(p, arg);
        if (p->rc == 0 && (p->n_nodes != p->n_planned || p->at_place != p->n_places))
            p->rc = err_set(&p->err, ERR_INVALID, "the two passes of a program differ");
        rc = p->rc;
        if (rc != 0)
            err_set(e, rc, "%s", p->err.msg);
    }
    if (rc != 0) {
        program_close(p);
        return rc;
    }
    *out = p;
    return 0;
}

void program_close(struct program *p)
{
    if (p == NULL)
        return;
    free_arrays(p);
    free_twins(p);
    if (p->memory != NULL)
        p->be->free(p->be, p->memory);
    free(p->places);
    free(p->nodes);
    free(p);
}

size_t program_memory(const struct program *p)
{
    return all_bytes(p);
}

int program_n_ops(const struct program *p)
{
    return p->n_nodes;
}

/* ---- running ---- */

static void run_node(struct backend *be, const struct node *node)
{
    switch (node->kind) {
/* clang-format off */
#define X(op)                                    \
    case KIND_##op:                              \
        be->ops->op(be, &node->args.op);         \
        break;
        BACKEND_OPS(X)
#undef X
        /* clang-format on */
    }
}

static void move_twins(const struct program *p, enum program_way way)
{
    for (const struct twin *w = p->twins; w != NULL; w = w->next) {
        if (w->way == way && way == PROGRAM_IN)
            p->be->upload(p->be, w->device, w->host, w->bytes);
        else if (w->way == way)
            p->be->download(p->be, w->host, w->device, w->bytes);
    }
}

int program_run(struct program *p, int64_t until_us, struct err *e)
{
    if (p->rc != 0) {
        const int rc = p->rc;
        p->rc = 0; /* there may be memory the next time */
        return err_set(e, rc, "%s", p->err.msg);
    }
    if (p->next == 0)
        move_twins(p, PROGRAM_IN);
    do {
        run_node(p->be, &p->nodes[p->next++]);
    } while (p->next < p->n_nodes && clock_us() < until_us);
    bool more = p->next < p->n_nodes;
    if (!more) {
        p->next = 0;
        move_twins(p, PROGRAM_OUT);
    }
    int rc = p->be->sync(p->be, e);
    return rc != 0 ? rc : more;
}

void program_restart(struct program *p)
{
    p->next = 0;
}

int program_position(const struct program *p)
{
    return p->next;
}
