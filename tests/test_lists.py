"Lists, folders and names as people have them: what is refused, by file and line, and what must not be lost."

import csv
import os
from pathlib import Path

import numpy as np
import pytest

from mvnb import cli, datasets, models, own, protocols, settings, train, video
from mvnb.datasets import DatasetError


def touch(root, *paths):
    for path in paths:
        file = Path(root, path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")


def film(path, seed=0):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (12, 48, 48, 3))
    video.write_video(path, noise.astype(np.uint8), codec="mpeg4")


@pytest.fixture
def ucf(tmp_path):
    "Six videos of two classes, with lists like UCF101's; returns a function that writes the test list."
    lists = tmp_path / "lists"
    lists.mkdir()
    names = [f"{c}/v_{c}_g0{k}_c01.avi" for c in ("Archery", "Surfing") for k in (1, 2, 3)]
    for seed, name in enumerate(names):
        film(tmp_path / "videos" / name, seed)
    (lists / "classInd.txt").write_text("1 Archery\n2 Surfing\n")
    number = {name: 1 + name.startswith("Surfing") for name in names}
    (lists / "trainlist01.txt").write_text("".join(f"{name} {number[name]}\n" for name in names))

    def load(split="test", line="{name}\n"):
        text = "".join(line.format(name=name, stem=name[:-4], number=number[name]) for name in names)
        (lists / "testlist01.txt").write_text(text)
        return datasets.load("ucf101", split, root=tmp_path / "videos", annotations=lists)

    return load


# ---------------------------------------------------------------- lists


@pytest.mark.parametrize("line", ["{name}\n", "{name} {number}\n", "  {name}  {number}  \r\n"])
def test_a_test_list_may_have_numbers_behind_spaces(ucf, line):
    index = ucf(line=line)
    assert len(index) == 6 and not index.missing() and index.counts().tolist() == [3, 3]


@pytest.mark.parametrize("mark", ["\t", ",", ", ", ";", "\t\t", " , "])
def test_another_mark_before_the_number_is_refused_by_line(ucf, mark):
    with pytest.raises(DatasetError, match=r"testlist01\.txt, line 1: expected a"):
        ucf(line="{name}" + mark + "{number}\n")


def test_hostile_lines_get_a_short_sentence(ucf, tmp_path):
    for line, word in (
        ("{name}" + 10_000_000 * "a" + "\n", "10,000,0"),
        ("a\0b/{name}\n", "control character"),
        ("a\x1b]0;owned\x07/{name}\n", "control character"),
        ("Archery/../../{name}\n", "outside"),
        (3000 * "x/" + "{name}\n", "characters on one line"),
        ("Archery/" + 1000 * "x/" + "../{name}\n", "outside"),
    ):
        with pytest.raises(DatasetError) as error:
            ucf(line=line)
        said = str(error.value)
        assert word in said and "line 1" in said and len(said) < 600, said
        assert settings.printable(said) == said


def test_hostile_json_and_csv_get_a_short_sentence(tmp_path):
    touch(tmp_path, "videos/train/a/1.mp4")
    (tmp_path / "lists").mkdir()
    rows = f"label,youtube_id,time_start,time_end,split\na,{10_000_000 * 'x'},0,10,train\n"
    (tmp_path / "lists" / "train.csv").write_text(rows)
    with pytest.raises(DatasetError) as error:
        datasets.load("kinetics400", "train", root=tmp_path / "videos", annotations=tmp_path / "lists")
    assert "line 2" in str(error.value) and len(str(error.value)) < 600


@pytest.mark.parametrize(
    "name, changed",
    [
        ("ssv2", {"train.json": 100_000 * "["}),
        ("ssv2", {"train.json": '[{"id": ' + 5000 * "9" + ', "template": "Holding [something]"}]'}),
        ("ssv2", {"train.json": '[{"id": "\\u001b]0;owned\\u0007", "template": "Holding [something]"}]'}),
        ("ssv2", {"train.json": '[{"id": "\\ud800", "template": "Holding [something]"}]'}),
        ("ssv2", {"train.json": '[{"id": "7", "template": "Holding [' + 90_000 * "a" + ']"}]'}),
        ("ssv2", {"labels.json": '{"Holding something\\u009b": "0"}'}),
        ("diving48", {"Diving48_vocab.json": '[["Back\\u0085", "15som"]]'}),
        ("diving48", {"Diving48_V2_train.json": '[{"vid_name": "' + 90_000 * "a" + '", "label": 1}]'}),
        ("kinetics400", {"train.csv": "label,youtube_id,time_start,time_end\n" + 99_000 * "a" + ",7,0,10\n"}),
        ("kinetics400", {"train.csv": "label,youtube_id,time_start,time_end\nrun\x85,7,0,10\n"}),
        ("kinetics400", {"train.csv": '"label,youtube_id,time_start,time_end\nrun,7,0,10\n'}),
    ],
)
def test_lists_that_no_parser_is_made_for_get_a_short_sentence(tmp_path, name, changed):
    sound = {
        "ssv2": {
            "labels.json": '{"Holding something": "0"}',
            "train.json": '[{"id": "7", "template": "Holding [something]"}]',
        },
        "diving48": {
            "Diving48_vocab.json": '[["Back", "15som"]]',
            "Diving48_V2_train.json": '[{"vid_name": "7", "label": 0}]',
        },
        "kinetics400": {
            "label_map_k400.txt": "run\n",
            "train.csv": "label,youtube_id,time_start,time_end\nrun,7,0,10\n",
        },
    }[name]
    touch(tmp_path, "videos/train/run/7.mp4" if name == "kinetics400" else "videos/7.webm")
    lists = tmp_path / "lists"
    lists.mkdir()
    for lines in (sound, changed):
        for file, text in lines.items():
            (lists / file).write_text(text, encoding="utf-8")
        load = lambda: datasets.load(name, "train", root=tmp_path / "videos", annotations=lists)
        if lines is sound:
            assert len(load()) == 1
            continue
        with pytest.raises(DatasetError) as error:
            load()
        said = str(error.value)
        assert len(said) < 600 and settings.printable(said) == said and "\n" not in said


# ---------------------------------------------------------------- folders


@pytest.mark.parametrize(
    "names", [("Train", "Test"), ("training", "testing"), ("TRAIN", "VAL"), ("Training", "Validation")]
)
def test_splits_are_found_in_any_capitals(tmp_path, names):
    touch(tmp_path, *(f"{name}/{c}/1.mp4" for name in names for c in ("jump", "run")))
    first, second = (datasets.SPLIT_FOLDERS[name.casefold()] for name in names)
    for name, split in zip(names, (first, second)):
        index = datasets.load("folder", split, root=tmp_path)
        assert index.classes == ("jump", "run") and list(index.paths) == [
            f"{name}/{c}/1.mp4" for c in index.classes
        ]
    every = own.videos(tmp_path)
    assert tuple(every.classes) == ("jump", "run") and len(every) == 4


def test_two_folders_of_one_split_are_told(tmp_path):
    touch(tmp_path, "train/a/1.mp4", "Training/a/2.mp4", "test/a/3.mp4")
    with pytest.raises(DatasetError, match="'Training' and 'train' are its train split"):
        datasets.load("folder", "train", root=tmp_path)


def test_a_class_may_be_called_testing(tmp_path):
    touch(tmp_path, "Testing/1.mp4", "cooking/1.mp4")
    assert datasets.load("folder", "all", root=tmp_path).classes == ("Testing", "cooking")


def test_kinetics_finds_its_split_in_any_capitals(tmp_path):
    touch(tmp_path, "Train/abseiling/1.mp4", "VAL/zumba/2.mp4", "Compress/Test_256/3.mp4")
    for split, count in (("train", 1), ("val", 1), ("test", 1)):
        assert len(datasets.load("kinetics400", split, root=tmp_path)) == count


# ---------------------------------------------------------------- one name, several files


def test_files_of_one_name_in_several_classes_are_several_videos(tmp_path):
    touch(tmp_path, *(f"train/{c}/{n}.mp4" for c in ("abseiling", "zumba") for n in ("001", "002")))
    index = datasets.load("kinetics400", "train", root=tmp_path)
    assert len(index) == 4 and index.counts().tolist() == [2, 2]


def test_a_csv_finds_the_file_in_the_folder_of_its_class(tmp_path):
    root, lists = tmp_path / "videos", tmp_path / "lists"
    touch(root, "train/abseiling/id.mp4", "train/zumba/id.mp4")
    lists.mkdir()
    (lists / "train.csv").write_text("label,youtube_id,time_start,time_end,split\nzumba,id,0,10,train\n")
    index = datasets.load("kinetics400", "train", root=root, annotations=lists)
    assert list(index.paths) == ["train/zumba/id.mp4"]


def test_a_csv_that_cannot_tell_is_an_error(tmp_path):
    root, lists = tmp_path / "videos", tmp_path / "lists"
    touch(root, "train/abseiling/id.mp4", "train/zumba/id.mp4")
    lists.mkdir()
    (lists / "train.csv").write_text("label,youtube_id,time_start,time_end,split\nyoga,id,0,10,train\n")
    with pytest.raises(DatasetError, match=r"train\.csv, line 2: its file may be .*abseiling.* and .*zumba"):
        datasets.load("kinetics400", "train", root=root, annotations=lists)


@pytest.mark.parametrize("name", ["ssv2", "diving48"])
def test_lists_without_folders_need_one_file_of_each_name(tmp_path, name):
    root, lists = tmp_path / "videos", tmp_path / "lists"
    touch(root, "a/7.webm", "b/7.webm")
    lists.mkdir()
    if name == "ssv2":
        (lists / "labels.json").write_text('{"Holding something": "0"}')
        (lists / "train.json").write_text('[{"id": "7", "template": "Holding [something]"}]')
    else:
        (lists / "Diving48_vocab.json").write_text('[["Back", "15som"]]')
        (lists / "Diving48_V2_train.json").write_text('[{"vid_name": "7", "label": 0}]')
    with pytest.raises(DatasetError, match="entry 1: its file may be 'a/7.webm' and 'b/7.webm'"):
        datasets.load(name, "train", root=root, annotations=lists)
    (root / "b" / "7.webm").unlink()
    assert list(datasets.load(name, "train", root=root, annotations=lists).paths) == ["a/7.webm"]


# ---------------------------------------------------------------- nothing to measure

HOW = protocols.Protocol(train.Schedule(1, 4, max_steps=1), length=4, stride=1, size=32, views=2)


@pytest.mark.parametrize("protocol", [protocols.finetune, protocols.linear_probe, protocols.retrieve])
def test_a_test_set_that_cannot_be_read_is_no_result(ucf, tmp_path, protocol):
    gone, index = ucf(line="{stem}_gone.avi\n"), ucf("train")
    network = models.build("r3d_tiny")
    with pytest.raises(ValueError, match="none of the 6 videos of ucf101 test can be read.*no such file"):
        protocol(network, index, gone, HOW, folder=tmp_path / "run", device="cpu", progress=False)
    assert not list((tmp_path / "run").rglob("*.csv")) or protocol is not protocols.retrieve


# ---------------------------------------------------------------- names that are no text

LATIN = os.fsdecode(b"caf\xe9.avi")
ESCAPE = "x\x1b]0;owned\x07.avi"


@pytest.mark.parametrize("protocol", [protocols.finetune, protocols.linear_probe, protocols.retrieve])
def test_names_survive_to_the_end_of_an_evaluation(tmp_path, protocol):
    for seed, name in enumerate(("a/1.avi", "a/2.avi", "b/1.avi", "b/2.avi")):
        film(tmp_path / "videos" / name, seed)
    os.rename(tmp_path / "videos/a/1.avi", tmp_path / "videos/a" / LATIN)
    index = datasets.load("folder", "all", root=tmp_path / "videos")
    found = protocol(
        models.build("r3d_tiny"), index, index, HOW, folder=tmp_path / "run", device="cpu", progress=False
    )
    assert found["test"]["n"] == 4
    (file,) = (tmp_path / "run" / "predictions").glob("*.csv")
    with open(file, newline="", encoding="utf-8", errors="surrogateescape") as lines:
        paths = [line["path"] for line in csv.DictReader(lines)]
    assert f"a/{LATIN}" in paths and sorted(paths) == sorted(index.paths)


@pytest.mark.parametrize("good", [True, False])
def test_names_cannot_do_anything_to_the_terminal(tmp_path, capsys, good):
    for name in (LATIN, ESCAPE):
        path = tmp_path / "f" / "a" / name
        if good:
            film(path)
        else:
            touch(tmp_path, path)
        cli.main(["probe", str(path)])
    touch(tmp_path, "f/b/1.avi")
    cli.main(["data", "check", "folder", "--root", str(tmp_path / "f")])
    said = "".join(capsys.readouterr())
    assert "\x1b" not in said and "\x07" not in said and "owned" in said and "caf\ufffd.avi" in said
    said.encode()


def test_an_ascii_terminal_gets_numbers_for_its_missing_signs(tmp_path):
    from mvnb.cli import _forgiving

    with open(tmp_path / "out", "w", encoding="ascii") as terminal:
        _forgiving(terminal)
        print("48×48, caf\ufffd", file=terminal)
    assert (tmp_path / "out").read_bytes() == b"48\\xd748, caf\\ufffd\n"
