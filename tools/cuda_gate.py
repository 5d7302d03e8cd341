#!/usr/bin/env python3
"""The static gate of the CUDA kernels: what nvcc made of them, without a GPU.

Reads what ptxas wrote beside each object (build/cuda/kernels/cuda/*.o.log).  No kernel may spill or use
local memory; registers, shared memory and occupancy of each are compared with kernels/cuda/resources.txt.
Where cuobjdump and nvdisasm are found (in the toolkit, or in build/venv, where `make cuda-gate` puts them), the machine
code is looked at too: wide loads and tensor core instructions where they are promised.
usage: cuda_gate.py [--build build] [--write]
"""
import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
TABLE = ROOT / "kernels/cuda/resources.txt"
ARCHS = ("80", "90", "100")
# Of a multiprocessor: warps, blocks, registers, bytes of shared memory (1 KiB a block is reserved).
LIMITS = {"80": (64, 32, 65536, 164 << 10), "90": (64, 32, 65536, 228 << 10),
          "100": (64, 32, 65536, 228 << 10)}
ENTRY = re.compile(r"Compiling entry function '(\S+)' for 'sm_(\d+)\w?'")
SPILL = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")
STATIC = re.compile(r"(\d+) bytes smem")
LAYOUT = re.compile(r"X\(DTYPE_(\w+),((?:\s*\w+,){7})\s*(\w+),\s*(\w+)\)")
# Kernel: what its machine code must have.
PROMISED = {
    "linear_few_kernel": ("HMMA", r"LDGSTS\S*\.128", r"LDS\.128"),
    "linear_many_kernel": ("HMMA", r"LDGSTS\S*\.128", r"LDS\.128"),
    "conv_kernel": ("HMMA", r"LDGSTS\S*\.128", r"LDS\.128"),
    "dense_kernel": ("HMMA", "LDSM"),
    "wide_kernel": ("HMMA", r"LDGSTS\S*\.128", "LDSM"),
    "panel_unpack_kernel": (r"LDG\.E\.128", r"STG\.E\.128"),
    "elem_kernel<0, true>": (r"LDG\.E\.128", r"STG\.E\.128"),
}


def types():
    """Number of a type -> (name, group, step_k, head bytes, step bytes)."""
    numbers = dict(re.findall(r"DTYPE_(\w+) = (\d+)", (ROOT / "kernels/tensor.h").read_text()))
    found = {}
    for m in LAYOUT.finditer((ROOT / "kernels/cuda/cuda_layout.h").read_text()):
        low, high, group, step_k, _, head, scale = (int(v) for v in m[2].replace(" ", "").split(",")[:7])
        found[int(numbers[m[1]])] = (m[1].lower(), group, step_k, head, scale + 2 * (low + high) * step_k)
    return found


def shared_few(step_k, head, step, parts):
    w = head + step
    most = w + step_k // 64 * 8 * (32 + 128 * parts)
    return 4 * min(8, (80 << 10) // (4 * most)) * most


def tile(group, step_k, head, step, parts, columns):
    """As tile_shape of cuda_tile.cuh: threads, bytes."""
    stage = 8 * (head + step) + step_k // 64 * columns * (32 + 128 * parts)
    totals = columns * 128 * 4 if group else 0
    stages = min(((160 << 10) - totals) // stage, 3 if columns == 64 else 4)
    return 256 if columns == 128 else 128, totals + stages * stage


ACTIVATIONS = {0: "f32", 1: "f16", 30: "bf16"}  # enum dtype


def shared_dense(dims, keys, kind):
    return 2 * (dims + 8) * ((2 if ACTIVATIONS[kind] == "f32" else 1) * 64 + 4 * keys)


def shared_wide(dims, kind):
    f32, weights = ACTIVATIONS[kind] == "f32", 1 if ACTIVATIONS[kind] == "f16" else 2
    tiles = 16 * (4 * (2 * dims + 20) if f32 else 2 * (2 * dims + 24))
    return tiles + 4 * 8 * 32 * 16 + 2 * weights * 32 * 24 + 4 * 32


# Floats of a row that linear_x keeps, by what it makes (enum linear_pre_kind): LLaMA 3 8B's dim, its feed-forward.
X_ROW = {0: 0, 1: 4096, 2: 4096, 3: 14336}


def launch(name):
    """Threads of a block and dynamic shared memory at its largest, as the launchers ask for."""
    base = name.split("<")[0]
    numbers = [int(n) for n in re.findall(r"-?\d+", name[len(base):])]
    if base in ("linear_many_kernel", "conv_kernel"):
        return tile(*types()[numbers[0]][1:], *numbers[1:])
    if base == "linear_few_kernel":
        return 128, shared_few(*types()[numbers[0]][2:], numbers[1])
    if base == "linear_x_kernel":
        return 1024 if numbers[-1] in (0, 3) else 256, 4 * X_ROW[numbers[-1]]
    if base == "dense_kernel":
        return 128, shared_dense(*numbers[:3])
    if base == "wide_kernel":
        return 256, shared_wide(*numbers[:2])
    if base == "paged_kernel":
        dim = numbers[0] * 8
        if "true" in name:
            return 128, 64 * (dim + 8) + 4 * max(128 * (dim + 8), 64 * (dim + 2))
        return 128, 4 * (16 * dim + 32 * (dim + 1) + 16 * 257) + 128
    small = {"rope_kernel": 128, "kv_store_kernel": 128, "rope_store_kernel": 128,
             "paged_join_kernel": 128, "embed_kernel": 128, "linear_join_kernel": 128,
             "conv_join_kernel": 64, "embed_f32_kernel": 128,
             "low_down_kernel": 128, "low_up_kernel": 128, "group_sums_kernel": 128,
             "group_join_kernel": 32, "panel_unpack_kernel": 128, "panel_store_kernel": 128,
             "panel_test_kernel": 128}
    return small.get(base, 256), 0


def occupancy(arch, registers, threads, shared):
    """Blocks that fit a multiprocessor."""
    warps, blocks, all_registers, all_shared = LIMITS[arch]
    mine = (threads + 31) // 32
    by_registers = all_registers // (-(-registers * 32 // 256) * 256) // 4 * 4 // mine
    by_shared = all_shared // (shared + 1024)
    return min(blocks, warps // mine, by_registers, by_shared)


def demangle(names):
    out = subprocess.run(["c++filt"], input="\n".join(names), text=True, capture_output=True,
                         check=True).stdout.split("\n")
    short = {}
    for name, plain in zip(names, out):
        plain = re.sub(r"^void ", "", plain)
        plain = re.sub(r"\(int\)|\(bool\)", "", re.sub(r"\(elem_op\)", "", plain))
        depth, end = 0, len(plain)
        for i, c in enumerate(plain):
            depth += (c == "<") - (c == ">")
            if c == "(" and depth == 0:
                end = i
                break
        plain = plain[:end].replace("> >", ">>")
        short[name] = re.sub(r"(?:dense|wide)_shape<([\w, ]+)>", r"\1", plain)
    return short


def read_logs(build):
    """{(kernel, arch): (registers, static shared, stack + spills, object)}"""
    raw = {}
    for log in sorted(pathlib.Path(build, "cuda/kernels/cuda").glob("*.o.log")):
        key = None
        for line in log.read_text().splitlines():
            if m := ENTRY.search(line):
                key = (m[1], m[2])
                raw[key] = [0, 0, 0, log.with_suffix("")]
            elif key and (m := SPILL.search(line)):
                raw[key][2] = sum(int(v) for v in m.groups())
            elif key and (m := USED.search(line)):
                raw[key][0] = int(m[1])
                if s := STATIC.search(line):
                    raw[key][1] = int(s[1])
    names = demangle(sorted({k for k, _ in raw}))
    return {(names[k], arch): tuple(v) for (k, arch), v in raw.items()}


def shown(name):
    """The kernel's name with its type's, as the tables have it."""
    if name.startswith(("linear_few", "linear_many", "conv_kernel", "embed_kernel", "panel_unpack")):
        known = types()
        return re.sub(r"<(\d+)", lambda m: f"<{known[int(m[1])][0]}", name)
    if name.startswith(("dense_kernel", "wide_kernel")):
        return re.sub(r"(\d+)>", lambda m: f"{ACTIVATIONS[int(m[1])]}>", name)
    return name


def table(kernels):
    lines = []
    for (name, arch), (registers, static, _, _) in sorted(kernels.items(),
                                                         key=lambda k: (k[0][0], int(k[0][1]))):
        threads, dynamic = launch(name)
        blocks = occupancy(arch, registers, threads, static + dynamic)
        lines.append(f"{shown(name):34} sm_{arch:4} {registers:4} {static + dynamic:7} {threads:5} "
                     f"{blocks:4} {blocks * ((threads + 31) // 32):4}")
    return lines


def in_table():
    """The kernels of the table."""
    return {line[:34].strip() for line in TABLE.read_text().splitlines() if line and line[0] != "#"}


def nvcc_version():
    nvcc = os.environ.get("NVCC") or shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    out = subprocess.run([nvcc, "--version"], text=True, capture_output=True, check=True).stdout
    return re.search(r"release ([\d.]+)", out)[1]


def find_cuobjdump():
    places = [pathlib.Path(p) for p in os.environ.get("PATH", "").split(":")]
    places += [pathlib.Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"), "bin")]
    for base in [*sys.path, *ROOT.glob("build/venv/lib/python*/site-packages")]:
        places += pathlib.Path(base or ".").glob("nvidia/*/bin")
    return next((p / "cuobjdump" for p in places
                 if (p / "cuobjdump").exists() and (p / "nvdisasm").exists()), None)


def machine_code(tool, path, arch):
    """{mangled kernel: its instructions}"""
    out = subprocess.run([tool, "-sass", "-arch", f"sm_{arch}", path], text=True,
                         capture_output=True, env={**os.environ, "PATH": f"{tool.parent}:"
                                                   f"{os.environ.get('PATH', '')}"},
                         check=True).stdout
    kernels, name = {}, None
    for line in out.splitlines():
        if m := re.search(r"Function : (\S+)", line):
            name = m[1]
            kernels[name] = []
        elif name and (m := re.search(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z][\w.]*)", line)):
            kernels[name].append(m[1])
    return kernels


def check_machine_code(kernels, arch="90"):
    """(how many were looked at, what is wrong)"""
    tool, wrong, seen = find_cuobjdump(), [], 0
    if not tool:
        return 0, []
    for path in sorted({v[3] for v in kernels.values()}):
        code = machine_code(tool, path, arch)
        names = demangle(sorted(code))
        for mangled, instructions in code.items():
            name, text = names[mangled], "\n".join(instructions)
            seen += 1
            if re.search(r"^(STL|LDL)", text, re.M):
                wrong.append(f"{name}: local memory in the machine code")
            for prefix, promised in PROMISED.items():
                for pattern in promised if name.startswith(prefix) else ():
                    plain = name.startswith(("linear", "conv")) and pattern == r"LDS\.128"
                    if not re.search(pattern, text) and not (plain and "LDS.64" in text):
                        wrong.append(f"{name}: no {pattern}")
    return seen, wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default="build")
    parser.add_argument("--write", action="store_true", help="renew the table")
    args = parser.parse_args()
    kernels = read_logs(args.build)
    wrong = [f"{name} sm_{arch}: {v[2]} bytes of local memory"
             for (name, arch), v in kernels.items() if v[2]]
    wrong += [f"{name} sm_{arch}: no block fits a multiprocessor" for (name, arch), v in
              kernels.items() if occupancy(arch, v[0], launch(name)[0], v[1] + launch(name)[1]) < 1]
    version = nvcc_version()
    head = [f"# nvcc {version}; written by tools/cuda_gate.py --write",
            "# kernel, architecture, registers, shared bytes, threads, blocks and warps of an SM"]
    lines = head + table(kernels)
    if args.write:
        TABLE.write_text("\n".join(lines) + "\n")
    old = TABLE.read_text().splitlines() if TABLE.exists() else []
    if old[:1] == lines[:1]:
        wrong += [f"not in {TABLE.relative_to(ROOT)}: {line}"
                  for line in lines if line not in set(old)]
    elif old:
        print(f"another nvcc than the table's: registers are not compared ({version})")
    seen, more = check_machine_code(kernels)
    wrong += more
    for line in wrong:
        print(line)
    print(f"{len(kernels)} kernels, machine code of {seen}")
    failed = len(wrong)
    print(f"{len(kernels) + seen - failed} passed, {failed} failed")
    return 1 if failed or not kernels else 0


if __name__ == "__main__":
    sys.exit(main())
