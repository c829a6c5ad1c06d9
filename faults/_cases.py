"""What all campaigns share: rows of counts, and cases that run in processes of their own."""

import contextlib
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path

import numpy as np
import torch  # noqa: F401  loaded once, before the processes are forked
from tqdm import tqdm

from mvnb import settings

fork = multiprocessing.get_context("fork")  # a process starts in milliseconds, with everything imported
AT_ONCE = min(2, settings.cores())


@dataclass
class Row:
    "A row of the table: what was done, how often, and how it ended."

    what: str  # in a few words
    ends: Counter = field(default_factory=Counter)  # how a case ended as it should -> how often
    wrong: Counter = field(default_factory=Counter)  # how a case ended as it should not -> how often

    @property
    def tried(self) -> int:
        return self.ends.total() + self.wrong.total()

    def count(self, right: bool, how: str):
        (self.ends if right else self.wrong)[how] += 1


@dataclass(frozen=True)
class Place:
    "Folders of a campaign."

    made: Path  # sound inputs, shared by all cases and read only
    puppets: Path  # embedded videos, shared by all campaigns
    work: Path  # a folder for each case that runs
    kept: Path  # folders of cases that ended wrong

    @classmethod
    def below(cls, folder: Path, name: str) -> "Place":
        places = [folder / part / name for part in ("made", "work", "kept")]
        place = cls(places[0], folder / "puppets", *places[1:])
        place.made.mkdir(parents=True)
        place.work.mkdir(parents=True)
        return place


def generator(seed: int, *numbers: int) -> np.random.Generator:
    "The random numbers of one case: the same whenever it is tried."
    return np.random.default_rng((seed, *numbers))


# ---------------------------------------------------------------- a process for each case


def session(leader: int) -> list:
    "The other processes that live in a session."
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, number = path.read_text().rsplit(")", 1)[1].split()[:4]
            if int(number) == leader and state != "Z":
                found.append(int(path.parent.name))
    return [pid for pid in found if pid != leader]


def alone(seconds: float = 20) -> bool:
    "Whether nothing that this case has started goes on, after a while."
    end = time.monotonic() + seconds
    while session(os.getpid()):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def _limit(memory: int):
    "Lets this process have so many bytes more than it has."
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + memory
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _inside(pipe, function: Callable, flock: list, memory: int | None):
    "A process that tries cases one after the other: sends (whether it ended as it should, how) for each."
    os.setsid()
    if memory:
        _limit(memory)
    for case, folder in flock:
        said = os.open(folder / "said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(said, 1)
        os.dup2(said, 2)
        os.close(said)
        os.environ["TMPDIR"] = str(folder / "tmp")
        tempfile.tempdir = None
        try:
            found = function(case, folder)
        except BaseException as e:
            traceback.print_exc()
            found = False, f"{type(e).__name__}: {' '.join(str(e).split())}"[:200]
        sys.stdout.flush()
        pipe.send(found)
    pipe.close()


@dataclass
class _Flight:
    "A process that tries cases."

    flock: deque  # (case, its folder), those that are not done
    process: multiprocessing.Process
    pipe: object
    deadline: float = 0.0


def _start(function, flock: deque, seconds: float, memory) -> _Flight:
    for _, folder in flock:
        shutil.rmtree(folder, ignore_errors=True)  # what a process before had begun
        (folder / "tmp").mkdir(parents=True)
    ours, theirs = fork.Pipe(duplex=False)
    process = fork.Process(target=_inside, args=(theirs, function, list(flock), memory))
    process.start()
    theirs.close()
    return _Flight(flock, process, ours, time.monotonic() + seconds)


def _next(flight: _Flight, seconds: float) -> tuple | None:  # whether the case ended as it should, how
    "How the first case of a process has ended; None if it has not."
    if flight.pipe.poll():
        try:
            found = flight.pipe.recv()
            flight.deadline = time.monotonic() + seconds
            return found
        except EOFError:
            flight.process.join()
            code = flight.process.exitcode
            return False, f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit {code}"
    if time.monotonic() < flight.deadline:
        return None
    return False, f"no end after {seconds:g} s"


def _stop(flight: _Flight):
    "Ends a process, and what it has started."
    flight.process.kill()
    flight.process.join()
    for other in session(flight.process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(other, signal.SIGKILL)
    flight.pipe.close()


def _put_away(case, folder: Path, found: tuple, place: Place):
    "Keeps what a case was made of if it ended wrong."
    right, how = found
    if right:
        shutil.rmtree(folder, ignore_errors=True)
        return
    place.kept.mkdir(parents=True, exist_ok=True)
    (folder / "how.txt").write_text(f"case {case}\n{how}\n")
    os.replace(folder, place.kept / folder.name)


def each(
    function: Callable,  # (case, an empty folder) -> (whether it ended as it should, how)
    cases: Iterable,
    title: str,
    place: Place,
    seconds: float = 60,  # after which a case hangs
    memory: int | None = None,  # bytes more than a process begins with
    share: int = 1,  # cases that one process tries, one after the other
):  # yields (case, whether it ended as it should, how)
    "Tries cases in processes of their own, two at a time. After a crash the next process goes on."
    waiting = deque((case, place.work / f"{number:05d}") for number, case in enumerate(cases))
    flying = []
    with tqdm(total=len(waiting), desc=title, mininterval=0.5) as bar:
        while waiting or flying:
            while waiting and len(flying) < AT_ONCE:
                flock = deque(waiting.popleft() for _ in range(min(share, len(waiting))))
                flying.append(_start(function, flock, seconds, memory))
            wait([flight.pipe for flight in flying], timeout=0.5)
            for flight in list(flying):
                if (found := _next(flight, seconds)) is None:
                    continue
                case, folder = flight.flock.popleft()
                if not found[0] or not flight.flock:
                    _stop(flight)
                    flying.remove(flight)
                    waiting.extendleft(reversed(flight.flock))
                _put_away(case, folder, found, place)
                bar.update()
                yield case, *found


def _quietly(function: Callable, args: tuple, said: Path):
    with open(said, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    function(*args)


def apart(function: Callable, *args):
    "Calls a function in a process of its own, so that this one stays without threads. Raises RuntimeError."
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder, "said.txt")
        process = fork.Process(target=_quietly, args=(function, args, said))
        process.start()
        process.join()
        if process.exitcode:
            reason = said.read_text()[-2000:]
            raise RuntimeError(f"{function.__name__} failed with {process.exitcode}: {reason}")


# ---------------------------------------------------------------- mutations


def flipped(data: bytes, rng: np.random.Generator, most: int = 8, within: int | None = None) -> bytes:
    "Some flipped bits, among the first `within` bytes or anywhere."
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, most + 1))):
        at = int(rng.integers(min(len(data), within or len(data))))
        changed[at] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def span(size: int, rng: np.random.Generator) -> slice:
    "A piece of a file, of one byte to a quarter of it."
    length = int(rng.integers(1, max(2, size // 4)))
    start = int(rng.integers(max(1, size - length)))
    return slice(start, start + length)
