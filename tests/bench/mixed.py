#!/usr/bin/env python3
"""Chats beside a picture: times between tokens alone, and while an image model works in the same server.
usage: mixed.py --image-model DIR [--build build] [--model FILE] [--size 256x256] [--seconds 20]
"""
import argparse
import http.client
import json
import pathlib
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import bench  # noqa: E402

PORT = 8192


def stream(path, body, on_event, stop):
    """Posts, and calls on_event for each server-sent event until the end or stop() says so."""
    link = http.client.HTTPConnection("127.0.0.1", PORT)
    link.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    answer = link.getresponse()
    if answer.status != 200:
        raise SystemExit(f"{path}: {answer.status} {answer.read()[:300]}")
    for line in answer:
        if line.startswith(b"data:") and line.strip() != b"data: [DONE]":
            on_event(json.loads(line[5:]))
        if stop():
            break
    link.close()


def chat(seconds, n, running=lambda: True):
    """Times between tokens of n chats, in ms, sorted."""
    gaps, lock, end = [], threading.Lock(), time.monotonic() + seconds

    def one():
        while time.monotonic() < end and running():
            last = [None]

            def token(_):
                now = time.monotonic()
                if last[0] is not None:
                    with lock:
                        gaps.append((now - last[0]) * 1000)
                last[0] = now

            stream("/v1/chat/completions",
                   {"messages": [{"role": "user", "content": "Write a long story about the sea."}],
                    "stream": True, "max_tokens": 200, "seed": 1},
                   token, lambda: time.monotonic() > end or not running())

    threads = [threading.Thread(target=one) for _ in range(n)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return sorted(gaps)


def show(name, gaps, seconds, n):
    if not gaps:
        print(f"{name}: no tokens")
        return
    at = [gaps[min(len(gaps) - 1, int(len(gaps) * p))] for p in (0.5, 0.9, 0.99)]
    print(f"{name}: {len(gaps) / seconds:6.1f} tokens/s of {n}, between tokens p50 {at[0]:5.1f} "
          f"p90 {at[1]:5.1f} p99 {at[2]:5.1f} max {gaps[-1]:5.1f} ms", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default="build")
    parser.add_argument("--model", default="models/cache/SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--image-model", required=True)
    parser.add_argument("--size", default="256x256")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--chats", type=int, default=1)
    parser.add_argument("--steps", type=int, default=50)
    a = parser.parse_args()
    print(bench.machine(), flush=True)
    command = [f"{a.build}/duetto", "serve", "-m", f"chat={a.model}", "-m", f"image={a.image_model}",
               "--port", str(PORT), "--threads", "2", "--drain_settle_s", "0", "--drain_grace_s", "0"]
    request = {"model": "image", "prompt": "a red cat on a mat", "size": a.size, "steps": a.steps,
               "guidance_scale": 7.5, "stream": True, "partial_images": 0}
    with bench.serving(command, PORT, "/health"):
        show("chat alone ", chat(a.seconds / 2, a.chats), a.seconds / 2, a.chats)

        def steps_done():
            link = http.client.HTTPConnection("127.0.0.1", PORT)
            link.request("GET", "/metrics")
            for line in link.getresponse().read().decode().splitlines():
                if line.startswith("duetto:image_steps_total") or \
                        line.startswith("duetto_image_steps_total"):
                    return float(line.split()[-1])
            return 0

        stop = threading.Event()
        picture = threading.Thread(target=stream, args=("/v1/images/generations", request,
                                                        lambda _: None, stop.is_set), daemon=True)
        start = time.monotonic()
        picture.start()
        time.sleep(a.seconds / 2)
        alone = steps_done() / (time.monotonic() - start)
        before, start = steps_done(), time.monotonic()
        gaps = chat(a.seconds, a.chats)
        took = time.monotonic() - start
        show("with images", gaps, took, a.chats)
        print(f"images: {alone:.2f} steps/s alone, {(steps_done() - before) / took:.2f} beside")
    return 0


if __name__ == "__main__":
    sys.exit(main())
