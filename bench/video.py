"Reading clips: against a bare decord loop, and motion vectors against pictures alone."

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from mvnb import video

FILES, LENGTH, STRIDE, SIZE = 48, 16, 2, 112


def some_files(folder) -> tuple[str, list[Path]]:
    "Real videos of MVNB_TEST_DATA, or of shared/data beside the repository; where there are none, made ones."
    real = (
        Path(os.environ.get("MVNB_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
        / "mini"
    )
    if files := sorted(real.glob("*/*.avi")):
        return "UCF101", files[:: max(1, len(files) // FILES)]
    noise = F.interpolate(torch.rand(1, 3, 60, 60), scale_factor=10, mode="bicubic").clamp(0, 1)
    big = (noise[0].permute(1, 2, 0) * 255).byte().numpy()
    steps = np.random.default_rng(0).integers(0, 3, (6, 2))
    return "made", [
        video.write_video(
            Path(folder) / f"{k}.mp4",
            np.stack([big[dy * t : dy * t + 240, dx * t : dx * t + 320] for t in range(100)]),
        )
        for k, (dy, dx) in enumerate(steps)
    ]


def requests(files):
    rng, wanted = np.random.default_rng(0), []
    for path in files:
        count = video.num_frames(path)
        start = rng.integers(0, max(1, count - LENGTH * STRIDE))
        wanted.append((path, np.minimum(start + STRIDE * np.arange(LENGTH), count - 1).tolist()))
    return wanted


def bare_decord(wanted):
    import decord

    for path, frames in wanted:
        decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1).get_batch(frames).asnumpy()


def ours(wanted, fresh=True, **kw):
    if fresh:
        video._packet_scan.cache_clear()  # every file is new, as in a first epoch
    for path, frames in wanted:
        video.read_clip(path, frames, **kw)


def run(repeats: int = 5) -> list[dict]:
    "Ratios of processor time within a round, which runs every loop once: their median. One thread."
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        kind, files = some_files(folder)
        wanted = requests(files)
        loops = {
            "rgb": lambda: ours(wanted, size=SIZE, backend="av"),
            "full": lambda: ours(wanted, backend="av"),
            "mv": lambda: ours(wanted, size=SIZE, motion=True),
            "full mv": lambda: ours(wanted, motion=True),
            "read_clip": lambda: ours(wanted, size=SIZE),
            "again": lambda: ours(wanted, fresh=False, size=SIZE),
        }
        if video.decord is not None:
            loops["decord"] = lambda: bare_decord(wanted)
        rounds = []
        for _ in range(repeats + 1):
            seconds = {}
            for name, loop in loops.items():
                start = time.process_time()
                loop()
                seconds[name] = time.process_time() - start
            rounds.append(seconds)
    ratio = lambda a, b: round(
        float(np.median([r[a] / r[b] for r in rounds[1:]])), 2
    )  # the first round warms up
    rows = [
        dict(
            name=f"RGB and vectors / RGB, {kind}, PyAV both, {what}",
            value=ratio(a, b),
            target=1.6,
            unit="x time",
            ok=ratio(a, b) <= 1.6,
        )
        for a, b, what in (("mv", "rgb", f"short side {SIZE}"), ("full mv", "full", "full size"))
    ]
    if "decord" in loops:
        for name, what in (("read_clip", "files not seen before"), ("again", "files seen before")):
            value = ratio("decord", name)
            rows.append(
                dict(
                    name=f"read_clip at {SIZE} / bare decord at full size, {kind}, {what}",
                    value=value,
                    target=0.8,
                    unit="x rate",
                    ok=value >= 0.8,
                )
            )
    return rows


if __name__ == "__main__":
    for row in run():
        print(row)
