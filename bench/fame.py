"""FAME's mask and merge against a plain composition of the published steps.

`plain_fame` writes every step of the mask as one would on paper: whole-tensor differences, a blur in two
dimensions, HSV, scatter histograms, an arithmetic merge. It is slow on purpose and independent of the
library, so the tests compare with it, too.
"""

import math
import time

import torch
import torch.nn.functional as F

from mvnb import mixing

BATCH, FRAMES, SIZES = 8, 16, (112, 224)


def blur_2d(image):
    "Gaussian blur of `[B,H,W]` with the full two-dimensional kernel, reflected border."
    kernel = int(0.1 * image.shape[-2]) // 2 * 2 + 1
    taps = torch.exp(-0.5 * ((torch.arange(kernel) - kernel // 2) / (kernel / 3)) ** 2)
    weight = torch.outer(taps, taps)
    padded = F.pad(image[:, None], [kernel // 2] * 4, mode="reflect")
    return F.conv2d(padded, (weight / weight.sum())[None, None])[:, 0]


def scaled(image):
    "Each image of the batch in [0, 1]."
    flat = image.flatten(1)
    low, high = flat.min(1).values[:, None, None], flat.max(1).values[:, None, None]
    return (image - low) / (high - low + 1e-8)


def hsv(image):
    "`[B,3,H,W]` to hue in radians, saturation, value."
    value, brightest = image.max(1)
    chroma = value - image.min(1).values
    divisor = torch.where(chroma == 0, torch.ones_like(chroma), chroma)
    red, green, blue = (value - channel for channel in image.unbind(1))
    sectors = (
        torch.stack([blue - green, 2 * chroma + red - blue, 4 * chroma + green - red], 1) / divisor[:, None]
    )
    hue = sectors.gather(1, brightest[:, None])[:, 0]
    return (hue / 6) % 1 * 2 * math.pi, chroma / (value + 1e-8), value


def histogram(codes):
    "Counts `[B,1000]` of codes `[B,N]`."
    return torch.zeros(len(codes), 1000).scatter_add_(1, codes, torch.ones(codes.shape))


def plain_mask(clip, beta=0.5):
    "FAME's mask `[B,H,W]` as 0.0 and 1.0, step by step."
    batch, _, _, height, width = clip.shape
    pixels = height * width
    difference = (clip[:, :, 1:] - clip[:, :, :-1]).abs().sum(1).mean(1)
    seed = scaled(blur_2d(difference)).flatten(1)
    hue, saturation, value = hsv(clip.mean(2))
    x = (saturation * torch.cos(2 * math.pi * hue) + 1) / 2
    y = (saturation * torch.sin(2 * math.pi * hue) + 1) / 2
    bins = [torch.round(9 * c + 1) for c in (x, y, value)]
    codes = (bins[0] + 10 * (bins[1] - 1) + 100 * (bins[2] - 1)).long().flatten(1) - 1
    front = histogram(codes.gather(1, seed.topk(pixels // 2).indices))
    back = histogram(codes.gather(1, seed.topk(pixels // 10, largest=False).indices)) + 1
    front = front / (front.sum(1, keepdim=True) + 1e-8)
    back = back / (back.sum(1, keepdim=True) + 1e-8)
    front, back = front.gather(1, codes), back.gather(1, codes)
    likelihood = scaled(blur_2d((front / (front + back)).view(batch, height, width))).flatten(1)
    kept = likelihood.topk(math.floor(beta * height * width)).indices
    return torch.zeros(batch, pixels).scatter_(1, kept, 1.0).view(batch, height, width)


def plain_fame(clip, permutation, beta=0.5):
    "Mask and merge of a float batch `[B,3,T,H,W]`, plainly."
    mask = plain_mask(clip, beta)[:, None, None]
    return clip * mask + clip[permutation] * (1 - mask)


def moving_scene(size, seed=0):
    "A float batch: coarse random scenes that drift, each at its own speed."
    noise = torch.rand(BATCH, 3, 12, 12, generator=torch.Generator().manual_seed(seed))
    scene = F.interpolate(noise, (size, size), mode="bicubic").clamp(0, 1)
    frames = [torch.stack([s.roll(b * t, -1) for b, s in enumerate(scene)]) for t in range(FRAMES)]
    for t, frame in enumerate(frames):
        frame[:, :, size // 3 : size // 2, t * 3 : t * 3 + size // 4] = 0.9
    return torch.stack(frames, 2).contiguous()


def best(functions, repeats):
    "Least seconds of every function over `repeats` rounds, all called in turn: what else runs only adds."
    for function in functions.values():
        function()
    least = dict.fromkeys(functions, math.inf)
    for _ in range(repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            least[name] = min(least[name], time.perf_counter() - start)
    return least


def run(repeats=15) -> list:
    "Rows of the bench: ratios of the plain composition to ours, and milliseconds per clip for each."
    rows = []
    for size in SIZES:
        clip, order = moving_scene(size), torch.arange(BATCH).roll(1)
        ready = torch.empty_like(clip)
        spent = best(
            {
                "plain": lambda: plain_fame(clip, order),
                "ours, new memory": lambda: mixing.replace_background(clip, permutation=order),
                "ours, memory given": lambda: mixing.replace_background(clip, permutation=order, out=ready),
                "copy, memory given": lambda: ready.copy_(clip),
            },
            repeats,
        )
        for ours in ("ours, new memory", "ours, memory given"):
            ratio = spent["plain"] / spent[ours]
            rows.append(
                dict(
                    name=f"FAME mask and merge, {size}x{size}: plain / {ours}",
                    value=round(ratio, 2),
                    target=4.0,
                    unit="x",
                    ok=ratio >= 4,
                )
            )
        rows += [
            dict(
                name=f"FAME mask and merge, {size}x{size}: {what}",
                value=round(seconds / BATCH * 1e3, 3),
                target=None,
                unit="ms/clip",
                ok=True,
            )
            for what, seconds in spent.items()
        ]
    return rows


if __name__ == "__main__":
    for row in run():
        verdict = "" if row["target"] is None else ">= 4: " + ("ok" if row["ok"] else "MISSED")
        print(f"{row['name']:75} {row['value']:8.2f} {row['unit']:8} {verdict}")
