#!/usr/bin/env python3
"""Second passes by diffusers' parts with the tiny models of tests/fixtures: hires, windows, SDXL's refiner.

Writes tests/fixtures/sd_refiner/ (a UNet of the refiner's shape; the rest are links to sd_sdxl/), passes.json, the
requests, and passes.bin with the pictures [height, width, 3] of all of them, for tests/golden/test_pipeline.c.

    build/venv-image/bin/python tools/make_passes_golden.py [--out tests/fixtures]
"""
import argparse
import json
import pathlib

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionXLImg2ImgPipeline, UNet2DConditionModel
from PIL import Image

from make_image_golden import DOWN, CROSS_DOWN, CROSS_UP, UNET, UP, randomise
from make_pipeline_golden import OUT, SCHEDULERS, load

LATENTS = {"nearest": 0, "bilinear": 1, "bicubic": 2}
PIXELS = 3


def make_refiner(out):
    """One text encoder, five time ids (the last is the aesthetic score)."""
    folder = out / "sd_refiner"
    changes = {"block_out_channels": [8, 8, 12], "down_block_types": [DOWN, CROSS_DOWN, CROSS_DOWN],
               "up_block_types": [CROSS_UP, CROSS_UP, UP], "cross_attention_dim": 28,
               "attention_head_dim": [2, 1, 3], "transformer_layers_per_block": 1,
               "use_linear_projection": True, "addition_embed_type": "text_time",
               "addition_time_embed_dim": 6, "projection_class_embeddings_input_dim": 28 + 30}
    unet = randomise(UNet2DConditionModel(**{**UNET, **changes}), 4242)
    unet.half().save_pretrained(folder / "unet", safe_serialization=True)
    for part in ("vae", "text_encoder_2", "tokenizer_2", "scheduler"):
        link = folder / part
        if not link.exists():
            link.symlink_to(f"../sd_sdxl/{part}")
    index = {"_class_name": "StableDiffusionXLImg2ImgPipeline", "_diffusers_version": "0.30.0",
             "force_zeros_for_empty_prompt": False, "requires_aesthetics_score": True,
             "scheduler": ["diffusers", "EulerDiscreteScheduler"], "text_encoder": [None, None],
             "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
             "tokenizer": [None, None], "tokenizer_2": ["transformers", "CLIPTokenizer"],
             "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def scheduled(pipe, case):
    if case.get("scheduler"):
        cls, more = SCHEDULERS[case["scheduler"]]
        pipe.scheduler = cls.from_config(pipe.scheduler.config, **more)
    return pipe


def arguments(case, steps):
    return {"prompt": case["prompt"], "negative_prompt": case["negative"],
            "guidance_scale": case["guidance"], "num_inference_steps": steps,
            "generator": torch.Generator("cpu").manual_seed(case["seed"])}


def axis(size, tile, stride):
    """Where windows begin, and the share of each of a cell: as engine/models/tiles.c."""
    if tile >= size:
        return [0], np.ones((1, size), np.float32)
    n = -(-(size - tile) // stride) + 1
    begins = [i * (size - tile) // (n - 1) for i in range(n)]

    def beyond(i, at):
        if i < 0:
            return 1.0
        if i >= n - 1:
            return 0.0
        wide = min(begins[i] + tile - begins[i + 1], tile // 4)
        middle = (begins[i] + tile + begins[i + 1]) / 2
        return min(max((at + 0.5 - middle) / max(wide, 1) + 0.5, 0.0), 1.0)
    return begins, np.array([[beyond(i - 1, k) * (1 - beyond(i, k)) for k in range(size)]
                             for i in range(n)], np.float32)


def windows(unet, side, channels=4):
    """Its forward pass on overlapping windows, blended; channels come out of it."""
    whole, stride = unet.forward, side * 3 // 4 + 1

    def forward(x, *args, **kwargs):
        h, w = x.shape[2:]
        (ys, sy), (xs, sx) = axis(h, side, stride), axis(w, side, stride)
        out, th, tw = torch.zeros_like(x[:, :channels]), min(side, h), min(side, w)
        for i, y in enumerate(ys):
            for j, k in enumerate(xs):
                part = whole(x[:, :, y:y + th, k:k + tw], *args, **kwargs)[0]
                share = torch.from_numpy(np.outer(sy[i][y:y + th], sx[j][k:k + tw]))
                out[:, :, y:y + th, k:k + tw] += share * part
        return (out,)
    return forward


def load_refiner(folder):
    pipe = StableDiffusionXLImg2ImgPipeline.from_pretrained(
        folder / "sd_refiner", torch_dtype=torch.float32, add_watermarker=False)
    pipe.tokenizer_2.model_max_length = 77
    pipe.set_progress_bar_config(disable=True)
    return pipe


def refined(folder, case):
    base = scheduled(load(folder, "sdxl", "text"), case)
    latent = base(**arguments(case, case["steps"]), width=case["width"], height=case["height"],
                  denoising_end=case["switch_at"], output_type="latent").images
    pipe = load_refiner(folder)
    size = (case["height"], case["width"])
    return scheduled(pipe, case)(
        **arguments(case, case["steps"]), image=latent, denoising_start=case["switch_at"],
        original_size=size, target_size=size, output_type="np").images


def hires(folder, case):
    first = scheduled(load(folder, case["model"], "text"), case)
    latents = case["hires_how"] < PIXELS
    got = first(**arguments(case, case["steps"]), width=case["width"], height=case["height"],
                output_type="latent" if latents else "pil").images
    size = (case["out_h"], case["out_w"])
    if latents:
        mode = list(LATENTS)[case["hires_how"]]
        scale = first.vae_scale_factor
        more = {} if mode == "nearest" else {"align_corners": False}
        got = F.interpolate(got, (size[0] // scale, size[1] // scale), mode=mode, **more)
    else:
        got = got[0].resize(size[::-1], Image.LANCZOS)
    second = scheduled(load(folder, case["model"], "image"), case)
    return second(**arguments(case, case["hires_steps"]), image=got,
                  strength=case["hires_strength"], output_type="np").images


def tiled(folder, case):
    pipe = scheduled(load(folder, case["model"], "text"), case)
    pipe.unet.forward = windows(pipe.unet, pipe.unet.config.sample_size)
    return pipe(**arguments(case, case["steps"]), width=case["width"], height=case["height"],
                output_type="np").images


def make_cases():
    base = {"model": "sd15", "prompt": "a photo of the red cat", "negative": "dark old city",
            "width": 48, "height": 32, "steps": 4, "guidance": 3.0, "seed": 7}
    large = base | {"out_w": 80, "out_h": 64, "hires_steps": 6, "hires_strength": 0.6}
    cases = [large | {"name": f"hires, latent {name}", "hires_how": how}
             for name, how in LATENTS.items()]
    cases += [
        large | {"name": "hires, pixels", "hires_how": PIXELS, "scheduler": "euler_a"},
        base | {"name": "windows", "tiled": True, "width": 80, "height": 64},
        base | {"name": "windows in one direction", "tiled": True, "width": 32, "height": 96,
                "scheduler": "dpmpp_2m"},
    ]
    wide = base | {"model": "sdxl", "width": 64, "height": 32, "steps": 10, "refiner": True}
    cases += [
        wide | {"name": "refiner", "switch_at": 0.8},
        wide | {"name": "refiner, half of the steps", "switch_at": 0.5, "scheduler": "lms"},
        wide | {"name": "refiner, two calls a step", "switch_at": 0.6, "scheduler": "heun"},
        wide | {"name": "refiner, several steps at once", "switch_at": 0.7,
                "scheduler": "dpmpp_2m"},
    ]
    return cases


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=pathlib.Path, default=OUT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    make_refiner(args.out)
    cases, data = make_cases(), b""
    for case in cases:
        make = refined if case.get("refiner") else tiled if case.get("tiled") else hires
        with torch.no_grad():
            images = (make(args.out, case) * 255).round().astype(np.uint8)
        print(f"{case['name']}: {images.shape[2]}x{images.shape[1]}, mean {images.mean():.1f}",
              flush=True)
        data += images.tobytes()
    (args.out / "passes.bin").write_bytes(data)
    (args.out / "passes.json").write_text(json.dumps(cases, indent=1) + "\n")


if __name__ == "__main__":
    main()
