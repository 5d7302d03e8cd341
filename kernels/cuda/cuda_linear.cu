/* linear and embed: which kernels a call takes, and the memory between them:
 *
 *     [ pre(x), where it is not made by linear_x ] [ records: rows * n_records ] [ scales of rows ]
 *     [ sums of slices of shared tiles ]  */
#include "kernels/cuda/cuda_linear.h"

#include "kernels/cuda/cuda_fragment.cuh"
#include "kernels/cuda/cuda_linear_kernels.cuh"

static size_t round_up(size_t n)
{
    return (n + 255) / 256 * 256;
}

static size_t records_bytes(int rows, int n_in, int parts)
{
    return round_up((size_t)rows * CUDA_RECORDS(n_in) * CUDA_RECORD(parts));
}

/* pre(x) in memory: F32 matrices read it as it is, and a row must fit linear_x's shared memory. */
static size_t made_bytes(const struct cuda_linear_call *l)
{
    bool apart = l->n_in > LINEAR_X_KEPT;
    for (int i = 0; i < l->n_matrices; i++)
        apart = apart || l->m[i].type == DTYPE_F32;
    return apart && l->kind != LINEAR_AS_IS ? round_up((size_t)l->rows * l->n_in * sizeof(float))
                                            : 0;
}

/* The sums of the slices of shared tiles: at most, since narrower tiles may be chosen. */
static size_t sums_bytes(const struct cuda_linear_call *l)
{
    const int columns = l->rows > 64 ? 128 : l->rows > 32 ? 64 : 32;
    int64_t tiles = 0;
    for (int i = 0; i < l->n_matrices; i++)
        tiles += (l->m[i].n_out + TILE_OUTPUTS - 1) / TILE_OUTPUTS;
    tiles *= (l->rows + columns - 1) / columns;
    if (l->rows <= FEW_ROWS)
        return 0;
    return tile_sums_bytes(tiles < l->multiprocessors ? tiles : l->multiprocessors, columns);
}

size_t cuda_linear_work_bytes(const struct cuda_linear_call *l)
{
    return made_bytes(l) + records_bytes(l->rows, l->n_in, 2) +
           round_up((size_t)l->rows * sizeof(float)) + sums_bytes(l);
}

/* Halves of x, for weights of a type.  One is an x of f16, and an x of bf16: scaled, with blocks and F16, where
 * what is 2^-24 of the row's largest and less may lose bits. */
static int x_parts(const struct cuda_linear_call *l, enum dtype type)
{
    if (l->x.type != DTYPE_F32)
        return l->x.type == DTYPE_F16 && type == DTYPE_BF16 ? 2 : 1;
    return (type == DTYPE_F16 || type == DTYPE_BF16) && type != l->x_type ? 2 : 1;
}

/* The same call over what pre makes of x. */
static void make_apart(struct cuda_linear_call *l, size_t bytes, cudaStream_t stream)
{
    const struct cuda_array to = {l->work, l->x.type};
    if (l->kind == LINEAR_GLU)
        cuda_glu_launch(to, l->x, l->pre.up, (int64_t)l->rows * l->n_in, l->pre.act, stream);
    else
        cuda_norm_launch(to, l->x, l->kind, &l->pre, l->rows, l->n_in, stream);
    l->x = to;
    l->kind = LINEAR_AS_IS;
    l->work = static_cast<uint8_t *>(l->work) + bytes;
}

template <int type> static void job_shape(struct linear_job *j, int n_in)
{
    typedef cuda_format<type> F;
    const int unit_k = F::step_k * F::steps;
    const int units = (n_in + unit_k - 1) / unit_k;
    j->panel_bytes = (size_t)units * F::unit_bytes;
    j->n_steps = units * F::steps;
}

static void job_shape_of(struct linear_job *j, enum dtype type, int n_in)
{
    switch (type) {
#define X(name, ...)              \
    case name:                    \
        job_shape<name>(j, n_in); \
        break;
        CUDA_LAYOUTS(X)
#undef X
    default:
        break;
    }
}

/* Those of the matrices from `first` on that have its type and stand together. */
static int job_take(struct linear_job *j, const struct cuda_linear_call *l, int first)
{
    int n = 0;
    for (; first + n < l->n_matrices && l->m[first + n].type == l->m[first].type; n++) {
        const struct cuda_linear_matrix *m = &l->m[first + n];
        j->w[n] = static_cast<const uint8_t *>(m->w);
        j->bias[n] = m->bias;
        j->out[n] = m->out;
        j->n_out[n] = m->n_out;
        j->n_panels[n] = (m->n_out + CUDA_PANEL - 1) / CUDA_PANEL;
    }
    if (first == 0)
        j->add = l->add;
    job_shape_of(j, l->m[first].type, l->n_in);
    return n;
}

void cuda_linear_launch(const struct cuda_linear_call *call, cudaStream_t stream)
{
    struct cuda_linear_call made_call = *call, *l = &made_call;
    const size_t apart = made_bytes(call);
    if (l->rows <= 0)
        return;
    if (apart > 0)
        make_apart(l, apart, stream);
    int made = -1; /* what the records are now: bf16, parts */
    for (int i = 0, n; i < l->n_matrices; i += n) {
        const enum dtype type = l->m[i].type;
        if (type == DTYPE_F32) {
            cuda_linear_f32_launch(l, i, stream);
            n = 1;
            continue;
        }
        struct linear_job j = {};
        const bool bf16 = type == DTYPE_BF16;
        const int parts = x_parts(l, type);
        uint8_t *records = static_cast<uint8_t *>(l->work);
        float *up = reinterpret_cast<float *>(records + records_bytes(l->rows, l->n_in, parts));
        j.records = records;
        j.up = up;
        j.plan.sums = up + round_up((size_t)l->rows * sizeof(float)) / sizeof(float);
        j.plan.finished = l->finished;
        j.rows = l->rows;
        j.multiprocessors = l->multiprocessors;
        j.n_records = CUDA_RECORDS(l->n_in);
        n = job_take(&j, l, i);
        if (made != (bf16 ? 2 : 0) + parts) {
            cuda_linear_x_launch(records, up, l, parts, bf16, stream);
            made = (bf16 ? 2 : 0) + parts;
        }
        if (l->rows <= FEW_ROWS)
            cuda_linear_few_launch(j, type, parts, stream);
        else
            cuda_linear_many_launch(j, type, parts, stream);
    }
}

#define EMBED_THREADS 128

template <int type>
__global__ void __launch_bounds__(EMBED_THREADS)
    embed_kernel(float *out, const uint8_t *w, size_t panel_bytes, const int32_t *ids, int n_in)
{
    const int id = ids[blockIdx.x] < 0 ? 0 : ids[blockIdx.x]; /* the host throws that row away */
    const uint8_t *panel = w + (size_t)(id / CUDA_PANEL) * panel_bytes;
    for (int k = threadIdx.x; k < n_in; k += EMBED_THREADS)
        out[(size_t)blockIdx.x * n_in + k] = cuda_value<type>(panel, id % CUDA_PANEL, k);
}

__global__ void __launch_bounds__(EMBED_THREADS)
    embed_f32_kernel(float *out, const float *w, const int32_t *ids, int n_in)
{
    const int id = ids[blockIdx.x] < 0 ? 0 : ids[blockIdx.x];
    const float *row = w + (size_t)id * ((n_in + 3) / 4 * 4);
    for (int k = threadIdx.x; k < n_in; k += EMBED_THREADS)
        out[(size_t)blockIdx.x * n_in + k] = row[k];
}

void cuda_embed_launch(float *out, const void *w, enum dtype type, int n_in, const int32_t *ids,
                       int rows, cudaStream_t stream)
{
    if (rows <= 0)
        return;
    struct linear_job j = {};
    job_shape_of(&j, type, n_in);
    switch (type) {
    case DTYPE_F32:
        LAUNCH(embed_f32_kernel, rows, EMBED_THREADS, 0, stream, out, static_cast<const float *>(w),
               ids, n_in);
        break;
#define X(name, ...)                                                       \
    case name:                                                             \
        LAUNCH((embed_kernel<name>), rows, EMBED_THREADS, 0, stream, out,  \
               static_cast<const uint8_t *>(w), j.panel_bytes, ids, n_in); \
        break;
        CUDA_LAYOUTS(X)
#undef X
    default:
        break;
    }
}
