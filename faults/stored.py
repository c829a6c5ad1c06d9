"""Flipped bits in what is stored: refused or made again, never another value."""

import functools
import os
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mvnb import clips, contents, datasets, features, maps, models, own, puppets, runs, train
from mvnb.models import WeightsError

from . import _chains
from ._cases import Place, Row, apart, each, flipped, generator

TITLE, CASES = "flipped bits in stored files", 2200


@dataclass(frozen=True)
class Kind:
    "Something that is stored."

    name: str  # in the table
    make: Callable  # (folder, puppets): stores it
    read: Callable  # folder -> what it holds
    files: tuple = ("*",)  # patterns of files whose bits are flipped
    refused: tuple = ()  # errors that say so
    before: Callable | None = None  # folder -> what may be read instead


def plain(value):
    "A value that can be compared bit for bit, and hashed."
    if isinstance(value, dict):
        return tuple((key, plain(value[key])) for key in sorted(value))
    if isinstance(value, (list, tuple)):
        return tuple(map(plain, value))
    if isinstance(value, torch.Tensor):
        value = value.numpy()
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, np.ascontiguousarray(value).tobytes()
    return repr(value)


# ---------------------------------------------------------------- checkpoints, runs, encoders


def state(step: int) -> dict:
    make = torch.Generator().manual_seed(step)
    weights = {"a": torch.randn(40, 9, generator=make), "b": torch.ones(3).bool()}
    return {"step": step, "weights": weights, "names": ["loss"], "seconds": 0.25 * step}


def make_checkpoint(folder: Path, _):
    for step in (1, 2):
        train.save_checkpoint(folder / "checkpoint.pt", state(step))


def read_checkpoint(folder: Path):
    return train.load_checkpoint(folder / "checkpoint.pt")


def make_run(folder: Path, videos: Path):
    once = folder.parent / "chain"
    if not once.is_dir():
        _chains.make("drawn puppets", once, videos)
    shutil.copytree(once, folder, dirs_exist_ok=True)


def read_run(folder: Path):
    "Both results, through their hashes."
    os.environ["MVNB_PATHS_RUNS"] = str(folder / "runs")
    runs.stored()
    found = []
    for path in sorted((folder / "runs").glob("[0-9a-f]*")):
        result = runs.load(path.name)
        found.append([result.recipe.json(), result.metrics, result.meta, result.weights.read_bytes()])
    return found


def make_note(folder: Path, videos: Path):
    _chains.settle(folder, videos)
    recipe = _chains.chain("drawn puppets").parent
    runs._begin(recipe, runs.manifests(recipe), {})


def read_note(folder: Path):
    "What is known of the attempt that was interrupted; nothing makes the run start anew."
    (work,) = folder.glob("runs/.work-*")
    return runs._story(work)


def encoder_in(path: Path):
    found = own.load_encoder(path)
    return [found.state_dict(), found.meta, found.name, repr(found.clips)]


def read_encoder_of_run(folder: Path):
    (weights,) = folder.glob("runs/*/weights.safetensors")
    return encoder_in(weights.parent)


def make_encoder(folder: Path, videos: Path):
    torch.manual_seed(0)
    recipe = _chains.chain("drawn puppets").parent
    network = models.build(recipe.backbone, **recipe.model)
    runs._save_weights(network, folder / "encoder.safetensors", recipe)


def read_encoder(folder: Path):
    return encoder_in(folder / "encoder.safetensors")


# ---------------------------------------------------------------- caches and videos


def videos_of(root: Path, count: int) -> datasets.Index:
    return datasets.load("puppets-u", "train", root=root, scale=_chains.FILES.scale).limit(count)


def make_clips(folder: Path, videos: Path):
    read_clips(folder, videos)


def read_clips(folder: Path, videos: Path):
    os.environ["MVNB_PATHS_CACHE"] = str(folder)
    found = clips.ClipDataset(videos_of(videos, 1), 4, 2, 32, cache="disk", motion=True).decoded()
    return [list(map(np.array, found.frames)), list(map(np.array, found.motion)), found.native, found.failed]


def read_maps(folder: Path, videos: Path):
    os.environ["MVNB_PATHS_CACHE"] = str(folder)
    contents._held.clear()  # what the database holds is read again
    index = videos_of(videos, 1)
    found = [maps.of_video(index.path(k), maps.Maps("vectors"), folder) for k in range(2)]
    return [[one.st, one.frame, one.video] for one in found]


def read_drawn(folder: Path, videos: Path):
    os.environ["MVNB_PATHS_CACHE"] = str(folder)
    drawing = puppets.Drawing("puppets-u", "train", 3)
    return [np.array(puppets.kept(drawing, size, (0, 9), progress=False)) for size in (16, None)]


def read_puppets(folder: Path, videos: Path):
    made = puppets.make("puppets-s", folder, scale=0.02, progress=False)
    found = puppets.manifest(made)["files"]
    files = [made / about["path"] for about in found]
    return [found, [file.read_bytes() for file in files], list(map(puppets.ground_truth, files))]


def make_features(folder: Path, videos: Path):
    make_encoder(folder, videos)
    films = folder / "films"
    films.mkdir()
    index = videos_of(videos, 1)
    for k in range(2):
        shutil.copy(index.path(k), films / f"{k}.mp4")
    os.environ["MVNB_PATHS_OUTPUTS"] = str(folder)
    encoder = folder / "encoder.safetensors"
    features.extract(films, encoder, folder / "features.npz", map=None, device="cpu", workers=0)


def read_features(folder: Path):
    found = features.load(folder / "features.npz")
    return [found.values, found.paths, found.ok, found.reasons, found.labels, found.classes, found.about]


def made_by_reading(name: str, read: Callable, files: tuple) -> Kind:
    "A cache: reading makes what is missing or damaged, in whatever folder the videos are."
    return Kind(name, read, read, files)


CACHES = {"decoded clips", "motion maps", "drawn puppets", "puppet files"}  # reading needs the videos
KINDS = [
    Kind("checkpoints", make_checkpoint, read_checkpoint, before=lambda _: plain(state(1))),
    Kind("result records", make_run, read_run, ("runs/*/result.json",), (runs.Damaged,)),
    Kind("weights in a store", make_run, read_run, ("runs/*/*.safetensors", "runs/*/*.csv"), (runs.Damaged,)),
    Kind("notes of attempts", make_note, read_note, ("runs/.work-*/*.json",), before=lambda _: plain(None)),
    Kind(
        "encoders in a store",
        make_run,
        read_encoder_of_run,
        ("runs/*/weights.safetensors", "runs/*/result.json"),
        (WeightsError,),
    ),
    Kind("encoder files", make_encoder, read_encoder, refused=(WeightsError,)),
    Kind("encoders' metadata", make_encoder, read_encoder, refused=(WeightsError,)),
    Kind("feature files", make_features, read_features, ("features.npz",), (own.OwnError,)),
    made_by_reading("decoded clips", read_clips, ("clips/*/*",)),
    made_by_reading("motion maps", read_maps, ("contents.sqlite", "maps/*/*/*.map")),
    made_by_reading("drawn puppets", read_drawn, ("drawn/*/*",)),
    made_by_reading("puppet files", read_puppets, ("*/*/*/*.mp4", "*/*/*/*.npz", "*/manifest.json")),
]


# ---------------------------------------------------------------- cases


def make_all(place: Place, wanted: list):
    "Stores one of each."
    torch.set_num_threads(1)
    _chains.made(place.puppets)
    for kind in wanted:
        folder = place.made / kind.name
        folder.mkdir()
        kind.make(folder, place.puppets)


def reader(kind: Kind, videos: Path) -> Callable:
    return functools.partial(kind.read, videos=videos) if kind.name in CACHES else kind.read


@functools.cache
def sound_value(which: int, place: Place):
    "What is read where no bit was flipped."
    kind = KINDS[which]
    return plain(reader(kind, place.puppets)(place.made / kind.name))


def attempt(case: tuple, folder: Path, seed: int, place: Place) -> tuple:
    "Some bits of one file."
    number, which = case
    kind = KINDS[which]
    rng = generator(seed, number)
    read = reader(kind, place.puppets)
    it = folder / "it"
    shutil.copytree(place.made / kind.name, it)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        files = sorted(path for pattern in kind.files for path in it.glob(pattern) if path.is_file())
        file = files[rng.integers(len(files))]
        data = file.read_bytes()
        within = 3000 if kind.name == "encoders' metadata" else (None, 200)[number // len(KINDS) % 2]
        changed = flipped(data, rng, int(rng.choice([1, 1, 1, 4])), within)
        sound = sound_value(which, place)
        file.unlink()  # another file in its place, as other bytes on a disk would be
        file.write_bytes(changed)
        try:
            found = plain(read(it))
        except kind.refused as e:
            return True, f"refused ({type(e).__name__})"
    if found == sound:
        return True, "the same value"
    if kind.before and found == kind.before(it):
        return True, "refused (what was before it is taken)"
    return False, f"{kind.name}, {file.name}: another value is read"


def run(cases: int, seed: int, place: Place) -> list:
    wanted = KINDS[:cases]
    apart(make_all, place, wanted)
    rows = [Row(f"flipped bits in {kind.name}") for kind in wanted]
    every = [(k, k % len(wanted)) for k in range(cases)]
    function = functools.partial(attempt, seed=seed, place=place)
    for case, right, how in each(function, every, TITLE, place, 120, share=24):
        rows[case[1]].count(right, how)
    return rows
