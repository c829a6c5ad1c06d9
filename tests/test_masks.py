"Foreground masks against an independent composition in NumPy, and what they must hold for every clip."

import colorsys
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mvnb import masks

VARIANTS = [masks.fame_mask, masks.seed_mask, masks.grid_mask, masks.gauss_mask]
EXACT = [masks.fame_mask, masks.seed_mask, masks.gauss_mask]  # Grid keeps whole cells
quick = settings(max_examples=40, deadline=None)


# ---------------------------------------------------------------- clips


def noise(size=(2, 3, 5, 24, 30), seed=0):
    return torch.rand(size, generator=torch.Generator().manual_seed(seed))


def puppet_like(size=48, frames=6, batch=2, seed=0):
    "Flat-coloured scenes of few colours with a moving block: many ties, as drawn pictures have them."
    rng = np.random.default_rng(seed)
    clip = (
        np.repeat(rng.integers(0, 256, (batch, 3, 1, 4, 4)), frames, 2)
        .repeat(size // 4, 3)
        .repeat(size // 4, 4)
    )
    for b, t in np.ndindex(batch, frames):
        clip[b, :, t, 10:34, 4 + 4 * t : 16 + 4 * t] = (
            rng.integers(0, 256, (3, 1, 1)) if t == 0 else clip[b, :, 0, 10, 4, None, None]
        )
    return torch.from_numpy(clip.astype(np.float32)) / 255


def drawn(kind, size, seed):
    "A clip of a kind: noise, few levels, constant, black, or one that moves in a corner only."
    if kind == "noise":
        return noise(size, seed)
    if kind == "levels":
        return (noise(size, seed) * 3).round() / 3
    clip = torch.full(size, {"constant": 0.37, "black": 0.0, "corner": 0.5}[kind])
    if kind == "corner":
        clip[:, :, 1, 0, 0] = 1.0
    return clip


@pytest.fixture(scope="module")
def real(request):
    from mvnb import video

    folder = request.getfixturevalue("shared_data") / "mini"
    paths = [sorted((folder / name).glob("*.avi"))[3] for name in ("BasketballDunk", "Surfing")]
    return torch.stack([video.read_clip(p, range(0, 16, 2), size=(60, 80)).rgb for p in paths]).float() / 255


@pytest.fixture(params=["noise", "puppet-like", "real"])
def clip(request):
    if request.param == "real":
        return request.getfixturevalue("real")
    return noise((2, 3, 5, 40, 44)) if request.param == "noise" else puppet_like()


@pytest.fixture(params=["noise", "real"])
def untied(request):
    "Clips without a drawn picture's large still areas, where many seeds are equal and any choice is right."
    return request.getfixturevalue("real") if request.param == "real" else noise((2, 3, 5, 40, 44))


# ---------------------------------------------------------------- the oracle: FAME's steps in NumPy and loops


def slow_blur(image):
    "Every output pixel as a weighted sum over its square window; the picture is mirrored at its border."
    height, width = image.shape
    kernel = int(0.1 * height) // 2 * 2 + 1
    half, sigma = kernel // 2, kernel / 3
    taps = np.array([math.exp(-((i - half) ** 2) / (2 * sigma**2)) for i in range(kernel)])
    window = np.outer(taps, taps) / np.outer(taps, taps).sum()
    wide = np.pad(image, half, mode="reflect")
    return np.array(
        [[(wide[i : i + kernel, j : j + kernel] * window).sum() for j in range(width)] for i in range(height)]
    )


def slow_minmax(image):
    return (image - image.min()) / (image.max() - image.min() + 1e-8)


def slow_seed(clip):
    x = clip.double().numpy()
    difference = sum(np.abs(x[:, t + 1] - x[:, t]).sum(0) for t in range(x.shape[1] - 1)) / (x.shape[1] - 1)
    return difference, slow_minmax(slow_blur(difference))


def slow_bins(mean, hue):
    "Unrounded bin coordinates [3,H,W] by the standard library's HSV."
    out = np.empty(mean.shape)
    for i, j in np.ndindex(mean.shape[1:]):
        h, s, v = colorsys.rgb_to_hsv(*mean[:, i, j])
        radians = 2 * math.pi * h
        angle = 2 * math.pi * radians if hue == "published" else radians
        out[:, i, j] = 9 * (s * math.cos(angle) + 1) / 2 + 1, 9 * (s * math.sin(angle) + 1) / 2 + 1, 9 * v + 1
    return out


def slow_likelihood(code, seed):
    "Counting colours one pixel at a time; assumes that no seeds tie at the two borders."
    order, pixels = np.argsort(seed.ravel(), kind="stable"), seed.size
    front, back = np.zeros(1001), np.ones(1001)
    for p in order[pixels - int(0.5 * pixels) :]:
        front[code.ravel()[p]] += 1
    for p in order[: int(0.1 * pixels)]:
        back[code.ravel()[p]] += 1
    front, back = front / (front[1:].sum() + 1e-8), back / (back[1:].sum() + 1e-8)
    return np.array([[front[c] / (front[c] + back[c]) for c in row] for row in code])


def agree_on_top(mask, values, count, tolerance=1e-5):
    "`mask` holds `count` pixels, all that are clearly above the edge and none that is clearly below it."
    assert mask.sum() == count
    if not count:
        return
    edge = np.sort(values.ravel())[values.size - count]
    assert mask[values > edge + tolerance].all() and not mask[values < edge - tolerance].any()


@pytest.mark.parametrize("hue", list(masks.HUES))
def test_every_stage_of_fame(clip, hue):
    beta, stages = 0.4, masks.fame_stages(clip, 0.4, hue)
    for b in range(len(clip)):
        ours = {name: getattr(stages, name)[b].numpy() for name in stages._fields}
        difference, seed = slow_seed(clip[b])
        np.testing.assert_allclose(ours["difference"], difference, atol=1e-5)
        np.testing.assert_allclose(ours["seed"], seed, atol=1e-4)
        mean = clip[b].double().mean(1).numpy()
        np.testing.assert_allclose(ours["mean"], mean, atol=1e-6)
        bins = slow_bins(ours["mean"].astype(np.float64), hue)
        clear = (np.abs(bins - np.floor(bins) - 0.5) > 1e-4).all(0)
        assert clear.mean() > 0.5
        column, row, level = np.round(bins).astype(int)
        np.testing.assert_array_equal(
            ours["code"][clear], (column + 10 * (row - 1) + 100 * (level - 1))[clear]
        )
        # from here on each stage starts from our own previous one, so that rounding does not pile up
        order = np.sort(ours["seed"].ravel())
        pixels = order.size
        if (
            order[pixels - pixels // 2] != order[pixels - pixels // 2 - 1]
            and order[pixels // 10] != order[pixels // 10 - 1]
        ):
            np.testing.assert_allclose(
                ours["likelihood"], slow_likelihood(ours["code"], ours["seed"]), atol=1e-6
            )
        np.testing.assert_allclose(
            ours["probability"], slow_minmax(slow_blur(ours["likelihood"].astype(np.float64))), atol=1e-5
        )
        agree_on_top(ours["mask"], ours["probability"], int(beta * pixels))


def test_histograms_do_not_depend_on_untied_luck():
    "The check of the likelihood above is not skipped everywhere: noise has no ties at the borders."
    clip = noise((2, 3, 5, 40, 44))
    seed = masks.fame_stages(clip).seed.flatten(1).sort(1).values
    for at in (seed.shape[1] // 2, seed.shape[1] // 10):
        assert (seed[:, at] != seed[:, at - 1]).all()


def test_the_whole_mask_against_a_second_composition(untied):
    "The plain composition in the bench, a third writing of the same steps, keeps almost the same pixels."
    plain = pytest.importorskip("bench.fame", reason="the bench folder is not beside the tests").plain_mask
    for beta in (0.3, 0.5):
        same = (masks.fame_mask(untied, beta) == plain(untied, beta).bool()).float().mean((1, 2))
        assert (same > 0.985).all()


@pytest.mark.parametrize("size", [(20, 20), (33, 57), (112, 80), (9, 40)])
def test_blur(size):
    image = noise((2, *size))
    for b in range(2):
        np.testing.assert_allclose(masks.blur(image)[b], slow_blur(image[b].double().numpy()), atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 2), (60, 2)])
def test_blur_of_a_constant_is_the_constant(size):
    "Also where the mirrored border is wider than the picture."
    torch.testing.assert_close(masks.blur(torch.full((1, *size), 0.3), kernel=7), torch.full((1, *size), 0.3))


@quick
@given(st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=1, max_size=30))
def test_hsv(colours):
    image = torch.tensor(colours, dtype=torch.float32).T.reshape(1, 3, 1, -1) / 255
    for (r, g, b), h, s, v in zip(colours, *(x.flatten().tolist() for x in masks.hsv(image))):
        hue, saturation, value = colorsys.rgb_to_hsv(r / 255, g / 255, b / 255)
        assert 0 <= h < 2 * math.pi + 1e-6 and abs(math.remainder(h - 2 * math.pi * hue, 2 * math.pi)) < 1e-5
        assert abs(s - saturation) < 1e-5 and abs(v - value) < 1e-6


@quick
@given(st.integers(0, 10**6), st.sampled_from(list(masks.HUES)))
def test_codes_lie_in_range(seed, hue):
    rng = np.random.default_rng(seed)
    code = masks.color_code(torch.from_numpy(rng.integers(0, 3, (2, 3, 6, 6)).astype(np.float32)) / 2, hue)
    assert code.dtype == torch.int64 and code.min() >= 1 and code.max() <= 1000


# ---------------------------------------------------------------- properties

kinds = st.sampled_from(["noise", "levels", "constant", "black", "corner"])
sides = st.integers(1, 40)


@quick
@given(kinds, sides, sides, st.integers(2, 4), st.floats(0.001, 1), st.integers(0, 99))
def test_exactly_as_many_pixels_as_asked(kind, height, width, time, beta, seed):
    clip = drawn(kind, (2, 3, time, height, width), seed)
    for make in EXACT:
        mask = make(clip, beta)
        assert mask.dtype == torch.bool and mask.shape == (2, height, width)
        assert mask.sum((1, 2)).tolist() == [math.floor(beta * height * width)] * 2
    assert all(make(clip, 1).all() for make in VARIANTS)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_count_survives_broken_pixels(value):
    clip = noise()
    clip[0, 1, 2, 3, 4] = value
    if not math.isnan(value):
        with pytest.raises(ValueError, match="lie in"):
            masks.fame_mask(clip)
        return
    for make in EXACT:
        assert make(clip, 0.3).sum((1, 2)).tolist() == [int(0.3 * 24 * 30)] * 2
    assert torch.equal(masks.fame_mask(clip, 0.3)[1], masks.fame_mask(noise(), 0.3)[1])


@quick
@given(kinds, st.floats(0.01, 1), st.floats(0.01, 1), st.integers(0, 99))
def test_a_smaller_share_lies_inside_a_larger(kind, a, b, seed):
    clip = drawn(kind, (1, 3, 3, 20, 22), seed)
    for make in VARIANTS:
        assert (make(clip, min(a, b)) <= make(clip, max(a, b))).all()


@pytest.mark.parametrize("make", VARIANTS)
def test_a_sample_does_not_see_its_batch(make):
    clip = torch.cat([puppet_like(), torch.full((1, 3, 6, 48, 48), 0.5), puppet_like(seed=3)])
    whole = make(clip, 0.3)
    for b in range(len(clip)):
        assert torch.equal(make(clip[b : b + 1], 0.3)[0], whole[b])
    order = torch.tensor([3, 0, 4, 2, 1])
    assert torch.equal(make(clip[order], 0.3), whole[order])


@pytest.mark.parametrize("axis", [-1, -2])
def test_flips_with_the_picture(untied, axis):
    for make in (masks.fame_mask, masks.seed_mask):
        same = (make(untied.flip(axis), 0.4) == make(untied, 0.4).flip(axis)).float().mean((1, 2))
        assert (same > 0.995).all()  # float sums in another order move a few pixels at the edge
    square = noise((2, 3, 4, 40, 40))
    assert torch.equal(masks.grid_mask(square.flip(axis)), masks.grid_mask(square).flip(axis))


@pytest.mark.parametrize("make", VARIANTS)
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64])
def test_other_floats(make, kind):
    clip = noise().to(kind)
    assert torch.equal(make(clip, 0.4), make(clip.float(), 0.4))


@pytest.mark.parametrize("make", VARIANTS)
def test_bytes_and_autocast(make):
    clip = (puppet_like() * 255).round().byte()
    expected = make(clip.float() / 255, 0.4)
    assert torch.equal(make(clip, 0.4), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(make(clip.float() / 255, 0.4), expected)


@pytest.mark.parametrize("make", VARIANTS)
def test_inputs_are_left_alone_and_carry_no_gradient(make):
    clip = noise().requires_grad_()
    before = clip.detach().clone()
    assert not make(clip, 0.3).requires_grad and torch.equal(clip.detach(), before)


@pytest.mark.parametrize("make", VARIANTS)
def test_memory_layout_does_not_matter(make):
    clip = puppet_like()
    twisted = clip.permute(0, 3, 4, 2, 1).contiguous().permute(0, 4, 3, 1, 2)
    assert not twisted.is_contiguous() and torch.equal(make(twisted, 0.3), make(clip, 0.3))


@pytest.mark.parametrize("make", VARIANTS)
def test_compiles_into_one_graph(make):
    clip = puppet_like()
    torch._dynamo.reset()
    compiled = torch.compile(make, fullgraph=True, backend="aot_eager")
    assert (compiled(clip, 0.3) == make(clip, 0.3)).float().mean() > 0.999
    assert make is masks.grid_mask or (compiled(clip, 0.3).sum((1, 2)) == int(0.3 * 48 * 48)).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("make", VARIANTS)
def test_cuda_agrees_and_never_waits(make):
    clip = puppet_like().cuda()
    make(clip, 0.3)
    torch.cuda.set_sync_debug_mode("error")
    try:
        mask = make(clip, 0.3)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert (mask.cpu() == make(clip.cpu(), 0.3)).float().mean() > 0.99


@pytest.mark.parametrize("make", VARIANTS)
def test_refuses(make):
    for beta in (0, -0.1, 1.01, math.nan):
        with pytest.raises(ValueError, match="beta"):
            make(noise(), beta)
    with pytest.raises(ValueError, match=r"\[B,C,T,H,W\]"):
        make(noise()[0])
    if make is masks.gauss_mask:
        return
    with pytest.raises(ValueError, match="at least 2 frames"):
        make(noise()[:, :, :1])
    with pytest.raises(ValueError, match="lie in"):
        make(noise() * 255)
    with pytest.raises(ValueError, match="colour clips"):
        make(noise((1, 1, 4, 8, 8)))
    with pytest.raises(ValueError, match="got torch.int16"):
        make((noise() * 255).to(torch.int16))


def test_a_kind_is_the_name_of_its_function():
    assert masks.KINDS == tuple(masks.MASKS)
    for kind, make in masks.MASKS.items():
        assert getattr(masks, f"{kind}_mask") is make


def test_names():
    clip = noise()
    assert torch.equal(masks.foreground(clip), masks.fame_mask(clip))
    for name, make in masks.MASKS.items():
        assert torch.equal(masks.foreground(clip, name, 0.3), make(clip, 0.3))
    assert not torch.equal(masks.foreground(clip, "fame", 0.3, hue="angle"), masks.fame_mask(clip, 0.3))
    with pytest.raises(ValueError, match="fame, seed, grid, gauss"):
        masks.foreground(clip, "grad")
    with pytest.raises(ValueError, match="published, angle"):
        masks.fame_mask(clip, hue="degrees")


# ---------------------------------------------------------------- the variants


def test_seed_keeps_the_largest_seeds(clip):
    mask = masks.seed_mask(clip, 0.25)
    for b in range(len(clip)):
        agree_on_top(mask[b].numpy(), slow_seed(clip[b])[1], int(0.25 * mask[b].numel()), 1e-4)


def test_grid_keeps_the_eight_cells_with_the_largest_sum(clip):
    height, width = clip.shape[-2:]
    assert height % 4 == width % 4 == 0
    for b, mask in enumerate(masks.grid_mask(clip).numpy()):
        cells = slow_seed(clip[b])[1].reshape(4, height // 4, 4, width // 4).sum((1, 3))
        kept = mask.reshape(4, height // 4, 4, width // 4)
        assert (kept.all((1, 3)) == kept.any((1, 3))).all()
        agree_on_top(kept.all((1, 3)), cells, 8, 1e-3)


@quick
@given(sides, sides, st.floats(0.01, 1))
def test_grid_keeps_whole_cells_of_any_frame(height, width, beta):
    mask = masks.grid_mask(noise((1, 3, 2, height, width)), beta)[0].numpy()
    edges = [np.flatnonzero(np.diff([-1, *(np.arange(size) * 4 // size), 4])) for size in (height, width)]
    for top, bottom in zip(edges[0], edges[0][1:]):
        for left, right in zip(edges[1], edges[1][1:]):
            assert len(set(mask[top:bottom, left:right].ravel().tolist())) == 1


@quick
@given(sides, sides, st.floats(0.01, 1))
def test_gauss_keeps_the_middle(height, width, beta):
    mask = masks.gauss_mask(torch.empty(1, 3, 1, height, width), beta)[0].numpy()
    y, x = np.mgrid[:height, :width]
    density = np.exp(-2 * (((y + 0.5) / height - 0.5) ** 2 + ((x + 0.5) / width - 0.5) ** 2))
    agree_on_top(mask, density, math.floor(beta * height * width), 1e-9)


# ---------------------------------------------------------------- quality


@quick
@given(st.integers(0, 10**6), st.floats(0, 1), st.floats(0, 1))
def test_iou_counts_pixels(seed, p, q):
    rng = np.random.default_rng(seed)
    mask, truth = rng.random((2, 5, 6)) < p, rng.random((2, 3, 5, 6)) < q
    ours = masks.iou(torch.from_numpy(mask), torch.from_numpy(truth)).tolist()
    for b in range(2):
        pairs = [(mask[b, i, j], truth[b, t, i, j]) for t, i, j in np.ndindex(3, 5, 6)]
        either = sum(m or t for m, t in pairs)
        assert math.isclose(ours[b], sum(m and t for m, t in pairs) / either if either else 1, abs_tol=1e-6)
    turned = masks.iou(torch.from_numpy(truth), torch.from_numpy(mask))
    assert turned.tolist() == ours


def test_saliency_is_a_ratio_of_means():
    rng = np.random.default_rng(0)
    moved, boxes = rng.random((2, 3, 8, 10)), np.array([[[1, 2, 5, 6]] * 3, [[0, 0, 3, 8]] * 3], np.float32)
    expected = []
    for b in range(2):
        inside, outside = [], []
        for t, i, j in np.ndindex(3, 8, 10):
            x0, y0, x1, y1 = boxes[b, t]
            (inside if x0 <= j < x1 and y0 <= i < y1 else outside).append(moved[b, t, i, j])
        expected.append(np.mean(inside) / np.mean(outside))
    moved, boxes = torch.from_numpy(moved).float(), torch.from_numpy(boxes)
    torch.testing.assert_close(masks.saliency_score(moved, boxes), torch.tensor(expected).float())
    torch.testing.assert_close(masks.saliency_score(moved, boxes[:, 0]), torch.tensor(expected).float())
    torch.testing.assert_close(
        masks.saliency_score(moved, masks.box_mask(boxes, 8, 10)), torch.tensor(expected).float()
    )


def test_saliency_at_its_limits():
    inside = torch.zeros(1, 4, 4, dtype=torch.bool)
    assert masks.saliency_score(torch.ones(1, 4, 4), inside).isnan().all()
    inside[:, :2] = True
    assert masks.saliency_score(inside.float(), inside).isinf().all()
    assert masks.saliency_score(torch.ones(1, 4, 4), inside).item() == 1


def test_puppets_are_found_better_than_by_guessing():
    "On a still camera FAME and Seed beat the centre of the frame."
    from mvnb import puppets

    acts = puppets.CLASSES["puppets-u"]
    films = [puppets.render("puppets-u", acts[i % len(acts)], seed=50 + i) for i in range(8)]
    clip = torch.stack([torch.from_numpy(rgb[:32:2]).permute(3, 0, 1, 2) for rgb, _ in films])
    truth = torch.stack([torch.from_numpy(mask[:32:2]) for _, mask in films])
    score = {name: masks.iou(make(clip, 0.3), truth).mean().item() for name, make in masks.MASKS.items()}
    assert score["fame"] > score["gauss"] and score["fame"] > 0.45
