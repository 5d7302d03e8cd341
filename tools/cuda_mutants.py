#!/usr/bin/env python3
"""Takes every barrier, syncwarp and wait for copies out of the CUDA kernels, one at a time: is it told?

Each mutant of a file is compiled to PTX and run by kcheck on the virtual machine (tests/ptxvm), which must stop or find
other numbers.  What survives is needed by nobody, or by something that no kcheck does; those of SPARED have a reason.
usage: cuda_mutants.py [--build build] [TEXT]      TEXT: part of FILE:LINE; none: all, 5 minutes of a core
"""
import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = pathlib.Path("kernels/cuda")
SYNC = re.compile(r"__syncthreads\(\);|__syncwarp\(\);|cuda_copy_wait<[^;]*>\(\);")
# Where a line that a mutant may lose stands: the file to compile, then what kcheck is asked.
RUNS = {
    "cuda_attn.cu": ("cuda_attn.cu", "--activations", "f16", "attn"),
    "cuda_attn_wide.cu": ("cuda_attn_wide.cu", "--activations", "f16", "attn"),
    "cuda_attn_paged.cu": ("cuda_attn_paged.cu", "attn_paged"),
    "cuda_conv.cu": ("cuda_conv.cu", "--activations", "f16", "conv2d"),
    "cuda_conv_f32.cu": ("cuda_conv_f32.cu", "conv2d"),
    "cuda_tile.cuh": ("cuda_conv.cu", "--activations", "f16", "conv2d"),
    "cuda_kv.cu": ("cuda_kv.cu", "rope_store"),
    "cuda_linear_f32.cu": ("cuda_linear_f32.cu", "linear"),
    "cuda_linear_few.cu": ("cuda_linear_few.cu", "linear"),
    "cuda_linear_x.cu": ("cuda_linear_x.cu", "linear"),
    "cuda_rope.cu": ("cuda_rope.cu", "rope"),
    "cuda_dialect.cuh": ("cuda_norm.cu", "norm"),
    "cuda_sample.cu": ("cuda_sample.cu",),  # the program sample
}
# Words of a line; why nothing can be told.
SPARED = {
    "loads do not move over it": "it is for the compiler",
    "cuda_copy_wait<0>": "the groups that are left are empty",
    "the chunk before is done": "each chunk has a tile, whose barriers do it too",
    "may be used again": "by a caller that does it twice; there is none",
}
TIMEOUT_S = 900


def mutants(text):
    """(file, line, how its source is without)"""
    for path in sorted((ROOT / FOLDER).glob("*.cu*")):
        lines = path.read_text().splitlines(keepends=True)
        for at, line in enumerate(lines):
            if SYNC.search(line) and text in f"{path.name}:{at + 1}":
                without = lines[:at] + [SYNC.sub("", line, count=1)] + lines[at + 1:]
                yield path.name, at + 1, line.strip(), "".join(without)


def ptx(folder, name, source):
    """Compiles the file of RUNS where `name` is `source`; a folder with it and all other PTX."""
    overlay = folder / "source" / FOLDER
    overlay.mkdir(parents=True)
    (overlay / name).write_text(source)
    file = RUNS[name][0]
    if file != name:
        (overlay / file).write_text((ROOT / FOLDER / file).read_text())
    nvcc = os.environ.get("NVCC", "/usr/local/cuda/bin/nvcc")
    to = folder / "ptx"
    to.mkdir()
    subprocess.run([nvcc, "-std=c++17", "-O3", f"-I{folder / 'source'}", f"-I{ROOT}", "-fmad=false", "-lineinfo",
                    "-ptx", "-arch=compute_80", "-o", to / file.replace(".cu", ".ptx"), overlay / file],
                   check=True, cwd=ROOT)
    return to


def told(build, name, source):
    """What was said of a mutant; "" when nothing was."""
    with tempfile.TemporaryDirectory() as folder:
        to = ptx(pathlib.Path(folder), name, source)
        for other in (build / "ptxvm" / FOLDER).glob("*.ptx"):
            if not (to / other.name).exists():
                (to / other.name).symlink_to(other)
        words = RUNS[name][1:]
        command = [build / "ptxvm/kcheck", "--device", "cuda:0", *words] if words else [build / "ptxvm/sample"]
        try:
            done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PTXVM_PTX": str(to)}, text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return "it does not end"
    if done.returncode == 0:
        return ""
    found = re.search(r"as PTX: (?:\S+ )?\(([^)]*)\): (.*)", done.stdout)
    return f"{found[2][:90]} ({found[1]})" if found else "other numbers"  # the line of source in ()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default="build")
    parser.add_argument("text", nargs="?", default="")
    args = parser.parse_args()
    count = {"told": 0, "SURVIVES": 0, "spared": 0}
    for name, at, line, source in mutants(args.text):
        why = next((w for words, w in SPARED.items() if words in line), "")
        said = "" if why else told(ROOT / args.build, name, source)
        word = "spared" if why else "told" if said else "SURVIVES"
        count[word] += 1
        print(f"{word:8} {name}:{at} {line}{': ' if why or said else ''}{why or said}", flush=True)
    print(f"{count['told']} passed, {count['SURVIVES']} failed, {count['spared']} spared")
    return int(count["SURVIVES"] > 0 or not count["told"])


if __name__ == "__main__":
    sys.exit(main())
