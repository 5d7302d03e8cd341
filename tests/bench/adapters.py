#!/usr/bin/env python3
"""Eight pictures at once, plain and with eight different LoRAs each of its own: what adapters cost in a batch.

    tests/bench/adapters.py --model models/emoji-sd --steps 16

Random LoRAs are made for the model: rank 16 on attentions and feed forward layers, and rank 8 that have the
3x3 convolutions too (LoCon).  Prints seconds, the rounds of all kinds in turn, and the throughput beside plain.
"""
import argparse
import http.client
import json
import math
import pathlib
import random
import struct
import subprocess
import tempfile
import threading
import time

KINDS = ("plain", "lora", "locon", "two loras")


def shapes(model):
    with open(next((model / "unet").glob("*.safetensors")), "rb") as f:
        n = struct.unpack("<Q", f.read(8))[0]
        return {k: v["shape"] for k, v in json.loads(f.read(n)).items() if k.endswith(".weight")}


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


def loras(kind, i):
    return {"plain": [], "lora": [{"name": f"l{i}", "scale": 0.5}],
            "locon": [{"name": f"c{i}", "scale": 0.5}],
            "two loras": [{"name": f"l{i}", "scale": 0.5},
                          {"name": f"l{(i + 1) % 8}", "scale": 0.2}]}[kind]


def batch(port, kind, steps):
    bodies = [{"prompt": "a red cat", "seed": i, "steps": steps, "guidance_scale": 5,
               "loras": loras(kind, i)} for i in range(8)]
    threads = [threading.Thread(target=post, args=(port, b)) for b in bodies]
    start = time.monotonic()
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return time.monotonic() - start


def wait(port):
    for _ in range(300):
        try:
            c = http.client.HTTPConnection("127.0.0.1", port)
            c.request("GET", "/health")
            if c.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.1)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=pathlib.Path, default=pathlib.Path("models/emoji-sd"))
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--port", type=int, default=18431)
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as to:
        for i in range(8):
            write(pathlib.Path(to) / f"l{i}.safetensors", shapes(a.model), 16, False, i)
            write(pathlib.Path(to) / f"c{i}.safetensors", shapes(a.model), 8, True, 100 + i)
        server = subprocess.Popen(["build/duetto", "serve", "-m", f"sd={a.model}", "--lora_dir", to,
                                   "--port", str(a.port), "--max_image_rows", "16",
                                   "--images_at_once", "16", "--cache_mib", "1024",
                                   "--log_level", "off"], stdout=subprocess.DEVNULL)
        try:
            wait(a.port)
            for kind in KINDS:
                batch(a.port, kind, 1)
            took = {kind: [] for kind in KINDS}
            for _ in range(a.rounds):
                for kind in KINDS:
                    took[kind].append(batch(a.port, kind, a.steps))
            for kind in KINDS:
                print(f"{kind:10} {' '.join(f'{s:.2f}' for s in took[kind])} s, "
                      f"{min(took['plain']) / min(took[kind]):.2f} of plain")
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
