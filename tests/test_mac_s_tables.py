"MAC's supplement, Tables 1 to 8 and Figure 1: as printed, as planned, run once from one store."

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest

from mvnb import boxes, datasets, figures, methods, recipes, tables
from mvnb.papers.mac.supplement import EPOCHS, Curve
from mvnb.papers.mac.method import AUGMENTATIONS
from mvnb.train import learning_rate

ROOT = Path(__file__).resolve().parent.parent
NUMBERS = tuple(f"s{n}" for n in range(1, 9))
nan = float("nan")


@pytest.fixture(scope="module")
def place(small_store):
    "A store and an outputs folder for this module; no real data."
    with small_store("supplement") as folder:
        yield folder


# ---------------------------------------------------------------- as printed


@pytest.mark.parametrize(
    "number,column,expected",
    [
        ("s1", "UCF101", [66.3, 72.4, 77.1, 76.8, 84.6]),
        ("s1", "HMDB51", [32.2, 30.9, 36.6, 40.0, 53.2]),
        ("s2", "UCF101", [76.6, 81.2, 82.5]),
        ("s3", "Mini-Kinetics", [82.4, 83.5]),
        ("s4", "UCF101", [81.5, 82.0, 84.8]),
        ("s5", "UCF101", [78, 84.8, 86.4, 87.8]),
        ("s6", "UCF101", [81.5, nan, nan, nan, 84.2]),
        ("s7", "UCF101", [82.6, 84.8, 83.4, nan, nan]),  # the released convention is not printed
        ("s8", "UCF101", [81.1, 84.8, 83.9]),
    ],
)
def test_values_are_as_printed(number, column, expected):
    np.testing.assert_equal(
        tables.table("mac", number).published[column].to_numpy(), np.array(expected, float)
    )


def test_what_cannot_be_read_is_missing_and_says_why():
    for name in (*(tables.stem_of("mac", n) for n in NUMBERS), "mac_s_figure1"):
        with open(ROOT / "mvnb" / "published" / f"{name}.csv", newline="", encoding="utf-8") as file:
            for line in csv.DictReader(file):
                assert line["value"] or line["note"], (name, line)
    curve = figures.printed("mac", "s1").set_index("row")
    assert (
        curve.loc["5", "value"] == 85
        and curve["value"].isna().sum() == 3
        and "87.1" in curve.loc["80", "note"]
    )


def test_claims_of_the_curve_are_the_supplement_s_or_ours(place):
    "Published gaps from the text of the supplement and the main paper's Table 3; ρBYOL is another work."
    plan = figures.figure("mac", "s1").plan("smoke")
    curve = figures.figure("mac", "s1").run(plan, device="cpu", workers=0, progress=False)
    lines = curve.claim_lines.drop_duplicates("claim").set_index("claim")
    assert dict(zip(lines.index, zip(lines["published_gap"], lines["by"] == "the paper's text"))) == {
        "5 epochs beat random weights": ("+13.8", True),
        "5 epochs beat ρBYOL's 50": ("+0.4", True),
        "80 epochs beat 5": ("+2.1", False),
        "5 of 80 epochs bring more than half of the gain": ("+11.7", False),
    }
    assert lines.loc["5 epochs beat ρBYOL's 50", "verdict"] == "not run" and set(
        curve.claim_lines["verdict"]
    ) == {"not run", "not judged"}


def test_printed_gains_are_the_differences():
    gains = {
        l["row"]: float(l["value"]) for l in tables.csv_lines("mac", "s2") if l["column"] == "UCF101 gain"
    }
    steps = tables.table("mac", "s2").published["UCF101"].diff()
    assert {r: pytest.approx(steps[r]) for r in gains} == gains and len(gains) == 2


def test_the_default_setting_has_one_number():
    default = {("s4", "Cross-Entropy Loss"), ("s5", "MAC-SC-2 R(2+1)D-18"), ("s7", "0.5"), ("s8", "30")}
    assert {tables.table("mac", n).published.loc[r, "UCF101"] for n, r in default} == {84.8}


# ---------------------------------------------------------------- plans

DEFAULT = {"s4": "Cross-Entropy Loss", "s5": "MAC-SC-2 R(2+1)D-18", "s6": "4", "s7": "0.5", "s8": "30"}


@pytest.mark.parametrize("profile", ["smoke", "demo", "paper"])
def test_tables_share_their_pretrainings(place, profile):
    plans = {n: tables.table("mac", n).plan(profile) for n in NUMBERS}
    of = lambda number, row, column="UCF101": plans[number].cells[row, column, 0].parent.hash
    shared = {of(n, row) for n, row in DEFAULT.items()}
    assert len(shared) == 1
    assert (of("s1", "MAC-SC-2") in shared) == (profile != "paper")  # the small network is shallow already
    made = {n: {r.parent.hash for r in p.cells.values()} for n, p in plans.items()}
    assert {n: len(m) for n, m in made.items()} == dict(s1=1, s2=3, s3=2, s4=3, s5=4, s6=5, s7=5, s8=3)
    assert len(set().union(*made.values())) == 1 + (profile == "paper") + 3 + 2 + 2 + 3 + 4 + 4 + 2
    main = {n: tables.table("mac", n).plan(profile) for n in ("1", "2")}
    assert main["1"].cells["MAC-SC-2", "UCF101", 0].hash == plans["s7"].cells["0.5", "UCF101", 0].hash
    assert (
        main["2"].cells["MAC-SC-4*", "UCF101", 0].hash
        == plans["s5"].cells["MAC-SC-4 R(2+1)D-18", "UCF101", 0].hash
    )
    assert (
        main["1"].cells["MAC-S-2", "UCF101", 0].hash
        == plans["s2"].cells["MAC-S-2 + CJ + GS", "UCF101", 0].hash
    ) == (profile == "paper")


def test_every_row_differs_from_the_default_by_what_its_table_says(place):
    for number, names in dict(s4=["loss"], s6=["k"], s7=["m"], s8=["lambda_"]).items():
        cells = {row: r.parent for (row, *_), r in tables.table("mac", number).plan("smoke").cells.items()}
        default = cells.pop(DEFAULT[number])
        for row, recipe in cells.items():
            changed = [k for k in recipe.params if recipe.params[k] != default.params.get(k)]
            assert changed == ["convention"] * row.endswith("released") + names
            assert dataclasses.replace(recipe, params=default.params) == default
            task = methods.build(recipe.method, backbone=recipe.backbone, **recipe.params)
            assert getattr(task, names[0]) == (
                {"MSE Regression Loss": "mse", "MSE-n Regression Loss": "mse-n"}[row]
                if number == "s4"
                else float(row.removesuffix(", released"))
            )
        task = methods.build(default.method, backbone=default.backbone, **default.params)
        assert (task.k, task.m, task.lambda_, task.loss, task.n, task.heads) == (4, 0.5, 30, "ce", 2, "one")


def test_augmentations_backbones_and_clips(place):
    colours = [r.parent for r in tables.table("mac", "s2").plan("paper").cells.values()]
    odds = [
        (c.photometric["p_brightness"], c.photometric["p_colour"], c.photometric["gray"]) for c in colours
    ]
    assert odds == [(0, 0, 0), (0.8, 0.8, 0), (0.8, 0.8, 0.2)]
    assert {c.params["objective"] for c in colours} == {"s"}
    small = [r.parent for r in tables.table("mac", "s2").plan("demo").cells.values()]
    for recipe, name in zip(small, ("none", "jitter", "jitter, gray")):
        assert {k: recipe.photometric[k] for k in AUGMENTATIONS[name]} == AUGMENTATIONS[name]
    assert colours[-1].photometric == recipes.profile("paper", "mac").photometric
    five = {row: r for (row, *_), r in tables.table("mac", "s5").plan("paper").cells.items()}
    assert {
        row: (r.backbone, r.clips.length, r.parent.clips.length, r.parent.params["n"])
        for row, r in five.items()
    } == {
        "MAC-SC-2 R3D": ("r3d_18", 16, 16, 2),
        "MAC-SC-2 R(2+1)D-18": ("r2plus1d_18", 16, 16, 2),
        "MAC-SC-4 R3D": ("r3d_18", 64, 64, 4),
        "MAC-SC-4 R(2+1)D-18": ("r2plus1d_18", 64, 64, 4),
    }
    one = tables.table("mac", "s1").plan("paper")
    assert {r.backbone for r in one.runs} == {"r2plus1d_10"} and set(one.videos.pretrain) == {"MAC-SC-2"}
    three = tables.table("mac", "s3").plan("paper", device="cpu")
    cell = three.cells["B.Box", "Mini-Kinetics", 0]
    assert (
        cell.parent.params["source"] == "box"
        and cell.parent.data.name == "minikinetics200"
        and [d.split for _, d in cell.tests] == ["val"]
    )
    assert three.seconds > 86400 and "minikinetics200" in three.videos.blocked
    assert {d.split for d in dict(cell.tests).values()} <= set(datasets.SPLITS["minikinetics200"])


def test_boxes_of_a_real_data_set_come_from_settings(tmp_path, monkeypatch, puppets_root, place):
    index = recipes.Data("puppets-u", "test-unbiased", scale=recipes.SMOKE.scale).load()
    other = dataclasses.replace(index, name="minikinetics200", root=tmp_path)
    path = str(other.paths[0])
    own = boxes.find_boxes("truth", reach=2)
    with pytest.raises(boxes.BoxesError, match="minikinetics200_boxes"):
        own.check(other)
    boxes_csv = tmp_path / "people.csv"
    boxes_csv.write_text("path,frame,x0,y0,x1,y1\n" + "".join(f"{p},3,1,2,30,40\n" for p in other.paths))
    monkeypatch.setenv("MVNB_DATA_MINIKINETICS200_BOXES", str(boxes_csv))
    own.check(other)
    whole = own.clip(other, 0, np.array([3, 5, 6]), (0, 0, 64, 64), 64)
    assert (
        whole[:, 0].tolist() == [[1, 2, 30, 40], [1, 2, 30, 40], [0, 0, 0, 0]]
        and own.hash != boxes.find_boxes("truth").hash
    )


# ---------------------------------------------------------------- Figure 1


def test_a_short_pretraining_is_the_paper_s_state_on_the_way():
    whole = recipes.pretraining(
        recipes.profile("paper", "mac"), "mac", "kinetics400", "r2plus1d", objective="sc", n=2
    )
    for epochs in EPOCHS[:3]:
        part = recipes.shortened(whole, epochs / EPOCHS[-1])
        assert part.schedule.epochs == epochs and dataclasses.replace(part, schedule=whole.schedule) == whole
        for step in range(0, 10 * epochs, 7):
            assert learning_rate(part.schedule, step, 10) == learning_rate(whole.schedule, step, 10)
    demo = recipes.pretraining(recipes.DEMO, "mac", "puppets-k", "r2plus1d")
    steps = [recipes.shortened(demo, e / EPOCHS[-1]).schedule.max_steps for e in EPOCHS]
    assert steps == sorted(set(steps)) and steps[-1] == recipes.DEMO.pretrain.max_steps
    for share in (0, 1.5, -1):
        with pytest.raises(ValueError, match="share"):
            recipes.shortened(whole, share)


def test_the_figure_pretrains_on_other_videos_than_it_tests(place, monkeypatch):
    plan = figures.figure("mac", "s1").plan("demo")
    assert {r.data.name for r in plan.runs if r.kind == "pretrain"} == {"puppets-k"} and {
        r.data.name for r in plan.runs if r.kind == "finetune"
    } == {"puppets-u"}
    assert (
        plan.cells["finetune", "0", 0].parent is None
        and "ucf101" in figures.figure("mac", "s1").plan("paper", device="cpu").videos.blocked
    )
    monkeypatch.setattr(tables, "data_trouble", lambda name: "")
    away = lambda row, profile, data, family: "it is away" if data == "kinetics400" else ""
    monkeypatch.setattr(tables, "start_trouble", away)
    definition = figures.figure("mac", "s1").definition
    assert "kinetics400: it is away" in definition.videos("paper", "").blocked
    with pytest.raises(ValueError, match="data='ucf101'.*kinetics400"):
        definition.videos("demo", "ucf101")


# ---------------------------------------------------------------- every page, run once from one store


@pytest.fixture(scope="module")
def outcomes(place):
    return {n: tables.table("mac", n).run("smoke", device="cpu", workers=0, progress=False) for n in NUMBERS}


def test_tables_show_ours_beside_the_published_numbers(outcomes):
    for n, out in outcomes.items():
        text, frame = str(out), out.comparison
        assert f"MAC, supplement, table {n[1:]}" in text and "compare our rows with each other" in text
        for r, (_, line) in zip(out.definition.rows, frame["ours, smoke profile"].iterrows()):
            assert set(line) == {"—"} if r.method is None else all(0 <= float(v) <= 100 for v in line)
        assert set(out.claims.lines["verdict"]) <= {"not judged", "not run"}
    assert "unreadable" in str(outcomes["s6"]) and "puppets-k for Mini-Kinetics" in str(outcomes["s3"])


PAGES = [
    *(("table", n, tables.table("mac", n).definition.notebook) for n in NUMBERS),
    ("figure", "s1", figures.figure("mac", "s1").definition.notebook),
]


@pytest.mark.parametrize("kind,number,notebook", PAGES, ids=[p[2] for p in PAGES])
def test_every_notebook_runs_cell_by_cell(outcomes, place, kind, number, notebook, run_page):
    text = run_page(f"{kind}s/{notebook}", profile="smoke", device="cpu", workers=0)
    assert (
        f"MAC supplement, {kind.title()} {number[1:]}" in text
        and f"`mvnb {kind} mac {number}`" in text
        and "last reproduced" in text
    )
    for suffix in (".png", ".claims.csv"):
        assert (place / "outputs" / "mine" / "smoke" / f"{notebook}{suffix}").is_file()


def test_the_curve_shows_every_length_and_judges_by_the_stored_predictions(place):
    plan = figures.figure("mac", "s1").plan("smoke")
    curve = figures.figure("mac", "s1").run(plan, device="cpu", workers=0, progress=False)
    assert isinstance(curve, Curve) and len(curve.frame) == 5
    for row in ("0", "5", "80"):
        for test in curve.tests:
            assert curve.top1("finetune", row, test)[0] == pytest.approx(
                100 * curve.right("finetune", row, test).mean()
            )
    left, right = curve.figure().axes
    marks = {
        l.get_label(): (l.get_markerfacecolor(), l.get_ydata().tolist())
        for l in left.lines
        if l.get_marker() == "o"
    }
    hollow = next(k for k in marks if "Table 3" in k)
    assert (
        marks.pop(hollow) == ("white", [71.2, 87.1])
        and [(c != "white", y[0]) for c, y in marks.values()] == [(True, 85.0)]
        and left.get_ylim() == right.get_ylim()
    )
    drawn = {c.get_label(): c.lines[0].get_ydata().tolist() for c in right.containers}
    assert drawn == {
        f"puppets-u, {t}": [
            pytest.approx(float(curve.top1("finetune", r.key, t)[0])) for r in plan.definition.rows
        ]
        for t in curve.tests
    }


def test_a_row_of_boxes_says_beforehand_that_it_has_none(tmp_path, monkeypatch):
    class Films:
        name = "minikinetics200"

        def __len__(self):
            return 1

        def path(self, i):
            return tmp_path / "film.mp4"

    monkeypatch.setattr(tables.recipes.Data, "load", lambda self: Films())
    box, motion = tables.table("mac", "s3").rows
    profile = recipes.profile("paper", "mac")
    assert "minikinetics200_boxes = FILE" in tables.start_trouble(box, profile, "minikinetics200", "r2plus1d")
    assert not tables.start_trouble(motion, profile, "minikinetics200", "r2plus1d")
