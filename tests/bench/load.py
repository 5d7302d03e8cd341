"""Streams N chats at once from an OpenAI-style server and measures what clients see."""
import asyncio
import json
import random
import time

WORDS = ("the river house green mountain light never second window paper story could music small "
         "great under water night").split()


def prompt(seed, n_words=50):
    rng = random.Random(seed)
    words = " ".join(rng.choice(WORDS) for _ in range(n_words))
    return "Continue this list of words for as long as you can: " + words


async def one_chat(port, seed, max_tokens, n_words=50):
    """(seconds to the first token, gaps between tokens, number of tokens)."""
    body = json.dumps({
        "messages": [{"role": "user", "content": prompt(seed, n_words)}], "max_tokens": max_tokens,
        "stream": True, "temperature": 0, "ignore_eos": True, "cache_prompt": False,
        "stream_options": {"include_usage": True}}).encode()
    start = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                 b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    times, tokens = [], 0
    while line := await reader.readline():
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
        if event.get("choices") and event["choices"][0]["delta"].get("content"):
            times.append(time.perf_counter())
    writer.close()
    if not times:
        raise RuntimeError("a chat ended without any text")
    return times[0] - start, [b - a for a, b in zip(times, times[1:])], tokens


def chats(port, n, max_tokens, seed=0):
    """n chats at once: dict of tokens_per_s, ttft_ms (mean), itl_p50_ms, itl_p99_ms."""
    async def run():
        return await asyncio.gather(*[one_chat(port, seed + i, max_tokens) for i in range(n)])
    start = time.perf_counter()
    results = asyncio.run(run())
    seconds = time.perf_counter() - start
    gaps = sorted(gap for _, g, _ in results for gap in g)
    return {
        "tokens_per_s": sum(r[2] for r in results) / seconds,
        "ttft_ms": 1000 * sum(r[0] for r in results) / n,
        "itl_p50_ms": 1000 * gaps[len(gaps) // 2],
        "itl_p99_ms": 1000 * gaps[int(len(gaps) * 0.99)],
    }
