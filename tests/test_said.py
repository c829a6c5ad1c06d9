"Bad names, files and trainings get one line, at once; nothing that metadata name is opened."

import dataclasses
import json

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mvnb import cli, datasets, models, own, protocols, recipes, records, runs, settings, tables
from mvnb.models import WeightsError, save_weights


def said(capsys, *words) -> str:
    "What a command that fails says."
    assert cli.main(list(words)) == 1
    lines = [
        line for line in capsys.readouterr().err.strip().splitlines() if not line.startswith("training:")
    ]
    assert len(lines) == 1 and lines[0].startswith("mvnb: "), lines
    return lines[0]


@pytest.mark.parametrize("name", ["fame", "12", "ABCDEF12", "0123456789abcdef0", "../../etc/passwd", "x y"])
def test_what_is_no_hash_is_refused_before_anything_is_looked_up(capsys, monkeypatch, name):
    monkeypatch.setattr(cli, "_runs_named", lambda *_: pytest.fail("looked up"))
    assert "names no run" in said(capsys, "run", name)


def test_a_hash_that_no_table_has_makes_no_videos(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("MVNB_DATA_PUPPETS", str(tmp_path / "puppets"))
    monkeypatch.setenv("MVNB_PATHS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(runs, "status", lambda *_: pytest.fail("the store was asked"))
    assert "no table has a run 'abcdef123456'" in said(capsys, "run", "abcdef123456", "--profile", "smoke")
    assert not any(tmp_path.iterdir())


def test_a_run_of_a_table_is_found_by_its_first_digits(monkeypatch, tmp_path):
    monkeypatch.setenv("MVNB_PATHS_RUNS", str(tmp_path))
    recipe = tables.table("fame", 3).plan("smoke").runs[0]
    args = cli.parser().parse_args(["run", recipe.hash[:10], "--profile", "smoke"])
    assert cli._find_run(args) == recipe


def test_a_stored_run_is_found_without_a_plan(monkeypatch, tmp_path):
    monkeypatch.setenv("MVNB_PATHS_RUNS", str(tmp_path))
    monkeypatch.setattr(cli, "_runs_named", lambda *_: pytest.fail("tables were planned"))
    recipe = tables.table("fame", 3).plan("smoke").runs[0]
    for k in "01":  # another run, which begins with the same digits
        name = recipe.hash[:15] + k
        record = dict(
            hash=name, recipe=json.loads(recipe.json()), metrics={}, meta={"finished": "2026"}, files={}
        )
        (tmp_path / name).mkdir()
        text = json.dumps(record | {"checksum": records.checksum(record)})
        (tmp_path / name / records.RESULT).write_text(text)
    find = lambda name: cli._find_run(cli.parser().parse_args(["run", name]))
    assert find(recipe.hash[:15] + "1") == recipe
    with pytest.raises(cli.Refused, match="2 runs begin with"):
        find(recipe.hash[:10])


@pytest.mark.parametrize(
    "content", [b"{}", b"[]", b"3", b"no json", b'{"recipe": 3}', b'{"kind": "pretrain"}', b"\xbe\xff", b""]
)
def test_a_file_that_is_no_recipe_is_named(capsys, tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    assert "a.json holds no recipe" in said(capsys, "run", str(tmp_path / "a.json"))


def test_a_file_that_is_not_there_is_named(capsys, tmp_path):
    assert "b.json is not there" in said(capsys, "run", str(tmp_path / "b.json"))


@pytest.mark.parametrize(
    "grab",
    [
        lambda: torch.empty(2**60, dtype=torch.uint8),
        lambda: np.empty(2**60, np.uint8),
        lambda: bytearray(2**60),
        lambda: cv2.resize(np.zeros((1, 1), np.uint8), (30_000, 2_000_000_000)),
    ],
    ids=["torch", "numpy", "python", "opencv"],
)
def test_too_little_memory_is_told_in_one_line(capsys, monkeypatch, grab):
    monkeypatch.setattr(records, "stored", grab)
    assert "not enough memory: take smaller batches" in said(capsys, "runs", "list")


def test_what_nobody_expected_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(records, "stored", lambda: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError, match="size"):
        cli.main(["runs", "list"])


def test_a_loss_that_is_not_finite_is_told_in_one_line(capsys, tmp_path, monkeypatch, puppets_root):
    monkeypatch.setenv("MVNB_PATHS_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("MVNB_DATA_PUPPETS", str(puppets_root))
    small = recipes.SMOKE
    wild = dataclasses.replace(small.pretrain, lr=1e30, schedule="constant", max_steps=4, clip_grad=None)
    recipe = recipes.pretraining(dataclasses.replace(small, pretrain=wild), "moco", "puppets-u", "i3d")
    (tmp_path / "wild.json").write_text(recipe.json())
    assert "finite" in said(capsys, "run", str(tmp_path / "wild.json"), "--device", "cpu", "--workers", "0")


@pytest.mark.parametrize(
    "story", ["[]", "{}", '{"data": 3, "first": "", "seconds": 0, "last": 0, "starts": 1}', '"text"', "null"]
)
def test_a_damaged_note_of_an_attempt_starts_the_run_anew(tmp_path, story):
    (tmp_path / runs.STARTED).write_text(story)
    assert runs._story(tmp_path) is None


SOUND = dict(backbone="r3d_tiny", model={"channels": 1}, clips=dict(length=4, stride=[1, 2], size=32))


def test_sound_metadata_are_taken(tmp_path):
    file = save_weights(models.build("r3d_tiny", channels=1), tmp_path / "a.safetensors", {"recipe": SOUND})
    assert own.load_encoder(file).clips.size == 32


@pytest.mark.parametrize(
    "change",
    [
        *(dict(backbone=value) for value in (3, [1], {"a": 1}, True)),
        *(dict(model=value) for value in (3, "text", [1, 2], {"channels": 1, "unknown": 2})),
        *(dict(clips=value) for value in (3, "text", [1], {"size": -1}, {"size": "x"}, {"length": True})),
        *(dict(clips={"stride": value}) for value in ([], [0], "x", 1.5, None)),
    ],
)
def test_damaged_metadata_are_told(tmp_path, change):
    file = save_weights(models.build("r3d_tiny", channels=1), tmp_path / "a.safetensors")
    save_file(load_file(file), file, {"meta": json.dumps({"recipe": SOUND | change})})
    with pytest.raises(WeightsError, match="a.safetensors"):
        own.load_encoder(file)


def test_weights_that_metadata_name_are_not_opened(tmp_path, monkeypatch):
    torch.save({"never": torch.ones(1)}, tmp_path / "other.pth")
    recipe = SOUND | dict(model={"channels": 1, "weights": str(tmp_path / "other.pth")})
    file = save_weights(models.build("r3d_tiny", channels=1), tmp_path / "a.safetensors", {"recipe": recipe})
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("opened"))
    assert own.load_encoder(file).name == "r3d_tiny"


# ---------------------------------------------------------------- what would mislead


@pytest.mark.parametrize("queue,videos,wanted", [(64, 64, ""), (0, 8, ""), (256, 32, "about 8.0 of the")])
def test_a_queue_longer_than_its_data_set_is_told(queue, videos, wanted):
    recipe = recipes.pretraining(recipes.SMOKE, "moco", "puppets-u", "i3d", queue=queue)
    said = runs.own_keys(recipe, videos)
    assert wanted in said and bool(said) == bool(wanted)


def test_methods_without_a_queue_have_nothing_to_tell():
    assert runs.own_keys(recipes.pretraining(recipes.SMOKE, "mgm", "puppets-u", "vit"), 1) == ""


def test_one_class_cannot_be_fine_tuned_for(tmp_path, puppets_root):
    index = datasets.load("puppets-u", "train", root=puppets_root, scale=0.12).limit(2)
    first = index.subset([k for k, label in enumerate(index.labels) if label == 0])
    one = dataclasses.replace(first, classes=index.classes[:1])
    protocol = protocols.Protocol(recipes.SMOKE.finetune, length=4, stride=3, size=32)
    with pytest.raises(ValueError, match="one class"):
        protocols.finetune(models.build("r3d_tiny"), one, one, protocol, folder=tmp_path, progress=False)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "data,message",
    [
        (b"[run]\ndevice = cpu\n[paths]\nruns = /caf\xe9\n", "line 4: not UTF-8, but Latin-1 perhaps"),
        ("[run]\ndevice = cpu\n".encode("utf-16"), "is in UTF-16: save it as UTF-8"),
    ],
)
def test_settings_that_are_not_utf8_are_named_for_what_they_are(tmp_path, data, message):
    (tmp_path / "settings.ini").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        settings._parsed(str(tmp_path / "settings.ini"), 0)


def test_settings_with_a_mark_of_their_byte_order_are_read(tmp_path):
    (tmp_path / "settings.ini").write_bytes("[run]\ndevice = cpu\n".encode("utf-8-sig"))
    assert settings._parsed(str(tmp_path / "settings.ini"), 0).get("run", "device") == "cpu"
