#!/usr/bin/env python3
"""Adapters for the tiny image models of tests/fixtures, and what diffusers makes with them.

Writes tests/fixtures/lora: LoRA files under the names of each of their writers (kohya-ss, diffusers old and new,
PEFT, latent-diffusion's blocks), LoCon with and without a middle, embeddings; lora.json with requests,
lora.bin with their pictures [height, width, 3], and lora_tensors.bin with hidden states of a prompt and one
answer of the UNet as f32, for tests/golden/test_lora.c.

    pip install torch diffusers transformers peft safetensors
    python tools/make_lora_golden.py [--out tests/fixtures]
"""
import argparse
import json
import pathlib
import sys

import numpy as np
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import save_file

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "fixtures"
PARTS = {"unet": "lora_unet_", "text_encoder": "lora_te_", "text_encoder_2": "lora_te2_"}
RANK = 3


def load(folder, name):
    more = {"add_watermarker": False} if name == "sdxl" else {
        "safety_checker": None, "feature_extractor": None, "image_encoder": None,
        "requires_safety_checker": False}
    cls = StableDiffusionXLPipeline if name == "sdxl" else StableDiffusionPipeline
    pipe = cls.from_pretrained(folder / f"sd_{name}", torch_dtype=torch.float32, **more)
    for part in ("tokenizer", "tokenizer_2"):
        if hasattr(pipe, part):
            getattr(pipe, part).model_max_length = 77
    pipe.set_progress_bar_config(disable=True)
    return pipe


class Lora:
    """Matrices for some layers of a pipeline, written under whichever names."""

    def __init__(self, pipe, wanted, seed, alpha=None, rank=RANK):
        g = torch.Generator().manual_seed(seed)
        self.alpha, self.layers = alpha, {}
        for part in PARTS:
            model = getattr(pipe, part, None)
            for name, m in model.named_modules() if model is not None else []:
                if not isinstance(m, (torch.nn.Linear, torch.nn.Conv2d)) or not wanted(part, name):
                    continue
                w = m.weight
                if part != "unet" and not name.startswith("text_"):  # transformers 5 leaves it out
                    name = f"text_model.{name}"
                down = torch.randn(rank, *w.shape[1:], generator=g) / w[0].numel() ** 0.5
                up = torch.randn(w.shape[0], rank, *[1] * (w.ndim - 2), generator=g) * 0.5
                self.layers[part, name] = [down.half(), up.half()]

    def write(self, path, names):
        out = {}
        for (part, layer), (down, up) in self.layers.items():
            d, u, a = names(part, layer)
            out[d], out[u] = down.contiguous(), up.contiguous()
            if self.alpha is not None and a:
                out[a] = torch.tensor(float(self.alpha)).half()
            elif self.alpha is not None:  # into the matrix, where there is no name for it
                out[u] = up.float().contiguous() * (self.alpha / down.shape[0])
        save_file(out, path)


def kohya(part, layer, xl=False):
    prefix = "lora_te1_" if xl and part == "text_encoder" else PARTS[part]
    base = prefix + layer.replace(".", "_")
    return f"{base}.lora_down.weight", f"{base}.lora_up.weight", f"{base}.alpha"


def peft(part, layer):
    return f"{part}.{layer}.lora_A.weight", f"{part}.{layer}.lora_B.weight", None


def dotted(part, layer):
    base = f"{part}.{layer}.lora" + ("" if part == "unet" else "_linear_layer")
    return f"{base}.down.weight", f"{base}.up.weight", None


def processors(_, layer):
    at, what = layer.rsplit(".to_", 1)
    base = f"{at}.processor.to_{what.split('.')[0]}_lora"
    return f"{base}.down.weight", f"{base}.up.weight", None


def ldm_layer(layer, n):
    """diffusers' name of a layer of the UNet to latent-diffusion's, for n resnets a block."""
    p = layer.split(".")
    tail = {"conv1": "in_layers.2", "conv2": "out_layers.3", "time_emb_proj": "emb_layers.1",
            "conv_shortcut": "skip_connection"}
    rest = ".".join(p[4:] if p[0] != "mid_block" else p[3:])
    rest = tail.get(rest, rest)
    if p[0] == "down_blocks":
        if p[2] == "downsamplers":
            return f"input_blocks.{(int(p[1]) + 1) * (n + 1)}.0.op"
        return (f"input_blocks.{1 + int(p[1]) * (n + 1) + int(p[3])}."
                f"{int(p[2] == 'attentions')}.{rest}")
    if p[0] == "mid_block":
        return f"middle_block.{2 * int(p[2]) + int(p[1] == 'attentions')}.{rest}"
    return f"output_blocks.{int(p[1]) * (n + 1) + int(p[3])}.{int(p[2] == 'attentions')}.{rest}"


def kohya_ldm(part, layer):
    return kohya(part, ldm_layer(layer, 1) if part == "unet" else layer, xl=True)


def attention(part, name):
    return part == "unet" and ".attn" in name


def everything(part, name):
    if part != "unet":
        return "self_attn" in name or "mlp" in name
    return name.count(".") > 1


def linear(part, name):
    return everything(part, name) and "conv" not in name and "proj_in" not in name


def with_middle(lora, path):
    """kohya's LoCon with three matrices; returns the same as two, for diffusers."""
    g = torch.Generator().manual_seed(9)
    out, whole = {}, {}
    for (part, layer), (down, up) in lora.layers.items():
        base = kohya(part, layer)[0].rsplit(".lora_down", 1)[0]
        k = down.shape[-1]
        first = (torch.randn(RANK, down.shape[1], 1, 1, generator=g) / down.shape[1] ** 0.5).half()
        mid = (torch.randn(RANK, RANK, k, k, generator=g) / RANK ** 0.5 / k).half()
        out |= {f"{base}.lora_down.weight": first, f"{base}.lora_mid.weight": mid,
                f"{base}.lora_up.weight": up.contiguous(), f"{base}.alpha": torch.tensor(2.0)}
        product = torch.einsum("rjyx,jcab->rcyx", mid.float(), first.float())
        whole[part, layer] = [product, up.float()]
    save_file(out, path)
    return whole


def with_patterns(lora, path):
    """As diffusers saves a LoRA some of whose layers have a rank and an alpha of their own."""
    out, ranks, g = {}, {}, torch.Generator().manual_seed(11)
    for (part, layer), (down, up) in lora.layers.items():
        if layer.endswith("to_v"):
            ranks[layer] = RANK + 2
            down = torch.randn(RANK + 2, down.shape[1], generator=g) / down.shape[1] ** 0.5
            up = torch.randn(up.shape[0], RANK + 2, generator=g) * 0.5
        d, u, _ = peft(part, layer)
        out[d], out[u] = down.half().contiguous(), up.half().contiguous()
    first = next(layer for _, layer in lora.layers if layer.endswith("to_q"))
    config = {"r": RANK, "lora_alpha": 3, "rank_pattern": ranks,
              "alpha_pattern": {"attn2.to_v": 1, first: 5, "to_k": 2},
              "target_modules": sorted({layer.split(".attn", 1)[1].split(".", 1)[1]
                                        for _, layer in lora.layers})}
    save_file(out, path, {"format": "pt", "lora_adapter_metadata": json.dumps(
        {f"unet.{key}": value for key, value in config.items()})})


def make_adapters(folder, to):
    """Files, and for some of them which file says the same to diffusers."""
    same = {}
    sd, xl = load(folder, "sd15"), load(folder, "sdxl")
    lora = Lora(sd, everything, 1, alpha=2)
    lora.write(to / "kohya.safetensors", kohya)
    lora.write(to / "kohya_peft.safetensors", peft)
    same["kohya"] = "kohya_peft"
    Lora(sd, lambda part, name: linear(part, name) and "ff" not in name, 2).write(
        to / "peft.safetensors", peft)
    Lora(sd, lambda part, name: attention(part, name) or "self_attn" in name, 3).write(
        to / "dotted.safetensors", dotted)
    lora = Lora(sd, attention, 4)
    lora.write(to / "processors.safetensors", processors)
    lora.write(to / "processors_peft.safetensors", peft)
    same["processors"] = "processors_peft"
    middle = Lora(sd, lambda part, name: part == "unet" and ".conv" in name and "short" not in name, 5)
    middle.layers = with_middle(middle, to / "middle.safetensors")
    middle.alpha = 2
    middle.write(to / "middle_peft.safetensors", peft)
    same["middle"] = "middle_peft"
    lora = Lora(xl, linear, 6, alpha=4, rank=4)
    lora.write(to / "kohya_xl.safetensors", kohya_ldm)
    Lora(xl, lambda part, name: attention(part, name) or "self_attn" in name, 7).write(
        to / "peft_xl.safetensors", peft)
    with_patterns(Lora(sd, lambda part, name: part == "unet" and attention(part, name), 10),
                  to / "patterns.safetensors")
    g = torch.Generator().manual_seed(8)
    widths = sd.text_encoder.config.hidden_size, xl.text_encoder.config.hidden_size, \
        xl.text_encoder_2.config.hidden_size
    vectors = [torch.randn(2, n, generator=g) * 0.5 for n in widths]
    save_file({"emb_params": vectors[0].half()}, to / "redglow.safetensors")
    save_file({"<thing>": vectors[0][1].contiguous()}, to / "learned.safetensors")
    save_file({"clip_l": vectors[1].half(), "clip_g": vectors[2].half()}, to / "glow_xl.safetensors")
    return same


def set_loras(pipe, to, loras, same):
    names, weights = [], []
    for i, lora in enumerate(loras):
        file = same.get(lora["name"], lora["name"])
        pipe.load_lora_weights(to, weight_name=f"{file}.safetensors", adapter_name=f"a{i}")
        names.append(f"a{i}")
        scale = lora.get("scale", 1.0)
        text = lora.get("text_scale", scale)
        weights.append(scale if scale == text else
                       {"unet": scale, "text_encoder": text, "text_encoder_2": text})
    if names:
        pipe.set_adapters(names, weights)


def add_words(pipe, to, words):
    for file, token in words.items():
        if hasattr(pipe, "tokenizer_2"):
            from safetensors.torch import load_file
            t = load_file(to / f"{file}.safetensors")
            pipe.load_textual_inversion(t["clip_l"].float(), token=token, tokenizer=pipe.tokenizer,
                                        text_encoder=pipe.text_encoder)
            pipe.load_textual_inversion(t["clip_g"].float(), token=token,
                                        tokenizer=pipe.tokenizer_2,
                                        text_encoder=pipe.text_encoder_2)
        else:
            pipe.load_textual_inversion(to, weight_name=f"{file}.safetensors", token=token)


def picture(folder, to, case, same):
    pipe = load(folder, case["model"])
    set_loras(pipe, to, case.get("loras", []), same)
    add_words(pipe, to, case.get("words", {}))
    with torch.no_grad():
        out = pipe(prompt=case["prompt"], negative_prompt=case["negative"], width=case["width"],
                   height=case["height"], num_inference_steps=case["steps"],
                   guidance_scale=case["guidance"], output_type="np",
                   generator=torch.Generator("cpu").manual_seed(case["seed"])).images[0]
    return (out * 255).round().astype(np.uint8)


def tensors(folder, to, model, loras, same):
    """Hidden states of a prompt, and the UNet's answer to a latent that both sides can make."""
    pipe = load(folder, model)
    set_loras(pipe, to, loras, same)
    x = torch.sin(torch.arange(8 * 8 * 4, dtype=torch.float32)).reshape(8, 8, 4).permute(2, 0, 1)[None]
    with torch.no_grad():
        out = pipe.encode_prompt("a photo of the red cat", device="cpu", num_images_per_prompt=1,
                                 do_classifier_free_guidance=False)
        hidden = out[0]
        more = {}
        if model == "sdxl":
            more["added_cond_kwargs"] = {
                "text_embeds": out[2],
                "time_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]])}
        y = pipe.unet(x, torch.tensor(321), encoder_hidden_states=hidden, **more).sample
    y = y[0].permute(1, 2, 0)
    return np.concatenate([hidden.numpy().ravel(), y.numpy().ravel()]).astype(np.float32).tobytes()


def make_cases():
    base = {"model": "sd15", "prompt": "a photo of the red cat", "negative": "dark old city",
            "width": 48, "height": 32, "steps": 4, "guidance": 3.0, "seed": 7}
    xl = base | {"model": "sdxl", "width": 64}

    def one(name, **more):
        return [{"name": name, **more}]
    return [
        base | {"name": "none", "loras": []},
        base | {"name": "kohya, linear and conv, text", "loras": one("kohya", scale=0.7)},
        base | {"name": "peft", "loras": one("peft", scale=1.0)},
        base | {"name": "diffusers with dots", "loras": one("dotted", scale=-0.8)},
        base | {"name": "old processors", "loras": one("processors", scale=1.5)},
        base | {"name": "LoCon with a middle", "loras": one("middle", scale=1.0)},
        base | {"name": "ranks and alphas by pattern", "loras": one("patterns", scale=0.9)},
        base | {"name": "three with scales", "loras": one("kohya", scale=0.4) +
                one("peft", scale=0.6) + one("dotted", scale=0.5)},
        base | {"name": "other scale for text",
                "loras": one("kohya", scale=0.8, text_scale=0.25)},
        base | {"name": "an embedding of two tokens", "prompt": "a photo of redglow cat",
                "words": {"redglow": "redglow"}},
        base | {"name": "a token in the negative prompt, and a LoRA", "negative": "dark <thing> city",
                "words": {"learned": "<thing>"}, "loras": one("peft", scale=0.5)},
        xl | {"name": "sdxl none"},
        xl | {"name": "sdxl kohya, latent-diffusion's names", "loras": one("kohya_xl", scale=0.8)},
        xl | {"name": "sdxl peft and kohya",
              "loras": one("peft_xl", scale=0.7) + one("kohya_xl", scale=0.5)},
        xl | {"name": "sdxl embedding", "prompt": "a photo of glow_xl cat",
              "words": {"glow_xl": "glow_xl"}},
    ]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=pathlib.Path, default=OUT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    to = args.out / "lora"
    to.mkdir(exist_ok=True)
    same = make_adapters(args.out, to)
    cases, data, plain = make_cases(), b"", {}
    for case in cases:
        image = picture(args.out, to, case, same)
        before = plain.setdefault(case["model"], image).astype(float)
        error = ((image - before) ** 2).mean()
        print(f"{case['name']}: {10 * np.log10(65025 / error) if error else 99:.1f} dB from plain",
              flush=True)
        data += image.tobytes()
    (to / "lora.bin").write_bytes(data)
    (to / "lora.json").write_text(json.dumps(cases, indent=1) + "\n")
    (to / "tensors.bin").write_bytes(
        tensors(args.out, to, "sd15", [{"name": "kohya", "scale": 0.7}], same) +
        tensors(args.out, to, "sdxl", [{"name": "kohya_xl", "scale": 0.8}], same))
    for name in same.values():
        (to / f"{name}.safetensors").unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
