/* Addresses without memory, and memory that comes and goes in pieces: what pages of a cache lie in.  The driver's
 * virtual memory, asked for at run time; a driver that has none of it gets the whole range at once. */
#include <cuda.h>
#include <stdlib.h>

#include "base/arena.h"
#include "kernels/cuda/cuda_backend.h"

#define PIECE_BYTES ((size_t)8 << 20) /* at most, of ranges of many */
#define MANY_PIECES 64
#define API_VERSION 12000

/* clang-format off */
#define DRIVER(X) \
    X(cuMemAddressReserve, reserve, (CUdeviceptr *, size_t, size_t, CUdeviceptr, unsigned long long)) \
    X(cuMemAddressFree, unreserve, (CUdeviceptr, size_t)) \
    X(cuMemCreate, create, (CUmemGenericAllocationHandle *, size_t, const CUmemAllocationProp *, unsigned long long)) \
    X(cuMemRelease, release, (CUmemGenericAllocationHandle)) \
    X(cuMemMap, map, (CUdeviceptr, size_t, size_t, CUmemGenericAllocationHandle, unsigned long long)) \
    X(cuMemUnmap, unmap, (CUdeviceptr, size_t)) \
    X(cuMemSetAccess, set_access, (CUdeviceptr, size_t, const CUmemAccessDesc *, size_t)) \
    X(cuMemGetAllocationGranularity, granularity, (size_t *, const CUmemAllocationProp *, CUmemAllocationGranularity_flags))
/* clang-format on */

struct driver {
#define X(symbol, name, args) CUresult(*name) args;
    DRIVER(X)
#undef X
};

struct cuda_range {
    struct cuda_range *next;
    struct driver driver;
    CUdeviceptr base;
    void *whole; /* of a driver without */
    size_t bytes, piece_bytes;
    CUmemGenericAllocationHandle *handles; /* [bytes / piece_bytes], 0: no memory */
};

static bool find_driver(struct driver *d)
{
    enum cudaDriverEntryPointQueryResult found;
    void *fn;
    bool all = true;
#define X(symbol, name, args)                                                                      \
    fn = NULL;                                                                                     \
    all = all &&                                                                                   \
          cudaGetDriverEntryPointByVersion(#symbol, &fn, API_VERSION, 0, &found) == cudaSuccess && \
          found == cudaDriverEntryPointSuccess && fn;                                              \
    d->name = (CUresult(*) args)fn;
    DRIVER(X)
#undef X
    if (!all)
        cudaGetLastError(); /* that is no error */
    return all;
}

static CUmemAllocationProp prop_of(const struct cuda_backend *cb)
{
    return (CUmemAllocationProp){.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                 .location = {CU_MEM_LOCATION_TYPE_DEVICE, cb->device}};
}

static void *base_of(const struct cuda_range *r)
{
    return r->whole ? r->whole : (void *)(uintptr_t)r->base; // NOLINT(performance-no-int-to-ptr)
}

static struct cuda_range *range_of(struct cuda_backend *cb, const void *base)
{
    struct cuda_range *r = cb->ranges;
    while (r && base_of(r) != base)
        r = r->next;
    return r;
}

void *cuda_range_open(struct backend *be, size_t bytes, size_t *piece_bytes, struct err *e)
{
    struct cuda_backend *cb = cuda_of(be);
    const CUmemAllocationProp prop = prop_of(cb);
    struct cuda_range *r = xcalloc(1, sizeof *r);
    size_t piece = 0;
    if (find_driver(&r->driver) &&
        r->driver.granularity(&piece, &prop, CU_MEM_ALLOC_GRANULARITY_MINIMUM) == CUDA_SUCCESS) {
        while (piece < PIECE_BYTES && piece * MANY_PIECES < bytes)
            piece *= 2;
        r->bytes = (bytes + piece - 1) / piece * piece;
        r->piece_bytes = piece;
        if (r->driver.reserve(&r->base, r->bytes, 0, 0, 0) != CUDA_SUCCESS)
            r->base = 0;
    }
    if (!r->base) {
        r->bytes = r->piece_bytes = bytes;
        r->whole = cuda_mem_alloc(be, bytes, e);
    }
    if (!base_of(r)) {
        free(r);
        return NULL;
    }
    r->handles = xcalloc(r->bytes / r->piece_bytes, sizeof *r->handles);
    r->next = cb->ranges;
    cb->ranges = r;
    *piece_bytes = r->piece_bytes;
    return base_of(r);
}

int cuda_range_fill(struct backend *be, void *base, size_t piece, struct err *e)
{
    struct cuda_backend *cb = cuda_of(be);
    struct cuda_range *r = range_of(cb, base);
    if (r->whole || r->handles[piece])
        return 0;
    const CUdeviceptr at = r->base + piece * r->piece_bytes;
    const CUmemAllocationProp prop = prop_of(cb);
    const CUmemAccessDesc access = {prop.location, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    CUmemGenericAllocationHandle h = 0;
    if (r->driver.create(&h, r->piece_bytes, &prop, 0) != CUDA_SUCCESS)
        return err_set(e, ERR_NOMEM, "%s: no memory for %zu MiB of its cache", cb->name,
                       r->piece_bytes >> 20);
    if (r->driver.map(at, r->piece_bytes, 0, h, 0) != CUDA_SUCCESS) {
        r->driver.release(h);
        return err_set(e, ERR_DEVICE, "%s: memory cannot be mapped", cb->name);
    }
    r->handles[piece] = h;
    if (r->driver.set_access(at, r->piece_bytes, &access, 1) != CUDA_SUCCESS)
        return err_set(e, ERR_DEVICE, "%s: memory cannot be accessed", cb->name);
    if (!cb->dead)
        cuda_queue_clear((char *)base + piece * r->piece_bytes, r->piece_bytes, cuda_stream(cb));
    return 0;
}

static void drop(struct cuda_range *r, size_t piece)
{
    if (!r->handles[piece])
        return;
    r->driver.unmap(r->base + piece * r->piece_bytes, r->piece_bytes);
    r->driver.release(r->handles[piece]);
    r->handles[piece] = 0;
}

void cuda_range_drop(struct backend *be, void *base, size_t piece)
{
    struct cuda_backend *cb = cuda_of(be);
    cuda_wait(cb); /* what is queued may still write there */
    drop(range_of(cb, base), piece);
}

void cuda_range_close(struct backend *be, void *base)
{
    struct cuda_backend *cb = cuda_of(be);
    struct cuda_range **link = &cb->ranges;
    while (*link && base_of(*link) != base)
        link = &(*link)->next;
    struct cuda_range *r = *link;
    if (!r)
        return;
    cuda_wait(cb);
    for (size_t i = 0; i < r->bytes / r->piece_bytes; i++)
        drop(r, i);
    if (r->whole)
        cuda_mem_free(be, r->whole);
    else
        r->driver.unreserve(r->base, r->bytes);
    *link = r->next;
    free(r->handles);
    free(r);
}
