#!/usr/bin/env python3
"""Eight pictures at once, plain and with eight different LoRAs each of its own: what adapters cost in a batch.

    tests/bench/adapters.py --model models/emoji-sd --steps 16
    tests/bench/adapters.py --model DIR --size 256x256 --steps 2 --rounds 1 --files /tmp/adapters plain subsets

Random LoRAs are made for the model: rank 16 on attentions and feed forward layers, and rank 8 that have the
3x3 convolutions too (LoCon); and two ControlNets, which are copies of its own way down.  Prints for each kind the
seconds and the server's CPU seconds, medians of rounds of all kinds in turn, and the throughput beside plain:

    in turn         the plain pictures one after another
    subsets         all subsets of two LoRAs and a ControlNet: eight mixes, four with a ControlNet
    control subsets all subsets of two LoRAs and a LoCon, and a ControlNet each
    controls        a ControlNet each and no LoRA
    mixes           the same with a LoRA each, every second a LoCon

--files keeps what was made for the next time.
"""
import argparse
import base64
import concurrent.futures
import contextlib
import http.client
import json
import math
import os
import pathlib
import random
import statistics
import struct
import sys
import tempfile
import time
import zlib

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import bench  # noqa: E402

N = 8  # pictures


def adapters(i):
    """What picture i has, of each kind: LoRAs and a ControlNet."""
    subset = [name for bit, name in enumerate(("l0", "l1", "c0")) if i >> bit & 1]
    return {"plain": ([], None), "in turn": ([], None),
            "lora": ([f"l{i}"], None), "locon": ([f"c{i}"], None),
            "two loras": ([f"l{i}", f"l{(i + 1) % N}"], None),
            "subsets": ([name for name in subset if name != "c0"], "control0" if i & 4 else None),
            "control subsets": (subset, f"control{i % 2}"),
            "controls": ([], f"control{i % 2}"),
            "mixes": ([f"{'lc'[i % 2]}{i}"], f"control{i % 2}")}


KINDS = tuple(adapters(0))


def header(model):
    """Tensors of the UNet's file, and where their bytes begin."""
    path = next((model / "unet").glob("*.safetensors"))
    with open(path, "rb") as f:
        n = struct.unpack("<Q", f.read(8))[0]
        return path, json.loads(f.read(n)), 8 + n


def shapes(model):
    return {k: v["shape"] for k, v in header(model)[1].items() if k.endswith(".weight")}


def random_numbers(rng, dims, kind, deviation):
    """Packed; a short list of them over and over, which is enough for this and fast."""
    n = math.prod(dims)
    few = struct.pack(f"<4099{kind}", *(rng.gauss(0, deviation) for _ in range(4099)))
    size = n * struct.calcsize(kind)
    return (few * (size // len(few) + 1))[:size]


def write_control(folder, model, seed):
    """A ControlNet for the model: its way down and middle, and small random convolutions around them."""
    rng, out, data = random.Random(seed), {}, []
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
            parts[f"{name}.{end}"] = random_numbers(rng, d, "e", 0.01)
            kinds[f"{name}.{end}"] = ("F16", d)
    for name, part in parts.items():
        out[name] = {"dtype": kinds[name][0], "shape": kinds[name][1],
                     "data_offsets": [at, at + len(part)]}
        at += len(part)
        data.append(part)
    config |= {"_class_name": "ControlNetModel", "conditioning_channels": 3,
               "conditioning_embedding_out_channels": list(embed),
               "controlnet_conditioning_channel_order": "rgb", "global_pool_conditions": False}
    for key in ("up_block_types", "out_channels", "sample_size", "dropout"):
        config.pop(key, None)
    text = json.dumps(out).encode()
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "diffusion_pytorch_model.safetensors").write_bytes(
        struct.pack("<Q", len(text)) + text + b"".join(data))


def write(path, weights, rank, conv, seed):
    rng, header, data, at = random.Random(seed), {}, [], 0
    for name, shape in sorted(weights.items()):
        layer = name.removesuffix(".weight")
        linear = any(w in layer for w in (".to_", ".ff.net", "proj_in", "proj_out"))
        if not linear and not (conv and "resnets" in layer and shape[-1] == 3):
            continue
        for end, dims in (("A", [rank, *shape[1:]]), ("B", [shape[0], rank] + [1] * (len(shape) - 2))):
            n = math.prod(dims)
            header[f"unet.{layer}.lora_{end}.weight"] = {
                "dtype": "F32", "shape": dims, "data_offsets": [at, at + 4 * n]}
            data.append(random_numbers(rng, dims, "f", 0.02))
            at += 4 * n
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data))


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


def make_files(folder, model):
    for i in range(N):
        for name, rank, conv, seed in ((f"l{i}", 16, False, i), (f"c{i}", 8, True, 100 + i)):
            if not (folder / f"{name}.safetensors").exists():
                write(folder / f"{name}.safetensors", shapes(model), rank, conv, seed)
    for i in range(2):
        if not (folder / f"control{i}").exists():
            write_control(folder / f"control{i}", model, 200 + i)


def cpu_seconds(process):
    fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def batch(process, a, kind, steps):
    """Seconds, and the server's seconds of CPU."""
    bodies = []
    for i in range(N):
        loras, control = adapters(i)[kind]
        bodies.append({"prompt": "a red cat", "seed": i, "steps": steps, "guidance_scale": 5, "size": a.size,
                       "loras": [{"name": name, "scale": 0.5 / (k + 1)} for k, name in enumerate(loras)],
                       "control": [{"model": control, "image": hint(), "scale": 0.5 + i / 16}] if control else []})
    with concurrent.futures.ThreadPoolExecutor(1 if kind == "in turn" else N) as pool:
        start, cpu = time.monotonic(), cpu_seconds(process)
        list(pool.map(lambda body: post(a.port, body), bodies))  # one that fails ends it all
        return time.monotonic() - start, cpu_seconds(process) - cpu


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=pathlib.Path, default=pathlib.Path("models/emoji-sd"))
    parser.add_argument("--size", default="auto")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--port", type=int, default=18431)
    parser.add_argument("--files", type=pathlib.Path)
    parser.add_argument("kinds", nargs="*", default=KINDS)
    a = parser.parse_args()
    with contextlib.ExitStack() as stack:
        to = a.files or pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        to.mkdir(exist_ok=True)
        make_files(to, a.model)
        command = ["build/duetto", "serve", "-m", f"sd={a.model}", "--lora_dir", str(to),
                   "-m", f"control0={to}/control0", "-m", f"control1={to}/control1",
                   "--threads", str(a.threads), "--port", str(a.port), "--max_image_rows", "16",
                   "--images_at_once", "16", "--cache_mib", "4096", "--log_level", "off"]
        process = stack.enter_context(bench.serving(command, a.port, "/health"))
        if a.rounds > 1:
            for kind in a.kinds:
                batch(process, a, kind, 1)
        took = {kind: [] for kind in a.kinds}
        for _ in range(a.rounds):
            for kind in a.kinds:
                took[kind].append(batch(process, a, kind, a.steps))
        middle = {kind: [statistics.median(t[i] for t in took[kind]) for i in range(2)] for kind in a.kinds}
        for kind in a.kinds:
            share = ", ".join(f"{p / m:.2f}" for p, m in zip(middle[a.kinds[0]], middle[kind]))
            print(f"{kind:15} {middle[kind][0]:6.2f} s, {middle[kind][1]:6.2f} s of CPU: {share} of {a.kinds[0]} "
                  f"({' '.join(f'{wall:.2f}' for wall, _ in took[kind])})")


if __name__ == "__main__":
    main()
