"Where motion comes from: motion vectors read from the file against optical flow computed from its frames."

import os
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from torchvision.models.optical_flow import raft_small

from bench.video import LENGTH, SIZE, STRIDE, ours, requests, some_files
from mvnb import flow

CLIPS = 3  # TV-L1 takes seconds for each


def random_raft(folder) -> Path:
    "RAFT-small with random weights: they change its flow, not its time."
    path = Path(folder) / "raft_small.pth"
    torch.save(raft_small(weights=None).state_dict(), path)
    return path


def seconds(loops: dict) -> dict:
    "Processor time of each loop, run once one after another."
    spent = {}
    for name, loop in loops.items():
        start = time.process_time()
        loop()
        spent[name] = time.process_time() - start
    return spent


def median_ratio(rounds: list, one: str, other: str) -> float:
    return float(np.median([spent[one] / spent[other] for spent in rounds]))


def flows(wanted) -> dict:
    "Milliseconds for a clip of 16 frames: its vectors (its frames are decoded with them), or its flow."

    def computed(how):
        return lambda: [flow.video_motion(path, times, how) for path, times in wanted]

    loops = {"vectors": lambda: ours(wanted, size=SIZE, motion=True)}
    loops |= {how: computed(how) for how in flow.SOURCES}
    for loop in (loops["vectors"], loops["dis"]):
        loop()  # warms up
    loops["raft"]()  # builds the network
    return {name: 1e3 * spent / len(wanted) for name, spent in seconds(loops).items()}


def with_pictures(wanted, repeats: int = 5) -> dict:
    "How much longer reading takes with vectors than without, by the same decoder; medians over rounds."
    loops = {
        "rgb": lambda: ours(wanted, size=SIZE, backend="av"),
        "rgb and vectors": lambda: ours(wanted, size=SIZE, motion=True),
        "full rgb": lambda: ours(wanted, backend="av"),
        "full rgb and vectors": lambda: ours(wanted, motion=True),
    }
    rounds = [seconds(loops) for _ in range(repeats + 1)][1:]
    return {
        f"short side {SIZE}": median_ratio(rounds, "rgb and vectors", "rgb"),
        "full size": median_ratio(rounds, "full rgb and vectors", "full rgb"),
    }


def run() -> list[dict]:
    "Ratios of processor time in this run, one thread; and milliseconds, for which the paper has numbers."
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MVNB_WEIGHTS_RAFT_SMALL"] = str(random_raft(folder))
        try:
            kind, files = some_files(folder)
            wanted = requests(files)
            cost = flows(wanted[:: max(1, len(wanted) // CLIPS)][:CLIPS])
            more = with_pictures(wanted[::3])
        finally:
            del os.environ["MVNB_WEIGHTS_RAFT_SMALL"]
    what = f"{LENGTH} frames at stride {STRIDE}, flow at short side {flow.SIDE}, {kind}"
    rows = []
    for how, name in (("raft", "RAFT-small, random weights"), ("tvl1", "TV-L1")):
        ratio = cost[how] / cost["vectors"]
        title = f"{name} / RGB and vectors, {what}"
        rows.append(dict(name=title, value=ratio, target=30, unit="x time", ok=ratio >= 30))
    for name, ratio in more.items():
        title = f"RGB and vectors / RGB, PyAV both, {name}, {kind}"
        rows.append(dict(name=title, value=ratio, target=1.4, unit="x time", ok=ratio <= 1.4))
    published = {"vectors": "none; the paper has 80", "raft": "none; the paper has 2500"}
    for how, spent in cost.items():
        target = published.get(how, "none")
        rows.append(dict(name=f"{how}, {what}", value=spent, target=target, unit="ms per clip", ok=True))
    return rows


if __name__ == "__main__":
    for row in run():
        print(row)
