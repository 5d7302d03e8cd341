#!/usr/bin/env python3
"""What the CUDA kernels' accesses cost, counted where their PTX is executed (tests/ptxvm).

Runs kcheck on the virtual machine, with activations of f32, f16 and bf16, and counts, for every access of a warp, the sectors of 32 bytes of global
memory and the turns of shared memory's banks, beside the least that the same bytes could do with.  kcheck's
tensors are small and begin 4 bytes off on purpose, so a row of its own costs a sector more than in a model.
Writes kernels/cuda/accesses.txt, which `make cuda-report` puts into docs/CUDA.md.
usage: cuda_accesses.py [--build build] [--write] [NAME ...]      NAME: of kcheck's checks; none: all of them
"""
import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

import cuda_gate

TABLE = cuda_gate.ROOT / "kernels/cuda/accesses.txt"
MORE = 1.1  # a kernel may become worse by so much before it is told


def count(build, check, kind, blas_rows=0):
    """{kernel: [launches, accesses, sectors, least sectors, turns, least turns]} of one check, "" for all."""
    with tempfile.NamedTemporaryFile("r", suffix=".txt") as f:
        env = {**os.environ, "PTXVM_ACCESSES": f.name, "PTXVM_PTX": f"{build}/ptxvm/kernels/cuda",
               "LD_LIBRARY_PATH": f"{build}/cuda-emu"}
        subprocess.run([f"{build}/ptxvm/kcheck", "--device", "cuda:0", "--activations", kind,
                        "--blas_rows", str(blas_rows), *([check] if check else [])],
                       env=env, check=True, stdout=subprocess.DEVNULL)
        rows = [line.rstrip("\n").split("\t") for line in f]
    names = cuda_gate.demangle([r[0] for r in rows])
    return {cuda_gate.shown(names[r[0]]): [int(v) for v in r[1:]] for r in rows}


def count_all(build, checks):
    """The same of several, added; and of those that only products by cuBLASLt have."""
    total = {}
    for check in checks or [""]:
        for kind in cuda_gate.ACTIVATIONS.values():
            for name, values in count(build, check, kind).items():
                total[name] = [a + b for a, b in zip(total.get(name, [0] * len(values)), values)]
    if not checks or "linear" in checks:
        by_library = {**count(build, "linear", "f16", 1), **count(build, "linear", "bf16", 1)}
        total = {**by_library, **total}
    return total


def ratio(part, least):
    return part / least if least else 0.0


def lines_of(counts):
    head = ["# written by tools/cuda_accesses.py --write: kcheck's launches as PTX",
            "# kernel, launches, accesses, sectors, least sectors, turns of banks, least turns"]
    return head + [f"{name:34} " + " ".join(f"{v:10}" for v in values)
                   for name, values in sorted(counts.items())]


def read():
    """The table: {kernel: the numbers}."""
    if not TABLE.exists():
        return {}
    return {line[:34].strip(): [int(v) for v in line[34:].split()]
            for line in TABLE.read_text().splitlines() if line and not line.startswith("#")}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default="build")
    parser.add_argument("--write", action="store_true", help="renew the table")
    parser.add_argument("checks", nargs="*", metavar="NAME")
    args = parser.parse_args()
    counts, old, worse = count_all(args.build, args.checks), read(), 0
    if args.write:
        old = {**(old if args.checks else {}), **counts}
        TABLE.write_text("\n".join(lines_of(old)) + "\n")
    for name, now in sorted(counts.items()):
        if name not in old:
            print(f"{name}: not in {TABLE.name}")
            worse += 1
            continue
        for what, at in (("sectors", 2), ("turns of banks", 4)):
            was, is_ = ratio(*old[name][at:at + 2]), ratio(*now[at:at + 2])
            if is_ > MORE * was:
                print(f"{name}: {is_:.2f} times the least {what}, was {was:.2f}")
                worse += 1
    for name in sorted(cuda_gate.in_table() - counts.keys()) if not args.checks else ():
        if not name.startswith("sample_"):  # an op of its own program, tests/cuemu/sample.cu
            print(f"{name}: no kcheck launches it")
            worse += 1
    print(f"{2 * len(counts) - worse} passed, {worse} failed")
    return int(worse > 0)


if __name__ == "__main__":
    sys.exit(main())
