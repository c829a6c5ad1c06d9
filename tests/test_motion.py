"Frame-difference motion against loops, and what it must hold for every clip."

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

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
