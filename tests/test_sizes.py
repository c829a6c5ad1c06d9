"""Plans before the data are there: official sizes, folders that hold less, complaints told once."""

import json
import re

import pytest

from mvnb import batch, datasets, recipes, tables


def lines(path) -> int:
    return sum(bool(line.strip()) for line in path.read_text().splitlines())


def test_official_sizes_are_those_of_the_lists(shared_data):
    lists = shared_data / "annotations"
    found = {("ssv2", "val"): len(json.loads(next(lists.glob("something*/*validation.json")).read_text()))}
    for side, file in (
        ("ucf14-hmdb7-source train", "ucf101_train_uh"),
        ("ucf14-hmdb7-target test", "hmdb51_test_uh"),
        ("hmdb14-ucf7-source train", "hmdb51_train_hu"),
        ("hmdb14-ucf7-target test", "ucf101_test_hu"),
    ):
        found[tuple(side.split())] = lines(lists / "patan" / f"{file}.txt")
    marks = re.findall(
        r"\s([012])\s*$", "\n".join(p.read_text() for p in lists.glob("hmdb51/*_split1.txt")), re.M
    )
    found["hmdb51", "train"], found["hmdb51", "test"] = marks.count("1"), marks.count("2")
    assert found == {key: datasets.OFFICIAL_COUNTS[key] for key in found}


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("kinetics400", "val"),
        ("ssv2", "val"),
        ("minikinetics200", "val"),
        ("ucf101", "test"),
        ("hmdb51", "test"),
        ("diving48", "test"),
        ("ucf14-hmdb7", "test"),
    ],
)
def test_evaluations_use_the_split_that_has_labels(name, split):
    ((_, data),) = recipes.tests_of(recipes.profile("paper", "mgm"), name)
    assert data.split == split


@pytest.fixture
def ucf(tmp_path, monkeypatch):
    "UCF101's lists with ten videos for training; returns a function that puts so many files there."
    root, lists = tmp_path / "videos", tmp_path / "lists"
    lists.mkdir()
    (root / "Archery").mkdir(parents=True)
    names = [f"Archery/v_Archery_g{k:02}_c01.avi" for k in range(10)]
    (lists / "classInd.txt").write_text("1 Archery\n")
    (lists / "trainlist01.txt").write_text("".join(f"{name} 1\n" for name in names))
    (lists / "testlist01.txt").write_text("".join(f"{name}\n" for name in names[:1]))
    monkeypatch.setenv("MVNB_DATA_UCF101", str(root))
    monkeypatch.setenv("MVNB_DATA_UCF101_ANNOTATIONS", str(lists))

    def put(count: int):
        for name in names[:count]:
            (root / name).write_bytes(b"x")

    return put


def test_a_folder_that_holds_less_than_the_list_is_told(ucf, monkeypatch):
    data = recipes.Data("ucf101")
    ucf(6)
    assert data.lacks == "ucf101 train: 6 videos are here, 9,537 are in the official list."
    monkeypatch.setitem(datasets.OFFICIAL_COUNTS, ("ucf101", "train"), 10)
    assert data.lacks == "ucf101 train: 6 videos are here, 10 are listed."
    ucf(10)
    assert data.lacks == ""


def test_a_limit_per_class_lowers_what_is_expected(ucf, monkeypatch):
    monkeypatch.setitem(datasets.CLASS_COUNTS, "ucf101", 1)
    ucf(10)
    assert recipes.Data("ucf101", per_class=5).lacks == ""
    assert recipes.Data("ucf101").lacks


def test_puppets_and_data_that_are_not_here_lack_nothing(monkeypatch):
    for key in ("MVNB_DATA_HMDB51", "MVNB_DATA_HMDB51_ANNOTATIONS"):
        monkeypatch.setenv(key, "/nowhere")
    assert recipes.Data("hmdb51").lacks == "" and recipes.Data("puppets-u", videos=8).lacks == ""


@pytest.fixture(scope="module")
def published(small_store):
    "The batch of everything as published, on a machine without data."
    with small_store("sizes", DATA_SSV2="nowhere", DATA_SSV2_ANNOTATIONS="nowhere"):
        graph = batch.gather("paper")
        yield graph, batch.costs(graph, past=[]), batch.summary(graph)


def test_published_runs_have_a_cost_before_their_data_are_there(published):
    graph, costs, _ = published
    assert len(graph.todo) > 300 and len(costs)
    assert not (costs == "unknown").any(axis=None)


def test_each_cause_is_told_once(published):
    graph, _, summary = published
    told = [line for line in summary if "cannot be run yet" in line]
    assert len(graph.blocked) > 2 * len(told)
    for name in graph.blocked:
        assert sum(name in line for line in told) == 1
    assert len({line.split("cannot be run yet")[1] for line in told}) == len(told)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(None, "take about unknown"), (0.2, "take less than a second"), (45, "take about 45 s")],
)
def test_how_long_runs_take(seconds, said):
    assert tables.taking(seconds) == said
