#!/usr/bin/env python3
"""Rooflines of the CUDA kernels on paper: writes the tables of docs/CUDA.md.

A kernel's time is the longest of what it reads and writes, what it multiplies, and what is in flight; a
launch costs 1.3 us even in a graph.  Registers and occupancy are those of kernels/cuda/resources.txt;
sectors and turns of banks those of kernels/cuda/accesses.txt.
usage: cuda_report.py [--check]
"""
import argparse
import pathlib
import sys
import typing

import cuda_accesses
import cuda_gate

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOC = ROOT / "docs/CUDA.md"
BEGIN, END = "<!-- tables: make cuda-report -->", "<!-- end -->"
LAUNCH_S = 1.3e-6
CLOCK_HZ = 1.75e9   # of multiprocessors, about
LATENCY_S = 0.7e-6  # of a load, under load
STREAM = 0.92       # of the memory's speed that streaming reaches at best

# bytes/s, dense fp16 flop/s, of which mma.sync reaches, multiprocessors, architecture
GPUS = {
    "A100": (2.039e12, 312e12, 0.85, 108, "80"),
    "H100": (3.35e12, 989e12, 0.62, 132, "90"),
    "H200": (4.8e12, 989e12, 0.62, 132, "90"),
    "B200": (8.0e12, 2250e12, 0.45, 148, "100"),
}
# What part of the peak cuBLASLt is assumed to reach in wide matrices: no GPU has been asked.
BLAS = {"A100": 0.85, "H100": 0.70, "H200": 0.70, "B200": 0.70}
# The goals for H100 (fractions of the roofline).
GOALS = {"batch-1 decode, f16": (0.80, 0.88), "batch-1 decode, q8_0": (0.72, 0.80),
         "batch-1 decode, q4_k": (0.60, 0.70), "decode of 32 rows, q4_k": (0.75, 0.85),
         "decode of 32 rows, f16": (0.75, 0.85), "prefill of 2048, q4_k": (0.55, 0.65),
         "prefill of 2048, f16": (0.55, 0.65), "SD 1.5 step, 512 x 512": (0.35, 0.45),
         "SDXL step, 1024 x 1024": (0.50, 0.58)}
# Instructions that a warp issues for each product of mma.m16n8k16 in the loop of linear_many_kernel<.., 128>, all
# counted in sm_90's machine code, and the cycles that such a product takes at the peak.
ISSUED = {"f16": 2.1, "q8_0": 6.7, "q4_k": 10.9}
MMA_FLOPS = 2 * 16 * 8 * 16
BITS = {"f16": 16.0, "q8_0": 8.5, "q4_k": 4.625}


class Llama(typing.NamedTuple):
    layers: int
    dim: int
    kv: int  # of keys and of values
    hidden: int
    vocabulary: int

    def parameters(self):
        layer = self.dim * (2 * self.dim + 2 * self.kv) + 3 * self.dim * self.hidden
        return self.layers * layer + self.vocabulary * self.dim


LLAMA_8B = Llama(32, 4096, 1024, 14336, 128256)
LLAMA_1B = Llama(22, 2048, 256, 5632, 32000)  # tools/make_bench_model.py


def resources():
    rows = {}
    for line in cuda_gate.TABLE.read_text().splitlines():
        if not line.startswith("#"):
            name, rest = line[:34].strip(), line[34:].split()
            rows[name, rest[0].removeprefix("sm_")] = [int(v) for v in rest[1:]]
    return rows


def in_flight(kernel, arch, table, stage_bytes, stages):
    """Bytes of weights that a multiprocessor waits for at a time."""
    blocks = table[kernel, arch][3]
    return blocks * stage_bytes * (stages - 1)


def product_reach(gpu, kind):
    """What part of the peak products of many rows reach: tensor cores, or a multiprocessor's four schedulers."""
    _, flops, mma, sms, _ = GPUS[gpu]
    cycles = MMA_FLOPS * 4 * sms * CLOCK_HZ / flops  # of one mma at the peak
    return 0.8 * min(mma, cycles / ISSUED[kind])


def matrix_s(gpu, kind, rows, n_out, n_in, parts, few_flight):
    """One product: bytes of weights, x and results against multiplications."""
    speed, flops, _, sms, _ = GPUS[gpu]
    bits = BITS[kind]
    bytes_ = n_out * n_in * bits / 8
    extra = rows * (n_in * 2 * parts + n_out * 4)
    reach = min(STREAM, few_flight * sms / (speed * LATENCY_S)) if rows <= 8 else STREAM * 0.95
    columns = max(8, -(-rows // 8) * 8)
    compute = 2 * columns * n_out * n_in * parts / (flops * product_reach(gpu, kind))
    return max((bytes_ + extra) / (speed * reach), compute)


def blas_s(gpu, kind, rows, n_out, n_in):
    """The same by cuBLASLt: blocks become rows of halves, which are written and read, and sums become results."""
    speed, flops, *_ = GPUS[gpu]
    unpacked = n_out * n_in * (BITS[kind] / 8 + 2)
    around = rows * (n_in * 4 + n_out * 12)
    return 2 * rows * n_out * n_in / (flops * BLAS[gpu]) + (unpacked + around) / (speed * STREAM)


def llama(gpu, kind, rows, table, m=LLAMA_8B, context=1024, blas=False):
    """(times by part, roofline) of a step of rows sequences with `context` tokens, or of a prompt of `rows`."""
    speed, flops, mma, _, arch = GPUS[gpu]
    bits, parts = BITS[kind], 2 if kind == "f16" else 1
    types = {name: v for name, *v in cuda_gate.types().values()}
    _, _, head, step = types[kind]
    few = f"linear_few_kernel<{kind}, {parts}>"
    flight = in_flight(few, arch, table, 4 * (head + step), 8 if step < 1500 else 4)
    prompt = rows > 64
    products = 0.0
    for n_out, n_in in ((m.dim + 2 * m.kv, m.dim), (m.dim, m.dim), (2 * m.hidden, m.dim),
                        (m.dim, m.hidden)):
        products += m.layers * (blas_s(gpu, kind, rows, n_out, n_in) if blas else
                                matrix_s(gpu, kind, rows, n_out, n_in, parts, flight))
    products += matrix_s(gpu, kind, 1 if prompt else rows, m.vocabulary, m.dim, parts, flight)
    context = rows / 2 if prompt else context
    kv_bytes = m.layers * 2 * m.kv * 2 * context * (rows / 16 if prompt else rows)
    attention_flops = m.layers * 4 * rows * context * m.dim
    attention = max(kv_bytes / (speed * 0.7), 2 * attention_flops / (flops * mma * 0.35))
    activations = m.layers * rows * 4 * (12 * m.dim + 4 * m.hidden)
    launches = m.layers * (26 if blas else 10) + 4
    ideal_bytes = m.parameters() * bits / 8 + (0 if prompt else kv_bytes)
    ideal = max(ideal_bytes / speed, (2 * m.parameters() * rows + attention_flops) / flops)
    return {"products": products, "attention": attention, "activations": activations / (speed * 0.8),
            "launches": launches * LAUNCH_S}, ideal


def image(gpu, conv, linear, attention, weights, launches, parts):
    """A guided step: GMAC of each kind.  parts: halves of f32 activations, 1: of those that are halves."""
    speed, flops, mma, _, _ = GPUS[gpu]
    conv_s = 2e9 * conv * parts / (flops * mma * 0.7)
    linear_s = 2e9 * linear * parts / (flops * mma * 0.7)
    attention_s = 2e9 * attention * (3 if parts == 2 else 1) / (flops * mma * 0.5)
    move_s = 3 * parts * weights / speed  # feature maps go by several times
    ideal = max(2e9 * (conv + linear + attention) / flops, weights / speed)
    return {"products": conv_s + linear_s + weights / (speed * STREAM), "attention": attention_s,
            "activations": move_s, "launches": launches * LAUNCH_S}, ideal


PHASES = {}
for kind_ in ("f16", "q8_0", "q4_k"):
    PHASES[f"batch-1 decode, {kind_}"] = lambda g, t, k=kind_: llama(g, k, 1, t)
for kind_ in ("f16", "q4_k"):
    PHASES[f"decode of 32 rows, {kind_}"] = lambda g, t, k=kind_: llama(g, k, 32, t)
    PHASES[f"prefill of 2048, {kind_}"] = lambda g, t, k=kind_: llama(g, k, 2048, t)
for kind_ in ("f16", "q4_k"):
    PHASES[f"prefill of 2048, {kind_}, --cuda_blas_rows 128"] = (
        lambda g, t, k=kind_: llama(g, k, 2048, t, blas=True))
PHASES["SD 1.5 step, 512 x 512"] = lambda g, t: image(g, 418, 257, 128, 1.72e9, 1600, 2)
PHASES["SDXL step, 1024 x 1024"] = lambda g, t: image(g, 1623, 4327, 811, 5.12e9, 4500, 2)
# without the launches that make halves of a convolution's x, three each
PHASES["SD 1.5 step, --cuda_activations f16"] = lambda g, t: image(g, 418, 257, 128, 1.72e9, 1450, 1)
PHASES["SDXL step, --cuda_activations f16"] = lambda g, t: image(g, 1623, 4327, 811, 5.12e9, 4400, 1)

# What an H200 took for a step (docs/CUDA.md, "On an H200"), in ms, before products had tiles of 128 x 128.
MEASURED = {
    "1.1B F16, prompt of 512": (16.96, lambda t: llama("H200", "f16", 512, t, LLAMA_1B)),
    "1.1B Q4_K, prompt of 512": (19.04, lambda t: llama("H200", "q4_k", 512, t, LLAMA_1B)),
    "1.1B F16, decode of 32": (4.53, lambda t: llama("H200", "f16", 32, t, LLAMA_1B, 64)),
    "1.1B Q4_K, decode of 32": (4.70, lambda t: llama("H200", "q4_k", 32, t, LLAMA_1B, 64)),
    "1.1B F16, decode of 1": (1.57, lambda t: llama("H200", "f16", 1, t, LLAMA_1B, 64)),
    "1.1B Q4_K, decode of 1": (1.82, lambda t: llama("H200", "q4_k", 1, t, LLAMA_1B, 64)),
    "SD 1.5 step, 512 x 512": (129.0, lambda t: PHASES["SD 1.5 step, 512 x 512"]("H200", t)),
}

# kernel, bytes that a call moves, multiplications, accesses to global memory
KERNELS = [
    ("linear_few_kernel<q4_k, 1>", "weights + x", "2 rows n_out n_in, padded to 8 rows",
     "cp.async of 16 B"),
    ("linear_few_kernel<q8_0, 1>", "weights + x", "the same", "the same"),
    ("linear_few_kernel<f16, 2>", "weights + x", "twice that (two halves)", "the same"),
    ("linear_many_kernel<q4_k, 1, 128>",
     "weights ceil(rows / 128) times from L2, x n_out / 128 times", "2 rows n_out n_in", "the same"),
    ("linear_many_kernel<f16, 2, 128>", "the same", "twice that", "the same"),
    ("linear_many_kernel<f16, 1, 128>", "the same, x of f16", "2 rows n_out n_in", "the same"),
    ("panel_unpack_kernel<q4_k>", "weights + 2 B an element out", "-", "16 B a lane"),
    ("panel_unpack_kernel<f16>", "the same", "-", "the same"),
    ("panel_store_kernel", "4 B of a sum in, 2 or 4 B out", "-", "16 B a lane; results 8 or 16 B"),
    ("linear_x_kernel<1, false, 0>", "6 B an element", "-",
     "16 B a lane where rows are aligned, else 4 x 4"),
    ("linear_x_kernel<1, false, 1>", "the same, with RMSNorm", "-", "the same"),
    ("linear_x_kernel<1, false, 3>", "10 B an element, with act(gate) * up", "-", "the same"),
    ("conv_kernel<f16, 2, 128>", "windows from L2, weights pixels / 128 times", "4 pixels c_out k k c_in",
     "cp.async of 16 B where c_in % 8 = 0"),
    ("conv_kernel<f16, 1, 128>", "the same, x of f16", "half of that", "the same"),
    ("dense_kernel<64, 32, f32>", "k and v n_q / 64 times from L2", "12 n_q n_k dims (3 products)",
     "4 B a lane"),
    ("dense_kernel<64, 64, f16>", "the same", "4 n_q n_k dims (1 product)", "cp.async of 16 B"),
    ("dense_kernel<64, 64, bf16>", "the same", "6 n_q n_k dims (two halves of p)", "the same"),
    ("wide_kernel<512, f32>", "k and v n_q / 32 times from L2", "12 n_q n_k dims (3 products)",
     "cp.async of 16 B where rows are aligned, else 4 B a lane"),
    ("wide_kernel<512, f16>", "the same", "4 n_q n_k dims (1 product)",
     "the same, else 2 B a lane"),
    ("wide_kernel<512, bf16>", "the same", "6 n_q n_k dims (two halves of p)", "the same"),
    ("paged_kernel<16, true>", "pages once a task of 16 queries",
     "8 queries tokens dims (2 products)", "cp.async of 16 B"),
    ("paged_kernel<16, false>", "the same, q8_0 and f32 pages", "4 queries tokens dims in f32",
     "1 or 4 B a lane"),
    ("rope_store_kernel", "8 B an element of q and k, 8 B in and 4 out of k and v", "-",
     "4 B a lane; 8 B apart where interleaved"),
    ("kv_store_kernel", "8 B an element in, 4 out", "-", "4 B a lane"),
    ("norm_kernel<1>", "12 B an element, the second reading from L1", "-", "the same"),
    ("group_sums_kernel", "4 B an element", "-", "4 B a lane"),
    ("group_scale_kernel<true>", "8 B an element", "-", "16 B a lane"),
    ("elem_kernel<0, true>", "12 B an element", "-", "16 B a lane"),
    ("elem_kernel<2, true>", "12 B an element", "-", "16 B a lane"),
]


def measured(counts, name, at):
    """How often the least it was, where kcheck's launches were counted."""
    values = counts.get(name)
    if not values or not values[at + 1]:
        return "-"
    return f"{cuda_accesses.ratio(values[at], values[at + 1]):.2f}"


def kernel_table(table):
    counts = cuda_accesses.read()
    lines = ["| kernel | bytes | flops | global memory | sectors, counted | turns of banks, counted | "
             "registers | shared KiB | warps an SM (sm_80 / 90 / 100) |", "|---" * 9 + "|"]
    for name, *words in KERNELS:
        words += [measured(counts, name, 2), measured(counts, name, 4)]
        rows = [table[name, arch] for arch in cuda_gate.ARCHS]
        lines.append(f"| `{name}` | " + " | ".join(words) + f" | {rows[1][0]} | "
                     f"{rows[1][1] / 1024:.0f} | {' / '.join(str(r[4]) for r in rows)} |")
    return lines


def phase_table(table):
    lines = ["| phase | " + " | ".join(f"{g}: roofline, paper" for g in GPUS) +
             " | H100: fraction | goal |", "|---" * (len(GPUS) + 3) + "|"]
    for name, fn in PHASES.items():
        cells, fraction = [], 0.0
        for gpu in GPUS:
            parts, ideal = fn(gpu, table)
            time = sum(parts.values())
            cells.append(f"{ideal * 1e3:.2f}, {time * 1e3:.2f} ms")
            fraction = ideal / time if gpu == "H100" else fraction
        low, high = GOALS.get(name, (0, 0))
        goal = f"{low:.0%} - {high:.0%}" if high else "-"
        short = " (below)" if high and fraction < low else ""
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {fraction:.0%}{short} | {goal} |")
    return lines


def part_table(table):
    """Where the time of each phase goes."""
    names = ("products", "attention", "activations", "launches")
    lines = ["| H100, ms on paper | " + " | ".join(names) + " | all |", "|---" * (len(names) + 2) + "|"]
    for phase, fn in PHASES.items():
        parts, _ = fn("H100", table)
        cells = [f"{parts[n] * 1e3:.2f}" for n in names] + [f"{sum(parts.values()) * 1e3:.2f}"]
        lines.append(f"| {phase} | " + " | ".join(cells) + " |")
    return lines


def measured_table(table):
    """What the paper is worth."""
    lines = ["| H200 | paper | measured, tiles of 128 x 64 | times |", "|---" * 4 + "|"]
    for name, (ms, fn) in MEASURED.items():
        paper = sum(fn(table)[0].values()) * 1e3
        lines.append(f"| {name} | {paper:.2f} ms | {ms:.2f} ms | {ms / paper:.1f} |")
    return lines


def enough(tiles, sms):
    return 6 * tiles >= 5 * sms


def busy(sms, rows, n_out):
    """What part of the multiprocessors a product of many rows keeps busy: without tiles that blocks share, and with
    them (tile_columns and tile_plan_blocks of cuda_tile.cuh)."""
    tiles_of = lambda columns: -(-n_out // 128) * -(-rows // columns)
    columns = next((n for n in (128, 64) if rows > n // 2 and enough(tiles_of(n), sms)), 32)
    tiles = tiles_of(columns)
    left = tiles % sms
    slices, slots = 4 * left, sms * {32: 3, 64: 2, 128: 1}[columns]
    shared = not enough(left, sms) and slices <= 3 * slots
    turns = tiles // sms * 4 + (-(-slices // sms) if shared else 4 * bool(left))  # of a slice
    return tiles / (sms * -(-tiles // sms)), 4 * tiles / (sms * turns)


def busy_table():
    shapes = {"6144 outputs": 6144, "4096": 4096, "28672": 28672}
    cases = [(gpu, n) for gpu in ("H100", "B200") for n in shapes]
    lines = ["| rows | " + " | ".join(f"{gpu}, {n}" for gpu, n in cases) + " |", "|---" * (len(cases) + 1) + "|"]
    for rows in (32, 64, 128, 256, 512, 600, 1024, 2048):
        cells = ["{:.0%}, {:.0%}".format(*busy(GPUS[gpu][3], rows, shapes[n])) for gpu, n in cases]
        lines.append(f"| {rows} | " + " | ".join(cells) + " |")
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail if the tables are old")
    args = parser.parse_args()
    table, text = resources(), DOC.read_text()
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    new = before + BEGIN + "\n\n" + "\n".join(phase_table(table)) + "\n\n" + \
        "\n".join(part_table(table)) + "\n\n" + "\n".join(busy_table()) + "\n\n" + "\n".join(measured_table(table)) + "\n\n" + \
        "\n".join(kernel_table(table)) + "\n\n" + END + after
    if args.check:
        print("1 passed, 0 failed" if new == text else f"{DOC.name} is old\n0 passed, 1 failed")
        return int(new != text)
    DOC.write_text(new)
    print("\n".join(phase_table(table)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
