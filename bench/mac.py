"""MAC's mask and blend against the blend alone.

The blend has to read the clip and to write one as large, so it is a measure of what the memory allows. The
mask needs sixteen steps of a recurrence; reading the clip once more is all it should add. Both make their
result in new memory.
"""

import torch

from mvnb import masks, mixing

from .fame import BATCH, FRAMES, SIZES, best, moving_scene


def plain_blend(clip, mask, alpha):
    "Eq. 1 as it is written, with one alpha per sample."
    weight, alpha = mask[:, None].float(), alpha.view(-1, 1, 1, 1, 1)
    return alpha * (weight * clip) + (1 - weight) * clip


def run(repeats=15) -> list:
    "Rows of the bench: what the mask adds to the blend, and milliseconds per clip for each."
    rows = []
    for size in SIZES:
        clip, alpha = moving_scene(size), torch.tensor([1 / 6, 1 / 2, 5 / 6, 1.0]).repeat(BATCH // 4)
        mask = masks.mac_mask(clip)
        spent = best(
            {
                "blend": lambda: mixing.alpha_blend(clip, mask, alpha),
                "mask and blend": lambda: mixing.alpha_blend(clip, masks.mac_mask(clip), alpha),
                "mask": lambda: masks.mac_mask(clip),
                "blend as Eq. 1 is written": lambda: plain_blend(clip, mask, alpha),
            },
            repeats,
        )
        ratio = spent["mask and blend"] / spent["blend"]
        rows.append(
            dict(
                name=f"MAC mask and blend / blend, {BATCH}x3x{FRAMES}x{size}x{size}",
                value=round(ratio, 2),
                target="at most 3",
                unit="x",
                ok=ratio <= 3,
            )
        )
        rows += [
            dict(
                name=f"MAC {what}, {size}x{size}",
                value=round(seconds / BATCH * 1e3, 3),
                target=None,
                unit="ms/clip",
                ok=True,
            )
            for what, seconds in spent.items()
        ]
    return rows
