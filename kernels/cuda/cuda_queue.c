/* The compute stream's queue on the host; cuda_queue.h has the design. */
#include "kernels/cuda/cuda_queue.h"

#include <stdlib.h>
#include <string.h>

#include "base/arena.h"

enum {
    MAX_ARGS = 32,
    ARG_ALIGN = 16,
    MAX_COMMANDS = 8192, /* held back; then they go by themselves */
    GRAPH_MIN = 8,       /* commands that are worth a graph */
    N_GRAPHS = 16,       /* kept */
    N_SEEN = 8,          /* lists that came once, so far */
    PIECE_MIN = 4,       /* the same where steps come in pieces */
    N_PIECES = 512,      /* of either */
    MAX_FAILURES = 4,    /* captures; then there are no graphs any more */
};
#define GRAPH_MAX_BYTES ((size_t)1 << 20)
#define SHARED_UNASKED \
    ((size_t)32 << 10) /* dynamic; static arrays take less than the other 16 KiB */

enum kind { KERNEL, COPY, CLEAR, CALL };

/* A record of a list; its arguments follow, each at a multiple of ARG_ALIGN. */
struct command {
    uint32_t bytes; /* to the next one */
    uint32_t kind;
    const void *function; /* KERNEL */
    cuda_queue_function *call;
    uint32_t grid[3], block[3];
    uint32_t shared_bytes, n_args;
    void *to; /* COPY, CLEAR */
    const void *from;
    uint64_t n;
    uint32_t arg_at[MAX_ARGS];
    uint32_t copy_kind, early;
};

struct list {
    char *data; /* malloc aligns enough */
    size_t bytes, cap;
    int n;
};

/* What came before, with its graph or not yet. */
struct known {
    struct list list; /* head copy included */
    uint64_t hash;    /* of it */
    cudaGraphExec_t exec;
    uint64_t used;
};

struct cuda_queue {
    cudaStream_t stream;
    struct list held;
    struct {
        char *to;
        const char *from;
        size_t bytes;
    } head;
    struct known *graphs, *seen;
    int n_graphs, n_seen, min_commands;
    uint64_t clock;
    cudaError_t error; /* of what went by itself */
    const char *what;  /* failed */
    struct cuda_queue_stats stats;
};

static _Thread_local struct cuda_queue *current;

void cuda_queue_open(struct cuda_queue **out, cudaStream_t stream)
{
    struct cuda_queue *q = xcalloc(1, sizeof *q);
    q->stream = stream;
    q->graphs = xcalloc(N_GRAPHS, sizeof *q->graphs);
    q->seen = xcalloc(N_SEEN, sizeof *q->seen);
    q->n_graphs = N_GRAPHS;
    q->n_seen = N_SEEN;
    q->min_commands = GRAPH_MIN;
    *out = q;
}

static void forget_known(struct known *k)
{
    if (k->exec)
        cudaGraphExecDestroy(k->exec);
    free(k->list.data);
    *k = (struct known){0};
}

static void forget_all(struct cuda_queue *q)
{
    for (int i = 0; i < q->n_graphs; i++)
        forget_known(&q->graphs[i]);
    for (int i = 0; i < q->n_seen; i++)
        forget_known(&q->seen[i]);
    free(q->graphs);
    free(q->seen);
}

void cuda_queue_pieces(struct cuda_queue *q)
{
    forget_all(q);
    q->graphs = xcalloc(N_PIECES, sizeof *q->graphs);
    q->seen = xcalloc(N_PIECES, sizeof *q->seen);
    q->n_graphs = q->n_seen = N_PIECES;
    q->min_commands = PIECE_MIN;
}

void cuda_queue_close(struct cuda_queue *q)
{
    if (!q)
        return;
    if (current == q)
        current = NULL;
    forget_all(q);
    free(q->held.data);
    free(q);
}

void cuda_queue_use(struct cuda_queue *q)
{
    current = q;
}

struct cuda_queue_stats cuda_queue_stats(const struct cuda_queue *q)
{
    return q->stats;
}

/* ---- writing down ---- */

static void *list_add(struct list *l, size_t bytes)
{
    if (l->bytes + bytes > l->cap) {
        l->cap = 2 * (l->bytes + bytes);
        l->data = xrealloc(l->data, l->cap);
    }
    char *at = l->data + l->bytes;
    memset(at, 0, bytes);
    l->bytes += bytes;
    l->n++;
    return at;
}

static size_t aligned(size_t bytes)
{
    return (bytes + ARG_ALIGN - 1) / ARG_ALIGN * ARG_ALIGN;
}

/* The first command is the copy of what is sent, even of nothing. */
static struct command *add(struct cuda_queue *q, enum kind kind, size_t args_bytes)
{
    if (q->held.n >= MAX_COMMANDS)
        q->error = cuda_queue_flush(q, &q->what);
    const size_t bytes = aligned(sizeof(struct command)) + args_bytes;
    if (q->held.n == 0)
        *(struct command *)list_add(&q->held, aligned(sizeof(struct command))) =
            (struct command){.bytes = (uint32_t)aligned(sizeof(struct command)),
                             .kind = COPY,
                             .copy_kind = cudaMemcpyHostToDevice};
    struct command *c = list_add(&q->held, bytes);
    c->bytes = (uint32_t)bytes;
    c->kind = kind;
    return c;
}

void cuda_queue_send(struct cuda_queue *q, void *to, const void *pinned, size_t bytes)
{
    if (q->head.bytes == 0) {
        q->head.to = to;
        q->head.from = pinned;
    }
    q->head.bytes = (size_t)((char *)to - q->head.to) + bytes;
}

/* Rounded up, so that a list that grows by a page is the same for longer. */
static void fill_head(struct cuda_queue *q)
{
    struct command *c = (struct command *)(void *)q->held.data;
    c->to = q->head.bytes ? q->head.to : NULL;
    c->from = q->head.bytes ? q->head.from : NULL;
    c->n = (q->head.bytes + CUDA_QUEUE_ROUND - 1) / CUDA_QUEUE_ROUND * CUDA_QUEUE_ROUND;
    q->head.bytes = 0;
}

void cuda_queue_copy(struct cuda_queue *q, void *to, const void *from, size_t bytes,
                     enum cudaMemcpyKind kind)
{
    struct command *c = add(q, COPY, 0);
    c->to = to;
    c->from = from;
    c->n = bytes;
    c->copy_kind = (uint32_t)kind;
}

void cuda_queue_call(struct cuda_queue *q, cuda_queue_function *f, const void *args, size_t bytes)
{
    struct command *c = add(q, CALL, aligned(bytes));
    c->call = f;
    memcpy((char *)c + aligned(sizeof *c), args, bytes);
}

static bool holds_back(cudaStream_t stream)
{
    return current && current->stream == stream;
}

void cuda_queue_clear(void *to, size_t bytes, cudaStream_t stream)
{
    if (!holds_back(stream)) {
        cudaMemsetAsync(to, 0, bytes, stream); /* its error stays with the runtime */
        return;
    }
    struct command *c = add(current, CLEAR, 0);
    c->to = to;
    c->n = bytes;
}

/* A kernel may have 48 KiB of shared memory, its static arrays among them, and more where that was said before the
 * launch: here, and only ever more, since launches that wait in lists want different amounts. */
static cudaError_t allow_shared(const void *function, size_t bytes)
{
    struct cudaFuncAttributes has;
    if (bytes <= SHARED_UNASKED)
        return cudaSuccess;
    cudaError_t rc = cudaFuncGetAttributes(&has, function);
    if (rc == cudaSuccess && (size_t)has.maxDynamicSharedSizeBytes < bytes)
        rc =
            cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    return rc;
}

/* Whether the device runs code of the function that knows how to wait: made for sm_90 or newer. */
static bool can_be_early(const void *function)
{
    struct cudaFuncAttributes has;
    return cudaFuncGetAttributes(&has, function) == cudaSuccess && has.ptxVersion >= 90;
}

static cudaError_t launch(const struct cuda_queue_kernel *k, cudaStream_t stream)
{
    const cudaError_t rc = allow_shared(k->function, k->shared_bytes);
    if (rc != cudaSuccess)
        return rc;
    cudaLaunchAttribute early = {.id = cudaLaunchAttributeProgrammaticStreamSerialization,
                                 .val.programmaticStreamSerializationAllowed = 1};
    const cudaLaunchConfig_t config = {.gridDim = {k->grid[0], k->grid[1], k->grid[2]},
                                       .blockDim = {k->block[0], k->block[1], k->block[2]},
                                       .dynamicSmemBytes = k->shared_bytes,
                                       .stream = stream,
                                       .attrs = &early,
                                       .numAttrs = k->early && can_be_early(k->function)};
    return cudaLaunchKernelExC(&config, k->function, k->args);
}

void cuda_queue_launch(const struct cuda_queue_kernel *k, cudaStream_t stream)
{
    if (!holds_back(stream) || k->n_args > MAX_ARGS) {
        if (holds_back(stream))
            current->error = cuda_queue_flush(current, &current->what);
        launch(k, stream);
        return;
    }
    size_t bytes = 0;
    for (int i = 0; i < k->n_args; i++)
        bytes += aligned(k->arg_bytes[i]);
    struct command *c = add(current, KERNEL, bytes);
    c->function = k->function;
    memcpy(c->grid, k->grid, sizeof c->grid);
    memcpy(c->block, k->block, sizeof c->block);
    c->shared_bytes = (uint32_t)k->shared_bytes;
    c->n_args = (uint32_t)k->n_args;
    c->early = k->early;
    size_t at = aligned(sizeof *c);
    for (int i = 0; i < k->n_args; i++) {
        memcpy((char *)c + at, k->args[i], k->arg_bytes[i]);
        c->arg_at[i] = (uint32_t)at;
        at += aligned(k->arg_bytes[i]);
    }
}

/* ---- into the stream ---- */

static cudaError_t issue_one(struct command *c, cudaStream_t stream)
{
    void *args[MAX_ARGS];
    switch (c->kind) {
    case COPY:
        if (c->n == 0)
            return cudaSuccess;
        return cudaMemcpyAsync(c->to, c->from, c->n, (enum cudaMemcpyKind)c->copy_kind, stream);
    case CLEAR:
        return cudaMemsetAsync(c->to, 0, c->n, stream);
    case CALL:
        return c->call((const char *)c + aligned(sizeof *c), stream);
    default:
        for (uint32_t i = 0; i < c->n_args; i++)
            args[i] = (char *)c + c->arg_at[i];
        return launch(&(struct cuda_queue_kernel){.function = c->function,
                                                  .grid = {c->grid[0], c->grid[1], c->grid[2]},
                                                  .block = {c->block[0], c->block[1], c->block[2]},
                                                  .shared_bytes = c->shared_bytes,
                                                  .args = args,
                                                  .early = c->early},
                      stream);
    }
}

static cudaError_t issue(struct cuda_queue *q, const struct list *l)
{
    static const char *const kinds[] = {[KERNEL] = "a kernel was not launched",
                                        [COPY] = "a copy",
                                        [CLEAR] = "clearing memory",
                                        [CALL] = "a call of cuBLASLt"};
    cudaError_t rc = cudaSuccess;
    for (size_t at = 0; at < l->bytes && rc == cudaSuccess;) {
        struct command *c = (struct command *)(void *)(l->data + at);
        rc = issue_one(c, q->stream);
        q->what = kinds[c->kind];
        at += c->bytes;
    }
    return rc;
}

static bool same(const struct list *a, const struct list *b)
{
    return a->bytes == b->bytes && memcmp(a->data, b->data, a->bytes) == 0;
}

/* FNV-1a by words; a list's bytes are a multiple of them. */
static uint64_t hash_of(const struct list *l)
{
    uint64_t h = 0xcbf29ce484222325u, word;
    for (size_t at = 0; at < l->bytes; at += sizeof word) {
        memcpy(&word, l->data + at, sizeof word);
        h = (h ^ word) * 0x100000001b3u;
        h ^= h >> 32;
    }
    return h;
}

static struct known *find(struct known *k, int n, const struct list *l, uint64_t hash)
{
    for (int i = 0; i < n; i++)
        if (k[i].hash == hash && k[i].list.data && same(&k[i].list, l))
            return &k[i];
    return NULL;
}

/* An empty one, or that which was not used for longest. */
static struct known *oldest(struct known *k, int n)
{
    struct known *found = k;
    for (int i = 1; i < n; i++)
        if (k[i].used < found->used)
            found = &k[i];
    return found;
}

static cudaError_t capture(struct cuda_queue *q, const struct list *l, cudaGraph_t *graph)
{
    cudaError_t rc = cudaStreamBeginCapture(q->stream, cudaStreamCaptureModeThreadLocal);
    if (rc != cudaSuccess)
        return rc;
    rc = issue(q, l);
    cudaError_t end = cudaStreamEndCapture(q->stream, graph); /* whatever went wrong before */
    return rc != cudaSuccess ? rc : end;
}

/* A graph of the list, out of an old one where that can be. */
static cudaError_t instantiate(struct cuda_queue *q, const struct list *l, cudaGraphExec_t *exec)
{
    cudaGraph_t graph = NULL;
    cudaError_t rc = capture(q, l, &graph);
    q->stats.captures++;
    if (rc == cudaSuccess && *exec) {
        cudaGraphExecUpdateResultInfo info;
        if (cudaGraphExecUpdate(*exec, graph, &info) == cudaSuccess) {
            q->stats.updates++;
        } else {
            cudaGetLastError(); /* other kernels: that is no error */
            cudaGraphExecDestroy(*exec);
            *exec = NULL;
        }
    }
    if (rc == cudaSuccess && !*exec)
        rc = cudaGraphInstantiate(exec, graph, 0);
    if (graph)
        cudaGraphDestroy(graph);
    if (rc != cudaSuccess) {
        cudaGetLastError(); /* told in the statistics */
        q->stats.failures++;
        if (*exec)
            cudaGraphExecDestroy(*exec);
        *exec = NULL;
    }
    return rc;
}

static void keep_list(struct list *to, const struct list *l)
{
    if (to->cap < l->bytes) {
        free(to->data);
        *to = (struct list){.data = xcalloc(1, l->bytes), .cap = l->bytes};
    }
    memcpy(to->data, l->data, l->bytes);
    to->bytes = l->bytes;
    to->n = l->n;
}

static cudaError_t run_graph(struct cuda_queue *q, struct known *k)
{
    k->used = q->clock;
    q->what = "a graph was not launched";
    q->stats.graph_launches++;
    return cudaGraphLaunch(k->exec, q->stream);
}

/* The second time: of a graph that is used least, this one's is made. */
static cudaError_t promote(struct cuda_queue *q, struct known *s)
{
    struct known *g = oldest(q->graphs, q->n_graphs);
    cudaGraphExec_t exec = g->exec;
    g->exec = NULL;
    g->used = 0;
    if (instantiate(q, &s->list, &exec) != cudaSuccess) {
        g->list.bytes = 0;
        return issue(q, &s->list); /* a device that is lost says so again */
    }
    struct list spare = g->list;
    g->list = s->list;
    g->hash = s->hash;
    g->exec = exec;
    s->list = spare;
    s->list.bytes = 0;
    s->used = 0;
    return run_graph(q, g);
}

cudaError_t cuda_queue_flush(struct cuda_queue *q, const char **what)
{
    const struct list *l = &q->held;
    cudaError_t rc = q->error;
    q->error = cudaSuccess;
    *what = q->what;
    if (rc != cudaSuccess || l->n == 0) {
        cuda_queue_forget(q);
        return rc;
    }
    q->stats.flushes++;
    q->clock++;
    fill_head(q);
    const uint64_t hash = hash_of(l);
    struct known *k = find(q->graphs, q->n_graphs, l, hash);
    if (k) {
        rc = run_graph(q, k);
    } else if (l->n < q->min_commands || l->bytes > GRAPH_MAX_BYTES ||
               q->stats.failures >= MAX_FAILURES) {
        rc = issue(q, l);
    } else if ((k = find(q->seen, q->n_seen, l, hash)) != NULL) {
        rc = promote(q, k);
    } else {
        k = oldest(q->seen, q->n_seen);
        keep_list(&k->list, l);
        k->hash = hash;
        k->used = q->clock;
        rc = issue(q, l);
    }
    *what = q->what;
    cuda_queue_forget(q);
    return rc;
}

void cuda_queue_forget(struct cuda_queue *q)
{
    q->held.bytes = 0;
    q->held.n = 0;
    q->head.bytes = 0;
}
