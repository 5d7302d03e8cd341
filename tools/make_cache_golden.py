#!/usr/bin/env python3
"""Step caches over diffusers' UNet with the tiny models of tests/fixtures: DeepCache and a first-block cache, with
guidance, ControlNets, adapters, image to image, hires and windows.

Writes tests/fixtures/cache.json, the requests, and cache.bin with the pictures [height, width, 3] of all of them,
for tests/golden/test_pipeline.c.  The UNet's forward pass is written out from its modules here, in the terms of
engine/step_cache.h; without a cache it is held against diffusers' own.

    build/venv-image/bin/python tools/make_cache_golden.py [--out tests/fixtures]
"""
import argparse
import json
import pathlib

import numpy as np
import torch
from diffusers import ControlNetModel, T2IAdapter, UNet2DConditionModel

import make_control_golden as control
import make_passes_golden as passes
import make_pipeline_golden as pipeline

WHOLE = UNet2DConditionModel.forward
FIRST_BRANCH = 1


def layers(block):
    attentions = getattr(block, "attentions", None) or [None] * len(block.resnets)
    return list(zip(block.resnets, attentions))


class Memory:
    """What calls for one window leave for the next ones."""
    def __init__(self):
        self.calls = 0
        self.deep = self.change = None

    def reuses(self, cache, skips):
        """For each row of the call: is the deep part left out?"""
        rows = len(skips[0])
        if cache["type"] == "deepcache":
            reuse = torch.full((rows,), self.calls % cache["interval"] != 0)
        else:
            change = skips[1] - skips[0]
            if self.change is None:
                self.change = torch.zeros_like(change)
                reuse = torch.zeros(rows, dtype=torch.bool)
            else:
                far = (change - self.change).abs().flatten(1).sum(1)
                reuse = far <= cache["threshold"] * self.change.abs().flatten(1).sum(1)
                if rows > 1:  # [negative, positive] of the same picture go together
                    reuse = (reuse[:rows // 2] & reuse[rows // 2:]).repeat(2)
            self.change = torch.where(reuse[:, None, None, None], self.change, change)
        self.calls += 1
        return reuse


def parts(unet, cache, memory, x, t, text, more, residuals, mid_residual, features):
    """The UNet in three parts: the head makes skips 0 ... branch, the deep part what the tail reads besides them."""
    branch = cache.get("branch", 0) if cache["type"] == "deepcache" else FIRST_BRANCH
    emb = unet.time_embedding(unet.get_time_embed(x, t))
    aug = unet.get_aug_embed(emb, text, more or {})
    emb = emb if aug is None else emb + aug
    x = unet.conv_in(x)
    skips, features = [x], list(features or [])
    for block in unet.down_blocks:
        steps = layers(block)
        has_text = getattr(block, "attentions", None) is not None
        for i, (resnet, attention) in enumerate(steps):
            x = resnet(x, emb)
            if attention is not None:
                x = attention(x, encoder_hidden_states=text).sample
            if features and i == len(steps) - 1 and (has_text or not block.downsamplers):
                x = x + features.pop(0)
            skips.append(x)
        for sampler in block.downsamplers or []:
            x = sampler(x)
            if features and not has_text:
                x = x + features.pop(0)
            skips.append(x)
    reuse = memory.reuses(cache, skips)
    if unet.mid_block is not None:
        x = unet.mid_block(x, emb, encoder_hidden_states=text)
    if mid_residual is not None:
        x = x + mid_residual
    if residuals:
        skips = [a + b for a, b in zip(skips, residuals)]
    for block in unet.up_blocks:
        for resnet, attention in layers(block):
            if len(skips) - 1 == branch:
                if memory.deep is not None:
                    x = torch.where(reuse[:, None, None, None], memory.deep, x)
                memory.deep = x
            x = resnet(torch.cat([x, skips.pop()], 1), emb)
            if attention is not None:
                x = attention(x, encoder_hidden_states=text).sample
        for sampler in block.upsamplers or []:
            x = sampler(x)
    USED.append(reuse.float().mean().item())
    return unet.conv_out(unet.conv_act(unet.conv_norm_out(x)))


CACHE, USED = {}, []  # of the case that is made; shares of rows that were reused


def forward(unet, sample, timestep, encoder_hidden_states, timestep_cond=None,
            cross_attention_kwargs=None, added_cond_kwargs=None,
            down_block_additional_residuals=None, mid_block_additional_residual=None,
            down_intrablock_additional_residuals=None, return_dict=True, **_):
    """In place of UNet2DConditionModel.forward."""
    state = unet.__dict__.setdefault("step_memory", {"t": None, "window": 0, "all": []})
    state["window"] = state["window"] + 1 if CACHE.get("windows") and state["t"] == timestep else 0
    state["t"] = timestep
    if state["window"] == len(state["all"]):
        state["all"].append(Memory())
    out = parts(unet, CACHE, state["all"][state["window"]], sample, timestep, encoder_hidden_states,
                added_cond_kwargs, down_block_additional_residuals, mid_block_additional_residual,
                down_intrablock_additional_residuals)
    return (out,)


def check(folder):
    """Written out or diffusers' own: the same."""
    unet = UNet2DConditionModel.from_pretrained(folder / "sd_sd15" / "unet").float()
    x, text = torch.randn(2, 4, 8, 8), torch.randn(2, 77, unet.config.cross_attention_dim)
    with torch.no_grad():
        mine = parts(unet, {"type": "deepcache", "interval": 1}, Memory(), x, torch.tensor(7), text,
                     None, None, None, None)
        far = (mine - WHOLE(unet, x, 7, text).sample).abs().max().item()
    assert far < 1e-5, far
    USED.clear()


def make_cases():
    base = {"model": "sd15", "prompt": "a photo of the red cat", "negative": "dark old city",
            "width": 48, "height": 32, "steps": 8, "guidance": 3.0, "seed": 7}
    three = {"type": "deepcache", "interval": 3, "branch": 0}
    first = {"type": "first_block", "threshold": 0.2}
    steered = base | {"control": [{"model": "a", "scale": 0.8}]}
    large = base | {"out_w": 80, "out_h": 64, "hires_steps": 6, "hires_strength": 0.6,
                    "hires_how": 1}
    cases = [base | {"name": f"deepcache, branch {b}", "step_cache": three | {"branch": b}}
             for b in range(4)]
    cases += [
        base | {"name": "deepcache, every second", "step_cache": three | {"interval": 2},
                "scheduler": "dpmpp_2m", "steps": 11},
        base | {"name": "deepcache, two calls a step", "step_cache": three, "scheduler": "heun"},
        base | {"name": "deepcache, no guidance", "step_cache": three, "guidance": 1.0},
        base | {"name": "deepcache, image to image", "step_cache": three, "image": True,
                "strength": 0.7},
        base | {"name": "deepcache, inpainting", "step_cache": three, "image": True, "mask": True,
                "strength": 0.8},
        steered | {"name": "deepcache, ControlNet", "step_cache": three | {"branch": 1}},
        steered | {"name": "deepcache, adapter", "step_cache": three,
                   "control": [{"model": "full", "scale": 0.7}]},
        large | {"name": "deepcache, hires", "step_cache": three},
        base | {"name": "deepcache, windows", "step_cache": three, "tiled": True, "width": 80,
                "height": 64, "scheduler": "euler"},
        base | {"name": "deepcache, sdxl", "model": "sdxl", "step_cache": three, "width": 64},
        base | {"name": "deepcache, sd21", "model": "sd21", "step_cache": three | {"branch": 3}},
    ]
    for t in (0.02, 0.1, 0.3, 5):
        cases.append(base | {"name": f"first block, {t}", "step_cache": first | {"threshold": t}})
    cases += [
        base | {"name": "first block, no guidance", "step_cache": first, "guidance": 1.0},
        base | {"name": "first block, image to image", "image": True, "strength": 0.7,
                "step_cache": first | {"threshold": 0.4}, "scheduler": "euler_a"},
        steered | {"name": "first block, ControlNet", "step_cache": first},
        steered | {"name": "first block, adapter", "step_cache": first,
                   "control": [{"model": "full", "scale": 0.7}]},
        large | {"name": "first block, hires", "step_cache": first},
        base | {"name": "first block, windows", "step_cache": first, "tiled": True, "width": 80,
                "height": 64, "scheduler": "euler"},
        base | {"name": "first block, sdxl", "model": "sdxl", "width": 64,
                "step_cache": first | {"threshold": 0.5}},
    ]
    return cases


def nets_of(out, case):
    return {c["model"]: (T2IAdapter if c["model"] in control.ADAPTERS else ControlNetModel)
            .from_pretrained(out / f"control_{c['model']}").float() for c in case["control"]}


def picture(out, case):
    if case.get("control"):
        return control.picture(out, nets_of(out, case), case)
    if case.get("tiled") or case.get("hires_how") is not None:
        made = (passes.tiled if case.get("tiled") else passes.hires)(out, case)
        return (made * 255).round().astype(np.uint8)
    return pipeline.picture(out, case)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=pathlib.Path, default=pipeline.OUT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    check(args.out)
    UNet2DConditionModel.forward = forward
    cases, data = make_cases(), b""
    for case in cases:
        CACHE.clear()
        CACHE.update(case["step_cache"] | {"windows": case.get("tiled", False)})
        USED.clear()
        with torch.no_grad():
            images = picture(args.out, case)
        print(f"{case['name']}: mean {images.mean():.1f}, reused {np.mean(USED):.2f}", flush=True)
        data += images.tobytes()
    (args.out / "cache.bin").write_bytes(data)
    (args.out / "cache.json").write_text(json.dumps(cases, indent=1) + "\n")


if __name__ == "__main__":
    main()
