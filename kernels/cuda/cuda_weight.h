/* From a file's matrix to the layout of the device (cuda_layout.h), on the host.
 * Thread: any; units may be packed by several at once. */
#ifndef KERNELS_CUDA_CUDA_WEIGHT_H
#define KERNELS_CUDA_CUDA_WEIGHT_H
#include "kernels/backend.h"
#include "kernels/cuda/cuda_layout.h"

/* NULL for a type that linear cannot multiply, and for F32, which stays in rows. */
const struct cuda_layout *cuda_weight_layout(enum dtype type);
int64_t cuda_weight_panels(enum dtype type, int64_t n_out); /* F32: rows */
/* Of one of them; 0 for a type that linear cannot multiply, or on overflow. */
size_t cuda_weight_panel_bytes(enum dtype type, int64_t n_in);
/* A matrix is units one after the other, all of the same size, panel by panel. */
size_t cuda_weight_unit_bytes(enum dtype type);
int64_t cuda_weight_units(const struct weight *w);
/* Units [begin, end) of raw [n_out, n_in] to `to`, where unit `begin` goes. */
void cuda_weight_pack(void *to, const struct weight *w, const void *raw, int64_t begin,
                      int64_t end);
#endif
