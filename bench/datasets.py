"""Loading an index of 240,000 videos: seconds and memory, for the list formats that are that large."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

VIDEOS, SECONDS, MEGABYTES = 240_000, 3.0, 300

CHILD = """
import re, sys, time
from mvnb import datasets
start = time.perf_counter()
index = datasets.load(sys.argv[1], root=sys.argv[2], annotations=sys.argv[2])
index.hash
seconds = time.perf_counter() - start
assert len(index) == int(sys.argv[3]), len(index)
status = open("/proc/self/status").read() # not getrusage: its maximum is inherited from the parent process
print(seconds, int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]) / 1024)
"""


def write_lists(folder, videos=VIDEOS):
    "Lists of so many videos in the formats of UCF101, Kinetics-400 and Something-Something V2."
    names = [f"v{i:010d}" for i in range(videos)]
    (folder / "classInd.txt").write_text("".join(f"{c + 1} C{c:03d}\n" for c in range(400)))
    (folder / "trainlist01.txt").write_text(
        "".join(f"C{i % 400:03d}/{n}_000010_000020.avi {i % 400 + 1}\n" for i, n in enumerate(names))
    )
    (folder / "train.csv").write_text(
        "label,youtube_id,time_start,time_end,split\n"
        + "".join(
            f"doing thing {i % 400:03d},{n},{i % 300},{i % 300 + 10},train\n" for i, n in enumerate(names)
        )
    )
    (folder / "labels.json").write_text(
        json.dumps({f"Putting something {c} on something": str(c) for c in range(174)})
    )
    (folder / "train.json").write_text(
        json.dumps(
            [
                dict(
                    id=str(i),
                    label=f"putting a green cup {i % 174} on a table",
                    template=f"Putting [something] {i % 174} on [something]",
                    placeholders=["a green cup", "a table"],
                )
                for i in range(videos)
            ],
            indent=0,
        )
    )


def measure(name, folder, videos=VIDEOS):
    "(seconds, peak resident MB) of a fresh process that loads one index."
    env = dict(os.environ, OMP_NUM_THREADS="1")
    out = subprocess.run(
        [sys.executable, "-c", CHILD, name, str(folder), str(videos)],
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    return tuple(map(float, out.stdout.split()[-2:]))


def run(repeats=3):
    rows = []
    with tempfile.TemporaryDirectory() as tmp:
        write_lists(Path(tmp))
        for name in ("ucf101", "kinetics400", "ssv2"):
            runs = [measure(name, tmp) for _ in range(repeats)]
            seconds, memory = min(s for s, _ in runs), max(m for _, m in runs)
            rows.append(
                dict(
                    name=f"index of {VIDEOS} videos, {name} lists",
                    value=seconds,
                    target=f"< {SECONDS:g}",
                    unit="s",
                    ok=seconds < SECONDS,
                )
            )
            rows.append(
                dict(
                    name=f"peak memory of that process, {name} lists",
                    value=memory,
                    target=f"< {MEGABYTES}",
                    unit="MB",
                    ok=memory < MEGABYTES,
                )
            )
    return rows
