"""TV-L1 of many pairs of frames at once on a GPU, against OpenCV's on one core, on some of the same pairs.

Without a GPU there is nothing to measure; without OpenCV's contributed modules there is no ratio.
"""

import tempfile
import time

import cv2
import numpy as np
import torch

from bench.video import some_files
from mvnb import flow, video

PAIRS = 64
FEW = 8  # of them, from all films, for OpenCV: each takes it about a second
TARGET = 50


def pairs(folder) -> tuple[str, np.ndarray, np.ndarray]:
    "Pairs of following frames of 240×320 pixels, and what they are from."
    kind, files = some_files(folder)
    each = -(-PAIRS // len(files))
    clips = [video.read_clip(path, list(range(each + 1)), size=240) for path in files]
    frames = [clip.rgb.permute(1, 2, 3, 0).numpy() for clip in clips]
    first = np.concatenate([clip[:-1] for clip in frames])[:PAIRS]
    second = np.concatenate([clip[1:] for clip in frames])[:PAIRS]
    return kind, first, second


def on_gpu(first, second) -> float:
    "Pairs per second: the better of two rounds after one that is not counted."
    spent = []
    first, second = (torch.from_numpy(x).permute(3, 0, 1, 2).float().cuda() / 255 for x in (first, second))
    for _ in range(3):
        torch.cuda.synchronize()
        start = time.perf_counter()
        flow.between(first, second, "tvl1-torch")
        torch.cuda.synchronize()
        spent.append(time.perf_counter() - start)
    return first.shape[1] / min(spent[1:])


def on_core(first, second) -> float:
    "Pairs per second of OpenCV's TV-L1 on one core."
    cv2.setNumThreads(1)
    some = slice(None, None, PAIRS // FEW)  # how long a pair takes depends on what moves in it
    start = time.perf_counter()
    flow.between(first[some], second[some], "tvl1")
    return FEW / (time.perf_counter() - start)


def run():
    "Rows of the bench as they are measured."
    if not torch.cuda.is_available():
        name = "TV-L1 on a GPU: there is none, so there is nothing to measure"
        yield dict(name=name, value=0, target=None, unit="x", ok=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        kind, first, second = pairs(folder)
    what = f"{len(first)} pairs of 240×320, {kind}"
    many = on_gpu(first, second)
    card = torch.cuda.get_device_name()
    yield dict(name=f"TV-L1 on {card}, {what}", value=many, target=None, unit="pairs/s", ok=True)
    if hasattr(cv2, "optflow"):
        one = on_core(first, second)
        yield dict(name="TV-L1 by OpenCV, one core", value=one, target=None, unit="pairs/s", ok=True)
        gain = many / one
        yield dict(name="GPU / core", value=gain, target=TARGET, unit="x", ok=gain >= TARGET)
