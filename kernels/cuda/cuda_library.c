/* Functions by their names. */
#include "kernels/cuda/cuda_library.h"

#include <dlfcn.h>

int cuda_library_find(void *library, const char *label, const char *name, void *function,
                      struct err *e)
{
    void *found = dlsym(library, name);
    if (!found)
        return err_set(e, ERR_UNSUPPORTED, "%s has no %s", label, name);
    *(void **)function = found; /* dlsym gives a data pointer where POSIX means a function */
    return 0;
}
