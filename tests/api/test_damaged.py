"""Models whose weights are no numbers: an error that says so, for every kind of answer, and nobody else is disturbed."""
import base64
import json
import shutil
import struct

import pytest

from harness import BERT, BLIP, PAINTER, ROOT, TINY, png

NAN = {"F16": b"\0\x7e", "BF16": b"\xc0\x7f", "F32": b"\0\0\xc0\x7f"}
UPSCALER = ROOT / "tests/fixtures/upscale_first.safetensors"
PICTURE = base64.b64encode(png()).decode()


def damage(path):
    """Every tensor of a .safetensors begins with NaN."""
    data = bytearray(path.read_bytes())
    size, = struct.unpack("<Q", data[:8])
    for name, tensor in json.loads(data[8:8 + size]).items():
        if name != "__metadata__" and tensor["dtype"] in NAN:
            at, value = 8 + size + tensor["data_offsets"][0], NAN[tensor["dtype"]]
            data[at:at + len(value)] = value
    path.write_bytes(data)


def damaged_copy(source, to, part=""):
    if source.is_file():
        shutil.copyfile(source, to)
        damage(to)
        return to
    shutil.copytree(source, to)
    for path in (to / part).glob("*.safetensors"):
        damage(path)
    return to


@pytest.fixture(scope="module")
def damaged(start, tmp_path_factory):
    to = tmp_path_factory.mktemp("damaged")
    models = {"tiny": TINY, "bert": damaged_copy(BERT, to / "bert"),
              "upscaler": damaged_copy(UPSCALER, to / "upscaler.safetensors")}
    models |= {part: damaged_copy(PAINTER, to / part, part) for part in ("unet", "vae", "text_encoder")}
    models |= {kind: damaged_copy(path, to / kind) for kind, path in BLIP.items()}
    return start(models=models)


@pytest.mark.parametrize("path, request_", [
    ("/v1/embeddings", {"model": "bert", "input": "a"}),
    ("/v1/embeddings", {"model": "bert", "input": ["a", "b"], "encoding_format": "base64"}),
    *[("/v1/images/generations", {"model": m, "prompt": "a", "steps": 1, "size": "32x32"})
      for m in ("unet", "vae", "text_encoder")],
    ("/v1/images/upscale", {"model": "upscaler", "image": PICTURE}),
    ("/v1/captions", {"model": "caption", "image": PICTURE}),
    ("/v1/captions", {"model": "caption", "image": PICTURE, "num_beams": 3}),
    ("/v1/captions", {"model": "vqa", "image": PICTURE, "prompt": "what", "num_beams": 2}),
    ("/v1/captions", {"model": "match", "image": PICTURE, "prompt": "what"}),
], ids=lambda v: v if isinstance(v, str) else v["model"])
def test_answers_that_are_no_numbers_are_errors(damaged, path, request_):
    status, answer = damaged.post(path, request_)
    assert status == 500, answer
    assert "finite" in answer["error"]["message"]
    assert damaged.post("/v1/completions", {"model": "tiny", "prompt": "x"})[0] == 200
    damaged.wait_metric("duetto:images_held_bytes", 0)
