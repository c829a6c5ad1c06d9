"Tables: published numbers, plans, verdicts, rendering, and the guard of the parameters."

import csv
import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from mvnb import figures, models, pages, recipes, records, runs, tables
from mvnb.outcomes import Outcome, provenance_of
from mvnb.tables import Claim, seeds_of

ROOT = Path(__file__).resolve().parent.parent
FAME3 = {
    "1.0": (75.8, 45.5),
    "0.7": (80.3, 49.6),
    "0.5": (81.2, 52.6),
    "0.3": (82.0, 51.6),
}  # the paper's page, Table 3


@pytest.fixture
def here(tmp_path, monkeypatch, puppets_root):
    "An empty store, puppets made once for the session, and no real data."
    monkeypatch.setenv("MVNB_PATHS_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("MVNB_PATHS_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("MVNB_DATA_PUPPETS", str(puppets_root))
    few = {
        part: dataclasses.replace(getattr(recipes.DEMO, part), batch_size=8)
        for part in ("pretrain", "finetune")
    }
    monkeypatch.setattr(
        recipes, "DEMO", dataclasses.replace(recipes.DEMO, scale=recipes.SMOKE.scale, **few)
    )  # as few videos to make
    for name in ("UCF101", "HMDB51"):
        monkeypatch.setenv(f"MVNB_DATA_{name}", str(tmp_path / f"no-{name}"))
        monkeypatch.setenv(f"MVNB_DATA_{name}_ANNOTATIONS", str(tmp_path / f"no-{name}"))
    return tmp_path


# ---------------------------------------------------------------- definitions


@pytest.mark.parametrize("d", tables.definitions(), ids=lambda d: d.notebook)
def test_every_definition_is_whole(d):
    rows, columns = [r.key for r in d.rows], [c.key for c in d.columns]
    assert len(set(rows)) == len(rows) and len(set(columns)) == len(columns)
    assert {d.protocol, *(r.protocol for r in d.rows if r.protocol)} <= set(
        tables.PROTOCOLS
    ) and d.figure in ("rows", "columns", "dots")
    for part in d.parts.values():
        assert set(part.rows or ()) <= {r.key for r in d.rows if r.method} and set(part.columns or ()) <= set(
            columns
        )
    assert (ROOT / "nbs" / "tables" / f"{d.notebook}.ipynb").is_file() and d.notebook.startswith(
        tables.stem_of(d.paper, d.number) + "_"
    )
    assert len({(c.text, c.place) for c in d.claims}) == len(d.claims)  # by which the scoreboard finds them
    for claim in d.claims:
        assert {claim.column, claim.versus or claim.column} <= set(columns) and {
            *claim.better,
            *claim.worse,
        } <= set(rows)
        assert not claim.pairs == [] and all(
            (b, claim.column) != (w, claim.versus or claim.column) for b, w in claim.pairs
        )
    numbers = tables.published(d)
    assert list(numbers.index) == rows and list(numbers.columns) == columns
    gaps = {(r.key, c) for r in d.rows for c in columns if np.isnan(numbers.loc[r.key, c])}
    unread = {
        (l["row"], l["column"]) for l in tables.published_lines(d) if not l["value"]
    }  # a dash, or nothing that can be read: the file says which
    ours = {(r.key, c) for r in d.rows if r.extra or d.is_ours for c in columns}
    assert gaps == ours | unread
    for claim in d.claims:  # the paper's numbers bear out the paper's claims
        for b, w in claim.pairs:
            gap = numbers.loc[b, claim.column] - numbers.loc[w, claim.versus or claim.column]
            if unread & {(b, claim.column), (w, claim.versus or claim.column)}:
                continue  # said in the text, beside numbers that cannot be read
            assert (
                math.isnan(gap) or gap > 0
                if claim.by == "ours"
                else gap > claim.least
                if claim.within is None
                else abs(gap) <= claim.within
            ), claim


@pytest.mark.parametrize("path", sorted((ROOT / "mvnb" / "published").glob("*.csv")), ids=lambda p: p.stem)
def test_published_files_say_row_column_unit_and_source(path):
    with open(path, newline="") as file:
        lines = list(csv.DictReader(file))
    assert lines and set(lines[0]) - {"note"} == {"row", "column", "value", "unit", "metric", "cites"}
    for line in lines:
        assert line["metric"] and (line["value"] or "dash" in line["metric"] or line["note"])
        if line["metric"] != "setting" and line["value"]:
            assert line["unit"] in ("%", "points") and 0 <= float(line["value"]) <= 100
    known = {tables.stem_of(d.paper, d.number) for d in tables.definitions()}
    assert path.stem in known | {tables.stem_of(d.paper, d.number, "figure") for d in figures.definitions()}


def test_fame_table_3_is_as_printed():
    t = tables.table("fame", 3)
    assert {r: tuple(t.published.loc[r]) for r in t.published.index} == FAME3
    assert [(r.method, dict(r.params)) for r in t.rows] == [
        ("moco", {}),
        ("fame", {"beta": 0.7}),
        ("fame", {"beta": 0.5}),
        ("fame", {"beta": 0.3}),
    ]
    said = {(c.column, pair) for c in t.claims for pair in c.pairs}
    for column, best in (("UCF101", "0.3"), ("HMDB51", "0.5")):
        assert {(column, (b, "1.0")) for b in ("0.7", "0.5", "0.3")} | {
            (column, ("0.5", "0.7")),
            (column, ("0.3", "0.7")),
        } <= said
        assert {(column, (best, o)) for o in FAME3 if o != best} <= said


def test_a_csv_that_does_not_fit_is_refused(monkeypatch):
    d = tables.table("fame", "3").definition
    with pytest.raises(ValueError, match="0.3"):
        tables.published(dataclasses.replace(d, rows=d.rows[:3]))
    twice = tables.csv_lines("fame", "3")[:1] * 2
    monkeypatch.setattr(tables, "csv_lines", lambda *key: twice)
    with pytest.raises(ValueError, match="twice"):
        tables.published(d)


@pytest.mark.parametrize(
    "paper,number,message", [("fame", 99, "there is no table 99"), ("fane", 3, "did you mean 'fame'")]
)
def test_an_unknown_table_is_named(paper, number, message):
    with pytest.raises(ValueError, match=message):
        tables.table(paper, number)


# ---------------------------------------------------------------- plans


@pytest.mark.parametrize(
    "value,seeds",
    [
        (1, (0,)),
        (3, (0, 1, 2)),
        ("2", (0, 1)),
        ("0,4", (0, 4)),
        ("[3]", (3,)),
        ([5, 2], (5, 2)),
        ("7,", (7,)),
    ],
)
def test_seeds(value, seeds):
    assert seeds_of(value) == seeds


@pytest.mark.parametrize("value", [0, -1, "x", "", True, 1.5, None, [], [1, 1], [-1], "1,x", [True], 10**20])
def test_seeds_that_mean_nothing(value):
    with pytest.raises(ValueError, match="seeds is"):
        seeds_of(value)


def test_puppets_beside_real_data_are_refused(here):
    with pytest.raises(ValueError, match='"puppets" stands alone'):
        tables.table("fame", 3).plan("demo", data="ucf101,puppets")


def test_a_plan_shares_pretrainings(here):
    plan = tables.table("fame", 3).plan("smoke", seeds=2)
    kinds = [r.kind for r in plan.runs]
    assert kinds.count("pretrain") == 4 * 2 and kinds.count("finetune") == 4 * 2 * 2
    done = set()
    for r in plan.runs:  # parents come first
        assert r.parent is None or r.parent.hash in done
        done.add(r.hash)
    assert {r.data.name for r in plan.runs if r.kind == "pretrain"} == {"puppets-u"}
    assert {(column, recipe.data.name) for (_, column, _), recipe in plan.cells.items()} == {
        ("UCF101", "puppets-u"),
        ("HMDB51", "puppets-h"),
    }
    assert len({r.hash for r in plan.runs}) == 24 and len(plan.todo) == 24 and plan.seconds > 0


def test_the_baseline_is_plain_moco_so_that_tables_share_it(here):
    plan = tables.table("fame", 3).plan("smoke")
    assert plan.cells["1.0", "UCF101", 0].parent == recipes.pretraining(
        recipes.SMOKE, "moco", "puppets-u", "i3d"
    )


def test_the_paper_plan_is_shown_without_data_and_not_run(here):
    t = tables.table("fame", 3)
    plan = t.plan("paper")
    assert (
        {r.backbone for r in plan.runs} == {"i3d"}
        and {r.data.name for r in plan.runs} == {"ucf101", "hmdb51"}
        and len(plan.runs) == 12
    )
    assert plan.seconds > 86400 and "Nothing can be run yet" in str(plan) and "ucf101" in plan.videos.blocked
    with pytest.raises(ValueError, match="ucf101"):
        t.run(plan)


@pytest.mark.parametrize(
    "profile,data,message",
    [
        ("demo", "ucf11", "did you mean 'ucf101'"),
        ("demo", "ucf101", "ucf101"),
        ("paper", "puppets", "the paper profile is"),
        ("large", None, "profile 'large'"),
    ],
)
def test_choices_that_cannot_be(here, profile, data, message):
    with pytest.raises(ValueError, match=message):
        tables.table("fame", 3).plan(profile, data=data)


def test_a_column_without_data_is_not_run_and_says_why(here, shared_data, monkeypatch):
    monkeypatch.setenv("MVNB_DATA_UCF101", str(shared_data / "mini"))
    monkeypatch.setenv("MVNB_DATA_UCF101_ANNOTATIONS", str(shared_data / "annotations" / "mini"))
    t = tables.table("fame", 3)
    for plan in (t.plan("smoke", data="ucf101"), t.plan("paper")):
        assert (
            plan.videos.columns == {"UCF101": "ucf101", "HMDB51": None}
            and not plan.videos.blocked
            and "Column HMDB51 is not run" in str(plan)
        )
        assert {r.data.name for r in plan.runs} == {"ucf101"}
    assert (
        t.plan("smoke", data="ucf101").stem.endswith("_ucf101")
        and t.plan("smoke").stem == "fame_table3_foreground_ratio"
    )
    with pytest.raises(ValueError, match="hmdb51"):
        t.plan("smoke", data="ucf101,hmdb51")


# ---------------------------------------------------------------- outcomes


def made_up(plan, folder, rate, n=200, classes=8):
    "An Outcome by rate(row, column, test) in [0,1]; rows answer videos alike as far as their rates allow."
    results = {}
    for k, ((row, column, seed), recipe) in enumerate(plan.cells.items()):
        place, metrics = folder / recipe.hash, {}
        (place / "predictions").mkdir(parents=True)
        for test, _ in recipe.tests:
            order = np.random.default_rng(seed).permutation(n)
            right = order < round(rate(row, column, test, seed) * n)
            with open(place / "predictions" / f"{test}.csv", "w", newline="") as file:
                write = csv.writer(file)
                write.writerow(("path", "label", "ok", "predicted", "probability", "rank"))
                for i in np.random.default_rng(k).permutation(n):
                    write.writerow((f"{i:04}.mp4", 0, 1, 0, 1.0, 0 if right[i] else 3))
            metrics[test] = dict(
                top1=100 * right.mean(), top5=100.0, n=n, failed=[], confusion=[[0] * classes] * classes
            )
        results[row, column, seed] = runs.Result(
            recipe, place, metrics, dict(commit="abc1234567", device="cpu (2 cores)", seconds=1.0)
        )
    return Outcome(plan, results)


RATES = {"1.0": 0.40, "0.7": 0.55, "0.5": 0.70, "0.3": 0.85}


def test_an_outcome_shows_what_was_measured_and_judges_it(here):
    plan = tables.table("fame", 3).plan("demo", seeds=3)
    out = made_up(
        plan,
        here / "fake",
        lambda row, column, test, seed: RATES[row] - 0.1 * (test == "unbiased") + 0.01 * seed,
    )
    frame, text = out.comparison, str(out)
    assert list(dict.fromkeys(frame.columns.get_level_values(0))) == ["published", "ours, demo profile"]
    assert frame["published", "UCF101", ""].tolist() == [f"{v[0]:.1f}" for v in FAME3.values()]
    assert out.frame.query(
        "row == '0.3' and column == 'UCF101' and test == 'biased' and seed == 2"
    ).value.tolist() == pytest.approx([87.0])
    assert frame["ours, demo profile", "puppets-h", "unbiased"].tolist() == [
        f"{100 * r - 10 + 1:.1f} ± 1.0" for r in RATES.values()
    ]
    for part in (
        "seeds 0, 1, 2",
        "abc1234567",
        "cpu (2 cores)",
        "demo profile",
        "i3d_tiny",
        "chance 12.5 %",
        "stand in",
        "200 videos",
    ):
        assert part in text and part.split()[0] in out._repr_html_()
    verdicts = out.claims.frame.set_index(["published on", "claim"])
    assert verdicts.loc[("UCF101", "β = 0.3 is best"), "biased test"].startswith("holds (+15.0")
    assert verdicts.loc[("HMDB51", "β = 0.5 is best"), "unbiased test"].startswith(
        "fails (-15.0"
    )  # as measured, though the paper says otherwise
    assert verdicts.loc[("UCF101", "β = 0.5 and 0.3 both beat 0.7"), "biased test"].startswith("holds (+15.0")
    assert set(verdicts["measured on"]) == {"puppets-u", "puppets-h"} and len(verdicts) == len(
        plan.definition.claims
    )


def test_the_weakest_inequality_decides_a_claim(here):
    plan = tables.table("fame", 3).plan("demo", seeds=3)
    rates = {"1.0": 0.40, "0.7": 0.70, "0.5": 0.70, "0.3": 0.40}
    out = made_up(plan, here / "fake", lambda row, *_: rates[row])
    claim = lambda *pair: out.verdict(Claim("x", "UCF101", *pair), "biased")
    assert (
        claim(("0.5",), ("1.0",)).verdict == "holds"
        and claim(("0.5",), ("1.0", "0.7")).verdict == "undecided"
    )
    assert claim(("0.5", "0.3"), ("0.7",)).verdict == "fails" and claim(
        ("0.5", "0.3"), ("0.7",)
    ).gap == pytest.approx(-30)


def test_smoke_runs_are_never_judged(here):
    out = made_up(tables.table("fame", 3).plan("smoke"), here / "fake", lambda row, *_: RATES[row])
    assert set(out.claims.frame["biased test"]) == {"not judged"} and "not judged" in str(out.claims)


def test_unreadable_test_videos_are_told(here):
    out = made_up(tables.table("fame", 3).plan("demo"), here / "fake", lambda row, *_: RATES[row])
    out.results["0.3", "UCF101", 0].metrics["biased"]["failed"] = ["a.mp4", "b.mp4"]
    assert "Counted as wrong: 2 test videos that could not be read." in str(out)


def test_the_threads_of_a_run_stand_beside_its_device():
    of = lambda device, **more: SimpleNamespace(meta=dict(commit="abc", device=device) | more)
    cpu = [of("cpu (2 cores)", threads=1), of("cpu (2 cores)", threads=1), of("cpu (2 cores)", threads=2)]
    others = [of("a GPU", threads=None), of("an old cpu")]
    said = provenance_of(cpu + others)
    assert said == (
        "commit abc; device cpu (2 cores) with 1 thread, cpu (2 cores) with 2 threads, a GPU, an old cpu"
    )


def test_the_figure_keeps_published_and_ours_apart(here):
    out = made_up(
        tables.table("fame", 3).plan("demo", seeds=2),
        here / "fake",
        lambda row, column, test, seed: RATES[row] + 0.02 * seed,
    )
    left, right = out.figure().axes
    assert {tuple(line.get_ydata()) for line in left.get_lines()} == {
        tuple(v[k] for v in FAME3.values()) for k in (0, 1)
    }
    assert (
        "published" in left.get_title()
        and "demo profile" in right.get_title(loc="right")
        and all(ax.get_xlabel() and ax.get_ylabel() for ax in (left, right))
    )
    drawn = [c.lines[0].get_ydata() for c in right.containers]
    assert len(drawn) == 4 and all(np.allclose(y, [100 * r + 1 for r in RATES.values()]) for y in drawn)
    path = out.save_figure()
    assert (
        path == here / "outputs" / "mine" / "demo" / "fame_table3_foreground_ratio.png"
        and path.read_bytes()[:4] == b"\x89PNG"
        and {p.name for p in path.parent.iterdir()} == {path.name, path.with_suffix(".numbers.csv").name}
    )
    kept = pd.read_csv(path.with_suffix(".numbers.csv"), dtype={"row": str})
    assert len(kept) == len(out.frame) and list(kept) == list(out.frame)
    assert np.allclose(kept["value"], out.frame["value"], atol=1e-4)


def test_markdown_is_aligned_and_complete():
    import pandas as pd

    text = tables.markdown(
        pd.DataFrame(
            {("a", "b"): [1, None], ("a", ""): ["x", "longer"]}, index=pd.Index(["p", "q"], name="β")
        )
    )
    lines = text.splitlines()
    assert (
        len({len(l) for l in lines}) == 1
        and lines[0].split("|")[1:4] == [" β ", " a b ", " a      "]
        and "longer" in lines[3]
    )


@pytest.mark.parametrize(
    "seconds,text",
    [
        (None, "unknown"),
        (0.2, "< 1 s"),
        (45, "45 s"),
        (600, "10 min"),
        (9000, "2.5 h"),
        (86400 * 12, "12 days"),
        (86400 * 1234.4, "1,234 days"),
    ],
)
def test_durations(seconds, text):
    assert tables.duration(seconds) == text


# ---------------------------------------------------------------- parameters, in an IPython shell of its own

HEAD, DEFAULTS = (
    "from mvnb import pages\npage = pages.Page('fame', 3)",
    "profile = 'smoke'  # x\ndata = ''\nseeds = 1\ndevice = 'cpu'\nworkers = 0",
)
TAKE = "taken = page.read(profile=profile, data=data, seeds=seeds, device=device, workers=workers)"


@pytest.fixture
def shell(here, shell):
    return shell


def test_parameters_are_taken(shell):
    ns = shell(HEAD, DEFAULTS, "# Parameters\nprofile = 'demo'\nseeds = '0,2'\n", TAKE)
    assert ns["taken"] == dict(profile="demo", data="", seeds=[0, 2], device="cpu", workers=0) and ns[
        "page"
    ].plan.seeds == (0, 2)


@pytest.mark.parametrize(
    "cell,message",
    [
        ("sead = 2", "unknown parameter 'sead'; did you mean 'seeds'"),
        ("tables = 3", "unknown parameter 'tables'"),
        ("page2: int = 3", "unknown parameter 'page2'"),
        ("profile = 'dmeo'", "did you mean 'demo'"),
        ("profile = 3", "profile is 3"),
        ("seeds = 'two'", "seeds is 'two'"),
        ("seeds = 0", "seeds is 0"),
        ("device = 'gpu'", "'gpu'"),
        ("workers = 'many'", "workers is 'many'"),
        ("data = 7", "data is 7"),
        ("data = 'ucf11'", "did you mean 'ucf101'"),
        ("workers = -1", "workers is '-1'"),
    ],
)
def test_parameters_that_cannot_be_are_refused(shell, cell, message):
    shell(HEAD, DEFAULTS)
    with pytest.raises(ValueError, match=message):
        shell(f"# Parameters\n{cell}\n", TAKE)


def test_a_lost_tag_is_refused(shell):
    with pytest.raises(pages.ParameterError, match="lost its tag"):
        shell("# Parameters\nseeds = 3\n", HEAD)


def test_a_parameter_that_lost_its_default_is_refused(shell):
    with pytest.raises(NameError, match="seeds"):
        shell(HEAD, DEFAULTS.replace("seeds = 1", ""), TAKE)


def test_a_parameter_that_is_not_passed_on_is_refused(shell):
    with pytest.raises(pages.ParameterError, match="seeds was not passed on"):
        shell(HEAD, DEFAULTS, "page.read(profile=profile, data=data, device=device, workers=workers)")


def test_another_interpreter_is_refused(shell, monkeypatch):
    monkeypatch.setenv("MVNB_PYTHON", "/another/python")
    with pytest.raises(pages.ParameterError, match="/another/python"):
        shell(HEAD)


def test_a_person_may_rerun_and_explore(shell):
    "In Jupyter, cells are run again and people make names of their own."
    shell(HEAD, DEFAULTS, TAKE, "mine = 3", "profile = 'demo'", TAKE, HEAD, DEFAULTS, TAKE)
    with pytest.raises(ValueError, match="'sead'"):
        shell("sead = 1\nprofile = 'smoke'", TAKE)


# ---------------------------------------------------------------- other kinds of rows


def small_table(*rows, columns=("SSv2", "Kinetics-400"), **more):
    "A table that no paper has."
    known = {column.key: column for column in tables.DATA.values()}
    options = dict(title="t", notebook="n", metric="m", family="vit", claims=(), numbers={})
    options |= dict(columns=tuple(known[key] for key in columns), pretrain=known["Kinetics-400"]) | more
    return tables.Table(tables.Definition("mgm", "9", rows=rows, **options))


def test_a_row_can_be_pretrained_on_the_data_of_each_column(here):
    plan = small_table(
        tables.Row("own", "own", "mgm", own=True),
        tables.Row("k400", "k400", "mgm"),
        tables.Row("one", "one", "mgm", own=True, columns=("SSv2",)),
    ).plan("smoke")
    found = {key[:2]: (r.parent.data.name, r.data.name) for key, r in plan.cells.items()}
    assert found == {
        ("own", "SSv2"): ("puppets-s", "puppets-s"),
        ("own", "Kinetics-400"): ("puppets-k", "puppets-k"),
        ("k400", "SSv2"): ("puppets-k", "puppets-s"),
        ("k400", "Kinetics-400"): ("puppets-k", "puppets-k"),
        ("one", "SSv2"): ("puppets-s", "puppets-s"),
    }


def test_a_shorter_row_pretrains_less_in_small_profiles_only(here):
    row = tables.Row("half", "half", "mgm", share=0.5)
    lengths = {}
    for name in ("demo", "paper"):
        profile = recipes.profile(name, "mgm")
        recipe = row.pretraining(profile, "puppets-k" if name == "demo" else "ssv2", "vit")
        lengths[name] = recipe.schedule, recipes.pretraining(profile, "mgm", recipe.data.name, "vit").schedule
    short, whole = lengths["demo"]
    assert 2 * short.max_steps == whole.max_steps and lengths["paper"][0] == lengths["paper"][1]


def test_a_row_with_labels_in_between_starts_from_the_fine_tuned_backbone(here):
    "Three runs, one after another; the last one's backbone is the second one's, before its own training."
    t = small_table(tables.Row("more", "more", "mgm", labels=True), columns=("UCF101",))
    plan = t.plan("smoke")
    first, second, third = plan.runs
    assert [r.kind for r in plan.runs] == ["pretrain", "finetune", "finetune"]
    assert [r.data.name for r in plan.runs] == ["puppets-k", "puppets-k", "puppets-u"]
    assert "then labels of puppets-k" in plan.setup["pretrained on"][0]
    assert str(third).endswith("from labels of puppets-k from " + str(first).removeprefix("pretrain "))
    done = t.run(plan)
    (result,) = done.results.values()
    middle = runs.load(second.hash)
    assert (
        result.meta["parent_weights"]
        == records.parsed(middle.folder)["files"]["classifier.safetensors"]["sha256"]
    )
    backbone = models.build(third.backbone, **third.model)
    assert not models.load_weights(backbone, middle.weights).missing
    with pytest.raises(ValueError, match="its parent's kind is 'linear'"):
        dataclasses.replace(third, parent=dataclasses.replace(middle.recipe, kind="linear"))


def test_a_test_in_another_domain_has_its_videos_and_the_first_one_s_classes(here):
    t = small_table(tables.Row("mgm", "mgm", "mgm"), columns=("UCF14→HMDB7",))
    plan = t.plan("smoke")
    (recipe,) = plan.cells.values()
    assert recipe.data.name == "puppets-u" and {data.name for _, data in recipe.tests} == {"puppets-h"}
    classes = recipe.data.load().classes
    for _, data in recipe.tests:
        index, whole = data.load(), dataclasses.replace(data, among="").load()
        kept = [i for i, label in enumerate(whole.labels) if whole.classes[label] in classes]
        assert index.classes == classes and list(index.paths) == [whole.paths[i] for i in kept]
        assert [classes[n] for n in index.labels] == [whole.classes[whole.labels[i]] for i in kept]
        assert 0 < len(index) < len(whole)
    out = t.run(plan)
    assert "puppets-h unbiased" in str(out) and set(out.frame["data"]) == {"puppets-h"}
    with pytest.raises(ValueError, match="has no video of"):
        dataclasses.replace(recipe.tests[0][1], among="puppets-s").load()


def test_the_official_lists_of_another_domain(here, shared_data, monkeypatch):
    "Trained on the source's list, tested on the target's; where one is missing, the column is not run."
    monkeypatch.setenv("MVNB_DATA_PATAN_ANNOTATIONS", str(shared_data / "annotations" / "patan"))
    monkeypatch.setenv("MVNB_DATA_UCF101", str(shared_data / "mini"))
    monkeypatch.setenv("MVNB_DATA_HMDB51", str(shared_data / "mini"))
    profile = recipes.profile("paper", "mgm")
    train = recipes.training_data(profile, "ucf14-hmdb7")
    ((_, test),) = recipes.tests_of(profile, "ucf14-hmdb7")
    assert (train.name, test.name) == ("ucf14-hmdb7-source", "ucf14-hmdb7-target")
    a, b = train.load(), test.load()
    assert a.classes == b.classes and len(a.classes) == 14 and len(set(b.labels)) == 7
    assert tables.data_trouble("ucf14-hmdb7") == ""
    monkeypatch.delenv("MVNB_DATA_HMDB51")
    assert "hmdb51" in tables.data_trouble("ucf14-hmdb7")
