"""Draws the README's picture: what each of the four methods makes of one clip.

.venv/bin/python docs/readme_figure.py CLIP BACKGROUND
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch

from mvnb import explore

SHOWN = range(0, 16, 3)  # frames of the clip that are drawn
EDGE = torch.tensor([1.0, 0.85, 0.1])  # colour of the frame around MCL's view


def framed(pictures, mask):
    "Pictures [3,T,H,W] in [0,1] that are dim outside of a box, with a frame around it."
    rows, columns = (mask.any(1 - axis).nonzero()[[0, -1], 0].tolist() for axis in (0, 1))
    out = torch.where(mask, pictures, 0.35 * pictures)
    for k in rows:
        out[:, :, k, columns[0] : columns[1] + 1] = EDGE[:, None, None]
    for k in columns:
        out[:, :, rows[0] : rows[1] + 1, k] = EDGE[:, None, None]
    return out


def look(clip, background, mask, **knobs):
    files = dict(footage=explore.File(clip), other=explore.File(background), size=128)
    return explore.look(explore.Choice(mask=mask, knobs=tuple(knobs.items()), **files))


def main(clip, background, out=Path(__file__).with_name("four_methods.jpg")):
    mac, fame, mgm, mcl = (look(clip, background, name) for name in ("mac", "fame", "mgm", "mcl_view"))
    plain = mac.clip.float() / 255
    rows = {
        "clip": plain,
        "MAC\nwhat moves\nfades": mac.mixed,
        "FAME\nthe actor in\nanother scene": fame.mixed,
        "MGM\nwhat moves\nis hidden": torch.where(mgm.mask, 0.8, plain),
        "MCL\nviews are taken\nwhere it moves": framed(plain, mcl.mask),
    }
    fig, axes = plt.subplots(
        len(rows), len(SHOWN), figsize=(1.5 * len(SHOWN) + 1.5, 1.55 * len(rows)), dpi=110
    )
    for line, (name, pictures) in zip(axes, rows.items()):
        for ax, t in zip(line, SHOWN):
            ax.imshow(pictures[:, t].permute(1, 2, 0).clamp(0, 1))
            ax.set(xticks=[], yticks=[])
            for side in ax.spines.values():
                side.set_visible(False)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=11)
    for ax, t in zip(axes[-1], SHOWN):
        ax.set_xlabel(f"frame {explore.Choice.stride * t}", fontsize=9)
    fig.tight_layout(pad=0.3, w_pad=0.4)
    fig.savefig(out, pil_kwargs={"quality": 88})


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
