#!/usr/bin/env python3
"""Random mixes of features to a running server: ControlNets, LoRAs, embeddings, pictures, masks in one request.

Each mix is compared with diffusers'; then all of them, and mixes that diffusers has no words for (refiner, hires,
windows, step caches, a safety checker), are sent at once, and each must have the bytes that it had alone.  At last
they are sent again and cut off somewhere, after which the server must hold nothing.

    make && build/venv-image/bin/python tools/compare_mixes.py --cases 60 --storm 40 --seed 1
    (what compare_diffusers.py needs, peft and opencv-python-headless)
"""
import argparse
import base64
import concurrent.futures
import io
import json
import pathlib
import random
import socket
import sys
import tempfile
import time
import urllib.error
import urllib.request

import numpy as np
import torch
from diffusers import ControlNetModel, StableDiffusionXLControlNetImg2ImgPipeline
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

import compare_diffusers as plain
import make_control_golden as control
import make_lora_golden as lora
import make_pipeline_golden as golden

FIXTURES = plain.FIXTURES
LORAS = {"sd15": ["kohya", "peft", "dotted", "processors", "middle", "patterns"],
         "sdxl": ["kohya_xl", "peft_xl"], "sd21": []}
WORDS = {"sd15": [("redglow", "redglow"), ("learned", "<thing>")], "sdxl": [("glow_xl", "glow_xl")], "sd21": []}
NETS = {"sd15": ["a", "b", "pool"], "sdxl": ["sdxl"], "sd21": ["sd21"]}
PROMPTS = ["a photo of the red cat", "dark old city", "mountain light at night " * 3]
PIPES = control.PIPES | {("sdxl", "image"): StableDiffusionXLControlNetImg2ImgPipeline}


# ---- cases ----

def random_control(r, name):
    c = {"model": name, "scale": r.choice([0.3, 0.7, 1.0, 1.6]), "hint": r.randrange(3)}
    if r.random() < 0.3:
        c["start"], c["end"] = r.choice([(0.0, 0.5), (0.3, 1.0), (0.2, 0.8)])
    return c


def random_mix(r):
    model = r.choice(["sd15", "sd15", "sdxl", "sd21"])
    kind = r.choice(["text", "text", "image", "mask"])
    case = {"model": model, "kind": kind, "prompt": r.choice(PROMPTS), "negative": r.choice(["", *PROMPTS[:2]]),
            "width": 16 * r.randint(1, 4), "height": 16 * r.randint(1, 4), "steps": r.choice([2, 3, 5, 8]),
            "guidance": r.choice([1.0, 1.5, 3.0, 7.5]), "seed": r.randrange(2**40), "n": r.choice([1, 1, 2]),
            "scheduler": r.choice(["ddim", "ddpm", "euler", "euler_a", "heun", "dpmpp_2m", "unipc", "lms"]),
            "strength": r.choice([0.3, 0.6, 0.9, 1.0]), "loras": [], "words": {}, "control": []}
    if kind != "mask" or model != "sdxl":  # (diffusers' SDXL inpainting with ControlNets computes other things)
        for _ in range(r.choice([0, 1, 1, 2])):
            case["control"].append(random_control(r, r.choice(NETS[model])))
    for name in r.sample(LORAS[model], min(len(LORAS[model]), r.choice([0, 1, 1, 2, 3]))):
        one = {"name": name, "scale": r.choice([-0.5, 0.4, 0.8, 1.2])}
        if r.random() < 0.3:
            one["text_scale"] = r.choice([0.2, 0.6])
        case["loras"].append(one)
    if WORDS[model] and r.random() < 0.3:
        file, token = r.choice(WORDS[model])
        case["words"] = {file: token}
        case["prompt"] = f"a photo of {token} cat"
    if model == "sd15" and r.random() < 0.2:
        case["clip_skip"] = 1
    if case["scheduler"] == "ddim" and r.random() < 0.5:
        case["eta"] = r.choice([0.4, 1.0])
    if "pool" in [c["model"] for c in case["control"]] and len(case["control"]) > 1:
        case["control"] = case["control"][:1]
    return case


def random_storm(r):
    """What there is here and not in diffusers, as a request's body."""
    case = random_mix(r)
    body = body_of(case)
    xl = case["model"] == "sdxl"
    if r.random() < 0.4:
        body["step_cache"] = r.choice(["deepcache:2", "deepcache:3", "first_block:0.3"])
    if r.random() < 0.3:
        body["tiled"] = True
        body["size"] = r.choice(["80x64", "96x48"]) if case["kind"] == "text" else body["size"]
    if r.random() < 0.4 and case["kind"] == "text":
        body["hires"] = {"scale": 2, "steps": 4, "strength": 0.6, "upscaler": r.choice(["latent", "image"])}
    if xl and r.random() < 0.5:
        body["refiner"] = {"model": "refiner", "switch_at": r.choice([0.4, 0.8])}
    if r.random() < 0.3:
        body["upscale"] = {"model": "upscale"}
    if not xl and not body.get("loras") and r.random() < 0.3:
        body["model"] = "safe"
        body.pop("control", None)
    return body, case["kind"]


# ---- both sides ----

def for_diffusers(folder, same):
    """Copies of the LoRAs under the names that text encoders have in transformers 5."""
    to = folder / "reference"
    to.mkdir()
    lora.Lora(lora.load(FIXTURES, "sdxl"), lora.linear, 6, alpha=4, rank=4).write(  # as make_adapters'
        folder / "kohya_xl_peft.safetensors", lora.peft)
    same["kohya_xl"] = "kohya_xl_peft"
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as f:
            tensors = {k.replace("text_encoder.text_model.", "text_encoder."): f.get_tensor(k) for k in f.keys()}
            save_file(tensors, to / file.name, f.metadata())
    return to



def by_diffusers(nets, to, same, case, dtype=torch.float32):
    family = "sdxl" if case["model"] == "sdxl" else "sd"
    w, h, n = case["width"], case["height"], case["n"]
    pipe = golden.load(FIXTURES, case["model"], case["kind"]).to(dtype)
    cls, more = golden.SCHEDULERS[case["scheduler"]]
    pipe.scheduler = cls.from_config(pipe.scheduler.config, **more)
    args = {"prompt": [case["prompt"]] * n, "negative_prompt": [case["negative"]] * n, "output_type": "np",
            "num_inference_steps": case["steps"], "guidance_scale": case["guidance"],
            "generator": [torch.Generator("cpu").manual_seed(case["seed"] + i) for i in range(n)]}
    args |= {k: case[k] for k in ("clip_skip", "eta") if k in case}
    controls = case["control"]
    if controls:
        parts = {k: v for k, v in pipe.components.items() if v is not None}
        more = {} if family == "sdxl" else {"safety_checker": None, "feature_extractor": None,
                                            "requires_safety_checker": False}
        models = [nets[c["model"]].to(dtype) for c in controls]
        pictures = [control.control_picture(c, c["model"], w, h) for c in controls]
        pipe = PIPES[family, case["kind"]](controlnet=models if len(models) > 1 else models[0], **parts, **more)
        pipe.check_inputs = lambda *_, **__: None
        one = len(controls) == 1
        key = "image" if case["kind"] == "text" else "control_image"
        args |= {key: pictures[0] if one else pictures,
                 "controlnet_conditioning_scale": controls[0]["scale"] if one else [c["scale"] for c in controls],
                 "control_guidance_start": [c.get("start", 0.0) for c in controls],
                 "control_guidance_end": [c.get("end", 1.0) for c in controls]}
    pipe.set_progress_bar_config(disable=True)
    lora.set_loras(pipe, to, case["loras"], same)
    lora.add_words(pipe, to, case["words"])
    if case["kind"] != "text":
        args |= {"image": [Image.fromarray(golden.init_image(w, h))] * n, "strength": case["strength"]}
        if family == "sdxl":
            args |= {"original_size": (h, w), "target_size": (h, w)}
    if case["kind"] == "mask":
        args["mask_image"] = [Image.fromarray(golden.mask_image(w, h))] * n
    if case["kind"] != "image" or controls:
        args |= {"width": w, "height": h}
    if family == "sdxl" and case["kind"] == "image":
        args = {k: v for k, v in args.items() if k not in ("width", "height")}
    with torch.no_grad():
        out = pipe(**args).images
    return (out * 255).round().astype(np.uint8)


def body_of(case):
    w, h = case["width"], case["height"]
    body = {"model": case["model"], "prompt": case["prompt"], "negative_prompt": case["negative"], "n": case["n"],
            "size": f"{w}x{h}", "steps": case["steps"], "guidance_scale": case["guidance"], "seed": case["seed"],
            "scheduler": case["scheduler"], "loras": case["loras"], "eta": case.get("eta"),
            "clip_skip": case.get("clip_skip"),
            "control": [{"model": f"net_{c['model']}", "scale": c["scale"], "start": c.get("start", 0),
                         "end": c.get("end", 1), "image": plain.png(control.hint_image(w, h, c["hint"]))}
                        for c in case["control"]]}
    if case["kind"] != "text":
        body |= {"image": plain.png(golden.init_image(w, h)), "strength": case["strength"]}
    if case["kind"] == "mask":
        body |= {"mask": plain.png(golden.mask_image(w, h)), "mask_mode": "white"}
    return {k: v for k, v in body.items() if v not in (None, [])}


def path_of(kind):
    return "/v1/images/" + ("generations" if kind == "text" else "edits")


def ask(port, body, kind):
    """The pictures' bytes, or why not."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path_of(kind)}", json.dumps(body).encode(),
                                     {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=300) as answer:
            return [d["b64_json"] for d in json.load(answer)["data"]]
    except urllib.error.HTTPError as e:
        return f"{e.code} {json.load(e)['error']['message']}"


def call(port, method, path, body=None):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", json.dumps(body).encode() if body else None,
                                     {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read() or b"null")


def pixels(answer):
    return np.stack([np.asarray(Image.open(io.BytesIO(base64.b64decode(d)))) for d in answer])


def cut_off(port, body, kind, after_s):
    """Sent, and left alone after a while."""
    data = json.dumps(body | {"stream": True, "partial_images": 2}).encode()
    with socket.create_connection(("127.0.0.1", port)) as s:
        s.sendall(f"POST {path_of(kind)} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                  f"Content-Length: {len(data)}\r\n\r\n".encode() + data)
        time.sleep(after_s)


def held(port):
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    return [float(line.split()[-1]) for line in text.splitlines()
            if line.startswith("duetto:images_held_bytes")][0]


def compare(port, nets, to, same, case):
    ours = ask(port, body_of(case), case["kind"])
    theirs, no = plain.attempt(by_diffusers, nets, to, same, case)
    if isinstance(ours, str) or theirs is None:
        return "" if isinstance(ours, str) == (theirs is None) else f"refused: ours {ours if isinstance(ours, str) else 'no'}, theirs {no}"
    near = plain.psnr(pixels(ours), theirs)
    if near >= 45:
        return ""
    exact, no = plain.attempt(by_diffusers, nets, to, same, case, torch.float64)
    own = 99 if exact is None else plain.psnr(theirs, exact)
    return f"{near:.1f} dB (diffusers' own rounding: {no or f'{own:.1f} dB'})"


def storm(port, r, requests):
    """Alone, together, cut off: how many of them are wrong."""
    n_bad = 0
    alone = [ask(port, *q) for q in requests]
    refused = [a for a in alone if isinstance(a, str)]
    print(f"{len(requests)} mixes, {len(refused)} refused:", *sorted(set(refused)), sep="\n    ", flush=True)
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda q: ask(port, *q), requests))
        for q, a, b in zip(requests, alone, together):
            if a != b:
                n_bad += 1
                print("not as alone:", json.dumps({k: v for k, v in q[0].items() if k not in ("image", "mask")})[:900],
                      "" if isinstance(b, list) else b, flush=True)
        list(pool.map(lambda q: cut_off(port, *q, r.choice([0.01, 0.05, 0.2, 0.5, 1])), requests * 2))
    for adapter in call(port, "GET", "/v1/adapters")["data"]:
        call(port, "DELETE", f"/v1/adapters/{adapter['id']}") if adapter["loaded"] else None
    for _ in range(100):
        if held(port) == 0:
            return n_bad
        time.sleep(0.2)
    print(f"{held(port):.0f} bytes are still held")
    return n_bad + 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=60)
    parser.add_argument("--storm", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--port", type=int, default=18745)
    args = parser.parse_args()
    plain.prepare_reference()
    r, n_bad = random.Random(args.seed), 0
    with tempfile.TemporaryDirectory() as to:
        to = pathlib.Path(to)
        same = lora.make_adapters(FIXTURES, to)
        reference = for_diffusers(to, same)
        models = {m: FIXTURES / f"sd_{m}" for m in ("sd15", "sdxl", "sd21", "refiner")}
        models |= {"safe": FIXTURES / "sd_safety", "upscale": FIXTURES / "upscale_compact.safetensors"}
        names = sorted({n for some in NETS.values() for n in some})
        models |= {f"net_{n}": FIXTURES / f"control_{n}" for n in names}
        nets = {n: ControlNetModel.from_pretrained(models[f"net_{n}"], torch_dtype=torch.float32) for n in names}
        with plain.serving(models, args.port, "--lora_dir", str(to), "--cache_mib", "1024", "--images_at_once", "16",
                           "--max_image_rows", "16", "--safety", "blur"):
            for model, file in ((m, f) for m, some in WORDS.items() for f, _ in some):
                call(args.port, "POST", "/v1/adapters", {"name": file, "model": model})
            cases = [random_mix(r) for _ in range(args.cases)]
            for case in cases:
                said = compare(args.port, nets, reference, same, case)
                if said:
                    n_bad += 1
                    print(said, json.dumps(case), flush=True)
            requests = [(body_of(c), c["kind"]) for c in cases] + [random_storm(r) for _ in range(args.storm)]
            n_bad += storm(args.port, r, requests)
    print(f"{args.cases} cases and {args.storm} mixes more, {n_bad} of them wrong")
    return n_bad > 0


if __name__ == "__main__":
    sys.exit(main())
