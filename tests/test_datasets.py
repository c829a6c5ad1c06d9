"""Data sets: official lists against counts taken by hand, hostile lists, real file names, checking a root."""

import csv
import hashlib
import json
import os
import pickle
import posixpath
import re
import subprocess
import sys
import types
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings as hsettings, strategies as st

from mvnb import datasets, puppets
from mvnb.datasets import DatasetError, Index, Paths, load

NASTY = [
    "(HQ)_a - b!.avi",
    "c [x] {y}+1.avi",
    "50% off #1 & 'q'.avi",
    "naïve Ünïcode 跳.avi",
    "a..b.avi",
    "-dash.avi",
    "two  spaces 3.avi",
]


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        data = (
            text
            if isinstance(text, bytes)
            else text.encode()
            if isinstance(text, str)
            else json.dumps(text).encode()
        )
        (folder / name.replace("__", ".")).write_bytes(data)
    return folder


def ucf(folder, train, test=b"", classes="1 Kick\n2 Wave\n"):
    return write(folder, classInd__txt=classes, trainlist01__txt=train, testlist01__txt=test)


# ---- paths and index


@hsettings(max_examples=100, deadline=None)
@given(st.lists(st.text(st.characters(exclude_characters="\0"), max_size=12), max_size=20))
def test_paths_behave_like_the_list_they_were_made_of(names):
    names = [
        n.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
        for n in names
        if _encodable(n)
    ]
    packed = Paths(names)
    assert list(packed) == names and len(packed) == len(names)
    assert packed[1:4] == names[1:4] and packed[::-1] == names[::-1]
    assert [packed[-i - 1] for i in range(len(names))] == names[::-1]
    for i in (len(names), -len(names) - 1):
        with pytest.raises(IndexError):
            packed[i]
    assert pickle.loads(pickle.dumps(packed)) == packed


def _encodable(text):
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def example(**changes):
    fields = dict(
        name="x",
        split="train",
        root="/here",
        paths=["a/1.avi", "b/2.avi"],
        labels=[0, 1],
        classes=("a", "b"),
        content="",
    )
    return Index(**{**fields, **changes})


def test_hash_ignores_the_root_and_sees_everything_else():
    same, base = example(root="/there"), example()
    assert base.hash == same.hash and base != same
    others = [
        example(name="y"),
        example(split="test"),
        example(paths=["a/1.avi", "b/3.avi"]),
        example(labels=[1, 1]),
        example(labels=[0, -1]),
        example(classes=("a", "c")),
        example(content="seed 1"),
        example(paths=["b/2.avi", "a/1.avi"], labels=[1, 0]),
        example(paths=["a/1.avib", "/2.avi"]),
    ]  # the same bytes, cut elsewhere
    assert len({base.hash, *(o.hash for o in others)}) == len(others) + 1


def test_hash_is_the_same_in_another_process_and_after_pickling():
    code = (
        "from mvnb.datasets import Index\n"
        "print(Index('x', 'train', '/z', ['a/1.avi', 'b/2.avi'], [0, 1], ('a', 'b')).hash)"
    )
    env = dict(os.environ, PYTHONHASHSEED="77")
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env
    ).stdout.split()[-1]
    assert out == example().hash == pickle.loads(pickle.dumps(example())).hash


def test_hash_by_its_definition():
    head = b'["x","train",["a","b"],""]'
    blob = (
        head
        + b"\0"
        + np.array([7, 14], "<i8").tobytes()
        + b"\0"
        + np.array([0, 1], "<i8").tobytes()
        + b"\0"
        + b"a/1.avib/2.avi"
    )
    assert example().hash == hashlib.sha256(blob).hexdigest()


def test_an_index_cannot_be_changed_or_contradict_itself():
    index = example()
    with pytest.raises(ValueError):
        index.labels[0] = 1
    with pytest.raises(AttributeError):
        index.split = "test"
    with pytest.raises(ValueError, match="2 paths but 1 labels"):
        example(labels=[0])
    for labels in ([0, 2], [-2, 0]):
        with pytest.raises(ValueError, match="labels must lie in"):
            example(labels=labels)


@hsettings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-1, 3), min_size=1, max_size=40), st.integers(1, 6), st.randoms())
def test_limit_and_subset_against_plain_lists(labels, k, rnd):
    index = Index("x", "train", "/r", [f"{i}.avi" for i in range(len(labels))], labels, "abcd")
    few = index.limit(k)
    have, want = Counter(few.labels.tolist()), Counter(labels)
    assert have == {c: min(n, k) for c, n in want.items()}
    positions = [int(p.split(".")[0]) for p in few.paths]
    assert positions == sorted(set(positions))
    assert all(labels[p] == l for p, l in zip(positions, few.labels))
    some = [rnd.randrange(len(labels)) for _ in range(5)]
    assert list(index.subset(some).paths) == [f"{i}.avi" for i in some]
    mask = np.array([rnd.random() < 0.5 for _ in labels])
    assert list(index.subset(mask).labels) == [l for l, m in zip(labels, mask) if m]
    with pytest.raises(IndexError):
        index.subset([len(labels)])


def test_limit_is_spread_over_the_class_and_must_be_positive():
    index = Index("x", "train", "/r", [f"{i}.avi" for i in range(9)], [0] * 9, "a")
    assert list(index.limit(3).paths) == ["0.avi", "4.avi", "8.avi"]
    with pytest.raises(ValueError, match="per_class"):
        index.limit(0)


def test_missing_lists_folders_once_and_names_what_is_absent(tmp_path, monkeypatch):
    touch(tmp_path, "a/1.avi", "b/2.avi")
    (tmp_path / "a/dir.avi").mkdir()
    os.symlink(tmp_path / "b/2.avi", tmp_path / "a/link.avi")
    os.symlink(tmp_path / "nowhere", tmp_path / "a/dangling.avi")
    paths = ["a/1.avi", "a/dir.avi", "a/link.avi", "a/dangling.avi", "b/2.avi", "b/3.avi", "c/4.avi"]
    index, calls, scandir = Index("x", "all", tmp_path, paths, [0] * 7, "a"), [], os.scandir
    monkeypatch.setattr(datasets.os, "scandir", lambda p: calls.append(p) or scandir(p))
    assert index.missing() == ["a/dir.avi", "a/dangling.avi", "b/3.avi", "c/4.avi"]
    assert len(calls) == 3
    assert list(index.present().paths) == ["a/1.avi", "a/link.avi", "b/2.avi"]


def test_manifest_is_json_and_counts(tmp_path):
    record = json.loads(json.dumps(example(labels=[1, -1]).manifest(files=True)))
    assert (
        record["counts"] == [0, 1]
        and record["videos"] == 2
        and record["files"] == [["a/1.avi", 1], ["b/2.avi", -1]]
    )


# ---- lists that are badly written


@pytest.mark.parametrize(
    "entry",
    [
        "../x.avi",
        "Kick/../../x.avi",
        "/etc/passwd",
        "Kick/..",
        "..",
        "C:\\x.avi",
        "C:/x.avi",
        "Kick\\..\\..\\x.avi",
        "\\\\host\\x.avi",
    ],
)
def test_entries_outside_the_root_are_refused_with_file_and_line(tmp_path, entry):
    lists = ucf(tmp_path, f"Kick/fine.avi 1\n{entry} 1\n")
    with pytest.raises(DatasetError, match=r"trainlist01.txt, line 2: .* outside the data root"):
        load("ucf101", root=tmp_path, annotations=lists)


@hsettings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["..", ".", "a", "b c", "", "x..y", "...", "~"]), min_size=1, max_size=6))
def test_what_inside_lets_through_stays_below_the_root(parts):
    text = "/".join(parts)
    escapes = text.startswith("/") or ".." in parts
    try:
        kept = datasets.inside(text, Path("list"), "line 1")
    except DatasetError:
        assert escapes
    else:
        assert not escapes and not os.path.relpath(posixpath.join("/root", kept), "/root").startswith("../")


def test_a_symbolic_link_below_the_root_is_fine(tmp_path):
    (tmp_path / "videos").mkdir()
    touch(tmp_path, "elsewhere/a.avi")
    os.symlink(tmp_path / "elsewhere", tmp_path / "videos/Kick")
    index = load("ucf101", root=tmp_path / "videos", annotations=ucf(tmp_path / "lists", "Kick/a.avi 1\n"))
    assert index.missing() == []


def test_line_ends_blank_lines_spaces_and_byte_order_mark_carry_no_meaning(tmp_path):
    plain = ucf(tmp_path / "a", "Kick/a.avi 1\nWave/b.avi 2\n")
    messy = ucf(
        tmp_path / "b",
        b"\xef\xbb\xbfKick/a.avi 1 \r\n\r\n  \r\nWave/b.avi   2\t\r\r\n",
        classes="\n1 Kick \r\n2  Wave",
    )
    assert (
        load("ucf101", root=tmp_path, annotations=plain).hash
        == load("ucf101", root=tmp_path, annotations=messy).hash
    )


@pytest.mark.parametrize("name", NASTY)
def test_awkward_names_come_through_every_reader(tmp_path, name):
    stem = name[:-4]
    touch(tmp_path, f"Kick/{name}", f"train/do it/{name}", f"some/{name}")
    found = [
        load("ucf101", root=tmp_path, annotations=ucf(tmp_path / "u", f"Kick/{name} 1\r\n")),
        load("ucf101", "test", root=tmp_path, annotations=ucf(tmp_path / "u", "", f"Kick/{name}\r\n")),
        load(
            "hmdb51", root=tmp_path, annotations=write(tmp_path / "h", Kick_test_split1__txt=f"{name} 1 \n")
        ),
        load(
            "ssv2",
            root=tmp_path / "some",
            annotations=write(
                tmp_path / "s", labels__json={"T": "0"}, train__json=[{"id": stem, "template": "T"}]
            ),
        ),
        load(
            "diving48",
            root=tmp_path / "some",
            annotations=write(
                tmp_path / "d",
                Diving48_vocab__json=[["A", "B"]],
                Diving48_V2_train__json=[{"vid_name": stem, "label": 0}],
            ),
        ),
        load("kinetics400", root=tmp_path),
        load("folder", root=tmp_path / "train", split="all"),
    ]
    for index in found:
        assert index.missing() == [] and index.path(0).name == name and index.path(0).is_file()


@pytest.mark.parametrize(
    "train,classes,what",
    [
        ("Kick/a.avi 3\n", "1 Kick\n2 Wave\n", "line 1: class 3 is not in classInd.txt"),
        ("Kick/a.avi 1\nKick/b.avi\n", "1 Kick\n2 Wave\n", "line 2: expected a path and a class number"),
        ("Kick/a.avi 2\n", "1 Kick\n2 Wave\n", "another class's folder"),
        ("Kick/a.avi 1\n", "Kick 1\n", "classInd.txt, line 1: expected a number"),
        ("Kick/a.avi 1\n", "1 Kick\n1 Wave\n", "classInd.txt, line 2: class 1 is there twice"),
        ("Kick/a.avi 1\n", "\n", "classInd.txt: no classes"),
        ("\n\n", "1 Kick\n", "no video of ucf101 train"),
        (
            "x/a.avi 1\nx/a.avi 2\n",
            "1 Kick\n2 Wave\n",
            "line 2: 'x/a.avi' was listed before with another class",
        ),
        (b"\xff\xfeK\0i\0", "1 Kick\n", "not UTF-8 text"),
    ],
)
def test_what_is_wrong_in_a_ucf_list_is_said(tmp_path, train, classes, what):
    with pytest.raises(DatasetError) as e:
        load("ucf101", root=tmp_path, annotations=ucf(tmp_path, train, classes=classes))
    assert what in str(e.value) and "\n" not in str(e.value)


def test_a_test_list_needs_a_class_folder_and_tolerates_a_number(tmp_path):
    with pytest.raises(DatasetError, match="line 1: expected a path that starts with a class"):
        load("ucf101", "test", root=tmp_path, annotations=ucf(tmp_path, "", "Jump/a.avi\n"))
    assert list(
        load("ucf101", "test", root=tmp_path, annotations=ucf(tmp_path, "", "Wave/a.avi 2\n")).labels
    ) == [1]


def test_repeated_entries_are_dropped_with_a_warning(tmp_path):
    with pytest.warns(UserWarning, match="1 repeated entries"):
        index = load(
            "ucf101", root=tmp_path, annotations=ucf(tmp_path, "Kick/a.avi 1\nKick/./a.avi 1\nKick/b.avi 1\n")
        )
    assert list(index.paths) == ["Kick/a.avi", "Kick/b.avi"]


@pytest.mark.parametrize("text", ["a.avi 3 \n", "a.avi\n", "a.avi one\n"])
def test_hmdb_flags(tmp_path, text):
    with pytest.raises(
        DatasetError, match=r"wave_test_split1.txt, line 1: expected a file name and 0, 1 or 2"
    ):
        load("hmdb51", root=tmp_path, annotations=write(tmp_path, wave_test_split1__txt=text))


def test_hmdb_folds_are_kept_apart(tmp_path):
    lists = write(
        tmp_path,
        a_test_split1__txt="x.avi 1\ny.avi 2\nz.avi 0\n",
        a_test_split2__txt="x.avi 2\ny.avi 1\nz.avi 1\n",
    )
    paths = lambda split, fold: list(load("hmdb51", split, fold, root=tmp_path, annotations=lists).paths)
    assert (paths("train", 1), paths("test", 1)) == (["a/x.avi"], ["a/y.avi"])
    assert (paths("train", 2), paths("test", 2)) == (["a/y.avi", "a/z.avi"], ["a/x.avi"])
    with pytest.raises(DatasetError, match="no file named <class>_test_split3.txt"):
        paths("train", 3)


# ---- doors that stay shut


def test_unknown_names_splits_folds_and_unset_roots(tmp_path, monkeypatch):
    for name in ("HMDB51", "UCF101", "PATAN"):
        monkeypatch.delenv(f"MVNB_DATA_{name}", raising=False)
    monkeypatch.setenv("MVNB_ROOT", str(write(tmp_path / "empty", settings__ini="[data]\n")))
    cases = [
        (("ufc101",), {}, "did you mean 'ucf101'"),
        (("nonsense!",), {}, "there are ucf101"),
        (("ucf101", "val"), {}, "it has train, test"),
        (("ucf101", "train", 4), {}, "no fold 4"),
        (("ssv2", "train", 2), {}, "no fold 2"),
        (("hmdb51",), {}, "set hmdb51 = FOLDER under [data] in settings.local.ini, or MVNB_DATA_HMDB51"),
        (("hmdb51",), dict(root=tmp_path), "set hmdb51_annotations = FOLDER"),
        (("ucf14-hmdb7-target", "test"), {}, "set hmdb51 = FOLDER"),
        (("ucf14-hmdb7-source",), {}, "set ucf101 = FOLDER"),
        (("hmdb14-ucf7-target", "test"), dict(root=tmp_path), "set patan_annotations = FOLDER"),
        (
            ("hmdb51",),
            dict(root=tmp_path / "none", annotations=tmp_path),
            "no such folder for the videos of hmdb51",
        ),
        (("ucf101",), dict(root=tmp_path, annotations=tmp_path), "classInd.txt: cannot be read"),
    ]
    for args, kw, what in cases:
        with pytest.raises(DatasetError) as e:
            load(*args, **kw)
        assert what in str(e.value), (args, str(e.value))


def test_settings_lead_to_the_ordinary_reader(tmp_path, monkeypatch):
    lists = ucf(tmp_path / "lists", "Kick/a.avi 1\n", "Wave/b.avi\n")
    monkeypatch.setenv("MVNB_DATA_UCF101", str(tmp_path / "gone"))
    assert not datasets.configured("ucf101") and datasets.configured("puppets-u")
    monkeypatch.setenv("MVNB_DATA_UCF101", str(tmp_path))
    monkeypatch.setenv("MVNB_DATA_UCF101_ANNOTATIONS", str(lists))
    assert datasets.configured("ucf101")
    assert load("ucf101", "test").path(0) == tmp_path / "Wave/b.avi"


# ---- folders


def test_folder_splits_share_their_class_numbers(tmp_path):
    touch(
        tmp_path,
        "train/b/1.mp4",
        "train/a/2.mkv",
        "test/b/3.MP4",
        "test/.c/4.mp4",
        "test/d/readme.txt",
        "train/a/.5.mp4",
        "train/a/deep/er/6.avi",
    )
    train, test = load("folder", root=tmp_path), load("folder", "test", root=tmp_path)
    assert train.classes == test.classes == ("a", "b")
    assert dict(zip(train.paths, train.labels)) == {
        "train/a/2.mkv": 0,
        "train/a/deep/er/6.avi": 0,
        "train/b/1.mp4": 1,
    }
    assert dict(zip(test.paths, test.labels)) == {"test/b/3.MP4": 1}
    with pytest.raises(DatasetError, match="no folder 'val' .*it has train, test"):
        load("folder", "val", root=tmp_path)


def test_a_folder_without_splits_never_serves_as_its_own_test(tmp_path):
    touch(tmp_path, "a/1.mp4")
    assert len(load("folder", "all", root=tmp_path)) == len(load("folder", root=tmp_path)) == 1
    with pytest.raises(DatasetError, match="it has no splits"):
        load("folder", "test", root=tmp_path)


def test_an_empty_folder_and_a_loop_of_links(tmp_path):
    with pytest.raises(DatasetError, match="no class folder with a video"):
        load("folder", root=tmp_path)
    touch(tmp_path, "a/1.mp4")
    os.symlink(tmp_path, tmp_path / "a/loop")
    assert len(load("folder", root=tmp_path)) >= 1  # ends


# ---- Kinetics and its daughter

HEADER = "label,youtube_id,time_start,time_end,split\n"


def test_kinetics_csv_finds_files_however_they_are_named(tmp_path):
    ids = ["-aaaaaaaaaa", "b_bbbbbbb-b", "ccccccccccc", "ddddddddddd"]
    touch(
        tmp_path,
        f"train/riding_a_bike/{ids[0]}_000003_000013.mp4",
        f"train/massaging_persons_head/{ids[1]}.mkv",
        f"train/riding_a_bike/{ids[2]}_000099_000109.mp4",
    )
    rows = [
        ("riding a bike", 3, 13),
        ("massaging person's head", 7, 17),
        ("riding a bike", 1, 11),
        ("riding a bike", 0, 10),
    ]
    text = HEADER + "".join(f'"{l}",{i},{s},{e},train\r\n' for i, (l, s, e) in zip(ids, rows))
    lists = write(
        tmp_path / "lists",
        train__csv=text,
        label_map_k400__txt="abseiling\nmassaging person's head\nriding a bike\n",
    )
    index = load("kinetics400", root=tmp_path, annotations=lists)
    assert list(index.labels) == [2, 1, 2, 2]
    assert index.missing() == [
        f"train/riding_a_bike/{ids[2]}_000001_000011.mp4",
        f"train/riding_a_bike/{ids[3]}_000000_000010.mp4",
    ]
    assert list(index.present().paths) == [
        f"train/riding_a_bike/{ids[0]}_000003_000013.mp4",
        f"train/massaging_persons_head/{ids[1]}.mkv",
    ]


def test_kinetics_folders_with_spaces_or_underscores_number_alike(tmp_path):
    touch(tmp_path / "a", "train/riding a bike/x.mp4", "train/abseiling/y.mp4", "val/yoga/z.mp4")
    touch(tmp_path / "b", "train/riding_a_bike/x.mp4", "train/abseiling/y.mp4", "val/yoga/z.mp4")
    one, two = (load("kinetics400", root=tmp_path / k) for k in "ab")
    assert one.classes == two.classes == ("abseiling", "riding a bike", "yoga") and list(one.labels) == list(
        two.labels
    )
    assert load("kinetics400", "val", root=tmp_path / "a").labels.tolist() == [2]


def test_kinetics_flat_folder_and_test_list_without_labels(tmp_path):
    touch(tmp_path, "val/aaaaaaaaaaa.mp4", "other/q.mp4")
    lists = write(
        tmp_path / "lists",
        val__csv=HEADER + "yoga,aaaaaaaaaaa,1,11,val\nyoga,bbbbbbbbbbb,2,12,val\n",
        test__csv="youtube_id,time_start,time_end,split\nccccccccccc,1,11,test\n",
    )
    index = load("kinetics400", "val", root=tmp_path, annotations=lists)
    assert list(index.paths) == ["val/aaaaaaaaaaa.mp4", "val/bbbbbbbbbbb.mp4"]
    assert load("kinetics400", "test", root=tmp_path, annotations=lists).labels.tolist() == [-1]


@pytest.mark.parametrize(
    "text,what",
    [
        ("a,b\n1,2\n", "line 1: no column youtube_id, time_start, time_end"),
        ("", "line 1: no column"),
        (HEADER + "yoga,abc,1,11,train\nyoga,abd,one,11,train\n", "line 3: not a row"),
        (HEADER + "yoga\n", "line 2: not a row"),
        (HEADER + "yoga,../../x,1,11,train\n", "line 2: .* outside the data root"),
        (HEADER + "yoga,,1,11,train\n", "line 2: not a row"),
        (HEADER + 'yoga,"abc,1,11,train\n', "not a row"),
        (HEADER + "jump,abc,1,11,train\n", "line 2: class 'jump' is not among the 1"),
    ],
)
def test_what_is_wrong_in_a_kinetics_csv_is_said(tmp_path, text, what):
    touch(tmp_path, "train/yoga/zzz_000001_000011.mp4")
    with pytest.raises(DatasetError, match=what):
        load(
            "kinetics400",
            root=tmp_path,
            annotations=write(tmp_path / "l", train__csv=text, label_map_k400__txt="yoga\n"),
        )


def test_a_folder_that_the_label_map_does_not_know(tmp_path):
    touch(tmp_path, "train/juggling/x.mp4")
    with pytest.raises(DatasetError, match="juggling"):
        load("kinetics400", root=tmp_path, annotations=write(tmp_path / "l", label_map_k400__txt="yoga\n"))
    with pytest.raises(DatasetError, match="no folder 'val'"):
        load("kinetics400", "val", root=tmp_path)


@pytest.mark.parametrize("with_csv", [True, False])
def test_minikinetics_joins_ids_with_csv_or_folders(tmp_path, with_csv):
    touch(
        tmp_path,
        "train/riding_a_bike/-aaaaaaaaaa_000003_000013.mp4",
        "val/yoga/bbbbbbbbbbb.mp4",
        "train/sneezing/unlisted.mp4",
    )
    lists = write(
        tmp_path / "l",
        train_ytid_list__txt="-aaaaaaaaaa\r\nccccccccccc\r\n",
        val_ytid_list__txt="bbbbbbbbbbb\n",
    )
    if with_csv:
        write(
            lists,
            train__csv=HEADER
            + "riding a bike,-aaaaaaaaaa,3,13,train\nabseiling,ccccccccccc,5,15,train\n"
            + "sneezing,unlisted,1,11,train\n",
            validate__csv=HEADER + "yoga,bbbbbbbbbbb,0,10,val\n",
        )
    train, val = (load("minikinetics200", s, root=tmp_path, annotations=lists) for s in ("train", "val"))
    classes = ("abseiling", "riding a bike", "yoga") if with_csv else ("riding a bike", "yoga")
    assert train.classes == val.classes == classes
    assert [classes[l] if l >= 0 else None for l in train.labels] == [
        "riding a bike",
        "abseiling" if with_csv else None,
    ]
    assert train.path(0).is_file() and len(train.missing()) == 1
    assert list(val.paths) == ["val/yoga/bbbbbbbbbbb.mp4"]


def test_minikinetics_without_kinetics_says_so(tmp_path):
    with pytest.raises(DatasetError, match="none of its ids"):
        load(
            "minikinetics200",
            root=tmp_path,
            annotations=write(tmp_path / "l", train_ytid_list__txt="aaaaaaaaaaa\n"),
        )


# ---- JSON lists


@pytest.mark.parametrize(
    "labels,train,what",
    [
        (
            {"T": "0"},
            [{"id": "1", "template": "[U]"}],
            r"template '\[U\]' of video '1' is not in labels.json",
        ),
        ({"T": "0"}, [{"id": "1"}], "has no id or template"),
        ({"T": "0"}, {"id": "1", "template": "T"}, "expected a list"),
        ({"T": "0"}, ["x"], "expected a list"),
        ({"T": "1"}, [], "numbers 0, 1, 2"),
        (["T"], [], "numbers 0, 1, 2"),
        ({"T": "0"}, b"[{", "not valid JSON"),
        ({"T": "0"}, [{"id": "../../x", "template": "T"}], "entry 1: .* outside the data root"),
        ({"T": "0"}, [], "no video of ssv2 train"),
    ],
)
def test_what_is_wrong_in_a_something_list_is_said(tmp_path, labels, train, what):
    with pytest.raises(DatasetError, match=what):
        load("ssv2", root=tmp_path, annotations=write(tmp_path, labels__json=labels, train__json=train))


def test_something_finds_either_extension_and_a_folder_below(tmp_path):
    touch(
        tmp_path,
        "20bn-something-something-v2/1.webm",
        "20bn-something-something-v2/2.mp4",
        "20bn-something-something-v2/9.webm",
    )
    lists = write(
        tmp_path / "l",
        labels__json={"Holding something": "1", "Closing something": "0"},
        validation__json=[{"id": i, "template": "Holding [something]"} for i in "123"],
        test__json=[{"id": "9"}],
    )
    index = load("ssv2", "val", root=tmp_path, annotations=lists)
    assert [Path(p).name for p in index.paths] == ["1.webm", "2.mp4", "3.webm"] and index.missing() == [
        "20bn-something-something-v2/3.webm"
    ]
    assert index.classes == ("Closing something", "Holding something") and set(index.labels) == {1}
    assert load("ssv2", "test", root=tmp_path, annotations=lists).labels.tolist() == [-1]


@pytest.mark.parametrize(
    "entry,what",
    [
        ({"vid_name": "a", "label": 2}, "label 2 of 'a' is not among the 2 dives"),
        ({"label": 0}, "has no vid_name"),
        ({"vid_name": "a"}, "no label"),
        ({"vid_name": "../a", "label": 0}, "outside"),
    ],
)
def test_what_is_wrong_in_a_diving_list_is_said(tmp_path, entry, what):
    with pytest.raises(DatasetError, match=what):
        load(
            "diving48",
            root=tmp_path,
            annotations=write(tmp_path, diving48_vocab__json=[["a"], ["b"]], Diving48_V2_train__json=[entry]),
        )


def test_diving_takes_the_vocabulary_or_the_label_map(tmp_path):
    touch(tmp_path, "rgb/a_00001.mp4")
    lists = write(
        tmp_path / "l",
        label_map__txt="Back+PIKE\nInward+TUCK\n",
        Diving48_V2_test__json=[{"vid_name": "a_00001", "label": 1, "start_frame": 0, "end_frame": 9}],
    )
    index = load("diving48", "test", root=tmp_path, annotations=lists)
    assert list(index.paths) == ["rgb/a_00001.mp4"] and index.classes == ("Back+PIKE", "Inward+TUCK")
    assert (
        index.hash
        != load(
            "diving48",
            "test",
            root=tmp_path,
            annotations=write(lists, Diving48_vocab__json=[["Back", "TUCK"], ["Inward", "PIKE"]]),
        ).hash
    )


# ---- the official lists

OFFICIAL = {
    ("ucf101", "train", 1): 9537,
    ("ucf101", "test", 1): 3783,
    ("ucf101", "train", 2): 9586,
    ("ucf101", "test", 2): 3734,
    ("ucf101", "train", 3): 9624,
    ("ucf101", "test", 3): 3696,
    ("hmdb51", "train", 1): 3570,
    ("hmdb51", "test", 1): 1530,
    ("ssv2", "val", 1): 24777,
    ("ssv2", "test", 1): 27157,
    ("ucf14-hmdb7-source", "train", 1): 1324,
    ("ucf14-hmdb7-target", "train", 1): 490,
    ("ucf14-hmdb7-target", "test", 1): 210,
    ("hmdb14-ucf7-source", "train", 1): 980,
    ("hmdb14-ucf7-target", "train", 1): 658,
    ("hmdb14-ucf7-target", "test", 1): 266,
}


@pytest.mark.real
def test_official_lists_have_the_published_sizes(shared_data, tmp_path):
    folder = lambda name: {"ssv2": "something-something-v2"}.get(
        name, name if name in ("ucf101", "hmdb51") else "patan"
    )
    for (name, split, fold), n in OFFICIAL.items():
        index = load(name, split, fold, root=tmp_path, annotations=shared_data / "annotations" / folder(name))
        assert len(index) == n == len(set(index.paths)), (name, split, fold)
        assert len(index.missing()) == n
    with pytest.raises(DatasetError, match="has no test list in the official set"):
        load("hmdb14-ucf7-source", "test", root=tmp_path, annotations=shared_data / "annotations/patan")


@pytest.mark.real
def test_ucf_labels_agree_with_the_folders_and_splits_are_disjoint(shared_data, tmp_path):
    for fold in (1, 2, 3):
        train, test = (
            load("ucf101", s, fold, root=tmp_path, annotations=shared_data / "annotations/ucf101")
            for s in ("train", "test")
        )
        for index in (train, test):
            assert len(index.classes) == 101 and all(
                p.split("/")[0] == index.classes[l] for p, l in zip(index.paths, index.labels)
            )
        group = lambda p: re.match(r"(.*_g\d+)_c\d+", p)[1]
        assert not {group(p) for p in train.paths} & {group(p) for p in test.paths}


@pytest.mark.real
def test_adaptation_numbers_mean_the_same_on_both_sides(shared_data, tmp_path):
    lists = shared_data / "annotations/patan"
    for task, pairs in {
        "ucf14-hmdb7": dict(
            RockClimbingIndoor="climb",
            Diving="dive",
            Fencing="fencing",
            GolfSwing="golf",
            HandstandWalking="handstand",
            SoccerPenalty="kick_ball",
            PullUps="pullup",
        ),
        "hmdb14-ucf7": dict(
            shoot_bow="Archery",
            shoot_ball="Basketball",
            ride_bike="Biking",
            dive="Diving",
            fencing="Fencing",
            golf="GolfSwing",
            handstand="HandstandWalking",
        ),
    }.items():
        source = load(f"{task}-source", root=tmp_path, annotations=lists)
        target = load(f"{task}-target", "test", root=tmp_path, annotations=lists)
        assert (
            source.classes == target.classes
            and len(source.classes) == 14
            and set(source.labels) == set(range(14))
        )
        assert {source.classes[l]: p.split("/")[0] for p, l in zip(target.paths, target.labels)} == pairs
        assert set(target.labels) == set(range(7))


@pytest.mark.real
def test_kinetics_clips_through_the_official_label_map(shared_data, tmp_path):
    for name, source in {
        "val/using_segway/R6llTwEh07w.mp4": "R6llTwEh07w.mp4",
        "val/flipping pancake/x_000001_000011.mkv": "flipping_a_pancake.mkv",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True)
        os.symlink(shared_data / "clips/kinetics400" / source, tmp_path / name)
    index = load("kinetics400", "val", root=tmp_path, annotations=shared_data / "annotations/kinetics400")
    assert len(index.classes) == 400 and {index.classes[l] for l in index.labels} == {
        "using segway",
        "flipping pancake",
    }
    ids = shared_data / "annotations/mini-kinetics-200"
    first = (ids / "val_ytid_list.txt").read_text().split()[0]
    touch(tmp_path, f"val/using_segway/{first}.mp4")
    mini = load("minikinetics200", "val", root=tmp_path, annotations=ids)
    assert len(mini) == 5000 and len(mini.missing()) == 4999 and mini.path(0).is_file()


@pytest.mark.real
def test_the_small_real_set_is_read_by_the_ordinary_reader(shared_data, monkeypatch):
    monkeypatch.setenv("MVNB_DATA_UCF101", str(shared_data / "mini"))
    monkeypatch.setenv("MVNB_DATA_UCF101_ANNOTATIONS", str(shared_data / "annotations/mini"))
    with open(shared_data / "MANIFEST.csv", newline="") as f:
        truth = {
            r["path"][len("mini/") :]: r["class_label"]
            for r in csv.DictReader(f)
            if r["path"].startswith("mini/")
        }
    train, test = load("ucf101"), load("ucf101", "test")
    assert (
        (len(train), len(test), len(train.classes)) == (137, 58, 6)
        and not train.missing()
        and not test.missing()
    )
    assert {
        **dict(zip(train.paths, map(train.classes.__getitem__, train.labels))),
        **dict(zip(test.paths, map(test.classes.__getitem__, test.labels))),
    } == truth


# ---- puppets


def test_puppets_are_found_and_the_seed_is_in_the_hash(puppets_root):
    one, two = (load("puppets-d", "test-unbiased", root=puppets_root, seed=s, scale=0.02) for s in (0, 1))
    again = load("puppets-d", "test-unbiased", root=puppets_root, seed=0, scale=0.02)
    assert one.hash == again.hash != two.hash and one.missing() == []
    assert set(one.labels) <= set(range(len(one.classes))) and (one.counts() > 0).all()


# ---- checking a root


@pytest.fixture
def fake_probe(monkeypatch):
    "A stand-in for the decoder, by file content, so that each kind of outcome is met exactly."
    from mvnb import video

    def probe(path):
        text = Path(path).read_text()
        if text == "crash":
            os._exit(3)
        if text == "bug":
            raise RuntimeError("unforeseen")
        if not text:
            raise video.VideoError(path, "empty file")
        codec, frames, moving, *reason = text.split(maxsplit=3)
        return types.SimpleNamespace(
            codec=codec,
            frames=int(frames),
            mv_frames=int(moving) + 1,
            mv_blank=1,
            doubt="",
            reason="".join(reason),
        )

    monkeypatch.setattr(video, "probe", probe, raising=False)


def made_set(root, contents):
    for i, text in enumerate(contents):
        (root / "a").mkdir(exist_ok=True)
        (root / f"a/{i:03d}.mp4").write_text(text)
    return load("folder", "all", root=root)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_check_counts(tmp_path, fake_probe, workers):
    index = made_set(
        tmp_path,
        ["h264 10 9"] * 30
        + ["vp9 20 0 the vp9 decoder gives out no motion vectors"] * 5
        + [""] * 2
        + ["bug"],
    )
    (tmp_path / "a/004.mp4").unlink()
    report = datasets.check(index, workers=workers, progress=False)
    assert (report.listed, report.found, report.missing, report.checked, report.ok) == (
        38,
        37,
        ("a/004.mp4",),
        37,
        False,
    )
    assert report.unreadable == {
        "a/035.mp4": "empty file",
        "a/036.mp4": "empty file",
        "a/037.mp4": "RuntimeError: unforeseen",
    }
    assert {c: (n.files, n.moving, n.frames, n.mv_frames) for c, n in report.codecs.items()} == {
        "h264": (29, 29, 290, 261),
        "vp9": (5, 0, 100, 0),
    }
    text = str(report)
    assert all(part in text for part in ("a/035.mp4: empty file", "missing: a/004.mp4", index.hash, "h264"))
    assert datasets.check(index, workers=0, limit=10, progress=False).checked == 10


def test_a_file_that_crashes_the_decoder_is_named_and_the_rest_is_counted(tmp_path, fake_probe):
    index = made_set(
        tmp_path, ["h264 10 9"] * 20 + ["crash"] + ["h264 10 9"] * 20 + ["crash"] + ["h264 10 9"] * 20
    )
    report = datasets.check(index, workers=2, progress=False)
    assert report.unreadable == {
        "a/020.mp4": "the decoder crashed on it",
        "a/041.mp4": "the decoder crashed on it",
    }
    assert report.codecs["h264"].files == 60


def test_of_puppets_the_splits_that_are_files_are_checked(monkeypatch):
    monkeypatch.setattr(datasets, "load", lambda name, part, fold, **where: part)
    found, notes = datasets._all_splits("puppets-u", None, 1, {})
    assert tuple(found) == puppets.FILED and not notes


def test_check_by_name_takes_every_split_that_loads_and_says_which_does_not(tmp_path, fake_probe):
    (tmp_path / "Kick").mkdir()
    (tmp_path / "Kick/a.avi").write_text("mpeg4 5 4")
    lists = ucf(tmp_path / "l", "Kick/a.avi 1\n", "Jump/b.avi\n")
    report = datasets.check("ucf101", root=tmp_path, annotations=lists, workers=0, progress=False)
    assert (
        list(report.splits) == ["train"]
        and report.listed == 1
        and len(report.notes) == 1
        and report.notes[0].startswith("test: ")
    )
    with pytest.raises(DatasetError, match="line 1: expected a path that starts"):
        datasets.check("ucf101", "test", root=tmp_path, annotations=lists, progress=False)
    with pytest.raises(DatasetError, match="did you mean"):
        datasets.check("ufc101")


@pytest.mark.real
def test_check_on_real_files(shared_data):
    with open(shared_data / "MANIFEST.csv", newline="") as f:
        truth = {r["path"][len("clips/") :]: r for r in csv.DictReader(f) if r["path"].startswith("clips/")}
    index = load("folder", "all", root=shared_data / "clips")
    few = index.subset(
        [
            i
            for i, p in enumerate(index.paths)
            if p.split("/")[0] in ("hmdb51", "edge", "something-something-v2", "ucf11")
        ]
    )
    report = datasets.check(few, workers=2, progress=False)
    assert list(report.unreadable) == ["edge/corrupted.mp4"] and report.unreadable[
        "edge/corrupted.mp4"
    ].startswith("28 frames decode; ")
    good = [truth[p] for p in few.paths if p not in report.unreadable]
    assert report.codecs.keys() == {r["codec"] for r in good}
    for codec, n in report.codecs.items():
        rows = [r for r in good if r["codec"] == codec]
        assert (n.files, n.moving) == (len(rows), sum(r["motion_vectors"] == "yes" for r in rows))
        assert n.frames == sum(int(r["frames"]) for r in rows)
        assert (n.mv_frames > 0) == (n.moving > 0) and n.mv_frames <= sum(
            int(r["mv_frames"] or 0) for r in rows
        )  # some are placeholders


# ---- size


@pytest.mark.parametrize("name", ["ucf101", "kinetics400", "ssv2"])
def test_an_index_of_240000_videos_fits_in_300_megabytes(tmp_path, name):
    sys.path.insert(0, str(Path(__file__).parent.parent))
    try:
        from bench import datasets as bench
    finally:
        sys.path.pop(0)
    bench.write_lists(tmp_path)
    _, megabytes = bench.measure(name, tmp_path)
    assert megabytes < bench.MEGABYTES == 300
