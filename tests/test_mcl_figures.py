"MCL's figures: what lies in the actor's box, what views hold, and how maps correlate with motion."

import numpy as np
import pytest
import torch

from mvnb import clips, datasets, figures, maps, puppets
from mvnb.papers.mcl import figures as mcl_figures
from mvnb.papers.mcl.figures import Film, Moving, correlation, held_by, in_boxes, views_of


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch, puppets_root):
    monkeypatch.setenv("MVNB_PATHS_OUTPUTS", str(tmp_path / "outputs"))


@pytest.fixture(scope="module")
def drawn(puppets_root):
    return Moving(figures.figure("mcl", 2).plan("smoke"), progress=False)


@pytest.fixture(scope="module")
def looked(puppets_root, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MVNB_PATHS_RUNS", str(tmp_path_factory.mktemp("runs")))
        patch.setenv("MVNB_PATHS_OUTPUTS", str(tmp_path_factory.mktemp("outputs")))
        yield figures.figure("mcl", 4).run("smoke", progress=False)


def slow_share(map, truth):
    "What lies in each frame's box, without the border, by loops."
    inside, total = 0.0, 0.0
    border, (height, width) = maps.BORDER, map.shape[1:]
    for t in range(len(map)):
        ys, xs = torch.nonzero(truth[t], as_tuple=True)
        for y in range(border, height - border):
            for x in range(border, width - border):
                total += map[t, y, x].item()
                if len(ys) and ys.min() <= y <= ys.max() and xs.min() <= x <= xs.max():
                    inside += map[t, y, x].item()
    return inside / total


def test_the_share_in_boxes_by_loops():
    generator = torch.Generator().manual_seed(0)
    map = torch.rand(3, 24, 28, generator=generator)
    truth = torch.zeros(3, 24, 28, dtype=torch.bool)
    for t in range(2):  # no actor in the third frame
        truth[t, 5 + t : 15, 3 * t : 14] = True
    assert in_boxes(map, truth) == pytest.approx(slow_share(map, truth), rel=1e-5)
    assert np.isnan(in_boxes(torch.zeros(3, 24, 28), truth))


def test_a_pan_changes_the_flow_and_not_the_motion_map():
    "A constant added to a flow, which is what a pan is."
    generator = torch.Generator().manual_seed(1)
    fields = torch.randn(2, 2, 32, 32, generator=generator)
    still, panned = Film("a", None, fields), Film("a", None, fields + 3.0)
    assert torch.allclose(still.map, panned.map, atol=1e-5)
    truth = torch.zeros(2, 32, 32, dtype=torch.bool)
    truth[:, 8:16, 8:16] = True
    lengths = [film.flow.norm(dim=1) for film in (still, panned)]
    assert abs(in_boxes(lengths[0], truth) - in_boxes(lengths[1], truth)) > 1e-3


def one_corner_moves(height=96, width=112):
    "A film whose flow jumps in a small square, and is zero elsewhere."
    fields = torch.zeros(4, 2, height, width)
    fields[:, 0, 16:40, 72:96] = 5.0
    return Film("a", torch.zeros(3, 4, height, width), fields)


def test_views_hold_what_moves():
    film, rng = one_corner_moves(), np.random.default_rng(0)
    cells = torch.nn.functional.avg_pool2d(film.map.mean(0)[None], 8)[0].numpy()
    moving = maps.moving_pixels(cells)
    edges = [8 * np.arange(13), 8 * np.arange(15)]
    shares = []
    for _ in range(50):
        chosen, anywhere = views_of(film, rng)
        top, left, height, width = chosen
        assert 0 <= top <= 96 - height and 0 <= left <= 112 - width and chosen[2:] == anywhere[2:]
        assert maps.covered(moving, edges, chosen) >= 0.8 - 1e-6
        shares.append(float(maps.covered(moving, edges, anywhere)))
    assert np.mean(shares) < 0.75
    still = Film("a", film.frames, torch.zeros_like(film.flow))
    chosen, anywhere = views_of(still, rng)
    assert chosen == anywhere == (0, 0, 96, 112) and np.isnan(held_by(chosen, still.map.mean(0)))


def test_every_camera_films_the_same_performance(drawn):
    assert drawn.cameras == puppets.CAMERAS and drawn.count == 3
    truths = {camera: film.truth for camera, film in drawn.shown.items()}
    assert len({film.name for film in drawn.shown.values()}) == 1
    assert not torch.equal(truths["still"], truths["zoom"])
    for what in ("flow", "map", "even", "moving", "anywhere"):
        for camera in drawn.cameras:
            values = drawn.of(what, camera)
            assert values.shape == (3, 1) and (0 <= values).all() and (values <= 1).all()
    assert list(drawn.frame.index) == list(drawn.cameras) and len(drawn.judged) == 8
    assert all(j.verdict.verdict == "not judged" for j in drawn.judged)


def test_its_pictures_are_saved(drawn):
    assert drawn.save_figure(drawn.figure(most=2)).name == "mcl_figure2_motion.png"
    assert drawn.save_figure(drawn.views_figure(), "views").name == "mcl_figure2_motion_views.png"


def test_real_videos_have_pictures_and_no_claim(monkeypatch, shared_data, tmp_path):
    monkeypatch.setenv("MVNB_DATA_UCF101", str(shared_data / "mini"))
    monkeypatch.setenv("MVNB_DATA_UCF101_ANNOTATIONS", str(shared_data / "annotations" / "mini"))
    monkeypatch.setitem(mcl_figures._FILMS, "smoke", 2)
    drawn = Moving(figures.figure("mcl", 2).plan("smoke", data="ucf101"), progress=False)
    assert not drawn.judged and drawn.cameras == ("as filmed",)
    held = drawn.of("motion, moving", "as filmed")
    assert (held >= 0.3).all() and (held <= 1).all()
    assert drawn.figure(most=2) is not None and "tvl1" not in "".join(drawn.provenance)


def test_a_real_video_that_cannot_be_read_is_left_out(monkeypatch, shared_data, tmp_path):
    "Of three files of one class, the first is cut short behind its header."
    index = datasets.folder(shared_data / "mini", "all")
    files = [index.path(i) for i in range(3)]
    (tmp_path / "videos" / "one").mkdir(parents=True)
    for number, file in enumerate(files):
        kept = file.read_bytes()[:200] if number == 0 else file.read_bytes()
        (tmp_path / "videos" / "one" / f"{number}.avi").write_bytes(kept)
    monkeypatch.setitem(mcl_figures._FILMS, "smoke", 3)
    monkeypatch.setattr(Moving, "_files", lambda self: datasets.folder(tmp_path / "videos", "all"))
    monkeypatch.setenv("MVNB_DATA_UCF101", str(shared_data / "mini"))
    monkeypatch.setenv("MVNB_DATA_UCF101_ANNOTATIONS", str(shared_data / "annotations" / "mini"))
    drawn = Moving(figures.figure("mcl", 2).plan("smoke", data="ucf101"), progress=False)
    assert drawn.failed == 1 and "Without 1 video that could not be read" in " ".join(drawn.provenance)
    assert np.isfinite(drawn.of("motion, moving", "as filmed")).all() and drawn.count == 3
    assert drawn.shown["as filmed"].frames.max() > 0


def test_correlation_is_pearson_s():
    generator = torch.Generator().manual_seed(0)
    one, other = torch.rand(5, 4, 6, generator=generator), torch.rand(5, 4, 6, generator=generator)
    for k, r in enumerate(correlation(one, other)):
        assert r.item() == pytest.approx(np.corrcoef(one[k].ravel(), other[k].ravel())[0, 1], rel=1e-6)
    assert correlation(torch.ones(1, 2, 2), one[:1, :2, :2]).isnan().all()


def test_maps_are_compared_on_the_grid_of_the_motion(looked):
    dataset = looked.clips_of(0)
    batch = next(iter(clips.batches(dataset, 4, 0, shuffle=False, drop_last=False, workers=0)))
    found, pictures = looked.measure(0, batch, [1])
    assert set(found) == {("SeCo",), ("contrast",), ("MCL",)} and len(pictures) == 1
    moved = batch["map"][:, 0].mean(1)
    assert moved.shape[1:] == (8, 8)  # of 32×32 pixels
    clip = looked.seen(batch["clip"][:, 0])
    network = looked.networks["MCL"]
    features = network.backbone.features(clip)
    length = features.mean((2, 3, 4)).norm(dim=1, keepdim=True)
    unit = features.mean((2, 3, 4)) / length  # the probe reads features of length 1
    weights = network.head.weight[network(clip).argmax(1)]
    weights = (weights - (weights * unit).sum(1, keepdim=True) * unit) / length
    evidence = torch.einsum("bdthw,bd->bthw", features, weights)[:, None]
    full = torch.nn.functional.interpolate(evidence, clip.shape[2:], mode="trilinear").clamp(min=0)
    small = full[:, 0].mean(1).unflatten(2, (8, 4)).unflatten(1, (8, 4)).mean((2, 4))
    for k in range(len(clip)):
        expected = np.corrcoef(small[k].detach().ravel(), moved[k].ravel())[0, 1]
        assert found["MCL",][k].item() == pytest.approx(expected, abs=1e-5, nan_ok=True)


def test_figure_4_says_what_it_measures(looked):
    assert list(looked.frame.index) == ["SeCo", "contrast", "MCL"]
    assert [j.by for j in looked.judged] == ["text", "ours"]
    assert looked.save_figure(looked.figure()).name == "mcl_figure4_grad_cam.png"
    assert "pretrained on puppets-u" in looked.provenance[0]


def test_figure_4_shares_its_runs_with_the_tables():
    from mvnb import tables

    cells = figures.figure("mcl", 4).plan("demo").cells
    table = tables.table("mcl", "1").plan("demo").cells
    for row, other in (("MCL", "MCL"), ("contrast", "baseline"), ("SeCo", "SeCo")):
        assert cells["linear", row, 0].hash == table[other, "R(2+1)D", 0].hash
