"""Motion maps: what they add to loading a clip, and how well the flow of a data set uses both cores.

Loading is compared in processor time, in the process, over interleaved rounds of the same clips: with maps
from the cache against without. Flow is compared by the clock, as it must be: on a busy machine its ratio says
little, so the control beside it, a loop of plain arithmetic on one and on two processes, says how much of a
second core there was to have.
"""

import os
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from joblib import Parallel, delayed

from bench.loader import some_videos
from mvnb import maps
from mvnb.clips import ClipDataset, batches

BATCH = 8
VIDEOS = 24  # real ones; 16 of them for the flow
CLIP = dict(length=16, stride=2, size=112)
CHOSEN = {
    "maps": dict(maps="dis"),
    "maps, start and crop by motion": dict(maps="dis", guide_time=True, guide_crop=True),
}


def loading(index, rounds: int) -> dict:
    "Processor seconds of an epoch [rounds], without maps and with; the first two read the same boxes."
    data = {"plain": ClipDataset(index, **CLIP)}
    data |= {name: ClipDataset(index, **CLIP, **more) for name, more in CHOSEN.items()}
    data["plain, again"] = ClipDataset(index, **CLIP)
    spent = {name: [] for name in data}
    for _ in range(rounds + 1):
        for name, dataset in data.items():
            start = time.process_time()
            for _batch in batches(dataset, BATCH, 0):
                pass
            spent[name].append(time.process_time() - start)
    return {name: np.array(seconds[1:]) for name, seconds in spent.items()}  # the first round warms up


def choosing(dataset, rounds: int) -> float:
    "Processor milliseconds for one clip: its frames, its box and, where there are some, its maps."
    start = time.process_time()
    for epoch in range(rounds):
        for i in range(len(dataset)):
            dataset.__dict__.pop("_map", None)
            times = dataset.times(i, epoch, len(dataset.map_of(i)) if dataset.maps else 100)
            cuts = [dataset.box(i, epoch, 0, 240, 320)]
            if dataset.maps:
                dataset._maps_of(i, times, cuts)
    return 1e3 * (time.process_time() - start) / rounds / len(dataset)


def added(index, rounds: int) -> dict:
    "What maps add to that, in milliseconds: medians over rounds."
    data = {name: ClipDataset(index, **CLIP, **more) for name, more in ({"plain": {}} | CHOSEN).items()}
    spent = [{name: choosing(dataset, 2) for name, dataset in data.items()} for _ in range(rounds + 1)][1:]
    return {name: float(np.median([each[name] - each["plain"] for each in spent])) for name in CHOSEN}


def _arithmetic(_):
    total = 0
    for number in range(4_000_000):
        total += number * number
    return total


def _flow(path):
    with maps._one_thread():
        return maps.compute(path, maps.Maps("tvl1", 64)).st.shape


def clock(work, items, jobs: int) -> float:
    "Seconds for all items in so many processes, which run already."
    with Parallel(jobs) as pool:
        pool(delayed(work)(item) for item in items[:jobs])
        start = time.perf_counter()
        pool(delayed(work)(item) for item in items)
        return time.perf_counter() - start


def speedup(work, items) -> float:
    "How many times as fast two processes are as one; the median of three rounds."
    return float(np.median([clock(work, items, 1) / clock(work, items, 2) for _ in range(3)]))


def short_files(index, folder) -> list:
    "Eight videos of ten frames each: TV-L1 takes its time."
    from mvnb.video import read_clip, write_video

    files = []
    for i in range(8):
        frames = read_clip(index.path(i), range(10), 64).rgb.permute(1, 2, 3, 0).numpy()
        files.append(write_video(Path(folder) / f"{i}.mp4", frames, 25))
    return files


def run(rounds: int = 5) -> list[dict]:
    "Ratios within one run."
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    index, rows = some_videos(), []
    index = index.subset(range(0, len(index), max(1, len(index) // VIDEOS)))
    before = os.environ.get("MVNB_PATHS_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MVNB_PATHS_CACHE"] = folder
        try:
            maps.build(index, maps.Maps("dis"), jobs=1, progress=False)
            spent, alone = loading(index, rounds), added(index, 3 * rounds)
            ratios = {"plain arithmetic (control)": speedup(_arithmetic, range(8))}
            ratios["TV-L1 maps"] = speedup(_flow, short_files(index, folder))
        finally:
            os.environ.pop("MVNB_PATHS_CACHE")
            if before is not None:
                os.environ["MVNB_PATHS_CACHE"] = before
    about = f"{index.name} 16 x 112^2"
    plain = 1e3 * np.median(spent["plain"]) / (len(index) // BATCH * BATCH)
    for name, milliseconds in alone.items():
        share, target = 100 * milliseconds / plain, 3.0 if name == "maps" else "none"
        title = f"{name}, {milliseconds:.2f} ms of {plain:.1f} ms to load a clip, {about}"
        rows.append(
            dict(
                name=title, value=float(share), target=target, unit="%", ok=bool(name != "maps" or share <= 3)
            )
        )
    for name in ("maps", "plain, again"):
        more = 100 * (float(np.median(spent[name] / spent["plain"])) - 1)
        title = f"whole batches, {name} / plain, {about}"
        rows.append(dict(name=title, value=more, target="none", unit="% more", ok=True))
    control, ratio = ratios.values()
    title = "plain arithmetic (control), two processes / one"
    rows.append(dict(name=title, value=control, target="none", unit="x", ok=True))
    rows.append(
        dict(name="TV-L1 maps, two processes / one", value=ratio, target=1.7, unit="x", ok=ratio >= 1.7)
    )
    share = ratio / control  # 1.7 of 2 cores, whatever else the machine does
    rows.append(dict(name="the same / control", value=share, target=0.85, unit="x", ok=share >= 0.85))
    return rows


if __name__ == "__main__":
    for row in run():
        print(row)
