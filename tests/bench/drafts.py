#!/usr/bin/env python3
"""What drafts (engine/draft.h) gain: tokens per second of N chats at once, with and without them, on texts that repeat
much, somewhat and hardly, and where the request predicts its answer.

    tests/bench/drafts.py -m models/cache/SmolLM2-135M-Instruct.Q4_1.gguf --chats 1,4,16

Both servers stand at once and are asked in turn; their answers are compared, for they must be the same.  Prints medians
of some rounds, and the share of the drafts' tokens that were right.
"""
import argparse
import concurrent.futures
import contextlib
import http.client
import json
import pathlib
import re
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import bench  # noqa: E402

CODE = "".join(f"    if name == '{w}':\n        return {w}_of(shape, {i})\n" for i, w in enumerate(
    ("width", "height", "depth", "length", "radius", "weight")))
KINDS = {
    "an edit": "Write this Python function again, with the argument `shape` called `item`:\n\n"
               f"def measure(shape, name):\n{CODE}    raise ValueError(name)\n",
    "a list": "Continue this list of words for as long as you can: river house green mountain light never river "
              "window paper story house could music small great under water night",
    "a story": "Tell me a story about the keeper of a lighthouse.",
}
STORY_AGAIN = "a story that is predicted"  # but for each twelfth word
KINDS[STORY_AGAIN] = KINDS["a story"]


def ask(port, prompt, seed, max_tokens, prediction=None):
    body = {"messages": [{"role": "user", "content": prompt}], "seed": seed, "ignore_eos": True, "max_tokens": max_tokens,
            "temperature": 0.5}
    if prediction:
        body["prediction"] = {"type": "content", "content": prediction}
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    c.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    return json.loads(c.getresponse().read())["choices"][0]["message"]["content"]


def almost(text):
    """The text with another word in place of each twelfth."""
    return " ".join("other" if i % 12 == 11 else word for i, word in enumerate(text.split(" ")))


def batch(port, prompt, n, max_tokens, predictions=None):
    """n chats at once: tokens per second, texts."""
    predictions = predictions or [None] * n
    with concurrent.futures.ThreadPoolExecutor(n) as pool:
        start = time.monotonic()
        texts = list(pool.map(lambda seed: ask(port, prompt, seed, max_tokens, predictions[seed]), range(n)))
        return n * max_tokens / (time.monotonic() - start), texts


def drafted(port):
    """Tokens that were drafted so far, and those of them that were right."""
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    c.request("GET", "/metrics")
    text = c.getresponse().read().decode()
    return [float(re.search(rf"^vllm:spec_decode_num_{what}_tokens_total (\S+)", text, re.M).group(1))
            for what in ("draft", "accepted")]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--chats", default="1,4,16")
    parser.add_argument("--texts", default=",".join(KINDS))
    parser.add_argument("--max_tokens", type=int, default=128)
    parser.add_argument("--draft_tokens", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--port", type=int, default=18436)
    parser.add_argument("--threads", type=int, default=0)
    a = parser.parse_args()
    ports = {0: a.port, a.draft_tokens: a.port + 1}
    with contextlib.ExitStack() as stack:
        for draft_tokens, port in ports.items():
            command = ["build/duetto", "serve", "-m", a.model, "--port", str(port), "--draft_tokens",
                       str(draft_tokens), "--threads", str(a.threads), "--log_level", "off"]
            stack.enter_context(bench.serving(command, port, "/health"))
        for kind, prompt in ((kind, KINDS[kind]) for kind in a.texts.split(",")):
            for n in map(int, a.chats.split(",")):
                rates, texts = {d: [] for d in ports}, {}
                for port in ports.values():
                    batch(port, prompt, n, 1)  # the prompt's pages are cached then
                predictions = None
                if kind == STORY_AGAIN:
                    predictions = [almost(text) for text in batch(ports[0], prompt, n, a.max_tokens)[1]]
                before = drafted(ports[a.draft_tokens])
                for _ in range(a.rounds):
                    for d, port in ports.items():
                        rate, texts[d] = batch(port, prompt, n, a.max_tokens, predictions)
                        rates[d].append(rate)
                if texts[0] != texts[a.draft_tokens]:
                    sys.exit("the answers differ")
                made, right = (y - x for x, y in zip(before, drafted(ports[a.draft_tokens])))
                plain, drafting = (statistics.median(rates[d]) for d in ports)
                print(f"{kind:8} {n:3} chats: {plain:6.0f} tokens/s, with drafts {drafting:6.0f} "
                      f"({drafting / plain:.2f} x), {right / made if made else 0:.0%} of {made:.0f} right", flush=True)


if __name__ == "__main__":
    main()
