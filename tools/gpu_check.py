#!/usr/bin/env python3
"""Everything that a machine with an NVIDIA GPU should run, in one command and under ten minutes.

kcheck on the device, golden models, the bits of an answer alone and under load, compute-sanitizer where it
is installed, then timings.  What takes a file that is not there is skipped, and said.
usage: gpu_check.py [--build build] [--device cuda:0] [--emulated]    --emulated: on tests/cuemu, without timings
"""
import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOLDEN = ("llama", "diffusion", "blip")
MODELS = ("models/cache/SmolLM2-135M-Instruct.Q4_1.gguf", "models/emoji-sd")
STEP_TIMEOUT_S = 240


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default="build")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--emulated", action="store_true")
    args = parser.parse_args()
    folder = ROOT / args.build / ("cuda-emu" if args.emulated else "cuda")
    failed = []

    def step(name, command, env=None):
        start = time.monotonic()
        print(f"== {name}", flush=True)
        try:
            code = subprocess.run([str(c) for c in command], cwd=ROOT, timeout=STEP_TIMEOUT_S,
                                  env={**os.environ, **(env or {})}).returncode
        except subprocess.TimeoutExpired:
            code = "timeout"
        print(f"== {name}: {'ok' if code == 0 else f'FAIL ({code})'}, "
              f"{time.monotonic() - start:.0f} s", flush=True)
        if code != 0:
            failed.append(name)

    if not args.emulated and shutil.which("nvidia-smi"):
        subprocess.run(["nvidia-smi", "-L"], check=False)
    step("kernels", [folder / "kcheck", "--device", args.device])
    for name in GOLDEN:
        step(f"golden {name}", [folder / f"tests/golden/test_{name}"], {"BACKEND": args.device})
    python = ROOT / "build/venv/bin/python"
    if python.exists():
        step("bits under load", [python, "-m", "pytest", "-q", "tests/api/test_load.py"],
             {"DUETTO": str(folder / "duetto"), "TEST_DEVICE": args.device})
    else:
        print("== bits under load: skipped, there is no build/venv")
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer and not args.emulated:
        for tool in ("memcheck", "racecheck", "synccheck"):
            step(tool, [sanitizer, "--tool", tool, "--error-exitcode", "9", folder / "kcheck",
                        "--device", args.device, "norm" if tool == "racecheck" else "conv2d"])
    else:
        print("== compute-sanitizer: skipped, it is not there")
    for model in MODELS if not args.emulated else ():
        if (ROOT / model).exists():
            step(f"timing of {model}", [folder / "duetto", "bench", "-m", model, "--device",
                                        args.device])
    print(f"{len(failed)} failed" + (f": {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
