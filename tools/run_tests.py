#!/usr/bin/env python3
"""Runs the test suites, prints one line a program and ends with `N passed, N failed`.

Suites: unit (cmocka), kcheck (kernels, natively and over SIMD Everywhere), cuda (the emulated device: bugs
planted for it, its host side, and kcheck on it), ptxvm (the virtual machine for PTX, and the CUDA kernels on it), golden
(cmocka), api (pytest);
when asked for: cuda-golden (the golden tests of models on the emulated device) takes minutes, and so do cuda-sanitize
(kcheck on it under sanitizers) and ptxvm-newer (ptxvm with the PTX of sm_90);
asan and tsan rebuild into build/address-undefined and build/thread and run a part of them there.
A program that dies counts as one failure more.  Exit code 1 when anything failed or nothing ran.
usage: run_tests.py [--build build] [--suite NAME]... [--match TEXT] [--verbose]
"""
import argparse
import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM_TIMEOUT_S, EMULATED_TIMEOUT_S = 900, 3600
DEFAULT = ["lint", "unit", "kcheck", "cuda", "ptxvm", "golden", "api", "asan", "tsan"]

# The golden tests on the emulated device, the longest first: their activations, and which of them suite cuda
# has time for.
TYPES = ("f32", "f16", "bf16")
EMULATED_GOLDEN = {"pipeline": (TYPES, ()), "lora": (("f32", "f16"), ()), "diffusion": (TYPES, ("f32",)),
                   "upscaler": (("f32",), ("f32",)), "llama": (TYPES, ("f32",)),
                   "control": (TYPES, TYPES), "blip": (("f32",), ("f32",)),
                   "bert": (("f32",), ("f32",)), "safety": (("f32",), ("f32",))}


def counts(text):
    """(passed, failed, skipped) from cmocka's, kcheck's or pytest's closing lines."""
    cmocka = re.findall(r"\[  PASSED  \] (\d+) test", text)
    if cmocka:
        failed = sum(int(n) for n in re.findall(r"\[  FAILED  \] (\d+) test\(s\), listed", text))
        skipped = sum(int(n) for n in re.findall(r"\[  SKIPPED \] (\d+) test\(s\), listed", text))
        return sum(int(n) for n in cmocka), failed, skipped
    tail = "\n".join(text.splitlines()[-3:])

    def find(word):
        found = re.search(rf"(\d+) {word}", tail)
        return int(found[1]) if found else 0

    return find("passed"), find("failed") + find("error"), find("skipped")


class Run:
    def __init__(self, args):
        self.args, self.passed, self.failed, self.skipped = args, 0, 0, 0

    def program(self, name, command, env=None, timeout_s=PROGRAM_TIMEOUT_S):
        """One test program; its output is shown only when something failed (or with --verbose)."""
        start = time.monotonic()
        try:
            done = subprocess.run([str(c) for c in command], cwd=ROOT, text=True, errors="replace",
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                  stdin=subprocess.DEVNULL, timeout=timeout_s,
                                  env={**os.environ, **(env or {})})
            out, code = done.stdout, done.returncode
        except subprocess.TimeoutExpired as e:
            out, code = (e.stdout or b"").decode(errors="replace"), "timeout"
        passed, failed, skipped = counts(out)
        if code != 0 and failed == 0:
            failed = 1
        if passed + failed + skipped == 0:
            failed = 1
            out += "\nno test was executed"
        self.passed += passed
        self.failed += failed
        self.skipped += skipped
        if failed or self.args.verbose:
            print(out)
        word = "FAIL" if failed else "ok"
        extra = f", {skipped} skipped" if skipped else ""
        print(f"{word:4} {name}: {passed} passed, {failed} failed{extra} "
              f"({time.monotonic() - start:.1f} s)", flush=True)

    def ends(self, name, command, code):
        """A program that must end with this code."""
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              timeout=PROGRAM_TIMEOUT_S)
        ok = done.returncode == code
        self.passed, self.failed = self.passed + ok, self.failed + (not ok)
        print(f"{'ok' if ok else 'FAIL':4} {name}: exit code {done.returncode}", flush=True)

    def make(self, *arguments):
        subprocess.run(["make", "--no-print-directory", "-j2", *arguments], cwd=ROOT, check=True,
                       stdout=subprocess.DEVNULL)

    def programs(self, folder, prefix, env=None):
        for path in sorted(pathlib.Path(ROOT, folder).glob("test_*")):
            if not path.suffix and self.args.match in path.name:
                self.program(f"{prefix}/{path.name.removeprefix('test_')}", [path], env)

    def lint(self):
        for script in ("tools/check_layers.py", "tools/check_complete.py"):
            self.program(script, [sys.executable, script])

    def unit(self):
        self.programs(f"{self.args.build}/tests/unit", "unit")

    def kcheck(self):
        for name in ("kcheck", "kcheck_simde"):
            self.program(name, [f"{self.args.build}/{name}"] +
                         ([self.args.match] if self.args.match else []))

    def cuda(self):
        emulated, thread = f"{self.args.build}/cuda-emu", "build/thread/cuda-emu/planted"
        self.program("cuda/planted", [f"{emulated}/planted"])
        self.program("cuda/sample", [f"{emulated}/sample"])
        self.program("cuda/several", [f"{emulated}/several"])
        self.programs(f"{emulated}/tests/cuda", "cuda")
        self.program("cuda/kcheck", [f"{emulated}/kcheck", "--device", "cuda:0"] +
                     ([self.args.match] if self.args.match else []))
        for halves in ("f16", "bf16"):
            self.program(f"cuda/kcheck of {halves}",
                         [f"{emulated}/kcheck", "--device", "cuda:0", "--activations", halves] +
                         ([self.args.match] if self.args.match else []))
        for count in ("1", "7"):  # who shares tiles of a product depends on it, and no bit does
            for op in ("linear", "conv2d"):
                if self.args.match in op:
                    self.program(f"cuda/kcheck on {count} multiprocessors, {op}",
                                 [f"{emulated}/kcheck", "--device", "cuda:0", "--activations", "f16", op],
                                 {"CUEMU_MULTIPROCESSORS": count})
        self.blas(emulated)
        self.emulated_golden("cuda/golden", quick=True)
        if shutil.which("nvcc") or pathlib.Path("/usr/local/cuda/bin/nvcc").exists():
            self.program("cuda/gate", ["make", "--no-print-directory", "-s", "-j2", "cuda-gate"])
        self.make("SANITIZE=thread", thread)
        for missing, code in (("none", 0), ("barrier", 66), ("syncwarp", 66)):
            self.ends(f"cuda/race of a missing {missing}", [thread, "race", missing], code)

    def blas(self, emulated):
        """Products by the emulated cuBLASLt, of one row and more."""
        env = {"LD_LIBRARY_PATH": emulated}
        if self.args.match in "linear":
            for halves in ("f16", "bf16"):
                self.program(f"cuda/kcheck of {halves} by cuBLASLt",
                             [f"{emulated}/kcheck", "--device", "cuda:0", "--activations", halves,
                              "--blas_rows", "1", "linear"], env)
        env.update(BACKEND="cuda:0", DUETTO_TEST_SHORT="1", ACTIVATIONS="f16", BLAS_ROWS="1")
        for name in ("llama", "diffusion"):
            if self.args.match in name:
                self.program(f"cuda/golden {name} by cuBLASLt",
                             [f"{emulated}/tests/golden/test_{name}"], env)
        if self.args.match in "llama":
            self.program("cuda/golden llama by cuBLASLt on two devices, with graphs",
                         [f"{emulated}/tests/golden/test_llama"],
                         {**env, "BACKEND": "cuda:0+cuda:1", "CUEMU_DEVICES": "2", "GRAPHS": "1"})

    def cuda_golden(self):
        self.emulated_golden("cuda-golden", quick=False)

    def emulated_golden(self, prefix, quick):
        """Two at a time, in the order of the table."""
        env = {"BACKEND": "cuda:0", "DUETTO_TEST_SHORT": "1"}
        wanted = [(name, activations) for name, types in EMULATED_GOLDEN.items()
                  if self.args.match in f"test_{name}" for activations in types[quick]]
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda run: self.program(
                f"{prefix} {run[0]} of {run[1]}",
                [f"{self.args.build}/cuda-emu/tests/golden/test_{run[0]}"],
                {**env, "ACTIVATIONS": run[1]}, EMULATED_TIMEOUT_S), wanted))

    def cuda_sanitize(self):
        # a fiber of the emulation is a thread to ThreadSanitizer: hundreds, each with a history
        env = {"TSAN_OPTIONS": "history_size=0 flush_memory_ms=2000"}
        for name in ("cuda-tsan", "cuda-asan"):
            folder = f"{self.args.build}/{name}"
            self.program(f"{name}/sample", [f"{folder}/sample"], env)
            for kind in ("f32", "f16", "bf16"):
                self.program(f"{name}/kcheck of {kind}",
                             [f"{folder}/kcheck", "--device", "cuda:0", "--activations", kind] +
                             ([self.args.match] if self.args.match else []), env)

    def ptxvm(self):
        self.programs(f"{self.args.build}/tests/ptxvm", "ptxvm")
        compiled = ROOT / self.args.build / "ptxvm"
        if not (compiled / "kcheck").exists():
            print("skip the CUDA kernels on it: nvcc is not here to make their PTX")
            return
        self.ptx(compiled, "CUDA", f"{self.args.build}/ptxvm/kernels/cuda")

    def ptx(self, compiled, name, folder):
        env = {"PTXVM_PTX": folder}
        self.program(f"ptxvm/sample of {name}", [compiled / "sample"], env)
        command = [compiled / "kcheck", "--device", "cuda:0"]
        self.program(f"ptxvm/kcheck of {name}",
                     command + ([self.args.match] if self.args.match else []), env)
        if self.args.match in "linear":
            self.program(f"ptxvm/kcheck of {name} around cuBLASLt",
                         command + ["--activations", "f16", "--blas_rows", "1", "linear"],
                         {**env, "LD_LIBRARY_PATH": f"{self.args.build}/cuda-emu"})
        # activations of halves: all but linear's many cases, or all when asked for
        ops = [self.args.match] if self.args.suite else [
            op for op in ("norm", "glu", "conv2d", "lowrank", "attn") if self.args.match in op]
        for kind in ("f16", "bf16"):
            for op in ops:
                self.program(f"ptxvm/kcheck of {name}, {kind} {op}",
                             command + ["--activations", kind] + ([op] if op else []), env)

    def ptxvm_newer(self):
        compiled = ROOT / self.args.build / "ptxvm"
        for folder in sorted(compiled.glob("sm_*")):
            ptx = folder / "kernels/cuda"
            self.program(f"ptxvm/kernels of {folder.name}",
                         [f"{self.args.build}/tests/ptxvm/test_kernels"], {"PTXVM_PTX": str(ptx)})
            self.ptx(compiled, folder.name, str(ptx))

    def golden(self):
        self.programs(f"{self.args.build}/tests/golden", "golden")

    def api(self, build=None, marks="", env=None):
        python = ROOT / "build/venv/bin/python"
        command = [python, "-m", "pytest", "-q", "tests/api"] + (["-x"] if self.args.fast else [])
        if self.args.match:
            command += ["-k", self.args.match]
        if marks:
            command += ["-m", marks]
        self.program("api" if not build else f"api ({build})", command,
                     {"DUETTO": f"{build or self.args.build}/duetto", **(env or {})})

    def asan(self):
        build = "build/address-undefined"
        targets = [f"{build}/tests/{p.relative_to(ROOT / 'tests').with_suffix('')}"
                   for p in ROOT.glob("tests/unit/test_*.c")]
        self.make("SANITIZE=address,undefined", f"{build}/duetto", *targets)
        self.programs(f"{build}/tests/unit", "asan/unit", {"DUETTO_TEST_SHORT": "1"})
        self.api(build, "asan", {"DUETTO_TEST_SHORT": "1"})

    def tsan(self):
        build = "build/thread"
        names = [n for n in ("pool", "job", "engine", "engine_image", "engine_models", "replicas")
                 if (ROOT / f"tests/unit/test_{n}.c").exists()]
        targets = [f"{build}/tests/unit/test_{n}" for n in names]
        self.make("SANITIZE=thread", *targets)
        self.programs(f"{build}/tests/unit", "tsan/unit", {"DUETTO_TEST_SHORT": "1"})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default="build")
    parser.add_argument("--suite", action="append",
                        choices=[*DEFAULT, "cuda-golden", "cuda-sanitize", "ptxvm-newer"])
    parser.add_argument("--match", default="")
    parser.add_argument("--fast", action="store_true", help="stop the API tests at the first failure")
    parser.add_argument("--verbose", action="store_true")
    run = Run(parser.parse_args())
    for suite in run.args.suite or DEFAULT:
        getattr(run, suite.replace("-", "_"))()
    skipped = f", {run.skipped} skipped" if run.skipped else ""
    print(f"{run.passed} passed, {run.failed} failed{skipped}")
    return 1 if run.failed or not run.passed else 0


if __name__ == "__main__":
    sys.exit(main())
