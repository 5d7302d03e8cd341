#!/usr/bin/env python3
"""Makes the tiny random image models of tests/fixtures (sd_NAME/, diffusers directories, f16) and what
diffusers computes with them in f32 (sd_NAME.safetensors), for tests/golden/test_diffusion.c.

    python -m venv build/venv-image && build/venv-image/bin/pip install torch diffusers transformers
    build/venv-image/bin/python tools/make_image_golden.py [--out tests/fixtures] [NAME ...]

Each model shows other properties of the family (see MODELS); widths, groups and heads are odd on purpose.
Fixed seeds: an unchanged script writes the same bytes.
"""
import argparse
import json
import pathlib
import shutil
import tempfile

import torch
from diffusers import (AutoencoderKL, AutoencoderTiny, DDIMScheduler, EulerDiscreteScheduler,
                       LCMScheduler, PNDMScheduler, StableDiffusionInpaintPipeline,
                       StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel)
from safetensors.torch import save_file
from transformers import (CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection,
                          CLIPTokenizer)

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests/fixtures"
WORDS = ("a photo of the cat dog horse house tree red green blue small large on under with painting "
         "in style night day sea old city mountain light dark very beautiful").split()
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
         "num_train_timesteps": 1000, "steps_offset": 1, "clip_sample": False}
DOWN, UP, CROSS_DOWN, CROSS_UP = ("DownBlock2D", "UpBlock2D", "CrossAttnDownBlock2D",
                                  "CrossAttnUpBlock2D")
UNET = {"sample_size": 16, "in_channels": 4, "out_channels": 4, "block_out_channels": [8, 12],
        "layers_per_block": 1, "down_block_types": [CROSS_DOWN, DOWN],
        "up_block_types": [UP, CROSS_UP], "cross_attention_dim": 24, "attention_head_dim": 2,
        "norm_num_groups": 4}
TEXT = {"hidden_size": 24, "intermediate_size": 56, "num_hidden_layers": 2,
        "num_attention_heads": 3, "max_position_embeddings": 77, "hidden_act": "quick_gelu",
        "projection_dim": 24}

# name: changes to UNET, to TEXT, scaling of the VAE, scheduler
MODELS = {
    "sd15": ({}, {}, 0.18215, PNDMScheduler(skip_prk_steps=True, set_alpha_to_one=False, **{
        k: v for k, v in BETAS.items() if k != "clip_sample"})),
    "sd21": ({"use_linear_projection": True, "attention_head_dim": [4, 3],
              "down_block_types": [CROSS_DOWN, CROSS_DOWN], "up_block_types": [CROSS_UP, CROSS_UP],
              "cross_attention_dim": 20},
             {"hidden_act": "gelu", "hidden_size": 20, "num_attention_heads": 4,
              "num_hidden_layers": 3}, 0.18215,
             DDIMScheduler(prediction_type="v_prediction", set_alpha_to_one=False, **BETAS)),
    "sdxl": ({"block_out_channels": [8, 8, 12], "norm_num_groups": 4,
              "down_block_types": [DOWN, CROSS_DOWN, CROSS_DOWN],
              "up_block_types": [CROSS_UP, CROSS_UP, UP], "cross_attention_dim": 24 + 28,
              "attention_head_dim": [2, 1, 3], "transformer_layers_per_block": [1, 1, 2],
              "use_linear_projection": True, "addition_embed_type": "text_time",
              "addition_time_embed_dim": 6, "projection_class_embeddings_input_dim": 28 + 36},
             {"num_hidden_layers": 3}, 0.13025, EulerDiscreteScheduler(**{
                 k: v for k, v in BETAS.items() if k != "clip_sample"})),
    "inpaint": ({"in_channels": 9, "block_out_channels": [8, 20],
                 "layers_per_block": [1, 2], "attention_head_dim": 4,
                 "only_cross_attention": [True, False]}, {}, 0.18215,
                PNDMScheduler(skip_prk_steps=True, set_alpha_to_one=False, **{
                    k: v for k, v in BETAS.items() if k != "clip_sample"})),
    "lcm": ({"time_cond_proj_dim": 32, "mid_block_type": None, "flip_sin_to_cos": False,
             "freq_shift": 1}, {}, 0.18215,
            LCMScheduler(set_alpha_to_one=True, original_inference_steps=50, **BETAS)),
}


# ---- parts ----


def randomise(model, seed):
    """Norms that do something, and values that f16 holds exactly."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            if p.ndim == 1:
                p.copy_(torch.randn(p.shape, generator=g) * 0.15 + ("norm" in name and
                                                                     name.endswith("weight")))
            else:
                fan_in = p[0].numel()
                gain = 0.3 if "embedding.weight" in name else 1.4 / fan_in**0.5
                p.copy_(torch.randn(p.shape, generator=g) * gain)
            p.copy_(p.half().float())
    return model.eval().requires_grad_(False)


def tokenizer(folder):
    """A byte pair encoding with a few merges, as CLIP's: lower case, the end of a word in its token."""
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(b) for b in keep] + [chr(256 + i) for i in range(256 - len(keep))]
    tokens, merges = letters + [c + "</w>" for c in letters], []
    for word in WORDS:
        left = word[0]
        for i, c in enumerate(word[1:], 1):
            right = c + ("</w>" if i == len(word) - 1 else "")
            if left + right not in tokens:
                tokens.append(left + right)
                merges.append(f"{left} {right}")
            left += right
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)},
                                                  ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    return len(tokens)


def text_config(n_vocab, changes):
    end = n_vocab - 1
    return CLIPTextConfig(vocab_size=n_vocab, bos_token_id=end - 1, eos_token_id=end,
                          pad_token_id=end, **{**TEXT, **changes})


def kl(scaling, seed):
    return randomise(AutoencoderKL(
        block_out_channels=[8, 12], norm_num_groups=4, layers_per_block=1, latent_channels=4,
        down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
        scaling_factor=scaling, shift_factor=0.1, sample_size=32), seed)  # the pipelines ignore the shift


def tiny_autoencoder(seed):
    return randomise(AutoencoderTiny(
        encoder_block_out_channels=[12, 12], decoder_block_out_channels=[12, 12],
        num_encoder_blocks=[1, 2], num_decoder_blocks=[2, 1]), seed)


# ---- golden values ----


def text_values(values, encoders, n_vocab, seed):
    """Ids as a prompt of seven tokens makes them, and what the pipeline takes of the encoders."""
    g = torch.Generator().manual_seed(seed)
    end = n_vocab - 1
    xl = len(encoders) > 1
    hidden, skipped = [], []
    for i, encoder in enumerate(encoders):
        body = torch.randint(0, n_vocab - 2, (7,), generator=g).tolist()
        ids = torch.tensor([[end - 1, *body, end] + [0 if i else end] * 68])
        values[f"ids{i}"] = ids[0].to(torch.int32)
        out = encoder(ids, output_hidden_states=True)
        norm = getattr(encoder, "text_model", encoder).final_layer_norm
        hidden.append(out.hidden_states[-2] if xl else out.last_hidden_state)
        skipped.append(norm(out.hidden_states[-2]) if not xl else out.hidden_states[-3])
        if xl and i == 1:
            values["pooled"] = out.text_embeds[0]
    values["hidden"] = torch.cat(hidden, -1)[0]
    values["hidden_skip1"] = torch.cat(skipped, -1)[0]


def unet_values(values, unet, seed):
    """Two rows with their own timesteps and prompts, one of 77 tokens and one of 154."""
    g = torch.Generator().manual_seed(seed)
    c = unet.config
    x = torch.randn(2, c.in_channels, 8, 12, generator=g)
    t = torch.tensor([981.0, 249.5])
    outs = []
    for i, tokens in enumerate([77, 154]):
        context = torch.randn(1, tokens, c.cross_attention_dim, generator=g)
        values[f"context{i}"] = context[0]
        more = {}
        if c.time_cond_proj_dim:
            w = torch.tensor([[7.5, 3.0][i] - 1]) * 1000
            half = c.time_cond_proj_dim // 2
            f = torch.exp(torch.arange(half) * -(torch.log(torch.tensor(10000.0)) / (half - 1)))
            emb = w[:, None] * f[None]
            more["timestep_cond"] = torch.cat([torch.sin(emb), torch.cos(emb)], 1)
        if c.addition_embed_type:
            pooled = torch.randn(1, c.projection_class_embeddings_input_dim -
                                 6 * c.addition_time_embed_dim, generator=g)
            ids = torch.tensor([[[64.0, 96, 0, 0, 64, 96], [32.0, 32, 4, 8, 64, 96]][i]])
            values[f"pooled_row{i}"], values[f"time_ids{i}"] = pooled[0], ids[0]
            more["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": ids}
        outs.append(unet(x[i:i + 1], t[i:i + 1], encoder_hidden_states=context, **more).sample)
    values["timesteps"] = t
    values["x"] = x.permute(0, 2, 3, 1)
    values["out"] = torch.cat(outs).permute(0, 2, 3, 1)


def vae_values(values, vae, seed):
    g = torch.Generator().manual_seed(seed)
    latent = torch.randn(1, 4, 8, 12, generator=g)
    picture = torch.rand(1, 3, 16, 24, generator=g) * 2 - 1
    values["latent"] = latent[0].permute(1, 2, 0)
    values["decoded"] = vae.decode(latent / vae.config.scaling_factor).sample[0].permute(1, 2, 0)
    values["picture"] = picture[0].permute(1, 2, 0)
    out = vae.encode(picture)
    if hasattr(out, "latents"):
        moments = torch.cat([out.latents, torch.full_like(out.latents, -30)], 1)
    else:
        moments = torch.cat([out.latent_dist.mean, out.latent_dist.logvar], 1)
    values["moments"] = moments[0].permute(1, 2, 0)


# ---- models ----


def pipeline(name, parts, scheduler):
    vae, encoders, tokenizers, unet = parts
    common = {"vae": vae, "unet": unet, "scheduler": scheduler, "tokenizer": tokenizers[0],
              "text_encoder": encoders[0]}
    if len(encoders) > 1:
        return StableDiffusionXLPipeline(text_encoder_2=encoders[1], tokenizer_2=tokenizers[1],
                                         **common)
    kind = StableDiffusionInpaintPipeline if name == "inpaint" else StableDiffusionPipeline
    return kind(safety_checker=None, feature_extractor=None, requires_safety_checker=False,
                **common)


def save(pipe, folder):
    """As it is published: half precision, and the tokenizer's files in their old form too."""
    shutil.rmtree(folder, ignore_errors=True)
    pipe.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    for path in folder.rglob("*.json"):
        if path.name == "tokenizer.json":
            path.unlink()
        else:
            text = path.read_text()
            path.write_text(text if text.endswith("\n") else text + "\n")


def make(name, out):
    changes, text, scaling, scheduler = MODELS[name]
    seed = 100 * (1 + list(MODELS).index(name))
    with tempfile.TemporaryDirectory() as tmp:
        folder = pathlib.Path(tmp) / "tokenizer"
        n_vocab = tokenizer(folder)
        first = CLIPTokenizer.from_pretrained(str(folder), pad_token="!" if name == "sd21" else
                                              "<|endoftext|>")
        second = CLIPTokenizer.from_pretrained(str(folder), pad_token="!")
        encoders = [randomise(CLIPTextModel(text_config(n_vocab, text)), seed + 1)]
        if name == "sdxl":
            big = {"hidden_size": 28, "num_attention_heads": 4, "hidden_act": "gelu",
                   "num_hidden_layers": 3, "projection_dim": 28, "eos_token_id": 2}
            config = text_config(n_vocab, {})
            for key, value in big.items():
                setattr(config, key, value)
            encoders.append(randomise(CLIPTextModelWithProjection(config), seed + 2))
        vae = kl(scaling, seed + 3)
        unet = randomise(UNet2DConditionModel(**{**UNET, **changes}), seed + 4)
        values = {}
        text_values(values, encoders, n_vocab, seed + 5)
        unet_values(values, unet, seed + 6)
        vae_values(values, vae, seed + 7)
        save(pipeline(name, (vae, encoders, [first, second], unet), scheduler),
             out / f"sd_{name}")
        for i in range(len(encoders)):
            to = out / f"sd_{name}" / ("tokenizer" if i == 0 else "tokenizer_2")
            for file in ("vocab.json", "merges.txt"):
                shutil.copyfile(folder / file, to / file)
    save_file({k: v.contiguous() for k, v in values.items()}, out / f"sd_{name}.safetensors")


def make_taesd(out):
    vae, values = tiny_autoencoder(900), {}
    vae_values(values, vae, 901)
    shutil.rmtree(out / "sd_taesd", ignore_errors=True)
    vae.half().save_pretrained(out / "sd_taesd", safe_serialization=True)
    save_file({k: v.contiguous() for k, v in values.items()}, out / "sd_taesd.safetensors")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=OUT)
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.names or [*MODELS, "taesd"]:
        if name == "taesd":
            make_taesd(args.out)
        else:
            make(name, args.out)
        print(name)


if __name__ == "__main__":
    main()
