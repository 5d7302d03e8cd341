#!/usr/bin/env python3
"""A tiny random model in the shape of SD's x4 upscaler, and what diffusers' StableDiffusionUpscalePipeline does with it.

Writes tests/fixtures/sd_upscaler/ (f16), sd_upscaler.safetensors (its parts, for tests/golden/test_diffusion.c), and
enlarge.json and enlarge.bin, requests and their pictures, for tests/golden/test_pipeline.c.

    build/venv-image/bin/python tools/make_enlarge_golden.py [--out tests/fixtures]      (as make_pipeline_golden.py)
"""
import argparse
import json
import pathlib
import shutil

import numpy as np
import torch
from diffusers import (AutoencoderKL, DDIMScheduler, DDPMScheduler, StableDiffusionUpscalePipeline,
                       UNet2DConditionModel)
from PIL import Image
from safetensors.torch import save_file

from make_image_golden import CROSS_DOWN, CROSS_UP, DOWN, UNET, UP, randomise, save, vae_values
from make_passes_golden import scheduled, windows
from make_pipeline_golden import OUT, init_image, load

LEVELS = 12  # of noise; the model has 1000
SCALING = 0.08333


def make_unet():
    """The first stage without attention; self attention looks at the text but for the last stage."""
    changes = {"in_channels": 7, "num_class_embeds": LEVELS, "block_out_channels": [8, 12],
               "down_block_types": [DOWN, CROSS_DOWN], "up_block_types": [CROSS_UP, UP],
               "cross_attention_dim": 20, "attention_head_dim": 2, "use_linear_projection": True,
               "only_cross_attention": [True, False]}
    return randomise(UNet2DConditionModel(**{**UNET, **changes}), 7004)


def make_vae():
    """Three blocks: four pixels of a side for each place of the latent."""
    return randomise(AutoencoderKL(
        block_out_channels=[8, 8, 12], norm_num_groups=4, layers_per_block=1, latent_channels=4,
        down_block_types=["DownEncoderBlock2D"] * 3, up_block_types=["UpDecoderBlock2D"] * 3,
        scaling_factor=SCALING, sample_size=64), 7003)


def unet_values(values, unet):
    """Two rows with their own timesteps, levels of noise and prompts."""
    g = torch.Generator().manual_seed(7006)
    x = torch.randn(2, unet.config.in_channels, 8, 12, generator=g)
    t, levels, outs = torch.tensor([981.0, 249.0]), torch.tensor([2, 9]), []
    for i, tokens in enumerate([77, 154]):
        context = torch.randn(1, tokens, unet.config.cross_attention_dim, generator=g)
        values[f"context{i}"] = context[0]
        outs.append(unet(x[i:i + 1], t[i:i + 1], encoder_hidden_states=context,
                         class_labels=levels[i:i + 1]).sample)
    values["timesteps"], values["levels"] = t, levels.to(torch.int32)
    values["x"] = x.permute(0, 2, 3, 1)
    values["out"] = torch.cat(outs).permute(0, 2, 3, 1)


def encoder_values(values, vae):
    """The encoder is part of the file, but nothing uses it: its picture has the latent's size times four."""
    vae_values(values, vae, 7007)
    for name in ("picture", "moments"):
        del values[name]


def make_model(out):
    """The text encoder and the tokenizer are links to sd_sd21's."""
    folder, linked = out / "sd_upscaler", ("text_encoder", "tokenizer")
    betas = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "scaled_linear"}
    like = load(out, "sd21", "text")
    vae, unet, values = make_vae(), make_unet(), {}
    unet_values(values, unet)
    encoder_values(values, vae)
    pipe = StableDiffusionUpscalePipeline(
        vae=vae, text_encoder=like.text_encoder, unet=unet, max_noise_level=LEVELS - 2,
        tokenizer=like.tokenizer, low_res_scheduler=DDPMScheduler(**betas),
        scheduler=DDIMScheduler(prediction_type="v_prediction", clip_sample=False,
                                set_alpha_to_one=False, steps_offset=1, **betas))
    save(pipe, folder)
    for part in linked:
        shutil.rmtree(folder / part)
        (folder / part).symlink_to(f"../sd_sd21/{part}")
    save_file({k: v.contiguous() for k, v in values.items()}, out / "sd_upscaler.safetensors")
    (out / "sd_upscaler.safetensors").chmod(0o644)


def picture(out, case):
    pipe = StableDiffusionUpscalePipeline.from_pretrained(out / "sd_upscaler",
                                                          torch_dtype=torch.float32)
    pipe.tokenizer.model_max_length = 77
    pipe.set_progress_bar_config(disable=True)
    pipe = scheduled(pipe, case)
    if case.get("prediction"):
        pipe.scheduler.register_to_config(prediction_type=case["prediction"])
    if case.get("tiled"):
        pipe.unet.forward = windows(pipe.unet, pipe.unet.config.sample_size)
    n = case.get("n", 1)
    small = Image.fromarray(init_image(case["width"] // 4, case["height"] // 4))
    if case.get("first"):  # a picture that another model made just before
        first = load(out, case["first"], "text")
        small = first(prompt=case["prompt"], negative_prompt=case["negative"],
                      width=case["width"] // 4, height=case["height"] // 4,
                      guidance_scale=case["guidance"], num_inference_steps=case["steps"],
                      generator=torch.Generator("cpu").manual_seed(case["seed"])).images[0]
    rows = [pipe(prompt=case["prompt"], negative_prompt=case["negative"], image=small,
                 guidance_scale=case["guidance"], noise_level=case["noise_level"],
                 num_inference_steps=case["steps"], output_type="np",
                 generator=torch.Generator("cpu").manual_seed(case["seed"] + i)).images
            for i in range(n)]
    return (np.concatenate(rows) * 255).round().astype(np.uint8)


def make_cases():
    base = {"model": "upscaler", "prompt": "a photo of the red cat", "negative": "dark old city",
            "small": True, "width": 64, "height": 48, "steps": 5, "guidance": 3.0, "seed": 7,
            "noise_level": 5}
    return [
        base | {"name": "enlarged"},
        base | {"name": "enlarged, the least noise", "noise_level": 0, "width": 32, "height": 96},
        base | {"name": "enlarged, the most noise", "noise_level": 10, "guidance": 1.0},
        base | {"name": "enlarged, two of a batch", "n": 2, "scheduler": "euler_a"},
        base | {"name": "enlarged, dpmpp_2m", "scheduler": "dpmpp_2m"},
        base | {"name": "enlarged, two calls a step", "scheduler": "heun"},
        base | {"name": "enlarged, epsilon", "model": "upscaler_epsilon", "prediction": "epsilon",
                "width": 32, "height": 32},
        base | {"name": "enlarged in windows", "tiled": True, "width": 96, "height": 64},
        base | {"name": "made, then enlarged", "first": "sd15", "width": 96, "height": 64},
    ]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=pathlib.Path, default=OUT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    make_model(args.out)
    cases, data = make_cases(), b""
    for case in cases:
        with torch.no_grad():
            images = picture(args.out, case)
        print(f"{case['name']}: {images.shape[2]}x{images.shape[1]}, mean {images.mean():.1f}, "
              f"deviation {images.std():.1f}", flush=True)
        data += images.tobytes()
    (args.out / "enlarge.bin").write_bytes(data)
    (args.out / "enlarge.json").write_text(json.dumps(cases, indent=1) + "\n")


if __name__ == "__main__":
    main()
