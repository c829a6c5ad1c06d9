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
