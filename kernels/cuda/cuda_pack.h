/* Weights packed (cuda_weight.h) by several threads at once.
 * Thread: any; who finds another one's weight being packed does his own alone. */
#ifndef KERNELS_CUDA_CUDA_PACK_H
#define KERNELS_CUDA_CUDA_PACK_H
#include "kernels/backend.h"

struct cuda_pack;

/* Its threads sleep until there is something to pack. */
int cuda_pack_open(struct cuda_pack **out, struct err *e);
void cuda_pack_close(struct cuda_pack *p); /* NULL is nothing */
/* As cuda_weight_pack. */
void cuda_pack_units(struct cuda_pack *p, void *to, const struct weight *w, const void *raw,
                     int64_t begin, int64_t end);
#endif
