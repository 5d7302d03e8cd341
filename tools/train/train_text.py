"""Trains the tokenizer and the text encoder of emoji-sd to know which picture a caption names.

    python tools/train/train_text.py --data world.npz --vae work/vae.pt --out work/text.pt [--steps 4000]

What CLIP's contrastive training is to Stable Diffusion: afterwards the UNet is given words that already stand
apart as their pictures do, and need not find that out through the noise.  From a caption's last states
(at its end and at one of the paddings, which the UNet reads as well) one head must pick the picture among all,
another must tell the picture's principal components, so that colour words mean colours.  The heads
are then forgotten.  train_sd.py --text begins with the result.
"""
import numpy as np
import torch
import torch.nn.functional as F

import world
from common import Run, arguments, mixed
from train_sd import build, caption, ids_of, load_tokenizer
from train_vae import frozen


def components(z, k):
    """The first k principal components of the latents: float [n,k], each of variance 1."""
    flat = z.reshape(len(z), -1)
    u, _, _ = torch.linalg.svd(flat - flat.mean(0), full_matrices=False)
    return u[:, :k] * len(z) ** .5


def states(text, ids, rng):
    """[2,n,width]: the last state at each caption's end, and at a padding after it."""
    end = (ids == ids.max()).int().argmax(1)
    n = int(end.max()) + 1 + int(rng.integers(1, 6)) if rng.random() < .8 else ids.shape[1]
    n = min(n, ids.shape[1])
    h = text(input_ids=ids[:, :n])[0].float()
    pad = end + (torch.rand(len(ids)) * (n - end)).long()
    rows = torch.arange(len(ids))
    return torch.stack([h[rows, end], h[rows, pad]])


def main():
    a = arguments(__doc__, vae="vae.pt", out="text.pt", steps=4000, lr=2e-3, batch=192, vocab=2560, components=96)
    torch.manual_seed(a.seed)
    images, caps, _, _ = world.load(a.data)
    _, z = frozen(a.vae, images)
    aim = components(z, a.components)
    files, tok = load_tokenizer(caps, a.out, a.vocab)
    text, _ = build(len(tok))
    width = text.config.hidden_size
    heads = torch.nn.ModuleDict({"which": torch.nn.Linear(width, len(caps)), "aim": torch.nn.Linear(width, a.components)})
    run = Run(a.out, {"text": text, "heads": heads}, a, a.lr, ema=.995, weight_decay=.02)
    run.extra["tokenizer"] = files
    while run.running(a.steps):
        pick = run.rng.integers(len(caps), size=a.batch)
        ids = ids_of(tok, [caption(caps[i], run.rng) for i in pick])
        with mixed():
            h = states(text, ids, run.rng)
        h = h + .1 * torch.randn_like(h)
        which = F.cross_entropy(heads["which"](h).flatten(0, 1), torch.from_numpy(pick).repeat(2), label_smoothing=.1)
        far = (heads["aim"](h) - aim[pick]).square().mean()
        hit = (heads["which"](h[1]).argmax(1) == torch.from_numpy(pick)).float().mean()
        run.update(which + 2 * far, a.steps, which=which, far=far, hit=hit)


if __name__ == "__main__":
    main()
