"""InfoNCE against its formula written out in loops."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from mvnb import losses


def slow_info_nce(q, k, queue, temperature):
    "FAME's Eq. 1, one exponential at a time, in double precision."
    total = 0.0
    for i in range(len(q)):

        def similarity(key):
            return float(np.dot(q[i], key) / (np.linalg.norm(q[i]) * np.linalg.norm(key)))

        positive = math.exp(similarity(k[i]) / temperature)
        negatives = sum(math.exp(similarity(n) / temperature) for n in queue)
        total -= math.log(positive / (positive + negatives))
    return total / len(q)


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 6),
    dim=st.integers(1, 9),
    size=st.integers(1, 12),
    temperature=st.floats(0.05, 2),
    seed=st.integers(0, 2**31),
)
def test_against_the_formula(batch, dim, size, temperature, seed):
    rng = np.random.default_rng(seed)
    q, k, queue = rng.normal(size=(batch, dim)), rng.normal(size=(batch, dim)), rng.normal(size=(size, dim))
    queue /= np.linalg.norm(queue, axis=1, keepdims=True)
    got = losses.info_nce(*(torch.from_numpy(x).float() for x in (q, k, queue)), temperature).item()
    assert got == pytest.approx(slow_info_nce(q, k, queue, temperature), rel=1e-4, abs=1e-5)


def test_positive_is_at_index_zero():
    q, queue = torch.eye(3), -torch.eye(3)
    logits = losses.contrast_logits(q, q, queue, 0.5)
    assert torch.equal(logits[:, 0], torch.full((3,), 2.0))
    assert torch.equal(logits[:, 1:], -2 * torch.eye(3))


def test_length_of_queries_and_keys_does_not_matter():
    q, k, queue = (
        torch.randn(4, 8),
        torch.randn(4, 8),
        torch.nn.functional.normalize(torch.randn(16, 8), dim=1),
    )
    torch.testing.assert_close(losses.info_nce(7 * q, 0.1 * k, queue), losses.info_nce(q, k, queue))


def test_nothing_learnt_is_log_k_plus_one():
    same = torch.ones(5, 4)
    assert losses.info_nce(same, same, torch.full((30, 4), 0.5)).item() == pytest.approx(
        math.log(31), rel=1e-6
    )


def test_gradient_pulls_to_the_key_and_pushes_from_the_nearest_negative():
    q = torch.tensor([[1.0, 0.0, 0.0]], requires_grad=True)
    k, queue = torch.tensor([[0.6, 0.8, 0.0]]), torch.tensor([[0.8, 0.0, 0.6], [-1.0, 0.0, 0.0]])
    losses.info_nce(q, k, queue, 0.1).backward()
    assert q.grad[0, 1] < 0 < q.grad[0, 2]  # a descent step moves towards k and away from the near negative


def test_low_temperatures_stay_finite():
    q = torch.nn.functional.normalize(torch.randn(4, 8), dim=1)
    loss = losses.info_nce(q, -q, q, 1e-3)
    assert torch.isfinite(loss) and loss > 1000


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(dtype):
    q, k, queue = (
        torch.randn(4, 8),
        torch.randn(4, 8),
        torch.nn.functional.normalize(torch.randn(16, 8), dim=1),
    )
    with torch.autocast("cpu", dtype=dtype):
        inside = losses.info_nce(q, k, queue)
    assert inside.dtype == torch.float32 and torch.equal(inside, losses.info_nce(q, k, queue))
    half = losses.info_nce(q.to(dtype), k.to(dtype), queue)
    assert half.dtype == torch.float32


@pytest.mark.parametrize(
    "q, k, queue, temperature, sentence",
    [
        ((4, 8), (3, 8), (16, 8), 0.1, "q and k"),
        ((4, 8), (4, 8), (8, 16), 0.1, "queue"),
        ((4, 8, 1), (4, 8, 1), (16, 8), 0.1, "q and k"),
        ((4, 8), (4, 8), (16, 8), 0.0, "temperature"),
    ],
)
def test_what_does_not_fit_is_refused(q, k, queue, temperature, sentence):
    with pytest.raises(ValueError, match=sentence):
        losses.info_nce(torch.ones(q), torch.ones(k), torch.ones(queue), temperature)
