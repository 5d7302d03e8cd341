/* Block formats of weights: layout, size, scalar unpack and pack.  This is the law that every
 * repacked layout and every kernel is checked against.  Formats as ggml defines them
 * (ggml-common.h, docs/gguf.md); K-quants have 256 elements a block, the others 32.
 * Thread: any. */
#ifndef KERNELS_QUANT_H
#define KERNELS_QUANT_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/tensor.h"

bool dtype_known(uint32_t type);         /* one of enum dtype */
const char *dtype_name(enum dtype type); /* "q4_1" */
int dtype_block(enum dtype type);        /* elements a block: 1, 32 or 256 */
int dtype_block_bytes(enum dtype type);
/* Bytes of n elements; n must be a multiple of dtype_block. */
size_t dtype_bytes(enum dtype type, int64_t n);

float f16_to_f32(uint16_t h);
uint16_t f32_to_f16(float f); /* round to nearest even */
float bf16_to_f32(uint16_t h);
uint16_t f32_to_bf16(float f);

/* n elements (a multiple of the block) from packed src to floats. */
void quant_unpack(enum dtype type, float *dst, const void *src, int64_t n);
/* floats to packed: F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 and Q4_K, Q6_K by simple
 * rounding (tests and benchmarks make models with it).  false for the other types. */
bool quant_pack(enum dtype type, void *dst, const float *src, int64_t n);
#endif
