"Augmentation against torchvision and slow NumPy, and its properties."

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from hypothesis import given, settings as hyp, strategies as st

from mvnb import augment
from mvnb.augment import Photometric, normalize, on_chosen, to_float


def clips(batch=4, frames=3, height=20, width=24, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(batch, 3, frames, height, width, generator=g)
    x[0, :, :, :4] = x[0, :1, :, :4]  # some grey pixels, some black, some white, ties between channels
    x[1, :, :, :4], x[1, :, :, 4:8] = 0, 1
    x[2, 1] = x[2, 0]
    return x


def framewise(f, clip):
    "A torchvision function on every frame of one clip [C,T,H,W]."
    return f(clip.transpose(0, 1)).transpose(0, 1)


def tall(f, clip):
    "A torchvision function on the frames of one clip put under each other: one image, so one mean."
    c, t, h, w = clip.shape
    return f(clip.reshape(c, t * h, w)).view(c, t, h, w)


# --- each operation against torchvision, sample by sample

FACTORS = torch.tensor([0.6, 0.9, 1.0, 1.4])


@pytest.mark.parametrize(
    "name,across", [("brightness", framewise), ("contrast", tall), ("saturation", framewise)]
)
def test_factor_equals_torchvision(name, across):
    x = clips()
    ref = torch.stack(
        [across(lambda v: getattr(TF, f"adjust_{name}")(v, float(f)), c) for c, f in zip(x, FACTORS)]
    )
    torch.testing.assert_close(getattr(augment, name)(x, FACTORS), ref, atol=2e-6, rtol=0)


@pytest.mark.parametrize("shifts", [(-0.1, 0.1, 0.03, -0.07), (0.5, -0.5, 0.0, 0.33)])
def test_hue_equals_torchvision(shifts):
    x, shift = clips(), torch.tensor(shifts)
    ref = torch.stack([framewise(lambda v: TF.adjust_hue(v, float(s)), c) for c, s in zip(x, shift)])
    torch.testing.assert_close(augment.hue(x, shift), ref, atol=5e-6, rtol=0)


def test_hue_by_the_definition():
    import colorsys

    x = clips(3, 1, 12, 6, seed=3)[:1]
    got = augment.hue(x, torch.tensor([0.08]))[0, :, 0]
    for y in range(12):
        for z in range(6):
            h, s, v = colorsys.rgb_to_hsv(*x[0, :, 0, y, z].double().tolist())
            np.testing.assert_allclose(got[:, y, z], colorsys.hsv_to_rgb((h + 0.08) % 1, s, v), atol=5e-6)


def test_grayscale_equals_torchvision():
    x = clips()
    ref = torch.stack([framewise(lambda v: TF.rgb_to_grayscale(v, 3), c) for c in x])
    torch.testing.assert_close(augment.grayscale(x), ref, atol=1e-6, rtol=0)


@pytest.mark.parametrize("height,width", [(20, 24), (5, 31)])
def test_blur_equals_torchvision(height, width):
    x, sigma = clips(4, 2, height, width), torch.tensor([0.1, 0.7, 1.3, 2.0])
    r = min(6, height - 1, width - 1)
    ref = torch.stack(
        [
            framewise(lambda v: TF.gaussian_blur(v, [2 * r + 1] * 2, [float(s)] * 2), c)
            for c, s in zip(x, sigma)
        ]
    )
    torch.testing.assert_close(augment.gaussian_blur(x, sigma), ref, atol=3e-6, rtol=0)


def test_blur_of_a_point_is_a_gaussian():
    x = torch.zeros(1, 1, 1, 31, 31)
    x[..., 15, 15] = 1
    got = augment.gaussian_blur(x, torch.tensor([1.5]), 6)[0, 0, 0].numpy()
    i = np.arange(31) - 15
    g = np.where(abs(i) <= 6, np.exp(-(i**2) / (2 * 1.5**2)), 0)
    np.testing.assert_allclose(got, np.outer(g, g) / g.sum() ** 2, atol=1e-7)


def test_whole_chain_equals_torchvision_in_order():
    x, p = clips(8, seed=2), Photometric().draw(1, 1, range(8), "q")
    got = Photometric().apply(x, p)
    for i, c in enumerate(x):
        if p["jitter"][i]:
            c = framewise(lambda v: TF.adjust_brightness(v, float(p["brightness"][i])), c)
            c = tall(lambda v: TF.adjust_contrast(v, float(p["contrast"][i])), c)
            c = framewise(lambda v: TF.adjust_saturation(v, float(p["saturation"][i])), c)
            c = framewise(lambda v: TF.adjust_hue(v, float(p["hue"][i])), c)
        if p["gray"][i]:
            c = framewise(lambda v: TF.rgb_to_grayscale(v, 3), c)
        if p["blur"][i]:
            c = framewise(lambda v: TF.gaussian_blur(v, [13, 13], [float(p["sigma"][i])] * 2), c)
        if p["flip"][i]:
            c = TF.hflip(c)
        torch.testing.assert_close(got[i], c, atol=1e-5, rtol=0)
    assert (
        all(0 < int(p[k].sum()) < 8 for k in ("jitter", "blur", "flip")) and p["gray"].any()
    )  # this seed meets every branch


# --- the randomness rule


def test_draw_depends_on_the_sample_not_the_batch():
    d = Photometric().draw
    a, b = d(1, 2, [5, 9, 11], "k"), d(1, 2, torch.tensor([11, 4, 5]), "k")
    for k in a:
        assert a[k][0] == b[k][2] and a[k][2] == b[k][0] and a[k].shape == (3,) and a[k].device.type == "cpu"
    base = d(1, 2, range(64), "k")["sigma"]
    for other in (
        d(2, 2, range(64), "k"),
        d(1, 3, range(64), "k"),
        d(1, 2, range(64), "q"),
        d(1, 2, range(64, 128), "k"),
    ):
        assert not torch.equal(base, other["sigma"])


def test_draw_has_the_stated_distribution():
    n = 4000
    p = Photometric().draw(0, 0, range(n))
    for k, chance in dict(jitter=0.8, gray=0.2, blur=0.5, flip=0.5).items():
        assert abs(p[k].float().mean() - chance) < 4 * (chance * (1 - chance) / n) ** 0.5
    for k, low, high in (
        ("brightness", 0.6, 1.4),
        ("contrast", 0.6, 1.4),
        ("saturation", 0.6, 1.4),
        ("hue", -0.1, 0.1),
        ("sigma", 0.1, 2),
    ):
        v = p[k]
        assert low <= v.min() < low + 0.02 * (high - low) and high - 0.02 * (high - low) < v.max() <= high
        assert abs(v.mean() - (low + high) / 2) < 0.02 * (high - low)
    names = list(p)
    c = np.corrcoef(np.stack([p[k].numpy().astype(float) for k in names])) - np.eye(len(names))
    assert abs(c).max() < 0.08  # drawn independently of each other


def test_changing_one_probability_leaves_the_other_draws():
    a, b = Photometric().draw(0, 0, range(50)), Photometric(blur=0, gray=1.0).draw(0, 0, range(50))
    for k in ("jitter", "flip", "sigma", "hue"):
        assert torch.equal(a[k], b[k])
    assert not b["blur"].any() and b["gray"].all()


# --- applying


@given(seed=st.integers(0, 1000), batch=st.integers(1, 6))
@hyp(max_examples=15, deadline=None)
def test_batched_equals_per_sample(seed, batch):
    p, x = Photometric(), clips(6, seed=seed)[:batch]
    params = p.draw(seed, 0, range(batch), "q")
    one = torch.cat(
        [p.apply(x[i : i + 1], {k: v[i : i + 1] for k, v in params.items()}) for i in range(batch)]
    )
    torch.testing.assert_close(p.apply(x, params), one, atol=1e-6, rtol=0)


def test_consistent_in_time_and_in_range():
    still = clips(8, 1).expand(-1, -1, 5, -1, -1)
    out = Photometric().apply(still, Photometric().draw(0, 0, range(8)))
    torch.testing.assert_close(out, out[:, :, :1].expand_as(out), atol=1e-6, rtol=0)
    assert out.min() >= 0 and out.max() <= 1 + 1e-6 and not torch.equal(out, still)


def test_input_is_left_alone_and_nothing_drawn_changes_nothing():
    x = clips(6)
    before = x.clone()
    Photometric(1, (0.4, 0.4, 0.4, 0.1), 1, 1, (0.1, 2), 1).apply(
        x, Photometric(1, p_jitter=1, blur=1, flip=1).draw(0, 0, range(6))
    )
    assert torch.equal(x, before)
    none = Photometric(gray=0, p_jitter=0, blur=0, flip=0)
    assert torch.equal(none.apply(x, none.draw(0, 0, range(6))), x)


def test_samples_that_drew_nothing_are_bit_equal():
    p = Photometric(flip=0)
    x, params = clips(6), p.draw(0, 0, range(6))
    params |= {
        k: params[k].index_fill(0, torch.tensor([1, 4]), False) for k in ("jitter", "gray", "blur", "flip")
    }
    out = p.apply(x, params)
    assert torch.equal(out[[1, 4]], x[[1, 4]])


def test_flip_flips_the_motion_too():
    p = Photometric(gray=0, p_jitter=0, blur=0, flip=0.5)
    x, mv = clips(8), torch.randn(8, 3, 2, 4, 5)
    has = torch.rand(8, 3, 4, 5) > 0.5
    params = p.draw(0, 0, range(8))
    out, mv2, has2 = p.apply(x, params, mv, has)
    assert 0 < params["flip"].sum() < 8
    for i, f in enumerate(params["flip"].tolist()):
        ref = (
            (
                np.flip(x[i].numpy(), -1),
                np.stack([-np.flip(mv[i, :, 0].numpy(), -1), np.flip(mv[i, :, 1].numpy(), -1)], 1),
                np.flip(has[i].numpy(), -1),
            )
            if f
            else (x[i].numpy(), mv[i].numpy(), has[i].numpy())
        )
        for got, want in zip((out[i], mv2[i], has2[i]), ref):
            np.testing.assert_array_equal(got.numpy(), want)
    assert len(p.apply(x, params, mv)) == 2


def test_flip_moves_with_real_motion():
    "A bright square that goes right has dx > 0; in the flipped clip it goes left and its vectors say so."
    x, mv = torch.zeros(1, 3, 4, 16, 16), torch.zeros(1, 4, 2, 2, 2)
    for t in range(4):
        x[0, :, t, 4:8, 2 * t : 2 * t + 4] = 1
    mv[:, 1:, 0] = 2
    where = lambda c: (c[0, 0].sum(1) * torch.arange(16)).sum(1) / c[0, 0].sum((1, 2))
    p = Photometric(gray=0, p_jitter=0, blur=0, flip=1)
    out, mv2 = p.apply(x, p.draw(0, 0, [0]), mv)
    for c, m in ((x, mv), (out, mv2)):
        torch.testing.assert_close(where(c).diff(), m[0, 1:, 0, 0, 0])


def test_stays_float32_under_autocast():
    p, x = Photometric(), clips(4)
    params = p.draw(0, 0, range(4))
    with torch.autocast("cpu", torch.bfloat16):
        out = p.apply(x, params)
    assert out.dtype == torch.float32 and torch.equal(out, p.apply(x, params))


def test_masked_form_used_by_compile_equals_indexed_form(monkeypatch):
    p, x = Photometric(), clips(6)
    params = p.draw(4, 0, range(6))
    want = p.apply(x, params)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(p.apply(x, params), want, atol=1e-6, rtol=0)


def test_traces_without_a_graph_break():
    p, x = Photometric(), clips(4)
    params, other = p.draw(4, 0, range(4)), p.draw(5, 0, range(4))
    fast = torch.compile(p.apply, backend="eager", fullgraph=True)
    for q in (params, other):
        torch.testing.assert_close(fast(x, q), p.apply(x, q), atol=1e-6, rtol=0)


# --- numbers and errors


def test_to_float_and_normalize():
    u = torch.arange(256, dtype=torch.uint8).view(1, 1, 1, 16, 16).expand(2, 3, 4, 16, 16)
    f = to_float(u)
    assert f.dtype == torch.float32 and f.min() == 0 and f.max() == 1
    np.testing.assert_array_equal(
        f[0, 0, 0].numpy(), (np.arange(256, dtype=np.float32) / np.float32(255)).reshape(16, 16)
    )
    from torchvision.models.video import R2Plus1D_18_Weights

    t = R2Plus1D_18_Weights.KINETICS400_V1.transforms()
    want = (f - torch.tensor(t.mean).view(3, 1, 1, 1)) / torch.tensor(t.std).view(3, 1, 1, 1)
    torch.testing.assert_close(normalize(f), want)
    torch.testing.assert_close(normalize(f[0]), want[0])  # one clip without a batch axis
    with pytest.raises(TypeError, match="uint8"):
        to_float(f)


@pytest.mark.parametrize(
    "bad",
    [
        dict(gray=1.2),
        dict(blur=-0.1),
        dict(jitter=(0.4, 0.4, 0.4, 0.6)),
        dict(jitter=(0.4, 0.4)),
        dict(sigma=(0, 1)),
        dict(sigma=(2, 1)),
    ],
)
def test_impossible_settings_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Photometric(**bad)


def test_uint8_is_refused():
    p = Photometric()
    with pytest.raises(TypeError, match="to_float"):
        p.apply(torch.zeros(1, 3, 2, 8, 8, dtype=torch.uint8), p.draw(0, 0, [0]))


@pytest.mark.parametrize("chosen", [(0, 0, 0), (1, 1, 1), (0, 1, 0)])
def test_on_chosen_computes_only_what_is_chosen(chosen):
    seen = []
    chosen = torch.tensor(chosen, dtype=torch.bool)
    out = on_chosen(
        torch.arange(3.0).view(3, 1),
        chosen,
        lambda x, n: (seen.extend(x.flatten().tolist()), x * 0 + n[:, None])[1],
        torch.tensor([10.0, 11.0, 12.0]),
    )
    assert seen == [i for i in range(3) if chosen[i]]
    assert out.flatten().tolist() == [10.0 + i if chosen[i] else i for i in range(3)]


# --- colours one by one, as MAC was released. The oracle follows its description, pixel by pixel

APART = dict(p_jitter=0, blur=0, p_brightness=0.8, p_contrast=0.8, p_colour=0.8)


def slow_colours(clip, levels, factor, turn, saturation):
    "One clip [3,T,H,W] in float64: gray levels added, pixels scaled, then hue and saturation in HSV."
    import colorsys

    out = clip.double().numpy().copy()
    if levels is not None:
        out = np.clip(out + levels / 255, 0, 1)
    if factor is not None:
        out = np.clip(out * factor, 0, 1)
    if turn is not None:
        for t, y, x in np.ndindex(out.shape[1:]):
            h, s, v = colorsys.rgb_to_hsv(*out[:, t, y, x])
            out[:, t, y, x] = colorsys.hsv_to_rgb((h + turn) % 1, min(1, s * saturation), v)
    return out


def test_colours_one_by_one_equal_the_slow_oracle():
    x, p = clips(12, 2, 6, 7, seed=5), Photometric(**APART)
    drawn = p.draw(2, 1, range(12), "q")
    got = p.apply(x, drawn)
    for i, clip in enumerate(x):
        number = {name: values[i].item() for name, values in drawn.items()}
        want = slow_colours(
            clip,
            number["own_shift"] if number["own_brightness"] else None,
            number["own_factor"] if number["own_contrast"] else None,
            number["own_hue"] if number["own_colour"] else None,
            number["own_saturation"],
        )
        if number["gray"]:
            want = np.stack([0.2989 * want[0] + 0.587 * want[1] + 0.114 * want[2]] * 3)
        if number["flip"]:
            want = want[..., ::-1]
        np.testing.assert_allclose(got[i], want, atol=1e-5)
    for name in ("own_brightness", "own_contrast", "own_colour", "gray", "flip"):
        assert 0 < int(drawn[name].sum()) < 12, name  # this seed meets every branch


@pytest.mark.parametrize("turn,factor", [(12 / 180, 1.1), (-12 / 180, 0.9), (0.5, 3.0), (-0.3, 0.0)])
def test_hue_and_saturation_by_the_definition(turn, factor):
    x = clips(4, 1, 8, 9, seed=7)
    got = augment.hue_saturation(x, torch.full((4,), turn), torch.full((4,), factor))
    for clip, changed in zip(x, got):
        np.testing.assert_allclose(changed, slow_colours(clip, None, None, turn, factor), atol=1e-5)


def test_twelve_units_are_24_degrees_of_opencv():
    "OpenCV's hue of bytes has 180 units; orange stays away from both ends of the circle."
    import cv2

    bgr = np.full((1, 1, 3), (40, 130, 220), np.uint8)
    hsv = cv2.cvtColor(bgr, cv2.COLOR_BGR2HSV)
    hsv[..., 0] += 12
    want = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0]
    x = torch.tensor([220, 130, 40.0]).view(1, 3, 1, 1, 1) / 255
    turned = augment.hue_saturation(x, torch.tensor([Photometric().hue]), torch.ones(1))
    np.testing.assert_allclose(255 * turned.flatten(), want, atol=3)  # OpenCV rounds hue and saturation


def test_colours_apart_have_the_stated_distribution():
    n = 4000
    drawn = Photometric(**APART).draw(0, 0, range(n))
    for name in ("own_brightness", "own_contrast", "own_colour"):
        assert abs(drawn[name].float().mean() - 0.8) < 4 * (0.16 / n) ** 0.5
    ranges = dict(own_shift=(-32, 32), own_factor=(0.8, 1.2), own_hue=(-1 / 15, 1 / 15))
    for name, (low, high) in (ranges | dict(own_saturation=(0.9, 1.1))).items():
        v, slack = drawn[name], 0.02 * (high - low)
        assert low <= v.min() + 1e-6 and v.min() < low + slack
        assert v.max() <= high + 1e-6 and v.max() > high - slack
        assert abs(v.mean() - (low + high) / 2) < slack
    names = [name for name in drawn if name != "jitter" and name != "blur"]
    c = np.corrcoef(np.stack([drawn[k].numpy().astype(float) for k in names])) - np.eye(len(names))
    assert abs(c).max() < 0.08


def test_colours_apart_leave_the_other_draws_and_are_off_by_default():
    usual, more = (
        Photometric().draw(0, 1, range(40), "q"),
        Photometric(p_colour=0.3).draw(0, 1, range(40), "q"),
    )
    assert set(usual) < set(more) and all(torch.equal(more[name], usual[name]) for name in usual)
    assert not more["own_brightness"].any() and not more["own_contrast"].any() and more["own_colour"].any()
    assert not Photometric().one_by_one and Photometric(brightness=9, hue=0.2) != Photometric()
    quiet = Photometric(gray=0, p_jitter=0, blur=0, flip=0, brightness=100)
    x = clips(6)
    assert torch.equal(quiet.apply(x, quiet.draw(0, 0, range(6))), x)


def test_colours_apart_depend_on_the_sample_alone_and_not_on_time():
    p = Photometric(**APART)
    a, b = p.draw(1, 2, [5, 9, 11], "k"), p.draw(1, 2, torch.tensor([11, 4, 5]), "k")
    for name in a:
        assert a[name][0] == b[name][2] and a[name][2] == b[name][0]
    base = p.draw(1, 2, range(64), "k")["own_shift"]
    for other in ((2, 2, range(64), "k"), (1, 3, range(64), "k"), (1, 2, range(64), "q")):
        assert not torch.equal(base, p.draw(*other)["own_shift"])
    still = clips(8, 1).expand(-1, -1, 5, -1, -1)
    drawn = p.draw(0, 0, range(8))
    out = p.apply(still, drawn)
    torch.testing.assert_close(out, out[:, :, :1].expand_as(out), atol=0, rtol=0)
    assert out.min() >= 0 and out.max() <= 1 and not torch.equal(out, still)
    one = [p.apply(still[i : i + 1], {k: v[i : i + 1] for k, v in drawn.items()}) for i in range(8)]
    torch.testing.assert_close(out, torch.cat(one), atol=1e-6, rtol=0)


def test_colours_apart_under_compile_and_autocast(monkeypatch):
    p, x = Photometric(**APART), clips(4)
    drawn = p.draw(4, 0, range(4))
    want = p.apply(x, drawn)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(p.apply(x, drawn), want)
    fast = torch.compile(p.apply, backend="eager", fullgraph=True)
    torch.testing.assert_close(fast(x, drawn), want, atol=1e-6, rtol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_colours_apart_on_a_gpu():
    p, x = Photometric(**APART), clips(12)
    drawn = p.draw(4, 0, range(12))
    torch.testing.assert_close(p.apply(x.cuda(), drawn).cpu(), p.apply(x, drawn), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "bad", [dict(p_colour=1.1), dict(brightness=-1), dict(contrast=1.5), dict(saturation=2), dict(hue=0.6)]
)
def test_impossible_colours_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Photometric(**bad)


# --- gray clips


def test_one_channel_is_the_jitter_of_gray_clips():
    "Brightness and contrast of the luma, flipped where drawn, as torchvision does it on gray pictures."
    photometric = Photometric(gray=0.0, jitter=(0.4, 0.4, 0, 0), p_jitter=0.7, blur=0.0, one_channel=True)
    x = clips(8)
    drawn = photometric.draw(3, 1, list(range(8)), "q")
    out = photometric.apply(x, drawn)
    assert out.shape == (8, 1, *x.shape[2:])
    for i in range(8):
        want = framewise(TF.rgb_to_grayscale, x[i])
        if drawn["jitter"][i]:
            want = TF.adjust_brightness(want, float(drawn["brightness"][i]))
            mean = want.mean()
            want = (mean + (want - mean) * drawn["contrast"][i]).clamp(0, 1)
        want = want.flip(-1) if drawn["flip"][i] else want
        torch.testing.assert_close(out[i], want, atol=1e-5, rtol=0)


def test_gray_clips_stay_gray_whatever_the_options():
    x = augment.luma(clips(6))
    photometric = Photometric(gray=0.5, p_jitter=1.0, blur=0.5)
    out = photometric.apply(x, photometric.draw(0, 0, list(range(6))))
    assert out.shape == x.shape and not torch.equal(out, x)
    assert normalize(x).shape == x.shape
    white = normalize(torch.ones(1, 1, 2, 2, 2))
    assert torch.allclose(white, normalize(torch.ones(1, 3, 2, 2, 2)).mean(1, keepdim=True), atol=0.06)


def test_one_channel_has_no_colours_of_its_own():
    with pytest.raises(ValueError, match="no colours to change"):
        Photometric(one_channel=True, p_colour=0.2)


# --- RandAugment: each operation against torchvision or a slow form

OPS = {name: change for name, (change, *_) in augment.OPERATIONS.items()}


def levels(**kw):
    "Clips whose values are levels of 8 bits, so that torchvision's byte operations can be compared."
    return (clips(**kw) * 255).round() / 255


def as_bytes(x):
    return (x * 255).round().byte()


@pytest.mark.parametrize("name,number", [("autocontrast", TF.autocontrast), ("equalize", TF.equalize)])
def test_ranges_and_frequencies_are_those_of_the_whole_clip(name, number):
    "torchvision's function on all frames of a clip under each other, as one picture of bytes."
    x = levels()
    x[3] = 0.4 + 0.2 * x[3]  # a narrow range
    x[3, 1] = 0.2  # a channel of one level
    x = (x * 255).round() / 255
    want = torch.stack([tall(number, c) for c in as_bytes(x)])
    got = as_bytes(OPS[name](x, torch.zeros(4)))
    assert (got.int() - want.int()).abs().max() <= (1 if name == "autocontrast" else 0)  # TF cuts off
    assert (got != as_bytes(x)).any()


@pytest.mark.parametrize("factor", [0.37, 1.63])
def test_sharpness_equals_torchvision(factor):
    x = clips()
    want = torch.stack([framewise(lambda v: TF.adjust_sharpness(v, factor), c) for c in x])
    torch.testing.assert_close(augment.sharpness(x, torch.full((4,), factor)), want, atol=2e-6, rtol=0)
    thin = clips(height=2)
    assert torch.equal(augment.sharpness(thin, torch.full((4,), factor)), thin)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_posterize_equals_torchvision(bits):
    x = levels()
    want = torch.stack([framewise(lambda v: TF.posterize(v, bits), c) for c in as_bytes(x)])
    assert torch.equal(as_bytes(augment.posterize(x, torch.full((4,), float(bits)))), want)
    rounded_up = augment.posterize(x, torch.full((4,), bits - 0.3))
    assert torch.equal(as_bytes(rounded_up), want)


def test_posterize_keeps_one_bit_at_least():
    x = levels()
    assert set(as_bytes(augment.posterize(x, torch.zeros(4))).unique().tolist()) == {0, 128}


@pytest.mark.parametrize("threshold", [0.0, 0.3, 1.0])
def test_solarize_equals_torchvision(threshold):
    x = levels()
    want = torch.stack([framewise(lambda v: TF.solarize(v, threshold), c) for c in x])
    torch.testing.assert_close(augment.solarize(x, torch.full((4,), threshold)), want, atol=1e-6, rtol=0)


def test_solarize_add_and_invert_on_bytes():
    x = levels()
    b = as_bytes(x).numpy().astype(int)
    want = np.where(b < 128, np.minimum(b + 77, 255), b)
    got = augment.solarize_add(x, torch.full((4,), 77 / 255))
    assert (as_bytes(got).numpy() == want).all()
    assert (as_bytes(OPS["invert"](x, torch.zeros(4))).numpy() == 255 - b).all()


def sampled(frame, source):
    "A frame [C,H,W] in NumPy; pixel (i,j) is looked up at source(y, x) of its centre, between four pixels."
    c, h, w = frame.shape
    out = np.zeros_like(frame)
    for i in range(h):
        for j in range(w):
            y, x = source(i + 0.5, j + 0.5)
            y, x = y - 0.5, x - 0.5
            total = np.zeros(c)
            for a in (int(np.floor(y)), int(np.floor(y)) + 1):
                for b in (int(np.floor(x)), int(np.floor(x)) + 1):
                    weight = (1 - abs(y - a)) * (1 - abs(x - b))
                    inside = 0 <= a < h and 0 <= b < w
                    total += weight * (frame[:, a, b] if inside else augment.GRAY)
            out[:, i, j] = total
    return out


def turned(angle, h=11, w=14):
    "Where a pixel of a frame that is turned counter-clockwise comes from."
    a = np.deg2rad(angle)

    def source(y, x):
        dy, dx = y - h / 2, x - w / 2
        return h / 2 + np.sin(a) * dx + np.cos(a) * dy, w / 2 + np.cos(a) * dx - np.sin(a) * dy

    return source


@pytest.mark.parametrize(
    "name,amount,source",
    [
        ("rotate", 21.0, turned(21.0)),
        ("rotate", -8.0, turned(-8.0)),
        ("shear_x", 0.21, lambda y, x: (y, x + 0.21 * y)),
        ("shear_y", -0.3, lambda y, x: (y - 0.3 * x, x)),
        ("translate_x", 0.31, lambda y, x: (y, x + 0.31 * 14)),
        ("translate_y", -0.2, lambda y, x: (y - 0.2 * 11, x)),
    ],
)
def test_moves_equal_a_slow_look_up(name, amount, source):
    x = clips(3, 2, 11, 14)
    got = OPS[name](x, torch.full((3,), amount))
    for clip, moved in zip(x, got):
        for t in range(2):
            want = sampled(clip[:, t].double().numpy(), source)
            np.testing.assert_allclose(moved[:, t].numpy(), want, atol=3e-5)


def test_a_turn_is_counter_clockwise_as_torchvisions():
    x = torch.zeros(1, 3, 1, 15, 15)
    x[..., 3:12, 6:9] = 1
    want = TF.rotate(x[:, :, 0], 30, TF.InterpolationMode.BILINEAR)
    torch.testing.assert_close(
        augment.rotate(x, torch.tensor([30.0]))[0, :, 0, 2:-2, 2:-2],
        want[0, :, 2:-2, 2:-2],
        atol=1e-5,
        rtol=0,
    )


@pytest.mark.parametrize("name", augment.OPERATIONS)
@pytest.mark.parametrize("channels", [3, 1])
def test_an_operation_treats_every_frame_alike_and_stays_in_range(name, channels):
    "A clip of equal frames stays one; each clip has its own amount; a gray clip stays gray."
    change, start, largest, _ = augment.OPERATIONS[name]
    still = clips(frames=1)[:, :channels].expand(-1, -1, 4, -1, -1)
    amounts = start + largest * torch.tensor([0.1, 0.4, 0.7, 1.0])
    out = change(still, amounts)
    assert out.shape == still.shape and out.min() >= 0 and out.max() <= 1
    torch.testing.assert_close(out, out[:, :, :1].expand_as(out), atol=1e-6, rtol=0)
    for i in range(4):
        torch.testing.assert_close(out[i : i + 1], change(still[i : i + 1], amounts[i : i + 1]))


@pytest.mark.parametrize("name", [name for name, (_, _, up, _) in augment.OPERATIONS.items() if up])
def test_an_operation_grows_with_its_magnitude(name):
    "At magnitude 0 it changes nothing (posterize: keeps four bits; solarize: only white), at 10 a lot."
    change, start, largest, _ = augment.OPERATIONS[name]
    x = levels()
    nothing, little, much = (
        (change(x, torch.full((4,), start + largest * m)) - x).abs() for m in (0.0, 0.3, 1.0)
    )
    nothing[x == 1] = 0
    assert nothing.max() < (16 / 255 if name == "posterize" else 1e-5)
    assert 0 < little.mean() < much.mean()


def test_randaugment_is_a_function_of_seed_epoch_sample_and_stream():
    r = augment.RandAugment()
    together = r.draw(3, 1, torch.arange(20), "view/0")
    alone = r.draw(3, 1, [11], "view/0")
    assert all(torch.equal(together[k][11:12], alone[k]) for k in together)
    others = [(4, 1, "view/0"), (3, 2, "view/0"), (3, 1, "view/1")]
    drawn = [r.draw(seed, epoch, range(20), stream) for seed, epoch, stream in others]
    assert all((d["operation"] != together["operation"]).any() for d in drawn)
    x = clips(20, 2)
    whole = r.apply(x, together)
    torch.testing.assert_close(r.apply(x[11:12], alone), whole[11:12], atol=1e-6, rtol=0)


def test_randaugment_does_what_was_drawn_one_clip_at_a_time():
    r, x = augment.RandAugment(magnitude=8, count=3, p=0.8), clips(8)
    drawn = r.draw(0, 0, range(8))
    for i, got in enumerate(r.apply(x, drawn)):
        clip = x[i : i + 1]
        for number, amount in zip(drawn["operation"][i].tolist(), drawn["amount"][i]):
            if number >= 0:
                clip = list(OPS.values())[number](clip, amount[None])
        torch.testing.assert_close(got[None], clip, atol=1e-6, rtol=0)
    assert (drawn["operation"] >= 0).any()


def test_randaugment_draws_as_often_and_as_strongly_as_it_says():
    n = 4000
    drawn = augment.RandAugment(7, 4, 0.5, 0.5).draw(0, 0, range(n))
    counts = torch.bincount(drawn["operation"].flatten() + 1, minlength=16)
    assert abs(counts[0] / (4 * n) - 0.5) < 0.02  # not applied
    assert (counts[1:] / (2 * n) - 1 / 15).abs().max() < 0.01
    rotate = list(OPS).index("rotate")
    angles = drawn["amount"][drawn["operation"] == rotate]
    assert abs(angles.abs().mean() - 21) < 0.5 and abs(angles.abs().std() - 1.5) < 0.3
    assert abs((angles > 0).float().mean() - 0.5) < 0.07
    steady = augment.RandAugment(10, 4, 0, 1).draw(0, 0, range(200))
    assert set(steady["amount"][steady["operation"] == rotate].tolist()) == {30.0, -30.0}
    colour = steady["amount"][steady["operation"] == list(OPS).index("colour")]
    assert {round(value, 5) for value in colour.tolist()} == {0.1, 1.9}


def test_randaugment_in_place_of_nothing_and_in_autocast():
    x = clips(6)
    never = augment.RandAugment(p=0)
    assert never.apply(x, never.draw(0, 0, range(6))) is x
    r = augment.RandAugment()
    drawn = r.draw(0, 0, range(6))
    with torch.autocast("cpu", torch.bfloat16):
        out = r.apply(x, drawn)
    assert out.dtype == torch.float32 and torch.equal(out, r.apply(x, drawn))
    with pytest.raises(TypeError, match="to_float"):
        r.apply(as_bytes(x), drawn)


# --- erasing


def holes_of(erasing, n=400, size=(40, 40), **kw):
    return erasing.draw(kw.get("seed", 0), kw.get("epoch", 0), range(n), size, kw.get("stream", ""))


def test_erased_boxes_lie_in_the_frame_and_have_the_area_and_shape_asked_for():
    erasing = augment.Erasing(p=1.0)
    holes = holes_of(erasing)
    assert [row for row, *_ in holes] == list(range(400))
    for _, (top, left, height, width), _ in holes:
        assert 0 <= top and top + height <= 40 and 0 <= left and left + width <= 40
        edge = (height + width) / 2 + 0.25  # what rounding both sides can change
        assert 0.02 * 1600 - edge <= height * width <= 1600 / 3 + edge
        assert (width - 0.5) / (height + 0.5) <= 1 / 0.3 and (width + 0.5) / (height - 0.5) >= 0.3
    areas = [height * width / 1600 for _, (_, _, height, width), _ in holes]
    assert abs(np.mean(areas) - (0.02 + 1 / 3) / 2) < 0.015


def test_erasing_happens_as_often_as_it_says_and_by_sample():
    holes = holes_of(augment.Erasing(), n=4000)
    assert abs(len(holes) / 4000 - 0.25) < 0.02
    rows = [row for row, *_ in holes]
    alone = augment.Erasing().draw(0, 0, torch.tensor([rows[5]]), (40, 40))
    assert alone == [(0, *holes[5][1:])]
    for other in (dict(seed=1), dict(epoch=1), dict(stream="view/1")):
        assert holes_of(augment.Erasing(), n=4000, **other) != holes
    assert len({seed for *_, seed in holes}) == len(holes)


def test_erasing_fills_one_box_through_all_frames_with_normal_noise():
    x = torch.full((6, 3, 8, 40, 40), 7.0)
    erasing = augment.Erasing(p=0.7)
    holes = holes_of(erasing, n=6)
    out = erasing.apply(x, holes)
    assert 0 < len(holes) < 6 and (x == 7).all()
    changed = out != x
    assert torch.equal(changed, changed[:, :1, :1].expand_as(changed))  # every frame, every channel
    for row, (top, left, height, width), _ in holes:
        want = torch.zeros(40, 40, dtype=torch.bool)
        want[top : top + height, left : left + width] = True
        assert torch.equal(changed[row, 0, 0], want)
        noise = out[row][:, :, want]
        assert abs(noise.mean()) < 5 / noise.numel() ** 0.5 and abs(noise.std() - 1) < 0.1
        assert not torch.equal(noise[:, 0], noise[:, 1])
    assert changed.flatten(1).any(1).sum() == len(holes)


def test_noise_does_not_depend_on_the_order_of_calls():
    x = torch.zeros(6, 3, 4, 24, 24)
    erasing = augment.Erasing(p=1.0)
    torch.manual_seed(0)
    first = erasing.apply(x, holes_of(erasing, 6, (24, 24)))
    torch.rand(5)
    row, box, seed = erasing.draw(0, 0, [4], (24, 24))[0]
    assert torch.equal(erasing.apply(x[4:5], [(row, box, seed)]), first[4:5])
    assert not torch.equal(first[3], first[4])


# --- soft targets and mixing


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
def test_soft_targets_are_label_smoothing(smoothing):
    labels, logits = torch.tensor([0, 3, 1, 3]), torch.randn(4, 5)
    targets = augment.soft_targets(labels, 5, smoothing)
    torch.testing.assert_close(targets.sum(1), torch.ones(4))
    want = torch.nn.CrossEntropyLoss(label_smoothing=smoothing)(logits, labels)
    torch.testing.assert_close(torch.nn.functional.cross_entropy(logits, targets), want)
    assert targets.argmax(1).tolist() == labels.tolist()


@hyp(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 9), st.integers(3, 40), st.integers(3, 40))
def test_targets_of_cutmix_are_the_pixels_of_each_clip(step, batch, height, width):
    "Sample i is flat with value i + 1, so its pixels, and its partner's, can be counted in every frame."
    mix = augment.BatchMix(mixup=0, smoothing=0)
    x = torch.arange(1.0, batch + 1).view(-1, 1, 1, 1, 1).expand(-1, 3, 2, height, width)
    drawn = mix.draw(0, 0, step, (height, width))
    out, targets = mix.apply(x, torch.arange(batch), batch, drawn)
    torch.testing.assert_close(targets.sum(1), torch.ones(batch))
    for i in range(batch):
        for k in range(batch):
            counted = (out[i] == k + 1).float().mean((2, 3))
            torch.testing.assert_close(counted, targets[i, k].expand(3, 2), atol=1e-6, rtol=0)
    assert torch.equal(out[:, :, 0], out[:, :, 1])


@hyp(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 60), st.floats(0, 1))
def test_the_pasted_rectangle_is_what_is_left_of_a_wish_inside_the_frame(seed, height, width, share):
    from mvnb.clips import sample_rng

    top, left, h, w = augment.cutmix_box(height, width, share, sample_rng(seed, 0, 0))
    assert 0 <= top <= top + h <= height and 0 <= left <= left + w <= width
    wished_h, wished_w = (round(side * (1 - share) ** 0.5) for side in (height, width))
    y, x = (int(v) for v in sample_rng(seed, 0, 0).integers(0, (height, width)))
    rows = [i for i in range(height) if 0 <= i - (y - wished_h // 2) < wished_h]
    columns = [j for j in range(width) if 0 <= j - (x - wished_w // 2) < wished_w]
    assert (h, w) == (len(rows), len(columns))
    assert (top, left) == (rows[0] if rows else top, columns[0] if columns else left)


def test_mixup_blends_clips_and_targets_alike():
    mix, x, labels = augment.BatchMix(cutmix=0), clips(5), torch.tensor([0, 2, 1, 1, 3])
    share, box = mix.draw(0, 0, 0, x.shape[3:])
    out, targets = mix.apply(x, labels, 4, (share, box))
    assert box is None and 0 < share < 1
    for i in range(5):
        torch.testing.assert_close(out[i], share * x[i] + (1 - share) * x[4 - i], atol=1e-6, rtol=0)
        want = np.full(4, 0.1 / 4)
        want[labels[i]] += 0.9 * share
        want[labels[4 - i]] += 0.9 * (1 - share)
        np.testing.assert_allclose(targets[i], want, atol=1e-6)


def test_a_batch_is_mixed_by_seed_epoch_and_step():
    mix = augment.BatchMix()
    drawn = [mix.draw(0, 0, step, (32, 32)) for step in range(3000)]
    assert drawn[7] == mix.draw(0, 0, 7, (32, 32))
    assert len({mix.draw(*which, (32, 32)) for which in ((0, 0, 7), (1, 0, 7), (0, 1, 7), (0, 0, 8))}) == 4
    assert abs(np.mean([box is not None for _, box in drawn]) - 0.5) < 0.04
    mixup = np.array([share for share, box in drawn if box is None])
    assert abs(mixup.mean() - 0.5) < 0.03
    assert abs(mixup.var() - 1 / (4 * (2 * 0.8 + 1))) < 0.008  # of Beta(0.8, 0.8)
    for share, box in drawn:
        if box is not None:
            assert share == 1 - box[2] * box[3] / 32**2


@pytest.mark.parametrize("cutmix,box", [(0, False), (1.0, True)])
def test_one_way_of_mixing_alone(cutmix, box):
    mix = augment.BatchMix(mixup=0 if cutmix else 0.8, cutmix=cutmix)
    drawn = [mix.draw(0, 0, step, (32, 32)) for step in range(50)]
    assert all((found is not None) == box for _, found in drawn)


def test_nothing_to_mix_only_smooths():
    mix, x, labels = augment.BatchMix(0, 0, 0.2), clips(3), torch.tensor([0, 1, 1])
    out, targets = mix.apply(x, labels, 2, mix.draw(0, 0, 0, x.shape[3:]))
    assert out is x
    torch.testing.assert_close(targets, torch.tensor([[0.9, 0.1], [0.1, 0.9], [0.1, 0.9]]))


@pytest.mark.parametrize(
    "kind,bad,match",
    [
        (augment.RandAugment, dict(magnitude=11), "magnitude 11"),
        (augment.RandAugment, dict(std=-1), "std -1"),
        (augment.RandAugment, dict(count=0), "count 0"),
        (augment.RandAugment, dict(p=2), "p is"),
        (augment.Erasing, dict(p=-0.1), "p is"),
        (augment.Erasing, dict(area=(0.3, 0.1)), "area"),
        (augment.Erasing, dict(ratio=(0, 1)), "ratio"),
        (augment.BatchMix, dict(mixup=-1), "mixup -1"),
        (augment.BatchMix, dict(smoothing=1), "smoothing 1"),
        (augment.BatchMix, dict(p_cutmix=1.5), "p_cutmix 1.5"),
    ],
)
def test_impossible_regularisation_is_refused(kind, bad, match):
    with pytest.raises(ValueError, match=match):
        kind(**bad)
    with pytest.raises(ValueError, match="smoothing"):
        augment.soft_targets(torch.tensor([0]), 3, 1.0)
