#!/usr/bin/env python3
"""Everything that a machine with an NVIDIA GPU should run, in one command and under ten minutes.

kcheck on the device, every family's golden tests, the server's answers against the CPU's, with CUDA graphs and without,
alone and under load, a model on two devices where there are two, timings, then compute-sanitizer where it is
installed.  Each step says PASS, FAIL or SKIP, whatever the others do; the exit status is 1 where one failed.  What takes a file that is not there is skipped, and said.
usage: gpu_check.py [--build build] [--device cuda:0] [--emulated]
--emulated: the same script on tests/cuemu, with less of each step, so that no line of it is new to a GPU
"""
import argparse
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOLDEN = ("llama", "bert", "blip", "diffusion", "control", "lora", "pipeline", "safety", "upscaler")
GOLDEN_EMULATED = ("bert", "blip", "safety")
MODELS = ("models/cache/SmolLM2-135M-Instruct.Q4_1.gguf", "models/emoji-sd")
MODELS_EMULATED = ("tests/fixtures/tiny-llama.gguf",)
GOLDEN_RAN = r"\[  PASSED  \] [1-9]"  # cmocka's
SANITIZERS = {"memcheck": "conv2d", "racecheck": "norm", "synccheck": "conv2d"}  # tool: op of kcheck
STEP_TIMEOUT_S, ALL_S = 240, 600


class Check:
    def __init__(self, args):
        self.device, self.emulated = args.device, args.emulated
        self.start, self.results = time.monotonic(), []  # (name, "PASS", "FAIL" or "SKIP", why, seconds)
        self.folder = ROOT / args.build / ("cuda-emu" if args.emulated else "cuda")
        self.python = ROOT / args.build / "venv/bin/python"
        if not os.access(self.python, os.X_OK):
            self.python = ROOT / "build/venv/bin/python"

    def left_s(self):
        return ALL_S - (time.monotonic() - self.start)

    def told(self, name, word, why="", seconds=0.0):
        self.results.append((name, word, why, seconds))
        print(f"== {name}: {word}{f' ({why})' if why else ''}, {seconds:.0f} s", flush=True)

    def step(self, name, command, env=None, wanted=None):
        """Runs a command; it fails with its exit code, its time, or when it says nothing like `wanted`."""
        start, why, said = time.monotonic(), "", []
        print(f"== {name}", flush=True)
        if self.left_s() <= 0:
            self.told(name, "FAIL", f"not begun, {ALL_S} s are over")
            return
        try:
            with subprocess.Popen([str(c) for c in command], cwd=ROOT, env={**os.environ, **(env or {})},
                                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True, errors="replace",
                                  start_new_session=True) as process:
                over = threading.Timer(min(STEP_TIMEOUT_S, self.left_s()), self.end, [process])
                over.start()
                for line in process.stdout:
                    print(line, end="", flush=True)
                    said.append(line)
                code = process.wait()
                if not over.is_alive():
                    why = "too long"
                elif code != 0:
                    why = f"exit code {code}"
                elif wanted and not re.search(wanted, "".join(said)):
                    why = "it ran no test"
                over.cancel()
                self.end(process)  # servers that a test left behind would keep the device's memory
        except OSError as e:
            why = str(e)
        self.told(name, "FAIL" if why else "PASS", why, time.monotonic() - start)

    @staticmethod
    def end(process):
        """The command and all that it started."""
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def skip(self, name, why):
        self.told(name, "SKIP", why)

    def pytest(self, name, file, only):
        if os.access(self.python, os.X_OK):
            self.step(name, [self.python, "-m", "pytest", "-q", f"tests/api/{file}", "-k", only],
                      {"DUETTO": str(self.folder / "duetto"), "TEST_DEVICE": self.device,
                       "CUDA_DUETTO": str(self.folder / "duetto")}, wanted=r"[1-9]\d* passed")
        else:
            self.skip(name, "there is no build/venv that may be read")

    def summary(self):
        """The last lines: what did not pass, and how long it took; the exit status."""
        count = {word: sum(r[1] == word for r in self.results) for word in ("PASS", "FAIL", "SKIP")}
        took = time.monotonic() - self.start
        print("==")
        for name, word, why, seconds in self.results:
            print(f"{word}  {seconds:4.0f} s  {name}{f': {why}' if why else ''}")
        print(f"{count['PASS']} passed, {count['FAIL']} failed, {count['SKIP']} skipped; {took:.0f} s" +
              (f", more than {ALL_S}" if took > ALL_S else ""), flush=True)
        return 1 if count["FAIL"] or not count["PASS"] or took > ALL_S else 0

    def kernels(self):
        for kind in ("f32", "f16", "bf16"):
            self.step(f"kernels of {kind}", [self.folder / "kcheck", "--device", self.device,
                                             "--activations", kind] + (["norm"] if self.emulated else []),
                      wanted=r"[1-9]\d* passed")

    def blas(self):
        """Products by cuBLASLt: kcheck, and prompts and pictures beside those of our own kernels."""
        env = {"LD_LIBRARY_PATH": self.folder} if self.emulated else {}
        halves = ["--cuda_activations", "f16"]
        for kind in ("f16",) if self.emulated else ("f16", "bf16"):
            self.step(f"products of {kind} by cuBLASLt",
                      [self.folder / "kcheck", "--device", self.device, "--activations", kind,
                       "--blas_rows", "1", "linear"], env, wanted=r"[1-9]\d* passed")
        for model in MODELS_EMULATED if self.emulated else MODELS:
            for rows in ("0", "16" if self.emulated else "128"):
                if os.path.exists(ROOT / model):
                    self.step(f"prompts of {model}, --cuda_blas_rows {rows}",
                              [self.folder / "duetto", "bench", "-m", model, "--device", self.device,
                               *halves, "--cuda_blas_rows", rows, "-n", "0"] +
                              (["-p", "16", "-r", "1"] if self.emulated else ["-p", "2048"]), env)

    def golden(self):
        for name in GOLDEN_EMULATED if self.emulated else GOLDEN:
            self.step(f"golden {name}", [self.folder / f"tests/golden/test_{name}"],
                      {"BACKEND": self.device}, wanted=GOLDEN_RAN)
        for name in () if self.emulated else ("llama", "diffusion"):
            for halves in ("f16", "bf16"):
                self.step(f"golden {name} of {halves}", [self.folder / f"tests/golden/test_{name}"],
                          {"BACKEND": self.device, "ACTIVATIONS": halves}, wanted=GOLDEN_RAN)

    def server(self):
        self.pytest("answers of the CPU, and graphs", "test_cuda.py",
                    "every_llama or chat_streams or graphs or picture_is")
        self.pytest("bits under load", "test_load.py",
                    "same_as_alone" if self.emulated else "same_as_alone or mixed or leave")

    def several(self):
        """One model on two devices."""
        pair, env, listed = "cuda:0+cuda:1", {"CUEMU_DEVICES": "2", "LD_LIBRARY_PATH": self.folder}, 2
        if not self.emulated:
            env, listed = {}, len(gpus())
        if listed < 2:
            self.skip("two devices", "there are none")
            return
        if not self.emulated:
            self.step("golden llama on two devices", [self.folder / "tests/golden/test_llama"],
                      {"BACKEND": pair}, wanted=GOLDEN_RAN)
        model = (MODELS_EMULATED if self.emulated else MODELS)[0]
        if os.path.exists(ROOT / model):
            self.step(f"timing of {model} on two devices",
                      [self.folder / "duetto", "bench", "-m", model, "--device", pair] +
                      (["-p", "40", "-n", "4", "-r", "1"] if self.emulated else []), env)

    def sanitizers(self):
        tool = shutil.which("compute-sanitizer")
        if self.emulated or not tool:
            self.skip("compute-sanitizer", "it is the device's" if self.emulated else "it is not installed")
            return
        for name, op in SANITIZERS.items():
            self.step(f"{name} of {op}", [tool, "--tool", name, "--error-exitcode", "9",
                                          self.folder / "kcheck", "--device", self.device, op])

    def timings(self):
        for model in MODELS_EMULATED if self.emulated else MODELS:
            if os.path.exists(ROOT / model):
                self.step(f"timing of {model}",
                          [self.folder / "duetto", "bench", "-m", model, "--device", self.device] +
                          (["-p", "16", "-n", "8", "-r", "1"] if self.emulated else []))
                self.step(f"ops of {model} beside what the device can do",
                          [self.folder / "duetto", "bench", "-m", model, "--device", self.device, "--ops"] +
                          (["-p", "16", "-n", "8", "-r", "1"] if self.emulated else []))
            else:
                self.skip(f"timing of {model}", "it is not there")


def gpus():
    """Lines of nvidia-smi, one a device; none where it is not installed."""
    try:
        return subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False,
                              timeout=60).stdout.splitlines()
    except (OSError, subprocess.TimeoutExpired):
        return []


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default="build")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--emulated", action="store_true")
    check = Check(parser.parse_args())
    if not check.emulated:
        print("\n".join(gpus()) or "nvidia-smi lists no device", flush=True)
    for part in (check.kernels, check.blas, check.golden, check.server, check.several, check.timings,
                 check.sanitizers):  # the slowest comes last
        part()
    return check.summary()


if __name__ == "__main__":
    sys.exit(main())
