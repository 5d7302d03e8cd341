/* The autoencoder between pictures and latents (diffusers' AutoencoderKL).
 * Thread: engine. */
#ifndef ENGINE_MODELS_VAE_H
#define ENGINE_MODELS_VAE_H
#include "engine/models/nn.h"

struct vae;
struct vae_info {
    int latent_channels;
    int scale;     /* pixels of a latent's side */
    float scaling; /* a latent of the UNet = this one's * scaling */
    bool has_encoder;
    bool force_upcast; /* diffusers': it leaves the range of f16 in SDXL */
};

int vae_open(struct vae **out, struct nn_loader *l, struct err *e);
void vae_close(struct vae *m); /* its weights are the store's */
const struct vae_info *vae_info(const struct vae *m);

/* latent [1, h, w, latent_channels] to a picture [1, scale h, scale w, 3] of -1 ... 1, pinned. */
struct tensor vae_decode(const struct vae *m, struct program *p, const struct tensor *latent);
/* picture [1, scale h, scale w, 3] to [1, h, w, 2 latent_channels], pinned: means, then log variances
 * (not clipped yet). */
struct tensor vae_encode(const struct vae *m, struct program *p, const struct tensor *picture);
#endif
