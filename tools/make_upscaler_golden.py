#!/usr/bin/env python3
"""Tiny super-resolution networks and what they make of a picture, for tests/golden/test_upscaler.c.

The modules are written here from the papers' figures: RRDBNet (Wang et al. 2018), which torch runs in its
three namings, and SRVGGNetCompact (Wang et al. 2021).  Writes tests/fixtures/upscale_NAME.safetensors
and upscale.bin: the results [height, width, 3] of all of them, one after the other.

    build/venv-image/bin/python tools/make_upscaler_golden.py [--out tests/fixtures]
"""
import argparse
import pathlib

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "fixtures"
W, H = 21, 18  # of the picture; odd, so that foldings have to fill up


def picture():
    y, x = np.mgrid[0:H, 0:W]
    return np.stack([(x * 11 + y) % 256, (y * 13) % 256, (x * y * 3) % 256], -1).astype(np.uint8)


class Dense(nn.Module):
    def __init__(self, c, growth):
        super().__init__()
        for k in range(5):
            conv = nn.Conv2d(c + k * growth, growth if k < 4 else c, 3, padding=1)
            setattr(self, f"conv{k + 1}", conv)

    def forward(self, x):
        seen = [x]
        for k in range(4):
            seen.append(F.leaky_relu(getattr(self, f"conv{k + 1}")(torch.cat(seen, 1)), 0.2))
        return x + 0.2 * self.conv5(torch.cat(seen, 1))


class Block(nn.Module):
    def __init__(self, c, growth):
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = (Dense(c, growth) for _ in range(3))

    def forward(self, x):
        return x + 0.2 * self.rdb3(self.rdb2(self.rdb1(x)))


class RRDBNet(nn.Module):
    def __init__(self, c, growth, blocks, ups, fold):
        super().__init__()
        self.fold, self.ups = fold, ups
        self.conv_first = nn.Conv2d(3 * fold * fold, c, 3, padding=1)
        self.body = nn.ModuleList(Block(c, growth) for _ in range(blocks))
        self.conv_body = nn.Conv2d(c, c, 3, padding=1)
        for k in range(ups):
            setattr(self, f"conv_up{k + 1}", nn.Conv2d(c, c, 3, padding=1))
        self.conv_hr = nn.Conv2d(c, c, 3, padding=1)
        self.conv_last = nn.Conv2d(c, 3, 3, padding=1)

    def forward(self, x):
        h, w = x.shape[2:]
        f = self.fold
        x = F.pad(x, (0, -w % f, 0, -h % f), "reflect")
        x = first = self.conv_first(F.pixel_unshuffle(x, f))
        for block in self.body:
            x = block(x)
        x = first + self.conv_body(x)
        for k in range(self.ups):
            up = getattr(self, f"conv_up{k + 1}")
            x = F.leaky_relu(up(F.interpolate(x, scale_factor=2, mode="nearest")), 0.2)
        x = self.conv_last(F.leaky_relu(self.conv_hr(x), 0.2))
        scale = 2**self.ups // f
        return x[:, :, :h * scale, :w * scale]


class Compact(nn.Module):
    def __init__(self, c, convs, scale):
        super().__init__()
        self.scale = scale
        layers = [nn.Conv2d(3, c, 3, padding=1), nn.PReLU(c)]
        for _ in range(convs):
            layers += [nn.Conv2d(c, c, 3, padding=1), nn.PReLU(c)]
        self.body = nn.Sequential(*layers, nn.Conv2d(c, 3 * scale * scale, 3, padding=1))

    def forward(self, x):
        return F.pixel_shuffle(self.body(x), self.scale) + F.interpolate(
            x, scale_factor=self.scale, mode="nearest")


def first_names(name, blocks, ups):
    """conv_first ... as the sequence of the first ESRGAN."""
    part, rest = name.split(".", 1)
    numbers = {"conv_first": 0} | {f"conv_up{k + 1}": 3 + 3 * k for k in range(ups)}
    numbers |= {"conv_hr": 2 + 3 * ups, "conv_last": 4 + 3 * ups}
    if part in numbers:
        return f"model.{numbers[part]}.{rest}"
    if part == "conv_body":
        return f"model.1.sub.{blocks}.{rest}"
    block, rdb, conv, what = rest.split(".")
    return f"model.1.sub.{block}.{rdb.upper()}.{conv}.0.{what}"


def second_names(name):
    for a, b in (("rdb", "RDB"), ("body.", "RRDB_trunk."), ("conv_body", "trunk_conv"),
                 ("conv_up", "upconv"), ("conv_hr", "HRconv")):
        name = name.replace(a, b) if not (a == "body." and name.startswith("conv_")) else name
    return name


def make(seed, net):
    torch.manual_seed(seed)
    for p in net.parameters():
        nn.init.normal_(p, 0.0, 0.12) if p.ndim > 1 else nn.init.normal_(p, 0.05, 0.1)
    nets_last = net.body[-1] if isinstance(net, Compact) else net.conv_last
    with torch.no_grad():  # a picture of many grays: neither black nor white all over
        nets_last.bias.fill_(0.0 if isinstance(net, Compact) else 0.5)
    return net.half().float().eval()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=pathlib.Path, default=OUT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    first = make(1, RRDBNet(8, 4, 2, 2, 1))
    cases = {
        "first": (first, lambda n: first_names(n, 2, 2)),
        "second": (make(2, RRDBNet(6, 3, 1, 2, 1)), second_names),
        "fold2": (make(3, RRDBNet(6, 3, 1, 2, 2)), lambda n: "params_ema." + n),
        "fold4": (make(4, RRDBNet(6, 3, 1, 2, 4)), lambda n: n),
        "one": (make(5, RRDBNet(6, 3, 1, 0, 1)), lambda n: first_names(n, 1, 0)),
        "compact": (make(6, Compact(8, 3, 4)), lambda n: "params." + n),
    }
    x = torch.from_numpy(picture()).permute(2, 0, 1)[None].float() / 255
    data = b""
    for name, (net, rename) in cases.items():
        with torch.no_grad():
            y = net(x).clamp(0, 1)[0].permute(1, 2, 0).numpy()
        print(f"{name}: {y.shape[1]}x{y.shape[0]}, mean {y.mean():.3f}, deviation {y.std():.3f}")
        data += (y * 255).round().astype(np.uint8).tobytes()
        tensors = {rename(k): v.half().contiguous() for k, v in net.state_dict().items()}
        save_file(tensors, args.out / f"upscale_{name}.safetensors")
    (args.out / "upscale.bin").write_bytes(data)


if __name__ == "__main__":
    main()
