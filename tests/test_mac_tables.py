"MAC's Tables 1 to 5, Figures 3 and 4: as printed, as planned, run once from one store."

import csv
import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from mvnb import figures, methods, models, recipes, tables

ROOT = Path(__file__).resolve().parent.parent
NUMBERS = ("1", "2", "3", "4", "5")


def notes_of(paper, number):
    "Remarks of a published CSV: note -> its cells."
    found = {}
    for line in tables.csv_lines(paper, number):
        if line["note"]:
            found.setdefault(line["note"], []).append(f"{line['row']} ({line['column']})")
    return found


@pytest.fixture(scope="module")
def place(small_store):
    "A store and an outputs folder for this module; no real data, no published weights."
    with small_store("mac", WEIGHTS_R2PLUS1D_18="none.pth") as folder:
        yield folder


# ---------------------------------------------------------------- as printed


@pytest.mark.parametrize(
    "number,rows,columns,run",
    [("1", 4, 1, 4), ("2", 5, 1, 5), ("3", 23, 2, 10), ("4", 6, 1, 5), ("5", 7, 4, 2)],
)
def test_rows_and_columns_are_counted(number, rows, columns, run):
    t = tables.table("mac", number)
    assert t.published.shape == (rows, columns) and sum(r.method is not None for r in t.rows) == run


def test_numbers_are_those_of_the_page():
    "Read from the page a second time, in the page's order."
    page = {
        "1": [69.5, 81.5, 81.5, 84.8],
        "2": [82, 83.5, 84.8, 84.2, 87.8],
        "4": [58.3, 71.2, 72.3, 58.8, 67.8, 69.2],
    }
    for number, values in page.items():
        assert tables.table("mac", number).published.iloc[:, 0].tolist() == values
    three = tables.table("mac", 3).published
    assert three["UCF101"].tolist() == [
        67.4,
        72.2,
        73.6,
        71.2,
        89.9,
        81.6,
        81.2,
        86.2,
        87.8,
        80.5,
        84.8,
        87.9,
        88.4,
        87.1,
        90.8,
        90.7,
        83.4,
        87.6,
        90.1,
        90.8,
        92.2,
        93.7,
        95.5,
    ]
    assert three["HMDB51"].tolist() == [
        39.8,
        42.2,
        43.1,
        35.6,
        63.5,
        46.4,
        52.6,
        57.1,
        55.3,
        52.3,
        53.5,
        54.6,
        61.7,
        57.0,
        58.5,
        64.2,
        53.7,
        56.4,
        50.6,
        60.5,
        66.7,
        72.0,
        73.6,
    ]
    five = tables.table("mac", 5).published
    assert [tuple(five.loc[r]) for r in ("VCP", "PRP", "PaceP", "CtP", "MAC-SC-2")] == [
        (18.6, 33.6, 7.6, 24.4),
        (22.8, 38.5, 8.2, 25.8),
        (19.9, 36.2, 8.2, 24.2),
        (23.4, 40.9, 11.4, 30.3),
        (32.0, 52.9, 12.6, 30.7),
    ]
    assert [math.isnan(v) for v in five.loc["BE"]] == [True, True, False, False] and all(
        math.isnan(v) for v in five.loc["MoCo"]
    )
    fame = tables.table("fame", 1).published  # where these rows come from
    for ours, theirs in (
        ("MoCo K400 linear", "MoCo R(2+1)D linear"),
        ("FAME K400 linear", "MoCo+FAME R(2+1)D linear"),
        ("FAME K400 finetune", "MoCo+FAME R(2+1)D fine-tune"),
    ):
        assert three.loc[ours].tolist() == fame.loc[theirs].tolist()


def test_what_contradicts_itself_is_said():
    text = json.loads((ROOT / "nbs" / "tables" / "mac_table2_multipliers.ipynb").read_text())
    said = "".join("".join(c["source"]) for c in text["cells"])
    assert all(word in said for word in ("82, 83.5 and 84.8", "%1.3", "MAC-S-2", "6.8", "5.8"))
    assert {"MAC-SC-4* (UCF101)"} in [
        set(where) for note, where in notes_of("mac", "2").items() if "6.8" in note
    ]


def test_text_and_table_3_disagree_in_notes_and_on_the_page():
    notes = {where[0]: note for note, where in notes_of("mac", "3").items()}
    assert (
        "fewer frames" in notes["TransRank K400 finetune (Res.)"]
        and "1.5" in notes["CVRL K400 finetune (UCF101)"]
        and "1.4" in notes["CVRL K400 finetune (UCF101)"]
    )
    page = (ROOT / "nbs" / "tables" / "mac_table3_action_recognition.ipynb").read_text()
    three = tables.table("mac", 3).published
    gap = lambda better, worse, column: f"{three.loc[better, column] - three.loc[worse, column]:.1f}"
    mac = "MAC-SC-4 K400 finetune"
    for said in (
        (gap("CtP K400 finetune", mac, "HMDB51"), gap("TransRank K400 finetune", mac, "HMDB51")),
        (gap("BraVe K400 finetune", mac, "UCF101"), gap("ρBYOL K400 finetune", mac, "UCF101")),
        (gap("BraVe K400 finetune", mac, "HMDB51"), gap("ρBYOL K400 finetune", mac, "HMDB51")),
    ):
        assert f"{said[0]} and {said[1]}" in page
    assert (
        f"CtP by {gap('CtP UCF101 finetune', 'MAC-SC-4 UCF101 finetune', 'HMDB51')}" in page
        and f"ahead by {gap('CVRL K400 finetune', mac, 'UCF101')} points where" in page
    )
    keys = list(three.index)
    assert (
        len(keys[keys.index("TransRank K400 finetune") + 1 :]) == 7 and "last seven rows" in page
    )  # those with 224×224
    res = tables.published_settings(tables.table("mac", "3").definition)["Res."]
    assert res.str.startswith("224").tolist() == [False] * 16 + [True] * 7


def test_claims_about_other_works_are_borne_out_and_thresholds_owned():
    t = tables.table("mac", 3)
    worse = {(w, c.column) for c in t.claims for w in c.worse}
    for rival in ("CtP UCF101 finetune", "CtP K400 finetune"):
        assert (rival, "UCF101") in worse and (rival, "HMDB51") not in worse
    for rival in ("CoCLR K400 finetune", "ASC-Net K400 finetune R3D-18"):
        assert {(rival, "UCF101"), (rival, "HMDB51")} <= worse
    near = {c.worse: (c.within, "our threshold" in c.text) for c in t.claims if c.within}
    assert near == {
        ("TransRank K400 finetune",): (1.0, True),
        ("CVRL K400 finetune",): (1.5, False),  # the paper's own
        ("BraVe K400 finetune", "ρBYOL K400 finetune"): (5.0, True),
    }
    for number in NUMBERS:
        table = tables.table("mac", number)
        for c in table.claims:
            assert c.by == "ours" or c.strength(c.gap(table.published)) > 0, c


def test_works_are_cited_so_that_one_reference_fits():
    "Names that the paper's list has twice in a year carry an initial or a letter."
    cited = {}
    for number in ("3", "4", "5"):
        for l in tables.csv_lines("mac", number):
            if l["cites"]:
                cited.setdefault(l["row"].split()[0], set()).add(l["cites"])
    assert all(len(c) == 1 for c in cited.values()), cited
    assert {k: c.pop() for k, c in cited.items() if k in ("MoCo", "ASC-Net", "BE", "CtP", "PaceP")} == {
        "MoCo": "X. Chen et al. 2020",
        "ASC-Net": "D. Huang et al. 2021",
        "BE": "J. Wang et al. 2021b",
        "CtP": "G. Wang et al. 2021",
        "PaceP": "J. Wang et al. 2020",
    }


PAGES = [d.notebook for d in tables.definitions() if d.paper == "mac"]


@pytest.mark.parametrize("notebook", PAGES)
def test_every_page_says_what_it_takes_and_when_it_was_last_reproduced(notebook):
    text = "\n".join(
        "".join(c["source"])
        for c in json.loads((ROOT / "nbs" / "tables" / f"{notebook}.ipynb").read_text())["cells"]
    )
    facts = {
        line.split("|")[1].strip(): [c.strip() for c in line.strip("|").split("|")[1:]]
        for line in text.splitlines()
        if line.startswith("|") and not line.startswith("|-")
    }
    assert {
        "command, from anywhere",
        "or, as any notebook",
        "data",
        "hardware and time",
        "expected result",
        "last reproduced",
    } <= set(facts) and all(len(c) == 3 and all(c) for k, c in facts.items() if k)
    assert facts["last reproduced"] == ["see the commit under the table", "in every test run", "not yet"]
    for link in text.split("](")[1:]:  # links to other pages lead somewhere
        name = link.split(")")[0].split("#")[0]
        if name.endswith(".ipynb"):
            assert (ROOT / "nbs" / "tables" / name).resolve().is_file(), name


# ---------------------------------------------------------------- as planned


def test_the_paper_profile_is_the_papers(place):
    one, two, three = (tables.table("mac", n).plan("paper").cells for n in (1, 2, 3))
    tune = one["MAC-SC-2", "UCF101", 0]
    pre = tune.parent
    assert (pre.backbone, pre.clips.length, pre.clips.stride, pre.clips.size, pre.data.name) == (
        "r2plus1d_18",
        16,
        (1, 2, 3, 4),
        112,
        "ucf101",
    )
    s = pre.schedule
    assert (s.epochs, s.batch_size, s.lr, s.momentum, s.weight_decay, s.schedule, s.milestones, s.gamma) == (
        300,
        16,
        0.01,
        0.9,
        1e-4,
        "step",
        (100, 200),
        0.1,
    )
    assert (
        pre.photometric["blur"] == 0
        and pre.photometric["gray"] == 0.2
        and {pre.photometric[f"p_{name}"] for name in ("brightness", "contrast", "colour")} == {0.8}
        and pre.photometric["p_jitter"] == 0
        and dict(pre.params).items() >= {"objective": "sc", "n": 2}.items()
    )
    assert (
        tune.schedule.epochs,
        tune.schedule.lr,
        tune.schedule.milestones,
        tune.test_views,
        tune.clips.length,
    ) == (150, 0.01, (60, 120), 10, 16)
    long = two["MAC-SC-4*", "UCF101", 0]
    assert long.clips.length == long.parent.clips.length == 64 and long.parent.params["n"] == 4
    big = three["MAC-SC-2 K400 linear", "HMDB51", 0]
    assert (
        (big.parent.schedule.epochs, big.parent.schedule.milestones, big.parent.params["queue"])
        == (80, (30, 60), 65536)
        and big.kind == "linear"
        and big.params["layers"] == 3
    )
    assert (
        tables.table("mac", 4).plan("paper").cells["MAC-SC-2 Diving-48", "Diving48", 0].backbone == "i3d"
        and tables.table("mac", 5).plan("paper").cells["MAC-SC-2", "UCF101 Top-1", 0].backbone == "r3d_18"
    )


def test_all_of_table_4_has_one_size(place):
    "As its caption says; otherwise BE and FAME have FAME's settings, and small profiles do not change."
    cells = tables.table("mac", 4).plan("paper").cells
    assert {(r.clips.size, r.parent.clips.size, r.backbone) for r in cells.values()} == {(112, 112, "i3d")}
    ours, theirs = (
        cells["FAME UCF-101", "Diving48", 0].parent,
        tables.table("fame", 3).plan("paper").cells["0.5", "UCF101", 0].parent,
    )
    assert (
        ours != theirs
        and dataclasses.replace(ours, clips=dataclasses.replace(ours.clips, size=224)) == theirs
        and recipes.profile("paper", "fame").sizes == dict(r2plus1d=112)
    )
    assert (
        cells["MAC-SC-2 Diving-48", "Diving48", 0].parent.schedule.epochs == 300
        and cells["BE Diving-48", "Diving48", 0].parent.schedule.epochs == 200
    )
    queues = {row.split()[0]: r.parent.params["queue"] for (row, *_), r in cells.items()}
    assert queues == {"BE": 2048, "FAME": 2048, "MAC-SC-2": 65536}


def test_rows_of_another_paper_are_its_runs(place):
    for profile in ("paper", "demo"):
        three, fame = tables.table("mac", 3).plan(profile).cells, tables.table("fame", 1).plan(profile).cells
        assert three["MoCo K400 linear", "UCF101", 0] == fame["MoCo R(2+1)D linear", "UCF101", 0]
        assert three["FAME K400 finetune", "HMDB51", 0] == fame["MoCo+FAME R(2+1)D fine-tune", "HMDB51", 0]


def test_pages_share_their_pretrainings(place):
    plan = lambda maker, n: maker("mac", n).plan("demo")
    one, two, four = (plan(tables.table, n).cells for n in (1, 2, 4))
    assert one["MAC-SC-2", "UCF101", 0] == two["MAC-SC-2", "UCF101", 0]
    still = plan(figures.figure, 3)
    assert still.cells["finetune", "MAC-SC-2", 0] == one["MAC-SC-2", "UCF101", 0]
    assert (
        four["FAME UCF-101", "Diving48", 0].parent
        == tables.table("fame", 3).plan("demo").cells["0.5", "UCF101", 0].parent
    )
    assert all(
        still.cells["still", r, 0].clips.still == 4
        and still.cells["still", r, 0].parent == still.cells["finetune", r, 0].parent
        for r in ("supervised", "MoCo", "MAC-SC-2")
    )


def test_random_and_supervised_rows(place):
    t = tables.table("mac", 3)
    demo, paper = t.plan("demo").cells, t.plan("paper").cells
    for cells in (demo, paper):
        assert (
            cells["Random Init. finetune", "UCF101", 0].parent is None
            and "weights" not in cells["Random Init. finetune", "UCF101", 0].model
        )
    assert (
        demo["Supervised K400 finetune", "UCF101", 0].parent.method == "supervised"
        and demo["Supervised K400 finetune", "UCF101", 0].parent.data.name == "puppets-k"
    )
    given = (
        paper["Supervised K400 finetune", "UCF101", 0]
        if ("Supervised K400 finetune", "UCF101", 0) in paper
        else None
    )
    assert given is None or (given.parent is None and given.model["weights"] == "kinetics400")
    row = next(r for r in t.rows if r.method == "supervised")
    profile = recipes.profile("paper", "mac")
    assert "none.pth" in tables.start_trouble(row, profile, "kinetics400", "r2plus1d")  # the file is named
    (place / "none.pth").write_bytes(b"x")
    try:
        assert not tables.start_trouble(row, profile, "kinetics400", "r2plus1d")
    finally:
        (place / "none.pth").unlink()


def test_nothing_is_blended_in_the_first_row(place):
    row = tables.table("mac", 1).rows[0]
    task = methods.build("mac", backbone="r2plus1d_tiny", queue=8, **row.params)
    flicker = torch.zeros(2, 1, 3, 8, 32, 32, dtype=torch.uint8)
    flicker[:, :, :, ::2] = 255  # the largest differences there can be
    other = methods.build("mac", backbone="r2plus1d_tiny", queue=8, **dict(row.params) | dict(lambda_=30))
    now = {"clip": flicker, "index": torch.arange(2), "epoch": 0, "step": 0}
    clip = flicker[:, 0].float() / 255
    assert torch.equal(task.blended(now, clip)[0], clip) and not torch.equal(
        other.blended(now, clip)[0], clip
    )


# ---------------------------------------------------------------- run once from one store


@pytest.fixture(scope="module")
def outcome(place):
    return tables.table("mac", 3).run("smoke", device="cpu", workers=0, progress=False)


@pytest.fixture(scope="module")
def stills(place):
    return figures.figure("mac", 3).run("smoke", device="cpu", workers=0, progress=False)


def test_the_largest_table_runs(outcome):
    text, frame = str(outcome), outcome.comparison
    ours = frame["ours, smoke profile"]
    for r in outcome.definition.rows:
        assert all(
            (v == "—") == (r.method is None) and (v in ("—", "not run") or 0 <= float(v) <= 100)
            for v in ours.loc[r.label].to_numpy().ravel()
        )
    assert (
        "puppets-k for Kinetics-400" in text
        and "reference number as the scan has them" in text
        and "Column HMDB51 is not run" in text
    )
    assert (
        outcome.results["MAC-SC-4 UCF101 finetune", "UCF101", 0].recipe.clips.length
        == 2 * outcome.results["MAC-SC-2 K400 finetune", "UCF101", 0].recipe.clips.length
    )
    assert [len(ax.get_yticklabels()) for ax in outcome.figure().axes] == [23, 10]


def test_losses_on_still_clips_are_those_of_the_predictions(stills):
    "Counted again from the files, video by video."
    for row in ("supervised", "MoCo", "MAC-SC-2"):
        for test in ("biased", "unbiased"):
            right = []
            for protocol in ("finetune", "still"):
                result = stills.results[protocol, row, 0]
                lines = list(
                    csv.DictReader(
                        open(result.folder / "predictions" / f"{test}.csv", newline="", encoding="utf-8")
                    )
                )
                right.append({l["path"]: l["label"] == l["predicted"] for l in lines})
                assert 100 * np.mean(list(right[-1].values())) == pytest.approx(result.metrics[test]["top1"])
            assert 100 * stills.loss(row, test).mean() == pytest.approx(
                100 * np.mean([right[0][p] - right[1][p] for p in right[0]])
            )
    assert [f"{v:.1f}" for v in (4.1, 3.2, 12.8)] == stills.frame["published loss"].tolist()
    assert (
        len(stills.judged) == 4
        and set(stills.claim_lines["verdict"]) == {"not judged"}
        and len(stills.figure().axes) == 3
    )
    assert stills.claim_lines["published_gap"].tolist() == ["+8.7", "+9.6"] * 2
    chance = [l for ax in stills.figure().axes[1:] for l in ax.lines if l.get_label() == "chance"]
    classes = len(stills.results["still", "MoCo", 0].metrics["biased"]["confusion"])
    assert [set(l.get_ydata()) for l in chance] == [{100 / classes}] * 2


def test_the_demo_s_figures_say_what_it_changes_about_mac(stills):
    said = recipes.profile("demo").remarks["mac"]
    demo = type(stills)(dataclasses.replace(stills.plan, profile="demo"), stills.results)
    assert (
        said in demo.provenance
        and said not in stills.provenance
        and said in str(demo)
        and "stride is always 3" in said
    )


def test_maps_are_held_against_macs_own_mask(stills, place):
    drawn = figures.figure("mac", 4).run("smoke", device="cpu", workers=0, progress=False)
    assert (
        {k for _, k in drawn.areas} == {"actor", "mac"}
        and set(drawn.frame["inside"]) == {"the actor", "MAC's mask"}
        and set(drawn.frame["classifier"]) == {"fine-tuned"}
    )
    shown = drawn.figure(protocol="finetune")
    assert [ax.get_title() for ax in shown.axes if ax.get_title()][:2] == ["clip", "MAC's mask"]
    path = drawn.claims.save()
    assert (
        path == place / "outputs" / "mine" / "smoke" / "mac_figure4_grad_cam.claims.csv"
        and len(drawn.claim_lines) == 8
    )


# ---------------------------------------------------------------- the registry


# ---------------------------------------------------------------- supervised


def test_supervised_needs_an_output_for_every_label():
    task = methods.build("supervised", backbone="r2plus1d_tiny", classes=2, seed=3)
    again = methods.build("supervised", backbone="r2plus1d_tiny", classes=2, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(task.parameters(), again.parameters()))
    now = {
        "clip": torch.randint(0, 255, (2, 1, 3, 4, 32, 32), dtype=torch.uint8),
        "label": torch.tensor([0, 1]),
        "index": torch.arange(2),
        "epoch": 0,
        "step": 0,
    }
    out = task(now)
    assert out["loss"].requires_grad and 0 <= float(out["top1"]) <= 1
    with pytest.raises(ValueError, match="label 2 has no output.*raise classes="):
        again(now | dict(label=torch.tensor([0, 2])))
    with pytest.raises(ValueError, match="at least one"):
        methods.build("supervised", classes=0)
    names = set(models.build("r2plus1d_tiny").state_dict())
    assert set(task.backbone.state_dict()) == names  # what later runs load
