"""A pretraining and a fine-tuning on top of it, seconds long: what is killed, doubled and starved."""

import dataclasses
import functools
import json
import os
import time
from pathlib import Path

import lightning_fabric  # noqa: F401  opened once, before processes are forked
from filelock import FileLock, Timeout
from torch.utils.tensorboard import SummaryWriter  # noqa: F401

from mvnb import cli, methods, protocols, recipes, records, runs, settings
from mvnb.recipes import SMOKE, Data

from ._cases import Place, alone, apart

methods.names()  # opens the papers
FILES = Data("puppets-u", scale=0.05, per_class=2)
DRAWN = Data("puppets-u", videos=16)
KINDS = {  # what is killed -> data, cache, loader processes
    "files": (FILES, None, 0),
    "files, two readers": (FILES, None, 2),
    "cached files": (FILES, "disk", 0),
    "drawn puppets": (DRAWN, "disk", 0),
}


def chain(kind: str):  # the recipe of the fine-tuning; its parent is the pretraining
    "Six steps of each, with dropout in the second."
    data, cache, _ = KINDS[kind]
    steps = dataclasses.replace(SMOKE.pretrain, batch_size=4, max_steps=6)
    profile = dataclasses.replace(
        SMOKE,
        pretrain=steps,
        finetune=dataclasses.replace(steps, accumulate=2),
        pretrain_clips=dataclasses.replace(SMOKE.pretrain_clips, cache=cache),
        finetune_clips=dataclasses.replace(SMOKE.finetune_clips, cache=cache),
        finetuning=SMOKE.finetuning | dict(dropout=0.5),
    )
    parent = dataclasses.replace(recipes.pretraining(profile, "moco", "puppets-u", "r3d"), data=data)
    tuned = recipes.finetuning(profile, "puppets-u", parent)
    tests = [(name, dataclasses.replace(data, split=test.split)) for name, test in tuned.tests]
    return dataclasses.replace(tuned, data=data, tests=tests)


def settle(folder: Path, puppets: Path):
    "From now on this process keeps runs, caches and pages in a folder."
    for key, path in dict(PATHS_RUNS="runs", PATHS_CACHE="cache", PATHS_OUTPUTS="outputs").items():
        os.environ[f"MVNB_{key}"] = str(folder / path)
    os.environ["MVNB_DATA_PUPPETS"] = str(puppets)


def checkpoint_each_step():
    "From now on trainings of this process write a checkpoint after each step."
    runs.fit = protocols.fit = functools.partial(protocols.fit, checkpoint_every=0.0)


def compute(kind: str, folder: Path, puppets: Path) -> int:  # exit code
    "`mvnb run` of a chain, as a user would start it."
    settle(folder, puppets)
    recipe = chain(kind)
    file = folder / "recipe.json"
    settings.save_whole(file, recipe.json())  # several processes may do so at once
    return cli.main(["run", str(file), "--device", "cpu", "--workers", str(KINDS[kind][2])])


def made(puppets: Path):
    "Makes the embedded videos that are files, unless they are there."
    settle(puppets, puppets)
    FILES.load()


def make(kind: str, folder: Path, puppets: Path):
    "A chain that nothing disturbs. Raises RuntimeError where it fails."
    folder.mkdir(parents=True, exist_ok=True)
    if compute(kind, folder, puppets):
        raise RuntimeError(f"the undisturbed chain of {kind} fails")


def contents(folder: Path) -> dict:  # what -> bytes or value
    "Everything that a store says of its chain and that no clock decides."
    found = {}
    for record in map(records.parsed, sorted(folder.glob("runs/[0-9a-f]*"))):
        name = record["recipe"]["kind"]
        found[f"{name}: metrics"] = json.dumps(record["metrics"], sort_keys=True)
        for file, about in record["files"].items():
            if not file.startswith("tensorboard"):
                found[f"{name}: {file}"] = about["sha256"]
    return found


def names(folder: Path) -> set:
    "All files of stores and caches; of TensorBoard's the folder alone, since their names hold the time."
    every = {path.relative_to(folder) for part in ("runs", "cache") for path in (folder / part).rglob("*")}
    return {path.as_posix() for path in every if "tensorboard" not in path.parts}


@dataclasses.dataclass(frozen=True)
class Reference:
    "What a chain gives when nothing disturbs it."

    contents: dict
    names: set
    seconds: float


def references(kinds, place: Place) -> dict:  # kind -> Reference
    "Undisturbed chains, each in a process of its own."
    apart(made, place.puppets)
    found = {}
    for kind in kinds:
        begun = time.monotonic()
        apart(make, kind, place.made / kind, place.puppets)
        seconds = time.monotonic() - begun
        found[kind] = Reference(contents(place.made / kind), names(place.made / kind), seconds)
    return found


def spoiled(folder: Path, reference: Reference, killed: bool = False) -> str:
    "How a store differs from an undisturbed one, what was left behind, or nothing."
    now, wanted = contents(folder), reference.contents
    if other := sorted(what for what in wanted.keys() | now if now.get(what) != wanted.get(what)):
        return f"another {', another '.join(other)}"
    if left := sorted(names(folder) ^ reference.names):
        return f"left behind or lost: {', '.join(left)[:150]}"
    temporary = [path.name for path in Path(os.environ["TMPDIR"]).iterdir()]
    if killed:  # nobody can remove what Python keeps for a process that gets SIGKILL
        temporary = [name for name in temporary if not name.startswith("pymp-")]
    if left := sorted(temporary):
        return f"temporary files are left: {', '.join(left)[:150]}"
    for lock in folder.rglob("*.lock"):
        try:
            FileLock(lock, timeout=0).acquire()
        except Timeout:
            return f"{lock.name} is still locked"
    return "" if alone() else "a process goes on"
