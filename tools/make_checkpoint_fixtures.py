#!/usr/bin/env python3
"""Makes tests/fixtures/checkpoint/: tiny Stable Diffusion models in every kind of file that is read.

    python3 tools/make_checkpoint_fixtures.py [--out DIR]

Needs torch, transformers, diffusers, safetensors and gguf.  Each model is built by diffusers with random
weights; its tensors are then renamed here to the names of latent-diffusion and written as one file.

    sd1.safetensors sd2.safetensors sdxl.safetensors    F16, LDM names (sd1: 9 channels, inpainting)
    sdxl.gguf                           the names that stable-diffusion.cpp converts to, Q8_0 and F16
    FILE.tsv                            "part name dims hash" of each tensor by diffusers' names, the hash
                                        FNV-1a over its F32 bytes; and "part key = JSON" of configurations
    dir/                                sd2 as a directory: sharded, fp16 variant and old names of the VAE
"""
import argparse
import json
import re
import shutil
from pathlib import Path

import gguf
import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

VOCAB = 96
CONFIG_KEYS = {
    "unet": ["in_channels", "out_channels", "block_out_channels", "down_block_types", "up_block_types",
             "mid_block_type", "layers_per_block", "cross_attention_dim", "attention_head_dim",
             "use_linear_projection", "flip_sin_to_cos", "freq_shift", "downsample_padding", "act_fn",
             "addition_embed_type", "addition_time_embed_dim", "projection_class_embeddings_input_dim"],
    "vae": ["in_channels", "out_channels", "latent_channels", "block_out_channels", "down_block_types",
            "up_block_types", "layers_per_block", "act_fn", "scaling_factor"],
    "text_encoder": ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                     "max_position_embeddings", "vocab_size", "projection_dim", "hidden_act"],
}
CONFIG_KEYS["text_encoder_2"] = CONFIG_KEYS["text_encoder"]


def text(hidden, layers, act, projection=None):
    config = CLIPTextConfig(
        vocab_size=VOCAB, hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=layers,
        num_attention_heads=1, hidden_act=act, projection_dim=projection or hidden,
        max_position_embeddings=77, bos_token_id=VOCAB - 2, eos_token_id=VOCAB - 1)
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)


def unet(channels, types, **more):
    return UNet2DConditionModel(
        sample_size=8, out_channels=4, block_out_channels=channels, norm_num_groups=4,
        layers_per_block=1, down_block_types=types,
        up_block_types=tuple(t.replace("Down", "Up") for t in reversed(types)), **more)


def vae(scaling):
    return AutoencoderKL(
        block_out_channels=(4, 8), layers_per_block=1, norm_num_groups=4, latent_channels=4,
        scaling_factor=scaling, down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2)


def make(kind):
    """The parts of a model."""
    cross, plain = "CrossAttnDownBlock2D", "DownBlock2D"
    if kind == "sd1":
        return {"text_encoder": text(32, 2, "quick_gelu"), "vae": vae(0.18215),
                "unet": unet((8, 8), (cross, plain), in_channels=9, cross_attention_dim=32,
                             attention_head_dim=8)}
    if kind == "sd2":
        return {"text_encoder": text(8, 23, "gelu"), "vae": vae(0.18215),
                "unet": unet((4, 8), (cross, plain), in_channels=4, cross_attention_dim=8,
                             attention_head_dim=[1, 1], use_linear_projection=True)}
    return {"text_encoder": text(32, 1, "quick_gelu"), "text_encoder_2": text(32, 2, "gelu", 12),
            "vae": vae(0.13025),
            "unet": unet((4, 8, 8), (plain, cross, cross), in_channels=4, cross_attention_dim=64,
                         attention_head_dim=[1, 1, 1], use_linear_projection=True,
                         transformer_layers_per_block=[1, 1, 2], addition_embed_type="text_time",
                         addition_time_embed_dim=8, projection_class_embeddings_input_dim=60)}


def state(part, model):
    """Tensors by diffusers' names, in F16; text encoders with their full prefix."""
    out = {}
    for name, t in model.state_dict().items():
        if name.endswith("position_ids"):
            continue
        if part.startswith("text") and not name.startswith(("text_model.", "text_projection.")):
            name = "text_model." + name
        out[name] = t.detach().half().contiguous()
    return out


# ---- to LDM's names ----

RESNET = [("norm1", "in_layers.0"), ("conv1", "in_layers.2"), ("time_emb_proj", "emb_layers.1"),
          ("norm2", "out_layers.0"), ("conv2", "out_layers.3"), ("conv_shortcut", "skip_connection")]


def ldm_unet(name, config):
    layers = config.layers_per_block
    for a, b in [("time_embedding.linear_1", "time_embed.0"), ("time_embedding.linear_2", "time_embed.2"),
                 ("add_embedding.linear_1", "label_emb.0.0"), ("add_embedding.linear_2", "label_emb.0.2"),
                 ("conv_in", "input_blocks.0.0"), ("conv_norm_out", "out.0"), ("conv_out", "out.2")]:
        if name.startswith(a + "."):
            return b + name[len(a):]
    resnet = dict(RESNET)
    m = re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)", name)
    if m:
        way, level, what, i, rest = m[1], int(m[2]), m[3], int(m[4]), m[5]
        if what == "downsamplers":
            return f"input_blocks.{(level + 1) * (layers + 1)}.0.op." + rest.split(".")[1]
        if what == "upsamplers":
            last = level * (layers + 1) + layers
            attention = "CrossAttn" in config.up_block_types[level]
            return f"output_blocks.{last}.{2 if attention else 1}." + rest
        block = (f"input_blocks.{1 + level * (layers + 1) + i}" if way == "down"
                 else f"output_blocks.{level * (layers + 1) + i}")
    else:
        m = re.match(r"mid_block\.(resnets|attentions)\.(\d+)\.(.*)", name)
        what, rest = m[1], m[3]
        block = "middle_block"
        if what == "attentions":
            return "middle_block.1." + rest
        head, tail = rest.split(".", 1)
        return f"middle_block.{2 * int(m[2])}.{resnet[head]}.{tail}"
    if what == "attentions":
        return f"{block}.1.{rest}"
    head, tail = rest.split(".", 1)
    return f"{block}.0.{resnet[head]}.{tail}"


def ldm_vae(name, config):
    n = len(config.block_out_channels)
    name = re.sub(r"decoder\.up_blocks\.(\d+)", lambda m: f"decoder.up.{n - 1 - int(m[1])}", name)
    name = name.replace("encoder.down_blocks.", "encoder.down.").replace(".resnets.", ".block.")
    name = name.replace("downsamplers.0.conv", "downsample.conv").replace("upsamplers.0.conv", "upsample.conv")
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"mid_block\.block\.(\d+)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    for a, b in [("mid_block.attentions.0.", "mid.attn_1."), ("group_norm", "norm"), ("to_q", "q"),
                 ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")]:
        name = name.replace(a, b)
    return name


def open_clip(tensors):
    """OpenCLIP's names: one matrix for q, k and v, the projection the other way round."""
    out = {}
    for name, t in tensors.items():
        m = re.match(r"text_model\.encoder\.layers\.(\d+)\.(.*)", name)
        if name == "text_projection.weight":
            out["text_projection"] = t.T.contiguous()
        elif m is None:
            out[{"text_model.embeddings.token_embedding.weight": "token_embedding.weight",
                 "text_model.embeddings.position_embedding.weight": "positional_embedding"}.get(
                     name, name.replace("text_model.final_layer_norm", "ln_final"))] = t
        elif "q_proj" in m[2]:
            parts = [tensors[name.replace("q_proj", p)] for p in ("q_proj", "k_proj", "v_proj")]
            kind = m[2].rsplit(".", 1)[1]
            out[f"transformer.resblocks.{m[1]}.attn.in_proj_{kind}"] = torch.cat(parts).contiguous()
        elif "k_proj" not in m[2] and "v_proj" not in m[2]:
            rest = m[2]
            for a, b in [("layer_norm1", "ln_1"), ("layer_norm2", "ln_2"), ("mlp.fc1", "mlp.c_fc"),
                         ("mlp.fc2", "mlp.c_proj"), ("self_attn.out_proj", "attn.out_proj")]:
                rest = rest.replace(a, b)
            out[f"transformer.resblocks.{m[1]}.{rest}"] = t
    return out


def ldm(kind, parts, states):
    """All tensors of a single file, with things that must be left out among them."""
    out = {"alphas_cumprod": torch.ones(10, dtype=torch.float64),
           "model_ema.decay": torch.tensor(0.5), "model_ema.num_updates": torch.tensor(3)}
    for name, t in states["unet"].items():
        out["model.diffusion_model." + ldm_unet(name, parts["unet"].config)] = t
    for name, t in states["vae"].items():
        if re.search(r"attentions\.0\.to_\w+(\.0)?\.weight", name):
            t = t[:, :, None, None]
        out["first_stage_model." + ldm_vae(name, parts["vae"].config)] = t
    if kind == "sd2":
        te = open_clip(states["text_encoder"])
        te |= {k.replace(".22.", ".23."): v.clone() for k, v in te.items() if ".22." in k}
        te["text_projection"] = torch.zeros(8, 8).half()
        te["logit_scale"] = torch.tensor(4.6)
        return out | {"cond_stage_model.model." + k: v for k, v in te.items()}
    first = "conditioner.embedders.0." if kind == "sdxl" else "cond_stage_model."
    out |= {first + "transformer." + k: v for k, v in states["text_encoder"].items()}
    out[first + "transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    if kind == "sdxl":
        te = open_clip(states["text_encoder_2"])
        te["logit_scale"] = torch.tensor(4.6)
        out |= {"conditioner.embedders.1.model." + k: v for k, v in te.items()}
    return out


# ---- to GGUF ----

def cpp_name(name):
    """stable-diffusion.cpp's name of a tensor of a single file."""
    name = name.replace("conditioner.embedders.0.", "cond_stage_model.")
    m = re.match(r"conditioner\.embedders\.1\.model\.(.*)", name)
    if not m:
        return name
    rest = m[1]
    for a, b in [("transformer.resblocks.", "encoder.layers."), ("ln_1", "layer_norm1"), ("ln_2", "layer_norm2"),
                 ("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2"), ("attn.out_proj", "self_attn.out_proj"),
                 ("attn.in_proj_", "self_attn.in_proj."), ("ln_final", "final_layer_norm"),
                 ("token_embedding", "embeddings.token_embedding")]:
        rest = rest.replace(a, b)
    if rest == "positional_embedding":
        rest = "embeddings.position_embedding.weight"
    return "cond_stage_model.1.transformer.text_model." + rest


def write_gguf(path, tensors):
    """Returns what the quantised tensors are worth, by the names of the single file."""
    w = gguf.GGUFWriter(path, "sd")
    worth = {}
    for name, t in tensors.items():
        if name.startswith(("model_ema", "alphas")) or name.endswith(("position_ids", "logit_scale")):
            continue
        a = t.numpy()
        if a.ndim == 2 and a.shape[1] % 32 == 0 and "embedding" not in name:
            q = gguf.quants.quantize(a.astype(np.float32), gguf.GGMLQuantizationType.Q8_0)
            w.add_tensor(cpp_name(name), q, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
            worth[name] = gguf.quants.dequantize(q, gguf.GGMLQuantizationType.Q8_0)
        else:
            w.add_tensor(cpp_name(name), a)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return worth


# ---- expected values ----

def fnv(a):
    h = 0xCBF29CE484222325
    for b in np.ascontiguousarray(a, dtype=np.float32).tobytes():
        h = ((h ^ b) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return h


def squeeze(shape):
    shape = list(shape)
    while len(shape) > 2 and shape[-1] == 1:
        shape.pop()
    return shape or [1]


def write_tsv(path, parts, states):
    lines = []
    for part in sorted(states):
        for name, t in sorted(states[part].items()):
            dims = "x".join(map(str, squeeze(t.shape)))
            lines.append(f"{part}\t{name}\t{dims}\t{fnv(np.asarray(t)):016x}")
        config = parts[part].config.to_dict() if part.startswith("text") else parts[part].config
        for key in CONFIG_KEYS[part]:
            if config.get(key) is not None:
                lines.append(f"{part}\t{key}\t=\t{json.dumps(config[key], separators=(',', ':'))}")
    path.write_text("\n".join(lines) + "\n")


def quantised(parts, states, worth):
    """states with what is left of the weights after Q8_0."""
    out = {part: {k: t.float().numpy() for k, t in s.items()} for part, s in states.items()}
    for part in out:
        for name in out[part]:
            if part == "unet":
                key = "model.diffusion_model." + ldm_unet(name, parts["unet"].config)
            elif part == "text_encoder":
                key = "conditioner.embedders.0.transformer." + name
            elif part == "text_encoder_2" and ".self_attn." in name and "out_proj" not in name:
                m = re.match(r"text_model\.encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.weight", name)
                whole = m and worth.get(f"conditioner.embedders.1.model.transformer.resblocks.{m[1]}.attn.in_proj_weight")
                if whole is not None:
                    out[part][name] = np.split(whole, 3)["qkv".index(m[2])]
                continue
            elif part == "text_encoder_2":
                key = "conditioner.embedders.1.model." + next(iter(open_clip({name: states[part][name]})), "")
            else:
                continue
            if key in worth:
                out[part][name] = worth[key]
    return out


def write_dir(out, parts, states):
    """A directory with what directories may have."""
    shutil.rmtree(out, ignore_errors=True)
    for part in states:
        (out / part).mkdir(parents=True)
        if part.startswith("text"):
            parts[part].config.save_pretrained(out / part)
        else:
            parts[part].save_config(out / part)
    half = sorted(states["unet"])[::2]
    shards = {"diffusion_pytorch_model-00001-of-00002.safetensors": half,
              "diffusion_pytorch_model-00002-of-00002.safetensors": [k for k in states["unet"] if k not in half]}
    for file, names in shards.items():
        save_file({k: states["unet"][k] for k in names}, out / "unet" / file)
    (out / "unet/diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(
        {"metadata": {}, "weight_map": {k: f for f, names in shards.items() for k in names}}))
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {re.sub(r"(?<=attentions\.0\.)(to_\w|to_out\.0)(?=\.)", lambda m: old[m[1]], k): v
               for k, v in states["vae"].items()}
    assert "decoder.mid_block.attentions.0.proj_attn.weight" in renamed
    save_file(renamed, out / "vae/diffusion_pytorch_model.fp16.safetensors")
    names = {k.removeprefix("text_model."): v for k, v in states["text_encoder"].items()}
    save_file(names | {"embeddings.position_ids": torch.arange(77)[None]}, out / "text_encoder/model.safetensors")
    (out / "model_index.json").write_text(json.dumps({
        "_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.42.1",
        "safety_checker": [None, None], "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}))
    (out / "scheduler").mkdir()
    (out / "scheduler/scheduler_config.json").write_text(json.dumps({
        "_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear", "prediction_type": "v_prediction"}))


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--out", type=Path, default=Path("tests/fixtures/checkpoint"))
    out = p.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for kind in ("sd1", "sd2", "sdxl"):
        torch.manual_seed(len(kind))
        parts = make(kind)
        states = {part: state(part, m) for part, m in parts.items()}
        single = ldm(kind, parts, states)
        save_file(single, out / f"{kind}.safetensors", metadata={"modelspec.prediction_type": "v"} if kind == "sd2" else None)
        assert len(load_file(out / f"{kind}.safetensors")) == len(single)
        write_tsv(out / f"{kind}.safetensors.tsv", parts, states)
        if kind == "sd2":
            write_dir(out / "dir", parts, states)
        if kind == "sdxl":
            worth = write_gguf(out / f"{kind}.gguf", single)
            write_tsv(out / f"{kind}.gguf.tsv", parts, quantised(parts, states, worth))


if __name__ == "__main__":
    main()
