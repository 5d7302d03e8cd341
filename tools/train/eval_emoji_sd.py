"""Draws with an exported emoji-sd and measures it: nearest glyph, PSNR of the autoencoder, a contact sheet.

    python tools/train/eval_emoji_sd.py --data world.npz --model models/emoji-sd [--n 300] [--sheet samples.png]

For n names of the world, first English then Italian, it draws one picture each (128x128, --steps, --guidance)
and looks for the nearest of all the font's glyphs (and the recoloured ones) by pixel distance at 32x32.
The last line is all figures as JSON.  --model may be the few-step variant: --steps 4 --guidance 1.
"""
import json
import time

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageDraw, ImageFont

import world
from common import arguments
from train_vae import psnr

SEEN = """red apple|mela rossa|smiling face with sunglasses|gatto con cuori|cat face|muso di gatto|rocket|razzo|pizza|house
|casa|evergreen tree|sunflower|girasole|dog face|muso di cane|automobile|red heart|crying face|ghost|panda|guitar|chitarra
|soccer ball|umbrella|sailboat|farfalla|snowman|birthday cake|octopus|polpo|robot""".replace("\n", "").split("|")
UNSEEN = """blue apple|mela blu|purple cat|gatto viola|green car|auto verde|pink house|casa rosa|green rose|rosa verde|blue banana
|banana blu|blue rabbit|coniglio blu|purple star|stella viola|green pig|maiale verde|pink frog|rana rosa|cat with sunglasses
|gatto con occhiali da sole|a rocket and a star|un razzo e una stella|dog with a hat|crying robot|robot che piange|tree and sun
|angry pumpkin|fish with heart eyes|a red house|happy dog""".replace("\n", "").split("|")


def draw(pipe, prompts, steps, guidance, seed, size=50):
    """uint8 [n,128,128,3]; picture i is drawn with seed + i."""
    out = []
    for i in range(0, len(prompts), size):
        part = prompts[i:i + size]
        gens = [torch.Generator().manual_seed(seed + i + k) for k in range(len(part))]
        out.append(pipe(part, height=128, width=128, num_inference_steps=steps, guidance_scale=guidance,
                        generator=gens, output_type="np").images)
    return (np.concatenate(out) * 255).round().astype(np.uint8)


def sheet(images, labels, columns=8):
    rows = -(-len(images) // columns)
    page = Image.new("RGB", (columns * 132, rows * 146), (255, 255, 255))
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(11)
    for i, (im, label) in enumerate(zip(images, labels)):
        x, y = i % columns * 132, i // columns * 146
        page.paste(Image.fromarray(im), (x + 2, y))
        pen.text((x + 3, y + 129), label[:25], (90, 90, 90), font=font)
    return page


def nearest(images, truth, every):
    """(top-1, top-5): how often the glyph truth[i] is the nearest, among the five nearest to images[i]."""
    rank = world.distance(world.small(images), every).argsort(1)[:, :5]
    hit = rank == np.asarray(truth)[:, None]
    return hit[:, 0].mean().item(), hit.any(1).mean().item()


def main():
    a = arguments(__doc__, model="models/emoji-sd", n=300, steps=20, guidance=3., sheet="", skip_psnr=0)
    pipe = StableDiffusionPipeline.from_pretrained(a.model, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    images, caps, n_world, every = world.load(a.data)
    found = {"steps": a.steps, "guidance": a.guidance, "n": min(a.n, n_world), "glyphs": len(every)}
    if not a.skip_psnr:
        found["psnr"], found["psnr_of_mean"] = (round(v, 2) for v in psnr(pipe.vae, images))
    pick = np.random.default_rng(a.seed).choice(n_world, min(a.n, n_world), replace=False)
    for lang in ("en", "it"):
        start = time.time()
        made = draw(pipe, [caps[i][lang] for i in pick], a.steps, a.guidance, a.seed)
        top = nearest(made, pick, every)
        found[lang] = {"top1": round(top[0], 3), "top5": round(top[1], 3), "s_a_picture": round((time.time() - start) / len(pick), 2)}
        print(lang, found[lang], flush=True)
    if a.sheet:
        made = draw(pipe, SEEN + UNSEEN, a.steps, a.guidance, a.seed)
        sheet(made, SEEN + UNSEEN).quantize(255, dither=Image.Dither.NONE).save(a.sheet, optimize=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
