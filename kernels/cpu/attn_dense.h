/* What attn_dense.c hands to the inner loop: queries of one head against one chunk of its keys.
 * Thread: any; no state.
 *
 * Queries are the lanes of a vector, 16 in a panel, so that the softmax needs no sums across lanes and a
 * query's bits do not depend on its neighbours:
 *     score [keys, queries] = K Q^T       rows of K times panels of Q
 *     acc   [dims, queries] = V^T P       columns of V times panels of P = exp(score - m) */
#ifndef KERNELS_CPU_ATTN_DENSE_H
#define KERNELS_CPU_ATTN_DENSE_H
#include <stdint.h>

#define DENSE_CHUNK 256 /* keys */

struct attn_dense {
    const float *q;     /* [n_panels, head_dim, 16], scaled */
    const float *k, *v; /* of the head: [n_k] rows of head_dim floats, kv_stride apart */
    const int *limit;   /* [n_panels * 16] the query sees keys below it; NULL: all see all */
    float *score;       /* [n_panels, DENSE_CHUNK, 16] workspace */
    float *packed;      /* [SGEMM_ROWS, SGEMM_STRIDE] workspace */
    float *m, *l, *acc; /* [n_panels * 16] twice, [n_panels, head_dim, 16]: absorb the chunk */
    int64_t kv_stride;
    int n_panels, n_k, head_dim;
};
#endif
