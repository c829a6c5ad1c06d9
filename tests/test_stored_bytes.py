"Every stored byte is verified where it is read: bits are flipped in checkpoints, weights and decoded clips."

import json
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

from mvnb import clips, datasets, models, own, puppets, recipes, records, runs, settings
from mvnb.models import WeightsError, read_weights, save_weights
from mvnb.train import load_checkpoint, save_checkpoint


def flipped(data: bytes, at: int, bit: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1 << bit
    return bytes(changed)


def places(size: int, count: int, seed: int = 0):
    "Some bits of a file: of its beginning and end every byte, between them drawn ones."
    rng = np.random.default_rng(seed)
    edges = [*range(min(64, size)), *range(max(0, size - 64), size)]
    drawn = rng.integers(0, size, count).tolist()
    return [(at, int(rng.integers(8))) for at in (*edges, *drawn)]


# ---------------------------------------------------------------- checkpoints


def some_state(step):
    make = torch.Generator().manual_seed(step)
    return {"step": step, "weights": {"a": torch.randn(40, 9, generator=make), "b": torch.ones(3).bool()}}


def test_no_flipped_bit_of_a_checkpoint_is_taken(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, some_state(1))
    save_checkpoint(path, some_state(2))
    good = path.read_bytes()
    for at, bit in places(len(good), 400):
        path.write_bytes(flipped(good, at, bit))
        with pytest.warns(UserWarning, match="is damaged"):
            found = load_checkpoint(path)
        assert found["step"] == 1 and torch.equal(found["weights"]["a"], some_state(1)["weights"]["a"]), (
            at,
            bit,
        )
    path.write_bytes(good)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_checkpoint(path)["step"] == 2


@pytest.mark.parametrize("rest", [0, 7, 40, 500])
def test_a_checkpoint_that_breaks_off_is_skipped(tmp_path, rest):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, some_state(1))
    path.write_bytes(path.read_bytes()[:rest])
    with pytest.warns(UserWarning, match="training starts anew"):
        assert load_checkpoint(path) is None


def test_no_flipped_bit_of_a_note_of_an_attempt_is_taken(tmp_path, monkeypatch):
    monkeypatch.setenv("MVNB_PATHS_RUNS", str(tmp_path))
    recipe = recipes.pretraining(recipes.SMOKE, "moco", "puppets-u", "r3d")
    work, story = runs._begin(recipe, {"train": 64 * "a"}, {})
    note, good = work / runs.STARTED, (work / runs.STARTED).read_bytes()
    assert runs._story(work) == story
    for at in range(len(good)):
        note.write_bytes(flipped(good, at, at % 8))
        assert runs._story(work) in (None, story), at
    earlier = {key: value for key, value in story.items() if key != "contents"}
    note.write_text(json.dumps(earlier))  # of earlier versions, which had neither checksum nor contents
    assert runs._story(work) == story


# ---------------------------------------------------------------- full disks


def test_what_a_full_disk_breaks_is_named_and_goes(tmp_path):
    "In a process whose files may grow to 100 bytes."
    code = """
import resource, sys
import numpy as np
from pathlib import Path
from mvnb import features, maps, protocols, puppets, settings, train
write = {
    "record": lambda p: settings.save_json(p, {"text": 500 * "x"}, sync=True),
    "notes": lambda p: settings.save_json(p, {"text": 500 * "x"}),
    "features": lambda p: features._write_npz(p, features=np.ones(500)),
    "maps": lambda p: maps._note_failed(p.parent, [], {"a.mp4": 500 * "x"}),
    "table": lambda p: protocols._write_table(p, ("a", "b"), [(k, k) for k in range(99)]),
    "picture": lambda p: settings.save_whole(p, bytes(500)),
    "drawn": lambda p: puppets._save_whole(p, np.ones(9, np.float32), {}),
    "losses": lambda p: train._write_rows(p, ("step",), [(k, 0, 0.5) for k in range(99)], fresh=False),
}
resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
for name, function in write.items():
    try:
        function(Path(sys.argv[1], name))
    except OSError as e:
        print(e)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    names = ("record", "notes", "features", "maps", "table", "picture", "drawn", "losses")
    for name, line in zip(names, done.stdout.splitlines(), strict=True):
        file = "failed.json" if name == "maps" else name
        assert re.fullmatch(rf"{re.escape(str(tmp_path / file))}: .* could not be written: no room .*", line)
    assert [path.name for path in tmp_path.iterdir()] == ["losses"]  # it grows by lines


# ---------------------------------------------------------------- weights


def test_no_flipped_bit_of_an_encoder_changes_it(tmp_path):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.BatchNorm1d(7))
    path = save_weights(network, tmp_path / "a.safetensors", {"recipe": {"backbone": "x"}, "n": [1, 2.5]})
    good, (tensors, meta) = path.read_bytes(), read_weights(path)
    refused = 0
    for at, bit in places(len(good), 300):
        path.write_bytes(flipped(good, at, bit))
        try:
            found, about = read_weights(path)
        except WeightsError as e:
            refused += str(path) in str(e)
            continue
        assert about == meta and all(torch.equal(found[k], v) for k, v in tensors.items()), (at, bit)
        assert found.keys() == tensors.keys()
    assert refused > 350


def test_weights_are_the_same_bytes_every_time(tmp_path):
    network = torch.nn.Linear(5, 7)
    files = [save_weights(network, tmp_path / f"{k}.safetensors", {"b": 1, "a": (2,)}) for k in range(8)]
    assert len({file.read_bytes() for file in files}) == 1
    assert read_weights(files[0])[1] == {"a": [2], "b": 1}


def test_weights_from_elsewhere_need_no_checksum(tmp_path):
    from safetensors.torch import save_file

    save_file({"w": torch.ones(2)}, tmp_path / "other.safetensors", {"meta": json.dumps({"from": "there"})})
    tensors, meta = read_weights(tmp_path / "other.safetensors")
    assert meta == {"from": "there"} and torch.equal(tensors["w"], torch.ones(2))


def test_an_encoder_that_its_store_calls_damaged_is_refused(tmp_path):
    "Also one that was stored before weights had checksums of their own."
    from safetensors.torch import load_file, save_file

    network = models.build("r3d_tiny")
    file = save_weights(network, tmp_path / "weights.safetensors")
    save_file(load_file(file), file, {"meta": "{}"})
    about = dict(bytes=file.stat().st_size, sha256=runs.sha256(file))
    record = {"recipe": {}, "files": {file.name: about}}
    (tmp_path / "result.json").write_text(json.dumps(record | {"checksum": records.checksum(record)}))
    assert own.load_encoder(tmp_path, "r3d_tiny").name == "r3d_tiny"
    file.write_bytes(flipped(file.read_bytes(), about["bytes"] - 2000, 6))
    with pytest.raises(WeightsError, match="does not match its checksum in result.json"):
        own.load_encoder(tmp_path, "r3d_tiny")
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(WeightsError, match="nothing vouches for this file"):
        own.load_encoder(file, "r3d_tiny")


# ---------------------------------------------------------------- decoded clips


@pytest.fixture
def stored(tmp_path, monkeypatch, puppets_root):
    "A function that gives all frames of a set from the cache on disk, and the folder of the cache."
    monkeypatch.setenv("MVNB_PATHS_CACHE", str(tmp_path / "cache"))
    index = datasets.load("puppets-u", "train", root=puppets_root, scale=0.12).limit(1)

    def frames():
        made = clips.ClipDataset(index, 4, 2, 32, cache="disk", motion=True).decoded()
        return [np.array(one) for one in made.frames], [np.array(one) for one in made.motion]

    frames()
    (folder,) = (file.parent for file in (tmp_path / "cache" / "clips").glob("*/index.json"))
    return frames, folder


@pytest.mark.parametrize("name", ["frames.bin", "motion.bin", "index.json"])
def test_decoded_clips_are_verified_and_made_again(stored, name):
    frames, folder = stored
    good = frames()
    data = (folder / name).read_bytes()
    for at, bit in [(0, 7), (len(data) // 2, 0), (len(data) - 1, 3), (len(data) // 3, 5)]:
        (folder / name).unlink()
        (folder / name).write_bytes(flipped(data, at, bit))
        for found, wanted in zip(frames(), good):
            assert all(np.array_equal(a, b) for a, b in zip(found, wanted))
        assert (folder / name).read_bytes() == data


@pytest.mark.parametrize("edit", [dict(shapes=[[1, 2]]), dict(sums={}), dict(format=2)])
def test_an_index_that_says_something_else_is_not_taken(stored, edit):
    import zlib

    frames, folder = stored
    good, file = frames(), folder / "index.json"
    meta = json.loads(file.read_text()[8:])
    file.write_text(json.dumps(meta | edit))  # without its checksum
    assert all(np.array_equal(a, b) for a, b in zip(frames()[0], good[0]))
    text = json.dumps(meta | dict(format=2))
    file.write_text(f"{zlib.crc32(text.encode()):08x}{text}")  # of another version
    assert all(np.array_equal(a, b) for a, b in zip(frames()[0], good[0]))


def test_hashes_in_the_origin_of_older_files_are_no_checksums(tmp_path):
    from safetensors.torch import save_file

    meta = {"videos": {"hash": 64 * "a"}, "hash": 64 * "0"}
    save_file({"w": torch.ones(2)}, tmp_path / "older.safetensors", {"meta": json.dumps(meta)})
    assert read_weights(tmp_path / "older.safetensors")[1] == meta


# ---------------------------------------------------------------- what killed processes leave


def test_halves_of_a_cache_go_when_it_is_written_again(stored):
    frames, folder = stored
    good = frames()
    (folder / "index.json").unlink()
    for left in (f"{folder.name}.abc", f".{folder.name}.xyz"):  # of earlier versions, and of this one
        (folder.parent / left).mkdir()
        (folder.parent / left / "frames.bin").write_bytes(bytes(1000))
    other = folder.parent / f".{folder.name}0.xyz"  # of another set
    other.mkdir()
    assert all(np.array_equal(a, b) for a, b in zip(frames()[0], good[0]))
    assert sorted(p.name for p in folder.parent.iterdir() if p.is_dir()) == sorted([folder.name, other.name])


def test_a_half_of_a_drawing_goes_too(tmp_path, monkeypatch):
    monkeypatch.setenv("MVNB_PATHS_CACHE", str(tmp_path))
    drawing = puppets.Drawing("puppets-u", "train", 2)
    first = np.array(puppets.kept(drawing, 16, (0, 1), progress=False))
    (folder,) = [p for p in (tmp_path / "drawn").iterdir() if p.is_dir()]
    (folder / "array.json").unlink()
    (folder.parent / f".{folder.name}.killed").mkdir()
    assert np.array_equal(puppets.kept(drawing, 16, (0, 1), progress=False), first)
    assert [p for p in (tmp_path / "drawn").iterdir() if p.is_dir()] == [folder]


def test_a_complete_cache_is_used_where_nothing_can_be_written(stored, monkeypatch):
    frames, _ = stored
    good = frames()

    def refused(*args, **more):
        raise PermissionError("read-only file system")

    monkeypatch.setattr(settings, "FileLock", refused)
    assert all(np.array_equal(a, b) for a, b in zip(frames()[0], good[0]))
