#!/usr/bin/env python3
"""What diffusers computes with an SDXL refiner in one file, as from_single_file opens it.

Single files have norms of 32 groups, so their models are too large to be checked in: their weights come from a
formula, here and in tests/golden/seeded.h.  Writes to tests/fixtures single_refiner.txt (names, shapes and scales of the
file's tensors), single_refiner.safetensors (values, for tests/golden/test_diffusion.c), and single.json and single.bin
(requests and pictures, for tests/golden/test_pipeline.c).

    build/venv-image/bin/python tools/make_single_golden.py [--out tests/fixtures]      (as make_passes_golden.py)
"""
import argparse
import json
import math
import pathlib
import tempfile

import numpy as np
import torch
from diffusers import (AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLImg2ImgPipeline,
                       UNet2DConditionModel)
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from make_checkpoint_fixtures import ldm_unet, ldm_vae, open_clip, state
from make_image_golden import CROSS_DOWN, CROSS_UP, DOWN, UP, vae_values
from make_passes_golden import arguments, scheduled
from make_pipeline_golden import OUT, init_image, load

SPACING = {"timestep_spacing": "leading"}  # of SDXL's own scheduler_config.json; no file says it
BRANCH_ENDS = ("out_layers.3.weight", "to_out.0.weight", "ff.net.2.weight", "proj_out.weight",
               "out_proj.weight", "c_proj.weight")
WIDTH, SCORE_DIM = 32, 8  # of text; of each time id's embedding


def make_parts(out):
    """In the shape of the refiner: no attention at the ends of the UNet, but in its middle."""
    n_vocab = len(json.loads((out / "sd_sdxl/tokenizer_2/vocab.json").read_text()))
    text = CLIPTextModelWithProjection(CLIPTextConfig(
        vocab_size=n_vocab, hidden_size=WIDTH, intermediate_size=96, num_hidden_layers=10,
        num_attention_heads=1, hidden_act="gelu", projection_dim=WIDTH, max_position_embeddings=77,
        bos_token_id=n_vocab - 2, eos_token_id=2, pad_token_id=0))
    unet = UNet2DConditionModel(
        sample_size=128, block_out_channels=[32, 128, 64], layers_per_block=2, norm_num_groups=32,
        down_block_types=[DOWN, CROSS_DOWN, DOWN], up_block_types=[UP, CROSS_UP, UP],
        cross_attention_dim=WIDTH, attention_head_dim=[1, 2, 1],
        transformer_layers_per_block=[1, 2, 3],
        use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=SCORE_DIM, projection_class_embeddings_input_dim=WIDTH + 5 * SCORE_DIM)
    vae = AutoencoderKL(
        block_out_channels=[32, 64], layers_per_block=1, norm_num_groups=32, latent_channels=4,
        down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
        scaling_factor=0.13025, sample_size=1024)
    return {"text_encoder_2": text, "unet": unet, "vae": vae}


def single_names(parts):
    """Shapes by the file's names."""
    out = {}
    for name, t in state("unet", parts["unet"]).items():
        out["model.diffusion_model." + ldm_unet(name, parts["unet"].config)] = t.shape
    for name, t in state("vae", parts["vae"]).items():
        attention = "attentions" in name and "to_" in name and name.endswith("weight")
        shape = [*t.shape, 1, 1] if attention else t.shape
        out["first_stage_model." + ldm_vae(name, parts["vae"].config)] = shape
    for name, t in open_clip(state("text_encoder_2", parts["text_encoder_2"])).items():
        out["conditioner.embedders.0.model." + name] = t.shape
    return {name: list(shape) for name, shape in sorted(out.items())}


def scale_of(name, shape):
    """Value j of a tensor is offset + k / 2^shift with k in -1024 ... 1023, evenly."""
    norm = any(word in name for word in ("norm", "ln_", "in_layers.0", "out_layers.0", "out.0."))
    if len(shape) == 1:
        gain = 0.15
    else:
        gain = 0.3 if "embedding" in name else 1 / math.prod(shape[1:]) ** 0.5
        if name.endswith(BRANCH_ENDS):  # else so deep a network of chance blows up every rounding
            gain *= 0.3
    return round(math.log2(591 / gain)), int(norm and name.endswith("weight"))


def seeded_bits(number, n):
    """As tests/golden/seeded.h: splitmix64 of the tensor's number and the value's."""
    z = np.arange(n, dtype=np.uint64) + (np.uint64(number) << np.uint64(32))
    with np.errstate(over="ignore"):
        z = (z + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def seeded(number, shape, shift, offset):
    k = (seeded_bits(number, math.prod(shape)) >> np.uint64(53)).astype(np.int64) - 1024
    return torch.from_numpy((offset + k / 2.0**shift).astype(np.float32).reshape(shape))


def make_file(out, folder, parts):
    """The manifest, the file by it, and the configurations that from_single_file wants beside it."""
    lines, tensors = [], {}
    for i, (name, shape) in enumerate(single_names(parts).items()):
        shift, offset = scale_of(name, shape)
        lines.append(f"{name} {','.join(map(str, shape))} {shift} {offset}\n")
        tensors[name] = seeded(i, shape, shift, offset)
    (out / "single_refiner.txt").write_text("".join(lines))
    save_file(tensors, folder / "refiner.safetensors")
    config = folder / "config"
    config.mkdir()
    for name in ("scheduler", "tokenizer_2"):
        (config / name).symlink_to((out / "sd_sdxl" / name).resolve())
    for name, part in parts.items():
        part.save_config(config / name) if name != "text_encoder_2" else (
            part.config.save_pretrained(config / name))
    (config / "model_index.json").write_text((out / "sd_refiner/model_index.json").read_text())
    pipe = StableDiffusionXLImg2ImgPipeline.from_single_file(
        str(folder / "refiner.safetensors"), config=str(config), torch_dtype=torch.float32,
        local_files_only=True, add_watermarker=False)
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config, **SPACING)
    pipe.tokenizer_2.model_max_length = 77
    pipe.set_progress_bar_config(disable=True)
    return pipe


# ---- golden values ----


def text_values(values, encoder):
    g = torch.Generator().manual_seed(8005)
    end = encoder.config.vocab_size - 1
    body = torch.randint(0, end - 1, (7,), generator=g).tolist()
    ids = torch.tensor([[end - 1, *body, end] + [0] * 68])
    out = encoder(ids, output_hidden_states=True)
    values["ids0"] = ids[0].to(torch.int32)
    values["hidden"], values["hidden_skip1"] = out.hidden_states[-2][0], out.hidden_states[-3][0]
    values["pooled"] = out.text_embeds[0]


def unet_values(values, unet):
    g = torch.Generator().manual_seed(8006)
    x, t, outs = torch.randn(2, 4, 8, 12, generator=g), torch.tensor([181.0, 49.0]), []
    for i, tokens in enumerate([77, 154]):
        context = torch.randn(1, tokens, WIDTH, generator=g)
        pooled = torch.randn(1, WIDTH, generator=g)
        ids = torch.tensor([[[64.0, 96, 0, 0, 6, 0], [32.0, 32, 4, 8, 2.5, 0]][i]])
        values[f"context{i}"], values[f"pooled_row{i}"] = context[0], pooled[0]
        values[f"time_ids{i}"] = ids[0]
        outs.append(unet(x[i:i + 1], t[i:i + 1], encoder_hidden_states=context, added_cond_kwargs={
            "text_embeds": pooled, "time_ids": ids[:, :5]}).sample)
    values["timesteps"] = t
    values["x"] = x.permute(0, 2, 3, 1)
    values["out"] = torch.cat(outs).permute(0, 2, 3, 1)


def picture(out, pipe, case):
    size = (case["height"], case["width"])
    more = {"original_size": size, "target_size": size, "output_type": "np"}
    pipe = scheduled(pipe, case)
    if case.get("image"):
        return pipe(**arguments(case, case["steps"]), **more, strength=case["strength"],
                    image=Image.fromarray(init_image(case["width"], case["height"]))).images
    base = scheduled(load(out, case["model"], "text"), case)
    latent = base(**arguments(case, case["steps"]), width=case["width"], height=case["height"],
                  denoising_end=case["switch_at"], output_type="latent").images
    return pipe(**arguments(case, case["steps"]), **more, image=latent,
                denoising_start=case["switch_at"]).images


def make_cases():
    base = {"prompt": "a photo of the red cat", "negative": "dark old city", "width": 64,
            "height": 32, "steps": 10, "guidance": 3.0, "seed": 7}
    return [
        base | {"name": "refiner in one file", "model": "sdxl", "refiner": "single_refiner",
                "switch_at": 0.8},
        base | {"name": "refiner in one file, image to image", "model": "single_refiner",
                "image": True, "strength": 0.4, "scheduler": "euler_a"},
    ]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=pathlib.Path, default=OUT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    values, cases, data = {}, make_cases(), b""
    with tempfile.TemporaryDirectory() as tmp, torch.no_grad():
        pipe = make_file(args.out, pathlib.Path(tmp), make_parts(args.out))
        text_values(values, pipe.text_encoder_2)
        unet_values(values, pipe.unet)
        vae_values(values, pipe.vae, 8007)
        for case in cases:
            images = (picture(args.out, pipe, case) * 255).round().astype(np.uint8)
            print(f"{case['name']}: mean {images.mean():.1f}, deviation {images.std():.1f}", flush=True)
            data += images.tobytes()
    path = args.out / "single_refiner.safetensors"
    save_file({k: v.contiguous() for k, v in values.items()}, path)
    path.chmod(0o644)
    (args.out / "single.bin").write_bytes(data)
    (args.out / "single.json").write_text(json.dumps(cases, indent=1) + "\n")


if __name__ == "__main__":
    main()
