"""Draws every picture of the world by its names, for the captioner to learn how emoji-sd draws.

    python tools/train/draw_world.py --data world.npz --model models/emoji-sd-lcm --out work/drawn.npz

The file: drawn uint8 [2,N,128,128,3], by the English and by the Italian names, each picture with its own seed.
"""
import numpy as np
import torch
from diffusers import StableDiffusionPipeline

import world
from common import arguments
from eval_emoji_sd import draw


def main():
    a = arguments(__doc__, model="models/emoji-sd-lcm", out="drawn.npz", steps=4, guidance=1.)
    pipe = StableDiffusionPipeline.from_pretrained(a.model, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    caps = world.load(a.data)[1]
    drawn = [draw(pipe, [c[lang] for c in caps], a.steps, a.guidance, 10000 * (k + 1)) for k, lang in enumerate(("en", "it"))]
    np.savez_compressed(a.out, drawn=np.stack(drawn))


if __name__ == "__main__":
    main()
