"MGM's figures: what masks hide, what encoders attend to, what decoders fill in, and curves of accuracy."

from dataclasses import replace

import numpy as np
import pytest
import torch

from mvnb import clips, figures, runs, tables, tokens
from mvnb.augment import MEAN, STD, luma, normalize, to_float
from mvnb.papers.mgm import figures as mgm_figures
from mvnb.papers.mgm.figures import RATIO, Hidden, one_colour, saliency
from mvnb.vit import attention_map

METHODS = ("MGM", "VideoMAE")
LENGTHS = (800, 1600, 2400)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch, puppets_root):
    monkeypatch.setenv("MVNB_PATHS_OUTPUTS", str(tmp_path / "outputs"))


@pytest.fixture(scope="module")
def drawn(puppets_root):
    return Hidden(figures.figure("mgm", 5).plan("smoke"), progress=False)


def slow_saliency(length, truth):
    "Mean over pixels in each frame's box, over the mean of the others, by loops."
    side = truth.shape[2] // length.shape[2]
    inside, outside = [], []
    for t in range(truth.shape[1]):
        ys, xs = torch.nonzero(truth[0, t], as_tuple=True)
        for y in range(truth.shape[2]):
            for x in range(truth.shape[3]):
                boxed = len(ys) and ys.min() <= y <= ys.max() and xs.min() <= x <= xs.max()
                (inside if boxed else outside).append(length[0, t, y // side, x // side].item())
    return np.mean(inside) / np.mean(outside)


def test_the_saliency_score_by_loops():
    generator = torch.Generator().manual_seed(0)
    length = torch.rand(1, 3, 4, 4, generator=generator)
    truth = torch.zeros(1, 3, 32, 32, dtype=torch.bool)
    for t in range(3):
        truth[0, t, 5 + 2 * t : 17, 3 * t : 20] = True
    assert saliency(length, truth).item() == pytest.approx(slow_saliency(length, truth), rel=1e-5)


def test_all_masks_hide_alike(drawn):
    for name, mask in drawn.hidden.items():
        assert mask.shape[1:] == drawn.grid
        assert mask.sum().item() == tokens.hidden_count(name, drawn.grid, RATIO)


def test_every_mask_and_region_has_a_number_for_every_video(drawn):
    videos = len(drawn.dataset)
    for name in tokens.TOKENS:
        for region in ("actor", "motion"):
            values = drawn.numbers[region, name]
            assert values.shape == (videos,) and (0 <= values).all() and (values <= 1).all()
    assert np.isfinite(drawn.numbers["saliency", ""]).any()
    assert list(drawn.frame.index) == [kind.label for kind in tokens.TOKENS.values()]
    assert "1.47" in drawn.score and len(drawn.judged) == 3


def test_the_picture_is_saved_beside_its_page(drawn):
    path = drawn.save_figure(drawn.masks_figure(4))
    assert path.is_file() and path.name == "mgm_figure5_masks.png"


def test_real_clips_have_no_score(monkeypatch, shared_data):
    monkeypatch.setenv("MVNB_DATA_UCF101", str(shared_data / "mini"))
    monkeypatch.setenv("MVNB_DATA_UCF101_ANNOTATIONS", str(shared_data / "annotations" / "mini"))
    drawn = Hidden(figures.figure("mgm", 5).plan("smoke", data="ucf101"), progress=False)
    assert not drawn.judged and "not known" in drawn.score
    assert list(drawn.frame.columns) == ["hidden of the motion, %"]
    assert drawn.masks_figure(4) is not None


@pytest.fixture(scope="module")
def smoke_runs(puppets_root, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MVNB_PATHS_RUNS", str(tmp_path_factory.mktemp("runs")))
        patch.setenv("MVNB_PATHS_OUTPUTS", str(tmp_path_factory.mktemp("outputs")))
        yield {n: figures.figure("mgm", n).run("smoke", progress=False) for n in ("1", "4", "6", "8")}


def some_batch(drawn, count=4):
    "The first test clips of a figure, and where their actors are."
    dataset = drawn.clips_of(0)
    loader = clips.batches(dataset, count, 0, shuffle=False, drop_last=False, workers=0)
    batch = next(iter(loader))
    return batch | {"truth": figures.truth_of(dataset, batch["index"].tolist())[:, 0]}


def test_attention_on_the_actor_by_loops(smoke_runs):
    drawn = smoke_runs["6"]
    batch = some_batch(drawn)
    found, _ = drawn.measure(0, batch, [])
    network = drawn.networks["MGM"]
    clip = drawn.seen(batch["clip"][:, 0])
    t, h, w = network.grid(clip)
    for k in range(len(clip)):
        attention = attention_map(network, clip[k : k + 1])[0]
        on, area = 0.0, 0.0
        for i in range(t):
            for y in range(h):
                for x in range(w):
                    token = batch["truth"][k, 2 * i : 2 * i + 2, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8]
                    on += attention[i, y, x].item() * token.float().mean().item()
                    area += token.float().mean().item() / (t * h * w)
        assert found["MGM",][k].item() == pytest.approx(on / area, rel=1e-4)


def test_an_even_attention_gives_100_percent(smoke_runs, monkeypatch):
    drawn = smoke_runs["6"]
    monkeypatch.setattr(
        mgm_figures, "attention_map", lambda network, clip: torch.full((len(clip), 2, 4, 4), 1 / 32)
    )
    found, _ = drawn.measure(0, some_batch(drawn), [])
    for values in found.values():
        torch.testing.assert_close(values, torch.ones(4))


def test_figures_6_and_7_have_a_row_for_every_encoder(smoke_runs):
    drawn = smoke_runs["6"]
    assert list(drawn.frame.index) == ["random weights", "MGM", "VideoMAE"]
    assert drawn.of("MGM").shape == (1, drawn.count) and len(drawn.judged) == 3
    assert len(drawn.pictures) == 4 and {one["mask"].shape for one in drawn.pictures} == {(2, 4, 4)}
    assert drawn.clip_figure(1) is not None and drawn.overlay_figure("VideoMAE") is not None
    assert figures.figure("mgm", 7).definition is figures.figure("mgm", 6).definition


def test_errors_of_a_reconstruction_by_loops(smoke_runs):
    "Gray levels of 255, over hidden pixels only; the pixels come from the decoder's tokens."
    drawn = smoke_runs["8"]
    batch = some_batch(drawn, 2)
    found, _ = drawn.measure(0, batch, [])
    mask = drawn.hiders["VideoMAE"].hide(batch | {"epoch": 0})
    gray = luma(to_float(batch["clip"][:, 0]))
    network = drawn.networks["MGM"]
    guess = network(normalize(gray), mask)
    mean, std = sum(MEAN) / 3, sum(STD) / 3
    for k in range(2):
        errors = []
        for place, number in enumerate(mask[k].flatten().nonzero().flatten().tolist()):
            i, y, x = number // 16, number // 4 % 4, number % 4
            wanted = gray[k, 0, 2 * i : 2 * i + 2, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8]
            said = guess.prediction[k, place].view(2, 8, 8)
            if network.norm_pix:  # of the token's own brightness and contrast
                own = (wanted - mean) / std
                said = said * own.std() + own.mean()
            said = said * std + mean
            errors += (255 * (said - wanted)).square().flatten().tolist()
        assert found["MGM", "VideoMAE"][k].item() == pytest.approx(np.mean(errors) ** 0.5, rel=1e-3)


def test_one_colour_is_the_mean_of_what_is_visible():
    generator = torch.Generator().manual_seed(3)
    clip = torch.rand(2, 3, 2, 8, 8, generator=generator)
    hidden = torch.rand(2, 2, 8, 8, generator=generator) < 0.5
    filled = one_colour(clip, hidden)
    for k in range(2):
        for c in range(3):
            wanted = clip[k, c][~hidden[k]].mean()
            torch.testing.assert_close(filled[k, c][hidden[k]], wanted.expand(int(hidden[k].sum())))
            assert torch.equal(filled[k, c][~hidden[k]], clip[k, c][~hidden[k]])


def test_figure_8_has_every_network_under_every_mask(smoke_runs):
    drawn = smoke_runs["8"]
    assert list(drawn.frame.index) == ["motion, dense, γ = 0.75", "tube, γ = 0.9", "tube, γ = 0.75"]
    assert list(drawn.frame.columns) == ["MGM", "VideoMAE", "one colour"] and len(drawn.judged) == 2
    assert drawn.figure(2) is not None


def test_real_clips_have_attention_without_a_number(monkeypatch, shared_data, tmp_path):
    "Pretrained on a few UCF101 videos here; the paper's figure asks for Kinetics-400."
    monkeypatch.setenv("MVNB_PATHS_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("MVNB_DATA_UCF101", str(shared_data / "mini"))
    monkeypatch.setenv("MVNB_DATA_UCF101_ANNOTATIONS", str(shared_data / "annotations" / "mini"))
    for number in (6, 8):
        d = figures.figure("mgm", number).definition
        rows = tuple(replace(row, pretrain=tables.DATA["ucf101"]) for row in d.rows)
        drawn = figures.Figure(replace(d, rows=rows)).run("smoke", data="ucf101", progress=False)
        assert drawn.frame.empty == (number == 6) and "ucf101" in " ".join(drawn.provenance)
        assert (drawn.clip_figure() if number == 6 else drawn.figure()) is not None
        assert {judged.test for judged in drawn.judged} == ({"test"} if number == 8 else set())


@pytest.mark.parametrize("profile", ["demo", "paper"])
def test_figure_1_is_drawn_from_table_1_s_runs(profile):
    videos = figures.Videos("puppets-s" if profile == "demo" else "ssv2")
    mine = figures.figure("mgm", 1).definition.cells(profile, videos, (0,))
    table = tables.table("mgm", 1).plan(profile)
    wanted = {row: table.cells[row, "SSv2", 0].hash for row in (f"{m} {n}" for m in METHODS for n in LENGTHS)}
    assert {row: recipe.hash for (_, row, _), recipe in mine.items()} == wanted


def test_figure_4_hides_what_it_says():
    cells = {row: cell.parent for (_, row, _), cell in figures.figure("mgm", 4).plan("demo").cells.items()}
    ratios = {}
    for row, recipe in cells.items():
        if "γ" in row:
            method = runs.built(recipe)
            ratios[row] = (method.kind, method.ratio)
    assert ratios == {
        **{f"MGM, γ = {r:g}": ("mgm", r) for r in (0.5, 0.75, 0.9)},
        **{f"VideoMAE, γ = {r:g}": ("tube", r) for r in (0.75, 0.9)},
    }
    table = tables.table("mgm", "4e").plan("demo")
    assert cells["MGM, γ = 0.75"].hash in {cell.parent.hash for cell in table.cells.values()}
    assert cells["VideoMAE, γ = 0.9"].hash in {cell.parent.hash for cell in table.cells.values()}


def test_published_points_are_the_tables():
    told = tables.table("mgm", "4e").published.iloc[:, -1]
    gamma, epochs = figures.figure("mgm", 4).definition.panels
    assert gamma.lines[0].published == {0.75: told["MGM (Dense)"]} and gamma.lines[1].published == {
        0.9: told["Random Tube"]
    }
    accuracies = tables.table("mgm", 1).published["SSv2"]
    for place, value in epochs.lines[0].published.items():
        assert value == accuracies[f"MGM {place}"]


def test_curves_are_the_stored_accuracies(smoke_runs):
    for number, lines in (("1", 6), ("4", 8)):
        drawn = smoke_runs[number]
        assert len(drawn.frame) == lines and drawn.figure() is not None
        for (protocol, row, seed), result in drawn.results.items():
            for test in drawn.tests:
                assert drawn.top1(protocol, row, test)[0] == result.metrics[test]["top1"]
                right = 100 * drawn.right(protocol, row, test).mean()
                assert right == pytest.approx(result.metrics[test]["top1"], abs=1e-3)
    assert "Table 4 prints 67.3" in " ".join(smoke_runs["4"].provenance)
