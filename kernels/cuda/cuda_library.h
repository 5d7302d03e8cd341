/* Libraries that are opened at run time, so that the server also runs without them (cuda_nccl.c, cuda_blas.c).
 * Thread: any. */
#ifndef KERNELS_CUDA_CUDA_LIBRARY_H
#define KERNELS_CUDA_CUDA_LIBRARY_H
#include "base/err.h"

/* A function of the library that dlopen gave to the pointer at `function`; ERR_UNSUPPORTED, "LABEL has no NAME". */
int cuda_library_find(void *library, const char *label, const char *name, void *function,
                      struct err *e);
#endif
