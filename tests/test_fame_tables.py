"FAME's Tables 1, 2, 4, 5 and 6: as printed, as planned, run once from one store; the board of claims."

import dataclasses
from pathlib import Path

import pandas as pd
import pytest

from mvnb import claims, recipes, runs, tables
from mvnb.outcomes import Outcome, ranks_of
from mvnb.tables import Claim

ROOT = Path(__file__).resolve().parent.parent
NUMBERS = ("1", "2", "3", "4", "5", "6")
value = lambda number, row, column: float(tables.table("fame", number).published.loc[row, column])


@pytest.fixture(scope="module")
def place(small_store):
    "A store and an outputs folder for this module; no real data."
    with small_store("all") as folder:
        yield folder


# ---------------------------------------------------------------- as printed


@pytest.mark.parametrize(
    "number,rows,columns,run",
    [("1", 28, 2, 6), ("2", 5, 5, 2), ("3", 4, 2, 4), ("4", 3, 2, 3), ("5", 3, 4, 3), ("6", 7, 2, 7)],
)
def test_rows_and_columns_are_counted(number, rows, columns, run):
    t = tables.table("fame", number)
    assert t.published.shape == (rows, columns) and sum(r.method is not None for r in t.rows) == run


@pytest.mark.parametrize(
    "number,row,expected",
    [
        ("1", "CBT S3D linear", (54.0, 29.5)),
        ("1", "RSPNet R3D-18 linear", (61.8, 42.8)),
        ("1", "RSPNet R(2+1)D fine-tune", (81.1, 44.6)),
        ("1", "OPN VGG fine-tune", (59.8, 23.8)),
        ("1", "VideoMoCo R(2+1)D fine-tune", (78.7, 49.2)),
        ("1", "SpeedNet S3D-G fine-tune", (81.1, 48.8)),
        ("1", "MoCo R(2+1)D linear", (67.4, 39.8)),
        ("1", "MoCo+FAME R(2+1)D linear", (72.2, 42.2)),
        ("1", "MoCo R(2+1)D fine-tune", (82.9, 50.7)),
        ("1", "MoCo+FAME R(2+1)D fine-tune", (84.8, 53.5)),
        ("1", "MoCo+BE I3D fine-tune", (86.8, 55.4)),
        ("1", "MoCo+FAME I3D fine-tune", (88.6, 61.1)),
        ("2", "SpeedNet", (13.0, 28.1, 37.5, 49.5, 65.0)),
        ("2", "ASCNet", (58.9, 76.3, 82.2, 87.5, 93.4)),
        ("2", "FAME", (62.3, 75.1, 80.9, 86.9, 93.0)),
        ("4", "none", (75.8, 45.5)),
        ("4", "intra-video", (77.4, 47.6)),
        ("4", "inter-video", (81.2, 52.6)),
        ("5", "0.7", (80.3, 79.6, 49.6, 50.8)),
        ("5", "0.5", (81.2, 81.2, 52.6, 51.4)),
        ("5", "0.3", (82.0, 81.1, 51.6, 53.1)),
        ("6", "baseline", (75.8, 45.5)),
        ("6", "Gauss", (77.9, 46.4)),
        ("6", "Seed", (80.4, 51.3)),
        ("6", "Grid", (81.5, 51.5)),
        ("6", "FAME", (81.2, 52.6)),
        ("6", "Grid †", (86.5, 58.7)),
        ("6", "FAME †", (88.6, 61.1)),
    ],
)
def test_values_are_as_printed(number, row, expected):
    assert tuple(tables.table("fame", number).published.loc[row]) == expected


def test_sums_of_columns():
    "A digit that was copied wrongly anywhere would show; the sums were added up from the page."
    assert {n: [round(float(v), 1) for v in tables.table("fame", n).published.sum()] for n in "1256"} == {
        "1": [2007.2, 1150.1],
        "2": [175.7, 239.5, 271.8, 304.0, 251.4],
        "5": [243.5, 241.9, 153.8, 155.3],
        "6": [571.9, 367.1],
    }


def test_experiments_that_several_tables_print_agree():
    for column in ("UCF101", "HMDB51"):
        assert value("3", "1.0", column) == value("4", "none", column) == value("6", "baseline", column)
        assert (
            value("3", "0.5", column)
            == value("4", "inter-video", column)
            == value("5", "0.5", f"{column} single")
            == value("6", "FAME", column)
        )
        for beta in ("0.7", "0.3"):
            assert value("3", beta, column) == value("5", beta, f"{column} single")
        assert value("1", "MoCo+FAME I3D fine-tune", column) == value("6", "FAME †", column)


@pytest.mark.parametrize(
    "number,pairs",
    [
        (
            "1",
            {
                "MoCo+FAME R(2+1)D linear": "MoCo R(2+1)D linear",
                "MoCo+FAME R(2+1)D fine-tune": "MoCo R(2+1)D fine-tune",
            },
        ),
        ("4", {"intra-video": "none", "inter-video": "none"}),
    ],
)
def test_printed_gains_are_the_differences(number, pairs):
    found = {
        (l["row"], l["column"].removesuffix(" gain")): float(l["value"])
        for l in tables.csv_lines("fame", number)
        if l["column"].endswith(" gain")
    }
    assert set(found) == {(row, column) for row in pairs for column in ("UCF101", "HMDB51")}
    for (row, column), gain in found.items():
        assert gain == pytest.approx(value(number, row, column) - value(number, pairs[row], column))


def test_settings_and_sources_are_as_printed():
    about, cites = (
        tables.published_settings(tables.table("fame", "1").definition),
        {l["row"]: l["cites"] for l in tables.csv_lines("fame", "1")},
    )
    assert about.loc["MemDPC R3D-34 linear"].tolist() == [
        "R3D-34",
        "Kinetics-400",
        "40",
        "224",
        "✓",
    ] and about.loc["Shuffle AlexNet fine-tune"].tolist() == ["AlexNet", "UCF101", "3", "256", "✗"]
    assert about["Freeze"].value_counts().to_dict() == {"✗": 21, "✓": 7} and set(
        about["Pretrain Dataset"]
    ) == {"Kinetics-600", "Kinetics-400", "UCF101"}
    assert (
        cites["MoCo+BE I3D fine-tune"] == "Wang et al. 2021b"
        and cites["SRTC R(2+1)D fine-tune"] == "Zhang et al. 2021"
        and cites["MoCo+FAME I3D fine-tune"] == ""
    )
    labels = {r.key: r.label for r in tables.table("fame", 1).rows}
    assert (
        labels["CBT S3D linear"] == "CBT (Sun et al. 2019)"
        and labels["MemDPC R3D-34 linear"] == labels["MemDPC R3D-34 fine-tune"]
    )


def test_the_text_and_the_claims_agree():
    said = {
        (number, c.place, c.better[0], w)
        for number in NUMBERS
        for c in tables.table("fame", number).claims
        for w in c.worse
    }
    assert {
        ("1", "HMDB51", "MoCo+FAME I3D fine-tune", "MoCo+BE I3D fine-tune"),
        ("1", "UCF101", "MoCo+FAME R(2+1)D fine-tune", "SRTC R(2+1)D fine-tune"),
        ("1", "UCF101", "MoCo+FAME R(2+1)D linear", "MLRep R3D-18 linear"),
        ("2", "R@1", "FAME", "ASCNet"),
        ("2", "R@20", "ASCNet", "FAME"),
        ("4", "HMDB51", "inter-video", "intra-video"),
        ("5", "HMDB51 both against HMDB51 single", "0.3", "0.3"),
        ("6", "UCF101", "Grid", "FAME"),
        ("6", "HMDB51", "FAME", "Grid"),
        ("6", "UCF101", "FAME †", "Grid †"),
    } <= said
    assert not any(c.by == "ours" for n in NUMBERS for c in tables.table("fame", n).claims if n != "2")


# ---------------------------------------------------------------- plans


def pretrainings(plan):
    return {key: r.parent.hash for key, r in plan.cells.items()}


@pytest.mark.parametrize("profile", ["smoke", "demo", "paper"])
def test_tables_share_their_pretrainings(place, profile):
    plans = {
        n: tables.table("fame", n).plan(profile, data=None if profile == "paper" else "puppets")
        for n in NUMBERS
    }
    of = lambda number, row, column="UCF101": plans[number].cells[row, column, 0].parent.hash
    assert of("3", "1.0") == of("4", "none") == of("6", "baseline")
    assert of("3", "0.5") == of("4", "inter-video") == of("5", "0.5", "UCF101 single") == of("6", "FAME")
    assert of("1", "MoCo+FAME I3D fine-tune") == of("6", "FAME †") != of("6", "FAME")
    assert of("2", "MoCo", "R@1") == of("1", "MoCo R(2+1)D linear") == of(
        "1", "MoCo R(2+1)D fine-tune"
    ) and of("2", "FAME", "R@5") == of("1", "MoCo+FAME R(2+1)D linear")
    assert plans["3"].cells["0.5", "HMDB51", 0].hash == plans["5"].cells["0.5", "HMDB51 single", 0].hash
    kinds = {n: {k: sum(r.kind == k for r in p.runs) for k in recipes.KINDS} for n, p in plans.items()}
    assert kinds == {
        "1": dict(pretrain=4, finetune=8, linear=4, retrieval=0),
        "2": dict(pretrain=2, finetune=0, linear=0, retrieval=2),
        "3": dict(pretrain=4, finetune=8, linear=0, retrieval=0),
        "4": dict(pretrain=3, finetune=6, linear=0, retrieval=0),
        "5": dict(pretrain=6, finetune=12, linear=0, retrieval=0),
        "6": dict(pretrain=7, finetune=14, linear=0, retrieval=0),
    }
    assert (
        len({r.hash for p in plans.values() for r in p.runs if r.kind == "pretrain"}) == 4 + 4 + 1 + 3 + 4
    )  # tables 1 and 2, then what 3, 4, 5 and 6 add


def test_the_methods_behind_the_rows():
    t = {n: {r.key: (r.method, dict(r.params)) for r in tables.table("fame", n).rows} for n in NUMBERS}
    assert t["1"]["MoCo+BE I3D fine-tune"][0] == "be" and t["1"]["SRTC R(2+1)D fine-tune"] == (None, {})
    assert t["4"]["intra-video"] == ("fame", {"background": "intra", "beta": 0.5})
    assert {k: v[1].get("variant") for k, v in t["6"].items()} == {
        "baseline": None,
        "Gauss": "gauss",
        "Seed": "seed",
        "Grid": "grid",
        "FAME": None,
        "Grid †": "grid",
        "FAME †": None,
    }
    assert [dict(c.params) for c in tables.table("fame", 5).columns] == [{}, {"branch": "both"}] * 2


def test_the_paper_profile_is_the_papers(place):
    cells = tables.table("fame", 1).plan("paper").cells
    probe, tune, i3d = (
        cells[row, "HMDB51", 0]
        for row in ("MoCo+FAME R(2+1)D linear", "MoCo+FAME R(2+1)D fine-tune", "MoCo+FAME I3D fine-tune")
    )
    for r in (probe, tune):
        assert (
            r.backbone,
            r.clips.size,
            r.parent.clips.size,
            r.parent.params["head"],
            r.parent.params["queue"],
        ) == ("r2plus1d_18", 112, 112, "mlp", 65536)
    assert (
        i3d.backbone,
        i3d.clips.size,
        i3d.parent.clips.size,
        i3d.parent.params["head"],
        i3d.parent.params["queue"],
        i3d.parent.data.name,
    ) == ("i3d", 224, 224, "mlp", 65536, "kinetics400")
    assert (
        probe.kind == "linear"
        and probe.params["normalize"]
        and not probe.params.get("cached")
        and probe.schedule.epochs == 100
        and probe.test_views == 10
    )
    assert (
        tune.schedule.lr == 0.025
        and tune.schedule.milestones == (60, 120)
        and tune.params["dropout"] == 0.7
        and tune.parent.schedule.epochs == 200
    )
    ablation = tables.table("fame", 6).plan("paper").cells
    assert (
        ablation["Seed", "UCF101", 0].parent.params["queue"] == 2048
        and ablation["Grid †", "UCF101", 0].parent.params["queue"] == 65536
    )
    assert {r.clips.size for r in tables.table("fame", 2).plan("paper").runs} == {112}


def test_every_paper_plan_has_an_estimate(place):
    plans = {n: tables.table("fame", n).plan("paper", device="cpu") for n in NUMBERS}
    assert (
        all(p.seconds > 86400 for p in plans.values())
        and plans["1"].seconds > plans["2"].seconds > plans["4"].seconds
    )  # Kinetics-400 costs more than UCF101
    probe, tune = (plans["1"].cells[f"MoCo R(2+1)D {word}", "UCF101", 0] for word in ("linear", "fine-tune"))
    test = 3783 * 10  # clips
    clip = runs._clip_gmac("r2plus1d_18", probe.model, 16, 112)
    assert runs._gmac(probe, {}) == pytest.approx(clip * (9537 // 128 * 128 * 100 + test), rel=0.02)
    assert runs._gmac(tune, {}) == pytest.approx(clip * (9537 // 128 * 128 * 150 * 3 + test), rel=0.02)
    find = plans["2"].cells["FAME", "R@1", 0]
    assert runs._gmac(find, {}) == pytest.approx(clip * (9537 * 10 + test))


def test_a_small_profile_runs_a_part_and_says_so(place):
    t = tables.table("fame", 6)
    plan = t.plan("demo")
    assert (
        set(plan.videos.pretrain) == {r.key for r in t.rows}
        and plan.videos.columns == {"UCF101": "puppets-u", "HMDB51": None}
        and "Column HMDB51 is not run" in str(plan)
    )
    assert {plan.videos.pretrain[k] for k in ("Grid †", "FAME †")} == {"puppets-k"} and plan.videos.pretrain[
        "Grid"
    ] == "puppets-u"
    whole = t.plan("demo", data="puppets")
    assert (
        len(whole.cells) == 14
        and not whole.videos.why_not
        and whole.stem == plan.stem == "fame_table6_mask_variants"
    )
    rows = tables.table("fame", 5).plan("smoke")
    assert {k[0] for k in rows.cells} == {"0.5"} and "Row 0.7; Row 0.3 are not run" in str(rows)


def test_rows_whose_pretraining_has_no_data_are_left_out(place, shared_data, monkeypatch):
    monkeypatch.setenv("MVNB_DATA_UCF101", str(shared_data / "mini"))
    monkeypatch.setenv("MVNB_DATA_UCF101_ANNOTATIONS", str(shared_data / "annotations" / "mini"))
    for plan in (tables.table("fame", 6).plan("smoke", data="ucf101"), tables.table("fame", 6).plan("paper")):
        assert (
            "Grid †" not in plan.videos.pretrain
            and set(plan.videos.pretrain.values()) == {"ucf101"}
            and not plan.videos.blocked
        )
        assert (
            "Row Grid †" in str(plan)
            and "kinetics400" in str(plan)
            and {c for _, c, _ in plan.cells} == {"UCF101"}
        )
    blocked = tables.table("fame", 1).plan("paper")
    assert "kinetics400" in blocked.videos.blocked and len(blocked.cells) == 12
    with pytest.raises(ValueError, match="the pretraining needs kinetics400"):
        tables.table("fame", 1).plan("smoke", data="ucf101")
    with pytest.raises(ValueError, match="did you mean 'ucf101'"):
        tables.table("fame", 2).plan("smoke", data="ucf11")


# ---------------------------------------------------------------- verdicts


def test_as_good_as_has_no_direction():
    claim, numbers = Claim("x", "a", ("p",), ("q",), within=2.0), pd.DataFrame({"a": {"p": 50.0, "q": 51.5}})
    assert claim.gap(numbers) == -1.5 and claim.strength(-1.5) == claim.strength(1.5) == 0.5


# ---------------------------------------------------------------- every table, run once from one store


@pytest.fixture(scope="module")
def outcomes(place):
    return {n: tables.table("fame", n).run("smoke", device="cpu", workers=0, progress=False) for n in NUMBERS}


def test_all_tables_run_and_share_one_store(outcomes, place):
    every = {r.hash for o in outcomes.values() for r in o.plan.runs}
    assert {p.name for p in (place / "runs").glob("[0-9a-f]*")} == every and sum(
        len(o.plan.runs) for o in outcomes.values()
    ) > len(every)
    for n, out in outcomes.items():
        frame, text = out.comparison, str(out)
        assert (
            list(frame.index) == [r.label for r in out.definition.rows]
            and "ours, smoke profile" in text
            and "compare our rows with each other" in text
        )
        for r, (_, line) in zip(out.definition.rows, frame["ours, smoke profile"].iterrows()):
            shown = set(line)
            assert (
                shown == {"—"}
                if r.method is None
                else all(v == "not run" or 0 <= float(v) <= 100 for v in shown)
            )
        left, right = out.figure().axes
        assert (
            left.get_title() != right.get_title()
            and left.get_legend_handles_labels()[1]
            and right.get_legend_handles_labels()[1]
        )
    assert (
        "puppets-k for Kinetics-400" in str(outcomes["1"])
        and "—" in str(outcomes["2"])
        and "Column HMDB51 is not run" in str(outcomes["6"])
    )


def counted(out, row, column, test) -> float:  # %
    "The share of videos whose class is among the first k guesses, from the stored predictions."
    ranks = ranks_of(out.results[row, column, 0].folder / "predictions" / f"{test}.csv")
    share = 100 * ((ranks >= 0) & (ranks < out.column(column).k)).mean()
    assert out.hits(row, column, test).shape == (1, len(ranks))
    assert out.hits(row, column, test)[0].mean() == pytest.approx(share)
    return share


def test_one_retrieval_fills_all_columns_and_its_videos_are_paired(outcomes):
    out = outcomes["2"]
    for row in ("FAME", "MoCo"):
        assert len({out.results[row, c.key, 0].recipe.hash for c in out.definition.columns}) == 1
        for test in ("biased", "unbiased"):
            shown = [float(out.values(row, c.key, test)[0]) for c in out.definition.columns]
            assert (
                shown
                == sorted(shown)
                == pytest.approx([counted(out, row, c.key, test) for c in out.definition.columns])
            )


@pytest.mark.parametrize("number", ["1", "6"])
def test_accuracies_are_those_of_the_stored_predictions(outcomes, number):
    out = outcomes[number]
    for row, column, _ in out.results:
        for test in ("biased", "unbiased"):
            assert out.values(row, column, test)[0] == pytest.approx(counted(out, row, column, test))


def test_figures_show_every_number_of_ours(outcomes):
    out = outcomes["6"]
    right = out.figure().axes[1]
    drawn = {c.get_label(): sorted(c.lines[0].get_xdata()) for c in right.containers}
    assert drawn == {
        f"puppets-u, {t}": pytest.approx(
            sorted(float(out.values(r.key, "UCF101", t)[0]) for r in out.definition.rows)
        )
        for t in ("biased", "unbiased")
    }
    left = outcomes["1"].figure().axes[0]
    assert [
        len(line.get_xdata()) for line in left.get_lines() if line.get_label() in ("UCF101", "HMDB51")
    ] == [28, 28]


@pytest.mark.parametrize("number", NUMBERS)
def test_every_notebook_runs_cell_by_cell(outcomes, place, number, run_page):
    d = tables.table("fame", number).definition
    before = {p: p.stat().st_mtime_ns for p in (place / "runs").glob("*/result.json")}
    text = run_page(f"tables/{d.notebook}", profile="smoke", device="cpu", workers=0)
    assert (
        f"FAME, Table {number}" in text
        and f"`mvnb table fame {number}`" in text
        and "last reproduced" in text
    )
    assert {p: p.stat().st_mtime_ns for p in (place / "runs").glob("*/result.json")} == before
    for suffix in (".png", ".claims.csv"):
        assert (place / "outputs" / "mine" / "smoke" / f"{d.notebook}{suffix}").is_file()


# ---------------------------------------------------------------- the scoreboard


def pretend(out: Outcome, folder: Path, profile="demo") -> Outcome:
    "The same runs under another profile's name and three seeds: FAME is always right, nobody else ever."
    results = {}
    for (row, column, _), r in out.results.items():
        metrics = {test: found | dict(top1=100.0 * ("FAME" in row)) for test, found in r.metrics.items()}
        meta = dict(commit="abc1234567", device="a lamp", seconds=1.0)
        for seed in range(3):
            results[row, column, seed] = runs.Result(r.recipe, folder, metrics, meta)
    return Outcome(dataclasses.replace(out.plan, profile=profile, seeds=(0, 1, 2)), results)


def test_verdicts_are_saved_beside_the_page_and_gathered_from_there(outcomes, place, tmp_path, monkeypatch):
    monkeypatch.setenv("MVNB_PATHS_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("MVNB_PATHS_RUNS", str(tmp_path / "no-runs"))
    monkeypatch.setenv("MVNB_RUN_PUBLISH", "yes")
    total = sum(len(d.claims) for d in tables.definitions())
    empty = claims.scoreboard("demo")
    assert (
        len(empty) == total
        and set(empty["measured on"]) == {"not run"}
        and {"paper", "table", "claim", "published gap", "seeds", "device", "commit"} <= set(empty)
    )
    for n in "16":
        made = pretend(outcomes[n], tmp_path / n)
        path, again = made.claims.save(), made.claims.save().read_bytes()
        assert (
            path == tmp_path / "outputs" / "demo" / f"{made.definition.notebook}.claims.csv"
            and path.read_bytes() == again
        )
        assert {p.name for p in path.parent.iterdir() if n in p.name} == {path.name}
    monkeypatch.setenv("MVNB_DATA_PUPPETS", str(tmp_path / "no-puppets"))
    board = claims.scoreboard("demo")
    assert (
        not (tmp_path / "no-runs").exists() and not (tmp_path / "no-puppets").exists() and len(board) == total
    )
    line = board[(board.table == "6") & (board["published on"] == "UCF101")].set_index("claim")
    assert (
        line.loc["FAME beats the baseline", "biased test"] == "holds (+100.0 ± 0.0, p < 0.001)"
        and line.loc["FAME beats the baseline", "published gap"] == "+5.4"
    )
    assert (
        line.loc["Grid beats FAME", "unbiased test"] == "fails (-100.0 ± 0.0, p > 0.999)"
        and line.loc["Seed beats Gauss", "biased test"] == "undecided (+0.0 ± 0.0, p = 0.500)"
    )
    assert (
        line.loc["FAME beats the baseline", ["measured on", "seeds", "device", "commit"]]
        == ["puppets-u", "0 1 2", "a lamp", "abc1234567"]
    ).all()
    others = board[board.claim.str.contains("every other work")]
    assert (
        len(others)
        and set(others["biased test"]) == {"not run"}
        and set(board[board.table == "5"]["unbiased test"]) == {"not run"}
    )
    assert set(claims.scoreboard("demo", seeds=1)["measured on"]) == {"not run"} and set(
        claims.scoreboard("demo", seeds=3)["measured on"]
    ) == {"not run", "puppets-u"}
    assert set(claims.scoreboard("demo", source="mine")["measured on"]) == {"not run"}
    monkeypatch.setenv("MVNB_RUN_PUBLISH", "no")
    made.claims.save()  # apart from the committed ones
    assert "puppets-u" in set(claims.scoreboard("demo", source="mine")["measured on"])


def test_the_scoreboard_reads_the_store(outcomes, place):
    board = claims.scoreboard("smoke", source="store")
    judged = board[board["biased test"] == "not judged"]
    assert set(judged.table) == set(NUMBERS) and len(board) == sum(
        len(d.claims) for d in tables.definitions()
    )
    two = claims.scoreboard("smoke", seeds=2, source="store")
    assert set(two["measured on"]) == {"not run"}  # only seed 0 is there


def test_wrong_choices_of_the_scoreboard_are_sentences(tmp_path, monkeypatch):
    monkeypatch.setenv("MVNB_PATHS_OUTPUTS", str(tmp_path))
    with pytest.raises(ValueError, match="did you mean 'demo'"):
        claims.scoreboard("dmeo")
    with pytest.raises(ValueError, match="use 'pages', 'mine' or 'store'"):
        claims.scoreboard("demo", source="page")
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "fame_table3_foreground_ratio.claims.csv").write_text("claim,verdict\nx,holds\n")
    with pytest.raises(ValueError, match="lacks .*commit.*run its page again"):
        claims.scoreboard("demo")
