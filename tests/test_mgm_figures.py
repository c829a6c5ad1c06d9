"MGM's Figure 5: what each mask hides, and the saliency score of Section 1."

import numpy as np
import pytest
import torch

from mvnb import figures, tokens
from mvnb.papers.mgm.figures import RATIO, Hidden, saliency


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
