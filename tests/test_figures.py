"Figures: the registry and its plans, clips with their truth, shares of activation, verdicts, and the pages."

import csv
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import ttest_rel

from mvnb import claims, clips, datasets, figures, masks, models, pages, protocols, recipes, runs, tables
from mvnb.augment import luma, normalize, to_float
from mvnb.figures import figure
from mvnb.papers.fame.figures import VARIANTS, Looks, coverage

ROOT = Path(__file__).resolve().parent.parent


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


@pytest.fixture
def real(here, shared_data, monkeypatch):
    monkeypatch.setenv("MVNB_DATA_UCF101", str(shared_data / "mini"))
    monkeypatch.setenv("MVNB_DATA_UCF101_ANNOTATIONS", str(shared_data / "annotations" / "mini"))
    return here


# ---------------------------------------------------------------- registry and plans


@pytest.mark.parametrize("d", figures.definitions(), ids=lambda d: d.notebook)
def test_every_definition_is_whole(d):
    assert issubclass(d.drawing, figures.Drawing) and all(map(callable, d.protocols.values()))
    assert (ROOT / "nbs" / "figures" / f"{d.notebook}.ipynb").is_file() and d.notebook.startswith(
        tables.stem_of(d.paper, d.number, "figure") + "_"
    )
    cells = json.loads((ROOT / "nbs" / "figures" / f"{d.notebook}.ipynb").read_text())["cells"]
    page = "\n".join("".join(cell["source"]) for cell in cells)
    number = d.number if d.number.isdigit() else f'"{d.number}"'
    assert (
        f'pages.FigurePage("{d.paper}", {number})' in page
        and ".save_figure(" in page
        and "claims.save()" in page
    )
    facts = {
        line.split("|")[1].strip(): [c.strip() for c in line.strip("|").split("|")[1:]]
        for line in page.splitlines()
        if line.startswith("|") and not line.startswith("|-")
    }
    assert {"command, from anywhere", "hardware and time", "expected result", "last reproduced"} <= set(
        facts
    ) and all(len(c) == 3 and all(c) for k, c in facts.items() if k)
    assert facts["last reproduced"][0].startswith("see the commit") and facts["last reproduced"][1:] == [
        "in every test run",
        "not yet",
    ]
    if d.layer:
        assert d.layer in dict(
            models.build(recipes.profile("paper", d.paper).backbones[d.family]).named_modules()
        )
        tiny = models.build(recipes.DEMO.backbones[d.family], channels=1, **d.tiny).eval()
        assert d.tiny_layer in dict(tiny.named_modules())
        assert min(tiny.features(torch.zeros(1, 1, 8, 32, 32)).shape[3:]) >= 4


def test_figures_2_and_3_share_a_page():
    assert figure("fame", 3).definition == figure("FAME", "2").definition


@pytest.mark.parametrize(
    "paper,number,message",
    [("fame", 99, "there is no figure 99 .*fame 2; fame 3; fame 4"), ("fane", 4, "did you mean 'fame'")],
)
def test_an_unknown_figure_is_named(paper, number, message):
    with pytest.raises(ValueError, match=message):
        figure(paper, number)


@pytest.mark.parametrize("profile", ["smoke", "demo"])
def test_figure_4_has_runs_of_its_own_at_small_profiles(here, profile):
    "Their networks have a finer last map than those of the tables."
    plan = figure("fame", 4).plan(profile, seeds=2)
    assert {tuple(r.model["blocks"]) for r in plan.runs} == {("3b", "3c")}
    kinds = [r.kind for r in plan.runs]
    assert (
        {k: kinds.count(k) for k in set(kinds)} == dict(pretrain=4, linear=4, finetune=4)
        and len(plan.todo) == 12
        and plan.seconds > 0
    )
    for (protocol, row, seed), recipe in plan.cells.items():
        assert (
            recipe.kind == protocol
            and recipe.seed == seed
            and recipe.parent.method == row
            and recipe.parent.params.get("beta", None) == (0.5 if row == "fame" else None)
        )


def test_figure_2_trains_nothing(here):
    plan = figure("fame", 2).plan("demo")
    assert (
        plan.runs == []
        and plan.seconds == 0
        and "nothing has to be trained" in str(plan)
        and plan.stem == "fame_figure2_mask_stages"
    )


def test_the_paper_plan_is_shown_without_data_and_not_run(here):
    plan = figure("fame", 4).plan("paper")
    assert (
        plan.videos.blocked
        and "nothing can be drawn yet" in str(plan)
        and {r.backbone for r in plan.runs} == {"i3d"}
        and {r.data.name for r in plan.runs} == {"ucf101"}
    )
    with pytest.raises(ValueError, match="ucf101"):
        figure("fame", 4).run(plan)


@pytest.mark.parametrize(
    "profile,data,message",
    [
        ("demo", "ucf11", "did you mean 'ucf101'"),
        ("demo", "ucf101", "data='ucf101'"),
        ("paper", "puppets", "the paper profile is"),
        ("large", None, "profile 'large'"),
        ("demo", "hmdb51", "not what figure 4"),
    ],
)
def test_choices_that_cannot_be(here, profile, data, message):
    with pytest.raises(ValueError, match=message):
        figure("fame", 4).plan(profile, data=data)


def test_real_clips_have_a_page_of_their_own(real):
    for number, data in ((2, "ucf101"), (4, "ucf101"), (4, "hmdb51,ucf101")):
        plan = figure("fame", number).plan("smoke", data=data)
        assert (
            plan.videos.name == "ucf101"
            and plan.real
            and plan.stem.endswith("_ucf101")
            and {r.data.name for r in plan.runs} <= {"ucf101"}
        )


def test_the_batch_includes_figures(here):
    from mvnb import batch

    graph = batch.gather("smoke", "fame_figure*")
    assert {(p.kind, p.number) for p in graph.pages.values()} == {("figure", "2"), ("figure", "4")} and len(
        graph.runs
    ) == 6


# ---------------------------------------------------------------- clips with their truth


def shrunk(truth, size):
    "A pixel belongs to the actor when at least half of its area does; sides divide. Loops."
    t, h, w = truth.shape
    f, out = h // size, np.zeros((t, size, size), bool)
    for k in range(t):
        for y in range(size):
            for x in range(size):
                out[k, y, x] = truth[k, y * f : (y + 1) * f, x * f : (x + 1) * f].mean() >= 0.5
    return out


@pytest.mark.parametrize("size", [96, 48, 32])
def test_truth_takes_the_way_of_the_clip(here, size):
    index = recipes.training_data(recipes.SMOKE, "puppets-u", "test-unbiased").load()
    dataset = figures.test_clips(index, 5, 3, size, views=2)
    got = figures.truth_of(dataset, [1, 4])
    assert got.shape == (2, 2, 5, size, size) and got.dtype == torch.bool
    for row, i in zip(got, (1, 4)):
        _, whole = index.drawing.video(i)
        for view, start in zip(
            row, (0, len(whole) - 13)
        ):  # evenly spaced: the first and the last place where 5 frames with stride 3 fit
            assert np.array_equal(view.numpy(), shrunk(whole[start : start + 13 : 3], size))


def test_the_truth_lies_on_the_actor(here):
    "The clip's changing pixels are the actor's: checked on clips whose camera stands still."
    index = recipes.training_data(recipes.SMOKE, "puppets-u", "test-unbiased").load()
    at = [i for i, entry in enumerate(index.drawing.entries) if entry["camera"] == "still"][:6]
    dataset = figures.test_clips(index, 8, 3, 48)
    clip = to_float(torch.stack([dataset.sample(i)["clip"][0] for i in at]))
    moved, truth = (clip[:, :, 1:] - clip[:, :, :-1]).abs().sum(1) > 0.5, figures.truth_of(dataset, at)[:, 0]
    near = F.max_pool2d((truth[:, 1:] | truth[:, :-1]).float(), 5, 1, 2) > 0
    assert moved.sum() > 500 and (moved & near).sum() / moved.sum() > 0.95


def test_coverage_by_hand():
    mask, truth = torch.rand(3, 6, 7) < 0.5, torch.rand(3, 4, 6, 7) < 0.3
    truth[2] = False
    got = coverage(mask, truth)
    for b in range(2):
        inside = sum(
            bool(truth[b, t, y, x] and mask[b, y, x]) for t in range(4) for y in range(6) for x in range(7)
        )
        assert got[b] == pytest.approx(inside / int(truth[b].sum()))
    assert got[2].isnan()


# ---------------------------------------------------------------- the figures


def random_results(plan, folder, classes=8):
    "Results of runs that were never trained."
    out = {}
    for k, (cell, recipe) in enumerate(plan.cells.items()):
        torch.manual_seed(k)
        model = protocols.Classifier(
            models.build(recipe.backbone, **recipe.model),
            classes,
            frozen=recipe.kind == "linear",
            normalize=recipe.kind == "linear",
            seed=k,
        )
        with torch.no_grad():
            model.head.weight.mul_(30)
        models.save_weights(model, folder / recipe.hash / "classifier.safetensors")
        out[cell] = runs.Result(
            recipe,
            folder / recipe.hash,
            {t: {"top1": 10.0 * k} for t, _ in recipe.tests},
            dict(commit="abc1234567", device="cpu (2 cores)", seconds=1.0),
        )
    return out


@pytest.fixture
def maps(here, monkeypatch):
    "At 64×64, where the last map has 2×2 positions."
    monkeypatch.setattr(
        recipes,
        "SMOKE",
        dataclasses.replace(recipes.SMOKE, finetune_clips=recipes.Clips(4, 3, 64, cache="memory")),
    )
    plan = figure("fame", 4).plan("smoke")
    return Looks(plan, random_results(plan, here / "fake"), progress=False, examples=3)


def test_a_stored_classifier_says_the_same(here):
    plan = figure("fame", 4).plan("smoke")
    results = random_results(plan, here / "fake")
    for (protocol, *_), result in results.items():
        model, x = figures.classifier_of(result), torch.rand(2, 1, 4, 32, 32)
        weights = models.read_weights(result.folder / "classifier.safetensors")[0]
        assert (
            not model.training
            and model.normalize == (protocol == "linear")
            and all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
        )
        with torch.no_grad():
            feature = model.backbone.features(x).mean((2, 3, 4))
            if protocol == "linear":
                feature = feature / feature.norm(dim=1, keepdim=True)
            assert torch.allclose(
                model(x), feature @ weights["head.weight"].T + weights["head.bias"], atol=1e-5
            )
            assert torch.allclose(figures.readout(model)(model.backbone(x)), model(x), atol=1e-6)
    pretraining = dataclasses.replace(result, recipe=result.recipe.parent)
    with pytest.raises(ValueError, match="trains no classifier"):
        figures.classifier_of(pretraining)


def test_the_shares_are_those_of_the_maps(maps):
    "One video by hand: evidence of the class, upsampled, cut at 0, its share inside the mask; clips' mean."
    plan, (name, data) = maps.plan, maps.plan.cells["linear", "fame", 0].tests[1]
    one = plan.cells["linear", "fame", 0]
    dataset = figures.test_clips(
        data.load(), one.clips.length, one.clips.stride, one.clips.size, one.test_views
    )
    model, found = (
        figures.classifier_of(maps.results["linear", "fame", 0]),
        maps.of("linear", "fame", "last", name, "actor")[0],
    )
    even = maps.areas[name, "actor"][0]
    i = int(np.nanargmax(abs(found - even)))
    assert abs(found[i] - even[i]) > 0.01
    stored = figures.test_clips(
        data.load(), one.clips.length, one.clips.stride, one.clips.size, one.test_views, cache=one.clips.cache
    )  # the frames that the figure saw
    batch = next(
        b for b in clips.batches(stored, 1, 0, shuffle=False, drop_last=False) if int(b["index"][0]) == i
    )
    shares = []
    for v in range(one.test_views):
        clip = to_float(batch["clip"][:, v])
        with torch.no_grad():
            x = normalize(luma(clip))
            f = model.backbone.features(x)
            said = int(model(x).argmax())
            signed = sum(model.head.weight[said, d] * f[0, d] for d in range(f.shape[1]))
        full = F.interpolate(signed[None, None], size=clip.shape[2:], mode="trilinear")[0, 0].clamp(min=0)
        truth = figures.truth_of(dataset, [i])[0, v]
        shares.append(float(full[truth].sum() / full.sum()))
    assert found[i] == pytest.approx(np.mean(shares), abs=1e-4)
    assert even[i] == pytest.approx(float(figures.truth_of(dataset, [i]).float().mean()), abs=1e-6)


def test_both_maps_stay_in_range_and_differ(maps):
    model = maps.models["finetune", "moco", 0]
    found = figures.look(model, torch.rand(2, 1, 8, 64, 64), "mixed_3b")
    assert set(found) == set(figures.MAPS) and all(
        m.shape == (2, 8, 64, 64) and m.min() >= 0 and m.max() <= 1 for m in found.values()
    )
    assert not torch.allclose(found["last"], found["fine"])


def test_an_outcome_says_what_it_is(maps):
    text, frame = str(maps), maps.frame
    assert (
        len(frame) == 2 * 2 * 2 * 2
        and set(frame["inside"]) == {"the actor", "FAME's mask"}
        and set(frame["test"]) == {"biased", "unbiased"}
    )
    for part in (
        "i3d_tiny",
        "abc1234567",
        "cpu (2 cores)",
        "smoke profile",
        "seed 0",
        "positions",
        "Top-1 accuracy",
    ):
        assert part in text and part.split()[0] in maps._repr_html_()
    assert set(maps.claims.frame["unbiased test"]) == {"not judged"} and "not judged" in maps.claims.notes[0]
    fig = maps.figure()
    assert len([ax for ax in fig.axes if ax.images]) == 3 * 5


def test_verdicts_follow_the_shares(maps, monkeypatch):
    "Made-up shares of three seeds: FAME 10 points above MoCo in one test, below it in the other."
    n = {t: maps.areas[t, "actor"].shape[1] for t in maps.tests}
    rng = np.random.default_rng(0)
    base = {t: rng.uniform(0.2, 0.4, k) for t, k in n.items()}
    maps.plan = dataclasses.replace(maps.plan, profile="demo", seeds=(0, 1, 2))
    for protocol, row, _, kind, t, inside in list(maps.shares):
        sign = (1 if t == "biased" else -1) if row == "fame" else 0
        for seed in range(3):
            values = base[t] + 0.1 * sign + rng.normal(0, 0.005, n[t])
            values[3] = np.nan if row == "moco" else values[3]
            maps.shares[protocol, row, seed, kind, t, inside] = values
    for t in n:
        maps.areas[t, "fame"] = np.stack([base[t]] * 3)
    lines = maps.claim_lines
    assert set(lines["n"]) == {"3"} and set(lines["shows"]) == {"unbiased"}
    assert (lines["expected"] == np.where(lines["test"] == "unbiased", "yes", "no")).all()
    assert (
        (lines[lines.test == "biased"].verdict == "holds").all()
        and (lines[lines.test == "unbiased"].verdict == "fails").all()
        and len(lines) == 16
    )
    assert (
        lines.gap.astype(float).abs().between(9, 11).all() and lines.margin.astype(float).between(0, 2).all()
    )
    assert maps.claims.frame["biased test"].str.startswith("holds (+").all()


def test_claims_are_saved_as_the_tables_save_theirs(maps):
    d = tables.table("fame", "3").definition
    path = maps.claims.save()
    assert path == maps.folder / "fame_figure4_activation_maps.claims.csv"
    with open(path, newline="") as file:
        lines = list(csv.DictReader(file))
    assert (
        tuple(lines[0]) == tuple(claims.claim_line(d, d.claims[0])) == claims.COLUMNS
        and {l["table"] for l in lines} == {"figure 4"}
        and {l["paper"] for l in lines} == {"fame"}
    )


def test_judging_leaves_out_what_has_no_number():
    "Each seed with the videos that have both numbers there; a seed without any is left out."
    plan = type("Plan", (), dict(profile="demo", real=False))
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0.4, 0.6, (5, 6)), rng.uniform(0.2, 0.3, (5, 6))
    a[0, 2], b[0, 3], b[3, 0] = [np.nan] * 3
    a[4] = np.nan
    kept = [[0, 1, 4, 5], [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5]]
    ours, theirs = (
        [100 * np.mean([x[s, v] for v in videos]) for s, videos in enumerate(kept)] for x in (a, b)
    )
    got, expected = figures.judge_claim("x", "t", plan, a, b).verdict, claims.judge(ours, theirs)
    assert dataclasses.astuple(got) == pytest.approx(dataclasses.astuple(expected))
    assert got.verdict == "holds" and got.n == 4
    assert figures.judge_claim("x", "t", plan, a * np.nan, b).verdict.verdict == "not judged"
    even = figures.judge_claim("x", "t", plan, a, b[1:2]).verdict  # the same for all seeds
    assert even == figures.judge_claim("x", "t", plan, a, np.repeat(b[1:2], 5, 0)).verdict


def test_on_real_videos_the_test_s_own_error_counts():
    "Of videos that have both numbers in every seed."
    plan = type("Plan", (), dict(profile="demo", real=True, runs=["one"]))
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0.4, 0.6, (3, 8)), rng.uniform(0.2, 0.3, (3, 8))
    a[0, 2] = b[2, 5] = np.nan
    kept = [0, 1, 3, 4, 6, 7]
    got = figures.judge_claim("x", "t", plan, a, b).verdict
    expected = claims.judge(100 * a[:, kept], 100 * b[:, kept])
    assert dataclasses.astuple(got) == pytest.approx(dataclasses.astuple(expected)) and got.n == 3
    assert figures.judge_claim("x", "t", plan, a * np.nan, b).verdict.verdict == "not judged"


def test_where_nothing_is_trained_videos_are_the_draws():
    plan = type("Plan", (), dict(profile="demo", real=False))
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0, 1, 40), rng.uniform(0, 1, 40)
    a[7] = np.nan
    kept = np.arange(40) != 7
    got = figures.judge_claim("x", "t", plan, a[:, None], b[:, None]).verdict
    assert got.n == 39 and got.p == pytest.approx(ttest_rel(a[kept], b[kept], alternative="greater").pvalue)


def test_who_was_right_is_read_from_the_stored_predictions(here):
    "In the order of the paths, seed by seed; -1 is a video that could not be read."
    plan = figure("fame", 4).plan("smoke", seeds=2)
    results = random_results(plan, here / "fake")
    for seed, ranks in ((0, {"b": 0, "a": 3, "c": -1}), (1, {"c": 0, "b": 1, "a": 0})):
        folder = results["linear", "fame", seed].folder / "predictions"
        folder.mkdir(parents=True)
        (folder / "biased.csv").write_text(
            "path,rank\n" + "".join(f"{p}.mp4,{r}\n" for p, r in ranks.items())
        )
    drawing = figures.Drawing()
    drawing.plan, drawing.results = plan, results
    assert drawing.right("linear", "fame", "biased").tolist() == [[0, 1, 0], [1, 0, 1]]
    with pytest.raises(KeyError):
        drawing.right("linear", "mac", "biased")
    with pytest.raises(FileNotFoundError):
        drawing.right("linear", "fame", "unbiased")


def test_published_gaps_and_claims_between_papers_are_shown_and_not_run(here):
    plan = dataclasses.replace(figure("fame", 4).plan("smoke"), profile="demo")
    a, b = np.array([[0.5, 0.6], [0.7, 0.7], [0.55, 0.5]]), np.array([[0.3, 0.41], [0.5, 0.5], [0.36, 0.3]])

    class Made(figures.Drawing):
        results = {}
        judged = (
            [
                figures.judge_claim("one", t, plan, a, b, published_on="UCF101", published_gap=8.7)
                for t in ("biased", "unbiased")
            ]
            + [
                figures.Judged("two", t, claims.Verdict("not run"), published_on="UCF101", published_gap=0.4)
                for t in ("biased", "unbiased")
            ]
            + [figures.judge_claim("three", "biased", plan, b, a, by="ours")]
        )

    made = Made()
    made.plan = plan
    lines, shown = made.claim_lines, made.claims
    assert lines.published_gap.tolist() == [
        "+8.7",
        "+8.7",
        "+0.4",
        "+0.4",
        "",
    ] and lines.verdict.tolist() == ["holds", "holds", "not run", "not run", "fails"]
    idle = lines[lines.verdict == "not run"]
    assert (idle[["gap", "margin", "measured_on", "seeds", "device", "commit"]] == "").all(axis=None) and set(
        lines.measured_on
    ) == {"puppets-u", ""}
    assert shown.frame["published gap"].tolist() == ["+8.7", "+0.4", ""] and shown.frame[
        "measured on"
    ].tolist() == ["puppets-u", "not run", "puppets-u"]
    assert any("not run" in n for n in shown.notes) and any(n.endswith("three.") for n in shown.notes)


def test_figures_2_and_3_on_puppets(here):
    drawn = figure("fame", 2).run("smoke", device="cpu", workers=0, progress=False)
    expected = {v: masks.foreground(drawn.clips, v, 0.5) for v in VARIANTS}
    assert torch.equal(drawn.stages.mask, expected["fame"]) and list(drawn.frame.index) == [
        "Gauss",
        "Seed",
        "Grid",
        "FAME",
    ]
    at = [int(np.flatnonzero(drawn.dataset.index.labels == c)[0]) for c in range(4)]
    for v, mask in expected.items():
        assert np.allclose(drawn.numbers["coverage"][v][at], coverage(mask, drawn.truth), atol=0.02)
    assert len(drawn.numbers["iou"]["fame"]) == len(drawn.dataset) and all(
        np.isfinite(x).all() for x in drawn.numbers["coverage"].values()
    )
    assert [
        len([a for a in fig.axes if a.images])
        for fig in (drawn.stages_figure(), drawn.merge_figure(), drawn.variants_figure())
    ] == [4 * 8, 4 * 6, 4 * 5]
    assert {j.by for j in drawn.judged} == {"ours"} and len(drawn.claims.frame) == 3
    path = drawn.save_figure(drawn.merge_figure(), "merge")
    assert (
        path == here / "outputs" / "mine" / "smoke" / "fame_figure2_mask_stages_merge.png"
        and path.read_bytes()[:4] == b"\x89PNG"
        and len(list(path.parent.iterdir())) == 1
    )


def test_figures_on_real_clips_without_truth(real):
    drawn = figure("fame", 2).run("smoke", data="ucf101", device="cpu", workers=0, progress=False)
    assert (
        drawn.truth is None
        and set(drawn.numbers) == {"saliency"}
        and drawn.names[0] == "Archery"
        and len(drawn.claims.frame) == 0
        and "no ground truth" in str(drawn.claims)
    )
    plan = figure("fame", 4).plan("smoke", data="ucf101")
    seen = Looks(plan, random_results(plan, real / "fake", classes=6), progress=False, examples=2)
    assert (
        seen.insides == ["fame"]
        and seen.tests == ["test"]
        and np.allclose(seen.areas["test", "fame"], 0.5, atol=1e-3)
        and len(seen.figure().axes) == 10
    )


def test_a_video_that_cannot_be_read_has_no_share(real, shared_data, tmp_path, monkeypatch):
    "One damaged file among the six of a test list: it is left out and counted."
    lists, mini = tmp_path / "lists", shared_data / "annotations" / "mini"
    names = {
        split: [l.split()[0] for l in (mini / f"{split}list01.txt").read_text().splitlines()]
        for split in ("train", "test")
    }
    firsts = list({n.split("/")[0]: n for n in names["test"]}.values())
    for n in names["train"] + firsts:
        (tmp_path / "ucf" / n).parent.mkdir(parents=True, exist_ok=True)
        if n == firsts[2]:
            (tmp_path / "ucf" / n).write_bytes(b"not a video")
        else:
            (tmp_path / "ucf" / n).symlink_to(shared_data / "mini" / n)
    lists.mkdir()
    for name in ("classInd.txt", "trainlist01.txt"):
        (lists / name).write_text((mini / name).read_text())
    (lists / "testlist01.txt").write_text("\n".join(firsts))
    monkeypatch.setenv("MVNB_DATA_UCF101", str(tmp_path / "ucf"))
    monkeypatch.setenv("MVNB_DATA_UCF101_ANNOTATIONS", str(lists))
    plan = figure("fame", 4).plan("smoke", data="ucf101")
    seen = Looks(plan, random_results(plan, tmp_path / "fake", classes=6), progress=False)
    for x in (*seen.shares.values(), *(areas[0] for areas in seen.areas.values())):
        assert len(x) == 6 and np.isnan(x[2])
    assert (
        np.isfinite(seen.areas["test", "fame"]).sum() == 5
        and "left out" in str(seen)
        and len(seen.shown["test"][0]["names"]) == 5
    )


# ---------------------------------------------------------------- pages

HEAD, DEFAULTS, TAKE = (
    "from mvnb import pages\npage = pages.FigurePage('fame', 4)",
    "profile = 'smoke'\ndata = ''\nseeds = 1\ndevice = 'cpu'\nworkers = 0",
    "taken = page.read(profile=profile, data=data, seeds=seeds, device=device, workers=workers)",
)


@pytest.fixture
def shell(here, shell):
    return shell


def test_a_page_takes_the_parameters_of_tables(shell):
    ns = shell(HEAD, DEFAULTS, "# Parameters\nprofile = 'demo'\nseeds = '0,2'\n", TAKE)
    assert ns["taken"] == dict(profile="demo", data="", seeds=[0, 2], device="cpu", workers=0) and isinstance(
        ns["page"].plan, figures.Plan
    )


@pytest.mark.parametrize(
    "cell,message",
    [
        ("sead = 2", "unknown parameter 'sead'; did you mean 'seeds'"),
        ("profile = 'dmeo'", "did you mean 'demo'"),
        ("data = 'ucf11'", "did you mean 'ucf101'"),
    ],
)
def test_parameters_that_cannot_be_are_refused(shell, cell, message):
    shell(HEAD, DEFAULTS)
    with pytest.raises(ValueError, match=message):
        shell(f"# Parameters\n{cell}\n", TAKE)


def test_a_lost_tag_is_refused(shell):
    with pytest.raises(pages.ParameterError, match="lost its tag"):
        shell("# Parameters\nseeds = 3\n", HEAD)


def test_figure_4_runs_through_papermill_from_any_directory(here):
    "The whole page at the smoke profile: pretrainings, probes, maps, claims; then again from the store."
    (here / "elsewhere").mkdir()
    words = [
        str(Path(sys.executable).parent / "papermill"),
        str(ROOT / "nbs" / "figures" / "fame_figure4_activation_maps.ipynb"),
        "out.ipynb",
        "-k",
        "python3",
        "--no-progress-bar",
        "-p",
        "profile",
        "smoke",
        "-p",
        "device",
        "cpu",
        "-p",
        "workers",
        "0",
    ]
    env = {**os.environ, "JUPYTER_PATH": str(here / "jupyter"), "PYTHONPATH": str(ROOT)}
    spec = here / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True)
    (spec / "kernel.json").write_text(
        json.dumps(
            {
                "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
                "display_name": "Python 3",
                "language": "python",
            }
        )
    )
    done = subprocess.run(words, cwd=here / "elsewhere", env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    stem = here / "outputs" / "mine" / "smoke" / "fame_figure4_activation_maps"
    assert stem.with_suffix(".png").is_file() and len(pd.read_csv(stem.with_suffix(".claims.csv"))) == 16
    plan = figure("fame", 4).plan("smoke")
    assert not plan.todo and len(plan.runs) == 6
    again = figure("fame", 4).run(plan, device="cpu", workers=0, progress=False)
    assert again.claim_lines.gap.tolist() == [
        f"{g:.2f}" for g in pd.read_csv(stem.with_suffix(".claims.csv")).gap
    ]


def test_small_profiles_look_at_the_beginning_of_a_test(monkeypatch):
    monkeypatch.setattr(figures, "MOST", 3)
    index = datasets.load("puppets-u", "test-unbiased", seed=1, videos=5)
    for profile, count in (("demo", 3), ("smoke", 3), ("paper", 5), ("released", 5)):
        maps = SimpleNamespace(plan=SimpleNamespace(profile=profile))
        seen = figures.Maps.looked_at(maps, index)
        assert list(seen.paths) == list(index.paths[:count])
    monkeypatch.setattr(figures, "MOST", 5)
    assert figures.Maps.looked_at(SimpleNamespace(plan=SimpleNamespace(profile="demo")), index) is index
