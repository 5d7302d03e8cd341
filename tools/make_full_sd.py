#!/usr/bin/env python3
"""Writes image models of full size with random f16 weights, in the shape of SD 1.5, SD 2.1, SDXL, small-sd or the
x4 upscaler, as diffusers directories; and what diffusers computes with one in f32: one step with guidance (two rows) and
a decoding at 256 x 256.  Nothing of it is checked in.

    python -m venv build/venv-image && build/venv-image/bin/pip install torch diffusers transformers
    build/venv-image/bin/python tools/make_full_sd.py weights DIR sd15|sd21|sdxl|small|x4
    build/venv-image/bin/python tools/make_full_sd.py golden DIR          (DIR.safetensors)
    DIFFUSION_MODEL=DIR make test-golden T=diffusion_full

SDXL takes 7 GB of disk, and 14 GB of memory for the golden values.
"""
import argparse
import json
import pathlib
import resource
import shutil
import time

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

TINY = pathlib.Path(__file__).resolve().parent.parent / "tests/fixtures"
CROSS_DOWN, CROSS_UP = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
DOWN4, UP4 = [CROSS_DOWN] * 3 + ["DownBlock2D"], ["UpBlock2D"] + [CROSS_UP] * 3
L14 = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
       "num_attention_heads": 12, "hidden_act": "quick_gelu", "projection_dim": 768}
MODELS = {  # the tiny model whose scheduler and tokenizer are taken, UNet, encoders, scale of the VAE
    "sd15": ("sd15", {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8,
                      "block_out_channels": [320, 640, 1280, 1280], "layers_per_block": 2,
                      "down_block_types": DOWN4, "up_block_types": UP4}, [L14], 0.18215),
    "small": ("sd15", {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8,
                       "block_out_channels": [320, 640, 1280, 1280], "layers_per_block": 1,
                       "down_block_types": DOWN4, "up_block_types": UP4}, [L14], 0.18215),
    "sd21": ("sd21", {"sample_size": 96, "cross_attention_dim": 1024,
                      "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True,
                      "block_out_channels": [320, 640, 1280, 1280], "layers_per_block": 2,
                      "down_block_types": DOWN4, "up_block_types": UP4},
             [{"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23,
               "num_attention_heads": 16, "hidden_act": "gelu", "projection_dim": 512}], 0.18215),
    "sdxl": ("sdxl", {"sample_size": 128, "cross_attention_dim": 2048,
                      "attention_head_dim": [5, 10, 20], "use_linear_projection": True,
                      "transformer_layers_per_block": [1, 2, 10], "layers_per_block": 2,
                      "block_out_channels": [320, 640, 1280],
                      "down_block_types": ["DownBlock2D", CROSS_DOWN, CROSS_DOWN],
                      "up_block_types": [CROSS_UP, CROSS_UP, "UpBlock2D"],
                      "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
                      "projection_class_embeddings_input_dim": 2816},
             [L14, {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32,
                    "num_attention_heads": 20, "hidden_act": "gelu", "projection_dim": 1280}],
             0.13025),
}
VAE = {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "latent_channels": 4,
       "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
       "sample_size": 512}
H23 = MODELS["sd21"][2][0]
MODELS["x4"] = ("upscaler", {
    "sample_size": 128, "in_channels": 7, "num_class_embeds": 1000, "cross_attention_dim": 1024,
    "attention_head_dim": 8, "use_linear_projection": True, "layers_per_block": 2,
    "block_out_channels": [256, 512, 512, 1024], "only_cross_attention": [True, True, True, False],
    "down_block_types": ["DownBlock2D"] + [CROSS_DOWN] * 3,
    "up_block_types": [CROSS_UP] * 3 + ["UpBlock2D"]}, [H23], 0.08333)
X4_VAE = {**VAE, "block_out_channels": [128, 256, 512], "down_block_types": VAE["down_block_types"][:3],
          "up_block_types": VAE["up_block_types"][:3]}
BRANCH_ENDS = ("conv2.weight", "to_out.0.weight", "ff.net.2.weight", "proj_out.weight",
               "out_proj.weight", "fc2.weight")


def random_weights(model, seed):
    """Of a model on the meta device: about what keeps the size of activations through the depth."""
    g = torch.Generator().manual_seed(seed)
    weights = {}
    for name, p in model.state_dict().items():
        if not p.is_floating_point():
            continue
        if p.ndim == 1:
            norm = "norm" in name and name.endswith("weight")
            w = torch.randn(p.shape, generator=g) * 0.05 + (1 if norm else 0)
        else:
            gain = 0.3 if name.endswith(BRANCH_ENDS) else 1
            gain = 0.02 if "embedding.weight" in name else gain / p[0].numel()**0.5
            w = torch.randn(p.shape, generator=g) * gain
        weights[name] = w.half()
    return weights


def write_part(folder, model, config, file, seed):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(random_weights(model, seed), folder / file, {"format": "pt"})


def write_weights(folder, name):
    tiny, unet, encoders, scale = MODELS[name]
    tiny = TINY / f"sd_{tiny}"
    folder.mkdir(parents=True)
    index = json.loads((tiny / "model_index.json").read_text())
    index |= {"max_noise_level": 350} if name == "x4" else {}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    vae = X4_VAE if name == "x4" else VAE
    for part in ("scheduler", "low_res_scheduler", "tokenizer", "tokenizer_2"):
        if (tiny / part).exists():
            shutil.copytree(tiny / part, folder / part)
    with torch.device("meta"):
        parts = [("unet", UNet2DConditionModel(**unet), unet, "UNet2DConditionModel"),
                 ("vae", AutoencoderKL(**vae), {**vae, "scaling_factor": scale}, "AutoencoderKL")]
        for i, encoder in enumerate(encoders):
            kind = CLIPTextModel if i == 0 else CLIPTextModelWithProjection
            config = CLIPTextConfig(vocab_size=49408, bos_token_id=49406, eos_token_id=49407,
                                    **encoder)
            parts.append(("text_encoder_2" if i else "text_encoder", kind(config),
                          config.to_dict(), kind.__name__))
    for seed, (part, model, config, kind) in enumerate(parts):
        text = part.startswith("text")
        config = {**config, "architectures": [kind]} if text else {"_class_name": kind, **config}
        write_part(folder / part, model, config, "model.safetensors" if text else
                   "diffusion_pytorch_model.safetensors", seed + 1)
        print(part, flush=True)


def timed(what, function):
    begin = time.time()
    result = function()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{what}: {time.time() - begin:.2f} s, peak {peak:.2f} GiB", flush=True)
    return result


@torch.inference_mode()
def write_golden(folder):
    g = torch.Generator().manual_seed(7)
    values = {}
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32).eval()
    c = unet.config
    x = torch.randn(1, 4, 32, 32, generator=g)
    context = torch.randn(2, 77, c.cross_attention_dim, generator=g)
    more = {}
    if c.addition_embed_type:
        pooled = torch.randn(2, 1280, generator=g)
        ids = torch.tensor([[256.0, 256, 0, 0, 256, 256]] * 2)
        values.update(pooled=pooled, time_ids=ids)
        more = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": ids}}
    for _ in range(2):  # the second is warm
        out = timed("unet", lambda: unet(torch.cat([x, x]), torch.tensor(801.0),
                                         encoder_hidden_states=context, **more).sample)
    values.update(x=x[0].permute(1, 2, 0), context=context, out=out.permute(0, 2, 3, 1))
    del unet
    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32).eval()
    latent = torch.randn(1, 4, 32, 32, generator=g)
    for _ in range(2):
        picture = timed("decode", lambda: vae.decode(latent / vae.config.scaling_factor).sample)
    values.update(latent=latent[0].permute(1, 2, 0), picture=picture[0].permute(1, 2, 0))
    save_file({k: v.contiguous() for k, v in values.items()}, f"{folder}.safetensors")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["weights", "golden"])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("name", nargs="?", choices=list(MODELS))
    args = parser.parse_args()
    if args.what == "weights":
        write_weights(args.folder, args.name)
    else:
        write_golden(args.folder)


if __name__ == "__main__":
    main()
