"Figures 2 to 4 of MAC's supplement: who is right, the maps of each group, the pages."

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from mvnb import claims, clips, explain, figures, masks, recipes
from mvnb.augment import luma, normalize, to_float
from mvnb.papers.mac import supplement_figures as room

NUMBERS = {"s2": room.MAC_RIGHT, "s3": room.SUPERVISED_RIGHT, "s4": room.NEITHER}
TESTS = ("biased", "unbiased")


@pytest.fixture(scope="module")
def place(small_store):
    "A store and an outputs folder for this module; no real data."
    with small_store("supplement_figures") as folder:
        yield folder


@pytest.fixture(scope="module")
def drawn(place):
    return {
        number: figures.figure("mac", number).run("smoke", device="cpu", workers=0, progress=False)
        for number in NUMBERS
    }


def told(drawing, row, test, seed=0):
    "path -> (label, predicted), from the stored file."
    path = drawing.results["finetune", row, seed].folder / "predictions" / f"{test}.csv"
    with open(path, newline="", encoding="utf-8") as file:
        return {line["path"]: (line["label"], line["predicted"]) for line in csv.DictReader(file)}


def group_by_hand(drawing, test, path):
    "The group of a video."
    mac, supervised = (told(drawing, row, test)[path] for row in ("MAC-SC-2", "supervised"))
    if mac[0] == mac[1]:
        return room.BOTH if supervised[0] == supervised[1] else room.MAC_RIGHT
    return room.SUPERVISED_RIGHT if supervised[0] == supervised[1] else room.NEITHER


# ---------------------------------------------------------------- plans


@pytest.mark.parametrize("profile", ["smoke", "demo", "paper"])
def test_nothing_new_is_trained(place, profile):
    hashes = {
        number: [r.hash for r in figures.figure("mac", number).plan(profile, seeds=2).runs]
        for number in ("3", "4", *NUMBERS)
    }
    for number in NUMBERS:
        assert hashes[number] == hashes["4"]
    shared = set(hashes["4"]) <= set(hashes["3"])
    assert shared == (profile == "paper")  # small profiles draw maps with networks of their own


def test_the_main_figure_still_draws_the_first_of_each_class(place):
    index = recipes.training_data(recipes.SMOKE, "puppets-u", "test-unbiased").load()
    drawing = figures.Maps.__new__(figures.Maps)
    assert drawing.chosen("unbiased", index, 3) == figures.first_of_each(index.labels, 3)


# ---------------------------------------------------------------- groups


def test_groups_by_loops():
    rng = np.random.default_rng(0)
    names = {(1, 1): room.BOTH, (1, 0): room.MAC_RIGHT, (0, 1): room.SUPERVISED_RIGHT, (0, 0): room.NEITHER}
    for seeds in (1, 3):
        mac, supervised = (rng.random((seeds, 60)) < 0.5 for _ in range(2))
        found = room.groups_of(mac, supervised)
        assert list(found) == list(names.values())
        for s in range(seeds):
            for i in range(60):
                own = names[int(mac[s, i]), int(supervised[s, i])]
                assert [name for name in found if found[name][s, i]] == [own]


@pytest.mark.parametrize("test", TESTS)
def test_groups_partition_the_videos_as_the_files_say(drawn, test):
    for number, name in NUMBERS.items():
        drawing = drawn[number]
        groups = {name: members[0] for name, members in drawing.answers.groups[test].items()}
        index = drawing.answers.indexes[test, 0]
        assert (sum(m.astype(int) for m in groups.values()) == 1).all()
        assert len(index) == len(told(drawing, "MAC-SC-2", test)) == drawing.areas[test, "actor"].shape[1]
        counted = {}
        for i, path in enumerate(index.paths):
            group = group_by_hand(drawing, test, path)
            assert groups[group][i]
            counted[group] = counted.get(group, 0) + 1
        line = drawing.counts.loc[test]
        assert {g: int(line[g].split()[0]) for g in groups} == {g: counted.get(g, 0) for g in groups}
        assert drawing.group == name and (drawing.members(test) == groups[name]).all()


@pytest.mark.parametrize("test", TESTS)
def test_examples_are_the_first_of_each_class_by_path(drawn, test):
    for number, name in NUMBERS.items():
        drawing, index = drawn[number], drawn[number].answers.indexes[test, 0]
        expected = {}
        for path in sorted(index.paths):
            if group_by_hand(drawing, test, path) == name:
                expected.setdefault(int(told(drawing, "MAC-SC-2", test)[path][0]), path)
        paths = [expected[label] for label in sorted(expected)][:6]
        assert [index.paths[i] for i in drawing.chosen(test, index, 6)] == paths
        labels = [n for part in drawing.shown[test] for n in part["names"]]
        classes = {path: index.classes[label] for label, path in expected.items()}
        assert sorted(labels) == sorted(classes[path] for path in paths)
        if test == drawing.tests[-1]:
            assert list(drawing.examples["video"]) == paths
    says = drawn["s4"].examples
    assert (says["class"] != says["MAC-SC-2 says"]).all() and (says["class"] != says["supervised says"]).all()


class Films:
    "An index of four videos, not in the order of their paths, and the data that load it."

    paths = ["d.mp4", "b.mp4", "a.mp4", "c.mp4"]
    labels = np.array([0, 1, 1, 0])
    classes = ("run", "wave")

    def __len__(self):
        return 4

    def load(self):
        return self


@pytest.fixture
def made_up(tmp_path):
    "Answers for ranks: (row, seed) -> {path: rank}."

    def make(ranks, seeds=(0,)):
        results = {}
        for (row, seed), lines in ranks.items():
            folder = tmp_path / row / str(seed)
            (folder / "predictions").mkdir(parents=True)
            text = "".join(f"{p}.mp4,{r}\n" for p, r in lines.items())
            (folder / "predictions" / "t.csv").write_text("path,rank\n" + text)
            results["finetune", row, seed] = type("Result", (), dict(folder=folder))
        recipe = type("Recipe", (), dict(tests=[("t", Films())]))
        plan = type("Plan", (), dict(seeds=seeds, cells=dict.fromkeys(results, recipe)))
        return room.Answers(plan, results)

    return make


def test_answers_follow_the_index_and_not_the_file(made_up):
    "a and d: MAC alone; b: unreadable; c: the supervised network alone."
    answers = made_up(
        {("MAC-SC-2", 0): dict(a=0, b=-1, c=3, d=0), ("supervised", 0): dict(c=0, d=1, b=-1, a=2)}
    )
    assert answers.right("MAC-SC-2", "t").tolist() == [[True, False, True, False]]
    found = {name: np.flatnonzero(m[0]).tolist() for name, m in answers.groups["t"].items()}
    assert list(found.values()) == [[], [0, 2], [3], [1]]
    assert answers.first(room.MAC_RIGHT, "t", 6) == [0, 2] and answers.first(room.MAC_RIGHT, "t", 1) == [0]
    assert answers.first(room.NEITHER, "t", 6) == []  # b cannot be shown
    assert answers.first(room.BOTH, "t", 6) == []
    assert answers.counts.loc["t"].tolist() == [4, "0 (0 %)", "2 (50 %)", "1 (25 %)", "1 (25 %)"]


def test_each_seed_sorts_its_own_videos(made_up):
    "Only the first seed's are drawn."
    right = dict(a=0, b=0, c=0, d=0)
    wrong = dict(a=1, b=1, c=1, d=1)
    ranks = {("supervised", seed): wrong for seed in range(3)}
    ranks |= {("MAC-SC-2", seed): right for seed in range(3)}
    ranks["MAC-SC-2", 0] = right | dict(a=5)
    answers = made_up(ranks, (0, 1, 2))
    assert answers.groups["t"][room.MAC_RIGHT].sum(1).tolist() == [3, 4, 4]
    assert answers.first(room.MAC_RIGHT, "t", 6) == [3, 1]  # c for its class, b instead of a
    assert answers.counts.loc["t", ["videos", room.MAC_RIGHT]].tolist() == [12, "11 (92 %)"]


def test_missing_predictions_are_an_error(made_up):
    with pytest.raises(KeyError):
        made_up({("MAC-SC-2", 0): dict(a=0), ("supervised", 0): dict(a=0)})  # three videos are missing


# ---------------------------------------------------------------- numbers


def test_the_shares_of_one_video_by_hand(drawn):
    drawing = drawn["s4"]
    test = "unbiased"
    recipe = drawing.plan.cells["finetune", "MAC-SC-2", 0]
    members = np.flatnonzero(drawing.members(test)[0])
    i = int(members[len(members) // 2])
    index = drawing.answers.indexes[test, 0]
    cut = (recipe.clips.length, recipe.clips.stride, recipe.clips.size, recipe.test_views)
    dataset = figures.test_clips(index, *cut, cache=recipe.clips.cache)
    loader = clips.batches(dataset, 1, 0, shuffle=False, drop_last=False)
    batch = next(b for b in loader if int(b["index"][0]) == i)
    truth = figures.truth_of(dataset, [i])[0]
    for row in ("MAC-SC-2", "supervised"):
        model = figures.classifier_of(drawing.results["finetune", row, 0])
        shares = []
        for v in range(recipe.test_views):
            x = normalize(luma(to_float(batch["clip"][:, v])))
            with torch.no_grad():
                said = int(model(x).argmax())
                maps = model.backbone.features(x)
            signed = torch.einsum("d,dthw->thw", model.head.weight[said].detach(), maps[0])
            full = explain.to_clip(signed[None], x.shape[2:], "positive")[0]
            shares.append(float(full[truth[v]].sum() / full.sum()))
        found = drawing.within(row, "last", test)[0, i]
        assert found == pytest.approx(np.mean(shares), abs=1e-4, nan_ok=True)
    even = drawing.within(room.EVEN, "last", test)
    assert even.shape == (1, len(index)) and even[0, i] == pytest.approx(float(truth.float().mean()))
    assert np.flatnonzero(np.isfinite(even[0])).tolist() == members.tolist()


def test_the_frame_counts_again(drawn):
    for number, name in NUMBERS.items():
        drawing = drawn[number]
        frame = drawing.frame
        assert len(frame) == 8 and set(frame["map"]) == set(figures.MAPS.values())
        for _, line in frame.iterrows():
            test, kind = line["test"], {v: k for k, v in figures.MAPS.items()}[line["map"]]
            areas = drawing.areas[test, "actor"][0]
            inside = [True] * len(areas)
            if line["videos"].startswith(name):
                inside = [
                    group_by_hand(drawing, test, p) == name for p in drawing.answers.indexes[test, 0].paths
                ]
            assert line["videos"].endswith(f"({sum(inside)})")
            for row in ("MAC-SC-2", "supervised"):
                values = drawing.of("finetune", row, kind, test, "actor")[0]
                pairs = [(v, a) for v, a, k in zip(values, areas, inside) if k]
                pairs = [(v, a) for v, a in pairs if np.isfinite(v)]
                texts = ["—", "—"]
                if pairs:
                    above = 100 * np.mean([v > a for v, a in pairs])
                    texts = [f"{100 * np.mean([v for v, _ in pairs]):.1f}", f"{above:.1f}"]
                assert [line[row], line[f"above even: {row}"]] == texts


# ---------------------------------------------------------------- claims


def with_shares(drawing, gap, members=12, seeds=3):
    "A demo drawing with so many videos of each seed in its group, where MAC's maps have more on the actor."
    changed = drawing.__class__.__new__(drawing.__class__)
    changed.__dict__.update(drawing.__dict__)
    changed.plan = dataclasses.replace(drawing.plan, profile="demo", seeds=tuple(range(seeds)))
    changed.answers = room.Answers(drawing.plan, drawing.results)
    rng = np.random.default_rng(0)
    changed.shares, changed.areas = {}, dict(drawing.areas)
    for test in drawing.tests:
        n = drawing.areas[test, "actor"].shape[1]
        inside = np.arange(n) < np.reshape(members, (-1, 1)) * np.ones((seeds, 1))
        changed.answers.groups[test] = {drawing.group: inside, room.BOTH: ~inside}
        changed.areas[test, "actor"] = np.full((seeds, n), 0.3)
        for kind in figures.MAPS:
            for row, more in (("MAC-SC-2", gap), ("supervised", 0.0)):
                for seed in range(seeds):
                    outside = np.where(inside[seed], 0, -2 * gap)  # the others say the opposite
                    shares = 0.35 + more + outside * (more != 0) + rng.normal(0, 0.005, n)
                    changed.shares["finetune", row, seed, kind, test, "actor"] = shares
    return changed


@pytest.mark.parametrize(
    "number,by", [("s2", "the paper's text"), ("s3", "the paper's text"), ("s4", "ours")]
)
def test_verdicts_are_of_the_group_alone(drawn, number, by):
    lines = with_shares(drawn[number], 0.1).claim_lines
    assert (lines["verdict"] == "holds").all() and (lines["by"] == by).all()
    assert set(lines["table"]) == {f"figure {number}"}
    assert lines["claim"].nunique() == (4 if number == "s4" else 2)
    assert lines["claim"].str.contains("the actor").all() and len(lines) == 2 * lines["claim"].nunique()
    lines = with_shares(drawn[number], -0.1).claim_lines
    about_mac = lines[lines["claim"].str.contains("MAC")]
    assert (about_mac["verdict"] == "fails").all()


@pytest.mark.parametrize(
    "members, verdict, n, left_out",
    [
        ([9, 9, 9], "not judged", "", "seeds 0, 1, 2"),
        ([10, 10, 10], "holds", "3", ""),
        ([10, 9, 10], "leans for", "2", "seed 1"),
        ([12, 12, 10, 3], "holds", "3", "seed 3"),
    ],
)
def test_a_seed_with_a_small_group_is_left_out(drawn, members, verdict, n, left_out):
    drawing = with_shares(drawn["s2"], 0.1, members, len(members))
    assert set(drawing.claim_lines["verdict"]) == {verdict} and set(drawing.claim_lines["n"]) == {n}
    drawing.results = {  # the accuracies of networks, of which the test has one seed
        (protocol, row, seed): drawing.results[protocol, row, 0]
        for protocol, row, _ in drawing.results
        for seed in range(len(members))
    }
    said = [line for line in drawing.provenance if "fewer than 10 such videos" in line]
    assert [line.endswith(f"videos: {left_out}.") for line in said] == [True, True] * bool(left_out)


@pytest.mark.parametrize("number", NUMBERS)
def test_an_empty_group_is_said(drawn, number, place):
    drawing = with_shares(drawn[number], 0.1, members=0, seeds=1)
    drawing.shown = {test: [] for test in drawing.tests}
    drawing.answers.first = lambda *args: []
    assert set(drawing.claim_lines["verdict"]) == {"not judged"}
    assert sum("No video of the" in line for line in drawing.provenance) == 2
    own = drawing.frame[drawing.frame["videos"].str.endswith("(0)")]
    assert len(own) == 4 and (own[["supervised", "MAC-SC-2", "even map", "gap"]] == "—").all(axis=None)
    (ax,) = drawing.figure().axes
    assert "no video to show" in ax.texts[0].get_text() and drawing.group in ax.texts[0].get_text()
    assert drawing.examples.empty and drawing.group in str(drawing) and drawing._repr_html_()
    drawing.claims.save()


def test_an_empty_group_of_real_networks_draws(drawn):
    "Networks that give the same answers leave two groups empty, from the first step on."
    drawing = drawn["s2"]
    same = {
        (protocol, row, seed): drawing.results[protocol, "MAC-SC-2", seed]
        for protocol, row, seed in drawing.results
    }
    empty = room.MacRight(drawing.plan, same, progress=False)
    assert not any(empty.members(test).any() for test in TESTS) and empty.shown == {t: [] for t in TESTS}
    assert len(empty.figure().axes) == 1 and len(empty.frame) == 8 and empty.examples.empty


def test_what_is_drawn(drawn):
    for drawing in drawn.values():
        for test in TESTS:
            rows = len(drawing.chosen(test, drawing.answers.indexes[test, 0], 6))
            assert sum(bool(ax.images) for ax in drawing.figure(test).axes) == 6 * rows
    part = drawn["s4"].shown["unbiased"][0]
    assert torch.equal(part["mask"], masks.mac_mask(part["clip"]))


# ---------------------------------------------------------------- pages


@pytest.mark.parametrize("number", NUMBERS)
def test_every_page_runs_cell_by_cell(drawn, place, number, run_page):
    notebook = figures.figure("mac", number).definition.notebook
    text = run_page(f"figures/{notebook}", profile="smoke", device="cpu", workers=0)
    assert f"MAC supplement, Figure {number[1:]}" in text and f"`mvnb figure mac {number}`" in text
    stem = place / "outputs" / "mine" / "smoke" / notebook
    assert Path(f"{stem}.png").is_file()
    with open(f"{stem}.claims.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    definition = figures.figure("mac", number).definition
    assert {line["table"] for line in lines} == {f"figure {number}"} and definition.paper == "mac"
    assert {line["verdict"] for line in lines} == {"not judged"} and tuple(lines[0]) == claims.COLUMNS
    assert claims.NOT_JUDGED in str(drawn[number].claims)
