/* From logits to tokens on the device, so that a step reads back four bytes a row and not a vocabulary.
 * Thread: the backend's.
 *
 * A row's result depends on its logits, its history and its parameters alone.  Penalties, top_k and top_p
 * mean what engine/sample.c makes of them, except that tokens of the same weight as the last one kept
 * are kept too. */
#ifndef KERNELS_CUDA_CUDA_SAMPLE_H
#define KERNELS_CUDA_CUDA_SAMPLE_H
#include <cuda_runtime_api.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/choose.h"

struct cuda_sample_call {
    float *logits; /* [rows, n_vocab]; changed */
    const struct choose_row *rows;
    const int32_t *ids;
    int32_t *out; /* [rows] token, or -1 where no logit is finite */
    int n_rows, n_vocab;
    void *work; /* cuda_sample_work_bytes */
};

#ifdef __cplusplus
extern "C" {
#endif
size_t cuda_sample_work_bytes(int n_rows, int n_vocab);
void cuda_sample_launch(const struct cuda_sample_call *c, cudaStream_t stream);
#ifdef __cplusplus
}
#endif
#endif
