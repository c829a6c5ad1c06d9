"""Several processes that ask for the same runs: each is computed once."""

import os
import signal
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

from mvnb import runs

from . import _chains
from ._cases import Place, Row, each, fork, generator

TITLE, CASES = "runs asked for at once", 24
KINDS = ("drawn puppets", "cached files")


def noted(work, file: Path):
    "Work that notes in a file that it is done."

    def noting(recipe, job):
        with open(file, "a") as out:
            out.write(f"{recipe.kind}\n")
        return work(recipe, job)

    return noting


def child(kind: str, folder: Path, puppets: Path, wait: float):
    for name, work in runs.WORK.items():
        runs.WORK[name] = noted(work, folder / "work.txt")
    time.sleep(wait)
    sys.exit(_chains.compute(kind, folder, puppets))


def attempt(case: tuple, folder: Path, seed: int, puppets: Path, known: dict) -> tuple:
    "Two to six processes; in every second case the first one is killed."
    number, kind, killed = case
    rng = generator(seed, number)
    store = folder / "store"
    store.mkdir()
    waits = rng.uniform(0, 0.3, int(rng.integers(2, 7)))
    processes = [fork.Process(target=child, args=(kind, store, puppets, wait)) for wait in waits]
    for process in processes:
        process.start()
    if killed:
        processes[0].join(rng.uniform(0, 1) * known[kind].seconds)
        if processes[0].is_alive():
            os.kill(processes[0].pid, signal.SIGKILL)
    for process in processes:
        process.join(240)
    codes = [process.exitcode for process in processes]
    if codes[killed:].count(0) != len(codes[killed:]):
        return False, f"{kind}: ended with {codes}"
    most = 1 + killed
    times = Counter((store / "work.txt").read_text().split())
    if not all(1 <= times[what] <= most for what in ("pretrain", "finetune")):
        return False, f"{kind}: computed {dict(times)}"
    found = _chains.spoiled(store, known[kind], bool(killed))
    return not found, f"{kind}: {found}" if found else "computed once" if not killed else "another took over"


def run(cases: int, seed: int, place: Place) -> list:
    known = _chains.references(KINDS[: 1 + cases // 3], place)
    rows = [Row("two to six processes ask for the same runs"), Row("the same, and the first one is killed")]
    every = [(k, KINDS[k // 2 % len(known)], k % 2) for k in range(cases)]
    function = partial(attempt, seed=seed, puppets=place.puppets, known=known)
    for case, right, how in each(function, every, TITLE, place, 300):
        rows[case[2]].count(right, how)
    return [row for row in rows if row.tried]
