"""Malicious pickles in the place of weights, checkpoints, features, caches: refused, nothing is called."""

import builtins
import hashlib
import io
import os
import pickle
import shutil
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import torch

from mvnb import features, models, own, puppets, train
from mvnb.models import WeightsError

from ._cases import Place, Row, each, generator

TITLE, CASES = "malicious pickles", 240


class Evil:
    "An object whose pickle calls something that makes a file."

    def __init__(self, call, *args):
        self.call = call, args

    def __reduce__(self):
        return self.call


def evils(marker: Path) -> list:
    "Ways to make a file while a pickle is read."
    text = str(marker)
    return [
        Evil(os.system, f"touch '{text}'"),
        Evil(builtins.open, text, "w"),
        Evil(builtins.exec, f"open({text!r}, 'w')"),
        Evil(builtins.eval, f"open({text!r}, 'w')"),
        Evil(os.mkdir, text),
        Evil(shutil.copyfile, __file__, text),
        Evil(Path.touch, marker),
        Evil(np.save, text, np.zeros(1)),
        Evil(torch.save, {}, text),
        Evil(__import__("subprocess").call, ["touch", text]),
    ]


def hidden(evil: Evil, rng) -> object:
    "It alone, or somewhere in what a file of weights holds."
    weights = {"stem.weight": torch.ones(3, 3)}
    return [
        evil,
        weights | {"stem.bias": evil},
        {"state_dict": weights, "args": evil},
        {"model": weights, "optimizer": {"state": [evil]}},
        [weights, (evil,)],
    ][rng.integers(5)]


# ---------------------------------------------------------------- files


def pickled(value, rng) -> bytes:
    "As torch saves it, now or long ago, or as a plain pickle."
    out = io.BytesIO()
    way = rng.integers(3)
    if way == 0:
        torch.save(value, out)
    elif way == 1:
        torch.save(value, out, _use_new_zipfile_serialization=False)
    else:
        pickle.dump(value, out, protocol=int(rng.integers(2, 6)))
    return out.getvalue()


def boxed(value) -> np.ndarray:
    "An array of one object."
    box = np.empty(1, object)
    box[0] = value
    return box


def weights(folder: Path, value, rng):
    "Weights, under all suffixes that are read."
    path = folder / f"a{('.pt', '.pth', '.tar', '.safetensors')[rng.integers(4)]}"
    path.write_bytes(pickled(value, rng))
    models.read_weights(path)


def encoder(folder: Path, value, rng):
    "The same, as an encoder to load."
    path = folder / f"a{('.pt', '.pth', '.tar', '.safetensors')[rng.integers(4)]}"
    path.write_bytes(pickled(value, rng))
    own.load_encoder(path, "r3d_tiny")


def checkpoint(folder: Path, value, rng):
    "A checkpoint with a right checksum, or as earlier versions wrote it."
    data = pickled(value, rng)
    if rng.integers(2):
        data = train._MAGIC + hashlib.sha256(data).digest() + data
    (folder / "checkpoint.pt").write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if train.load_checkpoint(folder / "checkpoint.pt") is None:
            raise WeightsError("skipped with a warning")


def feature_file(folder: Path, value, rng):
    "Features whose arrays hold objects."
    names = ("features", "paths", "ok", "reasons", "labels", "classes", "about")
    arrays = {name: np.zeros(2) for name in names}
    arrays[names[rng.integers(len(names))]] = boxed(value)
    np.savez(folder / "features.npz", **arrays)
    features.load(folder / "features.npz")


def drawn(folder: Path, value, rng):
    "A cache of drawn puppets with the checksum of an array of objects: it is drawn again."
    os.environ["MVNB_PATHS_CACHE"] = str(folder)
    drawing = puppets.Drawing("puppets-u", "train", 1)
    sound = np.array(puppets.kept(drawing, 16, (0,), progress=False))
    (file,) = folder.glob("drawn/*/array.npy")
    about = file.with_suffix(".json")
    before = hashlib.sha256(file.read_bytes()).hexdigest()
    np.save(file, boxed(value), allow_pickle=True)
    now = hashlib.sha256(file.read_bytes()).hexdigest()
    about.write_text(about.read_text().replace(before, now))
    if np.array_equal(puppets.kept(drawing, 16, (0,), progress=False), sound):
        raise WeightsError("drawn again")


def truth(folder: Path, value, rng):
    "Ground truth beside a video, of objects."
    (folder / "a.mp4").touch()
    np.savez(folder / "a.npz", bits=boxed(value), shape=np.array([1, 8, 8]))
    try:
        puppets.ground_truth(folder / "a.mp4")
    except ValueError as e:
        raise WeightsError(str(e)) from None


READERS = {
    "files of weights": weights,
    "encoders": encoder,
    "checkpoints": checkpoint,
    "files of features": feature_file,
    "drawn puppets": drawn,
    "ground truth": truth,
}


def attempt(case: tuple, folder: Path, seed: int) -> tuple:
    "One malicious file."
    number, name = case
    rng = generator(seed, number)
    marker = folder / "called"
    calls = evils(marker)
    value = hidden(calls[rng.integers(len(calls))], rng)
    try:
        READERS[name](folder, value, rng)
        how = "it is read"
    except (WeightsError, own.OwnError):
        how = ""
    if list(folder.glob("called*")):
        how = "the pickle was obeyed"
    return not how, f"{name}: {how}" if how else "refused"


def run(cases: int, seed: int, place: Place) -> list:
    rows = {name: Row(f"malicious pickles as {name}") for name in READERS}
    names = list(READERS)
    every = [(k, names[k % len(names)]) for k in range(cases)]
    for case, right, how in each(partial(attempt, seed=seed), every, TITLE, place, 60, share=24):
        rows[case[1]].count(right, how)
    return [row for row in rows.values() if row.tried]
