#!/usr/bin/env python3
"""Fails where a source file breaks a rule that a program can check.

Layers and private headers, one place for each third-party library, length of files, a comment at the
top, include guards, banned calls, and names that lead to their file.  Each file is one check.
usage: check_layers.py
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Who may include whom; the order is the picture of the design.
LAYERS = {
    "base": set(),
    "kernels": {"base"},
    "engine": {"kernels", "base"},
    "api": {"engine", "base"},
    "server": {"api", "engine", "base"},
    "tests": {"server", "api", "engine", "kernels", "base"},
}
# What a folder shows to the layers above; every other header is its own.
PUBLIC = {
    "kernels": {"kernels/backend.h", "kernels/ops.h", "kernels/tensor.h", "kernels/quant.h",
                "kernels/program.h", "kernels/team.h"},
    "engine": {"engine/engine.h", "engine/replicas.h", "engine/job.h", "engine/model.h", "engine/bench.h",
               "engine/noise.h", "engine/adapters.h", "engine/text/tokenizer.h", "engine/text/grammar.h",
               "engine/text/filter.h"},
    "api": {"api/api.h"},
}
# Third-party header (or how its name begins): the only files that may see it.
ONLY_IN = {
    "microhttpd.h": ("server/",),
    "uv.h": ("server/",),
    "cjson/": ("base/json.c",),
    "utf8proc.h": ("base/utf8.c",),
    "pcre2.h": ("engine/text/",),
    "png.h": ("base/codec_png.c",),
    "jpeglib.h": ("base/codec_jpeg.c",),
    "jerror.h": ("base/codec_jpeg.c",),
    "webp/": ("base/codec_webp.c",),
    "curl/": ("base/fetch.c",),
    "pthread.h": ("base/", "engine/engine", "engine/loader.", "engine/job.c", "api/responses_store.c", "kernels/cpu/pool.c"),
    "immintrin.h": ("kernels/cpu/vec_", "kernels/cpu/quant_"),
    "simde/": ("kernels/cpu/vec_", "kernels/cpu/quant_"),
    "cpuid.h": ("kernels/cpu/cpu_ops.c",),
    "cuda": ("kernels/cuda/", "tests/cuemu/"),
    "dlfcn.h": ("kernels/cuda/cuda_blas.c", "kernels/cuda/cuda_library.c", "kernels/cuda/cuda_nccl.c"),
    "cublas": ("tests/cuemu/",),
    "nccl": ("tests/cuemu/",),
}
# Call: why not, and where it is right.
BANNED = {
    "strcpy": ("it has no limit", ()),
    "strcat": ("it has no limit", ()),
    "sprintf": ("it has no limit", ()),
    "vsprintf": ("it has no limit", ()),
    "gets": ("it has no limit", ()),
    "strtok": ("it keeps a pointer behind the scenes", ()),
    "atoi": ("it cannot fail", ()),
    "atol": ("it cannot fail", ()),
    "atof": ("it cannot fail", ()),
    "rand": ("base/rng.h has numbers that can be repeated", ()),
    "srand": ("base/rng.h has numbers that can be repeated", ()),
    "system": ("it runs a shell", ()),
    "popen": ("it runs a shell", ()),
    "alloca": ("it has no limit", ()),
    "abort": ("nothing may end the process", ()),
    # xmalloc's way out; scratch that is missing in the middle of an op has no other.
    "exit": ("nothing may end the process", ("base/arena.c", "kernels/cpu/cpu_backend.c")),
    # Inside an op they state shapes that were checked when the model was opened.
    "assert": ("nothing that comes from outside may end the process", ("kernels/",)),
    "malloc": ("base/arena.h has xmalloc and mem_try", ("base/",)),
    "calloc": ("base/arena.h has xcalloc and mem_try", ("base/",)),
    "realloc": ("base/arena.h has xrealloc", ("base/",)),
}
# A function that other files call begins with the name of its file, or with one of these.
PREFIXES = {
    "base/arena.c": ("mem_", "xmalloc", "xcalloc", "xrealloc", "xstrdup"),
    "kernels/quant.c": ("dtype_", "f16_", "bf16_", "f32_"),
    "kernels/quant_block.c": ("quant_format",),
    "kernels/cpu/": ("cpu_",),
    "kernels/cuda/": ("cuda_",),
    "engine/text/vocab.c": ("token_list_",),
    "engine/models/nn_load.c": ("nn_",),
    "engine/models/image_model.c": ("image_",),
    "api/routes.c": ("api_route",),
    "api/jobs.c": ("api_jobs_", "api_adopt"),
    "api/error.c": ("api_error_",),
    "api/jinja_": ("jinja_",),
    "api/schema_": ("schema_",),
    "server/main.c": ("main",),
}
# They stand in each isa_*.c, after the words that they are written in.
INCLUDED_MANY_TIMES = re.compile(r"(_tmpl|_law)\.h$")
MAX_LINES = {"tests": 1200, "tools": 800}
MAX_PRODUCT_LINES = 800

INCLUDE = re.compile(r'^\s*#\s*include\s+(["<])([^">]+)', re.M)
NOT_CODE = re.compile(r"/\*.*?\*/|//[^\n]*|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'", re.S)
FUNCTION = re.compile(r"^(?!static\b|typedef\b|extern\b)[A-Za-z_][\w \t*]*?[ *](\w+)"
                      r"\([^;{}]*\)\s*\n\{", re.M)


def blank(text):
    """The text with comments, strings and characters blanked out; every line stays where it was."""
    return NOT_CODE.sub(lambda m: re.sub(r"[^\n]", " ", m[0]), text)


def line_of(text, at):
    return text.count("\n", 0, at) + 1


def check_includes(name, text):
    layer = name.split("/")[0]
    for m in INCLUDE.finditer(text):
        line, inc, top = line_of(text, m.start()), m[2], m[2].split("/")[0]
        if layer != "tests":
            for key, where in ONLY_IN.items():
                if inc.startswith(key) and not name.startswith(where):
                    yield line, f"<{inc}> belongs to {', '.join(where)}"
        if m[1] != '"':
            continue
        if top not in LAYERS:
            yield line, f'write "{inc}" from the repository root'
        elif top != layer and top not in LAYERS[layer]:
            yield line, f"{layer}/ may not include {top}/"
        elif top != layer and layer != "tests" and inc not in PUBLIC.get(top, {inc}):
            yield line, f"{inc} is private to {top}/"


def check_calls(name, code):
    for call, (why, where) in BANNED.items():
        if where and name.startswith(where):
            continue
        for m in re.finditer(rf"(?<![\w.>]){call}\s*\(", code):
            yield line_of(code, m.start()), f"{call}: {why}"


def check_names(name, code):
    stem = pathlib.Path(name).stem
    allowed = [stem] + [p for key, more in PREFIXES.items() if name.startswith(key) for p in more]
    for m in FUNCTION.finditer(code):
        function = m[1]
        if function != stem and not function.startswith((stem + "_", *allowed[1:])):
            yield line_of(code, m.start(1)), f"{function}: other files find it as {stem}_..."


def check_guard(name, text):
    guard = re.sub(r"[/.]", "_", name).upper()
    code = blank(text)
    if INCLUDED_MANY_TIMES.search(name):
        if "#pragma once" in code or f"#ifndef {guard}" in code:
            yield 1, "it is included more than once: no guard"
    elif not re.search(rf"^#ifndef {guard}\n#define {guard}$", code, re.M):
        yield 1, f"its include guard must be {guard}"


def check_c(name, text):
    code, layer = blank(text), name.split("/")[0]
    yield from check_includes(name, text)
    if not text.startswith("/* "):
        yield 1, "it must begin with a comment that says what the file is for"
    if name.endswith(".h"):
        yield from check_guard(name, text)
        many = INCLUDED_MANY_TIMES.search(name)
        head = text.split("*/")[0]
        if layer != "tests" and not many and not re.search(r"[Tt]hread|loop|Included only by", head):
            yield 1, "the comment at its top must say which thread uses it"
    if layer != "tests":
        yield from check_calls(name, code)
        if name.endswith(".c"):
            yield from check_names(name, code)


def check_script(name, text):
    lines = text.splitlines()
    if name.endswith(".py"):
        first = 1 if lines and lines[0].startswith("#!") else 0
        if len(lines) <= first or not lines[first].startswith('"""'):
            yield 1, "it must begin with a docstring that says what the file is for"
    elif not (len(lines) > 1 and lines[0] == "#!/bin/sh" and lines[1].startswith("# ")):
        yield 1, "it must begin with #!/bin/sh and a comment that says what the file is for"


def sources():
    for folder in LAYERS:
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".c", ".h", ".cu", ".cuh"):
                yield path, check_c
    for folder in ("tools", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            yield path, check_script
    for pattern in ("tools/install-deps", "tools/fuzz", "tools/hooks/*", ".ci/run", "docker/*.sh"):
        for path in ROOT.glob(pattern):
            yield path, check_script


def main():
    passed = failed = 0
    for path, check in sorted(sources(), key=lambda s: s[0]):
        name, text = path.relative_to(ROOT).as_posix(), path.read_text()
        found = list(check(name, text))
        n_lines, limit = text.count("\n"), MAX_LINES.get(name.split("/")[0], MAX_PRODUCT_LINES)
        if n_lines > limit:
            found.append((limit, f"{n_lines} lines, at most {limit}: split the file"))
        for line, what in found:
            print(f"{name}:{line}: {what}")
        passed, failed = passed + (not found), failed + bool(found)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
