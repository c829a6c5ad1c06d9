"""Disks that are full at any byte: an error that says so, and a store that is whole afterwards."""

import contextlib
import ctypes
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import nbformat
import numpy as np
import torch

from mvnb import cli, features, models, puppets, runs, settings, train, video

from . import _chains, stored
from ._cases import Place, Row, apart, each, fork, generator

TITLE, CASES = "full disks", 300
PAGES = 12  # executed pages among them: each takes seconds
SAYS = re.compile(r"no room|could not be written|File too large|No space left|disk full|full disk", re.I)


# ---------------------------------------------------------------- what is written


def checkpoint(folder: Path, videos: Path):
    train.save_checkpoint(folder / "checkpoint.pt", stored.state(3))


def encoder(folder: Path, videos: Path):
    torch.manual_seed(1)
    models.save_weights(models.build("r3d_tiny"), folder / "encoder.safetensors", {"new": True})


def feature_file(folder: Path, videos: Path):
    features._write_npz(folder / "features.npz", features=np.random.default_rng(0).random((64, 64)))


def film(folder: Path, videos: Path):
    noise = np.random.default_rng(0).integers(0, 255, (8, 64, 64, 3), dtype=np.uint8)
    video.write_video(folder / "film.mp4", noise)


def clip_cache(folder: Path, videos: Path):
    stored.read_clips(folder, videos)


def map_cache(folder: Path, videos: Path):
    stored.read_maps(folder, videos)


def drawn(folder: Path, videos: Path):
    os.environ["MVNB_PATHS_CACHE"] = str(folder)
    puppets.kept(puppets.Drawing("puppets-u", "train", 3), None, (0, 9), progress=False)


def note(folder: Path, videos: Path):
    settings.save_json(folder / "result.json", {"text": "x" * 3000}, sync=True)


def page(folder: Path, videos: Path):
    "A notebook of one cell through papermill, as tables are written."
    cell = nbformat.v4.new_code_cell("seeds = 1\nprint('x' * 20000)", metadata={"tags": ["parameters"]})
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    source = folder.parent / "page.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": kernel}), source)
    starved(folder)
    cli._execute(source, folder / "page.ipynb", {})


WRITERS = {
    "a checkpoint": checkpoint,
    "an encoder": encoder,
    "features": feature_file,
    "a video": film,
    "a result record": note,
    "decoded clips": clip_cache,
    "motion maps": map_cache,
    "drawn puppets": drawn,
    "a page": page,
}
CACHES = {clip_cache, map_cache, drawn}
_most = [None]  # bytes of a file, once the disk is full


def starved(folder: Path):
    "From now on no file of this process grows beyond a size."
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (_most[0], hard))


def fed():
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def tree(folder: Path) -> dict:
    "Every file that is no lock, and its bytes."
    every = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in every}


def attempt_write(what: str, rng, folder: Path, place: Place, largest: dict) -> tuple:
    "One file, written where there was one before: all of it or nothing."
    write = WRITERS[what]
    it = folder / "it"
    it.mkdir()
    if write not in CACHES:
        shutil.copytree(place.made / "written" / what, it, dirs_exist_ok=True)
    before = tree(it)
    _most[0] = int(rng.integers(1, largest[what] + 1))
    if write is not page:
        starved(it)
    try:
        write(it, place.puppets)
        return True, "it fits"
    except (OSError, ValueError, cli.Refused, video.VideoError) as e:
        said = str(e)
    finally:
        fed()
    if not SAYS.search(said) or str(it) not in said:
        return False, f"{what}: an error that does not say so: {said}"[:200]
    now, whole = tree(it), tree(place.made / "written" / what)
    for name in ("contents.sqlite", "contents.sqlite-journal"):
        now.pop(name, None)  # SQLite mends its own
    if changed := sorted(name for name in before.keys() | now if now.get(name) != whole.get(name)):
        return False, f"{what}: half-written or lost: {', '.join(changed)}"[:200]
    if write in CACHES:  # what fitted stays, the rest is made now
        write(it, place.puppets)
    return True, "said"


# ---------------------------------------------------------------- whole chains


def starved_chain(kind: str, store: Path, puppets: Path, most: int | None, said: Path):
    "A chain in a process of its own, whose files may grow to so many bytes."
    with open(said, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if most is not None:
        _most[0] = most
        starved(store)
    _chains.checkpoint_each_step()
    sys.exit(_chains.compute(kind, store, puppets))


def ended(kind: str, store: Path, puppets: Path, most: int | None, said: Path) -> int:
    process = fork.Process(target=starved_chain, args=(kind, store, puppets, most, said))
    process.start()
    process.join(200)
    return process.exitcode


def unlisted(store: Path, puppets: Path) -> str:
    "What is stored and cannot be loaded, or nothing."
    _chains.settle(store, puppets)
    for folder in store.glob("runs/[0-9a-f]*"):
        try:
            runs.load(folder.name)
        except (runs.Damaged, OSError) as e:
            return f"{folder.name}: {e}"
    return ""


def attempt_chain(kind: str, most: int | None, more: Callable, folder: Path, puppets: Path, known: dict):
    "A chain on a full disk, and again when there is room."
    store, said = folder / "store", folder / "first.txt"
    code = ended(kind, store, puppets, most, said)
    if code == 0:
        how = "it fits"
    else:
        how = "said"
        last = said.read_text(errors="replace").strip().splitlines()[-1:] or [""]
        if code != 1 or "Traceback" in said.read_text(errors="replace") or not SAYS.search(last[0]):
            return False, f"a run that does not say so, exit code {code}: {last[0]}"[:250]
        if wrong := unlisted(store, puppets):
            return False, f"a store that is not whole: {wrong}"
    more()
    if code := ended(kind, store, puppets, None, folder / "second.txt"):
        return False, f"with room it ends with {code}"
    wrong = _chains.spoiled(store, known[kind])
    return not wrong, wrong or how


def own_disk(store: Path, size: int):
    "Mounts a disk of so many bytes that only this process sees. Raises OSError where that is not possible."
    user, group = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    new_user, new_mounts = 0x10000000, 0x00020000
    if libc.unshare(new_user | new_mounts):
        raise OSError(ctypes.get_errno(), "no namespace of its own")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    store.mkdir(exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(store)]
    if subprocess.run(words, capture_output=True).returncode:
        raise OSError("tmpfs cannot be mounted")


def with_room(store: Path):
    words = ["mount", "-o", "remount,size=1g", str(store)]
    subprocess.run(words, check=True, capture_output=True)


def can_mount(folder: Path) -> bool:
    "Whether a process may have a disk of its own."
    with contextlib.suppress(RuntimeError):
        apart(own_disk, folder, 1 << 20)
        return True
    return False


# ---------------------------------------------------------------- the campaign

FULL, LIMIT = "runs on a full disk", "runs whose files may grow to a random byte"


def attempt(case: tuple, folder: Path, seed: int, place: Place, largest: dict, known: dict) -> tuple:
    number, what = case
    rng = generator(seed, number)
    if what in WRITERS:
        return attempt_write(what, rng, folder, place, largest)
    puppets, store = place.puppets, folder / "store"
    store.mkdir()
    kind = list(known)[number % len(known)]
    sizes = [path.stat().st_size for path in (place.made / kind).rglob("*") if path.is_file()]
    if what == FULL:
        own_disk(store, int(rng.integers(1 << 14, sum(sizes))))
        return attempt_chain(kind, None, partial(with_room, store), folder, puppets, known)
    return attempt_chain(kind, int(rng.integers(1, max(sizes))), lambda: None, folder, puppets, known)


def make_all(place: Place):
    torch.set_num_threads(1)
    for name, write in WRITERS.items():
        (place.made / "written" / name).mkdir(parents=True)
        if write is not page:
            write(place.made / "written" / name, place.puppets)


def run(cases: int, seed: int, place: Place) -> list:
    known = _chains.references(("drawn puppets", "cached files")[: 1 + cases // 20], place)
    apart(make_all, place)
    written = place.made / "written"
    largest = {what: max(map(len, tree(written / what).values()), default=24_000) for what in WRITERS}
    chains, pages = max(1, cases // 10), max(1, min(PAGES, cases // 20))
    small = [what for what in WRITERS if what != "a page"]
    whats = [small[k % len(small)] for k in range(max(0, cases - 2 * chains - pages))]
    whats += ["a page"] * pages + [LIMIT] * chains
    rows = {what: Row(f"{what} on a full disk") for what in WRITERS} | {LIMIT: Row(LIMIT), FULL: Row(FULL)}
    if can_mount(place.made / "disk"):
        whats += [FULL] * chains
    else:
        rows[FULL].what += " (not possible here: no mounts of one's own)"
    function = partial(attempt, seed=seed, place=place, largest=largest, known=known)
    for case, right, how in each(function, enumerate(whats), TITLE, place, 450):
        rows[case[1]].count(right, how)
    return [row for row in rows.values() if row.tried or row is rows[FULL]]
