#!/usr/bin/env python3
"""Single files through the whole networks: the pictures that diffusers makes of them.

Models wide enough for 32 groups would be megabytes; so a file's head alone is checked in, and both sides
fill in the same pseudo-random weights.  Writes to tests/fixtures/files/:

    NAME.head   the file up to its data: the JSON of a safetensors file, or the metadata of a GGUF
    NAME.tsv    a tensor a line, in the file's order: type, values, shift, offset
    files.json, files.bin   requests, and pictures [height, width, 3] of all of them

Value j of line i is offset + k / 2^shift, k being the highest 8 bits of splitmix64(i 2^32 + j) less 128; of
norms' weights k >> 2; Q8_0 has k as its codes, Q4_0 k >> 4.  All of it is exact in every type.
tests/golden/test_pipeline.c makes the files from this; here diffusers' from_single_file reads the same
numbers as F32.

    build/venv-image/bin/python tools/make_files_golden.py [--out tests/fixtures]
"""
import argparse
import json
import math
import pathlib
import re
import struct
import sys
import tempfile

import gguf
import numpy as np
import torch
from diffusers import (AutoencoderKL, DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler,
                       StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel)
from safetensors.torch import save_file
from transformers import (CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection,
                          CLIPTokenizer)

import make_checkpoint_fixtures as checkpoint
import make_pipeline_golden as golden
from make_single_golden import seeded_bits

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "fixtures"
VOCAB, WIDTH = 609, 64
CROSS, PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"
FILES = {  # kind, type of the weights; of norms and biases: F32 in a GGUF, else the same
    "sd15.safetensors": ("sd1", "F16"),
    "sd21.safetensors": ("sd2", "BF16"),
    "sdxl.safetensors": ("sdxl", "F16"),
    "sd15_q8_0.gguf": ("sd1", "Q8_0"),
    "sdxl_q4_0.gguf": ("sdxl", "Q4_0"),
}


# ---- models, for their names and shapes ----

def text(layers, act, projection=None, width=WIDTH):
    """diffusers tells SDXL's two apart by their width."""
    config = CLIPTextConfig(
        vocab_size=VOCAB, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
        num_attention_heads=width // 64, hidden_act=act, projection_dim=projection or width,
        max_position_embeddings=77, bos_token_id=VOCAB - 2, eos_token_id=VOCAB - 1)
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)


def unet(channels, types, **more):
    return UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, block_out_channels=channels,
        layers_per_block=1, down_block_types=types,
        up_block_types=tuple(t.replace("Down", "Up") for t in reversed(types)), **more)


def vae(scaling):
    return AutoencoderKL(
        block_out_channels=(32, 32), layers_per_block=1, latent_channels=4,
        scaling_factor=scaling, down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, sample_size=32)


def make(kind):
    if kind == "sd1":
        return {"text_encoder": text(2, "quick_gelu"), "vae": vae(0.18215),
                "unet": unet((32, 64), (CROSS, PLAIN), cross_attention_dim=WIDTH,
                             attention_head_dim=8)}
    if kind == "sd2":
        return {"text_encoder": text(23, "gelu"), "vae": vae(0.18215),
                "unet": unet((64, 64), (CROSS, PLAIN), cross_attention_dim=WIDTH,
                             attention_head_dim=[1, 1], use_linear_projection=True)}
    return {"text_encoder": text(2, "quick_gelu"), "text_encoder_2": text(3, "gelu", 32, 2 * WIDTH),
            "vae": vae(0.13025),
            "unet": unet((32, 64), (PLAIN, CROSS), cross_attention_dim=3 * WIDTH,
                         attention_head_dim=[1, 1], use_linear_projection=True,
                         transformer_layers_per_block=[1, 2], addition_embed_type="text_time",
                         addition_time_embed_dim=256,
                         projection_class_embeddings_input_dim=32 + 6 * 256)}


SCHEDULERS = {  # what Stability's and OpenAI's files came with
    "sd1": PNDMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                         skip_prk_steps=True, steps_offset=1),
    "sd2": DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                         clip_sample=False, set_alpha_to_one=False, steps_offset=1,
                         prediction_type="v_prediction"),
    "sdxl": EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, steps_offset=1,
                                   beta_schedule="scaled_linear", timestep_spacing="leading"),
}


def shapes_of(kind, parts):
    """Names and shapes of the single file, without what only clutters it."""
    states = {part: checkpoint.state(part, model) for part, model in parts.items()}
    out = checkpoint.ldm("sd2" if kind == "sd2" else kind, parts, states)
    if kind == "sd2":  # of the fixture's own width
        out["cond_stage_model.model.text_projection"] = torch.zeros(WIDTH, WIDTH)
    return {n: tuple(t.shape) for n, t in out.items()
            if not re.search(r"model_ema|alphas|position_ids|logit_scale", n)}


# ---- weights that both sides can make ----

def codes(number, n):
    return (seeded_bits(number, n) >> np.uint64(56)).astype(np.int64) - 128


def is_norm(name):
    return name.endswith("weight") and re.search(
        r"norm|ln_|in_layers\.0|out_layers\.0|model\.out\.0", name) is not None


def plan(name, shape, kind):
    """(type, p, base) of a tensor."""
    quantised = kind in ("Q8_0", "Q4_0")
    wide = len(shape) == 2 and shape[1] % 32 == 0 and "embedding" not in name
    dtype = kind if not quantised else kind if wide else "F32" if len(shape) == 1 else "F16"
    if is_norm(name):
        return dtype, 7, 1
    fan_in = math.prod(shape[1:]) if len(shape) > 1 else 64
    p = round(math.log2(74 * math.sqrt(fan_in) / 0.6)) + (2 if len(shape) == 1 else 0)
    return dtype, p - 4 if dtype == "Q4_0" else p, 0


def worth(t, shape, dtype, p, base):
    k = codes(t, math.prod(shape))
    if base:
        k >>= 2
    elif dtype == "Q4_0":
        k >>= 4
    return torch.from_numpy((base + k * 2.0**-p).astype(np.float32).reshape(shape))


# ---- heads ----

def head_safetensors(plans, kind):
    says = "v" if kind == "sd2" else "epsilon"
    entries, at = {"__metadata__": {"modelspec.prediction_type": says}}, 0
    for name, (shape, (dtype, _, _)) in plans.items():
        n = math.prod(shape) * 2
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + n]}
        at += n
    text_ = json.dumps(entries, separators=(",", ":")).encode()
    text_ += b" " * (-len(text_) % 8)
    return struct.pack("<Q", len(text_)) + text_


def head_gguf(plans):
    """By the gguf package, of a file without its data."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "x.gguf"
        w = gguf.GGUFWriter(path, "sd")
        for name, (shape, (dtype, _, _)) in plans.items():
            kind = gguf.GGMLQuantizationType[dtype]
            block, size = gguf.GGML_QUANT_SIZES[kind]
            raw = shape[:-1] + (shape[-1] // block * size,) if block > 1 else shape
            w.add_tensor_info(checkpoint.cpp_name(name), raw, np.dtype(
                np.uint8 if block > 1 else np.float32 if dtype == "F32" else np.float16),
                math.prod(shape) // block * size, raw_dtype=kind)
        w.write_header_to_file()
        w.write_kv_data_to_file()
        w.write_ti_data_to_file()
        w.close()
        data = path.read_bytes()
    return data + bytes(-len(data) % 32)


def write_file(folder, name):
    """The head and the list; returns the parts and what the weights are worth."""
    kind, dtype = FILES[name]
    parts = make(kind)
    plans = {n: (s, plan(n, s, dtype)) for n, s in shapes_of(kind, parts).items()}
    head = head_gguf(plans) if name.endswith("gguf") else head_safetensors(plans, kind)
    (folder / f"{name}.head").write_bytes(head)
    (folder / f"{name}.tsv").write_text("".join(
        f"{dtype}\t{math.prod(shape)}\t{p}\t{base}\n"
        for shape, (dtype, p, base) in plans.values()))
    return parts, {n: worth(t, s, *how) for t, (n, (s, how)) in enumerate(plans.items())}


# ---- pictures ----

def load(out, kind, parts, weights):
    """The pipeline that diffusers makes of a single file."""
    tokenizer = CLIPTokenizer.from_pretrained(out / "sd_sd15/tokenizer")
    tokenizer.model_max_length = 77
    if kind == "sd2":
        tokenizer.pad_token = "!"
    more = dict(parts, scheduler=SCHEDULERS[kind], tokenizer=tokenizer)
    if kind == "sdxl":
        cls = StableDiffusionXLPipeline
        more |= {"tokenizer_2": CLIPTokenizer.from_pretrained(out / "sd_sdxl/tokenizer_2")}
        more["tokenizer_2"].model_max_length = 77
    else:
        cls = StableDiffusionPipeline
        more |= {"safety_checker": None, "feature_extractor": None}
    with tempfile.TemporaryDirectory() as folder:
        cls(**more).save_pretrained(f"{folder}/config")
        save_file(weights, f"{folder}/model.safetensors")
        pipe = cls.from_single_file(f"{folder}/model.safetensors", config=f"{folder}/config",
                                    torch_dtype=torch.float32, **(
                                        {"add_watermarker": False} if kind == "sdxl" else {}))
    pipe.scheduler = SCHEDULERS[kind]
    pipe.set_progress_bar_config(disable=True)
    return pipe


def picture(pipe, case):
    n, w, h = case.get("n", 1), case["width"], case["height"]
    args = {"prompt": [case["prompt"]] * n, "negative_prompt": [case["negative"]] * n,
            "num_inference_steps": case["steps"], "guidance_scale": case["guidance"],
            "output_type": "np",
            "generator": [torch.Generator("cpu").manual_seed(case["seed"] + i) for i in range(n)]}
    if case.get("image"):
        pipe = golden.PIPELINES["sdxl" if "XL" in type(pipe).__name__ else "sd"]["image"](
            **pipe.components)
        args |= {"image": [golden.Image.fromarray(golden.init_image(w, h))] * n,
                 "strength": case["strength"]}
        pipe.set_progress_bar_config(disable=True)
    else:
        args |= {"width": w, "height": h}
    with torch.no_grad():
        out = pipe(**args).images
    return (out * 255).round().astype(np.uint8)


def cases_of(name):
    case = {"model": name, "prompt": "a photo of the red cat", "negative": "dark old city",
            "width": 48, "height": 32, "steps": 5, "guidance": 2.0, "seed": 7, "name": name}
    yield case
    if name == "sd15.safetensors":
        yield case | {"image": True, "strength": 0.6, "name": f"{name}, image to image"}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=pathlib.Path, default=OUT)
    out = parser.parse_args().out
    (out / "files").mkdir(exist_ok=True)
    torch.set_num_threads(1)
    cases, data = [], b""
    for name in FILES:
        parts, weights = write_file(out / "files", name)
        pipe = load(out, FILES[name][0], parts, weights)
        for case in cases_of(name):
            images = picture(pipe, case)
            flat = images.reshape(-1, 3)
            print(f"{case['name']}: mean {flat.mean():.1f}, deviation {flat.std():.1f}", flush=True)
            data += images.tobytes()
            cases.append(case)
    (out / "files/files.bin").write_bytes(data)
    (out / "files/files.json").write_text(json.dumps(cases, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
