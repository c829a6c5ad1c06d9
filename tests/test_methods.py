"""MoCo, FAME and BE: what enters the encoders, what the loss is, what moves."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mvnb import masks, methods
from mvnb.augment import to_float
from mvnb.methods.fame import BE, FAME
from mvnb.methods.moco import MoCo, encode_shuffled, enqueue, momentum_update

TINY = dict(backbone="r2plus1d_tiny", queue=20, seed=5)


def make_batch(size=4, views=2, frames=4, side=32, epoch=0, step=0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    clip = torch.randint(0, 256, (size, views, 3, frames, side, side), dtype=torch.uint8, generator=generator)
    return {
        "clip": clip,
        "index": torch.arange(size),
        "label": torch.zeros(size, dtype=torch.long),
        "ok": torch.ones(size, dtype=torch.bool),
        "epoch": epoch,
        "step": step,
    }


@pytest.fixture(autouse=True)
def _one_start():
    torch.manual_seed(0)


@pytest.mark.parametrize("size, count, rounds", [(10, 4, 7), (8, 8, 3), (7, 3, 5), (5, 12, 2)])
def test_queue_is_a_ring(size, count, rounds):
    "Against a list that drops its oldest entries, for batches that do and do not divide the queue."
    queue, pointer = torch.zeros(size, 1), torch.zeros((), dtype=torch.long)
    seen = []
    for i in range(rounds):
        keys = torch.arange(i * count, (i + 1) * count, dtype=torch.float)[:, None] + 1
        enqueue(queue, pointer, keys)
        seen += keys[:, 0].tolist()
    newest = seen[-size:]
    assert sorted(v for v in queue[:, 0].tolist() if v) == newest
    assert queue[(pointer.item() - 1) % size].item() == seen[-1]
    assert pointer.item() == len(seen) % size


def test_momentum_update_by_hand():
    fast, slow = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    expected = [0.9 * s.detach() + 0.1 * f.detach() for s, f in zip(slow.parameters(), fast.parameters())]
    momentum_update(slow, fast, 0.9)
    for got, want in zip(slow.parameters(), expected):
        torch.testing.assert_close(got.data, want)


def test_loss_is_the_symmetric_infonce_written_out():
    "Both passes read the queue as it was before the batch; the mean of the two cross entropies is the loss."
    task, batch = MoCo(**TINY, temperature=0.2), make_batch()
    x_q, x_k = task.views_of(batch)
    task.train()
    with torch.no_grad():
        twin = copy.deepcopy(task)
        momentum_update(twin.key_backbone, twin.backbone, twin.momentum)
        momentum_update(twin.key_head, twin.head, twin.momentum)
        total = 0.0
        for a, b in ((x_q, x_k), (x_k, x_q)):
            k = F.normalize(twin.key_head(twin.key_backbone(b)), dim=1).double()
            q = F.normalize(twin.head(twin.backbone(a)), dim=1).double()
            for i in range(len(q)):
                positive, negatives = (q[i] @ k[i]).item() / 0.2, (task.queue.double() @ q[i] / 0.2).tolist()
                total += math.log(sum(math.exp(v) for v in [positive, *negatives])) - positive
        reference = total / (2 * len(x_q))
    assert task(batch)["loss"].item() == pytest.approx(reference, rel=1e-4)


def test_both_passes_enter_the_queue_and_evaluation_does_not():
    task = MoCo(**TINY)
    before = task.queue.clone()
    task.train()(make_batch(size=4))
    assert task.pointer.item() == 8
    assert (task.queue != before).any(1).tolist() == [True] * 8 + [False] * 12
    task.eval()(make_batch(size=4))
    assert task.pointer.item() == 8


def test_momentum_moves_once_per_step_however_many_batches():
    task = MoCo(**TINY, momentum=0.5)
    with torch.no_grad():
        for p in task.backbone.parameters():
            p.add_(1)
    task.start_step(0)
    once = [p.clone() for p in task.key_backbone.parameters()]
    for i in range(3):
        task(make_batch(seed=i))
    assert all(torch.equal(a, b) for a, b in zip(once, task.key_backbone.parameters()))


def test_keys_get_no_gradient():
    task = MoCo(**TINY)
    task(make_batch())["loss"].backward()
    assert all(p.grad is None for p in (*task.key_backbone.parameters(), *task.key_head.parameters()))
    assert all(p.grad is not None for p in task.head.parameters())


def test_beta_one_is_moco_bit_for_bit():
    outs = [
        methods.build(name, **TINY, **more)(make_batch())["loss"]
        for name, more in (("moco", {}), ("fame", {"beta": 1.0}))
    ]
    assert torch.equal(*outs)


@pytest.mark.parametrize("variant", ["fame", "seed", "grid", "gauss"])
def test_single_merges_the_query_only(variant):
    task, batch = FAME(**TINY, variant=variant, beta=0.4), make_batch(size=5)
    clip = to_float(batch["clip"])
    query, key = task.pair(batch)
    assert torch.equal(key, clip[:, 1])
    mask = masks.foreground(clip[:, 0], variant, 0.4)
    order = []
    for b in range(5):
        inside = mask[b].expand(3, 4, -1, -1)
        assert torch.equal(query[b][inside], clip[b, 0][inside])
        sources = [j for j in range(5) if torch.equal(query[b][~inside], clip[j, 0][~inside])]
        assert len(sources) == 1
        order += sources
    assert sorted(order) == list(range(5))


def test_both_merges_the_key_as_well():
    batch = make_batch(size=6)
    clip = to_float(batch["clip"])
    query, key = FAME(**TINY, branch="both").pair(batch)
    assert not torch.equal(query, clip[:, 0]) and not torch.equal(key, clip[:, 1])


def test_intra_takes_the_third_clip():
    task, batch = FAME(**TINY, source="intra", beta=0.3), make_batch(views=3)
    assert task.views == 3
    clip = to_float(batch["clip"])
    query, key = task.pair(batch)
    mask = masks.fame_mask(clip[:, 0], 0.3)[:, None, None]
    assert torch.equal(query, torch.where(mask, clip[:, 0], clip[:, 2])) and torch.equal(key, clip[:, 1])
    with pytest.raises(ValueError, match="views=3"):
        task.pair(make_batch(views=2))


def test_draws_follow_seed_epoch_and_step_only():
    task, batch = FAME(**TINY), make_batch(size=6)
    first = task.pair(batch)[0]
    torch.manual_seed(99)
    np.random.seed(99)
    assert torch.equal(first, task.pair(batch)[0])
    assert not torch.equal(first, task.pair({**batch, "step": 1})[0])


def test_be_adds_one_frame_of_the_clip():
    task, batch = BE(**TINY, lambda_max=0.3), make_batch(size=6)
    clip = batch["clip"][:, 0].double() / 255
    mixed, key = task.pair(batch)
    assert torch.equal(key, to_float(batch["clip"])[:, 1])
    for b in range(6):
        errors = []
        for r in range(clip.shape[2]):  # least squares for lambda, given the still frame
            step = clip[b, :, r : r + 1] - clip[b]
            weight = ((mixed[b].double() - clip[b]) * step).sum() / step.square().sum()
            errors.append(((clip[b] + weight * step - mixed[b]).abs().max().item(), weight.item()))
        error, weight = min(errors)
        assert error < 1e-5 and -1e-6 <= weight <= 0.3 + 1e-6


def test_shuffling_is_invisible_with_one_process():
    x = torch.randn(5, 3)
    assert torch.equal(encode_shuffled(lambda y: 2 * y, x, np.random.default_rng(0)), 2 * x)


def test_bf16_autocast_gives_a_finite_float32_loss():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = FAME(**TINY)(make_batch())["loss"]
    assert loss.dtype == torch.float32 and torch.isfinite(loss)


@pytest.mark.parametrize(
    "name, params, sentence",
    [
        ("fme", {}, "did you mean 'fame'"),
        ("fame", {"beta": 0.0}, "beta|share"),
        ("fame", {"beta": 1.5}, "beta|share"),
        ("fame", {"variant": "box"}, "variant 'box'"),
        ("fame", {"source": "x"}, "inter, intra"),
        ("fame", {"branch": "x"}, "single, both"),
        ("be", {"lambda_max": 2}, "lambda_max"),
        ("moco", {"temperature": 0}, "temperature"),
        ("moco", {"momentum": 2}, "momentum"),
        ("moco", {"bets": 1}, "bets"),
    ],
)
def test_bad_options_are_refused(name, params, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        methods.build(name, **{**TINY, **params})
