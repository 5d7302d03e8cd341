"""Distils emoji-sd into its few-step variant by latent consistency (LCM): 4 steps, no guidance.

    python tools/train/distill_sd.py --data world.npz --vae work/vae.pt --teacher work/sd.pt --out work/lcm.pt
    python tools/train/distill_sd.py ... --export models/emoji-sd-lcm   # beside models/emoji-sd

The teacher is the averaged UNet of train_sd.py.  It makes one DDIM step (of --solver-steps) with guidance drawn
from [2, 4]; the student must say the same picture before and after that step.  Only the UNet is new: the
export links text encoder, tokenizer and VAE to ../emoji-sd, and names LCMScheduler.
"""
import os

import torch
from diffusers import LCMScheduler
from transformers import CLIPTokenizer

import world
from common import Run, arguments, mixed, write_half, write_json
from train_sd import build, caption, epoch, ids_of, noisy, scheduler
from train_vae import frozen


def teacher_of(path):
    """(text encoder, UNet, tokenizer) with averaged weights, frozen."""
    c = torch.load(path, weights_only=False)
    tok = CLIPTokenizer.from_pretrained(path + ".tokenizer")
    text, unet = build(len(tok))
    for q, e in zip([*text.parameters(), *unet.parameters()], c["ema"]):
        q.data.copy_(e)
    return text.eval().requires_grad_(False), unet.eval().requires_grad_(False), tok


def lcm_scheduler(train):
    keep = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "clip_sample", "set_alpha_to_one",
            "steps_offset", "prediction_type")
    return LCMScheduler(**{k: train.config[k] for k in keep})


class Consistency:
    """f(x, t): the clean latents, equal to x at t = 0 (LCM's boundary condition)."""

    def __init__(self, abar):
        self.abar = abar

    def clean(self, x, v, t):
        s = self.abar[t].view(-1, 1, 1, 1)
        return s.sqrt() * x - (1 - s).sqrt() * v, (1 - s).sqrt() * x + s.sqrt() * v     # x0, noise

    def f(self, x, v, t):
        scaled = (t * 10).view(-1, 1, 1, 1).float()
        skip, out = .25 / (scaled ** 2 + .25), scaled / (scaled ** 2 + .25).sqrt()
        return skip * x + out * self.clean(x, v, t)[0]


def export(folder, unet, sched):
    write_half(os.path.join(folder, "unet"), "diffusion_pytorch_model.safetensors", unet)
    unet.save_config(os.path.join(folder, "unet"))
    sched.save_pretrained(os.path.join(folder, "scheduler"))
    for part in ("text_encoder", "tokenizer", "vae"):
        if not os.path.lexists(os.path.join(folder, part)):
            os.symlink("../emoji-sd/" + part, os.path.join(folder, part))
    write_json(os.path.join(folder, "generation_config.json"), {"num_inference_steps": 4, "guidance_scale": 1.0})
    none = [None, None]
    write_json(os.path.join(folder, "model_index.json"), {
        "_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.30.0", "feature_extractor": none,
        "image_encoder": none, "requires_safety_checker": False, "safety_checker": none,
        "scheduler": ["diffusers", "LCMScheduler"], "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"], "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"]})


def main():
    a = arguments(__doc__, vae="vae.pt", teacher="sd.pt", out="lcm.pt", steps=2000, lr=2e-4, batch=32, export="",
                  solver_steps=50)
    torch.manual_seed(a.seed)
    images, caps, n_world, _ = world.load(a.data)
    text, teacher, tok = teacher_of(a.teacher)
    student = build(len(tok))[1]
    student.load_state_dict(teacher.state_dict())
    run = Run(a.out, {"unet": student}, a, a.lr, ema=.995, weight_decay=0.)
    if a.export:
        run.use_average()
        export(a.export, student, lcm_scheduler(scheduler()))
        return
    _, z = frozen(a.vae, images)
    target = build(len(tok))[1].eval().requires_grad_(False)
    abar, order = scheduler().alphas_cumprod, run.extra.setdefault("order", [])
    consistency, stride = Consistency(abar), 1000 // a.solver_steps
    nothing = text(input_ids=ids_of(tok, [""]))[0]
    student.train()
    while run.running(a.steps):
        if len(order) < a.batch:
            order += epoch(caps, n_world, run.rng)
        pick, order[:] = order[:a.batch], order[a.batch:]
        context = text(input_ids=ids_of(tok, [caption(caps[i], run.rng) for i in pick]))[0]
        t = torch.randint(1, a.solver_steps + 1, (a.batch,)) * stride - 1
        before = (t - stride).clamp(min=0)
        x, _ = noisy(z[pick], t, abar)
        with torch.no_grad(), mixed():
            for q, e in zip(target.parameters(), run.ema):
                q.copy_(e)
            with_words, without = teacher(x.repeat(2, 1, 1, 1), t.repeat(2),
                                          torch.cat([context, nothing.expand(a.batch, -1, -1)])).sample.float().chunk(2)
            w = 2 + 2 * torch.rand(a.batch, 1, 1, 1)
            x0, noise = consistency.clean(x, without + w * (with_words - without), t)
            s = abar[before].view(-1, 1, 1, 1)
            nearer = s.sqrt() * x0 + (1 - s).sqrt() * noise
            aim = consistency.f(nearer, target(nearer, before, context).sample.float(), before)
        with mixed():
            v = student(x, t, context).sample
        d = consistency.f(x, v.float(), t) - aim
        run.update(((d.square() + 1e-3 ** 2).sqrt() - 1e-3).mean(), a.steps)
    print(f"step {run.step}, {run.seconds / 3600:.2f} CPU hours")


if __name__ == "__main__":
    main()
