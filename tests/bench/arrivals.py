#!/usr/bin/env python3
"""Prompts of several lengths that come together or while others are computed: milliseconds to the first token.

Two builds are run side by side and asked in turn, so that a noisy machine is noisy for both.
usage: arrivals.py [--builds build,other/build] [-m FILE] [--rounds 5] [--threads 2]
"""
import argparse
import asyncio
import contextlib
import pathlib
import statistics
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import bench  # noqa: E402
import load  # noqa: E402

PORT, TOKENS = 8192, 24
CASES = {  # chats: (words, seconds after the first)
    "1 of 2000 words, then 8 of 50": [(2000, 0)] + [(50, .3)] * 8,
    "4 of 800, then 4 of 20": [(800, 0)] * 4 + [(20, .2)] * 4,
    "8 of 200": [(200, 0)] * 8,
    "16 of 20": [(20, 0)] * 16,
}


async def late_chat(port, seed, words, seconds):
    await asyncio.sleep(seconds)
    return 1000 * (await load.one_chat(port, seed, TOKENS, words))[0]


async def chats(port, seed, case):
    return await asyncio.gather(*[late_chat(port, seed + i, *c) for i, c in enumerate(case)])


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--builds", default="build")
    a.add_argument("-m", default="models/cache/SmolLM2-135M-Instruct.Q4_1.gguf")
    a.add_argument("--rounds", type=int, default=5)
    a.add_argument("--threads", default="2")
    a = a.parse_args()
    builds = dict(enumerate(a.builds.split(","), PORT))
    times = {(case, port): [] for case in CASES for port in builds}
    with contextlib.ExitStack() as stack:
        for port, build in builds.items():
            stack.enter_context(bench.serving(
                [f"{build}/duetto", "serve", "-m", a.m, "--port", str(port), "--threads", a.threads,
                 "--log_level", "error"], port, "/health"))
            load.chats(port, 4, 8)  # warm
        for r in range(a.rounds):
            for case, port in times:
                times[case, port].append(asyncio.run(chats(port, 1000 * r, CASES[case])))
    for (case, port), rounds in times.items():
        first, last, mean = (statistics.median(f(r) for r in rounds) for f in (
            lambda r: r[0], lambda r: statistics.mean(r[-4:]), statistics.mean))
        print(f"{case:30} {builds[port]:24} the first {first:5.0f} ms, the last four {last:5.0f}, all {mean:5.0f}")


main()
