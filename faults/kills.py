"""Chains of runs that are killed again and again: the undisturbed bits, and nothing left behind."""

import os
import signal
import sys
from functools import partial
from pathlib import Path

from . import _chains
from ._cases import Place, Row, each, fork, generator

TITLE, CASES = "killed runs", 65
MOST = 6  # kills of one chain


def child(kind: str, folder: Path, puppets: Path):
    _chains.checkpoint_each_step()
    sys.exit(_chains.compute(kind, folder, puppets))


def expected(code: int, sent: signal.Signals | None) -> bool:
    "Whether a process may end so; SIGTERM may come before `mvnb` hears it."
    if sent is None:
        return code == 0
    return code in ((0, -sent) if sent == signal.SIGKILL else (0, -sent, 130))


def attempt(case: tuple, folder: Path, seed: int, puppets: Path, known: dict) -> tuple:
    "One chain, started until it ends by itself; how: the number of kills."
    number, kind = case
    rng = generator(seed, number)
    store = folder / "store"
    store.mkdir()
    kills = []
    for start in range(MOST + 1):
        process = fork.Process(target=child, args=(kind, store, puppets))
        process.start()
        sent = None
        process.join(rng.uniform(0, 1.1) * known[kind].seconds if start < MOST else None)
        if process.is_alive():
            sent = (signal.SIGKILL, signal.SIGTERM)[rng.integers(2)]
            os.kill(process.pid, sent)
            kills.append(sent.name)
            process.join(120)
        if process.exitcode is None or not expected(process.exitcode, sent):
            return False, f"{kind}: exit code {process.exitcode} after {', '.join(kills) or 'no signal'}"
        if process.exitcode == 0:
            break
    found = _chains.spoiled(store, known[kind], "SIGKILL" in kills)
    return not found, f"{kind}: {found} after {', '.join(kills)}" if found else str(len(kills))


def run(cases: int, seed: int, place: Place) -> list:
    known = _chains.references(list(_chains.KINDS)[:cases], place)
    rows = {kind: Row(f"runs killed and started again: {kind}") for kind in known}
    kills = dict.fromkeys(known, 0)
    every = [(k, list(known)[k % len(known)]) for k in range(cases)]
    function = partial(attempt, seed=seed, puppets=place.puppets, known=known)
    for case, right, how in each(function, every, TITLE, place, 600):
        rows[case[1]].count(right, "the undisturbed bits" if right else how)
        kills[case[1]] += int(how) if right else 0
    for kind, row in rows.items():
        row.what += f" ({kills[kind]} kills)"
    return list(rows.values())
