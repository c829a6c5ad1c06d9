"Own videos: any folder, bad files, kills, odd names, wrong weights, the two commands."

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file
from torch.nn import functional as F

from mvnb import (
    cli,
    datasets,
    export,
    features,
    methods,
    models,
    own,
    protocols,
    recipes,
    runs,
    settings,
    tokens,
    video,
)
from mvnb.clips import ClipDataset
from mvnb.models import WeightsError
from processes import ended

FAST = dict(device="cpu", workers=0, progress=False)
ODD = ["it's [1] + (2)! é.mp4", "日本語 – ß.MP4", "_$x_{1}$ & %s {0}.mp4", "-rf --out;.mp4"]


@pytest.fixture(autouse=True)
def outputs(tmp_path, monkeypatch):
    monkeypatch.setenv("MVNB_PATHS_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("MVNB_PATHS_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("MVNB_PATHS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "outputs"


@pytest.fixture(scope="session")
def puppets(puppets_root):
    "Sixteen small videos of eight classes."
    index = datasets.load("puppets-u", "test-unbiased", root=puppets_root, scale=0.12)
    return [index.path(i) for i in range(len(index))]


@pytest.fixture
def folder(tmp_path, puppets):
    "Eight videos in two class folders, odd names among them."
    root = tmp_path / "my [own] videos!"
    for i, source in enumerate(puppets[:8]):
        target = root / ("run + jump" if i % 2 else "_été $") / (ODD[i] if i < len(ODD) else f"{i}.mp4")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    return root


@pytest.fixture(scope="session")
def trained(tmp_path_factory, puppets):
    "An encoder trained for two steps on six puppets."
    top = tmp_path_factory.mktemp("trained")
    (top / "videos").mkdir()
    for source in puppets[:6]:
        shutil.copy(source, top / "videos")
    return own.pretrain("moco", top / "videos", "smoke", out=top / "out", steps=2, backbone="r3d", **FAST)


def train(folder, method="fame", **more):
    return own.pretrain(method, folder, "smoke", **{**FAST, "steps": 2, "backbone": "r3d", **more})


def garbage(path, text=b"not a video at all"):
    path.write_bytes(text)
    return path


def everything(top):
    return {str(p.relative_to(top)): p.read_bytes() for p in Path(top).rglob("*") if p.is_file()}


# ---------------------------------------------------------------- folders


def test_videos_of_any_folder(tmp_path):
    "Nested and flat, any capitals, no hidden files, links once, folders that look like videos."
    names = [
        "b/deep/er/and/deep/er/still/x.mp4",
        "a/one.AVI",
        "top.MOV",
        "b/two.webm",
        "film.mp4/inside.mkv",
        ".hidden/y.mp4",
        "a/.z.mp4",
        "a/notes.txt",
        "card/0001.MTS",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "a" / "round").symlink_to(tmp_path)  # a folder inside itself
    (tmp_path / "a" / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    index = own.videos(tmp_path)
    assert list(index.paths) == [
        "a/gone.mp4",
        "a/one.AVI",
        "b/deep/er/and/deep/er/still/x.mp4",
        "b/two.webm",
        "card/0001.MTS",
        "film.mp4/inside.mkv",
        "top.MOV",
    ]
    assert index.classes == ("a", "b", "card", "film.mp4") and index.labels.tolist() == [0, 0, 1, 1, 2, 3, -1]


@pytest.mark.parametrize(
    "names,classes,labels",
    [
        (["1.mp4", "2.mp4"], (), [-1, -1]),
        (["a/1.mp4", "a/2.mp4"], (), [-1, -1]),
        (["a/1.mp4", "b/2.mp4"], ("a", "b"), [0, 1]),
        (["test/b/1.mp4", "train/a/2.mp4"], ("a", "b"), [1, 0]),
        (["test/1.mp4", "train/2.mp4"], (), [-1, -1]),
    ],
)
def test_labels_are_optional(tmp_path, names, classes, labels):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    index = own.videos(tmp_path)
    assert index.classes == classes and index.labels.tolist() == labels and index.paths[:] == names


def test_the_hash_is_of_names_and_contents(tmp_path, folder):
    first = own.videos(folder)
    moved = folder.rename(tmp_path / "moved")
    os.utime(next(moved.rglob("7.mp4")), (1e9, 1e9))
    assert own.videos(moved).hash == first.hash
    with open(next(moved.rglob("7.mp4")), "r+b") as file:
        file.write(b"x")  # of the same size
    os.utime(next(moved.rglob("7.mp4")), (1e9, 1e9))
    changed = own.videos(moved).hash
    next(moved.rglob("7.mp4")).rename(moved / "other.mp4")
    assert len({first.hash, changed, own.videos(moved).hash}) == 3


def test_no_folder_no_videos(tmp_path, puppets):
    for path, said in (
        (puppets[0], "is one file"),
        (tmp_path / "nowhere", "no such folder"),
        (tmp_path, "no video in it"),
    ):
        with pytest.raises(ValueError, match=said):
            own.videos(path)


# ---------------------------------------------------------------- plans


@pytest.mark.parametrize("method", methods.names())
def test_parameters_are_those_of_the_constructor(method):
    known = own.parameters(method)
    methods.build(method, backbone=recipes.TINY[methods.family(method)], **known)
    assert known and not {"backbone", "seed", "photometric", "self"} & set(known)


def test_a_method_gets_only_the_parameters_that_it_has(monkeypatch):
    "The profile's queue is not for a method without one."
    for module in (own, methods):
        monkeypatch.setattr(module, "parameters", lambda method: {"alpha": 1})
    monkeypatch.setattr(methods, "owner", lambda method: None)
    monkeypatch.setattr(methods, "family", lambda method: "r3d")
    assert dict(own._recipe(own.Wish("fifth", "demo"), 20).params) == {"alpha": 1}


@pytest.mark.parametrize(
    "n,batch,queue,steps",
    [(2, 2, 2, 3), (5, 5, 5, 3), (8, 8, 8, 3), (9, 8, 9, 3), (64, 8, 64, 3), (5000, 8, 64, 3)],
)
def test_small_folders_change_batch_and_queue(n, batch, queue, steps):
    recipe = own._recipe(own.Wish("fame", "smoke"), n)
    s = recipe.schedule
    assert (s.batch_size, recipe.params["queue"]) == (batch, queue) and min(
        s.epochs * (n // batch), s.max_steps
    ) == steps


def test_what_was_asked_for_stays():
    wish = own.Wish(
        "fame",
        "paper",
        batch_size=4,
        epochs=7,
        lr=0.5,
        size=64,
        frames=9,
        stride=1,
        precision="bf16",
        seed=3,
        backbone="i3d",
        params=recipes.Options(queue=9, beta=0.25),
    )
    r = own._recipe(wish, 10)
    assert (
        r.schedule.batch_size,
        r.schedule.epochs,
        r.schedule.max_steps,
        r.schedule.lr,
        r.schedule.precision,
        r.seed,
    ) == (4, 7, None, 0.5, "bf16", 3)
    assert (
        r.clips.size,
        r.clips.length,
        r.clips.stride,
        r.backbone,
        r.params["queue"],
        r.params["beta"],
    ) == (64, 9, 1, "i3d", 9, 0.25)


@pytest.mark.parametrize("family", ["r2plus1d", "i3d", "r3d"])
@pytest.mark.parametrize("profile", recipes.PROFILES)
def test_sizes_are_those_of_the_tables(profile, family):
    "Where nothing is asked for and the folder is large, the recipe is that of a table but for the data."
    p = recipes.coloured(recipes.profile(profile, methods.owner("fame")))
    table = recipes.pretraining(p, "fame", "puppets-u", family)
    for asked in (family, p.backbones[family]):
        mine = own._recipe(own.Wish("fame", profile, backbone=asked), 9999)
        assert (mine.backbone, mine.clips, mine.photometric) == (
            table.backbone,
            table.clips,
            table.photometric,
        ) and table.params.items() <= mine.params.items()
        keep = ("batch_size", "optimizer", "lr", "weight_decay", "schedule", "max_steps", "precision")
        assert all(getattr(mine.schedule, k) == getattr(table.schedule, k) for k in keep)


def test_too_large_a_folder_is_not_kept_decoded():
    kept = recipes.profile("demo").pretrain_clips.cache
    assert kept and [
        own._recipe(own.Wish("fame", "demo"), 99, frames).clips.cache for frames in (0, 5_000, 10_000_000)
    ] == [kept, kept, None]


@pytest.mark.parametrize(
    "wish,said",
    [
        (dict(batch_size=9), "--batch-size 8 or less"),
        (dict(batch_size=1), "--batch-size 2"),
        (dict(epochs=2), "one of the two"),
        (dict(steps=0), "steps 0"),
        (dict(params=dict(betta=1)), "did you mean 'beta'"),
        (dict(params=dict(beta="half")), "is a number"),
        (dict(params=dict(beta=7)), "7"),
        (dict(params=dict(background="outer")), "outer"),
        (dict(backbone="r3d_81"), "did you mean"),
        (dict(lr=-1), "lr"),
        (dict(weights="nowhere.pt"), "nowhere.pt"),
    ],
)
def test_an_impossible_request_leaves_nothing_behind(folder, tmp_path, wish, said):
    with pytest.raises(ValueError, match=said):
        train(folder, out=tmp_path / "out", **wish)
    assert not (tmp_path / "out").exists()


def test_one_video_is_too_few(tmp_path, puppets):
    (tmp_path / "v").mkdir()
    shutil.copy(puppets[0], tmp_path / "v")
    with pytest.raises(ValueError, match="1 video is too few"):
        train(tmp_path / "v")


# ---------------------------------------------------------------- training


@pytest.mark.parametrize(
    "method", [m for m in methods.names() if not getattr(methods.named(m), "needs_labels", False)]
)
def test_real_videos_of_any_shape_with_every_method(shared_data, tmp_path, method):
    "UCF101 files and single clips of other data sets, in one flat folder."
    (tmp_path / "v").mkdir()
    sources = [
        sorted((shared_data / "mini" / c).iterdir(), key=lambda p: p.stat().st_size)[0]
        for c in ("Archery", "Surfing", "HorseRace")
    ]
    sources += [
        shared_data / "clips" / "edge" / "video_90.mov",
        *sorted((shared_data / "clips" / "hmdb51").rglob("*.avi"), key=lambda p: p.stat().st_size)[:1],
    ]
    for source in sources:
        shutil.copy(source, tmp_path / "v")
    params = {"fame": {"beta": 0.3}, "mcl": {"maps": "dis"}}.get(method, {})
    result = train(tmp_path / "v", method, frames=4, params=params, backbone=methods.family(method))
    assert (
        result.new
        and result.meta["recipe"]["method"] == method
        and result.meta["videos"] | {"hash": "", "folder": ""}
        == dict(found=5, used=5, unreadable={}, hash="", folder="")
    )
    assert (
        result.meta["result"]["steps"] == 2
        and np.isfinite(result.meta["metrics"]["loss"])
        and result.meta["recipe"]["schedule"]["batch_size"] == 5
    )
    if method == "fame":
        assert result.meta["recipe"]["params"]["beta"] == 0.3


def test_a_method_that_needs_labels_counts_the_class_folders_and_is_refused_without(
    folder, puppets, tmp_path
):
    assert own.plan("supervised", folder, "smoke").recipe.params["classes"] == 2
    (tmp_path / "flat").mkdir()
    for i, source in enumerate(puppets[:4]):
        shutil.copy(source, tmp_path / "flat" / f"{i}.mp4")
    with pytest.raises(own.OwnError, match="learns from labels"):
        own.plan("supervised", tmp_path / "flat", "smoke")


def test_the_file_says_how_to_load_it(trained, puppets):
    tensors, meta = models.read_weights(trained.file)
    assert meta == trained.meta and meta["result"]["steps"] == 2 and meta["recipe"]["backbone"] == "r3d_tiny"
    code = (
        meta["load"]
        .replace("'encoder.safetensors'", repr(str(trained.file)))
        .replace("video.mp4", str(puppets[0]))
    )
    assert len(code.splitlines()) == 3
    exec(code, names := {})
    encoder = names["encoder"]
    assert not encoder.training and names["feature"].shape == (1, encoder.dim)
    assert all(torch.equal(v, tensors[k]) for k, v in encoder.state_dict().items())
    clip = video.read_clip(
        puppets[0],
        [15, 18, 21, 24],
        size=(32, 32),
        crop=lambda h, w: ((h - min(h, w)) // 2, (w - min(h, w)) // 2, min(h, w), min(h, w)),
    ).rgb
    mean, std = (
        torch.tensor(v)[:, None, None, None]
        for v in (meta["normalisation"]["mean"], meta["normalisation"]["std"])
    )
    assert (video.num_frames(puppets[0]), encoder.clips.length, encoder.clips.stride) == (
        40,
        4,
        3,
    )  # so the middle clip starts at frame (40 - 10) / 2
    torch.testing.assert_close(
        names["feature"][0], encoder(((clip / 255 - mean) / std)[None])[0], rtol=1e-4, atol=1e-5
    )


def test_folders_leave_one_encoder_and_no_checkpoint(trained):
    names = sorted(p.name for p in trained.file.parent.iterdir() if p.name != "tensorboard")
    assert names == [".lock", "checked.json", "encoder.safetensors", "losses.csv", "run.json"]


KILLED = """
    import os, signal, sys
    import torch
    torch.set_num_threads(1)
    from mvnb import features, own
    folder, other, out, name, limit = sys.argv[1:]
    count, real = [0], os.replace
    def strike(source, target):  # just before a file takes its final name
        count[0] += os.path.basename(target).startswith(name)
        if count[0] == int(limit): os.kill(os.getpid(), signal.SIGKILL)
        real(source, target)
    os.replace = strike
    fast = dict(device="cpu", workers=0, progress=False)
    if other: features.extract(folder, other, out, batch_size=1, every=0, map="none", **fast)
    else: own.pretrain("fame", folder, "smoke", out=out, steps=12, backbone="r3d", checkpoint_every=0, **fast)
"""


def killed(folder, weights, out, name, limit):
    "A child that gets SIGKILL when it is about to finish writing such a file for the limit-th time."
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), *map(str, (folder, weights, out, name, limit))],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr


def test_killed_and_started_again_gives_the_same_bits(folder, tmp_path, monkeypatch):
    whole = train(folder, steps=12, out=tmp_path / "whole")
    killed(folder, "", tmp_path / "cut", "checkpoint.pt", 6)
    assert not (tmp_path / "cut" / "encoder.safetensors").exists()
    fits, fit = [], own.fit
    monkeypatch.setattr(own, "fit", lambda *a, **kw: fits.append(fit(*a, **kw)) or fits[-1])
    again = train(folder, steps=12, out=tmp_path / "cut")
    assert fits[0].resumed == 5  # the sixth checkpoint was not finished
    one, two = load_file(whole.file), load_file(again.file)
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
    assert again.new and again.meta["metrics"] == whole.meta["metrics"]
    assert sorted(p.name for p in again.file.parent.iterdir()) == sorted(
        p.name for p in whole.file.parent.iterdir()
    )


def test_killed_before_the_encoder_has_its_name(folder, tmp_path):
    killed(folder, "", tmp_path / "cut", "encoder", 1)
    again = train(folder, steps=12, out=tmp_path / "cut")
    assert again.new and again.meta["result"]["steps"] == 12
    assert sorted(p.name for p in (tmp_path / "cut").iterdir() if p.name != "tensorboard") == [
        ".lock",
        "checked.json",
        "encoder.safetensors",
        "losses.csv",
        "run.json",
    ]


def test_a_killed_check_goes_on(folder, tmp_path, monkeypatch):
    index, seen, real = own.videos(folder), [], datasets.check

    def dies(part, **kw):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(part.paths[:])
        return real(part, **kw)

    monkeypatch.setattr(datasets, "check", dies)
    with pytest.raises(KeyboardInterrupt):
        own.check(index, tmp_path, 0, False, chunk=3)
    monkeypatch.setattr(datasets, "check", lambda part, **kw: seen.append(part.paths[:]) or real(part, **kw))
    notes = own.check(index, tmp_path, 0, False, chunk=3)
    assert seen == [index.paths[:3], index.paths[3:6], index.paths[6:]]
    (tmp_path / "afresh").mkdir()
    assert notes == own.check(index, tmp_path / "afresh", 0, False)
    assert notes["frames"] == sum(video.num_frames(index.path(i)) for i in range(8))


def test_the_same_again_is_done_already(folder, capsys):
    first = train(folder)
    before = everything(first.file.parent)
    again = train(folder, progress=True)
    assert first.new and not again.new and again.file == first.file and again.meta == first.meta
    assert (
        "done already" in str(again)
        and str(first.file) in str(again)
        and everything(first.file.parent) == before
    )


def test_other_arguments_do_not_mix(folder, tmp_path):
    first = train(folder, out=tmp_path / "out")
    before = everything(first.file.parent)
    for change, said in (
        (dict(lr=0.5), "schedule.lr 0.01 .now 0.5"),
        (dict(params=dict(beta=0.25)), "params.beta"),
        (dict(seed=7), "seed 0 .now 7"),
        (dict(method="moco"), "method 'fame'"),
        (dict(weights=first.file), "weights to start from None"),
    ):
        with pytest.raises(own.OwnError, match=said):
            train(folder, out=tmp_path / "out", **change)
    next(folder.rglob("7.mp4")).rename(folder / "renamed.mp4")
    with pytest.raises(own.OwnError, match="the videos in the folder"):
        train(folder, out=tmp_path / "out")
    assert everything(first.file.parent) == before
    assert train(folder).file != first.file  # without --out it goes elsewhere


def test_starting_from_weights(folder, trained, tmp_path):
    plan = own.plan("moco", folder, "smoke", backbone="r3d", weights=trained.file)
    state = own._built(plan).state_dict()
    for name, tensor in load_file(trained.file).items():
        copies = [value for key, value in state.items() if key.endswith(f".{name}")]
        assert len(copies) == 2 and all(
            torch.equal(value, tensor) for value in copies
        )  # query and key encoder
    assert train(folder, weights=trained.file.parent).meta["identity"]["weights to start from"] is not None
    with pytest.raises(WeightsError, match="does not fit|fits"):
        train(folder, backbone="i3d", weights=trained.file)


def test_a_place_that_cannot_be_used(folder, tmp_path):
    garbage(tmp_path / "file")
    (tmp_path / "thesis").mkdir()
    garbage(tmp_path / "thesis" / "losses.csv", b"mine")
    before = everything(tmp_path / "thesis")
    for out, said in (
        (tmp_path / "file", "cannot be written"),
        (tmp_path / "file" / "below", "cannot be written"),
        (Path("/proc/nowhere"), "cannot be written"),
        (tmp_path / "thesis", "is not empty"),
    ):
        with pytest.raises(own.OwnError, match=said) as e:
            train(folder, out=out)
        assert "--out" in str(e.value)
    assert everything(tmp_path / "thesis") == before


def test_two_at_once_are_refused(folder, tmp_path):
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".lock"), pytest.raises(own.OwnError, match="another process"):
        train(folder, out=tmp_path / "out")
    assert train(folder, out=tmp_path / "out").new


def test_a_damaged_encoder_is_told(folder, tmp_path):
    first = train(folder, out=tmp_path / "out")
    first.file.write_bytes(first.file.read_bytes()[:1000])
    with pytest.raises(own.OwnError, match="damaged.*remove it"):
        train(folder, out=tmp_path / "out")


# ---------------------------------------------------------------- bad files


def test_one_bad_file_is_left_out_and_named(folder):
    garbage(folder / "bad [1].mp4")
    result = train(folder)
    assert list(result.meta["videos"]["unreadable"]) == ["bad [1].mp4"] and result.meta["videos"]["used"] == 8
    assert "1 of 9 files could not be read" in str(result) and "bad [1].mp4: not a readable video" in str(
        result
    )


def test_more_are_refused_by_name_unless_asked_for(folder, tmp_path, shared_data):
    "One is damaged in the middle, one is empty, one is a link that leads nowhere."
    shutil.copy(shared_data / "clips" / "edge" / "corrupted.mp4", folder)
    garbage(folder / "empty.avi", b"")
    (folder / "link.mp4").symlink_to(folder / "gone.mp4")
    with pytest.raises(own.OwnError, match="3 of 11 videos") as e:
        train(folder, out=tmp_path / "out")
    for text in (
        "corrupted.mp4: ",
        "empty.avi: the file is empty",
        "link.mp4: no such file",
        "--skip-unreadable",
    ):
        assert text in str(e.value)
    assert not (tmp_path / "out" / "encoder.safetensors").exists()
    result = train(folder, out=tmp_path / "out", skip_unreadable=True)
    assert (
        sorted(result.meta["videos"]["unreadable"]) == ["corrupted.mp4", "empty.avi", "link.mp4"]
        and result.meta["videos"]["used"] == 8
    )


@pytest.mark.parametrize("size", [None, 500], ids=["same size", "other size"])
def test_a_mended_file_is_noticed(folder, tmp_path, size):
    "Where nothing was trained yet, the folder of the result goes on with the mended videos."
    good = next(folder.rglob("7.mp4")).read_bytes()
    for name in ("a.mp4", "b.mp4"):
        garbage(folder / name, bytes(size or len(good)))
    with pytest.raises(own.OwnError, match="2 of 10"):
        train(folder, out=tmp_path / "out")
    (folder / "a.mp4").write_bytes(good)
    trained = train(folder, out=tmp_path / "out")
    assert list(trained.meta["videos"]["unreadable"]) == ["b.mp4"]
    assert settings.read_json(tmp_path / "out" / own.RUN)["identity"] == trained.meta["identity"]
    (folder / "b.mp4").write_bytes(good)
    with pytest.raises(own.OwnError, match="another the videos in the folder"):
        train(folder, out=tmp_path / "out")


def test_nothing_readable(tmp_path, trained):
    (tmp_path / "v").mkdir()
    for name in "abc":
        garbage(tmp_path / "v" / f"{name}.mp4")
    for skip in (False, True):
        with pytest.raises(own.OwnError, match="none of the 3 videos"):
            train(tmp_path / "v", skip_unreadable=skip)
    with pytest.raises(own.OwnError, match="none of the 3 videos"):
        features.extract(tmp_path / "v", trained.file, tmp_path / "f.npz", **FAST)
    assert not list(tmp_path.glob("*.npz")) and not list(tmp_path.glob(".*pieces"))


def test_videos_that_vanish_while_training(folder, tmp_path):
    "After the check the rule of the loader holds: one of eight is more than 1 %."
    real = own.check

    def vanish(*args, **kw):
        notes = real(*args, **kw)
        next(folder.rglob("7.mp4")).unlink()
        return notes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(own, "check", vanish)
        with pytest.raises(own.OwnError, match="7.mp4: no such file"):
            train(folder, out=tmp_path / "out")


def test_names_that_are_not_utf8(tmp_path, puppets, trained):
    "Bytes that are not UTF-8, a line break, 200 letters."
    top = os.fsencode(tmp_path) + b"/v"
    os.mkdir(top)
    for name in (b"\xfe\xff.mp4", b"two\nlines.mp4", b"x" * 200 + b".mp4"):
        shutil.copy(puppets[0], top + b"/" + name)
    garbage(Path(os.fsdecode(top + b"/bad\xff\n.mp4")))
    result = train(os.fsdecode(top), progress=True)
    str(result).encode("utf-8")
    assert "bad\ufffd?.mp4: " in str(result)
    found = features.extract(os.fsdecode(top), trained.file, tmp_path / "f.npz", **FAST)
    assert found.ok.tolist() == [False, True, True, True] and sorted(os.listdir(top)) == sorted(
        os.fsencode(str(p)) for p in features.load(tmp_path / "f.npz").paths
    )
    str(found).encode("utf-8")


# ---------------------------------------------------------------- features


def test_features_are_those_of_the_protocols(folder, trained, tmp_path):
    found = features.extract(folder, trained.file, tmp_path / "f.npz", views=3, batch_size=3, **FAST)
    index, encoder = own.videos(folder), own.load_encoder(trained.file)
    whole = protocols.extract(
        encoder,
        ClipDataset(index, 4, 3, 32, 3, "uniform", train=False),
        "cpu",
        pool="features",
        progress=False,
    )
    torch.testing.assert_close(torch.from_numpy(found.values), whole.values, rtol=1e-5, atol=1e-6)
    with np.load(tmp_path / "f.npz", allow_pickle=False) as z:
        assert {k: (z[k].dtype.kind, z[k].shape) for k in z} == dict(
            features=("f", (8, encoder.dim)),
            paths=("U", (8,)),
            ok=("b", (8,)),
            reasons=("U", (8,)),
            labels=("i", (8,)),
            classes=("U", (2,)),
            about=("U", ()),
        )
        assert (
            z["features"].dtype == np.float32
            and z["paths"].tolist() == index.paths[:]
            and z["labels"].tolist() == index.labels.tolist()
            and z["classes"].tolist() == ["_été $", "run + jump"]
        )
        about = json.loads(str(z["about"]))
    assert (
        about["backbone"] == "r3d_tiny"
        and about["weights"] == own.sha256(trained.file)
        and (about["views"], about["size"]) == (3, 32)
    )
    assert found.map == tmp_path / "f_map.png" and found.map.read_bytes()[:4] == b"\x89PNG"
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file() or "pieces" in p.name) == [
        "f.npz",
        "f_knn.csv",
        "f_map.png",
    ]


def test_killed_features_go_on(folder, trained, tmp_path, monkeypatch):
    pieces = tmp_path / ".cut.npz.pieces"
    half = settings._part_of(tmp_path / "cut.npz")  # as a kill leaves it just before it has its name
    half = half.with_name(half.name.replace(f".{os.getpid()}.", f".{ended()}."))
    garbage(half)
    killed(folder, trained.file, tmp_path / "cut.npz", "0", 4)
    assert len(list(pieces.glob("0*.npz"))) == 3 and not (tmp_path / "cut.npz").exists()
    calls, real = [], features._forward
    monkeypatch.setattr(features, "_forward", lambda *a: calls.append(1) or real(*a))
    cut = features.extract(folder, trained.file, tmp_path / "cut.npz", batch_size=1, map="none", **FAST)
    assert len(calls) == 5 and not half.exists()
    assert sorted(p.name for p in tmp_path.iterdir() if "cut" in p.name) == ["cut.npz", "cut_knn.csv"]
    assert np.array_equal(
        cut.values,
        features.extract(
            folder, trained.file, tmp_path / "whole.npz", batch_size=1, map="none", **FAST
        ).values,
    )


def test_pieces_of_other_settings_are_not_taken(folder, trained, tmp_path, monkeypatch):
    real = features._forward

    def dies(*args):
        if len(list(tmp_path.glob(".f.npz.pieces/0*.npz"))) == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(features, "_forward", dies)
    with pytest.raises(KeyboardInterrupt):
        features.extract(folder, trained.file, tmp_path / "f.npz", batch_size=1, every=0, **FAST)
    monkeypatch.setattr(features, "_forward", real)
    found = features.extract(folder, trained.file, tmp_path / "f.npz", batch_size=1, views=1, **FAST)
    assert np.array_equal(
        found.values,
        features.extract(folder, trained.file, tmp_path / "g.npz", batch_size=1, views=1, **FAST).values,
    )


def test_features_are_done_once_and_not_overwritten(folder, trained, tmp_path, monkeypatch):
    first = features.extract(folder, trained.file, tmp_path / "f.npz", **FAST)
    before = (tmp_path / "f.npz").read_bytes()
    monkeypatch.setattr(features, "_forward", None)
    again = features.extract(folder, trained.file, tmp_path / "f.npz", **FAST)
    assert not again.new and np.array_equal(first.values, again.values) and "done already" in str(again)
    for change, said in ((dict(views=2), "views 4 .now 2"), (dict(size=48), "size 32 .now 48")):
        with pytest.raises(own.OwnError, match=said):
            features.extract(folder, trained.file, tmp_path / "f.npz", **change, **FAST)
    garbage(tmp_path / "g.npz")
    with pytest.raises(own.OwnError, match="no file of features"):
        features.extract(folder, trained.file, tmp_path / "g.npz", **FAST)
    with pytest.raises(own.OwnError, match=".npz"):
        features.extract(folder, trained.file, tmp_path / "features.txt", **FAST)
    with pytest.raises(own.OwnError, match="cannot be written"):
        features.extract(folder, trained.file, tmp_path / "f.npz" / "below.npz", **FAST)
    assert (tmp_path / "f.npz").read_bytes() == before and (
        tmp_path / "g.npz"
    ).read_bytes() == b"not a video at all"


def test_features_keep_the_row_of_a_bad_file(folder, trained, tmp_path):
    clean = features.extract(folder, trained.file, tmp_path / "clean.npz", **FAST)
    garbage(folder / "a bad one.mp4")
    garbage(folder / "z empty.mp4", b"")
    found = features.extract(folder, trained.file, tmp_path / "f.npz", **FAST)
    bad = [i for i, p in enumerate(found.paths) if p in ("a bad one.mp4", "z empty.mp4")]
    assert (
        (~found.ok).nonzero()[0].tolist() == bad
        and np.isnan(found.values[bad]).all()
        and found.failed["z empty.mp4"] == "the file is empty"
    )
    assert {
        p: v.tobytes() for p, v in zip(found.paths, found.values) if found.ok[list(found.paths).index(p)]
    }.keys() == set(clean.paths)
    for p, v in zip(clean.paths, clean.values):
        np.testing.assert_allclose(found.values[list(found.paths).index(p)], v, rtol=1e-4, atol=1e-6)
    assert "2 of 10 files could not be read" in str(found) and "a bad one.mp4: not a readable video" in str(
        found
    )


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_features_as_a_table(folder, trained, tmp_path, monkeypatch, ending):
    "The numbers to the last bit, NaN for a broken file, one form after the other from one reading."
    import pandas as pd

    garbage(folder / "run + jump" / "a bad one.mp4")
    out = tmp_path / f"f.{ending}"
    found = features.extract(folder, trained.file, out, views=1, **FAST)
    assert found.table == out and found.file == tmp_path / "f.npz" and found.map.is_file()
    there = pd.read_csv(out) if ending == "csv" else pd.read_parquet(out)
    assert list(there.columns[:5]) == ["path", "class", "label", "reason", "f0"]
    assert list(there["path"]) == list(found.paths) and list(there["label"]) == list(found.labels)
    assert set(there["class"]) == {"_été $", "run + jump"}
    numbers = there[[f"f{i}" for i in range(found.values.shape[1])]].to_numpy(np.float32)
    assert np.array_equal(numbers, found.values, equal_nan=True)
    bad = there["path"] == "run + jump/a bad one.mp4"
    assert bad.sum() == 1 and np.isnan(numbers[bad]).all() and not np.isnan(numbers[~bad]).any()
    assert there.loc[bad, "reason"].item().startswith("not a readable video")
    monkeypatch.setattr(features, "_compute", lambda *_: pytest.fail("computed again"))
    before = out.stat().st_mtime_ns
    again = features.extract(folder, trained.file, out, views=1, **FAST)
    assert not again.new and out.stat().st_mtime_ns == before
    other = out.with_suffix({"csv": ".parquet", "parquet": ".csv"}[ending])
    features.extract(folder, trained.file, other, views=1, **FAST)
    assert other.is_file() and not [p for p in tmp_path.iterdir() if "part" in p.name]


def test_a_table_takes_no_other_file_s_place(folder, trained, tmp_path, monkeypatch):
    (tmp_path / "f.csv").write_text("my own list\n")
    monkeypatch.setattr(features, "_compute", lambda *_: pytest.fail("computed"))
    with pytest.raises(own.OwnError, match="is no table of these features"):
        features.extract(folder, trained.file, tmp_path / "f.csv", views=1, **FAST)
    assert (tmp_path / "f.csv").read_text() == "my own list\n"


def test_without_pyarrow_parquet_is_refused_before_any_work(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(features, "find_spec", lambda name: None)
    monkeypatch.setattr(own, "videos", lambda *_: pytest.fail("looked for videos"))
    words = ["features", str(folder), "--weights", "none.pt", "--out", str(tmp_path / "f.parquet")]
    assert cli.main(words) == 1
    said = capsys.readouterr().err
    assert "pip install 'mvnb[parquet]'" in said and said.count("\n") == 1
    assert cli.main([*words[:-1], str(tmp_path / "f.json")]) == 1
    assert ".npz, .csv or .parquet" in capsys.readouterr().err and not list(tmp_path.glob("f.*"))


def test_zeros_of_old_files_are_nan(folder, trained, tmp_path):
    garbage(folder / "a bad one.mp4")
    found = features.extract(folder, trained.file, tmp_path / "f.npz", views=1, **FAST)
    with np.load(found.file) as stored:
        arrays = dict(stored)
    arrays["features"] = np.nan_to_num(arrays["features"])
    np.savez(found.file, **arrays)
    again = features.load(found.file)
    assert np.isnan(again.values[~again.ok]).all() and np.array_equal(again.ok, found.ok)


def test_weights_from_elsewhere(tmp_path, folder, puppets):
    "A published state dict with its classifier: the backbone must be named; features are torchvision's."
    from torchvision.models.video import s3d

    theirs = s3d().eval()
    torch.save(theirs.state_dict(), tmp_path / "s3d.pth")
    with pytest.raises(WeightsError, match="--backbone"):
        own.load_encoder(tmp_path / "s3d.pth")
    encoder = own.load_encoder(tmp_path / "s3d.pth", "s3d", frames=16, size=224)
    clip = own.prepare(puppets[0], encoder)
    assert clip.shape == (1, 3, 16, 224, 224) and not encoder.training
    with torch.no_grad():
        torch.testing.assert_close(encoder.features(clip), theirs.features(clip), rtol=1e-4, atol=1e-5)


def test_i3d_from_elsewhere_sees_pixels_from_minus_one_to_one(tmp_path):
    models.save_weights(models.build("i3d"), tmp_path / "rgb.safetensors")
    encoder = own.load_encoder(tmp_path / "rgb.safetensors", "i3d")
    white, black = (own.prepare(torch.full((3, 2, 4, 4), v, dtype=torch.uint8), encoder) for v in (255, 0))
    assert encoder.clips.size == 224 and (white == 1).all() and (black == -1).all()


def test_files_that_are_no_weights(tmp_path, folder, trained):
    garbage(tmp_path / "w.safetensors")
    garbage(tmp_path / "w.pt")
    garbage(tmp_path / "w.txt")
    models.save_weights(torch.nn.Linear(3, 4), tmp_path / "linear.safetensors")
    for weights, backbone, said in (
        (tmp_path / "w.safetensors", None, "w.safetensors: damaged"),
        (tmp_path / "w.pt", "r3d_18", "w.pt: "),
        (tmp_path / "w.txt", None, "w.txt: weights are"),
        (tmp_path / "none.pt", None, "none.pt: no such file"),
        (tmp_path, None, "a folder without"),
        (trained.file, "i3d_tiny", "fit"),
        (tmp_path / "linear.safetensors", "r3d_tiny", "linear.safetensors"),
        (trained.file, "r3d_80", "did you mean"),
    ):
        with pytest.raises(ValueError, match=said):
            features.extract(folder, weights, tmp_path / "f.npz", backbone=backbone, **FAST)
    assert not (tmp_path / "f.npz").exists()


def test_weights_of_a_stored_run(tmp_path, puppets_root, folder, monkeypatch):
    from mvnb import runs

    monkeypatch.setenv("MVNB_DATA_PUPPETS", str(puppets_root))
    stored = runs.ensure(
        recipes.pretraining(recipes.profile("smoke"), "moco", "puppets-u", "r3d"),
        device="cpu",
        workers=0,
        progress=False,
    )
    found = features.extract(folder, stored.folder, tmp_path / "f.npz", **FAST)
    assert (
        found.about["backbone"] == "r3d_tiny"
        and found.about["length"] == recipes.profile("smoke").pretrain_clips.length
        and found.ok.all()
    )


# ---------------------------------------------------------------- the map


def made(n, classes, dim=6, seed=0, names=None):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n) if classes else np.full(n, -1)
    values = (rng.normal(size=(max(classes, 1), dim))[labels] * 3 + rng.normal(size=(n, dim))).astype(
        np.float32
    )
    names = names or [f"class {i}" for i in range(classes)]
    return features.Features(
        values,
        np.array([f"{i}.mp4" for i in range(n)]),
        np.ones(n, bool),
        np.array([""] * n),
        labels,
        np.array(names, str),
        dict(folder="$x_ [1]", backbone="r3d_tiny"),
    )


def test_the_nearest_by_brute_force():
    f = made(60, 4)
    f.values += 3 * np.random.default_rng(1).normal(size=f.values.shape).astype(
        np.float32
    )  # so that not all are right
    f.ok[::7] = False
    f.labels[3] = -1
    keep = [i for i in range(60) if f.ok[i] and f.labels[i] >= 0]
    x = F.normalize(torch.from_numpy(f.values[keep]) - torch.from_numpy(f.values[keep]).mean(0), dim=1)
    hits = [
        f.labels[keep[max((j for j in range(len(keep)) if j != i), key=lambda j: float(x[i] @ x[j]))]]
        == f.labels[keep[i]]
        for i in range(len(keep))
    ]
    pairs = [f.labels[i] == f.labels[j] for i in keep for j in keep if i != j]
    share, chance = features.nearest_share(f)
    assert (
        share == pytest.approx(np.mean(hits))
        and chance == pytest.approx(np.mean(pairs))
        and chance < share < 1
    )
    assert features.nearest_share(made(60, 0)) is None


@pytest.mark.parametrize("k", [1, 2, 5])
def test_knn_by_brute_force(k):
    "Each video against all others, one at a time; a tie between classes is no majority."
    f = made(40, 3)
    f.values += 3 * np.random.default_rng(1).normal(size=f.values.shape).astype(np.float32)
    f.values[1] = f.values[0]  # twins: neither may vote for itself
    f.ok[::9] = False
    f.values[~f.ok] = np.nan
    f.labels[3] = -1
    keep = [i for i in range(40) if f.ok[i] and f.labels[i] >= 0]
    x = F.normalize(torch.from_numpy(f.values[keep]) - torch.from_numpy(f.values[keep]).mean(0), dim=1)
    right = {label: [] for label in range(3)}
    for i in range(len(keep)):
        others = [j for j in range(len(keep)) if j != i]
        near = sorted(others, key=lambda j: -float(x[i] @ x[j]))[:k]
        votes = [sum(f.labels[keep[j]] == label for j in near) for label in range(3)]
        mine = f.labels[keep[i]]
        right[mine].append(all(votes[mine] > v for label, v in enumerate(votes) if label != mine))
    told = features.knn(f, (k,)).set_index("class folder")
    for label in range(3):
        assert told.loc[f"class {label}", f"k={k}"] == pytest.approx(np.mean(right[label]))
        assert told.loc[f"class {label}", "videos"] == len(right[label])
    assert told.loc["(all)", f"k={k}"] == pytest.approx(np.mean(sum(right.values(), [])))
    assert features.knn(made(40, 0)) is None and list(features.knn(made(4, 2), (1, 5)).columns)[2:] == [
        "k=1",
        "by chance",
    ]


def test_a_collapsed_encoder_finds_no_more_than_chance():
    f = made(40, 2)
    f.labels = np.sort(f.labels)  # the order of the folder must not help
    f.values[:] = 1.0
    share, _ = features.nearest_share(f)
    assert share < 0.7


@pytest.mark.parametrize("n,how", [(3, "PCA"), (49, "PCA"), (50, "t-SNE"), (5001, "PCA")])
def test_the_map_chooses_by_the_number_of_videos(n, how):
    assert features.coordinates(made(n, 3))[2] == how


def test_maps_are_repeatable_and_keep_clusters():
    for kind in ("tsne", "pca"):
        f = made(80, 3)
        one, two = features.coordinates(f, kind)[0], features.coordinates(f, kind)[0]
        near = np.linalg.norm(one[:, None] - one[None], axis=-1) + 1e9 * np.eye(80)
        assert np.array_equal(one, two) and (f.labels[near.argmin(1)] == f.labels).mean() > 0.9


@pytest.mark.parametrize("classes,entries", [(0, 0), (2, 2), (20, 20), (35, 21)])
def test_the_legend_stays_readable(classes, entries):
    legend = features.draw_map(made(200, classes), "pca").axes[0].get_legend()
    assert (len(legend.get_texts()) if legend else 0) == entries


def test_the_legend_shows_any_name():
    f = made(40, 3, names=["_hidden", "$a_{b$", "日本" * 40])
    fig = features.draw_map(f, "pca")
    fig.canvas.draw()
    texts = [t.get_text() for t in fig.axes[0].get_legend().get_texts()]
    assert (
        len(texts) == 3
        and "_hidden" in texts[0]
        and texts[1].startswith(r"\$a_{b\$")
        and "40 videos" in fig.axes[0].get_title()
        and "r3d_tiny" in fig.axes[0].get_title()
    )


@pytest.mark.parametrize("n", [1, 2, 4])
def test_maps_of_hardly_anything(n):
    for kind in (None, "tsne", "pca"):
        assert features.coordinates(made(n, 0), kind)[0].shape == (n, 2)
    same = made(n, 0)
    same.values[:] = 1
    assert np.isfinite(features.coordinates(same)[0]).all()


# ---------------------------------------------------------------- commands


def test_the_commands(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    garbage(folder / "bad.mp4")
    train_it = [
        "pretrain",
        "fame",
        str(folder),
        "--profile",
        "smoke",
        "--backbone",
        "r3d",
        "--steps",
        "2",
        "--device",
        "cpu",
        "--workers",
        "0",
        "-p",
        "beta=0.3",
        "--out",
        "out",
    ]
    assert cli.main(train_it) == 0
    said = capsys.readouterr().out
    for text in (
        "9 videos below",
        "fame on",
        "2 steps of 8 videos",
        "beta=0.3",
        "guessed",
        "encoder.safetensors",
        "from mvnb import own",
        "1 of 9 files",
        "bad.mp4: ",
    ):
        assert text in said, text
    assert models.read_weights("out/encoder.safetensors")[1]["recipe"]["params"]["beta"] == 0.3
    assert cli.main(train_it) == 0 and "done already" in capsys.readouterr().out
    look = [
        "features",
        str(folder),
        "--weights",
        "out/encoder.safetensors",
        "--device",
        "cpu",
        "--workers",
        "0",
        "--views",
        "2",
    ]
    assert cli.main(look) == 0
    said = capsys.readouterr().out
    assert (
        f"8 videos, {own.load_encoder('out').dim} numbers" in said
        and "bad.mp4: " in said
        and Path("features.npz").is_file()
        and Path("features_map.png").is_file()
    )


@pytest.mark.parametrize(
    "arguments,said",
    [
        (["pretrain", "fam", "{v}"], "did you mean 'fame'"),
        (["pretrain", "fame", "{v}/_été $/5.mp4"], "no such folder"),
        (["pretrain", "fame", "{v}/run + jump/5.mp4"], "is one file"),
        (["pretrain", "fame", "{v}", "-p", "beta"], "write -p name=value"),
        (["pretrain", "fame", "{v}", "--profile", "large"], "smoke, demo, paper"),
        (["pretrain", "fame", "{v}", "--workers", "some"], "workers"),
        (["pretrain", "fame", "{v}", "--device", "tpu"], "tpu"),
        (["features", "{v}", "--weights", "none.pt"], "no such file of weights"),
        (["features", "{v}/none", "--weights", "none.pt"], "no such folder"),
    ],
)
def test_refusals_are_one_sentence(folder, capsys, arguments, said):
    assert cli.main([a.format(v=folder) for a in arguments]) == 1
    out = capsys.readouterr()
    assert said in out.err and out.err.startswith("mvnb: ") and out.err.count("\n") == 1 and out.out == ""


def test_epochs_and_steps_exclude_each_other(folder):
    with pytest.raises(SystemExit) as e:
        cli.main(["pretrain", "fame", str(folder), "--epochs", "1", "--steps", "1"])
    assert e.value.code == 2


# ---------------------------------------------------------------- masks that follow motion, and decoders


def mgm(folder, **more):
    "One step of a small masked autoencoder."
    options = dict(steps=1, batch_size=4, frames=4, size=32) | FAST
    return own.pretrain("mgm", folder, "smoke", **options | more)


@pytest.fixture
def bare(tmp_path, puppets):
    "Four puppets without motion vectors: three coded as VP9, one of key frames alone."
    root = tmp_path / "bare"
    root.mkdir()
    for i, source in enumerate(puppets[:4]):
        frames = video.read_clip(source, range(12)).rgb.permute(1, 2, 3, 0).numpy()
        name, codec = (f"{i}.webm", ("libvpx-vp9",)) if i else ("0.mp4", ("libx264", {"g": 1}))
        video.write_video(root / name, frames, 12.5, *codec)
    return root


@pytest.mark.parametrize(
    "mask,guidance", [*((mask, "vectors") for mask in tokens.TOKENS), ("mgm", "dis"), ("mgm_sparse", "dis")]
)
def test_every_token_mask_learns_from_a_folder(folder, mask, guidance):
    done = mgm(folder, params=dict(mask=mask, guidance=guidance))
    assert done.new and np.isfinite(done.meta["metrics"]["loss"])
    assert done.meta["recipe"]["params"]["mask"] == mask
    assert own.load_encoder(done.file)(torch.zeros(1, 3, 4, 32, 32)).shape[0] == 1


def test_real_videos_with_vectors_guide_masks(shared_data, tmp_path):
    root = tmp_path / "real"
    for path in sorted((shared_data / "mini" / "Archery").glob("*.avi"))[:4]:
        root.mkdir(exist_ok=True)
        shutil.copy(path, root)
    for guidance in ("vectors", "dis"):
        done = mgm(root, params=dict(guidance=guidance))
        assert done.new and done.meta["videos"]["used"] == 4 and np.isfinite(done.meta["metrics"]["loss"])


def test_videos_without_vectors_are_refused_with_two_ways_out(bare, tmp_path, capsys, monkeypatch):
    with pytest.raises(own.OwnError) as told:
        mgm(bare, out=tmp_path / "out")
    text = str(told.value)
    assert "\n" not in text and "4 of 4 videos" in text and "0.mp4: every frame is a key frame" in text
    assert "`mvnb data transcode`" in text and "-p guidance=dis" in text
    assert not (tmp_path / "out").exists()  # so that the way out may lead to the same folder
    words = [
        "--steps",
        "1",
        "--batch-size",
        "4",
        "--frames",
        "4",
        "--size",
        "32",
        "--device",
        "cpu",
        "--workers",
        "0",
    ]
    command = ["pretrain", "mgm", str(bare), "--profile", "smoke", "--out", str(tmp_path / "out"), *words]
    assert cli.main(command) != 0 and "have none (0.mp4" in capsys.readouterr().err
    assert cli.main([*command, "-p", "guidance=dis"]) == 0
    assert mgm(bare, params=dict(mask="tube")).new  # needs no motion


def test_the_first_way_out_leads_out(bare, tmp_path):
    from mvnb import transcode

    transcode.transcode(bare, tmp_path / "with", transcode.Encoding(), 1)
    assert mgm(tmp_path / "with").meta["videos"]["used"] == 4


def test_a_few_videos_without_vectors_are_left_out_and_listed(folder, bare):
    shutil.copy(bare / "1.webm", folder / "one.webm")
    shutil.copy(bare / "2.webm", folder / "two.webm")
    with pytest.raises(own.OwnError, match="2 of 10 videos of .* have none"):
        mgm(folder)
    done = mgm(folder, skip_unreadable=True)
    assert done.meta["videos"]["used"] == 8
    assert set(done.meta["videos"]["unreadable"]) == {"one.webm", "two.webm"}
    assert "one.webm: the vp9 decoder" in str(done)
    (folder / "two.webm").unlink()
    assert mgm(folder).meta["videos"]["used"] == 8  # one file is left out without asking


def test_missing_weights_of_a_flow_are_told_before_anything_is_written(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("MVNB_WEIGHTS_RAFT_SMALL", str(tmp_path / "none.pth"))
    with pytest.raises(FileNotFoundError, match="no such file of weights"):
        mgm(folder, params=dict(guidance="raft"), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_decoder_stays_beside_its_encoder(folder, tmp_path):
    done = mgm(folder, out=tmp_path / "out")
    decoder = done.file.with_name(runs.DECODER)
    assert str(decoder) in str(done)
    kept, meta = models.read_weights(decoder)
    assert kept and not any(name.startswith("backbone.") for name in kept)
    assert meta["recipe"] == done.meta["recipe"]
    method = methods.build("mgm", backbone=meta["recipe"]["backbone"], seed=3, **meta["recipe"]["params"])
    models.load_weights(method.backbone, done.file)
    missing = method.autoencoder.load_state_dict(kept, strict=False)
    assert not missing.unexpected_keys and all(n.startswith("backbone.") for n in missing.missing_keys)


def test_commands_pass_by_the_decoder(folder, tmp_path, capsys):
    "The folder of a result, and its encoder's file, mean the encoder; the decoder's file is refused."
    done = mgm(folder, out=tmp_path / "out")
    for weights in (tmp_path / "out", done.file):
        found = features.extract(
            folder, weights, tmp_path / f"{weights.name}.npz", views=1, map="none", **FAST
        )
        assert found.ok.all()
    again = mgm(folder, weights=tmp_path / "out", out=tmp_path / "more")
    assert again.new and again.meta["identity"]["weights to start from"]
    assert not mgm(folder, out=tmp_path / "out").new
    decoder = str(tmp_path / "out" / runs.DECODER)
    with pytest.raises(WeightsError, match="decoder"):
        own.load_encoder(decoder)
    assert cli.main(["features", str(folder), "--weights", decoder, "--out", str(tmp_path / "x.npz")]) != 0
    told = capsys.readouterr().err
    assert "Traceback" not in told and "decoder" in told


def test_a_method_without_decoder_leaves_none(trained):
    assert not trained.file.with_name(runs.DECODER).exists() and "decoder" not in str(trained)


# ---------------------------------------------------------------- in other people's hands


def random_encoder(path, name, kind=None, **model):
    "A file of this library with random weights, batch norm that does something, and a recipe."
    torch.manual_seed(0)
    network = models.build(name, **model).eval()
    for module in network.modules():
        if isinstance(module, (torch.nn.BatchNorm2d, torch.nn.BatchNorm3d)):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    clips = {"length": 8, "stride": 3, "size": 32}
    recipe = {"backbone": name, "model": model, "clips": clips, "data": {"name": "ucf101"}}
    recipe |= {"kind": kind or "pretrain", "method": "moco", "profile": "paper", "seed": 3}
    models.save_weights(network, path, {"recipe": recipe})
    return network


def run_as_told(folder, load, clips, call):
    "Runs the lines of a card, with the folder's name put in."
    space = {"clips": clips}
    exec(load.replace("this/folder", str(folder)) + "\n" + call, space)
    return space


@pytest.mark.parametrize("name", ["r2plus1d_18", "r3d_18", "s3d", "i2d", "r2d_50"])
def test_torchvision_opens_what_was_exported(tmp_path, name):
    size = 224 if name == "s3d" else 64
    source = random_encoder(tmp_path / "e.safetensors", name)
    done = export.export(tmp_path / "e.safetensors", "torchvision", tmp_path / "out")
    assert sorted(p.name for p in done.folder.iterdir()) == ["README.md", "model.safetensors"]
    space = run_as_told(done.folder, done.load, None, "")
    theirs, source = space["model"].eval().double(), source.double()  # so that only the weights can differ
    clips = torch.randn(1, 3, 14 if name == "s3d" else 4, size, size).double()
    with torch.no_grad():
        if name in ("i2d", "r2d_50"):  # over single frames
            theirs.fc = torch.nn.Identity()
            want = theirs(clips[0].transpose(0, 1)).mean(0, keepdim=True)
        elif name == "s3d":
            want = theirs.features(clips).mean((2, 3, 4))
        else:
            theirs.fc = torch.nn.Identity()
            want = theirs(clips)
        torch.testing.assert_close(source(clips), want, rtol=1e-9, atol=1e-9)
    again = own.load_encoder(done.folder, name)
    assert all(torch.equal(v, source.state_dict()[k].to(v)) for k, v in again.state_dict().items())


def test_a_vit_s_encoder_in_three_lines_and_at_hugging_face(tmp_path, puppets):
    pytest.importorskip("transformers", reason="the extra `hub` is not installed")
    random_encoder(tmp_path / "e.safetensors", "vit_tiny")
    encoder = own.load_encoder(tmp_path / "e.safetensors")
    clips = own.prepare(puppets[0], encoder)
    feature = encoder(clips)
    assert clips.shape == (1, 3, 8, 32, 32) and feature.shape == (1, encoder.dim)
    done = export.export(tmp_path / "e.safetensors", "huggingface", tmp_path / "out")
    with torch.no_grad():
        space = run_as_told(done.folder, done.load, clips, "")
        torch.testing.assert_close(space["feature"], feature, rtol=1e-5, atol=1e-5)
        back = own.load_encoder(done.folder)
        torch.testing.assert_close(back(own.prepare(puppets[0], back)), feature, rtol=1e-5, atol=1e-5)
    assert (back.clips, back.name) == (encoder.clips, "vit_tiny")
    card = (done.folder / "README.md").read_text()
    assert "ucf101" in card and done.load in card and "No stored run has evaluated" in card


def test_an_autoencoder_goes_to_hugging_face_whole(folder, tmp_path):
    hub = pytest.importorskip("transformers", reason="the extra `hub` is not installed")
    trained = mgm(folder, out=tmp_path / "out")
    done = export.export(tmp_path / "out", "huggingface")
    assert done.folder.parent == settings.outputs() / "exported"
    theirs, about = hub.VideoMAEForPreTraining.from_pretrained(done.folder, output_loading_info=True)
    assert not any(about[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    recipe = recipes.from_json(trained.meta["recipe"])
    ours = runs.built(recipe).autoencoder.eval()
    models.load_weights(ours.backbone, trained.file)
    ours.load_state_dict(models.read_weights(trained.file.with_name(runs.DECODER))[0], strict=False)
    clips = own.prepare(next(folder.glob("*/7.mp4")), own.load_encoder(trained.file))
    count = len(ours.backbone.tokens(clips)[0])
    hidden = torch.arange(count)[None] % 2 == 0
    with torch.no_grad():
        want = ours(clips, hidden.view(1, *ours.backbone.grid(clips)))
        found = theirs.eval()(clips.transpose(1, 2), hidden)
    torch.testing.assert_close(found.logits, want.prediction, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.loss, want.loss, rtol=1e-5, atol=1e-5)
    raw = mgm(folder, out=tmp_path / "raw", params=dict(norm_pix=False))
    said = str(export.export(raw.file, "huggingface"))
    assert "it stays behind" in said and "VideoMAEModel" in said


def test_a_fine_tuned_run_by_its_hash_keeps_its_classifier_and_numbers(puppets_root, monkeypatch, capsys):
    hub = pytest.importorskip("transformers", reason="the extra `hub` is not installed")
    monkeypatch.setenv("MVNB_DATA_PUPPETS", str(puppets_root))
    profile = recipes.profile("smoke")
    pretrained = recipes.pretraining(profile, "mgm", "puppets-u", "vit")
    tuned = recipes.finetuning(profile, "puppets-u", pretrained)
    stored = runs.ensure(tuned, device="cpu", workers=0, progress=False)
    assert cli.main(["export", tuned.hash[:8], "--to", "huggingface"]) == 0
    said = capsys.readouterr().out
    assert "VideoMAEForVideoClassification" in said
    out = settings.outputs() / "exported" / f"{tuned.hash}-huggingface"
    theirs = hub.VideoMAEForVideoClassification.from_pretrained(out).eval()
    tensors = models.read_weights(stored.folder / "classifier.safetensors")[0]
    encoder = own.load_encoder(stored.folder)
    clips = own.prepare(torch.randint(0, 256, (3, 4, 32, 32), dtype=torch.uint8), encoder)
    with torch.no_grad():
        want = encoder(clips) @ tensors["head.weight"].T + tensors["head.bias"]
        torch.testing.assert_close(theirs(clips.transpose(1, 2)).logits, want, rtol=1e-5, atol=1e-5)
    top1 = f"top-1 {stored.metrics['unbiased']['top1']:.1f} %"
    card = (out / "README.md").read_text()
    assert top1 in card
    low, wide = (float(x) for x in re.search(r"less \((\S+)\) and divided by \((\S+)\)", card).groups())
    white = torch.full((1, 4, 32, 32), 255, dtype=torch.uint8).expand(3, -1, -1, -1)
    assert own.prepare(white, encoder).max().item() == pytest.approx(
        (1 - low) / wide, abs=1e-3
    )  # white weighs 0.9999
    assert cli.main(["export", pretrained.hash, "--to", "huggingface"]) == 0
    card = settings.outputs() / "exported" / f"{pretrained.hash}-huggingface" / "README.md"
    assert top1 in card.read_text() and "apache-2.0" in card.read_text()  # puppets are the library's own


@pytest.mark.parametrize(
    "name, to, said",
    [
        ("r2plus1d_tiny", "torchvision", "torchvision has no r2plus1d_tiny"),
        ("vit_tiny", "torchvision", "torchvision has no vit_tiny"),
        ("r2plus1d_tiny", "huggingface", "no counterpart in Hugging Face's VideoMAE"),
        ("timesformer_tiny", "huggingface", "TimeSformer has no counterpart"),
    ],
)
def test_what_others_lack_is_refused_and_leaves_nothing(tmp_path, capsys, name, to, said):
    random_encoder(tmp_path / "e.safetensors", name)
    assert (
        cli.main(["export", str(tmp_path / "e.safetensors"), "--to", to, "--out", str(tmp_path / "x")]) == 1
    )
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1 and not (tmp_path / "x").exists()


def test_networks_with_other_settings_are_no_torchvision(tmp_path):
    random_encoder(tmp_path / "eps.safetensors", "r3d_18", bn_eps=1e-3)
    random_encoder(tmp_path / "narrow.safetensors", "r3d_18", widths=[4, 8, 8, 8])
    for name, said in (("eps", "another ε"), ("narrow", "differs")):
        with pytest.raises(WeightsError, match=said):
            export.export(tmp_path / f"{name}.safetensors", "torchvision", tmp_path / "x")


def test_an_export_replaces_an_export_and_nothing_else(tmp_path, monkeypatch):
    random_encoder(tmp_path / "e.safetensors", "vit_micro")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "README.md").write_text("my own model")
    with pytest.raises(own.OwnError, match="is no export"):
        export.export(tmp_path / "e.safetensors", "huggingface", mine)
    assert (mine / "README.md").read_text() == "my own model"
    done = export.export(tmp_path / "e.safetensors", "huggingface", tmp_path / "out")
    before = {p.name: p.read_bytes() for p in done.folder.iterdir()}

    def full(path, *_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as m:
        m.setattr(own.settings, "save_whole", full)
        with pytest.raises(settings.NotWritten):
            export.export(tmp_path / "e.safetensors", "huggingface", tmp_path / "out")
    assert {p.name: p.read_bytes() for p in done.folder.iterdir()} == before
    assert sorted(p.name for p in tmp_path.glob("*out*")) == ["out"]
    export.export(tmp_path / "e.safetensors", "huggingface", tmp_path / "out")
    assert {p.name: p.read_bytes() for p in done.folder.iterdir()} == before
