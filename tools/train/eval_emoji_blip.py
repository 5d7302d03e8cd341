"""Measures an exported emoji-blip on held-out renderings, and the round trip through emoji-sd.

    python tools/train/eval_emoji_blip.py --data world.npz --model models/emoji-blip [--n 529] [--sd models/emoji-sd]

Held-out: drawn by PIL (not by the training's sampler) at new scales, places and backgrounds with noise from
--seed.  Exact: the greedy caption is the name, spaces aside.  Top-5: the name is among five beams.  Round trip:
emoji-sd draws a name, emoji-blip must say it.  The last line is all figures as JSON.
"""
import json

import numpy as np
import torch
from PIL import Image
from transformers import BertTokenizerFast, BlipForConditionalGeneration, BlipImageProcessor

import world
from common import arguments


def rendering(image, alpha, rng):
    """One picture elsewhere, larger or smaller, on another background, a little noisy."""
    size = int(rng.integers(84, 137))
    ink = Image.fromarray(np.dstack([image, alpha])).resize((size, size), Image.BICUBIC)
    plain = rng.random() < .4
    ground = np.full((128, 128, 3), 255 if plain else rng.integers(0, 256, 3), np.float32)
    if not plain:
        ground += np.linspace(-40, 40, 128)[None, :, None] * rng.choice((-1, 0, 1))
    page = Image.fromarray(ground.clip(0, 255).astype(np.uint8))
    slack = abs(128 - size)
    at = [(128 - size) // 2 + int(rng.integers(-slack // 2, slack // 2 + 1)) for _ in range(2)]
    page.paste(ink, tuple(at), ink.getchannel("A"))
    noisy = np.asarray(page, np.float32) + rng.normal(0, rng.uniform(0, 10), (128, 128, 3))
    return noisy.round().clip(0, 255).astype(np.uint8)


def plain(text):
    return "".join(text.lower().split())


@torch.no_grad()
def captions(model, tok, processor, images, beams, prompt=""):
    """A list of `beams` captions (best first) for each picture."""
    out = []
    for i in range(0, len(images), 32):
        part = images[i:i + 32]
        x = processor(images=[Image.fromarray(im) for im in part], return_tensors="pt").pixel_values
        ids = tok([prompt] * len(part), return_tensors="pt").input_ids if prompt else None
        made = model.generate(pixel_values=x, input_ids=ids, num_beams=beams, num_return_sequences=beams, max_length=24)
        said = tok.batch_decode(made, skip_special_tokens=True)
        said = [plain(s).removeprefix("[dec]").removeprefix(plain(prompt)) for s in said]
        out += [said[k:k + beams] for k in range(0, len(said), beams)]
    return out


def score(said, names):
    hit = [[s == plain(n) for s in five] for five, n in zip(said, names)]
    return round(float(np.mean([h[0] for h in hit])), 3), round(float(np.mean([any(h) for h in hit])), 3)


def main():
    a = arguments(__doc__, model="models/emoji-blip", n=529, sd="", steps=20, guidance=3.)
    model = BlipForConditionalGeneration.from_pretrained(a.model, dtype=torch.float32).eval()
    tok = BertTokenizerFast(vocab=a.model + "/vocab.txt", do_lower_case=True, strip_accents=False)
    processor = BlipImageProcessor.from_pretrained(a.model)
    images, caps, n_world, _ = world.load(a.data)
    alpha, rng = np.load(a.data)["alpha"], np.random.default_rng(1000 + a.seed)
    pick = rng.choice(n_world, min(a.n, n_world), replace=False)
    held = np.stack([rendering(images[i], alpha[i], rng) for i in pick])
    found = {"n": len(pick)}
    for key, lang, prompt in (("en", "en", ""), ("it", "it", "un'immagine di")):
        names = [caps[i][lang] for i in pick]
        exact = score(captions(model, tok, processor, held, 1, prompt), names)[0]
        found[key] = {"exact": exact, "top5": score(captions(model, tok, processor, held, 5, prompt), names)[1]}
        print(key, found[key], flush=True)
    found["plain_en"] = score(captions(model, tok, processor, images[pick], 1), [caps[i]["en"] for i in pick])[0]
    if a.sd:
        from diffusers import StableDiffusionPipeline
        from eval_emoji_sd import draw
        pipe = StableDiffusionPipeline.from_pretrained(a.sd, torch_dtype=torch.float32)
        pipe.set_progress_bar_config(disable=True)
        names = [caps[i]["en"] for i in pick[:300]]
        made = draw(pipe, names, a.steps, a.guidance, a.seed)
        exact = score(captions(model, tok, processor, made, 1), names)[0]
        found["round_trip"] = {"exact": exact, "top5": score(captions(model, tok, processor, made, 5), names)[1]}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
