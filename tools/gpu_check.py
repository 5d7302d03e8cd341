#!/usr/bin/env python3
"""Everything that a machine with an NVIDIA GPU should run, in one command and under ten minutes.

kcheck on the device, every family's golden tests, the server's answers against the CPU's, with CUDA graphs and without,
alone and under load, a model on two devices where there are two, compute-sanitizer where it is installed, then
timings.  What takes a file that is not there is skipped, and said.
usage: gpu_check.py [--build build] [--device cuda:0] [--emulated]
--emulated: the same script on tests/cuemu, with less of each step, so that no line of it is new to a GPU
"""
import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOLDEN = ("llama", "bert", "blip", "diffusion", "control", "lora", "pipeline", "safety", "upscaler")
GOLDEN_EMULATED = ("bert", "blip", "safety")
MODELS = ("models/cache/SmolLM2-135M-Instruct.Q4_1.gguf", "models/emoji-sd")
MODELS_EMULATED = ("tests/fixtures/tiny-llama.gguf",)
SANITIZERS = {"memcheck": "conv2d", "racecheck": "norm", "synccheck": "conv2d"}  # tool: op of kcheck
STEP_TIMEOUT_S, ALL_S = 240, 600


class Check:
    def __init__(self, args):
        self.device, self.emulated, self.failed = args.device, args.emulated, []
        self.folder = ROOT / args.build / ("cuda-emu" if args.emulated else "cuda")
        self.python = ROOT / args.build / "venv/bin/python"
        if not self.python.exists():
            self.python = ROOT / "build/venv/bin/python"

    def step(self, name, command, env=None):
        start = time.monotonic()
        print(f"== {name}", flush=True)
        try:
            code = subprocess.run([str(c) for c in command], cwd=ROOT, timeout=STEP_TIMEOUT_S,
                                  env={**os.environ, **(env or {})}).returncode
        except subprocess.TimeoutExpired:
            code = "timeout"
        except OSError as e:
            code = e
        print(f"== {name}: {'ok' if code == 0 else f'FAIL ({code})'}, "
              f"{time.monotonic() - start:.0f} s", flush=True)
        if code != 0:
            self.failed.append(name)

    def skip(self, name, why):
        print(f"== {name}: skipped, {why}", flush=True)

    def pytest(self, name, file, only):
        if self.python.exists():
            self.step(name, [self.python, "-m", "pytest", "-q", f"tests/api/{file}", "-k", only],
                      {"DUETTO": str(self.folder / "duetto"), "TEST_DEVICE": self.device,
                       "CUDA_DUETTO": str(self.folder / "duetto")})
        else:
            self.skip(name, "there is no build/venv")

    def kernels(self):
        self.step("kernels", [self.folder / "kcheck", "--device", self.device] +
                  (["norm"] if self.emulated else []))
        for halves in ("f16", "bf16"):
            self.step(f"kernels of {halves}", [self.folder / "kcheck", "--device", self.device,
                                               "--activations", halves, "norm" if self.emulated else ""])

    def golden(self):
        for name in GOLDEN_EMULATED if self.emulated else GOLDEN:
            self.step(f"golden {name}", [self.folder / f"tests/golden/test_{name}"],
                      {"BACKEND": self.device})

        if not self.emulated:
            self.step("golden diffusion of f16", [self.folder / "tests/golden/test_diffusion"],
                      {"BACKEND": self.device, "ACTIVATIONS": "f16"})

    def server(self):
        self.pytest("answers of the CPU, and graphs", "test_cuda.py",
                    "every_llama or chat_streams or graphs or picture_is")
        self.pytest("bits under load", "test_load.py",
                    "same_as_alone" if self.emulated else "same_as_alone or mixed or leave")

    def several(self):
        """One model on two devices."""
        pair, env, listed = "cuda:0+cuda:1", {"CUEMU_DEVICES": "2", "LD_LIBRARY_PATH": self.folder}, 2
        if not self.emulated:
            env, listed = {}, len(subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True,
                                                 check=False).stdout.splitlines())
        if listed < 2:
            self.skip("two devices", "there are none")
            return
        if not self.emulated:
            self.step("golden llama on two devices", [self.folder / "tests/golden/test_llama"],
                      {"BACKEND": pair})
        model = (MODELS_EMULATED if self.emulated else MODELS)[0]
        if (ROOT / model).exists():
            self.step(f"timing of {model} on two devices",
                      [self.folder / "duetto", "bench", "-m", model, "--device", pair] +
                      (["-p", "40", "-n", "4", "-r", "1"] if self.emulated else []), env)

    def sanitizers(self):
        tool = shutil.which("compute-sanitizer")
        if self.emulated or not tool:
            self.skip("compute-sanitizer", "it is not there" if not tool else "nothing to look at")
            return
        for name, op in SANITIZERS.items():
            self.step(name, [tool, "--tool", name, "--error-exitcode", "9", self.folder / "kcheck",
                             "--device", self.device, op])

    def timings(self):
        for model in MODELS_EMULATED if self.emulated else MODELS:
            if (ROOT / model).exists():
                self.step(f"timing of {model}",
                          [self.folder / "duetto", "bench", "-m", model, "--device", self.device] +
                          (["-p", "16", "-n", "8", "-r", "1"] if self.emulated else []))
            else:
                self.skip(f"timing of {model}", "it is not there")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default="build")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--emulated", action="store_true")
    check = Check(parser.parse_args())
    start = time.monotonic()
    if not check.emulated and shutil.which("nvidia-smi"):
        subprocess.run(["nvidia-smi", "-L"], check=False)
    for part in (check.kernels, check.golden, check.server, check.several, check.sanitizers,
                 check.timings):
        part()
    took = time.monotonic() - start
    print(f"{len(check.failed)} failed" + (f": {', '.join(check.failed)}" if check.failed else "") +
          f"; {took:.0f} s" + (f", more than {ALL_S}" if took > ALL_S else ""))
    return 1 if check.failed or took > ALL_S else 0


if __name__ == "__main__":
    sys.exit(main())
