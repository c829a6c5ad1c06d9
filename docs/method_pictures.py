"""Draws the four pictures of the landing page, on puppets, with the library's masks.

.venv/bin/python docs/method_pictures.py [NAME ...]
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patches import Rectangle

from mvnb import explore, masks, mixing, puppets

SHOWN, SIZE, TOKEN = range(0, 32, 4), 192, 16  # frames of a film; pixels


def film(act, seed, scene=None, camera="still", name="puppets-u"):
    "Frames float [T,H,W,3] in [0,1] and true masks bool [T,H,W]."
    rgb, mask = puppets.render(name, act, scene, seed=seed, camera=camera, frames=32, size=SIZE)
    return rgb / 255.0, mask


def strips(rows, name, boxes=None):
    "Saves rows of frames: {label: [T,H,W,3] or [T,H,W]}."
    fig, axes = plt.subplots(
        len(rows), len(SHOWN), figsize=(1.25 * len(SHOWN) + 1.15, 1.25 * len(rows)), dpi=110
    )
    for line, (label, frames) in zip(axes, rows.items()):
        for ax, frame in zip(line, frames[:: len(frames) // len(SHOWN)]):
            ax.imshow(np.clip(frame, 0, 1), cmap="magma", vmin=0, vmax=1)
            ax.set(xticks=[], yticks=[])
            for side in ax.spines.values():
                side.set_visible(False)
            if boxes and label in boxes:
                ax.add_patch(Rectangle(*boxes[label], fill=False, ec="white", lw=1.8))
        line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=10.5)
    fig.subplots_adjust(left=0.115, right=0.998, top=0.995, bottom=0.005, wspace=0.03, hspace=0.03)
    fig.savefig(
        Path(__file__).with_name("pictures") / f"{name}.jpg", pil_kwargs={"quality": 86, "optimize": True}
    )


def batch(frames):
    return torch.from_numpy(frames).float().permute(3, 0, 1, 2)[None]


def fame():
    clip, other = film("jumping_jack", 2, scene=1)[0], film("bow", 4, scene=8)[0]
    mask = masks.fame_mask(batch(clip)[:, :, ::2], beta=0.3)
    merged = mixing.merge(batch(clip), batch(other), mask)[0].permute(1, 2, 3, 0).numpy()
    shaded = np.where(mask[0].numpy()[None, ..., None], clip, clip * 0.25 + 0.7)
    strips(
        {"a clip": clip, "its foreground\nβ = 0.3": shaded, "another clip": other, "merged": merged}, "fame"
    )


def mac():
    clip = film("kick", 3)[0]
    mask = masks.mac_mask(batch(clip))
    shaded = np.where(mask[0].numpy()[..., None], clip, clip * 0.25 + 0.7)
    blend = lambda *alpha: (
        mixing.alpha_blend(batch(clip), mask, torch.tensor([alpha]))[0].permute(1, 2, 3, 0).numpy()
    )
    rows = {
        "a clip": clip,
        "what moves\nλ = 30": shaded,
        "blended": blend(1 / 6, 1),
        "another\nblend": blend(1 / 2, 1 / 6),
    }
    factors = {"blended": ("α = 1/6", "α = 1"), "another\nblend": ("α = 1/2", "α = 1/6")}
    half, tall, above = len(SHOWN) // 2, 1.25, 0.24  # inches: a row, and the line of factors over it
    height = tall * len(rows) + above * len(factors)
    fig, top = plt.figure(figsize=(tall * len(SHOWN) + 1.4, height), dpi=110), height
    wide = fig.get_figwidth()
    left = [1.15 + tall * k + 0.22 * (k >= half) for k in range(len(SHOWN))]  # a gap between the two halves
    for label, frames in rows.items():
        for j, factor in enumerate(factors.get(label, ())):
            middle = (left[j * half] + left[(j + 1) * half - 1] + tall) / 2
            fig.text(
                middle / wide, (top - above / 2) / height, factor, ha="center", va="center", fontsize=10.5
            )
        top -= above * (label in factors) + tall
        fig.text(1.08 / wide, (top + tall / 2) / height, label, ha="right", va="center", fontsize=10.5)
        for x, t in zip(left, SHOWN):
            ax = fig.add_axes((x / wide, (top + 0.02) / height, (tall - 0.04) / wide, (tall - 0.04) / height))
            ax.imshow(np.clip(frames[t], 0, 1))
            ax.axis("off")
    fig.savefig(
        Path(__file__).with_name("pictures") / "mac.jpg", pil_kwargs={"quality": 86, "optimize": True}
    )


def looked_at(mask, *puppet):
    "A view of a mask on a puppet, 16 frames, two apart, and its clip [T,H,W,3] in [0,1]."
    view = explore.look(explore.Choice(mask=mask, footage=explore.Puppet(*puppet), stride=2, size=SIZE))
    return view, view.clip.permute(1, 2, 3, 0).numpy() / 255


def scaled(motion):
    "Lengths [T,H,W] as shares of a large one."
    return (motion / np.quantile(motion, 0.998)).numpy()


def mgm():
    view, clip = looked_at("mgm", "puppets-s", "slide", 5)
    hidden = np.where(view.mask[..., None], 0.82, clip)
    for k in range(TOKEN, SIZE, TOKEN):
        hidden[:, k] *= 0.85
        hidden[:, :, k] *= 0.85
    strips({"a clip": clip, "motion\nvectors": scaled(view.motion), "what the\nencoder sees": hidden}, "mgm")


def mcl():
    view, clip = looked_at("mcl_view", "puppets-u", "windmill", 9, "pan")
    y, x = (view.mask.any(axis).nonzero()[[0, -1], 0].tolist() for axis in (1, 0))
    box = ((x[0], y[0]), x[1] - x[0], y[1] - y[0])
    rows = {"a clip,\npanned": clip, "motion\nmap": scaled(view.stages["motion map, ST"][0])}
    strips(rows, "mcl", dict.fromkeys(rows, box))


if __name__ == "__main__":
    for name in sys.argv[1:] or ("mac", "fame", "mgm", "mcl"):
        globals()[name]()
