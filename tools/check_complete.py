#!/usr/bin/env python3
"""Fails where something exists in one of its places and is missing in another.

A route has a line in docs/API.md, one in README.md and a test; a request field stands in docs/API.md; an
option has an effect, its line in docs/CONFIG.md and its default in configs/default.json; an op and an
inner loop have a kcheck; a parser has a fuzzer; a metric stands in docs/OPERATIONS.md; a source file
in docs/ARCHITECTURE.md; and every make target and link that the documents name is there.  What the
built server prints about itself is compared too, when there is one.
usage: check_complete.py [--build build] [--write]     --write makes docs/CONFIG.md's table and
                                                       configs/default.json from the built server
"""
import argparse
import json
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

# What reads bytes that come from outside: its fuzzer.
PARSERS = {
    "base/json.c": "fuzz_json.c",
    "base/utf8.c": "fuzz_utf8.c",
    "base/base64.c": "fuzz_base64.c",
    "base/codec.c": "fuzz_codec.c",
    "base/fetch.c": "fuzz_fetch.c",
    "engine/gguf.c": "fuzz_gguf.c",
    "engine/safetensors.c": "fuzz_safetensors.c",
    "engine/noise_config.c": "fuzz_noise.c",
    "engine/checkpoint.c": "fuzz_checkpoint.c",
    "engine/models/image_model.c": "fuzz_image_model.c",
    "engine/models/upscaler.c": "fuzz_upscaler.c",
    "engine/models/control.c": "fuzz_control.c",
    "engine/text/clip_bpe.c": "fuzz_clip_bpe.c",
    "engine/text/wordpiece.c": "fuzz_wordpiece.c",
    "engine/text/tokenizer.c": "fuzz_tokenizer.c",
    "api/jinja_parse.c": "fuzz_jinja.c",
    "api/api.c": "fuzz_api.c",
    "api/multipart.c": "fuzz_multipart.c",
    "api/images.c": "fuzz_images.c",
    "tests/ptxvm/parse.c": "fuzz_ptx.c",
}
TABLE_BEGIN, TABLE_END = "<!-- made by duetto config --markdown -->", "<!-- end -->"


def read(name):
    path = ROOT / name
    return path.read_text() if path.exists() else ""


def texts(pattern):
    return {p.relative_to(ROOT).as_posix(): p.read_text() for p in sorted(ROOT.glob(pattern))}


def block(text, begin):
    """The lines of an X-macro: those from `#define NAME(` on that end in a backslash, and one more."""
    m = re.search(rf"^#define {begin}\(.*?[^\\\n]$", text, re.M | re.S)
    return m[0] if m else ""


class Checks:
    def __init__(self):
        self.passed = self.failed = 0

    def that(self, ok, complaint):
        self.passed, self.failed = self.passed + bool(ok), self.failed + (not ok)
        if not ok:
            print(complaint)


def check_routes(c):
    api, readme = read("docs/API.md"), read("README.md")
    tests = "\n".join(texts("tests/api/*.py").values())
    for method, path in re.findall(r'\{"([A-Z]+)", "([^"]+)", API_', read("api/routes.c")):
        c.that(f"| `{method} {path}` |" in api, f"docs/API.md has no line for {method} {path}")
        family = "/sdapi/v1/" if path.startswith("/sdapi/v1/") else path
        c.that(family in readme, f"README.md does not name {family}")
        called = path.split("{")[0]
        c.that(re.search(rf'["\']{re.escape(called)}', tests), f"no test calls {method} {path}")


def check_fields(c):
    api = read("docs/API.md")
    tables = read("api/params.c") + read("api/image_params.c") + read("api/sdapi.c")
    for name in dict.fromkeys(re.findall(r'^    \{"(\w+)", PARAM_', tables, re.M)):
        known = re.search(rf"`{name}[`.]|`{name.split('_')[0]}_\*`", api)
        c.that(known, f"docs/API.md does not name the request field {name}")


def server_says(build, *arguments):
    program = ROOT / build / "duetto"
    if not program.exists():
        return None
    env = {k: v for k, v in os.environ.items() if not k.startswith("DUETTO_")}
    return subprocess.run([program, "config", *arguments], text=True, env=env, cwd=ROOT,
                          stdout=subprocess.PIPE).stdout


def config_table():
    """The table in docs/CONFIG.md and what stands before and after it."""
    text = read("docs/CONFIG.md")
    before, _, rest = text.partition(TABLE_BEGIN + "\n")
    table, _, after = rest.partition(TABLE_END)
    return before, table.strip() + "\n", after


def write_config(build):
    before, _, after = config_table()
    table = server_says(build, "--markdown")
    if table is None:
        raise SystemExit(f"{build}/duetto is not built")
    text = f"{before}{TABLE_BEGIN}\n\n{table}\n{TABLE_END}{after}"
    (ROOT / "docs/CONFIG.md").write_text(text)
    (ROOT / "configs/default.json").write_text(server_says(build))


def check_options(c, build):
    options = re.findall(r"^\s*[SIB]\((\w+),", block(read("server/config.h"), "CONFIG_TABLE"), re.M)
    c.that(options, "server/config.h has no CONFIG_TABLE")
    doc, table = read("docs/CONFIG.md"), config_table()[1]
    code = "\n".join(texts("server/*.c").values())
    for name in options:
        c.that(f"| `{name}` |" in doc, f"docs/CONFIG.md has no line for the option {name}")
        c.that(re.search(rf"(->|\.){name}\b", code), f"the option {name} has no effect")
    default = read("configs/default.json")
    c.that(default and list(json.loads(default)) == options,
           "configs/default.json does not have every option, in the order of server/config.h")
    for path, text in texts("configs/*.json").items():
        unknown = set(json.loads(text)) - set(options) - {"models"}
        c.that(not unknown, f"{path}: there is no option {', '.join(sorted(unknown))}")
        said = server_says(build, "-c", path)
        c.that(said is None or said, f"{path}: the server does not take it")
    said = server_says(build), server_says(build, "--markdown")
    if None not in said:
        c.that(default == said[0], "configs/default.json is not what `duetto config` prints")
        c.that(table == said[1], "docs/CONFIG.md is not what `duetto config --markdown` prints")


def check_kernels(c):
    checks = "\n".join(texts("tests/kcheck/*.c").values())
    ops = re.findall(r"X\((\w+)\)", block(read("kernels/ops.h"), "BACKEND_OPS"))
    slots = re.findall(r"X\([^,]+, (\w+), \(", block(read("kernels/cpu/cpu_ops.h"), "CPU_OPS"))
    c.that(ops and slots, "kernels/ops.h or kernels/cpu/cpu_ops.h has no list")
    for op in ops:
        c.that(re.search(rf"OP\(\w+, {op},", checks), f"no kcheck runs the op {op}")
    whole_ops = tuple(f"{op}_" for op in re.findall(r"KCHECK_OP\(kc, (\w+),", checks))
    for slot in slots:
        direct = re.search(rf"KCHECK(_OP)?\(kc, (\w+, )?{slot}\)|var->{slot}\(", checks)
        c.that(direct or slot.startswith(whole_ops), f"no kcheck runs the inner loop {slot}")


def check_parsers(c):
    for source, fuzzer in PARSERS.items():
        c.that((ROOT / "tests/fuzz" / fuzzer).exists(), f"{source} has no tests/fuzz/{fuzzer}")


def check_metrics(c):
    doc = read("docs/OPERATIONS.md")
    names = re.findall(r'"((?:vllm|duetto):\w+|process_\w+)"', read("server/metrics.c"))
    c.that(names, "server/metrics.c has no metrics")
    for name in dict.fromkeys(names):
        c.that(f"`{name}`" in doc, f"docs/OPERATIONS.md does not name the metric {name}")


def check_map(c):
    """docs/ARCHITECTURE.md names every file; `jinja_*.c` names many, `http.c .h` two."""
    doc = read("docs/ARCHITECTURE.md")
    named = set(re.findall(r"[\w*.]+\.[ch]\b", doc))
    named |= {f"{stem}.h" for stem in re.findall(r"([\w*]+)\.c,? \.h\b", doc)}
    for folder in ("base", "kernels", "engine", "api", "server"):
        for path in sorted((ROOT / folder).rglob("*.[ch]")):
            header_of_c = path.suffix == ".h" and path.with_suffix(".c").exists()
            ok = header_of_c or any(path.match(pattern) for pattern in named)
            c.that(ok, f"docs/ARCHITECTURE.md does not name {path.relative_to(ROOT)}")


def documents():
    found = {}
    for pattern in ("*.md", "docs/*.md", "tests/**/*.md", "models/*/*.md"):
        found.update(texts(pattern))
    return found


def check_documents(c):
    targets = set(re.findall(r"^([a-z][\w-]*):", read("Makefile"), re.M))
    for name, text in documents().items():
        for target in dict.fromkeys(re.findall(r"(?:`|^ *|&& )make ([a-z][\w-]+)", text, re.M)):
            c.that(target in targets, f"{name}: there is no target `make {target}`")
        for link in dict.fromkeys(re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", text)):
            c.that((ROOT / name).parent.joinpath(link).exists(), f"{name}: no file {link}")
        c.that(not re.search(r"(?<![\w.])/(work|home|root|Users)/", text),
               f"{name}: a path of one machine")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default="build")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    if args.write:
        write_config(args.build)
        return 0
    c = Checks()
    check_routes(c)
    check_fields(c)
    check_options(c, args.build)
    check_kernels(c)
    check_parsers(c)
    check_metrics(c)
    check_map(c)
    check_documents(c)
    print(f"{c.passed} passed, {c.failed} failed")
    return 1 if c.failed or not c.passed else 0


if __name__ == "__main__":
    sys.exit(main())
