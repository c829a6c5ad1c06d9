"""Draws the README's picture: a clip, its FAME mask, another clip, the merge.

.venv/bin/python docs/readme_figure.py CLIP.avi BACKGROUND.avi
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch

from mvnb import masks, mixing, video


def read(path, frames=range(0, 32, 2), size=128):
    "A centre-cropped clip, float [1,3,T,size,size] in [0,1]."
    square = lambda h, w: ((h - min(h, w)) // 2, (w - min(h, w)) // 2, min(h, w), min(h, w))
    return video.read_clip(path, frames, size=(size, size), crop=square).rgb[None].float() / 255


def main(foreground, background, out=Path(__file__).with_name("fame_clip_mask_merge.jpg")):
    clip, other = read(foreground), read(background)
    mask = masks.fame_mask(clip, beta=0.5)
    merged = mixing.merge(clip, other, mask)
    shaded = torch.where(mask[:, None, None], clip, clip * 0.25 + 0.7)
    rows = {"clip": clip, "foreground\nβ = 0.5": shaded, "other clip": other, "merged": merged}
    shown = range(0, clip.shape[2], 3)
    fig, axes = plt.subplots(
        len(rows), len(shown), figsize=(1.5 * len(shown) + 0.7, 1.55 * len(rows)), dpi=110
    )
    for line, (name, video_) in zip(axes, rows.items()):
        for ax, t in zip(line, shown):
            ax.imshow(video_[0, :, t].permute(1, 2, 0).clamp(0, 1))
            ax.set(xticks=[], yticks=[])
            for side in ax.spines.values():
                side.set_visible(False)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=11)
    for ax, t in zip(axes[-1], shown):
        ax.set_xlabel(f"frame {2 * t}", fontsize=9)
    fig.tight_layout(pad=0.3)
    fig.savefig(out, pil_kwargs={"quality": 88})


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
