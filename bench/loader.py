"""Reading clips through the loader against a bare decord loop over the same frames and boxes.

Two ratios for each case: of rates by the clock, and of processor time per clip. A busy machine moves the
first a lot, in either direction, and the second little; the control (the bare loop against itself, in the
same rounds) says how far to trust a run.
"""

import gc
import os
import resource
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from mvnb import datasets, video
from mvnb.clips import ClipDataset, batches, order

BATCH, VIDEOS, PUPPETS = (
    8,
    48,
    160,
)  # puppets are small: with fewer of them the start of the worker would be most of what is measured


def some_videos() -> datasets.Index:
    "Real videos where there are some (MVNB_TEST_DATA, else shared/data beside the repository), else puppets."
    folder = (
        Path(os.environ.get("MVNB_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
        / "mini"
    )
    real = folder.is_dir()
    index = datasets.folder(folder, "all") if real else datasets.load("puppets-u", "train")
    return index.limit((VIDEOS if real else PUPPETS) // len(index.classes))


def requests(dataset, epoch):
    "(path, frames, boxes by frame size) of every view of an epoch, in the loader's order."
    for step in order(dataset, BATCH, epoch):
        for i in step:
            path = str(dataset.index.path(i))
            for view, times in enumerate(dataset.times(i, epoch, video.num_frames(path))):
                yield path, times, (i, epoch, view)


def bare(dataset, wanted):
    "The shortest loop that makes the same clips with decord."
    import decord

    for path, times, about in wanted:
        reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
        frames = reader.get_batch(np.minimum(times, len(reader) - 1)).asnumpy()
        top, left, height, width = dataset.box(*about, *frames.shape[1:3])
        part = torch.from_numpy(frames[:, top : top + height, left : left + width]).permute(0, 3, 1, 2)
        F.interpolate(part, (dataset.size, dataset.size), mode="bilinear", antialias=True).transpose(
            0, 1
        ).contiguous()
    return len(wanted)


def spent():
    "Clock, and processor time of this process and of its ended children, in seconds."
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return np.array([time.perf_counter(), time.process_time() + children.ru_utime + children.ru_stime])


def cost(work):
    "Clock and processor seconds of some work."
    start = spent()
    work()
    gc.collect()  # worker processes end with their iterator
    return spent() - start


def read(dataset, epoch, workers):
    video._packet_scan.cache_clear()  # the files are new to the loader, as to a worker of the first epoch
    for _ in batches(dataset, BATCH, epoch, workers=workers):
        pass


def measure(dataset, repeats):
    "Seconds [rounds, clock and processor] of the bare loop, of itself again, and of the loader; interleaved."
    wanted = list(requests(dataset, 0))
    bare(dataset, wanted), read(dataset, 0, 0)  # fill the disk's cache, do everything once
    work = {
        "bare": lambda: bare(dataset, wanted),
        "loader in the process": lambda: read(dataset, 0, 0),
        "control (bare again)": lambda: bare(dataset, wanted),
        "loader, one worker": lambda: read(dataset, 0, 1),
    }
    rounds = [{name: cost(f) for name, f in work.items()} for _ in range(repeats)]
    return {name: np.array([r[name] for r in rounds]) for name in work}


def run(repeats: int = 3) -> list[dict]:
    "Rate of the loader, its start included, over the bare loop's: the median of the ratios within a round."
    torch.set_num_threads(1)
    index, rows = some_videos(), []
    for size in (112, 224):
        seconds = measure(ClipDataset(index, length=16, stride=2, size=size), repeats)
        base = seconds.pop("bare")
        for name, spent_there in seconds.items():
            target = 0.0 if name.startswith("control") else 0.8
            for what, value in zip(("clock", "processor"), np.median(base / spent_there, 0)):
                rows.append(
                    dict(
                        name=f"{name} / bare decord, {index.name} 16 x {size}^2, {what}",
                        value=round(float(value), 2),
                        target=target,
                        unit="x",
                        ok=bool(value >= target),
                    )
                )
    return rows


if __name__ == "__main__":
    for row in run():
        print(row)
