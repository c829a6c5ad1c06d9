"Recipes and the run store: hashes, once among processes, damage, kills, changed data."

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from filelock import FileLock
from hypothesis import given, settings as hyp, strategies as st
from threadpoolctl import threadpool_info

from mvnb import boxes, contents, recipes, records, runs, settings
from mvnb.recipes import Clips, Data, Options, Recipe, from_json
from mvnb.train import Schedule
from mvnb.video import write_video

SMOKE = recipes.SMOKE


@pytest.fixture
def store(tmp_path, monkeypatch, puppets_root):
    "An empty run store; puppets are made once for the whole session."
    monkeypatch.setenv("MVNB_PATHS_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("MVNB_DATA_PUPPETS", str(puppets_root))
    return tmp_path / "runs"


def pre(seed=0, steps=2, **params):
    p = dataclasses.replace(
        SMOKE, pretrain=dataclasses.replace(SMOKE.pretrain, max_steps=steps, epochs=max(4, steps))
    )
    return recipes.pretraining(p, "moco", "puppets-u", "i3d", seed, **params)


def tune(parent):
    return recipes.finetuning(SMOKE, "puppets-u", parent)


def ensure(recipe, **kw):
    return runs.ensure(recipe, device="cpu", workers=0, **{"progress": False, **kw})


# ---------------------------------------------------------------- recipes


def test_the_hash_of_a_recipe_stays():
    """Stored results are found by this hash. If this test fails, every stored run is lost:
    raise recipes.FORMAT if that is meant, or use recipes.LATER."""
    recipe = Recipe(
        "finetune",
        Data("ucf101", fold=2),
        "i3d",
        Clips(16, 2, 224),
        Schedule(epochs=150, batch_size=128, lr=0.025, schedule="step", milestones=(60, 120)),
        params=dict(dropout=0.7),
        tests=[("test", Data("ucf101", "test", fold=2))],
        seed=3,
        parent=Recipe(
            "pretrain",
            Data("ucf101", fold=2),
            "i3d",
            Clips(16, 2, 224),
            Schedule(epochs=200, batch_size=64),
            method="fame",
            params=dict(beta=0.3, queue=2048),
            seed=3,
        ),
    )
    assert recipe.hash == "a0056b988389f3be" and recipe.parent.hash == "7029dcfb5a0347b6"


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


@hyp(max_examples=60, deadline=None)
@given(
    params=st.dictionaries(st.text(min_size=1, max_size=8), values, max_size=4),
    seed=st.integers(0, 2**31),
    scale=st.floats(0.01, 1),
    lr=st.floats(1e-6, 10),
    name=st.text(min_size=1, max_size=12),
)
def test_a_recipe_survives_json_and_keeps_its_hash(params, seed, scale, lr, name):
    parent = Recipe(
        "pretrain",
        Data(name, scale=scale),
        "i3d",
        Clips(stride=(1, 2)),
        Schedule(epochs=1, batch_size=2, lr=lr),
        method="moco",
        params=params,
        seed=seed,
    )
    child = Recipe(
        "linear",
        Data(name, "test"),
        "i3d",
        schedule=Schedule(epochs=1, batch_size=2),
        tests=[["t", Data(name)]],
        parent=parent,
        params=params,
    )
    again = from_json(child.json())
    assert (
        again == child
        and again.hash == child.hash
        and again.parent.hash == parent.hash
        and hash(again) == hash(child)
    )
    assert (
        from_json(json.loads(json.dumps(json.loads(child.json()), indent=3))) == child
    )  # other spacing and order, the same recipe


def test_every_field_of_a_recipe_is_in_its_hash():
    base = pre()
    other = dict(
        data=Data("puppets-h", scale=0.5),
        backbone="r3d_tiny",
        clips=Clips(size=64),
        schedule=Schedule(epochs=9, batch_size=4),
        method="fame",
        params=Options(x=1),
        photometric=Options(),
        model=Options(width=2),
        test_views=3,
        seed=5,
        profile="demo",
    )
    checked = {f.name for f in dataclasses.fields(Recipe)} - {
        "kind",
        "tests",
        "parent",
        "format",
    }  # these four: refused alone, or below
    assert checked == set(other)
    assert (
        len({base.hash, *(dataclasses.replace(base, **{k: v}).hash for k, v in other.items())})
        == len(other) + 1
    )
    child = tune(base)
    assert (
        len(
            {
                child.hash,
                tune(pre(seed=1)).hash,
                dataclasses.replace(child, tests=child.tests[:1]).hash,
                dataclasses.replace(child, parent=None).hash,
            }
        )
        == 4
    )


@pytest.mark.parametrize(
    "part,known",
    [(Data, "name split fold seed scale per_class"), (Clips, "length stride size scale ratio cache")],
)
def test_a_new_field_must_keep_old_hashes(part, known):
    new = {f.name for f in dataclasses.fields(part)} - set(known.split())
    assert all((part.__name__, name) in recipes.LATER for name in new), (
        "list new fields in recipes.LATER, or every stored run is lost"
    )


def test_whole_floats_hash_like_integers():
    assert (
        dataclasses.replace(pre(), data=Data("puppets-u", scale=1)).hash
        == dataclasses.replace(pre(), data=Data("puppets-u", scale=1.0)).hash
    )


@pytest.mark.parametrize(
    "change,message",
    [
        (dict(kind="train"), "is not known"),
        (dict(method=None), "needs a method"),
        (dict(schedule=None), "needs a schedule"),
        (dict(tests=[("t", Data("x"))]), "has no tests"),
        (dict(format=0), "has format 0"),
        (dict(params=dict(f=len)), "numbers, texts"),
    ],
)
def test_a_recipe_that_cannot_run_is_refused(change, message):
    with pytest.raises((ValueError, TypeError), match=message):
        dataclasses.replace(pre(), **change)


def test_a_recipe_of_another_version_is_refused():
    text = json.loads(pre().json())
    with pytest.raises(ValueError, match="Clips has no colour"):
        from_json(text | {"clips": text["clips"] | {"colour": 1}})


def test_the_paper_profile_is_the_paper():
    p = recipes.profile("paper", "fame")
    r = recipes.pretraining(p, "fame", "ucf101", "i3d", beta=0.3)
    t = recipes.finetuning(p, "hmdb51", r)
    assert (
        r.schedule.epochs,
        r.schedule.batch_size,
        r.schedule.lr,
        r.schedule.weight_decay,
        r.schedule.schedule,
    ) == (200, 64, 0.01, 1e-4, "cosine")
    assert (
        r.backbone,
        r.params["queue"],
        r.params["head"],
        r.params["temperature"],
        r.clips.length,
        r.clips.stride,
        r.clips.size,
    ) == ("i3d", 2048, "mlp", 0.1, 16, 2, 224)
    assert (
        t.schedule.epochs,
        t.schedule.lr,
        t.schedule.batch_size,
        t.schedule.milestones,
        t.params["dropout"],
        t.test_views,
    ) == (150, 0.025, 128, (60, 120), 0.7, 10)
    assert (
        r.data == Data("ucf101", "train", 1)
        and t.tests == (("test", Data("hmdb51", "test", 1)),)
        and t.clips.cache is None
    )


# ---------------------------------------------------------------- the store


def test_a_second_call_reads_and_gives_the_same(store):
    child = tune(pre())
    first, times = (
        ensure(child),
        {p: p.stat().st_mtime_ns for p in store.rglob("*") if p.is_file() and ".locks" not in p.parts},
    )
    second = ensure(child)
    assert second.metrics == first.metrics and second.meta == first.meta
    assert {p: p.stat().st_mtime_ns for p in times} == times
    assert {p.name for p in store.iterdir()} == {".locks", child.hash, child.parent.hash}
    assert not list(store.rglob("*.pt")) and not list(store.rglob("*.tmp"))  # nothing left over
    for name in (
        "device",
        "commit",
        "versions",
        "data",
        "failed",
        "seconds",
        "peak_memory",
        "started",
        "finished",
        "gmac",
    ):
        assert name in first.meta, name
    assert (
        first.metrics["biased"]["n"] > 0
        and (first.folder / "losses.csv").is_file()
        and (first.folder / "predictions" / "biased.csv").is_file()
    )


def test_a_fine_tuning_starts_from_its_parent(store):
    from mvnb import models

    parent = ensure(pre())
    loaded, meta = models.read_weights(parent.weights)
    assert from_json(meta["recipe"]) == parent.recipe
    child = ensure(tune(parent.recipe))
    orphan = ensure(recipes.finetuning(SMOKE, "puppets-u", None, "i3d", seed=1))
    a, b = (models.read_weights(r.folder / "classifier.safetensors")[0] for r in (child, orphan))
    names = [k for k in loaded if k.endswith("weight") and loaded[k].ndim == 5]
    near, far = (sum((w["backbone." + k] - loaded[k]).abs().sum() for k in names) for w in (a, b))
    assert near < 0.5 * far  # three small steps away from the parent's weights, not from random ones


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def improve(path):
    path.write_text(path.read_text().replace('"steps": 2', '"steps": 9'))


@pytest.mark.parametrize(
    "file,harm,why",
    [
        ("result.json", truncate, "cannot be read"),
        ("result.json", improve, "own checksum"),
        ("result.json", Path.unlink, "result.json is missing"),
        ("weights.safetensors", flip, "weights.safetensors does not match"),
        ("weights.safetensors", truncate, "does not match"),
        ("weights.safetensors", Path.unlink, "weights.safetensors is missing"),
        ("losses.csv", Path.unlink, "losses.csv is missing"),
    ],
)
def test_damage_is_found_and_mended(store, capsys, file, harm, why):
    recipe = pre()
    good = ensure(recipe)
    weights = good.weights.read_bytes()
    harm(good.folder / file)
    found = runs.status(recipe)
    assert found.state == "damaged" and why in found.why and runs.find(recipe) is None
    again = ensure(recipe, progress=True)
    assert why in capsys.readouterr().out
    assert (
        again.weights.read_bytes() == weights
        and again.metrics == good.metrics
        and runs.status(recipe).state == "stored"
    )


def test_an_entry_of_another_recipe_is_not_taken(store):
    a, b = pre(), pre(seed=1)
    ensure(a)
    os.rename(store / a.hash, store / b.hash)
    assert runs.status(b).state == "damaged" and "another recipe" in runs.status(b).why


def test_changed_data_make_a_result_stale(store, tmp_path, monkeypatch, capsys):
    "The same recipe over a folder whose content changed: the manifest hash tells."
    import shutil

    source = Path(os.environ["MVNB_DATA_PUPPETS"])
    recipe, child = pre(), tune(pre())
    ensure(child)
    monkeypatch.setenv(
        "MVNB_DATA_PUPPETS", str(tmp_path / "elsewhere")
    )  # the same videos elsewhere are the same data
    shutil.copytree(source, tmp_path / "elsewhere")
    assert runs.status(recipe).state == "stored"
    load = Data.load
    monkeypatch.setattr(
        Data, "load", lambda self: load(self).subset(range(5, 25)) if self.split == "train" else load(self)
    )
    assert (runs.status(recipe).state, runs.status(child).state) == (
        "stale",
        "stale",
    ) and "have changed" in runs.status(recipe).why
    ensure(recipe, progress=True)
    assert "puppets-u train" in capsys.readouterr().out and runs.status(recipe).state == "stored"


@pytest.fixture
def listed(store, tmp_path, monkeypatch):
    "A data set with official lists whose 14 videos are files; nothing but the lists decides its hash."
    monkeypatch.setenv("MVNB_PATHS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(contents, "_held", {})
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 a\n2 b\n")
    for name, each in (("train", 10), ("test", 4)):
        paths = [f"{'ab'[i % 2]}/{name}{i}.avi" for i in range(each)]
        lines = (f"{path} {1 + i % 2}\n" for i, path in enumerate(paths))
        (lists / f"{name}list01.txt").write_text("".join(lines))
        for i, path in enumerate(paths):
            (tmp_path / "videos" / path).parent.mkdir(parents=True, exist_ok=True)
            frames = np.random.default_rng(i).integers(0, 256, (20, 32, 32, 3), np.uint8)
            write_video(tmp_path / "videos" / path, frames)
    monkeypatch.setenv("MVNB_DATA_UCF101", str(tmp_path / "videos"))
    monkeypatch.setenv("MVNB_DATA_UCF101_ANNOTATIONS", str(lists))
    return tmp_path / "videos"


def on_files(recipe):
    "A run of puppets, moved to the listed set."
    parent = recipe.parent and on_files(recipe.parent)
    tests = [("test", Data("ucf101", "test"))] if recipe.tests else ()
    short = recipe.schedule and dataclasses.replace(recipe.schedule, batch_size=4)
    return dataclasses.replace(recipe, data=Data("ucf101"), tests=tests, parent=parent, schedule=short)


def change_a_byte(path):
    "Same size, same time of change, same inode."
    about = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    with open(path, "r+b") as file:
        file.write(data)
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


def test_a_video_that_was_replaced_makes_results_stale(listed, capsys):
    recipe, child = on_files(pre()), on_files(tune(pre()))
    ensure(child)
    said = runs.find(recipe).meta["contents"], runs.find(child).meta["contents"]
    assert set(said[0]) == {"train"} and set(said[1]) == {"train", "test test", "parent train"}
    assert said[1]["parent train"] == said[0]["train"] == recipe.data.load().files_hash()
    lists = recipe.data.load().hash
    change_a_byte(listed / "b/test3.avi")
    assert recipe.data.load().hash == lists and runs.status(recipe).state == "stored"
    assert runs.status(child).why == "the videos of ucf101 test 1 have changed since it was computed"
    ensure(child)
    change_a_byte(listed / "a/train4.avi")
    for run in (recipe, child):
        assert runs.status(run).why == "the videos of ucf101 train 1 have changed since it was computed"
    ensure(child, progress=True)
    assert capsys.readouterr().out.count("computed again, the videos of ucf101 train 1 have changed") == 2
    assert runs.find(child).meta["contents"]["parent train"] == recipe.data.load().files_hash()


def test_touched_moved_and_absent_videos_make_nothing_stale(listed, tmp_path, monkeypatch):
    recipe = on_files(pre())
    ensure(recipe)
    for path in listed.rglob("*.avi"):
        os.utime(path, (1e9, 1e9))
    assert runs.status(recipe).state == "stored"
    shutil.copytree(listed, tmp_path / "elsewhere")
    monkeypatch.setenv("MVNB_DATA_UCF101", str(tmp_path / "elsewhere"))
    assert runs.status(recipe).state == "stored"
    for path in (tmp_path / "elsewhere").rglob("*.avi"):
        path.unlink()
    assert runs.status(recipe).state == "stored"  # results are read where there are only lists
    shutil.rmtree(tmp_path / "elsewhere")
    assert runs.status(recipe).state == "stored"


def test_a_result_that_does_not_say_what_files_held_stays(listed):
    recipe = on_files(pre())
    folder = ensure(recipe).folder
    record = json.loads((folder / "result.json").read_text())
    del record["meta"]["contents"]
    record["checksum"] = records.checksum(record)
    (folder / "result.json").write_text(json.dumps(record))
    change_a_byte(listed / "a/train4.avi")
    assert runs.status(recipe).state == "stored"
    child = ensure(on_files(tune(pre())))
    assert set(child.meta["contents"]) == {"train", "test test"}


def test_status_reads_a_few_files_and_a_start_all(listed, monkeypatch):
    "Whoever plans does not wait until a large data set has been read; that is for those who train."
    recipe = on_files(pre())
    ensure(recipe)
    change_a_byte(listed / "a/train4.avi")
    read, whole = [], contents.sha256
    monkeypatch.setattr(contents, "sha256", lambda path: read.append(path) or whole(path))
    with monkeypatch.context() as patch:
        patch.setattr(contents, "QUICK", 1000)
        assert runs.status(recipe).state == "stored" and not read
        assert ensure(dataclasses.replace(recipe, seed=1)).meta["contents"]["train"]
        assert len(set(read)) == 10
    assert runs.status(recipe).state == "stale"


@pytest.mark.parametrize("changed", [True, False])
def test_an_attempt_is_continued_unless_a_video_was_replaced(listed, monkeypatch, capsys, changed):
    recipe = on_files(pre())
    with monkeypatch.context() as patch:
        patch.setattr(runs, "_publish", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            ensure(recipe)
    if changed:
        change_a_byte(listed / "a/train4.avi")
    result = ensure(recipe)
    assert ("taking up an attempt" in capsys.readouterr().out) != changed
    assert result.meta["contents"]["train"] == recipe.data.load().files_hash()
    assert runs.status(recipe).state == "stored"


def test_drawn_puppets_have_no_files_to_hash(store):
    assert ensure(pre()).meta["contents"] == {}


def boxed(**params):  # a stored run on true boxes, or on those of a file
    return recipes.pretraining(SMOKE, "mac", "puppets-u", "r2plus1d", objective="s", source="box", **params)


def write_boxes(path, index, x1):
    path.write_text(
        "path,frame,x0,y0,x1,y1\n"
        + "".join(f"{p},{t},5,5,{x1},50\n" for p in index.paths for t in range(0, 40, 8))
    )


@pytest.mark.parametrize("named_by", ["the recipe", "settings"])
def test_changed_boxes_make_a_result_stale(store, tmp_path, monkeypatch, capsys, named_by):
    "Of the pretraining and of what was tuned from it; boxes that are away, or cannot be used, say nothing."
    path, index = tmp_path / "people.csv", Data("puppets-u", scale=SMOKE.scale).load()
    write_boxes(path, index, 40)
    recipe = boxed(reach=4, **({"boxes": str(path)} if named_by == "the recipe" else {}))
    if named_by == "settings":  # puppets that have lost their own boxes stand for real videos
        monkeypatch.setattr(boxes.TrueBoxes, "check", lambda self, index: _given(self, path, index))
    child = tune(recipe)
    ensure(child)
    assert (
        set(runs.find(child).meta["data"])
        == {"train", "test biased", "test unbiased", "parent train", "parent boxes"}
        and "boxes" in runs.find(recipe).meta["data"]
    )
    text = path.read_text()
    path.write_text(
        "\n".join(sorted(text.splitlines(), reverse=True)[-1:] + text.splitlines()[1:]) + "\n"
    )  # the same boxes, written anew
    assert runs.status(recipe).state == runs.status(child).state == "stored"
    write_boxes(path, index, 60)
    assert [runs.status(r).why for r in (recipe, child)] == [
        "the boxes have changed since it was computed"
    ] * 2 and runs.find(child) is None
    path.write_text("path,frame,x0,y0,x1,y1\n")
    assert runs.status(recipe).state == "stored"
    path.unlink()
    assert runs.status(recipe).state == "stored"
    write_boxes(path, index, 60)
    ensure(recipe, progress=True)
    assert "the boxes have changed" in capsys.readouterr().out and runs.status(recipe).state == "stored"


def _given(own, path, index):
    own.given = boxes.read_boxes(path, own.given_reach or None)
    own.reach = own.given.reach
    own.given.check(index)


def test_a_result_on_true_boxes_has_no_entry_and_stands(store):
    recipe = boxed()
    ensure(recipe)
    assert set(runs.find(recipe).meta["data"]) == {"train"} and set(runs.manifests(tune(recipe))) == {
        "train",
        "test biased",
        "test unbiased",
        "parent train",
    }


class Poses:
    "An input as a method may name it."

    hash = "first"

    def check(self, index):
        assert len(index)


def test_inputs_of_any_name_are_recorded_and_compared(store, monkeypatch):
    poses = Poses()
    monkeypatch.setattr(runs, "_inputs", lambda recipe: {"poses": poses} if recipe.method else {})
    child = tune(pre())
    ensure(child)
    recorded = runs.find(child).meta["data"]
    assert recorded["parent poses"] == "first" and "poses" not in recorded
    poses.hash = "second"
    assert runs.status(child).why == "the poses have changed since it was computed"
    assert runs.status(child.parent).why == "the poses have changed since it was computed"
    poses.hash = None  # they come with the videos
    assert runs.status(child).state == "stored" and "parent poses" not in runs.manifests(child)


def test_boxes_that_are_away_do_not_throw_a_checkpoint_away(store, tmp_path, monkeypatch):
    path, index = tmp_path / "people.csv", Data("puppets-u", scale=SMOKE.scale).load()
    write_boxes(path, index, 40)
    recipe = boxed(boxes=str(path))
    real, work = runs._publish, store / f".work-{recipe.hash}"
    monkeypatch.setattr(runs, "_publish", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        ensure(recipe)
    monkeypatch.setattr(runs, "_publish", real)
    (work / "result.json").unlink()
    path.rename(tmp_path / "away.csv")
    with pytest.raises(ValueError, match="people.csv"):
        ensure(recipe)
    assert (work / "checkpoint.pt").is_file()
    (tmp_path / "away.csv").rename(path)
    assert ensure(recipe).meta["starts"] == 3
    write_boxes(path, index, 60)
    assert ensure(recipe).meta["starts"] == 1  # computed anew with the other boxes


def test_results_stand_where_the_videos_are_not(store, monkeypatch):
    recipe = pre()
    ensure(recipe)

    def gone(self):
        raise ValueError("not on this machine")

    monkeypatch.setattr(Data, "load", gone)
    assert runs.status(recipe).state == "stored"


def test_a_child_of_a_pretraining_that_came_out_otherwise_is_stale(store):
    child = tune(pre())
    ensure(child)
    path = store / child.parent.hash / "result.json"
    record = json.loads(path.read_text())
    record["files"]["weights.safetensors"]["sha256"] = "0" * 64
    path.write_text(json.dumps(record | {"checksum": records.checksum(record)}))
    assert runs.status(child).state == "stale" and "pretraining" in runs.status(child).why


def test_missing_data_are_told_before_anything_is_computed(store, monkeypatch):
    for name in ("DATA_UCF101", "DATA_UCF101_ANNOTATIONS"):
        monkeypatch.setenv(f"MVNB_{name}", str(store / "nowhere"))
    with pytest.raises(ValueError, match="nowhere"):
        ensure(recipes.pretraining(SMOKE, "moco", "ucf101", "i3d"))
    assert not [p for p in store.glob("*") if p.is_dir() and not p.name.startswith(".")]


@pytest.mark.parametrize("kind", ["linear", "retrieval"])
def test_the_other_protocols_run(store, kind):
    parent = pre()
    more = (
        dict(schedule=SMOKE.finetune, params=dict(normalize=True))
        if kind == "linear"
        else dict(params=dict(ks=(1, 5)))
    )
    recipe = Recipe(
        kind,
        parent.data,
        parent.backbone,
        SMOKE.finetune_clips,
        model=parent.model,
        tests=recipes.tests_of(SMOKE, "puppets-u"),
        test_views=1,
        parent=parent,
        profile="smoke",
        **more,
    )
    result = ensure(recipe)
    assert set(result.metrics) == {"biased", "unbiased"}
    assert ("top1" if kind == "linear" else "R@5") in result.metrics["biased"] and runs.status(
        recipe
    ).state == "stored"


# ---------------------------------------------------------------- settings on their way into a run


def evaluation_of(parent, kind, **changes):
    "One of the three evaluations of a pretraining, with other fields."
    maker = dict(finetune=recipes.finetuning, linear=recipes.linear_probing, retrieval=recipes.retrieving)[
        kind
    ]
    recipe = maker(SMOKE, "puppets-u", parent)
    if not dict(recipe.params | changes.get("params", {})).get("cached") or changes.get("schedule"):
        tests = tuple((name, data) for name, data in recipe.tests if name != recipes.FAIR)
        recipe = dataclasses.replace(recipe, tests=tests)
    return dataclasses.replace(recipe, **changes)


@pytest.fixture
def trained(monkeypatch):
    "What `train.fit` was given and did in the evaluations that follow."
    from lightning_fabric import Fabric

    from mvnb import protocols, train

    seen = dict(clipped=[], losses=[])
    fit, make, clip = protocols.fit, train.make_optimizer, Fabric.clip_gradients

    def watched_fit(classifier, dataset, schedule, **options):
        seen.update(classifier=classifier, schedule=schedule)
        done = fit(classifier, dataset, schedule, **options)
        seen["losses"] = done.losses
        return done

    def watched_make(method, schedule):
        seen["optimizer"] = make(method, schedule)
        return seen["optimizer"]

    def watched_clip(self, module, optimizer, **options):
        norm = clip(self, module, optimizer, **options)
        seen["clipped"].append((options, float(norm)))
        return norm

    monkeypatch.setattr(protocols, "fit", watched_fit)
    monkeypatch.setattr(train, "make_optimizer", watched_make)
    monkeypatch.setattr(Fabric, "clip_gradients", watched_clip)
    return seen


def test_dropout_clipping_and_decay_of_a_recipe_reach_the_fine_tuning(store, trained):
    parent = pre()
    plain = ensure(evaluation_of(parent, "finetune"))
    assert trained["classifier"].dropout.p == SMOKE.finetuning["dropout"] and not trained["clipped"]
    losses = trained["losses"]
    schedule = dataclasses.replace(SMOKE.finetune, clip_grad=40.0, weight_decay=5e-4)
    recipe = evaluation_of(parent, "finetune", schedule=schedule, params=dict(dropout=0.5))
    assert recipe.hash != plain.recipe.hash
    ensure(recipe)
    assert trained["classifier"].dropout.p == 0.5
    assert trained["schedule"] == schedule
    assert [group["weight_decay"] for group in trained["optimizer"].param_groups] == [5e-4]
    assert len(trained["clipped"]) == SMOKE.finetune.max_steps
    assert all(options["max_norm"] == 40.0 for options, _ in trained["clipped"])
    assert all(options.get("norm_type", 2) == 2 for options, _ in trained["clipped"])
    assert trained["losses"] != losses


def test_an_augmented_probe_with_a_scaled_rate_is_a_recipe(store, trained):
    parent = pre()
    schedule = Schedule(
        epochs=4,
        batch_size=8,
        lr=30 * 8 / 256,  # 30 for a batch of 256
        weight_decay=0.0,
        schedule="step",
        milestones=(2, 3),
        max_steps=3,
    )
    options = dict(schedule=schedule, params=dict(normalize=True))
    plain = evaluation_of(parent, "linear", photometric={}, **options)
    augmented = evaluation_of(parent, "linear", photometric=dict(gray=0.2, p_jitter=0.8), **options)
    losses = []
    for recipe in (plain, augmented):
        result = ensure(recipe)
        classifier = trained["classifier"]
        assert classifier.frozen and classifier.normalize
        assert [p.shape for p in trained["optimizer"].param_groups[0]["params"]] == [
            p.shape for p in classifier.head.parameters()
        ]
        assert trained["schedule"] == schedule
        assert {"top1", "top5"} <= set(result.metrics["biased"])
        losses.append(trained["losses"])
    assert classifier.photometric.gray == 0.2 and classifier.photometric.p_jitter == 0.8
    assert losses[0] != losses[1]


@pytest.mark.parametrize(
    "params",
    [
        dict(normalize_clips=True),
        dict(pool="max", centre=False),
        dict(pool="max", centre=False, normalize_clips=True),
    ],
)
def test_the_ways_of_retrieval_come_from_the_recipe(store, monkeypatch, params):
    from mvnb import protocols

    seen, retrieve = [], protocols.retrieve

    def watched(backbone, train, tests, protocol, **options):
        seen.append(protocol)
        return retrieve(backbone, train, tests, protocol, **options)

    monkeypatch.setattr(protocols, "retrieve", watched)
    recipe = evaluation_of(pre(), "retrieval", params=dict(ks=(1, 5), **params))
    result = ensure(recipe)
    expected = dict(pool="mean", normalize_clips=False, centre=True) | params
    assert {name: getattr(seen[0], name) for name in expected} == expected
    assert set(result.metrics["unbiased"]) >= {"R@1", "R@5"}
    assert from_json(recipe.json()) == recipe


def test_the_average_over_clips_comes_from_the_recipe(store):
    parent = pre()
    averages = {}
    for average in (None, "softmax", "logits"):
        params = dict(dropout=0.2) if average is None else dict(dropout=0.2, average=average)
        result = ensure(evaluation_of(parent, "finetune", params=params, test_views=3))
        averages[average] = (result.folder / "predictions" / "biased.csv").read_text()
    assert averages[None] == averages["softmax"] != averages["logits"]


def test_an_unknown_way_is_refused(store):
    with pytest.raises(ValueError, match="Protocol.pool is 'sum'"):
        ensure(evaluation_of(pre(), "retrieval", params=dict(pool="sum")))


@pytest.mark.parametrize("kind", ["finetune", "linear", "retrieval"])
def test_epsilon_goes_from_a_pretraining_to_its_evaluation(store, monkeypatch, kind):
    "The recipe of an evaluation names the network's options itself, and they are its parent's."
    from mvnb import methods, models, own, protocols

    def epsilons(module):
        return {m.eps for m in module.modules() if isinstance(m, torch.nn.BatchNorm3d)}

    seen = {}
    build, extract = methods.build, protocols.extract

    def watched_build(*args, **options):
        seen["method"] = build(*args, **options)
        return seen["method"]

    def watched_extract(network, *args, **options):
        seen["tested"] = epsilons(network)
        return extract(network, *args, **options)

    monkeypatch.setattr(methods, "build", watched_build)
    monkeypatch.setattr(protocols, "extract", watched_extract)
    plain = pre()
    parent = dataclasses.replace(plain, model=plain.model | dict(bn_eps=1e-5))
    assert parent.hash != plain.hash
    weights = ensure(parent).weights
    assert epsilons(seen["method"].backbone) == {1e-5}
    assert epsilons(seen["method"]) == {1e-5}  # the momentum encoder's too
    child = evaluation_of(plain, kind)
    ensure(dataclasses.replace(child, parent=parent, model=parent.model))
    assert seen["tested"] == {1e-5}
    with pytest.raises(ValueError, match="bn_eps"):
        dataclasses.replace(child, parent=parent)
    encoder = own.load_encoder(weights)
    assert epsilons(encoder) == {1e-5}
    assert models.read_weights(weights)[1]["recipe"]["model"] == {"bn_eps": 1e-5, "channels": 1}


# ---------------------------------------------------------------- several processes, and kills

SCRIPT = """
import dataclasses, sys
from mvnb import recipes, runs
steps, slow = int(sys.argv[1]), float(sys.argv[2])
schedule = dataclasses.replace(recipes.SMOKE.pretrain, max_steps=steps, epochs=max(4, steps))
p = dataclasses.replace(recipes.SMOKE, pretrain=schedule)
recipe = recipes.pretraining(p, "moco", "puppets-u", "i3d")
if slow: # a training that writes a checkpoint at each step and leaves time to be killed
    import functools, time
    runs.fit = functools.partial(runs.fit, checkpoint_every=0.0)
    from mvnb import methods
    build = methods.build
    def slowly(*args, **kw):
        task = build(*args, **kw)
        forward = task.forward
        def wait(batch): time.sleep(slow); return forward(batch)
        task.forward = wait
        return task
    methods.build = slowly
result = runs.ensure(recipe, device="cpu", workers=0)
print("DONE", result.meta["starts"], result.meta["started"], flush=True)
"""


def start(*args):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_processes_compute_once(store):
    recipes.Data("puppets-u", scale=SMOKE.scale).load()
    two = [start(4, 0.4), start(4, 0.4)]
    out = [p.communicate(timeout=120) for p in two]
    assert [p.returncode for p in two] == [0, 0], out
    said = [o for o, _ in out]
    assert (
        len({line for o in said for line in o.splitlines() if line.startswith("DONE")}) == 1
    )  # one and the same result
    assert sum("another process is computing it" in o for o in said) == 1, said
    assert len(list(store.glob("[0-9a-f]*"))) == 1


def weights_of(recipe, store, threads: int):
    "A process of its own, with so many threads by its environment, computes a run."
    more = dict(OMP_NUM_THREADS=str(threads), MVNB_PATHS_RUNS=str(store))
    call = "import sys; from mvnb import recipes, runs; "
    call += "runs.ensure(recipes.from_json(open(sys.argv[1]).read()), 'cpu', 0, False)"
    path = store.with_suffix(".json")
    path.write_text(json.dumps(json.loads(recipe.json())))
    subprocess.run([sys.executable, "-c", call, str(path)], env=os.environ | more, check=True, timeout=200)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MVNB_PATHS_RUNS", str(store))
        return [path.read_bytes() for path in sorted(runs._folder(recipe).glob("*.safetensors"))]


@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_the_threads_of_the_environment_change_nothing(store, tmp_path, kind):
    "Two threads of PyTorch add in another order than one; a run has its own number of them."
    recipe = pre() if kind == "pretrain" else tune(pre())
    one, two = (weights_of(recipe, tmp_path / str(n), n) for n in (1, 2))
    assert one and one == two


def test_threads_are_pinned_recorded_and_put_back(store, monkeypatch):
    monkeypatch.setenv("MVNB_RUN_THREADS", "2")
    seen = []
    real = runs.WORK["pretrain"]

    def work(recipe, job):
        seen.append((torch.get_num_threads(), cv2.getNumThreads()))
        seen.append({lib["num_threads"] for lib in threadpool_info()})
        return real(recipe, job)

    monkeypatch.setitem(runs.WORK, "pretrain", work)
    before = torch.get_num_threads(), cv2.getNumThreads(), threadpool_info()
    result = ensure(pre())
    assert seen == [(2, 2), {2}] and result.meta["threads"] == 2
    assert before == (torch.get_num_threads(), cv2.getNumThreads(), threadpool_info())
    monkeypatch.setenv("MVNB_RUN_THREADS", "1")
    assert runs.status(pre()).state == "stored"  # the number is no part of the recipe
    assert "guessed" in runs.estimate(pre(seed=1), "cpu").basis  # but of the rate


# ---------------------------------------------------------------- what stops leave


def test_what_a_killed_process_left_of_a_stored_run_goes_at_the_next_use(store):
    done = ensure(pre())
    old = store / f".old-{done.recipe.hash}-123"
    old.mkdir()
    for path in (old / "encoder.safetensors", done.folder / "checkpoint.pt", done.folder / ".losses.csv.tmp"):
        path.write_bytes(b"left")
    kept = {
        p: p.read_bytes()
        for p in done.folder.iterdir()
        if p.name not in ("checkpoint.pt", ".losses.csv.tmp") and p.is_file()
    }
    assert ensure(pre()) == done
    assert not old.exists()
    assert {p: p.read_bytes() for p in done.folder.iterdir() if p.is_file()} == kept


def test_checkpoints_go_when_the_encoder_is_on_the_disk(store, monkeypatch):
    "Its bytes, its name in its folder, the folder's name in the store, in this order; then checkpoints."
    seen = []
    synced, unlink = settings.synced, Path.unlink

    def noted(path):
        seen.append(("synced", Path(path).name))
        synced(path)

    def gone(path, missing_ok=False):
        if path.suffix == ".pt":
            seen.append(("gone", path.name))
        unlink(path, missing_ok)

    monkeypatch.setattr(settings, "synced", noted)
    monkeypatch.setattr(Path, "unlink", gone)
    done = ensure(pre())
    first = seen.index(("gone", "checkpoint.pt"))
    before = [name for what, name in seen[:first] if what == "synced"]
    weights = done.weights.name
    assert weights in before and "result.json" in before
    assert before.index(weights) < len(before) - 1 and before[-1] == store.name


# ---------------------------------------------------------------- several at once


def stored_bytes(store):
    "Every weight and every measured number of a store."
    found = {p.relative_to(store).as_posix(): p.read_bytes() for p in store.glob("*/*.safetensors")}
    return found, {record["hash"]: record["metrics"] for record in runs.stored()}


def test_several_at_once_give_the_same_bits(store, monkeypatch, tmp_path):
    todo = [r for seed in (0, 1) for r in recipes.chain(tune(pre(seed)))]
    order = [r for r, why in runs.together(todo, 2, "cpu", 0) if not why]
    assert {r.hash for r in order} == {r.hash for r in todo}
    assert all(order.index(r.parent) < order.index(r) for r in order if r.parent)
    together = stored_bytes(store)
    monkeypatch.setenv("MVNB_PATHS_RUNS", str(tmp_path / "alone"))
    for recipe in todo:
        ensure(recipe)
    assert together == stored_bytes(tmp_path / "alone") and len(together[0]) == 4


def test_an_error_lets_the_others_finish_and_is_named(store):
    bad = dataclasses.replace(pre(1), data=Data("puppets-u", "no_such_split", scale=SMOKE.scale))
    lost = dataclasses.replace(tune(pre(1)), parent=bad)
    said = dict(runs.together([bad, lost, pre(0)], 2, "cpu", 0))
    assert set(said) == {bad, pre(0)} and said[pre(0)] == ""
    assert "DatasetError" in said[bad] and "no_such_split" in said[bad]
    assert runs.status(pre(0)).state == "stored" and runs.status(lost).state == "missing"


TOGETHER = """
import dataclasses, signal
from mvnb import recipes, runs
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
def pre(seed):
    long = dataclasses.replace(recipes.SMOKE.pretrain, max_steps=100_000, epochs=100_000)
    p = dataclasses.replace(recipes.SMOKE, pretrain=long)
    return recipes.pretraining(p, "moco", "puppets-u", "i3d", seed)
for recipe, why in runs.together([pre(0), pre(1)], 2, "cpu", 0):
    print(recipe, why, flush=True)
"""


def children_of(pid: int) -> list:
    found = [int(p.name) for p in Path("/proc").glob("[0-9]*")]
    return [child for child in found if f"PPid:\t{pid}\n" in status_of(child)]


def status_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return ""


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads /proc, which this system lacks")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_stopped_they_leave_no_process_and_no_lock(store, sent):
    recipes.Data("puppets-u", scale=SMOKE.scale).load()
    parent = subprocess.Popen([sys.executable, "-c", TOGETHER], stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: len(list(store.glob(".work-*/started.json"))) == 2 or parent.poll() is not None)
        children = children_of(parent.pid)
        assert parent.poll() is None and len(children) >= 2
        parent.send_signal(sent)
        parent.communicate(timeout=60)
    finally:
        parent.kill()
    wait_for(lambda: not any("State:" in status_of(child) for child in children), 20)
    locks = list((store / ".locks").glob("*.lock"))
    assert len(locks) == 2
    for path in locks:
        FileLock(path, timeout=0).acquire()


def test_the_time_of_several_at_once():
    "Against the sum, and by hand."
    runs_of = [tune(pre(seed)) for seed in range(3)]
    todo = [r for run in runs_of for r in recipes.chain(run)]
    costs = {r.hash: 10.0 if r.kind == "pretrain" else 1.0 for r in todo}
    assert runs.span(todo, costs) == 33 and runs.span(todo, costs, 100) == 11
    assert runs.span(todo, costs, 2) == 21  # 10 + 10 and 10 + 1 + 1; the last fine-tuning after its parent
    assert runs.span([], {}) == 0 and runs.span(todo, costs | {todo[0].hash: None}, 2) is None


def test_killed_in_the_middle_it_goes_on_to_the_same_weights(store):
    recipe = pre(steps=6)
    whole = ensure(recipe).weights.read_bytes()
    import shutil

    shutil.rmtree(store)
    work = store / f".work-{recipe.hash}"
    process = start(6, 0.5)
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        if (work / "checkpoint.pt").is_file() and (work / "losses.csv").is_file():
            break
        time.sleep(0.02)
    assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert runs.status(recipe).state == "unfinished"
    result = ensure(recipe)
    assert result.meta["starts"] == 2 and result.weights.read_bytes() == whole


@pytest.mark.parametrize("moment", ["before result.json", "before the rename"])
def test_killed_at_the_end_it_only_finishes(store, monkeypatch, moment):
    recipe = pre()
    room, target = (settings, "save_json") if moment == "before result.json" else (runs, "_publish")
    real, trained = getattr(room, target), []

    def killed(path, *args, **kw):
        if target == "_publish" or path.name == "result.json":
            raise KeyboardInterrupt
        return real(path, *args, **kw)

    monkeypatch.setattr(room, target, killed)
    with pytest.raises(KeyboardInterrupt):
        ensure(recipe)
    monkeypatch.setattr(room, target, real)
    assert runs.status(recipe).state == "unfinished"
    fit = runs.fit

    def counted(*args, **kw):
        done = fit(*args, **kw)
        trained.append(done.steps - done.resumed)
        return done

    monkeypatch.setattr(runs, "fit", counted)
    ensure(recipe)
    assert sum(trained) == 0 and runs.status(recipe).state == "stored"


def test_a_work_folder_begun_with_other_data_is_not_continued(store, monkeypatch):
    recipe = pre()
    real = runs._publish
    monkeypatch.setattr(runs, "_publish", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        ensure(recipe)
    monkeypatch.setattr(runs, "_publish", real)
    load = Data.load
    monkeypatch.setattr(Data, "load", lambda self: load(self).subset(range(20)))
    result = ensure(recipe)
    assert result.meta["starts"] == 1 and result.meta["data"]["train"] == recipe.data.load().hash


def test_a_checkpoint_that_cannot_be_continued_is_told_and_dropped(store, capsys):
    recipe = pre()
    work = store / f".work-{recipe.hash}"
    work.mkdir(parents=True)
    (work / "started.json").write_text(
        json.dumps(dict(data=runs.manifests(recipe), first="x", seconds=0, starts=1, last=0))
    )
    torch.save({"step": 1, "nonsense": torch.zeros(3)}, work / "checkpoint.pt")
    (work / "checkpoint.pt").write_bytes(b"not a checkpoint")
    with pytest.warns(UserWarning):
        result = ensure(recipe)
    assert result.metrics["steps"] == 2 and runs.status(recipe).state == "stored"


# ---------------------------------------------------------------- estimates and progress


def test_a_gpu_is_guessed_to_speed_up_large_networks_alone(store):
    devices = ("cpu (2 cores)", "NVIDIA Test")
    small = [runs.estimate(pre(), words=words) for words in devices]
    assert small[0] == small[1] > 1 and all("small networks" in each.basis for each in small)
    large = dataclasses.replace(pre(), backbone="i3d", clips=recipes.Clips(16, 2, 224))
    slow, fast = (runs.estimate(large, words=words) for words in devices)
    assert slow > 10 * fast and "small" not in slow.basis + fast.basis


def test_estimates_follow_what_was_measured(store):
    recipe = pre()
    guess = runs.estimate(recipe, "cpu")
    assert guess > 0 and "guessed" in guess.basis
    result = ensure(recipe)
    known = runs.estimate(pre(seed=1), "cpu")
    assert known == pytest.approx(result.meta["seconds"], rel=1e-6) and "measured in 1" in known.basis
    assert runs.estimate(pre(steps=4), "cpu") == pytest.approx(2 * known, rel=0.01)


def test_an_estimate_needs_no_videos(store, monkeypatch):
    for name in ("UCF101", "HMDB51"):
        monkeypatch.setenv(f"MVNB_DATA_{name}", str(store / "nowhere"))
    p = recipes.profile("paper", "fame")
    r = recipes.pretraining(p, "fame", "ucf101", "i3d", beta=0.3)
    assert runs.estimate(r, "cpu") > 86400 * 30  # months on a laptop
    steps, clip = 200 * (9537 // 64), 27.8
    assert runs._gmac(r, {}) == pytest.approx(steps * 64 * 8 * clip, rel=0.01)


def test_bars_are_put_back(store):
    from mvnb import clips, train

    before = clips.tqdm, train.tqdm
    with runs.bars(False):
        assert clips.tqdm is not before[0]
        assert list(clips.tqdm([1, 2], desc="x")) == [1, 2]
    assert (clips.tqdm, train.tqdm) == before


def test_a_fair_probe_is_trained_without_bias(store):
    "Its head sees the probe split alone, and is tested on the unbiased test."
    recipe = recipes.linear_probing(SMOKE, "puppets-u", pre())
    assert recipes.fair_training(recipe) == dataclasses.replace(recipe.data, split="probe")
    assert dict(recipe.tests)[recipes.FAIR] == dict(recipe.tests)["unbiased"]
    hashes = runs.manifests(recipe)
    assert hashes[f"train {recipes.FAIR}"] == dataclasses.replace(recipe.data, split="probe").load().hash
    assert set(ensure(recipe).metrics) == {"biased", "unbiased", recipes.FAIR}
    with pytest.raises(ValueError, match="fair probe"):
        dataclasses.replace(recipe, params={}, schedule=SMOKE.finetune)


def test_settings_are_chosen_on_videos_that_no_page_reports():
    dev = dataclasses.replace(SMOKE, dev=True)
    for seed in (0, 100):
        chosen, told = (recipes.tests_of(p, "puppets-u", seed=seed) for p in (dev, SMOKE))
        assert [data.split for _, data in chosen] == ["dev-biased", "dev-unbiased"]
        assert not {data.load().hash for _, data in chosen} & {data.load().hash for _, data in told}
        assert {data.seed for _, data in chosen + told} == {seed}


# ---------------------------------------------------------------- fine-tuning of transformers

STRONG = dict(mixup=0.8, cutmix=1.0, label_smoothing=0.1, erasing=0.25, randaugment=(7, 4, 0.5), repeats=2)
CUT = dict(sampling="segments", scales=(1, 0.875, 0.75, 0.66), crops=3)


def strong(**params):
    vit = dataclasses.replace(
        SMOKE,
        backbones={"vit": "vit_tiny"},
        model={"vit": Options(channels=1, width=24, depth=2)},
        finetune_clips=dataclasses.replace(SMOKE.finetune_clips, **CUT),
        test_views=6,
    )
    return recipes.finetuning(vit, "puppets-u", None, "vit", **(STRONG | dict(drop_path=0.1) | params))


def test_what_a_recipe_says_of_a_transformer_reaches_its_protocol():
    recipe = strong()
    again = from_json(recipe.json())
    assert again == recipe and again.hash == recipe.hash
    protocol = runs._protocol(again)
    for name, value in (STRONG | CUT | dict(drop_path=0.1, views=6)).items():
        assert getattr(protocol, name) == value, name
    for name in ("sampling", "scales", "crops"):
        usual = recipes.LATER["Clips", name]
        other = dataclasses.replace(recipe, clips=dataclasses.replace(recipe.clips, **{name: usual}))
        assert other.hash != recipe.hash and name not in json.loads(other.json())["clips"]


def test_a_transformer_is_fine_tuned_as_its_recipe_says(store):
    "It is tested on all videos, and options of its recipe change its losses."
    result = ensure(strong())
    assert result.metrics["biased"]["n"] == result.metrics["unbiased"]["n"] > 0
    losses = [
        (ensure(strong(repeats=n, mixup=m)).folder / "losses.csv").read_text() for n, m in ((1, 0.8), (2, 0))
    ]
    assert len({*losses, (result.folder / "losses.csv").read_text()}) == 3


def test_repeats_cost_as_many_passes():
    once, twice = (runs._training_passes(strong(repeats=n), 48) for n in (1, 2))
    assert twice == 2 * once


def test_a_copy_inside_another_repository_has_no_commit(tmp_path, monkeypatch):
    def git(*words):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *words], check=True, capture_output=True)

    git("init")
    (tmp_path / "mvnb").mkdir()
    (tmp_path / "mvnb" / "file").write_text("x")
    git("add", ".")
    git("commit", "-m", "theirs")
    monkeypatch.setattr(settings, "root", lambda: tmp_path / "mvnb")
    assert runs.commit() == "no commit"
    monkeypatch.setattr(settings, "root", lambda: tmp_path)
    assert len(runs.commit()) == 10
    (tmp_path / "mvnb" / "file").write_text("y")
    assert runs.commit().endswith("+changes")
