"""MoCo, FAME and BE: what enters the encoders, what the loss is, what moves."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mvnb import masks, methods, recipes
from mvnb.augment import to_float
from mvnb.papers.fame.method import BE, FAME
from mvnb.methods.contrast import MoCo, encode_shuffled, encode_split, enqueue, momentum_update

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
    method, batch = MoCo(**TINY, temperature=0.2), make_batch()
    x_q, x_k = (
        methods.augmented(c, method.photometric, 5, batch, v) for c, v in zip(method.pair(batch), "qk")
    )
    method.train()
    with torch.no_grad():
        twin = copy.deepcopy(method)
        part = twin.contrast
        momentum_update(part.key_backbone, twin.backbone, part.momentum)
        momentum_update(part.key_head, part.head, part.momentum)
        total = 0.0
        for a, b in ((x_q, x_k), (x_k, x_q)):
            k = F.normalize(part.key_head(part.key_backbone(b)), dim=1).double()
            q = F.normalize(part.head(twin.backbone(a)), dim=1).double()
            for i in range(len(q)):
                positive, negatives = (
                    (q[i] @ k[i]).item() / 0.2,
                    (twin.contrast.queue.double() @ q[i] / 0.2).tolist(),
                )
                total += math.log(sum(math.exp(v) for v in [positive, *negatives])) - positive
        reference = total / (2 * len(x_q))
    assert method(batch)["loss"].item() == pytest.approx(reference, rel=1e-4)


def test_both_passes_enter_the_queue_and_evaluation_does_not():
    method = MoCo(**TINY)
    before = method.contrast.queue.clone()
    method.train()(make_batch(size=4))
    assert method.contrast.pointer.item() == 8
    assert (method.contrast.queue != before).any(1).tolist() == [True] * 8 + [False] * 12
    method.eval()(make_batch(size=4))
    assert method.contrast.pointer.item() == 8


def test_momentum_moves_once_per_step_however_many_batches():
    method = MoCo(**TINY, momentum=0.5)
    with torch.no_grad():
        for p in method.backbone.parameters():
            p.add_(1)
    method.contrast.start_step(0)
    once = [p.clone() for p in method.contrast.key_backbone.parameters()]
    for i in range(3):
        method(make_batch(seed=i))
    assert all(torch.equal(a, b) for a, b in zip(once, method.contrast.key_backbone.parameters()))


def test_keys_get_no_gradient():
    method = MoCo(**TINY)
    method(make_batch())["loss"].backward()
    assert all(
        p.grad is None
        for p in (*method.contrast.key_backbone.parameters(), *method.contrast.key_head.parameters())
    )
    assert all(p.grad is not None for p in method.contrast.head.parameters())


def test_beta_one_is_moco_bit_for_bit():
    outs = [
        methods.build(name, **TINY, **more)(make_batch())["loss"]
        for name, more in (("moco", {}), ("fame", {"beta": 1.0}))
    ]
    assert torch.equal(*outs)


@pytest.mark.parametrize("variant", ["fame", "seed", "grid", "gauss"])
def test_single_merges_the_query_only(variant):
    method, batch = FAME(**TINY, variant=variant, beta=0.4), make_batch(size=5)
    clip = to_float(batch["clip"])
    query, key = method.pair(batch)
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
    method, batch = FAME(**TINY, background="intra", beta=0.3), make_batch(views=3)
    assert method.views == 3
    clip = to_float(batch["clip"])
    query, key = method.pair(batch)
    mask = masks.fame_mask(clip[:, 0], 0.3)[:, None, None]
    assert torch.equal(query, torch.where(mask, clip[:, 0], clip[:, 2])) and torch.equal(key, clip[:, 1])
    with pytest.raises(ValueError, match="views=3"):
        method.pair(make_batch(views=2))


def test_draws_follow_seed_epoch_and_step_only():
    method, batch = FAME(**TINY), make_batch(size=6)
    first = method.pair(batch)[0]
    torch.manual_seed(99)
    np.random.seed(99)
    assert torch.equal(first, method.pair(batch)[0])
    assert not torch.equal(first, method.pair({**batch, "step": 1})[0])


def test_be_adds_one_frame_of_the_clip():
    method, batch = BE(**TINY, lambda_max=0.3), make_batch(size=6)
    clip = batch["clip"][:, 0].double() / 255
    mixed, key = method.pair(batch)
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
        ("fame", {"background": "x"}, "inter, intra"),
        ("fame", {"branch": "x"}, "single, both"),
        ("be", {"lambda_max": 2}, "lambda_max"),
        ("moco", {"temperature": 0}, "temperature"),
        ("moco", {"momentum": 2}, "momentum"),
        ("moco", {"dim": 0}, "dim=0"),
        ("moco", {"bets": 1}, "bets"),
    ],
)
def test_bad_options_are_refused(name, params, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        methods.build(name, **{**TINY, **params})


# ---------------------------------------------------------------- what others ask about a method


def test_names_owners_and_parameters():
    assert {"moco", "supervised", "fame", "be", "mac"} <= set(methods.names())
    owners = {name: methods.owner(name) for name in methods.names()}
    assert (owners["moco"], owners["supervised"], owners["fame"], owners["be"], owners["mac"]) == (
        None,
        None,
        "fame",
        "fame",
        "mac",
    )
    for name in methods.names():  # what may be set, can be set
        params = methods.parameters(name)
        assert not {"self", "backbone", "seed", "photometric"} & set(params)
        methods.build(name, backbone=recipes.TINY[methods.family(name)], **params)
    assert methods.parameters("fame")["queue"] == methods.parameters("moco")["queue"] == 2048


def test_what_a_run_needs_besides_videos_the_method_says():
    assert methods.inputs("moco", {}) == methods.inputs("mac", {}) == {}
    needed = methods.inputs("mac", {"source": "box", "reach": 2})
    assert set(needed) == {"boxes"} and callable(needed["boxes"].check)
    assert hash(needed["boxes"]) == hash(methods.inputs("mac", {"source": "box", "reach": 2})["boxes"])


def test_the_cost_of_a_step_is_counted_in_passes():
    "A query forwards and backwards is three passes, a key one; a guess alone needs no key."
    assert methods.passes("moco", {"symmetric": False}) == 4 and methods.passes("fame", {}) == 8
    assert methods.passes("supervised", {}) == 3 and methods.passes("mac", {"objective": "s"}) == 3


def test_two_papers_may_not_share_a_method(monkeypatch):
    from mvnb.papers.mac import method

    monkeypatch.setattr(method, "METHODS", {"fame": MoCo})
    with pytest.raises(ValueError, match="'fame' is in METHODS of two papers, fame and mac"):
        methods.names()
    monkeypatch.setattr(method, "METHODS", {"moco": MoCo})
    with pytest.raises(ValueError, match="'moco' of a paper"):
        methods.names()


# ---------------------------------------------------------------- split batch norm


@pytest.mark.parametrize("size, group", [(8, 4), (9, 4), (10, 4), (5, 8), (7, 2)])
def test_split_bn_keeps_groups_apart_and_the_order_of_clips(size, group):
    "Every clip comes back in its place, encoded with its group alone; no group is a single clip."
    seen = []

    def encode(clips):
        seen.append(clips.flatten().tolist())
        return torch.stack([clips[:, 0], clips[:, 0] * 0 + clips.sum()], 1)

    x = torch.arange(size, dtype=torch.float)[:, None] + 1
    keys = encode_split(encode, x, group, np.random.default_rng(3))
    assert torch.equal(keys[:, :1], x) and sorted(v for part in seen for v in part) == x.flatten().tolist()
    assert all(1 < len(part) <= group + 1 for part in seen)
    for part in seen:
        for value in part:
            assert keys[int(value) - 1, 1] == sum(part)


def test_split_bn_changes_keys_in_training_only():
    batch = make_batch(size=8)
    split, whole = MoCo(**TINY, split_bn=4), MoCo(**TINY)
    clip = split.pair(batch)[1]
    rng = lambda: np.random.default_rng(0)
    assert not torch.allclose(split.contrast.keys(clip, rng()), whole.contrast.keys(clip, rng()))
    split.eval(), whole.eval()
    split.load_state_dict(whole.state_dict())
    assert torch.equal(split.contrast.keys(clip, rng()), whole.contrast.keys(clip, rng()))


def test_a_copy_of_a_method_follows_its_own_encoder():
    "The key encoder's reference to the query encoder is copied along, and is no part of the state."
    method = MoCo(**TINY, momentum=0.0)
    twin = copy.deepcopy(method)
    assert twin.contrast.query is twin.backbone and twin.contrast.query is not method.backbone
    assert not [name for name in method.state_dict() if "query" in name]
    with torch.no_grad():
        for p in twin.backbone.parameters():
            p.add_(1)
    twin.contrast.start_step(0)
    for key, query in zip(twin.contrast.key_backbone.parameters(), twin.backbone.parameters()):
        assert torch.equal(key, query)
