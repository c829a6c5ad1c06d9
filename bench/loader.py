"Reading clips through the loader against a bare decord loop over the same frames and boxes."
import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from mvnb import datasets, video
from mvnb.clips import ClipDataset, batches, order

BATCH, VIDEOS = 8, 48


def some_videos() -> datasets.Index:
    "Real videos where there are some (MVNB_TEST_DATA, else shared/data beside the repository), else puppets."
    folder = Path(os.environ.get("MVNB_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")) / "mini"
    index = datasets.folder(folder, "all") if folder.is_dir() else datasets.load("puppets-u", "train", scale=0.15)
    return index.limit(VIDEOS // len(index.classes))


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
        part = torch.from_numpy(frames[:, top:top + height, left:left + width]).permute(0, 3, 1, 2)
        F.interpolate(part, (dataset.size, dataset.size), mode="bilinear", antialias=True).transpose(0, 1).contiguous()
    return len(wanted)


def timed(work):
    start = time.perf_counter()
    clips = work()
    return clips / (time.perf_counter() - start)


def in_process(dataset, epoch, **kw):
    return sum(batch["clip"].shape[:2].numel() for batch in batches(dataset, BATCH, epoch, **kw))


def with_worker(dataset, epoch):
    "Clips per second of one worker process, from its first batch on: starting a process is not reading."
    stream = batches(dataset, BATCH, epoch, workers=1)
    next(stream)
    return timed(lambda: sum(batch["clip"].shape[:2].numel() for batch in stream))


def run(repeats: int = 3) -> list[dict]:
    "Rates in clips per second; the ratio of each pair is taken in one round, the best round counts."
    torch.set_num_threads(1)
    index, rows = some_videos(), []
    for size in (112, 224):
        dataset = ClipDataset(index, length=16, stride=2, size=size)
        ratios = {"in the process": [], "one worker": []}
        for epoch in range(repeats):
            wanted = list(requests(dataset, epoch))
            base = timed(lambda: bare(dataset, wanted))
            ratios["one worker"].append(with_worker(dataset, epoch) / base)
            video._scan.cache_clear()  # every worker of an epoch starts without knowing the files
            ratios["in the process"].append(timed(lambda: in_process(dataset, epoch)) / base)
        rows += [dict(name=f"loader / bare decord, {index.name}, 16 x {size}^2, {how}", value=round(max(r), 2), target=0.8,
                      unit="x", ok=max(r) >= 0.8) for how, r in ratios.items()]
    return rows


if __name__ == "__main__":
    for row in run(): print(row)
