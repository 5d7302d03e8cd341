#!/usr/bin/env python3
"""Measures this build on this machine: the model alone, the server under chats, /health under wrk.
usage: bench.py [--build build] [--model FILE] [--threads N]
"""
import argparse
import contextlib
import pathlib
import re
import statistics
import subprocess
import sys
import time
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import load  # noqa: E402


@contextlib.contextmanager
def serving(command, port, ready):
    """Runs a server until the block ends; it is up when `ready` answers 200."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            time.sleep(0.1)
            if process.poll() is not None:
                raise SystemExit(f"{command[0]} ended with {process.returncode}")
            with contextlib.suppress(OSError):
                if urllib.request.urlopen(f"http://127.0.0.1:{port}{ready}").status == 200:
                    break
        yield process
    finally:
        process.terminate()
        process.wait()


def machine():
    text = pathlib.Path("/proc/cpuinfo").read_text()
    return f"{re.search('model name.*: (.*)', text)[1]}, {text.count('processor')} cores"


def show(n, rounds):
    middle = {key: statistics.median(r[key] for r in rounds) for key in rounds[0]}
    print(f"{n:3} chats at once: {middle['tokens_per_s']:7.1f} tokens/s, first token after "
          f"{middle['ttft_ms']:6.1f} ms, between tokens p50 {middle['itl_p50_ms']:5.1f} ms, "
          f"p99 {middle['itl_p99_ms']:5.1f} ms", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default="build")
    parser.add_argument("--model", default="models/cache/SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--threads", default="2")
    a = parser.parse_args()
    duetto, port = f"{a.build}/duetto", 8191
    print(machine(), flush=True)
    subprocess.run([duetto, "bench", "-m", a.model, "-p", "512", "-n", "128", "-b", "1,16",
                    "-t", a.threads], check=True)
    command = [duetto, "serve", "-m", a.model, "--port", str(port), "--threads", a.threads]
    with serving(command, port, "/health"):
        for n in (1, 4, 16):
            show(n, [load.chats(port, n, 64, seed=100 * r) for r in range(3)])
        wrk = subprocess.run(["wrk", "-t1", "-c32", "-d5s", f"http://127.0.0.1:{port}/health"],
                             check=True, capture_output=True, text=True).stdout
        print(f"/health: {re.search(r'Requests/sec: *([0-9.]+)', wrk)[1]} requests/s (wrk -t1 -c32)")


if __name__ == "__main__":
    main()
