/* The tiny autoencoder (TAESD, diffusers' AutoencoderTiny): previews of a running picture, and a decoder
 * that takes a hundredth of the time.
 * Thread: engine. */
#ifndef ENGINE_MODELS_TAESD_H
#define ENGINE_MODELS_TAESD_H
#include "engine/models/vae.h"

struct taesd;

int taesd_open(struct taesd **out, struct nn_loader *l, struct err *e);
void taesd_close(struct taesd *m); /* its weights are the store's */
const struct vae_info *taesd_info(const struct taesd *m);

/* x [1, h, w, latent_channels], 3 tanh(latent / 3), to a picture [1, scale h, scale w, 3] of 0 ... 1,
 * pinned. */
struct tensor taesd_decode(const struct taesd *m, struct program *p, const struct tensor *x);
/* picture [1, scale h, scale w, 3] of 0 ... 1 to a latent [1, h, w, latent_channels], pinned. */
struct tensor taesd_encode(const struct taesd *m, struct program *p, const struct tensor *picture);
#endif
