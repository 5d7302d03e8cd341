/* Frequencies of rotary embeddings, with the ways to stretch them to longer contexts.
 * Thread: any. */
#ifndef ENGINE_MODELS_ROPE_FREQ_H
#define ENGINE_MODELS_ROPE_FREQ_H
#include <stdint.h>

#include "base/err.h"

struct gguf;

enum {
    ROPE_MAX_ROT = 256,
    ROPE_MAX_CTX = 1 << 30 /* positions: a sum of two of them is still an int */
};

struct rope_freq {
    int n_rot;
    float freq[ROPE_MAX_ROT / 2]; /* radians a position, of each pair */
    float mscale;                 /* what cosines and sines are multiplied with */
    int64_t n_ctx_train;          /* positions after stretching */
};

/* From <arch>.rope.* and the tensor rope_freqs.weight (llama 3: divisors of the frequencies).
 * n_rot is even and at most ROPE_MAX_ROT; n_ctx, at most ROPE_MAX_CTX, is <arch>.context_length. */
int rope_freq_read(struct rope_freq *r, const struct gguf *g, const char *arch, int n_rot,
                   int64_t n_ctx, struct err *e);
#endif
