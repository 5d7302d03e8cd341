"""Trains the picture autoencoder of emoji-sd (AutoencoderKL, f8, 4 channels) on the world.

    python tools/train/train_vae.py --data world.npz --out work/vae.pt [--steps 7000]
    python tools/train/train_vae.py ... --decoder work/vae_decoder.pt   # later: the decoder alone, latents kept

The first 70 % of the steps see crops of 64x64, the rest whole pictures.  Loss: L1, some squares, finite
differences, a very small KL.  `whitened` folds a rotation and a scale into the two 1x1 convolutions beside
the latents, so that over the world they have mean 0 and the identity as covariance after Stable Diffusion's
own scaling factor 0.18215: the UNet then learns every direction equally well.
"""
import math

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

import world
from common import Run, arguments, mixed

SCALING = .18215


def model():
    return AutoencoderKL(3, 3, ("DownEncoderBlock2D",) * 4, ("UpDecoderBlock2D",) * 4, (16, 32, 64, 128),
                         layers_per_block=1, latent_channels=4, norm_num_groups=8, sample_size=128,
                         scaling_factor=SCALING).to(memory_format=torch.channels_last)


def floats(images):
    """uint8 [n,h,w,3] -> float [n,3,h,w] in [-1,1], channels last in memory."""
    x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return x.contiguous(memory_format=torch.channels_last)


def pixel_loss(x, y):
    d = x - y
    slope = (d[..., 1:] - d[..., :-1]).abs().mean() + (d[..., 1:, :] - d[..., :-1, :]).abs().mean()
    return d.abs().mean() + 2 * d.square().mean() + .25 * slope


def batch(images, whole, rng):
    if whole:
        return floats(images[rng.integers(len(images), size=2)])
    out = []
    for i in rng.integers(len(images), size=8):
        y, x = rng.integers(0, 65, size=2)
        out.append(images[i, y:y + 64, x:x + 64][:, ::rng.choice((-1, 1), p=(.2, .8))])
    return floats(np.stack(out))


@torch.no_grad()
def encode(vae, images):
    """The mean latents, unscaled: float32 [n,4,h/8,w/8]."""
    return torch.cat([vae.encode(floats(images[i:i + 32])).latent_dist.mean for i in range(0, len(images), 32)])


@torch.no_grad()
def psnr(vae, images, latents=None):
    """In dB: the mean over the pictures, and that of the mean square error."""
    mse = []
    for i in range(0, len(images), 32):
        x = floats(images[i:i + 32])
        z = vae.encode(x).latent_dist.mean if latents is None else latents[i:i + 32]
        mse.append(((vae.decode(z).sample.clamp(-1, 1) - x) / 2).square().mean((1, 2, 3)))
    mse = torch.cat(mse)
    return (-10 * mse.log10()).mean().item(), -10 * math.log10(mse.mean().item())


@torch.no_grad()
def whitened(vae, images):
    """Changes the latents' basis (see above), not what the autoencoder computes; the pictures' scaled latents."""
    latents = encode(vae, images)
    z = latents.permute(1, 0, 2, 3).reshape(4, -1).double()
    mean = z.mean(1)
    values, vectors = torch.linalg.eigh(torch.cov(z))
    to = torch.diag(values.rsqrt()) @ vectors.T / SCALING              # y = to (z - mean)
    back = torch.linalg.inv(to)
    q, p = vae.quant_conv, vae.post_quant_conv
    w, b = q.weight[:4, :, 0, 0].double(), q.bias[:4].double()
    q.weight[:4, :, 0, 0], q.bias[:4] = (to @ w).float(), (to @ (b - mean)).float()
    # the spread of each new channel: near enough what the old one's were (only the mean is used later)
    q.bias[4:] += 2 * (to.norm(dim=1).log()).float()
    w = p.weight[:, :, 0, 0].double()
    p.weight[:, :, 0, 0], p.bias[:] = (w @ back).float(), (p.bias.double() + w @ mean).float()
    return (SCALING * (to @ (z - mean[:, None]))).float().reshape(4, -1, *latents.shape[2:]).permute(1, 0, 2, 3).contiguous()


def train_both(a, images):
    vae = model()
    print(f"{len(images)} pictures, {sum(q.numel() for q in vae.parameters())} parameters", flush=True)
    run = Run(a.out, {"vae": vae}, a, a.lr, ema=.998, weight_decay=1e-3)
    while run.running(a.steps):
        x = batch(images, run.step >= .7 * a.steps, run.rng)
        with mixed():
            post = vae.encode(x).latent_dist
            y = vae.decode(post.sample()).sample
        kl = post.kl().float().mean() / post.mean[0].numel()
        rec = pixel_loss(y.float(), x)
        run.update(rec + a.kl * kl, a.steps, rec=rec, kl=kl)
    return vae, run


def frozen(path, images):
    """The averaged autoencoder of a checkpoint, whitened, and the scaled latents of the pictures."""
    vae = model()
    c = torch.load(path, weights_only=False)
    vae.load_state_dict(c["modules"]["vae"])
    with torch.no_grad():
        for q, e in zip(vae.parameters(), c["ema"]):
            q.copy_(e)
    vae.eval().requires_grad_(False)
    return vae, whitened(vae, images)


def load_decoder(vae, path):
    """The averaged decoder of a checkpoint of --decoder into a frozen autoencoder."""
    with torch.no_grad():
        params = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
        for q, e in zip(params, torch.load(path, weights_only=False)["ema"]):
            q.copy_(e)


def train_decoder(a, images):
    """The decoder alone on frozen latents with a little noise, as the UNet will make them."""
    vae, z = frozen(a.out, images)
    for m in (vae.decoder, vae.post_quant_conv):
        m.requires_grad_(True)
    run = Run(a.decoder, {"decoder": vae.decoder, "post_quant_conv": vae.post_quant_conv}, a, a.lr / 2, ema=.998,
              weight_decay=1e-4)
    while run.running(a.steps):
        pick = torch.from_numpy(run.rng.integers(len(images), size=3))
        noise = torch.randn(3, 4, *z.shape[2:]) * (torch.rand(3, 1, 1, 1) * a.noise)
        x = floats(images[pick])
        with mixed():
            y = vae.decode((z[pick] + noise) / SCALING).sample
        rec = pixel_loss(y.float(), x)
        run.update(rec, a.steps)
    return vae, run


def main():
    a = arguments(__doc__, out="vae.pt", decoder="", steps=7000, lr=2e-3, kl=1e-4, noise=.1)
    torch.manual_seed(a.seed)
    images = world.load(a.data)[0]
    vae, run = (train_decoder if a.decoder else train_both)(a, images)
    if run.stop:
        return
    run.use_average()
    vae.eval()
    print("PSNR with averaged weights: mean over the pictures %.2f dB, of the mean error %.2f dB; step %d, %.2f CPU hours"
          % (*psnr(vae, images), run.step, run.seconds / 3600), flush=True)


if __name__ == "__main__":
    main()
