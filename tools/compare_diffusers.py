#!/usr/bin/env python3
"""Random requests to a running server, and the same ones to diffusers: which pictures differ?

Beside what make_pipeline_golden.py checks in, this looks further: variants of the tiny models of
tests/fixtures with random scheduler configs are written to a folder, `duetto serve` is started over
them, and every case's answer is compared.  A case that differs is printed as JSON, with how far
diffusers in float32 is from itself in float64: an untrained UNet can double every rounding.

    make && build/venv-image/bin/python tools/compare_diffusers.py --cases 200 --seed 1
"""
import argparse
import base64
import contextlib
import io
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.error
import urllib.request
import warnings

import diffusers
import numpy as np
import torch
import transformers
from PIL import Image

import make_pipeline_golden as golden

ROOT = pathlib.Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "tests" / "fixtures"
MODELS = ["sd15", "sd21", "sdxl", "lcm", "inpaint", "taesd"]
TIMES = {"ddpm", "euler", "heun", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_2s", "lcm", "tcd"}
SIGMAS = {"euler"}
KARRAS = {"lms", "euler", "heun", "dpm2", "dpm2_a", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_2s",
          "dpmpp_sde", "unipc"}
PROMPTS = ["a photo of the red cat", "dark old city", "", "mountain light at night " * 3]


def config_of(r, name):
    """A scheduler_config.json as someone may have written it."""
    config = json.loads((FIXTURES / f"sd_{name}/scheduler/scheduler_config.json").read_text())
    keep = {k: config[k] for k in ("_class_name", "beta_start", "beta_end", "beta_schedule",
                                   "prediction_type", "num_train_timesteps", "steps_offset")}
    if r.random() < 0.5:
        keep["_class_name"] = r.choice([c.__name__ for c, _ in golden.SCHEDULERS.values()])
    choices = {
        "prediction_type": ["epsilon", "v_prediction"], "steps_offset": [0, 1],
        "timestep_spacing": ["leading", "linspace", "trailing"],
        "beta_schedule": ["linear", "scaled_linear", "squaredcos_cap_v2"],
        "set_alpha_to_one": [True, False], "clip_sample": [False], "skip_prk_steps": [True, False],
        "rescale_betas_zero_snr": [True, False], "final_sigmas_type": ["zero", "sigma_min"],
        "solver_order": [1, 2, 3], "lower_order_final": [True, False],
        "euler_at_final": [True, False], "solver_type": ["midpoint", "heun"],
        "use_karras_sigmas": [True, False],
    }
    if name == "lcm":  # its own pipeline takes a config as it is; the one here corrects it
        del choices["steps_offset"], choices["clip_sample"], choices["skip_prk_steps"]
        keep |= {"clip_sample": False, "skip_prk_steps": True}
    for key, values in choices.items():
        if r.random() < 0.3:
            keep[key] = r.choice(values)
    if keep.get("solver_type") and keep["_class_name"] == "UniPCMultistepScheduler":
        keep["solver_type"] = r.choice(["bh1", "bh2"])
    return keep


def write_models(r, folder, n):
    """n variants, links to the weights and a config of their own."""
    made = []
    for i in range(n):
        name = r.choice(MODELS)
        config = config_of(r, "sd15" if name == "taesd" else name)
        source = "sd15" if name == "taesd" else name
        golden.write_variant(folder / f"sd_{name}{i}", FIXTURES / f"sd_{source}", config,
                             name == "taesd")
        made.append({"model": f"{name}{i}", "base": name, "config": config})
    return made


def random_case(r, models):
    m = r.choice(models)
    kind = r.choice(["text", "text", "image", "mask"]) if m["base"] != "lcm" else "text"
    case = {"model": m["model"], "base": m["base"], "config": m["config"], "kind": kind,
            "prompt": r.choice(PROMPTS), "negative": r.choice([None, *PROMPTS]),
            "width": 16 * r.randint(1, 6), "height": 16 * r.randint(1, 6),
            "steps": r.choice([1, 2, 3, 4, 5, 7, 10, 14, 15, 20]),
            "guidance": r.choice([0, 1, 1.5, 3, 7.5]), "seed": r.randrange(2**r.choice([3, 31, 40])),
            "n": r.choice([1, 1, 2]), "scheduler": r.choice([None, *golden.SCHEDULERS])}
    if case["scheduler"] == "dpmpp_sde" or "SDES" in m["config"]["_class_name"]:
        case["n"] = 1  # diffusers has one Brownian path for a batch
    if m["base"] == "inpaint":
        case["kind"] = "mask"
    if r.random() < 0.2 and (case["kind"] == "text" or m["base"] == "sdxl"):
        case["rescale"] = r.choice([0.3, 0.7, 1.0])
    if r.random() < 0.3:
        case["spacing"] = r.choice(["leading", "linspace", "trailing"])
    if r.random() < 0.3 and case["scheduler"] in KARRAS:
        case["sigma_schedule"] = r.choice(["plain", "karras", "exponential"])
    if case["scheduler"] == "ddim" and r.random() < 0.5:
        case["eta"] = r.choice([0.3, 1.0])
    if case.get("sigma_schedule", "plain") == "plain" and r.random() < 0.15:
        # (diffusers counts Heun's calls as steps then)
        if case["scheduler"] in TIMES and (case["scheduler"] != "heun" or case["kind"] == "text"):
            case["timesteps"] = sorted(r.sample(range(499), r.randint(1, 8)), reverse=True)
        if case["scheduler"] in SIGMAS and r.random() < 0.5:
            case.pop("timesteps", None)
            case["sigmas"] = sorted((round(r.uniform(0.1, 14), 3) for _ in range(r.randint(1, 8))),
                                    reverse=True) + [0.0] * (r.random() < 0.8)
    if r.random() < 0.2 and m["base"] != "sdxl":  # it has two layers only
        case["clip_skip"] = 1
    if case["kind"] != "text":
        case["strength"] = r.choice([0.1, 0.3, 0.5, 0.6, 0.75, 0.99, 1.0])
    return case


# ---- diffusers ----

def scheduler_of(pipe, case):
    if case["scheduler"]:
        cls, more = golden.SCHEDULERS[case["scheduler"]]
        more = {k: v for k, v in more.items() if k != "skip_prk_steps"}
    else:
        cls, more = type(pipe.scheduler), {}
    if cls.__name__ == "DPMSolverSDEScheduler":
        more["noise_sampler_seed"] = case["seed"]
    if case.get("spacing"):
        more["timestep_spacing"] = case["spacing"]
    if case.get("sigma_schedule"):
        more["use_karras_sigmas"] = case["sigma_schedule"] == "karras"
        more["use_exponential_sigmas"] = case["sigma_schedule"] == "exponential"
    if cls is type(pipe.scheduler):  # with what the pipeline has corrected in its config
        for key in ("steps_offset", "clip_sample", "skip_prk_steps"):
            if key in pipe.scheduler.config:
                more[key] = pipe.scheduler.config[key]
    return cls.from_config(pipe.scheduler.config, **more)


def prepare_reference():
    """Quiet; the same noise in float64."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for module in (diffusers, transformers):
        module.utils.logging.set_verbosity_error()
        module.utils.logging.disable_progress_bar()
    randn = torch.randn

    def randn32(*size, dtype=None, **more):
        return randn(*size, dtype=torch.float32, **more).to(dtype or torch.float32)
    torch.randn = randn32


def by_diffusers(folder, case, dtype=torch.float32):
    xl, n, w, h = case["base"] == "sdxl", case["n"], case["width"], case["height"]
    cls = golden.PIPELINES["sdxl" if xl else "sd"][case["kind"]]
    more = {"add_watermarker": False} if xl else {
        "safety_checker": None, "feature_extractor": None, "image_encoder": None,
        "requires_safety_checker": False}
    pipe = cls.from_pretrained(folder / f"sd_{case['model']}", torch_dtype=dtype, **more)
    for part in ("tokenizer", "tokenizer_2"):
        if hasattr(pipe, part):
            getattr(pipe, part).model_max_length = 77
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = scheduler_of(pipe, case)
    args = {"prompt": [case["prompt"]] * n, "num_inference_steps": case["steps"],
            "guidance_scale": case["guidance"], "output_type": "np",
            "generator": [torch.Generator("cpu").manual_seed(case["seed"] + i) for i in range(n)]}
    for ours, theirs in (("rescale", "guidance_rescale"), ("eta", "eta"), ("strength", "strength"),
                         ("timesteps", "timesteps"), ("sigmas", "sigmas"),
                         ("clip_skip", "clip_skip")):
        if case.get(ours) is not None:
            args[theirs] = case[ours]
    if case["negative"] is not None:
        args["negative_prompt"] = [case["negative"]] * n
    if case["kind"] != "text":
        args["image"] = [Image.fromarray(golden.init_image(w, h))] * n
        if xl:
            args |= {"original_size": (h, w), "target_size": (h, w)}
    if case["kind"] == "mask":
        args["mask_image"] = [Image.fromarray(golden.mask_image(w, h))] * n
    if case["kind"] != "image":
        args |= {"width": w, "height": h}
    with torch.no_grad(), contextlib.redirect_stderr(io.StringIO()):
        out = pipe(**args).images
    if not np.isfinite(out).all():
        raise ValueError("not finite")
    return (out * 255).round().astype(np.uint8)


# ---- the server ----

def png(pixels):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return base64.b64encode(out.getvalue()).decode()


def by_server(port, case):
    w, h = case["width"], case["height"]
    body = {"model": case["model"], "prompt": case["prompt"], "size": f"{w}x{h}", "n": case["n"],
            "seed": case["seed"], "guidance_scale": case["guidance"], "steps": case["steps"],
            "scheduler": case["scheduler"], "negative_prompt": case["negative"],
            "guidance_rescale": case.get("rescale"), "timestep_spacing": case.get("spacing"),
            "sigma_schedule": case.get("sigma_schedule"), "eta": case.get("eta"),
            "timesteps": case.get("timesteps"), "sigmas": case.get("sigmas"),
            "clip_skip": case.get("clip_skip"), "strength": case.get("strength")}
    if body["timesteps"] or body["sigmas"]:
        del body["steps"]
    if case["kind"] != "text":
        body["image"] = png(golden.init_image(w, h))
    if case["kind"] == "mask":
        body |= {"mask": png(golden.mask_image(w, h)), "mask_mode": "white"}
    where = "generations" if case["kind"] == "text" else "edits"
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/images/{where}",
        json.dumps({k: v for k, v in body.items() if v is not None}).encode(),
        {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        data = json.load(answer)["data"]
    return np.stack([np.asarray(Image.open(io.BytesIO(base64.b64decode(d["b64_json"]))))
                     for d in data])


@contextlib.contextmanager
def serving(models, port, *options):
    """models: name to path."""
    args = [str(ROOT / "build/duetto"), "serve", "--port", str(port), "--strict", "true",
            "--threads", "1", "--log_level", "error", "--preload", "all", *options]
    for name, path in models.items():
        args += ["-m", f"{name}={path}"]
    server = subprocess.Popen(args, stdout=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health")
                break
            time.sleep(0.1)
        yield
    finally:
        server.terminate()
        server.wait()


def psnr(a, b):
    if a.shape != b.shape:
        return 0.0
    mse = ((a.astype(np.float64) - b) ** 2).mean(axis=(1, 2, 3)).max()
    return 99.0 if mse == 0 else 10 * np.log10(255 * 255 / mse)


def attempt(what, *args):
    """The pictures, or the words of who refused."""
    try:
        return what(*args), None
    except urllib.error.HTTPError as e:
        return None, f"{e.code} {json.load(e)['error']['message']}"
    except Exception as e:  # pylint: disable=broad-except
        return None, "".join(traceback.format_exception_only(e)).strip()[:200]


def compare(folder, port, case, limit):
    """A line about the case; empty where both sides agree."""
    ours, our_no = attempt(by_server, port, case)
    theirs, their_no = attempt(by_diffusers, folder, case)
    if ours is None or theirs is None:
        return "" if (ours is None) == (theirs is None) else f"refused: ours {our_no}, theirs {their_no}"
    near = psnr(ours, theirs)
    if near >= limit:
        return ""
    exact, _ = attempt(by_diffusers, folder, case, torch.float64)
    own = psnr(theirs, exact) if exact is not None else 99
    return f"{near:.1f} dB (diffusers' own rounding: {own:.1f} dB)"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--models", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--port", type=int, default=18735)
    parser.add_argument("--psnr", type=float, default=45)
    args = parser.parse_args()
    prepare_reference()
    r, n_bad = random.Random(args.seed), 0
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        models = write_models(r, folder, args.models)
        with serving({m["model"]: folder / f"sd_{m['model']}" for m in models}, args.port):
            for _ in range(args.cases):
                case = random_case(r, models)
                said = compare(folder, args.port, case, args.psnr)
                if said:
                    n_bad += 1
                    print(said, json.dumps(case), flush=True)
    print(f"{args.cases} cases, {n_bad} of them differ")
    return n_bad > 0


if __name__ == "__main__":
    sys.exit(main())
