"""What the training scripts share: checkpoints that restart exactly, averages of weights, the cosine.

A checkpoint is one file, replaced in one move: weights, their moving average, the optimizer's state, the
step and the state of the random generators.  A run that was stopped goes on bit for bit where it was, as
long as the number of threads is the same.
"""
import argparse
import contextlib
import json
import math
import os
import signal
import time

import numpy as np
import torch
from safetensors.torch import save_file


def arguments(doc, **defaults):
    """The options every script has; a keyword adds one with that default."""
    p = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", default="world.npz", help="the file world.py wrote")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--save-every", type=float, default=180, help="seconds between checkpoints")
    p.add_argument("--stop-after", type=int, default=0, help="stop cleanly after so many steps of this call")
    for name, value in defaults.items():
        p.add_argument("--" + name.replace("_", "-"), type=type(value), default=value)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.set_flush_denormal(True)
    return a


@contextlib.contextmanager
def mixed():
    """bf16 for convolutions and matrices; norms and attention, slow in bf16 on CPUs, stay in fp32."""
    f, names = torch.nn.functional, ("group_norm", "layer_norm", "scaled_dot_product_attention")
    old = {n: getattr(f, n) for n in names}

    def precise(fn):
        def call(*args, **kw):
            with torch.autocast("cpu", enabled=False):
                return fn(*(v.float() if torch.is_tensor(v) and v.dtype == torch.bfloat16 else v for v in args), **kw)
        return call
    for n in names:
        setattr(f, n, precise(old[n]))
    try:
        with torch.autocast("cpu", torch.bfloat16):
            yield
    finally:
        for n in names:
            setattr(f, n, old[n])


def cosine(step, steps, warm=100, floor=.02):
    """The factor of the learning rate: a short rise, then one half cosine over all the steps."""
    return min(1, (step + 1) / warm) * (floor + (1 - floor) * (.5 + .5 * math.cos(math.pi * min(1, step / steps))))


def orthogonal(g):
    """The matrix nearest to a multiple of g whose singular values are near 1 (Newton-Schulz, Jordan et al. 2024)."""
    x = g.bfloat16()
    x = x.T if g.shape[0] > g.shape[1] else x
    x = x / (x.norm() + 1e-7)
    for a, b, c in ((4.0848, -6.8946, 2.9270), (3.9505, -6.3029, 2.6377), (3.7418, -5.5913, 2.3037),
                    (2.8769, -3.1427, 1.2046), (2.8366, -3.0525, 1.2012)):
        s = x @ x.T
        x = a * x + (b * s + c * s @ s) @ x
    return (x.T if g.shape[0] > g.shape[1] else x).to(g.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum whose steps are made orthogonal, for matrices and convolutions; the rate is AdamW's (Liu et al. 2025)."""

    def __init__(self, params, lr, momentum=.95, weight_decay=1e-2):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for g in self.param_groups:
            for p in (q for q in g["params"] if q.grad is not None):
                m = self.state[p].setdefault("momentum", torch.zeros_like(p))
                m.lerp_(p.grad, 1 - g["momentum"])
                step = orthogonal(p.grad.lerp(m, g["momentum"]).flatten(1)).view(p.shape)
                p.mul_(1 - g["lr"] * g["weight_decay"])
                p.add_(step, alpha=-.2 * g["lr"] * max(p.shape[0], p[0].numel()) ** .5)


class Run:
    """The trained parameters with all that must survive a restart.

    modules: name -> torch module; the average is kept of every parameter.  lr: the top learning rate.
    muon: the parameters that Muon moves, AdamW moves the others.
    """

    def __init__(self, path, modules, a, lr, ema=.999, weight_decay=1e-2, muon=()):
        self.path, self.modules, self.a, self.lr, self.decay = path, modules, a, lr, ema
        self.params = [q for m in modules.values() for q in m.parameters() if q.requires_grad]
        self.ema = [q.detach().clone() for q in self.params]
        square = {id(q) for q in muon}
        self.opts = [torch.optim.AdamW([q for q in self.params if id(q) not in square], lr=lr, betas=(.9, .99),
                                       weight_decay=weight_decay, fused=True)]
        if square:
            self.opts.append(Muon(list(muon), lr, weight_decay=weight_decay))
        self.rng = np.random.default_rng(a.seed)
        self.step, self.mean, self.extra, self.seconds = 0, {}, {}, 0.
        self.started, self.saved, self.told = time.process_time(), time.time(), time.time()
        self.first, self.stop = 0, False
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "stop", True))
        if os.path.exists(path):
            self.load()

    def load(self):
        c = torch.load(self.path, weights_only=False)
        for name, m in self.modules.items():
            m.load_state_dict(c["modules"][name])
        for opt, state in zip(self.opts, c["opts"]):
            opt.load_state_dict(state)
        for e, saved in zip(self.ema, c["ema"]):
            e.copy_(saved)
        torch.set_rng_state(c["torch"])
        self.rng.bit_generator.state = c["numpy"]
        self.step, self.mean, self.extra, self.seconds = c["step"], c["mean"], c["extra"], c["seconds"]
        self.first = self.step
        print(f"going on from step {self.step}", flush=True)

    def save(self):
        self.seconds += time.process_time() - self.started          # of the processor, all threads
        self.started, self.saved = time.process_time(), time.time()
        torch.save({"modules": {n: m.state_dict() for n, m in self.modules.items()}, "ema": self.ema,
                    "opts": [opt.state_dict() for opt in self.opts], "torch": torch.get_rng_state(), "extra": self.extra,
                    "numpy": self.rng.bit_generator.state, "step": self.step, "mean": self.mean,
                    "seconds": self.seconds}, self.path + ".part")
        os.replace(self.path + ".part", self.path)

    def running(self, steps):
        """Whether one more of `steps` is due; saves when time has passed, and at the end."""
        done = self.step >= steps or self.stop or 0 < self.a.stop_after <= self.step - self.first
        if done or time.time() - self.saved > self.a.save_every:
            self.save()
        return not done

    def update(self, loss, steps, **losses):
        """One step down the gradient of `loss`, and one of the average."""
        lr = self.lr * cosine(self.step, steps)
        for opt in self.opts:
            for g in opt.param_groups:
                g["lr"] = lr
            opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.params, 1.)
        for opt in self.opts:
            opt.step()
        self.step += 1
        keep = min(self.decay, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(self.ema, self.params, 1 - keep)
        for name, value in {"loss": loss, **losses}.items():
            self.mean[name] = .99 * self.mean.get(name, value.item()) + .01 * value.item()
        if self.step % 100 == 0:
            told = " ".join(f"{n} {v:.4f}" for n, v in self.mean.items())
            rate, self.told = 100 / (time.time() - self.told), time.time()
            print(f"step {self.step}/{steps} {told} lr {lr:.1e} {rate:.2f} steps/s", flush=True)

    def use_average(self):
        """Puts the averaged weights into the modules (for good: save before, not after)."""
        with torch.no_grad():
            for q, e in zip(self.params, self.ema):
                q.copy_(e)


def write_half(folder, name, module, skip=("position_ids",), prefix=""):
    """The module's tensors in fp16, under their own names, which begin with the prefix."""
    os.makedirs(folder, exist_ok=True)
    state = {k if k.startswith(prefix) else prefix + k: v.detach().half().contiguous()
             for k, v in module.state_dict().items() if not k.endswith(skip)}
    save_file(state, os.path.join(folder, name), metadata={"format": "pt"})
    os.chmod(os.path.join(folder, name), 0o644)


def write_json(path, value):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as f:
        json.dump(value, f, indent=2, ensure_ascii=False)
        f.write("\n")
