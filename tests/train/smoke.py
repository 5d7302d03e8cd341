"""A short run of every training script: they start, train, go on exactly from a checkpoint, export, measure.

    PYTHON tests/train/smoke.py        # a Python with torch, diffusers, transformers (tools/train/requirements.txt)

Some seconds in one process, in a scratch folder.  Without the emoji font or the CLDR names of Debian the
world is a dozen coloured discs.  Ends with `N passed, N failed`.
"""
import json
import os
import runpy
import sys
import tempfile
import traceback

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TRAIN = os.path.join(ROOT, "tools", "train")
sys.path.insert(0, TRAIN)


def call(script, *args):
    """Runs a script of tools/train in this process."""
    before, sys.argv = sys.argv, [script, *map(str, args)]
    try:
        return runpy.run_path(os.path.join(TRAIN, script), run_name="__main__")
    finally:
        sys.argv = before


def discs(path):
    """A stand-in for the world: 12 discs."""
    import numpy as np
    import world
    y, x = np.mgrid[:128, :128] - 64
    images, caps = [], []
    for i in range(12):
        inside = (x * x + y * y < (20 + 3 * i) ** 2)[..., None]
        images.append(np.where(inside, np.uint8([20 * i, 255 - 20 * i, 90]), np.uint8(255)))
        caps.append(json.dumps({"cp": "x", "en": f"disc {i}", "it": f"disco {i}", "ken": ["round"], "kit": []}))
    images = np.stack(images).astype(np.uint8)
    alpha = (images.min(3) < 255).astype(np.uint8) * 255
    np.savez(path, images=images, captions=np.array(caps), alpha=alpha, n_world=12, all=world.small(images))


def test_world(at):
    import world
    if os.path.exists(world.FONT) and os.path.exists(world.CLDR):
        call("world.py", "--limit", 12, "--out", at("world.npz"))
    else:
        discs(at("world.npz"))
    images, caps, n_world, every = world.load(at("world.npz"))
    assert images.shape == (12, 128, 128, 3) and n_world == 12 == len(caps) and len(every) >= 12


def test_vae(at):
    call("train_vae.py", "--data", at("world.npz"), "--out", at("vae.pt"), "--steps", 3)


def test_vae_decoder(at):
    call("train_vae.py", "--data", at("world.npz"), "--out", at("vae.pt"), "--decoder", at("decoder.pt"), "--steps", 1)


def test_text(at):
    call("train_text.py", "--data", at("world.npz"), "--vae", at("vae.pt"), "--out", at("text.pt"), "--batch", 4,
         "--vocab", 700, "--components", 4, "--steps", 2)


def sd(at, out, *args):
    call("train_sd.py", "--data", at("world.npz"), "--vae", at("vae.pt"), "--out", at(out), "--batch", 2,
         "--text", at("text.pt"), "--steps", 4, *args)


def test_sd_goes_on_exactly(at):
    import torch
    sd(at, "sd.pt", "--stop-after", 2)
    with open(at("sd.pt"), "rb") as f, open(at("twin.pt"), "wb") as g:
        g.write(f.read())
    sd(at, "sd.pt", "--stop-after", 2)
    sd(at, "twin.pt", "--stop-after", 1)
    sd(at, "twin.pt", "--stop-after", 1)
    a, b = (torch.load(at(n), weights_only=False) for n in ("sd.pt", "twin.pt"))
    assert a["step"] == b["step"] == 4
    assert all(torch.equal(x, y) for x, y in zip(a["ema"], b["ema"]))


def test_sd_export(at):
    sd(at, "sd.pt", "--export", at("emoji-sd"), "--decoder", at("decoder.pt"))
    call("eval_emoji_sd.py", "--data", at("world.npz"), "--model", at("emoji-sd"), "--n", 2, "--steps", 2)


def test_lcm(at):
    args = ("--data", at("world.npz"), "--vae", at("vae.pt"), "--teacher", at("sd.pt"), "--out", at("lcm.pt"), "--batch", 2)
    call("distill_sd.py", *args, "--steps", 2)
    call("distill_sd.py", *args, "--export", at("emoji-sd-lcm"))
    call("eval_emoji_sd.py", "--data", at("world.npz"), "--model", at("emoji-sd-lcm"), "--n", 2, "--steps", 4,
         "--guidance", 1, "--skip-psnr", 1)


def test_blip(at):
    args = ("--data", at("world.npz"), "--out", at("blip.pt"), "--batch", 4, "--vocab", 200)
    call("train_blip.py", *args, "--steps", 2)
    call("draw_world.py", "--data", at("world.npz"), "--model", at("emoji-sd-lcm"), "--out", at("drawn.npz"), "--steps", 1)
    call("train_blip.py", *args, "--steps", 3, "--drawn", at("drawn.npz"))
    call("train_blip.py", *args, "--export", at("emoji-blip"))
    call("eval_emoji_blip.py", "--data", at("world.npz"), "--model", at("emoji-blip"), "--n", 4, "--sd", at("emoji-sd"),
         "--steps", 1)


def main():
    passed = failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, test in [(n, f) for n, f in globals().items() if n.startswith("test_")]:
            try:
                test(lambda file: os.path.join(folder, file))
                passed += 1
                print("ok    ", name, flush=True)
            except Exception:
                failed += 1
                traceback.print_exc()
                print("FAILED", name, flush=True)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
