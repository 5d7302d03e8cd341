#!/usr/bin/env python3
"""What it costs that answers keep to a form: tokens per second of N chats at once, free and with several forms.

    tests/bench/structured.py -m models/cache/SmolLM2-135M-Instruct.Q4_1.gguf --chats 1,16

One server is asked in turn for each kind; prints medians of some rounds, and how they stand to the free ones.
"""
import argparse
import concurrent.futures
import contextlib
import http.client
import json
import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import bench  # noqa: E402

PLACE = {"type": "object", "additionalProperties": False, "required": ["name", "tags", "kind", "visitors", "at", "near"],
         "properties": {
             "name": {"type": "string"}, "tags": {"type": "array", "maxItems": 5, "items": {"type": "string"}},
             "kind": {"enum": ["tower", "house", "ruin"]}, "visitors": {"type": "integer", "minimum": 0},
             "at": {"type": "object", "required": ["lat", "lon", "note"], "properties": {
                 "lat": {"type": "number"}, "lon": {"type": "number"}, "note": {"type": "string", "maxLength": 200}}},
             "near": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}}
def many(items):
    """JSON that does not come to its end while it is measured."""
    return {"json_schema": {"type": "array", "minItems": 1000, "items": items}}


FORMS = {"free": {}, "objects": many({"type": "object", "additionalProperties": True}), "schema": many(PLACE),
         "regex": {"guided_regex": "([A-Z][a-z]{2,12}( [a-z]{1,12}){4,14}[.,!?] )+"}}


def ask(port, form, seed, max_tokens):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    c.request("POST", "/v1/chat/completions",
              json.dumps({"messages": [{"role": "user", "content": "Describe a lighthouse as JSON, with its name and place."}],
                          "seed": seed, "max_tokens": max_tokens, "temperature": 0.8, "ignore_eos": True, **FORMS[form]}),
              {"Content-Type": "application/json"})
    return json.loads(c.getresponse().read())["usage"]["completion_tokens"]


def rate(port, form, n, max_tokens, seed):
    """Tokens per second of n chats at once."""
    with concurrent.futures.ThreadPoolExecutor(n) as pool:
        start = time.monotonic()
        made = sum(pool.map(lambda i: ask(port, form, seed + i, max_tokens), range(n)))
        return made / (time.monotonic() - start)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--chats", default="1,16")
    parser.add_argument("--forms", default=",".join(FORMS))
    parser.add_argument("--max_tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--port", type=int, default=18438)
    parser.add_argument("--threads", type=int, default=0)
    a = parser.parse_args()
    with contextlib.ExitStack() as stack:
        command = ["build/duetto", "serve", "-m", a.model, "--port", str(a.port), "--draft_tokens", "0", "--threads",
                   str(a.threads), "--log_level", "off"]
        stack.enter_context(bench.serving(command, a.port, "/health"))
        for n in map(int, a.chats.split(",")):
            rates = {form: [] for form in a.forms.split(",")}
            for form in rates:
                rate(a.port, form, n, 1, 0)  # the prompt's pages are cached then
            for r in range(a.rounds):
                for form, of in rates.items():
                    of.append(rate(a.port, form, n, a.max_tokens, 1000 * r))
            free = statistics.median(next(iter(rates.values())))
            for form, of in rates.items():
                m = statistics.median(of)
                print(f"{n:3d} chats, {form:8s} {m:8.1f} tokens/s  {m / free:6.3f}", flush=True)


if __name__ == "__main__":
    main()
