#!/usr/bin/env python3
"""The pictures that diffusers makes with the tiny image models of tests/fixtures (make_image_golden.py).

Writes tests/fixtures/pipeline.json, the requests, and pipeline.bin with the pictures
[height, width, 3] of all of them, one after the other, for tests/golden/test_pipeline.c.

    build/venv-image/bin/pip install scipy torchsde      (beside what make_image_golden.py needs)
    build/venv-image/bin/python tools/make_pipeline_golden.py [--out tests/fixtures]
"""
import argparse
import json
import pathlib
import shutil
import sys
import tempfile

import numpy as np
import torch
from diffusers import (DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler,
                       DPMSolverSDEScheduler, DPMSolverSinglestepScheduler,
                       EulerAncestralDiscreteScheduler, EulerDiscreteScheduler,
                       HeunDiscreteScheduler, KDPM2AncestralDiscreteScheduler,
                       KDPM2DiscreteScheduler, LatentConsistencyModelImg2ImgPipeline,
                       LCMScheduler, LMSDiscreteScheduler, PNDMScheduler,
                       StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline,
                       StableDiffusionPipeline, StableDiffusionXLImg2ImgPipeline,
                       StableDiffusionXLInpaintPipeline, StableDiffusionXLPipeline, TCDScheduler,
                       UniPCMultistepScheduler)
from PIL import Image
from transformers import CLIPTextModel

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "fixtures"

# DDIM over sd_sdxl's config clips, and an untrained UNet then doubles every rounding: at 20 steps
# diffusers in float32 is 8 dB from itself in float64.  Few steps there, or clip_sample false.
SCHEDULERS = {
    "ddim": (DDIMScheduler, {}),
    "ddpm": (DDPMScheduler, {}),
    "pndm": (PNDMScheduler, {"skip_prk_steps": True}),
    "lms": (LMSDiscreteScheduler, {}),
    "euler": (EulerDiscreteScheduler, {}),
    "euler_karras": (EulerDiscreteScheduler, {"use_karras_sigmas": True}),
    "euler_a": (EulerAncestralDiscreteScheduler, {}),
    "heun": (HeunDiscreteScheduler, {}),
    "dpm2": (KDPM2DiscreteScheduler, {}),
    "dpm2_a": (KDPM2AncestralDiscreteScheduler, {}),
    "dpmpp_2m": (DPMSolverMultistepScheduler, {}),
    "dpmpp_2m_karras": (DPMSolverMultistepScheduler, {"use_karras_sigmas": True}),
    "dpmpp_2m_sde": (DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
    "dpmpp_2s": (DPMSolverSinglestepScheduler, {}),
    "dpmpp_sde": (DPMSolverSDEScheduler, {}),
    "unipc": (UniPCMultistepScheduler, {}),
    "lcm": (LCMScheduler, {}),
    "tcd": (TCDScheduler, {}),
}
def init_image(width, height):
    """A picture that both sides can make: colours from coordinates."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([(x * 5 + y) % 256, (y * 7) % 256, (x * y) % 256], -1).astype(np.uint8)


def mask_image(width, height):
    y, x = np.mgrid[0:height, 0:width]
    return np.where((x >= width // 4) & (y < height // 2), 255, 0).astype(np.uint8)


PIPELINES = {
    "sd": {"text": StableDiffusionPipeline, "image": StableDiffusionImg2ImgPipeline,
           "mask": StableDiffusionInpaintPipeline},
    "sdxl": {"text": StableDiffusionXLPipeline, "image": StableDiffusionXLImg2ImgPipeline,
             "mask": StableDiffusionXLInpaintPipeline},
}


# Other models over the same weights; tests/golden/test_pipeline.c makes the same of links.  The configs are
# such as early models came with: the pipelines correct them.
OLD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
VARIANTS = {
    "taesd": {"_class_name": "PNDMScheduler", "skip_prk_steps": True, "steps_offset": 1} | OLD,
    "old_pndm": {"_class_name": "PNDMScheduler"} | OLD,
    "old_ddim": {"_class_name": "DDIMScheduler"} | OLD,
}


def write_variant(to, source, config, tiny=False):
    """A model's directory with another scheduler config; tiny: with an AutoencoderTiny as its VAE."""
    shutil.copytree(source, to)
    index = json.loads((to / "model_index.json").read_text())
    if tiny:
        shutil.rmtree(to / "vae")
        shutil.copytree(source.parent / "sd_taesd", to / "vae")
        index["vae"] = ["diffusers", "AutoencoderTiny"]
    index["scheduler"] = ["diffusers", config["_class_name"]]
    (to / "scheduler/scheduler_config.json").write_text(json.dumps(config))
    (to / "model_index.json").write_text(json.dumps(index))


def read(source, name, kind):
    more = {"add_watermarker": False} if name == "sdxl" else {
        "safety_checker": None, "feature_extractor": None, "image_encoder": None,
        "requires_safety_checker": False}
    cls = PIPELINES["sdxl" if name == "sdxl" else "sd"][kind]
    if name == "lcm" and kind == "image":
        cls = LatentConsistencyModelImg2ImgPipeline
    return cls.from_pretrained(source, torch_dtype=torch.float32, **more)


def load(folder, name, kind):
    source = folder / f"sd_{name}"
    with tempfile.TemporaryDirectory() as made:
        if name in VARIANTS:
            source = pathlib.Path(made) / name
            write_variant(source, folder / "sd_sd15", VARIANTS[name], name == "taesd")
        pipe = read(source, name, kind)
    for part in ("tokenizer", "tokenizer_2"):
        if hasattr(pipe, part):
            getattr(pipe, part).model_max_length = 77
    pipe.set_progress_bar_config(disable=True)
    if name != "inpaint":  # sides of a multiple of 8 alone; a cell here is 2 pixels wide
        pipe.check_inputs = lambda *_, **__: None
    return pipe


def embed(pipe, parts, n_chunks):
    """Chunks of 75 tokens, weighted as the web UI does it; parts: text and weight in turn."""
    tok, ids, weights = pipe.tokenizer, [], []
    for text, weight in parts:
        new = tok(text, add_special_tokens=False).input_ids
        ids += new
        weights += [weight] * len(new)
    out = []
    for i in range(n_chunks):
        chunk, w = ids[i * 75:(i + 1) * 75], weights[i * 75:(i + 1) * 75]
        rest = 75 - len(chunk)
        chunk = [tok.bos_token_id, *chunk, tok.eos_token_id] + [tok.pad_token_id] * rest
        w = torch.tensor([1.0, *w, 1.0] + [1.0] * rest)
        with torch.no_grad():
            hidden = pipe.text_encoder(torch.tensor([chunk]))[0]
        weighted = hidden * w[None, :, None]
        out.append(weighted * (hidden.mean() / weighted.mean()))
    return torch.cat(out, 1)


if not hasattr(CLIPTextModel, "text_model"):  # diffusers asks for it with clip_skip
    CLIPTextModel.text_model = property(lambda self: self)


def picture(folder, case):
    """One case's picture(s) by diffusers."""
    kind = "mask" if case.get("mask") else "image" if case.get("image") else "text"
    pipe = load(folder, case["model"], kind)
    if case.get("scheduler"):
        cls, more = SCHEDULERS[case["scheduler"]]
        if cls is DPMSolverSDEScheduler:  # diffusers has no seed for its Brownian path: ours is this
            more = {"noise_sampler_seed": case["seed"]}
        pipe.scheduler = cls.from_config(pipe.scheduler.config, **more)
    w, h, n = case["width"], case["height"], case.get("n", 1)
    args = {"prompt": [case["prompt"]] * n, "num_inference_steps": case["steps"],
            "guidance_scale": case["guidance"], "output_type": "np",
            "generator": [torch.Generator("cpu").manual_seed(case["seed"] + i) for i in range(n)]}
    if case.get("parts"):
        del args["prompt"]
        args["prompt_embeds"] = embed(pipe, case["parts"], case["chunks"])
        args["negative_prompt_embeds"] = embed(pipe, [(case["negative"], 1.0)], case["chunks"])
    elif case.get("negative") is not None:
        args["negative_prompt"] = [case["negative"]] * n
    if case.get("skip"):
        args["clip_skip"] = case["skip"]
    if case.get("rescale"):
        args["guidance_rescale"] = case["rescale"]
    if kind != "text":
        args["image"] = [Image.fromarray(init_image(w, h))] * n
        args["strength"] = case["strength"]
    if kind == "mask":
        args["mask_image"] = [Image.fromarray(mask_image(w, h))] * n
    if kind != "image":
        args |= {"width": w, "height": h}
    if case["model"] == "sdxl" and kind != "text":
        args |= {"original_size": (h, w), "target_size": (h, w)}
    with torch.no_grad():
        out = pipe(**args).images
    return (out * 255).round().astype(np.uint8)


LONG = " ".join(["the very old dog under a beautiful tree with mountain light at night"] * 8)


def make_cases():
    base = {"model": "sd15", "prompt": "a photo of the red cat", "negative": "dark old city",
            "width": 48, "height": 32, "steps": 6, "guidance": 3.0, "seed": 7}
    image = base | {"image": True, "strength": 0.6}
    mask = image | {"mask": True, "strength": 1.0}
    cases = [base | {"name": f"sd15 {name}", "scheduler": name,
                     "guidance": 1.5 if name in ("lcm", "tcd") else 3.0} for name in SCHEDULERS]
    cases += [
        base | {"name": "own scheduler, square", "width": 64, "height": 64},
        base | {"name": "tall, no negative prompt", "width": 32, "height": 80, "negative": None},
        base | {"name": "weights", "prompt": "a photo of the (red cat:1.4) on ((old)) [tree]",
                "chunks": 1, "parts": [("a photo of the", 1.0), ("red cat", 1.4), ("on", 1.0),
                                       ("old", 1.1 * 1.1), ("tree", 1 / 1.1)]},
        base | {"name": "a long prompt", "prompt": "a red cat (in the city:0.7) " + LONG,
                "chunks": 2, "parts": [("a red cat", 1.0), ("in the city", 0.7), (LONG, 1.0)]},
        base | {"name": "no guidance", "guidance": 1.0, "seed": 123456789012},
        base | {"name": "rescaled guidance", "guidance": 7.5, "rescale": 0.7, "scheduler": "ddim"},
        base | {"name": "two of a batch", "n": 2, "scheduler": "euler_a"},
        image | {"name": "image to image", "scheduler": "euler"},
        image | {"name": "image to image, all of it", "strength": 1.0, "scheduler": "ddim"},
        image | {"name": "image to image, random steps", "strength": 0.75, "n": 2,
                 "scheduler": "euler_a"},
        mask | {"name": "inpainting", "scheduler": "dpmpp_2m"},
        mask | {"name": "inpainting in part", "strength": 0.7, "scheduler": "euler_a"},
        mask | {"name": "inpainting, two calls a step", "scheduler": "heun"},
        mask | {"name": "inpainting, nine channels", "model": "inpaint", "scheduler": "euler_a"},
        mask | {"name": "inpainting in part, nine channels", "model": "inpaint", "strength": 0.7,
                "scheduler": "ddim"},
        base | {"name": "sd21", "model": "sd21"},
        base | {"name": "sd21 euler, image to image", "model": "sd21", "image": True,
                "strength": 0.5, "scheduler": "euler"},
        base | {"name": "lcm", "model": "lcm", "steps": 4, "guidance": 8.5, "negative": None},
        base | {"name": "lcm, image to image", "model": "lcm", "steps": 4, "guidance": 8.5,
                "negative": None, "image": True, "strength": 0.6},
    ]
    wide = {"model": "sdxl", "width": 64, "height": 32}
    cases += [
        base | wide | {"name": "sdxl"},
        base | wide | {"name": "sdxl, zero negative", "negative": None, "height": 64},
        image | wide | {"name": "sdxl, image to image", "strength": 0.5},
        mask | wide | {"name": "sdxl, inpainting", "strength": 0.9,
                       "scheduler": "dpmpp_2m_karras"},
    ]
    cases += [c | {"model": "taesd"} for c in (
        base | {"name": "a tiny VAE"},
        image | {"name": "a tiny VAE, image to image", "n": 2, "scheduler": "euler_a"},
        mask | {"name": "a tiny VAE, inpainting", "strength": 0.8, "scheduler": "dpmpp_2m"})]
    cases += [
        base | {"name": "an old config", "model": "old_pndm"},
        image | {"name": "an old config, image to image", "model": "old_pndm"},
        base | {"name": "odd maps", "width": 46, "height": 34},
        image | {"name": "odd maps, image to image", "width": 38, "height": 32},
        mask | {"name": "odd maps, inpainting", "width": 36, "height": 50, "strength": 0.8},
        base | wide | {"name": "odd maps at two depths", "width": 54, "height": 26},
        mask | {"name": "an old config, inpainting", "model": "old_pndm", "strength": 0.7},
        base | {"name": "an old config that clips", "model": "old_ddim"},
        base | {"name": "another class over an old config", "model": "old_ddim",
                "scheduler": "ddpm"},
        base | {"name": "clip_skip", "skip": 1, "scheduler": "euler"},
    ]
    return cases


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=pathlib.Path, default=OUT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cases, data = make_cases(), b""
    for case in cases:
        images = picture(args.out, case)
        flat = images.reshape(-1, 3)
        print(f"{case['name']}: mean {flat.mean():.1f}, deviation {flat.std():.1f}", flush=True)
        data += images.tobytes()
    (args.out / "pipeline.bin").write_bytes(data)
    (args.out / "pipeline.json").write_text(json.dumps(cases, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
