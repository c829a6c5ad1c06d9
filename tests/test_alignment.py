"""Motion alignment against loops over Eqs. 4 to 7 of MCL, finite differences, and what must not change it."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import nn

from mvnb import losses
from mvnb.losses import TERMS, alignment_map, motion_alignment, similarity_gradient, unit_maps


def random_maps(batch=3, channels=5, size=(4, 3, 3), scale=2, seed=0):
    "g, h [B,C,t,h,w] and a motion [B,T,H,W] of magnitudes, `scale` times as large along each axis."
    make = torch.Generator().manual_seed(seed)
    g, h = (torch.randn(batch, channels, *size, generator=make, dtype=torch.float64) for _ in range(2))
    motion = torch.rand(batch, *(scale * n for n in size), generator=make, dtype=torch.float64)
    return g, h, motion


def eq_4_to_6(g, h, version, per_frame):
    "The map of one sample, float64 [t,h,w], position by position."
    channels, *size = h.shape
    out = np.zeros(size)
    for t, y, x in np.ndindex(*size):
        for c in range(channels):
            w = g[c, t].mean() if per_frame else g[c].mean()
            out[t, y, x] += {1: h[c, t, y, x], 2: w * h[c, t, y, x], 3: w * g[c, t, y, x]}[version]
    return out if version == 1 else np.maximum(out, 0)


def blocks(motion, size):
    "Means over equal blocks."
    out = np.zeros(size)
    step = [a // b for a, b in zip(motion.shape, size)]
    for t, y, x in np.ndindex(*size):
        T, Y, X = t * step[0], y * step[1], x * step[2]
        out[t, y, x] = motion[T : T + step[0], Y : Y + step[1], X : X + step[2]].mean()
    return out


def eq_7(maps, target, terms):
    "The sum of the terms of one sample."
    total = 0.0
    for term in terms:
        axes = {"S": (0,), "T": (1, 2), "ST": ()}[term]
        a, b = maps.mean(axes) if axes else maps, target.mean(axes) if axes else target
        if not target.any():
            continue
        a = a / np.sqrt((a**2).sum()) if a.any() else a
        total += ((a - b / np.sqrt((b**2).sum())) ** 2).sum()
    return total


def by_loops(g, h, motion, version=3, terms=TERMS, per_frame=False):
    total = 0.0
    for one_g, one_h, one in zip(g.numpy(), h.numpy(), motion.numpy()):
        total += eq_7(eq_4_to_6(one_g, one_h, version, per_frame), blocks(one, one_h.shape[1:]), terms)
    return total / len(g)


SUBSETS = [terms for n in (1, 2, 3) for terms in itertools.combinations(TERMS, n)]


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("terms", SUBSETS)
@pytest.mark.parametrize("per_frame", [False, True])
def test_the_loss_is_that_of_the_equations(version, terms, per_frame):
    g, h, motion = random_maps()
    motion[1] = 0  # contributes nothing, and counts in the mean
    found = motion_alignment(g, h, motion, version, terms, per_frame=per_frame)
    assert found.item() == pytest.approx(by_loops(g, h, motion, version, terms, per_frame), rel=1e-9)


def test_parts_add_up():
    loss, parts = motion_alignment(*random_maps(), parts=True)
    assert list(parts) == list(TERMS)
    assert loss.item() == pytest.approx(sum(value.item() for value in parts.values()))


@pytest.mark.parametrize("per_frame", [False, True])
def test_the_released_distances(per_frame):
    "S and T by cosine; ST quarter by quarter, weighted by a softmax over the quarters' motion."
    g, h, motion = random_maps()
    totals = dict.fromkeys(TERMS, 0.0)
    for one_g, one_h, one in zip(g.numpy(), h.numpy(), motion.numpy()):
        maps, target = eq_4_to_6(one_g, one_h, 3, per_frame), blocks(one, one_h.shape[1:])
        cosine = lambda a, b: (a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum())
        totals["S"] += 1 - cosine(maps.mean(0), target.mean(0))
        totals["T"] += 1 - cosine(maps.sum((1, 2)), target.sum((1, 2)))
        weights = np.exp([quarter.sum() for quarter in target])
        each = np.array([cosine(a, b) for a, b in zip(maps, target)])
        totals["ST"] += 1 - (weights / weights.sum() * each).sum()
    _, parts = motion_alignment(g, h, motion, per_frame=per_frame, released=True, parts=True)
    for term in TERMS:
        assert parts[term].item() == pytest.approx(totals[term] / len(g), rel=1e-9)


@given(st.integers(-30, 30), st.integers(-30, 30), st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_neither_the_scale_of_gradients_nor_that_of_motion_counts(down, up, seed):
    "Over many powers of two, far below the guard of the norms."
    g, h, motion = (x.float() for x in random_maps(seed=seed))
    expected = motion_alignment(g, h, motion)
    torch.testing.assert_close(motion_alignment(g * 2.0**down, h, motion), expected)
    if up > -15:  # the guard is 1e-8
        torch.testing.assert_close(motion_alignment(g, h, motion * 2.0**up), expected)


def test_the_loss_lies_in_its_range():
    "Two unit vectors of no negative number are at most √2 apart."
    g, h, motion = random_maps(64)
    for version, most in ((1, 4), (2, 2), (3, 2)):
        _, parts = motion_alignment(g, h, motion, version, parts=True)
        assert all(0 <= value.item() <= most for value in parts.values())
    same = motion_alignment(motion[:, None], motion[:, None], motion)
    assert same.item() == pytest.approx(0, abs=1e-12)  # one channel, g = m: w > 0


def test_maps_of_variant_3_are_nowhere_all_zero():
    g, h, _ = random_maps(50)
    assert (alignment_map(g, h).flatten(1).amax(1) > 0).all()


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("released", [False, True])
def test_zeros_anywhere_leave_everything_finite(version, released):
    "No motion at all, no gradient at all, a map that the rectifier empties."
    g, h, motion = random_maps(4)
    motion[0] = 0
    g[1] = 0
    h[1] = 0
    h[2] = -g[2].mean((1, 2, 3), keepdim=True)  # Σ w h = -Σ w² everywhere
    g.requires_grad_()
    h.requires_grad_()
    loss = motion_alignment(g, h, motion, version, released=released)
    loss.backward()
    for x in (loss, g.grad, h.grad):
        assert x is None or x.isfinite().all()


def test_an_empty_sample_changes_nothing_but_the_mean():
    g, h, motion = random_maps(4)
    motion[3] = 0
    whole, three = motion_alignment(g, h, motion), motion_alignment(g[:3], h[:3], motion[:3])
    assert whole.item() == pytest.approx(three.item() * 3 / 4)


@pytest.mark.parametrize("size", [(1, 2, 2), (2, 3, 3), (3, 5, 5), (8, 7, 7)])
def test_motion_of_any_size_is_averaged_to_the_map(size):
    "Against torch's area interpolation, also where sizes do not divide, and where the map is finer."
    g = torch.rand(2, 1, *size, dtype=torch.float64)
    motion = torch.rand(2, 4, 6, 6, dtype=torch.float64)
    target = F.interpolate(motion[:, None], size, mode="area")[:, 0]
    expected = (unit_maps(g[:, 0]) - unit_maps(target)).square().flatten(1).sum(1).mean()
    assert motion_alignment(g, g, motion, terms=("ST",)).item() == pytest.approx(expected.item())


# ---------------------------------------------------------------- gradients


class Tail(nn.Module):
    "From the output of a last convolution to an embedding, as in the networks: norm, rectifier, mean, head."

    def __init__(self, channels=4, dim=3):
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.BatchNorm3d(channels)
        self.head = nn.Sequential(nn.Linear(channels, channels), nn.Softplus(), nn.Linear(channels, dim))
        self.double()

    def forward(self, h):
        return self.head(F.softplus(self.norm(h)).mean((2, 3, 4)))


def cosines(q, k):
    return (F.normalize(q, dim=1) * F.normalize(k, dim=1)).sum()


def test_the_gradient_is_the_similarity_s_by_finite_differences():
    "And L_MAL of it, by loops: nothing of the library on the other side."
    tail, make = Tail(), torch.Generator().manual_seed(1)
    h = torch.randn(2, 4, 2, 2, 2, generator=make, dtype=torch.float64)
    keys, motion = torch.randn(2, 3, generator=make, dtype=torch.float64), random_maps(2, 4, (2, 2, 2))[2]
    numeric, step = torch.zeros_like(h), 1e-5
    with torch.no_grad():
        for place in np.ndindex(*h.shape):
            for sign in (1, -1):
                moved = h.clone()
                moved[place] += sign * step
                numeric[place] += sign * cosines(tail(moved), keys) / (2 * step)
    h.requires_grad_()
    g = similarity_gradient(tail(h), keys, h)
    torch.testing.assert_close(g.detach(), numeric, rtol=1e-5, atol=1e-9)
    found = motion_alignment(g, h, motion)
    assert found.item() == pytest.approx(by_loops(numeric, h.detach(), motion), rel=1e-5)


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("released", [False, True])
def test_what_reaches_the_weights_is_the_loss_s_derivative(version, released):
    "The second differentiation, against finite differences of the whole loss in a weight of each layer."
    body, tail = nn.Conv3d(2, 4, 1).double(), Tail()
    make = torch.Generator().manual_seed(2)
    clip = torch.randn(3, 2, 2, 2, 2, generator=make, dtype=torch.float64)
    keys, motion = torch.randn(3, 3, generator=make, dtype=torch.float64), random_maps(3, 4, (2, 2, 2))[2]

    def loss():
        h = body(clip)
        g = similarity_gradient(tail(h), keys, h)
        return motion_alignment(g, h, motion, version, released=released)

    weights = [body.weight, tail.norm.weight, tail.head[0].weight, tail.head[2].weight]
    loss().backward()
    for weight in weights if version > 1 else weights[:1]:
        place = tuple(n // 2 for n in weight.shape)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                weight[place] += sign * 1e-6
            values.append(loss().item())
            with torch.no_grad():
                weight[place] -= sign * 1e-6
        numeric = (values[0] - values[1]) / 2e-6
        assert weight.grad[place].item() == pytest.approx(numeric, rel=1e-3, abs=1e-8)
        assert abs(numeric) > 1e-6


def test_keys_are_constants():
    tail, h = Tail(), torch.randn(2, 4, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    keys = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    similarity_gradient(tail(h), keys, h).square().sum().backward()
    assert keys.grad is None and all(p.grad is not None for p in tail.head[2].parameters() if p.ndim > 1)


def test_under_autocast_the_map_is_float32():
    body, tail = nn.Conv3d(2, 4, 3, padding=1), Tail().float()
    clip, keys, motion = torch.randn(4, 2, 2, 4, 4), torch.randn(4, 3), torch.rand(4, 2, 4, 4)

    def loss():
        h = body(clip)
        g = similarity_gradient(tail(h), keys, h)
        return g, motion_alignment(g, h, motion)

    _, full = loss()
    with torch.autocast("cpu", torch.bfloat16):
        g, half = loss()
    assert g.dtype == torch.bfloat16 and half.dtype == torch.float32
    assert half.item() == pytest.approx(full.item(), abs=0.05)
    half.backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in body.parameters() if p.ndim > 1)


@pytest.mark.parametrize(
    "change, sentence",
    [
        (dict(version=4), "version is 4: motion alignment has 1, 2 and 3"),
        (dict(terms=()), "one or more of S, T, ST"),
        (dict(terms=("S", "S")), "each once"),
        (dict(terms=("X",)), "one or more of S, T, ST"),
        (dict(motion=torch.rand(2, 8, 6, 6)), r"motion is \[B,T,H,W\]"),
        (dict(motion=torch.rand(3, 6, 6)), r"motion is \[B,T,H,W\]"),
        (dict(gradient=None), "None"),
        (dict(gradient=torch.rand(3, 4, 4, 3, 3)), r"got \[3, 4, 4, 3, 3\]"),
    ],
)
def test_what_does_not_fit_is_refused(change, sentence):
    g, h, motion = random_maps()
    given = dict(gradient=g, features=h, motion=motion) | change
    with pytest.raises(ValueError, match=sentence):
        motion_alignment(**given)


def test_variant_1_needs_no_gradient():
    _, h, motion = random_maps()
    assert math.isfinite(motion_alignment(None, h, motion, version=1).item())
    assert set(losses.TERMS) == {"S", "T", "ST"}
