"""MAC: mask, blend and label coding against oracles written from the paper; the method around them."""

import copy
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mvnb import losses, masks, methods, mixing, models, protocols, recipes, runs
from mvnb.augment import Photometric, to_float
from mvnb.methods.contrast import Contrast
from mvnb.papers.mac.method import AUGMENTATIONS, MAC

quick = settings(max_examples=30, deadline=None)
TINY = dict(backbone="r2plus1d_tiny", queue=24, seed=5, widths=(8, 8, 16))
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")


def noise(size=(2, 3, 6, 9, 7), seed=0):
    return torch.rand(size, generator=torch.Generator().manual_seed(seed))


def bytes_of(size=(2, 3, 6, 9, 7), seed=0):
    return torch.randint(0, 256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def make_batch(size=4, views=2, frames=4, side=32, epoch=0, step=0, seed=0):
    return {
        "clip": bytes_of((size, views, 3, frames, side, side), seed),
        "index": torch.arange(size),
        "epoch": epoch,
        "step": step,
    }


@pytest.fixture(autouse=True)
def _one_start():
    torch.manual_seed(0)


# ---------------------------------------- the oracle: the supplement's Algorithm 1, pixel by pixel


def slow_mask(clip, lam, m):
    "Bytes or floats in [0,1]; doubles throughout. Returns the mask and how far pixels are from λ."
    x = clip.numpy().astype(np.float64) * (1 if clip.dtype == torch.uint8 else 255)
    batch, _, time, height, width = x.shape
    mask, margin = np.zeros((batch, time, height, width), bool), np.full((batch, time, height, width), np.inf)
    for b, i, j in np.ndindex(batch, height, width):
        gray = [
            0.299 * x[b, 0, t, i, j] + 0.587 * x[b, 1, t, i, j] + 0.114 * x[b, 2, t, i, j]
            for t in range(time)
        ]
        background = gray[0]
        for t in range(time):
            difference = abs(background - gray[t])
            mask[b, t, i, j], margin[b, t, i, j] = difference > lam, difference - lam
            background = (1 - m) * gray[t] + m * background
    return mask, margin


@quick
@given(
    st.sampled_from(["bytes", "floats"]),
    st.sampled_from([0, 3, 30, 75.5, 200]),
    st.sampled_from([0, 0.1, 0.5, 0.9, 1]),
    st.integers(2, 7),
    st.integers(0, 99),
)
def test_mask_is_the_algorithm(kind, lam, m, frames, seed):
    clip = (bytes_of if kind == "bytes" else noise)((2, 3, frames, 5, 6), seed)
    expected, margin = slow_mask(clip, lam, m)
    sure = np.abs(margin) > 2e-3  # nearer than that rounding may decide
    sure[:, 0] = True
    got = masks.mac_mask(clip, lam, m).numpy()
    assert got.dtype == bool and got.shape == expected.shape
    assert (got == expected)[sure].all() and sure.mean() > 0.9


def test_a_change_of_exactly_lambda_does_not_count():
    "On any of the 226 gray levels where it can happen, as bytes and as floats."
    for m in (0, 0.5, 1):
        clip = torch.zeros(1, 3, 2, 1, 226, dtype=torch.uint8)
        clip[0, :, 0, 0] = torch.arange(226, dtype=torch.uint8)
        clip[0, :, 1, 0] = torch.arange(226, dtype=torch.uint8) + 30
        for x in (clip, clip.float() / 255, clip.double() / 255):
            assert masks.mac_mask(x, 29, m)[0, 1].all() and not masks.mac_mask(x, 30, m).any()


@quick
@given(st.floats(0, 255), st.floats(0, 1), st.integers(0, 99))
def test_what_every_mask_holds(lam, m, seed):
    clip = noise(seed=seed)
    mask = masks.mac_mask(clip, lam, m)
    assert not mask[:, 0].any()
    assert (masks.mac_mask(clip, lam + 10, m) <= mask).all()
    assert torch.equal(masks.mac_mask(clip.flip(-1), lam, m), mask.flip(-1))
    assert torch.equal(masks.mac_mask(clip.flip(0), lam, m), mask.flip(0))
    assert torch.equal(masks.mac_mask(clip[:, :, :4], lam, m), mask[:, :4])  # the future is not looked at
    assert not masks.mac_mask(clip[:, :, :1].expand_as(clip), 0, m).any()


@quick
@given(st.floats(31, 255), st.floats(0, 1), st.floats(0, 1))
def test_larger_m_remembers_longer(step, a, b):
    "What arrives and stays is foreground for longer the larger m is; its mask contains that of a smaller m."
    low, high = sorted((a, b))
    clip = torch.zeros(1, 3, 40, 1, 1)
    clip[:, :, 3:] = step / 255
    short, long = (masks.mac_mask(clip, 30, m)[0, :, 0, 0] for m in (low, high))
    assert (short <= long).all() and long[3] and not long[:3].any()
    frames = (
        37
        if high == 1
        else 1
        if high == 0
        else min(37, math.ceil(math.log((step - 1e-3) / 30) / -math.log(high)))
    )
    assert abs(int(long.sum()) - max(1, frames)) <= 1


def test_ends_of_the_memory():
    gray = bytes_of((2, 1, 6, 8, 8)).expand(-1, 3, -1, -1, -1)
    level = gray[:, 0].int()
    assert torch.equal(masks.mac_mask(gray, 30.5, 0)[:, 1:], (level[:, 1:] - level[:, :-1]).abs() > 30)
    assert torch.equal(masks.mac_mask(gray, 30.5, 1), (level - level[:, :1]).abs() > 30)


@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.bfloat16])
def test_other_floats_are_computed_in_float32(kind):
    clip = noise().to(kind)
    assert torch.equal(masks.mac_mask(clip), masks.mac_mask(clip.float()))


def test_layouts_autocast_and_nan():
    clip = noise((2, 3, 5, 8, 10))
    expected = masks.mac_mask(clip)
    assert torch.equal(masks.mac_mask(clip.to(memory_format=torch.channels_last_3d)), expected)
    assert torch.equal(masks.mac_mask(torch.cat([clip, clip], 2)[:, :, 5:]), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(masks.mac_mask(clip), expected)
    broken = clip.clone()
    broken[0, :, 0, 0, 0] = math.nan
    seen = masks.mac_mask(broken)
    assert not seen[0, :, 0, 0].any() and torch.equal(seen[1], expected[1])
    assert masks.mac_mask(noise((0, 3, 4, 8, 8))).shape == (0, 4, 8, 8)


def test_stages_agree_with_the_mask():
    clip = noise((2, 3, 6, 8, 8))
    s = masks.mac_stages(clip, 40, 0.3)
    assert torch.equal(s.mask, masks.mac_mask(clip, 40, 0.3)) and torch.equal(s.mask, s.difference > 40.001)
    assert torch.equal(s.background[:, 0], s.gray[:, 0])
    torch.testing.assert_close(s.background[:, 3], 0.7 * s.gray[:, 2] + 0.3 * s.background[:, 2])


@pytest.mark.parametrize(
    "clip, more, sentence",
    [
        (noise()[0], {}, r"\[B,C,T,H,W\]"),
        (noise((1, 3, 1, 4, 4)), {}, "at least 2 frames"),
        (noise((1, 1, 3, 4, 4)), {}, "colour clips"),
        (noise(), dict(m=1.1), "m is 1.1"),
        (noise(), dict(m=math.nan), "m is nan"),
        (noise(), dict(lambda_=-1), "lambda_ is -1"),
        (noise() * 255, {}, "divide bytes by 255"),
        (noise() * 4 - 2, {}, "before normalizing"),
    ],
)
def test_mask_refuses(clip, more, sentence):
    for mask in (masks.mac_mask, masks.mac_stages):
        with pytest.raises(ValueError, match=sentence):
            mask(clip, **more)


@pytest.mark.parametrize("kind", [torch.int8, torch.int16, torch.int32, torch.int64, torch.bool])
def test_integers_other_than_bytes_are_refused(kind):
    "Their white may be 255 or 65535: a threshold in gray levels means nothing there."
    clip = bytes_of().to(kind)
    for mask in (masks.mac_mask, masks.mac_stages):
        with pytest.raises(ValueError, match=rf"floats in \[0, 1\] or uint8, got {kind}"):
            mask(clip)


def test_mask_and_blend_compile():
    clip = noise((2, 3, 4, 8, 8))

    def both(x):
        return mixing.alpha_blend(x, masks.mac_mask(x), torch.tensor([[0.25, 1.0], [0.5, 0.75]]))

    torch.testing.assert_close(
        torch.compile(both, backend="aot_eager", fullgraph=True)(clip), both(clip), rtol=0, atol=1e-7
    )


# ---------------------------------------------------------------- the mask as released


def released_mask(clip, lam, m, soft=False, dilate=0, copy_first=False):
    "The authors' mask from its description, in loops over samples and frames: floats [B,T,H,W]."
    x = clip.numpy().astype(np.float64) * (1 if clip.dtype == torch.uint8 else 255)
    batch, _, time, height, width = x.shape
    out = np.zeros((batch, time, height, width))
    for b in range(batch):
        gray = [0.299 * x[b, 0, t] + 0.587 * x[b, 1, t] + 0.114 * x[b, 2, t] for t in range(time)]
        background = gray[0]
        for t in range(time):
            difference = np.abs(gray[t] - background)
            difference[difference <= lam] = 0
            if soft and difference.max() > difference.min():
                difference = (difference - difference.min()) / (difference.max() - difference.min())
            elif soft:
                difference = 0 * difference
            out[b, t] = difference if soft else difference > 0
            background = m * gray[t] + (1 - m) * background
        for t in range(time):
            small = out[b, t].copy()
            for i, j in np.ndindex(height, width):
                for di, dj in np.ndindex(dilate, dilate):
                    y, z = i + di - dilate // 2, j + dj - dilate // 2
                    if 0 <= y < height and 0 <= z < width:
                        out[b, t, i, j] = max(out[b, t, i, j], small[y, z])
        if copy_first:
            out[b, 0] = out[b, 1]
    return out


def far_from(lam, clip, m):
    "Whether no difference of the released mask is so near to lambda that rounding decides."
    _, margin = slow_mask(clip, lam, 1 - m)
    return np.abs(margin[:, 1:]).min() > 2e-3


@quick
@given(
    st.sampled_from([3.25, 30.25, 75.5]),
    st.sampled_from([0, 0.1, 0.4, 1]),
    st.booleans(),
    st.sampled_from([0, 1, 2, 3]),
    st.booleans(),
    st.integers(0, 99),
)
def test_released_mask_is_its_description(lam, m, soft, dilate, copy_first, seed):
    clip = noise((2, 3, 4, 6, 5), seed)
    assume(far_from(lam, clip, m))
    got = masks.mac_mask(clip, lam, m, "released", soft, dilate, copy_first)
    assert got.dtype == (torch.float32 if soft else torch.bool) and got.shape == (2, 4, 6, 5)
    expected = released_mask(clip, lam, m, soft, dilate, copy_first)
    np.testing.assert_allclose(got.double().numpy(), expected, atol=2e-5)
    assert (expected[:, 1:] > 0).any()


@quick
@given(st.floats(0, 1), st.booleans(), st.sampled_from([0, 2]), st.booleans(), st.integers(0, 99))
def test_conventions_are_each_others_mirror(m, soft, dilate, copy_first, seed):
    "m and 1 - m change places, so both agree at m = 0.5, and the first two frames always do."
    clip, more = noise(seed=seed), dict(soft=soft, dilate=dilate, copy_first=copy_first)
    paper, code = (masks.mac_mask(clip, 30, m, c, **more) for c in masks.CONVENTIONS)
    assert torch.equal(code, masks.mac_mask(clip, 30, 1 - m, **more))
    assert torch.equal(paper[:, :2], code[:, :2])
    halves = [masks.mac_mask(clip, 30, 0.5, c, **more) for c in masks.CONVENTIONS]
    assert torch.equal(*halves)
    stages = [masks.mac_stages(clip, 30, m, c) for c in masks.CONVENTIONS]
    assert torch.equal(stages[0].background[:, :2], stages[1].background[:, :2])
    assert torch.equal(stages[1].mask, masks.mac_mask(clip, 30, m, "released"))
    sure = (stages[1].difference - 30).abs() > 2e-3
    assert torch.equal(stages[1].mask[sure], (stages[1].difference > 30)[sure])


@pytest.mark.parametrize("m", [0.1, 1])
def test_rows_of_table_7_are_other_masks_as_released(m):
    clip = noise((2, 3, 6, 16, 16))
    paper, code = (masks.mac_mask(clip, 30, m, c) for c in masks.CONVENTIONS)
    assert (paper[:, 2:] != code[:, 2:]).float().mean() > 0.05


def test_a_soft_mask_has_the_range_of_its_frame():
    clip = torch.zeros(1, 3, 3, 1, 4)
    clip[0, :, 1, 0] = torch.tensor([0, 40, 60, 120]) / 255
    clip[0, :, 2, 0] = torch.tensor([0, 20, 30, 160]) / 255  # BG is half of frame 1
    soft = masks.mac_mask(clip, soft=True)
    torch.testing.assert_close(
        soft[0, :, 0], torch.tensor([[0, 0, 0, 0], [0, 1 / 3, 1 / 2, 1], [0, 0, 0, 1]])
    )
    assert not masks.mac_mask(clip[:, :, :1].expand(-1, -1, 3, -1, -1), soft=True).any()
    as_bytes = (clip * 255).round().to(torch.uint8)
    torch.testing.assert_close(masks.mac_mask(as_bytes, soft=True), soft)


def test_a_dilation_of_two_grows_right_and_down():
    clip = torch.zeros(1, 3, 2, 5, 5)
    clip[0, :, 1, 2, 2] = 1
    for soft in (False, True):
        grown = masks.mac_mask(clip, soft=soft, dilate=2)[0, 1] > 0
        expected = torch.zeros(5, 5, dtype=torch.bool)
        expected[2:4, 2:4] = True
        assert torch.equal(grown, expected)
    expected[1:4, 1:4] = True
    assert torch.equal(masks.mac_mask(clip, dilate=3)[0, 1], expected)


def test_released_masks_of_layouts_empty_batches_and_compiled():
    more = dict(convention="released", soft=True, dilate=2, copy_first=True)
    clip = noise((2, 3, 5, 8, 10))
    expected = masks.mac_mask(clip, **more)
    assert torch.equal(masks.mac_mask(clip.to(memory_format=torch.channels_last_3d), **more), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(masks.mac_mask(clip, **more), expected)
    assert masks.mac_mask(noise((0, 3, 4, 8, 8)), **more).shape == (0, 4, 8, 8)
    broken = clip.clone()
    broken[0, :, 0, 0, 0] = math.nan
    assert not masks.mac_mask(broken, soft=True).isnan().any()

    def both(x):
        return mixing.alpha_blend(x, masks.mac_mask(x, **more), torch.tensor([[0.25], [0.5]]))

    compiled = torch.compile(both, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(clip), both(clip), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "more, sentence",
    [
        (dict(convention="code"), "choose one of paper, released"),
        (dict(dilate=-1), "dilate is -1"),
        (dict(dilate=1.5), "dilate is 1.5"),
        (dict(dilate=True), "dilate is True"),
    ],
)
def test_released_mask_refuses(more, sentence):
    with pytest.raises(ValueError, match=sentence):
        masks.mac_mask(noise(), **more)


# ---------------------------------------------------------------- the blend, Eq. 1


def slow_blend(clip, mask, alpha):
    "alpha [B,n]; one multiplication per pixel."
    out = clip.double().numpy().copy()
    batch, _, time = clip.shape[:3]
    for b, t, i, j in np.ndindex(batch, time, *clip.shape[3:]):
        if mask[b, t, i, j]:
            out[b, :, t, i, j] *= alpha[b][t * len(alpha[b]) // time]
    return out


@quick
@given(st.sampled_from([1, 2, 3, 6]), st.integers(0, 99))
def test_blend_is_equation_1(n, seed):
    clip, mask = noise(seed=seed), noise((2, 6, 9, 7), seed + 1) < 0.4
    alpha = noise((2, n), seed + 2)
    got = mixing.alpha_blend(clip, mask, alpha)
    np.testing.assert_allclose(
        got.double().numpy(), slow_blend(clip, mask, alpha.double().tolist()), rtol=1e-6
    )
    untouched = ~mask[:, None].expand_as(clip)
    assert torch.equal(got[untouched], clip[untouched])


def test_alpha_comes_in_four_forms():
    clip, mask = noise(), noise((2, 6, 9, 7), 1) < 0.4
    one = mixing.alpha_blend(clip, mask, 0.3)
    assert torch.equal(mixing.alpha_blend(clip, mask, torch.tensor(0.3)), one)
    assert torch.equal(mixing.alpha_blend(clip, mask, torch.tensor([0.3, 0.3])), one)
    assert torch.equal(mixing.alpha_blend(clip, mask, torch.full((2, 6), 0.3)), one)
    still = mask[:, 0]
    assert torch.equal(
        mixing.alpha_blend(clip, still, 0.3), mixing.alpha_blend(clip, still[:, None].expand_as(mask), 0.3)
    )


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8])
def test_alpha_one_changes_nothing(kind):
    clip, mask = (noise() * 200).to(kind), noise((2, 6, 9, 7), 1) < 0.4
    for alpha in (1, 1.0, torch.ones(2), torch.ones(2, 3)):
        blended = mixing.alpha_blend(clip, mask, alpha)
        assert blended.dtype == kind and torch.equal(blended, clip)


def test_blending_commutes_with_flips():
    clip, mask, alpha = noise(), noise((2, 6, 9, 7), 1) < 0.4, torch.tensor([[0.2, 0.9, 0.5]] * 2)
    for axis in (-1, -2):
        assert torch.equal(
            mixing.alpha_blend(clip.flip(axis), mask.flip(axis), alpha),
            mixing.alpha_blend(clip, mask, alpha).flip(axis),
        )


def test_in_place_into_memory_and_gradients():
    clip, mask, out = noise(), noise((2, 6, 9, 7), 1) < 0.4, torch.full((2, 3, 6, 9, 7), 9.0)
    before, expected = clip.clone(), mixing.alpha_blend(clip, mask, 0.25)
    assert torch.equal(clip, before)
    assert mixing.alpha_blend(clip, mask, 0.25, out=out) is out and torch.equal(out, expected)
    assert mixing.alpha_blend(clip, mask, 0.25, out=clip) is clip and torch.equal(clip, expected)
    x = before.requires_grad_()
    mixing.alpha_blend(x, mask, 0.25).sum().backward()
    assert torch.equal(x.grad, torch.where(mask[:, None], 0.25, 1.0).expand_as(x))


def test_bytes_are_rounded():
    clip, mask = bytes_of(), torch.ones(2, 6, 9, 7, dtype=torch.bool)
    assert torch.equal(mixing.alpha_blend(clip, mask, 1 / 3), (clip.double() / 3).round().to(torch.uint8))


@pytest.mark.parametrize(
    "alpha, sentence",
    [
        (1.5, "alpha lies"),
        (-0.1, "alpha lies"),
        (math.nan, "alpha lies"),
        (torch.ones(3), "with B = 2"),
        (torch.ones(2, 4), "a divisor of 6"),
        (torch.ones(2, 1, 1), "shape"),
    ],
)
def test_blend_refuses(alpha, sentence):
    with pytest.raises(ValueError, match=sentence):
        mixing.alpha_blend(noise(), noise((2, 6, 9, 7), 1) < 0.4, alpha)


@quick
@given(st.sampled_from([1, 2, 3, 6]), st.booleans(), st.integers(0, 99))
def test_soft_blend_is_its_formula(n, still, seed):
    clip, mask, alpha = noise(seed=seed), noise((2, 6, 9, 7), seed + 1), noise((2, n), seed + 2)
    mask = mask[:, 0] if still else mask
    m = (mask[:, None] if still else mask)[:, None].double().numpy()
    a = alpha.double().numpy().repeat(6 // n, 1)[:, None, :, None, None]
    expected = (1 - m + a * m) * clip.double().numpy()
    np.testing.assert_allclose(
        mixing.alpha_blend(clip, mask, alpha).double().numpy(), expected, rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8])
def test_zeros_and_ones_blend_as_a_bool_mask(kind):
    clip, hard = (noise() * 200).to(kind), noise((2, 6, 9, 7), 1) < 0.4
    for mask in (hard, hard[:, 0]):
        for alpha in (0.3, 0, 1, noise((2, 3), 2)):
            expected = mixing.alpha_blend(clip, mask, alpha)
            for soft in (mask.float(), mask.double(), mask.half()):
                got = mixing.alpha_blend(clip, soft, alpha)
                assert got.dtype == kind and torch.equal(got, expected)


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
def test_soft_masks_outside_the_range_are_refused(value):
    mask = torch.zeros(2, 6, 9, 7)
    mask[1, 2, 3, 4] = value
    with pytest.raises(ValueError, match="a soft mask lies in"):
        mixing.alpha_blend(noise(), mask, 0.5)
    with pytest.raises(ValueError, match="bool or float mask"):
        mixing.alpha_blend(noise(), mask[:, :5], 0.5)
    with pytest.raises(ValueError, match="bool or float mask"):
        mixing.alpha_blend(noise(), mask.nan_to_num().byte(), 0.5)
    with pytest.raises(ValueError, match="a bool mask"):
        mixing.merge(noise(), noise(), mask)


# ---------------------------------------------------------------- labels


@pytest.mark.parametrize(
    "k, expected",
    [
        (2, [1 / 2, 1]),
        (3, [1 / 4, 3 / 4, 1]),
        (4, [1 / 6, 1 / 2, 5 / 6, 1]),
        (5, [1 / 8, 3 / 8, 5 / 8, 7 / 8, 1]),
        (6, [0.1, 0.3, 0.5, 0.7, 0.9, 1]),
    ],
)
def test_factors(k, expected):
    assert losses.alpha_values(k).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("k, n", itertools.product(range(2, 7), (1, 2, 4)))
def test_coding_is_a_bijection(k, n):
    "Against the lists of factors in their order, as itertools writes them."
    lists = torch.tensor(list(itertools.product(range(k), repeat=n)))
    label = losses.encode_alphas(lists, k)
    assert label.tolist() == list(range(k**n))
    assert torch.equal(losses.decode_alphas(label, k, n), lists)


def test_losses_by_hand():
    logits, choice = noise((3, 16), 3) * 4, torch.tensor([[0, 3], [2, 1], [3, 3]])
    by_hand = (
        -sum(
            math.log(math.exp(row[4 * a + b]) / sum(map(math.exp, row)))
            for row, (a, b) in zip(logits.double().tolist(), choice.tolist())
        )
        / 3
    )
    assert losses.alpha_classification(logits, choice).item() == pytest.approx(by_hand, rel=1e-5)
    each = noise((3, 2, 4), 4) * 4
    by_hand = (
        -sum(
            math.log(math.exp(row[c]) / sum(map(math.exp, row)))
            for rows, cs in zip(each.double().tolist(), choice.tolist())
            for row, c in zip(rows, cs)
        )
        / 3
    )
    assert losses.alpha_classification(each, choice).item() == pytest.approx(by_hand, rel=1e-5)
    guess, alpha = noise((3, 2), 5), noise((3, 2), 6)
    assert losses.alpha_regression(guess, alpha).item() == pytest.approx(
        np.mean((guess - alpha).numpy() ** 2), rel=1e-5
    )
    with pytest.raises(ValueError, match=r"\[3,16\]"):
        losses.alpha_classification(logits[:, :8], choice)
    with pytest.raises(ValueError, match="one prediction"):
        losses.alpha_regression(guess, alpha[:, :1])
    with pytest.raises(ValueError, match="k is 1"):
        losses.alpha_values(1)


# ---------------------------------------------------------------- the method


@pytest.mark.parametrize("n, frames", [(1, 4), (2, 4), (4, 4), (4, 16), (4, 64)])
def test_each_subclip_has_its_own_factor(n, frames):
    task, batch = MAC(objective="s", n=n, **TINY), make_batch(size=6, views=1, frames=frames, side=8)
    clip = to_float(batch["clip"])[:, 0]
    blended, choice, alpha = task.blended(batch, clip)
    assert choice.shape == (6, n) and torch.equal(alpha, losses.alpha_values(4)[choice])
    assert n == 1 or any(len(set(c)) > 1 for c in choice.tolist())
    expected = slow_blend(clip, masks.mac_mask(clip), alpha.double().tolist())
    np.testing.assert_allclose(blended.double().numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("k", range(2, 7))
def test_every_factor_is_drawn_equally_often(k):
    task = MAC(objective="s", n=2, k=k, **TINY)
    choice = torch.cat([task.draw({"index": range(200), "epoch": e})[0] for e in range(5)])
    counts = torch.stack([(choice == c).sum(0) for c in range(k)])
    assert (counts.double() / 1000 - 1 / k).abs().max() < 5 * math.sqrt(1 / k * (1 - 1 / k) / 1000)


def test_uniform_factors_fill_the_interval():
    alpha = torch.cat(
        [
            MAC(objective="s", loss="mse-n", **TINY).draw({"index": range(500), "epoch": e})[1]
            for e in range(2)
        ]
    ).flatten()
    assert 0 < alpha.min() < 0.01 and 0.99 < alpha.max() <= 1 and abs(alpha.mean() - 0.5) < 0.03


def test_draws_follow_seed_epoch_and_index_only():
    task, batch = MAC(**TINY), make_batch(size=6)
    whole = task.draw(batch)[0]
    torch.manual_seed(99), np.random.seed(99)
    part = task.draw({**batch, "index": torch.tensor([4, 1]), "step": 7})[0]
    assert torch.equal(part, whole[[4, 1]])
    assert not torch.equal(task.draw({**batch, "epoch": 1})[0], whole)
    assert not torch.equal(MAC(**{**TINY, "seed": 6}).draw(batch)[0], whole)
    assert not torch.equal(task.draw(batch, view=1)[0], whole)


def test_the_key_is_never_blended():
    task, batch = MAC(symmetric=True, **TINY), make_batch()
    clip = to_float(batch["clip"])
    query, key = task.pair(batch)
    assert torch.equal(key, clip[:, 1]) and not torch.equal(query, clip[:, 0])
    seen = []
    task.contrast.keys = lambda x, rng: (seen.append(x), Contrast.keys(task.contrast, x, rng))[1]
    task(batch)
    for x, at in zip(seen, (1, 0), strict=True):
        assert torch.equal(x, task.seen(batch, clip[:, at], at))


@pytest.mark.parametrize("symmetric", [True, False])
def test_loss_is_the_weighted_sum_written_out(symmetric):
    "Eq. 3 with Eq. 2 and the cross-entropy of the class, from the encoders' outputs on."
    task, batch = MAC(ss_weight=0.7, c_weight=0.2, temperature=0.2, symmetric=symmetric, **TINY), make_batch()
    clip, queue = to_float(batch["clip"]), task.contrast.queue.double().clone()
    twin = copy.deepcopy(task)
    ss = contrast = 0.0
    with torch.no_grad():
        part = twin.contrast
        part.start_step(0)
        passes = ((0, 1), (1, 0)) if symmetric else ((0, 1),)
        for q, k in passes:
            blended, choice, _ = twin.blended(batch, clip[:, q], q)
            feature = twin.backbone.train()(twin.seen(batch, blended, q))
            keys = torch.nn.functional.normalize(
                part.key_head(part.key_backbone.train()(twin.seen(batch, clip[:, k], k))), dim=1
            ).double()
            queries = torch.nn.functional.normalize(part.head(feature), dim=1).double()
            label = choice[:, 0] * 4 + choice[:, 1]
            ss -= twin.alpha_head(feature).double().log_softmax(1)[range(4), label].mean().item() / len(
                passes
            )
            for i in range(4):
                others, own = (
                    (queue @ queries[i] / 0.2).exp().sum().item(),
                    math.exp((queries[i] @ keys[i]).item() / 0.2),
                )
                contrast -= math.log(own / (own + others)) / 4 / len(passes)
    out = task.train()(batch)
    assert out["ss"].item() == pytest.approx(ss, rel=1e-4) and out["contrast"].item() == pytest.approx(
        contrast, rel=1e-3, abs=1e-6
    )
    assert out["loss"].item() == pytest.approx(0.7 * ss + 0.2 * contrast, rel=1e-4)
    assert task.contrast.pointer.item() == 4 * len(passes)


def test_parts_that_are_not_used_do_not_exist():
    names = {o: {k for k, _ in MAC(objective=o, **TINY).named_children()} for o in ("s", "c", "sc")}
    assert names["s"] == {"backbone", "alpha_head"}
    assert names["c"] == {"backbone", "contrast"}
    assert names["sc"] == names["s"] | names["c"]
    assert MAC(objective="s", **TINY).views == 1 and MAC(objective="c", **TINY).views == 2
    same = [
        dict(MAC(objective=o, **TINY).backbone.named_parameters())["stem.0.weight"] for o in ("s", "c", "sc")
    ]
    assert torch.equal(same[0], same[1]) and torch.equal(same[0], same[2])


@pytest.mark.parametrize(
    "options",
    [
        dict(objective="s"),
        dict(objective="c"),
        dict(),
        dict(objective="s", heads="each", n=4),
        dict(objective="s", loss="mse"),
        dict(objective="sc", loss="mse-n"),
        dict(objective="s", k=6, n=1),
    ],
    ids=str,
)
def test_every_parameter_learns(options):
    task = MAC(**options, **TINY).train()
    out = task(make_batch(views=task.views))
    out["loss"].backward()
    learners = [p for p in task.parameters() if p.requires_grad]
    assert learners and all(p.grad is not None for p in learners) and torch.isfinite(out["loss"])
    assert all(v.ndim == 0 and not v.requires_grad for name, v in out.items() if name != "loss")


@pytest.mark.parametrize(
    "options, guess, right", [(dict(heads="one"), "one", 1.0), (dict(heads="each"), "each", 1.0)]
)
def test_guessed_counts_whole_clips(options, guess, right):
    task, batch = MAC(objective="s", **options, **TINY), make_batch(size=8, views=1)
    choice, alpha = task.draw(batch)
    perfect = (
        torch.nn.functional.one_hot(losses.encode_alphas(choice), 16).float()
        if guess == "one"
        else torch.nn.functional.one_hot(choice, 4).flatten(1).float()
    )
    task.alpha_head = torch.nn.Identity()
    assert task.guess(perfect, choice, alpha)["guessed"] == right
    other = choice.clone()
    other[:, 1] = (other[:, 1] + 1) % 4  # one of two is wrong everywhere
    assert task.guess(perfect, other, alpha)["guessed"] == 0


def test_it_can_be_learnt():
    "A quarter of the classes at the start, most of them after a few steps on the same clips."
    task = MAC(
        objective="s",
        n=1,
        **{**TINY, "widths": (8, 16, 32)},
        photometric=Photometric(gray=0, p_jitter=0, blur=0, flip=0),
    ).train()
    optimizer = torch.optim.Adam(task.parameters(), 5e-3)
    batch = make_batch(size=16, views=1, side=16)
    batch["clip"] = (
        bytes_of((16, 1, 3, 1, 2, 2))
        .repeat_interleave(8, 4)
        .repeat_interleave(8, 5)
        .expand(-1, -1, -1, 4, -1, -1)
        // 2
        + 100
    ).contiguous()
    batch["clip"][..., 1::2, 4:12, 4:12] = 200
    batch["clip"][..., 2::2, 4:12, 4:12] = 100
    for _ in range(40):
        optimizer.zero_grad()
        out = task(batch)
        out["loss"].backward()
        optimizer.step()
    assert out["guessed"] > 0.8


def test_bf16_autocast_gives_a_finite_float32_loss():
    for options in (dict(), dict(objective="s", loss="mse-n")):
        task = MAC(**options, **TINY)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = task(make_batch(views=task.views))
        assert out["loss"].dtype == torch.float32 and torch.isfinite(out["loss"])


@pytest.mark.parametrize(
    "params, sentence",
    [
        ({"objective": "x"}, "s, c, sc"),
        ({"heads": "two"}, "one, each"),
        ({"loss": "l1"}, "ce, mse, mse-n"),
        ({"source": "flow"}, "motion, box"),
        ({"n": 0}, "n is 0"),
        ({"k": 1}, "k is 1"),
        ({"n": 2.0}, "n is 2.0"),
        ({"k": 4.5}, "k is 4.5"),
        ({"lamda": 3}, "lamda"),
        ({"ss_weight": -1}, "0 or more"),
        ({"ss_weight": math.nan}, "ss_weight is nan"),
        ({"c_weight": math.nan}, "c_weight is nan"),
        ({"c_weight": math.inf}, "finite"),
        ({"m": 1.5}, "m is 1.5"),
        ({"m": -0.1}, "m is -0.1"),
        ({"m": math.nan}, "m is nan"),
        ({"lambda_": -1}, "lambda_ is -1"),
        ({"lambda_": math.nan}, "lambda_ is nan"),
        ({"reach": -1}, "reach is -1"),
        ({"heads": "each", "loss": "mse"}, "one output already"),
        ({"heads": "each", "loss": "mse-n"}, 'loss="ce"'),
        ({"boxes": "people.csv"}, 'source="box"'),
    ],
)
def test_bad_options_are_refused(params, sentence):
    with pytest.raises(ValueError, match=sentence):
        methods.build("mac", **{**TINY, **params})


def test_options_at_their_limits_are_taken():
    for m, lambda_, weight in ((0, 0, 0), (1, 300, 2.5)):
        MAC(m=m, lambda_=lambda_, ss_weight=weight, n=np.int64(2), **TINY)
    assert MAC(source="box", boxes="people.csv", reach=3, **TINY).boxes == "people.csv"


def test_defaults_are_the_papers():
    "Queries alone are blended, and colours change as the text says, which knows no blur."
    task, paper = MAC(**TINY), recipes.profile("paper", "mac")
    assert task.photometric == Photometric(**AUGMENTATIONS["jitter, gray"])
    assert Photometric(**paper.photometric).blur == 0
    assert task.symmetric is paper.method["symmetric"] is False and task.photometric.blur == 0
    assert (task.ss_weight, task.c_weight, task.lambda_, task.m, task.k, task.n) == (1.0, 0.5, 30, 0.5, 4, 2)
    task.train()(make_batch())
    assert task.contrast.pointer == 4


@pytest.mark.parametrize("profile", ["smoke", "demo", "paper"])
def test_runs_do_not_lean_on_the_defaults(profile):
    "A recipe says which colours change and whether both views are queries: stored runs stay the same."
    p = recipes.profile(profile, "mac")
    r = recipes.pretraining(p, "mac", "ucf101" if profile == "paper" else "puppets-u", "r2plus1d")
    assert "symmetric" in r.params and {"gray", "p_jitter", "blur", "flip"} <= set(r.photometric)


def test_bad_batches_are_refused():
    with pytest.raises(ValueError, match="3 equal subclips"):
        MAC(objective="s", n=3, **TINY)(make_batch(views=1))
    with pytest.raises(ValueError, match="clip_options"):
        MAC(objective="s", source="box", **TINY)(make_batch(views=1))
    with pytest.raises(ValueError, match="needs 2 clips"):
        MAC(**TINY)(make_batch(views=1))


# ---------------------------------------------------------------- the method as released

RELEASED = dict(convention="released", soft=True, dilate=2, copy_first=True)
PLAIN = Photometric(gray=0, p_jitter=0, blur=0, flip=0)


def test_options_of_the_released_code_are_off():
    off = dict(convention="paper", soft=False, dilate=0, copy_first=False, blend="before", alphas=None)
    off |= dict(spread="all", dropout=0.0, sigmoid=False, head_std=None)
    known = methods.parameters("mac")
    assert {name: known[name] for name in off} == off
    batch = make_batch()
    plain, named = (MAC(**options, **TINY).train()(batch) for options in ({}, off))
    assert all(torch.equal(plain[name], named[name]) for name in plain)


@pytest.mark.parametrize("option, value", list(RELEASED.items()) + [("m", 0.1)])
def test_the_method_uses_the_released_mask(option, value):
    "Each option changes the mask of the method to that of the function."
    m = 0.1 if option == "convention" else 0.5
    clip = to_float(make_batch()["clip"])[:, 0]
    task = MAC(objective="s", **{"m": m, option: value}, **TINY)
    mask = task.mask({}, clip)
    assert torch.equal(mask, masks.mac_mask(clip, 30, **{"m": m, option: value}))
    assert not torch.equal(mask.float(), masks.mac_mask(clip, 30, m).float())


def test_one_code_for_both_halves():
    "The released flag from 0 to 15 is 4 times the first choice plus the second: our class of a clip."
    choice = MAC(objective="s", **TINY).draw({"index": range(50), "epoch": 0})[0]
    assert torch.equal(losses.encode_alphas(choice), 4 * choice[:, 0] + choice[:, 1])


@pytest.mark.parametrize("flip", [0, 1])
@pytest.mark.parametrize("more", [{}, RELEASED])
def test_blend_after_is_a_blend_of_the_normalised_clip(flip, more):
    photometric = Photometric(gray=0.5, p_jitter=1, blur=0, flip=flip)
    task = MAC(blend="after", symmetric=True, photometric=photometric, **more, **TINY)
    batch = make_batch()
    clip = to_float(batch["clip"])
    for view in (0, 1):
        query, key = task.pair(batch, view)
        assert torch.equal(query, clip[:, view]) and torch.equal(key, clip[:, 1 - view])
        normalised, alpha = task.seen(batch, query, view), task.draw(batch, view)[1]
        mask = masks.mac_mask(query, **more).float()
        mask = (mask.flip(-1) if flip else mask)[:, None]
        gain = 1 - mask + alpha.repeat_interleave(2, 1)[:, None, :, None, None] * mask
        torch.testing.assert_close(task.query_seen(batch, query, view), normalised * gain)


def test_alpha_pulls_towards_the_mean_colour_or_towards_black():
    batch, alphas = make_batch(), (1e-6, 2e-6)
    far = {}
    for blend in ("before", "after"):
        task = MAC(objective="s", n=1, k=2, alphas=alphas, blend=blend, photometric=PLAIN, **TINY)
        clip = task.pair(batch)[0]
        mask = task.mask(batch, to_float(batch["clip"])[:, 0])[:, None].expand_as(clip)
        far[blend] = task.query_seen(batch, clip)[mask].abs()
    assert far["after"].max() < 1e-4 and far["before"].min() > 1.5  # black is two deviations below the mean


def test_the_losses_see_the_blend_after():
    batch = make_batch()
    before, after = (MAC(blend=blend, **TINY).train()(batch)["ss"] for blend in ("before", "after"))
    assert not torch.equal(before, after)
    with pytest.raises(ValueError, match="3 equal subclips"):
        MAC(objective="s", n=3, blend="after", **TINY)(make_batch(views=1))


def test_preset_factors_can_be_given():
    alphas = (0.165, 0.495, 0.83, 1.0)
    batch = make_batch(size=40)
    for given in (alphas, list(alphas)):
        task = MAC(objective="s", alphas=given, **TINY)
        choice, alpha = task.draw(batch)
        assert torch.equal(alpha, torch.tensor(alphas)[choice])
        assert torch.equal(choice, MAC(objective="s", **TINY).draw(batch)[0])


@pytest.mark.parametrize("alphas", [None, (0.165, 0.495, 0.83, 1.0)])
def test_bins_lie_around_the_preset_factors(alphas):
    task = MAC(objective="s", loss="mse-n", spread="bins", alphas=alphas, **TINY)
    like = MAC(objective="s", loss="mse", alphas=alphas, **TINY)
    batch = {"index": range(3000), "epoch": 0}
    choice, alpha = task.draw(batch)
    centre = like.draw(batch)[1]
    assert choice is None and alpha.min() >= 0 and alpha.max() == 1
    away = alpha - centre
    assert away.abs().max() <= 1 / 6 + 1e-6
    inner = away[centre < 0.8]  # not cut off at 1
    assert inner.max() > 0.16 and inner.min() < -0.16 and inner.mean().abs() < 0.01
    assert inner.std().item() == pytest.approx(1 / 6 / math.sqrt(3), rel=0.05)  # uniform, not normal
    assert (away[centre == 1] == 0).float().mean().item() == pytest.approx(0.5, abs=0.04)
    again = task.draw({"index": [7, 2], "epoch": 0})[1]
    assert torch.equal(again, alpha[[7, 2]])


def test_dropout_stands_before_the_alpha_head_alone():
    batch = make_batch(size=6)
    task, plain = MAC(dropout=0.5, **TINY).train(), MAC(**TINY).train()
    assert task.state_dict().keys() == plain.state_dict().keys()
    feature = noise((6, 16)) + 1
    dropped = task.dropped(feature, batch)
    kept = dropped != 0
    assert torch.equal(dropped[kept], 2 * feature[kept]) and 0.3 < kept.float().mean() < 0.7
    one = task.dropped(feature[[4]], {**batch, "index": torch.tensor([4])})
    assert torch.equal(one[0], dropped[4])  # whoever else is in the batch
    assert not torch.equal(task.dropped(feature, batch, 1) != 0, kept)
    assert not torch.equal(task.dropped(feature, {**batch, "epoch": 1}) != 0, kept)
    got, expected = task(batch), plain(batch)
    assert torch.equal(got["contrast"], expected["contrast"]) and not torch.equal(got["ss"], expected["ss"])
    task.eval(), plain.eval()
    assert task.dropped(feature, batch) is feature and torch.equal(task(batch)["ss"], plain(batch)["ss"])


@pytest.mark.parametrize("loss", ["mse", "mse-n"])
def test_sigmoid_squashes_what_is_compared(loss):
    task, feature = MAC(objective="s", loss=loss, sigmoid=True, **TINY), 30 * noise((4, 16)) - 15
    _, alpha = task.draw(make_batch())
    with torch.no_grad():
        out = task.guess(feature, None, alpha)
        guess = 1 / (1 + (-task.alpha_head(feature).double()).exp())
    assert out["ss"].item() == pytest.approx(((guess - alpha) ** 2).mean().item(), rel=1e-5)
    assert out["off"].item() == pytest.approx((guess - alpha).abs().mean().item(), rel=1e-5)


def test_initial_weights_of_the_alpha_head():
    task, plain = (MAC("r2plus1d_tiny", n=4, queue=8, head_std=std) for std in (0.001, None))
    weight = task.alpha_head.weight
    assert weight.std().item() == pytest.approx(0.001, rel=0.05) and not task.alpha_head.bias.any()
    assert plain.alpha_head.weight.std() > 0.01 and plain.alpha_head.bias.any()
    rest = [name for name in task.state_dict() if not name.startswith("alpha_head")]
    assert all(torch.equal(task.state_dict()[name], plain.state_dict()[name]) for name in rest)
    again = MAC("r2plus1d_tiny", n=4, queue=8, head_std=0.001).alpha_head.weight
    assert torch.equal(again, weight)


@pytest.mark.parametrize(
    "options",
    [
        dict(**RELEASED, blend="after", dropout=0.5, head_std=0.001, alphas=(0.165, 0.495, 0.83, 1.0)),
        dict(**RELEASED, blend="after", loss="mse-n", spread="bins", sigmoid=True, symmetric=True),
    ],
    ids=["ce", "mse-n"],
)
def test_everything_released_learns(options):
    task = MAC(**options, **TINY).train()
    out = task(make_batch())
    out["loss"].backward()
    learners = [p for p in task.parameters() if p.requires_grad]
    assert all(p.grad is not None for p in learners) and torch.isfinite(out["loss"])


@pytest.mark.parametrize(
    "params, sentence",
    [
        ({"convention": "code"}, "paper, released"),
        ({"blend": "never"}, "before, after"),
        ({"spread": "wide"}, "all, bins"),
        ({"dilate": -1}, "dilate is -1"),
        ({"dilate": 2.0}, "dilate is 2.0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"dropout": -0.1}, "dropout is -0.1"),
        ({"dropout": math.nan}, "dropout is nan"),
        ({"sigmoid": True}, "for regressions"),
        ({"head_std": -1}, "head_std is -1"),
        ({"head_std": math.inf}, "head_std is inf"),
        ({"spread": "bins"}, 'for loss="mse-n"'),
        ({"alphas": (0.5, 1.0)}, "k = 4 different factors"),
        ({"alphas": (0.5, 0.5, 0.7, 1.0)}, "k = 4 different factors"),
        ({"alphas": (0, 0.5, 0.7, 1.0)}, "k = 4 different factors"),
        ({"alphas": (0.1, 0.5, 0.7, 1.1)}, "k = 4 different factors"),
        ({"alphas": (0.1, 0.5, 0.7, 1.0), "loss": "mse-n"}, 'need spread="bins"'),
    ],
)
def test_bad_options_of_the_released_code_are_refused(params, sentence):
    with pytest.raises(ValueError, match=sentence):
        methods.build("mac", **{**TINY, **params})


def test_released_options_travel_in_a_recipe():
    "A recipe's parameters become text and come back; without the options the text names none."
    p = recipes.profile("paper", "mac")
    ours = recipes.pretraining(p, "mac", "ucf101", "r2plus1d")
    more = dict(**RELEASED, blend="after", alphas=[0.165, 0.495, 0.83, 1.0], dropout=0.5, head_std=0.001)
    released = recipes.pretraining(p, "mac", "ucf101", "r2plus1d", **more)
    assert released.hash != ours.hash and recipes.from_json(released.json()) == released
    assert {name for name in more if name in ours.params} == {"dropout", "head_std"}
    told = methods.described("mac", released.params)
    assert "convention released" in told and "soft True" in told and "blend after" in told


# ---------------------------------------- the probe of three layers, and a run from end to end


@pytest.mark.parametrize(
    "layers, shapes", [(1, [(5, 12), (5,)]), (3, [(12, 12), (12,), (12, 12), (12,), (5, 12), (5,)])]
)
def test_layers_of_a_probe(layers, shapes):
    head = protocols.classifier_head(12, 5, layers)
    assert [tuple(p.shape) for p in head.parameters()] == shapes
    assert sum(isinstance(m, torch.nn.ReLU) for m in head.modules()) == layers - 1


def test_cached_layers_learn_what_one_layer_cannot_and_keep_the_features_scale():
    x = torch.randn(400, 8) * torch.logspace(-3, 2, 8) + 50
    y = ((x[:, 0] > x[:, 0].median()) ^ (x[:, 7] > x[:, 7].median())).long()
    head = protocols.classifier_head(8, 2, 3)
    protocols._train_layers(head, x, y)
    assert (head(x).argmax(1) == y).float().mean() > 0.9


def test_recipes_of_mac_run_from_end_to_end(tmp_path, monkeypatch, puppets_root):
    "Pretraining with drawn strides and true boxes, a fine-tuning on still clips, a probe of three layers."
    monkeypatch.setenv("MVNB_PATHS_RUNS", str(tmp_path))
    monkeypatch.setenv("MVNB_DATA_PUPPETS", str(puppets_root))
    small = replace(recipes.profile("smoke"), scale=0.06)
    run = dict(device="cpu", workers=0, progress=False)
    pre = recipes.pretraining(small, "mac", "puppets-u", "r2plus1d", objective="sc", n=2, source="box")
    pre = replace(pre, clips=replace(pre.clips, stride=(1, 2, 3, 4)))
    assert {"loss", "ss", "contrast", "guessed", "top1"} <= set(runs.ensure(pre, **run).metrics)
    tune = recipes.finetuning(small, "puppets-u", pre)
    still = replace(tune, clips=replace(tune.clips, still=2))
    assert still.hash != tune.hash and recipes.from_json(still.json()) == still and "still" not in tune.json()
    assert set(runs.ensure(still, **run).metrics) == {"biased", "unbiased"}
    probe = runs.ensure(recipes.linear_probing(small, "puppets-u", pre, layers=3), **run)
    assert set(models.read_weights(probe.folder / "head.safetensors")[0]) == {
        f"{i}.{p}" for i in (0, 2, 4) for p in ("weight", "bias")
    }


# ---------------------------------------------------------------- with a GPU


@cuda
def test_same_on_the_gpu_and_without_a_sync():
    clip, alpha = noise((4, 3, 8, 32, 32)), noise((4, 2), 1)
    expected = mixing.alpha_blend(clip, masks.mac_mask(clip), alpha)
    there, alpha = clip.cuda(), alpha.pin_memory()
    mixing.alpha_blend(there, masks.mac_mask(there), alpha)  # loads kernels
    torch.cuda.set_sync_debug_mode("error")
    try:
        got = mixing.alpha_blend(there, masks.mac_mask(there), alpha)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert (masks.mac_mask(there).cpu() != masks.mac_mask(clip)).float().mean() < 1e-4
    assert (got.cpu() - expected).abs().gt(1e-6).float().mean() < 1e-4


@cuda
def test_released_mask_and_blend_on_the_gpu_without_a_sync():
    clip, alpha = noise((4, 3, 8, 32, 32)), noise((4, 2), 1)
    expected = mixing.alpha_blend(clip, masks.mac_mask(clip, **RELEASED), alpha)
    there, alpha = clip.cuda(), alpha.pin_memory()
    mixing.alpha_blend(there, masks.mac_mask(there, **RELEASED), alpha)  # loads kernels
    torch.cuda.set_sync_debug_mode("error")
    try:
        got = mixing.alpha_blend(there, masks.mac_mask(there, **RELEASED), alpha)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert (got.cpu() - expected).abs().gt(1e-5).float().mean() < 1e-3


@cuda
@pytest.mark.parametrize(
    "options", [{}, dict(**RELEASED, blend="after", dropout=0.5)], ids=["paper", "released"]
)
def test_a_step_on_the_gpu_waits_for_nothing(options):
    from mvnb.train import to_device

    task = MAC(**options, **TINY).cuda().train()
    batch = to_device(make_batch(), torch.device("cuda"))
    task(batch)["loss"].backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        task(batch)["loss"].backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
