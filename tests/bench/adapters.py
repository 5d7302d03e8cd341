#!/usr/bin/env python3
"""Eight pictures at once, plain and with eight different LoRAs each of its own: what adapters cost in a batch.

    tests/bench/adapters.py --model models/emoji-sd --steps 16

Random LoRAs are made for the model: rank 16 on attentions and feed forward layers, and rank 8 that have the
3x3 convolutions too (LoCon); and two ControlNets, which are copies of its own way down.  Prints seconds, the rounds of
all kinds in turn, and the throughput beside plain.  With ControlNets a step has more to compute: "controls" are
eight pictures with one ControlNet each and no LoRA, "mixes" the same with a LoRA each, every second a LoCon.
"""
import argparse
import base64
import concurrent.futures
import http.client
import json
import math
import pathlib
import random
import struct
import sys
import tempfile
import time
import zlib

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import bench  # noqa: E402

KINDS = ("plain", "lora", "locon", "two loras", "controls", "mixes")


def header(model):
    """Tensors of the UNet's file, and where their bytes begin."""
    path = next((model / "unet").glob("*.safetensors"))
    with open(path, "rb") as f:
        n = struct.unpack("<Q", f.read(8))[0]
        return path, json.loads(f.read(n)), 8 + n


def shapes(model):
    return {k: v["shape"] for k, v in header(model)[1].items() if k.endswith(".weight")}


def random_halves(rng, dims):
    n = math.prod(dims)
    return struct.pack(f"<{n}e", *(rng.gauss(0, 0.01) for _ in range(n)))


def write_control(folder, model, seed):
    """A ControlNet for the model: its way down and middle, and small random convolutions around them."""
    rng, out, data = random.Random(seed), {}, b""
    path, tensors, begin = header(model)
    config = json.loads((model / "unet" / "config.json").read_text())
    file = path.read_bytes()
    width, channels = config["block_out_channels"][0], [config["block_out_channels"][0]]
    for i, c in enumerate(config["block_out_channels"]):
        last = i == len(config["block_out_channels"]) - 1
        channels += [c] * (config["layers_per_block"] + (not last))
    own = {f"controlnet_down_blocks.{i}": [c, c, 1, 1] for i, c in enumerate(channels)}
    own["controlnet_mid_block"] = [channels[-1], channels[-1], 1, 1]
    embed, at = (8, 16, 24, 32), 0
    own["controlnet_cond_embedding.conv_in"] = [embed[0], 3, 3, 3]
    for i in range(3):
        own[f"controlnet_cond_embedding.blocks.{2 * i}"] = [embed[i], embed[i], 3, 3]
        own[f"controlnet_cond_embedding.blocks.{2 * i + 1}"] = [embed[i + 1], embed[i], 3, 3]
    own["controlnet_cond_embedding.conv_out"] = [width, embed[3], 3, 3]
    parts = {name: file[begin + v["data_offsets"][0]:begin + v["data_offsets"][1]]
             for name, v in tensors.items()
             if name.startswith(("conv_in.", "time_embedding.", "down_blocks.", "mid_block."))}
    kinds = {name: (tensors[name]["dtype"], tensors[name]["shape"]) for name in parts}
    for name, dims in own.items():
        for end, d in (("weight", dims), ("bias", dims[:1])):
            parts[f"{name}.{end}"] = random_halves(rng, d)
            kinds[f"{name}.{end}"] = ("F16", d)
    for name, part in parts.items():
        out[name] = {"dtype": kinds[name][0], "shape": kinds[name][1],
                     "data_offsets": [at, at + len(part)]}
        at += len(part)
        data += part
    config |= {"_class_name": "ControlNetModel", "conditioning_channels": 3,
               "conditioning_embedding_out_channels": list(embed),
               "controlnet_conditioning_channel_order": "rgb", "global_pool_conditions": False}
    for key in ("up_block_types", "out_channels", "sample_size", "dropout"):
        config.pop(key, None)
    text = json.dumps(out).encode()
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "diffusion_pytorch_model.safetensors").write_bytes(
        struct.pack("<Q", len(text)) + text + data)


def write(path, weights, rank, conv, seed):
    rng, header, data = random.Random(seed), {}, b""
    for name, shape in sorted(weights.items()):
        layer = name.removesuffix(".weight")
        linear = any(w in layer for w in (".to_", ".ff.net", "proj_in", "proj_out"))
        if not linear and not (conv and "resnets" in layer and shape[-1] == 3):
            continue
        for end, dims in (("A", [rank, *shape[1:]]), ("B", [shape[0], rank] + [1] * (len(shape) - 2))):
            n = math.prod(dims)
            header[f"unet.{layer}.lora_{end}.weight"] = {
                "dtype": "F32", "shape": dims, "data_offsets": [len(data), len(data) + 4 * n]}
            data += struct.pack(f"<{n}f", *(rng.gauss(0, 0.02) for _ in range(n)))
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def post(port, body):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    c.request("POST", "/v1/images/generations", json.dumps(body), {"Content-Type": "application/json"})
    r = c.getresponse()
    text = r.read()
    assert r.status == 200, text[:300]


def hint():
    """A picture with edges, as a data URL."""
    rows = b"".join(b"\0" + bytes(255 if (x // 16 + y // 16) % 2 else 20 for x in range(128)
                                  for _ in range(3)) for y in range(128))
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", 128, 128, 8, 2, 0, 0, 0)),
              (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return "data:image/png;base64," + base64.b64encode(png).decode()


def controls(kind, i):
    if kind not in ("controls", "mixes"):
        return []
    return [{"model": f"control{i % 2}", "image": hint(), "scale": 0.5 + i / 16}]


def loras(kind, i):
    return {"plain": [], "controls": [], "lora": [{"name": f"l{i}", "scale": 0.5}],
            "mixes": [{"name": f"{'lc'[i % 2]}{i}", "scale": 0.5}],
            "locon": [{"name": f"c{i}", "scale": 0.5}],
            "two loras": [{"name": f"l{i}", "scale": 0.5},
                          {"name": f"l{(i + 1) % 8}", "scale": 0.2}]}[kind]


def batch(port, kind, steps):
    bodies = [{"prompt": "a red cat", "seed": i, "steps": steps, "guidance_scale": 5,
               "loras": loras(kind, i), "control": controls(kind, i)} for i in range(8)]
    with concurrent.futures.ThreadPoolExecutor(len(bodies)) as pool:
        start = time.monotonic()
        list(pool.map(lambda body: post(port, body), bodies))  # one that fails ends it all
        return time.monotonic() - start


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=pathlib.Path, default=pathlib.Path("models/emoji-sd"))
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--port", type=int, default=18431)
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as to:
        for i in range(8):
            write(pathlib.Path(to) / f"l{i}.safetensors", shapes(a.model), 16, False, i)
            write(pathlib.Path(to) / f"c{i}.safetensors", shapes(a.model), 8, True, 100 + i)
        for i in range(2):
            write_control(pathlib.Path(to) / f"control{i}", a.model, 200 + i)
        command = ["build/duetto", "serve", "-m", f"sd={a.model}", "--lora_dir", to,
                   "-m", f"control0={to}/control0", "-m", f"control1={to}/control1",
                   "--threads", str(a.threads), "--port", str(a.port), "--max_image_rows", "16",
                   "--images_at_once", "16", "--cache_mib", "1024", "--log_level", "off"]
        with bench.serving(command, a.port, "/health"):
            for kind in KINDS:
                batch(a.port, kind, 1)
            took = {kind: [] for kind in KINDS}
            for _ in range(a.rounds):
                for kind in KINDS:
                    took[kind].append(batch(a.port, kind, a.steps))
            for kind in KINDS:
                print(f"{kind:10} {' '.join(f'{s:.2f}' for s in took[kind])} s, "
                      f"{min(took['plain']) / min(took[kind]):.2f} of plain")


if __name__ == "__main__":
    main()
