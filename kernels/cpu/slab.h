/* Memory of the weights: carved from large chunks that are made of huge pages where the system has them,
 * so that reading all weights of a layer takes few page table walks and the hardware's prefetching is
 * not stopped at every 4 KiB.  A matrix alone is often smaller than a huge page.
 * Thread: the backend's. */
#ifndef KERNELS_CPU_SLAB_H
#define KERNELS_CPU_SLAB_H
#include <stddef.h>

#include "base/err.h"

struct slab; /* a chunk */

/* Zeroed and 64-byte aligned; NULL if there is no memory. */
void *slab_alloc(struct slab **chunks, size_t bytes, struct err *e);

/* A chunk goes back to the system with the last of what was carved from it. */
void slab_free(struct slab **chunks, void *p);
#endif
