/* Opening NCCL's library. */
#include "kernels/cuda/cuda_nccl.h"

#include <dlfcn.h>

#include "kernels/cuda/cuda_library.h"

#define LIBRARY "libnccl.so.2"

int cuda_nccl_load(struct cuda_nccl *n, struct err *e)
{
    *n = (struct cuda_nccl){.library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL)};
    if (!n->library)
        return err_set(e, ERR_UNSUPPORTED,
                       "one model on several devices needs NCCL, which cannot be loaded: %s",
                       dlerror()); /* NOLINT(concurrency-mt-unsafe): glibc's is a thread's own */
    int rc = cuda_library_find(n->library, LIBRARY, "ncclGetErrorString", &n->GetErrorString, e);
#define X(name, arguments) \
    rc = rc ? rc : cuda_library_find(n->library, LIBRARY, "nccl" #name, &n->name, e);
    CUDA_NCCL_CALLS(X)
#undef X
    if (rc)
        cuda_nccl_unload(n);
    return rc;
}

void cuda_nccl_unload(struct cuda_nccl *n)
{
    if (n->library)
        dlclose(n->library);
    n->library = NULL;
}
