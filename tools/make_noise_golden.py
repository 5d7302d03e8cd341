#!/usr/bin/env python3
"""Writes what diffusers' schedulers make of a small latent, and what torch.randn draws.

    /path/to/refenv/bin/python tools/make_noise_golden.py      (diffusers, scipy, torchsde)

tests/fixtures/noise.jsonl, one JSON object a line:
{"config": scheduler_config.json, "steps", "strength" (0: text to image), "eta", "timesteps" (custom or
null), "inpaint": bool, "in_range" (strength_in_range; absent: false), "sigmas" (custom; absent: none), "choice": a name of ours, where
another class than the config's runs (from_config), "seed", "t": timestep of every call, "scale": of the model's input at each call (absent: 1), "mid": the first numbers of the latent
after half of the calls, "final": latent}  with latents as [c, h, w], or
{"seed", "sizes", "normal": torch.randn of each size, one after the other; of long ones the last 20}.

The model is a function of each number and the timestep: 0.8 tanh(0.9 x + 0.4 cos(t / 50)) - 0.1 x.
"""

import inspect
import json
import warnings
from pathlib import Path

import diffusers
import torch

warnings.filterwarnings("ignore")
diffusers.utils.logging.set_verbosity_error()

C, H, W = 4, 3, 3
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
      "num_train_timesteps": 1000, "clip_sample": False, "steps_offset": 1}
LONG, MID = 200, 12

SIGMAS = ["LMSDiscrete", "EulerDiscrete", "HeunDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete",
          "DPMSolverSDE", "DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep"]
OTHERS = ["DDIM", "DDPM", "PNDM", "EulerAncestralDiscrete", "LCM", "TCD"]
SAMPLE = ["DDIM", "DDPM", "LMSDiscrete", "EulerDiscrete", "HeunDiscrete", "DPMSolverMultistep",
          "DPMSolverSinglestep", "UniPCMultistep", "LCM", "TCD"]
ZERO_SNR = ["DDIM", "DDPM", "EulerDiscrete", "EulerAncestralDiscrete", "DPMSolverMultistep",
            "UniPCMultistep", "LCM", "TCD"]


# What models come with, and our names over it: class, and what the name adds to the config.
SHIPPED = [
    {"_class_name": "EulerDiscreteScheduler", "beta_end": 0.012, "beta_schedule": "scaled_linear",
     "beta_start": 0.00085, "clip_sample": False, "interpolation_type": "linear",
     "num_train_timesteps": 1000, "prediction_type": "epsilon", "sample_max_value": 1.0,
     "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1,
     "timestep_spacing": "leading", "trained_betas": None, "use_karras_sigmas": False},
    {"_class_name": "DDIMScheduler", "beta_end": 0.012, "beta_schedule": "scaled_linear",
     "beta_start": 0.00085, "clip_sample": False, "num_train_timesteps": 1000,
     "prediction_type": "v_prediction", "set_alpha_to_one": False, "skip_prk_steps": True,
     "steps_offset": 1, "trained_betas": None},
]
# They say nothing of clip_sample (DDIM and DDPM then clip), or nothing of the spacing.
SHIPPED_SPARSE = [
    {"_class_name": "EulerDiscreteScheduler", "beta_end": 0.012, "beta_schedule": "scaled_linear",
     "beta_start": 0.00085, "final_sigmas_type": "zero", "interpolation_type": "linear",
     "num_train_timesteps": 1000, "prediction_type": "epsilon", "rescale_betas_zero_snr": False,
     "sigma_max": None, "sigma_min": None, "steps_offset": 1, "timestep_spacing": "linspace",
     "timestep_type": "discrete", "trained_betas": None, "use_karras_sigmas": False},
    {"_class_name": "PNDMScheduler", "beta_end": 0.012, "beta_schedule": "scaled_linear",
     "beta_start": 0.00085, "num_train_timesteps": 1000, "set_alpha_to_one": False,
     "skip_prk_steps": True, "steps_offset": 1, "trained_betas": None},
]
NAMES = {"ddim": "DDIM", "ddpm": "DDPM", "pndm": "PNDM", "lms": "LMSDiscrete",
         "euler": "EulerDiscrete", "euler_a": "EulerAncestralDiscrete", "heun": "HeunDiscrete",
         "dpm2": "KDPM2Discrete", "dpm2_a": "KDPM2AncestralDiscrete",
         "dpmpp_2m": "DPMSolverMultistep", "dpmpp_2m_sde": "DPMSolverMultistep",
         "dpmpp_2s": "DPMSolverSinglestep", "dpmpp_sde": "DPMSolverSDE",
         "unipc": "UniPCMultistep", "lcm": "LCM", "tcd": "TCD"}
ENDINGS = {"karras": {"use_karras_sigmas": True}, "exponential": {"use_exponential_sigmas": True},
           "trailing": {"timestep_spacing": "trailing"}}
ENDED = {"lms": ["karras"], "euler": ["karras", "exponential", "trailing"], "heun": ["karras"],
         "dpm2": ["karras"], "dpm2_a": ["karras"], "dpmpp_2m": ["karras", "exponential", "trailing"],
         "dpmpp_2m_sde": ["karras", "exponential"], "dpmpp_2s": ["karras"],
         "dpmpp_sde": ["karras"], "unipc": ["karras"], "ddim": ["trailing"], "euler_a": ["trailing"]}


class Spread(diffusers.EulerAncestralDiscreteScheduler):
    """Ancestral steps over the sigmas that EulerDiscreteScheduler has: diffusers' own takes no others."""

    def set_timesteps(self, n, device=None):
        euler = diffusers.EulerDiscreteScheduler.from_config(self.config, **self.spread)
        euler.set_timesteps(n)
        self.num_inference_steps = n
        self.sigmas, self.timesteps = euler.sigmas, euler.timesteps
        self._step_index = self._begin_index = None


def model(x, t):
    return 0.8 * torch.tanh(0.9 * x + 0.4 * torch.cos(torch.as_tensor(t).float() / 50)) - 0.1 * x


def picture():
    i = torch.arange(C * H * W, dtype=torch.float32).reshape(1, C, H, W)
    return torch.sin(0.7 * i)


def mask():
    return (torch.arange(H * W).reshape(1, 1, H, W) % 3 != 0).float()


def start(s, case, g):
    """Timesteps and the first latent, as the pipelines make them; the noise too."""
    n = case["steps"]
    if case.get("in_range"):
        s.set_timesteps(n, strength=case["strength"])
        noise = torch.randn(1, C, H, W, generator=g)
        return s.timesteps, s.add_noise(picture(), noise, s.timesteps[:1]), noise
    if case.get("sigmas"):
        s.set_timesteps(sigmas=case["sigmas"])
    elif case["timesteps"]:
        s.set_timesteps(timesteps=case["timesteps"])
        n = len(case["timesteps"])
    else:
        s.set_timesteps(n)
    noise = torch.randn(1, C, H, W, generator=g)
    if not case["strength"]:
        return s.timesteps, noise * s.init_noise_sigma, noise
    begin = max(n - min(int(n * case["strength"]), n), 0) * s.order
    t = s.timesteps[begin:]
    if hasattr(s, "set_begin_index"):
        s.set_begin_index(begin)
    return t, s.add_noise(picture(), noise, t[:1]), noise


def run(case):
    config = dict(case["config"])
    kind = getattr(diffusers, config.pop("_class_name"))
    if "choice" in case:
        config, kind = kind.from_config(config).config, case.pop("kind")
    added = case.pop("added", {})
    if kind is diffusers.DPMSolverSDEScheduler:
        added["noise_sampler_seed"] = case["seed"]
    s = kind.from_config(config, **added)
    g = torch.Generator("cpu").manual_seed(case["seed"])
    times, x, noise = start(s, case, g)
    takes = inspect.signature(s.step).parameters
    extra = {"eta": case["eta"]} if "eta" in takes else {}
    if "generator" in takes:
        extra["generator"] = g
    case.update(t=[], scale=[])
    for i, t in enumerate(times):
        scaled = s.scale_model_input(x, t)
        case["t"].append(float(t))
        case["scale"].append(float((scaled / x).median()))
        x = s.step(model(scaled, t), t, x, **extra, return_dict=False)[0]
        if case["inpaint"]:
            known = picture()
            if i + 1 < len(times):
                known = s.add_noise(known, noise, torch.tensor([times[i + 1]]))
            x = (1 - mask()) * known + mask() * x
        if i == len(times) // 2 and len(times) > 2:
            case["mid"] = x.flatten()[:MID].tolist()
    case["final"] = x.flatten().tolist()
    if all(k == 1 for k in case["scale"]):
        del case["scale"]
    if not torch.isfinite(x).all():
        raise ValueError("not finite")
    return case


def cases():
    def case(name, steps=5, config=None, **more):
        c = {"config": {"_class_name": name + "Scheduler"} | SD | (config or {}), "steps": steps}
        return c | {"strength": 0, "eta": 0, "timesteps": None, "inpaint": False} | more

    for name in SIGMAS + OTHERS:
        extra = {"skip_prk_steps": True} if name == "PNDM" else {}
        yield from (case(name, n, extra) for n in (1, 2, 5, 20))
        for spacing in ("leading", "linspace", "trailing"):
            yield case(name, 5, extra | {"timestep_spacing": spacing})
        for strength in (0.3, 0.75, 1.0):
            yield case(name, 7, extra, strength=strength)
        yield case(name, 5, extra, strength=0.8, inpaint=True)
        for n in (5, 20):
            yield case(name, n, extra | {"prediction_type": "v_prediction"})
            if name in SAMPLE:
                yield case(name, n, {"prediction_type": "sample"})
        if name in SIGMAS:
            for n, how in [(1, "karras"), (5, "karras"), (20, "karras"), (5, "exponential")]:
                yield case(name, n, {f"use_{how}_sigmas": True})
            yield case(name, 6, {"use_karras_sigmas": True}, strength=0.5)
        if name in ZERO_SNR:
            yield case(name, 5, {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing",
                                 "prediction_type": "v_prediction"})
        yield case(name, 4, {"beta_schedule": "linear", "num_train_timesteps": 400} | extra)

    def chosen(config, steps):
        for name, ending in [(n, end) for n in NAMES for end in [""] + ENDED.get(n, [])]:
            added = dict(ENDINGS.get(ending, {}))
            added |= {"algorithm_type": "sde-dpmsolver++"} if name == "dpmpp_2m_sde" else {}
            yield case("", steps, choice=f"{name}_{ending}".strip("_"), added=added,
                       kind=getattr(diffusers, NAMES[name] + "Scheduler")) | {"config": config}

    for config in SHIPPED:
        yield from chosen(config, 4)

    for eta in (0.5, 1.0):
        yield case("DDIM", 5, {"clip_sample": True}, eta=eta)
    yield case("DDIM", 5, {"set_alpha_to_one": False})
    yield case("DDPM", 5, {"clip_sample": True, "clip_sample_range": 0.7})
    yield case("PNDM", 6, {"skip_prk_steps": False})
    yield case("PNDM", 4, {"skip_prk_steps": False, "prediction_type": "v_prediction"})
    yield case("PNDM", 4, {"skip_prk_steps": True, "set_alpha_to_one": True})
    yield case("HeunDiscrete", 5, {"clip_sample": True})
    yield case("EulerDiscrete", 5, {"sigma_min": 0.1, "sigma_max": 10, "use_karras_sigmas": True})
    yield case("EulerDiscrete", 5, {"final_sigmas_type": "sigma_min"})
    for eta in (0.3, 0.7):
        yield case("TCD", 4, eta=eta)
        yield case("TCD", 4, eta=eta, strength=0.6)
    for name in ("LCM", "TCD"):
        yield from (case(name, 4, strength=x, in_range=True) for x in (0.3, 0.75, 1.0))
    yield case("LCM", 4, {"original_inference_steps": 100, "timestep_scaling": 2.0})
    sde = {"algorithm_type": "sde-dpmsolver++"}
    for name in ("DPMSolverMultistep", "DPMSolverSinglestep"):
        yield from (case(name, n, sde) for n in (1, 2, 5, 20))
        yield case(name, 5, sde | {"solver_type": "heun", "prediction_type": "v_prediction"})
        yield case(name, 5, sde, strength=0.7)
        yield case(name, 5, sde | {"use_karras_sigmas": True})
        yield from (case(name, n, {"solver_type": "heun"}) for n in (5, 16))
        yield from (case(name, n, {"solver_order": 3}) for n in (1, 2, 3, 7, 8, 9, 16, 17, 18))
        yield case(name, 9, {"solver_order": 3, "solver_type": "heun"})
        yield case(name, 9, sde | {"solver_order": 3})
        yield case(name, 9, sde | {"solver_order": 3, "solver_type": "heun"})
        yield case(name, 8, {"solver_order": 3}, strength=0.6)
        yield case(name, 5, {"solver_order": 1})
        yield case(name, 6, {"final_sigmas_type": "sigma_min", "lower_order_final": False})
        yield case(name, 5, {"final_sigmas_type": "sigma_min"})
        yield case(name, 5, {"lambda_min_clipped": -5.1, "beta_schedule": "squaredcos_cap_v2"})
        yield case(name, 5, timesteps=[999, 700, 400, 210, 77])
    yield case("DPMSolverMultistep", 5, {"use_karras_sigmas": True,
                                         "beta_schedule": "squaredcos_cap_v2"})
    yield case("DPMSolverMultistep", 20, {"euler_at_final": True})
    for n in (3, 7, 20):
        yield case("UniPCMultistep", n, {"solver_order": 3})
        yield case("UniPCMultistep", n, {"solver_order": 3, "solver_type": "bh1"})
    yield case("UniPCMultistep", 5, {"solver_order": 1})
    yield case("UniPCMultistep", 5, {"solver_type": "bh1", "final_sigmas_type": "sigma_min"})
    yield case("UniPCMultistep", 5, {"use_karras_sigmas": True, "final_sigmas_type": "sigma_min"})
    yield case("UniPCMultistep", 8, {"solver_order": 3}, strength=0.6)
    for name in ("EulerDiscrete", "HeunDiscrete", "DDPM", "LCM", "TCD"):
        yield case(name, 4, timesteps=[999, 739, 519, 259])
    yield case("EulerDiscrete", 4, {"timestep_spacing": "trailing"}, timesteps=[999, 749, 499, 249])
    for config in SHIPPED_SPARSE:
        yield from chosen(config, 9)
    # PNDM's Runge-Kutta steps from the middle; a last sigma that the class does not know.
    for n, strength in ((4, 0.5), (7, 0.3), (20, 0.75)):
        yield case("PNDM", n, {"skip_prk_steps": False}, strength=strength)
    for name in ("LMSDiscrete", "EulerAncestralDiscrete", "HeunDiscrete", "KDPM2Discrete", "DPMSolverSDE"):
        yield case(name, 3, {"final_sigmas_type": "sigma_min"})
    for sigmas in ([14.6, 6.3, 3.2, 1.1, 0.4, 0.0], [9.5, 2.0, 0.3], [0.7, 0.0]):
        yield case("EulerDiscrete", len(sigmas) - 1, sigmas=sigmas)
        yield case("EulerDiscrete", len(sigmas) - 1, {"use_karras_sigmas": True, "prediction_type": "v_prediction"},
                   sigmas=sigmas, strength=1.0)
    yield case("EulerDiscrete", 5, {"timestep_spacing": "leading"}, sigmas=[12.0, 5.0, 2.5, 1.0, 0.2, 0.0],
               strength=0.6)
    for config in (*SHIPPED, *SHIPPED_SPARSE):
        for how in ("karras", "exponential"):
            kind = type("Spread", (Spread,), {"spread": ENDINGS[how]})
            for more in ({}, {"strength": 0.6}):
                yield case("", 5, choice=f"euler_a_{how}", added={}, kind=kind, **more) | {"config": config}


def rounded(v):
    if isinstance(v, float):
        return float(f"{v:.6g}")
    return [rounded(x) for x in v] if isinstance(v, list) else v


def normals():
    sizes = [[1], [5, 3, 1], [15, 2], [16], [17], [31, 16, 7, 100], [3, 16, 3], [7548, 3, 33], [9216]]
    for seed in (0, 42, 2**32 + 5, 2**63 + 7, 2**64 - 1):
        for s in sizes:
            g = torch.Generator("cpu").manual_seed(seed if seed < 2**63 else seed - 2**64)
            drawn = [torch.randn(n, generator=g) for n in s]
            values = [x.item() for d in drawn for x in (d[-20:] if len(d) > LONG else d)]
            yield {"seed": str(seed), "sizes": s, "normal": [float(f"{v:.9g}") for v in values]}


def main():
    lines, dropped = [], []
    for i, case in enumerate(cases()):
        case["seed"] = 1000 + i
        try:
            run(case)
        except Exception as e:
            dropped.append((case["config"]["_class_name"], case["steps"], str(e)[:90]))
            continue
        lines.append({k: rounded(v) for k, v in case.items()})
    lines += list(normals())
    text = "".join(json.dumps(x, separators=(",", ":")) + "\n" for x in lines)
    Path("tests/fixtures/noise.jsonl").write_text(text)
    print(f"{len(lines)} lines, {len(text)} bytes")
    for d in dropped:
        print("diffusers does not make", *d)


main()
