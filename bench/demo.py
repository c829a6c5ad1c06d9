"""A training step of the demo against the same step before it was made cheaper.

Before: three equal channels, augmented as colours are, and residual networks. Now: one channel, its own short
augmentation, and a few plain convolutions; the tiny I3D has two blocks and one early pooling less than it
had. A step augments a batch, runs query and key through the network, and goes back; the optimizer is left
out. One thread, as the demo has.
"""

import itertools

import torch

from mvnb import methods, models, recipes, runs
from mvnb.augment import Photometric

from .fame import best, moving_scene

models.register(
    "bench_residual", models.ResNet3D, conv="2plus1d", blocks=(1, 1, 1), widths=(24, 48, 96), stem=(24, 7, 4)
)
models.register("bench_i3d", models.I3D, width=0.25, blocks=("3b", "3c", "4b", "4f"))

TARGETS = {"R(2+1)D": 2.0, "I3D": 1.3}
METHODS = {
    "MoCo": ("moco", {}),
    "FAME": ("fame", dict(beta=0.5)),
    "MAC-SC-2": ("mac", dict(objective="sc", n=2)),
}


def a_batch() -> dict:
    "A batch as the demo's loader gives it, from one moving picture: two clips of each of 64 videos."
    size, length = recipes.DEMO.pretrain_clips.size, recipes.DEMO.pretrain_clips.length
    clip = (moving_scene(size)[:, :, :length] * 255).to(torch.uint8)
    count = recipes.DEMO.pretrain.batch_size
    clips = clip.repeat(-(-count // len(clip)), 1, 1, 1, 1)[:count]
    return dict(
        clip=torch.stack([clips, clips.flip(2)], 1),
        label=torch.zeros(count, dtype=torch.int64),
        index=torch.arange(count),
        ok=torch.ones(count, dtype=torch.bool),
        epoch=0,
    )


def step_of(how: str, options: dict, backbone: str, one_channel: bool):
    "A function that makes one step with the demo's settings."
    photometric = Photometric(**recipes.DEMO.photometric | dict(one_channel=one_channel))
    takes = methods.parameters(how)
    settings = {name: value for name, value in recipes.DEMO.method.items() if name in takes}
    channels = 1 if one_channel else 3
    method = methods.build(
        how, backbone=backbone, photometric=photometric, channels=channels, **settings, **options
    )
    batch, steps = a_batch(), itertools.count()

    def step():
        method.zero_grad()
        method(batch | dict(step=next(steps)))["loss"].backward()

    return step


def measured(how: str, options: dict, repeats: int) -> dict:
    "Least seconds of a method's step, by network."
    networks = {
        "R(2+1)D, before": ("bench_residual", False),
        "R(2+1)D": ("r2plus1d_tiny", True),
        "I3D, before": ("bench_i3d", False),
        "I3D": ("i3d_tiny", True),
    }
    return best({name: step_of(how, options, *choice) for name, choice in networks.items()}, repeats)


def run(repeats=5) -> list:
    "Rows of the bench: how often the step of today fits into that of before, and milliseconds for each."
    rows = []
    for name, (how, options) in METHODS.items():
        with runs.pinned("cpu"):
            spent = measured(how, options, repeats)
        for network, target in TARGETS.items():
            ratio = spent[f"{network}, before"] / spent[network]
            title = f"demo's step, {name}, {network}: before / now"
            rows.append(dict(name=title, value=round(ratio, 2), target=target, unit="x", ok=ratio >= target))
        for what, seconds in spent.items():
            title = f"demo's step, {name}, {what}"
            rows.append(dict(name=title, value=round(seconds * 1e3, 1), target=None, unit="ms", ok=True))
    return rows
