"""Chance, best and skill against loops written from their definitions; surveys that repeat and pair."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from mvnb import masks, motion, papers, quality, tokens


def slow_chance(mask, truth):
    "Expected over all ways to lay a mask of that area: mean over draws of the intersection, union of means."
    h, w = truth.shape[1:]
    both = sizes = 0
    for t in range(len(truth)):
        n = (mask if mask.ndim == 2 else mask[t]).sum().item()
        k = truth[t].sum().item()
        both += n * k / (h * w)
        sizes += n + k
    return both / (sizes - both) if sizes - both > 0 else 1.0


def slow_best(mask, truth):
    "Greedy by hand: take the pixels that are true most often."
    T, h, w = truth.shape
    if mask.ndim == 3:
        both = sum(min(mask[t].sum().item(), truth[t].sum().item()) for t in range(T))
        n = mask.sum().item()
    else:
        often = [truth[:, y, x].sum().item() for y in range(h) for x in range(w)]
        both = sum(sorted(often, reverse=True)[: mask.sum().item()])
        n = T * mask.sum().item()
    either = n + truth.sum().item() - both
    return both / either if either else 1.0


@given(st.integers(0, 2**31), st.integers(1, 4), st.booleans())
@settings(max_examples=60, deadline=None)
def test_chance_and_best_against_loops(seed, T, every_frame):
    g = torch.Generator().manual_seed(seed)
    level = torch.rand(2, generator=g)
    truth = torch.rand(2, T, 4, 5, generator=g) < level[0]
    mask = torch.rand(2, *([T] if every_frame else []), 4, 5, generator=g) < level[1]
    chance = quality.chance_iou(mask, truth)
    best = quality.best_iou(mask, truth)
    got = masks.iou(mask, truth)
    for b in range(2):
        assert chance[b].item() == pytest.approx(slow_chance(mask[b], truth[b]), abs=1e-6)
        assert best[b].item() == pytest.approx(slow_best(mask[b], truth[b]), abs=1e-6)
    assert (got <= best + 1e-6).all() and (chance <= best + 1e-6).all()


def test_chance_is_what_random_masks_reach():
    _, truth = quality.film("puppets-u", "still", 5)
    g = torch.Generator().manual_seed(0)
    draws = [
        masks.iou(masks.keep_top(torch.rand(1, 96, 96, generator=g), 0.3), truth[None]).item()
        for _ in range(30)
    ]
    mask = masks.gauss_mask(torch.zeros(1, 3, 16, 96, 96), 0.3)
    assert quality.chance_iou(mask, truth[None]).item() == pytest.approx(
        np.mean(draws), abs=4 * np.std(draws) / 30**0.5 + 1e-4
    )


def test_the_best_can_be_reached():
    "The pixels that are the actor's most often, as a mask, have the IoU that is called best."
    _, truth = quality.film("puppets-u", "still", 1)
    for beta in (0.1, 0.3, 0.6):
        mask = masks.keep_top(truth.float().mean(0)[None], beta)
        assert masks.iou(mask, truth[None]).item() == pytest.approx(
            quality.best_iou(mask, truth[None]).item(), abs=1e-6
        )
    for part in (truth[None], truth[None, :1]):
        assert quality.best_iou(part, part).item() == 1


def test_skill_of_the_best_of_the_worst_and_of_everything():
    truth = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    truth[..., :2, :] = True
    moved = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    skill = lambda mask: quality.compare(mask, truth, moved)["skill"].item()
    assert skill(truth) == 1 and skill(~truth) < 0
    assert np.isnan(skill(torch.ones_like(truth)))


def test_a_score_is_the_comparison_of_one_mask():
    clip, truth = quality.film("puppets-u", "pan", 2)
    moved = motion.frame_difference(motion.unit(clip)[None])
    for mask in (masks.seed_mask(clip[None], 0.3), masks.mac_mask(clip[None])):
        score = quality.score(mask[0], moved[0], truth)
        for name, value in quality.compare(mask, truth[None], moved).items():
            assert name == "skill" or score[name] == pytest.approx(value.item(), abs=1e-6)
        assert quality.score(mask[0], moved[0]) == {name: score[name] for name in ("share", "saliency")}


# ---------------------------------------------------------------- kinds of mask


def test_masks_come_from_the_papers_and_ones_own(monkeypatch):
    declared = {"a": quality.Mask("A", masks.gauss_mask)}
    monkeypatch.setattr(papers, "gather", lambda constant: dict(declared) if constant == "MASKS" else {})
    mine = quality.Mask("mine", lambda clip, level=0.2: motion.frame_difference(clip) > level)
    monkeypatch.setitem(quality.OWN, "mine", mine)
    assert list(quality.all_masks()) == ["a", "mine"]
    assert quality.all_masks()["mine"].parameters == {"level": 0.2}
    assert list(quality.kinds(0.3)) == ["A"] and list(quality.kinds()) == ["mine"]


def test_a_hue_comes_with_each_convention(monkeypatch):
    fame = quality.Mask("F", masks.fame_mask)
    monkeypatch.setattr(papers, "gather", lambda constant: {"f": fame})
    made = quality.kinds(0.3)
    assert list(made) == ["F, published hue", "F, hue as angle"]
    clip = motion.unit(quality.film("puppets-u", "still", 1)[0])[None]
    for hue, make in zip(masks.HUES, made.values()):
        assert torch.equal(make(clip), masks.fame_mask(clip, 0.3, hue))


def test_the_most_moving_patch_by_a_loop():
    clip, truth = quality.films("puppets-u", "shake", 2)
    table, diff = quality.motion_knows(clip, truth), motion.frame_difference(clip)
    for b in range(2):
        hits = 0
        for t in range(16):
            patches = {
                (y, x): diff[b, t, y : y + 8, x : x + 8].mean().item()
                for y in range(0, 96, 8)
                for x in range(0, 96, 8)
            }
            y, x = max(patches, key=patches.get)
            a, c = (t, t + 1) if t < 15 else (14, 15)  # the last map repeats the one before
            hits += bool((truth[b, a] | truth[b, c])[y : y + 8, x : x + 8].any())
        assert table["peak"][b] == pytest.approx(hits / 16)


# ---------------------------------------------------------------- surveys


def test_surveys_repeat_and_pair():
    few = dict(betas=(0.3,), names=("puppets-u",), cameras=("still", "pan"), progress=False)
    a, known = quality.survey(3, **few)
    assert a.equals(quality.survey(3, **few)[0])
    assert not a.equals(quality.survey(3, **few, seed=1)[0])
    assert len(a) == 2 * 3 * len(quality.kinds(0.3) | quality.kinds()) and len(known) == 6
    label = a["mask"].iloc[0]
    iou = lambda mask, camera: a[(a["mask"] == mask) & (a.camera == camera)].iou.to_numpy()
    still = iou(label, "still")
    gap = iou(label, "pan") - still
    lost = f"{gap.mean():+.2f} ± {2 * gap.std(ddof=1) / 3**0.5:.2f}"
    assert quality.camera_loss(a).loc[label, "pan"] == lost
    gained = f"{(iou(label, 'pan') - iou('Gauss', 'pan')).mean():+.2f}"
    assert quality.gain_over(a).loc[("pan", "puppets-u"), label].startswith(gained)
    mean = f"{still.mean():.2f} ± {still.std(ddof=1):.2f}"
    assert quality.quality_table(a).loc[("puppets-u", label), "still"] == mean


def test_measuring_in_parts_is_measuring_at_once():
    clip, truth = quality.films("puppets-h", "still", 10)
    makers = quality.kinds(0.4)
    whole = quality.measure(clip, truth, makers)
    each = [quality.measure(clip[i : i + 1], truth[i : i + 1], makers) for i in range(10)]
    assert list(dict.fromkeys(whole["mask"])) == list(makers)
    for label, group in whole.groupby("mask"):
        assert list(group["clip"]) == list(range(10))
        alone = [table[table["mask"] == label].iou.item() for table in each]
        assert np.allclose(group.iou, alone, atol=1e-6)


# ---------------------------------------------------------------- masks of tokens


def moving_block(row, column, dx=0.0):
    "Vectors of 4 frames on 12×12 blocks: everything moves by dx, and one block by 3 more; and its actor."
    field = torch.zeros(1, 4, 2, 12, 12)
    field[:, :, 0] = dx
    field[:, :, 0, row, column] += 3.0
    truth = torch.zeros(1, 4, 96, 96, dtype=torch.bool)
    truth[:, :, 8 * row - 4 : 8 * row + 12, 8 * column - 4 : 8 * column + 12] = True
    return field, torch.ones(1, 4, 12, 12, dtype=torch.bool), truth


@pytest.mark.parametrize("place", [(3, 8), (5, 2), (9, 9)])
def test_the_centre_is_counted_where_it_is_in_the_box(place):
    field, known, truth = moving_block(*place)
    found = quality.centre_in_box(field, known, truth)
    assert found["centre"].item() == 1
    assert found["by luck"].item() == pytest.approx(4 / 144)  # of 16 pixels, two blocks' centres on each axis
    elsewhere = quality.centre_in_box(field, known, truth.roll(40, 3))
    assert elsewhere["centre"].item() == 0
    assert quality.centre_in_box(torch.zeros_like(field), known, truth)["centre"].isnan().all()


def test_a_pan_is_taken_away():
    still, known, truth = moving_block(3, 8)
    panned, _, _ = moving_block(3, 8, dx=-5.0)
    torch.testing.assert_close(quality.less_camera(panned, known), quality.less_camera(still, known))
    torch.testing.assert_close(quality.less_camera(still, known), still)
    assert quality.centre_in_box(panned, known, truth)["centre"].item() == 0  # the scene moves faster
    assert quality.centre_in_box(quality.less_camera(panned, known), known, truth)["centre"].item() == 1
    nowhere = torch.zeros_like(known)
    assert not quality.less_camera(panned, nowhere).any()


def test_what_is_hidden_of_a_whole_frame_is_the_ratio():
    field, known = torch.ones(2, 4, 2, 12, 12), torch.ones(2, 4, 12, 12, dtype=torch.bool)
    truth = torch.ones(2, 4, 96, 96, dtype=torch.bool)
    found = quality.hidden_by(field, known, truth).set_index("mask")
    for kind in tokens.TOKENS:
        share = tokens.hidden_count(kind, (2, 6, 6), None) / (2 * 6 * 6)
        assert found.loc[kind, ["actor", "motion"]].to_numpy(float) == pytest.approx(share, abs=1e-6)


def test_guided_masks_hide_the_block_that_moves():
    field, known, truth = moving_block(3, 8, dx=0.1)
    found = quality.hidden_by(field, known, truth).set_index("mask")
    assert found.loc["mgm", "actor"] == 1


def test_vectors_of_films_are_those_of_their_files():
    field, known, truth = quality.filmed_vectors("puppets-u", "still", 1)
    assert field.shape == (1, 16, 2, 12, 12) and known.shape == (1, 16, 12, 12)
    assert truth.equal(quality.films("puppets-u", "still", 1)[1])
    length = field.square().sum(2).sqrt()
    inside = torch.nn.functional.max_pool2d(truth.float(), 8).bool()
    assert length[inside].mean() > 3 * length[~inside].mean()
    assert not field.abs().sum(2)[~known].any()


# ---------------------------------------------------------------- what is hidden, beside what is kept


def slow_region(mask, truth):
    "Pixel by pixel, from the definitions: share, actor, precision, recall, IoU, box."
    T, h, w = truth.shape
    n = dict.fromkeys(("mask", "actor", "box", "both", "either", "of actor"), 0)
    for t in range(T):
        ys, xs = np.nonzero(truth[t].numpy())
        for y in range(h):
            for x in range(w):
                inside = bool((mask if mask.ndim == 2 else mask[t])[y, x])
                box = len(ys) > 0 and ys.min() <= y <= ys.max() and xs.min() <= x <= xs.max()
                n["mask"] += inside
                n["actor"] += bool(truth[t, y, x])
                n["of actor"] += inside and bool(truth[t, y, x])
                n["box"] += box
                n["both"] += inside and box
                n["either"] += inside or box
    pixels = T * h * w
    return {
        "share": n["mask"] / pixels,
        "actor": n["of actor"] / n["actor"],
        "precision": n["both"] / n["mask"],
        "recall": n["both"] / n["box"],
        "iou": n["both"] / n["either"],
        "box": n["box"] / pixels,
    }


@given(st.integers(0, 2**31), st.integers(1, 3), st.booleans())
@settings(max_examples=40, deadline=None)
def test_regions_against_loops(seed, T, every_frame):
    g = torch.Generator().manual_seed(seed)
    truth = torch.rand(2, T, 5, 6, generator=g) < 0.1
    mask = torch.rand(2, *([T] if every_frame else []), 5, 6, generator=g) < 0.5
    truth[:, 0, 2, 3] = True
    mask[..., 1, 1] = True
    got = quality.region_of(mask, truth)
    for b in range(2):
        for name, value in slow_region(mask[b], truth[b]).items():
            assert got[name][b].item() == pytest.approx(value, abs=1e-6), name


def test_hiding_masks_stand_apart_and_get_the_motion(monkeypatch):
    keeps = quality.Mask("keeps", masks.gauss_mask)
    given_motion = []

    def follow(clip, motion=None, ratio=0.5):
        given_motion.append(motion)
        return masks.gauss_mask(clip, ratio)[:, None].expand(-1, clip.shape[2], -1, -1)

    hides = quality.Mask("follows", follow, mix="hide", hides=True)
    monkeypatch.setattr(papers, "gather", lambda constant: {"k": keeps, "f": hides})
    assert hides.guided and not keeps.guided
    assert (
        list(quality.kinds(0.3)) == ["keeps"]
        and quality.kinds() == {}
        and list(quality.hiding()) == ["follows"]
    )
    found = quality.regions(2, 0.4, ("puppets-u",), ("still", "pan"), progress=False)
    field, known, _ = quality.filmed_vectors("puppets-u", "still", 2)
    assert torch.equal(given_motion[0][0], field) and torch.equal(given_motion[0][1], known)
    assert dict(zip(found["mask"], found.does)) == {"keeps": "keeps", "follows": "hides"}
    values = found.set_index(["mask", "camera", "clip"])[["share", "actor", "recall", "iou"]]
    assert values.loc["keeps"].equals(values.loc["follows"])  # one region, whatever it is for
    table = quality.region_table(found)
    mean = quality.mean_std(found[found["mask"] == "follows"].actor)
    assert table.loc[("hides", "follows"), "actor"] == mean
    assert table.loc[("", "by luck"), "precision"] == quality.mean_std(found.box)


def test_masks_of_the_papers_cover_what_they_should():
    "A mask that knows nothing covers its share of the actor; one that follows motion, more; all of one area."
    found = quality.regions(6, names=("puppets-s",), cameras=("still",), progress=False)
    mean = found.groupby("mask")[["share", "actor"]].mean()
    for label in quality.hiding():
        assert mean.share[label] == pytest.approx(0.75, abs=0.01), label
    assert mean.actor["random (hides)"] == pytest.approx(0.75, abs=0.1)
    assert mean.actor["MGM (hides)"] > mean.actor["random (hides)"] + 0.1
    assert found.equals(quality.regions(6, names=("puppets-s",), cameras=("still",), progress=False))
