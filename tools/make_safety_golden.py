#!/usr/bin/env python3
"""Makes tests/fixtures/sd_safety: the tiny model sd_sd15 with a tiny random safety checker (f16, eight concepts'
thresholds close to what its test pictures score), and sd_safety.safetensors: what diffusers and transformers
say of those pictures, for tests/golden/test_safety.c.

    python -m venv build/venv-image && build/venv-image/bin/pip install torch diffusers transformers pillow
    build/venv-image/bin/python tools/make_safety_golden.py

Fixed seeds: an unchanged script writes the same bytes.
"""
import json
import pathlib
import shutil

import numpy
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import (StableDiffusionSafetyChecker,
                                                                 cosine_distance)
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

FIXTURES = pathlib.Path(__file__).resolve().parent.parent / "tests/fixtures"
OUT = FIXTURES / "sd_safety"
SIZES = [(32, 32), (64, 64), (48, 32), (40, 56), (71, 33), (16, 24), (90, 30), (64, 64)]
VISION = {"hidden_size": 24, "intermediate_size": 56, "num_hidden_layers": 2,
          "num_attention_heads": 3, "image_size": 28, "patch_size": 7}


def pictures():
    """Blots of colour: smooth, so that resizing matters, and different enough."""
    random = numpy.random.default_rng(11)
    for w, h in SIZES:
        rough = random.integers(0, 256, (4, 3, 3), dtype=numpy.uint8)
        yield Image.fromarray(rough, "RGB").resize((w, h), Image.BICUBIC)


def randomised():
    g = torch.Generator().manual_seed(5)
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=VISION, projection_dim=16))
    for name, p in sorted(checker.named_parameters()):
        if p.ndim == 1:
            values = torch.randn(p.shape, generator=g) * 0.15 + ("norm" in name and
                                                                 name.endswith("weight"))
        else:
            values = torch.randn(p.shape, generator=g) * 1.4 / p[0].numel()**0.5
        p.data = values.half().float()
    return checker.eval().requires_grad_(False)


def between(values, at):
    """A threshold in the middle between two neighbours of the sorted values."""
    s = sorted(values.tolist())
    return (s[at] + s[at + 1]) / 2


def set_thresholds(checker, seen):
    """Decisions that differ from picture to picture, one by the adjustment alone."""
    special = cosine_distance(seen, checker.special_care_embeds)
    concepts = cosine_distance(seen, checker.concept_embeds)
    special_weights, weights = torch.full((3,), 0.99), torch.full((17,), 0.99)
    special_weights[1] = between(special[:, 1], 3)
    care = special[:, 1] > special_weights[1]
    for k in range(3):  # each flags one picture
        weights[k] = between(concepts[:, k], 6)
    clear = (concepts + 0.02 < weights).all(1)
    for cared in (True, False):  # hardly below, so that the first has the adjustment's help
        k, i = next((k, i) for k, i in enumerate(concepts.argmax(0).tolist())
                    if k >= 3 and clear[i] and bool(care[i]) == cared)
        weights[k] = concepts[i, k] + 0.006
    checker.special_care_embeds_weights.data = special_weights.half().float()
    checker.concept_embeds_weights.data = weights.half().float()


def scores(checker, pixels):
    """The loop of StableDiffusionSafetyChecker.forward, which keeps its scores to itself; held against it below."""
    seen = checker.visual_projection(checker.vision_model(pixels)[1])
    special = cosine_distance(seen, checker.special_care_embeds).numpy()
    concepts = cosine_distance(seen, checker.concept_embeds).numpy()
    out = numpy.zeros((len(seen), 20), numpy.float32)
    for i in range(len(seen)):
        adjustment = 0.0
        for k in range(3):
            out[i, k] = round(special[i, k] - checker.special_care_embeds_weights[k].item() +
                              adjustment, 3)
            adjustment = 0.01 if out[i, k] > 0 else adjustment
        for k in range(17):
            out[i, 3 + k] = round(concepts[i, k] - checker.concept_embeds_weights[k].item() +
                                  adjustment, 3)
    return out


def write_model(checker, processor):
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    for part in ("scheduler", "text_encoder", "tokenizer", "unet", "vae"):
        (OUT / part).symlink_to(f"../sd_sd15/{part}")
    index = json.loads((FIXTURES / "sd_sd15/model_index.json").read_text())
    index |= {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
              "feature_extractor": ["transformers", "CLIPImageProcessor"],
              "requires_safety_checker": True}
    (OUT / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    checker.half().save_pretrained(OUT / "safety_checker")
    checker.float()
    config = {k: v for k, v in processor.to_dict().items() if k.startswith(("do_", "image_")) or
              k in ("size", "crop_size", "resample", "rescale_factor")}
    (OUT / "feature_extractor").mkdir()
    (OUT / "feature_extractor/preprocessor_config.json").write_text(
        json.dumps(config, indent=2, default=int) + "\n")


def main():
    checker = randomised()
    processor = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    images = list(pictures())
    pixels = torch.cat([processor(im, return_tensors="pt").pixel_values for im in images])
    with torch.no_grad():
        set_thresholds(checker, checker.visual_projection(checker.vision_model(pixels)[1]))
        want = scores(checker, pixels)
        blank = [numpy.ones((h, w, 3)) for w, h in SIZES]
        _, flagged = checker(clip_input=pixels, images=blank)
        seen = checker.visual_projection(checker.vision_model(pixels)[1])
    assert flagged == (want[:, 3:] > 0).any(1).tolist()
    assert 2 <= sum(flagged) <= len(flagged) - 2, flagged
    plain = [bool((cosine_distance(s[None], checker.concept_embeds)[0] > checker.concept_embeds_weights).any())
             for s in seen]
    assert plain != flagged, "no picture is flagged by the adjustment alone"
    write_model(checker, processor)
    values = {"scores": torch.from_numpy(want), "seen": seen.contiguous(),
              "flagged": torch.tensor(flagged, dtype=torch.int32)}
    for i, im in enumerate(images):
        values[f"picture{i}"] = torch.from_numpy(numpy.array(im))
        values[f"pixels{i}"] = pixels[i].permute(1, 2, 0).contiguous()
    save_file(values, FIXTURES / "sd_safety.safetensors")
    print(f"{sum(flagged)} of {len(flagged)} pictures are flagged")


if __name__ == "__main__":
    main()
