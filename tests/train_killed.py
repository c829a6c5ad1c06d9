"""Trains in forked children that are killed with SIGKILL until one of them finishes. Prints a JSON report.

usage: train_killed.py FOLDER
Two trainings, in FOLDER/random and FOLDER/strokes.
random: the parent kills at random moments.
strokes: a child kills itself at every single stroke of writing files.
"""

import json
import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path

import torch

torch.set_num_threads(1)
from torch.utils.tensorboard import SummaryWriter  # noqa: F401  imported before forking, to make the children start quickly
import lightning_fabric  # noqa: F401

from mvnb.train import Schedule, fit
from train_toys import Method, Toy

SCHEDULE = Schedule(epochs=8, batch_size=4, lr=0.05, accumulate=2, warmup_epochs=1, clip_grad=5.0)


class Slow(Method):
    """Sleeps so long in its 32 steps (1.28 s) that all six random kills (1.24 s together)
    meet a training that is under way."""

    def start_step(self, step):
        time.sleep(self.pause)


Slow.__name__ = "Method"


def train(folder, pause):
    method = Slow()
    method.pause = pause
    return method, fit(
        method, Toy(), SCHEDULE, folder=folder, device="cpu", checkpoint_every=0.03, progress=False
    )


def armed(limit):
    "From now on the process kills itself at the limit-th stroke."
    count = [0]

    def strike(function):
        def struck(*args, **kw):
            count[0] += 1
            if count[0] == limit:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kw)

        return struck

    os.replace, os.fsync, torch.save = strike(os.replace), strike(os.fsync), strike(torch.save)


def child(folder, pause, limit=None):
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        if limit:
            armed(limit)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            train(folder, pause)
        code = 0
    except BaseException as e:
        print(repr(e), file=sys.stderr)
    os._exit(code)


def until_finished(folder, how):
    draw, kills, codes = random.Random(0), 0, []
    for attempt in range(100):
        pid = child(
            folder,
            0.04 if how == "random" else 0.005,
            limit=1 + attempt if how == "strokes" and attempt < 14 else None,
        )
        if how == "random" and kills < 6:
            time.sleep(draw.uniform(0.1, 0.3))
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status):
            kills += 1
            continue
        codes.append(os.WEXITSTATUS(status))
        if codes[-1] or how == "random" or attempt >= 14:
            break
    return {"kills": kills, "codes": codes}


if __name__ == "__main__":
    print(json.dumps({how: until_finished(Path(sys.argv[1]) / how, how) for how in ("random", "strokes")}))
