#!/usr/bin/env python3
"""What step caches gain and cost: seconds of a batch of pictures, and how far each is from the one without a cache.

    tests/bench/step_cache.py --model models/emoji-sd --steps 20 --pictures 8
    tests/bench/step_cache.py --model DIR --size 256x256 --steps 9 --pictures 1 --rounds 1 deepcache:3:0

Prints for each cache the seconds (the best of some rounds, all caches in turn), the throughput beside none, and the
peak signal-to-noise ratio of the pictures in dB, mean and least.
"""
import argparse
import base64
import concurrent.futures
import http.client
import io
import json
import math
import pathlib
import sys
import time

from PIL import Image, ImageChops, ImageStat

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import bench  # noqa: E402

CACHES = ("deepcache:2:0", "deepcache:3:0", "deepcache:5:0", "deepcache:3:1", "deepcache:3:3",
          "first_block:0.05", "first_block:0.1", "first_block:0.2")
PROMPTS = ("a red apple", "a smiling cat", "a blue car", "a house with a garden", "the moon",
           "a green tree", "a slice of pizza", "a yellow star")


def post(port, body):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    c.request("POST", "/v1/images/generations", json.dumps(body),
              {"Content-Type": "application/json"})
    answer = json.loads(c.getresponse().read())
    return Image.open(io.BytesIO(base64.b64decode(answer["data"][0]["b64_json"]))).convert("RGB")


def batch(port, a, cache):
    """All pictures at once: seconds, pictures."""
    bodies = [{"prompt": PROMPTS[i % len(PROMPTS)], "seed": i, "steps": a.steps, "size": a.size,
               "guidance_scale": a.guidance, "step_cache": cache} for i in range(a.pictures)]
    with concurrent.futures.ThreadPoolExecutor(a.pictures) as pool:
        start = time.monotonic()
        pictures = list(pool.map(lambda body: post(port, body), bodies))
        return time.monotonic() - start, pictures


def psnr(a, b):
    mean = sum(ImageStat.Stat(ImageChops.difference(a, b)).sum2) / (a.width * a.height * 3)
    return 10 * math.log10(255 * 255 / mean) if mean > 0 else 99.0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=pathlib.Path, default=pathlib.Path("models/emoji-sd"))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--size", default="auto")
    parser.add_argument("--guidance", type=float, default=5)
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--port", type=int, default=18432)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("caches", nargs="*", default=CACHES)
    a = parser.parse_args()
    command = ["build/duetto", "serve", "-m", f"sd={a.model}", "--port", str(a.port),
               "--max_image_rows", "16", "--images_at_once", "16", "--cache_mib", "4096",
               "--threads", str(a.threads), "--log_level", "off"]
    with bench.serving(command, a.port, "/health"):
        kinds = ["off", *a.caches]
        if a.rounds > 1:
            for kind in kinds:
                batch(a.port, a, kind)
        took, pictures = {kind: [] for kind in kinds}, {}
        for _ in range(a.rounds):
            for kind in kinds:
                seconds, pictures[kind] = batch(a.port, a, kind)
                took[kind].append(seconds)
        for kind in kinds:
            far = [psnr(x, y) for x, y in zip(pictures["off"], pictures[kind])]
            print(f"{kind:17} {min(took[kind]):6.2f} s  {min(took['off']) / min(took[kind]):5.2f} x  "
                  f"{sum(far) / len(far):5.1f} dB, least {min(far):.1f}")


if __name__ == "__main__":
    main()
