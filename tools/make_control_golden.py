#!/usr/bin/env python3
"""Tiny random ControlNets and T2I-Adapters for the image models of tests/fixtures (make_image_golden.py),
and what diffusers computes with them.

Writes control_NAME/ (diffusers directories, f16), control_ldm.safetensors and control_full.safetensors (two of
them as single files, the first under LDM's names), control.safetensors (residuals and features, for
tests/golden/test_control.c), control.json and control.bin (requests and pictures, for test_pipeline.c), and
canny.bin (edges by OpenCV, for test_image_filter.c).

    build/venv-image/bin/pip install opencv-python-headless  (beside what make_pipeline_golden.py needs)
    build/venv-image/bin/python tools/make_control_golden.py [--out tests/fixtures]
"""
import argparse
import json
import pathlib
import re
import shutil
import sys

import cv2
import numpy as np
import torch
from diffusers import (ControlNetModel, StableDiffusionAdapterPipeline,
                       StableDiffusionControlNetImg2ImgPipeline,
                       StableDiffusionControlNetInpaintPipeline, StableDiffusionControlNetPipeline,
                       StableDiffusionXLAdapterPipeline, StableDiffusionXLControlNetPipeline,
                       T2IAdapter)
from PIL import Image
from safetensors.torch import load_file, save_file

from make_image_golden import OUT, randomise
from make_passes_golden import axis, load_refiner
from make_pipeline_golden import SCHEDULERS, init_image, load, mask_image

SMALL = {"conditioning_embedding_out_channels": (4, 8), "mid_block_type": "UNetMidBlock2D",
         "down_block_types": ["DownBlock2D"] * 2}
NETS = {  # name: (model it is for, changes to its configuration)
    "a": ("sd15", {"conditioning_embedding_out_channels": (6, 10)}),
    "b": ("sd15", SMALL | {"controlnet_conditioning_channel_order": "bgr"}),
    "pool": ("sd15", SMALL | {"global_pool_conditions": True}),
    "sd21": ("sd21", {"conditioning_embedding_out_channels": (4, 8)}),
    "sdxl": ("sdxl", {"conditioning_embedding_out_channels": (6, 10)}),
}
ADAPTERS = {  # name: T2IAdapter's arguments
    "full": {"channels": [8, 12], "num_res_blocks": 2, "downscale_factor": 2},
    "light": {"channels": [8, 12], "num_res_blocks": 1, "downscale_factor": 2, "in_channels": 1,
              "adapter_type": "light_adapter"},
    "xl": {"channels": [8, 8, 12, 12], "num_res_blocks": 1, "downscale_factor": 4,
           "adapter_type": "full_adapter_xl"},
}
COPIED = ("in_channels", "block_out_channels", "layers_per_block", "down_block_types",
          "cross_attention_dim", "attention_head_dim", "norm_num_groups", "use_linear_projection",
          "addition_embed_type", "addition_time_embed_dim",
          "projection_class_embeddings_input_dim", "transformer_layers_per_block",
          "mid_block_type", "flip_sin_to_cos", "freq_shift")


def make_nets(out):
    nets = {}
    for i, (name, (model, changes)) in enumerate(NETS.items()):
        config = json.loads((out / f"sd_{model}" / "unet" / "config.json").read_text())
        args = {k: config[k] for k in COPIED}
        if isinstance(args["attention_head_dim"], list):
            args["num_attention_heads"] = args["attention_head_dim"]
        nets[name] = randomise(ControlNetModel(**args | changes), 2000 + i)
    for i, (name, args) in enumerate(ADAPTERS.items()):
        nets[name] = randomise(T2IAdapter(**args), 2100 + i)
    for name, net in nets.items():
        folder = out / f"control_{name}"
        shutil.rmtree(folder, ignore_errors=True)
        net.half().save_pretrained(folder)
        net.float()
        config = folder / "config.json"
        config.write_text(config.read_text().rstrip() + "\n")
    return nets


# ---- single files ----

LDM = [(r"^conv_in\.", "input_blocks.0.0."), (r"^time_embedding\.linear_1", "time_embed.0"),
       (r"^time_embedding\.linear_2", "time_embed.2"), (r"^mid_block\.resnets\.0", "middle_block.0"),
       (r"^mid_block\.attentions\.0", "middle_block.1"),
       (r"^mid_block\.resnets\.1", "middle_block.2"),
       (r"^controlnet_cond_embedding\.conv_in", "input_hint_block.0"),
       (r"^controlnet_cond_embedding\.blocks\.0", "input_hint_block.2"),
       (r"^controlnet_cond_embedding\.blocks\.1", "input_hint_block.4"),
       (r"^controlnet_cond_embedding\.conv_out", "input_hint_block.6"),
       (r"^controlnet_down_blocks\.(\d+)", r"zero_convs.\1.0"),
       (r"^controlnet_mid_block", "middle_block_out.0"),
       (r"^down_blocks\.0\.resnets\.0", "input_blocks.1.0"),
       (r"^down_blocks\.0\.attentions\.0", "input_blocks.1.1"),
       (r"^down_blocks\.0\.downsamplers\.0\.conv", "input_blocks.2.0.op"),
       (r"^down_blocks\.1\.resnets\.0", "input_blocks.3.0")]
RESNET = [("norm1", "in_layers.0"), ("conv1", "in_layers.2"), ("time_emb_proj", "emb_layers.1"),
          ("norm2", "out_layers.0"), ("conv2", "out_layers.3"),
          ("conv_shortcut", "skip_connection")]


def ldm_name(name):
    resnet = ".resnets." in name
    for pattern, to in LDM:
        new = re.sub(pattern, to, name)
        if new != name:
            break
    for ours, theirs in RESNET if resnet else []:
        new = new.replace(f".{ours}.", f".{theirs}.")
    return "control_model." + new


def make_single_files(out):
    weights = load_file(out / "control_a" / "diffusion_pytorch_model.safetensors")
    save_file({ldm_name(k): v for k, v in weights.items()}, out / "control_ldm.safetensors")


# ---- tensors ----

def hint_image(width, height, kind=0):
    """A picture that both sides can make, one of three."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [(x * 9 + y * 3) % 256, (x * y * 3) % 256, (y * 11 + 40) % 256]
    return np.stack(planes[kind:] + planes[:kind], -1).astype(np.uint8)


def as_tensor(picture):
    return torch.from_numpy(picture.astype(np.float32) / 255).permute(2, 0, 1)[None]


def flat(tensors):
    return torch.cat([t.permute(0, 2, 3, 1).reshape(t.shape[0], -1) for t in tensors], 1)


def net_values(values, name, net, seed):
    g = torch.Generator().manual_seed(seed)
    c = net.config
    x = torch.randn(2, 4, 4, 8, generator=g)
    context = torch.randn(2, 9, c.cross_attention_dim, generator=g)
    pictures = torch.cat([as_tensor(hint_image(16, 8, i)) for i in range(2)])
    t = torch.tensor([981.0, 249.5])
    more = {}
    if c.addition_embed_type:
        pooled = torch.randn(2, c.projection_class_embeddings_input_dim -
                             6 * c.addition_time_embed_dim, generator=g)
        ids = torch.tensor([[64.0, 96, 0, 0, 64, 96], [32.0, 32, 4, 8, 64, 96]])
        values[f"{name}.pooled"], values[f"{name}.time_ids"] = pooled, ids
        more["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": ids}
    values |= {f"{name}.x": x.permute(0, 2, 3, 1), f"{name}.context": context}
    for key, guess in ("out", False), ("guess", True):
        down, mid = net(x, t, context, pictures, 0.75, guess_mode=guess, return_dict=False, **more)
        if c.global_pool_conditions:
            whole = ControlNetModel.from_config(dict(c) | {"global_pool_conditions": False})
            whole.load_state_dict(net.state_dict())
            full = whole(x, t, context, pictures, 0.75, return_dict=False)
            down = [d.expand(f.shape) for d, f in zip(down, full[0])]
            mid = mid.expand(full[1].shape)
        values[f"{name}.{key}"] = flat([*down, mid])


def make_values(nets, out):
    values = {}
    for i, (name, net) in enumerate(nets.items()):
        if name in NETS:
            net_values(values, name, net, 2200 + i)
            continue
        picture = as_tensor(hint_image(16, 8))
        if ADAPTERS[name].get("in_channels") == 1:
            gray = np.array(Image.fromarray(hint_image(16, 8)).convert("L"))
            picture = as_tensor(gray[..., None])
        values[f"{name}.out"] = flat(net(picture))
    save_file({k: v.contiguous() for k, v in values.items()}, out / "control.safetensors")


# ---- pictures ----

PIPES = {("sd", "text"): StableDiffusionControlNetPipeline,
         ("sd", "image"): StableDiffusionControlNetImg2ImgPipeline,
         ("sd", "mask"): StableDiffusionControlNetInpaintPipeline,
         ("sdxl", "text"): StableDiffusionXLControlNetPipeline}
ADAPTER_PIPES = {"sd": StableDiffusionAdapterPipeline, "sdxl": StableDiffusionXLAdapterPipeline}


def control_picture(control, name, width, height):
    picture = hint_image(width, height, control.get("hint", 0))
    if control.get("hidden"):
        values = as_tensor(picture)
        values[0][:, mask_image(width, height) >= 128] = -1
        return values
    picture = Image.fromarray(picture)
    return picture.convert("L") if ADAPTERS.get(name, {}).get("in_channels") == 1 else picture


def windowed(pipe, adapter_scale):
    """What the pipeline computes with its UNet, on overlapping windows: each control sees its picture's part."""
    unet, control = pipe.unet, getattr(pipe, "controlnet", None) or pipe.adapter
    whole, look, seen = unet.forward, control.forward, {}
    side, zoom = unet.config.sample_size, pipe.vae_scale_factor

    def cut(x, y, k, scale):
        if isinstance(x, list):
            return [cut(part, y, k, scale) for part in x]
        return x[:, :, y * scale:(y + seen["h"]) * scale, k * scale:(k + seen["w"]) * scale]

    def stash(*args, **kwargs):
        seen.update(args=args, kwargs=kwargs)
        if control is not getattr(pipe, "adapter", None):
            return [torch.zeros(1)], torch.zeros(1)
        return look(*args, **kwargs)

    def residuals(x, y, k, adapter):
        if adapter:
            states = look(cut(seen["args"][0], y, k, zoom))
            return {"down_intrablock_additional_residuals": [
                torch.cat([v * adapter_scale] * len(x)) for v in states]}
        more = dict(seen["kwargs"], controlnet_cond=cut(seen["kwargs"]["controlnet_cond"], y, k, zoom))
        down, mid = look(x, *seen["args"][1:], **more)
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}

    def forward(x, *args, **kwargs):
        adapter = kwargs.get("down_intrablock_additional_residuals") is not None
        kwargs = {k: v for k, v in kwargs.items() if "additional_residual" not in k}
        h, w = x.shape[2:]
        (ys, sy), (xs, sx) = (axis(n, side, side * 3 // 4 + 1) for n in (h, w))
        seen.update(h=min(side, h), w=min(side, w))
        out = torch.zeros_like(x)
        for i, y in enumerate(ys):
            for j, k in enumerate(xs):
                part = cut(x, y, k, 1)
                got = whole(part, *args, **kwargs, **residuals(part, y, k, adapter))[0]
                share = np.outer(sy[i][y:y + seen["h"]], sx[j][k:k + seen["w"]])
                out[:, :, y:y + seen["h"], k:k + seen["w"]] += torch.from_numpy(share) * got
        return (out,)
    unet.forward, control.forward = forward, stash


def picture(out, nets, case):
    kind = "mask" if case.get("mask") else "image" if case.get("image") else "text"
    family = "sdxl" if case["model"] == "sdxl" else "sd"
    base = load(out, case["model"], "text")
    w, h, controls = case["width"], case["height"], case["control"]
    parts = dict(base.components)
    if case.get("scheduler"):
        cls, more = SCHEDULERS[case["scheduler"]]
        parts["scheduler"] = cls.from_config(parts["scheduler"].config, **more)
    models = [nets[c["model"]] for c in controls]
    pictures = [control_picture(c, c["model"], w, h) for c in controls]
    scales = [float(c.get("scale", 1)) for c in controls]
    one = len(controls) == 1
    args = {"prompt": case["prompt"], "negative_prompt": case["negative"], "output_type": "np",
            "num_inference_steps": case["steps"], "guidance_scale": case["guidance"],
            "generator": torch.Generator("cpu").manual_seed(case["seed"])}
    more = {} if family == "sdxl" else {"safety_checker": None, "feature_extractor": None,
                                        "requires_safety_checker": False}
    parts = {k: v for k, v in parts.items() if v is not None}
    if controls[0]["model"] in ADAPTERS:
        pipe = ADAPTER_PIPES[family](adapter=models[0] if one else models, **parts, **more)
        args |= {"image": pictures[0] if one else pictures, "width": w, "height": h,
                 "adapter_conditioning_scale": scales[0] if one else scales}
    else:
        pipe = PIPES[family, kind](controlnet=models[0] if one else models, **parts, **more)
        args |= {"controlnet_conditioning_scale": scales[0] if one else scales,
                 "control_guidance_start": [c.get("start", 0.0) for c in controls],
                 "control_guidance_end": [c.get("end", 1.0) for c in controls],
                 "guess_mode": bool(controls[0].get("guess"))}
        key = "image" if kind == "text" else "control_image"
        args |= {key: pictures[0] if one else pictures, "width": w, "height": h}
    if kind != "text":
        args |= {"image": Image.fromarray(init_image(w, h)), "strength": case["strength"]}
    if kind == "mask":
        args["mask_image"] = Image.fromarray(mask_image(w, h))
    pipe.set_progress_bar_config(disable=True)
    pipe.check_inputs = lambda *_, **__: None  # as in load
    if case.get("tiled"):
        forwards = pipe.unet, (getattr(pipe, "controlnet", None) or pipe.adapter)
        windowed(pipe, scales[0])
        side = pipe.unet.config.sample_size * pipe.vae_scale_factor
        args |= {"original_size": (min(h, side), min(w, side)),
                 "target_size": (min(h, side), min(w, side))} if family == "sdxl" else {}
    with torch.no_grad():
        if case.get("refiner"):
            images = refined(out, pipe, args, case)
        elif "hires_how" in case:
            images = hires(pipe, args, case, pictures, parts | more)
        else:
            images = pipe(**args).images
    for part in forwards if case.get("tiled") else ():
        del part.forward  # the class's again
    return (images[0] * 255).round().astype(np.uint8)


def refined(out, pipe, args, case):
    """The base model's part of the steps is steered, the refiner is not."""
    latent = pipe(**args | {"output_type": "latent"}, denoising_end=case["switch_at"]).images
    size, refiner = (case["height"], case["width"]), load_refiner(out)
    return refiner(**{k: args[k] for k in ("prompt", "negative_prompt", "num_inference_steps",
                                           "guidance_scale", "output_type")},
                   generator=torch.Generator("cpu").manual_seed(case["seed"]), image=latent,
                   denoising_start=case["switch_at"], original_size=size, target_size=size).images


def hires(pipe, args, case, pictures, parts):
    """Both are steered, the second by the picture enlarged."""
    size = (case["out_w"], case["out_h"])
    small = pipe(**args | {"output_type": "pil"}).images[0]
    second = StableDiffusionControlNetImg2ImgPipeline(controlnet=pipe.controlnet, **parts)
    second.set_progress_bar_config(disable=True)
    return second(**args | {
        "image": small.resize(size, Image.LANCZOS), "width": size[0], "height": size[1],
        "control_image": pictures[0].resize(size, Image.LANCZOS), "strength": case["hires_strength"],
        "num_inference_steps": case["hires_steps"],
        "generator": torch.Generator("cpu").manual_seed(case["seed"])}).images


def make_cases():
    base = {"model": "sd15", "prompt": "a photo of the red cat", "negative": "dark old city",
            "width": 32, "height": 24, "steps": 5, "guidance": 3.0, "seed": 7}
    one, two = {"model": "a", "scale": 0.8}, {"model": "b", "scale": 0.6, "hint": 1}
    xl = {"model": "sdxl", "scale": 0.7}
    wide = base | {"model": "sdxl", "width": 48, "height": 32}
    large = base | {"tiled": True, "width": 48, "height": 40}
    return [
        base | {"name": "one", "control": [one]},
        base | {"name": "two", "control": [one, two]},
        base | {"name": "one net, two pictures", "control": [two | {"hint": 2}, two]},
        base | {"name": "guess mode", "control": [one | {"guess": True}]},
        base | {"name": "some steps", "steps": 7,
                "control": [one | {"start": 0.2, "end": 0.7}, two | {"end": 0.5}]},
        base | {"name": "two calls a step", "scheduler": "heun",
                "control": [one | {"start": 0.3}]},
        base | {"name": "no guidance", "guidance": 1.0, "control": [one]},
        base | {"name": "pooled", "control": [{"model": "pool", "scale": 0.5}]},
        base | {"name": "image to image", "image": True, "strength": 0.6, "control": [one],
                "scheduler": "euler"},
        base | {"name": "inpainting", "image": True, "mask": True, "strength": 1.0,
                "scheduler": "ddim", "control": [one | {"hidden": True}]},
        base | {"name": "sd21", "model": "sd21", "control": [{"model": "sd21", "scale": 0.5}]},
        wide | {"name": "sdxl", "control": [xl]},
        wide | {"name": "sdxl, two", "control": [xl, xl | {"scale": 0.4, "hint": 1}]},
        base | {"name": "adapter", "control": [{"model": "full", "scale": 0.8}]},
        base | {"name": "light adapter", "control": [{"model": "light", "scale": 0.7}]},
        base | {"name": "two adapters", "control": [{"model": "full", "scale": 0.5},
                                                    {"model": "full", "scale": 0.4, "hint": 1}]},
        wide | {"name": "sdxl adapter", "control": [{"model": "xl", "scale": 0.5}]},
        large | {"name": "windows", "control": [one]},
        large | {"name": "windows, two in some steps", "guidance": 1.0,
                 "control": [one | {"end": 0.6}, two]},
        large | {"name": "windows, adapter", "control": [{"model": "full", "scale": 0.8}]},
        wide | {"name": "sdxl windows", "tiled": True, "control": [xl]},
        wide | {"name": "steered, then refined", "refiner": True, "switch_at": 0.6, "steps": 8,
                "control": [xl | {"end": 0.5}]},
        wide | {"name": "steered by an adapter, then refined", "refiner": True, "switch_at": 0.5,
                "control": [{"model": "xl", "scale": 0.5}]},
        base | {"name": "steered, larger, steered", "out_w": 48, "out_h": 40, "hires_how": 3,
                "hires_steps": 6, "hires_strength": 0.6, "control": [one]},
        base | {"name": "odd maps", "width": 34, "height": 26, "control": [one]},
        wide | {"name": "odd maps at two depths", "width": 54, "height": 26, "control": [xl]},
        base | {"name": "odd maps, adapter", "width": 34, "height": 28,
                "control": [{"model": "full", "scale": 0.8}]},
        base | {"name": "odd maps, light adapter", "width": 34, "height": 26,
                "control": [{"model": "light", "scale": 0.7}]},
        wide | {"name": "odd maps, sdxl adapter", "width": 36, "height": 28,
                "control": [{"model": "xl", "scale": 0.5}]},
    ]


def make_pictures(nets, out):
    cases, data = make_cases(), b""
    for case in cases:
        image = picture(out, nets, case)
        print(f"{case['name']}: mean {image.mean():.1f}, deviation {image.std():.1f}", flush=True)
        data += image.tobytes()
    (out / "control.bin").write_bytes(data)
    (out / "control.json").write_text(json.dumps(cases, indent=1) + "\n")


# ---- edges ----

def edge_pictures():
    """Shapes and noise: a gradient, a circle, and random blocks."""
    rng = np.random.RandomState(5)
    y, x = np.mgrid[0:36, 0:48]
    smooth = 127 + 80 * np.sin(x / 7) + 48 * np.cos(y / 5 + x / 11)
    circle = np.where((x - 30) ** 2 + (y - 22) ** 2 < 200, 230, 20)
    blocks = np.kron(rng.randint(0, 256, (9, 12)), np.ones((4, 4)))
    first = np.stack([smooth, circle, blocks], -1)
    second = rng.randint(0, 256, (17, 23, 3))
    return [np.clip(p, 0, 255).astype(np.uint8) for p in (first, second)]


def make_edges(out):
    """For each picture: width and height as int32, its pixels, its edges by three pairs of thresholds."""
    data = b""
    for image in edge_pictures():
        data += np.array([image.shape[1], image.shape[0]], np.int32).tobytes() + image.tobytes()
        for low, high in (100, 200), (50, 400), (0, 30):
            data += cv2.Canny(image, low, high).tobytes()
    (out / "canny.bin").write_bytes(data)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=OUT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    nets = make_nets(args.out)
    make_single_files(args.out)
    make_values(nets, args.out)
    make_pictures(nets, args.out)
    make_edges(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
