"Frame-difference motion against loops, and what it must hold for every clip."

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mvnb import flow as flows
from mvnb import motion

sizes = st.tuples(
    *[st.integers(1, n) for n in (3, 3)], st.integers(2, 6), st.integers(1, 9), st.integers(1, 9)
)
quick = settings(max_examples=30, deadline=None)


def clip_of(size, seed=0):
    return torch.rand(size, generator=torch.Generator().manual_seed(seed))


def slow_difference(clip):
    "Sum over channels of |X(t+1) - X(t)|, pixel by pixel; the last map twice."
    x = clip.double().numpy()
    out = np.zeros((x.shape[0], x.shape[2], *x.shape[3:]))
    for b, t, i, j in np.ndindex(out.shape):
        u = min(t, x.shape[2] - 2)
        out[b, t, i, j] = sum(abs(x[b, c, u + 1, i, j] - x[b, c, u, i, j]) for c in range(x.shape[1]))
    return out


@quick
@given(sizes, st.integers(0, 999))
def test_matches_loops(size, seed):
    clip = clip_of(size, seed)
    slow = slow_difference(clip)
    np.testing.assert_allclose(motion.frame_difference(clip), slow, atol=1e-6)
    difference, mean = motion.summarize(clip)
    np.testing.assert_allclose(difference, slow[:, :-1].mean(1), atol=1e-6)
    np.testing.assert_allclose(mean, clip.double().mean(2), atol=1e-6)


def test_groups_change_nothing(monkeypatch):
    "A clip's summary is the same to the last bit alone, in a batch, and in a batch that is taken in groups."
    clip = clip_of((5, 3, 6, 20, 24))
    whole = motion.summarize(clip)
    monkeypatch.setattr(motion, "CACHED", 2 * 3 * 20 * 24)
    for ours in (
        motion.summarize(clip),
        [torch.cat(part) for part in zip(*(motion.summarize(c[None]) for c in clip))],
    ):
        assert all(torch.equal(a, b) for a, b in zip(whole, ours))


@quick
@given(sizes, st.sampled_from([-1, -2]))
def test_flips_with_the_picture(size, axis):
    clip = clip_of(size)
    assert torch.equal(motion.frame_difference(clip.flip(axis)), motion.frame_difference(clip).flip(axis))
    assert torch.equal(motion.summarize(clip.flip(axis))[0], motion.summarize(clip)[0].flip(axis))


def test_input_is_left_alone():
    for clip in (clip_of((2, 3, 4, 8, 8)), (clip_of((2, 3, 4, 8, 8)) * 255).byte()):
        before = clip.clone()
        motion.summarize(clip), motion.frame_difference(clip)
        assert torch.equal(clip, before)


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16, torch.float16])
def test_other_floats_are_computed_in_float32(kind):
    clip = clip_of((2, 3, 5, 12, 12)).to(kind)
    for ours, theirs in zip(motion.summarize(clip), motion.summarize(clip.float())):
        assert torch.equal(ours, theirs)
    assert motion.frame_difference(clip).dtype == torch.float32
    assert torch.equal(motion.frame_difference(clip), motion.frame_difference(clip.float()))


def test_bytes_are_divided_by_255():
    clip = (clip_of((2, 3, 5, 12, 12)) * 255).byte()
    for ours, theirs in zip(motion.summarize(clip), motion.summarize(clip.float() / 255)):
        assert torch.equal(ours, theirs)
    np.testing.assert_allclose(motion.frame_difference(clip) * 255, slow_difference(clip.int()), atol=1e-3)


@pytest.mark.parametrize("function", [motion.frame_difference, motion.summarize])
def test_refuses(function):
    with pytest.raises(ValueError, match="at least 2 frames"):
        function(torch.rand(1, 3, 1, 8, 8))
    with pytest.raises(ValueError, match=r"\[B,C,T,H,W\]"):
        function(torch.rand(3, 4, 8, 8))
    for kind in (torch.int8, torch.int16, torch.int64, torch.bool):
        with pytest.raises(ValueError, match=rf"floats in \[0, 1\] or uint8, got {kind}"):
            function(torch.ones(1, 3, 3, 8, 8, dtype=kind))


def test_on_a_real_clip(shared_data):
    from mvnb import video

    clip = video.read_clip(
        next((shared_data / "mini" / "HorseRace").glob("*.avi")), range(0, 16, 2), size=(24, 32)
    ).rgb[None]
    np.testing.assert_allclose(motion.frame_difference(clip), slow_difference(clip.float() / 255), atol=1e-5)
    assert motion.frame_difference(clip).max() > 0.05


# --- motion boundaries


def flow_of(size, seed=0):
    return 4 * torch.randn(size, generator=torch.Generator().manual_seed(seed))


def slow_boundary(flow):
    "Prewitt's derivatives of [N,2,H,W] pixel by pixel: mean over three lines of half the difference."
    n, _, height, width = flow.shape
    out = np.zeros((n, 4, height, width))
    inside = lambda y, x: (min(max(y, 0), height - 1), min(max(x, 0), width - 1))
    at = lambda k, c, y, x: float(flow[k, c][inside(y, x)])
    for k, c, y, x in np.ndindex(n, 2, height, width):
        out[k, 2 * c, y, x] = sum(at(k, c, y + d, x + 1) - at(k, c, y + d, x - 1) for d in (-1, 0, 1)) / 6
        out[k, 2 * c + 1, y, x] = sum(at(k, c, y + 1, x + d) - at(k, c, y - 1, x + d) for d in (-1, 0, 1)) / 6
    return out


flow_sizes = st.tuples(st.integers(1, 2), st.just(2), st.integers(1, 7), st.integers(1, 7))


@quick
@given(flow_sizes, st.integers(0, 999))
def test_boundaries_match_loops_and_scipy(size, seed):
    from scipy import ndimage

    flow = flow_of(size, seed)
    found = motion.boundary(flow)
    np.testing.assert_allclose(found, slow_boundary(flow), atol=1e-5)
    for n, c in np.ndindex(size[0], 2):
        for k, axis in enumerate((1, 0)):
            theirs = ndimage.prewitt(flow[n, c].double().numpy(), axis, mode="nearest") / 6
            np.testing.assert_allclose(found[n, 2 * c + k], theirs, atol=1e-5)


@quick
@given(st.integers(0, 999), st.integers(0, 4))
def test_maps_are_the_length_of_the_boundaries_inside_the_border(seed, border):
    flow = flow_of((3, 2, 9, 11), seed)
    slow = np.sqrt((slow_boundary(flow) ** 2).sum(1))
    kept = np.zeros_like(slow)
    kept[:, border : 9 - border, border : 11 - border] = slow[:, border : 9 - border, border : 11 - border]
    np.testing.assert_allclose(motion.motion_map(flow, border), kept, atol=1e-5)
    batch = torch.stack([flow, 2 * flow])
    assert torch.equal(motion.motion_map(batch, border)[0], motion.motion_map(flow, border))


@pytest.mark.parametrize("frames,parts", [(8, 4), (6, 3), (4, 1)])
def test_summed_order_adds_signed_derivatives_first(frames, parts):
    "Loops over quarters: u's length and v's length of the summed derivatives, added."
    flow = flow_of((frames, 2, 8, 9))
    single = slow_boundary(flow)
    each = frames // parts
    slow = np.zeros((parts, 8, 9))
    for part in range(parts):
        u_x, u_y, v_x, v_y = single[part * each : (part + 1) * each].sum(0)
        slow[part] = np.sqrt(u_x**2 + u_y**2) + np.sqrt(v_x**2 + v_y**2)
    found = motion.motion_map(flow, 0, "summed", parts)
    np.testing.assert_allclose(found, slow, atol=1e-5)
    batch = motion.motion_map(torch.stack([flow, -flow]), 0, "summed", parts)
    assert torch.equal(batch[0], found) and torch.equal(batch[1], found)


@quick
@given(st.integers(0, 999), st.floats(-9, 9), st.floats(-9, 9))
def test_a_pan_leaves_the_map_unchanged(seed, dx, dy):
    flow = flow_of((2, 2, 20, 24), seed)
    panned = flow + torch.tensor([dx, dy])[:, None, None]
    torch.testing.assert_close(motion.motion_map(panned), motion.motion_map(flow), atol=1e-4, rtol=1e-4)


@quick
@given(st.integers(0, 999), st.floats(0.1, 8))
def test_maps_flip_and_scale_with_the_flow(seed, factor):
    flow = flow_of((2, 2, 20, 24), seed)
    found = motion.motion_map(flow, 3)
    mirrored = flow.flip(-1) * torch.tensor([-1.0, 1.0])[:, None, None]
    torch.testing.assert_close(motion.motion_map(mirrored, 3), found.flip(-1))
    torch.testing.assert_close(motion.motion_map(factor * flow, 3), factor * found)
    turned = flow.transpose(-1, -2).flip(-3)
    torch.testing.assert_close(motion.motion_map(turned, 3), found.transpose(-1, -2))


def test_a_derivative_does_not_change_when_the_film_is_enlarged():
    "A flow that grows by 0.1 per pixel, at twice the size: twice the vectors, the same derivative."
    ramp = 0.1 * torch.arange(40.0).expand(30, 40)
    flow = torch.stack([ramp, ramp])[None]
    larger = 2 * torch.nn.functional.interpolate(flow, scale_factor=2, mode="bilinear")
    for field in (flow, larger):
        torch.testing.assert_close(motion.motion_map(field)[0, 15, 15], torch.tensor(0.1 * 2**0.5))


def test_motion_is_pooled_by_loops():
    st_motion = clip_of((2, 1, 5, 6, 7))[:, 0]
    x = st_motion.double().numpy()
    s, t = motion.pool(st_motion, "S"), motion.pool(st_motion, "T")
    assert s.shape == (2, 6, 7) and t.shape == (2, 5)
    for b, i, j in np.ndindex(2, 6, 7):
        np.testing.assert_allclose(s[b, i, j], sum(x[b, k, i, j] for k in range(5)) / 5, rtol=1e-5)
    for b, k in np.ndindex(2, 5):
        total = sum(x[b, k, i, j] for i in range(6) for j in range(7))
        np.testing.assert_allclose(t[b, k], total / 42, rtol=1e-5)
    assert torch.equal(motion.pool(st_motion[0], "S"), s[0])


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16, torch.float16])
def test_boundaries_are_computed_in_float32(kind):
    flow = flow_of((2, 2, 9, 9)).to(kind)
    assert torch.equal(motion.motion_map(flow, 1), motion.motion_map(flow.float(), 1))
    with torch.autocast("cpu", torch.bfloat16):
        inside = motion.motion_map(flow, 1)
    assert inside.dtype == torch.float32 and torch.equal(inside, motion.motion_map(flow, 1))


def test_tvl1_of_clips_is_that_of_the_room_of_flow():
    clips = (255 * clip_of((2, 3, 3, 32, 40))).byte()
    found = motion.tvl1(clips, warps=2)
    assert found.shape == (2, 2, 2, 32, 40)
    assert torch.equal(found[1], flows.flow(clips[1], "tvl1", warps=2))
    with pytest.raises(ValueError, match="at least 2 frames"):
        motion.tvl1(clips[:, :, :1])


@pytest.mark.parametrize(
    "call,match",
    [
        (lambda: motion.boundary(torch.zeros(2, 3, 8, 8)), r"\[...,2,H,W\]"),
        (lambda: motion.boundary(torch.zeros(2, 8, 8).int()), "float tensor"),
        (lambda: motion.motion_map(torch.zeros(4, 2, 8, 8), -1), "border -1"),
        (lambda: motion.motion_map(torch.zeros(4, 2, 8, 8), order="sum"), "per-frame or summed"),
        (lambda: motion.motion_map(torch.zeros(6, 2, 8, 8), order="summed"), "T=6 frames"),
        (lambda: motion.motion_map(torch.zeros(2, 8, 8), order="summed"), "T=0 frames"),
        (lambda: motion.pool(torch.zeros(2, 8, 8), "ST"), "kind 'ST'"),
        (lambda: motion.pool(torch.zeros(8, 8), "S"), r"\[...,T,H,W\]"),
    ],
)
def test_motion_maps_refuse(call, match):
    with pytest.raises(ValueError, match=match):
        call()
