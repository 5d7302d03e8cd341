/* Opening NCCL's library. */
#include "kernels/cuda/cuda_nccl.h"

#include <dlfcn.h>

#define LIBRARY "libnccl.so.2"

/* dlsym gives a data pointer where POSIX means a function. */
static int find(void *library, const char *name, void *function, struct err *e)
{
    void *found = dlsym(library, name);
    if (!found)
        return err_set(e, ERR_UNSUPPORTED, LIBRARY " has no %s", name);
    *(void **)function = found;
    return 0;
}

int cuda_nccl_load(struct cuda_nccl *n, struct err *e)
{
    *n = (struct cuda_nccl){.library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL)};
    if (!n->library)
        return err_set(e, ERR_UNSUPPORTED,
                       "one model on several devices needs NCCL, which cannot be loaded: %s",
                       dlerror()); /* NOLINT(concurrency-mt-unsafe): glibc's is a thread's own */
    int rc = find(n->library, "ncclGetErrorString", &n->GetErrorString, e);
#define X(name, arguments) rc = rc ? rc : find(n->library, "nccl" #name, &n->name, e);
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
